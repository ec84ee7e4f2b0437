"""Where batches come from: tensors that live on the device, or any map-style data set through a DataLoader.

Both answer the same questions by index, in the order asked, so a coreset's indices always mean the data
that were given.
"""

import hashlib
import operator
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from advcore.device import pins
from advcore.errors import DataError, in_a_line
from advcore.signals import ignore
from advcore.types import labels_digest

Batch = tuple[Tensor, Tensor, Tensor]
"""indices (B,) long, x (B, C, H, W) float in [0, 1], y (B,) long, all on the source's device."""

_TOLERANCE = 1e-4


class Source(Protocol):
    """N examples of shape (C, H, W); `nbytes` is what their images hold on the device."""

    device: torch.device
    shape: tuple[int, int, int]
    nbytes: int

    def __len__(self) -> int: ...

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        """One batch for each (B,) tensor of indices, un-augmented."""

    def labels(self) -> Tensor:
        """(N,) long on the CPU."""

    def class_counts(self) -> list[int] | None:
        """Examples of each class that is there; None where that would take reading the data."""

    def fingerprint(self) -> str:
        """Names the data; see `labels_digest`."""


def chunked(indices: Tensor, size: int) -> list[Tensor]:
    """Cut into pieces of `size`; a last piece of one example joins the one before it, because BatchNorm
    cannot learn from one example."""
    pieces = list(indices.split(size))
    if len(pieces) > 1 and len(pieces[-1]) == 1:
        pieces[-2:] = [torch.cat(pieces[-2:])]
    return pieces


def chunk_sizes(n: int, size: int) -> dict[int, int]:
    """How many pieces of which size `chunked` cuts n indices into."""
    whole, rest = divmod(n, size)
    if rest == 1 and whole:
        return {size: whole - 1, size + 1: 1}
    return {size: whole, rest: int(rest > 0)}


def to_float(x: Tensor) -> Tensor:
    """uint8 to float32 / 255; floats as they are."""
    return x.float() / 255 if x.dtype == torch.uint8 else x


def batches_for(model: nn.Module, source: Source, chunks: Sequence[Tensor]) -> Iterator[Batch]:
    """The source's batches, images in the model's dtype, or float32 if that is wider."""
    dtype = next((p.dtype for p in model.parameters() if p.dtype.is_floating_point), torch.float32)
    for indices, x, y in source.batches(chunks):
        yield indices, x.to(torch.promote_types(dtype, torch.float32)), y


def first_images(model: nn.Module, source: Source) -> Tensor:
    """Two images, or the only one, as `batches_for` gives them: enough to see the shapes inside a model."""
    return next(batches_for(model, source, [torch.arange(min(2, len(source)))]))[1]


def content_hash(source: Source) -> str:
    """Of all labels, and of all images where they are in memory, with a word for which it is; of some labels where all
    could only be had by reading the data."""
    if source.class_counts() is None:
        return f"some labels {source.fingerprint()}"
    found, what = hashlib.sha256(source.labels().numpy().tobytes()), "labels"
    if isinstance(source, Resident):
        what = "images"
        for _, x, _ in source.batches(chunked(torch.arange(len(source)), 4096)):
            found.update(x.cpu().numpy().tobytes())
    return f"{what} {found.hexdigest()[:16]}"


def check_images(x: Tensor, indices: Tensor) -> None:
    """Raise DataError at the first image (B, C, H, W) that is not finite or not in [0, 1] (tolerance 1e-4)."""
    if x.dtype == torch.uint8:
        return
    if not x.dtype.is_floating_point:
        raise DataError(f"images must be uint8, or floats in [0, 1], got {x.dtype}")
    flat = x.flatten(1)
    if not flat.shape[1]:
        raise DataError(f"images must have pixels, got {tuple(x.shape[1:])} (channels, height, width)")
    low, high = flat.amin(1), flat.amax(1)
    bad = ~((low >= -_TOLERANCE) & (high <= 1 + _TOLERANCE))
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise DataError(
            f"images must be finite and in [0, 1], got minimum {low[first]:.4g} and maximum {high[first]:.4g} in image "
            f"{int(indices[first])}; divide 0-255 values by 255, and make normalisation the model's first layer"
        )


def check_labels(y: Tensor, indices: Tensor, num_classes: int) -> None:
    """Raise DataError at the first label (B,) outside 0..num_classes - 1."""
    bad = (y < 0) | (y >= num_classes)
    if bool(bad.any()):
        first = int(bad.nonzero()[0])
        raise DataError(
            f"labels must be whole numbers in 0..{num_classes - 1}, got {int(y[first])} at example "
            f"{int(indices[first])}; renumber the labels, or use a model and data.num_classes with more classes"
        )


