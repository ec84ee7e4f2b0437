"""The training loop: in each epoch, choose a coreset, train on it, judge the model, and offer a checkpoint."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advcore import distributed
from advcore.attacks.memory import Perturbations, refuse_unmoved
from advcore.data.augment import none
from advcore.data.contract import first_images
from advcore.data.source import Source
from advcore.errors import NonFiniteError
from advcore.rng import Stream
from advcore.rows import Rows
from advcore.runtime.borrow import find_device
from advcore.runtime.out_of_memory import explain_out_of_memory
from advcore.runtime.precision import Speed, find_family
from advcore.runtime.signals import Stopped
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.result import Coreset
from advcore.selection.schedule import Epoch
from advcore.training.epoch import EpochTrainer
from advcore.training.epoch_scores import build_collector, score_examples, score_probe
from advcore.training.judge import Judge, copy_weights
from advcore.training.loop_settings import has_remembered_start
from advcore.training.progress import Entry, Listener, Place, Snapshot, State, Trained
from advcore.training.snapshot import take_snapshot

if TYPE_CHECKING:
    from advcore.training.trainer import Trainer

__all__ = ["Listener", "Loop", "Place", "Run", "State", "Trained", "decide_speed_for_all"]


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


class Loop:
    """The epochs of a run, and all that changes while they run.

    scores : collected over epochs, for solvers that read such scores; else None. coreset : the last one chosen.
    place : how far the run is.
    """

    def __init__(self, run: Run):
        self.run = run
        self.device = find_device(run.model)
        self.judge = Judge(run)
        self.plan = run.trainer.schedule.plan()
        self.memory = self._build_memory()
        self.speed = self._decide_speed()
        self.epoch_trainer = EpochTrainer(run, self.memory, self.speed)
        self.scores = build_collector(run.trainer) if run.trainer.takes_scores else None
        self.coreset: Coreset | None = None
        self.place = Place()

    # ---- what is built once ----

    def _build_memory(self) -> Perturbations | None:
        """Build what the training attack's perturbations are remembered in; None for an attack that forgets them.

        An event says so where they do not fit in the memory of the images' device.
        """
        trainer = self.run.trainer
        if not trainer.remembers:
            return None
        n = len(self.run.train)
        channels, height, width = self.run.train.shape
        shape = (channels, height, width)
        device = self.run.train.device
        refuse_unmoved(self.run.augment, shape, Stream(seed=self.run.seed, purpose="augment"))
        place = trainer.memory.settle(trainer.memory_bytes(n, shape), device)
        if place.type != device.type and trainer.memory.place == "auto":
            reason = "more than half of the device's would be needed"
            self.run.out.add_event(0, f"perturbations are remembered in the host's memory: {reason}")
        augment = None if self.run.augment is none else self.run.augment
        return Perturbations(trainer.memory, n, shape, device, augment, place)

    def _decide_speed(self) -> Speed:
        """Decide how passes run, as the first process does; an event says so where the model refuses channels last."""
        wanted = self.run.trainer.speed

        def decide() -> Speed:
            return wanted.resolve_for(self.run.model, first_images(self.run.model, self.run.train), distributed.size())

        speed = decide_speed_for_all(decide)
        if speed.channels_last != wanted.resolve(self.device, family=find_family(self.run.model)).channels_last:
            self.run.out.add_event(0, "the model cannot take images that lie channels last; they lie channels first")
        return speed

    # ---- epochs ----

    @property
    def epoch(self) -> Epoch:
        """The planned epoch that runs, or runs next."""
        return self.plan[self.place.epoch]

    @property
    def judged_model(self) -> nn.Module:
        """The model that is evaluated and saved: the moving average where there is one."""
        average = self.epoch_trainer.average
        return self.run.model if average is None else average.module

    def fit(self) -> Trained:
        """Run all epochs that are left; where a signal stops them, hand the listener a checkpoint."""
        with self.speed.activate():
            try:
                if self.run.trainer.probe_epochs:
                    assert self.scores is not None, "a probe is trained where scores are taken"
                    if not self.scores.epochs:
                        self.scores = score_probe(self.run)
                while self.place.epoch < len(self.plan):
                    self._run_epoch()
            except Stopped:
                self.run.listener.on_checkpoint(self.state)
                raise
            self.run.out.last = copy_weights(self.judged_model)
            self.run.out.best = self.run.out.best or self.run.out.last
            return self.run.out

    def state(self) -> Snapshot:
        """Return a copy of all that the rest of the run depends on (`take_snapshot`)."""
        return take_snapshot(self)

    def _run_epoch(self) -> None:
        """Run the present epoch from where it was stopped, then report it.

        A signal stops it between two steps, or in work that only looks at the model and is then done anew.
        """
        place = self.place
        started = time.perf_counter() - place.seconds
        try:
            self._work_on_epoch()
        except Stopped:
            place.seconds = time.perf_counter() - started
            raise
        distributed.merge_ledgers(self.run.out.ledger)
        self.run.out.ledger.settle()  # once per epoch, so that no events pile up
        entry = place.entry
        assert entry is not None, "training wrote it"
        # The first process's ledger holds all counts: the others' were merged into it.
        (entry["units"],) = distributed.sum_numbers([self.run.out.ledger.sum_units()])
        entry["seconds"] = round(time.perf_counter() - started, 3)
        self.run.out.epochs.append(entry)
        self._report_epoch(entry)

    def _work_on_epoch(self) -> None:
        """Do what is left of the epoch: choose its coreset, train, take scores, and judge the model."""
        place = self.place
        ledger = self.run.out.ledger
        if not place.begun:
            with ledger.undo_on_error():
                self._choose_coreset()
        if place.entry is None:
            doing = f"in a training step of {self.run.trainer.batch_size} images with {type(self.run.model).__name__}"
            with explain_out_of_memory(doing, "lower training.batch_size, or use a smaller model"):
                self.epoch_trainer.train(place, None if self.epoch.action == "full" else self.coreset)
        if not all(bool(torch.isfinite(value).all()) for value in self.judged_model.state_dict().values()):
            raise NonFiniteError(f"the weights are NaN or infinite after epoch {place.epoch}; nothing of it was saved")
        if self.epoch.action == "full" and self.run.trainer.takes_scores and not place.scored:
            assert self.scores is not None, "this run takes scores"
            with ledger.undo_on_error():
                self.scores.add(score_examples(self.run, place.epoch, self.run.model, ledger))
            place.scored = True
        assert place.entry is not None, "training wrote it"
        with ledger.undo_on_error():
            self.judge.judge(self.judged_model, place.entry, self.device)

    def _report_epoch(self, entry: Entry) -> None:
        """Go to the next epoch, and tell the listener of this one."""
        done = self.place.epoch + 1
        self.place = Place(epoch=done)
        self.run.listener.on_epoch(entry, self.run.out)
        self.run.listener.on_model(self.run.model)
        if done % self.run.listener.period == 0 or done == len(self.plan):
            self.run.listener.on_checkpoint(self.state)

    # ---- coresets ----

    def _choose_coreset(self) -> None:
        """Set the coreset that this epoch trains on: a new one, a random one, or the present one."""
        action = self.epoch.action
        if action in ("full", "reuse"):
            return
        selector = self.run.trainer.selector
        assert selector is not None, "a schedule with a budget below 1 has a selector"
        if self.memory is not None:
            self.memory.look(None)
            if selector.attack is not None and has_remembered_start(selector.attack):
                selector = replace(selector, attack=selector.attack.recalling(self.memory))
        if action == "select":
            self._select(selector)
        elif self.coreset is None:
            self.coreset = selector.stand_in.select(
                self.run.model, self.run.train, seed=self.run.seed, epoch=self.place.epoch
            )

    def _select(self, selector: AdversarialCoreset) -> None:
        coresets = self.run.out.coresets
        rows = self.run.scores
        if self.scores is not None:
            rows = self.scores.rows
        self.coreset = selector.select(
            self.run.model,
            self.run.train,
            seed=self.run.seed,
            epoch=self.place.epoch,
            rows=rows,
            validation=self.run.validation,
            previous=coresets[-1] if coresets else None,
            ledger=self.run.out.ledger,
            on_chunk=partial(self.run.listener.on_progress, "select"),
        )
        coresets.append(self.coreset)
        for event in self.coreset.events:
            self.run.out.add_event(self.place.epoch, event)
        self.run.listener.on_coreset(self.coreset)


def decide_speed_for_all(decide: Callable[[], Speed]) -> Speed:
    """Let the first process decide how passes run, for all."""
    return Speed(**distributed.run_on_first(lambda: asdict(decide())))
