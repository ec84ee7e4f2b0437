"""A run's states on disk: numbered folders, the newest that is whole counts."""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from advcore.errors import AdvcoreError, BusyError, CheckpointError, UnreadableError, cause_of, must, naming
from advcore.files import check_folder, inside, leftovers, load_folder, save_folder
from advcore.runner.places import as_setting, missing_folders, remove_empty, try_in, try_replace
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
    with naming(run / LOCK):
        (run / LOCK).write_text("".join(f"{name}\n" for name in job))


def begun_by(run: Path, job: Sequence[str]) -> bool:
    """Whether the run in the folder was begun by the same job."""
    try:
        return not set((run / LOCK).read_text().splitlines()).isdisjoint(job)
    except (OSError, UnicodeDecodeError):
        return False


@contextlib.contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keep other processes out of the run's folder, once every place that a run writes to was tried. The folder is made
    if it is missing, and goes again if nothing was written.

    Raises BusyError if another process works there, UnsafeFileError if a link in it, of what is ours, leads out, and
    ConfigError where something cannot be written (OSError where there is no room).
    """
    with contextlib.ExitStack() as held:
        with as_setting("--out", run):
            _check_links(run)
            held.callback(remove_empty, missing_folders(run))
            held.enter_context(_locked(run / LOCK))
            _try_places(run)
        yield


def _check_links(run: Path) -> None:
    for name in OURS:
        for entry in [run / name, *(run / name).rglob("*")]:
            if entry.is_symlink():
                inside(entry, run)
    inside(run / LOCK, run)


def _try_places(run: Path) -> None:
    """Raise OSError unless everything that a run writes can be written."""
    for name in FOLDERS:
        if os.path.lexists(run / name):
            try_in(run / name)
    try_in(run)
    for name in ("record.json", *metrics.FILES):
        try_replace(run / name)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock file in its folder, both made if they are missing. The file goes again if nothing of a run is in
    the folder then."""
    try:
        import fcntl  # noqa: F401
    except ImportError:  # Windows
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
        return
    lock = _take(path)
    _held.append(lock)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if not any(os.path.lexists(path.parent / name) for name in OURS):
                path.unlink()
        _held.remove(lock)
        lock.close()


_TRIES = 5


def _take(path: Path) -> TextIO:
    """Open the lock file and lock it; anew if the process that had it removes it, or its folder, at that moment."""
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _open_locked(path)
        if lock is not None:
            return lock
    raise _busy(path)


def _open_locked(path: Path) -> TextIO | None:
    """The locked file; None if it has left its place since. Raises BusyError if another process holds the lock."""
    import fcntl

    new = not os.path.lexists(path)
    try:
        lock = open(path, "a")  # noqa: SIM115
    except FileNotFoundError:
        if path.parent.exists():
            raise
        return None
    try:
        with naming(path):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if isinstance(error, BlockingIOError):
            raise _busy(path) from None
        if new:
            path.unlink(missing_ok=True)
        raise
    if path.exists() and os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
        return lock
    lock.close()
    return None


def _busy(path: Path) -> BusyError:
    return BusyError(must("--out", "a folder in which no other process runs", str(path.parent)))


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
        log.warning("%s could not be removed: %s", path, cause_of(error))


def newest(run: Path) -> tuple[dict, dict, list[str]] | None:
    """The newest state that is whole, its facts, and a line about each newer one that is damaged; None where nothing
    was saved yet. Raises AdvcoreError if all are damaged.

    Damaged ones are removed; not so one that the system does not let us read now: it may be whole.
    """
    damaged: dict[Path, CheckpointError] = {}
    for number in reversed(_numbers(run)):
        path = folder(run) / f"{number:06d}"
        try:
            tree, facts = load_folder(path)
        except CheckpointError as error:
            damaged[path] = error
            continue
        for bad, error in damaged.items():
            log.warning("%s; going on from %s", error, path)
            if not isinstance(error, UnreadableError):
                _remove(bad)  # so that it is not kept in a whole one's place
        return tree, facts, [str(error) for error in damaged.values()]
    if not damaged:
        return None
    unread = any(isinstance(error, UnreadableError) for error in damaged.values())
    way_out = "mend what keeps us from reading them" if unread else "start again with --overwrite"
    told = "; ".join(map(str, damaged.values()))
    raise AdvcoreError(f"no state in {folder(run)} is whole: {told}; {way_out}")
