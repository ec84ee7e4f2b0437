"""The problems of a suite file, each found before any run starts: wrong keys, methods, grids, baselines and sizes."""

from collections.abc import Collection, Iterator, Mapping

from advcore.config.schema import NAME
from advcore.errors import LARGEST_SEED, ConfigError, check_at_least, format_value, must, suggest_nearest
from advcore.suite.layout import (
    BASELINES,
    KEYS,
    SIZE_KEYS,
    expand_grids,
    list_left_out,
    name_problem,
    pick_settings,
)


def find_problems(raw: Mapping) -> Iterator[str | None]:
    """Yield the problems of a suite's keys, and None for each check that it passes."""
    yield from _unknown_keys(raw, KEYS, "a suite")
    is_name = NAME.fullmatch(str(raw.get("name", "")))
    yield _unless(is_name, "name", "letters, digits, '.', '-', '_'", got=raw.get("name"))
    for key in ("title", "experiment", "records"):
        yield _unless(isinstance(raw.get(key), (str, type(None))), key, "text", got=raw.get(key))
    yield from _common_problems(raw, "")
    yield from _method_problems(raw)
    yield from _grid_problems(raw.get("grid"), "grid")
    yield from _baseline_problems(raw)
    yield from _size_problems(raw.get("sizes"))


def _unless(is_right: object, path: str, rule: str, *, got: object) -> str | None:
    """Return the problem of a setting, or None if it is right."""
    return None if is_right else must(path, rule, got)


def _mapping_problem(value: object, path: str, rule: str) -> str | None:
    """Return the problem of a value that is neither a mapping nor left out."""
    return _unless(value is None or isinstance(value, dict), path, rule, got=value)


def _as_mapping(value: object) -> dict:
    """Return a mapping as it is, and {} for anything else, whose problem is reported elsewhere."""
    return value if isinstance(value, dict) else {}


def _unknown_keys(section: Mapping, known: Collection[str], owner: str) -> Iterator[str]:
    for key in section:
        if key not in known:
            yield f"{key} is not a setting of {owner}; {suggest_nearest(key, known) or 'it has ' + ', '.join(known)}"


def _common_problems(section: Mapping, prefix: str) -> Iterator[str | None]:
    """Yield the problems of `seeds` and `set`, in a suite or a size. prefix : of the keys in messages."""
    if section.get("seeds") is not None:
        yield from _seed_problems(section["seeds"], f"{prefix}seeds")
    yield from _settings_problems(section.get("set"), f"{prefix}set")


def _seed_problems(seeds: object, path: str) -> Iterator[str | None]:
    if not isinstance(seeds, list) or not seeds or len({*map(str, seeds)}) < len(seeds):
        yield must(path, "a list of different whole numbers", seeds)
        return
    for seed in seeds:
        yield check_at_least(path, seed, -LARGEST_SEED, most=LARGEST_SEED)


def _settings_problems(settings: object, path: str) -> Iterator[str | None]:
    """Yield the problems of a mapping of dotted settings, as far as its keys show them."""
    yield _mapping_problem(settings, path, "a mapping of dotted settings, such as training.epochs: 10")
    for key in _as_mapping(settings):
        yield _unless(all(str(key).split(".")), path, "a mapping of dotted settings", got=key)
        if key in ("seed", "name") or not isinstance(key, str):
            yield f"{path}: {format_value(key)} is not a setting that a suite may change; its own seeds and names count"


def _method_problems(raw: Mapping) -> Iterator[str | None]:
    methods = raw.get("methods")
    if methods is not None and not isinstance(methods, dict):
        yield must("methods", "a mapping of names to settings", methods)
        return
    yield _unless(methods or raw.get("grid"), "methods", "at least one, here or in a grid", got=methods)
    for name, method in (methods or {}).items():
        yield from _problems_of_method(name, method, raw)
    if raw.get("grid"):
        yield _experiment_problem(raw.get("experiment"), raw, "grid")
    yield _reference_problem(raw)


