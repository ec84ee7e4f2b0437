"""Scores of a data set, computed once and saved in a file, for any model that trains on it later."""

from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from advcore.data.source import Source
from advcore.errors import CheckpointError, DataError
from advcore.files import load_arrays, save_arrays
from advcore.kinds import accept_arguments
from advcore.rows import DenseRows
from advcore.types import Facts

SCHEMA = "scores-1"


@dataclass(frozen=True)
class Scores:
    """One score for each of the examples `indices` of a data set.

    indices : (n,) long, into the whole training set. values : (n,) float64; the higher, the harder the example.
    num_examples, fingerprint : of the whole training set. score : its name in GRADIENTS. epochs : number of epochs over
    which it was taken. model, objective : what was trained. seed : of that training run. passes : that training and
    scoring took, flops : its floating-point operations; 0 where they are not known. sha256 : of the file, once
    there is one.
    neighbours, extrapolated_from : where each is the mean of the nearest scores of another data set, how many of them,
    and the sha256 of their file; 0 and "" where the examples were scored themselves.
    """

    indices: Tensor = field(repr=False)
    values: Tensor = field(repr=False)
    num_examples: int
    fingerprint: str
    score: str
    epochs: int
    model: str
    objective: str
    seed: int
    passes: int = 0
    flops: int = 0
    neighbours: int = 0
    extrapolated_from: str = ""
    sha256: str = field(default="", compare=False)

    def save(self, path: Path) -> Path:
        """Write `path` (.npz) and a JSON file next to it, which holds the hash; return the path."""
        facts = {name: value for name, value in asdict(self).items() if name not in ("indices", "values", "sha256")}
        save_arrays(path, {"indices": self.indices.numpy(), "values": self.values.numpy()}, {"kind": SCHEMA, **facts})
        return path

    @classmethod
    @accept_arguments
    def load(cls, path: Path) -> "Scores":
        """Read what `save` wrote. Raises CheckpointError for a file that is missing, damaged or of another kind."""
        if not path.name:
            raise CheckpointError(f"{str(path)!r} is not the name of a file")
        if not path.exists():
            raise CheckpointError(f"{path} is missing; create it with `advcore score`")
        arrays, facts = load_arrays(path)
        try:
            if facts.pop("kind", None) != SCHEMA:
                raise TypeError("it holds something else")
            facts.pop("schema", None)
            tensors: Facts = {name: torch.from_numpy(array) for name, array in arrays.items()}
            scores = cls(**tensors, **facts)
            scores.check()
            return scores
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{path} does not hold scores: {error}") from None

    def check(self) -> None:
        """Raise ValueError unless indices are unique and in range, and values are finite."""
        indices, values = self.indices, self.values
        if indices.dtype != torch.long or values.dtype != torch.float64 or indices.shape != values.shape:
            raise ValueError("indices (n,) must be whole numbers and values (n,) float64")
        if indices.ndim != 1 or len(indices.unique()) != len(indices) or not bool(torch.isfinite(values).all()):
            raise ValueError("indices must be different ones and values finite")
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.num_examples:
            raise ValueError(f"indices must be in 0..{self.num_examples - 1}")

    def rows_of(self, path: str, reads: str, source: Source) -> DenseRows:
        """Return the scores (N, 1) of all N examples of a source, such as a pool; arguments and errors as of `rows`."""
        return self.rows(path, reads, torch.arange(len(source)), len(source), source.fingerprint())

    def rows(self, path: str, reads: str, part: Tensor, num_examples: int, fingerprint: str) -> DenseRows:
        """Return the scores (len(part), 1) of the examples `part` of the whole training set.

        path : of the scores' file, for errors. reads : the score that the solver reads. Raises DataError for scores of
        another kind or data set, or that lack some of the examples.
        """
        if self.score != reads:
            raise DataError(f"{path} holds {self.score} scores, and the solver reads {reads}")
        if (self.num_examples, self.fingerprint) != (num_examples, fingerprint):
            raise DataError(
                f"{path} holds the scores of another data set: {self.num_examples} examples ({self.fingerprint}), got "
                f"{num_examples} ({fingerprint}); compute them again with `advcore score`"
            )
        values = torch.full((num_examples,), float("nan"), dtype=torch.float64)
        values[self.indices] = self.values
        missing = int(torch.isnan(values[part]).sum())
        if missing:
            raise DataError(
                f"{path} lacks the scores of {missing} of the {len(part)} training examples; score with the same "
                "data.validation and data.split_seed"
            )
        return DenseRows(matrix=values[part][:, None])
