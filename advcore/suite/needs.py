"""What runs of a suite need before they can start: weights of another method, or scores computed once for all runs."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from advcore.config.load import list_changes
from advcore.config.load import load as load_config
from advcore.config.run_key import OF_METHOD, identify
from advcore.config.schema import RunConfig
from advcore.errors import BusyError, SettingProblem, check, must
from advcore.run import checkpoints
from advcore.runtime import signals
from advcore.runtime.threads import build_thread_environment
from advcore.solvers.base import find_scores_file
from advcore.suite.layout import make_slug
from advcore.suite.process import Outcome, Watcher, score_method
from advcore.suite.suite import Run, Suite


def locate_weights(method: str, seed: int, folder: Path) -> Path:
    """Return the path of a run's last weights below the folder of the suite's records."""
    return folder / "runs" / make_slug(method, seed) / "checkpoints" / "last.safetensors"


def locate_scores(method: str, seed: int, score: str, folder: Path) -> Path:
    """Return the path of a method's scores below the folder of the suite's records."""
    return folder / "scores" / f"{make_slug(method, seed)}-{score}.npz"


# ---- weights ----


def find_weights_gone(folder: Path, runs: Sequence[Run], pending: Sequence[Run]) -> list[SettingProblem]:
    """Return a problem for each run that needs weights of a run that is done, and whose weights are not there."""
    records = {(run.method, run.seed): run.locate_files(folder).record for run in runs}
    problems = {}
    for run in pending:
        record = records.get((run.weights_of or "", run.seed))
        weights = str(run.config.model.weights)
        if record is not None and record.exists() and not Path(weights).exists():
            way_out = f"remove {record}, so that it is trained again"
            problems[record] = must(f"weights of {run.weights_of!r}, seed {run.seed},", "there", weights, way_out)
    return list(problems.values())


# ---- scores ----


@dataclass(frozen=True)
class Scoring:
    """Training of a method, once with the suite's first seed, to score all examples for the runs of all seeds.

    score : its name in GRADIENTS. path : of the file of scores; the settings are next to it.
    """

    method: str
    config: RunConfig = field(repr=False)
    score: str
    path: Path

    @property
    def settings(self) -> Path:
        """The run file that was scored."""
        return self.path.with_suffix(".yaml")


def find_split_problem(suite: Suite, methods: Mapping[str, RunConfig]) -> SettingProblem | None:
    """Return why scores that are made once do not fit seeds that have a data split each; None where they do."""
    sources = {name: _find_scores(config) for name, config in methods.items()}
    scored = [name for name, source in sources.items() if (source or "").startswith(OF_METHOD)]
    way_out = f"scores_of ({', '.join(scored[:3])}) makes scores once, on one split"
    return check(not (suite.vary_split and scored), "vary_split", "false with scores_of", True, way_out)


def _find_scores(config: RunConfig) -> str | None:
    return find_scores_file(config.selection.solver) if config.selection else None


def list_scorings(suite: Suite, methods: Mapping[str, RunConfig], pending: Sequence[Run]) -> list[Scoring]:
    """Return each scoring that some of the pending runs need, once."""
    scorings = {}
    for run in pending:
        if run.scores_of is not None and run.config.selection is not None:
            path = Path(str(_find_scores(run.config)))
            config = replace(methods[run.scores_of], seed=suite.seeds[0])
            scorings[path] = Scoring(run.scores_of, config, str(run.config.selection.solver.reads), path)
    return list(scorings.values())


def find_other_scores(scorings: Sequence[Scoring]) -> list[SettingProblem]:
    """Return a problem for each existing file of scores that was made with other settings."""
    problems = []
    for scoring in scorings:
        if not scoring.path.exists() or not scoring.settings.exists():
            continue
        changes = list_changes(identify(load_config(scoring.settings)), identify(scoring.config))
        if changes:
            got = f"others ({'; '.join(map(str, changes[:3]))})"
            way_out = f"remove {scoring.path}, so that it is made again"
            problems.append(must(f"scores of {scoring.method!r}", "of the suite's settings", got, way_out))
    return problems


def make_scores(scorings: Sequence[Scoring], until: float, watcher: Watcher) -> dict[Path, Outcome]:
    """Make the files of scores that are missing, one after the other, and return how those ended that failed.

    until : when to stop, on the clock of `time.monotonic`. What another process makes, or the time does not suffice
    for, stays missing.
    """
    failed = {}
    for scoring in scorings:
        if scoring.path.exists() or time.monotonic() >= until:
            continue
        outcome = _make_scores(scoring, until, watcher)
        if outcome.kind == "failed":
            error = f"scores of {scoring.method!r}: {outcome.error}"
            failed[scoring.path] = replace(outcome, error=error)
    return failed


def _make_scores(scoring: Scoring, until: float, watcher: Watcher) -> Outcome:
    run = Run(f"scores of {scoring.method}", scoring.config.seed, scoring.config)
    with ExitStack() as lock:
        try:
            lock.enter_context(checkpoints.lock_folder(scoring.path.with_suffix("")))
        except BusyError:
            return Outcome("busy")
        watcher.on_start(run)
        outcome = score_method(
            scoring.config,
            scoring.score,
            scoring.path,
            stop=partial(_must_stop, until),
            on_line=partial(watcher.on_line, run),
            environment=build_thread_environment(1),
        )
        words = {"done": "scored", "failed": "not scored"}  # which the watcher does not count as a run
        watcher.on_end(run, replace(outcome, kind=words.get(outcome.kind, outcome.kind)))
    return outcome


def _must_stop(until: float) -> bool:
    signals.check()
    return time.monotonic() >= until


# ---- both ----


def split_by_needs(pending: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return the runs that can begin, and those that wait for weights of these.

    A run whose scores are not there is neither.
    """
    ready = [run for run in pending if run.scores_of is None or Path(str(_find_scores(run.config))).exists()]
    first = [run for run in ready if run.weights_of is None]
    return first, [run for run in ready if run.weights_of is not None]


def has_weights(run: Run) -> bool:
    """Return whether the weights that a run starts from exist."""
    return Path(str(run.config.model.weights)).exists()


def list_unscored(pending: Sequence[Run], failed: Mapping[Path, Outcome]) -> list[tuple[Run, Outcome]]:
    """Return the runs whose scores failed, with how."""
    needed = [(run, Path(str(_find_scores(run.config)))) for run in pending if run.scores_of is not None]
    return [(run, failed[path]) for run, path in needed if path in failed]
