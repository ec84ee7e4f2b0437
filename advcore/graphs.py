"""Work on a CUDA device, recorded as one graph when it comes again and asked for at once from then on."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from itertools import chain

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
        self.inputs = [one.detach().clone() for one in inputs]
        self.run, self.output = captured(lambda: work(*self.inputs), inputs[0].device)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.run()
        return self.output.clone()


def replayed(model: nn.Module, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> Tensor | None:
    """`work(*inputs)` by its graph; None the first time that it is asked for, when it is to be done as it stands.

    model : whose weights and buffers the work reads where they lie: they may change; once one lies elsewhere, the graph
        is another.
    key : with the inputs' shapes and types, all else that the work depends on; one that has no hash has no graph.

    The same kernels on the same numbers: the result is the plain one's. Cost: memory of the work's whole course for
    each of the 4 last graphs. Raises ConfigError, naming `speed.graphed`, for work that waits for the device.
    """
    given = tuple((one.shape, one.dtype, one.stride(), one.device) for one in inputs)
    outer = torch.is_autocast_enabled(inputs[0].device.type), torch.get_autocast_dtype(inputs[0].device.type)
    key = (model, key, given, outer, _places(model))
    try:
        hash(key)
    except TypeError:
        return None
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
            if isinstance(error.__context__, torch.OutOfMemoryError):
                raise error.__context__ from None  # the end of a recording that broke off hides why it did
            way_out = f"the device refused to record the attack ({in_a_line(error)})"
            raise ConfigError(must("speed.graphed", "false for this model and attack", True, way_out)) from error
    return _kept[key](inputs)


def _places(model: nn.Module) -> tuple:
    """Where its weights and buffers lie, which is where a graph reads."""
    return tuple((one.data_ptr(), one.stride()) for one in chain(model.parameters(), model.buffers()))


def forget() -> None:
    """Let go of all graphs, their memory and their models."""
    _kept.clear()
