"""Submodules that the caller keeps in eval mode, as frozen BatchNorm, stay in it in training, and are given back so."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advcore import AdversarialCoreset, Trainer
from advcore.attacks import LinfPGD
from advcore.errors import NonFiniteError
from advcore.minibatch import LossRanked, Margin
from advcore.objectives import Pgd, Trades
from advcore.runtime.states import copy_state, is_same
from advcore.selection.schedule import Schedule
from advcore.solvers import ByScore, Craig
from advcore.training import SGD
from advcore.training.loop import Listener
from advcore.training.weight_attack import list_statistics

ATTACK = LinfPGD(eps=0.1, steps=1)
SCHEDULE = Schedule(epochs=2, budget=0.5, warm_start=0.5, period=None)
RANKED = ByScore(score="el2n")


def select_by(solver, **changes) -> AdversarialCoreset:
    return AdversarialCoreset(**{"objective": Pgd(), "solver": solver, "attack": ATTACK, "budget": 0.5} | changes)


WAYS = {
    "plain": {},
    "attacks in train mode": {"attack_mode": "train"},
    "trades": {"objective": Trades()},
    "average": {"ema": 0.5},
    "margin rule": {"minibatch": Margin(warm_up=0)},
    "loss-ranked rule": {"minibatch": LossRanked(warm_up=0)},
    "selection": {"schedule": SCHEDULE, "selector": select_by(Craig())},
    "selection in train mode": {
        "schedule": SCHEDULE,
        "selector": select_by(Craig(), attack_mode="train"),
        "attack_mode": "train",
    },
    "probe epochs": {
        "schedule": Schedule(epochs=2, budget=0.5, warm_start=0, period=None),
        "selector": select_by(RANKED),
        "probe_epochs": 1,
    },
}


def fit(model, source, **changes):
    run = {name: changes.pop(name) for name in ("listener", "resume") if name in changes}
    settings = {"objective": Pgd(), "attack": ATTACK, "schedule": Schedule(epochs=2), "batch_size": 48}
    return Trainer(**settings | {"optimizer": SGD(lr=0.05)} | changes).fit(model, source, source, seed=0, **run)


@pytest.fixture
def deep(model):
    """The small network with a trunk and a second BatchNorm after it."""
    return nn.Sequential(*model[:3], nn.BatchNorm2d(6), *model[3:])


def list_modes(model) -> list[bool]:
    return [module.training for module in model.modules()]


def mark_others(names, quick) -> list:
    """The names as parameters, those that are not quick as slow ones."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name not in quick)) for name in names]


@pytest.mark.parametrize("way", mark_others(WAYS, ("plain", "average", "loss-ranked rule", "selection in train mode")))
def test_frozen_statistics_stay_bit_for_bit_and_the_others_move(deep, source, way):
    deep[1].eval()
    deep[1].running_mean.uniform_(0, 0.1)
    before = copy_state(deep)
    modes = list_modes(deep)
    fit(deep, source, **WAYS[way])
    after = copy_state(deep)
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(after[f"1.{name}"], before[f"1.{name}"])
        assert not torch.equal(after[f"3.{name}"], before[f"3.{name}"])
    assert not torch.equal(after["1.weight"], before["1.weight"])
    assert list_modes(deep) == modes


class FixedNorm(nn.BatchNorm2d):
    """The slow twin of a BatchNorm in eval mode: it never reads its mode."""

    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)


@pytest.mark.parametrize("way", mark_others(["plain", "attacks in train mode"], ["attacks in train mode"]))
def test_the_weights_are_those_of_a_layer_that_knows_no_mode(deep, source, way):
    twin = copy.deepcopy(deep)
    twin[1] = FixedNorm(6)
    deep[1].eval()
    fit(deep, source, **WAYS[way])
    fit(twin, source, **WAYS[way])
    assert all(is_same(name, value, twin.state_dict()[name]) for name, value in deep.state_dict().items())


