import os
import signal
import socket
import subprocess
import sys
import threading

import pytest

from wbcnets.errors import CheckpointError, ConfigError
from wbcnets.io import outputs
from wbcnets.io.outputs import OutputLock, check_folder, claim_file, claim_folder

HOLD = """
import os, sys, time
from wbcnets.io.outputs import claim_folder
lock = claim_folder(sys.argv[1], "train cells")
child = os.fork() if sys.argv[2] == "fork" else -1
if child == 0:
    time.sleep(60)
print(child, flush=True)
time.sleep(60)
"""


def hold(folder, fork="alone"):
    """Returns a process that holds a folder, and the process that it forked."""
    command = [sys.executable, "-c", HOLD, str(folder), fork]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    return process, int(process.stdout.readline())


def test_the_error_names_the_process_that_writes_the_folder(tmp_path):
    process, _ = hold(tmp_path)
    owner = (
        rf"being written by wbcnets train cells, process {process.pid} on {socket.gethostname()}, "
        r"since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC; wait until it has ended, or choose another"
    )
    try:
        for claim in (check_folder, claim_folder):
            with pytest.raises(ConfigError, match=owner) as error:
                claim(tmp_path, "train cells")
            assert error.value.setting == "output"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("fork", ["alone", "fork"])
def test_the_lock_of_a_killed_process_is_no_obstacle(fork, tmp_path):
    process, child = hold(tmp_path, fork)
    process.kill()
    process.wait()
    try:
        with claim_folder(tmp_path, "train cells"):
            owner = (tmp_path / ".lock.owner").read_text()
        assert f"process {os.getpid()} on" in owner
        if child > 0:
            os.kill(child, 0)  # its loader's workers may live on for some seconds
    finally:
        if child > 0:
            os.kill(child, signal.SIGKILL)


def test_a_lock_leaves_nothing_behind(tmp_path):
    with claim_folder(tmp_path, "train cells"):
        assert {path.name for path in tmp_path.iterdir()} == {".lock", ".lock.owner", "README.txt"}
    assert {path.name for path in tmp_path.iterdir()} == {"README.txt"}
    claim_folder(tmp_path, "train cells")  # not held by a block
    with claim_folder(tmp_path, "train cells"):
        pass


def test_two_threads_of_one_process_do_not_share_a_folder(tmp_path):
    refused = []

    def claim():
        try:
            claim_folder(tmp_path, "predict smears")
        except ConfigError as error:
            refused.append(str(error))

    with claim_folder(tmp_path, "predict smears"):
        thread = threading.Thread(target=claim)
        thread.start()
        thread.join()
    assert f"process {os.getpid()} on" in refused[0]


def test_many_claims_at_once_have_one_winner(tmp_path):
    start, held, refused, done = threading.Barrier(8), [], [], threading.Event()

    def claim():
        start.wait()
        try:
            with claim_folder(tmp_path / "new", "prepare"):
                held.append(1)
                done.wait(20)
        except ConfigError:
            refused.append(1)
        if len(refused) == 7:
            done.set()

    threads = [threading.Thread(target=claim) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 7)


def fail(folder, *written):
    with claim_folder(folder, "prepare"):
        for name in written:
            (folder / name).write_bytes(b"image")
        raise ZeroDivisionError


def test_a_block_that_fails_leaves_no_new_folder_but_keeps_what_was_written(tmp_path):
    (tmp_path / "given").mkdir()
    for name, written in (("empty", []), ("half", ["a.png"]), ("given", [])):
        with pytest.raises(ZeroDivisionError):
            fail(tmp_path / name, *written)
    assert {path.name for path in tmp_path.iterdir()} == {"given", "half"}
    assert {path.name for path in (tmp_path / "half").iterdir()} == {"a.png", "README.txt"}


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "theirs").write_text("years of work")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").symlink_to(tmp_path / "theirs")
    with pytest.raises(CheckpointError, match="run: cannot be locked"):
        OutputLock(folder, "train cells")
    assert (tmp_path / "theirs").read_text() == "years of work"


def test_what_a_damaged_file_says_about_the_process_is_shortened(tmp_path):
    with OutputLock(tmp_path, "train cells"):
        (tmp_path / ".lock.owner").write_bytes(b"\xff\x1b[2J" + b"x" * 10000)
        with pytest.raises(ConfigError) as error:
            OutputLock(tmp_path, "train cells")
    assert len(str(error.value)) < 600
    assert str(error.value).split("; ")[0].isprintable()


def test_a_file_has_a_lock_of_its_own(tmp_path):
    path, other = tmp_path / "cells.csv", tmp_path / f"{'x' * 251}.csv"
    with claim_file(path):
        message = (
            rf"cells\.csv: is being written by wbcnets, process {os.getpid()} on .*another name"
        )
        with pytest.raises(ConfigError, match=message):
            claim_file(path)
        with claim_file(other):
            assert len(list(tmp_path.iterdir())) == 4
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_written_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    path = tmp_path / "cells.csv"

    def lock_late(*arguments):
        path.write_text("by another process")
        return OutputLock(*arguments)

    monkeypatch.setattr(outputs, "OutputLock", lock_late)
    with pytest.raises(ConfigError, match=r"cells\.csv: exists"):
        claim_file(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["cells.csv"]
