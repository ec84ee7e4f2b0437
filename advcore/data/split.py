"""A raw data set as its files give it, and stratified draws from its labels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from advcore.data.checks import item_of
from advcore.data.contract import MapStyle, Source
from advcore.data.resident import Resident
from advcore.data.streamed import Streamed
from advcore.errors import DataError, must
from advcore.rng import Stream
from advcore.shares import apportion

RESIDENT_LIMIT = 4 * 2**30
"""Bytes up to which a set of images is held on the device."""


@dataclass(frozen=True)
class Split:
    """One part of a raw data set.

    Parameters
    ----------
    labels : (N,) long.
    images : function from positions (B,) to images (B, C, H, W); None where images are read one at a time.
    dataset : map-style data set of (x, y) to read them from; needed where `images` is None.
    num_classes : number of classes that the files state; None where they state none.
    """

    labels: Tensor
    images: Callable[[Tensor], Tensor] | None = None
    dataset: MapStyle | None = None
    num_classes: int | None = None

    def source(self, positions: Tensor, device: torch.device, workers: int) -> Source:
        """Return the examples at `positions` as a source, held on the device if they fit."""
        if self.images is not None:
            return Resident(self.images(positions), self.labels[positions], device)
        assert self.dataset is not None, "a split has images or a data set"
        part = Subset(cast(Dataset, self.dataset), positions.tolist())
        if len(part) * item_of(part, 0)[0].numel() <= RESIDENT_LIMIT:
            images = torch.stack([item_of(part, i)[0] for i in range(len(part))])
            return Resident(images, self.labels[positions], device)
        return Streamed(part, device, labels=self.labels[positions], workers=workers)


def draw_stratified(labels: Tensor, count: int, seed: int, purpose: str) -> Tensor:
    """Draw `count` examples with each class's share (largest remainder); return (N,) bool, True for those drawn."""
    order = Stream(seed=seed, purpose=f"split-{purpose}").at(torch.arange(len(labels))).permutation()
    classes = labels.unique()
    shares = apportion(count, [int((labels == c).sum()) for c in classes])
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for c, share in zip(classes, shares, strict=True):
        mask[order[labels[order] == c][:share]] = True
    return mask


def subsample(labels: Tensor, size: int | None, seed: int, setting: str) -> Tensor:
    """Return the positions of a stratified sample of `size` examples, ascending; all positions for None.

    Raises DataError, naming the `setting`, if there are fewer examples.
    """
    if size is None:
        return torch.arange(len(labels))
    if size > len(labels):
        raise DataError(must(setting, f"at most {len(labels)}", size, "leave it out to use all"))
    return draw_stratified(labels, size, seed, setting).nonzero()[:, 0]
