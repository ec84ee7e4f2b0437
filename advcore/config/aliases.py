"""Suggests the name or setting that was probably meant by an unknown word in a run file."""

import dataclasses
import operator
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache, reduce
from typing import get_args, get_origin

from advcore import attacks, data, minibatch, models, objectives, regularizers, solvers, tracking
from advcore.config.schema import TABLES, ByName, RunConfig
from advcore.errors import SURELY_ALIKE, simplify_name, suggest_nearest
from advcore.evaluation import evaluate
from advcore.training import ATTACK_STEP_ALIASES, LR_SCHEDULE_ALIASES, OPTIMIZER_ALIASES

# For each table, other words that the field uses for its entries, with their names in it (`errors.suggest_nearest`).
ALIASES: dict[str, dict[str, str]] = {
    "data": data.ALIASES,
    "models": models.ALIASES,
    "objectives": objectives.ALIASES,
    "attacks": attacks.ALIASES,
    "solvers": solvers.ALIASES,
    "minibatch": minibatch.ALIASES,
    "optimizers": OPTIMIZER_ALIASES,
    "lr_schedules": LR_SCHEDULE_ALIASES,
    "attack_steps": ATTACK_STEP_ALIASES,
    "regularizers": regularizers.ALIASES,
    "trackers": tracking.ALIASES,
    "evaluators": evaluate.ALIASES,
}
# The settings of a run file whose `name` is one of a table's names.
PLACES = {
    "data": "data",
    "models": "model",
    "objectives": "objective",
    "attacks": "attack",
    "evaluators": "evaluation.attacks.N",
    "solvers": "selection.solver",
    "minibatch": "minibatch",
    "optimizers": "training.optimizer",
    "lr_schedules": "training.lr_schedule",
    "attack_steps": "training.attack_steps",
    "regularizers": "training.regularizer",
    "trackers": "tracking.N",
}
_TABLE_AT = {place: table for table, place in PLACES.items()}
# Other words for settings, in small letters and digits only, with the settings they may mean, the likeliest first.
SETTING_ALIASES: dict[str, tuple[str, ...]] = {
    "epsilon": ("eps",),
    "radius": ("eps",),
    "alpha": ("step_size",),
    "eta": ("step_size",),
    "step": ("step_size",),
    "epsstep": ("step_size",),
    "epsiter": ("step_size",),
    "steplength": ("step_size",),
    "numsteps": ("steps",),
    "nsteps": ("steps",),
    "iters": ("steps",),
    "iterations": ("steps",),
    "niter": ("steps",),
    "nbiter": ("steps",),
    "numrestarts": ("restarts",),
    "nrestarts": ("restarts",),
    "randomstart": ("start",),
    "randinit": ("start",),
    "bs": ("batch_size",),
    "batch": ("batch_size",),
    "learningrate": ("lr",),
    "wd": ("weight_decay",),
    "l2": ("weight_decay",),
    "mom": ("momentum",),
    "numepochs": ("epochs",),
    "nepochs": ("epochs",),
    "maxepochs": ("epochs",),
    "fraction": ("budget",),
    "subsetsize": ("budget",),
    "coresetsize": ("budget",),
    "ratio": ("budget",),
    "size": ("budget",),
    "subset": ("budget",),
    "k": ("budget",),
    "every": ("period",),
    "freq": ("period",),
    "frequency": ("period",),
    "interval": ("period",),
    "warmup": ("warm_start", "warm_up"),
    "kappa": ("warm_start",),
    "lambda": ("beta", "ridge", "weight"),
    "lam": ("ridge", "beta"),
    "scheduler": ("lr_schedule",),
    "schedule": ("lr_schedule",),
    "lrscheduler": ("lr_schedule",),
    "optim": ("optimizer",),
    "opt": ("optimizer",),
    "optimiser": ("optimizer",),
    "method": ("solver",),
    "strategy": ("solver",),
    "numworkers": ("workers",),
    "root": ("path",),
    "dir": ("path",),
    "folder": ("path",),
    "datadir": ("path",),
    "imagesize": ("size",),
    "imgsize": ("size",),
    "resize": ("size",),
    "val": ("validation",),
    "valsize": ("validation",),
    "valsplit": ("validation",),
    "augmentation": ("augment",),
    "loss": ("objective",),
    "criterion": ("objective",),
    "dataset": ("data",),
    "net": ("model",),
    "network": ("model",),
    "arch": ("model",),
    "architecture": ("model",),
    "randomseed": ("seed",),
    "randomstate": ("seed",),
    "gpu": ("device",),
    "amp": ("autocast",),
    "bf16": ("autocast",),
    "fp16": ("autocast",),
    "mixedprecision": ("autocast",),
    "compile": ("compiled",),
    "gradclip": ("clip_norm",),
    "clip": ("clip_norm", "clip_value"),
    "eval": ("evaluation",),
    "test": ("evaluation",),
    "train": ("training",),
}
# Other words for `name`, the key that chooses a class.
NAME_ALIASES = ("norm", "type", "kind", "arch", "architecture", "dataset", "algorithm", "method")


