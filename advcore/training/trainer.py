"""How a run trains: its settings and their checks."""

import itertools
from collections.abc import Callable
from dataclasses import InitVar, replace

from torch import Tensor, nn

from advcore import distributed
from advcore.adversary import describe_mismatch
from advcore.attacks.base import Attack
from advcore.attacks.memory import Memory
from advcore.data.augment import keep_images
from advcore.data.checks import check_fits
from advcore.data.contract import MapStyle, count_chunks
from advcore.data.pool import find_candidates
from advcore.data.source import Part, Source, as_source
from advcore.errors import ConfigError, SettingProblem, check, check_at_least, must, unless
from advcore.gradients import GRADIENTS, Gradient
from advcore.gradients.last_layer import locate_head
from advcore.kinds import accept_arguments
from advcore.objectives.base import Objective, is_attacked
from advcore.objectives.standard import Standard
from advcore.rng import Stream, preserve_random_state
from advcore.rows import Rows
from advcore.runtime.borrow import find_device, record_gradients
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.measure import refuse_too_large
from advcore.selection.schedule import Schedule
from advcore.settings import settings
from advcore.solvers.base import Solver, find_scores_file
from advcore.training.attack_steps import StepSchedule, find_steps_problem
from advcore.training.caught_rows import is_catching
from advcore.training.loop import Listener, Run, Trained, train_run
from advcore.training.loop_settings import (
    LoopSettings,
    find_memory_problem,
    has_remembered_start,
    refuse_other_images,
    refuse_processes,
    refuse_untrainable,
)
from advcore.training.lr import LRSchedule, OneCycle
from advcore.training.minibatch import Rule, find_rule_problem, refuse_one_image
from advcore.training.mixing import find_mixing_problem
from advcore.training.optimizers import OptimizerSettings, find_fused_problem, try_update
from advcore.training.penalties import find_regularizer_problem
from advcore.training.pooled import refuse_pool
from advcore.training.progress import Snapshot
from advcore.training.selector import expand_selection, list_disagreements
from advcore.training.trainable import TrainedParts