def label_check(source: Source, num_classes: int) -> Callable[[Tensor, Tensor], None]:
    """`check_labels` for batches of the source: done here at once where the labels are known, so that no batch has to
    wait for the device."""
    if source.class_counts() is None:
        return lambda y, indices: check_labels(y, indices, num_classes)
    check_labels(source.labels(), torch.arange(len(source)), num_classes)
    return lambda y, indices: None


class Resident:
    """Data that fit: one tensor of images, uint8 (or float in [0, 1]), on the device."""

    def __init__(self, images: Tensor, labels: Tensor, device: torch.device | str = "cpu"):
        if images.ndim != 4 or len(images) != len(labels) or len(images) == 0:
            raise DataError(
                f"images must be (N, C, H, W) with one label each and N > 0, "
                f"got {tuple(images.shape)} and {len(labels)} labels"
            )
        if labels.dtype.is_floating_point or labels.ndim != 1:
            raise DataError(
                f"labels must be one whole number an example, got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        check_images(images, torch.arange(len(images)))
        self.device = torch.device(device)
        self.shape = tuple(images.shape[1:])
        self._images = images.to(self.device)
        self.nbytes = self._images.nbytes
        self._labels = labels.long()
        self._labels_on_device = self._labels.to(self.device)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return to_float(self._images[i]), int(self._labels[i])

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        if not len(chunks):
            return
        moved = torch.cat(list(chunks)).to(self.device)  # once for all: each move waits for the device
        for indices in moved.split([len(chunk) for chunk in chunks]):
            yield indices, to_float(self._images[indices]), self._labels_on_device[indices]

    def labels(self) -> Tensor:
        return self._labels

    def class_counts(self) -> list[int]:
        return _counts(self._labels)

    def fingerprint(self) -> str:
        return labels_digest(lambda i: self._labels[i], len(self))


class Streamed:
    """Any map-style data set of (x, y), read through a DataLoader and checked as it comes.

    What cannot be read raises DataError with the example's index and what the data set raised, and so does a worker
    that dies, once its batch is waited for.

    Parameters
    ----------
    dataset : has `len` and gives x (C, H, W), uint8 or float in [0, 1], and y an int.
    device : where the batches go.
    labels : (N,) if they are known; read from the data otherwise, once, when first asked for.
    workers : DataLoader processes.
    """

    def __init__(
        self, dataset: Dataset, device: torch.device | str = "cpu", *, labels: Tensor | None = None, workers: int = 0
    ):
        self.dataset, self.device, self.workers = dataset, torch.device(device), workers
        self.nbytes = 0
        try:
            self._size = len(dataset)
        except TypeError:
            raise DataError(f"the data set must be map-style, with a length, got {type(dataset).__name__}") from None
        if self._size == 0:
            raise DataError("the data set must hold at least one example, got an empty one")
        self._labels, self._fingerprint = labels, None
        self.shape = tuple(item_of(dataset, 0)[0].shape)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        x, y = item_of(self.dataset, i)
        return to_float(x), y

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        checked = _Checked(self.dataset, self.shape, self.workers)
        loader = DataLoader(
            checked,
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=self.workers,
            collate_fn=_collated,
            pin_memory=pins(self.device),
            worker_init_fn=ignore,
            generator=torch.Generator(),  # its own: a default one would draw from the global state
        )
        read = iter(loader)
        if self.workers:
            _tell_deaths_here(read)
        try:
            for chunk in chunks:
                try:
                    batch = next(read)
                except Exception as error:  # several, when a worker dies
                    batch = checked.lost(getattr(read, "_workers", ()), chunk, error)
                if isinstance(batch, DataError):
                    raise batch
                x, y = batch
                check_images(x, chunk)
                yield chunk.to(self.device), to_float(x.to(self.device, non_blocking=True)), y.to(self.device)
        finally:
            del read  # or the error's traceback would keep the workers alive

    def labels(self) -> Tensor:
        if self._labels is None:
            everything = chunked(torch.arange(len(self)), 256)
            self._labels = torch.cat([y.cpu() for _, _, y in self.batches(everything)])
        return self._labels

    def class_counts(self) -> list[int] | None:
        return None if self._labels is None else _counts(self._labels)

    def fingerprint(self) -> str:
        if self._fingerprint is None:  # every state that is saved asks
            known = self._labels
            label_at = lambda i: known[i] if known is not None else item_of(self.dataset, i)[1]  # noqa: E731
            self._fingerprint = labels_digest(label_at, len(self))
        return self._fingerprint


class Part:
    """Some examples of a source, by their indices there, which stay theirs: so do their random numbers."""

    def __init__(self, source: Source, indices: Tensor):
        self.source, self.indices = source, indices
        self.device, self.shape, self.nbytes = source.device, source.shape, 0

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        return self.source.batches([self.indices[chunk] for chunk in chunks])

    def labels(self) -> Tensor:
        return self.source.labels()[self.indices]

    def class_counts(self) -> list[int] | None:
        return _counts(self.labels())

    def fingerprint(self) -> str:
        labels = self.labels()
        return labels_digest(lambda i: labels[i], len(self))


def _counts(labels: Tensor) -> list[int]:
    return labels.unique(return_counts=True)[1].tolist()


class _Checked(Dataset):
    """Items of one shape with whole-number labels, or the error that names the index: handed over as a value,
    because a DataLoader worker wraps what is raised in its own traceback. Remembers what each worker reads, for when
    it dies of it."""

    def __init__(self, dataset: Dataset, shape: tuple[int, ...], workers: int = 0):
        self.dataset, self.shape = dataset, shape
        self._reads = torch.full((workers,), _NOTHING).share_memory_() if workers else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, i: int) -> tuple[Tensor, int] | DataError:
        worker = get_worker_info()
        if worker:
            self._reads[worker.id] = i
        try:
            x, y = item_of(self.dataset, i)
        except DataError as error:
            return error
        if worker:
            self._reads[worker.id] = _NOTHING
        if tuple(x.shape) != self.shape:
            return DataError(
                f"images must have one size, got {tuple(x.shape)} at example {i} and {self.shape} at 0; resize them"
            )
        return x, y

    def lost(self, workers: Sequence, chunk: Tensor, error: Exception) -> DataError:
        """Why the batch of `chunk` does not come: which of the `workers` died, and reading what; else `error`."""
        if isinstance(error, (EOFError, OSError)):  # what a worker sent cannot be fetched: it is dying, or dead
            gone = wait([worker.sentinel for worker in workers], timeout=_DYING)
            for worker in workers:
                worker.join(_DYING if worker.sentinel in gone else 0)  # its files close before it is seen to be gone
        for worker, reading in zip(workers, [] if self._reads is None else self._reads.tolist(), strict=False):
            if worker.exitcode is not None and (worker.exitcode or reading != _NOTHING):
                which = _these(chunk) if reading == _NOTHING else f"example {reading}"
                return DataError(f"{which} cannot be read: the worker process {worker.pid} {_ended(worker.exitcode)}")
        return DataError(f"{_these(chunk)} cannot be read: {in_a_line(error)}")


