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
    Collector,
    Forgetting,
    Gradient,
    Measurement,
    MeasurementSettings,
    define_clean_and_attacked,
)
from advcore.gradients.catch import Catch, CaughtColumns, Shape, TrainingPass, catch_scores
from advcore.gradients.last_layer import locate_head, residuals, run_tapped
from advcore.kinds import accept_arguments
from advcore.models.head import Head, count_classes, tap_features
from advcore.objectives.base import Objective, compute_margin_loss
from advcore.objectives.standard import Standard
from advcore.rows import DenseRows, FactoredRows, Rows
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
    attacked again, in eval mode and un-augmented. At clean images it is advcore's variant.
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
    return replace(measured, rows=measure_from_centres(rows.dense()[:, 0], labels))


def measure_from_centres(features: Tensor, labels: Tensor) -> DenseRows:
    """Return the distance of each example's features (N, D) to the mean features of its class, (N, 1) float64."""
    features = features.double()
    counts = torch.bincount(labels).clamp_min(1)[:, None]
    centres = features.new_zeros(len(counts), features.shape[1]).index_add_(0, labels, features) / counts
    return DenseRows(matrix=(features - centres[labels]).norm(dim=1, keepdim=True))


def get_features(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """Return what went into the last layer, (B, D) float64 on the CPU, for measures that compare examples."""
    return rows.features[0].double().cpu()


# ---- caught in training ----


def _catch_score(score: Score, name: str) -> Catch:
    """Return how a score is caught in the forward pass of that name, so that none is made for it."""
    return catch_scores(partial(_score_pass, score, name), reads=name)


def _score_pass(score: Score, name: str, seen: TrainingPass) -> Tensor:
    assert seen.head is not None, "a score is measured at the head"
    logits = seen.logits[name]
    return score(logits, seen.y, cross_entropy_rows(logits, seen.y, seen.features[name], seen.head))


def _catch_features(name: str) -> Catch:
    """Return how distances to centres are caught: as features, since centres are those of all examples."""
    return Catch(
        take=partial(_take_features, name),
        build=_build_distances,
        count_bytes=_count_feature_bytes,
        reads=name,
        read=_read_features,
        measure_anew=partial(score_examples, get_features, attacked=name == "adversarial"),
    )


def _take_features(name: str, seen: TrainingPass) -> dict[str, Tensor]:
    return {"features": seen.features[name]}


def _build_distances(caught: CaughtColumns) -> DenseRows:
    return measure_from_centres(caught.columns["features"], caught.labels)


def _count_feature_bytes(shape: Shape) -> int:
    return shape.features * shape.itemsize


def _read_features(objective: Objective, rows: Rows) -> dict[str, Tensor]:
    return {"features": rows.dense()[:, 0]}


_define = partial(define_clean_and_attacked, score_passes=1, reads_head=True)


def _define_score(
    name: str, about: str, score: Score, collect: Callable[[], Collector] = AveragedScores
) -> dict[str, Gradient]:
    catch = partial(_catch_score, score)
    return _define(name, about, measure=partial(score_examples, score), collect=collect, catch=catch)


SCORES: dict[str, Gradient] = {
    **_define_score("el2n", "norm of softmax - onehot, averaged over epochs", el2n),
    **_define_score("grand", "norm of the last layer's gradient, averaged over epochs", grand),
    **_define_score("margin", "largest other logit minus the label's, averaged over epochs", closeness),
    **_define_score(
        "forgetting", "epochs in which a correctly classified example becomes misclassified", correctness, Forgetting
    ),
    **_define_score("instability", "share of epochs misclassified", instability),
    **_define(
        "centre_distance", "distance to the class's mean features", measure=centre_distances, catch=_catch_features
    ),
}
