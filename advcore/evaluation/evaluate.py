"""evaluate(): clean accuracy, and robust accuracy in the worst case under each attack.

An example is robust only if it is classified right at the clean image and at every iterate of every restart (where an
attack leaves its ball on the way, at the point that it returns; PPGD and LPA stop moving an image that they have
fooled). Misclassified examples are not stepped further, so more steps (of one size) and more restarts never help the
defence. AutoAttack may see only some of the examples (`AutoAttack.examples`); then there are also the accuracies on the
examples that all attacks saw.

Several processes (torch.distributed) share the batches, and all return the same result; each example counts once. All
must evaluate the same model. When memory runs out, a batch is split in halves, down to 16 examples; AutoAttack's draws
depend on the size of its batch.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.attacks import ATTACKS
from advcore.attacks.base import Attack
from advcore.cost import CostLedger
from advcore.data.checks import Indices, check_fits, count_logits, read_indices
from advcore.data.contract import MapStyle, cut_into_chunks, read_batches
from advcore.data.source import Source, as_source
from advcore.errors import ConfigError, check_at_least, must, require
from advcore.evaluation.autoattack import AutoAttack, Lineup
from advcore.evaluation.comparisons import flag_comparisons, flag_faults
from advcore.evaluation.intervals import Accuracy
from advcore.evaluation.look import look_at_model
from advcore.evaluation.result import Evaluation
from advcore.evaluation.resume import PieceResult, SavedVerdicts, concatenate, count_passes, hash_evaluation
from advcore.evaluation.shared import SeenImages, choose_seen
from advcore.evaluation.worst_case import classify_clean, find_robust, find_robust_by_part
from advcore.kinds import accept_arguments
from advcore.rng import Stream, preserve_random_state
from advcore.runtime.borrow import find_device, record_gradients
from advcore.runtime.out_of_memory import explain_out_of_memory
from advcore.runtime.watch import GradientWatch
from advcore.sweep import Measure, Sweep, start_sweep
from advcore.types import Facts, find_name

# What an evaluation may run.
EVALUATED = ATTACKS | {"autoattack": AutoAttack}
# What the field calls those that are not attacks, to their names here (`errors.suggest_nearest`).
ALIASES = {
    "aa": "autoattack",
    "apgd": "autoattack with version: apgd-ce",
    "apgdce": "autoattack with version: apgd-ce",
    "apgddlr": "autoattack with version: apgd-dlr",
    "square": "autoattack with version: square",
    "fab": "autoattack",
}


@accept_arguments
@record_gradients
def evaluate(
    model: nn.Module,
    dataset: MapStyle | Source,
    attacks: Sequence[Attack | AutoAttack] = (),
    *,
    seed: int = 0,
    split: str = "test",
    batch_size: int = 256,
    indices: Indices | None = None,
    checks: bool = False,
    keep_examples: bool = False,
    state: Path | None = None,
    ledger: CostLedger | None = None,
    on_chunk: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Measure clean accuracy, and robust accuracy under each attack, in eval mode, as this module says.

    Parameters
    ----------
    model : borrowed; it is restored afterwards, and so is the global random state.
    dataset : map-style (x, y), x (C, H, W) in [0, 1] or uint8.
    attacks : each is evaluated separately, climbing the cross-entropy unless it asks for another loss; or `AutoAttack`.
    split : which split `dataset` is, for the record.
    indices : (n,) whole numbers, the examples to evaluate, or a mask (N,) of them; None for all.
    checks : look for signs that the numbers are untrustworthy (`checks.py`). Flagged in any case are gradients that are
        missing or underflow in float16, and an AutoAttack with too few classes to run all of its attacks.
    keep_examples : also return the adversarial examples.
    state : a file (.npz) of the verdicts so far, brought up to date after every batch; an evaluation that was stopped
        resumes from it. Refused for another model, data, attack or seed.
    on_chunk : called after each batch with the number of examples done and the total.

    Raises ConfigError for a training-only attack, DataError for bad images or labels, NoMemoryError.
    Cost: one forward pass per example, then each attack's passes on the examples still right, per restart.
    """
    _refuse_unfit(attacks, batch_size)
    source = as_source(dataset, find_device(model))
    seen = choose_seen(attacks, source, read_indices(indices, len(source)))
    task = _Task(attacks=attacks, seen=seen, seed=seed, split=split, keep_examples=keep_examples)
    with start_sweep(model, source, ledger or CostLedger(), chunk_size=batch_size) as sweep:
        return _evaluate(sweep, task, state=state, checks=checks, on_chunk=on_chunk)


