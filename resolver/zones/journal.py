"""The file of one transferred zone: its content, then the differences since, each with a checksum.

The file is a magic line and blocks: kind, size, digest of the payload, payload. The first block has the whole content.
The others are appended: a difference of an IXFR, or that the primary confirmed the version at some time, from which
the expiry is counted after a restart. A process that ends while it appends leaves an incomplete last block, which is
dropped: the blocks before it are a version that was complete. Any other damage makes the file unusable, and the zone is
transferred again.

A reader accepts every file without a crash, but trusts what has the right digest: the file is the daemon's own.
"""

import enum
import hashlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

from resolver import limits
from resolver.wire import name as names
from resolver.wire import rdata as rdatas
from resolver.wire.errors import WireError
from resolver.wire.rrset import unpack
from resolver.zones.zone import ENTRY, Difference, Record, Zone, ZoneError, entries

__all__ = [
    "HEAD_SIZE",
    "MAGIC",
    "JournalError",
    "Saved",
    "confirmation_block",
    "content_block",
    "difference_block",
    "read_journal",
]

MAGIC = b"resolver zone 1\n"
HEAD = struct.Struct("!BQ16s")
HEAD_SIZE = len(MAGIC) + HEAD.size
"""Octets from the beginning of a file that no other content has: they include the digest of the first block."""
CONFIRMED = struct.Struct("!Q")
NODE = struct.Struct("!BI")
RECORD = struct.Struct("!HIH")
COUNT = struct.Struct("!I")
SOA_SIZE = 22  # two root names and five numbers


class Block(enum.IntEnum):
    """Kinds of blocks."""

    CONTENT = 1
    DIFFERENCE = 2
    CONFIRMED = 3


class JournalError(ValueError):
    """The file is damaged; the text says where."""


class Saved(NamedTuple):
    """What a file has: the zone, when the primary confirmed it last, and the octets that are sound."""

    zone: Zone
    confirmed: int
    sound: int
    content: int
    """Octets of the first block."""
    differences: list[Difference]
    """The differences since the content, for secondaries of this server."""


# --- writing ------------------------------------------------------------------------------------------------------


def _block(kind: Block, payload: bytes) -> bytes:
    return HEAD.pack(kind, len(payload), _digest(kind, payload)) + payload


def _digest(kind: int, payload: bytes) -> bytes:
    return hashlib.blake2b(bytes((kind,)) + payload, digest_size=16).digest()


def content_block(zone: Zone, confirmed: int) -> bytes:
    """The beginning of a file: the magic line and the whole content."""
    parts = [CONFIRMED.pack(confirmed), bytes((len(zone.origin),)), zone.origin]
    for table in zone.packed:
        parts.append(COUNT.pack(len(table)))
        for owner, node in table.items():
            parts += [NODE.pack(len(owner), len(node)), owner, node]
    return MAGIC + _block(Block.CONTENT, b"".join(parts))


def difference_block(difference: Difference, confirmed: int) -> bytes:
    """One difference to be appended."""
    parts = [CONFIRMED.pack(confirmed)]
    for records in difference:
        parts.append(COUNT.pack(len(records)))
        for owner, rtype, ttl, rdata in records:
            parts += [bytes((len(owner),)), owner, RECORD.pack(rtype, ttl, len(rdata)), rdata]
    return _block(Block.DIFFERENCE, b"".join(parts))


def confirmation_block(confirmed: int) -> bytes:
    """To be appended when the primary has confirmed the version."""
    return _block(Block.CONFIRMED, CONFIRMED.pack(confirmed))


# --- reading ------------------------------------------------------------------------------------------------------


