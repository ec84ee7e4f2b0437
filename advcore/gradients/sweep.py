"""One walk through the data that measures a score of each example, at the clean or at the attacked image."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import bind_attack, perturb
from advcore.cost import CostLedger
from advcore.data.contract import batches_for, chunked
from advcore.data.source import Source
from advcore.gradients.base import Measurement
from advcore.rows import DenseRows
from advcore.runtime.borrow import borrow
from advcore.runtime.counted import CountedModel
from advcore.runtime.out_of_memory import Pieces

Measure = Callable[[CountedModel, Tensor, Tensor, Tensor], Tensor]
"""A forward pass, indices (B,), images (B, C, H, W) and labels (B,) to scores (B,) or (B, F)."""


def sweep(
    measure: Measure,
    model: nn.Module,
    source: Source,
    *,
    ledger: CostLedger,
    chunk_size: int = 256,
    attacked: bool = False,
    check: Callable[[Tensor, Tensor], None] | None = None,
    **adversary,
) -> Measurement:
    """Measure every example of the source, in eval mode on the plain view, so that examples do not mix.

    chunk_size : examples at once; halved, down to 16, when memory runs out. Scores do not depend on it.
    attacked : measure at the images that the adversary leads to.
    check : called with the labels and indices of each chunk, before the model is.
    adversary : `objective`, `attack`, and `stream` of its draws, read only if `attacked`; other settings are ignored.

    Returns rows (N, 1), or (N, 1, F). Cost: what `measure` takes, and the attack if `attacked`, in phase "scoring".
    """
    chunks = chunked(torch.arange(len(source)), chunk_size)
    pieces = Pieces(chunk_size)
    with borrow(model, training=False), ledger.phase("scoring", source.device):
        forward = ledger.count_passes(model)
        objective, attack, stream = (adversary.get(name) for name in ("objective", "attack", "stream"))
        attack = bind_attack(attack, model, ledger.count_passes)

        def measure_piece(indices: Tensor, x: Tensor, y: Tensor, piece: slice) -> Tensor:
            indices, x, y = (tensor[piece] for tensor in (indices, x, y))
            with ledger.undo_on_error():
                if attacked:
                    assert objective is not None and stream is not None, "`adversary` names them"
                    x = perturb(forward, objective, attack, x, y, generator=stream.at(indices))
                return measure(forward, indices, x, y)

        def measure_chunks() -> Iterator[tuple[Tensor, Tensor]]:
            for indices, x, y in batches_for(model, source, distributed.chunks_of_process(chunks)):
                if check is not None:
                    check(y, indices)
                yield torch.cat(pieces.run(len(y), partial(measure_piece, indices, x, y))), y

        scores, labels = distributed.gather_combined(chunks, measure_chunks())
    rows = DenseRows(matrix=scores[:, None])
    return Measurement(rows=rows, labels=labels.cpu(), events=distributed.gather_events(pieces.events))
