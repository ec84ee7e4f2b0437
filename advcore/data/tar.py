"""Pools in webdataset's tar shards: KEY.jpg and KEY.cls side by side, read at their places in the file."""

import io
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from advcore.data.images import decode_image, is_grey, list_endings
from advcore.data.split import Split
from advcore.errors import DataError, describe_exception

_LABEL = ".cls"
_MOST_DIGITS = 12  # of a label's text


class _Entry(NamedTuple):
    """Where an image is in its shard, and its label; -1 where there is none."""

    shard: int
    offset: int
    size: int
    label: int


def list_shards(path: Path) -> list[Path]:
    """Return the shards of a pool, in the order of their names: a .tar file, or those in a folder; none of others."""
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    return [path] * (path.suffix.lower() == ".tar" and path.is_file())


def read_shards(shards: list[Path], *, labelled: bool) -> Split:
    """Return the images of tar shards, each of which stays in its file until it is asked for; nothing is unpacked.

    labelled : whether each image KEY.jpg needs its class number in KEY.cls; otherwise all labels are 0. Other members
    are left alone. Images are in RGB unless the first one is grey. Raises DataError, with the member's name. Cost: one
    walk over the shards' headers.
    """
    entries = [entry for i, shard in enumerate(shards) for entry in _list_entries(i, shard, labelled=labelled)]
    if not entries:
        raise DataError(f"{shards[0]} must hold images, got none")
    places = torch.tensor([entry[:3] for entry in entries])
    labels = torch.tensor([entry.label for entry in entries])
    grey = is_grey(_open(shards, places[0]), 0, str(shards[0]))
    return Split(labels=labels, images=partial(_decode, shards, places, grey), may_stream=True)


def _list_entries(number: int, shard: Path, *, labelled: bool) -> Iterator[_Entry]:
    """Yield the images of a shard in its order, with their labels."""
    images: dict[str, tarfile.TarInfo] = {}
    labels: dict[str, int] = {}
    endings = list_endings()
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                key, ending = _split_name(member.name)
                if member.isreg() and ending in endings:
                    images[key] = member
                elif member.isreg() and ending == _LABEL and labelled:
                    labels[key] = _read_label(archive, member, shard)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{shard} cannot be read: {describe_exception(error)}") from None
    for key, member in images.items():
        if labelled and key not in labels:
            raise DataError(f"{shard} must hold a label {key}{_LABEL} next to {member.name}; or use labels: pseudo")
        yield _Entry(number, member.offset_data, member.size, labels.get(key, 0))


def _split_name(name: str) -> tuple[str, str]:
    """Split a member's name into webdataset's key, up to the first dot of its last part, and the ending."""
    folder, slash, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    return folder + slash + stem, (dot + ending).lower()


def _read_label(archive: tarfile.TarFile, member: tarfile.TarInfo, shard: Path) -> int:
    file = archive.extractfile(member)
    text = file.read(_MOST_DIGITS + 1).strip() if file else b""
    if not text.isdigit() or len(text) > _MOST_DIGITS:
        raise DataError(f"{shard}: {member.name} must hold a class number, got {text[:20].decode(errors='replace')!r}")
    return int(text)


def _open(shards: list[Path], place: Tensor) -> io.BytesIO:
    shard, offset, size = place.tolist()
    with open(shards[shard], "rb") as file:
        file.seek(offset)
        return io.BytesIO(file.read(size))


def _decode(shards: list[Path], places: Tensor, grey: bool, positions: Tensor) -> Tensor:
    """Return the images at `positions`, (B, C, H, W) uint8."""
    images = []
    for position in positions.tolist():
        place = places[position]
        name = str(shards[int(place[0])])
        image = decode_image(_open(shards, place), position, name, grey=grey)
        images.append(np.asarray(image if grey else image.convert("RGB")))
        if images[-1].shape != images[0].shape:
            shapes = f"{images[-1].shape} at {position} and {images[0].shape} at first"
            raise DataError(f"images must have one size, got {shapes} ({name})")
    stacked = torch.from_numpy(np.stack(images))
    if grey:
        return stacked[:, None]
    return stacked.permute(0, 3, 1, 2).contiguous()
