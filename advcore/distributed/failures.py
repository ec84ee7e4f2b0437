"""Errors and stops that all processes agree on, so that none waits for a process that has ended."""

import contextlib
from collections.abc import Iterator

import torch.distributed as dist

from advcore import errors
from advcore.distributed.group import size
from advcore.distributed.wire import gather_values, name_lost_process, reduce_numbers
from advcore.errors import AdvcoreError, SettingProblem, UserError
from advcore.runtime import signals

# Words in what torch raises where another process is gone.
_LOST = ("peer", "gloo", "nccl", "connection", "timed out", "timeout")
# The error that all processes raised, if the last agreement was on one.
_agreed: list[BaseException] = []


@contextlib.contextmanager
def fail_together() -> Iterator[None]:
    """Leave the block in the same way in all processes: an error or stop signal in one is raised in all.

    Each process does what is inside alone; nothing inside may wait for another process.
    """
    if size() == 1:
        yield
        return
    failure = None
    try:
        with signals.allow_stop():
            yield
    except BaseException as error:
        failure = error
    raise_in_all(failure)


def raise_in_all(failure: BaseException | None = None) -> None:
    """Raise, in all processes, what any of them failed with, and Stopped if a signal came to any.

    Cost: one reduction.
    """
    if size() == 1:
        return
    _agreed.clear()
    stop, is_failed = reduce_numbers([signals.get_stop_signal() or 0, int(failure is not None)], dist.ReduceOp.MAX)
    if is_failed:
        _agreed.append(_agree_on_error(failure))
        raise _agreed[0]
    if stop:
        raise signals.Stopped(int(stop))


def is_raised_in_all(error: BaseException) -> bool:
    """Return whether all processes raise this error, so that it is enough if the first one reports it."""
    return any(error is agreed for agreed in _agreed)


def _agree_on_error(failure: BaseException | None) -> BaseException:
    """Choose the error that all processes raise; those that met the same one raise it as it is."""
    descriptions = gather_values(None if failure is None else _describe(failure))
    failed = {process: description for process, description in enumerate(descriptions) if description is not None}
    # An error comes before a stop: a stop is saved and can be continued from.
    process = min(failed, key=lambda process: ("stopped" in failed[process], process))
    description = failed[process]
    if failure is not None and _describe(failure) == description:
        return failure
    return _rebuild(description, process)


def _describe(error: BaseException) -> dict:
    if isinstance(error, signals.Stopped):
        return {"stopped": error.number}
    problems = error.problems if isinstance(error, UserError) else (SettingProblem("", str(error)),)
    return {"kind": type(error).__name__, "problems": [vars(problem) for problem in problems]}


def _rebuild(description: dict, process: int) -> BaseException:
    """Build the error that a process described: in its own class if that is one of advcore's."""
    if "stopped" in description:
        return signals.Stopped(description["stopped"])
    kind = getattr(errors, description["kind"], None)
    problems = [SettingProblem(**problem) for problem in description["problems"]]
    if isinstance(kind, type) and issubclass(kind, UserError):
        return kind(*problems)
    text = problems[0].fault
    if isinstance(kind, type) and issubclass(kind, AdvcoreError):
        return kind(text)
    return AdvcoreError(f"process {process} failed: {description['kind']}: {text}")


@contextlib.contextmanager
def name_loss_in_backward() -> Iterator[None]:
    """Raise AdvcoreError where a backward pass that averages gradients over processes loses one of them."""
    try:
        yield
    except RuntimeError as error:
        if size() > 1 and any(word in str(error).lower() for word in _LOST):
            with name_lost_process():
                raise
        raise
