"""The part of a run's page about its settings, and settings as text."""

import json
from collections.abc import Mapping

from advcore.pixels import format_exactly
from advcore.reporting.parts import Folded, Listing, Part, Table, note_if
from advcore.reporting.record import JsonObject, RunRecord


def build_settings(record: RunRecord) -> list[Part]:
    """Return all settings, and tables of the data, of the files that the run read, and of its environment."""
    data = [(name.replace("_", " "), _to_json(value)) for name, value in record.data.items() if name != "class_counts"]
    environment = _tabulate("Environment", record.environment)
    tables = (
        Table("Data and hashes", (), data, words=2),
        _tabulate("Files that the run read", record.inputs),
        environment,
    )
    return [
        Listing("All settings of the run", format_settings(record.config)),
        *(Folded(table.caption, [table]) for table in tables if table.rows),
        *note_if(not environment.rows, "The record names no environment.", "missing"),
    ]


def _tabulate(caption: str, tree: JsonObject) -> Table:
    """Return a table of names and values; names of nested values are dotted."""
    rows = [(name, value if isinstance(value, str) else _to_json(value)) for name, value in flatten(tree).items()]
    return Table(caption, (), rows, words=2)


def flatten(tree: Mapping[str, object], path: str = "") -> JsonObject:
    """Return nested settings by their dotted path. Lists and empty mappings are values."""
    settings: JsonObject = {}
    for key, value in tree.items():
        name = f"{path}{key}"
        if isinstance(value, dict) and value:
            settings |= flatten(value, f"{name}.")
        else:
            settings[name] = value
    return settings


def format_settings(tree: Mapping[str, object], depth: int = 0) -> str:
    """Write nested settings as a run file does: YAML whose values are JSON."""
    indent = "  " * depth
    lines = []
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            lines += [f"{indent}{key}:", format_settings(value, depth + 1)]
        else:
            lines.append(f"{indent}{key}: {_format_setting(value)}")
    return "\n".join(lines)


def _format_setting(value: object) -> str:
    """Write a setting in one line from which a run file reads back the same value: JSON, and 8/255 as a fraction."""
    if isinstance(value, list):
        return f"[{', '.join(map(_format_setting, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_to_json(key)}: {_format_setting(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, float):
        fraction = format_exactly(value)
        if fraction and "/" in fraction:
            return fraction
    return _to_json(value)


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
