"""Headroom: how much an unbiased choice of examples can gain, measured in the training steps themselves.

A step estimates the mean of w_i g_i over the set that is trained on, g_i the gradient of example i and w_i its weight.
An example drawn with probability p_i is counted by 1 / (N p_i), so that the estimate has that mean whatever p is; its
second moment is sum |w_i g_i|^2 / (N^2 p_i). Uniform p gives E |w g|^2. By Cauchy and Schwarz the least is
(E |w g|)^2, at p_i in proportion to |w_i g_i|. Headroom is the ratio of the two, in (0, 1].
Reference: Katharopoulos & Fleuret 2018, sections 3.1 and 3.2 (with the last layer's gradient for g).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advcore.errors import ConfigError, SettingProblem, check, must, require
from advcore.gradients.last_layer import locate_head, residuals
from advcore.minibatch.base import AttackSubset, UpdateSubset, is_reattack
from advcore.models.head import Head
from advcore.objectives.base import Objective
from advcore.rng import preserve_random_state
from advcore.rows import FactoredRows
from advcore.runtime.precision import Speed
from advcore.training.progress import Entry
from advcore.types import Event

if TYPE_CHECKING:
    from advcore.training.loop import Run
    from advcore.training.trainer import Trainer


def compute_headroom(count: float, total: float, squares: float) -> float | None:
    """Return (total / count)^2 / (squares / count), from the sums of norms and of their squares, in (0, 1].

    None where nothing was counted, where all norms are 0, or where a sum is not finite.
    """
    if not count or not squares or not math.isfinite(squares):
        return None
    return min(1.0, total * total / (count * squares))


# A pass of the model: images (B, C, H, W) to logits (B, classes).
Forward = Callable[[Tensor], Tensor]


def _note_input(seen: list[Tensor], module: nn.Module, args: tuple, kwargs: Mapping[str, Tensor]) -> None:
    seen.append(next(iter((*args, *kwargs.values()))).detach())


def name_headroom(count: float, total: float, squares: float) -> Entry:
    """Return what an epoch's entry says of headroom (`compute_headroom`): nothing where there is none."""
    headroom = compute_headroom(count, total, squares)
    return {} if headroom is None else {"headroom": headroom}


class HeadroomMeter:
    """Sums up the norms of the last layer's gradients in training steps, without a further pass of the model.

    Each example is measured at the image that is trained on and by the weights of that step. Only products of residuals
    and features are added to a step, on the device, which is never waited for.

    Parameters
    ----------
    head : the model's linear head; None measures nothing.
    """

    def __init__(self, head: Head | None = None) -> None:
        self.head = head
        self._features: list[Tensor] = []
        self._weights: Tensor | None = None
        self._norms: Tensor | None = None
        self._sums: list[Tensor] = []

    def begin(self, weights: Tensor | None) -> None:
        """Expect updates on examples of these weights (B,); None measures none of them."""
        self._weights = weights
        self._sums = []
        self._features = []

    def run(self, forward: Forward, x: Tensor) -> Tensor:
        """Return the logits of a forward pass of images x (B, C, H, W), and note the features that went into the head.

        Of several calls of the head, as where operations are counted before a pass, the last one counts.
        """
        if self.head is None or self._weights is None:
            return forward(x)
        seen: list[Tensor] = []
        with self.head.register_forward_pre_hook(partial(_note_input, seen), with_kwargs=True):
            logits = forward(x)
        self._features += seen[-1:]
        return logits

    def measure(self, objective: Objective, y: Tensor, logits: Mapping[str, Tensor]) -> None:
        """Measure the norms of B examples from their labels y, their logits by pass, and the features noted.

        The objective's loss is measured without a regulariser's penalty.
        """
        features = [part.to(torch.promote_types(part.dtype, torch.float32)).flatten(1) for part in self._features]
        self._features = []
        if self._weights is None or len(features) != len(logits) or len(y) != len(self._weights):
            return
        assert self.head is not None, "features are noted at the head"
        by_pass = residuals(objective, y, {name: output.detach() for name, output in logits.items()})
        kind = "weight" if self.head.bias is None else "full"
        rows = FactoredRows(residuals=tuple(by_pass.values()), features=tuple(features), kind=kind)
        self._norms = rows.squared_norms().sqrt()

    def commit(self) -> None:
        """Count what was measured for the update that was just taken; of several times, the last."""
        if self._norms is None or self._weights is None:
            return
        norms = self._weights.detach().double().abs() * self._norms
        self._sums.append(torch.stack([torch.ones_like(norms).sum(), norms.sum(), norms.square().sum()]))
        self._norms = None

    def collect(self) -> Tensor | float:
        """Return sums over the updates since the last call: of examples, norms and squared norms, (3,) float64.

        A norm is that of the gradient times the example's weight. 0 where nothing was measured.
        """
        sums = self._sums
        self._sums = []
        if not sums:
            return 0.0
        return torch.stack(sums).sum(0)


