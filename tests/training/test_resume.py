"""A run that is stopped, saved, read back and gone on with ends where the undisturbed run ends, bit for bit."""

import copy
import json
import random
import signal

import numpy as np
import pytest
import torch
from covering import covering
from kernels import plain_kernels
from torch import nn

from advcore.attacks import FGSMMEP, LinfPGD
from advcore.attacks.memory import Memory
from advcore.data.augment import crop_flip
from advcore.data.source import Resident
from advcore.errors import ConfigError, NonFiniteError
from advcore.files import load_folder, save_folder
from advcore.minibatch import RULES
from advcore.objectives import Pgd, Trades
from advcore.regularizers import GradAlign, PriorGuided
from advcore.runtime import signals
from advcore.runtime.signals import Stopped
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.rows_from import Refresh
from advcore.selection.schedule import Schedule
from advcore.solvers import ByScore, Craig, EasyCore, GradMatch, Random
from advcore.training import SGD, Adam, AdamW, ByBudget, Cosine
from advcore.training.average import SWA
from advcore.training.epoch import EpochTrainer
from advcore.training.loop import Listener
from advcore.training.mixing import CutMix
from advcore.training.trainer import Trainer
from advcore.training.weight_attack import AWP

ATTACK = LinfPGD(eps=0.1, steps=2)
REMEMBERED = ATTACK.with_settings(start="remembered")
N, SIZE = 96, 32

RUNS = {
    "full": {},
    "craig": {"solver": Craig()},
    "gradmatch, trades": {"solver": GradMatch(), "objective": Trades()},
    "random, acs": {"solver": Random(), "schedule": "acs"},
    "easycore": {"solver": EasyCore()},
    "forgetting": {"solver": ByScore(score="forgetting")},
    "scores of a probe": {"solver": EasyCore(), "probe_epochs": 2, "warm": 0.0},
    "per batch": {"solver": GradMatch(), "partition": "per_batch"},
    "remembered": {"solver": GradMatch(), "attack": REMEMBERED, "memory": Memory(reset=2)},
    "remembered, int8": {"attack": REMEMBERED, "memory": Memory(precision="int8")},
    "momentum, prior guided": {"attack": FGSMMEP(eps=0.1), "memory": Memory(reset=3), "regularizer": PriorGuided()},
    "momentum, gradmatch": {"solver": GradMatch(), "attack": FGSMMEP(eps=0.1), "memory": Memory(precision="int8")},
    "grad align": {"attack": ATTACK.with_settings(steps=1), "regularizer": GradAlign()},
    "steps by budget": {"attack_steps": ByBudget(mean=1.5, last=3)},
    "margin": {"minibatch": RULES["margin"](warm_up=1)},
    "attacked again": {
        "attack": REMEMBERED,
        "minibatch": RULES["mixed"](loss_change=1.0, correction="inverse_probability"),
        "memory": Memory(reset=3),
    },
    "attacked again, coreset": {"solver": GradMatch(), "attack": REMEMBERED, "minibatch": RULES["low_confidence"]()},
    "queue": {"minibatch": RULES["loss_ranked"](queue=True, look="eval")},
    "adaptive": {"minibatch": RULES["loss_ranked"](adaptive="recursive", p_min=0.3)},
    "free": {"minibatch": RULES["free"](replays=2), "solver": GradMatch()},
    "bullettrain": {"minibatch": RULES["bullettrain"](smoothing=0.5)},
    "infobatch": {"minibatch": RULES["infobatch"](r=0.7, whole=0.25), "solver": Random(), "partition": "per_batch"},
    "rows from training": {"solver": Craig(), "objective": Trades(), "rows_from": "training"},
    "rows from training, refreshed": {
        "solver": GradMatch(),
        "attack": REMEMBERED,
        "period": 1,
        "rows_from": "training",
        "refresh": Refresh(share=0.4),
    },
    "scores from training": {"solver": EasyCore(), "rows_from": "training", "partition": "whole"},
    "moving average, adam": {"ema": 0.9, "optimizer": Adam(lr=0.01)},
    "head first, awp": {"head_epochs": 2, "awp": AWP(gamma=0.01, warm_up=1)},
    "eps ramp, equal average": {"eps_ramp": 2.5, "swa": SWA(start=0.4)},
    "adamw, warm-up, cutmix": {
        "optimizer": AdamW(lr=0.01),
        "lr_schedule": Cosine(warm_up=0.3),
        "cutmix": CutMix(probability=0.7),
        "eps_ramp_share": 0.6,
    },
}
each_run = pytest.mark.parametrize("name", RUNS)


