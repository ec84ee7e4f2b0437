"""Problems to a solver: one at a time, in order, and what is said of those that come up short."""

import weakref
from dataclasses import dataclass, field

import pytest
import torch

from advcore.rng import Stream
from advcore.rows import DenseRows, FactoredRows
from advcore.selection.partition import PARTITIONS, Problem, Split
from advcore.selection.solve import _group_problems, join, solve_all
from advcore.solvers import Craig, GradMatch
from advcore.types import Event, Selection

STREAM = Stream(seed=0, purpose="solver")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def problem(name, n, k, *, at=0, load=None, **more) -> Problem:
    return Problem(name, load or (lambda: DenseRows(matrix=draw(n, 4, seed=n))), torch.arange(at, at + n), k, **more)


class Elsewhere(torch.Tensor):
    """Example indices that claim to be on a CUDA device."""

    is_cuda = property(lambda self: True)


def elsewhere(given: Problem) -> Problem:
    return Problem(given.name, given.load, given.members.as_subclass(Elsewhere), given.k)


@dataclass
class Recorder:
    """Takes the first k rows, or as many as `gives` says, and keeps what it was asked."""

    gives: dict[int, int] = field(default_factory=dict)  # by number of rows
    bytes_each: int = 0
    calls: list = field(default_factory=list)
    alive: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    reads, has_target = "last_layer", True

    def __call__(self, rows, k, *, target=None, generator):
        self.rows.append(weakref.ref(rows))
        self.alive.append(sum(one() is not None for one in self.rows))
        self.calls.append((len(rows), k, generator.indices.tolist()))
        picks = torch.arange(min(k, self.gives.get(len(rows), k)))
        return Selection(indices=picks, weights=torch.ones(len(picks)).double(), info={"stopped": "told to"})

    def memory(self, n, k):
        return {"matrix": self.bytes_each, "solver": 0}


class Together(Recorder):
    """The same, several at once."""

    def together(self, tasks):
        self.batches = [*getattr(self, "batches", []), len(tasks)]
        return [self(task.rows, task.k, target=task.target, generator=task.generator) for task in tasks]


EACH = pytest.mark.parametrize("kind", [Recorder, Together])


# ---- order and what is said ----


@EACH
@pytest.mark.parametrize("where", [lambda p: p, elsewhere], ids=["cpu", "as on cuda"])
def test_answers_come_in_the_problems_order_with_empty_ones_among_them(kind, where):
    ks = [0, 3, 0, 2, 1, 0]
    problems = [where(problem(f"class {i}", 5 + i, k, at=10 * i)) for i, k in enumerate(ks)]
    solver = kind()
    answers, events = solve_all(solver, problems, STREAM)
    assert [len(answer.indices) for answer in answers] == ks
    assert [call[:2] for call in solver.calls] == [(6, 3), (8, 2), (9, 1)]
    assert [call[2][0] for call in solver.calls] == [10, 30, 40]  # each is bound to its own examples
    assert [answer.info["stopped"] for answer in answers].count("no share") == 3
    (event,) = events
    assert event.kind == "budget"
    assert all(f"class {i}" in event.text for i in (0, 2, 5)) and not any(f"class {i}" in event.text for i in (1, 3, 4))


@EACH
def test_each_answer_is_that_of_its_problem_alone(kind):
    problems = [problem(f"class {i}", 7 + i, 3, at=20 * i) for i in range(4)]
    for solver in (GradMatch(), Craig()):
        joined, _ = solve_all(solver, problems, STREAM)
        for one, answer in zip(problems, joined, strict=True):
            alone = solver(one.rows, 3, generator=STREAM.child(one.name).at(one.members))
            assert torch.equal(alone.indices, answer.indices) and torch.equal(alone.weights, answer.weights)


@pytest.mark.parametrize(("short", "more"), [(1, None), (3, None), (4, 1), (9, 6)])
def test_a_shortfall_names_three_at_most_and_counts_the_rest(short, more):
    problems = [problem(f"part-{i}", 5 + i, 4) for i in range(10)]
    solver = Recorder(gives={5 + i: 1 + i % 3 for i in range(short)})
    answers, (shortfall,) = solve_all(solver, problems, STREAM)
    event = str(shortfall)
    assert shortfall == Event("solver", event)
    named = [i for i in range(10) if f"part-{i} " in event]
    assert named == list(range(min(short, 3)))
    assert all(f"part-{i} {1 + i % 3} of 4 (told to)" in event for i in named)
    assert (f"and {more} more" in event) if more else ("more" not in event)
    assert [len(answer.indices) for answer in answers[:short]] == [1 + i % 3 for i in range(short)]


def test_nothing_is_said_when_nothing_is_short():
    assert solve_all(Recorder(), [problem("a", 5, 2), problem("b", 6, 6)], STREAM)[1] == []


