"""The loop: epochs, selections, schedule, checkpoints, cost."""

import copy
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from advcore.attacks.memory import Memory, Perturbations, refuse_unmoved
from advcore.borrow import device_of
from advcore.cost import CostLedger, peak_memory
from advcore.data.augment import none
from advcore.data.base import thinned
from advcore.data.source import as_source, batches_for, chunked
from advcore.evaluation.evaluate import evaluate
from advcore.gradients import GRADIENTS
from advcore.objectives.standard import Standard
from advcore.rng import Stream
from advcore.selection.schedule import Epoch, Schedule
from advcore.solvers.uniform import Random
from advcore.training.minibatch import Batch, follow
from advcore.training.step import Learner
from advcore.types import Coreset

State = dict[str, Tensor]
COLLAPSE = 0.20
"""Fall of probe robust accuracy between epochs that is catastrophic overfitting."""

log = logging.getLogger(__name__)


@dataclass
class Trained:
    """What a run leaves: states on the CPU, one dict an epoch, every coreset, what fell back, and the cost."""

    last: State = field(default_factory=dict)
    best: State = field(default_factory=dict)
    best_epoch: int | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)
    coresets: list[Coreset] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    ledger: CostLedger = field(default_factory=CostLedger)


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who is told what, as it happens; does nothing by default.

    on_epoch : the epoch's dict, and all there is so far. on_progress : phase, done, total. on_coreset : each selection.
    on_state : "last" after each epoch, "best" when it improves, and "before_collapse", the epoch before a catastrophic
        overfitting; with the state and its epoch's dict.
    on_model : the model after each epoch.
    """

    on_epoch: Callable[[dict, Trained], None] = lambda entry, so_far: None
    on_progress: Callable[[str, int, int], None] = lambda phase, done, total: None
    on_coreset: Callable[[Coreset], None] = lambda coreset: None
    on_state: Callable[[str, State, dict], None] = lambda name, state, entry: None
    on_model: Callable[[nn.Module], None] = lambda model: None


class Loop:
    """One call of `Trainer.fit`: what changes while it goes on. `settings` is the trainer."""

    def __init__(self, settings: Any, model, train, validation, seed, augment, listener: Listener, scores):
        self.settings, self.model, self.seed, self.augment, self.listener = settings, model, seed, augment, listener
        self.device = device_of(model)
        self.train = as_source(train, self.device)
        settings.check(model, self.train)
        self.out = Trained()
        self.validation = None if validation is None else as_source(validation, self.device)
        if self.validation is not None:
            size = min(settings.probe_examples, len(self.validation))
            self.probed = thinned(self.validation.labels(), size, seed, "probe")
        elif settings.few_steps:
            told = "few attack steps and no validation examples: nothing watches for catastrophic overfitting"
            self.out.events.append({"epoch": 0, "event": f"{told}; hold some examples out"})
        self.plan = settings.schedule.plan()
        self.lengths = [1.0 if epoch.action == "full" else settings.schedule.budget for epoch in self.plan]
        self.memory = self._remembered()
        self.optimizer = settings.optimizer.build(model)
        decay = settings.ema
        self.average = (
            None if decay is None else AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
        )
        self.rule = follow(
            settings.minibatch,
            model,
            self.train,
            attack=settings.attack,
            batch_size=settings.batch_size,
            seed=seed,
            head=settings.head,
        )
        self.given = scores
        self.scores = GRADIENTS[settings.solver_reads].collect() if settings.scored else None
        self.coreset: Coreset | None = None
        self.steps_done = 0
        self.best_score = -math.inf
        self.previous: tuple[State, dict, dict] | None = None  # the epoch before: state, entry, robust accuracy

    def _remembered(self) -> Perturbations | None:
        """What the training attack will start from, if it does; an event where it is not on the images' device."""
        settings, shape = self.settings, self.train.shape
        if not settings.remembers:
            return None
        refuse_unmoved(self.augment, shape, Stream(seed=self.seed, purpose="augment"))
        place = settings.memory.settle(settings.memory_bytes(len(self.train), shape), self.train.device)
        if place.type != self.train.device.type and settings.memory.place == "auto":
            told = "perturbations are remembered in the host's memory: more than half of the device's would be needed"
            self.out.events.append({"epoch": 0, "event": told})
        augment = None if self.augment is none else self.augment
        return Perturbations(settings.memory, len(self.train), shape, self.train.device, augment, place)

    def run(self) -> Trained:
        if self.settings.probe_epochs:
            self._probe_scores()
        for i, epoch in enumerate(self.plan):
            started = time.perf_counter()
            self._choose(i, epoch)
            entry = self._one_epoch(i, epoch)
            if epoch.action == "full" and self.settings.scored:
                self.scores.add(self._score(self.model, self.out.ledger))
            self._judge(entry)
            entry["seconds"] = round(time.perf_counter() - started, 3)
            self.out.epochs.append(entry)
            self.listener.on_epoch(entry, self.out)
            self.listener.on_model(self.model)
        self.out.last = _copy(self._judged())
        self.out.best = self.out.best or self.out.last
        return self.out

    def _score(self, model: nn.Module, ledger: CostLedger) -> Tensor:
        """(N,) the scores of one epoch."""
        settings = self.settings
        gradient = GRADIENTS[settings.solver_reads]
        return gradient.measure(
            model,
            self.train,
            objective=settings.objective,
            attack=settings.selector.attack,
            stream=Stream(seed=self.seed, purpose="scoring"),
            ledger=ledger,
            head=settings.head,
            chunk_size=settings.selector.chunk_size,
        ).rows.matrix[:, 0]

    def _probe_scores(self) -> None:
        """Ordinary training of a copy, scored after each epoch."""
        ledger = CostLedger()
        probe = replace(
            self.settings,
            objective=Standard(),
            attack=None,
            attack_steps=None,
            memory=Memory(),
            minibatch=None,
            selector=None,
            schedule=Schedule(epochs=self.settings.probe_epochs),
            probe_epochs=0,
            ema=None,
        )
        watch = Listener(on_model=lambda model: self.scores.add(self._score(model, ledger)))
        trained = probe.fit(copy.deepcopy(self.model), self.train, seed=self.seed, augment=self.augment, listener=watch)
        ledger.add(trained.ledger)
        self.out.ledger.add(ledger, under="scoring")

    def _choose(self, i: int, epoch: Epoch) -> None:
        """Set the coreset this epoch trains on; None for all data."""
        if epoch.action in ("full", "reuse"):
            return
        selector = self.settings.selector
        if self.memory is not None:
            self.memory.look(None)
            if getattr(selector.attack, "remembers", False):
                selector = replace(selector, attack=selector.attack.recalling(self.memory))
        if epoch.action == "random":
            if self.coreset is None:
                stand_in = replace(selector, solver=Random(), partition="whole", target="train")
                self.coreset = stand_in.select(self.model, self.train, seed=self.seed, epoch=i)
            return
        self.coreset = selector.select(
            self.model,
            self.train,
            seed=self.seed,
            epoch=i,
            rows=self.scores.rows if self.settings.scored else self.given,
            validation=self.validation,
            previous=self.out.coresets[-1] if self.out.coresets else None,
            ledger=self.out.ledger,
            on_chunk=lambda done, total: self.listener.on_progress("select", done, total),
        )
        self.out.coresets.append(self.coreset)
        self.out.events.extend({"epoch": i, "event": event} for event in self.coreset.events)
        self.listener.on_coreset(self.coreset)

    def _one_epoch(self, i: int, epoch: Epoch) -> dict[str, Any]:
        settings = self.settings
        batches = self._batches(i, epoch)
        weights = torch.ones(len(self.train), device=self.device)
        if epoch.action != "full":
            chosen = self.coreset.training_weights(self.settings.normalise).to(self.device)
            weights[self.coreset.indices.to(self.device)] = chosen
        streams = [Stream(seed=self.seed, purpose=name, epoch=i) for name in ("augment", "attack", "minibatch")]
        if self.memory is not None:
            everything = epoch.action == "full"
            kept = torch.arange(len(weights)) if everything else self.coreset.indices
            room = len(weights) if everything else max(len(kept), settings.selector.size(len(weights)))
            self.memory.begin(kept, streams[0], room)
        total, seen, counted, lr = torch.zeros((), device=self.device), 0, 0, 0.0
        self.rule.begin(i, self.out.epochs)
        for j, (indices, x, y) in enumerate(batches_for(self.model, self.train, batches)):
            lr = self._set_lr(i, epoch, j / len(batches))
            augment, attack, rule = (stream.at(indices) for stream in streams)
            where = lambda j=j, indices=indices: f"epoch {i}, step {j}, examples {indices[:8].tolist()}..."  # noqa: E731
            batch = Batch(indices, self.augment(x, augment), y, weights[indices], attack, rule, where)
            loss, images = self.rule.step(self._learner(i), batch)
            total += loss * images
            counted += images
            seen += len(y)
            self.steps_done += 1
            self.listener.on_progress("train", j + 1, len(batches))
        loss, images = self.rule.rest(self._learner(i))
        total, counted = total + loss * images, counted + images
        told = self.rule.end(self._learner(i))
        return {
            "epoch": i,
            "lr_index": epoch.lr_index,
            "action": epoch.action,
            "examples": seen,
            "steps": len(batches),
            "loss": float(total) / counted,
            "lr": lr,
            **({"minibatch": told} if told else {}),
            **({"attack_steps": self.settings.attack_at(i).steps} if self.settings.attack_steps else {}),
        }

    def _learner(self, i: int) -> Learner:
        """Of the i-th epoch."""
        settings = self.settings
        return Learner(
            model=self.model,
            objective=settings.objective,
            attack=self._attack(i),
            optimizer=self.optimizer,
            ledger=self.out.ledger,
            normalise=settings.normalise,
            attack_mode=settings.attack_mode,
            clip_norm=settings.clip_norm,
            clip_value=settings.clip_value,
            memory=self.memory,
            on_update=self._averaged,
        )

    def _averaged(self) -> None:
        """After each optimiser step."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def _batches(self, i: int, epoch: Epoch) -> list[Tensor]:
        """This epoch's batches of indices: shuffled examples, or whole blocks in random order."""
        size = self.settings.batch_size
        stream = Stream(seed=self.seed, purpose="order", epoch=i)
        if epoch.action == "full":
            return chunked(stream.at(torch.arange(len(self.train))).permutation(), size)
        if self.coreset.blocks is not None:
            blocks = [self.coreset.indices[self.coreset.blocks == b] for b in self.coreset.blocks.unique()]
            return [blocks[b] for b in stream.at(torch.arange(len(blocks))).permutation().tolist()]
        return chunked(self.coreset.indices[stream.at(self.coreset.indices).permutation()], size)

    def _attack(self, i: int):
        """The training attack of the i-th epoch, in a smaller ball while the ramp lasts."""
        attack, ramp = self.settings.attack_at(i), self.settings.eps_ramp
        if self.memory is not None:
            attack = attack.recalling(self.memory)
        if attack is None or not ramp:
            return attack
        steps = ramp * math.ceil(len(self.train) / self.settings.batch_size)
        return attack if self.steps_done + 1 >= steps else attack.scaled((self.steps_done + 1) / steps)

    def _set_lr(self, i: int, epoch: Epoch, share: float) -> float:
        schedule = self.settings.schedule
        if schedule.schedule == "acs":
            progress = (epoch.lr_index + share) / schedule.epochs
        else:
            progress = (sum(self.lengths[:i]) + share * self.lengths[i]) / sum(self.lengths)
        lr = self.settings.optimizer.lr * self.settings.lr_schedule.factor(progress, epoch.lr_index)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def _judged(self) -> nn.Module:
        """The model that is evaluated and saved."""
        return self.model if self.average is None else self.average.module

    def _judge(self, entry: dict[str, Any]) -> None:
        """Validation accuracies into `entry`; keep the state if it is the best so far."""
        model = self._judged()
        state = _copy(model)
        if self.validation is not None:
            found = evaluate(
                model,
                self.validation,
                [] if self.settings.attack is None else [self.settings.probe],
                seed=self.seed,
                split="validation",
                indices=self.probed,
                ledger=self.out.ledger,
            )
            entry["clean"] = found.clean.accuracy
            entry["robust"] = found.attacks[0]["accuracy"] if found.attacks else None
            score = entry["clean"] if entry["robust"] is None else entry["robust"]
            if score > self.best_score:
                self.best_score, self.out.best_epoch, self.out.best = score, entry["epoch"], state
                self.listener.on_state("best", state, entry)
            if found.attacks:
                self._watch_for_collapse(state, entry, found.attacks[0])
        entry["peak_memory"] = peak_memory(self.device)
        self.listener.on_state("last", state, entry)

    def _watch_for_collapse(self, state: State, entry: dict[str, Any], robust: dict[str, Any]) -> None:
        """Catastrophic overfitting (Wong et al. 2020, section 5.4): the weights before it are kept, and an event."""
        before, self.previous = self.previous, (state, entry, robust)
        if before is None or not collapsed(before[2], robust):
            return
        kept = f"the weights of epoch {before[1]['epoch']} are kept as before_collapse"
        fall = f"from {before[2]['accuracy']:.3f} to {robust['accuracy']:.3f}"
        event = f"catastrophic overfitting: probe robust accuracy fell {fall}; {kept}"
        self.out.events.append({"epoch": entry["epoch"], "event": event})
        log.warning("epoch %d: %s", entry["epoch"], event)
        self.listener.on_state("before_collapse", before[0], before[1])


def collapsed(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether robust accuracy fell by more than 0.20, and by more than both intervals allow."""
    fell = before["accuracy"] - after["accuracy"] > COLLAPSE
    return fell and after["interval"][1] < before["interval"][0]


def _copy(model: nn.Module) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
