"""One run of a suite in a process of its own: watched, stopped in time, and asked why where it failed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from advcore.errors import BusyError, UserError
from advcore.files import write_bytes
from advcore.runner import checkpoints
from advcore.runner.config import resolved
from advcore.runner.suite import Run
from advcore.threads import share_of_threads

_POLL, _GRACE = 0.1, 60.0  # seconds between looks at a run; that a stopped one has to save its state
_SHOWN = 300  # characters of an error
_SIGNALLED = (130, 143)  # Ctrl-C reaches a run as it does us


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    kind : done, failed, stopped, or busy (another process does it, or did). error : its first line.
    """

    kind: str
    error: str = ""
    code: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """Who is told what happens to runs; by default nobody."""

    on_start: Callable[[Run], None] = lambda run: None
    on_line: Callable[[Run, str], None] = lambda run, line: None
    on_end: Callable[[Run, Outcome], None] = lambda run, outcome: None


Work = Callable[..., Outcome]


def tidy(run: Run, folder: Path) -> None:
    """Of a run that is done, remove what only going on with it would need."""
    where, log, file = _places(run, folder)
    checkpoints.sweep([checkpoints.folder(where), log, file])


def _places(run: Run, folder: Path) -> list[Path]:
    """A run's own folder, its log and its run file."""
    return [folder / "runs" / f"{run.slug}{end}" for end in ("", ".log", ".yaml")]


def attempt(
    run: Run,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_line: Callable[[str], None] = lambda line: None,
    environment: dict[str, str] | None = None,
) -> Outcome:
    """`advcore run --resume` in a process of its own, told to save and leave once `stop()`; its record is then in
    runs/SLUG. Run by one thread, or one task of a cluster."""
    where, log, file = _places(run, folder)
    started = time.monotonic()
    if (folder / f"{run.slug}.json").exists():
        return Outcome("busy")
    try:
        with checkpoints.alone(where):
            pass
    except BusyError:
        return Outcome("busy")
    except UserError as error:  # such as a file where its folder must be
        return Outcome("failed", str(error), 2)
    write_bytes(file, json.dumps(resolved(run.config), indent=1).encode())
    command = [sys.executable, "-m", "advcore", "run", str(file), "--out", str(where), "--resume"]
    with open(log, "ab") as written:
        begin = written.tell()
        child = subprocess.Popen(command, stdout=written, stderr=written, env=os.environ | (environment or {}))
        try:
            stopped = _watched(child, log, begin, stop, on_line)
        finally:
            _end(child)
    seconds = time.monotonic() - started
    if child.returncode == 0:
        return Outcome("done", seconds=seconds)
    if stopped or child.returncode in _SIGNALLED:
        return Outcome("stopped", seconds=seconds)
    return Outcome("failed", _first_error(log, begin, child.returncode), child.returncode, seconds)


def _watched(
    child: subprocess.Popen, log: Path, begin: int, stop: Callable[[], bool], on_line: Callable[[str], None]
) -> bool:
    """Whether it was told to stop."""
    told = ""
    while True:
        try:
            child.wait(_POLL)
            return False
        except subprocess.TimeoutExpired:
            if stop():
                return True
        line = _said(log, begin)[-1:]
        if line and line[0] != told:
            told = line[0]
            on_line(told)


def _end(child: subprocess.Popen) -> None:
    """Let it save its state; if it does not, its last one counts."""
    if child.poll() is None:
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            child.kill()
    child.wait()


def _said(log: Path, begin: int) -> list[str]:
    """The lines of this attempt."""
    with open(log, "rb") as file:
        file.seek(begin)
        return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def _first_error(log: Path, begin: int, code: int) -> str:
    """The first line that advcore gives as the reason; else the last that a traceback leaves."""
    if code < 0:
        return f"ended by {signal.Signals(-code).name}" + (
            ", as where memory runs out" if code == -signal.SIGKILL else ""
        )
    lines = _said(log, begin)
    told = [line.removeprefix("advcore: ") for line in lines if line.startswith("advcore: ")]
    line = (told or lines[-1:] or ["no reason given"])[0].strip()
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def limited(jobs: int) -> dict[str, str]:
    """The environment of one of `jobs` processes; nothing is changed for one alone."""
    if jobs == 1:
        return {}
    return {name: str(share_of_threads(jobs)) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}


def event_or_time(event: Event, until: float) -> Callable[[], bool]:
    """Whether to stop: told to, or the time is up."""
    return lambda: event.is_set() or time.monotonic() >= until
