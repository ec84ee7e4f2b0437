import pytest
import torch

from advcore.errors import BudgetError, DataError
from advcore.gradients.base import Measurement
from advcore.rng import Stream
from advcore.rows import DenseRows, FactoredRows
from advcore.selection.partition import PARTITIONS, Split

STREAM = Stream(seed=0, purpose="blocks")


def factored(n, seed=0) -> FactoredRows:
    generator = torch.Generator().manual_seed(seed)
    return FactoredRows(
        residuals=(torch.randn(n, 4, generator=generator),), features=(torch.randn(n, 3, generator=generator),)
    )


def split(labels, budget=0.5, block_size=16, blocks="permuted", rows=None, goal=(None, None)) -> Split:
    labels = torch.tensor(labels)
    return Split(
        rows=factored(len(labels)) if rows is None else rows,
        labels=labels,
        budget=budget,
        block_size=block_size,
        blocks=blocks,
        stream=STREAM,
        goal=Measurement(*goal),
    )


UNEVEN = [0] * 50 + [1] * 29 + [2] * 17 + [3]


@pytest.mark.parametrize("name", PARTITIONS)
@pytest.mark.parametrize("budget", [0.01, 0.1, 0.33, 0.5, 0.999])
def test_counts_sum_to_the_budget_and_members_cover_everything_once(name, budget):
    given = split(UNEVEN, budget)
    problems = PARTITIONS[name](given)
    covered = [member for p in problems for member in (torch.cat(list(p.blocks)) if p.blocks else p.members)]
    assert sorted(map(int, covered)) == list(range(len(UNEVEN)))
    if name == "per_batch":
        assert problems[0].k == max(1, round(budget * len(problems[0].blocks)))
    else:
        assert sum(p.k for p in problems) == max(1, round(budget * len(UNEVEN)))
    assert all(p.k <= len(p.rows) == len(p.members) for p in problems)


def test_class_counts_go_by_largest_remainder():
    assert [p.k for p in PARTITIONS["per_class"](split(UNEVEN, 0.1))] == [5, 3, 2, 0]


def test_each_problem_has_its_own_classs_rows():
    given = split(UNEVEN)
    for c, problem in enumerate(PARTITIONS["per_class"](given)):
        own = (given.labels == c).nonzero()[:, 0]
        assert torch.equal(problem.members, own)
        assert torch.equal(problem.rows.dense(), given.rows.dense()[own])


def test_per_gradient_keeps_only_the_classs_own_output_row():
    given = split(UNEVEN)
    for c, problem in enumerate(PARTITIONS["per_class_per_gradient"](given)):
        whole = given.rows.dense().view(len(UNEVEN), 4, 4)
        assert torch.equal(problem.rows.dense(), whole[given.labels == c][:, c])


def test_blocks_are_means_over_a_permutation_or_over_the_stored_order():
    stored = PARTITIONS["per_batch"](split(UNEVEN, blocks="stored_order"))[0]
    assert torch.equal(stored.blocks[0], torch.arange(16))
    assert len(stored.blocks[-1]) == 17  # a block of one example joins the one before it
    permuted = PARTITIONS["per_batch"](split(UNEVEN))[0]
    assert not torch.equal(permuted.blocks[0], torch.arange(16))
    dense = split(UNEVEN).rows.dense()
    for row, block in zip(permuted.rows.dense(), permuted.blocks, strict=True):
        torch.testing.assert_close(row, dense[block].mean(0))


@pytest.mark.parametrize("name", PARTITIONS)
def test_scores_and_rows_of_no_width_can_be_split_too(name):
    assert PARTITIONS[name](split(UNEVEN, rows=DenseRows(matrix=torch.zeros(97, 0))))
    assert PARTITIONS[name](split(UNEVEN, rows=DenseRows(matrix=torch.arange(97.0)[:, None])))


@pytest.mark.parametrize("labels, bound", [(UNEVEN, 95), ([0, 1, 0], 1), ([0, 1], 1)])
def test_one_block_is_no_choice(labels, bound):
    line = f"block_size must be at most {bound}, for two blocks of {len(labels)} examples, got 128"
    with pytest.raises(BudgetError, match=line):
        PARTITIONS["per_batch"](split(labels, block_size=128))
    assert len(PARTITIONS["per_batch"](split(labels, block_size=bound))[0].blocks) >= 2


# ---- one problem's rows at a time, and what they are to stand for ----


class Asked(FactoredRows):
    """Says when rows are taken."""

    def take(self, i):
        TAKEN.append(len(i))
        return super().take(i)


TAKEN: list[int] = []


@pytest.mark.parametrize("name", ["per_class", "per_class_per_gradient"])
def test_rows_are_taken_when_a_problem_is_asked_for_them(name):
    rows = factored(97)
    asked = Asked(residuals=rows.residuals, features=rows.features)
    goal = Asked(residuals=rows.residuals, features=rows.features), torch.tensor(UNEVEN)
    TAKEN.clear()
    problems = PARTITIONS[name](split(UNEVEN, rows=asked, goal=goal))
    assert TAKEN == []
    assert len(problems[1].rows) == 29 and TAKEN == [29]
    assert problems[2].target is not None and TAKEN == [29, 17]


def goal_of(labels) -> tuple[FactoredRows, torch.Tensor]:
    return factored(len(labels), seed=7), torch.tensor(labels)


HELD_OUT = [0, 1, 2, 3, 1, 1, 0, 2, 3, 3, 3]


@pytest.mark.parametrize("name", PARTITIONS)
def test_without_a_goal_there_is_no_target(name):
    assert all(problem.target is None for problem in PARTITIONS[name](split(UNEVEN)))


@pytest.mark.parametrize("name", PARTITIONS)
def test_the_target_is_the_goals_mean_row_times_the_problems_count(name):
    goal, labels = goal_of(HELD_OUT)
    written = goal.dense().view(11, 4, 4)
    counts = {"whole": [97], "per_batch": [6], "per_class": [50, 29, 17, 1]}.get(name, [50, 29, 17, 1])
    problems = PARTITIONS[name](split(UNEVEN, goal=(goal, labels)))
    assert len(problems) == len(counts)
    for c, (problem, count) in enumerate(zip(problems, counts, strict=True)):
        own = written if len(counts) == 1 else written[labels == c]
        expected = count * sum(own) / len(own)
        if name == "per_class_per_gradient":
            expected = expected[c : c + 1]
        assert problem.target.shape == problem.rows.total().shape
        torch.testing.assert_close(problem.target, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("name", ["per_class", "per_class_per_gradient"])
def test_a_class_that_the_goal_lacks_is_named(name):
    goal = goal_of([0, 1, 3, 3])
    with pytest.raises(DataError, match="class 2.*whole"):
        PARTITIONS[name](split(UNEVEN, goal=goal))
    for other in ("whole", "per_batch"):
        assert PARTITIONS[other](split(UNEVEN, goal=goal))[0].target is not None


def test_a_class_of_the_goal_alone_is_no_problem():
    problems = PARTITIONS["per_class"](split([0] * 9 + [2] * 9, goal=goal_of([0, 1, 2])))
    assert [problem.name for problem in problems] == ["class 0", "class 2"]
