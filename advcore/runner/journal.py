"""The record of a run while it runs: begun, and saved with the metrics as it grows."""

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from advcore import distributed
from advcore.data.base import Data
from advcore.reporting.record import RunRecord
from advcore.runner import build
from advcore.runner.config import resolved
from advcore.runner.environment import environment
from advcore.runner.prepare import Prepared
from advcore.tracking import metrics

_CONTINUED = ("epochs", "selections", "events", "ledger", "relative_cost", "best_epoch", "final", "finished")
"""What the record of a resumed run takes over from the record before."""


@dataclass
class Journal:
    """A run's record, its folder, and when it began: `time.perf_counter()` less the seconds of earlier processes."""

    record: RunRecord
    path: Path
    began: float

    def save(self) -> None:
        """Write the record and the metrics. Of several processes, only the first one writes."""
        if distributed.first():
            self.record.seconds = round(time.perf_counter() - self.began, 2)
            self.record.save(self.path / "record.json")
            metrics.write(self.path, self.metrics())

    def metrics(self) -> list[dict[str, object]]:
        """Return one row of metrics per epoch."""
        return metrics.rows(self.record.epochs, self.record.selections, self.record.reference["units"])

    def continue_from(self, before: RunRecord, note: dict[str, object]) -> None:
        """Take over what an earlier process had recorded, and add a note about the interruption."""
        earlier = {name: getattr(before, name) for name in _CONTINUED}
        self.record = replace(self.record, resumes=[*before.resumes, note], **earlier)
        self.began -= before.seconds

    def data_identity(self) -> list:
        """Return what identifies the training data: the number of examples, and their hash."""
        return [self.record.data["train"], self.record.data["hash"]["train"]]


def new_record(prepared: Prepared) -> RunRecord:
    """Return the record of a run of which nothing is done yet."""
    return RunRecord(
        name=prepared.config.name,
        config=resolved(prepared.config),
        environment=environment(prepared.data.train.device),
        plan=prepared.plan.text,
        reference=asdict(prepared.plan.reference),
        data=_describe_data(prepared.data),
        inputs=prepared.inputs,
    )


def _describe_data(loaded: Data) -> dict[str, object]:
    """Count the examples to train on, to hold out and to test on, and those of each class in training; give their
    shape."""
    return {
        "train": len(loaded.train),
        "validation": build.count_held_out(loaded),
        "test": len(loaded.test),
        "shape": list(loaded.train.shape),
        "class_counts": torch.bincount(loaded.whole[loaded.part], minlength=loaded.num_classes).tolist(),
    }
