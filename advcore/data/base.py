"""What every data setting shares: sizes, the held-out split, and how a raw set becomes three sources."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from advcore.apportion import largest_remainder
from advcore.data.augment import AUGMENTATIONS
from advcore.data.planted import Planted, plant
from advcore.data.source import Resident, Source, Streamed, check_labels, item_of
from advcore.errors import (
    LARGEST_SEED,
    DataError,
    at_least,
    cause_of,
    describe_refusal,
    must,
    one_of,
    require,
    within,
)
from advcore.rng import Stream

log = logging.getLogger(__name__)

RESIDENT_LIMIT = 4 * 2**30
"""Bytes up to which a set of images is held on the device."""
MOST_CLASSES = 1_000_000
"""A larger label is no class, or no model has a head for it."""


@dataclass(frozen=True)
class Split:
    """One part of a raw set.

    labels : (N,) long. images : positions (B,) to images (B, C, H, W), for those that are at hand at once; else None,
    and dataset : map-style (x, y), read one by one. num_classes : that its files speak of; None where they do not.
    """

    labels: Tensor
    images: Callable[[Tensor], Tensor] | None = None
    dataset: Dataset | None = None
    num_classes: int | None = None

    def source(self, positions: Tensor, device: torch.device, workers: int) -> Source:
        """The examples at `positions`, on the device if they fit."""
        if self.images is not None:
            return Resident(self.images(positions), self.labels[positions], device)
        part = Subset(self.dataset, positions.tolist())
        if len(part) * item_of(part, 0)[0].numel() <= RESIDENT_LIMIT:
            images = torch.stack([item_of(part, i)[0] for i in range(len(part))])
            return Resident(images, self.labels[positions], device)
        return Streamed(part, device, labels=self.labels[positions], workers=workers)


@dataclass(frozen=True)
class Data:
    """What a run reads: `train`, `validation` (None without one) and `test`, plain views.

    part : (N,) long, where the training examples stand in the whole training set. whole : the labels of that set.
    num_classes : how many there are. augment : (x (B, C, H, W), stream) to the augmented view.
    changed : what was done to images and labels, where a digest of labels need not tell; part of the data's name.
    """

    train: Source
    validation: Source | None
    test: Source
    part: Tensor
    whole: Tensor
    num_classes: int
    augment: Callable[[Tensor, Stream], Tensor]
    changed: str = ""


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Settings that all data share.

    Parameters
    ----------
    validation : share of the training set held out to choose `best`, in [0, 0.5]; stratified.
    split_seed : of every split; not the run's seed, so that all seeds see the same parts.
    train_size, test_size : use that many examples, stratified, of the training and of the test set; None for all.
    augment : "none", "crop" (after padding by an eighth of the height: 4 of 32 pixels), "crop_flip"; None for what the
        set is usually trained with: crop_flip for cifar10, cifar100 and image_folder, crop for svhn, else none.
    workers : DataLoader processes, 0 to 1024, for an image_folder of more than 4 GiB of pixels; all else is held.
    planted : faults of the training examples, for studies; None for none.
    """

    validation: float = 0.1
    split_seed: int = 0
    train_size: int | None = None
    test_size: int | None = None
    augment: str | None = None
    workers: int = 0
    planted: Planted | None = None
    usual_augment: ClassVar[str] = "none"
    known_classes: ClassVar[int | None] = None

    def __post_init__(self):
        require(
            within("validation", self.validation, 0, 0.5),
            at_least("split_seed", self.split_seed, -LARGEST_SEED, most=LARGEST_SEED),
            *(
                None if size is None else at_least(name, size, 1)
                for name, size in (("train_size", self.train_size), ("test_size", self.test_size))
            ),
            None if self.augment is None else one_of("augment", self.augment, AUGMENTATIONS),
            at_least("workers", self.workers, 0, most=1024),
        )

    def read(self) -> tuple[Split, Split]:
        """The raw training and test sets."""
        raise NotImplementedError

    def _read(self) -> tuple[Split, Split]:
        """`read`, with what the system refuses as a DataError."""
        try:
            return self.read()
        except OSError as error:
            refused = describe_refusal(error)
            if refused is None:
                raise
            raise DataError(f"data cannot be read: {refused}") from None

    def classes(self, train: Split) -> int:
        """How many classes there are."""
        if self.known_classes or train.num_classes:
            return self.known_classes or train.num_classes
        check_labels(train.labels, torch.arange(len(train.labels)), MOST_CLASSES)
        return int(train.labels.max()) + 1

    def counts(self) -> tuple[int, int]:
        """How many training and validation examples `load` gives; no image is decoded where that can be avoided."""
        train, _ = self._read()
        _, part, aside = self._parted(train, self.classes(train))
        return len(part), len(aside)

    def _parted(self, train: Split, num_classes: int) -> tuple[Split, Tensor, Tensor]:
        """The training set, with its faults if some are to be planted, and the positions in it of the training and of
        the validation examples."""
        chosen = thinned(train.labels, self.train_size, self.split_seed, "train_size")
        held_out = stratified(train.labels[chosen], round(self.validation * len(chosen)), self.split_seed, "validation")
        part, aside = chosen[~held_out], chosen[held_out]
        if self.planted is not None:
            train, part = plant(train, part, self.planted, num_classes, self.split_seed)
        return train, part, aside

    def load(self, device: torch.device) -> Data:
        """Read, check and split. Raises DataError for missing files and for labels out of range."""
        train, test = self._read()
        num_classes = self.classes(train)
        for split in (train, test):
            check_labels(split.labels, torch.arange(len(split.labels)), num_classes)
        train, part, aside = self._parted(train, num_classes)
        absent = sorted(set(range(num_classes)) - set(train.labels[part].tolist()))
        if absent:
            log.warning("%d of %d classes have no training example: %s", len(absent), num_classes, _few(absent))
        test_part = thinned(test.labels, self.test_size, self.split_seed, "test_size")
        sources = [train.source(part, device, self.workers), test.source(test_part, device, self.workers)]
        if sources[0].shape != sources[1].shape:
            shapes = f"{sources[0].shape} and {sources[1].shape}"
            raise DataError(must("training and test images", "of one shape (C, H, W)", shapes))
        unseen = self.planted is not None and (self.planted.duplicates or self.planted.noise)
        return Data(
            train=sources[0],
            validation=train.source(aside, device, self.workers) if len(aside) else None,
            test=sources[1],
            part=part,
            whole=train.labels,
            num_classes=num_classes,
            augment=AUGMENTATIONS[self.augment or self.usual_augment],
            changed=f"{self.planted}, {self.split_seed}" if unseen else "",
        )


