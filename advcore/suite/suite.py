"""Turns a suite, one YAML file, into the runs of many methods, all checked before any of them starts. Reads no data."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from advcore.config.load import apply_overrides, from_dict, set_values
from advcore.config.schema import RunConfig
from advcore.config.yaml_reader import parse_overrides, read
from advcore.errors import ConfigError, SettingProblem, UserError, check, check_one_of, must, require
from advcore.run import build
from advcore.suite.layout import (
    MOST_RUNS,
    Settings,
    expand_grids,
    list_added,
    make_slug,
    pick_settings,
)
from advcore.suite.problems import find_problems
from advcore.suite.splits import choose_vary_split

_SEEDS = (0, 1, 2)
_MOST_PROBLEMS = 5_000  # of all methods together; after these, no more methods are checked


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The contents of a suite file, for one of its sizes.

    Parameters
    ----------
    name, title : for tables.
    size : one of the suite's sizes; None where it has none.
    records : folder of its records.
    seeds : that every method runs with. vary_split : each seed is also the seed of its data split.
    methods : unchecked settings by name, in the order of tables.
    reference : method whose cost and time the others are compared with; None for none.
    added : names of the baselines to add.
    columns : labels of attacks whose mean accuracy has a column, by its title (`reporting.columns`).
    costs : the relative cost that a method's epochs have to match (`at_cost`), by its name.
    """

    name: str
    title: str
    size: str | None
    records: Path
    seeds: tuple[int, ...]
    methods: dict[str, Settings]
    reference: str | None
    added: tuple[str, ...] = ()
    vary_split: bool = False
    columns: Mapping[str, list[str]] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    record : there once it is finished. failure : says why it failed. folder : holds its states, and `begun_record`,
    until it is finished. log : its output. settings : its run file.
    """

    record: Path
    failure: Path
    folder: Path
    begun_record: Path
    log: Path
    settings: Path


@dataclass(frozen=True)
class Run:
    """One method with one seed.

    weights_of : the method whose run with the same seed gives the weights to begin with; None for no method.
    scores_of : the method that was scored, once for all seeds, for the solver to select by; None for no method.
    """

    method: str
    seed: int
    config: RunConfig = field(repr=False)
    weights_of: str | None = None
    scores_of: str | None = None

    @property
    def slug(self) -> str:
        """The name of the run's files."""
        return make_slug(self.method, self.seed)

    def locate_files(self, records: Path) -> RunFiles:
        """Return the paths of the run's files below the folder of the suite's records."""
        name = f"{self.slug}.json"
        folder = records / "runs" / self.slug
        return RunFiles(
            record=records / name,
            failure=records / "failed" / name,
            folder=folder,
            begun_record=folder / "record.json",
            log=folder.with_suffix(".log"),
            settings=folder.with_suffix(".yaml"),
        )


def load(path: str | Path, size: str | None = None, overrides: Sequence[str] = ()) -> Suite:
    """Read the suite at `path`, expand its grids, and apply the overrides `a.b=c` to every method.

    Raises ConfigError with every problem of the suite's keys. Whether the settings of the methods are valid is checked
    by `resolve_methods`.
    """
    path = Path(path)
    raw = read(path)
    if "methods" not in raw and {"training", "objective"} <= raw.keys():
        raise ConfigError(must("SUITE", "a suite", str(path), "it is a run file: use advcore run"))
    require(*find_problems(raw))
    of_size = _choose_size(raw, size)
    seeds = tuple(of_size.get("seeds") or raw.get("seeds") or _SEEDS)
    shared = (raw.get("set") or {}) | (of_size.get("set") or {})
    usual = {"experiment": of_size.get("experiment", raw.get("experiment"))}
    sources = {name: usual | _choose_experiment(method, size) for name, method in expand_grids(raw).items()}
    methods = _assemble_settings(sources, shared, overrides, folder=path.parent)
    count = len(methods) * len(seeds)
    require(check(count <= MOST_RUNS, "methods times seeds", f"at most {MOST_RUNS:,} runs", count))
    reference = raw.get("reference", "full")
    records = Path("runs/bench") / raw["name"]
    if raw.get("records"):
        records = path.parent / raw["records"]
    return Suite(
        name=raw["name"],
        title=of_size.get("title") or raw.get("title") or raw["name"],
        size=size,
        records=records,
        seeds=seeds,
        methods=_share_cost(methods, reference),
        reference=reference,
        added=list_added(of_size.get("baselines", raw.get("baselines"))),
        vary_split=choose_vary_split(raw.get("vary_split"), methods),
        columns=of_size.get("columns") or raw.get("columns") or {},
        costs=_list_costs(sources),
    )


