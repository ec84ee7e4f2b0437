"""A run file used for one selection, or for scores; and coresets as a run keeps them."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advcore import distributed
from advcore.cost import CostLedger
from advcore.data.base import Data
from advcore.errors import ConfigError, UserError, must
from advcore.files import has_pair
from advcore.gradients import GRADIENTS
from advcore.objectives.base import attacked
from advcore.rng import Stream
from advcore.runner import build
from advcore.runner.config import resolved
from advcore.runner.prepare import Prepared, Reporter, prepare, speed_of
from advcore.runner.schema import RunConfig
from advcore.selection.schedule import Schedule
from advcore.selection.scores import Scores
from advcore.training.loop import shared_speed
from advcore.types import Coreset

log = logging.getLogger(__name__)


def select(prepared: Prepared, reporter: Reporter) -> Coreset:
    """One coreset with the model as it stands; random numbers are those of the run's first selection."""
    plan, speed = prepared.trainer.schedule.plan(), shared_speed(lambda: speed_of(prepared))
    choose = speed.running()(prepared.trainer.selector.select)
    reporter.on_progress("select", 0, len(prepared.data.train))
    chosen = choose(
        speed.prepared(prepared.model),
        prepared.data.train,
        seed=prepared.config.seed,
        rows=prepared.scores,
        validation=prepared.data.validation,
        epoch=next((i for i, epoch in enumerate(plan) if epoch.action == "select"), 0),
        on_chunk=lambda done, total: reporter.on_progress("select", done, total),
    )
    return in_training_set(chosen, prepared.data)


def score(config: RunConfig, name: str, reporter: Reporter) -> Scores:
    """Train the run file's model on all data, and score every example by `name`, of GRADIENTS, after each epoch."""
    gradient, kind = GRADIENTS[name], type(config.objective).__name__.lower()
    if gradient.attacked and not attacked(config.objective):
        raise ConfigError(must("--score", "one of clean images for an objective that is not attacked", name, kind))
    with distributed.together():
        prepared = prepare(config, scores=False)
    loaded, selector = prepared.data, prepared.trainer.selector
    whole = Schedule(epochs=config.training.epochs)
    trainer = replace(prepared.trainer, schedule=whole, selector=None, minibatch=None, probe_epochs=0)
    collector, ledger, last = gradient.collect() if gradient.collect else None, CostLedger(), []

    def on_model(model: nn.Module) -> None:
        found = gradient.measure(
            model,
            loaded.train,
            objective=trainer.objective,
            attack=selector.attack if selector else trainer.attack,
            stream=Stream(seed=config.seed, purpose="scoring"),
            ledger=ledger,
            head=config.model.head,
            **({"chunk_size": selector.chunk_size} if selector else {}),
        )
        for event in found.events:
            log.warning("%s", event)
        scores = found.rows.matrix[:, 0]
        last[:] = [scores]
        if collector:
            collector.add(scores)

    trained = trainer.fit(
        prepared.model,
        loaded.train,
        loaded.validation,
        seed=config.seed,
        augment=loaded.augment,
        listener=replace(reporter, on_model=on_model),
    )
    return Scores(
        indices=loaded.part,
        values=(collector.rows.matrix[:, 0] if collector else last[0]).double().cpu(),
        num_examples=len(loaded.whole),
        fingerprint=build.whole_fingerprint(loaded),
        score=name,
        epochs=len(trained.epochs),
        model=resolved(config)["model"]["name"],
        objective=kind,
        seed=config.seed,
    )


def solver_reading(config: RunConfig, score: str, path: Path) -> list[str]:
    """Return overrides with which a run file's solver reads its scores from `path`; another solver where its own reads
    no such score."""
    solver = config.selection.solver if config.selection else None
    if solver is not None and solver.reads == score:
        return [f"selection.solver.scores={json.dumps(str(path))}"]
    points = "adversarial" if score.startswith("adversarial_") else "clean"
    kind = score.removeprefix("adversarial_")
    return [f"selection.solver={{name: by_score, score: {kind}, points: {points}, scores: {json.dumps(str(path))}}}"]


def summary(coreset: Coreset) -> dict:
    """A coreset's facts for the record."""
    return {
        "epoch": coreset.epoch,
        "solver": coreset.solver,
        "partition": coreset.partition,
        "k": len(coreset),
        **coreset.quality,
        **({"seconds": dict.fromkeys(("attack", "rows", "solve"), 0.0), "passes": 0} | coreset.cost),
    }


def in_training_set(coreset: Coreset, loaded: Data) -> Coreset:
    """The same coreset with indices into the whole training set, not into the part left after validation."""
    return replace(
        coreset,
        indices=loaded.part[coreset.indices],
        num_examples=len(loaded.whole),
        population=len(loaded.part),
        fingerprint=build.whole_fingerprint(loaded),
    )


def keep_coreset(run: Path, coreset: Coreset) -> str | None:
    """Write a coreset into a run's folder, unless its file is there, whole, and holds the same examples and weights.

    Returns None, or one line, which is logged too: why a file that was there had to be written again.
    """
    path = _coreset_file(run, coreset)
    why = _difference(path, coreset) if has_pair(path) else ""
    if why is None:
        return None
    coreset.save(path)
    return _say_again(why) if why else None


def restore_coresets(run: Path, state: dict[str, Any] | None, loaded: Data) -> list[str]:
    """Write those coresets of a state again whose files are missing or damaged. Returns a line about each, which is
    logged too."""
    lines = []
    for values in state["coresets"] if state else ():
        coreset = in_training_set(Coreset.restored(values), loaded)
        path = _coreset_file(run, coreset)
        why = _difference(path, coreset)
        if why is not None:
            coreset.save(path)
            lines.append(_say_again(why))
    return lines


def _coreset_file(run: Path, coreset: Coreset) -> Path:
    return run / "coresets" / f"epoch-{coreset.epoch:03d}.npz"


def _difference(path: Path, coreset: Coreset) -> str | None:
    """Why the file is not the coreset's; None where it is."""
    try:
        saved = Coreset.load(path)
    except UserError as error:
        return str(error)
    same = torch.equal(saved.indices, coreset.indices) and torch.equal(saved.weights, coreset.weights)
    return None if same else f"{path} holds another coreset"


def _say_again(why: str) -> str:
    line = f"{why}; it is written again"
    log.warning("%s", line)
    return line
