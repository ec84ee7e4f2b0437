"""Measure a score of each example, at the clean or at the attacked image."""

from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import perturb
from advcore.cost import CountedModel
from advcore.data.checks import LabelCheck
from advcore.data.source import Source
from advcore.gradients.base import Measurement, MeasurementSettings
from advcore.rows import DenseRows
from advcore.sweep import start_sweep

ScoreBatch = Callable[[CountedModel, Tensor, Tensor, Tensor], Tensor]
"""A forward pass, indices (B,), images (B, C, H, W) and labels (B,) to scores (B,) or (B, F)."""


def sweep_scores(
    score: ScoreBatch,
    model: nn.Module,
    source: Source,
    settings: MeasurementSettings,
    *,
    attacked: bool,
    check: LabelCheck | None = None,
) -> Measurement:
    """Score every example of the source, in eval mode, so that scores do not depend on the chunk.

    attacked : score the images that the attack leads to on the objective's loss.
    check : called with the labels and indices of each batch, before the model is.

    Returns rows (N, 1), or (N, 1, F), in every process. Cost: what `score` takes, and the attack if `attacked`, in
    phase "scoring".
    """
    with (
        start_sweep(model, source, settings.ledger, chunk_size=settings.chunk_size) as sweep,
        settings.ledger.phase("scoring", source.device),
    ):
        attack = sweep.bind(settings.attack)

        def measure(indices: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            if check is not None:
                check(y, indices)
            if attacked:
                stream = settings.stream.at(indices)
                x = perturb(sweep.forward, settings.objective, attack, x, y, generator=stream)
            return score(sweep.forward, indices, x, y), y

        parts = chain.from_iterable(sweep.run(torch.arange(len(source)), measure))
        scores, labels = distributed.gather_combined(parts)
    return Measurement(DenseRows(matrix=scores[:, None]), labels.cpu(), sweep.gather_events())
