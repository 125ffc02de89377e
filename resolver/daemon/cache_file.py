"""The file in which the cache outlives the process: written when the daemon stops, read when it starts.

A new file takes the old one's place only when it lies on the disk complete, so a crash while writing leaves the old
one. A file that cannot be used is never a reason not to start: one warning says why, and the cache begins empty. What
was concluded under other rules is not taken over (`label`).
"""

import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from resolver import limits
from resolver.cache import Store
from resolver.cache.snapshot import Loaded, SnapshotError, dump, load
from resolver.settings import CacheSettings, Settings

__all__ = ["CacheFileError", "check", "label", "load_at_start", "replace_file", "restore", "save", "save_at_stop"]

logger = logging.getLogger(__name__)

# Administrators may ask for it twice at once, or just before the end, from threads that share the new file's name.
_saving = threading.Lock()


class CacheFileError(Exception):
    """The file cannot be written or used, and why."""


def label(settings: Settings) -> bytes:
    """A digest of everything that decides what may be concluded from a reply, and how long it may be kept."""
    cache = settings.cache
    rules = (settings.dnssec, settings.policy, settings.forward, settings.stub, settings.root_hints,
             settings.iteration, cache.min_ttl, cache.max_ttl, cache.max_negative_ttl)
    return hashlib.sha256(repr(rules).encode()).digest()


def save(path: Path, store: Store, settings: Settings) -> int:
    """Write the cache to `path` and return the file's size in bytes.

    Raises:
        CacheFileError: naming the file and what stands in the way; an older file is still there.
    """
    pieces = dump(store, label=label(settings), now=int(time.time()), stale=settings.cache.max_stale_ttl)
    with _saving:
        return replace_file(path, pieces)


def replace_file(path: Path, pieces: Iterable[bytes]) -> int:
    """Put `pieces` in the place of `path`, for its owner alone, and return how many bytes they are.

    Whenever the machine stops, either the old file lies on the disk, or the new one, complete.

    Raises:
        CacheFileError: naming the file and what stands in the way; an older file is still there.
    """
    name = path.with_name(f".{path.name}.{os.getpid()}")
    size = 0
    try:
        descriptor = _create(name)
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
        _sync_directory(path.parent)
    except OSError as error:
        raise CacheFileError(f"cannot write {str(path)!r}: {error.strerror or error}") from None
    return size


def _create(name: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        return os.open(name, flags, 0o600)
    except FileExistsError:
        os.unlink(name)  # left by a process of the same number that was killed while it wrote
        return os.open(name, flags, 0o600)


def _sync_directory(directory: Path) -> None:
    """Make the new name outlive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def restore(path: Path, store: Store, settings: Settings) -> Loaded:
    """Take the cache in `path` into `store`.

    Raises:
        CacheFileError: naming the file and why it is not used.
    """
    try:
        # O_NONBLOCK, so that a pipe of that name cannot hold up the start.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise CacheFileError(f"{str(path)!r} is not a file")
            return load(
                store,
                file,
                label=label(settings),
                now=int(time.time()),
                stale=settings.cache.max_stale_ttl,
                largest=limits.SNAPSHOT_SHARE * settings.cache.size,
            )
    except OSError as error:
        raise CacheFileError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    except SnapshotError as error:
        raise CacheFileError(f"{str(path)!r} is not used: {error}") from None


def check(settings: CacheSettings) -> None:
    """Look whether the file of the cache can be written, before hours of answers depend on it.

    Raises:
        ValueError: naming the setting, and why not.
    """
    trouble = _obstacle(settings.snapshot_file)
    if trouble:
        raise ValueError(f"cache.snapshot_file: {settings.snapshot_file!r}: {trouble}")


def _obstacle(name: str) -> str:
    if not name:
        return ""
    path = Path(name)
    try:
        # Not by the methods of Path, which from Python 3.14 on take every error for "no".
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "it is not a file"
    except (FileNotFoundError, NotADirectoryError):
        if not path.parent.is_dir():
            return "its directory does not exist"
    except OSError as error:
        return error.strerror or str(error)
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"user {os.geteuid()} may not write into its directory"
    return ""


def load_at_start(store: Store, settings: Settings) -> None:
    """At start: take in the file that the settings name, if it is there and good."""
    if not settings.cache.snapshot_file:
        return
    path = Path(settings.cache.snapshot_file)
    if trouble := _obstacle(settings.cache.snapshot_file):
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
    """At the end: write the file that the settings name."""
    if not settings.cache.snapshot_file:
        return
    try:
        size = save(Path(settings.cache.snapshot_file), store, settings)
    except CacheFileError as error:
        logger.error("cache: %s; the cache is lost", error)
        return
    logger.info("cache: saved %d bytes to snapshot %s", size, settings.cache.snapshot_file)
