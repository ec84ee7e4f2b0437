"""What a run shows of its progress: bars in a terminal, plain lines elsewhere."""

import contextlib
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from advcore import distributed
from advcore.errors import format_count
from advcore.rng import preserve_random_state
from advcore.selection.result import Coreset
from advcore.training.progress import Entry, Listener, Trained, ignore

if TYPE_CHECKING:
    from rich.progress import Progress

    from advcore.training.loop import Run


@contextlib.contextmanager
def show_training(run: "Run", progress: bool | None) -> Iterator[Listener]:
    """Yield a listener that shows a run on stderr, and also informs the run's own listener.

    progress : True shows it, False does not; None does in a terminal or a notebook, unless the run's listener hears of
        epochs or progress, and may show them. Of several processes, only the first shows anything.
    """
    listener = run.listener
    schedule = run.trainer.schedule
    if progress is not False:
        with preserve_random_state():  # it draws when it is imported, and a network may draw from the same state
            import rich.progress  # noqa: F401
    if progress is None:
        progress = listener.on_epoch is listener.on_progress is ignore and _is_watched()
    if not progress or not distributed.is_first():
        yield listener
        return
    with show_bars(stderr=True) as progress_bars:
        bars = RunBars(progress_bars, schedule.length)
        bars.say(schedule.describe())
        yield replace(
            listener,
            on_epoch=_call_both(listener.on_epoch, bars.on_epoch),
            on_progress=_call_both(listener.on_progress, bars.on_progress),
            on_coreset=_call_both(listener.on_coreset, bars.on_coreset),
        )


def _is_watched() -> bool:
    """Return whether stderr is read as it is written."""
    from rich.console import Console

    return bool(sys.stderr and sys.stderr.isatty()) or Console().is_jupyter


def _call_both(first: Callable[..., None], second: Callable[..., None]) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        first(*arguments)
        second(*arguments)

    return call


class RunBars:
    """A bar for the epochs of a run and one for the current phase; each is hidden when it is full."""

    def __init__(self, progress: "Progress", epochs: int | None) -> None:
        self._progress, self._epochs = progress, epochs
        self._epochs_bar = progress.add_task("epochs", total=epochs, visible=False)
        self._phase_bar = progress.add_task("", visible=False)
        self._phase = ""

    def say(self, text: str) -> None:
        """Print a text above the bars, which are redrawn first."""
        self._progress.refresh()
        self._progress.console.print(text, markup=False)

    def on_epoch(self, entry: Entry, so_far: Trained) -> None:
        done = entry["epoch"] + 1
        loss = f"epochs, loss {entry['loss']:.3f}"
        self._progress.update(self._epochs_bar, completed=done, description=loss, visible=done < (self._epochs or 0))
        self.say(_describe_epoch(entry, self._epochs))

    def on_coreset(self, coreset: Coreset) -> None:
        self.say(_describe_coreset(coreset))

    def on_progress(self, phase: str, done: int, total: int) -> None:
        if phase == "epochs":  # a run that continues
            self._progress.update(self._epochs_bar, completed=done)
            return
        if phase == "train":
            self._progress.update(self._epochs_bar, visible=bool(self._epochs))
        # The bar of a phase that is over, or that another phase follows, is hidden before anything else is drawn.
        if phase != self._phase or done >= total:
            self._phase = phase
            self._progress.reset(self._phase_bar, description=phase, total=total, visible=False)
        if done < total:
            self._progress.update(self._phase_bar, completed=done, total=total, visible=True)


@contextlib.contextmanager
def show_bars(*, counts: bool = True, stderr: bool = False) -> Iterator["Progress"]:
    """Give bars that are removed when the context ends, however it ends, and lines that are printed above them.

    They are drawn on stdout, or on stderr. What is printed or logged meanwhile appears above the bars too, if it goes
    to the same terminal; a redirected stream stays redirected.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(highlight=False, soft_wrap=True, stderr=stderr)
    times = [MofNCompleteColumn(), TimeRemainingColumn()] if counts else [TimeElapsedColumn()]
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *times)
    shares_terminal = console.is_terminal and sys.stderr.isatty()
    bars = Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=not stderr or sys.stdout.isatty(),
        redirect_stderr=shares_terminal,
    )
    log = _redirect_log() if shares_terminal else contextlib.nullcontext()
    with bars, log:
        yield bars


@contextlib.contextmanager
def _redirect_log() -> Iterator[None]:
    """Let log handlers write to the present sys.stderr, not to the one of the time when they were created."""
    with contextlib.ExitStack() as stack:
        for handler in logging.getLogger().handlers:
            if type(handler) is logging.StreamHandler:
                stack.callback(handler.setStream, handler.stream)
                handler.setStream(sys.stderr)
        yield


def _describe_epoch(entry: Entry, epochs: int | None) -> str:
    return "  ".join(
        [
            f"epoch {entry['epoch'] + 1:3d}/{epochs}",
            f"{entry['action']:6s}",
            format_count(entry["examples"], "example"),
            f"loss {entry['loss']:.4f}",
            *(f"{name} {100 * entry[name]:.1f} %" for name in ("clean", "robust") if entry.get(name) is not None),
            f"{entry['seconds']:.1f} s",
        ]
    )


def _describe_coreset(coreset: Coreset) -> str:
    quality = coreset.quality
    text = f"selection: {coreset.solver} keeps {len(coreset):,} of {coreset.num_examples:,}"
    if quality["gradient_error"] is not None:
        text += f", gradient error {quality['gradient_error']:.3f} (random {quality['gradient_error_random']:.3f})"
    if quality.get("gradient_error_full") is not None:
        text += f", against the full attack {quality['gradient_error_full']:.3f}"
    if "row_age" in quality:
        text += f", rows {quality['row_age']:.1f} epochs old"
    return text
