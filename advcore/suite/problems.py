"""The problems of a suite file, each found before any run starts: wrong keys, methods, grids, baselines and sizes."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from advcore.config.schema import NAME, RunConfig
from advcore.errors import (
    LARGEST_SEED,
    ConfigError,
    SettingProblem,
    check,
    check_at_least,
    format_value,
    must,
    suggest_nearest,
)
from advcore.evaluation.evaluate import attack_name
from advcore.reporting.columns import is_named
from advcore.suite.layout import (
    BASELINES,
    KEYS,
    MOST_COST,
    SIZE_KEYS,
    check_name,
    expand_grids,
    list_added,
    pick_settings,
)

Problems = Iterator[SettingProblem | None]  # None for each check that is passed


def find_problems(raw: Mapping) -> Problems:
    """Yield the problems of a suite's keys, and None for each check that it passes."""
    yield from _check_keys(raw, KEYS, "a suite", "")
    is_name = NAME.fullmatch(str(raw.get("name", "")))
    yield check(is_name, "name", "letters, digits, '.', '-', '_'", raw.get("name"))
    for key in ("title", "experiment", "records"):
        yield check(isinstance(raw.get(key), (str, type(None))), key, "text", raw.get(key))
    yield check(isinstance(raw.get("vary_split", False), bool), "vary_split", "true or false", raw.get("vary_split"))
    yield from _check_common(raw, "")
    yield from _check_methods(raw)
    yield from _check_grid(raw.get("grid"), "grid")
    yield from _check_baselines(raw.get("baselines"), raw.get("reference", "full"), "baselines")
    yield from _check_columns(raw.get("columns"), "columns")
    yield from _check_sizes(raw.get("sizes"), raw.get("reference", "full"))


def _check_mapping(value: object, path: str, rule: str) -> SettingProblem | None:
    return check(value is None or isinstance(value, dict), path, rule, value)


def _as_mapping(value: object) -> dict:
    """Return a mapping as it is, and {} for anything else, whose problem is reported elsewhere."""
    return value if isinstance(value, dict) else {}


def _check_keys(section: Mapping, known: Collection[str], owner: str, prefix: str) -> Problems:
    """Yield a problem for each key that is not `known`. prefix : of the keys in messages."""
    for key in section:
        if key not in known:
            way_out = suggest_nearest(key, known) or f"it has {', '.join(known)}"
            yield SettingProblem(f"{prefix}{key}", f"is not a setting of {owner}", way_out=way_out)


def _check_common(section: Mapping, prefix: str) -> Problems:
    """Yield the problems of `seeds` and `set`, in a suite or a size. prefix : of the keys in messages."""
    if section.get("seeds") is not None:
        yield from _check_seeds(section["seeds"], f"{prefix}seeds")
    yield from _check_settings(section.get("set"), f"{prefix}set")


def _check_seeds(seeds: object, path: str) -> Problems:
    if not isinstance(seeds, list) or not seeds or len({*map(str, seeds)}) < len(seeds):
        yield must(path, "a list of different whole numbers", seeds)
        return
    for seed in seeds:
        yield check_at_least(path, seed, -LARGEST_SEED, most=LARGEST_SEED)


def _check_settings(settings: object, path: str) -> Problems:
    yield _check_mapping(settings, path, "a mapping of dotted settings, such as training.epochs: 10")
    for key in _as_mapping(settings):
        yield check(all(str(key).split(".")), path, "a mapping of dotted settings", key)
        if key in ("seed", "name") or not isinstance(key, str):
            fault = f"{format_value(key)} is not a setting that a suite may change"
            yield SettingProblem(f"{path}:", fault, way_out="its own seeds and names count")


def _check_methods(raw: Mapping) -> Problems:
    methods = raw.get("methods")
    if methods is not None and not isinstance(methods, dict):
        yield must("methods", "a mapping of names to settings", methods)
        return
    yield check(methods or raw.get("grid"), "methods", "at least one, here or in a grid", methods)
    for name, method in (methods or {}).items():
        yield from _check_method(name, method, raw)
        yield _check_weights(name, _as_mapping(method), _as_mapping(methods))
        yield _check_scores(name, _as_mapping(method), _as_mapping(methods))
    if raw.get("grid"):
        yield _check_experiment(raw.get("experiment"), raw, "grid")
    yield _check_reference(raw)


