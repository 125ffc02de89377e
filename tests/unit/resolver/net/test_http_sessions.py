"""DNS over HTTPS towards clients without sockets: what a connection holds, and how much it does at once."""

import asyncio
import base64
import gc
import weakref
from typing import Any

import pytest
from support.doh_connection import QUERY, FixedCache, Listener, Transport, connect

from corenet.http.events import Informational, Request, Response
from corenet.http.h2 import CLIENT, H2Connection
from resolver import limits
from resolver.net.stream_connection import StreamConnection
from resolver.net.turns import Turns

TARGET = b"/dns-query?dns=" + base64.urlsafe_b64encode(QUERY).rstrip(b"=")


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


def test_the_body_of_a_get_request_is_ignored() -> None:
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


def http2_frame(kind: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, 0)) + stream.to_bytes(4, "big") + payload


SETTINGS, RST_STREAM, WINDOW_UPDATE = 4, 3, 8
NO_WINDOW = http2_frame(SETTINGS, 0, b"\0\4" + bytes(4))  # RFC 9113 section 6.5.2: SETTINGS_INITIAL_WINDOW_SIZE


@pytest.mark.parametrize("alone", [False, True], ids=["one-turn", "one-request-a-turn"])
def test_nothing_is_made_for_a_client_that_does_not_read(*, alone: bool) -> None:
    """Over HTTP/2 a client reads nothing when it opens no window. Requests wait until it does."""

    async def spin() -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    async def body() -> None:
        size, count = limits.STREAM_TURN_OCTETS // 2 + 100, 20
        listener = Listener(bytes(size))
        connection, transport = connect(listener, "h2")
        asked = http2_requests(transport, count)
        connection.received(asked[:asked.index(b"\0\0\0\4\1")] + NO_WINDOW)  # the preface, and other settings
        rest = asked[asked.index(b"\0\0\0\4\1"):]
        if alone:
            for at in range(len(rest)):
                connection.received(rest[at:at + 1])
        else:
            connection.received(rest)
        await spin()
        assert len(listener.fast.asked) == 2 and transport.reading
        assert not connection.is_late(listener.message_timeout)
        connection.received(http2_frame(RST_STREAM, 2 * count - 1, bytes(4)))
        connection.received(http2_frame(WINDOW_UPDATE, 1, size.to_bytes(4, "big")))
        await spin()
        assert len(listener.fast.asked) == 3, "half of what was made is read"
        for stream in range(0, 2 * count, 1):
            if not stream or stream % 2:
                connection.received(http2_frame(WINDOW_UPDATE, stream, (1 << 24).to_bytes(4, "big")))
        await spin()
        assert len(listener.fast.asked) == count - 1, "the one that was reset is not answered"
        assert sum(map(len, transport.written)) > (count - 1) * size
        assert not connection._session._complete and not transport.closing and transport.reading
        assert not connection.eof_received()
        connection.connection_lost(None)

    asyncio.run(body())


@pytest.mark.parametrize("target", [TARGET, b"/elsewhere"], ids=["hit", "refused"])
def test_a_request_that_waits_and_is_reset_with_the_window_is_not_answered(target: bytes) -> None:
    """Both frames come at once: the codec has closed the stream before its reset is handled."""

    async def body() -> None:
        listener = Listener(bytes(2 * limits.STREAM_TURN_OCTETS))
        connection, transport = connect(listener, "h2")
        codec = H2Connection(CLIENT, window=65_535, connection_window=65_535)
        codec.feed(b"".join(transport.written))
        for one in (TARGET, target, TARGET):
            codec.send_request(Request(b"GET", one, [(b"Host", b"x")]), end=True)
        connection.received(bytes(codec.data_to_send()))
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(connection._session._complete) == 2
        opened = [http2_frame(WINDOW_UPDATE, stream, (1 << 24).to_bytes(4, "big")) for stream in (0, 1, 5)]
        connection.received(http2_frame(RST_STREAM, 3, bytes(4)) + b"".join(opened))
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(listener.fast.asked) == 2 and not listener.refused and not transport.closing
        assert not connection._session._complete
        connection.connection_lost(None)

    asyncio.run(body())


