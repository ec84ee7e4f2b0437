"""A folder of parquet files in the Hugging Face image layout: a column of encoded images, and one of labels."""

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache, partial
from itertools import filterfalse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from advcore.data.base import OwnData, find_path
from advcore.data.images import decode_image, is_grey
from advcore.data.listing import check_shards, is_hidden
from advcore.data.split import Split
from advcore.errors import DataError, check_one_of, format_value, must, require, require_package
from advcore.settings import settings

if TYPE_CHECKING:
    import pyarrow as pa

_KNOWN = {
    "image": ("image", "img", "images", "pixel_values"),
    "label": ("label", "labels", "fine_label", "target"),
}
_TEST_PARTS = ("test", "validation", "val", "valid")
_ROWS = 64  # read at once, so that the images of one array stay far below the 2 GiB that it can hold
_BUFFER = 2**20  # bytes of a file that are read at once; all of a row group would otherwise stay in memory


@settings
class Parquet(OwnData):
    """`train-*.parquet` and `test-*.parquet`, else `validation-*`, in the folder `path`; images of one size.

    The files may also be in the folder `data` below, or in folders called train and test. Images are encoded, in a
    column of {bytes, path} or of bytes; labels are whole numbers or booleans. Class names in the schema's metadata say
    how many classes there are, unless `num_classes` does.

    Parameters
    ----------
    columns : {image: name, label: name}, or one of these; None for image, img, images or pixel_values, and for label,
        labels, fine_label or target, whichever the files have.
    """

    columns: dict[str, str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(*(check_one_of("columns", kind, _KNOWN) for kind in self.columns or ()))

    def read(self) -> tuple[Split, Split]:
        with require_package("pyarrow", "data.name: parquet"):
            import pyarrow.parquet  # noqa: F401
        folder = find_path(self.path)
        train = self._inspect_files(_list_files(folder, ("train",)))
        test = [_inspect_alike(path, train[0]) for path in _list_files(folder, _TEST_PARTS)]
        class_names = _read_common_names([*train, *test])
        notes = []
        if not test[0].path.name.startswith("test") and test[0].path.parent.name != "test":
            notes.append(f"{test[0].path.name} is the test set")
        splits = _make_splits([train, test], class_names)
        return splits[0].with_notes(*_describe_columns(train[0]), *notes), splits[1]

    def read_pool(self, path: Path) -> Split:
        """Return the images of a file, or of a folder with files of one part. Raises DataError."""
        with require_package("pyarrow", "a pool of parquet files"):
            import pyarrow.parquet  # noqa: F401
        paths = [path]
        if path.is_dir():
            paths = _list_files(path, ("train", "*"))
        files = self._inspect_files(paths)
        (split,) = _make_splits([files], _read_common_names(files))
        return split.with_notes(*_describe_columns(files[0]))

    def _inspect_files(self, paths: list[Path]) -> "list[_File]":
        first = _inspect_file(paths[0], self.columns or {})
        return [_inspect_alike(path, first) for path in paths]


@dataclass(frozen=True)
class _File:
    """A parquet file, the names of its two columns, and the class names that it states, if any."""

    path: Path
    image: str
    label: str
    class_names: list[str]


def _list_files(folder: Path, parts: tuple[str, ...]) -> list[Path]:
    """Return the files of the first of `parts` that has any, in the order of their names."""
    for part in parts:
        places = {folder: (f"{part}-*.parquet", f"{part}.parquet"), folder / part: ("*.parquet",)}
        places[folder / "data"] = places[folder]
        for place, patterns in places.items():
            names = sorted(filterfalse(is_hidden, os.listdir(place))) if place.is_dir() else []
            files = [place / name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]
            if files:
                check_shards(files)
                return files
    way_out = f"they may also be in its folder data, or called {parts[0]}/*.parquet"
    below = sorted([*folder.glob(f"*/{parts[0]}-*.parquet"), *folder.glob(f"*/{parts[0]}/*.parquet")])
    if below:  # as the hub lays out configurations
        way_out = f"name the folder that has them, such as {folder / below[0].relative_to(folder).parts[0]}"
    raise DataError(must("data.path", f"a folder with {parts[0]}-*.parquet files", str(folder), way_out))


@contextlib.contextmanager
def _name_unreadable(path: Path) -> Iterator[None]:
    """Raise DataError, which names the file, for what pyarrow cannot read."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from None


def _inspect_file(path: Path, columns: dict[str, str]) -> _File:
    """Choose the columns of a file. Raises DataError, which names it, unless they hold encoded images and labels."""
    import pyarrow.parquet as pq
    from pyarrow import types

    with _name_unreadable(path):
        schema = pq.read_schema(path)
    image, label = (_choose_column(kind, schema.names, columns, path) for kind in _KNOWN)
    encoded = kind = schema.field(image).type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        encoded = kind.field("bytes").type
    if not (types.is_binary(encoded) or types.is_large_binary(encoded)):
        raise DataError(f"{path}: {image} must be a column of encoded images, {{bytes, path}} or bytes, got {kind}")
    kind = schema.field(label).type
    if not (types.is_integer(kind) or types.is_boolean(kind)):
        raise _refuse_labels(path, label, str(kind))
    return _File(path, image, label, _read_class_names(schema, label))


def _inspect_alike(path: Path, first: _File) -> _File:
    """Inspect a file that must have the columns of the `first`. Raises DataError, which names it, if it has not."""
    import pyarrow.parquet as pq

    with _name_unreadable(path):
        names = pq.read_schema(path).names
    if not {first.image, first.label} <= set(names):
        columns = f"the columns {first.image} and {first.label} of {first.path}"
        raise DataError(f"{path} must have {columns}, got {', '.join(names)}")
    return _inspect_file(path, {"image": first.image, "label": first.label})


def _refuse_labels(path: Path, label: str, got: str) -> DataError:
    rule = "must be a column of whole numbers, one per image"
    return DataError(f"{path}: {label} {rule}, got {got}; turn other labels into class numbers")


def _choose_column(kind: str, names: list[str], columns: dict[str, str], path: Path) -> str:
    """Return the name of the file's column of images, or of labels."""
    asked = columns.get(kind)
    known = (asked,) if asked else _KNOWN[kind]
    present = [name for name in names if name in known]
    if len(present) == 1:
        return present[0]
    problem = must(
        f"data.columns.{kind}",
        f"the column of {kind}s of {path}, one of {', '.join(names)}",
        asked or present,
        f"write data.columns: {{{kind}: NAME}}",
    )
    raise DataError(problem)


def _read_class_names(schema: "pa.Schema", label: str) -> list[str]:
    """Return the class names in the schema's Hugging Face metadata; an empty list if there are none."""
    try:
        return list(json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][label]["names"])
    except (KeyError, TypeError, ValueError):
        return []


