"""evaluate(): clean accuracy, and robust accuracy in the worst case under each attack."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import bind_attack
from advcore.attacks import ATTACKS
from advcore.attacks.base import Attack
from advcore.cost import CostLedger
from advcore.data.compatibility import check_fits, class_count
from advcore.data.contract import MapStyle, batches_for, chunked
from advcore.data.source import Source, as_source
from advcore.errors import ConfigError, must
from advcore.evaluation.autoattack import AutoAttack
from advcore.evaluation.checks import IMAGES, flag_model, flag_order, flag_weak_settings
from advcore.evaluation.intervals import Accuracy, wilson
from advcore.evaluation.resume import BatchResult, SavedVerdicts, concatenate, count_passes, hash_evaluation
from advcore.evaluation.worst_case import classify_clean, find_robust
from advcore.rng import Stream, preserve_random_state
from advcore.runtime.borrow import borrow, find_device
from advcore.runtime.out_of_memory import Pieces, explain_out_of_memory
from advcore.types import find_name

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


@dataclass(frozen=True)
class Evaluation:
    """The accuracies of a model, and what makes them untrustworthy.

    clean : accuracy without attack.
    attacks : one entry per attack: how the number was obtained, then accuracy, n and interval.
    worst : accuracy where an example counts only if it is right under every attack; None without attacks.
    flags : what makes the numbers untrustworthy, one line each.
    verdicts : (n,) bool, whether each example is right: "clean", and under each attack by its position ("0", "1", ...).
    examples : (n, C, H, W) for each attack by its position, if they were asked for: where the attack found an example
        misclassified, else where it ended.
    """

    clean: Accuracy
    attacks: tuple[dict, ...]
    worst: Accuracy | None = None
    flags: tuple[str, ...] = ()
    verdicts: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    examples: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def as_dict(self) -> dict[str, object]:
        """Return the evaluation as a record holds it, without verdicts and examples."""
        worst = {"worst": self.worst.as_dict()} if self.worst else {}
        return {"clean": self.clean.as_dict(), "attacks": list(self.attacks), **worst, "flags": list(self.flags)}


def evaluate(
    model: nn.Module,
    dataset: MapStyle | Source,
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
    """Measure clean accuracy, and robust accuracy under each attack, in eval mode.

    An example is robust only if it is classified right at the clean image and at every iterate of every restart (where
    an attack leaves its ball on the way, at the point that it returns; PPGD and LPA stop moving an image that they have
    fooled). Misclassified examples are not stepped further, so more steps (of one size) and more restarts never help
    the defence.

    Parameters
    ----------
    model : borrowed; it is restored afterwards, and so is the global random state.
    dataset : map-style (x, y), x (C, H, W) in [0, 1] or uint8.
    attacks : each is evaluated by itself, climbing the cross-entropy unless it asks for another loss; or `AutoAttack`.
    split : which split `dataset` is, for the record.
    indices : (n,) long, the examples to evaluate; None for all.
    checks : look for signs that the numbers are untrustworthy (`checks.py`). An AutoAttack that cannot run all of its
        attacks, because there are too few classes, is flagged in any case.
    keep_examples : also return the adversarial examples.
    state : a file (.npz) of the verdicts so far, brought up to date after every batch; an evaluation that was stopped
        resumes from it. Refused for another model, data, attack or seed.
    on_chunk : called after each batch with the number of examples done and the total.

    Several processes (torch.distributed) share the batches, and all return the same result; each example counts once.
    All must call this with the same model.

    When memory runs out, a batch is split in halves, down to 16 examples; AutoAttack's draws depend on the size of its
    batch. Raises ConfigError for a training-only attack, DataError for bad images or labels, NoMemoryError.
    Cost: one forward pass per example, then each attack's passes on the examples still right, per restart.
    """
    _refuse_unfit(attacks)
    source = as_source(dataset, find_device(model))
    attacks = _adapt_to_classes(attacks, model, source)
    descriptions = [
        {"name": attack_name(attack), **attack.describe(), "seed": seed, "split": split} for attack in attacks
    ]
    ledger = ledger or CostLedger()
    indices = torch.arange(len(source)) if indices is None else indices

    keys = ["clean", *map(str, range(len(attacks)))]
    identity = partial(hash_evaluation, model, source, indices, attacks=attacks, settings=(seed, batch_size))
    with distributed.fail_together():
        saved = SavedVerdicts(state if distributed.is_first() else None, keys, identity)
    saved.share()
    for kind, count in zip(("forward", "backward"), saved.passes.tolist(), strict=True):
        ledger.passes["evaluation"][kind] += count
    if keep_examples and len(saved):
        raise ConfigError("keep_examples needs all batches, and some are in the state file already; give a new one")

    with (
        preserve_random_state(Stream(seed=seed, purpose="model")),
        borrow(model, training=False),
        ledger.phase("evaluation", source.device),
    ):
        judge = _Judge(model, attacks, seed=seed, batch_size=batch_size, ledger=ledger, keep_examples=keep_examples)
        examples = _judge_remaining(judge, source, indices, saved=saved, batch_size=batch_size, on_chunk=on_chunk)
        flags = distributed.run_on_first(partial(_check_model, judge, source, indices, descriptions)) if checks else []

    accuracies = {key: wilson(int(verdict.sum()), len(indices)) for key, verdict in saved.verdicts.items()}
    entries = tuple(description | accuracies[str(i)].as_dict() for i, description in enumerate(descriptions))
    if checks:
        flags = [*flags, *flag_weak_settings(entries), *flag_order(entries)]
    reduced = chain.from_iterable(attack.flags() for attack in attacks if isinstance(attack, AutoAttack))
    worst = torch.stack(list(saved.verdicts.values())).all(0)
    return Evaluation(
        clean=accuracies["clean"],
        attacks=entries,
        worst=wilson(int(worst.sum()), len(indices)) if attacks else None,
        flags=(*reduced, *flags),
        verdicts=saved.verdicts,
        examples=examples,
    )


def _refuse_unfit(attacks: Sequence[Attack | AutoAttack]) -> None:
    """Raise ConfigError for attacks that may leave their ball, or that start where they ended in training."""
    unfit = [type(attack).__name__ for attack in attacks if attack.training_only]
    if unfit:
        raise ConfigError(f"evaluation.attacks must stay in their ball, got {unfit[0]}, which is for training only")
    if any(getattr(attack, "remembers", False) for attack in attacks):
        raise ConfigError(must("evaluation.attacks.start", "uniform, gaussian or clean", "remembered"))


def _adapt_to_classes(
    attacks: Sequence[Attack | AutoAttack], model: nn.Module, source: Source
) -> list[Attack | AutoAttack]:
    """Return the attacks, each AutoAttack as it runs for the model's number of classes."""
    if not any(isinstance(attack, AutoAttack) for attack in attacks):
        return list(attacks)
    classes = class_count(model, source)
    return [attack.for_classes(classes) if isinstance(attack, AutoAttack) else attack for attack in attacks]


