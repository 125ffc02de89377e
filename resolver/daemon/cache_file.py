"""The snapshot file of the cache: written when the daemon stops, read when it starts.

A new file replaces the old one only when it is complete on disk, so a crash while writing leaves the old one. If the
file cannot be used, the daemon logs why and starts with an empty cache. A snapshot of a daemon with other settings for
resolution or caching is not loaded (`label`). All functions take the settings in force, which have the run-time
changes: what was cached below a negative trust anchor was not validated, and must not outlive it.
"""

import fcntl
import hashlib
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from resolver import limits
from resolver.cache import Store
from resolver.cache.snapshot import Loaded, SnapshotError, dump, load
from resolver.daemon.cache_rules import rules_of
from resolver.daemon.file_identity import identity
from resolver.settings import CacheSettings, Settings

__all__ = [
    "CacheFileError",
    "check",
    "create_temporary",
    "label",
    "load_at_start",
    "replace_file",
    "restore",
    "restore_from",
    "save",
    "save_at_stop",
    "snapshot",
    "sync_directory",
]

logger = logging.getLogger(__name__)

# Two control connections, or one and the stop, may save at the same time. Both would use the same temporary name.
_saving = threading.Lock()


class CacheFileError(Exception):
    """The file cannot be written or used; the text says why."""


def label(settings: Settings) -> bytes:
    """A digest of all settings that decide what is cached, and for how long.

    Response policy zones decide which name servers are queried, so another state of their files counts, too.
    """
    cache = settings.cache
    zones = [identity(zone.file) for zone in settings.rpz]
    rules = (*rules_of(settings), zones, cache.min_ttl, cache.max_ttl, cache.max_negative_ttl)
    return hashlib.sha256(repr(rules).encode()).digest()


def save(path: Path, store: Store, settings: Settings) -> int:
    """Write the cache to `path` and return the file's size in bytes.

    Raises:
        CacheFileError: it cannot be written; the text names file and reason. An older file is unchanged.
    """
    with _saving:
        return replace_file(path, snapshot(store, settings))


def snapshot(store: Store, settings: Settings) -> Iterator[bytes]:
    """The cache as it is saved, in pieces; it stays in use.

    Raises:
        BlockingIOError: a stopped process holds a lock of the cache.
    """
    return dump(store, label=label(settings), now=int(time.time()), stale=settings.cache.max_stale_ttl)


def replace_file(path: Path, pieces: Iterable[bytes]) -> int:
    """Replace the file `path` by `pieces` with mode 0600 and return the size in bytes.

    After a crash or power failure, either the old file is on disk or the complete new one.

    Raises:
        CacheFileError: it cannot be written; the text names file and reason. An older file is unchanged.
    """
    size = 0
    try:
        descriptor, name = create_temporary(path, 0o600)
        try:
            with open(descriptor, "wb") as file:
                for piece in pieces:
                    size += file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.replace(name, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise
        sync_directory(path.parent)
    except OSError as error:
        raise CacheFileError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    return size


def create_temporary(path: Path, mode: int) -> tuple[int, Path]:
    """Create the file that will replace `path`, in the same directory; returns its descriptor and name.

    Files that killed processes have left there are removed first: each restart would leave another one. A file in use
    is locked as long as its process lives.

    Raises:
        OSError: it cannot be created.
    """
    name = path.with_name(f".{path.name}.{os.getpid()}.new")
    _remove_left(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(name, flags, mode)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, name


def _remove_left(path: Path) -> None:
    """Remove the temporary files of `path` that no process writes."""
    pattern = re.compile(re.escape(f".{path.name}.") + r"[0-9]+\.new")
    with suppress(OSError):  # a directory that may not be listed
        for name in os.listdir(path.parent):
            if pattern.fullmatch(name):
                _remove_unless_locked(path.with_name(name))


def _remove_unless_locked(name: Path) -> None:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)
    os.unlink(name)


def sync_directory(directory: Path) -> None:
    """Make renames in `directory` durable.

    Raises:
        OSError: they may be lost when the power fails.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def restore(path: Path, store: Store, settings: Settings) -> Loaded:
    """Load the snapshot `path` into `store`.

    Raises:
        CacheFileError: it is not used; the text names file and reason.
    """
    try:
        # O_NONBLOCK, so that opening a FIFO does not block the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CacheFileError(f"{str(path)!r} is not a file")
            return restore_from(file, repr(str(path)), store, settings)
    except OSError as error:
        raise CacheFileError(f"cannot read {str(path)!r}: {error.strerror or error}") from None


def restore_from(file: BinaryIO, name: str, store: Store, settings: Settings) -> Loaded:
    """Load the snapshot in `file` into `store`; errors call it `name`.

    Raises:
        CacheFileError: it is not used; the text says why.
    """
    try:
        return load(
            store,
            file,
            label=label(settings),
            now=int(time.time()),
            stale=settings.cache.max_stale_ttl,
            largest=limits.SNAPSHOT_SHARE * settings.cache.size,
        )
    except OSError as error:
        raise CacheFileError(f"cannot read {name}: {error.strerror or error}") from None
    except SnapshotError as error:
        raise CacheFileError(f"{name} is not used: {error}") from None


def check(settings: CacheSettings) -> None:
    """Check that the snapshot file can be written.

    Raises:
        ValueError: it cannot; the text names the setting and the reason.
    """
    trouble = _why_unusable(settings.snapshot_file)
    if trouble:
        raise ValueError(f"cache.snapshot_file: {settings.snapshot_file!r}: {trouble}")


def _why_unusable(name: str) -> str:
    if not name:
        return ""
    path = Path(name)
    try:
        # Methods of Path return False for every error from Python 3.14 on.
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "it is not a file"
    except (FileNotFoundError, NotADirectoryError):
        if not path.parent.is_dir():
            return "its directory does not exist"
    except OSError as error:
        return error.strerror or str(error)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"user {os.geteuid()} may not write to its directory"
    return ""


def load_at_start(store: Store, settings: Settings) -> None:
    """Load the configured snapshot file at start. Errors are logged."""
    if not settings.cache.snapshot_file:
        return
    path = Path(settings.cache.snapshot_file)
    if trouble := _why_unusable(settings.cache.snapshot_file):
        text = "cache: snapshot %r cannot be written when the daemon stops: %s (cache.snapshot-file)"
        logger.error(text, str(path), trouble)
    if not os.path.exists(path):
        logger.info("cache: snapshot %s does not exist yet; starting with an empty cache", path)
        return
    try:
        loaded = restore(path, store, settings)
    except CacheFileError as error:
        logger.warning("cache: %s; starting with an empty cache", error)
        return
    logger.info("cache: loaded %d entries from snapshot %s, written %d seconds ago", loaded.entries, path, loaded.age)


def save_at_stop(store: Store, settings: Settings) -> None:
    """Write the configured snapshot file at stop. Errors are logged."""
    if not settings.cache.snapshot_file:
        return
    try:
        size = save(Path(settings.cache.snapshot_file), store, settings)
    except CacheFileError as error:
        logger.error("cache: %s; the cache is lost", error)
        return
    logger.info("cache: saved %d bytes to snapshot %s", size, settings.cache.snapshot_file)
