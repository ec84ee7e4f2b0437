"""Errors and their one phrasing: the setting, what it must be, what it got, the way out."""

import contextlib
import difflib
import errno
import os
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType

from advcore.pixels import format_exactly


class AdvcoreError(Exception):
    """Anything advcore raises on purpose."""


class UserError(AdvcoreError, ValueError):
    """The user's mistake; the command line leaves with 2. Several problems are one line each, whatever the names of
    files and settings hold that they repeat."""

    def __init__(self, *problems: str):
        self.problems = tuple(map(one_line, problems))
        super().__init__("\n".join(self.problems))


def one_line(text: str) -> str:
    """Write out what would begin a new line, or steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class ConfigError(UserError):
    """A setting that cannot be meant."""


class BusyError(ConfigError):
    """A folder in which another process works."""


class DataError(UserError):
    """Data that is missing or is not what it must be."""


class BudgetError(UserError):
    """A count or share that the data cannot give."""


class CheckpointError(UserError):
    """A saved file that is missing, damaged or of another run."""


class UnreadableError(CheckpointError):
    """A saved file that the operating system does not let us read, and that may be whole for all we know."""


class UnsafeFileError(UserError):
    """A file that would have to run code to be read, or that lies where it must not."""


class NonFiniteError(AdvcoreError):
    """NaN or infinity where training or selection would go on with it; the command line leaves with 3."""


class NoMemoryError(AdvcoreError):
    """Memory ran out where smaller pieces would be something else; the command line leaves with 3."""


_SHOWN = 500  # characters of a value
_NAME = re.compile(r"[\w:]*")  # of an alias's known word; what follows stands beside it
ALIKE, SURELY_ALIKE = 0.65, 0.9  # of difflib's ratio: below, words that share some letters would be offered


def must(setting: str, rule: str, got: object, way_out: str = "") -> str:
    """The one phrasing: "`setting` must be `rule`, got `got`; `way_out`". Of a long value, its ends."""
    return f"{setting} must be {rule}, got {shown(got)}" + (f"; {way_out}" if way_out else "")


def shown(value: object) -> str:
    """A value in one line; of a long one, its ends."""
    try:
        text = _written(value)
    except RecursionError:  # a value that holds itself
        text = repr(value)
    return shorten(text)


def shorten(text: str) -> str:
    """Return a text as it is, or the two ends of a long one."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 2 :]}"


def _written(value: object) -> str:
    """Write a value as `repr` does, but 8/255 as the fraction that a run file holds."""
    if type(value) is float:
        fraction = format_exactly(value)
        return fraction if fraction and "/" in fraction else repr(value)
    if type(value) is list:
        return f"[{', '.join(map(_written, value))}]"
    if type(value) is dict:
        return f"{{{', '.join(f'{key!r}: {_written(entry)}' for key, entry in value.items())}}}"
    return repr(value)


def require(*problems: str | None) -> None:
    """Raise ConfigError with all problems at once; a None is a check that passed."""
    found = [problem for problem in problems if problem]
    if found:
        raise ConfigError(*found)


MOST = 1_000_000_000
"""What no count needs more than; larger ones cannot be counted to, or overflow where they meet a float."""

LARGEST_SEED = 10**18
"""Above and below 0; a seed stands in the name of a folder."""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def within(setting: str, value: object, low: float, high: float, way_out: str = "") -> str | None:
    """Problem unless `value` is a number in [low, high]."""
    ok = _is_number(value) and low <= value <= high
    return None if ok else must(setting, f"a number in [{low:g}, {high:g}]", value, way_out)


def positive(setting: str, value: object, way_out: str = "") -> str | None:
    """Problem unless `value` is a finite number above 0."""
    ok = _is_number(value) and 0 < value < float("inf")
    return None if ok else must(setting, "a number above 0", value, way_out)


