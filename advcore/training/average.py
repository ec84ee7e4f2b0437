"""Averages of a model's weights: one that moves with each step, and an equal average of epochs."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel, get_ema_multi_avg_fn

from advcore.errors import ConfigError, check, describe_exception, must, require
from advcore.runtime.states import has_arithmetic, is_finite, unexpand_buffers
from advcore.settings import setting, settings

Update = Callable[[PARAM_LIST, PARAM_LIST, Tensor | int], None]


@settings
class SWA:
    """Average the weights at the ends of the last epochs, all weighted equally (stochastic weight averaging).

    From its first epoch on the average is what is evaluated and saved, each time with BatchNorm's statistics computed
    again on the epoch's images, clean and as augmented: one forward pass of each, in phase "update". It is worth most
    at a rate that stays up, as `constant` and `multi_step` have it.

    Parameters
    ----------
    start : share of the epochs that run before the first one that is averaged, in [0, 1).

    Reference: Izmailov et al. 2018, algorithm 1. Differs: the learning rate is that of `lr_schedule`.
    """

    start: float = setting(default=0.75, unit="share")

    def __post_init__(self) -> None:
        require(check(0 <= self.start < 1, "start", "a number in [0, 1)", self.start))


def build_average(model: nn.Module, decay: float | None, swa: SWA | None) -> AveragedModel | None:
    """Return an average of the model: one that decays by `decay` per update, or an equal one; None for neither.

    Raises ConfigError for a model that cannot be copied.
    """
    if decay is not None:
        return _copy_as_average(model, get_ema_multi_avg_fn(decay), "ema", decay)
    if swa is not None:
        return _copy_as_average(model, _average_equally, "swa", swa)
    return None


def _copy_as_average(model: nn.Module, update: Update, setting: str, value: object) -> AveragedModel:
    try:
        average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    except (RuntimeError, TypeError) as error:  # what copy.deepcopy raises
        rule = "null for a model that cannot be copied"
        raise ConfigError(must(setting, rule, value, describe_exception(error))) from error
    unexpand_buffers(average)
    return average


@torch.no_grad()
def _average_equally(means: PARAM_LIST, values: PARAM_LIST, count: Tensor | int) -> None:
    """Make the means of `count` values, all of one dtype, those of one more; of whole numbers keep the last.

    Where torch's `get_swa_multi_avg_fn` divides whole numbers, it fails.
    """
    if means[0].is_floating_point() or means[0].is_complex():
        torch._foreach_lerp_(means, values, 1 / (int(count) + 1))
        return
    for mean, value in zip(means, values, strict=True):
        mean.copy_(value)


def update_average(average: AveragedModel, model: nn.Module, infinite: Sequence[int] = ()) -> None:
    """Move the average towards the model; sparse and quantised tensors are copied.

    infinite : tensors that hold infinities (`find_infinite`), which are copied too: averaged, they would turn to NaN.
    From the second time on this does what `AveragedModel.update_parameters` does, which however sends its count to the
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
