"""Checks of labels and single examples, which name the example, and of whether data and model fit each other.

Each raises DataError.
"""

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import SupportsIndex

import torch
from torch import Tensor, nn

from advcore.data.contract import MapStyle, Source, read_first_images
from advcore.errors import DataError, describe_exception
from advcore.rng import preserve_random_state
from advcore.runtime.borrow import borrow
from advcore.unit_range import check_images as check_images

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
    """Write at most so many entries, and dots if there are more."""
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


def read_example(dataset: MapStyle, i: int) -> tuple[Tensor, int]:
    """Return image (C, H, W) and label of the i-th example of a map-style data set.

    Raises DataError, with the index, for anything else, and in place of whatever the data set raises.
    """
    try:
        item = dataset[i]
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"example {i} cannot be read: {describe_exception(error)}") from error
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        raise DataError(f"example {i} must be a pair (x, y), got {type(item).__name__}")
    image = item[0]
    if not isinstance(image, Tensor) or image.ndim != 3:
        got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise DataError(f"image {i} must be a tensor (C, H, W), got {got}; add torchvision.transforms.ToTensor()")
    return image, _read_label(item[1], i)


def _read_label(label: object, i: int) -> int:
    """Return a label as an int. Raises DataError for one that is no whole number of at most 63 bits."""
    if isinstance(label, Tensor) and label.ndim == 0:
        label = label.item()
    try:
        if isinstance(label, SupportsIndex) and not isinstance(label, bool) and abs(operator.index(label)) < 2**63:
            return operator.index(label)
    except (TypeError, ValueError):  # arrays and tensors have __index__ whatever they hold
        pass
    raise DataError(f"label {i} must be a whole number, got {label!r}; turn one-hot or text labels into class numbers")


def check_fits(model: nn.Module, source: Source, *, labels: bool = True) -> None:
    """Raise DataError unless the model takes the images and, if `labels` are to be looked at, has a class for each.

    Cost: one forward pass of two images. Streamed data whose labels are not known are read once, which checks their
    images too.
    """
    logits = _first_logits(model, source)
    if labels and isinstance(logits, Tensor) and logits.ndim == 2:
        check_labels(source.labels(), torch.arange(len(source)), logits.shape[1])


def count_logits(model: nn.Module, source: Source) -> int:
    """Return how many logits the model gives an image. Raises DataError unless it takes the images.

    Cost: one forward pass of two images.
    """
    return _first_logits(model, source).shape[-1]


def _first_logits(model: nn.Module, source: Source) -> Tensor:
    """Return the model's output, in eval mode, for the first two images. Raises DataError if it raises anything."""
    x = read_first_images(model, source)
    try:
        with preserve_random_state(), borrow(model, training=False), torch.no_grad():
            return model(x)
    except Exception as error:  # whatever a network raises at images that it cannot take
        message = (str(error).splitlines() or [""])[0]
        raise DataError(
            f"images must be ones that the model takes, got {source.shape} (channels, height, width), at which it "
            f"raises {type(error).__name__}: {message}; convert the images, or build the model for them"
        ) from None
