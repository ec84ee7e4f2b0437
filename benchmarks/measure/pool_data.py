"""Write what the suites `pools` and `pools-redundant` read: 5,000 labelled CIFAR-10 images, and pools of the others.

build/pools/real.npz has the labelled images, 500 of each class, and the test set. build/pools/pool.npz has all others.
build/pools/redundant.npz has 4,500 of these, each in 10 slightly changed copies: moved by up to one pixel, with uniform
noise of up to 2/255. The labels in the two pools are the true ones, which those suites do not read. Then

    advcore run experiments/cifar10/pool_teacher.yaml --out build/pools/teacher

trains the teacher that labels the pools. Reads the parquet files below the folder that ADVCORE_DATA names.
"""

from pathlib import Path

import numpy as np
import torch

from advcore.data.parquet import Parquet
from advcore.data.split import Split

FOLDER = Path("build/pools")
PER_CLASS = 500
ORIGINALS, COPIES = 4_500, 10


def read_arrays(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return all images (N, C, H, W) uint8 and labels (N,)."""
    chunks = torch.arange(len(split.labels)).split(1000)
    images = torch.cat([split.images(chunk) for chunk in chunks])
    return images.numpy(), split.labels.numpy()


def change_copies(images: np.ndarray, copies: int, generator: np.random.Generator) -> np.ndarray:
    """Return `copies` of each image, each moved by up to one pixel, edges repeated, with noise of up to 2/255."""
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    side = images.shape[-1]
    changed = []
    for _ in range(copies):
        top, left = generator.integers(0, 3, size=2)
        moved = padded[:, :, top : top + side, left : left + side].astype(np.int16)
        noise = generator.integers(-2, 3, size=moved.shape)
        changed.append((moved + noise).clip(0, 255).astype(np.uint8))
    return np.concatenate(changed)


def main() -> None:
    train, test = Parquet(path="cifar10").read()
    images, labels = read_arrays(train)
    test_images, test_labels = read_arrays(test)
    generator = np.random.default_rng(0)
    order = generator.permutation(len(labels))
    real = np.concatenate([order[labels[order] == label][:PER_CLASS] for label in range(10)])
    rest = np.setdiff1d(order, real)
    originals = generator.permutation(rest)[:ORIGINALS]
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.savez(FOLDER / "real.npz", x_train=images[real], y_train=labels[real], x_test=test_images, y_test=test_labels)
    np.savez(FOLDER / "pool.npz", image=images[rest], label=labels[rest])
    copies = change_copies(images[originals], COPIES, generator)
    np.savez(FOLDER / "redundant.npz", image=copies, label=np.tile(labels[originals], COPIES))
    print(f"wrote {FOLDER}/real.npz, pool.npz and redundant.npz")


if __name__ == "__main__":
    main()
