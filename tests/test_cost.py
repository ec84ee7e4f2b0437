"""The ledger counts every pass, where it happens, and own time only."""

import pytest
import torch
from torch import nn

from advcore.cost import PHASES, CostLedger
from advcore.runtime import device
from advcore.runtime.device import measure_peak_memory


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves only when told to."""

    class Clock:
        now = 100.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(device.time, "perf_counter", clock)
    return clock


def passes(ledger, phase):
    return ledger.passes[phase]["forward"], ledger.passes[phase]["backward"]


def test_each_forward_and_backward_counts_its_examples_in_its_phase():
    ledger, model = CostLedger(), nn.Linear(3, 2)
    counted = ledger.count_passes(model)
    with ledger.phase("attack"):
        for size in (4, 7):
            x = torch.rand(size, 3, requires_grad=True)
            torch.autograd.grad(counted(x).sum(), x)
    with ledger.phase("update"):
        counted(torch.rand(5, 3)).sum().backward()
    with ledger.phase("evaluation"), torch.no_grad():
        counted(torch.rand(9, 3))
    assert passes(ledger, "attack") == (11, 11)
    assert passes(ledger, "update") == (5, 5)
    assert passes(ledger, "evaluation") == (9, 0)
    assert ledger.sum_units() == 22 + 10 and ledger.sum_units(without=()) == 22 + 10 + 9


def test_a_backward_pass_is_booked_where_it_happens():
    ledger = CostLedger()
    counted = ledger.count_passes(nn.Linear(3, 2))
    with ledger.phase("rows"):
        logits = counted(torch.rand(6, 3))
    with ledger.phase("update"):
        logits.sum().backward()
    assert passes(ledger, "rows") == (6, 0) and passes(ledger, "update") == (0, 6)


def test_a_second_backward_pass_through_the_same_logits_counts_again():
    ledger = CostLedger()
    counted = ledger.count_passes(nn.Linear(3, 2))
    with ledger.phase("update"):
        loss = counted(torch.rand(6, 3)).sum()
        loss.backward(retain_graph=True)
        loss.backward()
    assert passes(ledger, "update") == (6, 12)


def test_counting_changes_neither_logits_nor_gradients():
    model, x = nn.Linear(3, 2), torch.rand(4, 3, requires_grad=True)
    ledger = CostLedger()
    with ledger.phase("attack"):
        logits = ledger.count_passes(model)(x)
        (gradient,) = torch.autograd.grad(logits.square().sum(), x)
    (plain,) = torch.autograd.grad(model(x).square().sum(), x)
    assert torch.equal(logits, model(x)) and torch.equal(gradient, plain)


def test_an_inner_phases_seconds_are_not_the_outer_ones(clock):
    ledger = CostLedger()
    with ledger.phase("update"):
        clock.now += 1
        with ledger.phase("attack"):
            clock.now += 10
        clock.now += 2
    clock.now += 100
    with ledger.phase("attack"):
        clock.now += 20
    assert ledger.seconds == {**dict.fromkeys(PHASES, 0.0), "update": 3, "attack": 30}


def test_a_phase_ends_on_error_too(clock):
    ledger = CostLedger()
    with pytest.raises(KeyError), ledger.phase("attack"):
        clock.now += 5
        raise KeyError
    clock.now += 7
    assert ledger.seconds["attack"] == 5
    with pytest.raises(RuntimeError, match="phase"):
        ledger.count("forward", 1)


def test_adding_ledgers_keeps_phases_or_books_them_all_to_one(clock):
    other = CostLedger()
    for phase, examples in (("attack", 3), ("rows", 4)):
        with other.phase(phase):
            clock.now += examples
            other.count("forward", examples)
    kept, booked = CostLedger(), CostLedger()
    kept.add(other)
    kept.add(other)
    booked.add(other, under="scoring")
    assert passes(kept, "attack") == (6, 0) and passes(kept, "rows") == (8, 0) and kept.seconds["rows"] == 8
    assert passes(booked, "scoring") == (7, 0) and booked.seconds["scoring"] == 7
    assert passes(booked, "attack") == (0, 0) and booked.sum_units() == other.sum_units()


def test_the_summary_has_every_phase_and_is_a_copy(clock):
    ledger = CostLedger()
    with ledger.phase("solve"):
        clock.now += 1.23456
    summary = ledger.summarise()
    assert list(summary) == list(PHASES)
    assert summary["solve"] == {"forward": 0, "backward": 0, "seconds": 1.235, "flops": 0}
    summary["solve"]["forward"] = 99
    assert passes(ledger, "solve") == (0, 0)


def test_peak_memory_is_in_bytes_and_covers_what_is_held():
    held = torch.ones(4_000_000)
    assert measure_peak_memory(torch.device("cpu")) >= held.numel() * 4
