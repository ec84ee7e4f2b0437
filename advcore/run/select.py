"""Use a run file for one selection, or to score all examples; and save the coresets of a run in its folder."""

import json
import logging
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.config.load import resolve
from advcore.config.schema import RunConfig
from advcore.cost import CostLedger
from advcore.data.base import Data
from advcore.data.pool import Pooled, find_candidates, find_goal
from advcore.errors import UserError, check_one_of, must, require
from advcore.files import has_pair
from advcore.gradients import GRADIENTS
from advcore.gradients.base import Collector, Gradient
from advcore.objectives.base import is_attacked
from advcore.rows import DenseRows
from advcore.run import build
from advcore.run.prepare import Prepared, Reporter, prepare
from advcore.selection.result import Coreset
from advcore.selection.schedule import Schedule
from advcore.selection.scores import Scores
from advcore.solvers.scored import SCORE_ALIASES
from advcore.training.epoch_scores import measure_scores
from advcore.training.loop_settings import agree_on_speed

log = logging.getLogger(__name__)

_STABILITY = "adversarial_instability"


def select(prepared: Prepared, reporter: Reporter) -> Coreset:
    """Select one coreset with the model as it is, drawing the random numbers of the run's first selection.

    Its indices refer to the whole training set, or to its pool.
    """
    selector = prepared.trainer.selector
    assert selector is not None, "only a run file with a selection is used for one"
    speed = agree_on_speed(prepared.trainer.speed, prepared.model, prepared.data.train)
    select_coreset = speed.activate()(selector.select)
    candidates = find_candidates(prepared.data.train)
    reporter.on_progress("select", 0, len(candidates))
    coreset = select_coreset(
        speed.lay_out(prepared.model),
        candidates,
        seed=prepared.config.seed,
        rows=prepared.scores,
        validation=find_goal(prepared.data.train, prepared.data.validation, selector.target),
        epoch=next((i for i, epoch in enumerate(prepared.trainer.schedule.plan()) if epoch.action == "select"), 0),
        on_chunk=partial(reporter.on_progress, "select"),
    )
    return map_to_training_set(coreset, prepared.data)


def choose_score(config: RunConfig, name: str | None) -> str:
    """Return the name of a score in GRADIENTS: `name`, or where that is None the score that the run's solver reads.

    Where no solver reads one, it is what its paper takes over such a run: the learning stability of adversarial
    training (`adversarial_instability`), AIGN of other training. Raises ConfigError for a name that is not a score.
    """
    scores = [key for key, gradient in GRADIENTS.items() if gradient.is_scalar]
    reads = config.selection.solver.reads if config.selection else None
    if not name and reads in scores:
        return reads
    if not name and is_attacked(config.objective):
        return _STABILITY
    name = name or "input_norm"
    require(check_one_of("--score", name, scores, SCORE_ALIASES | {"stability": _STABILITY}))
    return name


def score(config: RunConfig, name: str, reporter: Reporter) -> tuple[Scores, CostLedger]:
    """Train the run file's model on all data, and score every training example after each epoch.

    name : a score in GRADIENTS. Scores over epochs combine all epochs; any other score is that of the last epoch.

    Returns the scores, and what training and scoring cost. Raises ConfigError for a score of attacked images where the
    objective attacks none.
    """
    gradient = GRADIENTS[name]
    objective = type(config.objective).__name__.lower()
    if gradient.is_attacked and not is_attacked(config.objective):
        require(must("--score", "one of clean images for an objective that is not attacked", name, objective))
    with distributed.fail_together():
        prepared = prepare(config, scores=False)
    data = prepared.data
    collector = (gradient.collect or _LastScores)()
    ledger = CostLedger()
    schedule = Schedule(epochs=config.training.epochs)
    trainer = replace(prepared.trainer, schedule=schedule, selector=None, minibatch=None, probe_epochs=0)
    listener = replace(reporter, on_model=partial(_add_scores, gradient, prepared, collector, ledger))
    trained = trainer.fit(
        prepared.model, data.train, data.validation, seed=config.seed, augment=data.augment, listener=listener
    )
    distributed.merge_ledgers(ledger)
    ledger.add(trained.ledger)
    scores = Scores(
        indices=data.part,
        values=collector.rows.matrix[:, 0].double().cpu(),
        num_examples=len(data.whole),
        fingerprint=build.compute_fingerprint(data),
        score=name,
        epochs=len(trained.epochs),
        model=resolve(config)["model"]["name"],
        objective=objective,
        seed=config.seed,
        passes=ledger.sum_units(),
        flops=ledger.sum_flops() or 0,
    )
    return scores, ledger


