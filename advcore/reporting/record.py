"""The record of a run: one JSON file from which every table, chart and page is made."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_origin

from advcore.errors import CheckpointError, format_count, format_value
from advcore.files import check_inside, check_seal, parse_json, read_bytes, write_sealed

SCHEMA = "advcore-record-2"
# The schema of older records, which have no seal and are still read.
UNSEALED = "advcore-record-1"
_WAY_OUT = "advcore run --resume makes a run's record again from its states; advcore bench, one that was removed"
# Settings that say where a run is computed and who is informed of it; its results do not depend on them.
ELSEWHERE = (
    "device",
    "checkpoint",
    "tracking",
    "data.workers",
    "model.download",
    "training.memory.place",
    "selection.memory_limit",
    "selection.rows_place",
    "selection.max_minutes",
)
# Data sets that are identified by the last part of their path. Others are the same wherever they are stored.
BY_PATH = ("parquet", "npz", "image_folder")
# An object of a record's JSON. Which keys it has is decided by the code that measures it.
JsonObject = dict[str, Any]


def is_among(setting: str, settings: Iterable[str]) -> bool:
    """Return whether a dotted setting is one of `settings`, or lies inside one of them."""
    return any(setting == name or setting.startswith(f"{name}.") for name in settings)


@dataclass(kw_only=True)
class RunRecord:
    """Everything that is known of a run, written as one JSON file.

    name : of the run, from its configuration.
    config : all settings, resolved.
    environment : device, versions, threads.
    plan : the schedule of epochs and selections, in words.
    reference : full training, to which costs are relative.
    schema : the version of these names.
    finished : whether the final evaluation is done.
    relative_cost : floating-point operations, over those of the reference; passes over its passes where the reference
        has no `flops`: of a run of an older version, or one whose operations cannot be counted.
    seconds : that the run took.
    peak_memory : in bytes.
    best_epoch : counted from 0; None without validation examples.
    ledger : {phase: {forward, backward, seconds, flops}}.
    epochs, selections : one object per epoch and per selection.
    events : what fell back or went wrong: {epoch, kind, event}, the event as text; older records have no kind.
    final : {last, best: {clean, attacks, worst, shared, flags}}, the evaluation of both checkpoints on the test set;
        `shared` only where an attack saw fewer images than others.
    data : how many examples there are, how many of each class in training, a hash of them, and what was
        left out or read differently than the files say.
    inputs : the files that the run read, by setting, with their sha256.
    pretraining : {run, passes, flops} of the run whose weights it began with, or whose scores it selects by, where
        that is known: the name, and the cost of all phases but evaluation, its own pretraining included.
    plugins : the plug-ins that were loaded: {path, sha256, names}.
    resumes : the epochs where the run was continued, the settings that had changed, and the damaged states.
    """

    name: str
    config: JsonObject
    environment: JsonObject
    plan: str
    reference: JsonObject
    schema: str = SCHEMA
    finished: bool = False
    relative_cost: float = 0.0
    seconds: float = 0.0
    peak_memory: int = 0
    best_epoch: int | None = None
    ledger: dict[str, dict[str, float]] = field(default_factory=dict)
    epochs: list[JsonObject] = field(default_factory=list)
    selections: list[JsonObject] = field(default_factory=list)
    events: list[JsonObject] = field(default_factory=list)
    final: JsonObject = field(default_factory=dict)
    data: JsonObject = field(default_factory=dict)
    inputs: JsonObject = field(default_factory=dict)
    pretraining: JsonObject = field(default_factory=dict)
    plugins: list[JsonObject] = field(default_factory=list)
    resumes: list[JsonObject] = field(default_factory=list)

    def __repr__(self) -> str:
        counts = f"{format_count(len(self.epochs), 'epoch')}, {format_count(len(self.events), 'event')}"
        return f"RunRecord({self.name}, {counts}, relative_cost={self.relative_cost:.2f}, finished={self.finished})"

    def save(self, path: Path) -> None:
        """Write the record as sealed JSON, completely or not at all.

        Raises OSError, with the path, and ValueError for a record that holds NaN or infinity.
        """
        write_sealed(path, dataclasses.asdict(self), SCHEMA)

    @classmethod
    def load(cls, path: Path) -> "RunRecord":
        """Read a record that `save` wrote, or an older one, which has no seal, as it is.

        Raises CheckpointError for any other file, UnreadableError where the system refuses it, and UnsafeFileError for
        a link out of its folder. For a record in which a byte has changed, the cause of the CheckpointError is the same
        error without a way out.
        """
        content = read_bytes(check_inside(path, path.parent))
        value = parse_json(content, path)
        if not isinstance(value, dict) or value.get("schema") not in (SCHEMA, UNSEALED):
            raise CheckpointError(f"{path} is not a record of this version ({SCHEMA})")
        try:
            value = check_seal(content, value, path, SCHEMA, UNSEALED)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {_WAY_OUT}") from error
        try:
            record = cls(**value | {"config": name_old_defaults(value.get("config"))})
            for field in dataclasses.fields(cls):
                _check_type(field, getattr(record, field.name))
            return record
        except TypeError as error:
            raise CheckpointError(f"{path} is not a record of this version: {error}") from None


def name_old_defaults(config: object) -> object:
    """Return settings with the defaults of the version that wrote them, where this version has others by that name."""
    if not isinstance(config, dict):
        return config
    rule = config.get("minibatch")
    if isinstance(rule, dict) and rule.get("name") == "loss_ranked":
        return config | {"minibatch": {"look": "eval"} | rule}
    return config


def _check_type(field: dataclasses.Field, value: object) -> None:
    assert not isinstance(field.type, str), "the annotations of this module are evaluated"
    expected = field.type
    if expected is float:
        expected = int | float
    elif get_origin(expected) in (list, dict):
        expected = get_origin(expected)
    has_type = isinstance(value, expected)
    holds_objects = not isinstance(value, list) or all(isinstance(entry, dict) for entry in value)
    if not has_type or not holds_objects:
        raise TypeError(f"{field.name} holds {format_value(value)}")
