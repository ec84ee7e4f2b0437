"""The training loop: in each epoch, choose a coreset, train on it, judge the model, and offer a checkpoint."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor, nn

from advcore import distributed
from advcore.attacks.memory import Perturbations, refuse_unmoved
from advcore.data.augment import keep_images
from advcore.data.pool import Pooled, find_candidates, find_goal
from advcore.data.source import Source
from advcore.errors import ConfigError, NonFiniteError, must
from advcore.files.tensors import pack_values
from advcore.rng import Stream
from advcore.rows import Rows
from advcore.runtime.borrow import find_device, note_modes
from advcore.runtime.out_of_memory import explain_out_of_memory
from advcore.runtime.outputs import note_outputs
from advcore.runtime.precision import Speed, find_family
from advcore.runtime.signals import Stopped
from advcore.runtime.states import copy_infinite, copy_state, has_diverged
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.result import Coreset
from advcore.training.display import show_training
from advcore.training.epoch import EpochTrainer
from advcore.training.epoch_scores import EpochScores
from advcore.training.headroom import may_select
from advcore.training.judge import Judge
from advcore.training.loop_settings import agree_on_speed, has_remembered_start
from advcore.training.optimizers import AdamW, suit_speed
from advcore.training.progress import Entry, Listener, Place, Snapshot, State, Trained, ignore
from advcore.training.row_catcher import build_catcher
from advcore.training.snapshot import restore, take_snapshot
from advcore.training.swa import recompute_statistics
from advcore.training.trainable import TrainedParts, preserve_trainable
from advcore.types import Event

if TYPE_CHECKING:
    from advcore.training.trainer import Trainer

__all__ = ["Listener", "Loop", "Place", "Run", "State", "Trained"]


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run is given, which stays the same while it runs, and its results.

    trainer : the settings. train, validation : data, on the model's device. out : the results, filled in by the run.
    model, seed, augment, listener, scores : as in `Trainer.fit`.
    """

    trainer: "Trainer"
    model: nn.Module
    train: Source
    validation: Source | None
    seed: int
    augment: Callable[[Tensor, Stream], Tensor]
    listener: Listener
    scores: Rows | None
    out: Trained = field(default_factory=Trained)


def train_run(run: Run, snapshot: Snapshot | None = None, *, progress: bool | None = None) -> Trained:
    """Train the model of a run, from a snapshot on if there is one, and return the results.

    progress : as in `Trainer.fit`.
    """
    with preserve_trainable(run.model), show_training(run, progress) as listener:
        return Loop(replace(run, listener=listener), snapshot).fit()


