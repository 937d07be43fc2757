"""Ctrl-C, the scheduler's SIGTERM, and the SIGHUP of a closed terminal."""

import signal
import threading
import time
from types import FrameType
from typing import Any

# Those that ask a process to end; not every system has all of them
SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
# Seconds in which another signal is the same request: Ctrl-C reaches a process from the terminal
# and from the process that started it
_SAME_REQUEST = 0.5


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
        self.requested = False
        self._at_once = at_once
        self._number: int = signal.SIGINT
        self._first = 0.0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "SignalHandler":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def interruption(self) -> KeyboardInterrupt:
        """Returns the exception for the request: ``Terminated``, or Ctrl-C's."""
        return KeyboardInterrupt() if self._number == signal.SIGINT else Terminated()

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.requested:
            self.requested, self._number, self._first = True, number, now
            if self._at_once:
                raise self.interruption()
        elif now - self._first >= _SAME_REQUEST:
            raise self.interruption()
