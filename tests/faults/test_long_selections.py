"""How long a selection will solve is estimated as its memory is: told, or refused with a way out."""

import contextlib
import math
import time
from dataclasses import replace

import pytest
import torch

from advcore import AdversarialCoreset, Trainer
from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.distributed import exchange
from advcore.errors import ConfigError
from advcore.objectives import Pgd, Trades
from advcore.rng import Stream
from advcore.rows import FactoredRows
from advcore.runtime.states import copy_state
from advcore.selection import duration
from advcore.selection.duration import Work, settle_minutes
from advcore.selection.memory import estimate
from advcore.selection.result import Coreset
from advcore.selection.schedule import Schedule
from advcore.solvers import Craig, EasyCore, GradMatch, Random
from advcore.solvers.base import RowShape, count_operations
from advcore.training import SGD

ATTACK = LinfPGD(eps=0.1, steps=1)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BLOCKS = "or select from random blocks of the data and again from their picks"


def build_selector(solver, partition="whole", budget=0.1, objective=None, **settings):
    return AdversarialCoreset(
        objective=objective or Pgd(), attack=ATTACK, solver=solver, partition=partition, budget=budget, **settings
    )


def count(solver, partition="whole", *, counts, classes=10, features=512, **settings) -> Work:
    selector = build_selector(solver, partition, **settings)
    return estimate(selector, counts=counts, classes=classes, features=features).work


# ---- counts ----


@pytest.mark.parametrize(
    "solver, expected",
    [
        (GradMatch(matrix="held"), 100 * 100 * 7 / 2 + 10 * 10 * 100),
        (GradMatch(matrix="free"), 10 * 100 * 12 + 10 * 10 * 7 / 2 + 10**3 / 3),
        (Craig(matrix="held"), 100 * 100 * 7 / 2 + 100 * 100 * math.log2(11)),
        (Craig(matrix="free"), (100 + 1.5 * 64 * 10) * 100 * 7),
        (Craig(matrix="held", epsilon=0.1), 100 * 100 * 7 / 2 + (100 * math.log(10) + 10) * 100),
        (Craig(matrix="free", epsilon=0.1), (100 + 100 * math.log(10) + 10) * 100 * 7),
        (Random(), 0),
        (EasyCore(), 0),
    ],
)
def test_operations_by_hand(solver, expected):
    assert count_operations(solver, 100, 10, RowShape(product=7, size=12)) == pytest.approx(expected)


def test_the_problems_are_those_of_the_partition():
    counts = [40, 20, 10]
    assert [len(count(GradMatch(), p, counts=counts).operations) for p in ("whole", "per_class", "per_batch")] == [
        1,
        3,
        1,
    ]
    per_class = count(GradMatch(), "per_class", counts=counts)
    alone = [count(GradMatch(), counts=[size]).operations[0] for size in counts]
    assert per_class.operations == tuple(alone) and (per_class.n, per_class.k) == (40, 4)
    narrow = count(GradMatch(), "per_class_per_gradient", counts=counts)
    assert narrow.operations[0] < per_class.operations[0]
    assert count(GradMatch(), "per_batch", counts=counts, block_size=16).n == 5
    assert (
        count(GradMatch(), counts=counts, objective=Trades()).operations > count(GradMatch(), counts=counts).operations
    )


def test_several_processes_solve_side_by_side(monkeypatch):
    work = Work((4e9 * 60, 8e9 * 60, 4e9 * 60), n=3, k=1)
    assert work.estimate_minutes(CPU) == 4 and work.estimate_minutes(CUDA) == 0.04
    monkeypatch.setattr(exchange, "size", lambda: 2)
    assert work.estimate_minutes(CPU) == 2
    assert Work().estimate_minutes(CPU) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver, n, k",
    [
        (GradMatch(), 4000, 400),
        (GradMatch(matrix="free"), 3000, 150),
        (Craig(), 4000, 400),
        (Craig(matrix="free"), 3000, 150),
        (Craig(matrix="free", epsilon=0.1), 3000, 150),
    ],
)
def test_the_estimate_is_near_what_it_takes(solver, n, k):
    """In time of the processor, of one thread; other machines and wide rows may differ."""
    generator = torch.Generator().manual_seed(0)
    rows = FactoredRows(
        residuals=(torch.randn(n, 10, generator=generator),), features=(torch.rand(n, 128, generator=generator),)
    )
    started = time.process_time()
    solver(rows, k, generator=Stream(seed=0, purpose="time").at(torch.arange(n)))
    seconds = time.process_time() - started
    expected = count_operations(solver, n, k, RowShape(product=138, size=1280)) / 4e9
    assert seconds / 8 < expected < seconds * 8


