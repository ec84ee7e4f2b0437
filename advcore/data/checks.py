"""Checks of images, labels and single examples; each raises DataError with the index of the example."""

import operator
from collections.abc import Callable
from functools import partial
from typing import SupportsIndex

import torch
from torch import Tensor

from advcore.data.contract import MapStyle, Source
from advcore.errors import DataError, describe_exception

_TOLERANCE = 1e-4

LabelCheck = Callable[[Tensor, Tensor], None]
"""Takes labels (B,) and the indices (B,) of their examples; raises DataError."""


def check_images(x: Tensor, indices: Tensor) -> None:
    """Raise DataError at the first image of x (B, C, H, W) that is not finite or not in [0, 1] (tolerance 1e-4)."""
    if x.dtype == torch.uint8:
        return
    if not x.dtype.is_floating_point:
        raise DataError(f"images must be uint8, or floats in [0, 1], got {x.dtype}")
    pixels = x.flatten(1)
    if not pixels.shape[1]:
        raise DataError(f"images must have pixels, got {tuple(x.shape[1:])} (channels, height, width)")
    low = pixels.amin(1)
    high = pixels.amax(1)
    bad = ~((low >= -_TOLERANCE) & (high <= 1 + _TOLERANCE))
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise DataError(
            f"images must be finite and in [0, 1], got minimum {low[first]:.4g} and maximum {high[first]:.4g} in image "
            f"{int(indices[first])}; divide 0-255 values by 255, and make normalisation the model's first layer"
        )


def check_labels(y: Tensor, indices: Tensor, num_classes: int) -> None:
    """Raise DataError at the first label of y (B,) that is outside 0..num_classes - 1."""
    bad = (y < 0) | (y >= num_classes)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise DataError(
            f"labels must be whole numbers in 0..{num_classes - 1}, got {int(y[first])} at example "
            f"{int(indices[first])}; renumber the labels, or use a model and data.num_classes with more classes"
        )


def list_first(numbers: list[int], most: int) -> str:
    """Write at most so many numbers, and dots if there are more."""
    more = ", ..." if len(numbers) > most else ""
    return ", ".join(map(str, numbers[:most])) + more


def label_check(source: Source, num_classes: int) -> LabelCheck:
    """Return a check for the labels of the source's batches.

    Where all labels are known, they are checked here at once, so that no batch has to wait for the device.
    """
    if source.class_counts() is None:
        return partial(check_labels, num_classes=num_classes)
    check_labels(source.labels(), torch.arange(len(source)), num_classes)
    return _accept


def _accept(y: Tensor, indices: Tensor) -> None:
    pass  # all labels have been checked before


def item_of(dataset: MapStyle, i: int) -> tuple[Tensor, int]:
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