class Spy(nn.Module):
    """A layer that notes its mode in each pass that updates the model; a stochastic layer of one's own, say."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.modes = []

    def forward(self, h):
        if self.scale.requires_grad and torch.is_grad_enabled():
            self.modes.append(self.training)
        return h * self.scale


LAYERS = {
    "dropout": lambda: nn.Dropout(0.5),
    "randomised relu": nn.RReLU,
    "instance norm": lambda: nn.InstanceNorm2d(6, track_running_stats=True),
    "sync norm": lambda: nn.SyncBatchNorm(6),
    "nested": lambda: nn.Sequential(nn.Dropout2d(0.5), nn.BatchNorm2d(6)),
    "mine": nn.Identity,
}


@pytest.mark.parametrize("name", mark_others(LAYERS, ("dropout", "nested")))
def test_any_layer_in_eval_mode_stays_so_with_all_inside_it(model, source, name):
    spy = Spy()
    frozen = nn.Sequential(LAYERS[name](), spy)
    net = nn.Sequential(*model[:2], frozen, *model[2:])
    frozen.eval()
    before = copy_state(net)
    fit(net, source)
    assert spy.modes and not any(spy.modes)
    buffers = [key for key, _ in net.named_buffers() if key.startswith("2.")]
    assert all(is_same(key, net.state_dict()[key], before[key]) for key in buffers)
    assert net.training and not frozen.training and not spy.training


def test_a_model_that_is_in_eval_mode_as_a_whole_trains_as_a_whole(deep, source):
    twin = copy.deepcopy(deep).eval()
    trained = fit(twin, source)
    fit(deep, source)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in deep.state_dict().items())
    assert not any(list_modes(twin)) and not [event for event in trained.events if event["kind"] == "model"]


class KeepsNormFrozen(nn.Sequential):
    """Freezes BatchNorm whenever it is put in train mode, which nobody has done yet."""

    def train(self, mode=True):
        super().train(mode)
        self[1].eval()
        return self


@pytest.mark.parametrize("prepare", [nn.Module.modules, nn.Module.eval, nn.Module.train], ids=["new", "eval", "train"])
def test_a_model_s_own_train_is_heard(deep, source, prepare):
    frozen = KeepsNormFrozen(*deep)
    prepare(frozen)
    before = copy_state(frozen)
    modes = list_modes(frozen)
    fit(frozen, source)
    assert torch.equal(frozen[1].running_mean, before["1.running_mean"])
    assert not torch.equal(frozen[3].running_mean, before["3.running_mean"])
    assert list_modes(frozen) == modes


def test_a_trunk_in_eval_mode_with_a_head_in_train_mode(deep, source):
    deep.eval()
    deep[6].train()
    before = copy_state(deep)
    modes = list_modes(deep)
    fit(deep, source)
    assert all(torch.equal(value, before[name]) for name, value in deep.named_buffers())
    assert list_modes(deep) == modes


def test_an_event_says_so_once(deep, source):
    deep[1].eval()
    states = []
    trained = fit(deep, source, listener=Listener(on_checkpoint=lambda take: states.append(take())))
    told = "1 submodule in eval mode when passed, and kept so in training, the first 1; model.train() changes it"
    assert [event["event"] for event in trained.events if event["kind"] == "model"] == [told]
    resumed = fit(deep, source, resume=states[0])
    assert [event["event"] for event in resumed.events if event["kind"] == "model"] == [told]


def test_a_run_that_goes_on_from_a_snapshot_ends_in_the_same_bits(deep, source):
    deep[1].eval()
    untouched = copy.deepcopy(deep)
    states = []
    fit(deep, source, listener=Listener(on_checkpoint=lambda take: states.append(take())))
    fit(untouched, source, resume=states[0])
    assert all(torch.equal(value, untouched.state_dict()[name]) for name, value in deep.state_dict().items())


def test_the_modes_are_given_back_after_an_error(deep, source):
    deep[1].eval()
    modes = list_modes(deep)

    def spoil(phase, done, total):
        deep[6].weight.data.fill_(float("nan"))

    with pytest.raises(NonFiniteError):
        fit(deep, source, listener=Listener(on_progress=spoil))
    assert list_modes(deep) == modes


def test_processes_average_no_frozen_statistics(deep):
    """Thirds of a number do not always add up to it."""
    names = {id(buffer): name for name, buffer in deep.named_buffers()}
    deep[1].eval()
    deep.register_buffer("table", torch.ones(1).expand(3))
    listed = [names[id(buffer)] for buffer in list_statistics(deep)]
    assert listed == ["3.running_mean", "3.running_var", "3.num_batches_tracked"]
    deep[1].train()
    assert len(list_statistics(deep)) == 6
