"""AIGN: the norm of the input gradient, averaged over epochs of a training run (EasyCore)."""

import torch
from torch import Tensor, nn

from advcore.attacks.base import input_gradient
from advcore.borrow import borrow
from advcore.cost import CostLedger
from advcore.data.source import Source, batches_for, check_labels, chunked
from advcore.gradients.base import Gradient, Measured
from advcore.objectives.standard import Standard
from advcore.rows import DenseRows


def input_norms(model: nn.Module, source: Source, *, ledger: CostLedger, chunk_size: int = 256) -> Tensor:
    """(N,) float64: l2 norm of each example's gradient of the clean cross-entropy with respect to its own pixels.

    In eval mode on the plain view, so that examples do not mix; does not depend on `chunk_size`.
    Cost one forward and one backward pass an example, in phase "scoring".
    Reference: EasyCore (arXiv 2510.11018): the norm whose average over epochs is AIGN. Differs: pixels are in [0, 1]
    and the loss is the clean one, where the abstract is silent.
    """
    objective, norms = Standard(), []
    with borrow(model, training=False), ledger.phase("scoring", source.device):
        forward = ledger.counted(model)
        for indices, x, y in batches_for(model, source, chunked(torch.arange(len(source)), chunk_size)):

            def loss(z: Tensor, y: Tensor = y, indices: Tensor = indices) -> Tensor:
                logits = forward(z)
                check_labels(y, indices, logits.shape[1])
                return objective.loss(y, clean=logits)

            _, gradient = input_gradient(loss, x)
            norms.append(gradient.double().flatten(1).norm(dim=1))
    return torch.cat(norms)


def _measure(model: nn.Module, source: Source, *, ledger: CostLedger, chunk_size: int = 256, **_) -> Measured:
    """Scores (N, 1), whatever the objective and its attack."""
    scores = input_norms(model, source, ledger=ledger, chunk_size=chunk_size)
    return Measured(rows=DenseRows(matrix=scores[:, None]), labels=source.labels())


INPUT_NORM = Gradient(measure=_measure, averaged=True, units=lambda objective, attack: 2)