class Loop:
    """The epochs of a run, and all that changes while they run.

    catcher : catches gradient rows in training, for selections that read them; else None.
    scores : taken over epochs, for solvers that read such scores; else None. coreset : the last one chosen.
    infinite : parameters that held infinity when the run began, which is not divergence.
    place : how far the run is; where there is a snapshot, as far as that of the run that continues.
    notes : on submodules in eval mode and outputs of the model that hold more than logits, for events.
    """

    def __init__(self, run: Run, snapshot: Snapshot | None = None) -> None:
        self.run = run
        self.device = find_device(run.model)
        self.infinite = copy_infinite(run.model)
        self._refuse_decay()
        if run.listener.on_checkpoint is not ignore:
            pack_values(run.model.state_dict())  # refuses what a checkpoint cannot hold before there is work to lose
        self.judge = Judge(run)
        self.plan = run.trainer.schedule.plan()
        self.memory = build_memory(run)
        self.speed = self._decide_speed(snapshot)
        self.notes = note_modes(run.model)
        self.parts = TrainedParts(run.trainer, run.model, run.train)
        self.parts.begin_epoch(0)
        self.catcher = build_catcher(run)
        self.epoch_trainer = EpochTrainer(run, self.memory, self.speed, self.catcher)
        self.scores = None if run.trainer.score is None else EpochScores(run, run.trainer.score, self.catcher)
        self.coreset: Coreset | None = None
        self.place = Place()
        if snapshot is not None:
            restore(self, snapshot)
            run.listener.on_progress("epochs", self.place.epoch, len(self.plan))

    def _refuse_decay(self) -> None:
        """Raise ConfigError where a penalty on weights would turn infinity in a parameter, such as a mask, to NaN."""
        parameters = self.run.model.named_parameters()
        names = [name for name, value in parameters if value.requires_grad and name in self.infinite]
        optimizer = self.run.trainer.optimizer
        decay = getattr(optimizer, "weight_decay", 0)  # a plug-in's may have none
        if names and decay and not isinstance(optimizer, AdamW):
            way_out = f"it would turn {names[0]} to NaN; or hold the mask in a buffer"
            rule = "0 for a model with infinity in a parameter"
            raise ConfigError(must("optimizer.weight_decay", rule, decay, way_out))

    def _decide_speed(self, snapshot: Snapshot | None) -> Speed:
        """Decide how passes run; an event says so where the model refuses channels-last images."""
        run = self.run
        wanted = suit_speed(run.trainer.speed, run.trainer.optimizer)
        speed = agree_on_speed(wanted, run.model, run.train, snapshot)
        if speed.channels_last != wanted.resolve(self.device, family=find_family(run.model)).channels_last:
            run.out.add_events(
                0, Event("speed", "the model cannot take channels-last images; channels-first ones are used")
            )
        return speed

    # ---- epochs ----

    @property
    def judged_model(self) -> nn.Module:
        """The model that is evaluated and saved: the average where there is one, once something is in it."""
        average = self.epoch_trainer.average
        if average is None or not int(average.n_averaged):  # a number on the CPU
            return self.run.model
        assert isinstance(average.module, nn.Module)
        return average.module

    def fit(self) -> Trained:
        """Run all epochs that are left; where a signal stops them, hand the listener a checkpoint."""
        with self.speed.activate(), note_outputs(self.notes):
            try:
                if self.scores is not None:
                    self.parts.begin_epoch(self.run.trainer.head_epochs)  # the probe trains all that will be trained
                    self.scores.begin()
                while self.place.epoch < len(self.plan):
                    self._run_epoch()
            except Stopped:
                self.run.listener.on_checkpoint(partial(take_snapshot, self))
                raise
            self.run.out.last = copy_state(self.judged_model)
            self.run.out.best = self.run.out.best or self.run.out.last
            return self.run.out

    def _run_epoch(self) -> None:
        """Run the present epoch from where it was stopped, go to the next one, and inform the listener.

        A signal stops it between two steps, or in work that only looks at the model and is then done again.
        """
        out = self.run.out
        listener = self.run.listener
        started = time.perf_counter() - self.place.seconds
        try:
            entry = self._work_on_epoch()
        except Stopped:
            self.place.seconds = time.perf_counter() - started
            raise
        recorded = [event["event"] for event in out.events]
        out.add_events(self.place.epoch, *(Event("model", note) for note in self.notes if note not in recorded))
        distributed.merge_ledgers(out.ledger)
        out.ledger.settle()  # once per epoch, so that no events pile up
        # The first process's ledger holds all counts: the others' were merged into it.
        (entry["units"],) = distributed.sum_numbers([out.ledger.sum_units()])
        flops = distributed.run_on_first(out.ledger.sum_flops)
        if flops is not None:
            entry["flops"] = flops
        entry["seconds"] = round(time.perf_counter() - started, 3)
        out.epochs.append(entry)
        done = self.place.epoch + 1
        self.place = Place(epoch=done)
        listener.on_epoch(entry, out)
        listener.on_model(self.run.model)
        if done % listener.period == 0 or done == len(self.plan):
            listener.on_checkpoint(partial(take_snapshot, self))

    def _work_on_epoch(self) -> Entry:
        """Do what is left of the epoch, and return its entry: choose its coreset, train, take scores, and judge."""
        run = self.run
        place = self.place
        ledger = run.out.ledger
        action = self.plan[place.epoch].action
        self.parts.begin_epoch(place.epoch)
        if self.catcher is not None:
            self.catcher.epoch = place.epoch
        if not place.begun:
            with ledger.undo_on_error():
                self._choose_coreset(action)
        entry = place.entry
        coreset = self.coreset
        if action == "full":
            coreset = None
        if entry is None:
            doing = f"in a training step of {run.trainer.batch_size} images with {type(run.model).__name__}"
            with explain_out_of_memory(doing, "lower training.batch_size, or use a smaller model"):
                entry = self.epoch_trainer.train(place, coreset)
        with distributed.fail_together():
            if has_diverged(self.judged_model, self.infinite):
                raise NonFiniteError(
                    f"the weights are NaN or infinite after epoch {place.epoch}; the epoch was not saved"
                )
        if self.scores is not None and action == "full" and not place.scored:
            with ledger.undo_on_error():
                self.scores.add(place.epoch)
            place.scored = True
        if self.catcher is not None and "rows" not in entry:
            with ledger.undo_on_error():
                entry["rows"] = self.catcher.end_epoch(self._prepare_selector(), coreset)
        with ledger.undo_on_error():
            if run.trainer.is_averaged(place.epoch, len(self.plan)):
                recompute_statistics(run, self.judged_model, coreset, place.epoch)
            self.judge.judge(self.judged_model, entry, self.device)
        return entry

    # ---- coresets ----

    def _choose_coreset(self, action: str) -> None:
        """Set the coreset that this epoch trains on: a new one, a random one, or the present one."""
        run = self.run
        if action in ("full", "reuse"):
            return
        selector = self._prepare_selector()
        if action == "select" and may_select(run):
            self._select(selector)
        elif action == "select" or self.coreset is None:
            self.coreset = selector.stand_in.select(run.model, run.train, seed=run.seed, epoch=self.place.epoch)

    def _prepare_selector(self) -> AdversarialCoreset:
        """Return the selector, with the memory that its attack starts from; that is then read in the plain view.

        Attacks of a pool start without, as most of its images have no perturbation to remember yet.
        """
        selector = self.run.trainer.get_selector()
        if self.memory is None:
            return selector
        self.memory.look(None)
        is_pooled = isinstance(self.run.train, Pooled)
        if is_pooled or selector.attack is None or not has_remembered_start(selector.attack):
            return selector
        return replace(selector, attack=selector.attack.with_memory(self.memory))

    def _find_rows(self) -> Rows | None:
        """Return rows that need not be measured for a selection: scores, or what was caught in training."""
        if self.scores is not None:
            return self.scores.collected.rows
        if self.catcher is not None:
            return self.catcher.build_rows()
        return self.run.scores

    def _select(self, selector: AdversarialCoreset) -> None:
        run = self.run
        coresets = run.out.coresets
        coreset = selector.select(
            run.model,
            find_candidates(run.train),
            seed=run.seed,
            epoch=self.place.epoch,
            rows=self._find_rows(),
            validation=find_goal(run.train, run.validation, selector.target),
            previous=coresets[-1] if coresets else None,
            ledger=run.out.ledger,
            on_chunk=partial(run.listener.on_progress, "select"),
        )
        if self.catcher is not None:
            coreset = self.catcher.add_ages(coreset)
        self.coreset = coreset
        coresets.append(coreset)
        run.out.add_events(self.place.epoch, *coreset.events)
        run.listener.on_coreset(coreset)


def build_memory(run: Run) -> Perturbations | None:
    """Build what the training attack's perturbations are remembered in; None for an attack that forgets them.

    An event says so where they do not fit in the memory of the images' device.
    """
    trainer = run.trainer
    train = run.train
    if not trainer.remembers:
        return None
    refuse_unmoved(run.augment, train.shape, Stream(seed=run.seed, purpose="augment"))
    place = trainer.memory.settle(trainer.estimate_memory(train.index_count, train.shape), train.device)
    if place.type != train.device.type and trainer.memory.place == "auto":
        text = "perturbations are remembered in the host's memory: more than half of the device's would be needed"
        run.out.add_events(0, Event("memory", text))
    augment = None if run.augment is keep_images else run.augment
    kind: type[Perturbations] = getattr(trainer.attack, "storage", Perturbations)
    return kind(trainer.memory, train.index_count, train.shape, train.device, augment, place)
