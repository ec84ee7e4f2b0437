"""Out of memory: smaller pieces where the answer stays the same, advice where it would not."""

import copy
import dataclasses
import logging

import pytest
import torch
from faults.injectors import Cramped, no_memory

from advcore import AdversarialCoreset, Trainer, evaluate
from advcore.attacks import LinfPGD
from advcore.cost import CostLedger
from advcore.errors import NoMemoryError
from advcore.gradients import GRADIENTS
from advcore.gradients.base import MeasurementSettings
from advcore.objectives import Pgd, Standard
from advcore.rng import Stream
from advcore.rows import DenseRows
from advcore.runtime.out_of_memory import Pieces, explain_out_of_memory
from advcore.selection.partition import Split, split_per_class, split_whole
from advcore.selection.schedule import Schedule
from advcore.selection.solve import solve_all
from advcore.solvers import SOLVERS as SOLVERS_BY_NAME
from advcore.solvers import Craig, GradMatch
from advcore.training import SGD
from advcore.training.loop import Listener

pytestmark = pytest.mark.case("C6")
TRAINER = Trainer(
    objective=Pgd(), attack=LinfPGD(eps=0.1, steps=1), schedule=Schedule(epochs=2), optimizer=SGD(lr=0.1), batch_size=32
)
SOLVERS = {"gradmatch": GradMatch(), "craig": Craig(), "craig, sampled": Craig(epsilon=0.1)}
MATRIX = {"gradmatch": "advcore.solvers.gradmatch.gram_matrix", "craig": "advcore.solvers.craig.distance_matrix"}


def test_a_training_step_that_does_not_fit_ends_with_advice_and_changes_no_weight(model, source):
    states, before = [], copy.deepcopy(model.state_dict())
    with pytest.raises(NoMemoryError) as stopped:
        listener = Listener(on_checkpoint=lambda state: states.append(state()))
        TRAINER.fit(Cramped(model, 31), source, seed=0, listener=listener)
    (line,) = str(stopped.value).splitlines()
    assert "training.batch_size" in line and "32 images" in line and "2.00 GiB" in line and "Cramped" in line
    assert isinstance(stopped.value.__cause__, torch.OutOfMemoryError) and not states
    parameters = dict(model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in parameters.items())


def test_with_the_advice_taken_it_trains(model, source):
    made = dataclasses.replace(TRAINER, batch_size=16)
    assert len(made.fit(Cramped(model, 17), source, seed=0).epochs) == 2


def test_on_the_command_line_it_is_exit_code_3_and_a_line(advcore, root, tiny, tmp_path, monkeypatch):
    def step(self, *_, **__):
        raise no_memory("512.00 MiB")

    monkeypatch.setattr("advcore.training.step.Learner.update", step)
    changes = (part for one in tiny for part in ("--set", one))
    code, _, err = advcore("run", root / "experiments/trades_full.yaml", *changes, "--out", tmp_path / "run")
    assert code == 3 and err.count("\n") == 1 and "training.batch_size" in err and "512.00 MiB" in err


def test_an_evaluation_goes_on_in_halves_to_the_same_verdicts(model, source, caplog):
    attacks = [LinfPGD(eps=0.05, steps=3, restarts=2), LinfPGD(eps=0.02, steps=1)]
    ledgers = CostLedger(), CostLedger()
    usual = evaluate(model, source, attacks, batch_size=48, keep_examples=True, ledger=ledgers[0])
    with caplog.at_level(logging.WARNING):
        found = evaluate(Cramped(model, 30), source, attacks, batch_size=48, keep_examples=True, ledger=ledgers[1])
    assert caplog.messages == ["out of memory with 48 examples at once; continuing with 16"]
    assert usual == found and ledgers[0].passes == ledgers[1].passes
    for key, right in usual.verdicts.items():
        assert torch.equal(right, found.verdicts[key])
    for key, ends in usual.examples.items():
        torch.testing.assert_close(ends, found.examples[key], rtol=0, atol=1e-5)
    with pytest.raises(NoMemoryError, match="evaluation.batch_size"):
        evaluate(Cramped(model, 8), source, attacks, batch_size=48)


@pytest.mark.parametrize("name", [name for name, one in GRADIENTS.items() if one.is_scalar])
def test_scores_go_on_in_halves_to_the_same_numbers(model, source, caplog, name):
    def measured(net):
        how = {"objective": Pgd(), "attack": LinfPGD(eps=0.05, steps=2), "stream": Stream(seed=0, purpose="scoring")}
        ledger = CostLedger()
        return GRADIENTS[name].measure(
            net, source, MeasurementSettings(ledger=ledger, chunk_size=64, **how)
        ), ledger.passes

    (usual, passes), (found, counted) = measured(model), measured(Cramped(model, 40))
    assert caplog.messages == ["out of memory with 64 examples at once; continuing with 32"] and passes == counted
    torch.testing.assert_close(found.rows.matrix, usual.rows.matrix, rtol=1e-4, atol=1e-6)


