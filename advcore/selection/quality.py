"""Describes a coreset's weights, and how well its weighted gradient approximates that of all examples."""

import math
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from advcore.gradients.base import Measurement
from advcore.rng import Stream
from advcore.rows import FactoredRows, Rows
from advcore.selection.partition import Problem
from advcore.selection.result import rescale_to_mean_1
from advcore.selection.solve import Solution, join
from advcore.shares import divide
from advcore.types import Event, Facts, Selection

_DRAWS = 5  # random subsets behind gradient_error_random
_STRETCH = 2
_ERRORS = ("gradient_error", "gradient_error_trained", "gradient_error_random", "target_error")


def measure_quality(
    solution: Solution,
    measured: Measurement,
    goal: Rows | None,
    *,
    problems: Sequence[Problem],
    normalise: str,
    stream: Stream,
) -> Facts:
    """Return weight_sum, effective_sample_size, class_counts, and four errors, None where no gradients were measured.

    measured : rows and labels of all examples. goal : other examples' rows that the solver was to match, for
    `target_error`. problems : what was solved, for `gradient_error_random`. normalise : how the trainer will rescale
    the weights, for `gradient_error_trained`.
    """
    rows, labels = measured.get_rows_and_labels()
    weights = solution.weights.double()
    class_counts = torch.bincount(labels[solution.indices], minlength=int(labels.max()) + 1)
    facts: Facts = {
        "weight_sum": float(weights.sum()) / len(labels),
        "effective_sample_size": float(divide(weights.sum() ** 2, len(weights) * weights.square().sum())),
        "class_counts": class_counts.tolist(),
    }
    if not isinstance(rows, FactoredRows):
        return facts | dict.fromkeys(_ERRORS)
    error = partial(measure_gradient_error, rows, solution.indices)
    total = rows.total()
    return facts | {
        "gradient_error": error(weights, total),
        "gradient_error_trained": error(_rescale_as_trained(solution, len(rows), normalise).double(), total),
        "gradient_error_random": measure_random_error(rows, problems, solution.indices, stream, total),
        "target_error": None if goal is None else error(weights, goal.total() * (len(rows) / len(goal))),
    }


def _rescale_as_trained(solution: Solution, n: int, normalise: str) -> Tensor:
    """Return the coefficients (K,) to which the trainer's rescaling amounts over a whole epoch, of all n examples."""
    k = len(solution.weights)
    if normalise == "none":
        return solution.weights
    if normalise == "batch" and solution.blocks is not None:
        return torch.full((k,), n / k)  # a batch is one block of one weight, which its own sum cancels
    weights = torch.ones(k) if normalise == "equal" else rescale_to_mean_1(solution.weights)
    return weights * (n / k)


def describe_stretch(weight_sum: float, normalise: str) -> tuple[Event, ...]:
    """Return an event if rescaling makes training steps more than twice, or less than half, as long as intended.

    weight_sum : sum w / N of the solver's weights, which say how long a step is to be; docs/evidence.md has what a
    difference costs.
    """
    if normalise == "none" or weight_sum <= 0 or 1 / _STRETCH <= weight_sum <= _STRETCH:
        return ()
    return (
        Event(
            "weights",
            f"the weights sum to {weight_sum:.2f} N, and rescaled to mean 1 make steps {1 / weight_sum:.1f} times as "
            "long; training.normalise: none keeps their scale",
        ),
    )


def measure_gradient_error(rows: Rows, indices: Tensor, weights: Tensor, total: Tensor | None = None) -> float:
    """Return ||sum of w_i g_i over the indices - total|| / ||total||, the numerator alone where ||total|| is 0.

    total : the sum of all rows by default.
    """
    if total is None:
        total = rows.total()
    weighted = rows.combine(indices.to(rows.device), weights.to(rows.device))
    return float(divide((weighted - total).norm(), total.norm()))


def measure_random_error(
    rows: Rows, problems: Sequence[Problem], indices: Tensor, stream: Stream, total: Tensor
) -> float:
    """Return the mean `gradient_error` of 5 random subsets drawn from each of `problems`, as the solver `random` draws.

    indices : (K,) of the selection to compare with: as many are drawn from each problem as it has there, single
    examples or whole blocks, with weights n / k.
    """
    indices = indices.to(rows.device)
    counts = [int(torch.isin(problem.members, indices).sum()) for problem in problems]
    errors = []
    for draw in range(_DRAWS):
        answers = [_draw_at_random(problem, k, stream.child(draw)) for problem, k in zip(problems, counts, strict=True)]
        picks, weights, _ = join(list(problems), answers)
        errors.append(measure_gradient_error(rows, picks, weights, total))
    return sum(errors) / _DRAWS


def _draw_at_random(problem: Problem, k: int, stream: Stream) -> Selection:
    picks = stream.at(problem.members).permutation()[:k]
    weights = torch.full((k,), divide(float(len(problem.members)), k), device=picks.device)
    return Selection(indices=picks, weights=weights)


