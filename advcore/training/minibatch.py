"""Minibatch rules in a run: what takes their steps, which runs they cannot serve, and what they cost."""

from torch import nn

from advcore.adversary import plan_attack
from advcore.attacks.base import Attack
from advcore.data.checks import explain_single_image
from advcore.data.contract import Source
from advcore.errors import ConfigError, SettingProblem, must
from advcore.gradients.last_layer import locate_head
from advcore.minibatch.base import AttackSubset, UpdateSubset, count
from advcore.objectives.base import Objective, is_attacked
from advcore.training.loop_settings import LoopSettings
from advcore.training.step import PlainStepper
from advcore.training.steppers import AttackSubsetStepper, UpdateSubsetStepper
from advcore.work import Work

Rule = AttackSubset | UpdateSubset

# The passes of an update with one image.
_PAIR = Work(forward=1, to_weights=1)


def build_stepper(
    rule: Rule | None,
    model: nn.Module,
    source: Source,
    *,
    attack: Attack | None,
    batch_size: int,
    seed: int = 0,
    head: str | None = None,
) -> PlainStepper:
    """Build the stepper that trains under a minibatch rule; without a rule, the one that trains on whole batches.

    batch_size, seed, attack : of the run, for a rule that queues images or probes radii.
    head : dotted name of the last linear layer, for a rule that reads features; None looks for it.

    Raises ConfigError where such a rule finds no head (`find_head`, one forward pass of two images).
    """
    if rule is None:
        return PlainStepper()
    if isinstance(rule, UpdateSubset):
        return UpdateSubsetStepper(rule, source, batch_size=batch_size, seed=seed, attack=attack)
    layer = locate_head(model, source, head) if rule.reads == "features" else None
    return AttackSubsetStepper(rule, source.index_count, source.device, head=layer)


def refuse_one_image(rule: Rule | None, model: nn.Module, source: Source, smallest: int, *, attack_mode: str) -> None:
    """Raise ConfigError if a step may see one image of the smallest batch, and the model cannot learn from one.

    rule : what may leave one; None: steps see whole batches. smallest : number of examples in that batch. attack_mode :
    as in `Trainer`. Cost where there may be one: as of `explain_single_image`.
    """
    if count_least_images(rule, smallest, attack_mode) > 1:
        return
    reason = explain_single_image(model, source)
    if not reason:
        return
    if rule is None:
        way_out = f"the model cannot learn from one ({reason}); use more data, or a larger selection.budget"
        raise ConfigError(must("each training batch", "of at least 2 images", smallest, way_out))
    setting = "rho" if isinstance(rule, AttackSubset) else "p_up"
    way_out = f"it leaves one image of a batch of {smallest}, and the model cannot learn from one ({reason})"
    raise ConfigError(must(f"minibatch.{setting}", "larger", getattr(rule, setting), way_out))


def count_least_images(rule: Rule | None, size: int, attack_mode: str) -> int:
    """Return the smallest number of images of a batch of `size` that a forward pass in train mode may see."""
    if rule is None:
        return size
    if isinstance(rule, AttackSubset):
        return count(rule.rho, size)
    least = count(rule.least, 2 * size)
    if rule.look == "train":
        least = 2 * size
    if attack_mode == "train":
        attacked = size
        if not rule.reads:
            attacked = rule.count_attacked(size)
        least = min(least, attacked or least)  # where none is attacked, no attack runs
    return least


def find_rule_problem(
    rule: Rule | None, objective: Objective, epochs: int, training: LoopSettings
) -> SettingProblem | None:
    """Return the first reason why a rule cannot serve a run; None if it can, or if there is no rule.

    epochs : length of the run. training : how it trains.
    """
    if rule is None:
        return None
    name = type(objective).__name__.lower()
    for setting in ("awp", "cutmix"):
        if getattr(training, setting) is not None:
            return must("minibatch", f"null with training.{setting}", rule, "it works on whole batches")
    if not is_attacked(objective):
        return must("minibatch", "null for an objective that is not attacked", name, "there is no attack to save")
    if rule.single_image and len(objective.passes) > 1:
        return must(
            "objective",
            "one with a loss of a single image for this minibatch rule",
            name,
            way_out="use pgd, or a rule that chooses what to attack",
        )
    if rule.warm_up > epochs:
        return must("minibatch.warm_up", f"at most the {epochs} epochs that run", rule.warm_up)
    if (
        isinstance(rule, AttackSubset)
        and not rule.single_image
        and training.normalise == "batch"
        and rule.correction != "none"
    ):
        return must(
            "minibatch.correction",
            "none with training.normalise: batch",
            rule.correction,
            way_out="normalise: batch divides by the picked weights' own sum, which undoes it",
        )
    return None


def plan_batch(rule: Rule | None, objective: Objective, attack: Attack | None, size: int, epoch: int) -> Work:
    """Count the passes of one step, summed over its `size` examples.

    epoch : of the step, from 0. The count is an upper bound where a rule's share adapts to a validation accuracy.
    """
    attack_work = plan_attack(objective, attack)
    update_work = len(objective.passes) * _PAIR
    if rule is None:
        return size * (attack_work + update_work)
    if isinstance(rule, AttackSubset):
        work = count(rule.rho, size) * (attack_work + update_work)
        if rule.needs_scores(epoch, size):
            work += Work(forward=size)
        if rule.clean:
            work += size * _PAIR
        return work
    kept = count(rule.choose_share(epoch, []), 2 * size)
    if rule.look == "train":
        return size * attack_work + 2 * size * _PAIR + Work(left_out=2 * size - kept)
    if rule.reads:
        return size * attack_work + Work(forward=2 * size) + kept * _PAIR
    return rule.count_attacked(size) * attack_work + kept * _PAIR
