"""The small frozen values that stages pass to each other; each checks itself."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from advcore.deprecation import forward_renamed
from advcore.errors import CheckpointError, DataError, check_one_of, require
from advcore.files import load_arrays, save_arrays

Loss = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) to one loss per example (B,): what an attack maximises."""

Facts = dict[str, Any]
"""What JSON can hold, by name."""

NORMALISE = ("coreset", "batch", "none", "equal")


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

    def __post_init__(self):
        assert self.indices.shape == self.weights.shape and self.indices.ndim == 1
        assert len(torch.unique(self.indices)) == len(self.indices), "a solver picked a row twice"
        assert bool(torch.isfinite(self.weights).all()), "a solver returned a weight that is not finite"


def find_name(table: Mapping[str, type], entry: object) -> str:
    """Return the name under which a table lists the entry's class, or the class's name if it is not listed."""
    names = (name for name, cls in table.items() if isinstance(entry, cls))
    return next(names, type(entry).__name__)


def digest_labels(label_at: Callable[[int], int], size: int) -> str:
    """Return a fingerprint of a data set: a hash of its size and of up to 256 labels at evenly spaced positions.

    It depends on labels only, so that a plain and an augmented view of the same data agree. It is cheap for any
    map-style data set.
    """
    count = min(size, 256)
    labels = [int(label_at(i * size // count)) for i in range(count)]
    return hashlib.sha256(repr((size, labels)).encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, eq=False)
class Coreset:
    """A weighted subset that stands for a whole data set. Made by `AdversarialCoreset.select`.

    Parameters
    ----------
    indices : (K,) long, unique, into the data set it was selected from.
    weights : (K,) float32; each example's coefficient in the sum that stands for the whole set.
    blocks : (K,) long, with `per_batch`: the block in which each example came, trained on as one batch; else None.
    num_examples : N, the size of the data that `indices` refer to.
    population : how many of the N examples the weights stand for; None for all.
    fingerprint : of the data (`digest_labels`).
    epoch, solver, partition, seed, budget : where it came from.
    quality : gradient_error, gradient_error_trained, gradient_error_random (None where no gradient was
        measured), weight_sum, effective_sample_size, class_counts, overlap, filled, rounds.
    cost : passes and seconds by phase.
    info : facts from the solver, one entry per sub-problem.
    events : what was replaced by a fallback or left out, one line each.
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
    quality: Facts = field(default_factory=dict)
    cost: Facts = field(default_factory=dict)
    info: tuple[Facts, ...] = ()
    events: tuple[str, ...] = ()
    _ARRAYS: ClassVar[tuple[str, ...]] = ("indices", "weights", "blocks")

    def __post_init__(self):
        k = len(self.indices)
        if self.indices.is_floating_point() or self.indices.ndim != 1:
            raise DataError(f"a coreset needs whole numbers (K,) as indices, got {self.indices.dtype}")
        is_inside = k and int(self.indices.min()) >= 0 and int(self.indices.max()) < self.num_examples
        if not is_inside or len(torch.unique(self.indices)) != k:
            raise DataError(
                f"a coreset needs unique indices in 0..{self.num_examples - 1}, got {k} indices that are not"
            )
        if self.weights.shape != self.indices.shape or not bool(torch.isfinite(self.weights).all()):
            raise DataError(f"a coreset needs one finite weight for each of its {k} indices")

    def __len__(self) -> int:
        return len(self.indices)

    def training_weights(self, normalise: str = "coreset") -> Tensor:
        """Return the weights (K,) float32 for the loss `mean(w * loss)` of a training step.

        normalise : "coreset" rescales them to mean 1 over the coreset; "none" gives w K / population; "batch" returns
            them as they are, for the step to divide by each batch's sum (ACS, CORDS); "equal" gives 1 each.

        Raises DataError with "coreset" if the weights do not sum to more than 0.
        """
        require(check_one_of("normalise", normalise, NORMALISE))
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
        """Return the selected examples of `dataset` as a torch Dataset of (x, y, w), w rescaled to mean 1.

        `dataset` may be another view, such as an augmented one, of the data on which the coreset was selected. Raises
        DataError for other data, whose length or labels differ.
        """

        def label_at(i: int) -> int:
            return dataset[i][1]

        size = len(cast(Sized, dataset))  # torch's class declares no length, for the sake of streams
        self.check(size, digest_labels(label_at, size))
        return WeightedSubset(dataset, self.indices.tolist(), self.training_weights())

    def check(self, size: int, fingerprint: str) -> None:
        """Raise DataError unless size and fingerprint are those of the data on which the coreset was selected."""
        if (size, fingerprint) != (self.num_examples, self.fingerprint):
            raise DataError(
                f"this coreset was selected on other data: {self.num_examples} examples ({self.fingerprint}), "
                f"got {size} ({fingerprint}); select again, or give the data it was made for"
            )

    def state(self) -> Facts:
        """Return {field: value}, arrays as tensors, for a checkpoint."""
        return {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}

    @classmethod
    def from_state(cls, state: Facts) -> "Coreset":
        """Build the coreset whose `state` this is."""
        return cls(**(state | {"info": tuple(state["info"]), "events": tuple(state["events"])}))

    def save(self, path: str | Path) -> Path:
        """Write `path` (.npz, which is added if it is missing) and a JSON beside it; return the path."""
        path = _add_suffix(path)
        facts = self.state()
        tensors = {name: facts.pop(name) for name in self._ARRAYS}
        arrays = {name: tensor.cpu().numpy() for name, tensor in tensors.items() if tensor is not None}
        save_arrays(path, arrays, facts)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Coreset":
        """Read what `save` wrote. Raises CheckpointError on damage, UnsafeFileError on pickled content."""
        arrays, facts = load_arrays(_add_suffix(path))
        names = {entry.name for entry in dataclasses.fields(cls)} - set(cls._ARRAYS)
        try:
            facts = {name: facts[name] for name in names}
            facts.update(info=tuple(facts["info"]), events=tuple(facts["events"]))
            tensors: Facts = {name: torch.from_numpy(array) for name, array in arrays.items()}
            return cls(**tensors, **facts)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not a coreset of this version: {error}") from None


def _add_suffix(path: str | Path) -> Path:
    return Path(path) if str(path).endswith(".npz") else Path(f"{path}.npz")


class WeightedSubset(Dataset):
    """The selected examples as (x, y, w), in the coreset's order."""

    def __init__(self, dataset: Dataset, indices: list[int], weights: Tensor):
        self.dataset = dataset
        self.indices = indices
        self.weights = weights

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> tuple[Tensor, int, Tensor]:
        x, y = self.dataset[self.indices[position]][:2]
        return x, y, self.weights[position]


__getattr__ = forward_renamed(
    __name__,
    {
        "labels_digest": "advcore.types.digest_labels",
        "name_in": "advcore.types.find_name",
        "settings": "advcore.settings.settings",
    },
)
"""Names of the last release."""
