"""One number per example, from logits and features over a training run; the higher, the harder the example."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import perturb
from advcore.data.checks import LabelCheck, make_label_check, refuse_changes
from advcore.data.source import Source
from advcore.errors import ConfigError, must
from advcore.gradients.base import (
    AveragedScores,
    Forgetting,
    Gradient,
    Measurement,
    MeasurementSettings,
    define_clean_and_attacked,
)
from advcore.gradients.last_layer import locate_head, residuals, run_tapped
from advcore.kinds import accept_arguments
from advcore.models.head import Head, count_classes, tap_features
from advcore.objectives.base import compute_margin_loss
from advcore.objectives.standard import Standard
from advcore.rows import DenseRows, FactoredRows
from advcore.runtime.borrow import record_gradients
from advcore.runtime.counted import CountedModel
from advcore.runtime.watch import GradientWatch
from advcore.sweep import start_sweep

# Logits (B, C), labels (B,) and the cross-entropy's last-layer gradients (B rows) to scores (B,).
Score = Callable[[Tensor, Tensor, FactoredRows], Tensor]


def sweep_scores(
    score: Callable[[CountedModel, Tensor, Tensor, Tensor], Tensor],
    model: nn.Module,
    source: Source,
    settings: MeasurementSettings,
    *,
    attacked: bool,
    check: LabelCheck | None = None,
) -> Measurement:
    """Score every example of the source, in eval mode, so that scores do not depend on the chunk.

    score : a forward pass, indices (B,), images (B, C, H, W) and labels (B,) to scores (B,) or (B, F).
    attacked : score the images that the attack leads to on the objective's loss.
    check : called with the labels and indices of each batch, before the model is.

    Returns rows (N, 1), or (N, 1, F), in every process. Cost: what `score` takes, and the attack if `attacked`, in
    phase "scoring".
    """
    with distributed.fail_together():
        refuse_changes(source)
    with (
        start_sweep(model, source, settings.ledger, chunk_size=settings.chunk_size) as sweep,
        settings.ledger.phase("scoring", source.device),
    ):
        attack = sweep.bind(settings.attack)
        watch = GradientWatch()

        def measure(indices: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            if check is not None:
                check(y, indices)
            if attacked:
                stream = settings.stream.at(indices)
                clean = x
                x = perturb(watch.watch(sweep.forward), settings.objective, attack, clean, y, generator=stream)
                watch.refuse_training(model, attack, clean, y)
            return _check_scores(score(sweep.forward, indices, x, y), y), y

        scores, labels = distributed.gather_combined(chain.from_iterable(sweep.run(torch.arange(len(source)), measure)))
    return Measurement(DenseRows(matrix=scores[:, None]), labels.cpu(), distributed.gather_events(sweep.pieces.events))


def _check_scores(scores: Tensor, y: Tensor) -> Tensor:
    """Return scores as they are. Raises ConfigError unless there is one, or one row of them, for each label (B,)."""
    if scores.shape[:1] == y.shape:
        return scores
    rule = f"one number, or one row, for each of {len(y)} examples"
    raise ConfigError(must("a score", rule, f"shape {tuple(scores.shape)}"))


def cross_entropy_rows(z: Tensor, y: Tensor, h: Tensor, head: Head) -> FactoredRows:
    """Compute exact last-layer gradients of the cross-entropy at logits z (B, C), from features h (B, D)."""
    residual = residuals(Standard(), y, {"clean": z})["clean"]
    return FactoredRows(residuals=(residual,), features=(h,), kind="weight" if head.bias is None else "full")


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
    return compute_margin_loss(z, y).double()


def correctness(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """Return 1 where the example is classified right, else 0."""
    return (z.argmax(1) == y).double()


def instability(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """Return 1 where the example is misclassified, else 0; averaged over epochs, the share of them.

    At attacked images of adversarial training (`adversarial_instability`) it is 1 minus the learning stability of Dong
    et al. 2021 (arXiv 2102.07437), a baseline of Mendonça et al. 2023. Differs: after each epoch every example is
    attacked anew, in eval mode and un-augmented. At clean images it is a variant of ours.
    """
    return 1 - correctness(z, y, rows)


@accept_arguments
@record_gradients
def score_examples(
    score: Score, model: nn.Module, source: Source, settings: MeasurementSettings, *, attacked: bool = False
) -> Measurement:
    """Measure (N, 1) float64: the `score` of each example, at the clean image or where the attack leads.

    Cost: one forward pass per example, and the attack if `attacked`; all in phase "scoring".
    """
    head = locate_head(model, source, settings.head)
    check = make_label_check(source, count_classes(head))
    with tap_features(head) as tap:

        def measure(forward: CountedModel, indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
            with torch.no_grad():
                logits, features = run_tapped(forward, tap, x)
            return score(logits, y, cross_entropy_rows(logits, y, features, head))

        return sweep_scores(measure, model, source, settings, attacked=attacked, check=check)


def centre_distances(
    model: nn.Module, source: Source, settings: MeasurementSettings, *, attacked: bool = False
) -> Measurement:
    """Measure (N, 1) float64: the distance of each example's features to the mean features of its class.

    Reference: Xia et al. 2023 (Moderate coreset), section 3. Cost as of `score_examples`.
    """
    measured = score_examples(get_features, model, source, settings, attacked=attacked)
    rows, labels = measured.get_rows_and_labels()
    features = rows.dense()[:, 0]
    counts = torch.bincount(labels).clamp_min(1)[:, None]
    centres = features.new_zeros(len(counts), features.shape[1]).index_add_(0, labels, features) / counts
    distances = (features - centres[labels]).norm(dim=1, keepdim=True)
    return replace(measured, rows=DenseRows(matrix=distances))


def get_features(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """Return what went into the last layer, (B, D) float64 on the CPU, for measures that compare examples."""
    return rows.features[0].double().cpu()


_define = partial(define_clean_and_attacked, score_passes=1, reads_head=True)
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
