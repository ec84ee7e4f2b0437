"""Catastrophic overfitting is seen, said, and the weights before it are kept."""

import copy

import pytest
import torch
from kernels import by_plain_kernels

from advcore import Trainer
from advcore.attacks import NFGSM, FastLPA, LinfPGD
from advcore.evaluation.intervals import wilson
from advcore.minibatch import RULES
from advcore.objectives import Pgd
from advcore.selection.schedule import Schedule
from advcore.solvers import RCS, Random
from advcore.training import SGD, Constant
from advcore.training import judge as module
from advcore.training.judge import is_collapse
from advcore.training.loop import Listener

pytestmark = pytest.mark.case("E10")


def probe(share, n=200):
    found = wilson(round(share * n), n)
    return {"accuracy": found.accuracy, "interval": list(found.interval)}


@pytest.mark.parametrize(
    "before, after, n, expected",
    [
        (0.60, 0.30, 200, True),
        (0.60, 0.45, 200, False),  # within 0.20
        (0.60, 0.85, 200, False),  # a rise
        (0.60, 0.35, 20, False),  # noise of a small probe
        (0.60, 0.00, 20, True),
        (0.60, 0.40, 10**5, False),  # 0.20 is not more than 0.20
        (0.60, 0.39, 10**5, True),
        (0.21, 0.00, 10**5, True),
        (0.19, 0.00, 10**5, False),
        (1.00, 0.75, 10, False),
    ],
)
def test_a_fall_counts_beyond_a_fifth_and_beyond_noise(before, after, n, expected):
    assert is_collapse(probe(before, n), probe(after, n)) == expected


def fit(model, source, monkeypatch, accuracies, attack=None, **more):
    """Training whose probe accuracies are made up; the states that the listener was told."""
    falls, told = iter(accuracies), []

    def judged(*args, **kwargs):
        found = original(*args, **kwargs)
        return type(found)(clean=found.clean, attacks=({**found.attacks[0], **probe(next(falls))},))

    original = module.evaluate
    monkeypatch.setattr(module, "evaluate", judged)
    made = Trainer(
        objective=Pgd(), attack=attack or LinfPGD(eps=0.1, steps=2), schedule=Schedule(epochs=len(accuracies)),
        optimizer=SGD(lr=0.05), lr_schedule=Constant(), batch_size=32, **more,
    )  # fmt: skip
    listener = Listener(on_state=lambda name, state, entry: told.append((name, state, entry["epoch"])))
    return made.fit(copy.deepcopy(model), source, source, seed=0, listener=listener), told


@by_plain_kernels
def test_the_weights_before_the_fall_are_kept_and_the_record_says_so(model, source, monkeypatch):
    trained, told = fit(model, source, monkeypatch, [0.5, 0.55, 0.1, 0.12])
    (event,) = trained.events
    assert event["kind"] == "collapse" and event["epoch"] == 2 and "fell from 0.550 to 0.100" in event["event"]
    (kept,) = [(state, epoch) for name, state, epoch in told if name == "before_collapse"]
    at_one = next(state for name, state, epoch in told if name == "last" and epoch == 1)
    assert kept[1] == 1 and all(torch.equal(kept[0][key], at_one[key]) for key in at_one)


@pytest.mark.parametrize(
    "more",
    [
        {"minibatch": RULES["infobatch"](whole=0.0)},
        {"solver": RCS(), "budget": 0.5},
        {"solver": Random(redraw=False), "budget": 0.6},
    ],
    ids=["infobatch", "rcs", "random static"],
)
@by_plain_kernels
def test_a_run_on_fewer_examples_is_watched_too(model, source, monkeypatch, more):
    """By ten steps where training takes one, in every epoch that runs."""
    attack = LinfPGD(eps=0.1, steps=1, step_size=0.125)
    trained, told = fit(model, source, monkeypatch, [0.5, 0.1, 0.1, 0.1, 0.1, 0.1], attack, **more)
    assert [event["epoch"] for event in trained.events if event["kind"] == "collapse"] == [1]
    assert [epoch for name, _, epoch in told if name == "before_collapse"] == [0]
    assert {entry["probe"]["steps"] for entry in trained.epochs} == {10}


@by_plain_kernels
def test_each_fall_is_told(model, source, monkeypatch):
    trained, told = fit(model, source, monkeypatch, [0.6, 0.1, 0.5, 0.2])
    assert [event["epoch"] for event in trained.events] == [1, 3]
    assert [epoch for name, _, epoch in told if name == "before_collapse"] == [0, 2]


@by_plain_kernels
def test_a_slow_decline_is_no_collapse(model, source, monkeypatch):
    trained, told = fit(model, source, monkeypatch, [0.65, 0.5, 0.35, 0.2, 0.05])
    assert not trained.events and "before_collapse" not in {name for name, _, _ in told}


@by_plain_kernels
def test_noise_is_no_collapse(model, source, monkeypatch):
    trained, told = fit(model, source, monkeypatch, [0.5, 0.4, 0.52, 0.38])
    assert not trained.events and "before_collapse" not in {name for name, _, _ in told}


@pytest.mark.parametrize(
    "attack", [NFGSM(eps=0.1), LinfPGD(eps=0.1, steps=1, step_size=0.125), FastLPA(eps=0.2, steps=2)]
)
@by_plain_kernels
def test_a_model_trained_with_one_step_or_outside_the_ball_is_judged_by_more(model, source, attack):
    made = Trainer(
        objective=Pgd(), attack=attack, schedule=Schedule(epochs=1), optimizer=SGD(lr=0.05), batch_size=32
    )  # fmt: skip
    trained = made.fit(copy.deepcopy(model), source, source, seed=0)
    assert trained.epochs[0]["robust"] <= trained.epochs[0]["clean"]
    took = trained.ledger.passes
    assert took["attack"]["backward"] == len(source) * attack.passes()[1]
    assert took["evaluation"]["backward"] > 0
