"""What a suite file may hold: its keys, what is wrong with them, and its grids written out."""

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from advcore.errors import LARGEST_SEED, ConfigError, at_least, must, nearest, require, shown
from advcore.runner.schema import NAME

KEYS = ("name", "title", "experiment", "records", "seeds", "set", "methods", "grid", "reference", "baselines", "sizes")
"""Of a suite."""
SIZE_KEYS = ("title", "experiment", "seeds", "set")
"""Of one of its sizes."""
LONGEST = 120
"""Characters of a method's name: files have its name."""
MOST_METHODS = 1_000
"""Methods of a suite, each combination of a grid counted."""
MOST_RUNS = 10_000
"""Methods times seeds."""
BASELINES = {
    "random": "random",
    "random_of_cost": "random of equal cost",
    "shortened": "shortened",
    "fewer_steps": "fewer steps",
    "fat": "FAT",
    "n_fgsm": "N-FGSM",
}
"""What a suite adds by itself, unless it says `baselines: false`, or `NAME: false` there; and what tables call it."""
BASELINES_FILE = "baselines.json"
"""Beside a suite's records: what it added."""
OWN = ("experiment", "grid")
"""Keys of a method that are no settings."""


def slug(method: str, seed: int) -> str:
    """ "GradMatch @ 0.5", seed 1 -> gradmatch-0-5-s1."""
    return f"{re.sub(r'[^a-z0-9]+', '-', method.lower()).strip('-')}-s{seed}"


def written_out(raw: dict) -> dict[str, dict[str, Any]]:
    """Methods by name, each combination of a grid as one, in the order of the file. Raises ConfigError for two of one
    name, or whose files would have one, and for more than `MOST_METHODS`."""
    require(_count_problem(raw))
    found: dict[str, dict[str, Any]] = {}
    pairs = [(name, method or {}, (method or {}).get("grid")) for name, method in (raw.get("methods") or {}).items()]
    pairs += [("", {}, raw["grid"])] if raw.get("grid") else []
    for name, method, grid in pairs:
        for full, more in _combinations(name, grid or {}):
            require(must("methods", "of different names", full) if full in found else _name_problem(full))
            found[full] = method | more
    slugs: dict[str, str] = {}
    for name in found:
        twin = slugs.setdefault(slug(name, 0), name)
        require(None if twin == name else must("methods", "told apart by letters and digits", [twin, name]))
    return found


def _count_problem(raw: dict) -> str | None:
    """Return the problem of a suite with too many methods, whose names are not worth writing out."""
    grids = [(method or {}).get("grid") for method in (raw.get("methods") or {}).values()]
    grids += [raw["grid"]] if raw.get("grid") else []
    count = sum(math.prod(len(values) for values in (grid or {}).values()) for grid in grids)
    rule = f"at most {MOST_METHODS:,}, each combination of a grid counted"
    return None if count <= MOST_METHODS else must("methods", rule, count)


def _name_problem(name: Any) -> str | None:
    """Why a method cannot have the name: it stands in tables, and names files."""
    if not isinstance(name, str):
        return must("methods", "named with text", name, "put it into quotes")
    if not re.search("[a-z0-9]", name.lower()):
        return must("methods", "named with letters (a to z) or digits", name)
    if len(name) > LONGEST or not name.isprintable():
        return must("methods", f"named in a line of at most {LONGEST} characters", name)
    return None


def _combinations(name: str, grid: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every combination of the grid's values as (method's name, settings)."""
    axes = [
        [(key, *entry) for entry in (values.items() if isinstance(values, dict) else zip(values, values, strict=True))]
        for key, values in grid.items()
    ]
    for chosen in itertools.product(*axes):
        full, rest = name, []
        for key, label, _ in chosen:
            last, text = key.rsplit(".", 1)[-1], _text(label)
            holders = [holder for holder in (f"{{{key}}}", f"{{{last}}}") if holder in full]
            if holders:
                full = full.replace(holders[0], text)
            else:
                rest.append(text if last == "name" or isinstance(grid[key], dict) else f"{last} {text}")
        yield ", ".join([*([full] if full else []), *rest]), {key: value for key, _, value in chosen}


def _text(label: Any) -> str:
    if isinstance(label, bool) or label is None:
        return json.dumps(label)
    return f"{label:.4g}" if isinstance(label, float) else str(label)


def problems(raw: dict) -> Iterator[str | None]:
    """What is wrong with a suite's own keys."""
    yield from _unknown(raw, KEYS, "a suite")
    yield (
        None
        if NAME.fullmatch(str(raw.get("name", "")))
        else must("name", "letters, digits, '.', '-', '_'", raw.get("name"))
    )
    for key in ("title", "experiment", "records"):
        yield None if raw.get(key) is None or isinstance(raw[key], str) else must(key, "text", raw[key])
    yield from _common_problems(raw, "")
    yield from _method_problems(raw)
    yield from _grid_problems(raw.get("grid"), "grid")
    yield from _baseline_problems(raw)
    yield from _size_problems(raw.get("sizes"))


def _unknown(given: dict, known: Sequence[str], owner: str) -> Iterator[str]:
    for key in given:
        if key not in known:
            yield f"{key} is not a setting of {owner}; {nearest(key, known) or 'it has ' + ', '.join(known)}"


def _common_problems(given: dict, under: str) -> Iterator[str | None]:
    """Of seeds and `set`, of a suite or a size."""
    seeds = given.get("seeds")
    fine = seeds is None or isinstance(seeds, list) and seeds and len({*map(str, seeds)}) == len(seeds)
    yield None if fine else must(f"{under}seeds", "a list of different whole numbers", seeds)
    for seed in seeds if fine and seeds else ():
        yield at_least(f"{under}seeds", seed, -LARGEST_SEED, most=LARGEST_SEED)
    yield from _settings_problems(given.get("set"), f"{under}set")