def _refuse_unfit(attacks: Sequence[Attack | AutoAttack], batch_size: int) -> None:
    """Raise ConfigError for attacks that may leave their ball, or that start where they ended in training.

    So too for a batch without examples.
    """
    require(check_at_least("batch_size", batch_size, 1))
    unfit = [type(attack).__name__ for attack in attacks if attack.training_only]
    if unfit:
        raise ConfigError(f"evaluation.attacks must stay in their ball, got {unfit[0]}, which is for training only")
    for attack in attacks:
        if getattr(attack, "remembers", False):
            got = getattr(attack, "start", type(attack).__name__)
            raise ConfigError(must("evaluation.attacks.start", "uniform, gaussian or clean", got))


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What is evaluated: attacks, each separately, on some of a source's examples; and a watch for each attack.

    seen : these examples, and which of them each attack sees.
    """

    attacks: Sequence[Attack | AutoAttack]
    seen: SeenImages
    seed: int
    split: str
    keep_examples: bool
    watches: dict[int, GradientWatch] = field(default_factory=partial(defaultdict, GradientWatch))

    @property
    def indices(self) -> Tensor:
        """The examples (n,) to evaluate."""
        return self.seen.indices


def _evaluate(
    sweep: Sweep, task: _Task, *, state: Path | None, checks: bool, on_chunk: Callable[[int, int], None]
) -> Evaluation:
    adapted = [  # for AutoAttack, what runs of it for the model's number of classes
        attack.choose_lineup(count_logits(sweep.model, sweep.source)) if isinstance(attack, AutoAttack) else attack
        for attack in task.attacks
    ]
    descriptions = [
        {"name": attack_name(attack), **fitting.describe(), "seed": task.seed, "split": task.split}
        for attack, fitting in zip(task.attacks, adapted, strict=True)
    ]
    part_keys = [f"{i}.{part}" for i, facts in enumerate(descriptions) for part in facts.get("parts", ())]
    saved = _open_verdicts(sweep, task, part_keys, state)
    with (
        preserve_random_state(Stream(seed=task.seed, purpose="model")),
        sweep.ledger.phase("evaluation", sweep.source.device),
    ):
        is_judged = len(saved) == len(task.indices)
        examples = _judge_remaining(sweep, task, saved, on_chunk)
        look = partial(look_at_model, sweep, task.indices, descriptions, saved.verdicts, in_full=checks)
        flags = distributed.run_on_first(look) if checks or not is_judged else []

    accuracies = {key: task.seen.measure(key, verdict) for key, verdict in saved.verdicts.items()}
    entries = tuple(_make_entry(i, description, accuracies) for i, description in enumerate(descriptions))
    if checks:
        flags += map(str, flag_comparisons(entries))
    reduced = chain.from_iterable(lineup.flag_reduction() for lineup in adapted if isinstance(lineup, Lineup))
    return Evaluation(
        clean=accuracies["clean"],
        attacks=entries,
        worst=task.seen.measure_worst(saved.verdicts) if task.attacks else None,
        shared=task.seen.measure_shared(saved.verdicts, len(task.attacks)),
        flags=(*map(str, chain(reduced, flag_faults(entries, saved.faults))), *flags),
        verdicts=saved.verdicts,
        examples=examples,
    )


def _make_entry(position: int, description: Facts, accuracies: dict[str, Accuracy]) -> Facts:
    """Return what a record says of an attack; of one with parts also the accuracy that is left after each of them."""
    entry = description | accuracies[str(position)].as_dict()
    if "parts" in description:
        entry["after"] = {part: accuracies[f"{position}.{part}"].accuracy for part in description["parts"]}
    return entry


def _open_verdicts(sweep: Sweep, task: _Task, part_keys: Sequence[str], path: Path | None) -> SavedVerdicts:
    """Open the verdicts so far, and count the passes that they took."""
    keys = ["clean", *map(str, range(len(task.attacks))), *part_keys]
    settings = (task.seed, sweep.chunk_size, *part_keys)
    identity = partial(hash_evaluation, sweep.model, sweep.source, task.indices, task.attacks, settings)
    saved = SavedVerdicts(path, keys, identity)
    saved.book_passes(sweep.ledger)
    if task.keep_examples and len(saved):
        raise ConfigError("keep_examples needs all batches, but some are already in the state file; use a new one")
    return saved


def _judge_remaining(
    sweep: Sweep, task: _Task, saved: SavedVerdicts, on_chunk: Callable[[int, int], None]
) -> dict[str, Tensor]:
    """Judge the examples that have no verdict yet, all processes together, and save the verdicts batch by batch.

    Returns the adversarial examples (n, C, H, W) of each attack by its position, on the CPU, if the task keeps them.
    """
    judge = _bind_judge(sweep, task)
    way_out = "lower evaluation.batch_size, or use a smaller model"
    remaining = task.indices[len(saved) :]
    examples: list[dict[str, Tensor]] = []
    if len(remaining):
        with distributed.fail_together():
            check_fits(sweep.model, sweep.source, labels=False)
        for pieces in sweep.run(remaining, judge, guard=partial(explain_out_of_memory, "in an evaluation", way_out)):
            saved.add(pieces, [task.watches[i].find_fault() for i in range(len(task.attacks))])
            for _, _, images in pieces:
                examples.append({key: x_adv.cpu() for key, x_adv in images.items()})
            on_chunk(len(saved), len(task.indices))
    saved.share()
    return distributed.run_on_first(partial(concatenate, examples))


def _bind_judge(sweep: Sweep, task: _Task) -> Measure[PieceResult]:
    attacks = [sweep.bind(attack) for attack in task.attacks]
    root = Stream(seed=task.seed, purpose="evaluation")

    def judge(indices: Tensor, x: Tensor, y: Tensor) -> PieceResult:
        passes_before = count_passes(sweep.ledger)
        correct = classify_clean(sweep.forward(x), y, indices)
        verdicts = {"clean": correct}
        examples = {}
        for i, attack in enumerate(attacks):
            stream = root.child(i).at(indices)
            watch = task.watches[i]
            attacked = task.seen.pick(i, indices, correct)
            robust, x_adv, after = find_robust_by_part(
                watch.watch(sweep.forward), attack, x, y=y, correct=attacked, stream=stream
            )
            watch.end_batch(robust)
            unseen = correct & ~attacked  # no attack tried them, and no accuracy under this one counts them
            verdicts[str(i)] = robust | unseen
            verdicts |= {f"{i}.{part}": right | unseen for part, right in after.items()}
            if task.keep_examples:
                examples[str(i)] = x_adv
        return count_passes(sweep.ledger) - passes_before, verdicts, examples

    return judge


@accept_arguments
@record_gradients
def smallest_radius(
    model: nn.Module,
    source: MapStyle | Source,
    attack: Attack,
    indices: Indices,
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
    require(check_at_least("parts", parts, 1), check_at_least("batch_size", batch_size, 1))
    source = as_source(source, find_device(model))
    check_fits(model, source, labels=False)
    radii = []
    with (
        start_sweep(model, source, ledger, chunk_size=batch_size) as sweep,
        ledger.phase("evaluation", source.device),
    ):
        attack = sweep.bind(attack.probe())
        chunks = cut_into_chunks(read_indices(indices, source.index_count), batch_size)
        for batch, x, y in read_batches(model, source, chunks):
            with torch.no_grad():
                robust = classify_clean(sweep.forward(x), y, batch)
            radius = torch.where(robust, float("inf"), 0.0).double()
            for part in range(1, parts + 1):
                smaller = attack.scale(part / parts)
                stands, _ = find_robust(sweep.forward, smaller, x, y=y, correct=robust, stream=stream.at(batch))
                radius[robust & ~stands] = attack.eps * part / parts
                robust = stands
            radii.append(radius.cpu())
    return torch.cat(radii)


def attack_name(attack: Attack | AutoAttack) -> str:
    """Return the attack's name in the table, or that of its class if it is not there."""
    return find_name(EVALUATED, attack)
