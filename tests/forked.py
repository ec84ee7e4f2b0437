"""A process of its own for a test, with all that this one has imported: a new python would take seconds for that."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

FORK = multiprocessing.get_context("fork")
_STUCK = 60  # seconds


class Forked:
    """`work()` in a child process: what it prints goes to two files in `folder`, its exit code is `code`.

    With `new_group`, the child leads a process group of its own, which can be sent a signal as a whole.
    """

    def __init__(self, work: Callable[[], object], folder: Path, *, new_group: bool = False):
        self._stdout, self._stderr = folder / "stdout.txt", folder / "stderr.txt"
        self._process = FORK.Process(target=self._begin, args=(work, new_group))
        self._process.start()

    def _begin(self, work: Callable[[], object], new_group: bool) -> None:
        if new_group:
            os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout = self._stdout.open("w", buffering=1)
        sys.stderr = self._stderr.open("w", buffering=1)
        code = 0
        try:
            work()
        except SystemExit as leaving:
            code = leaving.code
        sys.exit(code)  # out here, what `work` held is freed: workers of a loader end with it

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stderr(self) -> str:
        return self._stderr.read_text() if self._stderr.exists() else ""

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Until `reached()`; the child must live on until then."""
        while not reached():
            assert self._process.is_alive(), self.stderr
            time.sleep(0.01)

    def wait_for(self, text: str) -> None:
        """Until the child has printed it."""
        self.wait_until(lambda: self._stdout.exists() and text in self._stdout.read_text())

    def code(self) -> int:
        """Its exit code, once it has ended; that of a signal is negative."""
        self._process.join(_STUCK)
        assert not self._process.is_alive(), f"still at work after {_STUCK} s"
        return self._process.exitcode
