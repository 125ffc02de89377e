"""The cache as a stream of bytes: record sets and denials with their ages, to be written down and taken in again.

A dump is a head (version, byte order, a label, when it was made), blocks of whole entries, and the SHA-256 of all
before it, so that a file which was cut off or changed by the disk is refused as a whole and never half believed. The
label is the caller's: two dumps whose labels differ were made under rules so different (trust anchors, local zones)
that what one concluded must not be used under the other. Finished answers, failures and facts about servers are left
out: they are cheap to find out again and were true for one moment only. Nothing here opens a file.
"""

import hashlib
from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO, NamedTuple

from resolver import limits
from resolver.cache.store import Store

__all__ = ["Loaded", "SnapshotError", "dump", "load"]

MAGIC = b"resolver cache\n\x00"
VERSION = 1
# Native order on purpose: entries are copied as they stand, and a machine of the other order must notice.
HEAD = Struct("=16sIIQ32s")
BYTE_ORDER = 0x01020304
BLOCK = Struct("=I")
DIGEST_SIZE = hashlib.sha256().digest_size
CHUNK = 1 << 16
# Kinds of entries as bits: record sets and denials (resolver/cache/lookup.pxd).
KINDS = 1 << 2 | 1 << 3
LARGEST_BLOCK = limits.SNAPSHOT_BLOCK


class SnapshotError(ValueError):
    """A dump that cannot be used, and why."""


class Loaded(NamedTuple):
    """What came of a dump: entries taken in, and how many seconds ago it was made."""

    entries: int
    age: int


def dump(store: Store, *, label: bytes, now: int, stale: int = 0) -> Iterator[bytes]:
    """Yield the dump piece by piece while the cache stays in use; `label` has at most 32 bytes.

    Entries that expired less than `stale` seconds ago are kept, for those who serve stale data.

    Raises:
        BlockingIOError: a stopped process holds a lock of the cache.
    """
    digest = hashlib.sha256()
    head = HEAD.pack(MAGIC, VERSION, BYTE_ORDER, now, label)
    digest.update(head)
    yield head
    for block in store.table.copy_out(KINDS, now=now, stale=stale):
        size = BLOCK.pack(len(block))
        digest.update(size)
        digest.update(block)
        yield size
        yield block
    end = BLOCK.pack(0)
    digest.update(end)
    yield end
    yield digest.digest()


def load(store: Store, file: BinaryIO, *, label: bytes, now: int, stale: int = 0, largest: int) -> Loaded:
    """Take a dump of at most `largest` bytes into `store`. `file` is read twice: nothing is believed unchecked.

    What the cache holds already and is fresh stays. Entries have the age they had, and the time since then. A flush
    meanwhile ends the taking in.

    Raises:
        SnapshotError: it is no dump, damaged, too large, or made under another label; nothing was taken in.
        OSError: it cannot be read.
    """
    serial = store.table.serial
    made = _check(file, label, now, largest)
    file.seek(HEAD.size)
    taken = 0
    while True:
        size = _block_size(file)
        if not size:
            return Loaded(taken, now - made)
        try:
            taken += store.table.copy_in(_exactly(file, size), KINDS, now=now, stale=stale, serial=serial)
        except ValueError as error:  # the checksum fits, so whoever made it made this as well
            raise SnapshotError(f"the dump is damaged: {error}") from None


def _check(file: BinaryIO, label: bytes, now: int, largest: int) -> int:
    """Read the whole file and hold it against its checksum; when it was made.

    Raises:
        SnapshotError: see `load`.
    """
    file.seek(0)
    head = file.read(HEAD.size)
    if len(head) < HEAD.size or not head.startswith(MAGIC):
        raise SnapshotError("this is no dump of a resolver's cache")
    _, version, order, made, found = HEAD.unpack(head)
    if order != BYTE_ORDER:
        raise SnapshotError("the dump comes from a machine with another byte order")
    if version != VERSION:
        raise SnapshotError(f"the dump has version {version}, this resolver reads version {VERSION}")
    digest = hashlib.sha256(head)
    read = len(head)
    tail = b""
    while chunk := file.read(CHUNK):
        read += len(chunk)
        if read > largest:
            raise SnapshotError(f"the dump is larger than {largest} bytes, more than this cache could hold")
        tail += chunk
        digest.update(tail[:-DIGEST_SIZE])
        tail = tail[-DIGEST_SIZE:]
    if digest.digest() != tail:
        raise SnapshotError("the dump is damaged: its checksum does not fit its content")
    # Only now is anything in it worth talking about.
    if found != label.ljust(len(found), b"\0"):
        raise SnapshotError(
            "the dump was made under other settings (validation, policy, forwarding or the like); what was concluded"
            " under them is not used"
        )
    if made > now + limits.CACHE_CLOCK_SLACK:
        raise SnapshotError("the dump comes from the future: this machine's clock was set back since")
    return int(made)


def _block_size(file: BinaryIO) -> int:
    size = int(BLOCK.unpack(_exactly(file, BLOCK.size))[0])
    if size > LARGEST_BLOCK:
        raise SnapshotError("the dump is damaged: a block is larger than any this resolver writes")
    return size


def _exactly(file: BinaryIO, size: int) -> bytes:
    data = file.read(size)
    if len(data) != size:
        raise SnapshotError("the dump is damaged: it ends too early")
    return data