# ---- what is told and refused ----

LARGE = {  # too large for a machine, and what is told of it
    "gradmatch, whole": (
        GradMatch(),
        "whole",
        [100_000] * 10,
        "100,000 picks of 1,000,000 rows in the largest problem",
        "partition: per_batch, partition: per_class, a smaller budget",
    ),
    "craig, per class": (
        Craig(),
        "per_class",
        [100_000] * 10,
        "10,000 picks of 100,000 rows in the largest problem",
        "partition: per_batch, solver.epsilon: 0.1 (stochastic greedy), a smaller budget",
    ),
    "stochastic craig, whole": (
        Craig(epsilon=0.1),
        "whole",
        [100_000] * 10,
        "100,000 picks of 1,000,000 rows in the largest problem",
        "partition: per_batch, partition: per_class, a smaller budget",
    ),
    "one huge class of many": (
        GradMatch(),
        "per_class",
        [10] * 99 + [300_000],
        "30,000 picks of 300,000 rows in the largest problem",
        "partition: per_batch, a smaller budget",
    ),
    "half of the data": (
        GradMatch(),
        "per_batch",
        [2_000_000] * 10,
        "15,625 picks of 156,250 rows in the largest problem",
        "a smaller budget",
    ),
}


@pytest.mark.parametrize("solver, partition, counts, described, ways", LARGE.values(), ids=LARGE)
def test_a_selection_that_takes_long_is_told_and_refused_beyond_a_limit(solver, partition, counts, described, ways):
    work = count(solver, partition, counts=counts)
    minutes = math.ceil(work.estimate_minutes(CPU))
    assert minutes > 30
    (event,) = settle_minutes(work, None, CPU)
    assert event.kind == "time"
    assert event.text == f"solving will take about {minutes:,} minutes ({described}); use {ways}, {BLOCKS}"
    assert settle_minutes(work, minutes, CPU) == (event,)
    with pytest.raises(ConfigError) as caught:
        settle_minutes(work, 15, CPU)
    assert str(caught.value) == (
        f"max_minutes must be at least {minutes:,} for this selection, by estimate ({described}), got 15; use {ways}, "
        f"{BLOCKS}, or allow more"
    )


USUAL = {
    "CIFAR-10, per class": (GradMatch(), "per_class", [5000] * 10, 10),
    "CIFAR-10, blocks": (Craig(), "per_batch", [5000] * 10, 10),
    "CIFAR-100": (Craig(), "per_class", [500] * 100, 100),
    "ImageNet-1k, per class": (GradMatch(), "per_class", [1281] * 1000, 1000),
    "a million rows at random": (Random(), "whole", [100_000] * 10, 10),
    "a million rows by score": (EasyCore(), "whole", [100_000] * 10, 10),
}


@pytest.mark.parametrize("solver, partition, counts, classes", USUAL.values(), ids=USUAL)
def test_usual_selections_are_not_told(solver, partition, counts, classes):
    made = estimate(build_selector(solver, partition), counts=counts, classes=classes, features=512)
    assert made is None or settle_minutes(made.work, None, CPU) == ()


