"""Settings that all data sets share: sizes, the held-out split, and how a raw set becomes three sources.

A new set of data is one file, `advcore/data/NAME.py`, one line in `advcore.data.DATASETS`, and one test, which writes a
few such files and subclasses `advcore.testing.DataContract`. The file holds a class of settings that says where the raw
data are, and reads them:

    @settings
    class Npz(OwnData):
        def read(self) -> tuple[Split, Split]:
            ...

It subclasses `DataSettings`, or `OwnData` for files of the user's, which have a `path`. Its fields become settings of
`data` in a run file. `read` returns the whole training set and the whole test set (`Split`), in an order that does not
change; `load` draws the validation examples and the sample sizes from them. It reads without a network unless the user
asked for one, runs no code from a file, and raises DataError, which names the file or the example, for what it cannot
use. `usual_augment` names how such images are usually augmented, where they are.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from advcore.data.augment import Augmentation, build_augmentation, find_augmentation_problem
from advcore.data.checks import check_labels, warn_of_absent
from advcore.data.contract import Source
from advcore.data.injected_faults import Planted, inject_faults
from advcore.data.pool import Pool, Pooled, name_pool
from advcore.data.split import Split, draw_stratified, subsample
from advcore.deprecation import forward_renamed
from advcore.errors import (
    LARGEST_SEED,
    DataError,
    check_at_least,
    check_within,
    describe_cause,
    describe_refusal,
    format_value,
    must,
    require,
)
from advcore.settings import setting

# A larger label is not a class, or no model has a head for it.
MOST_CLASSES = 1_000_000


@dataclass(frozen=True)
class Data:
    """The data of a run.

    Parameters
    ----------
    train, validation, test : sources without augmentation; `validation` is None if no example is held out.
    part : (N,) long, positions of the training examples in the whole training set.
    whole : labels of the whole training set.
    num_classes : number of classes.
    augment : function from (x (B, C, H, W), stream) to the augmented images.
    changed : what was done to images and labels, where a digest of labels does not show it; part of the data's name.
    notes : what was left out or read differently than the files say.
    """

    train: Source
    validation: Source | None
    test: Source
    part: Tensor = field(repr=False)
    whole: Tensor = field(repr=False)
    num_classes: int
    augment: Augmentation
    changed: str = ""
    notes: tuple[str, ...] = ()

    def describe(self) -> str:
        """Return one line: images of each set, shape, classes, device, and the notes."""
        sets = {"training": self.train, "validation": self.validation, "test": self.test}
        counts = [f"{len(source):,} {name}" for name, source in sets.items() if source]
        shape = " x ".join(map(str, self.train.shape))
        facts = f"{', '.join(counts)} images of {shape}, {self.num_classes:,} classes, on {self.train.device}"
        return "; ".join([f"data: {facts}", *self.notes])


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Settings that all data share.

    Parameters
    ----------
    validation : share of the training set held out to choose `best`, in [0, 0.5]; stratified.
    split_seed : of every split; not the run's seed. In a suite each seed has its own, unless `vary_split` says no.
    train_size, test_size : use that many examples, stratified, of the training and of the test set; None for all.
    augment : "none", "crop" (by an eighth of the height: 4 of 32 pixels), "flip", "crop_flip", "color_jitter" (by up to
        40 %), "rotation" (15 degrees), "randaugment" (2 operations of magnitude 9), or several joined by +, also with
        another largest change: "crop_flip+color_jitter:0.25+rotation:2" (`training.cutmix` mixes images). None: as is
        usual, crop_flip for cifar10, cifar100 and image_folder, crop for svhn, else none.
    workers : DataLoader processes, 0 to 1024, for an image_folder of more than 4 GiB of pixels; all else is held.
    planted : faults of the training examples, for studies; None for none.
    pool : extra images from which every training batch takes a share; None for none.
    """

    validation: float = setting(default=0.1, unit="share")
    split_seed: int = 0
    train_size: int | None = setting(default=None, unit="examples")
    test_size: int | None = setting(default=None, unit="examples")
    augment: str | None = None
    workers: int = setting(default=0, unit="processes")
    planted: Planted | None = None
    pool: Pool | None = None
    usual_augment: ClassVar[str] = "none"

    def __post_init__(self) -> None:
        sizes = {"train_size": self.train_size, "test_size": self.test_size}
        augment = self.usual_augment if self.augment is None else self.augment
        require(
            check_within("validation", self.validation, 0, 0.5),
            check_at_least("split_seed", self.split_seed, -LARGEST_SEED, most=LARGEST_SEED),
            *(check_at_least(setting, size, 1) for setting, size in sizes.items() if size is not None),
            find_augmentation_problem(augment),
            check_at_least("workers", self.workers, 0, most=1024),
        )

    def read(self) -> tuple[Split, Split]:
        """Return the raw training and test sets; each class of data brings its own.

        Raises DataError. What the operating system refuses may leave it as OSError.
        """
        raise NotImplementedError

    def read_pool(self, path: Path) -> Split:
        """Return the images of a pool at `path`, for a class whose format a pool may have. Raises DataError."""
        raise NotImplementedError

    def _read(self) -> tuple[Split, Split]:
        """Call `read`. Raises DataError for what the operating system refuses."""
        try:
            return self.read()
        except OSError as error:
            refused = describe_refusal(error)
            if refused is None:
                raise
            raise DataError(f"data cannot be read: {refused}") from None

    def count_classes(self, train: Split) -> int:
        """Return the number of classes. Raises DataError for labels that cannot be classes."""
        if train.num_classes:
            return train.num_classes
        check_labels(train.labels, torch.arange(len(train.labels)), MOST_CLASSES)
        return int(train.labels.max()) + 1

    def sketch(self) -> tuple[Data, int, int]:
        """Return data of two training images, and the numbers of training and of validation examples of `load`.

        All else that `load` decodes is left alone, where the files' format allows that.
        """
        train, _ = self._read()
        num_classes = self.count_classes(train)
        train, part, validation = self._divide(train, num_classes)
        source = train.make_source(part[:2], torch.device("cpu"), self.workers)
        data = Data(
            train=source,
            validation=None,
            test=source,
            part=part[:2],
            whole=train.labels,
            num_classes=num_classes,
            augment=build_augmentation(self.augment or self.usual_augment, source.shape[0]),
        )
        return data, len(part), len(validation)

    def _divide(self, train: Split, num_classes: int) -> tuple[Split, Tensor, Tensor]:
        """Return the training set, with injected faults if there are any, and positions in it.

        The positions are those of the training examples and of the validation examples.
        """
        positions = subsample(train.labels, self.train_size, self.split_seed, "train_size")
        held_out = draw_stratified(
            train.labels[positions], round(self.validation * len(positions)), self.split_seed, "validation"
        )
        part = positions[~held_out]
        if self.planted is not None:
            train, part = inject_faults(train, part, self.planted, num_classes, self.split_seed)
        return train, part, positions[held_out]

    def load(self, device: torch.device) -> Data:
        """Read, check and split the data. Raises DataError for missing files and for labels out of range."""
        train, test = self._read()
        num_classes = self.count_classes(train)
        for split in (train, test):
            check_labels(split.labels, torch.arange(len(split.labels)), num_classes)
        train, part, validation = self._divide(train, num_classes)
        warn_of_absent(train.labels[part], num_classes, "training example")
        test_positions = subsample(test.labels, self.test_size, self.split_seed, "test_size")
        train_source = train.make_source(part, device, self.workers)
        test_source = test.make_source(test_positions, device, self.workers)
        if train_source.shape != test_source.shape:
            shapes = f"{train_source.shape} and {test_source.shape}"
            raise DataError(must("training and test images", "of one shape (C, H, W)", shapes))
        # faults that labels do not show
        has_hidden_faults = self.planted is not None and (self.planted.duplicates or self.planted.noise)
        data = Data(
            train=train_source,
            validation=train.make_source(validation, device, self.workers) if len(validation) else None,
            test=test_source,
            part=part,
            whole=train.labels,
            num_classes=num_classes,
            augment=build_augmentation(self.augment or self.usual_augment, train_source.shape[0]),
            changed=f"{self.planted}, {self.split_seed}" if has_hidden_faults else "",
            notes=tuple(dict.fromkeys((*train.notes, *test.notes))),
        )
        if self.pool is None:
            return data
        return self._add_pool(data, self.pool, train.class_names)

    def _add_pool(self, data: Data, pool: Pool, class_names: Sequence[str]) -> Data:
        """Return the data with training batches of which a share comes from the pool.

        Raises DataError for a pool of images of another shape, or of other classes.
        """
        with name_pool():
            extra = pool.read(self, find_path(pool.path))
            if extra.class_names and class_names and extra.class_names != class_names:
                rule = f"those of the data, {format_value(class_names)}"
                raise DataError(must("class names", rule, extra.class_names))
            check_labels(extra.labels, torch.arange(len(extra.labels)), data.num_classes)
            if pool.labels == "given":
                warn_of_absent(extra.labels, data.num_classes, "image in the pool")
            source = extra.make_source(torch.arange(len(extra.labels)), data.train.device, self.workers)
            pooled = Pooled(data.train, source, pool.share)
        facts = f"{len(source):,} images of {pool.path}, {pool.share:g} of each training batch"
        notes = [f"pool: {note}" for note in (facts, *extra.notes)]
        return replace(data, train=pooled, notes=(*data.notes, *notes))


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
    num_classes: int | None = setting(default=None, unit="classes")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_classes is not None:
            require(check_at_least("num_classes", self.num_classes, 2, most=MOST_CLASSES))

    def count_classes(self, train: Split) -> int:
        return self.num_classes or super().count_classes(train)


def expand_home(path: str) -> Path:
    """Replace `~` by the home folder, where there is one."""
    return Path(os.path.expanduser(path))


def find_path(path: str, way_out: str = "") -> Path:
    """Return the folder or file that data.path names: as it is, or below the folder named by ADVCORE_DATA.

    Raises DataError if there is none, which ends with `way_out`.
    """
    root = os.environ.get("ADVCORE_DATA")
    below_root = [Path(root) / path] if root else []
    attempts = []
    for candidate in (expand_home(path), *below_root):
        try:
            os.stat(candidate)
            return candidate
        except OSError as error:
            attempts.append(f"{candidate}: {describe_cause(error)}")
        except ValueError as error:
            attempts.append(f"{candidate}: {error}")
    hint = "" if root else "; a relative path is also looked up below the folder that ADVCORE_DATA names"
    raise DataError(
        f"data.path must be an existing file or folder, got {path!r} (looked for {'; '.join(attempts)}){hint}{way_out}"
    )


# names of the last release
__getattr__ = forward_renamed(
    __name__,
    {
        "stratified": "advcore.data.split.draw_stratified",
        "thinned": "advcore.data.split.subsample",
    },
)
