"""One number an example, from logits and features over a training run; the higher, the harder the example."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import bound, perturb
from advcore.attacks.base import Attack
from advcore.borrow import borrow
from advcore.cost import CostLedger
from advcore.data.source import Source, batches_for, chunked, first_images, label_check
from advcore.gradients.base import AveragedScores, Forgetting, Gradient, Measured, clean_and_attacked
from advcore.gradients.last_layer import residuals
from advcore.models.base import find_head, tapped
from advcore.objectives.base import Objective, margin
from advcore.objectives.standard import Standard
from advcore.pieces import Pieces
from advcore.rng import Stream
from advcore.rows import DenseRows, FactoredRows
from advcore.speed import uncompiled

Score = Callable[[Tensor, Tensor, FactoredRows], Tensor]
"""Logits (B, C), labels (B,) and the cross-entropy's last-layer gradients (B rows) to scores (B,)."""


def cross_entropy_rows(z: Tensor, y: Tensor, h: Tensor, head: nn.Linear) -> FactoredRows:
    """Exact last-layer gradients of the cross-entropy at logits z (B, C), from features h (B, D)."""
    residual = residuals(Standard(), y, {"clean": z})["clean"]
    return FactoredRows(residuals=(residual,), features=(h,), kind="weight" if head.bias is None else "full")


def el2n(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """||softmax(z) - onehot(y)||_2. Reference: Paul et al. 2021, definition 2.2."""
    return rows.residuals[0].double().norm(dim=1)


def grand(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """Norm of the cross-entropy's gradient with respect to the last layer, exact from factors.

    Reference: Paul et al. 2021, definition 2.1. Differs: the last layer instead of all parameters.
    """
    return rows.squared_norms().sqrt()


def closeness(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """max over k != y of z_k - z_y: above 0 means misclassified."""
    return margin(z, y).double()


def right(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """1 where the example is classified right, else 0."""
    return (z.argmax(1) == y).double()


def instability(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
    """1 where the example is misclassified, else 0: averaged over epochs, 1 minus its learning stability.

    Reference: Dong et al. 2021, a baseline of Mendonça et al. 2023: how steadily an example is learned. Differs: the
    exact form is not in our sources; ours is the share of epochs in which it is right.
    """
    return 1 - right(z, y, rows)


def scored(
    score: Score,
    model: nn.Module,
    source: Source,
    *,
    ledger: CostLedger,
    objective: Objective | None = None,
    attack: Attack | None = None,
    stream: Stream | None = None,
    attacked: bool = False,
    head: str | None = None,
    chunk_size: int = 256,
    **_,
) -> Measured:
    """(N, 1) float64 `score` of each example, clean or `attacked`, in eval mode on the plain view. When memory runs
    out, a chunk goes on in halves, down to 16.

    Cost: one forward pass an example, and the attack if `attacked`; all in phase "scoring".
    """
    chunks, pieces = chunked(torch.arange(len(source)), chunk_size), Pieces(chunk_size)
    with borrow(model, training=False):
        layer = find_head(model, first_images(model, source), head)
        check = label_check(source, layer.out_features)
        with ledger.phase("scoring", source.device), tapped(layer) as tap:
            forward, attack = ledger.counted(model), bound(attack, model, ledger.counted)

            def work(indices: Tensor, x: Tensor, y: Tensor, i: slice) -> Tensor:
                indices, x, y = indices[i], x[i], y[i]
                with ledger.undone_on_error():
                    if attacked:
                        x = perturb(forward, objective, attack, x, y, generator=stream.at(indices))
                    with torch.no_grad(), uncompiled():
                        logits = forward(x)
                    return score(logits, y, cross_entropy_rows(logits, y, tap.features, layer))

            def found() -> Iterator[tuple[Tensor, Tensor]]:
                for indices, x, y in batches_for(model, source, distributed.own(chunks)):
                    check(y, indices)
                    yield torch.cat(pieces.over(len(y), partial(work, indices, x, y))), y

            values, labels = distributed.combined(chunks, found())
    events = distributed.events(pieces.events)
    return Measured(rows=DenseRows(matrix=values[:, None]), labels=labels.cpu(), events=events)


def centre_distances(model: nn.Module, source: Source, **how) -> Measured:
    """(N, 1) float64: distance of each example's features to the mean features of its class.

    Reference: Xia et al. 2023 (Moderate coreset), section 3. Cost as `scored`.
    """

    def features(z: Tensor, y: Tensor, rows: FactoredRows) -> Tensor:
        return rows.features[0].double().cpu()

    found = scored(features, model, source, **how)
    h, labels = found.rows.matrix[:, 0], found.labels
    counts = torch.bincount(labels).clamp_min(1)[:, None]
    centres = h.new_zeros(len(counts), h.shape[1]).index_add_(0, labels, h) / counts
    rows = DenseRows(matrix=(h - centres[labels]).norm(dim=1, keepdim=True))
    return Measured(rows=rows, labels=labels, events=found.events)


SCORES: dict[str, Gradient] = {
    name: gradient
    for kind in (
        ("el2n", "norm of softmax - onehot, averaged over epochs", partial(scored, el2n), 1, AveragedScores),
        ("grand", "norm of the last layer's gradient, averaged over epochs", partial(scored, grand), 1, AveragedScores),
        (
            "margin",
            "best other logit less the label's, averaged over epochs",
            partial(scored, closeness),
            1,
            AveragedScores,
        ),
        ("forgetting", "epochs in which a right example turns wrong", partial(scored, right), 1, Forgetting),
        ("instability", "share of epochs misclassified", partial(scored, instability), 1, AveragedScores),
        ("centre_distance", "distance to the class's mean features", centre_distances, 1, None),
    )
    for name, gradient in clean_and_attacked(*kind).items()
}
