"""AdversarialCoreset.select(): attack, rows, partition, solver, coreset."""

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import nn
from torch.utils.data import Dataset

from advcore import distributed
from advcore.adversary import describe_mismatch
from advcore.attacks.base import Attack
from advcore.cost import CostLedger
from advcore.data.contract import MapStyle, count_chunks
from advcore.data.source import Source, as_source
from advcore.deprecation import forward_method
from advcore.errors import ConfigError, SettingProblem, check_at_least, check_one_of, must, unless
from advcore.gradients import GRADIENTS
from advcore.kinds import accept_arguments
from advcore.objectives.base import Objective, is_attacked
from advcore.rng import preserve_random_state
from advcore.rows import FactoredRows, Rows
from advcore.runtime.borrow import find_device, record_gradients
from advcore.selection.measure import Call, Measured, count_cost, measure, refuse_other_rows, sample_in_full
from advcore.selection.partition import PARTITIONS, Problem, Split
from advcore.selection.quality import describe_sample, describe_stretch, measure_overlap, measure_quality
from advcore.selection.result import NORMALISE, Coreset
from advcore.selection.rows_from import find_catch_problem, find_unread_problem
from advcore.selection.settings import BLOCKS, TARGETS, SelectionSettings
from advcore.selection.solve import Solution, solve
from advcore.settings import settings
from advcore.solvers import SOLVERS
from advcore.solvers.base import Solver, find_represent, find_scores_file
from advcore.solvers.uniform import Random
from advcore.types import Event, Facts, find_name

__all__ = ["ATTACK_MODES", "BLOCKS", "TARGETS", "AdversarialCoreset", "SelectionSettings"]

log = logging.getLogger(__name__)

ATTACK_MODES = ("eval", "train")


