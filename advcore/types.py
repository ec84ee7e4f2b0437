"""The small data types that parts pass to each other, and the identifiers of classes and data sets."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from advcore.deprecation import forward_renamed
from advcore.errors import ConfigError

# Images (B, C, H, W) to one loss per example (B,): what an attack maximises.
Loss = Callable[[Tensor], Tensor]

# What JSON can hold, by name.
Facts = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What a solver returns.

    Parameters
    ----------
    indices : (K,) long, unique, positions into the rows that the solver was given.
    weights : (K,) float64, finite, >= 0 unless the solver allows other signs.
    info : facts about how the solver came to its selection.
    """

    indices: Tensor
    weights: Tensor
    info: Facts = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.indices.shape == self.weights.shape and self.indices.ndim == 1
        assert len(torch.unique(self.indices)) == len(self.indices), "a solver picked a row twice"
        assert bool(torch.isfinite(self.weights).all()), "a solver returned a weight that is not finite"


@dataclass(frozen=True)
class Event:
    """Something that fell back, was left out or went wrong in a run.

    Parameters
    ----------
    kind : "memory" (less of it was free than wanted), "time" (solving takes long), "budget" (too small for every
        class), "solver" (it picked too few), "weights" (their sum changes the step length), "speed" (the model refuses
        a setting), "collapse" (catastrophic overfitting), "validation" (no examples to watch with), "tracking" (a
        tracker failed), "model" (it returns more than logits, which is not used, or has submodules in eval mode),
        "underflow" (gradients are too small for the model's float16); "" where it was saved before events had kinds.
    text : what happened, in one line.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return self.text

    @classmethod
    def load(cls, saved: str | dict[str, str]) -> "Event":
        """Build the event from its fields, or from its text alone, as coresets held it before events had kinds."""
        return cls("", saved) if isinstance(saved, str) else cls(**saved)


@dataclass(frozen=True)
class Flag:
    """A reason not to trust an evaluation, which a record holds as "kind: text".

    kind : one of the table in docs/evaluation.md. text : what was seen, in one line.
    """

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"

    @classmethod
    def read(cls, text: str) -> "Flag":
        """Build the flag whose `str` this is. Text of another form is its own kind, up to a colon, and text."""
        return cls(text.partition(":")[0], text.partition(": ")[2] or text)


def find_name(table: Mapping[str, type], entry: object) -> str:
    """Return the name under which a table lists the entry's class, or the nearest base of it, or else the class's."""
    names = {cls: name for name, cls in table.items()}
    return next((names[cls] for cls in type(entry).__mro__ if cls in names), type(entry).__name__)


def is_ours(method: object) -> bool:
    """Return whether a function, or the class of an object, is advcore's own, whose contract its tests hold."""
    return str(getattr(method, "__module__", "")).startswith("advcore.")


def describe_tensor(value: object) -> str:
    """Return dtype and shape of a tensor, and the class of anything else, for an error."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def check_losses(losses: object, examples: Tensor, source: str = "the loss that is attacked") -> Tensor:
    """Return losses as they are. Raises ConfigError unless they are floats, one for each of the `examples` (B, ...).

    A mean or a column would be spread over the batch: then picks, weights and restarts mean nothing. source : of the
    losses, for the error.
    """
    if isinstance(losses, Tensor) and losses.shape == examples.shape[:1] and losses.dtype.is_floating_point:
        return losses
    got = describe_tensor(losses)
    way_out = "keep one number for each example, with nothing reduced over the batch (reduction='none')"
    raise ConfigError(f"{source} must be a tensor (B,) of floats, here ({len(examples)},), got {got}; {way_out}")


def digest_labels(label_at: Callable[[int], int], size: int) -> str:
    """Return a fingerprint of a data set: a hash of its size and of up to 256 labels at evenly spaced positions.

    It depends on labels only, so that a plain and an augmented view of the same data agree. It is cheap for any
    map-style data set.
    """
    count = min(size, 256)
    labels = [int(label_at(i * size // count)) for i in range(count)]
    return hashlib.sha256(repr((size, labels)).encode()).hexdigest()[:16]


__getattr__ = forward_renamed(
    __name__,
    {
        "Coreset": "advcore.selection.result.Coreset",
        "NORMALISE": "advcore.selection.result.NORMALISE",
        "WeightedSubset": "advcore.selection.result.WeightedSubset",
        "labels_digest": "advcore.types.digest_labels",
        "name_in": "advcore.types.find_name",
        "settings": "advcore.settings.settings",
    },
)
