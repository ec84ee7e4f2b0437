"""The coreset: which examples were selected, with what weights, and how well they represent the data."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from advcore.data.checks import read_label
from advcore.data.contract import MapStyle
from advcore.data.loaders import build_loader
from advcore.data.samples import add_weight, count_examples, read_sample
from advcore.errors import CheckpointError, DataError, check_at_least, check_one_of, must, require
from advcore.files import load_arrays, save_arrays
from advcore.kinds import find_type_problem
from advcore.rng import Stream
from advcore.types import Event, Facts, digest_labels

NORMALISE = ("coreset", "batch", "none", "equal")

_SIGNED = "use normalise: none or a non-negative solver"
_ARRAYS = ("indices", "weights", "blocks")  # fields that a file holds as arrays; the others are in its JSON


@dataclass(frozen=True, kw_only=True, eq=False)
class Coreset:
    """A weighted subset that represents a whole data set. Made by `AdversarialCoreset.select`.

    Parameters
    ----------
    indices : (K,) long, unique, into the data set it was selected from.
    weights : (K,) float32; each example's coefficient in the sum that represents the whole set.
    blocks : (K,) long, with `per_batch`: the block in which each example came, trained on as one batch; else None.
    num_examples : N, the size of the data that `indices` refer to.
    population : how many of the N examples the weights represent; None for all.
    fingerprint : of the data (`digest_labels`).
    epoch, solver, partition, seed, budget : where it came from.
    quality : gradient_error, gradient_error_trained, gradient_error_random of draws from the same partition (None
        where no gradient was measured), weight_sum, effective_sample_size, class_counts, overlap, filled, rounds. Of
        rows that were caught in training: row_age and row_age_max, in epochs, and row_error, how far they are from
        those of the full attack, relative to these.
    cost : passes and seconds by phase.
    info : facts from the solver, one entry per sub-problem.
    events : what was replaced by a fallback or left out.
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
    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        require(*(find_type_problem(name, Tensor, getattr(self, name)) for name in ("indices", "weights")))
        k = len(self.indices)
        if self.indices.is_floating_point() or self.indices.dtype == torch.bool or self.indices.ndim != 1:
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

    def __repr__(self) -> str:
        source = f"{self.solver}, {self.partition}, seed={self.seed}, epoch={self.epoch}"
        return f"Coreset({len(self):,} of {self.num_examples:,} examples, {source})"

    def training_weights(self, normalise: str = "coreset") -> Tensor:
        """Return the weights (K,) float32 for the loss `mean(w * loss)` of a training step.

        normalise : "coreset" rescales them to mean 1 over the coreset; "none" gives w K / population; "batch" returns
            them as they are, for the step to divide by each batch's sum (ACS, CORDS); "equal" gives 1 each.

        Raises DataError with "coreset" if the weights do not sum to more than 0, and with "batch" if one is below 0: a
        batch's sum may then be 0 or less.
        """
        require(check_one_of("normalise", normalise, NORMALISE))
        if normalise == "equal":
            return torch.ones(len(self))
        if normalise == "none":
            return self.weights * (len(self) / (self.population or self.num_examples))
        if normalise == "batch":
            if bool((self.weights < 0).any()):
                least = float(self.weights.min())
                raise DataError(must("a coreset's weights", "at least 0 for normalise: batch", least, _SIGNED))
            return self.weights
        return rescale_to_mean_1(self.weights)

    def subset(self, dataset: Dataset) -> "WeightedSubset":
        """Return the selected examples of `dataset` as a torch Dataset of (x, y, w), w rescaled to mean 1.

        Examples that are mappings stay mappings, with one key more: "weight". `dataset` may be another view, such as an
        augmented one, of the data on which the coreset was selected. Raises DataError for other data, whose length or
        labels differ.
        """

        def label_at(i: int) -> int:
            return read_label(read_sample(cast(MapStyle, dataset), i)[1], i)

        size = count_examples(dataset)
        self.check(size, digest_labels(label_at, size))
        return WeightedSubset(dataset, self.indices.tolist(), self.training_weights())

    def loader(self, dataset: Dataset, batch_size: int, *, shuffle: bool = True, **options: object) -> DataLoader:
        """Return a torch DataLoader over the `subset`; `options` are DataLoader's own.

        A last batch of one example joins the one before it, because BatchNorm cannot train on one. Raises as
        `subset` does, and ConfigError for a batch without examples.
        """
        require(check_at_least("batch_size", batch_size, 1))
        return build_loader(self.subset(dataset), batch_size, shuffle=shuffle, **options)

    def draw(self, *, seed: int, epoch: int = 0) -> Tensor:
        """Draw K indices with replacement in proportion to the weights, for a loss that takes none.

        An example of weight w, rescaled to mean 1, is drawn floor(w) or ceil(w) times, on average over seeds and
        epochs w times (systematic resampling: one random number in all). Raises DataError for a weight below 0.
        """
        weights = self.training_weights().double()
        if bool((weights < 0).any()):
            raise DataError(must("a coreset's weights", "at least 0 to draw by them", float(weights.min()), _SIGNED))
        start = Stream(seed=seed, purpose="draw", epoch=epoch).at(torch.zeros(1, dtype=torch.long)).uniform((1,))
        points = torch.arange(len(self)) + start.double()
        positions = torch.searchsorted(weights.cumsum(0), points, right=True)
        return self.indices[positions.clamp_max(len(self) - 1)]

    def check(self, size: int, fingerprint: str) -> None:
        """Raise DataError unless size and fingerprint are those of the data on which the coreset was selected."""
        if (size, fingerprint) != (self.num_examples, self.fingerprint):
            raise DataError(
                f"this coreset was selected on other data: {self.num_examples} examples ({self.fingerprint}), "
                f"got {size} ({fingerprint}); select again, or give the data it was made for"
            )

    def state(self) -> Facts:
        """Return {field: value}, arrays as tensors and events as dicts, for a checkpoint."""
        return vars(self) | {"events": [dict(vars(event)) for event in self.events]}

    @classmethod
    def from_state(cls, state: Facts) -> "Coreset":
        """Build the coreset whose `state` this is; events may be their texts alone (`Event.load`)."""
        return cls(**(state | {"info": tuple(state["info"]), "events": tuple(map(Event.load, state["events"]))}))

    def save(self, path: str | Path) -> Path:
        """Write `path` (.npz, which is added if it is missing) and a JSON next to it; return the path."""
        path = _add_suffix(path)
        state = self.state()
        arrays = {name: state[name].cpu().numpy() for name in _ARRAYS if state[name] is not None}
        save_arrays(path, arrays, {name: fact for name, fact in state.items() if name not in _ARRAYS})
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Coreset":
        """Read what `save` wrote. Raises CheckpointError on damage, UnsafeFileError on pickled content."""
        arrays, facts = load_arrays(_add_suffix(path))
        try:
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
            others = {entry.name: facts[entry.name] for entry in fields(cls) if entry.name not in _ARRAYS}
            return cls.from_state(dict(**tensors, **others))
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path} is not a coreset of this version: {error}") from None


def rescale_to_mean_1(weights: Tensor) -> Tensor:
    """Return weights (K,) float32 in proportion to these. Raises DataError if they do not sum to more than 0."""
    mean = float(weights.double().mean())
    if mean <= 0:
        raise DataError(
            f"the coreset's weights sum to {mean * len(weights):.3g} and cannot be rescaled to mean 1; {_SIGNED}"
        )
    return (weights.double() / mean).float()


def _add_suffix(path: str | Path) -> Path:
    return Path(path) if str(path).endswith(".npz") else Path(f"{path}.npz")


@dataclass(eq=False)
class WeightedSubset(Dataset):
    """The selected examples as (x, y, w), or as mappings with the key "weight", in the coreset's order.

    dataset : all examples. indices : (K,) of the selected ones. weights : (K,) float32, theirs.
    """

    dataset: Dataset
    indices: list[int]
    weights: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"WeightedSubset({len(self):,} examples of {type(self.dataset).__name__})"

    def __getitem__(self, position: int) -> tuple[Tensor, object, Tensor] | dict[str, object]:
        dataset = cast(MapStyle, self.dataset)  # torch's Dataset does not declare a length
        return add_weight(dataset, self.indices[position], self.weights[position])
