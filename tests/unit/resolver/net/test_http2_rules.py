"""HTTP/2 of DNS over HTTPS against a client that breaks the rules of RFC 9113, section by section.

The client is the library `h2`, which checks the server's frames; the wrong frames are built by hand. A connection
error ends the connection with a GOAWAY, a stream error ends one stream and the next request is answered all the same.
"""

import asyncio
import base64
from typing import Any

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes as E
from h2.events import ConnectionTerminated, ResponseReceived, StreamReset
from hpack import Encoder
from support.doh_connection import QUERY, Listener, connect
from support.h2_frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    frame,
)

from resolver import limits

TARGET = "/dns-query?dns=" + base64.urlsafe_b64encode(QUERY).rstrip(b"=").decode()
GET = [(":method", "GET"), (":scheme", "https"), (":authority", "x"), (":path", TARGET)]
POST = [(":method", "POST"), (":scheme", "https"), (":authority", "x"), (":path", "/dns-query"),
        ("content-type", "application/dns-message")]


def block(*fields: tuple[str, str]) -> bytes:
    """A field block that leaves the dynamic table of the client as it is."""
    return Encoder().encode([(name, value, True) for name, value in fields])


def request(stream: int, *fields: tuple[str, str], flags: int = END_HEADERS | END_STREAM) -> bytes:
    return frame(HEADERS, flags, stream, block(*fields))


def setting(name: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, name.to_bytes(2, "big") + value.to_bytes(4, "big"))


def window(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


OPEN = request(1, *POST, flags=END_HEADERS)
DONE = request(1, *GET)
RESET = frame(RST_STREAM, 0, 1, bytes(4))

# section, octets after the preface and the client's settings, code of the GOAWAY
CONNECTION_ERRORS = [
    ("4.2", frame(PING, 0, 0, bytes(16_385)), E.FRAME_SIZE_ERROR),
    ("4.2", frame(DATA, 0, 1, bytes(16_385))[:9], E.FRAME_SIZE_ERROR),
    ("4.3", frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\x80"), E.COMPRESSION_ERROR),
    ("4.3", frame(HEADERS, END_HEADERS | END_STREAM, 1, b"\xff\xff\xff\xff\xff\xff\xff"), E.COMPRESSION_ERROR),
    ("5.1 idle", frame(DATA, 0, 1, b"x"), E.PROTOCOL_ERROR),
    ("5.1 idle", frame(RST_STREAM, 0, 1, bytes(4)), E.PROTOCOL_ERROR),
    ("5.1 idle", window(1, 1), E.PROTOCOL_ERROR),
    ("5.1 idle", frame(CONTINUATION, END_HEADERS, 1, block(*GET)), E.PROTOCOL_ERROR),
    ("5.1.1", request(2, *GET), E.PROTOCOL_ERROR),
    ("6.1", frame(DATA, 0, 0, b"x"), E.PROTOCOL_ERROR),
    ("6.1", OPEN + frame(DATA, PADDED, 1, b"\5abcd"), E.PROTOCOL_ERROR),
    ("6.2", frame(HEADERS, END_HEADERS, 0, block(*GET)), E.PROTOCOL_ERROR),
    ("6.2", frame(HEADERS, END_HEADERS | PADDED, 1, b"\x7fabcd"), E.PROTOCOL_ERROR),
    ("6.2", frame(HEADERS, 0, 1, block(*GET)) + frame(PING, 0, 0, bytes(8)), E.PROTOCOL_ERROR),
    ("6.2", frame(HEADERS, 0, 1, block(*GET)) + request(3, *GET), E.PROTOCOL_ERROR),
    ("6.2", frame(HEADERS, END_HEADERS | PRIORITY_FLAG, 1, bytes(4)), E.FRAME_SIZE_ERROR),
    ("6.3", frame(PRIORITY, 0, 0, bytes(5)), E.PROTOCOL_ERROR),
    ("6.4", frame(RST_STREAM, 0, 0, bytes(4)), E.PROTOCOL_ERROR),
    ("6.4", OPEN + frame(RST_STREAM, 0, 1, bytes(3)), E.FRAME_SIZE_ERROR),
    ("6.5", frame(SETTINGS, ACK, 0, b"x"), E.FRAME_SIZE_ERROR),
    ("6.5", frame(SETTINGS, 0, 1), E.PROTOCOL_ERROR),
    ("6.5", frame(SETTINGS, 0, 0, bytes(7)), E.FRAME_SIZE_ERROR),
    ("6.5.2", setting(2, 2), E.PROTOCOL_ERROR),
    ("6.5.2", setting(4, 1 << 31), E.FLOW_CONTROL_ERROR),
    ("6.5.2", setting(5, 16_383), E.PROTOCOL_ERROR),
    ("6.5.2", setting(5, 1 << 24), E.PROTOCOL_ERROR),
    ("6.6", OPEN + frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4)), E.PROTOCOL_ERROR),
    ("6.7", frame(PING, 0, 0, bytes(7)), E.FRAME_SIZE_ERROR),
    ("6.7", frame(PING, 0, 1, bytes(8)), E.PROTOCOL_ERROR),
    ("6.8", frame(GOAWAY, 0, 1, bytes(8)), E.PROTOCOL_ERROR),
    ("6.9", window(0, 0), E.PROTOCOL_ERROR),
    ("6.9", frame(WINDOW_UPDATE, 0, 0, bytes(3)), E.FRAME_SIZE_ERROR),
    ("6.9.1", window(0, (1 << 31) - 1), E.FLOW_CONTROL_ERROR),
    ("6.10", frame(CONTINUATION, END_HEADERS, 0, b""), E.PROTOCOL_ERROR),
    ("6.10", frame(HEADERS, 0, 1, block(*GET)) + frame(CONTINUATION, END_HEADERS, 3, b""), E.PROTOCOL_ERROR),
    ("6.10", OPEN + frame(CONTINUATION, END_HEADERS, 1, b""), E.PROTOCOL_ERROR),
]

