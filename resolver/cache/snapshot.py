"""Saves and loads the cache as a stream of bytes: RRsets and denials with their ages.

A dump consists of a head (version, byte order, label, time), blocks of whole entries, and the SHA-256 of all before it.
So a truncated or damaged file is rejected as a whole. The caller sets the label: dumps with different labels were made
under different rules (trust anchors, local zones), so entries of one must not be used under the other. Finished
answers, failures and data about servers are not saved: they are cheap to get again, or outdated soon. Nothing here
opens a file.
"""

import hashlib
from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO, NamedTuple

from resolver import limits
from resolver.cache.store import Store

__all__ = ["Loaded", "SnapshotError", "dump", "load"]

MAGIC = b"resolver cache\n\x00"
VERSION = 2
# Native byte order: entries are copied unchanged, and a machine with another byte order must reject the dump.
HEAD = Struct("=16sIIQ32s")
BYTE_ORDER = 0x01020304
BLOCK = Struct("=I")
DIGEST_SIZE = hashlib.sha256().digest_size
CHUNK = 1 << 16
# Kinds of entries as bits: RRsets and denials (resolver/cache/lookup.pxd).
KINDS = 1 << 2 | 1 << 3
LARGEST_BLOCK = limits.SNAPSHOT_BLOCK


class SnapshotError(ValueError):
    """A dump that cannot be used; the message says why."""


class Loaded(NamedTuple):
    """The result of loading a dump: the number of stored entries, and the age of the dump (seconds)."""

    entries: int
    age: int


def dump(store: Store, *, label: bytes, now: int, stale: int = 0) -> Iterator[bytes]:
    """Yield the dump in pieces while the cache stays in use. `label` has at most 32 bytes.

    Entries that expired less than `stale` seconds ago are included, for serve-stale.

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
    """Load a dump of at most `largest` bytes into `store`. `file` is read twice, first to verify the checksum.

    Fresh entries in the cache are kept. The time since the dump is added to the ages of loaded entries. After a flush
    in the meantime no further entries are stored. Flushes that other resolvers have sent since the dump are still to be
    made (`Table.fleet_read`).

    Raises:
        SnapshotError: it is not a dump, damaged, too large, or made under another label. Nothing was stored, except
            when a block is inconsistent although the checksum matches.
        OSError: it cannot be read.
    """
    serial = store.table.serial
    made = _check(file, label, now, largest)
    file.seek(HEAD.size)
    store.table.fleet_read = min(store.table.fleet_read or made, made)
    taken = 0
    while True:
        size = _block_size(file)
        if not size:
            return Loaded(taken, now - made)
        try:
            taken += store.table.copy_in(_exactly(file, size), KINDS, now=now, stale=stale, serial=serial)
        except ValueError as error:  # the checksum matches, so the dump was written like this
            raise SnapshotError(f"the dump is damaged: {error}") from None


def _check(file: BinaryIO, label: bytes, now: int, largest: int) -> int:
    """Read the whole file and verify its checksum. Returns the time when it was made.

    Raises:
        SnapshotError: see `load`.
    """
    file.seek(0)
    head = file.read(HEAD.size)
    if len(head) < HEAD.size or not head.startswith(MAGIC):
        raise SnapshotError("this is not a dump of a resolver's cache")
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
        raise SnapshotError("the dump is damaged: its checksum does not match its content")
    if found != label.ljust(len(found), b"\0"):
        raise SnapshotError(
            "the dump was made under other settings (for example of validation, policy or forwarding); its data is not"
            " used"
        )
    if made > now + limits.CACHE_CLOCK_SLACK:
        raise SnapshotError("the dump was made in the future: this machine's clock was set back since")
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
