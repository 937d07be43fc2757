"""The description of one disturbance of a command."""

import signal
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A command, what happens to it, and how it must end.

    Args:
        command: Name in ``tests.stress.signals.commands.COMMANDS``.
        disturbance: What happens, in a few words.
        codes: The exit codes that are right; negative for a signal.
        seconds: When the signals come, after the start.
        number: The signal; 0 for none.
        to_all: Whether all processes of the command get it, as from a terminal.
        before: Called in the process before the command, such as to lower a limit.
        text: Must be part of what the command prints, if it fails.
        victim: "worker" or "main" if that process is killed.
        long: Whether the case belongs to the long tests.
    """

    command: str
    disturbance: str
    codes: frozenset[int]
    seconds: tuple[float, ...] = ()
    number: int = 0
    to_all: bool = False
    before: Callable[[], None] | None = None
    text: str = ""
    victim: str = ""
    long: bool = False

    @property
    def id(self) -> str:
        """The case's name in tests."""
        moments = "".join(f" {moment:.3f}" for moment in self.seconds)
        return f"{self.command}: {self.disturbance}{moments}".replace(" ", "-")


# A command that has ended before its signal is right, too; so is one that the signal ends before it
# handles signals, within Python's start
FINISHED = frozenset({0})
INTERRUPTED = FINISHED | {130, -signal.SIGINT}
TERMINATED = FINISHED | {143, -signal.SIGTERM}
