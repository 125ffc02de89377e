"""DNS over QUIC without I/O (RFC 9250): what a stream carries, and what ends a connection.

Each query has its own stream: two octets of length, the message, and the end of the stream (section 4.2). Anything else
is a protocol error and ends the connection (section 4.3.3). A query is checked when its stream has ended, because only
then it is certain that nothing follows.
"""

import sys
from typing import Final

from resolver.net.fastpath import ClientQuery, read_query
from resolver.wire import consts as c
from resolver.wire.consts import HEADER_SIZE
from resolver.wire.edns import options_from_wire

__all__ = [
    "ALPN",
    "CODES",
    "EXCESSIVE_LOAD",
    "INTERNAL_ERROR",
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "REQUEST_CANCELLED",
    "UNSPECIFIED_ERROR",
    "MessageReader",
    "ProtocolError",
    "check_query",
    "code_name",
    "frame",
]

ALPN: Final = "doq"

# Error codes of streams and connections (RFC 9250 section 4.3).
NO_ERROR: Final = 0
INTERNAL_ERROR: Final = 1
PROTOCOL_ERROR: Final = 2
REQUEST_CANCELLED: Final = 3
EXCESSIVE_LOAD: Final = 4
UNSPECIFIED_ERROR: Final = 5

CODES: Final = ("no error", "internal error", "protocol error", "request cancelled", "excessive load", "unspecified")
"""Names of the codes, for counters and messages."""

_LENGTH = 2
_QR = 0x80
_KEEPALIVE = c.OPTION_KEEPALIVE.to_bytes(2, "big")


class ProtocolError(Exception):
    """The peer broke a rule of RFC 9250; the text says which, in a few words that can name a counter."""


class MessageReader:
    """The octets of one stream: a length and one message.

    It holds at most the octets of one message and its length, because the first octet beyond them raises.
    """

    __slots__ = ("_octets",)

    def __init__(self) -> None:
        self._octets = bytearray()

    @property
    def held(self) -> int:
        """Octets held."""
        return len(self._octets)

    @property
    def octets(self) -> int:
        """Memory of the octets held, which grow in a buffer with more room."""
        return sys.getsizeof(self._octets)

    def feed(self, data: bytes, end: bool) -> bytes | None:
        """Take octets of the stream; `end`: nothing follows. The message when the stream has ended, else None.

        Raises:
            ProtocolError: there is more than one message, or less.
        """
        octets = self._octets
        octets += data
        if len(octets) >= _LENGTH:
            size = _LENGTH + int.from_bytes(octets[:_LENGTH], "big")
            if len(octets) > size:
                raise ProtocolError("more than one message on a stream")
            if end and len(octets) == size:
                return bytes(octets[_LENGTH:])
        if end:
            raise ProtocolError("a stream ended within its message")
        return None


def check_query(message: bytes) -> None:
    """Check the requirements of DNS over QUIC on a query that other transports do not have.

    Raises:
        ProtocolError: it has no header or is a response, its id is not 0, or it has edns-tcp-keepalive.
    """
    if len(message) < HEADER_SIZE or message[2] & _QR:
        raise ProtocolError("a message is not a query")
    if message[0] or message[1]:
        raise ProtocolError("a message id is not 0")
    if _KEEPALIVE in message:  # else there is no such option, and nothing has to be parsed
        query = read_query(message)
        if isinstance(query, ClientQuery) and any(
            code == c.OPTION_KEEPALIVE for code, _ in options_from_wire(query.options)
        ):
            raise ProtocolError("a query has edns-tcp-keepalive")


def code_name(code: int) -> str:
    """A name for an error code of RFC 9250, or its number."""
    return CODES[code] if code < len(CODES) else f"error {code:#x}"


def frame(message: bytes) -> bytes:
    """`message` behind its length."""
    return len(message).to_bytes(_LENGTH, "big") + message