def at_least(setting: str, value: object, low: int, way_out: str = "", *, most: int = MOST) -> str | None:
    """Problem unless `value` is a whole number of at least `low`, and at most `most`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    if whole and low <= value <= most:
        return None
    above = f" and at most {most:,}" if whole and value > most else ""
    return must(setting, f"a whole number of at least {low}{above}", value, way_out)


def share(setting: str, value: object, way_out: str = "") -> str | None:
    """Problem unless `value` is a share in (0, 1]."""
    ok = _is_number(value) and 0 < value <= 1
    return None if ok else must(setting, "a share in (0, 1]", value, way_out)


def one_of(
    setting: str, value: object, known: Iterable[str], aliases: Mapping[str, str] = MappingProxyType({})
) -> str | None:
    """Problem unless `value` is one of `known`; offers what is meant (`nearest`)."""
    known = list(known)
    if value in known:
        return None
    return must(setting, f"one of {', '.join(known)}", value, nearest(value, known, aliases))


def nearest(
    value: object, known: Iterable[str], aliases: Mapping[str, str] = MappingProxyType({}), *, alike: float = ALIKE
) -> str:
    """Offer the known word that `value` means, as a question; "" where none is likely.

    Case, hyphens, underscores and spaces do not count. A word that the field uses for another goes before one that is
    merely spelt alike.

    Parameters
    ----------
    aliases : what the field calls it, in small letters and digits alone, to the known word and what must stand beside
        it: {"fgsm": "linf_pgd with steps: 1"}. One whose known word is not in `known` does not count.
    alike : how much alike a word must be spelt, of difflib's ratio, in [0, 1].
    """
    known, wanted = list(known), plain(str(value))
    by_spelling = _spellings(tuple(known))
    by_use = {alias: target for alias, target in aliases.items() if is_known(target, known)}
    meant = by_spelling.get(wanted) or by_use.get(wanted)
    for words, cutoff in ((by_use, SURELY_ALIKE), (by_spelling, alike)):
        close = difflib.get_close_matches(wanted, words, n=1, cutoff=cutoff)
        meant = meant or (words[close[0]] if close else "")
    if not meant:
        return ""
    name = _NAME.match(meant)[0]
    return f"did you mean {name!r}{meant.removeprefix(name)}?"


@lru_cache(maxsize=64)
def _spellings(known: tuple[str, ...]) -> Mapping[str, str]:
    """Return each word by what `plain` leaves of it; a file with many mistakes asks for the same words each time."""
    return MappingProxyType({plain(name): name for name in known})


def plain(name: str) -> str:
    """Reduce a name to small letters and digits: what is left of it where people spell it otherwise."""
    return "".join(character for character in name.lower() if character.isalnum())


def is_known(target: str, known: Iterable[str]) -> bool:
    """Whether the known word at which an alias points is one of these; "timm:vgg16" is what `timm` knows."""
    return _NAME.match(target)[0].partition(":")[0] in known


def counted(number: int, noun: str) -> str:
    """Write a number of things: "1 epoch", "1,200 epochs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def in_a_line(error: BaseException) -> str:
    """Kind and message of an error that somebody else raised."""
    return " ".join("".join(traceback.format_exception_only(error)).split())


def missing_package(package: str, needed_for: str, extra: str | None, cause: Exception) -> ConfigError:
    """An import failed: what is missing or mismatched, for what, and the line that mends it."""
    target = f'"advcore[{extra}]"' if extra else package
    return ConfigError(
        f"{needed_for} needs the package {package}, which does not import ({in_a_line(cause)}); "
        f"pip install --upgrade {target}"
    )


# ---- what the operating system refuses ----

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a quota, a limit on a file's size."""

_OF_THE_MACHINE = (*NO_ROOM, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""What a pipe, a socket or a process cannot mean, or what is nobody's mistake: told without the name of a file, too."""


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
    """Make every OSError that leaves the block name `path`.

    The system names a temporary file that nobody knows, or, where an open file is written or synced, none at all.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = os.fspath(path)
            error.filename2 = None
        raise


@contextlib.contextmanager
def before_work() -> Iterator[None]:
    """Raise ConfigError for a file that the system refuses: before any work is done, it is a setting that is wrong.

    A disk without room is no wrong setting, and passes as it is.
    """
    try:
        yield
    except OSError as error:
        refused = describe_refusal(error)
        if refused is None or error.errno in NO_ROOM:
            raise
        raise ConfigError(refused) from None


def describe_refusal(error: OSError) -> str | None:
    """Write path and cause of what the system refused in one line; None for an error that is not about a file.

    One that names no file is of a socket, a pipe or a child process as often as of a file. It is told only where its
    number leaves no doubt; any other is a bug of ours (all that we write or read goes through `naming`, or a reader
    that raises CheckpointError), whose traceback is worth more than a line.
    """
    if error.errno is None:
        return None
    if isinstance(error.filename, (str, bytes)):
        return one_line(f"{os.fsdecode(error.filename)}: {cause_of(error)}")
    if type(error).__module__ == "builtins" and error.errno in _OF_THE_MACHINE:  # others number their errors anew
        return f"the operating system: {cause_of(error)}"
    return None


def cause_of(error: OSError) -> str:
    """What the system says, without the path."""
    return error.strerror or str(error) or type(error).__name__
