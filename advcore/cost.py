"""The cost ledger: forward and backward passes per example, and seconds, by phase.

One unit is one forward or one backward pass of one example. Counting happens where the model is called
(`counted`), so no caller can forget it; a backward pass is counted when a gradient reaches the logits.
"""

import contextlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advcore.device import Mark, between, mark
from advcore.errors import ConfigError, must
from advcore.graphs import replayed
from advcore.signals import check
from advcore.speed import current, passed

PHASES = ("attack", "rows", "solve", "scoring", "update", "evaluation")


def gigabytes(size: float) -> str:
    """To three digits, upwards: what is asked for is enough."""
    step = 10.0 ** (math.floor(math.log10(size)) - 2)
    return f"{math.ceil(size / step) * step / 1e9:.4g} GB"


class CostLedger:
    """Counts of one run or one selection. Passes are exact; seconds are wall-clock, own time only:
    what an inner phase takes is not in the outer one's.
    """

    def __init__(self):
        self.passes = {phase: {"forward": 0, "backward": 0} for phase in PHASES}
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._laps: list[tuple[str, Mark, Mark]] = []  # that are not in the seconds yet
        self._stack: list[str] = []
        self._since = Mark(0.0)

    @property
    def seconds(self) -> dict[str, float]:
        """Of each phase so far; waits for a CUDA device."""
        self.settle()
        return self._seconds

    def settle(self) -> None:
        """Turn the laps so far into seconds; waits for a CUDA device."""
        for phase, start, end in self._laps:
            self._seconds[phase] += between(start, end)
        self._laps.clear()

    @contextlib.contextmanager
    def phase(self, name: str, device: torch.device | None = None) -> Iterator[None]:
        """Everything counted inside belongs to `name`; seconds are a CUDA `device`'s, not waited for."""
        self._lap(device)
        self._stack.append(name)
        try:
            yield
        finally:
            self._lap(device)
            self._stack.pop()

    def counted(self, model: Callable[[Tensor], Tensor]) -> "Counted":
        """`model` with its forward and backward passes counted in the phase in which each happens, on a copy of x."""
        return Counted(self, model)

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """What is counted inside does not count if it raises: it is done again."""
        before = {phase: dict(both) for phase, both in self.passes.items()}
        try:
            yield
        except BaseException:
            self.passes = before
            raise

    def count(self, kind: str, examples: int) -> None:
        """Add `examples` passes of `kind`, "forward" or "backward", to the current phase."""
        if not self._stack:
            raise RuntimeError("passes are counted inside `with ledger.phase(name)`")
        self.passes[self._stack[-1]][kind] += examples

    def units(self, *, without: tuple[str, ...] = ("evaluation",)) -> int:
        """Passes of all phases but those named."""
        return sum(sum(both.values()) for phase, both in self.passes.items() if phase not in without)

    def add(self, other: "CostLedger", *, under: str | None = None) -> None:
        """Take in another ledger's counts; `under` books them all to one phase."""
        for phase in PHASES:
            target = under or phase
            self.seconds[target] += other.seconds[phase]
            for kind, count in other.passes[phase].items():
                self.passes[target][kind] += count

    def restore(self, summary: dict[str, dict[str, float]]) -> None:
        """Take the counts of a `summary` as its own."""
        for phase in PHASES:
            self.passes[phase] = {kind: summary[phase][kind] for kind in ("forward", "backward")}
            self.seconds[phase] = summary[phase]["seconds"]

    def summary(self) -> dict[str, dict[str, float]]:
        """{phase: {forward, backward, seconds}}."""
        return {phase: {**self.passes[phase], "seconds": round(self.seconds[phase], 3)} for phase in PHASES}

    def _lap(self, device: torch.device | None) -> None:
        now = mark(device)
        if self._stack:
            self._laps.append((self._stack[-1], self._since, now))
            if now.event is None:
                self.settle()  # nothing to wait for
        self._since = now


@dataclass(frozen=True)
class Counted:
    """A model whose passes a ledger counts."""

    ledger: CostLedger
    model: Callable[[Tensor], Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        check()
        logits = passed(self.model, x)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ConfigError(must("the model's output", "logits (B, C)", got, "wrap it in a module that returns them"))
        self.ledger.count("forward", len(x))
        if logits.requires_grad:
            size = len(x)
            logits.register_hook(lambda gradient: self.ledger.count("backward", size))
        return logits

    def replayed(
        self, key: Hashable, work: Callable[..., Tensor], inputs: Sequence[Tensor], passes: tuple[int, int]
    ) -> Tensor:
        """`work(forward, *inputs)`, by its graph where there is one (`advcore.graphs`), which counts as `passes`
        forward and backward passes of each of the first input's examples; else as it stands."""
        check()
        found = replayed(self.model, (key, current()), partial(work, partial(passed, self.model)), inputs)
        if found is None:
            return work(self, *inputs)
        for kind, count in zip(("forward", "backward"), passes, strict=True):
            self.ledger.count(kind, count * len(inputs[0]))
        return found
