"""Columns of rows that are filled chunk by chunk: in memory, or in a temporary file that is mapped back."""

import contextlib
import mmap
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advcore.errors import name_path_in_errors


def find_temporary_folder() -> Path:
    """Return where temporary files go.

    Raises OSError, with the value of TMPDIR, where no folder for them can be written.
    """
    with name_path_in_errors(os.environ.get("TMPDIR", "TMPDIR")):
        return Path(tempfile.gettempdir())


@contextlib.contextmanager
def name_room_in_errors(folder: Path | None) -> Iterator[None]:
    """Make an OSError name the folder, since the file has no name, and say how to get room."""
    try:
        yield
    except OSError as error:
        problem = f"{error.strerror}; gradient rows go there; free space, or set TMPDIR"
        raise OSError(error.errno, problem, str(folder)) from None


def release_pages(mapped: np.memmap) -> None:
    """Give the memory of what was read from a mapped file back to the system; it is read again when needed."""
    if hasattr(mmap, "MADV_DONTNEED"):
        # numpy's stubs do not name the mapping of a memmap
        mapped._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


class Column:
    """(N, width) numbers, appended in order.

    Parameters
    ----------
    length : N.
    folder : where the file goes, which has no name and is gone with the process; None keeps the column in memory, on
        the device and in the dtype of what is appended. A column in a file reads as a tensor on the CPU.
    """

    def __init__(self, length: int, folder: Path | None = None) -> None:
        self._length = length
        self._folder = folder
        self._filled = 0
        self._file = None
        if folder is not None:
            with name_room_in_errors(self._folder):
                self._file = tempfile.TemporaryFile(dir=folder, prefix="advcore-rows-")  # noqa: SIM115
        self._numbers: Tensor | None = None  # all of them, or, for a column in a file, none: only dtype and width
        self._mapped: np.memmap | None = None

    def append(self, part: Tensor) -> None:
        """Append the next (b, width) numbers. Raises OSError, with the folder, for what does not fit."""
        if self._file is not None:
            self._numbers = part[:0].cpu()
            with name_room_in_errors(self._folder):
                self._file.write(part.detach().cpu().contiguous().view(torch.uint8).numpy().data)
            return
        if self._numbers is None:
            self._numbers = part.new_empty(self._length, *part.shape[1:])
        self._numbers[self._filled : self._filled + len(part)] = part
        self._filled += len(part)

    def tensor(self) -> Tensor:
        """Return the column, once everything is appended."""
        assert self._numbers is not None, "a column holds at least one part"
        if self._file is None:
            return self._numbers
        with name_room_in_errors(self._folder):
            self._file.flush()
            self._mapped = np.memmap(self._file, dtype=np.uint8, mode="c")
        return torch.from_numpy(self._mapped).view(self._numbers.dtype).view(self._length, *self._numbers.shape[1:])

    def release(self) -> None:
        """Give the memory of what was read from the file back to the system; it is read again when needed."""
        if self._mapped is not None:
            release_pages(self._mapped)


class FactorStore:
    """The factors of `FactoredRows`, filled chunk by chunk: a column of residuals and one of features for each pass.

    Parameters
    ----------
    passes : names of the forward passes.
    length, folder : as in `Column`.
    """

    def __init__(self, passes: tuple[str, ...], length: int, folder: Path | None = None) -> None:
        self._residuals = {name: Column(length, folder) for name in passes}
        self._features = {name: Column(length, folder) for name in passes}
        self._folder = folder

    def append(self, name: str, residual: Tensor, feature: Tensor) -> None:
        """Append the next examples of one pass."""
        self._residuals[name].append(residual)
        self._features[name].append(feature)

    def factors(self) -> dict:
        """Return `residuals`, `features` and `release`, as `FactoredRows` takes them."""
        return {
            "residuals": tuple(column.tensor() for column in self._residuals.values()),
            "features": tuple(column.tensor() for column in self._features.values()),
            "release": None if self._folder is None else self._release,
        }

    def _release(self) -> None:
        for column in (*self._residuals.values(), *self._features.values()):
            column.release()
