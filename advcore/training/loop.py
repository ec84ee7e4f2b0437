"""The loop: epochs, selections, schedule, checkpoints, cost."""

import copy
import logging
import math
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from advcore import distributed
from advcore.attacks.memory import Memory, Perturbations, refuse_unmoved
from advcore.borrow import device_of
from advcore.cost import CostLedger
from advcore.data.augment import none
from advcore.data.base import thinned
from advcore.data.fits import check_fits
from advcore.data.source import as_source, batches_for, chunked, first_images
from advcore.device import peak_memory, random_state, set_random_state
from advcore.errors import ConfigError, NonFiniteError, must
from advcore.evaluation.evaluate import evaluate
from advcore.gradients import GRADIENTS
from advcore.objectives.standard import Standard
from advcore.pieces import advised
from advcore.rng import Stream
from advcore.selection.schedule import Epoch, Schedule
from advcore.signals import Stopped, check, whole
from advcore.speed import Speed, family_of
from advcore.training.minibatch import Batch, follow
from advcore.training.step import Gate, Learner, part_of_mean
from advcore.types import Coreset

State = dict[str, Tensor]
COLLAPSE = 0.20
"""Fall of probe robust accuracy between epochs that is catastrophic overfitting."""

log = logging.getLogger(__name__)


@dataclass
class Trained:
    """What a run leaves.

    last, best : state dicts, on the CPU; `best_epoch` : which epoch that was, from 0, None without validation images.
    epochs : a dict each. coresets : all that were chosen, in order. events : what fell back, with its epoch. ledger :
    passes and seconds of the whole run.
    """

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
    on_checkpoint : after each `period`-th epoch and the last, and where a signal stops the run: a function that gives
        all that the rest of the run depends on, for `fit(resume=...)`.
    """

    on_epoch: Callable[[dict, Trained], None] = lambda entry, so_far: None
    on_progress: Callable[[str, int, int], None] = lambda phase, done, total: None
    on_coreset: Callable[[Coreset], None] = lambda coreset: None
    on_state: Callable[[str, State, dict], None] = lambda name, state, entry: None
    on_model: Callable[[nn.Module], None] = lambda model: None
    on_checkpoint: Callable[[Callable[[], dict]], None] = lambda state: None
    period: int = 1


@dataclass
class Place:
    """How far a run is: the epoch that runs, or runs next, and what there is of it.

    begun : its coreset is chosen, and rule and memory know of it. step : how many of its steps are done. total,
    counted : the losses so far times images, and how many images. seen : examples. lr : of the last step. entry : what
    the epoch tells, once all steps are done. rested : what a rule left waiting is learned from. scored : its scores are
    taken. seconds : spent on it.
    """

    epoch: int = 0
    begun: bool = False
    step: int = 0
    total: Tensor | float = 0.0
    counted: int = 0
    seen: int = 0
    lr: float = 0.0
    entry: dict[str, Any] | None = None
    rested: bool = False
    scored: bool = False
    seconds: float = 0.0


class Loop:
    """One call of `Trainer.fit`: what changes while it goes on. `settings` is the trainer."""

    def __init__(self, settings: Any, model, train, validation, seed, augment, listener: Listener, scores):
        self.settings, self.model, self.seed, self.augment, self.listener = settings, model, seed, augment, listener
        self.device = device_of(model)
        self.train = as_source(train, self.device)
        check_fits(model, self.train)
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
        self.speed = shared_speed(
            lambda: settings.speed.suited(model, first_images(model, self.train), distributed.size())
        )
        if self.speed.channels_last != settings.speed.settled(self.device, family=family_of(model)).channels_last:
            told = "the model cannot take images that lie channels last; they lie channels first"
            self.out.events.append({"epoch": 0, "event": told})
        self.parallel = distributed.parallel(self.speed.prepared(model))
        self.optimizer = settings.optimizer.build(model, **({"fused": True} if self.speed.fused else {}))
        self.gate = Gate(self.device) if self.speed.deferred else None
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
        self.place = Place()

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
        with self.speed.running():
            return self._run()

    def _run(self) -> Trained:
        try:
            if self.settings.probe_epochs and not self.scores.epochs:
                self._probe_scores()
            while self.place.epoch < len(self.plan):
                self._next_epoch()
        except Stopped:
            self.listener.on_checkpoint(self.state)
            raise
        self.out.last = _copy(self._judged())
        self.out.best = self.out.best or self.out.last
        return self.out

    def _next_epoch(self) -> None:
        """The epoch at hand, from where it is. A signal stops it between two steps, or in what only looks at the model,
        which is then as if it had not begun."""
        i, place, ledger = self.place.epoch, self.place, self.out.ledger
        epoch, started = self.plan[i], time.perf_counter() - place.seconds
        try:
            if not place.begun:
                with ledger.undone_on_error():
                    self._choose(i, epoch)
            if place.entry is None:
                where = f"in a training step of {self.settings.batch_size} images with {type(self.model).__name__}"
                with advised(where, "lower training.batch_size, or use a smaller model"):
                    self._steps(i, epoch)
            if not all(bool(torch.isfinite(value).all()) for value in self._judged().state_dict().values()):
                raise NonFiniteError(f"the weights are NaN or infinite after epoch {i}; nothing of it was saved")
            if epoch.action == "full" and self.settings.scored and not place.scored:
                with ledger.undone_on_error():
                    self.scores.add(self._score(self.model, ledger))
                place.scored = True
            with ledger.undone_on_error():
                self._judge(place.entry)
        except Stopped:
            place.seconds = time.perf_counter() - started
            raise
        distributed.merge(ledger)
        ledger.settle()  # once an epoch, so that no events pile up
        (place.entry["units"],) = distributed.summed(
            [ledger.units()]
        )  # the first one's: the others' are merged into it
        place.entry["seconds"] = round(time.perf_counter() - started, 3)
        self.out.epochs.append(place.entry)
        self.place = Place(epoch=i + 1)
        self.listener.on_epoch(place.entry, self.out)
        self.listener.on_model(self.model)
        if (i + 1) % self.listener.period == 0 or i + 1 == len(self.plan):
            self.listener.on_checkpoint(self.state)

    def state(self) -> dict[str, Any]:
        """A copy, on the CPU, of all that the rest of the run depends on, for `fit(resume=...)`. Of several processes,
        all must ask for it; the first one's is whole."""
        if self.gate is not None:
            self.gate.look()
        distributed.merge(self.out.ledger)
        out, optimizer = self.out, self.optimizer.state_dict()
        return _copied(
            {
                "of": self._identity(),
                "speed": self.speed.record(self.device),
                "place": vars(self.place) | {"total": distributed.gathered(self.place.total)},
                "steps_done": self.steps_done,
                "model": self.model.state_dict(),
                "optimizer": optimizer | {"state": {str(key): own for key, own in optimizer["state"].items()}},
                "average": None if self.average is None else self.average.state_dict(),
                "rule": self.rule.state(),
                "scores": self.scores and self.scores.state(),
                "coresets": [coreset.state() for coreset in out.coresets],
                "coreset": self.coreset and self.coreset.state(),
                "best": out.best,
                "best_epoch": out.best_epoch,
                "best_score": None if self.best_score == -math.inf else self.best_score,
                "previous": self.previous and list(self.previous),
                "epochs": out.epochs,
                "events": out.events,
                "ledger": out.ledger.summary(),
                "random": distributed.gathered(_random_states(self.device)),
            }
        ) | {"memory": self.memory and self.memory.state()}  # a copy already

    def _identity(self) -> dict[str, Any]:
        """What a state must agree on, for its indices and names of random numbers to mean the same."""
        return {"seed": self.seed, "examples": len(self.train), "labels": self.train.fingerprint()}

    def restore(self, state: dict[str, Any]) -> None:
        """What `state` gave, in a loop of the same run; `state` stays as it is. Raises ConfigError for another seed or
        other data."""
        if state["of"] != self._identity():
            raise ConfigError(must("resume", f"a state of this run, {self._identity()}", state["of"]))
        state = _copied(state)
        out, optimizer = self.out, state["optimizer"]
        self.place = Place(**_moved(state["place"], self.device))
        totals = self.place.total
        if len(totals) == distributed.size():
            self.place.total = totals[distributed.rank()]
        else:
            self.place.total = sum(totals) if distributed.first() else 0.0
        self.steps_done = state["steps_done"]
        self.model.load_state_dict(state["model"])
        _restore_optimizer(self.optimizer, optimizer)
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.rule.restore(state["rule"])
        if self.memory is not None:
            self.memory.restore(state["memory"])
        if self.scores is not None:
            self.scores.restore(_moved(state["scores"], self.train.device))
        out.coresets = [Coreset.restored(own) for own in state["coresets"]]
        self.coreset = None if state["coreset"] is None else Coreset.restored(state["coreset"])
        out.best, out.best_epoch, out.epochs = state["best"], state["best_epoch"], list(state["epochs"])
        self.best_score = -math.inf if state["best_score"] is None else state["best_score"]
        self.previous = state["previous"] and tuple(state["previous"])
        out.events = list(state["events"])
        out.ledger.restore(state["ledger"])
        if not distributed.first():  # all that was counted is the first one's
            out.ledger = CostLedger()
        if distributed.rank() < len(state["random"]):  # a process that was not there keeps its own
            _set_random_states(state["random"][distributed.rank()], self.device)

    def _score(self, model: nn.Module, ledger: CostLedger) -> Tensor:
        """(N,) the scores of one epoch."""
        settings = self.settings
        found = GRADIENTS[settings.solver_reads].measure(
            model,
            self.train,
            objective=settings.objective,
            attack=settings.selector.attack,
            stream=Stream(seed=self.seed, purpose="scoring"),
            ledger=ledger,
            head=settings.head,
            chunk_size=settings.selector.chunk_size,
        )
        self.out.events.extend({"epoch": self.place.epoch, "event": event} for event in found.events)
        return found.rows.matrix[:, 0].to(self.train.device)

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
        found = GRADIENTS[self.settings.solver_reads].collect()
        watch = Listener(on_model=lambda model: found.add(self._score(model, ledger)))
        trained = probe.fit(copy.deepcopy(self.model), self.train, seed=self.seed, augment=self.augment, listener=watch)
        ledger.add(trained.ledger)
        self.out.ledger.add(ledger, under="scoring")
        self.scores = found

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
                self.coreset = selector.stand_in.select(self.model, self.train, seed=self.seed, epoch=i)
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

    def _steps(self, i: int, epoch: Epoch) -> None:
        """The steps of the i-th epoch that are still to do; then `place.entry`."""
        settings, place, n = self.settings, self.place, len(self.train)
        batches = self._batches(i, epoch)
        weights = torch.ones(n, device=self.device)
        if epoch.action != "full":
            chosen = self.coreset.training_weights(settings.normalise).to(self.device)
            weights[self.coreset.indices.to(self.device)] = chosen
        streams = [Stream(seed=self.seed, purpose=name, epoch=i) for name in ("augment", "attack", "minibatch")]
        self._begin(i, epoch, streams[0])
        read = batches_for(self.model, self.train, [distributed.share(batch) for batch in batches[place.step :]])
        for j in range(place.step, len(batches)):
            with distributed.together():
                indices, x, y = next(read)
            with whole():
                place.lr = self._set_lr(i, epoch, j / len(batches))
                augment, attack, rule = (stream.at(indices) for stream in streams)
                where = lambda j=j, indices=indices: f"epoch {i}, step {j}, examples {indices[:8].tolist()}..."  # noqa: E731
                own, images = weights[indices], len(batches[j])
                counts = distributed.counts_here(batches[j])
                factor = part_of_mean(own, weights, batches[j], settings.normalise)
                batch = Batch(indices, self.augment(x, augment), y, own, attack, rule, where, images, factor, counts)
                self._count(*self.rule.step(self._learner(i, counts), batch))
                place.seen += images
                place.step += 1
                self.steps_done += 1
            self.listener.on_progress("train", j + 1, len(batches))
            check()
        if not place.rested:
            with whole():
                self._count(*self.rule.rest(self._learner(i)))
                place.rested = True
        if self.gate is not None:
            self.gate.look()
        with self.out.ledger.undone_on_error():
            told = self.rule.end(self._learner(i))
        place.entry = {
            "epoch": i,
            "lr_index": epoch.lr_index,
            "action": epoch.action,
            "examples": place.seen,
            "steps": len(batches),
            "loss": distributed.summed([float(place.total)])[0] / place.counted,
            "lr": place.lr,
            **({"minibatch": told} if told else {}),
            **({"attack_steps": settings.attack_at(i).steps} if settings.attack_steps else {}),
        }

    def _begin(self, i: int, epoch: Epoch, view: Stream) -> None:
        """Tell rule and memory of the epoch, if they do not know of it."""
        if self.place.begun:
            if self.memory is not None:
                self.memory.look(view)
            return
        n = len(self.train)
        if self.memory is not None:
            everything = epoch.action == "full"
            kept = torch.arange(n) if everything else self.coreset.indices
            self.memory.begin(kept, view, n if everything else max(len(kept), self.settings.selector.size(n)))
        self.rule.begin(i, self.out.epochs)
        self.place.begun = True

    def _count(self, loss: Tensor, images: int) -> None:
        self.place.total = self.place.total + loss * (images / distributed.size())
        self.place.counted += images

    def _learner(self, i: int, counts: bool = True) -> Learner:
        """Of the i-th epoch; `counts`: whether its passes do, or those of another process that does the same."""
        settings = self.settings
        return Learner(
            model=self.model,
            objective=settings.objective,
            attack=self._attack(i),
            optimizer=self.optimizer,
            ledger=self.out.ledger if counts else CostLedger(),
            normalise=settings.normalise,
            attack_mode=settings.attack_mode,
            clip_norm=settings.clip_norm,
            clip_value=settings.clip_value,
            memory=self.memory,
            parallel=self.parallel,
            gate=self.gate,
            on_update=self._averaged,
        )

    def _averaged(self) -> None:
        """After each optimiser step. From the second on without AveragedModel's own way, which sends its count to the
        device each time, and waits for that."""
        if self.average is None:
            return
        if int(self.average.n_averaged) == 0:  # on the CPU
            self.average.update_parameters(self.model)
            return
        pairs: dict[torch.dtype, list[tuple[Tensor, Tensor]]] = {}
        for own, new in zip(_tensors(self.average.module), _tensors(self.model), strict=True):
            pairs.setdefault(own.dtype, []).append((own, new))
        for alike in pairs.values():
            self.average.multi_avg_fn(*map(list, zip(*alike, strict=True)), None)
        self.average.n_averaged += 1

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
            entry |= {"probe": found.attacks[0]} if found.attacks else {}
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


