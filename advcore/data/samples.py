"""What the samples of other libraries' data sets hold: pairs or mappings, images of torch, numpy or PIL."""

import contextlib
from collections.abc import Mapping, Sequence, Sized
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from advcore.data.contract import MapStyle
from advcore.errors import DataError, describe_exception

IMAGE_KEYS = ("image", "img", "images", "pixel_values", "x")
LABEL_KEYS = ("label", "labels", "y", "target", "targets")
_CHANNELS = (1, 3, 4)


def count_examples(dataset: object) -> int:
    """Return the length of a map-style data set. Raises DataError for what is none."""
    is_indexed = isinstance(dataset, Sized) and hasattr(dataset, "__getitem__")
    if is_indexed and not isinstance(dataset, (type, str, DataLoader, IterableDataset)):
        with contextlib.suppress(TypeError):  # of a subset of what has no length
            return len(cast(Sized, dataset))
    got = f"{getattr(dataset, '__name__', type(dataset).__name__)}{suggest_data(dataset)}"
    raise DataError(f"the data set must be map-style, with a length, got {got}")


def read_sample(dataset: MapStyle, i: int) -> tuple[object, object]:
    """Return image and label of the i-th example as they are: of a pair (x, y, ...), or of a mapping by its keys.

    Raises DataError, with the index, for anything else, and in place of whatever the data set raises.
    """
    try:
        item: object = dataset[i]
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"example {i} cannot be read: {describe_exception(error)}{suggest_data(dataset)}") from error
    if isinstance(item, (tuple, list)) and len(item) >= 2:
        return item[0], item[1]
    if isinstance(item, Mapping):
        return _find_value(item, IMAGE_KEYS, "image", i), _find_value(item, LABEL_KEYS, "label", i)
    raise DataError(f"example {i} must be a pair (x, y), got {type(item).__name__}{suggest_data(dataset)}")


def _find_value(item: Mapping, keys: Sequence[str], what: str, i: int) -> object:
    present = [key for key in keys if key in item]
    if len(present) != 1:
        raise DataError(
            f"example {i} must have one of the keys {', '.join(keys)} for its {what}, got {', '.join(map(str, item))}; "
            "or return a pair (x, y)"
        )
    return item[present[0]]


def suggest_data(dataset: object) -> str:
    """Return what to write in place of an object that is no map-style data set, after "; "."""
    if isinstance(dataset, type):
        return "; that is a class: make an object of it"
    if isinstance(dataset, DataLoader):
        return "; give the loader's data set, loader.dataset: examples are read by their index, in batches of our own"
    if isinstance(dataset, str):
        return "; load it first, as in advcore.data.Digits().load(device).train"
    if not hasattr(dataset, "__getitem__") and hasattr(dataset, "train"):
        return "; give one part of it, such as its `train`"
    if isinstance(dataset, Mapping) and dataset and all(isinstance(key, str) for key in dataset):
        return f"; give one data set of it, such as that of {next(iter(dataset))!r}, or TensorDataset(x, y) of arrays"
    if _are_arrays(dataset):
        return "; of tensors, make torch.utils.data.TensorDataset(images, labels)"
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") and hasattr(dataset, "__iter__"):
        return "; examples are read by their index: keep what it yields in a list, list(...)"
    return "; an example is (image, label), or a mapping with such keys"


def _are_arrays(dataset: object) -> bool:
    """Whether this is an array, or a list or tuple of two as long as each other, rather than of examples."""
    if isinstance(dataset, (list, tuple)) and len(dataset) == 2:
        return all(isinstance(entry, (Tensor, np.ndarray)) for entry in dataset)
    return isinstance(dataset, (Tensor, np.ndarray))


def to_image(image: object, i: int) -> Tensor:
    """Return an image as a tensor (C, H, W): a tensor as it is, one of PIL or numpy converted, values unchanged.

    A numpy array is (H, W), (H, W, C) or (C, H, W), by which end has 1, 3 or 4 channels. Raises DataError, with the
    index, for other images, and where both ends could be channels.
    """
    if not isinstance(image, Tensor):
        image = _convert_image(image, i)
    if image.ndim != 3:
        raise DataError(_describe_image(i, tuple(image.shape)))
    return image


def _convert_image(image: object, i: int) -> Tensor:
    mode = getattr(image, "mode", None)  # of PIL
    if isinstance(mode, str) and hasattr(image, "getbands"):
        if mode not in ("L", "RGB"):
            raise DataError(f"image {i} must be in mode L or RGB, got {mode}; add image.convert('RGB')")
        image = np.asarray(image)
    if not isinstance(image, np.ndarray):
        raise DataError(_describe_image(i, type(image).__name__))
    if image.dtype.kind not in "uif":
        raise DataError(_describe_image(i, f"an ndarray of {image.dtype}"))
    if image.ndim == 2:
        image = image[:, :, None]
    if image.ndim == 3 and image.shape[2] in _CHANNELS:
        if image.shape[0] in _CHANNELS:
            raise DataError(_describe_image(i, f"an ndarray {image.shape}, in which both ends may be channels"))
        image = image.transpose(2, 0, 1)
    return torch.from_numpy(np.array(image, order="C"))  # a copy: the array may not be written to


def _describe_image(i: int, got: object) -> str:
    return f"image {i} must be a tensor (C, H, W), got {got}; add torchvision.transforms.ToTensor()"
