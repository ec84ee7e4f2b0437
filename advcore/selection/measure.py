"""Rows of one selection: where they are stored, how they are measured, and samples of them under the full attack."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.cost import CostLedger
from advcore.data.checks import check_labels
from advcore.data.compatibility import check_fits
from advcore.data.source import Part, Source
from advcore.errors import ConfigError
from advcore.gradients import GRADIENTS
from advcore.gradients.base import Measurement, MeasurementSettings
from advcore.objectives.base import is_attacked
from advcore.rng import Stream
from advcore.rows import DenseRows, FactoredRows
from advcore.rows.on_disk import temporary_folder
from advcore.selection.memory import estimate_for, settle
from advcore.selection.quality import Sample
from advcore.solvers.base import find_scores_file
from advcore.types import Coreset, Facts

if TYPE_CHECKING:
    from advcore.selection.coreset import AdversarialCoreset


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
    ledger: CostLedger
    on_chunk: Callable[[int, int], None]

    def stream(self, purpose: str, *, fixed: bool = False) -> Stream:
        """Return random numbers of this selection; `fixed` ones are the same at every selection of a run."""
        return Stream(seed=self.seed, purpose=purpose, epoch=0 if fixed else self.epoch)


def place_rows(selector: "AdversarialCoreset", call: Call) -> tuple[Path | None, tuple[str, ...]]:
    """Return the folder for a selection's rows, and the event that says so; None if they fit in memory."""
    held_out = 0 if call.validation is None else len(call.validation)
    estimate = estimate_for(selector, call.model, call.source, held_out)
    if estimate is None:
        return None, ()

    def find_event() -> str | None:
        return settle(estimate, selector.memory_limit, call.source.device)[1]

    event = distributed.run_on_first(find_event)
    if event is None:
        return None, ()
    return temporary_folder(), (event,)


def measure_rows(
    selector: "AdversarialCoreset", call: Call, data: Source, *, purpose: str, folder: Path | None
) -> Measurement:
    """Measure the rows that the solver reads, and all labels; nothing is attacked for a solver that reads nothing.

    purpose : names the attack's random numbers. folder : where the rows go; None: to memory.
    """
    reads = selector.solver.reads
    if reads is None:
        return Measurement(rows=DenseRows(matrix=torch.zeros(len(data), 0)), labels=list_labels(data))
    check_fits(call.model, data, labels=False)
    gradient = GRADIENTS[reads]
    if gradient.is_averaged or find_scores_file(selector.solver):
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


def measure_in_full(
    selector: "AdversarialCoreset", call: Call, coreset: Coreset, measured: Measurement
) -> Sample | None:
    """Attack a sample of the coreset and of the other examples in full; passes count as evaluation.

    Return None where the selection's attack is no cheaper than the full one, or where rows are no gradients.
    """
    size = selector.full_examples
    if not size or not isinstance(measured.rows, FactoredRows | None) or not _is_cheaper(selector):
        return None
    is_outside = torch.ones(len(call.source), dtype=torch.bool)
    is_outside[coreset.indices] = False
    outside = is_outside.nonzero()[:, 0]
    from_coreset = min(len(coreset), max(size // 2, size - len(outside)))  # half, or what the others leave room for
    stream = call.stream("full")
    positions = stream.child("chosen").at(torch.arange(len(coreset))).permutation()[:from_coreset]
    rest = outside[stream.child("rest").at(outside).permutation()[: size - from_coreset]]
    part = Part(call.source, torch.cat([coreset.indices[positions], rest]))
    ledger = CostLedger()
    in_full = replace(selector, attack=selector.full_attack)
    rows = measure_rows(in_full, replace(call, ledger=ledger), part, purpose="full", folder=None).rows
    assert isinstance(rows, FactoredRows | None), "measured as those of the selection, which are factors"
    call.ledger.add(ledger, under="evaluation")
    return Sample(positions, rest, rows)


def _is_cheaper(selector: "AdversarialCoreset") -> bool:
    """Return whether the selection's attack takes fewer passes than the full attack that it is a substitute for."""
    full = selector.full_attack
    if full is None or not is_attacked(selector.objective):
        return False
    assert selector.attack is not None, "an objective that is attacked has an attack"
    return sum(full.passes()) > sum(selector.attack.passes())


def count_cost(ledger: CostLedger) -> Facts:
    """Return the passes of all processes so far, and this one's seconds by phase."""
    (passes,) = distributed.sum_numbers([ledger.sum_units()])
    return {"passes": passes, "seconds": {phase: ledger.seconds[phase] for phase in ("attack", "rows", "solve")}}


def list_labels(source: Source) -> Tensor:
    """Return the source's labels, checked without a model that says how many classes there are."""
    labels = source.labels()
    check_labels(labels, torch.arange(len(labels)), int(labels.max()) + 1)
    return labels
