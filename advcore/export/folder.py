"""The folder of an export: whether it may be written, and how it is written completely or not at all."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from advcore.errors import CheckpointError, ConfigError, must, name_path_in_errors
from advcore.files import read_json
from advcore.run.places import check_path, refuse_as_option, try_in

SCHEMA = "advcore-export-1"


def check_free(out: Path, overwrite: bool) -> None:
    """Raise ConfigError unless `out` can be created, or is an earlier export that may be replaced."""
    check_path(out)
    with refuse_as_option("--out", out):
        try_in(out.parent, out.name)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (overwrite and out.is_dir() and is_export(out)):
        way_out = "it is not an export, and is left unchanged" if overwrite else "pass --overwrite, or another --out"
        raise ConfigError(must("--out", "a new or empty folder", str(out), way_out))


def is_export(folder: Path) -> bool:
    """Return whether a folder is one that `export` wrote."""
    for file in (folder / "config.json", folder / "coresets" / "index.json"):
        try:
            value = read_json(file)
        except CheckpointError:
            continue
        if isinstance(value, dict) and value.get("schema") == SCHEMA:
            return True
    return False


@contextlib.contextmanager
def replace_on_success(out: Path) -> Iterator[Path]:
    """Yield a folder that replaces `out` after the block, and is deleted if anything fails."""
    with name_path_in_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
        try:
            yield folder
            folder.chmod(0o755)
            _move_into_place(folder, out)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def _move_into_place(folder: Path, out: Path) -> None:
    """Rename `folder` to `out`. An earlier export there is deleted last, and restored if the renaming fails."""
    if not out.exists():
        folder.rename(out)
        return
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    out.rename(aside / "old")
    try:
        folder.rename(out)
    except OSError:
        (aside / "old").rename(out)
        aside.rmdir()
        raise
    shutil.rmtree(aside)
