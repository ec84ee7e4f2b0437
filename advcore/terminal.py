"""Output of the command line: tables, progress bars and the next command to type.

Where the output is not a terminal, progress is printed as plain lines.
"""

import contextlib
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from advcore.errors import format_count

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from advcore.run.prepare import Reporter
    from advcore.suite.process import Outcome, Watcher
    from advcore.suite.suite import Run

_WIDTH = 120  # columns of a table in a file or a pipe
_LONGEST_LINE = 70  # characters of a run's last line that are shown after the run's name


def print_table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, with a title unless that is ""; long cells are wrapped."""
    from rich.console import Console
    from rich.table import Column, Table

    if title:
        typer.echo(title)
    table = Table(*(Column(name, overflow="fold") for name in header), show_header=any(header))
    for row in rows:
        table.add_row(*(str(cell).replace("[", "\\[") for cell in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(table)


def command_line(*words: object, overrides: Iterable[str] = (), plugins: Iterable[Path] = ()) -> str:
    """Return a command that can be pasted into a shell; each override becomes a --set, each plug-in a --plugin."""
    settings = [*chain.from_iterable(("--set", override) for override in overrides)]
    settings += chain.from_iterable(("--plugin", str(path)) for path in plugins)
    program = {"__main__.py": "python -m advcore"}.get(Path(sys.argv[0]).name, "advcore")
    return f"{program} {shlex.join([*map(str, words), *settings])}"


def print_next(*commands: str) -> None:
    """Print the commands that one would type next, one per line."""
    for command in commands:
        typer.echo(f"next: {command}")


@contextlib.contextmanager
def show_run(epochs: int | None = None) -> Iterator["Reporter"]:
    """Yield a `Reporter` that draws bars in a terminal and prints plain lines otherwise.

    Of several processes, only the first prints. epochs : of the run; None draws no bar for them.
    """
    from advcore import distributed
    from advcore.run.prepare import Reporter
    from advcore.training.display import RunBars, show_bars

    if not distributed.is_first():
        yield Reporter()
        return
    with show_bars() as progress:
        bars = RunBars(progress, epochs)
        yield Reporter(
            on_plan=lambda plan: bars.say("\n".join([plan.text, *plan.notes.values()])),
            on_epoch=bars.on_epoch,
            on_progress=bars.on_progress,
            on_coreset=bars.on_coreset,
            on_final=lambda checkpoint: bars.say(f"evaluating {checkpoint}"),
        )


@contextlib.contextmanager
def show_suite(total: int) -> Iterator["Watcher"]:
    """Yield a `Watcher` of a suite's `total` runs.

    In a terminal it draws a bar and the last line of each active run; otherwise it prints each start and each end.
    """
    from advcore.suite.process import Watcher
    from advcore.training.display import show_bars

    with show_bars(counts=False) as progress:
        bars = _SuiteBars(progress, total)
        yield Watcher(on_start=bars.on_start, on_line=bars.on_line, on_end=bars.on_end)


class _SuiteBars:
    """A bar for the runs that have ended, and a line for each active run."""

    def __init__(self, progress: "Progress", total: int) -> None:
        self._progress = progress
        self._ended, self._total = 0, total
        self._active: dict[str, TaskID] = {}  # bars by the run's slug
        self._runs_bar = progress.add_task(f"0 of {format_count(total, 'run')}", total=total, visible=total > 0)

    def on_start(self, run: "Run") -> None:
        self._active[run.slug] = self._progress.add_task(_run_name(run), total=None)
        if self._progress.disable:
            self._progress.console.print(f"{_run_name(run)}: started", markup=False)

    def on_line(self, run: "Run", line: str) -> None:
        if any(character.isalnum() for character in line):  # not a table's border
            description = f"{_run_name(run)}: {line[:_LONGEST_LINE]}"
            self._progress.update(self._active[run.slug], description=description)

    def on_end(self, run: "Run", outcome: "Outcome") -> None:
        self._ended += outcome.kind in ("done", "failed")
        self._progress.remove_task(self._active.pop(run.slug))
        text = outcome.kind
        if outcome.seconds:
            text += f" in {outcome.seconds:,.0f} s"
        if outcome.error:
            text += f": {outcome.error}"
        description = f"{self._ended} of {format_count(self._total, 'run')}"
        self._progress.update(self._runs_bar, completed=self._ended, description=description, refresh=True)
        self._progress.console.print(f"[{self._ended}/{self._total}] {_run_name(run)}: {text}", markup=False)


def _run_name(run: "Run") -> str:
    return f"{run.method}, seed {run.seed}"
