"""Errors, all worded in the same way: the setting, what it must be, what was given, and how to fix it."""

import contextlib
import errno
import os
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeGuard

from advcore.deprecation import forward_renamed
from advcore.pixels import write_value
from advcore.suggestions import NO_ALIASES, SURELY_ALIKE, is_known, simplify_name, suggest_nearest  # noqa: F401


class AdvcoreError(Exception):
    """Anything advcore raises on purpose."""


@dataclass(frozen=True)
class SettingProblem:
    """What is wrong with a setting; as text it is the line "`path` `fault`, got `got`; `way_out`".

    path : of the setting, such as "attack.eps", or of several: "first, mean, last"; "" in a line that names none.
    fault : such as "must be a number above 0" or "is missing".
    got, way_out : the value, as `format_value` writes it, and what to do about it; "" where there is none.
    """

    path: str
    fault: str
    got: str = ""
    way_out: str = ""

    def __str__(self) -> str:
        line = f"{self.path} {self.fault}".removeprefix(" ")
        line += self.got and f", got {self.got}"
        line += self.way_out and f"; {self.way_out}"
        return escape_control_characters(line)

    @property
    def settings(self) -> set[str]:
        """The names of the settings that it is about, without what is nested in them."""
        return {path.partition(".")[0] for path in self.path.split(", ")}

    def inside(self, place: str) -> "SettingProblem":
        """Return the problem with a longer path: `place`, such as "attack." or "method 'craig': ", is put before it."""
        if self.path:
            return replace(self, path=f"{place}{self.path}")
        return replace(self, fault=f"{place}{self.fault}")


def as_problem(problem: SettingProblem | str) -> SettingProblem:
    """Return a problem as it is, and for a text the problem that it describes."""
    return SettingProblem("", problem) if isinstance(problem, str) else problem


class UserError(AdvcoreError, ValueError):
    """A mistake of the user: one or more problems, or texts that describe them. The command line exits with code 2."""

    def __init__(self, *problems: SettingProblem | str) -> None:
        self.problems = tuple(map(as_problem, problems))
        super().__init__("\n".join(self.lines))

    @property
    def lines(self) -> tuple[str, ...]:
        """Each problem as one line."""
        return tuple(map(str, self.problems))


def escape_control_characters(text: str) -> str:
    """Write as an escape sequence what would begin a new line, or steer a terminal."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


class ConfigError(UserError):
    """A setting with a value that it cannot have."""


class BusyError(ConfigError):
    """A folder in which another process is working."""


class DataError(UserError):
    """Data that is missing or is not what it must be."""


class BudgetError(UserError):
    """A count or share that the data cannot give."""


class CheckpointError(UserError):
    """A saved file that is missing, damaged or of another run."""


class UnreadableError(CheckpointError):
    """A saved file that the operating system does not let us read; it may be intact."""


class UnsafeFileError(UserError):
    """A file that cannot be read without running code from it, or that is in a forbidden place."""


class NonFiniteError(AdvcoreError):
    """NaN or infinity that training or selection would continue with; the command line exits with code 3."""


class NoMemoryError(AdvcoreError):
    """Memory ran out where smaller pieces would change the result; the command line exits with code 3."""


def must(setting: str, rule: str, got: object, way_out: str = "") -> SettingProblem:
    """Return the usual problem: "`setting` must be `rule`, got `got`; `way_out`"."""
    return SettingProblem(setting, f"must be {rule}", format_value(got), way_out)


def check(is_right: object, setting: str, rule: str, got: object, way_out: str = "") -> SettingProblem | None:
    """Return the problem that `must` makes, unless `is_right` is true."""
    return None if is_right else must(setting, rule, got, way_out)


def format_value(value: object) -> str:
    """Write a value in one line; of a long one, the two ends."""
    try:
        return shorten(write_value(value))
    except RecursionError:  # a value that contains itself
        return shorten(repr(value))


def shorten(text: str) -> str:
    """Return a text as it is, or the two ends of a long one."""
    if len(text) <= _MOST_CHARACTERS:
        return text
    return f"{text[: _MOST_CHARACTERS // 2]}...{text[-_MOST_CHARACTERS // 2 :]}"


def require(*problems: SettingProblem | str | None) -> None:
    """Raise ConfigError with all problems at once; None means that a check passed."""
    if any(problems):
        raise ConfigError(*(problem for problem in problems if problem))


def unless(is_right: object, problem: SettingProblem | None) -> SettingProblem | None:
    """Return a problem with a setting, or None where `is_right` is true."""
    return None if is_right else problem


# The largest count; a larger one cannot be counted to, or overflows where it meets a float.
MOST = 1_000_000_000
# The largest seed, and the smallest with a minus sign; a seed is part of a folder's name.
LARGEST_SEED = 10**18
_MOST_CHARACTERS = 500  # of a value in a message


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def check_within(setting: str, value: object, low: float, high: float, way_out: str = "") -> SettingProblem | None:
    """Return a problem unless `value` is a number in [low, high]."""
    return check(
        _is_number(value) and low <= value <= high, setting, f"a number in [{low:g}, {high:g}]", value, way_out
    )


def check_positive(setting: str, value: object, way_out: str = "") -> SettingProblem | None:
    """Return a problem unless `value` is a finite number above 0."""
    return check(_is_number(value) and 0 < value < float("inf"), setting, "a number above 0", value, way_out)


def check_at_least(
    setting: str, value: object, low: int, way_out: str = "", *, most: int = MOST
) -> SettingProblem | None:
    """Return a problem unless `value` is a whole number of at least `low`, and at most `most`."""
    limit = f" and at most {most:,}" if _is_whole(value) and value > most else ""
    is_right = _is_whole(value) and low <= value <= most
    return check(is_right, setting, f"a whole number of at least {low}{limit}", value, way_out)


def check_share(setting: str, value: object, way_out: str = "") -> SettingProblem | None:
    """Return a problem unless `value` is a share in (0, 1]."""
    return check(_is_number(value) and 0 < value <= 1, setting, "a share in (0, 1]", value, way_out)


def check_one_of(
    setting: str, value: object, known: Iterable[str], aliases: Mapping[str, str] = NO_ALIASES
) -> SettingProblem | None:
    """Return a problem unless `value` is one of `known`; it offers what is probably meant (`suggest_nearest`)."""
    words = list(known)
    if value in words:
        return None
    return must(setting, f"one of {', '.join(words)}", value, suggest_nearest(value, words, aliases))


def format_count(number: int, noun: str) -> str:
    """Write a number of things: "1 epoch", "1,200 epochs"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def describe_exception(error: BaseException) -> str:
    """Write type and message of an error that other code raised, in one line."""
    return " ".join("".join(traceback.format_exception_only(error)).split())