def shared_speed(decide: Callable[[], Speed]) -> Speed:
    """Let the first process decide how passes run, for all."""
    return Speed(**distributed.by_first(lambda: asdict(decide())))


def collapsed(before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Whether robust accuracy fell by more than 0.20, and by more than both intervals allow."""
    fell = before["accuracy"] - after["accuracy"] > COLLAPSE
    return fell and after["interval"][1] < before["interval"][0]


def _copy(model: nn.Module) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def _tensors(model: nn.Module) -> list[Tensor]:
    """Its parameters and buffers."""
    return [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]


def _restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """What `state_dict` gave; how to step (fused or not) and how tensors lie are the optimiser's and its weights' own:
    files know no layout, and a fused step goes through memory as it lies."""
    mine = optimizer.state_dict()["param_groups"]
    groups = [
        theirs | {how: own[how] for how in ("foreach", "fused") if how in own}
        for theirs, own in zip(state["param_groups"], mine, strict=True)
    ]
    optimizer.load_state_dict({"param_groups": groups, "state": {int(key): own for key, own in state["state"].items()}})
    for parameter, held in optimizer.state.items():
        for name, value in held.items():
            if isinstance(value, Tensor) and value.ndim and value.shape == parameter.shape:
                held[name] = torch.empty_like(parameter).copy_(value)


def _copied(tree: Any) -> Any:
    """The same, each tensor a copy on the CPU; one that stands twice is copied once."""
    done: dict[int, Tensor] = {}

    def copied(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in done:
                done[id(value)] = value.detach().to("cpu", copy=True)
            return done[id(value)]
        return _mapped(copied, value)

    return copied(tree)


def _moved(tree: Any, device: torch.device) -> Any:
    return tree.to(device) if isinstance(tree, Tensor) else _mapped(lambda value: _moved(value, device), tree)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of the entries of a dict or list; anything else as it is."""
    if isinstance(value, dict):
        return {key: function(entry) for key, entry in value.items()}
    return [function(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _random_states(device: torch.device) -> dict[str, Any]:
    """The global ones, which layers such as dropout draw from."""
    _, words, gauss = random.getstate()
    _, keys, *rest = np.random.get_state()
    numpy = [torch.from_numpy(keys.astype(np.int64)), *rest]
    return {"torch": random_state(device), "python": [torch.tensor(words), gauss], "numpy": numpy}


def _set_random_states(states: dict[str, Any], device: torch.device) -> None:
    set_random_state(states["torch"], device)
    (words, gauss), (keys, *rest) = states["python"], states["numpy"]
    random.setstate((random.getstate()[0], tuple(words.tolist()), gauss))
    np.random.set_state(("MT19937", keys.numpy(), *rest))
