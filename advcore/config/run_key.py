"""Which settings determine the results of a run, and whether a record has the same settings."""

import hashlib
import json
import re

from advcore.config.load import from_dict, list_changes, resolve
from advcore.config.schema import RunConfig
from advcore.errors import ConfigError
from advcore.reporting.record import BY_PATH, ELSEWHERE, RunRecord

OF_METHOD = "of method "
"""What `model.weights`, or a solver's `scores`, of a suite's method begins with, before the name of another method,
until a seed says whose they are."""


def identify(config: RunConfig) -> dict:
    """Return the settings that determine the results of a run: not its name, nor where or how it is executed.

    The data and their pool count by the last part of their path, or, where their name says enough, without
    it. So do a file of scores, a teacher, and weights to begin with; weights of a run by its folder's name too.
    """
    settings = resolve(config)
    del settings["name"]
    settings["cost"]["reference_epochs"] = settings["cost"]["reference_epochs"] or settings["training"]["epochs"]
    for path in ELSEWHERE:
        _remove_setting(settings, path)
    data = settings["data"]
    if "path" in data:
        data["path"] = _find_last_part(data["path"]) if data["name"] in BY_PATH else None
    if data.get("pool"):
        teacher = data["pool"]["teacher"]
        data["pool"]["path"] = _find_last_part(data["pool"]["path"])
        data["pool"]["teacher"] = teacher and _name_weights(teacher.rstrip("/\\"))
    if settings["model"]["weights"]:
        settings["model"]["weights"] = _name_weights(settings["model"]["weights"])
    solver = (settings["selection"] or {}).get("solver", {})
    if solver.get("scores"):
        solver["scores"] = _find_last_part(solver["scores"])
    return settings


def _name_weights(path: str) -> str:
    """Return what weights are called: "net.pt", and "RUN/checkpoints/last.safetensors" of a run, "hub:owner/name"."""
    if path.startswith(("hub:", OF_METHOD)):
        return path
    *folders, name = re.split(r"[/\\]", path)
    if folders[-1:] == ["checkpoints"]:
        return "/".join([*folders[-2:], name])
    return name


def _find_last_part(path: str) -> str:
    return re.split(r"[/\\]", path.rstrip("/\\"))[-1]


def _remove_setting(settings: dict, path: str) -> None:
    *sections, name = path.split(".")
    for section in sections:
        settings = settings.get(section) or {}
    settings.pop(name, None)


def identify_record(record: RunRecord) -> dict:
    """Return the `identity` of the settings of a record, with the defaults of settings that are newer than it.

    Raises ConfigError for settings that this version does not know.
    """
    raw = record.config
    wanted = record.inputs.get("selection.cost")
    if wanted is not None and raw.get("selection"):
        raw = raw | {"selection": raw["selection"] | {"cost": wanted, "budget": None}}
    return identify(from_dict(raw))


def hash_settings(settings: dict) -> str:
    """Return 12 hex digits that are the same for the same `identity`."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def list_differences(record: RunRecord, config: RunConfig) -> list[str]:
    """Return a line "a.b: old -> new" for each setting in which a record differs from a config."""
    try:
        return [*map(str, list_changes(identify_record(record), identify(config)))]
    except ConfigError as error:
        return [f"settings that this version does not know ({error.lines[0]})"]
