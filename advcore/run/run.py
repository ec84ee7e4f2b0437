"""Carry out a prepared run: train, select, evaluate, and write the record as results come in."""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from advcore import distributed
from advcore.config.schema import RunConfig
from advcore.data.split import subsample
from advcore.errors import AdvcoreError, CheckpointError, UnsafeFileError
from advcore.evaluation.evaluate import Evaluation, evaluate
from advcore.evaluation.suites import SUITES
from advcore.reporting.record import RunRecord
from advcore.run import checkpoints
from advcore.run.prepare import Prepared, Reporter
from advcore.run.resume import Journal, begin_run, new_record
from advcore.run.select import keep_coreset, map_to_training_set, summarise
from advcore.run.weights import save_state
from advcore.runtime.device import force_float32, measure_peak_memory
from advcore.selection.result import Coreset
from advcore.tracking import find_tracker_name, metrics
from advcore.tracking.dispatch import Tracking
from advcore.training.loop import Listener, State, Trained
from advcore.training.progress import Snapshot

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
    """Carry out a run in the folder `path`, with the folder locked and every place in it tried before.

    Parameters
    ----------
    resume : continue the run that is in the folder, if there is one. Otherwise an earlier run there is removed.
    job : the launcher's names for the job that begins the run (`distributed.launchers`).
    locked : the caller has locked the folder (`checkpoints.alone`), in order to fail before it reads any data.

    Raises BusyError if another run works there, ConfigError for a place that cannot be written, and, once it runs,
    OSError with the path. `_run` lists what is written.
    """
    with contextlib.ExitStack() as lock:
        with distributed.fail_together():
            if distributed.is_first() and not locked:
                lock.enter_context(checkpoints.lock_folder(path))
        return _run(prepared, path, reporter or Reporter(), resume=resume, job=job)


def _run(prepared: Prepared, path: Path, reporter: Reporter, *, resume: bool, job: Sequence[str]) -> RunRecord:
    """Train, select and evaluate; bring `path/record.json` up to date after every epoch.

    Also writes `metrics.jsonl` and `metrics.csv`, one row per epoch; `checkpoints/last` and `best` (.safetensors with a
    JSON beside it, and as .npz the final evaluation's verdict on each test image); `coresets/epoch-NNN.npz`; what
    trackers keep, in `tracking/`; and `states/`, from which `resume` continues. A finished run that is resumed stays as
    it is. Of several processes, only the first one reads and writes files of the run.
    """
    journal = Journal(prepared, path, began=time.perf_counter(), record=new_record(prepared))
    beginning = distributed.run_on_first(partial(begin_run, journal, resume, job))
    record = journal.record
    if beginning["done"]:
        return record
    reporter.on_plan(prepared.plan)
    with contextlib.closing(_open_tracking(journal)) as tracking:
        trained = _train(journal, reporter, tracking, state=beginning["state"])
        _evaluate_states(journal, reporter, trained)
        tracking.close(metrics.flatten_final(record.final, record.relative_cost))
        tracking.report(record.events, len(record.epochs))
    record.peak_memory = measure_peak_memory(prepared.data.train.device)
    record.finished = True
    journal.save()
    return record


def _open_tracking(journal: Journal) -> Tracking:
    tracking = journal.prepared.config.tracking  # of several processes, only the first one has trackers
    trackers = {find_tracker_name(tracker): tracker for tracker in tracking if distributed.is_first()}
    settings = {key: value for key, value in journal.record.config.items() if key != "tracking"}
    return Tracking(trackers, journal.path, journal.record.name, settings)


def _train(journal: Journal, reporter: Reporter, tracking: Tracking, state: Snapshot | None) -> Trained:
    """Train, from `state` on if there is one. The first process writes the results as they come in."""
    prepared = journal.prepared
    period = prepared.config.checkpoint.period
    # the other processes take part in gathering a state, which the first one then writes
    listener = Listener(on_checkpoint=_gather_checkpoint, period=period)
    if distributed.is_first():
        listener = replace(
            reporter,
            on_epoch=partial(_write_epoch, journal, reporter, tracking),
            on_coreset=partial(_write_coreset, journal, reporter),
            on_state=partial(save_state, journal.path),
            on_checkpoint=partial(_write_checkpoint, journal),
            period=period,
        )
    trained = prepared.trainer.fit(
        prepared.model,
        prepared.data.train,
        prepared.data.validation,
        seed=prepared.config.seed,
        augment=prepared.data.augment,
        listener=listener,
        scores=prepared.scores,
        resume=state,
    )
    tracking.tell(metrics.build_rows(trained.epochs, journal.record.selections, journal.record.reference["units"]))
    tracking.report(trained.events, len(trained.epochs))
    return trained


