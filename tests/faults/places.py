"""Every setting of every registered class at every place of a run file, from the schema; and what it cannot be."""

import copy
import dataclasses
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

from advcore.config.load import from_dict
from advcore.config.schema import ByName, RunConfig
from advcore.errors import ConfigError

RUN = {
    "name": "x",
    "data": {"name": "digits"},
    "model": {"name": "small_cnn"},
    "objective": {"name": "pgd"},
    "attack": {"name": "linf_pgd", "eps": 0.1},
    "selection": {"solver": {"name": "random"}},
    "training": {"epochs": 3, "optimizer": {"name": "adam"}},
    "evaluation": {"attacks": [{"name": "linf_pgd", "eps": 0.1}]},
    "tracking": [{"name": "tensorboard"}],
}
NEEDED = {"eps": 0.1, "path": "x", "lr": 0.05, "milestones": [1], "steps": 2, "first": 1, "last": 2, "mean": 1.5}
NEEDED["epochs"] = 2
"""A value for each setting that has no default, so that a class can be put into a run file."""

NAMED = {
    "Timm": "timm:resnet18",
    "Torchvision": "torchvision:resnet18",
    "TimmOptimizer": "timm:lamb",
    "TimmSchedule": "timm:cosine",
}


@dataclass(frozen=True)
class Place:
    """A section of a run file: its dotted `path` ("" for the whole file), the class that reads it, a valid `run`."""

    path: str
    cls: type
    run: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.path or 'run'}-{self.cls.__name__}"

    def settings(self) -> dict[str, Any]:
        """Type by name, of the settings that are written below this place."""
        of_name = getattr(self.cls, "after_colon", "architecture")
        return {f.name: f.type for f in dataclasses.fields(self.cls) if f.name != of_name}

    def dotted(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def given(self, **values: Any) -> dict[str, Any]:
        """The run file with these values at this place."""
        run = copy.deepcopy(self.run)
        _at(run, self.path).update(values)
        return run


def places() -> list[Place]:
    """All of them. A class that cannot stand where its table says must say so in one line (a training-only attack in
    an evaluation) and is left out there."""
    return [place for place in _below("", RunConfig, RUN) if not _refused(place)]


def _refused(place: Place) -> bool:
    try:
        from_dict(place.run)
    except ConfigError as error:
        assert getattr(place.cls, "training_only", False), f"{place}: {error}; is a value missing in NEEDED?"
        return True
    return False


def _below(path: str, cls: type, run: dict) -> Iterator[Place]:
    yield Place(path, cls, run)
    for field in dataclasses.fields(cls):
        here, kind = f"{path}.{field.name}".lstrip("."), field.type
        if get_origin(kind) is list:
            here, kind = f"{here}.0", get_args(kind)[0]
        for name, chosen in choices(kind).items():
            yield from _below(here, chosen, _with(run, here, {"name": name, **_list_needed(chosen)}))
        for inner in (kind, *get_args(kind)):
            if isinstance(inner, type) and dataclasses.is_dataclass(inner):
                yield from _below(here, inner, run if _at(run, here) else _with(run, here, _list_needed(inner)))


def _list_needed(cls: type) -> dict[str, Any]:
    return {
        field.name: NEEDED[field.name] for field in dataclasses.fields(cls) if _required(field) and field.name in NEEDED
    }


def _required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def choices(kind: Any) -> dict[str, type]:
    """The classes that a setting of this type chooses from, by name."""
    found: dict[str, type] = {}
    for part in get_args(kind):
        if isinstance(part, ByName):
            found |= {NAMED.get(cls.__name__, name): cls for name, cls in part.table.items()}
        else:
            found |= choices(part)
    return found


def _at(run: Any, path: str) -> Any:
    for key in path.split(".") if path else ():
        run = run[int(key)] if isinstance(run, list) else run.get(key)
        if run is None:
            return None
    return run


def _with(run: dict, path: str, value: Any) -> dict:
    run = copy.deepcopy(run)
    above, _, key = path.rpartition(".")
    holder = _at(run, above)
    holder[int(key) if isinstance(holder, list) else key] = value
    return run


NUMBERS = (float("nan"), float("inf"), -float("inf"))
HUGE = (10**400, -(10**400), 10**30, -(10**30))


def wrong_types(kind: Any) -> list[Any]:
    """Values that a setting of this type cannot have, whatever its range."""
    parts = get_args(kind) if isinstance(kind, types.UnionType) or get_origin(kind) is Union else (kind,)
    wrong = [] if type(None) in parts else [None]
    part = next(part for part in parts if part is not type(None))
    if part is bool:
        return [*wrong, 0, 1, "true", "yes", 0.5, [True], {"a": True}, *NUMBERS]
    if part is int:
        return [*wrong, "3", "nonsense", True, False, 1.5, [1], {"a": 1}, *NUMBERS]
    if part is float:
        return [*wrong, "0.1", "8/255", "1e-3", "nonsense", True, False, [0.1], {"a": 0.1}, *NUMBERS]
    if part is str:
        return [*wrong, 3, 0.5, True, ["a"], {"a": "b"}, *NUMBERS]
    if get_origin(part) is list:
        (inner,) = get_args(part)
        nested = [[bad] for bad in wrong_types(inner)] if inner in (int, float, str) else [[3], ["a"], [None], [[]]]
        return [*wrong, "text", 3, True, {"a": 1}, *nested]
    if part == dict[str, object]:
        return [*wrong, "text", 3, True, ["a"]]
    if get_origin(part) is dict:
        nested = [] if get_args(part)[-1] is object else [{"a": 3}, {"a": [3]}, {"a": None}]
        return [*wrong, "text", 3, True, ["a"], *nested]
    return [*wrong, "text", 3, True, ["a"], 0.5]  # a section


def numeric(kind: Any) -> type | None:
    """int or float, of a setting that is a number or null."""
    return next((part for part in (kind, *get_args(kind)) if part in (int, float)), None)


def choices_at(path: str) -> list[str]:
    """The names that can stand at this place of a run file, in the table's order."""
    kind: Any = RunConfig
    for key in path.split("."):
        if key.isdigit():
            kind = get_args(kind)[0]
            continue
        kind = next(
            part for part in (kind, *get_args(kind)) if isinstance(part, type) and dataclasses.is_dataclass(part)
        )
        kind = {f.name: f.type for f in dataclasses.fields(kind)}[key]
    return list(choices(kind))


PLACES_WITH_NAMES = ("data", "model", "objective", "attack", "selection.solver", "selection.attack", "minibatch",
                     "training.optimizer", "training.lr_schedule", "training.attack_steps",
                     "evaluation.attacks.0", "tracking.0")  # fmt: skip
"""Where a `name` chooses a class."""