def _settings_problems(given: Any, where: str) -> Iterator[str | None]:
    """Of a mapping of dotted paths."""
    if given is None:
        return
    if not isinstance(given, dict):
        yield must(where, "a mapping of dotted settings, such as training.epochs: 10", given)
        return
    for key in given:
        yield None if all(str(key).split(".")) else must(where, "a mapping of dotted settings", key)
        if key in ("seed", "name") or not isinstance(key, str):
            yield f"{where}: {shown(key)} is not a setting that a suite may change; its own seeds and names count"


def _method_problems(raw: dict) -> Iterator[str | None]:
    methods = raw.get("methods")
    if methods is not None and not isinstance(methods, dict):
        yield must("methods", "a mapping of names to settings", methods)
        return
    if not methods and not raw.get("grid"):
        yield must("methods", "at least one, here or in a grid", methods)
    for name, method in (methods or {}).items():
        where = f"method {str(name)!r}"
        grid = method.get("grid") if isinstance(method, dict) else None
        yield None if grid and isinstance(name, str) else _name_problem(name)  # a grid's own names are looked at later
        if method is not None and not isinstance(method, dict):
            yield must(where, "a mapping of dotted settings", method)
            continue
        own = {key: value for key, value in (method or {}).items() if key not in OWN}
        yield from _settings_problems(own, where)
        yield from _grid_problems(grid, f"{where}: grid")
        yield _experiment_problem((method or {}).get("experiment", raw.get("experiment")), raw, where)
        yield _cost_problem(own, where)
    if raw.get("grid"):
        yield _experiment_problem(raw.get("experiment"), raw, "grid")
    yield _reference_problem(raw)


def _experiment_problem(experiment: Any, raw: dict, where: str) -> str | None:
    sized = raw.get("sizes") if isinstance(raw.get("sizes"), dict) else {}
    everywhere = sized and all(isinstance(one, dict) and "experiment" in one for one in sized.values())
    if isinstance(experiment, str) or everywhere:
        return None
    return must(where, "given an experiment, its own or the suite's", experiment)


def _cost_problem(own: dict, where: str) -> str | None:
    if not any(str(key).split(".")[0] == "cost" for key in own):
        return None
    return f"{where}: cost is the whole suite's; write it in the suite's set, where it holds for every method"


def _reference_problem(raw: dict) -> str | None:
    reference = raw.get("reference", "full")
    try:
        names = list(written_out(raw))
    except ConfigError:  # told where the methods are written out; the reference may be one of a grid
        return None
    except (TypeError, AttributeError, ValueError):  # told by what checks methods and grids
        names = [str(name) for name in raw.get("methods") or ()]
    if reference is None or reference in names:
        return None
    return must("reference", "a method, or null", reference, nearest(reference, names))


def _grid_problems(grid: Any, where: str) -> Iterator[str | None]:
    if grid is None:
        return
    if not isinstance(grid, dict):
        yield must(where, "a mapping of dotted settings to lists of values", grid)
        return
    yield from _settings_problems(grid, where)
    yield _cost_problem(grid, where)
    for key, values in grid.items():
        if not isinstance(values, (list, dict)) or not values:
            yield must(f"{where}.{key}", "a list of values, or a mapping of names to values", values)
        elif isinstance(values, list) and any(isinstance(value, (list, dict)) for value in values):
            yield must(f"{where}.{key}", "a mapping of names to values where these are not plain", values)


def left_out(baselines: bool | dict[str, bool] | None) -> tuple[str, ...]:
    """Names of the baselines that are not to be added: each that is false, or all."""
    if not isinstance(baselines, dict):
        return tuple(BASELINES) if baselines is False else ()
    return tuple(name for name, wanted in baselines.items() if not wanted)


def _baseline_problems(raw: dict) -> Iterator[str | None]:
    wanted = raw.get("baselines")
    if not isinstance(wanted, (dict, bool, type(None))):
        yield must("baselines", f"false, or a mapping of {', '.join(BASELINES)} to true or false", wanted)
        return
    for name, value in wanted.items() if isinstance(wanted, dict) else ():
        if name not in BASELINES:
            yield f"baselines.{name} is none; {nearest(name, BASELINES) or 'they are ' + ', '.join(BASELINES)}"
        elif not isinstance(value, bool):
            yield must(f"baselines.{name}", "true or false", value)
    if raw.get("reference", "full") is None and set(left_out(wanted)) < set(BASELINES):
        yield must("baselines", "false where reference is null", wanted, "they are made from the reference; name one")


def _size_problems(sizes: Any) -> Iterator[str | None]:
    if sizes is None:
        return
    if not isinstance(sizes, dict):
        yield must("sizes", "a mapping of names to what differs", sizes)
        return
    for name, size in sizes.items():
        if not isinstance(name, str) or not NAME.fullmatch(name):
            yield must("sizes", "text of letters, digits, '.', '-' and '_'", name)
        if size is None:
            continue
        if not isinstance(size, dict):
            yield must(f"sizes.{name}", "a mapping of what differs", size)
            continue
        yield from (f"sizes.{name}.{problem}" for problem in _unknown(size, SIZE_KEYS, "a size"))
        yield from _common_problems(size, f"sizes.{name}.")
        for key in ("title", "experiment"):
            if key in size and not isinstance(size[key], str):
                yield must(f"sizes.{name}.{key}", "text", size[key])
