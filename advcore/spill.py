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

from advcore.errors import naming


def temporary_folder() -> Path:
    """Where temporary files go. Raises OSError, with what TMPDIR says, where no folder for them can be written."""
    with naming(os.environ.get("TMPDIR", "TMPDIR")):
        return Path(tempfile.gettempdir())


class Column:
    """(N, width) numbers, appended in order.

    Parameters
    ----------
    length : N.
    folder : where the file goes, which has no name and is gone with the process; None keeps the column in memory, on
        the device and in the dtype of what is appended. A column in a file reads as a tensor on the CPU.
    """

    def __init__(self, length: int, folder: Path | None = None):
        self._length, self._filled, self._folder = length, 0, folder
        with self._room():
            made = None if folder is None else tempfile.TemporaryFile(dir=folder, prefix="advcore-rows-")  # noqa: SIM115
        self._file = made
        self._held: Tensor | None = None
        self._mapped: np.memmap | None = None

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        """A file without a name says where there is no room for it."""
        try:
            yield
        except OSError as error:
            way_out = "gradient rows go there; free space, or set TMPDIR"
            raise OSError(error.errno, f"{error.strerror}; {way_out}", str(self._folder)) from None

    def append(self, part: Tensor) -> None:
        """The next (b, width) numbers. Raises OSError, with the folder, for what does not fit."""
        if self._file is not None:
            self._held = part[:0].cpu()
            with self._room():
                self._file.write(part.detach().cpu().contiguous().view(torch.uint8).numpy().data)
            return
        if self._held is None:
            self._held = part.new_empty(self._length, *part.shape[1:])
        self._held[self._filled : self._filled + len(part)] = part
        self._filled += len(part)

    def tensor(self) -> Tensor:
        """All of it, once everything is appended."""
        if self._file is None:
            return self._held
        with self._room():
            self._file.flush()
            self._mapped = np.memmap(self._file, dtype=np.uint8, mode="c")
        return torch.from_numpy(self._mapped).view(self._held.dtype).view(self._length, *self._held.shape[1:])

    def release(self) -> None:
        """Give the memory of what was read from the file back; it is read again when it is needed."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._mapped._mmap.madvise(mmap.MADV_DONTNEED)


class FactorStore:
    """The factors of `FactoredRows`, one residual and one feature column a forward pass."""

    def __init__(self, passes: tuple[str, ...], length: int, folder: Path | None = None):
        self._residuals = {name: Column(length, folder) for name in passes}
        self._features = {name: Column(length, folder) for name in passes}
        self._on_file = folder is not None

    def append(self, name: str, residual: Tensor, feature: Tensor) -> None:
        """The next examples of one pass."""
        self._residuals[name].append(residual)
        self._features[name].append(feature)

    def factors(self) -> dict:
        """`residuals`, `features` and `release`, as `FactoredRows` takes them."""
        columns = [*self._residuals.values(), *self._features.values()]

        def release() -> None:
            for column in columns:
                column.release()

        return {
            "residuals": tuple(column.tensor() for column in self._residuals.values()),
            "features": tuple(column.tensor() for column in self._features.values()),
            "release": release if self._on_file else None,
        }
