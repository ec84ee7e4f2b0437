"""Scores taken over a run, or from a file that another run wrote."""

import copy
import dataclasses

import pytest
import torch
from kernels import by_plain_kernels

from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.errors import CheckpointError, ConfigError, DataError
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.input_norm import INPUT_NORMS
from advcore.gradients.scores import SCORES
from advcore.objectives import Pgd, Standard, Trades
from advcore.rng import Stream
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.selection.scores import Scores
from advcore.solvers import CCS, ByScore, EasyCore, GradMatch, Moderate
from advcore.training import SGD
from advcore.training.loop import Listener
from advcore.training.plan import count_planned_units
from advcore.training.trainer import Trainer

ATTACK = LinfPGD(eps=0.1, steps=2)
N = 96


def trainer(solver, objective=None, *, warm_start=0.5, **settings):
    objective = objective or Pgd()
    attack = None if isinstance(objective, Standard) else ATTACK
    chooser = AdversarialCoreset(
        objective=objective, solver=solver, attack=attack, budget=0.5, partition="whole", chunk_size=32
    )
    return Trainer(
        objective=objective,
        attack=attack,
        selector=chooser,
        optimizer=SGD(lr=0.05),
        batch_size=32,
        schedule=Schedule(epochs=6, budget=0.5, warm_start=warm_start),
        **settings,
    )


def some_scores(**changes):
    facts = {"num_examples": N, "fingerprint": "f", "score": "el2n", "epochs": 3, "model": "m", "objective": "pgd"}
    draw = torch.Generator().manual_seed(0)
    own = Scores(indices=torch.arange(N), values=torch.rand(N, generator=draw).double(), seed=0, **facts)
    return dataclasses.replace(own, **changes)


@pytest.mark.parametrize("objective", [Standard(), Trades()], ids=lambda o: type(o).__name__)
@pytest.mark.parametrize("name", SCORES | INPUT_NORMS)
@by_plain_kernels
def test_a_run_scores_selects_and_costs_what_was_planned(model, source, name, objective):
    points, score = ("adversarial", name[12:]) if name.startswith("adversarial_") else ("clean", name)
    solver = ByScore(score=score, points=points, keep="middle")
    if GRADIENTS[name].is_attacked and isinstance(objective, Standard):
        with pytest.raises(ConfigError, match="points must be clean for an objective that is not attacked"):
            trainer(solver, objective)
        return
    made = trainer(solver, objective)
    found = made.fit(model, source, seed=0)
    (coreset,) = found.coresets
    assert len(coreset) == N // 2 and set(coreset.weights.tolist()) == {2.0}
    assert found.ledger.sum_units() == count_planned_units(made, N)


