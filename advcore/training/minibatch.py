"""Minibatch rules in a run: what takes their steps, which runs they cannot be used in, and what they cost."""

from collections.abc import Callable
from typing import NamedTuple

from torch import nn

from advcore.adversary import plan_attack
from advcore.attacks.base import Attack
from advcore.data.checks import explain_single_image
from advcore.data.contract import Source
from advcore.errors import ConfigError, SettingProblem, check, must
from advcore.gradients.last_layer import locate_head
from advcore.minibatch.base import AttackSubset, UpdateSubset, count, is_reattack
from advcore.minibatch.bullettrain import BulletTrain
from advcore.minibatch.epoch_subset import EpochSubset
from advcore.minibatch.free import Free
from advcore.minibatch.whole_batch import WholeBatch
from advcore.objectives.base import Objective, is_attacked
from advcore.training.bullettrain import BulletTrainStepper, find_bullettrain_problem, plan_bullettrain
from advcore.training.free import FreeStepper, find_free_problem, plan_free
from advcore.training.loop_settings import LoopSettings, has_remembered_start
from advcore.training.pruning import EpochSubsetStepper
from advcore.training.reattack import ReattackStepper
from advcore.training.step import PlainStepper
from advcore.training.steppers import AttackSubsetStepper, UpdateSubsetStepper
from advcore.work import Work

Rule = AttackSubset | UpdateSubset | WholeBatch | EpochSubset


class Method(NamedTuple):
    """How a rule on whole batches works in training.

    build : (rule, training data) to what takes its steps. plan : (rule, objective, attack, size) to the passes of a
    batch. find_problem : (rule, attack, settings of the loop) to why it cannot be used in a run, or None.
    """

    build: Callable[..., PlainStepper]
    plan: Callable[..., Work]
    find_problem: Callable[..., SettingProblem | None]


def _build_free(rule: Free, source: Source) -> PlainStepper:
    return FreeStepper(rule, source.device)


def _build_bullettrain(rule: BulletTrain, source: Source) -> PlainStepper:
    return BulletTrainStepper(rule, source.index_count, source.device)


METHODS: dict[type[WholeBatch], Method] = {
    Free: Method(_build_free, plan_free, find_free_problem),
    BulletTrain: Method(_build_bullettrain, plan_bullettrain, find_bullettrain_problem),
}


def get_method(rule: WholeBatch) -> Method:
    """Return how a rule on whole batches works in training: the entry of its class, or of the nearest base of it."""
    return next(METHODS[cls] for cls in type(rule).__mro__ if cls in METHODS)


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
    if isinstance(rule, WholeBatch):
        return get_method(rule).build(rule, source)
    if isinstance(rule, UpdateSubset):
        return UpdateSubsetStepper(rule, source, batch_size=batch_size, seed=seed, attack=attack)
    if isinstance(rule, EpochSubset):
        return EpochSubsetStepper(rule, source.index_count, source.device, batch_size)
    layer = locate_head(model, source, head) if rule.reads == "features" else None
    stepper = AttackSubsetStepper
    if is_reattack(rule):
        stepper = ReattackStepper
    return stepper(rule, source.index_count, source.device, head=layer)


def is_bound(rule: Rule | None) -> bool:
    """Return whether `plan_batch` gives the most passes that a batch may take under the rule, and not their number."""
    if rule is None:
        return False
    return rule.needs_validation or is_reattack(rule) or isinstance(rule, (BulletTrain, EpochSubset))


def refuse_one_image(rule: Rule | None, model: nn.Module, source: Source, smallest: int, *, attack_mode: str) -> None:
    """Raise ConfigError if a step may see one image of the smallest batch, and the model cannot train on one.

    rule : what may leave one; None, or a rule over epochs: steps see whole batches. smallest : number of examples in
    that batch. attack_mode : as in `Trainer`. Cost where there may be one: as of `explain_single_image`.
    """
    if count_least_images(rule, smallest, attack_mode) > 1:
        return
    reason = explain_single_image(model, source)
    if not reason:
        return
    if rule is None or isinstance(rule, (WholeBatch, EpochSubset)):
        way_out = f"the model cannot train on one ({reason}); use more data, or a larger selection.budget"
        raise ConfigError(must("each training batch", "of at least 2 images", smallest, way_out))
    setting = "rho" if isinstance(rule, AttackSubset) else "p_up"
    way_out = f"it leaves one image of a batch of {smallest}, and the model cannot train on one ({reason})"
    raise ConfigError(must(f"minibatch.{setting}", "larger", getattr(rule, setting), way_out))


