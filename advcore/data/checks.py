"""Checks of labels and single examples, and of whether data and model fit each other; errors name the example.

Each raises DataError.
"""

import contextlib
import logging
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn

from advcore.data.contract import SAMPLE, MapStyle, Source, read_first_images
from advcore.data.samples import read_sample, to_image
from advcore.errors import DataError, SettingProblem, describe_exception, must
from advcore.rng import preserve_random_state
from advcore.runtime.borrow import borrow, find_device
from advcore.runtime.outputs import read_logits
from advcore.unit_range import check_images as check_images

log = logging.getLogger(__name__)

# Takes labels (B,) and the indices (B,) of their examples; raises DataError.
LabelCheck = Callable[[Tensor, Tensor], None]


def check_labels(y: Tensor, indices: Tensor, num_classes: int) -> None:
    """Raise DataError at the first label of y (B,) that is outside 0..num_classes - 1."""
    bad = (y < 0) | (y >= num_classes)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise DataError(
            f"labels must be whole numbers in 0..{num_classes - 1}, got {int(y[first])} at example "
            f"{int(indices[first])}; renumber the labels, or use a model and data.num_classes with more classes"
        )


def list_first(entries: Sequence[object], most: int) -> str:
    """Write at most `most` entries, and dots if there are more."""
    more = ", ..." if len(entries) > most else ""
    return ", ".join(map(str, entries[:most])) + more


def make_label_check(source: Source, num_classes: int) -> LabelCheck:
    """Return a check for the labels of the source's batches.

    Where all labels are known, they are checked here at once, so that no batch has to wait for the device.
    """
    if source.class_counts() is None:
        return partial(check_labels, num_classes=num_classes)
    check_labels(source.labels(), torch.arange(len(source)), num_classes)
    return _accept


def _accept(y: Tensor, indices: Tensor) -> None:
    pass  # all labels have been checked before


def refuse_changes(source: Source) -> None:
    """Raise DataError if some examples change between reads, since an index must always name the same example."""
    changed = source.list_changed()
    if changed:
        raise DataError(
            f"the image of example {changed[0]} must be the same each time it is read, got other pixels the second "
            f"time ({len(changed)} of {min(SAMPLE, len(source))} examples checked changed); select and score on the "
            "plain, un-augmented view, and augment in training alone (`augment` of the trainer)"
        )


def read_example(dataset: MapStyle, i: int) -> tuple[Tensor, int]:
    """Return image (C, H, W) and label of the i-th example of a map-style data set.

    Raises DataError, with the index, for anything else, and in place of whatever the data set raises.
    """
    image, label = read_sample(dataset, i)
    return to_image(image, i), read_label(label, i)


def read_label(label: object, i: int) -> int:
    """Return a label as an int. Raises DataError for one that is not a whole number of at most 63 bits."""
    if isinstance(label, (Tensor, np.ndarray)) and math.prod(label.shape) == 1:
        label = label.item()
    try:
        if isinstance(label, SupportsIndex) and not isinstance(label, bool) and abs(operator.index(label)) < 2**63:
            return operator.index(label)
    except (TypeError, ValueError):  # arrays and tensors have __index__ whatever they hold
        pass
    way_out = "turn one-hot or text labels into class numbers, and floats by int(y)"
    raise DataError(f"label {i} must be a whole number, got {label!r}; {way_out}")


# Positions of examples, or a mask of them.
Indices = Tensor | np.ndarray | Sequence[int]
_SIGNED = (torch.int64, torch.int32, torch.int16, torch.int8)
_INDEX_TYPES = (*_SIGNED, torch.uint64, torch.uint32, torch.uint16)  # uint8 may be a mask, and has been one in torch


