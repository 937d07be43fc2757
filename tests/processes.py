"""Processes that start in milliseconds: a fork server has imported PyTorch and the packages."""

import functools
import multiprocessing
import os
import runpy
import signal
import sys
from multiprocessing import forkserver
from pathlib import Path
from unittest import mock

PRELOADED = ["torch._dynamo", "wbcnets.train.run", "mfds_detr.cli.train"]


class Worker:
    """A process that runs ``work(*args)``, for tests that kill it or leave it alone.

    Args:
        log: File for its standard output and error.
        work: Function of a module.
        args: Its arguments.
        environment: Further variables.
    """

    def __init__(self, log, work, *args, environment=None):
        self.log = Path(log)
        task = (str(log), work, args, environment or {})
        self.process = fork_server().Process(target=_run, args=task)
        self.process.start()

    @property
    def is_alive(self):
        return self.process.is_alive()

    @property
    def text(self):
        return self.log.read_text(errors="replace")

    def wait(self, timeout=300):
        """Waits for the end and returns the exit code, negative for a signal."""
        self.process.join(timeout)
        assert not self.is_alive, f"still running after {timeout} s:\n{self.text[-3000:]}"
        return self.process.exitcode

    def kill(self):
        """Kills the process with its children, and waits for the end."""
        if self.is_alive:
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.wait()


@functools.cache
def fork_server():
    """Returns the context of processes that one clean process forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        forkserver.ensure_running()
    return context


def run_script(path, *arguments):
    """Runs a script as ``python PATH ARGUMENTS`` does."""
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), run_name="__main__")


def _run(log, work, args, environment):
    import torch

    os.setsid()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.update(environment)
    torch.set_num_threads(1)
    # Several processes of one run fork from this one
    start = torch.multiprocessing.start_processes
    torch.multiprocessing.spawn = functools.partial(start, start_method="fork")
    sys.exit(work(*args))
