"""What several processes picked of their parts of the batches, put together, and how much each part weighs."""

from typing import TypeVar

import torch
from torch import Tensor

from advcore import distributed
from advcore.shares import divide

# (N,) which examples were picked, or how often; None before there is an epoch of picks.
Picks = TypeVar("Picks", Tensor, Tensor | None)


def sum_picks(tensor: Picks) -> Picks:
    """Return the sum over all processes, in the tensor's dtype: of bools, whether any is true. None stays None."""
    if tensor is None:
        return tensor
    return distributed.sum_tensor(tensor.long()).to(tensor.dtype)


def restore_picks(total: Picks, device: torch.device) -> Picks:
    """Return this process's part of a saved sum: all of it in the first process, else zeros. None stays None."""
    if total is None:
        return total
    return total.to(device) * distributed.is_first()


def weigh_picks(weights: Tensor, normalise: str) -> tuple[float, int]:
    """Return a factor for this process's mean over its picks, and how many picks all processes have.

    With the factor, the mean over the processes is the mean over all picks. weights : of this process's picks.
    """
    mass = float(weights.sum()) if normalise == "batch" else float(len(weights))
    total, images = distributed.sum_numbers([mass, float(len(weights))])
    return distributed.weigh_mean(mass, total), int(images)


def weigh_part(part_weights: Tensor, weights: Tensor, batch: Tensor, normalise: str) -> float:
    """Return a factor for one process's mean loss; with it, the mean over the processes is the whole batch's mean.

    part_weights : of the process's part of the batch. weights : (N,) of all examples. batch : (B,) long, indices of the
    whole batch. The factor is 1 where the process does the whole batch.
    """
    if len(part_weights) == len(batch):
        return 1.0
    if normalise == "batch":
        share = float(divide(part_weights.sum(), weights[batch.to(weights.device)].sum()))
        return distributed.weigh_mean(share, 1)
    return distributed.weigh_mean(len(part_weights), len(batch))
