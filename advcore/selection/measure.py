"""Rows of one selection: where they are stored, how they are measured, and samples of them under the full attack."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.attacks.base import Attack
from advcore.cost import CostLedger
from advcore.data.checks import check_fits, check_labels
from advcore.data.source import Part, Source
from advcore.errors import ConfigError, DataError, must
from advcore.gradients import GRADIENTS
from advcore.gradients.base import Measurement, MeasurementSettings
from advcore.objectives.base import is_attacked
from advcore.rng import Stream
from advcore.rows import DenseRows, FactoredRows, Rows, find_first_not_finite
from advcore.rows.on_disk import find_temporary_folder
from advcore.selection.duration import settle_minutes
from advcore.selection.memory import estimate_for, has_large_rows, settle
from advcore.selection.quality import Sample
from advcore.selection.rows_from import find_catch
from advcore.selection.solve import Solution
from advcore.solvers.base import find_scores_file
from advcore.types import Event, Facts

if TYPE_CHECKING:
    from advcore.selection.coreset import AdversarialCoreset

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Call:
    """What one call of `AdversarialCoreset.select` is given.

    source, validation : data, on the model's device. ledger : counts this call alone. model, seed, epoch, on_chunk : as
    in `select`.
    """

    model: nn.Module
    source: Source
    validation: Source | None
    seed: int
    epoch: int
    ledger: CostLedger = field(default_factory=CostLedger)
    on_chunk: Callable[[int, int], None]

    def stream(self, purpose: str, *, fixed: bool = False) -> Stream:
        """Return random numbers of this selection; `fixed` ones are the same at every selection of a run."""
        return Stream(seed=self.seed, purpose=purpose, epoch=0 if fixed else self.epoch)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The rows of all examples, those of the validation examples where these are the target, and what fell back."""

    examples: Measurement
    goal: Measurement
    events: tuple[Event, ...]


def measure(selector: "AdversarialCoreset", call: Call, rows: Rows | None) -> Measured:
    """Measure the rows of a selection.

    rows : of all examples, if they were measured earlier. Raises ConfigError without them for a selector whose rows are
    caught in training.
    """
    if rows is None and find_catch(selector) is not None:
        rule = "given for rows_from: training"
        raise ConfigError(must("rows", rule, None, "use Trainer or `advcore run`, or rows_from: attack"))
    folder, events = place_rows(selector, call, is_measured=rows is None or selector.target != "train")
    goal = Measurement(rows=None, labels=None)
    if rows is None:
        examples = _measure_rows(selector, call, call.source, purpose="selection", folder=folder)
    else:
        examples = Measurement(rows=rows, labels=_list_labels(call.source))
    if selector.target != "train" and call.validation is not None:
        unseen = replace(selector, attack=_forget_memory(selector.attack))
        goal = _measure_rows(unseen, call, call.validation, purpose="validation", folder=folder)
    return Measured(examples=examples, goal=goal, events=(*events, *examples.events, *goal.events))


def refuse_too_large(selector: "AdversarialCoreset", model: nn.Module, source: Source) -> None:
    """Raise ConfigError for selections beyond `max_minutes` or `memory_limit`, before anything is trained."""
    if selector.max_minutes is None and selector.memory_limit is None:
        return
    estimate = estimate_for(selector, model, source, held_out=0)
    if estimate is None:
        return
    settle_minutes(estimate.work, selector.max_minutes, source.device)
    if selector.memory_limit is not None:
        settle(estimate, selector.memory_limit, source.device)


def _forget_memory(attack: Attack | None) -> Attack | None:
    """Return the attack without perturbations that training remembers, for examples that training has not seen."""
    if attack is None or not getattr(attack, "remembers", False):
        return attack
    return attack.with_memory(None)


def place_rows(
    selector: "AdversarialCoreset", call: Call, *, is_measured: bool
) -> tuple[Path | None, tuple[Event, ...]]:
    """Return the folder for a selection's rows, None if they fit in memory, and the events that say so.

    is_measured : whether rows are measured, and so have to be placed. An event also says where solving will take long.
    """
    device = call.source.device
    held_out = 0 if call.validation is None else len(call.validation)
    events: tuple[Event, ...] = ()
    with distributed.fail_together():
        estimate = estimate_for(selector, call.model, call.source, held_out)
        if estimate is not None:
            events = settle_minutes(estimate.work, selector.max_minutes, device)
    for event in events:
        log.warning("selection at epoch %d: %s", call.epoch, event)
    if estimate is None or not is_measured:
        return None, events
    saved = distributed.run_on_first(lambda: list(map(vars, settle(estimate, selector.memory_limit, device)[1])))
    spilled = tuple(map(Event.load, saved))
    return find_temporary_folder() if spilled else None, (*events, *spilled)


