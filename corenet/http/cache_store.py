"""The store of the HTTP cache: one SQLite database, in memory or in a file that processes share.

SQLite gives what a shared file needs: locks between processes, and transactions that a killed process leaves either
done or not begun (write-ahead log). The number of bytes is kept by triggers inside the same transactions, so it is
correct whichever process writes. When it is over the limit, the responses that were not used for the longest time are
removed.

The database and its SQLite auxiliary files decide which responses the client accepts for a server. So none of these
files may be a symbolic link, belong to another user or be writable for one, and the folder must not let every user
replace them.

Ownership: a `CacheStore` has one connection, used by one thread at a time (`_lock`). A child of a fork opens its own,
because SQLite forbids to use the parent's.
"""

import math
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from corenet.http.cache_rules import Stored, variant_of
from corenet.http.headers import Headers
from corenet.limits import (
    HTTP_CACHE_BUSY_SECONDS,
    HTTP_CACHE_ENTRY_BYTES,
    HTTP_CACHE_TOUCH_SECONDS,
    HTTP_CACHE_VARIANTS,
)

__all__ = ["CacheStore"]

# "cnet" marks our files, so that no other file of the user is overwritten by mistake.
_APPLICATION = 0x636E6574
_VERSION = 1
_IN_MEMORY = ":memory:"
# The auxiliary files of an SQLite database; SQLite reads all of them.
_FILES = ("", "-journal", "-shm", "-wal")
_SCHEMA = """
CREATE TABLE responses (
    url TEXT NOT NULL, vary TEXT NOT NULL, public INTEGER NOT NULL, variant BLOB NOT NULL, status INTEGER NOT NULL,
    reason TEXT NOT NULL, version TEXT NOT NULL, headers BLOB NOT NULL, body BLOB NOT NULL, request_time REAL NOT NULL,
    response_time REAL NOT NULL, size INTEGER NOT NULL, used REAL NOT NULL, PRIMARY KEY (url, vary, public, variant));
CREATE INDEX by_use ON responses (used);
CREATE TABLE total (bytes INTEGER NOT NULL);
INSERT INTO total VALUES (0);
CREATE TRIGGER added AFTER INSERT ON responses BEGIN UPDATE total SET bytes = bytes + new.size; END;
CREATE TRIGGER removed AFTER DELETE ON responses BEGIN UPDATE total SET bytes = bytes - old.size; END;
"""
_TABLES = {"responses", "total"}


