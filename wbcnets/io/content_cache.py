"""Caches facts about files between runs by the files' content, so that no check costs twice.

The cache is a small SQLite file in ``~/.cache/wbcnets`` (or ``WBCNETS_CACHE``). Path, size and time
of change of a file lead to its SHA-256, and the SHA-256 leads to the facts: a copy or a moved file
is hashed again, but not checked again. Facts of another release are never used, since its readers
may find others. If the folder cannot be written, nothing is cached.
"""

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from wbcnets.io.atomic_files import sha256_of_file
from wbcnets.version import __version__

logger = logging.getLogger(__name__)

VARIABLE = "WBCNETS_CACHE"
# Increment when readers, their messages or the facts change between two releases
VERSION = f"{__version__} 4"
_NAME = "checks.sqlite"
# A file changed less than this many nanoseconds ago may change again within one tick of its clock
_RACY = 2_000_000_000
_TABLES = """
CREATE TABLE IF NOT EXISTS files (
    path TEXT PRIMARY KEY, size INTEGER, changed INTEGER, sha256 TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (
    sha256 TEXT, kind TEXT, value TEXT, PRIMARY KEY (sha256, kind)
) WITHOUT ROWID;
"""


class ContentCache:
    """Facts by content.

    Args:
        folder: Folder of the cache.
        version: Facts that were stored under another version are not used.
    """

    def __init__(self, folder: str | os.PathLike[str], version: str = VERSION) -> None:
        self.path = Path(folder) / _NAME
        self._version = version
        self._lock = threading.Lock()
        self._connection = self._connect()

    def facts(
        self, path: Path, kind: str, find: Callable[[Path], dict[str, Any]]
    ) -> tuple[str, dict[str, Any]]:
        """Returns the SHA-256 of a file and the facts about it, found now if they are not known.

        Args:
            path: The file.
            kind: Name of the facts, such as "image".
            find: Finds the facts; they must be JSON and must depend on the content alone.

        Raises:
            OSError: if the file is gone.
        """
        digest, kind = self.digest(path), f"{kind} {self._version}"
        known = self._query("SELECT value FROM facts WHERE sha256 = ? AND kind = ?", digest, kind)
        if known is not None:
            return digest, json.loads(known[0])
        value = find(path)
        entry = (digest, kind, json.dumps(value))
        self._query("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", *entry)
        return digest, value

    def digest(self, path: Path) -> str:
        """Returns the SHA-256 of a file.

        Raises:
            OSError: if the file is gone.
        """
        state = path.stat()
        name = os.fsencode(path.resolve()).hex()
        row = self._query("SELECT size, changed, sha256 FROM files WHERE path = ?", name)
        if row is not None and (row[0], row[1]) == (state.st_size, state.st_mtime_ns):
            return str(row[2])
        digest = sha256_of_file(path)
        if time.time_ns() - state.st_mtime_ns > _RACY:
            entry = (name, state.st_size, state.st_mtime_ns, digest)
            self._query("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", *entry)
        return digest

    def _connect(self) -> sqlite3.Connection | None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Facts that a crash loses are found again, so nothing needs to be synced
            connection = sqlite3.connect(
                self.path, timeout=5, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA synchronous = OFF")
            connection.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            logger.debug("%s: no cache of checks (%s)", self.path, error)
            return None
        return connection

    def _query(self, query: str, *values: str | int) -> tuple[Any, ...] | None:
        """Runs a statement and returns its first row.

        A damaged or locked cache is left alone for the rest of the run.
        """
        connection = self._connection
        if connection is None:
            return None
        try:
            with self._lock:
                row: tuple[Any, ...] | None = connection.execute(query, values).fetchone()
        except sqlite3.Error as error:
            logger.debug("%s: cache of checks not used (%s)", self.path, error)
            self._connection = None
            return None
        return row


_shared: dict[Path, ContentCache] = {}


def shared_cache() -> ContentCache:
    """Returns the cache of this process: SQLite asks each process to open its own."""
    folder = Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "wbcnets")
    key = folder / str(os.getpid())
    if key not in _shared:
        _shared[key] = ContentCache(folder)
    return _shared[key]
