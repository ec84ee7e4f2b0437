"""The small frozen values passed between stages; each checks itself."""

import contextlib
import dataclasses
import functools
import hashlib
import numbers
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, dataclass_transform, get_args, get_origin

import torch
from torch import Tensor
from torch.utils.data import Dataset

from advcore.errors import CheckpointError, ConfigError, DataError, UserError, must, one_of, require

Loss = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to one loss an example (B,): what an attack climbs."""

NORMALISE = ("coreset", "batch", "none", "equal")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def settings(cls: type) -> type:
    """A frozen, keyword-only dataclass whose unknown keys are refused when it is read from YAML, and which refuses
    values of other types than its settings have, whatever its own checks look at."""
    cls.__pydantic_config__ = {"extra": "forbid", "strict": True}
    own = getattr(cls, "__post_init__", lambda self: None)

    def checked(self) -> None:
        odd = [(n, kind) for n, kind, usual in _plain_fields(type(self)) if type(getattr(self, n)) not in usual]
        wrong = {name: problem for name, kind in odd if (problem := _type_problem(name, kind, getattr(self, name)))}
        if not wrong:
            return own(self)
        told: tuple[str, ...] = ()
        with contextlib.suppress(TypeError, AttributeError):  # of its own checks, which meet the wrong type
            try:
                own(self)
            except UserError as error:
                told = error.problems
        named = {one.split()[0].split(".")[0] for one in told}
        raise ConfigError(*told, *(line for name, line in wrong.items() if name not in named))

    cls.__post_init__ = checked
    return dataclass(frozen=True, kw_only=True)(cls)


_PLAIN = {
    bool: (bool, "true or false"),
    str: ((str, os.PathLike), "text"),
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    list: ((list, tuple), "a list"),
    dict: (dict, "a mapping"),
}


@functools.cache
def _plain_fields(cls: type) -> list[tuple[str, Any, tuple[type, ...]]]:
    """Name and type of each setting, and the classes of the values that need no closer look."""
    found = []
    for own in dataclasses.fields(cls):
        kinds = get_args(own.type) if isinstance(own.type, UnionType) else (own.type,)
        usual = tuple(kind for kind in kinds if kind in (bool, int, float, str, type(None)))
        found.append((own.name, own.type, (*usual, int) if float in usual else usual))
    return found


def _type_problem(setting: str, kind: Any, value: Any) -> str | None:
    """The problem with a value whose setting is of a plain type, or of lists and mappings of these, or None."""
    kinds = [one for one in get_args(kind) if one is not type(None)] if isinstance(kind, UnionType) else [kind]
    if (value is None and len(kinds) < len(get_args(kind))) or len(kinds) > 1:
        return None
    plain = get_origin(kinds[0]) or kinds[0]
    if plain not in _PLAIN:
        return None
    fits, rule = _PLAIN[plain]
    if not isinstance(value, fits) or (isinstance(value, bool) and plain is not bool):
        return must(setting, rule, value)
    inner = get_args(kinds[0])[-1:]
    entries = value.items() if plain is dict else enumerate(value) if plain is list else ()
    found = [_type_problem(f"{setting}.{key}", inner[0], entry) for key, entry in entries if inner]
    return next(filter(None, found), None)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A solver's answer.

    indices : (K,) long, unique, positions into its rows. weights : (K,) float64, finite, >= 0 unless the solver allows
    other signs. info : what happened.
    """

    indices: Tensor
    weights: Tensor
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        assert self.indices.shape == self.weights.shape and self.indices.ndim == 1
        assert len(torch.unique(self.indices)) == len(self.indices), "a solver picked a row twice"
        assert bool(torch.isfinite(self.weights).all()), "a solver returned a weight that is not finite"


def name_in(table: Mapping[str, type], thing: Any) -> str:
    """The name that the table has for its class; the class's own where it is not there."""
    return next((name for name, known in table.items() if type(thing) is known), type(thing).__name__)


def labels_digest(label_at: Callable[[int], int], size: int) -> str:
    """A data set's fingerprint: its size and its labels at up to 256 evenly spaced positions.

    Labels only, so that a plain and an augmented view of the same data agree; cheap enough to ask of any
    map-style data set.
    """
    positions = [i * size // min(size, 256) for i in range(min(size, 256))]
    text = repr((size, [int(label_at(i)) for i in positions]))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, eq=False)