def _check_method(name: object, method: object, raw: Mapping) -> Problems:
    path = f"method {str(name)!r}"
    grid = _as_mapping(method).get("grid")
    if not grid or not isinstance(name, str):  # the names that a grid gives are checked where it is expanded
        yield check_name(name)
    yield _check_mapping(method, path, "a mapping of dotted settings")
    if method is not None and not isinstance(method, dict):
        return
    settings = pick_settings(method or {})
    yield from _check_settings(settings, path)
    yield from _check_grid(grid, f"{path}: grid")
    yield _check_experiment((method or {}).get("experiment", raw.get("experiment")), raw, path)
    yield _check_cost(settings, path)
    yield from _check_at_cost(name, method or {}, raw)


def _check_at_cost(name: object, method: Mapping, raw: Mapping) -> Problems:
    """Yield the problems of the relative costs that a method's epochs have to match."""
    path = f"method {str(name)!r}: at_cost"
    of_grid = _as_mapping(method.get("grid")).get("at_cost") or []
    wanted = [method.get("at_cost"), *(of_grid.values() if isinstance(of_grid, dict) else of_grid)]
    wanted = [cost for cost in wanted if cost is not None]
    for cost in wanted:
        is_number = isinstance(cost, (int, float)) and not isinstance(cost, bool)
        yield check(is_number and 0 < cost <= MOST_COST, path, f"a number above 0, at most {MOST_COST}", cost)
    reference = raw.get("reference", "full")
    if wanted:
        rule = "left out of the reference, whose cost is 1"
        yield check(name != reference, path, rule, wanted[0])
        yield check(reference is not None, path, "left out where reference is null", wanted[0])
        yield check("training.epochs" not in method, path, "left out where training.epochs is given", wanted[0])


def _check_weights(name: object, method: Mapping, methods: Mapping) -> SettingProblem | None:
    """Return the problem of a method that starts from weights of anything but another method, or of one that waits."""
    source = method.get("weights_of")
    if source is None:
        return None
    path = f"method {str(name)!r}: weights_of"
    first = [other for other, settings in methods.items() if not {"weights_of", "grid"} & set(_as_mapping(settings))]
    if source not in first:
        rule = "another method that has neither weights_of nor a grid"
        return must(path, rule, source, suggest_nearest(source, first))
    if "model.weights" in method or "model.weights" in _as_mapping(method.get("grid")):
        return must(path, "left out where model.weights is given", source)
    return None


def _check_scores(name: object, method: Mapping, methods: Mapping) -> SettingProblem | None:
    """Return the problem of a method that reads scores of anything but another method, or of one that needs others."""
    source = method.get("scores_of")
    if source is None:
        return None
    path = f"method {str(name)!r}: scores_of"
    needs = {"weights_of", "scores_of", "grid"}
    scored = [other for other, settings in methods.items() if not needs & set(_as_mapping(settings))]
    if source not in scored:
        rule = "another method that has no weights_of, scores_of or grid"
        return must(path, rule, source, suggest_nearest(source, scored))
    is_free = "selection.solver.scores" not in {*method, *_as_mapping(method.get("grid"))}
    return check(is_free, path, "left out where selection.solver.scores is given", source)


def _check_experiment(experiment: object, raw: Mapping, path: str) -> SettingProblem | None:
    """Return the problem of a method without a run file, unless every size names one."""
    sizes = _as_mapping(raw.get("sizes"))
    if isinstance(experiment, dict):
        are_files = all(isinstance(file, str) for file in experiment.values())
        rule = "a run file, or one for each size"
        return check(are_files and set(experiment) == set(sizes), f"{path}: experiment", rule, experiment)
    in_every_size = all("experiment" in _as_mapping(size) for size in sizes.values())
    is_right = isinstance(experiment, str) or sizes and in_every_size
    return check(is_right, path, "given an experiment, its own or the suite's", experiment)


def _check_cost(settings: Mapping, path: str) -> SettingProblem | None:
    if not any(str(key).split(".")[0] == "cost" for key in settings):
        return None
    way_out = "write it in the suite's set, where it holds for every method"
    return SettingProblem(f"{path}: cost", "is the whole suite's", way_out=way_out)


