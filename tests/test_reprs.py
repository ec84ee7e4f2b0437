"""What a notebook shows of objects: one short line, which names what differs from the defaults."""

import dataclasses
import re

import pytest
import torch
from examples import build_example

from advcore import AdversarialCoreset, Trainer
from advcore.attacks import LinfPGD
from advcore.config.schema import TABLES
from advcore.evaluation.intervals import wilson
from advcore.evaluation.result import Evaluation
from advcore.objectives import Trades
from advcore.reporting.record import RunRecord
from advcore.rng import Stream
from advcore.rows import DenseRows
from advcore.selection.result import Coreset, WeightedSubset
from advcore.selection.schedule import Schedule
from advcore.settings import is_required, write_in_full
from advcore.solvers import GradMatch
from advcore.training import SGD
from advcore.training.progress import Trained

ATTACK = LinfPGD(eps=8 / 255, steps=1)
VALUES = {int: 2, float: 1.0, str: "here", list[int]: [3]}


def build(kind: type) -> object:
    """An object of a class of settings: its example, and a value of its type for what has no default."""
    example = getattr(kind, "example", {})
    missing = [field for field in dataclasses.fields(kind) if is_required(field) and field.name not in example]
    return build_example(kind, **{field.name: VALUES[field.type] for field in missing})


def read_default(field: dataclasses.Field) -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def assert_short(thing: object) -> str:
    text = repr(thing)
    assert len(text) <= 210 and "\n" not in text and "tensor(" not in text and " at 0x" not in text, text
    assert text.startswith(f"{type(thing).__name__}("), text
    return text


def classes() -> list[type]:
    return [kind for table in TABLES.values() for kind in dict.fromkeys(table.values())]


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
def test_settings_show_what_differs_from_the_defaults_and_read_back(kind):
    thing = build(kind)
    text = assert_short(thing)
    assert eval(text, {kind.__name__: kind}) == thing
    shown = set(re.findall(r"[(,] ?(\w+)=", text))
    assert shown == {
        field.name for field in dataclasses.fields(kind) if getattr(thing, field.name) != read_default(field)
    }


def test_a_long_one_names_its_parts_by_their_class_alone():
    objective, solver = Trades(beta=5.0), GradMatch(ridge=0.1)
    selector = AdversarialCoreset(objective=objective, solver=solver, attack=ATTACK, budget=0.3, partition="whole")
    assert repr(ATTACK) == "LinfPGD(eps=8/255, steps=1)"
    assert assert_short(selector) == (
        "AdversarialCoreset(partition='whole', budget=0.3, objective=Trades(beta=5.0), solver=GradMatch(ridge=0.1), "
        "attack=LinfPGD(eps=8/255, steps=1))"
    )
    schedule = Schedule(epochs=30, budget=0.3, warm_start=0.5, period=6)
    trainer = Trainer(
        objective=objective, attack=ATTACK, selector=selector, schedule=schedule, optimizer=SGD(lr=0.05), batch_size=64
    )
    assert assert_short(trainer) == (
        "Trainer(batch_size=64, objective=Trades(...), optimizer=SGD(...), schedule=Schedule(...), "
        "attack=LinfPGD(...), selector=AdversarialCoreset(...))"
    )


def test_results_are_one_line_with_their_numbers(source):
    facts = {
        "num_examples": 1096,
        "fingerprint": "x",
        "solver": "craig",
        "partition": "whole",
        "seed": 3,
        "budget": 0.1,
    }
    coreset = Coreset(indices=torch.arange(48), weights=torch.ones(48), **facts)
    assert assert_short(coreset) == "Coreset(48 of 1,096 examples, craig, whole, seed=3, epoch=0)"
    trained = Trained(epochs=[{}] * 1200, coresets=[coreset], best_epoch=7)
    assert assert_short(trained) == (
        "Trained(1,200 epochs, 1 coreset, 0 events, best_epoch=7, ledger=CostLedger(no passes))"
    )
    with trained.ledger.phase("update"):
        trained.ledger.count("forward", 1500)
    assert assert_short(trained.ledger) == "CostLedger(update 1,500 passes)"
    attacks = [{"name": "linf_pgd", "accuracy": 0.5}, {"name": "l2_pgd", "accuracy": 0.25}]
    clean, worst = wilson(77, 96), wilson(21, 96)
    for count, text in ((0, ""), (1, ", linf_pgd 50.0%"), (2, ", linf_pgd 50.0%, l2_pgd 25.0%, worst 21.9%")):
        result = Evaluation(clean=clean, attacks=tuple(attacks[:count]), worst=worst, flags=("masked: x",))
        assert assert_short(result) == f"Evaluation(clean 80.2%{text}, n=96, 1 flag)"
    record = RunRecord(name="mine", config={"seed": 0}, environment={}, plan="", reference={})
    rows = DenseRows(matrix=torch.rand(9, 2))
    stream = Stream(seed=0, purpose="attack").at(torch.arange(99))
    for thing in (WeightedSubset(source, [0, 1], torch.ones(2)), source, rows, stream, record):
        assert_short(thing)


def test_saved_verdicts_name_their_attacks_by_every_setting(model, source):
    """A default that changes in another version must not look like the same attack; and files from before are read."""
    assert write_in_full([ATTACK, "x"]) == (
        "[LinfPGD(eps=0.03137254901960784, steps=1, restarts=1, step_size=None, start='uniform'), 'x']"
    )
