"""A source with its labels replaced, such as by those that a teacher predicts."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from advcore.data.contract import Batch, Source
from advcore.data.resident import Resident
from advcore.errors import DataError, must


class Relabelled(Source):
    """The images of a source with new labels (N,), on the CPU. Raises DataError for a wrong number of labels."""

    def __init__(self, source: Source, labels: Tensor) -> None:
        if labels.shape != (len(source),):
            raise DataError(must("labels", f"one for each of {len(source)} images", tuple(labels.shape)))
        self.source = source
        self.device = source.device
        self.shape = source.shape
        self.nbytes = source.nbytes
        self._labels = labels

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        for indices, x, _ in self.source.batches(chunks):
            yield indices, x, self._labels[indices.cpu()].to(self.device)

    def labels(self) -> Tensor:
        return self._labels

    def list_changed(self) -> list[int]:
        return self.source.list_changed()


def relabel(source: Source, labels: Tensor) -> Source:
    """Return the source's images with other labels (N,) long, on the CPU; held where they were."""
    if isinstance(source, Resident):
        return source.with_labels(labels)
    return Relabelled(source, labels)