def _problems_of_method(name: object, method: object, raw: Mapping) -> Iterator[str | None]:
    path = f"method {str(name)!r}"
    grid = _as_mapping(method).get("grid")
    if not grid or not isinstance(name, str):  # the names that a grid gives are checked where it is expanded
        yield name_problem(name)
    if method is not None and not isinstance(method, dict):
        yield must(path, "a mapping of dotted settings", method)
        return
    settings = pick_settings(method or {})
    yield from _settings_problems(settings, path)
    yield from _grid_problems(grid, f"{path}: grid")
    yield _experiment_problem((method or {}).get("experiment", raw.get("experiment")), raw, path)
    yield _cost_problem(settings, path)


def _experiment_problem(experiment: object, raw: Mapping, path: str) -> str | None:
    """Return the problem of a method without a run file, unless every size names one."""
    sizes = _as_mapping(raw.get("sizes"))
    in_every_size = all("experiment" in _as_mapping(size) for size in sizes.values())
    is_right = isinstance(experiment, str) or sizes and in_every_size
    return _unless(is_right, path, "given an experiment, its own or the suite's", got=experiment)


def _cost_problem(settings: Mapping, path: str) -> str | None:
    if not any(str(key).split(".")[0] == "cost" for key in settings):
        return None
    return f"{path}: cost is the whole suite's; write it in the suite's set, where it holds for every method"


def _reference_problem(raw: Mapping) -> str | None:
    """Return the problem of a reference that is no method. Wrong methods and grids are reported elsewhere."""
    reference = raw.get("reference", "full")
    try:
        names = list(expand_grids(raw))
    except ConfigError:  # the names are not known, and the reference may be one of a grid's
        return None
    except (TypeError, AttributeError, ValueError):
        names = [str(name) for name in raw.get("methods") or ()]
    if reference is None or reference in names:
        return None
    return must("reference", "a method, or null", reference, suggest_nearest(reference, names))


def _grid_problems(grid: object, path: str) -> Iterator[str | None]:
    if grid is not None and not isinstance(grid, dict):
        yield must(path, "a mapping of dotted settings to lists of values", grid)
        return
    yield from _settings_problems(grid, path)
    yield _cost_problem(grid or {}, path)
    for key, values in (grid or {}).items():
        if not isinstance(values, (list, dict)) or not values:
            yield must(f"{path}.{key}", "a list of values, or a mapping of names to values", values)
        elif isinstance(values, list) and any(isinstance(value, (list, dict)) for value in values):
            yield must(f"{path}.{key}", "a mapping of names to values where these are not plain", values)


def _baseline_problems(raw: Mapping) -> Iterator[str | None]:
    baselines = raw.get("baselines")
    if not isinstance(baselines, (dict, bool, type(None))):
        yield must("baselines", f"false, or a mapping of {', '.join(BASELINES)} to true or false", baselines)
        return
    for name, is_wanted in _as_mapping(baselines).items():
        if name not in BASELINES:
            yield f"baselines.{name} is none; {suggest_nearest(name, BASELINES) or 'they are ' + ', '.join(BASELINES)}"
        elif not isinstance(is_wanted, bool):
            yield must(f"baselines.{name}", "true or false", is_wanted)
    if raw.get("reference", "full") is None and set(list_left_out(baselines)) < set(BASELINES):
        rule = "false where reference is null"
        yield must("baselines", rule, baselines, "they are made from the reference; name one")


def _size_problems(sizes: object) -> Iterator[str | None]:
    yield _mapping_problem(sizes, "sizes", "a mapping of names to what differs")
    for name, size in _as_mapping(sizes).items():
        is_name = isinstance(name, str) and NAME.fullmatch(name)
        yield _unless(is_name, "sizes", "text of letters, digits, '.', '-' and '_'", got=name)
        yield from _problems_of_size(size, f"sizes.{name}")


def _problems_of_size(size: object, path: str) -> Iterator[str | None]:
    yield _mapping_problem(size, path, "a mapping of what differs")
    settings = _as_mapping(size)
    yield from (f"{path}.{problem}" for problem in _unknown_keys(settings, SIZE_KEYS, "a size"))
    yield from _common_problems(settings, f"{path}.")
    for key in ("title", "experiment"):
        if key in settings:
            yield _unless(isinstance(settings[key], str), f"{path}.{key}", "text", got=settings[key])
