"""The folder that a run is written to: check it, see whether a run was started there, and remove what it left."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from advcore import distributed
from advcore.config.schema import RunConfig
from advcore.errors import ConfigError, must
from advcore.run import checkpoints
from advcore.run.places import check_path


def choose_folder(
    config: RunConfig, out: Path | None, overwrite: bool, resume: bool = False, job: Sequence[str] = ()
) -> tuple[Path, bool]:
    """Return the folder for a run, and whether to continue the run that was started there.

    A run is continued if `resume` says so, or if it was started by the same `job`, which torchrun has then restarted.
    Nothing is changed yet, nor is it tried whether the folder can be written to (`checkpoints.lock_folder`).

    Raises ConfigError rather than mix two runs.
    """
    path = out or choose_default_folder(config)
    if not distributed.is_first():
        return path, resume
    check_path(path)
    _check_kinds(path)
    if resume and overwrite:
        raise ConfigError(
            must("--resume", "without --overwrite", "both", "one continues the run, the other starts it again")
        )
    resume = resume or checkpoints.was_begun_by(path, job)
    if resume and _can_continue(path) or _is_empty(path) or overwrite and path.is_dir():
        return path, resume
    way_out = f"pass {'' if resume else '--resume or '}--overwrite, or another --out"
    raise ConfigError(must("--out", "a new or empty folder", str(path), way_out))


def _check_kinds(path: Path) -> None:
    for name in checkpoints.FOLDERS:
        if (path / name).exists() and not (path / name).is_dir():
            raise ConfigError(must("--out", f"a folder in which {name} is a folder", str(path / name), "remove it"))
    for name in checkpoints.FILES:
        if (path / name).is_dir():
            raise ConfigError(must("--out", f"a folder in which {name} is a file", str(path / name), "remove it"))


def _is_empty(path: Path) -> bool:
    """Return whether there is nothing at the path, or a folder that holds at most a lock."""
    if not path.is_dir():
        return not path.exists()
    return all(entry.name == checkpoints.LOCK for entry in path.iterdir())


def _can_continue(path: Path) -> bool:
    return path.is_dir() and (was_begun(path) or not any((path / name).exists() for name in checkpoints.OURS))


def choose_default_folder(config: RunConfig) -> Path:
    """Return the folder that a run is written to unless the user names one."""
    return Path("runs") / f"{config.name}-s{config.seed}"


def was_begun(path: Path) -> bool:
    """Return whether a run was started in the folder: it holds a record or states."""
    return (path / "record.json").is_file() or checkpoints.locate_states(path).is_dir()


def clear(path: Path) -> None:
    """Remove what an earlier run left in the folder, and nothing else."""
    for name in (*checkpoints.OURS, checkpoints.REPORT):
        entry = path / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
