"""A folder of images, one sub-folder a class, as torchvision's ImageFolder reads it."""

import os
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from advcore.data.base import DataSettings, Split, find_path
from advcore.data.images import decoded
from advcore.errors import DataError, at_least, missing_package, must, require
from advcore.types import settings


@settings
class ImageFolder(DataSettings):
    """`path/train/CLASS/*` and, as the test set, `path/test/CLASS/*` (without it, `val`), resized and cut to one size.

    Parameters
    ----------
    path : the folder.
    size : side of the square images in pixels, 8 to 10,000: the shorter side is resized to 8/7 of it, then the centre
        is cut.
    only : sub-folders to use, in the order of their labels; None for all, sorted by name.
    groups : {name: [sub-folders]} to merge sub-folders into classes, as ImageNet-12 does; excludes `only`.
    """

    path: str
    size: int = 224
    only: list[str] | None = None
    groups: dict[str, list[str]] | None = None
    usual_augment: ClassVar[str] = "crop_flip"

    def __post_init__(self):
        super().__post_init__()
        require(
            at_least("size", self.size, 8, most=10_000),
            "only and groups must not both be given; groups already names its folders"
            if self.only and self.groups
            else None,
            self._twice(),
        )

    def _twice(self) -> str | None:
        """Problem if a sub-folder stands in two places: it can have one label only."""
        named = [sub for subs in self.groups.values() for sub in subs] if self.groups else self.only or []
        twice = sorted({sub for sub in named if named.count(sub) > 1})
        return must("groups" if self.groups else "only", "sub-folders each named once", twice[0]) if twice else None

    def read(self) -> tuple[Split, Split]:
        root = find_path(self.path)
        test = root / "test" if (root / "test").is_dir() else root / "val"
        train = self._split(root / "train", root / "train")
        return train, self._split(test, root / "train")

    def _names(self, folder: Path) -> list[str]:
        """Classes in label order."""
        return list(self.groups or self.only or sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))

    def _split(self, folder: Path, named_by: Path) -> Split:
        try:
            from torchvision import datasets
        except (ImportError, RuntimeError) as error:
            raise missing_package("torchvision", "data.name: image_folder", None, error) from None
        if not folder.is_dir():
            raise DataError(
                f"data.path must hold a folder {folder.name!r} with one sub-folder a class, got none at {str(folder)!r}"
            )
        names = self._names(named_by)
        numbers = {sub: i for i, name in enumerate(names) for sub in (self.groups[name] if self.groups else [name])}
        missing = [sub for sub in numbers if not (folder / sub).is_dir()]
        if missing or not numbers:
            raise DataError(f"{folder} must hold a sub-folder for each class, got none for {missing[:5]}")
        samples = _samples(folder, numbers, datasets.folder.IMG_EXTENSIONS)
        if not samples:
            raise DataError(f"{folder} must hold images, got none in {len(numbers)} sub-folders")
        labels = torch.tensor([label for _, label in samples])
        return Split(labels, dataset=_Files(samples, self.size), num_classes=len(names))


def _samples(folder: Path, numbers: dict[str, int], endings: tuple[str, ...]) -> list[tuple[str, int]]:
    """Path and label of every image, in the order of torchvision's `make_dataset`. Raises OSError for a sub-folder that
    cannot be listed, whose images would otherwise be missing without a word."""

    def refused(error: OSError) -> None:
        raise error

    samples = []
    for sub in sorted(numbers):
        for where, _, names in sorted(os.walk(folder / sub, followlinks=True, onerror=refused)):
            paths = [os.path.join(where, name) for name in sorted(names) if name.lower().endswith(endings)]
            samples += [(path, numbers[sub]) for path in paths]
    return samples


class _Files(Dataset):
    """(uint8 (3, size, size), label) of (path, label) pairs."""

    def __init__(self, samples: list[tuple[str, int]], size: int):
        self.samples, self.size = samples, size

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        from torchvision.transforms import functional as TF

        path, label = self.samples[i]
        image = TF.center_crop(TF.resize(decoded(path, i), round(self.size * 8 / 7)), self.size)
        return TF.pil_to_tensor(image), label