class CacheStore:
    """Responses by URL and variant, at most `max_bytes` of them. Its methods raise `sqlite3.Error` when the file fails.

    Raises:
        ValueError: the file is not a cache, or other users may change it.
        OSError: it cannot be created.
        sqlite3.Error: it cannot be opened.
    """

    def __init__(self, path: str | None, max_bytes: int) -> None:
        self._path = _IN_MEMORY if path is None else os.path.abspath(path)
        self._max_bytes = max_bytes
        # One response takes at most an eighth, so that it does not displace all others.
        self.max_entry = max_bytes // 8
        self._lock = threading.Lock()
        # A time of the monotonic clock. Until then operations fail at once, so that the waits for a locked file of
        # many requests do not add up.
        self._retry_at = -math.inf
        self._process = os.getpid()
        # Connections of a parent process. They are never closed here: that would close the parent's files.
        self._inherited: list[sqlite3.Connection] = []
        self._database = self._open()

    def _open(self) -> sqlite3.Connection:
        if self._path != _IN_MEMORY:
            _make_private(self._path)
        database = sqlite3.connect(
            self._path, timeout=HTTP_CACHE_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(database)
        except sqlite3.DatabaseError as error:
            database.close()
            if type(error) is sqlite3.DatabaseError:
                raise ValueError(f"{self._path}: it is not a cache of corenet ({error})") from error
            raise
        except ValueError:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        self._tables(database)  # before the journal mode, which changes the file
        database.execute("PRAGMA journal_mode = WAL")
        # In a write-ahead log a commit survives the process; after a power failure the newest may be missing.
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("BEGIN IMMEDIATE")
        tables = self._tables(database)
        version = database.execute("PRAGMA user_version").fetchone()[0]
        if version != _VERSION or not _TABLES.issubset(tables):
            for table in tables:
                database.execute(f'DROP TABLE "{table}"')
            for statement in _SCHEMA.split(";\n"):
                if statement.strip():
                    database.execute(statement)
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {_VERSION}")
        database.execute("COMMIT")

    def _tables(self, database: sqlite3.Connection) -> list[str]:
        """The names of the tables.

        Raises:
            ValueError: they are those of another program.
        """
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if tables and database.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION:
            raise ValueError(f"{self._path}: it is a database, but not a cache of corenet")
        return tables

    @contextmanager
    def _locked(self, *, always: bool = False) -> Iterator[sqlite3.Connection]:
        """The connection of this process, for this thread alone; with `always` also soon after a failure."""
        if self._process != os.getpid():
            # A thread of the parent may have held the lock.
            self._lock = threading.Lock()
            self._process = os.getpid()
            self._inherited.append(self._database)
            self._database = self._open()
        with self._lock:
            if time.monotonic() < self._retry_at and not always:
                raise sqlite3.OperationalError("the file failed just before; another process may keep it locked")
            try:
                yield self._database
            except sqlite3.OperationalError:
                self._retry_at = time.monotonic() + HTTP_CACHE_BUSY_SECONDS
                raise

    def find(self, url: str, fields: Iterable[tuple[bytes, bytes]], now: float) -> Stored | None:
        """The newest response for `url` whose variant the request's `fields` select."""
        with self._locked() as database:
            rows = database.execute(
                "SELECT vary, public, variant FROM responses WHERE url = ? ORDER BY response_time DESC", (url,)
            ).fetchall()
            for vary, public, variant in rows:
                if variant_of(vary, fields, public=bool(public)) == variant:
                    break
            else:
                return None
            key = (url, vary, public, variant)
            row = database.execute(
                "SELECT status, reason, version, headers, body, request_time, response_time, used FROM responses "
                "WHERE url = ? AND vary = ? AND public = ? AND variant = ?",
                key,
            ).fetchone()
            if row is None:
                # Another process has removed it in between.
                return None
            status, reason, version, headers, body, request_time, response_time, used = row
            if now - used > HTTP_CACHE_TOUCH_SECONDS:
                database.execute(
                    "UPDATE responses SET used = ? WHERE url = ? AND vary = ? AND public = ? AND variant = ?",
                    (now, *key),
                )
        return Stored(status, reason, version, _headers(headers), body, request_time, response_time, vary, variant)

    def put(self, url: str, stored: Stored, *, public: bool, now: float) -> bool:
        """Store a response in place of the one it replaces; False when it is too large for this cache."""
        headers = b"".join(b"%s: %s\r\n" % field for field in stored.headers.raw)
        size = len(stored.body) + len(headers) + len(url) + HTTP_CACHE_ENTRY_BYTES
        if size > self.max_entry:
            self.remove([url])
            return False
        with self._locked() as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                database.execute(
                    "DELETE FROM responses WHERE url = ? AND vary = ? AND public = ? AND variant = ?",
                    (url, stored.vary, public, stored.variant),
                )
                database.execute(
                    "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (url, stored.vary, public, stored.variant, stored.status, stored.reason, stored.http_version,
                     headers, stored.body, stored.request_time, stored.response_time, size, now),
                )  # fmt: skip
                database.execute(
                    "DELETE FROM responses WHERE url = :url AND rowid NOT IN (SELECT rowid FROM responses "
                    "WHERE url = :url ORDER BY response_time DESC, rowid DESC LIMIT :most)",
                    {"url": url, "most": HTTP_CACHE_VARIANTS},
                )
                while self._bytes(database) > self._max_bytes:
                    database.execute(
                        "DELETE FROM responses WHERE rowid = (SELECT rowid FROM responses ORDER BY used, rowid LIMIT 1)"
                    )
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
        return True

    def remove(self, urls: Iterable[str]) -> None:
        """Remove every variant of these URLs."""
        with self._locked() as database:
            for url in urls:
                database.execute("DELETE FROM responses WHERE url = ?", (url,))

    def clear(self) -> None:
        """Remove everything."""
        with self._locked(always=True) as database:
            database.execute("DELETE FROM responses")

    def size(self) -> tuple[int, int]:
        """Bytes and number of the stored responses."""
        with self._locked(always=True) as database:
            return self._bytes(database), database.execute("SELECT count(*) FROM responses").fetchone()[0]

    def __del__(self) -> None:
        # Python 3.13 warns about unclosed connections.
        if hasattr(self, "_database") and self._process == os.getpid():
            self._database.close()

    def close(self) -> None:
        """Close the connection."""
        with self._locked() as database:
            database.close()

    @staticmethod
    def _bytes(database: sqlite3.Connection) -> int:
        return int(database.execute("SELECT bytes FROM total").fetchone()[0])


def _make_private(path: str) -> None:
    """Create the file if there is none, and check that no other user can change it or the files beside it.

    Raises:
        ValueError: one can; the message says how to change the permissions.
        OSError: the file cannot be created.
    """
    folder = os.path.dirname(path)
    mode = os.stat(folder).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ValueError(f"{path}: every user can replace files in {folder}; use a folder of your own (chmod o-w)")
    try:
        # For the user alone, since responses may be private. SQLite gives its other files the same mode. O_EXCL follows
        # no symbolic link.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    for suffix in _FILES:
        file = path + suffix
        # Not opened: closing a second descriptor would release the locks that SQLite has in this process.
        try:
            facts = os.lstat(file)
        except FileNotFoundError:
            continue
        if stat.S_ISLNK(facts.st_mode):
            raise ValueError(f"{file}: it is a symbolic link; give the path that it leads to")
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"{file}: it is not a regular file, so it is not a cache")
        if facts.st_uid != os.geteuid():
            raise ValueError(f"{file}: it belongs to another user; use a file of your own")
        if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(f"{file}: other users may write to it; remove it, or run chmod 600")


def _headers(data: bytes) -> Headers:
    fields = (line.partition(b": ") for line in data.split(b"\r\n") if line)
    return Headers([(name, value) for name, _, value in fields])
