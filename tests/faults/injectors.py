"""Faults on purpose: small functions and objects that tests break things with."""

import errno
import importlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from advcore.runtime import signals


class Poisoned(Exception):
    """What a broken part raises. Takes several arguments, so that nobody can make another one from its text alone."""

    def __init__(self, what: str, number: int):
        super().__init__(what, number)


def poisoned(*_, **__) -> None:
    """Stands in for a function that fails."""
    raise Poisoned("poisoned", 7)


# ---- bytes ----


def flip(path: Path, where: float = 0.5, bit: int = 2) -> None:
    """One bit of the file, `where` in [0, 1] of its length."""
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 1 << bit
    path.write_bytes(bytes(content))


def flipped(content: bytes, step: int) -> Iterable[bytes]:
    """The content with one bit changed, at every `step`-th byte and the last: each bit in turn."""
    for turn, i in enumerate([*range(0, len(content), step), len(content) - 1]):
        yield content[:i] + bytes([content[i] ^ (1 << turn % 8)]) + content[i + 1 :]


# ---- data ----


class Broken(Dataset):
    """N good examples; `fails(i)` is called before the one at `index`, and may raise, or end the process."""

    def __init__(self, index: int, fails: Callable[[int], Any], n: int = 96, shape=(1, 8, 8)):
        self.index, self.fails, self.n, self.shape = index, fails, n, shape

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        if i == self.index:
            self.fails(i)
        return torch.rand(self.shape, generator=torch.Generator().manual_seed(i)), i % 4


def raises(error: BaseException) -> Callable[[int], None]:
    """A `fails` that raises it."""

    def fails(i: int) -> None:
        raise error

    return fails


def killed(i: int) -> None:
    """A `fails` after which the process is gone."""
    os.kill(os.getpid(), signal.SIGKILL)


def left(i: int) -> None:
    """A `fails` that leaves without a word."""
    os._exit(3)


def crashed(i: int) -> None:
    """A `fails` that reads where nothing is."""
    import ctypes

    ctypes.string_at(0)


# ---- memory ----


def no_memory(amount: str = "2.00 GiB") -> torch.OutOfMemoryError:
    """As CUDA says it."""
    return torch.OutOfMemoryError(
        f"CUDA out of memory. Tried to allocate {amount}. GPU 0 has a total capacity of 4.00 GiB"
    )


class Cramped(torch.nn.Module):
    """A network that runs out of memory with more than `most` images at once."""

    def __init__(self, net: torch.nn.Module, most: int):
        super().__init__()
        self.net, self.most = net, most

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise no_memory()
        return self.net(x)


# ---- numbers ----


class Scripted:
    """Gives the values in turn, whatever it is asked; the last one for ever."""

    def __init__(self, *values: Any):
        self.values, self.calls = values, 0

    def __call__(self, *_, **__) -> Any:
        self.calls += 1
        return self.values[min(self.calls, len(self.values)) - 1]


# ---- signals and death ----


def signal_at(monkeypatch: pytest.MonkeyPatch, n: int, number: int) -> list[int]:
    """This process sends itself the signal when anybody looks for one for the n-th time; the looks so far, counted."""
    looks, original = [0], signals.check

    def check() -> None:
        looks[0] += 1
        if looks[0] == n:
            os.kill(os.getpid(), number)
        original()

    for module in list(sys.modules.values()):
        if getattr(module, "check", None) is original:
            monkeypatch.setattr(module, "check", check)
    return looks


_TOUCHES = ("open", "os.", "shutil.", "tempfile.")


def killed_at(n: int, work: Callable[[], Any]) -> bool:
    """Whether `work`, in a process of its own, was killed: at the n-th time it opens, makes, renames or removes
    something. False: it was done before."""
    child = os.fork()
    if not child:
        code = 1
        try:
            left = [n]

            def hook(event: str, arguments: tuple) -> None:
                if event.startswith(_TOUCHES) and event != "os.fork":
                    left[0] -= 1
                    if not left[0]:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(hook)
            work()
            code = 0
        finally:
            os._exit(code)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (0, -signal.SIGKILL), ended
    return ended != 0


# ---- what the operating system refuses ----

NUMBERS = tuple(
    getattr(errno, name)
    for name in (
        *("EPERM", "ENOENT", "EINTR", "EIO", "ENXIO", "ENOMEM", "EACCES", "EBUSY", "EXDEV", "ENODEV", "ENOTDIR"),
        *("EISDIR", "EINVAL", "ENFILE", "EMFILE", "ETXTBSY", "EFBIG", "ENOSPC", "EROFS", "EMLINK", "EDEADLK"),
        *("ENAMETOOLONG", "ENOLCK", "ENOSYS", "ELOOP", "EOVERFLOW", "EOPNOTSUPP", "ETIMEDOUT", "EDQUOT", "ESTALE"),
    )
)
"""What opening, renaming, syncing, making, removing and locking may give."""

CALLS = {
    "open": ("os.open", "builtins.open", "io.open"),
    "write": ("os.fdopen",),
    "sync": ("os.fsync",),
    "permissions": ("os.chmod",),
    "rename": ("os.replace", "os.rename"),
    "make": ("os.mkdir",),
    "remove": ("os.unlink",),
    "lock": ("fcntl.flock",),
}
"""The system's calls, by what they do."""


class _NeverWritten(io.BytesIO):
    """An open file that takes nothing."""

    def __init__(self, descriptor: int, error: OSError):
        super().__init__()
        self.error = error
        os.close(descriptor)

    def write(self, content: bytes) -> int:
        raise self.error


def refuse(monkeypatch: pytest.MonkeyPatch, what: str, number: int, below: Path) -> list[str]:
    """From now on the system refuses to do `what`, of CALLS, in the folder `below`. Returns the calls refused so far.

    As in real life, a call that was given a path names it, and one that was given an open file does not.
    """
    refused: list[str] = []

    def replaced(name: str) -> None:
        module = importlib.import_module(name.rpartition(".")[0])
        original = getattr(module, name.rpartition(".")[2])

        def call(*arguments: Any, **named: Any) -> Any:
            if not _is_about(arguments, below) or _only_reads(name, arguments):
                return original(*arguments, **named)
            refused.append(name)
            given = [str(one) for one in arguments[:1] if isinstance(one, (str, os.PathLike))]
            error = OSError(number, os.strerror(number), *given)
            if name == "os.fdopen":
                return _NeverWritten(arguments[0], error)
            raise error

        monkeypatch.setattr(module, original.__name__, call)

    for name in CALLS[what]:
        replaced(name)
    return refused


def _is_about(arguments: tuple, below: Path) -> bool:
    """Whether one of the arguments is a path, or an open file, in the folder."""
    for one in arguments:
        if hasattr(one, "fileno"):
            one = one.fileno()
        if isinstance(one, int) and not isinstance(one, bool) and os.path.lexists(f"/proc/self/fd/{one}"):
            one = os.readlink(f"/proc/self/fd/{one}")
        if isinstance(one, (str, os.PathLike)) and str(one).startswith(str(below)):
            return True
    return False


def _only_reads(name: str, arguments: tuple) -> bool:
    mode = str(arguments[1]) if len(arguments) > 1 else "r"
    return name.endswith(".open") and name != "os.open" and not set(mode) & set("wax+")
