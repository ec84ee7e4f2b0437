"""Batches (x, y) for Lightning modules that take no weights, against a stand-in for Lightning's classes."""

import importlib
import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from advcore import AdversarialCoreset
from advcore.attacks import LinfPGD
from advcore.errors import DataError
from advcore.objectives import Pgd
from advcore.selection.result import Coreset

NAME = "advcore.integrations.lightning"
SELECTOR = AdversarialCoreset(
    objective=Pgd(), attack=LinfPGD(eps=0.1, steps=1), solver="craig", budget=0.5, full_examples=0
)


class Module(nn.Module):
    """A user's own: what Lightning calls of it, and what it sees."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        self.seen = []

    def forward(self, x):
        return self.net(x)

    def train_dataloader(self):
        x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, torch.arange(64) % 4), batch_size=16)

    def training_step(self, batch):
        x, y = batch
        self.seen.append(x)


class Trainer:
    """Lightning's order of calls in `fit`, and nothing else of it."""

    reload_dataloaders_every_n_epochs = 1
    datamodule = None

    def __init__(self, callback, epochs=3):
        self.callback, self.epochs, self.current_epoch = callback, epochs, 0

    def fit(self, module):
        self.callback.setup(self, module, "fit")
        try:
            for epoch in range(self.epochs):
                self.current_epoch = epoch
                module.seen = []
                for batch in module.train_dataloader():
                    module.training_step(batch)
                yield torch.cat(module.seen)
        except BaseException as error:
            self.callback.on_exception(self, module, error)
            raise
        self.callback.teardown(self, module, "fit")


@pytest.fixture
def make_callback(monkeypatch):
    """The callback's class, imported with the stand-in in Lightning's place, and forgotten afterwards."""
    package, pytorch = ModuleType("lightning"), ModuleType("lightning.pytorch")
    vars(pytorch).update(Callback=object, LightningDataModule=object, LightningModule=Module, Trainer=Trainer)
    package.pytorch = pytorch
    for name, entry in (("lightning", package), ("lightning.pytorch", pytorch)):
        monkeypatch.setitem(sys.modules, name, entry)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    yield importlib.import_module(NAME).AdversarialCoresetCallback
    del sys.modules[NAME]


def test_a_module_without_weights_gets_each_example_as_often_as_its_weight_says(make_callback):
    callback = make_callback(SELECTOR, warm_epochs=1, period=None, weighted=False)
    module = Module()
    images = module.train_dataloader().dataset.tensors[0]
    full, *drawn = Trainer(callback).fit(module)
    assert torch.equal(full.flatten(1).sum(1).sort().values, images.flatten(1).sum(1).sort().values)
    for epoch, seen in enumerate(drawn, 1):
        counts = (seen[:, None] == images[None]).flatten(2).all(2).sum(0)
        expected = torch.zeros(64, dtype=torch.long)
        expected.index_add_(0, callback.coreset.draw(seed=0, epoch=epoch), torch.ones(32, dtype=torch.long))
        assert torch.equal(counts, expected) and len(seen) == 32
    assert not torch.equal(*drawn), "each epoch draws anew"


def test_a_module_that_unpacks_two_is_told_how(make_callback):
    module = Module()
    with pytest.raises(ValueError, match="unpack") as caught:
        next(Trainer(make_callback(SELECTOR, warm_epochs=1)).fit(module))
    assert caught.value.__notes__ == [
        "advcore: batches are (x, y, w); take all three in training_step and return (w * losses).mean(), or give "
        "AdversarialCoresetCallback(weighted=False) for batches (x, y), drawn in proportion to the weights"
    ]
    module = Module()
    module.training_step = lambda batch: 1 / 0
    with pytest.raises(ZeroDivisionError) as caught:
        next(Trainer(make_callback(SELECTOR, warm_epochs=1)).fit(module))
    assert not hasattr(caught.value, "__notes__")


def make_coreset(weights: list[float]) -> Coreset:
    facts = {"num_examples": 99, "fingerprint": "", "solver": "craig", "partition": "whole", "seed": 0, "budget": 0.1}
    return Coreset(indices=torch.arange(len(weights)) + 7, weights=torch.tensor(weights), **facts)


def test_draws_are_by_weight_and_by_seed():
    """By hand: cumulated, the weights are 0.25, 2.75, 2.75, 4; the points lie at u, 1 + u, 2 + u and 3 + u."""
    coreset = make_coreset([0.5, 5.0, 0.0, 2.5])
    draws = torch.stack([coreset.draw(seed=0, epoch=epoch) for epoch in range(2000)]) - 7
    counts = torch.stack([(draws == i).sum(1) for i in range(4)], 1).double()
    assert torch.allclose(counts.mean(0), torch.tensor([0.25, 2.5, 0.0, 1.25], dtype=torch.float64), atol=0.05)
    kinds = {tuple(row) for row in counts.long().tolist()}
    assert kinds == {(1, 2, 0, 1), (0, 3, 0, 1), (0, 2, 0, 2)}
    assert torch.equal(coreset.draw(seed=1), coreset.draw(seed=1))


def test_no_draw_by_negative_weights():
    with pytest.raises(DataError, match="weights must be at least 0 to draw by them, got -1.*non-negative solver"):
        make_coreset([2.0, -1.0, 2.0]).draw(seed=0)
