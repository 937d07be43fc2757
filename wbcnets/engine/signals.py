"""Ctrl-C, the scheduler's SIGTERM, and the SIGHUP of a closed terminal."""

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

# Those that ask a process to end; not every system has all of them
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# Seconds in which another signal is the same request: Ctrl-C reaches a process from the terminal
# and from the process that started it
_SAME_REQUEST = 0.5
# Seconds in which a command that stops at once may clean up undisturbed
_CLEANUP = 5.0
# Seconds until a request that was dropped is repeated
_AGAIN = 0.02


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP asked the process to end."""


class SignalHandler:
    """Handles requests to stop within a ``with`` block.

    A signal that the process ignores, as ``nohup`` sets it up, stays ignored. Only the main thread
    may set handlers; in others the block changes nothing.

    Args:
        at_once: Whether the first request raises ``KeyboardInterrupt``; otherwise it is noted, and
            the second one raises.
    """

    def __init__(self, at_once: bool = False) -> None:
        self.requested = self._raised = False
        self._at_once = at_once
        self._number: int = signal.SIGINT
        self._first = 0.0
        self._previous: dict[int, Any] = {}
        self._previous_hook: Callable[[Any], object] | None = None
        self._before_alarm: Any = None

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._note)
            self._previous_hook, sys.unraisablehook = sys.unraisablehook, self._raise_again
        return self

    def __exit__(self, kind: object, error: BaseException | None, *trace: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._previous_hook is not None:
            sys.unraisablehook = self._previous_hook
        if self._before_alarm is not None:  # the work was done before the request came again
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._end_alarm()
        if self._raised and isinstance(error, Exception):
            raise self.interruption() from error  # what it broke, such as a file being written

    def interruption(self) -> KeyboardInterrupt:
        """Returns the exception for the request: ``Terminated``, or Ctrl-C's."""
        return KeyboardInterrupt() if self._number == signal.SIGINT else Terminated()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._number, self._first = True, number, now
            if self._at_once:
                self._raised = True
                raise self.interruption()
        elif now - self._first >= (_CLEANUP if self._at_once else _SAME_REQUEST):
            self._raised = True
            raise self.interruption()

    def _raise_again(self, unraisable: Any) -> None:
        """Repeats a request that came in a place which drops exceptions, as hooks of a fork do."""
        if not self.requested and self._previous_hook is not None:
            self._previous_hook(unraisable)
        is_request = isinstance(unraisable.exc_value, KeyboardInterrupt)
        if not is_request or not hasattr(signal, "SIGALRM"):
            return  # after a request: what it broke, such as an object that was being made

        def interrupt(number: int, frame: FrameType | None) -> None:
            self._end_alarm()
            raise self.interruption()

        before = signal.signal(signal.SIGALRM, interrupt)
        if self._before_alarm is None:
            self._before_alarm = before
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)

    def _end_alarm(self) -> None:
        before, self._before_alarm = self._before_alarm, None
        signal.signal(signal.SIGALRM, before or signal.SIG_DFL)
