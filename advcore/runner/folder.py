"""The folder that a run is written to: whether it may be, whether one was begun there, and what an earlier one left."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from advcore import distributed
from advcore.errors import ConfigError, must
from advcore.runner import checkpoints
from advcore.runner.places import check_path
from advcore.runner.schema import RunConfig
from advcore.tracking import metrics


def target(
    config: RunConfig, out: Path | None, overwrite: bool, resume: bool = False, job: Sequence[str] = ()
) -> tuple[Path, bool]:
    """The folder for a run, and whether to go on there: asked for, or begun by the same `job`, which torchrun started
    again. Nothing is changed yet, nor tried (`checkpoints.alone`). Raises ConfigError rather than mix two runs."""
    path = out or default_folder(config)
    if not distributed.first():
        return path, resume
    check_path(path)
    for name in checkpoints.FOLDERS:
        if (path / name).exists() and not (path / name).is_dir():
            raise ConfigError(must("--out", f"a folder in which {name} is one", str(path / name), "remove it"))
    for name in ("record.json", *metrics.FILES):
        if (path / name).is_dir():
            raise ConfigError(must("--out", f"a folder in which {name} is a file", str(path / name), "remove it"))
    if resume and overwrite:
        raise ConfigError(must("--resume", "without --overwrite", "both", "one goes on, the other starts again"))
    resume = resume or checkpoints.was_begun_by(path, job)
    begun = path.is_dir() and any((path / name).exists() for name in checkpoints.OURS)
    if resume and (path.is_dir() or not path.exists()) and (not begun or was_begun(path)):
        return path, resume
    taken = path.exists() and (not path.is_dir() or any(entry.name != checkpoints.LOCK for entry in path.iterdir()))
    if taken and not (overwrite and path.is_dir()):
        way_out = f"pass {'' if resume else '--resume or '}--overwrite, or another --out"
        raise ConfigError(must("--out", "a new or empty folder", str(path), way_out))
    return path, resume


def default_folder(config: RunConfig) -> Path:
    """Return the folder of a run for which none is asked for."""
    return Path("runs") / f"{config.name}-s{config.seed}"


def was_begun(path: Path) -> bool:
    """Whether there is something to go on with."""
    return (path / "record.json").is_file() or checkpoints.folder(path).is_dir()


def clear(path: Path) -> None:
    """Remove what an earlier run left in the folder, and nothing else."""
    for name in (*checkpoints.OURS, checkpoints.REPORT):
        entry = path / name
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink(missing_ok=True)
