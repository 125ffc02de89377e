"""Frames of HTTP/2 built byte by byte, for peers that do what no library would."""

from collections.abc import Iterable

from corenet.http.events import Event, Request
from corenet.http.h2 import CLIENT, PREFACE, SERVER, H2Connection

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "ENABLE_PUSH",
    "END_HEADERS",
    "END_STREAM",
    "GOAWAY",
    "HEADERS",
    "INITIAL_WINDOW_SIZE",
    "MAX_CONCURRENT_STREAMS",
    "MAX_FRAME_SIZE",
    "NO_RFC7540_PRIORITIES",
    "PADDED",
    "PING",
    "PRIORITY",
    "PRIORITY_FLAG",
    "PUSH_PROMISE",
    "REQUEST",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "block",
    "client",
    "frame",
    "frames",
    "get",
    "goaway_code",
    "headers",
    "of",
    "server",
    "settings",
    "window_update",
]

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
# Identifiers of settings (RFC 9113 section 6.5.2, RFC 9218 section 2.1).
ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = range(2, 6)
NO_RFC7540_PRIORITIES = 9
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

Fields = Iterable[tuple[bytes, bytes]]
REQUEST = ((b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"h"), (b":path", b"/"))


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame (RFC 9113 section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def frames(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """Take frames apart: (type, flags, stream, payload)."""
    found, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 3], "big")
        assert len(data) >= at + 9 + size, "half a frame"
        stream = int.from_bytes(data[at + 5 : at + 9], "big")
        found.append((data[at + 3], data[at + 4], stream, data[at + 9 : at + 9 + size]))
        at += 9 + size
    return found


def block(fields: Fields) -> bytes:
    """A field block of plain literals that enter no table; names and values shorter than 127 bytes."""
    return b"".join(b"\0" + bytes([len(n)]) + n + bytes([len(v)]) + v for n, v in fields)


def headers(stream: int, fields: Fields, *, end: bool = True) -> bytes:
    """A HEADERS frame with a whole field block."""
    return frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block(fields))


def get(stream: int, *more: tuple[bytes, bytes], end: bool = True) -> bytes:
    """A GET request."""
    return headers(stream, [*REQUEST, *more], end=end)


def settings(*entries: tuple[int, int]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join(name.to_bytes(2, "big") + value.to_bytes(4, "big") for name, value in entries)
    return frame(SETTINGS, 0, 0, payload)


def window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def goaway_code(data: bytes) -> int | None:
    """The error code of the GOAWAY among these frames."""
    for kind, _, _, payload in frames(data):
        if kind == GOAWAY:
            return int.from_bytes(payload[4:8], "big")
    return None


def server(**options: int) -> H2Connection:
    """A server whose client has greeted it and acknowledged its settings; what it said is taken away."""
    connection = H2Connection(SERVER, **options)
    connection.feed(PREFACE + settings() + frame(SETTINGS, ACK, 0))
    connection.data_to_send()
    return connection


def client(*requests: bytes, **options: int) -> H2Connection:
    """A client whose server has greeted it, and which has sent a request without a body for each method."""
    connection = H2Connection(CLIENT, **options)
    connection.feed(settings() + frame(SETTINGS, ACK, 0))
    for method in requests:
        connection.send_request(Request(method, b"/", [(b"Host", b"h")]), True)
    connection.data_to_send()
    return connection


def of(events: list[tuple[int, Event]], stream: int) -> list[Event]:
    """The events of one stream."""
    return [event for number, event in events if number == stream]
