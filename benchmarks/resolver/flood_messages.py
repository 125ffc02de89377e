"""DNS messages of the floods, put together by hand: attackers and their name servers need no library, and no time."""

import struct
from collections.abc import Iterable

from resolver.wire.consts import SOA

__all__ = ["ADDRESS", "TTL", "UDP_PAYLOAD", "packet", "question", "record", "respond", "soa"]

HEADER = 12
TTL = 60
UDP_PAYLOAD = 1232
OPT = bytes.fromhex("00 0029 04d0 0000 8000 0000")
ADDRESS = bytes.fromhex("c0000201")


def packet(number: int, name: bytes, rtype: int) -> bytes:
    """A query with RD and EDNS, without DO."""
    head = struct.pack("!HHHHHH", number & 0xFFFF, 0x0100, 1, 0, 0, 1)
    return head + name + struct.pack("!HH", rtype, 1) + OPT.replace(b"\x80", b"\0")


def question(query: bytes) -> tuple[bytes, int]:
    """Name in lower case, and type."""
    end = query.index(0, HEADER) + 1
    return query[HEADER:end].lower(), int.from_bytes(query[end : end + 2], "big")


def record(owner: bytes, rtype: int, rdata: bytes, ttl: int = TTL) -> bytes:
    """A record in wire form."""
    return owner + struct.pack("!HHIH", rtype, 1, ttl, len(rdata)) + rdata


def respond(
    query: bytes, *, rcode: int = 0, authoritative: bool = True, truncated: bool = False, answer: Iterable[bytes] = (),
    authority: Iterable[bytes] = (), additional: Iterable[bytes] = (),
) -> bytes:
    """A reply with these records, and with OPT when the query has it."""
    end = query.index(0, HEADER) + 5
    sections = tuple(answer), tuple(authority), (*additional, *((OPT,) if query[11] else ()))
    flags = 0x8000 | authoritative << 10 | truncated << 9 | rcode
    head = query[:2] + struct.pack("!HHHHH", flags, 1, *map(len, sections))
    return head + query[HEADER:end] + b"".join(map(b"".join, sections))


def soa(zone: bytes) -> bytes:
    """The SOA record of a zone."""
    return record(zone, SOA, zone + zone + struct.pack("!5I", 1, 7200, 1800, 604800, TTL))
