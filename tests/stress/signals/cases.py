"""The table of disturbances: signals at random moments of every command, and limits."""

import ctypes
import os
import random
import resource
import signal
from pathlib import Path

from tests.stress.signals.case import FINISHED, INTERRUPTED, TERMINATED, Case
from tests.stress.signals.commands import COMMANDS

# The commands that get a SIGINT in the short tests
QUICK = ("check", "train cells", "predict smears")
MOMENTS = 1  # of each command, signal and number of signals, in the long tests
FAILED = frozenset({1, 2})


def lower(name: int, value: int) -> None:
    """Lowers a limit of this process."""
    resource.setrlimit(name, (value, value))


def few_files() -> None:
    """Allows 64 open files."""
    lower(resource.RLIMIT_NOFILE, 64)


def little_memory() -> None:
    """Allows 48 MiB of addresses more than there are."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    lower(resource.RLIMIT_AS, pages * resource.getpagesize() + (48 << 20))


def small_files() -> None:
    """Allows files of 2 KiB."""
    lower(resource.RLIMIT_FSIZE, 2048)


def no_compiler() -> None:
    """Hides the compilers, and the loops that they compiled before."""
    os.environ |= {
        "PATH": "/nonexistent",
        "CXX": "false",
        "WBCNETS_CACHE": os.path.abspath("cache"),
    }


def no_home() -> None:
    """Removes the home and the language, as in a bare container."""
    for name in ("HOME", "USER", "LOGNAME", "WBCNETS_CACHE", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)
    os.environ |= {"LANG": "C", "LC_ALL": "C", "TERM": "dumb"}


def no_privileges() -> None:
    """Makes permissions hold for root, too."""
    library = ctypes.CDLL(None, use_errno=True)
    version, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert os.getuid() or library.capset(version, nothing) == 0, os.strerror(ctypes.get_errno())


def read_only() -> None:
    """Allows to write the output and the temporary folder, and neither home, caches nor inputs."""
    os.environ |= {"HOME": os.getcwd(), "XDG_CACHE_HOME": os.path.abspath("cells")}
    os.environ.pop("WBCNETS_CACHE", None)
    for path in (Path.cwd(), *Path.cwd().rglob("*")):
        path.chmod(0o755 if path.name in ("output", "temporary") else path.stat().st_mode & 0o555)
    no_privileges()


def locked_output() -> None:
    """Makes the output another user's."""
    os.chmod("output", 0o555)
    no_privileges()


def unreadable() -> None:
    """Makes a part of the inputs another user's."""
    for path in ("best.pth", "smears/images/smear_000000.png", "cells/a/0.png"):
        os.chmod(path, 0)
    no_privileges()


def signals() -> list[Case]:
    """Returns SIGINT and SIGTERM, once and twice, at random moments of every command."""
    cases, generator = [], random.Random(0)
    for command, (seconds, _) in COMMANDS.items():
        for name, codes in (("SIGINT", INTERRUPTED), ("SIGTERM", TERMINATED)):
            for times in (1, 2):
                for turn in range(MOMENTS):
                    first = generator.uniform(0.02, seconds)
                    moments = (first, first + generator.uniform(0, 0.8))[:times]
                    is_long = (name, times, turn) != ("SIGINT", 1, 0) or command not in QUICK
                    cases.append(
                        Case(
                            command, f"{name}{' twice' * (times - 1)}", codes, moments,
                            getattr(signal, name), to_all=name == "SIGINT", long=is_long,
                        )
                    )  # fmt: skip
    return cases


def deaths() -> list[Case]:
    """Returns loader workers and main processes that are killed."""
    killed = frozenset({0, -signal.SIGKILL})
    cases = [
        Case(name, "a loader's worker is killed", frozenset({0, 1}), victim="worker",
             text="a worker process died", long=name != "evaluate cells")
        for name in ("train cells", "evaluate cells", "train smears")
    ]  # fmt: skip
    for name in ("train cells", "train smears"):
        seconds = (COMMANDS[name][0] / 2,)
        cases.append(Case(name, "the process is killed", killed, seconds, victim="main", long=True))
    return cases


def limits() -> list[Case]:
    """Returns every command under every limit; those that need little of it may finish."""
    fine = FINISHED | FAILED
    light = ("check", "train cells", "evaluate cells", "predict smears", "export cells", "smears")
    kinds = [
        ("ulimit -n 64", few_files, fine, ("train cells", "train smears", "predict cells")),
        ("ulimit -v", little_memory, fine, ("predict cells", *light)),
        ("ulimit -f", small_files, fine, COMMANDS),
        ("no compiler", no_compiler, FINISHED, ("predict cells", "predict smears", "benchmark")),
        ("no home, LANG=C", no_home, FINISHED, ("smears", "train cells", "evaluate smears")),
        ("a read-only home", read_only, FINISHED, ("predict cells", "train smears", *light)),
        ("an output of another user", locked_output, frozenset({2}), COMMANDS),
        ("inputs of another user", unreadable, fine, ("prepare", "predict cells", *light)),
    ]
    quick = {
        ("check", "ulimit -f"),
        ("train cells", "ulimit -n 64"),
        ("predict cells", "ulimit -v"),
        ("export cells", "an output of another user"),
        ("predict cells", "a read-only home"),
        ("predict smears", "inputs of another user"),
    }
    return [
        Case(command, title, codes, before=before, long=(command, title) not in quick, text="error")
        for title, before, codes, commands in kinds
        for command in commands
    ]


CASES = [*signals(), *deaths(), *limits()]
