"""run(prepared, folder) -> RunRecord, written as it becomes known; and its evaluation by itself."""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advcore import distributed
from advcore.data.base import Data, thinned
from advcore.data.source import content_hash
from advcore.device import full_float32, peak_memory
from advcore.errors import AdvcoreError, CheckpointError, UnsafeFileError
from advcore.evaluation.evaluate import Evaluation, evaluate
from advcore.evaluation.suites import SUITES
from advcore.files import leftovers, settle_all
from advcore.reporting.record import ELSEWHERE, RunRecord, is_among
from advcore.runner import build, checkpoints
from advcore.runner.config import resolved
from advcore.runner.environment import environment
from advcore.runner.folder import clear, was_begun
from advcore.runner.prepare import Prepared, Reporter, speed_of
from advcore.runner.resume import changed_settings, record_before, resumable
from advcore.runner.schema import RunConfig
from advcore.runner.select import in_training_set, keep_coreset, restore_coresets, summary
from advcore.runner.weights import save_state
from advcore.tracking import metrics, tracker_name
from advcore.tracking.telling import Tracking
from advcore.training.loop import Listener, Trained
from advcore.types import Coreset

log = logging.getLogger(__name__)


def run(
    prepared: Prepared,
    path: Path,
    reporter: Reporter | None = None,
    *,
    resume: bool = False,
    job: Sequence[str] = (),
    locked: bool = False,
) -> RunRecord:
    """As `_run`, with the folder's lock, and every place in it tried before (`checkpoints.alone`).

    locked : the caller holds it already, as one does that wants to know before it reads data.

    Raises BusyError if another run works there, ConfigError for a place that cannot be written, and, once it runs,
    OSError with the path.
    """
    with contextlib.ExitStack() as held:
        with distributed.together():
            if distributed.first() and not locked:
                held.enter_context(checkpoints.alone(path))
        return _run(prepared, path, reporter or Reporter(), resume, job)


def _run(prepared: Prepared, path: Path, reporter: Reporter, resume: bool, job: Sequence[str]) -> RunRecord:
    """Train, select, evaluate; `path/record.json` is brought up to date after every epoch.

    Writes `metrics.jsonl` and `metrics.csv`, a row an epoch; `checkpoints/last` and `best` (.safetensors with a JSON
    beside it, and as .npz the final evaluation's verdict on each test image), `coresets/epoch-NNN.npz`, what trackers
    keep in `tracking/`, and `states/`, from which `resume` goes on. A finished run that is resumed stays as it is. Of
    several processes, the first alone reads and writes files of the run.
    """
    config, started = prepared.config, time.perf_counter()
    where = prepared.data.train.device
    record = RunRecord(
        name=config.name,
        config=resolved(config),
        environment=environment(where),
        plan=prepared.plan.text,
        reference=asdict(prepared.plan.reference),
        data=counted(prepared.data),
        inputs=prepared.inputs,
    )
    facts: dict[str, Any] = {}

    def save() -> None:
        if distributed.first():
            record.seconds = round(time.perf_counter() - started, 2)
            record.save(path / "record.json")
            metrics.write(path, _rows(record))

    def begin() -> dict[str, Any]:
        """Whether all is done, and the state to go on from."""
        nonlocal record, started
        loaded, state = prepared.data, None
        record.data["hash"] = {"train": content_hash(loaded.train), "test": content_hash(loaded.test)}
        data = [len(loaded.train), record.data["hash"]["train"]]
        if resume and was_begun(path):
            before, lost = record_before(path)
            changed = changed_settings(prepared, before)
            gone = not checkpoints.folder(path).exists()  # as of a suite's run that is done
            if before.finished and all(gone and is_among(line.split(":")[0], ELSEWHERE) for line in changed):
                record = before
                return {"done": True, "state": None}
            state, damaged = resumable(prepared, path, before, data)
            for name in checkpoints.FOLDERS:
                settle_all(path / name)
            damaged += restore_coresets(path, state, prepared.data)
            note = {"epoch": state["place"]["epoch"] if state else 0, "changed": changed, "damaged": [*lost, *damaged]}
            kept = ("epochs", "selections", "events", "ledger", "relative_cost", "best_epoch", "final", "finished")
            record = replace(record, resumes=[*before.resumes, note], **{name: getattr(before, name) for name in kept})
            started -= before.seconds
        else:
            clear(path)
            checkpoints.begin(path, job)
        ours = [old for name in checkpoints.FOLDERS for old in leftovers(path / name)]
        files = [old for name in ("record.json", *metrics.FILES) for old in leftovers(path, name)]
        checkpoints.sweep([*files, *ours])
        facts.update(data=data, config=record.config, inputs=record.inputs)
        record.environment["speed"] = asdict(speed_of(prepared, state))
        save()
        return {"done": False, "state": state}

    begun = distributed.by_first(begin)
    if begun["done"]:
        return record
    state = begun["state"]
    reporter.on_plan(prepared.plan)
    with contextlib.closing(_tracking(record, config, path)) as tracking:
        trained = _fitted(record, prepared, path, reporter, state, facts, tracking, save)
        _conclude(record, prepared, trained, path, reporter)
        tracking.close(metrics.final_numbers(record.final, record.relative_cost))
        tracking.report(record.events, len(record.epochs))
    record.peak_memory = peak_memory(where)
    record.finished = True
    save()
    return record


