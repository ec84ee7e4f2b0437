"""Split rows into problems, share the count between them, join the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advcore.apportion import largest_remainder
from advcore.data.source import chunked
from advcore.errors import BudgetError, DataError, must
from advcore.rng import Stream
from advcore.rows import FactoredRows, Rows


@dataclass(frozen=True)
class Problem:
    """One call of a solver.

    name : of the problem. members : the example each row belongs to (n,). k : how many to pick.
    load : makes its rows, when they are asked for: one problem's are in memory at a time.
    blocks : where a row stands for a whole block, the blocks (then `members` holds each block's first example).
    load_target : makes what the rows are to stand for, as `rows.total` gives it; None: their own sum.
    """

    name: str
    load: Callable[[], Rows]
    members: Tensor
    k: int
    blocks: Sequence[Tensor] | None = None
    load_target: Callable[[], Tensor] | None = None

    @property
    def rows(self) -> Rows:
        """Made anew at each call."""
        return self.load()

    @property
    def target(self) -> Tensor | None:
        """(C, D + 1) float64, what the rows are to stand for; None: their own sum."""
        return None if self.load_target is None else self.load_target()


@dataclass(frozen=True, kw_only=True)
class Split:
    """What a partition works from.

    rows : N of them; labels : (N,) on the rows' device; budget : share to keep; block_size and blocks : of `per_batch`;
    stream : of the block permutation; goal, goal_labels : rows of other examples (a validation set) whose mean
    gradient is to be matched, None for the rows themselves.
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
        """max(1, round(budget N)), how many examples to pick in all."""
        return max(1, round(self.budget * len(self.rows)))

    def target(
        self, count: int, own: Tensor | None = None, narrow: Callable[[Rows], Rows] = lambda rows: rows
    ) -> Callable[[], Tensor] | None:
        """`count` times the goal's mean row, over all of it or over those at `own`, as `narrow` leaves them."""
        if self.goal is None:
            return None

        def load() -> Tensor:
            rows = narrow(self.goal if own is None else self.goal.take(own))
            return (rows.total() * (count / len(rows))).to(self.rows.device)

        return load


def whole(split: Split) -> list[Problem]:
    """One problem over all rows."""
    n = len(split.rows)
    everything = torch.arange(n, device=split.rows.device)
    return [Problem("all", lambda: split.rows, everything, split.k, load_target=split.target(n))]


def per_class(split: Split) -> list[Problem]:
    """One problem a class that is there; counts in proportion.

    By largest remainder, so they sum to K; a class may get none.
    """
    return _by_class(split, lambda rows, label: rows)


def per_class_per_gradient(split: Split) -> list[Problem]:
    """One problem a class, on the gradient of that class's own logit alone.

    One of the C rows of the head's gradient: C times narrower. Differs: what the other logits' gradients say is not
    seen.
    """
    return _by_class(split, lambda rows, label: rows.output(label) if isinstance(rows, FactoredRows) else rows)


def _by_class(split: Split, narrow: Callable[[Rows, int], Rows]) -> list[Problem]:
    members = {int(c): (split.labels == c).nonzero()[:, 0] for c in split.labels.unique()}
    counts = largest_remainder(split.k, [len(own) for own in members.values()])
    return [_of_class(split, narrow, label, own, k) for (label, own), k in zip(members.items(), counts, strict=True)]


def _of_class(split: Split, narrow: Callable[[Rows, int], Rows], label: int, own: Tensor, k: int) -> Problem:
    target = None
    if split.goal is not None:
        goal = (split.goal_labels == label).nonzero()[:, 0]
        if not len(goal):
            raise DataError(f"target: validation needs examples of every class, got none of class {label}; use whole")
        target = split.target(len(own), goal, lambda rows: narrow(rows, label))
    return Problem(f"class {label}", lambda: narrow(split.rows.take(own), label), own, k, load_target=target)


def per_batch(split: Split) -> list[Problem]:
    """One problem over blocks of training-batch size, which are picked whole.

    A row is a block's mean; round(budget x blocks) of them, at least one, are picked.
    "permuted": a fresh seeded permutation a selection; "stored_order": the data's own order, as published.
    """
    order = torch.arange(len(split.rows), device=split.rows.device)
    if split.blocks == "permuted":
        order = split.stream.at(order).permutation()
    blocks = chunked(order, split.block_size)
    if len(blocks) == 1:
        raise BudgetError(
            must("block_size", f"less than the {len(order)} examples", split.block_size, "or use per_class")
        )
    k = max(1, round(split.budget * len(blocks)))
    first = torch.stack([block[0] for block in blocks])
    rows = split.rows.block_means(blocks)
    return [Problem("blocks", lambda: rows, first, k, blocks, split.target(len(blocks)))]


PARTITIONS: dict[str, Callable[[Split], list[Problem]]] = {
    "whole": whole,
    "per_class": per_class,
    "per_batch": per_batch,
    "per_class_per_gradient": per_class_per_gradient,
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
