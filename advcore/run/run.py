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
from advcore.cost import CostLedger
from advcore.data.split import subsample
from advcore.errors import AdvcoreError, CheckpointError, UnsafeFileError
from advcore.evaluation.evaluate import Evaluation, evaluate
from advcore.evaluation.suites import SUITES
from advcore.reporting.record import RunRecord
from advcore.run import checkpoints, select, weights
from advcore.run.prepare import Prepared, Reporter
from advcore.run.resume import Journal, begin_run, create_record
from advcore.runtime.device import force_float32, measure_peak_memory
from advcore.runtime.states import load_state
from advcore.selection.result import Coreset
from advcore.tracking import find_tracker_name, metrics
from advcore.tracking.dispatch import Tracking
from advcore.training.progress import Listener, Snapshot, Trained

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
    """Train, select and evaluate in the folder `path`, and return the record.

    The folder is locked, and every place in it tried before. `record.json` is brought up to date after every epoch.
    Next to it are `metrics.jsonl` and `metrics.csv`, one row per epoch; in `checkpoints/` the states "last", "best"
    and, after catastrophic overfitting, "before_collapse" (.safetensors with its JSON), and the final evaluation's
    verdict on each test image (last-verdicts.npz, and best-verdicts.npz if the best state is another one);
    `coresets/epoch-NNN.npz`; what trackers keep, in `tracking/`; and `states/`, from which `resume` continues. Of
    several processes, only the first one reads and writes files of the run.

    Parameters
    ----------
    resume : continue the run that is in the folder, if there is one; a finished run stays as it is. Otherwise an
        earlier run there is removed.
    job : the launcher's names for the job that begins the run (`distributed.name_launchers`).
    locked : the caller has locked the folder (`checkpoints.lock_folder`), in order to fail before it reads any data.

    Raises BusyError if another run works there, UnsafeFileError if a link in the folder leads out of it, ConfigError
    for a place that cannot be written or settings that a run cannot continue with, AdvcoreError where it needs a state
    and none is undamaged; once it runs, OSError with the path, and what `Trainer.fit` and `evaluate` raise.
    """
    with contextlib.ExitStack() as lock:
        with distributed.fail_together():
            if distributed.is_first() and not locked:
                lock.enter_context(checkpoints.lock_folder(path))
        return _run_in_locked_folder(prepared, path, reporter or Reporter(), resume=resume, job=job)


def _run_in_locked_folder(
    prepared: Prepared, path: Path, reporter: Reporter, *, resume: bool, job: Sequence[str]
) -> RunRecord:
    journal = Journal(prepared, path, began=time.perf_counter(), record=create_record(prepared))
    is_done, state = distributed.run_on_first(partial(begin_run, journal, resume, job))
    record = journal.record
    if is_done:
        return record
    reporter.on_plan(prepared.plan)
    with contextlib.closing(_open_tracking(journal)) as tracking:
        trained = _train(journal, reporter, tracking, state=state)
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
            on_epoch=partial(_record_epoch, journal, reporter, tracking),
            on_coreset=partial(_record_coreset, journal, reporter),
            on_state=partial(weights.save_state, journal.path),
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
    tracking.tell(metrics.build_rows(trained.epochs, journal.record.selections, journal.record.reference))
    tracking.report(trained.events, len(trained.epochs))
    return trained


def _record_epoch(journal: Journal, reporter: Reporter, tracking: Tracking, entry: dict, so_far: Trained) -> None:
    """Bring the record up to date after an epoch, and send the epoch to the trackers and the reporter."""
    journal.take_results(so_far)
    journal.save()
    tracking.tell(journal.list_metrics())
    tracking.report(so_far.events, entry["epoch"])
    reporter.on_epoch(entry, so_far)


