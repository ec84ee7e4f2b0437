"""The interface of all sources of batches, and how indices are cut into batches."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from advcore.rng import Stream
from advcore.runtime.borrow import find_dtype
from advcore.shares import measure_next_piece
from advcore.types import digest_labels
from advcore.unit_range import check_images

SAMPLE = 16  # examples that are read again, to see whether they change

# indices (B,) long, x (B, C, H, W) float in [0, 1], y (B,) long, all on the source's device.
Batch = tuple[Tensor, Tensor, Tensor]


class Source(ABC):
    """N examples of shape (C, H, W), read by index in the order asked.

    A coreset's indices therefore always mean the data that were given. `nbytes` is what the images hold on the device.
    """

    device: torch.device
    shape: tuple[int, int, int]
    nbytes: int = 0
    _first_reading: Batch | None = None

    @abstractmethod
    def __len__(self) -> int: ...

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self):,} images of {self.shape} on {self.device})"

    @property
    def index_count(self) -> int:
        """How many indices `batches` takes: more than there are examples where a pool goes with them (`Pooled`)."""
        return len(self)

    @abstractmethod
    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        """Yield one batch, without augmentation, for each (B,) tensor of indices."""

    def draw_batches(self, size: int, stream: Stream) -> list[Tensor]:
        """Return an epoch's batches of indices: all examples in a random order, `size` at a time."""
        return cut_into_chunks(stream.at(torch.arange(len(self))).permutation(), size)

    @abstractmethod
    def labels(self) -> Tensor:
        """Return the labels (N,) long, on the CPU."""

    def class_counts(self) -> list[int] | None:
        """Count the examples of each class that occurs; None where that would take reading the data."""
        return self.labels().unique(return_counts=True)[1].tolist()

    def fingerprint(self) -> str:
        """Return a digest that names the data (`digest_labels`)."""
        return digest_labels(self.labels().tolist().__getitem__, len(self))

    def list_changed(self) -> list[int]:
        """Read up to 16 examples, spread over the data, and return which of them have changed since the first read.

        Cost: the first call reads them twice.
        """
        sample = pick_sample(torch.arange(len(self)))
        if self._first_reading is None:
            self._first_reading = self._read_sample(sample)
        before = self._first_reading
        _, x, y = self._read_sample(sample)
        is_changed = (x != before[1]).flatten(1).any(1) | (y != before[2])
        return sample[is_changed.cpu()].tolist()

    def _read_sample(self, sample: Tensor) -> Batch:
        return next(iter(self.batches([sample])))


class MapStyle(Protocol):
    """A map-style data set: one that has a length, and gives an example (x, y, ...) by its index."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int, /) -> Sequence[object]: ...


def pick_sample(indices: Tensor) -> Tensor:
    """Return up to 16 of the indices (N,), evenly spaced: those that are read again to see whether images change."""
    return indices[:: max(1, len(indices) // SAMPLE)][:SAMPLE]


def cut_into_chunks(indices: Tensor, size: int) -> list[Tensor]:
    """Cut indices (N,) into chunks of `size`; a last one of a single example joins the one before it.

    `measure_next_piece` says why.
    """
    lengths: list[int] = []
    left = len(indices)
    while left:
        lengths.append(measure_next_piece(left, size))
        left -= lengths[-1]
    return list(indices.split(lengths or [0]))


def count_chunks(n: int, size: int) -> dict[int, int]:
    """Return {length: number of chunks} of the chunks that `cut_into_chunks` cuts n indices into."""
    full, rest = divmod(n, size)
    if full and measure_next_piece(size + rest, size) > size:
        return {size: full - 1, size + 1: 1}
    return {size: full, rest: int(rest > 0)}


def to_float(x: Tensor) -> Tensor:
    """Divide uint8 images by 255; return float images as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def read_batches(model: nn.Module, source: Source, chunks: Sequence[Tensor]) -> Iterator[Batch]:
    """Yield the source's batches, with images in the model's dtype, or in float32 if that is wider."""
    dtype = find_dtype(model)
    for indices, x, y in source.batches(chunks):
        yield indices, x.to(dtype), y


def read_first_images(model: nn.Module, source: Source) -> Tensor:
    """Return the first two images, or the only one, as `read_batches` gives them: enough to see shapes in a model.

    Raises DataError unless they are in [0, 1], which a user's own source may not have checked.
    """
    indices, x, _ = next(read_batches(model, source, [torch.arange(min(2, len(source)))]))
    check_images(x, indices)
    return x
