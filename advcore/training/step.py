"""Training steps: attack in the mode that is set, then one weighted update in train mode."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import bind_attack, perturb
from advcore.attacks.base import Attack
from advcore.attacks.memory import Perturbations
from advcore.cost import CostLedger
from advcore.errors import ConfigError, NonFiniteError, must
from advcore.objectives.base import Objective, compute_losses
from advcore.regularizers.base import Examples, Regularizer, compute_penalties, describe_examples
from advcore.rng import Stream
from advcore.runtime.borrow import borrow, find_device, set_mode
from advcore.runtime.watch import GradientWatch
from advcore.shares import divide
from advcore.training.gate import NOT_APPLIED, Gate
from advcore.training.headroom import HeadroomMeter
from advcore.training.progress import Entry, Snapshot
from advcore.training.row_catcher import RowCatcher, catch_rows
from advcore.training.weight_attack import AWP, list_statistics, move_weights
from advcore.unit_range import trust_images

# A pass of the model: images (B, C, H, W) to logits (B, classes).
Forward = Callable[[Tensor], Tensor]


def reduce_losses(losses: Tensor, weights: Tensor, normalise: str) -> Tensor:
    """Reduce the losses (B,) of examples to one: mean(w l), or sum(w l) / sum(w) for "batch", 0 where all weights are.

    No other place in the package does so.
    """
    if normalise == "batch":
        return divide((weights * losses).sum(), weights.sum())
    return (weights * losses).mean()


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What all steps of a run share, and the two halves of a step: `perturb` and `update`.

    objective, attack, normalise, attack_mode, clip_norm, clip_value : as in `Trainer`. optimizer : of the model.
    ledger : counts the passes.
    memory : of the images at which the attack ended, for an `attack` that starts from them.
    gate : checks later whether steps are finite; None: every step is checked at once.
    parallel : the model with its gradients averaged over several processes; None where there is one.
    on_update : called after each optimiser step.
    watch : of the gradients by which the attack climbs, over all steps of a run.
    awp : moves the weights at which the update's gradient is taken; None for no such move.
    regularizer : its penalties are added to the losses; None for no such penalty.
    catcher : stores gradient rows of the examples of each `step`; None stores none.
    meter : measures the norms of gradients in `losses`; by default of none.
    """

    model: nn.Module
    objective: Objective
    attack: Attack | None
    optimizer: torch.optim.Optimizer
    ledger: CostLedger
    normalise: str = "coreset"
    attack_mode: str = "eval"
    clip_norm: float | None = None
    clip_value: float | None = None
    memory: Perturbations | None = None
    gate: Gate | None = None
    parallel: nn.Module | None = None
    on_update: Callable[[], None] = lambda: None
    watch: GradientWatch = field(default_factory=GradientWatch)
    awp: AWP | None = None
    regularizer: Regularizer | None = None
    catcher: RowCatcher | None = None
    meter: HeadroomMeter = field(default_factory=HeadroomMeter)

    def perturb(self, x: Tensor, y: Tensor, generator: Stream, *, clean: Tensor | None = None) -> Tensor:
        """Attack x (B, C, H, W), B may be 0, of which `clean` are the logits if known; a memory keeps where it ends."""
        if not len(x):
            return x
        with self.ledger.phase("attack", x.device), borrow(self.model, training=self.attack_mode == "train"):
            attack = bind_attack(self.attack, self.model, self.ledger.count_passes)
            forward = self.watch.watch(self.ledger.count_passes(self.model))
            if self.catcher is not None:
                forward = self.catcher.watch_attack(forward)
            with trust_images():
                x_adv = perturb(forward, self.objective, attack, x, y, clean=clean, generator=generator)
            self.watch.refuse_training(self.model, attack, x, y)
            if self.memory is not None:
                self.memory.keep(*distributed.concatenate(x, x_adv, generator.examples))
            return x_adv

    def losses(
        self,
        forward: Forward,
        clean: Tensor,
        adversarial: Tensor,
        y: Tensor,
        examples: Examples | None = None,
    ) -> Tensor:
        """Return the objective's loss (B,) of each of B examples, clean and attacked.

        examples : the same, for the regulariser, whose penalty is added; None adds none.
        """
        images = {"clean": clean, "adversarial": adversarial}
        logits = {name: self.meter.run(forward, images[name]) for name in self.objective.passes}
        losses = compute_losses(self.objective, y, **logits)
        self.meter.measure(self.objective, y, logits)
        if self.regularizer is None or examples is None:
            return losses
        # Past what averages gradients over processes, which takes them from the parameters in any case.
        model = self.ledger.count_passes(self.model)
        return losses + compute_penalties(self.regularizer, model, examples, logits)

    def loss(
        self,
        forward: Forward,
        clean: Tensor,
        adversarial: Tensor,
        y: Tensor,
        weights: Tensor,
        examples: Examples | None = None,
    ) -> Tensor:
        """Return the weighted objective at B examples, as `losses`."""
        losses = self.losses(forward, clean, adversarial, y, examples)
        return reduce_losses(losses, weights, self.normalise)

    def update(self, loss_of: Callable[[Forward], Tensor], device: torch.device, where: Callable[[], str]) -> Tensor:
        """Take one optimiser step on `loss_of(forward)`, in train mode (`set_mode`), and return that loss, detached.

        Of several processes' losses, the step is on the mean. A loss or gradient that is not finite raises
        NonFiniteError, which says `where()`, and changes no weight; BatchNorm's running statistics have seen the batch
        by then.
        """
        with self.ledger.phase("update", device):
            set_mode(self.model, training=True)
            forward = self.ledger.count_passes(self.parallel or self.model)
            with distributed.name_loss_in_backward(), self._move_weights(partial(loss_of, forward)):
                loss = loss_of(forward)
                self.optimizer.zero_grad(set_to_none=True)
                _check_trainable(loss)
                loss.backward()
            self._apply(loss, where)
            if self.parallel is not None:
                distributed.average(list_statistics(self.model))
        self.meter.commit()
        self.on_update()
        return loss.detach()

    def _move_weights(self, compute_loss: Callable[[], Tensor]) -> contextlib.AbstractContextManager[None]:
        """Return what moves the weights for the block, if there is a weight perturbation (`AWP`)."""
        if self.awp is None:
            return contextlib.nullcontext()
        return move_weights(self.model, self.awp.gamma, compute_loss)

    def _apply(self, loss: Tensor, where: Callable[[], str]) -> None:
        """Clip the gradients, and take the optimiser's step if they and the loss are finite."""
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        if self.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        if self.gate is None and not distributed.is_everywhere(bool(finite)):
            self.optimizer.zero_grad(set_to_none=True)
            mean = distributed.average_number(loss.item())  # which is the whole batch's
            got = f"loss {mean:.4g} and gradient norm {norm.item():.4g}"
            with distributed.fail_together():
                raise NonFiniteError(f"{got} at {where()}; {NOT_APPLIED}")
        if self.clip_value:
            nn.utils.clip_grad_value_(parameters, self.clip_value)
        if self.gate is None:
            self.optimizer.step()
        else:
            self.gate.step(self.optimizer, finite, where)


