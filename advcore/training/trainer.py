"""How a run trains: settings, and what is wrong with them."""

import itertools
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from advcore import distributed
from advcore.adversary import mismatch
from advcore.attacks.memory import Memory
from advcore.borrow import device_of
from advcore.data.augment import none
from advcore.data.source import Source, chunked
from advcore.errors import (
    CheckpointError,
    ConfigError,
    UserError,
    at_least,
    in_a_line,
    must,
    one_of,
    positive,
    require,
    within,
)
from advcore.gradients import GRADIENTS
from advcore.minibatch import RULES
from advcore.minibatch.base import UpdateSubset
from advcore.objectives.base import attacked
from advcore.rng import Stream, preserved
from advcore.rows import Rows
from advcore.selection.coreset import ATTACK_MODES, AdversarialCoreset
from advcore.selection.schedule import Schedule
from advcore.solvers.base import scores_file
from advcore.speed import Speed
from advcore.training.attack_steps import steps_problem
from advcore.training.loop import Listener, Loop, Trained
from advcore.training.lr import OneCycle
from advcore.training.minibatch import refuse_one_image, rule_problem
from advcore.types import NORMALISE, name_in, settings


@settings
class LoopSettings:
    """How the loop trains, whatever its objective, attack and schedule.

    Parameters
    ----------
    batch_size : examples a step, of all processes together; at least 2.
    normalise : of a coreset's weights: "coreset", to mean 1 over the coreset; "none", as solved, w K / N; "batch", to
        mean 1 in each batch, as published; "equal", dropped for 1 each.
    attack_mode : "eval", or "train" as some published codes attack.
    eps_ramp : epochs over which the training attack's ball grows to its size, >= 0.
    clip_norm : largest gradient norm, above 0; None does not clip.
    clip_value : largest size of a gradient's entry, above 0, as PAT clips; None does not clip.
    ema : decay of a moving average of the weights, in [0, 1), which is then what is evaluated and saved; None for none.
    probe_examples : validation examples, stratified, at least 1, attacked after each epoch to choose `best`.
    memory : how perturbations are remembered, for an attack with `start: remembered`.
    speed : precision and layout of the model's passes, and the like.
    """

    batch_size: int = 128
    normalise: str = "coreset"
    attack_mode: str = "eval"
    eps_ramp: float = 0
    clip_norm: float | None = None
    clip_value: float | None = None
    ema: float | None = None
    probe_examples: int = 1000
    memory: Memory = Memory()
    speed: Speed = Speed()

    def __post_init__(self):
        require(
            at_least("batch_size", self.batch_size, 2, "BatchNorm cannot learn from one example"),
            one_of("normalise", self.normalise, NORMALISE),
            one_of("attack_mode", self.attack_mode, ATTACK_MODES),
            within("eps_ramp", self.eps_ramp, 0, 10_000),
            None if self.clip_norm is None else positive("clip_norm", self.clip_norm),
            None if self.clip_value is None else positive("clip_value", self.clip_value),
            None if self.ema is None else within("ema", self.ema, 0, 0.999999),
            at_least("probe_examples", self.probe_examples, 1),
            *self._more_problems(),
        )

    def _more_problems(self) -> list[str | None]:
        """What a subclass's own settings may have wrong."""
        return []


