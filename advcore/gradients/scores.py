"""One number per example, from logits and features over a training run; the higher, the harder the example."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from advcore.data.checks import label_check
from advcore.data.contract import first_images
from advcore.data.source import Source
from advcore.gradients.base import AveragedScores, Forgetting, Gradient, Measurement, define_clean_and_attacked
from advcore.gradients.last_layer import residuals
from advcore.gradients.sweep import sweep
from advcore.models.base import find_head, tap_features
from advcore.objectives.base import margin
from advcore.objectives.standard import Standard
from advcore.rows import DenseRows, FactoredRows
from advcore.runtime.borrow import borrow
from advcore.runtime.counted import CountedModel
from advcore.runtime.precision import disable_compilation

Score = Callable[[Tensor, Tensor, FactoredRows], Tensor]
"""Logits (B, C), labels (B,) and the cross-entropy's last-layer gradients (B rows) to scores (B,)."""


def cross_entropy_rows(z: Tensor, y: Tensor, h: Tensor, head: nn.Linear) -> FactoredRows:
    """Compute exact last-layer gradients of the cross-entropy at logits z (B, C), from features h (B, D)."""
    residual = residuals(Standard(), y, {"clean": z})["clean"]
    kind = "weight" if head.bias is None else "full"
    return FactoredRows(residuals=(residual,), features=(h,), kind=kind)


def el2n(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """Compute ||softmax(z) - onehot(y)||_2. Reference: Paul et al. 2021, definition 2.2."""
    return rows.residuals[0].double().norm(dim=1)


def grand(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """Compute the norm of the cross-entropy's gradient with respect to the last layer, exactly, from factors.

    Reference: Paul et al. 2021, definition 2.1. Differs: the last layer instead of all parameters.
    """
    return rows.squared_norms().sqrt()


def closeness(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """Compute max over k != y of z_k - z_y: above 0 means misclassified."""
    return margin(z, y).double()


def correctness(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """Return 1 where the example is classified right, else 0."""
    return (z.argmax(1) == y).double()


def instability(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """Return 1 where the example is misclassified, else 0: averaged over epochs, 1 minus its learning stability.

    Reference: Dong et al. 2021, a baseline of Mendonça et al. 2023: how steadily an example is learned. Differs: the
    exact form is not in our sources; here stability is the share of epochs in which the example is right.
    """
    return 1 - correctness(z, y, rows)


def score_examples(
    score: Score, model: nn.Module, source: Source, *, head: str | None = None, **settings
) -> Measurement:
    """Measure (N, 1) float64: the `score` of each example.

    head : name of the last linear layer; None finds it. `settings` are those of `sweep`, whose `ledger` is required.

    Cost: one forward pass per example, and the attack if `attacked`; all in phase "scoring".
    """
    with borrow(model, training=False):
        layer = find_head(model, first_images(model, source), head)
    check = label_check(source, layer.out_features)
    with tap_features(layer) as tap:

        def measure(forward: CountedModel, indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad(), disable_compilation():
                logits = forward(x)
            assert tap.features is not None, "the head has run"
            return score(logits, y, cross_entropy_rows(logits, y, tap.features, layer))

        return sweep(measure, model, source, check=check, **settings)


def centre_distances(model: nn.Module, source: Source, **settings) -> Measurement:
    """Measure (N, 1) float64: the distance of each example's features to the mean features of its class.

    Reference: Xia et al. 2023 (Moderate coreset), section 3. `settings` and cost as in `score_examples`.
    """
    result = score_examples(_features, model, source, **settings)
    assert isinstance(result.rows, DenseRows) and result.labels is not None, "a sweep writes scores out everywhere"
    features = result.rows.matrix[:, 0]
    labels = result.labels
    counts = torch.bincount(labels).clamp_min(1)[:, None]
    centres = features.new_zeros(len(counts), features.shape[1]).index_add_(0, labels, features) / counts
    rows = DenseRows(matrix=(features - centres[labels]).norm(dim=1, keepdim=True))
    return Measurement(rows=rows, labels=labels, events=result.events)


def _features(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    return rows.features[0].double().cpu()


_define = partial(define_clean_and_attacked, score_passes=1)
_define_average = partial(_define, collect=AveragedScores)

SCORES: dict[str, Gradient] = {
    **_define_average("el2n", "norm of softmax - onehot, averaged over epochs", measure=partial(score_examples, el2n)),
    **_define_average(
        "grand", "norm of the last layer's gradient, averaged over epochs", measure=partial(score_examples, grand)
    ),
    **_define_average(
        "margin",
        "best other logit less the label's, averaged over epochs",
        measure=partial(score_examples, closeness),
    ),
    **_define(
        "forgetting",
        "epochs in which a right example turns wrong",
        measure=partial(score_examples, correctness),
        collect=Forgetting,
    ),
    **_define_average("instability", "share of epochs misclassified", measure=partial(score_examples, instability)),
    **_define("centre_distance", "distance to the class's mean features", measure=centre_distances),
}
