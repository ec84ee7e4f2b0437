"""Data sets known by name: scikit-learn's digits, and what torchvision reads."""

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from advcore.data.base import DataSettings, expand_home, find_path
from advcore.data.split import Split, draw_stratified
from advcore.errors import DataError, require_package
from advcore.settings import settings


@settings
class Digits(DataSettings):
    """scikit-learn's 1,797 digits, 8 x 8, embedded: no network. Seeded stratified 80/20 split.

    Reference: Alpaydin and Kaynak 1998 (UCI optical recognition of handwritten digits, test part).
    """

    def read(self) -> tuple[Split, Split]:
        with require_package("scikit-learn", "data.name: digits"):
            from sklearn.datasets import load_digits
        images, labels = _read_digits(load_digits)
        test = draw_stratified(labels, round(0.2 * len(labels)), self.split_seed, "digits-test")
        train = Split(labels[~test], images[~test].__getitem__, num_classes=10)
        return train, Split(labels[test], images[test].__getitem__, num_classes=10)


@lru_cache(maxsize=1)
def _read_digits(load_digits: Callable) -> tuple[Tensor, Tensor]:
    """Read images (1797, 1, 8, 8) in [0, 1] and labels (1797,) from the package's text file, once in a process."""
    bunch = load_digits()
    return torch.from_numpy(bunch.images).float()[:, None] / 16, torch.from_numpy(bunch.target).long()


@settings
class _Torchvision(DataSettings):
    """A set that torchvision reads from `path` and downloads only when asked.

    Parameters
    ----------
    path : folder as torchvision lays it out.
    download : fetch the files into `path` if they are missing.
    """

    path: str = "data"
    download: bool = False
    reader: ClassVar[str]
    num_classes: ClassVar[int] = 10

    def read(self) -> tuple[Split, Split]:
        root = expand_home(self.path)
        if not self.download:
            root = find_path(self.path, way_out="; set data.download: true to fetch the files")
        with require_package("torchvision", f"reading {self.reader}"):
            from torchvision import datasets
        reader = getattr(datasets, self.reader)
        try:
            return self._read_part(reader, root, train=True), self._read_part(reader, root, train=False)
        except DataError:
            raise
        except Exception as error:  # its readers raise a family of errors for damaged files
            message = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"data.path must be a folder with torchvision's {self.reader} files, got {str(root)!r} "
                f"({message}); set data.download: true to fetch them"
            ) from None

    def _read_part(self, reader: type, root: Path, *, train: bool) -> Split:
        part = reader(root, train=train, download=self.download)
        return self._make_split(part.data, part.targets)

    def _make_split(self, images: np.ndarray | Tensor, labels: object) -> Split:
        """Return a split of images (N, H, W) or (N, H, W, C), uint8, and their labels."""
        images = torch.as_tensor(images)
        labels = torch.as_tensor(labels).long()
        if len(images) != len(labels):
            got = f"{len(images):,} images and {len(labels):,} labels"
            raise DataError(f"{self.path} must hold {self.reader} files with one label per image, got {got}")
        images = images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)
        return Split(labels, images.__getitem__, self.num_classes)


@settings
class Mnist(_Torchvision):
    """60,000 + 10,000 digits, 28 x 28 (LeCun et al. 1998), through torchvision."""

    reader: ClassVar[str] = "MNIST"


@settings
class FashionMnist(_Torchvision):
    """60,000 + 10,000 articles, 28 x 28 (Xiao et al. 2017), through torchvision."""

    reader: ClassVar[str] = "FashionMNIST"


@settings
class Cifar10(_Torchvision):
    """50,000 + 10,000 images, 3 x 32 x 32, 10 classes (Krizhevsky 2009), through torchvision."""

    reader: ClassVar[str] = "CIFAR10"
    usual_augment: ClassVar[str] = "crop_flip"


@settings
class Cifar100(_Torchvision):
    """50,000 + 10,000 images, 3 x 32 x 32, 100 classes (Krizhevsky 2009), through torchvision."""

    reader: ClassVar[str] = "CIFAR100"
    usual_augment: ClassVar[str] = "crop_flip"
    num_classes: ClassVar[int] = 100


@settings
class Svhn(_Torchvision):
    """73,257 + 26,032 house numbers, 3 x 32 x 32 (Netzer et al. 2011), through torchvision."""

    reader: ClassVar[str] = "SVHN"
    usual_augment: ClassVar[str] = "crop"

    def _read_part(self, reader: type, root: Path, *, train: bool) -> Split:
        part = reader(root, split="train" if train else "test", download=self.download)
        return self._make_split(part.data.transpose(0, 2, 3, 1), part.labels)
