"""Starts a run, or continues it from the newest state that an earlier process saved in the same folder."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from advcore import distributed
from advcore.config.load import Change, from_dict, list_changes, resolve
from advcore.config.schema import RunConfig
from advcore.cost import CostLedger
from advcore.data.pool import Pooled
from advcore.data.source import hash_content, hash_sample
from advcore.errors import AdvcoreError, CheckpointError, ConfigError, SettingProblem, check, require
from advcore.files import list_leftovers, settle_all
from advcore.register import plugins
from advcore.reporting.record import ELSEWHERE, RunRecord, is_among, name_old_defaults
from advcore.run import build, checkpoints, environment, select
from advcore.run.folder import clear, was_begun
from advcore.run.prepare import Prepared
from advcore.tracking import metrics
from advcore.training.loop_settings import resolve_speed
from advcore.training.progress import Snapshot, Trained

log = logging.getLogger(__name__)

# Settings that may change when a run is resumed: they do not change how it trains.
_FREE = (*ELSEWHERE, "data.path", "data.pool.path", "data.pool.teacher", "model.weights", "evaluation", "cost")
# What the record of a resumed run takes over from the record before.
_CONTINUED = ("epochs", "selections", "events", "ledger", "relative_cost", "best_epoch", "final", "finished")


@dataclass
class Journal:
    """A run's record, and what is needed to bring it up to date.

    path : the run's folder. began : `time.perf_counter()` at the start, less the seconds of earlier processes.
    sample : hash of some training images that are not in memory.
    """

    prepared: Prepared
    path: Path
    began: float
    record: RunRecord
    sample: str | None = None

    def save(self) -> None:
        if distributed.is_first():
            self.record.seconds = round(time.perf_counter() - self.began, 2)
            self.record.save(self.path / "record.json")
            metrics.write_metrics(self.path, self.list_metrics())

    def take_results(self, trained: Trained) -> None:
        """Bring the record up to date with what was done so far, what fell back, and what it cost."""
        self.record.epochs = trained.epochs
        self.record.selections = [select.summarise(coreset) for coreset in trained.coresets]
        self.record.events = trained.events
        self.record.ledger = trained.ledger.summarise()
        if trained.ledger.sum_flops() is None:
            self.record.reference.pop("flops", None)  # of passes, costs are relative to passes
        self.record.relative_cost = self._relate(trained.ledger)

    def _relate(self, ledger: CostLedger) -> float:
        flops = self.record.reference.get("flops")
        if flops is None:
            return ledger.sum_units() / self.record.reference["units"]
        return (ledger.sum_flops() or 0) / flops

    def list_metrics(self) -> list[metrics.Row]:
        return metrics.build_rows(self.record.epochs, self.record.selections, self.record.reference)

    def list_facts(self) -> dict[str, object]:
        """Return what is saved next to each state, so that a record that is lost can be made again.

        "data" identifies the training data: the number of examples, and their hash; "sample" some of its images, where
        the hash is of labels alone.
        """
        return {
            "data": [self.record.data["train"], self.record.data["hash"]["train"]],
            "config": self.record.config,
            "inputs": self.record.inputs,
            "plugins": self.record.plugins,
            "sample": self.sample,
        }


def create_record(prepared: Prepared) -> RunRecord:
    """Return the record of a run of which nothing is done yet."""
    data = prepared.data
    record = RunRecord(
        name=prepared.config.name,
        config=resolve(prepared.config),
        environment=environment.describe_environment(data.train.device),
        plan=prepared.plan.text,
        reference=prepared.plan.reference.describe(),
        data={
            "train": len(data.train),
            "validation": build.count_held_out(data),
            "test": len(data.test),
            "shape": list(data.train.shape),
            "class_counts": torch.bincount(data.whole[data.part], minlength=data.num_classes).tolist(),
        },
        inputs=prepared.inputs,
        pretraining=prepared.pretraining,
        plugins=[plugin.describe() for plugin in plugins.LOADED],
    )
    if isinstance(data.train, Pooled):
        record.data["pool"] = len(data.train.pool)
    if data.notes:
        record.data["notes"] = list(data.notes)
    return record


def find_budget(path: Path, config: RunConfig) -> float | None:
    """Return the budget that the run in the folder `path` began with, for the `selection.cost` of the config.

    It is used where the run continues: another version counts costs differently, and would find another budget. None if
    no run was started there, or with other settings; then there is nothing to continue, or that is refused.
    """
    cost = getattr(config.selection, "cost", None)
    if cost is None or not was_begun(path):
        return None
    try:
        record = RunRecord.load(path / "record.json")
        settings, inputs = record.config, record.inputs
    except CheckpointError:
        _, facts, _ = checkpoints.load_newest(path) or (None, {}, None)
        settings, inputs = facts.get("config", {}), facts.get("inputs", {})
    if inputs.get("selection.cost") != cost or settings["training"]["epochs"] != config.training.epochs:
        return None
    return settings["selection"]["budget"]


def begin_run(journal: Journal, resume: bool, job: Sequence[str]) -> tuple[bool, Snapshot | None]:
    """Prepare the folder for a new run, or for one that continues. Only the first of several processes does this.

    Returns whether nothing is left to do, and what training continues from: None for the beginning.
    """
    path = journal.path
    prepared = journal.prepared
    journal.record.data["hash"] = {
        "train": hash_content(prepared.data.train),
        "test": hash_content(prepared.data.test),
    }
    journal.sample = hash_sample(prepared.data.train, torch.arange(prepared.data.train.index_count))
    state = None
    if resume and was_begun(path):
        before, problems = _load_record(path)
        changed = _compare_settings(prepared, before)
        if _is_done(before, changed, path):
            journal.record = before
            return True, None
        plugins.check_plugins(before.plugins, same_content=True)
        state, damaged = _find_state(journal, before)
        for name in checkpoints.FOLDERS:
            settle_all(path / name)
        damaged += select.restore_coresets(path, state, prepared.data)
        epoch = state["place"]["epoch"] if state else 0
        note = {"epoch": epoch, "changed": [*map(str, changed)], "damaged": [*problems, *damaged]}
        earlier = {name: getattr(before, name) for name in _CONTINUED}
        earlier["pretraining"] = before.pretraining or journal.record.pretraining  # weights may have moved since
        journal.record = replace(journal.record, resumes=[*before.resumes, note], **earlier)
        journal.began -= before.seconds
    else:
        clear(path)
        checkpoints.begin(path, job)
    unfinished = [list_leftovers(path, name) for name in checkpoints.FILES]
    for paths in [*unfinished, *(list_leftovers(path / name) for name in checkpoints.FOLDERS)]:
        checkpoints.sweep(paths)
    speed = resolve_speed(prepared.trainer.speed, prepared.model, prepared.data.train, state)
    journal.record.environment["speed"] = asdict(speed)
    journal.save()
    return False, state


def _is_done(before: RunRecord, changed: list[Change], path: Path) -> bool:
    """Return whether a resumed run is finished and stays as it is.

    That needs unchanged settings. Where its states are gone, as those of a suite's finished run are, settings that have
    no influence on the results may have changed.
    """
    states_gone = not checkpoints.locate_states(path).exists()
    return before.finished and all(states_gone and is_among(change.path, ELSEWHERE) for change in changed)


def _load_record(path: Path) -> tuple[RunRecord, list[str]]:
    """Return the record of a run that was started, and a line about its file where that is missing or damaged.

    The newest state holds all that it takes to continue without the file. Raises AdvcoreError where there is no state.
    """
    try:
        return RunRecord.load(path / "record.json"), []
    except CheckpointError as error:
        problem = error.__cause__ or error  # without the advice to do what is done here
        _, facts, _ = checkpoints.load_newest(path) or (None, {}, None)
        if "config" not in facts:
            raise AdvcoreError(f"{problem}, and no state can replace it; {checkpoints.advise([error], 'it')}") from None
        log.warning("%s; continuing from the newest state", problem)
        settings = {key: facts[key] for key in ("config", "inputs", "plugins") if key in facts}
        settings["config"] = name_old_defaults(facts["config"])
        return RunRecord(name=facts["config"]["name"], **settings, environment={}, plan="", reference={}), [
            str(problem)
        ]


def _compare_settings(prepared: Prepared, record: RunRecord) -> list[Change]:
    """Return the settings that differ from those that the run began with.

    Raises ConfigError, with all of them, if some would change how the run trains.
    """
    changed = list_changes(_add_defaults(record.config), resolve(prepared.config))
    before = record.inputs.get("selection.cost")
    now = prepared.inputs.get("selection.cost")
    if before != now:
        changed.append(Change("selection.cost", before, now))
    refused = []
    for change in changed:
        is_free = is_among(change.path, _FREE)
        way_out = ""
        if change.path == "training.epochs":
            is_free = _appends_epochs(prepared, record)
            plan = prepared.trainer.schedule.describe()
            way_out = f"epochs can only be added after the last selection: the new plan is {plan}"
        if not is_free:
            refused.append(
                SettingProblem("--resume", "must continue with the settings of the run", str(change), way_out)
            )
    require(*refused)
    return changed


def _add_defaults(raw: dict) -> dict:
    """Return a record's settings with the defaults of the settings that are newer than the record.

    Settings that this version does not know are returned as they are.
    """
    try:
        return resolve(from_dict(raw))
    except ConfigError:
        return {"tracking": []} | raw


def _appends_epochs(prepared: Prepared, record: RunRecord) -> bool:
    """Return whether the plan only adds epochs at the end of the run's: the epochs that are done begin it, and no
    selection is left."""
    done = [(entry["lr_index"], entry["action"]) for entry in record.epochs]
    planned = [(epoch.lr_index, epoch.action) for epoch in prepared.trainer.schedule.plan()]
    more = prepared.config.training.epochs > record.config["training"]["epochs"]
    selects = any(action not in ("full", "reuse") for _, action in planned[len(done) :])
    return more and planned[: len(done)] == done and not selects


def _find_state(journal: Journal, before: RunRecord) -> tuple[Snapshot | None, list[str]]:
    """Return the newest undamaged state (None: continue from the beginning), and a line about each newer, damaged one.

    Raises ConfigError if files or data are not those that the run began with, AdvcoreError if epochs are done and no
    state is undamaged.
    """
    newest = checkpoints.load_newest(journal.path)
    if newest is None and before.epochs:
        raise AdvcoreError(
            f"epochs done: {len(before.epochs)}, but {checkpoints.locate_states(journal.path)} holds no state; "
            "start again with --overwrite"
        )
    present = journal.list_facts()
    state, facts, damaged = newest or (None, present, [])
    for what, begun, now in (
        ("files", before.inputs, journal.prepared.inputs),
        ("data (examples, hash)", facts.get("data"), present["data"]),
        ("images (hash of some)", facts.get("sample", journal.sample), journal.sample),  # older states have none
    ):
        require(check(begun == now, "--resume", f"given the {what} that the run began with, {begun}", now))
    return state, damaged
