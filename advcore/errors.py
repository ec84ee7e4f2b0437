"""Errors and their one phrasing: the setting, what it must be, what it got, the way out."""

import difflib
import traceback
from collections.abc import Iterable


class AdvcoreError(Exception):
    """Anything advcore raises on purpose."""


class UserError(AdvcoreError, ValueError):
    """The user's mistake; the command line leaves with 2. Several problems are one line each, whatever the names of
    files and settings hold that they repeat."""

    def __init__(self, *problems: str):
        self.problems = tuple(map(_line, problems))
        super().__init__("\n".join(self.problems))


def _line(text: str) -> str:
    """With what would begin a new line, or steer a terminal, written out."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class ConfigError(UserError):
    """A setting that cannot be meant."""


class DataError(UserError):
    """Data that is missing or is not what it must be."""


class BudgetError(UserError):
    """A count or share that the data cannot give."""


class CheckpointError(UserError):
    """A saved file that is missing, damaged or of another run."""


class UnsafeFileError(UserError):
    """A file that would have to run code to be read, or that lies where it must not."""


class NonFiniteError(AdvcoreError):
    """NaN or infinity where training or selection would go on with it; the command line leaves with 3."""


class NoMemoryError(AdvcoreError):
    """Memory ran out where smaller pieces would be something else; the command line leaves with 3."""


_SHOWN = 500  # characters of a value


def must(setting: str, rule: str, got: object, way_out: str = "") -> str:
    """The one phrasing: "`setting` must be `rule`, got `got`; `way_out`". Of a long value, its ends."""
    return f"{setting} must be {rule}, got {shown(got)}" + (f"; {way_out}" if way_out else "")


def shown(value: object) -> str:
    """A value in one line; of a long one, its ends."""
    return shorten(repr(value))


def shorten(text: str) -> str:
    """Return a text as it is, or the two ends of a long one."""
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]}...{text[-_SHOWN // 2 :]}"


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


def one_of(setting: str, value: object, known: Iterable[str]) -> str | None:
    """Problem unless `value` is one of `known`; offers the nearest."""
    known = list(known)
    if value in known:
        return None
    return must(setting, f"one of {', '.join(known)}", value, nearest(value, known))


def nearest(value: object, known: Iterable[str]) -> str:
    """A question that offers the known word most like `value`, or nothing."""
    close = difflib.get_close_matches(str(value), list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""


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
