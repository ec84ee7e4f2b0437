"""Last-layer gradients at the attacked points, as factors, in one pass over the plain view."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import bound, passes, perturb
from advcore.attacks.base import Attack
from advcore.borrow import borrow
from advcore.cost import CostLedger
from advcore.data.source import Source, batches_for, chunked, first_images, label_check
from advcore.errors import ConfigError, NonFiniteError
from advcore.gradients.base import Gradient, Measured
from advcore.models.base import find_head, tapped
from advcore.objectives.base import Objective
from advcore.pieces import Pieces
from advcore.rng import Stream
from advcore.rows import FactoredRows, first_not_finite
from advcore.speed import uncompiled
from advcore.spill import FactorStore


def residuals(objective: Objective, y: Tensor, logits: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Per forward pass, d loss / d logits of each example (B, C), by autograd of the objective's own loss.

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
) -> Measured:
    """Attack every example with the model as it stands; keep residuals and features of each forward pass.

    Parameters
    ----------
    model : borrowed; comes back as it was. Ends in a linear head, found unless named by `head`.
    source : N examples, read in order, un-augmented, in chunks of `chunk_size` whatever the rest of the system does.
    attack : may be None for an objective that is not attacked.
    stream : of the attack's draws; bound to the examples here.
    kind : "full", "weight" or "bias" (`FactoredRows`).
    attack_mode : "eval", or "train" as some published codes have it (statistics are restored all the same).
    folder : keep the factors in a temporary file there, not in memory; they read the same.
    on_chunk : told examples done and in all.

    When memory runs out, a chunk goes on in halves, down to 16, and an event says so; the rows are the same up to
    float32 rounding (not with attack_mode "train", whose rows depend on the chunk: there the error passes).
    Several processes share the chunks; the first one has all rows, the others none. Perturbations are not stored. A row
    is exact for the x_adv it was taken at: by Danskin's theorem the gradient of the inner maximum is the loss gradient
    at the maximiser.
    Cost: the attack, one forward pass a pass of the objective, O(N (C + D)) memory a pass.
    Raises ConfigError without a linear head, DataError for bad images or labels, NonFiniteError for NaN logits.
    Reference: Dolatabadi et al. 2022, eqs. 12 and 14. Differs: attack and gradient see the same tensor, un-augmented;
    beta enters once.
    """
    device, chunks = source.device, chunked(torch.arange(len(source)), chunk_size)
    store = FactorStore(objective.passes, len(source), folder)
    labels, done = [], 0
    with borrow(model, training=False):
        layer = find_head(model, first_images(model, source), head)
    check = label_check(source, layer.out_features)
    if kind != "weight" and layer.bias is None:
        if kind == "bias":
            raise ConfigError("selection.rows must be 'weight' or 'full' for a head without bias, got 'bias'")
        kind = "weight"
    with borrow(model, training=attack_mode == "train"), tapped(layer) as tap:
        forward, attack = ledger.counted(model), bound(attack, model, ledger.counted)
        pieces = Pieces(chunk_size, least=chunk_size if attack_mode == "train" else 16)  # BatchNorm sees a whole chunk

        def found() -> Iterator[tuple[Tensor, ...]]:
            """Of each chunk: labels, then residuals and features of each forward pass."""
            for indices, x, y in batches_for(model, source, distributed.own(chunks)):
                check(y, indices)
                with ledger.phase("attack", device):
                    batch = (x, y, stream.at(indices))
                    work = partial(_piece, ledger, forward, tap, objective, attack, batch)
                    seen = _joined(pieces.over(len(x), work))
                with ledger.phase("rows", device):
                    own = residuals(objective, y, {name: z for name, (z, _) in seen.items()})
                yield y, *(part for name in objective.passes for part in (own[name], seen[name][1]))

        for y, *parts in distributed.in_order(chunks, found()):
            with ledger.phase("rows", device):
                for name, residual, feature in zip(objective.passes, parts[::2], parts[1::2], strict=True):
                    store.append(name, residual, feature)
            labels.append(y)
            done += len(y)
            on_chunk(done, len(source))
    events = distributed.events(pieces.events)
    rows = None
    with distributed.together(), ledger.phase("rows", device):
        if distributed.first():
            rows = FactoredRows(**store.factors(), kind=kind)
            bad = first_not_finite(rows.squared_norms())
            if bad is not None:
                raise NonFiniteError(f"the model's gradient at example {bad} is NaN or infinite; training has diverged")
    return Measured(rows=rows, labels=torch.cat(labels).cpu() if distributed.first() else None, events=events)


def _passes(forward, tap, objective, attack, x, y, generator) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits and features of each of the objective's forward passes; the clean one serves the attack too."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    with torch.no_grad():
        if "clean" in objective.passes:
            with uncompiled():
                seen["clean"] = forward(x), tap.features
        if "adversarial" in objective.passes:
            clean = seen["clean"][0] if seen else None
            x_adv = perturb(forward, objective, attack, x, y, clean=clean, generator=generator)
            with uncompiled():
                seen["adversarial"] = forward(x_adv), tap.features
    return seen


def _piece(ledger, forward, tap, objective, attack, batch, i: slice) -> dict[str, tuple[Tensor, Tensor]]:
    x, y, generator = batch
    with ledger.undone_on_error():
        return _passes(forward, tap, objective, attack, x[i], y[i], generator.take(i))


def _joined(parts: list[dict[str, tuple[Tensor, Tensor]]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Logits and features of a chunk from those of its pieces."""
    if len(parts) == 1:
        return parts[0]
    return {
        name: tuple(torch.cat(both) for both in zip(*(part[name] for part in parts), strict=True)) for name in parts[0]
    }


def _units(objective: Objective, attack: Attack | None) -> int:
    """The attack, and one forward pass of each of the objective's passes; the clean one serves both."""
    return passes(objective, attack, clean_known="clean" in objective.passes) + len(objective.passes)


LAST_LAYER = Gradient(
    "gradient of the loss with respect to the last layer, as factors", last_layer_rows, _units, one_number=False
)