def count_least_images(rule: Rule | None, size: int, attack_mode: str) -> int:
    """Return the smallest number of images of a batch of `size` that a forward pass in train mode may see."""
    if rule is None or isinstance(rule, (WholeBatch, EpochSubset)):
        return size
    if isinstance(rule, AttackSubset):
        if is_reattack(rule) and attack_mode == "eval":
            return size
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
    rule: Rule | None, objective: Objective, attack: Attack | None, epochs: int, training: LoopSettings
) -> SettingProblem | None:
    """Return the first reason why a rule cannot be used in a run; None if it can, or if there is no rule.

    attack : of the run. epochs : its length. training : how it trains.
    """
    if rule is None:
        return None
    name = type(objective).__name__.lower()
    for setting in ("awp", "cutmix", "regularizer"):
        if getattr(training, setting) is not None:
            return must("minibatch", f"null with training.{setting}", rule, "it works on whole batches")
    if isinstance(rule, EpochSubset):
        return _find_weights_problem(training.normalise)
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
    if isinstance(rule, WholeBatch):
        return get_method(rule).find_problem(rule, attack, training)
    if isinstance(rule, AttackSubset):
        return _find_rest_problem(rule, training, attack)
    return None


def _find_rest_problem(rule: AttackSubset, training: LoopSettings, attack: Attack | None) -> SettingProblem | None:
    """Return why a run does not suit what a rule does with the examples that it does not pick; None if it does."""
    if is_reattack(rule):
        return check(
            has_remembered_start(attack) and hasattr(attack, "find_start"),
            "attack.start",
            "remembered for a minibatch rule with rest: remembered",
            getattr(attack, "start", None),
            way_out="set it, or use a rule with rest: dropped",
        )
    if training.normalise != "batch" or rule.correction == "none":
        return None
    way_out = "normalise: batch divides by the picked weights' own sum, which undoes it"
    return must("minibatch.correction", "none with training.normalise: batch", rule.correction, way_out)


def _find_weights_problem(normalise: str) -> SettingProblem | None:
    """Return why a rule's weights would not make up for the examples that it leaves out; None if they do."""
    way_out = "its weights make up for the examples left out; divided by their sum in a batch, they do not"
    return check(normalise != "batch", "training.normalise", "coreset, none or equal with this rule", "batch", way_out)


def count_picked(rule: AttackSubset, known: int) -> int:
    """Return how many of a batch's `known` examples, with remembered perturbations, are attacked again."""
    if not known:
        return 0
    return count(rule.rho, known)


def plan_batch(
    rule: Rule | None, objective: Objective, attack: Attack | None, *, size: int, epoch: int, unknown: int = 0
) -> Work:
    """Count the passes of one step, summed over its `size` examples.

    epoch : of the step, from 0. unknown : of how many of the examples nothing is remembered; 0 for a rule with `rest:
    dropped`, which does not ask. The count is an upper bound where a rule's share adapts to a validation accuracy, or
    the steps of each example to its prediction. A rule over epochs saves nothing within a step; how many steps it saves
    is not known in advance.
    """
    attack_work = plan_attack(objective, attack)
    update_work = len(objective.passes) * _PAIR
    if rule is None or isinstance(rule, EpochSubset):
        return size * (attack_work + update_work)
    if isinstance(rule, WholeBatch):
        return get_method(rule).plan(rule, objective, attack, size)
    if isinstance(rule, AttackSubset):
        updated = count(rule.rho, size)
        if is_reattack(rule):
            updated = size
        known = size - unknown
        picked = count_picked(rule, known)
        work = (unknown + picked) * attack_work + updated * update_work
        if is_reattack(rule) and rule.correction != "none" and picked < known:
            work += picked * _PAIR
        if rule.needs_scores(epoch, known):
            work += Work(forward=known)
        if rule.clean:
            work += size * _PAIR
        return work
    kept = count(rule.choose_share(epoch, []), 2 * size)
    if rule.look == "train":
        return size * attack_work + 2 * size * _PAIR + Work(left_out=2 * size - kept)
    if rule.reads:
        return size * attack_work + Work(forward=2 * size) + kept * _PAIR
    return rule.count_attacked(size) * attack_work + kept * _PAIR
