import json
import os
import shutil
import sqlite3
import stat

import pytest

from tests.stress.faults.builders import picture
from wbcnets.errors import DataError
from wbcnets.io import content_cache
from wbcnets.io.content_cache import ContentCache, cache_folder
from wbcnets.io.image_facts import image_facts

NEEDS_OWNERS = pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")


class Finder:
    """Counts how often facts are found."""

    def __init__(self, value="v"):
        self.value, self.calls = value, 0

    def __call__(self, content):
        self.calls += 1
        return {"value": self.value, "size": len(content)}


def read(found):
    return found["value"], int(found["size"])


def facts(cache, content=b"content", find=None):
    return cache.facts(content, "kind", find or Finder(), read)[1]


def test_a_fact_is_found_once(tmp_path):
    find = Finder()
    for _ in range(2):
        cache = ContentCache(tmp_path)
        assert facts(cache, find=find) == ("v", 7)
    assert find.calls == 1
    cache.facts(b"content", "another kind", find, read)
    assert find.calls == 2
    assert facts(cache, b"CONTENT", find) == ("v", 7)
    assert find.calls == 3


def test_facts_of_another_release_are_never_used(tmp_path):
    old = Finder("gray made RGB, in the words of an old release")
    facts(ContentCache(tmp_path, "0.0.9"), find=old)
    find = Finder("new")
    for _ in range(2):
        assert facts(ContentCache(tmp_path), find=find) == ("new", 7)
    assert find.calls == 1


def test_other_images_of_the_same_state_are_not_taken_for_the_ones_before(tmp_path):
    """Archives with fixed times, copied homes and restored backups keep size and times."""
    path = tmp_path / "x.bmp"
    picture(3).save(path)
    state = path.stat()
    first = image_facts(path)
    picture(4).save(tmp_path / "y.bmp")
    with path.open("r+b") as stream:  # the same inode
        stream.write((tmp_path / "y.bmp").read_bytes())
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    again = image_facts(path)
    assert again.sha256 != first.sha256
    assert again.fingerprint.digest == image_facts(tmp_path / "y.bmp").fingerprint.digest


@pytest.mark.parametrize(
    "value",
    ["no JSON", "", '{"value": "v"', "{}", "[]", "null", '{"value": "v", "size": "many"}', b"\xff"],
    ids=repr,
)
@pytest.mark.parametrize("forged", [False, True], ids=["damaged", "of another shape"])
def test_facts_that_cannot_be_right_are_found_again(tmp_path, value, forged):
    facts(ContentCache(tmp_path))
    database = sqlite3.connect(tmp_path / "checks.sqlite", isolation_level=None)
    digest, kind = database.execute("SELECT sha256, kind FROM facts").fetchone()
    checksum = content_cache._checksum(digest, kind, value) if forged else "?"
    database.execute("UPDATE facts SET value = ?", (value,))
    if forged:
        database.execute("UPDATE facts SET checksum = ?", (checksum,))
    find = Finder("found again")
    for _ in range(2):
        assert facts(ContentCache(tmp_path), find=find) == ("found again", 7)
    assert find.calls == 1


def test_a_changed_value_does_not_fit_its_checksum(tmp_path):
    facts(ContentCache(tmp_path))
    database = sqlite3.connect(tmp_path / "checks.sqlite", isolation_level=None)
    database.execute("UPDATE facts SET value = ?", (json.dumps({"value": "forged", "size": 7}),))
    assert facts(ContentCache(tmp_path)) == ("v", 7)