def collect_aliases(known: Collection[str]) -> dict[str, str]:
    """Return the aliases of all tables whose names are all in `known`."""
    return reduce(operator.or_, [ALIASES[name] for name, table in TABLES.items() if set(table) <= set(known)], {})


def suggest_name(name: object, known: Collection[str]) -> str:
    """Suggest one of the `known` names for one that is not among them; "" where none is likely.

    For a name of another table, say where it belongs: for `attack: {name: trades}`, that trades is an objective.
    """
    aliases = collect_aliases(known)
    if simplify_name(str(name)) not in {*aliases, *map(simplify_name, known)}:
        for table, place in PLACES.items():
            foreign = ALIASES[table] | {simplify_name(other): other for other in TABLES[table]}
            if simplify_name(str(name)) in foreign and not place.startswith("training."):
                return suggest_nearest(name, TABLES[table], foreign, place=place)
    return suggest_nearest(name, known, aliases)


def suggest_setting(key: str, known: Sequence[str], section: str) -> str:
    """Suggest a setting for a key that `section` does not have; "" where none is likely.

    Known aliases come before settings of similar spelling, and settings of this section before those of another. If
    only other entries of the section's table have the setting, say which.
    """
    candidates = [key, *SETTING_ALIASES.get(simplify_name(key), ())]
    table = _TABLE_AT.get(re.sub(r"\.\d+", ".N", section), "")
    if table and simplify_name(key) in NAME_ALIASES:
        return "did you mean 'name'?"
    by_spelling = {simplify_name(name): name for name in reversed(known)}
    for candidate in map(simplify_name, candidates):
        if candidate in by_spelling:
            return f"did you mean {by_spelling[candidate]!r}?"
    return (
        suggest_nearest(key, known, alike=SURELY_ALIKE)
        or _suggest_other_entries(candidates, table)
        or _suggest_other_section(candidates, section)
        or suggest_nearest(key, known)
    )


def _suggest_other_entries(settings: Collection[str], table: str) -> str:
    """Say which entries of a table have the first of these settings that any entry has; "" where none has."""
    for setting in settings:
        names = _list_entries_with(setting, table)
        if names:
            return f"only {' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))} can have {setting}"
    return ""


def _list_entries_with(setting: str, table: str) -> list[str]:
    classes = TABLES.get(table, {})
    return [name for name, cls in classes.items() if setting in (field.name for field in dataclasses.fields(cls))]


def _suggest_other_section(settings: Collection[str], section: str) -> str:
    """Suggest the first of these settings that another section has; "" where none has.

    Sections below this one come first, of those the highest. Elsewhere, only settings count that a run file has
    whatever names it chooses.
    """
    for setting in settings:
        paths = [path for path in _list_paths() if path.rpartition(".")[2] == setting.lower()]
        below = [path for path in paths if not section or path.startswith(f"{section}.")]
        paths = below or list(filter(_is_in_every_file, paths))
        level = min((path.count(".") for path in paths), default=0)
        highest = [path for path in paths if path.count(".") == level]
        if highest:
            top = " at the top of the file" if section and level == 0 else ""
            return f"did you mean {' or '.join(map(repr, highest[:2]))}{top}?"
    return ""


def _is_in_every_file(path: str) -> bool:
    """Return whether a setting is at the top of a run file, or of a section whose every entry has it."""
    section, _, setting = path.partition(".")
    if not setting:
        return True
    table = _TABLE_AT.get(section, "")
    return "." not in setting and (not table or len(_list_entries_with(setting, table)) == len(TABLES[table]))


@cache
def _list_paths() -> tuple[str, ...]:
    return tuple(dict.fromkeys(_list_paths_of(RunConfig, "")))


def _list_paths_of(cls: type, prefix: str) -> Iterator[str]:
    for field in dataclasses.fields(cls):
        path = f"{prefix}{field.name}"
        yield path
        index = ".0" if get_origin(field.type) is list else ""
        for inner in list_sections(field.type):
            yield from _list_paths_of(inner, f"{path}{index}.")


def list_sections(kind: object) -> Iterator[type]:
    """Yield the classes of settings that a type allows."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        yield kind
    if isinstance(kind, ByName):
        yield from kind.table.values()
    for argument in get_args(kind):
        yield from list_sections(argument)