class Coreset:
    """A weighted subset that stands for a whole data set. Made by `AdversarialCoreset.select`.

    Parameters
    ----------
    indices : (K,) long, unique, into the data set that was given.
    weights : (K,) float32; the coefficient of this example in the sum that stands for the whole set.
    blocks : (K,) long, for `per_batch`: the block each example came in, replayed whole; else None.
    num_examples : N, the size of the data that `indices` count in.
    population : how many of them the weights stand for, when it is not all; else None.
    fingerprint : of the data (`labels_digest`).
    epoch, solver, partition, seed, budget : where it came from.
    quality : gradient_error, gradient_error_trained, gradient_error_random (None where no gradient was
        measured), weight_sum, effective_sample_size, class_counts, overlap, filled, rounds.
    cost : passes and seconds by phase.
    info : the solvers' own words, one entry a sub-problem.
    events : what fell back or was left out, one line each.
    """

    indices: Tensor
    weights: Tensor
    num_examples: int
    fingerprint: str
    solver: str
    partition: str
    seed: int
    budget: float
    population: int | None = None
    epoch: int = 0
    blocks: Tensor | None = None
    quality: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    info: tuple[dict[str, Any], ...] = ()
    events: tuple[str, ...] = ()
    _ARRAYS: ClassVar[tuple[str, ...]] = ("indices", "weights", "blocks")

    def __post_init__(self):
        k = len(self.indices)
        if self.indices.is_floating_point() or self.indices.ndim != 1:
            raise DataError(f"a coreset needs whole numbers (K,) as indices, got {self.indices.dtype}")
        inside = k and int(self.indices.min()) >= 0 and int(self.indices.max()) < self.num_examples
        if not inside or len(torch.unique(self.indices)) != k:
            raise DataError(
                f"a coreset needs unique indices in 0..{self.num_examples - 1}, got {k} indices that are not"
            )
        if self.weights.shape != self.indices.shape or not bool(torch.isfinite(self.weights).all()):
            raise DataError(f"a coreset needs one finite weight for each of its {k} indices")

    def __len__(self) -> int:
        return len(self.indices)

    def training_weights(self, normalise: str = "coreset") -> Tensor:
        """(K,) float32 weights for `mean(w * loss)`: "coreset" rescales to mean 1 over the coreset, "none"
        keeps w K / population, "batch" leaves them for the step to divide by each batch's own sum (ACS, CORDS),
        "equal" drops them for 1 each."""
        require(one_of("normalise", normalise, NORMALISE))
        if normalise == "equal":
            return torch.ones(len(self))
        if normalise == "none":
            return self.weights * (len(self) / (self.population or self.num_examples))
        if normalise == "batch":
            return self.weights
        mean = float(self.weights.double().mean())
        if mean <= 0:
            raise DataError(
                f"the coreset's weights sum to {mean * len(self):.3g} and cannot be rescaled to mean 1; "
                "use normalise: none or a non-negative solver"
            )
        return (self.weights.double() / mean).float()

    def subset(self, dataset: Dataset) -> "WeightedSubset":
        """The chosen examples of `dataset` as an ordinary torch Dataset of (x, y, w), w rescaled to mean 1.

        `dataset` may be another view (augmented) of the data it was selected on; its length and labels must
        agree. Raises DataError for other data.
        """
        self.check(len(dataset), labels_digest(lambda i: dataset[i][1], len(dataset)))
        return WeightedSubset(dataset, self.indices.tolist(), self.training_weights())

    def check(self, size: int, fingerprint: str) -> None:
        """Raise DataError unless size and fingerprint are those of the data this was selected on."""
        if (size, fingerprint) != (self.num_examples, self.fingerprint):
            raise DataError(
                f"this coreset was selected on other data: {self.num_examples} examples ({self.fingerprint}), "
                f"got {size} ({fingerprint}); select again, or give the data it was made for"
            )

    def state(self) -> dict[str, Any]:
        """Arrays as tensors, and facts, for a checkpoint."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @classmethod
    def restored(cls, state: dict[str, Any]) -> "Coreset":
        """What `state` gave."""
        return cls(**(state | {"info": tuple(state["info"]), "events": tuple(state["events"])}))

    def save(self, path: str | Path) -> Path:
        """Write `path` (.npz) and a JSON beside it; returns the path."""
        from advcore.files import save_arrays

        path = _npz(path)
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        arrays = {name: values.pop(name) for name in self._ARRAYS}
        save_arrays(path, {name: array.cpu().numpy() for name, array in arrays.items() if array is not None}, values)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Coreset":
        """Read what `save` wrote. Raises CheckpointError on damage, UnsafeFileError on pickled content."""
        from advcore.files import load_arrays

        arrays, facts = load_arrays(_npz(path))
        known = {f.name for f in dataclasses.fields(cls)} - set(cls._ARRAYS)
        try:
            facts = {name: facts[name] for name in known}
            facts.update(info=tuple(facts["info"]), events=tuple(facts["events"]))
            return cls(**{name: torch.from_numpy(array) for name, array in arrays.items()}, **facts)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not a coreset of this version: {error}") from None


def _npz(path: str | Path) -> Path:
    return Path(path) if str(path).endswith(".npz") else Path(f"{path}.npz")


class WeightedSubset(Dataset):
    """(x, y, w) of the chosen examples, in the coreset's order."""

    def __init__(self, dataset: Dataset, indices: list[int], weights: Tensor):
        self.dataset, self.indices, self.weights = dataset, indices, weights

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int, Tensor]:
        x, y = self.dataset[self.indices[position]][:2]
        return x, y, self.weights[position]
