"""Run a model once over the data, in chunks that processes divide among themselves, and then restore the model."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import bind_attack
from advcore.cost import CostLedger
from advcore.data.checks import explain_single_image
from advcore.data.contract import Batch, Source, cut_into_chunks, read_batches
from advcore.errors import ConfigError, must
from advcore.runtime.borrow import borrow
from advcore.runtime.counted import CountedModel
from advcore.runtime.out_of_memory import Pieces
from advcore.unit_range import trust_images

Bindable = TypeVar("Bindable")
Result = TypeVar("Result", bound=tuple)
# Indices (B,), images (B, C, H, W) and labels (B,) to a tuple of tensors, numbers, and dicts and tuples of them.
Measure = Callable[[Tensor, Tensor, Tensor], Result]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A model that is restored afterwards, and the examples that it runs over. Made by `start_sweep`.

    model, source : what is walked with, in the mode in which it is measured, and through.
    forward : the model as a function whose passes the ledger counts.
    chunk_size : examples that are read at once.
    pieces : how many of them fit into memory, so far.
    """

    model: nn.Module
    source: Source
    ledger: CostLedger
    forward: CountedModel
    chunk_size: int
    pieces: Pieces

    def bind(self, attack: Bindable) -> Bindable:
        """Return the attack bound to the model, its passes counted."""
        return bind_attack(attack, self.model, self.ledger.count_passes)

    def run(
        self,
        indices: Tensor,
        measure: Measure[Result],
        *,
        guard: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> Iterator[list[Result]]:
        """Yield the results of each chunk's pieces, in order, in the first process; nothing in the others.

        guard : entered around each chunk. What `measure` raises passes through it, and is raised in all processes.
            Passes of a call that raised are not counted.

        In results from other processes, tuples are lists: read them by position. Raises ConfigError for a single
        example that the model does not take in train mode.
        """
        chunks = cut_into_chunks(indices, self.chunk_size)
        if self.model.training and len(indices) == 1:
            self._refuse_single_image()
        yield from distributed.gather_in_order(chunks, self._measure_chunks(chunks, measure, guard), self.source.device)

    def _refuse_single_image(self) -> None:
        reason = explain_single_image(self.model, self.source)
        if reason:
            raise ConfigError(must("attack_mode", "eval for data of a single example", "train", reason))

    def _measure_chunks(
        self,
        chunks: Sequence[Tensor],
        measure: Measure[Result],
        guard: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> Iterator[list[Result]]:
        for batch in read_batches(self.model, self.source, distributed.chunks_of_process(chunks)):
            with guard():
                results = self.pieces.run(len(batch[0]), partial(self._measure_piece, measure, batch))
            yield results

    def _measure_piece(self, measure: Measure[Result], batch: Batch, piece: slice) -> Result:
        indices, x, y = batch
        with self.ledger.undo_on_error():
            return measure(indices[piece], x[piece], y[piece])


@contextlib.contextmanager
def start_sweep(
    model: nn.Module, source: Source, ledger: CostLedger, *, chunk_size: int, training: bool = False
) -> Iterator[Sweep]:
    """Put the model in eval mode for a sweep, or in train mode if `training`; it is restored afterwards.

    Pieces of a chunk are halved, down to 16 examples, when memory runs out; in train mode, where BatchNorm has to see a
    whole chunk, the error passes instead.
    """
    least = chunk_size if training else 16
    with borrow(model, training=training), trust_images():
        yield Sweep(
            model=model,
            source=source,
            ledger=ledger,
            forward=ledger.count_passes(model),
            chunk_size=chunk_size,
            pieces=Pieces(chunk_size, least),
        )
