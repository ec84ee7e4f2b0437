"""One run of a suite in its own process: start it, watch it, stop it in time, and report why it failed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

from advcore.config.load import resolve
from advcore.config.schema import RunConfig
from advcore.errors import BusyError, UserError
from advcore.files import write_bytes
from advcore.register.plugins import list_files
from advcore.run import checkpoints
from advcore.suite.suite import Run
from advcore.training.progress import ignore

_POLL, _GRACE = 0.1, 60.0  # seconds between looks at a run, and that a stopped run has to save its state
_LONGEST_ERROR = 300  # characters
_SIGNALLED = (130, 143)  # exit codes after Ctrl-C, which reaches the child process too, and after SIGTERM


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended.

    kind : done, failed, stopped, or busy (another process does the run, or has done it).
    error : why it failed, in one line.
    code : exit code of the process, if it failed.
    seconds : that the process ran.
    """

    kind: str
    error: str = ""
    code: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Watcher:
    """Callbacks for run events. By default they do nothing."""

    on_start: Callable[[Run], None] = ignore
    on_line: Callable[[Run, str], None] = ignore
    on_end: Callable[[Run, Outcome], None] = ignore


Work = Callable[..., Outcome]  # what an engine calls for each run: `attempt`, or a stand-in for it


def remove_working_files(run: Run, folder: Path) -> None:
    """Remove a finished run's states, log and run file from the suite's folder; log a warning for what stays."""
    files = run.locate_files(folder)
    checkpoints.sweep([checkpoints.locate_states(files.folder), files.log, files.settings])


def attempt(
    run: Run,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_line: Callable[[str], None] = ignore,
    environment: dict[str, str] | None = None,
) -> Outcome:
    """Do a run by `advcore run --resume` in another process, wait for its end, and return how it ended.

    Once `stop()` is true, the process saves its state and ends, or is killed. `on_line` receives each new last line of
    its output; `environment` is added to its environment. A run that is recorded in `folder`, or that another process
    does, is not started. In `folder`/runs, SLUG.yaml receives the settings, SLUG.log the output, and SLUG the record.
    """
    files = run.locate_files(folder)
    if files.record.exists():
        return Outcome("busy")
    try:
        with checkpoints.lock_folder(files.folder):
            pass
    except BusyError:
        return Outcome("busy")
    except UserError as error:  # such as a file where its folder must be
        return Outcome("failed", str(error), 2)
    write_bytes(files.settings, _write_settings(run.config))
    arguments = ["run", str(files.settings), "--out", str(files.folder), "--resume"]
    return _run_command(arguments, files.log, stop=stop, on_line=on_line, environment=environment)


def score_method(
    config: RunConfig,
    score: str,
    path: Path,
    *,
    stop: Callable[[], bool],
    on_line: Callable[[str], None] = ignore,
    environment: dict[str, str] | None = None,
) -> Outcome:
    """Train and score a method by `advcore score` in another process, and return how that ended.

    The file of scores `path` receives its run file and, while it is made, the output next to it. A process that stops
    keeps nothing. See `attempt` for the rest.
    """
    settings = path.with_suffix(".yaml")
    log = path.with_suffix(".log")
    write_bytes(settings, _write_settings(config))
    arguments = ["score", str(settings), "--score", score, "--out", str(path)]
    outcome = _run_command(arguments, log, stop=stop, on_line=on_line, environment=environment)
    if outcome.kind == "done":
        checkpoints.sweep([log])
    return outcome


def _write_settings(config: RunConfig) -> bytes:
    return json.dumps(resolve(config), indent=1).encode()


def _run_command(
    arguments: Sequence[str],
    log: Path,
    *,
    stop: Callable[[], bool],
    on_line: Callable[[str], None],
    environment: dict[str, str] | None,
) -> Outcome:
    """Run advcore with these arguments in another process, until it ends or must stop; `log` receives its output."""
    started = time.monotonic()
    plugins = [f"--plugin={path}" for path in list_files()]
    command = [sys.executable, "-m", "advcore", *arguments, *plugins]
    with open(log, "ab") as output:
        read_lines = partial(_read_lines, log, output.tell())
        child = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | (environment or {}))
        try:
            stopped = _watch(child, read_lines, stop=stop, on_line=on_line)
        finally:
            _end_process(child)
    seconds = time.monotonic() - started
    if child.returncode == 0:
        return Outcome("done", seconds=seconds)
    if stopped or child.returncode in _SIGNALLED:
        return Outcome("stopped", seconds=seconds)
    return Outcome("failed", _explain_failure(read_lines(), child.returncode), child.returncode, seconds)


def _watch(
    child: subprocess.Popen,
    read_lines: Callable[[], list[str]],
    *,
    stop: Callable[[], bool],
    on_line: Callable[[str], None],
) -> bool:
    """Wait until the process ends or must stop, and return whether it must stop."""
    last_lines: list[str] = []
    while True:
        try:
            child.wait(_POLL)
            return False
        except subprocess.TimeoutExpired:
            if stop():
                return True
        lines = read_lines()[-1:]
        if lines and lines != last_lines:
            last_lines = lines
            on_line(lines[0])


def _end_process(child: subprocess.Popen) -> None:
    """Make the process save its state and end (SIGTERM); if it takes too long, kill it: its previous state counts."""
    child.send_signal(signal.SIGTERM)  # which does nothing once it has ended
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _read_lines(log: Path, start: int) -> list[str]:
    """Return the lines of this attempt, which begin at byte `start` of the log; empty ones are left out."""
    with open(log, "rb") as file:
        file.seek(start)
        return [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]


def _explain_failure(lines: list[str], code: int) -> str:
    """Return why a process failed, cut to 300 characters.

    That is the signal that ended it, or the first line that advcore printed, or else the last line, as of a traceback.
    code : the exit code, or a signal's number with a minus sign.
    """
    if code == -signal.SIGKILL:
        return "ended by SIGKILL, as where memory runs out"
    if code < 0:
        return f"ended by {signal.Signals(-code).name}"
    reasons = [line.removeprefix("advcore: ") for line in lines if line.startswith("advcore: ")]
    reason = (reasons or lines[-1:] or ["no reason given"])[0].strip()
    return reason if len(reason) <= _LONGEST_ERROR else f"{reason[:_LONGEST_ERROR]}..."


def must_stop(stopping: Event, until: float) -> bool:
    """Return whether the event is set or the time is up. until : on the clock of `time.monotonic`."""
    return stopping.is_set() or time.monotonic() >= until
