"""The public surface is pinned: growth is deliberate. `python tests/test_surface.py > tests/surface.json` renews it."""

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest

import advcore

PINNED = Path(__file__).with_name("surface.json")


def keys(cls: type, prefix: str = "") -> list[str]:
    """Dotted config keys of a settings class, its nested settings included; named choices are listed by table."""
    found = []
    for field in dataclasses.fields(cls):
        found.append(prefix + field.name)
        inner = [kind for kind in (field.type, *get_args(field.type)) if dataclasses.is_dataclass(kind)]
        for kind in inner:
            found += keys(kind, f"{prefix}{field.name}.")
    return found


def surface() -> dict:
    import typer.main

    from advcore.cli import app
    from advcore.config.schema import TABLES, RunConfig
    from advcore.gradients import GRADIENTS
    from advcore.selection.partition import PARTITIONS
    from advcore.suite.layout import BASELINES, KEYS, SIZE_KEYS

    commands = typer.main.get_command(app).commands
    return {
        "all": sorted(advcore.__all__),
        "commands": {name: sorted(o for p in c.params for o in p.opts) for name, c in sorted(commands.items())},
        "run file": sorted(keys(RunConfig)),
        "tables": {
            table: {name: sorted(f.name for f in dataclasses.fields(cls)) for name, cls in entries.items()}
            for table, entries in TABLES.items()
        },
        "partitions": sorted(PARTITIONS),
        "gradients": sorted(GRADIENTS),
        "suite": {"keys": sorted(KEYS), "of a size": sorted(SIZE_KEYS), "baselines": sorted(BASELINES)},
    }


def test_the_surface_is_the_pinned_one():
    assert surface() == json.loads(PINNED.read_text())


def test_every_public_name_resolves_and_is_documented():
    for name in advcore.__all__:
        assert getattr(advcore, name) is not None
        assert name.startswith("__") or getattr(advcore, name).__doc__


def test_the_package_lists_its_public_names_and_loads_its_packages_by_name():
    assert {"AdversarialCoreset", "Trainer", "evaluate", "attacks", "solvers"} <= set(dir(advcore))
    assert all(getattr(advcore, name) is not None for name in dir(advcore))
    assert advcore.attacks.ATTACKS and advcore.solvers.SOLVERS
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = advcore.nothing


if __name__ == "__main__":
    print(json.dumps(surface(), indent=1, sort_keys=True))