@settings
class AdversarialCoreset(SelectionSettings):
    """Select a weighted subset whose gradient at the attacked points approximates that of the whole set.

    Parameters
    ----------
    objective : what is trained, such as `Trades(beta=6)`.
    solver : `GradMatch()`, or another of `advcore.solvers.SOLVERS`.
    attack : the selection's attack; None for an objective that is not attacked.
    full_attack : the attack that `attack` is a cheaper substitute for; None: `attack` is not a substitute.
    head : name of the last linear layer; None finds it.
    attack_mode : mode of the model while it is attacked: "eval", or "train" as in some published codes.
    block_size : for per_batch: the training batch size.
    normalise : how the trainer will rescale weights; for `gradient_error_trained`.
    partition, budget, rows, blocks, chunk_size, target, full_examples, memory_limit, max_minutes, rows_from, refresh,
        rows_place : see `SelectionSettings`.

    Cost of a selection: one attack of the whole set, then the solver's. All rows are held, in memory or in a temporary
    file (`memory_limit`), and in addition those of one problem at a time. Several processes (torch.distributed) share
    the attack, in chunks that do not depend on how many they are; the first solves, and all must call `select` with the
    same model, and get the same coreset.
    Reference: Dolatabadi et al. 2022, algorithm 1.
    """

    objective: Objective
    solver: Solver
    attack: Attack | None = None
    full_attack: Attack | None = None
    head: str | None = None
    attack_mode: str = "eval"
    block_size: int = 128
    normalise: str = "coreset"

    def _check_more(self) -> list[SettingProblem | None]:
        gradient = GRADIENTS.get(self.solver.reads or "")
        attacks = gradient is not None and (gradient.is_attacked or not gradient.is_scalar)
        needs_attack = gradient is not None and gradient.is_attacked and not find_scores_file(self.solver)
        return [
            check_one_of("attack_mode", self.attack_mode, ATTACK_MODES),
            check_at_least("block_size", self.block_size, 1),
            check_one_of("normalise", self.normalise, NORMALISE),
            unless(not attacks, describe_mismatch(self.row_objective, self.attack)),
            unless(
                not needs_attack or is_attacked(self.objective),
                must("solver.points", "clean for an objective that is not attacked", "adversarial"),
            ),
            self._find_target_problem(),
            find_unread_problem(self) or find_catch_problem(self),
        ]

    def _find_target_problem(self) -> SettingProblem | None:
        """Return why the solver cannot match the target, one that is not the data it chooses from; None if it can."""
        if self.target == "train" or self.represents or getattr(self.solver, "has_target", False):
            return None
        return must("target", "'train' for a solver that fits no target", self.target, "use gradmatch")

    @property
    def represents(self) -> bool:
        """Whether the solver represents the real examples one by one with a pool, instead of matching their sum."""
        return self.target == "real" and find_represent(self.solver) is not None

    @property
    def row_objective(self) -> Objective:
        """The objective by whose loss rows are measured and attacked: that of their kind, or the selector's."""
        gradient = GRADIENTS.get(self.solver.reads or "")
        return self.objective if gradient is None else gradient.objective or self.objective

    @property
    def needs_validation(self) -> bool:
        """Whether a selection is to match the gradient of held-out examples."""
        return self.target == "validation" and self.budget < 1

    @property
    def stand_in(self) -> "AdversarialCoreset":
        """The selector used before anything is measured, as the acs schedule begins: at random from all data."""
        return replace(self, solver=Random(), partition="whole", target="train")

    def count_chosen(self, n: int) -> int:
        """Return how many of n examples are chosen: K, or, for per_batch, `block_size` for each chosen block.

        The last block of the data may be smaller, or larger by 1, and so may be what is chosen.
        """
        if self.budget == 1.0:
            return n
        if self.partition != "per_batch":
            return max(1, round(self.budget * n))
        blocks = sum(count_chunks(n, self.block_size).values())
        return min(n, max(1, round(self.budget * blocks)) * self.block_size)

    size = forward_method("advcore.selection.coreset.AdversarialCoreset.size", "count_chosen")

    @accept_arguments
    @record_gradients
    def select(
        self,
        model: nn.Module,
        dataset: MapStyle | Dataset | Source,
        *,
        seed: int,
        epoch: int = 0,
        rows: Rows | None = None,
        validation: MapStyle | Dataset | Source | None = None,
        previous: Coreset | None = None,
        ledger: CostLedger | None = None,
        on_chunk: Callable[[int, int], None] = lambda done, total: None,
    ) -> Coreset:
        """Attack `dataset` with `model` as it is now and return the coreset; log a warning for each of its events.

        Parameters
        ----------
        model : any nn.Module that ends in a linear layer; it and the global random state are restored bitwise.
        dataset : map-style, (x, y) with x (C, H, W) float in [0, 1] or uint8; the plain view.
        seed, epoch : name the random numbers; the same inputs give the same coreset, bit for bit.
        rows : measured earlier, one per example in the data set's order; they are not measured again.
        validation : for `target: validation`, the held-out examples, for `target: real`, the real ones, where `dataset`
            is a pool; attacked as the others are.
        previous : the coreset before this one, for `overlap`.
        ledger : also counts this selection's passes and seconds.
        on_chunk : called with the number of examples attacked so far and in all.

        Raises DataError, ConfigError, BudgetError for what the user can fix, NonFiniteError if the model has diverged,
        NoMemoryError where the work cannot be cut into smaller pieces.
        """
        source = as_source(cast(MapStyle, dataset), find_device(model))  # torch's Dataset does not declare a length
        if self.target != "train" and self.budget < 1 and validation is None:
            raise ConfigError(must("validation", f"given for target: {self.target}", None, "or use target: train"))
        if validation is not None:
            validation = as_source(cast(MapStyle, validation), find_device(model))
        call = Call(model=model, source=source, validation=validation, seed=seed, epoch=epoch, on_chunk=on_chunk)
        coreset = self._choose(call, rows, previous)
        if ledger is not None:
            ledger.add(call.ledger)
        return coreset

    def _choose(self, call: Call, rows: Rows | None, previous: Coreset | None) -> Coreset:
        """Select what `call` asks for, and log what fell back."""
        with preserve_random_state(call.stream("model")):
            if self.budget == 1.0:
                return self._keep_all(call)
            coreset = self._select_subset(call, rows, previous)
        for event in coreset.events:
            if event.kind != "time":  # which was reported before the work
                log.warning("selection at epoch %d: %s", call.epoch, event)
        return coreset

    def _keep_all(self, call: Call) -> Coreset:
        """Return a coreset of all examples with weight 1, without attacking or solving."""
        n = len(call.source)
        class_counts = None
        if call.source.class_counts() is not None:  # else a label need not be the place of its class in a list
            class_counts = call.source.labels().bincount().tolist()
        quality = {
            "gradient_error": 0.0,
            "gradient_error_trained": 0.0,
            "gradient_error_random": 0.0,
            "weight_sum": 1.0,
            "effective_sample_size": 1.0,
            "filled": 0,
            "rounds": 1,
            "overlap": None,
            "class_counts": class_counts,
            "target_error": None,
        }
        return self._build_coreset(call, Solution(torch.arange(n), torch.ones(n)), quality=quality, cost={}, events=())

    def _select_subset(self, call: Call, rows: Rows | None, previous: Coreset | None) -> Coreset:
        """Measure rows, solve, and return the coreset together with how good it is.

        Raises DataError for `rows` that are not as many as the examples, or not finite.
        """
        if rows is not None:
            with distributed.fail_together():
                refuse_other_rows(rows, len(call.source))
        measured = measure(self, call, rows)
        device = call.source.device
        with call.ledger.phase("solve", device):
            problems = None
            with distributed.fail_together():
                if distributed.is_first():
                    problems = self._split(call, measured)
            solution = solve(self.solver, problems, call.stream("solver"), device)
        cost = count_cost(call.ledger)
        quality = self._measure_quality(call, solution, measured, problems or []) | {
            "overlap": None if previous is None else measure_overlap(previous.indices, solution.indices),
            "filled": sum(entry.get("filled", 0) for entry in solution.info),
            "rounds": max(entry.get("rounds", 1) for entry in solution.info),
        }
        events = (*measured.events, *solution.fallbacks, *describe_stretch(quality["weight_sum"], self.normalise))
        return self._build_coreset(call, solution, quality=quality, cost=cost, events=events)

    def _split(self, call: Call, measured: Measured) -> list[Problem]:
        """Split the rows into one problem per call of the solver."""
        rows, labels = measured.examples.get_rows_and_labels()
        return PARTITIONS[self.partition](
            Split(
                rows=rows,
                labels=labels,
                budget=self.budget,
                block_size=self.block_size,
                blocks=self.blocks,
                stream=call.stream("blocks", fixed=not getattr(self.solver, "redraw", True)),
                goal=measured.goal,
                target=self.target,
            )
        )

    def _measure_quality(self, call: Call, solution: Solution, measured: Measured, problems: list[Problem]) -> Facts:
        """Return what the solution's weights are like and its gradient errors, the same in every process.

        problems : what was solved; only the first process has them.

        May attack a sample in full (`full_examples`), which counts as evaluation.
        """
        rows = measured.examples.rows
        sample = sample_in_full(self, call, solution, rows)

        def measure_solution() -> Facts:
            stream = call.stream("quality")
            facts = measure_quality(
                solution,
                measured.examples,
                measured.goal.rows,
                problems=problems,
                normalise=self.normalise,
                stream=stream,
            )
            if sample is None or not isinstance(rows, FactoredRows):
                return facts
            return facts | describe_sample(rows, solution, sample, are_caught=self.rows_from == "training")

        return distributed.run_on_first(measure_solution)

    def _build_coreset(
        self, call: Call, solution: Solution, *, quality: Facts, cost: Facts, events: tuple[Event, ...]
    ) -> Coreset:
        return Coreset(
            indices=solution.indices,
            weights=solution.weights,
            blocks=solution.blocks,
            num_examples=len(call.source),
            fingerprint=call.source.fingerprint(),
            solver=find_name(SOLVERS, self.solver),
            partition=self.partition,
            seed=call.seed,
            budget=self.budget,
            epoch=call.epoch,
            quality=quality,
            cost=cost,
            info=tuple(solution.info),
            events=events,
        )
