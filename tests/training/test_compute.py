"""What runs compute: ledger and plan against closed forms from the network's layer shapes, written out by hand."""

import pytest
import torch

from advcore.attacks import FastLPA, LinfPGD
from advcore.data.source import Resident
from advcore.minibatch.last_visit import Mixed, Oldest
from advcore.minibatch.loss_ranked import LossRanked
from advcore.minibatch.margin import Margin
from advcore.models.small import small_cnn
from advcore.objectives import Pgd, Standard, Trades
from advcore.runtime.flops import measure_cost
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.solvers import GradMatch, Random
from advcore.training import SGD
from advcore.training.average import SWA
from advcore.training.plan import plan_reference, plan_work
from advcore.training.prices import find_prices
from advcore.training.trainer import Trainer
from advcore.training.weight_attack import AWP

N, SIZE, WIDTH = 32, 16, 4
FIRST = 2 * (9 * 1 * WIDTH) * 64  # operations of the first convolution on 8 x 8 images
FORWARD = (
    FIRST
    + 2 * (9 * WIDTH * 2 * WIDTH) * 16
    + 2 * (9 * 2 * WIDTH * 4 * WIDTH) * 4
    + 2 * (16 * WIDTH * 8 * WIDTH)
    + 2 * (8 * WIDTH * 10)
)
HEAD = 2 * (8 * WIDTH * 10)
STEP = 2 * FORWARD  # of an attack: forward, and back to the images
UPDATE = 3 * FORWARD - FIRST  # forward, and back to all weights: the first layer's input needs no gradient


def attack(steps: int, **settings) -> LinfPGD:
    return LinfPGD(eps=0.1, steps=steps, **settings)


def build(attack=None, objective=None, **settings) -> Trainer:
    schedule = Schedule(epochs=1)
    settings = {"optimizer": SGD(lr=0.01), "batch_size": SIZE, "schedule": schedule, **settings}
    return Trainer(objective=objective or Pgd(), attack=attack, **settings)


def select(steps: int, solver, **settings) -> dict:
    """Settings of a trainer that selects half of the data for its only epoch."""
    selector = AdversarialCoreset(
        objective=settings.get("objective", Pgd()), solver=solver, attack=attack(steps), budget=0.5
    )
    return {"schedule": Schedule(epochs=2, budget=0.5, warm_start=0), "selector": selector}


CASES = {
    "full PGD-7": (build(attack(7)), N * (7 * STEP + UPDATE)),
    "FAT": (build(attack(1)), N * (STEP + UPDATE)),
    "TRADES-10": (build(attack(10, start="gaussian"), Trades()), N * (FORWARD + 10 * STEP + 2 * UPDATE)),
    "clean": (build(None, Standard()), N * UPDATE),
    "margin": (
        build(attack(3), minibatch=Margin(rho=0.25, warm_up=0, clean=0.2)),
        N * FORWARD + N // 4 * (3 * STEP + UPDATE) + N * UPDATE,
    ),
    # all 2 b' images are led back together: half of the gradients is zero, and computed
    "loss-ranked": (build(attack(3), minibatch=LossRanked(p_up=0.5)), N * 3 * STEP + 2 * N * UPDATE),
    "loss-ranked, looking in eval mode": (
        build(attack(3), minibatch=LossRanked(p_up=0.5, look="eval")),
        N * 3 * STEP + 2 * N * FORWARD + N * UPDATE,
    ),
    "selection": (
        build(attack(2), **select(5, GradMatch())),
        N * (5 * STEP + FORWARD) + 2 * (N // 2) * (2 * STEP + UPDATE),
    ),
    "random selection": (build(attack(2), **select(5, Random())), 2 * (N // 2) * (2 * STEP + UPDATE)),
    "the head alone": (build(attack(2), trainable="head"), N * (2 * STEP + FORWARD + HEAD)),
    "the head alone at first": (
        build(attack(2), head_epochs=1, schedule=Schedule(epochs=2)),
        N * (2 * STEP + FORWARD + HEAD) + N * (2 * STEP + UPDATE),
    ),
    "AWP": (build(attack(2), awp=AWP(warm_up=0)), N * (2 * STEP + 2 * UPDATE)),
    "SWA": (build(attack(2), swa=SWA(start=0.0)), N * (2 * STEP + UPDATE) + N * FORWARD),
}

REMEMBERED = {"attack": attack(2, start="remembered"), "schedule": Schedule(epochs=3)}
CASES |= {
    "half attacked again": (build(minibatch=Oldest(rho=0.5), **REMEMBERED), N * (4 * STEP + 3 * UPDATE)),
    "half attacked again, TRADES": (
        build(objective=Trades(), minibatch=Oldest(rho=0.5), **REMEMBERED),
        N * (2 * FORWARD + 4 * STEP + 6 * UPDATE),
    ),
    "half attacked again, corrected": (
        build(minibatch=Mixed(rho=0.5, correction="inverse_probability"), **REMEMBERED),
        N * (4 * STEP + 4 * UPDATE),
    ),
}


@pytest.fixture
def source() -> Resident:
    generator = torch.Generator().manual_seed(0)
    return Resident(torch.rand(N, 1, 8, 8, generator=generator), torch.arange(N) % 10)


@pytest.mark.parametrize("name", CASES)
def test_ledger_and_plan_equal_the_closed_form(source, name):
    trainer, expected = CASES[name]
    model = small_cnn(10, 1, WIDTH)
    prices = find_prices(trainer, model, source)
    assert prices.price(plan_work(trainer, N)) == expected
    ledger = trainer.fit(model, source, seed=0).ledger
    assert ledger.sum_flops() == expected
    assert ledger.sum_units() == plan_work(trainer, N).units


def test_relative_costs_compare_operations(source):
    """FAT is (2 + 3) / (14 + 3) of PGD-7, but for the first layer, and a quarter of its passes."""
    trainer = build(attack(1))
    prices = find_prices(trainer, small_cnn(10, 1, WIDTH), source)
    settings = {"epochs": 1, "steps": 7}
    reference = plan_reference(Pgd(), attack(1), N, prices=prices, **settings)
    assert reference.relate(plan_work(trainer, N)) == (STEP + UPDATE) / (7 * STEP + UPDATE)
    assert reference.describe() == {"epochs": 1, "steps": 7, "units": N * 16, "flops": N * (7 * STEP + UPDATE)}
    assert plan_reference(Pgd(), attack(1), N, **settings).relate(plan_work(trainer, N)) == 0.25


def test_passes_of_another_network_have_its_price(source):
    """Fast-LPA with distances by a network twice as wide: two forward passes of it per step, and one back."""
    other = small_cnn(10, 1, 2 * WIDTH)
    trainer = build(FastLPA(eps=0.5, steps=3).by(other))
    model = small_cnn(10, 1, WIDTH)
    forward = measure_cost(other, source._images[:2], [], to_images=False).forward
    expected = N * ((1 + 3) * FORWARD + 3 * FORWARD + (1 + 2 * 3) * forward + 3 * forward + UPDATE)
    assert find_prices(trainer, model, source).price(plan_work(trainer, N)) == expected
    assert trainer.fit(model, source, seed=0).ledger.sum_flops() == expected
