"""The batches of an epoch, and the weights of the examples in them."""

import torch
from torch import Tensor

from advcore.data.contract import Source, cut_into_chunks
from advcore.data.pool import Pooled
from advcore.rng import Stream
from advcore.selection.result import Coreset


def split_into_batches(
    coreset: Coreset | None, train: Source, size: int, stream: Stream, *, factors: Tensor | None = None
) -> list[Tensor]:
    """Return an epoch's batches of indices: shuffled examples, or whole blocks in random order.

    coreset : what the epoch trains on, or with a pool what of it; None for all of `train`. size : examples per batch,
        where there are no blocks.
    factors : (N,) of the examples' weights, where a rule leaves out those of 0 (`PlainStepper`): batches are full, and
        there are no blocks.
    """
    if factors is not None:
        indices = factors.nonzero()[:, 0].cpu()
        return cut_into_chunks(indices[stream.at(indices).permutation()], size)
    if coreset is None:
        return train.draw_batches(size, stream)
    if isinstance(train, Pooled):
        return train.draw_batches(size, stream, coreset.indices)
    indices = coreset.indices
    if coreset.blocks is None:
        return cut_into_chunks(indices[stream.at(indices).permutation()], size)
    blocks = [indices[coreset.blocks == block] for block in coreset.blocks.unique()]
    return [blocks[i] for i in stream.at(torch.arange(len(blocks))).permutation().tolist()]


def weigh_examples(
    coreset: Coreset | None, n: int, normalise: str, device: torch.device, *, factors: Tensor | None = None
) -> Tensor:
    """Return the training weight (n,) of each example, on `device`: 1 where the coreset does not say otherwise.

    factors : (n,) by which a rule multiplies the weights; None multiplies none.
    """
    weights = torch.ones(n, device=device)
    if coreset is not None:
        first = n - coreset.num_examples  # with a pool, whose images come after the real ones
        weights[coreset.indices.to(device) + first] = coreset.training_weights(normalise).to(device)
    if factors is not None:
        weights = weights * factors
    return weights


def describe_step(epoch: int, step: int, indices: Tensor) -> str:
    """Return the place of a training step on a batch of indices (B,), for errors."""
    return f"epoch {epoch}, step {step}, examples {indices[:8].tolist()}..."