# section, octets of stream 1
STREAM_ERRORS = [
    ("6.9", OPEN + window(1, 0)),
    ("6.9.1", OPEN + window(1, (1 << 31) - 1)),
    ("8.1", OPEN + request(1, ("x", "y"), flags=END_HEADERS)),  # trailers without END_STREAM
    ("8.1.1", request(1, *POST, ("content-length", "5"), flags=END_HEADERS) + frame(DATA, END_STREAM, 1, b"x")),
    ("8.1.1", request(1, *POST, ("content-length", "5"))),
    ("8.1.1", request(1, *POST, ("content-length", "x"), flags=END_HEADERS)),
    ("8.2.1", request(1, *GET, ("X-Upper", "y"))),
    ("8.2.1", request(1, *GET, ("x y", "z"))),
    ("8.2.1", request(1, *GET, ("x", "a\r\nb"))),
    ("8.2.1", request(1, *GET, ("x", " a"))),
    ("8.2.2", request(1, *GET, ("connection", "close"))),
    ("8.2.2", request(1, *GET, ("transfer-encoding", "chunked"))),
    ("8.2.2", request(1, *GET, ("te", "gzip"))),
    ("8.3", request(1, *GET[:3], ("x", "y"), GET[3])),  # a pseudo-header field behind another one
    ("8.3", request(1, *GET, (":unknown", "x"))),
    ("8.3", request(1, *GET, (":status", "200"))),
    ("8.3", OPEN + request(1, (":path", "/"))),  # in trailers
    ("8.3.1", request(1, *GET[1:])),
    ("8.3.1", request(1, GET[0], *GET[2:])),
    ("8.3.1", request(1, *GET[:3])),
    ("8.3.1", request(1, *GET, GET[0])),
    ("8.3.1", request(1, *GET[:3], (":path", ""))),
    ("8.3.1", request(1, *GET, ("host", "other"))),
]

# Permitted, but unusual: section and octets before a valid request on stream 9.
PERMITTED = [
    ("4.1", frame(0xBE, 0xFF, 0, b"unknown")),
    ("4.1", frame(0xBE, 0xFF, 7, b"unknown")),
    ("5.1 closed", DONE + window(1, 1)),
    ("5.1 closed", DONE + frame(PRIORITY, 0, 1, bytes(5))),
    ("5.1 closed", OPEN + RESET + window(1, 1)),
    ("5.3.1", frame(PRIORITY, 0, 7, bytes(5))),
    ("6.2", frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, b"\3" + block(*GET) + bytes(3))),
    ("6.2", frame(HEADERS, END_HEADERS | END_STREAM | PRIORITY_FLAG, 1, bytes(5) + block(*GET))),
    ("6.5.2", setting(0x4242, 7)),
    ("6.8", frame(GOAWAY, 0, 0, bytes(8))),
    ("6.9.2", setting(4, 0) + setting(4, 65_535)),
    ("6.10", frame(HEADERS, END_STREAM, 1, block(*GET)[:9]) + frame(CONTINUATION, END_HEADERS, 1, block(*GET)[9:])),
]


