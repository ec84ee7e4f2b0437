"""SIGINT and SIGTERM as a flag that long loops look at, so that a stop comes where nothing is half done.

`caught()` sets the flag instead of stopping the process; `check()`, which stands at every forward pass and every chunk,
raises Stopped. A training step is `whole()`: it is finished first, and what it changed is saved.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

_received: list[int] = []
_whole = 0
_alone = False
_SAME = 2.0  # seconds


class Stopped(BaseException):
    """A signal asked to stop; `number` is which. Not an Exception: nothing may take it for a failure and go on."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


def requested() -> int | None:
    """The signal that asked to stop, or None."""
    return _received[0] if _received else None


def check() -> None:
    """Raise Stopped if a signal came, unless inside `whole()`, or where other processes would go on without us."""
    if _received and not _whole and (_alone or not _one_of_several()):
        raise Stopped(_received[0])


def _one_of_several() -> bool:
    group = sys.modules.get("torch.distributed")
    return group is not None and group.is_available() and group.is_initialized() and group.get_world_size() > 1


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What is inside may be stopped although there are other processes: they are told afterwards."""
    global _alone, _whole
    before = _alone, _whole
    _alone, _whole = True, 0
    try:
        yield
    finally:
        _alone, _whole = before


@contextlib.contextmanager
def whole() -> Iterator[None]:
    """What is inside is not stopped half-way."""
    global _whole
    _whole += 1
    try:
        yield
    finally:
        _whole -= 1


@contextlib.contextmanager
def caught() -> Iterator[None]:
    """SIGINT and SIGTERM set the flag; the second one of a kind does what it did before. Handlers that stood before are
    called too, and are put back; a signal that was ignored stays ignored. Does nothing outside of the main thread,
    where python cannot catch signals. Under torchrun, a second one within 2 seconds is the same: Slurm or systemd sent
    it to all processes, and torchrun hands on its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: earlier for number, earlier in found.items() if earlier not in (signal.SIG_IGN, None)}
    already, came, handed_on = list(_received), {}, "TORCHELASTIC_RUN_ID" in os.environ

    def handler(number, frame):
        earlier = before[number]
        if number in came:
            if time.monotonic() - came[number] > _SAME:
                signal.signal(number, earlier)
                os.kill(os.getpid(), number)
            return
        came[number] = time.monotonic()
        _received.append(number)
        if callable(earlier) and earlier is not signal.default_int_handler:
            earlier(number, frame)
        if not handed_on:
            signal.signal(number, earlier)  # once more, and it stops at once

    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
        if not any(getattr(earlier, "__qualname__", "").startswith("caught.") for earlier in before.values()):
            _received[:] = already


def ignore(*_) -> None:
    """For processes that only help: the one that started them says when to stop."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