@pytest.mark.parametrize("solver", [GradMatch(), Craig()])
def test_a_library_call_is_refused_before_anything_is_attacked(model, source, solver):
    ledger = CostLedger()
    with pytest.raises(
        ConfigError, match=r"^max_minutes must be at least 1 for this selection, by estimate \(10 picks of"
    ):
        build_selector(solver, max_minutes=1e-9).select(model, source, seed=0, ledger=ledger)
    assert ledger.sum_units() == 0


@pytest.mark.parametrize("limit", ["max_minutes", "memory_limit"])
@pytest.mark.parametrize("budget", [0.3, 1.0])
def test_training_is_refused_before_its_warm_start_and_only_if_it_selects(model, source, budget, limit):
    selector = build_selector(GradMatch(), budget=budget, **{limit: 1e-9})
    schedule = Schedule(epochs=8, budget=budget, warm_start=0.5)
    trainer = Trainer(objective=Pgd(), attack=ATTACK, selector=selector, schedule=schedule, optimizer=SGD(lr=0.01))
    before = copy_state(model)
    refusal = contextlib.nullcontext()
    if budget < 1:
        refusal = pytest.raises(ConfigError, match=f"^{limit} must be at least .* for this selection")
    with refusal:
        trainer.fit(model, source, seed=0)
    is_same = all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert is_same == (budget < 1)


def test_rows_that_were_measured_earlier_count_too(model, source):
    rows = FactoredRows(residuals=(torch.randn(96, 4),), features=(torch.rand(96, 24),))
    with pytest.raises(ConfigError, match="^max_minutes must be at least 1"):
        build_selector(GradMatch(), max_minutes=1e-9).select(model, source, seed=0, rows=rows)


def test_a_limit_changes_no_bit_and_a_long_selection_has_its_event(model, source, monkeypatch, caplog):
    usual = build_selector(GradMatch()).select(model, source, seed=0)
    limited = build_selector(GradMatch(), max_minutes=1).select(model, source, seed=0)
    assert usual.events == limited.events == ()
    monkeypatch.setattr(duration, "LONG", 1e-12)
    before = []
    told = build_selector(GradMatch(), chunk_size=16).select(
        model, source, seed=0, on_chunk=lambda done, total: before.append(caplog.text)
    )
    assert [event.kind for event in told.events] == ["time"]
    assert before[0].count("selection at epoch 0: solving will take about 1 minute (10 picks of 96 rows") == 1
    assert caplog.text == before[0]  # told once, and before the work
    for coreset in (limited, told):
        assert torch.equal(usual.indices, coreset.indices) and torch.equal(usual.weights, coreset.weights)
    assert Coreset.from_state(told.state()).events == told.events


@pytest.mark.parametrize("value", [0, -1, float("nan"), "5"])
def test_a_bad_limit_is_one_line(value):
    with pytest.raises(ConfigError, match="^max_minutes must be a number above 0, got "):
        build_selector(GradMatch(), max_minutes=value)


@pytest.mark.parametrize("command", ["check", "run"])
def test_the_command_line_refuses_it_before_the_run(advcore, root, tiny, tmp_path, command):
    changes = [part for change in (*tiny, "selection.max_minutes=1e-9") for part in ("--set", change)]
    where = ["--out", tmp_path / "run"] if command == "run" else []
    code, _, err = advcore(command, root / "experiments" / "trades_gradmatch.yaml", *changes, *where)
    assert code == 2 and err.count("\n") == 1, err
    assert "selection.max_minutes must be at least 1 for this selection, by estimate (" in err
    assert not (tmp_path / "run").exists()


def test_the_plan_tells_a_long_selection(advcore, root, tiny, monkeypatch):
    monkeypatch.setattr(duration, "LONG", 1e-12)
    changes = [part for change in tiny for part in ("--set", change)]
    code, out, _ = advcore("check", root / "experiments" / "trades_gradmatch.yaml", *changes)
    assert code == 0 and "in each selection, solving will take about 1 minute (" in out


def test_the_work_of_a_replaced_estimate_stays():
    made = estimate(build_selector(GradMatch()), counts=[100], classes=2, features=3)
    assert replace(made, spilled=True).work == made.work
