"""Runs command lines in forked children of one warm process, and watches what they do.

A child runs a batch of lines, each answered before the next is sent. It has no network, no rights
(where the parent is root), a limit of memory, and its output goes to files. The parent compares the
sandbox before and after every line, and removes what the line created.
"""

import contextlib
import ctypes
import fcntl
import gc
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import stat
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.stress.commands import sandbox as sandboxes
from tests.stress.commands.grammar import commands
from tests.stress.commands.promises import SECONDS, Outcome, missing_results
from wbcnets.cli.main import build_parser, main

BATCH = 200
NOBODY = 65534
MEMORY = 4 << 30  # in addition to what the parent has
Facts = dict[str, tuple[int, ...]]


class Runner:
    """Runs lines in one sandbox.

    Args:
        root: An empty folder for the sandbox; a user without rights must be able to enter it.
    """

    def __init__(self, root: Path) -> None:
        self.sandbox = sandboxes.make_folders(root)
        self.logs = root.with_name(root.name + "_logs")
        self.logs.mkdir()
        import_commands()
        gc.freeze()  # children copy fewer pages
        leave_network()
        if os.geteuid() == 0:
            _give_away(root)
        self._child: Child | None = None
        self._build()
        self.pristine = root.with_name(root.name + "_pristine")
        _copy(root, self.pristine)
        self.facts = facts(self.sandbox.work)

    def _build(self) -> None:
        outcome = self._send(["BUILD"], limit=600.0)
        assert outcome.code == 0, outcome.error + outcome.stderr
        self.stop()

    def stop(self) -> None:
        """Ends the child."""
        if self._child is not None:
            self._child.stop()
        self._child = None

    def run(self, words: list[str], limit: float = SECONDS * 1.5) -> Outcome:
        """Runs one line, and restores the sandbox."""
        outcome = self._send(words, limit)
        after = facts(self.sandbox.work)
        if after != self.facts:
            outcome.changed = sorted(
                path for path, known in self.facts.items() if after.get(path) != known
            )
            outcome.created = sorted(after.keys() - self.facts.keys())
        temporary = self.sandbox.root / "temporary"
        outcome.payload = self.sandbox.marker.exists()
        if outcome.code is not None:
            outcome.leftovers = sorted(os.listdir(temporary))
        self._restore(outcome)
        return outcome

    def run_alone(self, words: list[str]) -> Outcome:
        """Runs one line in a child of its own."""
        self.stop()
        outcome = self.run(words)
        self.stop()
        return outcome

    def _send(self, words: list[str], limit: float) -> Outcome:
        if self._child is None or self._child.lines >= BATCH:
            self.stop()
            self._child = Child(self.sandbox, self.logs)
        outcome = self._child.run(words, limit)
        if outcome.code is None or outcome.error or outcome.seconds > 1:
            self.stop()
        return outcome

    def _restore(self, outcome: Outcome) -> None:
        for name in os.listdir(self.sandbox.root / "temporary"):
            _remove(self.sandbox.root / "temporary" / name)
        if outcome.payload:
            self.sandbox.marker.unlink()
        if outcome.changed:
            self.stop()
            shutil.rmtree(self.sandbox.root)
            _copy(self.pristine, self.sandbox.root)
            self.facts = facts(self.sandbox.work)
            return
        for path in outcome.created:
            with contextlib.suppress(FileNotFoundError):
                _remove(self.sandbox.work / path)


