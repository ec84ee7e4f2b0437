"""Problems of many rows in two rounds: solve random blocks of them, then blocks of those rounds' winners.

A problem of n rows keeps no matrix larger than that of a block, and each row is compared with those of its block alone:
O(n size (C + D)) in place of O(n^2 (C + D)). Both rounds cut at random, so that a block looks like the whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from advcore.errors import SettingProblem, check_at_least, unless
from advcore.rng import Stream
from advcore.rows import Rows
from advcore.runtime.signals import check
from advcore.shares import apportion, divide
from advcore.solvers.base import RowShape
from advcore.types import Facts, Selection

LEAST_BLOCK = 64
_SURPLUS = 2  # winners of the first round for each pick, or more where they fit in a block

# rows of a block, how many to pick, what they are to sum to, and random numbers, to the answer
Match = Callable[[Rows, int, Tensor, Stream], Selection]
# rows of a block, how many rows each represents, how many to pick, and random numbers, to the answer
Cluster = Callable[[Rows, Tensor, int, Stream], Selection]


@dataclass(frozen=True)
class Block:
    """members : (b,) positions of rows. k : how many of them to pick. stream : its random numbers."""

    members: Tensor
    k: int
    stream: Stream


def cut_into_blocks(members: Tensor, k: int, *, size: int, stream: Stream) -> list[Block]:
    """Cut positions into random blocks of at most about `size` rows, each with its share of k; those without go."""
    order = members[stream.take(members).permutation()]
    pieces = order.split(size)
    counts = apportion(k, [len(piece) for piece in pieces])
    pairs = enumerate(zip(pieces, counts, strict=True))
    return [Block(piece, count, stream.child(i).take(piece)) for i, (piece, count) in pairs if count]


def find_block_problem(size: int | None) -> SettingProblem | None:
    """Return what is wrong with a setting `block_size`; None for none, or where it is left out."""
    return unless(size is None, check_at_least("block_size", size, LEAST_BLOCK))


def count_winners(n: int, k: int, size: int) -> int:
    """Return how many of n rows the first round picks for k of the second."""
    return min(n, max(_SURPLUS * k, size))


def count_in_blocks(
    operations: Callable[[int, int, RowShape], float], n: int, k: int, shape: RowShape, size: int
) -> float:
    """Return how many multiplications both rounds take, where a block of b rows and c picks takes operations(b, c)."""
    winners = count_winners(n, k, size)
    first = n / size * operations(size, max(1, round(winners * size / n)), shape)
    b = min(size, winners)
    return first + winners / b * operations(b, max(1, round(k * b / winners)), shape)


def match_in_blocks(match: Match, rows: Rows, k: int, *, target: Tensor, size: int, stream: Stream) -> Selection:
    """Pick at most k rows whose weighted sum is near the target.

    In the first round each block picks winners for its part of the target: a block's worth in all, or twice k. In the
    second the winners, in new blocks where they are more than one, pick their shares: each block is also to make up for
    what the blocks before it left over. So the whole error is that of the last block's problem, whatever the others':
    `info["residual"]` is that error over the target's norm, exactly.
    """
    first = cut_into_blocks(_list_all(rows), count_winners(len(rows), k, size), size=size, stream=stream.child("first"))
    winners = torch.cat([block.members[answer.indices] for block, answer in _match(match, rows, first, target)])
    second = cut_into_blocks(winners, min(len(winners), k), size=size, stream=stream.child("second"))
    answers = [answer for _, answer in _match(match, rows, second, target, makes_up=True)]
    indices = torch.cat([block.members[answer.indices] for block, answer in zip(second, answers, strict=True)])
    weights = torch.cat([answer.weights for answer in answers])
    error = float(divide((rows.combine(indices, weights) - target).norm(), target.norm()))
    facts = {"residual": error, "rounds": max(answer.info.get("rounds", 1) for answer in answers)}
    return Selection(indices=indices, weights=weights, info=_describe(first, answers, len(indices) == k) | facts)


def _match(
    match: Match, rows: Rows, blocks: Sequence[Block], target: Tensor, *, makes_up: bool = False
) -> list[tuple[Block, Selection]]:
    """Return each block and its answer to its part of the target; `makes_up`: and to what is left of those before."""
    n = sum(len(block.members) for block in blocks)
    left = torch.zeros_like(target)
    pairs = []
    for block in blocks:
        check()
        wanted = target * (len(block.members) / n) + left
        answer = match(rows.take(block.members), block.k, wanted, block.stream)
        if makes_up:
            left = wanted - rows.combine(block.members[answer.indices], answer.weights)
        pairs.append((block, answer))
    return pairs


def cluster_in_blocks(cluster: Cluster, rows: Rows, k: int, *, size: int, stream: Stream) -> Selection:
    """Pick at most k rows as medoids of all.

    In the first round each block picks winners as medoids of its rows, as many as in `match_in_blocks`. In the second
    the winners, each of which counts as many times as there are rows it is nearest to, pick their shares. Weights are
    numbers of rows, and sum to N. By the triangle inequality a row is not farther from the pick that represents it than
    the sum of both rounds' distances; of each round, on its block, greedy picks are within 1 - 1/e of the best
    objective.
    """
    counts = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    blocks = cut_into_blocks(
        _list_all(rows), count_winners(len(rows), k, size), size=size, stream=stream.child("first")
    )
    first = blocks
    winners, sizes, _ = _cluster(cluster, rows, blocks, counts)
    counts[winners] = sizes
    blocks = cut_into_blocks(winners, min(len(winners), k), size=size, stream=stream.child("second"))
    indices, weights, answers = _cluster(cluster, rows, blocks, counts)
    return Selection(indices=indices, weights=weights, info=_describe(first, answers, len(indices) == k))


def _cluster(
    cluster: Cluster, rows: Rows, blocks: Sequence[Block], counts: Tensor
) -> tuple[Tensor, Tensor, list[Selection]]:
    answers = []
    for block in blocks:
        check()
        answers.append(cluster(rows.take(block.members), counts[block.members], block.k, block.stream))
    pairs = list(zip(blocks, answers, strict=True))
    indices = torch.cat([block.members[answer.indices] for block, answer in pairs])
    return indices, torch.cat([answer.weights for answer in answers]), answers


def _list_all(rows: Rows) -> Tensor:
    return torch.arange(len(rows), device=rows.device)


def _describe(first: Sequence[Block], answers: Sequence[Selection], is_complete: bool) -> Facts:
    reasons = [answer.info["stopped"] for answer in answers if answer.info["stopped"] != "budget"]
    stopped = "budget" if is_complete else next(iter(reasons), "fewer winners than picks")
    return {"stopped": stopped, "blocks": [len(first), len(answers)]}
