"""A suite: one YAML file to the runs of many methods, checked whole before any of them starts. Pure: reads no data."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from advcore.errors import ConfigError, UserError, must, one_of, require
from advcore.runner import build
from advcore.runner.config import apply_overrides, changed, from_dict
from advcore.runner.schema import RunConfig
from advcore.runner.suite_file import BASELINES, MOST_RUNS, OWN, left_out, problems, slug, written_out
from advcore.runner.yaml_reader import parse_overrides, read

_SEEDS = (0, 1, 2)
_MOST_PROBLEMS = 5_000  # of all methods; more are not looked for


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What a suite file says, of one size.

    name, title : for tables. size : which of its sizes; None where it has none. records : the folder of its records.
    seeds : of every method. methods : unchecked settings by name, in the order of tables. reference : the method whose
    cost and time the others are set beside; None for none. without : baselines that it leaves out.
    """

    name: str
    title: str
    size: str | None
    records: Path
    seeds: tuple[int, ...]
    methods: dict[str, dict[str, Any]]
    reference: str | None
    without: tuple[str, ...] = ()

    @property
    def added(self) -> tuple[str, ...]:
        """Baselines that are to be added."""
        return tuple(name for name in BASELINES if name not in self.without)


@dataclass(frozen=True)
class Run:
    """One method with one seed."""

    method: str
    seed: int
    config: RunConfig = field(repr=False)

    @property
    def slug(self) -> str:
        """Names its files."""
        return slug(self.method, self.seed)


def load(path: str | Path, size: str | None = None, overrides: Sequence[str] = ()) -> Suite:
    """The suite at `path`, its grids written out, `a.b=c` overrides made in every run.

    Raises ConfigError with every problem of the suite's own keys; what the methods' settings mean is checked by
    `configs`.
    """
    path = Path(path)
    raw = read(path)
    if "methods" not in raw and {"training", "objective"} <= raw.keys():
        raise ConfigError(must("SUITE", "a suite", str(path), "it is a run file: advcore run does it"))
    require(*problems(raw))
    sizes = raw.get("sizes") or {}
    if size is not None or sizes:
        way_out = "" if sizes else "the suite has no sizes"
        require(one_of("--size", size, sizes) if sizes else must("--size", "left out", size, way_out))
    own = sizes.get(size) or {}
    seeds = tuple(own.get("seeds") or raw.get("seeds") or _SEEDS)
    shared = (raw.get("set") or {}) | (own.get("set") or {})
    experiments = _Experiments(path.parent, own.get("experiment", raw.get("experiment")), shared)
    methods = _settings(written_out(raw), experiments, overrides)
    if len(methods) * len(seeds) > MOST_RUNS:
        raise ConfigError(must("methods times seeds", f"at most {MOST_RUNS:,} runs", len(methods) * len(seeds)))
    reference = raw.get("reference", "full")
    folder = path.parent / raw["records"] if raw.get("records") else Path("runs/bench") / raw["name"]
    return Suite(
        name=raw["name"],
        title=own.get("title") or raw.get("title") or raw["name"],
        size=size,
        records=folder,
        seeds=seeds,
        methods=_of_one_cost(methods, reference),
        reference=reference,
        without=left_out(raw.get("baselines")),
    )


class _Experiments:
    """The run files that a suite's methods start from, each read once, with what the suite sets in every run."""

    def __init__(self, folder: Path, default: str | None, shared: dict[str, Any]):
        self._folder = folder
        self._default = default
        self._shared = shared
        self._read: dict[str, dict | UserError] = {}

    def settings(self, method: dict[str, Any]) -> dict[str, Any]:
        """Return what a method changes. Raises ConfigError for a run file that cannot be read, at each call."""
        path = self._folder / method.get("experiment", self._default)
        key = os.path.realpath(path)
        if key not in self._read:
            try:
                self._read[key] = changed(read(path), self._shared)
            except UserError as error:
                self._read[key] = error
        settings = self._read[key]
        if isinstance(settings, UserError):
            raise settings
        return settings


def _settings(methods: dict[str, dict], experiments: _Experiments, overrides: Sequence[str]) -> dict[str, dict]:
    """Return every method's settings: its experiment, what the suite and the size set, its own, and the overrides."""
    parsed = parse_overrides(overrides)
    settings: dict[str, dict] = {}
    problems: dict[str, list[str]] = {}
    for name, method in methods.items():
        try:
            own = {key: value for key, value in method.items() if key not in OWN}
            settings[name] = apply_overrides(changed(experiments.settings(method), own), parsed)
        except UserError as error:
            _add_problems(problems, error, name)
    _raise_problems(problems, len(methods))
    return settings


def _add_problems(problems: dict[str, list[str]], error: UserError, method: str) -> None:
    """Add what is wrong with a method to the names of the methods by problem."""
    for problem in error.problems:
        problems.setdefault(problem, []).append(method)


def _raise_problems(problems: dict[str, list[str]], methods: int) -> None:
    """Raise ConfigError with each problem once, after the names of the methods that have it."""
    require(
        *(
            f"{'every method' if len(names) == methods else f'method {_some(names)}'}: {problem}"
            for problem, names in problems.items()
        )
    )


def _of_one_cost(methods: dict[str, dict], reference: str | None) -> dict[str, dict]:
    """With `cost` as the reference method has it: what costs are relative to is the same in the whole suite."""
    first = methods[reference if reference is not None else next(iter(methods))]
    given = dict(first.get("cost") or {})
    try:
        config = from_dict(first)
        steps, epochs = getattr(config.attack, "steps", None), config.training.epochs
    except ConfigError:  # told by `configs`
        steps = epochs = None
    if given.get("reference_steps") is None and steps is not None:
        given["reference_steps"] = steps
    if given.get("reference_epochs") is None and epochs is not None:
        given["reference_epochs"] = epochs
    return {name: raw | {"cost": given} for name, raw in methods.items()}


def configs(suite: Suite) -> dict[str, RunConfig]:
    """Every method's settings, resolved, and fit together as far as that is known without data. Raises ConfigError with
    all problems of all methods, each with the method's name."""
    found: dict[str, RunConfig] = {}
    problems: dict[str, list[str]] = {}
    for name, raw in suite.methods.items():
        try:
            found[name] = from_dict(raw)
            build.trainer(found[name])
        except UserError as error:
            _add_problems(problems, error, name)
        if sum(map(len, problems.values())) > _MOST_PROBLEMS:
            problems[f"more than {_MOST_PROBLEMS:,} problems; methods after this are not checked yet"] = [name]
            break
    _raise_problems(problems, len(suite.methods))
    return found


def _some(names: list[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def runs(suite: Suite, methods: dict[str, RunConfig]) -> list[Run]:
    """One a seed and method; all methods with the first seed come first."""
    return [Run(name, seed, replace(config, seed=seed)) for seed in suite.seeds for name, config in methods.items()]


def shard(found: list[Run], part: str | None) -> list[Run]:
    """The i-th of n parts, for "i/n" with i from 1: every n-th run. Raises ConfigError for anything else."""
    if part is None:
        return found
    match = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", part)
    i, n = map(int, match.groups()) if match else (0, 0)
    require(None if 1 <= i <= n else must("--shard", "i/n with i from 1 to n, such as 1/2", part))
    return found[i - 1 :: n]
