"""What a coreset's weights are like, and how well they stand for the whole."""

from typing import Any

import torch
from torch import Tensor

from advcore.gradients.base import Measured
from advcore.rng import Stream
from advcore.rows import FactoredRows, Rows
from advcore.types import Coreset

_DRAWS = 5  # random subsets behind gradient_error_random
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
    return coreset.training_weights("coreset") * (n / k)


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


def overlap(before: Tensor, after: Tensor) -> float:
    """Share of `before` that is also in `after`."""
    return float(torch.isin(before, after).double().mean())
