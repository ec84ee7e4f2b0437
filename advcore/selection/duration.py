"""How long a selection will solve, estimated before anything is computed, as its memory is."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from advcore import distributed
from advcore.errors import ConfigError, format_count, must
from advcore.runtime.device import estimate_rate
from advcore.solvers.base import RowShape, count_operations
from advcore.types import Event

if TYPE_CHECKING:
    from advcore.selection.coreset import AdversarialCoreset

LONG = 10  # minutes from which a selection is reported to take long


@dataclass(frozen=True)
class Work:
    """What solving a selection takes.

    operations : multiplications of each problem. n, k : rows and picks of the largest one. ways_out : what would take
    less.
    """

    operations: tuple[float, ...] = ()
    n: int = 0
    k: int = 0
    ways_out: str = ""

    def estimate_minutes(self, device: torch.device) -> float:
        """Return the minutes that the process with most to do solves, at a constant rate of the kind of device."""
        return distributed.measure_largest_share(self.operations) / estimate_rate(device) / 60


def count_work(
    selector: "AdversarialCoreset", *, counts: list[int], classes: int, features: int, held_out: int = 0
) -> Work:
    """Count what the solver takes for each problem of the selector's partition.

    counts : examples of each class. classes, features : outputs and inputs of the head. held_out : examples
    of the goal.
    """
    passes = len(selector.row_objective.passes)
    sizes = [sum(counts)]
    if selector.partition in ("per_class", "per_class_per_gradient"):
        sizes = counts
    if selector.partition == "per_class_per_gradient":
        classes = 1
    shape = RowShape(product=passes**2 * (classes + features), size=passes * classes * features)
    if selector.partition == "per_batch":
        sizes = [math.ceil(sum(counts) / selector.block_size)]
        shape = RowShape(product=classes * features, size=classes * features)  # a mean is written out
    picks = [max(1, round(selector.budget * size)) for size in sizes]
    sides = sizes
    if selector.represents:  # as many pairs as in a square of that side
        sides = [find_side(size, sum(counts), held_out) for size in sizes]
    operations = [count_operations(selector.solver, n, k, shape) for n, k in zip(sides, picks, strict=True)]
    return Work(tuple(operations), max(sizes), max(picks), _list_ways_out(selector))


def find_side(size: int, n: int, held_out: int) -> int:
    """Return the side of a square with as many pairs as a problem's rows have with its part of the goal's.

    size : rows of the problem. n, held_out : all rows, and all of the goal's.
    """
    return max(1, round(size * math.sqrt(held_out / n)))


def _list_ways_out(selector: "AdversarialCoreset") -> str:
    ways = []
    if selector.partition != "per_batch":
        ways.append("partition: per_batch")
    if selector.partition == "whole":
        ways.append("partition: per_class")
    if getattr(selector.solver, "epsilon", 1) is None:
        ways.append("solver.epsilon: 0.1 (stochastic greedy)")
    ways.append("a smaller budget")
    return f"use {', '.join(ways)}, or select from random blocks of the data and again from their picks"


def settle_minutes(work: Work, limit: float | None, device: torch.device) -> tuple[Event, ...]:
    """Return an event for a selection that will solve for long; raise ConfigError if for more than `limit` minutes."""
    minutes = work.estimate_minutes(device)
    described = f"{format_count(work.k, 'pick')} of {format_count(work.n, 'row')} in the largest problem"
    if limit is not None and minutes > limit:
        least = f"at least {math.ceil(minutes):,} for this selection, by estimate ({described})"
        raise ConfigError(must("max_minutes", least, limit, f"{work.ways_out}, or allow more"))
    if minutes < LONG:
        return ()
    duration = format_count(math.ceil(minutes), "minute")
    return (Event("time", f"solving will take about {duration} ({described}); {work.ways_out}"),)