def _record_coreset(journal: Journal, reporter: Reporter, coreset: Coreset) -> None:
    """Write a coreset into the run's folder, and report it; the record says where it replaced a damaged file."""
    problem = select.keep_coreset(journal.path, select.map_to_training_set(coreset, journal.prepared.data))
    if problem and journal.record.resumes:
        journal.record.resumes[-1]["damaged"].append(problem)
    reporter.on_coreset(coreset)


def _gather_checkpoint(gather_state: Callable[[], Snapshot]) -> None:
    gather_state()


def _write_checkpoint(journal: Journal, gather_state: Callable[[], Snapshot]) -> None:
    try:
        checkpoints.save(journal.path, gather_state, journal.list_facts(), journal.prepared.config.checkpoint.kept)
    except CheckpointError as error:
        raise AdvcoreError(f"the state that was just written differs when it is read back: {error}") from None


def _evaluate_states(journal: Journal, reporter: Reporter, trained: Trained) -> None:
    """Save and evaluate the last state and the best one; the record takes the results, and what all of it cost.

    Without validation examples, the last state counts as the best one. A state that is both is evaluated once.
    """
    final_entry = trained.epochs[-1]
    best_entry = final_entry if trained.best_epoch is None else trained.epochs[trained.best_epoch]
    if distributed.is_first():
        weights.save_state(journal.path, "last", trained.last, final_entry)
        weights.save_state(journal.path, "best", trained.best, best_entry)
    last = _evaluate_state(journal, reporter, trained, "last")
    best = last
    if best_entry["epoch"] != final_entry["epoch"]:
        best = _evaluate_state(journal, reporter, trained, "best")
    journal.record.final = {"last": last, "best": best}
    journal.record.best_epoch = trained.best_epoch
    distributed.merge_ledgers(trained.ledger)
    journal.take_results(trained)


def _evaluate_state(journal: Journal, reporter: Reporter, trained: Trained, which: str) -> dict:
    """Load the state "last" or "best" into the model, and return its final accuracies, by name.

    A stopped evaluation is continued from the verdicts that it left. Those that are damaged, or of other settings, are
    removed.
    """
    reporter.on_final(which)
    load_state(journal.prepared.model, getattr(trained, which))
    verdicts = journal.path / "checkpoints" / f"{which}-verdicts.npz"
    evaluate_state = partial(evaluate_final, journal.prepared, reporter, which, ledger=trained.ledger, state=verdicts)
    try:
        return evaluate_state().as_dict()
    except (CheckpointError, UnsafeFileError) as error:
        log.warning("%s; evaluating %s again", error, which)
    if distributed.is_first():
        verdicts.unlink()
    return evaluate_state().as_dict()


def choose_examples(prepared: Prepared) -> Tensor | None:
    """Return the positions of the test examples to evaluate, (n,) long, ascending; None for all of them.

    Raises DataError if the run file asks for more than there are.
    """
    size = prepared.config.evaluation.examples
    if size is None:
        return None
    return subsample(prepared.data.test.labels(), size, prepared.config.data.split_seed, "evaluation")


def configure_suite(config: RunConfig, suite: str) -> RunConfig:
    """Return the settings that evaluate a run by the attacks of a suite, without settings that only training needs.

    So neither the package of a tracker nor the memory for a selection is asked for. suite : one of SUITES.
    Raises ConfigError for the suite "autoattack" if no attack of the config has an lp ball.
    """
    evaluation = replace(config.evaluation, attacks=list(SUITES[suite](config.evaluation.attacks)))
    return replace(config, evaluation=evaluation, selection=None, minibatch=None, tracking=[])


def evaluate_final(
    prepared: Prepared,
    reporter: Reporter,
    which: str,
    *,
    ledger: CostLedger | None = None,
    state: Path | None = None,
    keep_examples: bool = False,
) -> Evaluation:
    """Evaluate the model, in float32, by the attacks and on the test examples that the run file asks for.

    which : the name of the weights, for the progress. ledger, state, keep_examples : as in `evaluate`.
    Raises as `evaluate` and `choose_examples` do.
    """
    settings = prepared.config.evaluation
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
