"""The files of own zones: zone files of the operator, copies of secondaries on disk, and content in memory for workers.

A copy (`ZoneFile`) is written by the first worker only, and read by all. In an upgrade there are two first workers for
some seconds, and either may write. Its states:

* unknown (`octets` is 0): nothing is known about the file, or it is missing or damaged. The next save replaces it.
* known: its first `octets` octets are the version `serial`. The first block, with the whole content of an earlier
  version, has `content_octets` of them; differences follow. A save appends if it starts at that version, else it
  replaces the file.
* in use: a task holds `lock`. A save is known only when its thread has ended; until then the file is unknown.

Invariants: a save appends only to what this process has read or written. It compares the identity of the file under a
lock that other processes respect, and replaces the file when another process has changed it: differences of two
processes in one file would not follow from each other, and the copy would be lost at the next start. A caller that
reads a copy to serve it, or saves one, holds `lock` until the version that is served has been changed accordingly.
There is one `ZoneFile` for each path (`ZoneFiles`), which configurations share, so a save that a configuration has
begun is waited for by the next one. Functions that read or write whole zones may take seconds, and run in threads.
"""

import asyncio
import fcntl
import hashlib
import os
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote
from weakref import WeakValueDictionary

from resolver import limits
from resolver.daemon.cache_file import CacheFileError, replace_file
from resolver.daemon.file_identity import identity, identity_of
from resolver.net.in_thread import in_thread
from resolver.net.zone_client import origin_of
from resolver.regular_file import open_regular
from resolver.settings import Settings, ZoneSettings
from resolver.wire import name as names
from resolver.zones import Zone
from resolver.zones.journal import (
    HEAD_SIZE,
    JournalError,
    Saved,
    confirmation_block,
    content_block,
    difference_block,
    read_journal,
)
from resolver.zones.load import ZoneFileError, read_zone
from resolver.zones.transfer import TransferError
from resolver.zones.zone import Difference, soa_fields
from resolver.zones.zonemd import DigestStatus, check_digest

__all__ = [
    "ZoneFile", "ZoneFiles", "check_files", "check_zonemd", "file_name", "read_memory", "read_zone_file",
    "write_to_memory",
]

SUFFIX = ".zone"
LONGEST_NAME = 200
"""Characters of a file name without suffix and the marks of temporary files; most file systems permit 255 in all."""
SMALL_ZONE_BLOCKS = 64
"""Confirmations for which there is room behind the content of any zone: the share of a small one would have none."""


class ZoneFile:
    """The copy of one zone; `path` is None when copies are not kept."""

    def __init__(self, path: Path | None, origin: bytes) -> None:
        self.path = path
        self.origin = origin
        self.lock = asyncio.Lock()
        self.octets = 0
        self.content_octets = 0
        self.serial = 0
        self.identity: tuple[int, ...] | None = None

    def forget(self) -> None:
        """Replace the file at the next save."""
        self.octets = 0

    async def read(self) -> Saved | None:
        """Read the file; None when there is none. The caller holds `lock`.

        Raises:
            JournalError: it is damaged.
            OSError: it cannot be read.
        """
        self.octets = 0
        if self.path is None:
            return None
        saved, self.identity = await in_thread(_read_copy, self.path, self.origin)
        if saved is not None:
            self.octets, self.content_octets, self.serial = saved.sound, saved.content, saved.zone.serial
        return saved

    async def save(self, zone: Zone, differences: Sequence[Difference], confirmed: int, *, whole: bool) -> None:
        """Write `zone`, which its primary has confirmed at the Unix time `confirmed`, in seconds.

        Appends the `differences` that lead to it; without any, only the time is appended. The whole zone is written
        when `whole` is set, when the file is not known to have the version before, or when it would become too long.
        The caller holds `lock`.

        Raises:
            CacheFileError: it cannot be written; the text names file and reason.
        """
        if self.path is None:
            return
        first = soa_fields(differences[0].removed[0][3]).serial if differences else zone.serial
        octets, self.octets = self.octets, 0
        if whole or first != self.serial:
            octets = 0
        try:
            self.octets, self.content_octets, self.identity = await in_thread(
                _write_copy, self.path, zone, differences, confirmed, octets, self.content_octets, self.identity)
        except OSError as error:
            raise CacheFileError(f"cannot write {str(self.path)!r}: {error.strerror}") from None
        self.serial = zone.serial


class ZoneFiles:
    """The copies in one directory, for all configurations of one worker."""

    def __init__(self) -> None:
        self._files: WeakValueDictionary[tuple[Path | None, bytes], ZoneFile] = WeakValueDictionary()

    def get(self, directory: Path | None, origin: bytes) -> ZoneFile:
        """The copy of the zone `origin`; without a directory, one that is never written."""
        path = None if directory is None else directory / (file_name(origin) + SUFFIX)
        return self._files.setdefault((path, origin), ZoneFile(path, origin))


def _write_copy(
    path: Path, zone: Zone, differences: Sequence[Difference], confirmed: int, octets: int,
    content_octets: int, known: tuple[int, ...] | None,
) -> tuple[int, int, tuple[int, ...] | None]:
    """Append to the first `octets` octets of the file, or rewrite it when there are none, when it would become too
    long, or when its identity is not `known`. Return the octets of the file, those of its first block, and its
    identity, which is None when another process has written it since.

    Raises:
        CacheFileError: it cannot be written; the text names file and reason.
    """
    added = b"".join(difference_block(one, confirmed) for one in differences) or confirmation_block(confirmed)
    share = content_octets * limits.ZONE_JOURNAL_SHARE // 100 + len(confirmation_block(0)) * SMALL_ZONE_BLOCKS
    if octets and known is not None and octets + len(added) <= content_octets + share:
        made = _append(path, added, octets, known)
        if made is not None:
            return octets + len(added), content_octets, made
    data = content_block(zone, confirmed)
    replace_file(path, [data])
    with open_regular(path) as file:
        found = os.fstat(file.fileno())
        # The head of the first block has its digest.
        is_ours = found.st_size == len(data) and data.startswith(file.read(HEAD_SIZE))
    return len(data), len(data), identity_of(found) if is_ours else None


