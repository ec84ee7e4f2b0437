"""evaluate(): clean accuracy, and the worst case over every iterate and restart of each attack."""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from advcore import distributed
from advcore.adversary import bound
from advcore.attacks import ATTACKS
from advcore.attacks.base import Attack
from advcore.borrow import borrow, device_of
from advcore.cost import CostLedger
from advcore.data.fits import check_fits, class_count
from advcore.data.source import Source, as_source, batches_for, check_labels, chunked, content_hash
from advcore.errors import CheckpointError, ConfigError, NonFiniteError, must
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.checks import IMAGES, model_flags, order_flags, strength_flags
from advcore.files import load_npz, write_npz
from advcore.objectives.base import ascent
from advcore.objectives.standard import Pgd
from advcore.pieces import Pieces, advised
from advcore.rng import Stream, preserved
from advcore.types import name_in

EVALUATED = ATTACKS | {"autoattack": AutoAttack}
"""What an evaluation may run."""
ALIASES = {
    "aa": "autoattack",
    "apgd": "autoattack with version: apgd-ce",
    "apgdce": "autoattack with version: apgd-ce",
    "apgddlr": "autoattack with version: apgd-dlr",
    "square": "autoattack with version: square",
    "fab": "autoattack",
}
"""What the field calls those that are no attacks, to their names here (`errors.nearest`)."""

_Z = 1.959963984540054  # 97.5 % quantile of the standard normal


@dataclass(frozen=True)
class Accuracy:
    """An `accuracy`, the share of `n` examples that is right, with its 95 % Wilson `interval` (low, high)."""

    accuracy: float
    n: int
    interval: tuple[float, float]


@dataclass(frozen=True)
class Evaluation:
    """What a model is worth.

    clean : accuracy without attack. attacks : one entry an attack: how the number was made, then accuracy, n and
    interval. worst : share right under every attack at once. flags : what makes the numbers untrustworthy, one line
    each. verdicts : (n,) bool an example, "clean" and each attack by its place. examples : where an attack found an
    example misclassified, else where it ended, (n, C, H, W) an attack by its place; only if they were asked for.
    """

    clean: Accuracy
    attacks: tuple[dict, ...]
    worst: Accuracy | None = None
    flags: tuple[str, ...] = ()
    verdicts: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    examples: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def as_dict(self) -> dict:
        """Without what there is for each example."""
        worst = {} if self.worst is None else {"worst": _entry(self.worst)}
        return {"clean": _entry(self.clean), "attacks": list(self.attacks), **worst, "flags": list(self.flags)}


def wilson(correct: int, n: int) -> Accuracy:
    """Accuracy `correct / n` with its 95 % score interval. Reference: Wilson 1927; Brown, Cai, DasGupta 2001, eq. 4."""
    share, z2 = correct / n, _Z**2 / n
    centre = (share + z2 / 2) / (1 + z2)
    half = _Z / (1 + z2) * math.sqrt(share * (1 - share) / n + z2 / (4 * n))
    return Accuracy(share, n, (max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))))


