"""What a coreset's weights are like, and how well they stand for the whole."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from advcore.gradients.base import Measured
from advcore.rng import Stream
from advcore.rows import FactoredRows, Rows
from advcore.types import Coreset

_DRAWS = 5  # random subsets behind gradient_error_random
_STRETCH = 2
_ERRORS = ("gradient_error", "gradient_error_trained", "gradient_error_random", "target_error")


def quality(coreset: Coreset, found: Measured, goal: Rows | None, normalise: str, stream: Stream) -> dict[str, Any]:
    """weight_sum, effective_sample_size, class_counts; and, where gradients were measured (else None), the errors.

    found : rows and labels of all examples. goal : other examples' rows that the solver was to match, for
    `target_error`. normalise : how the trainer will rescale the weights, for `gradient_error_trained`.
    """
    w, rows, labels = coreset.weights.double(), found.rows, found.labels
    facts: dict[str, Any] = {
        "weight_sum": float(w.sum()) / coreset.num_examples,
        "effective_sample_size": float(w.sum() ** 2 / (len(w) * w.square().sum())),
        "class_counts": torch.bincount(labels[coreset.indices], minlength=int(labels.max()) + 1).tolist(),
    } | dict.fromkeys(_ERRORS)
    if not isinstance(rows, FactoredRows):
        return facts
    total, picks = rows.total(), coreset.indices
    facts["gradient_error"] = gradient_error(rows, picks, w, total)
    facts["gradient_error_trained"] = gradient_error(rows, picks, _as_trained(coreset, normalise).double(), total)
    facts["gradient_error_random"] = random_gradient_error(rows, len(w), stream, total)
    if goal is not None:
        facts["target_error"] = gradient_error(rows, picks, w, goal.total() * (len(rows) / len(goal)))
    return facts


def _as_trained(coreset: Coreset, normalise: str) -> Tensor:
    """(K,) the coefficients that the trainer's rescaling amounts to, over a whole epoch."""
    n, k = coreset.num_examples, len(coreset)
    if normalise == "none":
        return coreset.weights
    if normalise == "batch" and coreset.blocks is not None:
        return torch.full((k,), n / k)  # a batch is one block of one weight, which its own sum cancels
    return coreset.training_weights("equal" if normalise == "equal" else "coreset") * (n / k)


def stretched(weight_sum: float, normalise: str) -> tuple[str, ...]:
    """An event where the trainer's rescaling makes steps more than twice, or less than half, as long as the solver's
    weights mean them to be (docs/evidence.md has what that costs).

    weight_sum : sum w / N.
    """
    if normalise == "none" or weight_sum <= 0 or 1 / _STRETCH <= weight_sum <= _STRETCH:
        return ()
    told = (
        f"the weights sum to {weight_sum:.2f} N, and rescaled to mean 1 make steps {1 / weight_sum:.1f} times as long"
    )
    return (f"{told}; training.normalise: none keeps their scale",)


def gradient_error(rows: Rows, indices: Tensor, weights: Tensor, total: Tensor | None = None) -> float:
    """||sum of w_i g_i over the indices - sum of all g|| / ||sum of all g||; `total` is the latter, if it is known."""
    total = rows.total() if total is None else total
    weighted = rows.combine(indices.to(rows.device), weights.to(rows.device))
    return float((weighted - total).norm() / total.norm().clamp_min(1e-300))


def random_gradient_error(rows: Rows, k: int, stream: Stream, total: Tensor) -> float:
    """Mean `gradient_error` of 5 random subsets of k rows with weights N / k."""
    everything = torch.arange(len(rows), device=rows.device)
    weights = torch.full((k,), len(rows) / k, device=rows.device)
    draws = [stream.child(draw).at(everything).permutation()[:k] for draw in range(_DRAWS)]
    return sum(gradient_error(rows, picks, weights, total) for picks in draws) / _DRAWS


class Sample(NamedTuple):
    """What the full attack finds at some examples of the coreset, and at some of the rest.

    chosen : (m,) long, which positions of the coreset, drawn without replacement. rest : (s,) long, which examples
    outside of it, likewise; either may be all. rows : the gradient rows under the full attack of the chosen, then of
    the rest.
    """

    chosen: Tensor
    rest: Tensor
    rows: FactoredRows


def full_error(rows: FactoredRows, indices: Tensor, weights: Tensor, sample: Sample) -> tuple[float, float]:
    """The coreset's gradient error where its examples and all others are attacked in full, and the sampling's share.

    rows : of all N examples, as the selection attacked them; what the full attack changes in them is what is sampled.
    indices, weights : (K,) the coreset.

    Both over the norm of the full attack's total. The norm of something noisy is too large: the first is the root of
    an unbiased estimate of its square, where that is above 0, else 0. Where all were attacked, the second is 0.
    """
    error, variance, total = sampled_error(rows, indices, weights, sample)
    size = total.norm().clamp_min(1e-300)
    return float((error.square().sum() - variance).clamp_min(0).sqrt() / size), float(variance.sqrt() / size)


def sampled_error(
    rows: FactoredRows, indices: Tensor, weights: Tensor, sample: Sample
) -> tuple[Tensor, Tensor, Tensor]:
    """Of the same: estimates of the coreset's sum less that of all, of that estimate's variance (over all entries), and
    of the sum of all. Cost: the sample's rows, twice."""
    n, k, m = len(rows), len(indices), len(sample.chosen)
    indices, weights = indices.to(rows.device), weights.double().to(rows.device)
    of_chosen = _changed(sample.rows.take(torch.arange(m)), rows.take(indices[sample.chosen]))
    of_rest = _changed(sample.rows.take(torch.arange(m, len(sample.rows))), rows.take(sample.rest))
    once, _ = _sampled(of_chosen, torch.ones(m), k)
    others, noise_rest = _sampled(of_rest, torch.ones(len(sample.rest)), n - k)
    more, noise = _sampled(of_chosen, weights[sample.chosen] - 1, k)  # the coreset's sum less its part of the whole
    total = rows.total()
    return rows.combine(indices, weights) - total + more - others, noise + noise_rest, total + once + others


def _changed(full: FactoredRows, cheap: FactoredRows) -> FactoredRows:
    """Row by row, full - cheap: another sum of outer products."""
    residuals = (*full.residuals, *(-residual for residual in cheap.residuals))
    return FactoredRows(residuals=residuals, features=(*full.features, *cheap.features), kind=full.kind)


def _sampled(rows: FactoredRows, weights: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The sum of weight x row over `size` examples, from these, drawn without replacement, and the estimate's variance,
    summed over its entries (Cochran 1977, theorem 2.2)."""
    drawn, weights = len(rows), weights.double().to(rows.device)
    if not drawn:
        return torch.zeros((), dtype=torch.float64, device=rows.device), torch.zeros((), device=rows.device)
    summed = rows.combine(torch.arange(drawn, device=rows.device), weights)
    squares = (weights.square() * rows.squared_norms()).sum() - summed.square().sum() / drawn
    variance = size**2 * (1 / drawn - 1 / size) * squares.clamp_min(0) / max(1, drawn - 1)
    return summed * (size / drawn), variance


def overlap(before: Tensor, after: Tensor) -> float:
    """Share of `before` that is also in `after`."""
    return float(torch.isin(before, after).double().mean())
