"""One .npz file with x_train, y_train, x_test, y_test."""

import numpy as np
import torch

from advcore.data.base import OwnData, find_path
from advcore.data.split import Split
from advcore.errors import CheckpointError, DataError, must
from advcore.files import read_npz
from advcore.settings import settings

_NAMES = ("x_train", "y_train", "x_test", "y_test")


@settings
class Npz(OwnData):
    """Arrays x_train (N, C, H, W), uint8 or float in [0, 1], y_train (N,) whole numbers, and the same for test.

    `path` is the .npz file.
    """

    def read(self) -> tuple[Split, Split]:
        path = find_path(self.path)
        if not path.is_file():
            raise DataError(must("data.path", "an .npz file", str(path)))
        try:
            arrays = read_npz(path, path)
        except CheckpointError as error:
            raise DataError(str(error)) from None
        missing = [name for name in _NAMES if name not in arrays]
        if missing:
            raise DataError(f"{path} must hold {', '.join(_NAMES)}, got {', '.join(arrays)}; {missing[0]} is missing")
        return _make_split(arrays["x_train"], arrays["y_train"]), _make_split(arrays["x_test"], arrays["y_test"])


def _make_split(x: np.ndarray, y: np.ndarray) -> Split:
    """Check one part's images (N, C, H, W) and labels (N,), and return them as a split."""
    if x.ndim != 4:
        raise DataError(f"images must be (N, C, H, W), got {x.shape}; give grey images one channel")
    if y.ndim != 1 or y.dtype.kind not in "iu" or len(y) != len(x) or len(y) == 0:
        raise DataError(
            f"labels must be one whole number an image and at least one, got {y.dtype} {y.shape} for {len(x)} images"
        )
    if x.dtype.kind != "f" and x.dtype.name != "uint8":
        raise DataError(f"images must be uint8, or floats in [0, 1], got {x.dtype}")
    if x.dtype.kind == "f":
        x = x.astype("float32")
    return Split(torch.from_numpy(y.astype("int64")), torch.from_numpy(x).__getitem__)
