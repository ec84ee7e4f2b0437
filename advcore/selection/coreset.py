"""AdversarialCoreset.select(): attack, rows, partition, solver, coreset."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from advcore.adversary import mismatch
from advcore.borrow import device_of
from advcore.cost import CostLedger
from advcore.data.source import Source, as_source, check_labels, chunked
from advcore.errors import ConfigError, DataError, at_least, must, one_of, require, share
from advcore.gradients import GRADIENTS
from advcore.rng import Stream, preserved
from advcore.rows import KINDS, DenseRows, FactoredRows, Rows
from advcore.selection.partition import PARTITIONS, Problem, Split
from advcore.solvers.base import Solver
from advcore.types import NORMALISE, Coreset, Selection, settings

log = logging.getLogger(__name__)

BLOCKS = ("permuted", "stored_order")
ATTACK_MODES = ("eval", "train")
_DRAWS = 5  # random subsets behind gradient_error_random


@settings
class SelectionSettings:
    """What a selection is, whatever its objective, attack and solver.

    Parameters
    ----------
    partition : "whole", "per_class", "per_batch" or "per_class_per_gradient".
    budget : share of the data to keep, in (0, 1]; K = max(1, round(budget N)). 1.0 keeps all with weight 1 and skips
        attack and solve.
    rows : "full", "weight" or "bias": which part of the head's gradient is matched.
    blocks : of per_batch: "permuted" (anew at every selection) or "stored_order" (as published).
    chunk_size : examples attacked at once; a multiple of 16. The result does not depend on it beyond float rounding.
    """

    partition: str = "per_class"
    budget: float = 0.5
    rows: str = "full"
    blocks: str = "permuted"
    chunk_size: int = 256

    def __post_init__(self):
        require(
            one_of("partition", self.partition, PARTITIONS),
            share("budget", self.budget, "it is the share of the data to keep"),
            one_of("rows", self.rows, KINDS),
            one_of("blocks", self.blocks, BLOCKS),
            at_least("chunk_size", self.chunk_size, 16)
            or (must("chunk_size", "a multiple of 16", self.chunk_size) if self.chunk_size % 16 else None),
            *self._more_problems(),
        )

    def _more_problems(self) -> list[str | None]:
        """What a subclass's own settings may have wrong."""
        return []


