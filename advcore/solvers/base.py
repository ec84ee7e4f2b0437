"""The interface of a solver, and what all solvers share: checks, memory, equal weights."""

from collections.abc import Callable
from dataclasses import Field, dataclass
from numbers import Integral
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from advcore.errors import BudgetError, ConfigError, DataError, must, require
from advcore.kinds import find_type_problem
from advcore.rng import Stream
from advcore.rows import Rows, find_first_not_finite
from advcore.rows.pairwise import matrix_bytes
from advcore.types import Selection

MATRIX = ("auto", "held", "free")
_HELD_UP_TO = 4e9  # bytes of a matrix up to which "auto" holds it


@dataclass(frozen=True, kw_only=True)
class Task:
    """One call of a solver.

    rows : N rows. k : how many to pick. target : as in `Solver`. generator : bound to the rows' example indices.
    goal : other examples' rows, which a solver that can (`represent`) represents in place of the task's rows.
    """

    rows: Rows
    k: int
    target: Tensor | None = None
    goal: Rows | None = None
    generator: Stream


@dataclass(frozen=True)
class RowShape:
    """What rows cost. product : multiplications of an inner product of two. size : numbers in one, written out."""

    product: int
    size: int


class Solver(Protocol):
    """Frozen settings; `solver(rows, k, target=None, generator=...)` picks at most k of N rows.

    reads : the kind of row it needs, a name in GRADIENTS; None if it looks at nothing but their number.

    Picks are unique, at most k, and their weights finite. Zero rows, duplicates and a zero target give as many picks as
    are useful, and `info["stopped"]` says why there are fewer.

    Five attributes are optional:
    has_target : ClassVar[bool], whether it fits a target; a solver without it looks at the rows alone and refuses one.
    example : ClassVar[Mapping[str, object]], settings with which the contract tests build it, where defaults do not do.
    together(tasks) : solves several problems as one batch where that is faster.
    represent(rows, k, goal, generator) : picks at most k rows that are nearest to the rows `goal` of other examples;
        None where its settings do not allow that.
    memory(n, k) : returns the bytes {"matrix", "solver"} that it needs besides n rows; without it, none are expected.
    operations(n, k, shape) : returns how many multiplications it takes to pick k of n rows of a `RowShape`; without it,
        none are expected.

    Raises BudgetError unless 1 <= k <= N, DataError naming the first row that is not finite.
    """

    reads: ClassVar[str | None]
    __dataclass_fields__: ClassVar[dict[str, Field]]

    def __call__(self, rows: Rows, k: int, *, target: Tensor | None = None, generator: Stream) -> Selection:
        """Pick at most k rows.

        target : what the weighted rows should sum to, as `rows.total` gives it; by default the sum of all rows.
        generator : random numbers, bound to the rows' example indices.
        """


def check_problem(rows: Rows, k: int) -> Tensor:
    """Return the rows' squared norms, (N,).

    Raises BudgetError or DataError for a count or rows that no solver can use.
    """
    require(find_type_problem("rows", Rows, rows))
    if isinstance(k, bool) or not isinstance(k, Integral) or not 1 <= k <= len(rows):
        raise BudgetError(must("k", f"a whole number in 1..{len(rows)}, the number of rows", k))
    norms = rows.squared_norms()
    position = find_first_not_finite(norms)
    if position is not None:
        raise DataError(f"gradient rows must be finite, got NaN or infinity in row {position}")
    return norms


def refuse_target(solver: object, target: Tensor | None) -> None:
    """Raise ConfigError if a target is passed to a solver that looks at the rows alone."""
    if target is not None:
        raise ConfigError(f"{type(solver).__name__} represents its own rows and takes no target; use GradMatch for one")


def estimate_memory(solver: object, n: int, k: int) -> dict[str, int]:
    """Return the bytes that a solver says it needs besides n rows; 0 if it does not say."""
    measure = getattr(solver, "memory", None)
    return measure(n, k) if measure else {"matrix": 0, "solver": 0}


def count_operations(solver: object, n: int, k: int, shape: RowShape) -> float:
    """Return how many multiplications a solver says it takes to pick k of n rows; 0 if it does not say."""
    measure = getattr(solver, "operations", None)
    if measure is None:
        return 0
    return measure(n, k, shape)


def find_scores_file(solver: object) -> str | None:
    """Return the file that a solver by scores reads them from, or None."""
    return getattr(solver, "scores", None)


def find_represent(solver: object) -> Callable[..., Selection] | None:
    """Return what a solver represents other examples' rows by, or None."""
    return getattr(solver, "represent", None)


def matrix_is_held(choice: str, n: int) -> bool:
    """Return whether a problem keeps its (n, n) matrix.

    "auto" keeps it up to 4 GB, on every machine, so that the answer does not depend on the machine.
    """
    return choice == "held" or (choice == "auto" and matrix_bytes(n) <= _HELD_UP_TO)


def weigh_equally(indices: Tensor, n: int) -> Selection:
    """Return all K picks that were asked for of n rows, at the weight n / K each."""
    weights = torch.full((len(indices),), n / len(indices), dtype=torch.float64, device=indices.device)
    return Selection(indices=indices, weights=weights, info={"stopped": "budget"})
