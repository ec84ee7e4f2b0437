"""A folder of images, one sub-folder per class, as torchvision's ImageFolder reads it."""

import os
from functools import partial
from itertools import chain
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from advcore.data.base import DataSettings, find_path
from advcore.data.images import decode_image
from advcore.data.split import Split
from advcore.errors import DataError, SettingProblem, check_at_least, must, require, require_package
from advcore.settings import setting, settings


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
    size: int = setting(default=224, unit="pixels")
    only: list[str] | None = None
    groups: dict[str, list[str]] | None = None
    usual_augment: ClassVar[str] = "crop_flip"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.only and self.groups:
            require(
                SettingProblem("only", "and groups must not both be given", way_out="groups already names its folders")
            )
        require(check_at_least("size", self.size, 8, most=10_000), self._check_repeated())

    def _check_repeated(self) -> SettingProblem | None:
        """Return a problem if a sub-folder is named twice: it can have one label only."""
        setting = "groups" if self.groups else "only"
        names = [*(self.only or ()), *chain.from_iterable((self.groups or {}).values())]
        repeated = sorted({name for name in names if names.count(name) > 1})
        return must(setting, "sub-folders each named once", repeated[0]) if repeated else None

    def read(self) -> tuple[Split, Split]:
        root = find_path(self.path)
        test = root / "test"
        if not test.is_dir():
            test = root / "val"
        return self._make_split(root / "train", root / "train"), self._make_split(test, root / "train")

    def _list_classes(self, folder: Path) -> dict[str, list[str]]:
        """Return {class: its sub-folders} in the order of the labels."""
        if self.groups:
            return self.groups
        names = self.only or sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        return {name: [name] for name in names}

    def _make_split(self, folder: Path, named_by: Path) -> Split:
        """List the images below `folder`, whose classes are named by the sub-folders of `named_by`."""
        with require_package("torchvision", "data.name: image_folder"):
            from torchvision import datasets
        if not folder.is_dir():
            raise DataError(
                f"data.path must hold a folder {folder.name!r} with one sub-folder a class, got none at {str(folder)!r}"
            )
        classes = self._list_classes(named_by)
        labels: dict[str, int] = {}
        for label, subfolders in enumerate(classes.values()):
            labels |= dict.fromkeys(subfolders, label)
        missing = [name for name in labels if not (folder / name).is_dir()]
        if missing or not labels:
            raise DataError(f"{folder} must hold a sub-folder for each class, got none for {missing[:5]}")
        samples = _list_samples(folder, labels, datasets.folder.IMG_EXTENSIONS)
        if not samples:
            raise DataError(f"{folder} must hold images, got none in {len(labels)} sub-folders")
        return Split(
            labels=torch.tensor([label for _, label in samples]),
            images=partial(_read_images, [path for path, _ in samples], self.size),
            num_classes=len(classes),
            may_stream=True,
        )


def _list_samples(folder: Path, labels: dict[str, int], endings: tuple[str, ...]) -> list[tuple[str, int]]:
    """List path and label of every image, in the order of torchvision's `make_dataset`.

    Raises OSError for a sub-folder that cannot be listed, whose images would otherwise be missing without a word.
    """
    samples = []
    for subfolder in sorted(labels):
        for parent, _, names in sorted(os.walk(folder / subfolder, followlinks=True, onerror=_raise)):
            paths = [os.path.join(parent, name) for name in sorted(names) if name.lower().endswith(endings)]
            samples += [(path, labels[subfolder]) for path in paths]
    return samples


def _raise(error: OSError) -> None:
    raise error


def _read_images(paths: list[str], size: int, positions: Tensor) -> Tensor:
    """Read the images at `positions`, resized and cut to (B, 3, size, size), uint8."""
    from torchvision.transforms import functional as TF

    images = []
    for position in positions.tolist():
        image = TF.resize(decode_image(paths[position], position), round(size * 8 / 7))
        images.append(TF.pil_to_tensor(TF.center_crop(image, size)))
    return torch.stack(images)
