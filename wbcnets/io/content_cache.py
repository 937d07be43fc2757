"""Facts about files, kept between runs by the files' content, so that no check costs twice.

A small SQLite file in `~/.cache/wbcnets` (or `WBCNETS_CACHE`). A file is known by path, size and
time of change, which lead to its SHA-256, and that to what was found out about it; so a copy or a
moved file is hashed again, not checked again. Where the folder cannot be written, nothing is kept.
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

logger = logging.getLogger(__name__)

VARIABLE = "WBCNETS_CACHE"
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
        folder: Where they are kept; by default that of the module's description.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        default = os.environ.get(VARIABLE) or Path.home() / ".cache" / "wbcnets"
        self.path = Path(folder if folder is not None else default) / _NAME
        self._lock = threading.Lock()
        self._connection = self._connect()

    def facts(
        self, path: Path, kind: str, find: Callable[[Path], dict[str, Any]]
    ) -> dict[str, Any]:
        """What is known of a file, found out now where it is not.

        Args:
            path: The file.
            kind: What is asked, with the version of the answer, such as "image 1".
            find: Finds it out; what it returns must be JSON, and must follow from the content.

        Raises:
            OSError: The file is gone.
        """
        digest = self.digest(path)
        known = self._ask("SELECT value FROM facts WHERE sha256 = ? AND kind = ?", digest, kind)
        if known is not None:
            value: dict[str, Any] = json.loads(known[0])
            return value
        value = find(path)
        self._tell("INSERT OR REPLACE INTO facts VALUES (?, ?, ?)", digest, kind, json.dumps(value))
        return value

    def digest(self, path: Path) -> str:
        """The SHA-256 of a file.

        Raises:
            OSError: The file is gone.
        """
        state = path.stat()
        name = os.fsencode(path.resolve()).hex()
        row = self._ask("SELECT size, changed, sha256 FROM files WHERE path = ?", name)
        if row is not None and (row[0], row[1]) == (state.st_size, state.st_mtime_ns):
            return str(row[2])
        digest = sha256_of_file(path)
        if time.time_ns() - state.st_mtime_ns > _RACY:
            self._tell(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)",
                name,
                state.st_size,
                state.st_mtime_ns,
                digest,
            )
        return digest

    def _connect(self) -> sqlite3.Connection | None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Facts that a crash loses are found out again, so that nothing need be synced
            connection = sqlite3.connect(
                self.path, timeout=5, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA synchronous = OFF")
            connection.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            logger.debug("%s: no cache of checks (%s)", self.path, error)
            return None
        return connection

    def _ask(self, query: str, *values: str) -> tuple[Any, ...] | None:
        if self._connection is None:
            return None
        try:
            with self._lock:
                row: tuple[Any, ...] | None = self._connection.execute(query, values).fetchone()
        except sqlite3.Error as error:
            self._give_up(error)
            return None
        return row

    def _tell(self, query: str, *values: str | int) -> None:
        if self._connection is None:
            return
        try:
            with self._lock:
                self._connection.execute(query, values)
        except sqlite3.Error as error:
            self._give_up(error)

    def _give_up(self, error: sqlite3.Error) -> None:
        """A damaged or locked cache is left alone for the rest of the run."""
        logger.debug("%s: cache of checks not used (%s)", self.path, error)
        self._connection = None


_shared: dict[Path, ContentCache] = {}


def shared_cache() -> ContentCache:
    """The process's cache; another one in each process after a fork, as SQLite needs it."""
    folder = Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "wbcnets")
    key = folder / str(os.getpid())
    if key not in _shared:
        _shared[key] = ContentCache(folder)
    return _shared[key]
