"""DNS over HTTPS towards clients without sockets: what a connection holds, and how much it does at once."""

import asyncio
import base64
import gc
import weakref
from typing import Any

import pytest

from corenet.http.events import Request
from corenet.http.h2 import CLIENT, H2Connection
from resolver import limits
from resolver.net.https_listener import HttpsConnection
from resolver.net.turns import Turns

QUERY = bytes.fromhex("000001000001000000000000076578616d706c650000010001")
TARGET = b"/dns-query?dns=" + base64.urlsafe_b64encode(QUERY).rstrip(b"=")


class Tls:
    """What the handshake has negotiated."""

    def __init__(self, alpn: str) -> None:
        self._alpn = alpn

    def selected_alpn_protocol(self) -> str:
        return self._alpn


class Transport:
    """A transport that keeps what is written to it."""

    def __init__(self, alpn: str) -> None:
        self._tls = Tls(alpn)
        self.written: list[bytes] = []
        self.reading = True
        self.closing = False
        self.half_closed = False

    def get_extra_info(self, name: str) -> Any:
        return self._tls if name == "ssl_object" else None

    def set_write_buffer_limits(self, high: int) -> None:
        """Nothing is buffered here."""

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.half_closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


class Fast:
    """A cache that has an answer to everything, or to nothing."""

    def __init__(self, reply: bytes | None) -> None:
        self._reply = reply
        self.asked: list[bytes] = []

    def answer_encrypted(self, message: bytes, octets: bytes, block: int) -> tuple[bytes | None, int]:
        self.asked.append(message)
        return self._reply, 60


class Pending:
    """A query that waits."""

    def __init__(self, service: "Service") -> None:
        self.service = service


class Service:
    """A service that never answers."""

    def __init__(self) -> None:
        self.pending: list[Pending] = []

    def handle(self, message: bytes, peer: Any, sink: Any, access: Any) -> Pending:
        self.pending.append(Pending(self))
        return self.pending[-1]

    def forget(self, pending: Pending) -> None:
        self.pending.remove(pending)


class Listener:
    """A listener of which no socket is open."""

    message_timeout = 5.0
    idle_timeout = 30.0
    handshake_timeout = 5.0
    padding_block = 0
    pipeline = 100
    path = b"/dns-query"
    own_access = None

    def __init__(self, reply: bytes | None = b"\0" * 12) -> None:
        self.fast = Fast(reply)
        self.service = Service()
        self.turns = Turns()
        self.clock = 0.0
        self.requests = self.http2_connections = self.write_overrun = self.malformed = 0
        self.refused: list[int] = []

    def now(self) -> float:
        return self.clock

    def note_progress(self, client: Any) -> None:
        """The order of eviction is not of interest here."""

    def note_refused(self, status: int) -> None:
        self.refused.append(status)

    def remove(self, client: Any) -> None:
        """There are no slots here."""


class Connection(HttpsConnection):
    """One that weak references may be made to."""


def connect(listener: Any, alpn: str) -> tuple[Connection, Any]:
    """An open connection of an allowed client."""
    connection, transport = Connection(listener), Transport(alpn)
    connection.allowed = True
    connection._open(transport, b"")  # type: ignore[arg-type]
    return connection, transport


def http2_requests(transport: Transport, count: int, target: bytes = TARGET) -> bytes:
    """The octets of a client that sends `count` requests to the server that has written its settings."""
    codec = H2Connection(CLIENT)
    codec.feed(b"".join(transport.written))
    for _ in range(count):
        codec.send_request(Request(b"GET", target, [(b"Host", b"x")]), end=True)
    return bytes(codec.data_to_send())


def http1_request(target: bytes = TARGET, rest: bytes = b"\r\n") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + rest


@pytest.mark.parametrize("reply", [b"\0" * 12, None], ids=["hit", "miss"])
@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_a_closed_connection_is_freed_at_once(alpn: str, reply: bytes | None) -> None:
    """The daemon's collector runs seldom, and unsent replies are large."""
    listener = Listener(reply)
    connection, transport = connect(listener, alpn)
    connection.received(http2_requests(transport, 9) if alpn == "h2" else http1_request())
    assert listener.fast.asked
    session: Any = connection._session
    held = [weakref.ref(thing) for thing in (connection, session)]
    gc.disable()
    try:
        connection.connection_lost(None)
        del connection, session, transport
        assert [reference() for reference in held] == [None, None]
    finally:
        gc.enable()
    assert not listener.service.pending


def test_the_body_of_a_get_request_is_no_part_of_its_message() -> None:
    listener = Listener()
    connection, transport = connect(listener, "http/1.1")
    connection.received(http1_request(rest=b"Content-Length: 7\r\n\r\n+poison"))
    assert listener.fast.asked == [QUERY]
    assert len(transport.written) == 1
    connection.connection_lost(None)


