"""The processes that torchrun starts for one command, of which only the first prints."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from advcore.errors import refuse_as_setting
from advcore.runtime.launcher import get_launched_rank

_SHARED_COMMANDS = ("run", "select", "score", "evaluate")  # which several processes can do together


def get_command() -> str:
    """Return the name of the command that is running; "" if there is none."""
    return "".join(sys.argv[1:2])


def get_rank() -> int | None:
    """Return this process's rank; None for a single process, or a command that runs in one process."""
    return get_launched_rank() if get_command() in _SHARED_COMMANDS else None


@contextlib.contextmanager
def join_processes() -> Iterator[None]:
    """Join the processes that torchrun started into one group, of which only the first prints. Does nothing alone."""
    rank = get_rank()
    if rank is None:
        yield
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # torch warns about settings that are made on purpose
    from advcore import distributed

    with contextlib.ExitStack() as stack:
        if rank:
            logging.getLogger("advcore").setLevel(logging.ERROR)
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
        stack.enter_context(distributed.join_group())
        yield


@contextlib.contextmanager
def check_together() -> Iterator[None]:
    """Context for the checks before any work is done.

    An error in one process is raised in all of them; a file that the system refuses becomes a ConfigError.
    """
    from advcore import distributed

    with distributed.fail_together(), refuse_as_setting():
        yield
