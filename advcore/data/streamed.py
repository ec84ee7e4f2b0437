"""Data that are read through a DataLoader, and what is said when reading fails."""

import contextlib
import signal
from collections.abc import Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from advcore.data.checks import list_first, read_example
from advcore.data.contract import Batch, MapStyle, Source, cut_into_chunks, to_float
from advcore.data.samples import count_examples
from advcore.errors import DataError, describe_exception, must
from advcore.runtime.device import is_faster_pinned, read_device
from advcore.runtime.signals import hold_signals, ignore_signals
from advcore.types import digest_labels
from advcore.unit_range import check_images

_STAY = "an index must always name the same example: draw order, noise and subsets once, before the run"
_NOTHING = -1  # what a worker reads between two examples
_UNREAD = torch.iinfo(torch.int64).min  # marks a label that was not read yet; never a valid label
_DYING = 2  # seconds that a worker takes to end once its files are closed


class Streamed(Source):
    """Any map-style data set of (x, y), read through a DataLoader and checked as it comes.

    What cannot be read raises DataError with the example's index and what the data set raised. So does a worker that
    dies, once its batch is waited for; and so do a length and labels that are not what they were when first read.

    Parameters
    ----------
    dataset : has `len`, and gives x (C, H, W), uint8 or float in [0, 1], and y an int.
    device : where the batches go.
    labels : (N,) if they are known; otherwise they are read from the data, once, when first asked for.
    workers : DataLoader processes.
    """

    def __init__(
        self, dataset: MapStyle, device: torch.device | str = "cpu", *, labels: Tensor | None = None, workers: int = 0
    ):
        self.dataset = dataset
        self.device = read_device(device)
        self.workers = workers
        self._size = count_examples(dataset)
        if self._size == 0:
            raise DataError("the data set must hold at least one example, got an empty one")
        self._labels = labels
        self._first_labels = torch.full((self._size,), _UNREAD)
        if labels is not None:
            self._first_labels.copy_(labels)
        self._fingerprint: str | None = None
        channels, height, width = read_example(dataset, 0)[0].shape
        self.shape = (channels, height, width)

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        x, y = read_example(self.dataset, i)
        return to_float(x), y

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        return self._load(chunks, self.workers)

    def _load(self, chunks: Sequence[Tensor], workers: int) -> Iterator[Batch]:
        self._refuse_new_length()
        examples = _CheckedExamples(self.dataset, self.shape, workers)
        loader = DataLoader(
            examples,
            batch_sampler=[chunk.tolist() for chunk in chunks],
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=is_faster_pinned(self.device),
            worker_init_fn=ignore_signals,
            generator=torch.Generator(),  # its own: a default one would draw from the global state
        )
        with hold_signals():
            iterator = iter(loader)
        if workers:
            _report_deaths_at_next_batch(iterator)
        try:
            for chunk in chunks:
                try:
                    batch = next(iterator)
                except Exception as error:  # several, when a worker dies
                    batch = examples.explain_loss(getattr(iterator, "_workers", ()), chunk, error)
                if isinstance(batch, DataError):
                    raise batch
                x, y = batch
                check_images(x, chunk)
                self._refuse_new_labels(chunk.cpu(), y)
                yield chunk.to(self.device), to_float(x.to(self.device, non_blocking=True)), y.to(self.device)
        finally:
            del iterator  # or the error's traceback would keep the workers alive

    def labels(self) -> Tensor:
        if self._labels is None:
            everything = cut_into_chunks(torch.arange(len(self)), 256)
            self._labels = torch.cat([y.cpu() for _, _, y in self.batches(everything)])
        return self._labels

    def _read_sample(self, sample: Tensor) -> Batch:
        return next(self._load([sample], workers=0))

    def _refuse_new_length(self) -> None:
        size = len(self.dataset)
        if size != self._size:
            raise DataError(must("the data set", f"as long as when it was first read, {self._size:,}", size, _STAY))

    def _refuse_new_labels(self, indices: Tensor, labels: Tensor) -> None:
        """Remember labels that are read for the first time, and compare those that are read again."""
        before = self._first_labels[indices]
        changed = (before != labels) & (before != _UNREAD)
        if bool(changed.any()):
            i = int(changed.nonzero()[0])
            setting = f"the label of example {int(indices[i])}"
            raise DataError(
                must(setting, f"the same each time it is read, {int(before[i])} at first", int(labels[i]), _STAY)
            )
        self._first_labels[indices] = labels

    def class_counts(self) -> list[int] | None:
        return None if self._labels is None else super().class_counts()

    def fingerprint(self) -> str:
        if self._fingerprint is None:  # every state that is saved asks for it
            self._fingerprint = digest_labels(self._label_at, len(self))
        return self._fingerprint

    def _label_at(self, i: int) -> int:
        if self._labels is not None:
            return int(self._labels[i])
        label = read_example(self.dataset, i)[1]
        self._refuse_new_labels(torch.tensor([i]), torch.tensor([label]))
        return label


