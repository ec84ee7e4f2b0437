"""Split rows into problems, and share the number of picks between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advcore.data.contract import cut_into_chunks
from advcore.errors import BudgetError, DataError, must
from advcore.gradients.base import Measurement
from advcore.rng import Stream
from advcore.rows import BlockRows, FactoredRows, Rows
from advcore.shares import apportion

Narrow = Callable[[Rows, int], Rows]  # what a partition keeps of the rows of a class, which its label names


def _keep_rows(rows: Rows, label: int) -> Rows:
    return rows


def _keep_output(rows: Rows, label: int) -> Rows:
    """Keep the gradient of the label's logit; scores, which have no outputs, stay as they are."""
    return rows.take_output(label) if isinstance(rows, FactoredRows) else rows


@dataclass(frozen=True)
class Problem:
    """One call of a solver.

    name : of the problem. load : loads its rows when they are needed, so that one problem's are in memory at a time.
    members : (n,) the example to which each row belongs. k : how many rows to pick.
    blocks : where a row represents a whole block, the blocks; `members` then holds each block's first example.
    load_target : computes what the rows are to represent, as `rows.total` does; None: their own sum.
    load_goal : loads the other examples' rows whose mean is that target, for solvers that represent them one by one.
    """

    name: str
    load: Callable[[], Rows]
    members: Tensor
    k: int
    blocks: Sequence[Tensor] | None = None
    load_target: Callable[[], Tensor] | None = None
    load_goal: Callable[[], Rows] | None = None

    @property
    def rows(self) -> Rows:
        """The rows, loaded at each access."""
        return self.load()

    @property
    def target(self) -> Tensor | None:
        """(C, D + 1) float64, what the rows are to represent, computed at each access; None: their own sum."""
        return None if self.load_target is None else self.load_target()

    @property
    def goal(self) -> Rows | None:
        """Other examples' rows that are to be represented, loaded at each access; None: none but the problem's."""
        return None if self.load_goal is None else self.load_goal()


@dataclass(frozen=True, kw_only=True)
class Split:
    """What a partition works from.

    rows : N rows. labels : (N,), on the rows' device. budget : share to keep. block_size, blocks : for `per_batch`.
    stream : random numbers of the block permutation.
    goal : other examples (a validation set) whose mean gradient is to be matched; without rows: that of the rows
    themselves. target : where it comes from, for errors (`SelectionSettings.target`).
    """

    rows: Rows
    labels: Tensor
    budget: float
    block_size: int
    blocks: str
    stream: Stream
    goal: Measurement = Measurement(rows=None, labels=None)
    target: str = "validation"

    @property
    def k(self) -> int:
        """How many examples to pick in all: max(1, round(budget N))."""
        return max(1, round(self.budget * len(self.rows)))

    def build_goal_loader(self, label: int | None = None, narrow: Narrow = _keep_rows) -> Callable[[], Rows] | None:
        """Return a function that loads the goal's rows; None if there is no goal.

        label : of the goal's examples of this class alone, as `narrow` leaves them; None: of all.
        Raises DataError if the goal has no example of the class.
        """
        if self.goal.rows is None:
            return None
        goal, labels = self.goal.get_rows_and_labels()
        if label is None:
            return lambda: goal
        if not bool((labels == label).any()):
            raise DataError(
                f"target: {self.target} needs examples of every class, got none of class {label}; use whole"
            )
        return lambda: narrow(goal.take((labels == label).nonzero()[:, 0]), label)

    def build_target_loader(
        self, count: int, label: int | None = None, narrow: Narrow = _keep_rows
    ) -> Callable[[], Tensor] | None:
        """Return a function that computes `count` times the goal's mean row; None if there is no goal.

        label, narrow : as in `build_goal_loader`, whose errors it raises.
        """
        load_goal = self.build_goal_loader(label, narrow)
        if load_goal is None:
            return None

        def load() -> Tensor:
            rows = load_goal()
            return (rows.total() * (count / len(rows))).to(self.rows.device)

        return load


def split_whole(split: Split) -> list[Problem]:
    """Return one problem over all rows."""
    n = len(split.rows)
    members = torch.arange(n, device=split.rows.device)
    load_target = split.build_target_loader(n)
    load_goal = split.build_goal_loader()
    return [Problem("all", lambda: split.rows, members, split.k, load_target=load_target, load_goal=load_goal)]


def split_per_class(split: Split) -> list[Problem]:
    """Return one problem per class that occurs, with counts in proportion.

    Counts are shared by largest remainder, so they sum to K; a class may get none.
    """
    return _split_by_class(split, _keep_rows)


def split_per_class_per_gradient(split: Split) -> list[Problem]:
    """Return one problem per class, on the gradient of that class's own logit alone.

    That is one of the C rows of the head's gradient: C times narrower. Differs: what the other logits' gradients say is
    not seen.
    """
    return _split_by_class(split, _keep_output)


def _split_by_class(split: Split, narrow: Narrow) -> list[Problem]:
    members = {int(label): (split.labels == label).nonzero()[:, 0] for label in split.labels.unique()}
    counts = apportion(split.k, [len(indices) for indices in members.values()])
    return [
        _build_problem(split, narrow, label, indices, k)
        for (label, indices), k in zip(members.items(), counts, strict=True)
    ]


def _build_problem(split: Split, narrow: Narrow, label: int, members: Tensor, k: int) -> Problem:
    """Return the problem of one class; its rows are loaded when the solver asks for them."""

    def load() -> Rows:
        return narrow(split.rows.take(members), label)

    return Problem(
        f"class {label}",
        load,
        members,
        k,
        load_target=split.build_target_loader(len(members), label, narrow),
        load_goal=split.build_goal_loader(label, narrow),
    )


def split_per_batch(split: Split) -> list[Problem]:
    """Return one problem over blocks of training-batch size, which are chosen whole.

    A row is the mean over a block; round(budget x blocks) of them, at least one, are chosen. Blocks are cut from a new
    seeded permutation at each selection ("permuted"), or from the data's own order, as published ("stored_order").
    """
    order = torch.arange(len(split.rows), device=split.rows.device)
    if split.blocks == "permuted":
        order = split.stream.at(order).permutation()
    blocks = cut_into_chunks(order, split.block_size)
    if len(blocks) == 1:
        rule = (
            f"at most {max(1, len(order) - 2)}, for two blocks of {len(order)} examples"  # a block of one joins another
        )
        raise BudgetError(must("block_size", rule, split.block_size, "or use per_class"))
    k = max(1, round(split.budget * len(blocks)))
    first = torch.stack([block[0] for block in blocks])
    rows = BlockRows(members=split.rows, blocks=tuple(blocks))
    load_target = split.build_target_loader(len(blocks))
    return [Problem("blocks", lambda: rows, first, k, blocks=blocks, load_target=load_target)]


PARTITIONS: dict[str, Callable[[Split], list[Problem]]] = {
    "whole": split_whole,
    "per_class": split_per_class,
    "per_batch": split_per_batch,
    "per_class_per_gradient": split_per_class_per_gradient,
}
# what the field calls them, to their names here (`errors.suggest_nearest`)
ALIASES = {
    "all": "whole",
    "full": "whole",
    "global": "whole",
    "none": "whole",
    "class": "per_class",
    "classwise": "per_class",
    "byclass": "per_class",
    "batch": "per_batch",
    "batchwise": "per_batch",
    "pb": "per_batch",
    "pergradient": "per_class_per_gradient",
}