@settings
class AdversarialCoreset(SelectionSettings):
    """Chooses a weighted subset whose gradient at the attacked points stands for the whole set's.

    Parameters
    ----------
    objective : what is trained, such as `Trades(beta=6)`.
    solver : `GradMatch()`, `Craig()`, `EasyCore()` or `Random()`.
    attack : of the selection; None for an objective that is not attacked.
    head : name of the last linear layer; None finds it.
    attack_mode : "eval", or "train" as some published codes attack.
    block_size : of per_batch: the training batch size.
    normalise : how the trainer will rescale weights; for `gradient_error_trained`.
    partition, budget, rows, blocks, chunk_size : see `SelectionSettings`.

    Reference: Dolatabadi et al. 2022, algorithm 1.
    """

    objective: Any
    solver: Any
    attack: Any = None
    head: str | None = None
    attack_mode: str = "eval"
    block_size: int = 128
    normalise: str = "coreset"

    def _more_problems(self) -> list[str | None]:
        attacks_here = self.solver.reads is not None and not GRADIENTS[self.solver.reads].averaged
        return [
            one_of("attack_mode", self.attack_mode, ATTACK_MODES),
            at_least("block_size", self.block_size, 1),
            one_of("normalise", self.normalise, NORMALISE),
            mismatch(self.objective, self.attack) if attacks_here else None,
        ]

    def size(self, n: int) -> int:
        """How many of n examples it is asked for: K, or, for per_batch, what that many whole blocks hold."""
        if self.budget == 1.0 or self.partition != "per_batch":
            return n if self.budget == 1.0 else max(1, round(self.budget * n))
        blocks = len(chunked(torch.arange(n), self.block_size))
        return min(n, max(1, round(self.budget * blocks)) * self.block_size)

    def select(
        self,
        model: nn.Module,
        dataset: Dataset | Source,
        *,
        seed: int,
        epoch: int = 0,
        rows: Rows | None = None,
        previous: Coreset | None = None,
        ledger: CostLedger | None = None,
        on_chunk: Callable[[int, int], None] = lambda done, total: None,
    ) -> Coreset:
        """Attack `dataset` with `model` as it stands and return the coreset.

        Parameters
        ----------
        model : any nn.Module that ends in a linear layer. Parameters, modes, buffers, gradients and the global
            random state come back bitwise as they were.
        dataset : map-style, (x, y) with x (C, H, W) float in [0, 1] or uint8; the plain view. Moved to the model's
            device batch by batch.
        seed, epoch : name the random numbers; same inputs, same coreset, bit for bit.
        rows : measured earlier, one a example in the data set's order; they are not measured again.
        previous : the coreset before this one, for `overlap`.
        ledger : also counts this selection's passes and seconds.
        on_chunk : told examples attacked and in all.

        Raises DataError, ConfigError, BudgetError for what the user can mend, NonFiniteError if the model has diverged.
        Cost one attack of the whole set, then the solver's.
        """
        source = as_source(dataset, device_of(model))
        own = CostLedger()
        with preserved(Stream(seed=seed, purpose="model", epoch=epoch)):
            if self.budget == 1.0:
                coreset = self._everything(source, seed, epoch)
            else:
                coreset = self._choose(model, source, seed, epoch, rows, previous, own, on_chunk)
        for event in coreset.events:
            log.warning("selection at epoch %d: %s", epoch, event)
        if ledger is not None:
            ledger.add(own)
        return coreset

    def _everything(self, source: Source, seed: int, epoch: int) -> Coreset:
        n = len(source)
        quality = {"gradient_error": 0.0, "gradient_error_trained": 0.0, "gradient_error_random": 0.0}
        quality |= {"weight_sum": 1.0, "effective_sample_size": 1.0, "filled": 0, "rounds": 1, "overlap": None}
        return self._coreset(source, seed, epoch, torch.arange(n), torch.ones(n), quality=quality)

    def _choose(self, model, source, seed, epoch, rows, previous, ledger, on_chunk) -> Coreset:
        rows, labels = self._measure(model, source, seed, epoch, rows, ledger, on_chunk)
        with ledger.phase("solve", source.device):
            split = Split(
                rows=rows,
                labels=labels.to(rows.device),
                budget=self.budget,
                block_size=self.block_size,
                blocks=self.blocks,
                stream=Stream(seed=seed, purpose="blocks", epoch=epoch if getattr(self.solver, "redraw", True) else 0),
            )
            problems = PARTITIONS[self.partition](split)
            generator = Stream(seed=seed, purpose="solver", epoch=epoch)
            answers, events = solve_all(self.solver, problems, generator)
            indices, weights, blocks = join(problems, answers)
        if any(len(answer.indices) < problem.k for problem, answer in zip(problems, answers, strict=True)):
            events.append(f"fewer picks than asked for: {self._shortfall(problems, answers)}")
        coreset = self._coreset(
            source,
            seed,
            epoch,
            indices.cpu(),
            weights.float().cpu(),
            blocks=None if blocks is None else blocks.cpu(),
            info=tuple({"problem": p.name, "k": p.k, **a.info} for p, a in zip(problems, answers, strict=True)),
            events=tuple(events),
            cost={
                "passes": ledger.units(),
                "seconds": {name: ledger.seconds[name] for name in ("attack", "rows", "solve")},
            },
        )
        coreset.quality.update(self._quality(coreset, rows, labels, Stream(seed=seed, purpose="quality", epoch=epoch)))
        coreset.quality.update(
            overlap=None if previous is None else overlap(previous.indices, coreset.indices),
            filled=sum(answer.info.get("filled", 0) for answer in answers),
            rounds=max(answer.info.get("rounds", 1) for answer in answers),
        )
        return coreset

    def _measure(self, model, source, seed, epoch, rows, ledger, on_chunk) -> tuple[Rows, Tensor]:
        """The rows the solver reads, and all labels; nothing is attacked for a solver that reads nothing."""
        if rows is not None:
            if len(rows) != len(source):
                raise DataError(must("rows", f"one row for each of the {len(source)} examples", len(rows)))
            return rows, _known_labels(source)
        if self.solver.reads is None:
            return DenseRows(matrix=torch.zeros(len(source), 0)), _known_labels(source)
        gradient = GRADIENTS[self.solver.reads]
        if gradient.averaged:
            raise ConfigError(
                f"{type(self.solver).__name__} reads {self.solver.reads} scores, averaged over a training run; pass "
                "rows=AveragedScores(...).rows (advcore.gradients.base), or use Trainer or `advcore run`"
            )
        measured = gradient.measure(
            model,
            source,
            objective=self.objective,
            attack=self.attack,
            stream=Stream(seed=seed, purpose="selection", epoch=epoch),
            ledger=ledger,
            kind=self.rows,
            head=self.head,
            attack_mode=self.attack_mode,
            chunk_size=self.chunk_size,
            on_chunk=on_chunk,
        )
        return measured.rows, measured.labels

    def _coreset(self, source: Source, seed: int, epoch: int, indices: Tensor, weights: Tensor, **facts) -> Coreset:
        return Coreset(
            indices=indices,
            weights=weights,
            num_examples=len(source),
            fingerprint=source.fingerprint(),
            solver=type(self.solver).__name__.lower(),
            partition=self.partition,
            seed=seed,
            budget=self.budget,
            epoch=epoch,
            **facts,
        )

    def _as_trained(self, coreset: Coreset) -> Tensor:
        """(K,) the coefficients that the trainer's rescaling amounts to, over a whole epoch."""
        n, k = coreset.num_examples, len(coreset)
        if self.normalise == "none":
            return coreset.weights
        if self.normalise == "batch" and coreset.blocks is not None:
            return torch.full((k,), n / k)  # a batch is one block of one weight, which its own sum cancels
        return coreset.training_weights("coreset") * (n / k)

    @staticmethod
    def _shortfall(problems: list[Problem], answers: list[Selection]) -> str:
        short = [
            f"{problem.name} {len(answer.indices)} of {problem.k} ({answer.info.get('stopped')})"
            for problem, answer in zip(problems, answers, strict=True)
            if len(answer.indices) < problem.k
        ]
        return "; ".join(short[:3]) + (f"; and {len(short) - 3} more" if len(short) > 3 else "")

    def _quality(self, coreset: Coreset, rows: Rows, labels: Tensor, stream: Stream) -> dict[str, Any]:
        """What the weights are like and, where gradients were measured, how well they stand for the whole."""
        w = coreset.weights.double()
        quality: dict[str, Any] = {
            "weight_sum": float(w.sum()) / coreset.num_examples,
            "effective_sample_size": float(w.sum() ** 2 / (len(w) * w.square().sum())),
            "class_counts": torch.bincount(labels[coreset.indices], minlength=int(labels.max()) + 1).tolist(),
        }
        if not isinstance(rows, FactoredRows):
            return quality | dict.fromkeys(("gradient_error", "gradient_error_trained", "gradient_error_random"))
        trained = self._as_trained(coreset).double()
        total = rows.total()
        return quality | {
            "gradient_error": gradient_error(rows, coreset.indices, w, total),
            "gradient_error_trained": gradient_error(rows, coreset.indices, trained, total),
            "gradient_error_random": random_gradient_error(rows, len(w), stream, total),
        }


