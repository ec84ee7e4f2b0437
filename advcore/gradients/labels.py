"""Labels that a model predicts, for images without any, or whose own do not count."""

import torch
from torch import Tensor, nn

from advcore.data.source import Source
from advcore.gradients.base import MeasurementSettings
from advcore.gradients.scores import sweep_scores
from advcore.kinds import accept_arguments
from advcore.runtime.borrow import record_gradients
from advcore.runtime.counted import CountedModel


@accept_arguments
@record_gradients
def predict_labels(model: nn.Module, source: Source, settings: MeasurementSettings) -> Tensor:
    """Return the class (N,) long, on the CPU, to which the model gives the largest logit, in every process.

    The source is walked through once, in chunks of `settings.chunk_size`, in eval mode; its labels are not read.
    Cost: one forward pass per image, in phase "scoring".
    Reference: Carmon et al. 2019, section 3 (robust self-training).
    """

    def predict(forward: CountedModel, indices: Tensor, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return forward(x).argmax(1)

    rows, _ = sweep_scores(predict, model, source, settings, attacked=False).get_rows_and_labels()
    return rows.dense()[:, 0].long().cpu()
