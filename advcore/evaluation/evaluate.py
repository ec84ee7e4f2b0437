"""evaluate(): clean accuracy, and the worst case over every iterate and restart of each attack."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from advcore.attacks import ATTACKS
from advcore.attacks.base import Attack
from advcore.borrow import borrow, device_of
from advcore.cost import CostLedger
from advcore.data.source import Source, as_source, batches_for, check_labels, chunked
from advcore.errors import ConfigError, NonFiniteError
from advcore.objectives.base import ascent
from advcore.objectives.standard import Pgd
from advcore.rng import Stream, preserved

_Z = 1.959963984540054  # 97.5 % quantile of the standard normal


@dataclass(frozen=True)
class Accuracy:
    """A share of n examples with its 95 % Wilson interval (low, high)."""

    accuracy: float
    n: int
    interval: tuple[float, float]


@dataclass(frozen=True)
class Evaluation:
    """Clean accuracy, and one entry an attack: how the number was made, then accuracy, n and interval."""

    clean: Accuracy
    attacks: tuple[dict, ...]

    def as_dict(self) -> dict:
        return {"clean": {**asdict(self.clean), "interval": list(self.clean.interval)}, "attacks": list(self.attacks)}


def wilson(correct: int, n: int) -> Accuracy:
    """Accuracy `correct / n` with its 95 % score interval. Reference: Wilson 1927; Brown, Cai, DasGupta 2001, eq. 4."""
    share, z2 = correct / n, _Z**2 / n
    centre = (share + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * math.sqrt(share * (1 - share) / n + z2 / (4 * n))
    return Accuracy(share, n, (max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))))


def evaluate(
    model: nn.Module,
    dataset: Dataset | Source,
    attacks: Sequence[Attack] = (),
    *,
    seed: int = 0,
    split: str = "test",
    batch_size: int = 256,
    indices: Tensor | None = None,
    ledger: CostLedger | None = None,
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Clean accuracy and robust accuracy under each attack, in eval mode.

    An example is robust only if it is classified right at the clean image and at every iterate of every restart.
    Examples already misclassified are not stepped further, so more steps (of one size) and more restarts never
    help the defence.

    Parameters
    ----------
    model : borrowed; comes back as it was, and so does the global random state.
    dataset : map-style (x, y), x (C, H, W) in [0, 1] or uint8.
    attacks : evaluated each on its own, climbing the cross-entropy unless they ask for another loss.
    split : what `dataset` is, for the record.
    indices : (n,) long, which examples; None for all.

    Raises ConfigError for a training-only attack, DataError for bad images or labels. Cost: one forward pass an
    example, then each attack's passes on the examples still right, per restart.
    """
    unfit = [type(attack).__name__ for attack in attacks if attack.training_only]
    if unfit:
        raise ConfigError(f"evaluation.attacks must stay in their ball, got {unfit[0]}, which is for training only")
    source = as_source(dataset, device_of(model))
    ledger = ledger or CostLedger()
    indices = torch.arange(len(source)) if indices is None else indices
    n = len(indices)
    right, robust = 0, [0] * len(attacks)
    chunks, done = chunked(indices, batch_size), 0
    with (
        preserved(Stream(seed=seed, purpose="model")),
        borrow(model, training=False),
        ledger.phase("evaluation", source.device),
    ):
        forward = ledger.counted(model)
        for batch, x, y in batches_for(model, source, chunks):
            correct = _correct(forward(x), y, batch)
            right += int(correct.sum())
            for i, attack in enumerate(attacks):
                stream = Stream(seed=seed, purpose="evaluation").child(i).at(batch)
                robust[i] += int(still_right(forward, attack, x, y, correct, stream).sum())
            done += len(y)
            on_chunk(done, n)
    entries = tuple(
        {"name": attack_name(attack), **attack.describe(), "seed": seed, "split": split, **_entry(wilson(count, n))}
        for attack, count in zip(attacks, robust, strict=True)
    )
    return Evaluation(clean=wilson(right, n), attacks=entries)


def still_right(
    forward: Callable[[Tensor], Tensor], attack: Attack, x: Tensor, y: Tensor, correct: Tensor, stream: Stream
) -> Tensor:
    """(B,) bool: which of the `correct` examples no iterate of no restart misclassifies.

    Restarts run one by one on the examples that are left; a misclassified one stands still, because its loss
    is held at 0.
    """
    alive = correct.clone()
    restarts = getattr(attack, "restarts", 1)
    once = replace(attack, restarts=1) if restarts > 1 else attack
    for restart in range(restarts):
        left = alive.nonzero()[:, 0]
        if not len(left):
            break
        watch = _Watch(forward, attack, y[left])
        x_adv = once(watch, x[left], generator=stream.take(left).child("try", restart))
        with torch.no_grad():
            watch(x_adv)
        alive[left] = ~watch.fooled
    return alive


class _Watch:
    """The loss an attack climbs, noting which examples were misclassified at any point it was asked for."""

    def __init__(self, forward: Callable[[Tensor], Tensor], attack: Attack, y: Tensor):
        self._forward, self._y = forward, y
        self._loss = ascent(Pgd(), attack.climbs, y, None)
        self.fooled = torch.zeros(len(y), dtype=torch.bool, device=y.device)

    def __call__(self, x_adv: Tensor) -> Tensor:
        logits = self._forward(x_adv)
        found = logits.detach()
        self.fooled |= (found.argmax(1) != self._y) | ~torch.isfinite(found).all(1)  # NaN is no answer
        return self._loss(logits).masked_fill(self.fooled, 0)


def _correct(logits: Tensor, y: Tensor, indices: Tensor) -> Tensor:
    check_labels(y, indices, logits.shape[1])
    if not bool(torch.isfinite(F.log_softmax(logits, 1)).all()):
        raise NonFiniteError("the model's logits are NaN or infinite; there is no accuracy to report")
    return logits.detach().argmax(1) == y


def attack_name(attack: Attack) -> str:
    """Its name in the table, or its class's for one that is not in it."""
    return next((name for name, known in ATTACKS.items() if type(attack) is known), type(attack).__name__)


def _entry(accuracy: Accuracy) -> dict:
    return {"n": accuracy.n, "accuracy": accuracy.accuracy, "interval": list(accuracy.interval)}