class _Judge:
    """Judges batches of examples at the clean image and under each attack, and counts the passes in the ledger."""

    def __init__(
        self,
        model: nn.Module,
        attacks: Sequence[Attack | AutoAttack],
        *,
        seed: int,
        batch_size: int,
        ledger: CostLedger,
        keep_examples: bool,
    ):
        self.model = model
        self.forward = ledger.count_passes(model)
        self._attacks = [bind_attack(attack, model, ledger.count_passes) for attack in attacks]
        self._stream = Stream(seed=seed, purpose="evaluation")
        self._pieces = Pieces(batch_size)
        self._ledger = ledger
        self._keep_examples = keep_examples

    def judge_batch(self, indices: Tensor, x: Tensor, y: Tensor) -> BatchResult:
        """Judge a batch, in pieces that fit into memory."""
        with explain_out_of_memory("in an evaluation", "lower evaluation.batch_size, or use a smaller model"):
            results = self._pieces.run(len(x), partial(self._judge_piece, indices, x, y))
        return BatchResult.join(results)

    def _judge_piece(self, indices: Tensor, x: Tensor, y: Tensor, piece: slice) -> BatchResult:
        indices, x, y = (tensor[piece] for tensor in (indices, x, y))
        passes_before = count_passes(self._ledger)
        examples = {}
        with self._ledger.undo_on_error():
            correct = classify_clean(self.forward(x), y, indices)
            verdicts = {"clean": correct}
            for i, attack in enumerate(self._attacks):
                stream = self._stream.child(i).at(indices)
                verdicts[str(i)], x_adv = find_robust(self.forward, attack, x, y=y, correct=correct, stream=stream)
                if self._keep_examples:
                    examples[str(i)] = x_adv
        return BatchResult(count_passes(self._ledger) - passes_before, verdicts, examples)


