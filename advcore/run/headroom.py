"""Compares what selection costs in a run with what it can save, by the headroom of an earlier run."""

from pathlib import Path

from advcore.errors import check, require
from advcore.reporting.headroom import judge_choosing
from advcore.reporting.record import RunRecord
from advcore.run.build import count_held_out
from advcore.run.prepare import Prepared
from advcore.training.plan import plan_parts


def load_run_record(path: Path) -> RunRecord:
    """Read the record of a run's folder, or a record itself. Raises ConfigError where there is none."""
    file = path / "record.json" if path.is_dir() else path
    require(check(file.is_file(), "--from", "the folder of a run, or its record", str(path)))
    return RunRecord.load(file)


def judge_run(prepared: Prepared, record: RunRecord | None) -> list[str]:
    """Say whether the selections of a run can be worth their cost, by the headroom of a record; nothing without one."""
    if record is None:
        return []
    return [judge_choosing(record, measure_choosing_cost(prepared))]


def measure_choosing_cost(prepared: Prepared) -> float | None:
    """Return the planned cost of a run's selections over that of its epochs on coresets; None where there are none."""
    trainer = prepared.trainer
    n = len(prepared.data.train)
    actions = [epoch.action for epoch in trainer.schedule.plan()]
    if "select" not in actions:
        return None
    examples = [trainer.count_examples(action, n) for action in actions]
    on_coresets = sum(count for count, action in zip(examples, actions, strict=True) if action != "full")
    planned = plan_parts(trainer, n, count_held_out(prepared.data))
    relate = prepared.plan.reference.relate
    served = relate(planned.training) * on_coresets / sum(examples)
    return relate(planned.selection + planned.scores) / served
