"""The part of QUIC that a server needs before it has a connection, without I/O: headers, and tokens of Retry packets.

Only the version-independent header (RFC 8999) and the token of an Initial packet (RFC 9000 section 17.2.2) are read
here; the library reads everything else. A token proves that a client has received a packet at the address that it sends
from (RFC 9000 section 8.1.2). It holds the time and the connection id that the client chose first, and a keyed hash of
these, of the client's address and of the connection id that the Retry packet chose. So nothing is kept between the two
packets, and the token is of no use at another address or later.
"""

import hmac
from typing import Final, NamedTuple

from resolver import limits

__all__ = ["INITIAL", "VERSION_1", "PacketHeader", "make_token", "open_token", "parse_header"]

VERSION_1: Final = 1
INITIAL: Final = 0
"""Long packet type of Initial packets of version 1 (RFC 9000 section 17.2)."""

CONNECTION_ID: Final = 8
"""Octets of the connection ids that we choose."""

_LONG = 0x80
_FIXED = 0x40
_HASH = 16
_TIME = 4
_HEAD = _TIME + _HASH


class PacketHeader(NamedTuple):
    """The header of the first packet of a datagram. `version` is None and `kind` -1 for short headers.

    `token` is that of an Initial packet of version 1, else empty.
    """

    version: int | None
    kind: int
    destination: bytes
    source: bytes
    token: bytes


def parse_header(data: bytes) -> PacketHeader | None:
    """The header of the packet that `data` begins with; None when it is not QUIC."""
    if len(data) <= CONNECTION_ID:
        return None
    first = data[0]
    if not first & _LONG:
        return PacketHeader(None, -1, data[1:1 + CONNECTION_ID], b"", b"") if first & _FIXED else None
    version = int.from_bytes(data[1:5], "big")
    at = 6 + data[5]
    if at >= len(data):
        return None
    end = at + 1 + data[at]
    if end > len(data):
        return None
    destination, source = data[6:at], data[at + 1:end]
    if version != VERSION_1:
        return PacketHeader(version, -1, destination, source, b"")
    kind = first >> 4 & 3
    if not first & _FIXED or max(len(destination), len(source)) > limits.QUIC_CONNECTION_ID:
        return None
    token: bytes | None = b""
    if kind == INITIAL:
        token = _token(data, end)
        if token is None:
            return None
    return PacketHeader(version, kind, destination, source, token or b"")


def _token(data: bytes, at: int) -> bytes | None:
    """The token of an Initial packet, which follows its length as a variable-length integer (RFC 9000 section 16)."""
    if at >= len(data):
        return None
    width = 1 << (data[at] >> 6)
    size = int.from_bytes(data[at:at + width], "big") & (1 << (8 * width - 2)) - 1
    begin = at + width
    if begin + size > len(data):
        return None
    return data[begin:begin + size]


def make_token(key: bytes, client: bytes, original: bytes, chosen: bytes, now: int) -> bytes:
    """The token of a Retry packet to the address `client`; `now` is in seconds.

    `original` is the connection id that the client has sent to, `chosen` the one that it must send to from now on.
    """
    time = (now & 0xFFFFFFFF).to_bytes(_TIME, "big")
    return time + _hash(key, time, client, original, chosen) + original


def open_token(key: bytes, token: bytes, client: bytes, chosen: bytes, now: int) -> bytes | None:
    """The connection id that the client of `token` has sent to first; None when the token is not valid, or too old."""
    if len(token) < _HEAD or len(token) > _HEAD + limits.QUIC_CONNECTION_ID:
        return None
    time, found, original = token[:_TIME], token[_TIME:_HEAD], token[_HEAD:]
    if not hmac.compare_digest(found, _hash(key, time, client, original, chosen)):
        return None
    age = (now - int.from_bytes(time, "big")) & 0xFFFFFFFF
    return original if age <= limits.QUIC_TOKEN_LIFETIME else None


def _hash(key: bytes, time: bytes, client: bytes, original: bytes, chosen: bytes) -> bytes:
    # Lengths before the parts of variable length, so that no two tokens have the same input.
    parts = time + bytes((len(client),)) + client + bytes((len(original),)) + original + chosen
    return hmac.digest(key, parts, "sha256")[:_HASH]
