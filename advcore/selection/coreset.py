"""AdversarialCoreset.select(): attack, rows, partition, solver, coreset."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from advcore import distributed
from advcore.adversary import mismatch
from advcore.borrow import device_of
from advcore.cost import CostLedger
from advcore.data.fits import check_fits
from advcore.data.source import Part, Source, as_source, check_labels, chunk_sizes
from advcore.errors import ConfigError, DataError, at_least, must, one_of, positive, require, share
from advcore.gradients import GRADIENTS
from advcore.gradients.base import Measured
from advcore.objectives.base import attacked
from advcore.rng import Stream, preserved
from advcore.rows import KINDS, DenseRows, FactoredRows, Rows
from advcore.selection.memory import estimate_for, settle
from advcore.selection.partition import ALIASES, PARTITIONS, Problem, Split
from advcore.selection.quality import Sample, full_error, overlap, quality, stretched
from advcore.selection.solve import join, solve_all
from advcore.solvers import SOLVERS
from advcore.solvers.base import scores_file
from advcore.solvers.uniform import Random
from advcore.spill import temporary_folder
from advcore.types import NORMALISE, Coreset, Selection, name_in, settings

log = logging.getLogger(__name__)

BLOCKS = ("permuted", "stored_order")
TARGETS = ("train", "validation")
ATTACK_MODES = ("eval", "train")


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
    target : whose gradient the coreset is to match: "train", its own data's, or "validation", the held-out examples',
        attacked too (GradMatch only).
    full_examples : where the selection's attack is cheaper than the full one: how many examples, half of them from the
        coreset, are attacked in full as well, for `gradient_error_full`; 0 for none. Counted as evaluation.
    memory_limit : GB that a selection may hold, without the model; rows go to a temporary file above it, and what would
        still exceed it is refused. Null: 80 % of what is free when the selection begins.
    """

    partition: str = "per_class"
    budget: float = 0.5
    rows: str = "full"
    blocks: str = "permuted"
    chunk_size: int = 256
    target: str = "train"
    full_examples: int = 1000
    memory_limit: float | None = None

    def __post_init__(self):
        require(
            one_of("partition", self.partition, PARTITIONS, ALIASES),
            share("budget", self.budget, "it is the share of the data to keep"),
            one_of("rows", self.rows, KINDS),
            one_of("blocks", self.blocks, BLOCKS),
            at_least("chunk_size", self.chunk_size, 16)
            or (must("chunk_size", "a multiple of 16", self.chunk_size) if self.chunk_size % 16 else None),
            one_of("target", self.target, TARGETS),
            must("full_examples", "0, or at least 4", self.full_examples)
            if isinstance(self.full_examples, int) and 0 < self.full_examples < 4
            else at_least("full_examples", self.full_examples, 0),
            None if self.memory_limit is None else positive("memory_limit", self.memory_limit),
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
    full_attack : what `attack` is a cheap stand-in for; None: nothing else.
    head : name of the last linear layer; None finds it.
    attack_mode : "eval", or "train" as some published codes attack.
    block_size : of per_batch: the training batch size.
    normalise : how the trainer will rescale weights; for `gradient_error_trained`.
    partition, budget, rows, blocks, chunk_size, target, full_examples, memory_limit : see `SelectionSettings`.

    Reference: Dolatabadi et al. 2022, algorithm 1.
    """

    objective: Any
    solver: Any
    attack: Any = None
    full_attack: Any = None
    head: str | None = None
    attack_mode: str = "eval"
    block_size: int = 128
    normalise: str = "coreset"

    def _more_problems(self) -> list[str | None]:
        reads = GRADIENTS.get(self.solver.reads)
        attacks_here = reads is not None and not reads.one_number
        unfit = reads is not None and reads.attacked and not attacked(self.objective)
        return [
            one_of("attack_mode", self.attack_mode, ATTACK_MODES),
            at_least("block_size", self.block_size, 1),
            one_of("normalise", self.normalise, NORMALISE),
            mismatch(self.objective, self.attack) if attacks_here or (reads and reads.attacked) else None,
            must("solver.points", "clean for an objective that is not attacked", "adversarial") if unfit else None,
            must("target", "'train' for a solver that fits no target", self.target, "use gradmatch")
            if self.target != "train" and not getattr(self.solver, "has_target", False)
            else None,
        ]

    @property
    def needs_validation(self) -> bool:
        """Whether held-out examples are what a selection is to match."""
        return self.target == "validation" and self.budget < 1

    @property
    def stand_in(self) -> "AdversarialCoreset":
        """What chooses where nothing is measured yet, as the acs schedule begins: at random, of all together."""
        return replace(self, solver=Random(), partition="whole", target="train")

    def size(self, n: int) -> int:
        """How many of n examples it is asked for: K, or, for per_batch, what that many whole blocks hold."""
        if self.budget == 1.0 or self.partition != "per_batch":
            return n if self.budget == 1.0 else max(1, round(self.budget * n))
        blocks = sum(chunk_sizes(n, self.block_size).values())
        return min(n, max(1, round(self.budget * blocks)) * self.block_size)

    def select(
        self,
        model: nn.Module,
        dataset: Dataset | Source,
        *,
        seed: int,
        epoch: int = 0,
        rows: Rows | None = None,
        validation: Dataset | Source | None = None,
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
        validation : for `target: validation`, the held-out examples; attacked as the others are.
        previous : the coreset before this one, for `overlap`.
        ledger : also counts this selection's passes and seconds.
        on_chunk : told examples attacked and in all.

        Several processes (torch.distributed) share the attack, in chunks that do not depend on how many they are; the
        first solves, and all must call this with the same model, and get the same coreset.

        Raises DataError, ConfigError, BudgetError for what the user can mend, NonFiniteError if the model has diverged.
        Cost one attack of the whole set, then the solver's. Rows are held, or in a temporary file (`memory_limit`), and
        then one problem's at a time.
        """
        source, own = as_source(dataset, device_of(model)), CostLedger()
        if self.needs_validation and validation is None:
            raise ConfigError(must("validation", "given for target: validation", None, "or use target: train"))
        held_out = None if validation is None else as_source(validation, device_of(model))
        with preserved(Stream(seed=seed, purpose="model", epoch=epoch)):
            if self.budget == 1.0:
                coreset = self._everything(source, seed, epoch)
            else:
                coreset = self._choose(_Call(model, source, held_out, seed, epoch, own, on_chunk), rows, previous)
        for event in coreset.events:
            log.warning("selection at epoch %d: %s", epoch, event)
        if ledger is not None:
            ledger.add(own)
        return coreset

    def _everything(self, source: Source, seed: int, epoch: int) -> Coreset:
        n = len(source)
        quality = {"gradient_error": 0.0, "gradient_error_trained": 0.0, "gradient_error_random": 0.0}
        quality |= {"weight_sum": 1.0, "effective_sample_size": 1.0, "filled": 0, "rounds": 1, "overlap": None}
        known = source.class_counts() is not None  # of classes that are there, while a place here is a class
        quality |= {"class_counts": source.labels().bincount().tolist() if known else None, "target_error": None}
        return self._coreset(source, seed, epoch, indices=torch.arange(n), weights=torch.ones(n), quality=quality)

    def _choose(self, call: "_Call", rows: Rows | None, previous: Coreset | None) -> Coreset:
        source, ledger = call.source, call.ledger
        if rows is not None and len(rows) != len(source):
            raise DataError(must("rows", f"one row for each of the {len(source)} examples", len(rows)))
        folder, events = self._folder(call) if rows is None or self.target != "train" else (None, ())
        found = Measured(rows=rows, labels=_known_labels(source)) if rows is not None else None
        found = found or self._measure(call, source, "selection", folder)
        goal = None if self.target == "train" else self._anew()._measure(call, call.validation, "validation", folder)
        with ledger.phase("solve", source.device):
            with distributed.together():
                problems = self._problems(call, found, goal) if distributed.first() else None
            answers, fallbacks = solve_all(self.solver, problems, call.stream("solver"), source.device)
            solved = distributed.by_first(lambda: _joined(problems, answers) | {"fallbacks": fallbacks})
        (passes,), seconds = distributed.summed([ledger.units()]), ledger.seconds
        told = (*events, *found.events, *(goal.events if goal else ()), *solved.pop("fallbacks"))
        coreset = self._coreset(
            source,
            call.seed,
            call.epoch,
            events=told,
            info=tuple(solved.pop("info")),
            cost={"passes": passes, "seconds": {name: seconds[name] for name in ("attack", "rows", "solve")}},
            **solved,
        )
        in_full = self._sampled_in_full(call, coreset, found)

        def facts() -> dict[str, Any]:
            own = quality(coreset, found, goal and goal.rows, self.normalise, call.stream("quality"))
            if in_full is None:
                return own
            error, noise = full_error(found.rows, coreset.indices, coreset.weights, in_full)
            return own | {"gradient_error_full": error, "gradient_error_full_noise": noise}

        coreset.quality.update(
            **distributed.by_first(facts),
            overlap=None if previous is None else overlap(previous.indices, coreset.indices),
            filled=sum(one.get("filled", 0) for one in coreset.info),
            rounds=max(one.get("rounds", 1) for one in coreset.info),
        )
        return replace(coreset, events=(*coreset.events, *stretched(coreset.quality["weight_sum"], self.normalise)))

    def _problems(self, call: "_Call", found: Measured, goal: Measured | None) -> list[Problem]:
        split = Split(
            rows=found.rows,
            labels=found.labels.to(found.rows.device),
            budget=self.budget,
            block_size=self.block_size,
            blocks=self.blocks,
            stream=call.stream("blocks", fixed=not getattr(self.solver, "redraw", True)),
            goal=goal and goal.rows,
            goal_labels=goal and goal.labels.to(goal.rows.device),
        )
        return PARTITIONS[self.partition](split)

    def _sampled_in_full(self, call: "_Call", coreset: Coreset, found: Measured) -> Sample | None:
        """Some examples attacked in full; None where the selection's attack is no cheaper, or has no gradients."""
        full, most = self.full_attack, self.full_examples
        factored = found.rows is None or isinstance(found.rows, FactoredRows)
        if full is None or not most or not attacked(self.objective) or not factored:
            return None
        if sum(full.passes()) <= sum(self.attack.passes()):
            return None
        outside = torch.ones(len(call.source), dtype=torch.bool)
        outside[coreset.indices] = False
        rest, stream = outside.nonzero()[:, 0], call.stream("full")
        m = min(len(coreset), max(most // 2, most - len(rest)))  # half of them, or what the rest leaves over
        chosen = stream.child("chosen").at(torch.arange(len(coreset))).permutation()[:m]
        rest = rest[stream.child("rest").at(rest).permutation()[: most - m]]
        part = Part(call.source, torch.cat([coreset.indices[chosen], rest]))
        ledger = CostLedger()
        rows = replace(self, attack=full)._measure(replace(call, ledger=ledger), part, "full", None).rows
        call.ledger.add(ledger, under="evaluation")
        return Sample(chosen, rest, rows)

    def _anew(self) -> "AdversarialCoreset":
        """The same, for examples that no training attack has seen."""
        remembers = getattr(self.attack, "remembers", False)
        return replace(self, attack=self.attack.recalling(None)) if remembers else self

    def _folder(self, call: "_Call") -> tuple[Path | None, tuple[str, ...]]:
        """Where the rows must go if they do not fit in memory, and the event that says so."""
        held_out = 0 if call.validation is None else len(call.validation)
        found = estimate_for(self, call.model, call.source, held_out)
        if found is None:
            return None, ()

        def spilled() -> str | None:
            own, event = settle(found, self.memory_limit, call.source.device)
            return event if own.spilled else None

        event = distributed.by_first(spilled)
        return (None, ()) if event is None else (temporary_folder(), (event,))

    def _measure(self, call: "_Call", data: Source, purpose: str, folder: Path | None) -> Measured:
        """The rows the solver reads, and all labels; nothing is attacked for a solver that reads nothing."""
        if self.solver.reads is None:
            return Measured(rows=DenseRows(matrix=torch.zeros(len(data), 0)), labels=_known_labels(data))
        check_fits(call.model, data, labels=False)
        gradient = GRADIENTS[self.solver.reads]
        if gradient.averaged or scores_file(self.solver):
            raise ConfigError(
                f"{type(self.solver).__name__} reads {self.solver.reads} scores, averaged over a training run; pass "
                "rows=AveragedScores(...).rows (advcore.gradients.base) or Scores.load(...).rows(...) "
                "(advcore.selection.scores), or use Trainer or `advcore run`"
            )
        return gradient.measure(
            call.model,
            data,
            objective=self.objective,
            attack=self.attack,
            stream=call.stream(purpose),
            ledger=call.ledger,
            kind=self.rows,
            head=self.head,
            attack_mode=self.attack_mode,
            chunk_size=self.chunk_size,
            folder=folder,
            on_chunk=call.on_chunk,
        )

    def _coreset(self, source: Source, seed: int, epoch: int, **facts) -> Coreset:
        return Coreset(
            num_examples=len(source),
            fingerprint=source.fingerprint(),
            solver=name_in(SOLVERS, self.solver),
            partition=self.partition,
            seed=seed,
            budget=self.budget,
            epoch=epoch,
            **facts,
        )


@dataclass(frozen=True)
class _Call:
    """What one call of `select` was given."""

    model: nn.Module
    source: Source
    validation: Source | None
    seed: int
    epoch: int
    ledger: CostLedger
    on_chunk: Callable[[int, int], None]

    def stream(self, purpose: str, *, fixed: bool = False) -> Stream:
        """Of this selection; `fixed`: the same at every selection of a run."""
        return Stream(seed=self.seed, purpose=purpose, epoch=0 if fixed else self.epoch)


def _joined(problems: list[Problem], answers: list[Selection]) -> dict[str, Any]:
    """`indices`, `weights`, `blocks` and `info` of a coreset."""
    indices, weights, blocks = join(problems, answers)
    return {
        "indices": indices.cpu(),
        "weights": weights.float().cpu(),
        "blocks": None if blocks is None else blocks.cpu(),
        "info": [{"problem": p.name, "k": p.k, **a.info} for p, a in zip(problems, answers, strict=True)],
    }


def _known_labels(source: Source) -> Tensor:
    """The source's labels, without a model to say how many classes there are."""
    labels = source.labels()
    check_labels(labels, torch.arange(len(labels)), int(labels.max()) + 1)
    return labels
