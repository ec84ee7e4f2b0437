"""What one process of several meets is raised by all, problem by problem, as one process alone would raise it."""

from types import SimpleNamespace

import pytest

from advcore import distributed, errors
from advcore.distributed import exchange, failures
from advcore.errors import SettingProblem, must
from advcore.runtime.signals import Stopped
from advcore.types import Event

PROBLEMS = (must("chunk_size", "a multiple of 16", 17, "use 16"), SettingProblem("", "labels must be whole numbers"))
ERRORS = {
    "a setting": errors.ConfigError(PROBLEMS[0]),
    "several problems": errors.DataError(*PROBLEMS),
    "a text": errors.BudgetError("k must be a whole number in 1..3, got 4"),
    "a text of two lines": errors.CheckpointError("one\ntwo"),
    "not finite": errors.NonFiniteError("the model's gradient at example 20 is NaN or infinite; training has diverged"),
    "no memory": errors.NoMemoryError("memory ran out while solving"),
    "unsafe": errors.UnsafeFileError("x.npz cannot be read without running code"),
    "the base": errors.AdvcoreError("process 1 was lost"),
}
each_error = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)


@pytest.fixture
def other(monkeypatch):
    """Another process, whose failure a test sets, beside this one, which is the second."""
    process = SimpleNamespace(failure=None)
    monkeypatch.setattr(failures, "size", lambda: 2)
    monkeypatch.setattr(failures, "reduce_numbers", lambda numbers, how: [numbers[0], max(numbers[1], process.failed)])
    monkeypatch.setattr(failures, "gather_values", lambda mine: [process.description, mine])

    def fail_with(error):
        process.failed = int(error is not None)
        process.description = None if error is None else failures._describe(error)

    fail_with(None)
    return fail_with


@each_error
def test_the_error_of_another_process_is_raised_here_as_it_is_there(other, error):
    other(error)
    with pytest.raises(type(error)) as caught, distributed.fail_together():
        pass
    assert type(caught.value) is type(error) and str(caught.value) == str(error)
    assert getattr(caught.value, "problems", None) == getattr(error, "problems", None)
    assert distributed.is_raised_in_all(caught.value)


@each_error
def test_of_two_errors_all_raise_that_of_the_first_process(other, error):
    other(error)
    mine = errors.DataError("the label of example 60 must be the same")
    with pytest.raises(type(error)) as caught, distributed.fail_together():
        raise mine
    assert str(caught.value) == str(error)


@each_error
def test_the_same_error_in_both_is_raised_as_it_is(other, error):
    other(error)
    with pytest.raises(type(error)) as caught, distributed.fail_together():
        raise error
    assert caught.value is error and distributed.is_raised_in_all(error)


@pytest.mark.parametrize("first", [True, False])
def test_an_error_comes_before_a_stop(other, first):
    failing, stopping = errors.DataError("example 20 cannot be read"), Stopped(15)
    other(failing if first else stopping)
    with pytest.raises(errors.DataError, match="^example 20 cannot be read$"), distributed.fail_together():
        raise stopping if first else failing


def test_a_bug_of_another_process_is_named_with_its_process(other):
    other(ZeroDivisionError("division by zero"))
    message = "^process 0 failed: ZeroDivisionError: division by zero$"
    with pytest.raises(errors.AdvcoreError, match=message), distributed.fail_together():
        pass


def test_problems_of_another_process_take_the_path_of_their_section(other):
    """As `build.prefix_problems` does, which a text alone would not allow."""
    other(ERRORS["several problems"])
    with pytest.raises(errors.DataError) as caught, distributed.fail_together():
        pass
    assert [problem.inside("selection.").path for problem in caught.value.problems] == ["selection.chunk_size", ""]


def test_what_several_processes_meet_is_one_event(monkeypatch):
    halved = Event("memory", "out of memory with 256 examples at once; continuing with 128")
    again = Event("memory", "out of memory with 128 examples at once; continuing with 64")
    monkeypatch.setattr(exchange, "gather_values", lambda events: [events, events, [vars(again)]])
    assert distributed.gather_events([halved, again]) == (halved, again)
