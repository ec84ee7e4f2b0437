"""Last-layer gradients of the divergence between clean and virtually attacked predictions, which need no labels."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import ClassVar

from torch import Tensor, nn

from advcore.data.source import Source
from advcore.gradients.base import Gradient, Measurement, MeasurementSettings
from advcore.gradients.last_layer import last_layer_rows, plan_rows
from advcore.objectives.trades import measure_divergence
from advcore.settings import settings


@settings
class Divergence:
    """KL(f(x) || f(x_adv)), where the attack climbs the same, with gradient through both branches; labels are unread.

    It is what rows are measured by, and no objective to train on: it is least where all predictions are the same.
    Reference: Xu et al. 2023 (arXiv 2302.03857), section 3.1: the representational divergence (RD), with KL as the
    distance. Differs: of the model's predictions, as a classifier has them.
    """

    passes: ClassVar[tuple[str, ...]] = ("clean", "adversarial")
    ascent_needs_clean: ClassVar[bool] = True

    def loss(self, y: Tensor, *, clean: Tensor, adversarial: Tensor) -> Tensor:
        return measure_divergence(clean, adversarial)

    def bind_ascent(self, y: Tensor, clean: Tensor | None) -> Callable[[Tensor], Tensor]:
        assert clean is not None, "an attack that climbs this loss is given the clean logits (`ascent_needs_clean`)"
        return partial(measure_divergence, clean.detach())


def divergence_rows(model: nn.Module, source: Source, settings: MeasurementSettings) -> Measurement:
    """Measure each example's last-layer gradient of the divergence, where the attack makes it large, as factors.

    Everything else is as of `last_layer_rows`; the settings' objective is not read. An attack that climbs the margin
    still reads labels.
    """
    return last_layer_rows(model, source, replace(settings, objective=Divergence()))


DIVERGENCE = Gradient(
    about="last layer's gradient of the divergence between clean and attacked predictions, without labels",
    measure=divergence_rows,
    plan=lambda objective, attack: plan_rows(Divergence(), attack),
    is_scalar=False,
    reads_head=True,
    objective=Divergence(),
)