class Sample(NamedTuple):
    """Gradient rows under the full attack, of a sample of the coreset and of a sample of the other examples.

    chosen : (m,) long, positions in the coreset, drawn without replacement. rest : (s,) long, examples outside of it,
    drawn likewise; either may be all. rows : those of the chosen examples, then those of the rest.
    """

    chosen: Tensor
    rest: Tensor
    rows: FactoredRows


def describe_sample(rows: FactoredRows, solution: Solution, sample: Sample, *, are_caught: bool) -> Facts:
    """Return gradient_error_full and its noise, and, for rows that were caught in training, row_error."""
    error, noise = estimate_full_error(rows, solution.indices, solution.weights, sample)
    facts: Facts = {"gradient_error_full": error, "gradient_error_full_noise": noise}
    if are_caught:
        facts["row_error"] = estimate_row_error(rows, solution.indices, sample)
    return facts


def estimate_full_error(rows: FactoredRows, indices: Tensor, weights: Tensor, sample: Sample) -> tuple[float, float]:
    """Return the coreset's gradient error where all examples are attacked in full, and its standard error by sampling.

    rows : of all N examples, as the selection attacked them; what the full attack changes in them is what is sampled.
    indices, weights : (K,) the coreset.

    Both are divided by the norm of the full attack's total. The norm of something noisy is too large on average; so the
    first is the root of an unbiased estimate of the square, where that is above 0, else 0. The second is 0 where all
    examples were attacked.
    """
    error, variance, total = estimate_sums(rows, indices, weights, sample)
    size = total.norm()
    unbiased = (error.square().sum() - variance).clamp_min(0).sqrt()
    return float(divide(unbiased, size)), float(divide(variance.sqrt(), size))


def estimate_sums(
    rows: FactoredRows, indices: Tensor, weights: Tensor, sample: Sample
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimate, under the full attack, the coreset's weighted sum less the sum of all rows.

    Arguments are those of `estimate_full_error`. Return that difference, the variance of its estimate, summed over all
    entries, and the sum of all rows. Cost: the sample's rows, twice.
    """
    k, m = len(indices), len(sample.chosen)
    indices, weights = indices.to(rows.device), weights.double().to(rows.device)
    of_chosen = _subtract(sample.rows.take(torch.arange(m)), rows.take(indices[sample.chosen]))
    of_rest = _subtract(sample.rows.take(torch.arange(m, len(sample.rows))), rows.take(sample.rest))
    unweighted, _ = _estimate_sum(of_chosen, torch.ones(m), k)
    others, noise_of_others = _estimate_sum(of_rest, torch.ones(len(sample.rest)), len(rows) - k)
    # The coreset's examples are in the sum of all rows as well, with weight 1.
    difference, noise = _estimate_sum(of_chosen, weights[sample.chosen] - 1, k)
    total = rows.total()
    error = rows.combine(indices, weights) - total + difference - others
    return error, noise + noise_of_others, total + unweighted + others


def estimate_row_error(rows: FactoredRows, indices: Tensor, sample: Sample) -> float:
    """Return how far rows are from those that the full attack gives the model as it is, relative to the latter.

    Arguments are those of `estimate_full_error`. It is the root of the ratio of mean squared norms, of the difference
    and of the row, each estimated over all examples from the two samples.
    """
    k, m = len(indices), len(sample.chosen)
    parts = (
        (k, torch.arange(m), indices[sample.chosen]),
        (len(rows) - k, torch.arange(m, len(sample.rows)), sample.rest),
    )
    change = size = 0.0
    for count, positions, examples in parts:
        if len(positions):
            fresh = sample.rows.take(positions)
            difference = _subtract(fresh, rows.take(examples.to(rows.device)))
            change += count * float(difference.squared_norms().mean())
            size += count * float(fresh.squared_norms().mean())
    return math.sqrt(divide(change, size))


def _subtract(full: FactoredRows, cheap: FactoredRows) -> FactoredRows:
    """Return full - cheap, row by row: the difference of sums of outer products is such a sum."""
    return FactoredRows(
        residuals=(*full.residuals, *(-residual for residual in cheap.residuals)),
        features=(*full.features, *cheap.features),
        kind=full.kind,
    )


def _estimate_sum(rows: FactoredRows, weights: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Estimate the sum of weight x row over `size` examples from a sample of them, drawn without replacement.

    Return the estimate, and its variance, summed over its entries. Reference: Cochran (1977), theorem 2.2.
    """
    drawn = len(rows)
    weights = weights.double().to(rows.device)
    if not drawn:
        return torch.zeros((), dtype=torch.float64, device=rows.device), torch.zeros((), device=rows.device)
    sample_sum = rows.combine(torch.arange(drawn, device=rows.device), weights)
    squares = (weights.square() * rows.squared_norms()).sum() - sample_sum.square().sum() / drawn
    variance = size**2 * (1 / drawn - 1 / size) * squares.clamp_min(0) / max(1, drawn - 1)
    return sample_sum * (size / drawn), variance


def measure_overlap(before: Tensor, after: Tensor) -> float:
    """Return the share of `before` that is also in `after`."""
    return float(torch.isin(before, after).double().mean())
