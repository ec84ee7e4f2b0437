"""Rows of the divergence against autograd, one example at a time; labels unread; ledger, plan and a whole run."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from kernels import by_plain_kernels

from advcore import Trainer
from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.data.source import Resident
from advcore.errors import ConfigError
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.divergence import Divergence
from advcore.objectives import Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.runtime.borrow import borrow
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.memory import estimate
from advcore.selection.schedule import Schedule
from advcore.solvers import RCS, GradMatch
from advcore.training import SGD
from advcore.training.plan import count_planned_units, plan_work
from advcore.training.prices import find_prices

N = 96
ATTACK = LinfPGD(eps=0.1, steps=2)
STREAM = Stream(seed=4, purpose="selection")


def measure(model, source, ledger=None):
    settings = MeasurementSettings(
        ledger=ledger or CostLedger(), objective=Pgd(), attack=ATTACK, stream=STREAM, chunk_size=32
    )
    return GRADIENTS["divergence"].measure(model, source, settings)


@by_plain_kernels
def test_rows_are_autograd_of_the_divergence_at_points_that_climb_it(model, source):
    rows, labels = measure(model, source).get_rows_and_labels()
    assert torch.equal(labels, source.labels())
    slow = copy.deepcopy(model).eval()
    head = slow[-1]
    for i in (0, 17, 95):
        indices = torch.tensor([i])
        _, x, _ = next(source.batches([indices]))
        with borrow(slow, training=False):
            p = F.softmax(slow(x), 1).detach()

            def climb(z, p=p):
                return (p * (p.log() - F.log_softmax(slow(z), 1))).sum(1)

            x_adv = ATTACK(climb, x, generator=STREAM.at(indices)).detach()
        log_p, log_q = (F.log_softmax(slow(z), 1) for z in (x, x_adv))
        loss = (log_p.exp() * (log_p - log_q)).sum()
        weight, bias = torch.autograd.grad(loss, [head.weight, head.bias])
        expected = torch.cat([weight, bias[:, None]], 1).flatten().double()
        assert torch.allclose(rows.take(indices).dense()[0], expected, rtol=1e-3, atol=1e-6)


@by_plain_kernels
def test_labels_are_not_read(model, source):
    other = Resident(source._images, source.labels().flip(0))
    one, two = (measure(model, data).rows.dense() for data in (source, other))
    assert torch.equal(one, two)


def test_passes_are_the_closed_form(model, source):
    """The clean pass serves the attack; 2 passes for each step; one pass at the attacked image."""
    ledger = CostLedger()
    measure(model, source, ledger)
    assert ledger.sum_units() == N * (1 + 2 * 2 + 1) == N * GRADIENTS["divergence"].plan(Standard(), ATTACK).units


def trainer(objective=None, attack=ATTACK, *, target="train", partition="whole", selecting=None):
    objective = objective or Pgd()
    chooser = AdversarialCoreset(
        objective=objective,
        solver=RCS(),
        attack=selecting or attack,
        target=target,
        partition=partition,
        block_size=16,
        chunk_size=32,
    )
    return Trainer(
        objective=objective,
        attack=attack,
        schedule=Schedule(epochs=4, budget=0.5, warm_start=0.5, period=1),
        selector=chooser,
        optimizer=SGD(lr=0.05),
        batch_size=16,
        probe_examples=32,
    )


@pytest.mark.parametrize("target", ["train", "validation"])
@pytest.mark.parametrize("partition", ["whole", "per_class", "per_batch"])
@by_plain_kernels
def test_a_run_selects_by_it_and_costs_its_plan(model, source, target, partition):
    made = trainer(target=target, partition=partition)
    held_out = source if target == "validation" else None
    out = made.fit(copy.deepcopy(model), source, held_out, seed=0)
    assert len(out.coresets) == 2 and all(len(coreset) == N // 2 for coreset in out.coresets)
    assert out.coresets[0].quality["gradient_error"] is not None
    work = plan_work(made, N, N if held_out else 0)
    assert out.ledger.sum_units() == work.units
    assert out.ledger.sum_flops() == find_prices(made, model, source).price(work)


def test_standard_training_selects_by_it_with_an_attack_of_the_selection(model, source):
    made = trainer(Standard(), None, selecting=ATTACK)
    assert made.fit(model, source, seed=0).ledger.sum_units() == count_planned_units(made, N)


@pytest.mark.parametrize(
    "attack, problem",
    [(None, "attack must be set"), (ATTACK.with_settings(start="clean"), "attack.start must be uniform or gaussian")],
)
def test_an_attack_that_cannot_climb_it_is_a_line(attack, problem):
    with pytest.raises(ConfigError, match=problem):
        trainer(Standard(), None, selecting=attack)


def test_it_is_0_with_a_gradient_of_0_where_predictions_agree():
    z = torch.randn(3, 4, requires_grad=True)
    loss = Divergence().loss(torch.zeros(3), clean=z, adversarial=z)
    assert torch.allclose(loss, torch.zeros(3), atol=1e-6)
    assert float(torch.autograd.grad(loss.sum(), z)[0].abs().max()) < 1e-6


def test_memory_is_planned_for_both_passes():
    """The run's objective has one pass, the divergence two."""
    by_rcs = estimate(trainer().selector, counts=[50, 46], classes=4, features=7)
    by_trades = estimate(
        replace(trainer().selector, objective=Trades(), solver=GradMatch()), counts=[50, 46], classes=4, features=7
    )
    assert by_rcs.rows == by_trades.rows == 96 * (4 + 7) * 2 * 4
