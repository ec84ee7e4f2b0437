"""Arguments that several commands share, and checks of the files that they name."""

import os
from pathlib import Path
from typing import Annotated

import typer

from advcore.cli.experiments import find_run_file
from advcore.cli.processes import get_rank
from advcore.errors import check, require


def check_file(path: Path) -> Path:
    """Refuse a YAML file that cannot be read, before torch is imported.

    A pipe is not checked, since it can be read only once.
    """
    if get_rank() is None and (os.path.isfile(path) or not os.path.exists(path)):
        from advcore.config.yaml_reader import read

        read(path)
    return path


def check_run_file(path: Path) -> Path:
    """Return the run file of a path or of an experiment's name; refuse one that cannot be read."""
    return check_file(find_run_file(path))


def _check_overrides(texts: list[str] | None) -> list[str] | None:
    """Refuse an override that cannot be read, before torch is imported."""
    if get_rank() is None:
        from advcore.config.yaml_reader import parse_overrides

        parse_overrides(texts or ())
    return texts


def check_arrays_file(path: Path) -> None:
    """Raise ConfigError unless --out, an array file with a JSON file next to it, can be written to `path`."""
    from advcore.run.places import check_writable

    require(check(path.suffix == ".npz", "--out", "a file that ends in .npz", str(path)))
    check_writable(path, file=True)


def _load_plugins(paths: list[Path] | None) -> list[Path]:
    """Run the plug-ins, if there are any; torch is imported only then."""
    import importlib.metadata  # a third of the time that --help takes

    if paths or importlib.metadata.entry_points(group="advcore.plugins"):
        from advcore.register.plugins import load_plugins

        load_plugins(paths or ())
    return paths or []


RunFile = Annotated[
    Path,
    typer.Argument(metavar="FILE", help="A run file (YAML), or the name of an experiment.", callback=check_run_file),
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="Run this Python file first; it registers models or methods. Can be repeated.",
        callback=_load_plugins,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Override one setting. Can be repeated.",
        callback=_check_overrides,
    ),
]