@dataclass(frozen=True, kw_only=True)
class OwnData(DataSettings):
    """A user's own files.

    Parameters
    ----------
    path : where they are; a relative path is also looked up below the folder that ADVCORE_DATA names.
    num_classes : how many classes there are, at least 2; None for what the files say, else one more than the largest
        training label.
    """

    path: str
    num_classes: int | None = None

    def __post_init__(self):
        super().__post_init__()
        require(None if self.num_classes is None else at_least("num_classes", self.num_classes, 2, most=MOST_CLASSES))

    def classes(self, train: Split) -> int:
        return self.num_classes or super().classes(train)


def _few(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")


def stratified(labels: Tensor, count: int, seed: int, purpose: str) -> Tensor:
    """(N,) bool, True for `count` examples drawn with each class's share (largest remainder)."""
    order = Stream(seed=seed, purpose=f"split-{purpose}").at(torch.arange(len(labels))).permutation()
    classes = labels.unique()
    shares = largest_remainder(count, [int((labels == c).sum()) for c in classes])
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for c, share in zip(classes, shares, strict=True):
        mask[order[labels[order] == c][:share]] = True
    return mask


def thinned(labels: Tensor, size: int | None, seed: int, setting: str) -> Tensor:
    """Positions of a stratified sample of `size`, ascending; all of them for None."""
    if size is None:
        return torch.arange(len(labels))
    if size > len(labels):
        raise DataError(must(setting, f"at most {len(labels)}", size, "leave it out to use all"))
    return stratified(labels, size, seed, setting).nonzero()[:, 0]


def expanded(path: str) -> Path:
    """With the home folder in place of `~`, where there is one."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # of a user that this machine does not know
        return Path(path)


def find_path(path: str) -> Path:
    """The folder or file that data.path names: as it stands, or below the folder named by ADVCORE_DATA."""
    root = os.environ.get("ADVCORE_DATA")
    tried = [expanded(path), *([Path(root) / path] if root else [])]
    causes = []
    for candidate in tried:
        try:
            os.stat(candidate)
            return candidate
        except (OSError, ValueError) as error:
            causes.append(cause_of(error) if isinstance(error, OSError) else str(error))
    places = "; ".join(f"{candidate}: {cause}" for candidate, cause in zip(tried, causes, strict=True))
    hint = "" if root else "; a relative path is also looked up below the folder that ADVCORE_DATA names"
    raise DataError(f"data.path must be an existing file or folder, got {path!r} (looked for {places}){hint}")
