"""Read the logits out of whatever a model returns."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar

from torch import Tensor

from advcore.errors import ConfigError, must

_WAY_OUT = "wrap it in a module that returns them, or an object with .logits"

# Descriptions of the outputs that held more than logits (`note_outputs`); None where they are not collected.
_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


def read_logits(output: object, examples: int) -> Tensor:
    """Return the logits (B, C) of a model's output for B examples.

    That is a tensor, or a mapping, named tuple or other object whose `logits` are one: what Hugging Face's classifiers
    return, and GoogLeNet and Inception of torchvision in train mode. Whatever else such an output holds is not used.
    Raises ConfigError for any other output, a tuple without names among them: which of its parts are the logits?
    """
    logits = output
    if isinstance(output, Mapping):
        logits = output.get("logits")
    elif not isinstance(output, Tensor):
        logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != examples:
        raise ConfigError(must("the model's output", "logits (B, C)", _describe(output), _WAY_OUT))
    if not logits.dtype.is_floating_point:
        raise ConfigError(must("the model's output", "logits (B, C) in floating point", str(logits.dtype), _WAY_OUT))
    notes = _notes.get()
    if notes is not None and logits is not output:
        _take_note(notes, output)
    return logits


def _describe(output: object) -> object:
    """Return how an error describes an output: a tensor's shape, else the type, of a tuple those of its parts."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, (tuple, list)):
        return f"{type(output).__name__} of {', '.join(type(part).__name__ for part in output)}"
    return type(output).__name__


def _take_note(notes: list[str], output: object) -> None:
    names: Iterable[object] = getattr(output, "__dict__", ())
    if isinstance(output, Mapping):
        names = output
    elif isinstance(output, tuple):
        names = getattr(output, "_fields", ())
    unused = ", ".join(str(name) for name in names if name != "logits")
    text = f"the model returns {type(output).__name__}: its logits are used"
    text += unused and f", and not {unused}"
    if text not in notes:
        notes.append(text)


@contextlib.contextmanager
def note_outputs(notes: list[str]) -> Iterator[None]:
    """Add to `notes` one line for each kind of output inside that holds more than logits."""
    before = _notes.set(notes)
    try:
        yield
    finally:
        _notes.reset(before)
