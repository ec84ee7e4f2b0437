"""Split rows into problems, share the count between them, join the answers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advcore.apportion import largest_remainder
from advcore.data.source import chunked
from advcore.errors import BudgetError, must
from advcore.rng import Stream
from advcore.rows import FactoredRows, Rows


@dataclass(frozen=True)
class Problem:
    """One call of a solver: its name and rows, the example each row belongs to (n,), how many to pick, and, where a
    row stands for a whole block, the blocks (then `members` holds each block's first example)."""

    name: str
    rows: Rows
    members: Tensor
    k: int
    blocks: Sequence[Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Split:
    """What a partition works from.

    rows : N of them; labels : (N,) on the rows' device; budget : share to keep; block_size and blocks : of `per_batch`;
    stream : of the block permutation.
    """

    rows: Rows
    labels: Tensor
    budget: float
    block_size: int
    blocks: str
    stream: Stream

    @property
    def k(self) -> int:
        """max(1, round(budget N)), how many examples to pick in all."""
        return max(1, round(self.budget * len(self.rows)))


def whole(split: Split) -> list[Problem]:
    """One problem over all rows."""
    everything = torch.arange(len(split.rows), device=split.rows.device)
    return [Problem("all", split.rows, everything, split.k)]


def per_class(split: Split) -> list[Problem]:
    """One problem a class that is there; counts by largest remainder, so they sum to K."""
    return _by_class(split, lambda rows, label: rows)


def per_class_per_gradient(split: Split) -> list[Problem]:
    """One problem a class, on that class's own output row of the head's gradient alone (C times narrower)."""
    return _by_class(split, lambda rows, label: rows.output(label) if isinstance(rows, FactoredRows) else rows)


def _by_class(split: Split, narrow: Callable[[Rows, int], Rows]) -> list[Problem]:
    members = {int(c): (split.labels == c).nonzero()[:, 0] for c in split.labels.unique()}
    counts = largest_remainder(split.k, [len(own) for own in members.values()])
    return [
        Problem(f"class {label}", narrow(split.rows.take(own), label), own, k)
        for (label, own), k in zip(members.items(), counts, strict=True)
    ]


def per_batch(split: Split) -> list[Problem]:
    """One problem over blocks of training-batch size: rows are block means, whole blocks are picked.

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
    return [Problem("blocks", split.rows.block_means(blocks), torch.stack([b[0] for b in blocks]), k, blocks)]


PARTITIONS: dict[str, Callable[[Split], list[Problem]]] = {
    "whole": whole,
    "per_class": per_class,
    "per_batch": per_batch,
    "per_class_per_gradient": per_class_per_gradient,
}
