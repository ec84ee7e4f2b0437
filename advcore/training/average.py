"""The moving average of a model's weights."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from advcore.errors import ConfigError, describe_exception, must
from advcore.runtime.states import has_arithmetic, is_finite, unexpand_buffers


def build_average(model: nn.Module, decay: float | None) -> AveragedModel | None:
    """Return an exponential moving average of the model that decays by `decay` per step; None where that is None.

    Raises ConfigError for a model that cannot be copied.
    """
    if decay is None:
        return None
    try:
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
    except (RuntimeError, TypeError) as error:  # what copy.deepcopy raises
        rule = "null for a model that cannot be copied"
        raise ConfigError(must("ema", rule, decay, describe_exception(error))) from error
    unexpand_buffers(average)
    return average


def update_average(average: AveragedModel, model: nn.Module, infinite: Sequence[int] = ()) -> None:
    """Move the average towards the model, after an optimiser step; sparse and quantised tensors are copied.

    infinite : tensors that hold infinities (`find_infinite`), which are copied too: averaged, they would turn to NaN.
    From the second step on this does what `AveragedModel.update_parameters` does, which however sends its count to the
    device each time, and waits for that.
    """
    if int(average.n_averaged) == 0:  # it is on the CPU
        average.update_parameters(model)
        return
    assert average.multi_avg_fn is not None, "`build_average` sets it"
    pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
    tensors = list(zip(_list_tensors(average.module), _list_tensors(model), strict=True))
    for mean, value in tensors:
        if has_arithmetic(value):
            pairs.setdefault(mean.dtype, []).append((mean, value))
        else:
            mean.copy_(value)
    for same_dtype in pairs.values():
        means, values = map(list, zip(*same_dtype, strict=True))
        average.multi_avg_fn(means, values, average.n_averaged)
    for i in infinite:
        mean, value = tensors[i]
        mean.copy_(torch.where(torch.isfinite(value), mean, value))
    average.n_averaged += 1


def find_infinite(model: nn.Module) -> list[int]:
    """Return which of the model's parameters and buffers, by position, hold NaN or infinity, as a mask may."""
    return [i for i, tensor in enumerate(_list_tensors(model)) if not is_finite(tensor)]


def _list_tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
