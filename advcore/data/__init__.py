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