def read_sums(sums: Tensor | float) -> Sequence[float]:
    """Return what an epoch's `collect`s add up to, as three numbers; waits for the device."""
    if isinstance(sums, Tensor):
        return sums.tolist()
    return [0.0, 0.0, 0.0]


def explain_rule(rule: object) -> str | None:
    """Return why training steps under a minibatch rule do not show the norms of all that they train on; or None."""
    if isinstance(rule, UpdateSubset):
        return "the minibatch rule chooses images without weights that make up for those left out"
    if isinstance(rule, AttackSubset) and not is_reattack(rule):
        return "the minibatch rule gives the gradients of only what it picks"
    if isinstance(rule, AttackSubset) and rule.correction != "none":
        return "the minibatch rule's correction trains on two images of some examples"
    return None


def explain_missing(rule: object, model: nn.Module, speed: Speed) -> str | None:
    """Return why training steps under a minibatch rule do not show the norms for nothing; None if they do.

    speed : resolved.
    """
    problem = explain_rule(rule)
    if problem is not None:
        return problem
    modules = list(model.modules())
    if speed.compiled or any(_is_compiled(module) for module in modules):
        return "features cannot be read inside a compiled model"
    if any(isinstance(module, nn.DataParallel) for module in modules):
        return "nn.DataParallel runs copies of the model"
    return None


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def build_meter(run: "Run", speed: Speed) -> HeadroomMeter:
    """Build what measures a run's headroom; an event says why where it measures nothing.

    speed : resolved. Cost: a forward pass of a few images, where the head is looked for.
    Raises ConfigError where a selection waits for the headroom that cannot be measured.
    """
    trainer = run.trainer
    problem = explain_missing(trainer.minibatch, run.model, speed)
    head = None
    if problem is None:
        try:
            with preserve_random_state():  # a network may draw from it
                head = locate_head(run.model, run.train, trainer.head)
        except ConfigError as error:
            problem = str(error)
    if trainer.schedule.when is not None and "select" in [epoch.action for epoch in trainer.schedule.plan()]:
        require(
            check(problem is None, "when", "null where no headroom is measured", trainer.schedule.when, problem or "")
        )
    if problem is not None:
        run.out.add_events(0, Event("headroom", f"no headroom is recorded: {problem}"))
    return HeadroomMeter(head)


def may_select(run: "Run") -> bool:
    """Return whether a planned selection takes place: not before headroom is low enough, where that is waited for."""
    when = run.trainer.schedule.when
    if when is None or run.out.coresets:
        return True
    return when.is_met([entry["headroom"] for entry in run.out.epochs if "headroom" in entry])


def name_action(run: "Run", planned: str) -> str:
    """Return what an epoch trains on, in the words of `Epoch`: "random" while selections are held back (`When`)."""
    if planned == "full" or run.out.coresets:
        return planned
    return "random"


def find_when_problem(trainer: "Trainer") -> SettingProblem | None:
    """Return why selections cannot wait for headroom; None if they can, or need not."""
    when = trainer.schedule.when
    if when is None or trainer.selector is None:
        return None
    if trainer.schedule.is_beside_pool:
        return must("when", "null with schedule: pool", when, "headroom of real images says nothing about the pool's")
    if trainer.selector.partition == "per_batch":
        return must(
            "when", "null with partition: per_batch", when, "blocks are not a random subset of as many examples"
        )
    problem = explain_rule(trainer.minibatch)
    return check(problem is None, "when", "null where no headroom is measured", when, problem or "")
