"""The run files that come with advcore: its experiments on digits, by name.

This module imports no torch, so that an unknown name is refused at once.
"""

import re
from pathlib import Path

from advcore.errors import must, require
from advcore.suggestions import suggest_nearest

_PACKAGE = Path(__file__).parents[1]
# in a wheel, and in a checkout: experiments/ is the source of both
_PLACES = (_PACKAGE / "experiments", _PACKAGE.parent / "experiments")


def list_experiments() -> dict[str, Path]:
    """Return the run files by name, sorted."""
    folder = next(filter(Path.is_dir, _PLACES), _PLACES[0])
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_run_file(path: Path) -> Path:
    """Return the run file that a user names: a file of theirs, or else an experiment that comes with advcore.

    Raises ConfigError for a bare name, without folder and ending, that is neither.
    """
    if path.name != str(path) or path.suffix or path.exists() or path.is_symlink():
        return path
    experiments = list_experiments()
    if path.name not in experiments:
        way_out = suggest_nearest(path.name, experiments) or "advcore list experiments shows their names"
        rule = "a run file, or the name of an experiment that comes with advcore"
        require(must("FILE", rule, path.name, way_out))
    return experiments[path.name]


def summarize_experiment(path: Path) -> str:
    """Return the first sentence of a run file's header, without its full stop."""
    lines = path.read_text(encoding="utf-8").splitlines()
    header = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    return re.split(r"(?<!et al)\. ", header, maxsplit=1)[0].rstrip(".")
