"""What a run leaves behind: one JSON file from which every table is made."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from advcore.errors import CheckpointError, shown
from advcore.files import check_seal, inside, parsed_json, read_bytes, write_sealed

SCHEMA = "advcore-record-2"
UNSEALED = "advcore-record-1"
"""Of records from before they had a seal, which are still read."""
_WAY_OUT = "advcore run --resume makes a run's record again from its states; advcore bench, one that was removed"
ELSEWHERE = ("device", "checkpoint", "tracking", "data.workers", "training.memory.place", "selection.memory_limit")
"""Settings that say where a run is done and who is told, not what comes out of it."""
BY_PATH = ("parquet", "npz", "image_folder")
"""Data that are known by the last part of their path; others are the same wherever they lie."""


def is_among(setting: str, settings: Iterable[str]) -> bool:
    """Whether a dotted setting is one of these, or stands inside one."""
    return any(setting == one or setting.startswith(f"{one}.") for one in settings)


@dataclass(kw_only=True)
class RunRecord:
    """A run's facts.

    name, config (resolved), environment, plan (text), epochs and selections (one dict each), ledger {phase: {forward,
    backward, seconds}}, relative_cost and the reference it compares with, events (fallbacks and flags), final
    {last, best: {clean, attacks}}, finished, best_epoch (from 0), seconds of the run, peak_memory (bytes); schema: the
    version of these names; data: how many examples there are, of each class in training, and a hash of them; inputs:
    files that the run read, by setting, with their sha256; resumes: where it was gone on with, what had changed since,
    and which states were damaged.
    """

    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    plan: str
    reference: dict[str, Any]
    schema: str = SCHEMA
    finished: bool = False
    relative_cost: float = 0.0
    seconds: float = 0.0
    peak_memory: int = 0
    best_epoch: int | None = None
    ledger: dict[str, dict[str, float]] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    selections: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    final: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Any] = field(default_factory=dict)
    resumes: list[dict[str, Any]] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write as sealed JSON, whole or not at all. Raises OSError, with the path."""
        write_sealed(path, dataclasses.asdict(self), SCHEMA)

    @classmethod
    def load(cls, path: Path) -> "RunRecord":
        """Read what `save` wrote. Raises CheckpointError for anything else, and where a byte has changed; its cause is
        the same error without a way out."""
        content = read_bytes(inside(path, path.parent))
        value = parsed_json(content, path)
        if not isinstance(value, dict) or value.get("schema") not in (SCHEMA, UNSEALED):
            raise CheckpointError(f"{path} is not a record of this version ({SCHEMA})")
        try:
            value = check_seal(content, value, path, SCHEMA, UNSEALED)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {_WAY_OUT}") from error
        try:
            found = cls(**value)
            for field in dataclasses.fields(cls):
                _check(field, getattr(found, field.name))
            return found
        except TypeError as error:
            raise CheckpointError(f"{path} is not a record of this version: {error}") from None


def _check(field: dataclasses.Field, value: Any) -> None:
    """Raise TypeError unless a value from JSON is what its field holds."""
    kind = get_origin(field.type) if get_origin(field.type) in (list, dict) else field.type
    kind = int | float if kind is float else kind
    entries = value if isinstance(value, list) else []
    if not isinstance(value, kind) or not all(isinstance(one, dict) for one in entries):
        raise TypeError(f"{field.name} holds {shown(value)}")