def read_indices(indices: Indices | None, size: int) -> Tensor:
    """Return positions (n,) long of some of `size` examples, given as whole numbers or as a mask (size,); None: of all.

    Raises DataError for anything else, and for positions that no example has.
    """
    if indices is None:
        return torch.arange(size)
    rule = "a list or tensor of whole numbers, or a mask"
    if isinstance(getattr(indices, "indices", None), (Tensor, Sequence)):  # of a coreset, or of torch's Subset
        raise DataError(must("indices", rule, type(indices).__name__, "pass its `indices`"))
    if not isinstance(indices, (Tensor, np.ndarray, Sequence)) or isinstance(indices, str):
        raise DataError(must("indices", rule, indices))
    try:
        positions = torch.as_tensor(indices).cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise DataError(must("indices", rule, indices)) from None
    if positions.numel() == 0:
        raise DataError("indices must name at least one example, got none")
    if positions.dtype == torch.bool and positions.shape == (size,):
        positions = positions.nonzero()[:, 0]
    if positions.ndim != 1 or positions.dtype not in _INDEX_TYPES:
        got = f"{positions.dtype} of shape {tuple(positions.shape)}"
        raise DataError(f"indices must be whole numbers (n,), or a mask of all {size} examples, got {got}")
    if not len(positions):
        raise DataError("indices must name at least one example, got a mask without any")
    positions = positions.long()
    if not 0 <= int(positions.min()) <= int(positions.max()) < size:
        got = f"{int(positions.min())} to {int(positions.max())}"
        raise DataError(f"indices must be in 0..{size - 1}, got {got}")
    return positions


def check_fits(model: nn.Module, source: Source, *, labels: bool = True) -> None:
    """Raise DataError unless the model takes the images and, if `labels` are to be looked at, has a class for each.

    Cost: one forward pass of two images. Streamed data whose labels are not known are read once, which checks their
    images too.
    """
    logits = _first_logits(model, source)
    if labels:
        check_labels(source.labels(), torch.arange(len(source)), logits.shape[1])


def explain_single_image(model: nn.Module, source: Source) -> str:
    """Return why the model, in train mode, takes no single image; "" if it does.

    BatchNorm does not where an image gives it one value per channel: there is no spread to normalise by. Cost: one
    forward pass of an image.
    """
    image = read_first_images(model, source)[:1]
    try:
        with preserve_random_state(), borrow(model, training=True), torch.no_grad():
            model(image)
    except ValueError as error:
        return describe_exception(error)
    return ""


def count_logits(model: nn.Module, source: Source) -> int:
    """Return how many logits the model gives an image. Raises DataError unless it takes the images.

    Cost: one forward pass of two images.
    """
    return _first_logits(model, source).shape[-1]


@contextlib.contextmanager
def explain_narrow_weights(model: nn.Module, x: Tensor) -> Iterator[None]:
    """Raise DataError where images x make torch fail inside, and the model has weights in half precision."""
    try:
        yield
    except RuntimeError as error:
        problem = _find_narrow_problem(model, x)
        if problem is None or isinstance(error, torch.OutOfMemoryError):
            raise
        raise DataError(problem) from error


def _find_narrow_problem(model: nn.Module, x: Tensor) -> SettingProblem | None:
    """Return why a model that raised an error at images x did so, if it has weights in half precision."""
    narrow = [tensor.dtype for tensor in model.parameters() if tensor.dtype in (torch.float16, torch.bfloat16)]
    if not narrow:
        return None
    way_out = "write model.float(), with Speed(autocast='bfloat16') for fast passes"
    return must("model", f"one that takes images in {x.dtype}", f"weights in {narrow[0]}", way_out)


def _first_logits(model: nn.Module, source: Source) -> Tensor:
    """Return the model's logits, in eval mode, for the first two images.

    Raises DataError if it raises anything, ConfigError if it returns no logits.
    """
    find_device(model)  # which refuses a model that holds no numbers yet
    x = read_first_images(model, source)
    try:
        with preserve_random_state(), borrow(model, training=False), torch.no_grad():
            output = model(x)
    except Exception as error:  # whatever a network raises at images that it cannot take
        message = (str(error).splitlines() or [""])[0]
        narrow = _find_narrow_problem(model, x)
        if narrow:
            raise DataError(narrow) from None
        way_out = "convert the images, or build the model for them"
        if isinstance(error, TypeError) and "argument" in message:
            way_out = "wrap it in a module that takes only images, as a positional argument"
        raise DataError(
            f"images must suit the model, got {source.shape} (channels, height, width), for which it "
            f"raises {type(error).__name__}: {message}; {way_out}"
        ) from None
    return read_logits(output, len(x))


def warn_of_absent(labels: Tensor, num_classes: int, what: str) -> None:
    """Log the classes that none of the labels belongs to. what : what has labels, such as "training example"."""
    absent = sorted(set(range(num_classes)) - set(labels.tolist()))
    if absent:
        log.warning("%d of %d classes have no %s: %s", len(absent), num_classes, what, list_first(absent, 10))
