import gc
import multiprocessing
import os
import resource
import signal
import time

import pytest
from torch.utils.data import Dataset

from wbcnets.engine.loader import WatchedLoader, check_workers
from wbcnets.errors import ConfigError, DataError
from wbcnets.evaluation.evaluate import evaluate_classifier


class Images(Dataset):
    """Ten numbers; one of them does something on the way."""

    def __init__(self, bad=None, act=None):
        self.bad, self.act = bad, act

    def __len__(self):
        return 10

    def __getitem__(self, index):
        if index == self.bad:
            self.act()
        return index


def describe(index):
    return f"image_{index}.png"


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def fail():
    raise DataError("image_6.png: the image cannot be read")


def load(bad=None, act=None, **options):
    loader = WatchedLoader(Images(bad, act), describe, num_workers=2, batch_size=2, **options)
    return [batch.tolist() for batch in loader]


def test_batches_come_as_without_workers():
    expected = [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
    assert load(timeout=60) == expected
    loader = WatchedLoader(Images(), describe, batch_size=2)
    assert len(loader) == 5
    assert [[batch.tolist() for batch in loader] for _ in range(2)] == [expected, expected]
    assert loader.items.in_progress() == []


def test_a_dead_worker_is_named_with_its_image():
    with pytest.raises(DataError, match=r"worker process died, while reading image_6\.png"):
        load(6, kill, timeout=60)


def test_a_hung_worker_is_named_with_its_image():
    start = time.monotonic()
    with pytest.raises(DataError, match=r"gave no batch for 3 s, while reading image_6\.png"):
        load(6, hang, timeout=3)
    assert time.monotonic() - start < 3 + 5


def limit_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))


def test_a_worker_that_cannot_hand_on_its_batch_ends_at_once():
    start = time.monotonic()
    with pytest.raises(DataError, match=r"cannot hand on a batch \(.*Error: .*Too many open files"):
        load(6, limit_files, timeout=40)
    assert time.monotonic() - start < 20


def test_errors_of_items_come_through_and_leave_no_worker():
    start = time.monotonic()
    with pytest.raises(DataError, match="the image cannot be read"):
        load(6, fail, timeout=60)
    gc.collect()
    assert multiprocessing.active_children() == []
    assert time.monotonic() - start < 5  # PyTorch waits 5 seconds for each worker


def test_more_workers_than_a_machine_bears_are_refused():
    assert check_workers(64, "data.workers") == 64
    with pytest.raises(ConfigError, match=r"workers=100000 should be at most 64 .* \d+ CPUs"):
        evaluate_classifier("resnext_cc_26.pbc", "no_such_data", workers=100_000)