@pytest.fixture(scope="module", autouse=True)
def kernels():
    """What a state holds does not hang on how a convolution is computed."""
    with plain_kernels():
        yield


def trainer(
    attack=ATTACK, solver=None, objective=None, *, partition="per_class", warm=0.5, schedule=None, period=2, **more
):
    objective = objective or Pgd()
    caught = {name: more.pop(name) for name in ("rows_from", "refresh") if name in more}
    chooser = solver and AdversarialCoreset(
        objective=objective, solver=solver, attack=attack, partition=partition, block_size=SIZE, chunk_size=32, **caught
    )
    when = {"budget": 0.5, "warm_start": warm, "period": period, "schedule": schedule or "compressed"} if solver else {}
    more = {"optimizer": SGD(lr=0.05), "batch_size": SIZE, "probe_examples": 16, **more}
    return Trainer(objective=objective, attack=attack, schedule=Schedule(epochs=4, **when), selector=chooser, **more)


class Jitter(nn.Module):
    """Draws where torch does not know of it."""

    def forward(self, x):
        return x * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand())) if self.training else x


@pytest.fixture
def net(model):
    """With dropout and the like: what they draw must go on, too."""
    return nn.Sequential(*model[:-1], nn.Dropout(0.2), Jitter(), model[-1])


def told(trained):
    """Everything but times and the peak of memory, as text that shows where two runs differ."""
    epochs = [
        {key: own for key, own in entry.items() if key not in ("seconds", "peak_memory")} for entry in trained.epochs
    ]
    facts = {"epochs": epochs, "events": trained.events, "passes": trained.ledger.passes, "best": trained.best_epoch}
    facts["coresets"] = [(c.indices.tolist(), c.weights.tolist(), c.quality) for c in trained.coresets]
    return json.dumps(facts)


def same(one, two):
    assert told(one) == told(two)
    for a, b in ((one.last, two.last), (one.best, two.best)):
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def fit(made, net, source, listener=None, resume=None):
    return made.fit(
        copy.deepcopy(net), source, source, seed=3, augment=crop_flip, listener=listener or Listener(), resume=resume
    )


class Signal:
    """A signal that comes at the n-th time anybody looks; what was saved then, by way of a folder."""

    def __init__(self, monkeypatch, folder):
        self.looks, self.at, self.folder, self.saved = 0, None, folder, 0
        original = signals.check

        def check():
            self.looks += 1
            if self.looks == self.at:
                monkeypatch.setattr(signals, "_received", [signal.SIGTERM])
            original()

        for module in ("advcore.runtime.counted", "advcore.training.epoch"):
            monkeypatch.setattr(f"{module}.check", check)
        self.monkeypatch = monkeypatch

    def listener(self):
        return Listener(on_checkpoint=self.save)

    def save(self, state):
        self.saved += 1
        save_folder(self.folder / str(self.saved), state(), {})

    def stop_at(self, n):
        self.looks, self.at = 0, n
        self.monkeypatch.setattr(signals, "_received", [])

    def last(self):
        return load_folder(self.folder / str(self.saved))[0] if self.saved else None