def test_whatever_else_runs_out_of_memory_is_exit_code_3(advcore, root, tiny, tmp_path, monkeypatch):
    def load(self, device):
        raise no_memory()

    monkeypatch.setattr("advcore.data.base.DataSettings.load", load)
    changes = (part for one in tiny for part in ("--set", one))
    code, _, err = advcore("run", root / "experiments/trades_full.yaml", *changes, "--out", tmp_path / "run")
    assert code == 3 and err.count("\n") == 1 and "memory ran out" in err and "2.00 GiB" in err


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 80 bytes")]
)
def test_advice_says_what_it_knows(error):
    with pytest.raises(NoMemoryError) as stopped, explain_out_of_memory("while counting", "count less"):
        raise error
    asked = "" if isinstance(error, MemoryError) else " (80 bytes were asked for)"
    assert str(stopped.value) == f"memory ran out while counting{asked}; count less"


@pytest.mark.parametrize("error", [RuntimeError("shapes"), ValueError("out of memory"), KeyboardInterrupt()])
def test_what_is_not_about_memory_passes_as_it_is(error):
    with pytest.raises(type(error)) as passed, explain_out_of_memory("while counting", "count less"):
        raise error
    assert passed.value is error


def problems(divide):
    """96 rows of 4 classes, half of them to be chosen."""
    generator = torch.Generator().manual_seed(0)
    rows, stream = DenseRows(matrix=torch.randn(96, 12, generator=generator).abs()), Stream(seed=0, purpose="blocks")
    labels = torch.arange(96) % 4
    return divide(Split(rows=rows, labels=labels, budget=0.5, block_size=16, blocks="permuted", stream=stream))


def solved(solver, divide):
    return solve_all(solver, problems(divide), Stream(seed=0, purpose="solver"))


@pytest.mark.parametrize("divide", [split_whole, split_per_class])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_without_room_for_its_matrix_gives_the_same_answer_without_it(monkeypatch, caplog, name, divide):
    solver, place = SOLVERS[name], MATRIX[name.split(",")[0]]
    usual, nothing = solved(solver, divide)
    module, function = place.rsplit(".", 1)
    original = getattr(__import__(module, fromlist=[function]), function)

    def cramped(rows, *arguments, **more):
        if len(rows) in (24, 96):  # a whole problem's
            raise no_memory()
        return original(rows, *arguments, **more)

    monkeypatch.setattr(place, cramped)
    with caplog.at_level(logging.WARNING):
        found, events = solved(solver, divide)
    assert not nothing and [*map(str, events)] == ["out of memory with a problem's matrix held; continuing without it"]
    assert len(caplog.records) == 1
    for one, two in zip(usual, found, strict=True):
        assert torch.equal(one.indices, two.indices)
        torch.testing.assert_close(one.weights, two.weights, rtol=1e-5, atol=1e-6)


class Together:
    """Solves at most `most` problems as one batch."""

    def __init__(self, most):
        self.most, self.sizes, self.solver = most, [], GradMatch()

    def __call__(self, rows, k, *, target=None, generator):
        return self.solver(rows, k, target=target, generator=generator)

    def together(self, tasks):
        self.sizes.append(len(tasks))
        if len(tasks) > self.most:
            raise no_memory()
        return self.solver.together(tasks)


def test_fewer_problems_are_solved_as_one_batch(monkeypatch):
    monkeypatch.setattr("advcore.selection.solve._group_problems", lambda solver, problems: iter([problems]))
    usual, _ = solved(GradMatch(), split_per_class)
    solver = Together(1)
    found, events = solved(solver, split_per_class)
    assert solver.sizes == [4, 2, 1, 1, 1, 1] and [str(event).split(";")[0] for event in events] == [
        "out of memory with 4 problems at once",
        "out of memory with 2 problems at once",
    ]
    for one, two in zip(usual, found, strict=True):
        assert torch.equal(one.indices, two.indices) and torch.equal(one.weights, two.weights)


def test_a_problem_that_fits_no_way_ends_with_advice():
    with pytest.raises(NoMemoryError, match=r"while solving .*2\.00 GiB.*selection.budget"):
        solved(Together(0), split_per_class)


def test_pieces_of_other_things_halve_by_ones():
    pieces = Pieces(7, least=1, of="problems")

    def work(i):
        if i.stop - i.start > 1:
            raise no_memory()
        return i.start

    assert pieces.run(7, work) == list(range(7))
    assert [event.text.split()[4] for event in pieces.events] == ["7", "3"]


def test_scores_that_are_taken_while_it_trains_tell_of_their_halves(model, source):
    chooser = AdversarialCoreset(objective=Standard(), attack=None, solver=SOLVERS_BY_NAME["easycore"](), budget=0.5)
    made = Trainer(
        objective=Standard(),
        attack=None,
        optimizer=SGD(lr=0.1),
        schedule=Schedule(epochs=4, budget=0.5, warm_start=0.5),
        selector=chooser,
        batch_size=16,
    )
    told = made.fit(Cramped(model, 50), source, seed=0).events
    text = "out of memory with 96 examples at once; continuing with 48"
    assert {"epoch": 0, "kind": "memory", "event": text} in told
