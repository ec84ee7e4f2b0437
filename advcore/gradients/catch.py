"""The contract of rows that are caught in training steps: what a step shows, what is stored of it, rows from that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from advcore.models.head import Head
from advcore.objectives.base import Objective
from advcore.rows import DenseRows, Rows


@dataclass(frozen=True, kw_only=True)
class TrainingPass:
    """What a training step shows of B examples.

    objective : of the run. head : the model's linear head; None where no row reads it.
    y : (B,) labels. logits, features : (B, C) and (B, D) of each of the objective's forward passes, by name.
    first_norms : (B,) float64, the norm of the gradient by which the attack takes its first step; None where it is not
    caught.
    """

    objective: Objective
    head: Head | None
    y: Tensor
    logits: Mapping[str, Tensor] = field(default_factory=dict)
    features: Mapping[str, Tensor] = field(default_factory=dict)
    first_norms: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class CaughtColumns:
    """What is stored of all N examples, and how their rows are read from it.

    columns : (N, width) by name, as `Catch.take` names them. labels : (N,), on the columns' device. objective : of the
    run. kind : part of a last-layer gradient (`FactoredRows`). release : called after every read; None where all is in
    memory.
    """

    columns: Mapping[str, Tensor]
    labels: Tensor
    objective: Objective
    kind: str
    release: Callable[[], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What decides how much is stored of an example.

    passes : how many forward passes the objective has. classes, features : outputs and inputs of the head; 0 where it
    is not read. itemsize : bytes of a number.
    """

    passes: int
    classes: int
    features: int
    itemsize: int = 4


@dataclass(frozen=True, kw_only=True)
class Catch:
    """How one kind of row is caught in training steps.

    take : what a step shows, to what is stored of its examples, (B, width) by name.
    build : what is stored, to the rows.
    count_bytes : how much is stored of an example.
    reads : the objective's forward pass that it looks at; None for all of them.
    at_start : whether it looks at the attack's first step, and at no forward pass.
    read : (objective, rows that are remeasured by `measure_anew`) to what is stored of them; None where rows are
        not remeasured.
    measure_anew : (model, source, settings) to these rows; None for the `measure` of the kind itself.
    """

    take: Callable[[TrainingPass], dict[str, Tensor]]
    build: Callable[[CaughtColumns], Rows]
    count_bytes: Callable[[Shape], int]
    reads: str | None = None
    at_start: bool = False
    read: Callable[[Objective, Rows], dict[str, Tensor]] | None = None
    measure_anew: Callable | None = None


def catch_scores(take: Callable[[TrainingPass], Tensor], *, reads: str | None = None, at_start: bool = False) -> Catch:
    """Return how scores are caught that `take` (B,) float64 reads from a training step; the rest is as in `Catch`."""
    return Catch(
        take=partial(_take_scores, take), build=_build_scores, count_bytes=_count_score, reads=reads, at_start=at_start
    )


def _take_scores(take: Callable[[TrainingPass], Tensor], seen: TrainingPass) -> dict[str, Tensor]:
    return {"score": take(seen)[:, None]}


def _build_scores(caught: CaughtColumns) -> DenseRows:
    return DenseRows(matrix=caught.columns["score"])


def _count_score(shape: Shape) -> int:
    return torch.float64.itemsize
