"""A run's states on disk: numbered folders, the newest that is whole counts."""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from advcore.errors import AdvcoreError, CheckpointError, ConfigError, must
from advcore.files import check_folder, inside, leftovers, load_folder, save_folder
from advcore.tracking import metrics

log = logging.getLogger(__name__)

FOLDERS = ("checkpoints", "coresets", "states", "tracking")
OURS = ("record.json", *metrics.FILES, *FOLDERS)
"""What a run writes into its folder."""

REPORT = "report.html"
"""The page that `advcore report` writes there; one of an earlier run goes with it."""


def folder(run: Path) -> Path:
    return run / "states"


LOCK = ".lock"
"""Held by who works in the folder; it names the job that began the run."""


def begin(run: Path, job: Sequence[str]) -> None:
    """Note who begins a run: `distributed.launchers()`."""
    run.mkdir(parents=True, exist_ok=True)
    (run / LOCK).write_text("".join(f"{name}\n" for name in job))


def begun_by(run: Path, job: Sequence[str]) -> bool:
    """Whether the run in the folder was begun by the same job."""
    try:
        return not set((run / LOCK).read_text().splitlines()).isdisjoint(job)
    except (OSError, UnicodeDecodeError):
        return False


@contextlib.contextmanager
def alone(run: Path) -> Iterator[None]:
    """Raise ConfigError if another process works in the run's folder; keep others out until the end. Raises
    UnsafeFileError if a link in it, of what is ours, leads out."""
    for name in OURS:
        for entry in [run / name, *(run / name).rglob("*")]:
            if entry.is_symlink():
                inside(entry, run)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with open(inside(run / LOCK, run), "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(must("--out", "a folder in which no other process runs", str(run))) from None
        _held.append(lock)
        try:
            yield
        finally:
            _held.remove(lock)


_held: list[TextIO] = []


def _let_go() -> None:
    """In a forked helper, such as a reader of images: it may outlive the one that it helps, whose lock it is not."""
    for lock in _held:
        lock.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _numbers(run: Path) -> list[int]:
    """Of all states, rising."""
    found = folder(run)
    names = [entry.name for entry in found.iterdir()] if found.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch(r"[0-9]{6,}", name) and name == f"{int(name):06d}")


def save(run: Path, state: Callable[[], dict], facts: dict[str, Any], kept: int = 2) -> None:
    """One state more; the oldest but `kept` go once every byte of it is known to be there. What a dead process left
    half-written goes, too."""
    numbers = _numbers(run)
    number = numbers[-1] + 1 if numbers else 1
    path = folder(run) / f"{number:06d}"
    save_folder(path, state(), facts)
    check_folder(path)
    for old in numbers[: max(0, len(numbers) + 1 - kept)]:
        _remove(folder(run) / f"{old:06d}")
    sweep(leftovers(folder(run)))


def sweep(paths: Iterable[Path]) -> None:
    """Remove files and folders; what cannot be removed is a warning."""
    for path in paths:
        _remove(path)


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError as error:
        log.warning("%s could not be removed: %s", path, error.strerror)


def newest(run: Path) -> tuple[dict, dict, list[str]] | None:
    """The newest state that is whole, its facts, and a line about each newer one that is damaged; None where nothing
    was saved yet. Raises AdvcoreError if all are damaged."""
    damaged = []
    for number in reversed(_numbers(run)):
        path = folder(run) / f"{number:06d}"
        try:
            tree, facts = load_folder(path)
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        for line, bad in zip(damaged, reversed(_numbers(run)), strict=False):
            log.warning("%s; going on from %s", line, path)
            _remove(folder(run) / f"{bad:06d}")  # so that it is not kept in a whole one's place
        return tree, facts, damaged
    if damaged:
        raise AdvcoreError(f"no state in {folder(run)} is whole: {'; '.join(damaged)}; start again with --overwrite")
    return None