class Client:
    """The library, which has sent its preface, and the server's connection."""

    def __init__(self, listener: Listener | None = None) -> None:
        self.listener = listener or Listener()
        self.connection, self.transport = connect(self.listener, "h2")
        self.library = H2Connection(H2Configuration(client_side=True, validate_outbound_headers=False))
        self.library.initiate_connection()
        self.send(self.library.data_to_send())

    def send(self, octets: bytes) -> list[Any]:
        """Let the server read `octets`; returns what the library makes of its answer."""
        self.connection.received(octets)
        said, self.transport.written = b"".join(self.transport.written), []
        return self.library.receive_data(said)

    def know(self, stream: int) -> None:
        """Have the library expect a response on `stream`."""
        self.library.send_headers(stream, GET, end_stream=True)
        self.library.data_to_send()

    def is_served(self) -> bool:
        """Whether a good request on stream 9 is answered."""
        self.know(9)
        events = self.send(request(9, *GET))
        return [dict(event.headers)[b":status"] for event in events if isinstance(event, ResponseReceived)] == [b"200"]


@pytest.mark.parametrize(
    ("octets", "code"),
    [pytest.param(octets, code, id=f"{section}-{number}") for number, (section, octets, code) in
     enumerate(CONNECTION_ERRORS)],
)
def test_a_connection_error_ends_the_connection_with_its_code(octets: bytes, code: E) -> None:
    client = Client()
    client.know(1)
    events = client.send(octets)
    [end] = [event for event in events if isinstance(event, ConnectionTerminated)]
    assert end.error_code == code
    assert client.transport.closing and client.listener.malformed == 1
    client.connection.connection_lost(None)
    assert not client.listener.service.pending


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\rx", frame(SETTINGS, 0, 0)]
)
def test_a_wrong_preface_ends_the_connection(first: bytes) -> None:
    """RFC 9113 section 3.4."""
    listener = Listener()
    connection, transport = connect(listener, "h2")
    connection.received(first)
    assert transport.closing and listener.malformed == 1 and not listener.requests
    connection.connection_lost(None)


@pytest.mark.parametrize(
    "octets", [pytest.param(octets, id=f"{section}-{n}") for n, (section, octets) in enumerate(STREAM_ERRORS)]
)
def test_a_stream_error_costs_one_stream(octets: bytes) -> None:
    client = Client()
    client.know(1)
    events = client.send(octets)
    assert [type(event) for event in events if isinstance(event, ConnectionTerminated | ResponseReceived)] == []
    assert [event.stream_id for event in events if isinstance(event, StreamReset)] == [1]
    assert client.is_served() and not client.transport.closing
    assert client.listener.requests == 1, "nothing of the wrong request was asked"
    client.connection.connection_lost(None)


@pytest.mark.parametrize(
    "octets", [pytest.param(octets, id=f"{section}-{n}") for n, (section, octets) in enumerate(PERMITTED)]
)
def test_permitted_and_ignorable_frames_have_no_effect(octets: bytes) -> None:
    client = Client()
    client.know(1)
    events = client.send(octets)
    assert not any(isinstance(event, ConnectionTerminated | StreamReset) for event in events)
    if octets[3] != GOAWAY:
        assert client.is_served()
    assert not client.transport.closing
    client.connection.connection_lost(None)


# Connection errors after a request on stream 1.
FAULTS = {
    "ping on a stream": frame(PING, 0, 1, bytes(8)),
    "frame too large": frame(DATA, 0, 1, bytes(16_385)),
    "window by 0": window(0, 0),
    "fields that are no HPACK": frame(HEADERS, END_HEADERS | END_STREAM, 3, b"\x80"),
    "even stream": request(2, *GET),
    "frame inside a block": frame(HEADERS, END_STREAM, 3, block(*GET)) + window(0, 1),
}
BAD = FAULTS["ping on a stream"]
FAULT = pytest.mark.parametrize("fault", [pytest.param(fault, id=name) for name, fault in FAULTS.items()])