def _list_costs(methods: Mapping[str, Settings]) -> dict[str, float]:
    """Return the relative costs that methods have to match, by the methods' names."""
    costs = {}
    for name, method in methods.items():
        cost = method.get("at_cost")
        if isinstance(cost, (int, float)):
            costs[name] = cost
    return costs


def _choose_size(raw: Mapping, size: str | None) -> dict:
    """Return what the size changes, {} for a suite without sizes. Raises ConfigError for a size it does not have."""
    sizes = raw.get("sizes") or {}
    if sizes:
        require(check_one_of("--size", size, sizes))
    else:
        require(check(size is None, "--size", "left out", size, "the suite has no sizes"))
    return sizes.get(size) or {}


def _choose_experiment(method: Settings, size: str | None) -> Settings:
    """Return a method with the run file of the size, where it names one for each."""
    experiment = method.get("experiment")
    return method | {"experiment": experiment[size]} if isinstance(experiment, dict) else method


def _assemble_settings(
    methods: Mapping[str, Settings], shared: Settings, overrides: Sequence[str], *, folder: Path
) -> dict[str, Settings]:
    """Return every method's settings: its run file, then what suite, size and method set, then the overrides.

    shared : what suite and size set. folder : of the suite, where run files are looked for; each is read once.
    """
    parsed = parse_overrides(overrides)
    experiments: dict[str, Settings | UserError] = {}
    settings: dict[str, Settings] = {}
    problems: dict[SettingProblem, list[str]] = {}
    for name, method in methods.items():
        path = folder / str(method["experiment"])
        place = os.path.realpath(path)
        if place not in experiments:
            experiments[place] = _read_experiment(path, shared)
        experiment = experiments[place]
        try:
            if isinstance(experiment, UserError):
                raise experiment
            settings[name] = apply_overrides(set_values(experiment, pick_settings(method)), parsed)
        except UserError as error:
            _add_problems(problems, error, name)
    _raise_problems(problems, len(methods))
    return settings


def _read_experiment(path: Path, shared: Settings) -> Settings | UserError:
    """Return the settings of a run file, with those that the suite sets in every run, or why it cannot be read."""
    try:
        return set_values(read(path), shared)
    except UserError as error:
        return error


def _add_problems(problems: dict[SettingProblem, list[str]], error: UserError, method: str) -> None:
    """Add the method's name to each of its problems; `problems` holds the names of the methods by problem."""
    for problem in error.problems:
        problems.setdefault(problem, []).append(method)


def _raise_problems(problems: dict[SettingProblem, list[str]], methods: int) -> None:
    """Raise ConfigError with each problem once, after the names of the methods that have it."""
    require(*(problem.inside(f"{_name_methods(names, methods)}: ") for problem, names in problems.items()))


def _name_methods(names: list[str], methods: int) -> str:
    """Name the first three methods and count the others; `methods` is how many the suite has."""
    if len(names) == methods:
        return "every method"
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"method {', '.join(map(repr, names[:3]))}{rest}"


def _share_cost(methods: dict[str, Settings], reference: str | None) -> dict[str, Settings]:
    """Give all methods the `cost` of the reference method, so that all costs are relative to the same run.

    Without a reference, the first method's. Steps and epochs of the reference are filled in where they are left out.
    """
    first = methods[reference or next(iter(methods))]
    cost = first.get("cost") or {}
    if not isinstance(cost, dict):
        return methods  # `resolve_methods` refuses it
    with contextlib.suppress(ConfigError):  # `resolve_methods` raises it, with the method's name
        config = from_dict(first)
        usual = {
            "reference_steps": getattr(config.attack, "steps", None),
            "reference_epochs": config.training.epochs,
        }
        cost = cost | {key: value for key, value in usual.items() if cost.get(key) is None and value is not None}
    return {name: settings | {"cost": cost} for name, settings in methods.items()}


def resolve_methods(suite: Suite) -> dict[str, RunConfig]:
    """Resolve and check every method's settings, as far as that is possible without data.

    Raises ConfigError with the problems of all methods, each with the method's name.
    """
    resolved: dict[str, RunConfig] = {}
    problems: dict[SettingProblem, list[str]] = {}
    for name, settings in suite.methods.items():
        try:
            resolved[name] = from_dict(settings)
            build.build_trainer(resolved[name])
        except UserError as error:
            _add_problems(problems, error, name)
        if sum(map(len, problems.values())) > _MOST_PROBLEMS:
            rest = SettingProblem("", f"more than {_MOST_PROBLEMS:,} problems; methods after this are not checked yet")
            problems[rest] = [name]
            break
    _raise_problems(problems, len(suite.methods))
    return resolved