def _check_reference(raw: Mapping) -> SettingProblem | None:
    """Return the problem of a reference that is not a method. Wrong methods and grids are reported elsewhere."""
    reference = raw.get("reference", "full")
    named = _as_mapping(raw.get("methods")).items()
    methods = {name: _as_mapping(method) for name, method in named if isinstance(name, str)}
    grids = [raw.get("grid"), *(method.get("grid") for method in methods.values())]
    if any(any(_check_grid(grid, "grid")) for grid in grids):
        return None  # the reference may be one of a grid's
    try:
        names = list(expand_grids({"methods": methods, "grid": raw.get("grid")}))
    except ConfigError:
        return None
    is_right = reference is None or reference in names
    return check(is_right, "reference", "a method, or null", reference, suggest_nearest(reference, names))


def _check_grid(grid: object, path: str) -> Problems:
    yield _check_mapping(grid, path, "a mapping of dotted settings to lists of values")
    axes = _as_mapping(grid)
    yield from _check_settings(axes, path)
    yield _check_cost(axes, path)
    for key, values in axes.items():
        if not isinstance(values, (list, dict)) or not values:
            yield must(f"{path}.{key}", "a list of values, or a mapping of names to values", values)
        elif isinstance(values, list) and any(isinstance(value, (list, dict)) for value in values):
            yield must(f"{path}.{key}", "a mapping of names to values where these are not plain", values)


def _check_baselines(baselines: object, reference: object, path: str) -> Problems:
    """Yield the problems of `baselines`, in a suite or a size. path : of the key in messages."""
    if not isinstance(baselines, (dict, bool, type(None))):
        yield must(path, f"false, or a mapping of {', '.join(BASELINES)} to true or false", baselines)
        return
    for name, is_wanted in _as_mapping(baselines).items():
        if name not in BASELINES:
            way_out = suggest_nearest(name, BASELINES) or f"they are {', '.join(BASELINES)}"
            yield SettingProblem(f"{path}.{name}", "is none", way_out=way_out)
        else:
            yield check(isinstance(is_wanted, bool), f"{path}.{name}", "true or false", is_wanted)
    if reference is None and list_added(baselines):
        rule = "false where reference is null"
        yield must(path, rule, baselines, "they are made from the reference; name one")


def _check_columns(columns: object, path: str) -> Problems:
    yield _check_mapping(columns, path, "a mapping of titles to lists of attacks")
    for title, labels in _as_mapping(columns).items():
        is_list = isinstance(labels, list) and labels and all(isinstance(label, str) for label in labels)
        yield check(isinstance(title, str) and is_list, f"{path}.{title}", "a list of attacks' names", labels)


def find_column_problems(columns: Mapping[str, Sequence[str]], methods: Mapping[str, RunConfig]) -> Problems:
    """Yield a problem for each label of a column that does not mean one attack of each method's evaluation."""
    for title, label in ((title, label) for title, labels in columns.items() for label in labels):
        for name, config in methods.items():
            attacks = [(attack_name(attack), attack.norm) for attack in config.evaluation.attacks]
            meant = [attack for attack in attacks if is_named(label, *attack)]
            names = ", ".join(f"{attack} {norm}" for attack, norm in attacks)
            rule = f"the name, or name and norm, of one attack that method {name!r} is evaluated by ({names})"
            yield check(len(meant) == 1, f"columns.{title}", rule, label)


def _check_sizes(sizes: object, reference: object) -> Problems:
    yield _check_mapping(sizes, "sizes", "a mapping of names to what differs")
    for name, size in _as_mapping(sizes).items():
        is_name = isinstance(name, str) and NAME.fullmatch(name)
        yield check(is_name, "sizes", "text of letters, digits, '.', '-' and '_'", name)
        yield from _check_size(size, reference, f"sizes.{name}")


def _check_size(size: object, reference: object, path: str) -> Problems:
    yield _check_mapping(size, path, "a mapping of what differs")
    settings = _as_mapping(size)
    yield from _check_keys(settings, SIZE_KEYS, "a size", f"{path}.")
    yield from _check_common(settings, f"{path}.")
    yield from _check_columns(settings.get("columns"), f"{path}.columns")
    if "baselines" in settings:
        yield from _check_baselines(settings["baselines"], reference, f"{path}.baselines")
    for key in ("title", "experiment"):
        if key in settings:
            yield check(isinstance(settings[key], str), f"{path}.{key}", "text", settings[key])
