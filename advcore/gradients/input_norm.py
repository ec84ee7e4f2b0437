"""AIGN: the norm of the input gradient, averaged over epochs of a training run (EasyCore)."""

from functools import partial

from torch import Tensor, nn

from advcore.attacks.base import take_input_gradient
from advcore.data.checks import check_fits, check_labels
from advcore.data.source import Source
from advcore.errors import ConfigError, must
from advcore.gradients.base import AveragedScores, Measurement, MeasurementSettings, define_clean_and_attacked
from advcore.gradients.catch import Catch, TrainingPass, catch_scores
from advcore.gradients.scores import sweep_scores
from advcore.kinds import accept_arguments
from advcore.objectives.standard import Standard
from advcore.runtime.borrow import record_gradients
from advcore.runtime.counted import CountedModel
from advcore.runtime.watch import GradientWatch
from advcore.work import Work


@accept_arguments
@record_gradients
def input_norms(
    model: nn.Module, source: Source, settings: MeasurementSettings, *, attacked: bool = False
) -> Measurement:
    """Measure (N, 1) float64: the l2 norm of the gradient of each example's cross-entropy with respect to its pixels.

    At the clean image, or with `attacked` where the attack leads on the objective's loss.

    Raises ConfigError where no gradient reaches the images of the first batch: all norms would be 0.

    Cost: one forward and one backward pass per example, and the attack if `attacked`, in phase "scoring".
    Reference: EasyCore (arXiv 2510.11018): the norm whose average over epochs is AIGN. Differs: pixels are in [0, 1]
    and the loss is the clean one, where the abstract is silent.
    """
    check_fits(model, source, labels=False)
    return sweep_scores(partial(_measure_norms, GradientWatch()), model, source, settings, attacked=attacked)


def _measure_norms(watch: GradientWatch, forward: CountedModel, indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
    watched = watch.watch(forward)

    def loss(images: Tensor) -> Tensor:
        logits = watched(images)
        check_labels(y, indices, logits.shape[1])
        return Standard().loss(y, clean=logits)

    _, gradient = take_input_gradient(loss, x)
    watch.refuse_training(forward.model, None, x, y)
    return gradient.double().flatten(1).norm(dim=1)


def _catch_first_norm(name: str) -> Catch | None:
    """Return how norms are caught in the attack's first step, for the clean score; None for the attacked one.

    Differs: the gradient is that of the loss that the attack climbs, where the attack starts, in the view that is
    trained on. No training step takes a gradient at the attack's end with respect to pixels.
    """
    return catch_scores(_read_first_norms, at_start=True) if name == "clean" else None


def _read_first_norms(seen: TrainingPass) -> Tensor:
    if seen.first_norms is None:
        raise ConfigError(must("selection.rows_from", "attack for an attack that takes no gradient", "training"))
    return seen.first_norms


INPUT_NORMS = define_clean_and_attacked(
    "input_norm",
    "norm of the input gradient, averaged over epochs (AIGN)",
    measure=input_norms,
    score_passes=Work(forward=1, to_images=1),
    collect=AveragedScores,
    catch=_catch_first_norm,
)
