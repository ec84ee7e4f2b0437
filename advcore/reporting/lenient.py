"""Reading records that lack something: those of older versions, of stopped runs, or changed by hand.

A part of a page that cannot be made must not take the other parts away.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from advcore.errors import describe_exception
from advcore.reporting.parts import Note

T = TypeVar("T")
Default = TypeVar("Default")

# The errors of reading what a record does not hold, or holds in another form.
_LACKING = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def read_or(default: Default, read: Callable[..., T], *arguments: object) -> T | Default:
    """Return `read(*arguments)`, or `default` where a record does not hold what is read."""
    try:
        return read(*arguments)
    except _LACKING:
        return default


def build_or_note(build: Callable[..., Sequence[T]], *arguments: object) -> Sequence[T | Note]:
    """Return `build(*arguments)`, or a note that says what the record lacks."""
    try:
        return build(*arguments)
    except _LACKING as error:
        reason = "The record does not hold what belongs here, or not as this version writes it"
        return [Note(f"{reason} ({describe_exception(error)}).", "missing")]