def evaluate(
    model: nn.Module,
    dataset: Dataset | Source,
    attacks: Sequence[Attack | AutoAttack] = (),
    *,
    seed: int = 0,
    split: str = "test",
    batch_size: int = 256,
    indices: Tensor | None = None,
    checks: bool = False,
    keep_examples: bool = False,
    state: Path | None = None,
    ledger: CostLedger | None = None,
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Clean accuracy and robust accuracy under each attack, in eval mode.

    An example is robust only if it is classified right at the clean image and at every iterate of every restart (where
    an attack leaves its ball on the way, at what it returns; PPGD and LPA stand still where they have won). Examples
    already misclassified are not stepped further, so more steps (of one size) and more restarts never help the
    defence.

    Parameters
    ----------
    model : borrowed; comes back as it was, and so does the global random state.
    dataset : map-style (x, y), x (C, H, W) in [0, 1] or uint8.
    attacks : evaluated each on its own, climbing the cross-entropy unless they ask for another loss; or `AutoAttack`.
    split : what `dataset` is, for the record.
    indices : (n,) long, which examples; None for all.
    checks : look for what makes the numbers untrustworthy (`checks.py`). That AutoAttack had too few classes for all of
        its attacks is flagged in any case.
    keep_examples : also return the adversarial examples.
    state : a file (.npz) that holds the verdicts so far, brought up to date after every batch; an evaluation that was
        stopped goes on from it. Refused for another model, data, attack or seed.

    Several processes (torch.distributed) share the batches, and all get the same; each example counts once. All must
    call this with the same model.

    When memory runs out, a batch goes on in halves, down to 16; AutoAttack's draws depend on how many it is given.
    Raises ConfigError for a training-only attack, DataError for bad images or labels, NoMemoryError. Cost: one forward
    pass an example, then each attack's passes on the examples still right, per restart.
    """
    unfit = [type(attack).__name__ for attack in attacks if attack.training_only]
    if unfit:
        raise ConfigError(f"evaluation.attacks must stay in their ball, got {unfit[0]}, which is for training only")
    if any(getattr(attack, "remembers", False) for attack in attacks):
        raise ConfigError(must("evaluation.attacks.start", "uniform, gaussian or clean", "remembered"))
    source = as_source(dataset, device_of(model))
    attacks = _knowing_classes(attacks, model, source)
    names, told = [attack_name(attack) for attack in attacks], [attack.describe() for attack in attacks]
    ledger = ledger or CostLedger()
    indices = torch.arange(len(source)) if indices is None else indices
    n, keys = len(indices), ["clean", *map(str, range(len(attacks)))]
    mine = state if distributed.first() else None
    with distributed.together():
        saved = _Saved(mine, keys, lambda: _identity(model, source, indices, attacks, seed, batch_size))
    parts, found = distributed.by_first(lambda: dict(saved.parts)), {key: [] for key in keys[1:]}
    spent = saved.spent
    for kind, count in zip(("forward", "backward"), spent.tolist(), strict=True):
        ledger.passes["evaluation"][kind] += count
    done = len(parts["clean"])
    if keep_examples and done:
        raise ConfigError("keep_examples needs all batches, and some are in the state file already; give a new one")
    with (
        preserved(Stream(seed=seed, purpose="model")),
        borrow(model, training=False),
        ledger.phase("evaluation", source.device),
    ):
        forward = ledger.counted(model)
        attacks, pieces = [bound(attack, model, ledger.counted) for attack in attacks], Pieces(batch_size)
        chunks = chunked(indices[done:], batch_size) if done < n else []
        if chunks:
            check_fits(model, source, labels=False)

        def verdicts() -> Iterator[tuple[Tensor, ...]]:
            """Of each batch: what it took, which stand at the clean image and under each attack, then where each attack
            ended."""
            for batch, x, y in batches_for(model, source, distributed.own(chunks)):
                before = dict(ledger.passes["evaluation"])
                own = partial(_judged, ledger, forward, attacks, Stream(seed=seed, purpose="evaluation"), (batch, x, y))
                with advised("in an evaluation", "lower evaluation.batch_size, or use a smaller model"):
                    judged = pieces.over(len(x), own)
                took = [count - before[kind] for kind, count in ledger.passes["evaluation"].items()]
                told = torch.tensor([took] + [[0, 0]] * (len(y) - 1))  # a row an example, as processes exchange it
                ends = [torch.cat([ends[key] for _, ends in judged]) for key in found if keep_examples]
                yield told, *(torch.cat([right[key] for right, _ in judged]) for key in keys), *ends

        for took, *now in distributed.in_order(chunks, verdicts()):
            spent = spent + took.sum(0)
            parts = {key: torch.cat([parts[key], own.cpu()]) for key, own in zip(keys, now, strict=False)}
            for key, x_adv in zip(found, now[len(keys) :], strict=False):
                found[key].append(x_adv.cpu())
            done += len(now[0])
            saved.keep(parts, spent)
            on_chunk(done, n)
        parts = distributed.by_first(lambda: parts)
        flags = distributed.by_first(lambda: list(_looked_at(model, forward, source, indices, told)) if checks else [])
    entries = tuple(
        {"name": name, **how, "seed": seed, "split": split, **_entry(wilson(int(parts[str(i)].sum()), n))}
        for i, (name, how) in enumerate(zip(names, told, strict=True))
    )
    if checks:
        flags = (*flags, *strength_flags(told, names), *order_flags(entries))
    reduced = [flag for attack in attacks if isinstance(attack, AutoAttack) for flag in attack.flags()]
    worst = torch.stack([parts[key] for key in keys]).all(0)
    return Evaluation(
        clean=wilson(int(parts["clean"].sum()), n),
        attacks=entries,
        worst=wilson(int(worst.sum()), n) if len(keys) > 1 else None,
        flags=(*reduced, *flags),
        verdicts=parts,
        examples=distributed.by_first(lambda: {key: torch.cat(own) for key, own in found.items() if own}),
    )


def _knowing_classes(attacks: Sequence[Any], model: nn.Module, source: Source) -> list[Any]:
    """Return the attacks, AutoAttack as it runs for the model's number of classes."""
    if not any(isinstance(attack, AutoAttack) for attack in attacks):
        return list(attacks)
    classes = class_count(model, source)
    return [attack.for_classes(classes) if isinstance(attack, AutoAttack) else attack for attack in attacks]


def _judged(
    ledger: CostLedger, forward: Callable, attacks: Sequence[Any], stream: Stream, whole: tuple, i: slice
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of piece `i` of a batch (indices, x, y): which are right at the clean image and stay so under each attack, and
    where each attack ended."""
    batch, x, y = (own[i] for own in whole)
    with ledger.undone_on_error():
        correct = _correct(forward(x), y, batch)
        both = [stood(forward, attack, x, y, correct, stream.child(j).at(batch)) for j, attack in enumerate(attacks)]
    right = {"clean": correct} | {str(j): alive for j, (alive, _) in enumerate(both)}
    return right, {str(j): ends for j, (_, ends) in enumerate(both)}


def _looked_at(
    model: nn.Module, forward: Callable[[Tensor], Tensor], source: Source, indices: Tensor, told: Sequence[dict]
) -> list[str]:
    """Flags of the model, on a few of the images; masking in the largest linf ball of the attacks, or one of 8/255."""
    spread = indices[:: max(1, len(indices) // IMAGES)][:IMAGES]  # data may be sorted by class
    _, x, y = next(batches_for(model, source, [spread]))
    largest = max((one["eps"] for one in told if one["norm"] == "linf"), default=8 / 255)
    return model_flags(model, forward, x, y, largest)


def stood(
    forward: Callable[[Tensor], Tensor], attack: Any, x: Tensor, y: Tensor, correct: Tensor, stream: Stream
) -> tuple[Tensor, Tensor]:
    """(B,) bool: which of the `correct` examples the attack leaves right; and (B, C, H, W), where it found the others
    wrong, and where it ended for those.

    Restarts run one by one on the examples that are left; a misclassified one stands still, because its loss
    is held at 0.
    """
    alive, ends = correct.clone(), x.clone()
    once = attack.changed(restarts=1) if attack.restarts > 1 else attack
    for restart in range(attack.restarts):
        left = alive.nonzero()[:, 0]
        if not len(left):
            break
        own = stream.take(left).child("try", restart)
        if isinstance(attack, AutoAttack):
            x_adv = attack.adversarial(forward, x[left], y[left], own)
            watch = _Watch(forward, "own", y[left])
        else:
            watch = _Watch(forward, attack.climbs, y[left], everywhere=not attack.probes_outside)
            x_adv = once(watch, x[left], generator=own)
        with torch.no_grad():
            watch.last(x_adv)
        alive[left] = ~watch.fooled
        ends[left] = watch.ends(x_adv).to(ends)
    return alive, ends


def smallest_radius(
    model: nn.Module,
    source: Source,
    attack: Attack,
    indices: Tensor,
    *,
    stream: Stream,
    ledger: CostLedger,
    parts: int = 8,
    batch_size: int = 256,
) -> Tensor:
    """(n,) float64: the radius of the smallest ball, by `parts` equal parts of the attack's, in which it flips the
    prediction; 0 for examples misclassified already, infinity where it does not.

    Cost: one forward pass an example, and the attack for each ball that is tried; in phase "evaluation".
    """
    found = []
    with borrow(model, training=False), ledger.phase("evaluation", source.device):
        forward = ledger.counted(model)
        attack = bound(attack.probe(), model, ledger.counted)
        for batch, x, y in batches_for(model, source, chunked(indices, batch_size)):
            with torch.no_grad():
                alive = _correct(forward(x), y, batch)
            radius = torch.where(alive, float("inf"), 0.0).double()
            for part in range(1, parts + 1):
                stands, _ = stood(forward, attack.scaled(part / parts), x, y, alive, stream.at(batch))
                radius[alive & ~stands] = attack.eps * part / parts
                alive = stands
            found.append(radius.cpu())
    return torch.cat(found)


class _Watch:
    """The loss an attack climbs, noting which examples were misclassified at a point it was asked for, and where.

    everywhere : whether every point counts; else only `last` does.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], climbs: str, y: Tensor, *, everywhere: bool = True):
        self._forward, self._y, self._everywhere = forward, y, everywhere
        self._loss = ascent(Pgd(), climbs, y, None)
        self.fooled = torch.zeros(len(y), dtype=torch.bool, device=y.device)
        self._where: Tensor | None = None

    def __call__(self, x_adv: Tensor) -> Tensor:
        logits = self._forward(x_adv)
        if not self._everywhere:
            return self._loss(logits)
        self._note(x_adv, logits)
        return self._loss(logits).masked_fill(self.fooled, 0)

    def last(self, x_adv: Tensor) -> None:
        """Where the attack ended."""
        self._note(x_adv, self._forward(x_adv))

    def ends(self, x_adv: Tensor) -> Tensor:
        """Where each was first misclassified, or `x_adv`."""
        return torch.where(self.fooled.view(-1, *[1] * (x_adv.ndim - 1)), self._where, x_adv)

    def _note(self, x_adv: Tensor, logits: Tensor) -> None:
        found, x_adv = logits.detach(), x_adv.detach()
        wrong = (found.argmax(1) != self._y) | ~torch.isfinite(found).all(1)  # NaN is no answer
        anew = (wrong & ~self.fooled).view(-1, *[1] * (x_adv.ndim - 1))
        self._where = torch.where(anew, x_adv, x_adv if self._where is None else self._where)
        self.fooled |= wrong


