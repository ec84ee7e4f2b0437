"""Arrays in .npz files: one file for all parts, or train.npz and test.npz in one folder."""

from pathlib import Path

import numpy as np
import torch

from advcore.data.base import OwnData, find_path
from advcore.data.checks import list_first
from advcore.data.mapped import is_folder_of_arrays, map_folder, map_npz
from advcore.data.split import Split
from advcore.errors import CheckpointError, DataError, check_one_of, must, require, unless
from advcore.files import read_npz
from advcore.settings import settings

LAYOUTS = ("channels_first", "channels_last")
_ASKED = ("x_train", "y_train", "x_test", "y_test")
# Common names of images, labels and parts; compared in lower case.
_STEMS = {"x": ("x", "images", "image", "imgs", "img"), "y": ("y", "labels", "label", "targets", "target")}
_PARTS = {"train": ("train", "training"), "test": ("test",), "val": ("val", "valid", "validation")}
_PLACES = "an .npz file, or a folder with train.npz and test.npz"
_ONE_PART_A_FILE = "a file with one part must be train.npz or test.npz, in the folder that data.path names"
_LOOKED_AT = 1000  # images that are searched for a bright pixel before all are
_MOST_CHANNELS = 4  # of usual images: a longer axis is not taken for channels because of its length


@settings
class Npz(OwnData):
    """Arrays x_train, images that are uint8 or float in [0, 1], y_train (N,), whole numbers, and the same for test.

    train_images, train_labels and the like are read too, and a folder with train.npz and test.npz, whose arrays may be
    called image and label. Without test images, those of val are the test set.

    Parameters
    ----------
    layout : "channels_first" for images (N, C, H, W), "channels_last" for (N, H, W, C); None goes by the shape where
        that leaves no doubt. Images of four channels are refused as RGBA unless it is set.
    """

    layout: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(unless(self.layout is None, check_one_of("layout", self.layout, LAYOUTS)))

    def read(self) -> tuple[Split, Split]:
        path = find_path(self.path)
        arrays = _read_folder(path) if path.is_dir() else _read_file(path)
        names = _find_part(arrays, "train", path) | (
            _find_part(arrays, "test", path) or _find_part(arrays, "val", path, name="test")
        )
        missing = [asked for asked in _ASKED if asked not in names]
        if missing:
            raise DataError(
                f"{path} must hold {', '.join(_ASKED)}, got {', '.join(arrays)}; {missing[0]} is missing; "
                + _ONE_PART_A_FILE
            )
        train, test = (self._make_split(arrays, names[f"x_{part}"], names[f"y_{part}"]) for part in ("train", "test"))
        if "test" not in names["x_test"].lower():
            test = test.with_notes(f"{names['x_test']} is the test set")
        unused = [name for name in arrays if name not in names.values()]
        if unused:
            train = train.with_notes(f"{list_first(unused, 6)} not used")
        return train, test

    def read_pool(self, path: Path) -> Split:
        """Return the images of a file of one part, or those of its training part. Raises DataError."""
        return self._read_one_part(_name_part(_read_pool_file(path), "train"), path)

    def read_unlabelled_pool(self, path: Path) -> Split:
        """Return the images of such a file, which needs no labels: all are 0. Raises DataError."""
        arrays = _name_part(_read_pool_file(path), "train")
        names = _find_part(arrays, "train", path)
        if "x_train" in names:
            arrays[names.get("y_train", "y_train")] = np.zeros(len(arrays[names["x_train"]]), dtype=np.int64)
        return self._read_one_part(arrays, path)

    def _read_one_part(self, arrays: dict[str, np.ndarray], path: Path) -> Split:
        names = _find_part(arrays, "train", path)
        if len(names) < len(_STEMS):
            raise DataError(f"{path} must hold images and labels, called image and label, got {', '.join(arrays)}")
        return self._make_split(arrays, names["x_train"], names["y_train"])

    def _make_split(self, arrays: dict[str, np.ndarray], images: str, labels: str) -> Split:
        """Check one part's images and labels, called so in the file, and return them as a split."""
        _refuse_images_last(arrays[images], images, len(arrays[labels].reshape(-1)))
        x, notes = _order_axes(arrays[images], images, self.layout)
        y = _read_labels(arrays[labels], labels, len(x))
        pixels = torch.from_numpy(_read_pixels(x, images))
        return Split(torch.from_numpy(y), pixels.__getitem__, may_stream=isinstance(x, np.memmap), notes=notes)