@settings
class Trainer(LoopSettings):
    """Weighted adversarial training on all data, then on coresets.

    Parameters
    ----------
    objective : `Standard()`, `Pgd()` or `Trades()`.
    attack : of the training; None for an objective that is not attacked.
    schedule : which epochs run, and on what.
    selector : chooses the coresets; None trains on all data.
    optimizer, lr_schedule : settings of `advcore.training`.
    probe_epochs : for solvers that take scores over epochs: epochs of ordinary training of a copy that are scored
        first; at least 1 where there is no warm start.
    minibatch : a rule of `advcore.minibatch`: which examples of a batch are attacked, or which images are learned from;
        None: all.
    head : name of the last linear layer, for a rule that reads features; None finds it.
    attack_steps : the attack's steps in each epoch, of `advcore.training.attack_steps`; None: always its own.
    batch_size, normalise, attack_mode, eps_ramp, clip_norm, clip_value, ema, probe_examples, memory, speed : see
        `LoopSettings`.
    """

    objective: Any
    optimizer: Any
    schedule: Schedule
    attack: Any = None
    minibatch: Any = None
    head: str | None = None
    selector: AdversarialCoreset | None = None
    lr_schedule: Any = OneCycle()
    attack_steps: Any = None
    probe_epochs: int = 0

    def _more_problems(self) -> list[str | None]:
        coreset = self.schedule.budget < 1
        start = self.schedule.warm_epochs or self.probe_epochs
        return [
            mismatch(self.objective, self.attack),
            rule_problem(self.minibatch, self.objective, len(self.schedule.plan()), self.normalise),
            at_least("probe_epochs", self.probe_epochs, 0),
            must("selector", "set for a schedule with a budget below 1", None)
            if coreset and not self.selector
            else None,
            must(
                "probe_epochs", "at least 1 without a warm start", 0, f"{self.solver_reads} scores need a training run"
            )
            if self.scored and not start
            else None,
            must("probe_epochs", "0 for a solver that takes no scores in this run", self.probe_epochs, "leave it out")
            if self.probe_epochs and not self.scored
            else None,
            *self._disagreements(),
            must(
                "attack.start", "uniform, or another that needs no memory, without the training attack's", "remembered"
            )
            if self.selector and _remembers(self.selector.attack) and not self.remembers
            else None,
            steps_problem(self.attack_steps, self.attack),
            memory_problem(self.memory, self.attack),
        ]

    def _disagreements(self) -> list[str | None]:
        """Where the selector's idea of the run is not the trainer's own."""
        if self.selector is None:
            return []
        own = {"budget": self.schedule.budget, "normalise": self.normalise, "attack_mode": self.attack_mode}
        if self.selector.partition == "per_batch":
            own["block_size"] = self.batch_size
        theirs = {name: getattr(self.selector, name) for name in own}
        way_out = "give selector and trainer the same"
        return [
            must(f"selector.{name}", repr(own[name]), theirs[name], way_out)
            for name in own
            if theirs[name] != own[name]
        ]

    @property
    def remembers(self) -> bool:
        """Whether the training attack starts where it ended before."""
        return _remembers(self.attack)

    def attack_at(self, i: int) -> Any:
        """The attack of the i-th epoch that runs, from 0."""
        if self.attack_steps is None:
            return self.attack
        return self.attack.changed(steps=self.attack_steps.at(i, self.schedule.length))

    @property
    def weakest(self) -> Any:
        """The attack of the epoch that has the fewest steps."""
        if self.attack_steps is None:
            return self.attack
        length = self.schedule.length
        return self.attack.changed(steps=min(self.attack_steps.at(i, length) for i in range(length)))

    @property
    def few_steps(self) -> bool:
        """Whether an epoch's attack has too few steps to judge the model."""
        return attacked(self.objective) and getattr(self.weakest, "few_steps", False)

    @property
    def probe(self) -> Any:
        """The attack that judges every epoch; of many steps where the training attack has few in any of them."""
        return self.attack and (self.weakest if self.few_steps else self.attack).probe()

    def examples(self, action: str, n: int) -> int:
        """How many of n training examples an epoch of the schedule's plan trains on."""
        if action == "full":
            return n
        return (self.selector.stand_in if action == "random" else self.selector).size(n)

    def memory_bytes(self, n: int, shape: tuple[int, int, int]) -> int:
        """What remembering takes, of n training images of `shape`: the most that two epochs in a row keep, while the
        one's moves to the other's; 0 without memory."""
        if not self.remembers:
            return 0
        sizes = [self.examples(epoch.action, n) for epoch in self.schedule.plan()]
        return self.memory.nbytes(max(a if a == b else a + b for a, b in itertools.pairwise([0, *sizes])), shape)

    @property
    def solver_reads(self) -> str | None:
        """The kind of row that the selector's solver reads; None without a selection."""
        return self.selector.solver.reads if self.selector and self.schedule.budget < 1 else None

    @property
    def scored(self) -> bool:
        """Whether selections read scores that this run takes over its epochs."""
        return self.solver_reads is not None and GRADIENTS[self.solver_reads].averaged and not self.given

    @property
    def given(self) -> bool:
        """Whether selections read scores from a file."""
        return self.solver_reads is not None and scores_file(self.selector.solver) is not None

    def check(self, model: nn.Module, train: Source) -> None:
        """Raise ConfigError if the minibatch rule leaves less of a batch than the model can learn from, or if
        the data give other images each time, which leaves nothing to remember."""
        if self.remembers:
            refuse_other_images(train)
        if self.minibatch is not None:
            wanted = {len(train), self.selector.size(len(train)) if self.selector else len(train)}
            sizes = [len(batch) for n in wanted for batch in chunked(torch.arange(n), self.batch_size)]
            shares = [share for size in set(sizes) for share in distributed.share_sizes(size)]
            refuse_one_image(self.minibatch, model, train, min(shares))

    def fit(
        self,
        model: nn.Module,
        train: Dataset | Source,
        validation: Dataset | Source | None = None,
        *,
        seed: int = 0,
        augment: Callable[[Tensor, Stream], Tensor] = none,
        listener: Listener | None = None,
        scores: Rows | None = None,
        resume: dict[str, Any] | None = None,
    ) -> Trained:
        """Train `model` in place.

        Parameters
        ----------
        train : plain view, map-style (x, y); `augment` makes the augmented view of each batch (B, C, H, W).
        validation : held-out examples; they alone choose `best`. Without them `best` is `last`.
        seed : names every random number; the global random state is neither used nor changed.
        scores : for a solver that names a file of scores: one row for each of `train` (`Scores.rows`).
        resume : what `Listener.on_checkpoint` was given by a run with the same settings, data and seed; it goes on from
            there, and ends where that run would have, bit for bit. Settings of `speed` that are left out are that
            run's.

        Several processes (torch.distributed) share each batch: a step is on the whole batch's loss, BatchNorm sees each
        part alone, and its statistics are averaged. All must call this with the same arguments.

        Raises NonFiniteError when the loss or a gradient is; nothing of that step is applied.
        """
        refuse_processes(self)
        if self.selector is not None and self.selector.needs_validation and validation is None:
            raise ConfigError(must("validation", "given for a selection with target: validation", None))
        if self.minibatch is not None and self.minibatch.needs_validation and validation is None:
            raise ConfigError(must("validation", "given for a minibatch rule that follows an accuracy", None))
        if self.given and scores is None:
            raise ConfigError(must("scores", "given for a solver that reads them from a file", None))
        others = f", process {distributed.rank()}" if distributed.rank() else ""  # else all drop out alike
        with preserved(Stream(seed=seed, purpose="training" + others)):
            settings = self if resume is None else replace(self, speed=recorded_speed(self.speed, resume, model))
            loop = Loop(settings, model, train, validation, seed, augment, listener or Listener(), scores)
            if resume is not None:
                _restore(loop, resume)
            return loop.run()