def _describe_columns(file: _File) -> list[str]:
    """Name the columns that a file is read from, unless they are called as they usually are."""
    if (file.image, file.label) == ("image", "label"):
        return []
    return [f"columns {file.image} and {file.label}"]


def _make_splits(parts: list[list[_File]], class_names: list[str]) -> list[Split]:
    """Return a split of the files of each part, all of them grey or all in RGB."""
    contents = [_read_part(files) for files in parts]
    are_grey = cache(partial(_are_grey, contents))
    return [
        Split(part.labels, partial(_decode, part, are_grey), len(class_names) or None, class_names=class_names)
        for part in contents
    ]


def _read_common_names(files: list[_File]) -> list[str]:
    """Return the class names of the files; an empty list where none has any. Raises DataError where two differ."""
    stating = [file for file in files if file.class_names]
    for file in stating:
        if file.class_names != stating[0].class_names:
            names = f"{format_value(file.class_names)} in place of {format_value(stating[0].class_names)}"
            raise DataError(f"{file.path} must have the class names of {stating[0].path}, got {names}")
    return [name for file in stating[:1] for name in file.class_names]


@dataclass(frozen=True, eq=False)
class _Part:
    """The labels (N,) and the encoded images of all files of one part, and a name for them."""

    name: str
    labels: Tensor
    images: "pa.ChunkedArray"

    def open_image(self, position: int) -> io.BytesIO:
        content = self.images[position].as_py()
        if not isinstance(content, bytes):
            raise DataError(f"image {position} ({self.name}) must hold bytes, got {type(content).__name__}")
        return io.BytesIO(content)


def _read_part(files: list[_File]) -> _Part:
    import pyarrow as pa

    labels = []
    images: list[pa.Array] = []
    for file in files:
        with _name_unreadable(file.path):
            labels.append(_read_columns(file, images))
    name = " to ".join(dict.fromkeys([str(files[0].path), str(files[-1].path)]))
    if not any(map(len, labels)):
        raise DataError(f"{name} must hold images, got no rows")
    return _Part(name, torch.from_numpy(np.concatenate(labels)), pa.chunked_array(images, pa.large_binary()))


def _read_columns(file: _File, images: "list[pa.Array]") -> np.ndarray:
    """Return the labels of a file, and append its encoded images to `images`, one array for every few rows.

    No array ever holds the whole column: a column of more than 2 GiB in one array cannot be read or joined.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    labels = []
    with pq.ParquetFile(file.path, pre_buffer=False, buffer_size=_BUFFER) as content:
        for rows in content.iter_batches(_ROWS, columns=[file.image, file.label]):
            column = rows.column(file.image)
            if isinstance(column, pa.StructArray):
                column = column.field("bytes")
            images.append(column.cast(pa.large_binary()))
            labels.append(rows.column(file.label))
        column = pa.chunked_array(labels, content.schema_arrow.field(file.label).type)
    if column.null_count:
        raise _refuse_labels(file.path, file.label, f"{column.type} with {column.null_count} missing")
    return column.to_numpy().astype(np.int64)


def _are_grey(parts: list[_Part]) -> bool:
    """Return whether all images of all parts have one channel. Cost: their headers, up to the first that has more."""
    return all(
        is_grey(part.open_image(position), position, part.name)
        for part in parts
        for position in range(len(part.labels))
    )


def _decode(part: _Part, are_grey: Callable[[], bool], positions: Tensor) -> Tensor:
    """Decode the images at `positions` into (B, C, H, W) uint8: in RGB, unless all images of the set are grey."""
    images = []
    for position in positions.tolist():
        images.append(decode_image(part.open_image(position), position, part.name, grey=True))
        if images[-1].size != images[0].size:
            sizes = f"{images[-1].size[::-1]} at {position} and {images[0].size[::-1]} at first"
            raise DataError(f"images must have one size (height, width), got {sizes} ({part.name})")
    modes = {image.mode for image in images}
    if len(modes) > 1 or (modes == {"L"} and not are_grey()):
        images = [image.convert("RGB") for image in images]
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    if stacked.ndim == 3:
        return stacked[:, None]
    return stacked.permute(0, 3, 1, 2).contiguous()