@pytest.mark.parametrize(
    "solver", [ByScore(score="forgetting"), CCS(), EasyCore(), Moderate()], ids=lambda s: type(s).__name__
)
@by_plain_kernels
def test_the_coreset_is_the_solvers_choice_of_what_the_epochs_scored(model, source, solver):
    """Each epoch's model is scored by hand as well."""
    made, gradient = trainer(solver), GRADIENTS[solver.reads]
    collector = gradient.collect() if gradient.collect else None
    last = []

    def on_model(net):
        found = gradient.measure(net, source, MeasurementSettings(ledger=CostLedger(), chunk_size=32)).rows
        last.append(found)
        if collector and len(last) <= 2:  # two warm epochs
            collector.add(found.matrix[:, 0])

    (coreset,) = made.fit(model, source, seed=0, listener=Listener(on_model=on_model)).coresets
    rows = collector.rows if collector else last[1]
    stream = Stream(seed=0, purpose="solver", epoch=2).child("all").at(torch.arange(N))
    expected = solver(rows, N // 2, generator=stream).indices
    assert sorted(coreset.indices.tolist()) == sorted(expected.tolist())


@by_plain_kernels
def test_attacked_scores_of_a_run_are_of_the_selections_attack_and_the_scoring_stream(model, source):
    solver, other = ByScore(score="el2n", points="adversarial"), LinfPGD(eps=0.2, steps=1)
    made = trainer(solver)
    made = dataclasses.replace(made, selector=dataclasses.replace(made.selector, attack=other))
    collector, how = GRADIENTS["adversarial_el2n"].collect(), {"objective": Pgd(), "attack": other}

    def on_model(net):
        stream = Stream(seed=0, purpose="scoring")
        found = (
            GRADIENTS["adversarial_el2n"]
            .measure(net, source, MeasurementSettings(ledger=CostLedger(), stream=stream, **how))
            .rows
        )
        if collector.epochs < 2:
            collector.add(found.matrix[:, 0])

    (coreset,) = made.fit(model, source, seed=0, listener=Listener(on_model=on_model)).coresets
    hardest = collector.rows.dense()[:, 0].argsort(descending=True, stable=True)[: N // 2]
    assert sorted(coreset.indices.tolist()) == sorted(hardest.tolist())


@by_plain_kernels
def test_given_scores_are_used_cost_nothing_and_need_no_warm_start(model, source, tmp_path):
    solver = ByScore(scores=str(tmp_path / "s.npz"), keep="easiest")
    made, own = trainer(solver, warm_start=0.0), some_scores()
    rows = own.rows("s.npz", "el2n", torch.arange(N), N, "f")
    found = made.fit(copy.deepcopy(model), source, seed=0, scores=rows)
    assert sorted(found.coresets[0].indices.tolist()) == sorted(own.values.argsort()[: N // 2].tolist())
    assert found.ledger.sum_units() == count_planned_units(made, N) and not any(found.ledger.passes["scoring"].values())
    with pytest.raises(ConfigError, match="scores must be given"):
        made.fit(copy.deepcopy(model), source, seed=0)
    with pytest.raises(ConfigError, match=r"Scores.load"):
        made.selector.select(model, source, seed=0)
    with pytest.raises(ConfigError, match="probe_epochs must be 0"):
        trainer(solver, probe_epochs=2)


def test_a_file_comes_back_with_its_hash(tmp_path):
    own = some_scores()
    path = own.save(tmp_path / "s.npz")
    found = Scores.load(path)
    assert torch.equal(found.values, own.values) and torch.equal(found.indices, own.indices)
    assert dataclasses.replace(found, sha256="", indices=0, values=0) == dataclasses.replace(own, indices=0, values=0)
    import hashlib

    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "reads, part, n, fingerprint, words",
    [
        ("grand", N, N, "f", "s.npz holds el2n scores, and the solver reads grand"),
        ("el2n", N, N, "other", "another data set"),
        ("el2n", 90, 90, "f", "another data set: 96 examples"),
    ],
)
def test_scores_of_something_else_are_refused(reads, part, n, fingerprint, words):
    with pytest.raises(DataError, match=words):
        some_scores().rows("s.npz", reads, torch.arange(part), n, fingerprint)


def test_scores_that_lack_examples_are_refused_and_others_are_put_in_order():
    own = some_scores(indices=torch.arange(N - 1, 9, -1), values=torch.arange(N - 10).double())
    with pytest.raises(DataError, match="lacks the scores of 10 of the 96"):
        own.rows("s.npz", "el2n", torch.arange(N), N, "f")
    assert own.rows("s.npz", "el2n", torch.tensor([10, 95, 50]), N, "f").dense()[:, 0].tolist() == [85, 0, 45]


def test_a_damaged_or_other_file_is_a_checkpoint_error(tmp_path):
    path = some_scores().save(tmp_path / "s.npz")
    with pytest.raises(CheckpointError, match="missing"):
        Scores.load(tmp_path / "none.npz")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="damaged"):
        Scores.load(path)
    from advcore.files import save_arrays

    save_arrays(path, {"a": torch.zeros(2).numpy()}, {"epoch": 1})
    with pytest.raises(CheckpointError, match="does not hold scores"):
        Scores.load(path)


@pytest.mark.parametrize(
    "changes",
    [
        {"indices": torch.arange(1, N + 1)},
        {"indices": torch.arange(-1, N - 1)},
        {"indices": torch.zeros(N).long()},
        {"indices": torch.arange(N).double()},
        {"values": torch.zeros(N)},
        {"values": torch.zeros(N - 1).double()},
        {"values": torch.full((N,), float("nan")).double()},
    ],
)
def test_a_whole_file_with_values_that_make_no_sense_is_refused(tmp_path, changes):
    path = some_scores(**changes).save(tmp_path / "s.npz")
    with pytest.raises(CheckpointError, match="does not hold scores"):
        Scores.load(path)


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_path_without_a_name_is_refused(name):
    from pathlib import Path

    with pytest.raises(CheckpointError, match="not the name of a file"):
        Scores.load(Path(name))


def test_a_solver_that_reads_rows_takes_no_file():
    assert not hasattr(GradMatch(), "scores")