def recorded_speed(speed: Speed, state: dict[str, Any], model: nn.Module) -> Speed:
    """Fill what `speed` leaves out with what the run of `state` took. Raises CheckpointError for what is no state."""
    try:
        return speed.as_recorded(state.get("speed"), device_of(model))
    except (LookupError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(must("resume", "a state of this run", in_a_line(error))) from error


def _restore(loop: Loop, state: dict[str, Any]) -> None:
    """Raises CheckpointError for what is no state of such a run."""
    try:
        loop.restore(state)
    except UserError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise CheckpointError(
            f"resume must be a state of this run, got one that fails with {in_a_line(error)}"
        ) from error


def refuse_processes(trainer: Trainer) -> None:
    """Raise ConfigError for what several processes cannot do together."""
    count = distributed.size()
    if count == 1:
        return
    least, alone = distributed.LEAST * count, "it learns from whole batches; use one process"
    require(
        must(
            "minibatch",
            f"a rule of what to attack with {count} processes",
            name_in(RULES, trainer.minibatch),
            alone,
        )
        if isinstance(trainer.minibatch, UpdateSubset)
        else None,
        must("speed.deferred", f"null or false with {count} processes", True, "one might step while another does not")
        if trainer.speed.deferred
        else None,
        at_least(
            "training.batch_size", trainer.batch_size, least, f"{count} processes take {distributed.LEAST} or more each"
        ),
    )


def _remembers(attack: Any) -> bool:
    return getattr(attack, "remembers", False)


def memory_problem(memory: Memory, attack: Any) -> str | None:
    """Why these settings of a memory are not used; None if they are, or are the defaults."""
    if memory == Memory() or _remembers(attack):
        return None
    return must("memory", "left out where nothing is remembered", asdict(memory), "set attack.start to remembered")


def refuse_other_images(train: Source) -> None:
    """Raise ConfigError if the data give other images when they are asked again: nothing can be remembered of them."""
    some = torch.arange(len(train))[:: max(1, len(train) // 16)][:16]
    (_, first, _), (_, again, _) = (next(iter(train.batches([some]))) for _ in range(2))
    other = (first != again).flatten(1).any(1).nonzero()[:, 0].tolist()
    if other:
        got = f"{len(other)} of {len(some)} that change from one reading to the next (example {int(some[other[0]])})"
        way_out = "pass `augment` to the trainer instead of augmenting inside the data set, or use start: uniform"
        raise ConfigError(
            f"attack.start: remembered needs data that give an index the same image each time, got {got}; {way_out}"
        )