_NOTHING = -1
_DYING = 2  # seconds


def _these(chunk: Tensor) -> str:
    """ "examples 3, 1, 4, ..."."""
    return f"examples {', '.join(map(str, chunk[:4].tolist()))}{', ...' if len(chunk) > 4 else ''}"


def _ended(code: int) -> str:
    """How a process of that exit code came to its end."""
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _tell_deaths_here(read: Iterator) -> None:
    """Without this, torch raises in its SIGCHLD handler when a worker dies: in the middle of whatever runs then, a
    training step too. It also looks every 5 seconds while it waits for a batch."""
    try:
        from torch.utils.data._utils.signal_handling import _remove_worker_pids
    except ImportError:  # a torch that has it no more: a death is told by its handler
        return
    _remove_worker_pids(id(read))
    read._worker_pids_set = False  # what its end asks


def _collated(items: list) -> list[Tensor] | DataError:
    """The items as one batch, or the first error among them."""
    return next((item for item in items if isinstance(item, DataError)), None) or default_collate(items)


def item_of(dataset: Dataset, i: int) -> tuple[Tensor, int]:
    """Image (C, H, W) and label of the i-th example. Raises DataError, with the index, for what is none, and for
    whatever the data set raises."""
    try:
        item = dataset[i]
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"example {i} cannot be read: {in_a_line(error)}") from error
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        raise DataError(f"example {i} must be a pair (x, y), got {type(item).__name__}")
    x, y = item[0], item[1]
    if not isinstance(x, Tensor) or x.ndim != 3:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"image {i} must be a tensor (C, H, W), got {got}; add torchvision.transforms.ToTensor()")
    if isinstance(y, Tensor) and y.ndim == 0:
        y = y.item()
    try:
        if not isinstance(y, bool) and abs(operator.index(y)) < 2**63:
            return x, operator.index(y)
    except (TypeError, ValueError):  # arrays and tensors have __index__ whatever they hold
        pass
    raise DataError(f"label {i} must be a whole number, got {y!r}; turn one-hot or text labels into class numbers")


def as_source(dataset: "Source | Dataset", device: torch.device) -> Source:
    """`dataset` itself if it already is a source, else streamed to `device`."""
    if isinstance(dataset, (Resident, Streamed, Part)):
        return dataset
    return Streamed(dataset, device)