class Child:
    """A process that runs lines."""

    def __init__(self, sandbox: sandboxes.Sandbox, logs: Path) -> None:
        self.sandbox, self.logs, self.lines = sandbox, logs, 0
        self.connection, inner = multiprocessing.Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            with contextlib.suppress(BaseException):
                _serve(inner, sandbox, logs)
            os._exit(0)
        inner.close()

    def run(self, words: list[str], limit: float) -> Outcome:
        """Runs one line; a line that takes longer than the limit is stopped."""
        self.lines += 1
        outcome, start = Outcome(words, work=self.sandbox.work), time.monotonic()
        try:
            self.connection.send(words)
            while not self.connection.poll(0.5) and time.monotonic() - start < limit:
                outcome.processes = max(outcome.processes, _count_session(self.pid))
            answer = self.connection.recv() if self.connection.poll(0) else {}
        except (EOFError, OSError):
            answer = {"error": "the process died"}
        outcome.seconds = time.monotonic() - start
        for name, value in answer.items():
            setattr(outcome, name, value)
        for name in ("stdout", "stderr"):
            content = (self.logs / name).read_bytes()[-20_000:]
            setattr(outcome, name, content.decode(errors="replace"))
        return outcome

    def stop(self) -> None:
        """Kills the process and those that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.connection.close()


def _serve(connection: Connection, sandbox: sandboxes.Sandbox, logs: Path) -> None:
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), number)
    sys.stdout = open(1, "w", buffering=1, errors="surrogateescape", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # If the machine's memory ends, the kernel kills this process, not the one that counts
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    if os.geteuid() == 0:
        _give_up_rights()
    os.environ.update(sandbox.environment)
    while True:
        words = connection.recv()
        os.truncate(1, 0)
        os.truncate(2, 0)
        connection.send(_answer(words, sandbox))


def _answer(words: list[str], sandbox: sandboxes.Sandbox) -> dict[str, Any]:
    os.chdir(sandbox.work)
    answer: dict[str, Any] = {"code": None}
    with _restored_process():
        try:
            if words == ["BUILD"]:
                sandboxes.build(sandbox, main)
                return {"code": 0}
            answer["code"] = main(words)
        except SystemExit as end:
            answer["code"] = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            answer["error"] = traceback.format_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os.chdir(sandbox.work)
        if answer["code"] == 0:
            with contextlib.suppress(SystemExit):
                answer["missing"] = missing_results(words, build_parser().parse_args(words))
    return answer


@contextlib.contextmanager
def _restored_process() -> Iterator[None]:
    """Restores what commands change in their process."""
    environment, path = dict(os.environ), list(sys.path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    loggers = [logging.getLogger(n) for n in ("", "detectron2", "fvcore", "mfds_detr", "wbcnets")]
    before = [(logger.propagate, logger.level, list(logger.handlers)) for logger in loggers]
    try:
        with warnings.catch_warnings():
            yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        sys.path[:] = path
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for logger, (propagate, level, attached) in zip(loggers, before):
            logger.propagate, logger.level, logger.handlers[:] = propagate, level, attached


def import_commands() -> None:
    """Imports all that commands import late, so that children need not."""
    import matplotlib.pyplot  # noqa: F401
    import timm  # noqa: F401
    import torch
    import torch._dynamo
    import torch.utils.tensorboard

    import wbcnets.train.run  # noqa: F401

    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import albumentations  # noqa: F401

    torch.set_num_threads(1)
    commands()


def leave_network() -> bool:
    """Moves this process into a network of its own with a loopback; returns whether it could."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(0x40000000) != 0:  # CLONE_NEWNET
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        flags = struct.pack("16sh14x", b"lo", 1)  # IFF_UP
        with contextlib.suppress(OSError):
            fcntl.ioctl(control, 0x8914, flags)  # SIOCSIFFLAGS
    return True


def _give_up_rights() -> None:
    """Makes this process an ordinary user's that may still read every file.

    Modules that are imported late may lie in a folder of root.
    """
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    read = 1 << 2  # CAP_DAC_READ_SEARCH
    header = struct.pack("Ii", 0x20080522, 0)
    library.capset(header, struct.pack("6I", read, read, 0, 0, 0, 0))


def facts(folder: Path) -> Facts:
    """Returns identity, size, times and rights of every file, and the folders, by relative path."""
    found: Facts = {}
    pending = [str(folder)]
    skip = len(str(folder)) + 1
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    found[entry.path[skip:]] = (status.st_mode,)
                    pending.append(entry.path)
                else:
                    found[entry.path[skip:]] = (
                        status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                        status.st_mode,
                    )  # fmt: skip
    return found


def _count_session(session: int) -> int:
    count = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                count += int(fields[3]) == session
    return count


def _give_away(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


def _copy(source: Path, target: Path) -> None:
    """Copies a sandbox with its owners, rights, links and pipes."""
    shutil.copytree(source, target, symlinks=True, copy_function=_copy_file)
    for path in (source, *source.rglob("*")):
        status, other = path.lstat(), target / path.relative_to(source)
        os.chown(other, status.st_uid, status.st_gid, follow_symlinks=False)
        if not path.is_symlink():
            other.chmod(stat.S_IMODE(status.st_mode))


def _copy_file(source: str, target: str) -> str:
    if stat.S_ISFIFO(os.lstat(source).st_mode):
        os.mkfifo(target)
        return target
    return str(shutil.copy2(source, target, follow_symlinks=False))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