@pytest.mark.parametrize(
    "damage", ["no database", "empty", "cut short", "another table", "overwritten in use"]
)
def test_a_damaged_cache_is_made_anew(tmp_path, damage):
    path, find = tmp_path / "checks.sqlite", Finder()
    cache = ContentCache(tmp_path)
    for number in range(200):  # several pages
        facts(cache, str(number).encode() * 40)
    if damage == "another table":
        path.unlink()
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE facts (sha256 TEXT, kind TEXT, value TEXT)")
    elif damage == "overwritten in use":
        path.write_bytes(b"this is no database" * 4000)
        assert facts(cache, find=find) == ("v", 7)
    else:
        size = {"no database": 0, "empty": 0, "cut short": path.stat().st_size * 6 // 10}[damage]
        os.truncate(path, size)
        path.write_bytes(b"junk" * 5000 if damage == "no database" else path.read_bytes())
    for _ in range(3):
        assert facts(ContentCache(tmp_path), find=find) == ("v", 7)
    assert find.calls <= 2
    later = Finder("not asked")
    assert facts(ContentCache(tmp_path), find=later) == ("v", 7)
    assert later.calls == 0


@pytest.mark.parametrize("damage", ["locked", "a folder in its place", "the folder is a file"])
def test_without_a_usable_cache_everything_works(tmp_path, damage, monkeypatch):
    folder = tmp_path / "cache"
    connect = sqlite3.connect
    impatient = lambda path, timeout, **options: connect(path, timeout=0.1, **options)  # noqa: E731
    monkeypatch.setattr("wbcnets.io.content_cache.sqlite3.connect", impatient)
    lock = None
    if damage == "the folder is a file":
        folder.write_text("x")
    elif damage == "a folder in its place":
        (folder / "checks.sqlite").mkdir(parents=True)
    else:
        folder.mkdir()
        facts(ContentCache(folder))
        lock = connect(folder / "checks.sqlite", isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
    find = Finder()
    assert facts(ContentCache(folder), find=find) == ("v", 7)
    assert find.calls == 1
    if lock is not None:
        lock.close()
        assert facts(ContentCache(folder), find=find) == ("v", 7)
        assert find.calls == 1  # a locked cache is not thrown away


@pytest.fixture
def chosen_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(content_cache.VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(content_cache, "_shared", {})
    return tmp_path / "cache"


@NEEDS_OWNERS
def test_nobody_else_can_write_to_the_cache(chosen_folder):
    before = os.umask(0o002)
    try:
        facts(content_cache.shared_cache())
    finally:
        os.umask(before)
    assert stat.S_IMODE(chosen_folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((chosen_folder / "checks.sqlite").stat().st_mode) == 0o600


@NEEDS_OWNERS
@pytest.mark.parametrize("what", ["folder", "file"])
def test_a_cache_that_others_can_write_to_is_not_trusted(chosen_folder, what, caplog):
    facts(content_cache.shared_cache(), find=Finder("planted"))
    content_cache._shared.clear()
    path = chosen_folder if what == "folder" else chosen_folder / "checks.sqlite"
    path.chmod(0o777)
    assert facts(content_cache.shared_cache()) == ("v", 7)
    assert ("can be written by others" in caplog.text) == (what == "folder")
    if what == "file":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@NEEDS_OWNERS
def test_a_folder_of_another_user_is_refused(chosen_folder, monkeypatch):
    chosen_folder.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: chosen_folder.stat().st_uid + 1)
    with pytest.raises(PermissionError, match=r"belongs to .* WBCNETS_CACHE"):
        cache_folder()


def test_a_user_without_a_home_has_no_cache(chosen_folder, monkeypatch, caplog):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv(content_cache.VARIABLE)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pathlib.Path.home", no_home)
    assert facts(content_cache.shared_cache()) == ("v", 7)
    assert "Name a folder in WBCNETS_CACHE" in caplog.text


def test_facts_of_images(tmp_path, chosen_folder):
    path = tmp_path / "x.png"
    picture(3).save(path)
    first = image_facts(path)
    assert (first.width, first.height) == (64, 48)
    content_cache._shared.clear()
    shutil.copyfile(path, tmp_path / "copy.png")
    again = image_facts(tmp_path / "copy.png")
    assert (again.sha256, again.conversions) == (first.sha256, first.conversions)
    assert again.fingerprint.digest == first.fingerprint.digest
    assert (again.fingerprint.hash == first.fingerprint.hash).all()
    assert (again.fingerprint.thumbnail == first.fingerprint.thumbnail).all()
    path.write_bytes(b"broken")
    for name in ("x.png", "y.png"):
        path.rename(tmp_path / name)
        path = tmp_path / name
        with pytest.raises(DataError, match=rf"{name}: the image cannot be read"):
            image_facts(path)
    with pytest.raises(DataError, match="does not exist"):
        image_facts(tmp_path / "gone.png")
