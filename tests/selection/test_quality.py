"""What a coreset says of itself, against dense rows."""

import pytest
import torch

from advcore.gradients.base import Measurement
from advcore.rng import Stream
from advcore.rows import DenseRows, FactoredRows
from advcore.selection.partition import PARTITIONS, Split
from advcore.selection.quality import (
    Sample,
    describe_stretch,
    estimate_full_error,
    estimate_sums,
    measure_gradient_error,
    measure_overlap,
    measure_quality,
    measure_random_error,
)
from advcore.selection.solve import Solution

N, C, D = 30, 3, 5
STREAM = Stream(seed=0, purpose="quality")
LABELS = torch.arange(N) % C
PICKS, WEIGHTS = torch.tensor([4, 0, 29, 17]), torch.tensor([1.0, 7.0, 0.5, 20.0])
OUTSIDE = torch.tensor([i for i in range(N) if i not in PICKS.tolist()])


def factored(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return FactoredRows(
        residuals=(torch.randn(n, C, generator=generator),), features=(torch.randn(n, D, generator=generator),)
    )


def problems_of(rows, partition="whole", labels=LABELS, block_size=8):
    blocks = Stream(seed=0, purpose="blocks")
    split = Split(rows=rows, labels=labels, budget=0.4, block_size=block_size, blocks="permuted", stream=blocks)
    return PARTITIONS[partition](split)


def found(rows, goal=None, normalise="coreset", **more):
    return measure_quality(
        Solution(indices=PICKS, weights=WEIGHTS, **more),
        Measurement(rows=rows, labels=LABELS),
        goal,
        problems=problems_of(rows),
        normalise=normalise,
        stream=STREAM,
    )


def slow(matrix, weights, target):
    mixed = sum(float(w) * matrix[int(i)] for i, w in zip(PICKS, weights, strict=True))
    return float((mixed - target).norm() / target.norm())


def test_errors_are_those_of_the_written_out_rows():
    rows, goal = factored(N, 0), factored(11, 1)
    facts, matrix = found(rows, goal), rows.dense()
    mean = sum(goal.dense()) / 11
    assert facts["gradient_error"] == pytest.approx(slow(matrix, WEIGHTS, sum(matrix)), rel=1e-9)
    assert facts["target_error"] == pytest.approx(slow(matrix, WEIGHTS, N * mean), rel=1e-9)
    trained = WEIGHTS.double() * N / WEIGHTS.sum()
    assert facts["gradient_error_trained"] == pytest.approx(slow(matrix, trained, sum(matrix)), rel=1e-6)


def test_the_target_error_is_of_the_weights_as_given_and_of_the_mean_not_the_number():
    rows, goal = factored(N, 0), factored(11, 1)
    twice = goal.take(torch.arange(22) % 11)
    for normalise in ("coreset", "none", "batch"):
        assert found(rows, goal, normalise)["target_error"] == pytest.approx(found(rows, twice)["target_error"])
    facts = found(rows, rows)
    assert facts["target_error"] == pytest.approx(facts["gradient_error"], rel=1e-12)


def test_there_is_no_target_error_without_a_target():
    facts = found(factored(N, 0))
    assert "target_error" in facts and facts["target_error"] is None and facts["gradient_error"] > 0


def test_scores_have_no_error_but_the_weights_facts_are_there():
    facts = found(DenseRows(matrix=torch.rand(N, 1)))
    errors = {name: value for name, value in facts.items() if "error" in name}
    assert len(errors) == 4 and set(errors.values()) == {None}
    assert facts["weight_sum"] == pytest.approx(28.5 / N) and facts["class_counts"] == [1, 1, 2]
    assert facts["effective_sample_size"] == pytest.approx(28.5**2 / (4 * (1 + 49 + 0.25 + 400)))


def test_zero_gradients_have_finite_errors():
    rows = FactoredRows(residuals=(torch.zeros(N, C),), features=(torch.ones(N, D),))
    facts = found(rows, rows)
    assert all(facts[name] == 0 for name in facts if "error" in name)


def test_random_errors_are_a_mean_of_five_seeded_draws():
    rows = factored(N, 0)
    total, matrix = rows.total(), rows.dense()
    errors = []
    for draw in range(5):
        picks = STREAM.child(draw).at(torch.arange(N)).permutation()[:4]
        errors.append(float((matrix[picks].sum(0) * N / 4 - matrix.sum(0)).norm() / matrix.sum(0).norm()))
    assert len(set(errors)) == 5
    problems = problems_of(rows)
    assert measure_random_error(rows, problems, PICKS, STREAM, total) == pytest.approx(sum(errors) / 5)
    assert measure_random_error(rows, problems, torch.arange(N), STREAM, total) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("partition", ["per_class", "per_class_per_gradient"])
def test_random_errors_have_the_classes_of_the_selection(partition):
    """Of unequal classes, the draws have as many examples of each as was picked, which weigh n / k, one at a time."""
    labels = torch.tensor([0] * 18 + [1] * 9 + [2] * 3)
    rows, picked = factored(N, 0), torch.tensor([1, 5, 17, 20, 26])  # none of class 2
    total, matrix = rows.total(), rows.dense()
    errors = []
    for draw in range(5):
        mixed = torch.zeros_like(matrix[0])
        for label, count in ((0, 3), (1, 2)):
            members = [i for i in range(N) if int(labels[i]) == label]
            order = STREAM.child(draw).at(torch.tensor(members)).permutation().tolist()
            for place in order[:count]:
                mixed += len(members) / count * matrix[members[place]]
        errors.append(float((mixed - matrix.sum(0)).norm() / matrix.sum(0).norm()))
    problems = problems_of(rows, partition, labels)
    assert measure_random_error(rows, problems, picked, STREAM, total) == pytest.approx(sum(errors) / 5, rel=1e-6)


def test_random_errors_of_a_selection_of_blocks_are_of_whole_blocks():
    """As many of the blocks, 8, 8, 8 and 6 examples, as were chosen; every example of them weighs 4 / 2."""
    rows = factored(N, 0)
    (problem,) = problems_of(rows, "per_batch")
    blocks, matrix = problem.blocks, rows.dense()
    picked = torch.cat([blocks[3], blocks[1]])
    errors = []
    for draw in range(5):
        order = STREAM.child(draw).at(problem.members).permutation().tolist()
        mixed = sum(2 * matrix[i] for block in order[:2] for i in blocks[block].tolist())
        errors.append(float((mixed - matrix.sum(0)).norm() / matrix.sum(0).norm()))
    found = measure_random_error(rows, [problem], picked, STREAM, rows.total())
    assert found == pytest.approx(sum(errors) / 5, rel=1e-6)


def test_the_whole_set_with_weights_1_has_no_error():
    rows = factored(N, 0)
    assert measure_gradient_error(rows, torch.arange(N), torch.ones(N)) == pytest.approx(0, abs=1e-12)
    assert measure_gradient_error(rows, torch.arange(N), torch.zeros(N)) == pytest.approx(1)
    assert measure_gradient_error(rows, torch.arange(N), torch.ones(N), 2 * rows.total()) == pytest.approx(0.5)


def test_overlap_is_a_share_of_what_was_there_before():
    assert measure_overlap(torch.tensor([1, 2, 3, 4]), torch.tensor([4, 9, 1])) == 0.5
    assert measure_overlap(torch.tensor([4, 9, 1]), torch.tensor([1, 2, 3, 4])) == pytest.approx(2 / 3)


def changed_rows(seed=5):
    """Rows as a cheap attack and as the full one finds them: alike, one pass each."""
    cheap = factored(N, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    moved = [part + 0.5 * torch.randn(part.shape, generator=generator) for part in (*cheap.residuals, *cheap.features)]
    return cheap, FactoredRows(residuals=(moved[0],), features=(moved[1],))


def places(m, s, seed):
    """Which positions of the coreset, and which examples outside of it, a sample of m and s has."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(PICKS), generator=generator)[:m]
    return chosen, OUTSIDE[torch.randperm(len(OUTSIDE), generator=generator)[:s]]


def sample_of(full, m, s, seed):
    chosen, rest = places(m, s, seed)
    return Sample(chosen, rest, full.take(torch.cat([PICKS[chosen], rest])))


def test_attacked_in_full_everywhere_the_error_is_exact():
    cheap, full = changed_rows()
    error, noise = estimate_full_error(cheap, PICKS, WEIGHTS, sample_of(full, len(PICKS), N - len(PICKS), 0))
    assert error == pytest.approx(slow(full.dense(), WEIGHTS, sum(full.dense())), rel=1e-9) and noise == 0


def each_row_at_once(self, value, dtype=torch.float64):
    """As `FactoredRows._map_rows`, without writing into memory taken beforehand, which vmap refuses."""
    return value(self._passes(dtype=dtype))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # addmm_ is not vectorised, but right
def test_on_samples_its_square_is_right_on_average_and_its_noise_is_what_it_says(monkeypatch):
    """Over 3,000 samples: before a root is taken, nothing is biased but the size that both are divided by.

    All samples are estimated side by side; twenty are compared with estimates of their own.
    """
    cheap, full = changed_rows()
    exact = slow(full.dense(), WEIGHTS, sum(full.dense())) * float(sum(full.dense()).norm())
    drawn = [places(3, 12, seed) for seed in range(3000)]
    chosen, rest = (torch.stack(side) for side in zip(*drawn, strict=True))
    alone = [estimate_sums(cheap, PICKS, WEIGHTS, sample_of(full, 3, 12, seed)) for seed in range(0, 3000, 150)]

    def estimate(chosen, rest):
        sample = Sample(chosen, rest, full.take(torch.cat([PICKS[chosen], rest])))
        return estimate_sums(cheap, PICKS, WEIGHTS, sample)

    with monkeypatch.context() as patched:
        patched.setattr(FactoredRows, "_map_rows", each_row_at_once)
        vectors, told, _ = torch.func.vmap(estimate)(chosen, rest)
    for error, variance, own in zip(vectors[::150], told[::150], alone, strict=True):
        assert torch.allclose(error, own[0], rtol=1e-9) and float(variance) == pytest.approx(float(own[1]), rel=1e-9)
    squares = vectors.square().sum((1, 2)) - told
    assert squares.mean() == pytest.approx(exact**2, rel=0.05)
    assert told.mean() == pytest.approx(float(vectors.var(0).sum()), rel=0.05)
    assert float(vectors.mean(0).norm()) == pytest.approx(exact, rel=0.05)


def test_rows_that_do_not_change_have_the_error_they_had():
    cheap, _ = changed_rows()
    error, noise = estimate_full_error(cheap, PICKS, WEIGHTS, sample_of(cheap, 2, 5, 0))
    assert error == pytest.approx(measure_gradient_error(cheap, PICKS, WEIGHTS), rel=1e-9) and noise < 1e-6


@pytest.mark.parametrize("weight_sum, told", [(0.4, "2.5 times"), (2.5, "0.4 times"), (0.5, ""), (2.0, ""), (-1.0, "")])
def test_rescaling_that_changes_the_length_of_steps_is_an_event(weight_sum, told):
    events = describe_stretch(weight_sum, "coreset")
    assert [event.kind for event in events] == ["weights"] * bool(told)
    assert all(told in event.text and "normalise: none" in event.text for event in events)
    assert not describe_stretch(weight_sum, "none")