@settings
class Trainer(LoopSettings):
    """Weighted adversarial training on all data, then on coresets.

    Parameters
    ----------
    objective : `Standard()`, `Pgd()` or `Trades()`.
    attack : the training attack; None for an objective that is not attacked.
    schedule : which epochs run, and on what.
    selector : chooses the coresets; None trains on all data.
    solver : such as "gradmatch"; in place of a selector, which then has all else from here: objective, attack, budget.
    budget : in place of the schedule's, and of the selector's.
    optimizer, lr_schedule : settings of `advcore.training`.
    probe_epochs : for solvers that read scores over epochs: how many epochs of ordinary training of a copy are scored
        first; at least 1 where there is no warm start.
    minibatch : a rule of `advcore.minibatch`: what of each batch is attacked, and how, or trained on, or which
        examples an epoch leaves out; None: all.
    head : name of the last linear layer, for a rule that reads features; None finds it.
    attack_steps : the attack's steps in each epoch (`advcore.training.attack_steps`); None: the attack's setting.
    batch_size, normalise, attack_mode, eps_ramp, clip_norm, clip_value, ema, swa, probe_examples, memory, speed : see
        `LoopSettings`.

    Several processes (torch.distributed) share each batch: a step is on the loss of the whole batch; BatchNorm sees
    each process's part alone, and its statistics are averaged.
    """

    objective: Objective
    optimizer: OptimizerSettings
    schedule: Schedule
    attack: Attack | None = None
    minibatch: Rule | None = None
    head: str | None = None
    selector: AdversarialCoreset | None = None
    lr_schedule: LRSchedule = OneCycle()
    attack_steps: StepSchedule | None = None
    probe_epochs: int = 0
    budget: InitVar[float | None] = None
    solver: InitVar[Solver | None] = None

    def _expand(self, budget: float | None, solver: Solver | None) -> dict[str, object]:
        """Return the settings that `budget` and `solver` abbreviate."""
        return expand_selection(self, budget, solver)

    def _check_more(self) -> list[SettingProblem | None]:
        is_scored = self.score is None or self.schedule.warm_epochs or self.probe_epochs or is_catching(self)
        need = f"{self.solver_reads} scores need a training run"
        return [
            describe_mismatch(self.objective, self.attack),
            find_rule_problem(self.minibatch, self.objective, self.attack, len(self.schedule.plan()), self),
            find_mixing_problem(self.cutmix, self.objective, self.attack, getattr(self.selector, "solver", None)),
            find_regularizer_problem(self, self.objective, self.attack),
            self.find_length_problem(len(self.schedule.plan())),
            check_at_least("probe_epochs", self.probe_epochs, 0),
            unless(
                self.selector or self.schedule.budget >= 1,
                must("selector", "set for a schedule with a budget below 1", None, "or name a solver"),
            ),
            unless(is_scored, must("probe_epochs", "at least 1 without a warm start", 0, need)),
            check(
                self.score or not self.probe_epochs,
                "probe_epochs",
                "0 for a solver that takes no scores in this run",
                self.probe_epochs,
                "leave it out",
            ),
            *list_disagreements(self),
            find_steps_problem(self.attack_steps, self.attack),
            find_memory_problem(self.memory, self.attack),
            find_fused_problem(self.speed, self.optimizer),
        ]

    @property
    def remembers(self) -> bool:
        """Whether training attacks its images, from the perturbations of the epoch before."""
        return has_remembered_start(self.attack) and is_attacked(self.objective)

    def attack_at(self, epoch: int) -> Attack | None:
        """Return the attack of an epoch that runs, counted from 0."""
        if self.attack is None or self.attack_steps is None:
            return self.attack
        return self.attack.with_settings(steps=self.attack_steps.count_steps(epoch, self.schedule.length))

    @property
    def weakest_attack(self) -> Attack | None:
        """The attack of the epoch that has the fewest steps."""
        if self.attack_steps is None:
            return self.attack
        length = self.schedule.length
        steps = [self.attack_steps.count_steps(epoch, length) for epoch in range(length)]
        return self.attack_at(steps.index(min(steps)))

    @property
    def few_steps(self) -> bool:
        """Whether an epoch's attack has too few steps to judge the model."""
        has_few_steps = any(getattr(part, "few_steps", False) for part in (self.minibatch, self.weakest_attack))
        return is_attacked(self.objective) and has_few_steps

    @property
    def probe(self) -> Attack | None:
        """The attack that judges every epoch; it has many steps where the training attack has few in any of them."""
        attack = self.weakest_attack if self.few_steps else self.attack
        return attack and attack.probe()

    def get_selector(self) -> AdversarialCoreset:
        """Return the selector, which every run with a budget below 1 has."""
        assert self.selector is not None, "`_check_more` refuses to go without"
        return self.selector

    def count_examples(self, action: str, n: int) -> int:
        """Return how many of n training examples an epoch with this action of the schedule's plan trains on."""
        if action == "full" or self.schedule.is_beside_pool:
            return n
        selector = self.get_selector()
        return selector.stand_in.count_chosen(n) if action == "random" else selector.count_chosen(n)

    def estimate_memory(self, n: int, shape: tuple[int, int, int]) -> int:
        """Return how many bytes it takes to remember perturbations of n training images of `shape`; 0 without memory.

        That is the most that two epochs in a row keep, while one epoch's perturbations are moved to the next one's.
        """
        if not self.remembers:
            return 0
        sizes = [self.count_examples(epoch.action, n) for epoch in self.schedule.plan()]
        most = max(after if before == after else before + after for before, after in itertools.pairwise([0, *sizes]))
        return getattr(self.attack, "tensors", 1) * self.memory.count_bytes(most, shape)

    @property
    def solver_reads(self) -> str | None:
        """The kind of row that the selector's solver reads; None without a selection."""
        return self.selector.solver.reads if self.selector and self.schedule.budget < 1 else None

    @property
    def score(self) -> Gradient | None:
        """How the scores are measured that this run takes over its epochs; None where it takes none."""
        if self.solver_reads is None or self.reads_score_file or not GRADIENTS[self.solver_reads].is_collected:
            return None
        return GRADIENTS[self.solver_reads]

    @property
    def reads_score_file(self) -> bool:
        """Whether selections read scores from a file."""
        return self.solver_reads is not None and find_scores_file(self.get_selector().solver) is not None

    def build_probe(self) -> "Trainer":
        """Return how a copy of the model trains, without attacks, while the scores of `probe_epochs` are taken."""
        names = ("attack", "attack_steps", "minibatch", "selector", "ema", "swa", "awp", "cutmix", "regularizer")
        nothing: dict = dict.fromkeys(names)
        return replace(
            self,
            objective=Standard(),
            memory=Memory(),
            schedule=Schedule(epochs=self.probe_epochs),
            probe_epochs=0,
            head_epochs=0,
            **nothing,
        )

    def check(self, model: nn.Module, train: Source) -> None:
        """Raise ConfigError for training data that these settings cannot work with.

        Each batch, and what the minibatch rule leaves of it, must be as much as the model can train on; and an attack
        that remembers needs data that give an index the same image each time.
        """
        refuse_untrainable(model)
        TrainedParts(self, model, train)  # refuses names of no parameter
        refuse_pool(self, model, train)
        try_update(self.optimizer, self.lr_schedule, model)
        if self.remembers:
            refuse_other_images(train)
        counts = [len(train)]
        if self.selector and not self.schedule.is_beside_pool:
            counts.append(self.selector.count_chosen(len(train)))
        sizes = itertools.chain.from_iterable(count_chunks(n, self.batch_size).items() for n in counts)
        smallest = min(min(distributed.share_sizes(size)) for size, number in sizes if number)
        refuse_one_image(self.minibatch, model, train, smallest, attack_mode=self.attack_mode)

    @accept_arguments
    @record_gradients
    def fit(
        self,
        model: nn.Module,
        train: MapStyle | Source,
        validation: MapStyle | Source | None = None,
        *,
        seed: int = 0,
        augment: Callable[[Tensor, Stream], Tensor] = keep_images,
        listener: Listener | None = None,
        scores: Rows | None = None,
        resume: Snapshot | None = None,
        progress: bool | None = None,
    ) -> Trained:
        """Train `model` in place; all of several processes must call this, with the same arguments.

        Parameters
        ----------
        train : plain view, map-style (x, y); `augment` makes the augmented view of each batch (B, C, H, W).
        validation : held-out examples; they alone choose `best`. Without them `best` is `last`.
        seed : names every random number; the global random state is neither used nor changed.
        scores : for a solver that names a file of scores: one row for each of `train` (`Scores.rows`).
        resume : what `Listener.on_checkpoint` was given by a run with the same settings, data and seed. This run
            continues from there, and ends where that run would have, bit for bit (`resolve_speed`).
        progress : whether to show it on stderr; None: in a terminal or a notebook, unless `listener` hears of epochs.

        Raises NonFiniteError when the loss or a gradient is not finite; nothing of that step is applied.
        """
        with preserve_random_state(Stream(seed=seed, purpose=distributed.name_for_process("training"))):
            train, validation = self._check_data(model, train, validation, scores)
            run = Run(
                trainer=self,
                model=model,
                train=train,
                validation=validation,
                seed=seed,
                augment=augment,
                listener=listener or Listener(),
                scores=scores,
            )
            return train_run(run, resume, progress=progress)

    @distributed.fail_together()
    def _check_data(
        self, model: nn.Module, train: MapStyle | Source, validation: MapStyle | Source | None, scores: Rows | None
    ) -> tuple[Source, Source | None]:
        """Return the data on the model's device. Raises ConfigError unless all that is needed is given, and fits."""
        refuse_processes(self)
        if validation is None and self.selector is not None and self.selector.needs_validation:
            raise ConfigError(must("validation", "given for a selection with target: validation", None))
        if validation is None and self.minibatch is not None and self.minibatch.needs_validation:
            raise ConfigError(must("validation", "given for a minibatch rule that follows an accuracy", None))
        if scores is None and self.reads_score_file:
            raise ConfigError(must("scores", "given for a solver that reads them from a file", None))
        source = as_source(train, find_device(model))
        if isinstance(source, Part):  # its batches bring the indices of the whole
            way_out = "pass torch.utils.data.Subset(data set, indices)"
            raise ConfigError(must("train", "a data set, or a source that is not a part of another", "Part", way_out))
        check_fits(model, source)
        self._check_selections(model, source)
        self.check(model, source)
        return source, None if validation is None else as_source(validation, source.device)

    def _check_selections(self, model: nn.Module, source: Source) -> None:
        """Raise ConfigError unless the model has the head that selections will read, and they fit their limits."""
        if self.solver_reads and not self.reads_score_file and GRADIENTS[self.solver_reads].reads_head:
            locate_head(model, source, (self if self.score else self.get_selector()).head)
            refuse_too_large(self.get_selector(), model, find_candidates(source))
