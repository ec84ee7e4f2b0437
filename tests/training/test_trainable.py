"""Which parameters train: the head alone, those of certain names, and the head before all others."""

import copy

import pytest
import torch
from torch import nn

from advcore import AdversarialCoreset, Trainer
from advcore.attacks import LinfPGD
from advcore.errors import ConfigError
from advcore.objectives import Pgd
from advcore.selection.schedule import Schedule
from advcore.solvers import EasyCore, GradMatch
from advcore.training import SGD
from advcore.training.loop import Listener
from advcore.training.weight_attack import AWP

ATTACK = LinfPGD(eps=0.1, steps=1)
HEAD = {"5.weight", "5.bias"}


def build_trainer(epochs=2, **settings):
    settings = {"optimizer": SGD(lr=0.05), "batch_size": 32, "probe_examples": 16, **settings}
    return Trainer(objective=Pgd(), attack=ATTACK, schedule=Schedule(epochs=epochs), **settings)


def list_changed(before, after):
    """Names of the parameters and buffers that differ."""
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def fit(model, source, **settings):
    """What changed, all in all and after each epoch; the passes."""
    model = copy.deepcopy(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states = []
    listener = Listener(on_model=lambda model: states.append(copy.deepcopy(model.state_dict())))
    trained = build_trainer(**settings).fit(model, source, seed=1, listener=listener)
    steps = [list_changed(a, b) for a, b in zip([before, *states], states, strict=False)]
    return list_changed(before, model.state_dict()), steps, trained.ledger.passes


@pytest.mark.parametrize("training", [True, False])
def test_the_head_alone_trains_and_batchnorm_keeps_its_statistics(model, source, training):
    """Of a model in eval mode too, as one is that was evaluated or loaded last."""
    changed, _, passes = fit(model.train(training), source, trainable="head")
    assert changed == HEAD
    assert fit(model, source, head_epochs=1)[1][0] == HEAD
    assert passes == fit(model, source)[2]


def test_statistics_without_parameters_go_with_what_is_before_them(model, source):
    model[1] = nn.BatchNorm2d(model[1].num_features, affine=False)
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert not statistics & fit(model, source, trainable="head")[0]
    assert statistics <= fit(model, source, trainable="0")[0]


def test_it_is_what_a_hand_that_freezes_gets(model, source):
    slow = copy.deepcopy(model)
    for name, value in slow.named_parameters():
        value.requires_grad_(name in HEAD)
    slow[1].eval()
    quick = copy.deepcopy(model)
    build_trainer().fit(slow, source, seed=1)
    build_trainer(trainable="head").fit(quick, source, seed=1)
    assert not list_changed(slow.state_dict(), quick.state_dict())


@pytest.mark.parametrize(
    ("names", "changed"),
    [
        ("0", {"0.weight", "0.bias"}),
        ("0.*, 5.bias", {"0.weight", "0.bias", "5.bias"}),
        ("*.bias", {"0.bias", "1.bias", "5.bias"}),
        ("1", {"1.weight", "1.bias"}),
    ],
)
def test_names_choose_parameters_and_modules(model, source, names, changed):
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    found, _, _ = fit(model, source, trainable=names)
    assert found - statistics == changed
    assert statistics <= found or not any(name.startswith("1.") for name in changed)


def test_the_head_comes_first_and_then_all(model, source):
    _, steps, _ = fit(model, source, epochs=3, head_epochs=1)
    assert steps[0] == HEAD
    assert all({"0.weight", "1.running_mean", "5.weight"} <= changed for changed in steps[1:])


def test_probe_epochs_train_all_also_where_the_head_comes_first(model, source):
    selector = AdversarialCoreset(objective=Pgd(), attack=ATTACK, solver=EasyCore(), budget=0.5, block_size=32)
    settings = {"optimizer": SGD(lr=0.05), "batch_size": 32, "probe_examples": 16, "probe_epochs": 1}
    schedule = Schedule(epochs=4, budget=0.5, warm_start=0)
    chosen = []
    for head_epochs in (0, 1):
        trainer = Trainer(
            objective=Pgd(), attack=ATTACK, schedule=schedule, selector=selector, head_epochs=head_epochs, **settings
        )
        chosen.append(trainer.fit(copy.deepcopy(model), source, seed=1).coresets[0].indices)
    assert torch.equal(*chosen)


def test_what_the_caller_froze_stays_so_and_flags_and_modes_come_back(model, source):
    model[0].requires_grad_(False)
    model[4].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    build_trainer(head_epochs=1).fit(model, source, seed=1)
    assert "0.weight" not in list_changed(before, model.state_dict())
    assert [value.requires_grad for value in model.parameters()] == [False] * 2 + [True] * 4
    assert model[1].training and not model[4].training


def test_a_selection_sees_the_model_that_rests(model, source):
    selector = AdversarialCoreset(objective=Pgd(), attack=ATTACK, solver=GradMatch(), budget=0.5)
    schedule = Schedule(epochs=4, budget=0.5, warm_start=0.5, period=1)
    trainer = Trainer(
        objective=Pgd(), attack=ATTACK, schedule=schedule, selector=selector, optimizer=SGD(lr=0.05), batch_size=32,
        trainable="head",
    )  # fmt: skip
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = trainer.fit(model, source, seed=1)
    assert trained.coresets and list_changed(before, model.state_dict()) == HEAD


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"trainable": " , "}, "trainable must be all, head, or names separated by commas, got ' , '"),
        ({"trainable": ["0"]}, r"trainable must be all, head, or names separated by commas, got \['0'\]"),
        ({"head_epochs": -1}, "head_epochs must be a whole number of at least 0"),
        ({"trainable": "layer9"}, "training.trainable must be names of parameters or modules.* 0.weight, .*'layer9'"),
        ({"trainable": "0", "head_epochs": 1}, "training.trainable must be .*the head alone would train nothing"),
        ({"trainable": "*.bias", "awp": AWP()}, "training.awp must be null where no weight matrix or kernel trains"),
    ],
)
def test_what_chooses_nothing_is_one_line_before_training(model, source, settings, line):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ConfigError, match=line) as caught:
        build_trainer(**settings).fit(model, source)
    assert len(caught.value.lines) == 1 and not list_changed(before, model.state_dict())
    assert all(value.requires_grad for value in model.parameters())


def test_a_head_that_is_no_part_of_the_top_level_is_found(source):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.ModuleDict({"classify": nn.Linear(16, 4)})
            self.body = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())

        def forward(self, x):
            return self.first["classify"](self.body(x))

    changed, _, _ = fit(Wrapped(), source, trainable="head")
    assert changed == {"first.classify.weight", "first.classify.bias"}


def test_a_name_of_nothing_is_refused_while_a_run_is_prepared(model, source):
    """`check` is what preparing a run calls, before it writes anything."""
    with pytest.raises(ConfigError, match=r"^training.trainable must be names of parameters.* got 'nope'$"):
        build_trainer(trainable="nope").check(model, source)
    model.requires_grad_(False)
    with pytest.raises(ConfigError, match="^model must be one with parameters to train"):
        build_trainer().check(model, source)
