"""A moving average of a model's weights and buffers."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def build_average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return an exponential moving average of the model that decays by `decay` per step; None where that is None."""
    if decay is None:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def update_average(average: AveragedModel, model: nn.Module) -> None:
    """Move the average towards the model, after an optimiser step.

    From the second step on this does what `AveragedModel.update_parameters` does, which however sends its count to the
    device each time, and waits for that.
    """
    if int(average.n_averaged) == 0:  # it is on the CPU
        average.update_parameters(model)
        return
    pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    for mean, value in zip(_list_tensors(average.module), _list_tensors(model), strict=True):
        pairs.setdefault(mean.dtype, []).append((mean, value))
    for same_dtype in pairs.values():
        means, values = map(list, zip(*same_dtype, strict=True))
        average.multi_avg_fn(means, values, None)
    average.n_averaged += 1


def _list_tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
