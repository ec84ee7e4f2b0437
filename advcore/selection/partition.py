"""Split rows into problems, and share the number of picks between them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from advcore.data.contract import cut_into_chunks
from advcore.errors import BudgetError, DataError, must
from advcore.rng import Stream
from advcore.rows import FactoredRows, Rows
from advcore.shares import largest_remainder

Narrow = Callable[[Rows, int], Rows]
"""What a partition keeps of the rows of a class, given by its label."""


@dataclass(frozen=True)
class Problem:
    """One call of a solver.

    name : of the problem. load : loads its rows when they are needed, so that one problem's are in memory at a time.
    members : (n,) the example to which each row belongs. k : how many rows to pick.
    blocks : where a row stands for a whole block, the blocks; `members` then holds each block's first example.
    load_target : computes what the rows are to stand for, as `rows.total` does; None: their own sum.
    """

    name: str
    load: Callable[[], Rows]
    members: Tensor
    k: int
    blocks: Sequence[Tensor] | None = None
    load_target: Callable[[], Tensor] | None = None

    @property
    def rows(self) -> Rows:
        """The rows, loaded at each access."""
        return self.load()

    @property
    def target(self) -> Tensor | None:
        """(C, D + 1) float64, what the rows are to stand for, computed at each access; None: their own sum."""
        return None if self.load_target is None else self.load_target()


@dataclass(frozen=True, kw_only=True)
class Split:
    """What a partition works from.

    rows : N rows. labels : (N,), on the rows' device. budget : share to keep. block_size, blocks : for `per_batch`.
    stream : random numbers of the block permutation.
    goal, goal_labels : rows of other examples (a validation set) whose mean gradient is to be matched; None for that of
    the rows themselves.
    """

    rows: Rows
    labels: Tensor
    budget: float
    block_size: int
    blocks: str
    stream: Stream
    goal: Rows | None = None
    goal_labels: Tensor | None = None

    @property
    def k(self) -> int:
        """How many examples to pick in all: max(1, round(budget N))."""
        return max(1, round(self.budget * len(self.rows)))

    def build_target_loader(
        self, count: int, label: int | None = None, narrow: Narrow | None = None
    ) -> Callable[[], Tensor] | None:
        """Return a function that computes `count` times the goal's mean row; None if there is no goal.

        label : the mean is over the goal's examples of this class, as `narrow` leaves them; None: over all.
        Raises DataError if the goal has no example of the class.
        """
        goal = self.goal
        if goal is None:
            return None

        def scale(rows: Rows) -> Tensor:
            return (rows.total() * (count / len(rows))).to(self.rows.device)

        if label is None:
            return partial(scale, goal)
        assert self.goal_labels is not None and narrow is not None, "a class has its labels, and what is kept of it"
        indices = (self.goal_labels == label).nonzero()[:, 0]
        if not len(indices):
            rule = f"target: validation needs examples of every class, got none of class {label}"
            raise DataError(f"{rule}; use whole")

        def load() -> Tensor:
            return scale(narrow(goal.take(indices), label))

        return load


def split_whole(split: Split) -> list[Problem]:
    """Return one problem over all rows."""
    n = len(split.rows)
    everything = torch.arange(n, device=split.rows.device)
    return [Problem("all", lambda: split.rows, everything, split.k, load_target=split.build_target_loader(n))]


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


def _keep_rows(rows: Rows, label: int) -> Rows:
    return rows


def _keep_output(rows: Rows, label: int) -> Rows:
    """Keep the gradient of the label's logit; scores, which have no outputs, stay as they are."""
    return rows.output(label) if isinstance(rows, FactoredRows) else rows


def _split_by_class(split: Split, narrow: Narrow) -> list[Problem]:
    members = {int(label): (split.labels == label).nonzero()[:, 0] for label in split.labels.unique()}
    counts = largest_remainder(split.k, [len(indices) for indices in members.values()])
    return [
        _build_problem(split, narrow, label, indices, k)
        for (label, indices), k in zip(members.items(), counts, strict=True)
    ]


def _build_problem(split: Split, narrow: Narrow, label: int, members: Tensor, k: int) -> Problem:
    """Return the problem of one class; its rows are loaded when the solver asks for them."""

    def load() -> Rows:
        return narrow(split.rows.take(members), label)

    target = split.build_target_loader(len(members), label, narrow)
    return Problem(f"class {label}", load, members, k, load_target=target)


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
        rule = f"less than the {len(order)} examples"
        raise BudgetError(must("block_size", rule, split.block_size, "or use per_class"))
    k = max(1, round(split.budget * len(blocks)))
    first = torch.stack([block[0] for block in blocks])
    rows = split.rows.block_means(blocks)
    target = split.build_target_loader(len(blocks))
    return [Problem("blocks", lambda: rows, first, k, blocks=blocks, load_target=target)]


PARTITIONS: dict[str, Callable[[Split], list[Problem]]] = {
    "whole": split_whole,
    "per_class": split_per_class,
    "per_batch": split_per_batch,
    "per_class_per_gradient": split_per_class_per_gradient,
}
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
"""What the field calls them, to their names here (`errors.nearest`)."""
