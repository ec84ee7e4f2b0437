"""What a selection will hold, told before anything is allocated."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from advcore.borrow import borrow
from advcore.cost import gigabytes
from advcore.data.source import Source, first_images
from advcore.device import free_memory
from advcore.errors import ConfigError
from advcore.gradients import GRADIENTS
from advcore.models.base import find_head
from advcore.pairs import CONVERTED
from advcore.solvers.base import memory_of

_TILES = 5 * 8 * 512**2  # bytes of a matrix of all pairs that are being made
_SHARE = 0.8  # of the free memory, where no limit is given


@dataclass(frozen=True)
class Estimate:
    """Bytes at the height of a selection, without the model and its activations.

    rows : all gradient rows. problem : the largest problem's own copy. matrix, solver : what its solver adds.
    working : of sums and strips in float64. spilled : whether the rows are in a file, and so not in memory.
    """

    rows: int
    problem: int
    matrix: int
    solver: int
    working: int
    spilled: bool = False

    @property
    def peak(self) -> int:
        """What is held at the same time."""
        return (0 if self.spilled else self.rows) + self.problem + self.matrix + self.solver + self.working


def estimate_for(selector: Any, model: nn.Module, source: Source, held_out: int) -> Estimate | None:
    """`estimate` of a selection from `source` with `model`; even classes where the source cannot count them."""
    if not _measured(selector):
        return None
    with borrow(model, training=False):
        head = find_head(model, first_images(model, source), selector.head)
    counts = source.class_counts() or [math.ceil(len(source) / head.out_features)] * head.out_features
    return estimate(
        selector,
        counts=[int(count) for count in counts],
        classes=head.out_features,
        features=head.in_features,
        held_out=held_out,
        itemsize=max(head.weight.element_size(), 4),  # residuals are float32 at least
    )


def estimate(
    selector: Any, *, counts: list[int], classes: int, features: int, held_out: int = 0, itemsize: int = 4
) -> Estimate | None:
    """Of `selector` (an `AdversarialCoreset`), None where no row is measured.

    counts : examples of each class. classes, features : outputs and inputs of the head. held_out : validation examples,
    which count where they are the target. itemsize : bytes of a number in the factors.
    """
    if not _measured(selector):
        return None
    n, passes = sum(counts), len(selector.objective.passes)
    width = classes + features
    by_class = selector.partition in ("per_class", "per_class_per_gradient")
    size = max(counts) if by_class else n
    if selector.partition == "per_batch":
        size = math.ceil(n / selector.block_size)
    k = max(1, round(selector.budget * size))
    took = memory_of(selector.solver, size, k)
    means = 0
    if selector.partition == "per_batch":  # two tiles of block means
        means = 2 * min(8 * classes * (features + 1) * min(size, 512), 2**28)
    problem = size * width * passes * itemsize if by_class else 0
    converted = 3 * problem if took["matrix"] and problem <= CONVERTED else 0
    return Estimate(
        rows=(n + (held_out if selector.target == "validation" else 0)) * width * passes * itemsize,
        problem=problem,
        matrix=took["matrix"] if itemsize <= 4 else 8 * size * size * bool(took["matrix"]),
        solver=took["solver"],
        working=16 * (width + 1) * passes * 512 + (_TILES if took["matrix"] else 0) + means + converted,
    )


def _measured(selector: Any) -> bool:
    """Whether the selection measures rows that take memory."""
    reads = selector.solver.reads
    return selector.budget < 1 and reads is not None and not GRADIENTS[reads].one_number


def _allowed(device: torch.device) -> float | None:
    """80 % of the bytes that are free on `device`; None where that is not known."""
    free = free_memory(device)
    return None if free is None else _SHARE * free


def settle(found: Estimate, limit: float | None, device: torch.device) -> tuple[Estimate, str | None]:
    """Whether rows must go to a file, and the event that says so.

    limit : GB; None is 80 % of what is free on `device`. Raises ConfigError if that would not be enough either.
    """
    allowed = limit * 1e9 if limit is not None else _allowed(device)
    if allowed is None or found.peak <= allowed:
        return found, None
    spilled = replace(found, spilled=True)
    given = f"memory_limit {limit:g} GB" if limit is not None else f"80 % of the free memory, {gigabytes(allowed)}"
    if spilled.peak > allowed:
        raise ConfigError(
            f"memory_limit must be at least {gigabytes(spilled.peak)} for this selection (rows in a file, one problem "
            f"{gigabytes(spilled.problem + spilled.matrix + spilled.solver)}), got {given}; use partition: per_class, "
            "solver.matrix: free, a smaller budget, or a higher memory_limit"
        )
    return spilled, (
        f"gradient rows ({gigabytes(found.rows)}) go to a temporary file: the selection would hold "
        f"{gigabytes(found.peak)}, above {given}"
    )
