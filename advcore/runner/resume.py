"""Going on with a run: what it began with, what may have changed since, and the state to go on from."""

import hashlib
import logging
from pathlib import Path

import torch

from advcore.data.source import Resident, Source, chunked
from advcore.errors import AdvcoreError, CheckpointError, ConfigError, must, require
from advcore.reporting.record import ELSEWHERE, RunRecord, is_among
from advcore.runner import checkpoints
from advcore.runner.config import changes, resolved
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
        _, facts, _ = checkpoints.newest(path) or (None, {}, None)
        if "config" not in facts:
            raise AdvcoreError(f"{error}, and no state tells more; start again with --overwrite") from None
        log.warning("%s; going on from the newest state", error)
        known = {"name": facts["config"]["name"], "config": facts["config"], "inputs": facts["inputs"]}
        return RunRecord(**known, environment={}, plan="", reference={}), [str(error)]


def changed_settings(prepared: Prepared, record: RunRecord) -> list[str]:
    """What differs from the settings that the run began with. Raises ConfigError, with all of it, where it trains."""
    changed = changes({"tracking": []} | record.config, resolved(prepared.config))
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
            f"{len(record.epochs)} epochs are done and {where} holds no state; start again with --overwrite"
        )
    state, facts, damaged = found or (None, {"data": data}, [])
    for what, before, now in (
        ("files", record.inputs, prepared.inputs),
        ("data (examples, hash)", facts.get("data"), data),
    ):
        require(None if before == now else must("--resume", f"given the {what} that the run began with, {before}", now))
    return state, damaged


def hashed(source: Source) -> str:
    """A hash of all labels, and of all images where they are in memory, with a word for which it is; of some labels
    where all could only be had by reading the data."""
    if source.class_counts() is None:
        return f"some labels {source.fingerprint()}"
    found, what = hashlib.sha256(source.labels().numpy().tobytes()), "labels"
    if isinstance(source, Resident):
        what = "images"
        for _, x, _ in source.batches(chunked(torch.arange(len(source)), 4096)):
            found.update(x.cpu().numpy().tobytes())
    return f"{what} {found.hexdigest()[:16]}"
