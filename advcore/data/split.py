"""A raw data set as its files give it, and stratified draws from its labels."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from advcore.data.contract import Source
from advcore.data.resident import Resident
from advcore.data.streamed import Streamed
from advcore.errors import DataError, must
from advcore.rng import Stream
from advcore.shares import apportion

# Bytes up to which a set of images is held on the device.
RESIDENT_LIMIT = 4 * 2**30


@dataclass(frozen=True)
class Split:
    """One part of a raw data set; `load` checks its labels, and a source the images.

    Parameters
    ----------
    labels : (N,) long, from 0.
    images : function from positions (B,) to images (B, C, H, W).
    num_classes : number of classes that the files state; None where they state none.
    may_stream : whether each image has its own file, so that more than 4 GiB of images need not be held.
    notes : what was left out or read differently than its files say, each in a few words for the plan of a run.
    class_names : names that the files give to the classes; empty where they give none.
    """

    labels: Tensor
    images: Callable[[Tensor], Tensor]
    num_classes: int | None = None
    may_stream: bool = False
    notes: tuple[str, ...] = ()
    class_names: Sequence[str] = ()

    def with_notes(self, *notes: str) -> "Split":
        """Return the split with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def make_source(self, positions: Tensor, device: torch.device, workers: int) -> Source:
        """Return the examples at `positions` as a source, held on the device if they fit."""
        labels = self.labels[positions]
        if self.may_stream and len(positions) * self.images(positions[:1]).numel() > RESIDENT_LIMIT:
            return Streamed(_Examples(self, positions), device, labels=labels, workers=workers)
        return Resident(self.images(positions), labels, device)


@dataclass(frozen=True, eq=False)
class _Examples(Dataset):
    """The examples of a split at some positions, read one at a time."""

    split: Split
    positions: Tensor

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        position = self.positions[i : i + 1]
        return self.split.images(position)[0], int(self.split.labels[position])


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
