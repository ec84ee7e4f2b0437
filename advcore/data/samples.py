"""Samples of other libraries' data sets: pairs or mappings, with images of torch, numpy or PIL."""

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
    return _split_item(_read_item(dataset, i), i, dataset)


def _split_item(item: object, i: int, dataset: MapStyle) -> tuple[object, object]:
    if isinstance(item, (tuple, list)) and len(item) >= 2:
        return item[0], item[1]
    if isinstance(item, Mapping):
        return item[_find_key(item, IMAGE_KEYS, "image", i)], item[_find_key(item, LABEL_KEYS, "label", i)]
    raise DataError(f"example {i} must be a pair (x, y), got {type(item).__name__}{suggest_data(dataset)}")


def add_weight(dataset: MapStyle, i: int, weight: Tensor) -> tuple[Tensor, object, Tensor] | dict[str, object]:
    """Return the i-th example with a weight (): (x, y, w), or a mapping with all its keys and "weight".

    Images of PIL and numpy become tensors (C, H, W). Raises DataError as `read_sample` does, and for a mapping that has
    a "weight" already.
    """
    item = _read_item(dataset, i)
    x, y = _split_item(item, i, dataset)
    if not isinstance(x, Tensor):
        x = to_image(x, i)
    if not isinstance(item, Mapping):
        return x, y, weight
    if "weight" in item:
        raise DataError(f"example {i} must not have the key weight, got {', '.join(item)}; rename it")
    return {**item, _find_key(item, IMAGE_KEYS, "image", i): x, "weight": weight}


def _read_item(dataset: MapStyle, i: int) -> object:
    try:
        return dataset[i]
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"example {i} cannot be read: {describe_exception(error)}{suggest_data(dataset)}") from error


def _find_key(item: Mapping, keys: Sequence[str], what: str, i: int) -> str:
    present = [key for key in keys if key in item]
    if len(present) != 1:
        raise DataError(
            f"example {i} must have one of the keys {', '.join(keys)} for its {what}, got {', '.join(map(str, item))}; "
            "or return a pair (x, y)"
        )
    return present[0]


def suggest_data(dataset: object) -> str:
    """Return what to pass in place of an object that is not a map-style data set, after "; "."""
    if isinstance(dataset, type):
        return "; that is a class: create an instance"
    if isinstance(dataset, DataLoader):
        return "; pass the loader's data set, loader.dataset: advcore reads examples by index and makes its own batches"
    if isinstance(dataset, str):
        return "; load it first, as in advcore.data.Digits().load(device).train"
    if not hasattr(dataset, "__getitem__") and hasattr(dataset, "train"):
        return "; pass one part of it, such as its `train`"
    if isinstance(dataset, Mapping) and dataset and all(isinstance(key, str) for key in dataset):
        return f"; pass one data set of it, such as that of {next(iter(dataset))!r}, or TensorDataset(x, y) of arrays"
    if _are_arrays(dataset):
        return "; turn tensors into torch.utils.data.TensorDataset(images, labels)"
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__") and hasattr(dataset, "__iter__"):
        return "; examples are read by index: collect what it yields in a list, list(...)"
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
        pixels = np.asarray(image)  # (H, W) or (H, W, 3), whatever the numbers
        return torch.from_numpy(np.array(np.atleast_3d(pixels).transpose(2, 0, 1), order="C"))
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
