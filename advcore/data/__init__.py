"""Images in [0, 1] with labels, by index: a plain view for selection, an augmented one for training."""

from advcore.data.arrays import Npz
from advcore.data.folder import ImageFolder
from advcore.data.named import Cifar10, Cifar100, Digits, FashionMnist, Mnist, Svhn
from advcore.data.parquet import Parquet

DATASETS = {
    "digits": Digits,
    "mnist": Mnist,
    "fashion_mnist": FashionMnist,
    "cifar10": Cifar10,
    "cifar100": Cifar100,
    "svhn": Svhn,
    "image_folder": ImageFolder,
    "parquet": Parquet,
    "npz": Npz,
}
# Other names that the field uses, to the names here (`errors.suggest_nearest`).
ALIASES = {
    "cifar": "cifar10",
    "fashion": "fashion_mnist",
    "fmnist": "fashion_mnist",
    "folder": "image_folder",
    "images": "image_folder",
    "imagenet": "image_folder",
    "tinyimagenet": "image_folder",
    "hf": "parquet",
    "huggingface": "parquet",
    "numpy": "npz",
    "npy": "npz",
    "arrays": "npz",
}
