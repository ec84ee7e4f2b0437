"""How much memory a selection will hold, estimated before anything is allocated."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from advcore.cost import format_gigabytes
from advcore.data.source import Source
from advcore.errors import ConfigError
from advcore.gradients import GRADIENTS
from advcore.gradients.last_layer import locate_head
from advcore.models.head import count_classes, count_features
from advcore.rows.pairwise import CONVERTED_UP_TO
from advcore.runtime.device import measure_free_memory
from advcore.selection.duration import Work, count_work, find_side
from advcore.solvers.base import estimate_memory
from advcore.types import Event

if TYPE_CHECKING:
    from advcore.selection.coreset import AdversarialCoreset

_TILES = 5 * 8 * 512**2  # bytes of the tiles from which a matrix of all pairs is computed
_SHARE = 0.8  # of the free memory may be used, where no limit is given


@dataclass(frozen=True)
class Estimate:
    """Bytes that a selection holds at most, without the model and its activations.

    rows : of all gradient rows. problem : of the largest problem's copy of its rows. matrix, solver : what its solver
    adds. working : of sums and strips in float64. spilled : whether the rows are in a file, and so not in memory.
    work : what solving takes, in addition (`selection.duration`).
    """

    rows: int
    problem: int
    matrix: int
    solver: int
    working: int
    spilled: bool = False
    work: Work = Work()

    @property
    def peak(self) -> int:
        """Bytes that are held at the same time."""
        return self.rows * (not self.spilled) + self.problem + self.matrix + self.solver + self.working


def estimate_for(selector: "AdversarialCoreset", model: nn.Module, source: Source, held_out: int) -> Estimate | None:
    """Estimate the memory of a selection from `source`; None where no row is measured.

    Classes are taken to be of one size where the source cannot count them.
    """
    if not has_large_rows(selector):
        return None
    head = locate_head(model, source, selector.head)
    counts = source.class_counts() or [math.ceil(len(source) / count_classes(head))] * count_classes(head)
    return estimate(
        selector,
        counts=[int(count) for count in counts],
        classes=count_classes(head),
        features=count_features(head),
        held_out=held_out,
        itemsize=max(head.weight.element_size(), 4),  # residuals are float32 at least
    )


def estimate(
    selector: "AdversarialCoreset",
    *,
    counts: list[int],
    classes: int,
    features: int,
    held_out: int = 0,
    itemsize: int = 4,
) -> Estimate | None:
    """Estimate the memory of a selection from figures alone; None where no row is measured.

    counts : examples of each class. classes, features : outputs and inputs of the head. held_out : validation examples,
    or real ones with a pool, which count where they are the target. itemsize : bytes of a number in the factors.
    """
    if not has_large_rows(selector):
        return None
    n = sum(counts)
    passes = len(selector.row_objective.passes)
    row_bytes = (classes + features) * passes * itemsize
    measured = n * (selector.rows_from != "training") + held_out * (selector.target != "train")
    working = 16 * (classes + features + 1) * passes * 512
    size = n  # of the largest problem
    problem = 0
    if selector.partition in ("per_class", "per_class_per_gradient"):
        size = max(counts)
        problem = size * row_bytes
    elif selector.partition == "per_batch":
        size = math.ceil(n / selector.block_size)
        working += 2 * min(8 * classes * (features + 1) * min(size, 512), 2**28)  # two tiles of block means
    side = size
    if selector.represents:
        side = find_side(size, n, held_out)
        problem += row_bytes * round(size * (n + held_out) / n)  # joined with the goal's
    needed = estimate_memory(selector.solver, side, max(1, round(selector.budget * size)))
    matrix = needed["matrix"]
    if matrix:
        matrix = matrix if itemsize <= 4 else 8 * side * side
        working += _TILES + 3 * problem * (problem <= CONVERTED_UP_TO)
    work = count_work(selector, counts=counts, classes=classes, features=features, held_out=held_out)
    return Estimate(measured * row_bytes, problem, matrix, needed["solver"], working, work=work)


def has_large_rows(selector: "AdversarialCoreset") -> bool:
    """Return whether the selection measures rows that take memory."""
    reads = selector.solver.reads
    return selector.budget < 1 and reads is not None and not GRADIENTS[reads].is_scalar


def _find_allowed_bytes(device: torch.device) -> float | None:
    free = measure_free_memory(device)
    return None if free is None else _SHARE * free


def settle(estimate: Estimate, limit: float | None, device: torch.device) -> tuple[Estimate, tuple[Event, ...]]:
    """Decide whether rows must go to a file, and return the estimate that holds then, and the event that says so.

    limit : GB; None is 80 % of what is free on `device`. Raises ConfigError if that would not be enough either.
    """
    allowed = _find_allowed_bytes(device) if limit is None else limit * 1e9
    if allowed is None or estimate.peak <= allowed:
        return estimate, ()
    described = (
        f"80 % of the free memory, {format_gigabytes(allowed)}" if limit is None else f"memory_limit {limit:g} GB"
    )
    spilled = replace(estimate, spilled=True)
    if spilled.peak > allowed:
        problem = format_gigabytes(spilled.problem + spilled.matrix + spilled.solver)
        raise ConfigError(
            f"memory_limit must be at least {format_gigabytes(spilled.peak)} for this selection (rows in a file, one "
            f"problem {problem}), got {described}; use partition: "
            "per_class, solver.matrix: free, a smaller budget, or a higher memory_limit"
        )
    return spilled, (
        Event(
            "memory",
            f"gradient rows ({format_gigabytes(estimate.rows)}) go to a temporary file: the selection would hold "
            f"{format_gigabytes(estimate.peak)}, above {described}",
        ),
    )