def test_a_turn_makes_a_bounded_number_of_octets() -> None:
    """Also for a client whose windows would take more."""

    async def body() -> None:
        listener = Listener(bytes(limits.STREAM_TURN_OCTETS // 2 + 100))
        connection, transport = connect(listener, "h2")
        client = H2Connection(CLIENT, window=1 << 20, connection_window=1 << 24)
        client.feed(b"".join(transport.written))
        for _ in range(9):
            client.send_request(Request(b"GET", TARGET, [(b"Host", b"x")]), end=True)
        connection.received(bytes(client.data_to_send()))
        made = [0]
        while made[-1] < 9:
            made.append(len(listener.fast.asked))
            assert 0 < made[-1] - made[-2] <= 2
            await asyncio.sleep(0)
        connection.connection_lost(None)

    asyncio.run(body())


def test_the_connection_of_a_client_that_ends_without_reading_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StreamConnection, "can_answer_after_end", lambda connection: True)

    async def body() -> None:
        listener = Listener(bytes(limits.STREAM_TURN_OCTETS))
        connection, transport = connect(listener, "h2")
        asked = http2_requests(transport, 9)
        at = asked.index(b"\0\0\0\4\1")
        connection.received(asked[:at] + NO_WINDOW + asked[at:])
        await asyncio.sleep(0)
        assert len(connection._session._complete) == 8
        assert not connection.eof_received(), "no window can open any more"
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


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_listeners_of_one_worker_have_one_budget(alpn: str) -> None:
    """Many listeners do not multiply what their connections may take of the loop."""

    async def body() -> None:
        turns = Turns()
        listeners = [Listener() for _ in range(8)]
        for number, listener in enumerate(listeners):
            listener.turns = turns
            listener.pipeline = count = limits.STREAM_TURN_MESSAGES
            connection, transport = connect(listener, alpn)
            connection.network = f"192.0.2.{number}"
            connection.received(http2_requests(transport, count) if alpn == "h2" else http1_request() * count)
        assert sum(listener.requests for listener in listeners) == limits.STREAM_ITERATION_MESSAGES
        for _ in listeners:
            await asyncio.sleep(0)
        assert sum(listener.requests for listener in listeners) == 8 * limits.STREAM_TURN_MESSAGES

    asyncio.run(body())


@pytest.mark.parametrize("begun", ["frame header", "field block", "nothing"])
def test_a_started_http2_request_has_the_message_timeout(begun: str) -> None:
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


@pytest.mark.parametrize(("octets", "late"), [(600, False), (60, True)])
def test_a_client_that_reads_and_asks_for_more_keeps_its_connection(octets: int, *, late: bool) -> None:
    """Something is always unsent. With each further query the client permits `octets` of replies of 600."""
    listener = Listener(bytes(600))
    connection, transport = connect(listener, "h2")
    client = H2Connection(CLIENT, window=65_535, connection_window=65_535)
    begin = bytes(client.data_to_send())
    client.feed(b"".join(transport.written))
    for _ in range(2):
        client.send_request(Request(b"GET", TARGET, [(b"Host", b"x")]), end=True)
    first = bytes(client.data_to_send())
    stream = 3
    frame = first[first.rindex(stream.to_bytes(4, "big")) - 5:]
    connection.received(begin + first)

    def ask() -> None:
        nonlocal stream
        stream += 2
        connection.received(frame[:5] + stream.to_bytes(4, "big") + frame[9:])

    session: Any = connection._session
    while session._codec.unsent() < 1200:
        ask()
    while listener.clock < 3 * listener.message_timeout and not connection.is_late(listener.clock):
        listener.clock += listener.message_timeout / 40
        connection.received(b"\0\0\4\10\0\0\0\0\0" + octets.to_bytes(4, "big"))  # WINDOW_UPDATE
        ask()
    assert connection.is_late(listener.clock) is late
    connection.connection_lost(None)


class RecognisingCache(FixedCache):
    """A cache that recognises DNS queries as the fast path does: empty for other messages."""

    def answer_encrypted(self, message: bytes, octets: bytes, block: int, *_: object) -> tuple[bytes | None, int]:
        self.asked.append(message)
        return (b"" if len(message) < 12 or message[2] & 0x80 else b"\0" * 12), 60


DNS = (b"content-type", b"application/dns-message")
EXPECT = (b"expect", b"100-continue")
PATH = b"/dns-query"


def length(size: int) -> tuple[bytes, bytes]:
    return (b"content-length", b"%d" % size)


# method, target, fields, body, status; the body is sent when there is no Expect.
REQUESTS = [
    (b"GET", TARGET, [], b"", 200),
    (b"POST", PATH, [DNS, length(len(QUERY))], QUERY, 200),
    (b"POST", PATH, [(b"content-type", b"APPLICATION/dns-message;x=y"), length(len(QUERY))], QUERY, 200),
    (b"POST", PATH, [DNS, length(len(QUERY)), EXPECT], QUERY, 200),
    # no message, or not in one piece
    (b"GET", PATH, [], b"", 400),
    (b"GET", PATH + b"?", [], b"", 400),
    (b"GET", PATH + b"?dns", [], b"", 400),
    (b"GET", PATH + b"?dns=", [], b"", 400),
    (b"GET", PATH + b"?DNS=AAAA", [], b"", 400),
    (b"GET", TARGET + b"&" + TARGET.partition(b"?")[2], [], b"", 400),
    (b"GET", TARGET + b"&dns=", [], b"", 400),
    # base64url that is not in its one form
    (b"GET", TARGET + b"=", [], b"", 400),
    (b"GET", PATH + b"?dns=A", [], b"", 400),
    (b"GET", PATH + b"?dns=AB", [], b"", 400),
    (b"GET", PATH + b"?dns=AA+A", [], b"", 400),
    (b"GET", PATH + b"?dns=AA/A", [], b"", 400),
    (b"GET", PATH + b"?dns=AA%41A", [], b"", 400),
    (b"GET", TARGET + b"%3D", [], b"", 400),
    # base64url that is no query: too short, a response
    (b"GET", PATH + b"?dns=AAAA", [], b"", 400),
    (b"GET", PATH + b"?dns=" + base64.urlsafe_b64encode(QUERY[:2] + b"\x81" + QUERY[3:-1]), [], b"", 400),
    # body missing, too short, a response
    (b"POST", PATH, [DNS, length(0)], b"", 400),
    (b"POST", PATH, [DNS, length(11)], QUERY[:11], 400),
    (b"POST", PATH, [DNS, length(12)], b"\0\0\x80" + bytes(9), 400),
    # path
    (b"GET", b"/", [], b"", 404),
    (b"GET", b"/dns-query/" + TARGET[len(PATH):], [], b"", 404),
    (b"GET", b"/dns%2Dquery" + TARGET[len(PATH):], [], b"", 404),
    (b"POST", b"/other", [DNS, length(len(QUERY))], QUERY, 404),
    # method
    (b"HEAD", TARGET, [], b"", 405),
    (b"PUT", PATH, [DNS, length(len(QUERY))], QUERY, 405),
    (b"DELETE", PATH, [], b"", 405),
    (b"OPTIONS", PATH, [], b"", 405),
    (b"BREW", PATH, [], b"", 501),
    # size
    (b"POST", PATH, [DNS, length(65_536)], bytes(65_536), 413),
    (b"GET", PATH + b"?dns=" + b"A" * limits.DOH_TARGET, [], b"", 414),
    # media type
    (b"POST", PATH, [length(len(QUERY))], QUERY, 415),
    (b"POST", PATH, [(b"content-type", b"application/dns-json"), length(len(QUERY))], QUERY, 415),
    (b"POST", PATH, [(b"content-type", b"application/dns-message, text/plain"), length(len(QUERY))], QUERY, 415),
    (b"POST", PATH, [DNS, DNS, length(len(QUERY))], QUERY, 415),
    (b"POST", PATH, [DNS, (b"content-encoding", b"gzip"), length(len(QUERY))], QUERY, 415),
]


def waiting(
    request: tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes, int]
) -> tuple[bytes, bytes, list[tuple[bytes, bytes]], bytes, int]:
    """The same request of a client that waits with its body for 100 (Continue)."""
    method, target, fields, body, status = request
    return method, target, [*fields, EXPECT], body, status


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
@pytest.mark.parametrize(
    ("method", "target", "fields", "body", "status"),
    REQUESTS + [waiting(one) for one in REQUESTS if one[3] and one[4] > 400],
)
def test_each_request_has_its_status_over_both_versions(
    alpn: str, method: bytes, target: bytes, fields: list[tuple[bytes, bytes]], body: bytes, status: int
) -> None:
    """One that expects 100 (Continue) gets it, or its error at once, before any octet of the body."""

    async def main() -> None:
        listener = Listener()
        listener.fast = RecognisingCache(b"")
        connection, transport = connect(listener, alpn)
        ask = Http2Client(transport) if alpn == "h2" else Http1Client()
        octets, rest = ask.request(method, target, fields, body)
        expects = EXPECT in fields
        if not expects:
            octets, rest = octets + rest, b""
        transport.written.clear()
        connection.received(octets)
        for _ in range(20):
            await asyncio.sleep(0)
        if expects and status == 200:
            assert ask.statuses(transport) == [100]
            transport.written.clear()
            connection.received(rest)
        assert ask.statuses(transport) == [status]
        assert listener.refused == ([] if status == 200 else [status])
        if alpn == "h2":
            # Only the request fails: the connection serves the next one.
            octets, _ = ask.request(b"GET", TARGET, [], b"")
            transport.written.clear()
            connection.received(octets)
            assert ask.statuses(transport) == [200]
        connection.connection_lost(None)

    asyncio.run(main())


