"""Train for one epoch: its batches, the learning rate, the steps, and what its entry says."""

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advcore import distributed
from advcore.attacks.base import Attack
from advcore.attacks.memory import Perturbations
from advcore.cost import CostLedger
from advcore.data.augment import augment_images
from advcore.data.checks import count_logits
from advcore.data.contract import read_batches
from advcore.data.pool import Pooled
from advcore.evaluation.checks import FEW_IMAGES, flag_underflow
from advcore.objectives.base import is_attacked
from advcore.rng import Stream, preserve_random_state
from advcore.runtime.borrow import borrow, find_device
from advcore.runtime.precision import Speed
from advcore.runtime.signals import check, defer_stop
from advcore.runtime.watch import GradientWatch
from advcore.selection.result import Coreset
from advcore.training.average import build_average, find_infinite, update_average
from advcore.training.batches import describe_step, split_into_batches, weigh_examples
from advcore.training.gate import Gate
from advcore.training.headroom import build_meter, name_action, name_headroom, read_sums
from advcore.training.loop_settings import count_ramp_steps, count_steps, refuse_other_images
from advcore.training.lr import bind_factor
from advcore.training.minibatch import build_stepper, refuse_one_image
from advcore.training.optimizers import build_optimizer
from advcore.training.picks import weigh_part
from advcore.training.progress import Entry, Place
from advcore.training.row_catcher import RowCatcher
from advcore.training.step import Batch, Images, Learner
from advcore.types import Event

if TYPE_CHECKING:
    from advcore.training.loop import Run


