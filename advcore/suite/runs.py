"""The runs of a suite: each method with each seed, with the paths of what it takes from other methods."""

import re
from dataclasses import replace
from pathlib import Path

from advcore.config.run_key import OF_METHOD
from advcore.config.schema import RunConfig
from advcore.errors import check, require
from advcore.suite.needs import locate_scores, locate_weights
from advcore.suite.suite import Run, Suite


def list_runs(suite: Suite, methods: dict[str, RunConfig], folder: Path | None = None) -> list[Run]:
    """Return a run for each seed and method: all methods with the first seed, then all with the second, and so on.

    folder : of the suite's records, where a run finds the weights and scores of others; None means the usual one.
    """
    folder = folder or suite.records
    runs = [Run(name, seed, _set_seed(suite, methods[name], seed)) for seed in suite.seeds for name in methods]
    return [_locate_scores(_locate_weights(run, folder), suite.seeds[0], folder) for run in runs]


def _set_seed(suite: Suite, config: RunConfig, seed: int) -> RunConfig:
    if suite.vary_split:
        config = replace(config, data=replace(config.data, split_seed=seed))
    return replace(config, seed=seed)


def _locate_weights(run: Run, folder: Path) -> Run:
    """Return the run with the path of the weights of the method that it begins with, if it does."""
    weights = run.config.model.weights or ""
    method = weights.removeprefix(OF_METHOD)
    if method == weights:
        return run
    model = replace(run.config.model, weights=str(locate_weights(method, run.seed, folder)))
    return replace(run, config=replace(run.config, model=model), weights_of=method)


def _locate_scores(run: Run, seed: int, folder: Path) -> Run:
    """Return the run with the path of the scores that its solver reads of another method, if it does.

    seed : with which that method is trained to be scored, for the runs of all seeds.
    """
    selection = run.config.selection
    source = getattr(selection and selection.solver, "scores", None) or ""
    method = source.removeprefix(OF_METHOD)
    if selection is None or method == source:
        return run
    path = locate_scores(method, seed, selection.solver.reads or "", folder)
    solver = replace(selection.solver, scores=str(path))
    return replace(run, config=replace(run.config, selection=replace(selection, solver=solver)), scores_of=method)


def shard(runs: list[Run], part: str | None) -> list[Run]:
    """Return part i of n, for "i/n" with i from 1: every n-th run; all of them for None.

    Raises ConfigError for a part of any other form.
    """
    if part is None:
        return runs
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", part)
    i, n = map(int, match.groups()) if match else (0, 0)
    require(check(1 <= i <= n, "--shard", "i/n with i from 1 to n, such as 1/2", part))
    return runs[i - 1 :: n]
