"""SIGINT and SIGTERM as a flag that long loops look at, so that a run stops where no work is half done.

`catch_signals()` sets the flag instead of stopping the process. `check()`, which is called at every forward pass and
every chunk, raises Stopped. A training step runs inside `defer_stop()`: it is finished first, and its result is saved.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

from advcore.deprecation import forward_renamed

_received: list[int] = []
_deferrals = 0
_may_stop_alone = False
_SAME = 2.0  # seconds within which torchrun hands on a signal that this process has received itself


class Stopped(BaseException):
    """A signal asked to stop; `number` is which. Not an Exception: nothing may take it for a failure and continue."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def get_stop_signal() -> int | None:
    """Return the number of the first signal that asked to stop, or None."""
    return _received[0] if _received else None


def check() -> None:
    """Raise Stopped if a signal asked to stop.

    It does nothing inside `defer_stop()`, nor where other processes of the run would continue without this one.
    """
    if _received and not _deferrals and (_may_stop_alone or not _is_one_of_several()):
        raise Stopped(_received[0])


def _is_one_of_several() -> bool:
    group = sys.modules.get("torch.distributed")  # not imported here: the command line starts without torch
    return group is not None and group.is_available() and group.is_initialized() and group.get_world_size() > 1


@contextlib.contextmanager
def allow_stop() -> Iterator[None]:
    """Let the block be stopped although there are other processes; the caller informs them afterwards."""
    global _may_stop_alone, _deferrals
    before = _may_stop_alone, _deferrals
    _may_stop_alone = True
    _deferrals = 0
    try:
        yield
    finally:
        _may_stop_alone, _deferrals = before


@contextlib.contextmanager
def defer_stop() -> Iterator[None]:
    """Finish the block before the process stops."""
    global _deferrals
    _deferrals += 1
    try:
        yield
    finally:
        _deferrals -= 1


@contextlib.contextmanager
def catch_signals() -> Iterator[None]:
    """Let SIGINT and SIGTERM set the flag inside; a second signal of a kind does what it did before.

    Previous handlers are called too, and are put back at the end. A signal that was ignored stays ignored. Outside of
    the main thread, where Python cannot catch signals, this does nothing. Under torchrun, a second signal within
    2 seconds counts as the same one: Slurm or systemd sent it to all processes, and torchrun hands on its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Without signals that are ignored, and those whose handlers were not set from Python and cannot be put back.
    previous: dict[int, Callable | int] = {
        number: earlier
        for number in (signal.SIGINT, signal.SIGTERM)
        if (earlier := signal.getsignal(number)) not in (signal.SIG_IGN, None)
    }
    received_before = list(_received)
    handler = _Handler(previous)
    for number in previous:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)
        if not any(isinstance(earlier, _Handler) for earlier in previous.values()):
            _received[:] = received_before


class _Handler:
    """Sets the flag, and calls the handlers that it replaces."""

    def __init__(self, previous: Mapping[int, Callable | int]) -> None:
        self.previous = previous
        self.arrivals: dict[int, float] = {}  # when the first signal of each kind came
        self.is_handed_on = "TORCHELASTIC_RUN_ID" in os.environ

    def __call__(self, number: int, frame: FrameType | None) -> None:
        earlier = self.previous[number]
        if number in self.arrivals:
            if time.monotonic() - self.arrivals[number] > _SAME:
                signal.signal(number, earlier)
                os.kill(os.getpid(), number)
            return
        self.arrivals[number] = time.monotonic()
        _received.append(number)
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)
        if not self.is_handed_on:
            signal.signal(number, earlier)  # so that a second signal stops at once


@contextlib.contextmanager
def hold_signals() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the end of the block; processes started inside never get them.

    For starting processes that only help: a signal to the whole group would otherwise kill one that has not come to
    `ignore_signals` yet. Does nothing where the system cannot hold signals back (Windows).
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_signals(*_: object) -> None:
    """Ignore both signals, in a process that only helps: the one that started it says when to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


# names of the last release
__getattr__ = forward_renamed(
    __name__,
    {
        "alone": "advcore.runtime.signals.allow_stop",
        "caught": "advcore.runtime.signals.catch_signals",
        "ignore": "advcore.runtime.signals.ignore_signals",
        "requested": "advcore.runtime.signals.get_stop_signal",
        "whole": "advcore.runtime.signals.defer_stop",
    },
)