def _known_labels(source: Source) -> Tensor:
    """The source's labels, without a model to say how many classes there are."""
    labels = source.labels()
    check_labels(labels, torch.arange(len(labels)), int(labels.max()) + 1)
    return labels


def solve_all(solver: Solver, problems: list[Problem], generator: Stream) -> tuple[list[Selection], list[str]]:
    """One answer a problem; a problem with a share that its solver leaves empty gets random picks at the others'
    mean weight. What fell back or was left out comes as events."""
    answers, events = [], []
    for problem in problems:
        stream = generator.child(problem.name).at(problem.members)
        if problem.k == 0:
            answers.append(_nothing(problem, "no share"))
        else:
            answers.append(solver(problem.rows, problem.k, generator=stream))
    left_out = [problem.name for problem in problems if problem.k == 0]
    if left_out:
        events.append(f"the budget is too small for every class: nothing from {', '.join(left_out)}")
    given = torch.cat([answer.weights for answer in answers])
    mean = float(given.mean()) if len(given) else sum(len(p.rows) for p in problems) / sum(p.k for p in problems)
    for i, (problem, answer) in enumerate(zip(problems, answers, strict=True)):
        if problem.k and not len(answer.indices):
            stream = generator.child(problem.name, "empty").at(problem.members)
            picks = stream.permutation()[: problem.k]
            weights = torch.full((problem.k,), mean, dtype=torch.float64, device=picks.device)
            answers[i] = Selection(indices=picks, weights=weights, info={**answer.info, "filled": problem.k})
            events.append(
                f"{problem.name}: the solver picked nothing ({answer.info.get('stopped')}); {problem.k} random picks"
            )
    return answers, events


def _nothing(problem: Problem, why: str) -> Selection:
    none = torch.zeros(0, dtype=torch.long, device=problem.rows.device)
    return Selection(indices=none, weights=none.double(), info={"stopped": why})


def join(problems: list[Problem], answers: list[Selection]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Indices (K,) into the data set, weights (K,), and the block of each (K,) where blocks were picked whole."""
    pairs = list(zip(problems, answers, strict=True))
    if problems[0].blocks is None:
        return torch.cat([p.members[a.indices] for p, a in pairs]), torch.cat([a.weights for _, a in pairs]), None
    chosen = [p.blocks[i] for p, a in pairs for i in a.indices.tolist()]
    sizes = torch.tensor([len(block) for block in chosen], device=chosen[0].device)
    weights = torch.cat([a.weights for _, a in pairs])
    return (
        torch.cat(chosen),
        weights.repeat_interleave(sizes),
        torch.arange(len(chosen)).to(sizes).repeat_interleave(sizes),
    )


def gradient_error(rows: Rows, indices: Tensor, weights: Tensor, total: Tensor | None = None) -> float:
    """||sum of w_i g_i over the indices - sum of all g|| / ||sum of all g||; `total` is the latter, if it is known."""
    total = rows.total() if total is None else total
    weighted = rows.combine(indices.to(rows.device), weights.to(rows.device))
    return float((weighted - total).norm() / total.norm().clamp_min(1e-300))


def random_gradient_error(rows: Rows, k: int, stream: Stream, total: Tensor) -> float:
    """Mean `gradient_error` of 5 random subsets of k rows with weights N / k."""
    everything = torch.arange(len(rows), device=rows.device)
    weights = torch.full((k,), len(rows) / k, device=rows.device)
    draws = [stream.child(draw).at(everything).permutation()[:k] for draw in range(_DRAWS)]
    return sum(gradient_error(rows, picks, weights, total) for picks in draws) / _DRAWS


def overlap(before: Tensor, after: Tensor) -> float:
    """Share of `before` that is also in `after`."""
    return float(torch.isin(before, after).double().mean())
