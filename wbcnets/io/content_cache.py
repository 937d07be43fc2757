"""Caches facts about files between runs by the files' content, so that no check costs twice.

The cache is a small SQLite file in ``cache_folder()``. The SHA-256 of a file's bytes leads to the
facts. Every file is read and hashed in every run, and neither its path nor its time is trusted:
archives and backups give other images the size and time of earlier ones, and copied homes and
network disks do so with inodes, too. Reading and hashing takes about as long as asking for the
file's state, and a hundredth of decoding it.

Facts of another release are never used, since its readers may find others. Facts that do not fit
their checksum are found again, and a damaged cache is made anew. If the folder cannot be written,
nothing is cached.
"""

import hashlib
import json
import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from wbcnets.version import __version__

logger = logging.getLogger(__name__)

VARIABLE = "WBCNETS_CACHE"
# Increment when readers, their messages or the facts change between two releases
VERSION = f"{__version__} 5"
_NAME = "checks.sqlite"
_TABLE = """
CREATE TABLE IF NOT EXISTS facts (
    sha256 TEXT, kind TEXT, value TEXT, checksum TEXT, PRIMARY KEY (sha256, kind)
) WITHOUT ROWID;
"""
_SELECT = "SELECT value, checksum FROM facts WHERE sha256 = ? AND kind = ?"
_INSERT = "INSERT OR REPLACE INTO facts (sha256, kind, value, checksum) VALUES (?, ?, ?, ?)"
Facts = TypeVar("Facts")


def cache_folder() -> Path:
    """Returns the folder of caches, made if missing: ``WBCNETS_CACHE``, or ``~/.cache/wbcnets``.

    Raises:
        OSError: if it cannot be made, or belongs to or can be written by others, who could put
            anything into it.
    """
    chosen, cache = os.environ.get(VARIABLE), os.environ.get("XDG_CACHE_HOME")
    try:
        folder = Path(chosen) if chosen else Path(cache or Path.home() / ".cache") / "wbcnets"
    except RuntimeError as error:  # a container's user may have no home
        raise OSError(f"{error} Name a folder in {VARIABLE}.") from error
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_foreign(folder)
    return folder


def _refuse_foreign(path: Path) -> None:
    status = path.stat()
    if not hasattr(os, "getuid"):  # Windows keeps the home folder to its user
        return
    if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            f"{path} belongs to or can be written by others; name a folder of your own in "
            f"{VARIABLE}."
        )


class ContentCache:
    """Facts by content.

    Args:
        folder: Folder of the cache; None for a cache that remembers nothing.
        version: Facts that were stored under another version are not used.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, version: str = VERSION) -> None:
        self._path = Path(folder) / _NAME if folder is not None else None
        self._version = version
        self._lock = threading.Lock()
        self._connection = self._connect()

    def facts(
        self,
        content: bytes,
        kind: str,
        find: Callable[[bytes], dict[str, Any]],
        read: Callable[[dict[str, Any]], Facts],
    ) -> tuple[str, Facts]:
        """Returns the SHA-256 of a file and the facts about it, found now if they are not known.

        Args:
            content: The bytes of the file.
            kind: Name of the facts, such as "image".
            find: Finds the facts; they must be JSON and must depend on the content alone.
            read: Turns the JSON into the facts. It may raise ``KeyError``, ``TypeError`` or
                ``ValueError`` for JSON of another shape, which is found again.
        """
        digest, kind = hashlib.sha256(content).hexdigest(), f"{kind} {self._version}"
        row = self._query(_SELECT, digest, kind)
        if row is not None and row[1] == _checksum(digest, kind, row[0]):
            try:
                return digest, read(json.loads(row[0]))
            except (KeyError, TypeError, ValueError) as error:
                logger.debug("%s: facts of another shape (%s)", digest, error)
        found = find(content)
        value = json.dumps(found)
        self._query(_INSERT, digest, kind, value, _checksum(digest, kind, value))
        return digest, read(found)

    def _connect(self, damaged: bool = False) -> sqlite3.Connection | None:
        """Opens the database, after replacing one that is damaged or of another release."""
        if self._path is None:
            return None
        try:
            if damaged:
                self._path.unlink(missing_ok=True)
            return _open_database(self._path)
        except (sqlite3.Error, OSError) as error:
            logger.debug("%s: no cache of checks (%s)", self._path, error)
            return None if damaged or "locked" in str(error) else self._connect(damaged=True)

    def _query(self, query: str, *values: str) -> tuple[Any, ...] | None:
        """Runs a statement and returns its first row.

        A locked cache is left alone for the rest of the run, and a damaged one is made anew.
        """
        with self._lock:
            connection = self._connection
            if connection is None:
                return None
            try:
                row: tuple[Any, ...] | None = connection.execute(query, values).fetchone()
                return row
            except sqlite3.Error as error:
                logger.debug("%s: cache of checks not used (%s)", self._path, error)
                connection.close()
                # Errors of the disk, such as a full one, have a class of their own
                damaged = type(error) is sqlite3.DatabaseError
                self._connection = self._connect(damaged) if damaged else None
                return None


def _open_database(path: Path) -> sqlite3.Connection:
    """Opens a database of our own.

    Raises:
        OSError: if it belongs to others, or cannot be made. SQLite raises errors of its own for
            one that is locked, damaged or of another release.
    """
    # SQLite would make it as open as the umask lets it be
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    _refuse_foreign(path)
    connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        # Facts that a crash loses are found again, so nothing needs to be synced
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute(_TABLE)
        connection.execute(_SELECT, ("", "")).fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _checksum(digest: str, kind: str, value: object) -> str:
    text = f"{digest} {kind} {value}".encode(errors="backslashreplace")
    return hashlib.blake2b(text, digest_size=8).hexdigest()


_shared: dict[str, ContentCache] = {}


def shared_cache() -> ContentCache:
    """Returns the cache of this process: SQLite asks each process to open its own."""
    key = f"{os.environ.get(VARIABLE)} {os.getpid()}"
    if key not in _shared:
        folder = None
        try:
            folder = cache_folder()
        except OSError as error:
            logger.warning("Facts about images are not kept between runs: %s", error)
        _shared[key] = ContentCache(folder)
    return _shared[key]