def test_the_body_of_a_get_request_is_bounded() -> None:
    async def body() -> None:
        listener = Listener()
        connection, _ = connect(listener, "http/1.1")
        connection.received(http1_request(rest=b"Content-Length: %d\r\n\r\n" % (2 * limits.DOH_WINDOW)))
        for _ in range(limits.DOH_WINDOW // limits.STREAM_READ_CHUNK):
            connection.received(b"x" * limits.STREAM_READ_CHUNK)
            await asyncio.sleep(0)
        assert not listener.refused
        connection.received(b"x")
        assert listener.refused == [413]
        assert not listener.fast.asked
        connection.connection_lost(None)

    asyncio.run(body())


@pytest.mark.parametrize("target", [TARGET, b"/elsewhere"], ids=["hit", "refused"])
@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_one_connection_has_its_share_of_a_turn(alpn: str, target: bytes) -> None:
    """What is left has further turns; nothing is read meanwhile."""

    async def body() -> None:
        listener = Listener()
        listener.pipeline = count = 5 * limits.STREAM_TURN_MESSAGES // 2
        connection, transport = connect(listener, alpn)
        connection.received(http2_requests(transport, count, target) if alpn == "h2" else http1_request(target) * count)
        done = [0]
        while done[-1] < count:
            done.append(listener.requests + len(listener.refused))
            assert 0 < done[-1] - done[-2] <= limits.STREAM_TURN_MESSAGES
            assert transport.reading is (done[-1] == count)
            await asyncio.sleep(0)
        assert transport.reading
        connection.connection_lost(None)

    asyncio.run(body())


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_all_connections_have_one_share_of_an_iteration(alpn: str) -> None:
    """Many connections of one network do not keep another's, nor the loop, from working."""

    async def body() -> None:
        listener = Listener()
        listener.pipeline = limits.STREAM_TURN_MESSAGES
        many = [connect(listener, alpn) for _ in range(20)]
        count = listener.pipeline
        octets = http2_requests(many[0][1], count) if alpn == "h2" else http1_request() * count
        for connection, _ in many:
            connection.network = "192.0.2.0"
            connection.received(octets)
        assert listener.requests == limits.STREAM_ITERATION_MESSAGES
        assert not many[-1][1].reading
        other, transport = connect(listener, alpn)
        other.network = "198.51.100.0"
        said = len(transport.written)
        other.received(http2_requests(transport, 1) if alpn == "h2" else http1_request())
        assert len(transport.written) == said
        await asyncio.sleep(0)
        assert len(transport.written) > said
        assert listener.requests <= 3 * limits.STREAM_ITERATION_MESSAGES
        for connection, _ in many[:-1]:
            connection.connection_lost(None)
        await asyncio.sleep(0)
        assert many[-1][1].reading
        many[-1][0].connection_lost(None)
        other.connection_lost(None)

    asyncio.run(body())


@pytest.mark.parametrize("fate", ["late", "loud"])
def test_after_a_refusal_our_side_is_half_closed(fate: str) -> None:
    """RFC 9112 section 9.6: the client may close first, but has neither much time nor many octets for it."""
    listener = Listener()
    connection, transport = connect(listener, "http/1.1")
    connection.received(b"nonsense\r\n\r\n")
    assert listener.refused == [400]
    assert transport.half_closed and transport.reading and not transport.closing
    connection.received(bytes(limits.DOH_WINDOW))
    assert not transport.closing and not connection.is_late(limits.STREAM_LINGER)
    if fate == "late":
        assert connection.is_late(limits.STREAM_LINGER + 0.1)
    else:
        connection.received(b"x")
        assert transport.closing
    connection.connection_lost(None)


@pytest.mark.parametrize("begun", ["frame header", "field block", "nothing"])
def test_what_has_begun_over_http2_has_the_time_of_a_message(begun: str) -> None:
    """Only a connection on which nothing has begun may be idle."""
    listener = Listener()
    connection, transport = connect(listener, "h2")
    begin, octets = http2_requests(transport, 0), http2_requests(transport, 1)
    frame = bytearray(octets[len(begin):])
    if begun == "frame header":
        del frame[5:]
    elif begun == "field block":
        frame[4] &= ~4  # END_HEADERS (RFC 9113 section 6.2)
    connection.received(begin)
    listener.clock = 1.0
    connection.received(bytes(frame))
    assert not connection.is_late(listener.message_timeout + 1)
    assert connection.is_late(listener.message_timeout + 2) is (begun != "nothing")
    connection.connection_lost(None)
