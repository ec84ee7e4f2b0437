"""advcore run: train, select and evaluate."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advcore.cli import arguments, output, processes
from advcore.runtime.signals import Stopped
from advcore.terminal import command_line, print_next, show_run

if TYPE_CHECKING:
    from advcore.config.schema import RunConfig
    from advcore.run.prepare import Prepared


def run(
    file: arguments.RunFile,
    set_: arguments.Overrides = None,
    plugin: arguments.Plugins = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the run; by default runs/NAME-sSEED.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped run in its folder.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in that folder.")] = False,
) -> None:
    """Train, select and evaluate as FILE specifies; write a record."""
    from advcore import distributed
    from advcore.config.load import load
    from advcore.reporting.tables import list_closing_rows
    from advcore.run import checkpoints, folder
    from advcore.run import run as runner

    job = distributed.name_launchers()
    with contextlib.ExitStack() as stack:
        with processes.check_together():
            config = load(file, set_ or ())
            path, resume = folder.choose_folder(config, out, overwrite, resume, job)
            if distributed.is_first():
                stack.enter_context(checkpoints.lock_folder(path))
        prepared = _prepare(config, path if resume else None)
        try:
            if distributed.is_first():
                typer.echo(prepared.data.describe())
            with show_run(len(prepared.trainer.schedule.plan())) as reporter:
                record = runner.run(prepared, path, reporter, resume=resume, job=job, locked=True)
        except (Stopped, KeyboardInterrupt):
            if not distributed.is_launched():  # otherwise the command that started torchrun continues the run
                _print_continuation(file, out, set_ or (), plugin or ())
            raise
    if not processes.get_rank():
        output.print_facts(f"{record.name}, seed {config.seed}: {record.plan}", list_closing_rows(record))
        _print_end(path, config, plugin or ())


def _print_end(path: Path, config: "RunConfig", plugins: Sequence[Path]) -> None:
    """Print where the record is, and what to type next."""
    typer.echo(f"record: {path / 'record.json'}")
    print_next(command_line("report", path))
    output.suggest_autoattack(path, config, plugins=plugins)


def _prepare(config: "RunConfig", path: Path | None) -> "Prepared":
    """Prepare a run, in all processes together; path: of the run that it continues, None for a new one."""
    from advcore import distributed
    from advcore.run import prepare, resume
    from advcore.training.trainer import refuse_processes

    budget = distributed.run_on_first(lambda: resume.find_budget(path, config) if path else None)
    with processes.check_together():
        prepared = prepare.prepare(config, budget=budget)
        refuse_processes(prepared.trainer)
    return prepared


def _print_continuation(file: Path, out: Path | None, overrides: Sequence[str], plugins: Sequence[Path]) -> None:
    options = ["--resume"]
    if out is not None:
        options = ["--out", str(out), *options]
    print_next(command_line("run", file, *options, overrides=overrides, plugins=plugins))
