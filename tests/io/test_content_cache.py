import os
import sqlite3
import time

import pytest

from tests.stress.faults.builders import picture
from wbcnets.errors import DataError
from wbcnets.io.content_cache import ContentCache
from wbcnets.io.image_facts import image_facts


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"content")
    age(path)
    return path


def age(path, seconds=60):
    then = time.time_ns() - seconds * 10**9
    os.utime(path, ns=(then, then))


def counting(value="v"):
    calls = []

    def find(path):
        calls.append(path)
        return {"value": value, "size": path.stat().st_size}

    return find, calls


def test_a_fact_is_found_out_once(tmp_path, file):
    find, calls = counting()
    for _ in range(2):
        cache = ContentCache(tmp_path / "cache")
        assert cache.facts(file, "kind", find)[1] == {"value": "v", "size": 7}
    assert len(calls) == 1
    cache.facts(file, "another kind", find)
    assert len(calls) == 2


def test_facts_of_another_release_are_never_used(tmp_path, file):
    old, _ = counting("gray made RGB, in the words of an old release")
    ContentCache(tmp_path / "cache", "0.0.9").facts(file, "kind", old)
    find, calls = counting("new")
    for _ in range(2):
        assert ContentCache(tmp_path / "cache").facts(file, "kind", find)[1]["value"] == "new"
    assert len(calls) == 1


def test_a_copy_is_known_by_its_content(tmp_path, file):
    find, calls = counting()
    cache = ContentCache(tmp_path / "cache")
    cache.facts(file, "kind", find)
    copy = tmp_path / "copy.bin"
    copy.write_bytes(b"content")
    cache.facts(copy, "kind", find)
    assert len(calls) == 1
    copy.write_bytes(b"CONTENT")
    cache.facts(copy, "kind", find)
    assert len(calls) == 2


def test_a_change_within_a_tick_is_seen(tmp_path):
    """Same size, and a time of change that the clock cannot tell from the one before."""
    find, calls = counting()
    cache = ContentCache(tmp_path / "cache")
    path = tmp_path / "x.bin"
    path.write_bytes(b"one")
    state = path.stat()
    cache.facts(path, "kind", find)
    path.write_bytes(b"two")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    cache.facts(path, "kind", find)
    assert len(calls) == 2


@pytest.mark.parametrize("damage", ["no database", "locked", "a folder in its place"])
def test_without_a_usable_cache_everything_works(tmp_path, file, damage, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    database = folder / "checks.sqlite"
    lock, connect = None, sqlite3.connect
    impatient = lambda path, timeout, **options: connect(path, timeout=0.1, **options)  # noqa: E731
    monkeypatch.setattr("wbcnets.io.content_cache.sqlite3.connect", impatient)
    if damage == "no database":
        database.write_bytes(b"this is no database" * 100)
    elif damage == "a folder in its place":
        database.mkdir()
    else:
        ContentCache(folder)
        lock = connect(database, isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
    find, calls = counting()
    cache = ContentCache(folder)
    assert cache.facts(file, "kind", find)[1]["value"] == "v"
    assert len(calls) == 1
    if lock is not None:
        lock.close()


def test_facts_of_images(tmp_path, monkeypatch):
    monkeypatch.setenv("WBCNETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "x.png"
    picture(3).save(path)
    first = image_facts(path)
    assert (first.width, first.height) == (64, 48)
    again = image_facts(path)
    assert (again.sha256, again.conversions) == (first.sha256, first.conversions)
    assert again.fingerprint.digest == first.fingerprint.digest
    assert (again.fingerprint.hash == first.fingerprint.hash).all()
    assert (again.fingerprint.thumbnail == first.fingerprint.thumbnail).all()
    path.write_bytes(b"broken")
    for _ in range(2):
        with pytest.raises(DataError, match=r"x\.png: the image cannot be read"):
            image_facts(path)
    with pytest.raises(DataError, match="does not exist"):
        image_facts(tmp_path / "gone.png")