def ends(events: list[Any]) -> list[type]:
    """Responses and GOAWAY, in order."""
    return [type(event) for event in events if isinstance(event, ConnectionTerminated | ResponseReceived)]


@FAULT
def test_a_request_before_a_connection_error_is_answered_before_the_goaway(fault: bytes) -> None:
    """RFC 9113 sections 5.4.1 and 6.8: also when both are in one segment. The library takes nothing after a GOAWAY."""
    client = Client()
    client.know(1)
    events = client.send(DONE + fault)
    assert ends(events) == [ResponseReceived, ConnectionTerminated]
    assert events[-1].last_stream_id >= 1
    assert client.transport.closing and client.listener.malformed == client.listener.requests == 1


@FAULT
def test_a_query_that_waits_is_answered_after_a_connection_error(fault: bytes) -> None:
    """A request that is not complete never will be, and what follows the error is not read."""
    client = Client(Listener(None))
    client.know(1)
    assert not client.send(DONE + request(3, *POST, flags=END_HEADERS) + fault.replace(b"\0\0\0\3", b"\0\0\0\5"))
    assert not client.send(request(7, *GET) + BAD)
    assert not client.transport.closing and client.listener.requests == client.listener.malformed == 1
    [sink] = client.connection._session._waiting.values()  # type: ignore[union-attr]
    sink.send(QUERY, ("", 0))
    assert ends(client.send(b"")) == [ResponseReceived, ConnectionTerminated]
    assert client.transport.closing


def test_a_connection_error_holds_the_connection_no_longer_than_its_queries() -> None:
    """A client that does not read has the message timeout, as without the error."""
    client = Client(Listener(None))
    client.know(1)
    client.send(DONE + BAD)
    connection, timeout = client.connection, client.listener.message_timeout
    connection.pause_writing()
    assert not connection.is_late(timeout) and connection.is_late(timeout + 0.1)
    connection.connection_lost(None)
    assert not client.listener.service.pending


def test_a_request_that_a_connection_error_cuts_off_has_no_timeout() -> None:
    """It can never be completed, also when it came in an earlier segment. Its memory is released."""
    client = Client(Listener(None))
    client.know(1)
    client.send(DONE)
    client.send(request(3, *POST, flags=END_HEADERS) + frame(DATA, 0, 3, bytes(10_000)))
    connection, timeout = client.connection, client.listener.message_timeout
    before = connection.held
    client.send(BAD)
    assert connection.held <= before - 10_000
    client.listener.clock = timeout + 0.1
    assert not connection.is_late(client.listener.clock)
    [sink] = connection._session._waiting.values()  # type: ignore[union-attr]
    sink.send(QUERY, ("", 0))
    assert ends(client.send(b"")) == [ResponseReceived, ConnectionTerminated]
    assert client.transport.closing


def test_a_request_whose_end_is_read_before_the_connection_error_is_answered() -> None:
    client = Client()
    client.know(1)
    client.send(request(1, *POST, flags=END_HEADERS))
    events = client.send(frame(DATA, END_STREAM, 1, QUERY) + BAD)
    assert ends(events) == [ResponseReceived, ConnectionTerminated]
    assert client.transport.closing


def test_what_follows_a_connection_error_is_bounded() -> None:
    """It is read, so that the end of the client is noticed and unread octets cause no RST; not without bound."""
    client = Client(Listener(None))
    client.know(1)
    client.send(DONE + BAD)
    piece = bytes(limits.DOH_WINDOW // 4)
    for _ in range(4):
        client.connection.received(piece)
    assert client.transport.reading and not client.transport.closing
    client.connection.received(b"x")
    assert client.transport.closing
    client.connection.connection_lost(None)
    assert not client.listener.service.pending


def test_many_requests_before_a_connection_error_are_answered_in_turns() -> None:
    async def main() -> None:
        listener, count = Listener(), 2 * limits.STREAM_TURN_MESSAGES
        listener.pipeline = count
        client = Client(listener)
        for number in range(count):
            client.know(2 * number + 1)
        events = client.send(b"".join(request(2 * number + 1, *GET) for number in range(count)) + BAD)
        assert ends(events) == [ResponseReceived] * limits.STREAM_TURN_MESSAGES
        while not client.transport.closing:
            await asyncio.sleep(0)
        assert client.listener.requests == count
        assert ends(client.send(b""))[-1] is ConnectionTerminated

    asyncio.run(main())
