"""Catch gradient rows in the training steps themselves, for selections that then take no passes."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from advcore import distributed
from advcore.data.source import Part
from advcore.gradients import GRADIENTS
from advcore.gradients.base import Measurement, MeasurementSettings
from advcore.gradients.catch import CaughtColumns, TrainingPass
from advcore.gradients.last_layer import fit_to_bias, locate_head
from advcore.models.head import Tap, run_layer_by_layer, tap_features
from advcore.rng import Stream
from advcore.rows import Rows
from advcore.rows.row_store import NEVER, RowStore, StoragePlace, settle_place
from advcore.selection.coreset import AdversarialCoreset
from advcore.selection.result import Coreset
from advcore.training.caught_rows import count_refreshed, count_row_bytes, get_catch
from advcore.training.progress import Entry
from advcore.types import Event

if TYPE_CHECKING:
    from advcore.training.loop import Run

# A pass of the model: images (B, C, H, W) to logits (B, classes).
Forward = Callable[[Tensor], Tensor]
# Logits (B, C) and features (B, D) of a forward pass.
Outputs = tuple[Tensor, Tensor]


class FirstStep:
    """Notes the gradient by which an attack takes its first step; `norms` (B,) float64, None before there is one."""

    def __init__(self) -> None:
        self.norms: Tensor | None = None
        self._is_asked = False

    def watch(self, forward: Forward) -> Forward:
        """Return a forward pass whose first call with images that need a gradient is the one that is noted."""
        return partial(self._run, forward)

    def _run(self, forward: Forward, x: Tensor) -> Tensor:
        if self._is_asked or not x.requires_grad:
            return forward(x)
        self._is_asked = True
        images = x.view_as(x)
        images.register_hook(self._note)
        return forward(images)

    def _note(self, gradient: Tensor | None) -> None:
        if gradient is not None:  # as behind a quantised layer, which the attack's watch refuses
            self.norms = gradient.detach().double().flatten(1).norm(dim=1)


class RowCatcher:
    """Catches the rows of a run's examples in its training steps, and remeasures some of the others.

    A row is that of the image that was trained on: augmented, attacked by the training attack, and, for all but the
    first step's input gradient, passed in train mode, by the weights of that step. In every process all rows are
    stored. Differs from rows that are measured: by these, and by their age.

    run : what is trained, with a selector whose rows are caught. place : where they are stored.

    store : the rows. epoch : the present one.
    """

    def __init__(self, run: "Run", place: StoragePlace) -> None:
        self.run = run
        self.selector = run.trainer.get_selector()
        self.gradient = GRADIENTS[str(self.selector.solver.reads)]
        self.how = get_catch(run.trainer)
        self.store = RowStore(len(run.train), place)
        self.epoch = 0
        self.head = None
        self.kind = self.selector.rows
        if self.gradient.reads_head:
            self.head = locate_head(run.model, run.train, self.selector.head or run.trainer.head)
        if self.head is not None and not self.gradient.is_scalar:
            self.kind = fit_to_bias(self.kind, has_bias=self.head.bias is not None)
        self._first_step = FirstStep()
        self._is_checked = False

    # ---- in a training step ----

    def watch_attack(self, forward: Forward) -> Forward:
        """Return the forward pass that the attack of the next step is to climb by.

        Where the first step's gradient is caught, no CUDA graph of the attack is used.
        """
        if not self.how.at_start:
            return forward
        self._first_step = FirstStep()
        return self._first_step.watch(forward)

    @contextlib.contextmanager
    def catch(self, indices: Tensor, y: Tensor) -> Iterator[Callable[[Forward], Forward]]:
        """Store the rows of examples (B,) with labels y (B,) that the block trains on.

        The block is given a function; it runs the forward passes of the objective by what that makes of its
        forward pass. Where they are run several times, as for a weight perturbation, the last time counts.
        """
        outputs: list[Outputs] = []
        if self.head is None:
            yield _leave
        else:
            with tap_features(self.head) as tap:
                yield partial(self._watch_passes, outputs, tap)
        with self.run.out.ledger.phase("rows", y.device):
            self._store(indices, y, outputs)

    def _watch_passes(self, outputs: list[Outputs], tap: Tap, forward: Forward) -> Forward:
        return partial(self._run_pass, outputs, tap, forward)

    def _run_pass(self, outputs: list[Outputs], tap: Tap, forward: Forward, x: Tensor) -> Tensor:
        with run_layer_by_layer(self.run.model):
            logits = forward(x)
        if not self._is_checked:
            tap.check(logits.detach())
            self._is_checked = True
        outputs.append((logits.detach(), tap.features))
        return logits

    def _store(self, indices: Tensor, y: Tensor, outputs: list[Outputs]) -> None:
        names = self.run.trainer.objective.passes
        by_name = dict(zip(names, outputs[-len(names) :], strict=False))
        seen = TrainingPass(
            objective=self.run.trainer.objective,
            head=self.head,
            y=y,
            logits={name: logits for name, (logits, _) in by_name.items()},
            features={name: features for name, (_, features) in by_name.items()},
            first_norms=self._first_step.norms,
        )
        columns = {name: column.detach() for name, column in self.how.take(seen).items()}
        indices, *parts = distributed.concatenate(indices.to(y.device), *columns.values())
        self.store.write(indices, dict(zip(columns, parts, strict=True)), self.epoch)

    # ---- between epochs ----

    def build_rows(self) -> Rows:
        """Return the rows of all examples, one for each."""
        assert not bool((self.store.epochs == NEVER).any()), "epochs on all data come before the first selection"
        device = self.store.place.device
        return self.how.build(
            CaughtColumns(
                columns=self.store.columns,
                labels=self.run.train.labels().to(device),
                objective=self.run.trainer.objective,
                kind=self.kind,
                release=self.store.find_release(),
            )
        )

    def end_epoch(self, selector: AdversarialCoreset, coreset: Coreset | None) -> Entry:
        """Remeasure rows of examples outside of a coreset after the present epoch (`Refresh`).

        selector : the run's, whose attack is ready. coreset : what the epoch trained on; None for all data.

        Returns how many rows were `refreshed`, and the ages of all (`describe_ages`) when the next epoch begins.
        Cost: that of measuring these rows in a selection.
        """
        count = self._refresh(selector, coreset)
        return self.describe_ages(self.epoch + 1) | {"refreshed": count}

    def _refresh(self, selector: AdversarialCoreset, coreset: Coreset | None) -> int:
        n = len(self.store)
        count = count_refreshed(self.run.trainer, n)[self.epoch]
        if not count or coreset is None or selector.refresh is None:
            return 0
        is_outside = torch.ones(n, dtype=torch.bool)
        is_outside[coreset.indices] = False
        outside = is_outside.nonzero()[:, 0]
        stream = Stream(seed=self.run.seed, purpose="refresh", epoch=self.epoch)
        epochs = self.store.epochs.cpu()[outside]
        indices = selector.refresh.choose(outside, epochs, min(count, len(outside)), stream.child("choice"))
        self.store.write(indices, self._measure_anew(selector, indices, stream), self.epoch + 1)
        return len(indices)

    def _measure_anew(self, selector: AdversarialCoreset, indices: Tensor, stream: Stream) -> dict[str, Tensor]:
        """Measure examples with the model as it is, as a selection would, and return what is stored of them."""
        run = self.run
        settings = MeasurementSettings(
            ledger=run.out.ledger,
            objective=selector.objective,
            attack=selector.attack,
            stream=stream,
            kind=selector.rows,
            head=selector.head or run.trainer.head,
            attack_mode=selector.attack_mode,
            chunk_size=selector.chunk_size,
        )
        measure = self.how.measure_anew or self.gradient.measure
        measured = measure(run.model, Part(run.train, indices), settings)
        run.out.add_events(self.epoch, *measured.events)
        return distributed.run_on_first(partial(self._read_columns, measured))

    def _read_columns(self, measured: Measurement) -> dict[str, Tensor]:
        assert self.how.read is not None, "`find_catch_problem` refuses a refresh of other rows"
        rows, _ = measured.get_rows_and_labels()
        return self.how.read(self.selector.objective, rows)

    def describe_ages(self, epoch: int) -> Entry:
        """Return the mean age of the rows when an epoch begins (age), and the largest (oldest), in epochs."""
        ages = self.store.measure_ages(epoch)
        return {"age": float(ages.double().mean()), "oldest": int(ages.max())}

    def add_ages(self, coreset: Coreset) -> Coreset:
        """Return a coreset that was chosen in the present epoch, with row_age and row_age_max in its quality."""
        ages = self.describe_ages(self.epoch)
        return replace(coreset, quality=coreset.quality | {"row_age": ages["age"], "row_age_max": ages["oldest"]})


def _leave(forward: Forward) -> Forward:
    return forward


@contextlib.contextmanager
def catch_rows(catcher: RowCatcher | None, generator: Stream, y: Tensor) -> Iterator[Callable[[Forward], Forward]]:
    """Catch the rows of the examples to which `generator` is bound (`RowCatcher.catch`); nothing without a catcher."""
    if catcher is None:
        yield _leave
        return
    with catcher.catch(generator.examples, y) as watch:
        yield watch


def build_catcher(run: "Run") -> RowCatcher | None:
    """Build what catches a run's rows; None for a run that catches none.

    An event says so where they do not fit into the memory of the images' device.
    """
    trainer = run.trainer
    needed = count_row_bytes(trainer, run.model, run.train)
    if needed is None:
        return None
    wanted = trainer.get_selector().rows_place
    place = settle_place(wanted, needed, run.train.device)
    if wanted == "auto" and (place.folder is not None or place.device.type != run.train.device.type):
        text = f"gradient rows are stored in {place.name}: more than half of the memory free before it would be needed"
        run.out.add_events(0, Event("memory", text))
    return RowCatcher(run, place)