class _CheckedExamples(Dataset):
    """Examples of one shape with whole-number labels, or the DataError that names the index.

    An error is handed over as a value, because a DataLoader worker wraps what is raised in its own traceback.
    What each worker reads is remembered, for the case that it dies of it.
    """

    def __init__(self, dataset: MapStyle, shape: tuple[int, ...], workers: int = 0) -> None:
        self.dataset = dataset
        self.shape = shape
        self._being_read = torch.full((workers,), _NOTHING)
        if workers:
            self._being_read.share_memory_()

    def __getitem__(self, i: int) -> tuple[Tensor, int] | DataError:
        worker = get_worker_info()
        if worker:
            self._being_read[worker.id] = i
        try:
            x, y = read_example(self.dataset, i)
        except DataError as error:
            return error
        if worker:
            self._being_read[worker.id] = _NOTHING
        if tuple(x.shape) != self.shape:
            return DataError(
                f"images must have one size, got {tuple(x.shape)} at example {i} and {self.shape} at 0; resize them"
            )
        return x.clone(), y  # some data sets hand out one buffer again and again

    def explain_loss(self, workers: Sequence[BaseProcess], chunk: Tensor, error: Exception) -> DataError:
        """Explain why the batch of `chunk` does not come: by the worker that died and what it read, else by `error`."""
        if isinstance(error, (EOFError, OSError)):  # what a worker sent cannot be fetched: it is dying, or dead
            _await_dying(workers)
        examples = f"examples {list_first(chunk.tolist(), 4)}"
        for worker, example in zip(workers, self._being_read.tolist(), strict=False):
            if worker.exitcode is not None and (worker.exitcode or example != _NOTHING):
                which = examples if example == _NOTHING else f"example {example}"
                process = f"the worker process {worker.pid} {_describe_exit(worker.exitcode)}"
                return DataError(f"{which} cannot be read: {process}")
        return DataError(f"{examples} cannot be read: {describe_exception(error)}")


def _await_dying(workers: Sequence[BaseProcess]) -> None:
    """Wait for workers that are about to exit: their files close before their exit codes are known."""
    ended = wait([worker.sentinel for worker in workers], timeout=_DYING)
    for worker in workers:
        worker.join(_DYING if worker.sentinel in ended else 0)


def _describe_exit(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _report_deaths_at_next_batch(iterator: Iterator) -> None:
    """Let the death of one of the iterator's workers be reported where a batch is asked for, and nowhere else.

    The iterator looks for dead workers itself, every 5 seconds while it waits for a batch. torch's handler of SIGCHLD
    would be earlier, but raises in the middle of whatever runs when a worker dies. It goes through a list of workers,
    from which torch offers no public way to take these; a torch without the private one reports as it likes.
    """
    with contextlib.suppress(ImportError):
        from torch.utils.data._utils.signal_handling import _remove_worker_pids

        _remove_worker_pids(id(iterator))
        iterator._worker_pids_set = False  # type: ignore[attr-defined]  # they are not removed a second time


def _collate(items: list) -> list[Tensor] | DataError:
    """Return the items as one batch, or the first error among them."""
    return next((item for item in items if isinstance(item, DataError)), None) or default_collate(items)