class _LastScores:
    """A collector that keeps the scores of the last epoch only."""

    def add(self, scores: Tensor) -> None:
        self.rows = DenseRows(matrix=scores[:, None])


def _add_scores(
    gradient: Gradient, prepared: Prepared, collector: Collector | _LastScores, ledger: CostLedger, model: nn.Module
) -> None:
    collector.add(
        measure_scores(
            gradient,
            prepared.trainer,
            model,
            source=prepared.data.train,
            seed=prepared.config.seed,
            ledger=ledger,
            on_event=partial(log.warning, "%s"),
        )
    )


def list_overrides(config: RunConfig, score: str, path: Path) -> list[str]:
    """Return the overrides with which a run file's solver reads its scores from `path`.

    Where the solver does not read this score, the overrides name the solver `by_score`.
    """
    if config.selection is not None and config.selection.solver.reads == score:
        return [f"selection.solver.scores={json.dumps(str(path))}"]
    points = "adversarial" if score.startswith("adversarial_") else "clean"
    kind = score.removeprefix("adversarial_")
    solver = f"name: by_score, score: {kind}, points: {points}"
    if score == _STABILITY:
        solver += ", keep: easiest"
    overrides = [f"selection.solver={{{solver}, scores: {json.dumps(str(path))}}}"]
    if config.data.pool is not None:
        overrides.append("data.pool=null")  # whose images have no scores yet
    return overrides


def summarise(coreset: Coreset) -> dict:
    """Return a coreset's facts for the record."""
    return {
        "epoch": coreset.epoch,
        "solver": coreset.solver,
        "partition": coreset.partition,
        "k": len(coreset),
        **coreset.quality,
        **({"seconds": dict.fromkeys(("attack", "rows", "solve"), 0.0), "passes": 0} | coreset.cost),
    }


def map_to_training_set(coreset: Coreset, data: Data) -> Coreset:
    """Return the coreset with indices into the whole training set, not into the part left after validation.

    One of a pool stays as it is: all of the pool is trained on.
    """
    if isinstance(data.train, Pooled):
        return coreset
    return replace(
        coreset,
        indices=data.part[coreset.indices],
        num_examples=len(data.whole),
        population=len(data.part),
        fingerprint=build.compute_fingerprint(data),
    )


def keep_coreset(run: Path, coreset: Coreset) -> str | None:
    """Write a coreset into a run's folder, unless an undamaged file there holds the same examples and weights.

    Returns None, or, where a file had to be written again, one line that says why. The line is logged, too.
    """
    path = _locate_coreset(run, coreset)
    if has_pair(path):
        return _rewrite_if_different(path, coreset)
    coreset.save(path)
    return None


def restore_coresets(run: Path, state: dict | None, data: Data) -> list[str]:
    """Write the coresets of a state again whose files are missing or damaged; return, and log, a line about each."""
    saved = state["coresets"] if state else []
    coresets = [map_to_training_set(Coreset.from_state(values), data) for values in saved]
    lines = [_rewrite_if_different(_locate_coreset(run, coreset), coreset) for coreset in coresets]
    return [line for line in lines if line is not None]


def _locate_coreset(run: Path, coreset: Coreset) -> Path:
    return run / "coresets" / f"epoch-{coreset.epoch:03d}.npz"


def _rewrite_if_different(path: Path, coreset: Coreset) -> str | None:
    """Write the coreset to the file unless that holds it; return, and log, a line about why it was written again."""
    difference = f"{path} holds another coreset"
    try:
        saved = Coreset.load(path)
        if torch.equal(saved.indices, coreset.indices) and torch.equal(saved.weights, coreset.weights):
            return None
    except UserError as error:
        difference = str(error)
    coreset.save(path)
    line = f"{difference}; it is written again"
    log.warning("%s", line)
    return line