def test_an_empty_answer_is_filled_and_no_shortfall_one_without_a_share_is_neither():
    problems = [problem("a", 5, 2), problem("b", 6, 3, at=5), problem("c", 7, 0, at=11)]
    answers, events = solve_all(Recorder(gives={6: 0}), problems, STREAM)
    assert [len(answer.indices) for answer in answers] == [2, 3, 0] and answers[1].info["filled"] == 3
    assert answers[1].weights.tolist() == [1.0] * 3
    assert [event.kind for event in events] == ["budget", "solver"]
    assert "c" in events[0].text and "b" in events[1].text and "3" in events[1].text


def test_where_no_problem_gets_a_pick_each_stands_for_its_share():
    problems = [problem("a", 5, 2), problem("b", 15, 3, at=5)]
    answers, events = solve_all(Recorder(gives={5: 0, 15: 0}), problems, STREAM)
    assert torch.cat([answer.weights for answer in answers]).tolist() == [20 / 5] * 5 and len(events) == 2
    assert solve_all(Recorder(gives={5: 0, 15: 0}), problems, STREAM)[0][0].indices.equal(answers[0].indices)


def test_joined_indices_are_the_members_and_blocks_come_whole():
    problems = [problem("a", 5, 2, at=10), problem("b", 6, 0, at=20), problem("c", 7, 1, at=30)]
    indices, weights, blocks = join(problems, solve_all(Recorder(), problems, STREAM)[0])
    assert indices.tolist() == [10, 11, 30] and weights.tolist() == [1, 1, 1] and blocks is None
    cut = torch.arange(9).split(4)
    given = problem("blocks", 3, 2, blocks=cut)
    answer = Selection(indices=torch.tensor([2, 0]), weights=torch.tensor([3.0, 5.0]).double())
    indices, weights, blocks = join([given], [answer])
    assert (
        indices.tolist() == [8, 0, 1, 2, 3] and weights.tolist() == [3, 5, 5, 5, 5] and blocks.tolist() == [0] + [1] * 4
    )


# ---- one at a time, or together ----


def by_class(name, classes=30, n=150) -> list[Problem]:
    rows = FactoredRows(residuals=(draw(n, classes),), features=(draw(n, 6, seed=1),))
    given = Split(
        rows=rows, labels=torch.arange(n) % classes, budget=0.4, block_size=8, blocks="permuted", stream=STREAM
    )
    return PARTITIONS[name](given)


@EACH
@pytest.mark.parametrize("partition", ["per_class", "per_class_per_gradient"])
def test_one_problems_rows_are_alive_at_a_time(kind, partition):
    solver, problems = kind(), by_class(partition)
    solve_all(solver, problems, STREAM)
    assert len(solver.alive) == len(problems) == 30
    assert solver.alive == [1] * 30 and not any(one() is not None for one in solver.rows)


@pytest.mark.parametrize("solver", [GradMatch(), Craig()], ids=lambda s: type(s).__name__)
def test_also_by_the_real_solvers(solver):
    loaded, alive = [], []

    def watched(given):
        def load():
            alive.append(sum(one() is not None for one in loaded))
            rows = given.load()
            loaded.append(weakref.ref(rows))
            return rows

        return Problem(given.name, load, given.members, given.k)

    solve_all(solver, [watched(one) for one in by_class("per_class")], STREAM)
    assert alive == [0] * 30 and not any(one() is not None for one in loaded)


def test_each_problem_is_alone_on_the_cpu_and_all_are_one_batch_on_cuda():
    here = by_class("per_class")
    alone, batch = Together(), Together()
    one, events = solve_all(alone, here, STREAM)
    two, same_events = solve_all(batch, [elsewhere(given) for given in here], STREAM)
    assert alone.batches == [1] * 30 and batch.batches == [30]
    assert all(torch.equal(a.indices, b.indices) for a, b in zip(one, two, strict=True)) and events == same_events
    assert [call[2] for call in alone.calls] == [call[2] for call in batch.calls]


def test_a_batch_holds_no_more_than_its_matrices_may_take_and_keeps_the_order():
    problems = [elsewhere(given) for given in by_class("per_class", classes=10)]
    for size, lengths in [(10**9, [4, 4, 2]), (2 * 10**9, [2] * 5), (3 * 10**9, [1] * 10), (9 * 10**9, [1] * 10)]:
        groups = list(_group_problems(Together(bytes_each=size), problems))
        assert [len(group) for group in groups] == lengths
        assert [one.name for group in groups for one in group] == [one.name for one in problems]
    assert [len(group) for group in _group_problems(Recorder(bytes_each=0), problems)] == [10]


def test_a_solver_that_says_nothing_of_its_memory_is_asked_all_the_same():
    class Silent:
        reads, has_target = "last_layer", False
        __call__ = Recorder(gives={}).__call__

    assert [len(group) for group in _group_problems(Silent(), by_class("per_class"))] == [1] * 30
    answers, _ = solve_all(Silent(), by_class("per_class"), STREAM)
    assert all(len(answer.indices) == 2 for answer in answers)
