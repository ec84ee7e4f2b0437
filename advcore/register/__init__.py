"""Register your own methods under names for run files, such as `advcore.register.model("my_net")(Net)`.

A plug-in is a Python file that does so: its owner names it on the command line (`--plugin my_net.py`), or installs a
package with an entry point of the group `advcore.plugins`. A run file never imports anything.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from advcore.attacks import ATTACKS
from advcore.attacks.base import Attack
from advcore.config.schema import TABLES
from advcore.data import DATASETS
from advcore.data.augment import AUGMENTATIONS, Augmentation
from advcore.data.base import DataSettings
from advcore.errors import ConfigError, check, must, require
from advcore.evaluation.evaluate import EVALUATED
from advcore.kinds import find_type_problem
from advcore.minibatch import RULES
from advcore.minibatch.base import AttackSubset, UpdateSubset
from advcore.minibatch.epoch_subset import EpochSubset
from advcore.models import MODELS
from advcore.models.base import ModelSettings
from advcore.objectives import OBJECTIVES
from advcore.register.networks import describe_network
from advcore.regularizers import REGULARIZERS
from advcore.regularizers.base import Regularizer
from advcore.solvers import SOLVERS
from advcore.tracking import TRACKERS, Tracker
from advcore.training import LR_SCHEDULES, OPTIMIZERS

Entry = TypeVar("Entry")
Decorator = Callable[[Entry], Entry]
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,99}")


def model(name: str) -> Decorator:
    """Return a decorator that registers a network, or `ModelSettings` that build one.

    A network is a class or function that returns an `nn.Module`, from images (B, C, H, W) in [0, 1], normalised as
    `model.normalize` says, to logits (B, num_classes). It takes `num_classes`, and may take `channels` and `shape`
    (C, H, W); its other parameters are settings in run files.
    Raises ConfigError for a name that is taken or holds other characters than letters, digits and "_.-", and for what
    is not a network; so do all functions of this module.
    """

    _check_name("model", name, MODELS)

    def add(entry: Entry) -> Entry:
        is_settings = isinstance(entry, type) and issubclass(entry, ModelSettings)
        kind: object = entry
        if not is_settings:
            kind = describe_network(name, entry)
        table: dict = MODELS
        table[name] = kind
        return entry

    return add


def attack(name: str) -> Decorator:
    """Return a decorator that registers an attack, a subclass of `advcore.attacks.base.Attack`."""
    return _make_decorator("attack", name, (ATTACKS, EVALUATED), bases=(Attack,))


def objective(name: str) -> Decorator:
    """Return a decorator that registers an objective: `loss`, `passes`, `ascent_needs_clean` and `bind_ascent`."""
    return _make_decorator("objective", name, (OBJECTIVES,), needs=("loss", "passes", "bind_ascent"))


def solver(name: str) -> Decorator:
    """Return a decorator that registers a solver: `reads`, and a call with rows and k."""
    return _make_decorator("solver", name, (SOLVERS,), needs=("reads", "__call__"))


def rule(name: str) -> Decorator:
    """Return a decorator that registers a minibatch rule, an `AttackSubset`, `UpdateSubset` or `EpochSubset`."""
    return _make_decorator("rule", name, (RULES,), bases=(AttackSubset, UpdateSubset, EpochSubset))


def dataset(name: str) -> Decorator:
    """Return a decorator that registers a data set, a subclass of `advcore.data.base.DataSettings`."""
    return _make_decorator("dataset", name, (DATASETS,), bases=(DataSettings,))


def optimizer(name: str) -> Decorator:
    """Return a decorator that registers an optimiser: settings whose `build(model)` returns a torch optimiser."""
    return _make_decorator("optimizer", name, (OPTIMIZERS,), needs=("build", "lr"))


def lr_schedule(name: str) -> Decorator:
    """Return a decorator that registers a schedule of the learning rate."""
    return _make_decorator("lr_schedule", name, (LR_SCHEDULES,), needs=("factor",))


def regularizer(name: str) -> Decorator:
    """Return a decorator that registers a penalty, a subclass of `advcore.regularizers.base.Regularizer`."""
    return _make_decorator("regularizer", name, (REGULARIZERS,), bases=(Regularizer,))


def tracker(name: str) -> Decorator:
    """Return a decorator that registers a tracker, a subclass of `advcore.tracking.base.Tracker`."""
    return _make_decorator("tracker", name, (TRACKERS,), bases=(Tracker,))


def transform(name: str) -> Decorator:
    """Return a decorator that registers an augmentation, which `data.augment` can name.

    It is a function of images (B, C, H, W) and a stream of random numbers, bound to the B examples, that returns images
    of the same shape. Remembered perturbations refuse one that changes more than where pixels are.
    """

    _check_name("transform", name, AUGMENTATIONS)

    def add(entry: Entry) -> Entry:
        require(find_type_problem(f"register.transform({name!r})", Augmentation, entry))
        AUGMENTATIONS[name] = entry  # type: ignore[assignment]
        return entry

    return add


def list_names() -> set[tuple[str, str]]:
    """Return all names in the tables of methods, each with its table's name."""
    tables: Mapping[str, Iterable[str]] = {**TABLES, "transforms": AUGMENTATIONS}
    return {(table, name) for table, names in tables.items() for name in names}


def _make_decorator(
    kind: str,
    name: str,
    tables: tuple[dict, ...],
    *,
    bases: tuple[type, ...] = (),
    needs: tuple[str, ...] = (),
) -> Decorator:
    """Return a decorator that puts a class of settings into the tables, once it has the bases or attributes needed."""

    _check_name(kind, name, tables[0])

    def add(entry: Entry) -> Entry:
        setting = f"register.{kind}({name!r})"
        if not isinstance(entry, type) or not dataclasses.is_dataclass(entry):
            raise ConfigError(must(setting, "given a class made with @advcore.settings.settings", entry))
        missing = [attribute for attribute in needs if not _has(entry, attribute)]
        rule = f"given a class with {', '.join(needs)}"
        require(check(not missing, setting, rule, f"{entry.__name__} without {', '.join(missing)}"))
        allowed = " or ".join(base.__name__ for base in bases)
        require(check(not bases or issubclass(entry, bases), setting, f"given a subclass of {allowed}", entry))
        for table in tables:
            table[name] = entry
        return entry

    return add


def _has(cls: type, attribute: str) -> bool:
    return hasattr(cls, attribute) or attribute in (field.name for field in dataclasses.fields(cls))


def _check_name(kind: str, name: object, table: Mapping[str, object]) -> None:
    setting = f"register.{kind}"
    is_text = isinstance(name, str) and _NAME.fullmatch(name)
    require(check(is_text, setting, "given a name of letters, digits, '_', '.' and '-', such as \"my_net\"", name))
    require(check(name not in table, setting, "given a name that is free", name, f"taken: {', '.join(table)}"))
