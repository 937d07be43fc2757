import os
import signal
import sys
import threading
import time

import pytest

from wbcnets.engine import signals
from wbcnets.engine.signals import SIGNALS, SignalHandler, Terminated


@pytest.fixture(autouse=True)
def interruptible(monkeypatch):
    """Handles SIGINT as a command does, also if the tests run in the background."""
    monkeypatch.setattr(signals, "_SAME_REQUEST", 0.0)
    monkeypatch.setattr(signals, "_CLEANUP", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_request_is_noted_and_the_second_one_raises(number):
    with SignalHandler() as handler:
        send(number)
        assert handler.requested
        with pytest.raises(KeyboardInterrupt):
            send(number)
    assert isinstance(handler.interruption(), Terminated) == (number != signal.SIGINT)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_command_stops_at_once(number):
    with pytest.raises(KeyboardInterrupt) as error, SignalHandler(at_once=True):
        send(number)
    assert isinstance(error.value, Terminated) == (number != signal.SIGINT)


def test_a_repetition_within_half_a_second_is_the_same_request(monkeypatch):
    monkeypatch.setattr(signals, "_SAME_REQUEST", 60.0)
    with SignalHandler() as handler:
        for number in SIGNALS:
            send(number)
        assert handler.requested
        assert not isinstance(handler.interruption(), Terminated)  # SIGINT came first


def test_ignored_signals_stay_ignored_and_handlers_come_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with SignalHandler(at_once=True) as handler:
            send(signal.SIGHUP)
            assert signal.getsignal(signal.SIGINT) == handler._note
        assert not handler.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) != handler._note
    finally:
        signal.signal(signal.SIGHUP, before)


def test_other_threads_leave_the_handlers_alone():
    before = signal.getsignal(signal.SIGTERM)
    found = []

    def work():
        with SignalHandler(at_once=True):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def break_a_file():
    with SignalHandler():
        try:
            send(signal.SIGTERM)
            send(signal.SIGTERM)
        except KeyboardInterrupt:
            raise RuntimeError("unexpected pos 896 vs 790") from None  # as PyTorch's writer


def test_what_a_request_breaks_is_the_request():
    with pytest.raises(Terminated) as error:
        break_a_file()
    assert isinstance(error.value.__cause__, RuntimeError)


class Dropping:
    """An object whose end drops exceptions, as Python does in hooks and finalizers."""

    def __del__(self):
        send(signal.SIGTERM)


def test_a_request_that_python_drops_comes_again():
    with SignalHandler(at_once=True):
        Dropping()
        with pytest.raises(Terminated):
            time.sleep(20)


def test_a_request_that_comes_too_late_does_not_come_again():
    before = signal.getsignal(signal.SIGALRM)
    with SignalHandler(at_once=True):
        Dropping()
    time.sleep(0.1)
    assert signal.getsignal(signal.SIGALRM) == before


def test_other_exceptions_that_python_drops_are_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    monkeypatch.setattr(Dropping, "__del__", lambda self: 1 / 0)
    with SignalHandler():
        Dropping()
    assert isinstance(shown[0].exc_value, ZeroDivisionError)
    assert sys.unraisablehook == shown.append