def _tracking(record: RunRecord, config: RunConfig, path: Path) -> Tracking:
    """The run's trackers, told of what was done before; only the first process has any."""
    trackers = {tracker_name(one): one for one in config.tracking} if distributed.first() else {}
    settings = {key: value for key, value in record.config.items() if key != "tracking"}
    return Tracking(trackers, path, record.name, settings)


def _rows(record: RunRecord) -> list[dict[str, Any]]:
    return metrics.rows(record.epochs, record.selections, record.reference["units"])


def _fitted(
    record: RunRecord,
    prepared: Prepared,
    path: Path,
    reporter: Reporter,
    state: dict | None,
    facts: dict[str, Any],
    tracking: Tracking,
    save: Callable[[], None],
) -> Trained:
    """The training, from `state` on; the first process writes what becomes known."""
    config, loaded = prepared.config, prepared.data

    def on_epoch(entry: dict, so_far: Trained) -> None:
        _count(record, so_far, prepared)
        save()
        tracking.tell(_rows(record))
        tracking.report(so_far.events, entry["epoch"])
        reporter.on_epoch(entry, so_far)

    def on_coreset(coreset: Coreset) -> None:
        told = keep_coreset(path, in_training_set(coreset, loaded))
        if told and record.resumes:
            record.resumes[-1]["damaged"].append(told)
        reporter.on_coreset(coreset)

    def on_checkpoint(state: Callable[[], dict]) -> None:
        try:
            checkpoints.save(path, state, facts, config.checkpoint.kept)
        except CheckpointError as error:
            raise AdvcoreError(f"the state that was just written is not what reads back: {error}") from None

    writer = replace(
        reporter,
        on_epoch=on_epoch,
        on_coreset=on_coreset,
        on_state=lambda name, state, entry: save_state(path, name, state, entry),
        on_checkpoint=on_checkpoint,
        period=config.checkpoint.period,
    )
    others = Listener(on_checkpoint=lambda state: state(), period=config.checkpoint.period)
    trained = prepared.trainer.fit(
        prepared.model,
        loaded.train,
        loaded.validation,
        seed=config.seed,
        augment=loaded.augment,
        listener=writer if distributed.first() else others,
        scores=prepared.scores,
        resume=state,
    )
    tracking.tell(metrics.rows(trained.epochs, record.selections, record.reference["units"]))
    tracking.report(trained.events, len(trained.epochs))
    return trained