class _Cursor:
    """Reads fields of a payload; each read is checked against its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        """The next `size` octets."""
        if size > len(self.data) - self.at:
            raise JournalError("a field runs past its end")
        found = self.data[self.at : self.at + size]
        self.at += size
        return found

    def fields(self, layout: struct.Struct) -> tuple[int, ...]:
        """The next numbers."""
        return layout.unpack(self.take(layout.size))

    def name(self, size: int) -> bytes:
        """A name of `size` octets in lower case."""
        found = self.take(size)
        if not names.is_valid(found) or names.lower(found) != found:
            raise JournalError("an invalid name")
        return found


def read_journal(data: bytes, origin: bytes) -> Saved:
    """Read the file of the zone `origin` (lower case).

    Raises:
        JournalError: it is damaged, or of another zone.
    """
    if not data.startswith(MAGIC):
        raise JournalError("it is no zone file of this program")
    zone: Zone | None = None
    confirmed = content = 0
    sound = len(MAGIC)
    differences: list[Difference] = []
    try:
        for kind, payload, end in _blocks(data):
            cursor = _Cursor(payload)
            confirmed = cursor.fields(CONFIRMED)[0]
            if kind == Block.CONTENT:
                if zone is not None:
                    raise JournalError("a second content")
                zone, content = _read_content(cursor, origin), end
            elif zone is None:
                raise JournalError("no content")
            elif kind == Block.DIFFERENCE:
                differences.append(_read_difference(cursor))
            elif kind != Block.CONFIRMED:
                raise JournalError(f"a block of the unknown kind {kind}")
            if cursor.at != len(payload):
                raise JournalError("octets after the end of a block")
            sound = end
        if zone is None:
            raise JournalError("no content")
        if differences:
            zone = zone.changed(differences)
    except (JournalError, ZoneError, WireError) as error:
        raise JournalError(f"octet {sound}: {error}") from None
    return Saved(zone, confirmed, sound, content, differences)


def _blocks(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Kind, payload and end of each block; an incomplete last one is left out."""
    at = len(MAGIC)
    while len(data) - at >= HEAD.size:
        kind, size, digest = HEAD.unpack_from(data, at)
        start = at + HEAD.size
        if size > len(data) - start:
            return
        payload = data[start : start + size]
        if _digest(kind, payload) != digest:
            if start + size == len(data) and at > len(MAGIC):
                return  # the end of the file was written in part
            raise JournalError("the digest does not match")
        at = start + size
        yield kind, payload, at


def _read_content(cursor: _Cursor, origin: bytes) -> Zone:
    if cursor.name(cursor.take(1)[0]) != origin:
        raise JournalError("it is the file of another zone")
    tables: list[dict[bytes, bytes]] = []
    for _ in range(2):
        table: dict[bytes, bytes] = {}
        for _ in range(cursor.fields(COUNT)[0]):
            owner_size, size = cursor.fields(NODE)
            owner = cursor.name(owner_size)
            if not names.is_subdomain(owner, origin):
                raise JournalError("a name outside of the zone")
            table[owner] = _checked_node(cursor.take(size))
        tables.append(table)
    return Zone(origin, *tables)


def _checked_node(node: bytes) -> bytes:
    """A node whose entries and rdata are well-formed."""
    try:
        total = 0
        for rtype, _, ttl, packed in entries(node):
            members = unpack(packed)
            if not members or ttl > limits.ZONE_TTL:
                raise JournalError("a malformed set")
            for rdata in members:
                rdatas.check(rtype, rdata)
            total += ENTRY.size + len(packed)
    except struct.error:
        raise JournalError("a malformed name") from None
    if total != len(node):
        raise JournalError("a malformed name")
    return node


def _read_difference(cursor: _Cursor) -> Difference:
    parts: list[list[Record]] = []
    for _ in range(2):
        records: list[Record] = []
        for _ in range(cursor.fields(COUNT)[0]):
            owner = cursor.name(cursor.take(1)[0])
            rtype, ttl, size = cursor.fields(RECORD)
            rdata = cursor.take(size)
            rdatas.check(rtype, rdata)
            records.append((owner, rtype, min(ttl, limits.ZONE_TTL), rdata))
        parts.append(records)
    for records in parts:
        if not records or len(records[0][3]) < SOA_SIZE:
            raise JournalError("a difference without a SOA record")
    return Difference(*parts)