def quote_library(error: BaseException) -> str:
    """Write what another library says of a value that it does not take: its first line, up to an address in it."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shorten(lines[0].partition(" at 0x")[0])


@contextlib.contextmanager
def require_package(package: str, needed_for: str, extra: str | None = None) -> Iterator[None]:
    """Raise ConfigError where the block cannot import a package; `extra` is advcore's extra that brings it, if any."""
    try:
        yield
    except Exception as error:  # a mismatched build may raise anything
        raise explain_missing_package(package, needed_for, extra, error) from None


def explain_missing_package(package: str, needed_for: str, extra: str | None, cause: Exception) -> ConfigError:
    """Return the error for a failed import, as `require_package` raises it."""
    target = f'"advcore[{extra}]"' if extra else package
    reason = f"which cannot be imported ({describe_exception(cause)})"
    return ConfigError(f"{needed_for} needs the package {package}, {reason}; pip install --upgrade {target}")


# A full disk, a quota, a limit on a file's size.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors that only files have, or that are not a mistake: they are reported even where no file is named.
_OF_THE_MACHINE = (*NO_ROOM, errno.EIO, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@contextlib.contextmanager
def name_path_in_errors(path: str | os.PathLike) -> Iterator[None]:
    """Make every OSError that leaves the block name `path`.

    The system names a temporary file that the user does not know, or none, where an open file is written or synced.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = os.fspath(path)
            error.filename2 = None
        raise


@contextlib.contextmanager
def refuse_as_setting() -> Iterator[None]:
    """Raise ConfigError where the system refuses a file inside, unless room is missing: a setting is wrong."""
    try:
        yield
    except OSError as error:
        refusal = describe_refusal(error)
        if refusal is None or error.errno in NO_ROOM:
            raise
        raise ConfigError(refusal) from None


def describe_refusal(error: OSError) -> str | None:
    """Write path and cause of what the system refused in one line; None for an error that is not about a file.

    One that names no file is described only where its number leaves no doubt; any other is a bug of advcore.
    """
    if error.errno is not None and isinstance(error.filename, (str, bytes)):
        return escape_control_characters(f"{os.fsdecode(error.filename)}: {describe_cause(error)}")
    is_builtin = type(error).__module__ == "builtins"  # subclasses elsewhere give the numbers other meanings
    if is_builtin and error.errno in _OF_THE_MACHINE:
        return f"the operating system: {describe_cause(error)}"
    return None


def describe_cause(error: OSError) -> str:
    """Return what the system says, without the path."""
    return error.strerror or str(error) or type(error).__name__


__getattr__ = forward_renamed(
    __name__,
    {
        "at_least": "advcore.errors.check_at_least",
        "before_work": "advcore.errors.refuse_as_setting",
        "cause_of": "advcore.errors.describe_cause",
        "counted": "advcore.errors.format_count",
        "in_a_line": "advcore.errors.describe_exception",
        "missing_package": "advcore.errors.explain_missing_package",
        "naming": "advcore.errors.name_path_in_errors",
        "nearest": "advcore.errors.suggest_nearest",
        "one_line": "advcore.errors.escape_control_characters",
        "one_of": "advcore.errors.check_one_of",
        "plain": "advcore.errors.simplify_name",
        "positive": "advcore.errors.check_positive",
        "share": "advcore.errors.check_share",
        "shown": "advcore.errors.format_value",
        "within": "advcore.errors.check_within",
    },
)
