"""The contract of a tracker: settings that open a sink, and a sink that receives one epoch at a time."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

from advcore.errors import require_package
from advcore.settings import settings

# Numbers by name, such as {"probe/robust": 0.5}; names hold letters, digits, "_", "-", "." and "/".
Values = dict[str, float]
# Environment variables that keep these packages from sending reports; values that the user has set take precedence.
QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}


@dataclass(frozen=True)
class Opening:
    """What a tracker is opened with.

    Parameters
    ----------
    folder : the tracker's folder, inside the run's folder.
    name : of the run.
    config : the run's resolved settings.
    state : `Sink.state` of the time before, if the run continues; {} the first time.
    epochs_logged : how many epochs the sink had received by then.
    """

    folder: Path
    name: str
    config: Mapping[str, object]
    state: dict[str, str | None] = field(default_factory=dict)
    epochs_logged: int = 0


class Sink:
    """An open tracker.

    epochs_logged : how many epochs it holds, so that none is sent twice.
    state : plain values, which `Opening.state` gives back when the run continues.
    """

    def __init__(self, epochs_logged: int, state: dict[str, str | None] | None = None) -> None:
        self.epochs_logged, self.state = epochs_logged, state or {}

    def log(self, epoch: int, values: Values) -> None:
        """Store one epoch's numbers, safely by the time this returns."""
        raise NotImplementedError

    def close(self, final: Values | None) -> None:
        """End the tracking: `final` holds the numbers of a finished run, None means that the run was stopped."""
        raise NotImplementedError


@settings
class Tracker:
    """Settings that all trackers share."""

    def load(self) -> ModuleType:
        """Import the tracker's package. Raises ConfigError where it cannot be imported."""
        raise NotImplementedError

    def open(self, opening: Opening) -> Sink:
        """Return a sink that continues where the previous one stopped.

        It may raise anything: the run then continues without this tracker.
        """
        raise NotImplementedError


def silence_packages() -> None:
    """Keep packages that are imported later from sending reports, unless the environment asks for them."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def import_quietly(package: str, extra: str) -> Iterator[None]:
    """Silence the package that the block imports, and raise ConfigError where it is missing or broken."""
    silence_packages()
    with require_package(package, f"tracking with {package}", extra):
        yield


def flatten(config: Mapping[str, object] | Sequence[object], prefix: str = "") -> dict[str, object]:
    """Flatten nested settings, as in {"training.optimizer.lr": 0.05, "evaluation.attacks.0.eps": 0.1}.

    An empty list or mapping stays as it is.
    """
    entries = config.items() if isinstance(config, Mapping) else enumerate(config)
    flat: dict[str, object] = {}
    for key, value in entries:
        name = f"{prefix}{key}"
        if isinstance(value, (dict, list)) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
