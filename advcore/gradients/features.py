"""Features: what goes into a model's last layer at the clean image, as a row for each example."""

from torch import Tensor, nn

from advcore.data.source import Source
from advcore.gradients.base import Gradient, Measurement, MeasurementSettings
from advcore.gradients.scores import score_examples
from advcore.rows import DenseRows, FactoredRows
from advcore.work import Work


def measure_features(model: nn.Module, source: Source, settings: MeasurementSettings) -> Measurement:
    """Measure (N, D): the features of each clean image, in the model's dtype; labels are checked, and not used.

    Cost: one forward pass per example, in phase "scoring"; 4 N D bytes.
    """
    measured = score_examples(_get_features, model, source, settings)
    if measured.rows is None:
        return measured
    assert isinstance(measured.rows, DenseRows), "scores are written out"
    matrix = measured.rows.matrix[:, 0]
    return Measurement(DenseRows(matrix=matrix), measured.labels, measured.events)


def _get_features(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    return rows.features[0].cpu()


FEATURES = Gradient(
    about="features that go into the last layer; clean",
    measure=measure_features,
    plan=lambda objective, attack: Work(forward=1),
    is_scalar=False,
    reads_head=True,
)