class Http1Client:
    """Requests and statuses of HTTP/1.1."""

    def request(
        self, method: bytes, target: bytes, fields: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[bytes, bytes]:
        """The octets of the head and of the body."""
        lines = [method + b" " + target + b" HTTP/1.1", b"Host: x", *(name + b": " + value for name, value in fields)]
        return b"\r\n".join([*lines, b"", b""]), body

    def statuses(self, transport: Transport) -> list[int]:
        """The statuses in what was written."""
        return [int(data[9:12]) for data in transport.written if data.startswith(b"HTTP/1.1 ")]


class Http2Client:
    """Requests and statuses of HTTP/2."""

    def __init__(self, transport: Transport) -> None:
        self.codec = H2Connection(CLIENT)
        self.codec.feed(b"".join(transport.written))

    def request(
        self, method: bytes, target: bytes, fields: list[tuple[bytes, bytes]], body: bytes
    ) -> tuple[bytes, bytes]:
        """The octets of the head and of the body."""
        stream = self.codec.send_request(Request(method, target, [(b"host", b"x"), *fields]), end=not body)
        head = self.codec.data_to_send()
        if body:
            self.codec.send_data(stream, body, end=True)
        return head, self.codec.data_to_send()

    def statuses(self, transport: Transport) -> list[int]:
        """The statuses in what was written."""
        events = self.codec.feed(b"".join(transport.written))
        return [event.status for _, event in events if isinstance(event, Response | Informational)]