@pytest.mark.case("A2", "C1")
@each_run
@pytest.mark.slow
def test_stopped_again_and_again_it_ends_where_the_undisturbed_run_ends(net, source, tmp_path, monkeypatch, name):
    made = trainer(**RUNS[name])
    undisturbed = fit(made, net, source)
    sent, stops = Signal(monkeypatch, tmp_path), 0
    while stops < 200:
        sent.stop_at(9 + 7 * (stops % 5) + stops)  # in steps, selections, scores; a probe is begun again
        try:
            resumed = fit(made, net, source, sent.listener(), sent.last())
            break
        except Stopped as stopped:
            assert stopped.number == signal.SIGTERM
            stops += 1
    assert stops > 2
    same(undisturbed, resumed)


@pytest.mark.case("A2")
@covering("name", {name: name for name in RUNS})
def test_gone_on_with_after_any_epoch_it_ends_where_the_undisturbed_run_ends(net, source, tmp_path, name):
    made, states = trainer(**RUNS[name]), []
    undisturbed = fit(made, net, source, Listener(on_checkpoint=lambda state: states.append(state())))
    assert len(states) == len(undisturbed.epochs) == made.schedule.length
    for i, state in enumerate(states):
        save_folder(tmp_path / str(i), state, {})
        same(undisturbed, fit(made, net, source, resume=load_folder(tmp_path / str(i))[0]))


def test_a_state_is_a_copy_and_can_be_gone_on_with_twice(net, source):
    made, states = trainer(**RUNS["remembered"]), []
    fit(made, net, source, Listener(on_checkpoint=lambda state: states.append(state())))
    same(*(fit(made, net, source, resume=states[1]) for _ in range(2)))


@pytest.mark.case("C1")
def test_nothing_is_stopped_inside_a_step(net, source, tmp_path, monkeypatch):
    """The signal comes in the middle of a step's attack; the state that is saved has whole steps only."""
    made = trainer()
    sent = Signal(monkeypatch, tmp_path)
    sent.stop_at(2)
    with pytest.raises(Stopped):
        fit(made, net, source, sent.listener())
    place = sent.last()["place"]
    assert place["step"] == 1 and place["seen"] == SIZE and sent.last()["steps_done"] == 1
    assert sent.last()["ledger"]["update"]["forward"] == SIZE


def test_without_a_listener_a_stop_is_a_stop(net, source, monkeypatch, tmp_path):
    sent = Signal(monkeypatch, tmp_path)
    sent.stop_at(5)
    before = torch.get_rng_state()
    with pytest.raises(Stopped):
        fit(trainer(), net, source)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.case("A8")
def test_another_runs_state_is_refused(net, source):
    made, states = trainer(), []
    fit(made, net, source, Listener(on_checkpoint=lambda state: states.append(state())))
    with pytest.raises(ConfigError, match="resume must be a state of this run"):
        made.fit(copy.deepcopy(net), source, source, seed=4, resume=states[0])
    with pytest.raises(ConfigError, match="'examples': 60"):
        part = Resident(source._images[:60], source.labels()[:60])
        made.fit(copy.deepcopy(net), part, source, seed=3, resume=states[0])


@pytest.mark.case("C3")
def test_weights_that_are_not_finite_are_not_saved(net, source, monkeypatch):
    """The last step of an epoch breaks a weight; what was saved is the epoch before."""
    states, told, made, whole = [], [], trainer(), EpochTrainer.train

    def broken(self, place, coreset):
        entry = whole(self, place, coreset)
        if place.epoch == 2:
            next(self.run.model.parameters()).data[0] = float("nan")
        return entry

    monkeypatch.setattr(EpochTrainer, "train", broken)
    on_state = lambda name, state, entry: told.append(entry["epoch"])  # noqa: E731
    listener = Listener(on_state=on_state, on_checkpoint=lambda state: states.append(state()))
    with pytest.raises(NonFiniteError, match="after epoch 2"):
        fit(made, net, source, listener)
    assert [state["place"]["epoch"] for state in states] == [1, 2] and set(told) == {0, 1}
