"""Which settings decide what a run gives, and whether a record is of them."""

import hashlib
import json
import re
from typing import Any

from advcore.errors import ConfigError
from advcore.reporting.record import BY_PATH, ELSEWHERE, RunRecord
from advcore.runner.config import changes, from_dict, resolved
from advcore.runner.schema import RunConfig


def identity(config: RunConfig) -> dict[str, Any]:
    """The settings that decide what a run gives: without its name, and without where it is done."""
    found = resolved(config)
    del found["name"]
    found["cost"]["reference_epochs"] = found["cost"]["reference_epochs"] or found["training"]["epochs"]
    for path in ELSEWHERE:
        *above, last = path.split(".")
        here = found
        for key in above:
            here = here.get(key) if isinstance(here, dict) else None
        if isinstance(here, dict):
            here.pop(last, None)
    if "path" in found["data"]:
        known = found["data"]["name"] in BY_PATH
        found["data"]["path"] = re.split(r"[/\\]", found["data"]["path"].rstrip("/\\"))[-1] if known else None
    return found


def recorded(record: RunRecord) -> dict[str, Any]:
    """The `identity` of the settings that a record was made with; what is new since counts with its default. Raises
    ConfigError where they are none of this version's."""
    raw, wanted = record.config, record.inputs.get("selection.cost")
    if wanted is not None and raw.get("selection"):
        raw = raw | {"selection": raw["selection"] | {"cost": wanted, "budget": None}}
    return identity(from_dict(raw))


def settings_hash(found: dict[str, Any]) -> str:
    """Of an `identity`: 12 hex digits that are the same for the same settings."""
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:12]


def differences(record: RunRecord, config: RunConfig) -> list[str]:
    """ "a.b: old -> new" for each setting in which the record is not of `config`."""
    try:
        return changes(recorded(record), identity(config))
    except ConfigError as error:
        return [f"settings that this version does not know ({error.problems[0]})"]
