"""A run's folder: its lock, and its states in numbered folders, of which the newest undamaged one counts."""

import contextlib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from advcore.errors import (
    AdvcoreError,
    BusyError,
    CheckpointError,
    UnreadableError,
    describe_cause,
    must,
    name_path_in_errors,
)
from advcore.files import check_folder, check_inside, list_leftovers, load_folder, save_folder
from advcore.run.places import list_missing_folders, refuse_as_option, remove_empty, try_in, try_replace
from advcore.tracking import metrics

log = logging.getLogger(__name__)

FILES = ("record.json", *metrics.FILES)
FOLDERS = ("checkpoints", "coresets", "states", "tracking")
OURS = (*FILES, *FOLDERS)  # what a run writes into its folder
REPORT = "report.html"  # what `advcore report` writes there; it is removed with the run that it describes
LOCK = ".lock"  # locked by the process that works in the folder; it holds the names of the job that began the run
_locks: list[TextIO] = []  # those that this process has locked
_TRIES = 5  # to open a lock file that is removed at that moment


def locate_states(run: Path) -> Path:
    """Return the folder of a run's states."""
    return run / "states"


def begin(run: Path, job: Sequence[str]) -> None:
    """Record which job starts a run: its names, as `distributed.name_launchers` returns them."""
    run.mkdir(parents=True, exist_ok=True)
    with name_path_in_errors(run / LOCK):
        (run / LOCK).write_text("".join(f"{name}\n" for name in job))


def was_begun_by(run: Path, job: Sequence[str]) -> bool:
    """Return whether the run in the folder was started by the same job."""
    try:
        return not set((run / LOCK).read_text().splitlines()).isdisjoint(job)
    except (OSError, UnicodeDecodeError):
        return False


@contextlib.contextmanager
def lock_folder(run: Path) -> Iterator[None]:
    """Keep other processes out of a run's folder inside the block, once every place that a run writes to was tried.

    The folder is created if it is missing, and removed again if nothing was written to it.

    Raises BusyError if another process works there, UnsafeFileError if a link among the run's files leads out of the
    folder, and ConfigError where something cannot be written (OSError where there is no room).
    """
    with contextlib.ExitStack() as cleanup:
        with refuse_as_option("--out", run):
            _check_links(run)
            cleanup.callback(remove_empty, list_missing_folders(run))
            cleanup.enter_context(_lock_file(run / LOCK))
            _try_places(run)
        yield


def _check_links(run: Path) -> None:
    for name in OURS:
        for entry in [run / name, *(run / name).rglob("*")]:
            if entry.is_symlink():
                check_inside(entry, run)
    check_inside(run / LOCK, run)


def _try_places(run: Path) -> None:
    for name in FOLDERS:
        if os.path.lexists(run / name):
            try_in(run / name)
    try_in(run)
    for name in FILES:
        try_replace(run / name)


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[None]:
    """Lock the file inside the block. File and folder are created if they are missing.

    Afterwards the file is removed if the folder holds nothing of a run.
    """
    try:
        import fcntl  # noqa: F401
    except ImportError:  # Windows
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
        return
    lock = _open_lock(path)
    _locks.append(lock)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            if not any(os.path.lexists(path.parent / name) for name in OURS):
                path.unlink()
        _locks.remove(lock)
        lock.close()


def _open_lock(path: Path) -> TextIO:
    """Open the lock file and lock it; try again if the process that had it removes it, or its folder, at that moment.

    Raises BusyError if another process holds the lock.
    """
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _try_lock(path)
        if lock is not None:
            return lock
    raise _describe_busy(path)


def _try_lock(path: Path) -> TextIO | None:
    """Open the lock file and lock it; return None if it was removed meanwhile.

    Raises BusyError if another process holds the lock.
    """
    import fcntl

    new = not os.path.lexists(path)
    try:
        lock = open(path, "a")  # noqa: SIM115
    except FileNotFoundError:
        if path.parent.exists():
            raise
        return None
    try:
        with name_path_in_errors(path):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if isinstance(error, BlockingIOError):
            raise _describe_busy(path) from None
        if new:
            path.unlink(missing_ok=True)
        raise
    if path.exists() and os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
        return lock
    lock.close()
    return None


def _describe_busy(path: Path) -> BusyError:
    return BusyError(must("--out", "a folder that no other process is using", str(path.parent)))


def _close_inherited_locks() -> None:
    """Close the locks in a forked helper process, such as a reader of images, which may outlive the process that it
    helps: while the file is open anywhere, the folder stays locked."""
    for lock in _locks:
        lock.close()
    _locks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_locks)


def _list_numbers(run: Path) -> list[int]:
    states = locate_states(run)
    names = [entry.name for entry in (states.iterdir() if states.is_dir() else ())]
    return sorted(int(name) for name in names if re.fullmatch(r"[0-9]{6,}", name) and name == f"{int(name):06d}")


def _locate_state(run: Path, number: int) -> Path:
    return locate_states(run) / f"{number:06d}"


def save(run: Path, state: Callable[[], dict], facts: dict[str, object], kept: int = 2) -> None:
    """Save one more state, with facts about its run, and read it back; then remove all but the newest `kept` states.

    What a process that died left half-written is removed, too. Raises CheckpointError if the state does not read back.
    """
    numbers = _list_numbers(run)
    path = _locate_state(run, max(numbers, default=0) + 1)
    save_folder(path, state(), facts)
    check_folder(path)
    outdated = [_locate_state(run, number) for number in numbers[: max(0, len(numbers) + 1 - kept)]]
    sweep([*outdated, *list_leftovers(locate_states(run))])


def sweep(paths: Iterable[Path]) -> None:
    """Remove files and folders; log a warning for what cannot be removed."""
    for path in paths:
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        except OSError as error:
            log.warning("%s could not be removed: %s", path, describe_cause(error))


def load_newest(run: Path) -> tuple[dict, dict, list[str]] | None:
    """Load the newest undamaged state; return it, its facts, and a line about each newer state that is damaged.

    Returns None where no state was saved yet. Damaged states are removed, except those that the system does not let us
    read now, which may be undamaged. Raises AdvcoreError if there is no undamaged state.
    """
    damaged: dict[Path, CheckpointError] = {}
    for number in reversed(_list_numbers(run)):
        path = _locate_state(run, number)
        try:
            tree, facts = load_folder(path)
        except CheckpointError as error:
            damaged[path] = error
        else:
            for damaged_path, problem in damaged.items():
                log.warning("%s; continuing from %s", problem, path)
                if not isinstance(problem, UnreadableError):
                    sweep([damaged_path])  # or it would count as one of the states to keep
            return tree, facts, [str(problem) for problem in damaged.values()]
    if not damaged:
        return None
    errors = "; ".join(map(str, damaged.values()))
    raise AdvcoreError(f"no state in {locate_states(run)} is intact: {errors}; {advise(damaged.values(), 'them')}")


def advise(errors: Iterable[CheckpointError], them: str) -> str:
    """Say what to do about files that could not be read; `them` is the pronoun for these files."""
    if any(isinstance(error, UnreadableError) for error in errors):
        return f"fix what prevents reading {them}"
    return "start again with --overwrite"