def _judge_remaining(
    judge: _Judge,
    source: Source,
    indices: Tensor,
    *,
    saved: SavedVerdicts,
    batch_size: int,
    on_chunk: Callable[[int, int], None],
) -> dict[str, Tensor]:
    """Judge the examples that have no verdict yet, all processes together, and save the verdicts batch by batch.

    Returns the adversarial examples (n, C, H, W) of each attack by its position, on the CPU, if the judge keeps them.
    """
    chunks = []
    if len(saved) < len(indices):
        chunks = chunked(indices[len(saved) :], batch_size)
        check_fits(judge.model, source, labels=False)
    batches = batches_for(judge.model, source, distributed.chunks_of_process(chunks))
    results = (judge.judge_batch(*batch).to_rows() for batch in batches)
    examples: list[dict[str, Tensor]] = []
    for rows in distributed.gather_in_order(chunks, results):
        result = BatchResult.from_rows(rows, list(saved.verdicts))
        saved.add(result)
        examples.append({key: x_adv.cpu() for key, x_adv in result.examples.items()})
        on_chunk(len(saved), len(indices))
    saved.share()
    return distributed.run_on_first(partial(concatenate, examples))


def _check_model(judge: _Judge, source: Source, indices: Tensor, descriptions: Sequence[dict]) -> list[str]:
    """Look for signs of masking on a few images, in the largest linf ball of the attacks, or one of 8/255."""
    spread = indices[:: max(1, len(indices) // IMAGES)][:IMAGES]  # data may be sorted by class
    _, x, y = next(batches_for(judge.model, source, [spread]))
    radii = [description["eps"] for description in descriptions if description["norm"] == "linf"]
    return flag_model(judge.model, judge.forward, x, y, eps=max(radii, default=8 / 255))


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
    """Return (n,) float64: the radius of the smallest ball in which the attack flips each example's prediction.

    Balls grow by `parts` equal parts of the attack's. The radius is 0 for examples misclassified without attack, and
    infinite where the whole ball does not suffice.
    Cost: one forward pass per example, and the attack for each ball that is tried; in phase "evaluation".
    """
    radii = []
    with borrow(model, training=False), ledger.phase("evaluation", source.device):
        forward = ledger.count_passes(model)
        attack = bind_attack(attack.probe(), model, ledger.count_passes)
        for batch, x, y in batches_for(model, source, chunked(indices, batch_size)):
            with torch.no_grad():
                robust = classify_clean(forward(x), y, batch)
            radius = torch.where(robust, float("inf"), 0.0).double()
            for part in range(1, parts + 1):
                smaller = attack.scale(part / parts)
                stands, _ = find_robust(forward, smaller, x, y=y, correct=robust, stream=stream.at(batch))
                radius[robust & ~stands] = attack.eps * part / parts
                robust = stands
            radii.append(radius.cpu())
    return torch.cat(radii)


def attack_name(attack: Attack | AutoAttack) -> str:
    """Return the attack's name in the table, or that of its class if it is not there."""
    return find_name(EVALUATED, attack)
