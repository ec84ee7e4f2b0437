"""A folder of parquet files in the Hugging Face image layout: `image` {bytes, path}, `label`."""

import io
import json
import os
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from advcore.data.base import OwnData, find_path
from advcore.data.images import decode_image
from advcore.data.split import Split
from advcore.errors import DataError, require_package
from advcore.settings import settings

if TYPE_CHECKING:
    import pyarrow as pa


@settings
class Parquet(OwnData):
    """`train-*.parquet` and `test-*.parquet` in the folder `path`, read with pyarrow; images of one size.

    Class names in the schema's metadata say how many classes there are, unless `num_classes` does.
    """

    def read(self) -> tuple[Split, Split]:
        folder = find_path(self.path)
        return _make_split(_read_table(folder, "train")), _make_split(_read_table(folder, "test"))


def _read_table(folder: Path, part: str) -> "pa.Table":
    """Read and concatenate the files of one part, in the order of their names."""
    with require_package("pyarrow", "data.name: parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq
    names = os.listdir(folder) if folder.is_dir() else []
    files = sorted(folder / name for name in names if fnmatch(name, f"{part}-*.parquet"))
    if not files:
        raise DataError(f"data.path must be a folder with {part}-*.parquet files, got {str(folder)!r}")
    try:
        table = pa.concat_tables([pq.read_table(file) for file in files])
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{files[0]} cannot be read as parquet: {str(error).splitlines()[0]}") from None
    if not {"image", "label"} <= set(table.column_names):
        raise DataError(f"{files[0]} must have the columns image and label, got {', '.join(table.column_names)}")
    return table


def _read_class_names(table: "pa.Table") -> list[str]:
    """Return the class names in the schema's Hugging Face metadata; an empty list if there are none."""
    try:
        return list(json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return []


def _make_split(table: "pa.Table") -> Split:
    from pyarrow import types

    label = table.schema.field("label").type
    image = table.schema.field("image").type
    missing = table.column("label").null_count
    if not types.is_integer(label) or missing:
        got = f"{label} with {missing} missing"
        raise DataError(
            f"label must be a column of whole numbers, one an image, got {got}; turn other labels into class numbers"
        )
    if not types.is_struct(image) or image.get_field_index("bytes") < 0:
        raise DataError(f"image must be a column of {{bytes, path}}, got {image}")
    labels = torch.from_numpy(np.array(table.column("label").to_numpy(), dtype=np.int64))
    encoded = table.column("image").combine_chunks().field("bytes")
    return Split(labels, partial(_decode, encoded), num_classes=len(_read_class_names(table)) or None)


def _decode(encoded: "pa.Array", positions: Tensor) -> Tensor:
    """Decode the images at `positions` into (B, C, H, W) uint8."""
    images = []
    for position in positions.tolist():
        content = encoded[position].as_py()
        if not isinstance(content, bytes):
            raise DataError(f"image {position} must hold bytes, got {type(content).__name__}")
        images.append(np.asarray(decode_image(io.BytesIO(content), position, grey=True)))
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"images must have one size, got {images[-1].shape} at {position} and {images[0].shape} at first"
            )
    stacked = torch.from_numpy(np.stack(images))
    if stacked.ndim == 3:
        return stacked[:, None]
    return stacked.permute(0, 3, 1, 2).contiguous()