def _append(path: Path, added: bytes, octets: int, known: tuple[int, ...]) -> tuple[int, ...] | None:
    """Append to the first `octets` octets of the `known` file and return its new identity; None when it is another one.

    Raises:
        CacheFileError: it cannot be written; the text names file and reason.
    """
    try:
        with open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if identity_of(os.fstat(file.fileno())) != known:
                return None
            file.truncate(octets)  # an incomplete block of a process that ended
            file.seek(octets)
            file.write(added)
            file.flush()
            os.fsync(file.fileno())
            made = identity_of(os.fstat(file.fileno()))
        return made if identity(str(path)) == made else None  # it may have been replaced meanwhile
    except (BlockingIOError, FileNotFoundError):
        return None  # another process is appending, or the file was removed
    except OSError as error:
        raise CacheFileError(f"cannot write {str(path)!r}: {error.strerror}") from None


def file_name(origin: bytes) -> str:
    """The name of a zone's file without its suffix, another one for each zone: letters, digits and ``-._~`` stay, other
    characters become ``%XX``. A name that is too long for a file ends with its digest."""
    plain = names.to_text(origin)[:-1]
    if plain in ("", "root"):
        return "%root" if plain else "root"
    quoted = quote(plain, safe="")
    if len(quoted) <= LONGEST_NAME:
        return quoted
    digest = hashlib.blake2b(origin, digest_size=16).hexdigest()
    return f"{quoted[: LONGEST_NAME - len(digest) - 1]}%{digest}"


def read_zone_file(settings: ZoneSettings, is_wanted: Callable[[bool], bool]) -> Zone:
    """Read the zone file of the operator, and check its digest. `is_wanted` is called first with False, then for each
    record with True; reading ends when it returns False.

    Raises:
        ZoneFileError: it cannot be used; the text names the file, and the line where possible. Or it is not wanted.
        OSError: it cannot be read.
    """
    if not is_wanted(False):
        raise ZoneFileError(f"{settings.file}: it is not read, because a later reading has been asked for")
    try:
        with TextIOWrapper(open_regular(settings.file), encoding="utf-8") as file:
            zone = read_zone(file, settings.file, origin_of(settings.name), lambda: is_wanted(True))
        check_zonemd(zone, settings.zonemd)
        zone.chain()  # here, in a thread, and not when the first proof is needed
    except TransferError as error:
        raise ZoneFileError(f"{settings.file}: {error}") from None
    return zone


def check_files(settings: Settings) -> None:
    """Check that the zone files can be used, and that copies of secondaries can be written.

    Raises:
        ValueError: they cannot; the text names the setting and the reason.
    """
    for zone in settings.zone:
        if not zone.file:
            continue
        try:
            read_zone_file(zone, lambda begun: True)
        except (ZoneFileError, OSError, RecursionError) as error:
            text = str(error) if isinstance(error, ZoneFileError) else f"{zone.file!r}: {_why(error)}"
            raise ValueError(f"zone: {text}") from None
    directory = settings.zones.directory
    if directory and any(zone.primaries for zone in settings.own_zones):
        where = f"zones.directory: {directory!r}"
        if not os.path.isdir(directory):
            raise ValueError(f"{where} {'is not a directory' if os.path.lexists(directory) else 'does not exist'}")
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise ValueError(f"{where}: user {os.geteuid()} may not read, write and enter it")


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", "")) or str(error)


def check_zonemd(zone: Zone, policy: str) -> None:
    """Check the digest of a zone (ZONEMD, RFC 8976) by the policy of its settings: off, required, or if there is one.

    Raises:
        TransferError: the digest is wrong, or missing although it is required.
    """
    if policy == "off":
        return
    status = check_digest(zone)
    if status is DigestStatus.WRONG:
        raise TransferError(f"serial {zone.serial}: the digest of the content differs from its ZONEMD record")
    if policy == "required" and status is not DigestStatus.MATCHES:
        raise TransferError(f"serial {zone.serial}: it has no usable ZONEMD record, which the setting zonemd requires")


def write_to_memory(zone: Zone, confirmed: int) -> BinaryIO:
    """Write the content of a zone to a new file in memory, for the other workers.

    Raises:
        OSError: there is no memory or no descriptor for it.
    """
    made = open(os.memfd_create("zone", os.MFD_CLOEXEC), "w+b")
    try:
        made.write(content_block(zone, confirmed))
        made.flush()
    except BaseException:
        made.close()
        raise
    return made


def read_memory(file: BinaryIO, origin: bytes) -> Saved:
    """Read a file of `write_to_memory` and close it. Its position is not used, because other workers share it.

    Raises:
        JournalError: it is damaged.
        OSError: it cannot be read.
    """
    with file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return read_journal(content[:], origin)


def _read_copy(path: Path, origin: bytes) -> tuple[Saved | None, tuple[int, ...] | None]:
    """Read the copy of a secondary, and its identity from before; None when there is none.

    Raises:
        JournalError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            found = identity_of(os.fstat(file.fileno()))
            data = file.read(limits.ZONE_FILE_OCTETS + 1)
    except FileNotFoundError:
        return None, None
    if len(data) > limits.ZONE_FILE_OCTETS:
        raise JournalError(f"it is larger than {limits.ZONE_FILE_OCTETS} octets")
    return read_journal(data, origin), found
