"""Signals become a flag: who asked before is asked too, and gets his handler back."""

import os
import signal
import threading

import pytest

from advcore.runtime import signals
from advcore.runtime.signals import Stopped, catch_signals, check, defer_stop, get_stop_signal

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.case("C1")
@BOTH
def test_a_signal_stops_at_the_next_look_and_not_before(number):
    before = signal.getsignal(number)
    with catch_signals():
        check()
        send(number)
        assert get_stop_signal() == number
        with pytest.raises(Stopped) as stopped:
            check()
        assert stopped.value.number == number and str(stopped.value) == signal.Signals(number).name
    assert signal.getsignal(number) is before
    check()
    assert get_stop_signal() is None


@pytest.mark.case("C1")
@BOTH
def test_what_is_whole_is_finished_first(number):
    done = []
    with catch_signals(), pytest.raises(Stopped):
        with defer_stop():
            send(number)
            with defer_stop():
                check()
            check()
            done.append("all of it")
        check()
    assert done == ["all of it"]


@pytest.mark.case("C1")
def test_a_stop_is_no_exception_that_somebody_handles():
    with catch_signals(), pytest.raises(Stopped):
        send(signal.SIGTERM)
        try:
            check()
        except Exception:
            pytest.fail("it was taken for a failure")


@pytest.mark.case("C1")
@BOTH
def test_a_handler_that_stood_before_is_called_and_put_back(number):
    told = []

    def theirs(received, frame):
        told.append(received)

    before = signal.signal(number, theirs)
    try:
        with catch_signals():
            send(number)
            assert told == [number] and get_stop_signal() == number
        assert signal.getsignal(number) is theirs
    finally:
        signal.signal(number, before)


@pytest.mark.case("C1")
def test_the_second_ctrl_c_stops_at_once():
    with catch_signals(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT)
        send(signal.SIGINT)
        pytest.fail("nothing happened")


@pytest.mark.case("C1")
def test_handlers_are_put_back_after_an_error_too():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), catch_signals():
        1 / 0  # noqa: B018
    assert signal.getsignal(signal.SIGTERM) is before


def test_another_thread_catches_nothing():
    before, found = signal.getsignal(signal.SIGINT), []

    def run():
        with catch_signals():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [before] and not signals._received


@pytest.mark.case("C1")
def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with catch_signals():
            send(signal.SIGINT)
            check()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_inner_one_leaves_the_signal_to_the_outer():
    with catch_signals():
        with catch_signals():
            send(signal.SIGTERM)
        assert get_stop_signal() == signal.SIGTERM
        with pytest.raises(Stopped):
            check()
    assert get_stop_signal() is None
