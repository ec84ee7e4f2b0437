"""Storage for rows that are written a few examples at a time during training, and read as a whole."""

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advcore.cost import format_gigabytes
from advcore.errors import CheckpointError, ConfigError, must
from advcore.rows.on_disk import find_temporary_folder, name_room_in_errors, release_pages
from advcore.runtime.device import measure_free_memory

PLACES = ("auto", "device", "host", "disk")
NEVER = -1  # the epoch of a row that was never taken
_MOST = 0.5  # share of the free memory above which "auto" goes to the next place: the model needs the rest


@dataclass(frozen=True)
class StoragePlace:
    """Where numbers are stored: in the memory of `device`, or, with a `folder`, in temporary files there."""

    device: torch.device
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Return the place in words."""
        return "temporary files" if self.folder is not None else f"memory of {self.device}"


def settle_place(wanted: str, needed: int, device: torch.device) -> StoragePlace:
    """Return where `needed` bytes are stored.

    wanted : one of PLACES; "auto" is the first of the device's memory, the host's, and the disk, of whose free memory
    half is enough. Raises ConfigError, with figures, where they do not fit into the memory that is wanted.
    """
    host = torch.device("cpu")
    memories = {"device": device, "host": host}
    for name, memory in memories.items():
        free = measure_free_memory(memory)
        if wanted == name and free is not None and needed > free:
            rule = f"where {format_gigabytes(needed)} of gradient rows fit"
            way_out = f"use selection.rows_place: disk ({format_gigabytes(free)} are free on {memory})"
            raise ConfigError(must("rows_place", rule, wanted, way_out))
        if wanted == name or wanted == "auto" and (free is None or needed <= _MOST * free):
            return StoragePlace(memory)
    return StoragePlace(host, find_temporary_folder())


class RowStore:
    """Columns of N rows, each (N, width) of one dtype, and the epoch in which each row was taken.

    A column begins with the first numbers that are written to it, so its width and dtype are theirs. In temporary
    files, which have no name and are gone with the process, it reads as a tensor on the CPU.

    Parameters
    ----------
    length : N. place : where the columns are.

    columns : by name. epochs : (N,) long, NEVER where no row was taken.
    """

    def __init__(self, length: int, place: StoragePlace) -> None:
        self.place = place
        self.columns: dict[str, Tensor] = {}
        self.epochs = torch.full((length,), NEVER, device=place.device)
        self._mapped: list[np.memmap] = []

    def __len__(self) -> int:
        return len(self.epochs)

    def write(self, indices: Tensor, columns: Mapping[str, Tensor], epoch: int) -> None:
        """Write the rows (b, width) of the examples `indices` (b,), taken in an epoch, in the dtype of their column."""
        indices = indices.to(self.place.device)
        for name, part in columns.items():
            if name not in self.columns:
                self.columns[name] = self._allocate((len(self), *part.shape[1:]), part.dtype)
            column = self.columns[name]
            column[indices] = part.detach().to(self.place.device, column.dtype)
        self.epochs[indices] = epoch
        self.release()

    def _allocate(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return zeros. Raises OSError, with the folder, where a file does not fit on the disk."""
        if self.place.folder is None:
            return torch.zeros(shape, dtype=dtype, device=self.place.device)
        size = torch.Size(shape).numel() * dtype.itemsize
        with name_room_in_errors(self.place.folder):
            file = tempfile.TemporaryFile(dir=self.place.folder, prefix="advcore-rows-")  # noqa: SIM115
            os.posix_fallocate(file.fileno(), 0, size)  # a page that finds no room later would end the process
            mapped = np.memmap(file, dtype=np.uint8, mode="r+", shape=(size,))
        self._mapped.append(mapped)
        return torch.from_numpy(mapped).view(dtype).view(shape)

    def release(self) -> None:
        """Give the memory of what is in files back to the system; it is read again when needed."""
        for mapped in self._mapped:
            release_pages(mapped)

    def find_release(self) -> Callable[[], None] | None:
        """Return what gives back memory after each read, as `FactoredRows` takes it; None where all is in memory."""
        return self.release if self._mapped else None

    def measure_ages(self, epoch: int) -> Tensor:
        """Return how many epochs old each row is when an epoch begins, (N,) long on the CPU.

        A row of the epoch before is 1 epoch old, one that was taken after that epoch's last step 0.
        """
        return epoch - self.epochs.cpu()

    def state(self) -> dict[str, object]:
        """Return a copy of everything stored, for a checkpoint."""
        columns = {name: column.detach().cpu().clone() for name, column in self.columns.items()}
        self.release()
        return {"columns": columns, "epochs": self.epochs.cpu().clone()}

    def restore(self, state: Mapping) -> None:
        """Take over what `state` returned. Raises CheckpointError if it is of another number of rows."""
        if len(state["epochs"]) != len(self):
            raise CheckpointError(must("the number of remembered rows", str(len(self)), len(state["epochs"])))
        everything = torch.arange(len(self))
        self.write(everything, state["columns"], NEVER)
        self.epochs.copy_(state["epochs"])