class _Saved:
    """Verdicts so far, and the forward and backward passes that they took, in one file that tells whose they are."""

    def __init__(self, path: Path | None, keys: list[str], identity: Callable[[], str]):
        self._path, self.parts = path, {key: torch.zeros(0, dtype=torch.bool) for key in keys}
        self.spent = torch.zeros(2, dtype=torch.long)
        if path is None:
            return
        self._identity = identity()
        if path.exists():
            try:
                arrays = load_npz(path)
            except CheckpointError as error:
                raise CheckpointError(f"{error}; remove it, or give another file") from None
            if str(arrays.get("identity")) != self._identity:
                raise CheckpointError(
                    f"{path} holds the verdicts of another evaluation (model, data, attacks or seed); give another file"
                )
            sizes = {arrays[key].shape for key in keys if key in arrays and arrays[key].dtype == bool}
            if not {*keys, "spent"} <= arrays.keys() or len(sizes) != 1 or arrays["spent"].shape != (2,):
                raise CheckpointError(f"{path} is damaged: it does not hold the verdicts that its name tells of")
            self.parts = {key: torch.from_numpy(arrays[key]) for key in keys}
            self.spent = torch.from_numpy(arrays["spent"])

    def keep(self, parts: dict[str, Tensor], spent: Tensor) -> None:
        if self._path is not None:
            arrays = {key: own.numpy() for key, own in (parts | {"spent": spent}).items()}
            write_npz(self._path, {**arrays, "identity": np.array(self._identity)})


def _identity(model: nn.Module, source: Source, indices: Tensor, attacks: Sequence[Any], *facts: Any) -> str:
    """A hash of all that the verdicts depend on."""
    digest = hashlib.sha256(repr((content_hash(source), list(attacks), facts)).encode())
    networks = [model, *(net for net in (getattr(attack, "_external", None) for attack in attacks) if net is not None)]
    for name, value in (pair for net in networks for pair in sorted(net.state_dict().items())):
        digest.update(name.encode() + value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    digest.update(indices.cpu().numpy().tobytes())
    return digest.hexdigest()


def _correct(logits: Tensor, y: Tensor, indices: Tensor) -> Tensor:
    check_labels(y, indices, logits.shape[1])
    if not bool(torch.isfinite(F.log_softmax(logits, 1)).all()):
        raise NonFiniteError("the model's logits are NaN or infinite; there is no accuracy to report")
    return logits.detach().argmax(1) == y


def attack_name(attack: Attack) -> str:
    """Its name in the table, or its class's for one that is not in it."""
    return name_in(EVALUATED, attack)


def _entry(accuracy: Accuracy) -> dict:
    return {"n": accuracy.n, "accuracy": accuracy.accuracy, "interval": list(accuracy.interval)}
