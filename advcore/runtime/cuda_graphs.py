"""CUDA graphs: work that comes a second time is recorded once, and from then on launched as a whole."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from itertools import chain
from typing import NoReturn

import torch
from torch import Tensor, nn

from advcore.errors import ConfigError, describe_exception, must
from advcore.runtime.device import capture_graph

_MOST = 4  # graphs that are kept: each holds the memory that its work takes
# the last graphs by key; None for work that was asked for once and is not recorded yet
_recordings: OrderedDict[Hashable, "RecordedWork | None"] = OrderedDict()

Work = Callable[..., Tensor]


class RecordedWork:
    """`work(*inputs)` as one graph, on copies of the inputs whose addresses never change."""

    def __init__(self, work: Work, inputs: Sequence[Tensor]) -> None:
        self.inputs = [tensor.detach().clone() for tensor in inputs]
        self.run, self.output = capture_graph(partial(work, *self.inputs), inputs[0].device)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        for copy, tensor in zip(self.inputs, inputs, strict=True):
            copy.copy_(tensor)
        self.run()
        return self.output.clone()


def replay(model: nn.Module, key: Hashable, work: Work, inputs: Sequence[Tensor]) -> Tensor | None:
    """Return `work(*inputs)` by its graph; None the first time, when the caller runs the work itself.

    model : the model whose weights and buffers the work reads. Their values may change between calls; once one lies at
        another address, the work is recorded again.
    key : everything else that the work depends on, besides the inputs' shapes and types. Work whose key has no hash is
        never recorded, and gives None.

    The same kernels run on the same numbers, so the result is the plain one's. Cost: the memory of all intermediate
    results of the work, for each of the last 4 graphs. Raises ConfigError, naming `speed.graphed`, for work that waits
    for the device.
    """
    shapes = tuple((tensor.shape, tensor.dtype, tensor.stride(), tensor.device) for tensor in inputs)
    device_type = inputs[0].device.type
    precision = (torch.is_autocast_enabled(device_type), torch.get_autocast_dtype(device_type))
    # a graph reads weights and buffers where they lay when it was recorded
    addresses = tuple((tensor.data_ptr(), tensor.stride()) for tensor in chain(model.parameters(), model.buffers()))
    graph_key = (model, key, shapes, precision, addresses)
    try:
        hash(graph_key)
    except TypeError:
        return None
    if graph_key not in _recordings:
        _recordings[graph_key] = None
        while len(_recordings) > _MOST:
            _recordings.popitem(last=False)
        return None
    recording = _recordings.pop(graph_key)
    if recording is None:
        try:
            recording = RecordedWork(work, inputs)
        except RuntimeError as error:
            _raise_cause(error)
    _recordings[graph_key] = recording  # the last to be forgotten
    return recording(inputs)


def _raise_cause(error: RuntimeError) -> NoReturn:
    """Raise why a recording failed: OutOfMemoryError if memory ran out in it, else ConfigError."""
    for cause in (error, error.__context__):  # the failed end of a recording hides why it was interrupted
        if isinstance(cause, torch.OutOfMemoryError):
            raise cause from None  # a smaller piece may fit
    way_out = f"the device refused to record the attack ({describe_exception(error)})"
    raise ConfigError(must("speed.graphed", "false for this model and attack", True, way_out)) from error


def forget() -> None:
    """Release all graphs, their memory and their models."""
    _recordings.clear()
