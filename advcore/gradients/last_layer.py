"""Last-layer gradients at the attacked points, as factors, in one pass over the plain view of the data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import bind_attack, count_passes, perturb
from advcore.attacks.base import Attack
from advcore.cost import CostLedger
from advcore.data.checks import label_check
from advcore.data.contract import batches_for, chunked, first_images
from advcore.data.source import Source
from advcore.errors import ConfigError, NonFiniteError
from advcore.gradients.base import Gradient, Measurement
from advcore.models.base import Tap, find_head, tap_features
from advcore.objectives.base import Objective
from advcore.rng import Stream
from advcore.rows import FactoredRows, find_first_not_finite
from advcore.rows.on_disk import FactorStore
from advcore.runtime.borrow import borrow
from advcore.runtime.counted import CountedModel
from advcore.runtime.out_of_memory import Pieces
from advcore.runtime.precision import disable_compilation


def residuals(objective: Objective, y: Tensor, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Compute d loss / d logits (B, C) of each example, for each forward pass, by autograd of the objective's own loss.

    In float32, or the logits' dtype if wider.
    """
    leaves = {
        name: z.detach().to(torch.promote_types(z.dtype, torch.float32)).requires_grad_(True)
        for name, z in logits.items()
    }
    with torch.enable_grad():
        loss = objective.loss(y, **leaves).sum()
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def last_layer_rows(
    model: nn.Module,
    source: Source,
    *,
    objective: Objective,
    attack: Attack | None,
    stream: Stream,
    ledger: CostLedger,
    kind: str = "full",
    head: str | None = None,
    attack_mode: str = "eval",
    chunk_size: int = 256,
    folder: Path | None = None,
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
) -> Measurement:
    """Attack every example with the model as it stands, and measure its last-layer gradient there, as factors.

    Parameters
    ----------
    model : borrowed, and restored afterwards. Ends in a linear head, which is looked for unless `head` names it.
    source : N examples, read in order, un-augmented, in chunks of `chunk_size` whatever the rest of the system does.
    attack : may be None for an objective that is not attacked.
    stream : of the attack's draws; bound to the examples here.
    kind : "full", "weight" or "bias" (`FactoredRows`).
    attack_mode : "eval", or "train" as in some published codes (BatchNorm's statistics are restored all the same).
    folder : store the factors in a temporary file there, not in memory; they read the same.
    on_chunk : called with the number of examples done and in all.

    When memory runs out, a chunk is split in halves, down to 16 examples, and an event says so; the rows are the same
    up to float32 rounding. With attack_mode "train" the rows depend on the chunk, and the error passes instead.
    Several processes share the chunks; the first one has all rows, the others none. Perturbations are not stored. A row
    is exact for the x_adv it was taken at: by Danskin's theorem the gradient of the inner maximum is the loss gradient
    at the maximiser.
    Cost: the attack, one forward pass for each pass of the objective, O(N (C + D)) memory for each.
    Raises ConfigError without a linear head, DataError for bad images or labels, NonFiniteError for NaN logits.
    Reference: Dolatabadi et al. 2022, eqs. 12 and 14. Differs: attack and gradient see the same tensor, un-augmented;
    beta enters once.
    """
    device = source.device
    chunks = chunked(torch.arange(len(source)), chunk_size)
    store = FactorStore(objective.passes, len(source), folder)
    labels: list[Tensor] = []
    done = 0
    with borrow(model, training=False):
        layer = find_head(model, first_images(model, source), head)
    check = label_check(source, layer.out_features)
    kind = _fit_to_bias(kind, has_bias=layer.bias is not None)
    with borrow(model, training=attack_mode == "train"), tap_features(layer) as tap:
        attack = bind_attack(attack, model, ledger.count_passes)
        forwards = _Forwards(objective, attack, forward=ledger.count_passes(model), tap=tap, ledger=ledger)
        pieces = Pieces(chunk_size, least=chunk_size if attack_mode == "train" else 16)  # BatchNorm sees a whole chunk

        def measure_chunks() -> Iterator[tuple[Tensor, ...]]:
            """Yield the labels of each chunk, then the residuals and the features of each forward pass."""
            for indices, x, y in batches_for(model, source, distributed.chunks_of_process(chunks)):
                check(y, indices)
                with ledger.phase("attack", device):
                    outputs = _join(pieces.run(len(x), partial(forwards.run, x, y, stream.at(indices))))
                with ledger.phase("rows", device):
                    by_pass = residuals(objective, y, {name: output.logits for name, output in outputs.items()})
                factors = [(by_pass[name], outputs[name].features) for name in objective.passes]
                yield y, *chain.from_iterable(factors)

        for y, *factors in distributed.gather_in_order(chunks, measure_chunks()):
            with ledger.phase("rows", device):
                for name, residual, features in zip(objective.passes, factors[::2], factors[1::2], strict=True):
                    store.append(name, residual, features)
            labels.append(y)
            done += len(y)
            on_chunk(done, len(source))
    events = distributed.gather_events(pieces.events)
    with distributed.fail_together(), ledger.phase("rows", device):
        if not distributed.is_first():
            return Measurement(rows=None, labels=None, events=events)
        rows = FactoredRows(**store.factors(), kind=kind)
        example = find_first_not_finite(rows.squared_norms())
        if example is not None:
            raise NonFiniteError(f"the model's gradient at example {example} is NaN or infinite; training has diverged")
    return Measurement(rows=rows, labels=torch.cat(labels).cpu(), events=events)