def _write_epoch(journal: Journal, reporter: Reporter, tracking: Tracking, entry: dict, so_far: Trained) -> None:
    _count(journal.record, so_far, journal.prepared)
    journal.save()
    tracking.tell(journal.list_metrics())
    tracking.report(so_far.events, entry["epoch"])
    reporter.on_epoch(entry, so_far)


def _write_coreset(journal: Journal, reporter: Reporter, coreset: Coreset) -> None:
    problem = keep_coreset(journal.path, map_to_training_set(coreset, journal.prepared.data))
    if problem and journal.record.resumes:
        journal.record.resumes[-1]["damaged"].append(problem)
    reporter.on_coreset(coreset)


def _gather_checkpoint(state: Callable[[], Snapshot]) -> None:
    state()


def _write_checkpoint(journal: Journal, state: Callable[[], Snapshot]) -> None:
    try:
        checkpoints.save(journal.path, state, journal.list_facts(), journal.prepared.config.checkpoint.kept)
    except CheckpointError as error:
        raise AdvcoreError(f"the state that was just written is not what reads back: {error}") from None


def _evaluate_states(journal: Journal, reporter: Reporter, trained: Trained) -> None:
    """Save and evaluate the last state and the best one, and add the cost of that to the record.

    Without validation examples, the last state counts as the best one.
    """
    final_entry = trained.epochs[-1]
    best_entry = final_entry if trained.best_epoch is None else trained.epochs[trained.best_epoch]
    if distributed.is_first():
        save_state(journal.path, "last", trained.last, final_entry)
        save_state(journal.path, "best", trained.best, best_entry)
    results = journal.record.final
    measure = partial(_evaluate_state, journal, reporter, trained)
    results["last"] = measure("last", trained.last)
    if best_entry["epoch"] == final_entry["epoch"]:
        results["best"] = results["last"]
    else:
        results["best"] = measure("best", trained.best)
    journal.record.best_epoch = trained.best_epoch
    distributed.merge_ledgers(trained.ledger)
    _count(journal.record, trained, journal.prepared)


def _evaluate_state(journal: Journal, reporter: Reporter, trained: Trained, which: str, state: State) -> dict:
    """Return the final accuracies of a state, continuing from the verdicts that a stopped evaluation left.

    Verdicts that are damaged, or of other settings, are removed.
    """
    reporter.on_final(which)
    journal.prepared.model.load_state_dict(state)
    verdicts = journal.path / "checkpoints" / f"{which}-verdicts.npz"
    evaluate_state = partial(evaluate_final, journal.prepared, trained, reporter, which, state=verdicts)
    try:
        return evaluate_state().as_dict()
    except (CheckpointError, UnsafeFileError) as error:
        log.warning("%s; evaluating %s anew", error, which)
    if distributed.is_first():
        verdicts.unlink()
    return evaluate_state().as_dict()


def _count(record: RunRecord, trained: Trained, prepared: Prepared) -> None:
    """Bring the record up to date with what was done so far, what fell back, and what it cost."""
    record.epochs = trained.epochs
    record.selections = [summarise(coreset) for coreset in trained.coresets]
    record.events = trained.events
    record.ledger = trained.ledger.summarise()
    record.relative_cost = trained.ledger.sum_units() / prepared.plan.reference.units


def choose_examples(prepared: Prepared) -> Tensor | None:
    """Return the positions of the test examples to evaluate, (n,) long; None for all of them."""
    size = prepared.config.evaluation.examples
    if size is None:
        return None
    return subsample(prepared.data.test.labels(), size, prepared.config.data.split_seed, "evaluation")


def config_for_evaluation(config: RunConfig, suite: str) -> RunConfig:
    """Return the config with a named suite's attacks to evaluate, and without what only training needs, such as the
    package of a tracker or the memory for a selection."""
    evaluation = replace(config.evaluation, attacks=list(SUITES[suite](config.evaluation.attacks)))
    return replace(config, evaluation=evaluation, selection=None, minibatch=None, tracking=[])


def evaluate_final(
    prepared: Prepared,
    trained: Trained | None,
    reporter: Reporter,
    which: str,
    *,
    state: Path | None = None,
    keep_examples: bool = False,
) -> Evaluation:
    """Return the accuracies on the test set that the run file asks for, in float32.

    trained : what training left; its ledger counts the passes. which : the name of the weights, for the progress.
    state, keep_examples : as in `evaluate`.
    """
    settings = prepared.config.evaluation
    ledger = None
    if trained is not None:
        ledger = trained.ledger
    indices = choose_examples(prepared)
    report_progress = partial(reporter.on_progress, f"evaluate {which}")
    report_progress(0, len(prepared.data.test if indices is None else indices))
    return force_float32()(evaluate)(
        prepared.model,
        prepared.data.test,
        settings.attacks,
        seed=prepared.config.seed,
        batch_size=settings.batch_size,
        indices=indices,
        checks=settings.checks,
        ledger=ledger,
        on_chunk=report_progress,
        state=state,
        keep_examples=keep_examples,
    )