def _measure_rows(
    selector: "AdversarialCoreset", call: Call, data: Source, *, purpose: str, folder: Path | None
) -> Measurement:
    """Measure the rows that the solver reads, and all labels; nothing is attacked for a solver that reads nothing.

    purpose : names the attack's random numbers. folder : where the rows go; None: to memory.
    """
    reads = selector.solver.reads
    if reads is None:
        return Measurement(rows=DenseRows(matrix=torch.zeros(len(data), 0)), labels=_list_labels(data))
    with distributed.fail_together():
        check_fits(call.model, data, labels=False)
    gradient = GRADIENTS[reads]
    if gradient.is_collected or find_scores_file(selector.solver):
        raise ConfigError(
            f"{type(selector.solver).__name__} reads {reads} scores, averaged over a training run; pass "
            "rows=AveragedScores(...).rows (advcore.gradients.base) or Scores.load(...).rows(...) "
            "(advcore.selection.scores), or use Trainer or `advcore run`"
        )
    settings = MeasurementSettings(
        objective=selector.objective,
        attack=selector.attack,
        stream=call.stream(purpose),
        ledger=call.ledger,
        kind=selector.rows,
        head=selector.head,
        attack_mode=selector.attack_mode,
        chunk_size=selector.chunk_size,
        folder=folder,
        on_chunk=call.on_chunk,
    )
    return gradient.measure(call.model, data, settings)


def sample_in_full(selector: "AdversarialCoreset", call: Call, solution: Solution, rows: Rows | None) -> Sample | None:
    """Attack a sample of the coreset and of the other examples in full; passes count as evaluation.

    rows : those of the selection. Return None where its attack is not cheaper than the full one and its rows are those
    of the model as it is, where rows are not gradients or the solver reads none, and in processes that have no rows.
    """
    size = selector.full_examples
    if not size or not _differs_in_full(selector) or not has_large_rows(selector) or isinstance(rows, DenseRows):
        return None
    k = len(solution.indices)
    is_outside = torch.ones(len(call.source), dtype=torch.bool)
    is_outside[solution.indices] = False
    outside = is_outside.nonzero()[:, 0]
    from_coreset = min(k, max(size // 2, size - len(outside)))  # half, or what the others leave room for
    stream = call.stream("full")
    chosen = stream.child("chosen").at(torch.arange(k)).permutation()[:from_coreset]
    rest = outside[stream.child("rest").at(outside).permutation()[: size - from_coreset]]
    part = Part(call.source, torch.cat([solution.indices[chosen], rest]))
    counted_apart = replace(call, ledger=CostLedger())
    in_full = replace(selector, attack=selector.full_attack or selector.attack)
    measured = _measure_rows(in_full, counted_apart, part, purpose="full", folder=None)
    call.ledger.add(counted_apart.ledger, under="evaluation")
    if not isinstance(measured.rows, FactoredRows) or rows is None:
        return None
    return Sample(chosen, rest, measured.rows.move_to(rows.device))


def _differs_in_full(selector: "AdversarialCoreset") -> bool:
    """Return whether rows under the full attack, of the model as it is, are others than those of the selection."""
    if selector.rows_from == "training":
        return True
    full = selector.full_attack
    if full is None or selector.attack is None or not is_attacked(selector.objective):
        return False
    return sum(full.passes()) > sum(selector.attack.passes())


def count_cost(ledger: CostLedger) -> Facts:
    """Return the passes of all processes so far, and this one's seconds by phase."""
    (passes,) = distributed.sum_numbers([ledger.sum_units()])
    return {"passes": passes, "seconds": {phase: ledger.seconds[phase] for phase in ("attack", "rows", "solve")}}


def _list_labels(source: Source) -> Tensor:
    """Return the source's labels, checked without a model that says how many classes there are."""
    labels = source.labels()
    check_labels(labels, torch.arange(len(labels)), int(labels.max()) + 1)
    return labels


def refuse_other_rows(rows: Rows, n: int) -> None:
    """Raise DataError for rows, of n examples, that were measured earlier and cannot be solved for."""
    if len(rows) != n:
        raise DataError(must("rows", f"one row for each of the {n} examples", len(rows)))
    first = find_first_not_finite(rows.squared_norms())
    if first is not None:
        raise DataError(f"rows must be finite, got NaN or infinity, first at example {first}; measure them again")
