"""The beginning of a run: anew, or from the newest state that an earlier process saved in the same folder."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from advcore.data.base import Data
from advcore.data.source import content_hash
from advcore.errors import AdvcoreError, CheckpointError, ConfigError, must
from advcore.files import leftovers, settle_all
from advcore.reporting.record import ELSEWHERE, RunRecord, is_among
from advcore.runner import checkpoints
from advcore.runner.config import from_dict, list_changes, resolved
from advcore.runner.folder import clear, was_begun
from advcore.runner.journal import Journal
from advcore.runner.prepare import Prepared, speed_of, use_suited_threads
from advcore.runner.select import restore_coresets
from advcore.threads import describe_threads
from advcore.tracking import metrics

log = logging.getLogger(__name__)

FREE = (*ELSEWHERE, "data.path", "evaluation", "cost")
"""Settings that may change when a run is resumed: they do not change how it trains."""


def begin_run(journal: Journal, prepared: Prepared, resume: bool, job: Sequence[str]) -> dict[str, object]:
    """Prepare the folder for a new run, or for one that continues. Only the first of several processes does this.

    Returns {"done": whether nothing is left to do, "state": what training continues from, None for the beginning}.
    """
    path = journal.path
    loaded = prepared.data
    journal.record.data["hash"] = {"train": content_hash(loaded.train), "test": content_hash(loaded.test)}
    state = threads = None
    if resume and was_begun(path):
        before, problems = record_before(path)
        changed = changed_settings(prepared, before)
        if _is_done(before, changed, path):
            journal.record = before
            return {"done": True, "state": None}
        state, damaged = find_state(prepared, path, before, journal.data_identity())
        damaged += _mend_files(path, state, loaded)
        epoch = state["place"]["epoch"] if state else 0
        journal.continue_from(before, {"epoch": epoch, "changed": changed, "damaged": [*problems, *damaged]})
        threads = before.environment.get("threads") if state else None
    else:
        clear(path)
        checkpoints.begin(path, job)
    _sweep_leftovers(path)
    journal.record.environment["speed"] = asdict(speed_of(prepared, state))
    reason = use_suited_threads(prepared, threads)
    journal.record.environment |= describe_threads(torch.get_num_threads(), reason)
    journal.save()
    return {"done": False, "state": state}


def _is_done(before: RunRecord, changed: list[str], path: Path) -> bool:
    """Return whether a resumed run is finished and stays as it is.

    That needs unchanged settings. Where its states are gone, as those of a suite's finished run are, settings that have
    no influence on the results may have changed.
    """
    states_gone = not checkpoints.folder(path).exists()
    return before.finished and all(states_gone and is_among(_setting_of(line), ELSEWHERE) for line in changed)


def _mend_files(path: Path, state: dict | None, loaded: Data) -> list[str]:
    """Complete the files that a process left half-written; return a line about each coreset written again."""
    for name in checkpoints.FOLDERS:
        settle_all(path / name)
    return restore_coresets(path, state, loaded)


def _sweep_leftovers(path: Path) -> None:
    """Remove the temporary files of writes that were killed, after the pairs of files are settled."""
    for name in ("record.json", *metrics.FILES):
        checkpoints.sweep(leftovers(path, name))
    for name in checkpoints.FOLDERS:
        checkpoints.sweep(leftovers(path / name))


def record_before(path: Path) -> tuple[RunRecord, list[str]]:
    """Return the record of a run that was begun, and a line about its file where that is missing or damaged.

    The newest state holds all that it takes to continue without the file. Raises AdvcoreError where there is no state.
    """
    try:
        return RunRecord.load(path / "record.json"), []
    except CheckpointError as error:
        problem = error.__cause__ or error  # without the advice to do what is done here
        _, facts, _ = checkpoints.newest(path) or (None, {}, None)
        if "config" not in facts:
            way_out = checkpoints.advise([error], "it")
            raise AdvcoreError(f"{problem}, and no state tells more; {way_out}") from None
        log.warning("%s; going on from the newest state", problem)
        settings = {"name": facts["config"]["name"], "config": facts["config"], "inputs": facts["inputs"]}
        return RunRecord(**settings, environment={}, plan="", reference={}), [str(problem)]


def changed_settings(prepared: Prepared, record: RunRecord) -> list[str]:
    """Return the settings that differ from those that the run began with, as lines "a.b: old -> new".

    Raises ConfigError, with all of them, if some would change how the run trains.
    """
    changed = list_changes(_with_defaults(record.config), resolved(prepared.config))
    cost_before = record.inputs.get("selection.cost")
    cost_now = prepared.inputs.get("selection.cost")
    if cost_before != cost_now:
        changed.append(f"selection.cost: {cost_before!r} -> {cost_now!r}")
    refused = [_explain_refusal(line, prepared) for line in changed if not _may_change(line, prepared, record)]
    if refused:
        raise ConfigError(*(f"--resume goes on with the settings of the run, got {line}" for line in refused))
    return changed


def _setting_of(change: str) -> str:
    """Return the dotted path of the setting that a line "a.b: old -> new" is about."""
    return change.split(":")[0]


def _may_change(change: str, prepared: Prepared, record: RunRecord) -> bool:
    setting = _setting_of(change)
    return is_among(setting, FREE) or setting == "training.epochs" and _appends_epochs(prepared, record)


def _explain_refusal(change: str, prepared: Prepared) -> str:
    if _setting_of(change) != "training.epochs":
        return change
    plan = prepared.trainer.schedule.describe()
    return f"{change}; more epochs go where no selection is left: the new plan is {plan}"


def _with_defaults(raw: dict) -> dict:
    """Return a record's settings with the defaults of the settings that are newer than the record.

    Settings that this version does not know are returned as they are.
    """
    try:
        return resolved(from_dict(raw))
    except ConfigError:
        return {"tracking": []} | raw


def _appends_epochs(prepared: Prepared, record: RunRecord) -> bool:
    """Return whether the plan only adds epochs at the end of the run's: the epochs that are done begin it, and no
    selection is left."""
    plan = prepared.trainer.schedule.plan()
    done = [(entry["lr_index"], entry["action"]) for entry in record.epochs]
    planned = [(epoch.lr_index, epoch.action) for epoch in plan]
    more = prepared.config.training.epochs > record.config["training"]["epochs"]
    selects = any(action not in ("full", "reuse") for _, action in planned[len(done) :])
    return more and planned[: len(done)] == done and not selects


def find_state(prepared: Prepared, path: Path, record: RunRecord, data: list) -> tuple[dict | None, list[str]]:
    """Return the newest undamaged state (None: continue from the beginning), and a line about each newer, damaged one.

    `data` is the number of training examples, and their hash.

    Raises ConfigError if files or data are not those that the run began with, AdvcoreError if epochs are done and no
    state is undamaged.
    """
    newest = checkpoints.newest(path)
    if newest is None and record.epochs:
        folder = checkpoints.folder(path)
        raise AdvcoreError(
            f"epochs done: {len(record.epochs)}, but {folder} holds no state; start again with --overwrite"
        )
    state, facts, damaged = newest or (None, {"data": data}, [])
    _require_same("files", record.inputs, prepared.inputs)
    _require_same("data (examples, hash)", facts.get("data"), data)
    return state, damaged


def _require_same(what: str, before: object, now: object) -> None:
    if before != now:
        raise ConfigError(must("--resume", f"given the {what} that the run began with, {before}", now))
