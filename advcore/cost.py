"""The cost ledger: passes, floating-point operations and seconds, by phase.

One unit is one forward or one backward pass of one example. Passes are counted where the model is called
(`CostLedger.count_passes`), so no caller can forget it, and with them what they compute (`advcore.runtime.flops`).
"""

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import nn

from advcore.deprecation import forward_method, forward_renamed
from advcore.runtime.counted import CountedModel
from advcore.runtime.device import Mark, mark, measure_seconds
from advcore.runtime.flops import NO_COST, PassCost

_BEFORE = "the run began with a version that counted only passes"
PHASES = ("attack", "rows", "solve", "scoring", "update", "evaluation")


def format_gigabytes(size: float) -> str:
    """Write a number of bytes in GB, rounded up to three digits, so that this much suffices."""
    step = 10.0 ** (math.floor(math.log10(size)) - 2)
    return f"{math.ceil(size / step) * step / 1e9:.4g} GB"


class CostLedger:
    """Passes, floating-point operations and seconds of one run or one selection.

    Passes are exact. Operations are exact for what `measure_cost` counts. Seconds are wall-clock time; a phase's
    seconds leave out those of phases inside it.

    uncounted : why the operations of some passes are not known; empty where all are.
    """

    def __init__(self) -> None:
        self.passes = {phase: {"forward": 0, "backward": 0} for phase in PHASES}
        self.flops = dict.fromkeys(PHASES, 0)
        self.uncounted = ""
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._laps: list[tuple[str, Mark, Mark]] = []  # phase, start and end of what is not in the seconds yet
        self._stack: list[str] = []  # the open phases, the innermost last
        self._since = Mark(0.0)

    def __repr__(self) -> str:
        counts = {phase: sum(passes.values()) for phase, passes in self.passes.items()}
        texts = [f"{phase} {count:,}" for phase, count in counts.items() if count]
        return f"CostLedger({', '.join(texts) or 'no'} passes)"

    @property
    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase so far; waits for a CUDA device."""
        self.settle()
        return self._seconds

    def settle(self) -> None:
        """Turn the laps so far into seconds; waits for a CUDA device."""
        for phase, start, end in self._laps:
            self._seconds[phase] += measure_seconds(start, end)
        self._laps.clear()

    @contextlib.contextmanager
    def phase(self, name: str, device: torch.device | None = None) -> Iterator[None]:
        """Count all passes and seconds inside under the phase `name`.

        device : whose time it is; a CUDA device is not waited for. None for the host's.
        """
        self._lap(device)
        self._stack.append(name)
        try:
            yield
        finally:
            self._lap(device)
            self._stack.pop()

    def count_passes(self, model: nn.Module) -> CountedModel:
        """Return `model` with its passes on copies of x counted, each in the phase in which it happens."""
        return CountedModel(model, self.count)

    @contextlib.contextmanager
    def undo_on_error(self) -> Iterator[None]:
        """Forget the passes of the block if it raises, since it is run again."""
        before = {phase: dict(counts) for phase, counts in self.passes.items()}
        flops_before = dict(self.flops)
        try:
            yield
        except BaseException:
            self.passes = before
            self.flops = flops_before
            raise

    def count(self, kind: str, examples: int, cost: PassCost = NO_COST) -> None:
        """Add `examples` passes of `kind`, "forward" or "backward", at this cost each, to the current phase."""
        if not self._stack:
            raise RuntimeError("passes are counted inside `with ledger.phase(name)`")
        self.passes[self._stack[-1]][kind] += examples
        self.flops[self._stack[-1]] += examples * getattr(cost, kind)
        self.uncounted = self.uncounted or cost.problem

    def sum_flops(self, *, without: tuple[str, ...] = ("evaluation",)) -> int | None:
        """Return the sum of all operations, without those of the phases named; None where some are not known."""
        if self.uncounted:
            return None
        return sum(count for phase, count in self.flops.items() if phase not in without)

    def sum_units(self, *, without: tuple[str, ...] = ("evaluation",)) -> int:
        """Return the sum of all passes, without those of the phases named."""
        return sum(sum(counts.values()) for phase, counts in self.passes.items() if phase not in without)

    units = forward_method("advcore.cost.CostLedger.units", "sum_units")
    counted = forward_method("advcore.cost.CostLedger.counted", "count_passes")
    summary = forward_method("advcore.cost.CostLedger.summary", "summarise")

    def add(self, other: "CostLedger", *, under: str | None = None) -> None:
        """Add another ledger's counts, all of them to the phase `under` if it is given."""
        self.uncounted = self.uncounted or other.uncounted
        for phase in PHASES:
            target = under or phase
            self.seconds[target] += other.seconds[phase]
            self.flops[target] += other.flops[phase]
            for kind, count in other.passes[phase].items():
                self.passes[target][kind] += count

    def restore(self, summary: dict[str, dict[str, float]]) -> None:
        """Replace the ledger's counts by those of a summary (`summarise`)."""
        for phase in PHASES:
            counts = summary[phase]
            self.passes[phase] = {kind: int(counts[kind]) for kind in ("forward", "backward")}
            self.seconds[phase] = counts["seconds"]
            self.flops[phase] = int(counts.get("flops", 0))
            if "flops" not in counts and any(self.passes[phase].values()):
                self.uncounted = _BEFORE

    def summarise(self) -> dict[str, dict[str, float]]:
        """Return {phase: {forward, backward, seconds, flops}}, seconds rounded to milliseconds.

        flops is left out where the operations of some passes are not known.
        """
        summary: dict[str, dict[str, float]] = {}
        for phase in PHASES:
            summary[phase] = {**self.passes[phase], "seconds": round(self.seconds[phase], 3)}
            if not self.uncounted:
                summary[phase]["flops"] = self.flops[phase]
        return summary

    def _lap(self, device: torch.device | None) -> None:
        now = mark(device)
        if self._stack:
            self._laps.append((self._stack[-1], self._since, now))
            if now.event is None:
                self.settle()  # nothing to wait for
        self._since = now


# names of the last release
__getattr__ = forward_renamed(
    __name__,
    {
        "Counted": "advcore.runtime.counted.CountedModel",
        "gigabytes": "advcore.cost.format_gigabytes",
    },
)