class EpochTrainer:
    """Trains the model of a run, epoch by epoch: the optimiser, and all else that its steps change.

    parallel : the model with its gradients averaged over several processes; None where there is one.
    gate : what keeps steps out that are not finite, where the device decides so; else None.
    average : of the weights, or None. infinite : which of its tensors hold infinity (`find_infinite`).
    stepper : what the minibatch rule makes of each batch.
    steps_done : planned steps so far, over all epochs (`_measure_pace`). ramp_steps : over how many the ball grows.
    watch : of the first step's attack. meter : of headroom. classes : of the model, for mixed labels; 0 for others.
    lengths : of the planned epochs, in epochs on all data. place, coreset : of the present epoch; None is all data.
    """

    def __init__(
        self, run: "Run", memory: Perturbations | None, speed: Speed, catcher: RowCatcher | None = None
    ) -> None:
        trainer = run.trainer
        self.run = run
        self.memory = memory
        self.catcher = catcher
        self.device = find_device(run.model)
        self.plan = trainer.schedule.plan()
        self.lengths = trainer.schedule.list_lengths()
        self.parallel = distributed.average_gradients_of(speed.lay_out(run.model))
        self.optimizer = build_optimizer(trainer.optimizer, run.model, fused=bool(speed.fused))
        self.lr_factor = bind_factor(trainer.lr_schedule, trainer.optimizer.lr)
        self.gate = Gate(self.device) if speed.deferred else None
        self.average = build_average(run.model, trainer.ema, trainer.swa)
        self.infinite = find_infinite(run.model)
        self.stepper = build_stepper(
            trainer.minibatch,
            run.model,
            run.train,
            attack=trainer.attack,
            batch_size=trainer.batch_size,
            seed=run.seed,
            head=trainer.head,
        )
        self.classes = 0
        if trainer.cutmix is not None:
            self.classes = count_logits(run.model, run.train)
        self.steps_done: float = 0
        self.ramp_steps = count_ramp_steps(trainer, len(run.train))
        self.watch = GradientWatch()
        self.meter = build_meter(run, speed)
        self.place = Place()
        self.coreset: Coreset | None = None

    def train(self, place: Place, coreset: Coreset | None) -> Entry:
        """Train on the batches that are left of an epoch, then write its entry into `place` and return it."""
        self.place = place
        self.coreset = coreset
        n = self.run.train.index_count
        stream = partial(Stream, seed=self.run.seed, epoch=place.epoch)
        streams = [stream(purpose=purpose) for purpose in ("augment", "attack", "minibatch", "cutmix")]
        self._begin_epoch(streams[0], streams[2])
        batches = self._draw_batches(stream(purpose="order"))
        factors = self.stepper.factors
        pace = self._measure_pace(len(batches))
        weights = weigh_examples(coreset, n, self.run.trainer.normalise, self.device, factors=factors)
        left = map(distributed.share_of_batch, batches[place.step :])
        loaded = read_batches(self.run.model, self.run.train, list(left))
        for i in range(place.step, len(batches)):
            with distributed.fail_together():
                examples = next(loaded)
            with defer_stop():
                set_lr = partial(self._set_lr, i, len(batches))
                set_lr(0.0)
                batch = self._build_batch(examples, batches[i], weights, streams)
                batch = replace(batch, set_lr=set_lr)
                self.meter.begin(batch.weights if batch.is_counted else None)
                self._add_loss(*self.stepper.step(self._build_learner(batch.is_counted), batch))
                place.seen += batch.images
                place.step += 1
                self.steps_done += pace
            self.run.listener.on_progress("train", i + 1, len(batches))
            if place.step == len(batches):
                self._look_for_underflow(batch)
            check()
        if not place.rested:
            with defer_stop():
                self._finish_steps()
        if self.gate is not None:
            self.gate.look()
        with self.run.out.ledger.undo_on_error():
            rule_facts = self.stepper.summarize(self._build_learner())
        place.entry = self._describe_epoch(len(batches), rule_facts)
        return place.entry

    def _finish_steps(self) -> None:
        """Take what steps the rule has left, and add the weights to their average if the epoch is averaged."""
        self._add_loss(*self.stepper.finish(self._build_learner()))
        if self.run.trainer.is_averaged(self.place.epoch, len(self.plan)):
            self._add_to_average()
        self.place.rested = True

    def _look_for_underflow(self, batch: Batch) -> None:
        """Say in an event, once in a run, that the gradients of the epoch's last batch underflow in float16."""
        run = self.run
        if not is_attacked(run.trainer.objective) or any(event["kind"] == "underflow" for event in run.out.events):
            return
        with preserve_random_state(), borrow(run.model):
            flags = flag_underflow(run.model, batch.x[:FEW_IMAGES], batch.y[:FEW_IMAGES])
        run.out.add_events(self.place.epoch, *(Event(flag.kind, flag.text) for flag in flags))

    def _draw_batches(self, stream: Stream) -> list[Tensor]:
        """Return the epoch's batches of indices (`split_into_batches`).

        Raises ConfigError for a coreset so small that a step would see one image, if the model cannot train on one.
        """
        trainer = self.run.trainer
        train = self.run.train
        batches = split_into_batches(self.coreset, train, trainer.batch_size, stream, factors=self.stepper.factors)
        smallest = min(min(distributed.share_sizes(len(batch))) for batch in batches)
        refuse_one_image(trainer.minibatch, self.run.model, train, smallest, attack_mode=trainer.attack_mode)
        return batches

    def _begin_epoch(self, view: Stream, stream: Stream) -> None:
        """Prepare rule and memory for the epoch, unless they were before the run was stopped.

        view : random numbers of the augmented view, in which the memory finds its pixels again. stream : of the rule.
        """
        if self.place.begun:
            if self.memory is not None:
                self.memory.look(view)
            return
        n = self.run.train.index_count
        coreset = self.coreset
        if isinstance(self.run.train, Pooled):
            coreset = None  # what is not chosen now may be chosen later
        examples = torch.arange(n) if coreset is None else coreset.indices
        if self.memory is not None:
            with distributed.fail_together():
                refuse_other_images(self.run.train)
            room = n
            if coreset is not None:
                room = max(len(coreset), self.run.trainer.get_selector().count_chosen(n))
            self.memory.begin(examples, view, room)
        self.stepper.begin(self.place.epoch, self.run.out.epochs)
        self.stepper.choose_examples(examples, stream.child("epoch"), len(self.plan))
        self.place.begun = True

    def _build_batch(
        self, examples: tuple[Tensor, Tensor, Tensor], batch: Tensor, weights: Tensor, streams: list[Stream]
    ) -> Batch:
        """Augment this process's `examples` of a batch of indices, and name their weights and random numbers."""
        indices, x, y = examples
        augment, attack, rule = (stream.at(indices) for stream in streams[:3])
        images = Images(augment_images(self.run.augment, x, augment), y, weights[indices])
        cutmix = self.run.trainer.cutmix
        if cutmix is not None:
            images = cutmix.mix(images, streams[3].at(batch), self.classes)
        return Batch(
            indices=indices,
            x=images.x,
            y=images.y,
            weights=images.weights,
            attack_stream=attack,
            rule_stream=rule,
            where=partial(describe_step, self.place.epoch, self.place.step, batch),
            images=len(batch),
            factor=weigh_part(weights[indices], weights, batch, self.run.trainer.normalise),
            is_counted=distributed.counts_here(batch),
        )

    def _add_loss(self, loss: Tensor, images: int) -> None:
        self.place.total = self.place.total + loss * distributed.share_of_count(images)
        self.place.counted += images
        self.place.norms = self.place.norms + self.meter.collect()

    def _describe_epoch(self, steps: int, rule_facts: Entry) -> Entry:
        place = self.place
        epoch = self.plan[place.epoch]
        total, *norms = distributed.sum_numbers([float(place.total), *read_sums(place.norms)])
        entry = {
            "epoch": place.epoch,
            "lr_index": epoch.lr_index,
            "action": name_action(self.run, epoch.action),
            "examples": place.seen,
            "steps": steps,
            "loss": total / place.counted,
            "lr": place.lr,
            **name_headroom(*norms),
        }
        if rule_facts:
            entry["minibatch"] = rule_facts
        if self.run.trainer.attack_steps:
            entry["attack_steps"] = self.run.trainer.attack_steps.count_steps(
                place.epoch, self.run.trainer.schedule.length
            )
        return entry

    def _build_learner(self, is_counted: bool = True) -> Learner:
        """Build what the next step learns with; where it is not counted, another process counts the same passes."""
        trainer = self.run.trainer
        return Learner(
            model=self.run.model,
            objective=trainer.objective,
            attack=self._choose_attack(),
            optimizer=self.optimizer,
            ledger=self.run.out.ledger if is_counted else CostLedger(),
            normalise=trainer.normalise,
            attack_mode=trainer.attack_mode,
            clip_norm=trainer.clip_norm,
            clip_value=trainer.clip_value,
            memory=self.memory,
            parallel=self.parallel,
            gate=self.gate,
            on_update=self._update_average,
            watch=self.watch,
            awp=trainer.awp_at(self.place.epoch),
            regularizer=trainer.regularizer,
            catcher=self.catcher,
            meter=self.meter,
        )

    def _update_average(self) -> None:
        if self.run.trainer.ema is not None:
            self._add_to_average()

    def _add_to_average(self) -> None:
        assert self.average is not None, "there is one where it is updated"
        update_average(self.average, self.run.model, self.infinite)

    def _choose_attack(self) -> Attack | None:
        """Return the attack of the next step, in a smaller ball while the ramp lasts."""
        trainer = self.run.trainer
        attack = trainer.attack_at(self.place.epoch)
        if attack is None:
            return None
        if self.memory is not None:
            attack = attack.with_memory(self.memory)
        if self.steps_done + 1 >= self.ramp_steps:
            return attack
        return attack.scale((self.steps_done + 1) / self.ramp_steps)

    def _measure_pace(self, steps: int) -> float:
        """Return how many planned steps each of an epoch's `steps` counts for: above 1 where a rule leaves some out."""
        if self.stepper.factors is None:
            return 1
        return count_steps(self.run.trainer, self.run.train.index_count)[self.place.epoch] / steps

    def _set_lr(self, step: int, steps: int, share: float) -> None:
        """Set the learning rate where, of an epoch's `steps`, as many as `step` are done, and a share of one more.

        An epoch on a coreset counts as its budget; with the acs schedule every epoch counts as one of the full run.
        """
        share = (step + share) / steps
        i, schedule = self.place.epoch, self.run.trainer.schedule
        lr_index = self.plan[i].lr_index
        if schedule.schedule == "acs":
            progress = (lr_index + share) / schedule.epochs
        else:
            progress = (sum(self.lengths[:i]) + share * self.lengths[i]) / sum(self.lengths)
        lr = self.run.trainer.optimizer.lr * self.lr_factor(progress, lr_index)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)  # of a layer, as timm has it
        self.place.lr = lr
