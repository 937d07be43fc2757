"""Runs a command in a process of its own, disturbs it, and looks at what it leaves."""

import atexit
import hashlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image

from tests.processes import Worker
from tests.stress.signals.case import Case
from tests.stress.signals.commands import words
from wbcnets.io.atomic_files import verify_digest

# Seconds in which a process must end after a signal, and its children after it
PATIENCE = 60.0
# Has a content as soon as the command begins
STARTED = "started"


def run_case(case: Case, folder: Path) -> tuple[int, str, list[str]]:
    """Returns the exit code, the output, and a line per broken promise.

    Args:
        case: The case.
        folder: Inputs of ``make_inputs``; the command works there.
    """
    (folder / "output").mkdir()
    (folder / "temporary").mkdir()
    before = digests(folder)
    for name in ("shown.txt", STARTED):
        (folder / name).touch()
    worker = Worker(folder / "shown.txt", work, case.before, words(case.command), folder)
    disturb(worker, case)
    code = worker.wait(PATIENCE)
    broken = [] if not left_processes(worker.process.pid) else ["processes are left"]
    text = worker.text
    if code not in case.codes:
        broken.append(f"exit code {code}, not {sorted(case.codes)}")
    if "Traceback" in text or "Exception ignored" in text:
        broken.append("a traceback")
    if code and case.text not in text.lower():
        broken.append(f"the output does not say {case.text!r}")
    killed = case.victim == "main"  # leaves what a later run removes
    if not killed and list((folder / "temporary").iterdir()):
        broken.append(f"left in the temporary folder: {os.listdir(folder / 'temporary')}")
    broken += [f"{name} was changed" for name, value in before.items() if digest(name) != value]
    for path in sorted((folder / "output").rglob("*")):
        broken += look_at(path, killed)
    return code, text, broken


def work(before, command, folder):
    """Runs ``wbcnets``; the process ends as a command's, with the exit handlers of Python."""
    from wbcnets.cli.main import main

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    multiprocessing.set_start_method("fork", force=True)  # as a command's own
    os.chdir(folder)
    tempfile.tempdir = str(folder / "temporary")
    os.environ["TMPDIR"] = tempfile.tempdir
    started = os.open(folder / STARTED, os.O_WRONLY)  # also if the folder cannot be written then
    if before is not None:
        before()
    os.write(started, b"1")
    os.close(started)
    try:
        code = main(command)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def disturb(worker: Worker, case: Case) -> None:
    """Sends the signals, or kills the victim as soon as there is one."""
    pid, deadline = worker.process.pid, time.monotonic() + PATIENCE
    started = worker.log.with_name(STARTED)
    while worker.is_alive and not started.stat().st_size and time.monotonic() < deadline:
        time.sleep(0.002)
    start = time.monotonic()
    if case.victim == "main":
        time.sleep(case.seconds[0])
        if worker.is_alive:
            os.kill(pid, signal.SIGKILL)
    while case.victim == "worker" and worker.is_alive:
        workers = children(pid)
        if workers:
            os.kill(workers[0], signal.SIGKILL)
            return
        time.sleep(0.002)
    for moment in case.seconds if case.number else ():
        time.sleep(max(0.0, start + moment - time.monotonic()))
        if not worker.is_alive:
            return
        with suppress(ProcessLookupError):  # it ends, or has not made its session yet
            (os.killpg if case.to_all else os.kill)(pid, case.number)


def children(pid: int) -> list[int]:
    """Returns the processes that a process has started."""
    try:
        return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def left_processes(session: int) -> list[str]:
    """Returns the processes of a session that do not end within some seconds; ends them."""
    deadline = time.monotonic() + 15
    while found := [path.name for path in Path("/proc").glob("[0-9]*") if is_in(path, session)]:
        if time.monotonic() > deadline:
            os.killpg(session, signal.SIGKILL)
            return found
        time.sleep(0.05)
    return []


def is_in(process: Path, session: int) -> bool:
    """Returns whether a process of ``/proc`` runs in a session."""
    try:
        fields = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] != "Z" and int(fields[3]) == session


def digests(folder: Path) -> dict[Path, str]:
    """Returns the digest of every file."""
    return {path: digest(path) for path in folder.rglob("*") if path.is_file()}


def digest(path: Path) -> str:
    """Returns the digest of a file, or that it is gone."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "gone"


def look_at(path: Path, killed: bool) -> list[str]:
    """Returns a line if a file is temporary, or is not whole."""
    if path.name.startswith("."):
        return [] if killed else [f"{path.name} is left"]
    try:
        if path.suffix == ".json" and path.name != "metrics.json":
            json.loads(path.read_bytes())
        elif path.suffix == ".csv":
            assert path.read_bytes().endswith(b"\n")
        elif path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".pth":
            torch.load(path, weights_only=True)
        elif path.suffix == ".safetensors":
            assert Path(f"{path}.sha256").is_file() or path.name == "model.safetensors"
            verify_digest(path)
    except Exception as error:  # whatever a reader raises means that the file is not whole
        return [f"{path.name} is not whole: {error!r}"]
    return []
