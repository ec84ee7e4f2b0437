"""Compares what selection costs in a run with what it can save, by the headroom of an earlier run."""

from pathlib import Path

from advcore.config.load import resolve
from advcore.data.pool import Pooled
from advcore.errors import check, format_value, require
from advcore.reporting.headroom import judge_choosing
from advcore.reporting.record import RunRecord
from advcore.reporting.settings_parts import flatten
from advcore.run.build import count_held_out
from advcore.run.prepare import Prepared
from advcore.training.plan import plan_parts

# Settings on which headroom depends most.
_DEPENDS_ON = ("data.name", "model.name", "objective.name", "attack.name", "attack.eps")
_NO_VERDICT = "--from gives no verdict here:"


def load_run_record(path: Path) -> RunRecord:
    """Read the record of a run's folder, or a record itself. Raises ConfigError where there is none."""
    file = path / "record.json" if path.is_dir() else path
    require(check(file.is_file(), "--from", "the folder of a run, or its record", str(path)))
    return RunRecord.load(file)


def judge_run(prepared: Prepared, record: RunRecord | None) -> list[str]:
    """Say whether the selections of a run can be worth their cost, by the headroom of a record; nothing without one.

    There is no verdict on selections from a pool, of which the headroom of real images says nothing, nor on a solver
    that chooses at random. What the record's run did differently is named.
    """
    if record is None:
        return []
    if isinstance(prepared.data.train, Pooled):
        return [f"{_NO_VERDICT} the headroom of real images says nothing about the images of a pool."]
    selector = prepared.trainer.selector
    if selector is not None and selector.solver.reads is None:
        return [f"{_NO_VERDICT} this solver chooses without gradients, so headroom is not what it can gain."]
    return [judge_choosing(record, measure_choosing_cost(prepared)), *_name_differences(prepared, record)]


def _name_differences(prepared: Prepared, record: RunRecord) -> list[str]:
    """Return a sentence that names in what the record's run differs from this one, where headroom depends on it."""
    ours, theirs = flatten(resolve(prepared.config)), flatten(record.config)
    paths = [path for path in _DEPENDS_ON if ours.get(path) != theirs.get(path)]
    if not paths:
        return []
    listed = ", ".join(f"{path} ({format_value(theirs.get(path))})" for path in paths)
    return [f"The run of --from has another {listed}, so its headroom may not be that of this run."]


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