def _fit_to_bias(kind: str, *, has_bias: bool) -> str:
    """Return the kind of rows for this head: "weight" instead of "full" without a bias, where "bias" is refused."""
    if has_bias or kind == "weight":
        return kind
    if kind == "bias":
        raise ConfigError("selection.rows must be 'weight' or 'full' for a head without bias, got 'bias'")
    return "weight"


class Output(NamedTuple):
    """The logits (B, C) of a forward pass, and the features (B, D) that went into the head."""

    logits: Tensor
    features: Tensor


@dataclass(frozen=True)
class _Forwards:
    """Runs the objective's forward passes at the clean and the attacked images, and catches the features."""

    objective: Objective
    attack: Attack | None
    forward: CountedModel
    tap: Tap
    ledger: CostLedger

    def run(self, x: Tensor, y: Tensor, generator: Stream, piece: slice) -> dict[str, Output]:
        """Return the output of each forward pass on a piece of the batch; the clean one serves the attack too."""
        x, y = x[piece], y[piece]
        outputs: dict[str, Output] = {}
        with self.ledger.undo_on_error(), torch.no_grad():
            if "clean" in self.objective.passes:
                outputs["clean"] = self._run_once(x)
            if "adversarial" in self.objective.passes:
                clean = outputs["clean"].logits if outputs else None
                stream = generator.take(piece)
                x_adv = perturb(self.forward, self.objective, self.attack, x, y, clean=clean, generator=stream)
                outputs["adversarial"] = self._run_once(x_adv)
        return outputs

    def _run_once(self, x: Tensor) -> Output:
        with disable_compilation():
            logits = self.forward(x)
        features = self.tap.features
        assert features is not None, "the head has run"
        return Output(logits, features)


def _join(pieces: Sequence[dict[str, Output]]) -> dict[str, Output]:
    """Return the outputs of a chunk from those of its pieces."""
    if len(pieces) == 1:
        return pieces[0]
    joined = {}
    for name in pieces[0]:
        logits = torch.cat([piece[name].logits for piece in pieces])
        joined[name] = Output(logits, torch.cat([piece[name].features for piece in pieces]))
    return joined


def _count_units(objective: Objective, attack: Attack | None) -> int:
    """Count the attack's passes and one forward pass for each of the objective's; the clean one serves both."""
    return count_passes(objective, attack, clean_known="clean" in objective.passes) + len(objective.passes)


LAST_LAYER = Gradient(
    about="gradient of the loss with respect to the last layer, as factors",
    measure=last_layer_rows,
    units=_count_units,
    one_number=False,
)
