"""The contract of a tracker: settings that open a sink, and a sink that is told one epoch at a time."""

import importlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from advcore.errors import missing_package
from advcore.types import settings

Values = dict[str, float]
"""Numbers by name, such as {"probe/robust": 0.5}; names hold letters, digits, "_", "-", "." and "/"."""

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
"""What keeps these packages from sending reports of their own; what the user's environment says counts before it."""


@dataclass(frozen=True)
class Opening:
    """What a tracker is opened with.

    folder : the tracker's own, in the run's folder. name : the run's. config : its resolved settings. kept : what the
    sink asked to keep when the run was opened before, {} the first time. told : how many epochs it was told then.
    """

    folder: Path
    name: str
    config: dict[str, Any]
    kept: dict[str, Any] = field(default_factory=dict)
    told: int = 0


class Sink:
    """An open tracker. `kept`: plain values that `Opening.kept` hands back when the run goes on. `told`: how many
    epochs it holds, so that none is told twice."""

    def __init__(self, told: int, kept: dict[str, Any] | None = None):
        self.told, self.kept = told, kept or {}

    def log(self, epoch: int, values: Values) -> None:
        """One epoch's numbers; what is logged is safe when this returns."""
        raise NotImplementedError

    def close(self, final: Values | None) -> None:
        """The end of a run, with its final numbers, or a stop without (None)."""
        raise NotImplementedError


@settings
class Tracker:
    """Settings that all trackers share."""

    package: ClassVar[str]
    extra: ClassVar[str]

    def load(self) -> ModuleType:
        """The tracker's package. Raises ConfigError where it cannot be imported."""
        return load_package(self.package, f"tracking with {self.package}", self.extra)

    def open(self, opening: Opening) -> Sink:
        """A sink that goes on where the last one stopped; whatever it raises costs the run nothing but the tracker."""
        raise NotImplementedError


def load_package(package: str, needed_for: str, extra: str) -> ModuleType:
    """As `imported`. Raises ConfigError where it is missing or broken."""
    try:
        return imported(package)
    except Exception as error:  # a mismatched build raises whatever it likes
        raise missing_package(package, needed_for, extra, error) from None


def imported(package: str) -> ModuleType:
    """The package, which reports nothing to anyone; raises whatever its import raises."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    return importlib.import_module(package)


def flat(config: dict[str, Any] | list, above: str = "") -> dict[str, Any]:
    """{"training.optimizer.lr": 0.05, "evaluation.attacks.0.eps": 0.1} of nested settings."""
    entries = config.items() if isinstance(config, dict) else enumerate(config)
    found: dict[str, Any] = {}
    for key, value in entries:
        name = f"{above}.{key}" if above else str(key)
        found |= flat(value, name) if isinstance(value, (dict, list)) and value else {name: value}
    return found
