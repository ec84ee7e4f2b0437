"""What people write in a run file for a name or a setting that is called otherwise here."""

import dataclasses
import re
from collections.abc import Collection, Iterator
from functools import cache
from typing import get_args, get_origin

from advcore import attacks, data, minibatch, models, objectives, solvers, tracking
from advcore.errors import SURELY_ALIKE, nearest, plain
from advcore.evaluation import evaluate
from advcore.runner.schema import TABLES, RunConfig
from advcore.training import ATTACK_STEP_ALIASES, LR_SCHEDULE_ALIASES, OPTIMIZER_ALIASES

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
    "trackers": tracking.ALIASES,
    "evaluators": evaluate.ALIASES,
}
"""What the field calls the entries of each table, to their names in it (`errors.nearest`)."""
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
    "trackers": "tracking.N",
}
"""Where in a run file a table's names stand."""
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
    "lambda": ("beta", "ridge"),
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
"""What people call settings, in small letters and digits alone, to the settings, the likeliest first."""
NAME_ALIASES = ("norm", "type", "kind", "arch", "architecture", "dataset", "algorithm", "method")
"""What people call the name that chooses a class, where a section has one."""


def aliases_of(known: Collection[str]) -> dict[str, str]:
    """Return the aliases of all tables whose names are among these."""
    tables = [name for name, table in TABLES.items() if set(table) <= set(known)]
    return {alias: target for name in tables for alias, target in ALIASES[name].items()}


def suggest_name(name: object, known: Collection[str]) -> str:
    """Offer a name of a table for one that is not in it; "" where none is likely.

    A name of another table is told with its place: `attack: {name: trades}` is an objective.
    """
    aliases = aliases_of(known)
    if plain(str(name)) not in {*aliases, *map(plain, known)}:
        for table, place in PLACES.items():
            foreign = ALIASES[table] | {plain(other): other for other in TABLES[table]}
            if plain(str(name)) in foreign and not place.startswith("training."):
                return nearest(name, TABLES[table], foreign).replace("?", f" at {place}?")
    return nearest(name, known, aliases)


def suggest_setting(key: str, known: Collection[str], section: str) -> str:
    """Offer a setting for a key that `section` has not; "" where none is likely.

    What people call it goes before what is spelt alike, and a setting of this section before one of another. A setting
    that only other names of a table have is told with these.
    """
    meant = [key, *SETTING_ALIASES.get(plain(key), ())]
    table = next((table for table, place in PLACES.items() if place == re.sub(r"\.\d+", ".N", section)), None)
    if table and plain(key) in NAME_ALIASES:
        return "did you mean 'name'?"
    here = next((name for word in meant for name in known if plain(name) == plain(word)), None)
    if here:
        return f"did you mean {here!r}?"
    spelt_alike = nearest(key, known, alike=SURELY_ALIKE)
    return spelt_alike or _other_names(meant, table) or _elsewhere(meant, section) or nearest(key, known)


def _other_names(settings: Collection[str], table: str | None) -> str:
    """Say which names of a table have the first of these settings that any has; "" where none has."""
    for setting in settings:
        having = _having(setting, table)
        if having:
            return f"only {' and '.join(filter(None, [', '.join(having[:-1]), having[-1]]))} can have {setting}"
    return ""


def _having(setting: str, table: str | None) -> list[str]:
    classes = TABLES.get(table, {})
    return [name for name, cls in classes.items() if setting in (field.name for field in dataclasses.fields(cls))]


def _elsewhere(settings: Collection[str], section: str) -> str:
    """Offer the first of these settings that another section has: one below this section, as high as any, or one that a
    run file has whatever names it chooses."""
    for setting in settings:
        places = [path for path in _paths() if path.rpartition(".")[2] == setting.lower()]
        below = [path for path in places if not section or path.startswith(f"{section}.")]
        found = below or list(filter(_is_always_there, places))
        highest = [path for path in found if path.count(".") == min(other.count(".") for other in found)]
        if highest:
            top = " at the top of the file" if "." not in highest[0] and section else ""
            return f"did you mean {' or '.join(map(repr, highest[:2]))}{top}?"
    return ""


def _is_always_there(path: str) -> bool:
    """Whether a setting stands at the top of a run file or of one of its sections, whatever the section's name is."""
    section, _, setting = path.partition(".")
    table = next((table for table, place in PLACES.items() if place == section), None)
    return "." not in setting and (not setting or table is None or len(_having(setting, table)) == len(TABLES[table]))


@cache
def _paths() -> tuple[str, ...]:
    """Return the path of every setting that a run file can have, each once."""
    return tuple(dict.fromkeys(_paths_of(RunConfig, "")))


def _paths_of(cls: type, above: str) -> Iterator[str]:
    for field in dataclasses.fields(cls):
        path = f"{above}{field.name}"
        yield path
        for inner in _classes_in(field.type):
            yield from _paths_of(inner, f"{path}.0." if get_origin(field.type) is list else f"{path}.")


def _classes_in(kind: object) -> Iterator[type]:
    """Yield the classes of settings that a type chooses from."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        yield kind
    for part in get_args(kind):
        yield from _classes_in(part)
