"""AIGN: the norm of the input gradient, averaged over epochs of a training run (EasyCore)."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import bound, perturb
from advcore.attacks.base import Attack, input_gradient
from advcore.borrow import borrow
from advcore.cost import CostLedger
from advcore.data.source import Source, batches_for, check_labels, chunked
from advcore.gradients.base import AveragedScores, Measured, clean_and_attacked
from advcore.objectives.base import Objective
from advcore.objectives.standard import Standard
from advcore.pieces import Pieces
from advcore.rng import Stream
from advcore.rows import DenseRows


def input_norms(
    model: nn.Module,
    source: Source,
    *,
    ledger: CostLedger,
    chunk_size: int = 256,
    attacked: bool = False,
    objective: Objective | None = None,
    attack: Attack | None = None,
    stream: Stream | None = None,
    **_,
) -> Measured:
    """(N, 1) float64: l2 norm of each example's gradient of the cross-entropy with respect to its own pixels, at the
    clean image, or where `attack` leads on the objective's loss.

    In eval mode on the plain view, so that examples do not mix; does not depend on `chunk_size`, which is halved, down
    to 16, when memory runs out.
    Cost one forward and one backward pass an example, and the attack if `attacked`, in phase "scoring".
    Reference: EasyCore (arXiv 2510.11018): the norm whose average over epochs is AIGN. Differs: pixels are in [0, 1]
    and the loss is the clean one, where the abstract is silent.
    """
    chunks, pieces = chunked(torch.arange(len(source)), chunk_size), Pieces(chunk_size)
    with borrow(model, training=False), ledger.phase("scoring", source.device):
        forward, attack = ledger.counted(model), bound(attack, model, ledger.counted)

        def work(indices: Tensor, x: Tensor, y: Tensor, i: slice) -> Tensor:
            indices, x, y = indices[i], x[i], y[i]

            def loss(z: Tensor) -> Tensor:
                logits = forward(z)
                check_labels(y, indices, logits.shape[1])
                return Standard().loss(y, clean=logits)

            with ledger.undone_on_error():
                if attacked:
                    x = perturb(forward, objective, attack, x, y, generator=stream.at(indices))
                _, gradient = input_gradient(loss, x)
            return gradient.double().flatten(1).norm(dim=1)

        def norms() -> Iterator[tuple[Tensor]]:
            for batch in batches_for(model, source, distributed.own(chunks)):
                yield (torch.cat(pieces.over(len(batch[0]), partial(work, *batch))),)

        (scores,) = distributed.combined(chunks, norms())
    events = distributed.events(pieces.events)
    return Measured(rows=DenseRows(matrix=scores[:, None]), labels=source.labels(), events=events)


INPUT_NORMS = clean_and_attacked(
    "input_norm", "norm of the input gradient, averaged over epochs (AIGN)", input_norms, 2, AveragedScores
)