def _read_pool_file(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a pool: mapped, where they stay in their files, else read."""
    if is_folder_of_arrays(path):
        return map_folder(path)
    return map_npz(path) or _read_file(path)


def _read_file(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise DataError(must("data.path", _PLACES, str(path)))
    try:
        return read_npz(path, path)
    except CheckpointError as error:
        raise DataError(str(error)) from None


def _read_folder(folder: Path) -> dict[str, np.ndarray]:
    """Read the files of the parts; what a file calls image, without its part, is called image_train here."""
    files = [(part, folder / f"{name}.npz") for part, names in _PARTS.items() for name in names]
    files = [(part, file) for part, file in files if file.is_file()]
    if not files:
        raise DataError(must("data.path", _PLACES, str(folder), "the folder holds neither"))
    arrays: dict[str, np.ndarray] = {}
    for part, file in files:
        for name, array in _name_part(_read_file(file), part).items():
            if name in arrays:
                raise DataError(f"{folder} must hold one array {name}, got another in {file.name}; remove one")
            arrays[name] = array
    return arrays


def _name_part(arrays: dict[str, np.ndarray], part: str) -> dict[str, np.ndarray]:
    """Add the part to the names of arrays that are called image and label alone."""
    stems = (*_STEMS["x"], *_STEMS["y"])
    return {name + f"_{part}" * (name.lower() in stems): array for name, array in arrays.items()}


def _find_part(arrays: dict[str, np.ndarray], part: str, path: Path, name: str = "") -> dict[str, str]:
    """Return {"x_train": what the file calls it, ...} of a part's images and labels, as far as it has them.

    name : of the part in the answer, if another. Raises DataError where several arrays could be meant.
    """
    names = {}
    for key, stems in _STEMS.items():
        known = {join for stem in stems for word in _PARTS[part] for join in (f"{stem}_{word}", f"{word}_{stem}")}
        candidates = [candidate for candidate in arrays if candidate.lower() in known]
        asked = f"{key}_{name or part}"
        if len(candidates) > 1:
            raise DataError(
                f"{path} must hold one array that can be {asked}, got {', '.join(candidates)}; remove the others"
            )
        for candidate in candidates:
            names[asked] = candidate
    return names


def _refuse_images_last(x: np.ndarray, name: str, count: int) -> None:
    """Raise DataError for images (..., N), as MATLAB counts them, where there are N labels."""
    if len(x.shape) in (3, 4) and x.shape[-1] == count != len(x):
        way_out = "save np.moveaxis(x, -1, 0)"
        raise DataError(
            f"{name} must have its images along the first axis, got {x.shape} for {count} labels; {way_out}"
        )


def _order_axes(x: np.ndarray, name: str, layout: str | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return images (N, C, H, W), and what was done to get them. Raises DataError for a shape that leaves doubts."""
    if x.ndim == 3 and not min(x.shape[1:]) <= _MOST_CHANNELS < max(x.shape[1:]):
        return x[:, None], (f"{name} {x.shape} read as grey images (N, H, W)",)
    if x.ndim != 4:
        raise DataError(f"{name} must be images (N, C, H, W), (N, H, W, C) or (N, H, W), got {x.shape}; reshape it")
    order = layout or _recognise_layout(x.shape)
    if order is None:
        rule = f"{' or '.join(LAYOUTS)} where {name} is {x.shape}, which may be either"
        raise DataError(must("data.layout", rule, layout, f"write layout: {LAYOUTS[1]} for images (N, H, W, C)"))
    notes: tuple[str, ...] = ()
    if order == LAYOUTS[1]:
        notes = (f"{name} {x.shape} read as (N, H, W, C)",)
        x = x.transpose(0, 3, 1, 2)
        if not isinstance(x, np.memmap):  # what stays in its file is turned image by image
            x = np.ascontiguousarray(x)
    if x.shape[1] == 4 and layout is None:
        raise DataError(
            f"{name} must be images of 1 or 3 channels, got 4, which may be RGBA; put it on a background, or write "
            f"data.layout: {order} if all four are to be trained on and attacked"
        )
    return x, notes


def _recognise_layout(shape: tuple[int, ...]) -> str | None:
    """Return the layout for which more speaks: few channels, and images that are square; None where it is even."""
    _, first, middle, last = shape
    points_to_first = (first <= _MOST_CHANNELS) + (middle == last)
    points_to_last = (last <= _MOST_CHANNELS) + (first == middle)
    if points_to_first == points_to_last:
        return None
    return LAYOUTS[points_to_last > points_to_first]


def _read_pixels(x: np.ndarray, name: str) -> np.ndarray:
    """Return images as uint8, or as float32; whether floats are in [0, 1] is checked where they are used."""
    if x.dtype.kind == "f":
        return x.astype("float32", copy=False)
    if x.dtype != "uint8":
        way_out = "save whole numbers from 0 to 255 as uint8"
        raise DataError(f"{name} must be images in uint8, or floats in [0, 1], got {x.dtype}; {way_out}")
    if x.size and x[:_LOOKED_AT].max() == 1 and x.max() == 1:
        raise DataError(f"{name} must be images from 0 to 255, got uint8 of at most 1; save them as float32")
    return x


def _read_labels(y: np.ndarray, name: str, images: int) -> np.ndarray:
    """Return labels (N,) as int64, from (N,) or (N, 1) whole numbers."""
    column = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if column.ndim != 1 or column.dtype.kind not in "iu" or len(column) != images or not images:
        way_out = "save class numbers as int64"
        if column.ndim == 1 and len(column) != images:
            way_out = "the first axis of both must index the images"
        if y.ndim == 2:
            way_out = "save one-hot labels as labels.argmax(1); several labels per image are not supported"
        raise DataError(
            f"{name} must be labels, one whole number per image and at least one, got {y.dtype} {y.shape} for {images} "
            f"images; {way_out}"
        )
    return column.astype("int64")
