"""A folder of images, one sub-folder per class, as torchvision's ImageFolder reads it."""

from functools import partial
from itertools import chain, filterfalse
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from advcore.data.base import DataSettings, find_path
from advcore.data.images import decode_image
from advcore.data.listing import Listing, find_folders, is_hidden, normalise
from advcore.data.split import Split
from advcore.errors import DataError, SettingProblem, check_at_least, must, require, require_package
from advcore.settings import setting, settings


@settings
class ImageFolder(DataSettings):
    """`path/train/CLASS/*` and, as the test set, `path/test/CLASS/*` (without it, `val`), resized and cut to one size.

    Hidden files and files of other kinds are left out and counted; each real file is read once, whatever links lead to
    it. Both parts must have the same classes, and images of each.

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
        names = [*map(normalise, chain(self.only or (), *(self.groups or {}).values()))]
        repeated = sorted({name for name in names if names.count(name) > 1})
        return must(setting, "sub-folders each named once", repeated[0]) if repeated else None

    def read(self) -> tuple[Split, Split]:
        with require_package("torchvision", "data.name: image_folder"):
            import torchvision  # noqa: F401  # it reads the images, later
        root = find_path(self.path)
        train, test = _find_parts(root)
        labels = self._label_folders(train)
        train_images = self._list_part(train, labels)
        test_images = self._list_part(test, labels)
        test_images.check_apart(train_images)
        notes = test_images.describe_left_out()
        if test.name == "test" and (root / "val").is_dir():
            notes.append(f"{root / 'val'}: not read, because {test} is; validation images come from {train}")
        return (
            self._make_split(train_images, labels, train_images.describe_left_out()),
            self._make_split(test_images, labels, notes),
        )

    def read_pool(self, path: Path) -> Split:
        """Return the images of a folder with the sub-folders of the training part. Raises DataError."""
        train, test = _find_parts(find_path(self.path))
        labels = self._label_folders(train)
        images = self._list_part(path, labels)
        self._list_part(test, labels).check_apart(images)
        return self._make_split(images, labels, images.describe_left_out())

    def _label_folders(self, train: Path) -> dict[str, int]:
        """Return the label of each sub-folder."""
        labels: dict[str, int] = {}
        for label, subfolders in enumerate(self._list_classes(train).values()):
            labels |= dict.fromkeys(subfolders, label)
        return labels

    def _list_part(self, folder: Path, labels: dict[str, int]) -> Listing:
        if not (self.only or self.groups):
            _check_no_more(folder, labels)
        return _list_images(folder, labels)

    def _list_classes(self, folder: Path) -> dict[str, list[str]]:
        """Return {class: its sub-folders, by their normalised names} in the order of the labels."""
        if self.groups:
            return {name: [*map(normalise, subfolders)] for name, subfolders in self.groups.items()}
        names = [*map(normalise, self.only or ())]
        return {name: [name] for name in names or sorted(filterfalse(is_hidden, find_folders(folder)))}

    def _make_split(self, images: Listing, labels: dict[str, int], notes: list[str]) -> Split:
        return Split(
            labels=torch.tensor(images.labels),
            images=partial(_read_images, images.paths, self.size),
            num_classes=len(set(labels.values())),
            may_stream=True,
            notes=tuple(notes),
        )


def _find_parts(root: Path) -> tuple[Path, Path]:
    """Return the folders of the training and of the test images. Raises DataError if one is missing."""
    train = root / "train"
    test = root / "test"
    if not test.is_dir():
        test = root / "val"
    for folder in (train, test):
        _check_folder(folder)
    return train, test


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError(
            f"data.path must hold a folder {folder.name!r} with one sub-folder per class, got none at {str(folder)!r}"
        )


def _check_no_more(test: Path, labels: dict[str, int]) -> None:
    """Raise DataError for a class that only the test part has: no label is left for it."""
    more = sorted(name for name in find_folders(test) if name not in labels and not is_hidden(name))
    missing = sorted(name for name in labels if name not in find_folders(test))
    if more:
        raise DataError(
            f"{test} must hold the classes of the training part and no other, got {more[:5]} more and none for "
            f"{missing[:5]}; rename or remove them, or name the classes in data.only"
        )


def _list_images(folder: Path, labels: dict[str, int]) -> Listing:
    """List the images below the sub-folders of `folder`, in the order of their names.

    Raises DataError for a sub-folder that is missing, and for a class without images.
    """
    folders = find_folders(folder)
    paths = {name: folders.get(name, folder / name) for name in sorted(labels)}
    missing = [name for name in labels if not paths[name].is_dir()]
    if missing or not labels:
        raise DataError(f"{folder} must hold a sub-folder for each class, got none for {missing[:5]}")
    listing = Listing(folder)
    listing.leave_out_strays()
    for name, path in paths.items():
        listing.add_images(path, labels[name])
    labels_listed = set(listing.labels)
    empty = [name for name, label in labels.items() if label not in labels_listed]
    if empty:
        left_out = "".join(f"; {note}" for note in listing.describe_left_out())
        raise DataError(f"{folder} must hold images of each class, got none in {empty[:5]}{left_out}")
    return listing


def _read_images(paths: list[str], size: int, positions: Tensor) -> Tensor:
    """Read the images at `positions`, resized and cut to (B, 3, size, size), uint8."""
    from torchvision.transforms import functional as TF

    images = []
    for position in positions.tolist():
        path = paths[position]
        image = TF.resize(decode_image(path, position, path), round(size * 8 / 7))
        images.append(TF.pil_to_tensor(TF.center_crop(image, size)))
    return torch.stack(images)
