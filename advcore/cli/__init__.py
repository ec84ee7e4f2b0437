"""The command line: one file per command, and shared arguments, printing and exit codes.

Torch is imported inside the commands, so that help and mistakes in the arguments are shown at once.
"""

import logging
from collections.abc import Callable
from typing import Annotated

import typer

from advcore.cli import bench, check, doctor, evaluate, export, init, recommend, report, run, score, select
from advcore.cli import list as list_
from advcore.cli.exits import Exit, describe_exit, leave
from advcore.cli.processes import join_processes
from advcore.runtime.heap import keep_freed_memory
from advcore.runtime.signals import Stopped, catch_signals
from advcore.runtime.threads import prepare_environment
from advcore.version import __version__

app = typer.Typer(
    name="advcore",
    help="Adversarial training at a fraction of its cost: weighted coresets, selected at the attacked images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_COMMANDS: dict[str, Callable[..., None]] = {
    "init": init.init,
    "run": run.run,
    "select": select.select,
    "score": score.score,
    "evaluate": evaluate.evaluate,
    "report": report.report,
    "export": export.export,
    "list": list_.list_names,
    "check": check.check,
    "recommend": recommend.recommend,
    "bench": bench.bench,
    "doctor": doctor.doctor,
}
for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)


@app.callback(invoke_without_command=True)
def print_version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit()


def main() -> None:
    """Run the console script and exit.

    The exit code is 0 for success, 1 for a bug, 2 for the user's mistake, 3 for a run that stopped itself, 130
    for Ctrl-C and 143 for SIGTERM.
    """
    prepare_environment()  # before a command imports torch, which reads the environment once
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    keep_freed_memory()  # allowed here, since the process runs nothing else
    try:
        with catch_signals(), join_processes():
            code = app(standalone_mode=False) or 0
        if code == 130:
            raise KeyboardInterrupt  # which typer has turned into this exit code
    except (Exception, KeyboardInterrupt, Stopped, SystemExit) as error:  # that of a plug-in's code
        ending = describe_exit(error)
        if ending is None:
            raise
        leave(ending)
    leave(Exit(code))
