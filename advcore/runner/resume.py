"""Going on with a run: what it began with, what may have changed since, and the state to go on from."""

import logging
from pathlib import Path

from advcore.errors import AdvcoreError, CheckpointError, ConfigError, UnreadableError, must, require
from advcore.reporting.record import ELSEWHERE, RunRecord, is_among
from advcore.runner import checkpoints
from advcore.runner.config import changes, from_dict, resolved
from advcore.runner.prepare import Prepared

log = logging.getLogger(__name__)

FREE = (*ELSEWHERE, "data.path", "evaluation", "cost")
"""Settings that may change when a run is gone on with: they do not change how it trains."""


def record_before(path: Path) -> tuple[RunRecord, list[str]]:
    """The record of a run that was begun, and, where its file is missing or damaged, a line about that: the states know
    all that it takes to go on. Raises AdvcoreError where there are none."""
    try:
        return RunRecord.load(path / "record.json"), []
    except CheckpointError as error:
        problem = error.__cause__ or error  # without the advice to do what is done here
        _, facts, _ = checkpoints.newest(path) or (None, {}, None)
        if "config" not in facts:
            unread = isinstance(error, UnreadableError)
            way_out = "mend what keeps us from reading it" if unread else "start again with --overwrite"
            raise AdvcoreError(f"{problem}, and no state tells more; {way_out}") from None
        log.warning("%s; going on from the newest state", problem)
        known = {"name": facts["config"]["name"], "config": facts["config"], "inputs": facts["inputs"]}
        return RunRecord(**known, environment={}, plan="", reference={}), [str(problem)]


def changed_settings(prepared: Prepared, record: RunRecord) -> list[str]:
    """What differs from the settings that the run began with. Raises ConfigError, with all of it, where it trains."""
    changed = changes(_known(record.config), resolved(prepared.config))
    wanted = [one.get("selection.cost") for one in (record.inputs, prepared.inputs)]
    changed += [f"selection.cost: {wanted[0]!r} -> {wanted[1]!r}"] if wanted[0] != wanted[1] else []
    longer = "; more epochs go where no selection is left: the new plan is " + prepared.trainer.schedule.describe()
    refused = [
        line + (longer if line.startswith("training.epochs:") else "")
        for line in changed
        if not is_among(line.split(":")[0], FREE)
        and not (line.startswith("training.epochs:") and _longer(prepared, record))
    ]
    if refused:
        raise ConfigError(*(f"--resume goes on with the settings of the run, got {line}" for line in refused))
    return changed


def _known(raw: dict) -> dict:
    """A record's settings with the defaults of those that are newer than it; as they are where this version does not
    know them all."""
    try:
        return resolved(from_dict(raw))
    except ConfigError:
        return {"tracking": []} | raw


def _longer(prepared: Prepared, record: RunRecord) -> bool:
    """Whether the plan is the run's with more epochs at its end: what is done is in it, and no selection comes."""
    plan, done = prepared.trainer.schedule.plan(), [(one["lr_index"], one["action"]) for one in record.epochs]
    rest = plan[len(done) :]
    more = prepared.config.training.epochs > record.config["training"]["epochs"]
    same = [(epoch.lr_index, epoch.action) for epoch in plan[: len(done)]] == done
    return more and same and all(epoch.action in ("full", "reuse") for epoch in rest)


def resumable(prepared: Prepared, path: Path, record: RunRecord, data: list) -> tuple[dict | None, list[str]]:
    """The state to go on from (None: the beginning), and which newer ones were damaged. `data`: how many examples, and
    their hash.

    Raises ConfigError if files or data are not those that the run began with, AdvcoreError if there must be a state and
    none is whole.
    """
    found = checkpoints.newest(path)
    if found is None and record.epochs:
        where = checkpoints.folder(path)
        raise AdvcoreError(
            f"epochs done: {len(record.epochs)}, but {where} holds no state; start again with --overwrite"
        )
    state, facts, damaged = found or (None, {"data": data}, [])
    for what, before, now in (
        ("files", record.inputs, prepared.inputs),
        ("data (examples, hash)", facts.get("data"), data),
    ):
        require(None if before == now else must("--resume", f"given the {what} that the run began with, {before}", now))
    return state, damaged
