"""How the command line ends: its exit codes, which errors it reports as lines, and how to continue what was stopped."""

import os
import sys
from dataclasses import dataclass
from typing import NoReturn

import typer

from advcore.cli.processes import get_command, get_rank
from advcore.errors import AdvcoreError, UserError, describe_exception, describe_refusal, escape_control_characters
from advcore.runtime.signals import Stopped

_CONTINUATIONS = {
    "run": "rerun the same command with --resume to continue",
    "bench": "rerun the same command to continue",
    "evaluate": "rerun the same command to continue from --state",
}


@dataclass(frozen=True)
class Exit:
    """An exit code, and the lines that explain it.

    shared : whether every process has the same lines, so that only the first prints them.
    trace : a traceback to print above the lines.
    """

    code: int
    lines: tuple[str, ...] = ()
    shared: bool = False
    trace: str = ""


def describe_exit(error: BaseException) -> Exit | None:
    """Return how the command line ends after an error; None for a bug, whose traceback says more."""
    shared = False
    if get_rank() is not None:
        from advcore import distributed  # not for a process alone, which may fail before it needs torch

        shared = distributed.is_raised_in_all(error)
    if isinstance(error, Stopped):
        return Exit(128 + error.number, (f"stopped by {error}{_explain_continuation()}",), shared=True)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return Exit(130, (f"interrupted{_explain_continuation()}",))
    if isinstance(error, UserError):
        return Exit(2, error.lines, shared, trace=_format_trace_of_plugin(error))
    if isinstance(error, AdvcoreError):
        return Exit(3, (str(error),), shared)
    if isinstance(error, OSError):
        refusal = describe_refusal(error)
        if refusal is None:
            return None
        way_out = _explain_continuation() or "; fix this, then rerun the same command"
        return Exit(3, (f"{refusal}{way_out}",), shared)
    if hasattr(error, "format_message"):  # a usage error
        return Exit(2, (error.format_message(),))
    from advcore.runtime.out_of_memory import is_out_of_memory

    if not is_out_of_memory(error):
        trace = _format_trace_of_plugin(error)
        line = f"a plug-in raised {describe_exception(error)}; its traceback is printed above"
        return Exit(2, (line,), trace=trace) if trace else None
    advice = f"use a smaller batch size, data set or model{_explain_continuation()}"
    return Exit(3, (f"memory ran out: {describe_exception(error)}; {advice}",))


def _format_trace_of_plugin(error: BaseException) -> str:
    """Return the traceback of an error that a plug-in's code raised, from the plug-in on; "" for any other error."""
    plugins = sys.modules.get("advcore.register.plugins")
    return "" if plugins is None else plugins.format_trace(error)


def _explain_continuation() -> str:
    """Return how to continue the command that was stopped, as a clause to append; "" where that is not possible."""
    command = get_command()
    is_lost = command == "evaluate" and not any(argument.startswith("--state") for argument in sys.argv)
    if command not in _CONTINUATIONS or is_lost:
        return ""
    return f"; progress is saved, {_CONTINUATIONS[command]}"


def leave(ending: Exit) -> NoReturn:
    """Print the lines on stderr, and end the process.

    One of several processes ends without cleaning up: torch may abort while it removes what its threads still use, and
    the exit code would be another.
    """
    rank = get_rank()
    if ending.trace:
        typer.echo(ending.trace, err=True)
    prefix = f"advcore: process {rank}: " if rank else "advcore: "
    if ending.lines and not (rank and ending.shared):
        typer.echo("\n".join(prefix + escape_control_characters(line) for line in ending.lines), err=True)
    if rank is None:
        sys.exit(ending.code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ending.code)
