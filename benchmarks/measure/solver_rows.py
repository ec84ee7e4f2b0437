"""Gradient rows and images that solvers.py measures solvers on; all of them seeded."""

import functools
import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.data.parquet import Parquet
from advcore.data.source import Resident
from advcore.models import SmallCNN
from advcore.objectives import Pgd
from advcore.rng import Stream, preserve_random_state
from advcore.rows import FactoredRows

Facts = dict[str, Any]
PEERS = ("scikit-learn", "scipy", "submodlib-py", "apricot-select", "threadpoolctl", "matplotlib")
SUBMODLIB = "submodlib LazyGreedy"
TITLES = {"synthetic": "synthetic", "mnist": "MNIST", "cifar10": "CIFAR-10 (JPEG copies)"}
EPS = {"mnist": 0.3, "cifar10": 8 / 255}
WIDTH, EPOCHS, BATCH, TRAINED_ON = 16, 4, 128, 12_000
MOST = 5000  # rows of real images: those of class 1


def synthetic(n: int, *, classes: int = 10, features: int = 512, label: int = 3, seed: int = 0) -> FactoredRows:
    """n rows of one class: softmax of Gaussian logits minus one-hot, and the ReLU of Gaussian features."""
    generator = torch.Generator().manual_seed(seed)
    residuals = torch.randn(n, classes, generator=generator).softmax(1)
    residuals[:, label] -= 1
    return FactoredRows(residuals=(residuals,), features=(torch.randn(n, features, generator=generator).relu_(),))


def imagenet_class(label: int, n: int, *, classes: int, features: int) -> FactoredRows:
    """n float16 rows of one class, seeded by it: its own logit is raised by 2, its features share a mean."""
    generator = torch.Generator().manual_seed(label)
    logits = torch.randn(n, classes, generator=generator)
    logits[:, label] += 2
    residuals = logits.softmax(1)
    residuals[:, label] -= 1
    mean = torch.randn(features, generator=generator)
    seen = (torch.randn(n, features, generator=generator) + mean).relu_()
    return FactoredRows(residuals=(residuals.half(),), features=(seen.half(),))


def folder(name: str) -> Path | None:
    """Return the folder of a data set below ADVCORE_DATA; None if there is none."""
    root = os.environ.get("ADVCORE_DATA")
    found = Path(root) / name if root else None
    return found if found is not None and found.is_dir() else None


def real(name: str, n: int) -> FactoredRows | None:
    """Rows of n attacked images of class 1, from a network trained for a few epochs; None without the images."""
    if folder(name) is None:
        return None
    rows = _rows_of_class(name)
    return rows.take(torch.arange(n)) if n <= len(rows) else None


def cifar_images(n: int) -> tuple[Tensor, Tensor, str]:
    """(n, 3, 32, 32) uint8, labels, and what they are: random where ADVCORE_DATA does not have CIFAR-10."""
    where = folder("cifar10")
    if where is None:
        images = torch.randint(256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        return images, torch.arange(n) % 10, "random images"
    train, _ = Parquet(path=str(where)).read()
    return train.images(torch.arange(n)), train.labels[:n], TITLES["cifar10"]


@functools.cache
def _rows_of_class(name: str) -> FactoredRows:
    """PGD-10 cross-entropy rows of the first images of class 1."""
    train, _ = Parquet(path=str(folder(name))).read()
    chosen = Stream(seed=0, purpose="images").at(torch.arange(len(train.labels))).permutation()[:TRAINED_ON].sort()
    net = _trained(train.images(chosen.values), train.labels[chosen.values], EPS[name])
    own = (train.labels == 1).nonzero()[:, 0][:MOST]
    measured = Pgd(), LinfPGD(eps=EPS[name], step_size=EPS[name] / 4, steps=10)
    return _measure(net, Resident(train.images(own), train.labels[own]), *measured)


def _measure(net: nn.Module, source: Resident, objective: Pgd, attack: LinfPGD) -> FactoredRows:
    from advcore.gradients.base import MeasurementSettings
    from advcore.gradients.last_layer import last_layer_rows

    stream = Stream(seed=0, purpose="selection")
    return last_layer_rows(
        net, source, MeasurementSettings(objective=objective, attack=attack, stream=stream, ledger=CostLedger())
    ).rows


def _trained(x: Tensor, y: Tensor, eps: float) -> nn.Module:
    """A small CNN after a few epochs on attacks of one long step."""
    attack, stream = LinfPGD(eps=eps, steps=1, step_size=1.25 * eps), Stream(seed=0, purpose="attack")
    with preserve_random_state(Stream(seed=0, purpose="model")):
        net = SmallCNN(width=WIDTH).build(10, tuple(x.shape[1:]))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(EPOCHS):
        order = Stream(seed=0, purpose="order", epoch=epoch).at(torch.arange(len(x))).permutation()
        for batch in order.split(BATCH):
            _step(net, optimizer, attack, x[batch].float() / 255, y[batch], stream.at_epoch(epoch).at(batch))
    return net


def _step(net: nn.Module, optimizer, attack: LinfPGD, x: Tensor, y: Tensor, stream: Stream) -> None:
    net.eval()
    x_adv = attack(lambda z: F.cross_entropy(net(z), y, reduction="none"), x, generator=stream)
    net.train()
    optimizer.zero_grad()
    F.cross_entropy(net(x_adv), y).backward()
    optimizer.step()
