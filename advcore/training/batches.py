"""What a training step works on: batches of an epoch, and one batch with all that belongs to it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from advcore.data.source import chunked
from advcore.rng import Stream
from advcore.types import Coreset


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B examples of an epoch, or this process's part of them.

    indices : (B,) long, into the training data. x : (B, C, H, W), augmented. y : (B,) labels. weights : (B,).
    attack_stream, rule_stream : random numbers of the attack and of the minibatch rule, bound to the examples.
    where : describes the step, for errors.
    images : size of the whole batch, of which these examples may be one process's part.
    factor : what this part's loss is multiplied by, so that the mean over the processes is the whole batch's loss.
    is_counted : whether the ledger counts this part; False where another process does the same work.
    """

    indices: Tensor
    x: Tensor
    y: Tensor
    weights: Tensor
    attack_stream: Stream
    rule_stream: Stream
    where: Callable[[], str]
    images: int
    factor: float = 1.0
    is_counted: bool = True


def split_into_batches(coreset: Coreset | None, n: int, size: int, stream: Stream) -> list[Tensor]:
    """Return an epoch's batches of indices: shuffled examples, or whole blocks in random order.

    coreset : what the epoch trains on; None for all n examples. size : examples per batch, where there are no blocks.
    """
    if coreset is None:
        return chunked(stream.at(torch.arange(n)).permutation(), size)
    if coreset.blocks is None:
        return chunked(coreset.indices[stream.at(coreset.indices).permutation()], size)
    blocks = [coreset.indices[coreset.blocks == block] for block in coreset.blocks.unique()]
    return [blocks[i] for i in stream.at(torch.arange(len(blocks))).permutation().tolist()]


def weigh_examples(coreset: Coreset | None, n: int, normalise: str, device: torch.device) -> Tensor:
    """Return the training weight (n,) of each example, on `device`: 1 where the coreset does not say otherwise."""
    weights = torch.ones(n, device=device)
    if coreset is not None:
        weights[coreset.indices.to(device)] = coreset.training_weights(normalise).to(device)
    return weights
