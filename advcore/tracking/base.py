"""The contract of a tracker: settings that open a sink, and a sink that is told one epoch at a time."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

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

    def load(self) -> ModuleType:
        """The tracker's package. Raises ConfigError where it cannot be imported."""
        raise NotImplementedError

    def open(self, opening: Opening) -> Sink:
        """A sink that goes on where the last one stopped; whatever it raises costs the run nothing but the tracker."""
        raise NotImplementedError


def quiet() -> None:
    """Keep the packages that are imported from now on from reporting to anyone, unless the environment says so."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def importing(package: str, extra: str) -> Iterator[None]:
    """An import inside is quiet, and raises ConfigError where the package is missing or broken."""
    quiet()
    try:
        yield
    except Exception as error:  # a mismatched build raises whatever it likes
        raise missing_package(package, f"tracking with {package}", extra, error) from None


def flat(config: dict[str, Any] | list, above: str = "") -> dict[str, Any]:
    """{"training.optimizer.lr": 0.05, "evaluation.attacks.0.eps": 0.1} of nested settings."""
    entries = config.items() if isinstance(config, dict) else enumerate(config)
    found: dict[str, Any] = {}
    for key, value in entries:
        name = f"{above}.{key}" if above else str(key)
        found |= flat(value, name) if isinstance(value, (dict, list)) and value else {name: value}
    return found
