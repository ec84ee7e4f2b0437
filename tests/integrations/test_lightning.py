"""The Lightning callback in real trainers: 64 random images, a few epochs."""

import functools
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset, WeightedRandomSampler

from advcore import AdversarialCoreset
from advcore.attacks import LinfPGD
from advcore.errors import ConfigError
from advcore.objectives import Pgd
from advcore.solvers import Craig

pytestmark = pytest.mark.slow


def images() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand(64, 1, 8, 8, generator=generator), torch.arange(64) % 4)


@functools.cache
def world() -> SimpleNamespace:
    """Lightning, the callback, and a user's own module and data module; importing them takes seconds."""
    L = pytest.importorskip("lightning.pytorch", reason="needs the package lightning: install the extra lightning")
    from advcore.integrations.lightning import AdversarialCoresetCallback

    class Module(L.LightningModule):
        """A user's own, which notes what it is trained on."""

        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
            self.seen = {}

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, _):
            x, y, w = batch
            self.seen.setdefault(self.current_epoch, []).append(w)
            return (w * F.cross_entropy(self(x), y, reduction="none")).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

        def train_dataloader(self):
            return DataLoader(images(), batch_size=16, shuffle=True)

        def counts(self):
            return {epoch: sum(map(len, weights)) for epoch, weights in self.seen.items()}

    class Data(L.LightningDataModule):
        def train_dataloader(self):
            return DataLoader(images(), batch_size=16, shuffle=True)

    return SimpleNamespace(L=L, Module=Module, Data=Data, Callback=AdversarialCoresetCallback)


def callback(**changes):
    attack = LinfPGD(eps=0.1, steps=2)
    selector = AdversarialCoreset(attack=attack, objective=Pgd(), solver=Craig(), budget=0.5, full_examples=0)
    return world().Callback(selector, **({"warm_epochs": 1, "period": 2} | changes))


def trainer(callbacks, folder, **changes):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    how = {"max_epochs": 4, "reload_dataloaders_every_n_epochs": 1, "default_root_dir": str(folder)}
    return world().L.Trainer(callbacks=callbacks, **(quiet | how | changes))


@pytest.mark.parametrize("source", ["module", "data module"])
def test_full_epochs_then_coresets_that_are_chosen_when_they_should(tmp_path, source):
    module, own, chosen = world().Module(), callback(), []
    select = AdversarialCoreset.select
    with pytest.MonkeyPatch.context() as patch:
        note = lambda self, *a, **how: chosen.append(how["epoch"]) or select(self, *a, **how)  # noqa: E731
        patch.setattr(AdversarialCoreset, "select", note)
        fitted = trainer([own], tmp_path)
        fitted.fit(module, **({"datamodule": world().Data()} if source == "data module" else {}))
    assert chosen == [1, 3] and own.coreset.epoch == 3
    assert module.counts() == {0: 64, 1: 32, 2: 32, 3: 32}
    assert {float(w) for w in torch.cat(module.seen[0])} == {1.0}
    weights = torch.cat(module.seen[3]).sort().values
    assert torch.equal(weights, own.coreset.training_weights().sort().values)
    assert "selection/gradient_error" in fitted.logged_metrics
    assert len(next(iter(module.train_dataloader()))) == 2  # it is the user's own again


def test_gone_on_with_from_a_checkpoint_it_keeps_the_coreset(tmp_path):
    first = callback(period=3)
    one = trainer([first], tmp_path, max_epochs=3)
    one.fit(world().Module())
    one.save_checkpoint(tmp_path / "three.ckpt")
    own, module = callback(period=3), world().Module()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AdversarialCoreset, "select", lambda *_, **__: pytest.fail("selected anew"))
        trainer([own], tmp_path, max_epochs=4).fit(module, ckpt_path=tmp_path / "three.ckpt")
    assert module.counts() == {3: 32}
    assert own.coreset.epoch == 1 and torch.equal(own.coreset.indices, first.coreset.indices)


def test_what_would_train_on_other_data_unsaid_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="reload_dataloaders_every_n_epochs"):
        trainer([callback()], tmp_path, reload_dataloaders_every_n_epochs=0).fit(world().Module())
    with pytest.raises(ConfigError, match="train_dataloader"):
        trainer([callback()], tmp_path).fit(world().Module(), train_dataloaders=DataLoader(images(), batch_size=16))
    for sampler in (
        WeightedRandomSampler([1.0, 2.0], 16),
        RandomSampler(images(), replacement=True),
        RandomSampler(images(), num_samples=8),
    ):
        module = world().Module()
        module.train_dataloader = functools.partial(DataLoader, images(), batch_size=16, sampler=sampler)
        with pytest.raises(ConfigError, match=f"without its own sampler, got '{type(sampler).__name__}'"):
            trainer([callback()], tmp_path).fit(module)
    with pytest.raises(ConfigError, match="warm_epochs"):
        callback(warm_epochs=-1)
    blocks = AdversarialCoreset(
        attack=LinfPGD(eps=0.1), objective=Pgd(), solver=Craig(), budget=0.5, partition="per_batch"
    )
    with pytest.raises(ConfigError, match="partition"):
        world().Callback(blocks, warm_epochs=1)


def test_epochs_and_the_selections_that_they_train_on():
    assert [callback(warm_epochs=2, period=3).selection_epoch(i) for i in range(9)] == [None, None, 2, 2, 2, 5, 5, 5, 8]
    assert [callback(warm_epochs=0, period=None).selection_epoch(i) for i in range(3)] == [0, 0, 0]
    assert [callback(warm_epochs=2, period=None).selection_epoch(i) for i in range(5)] == [None, None, 2, 2, 2]
    assert [callback(warm_epochs=1, period=1).selection_epoch(i) for i in range(4)] == [None, 1, 2, 3]


def test_after_an_error_the_module_is_as_it_was(tmp_path):
    module = world().Module()
    module.training_step = lambda batch, batch_idx: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer([callback()], tmp_path).fit(module)
    assert len(next(iter(module.train_dataloader()))) == 2


@pytest.mark.parametrize("size, expected", [(33, [16, 17]), (17, [17]), (32, [16, 16]), (34, [16, 16, 2])])
def test_no_batch_has_a_single_example(tmp_path, size, expected):
    """BatchNorm over features learns from no batch of one; half of the images are chosen."""
    module = world().Module()
    module.net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 4))
    data = torch.utils.data.Subset(torch.utils.data.ConcatDataset([images(), images()]), range(2 * size))
    module.train_dataloader = functools.partial(DataLoader, data, batch_size=16)
    trainer([callback(warm_epochs=0)], tmp_path, max_epochs=1).fit(module)
    assert sorted(map(len, module.seen[0])) == sorted(expected)
