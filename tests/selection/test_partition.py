import pytest
import torch

from advcore.errors import BudgetError
from advcore.rng import Stream
from advcore.rows import DenseRows, FactoredRows
from advcore.selection.partition import PARTITIONS, Split

STREAM = Stream(seed=0, purpose="blocks")


def split(labels, budget=0.5, block_size=16, blocks="permuted", rows=None) -> Split:
    labels = torch.tensor(labels)
    if rows is None:
        generator = torch.Generator().manual_seed(0)
        a, h = torch.randn(len(labels), 4, generator=generator), torch.randn(len(labels), 3, generator=generator)
        rows = FactoredRows(residuals=(a,), features=(h,))
    return Split(rows=rows, labels=labels, budget=budget, block_size=block_size, blocks=blocks, stream=STREAM)


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


def test_one_block_is_no_choice():
    with pytest.raises(BudgetError, match="block_size must be less than the 97 examples, got 128"):
        PARTITIONS["per_batch"](split(UNEVEN, block_size=128))