def _check_trainable(loss: Tensor) -> None:
    """Raise ConfigError for a loss that depends on no parameter of which a gradient is wanted."""
    if not loss.requires_grad:
        rule = "a network whose logits depend on a parameter with requires_grad"
        raise ConfigError(must("model", rule, "none", "call requires_grad_(True) on the layers to train"))


def step(
    learner: Learner,
    x: Tensor,
    y: Tensor,
    weights: Tensor,
    *,
    generator: Stream,
    where: Callable[[], str] = str,
    factor: float = 1.0,
) -> Tensor:
    """Attack x (B, C, H, W), take one optimiser step on `factor` times the weighted loss, and return that, detached.

    Cost: the attack, then one forward and one backward pass for each of the objective's passes, and the regulariser's.
    """
    examples = None
    if learner.regularizer is not None:
        with learner.ledger.phase("attack", x.device):
            examples = describe_examples(learner.regularizer, learner.objective, learner.attack, x, y, generator)
    x_adv = learner.perturb(x, y, generator)
    with catch_rows(learner.catcher, generator, y) as watch:

        def loss_of(forward: Forward) -> Tensor:
            return factor * learner.loss(watch(forward), x, x_adv, y, weights, examples)

        return learner.update(loss_of, x.device, where)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B examples of an epoch, or this process's part of them.

    indices : (B,) long, into the training data. x : (B, C, H, W), augmented. y : (B,) labels, or mixed. weights : (B,).
    attack_stream, rule_stream : random numbers of the attack and of the minibatch rule, bound to the examples.
    where : describes the step, for errors. set_lr : sets the learning rate for where a share of its updates is done.
    images : size of the whole batch, of which these examples may be one process's part.
    factor : what this part's loss is multiplied by, so that the mean over the processes is the whole batch's loss.
    is_counted : whether the ledger counts this part; False where another process does the same work.
    """

    indices: Tensor
    x: Tensor
    y: Tensor
    weights: Tensor
    attack_stream: Stream
    rule_stream: Stream
    where: Callable[[], str]
    images: int
    factor: float = 1.0
    is_counted: bool = True
    set_lr: Callable[[float], None] = lambda share: None


class Images(NamedTuple):
    """Images to train on, clean or attacked (B, C, H, W), with their labels (B,) and weights (B,)."""

    x: Tensor
    y: Tensor
    weights: Tensor


class PlainStepper:
    """Steps on whole batches: every example is attacked and trained on.

    factors : (N,) what the weight of each example is multiplied by in this epoch, 0 for those that it leaves out; None
    where it trains on all of them, as they are weighted.
    """

    factors: Tensor | None = None

    def begin(self, epoch: int, entries: list[Entry]) -> None:
        """Prepare for a new epoch; `entries` of the epochs before it hold what validation measured."""

    def choose_examples(self, examples: Tensor, stream: Stream, epochs: int) -> None:
        """Set `factors` for a new epoch of a run of `epochs`; `examples` (n,) are those that it could train on."""

    def step(self, learner: Learner, batch: Batch) -> tuple[Tensor, int]:
        """Train on a batch, and return the loss and the number of images of which it is the mean."""
        loss = step(
            learner,
            batch.x,
            batch.y,
            batch.weights,
            generator=batch.attack_stream,
            where=batch.where,
            factor=batch.factor,
        )
        return loss, batch.images

    def finish(self, learner: Learner) -> tuple[Tensor, int]:
        """Train on images that are still queued at the end of an epoch, and return as `step` does; 0 images if none."""
        return torch.zeros((), device=find_device(learner.model)), 0

    def summarize(self, learner: Learner) -> Entry:
        """Return what the epoch's entry says of the rule."""
        return {}

    def state(self) -> Snapshot:
        """Return all that a later step depends on, for a checkpoint."""
        return {}

    def restore(self, state: Snapshot) -> None:
        """Put back what `state` returned, in a run with the same rule."""


@contextlib.contextmanager
def enter_scoring(learner: Learner, device: torch.device) -> Iterator[None]:
    """Put the model in eval mode without gradients, in phase "scoring"; BatchNorm's statistics stay as they are."""
    with learner.ledger.phase("scoring", device), borrow(learner.model, training=False), torch.no_grad():
        yield
