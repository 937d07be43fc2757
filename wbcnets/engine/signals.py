"""Ctrl-C and the scheduler's SIGTERM end a run after the current step."""

import signal
import threading
from types import FrameType
from typing import Any


class SignalHandler:
    """Notes a request to stop; a second one stops the process at once."""

    _SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "SignalHandler":
        # Only the main thread may set handlers; elsewhere the caller's stay
        if threading.current_thread() is threading.main_thread():
            for number in self._SIGNALS:
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
