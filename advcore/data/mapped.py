"""Arrays of a pool that stay in their file: mapped into memory, and read where an image is asked for."""

import zipfile
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from advcore.data.split import RESIDENT_LIMIT
from advcore.errors import DataError

_LOCAL_HEADER = 30  # bytes of a zip member's header before its name; the last four say how long name and extra are
_ARRAYS = ("image.npy", "label.npy")


def is_folder_of_arrays(path: Path) -> bool:
    """Return whether a path is a folder with image.npy, and so is read by `map_folder`."""
    return path.is_dir() and (path / _ARRAYS[0]).is_file()


def map_folder(folder: Path) -> dict[str, np.ndarray]:
    """Map image.npy, and label.npy if it exists, of a folder. Raises DataError for anything but an array of numbers."""
    arrays = {}
    for file in (folder / name for name in _ARRAYS):
        if file.is_file():
            try:
                arrays[file.stem] = np.load(file, mmap_mode="c", allow_pickle=False)
            except ValueError as error:
                raise DataError(f"{file} must hold an array of numbers: {str(error).splitlines()[0]}") from None
    return arrays


def map_npz(path: Path) -> dict[str, np.ndarray] | None:
    """Map the arrays of an .npz file of more than 4 GiB that numpy.savez wrote; None for any other file.

    Such a file holds its arrays as they are; those of numpy.savez_compressed have to be unpacked into memory. What is
    mapped is not checked against the archive's checksums.
    """
    if not path.is_file() or path.stat().st_size <= RESIDENT_LIMIT:
        return None
    try:
        with zipfile.ZipFile(path) as archive, open(path, "rb") as file:
            members = archive.infolist()
            if any(member.compress_type != zipfile.ZIP_STORED for member in members):
                return None
            return {Path(member.filename).stem: _map_member(path, file, member.header_offset) for member in members}
    except (ValueError, zipfile.BadZipFile):
        return None  # which is then read, and refused with the reason


def _map_member(path: Path, file: BinaryIO, start: int) -> np.ndarray:
    """Map the array of a member that begins at `start` with its header. Raises ValueError for what is none."""
    file.seek(start)
    header = file.read(_LOCAL_HEADER)
    file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"version {version} of an array")
    shape, is_fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("pickled objects")
    order: Literal["C", "F"] = "F" if is_fortran else "C"
    return np.memmap(path, dtype=dtype, mode="c", offset=file.tell(), shape=shape, order=order)
