"""All sources of batches: data on the device, data that are read as they are needed, and parts of either."""

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from advcore.data.contract import Batch, MapStyle, Source, cut_into_chunks, pick_sample
from advcore.data.pool import Pooled
from advcore.data.resident import Resident
from advcore.data.streamed import Streamed
from advcore.deprecation import forward_renamed

__all__ = ["Part", "Pooled", "Resident", "Source", "Streamed", "as_source", "hash_content"]


class Part(Source):
    """Some examples of a source, chosen by their indices there; an example keeps its index's random numbers."""

    def __init__(self, source: Source, indices: Tensor) -> None:
        self.source = source
        self.indices = indices
        self.device = source.device
        self.shape = source.shape

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        return self.source.batches([self.indices[chunk] for chunk in chunks])

    def labels(self) -> Tensor:
        return self.source.labels()[self.indices]

    def list_changed(self) -> list[int]:
        return self.source.list_changed()


def as_source(dataset: Source | MapStyle, device: torch.device) -> Source:
    """Return `dataset` itself if it already is a source; otherwise a source that streams it to `device`."""
    return dataset if isinstance(dataset, Source) else Streamed(dataset, device)


def hash_content(source: Source) -> str:
    """Hash all labels, and all images where they are in memory; the result says which.

    Where the labels could only be had by reading the data, only some of them are hashed.
    """
    if isinstance(source, Pooled):
        both = [hash_content(source.real), hash_content(source.pool)]
        kinds = " and a pool of ".join(text.rpartition(" ")[0] for text in both)
        return f"{kinds} {hashlib.sha256(repr(both).encode()).hexdigest()[:16]}"
    if source.class_counts() is None:
        return f"some labels {source.fingerprint()}"
    digest = hashlib.sha256(source.labels().numpy().tobytes())
    if not isinstance(source, Resident):
        return f"labels {digest.hexdigest()[:16]}"
    for _, x, _ in source.batches(cut_into_chunks(torch.arange(len(source)), 4096)):
        digest.update(x.cpu().numpy().tobytes())
    return f"images {digest.hexdigest()[:16]}"


def hash_sample(source: Source, indices: Tensor) -> str | None:
    """Hash up to 16 images, spread over `indices` (N,), of data not in memory; None for others (`hash_content`)."""
    if isinstance(source, Resident):
        return None
    _, x, _ = next(iter(source.batches([pick_sample(indices.cpu())])))
    return hashlib.sha256(x.cpu().numpy().tobytes()).hexdigest()[:16]


# names of the last release
__getattr__ = forward_renamed(
    __name__,
    {
        "batches_for": "advcore.data.contract.read_batches",
        "check_images": "advcore.data.checks.check_images",
        "check_labels": "advcore.data.checks.check_labels",
        "chunk_sizes": "advcore.data.contract.count_chunks",
        "content_hash": "advcore.data.source.hash_content",
        "first_images": "advcore.data.contract.read_first_images",
        "item_of": "advcore.data.checks.read_example",
        "label_check": "advcore.data.checks.make_label_check",
        "to_float": "advcore.data.contract.to_float",
    },
)
