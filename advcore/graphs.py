"""Work on a CUDA device, recorded as one graph when it comes again and asked for at once from then on."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor, nn

from advcore.device import captured
from advcore.errors import ConfigError, in_a_line, must

_MOST = 4  # graphs that are kept: each holds the memory that its work takes
_kept: OrderedDict[Hashable, "Recorded | None"] = OrderedDict()

Work = Callable[..., Tensor]


class Recorded:
    """`work(*inputs)` as one graph, on copies of the inputs that stay where they are."""

    def __init__(self, work: Work, inputs: Sequence[Tensor]):
        self.inputs = [one.clone() for one in inputs]
        self.run, self.output = captured(lambda: work(*self.inputs), inputs[0].device)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.run()
        return self.output.clone()


def replayed(model: nn.Module, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> Tensor | None:
    """`work(*inputs)` by its graph; None the first time that it is asked for, when it is to be done as it stands.

    model : whose weights and buffers the work reads, wherever they lie: they may change, not move.
    key : with the inputs' shapes and types, all else that the work depends on.

    The same kernels on the same numbers: the result is the plain one's. Cost: memory of the work's whole course for
    each of the 4 last graphs. Raises ConfigError, naming `speed.graphed`, for work that waits for the device.
    """
    key = (model, key, tuple((one.shape, one.dtype, one.stride(), one.device) for one in inputs))
    if key not in _kept:
        _kept[key] = None
        while len(_kept) > _MOST:
            _kept.popitem(last=False)
        return None
    _kept.move_to_end(key)
    if _kept[key] is None:
        try:
            _kept[key] = Recorded(work, inputs)
        except torch.OutOfMemoryError:
            del _kept[key]
            raise  # a smaller piece may fit
        except RuntimeError as error:
            del _kept[key]
            way_out = f"the device refused to record the attack ({in_a_line(error)})"
            raise ConfigError(must("speed.graphed", "false for this model and attack", True, way_out)) from error
    return _kept[key](inputs)


def forget() -> None:
    """Let go of all graphs, their memory and their models."""
    _kept.clear()
