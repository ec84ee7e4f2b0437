"""What a suite file contains: its keys, and its methods once its grids are expanded."""

import itertools
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping

from advcore.config.run_key import OF_METHOD
from advcore.errors import SettingProblem, check, must, require

# The keys of a suite.
KEYS = (
    *("name", "title", "experiment", "records", "seeds", "vary_split", "set", "methods", "grid", "reference"),
    *("baselines", "columns", "sizes"),
)
# The keys of one of its sizes.
SIZE_KEYS = ("title", "experiment", "seeds", "set", "columns", "baselines")
# The keys of a method that are not settings.
METHOD_KEYS = ("experiment", "grid", "weights_of", "scores_of", "at_cost")
# Characters of a method's name: its files are named after it.
LONGEST = 120
# Methods of a suite, each combination of a grid counted.
MOST_METHODS = 1_000
# Methods times seeds.
MOST_RUNS = 10_000
# The largest relative cost that a method can be given.
MOST_COST = 100
# The baselines that can be added to a suite, with their names in tables.
#
# `baselines: false` leaves out all of them, `baselines: {NAME: false}` one. Those of ON_REQUEST are only added where
# `baselines: {NAME: true}` asks for them.
BASELINES = {
    "random": "random",
    "random_static": "random static",
    "random_of_cost": "random of equal cost",
    "shortened": "shortened",
    "fewer_steps": "fewer steps",
    "fat": "FAT",
    "n_fgsm": "N-FGSM",
}
ON_REQUEST = ("random_static",)
# Lies next to a suite's records and holds what was planned with the data (`plan_methods`).
BASELINES_FILE = "baselines.json"

Settings = dict[str, object]  # by their paths, such as "training.epochs"


def make_slug(method: str, seed: int) -> str:
    """Name the files of a run: "GradMatch @ 0.5" with seed 1 gives gradmatch-0-5-s1."""
    return f"{re.sub(r'[^a-z0-9]+', '-', method.lower()).strip('-')}-s{seed}"


def list_added(baselines: bool | Mapping[str, bool] | None) -> tuple[str, ...]:
    """Return the names of the baselines that a suite adds, in the order of `BASELINES`."""
    if baselines is False:
        return ()
    wanted = dict.fromkeys(BASELINES, True) | dict.fromkeys(ON_REQUEST, False)
    if isinstance(baselines, Mapping):
        wanted |= baselines
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def list_left_out(added: Collection[str]) -> list[str]:
    """Return how tables call the baselines that a suite leaves out of those that are added by default."""
    return [title for name, title in BASELINES.items() if name not in added and name not in ON_REQUEST]


def pick_settings(method: Mapping) -> Settings:
    """Return the entries of a method that are settings of a run, and those that `weights_of` and `scores_of` set."""
    settings = {key: value for key, value in method.items() if key not in METHOD_KEYS}
    if method.get("weights_of") is not None:
        settings["model.weights"] = f"{OF_METHOD}{method['weights_of']}"
    if method.get("scores_of") is not None:
        settings["selection.solver.scores"] = f"{OF_METHOD}{method['scores_of']}"
    return settings


def expand_grids(raw: Mapping) -> dict[str, Settings]:
    """Return all methods by name, one for each combination of a grid's values, in the order of the file.

    Raises ConfigError for two methods of the same name, or whose files would have the same name, and for more than
    `MOST_METHODS`.
    """
    grids = _list_grids(raw)
    count = sum(math.prod(map(len, grid.values())) for _, _, grid in grids)
    rule = f"at most {MOST_METHODS:,}, each combination of a grid counted"
    require(check(count <= MOST_METHODS, "methods", rule, count))  # before their names are composed
    methods: dict[str, Settings] = {}
    name_of: dict[str, str] = {}
    for base_name, base, grid in grids:
        for name, changes in _expand_grid(base_name, grid):
            require(must("methods", "of different names", name) if name in methods else check_name(name))
            methods[name] = base | changes
    for name in methods:
        twin = name_of.setdefault(make_slug(name, 0), name)
        require(check(twin == name, "methods", "distinguishable by letters and digits", [twin, name]))
    return methods


def _list_grids(raw: Mapping) -> list[tuple[str, Settings, dict]]:
    """Return (name, method, grid) for each method and for the suite's grid, which belongs to no method."""
    methods = (raw.get("methods") or {}).items()
    grids = [(name, method or {}, (method or {}).get("grid") or {}) for name, method in methods]
    if raw.get("grid"):
        grids.append(("", {}, raw["grid"]))
    return grids


def check_name(name: object) -> SettingProblem | None:
    """Return why a method cannot have the name, which is shown in tables and names files."""
    if not isinstance(name, str):
        return must("methods", "named with text", name, "put it into quotes")
    if not re.search("[a-z0-9]", name.lower()):
        return must("methods", "named with letters (a to z) or digits", name)
    is_right = len(name) <= LONGEST and name.isprintable()
    return check(is_right, "methods", f"named in a line of at most {LONGEST} characters", name)


def _expand_grid(name: str, grid: Mapping) -> Iterator[tuple[str, Settings]]:
    """Yield (method's name, settings) for every combination of the grid's values; a list's values are their labels."""
    axes = [[(key, label, value) for label, value in _label_values(values)] for key, values in grid.items()]
    for combination in itertools.product(*axes):
        yield _compose_name(name, combination, grid), {key: value for key, _, value in combination}


def _label_values(values: dict | list) -> Collection[tuple[object, object]]:
    if isinstance(values, dict):
        return values.items()
    return [(value, value) for value in values]


def _compose_name(name: str, combination: tuple, grid: Mapping) -> str:
    """Put the labels of a combination into the name's placeholders, such as {eps} or {attack.eps}; append the others.

    combination : (setting, label, value) for each setting of the grid.
    """
    appended = []
    for key, label, _ in combination:
        short = key.rsplit(".", 1)[-1]
        text = _format_label(label)
        placeholder = next((holder for holder in (f"{{{key}}}", f"{{{short}}}") if holder in name), None)
        if placeholder:
            name = name.replace(placeholder, text)
        elif short == "name" or isinstance(grid[key], dict):
            appended.append(text)
        else:
            appended.append(f"{short} {text}")
    return ", ".join([name, *appended] if name else appended)


def _format_label(label: object) -> str:
    if isinstance(label, bool) or label is None:
        return json.dumps(label)
    return f"{label:.4g}" if isinstance(label, float) else str(label)