def _conclude(record: RunRecord, prepared: Prepared, trained: Trained, path: Path, reporter: Reporter) -> None:
    """Final accuracies of `last` and `best`; the ledger now holds their evaluation too."""
    best = -1 if trained.best_epoch is None else trained.best_epoch  # no validation examples: best is last
    if distributed.first():
        save_state(path, "last", trained.last, trained.epochs[-1])
        save_state(path, "best", trained.best, trained.epochs[best])
    for which, state in (("last", trained.last), ("best", trained.best)):
        if which == "best" and trained.best_epoch in (None, trained.epochs[-1]["epoch"]):
            record.final["best"] = record.final["last"]  # the same state
            break
        reporter.on_final(which)
        prepared.model.load_state_dict(state)
        verdicts = path / "checkpoints" / f"{which}-verdicts.npz"
        record.final[which] = _evaluated(prepared, trained, reporter, which, verdicts).as_dict()
    record.best_epoch = trained.best_epoch
    distributed.merge(trained.ledger)
    _count(record, trained, prepared)


def _evaluated(prepared: Prepared, trained: Trained, reporter: Reporter, which: str, verdicts: Path) -> Evaluation:
    """`final`, which goes on from the verdicts that a stopped one left; those of other settings, or damaged, go."""
    try:
        return final(prepared, trained, reporter, which, state=verdicts)
    except (CheckpointError, UnsafeFileError) as error:
        log.warning("%s; evaluating %s anew", error, which)
    if distributed.first():
        verdicts.unlink()
    return final(prepared, trained, reporter, which, state=verdicts)


def _count(record: RunRecord, trained: Trained, prepared: Prepared) -> None:
    """What was done, what fell back and what it took, so far."""
    record.epochs, record.selections = trained.epochs, [summary(coreset) for coreset in trained.coresets]
    record.events = trained.events
    record.ledger = trained.ledger.summary()
    record.relative_cost = trained.ledger.units() / prepared.plan.reference.units


def examined(prepared: Prepared) -> Tensor | None:
    """Which test examples are evaluated; None for all."""
    size, test = prepared.config.evaluation.examples, prepared.data.test
    return None if size is None else thinned(test.labels(), size, prepared.config.data.split_seed, "evaluation")


def to_evaluate(config: RunConfig, suite: str) -> RunConfig:
    """The config with a named suite's attacks to evaluate, without what only training needs: a tracker's package, or
    memory for a selection."""
    evaluation = replace(config.evaluation, attacks=SUITES[suite](config.evaluation.attacks))
    return replace(config, evaluation=evaluation, selection=None, minibatch=None, tracking=[])


def final(prepared: Prepared, trained: Trained | None, reporter: Reporter, which: str, **how: Any) -> Evaluation:
    """Accuracies on the test set as the run file asks for them, in float32; `how` goes to `evaluate`."""
    settings, indices = prepared.config.evaluation, examined(prepared)
    reporter.on_progress(f"evaluate {which}", 0, len(prepared.data.test if indices is None else indices))
    return full_float32()(evaluate)(
        prepared.model,
        prepared.data.test,
        settings.attacks,
        seed=prepared.config.seed,
        batch_size=settings.batch_size,
        indices=indices,
        checks=settings.checks,
        ledger=trained.ledger if trained else None,
        on_chunk=lambda done, total: reporter.on_progress(f"evaluate {which}", done, total),
        **how,
    )


def counted(loaded: Data) -> dict[str, Any]:
    """How many examples are trained on, held out and tested on, their shape, and how many of each class in training."""
    return {
        "train": len(loaded.train),
        "validation": build.held_out(loaded),
        "test": len(loaded.test),
        "shape": list(loaded.train.shape),
        "class_counts": torch.bincount(loaded.whole[loaded.part], minlength=loaded.num_classes).tolist(),
    }
