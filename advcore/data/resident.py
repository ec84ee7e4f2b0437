"""Data that are held on the device."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from advcore.data.contract import Batch, Source, to_float
from advcore.errors import DataError
from advcore.kinds import accept_arguments
from advcore.runtime.device import read_device
from advcore.unit_range import check_images


class Resident(Source):
    """Data that fit on the device: one tensor of images, uint8 or float in [0, 1], and their labels.

    Parameters
    ----------
    images : (N, C, H, W), N > 0.
    labels : (N,) whole numbers, which are copied; `labels` returns them on the CPU.
    device : where both are held for `batches`.

    Raises DataError for other shapes and dtypes, and for images that are not finite or not in [0, 1].
    """

    @accept_arguments
    def __init__(self, images: Tensor, labels: Tensor, device: torch.device | str = "cpu") -> None:
        if images.ndim != 4 or len(images) != len(labels) or len(images) == 0:
            raise DataError(
                f"images must be (N, C, H, W) with one label each and N > 0, "
                f"got {tuple(images.shape)} and {len(labels)} labels"
            )
        if labels.dtype.is_floating_point or labels.ndim != 1:
            raise DataError(
                f"labels must be one whole number per example, got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        check_images(images, torch.arange(len(images)))
        self.device = read_device(device)
        _, channels, height, width = images.shape
        self.shape = (channels, height, width)
        self._images = images.to(self.device)
        self.nbytes = self._images.nbytes
        self._labels = labels.to("cpu", torch.long, copy=True)
        self._labels_on_device = self._labels.to(self.device)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return to_float(self._images[i]), int(self._labels[i])

    def batches(self, chunks: Sequence[Tensor]) -> Iterator[Batch]:
        if not len(chunks):
            return
        all_indices = torch.cat(list(chunks)).to(self.device)  # at once: each move waits for the device
        for indices in all_indices.split([len(chunk) for chunk in chunks]):
            yield indices, to_float(self._images[indices]), self._labels_on_device[indices]

    def labels(self) -> Tensor:
        return self._labels

    def with_labels(self, labels: Tensor) -> "Resident":
        """Return the same images, not copied, with other labels (N,)."""
        return Resident(self._images, labels, self.device)
