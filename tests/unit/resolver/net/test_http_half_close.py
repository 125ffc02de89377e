"""DNS over HTTPS: a client that has ended its direction gets the replies to its complete requests, then the end."""

import asyncio
import base64
from typing import Any

import pytest
from support.doh_connection import QUERY, Listener, connect

from corenet.http.events import Request
from corenet.http.h2 import CLIENT, H2Connection
from resolver import limits
from resolver.net.stream_connection import StreamConnection

TARGET = b"/dns-query?dns=" + base64.urlsafe_b64encode(QUERY).rstrip(b"=")
GET1 = b"GET " + TARGET + b" HTTP/1.1\r\nHost: x\r\n\r\n"
TYPE = (b"Content-Type", b"application/dns-message")
POST1 = b"POST /dns-query HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n%s: %s\r\n\r\n" % TYPE
BOTH = pytest.mark.parametrize("alpn", ["h2", "http/1.1"])


@pytest.fixture(autouse=True)
def after_close_notify(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end comes by close_notify of TLS 1.3; `tests/integration/test_service_tls.py` has the other ends."""
    monkeypatch.setattr(StreamConnection, "can_answer_after_end", lambda connection: True)


def requests(alpn: str, transport: Any, count: int, *, cut: int = 0, begun: bool = False) -> bytes:
    """`count` requests; the last one lacks `cut` octets. `begun`: then one without its body."""
    if alpn == "http/1.1":
        octets = GET1 * count + (POST1 if begun else b"")
    else:
        codec = H2Connection(CLIENT)
        codec.feed(b"".join(transport.written))
        for _ in range(count):
            codec.send_request(Request(b"GET", TARGET, [(b"Host", b"x")]), end=True)
        if begun:
            codec.send_request(Request(b"POST", b"/dns-query", [(b"Host", b"x"), TYPE]))
        octets = bytes(codec.data_to_send())
    return octets[:-cut] if cut else octets


def sinks(connection: Any) -> list[Any]:
    """The sinks of the unanswered queries, oldest first."""
    session = connection._session
    return list(session._waiting.values()) if hasattr(session, "_waiting") else [session]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@BOTH
def test_the_reply_follows_the_end_of_the_client(alpn: str) -> None:
    async def body() -> None:
        listener = Listener(None)
        connection, transport = connect(listener, alpn)
        connection.received(requests(alpn, transport, 1))
        assert connection.eof_received() and not transport.closing
        said = len(transport.written)
        sinks(connection)[0].send(QUERY, ("", 0))
        await settle()
        assert len(transport.written) > said and transport.closing

    asyncio.run(body())


@BOTH
def test_every_request_is_answered_before_the_end(alpn: str) -> None:
    """Over HTTP/1.1 the second one is not even parsed when the client ends."""

    async def body() -> None:
        listener = Listener(None)
        connection, transport = connect(listener, alpn)
        connection.received(requests(alpn, transport, 2))
        assert connection.eof_received()
        for left in (1, 0):
            assert not transport.closing
            sinks(connection)[0].send(QUERY, ("", 0))
            await settle()
            assert transport.closing is (left == 0)
        assert listener.requests == 2

    asyncio.run(body())


@BOTH
@pytest.mark.parametrize("cut", [0, 3])
def test_without_a_waiting_query_the_connection_ends_at_once(alpn: str, cut: int) -> None:
    """Also behind a cached answer, and when the rest of a request can never come."""
    listener = Listener()
    connection, transport = connect(listener, alpn)
    connection.received(requests(alpn, transport, 1, cut=cut))
    assert listener.requests == (cut == 0)
    assert not connection.eof_received()


@BOTH
def test_an_incomplete_request_after_a_waiting_one_does_not_hold_the_connection(alpn: str) -> None:
    async def body() -> None:
        listener = Listener(None)
        connection, transport = connect(listener, alpn)
        connection.received(requests(alpn, transport, 2, cut=3))
        assert connection.eof_received()
        sinks(connection)[0].send(QUERY, ("", 0))
        await settle()
        assert transport.closing and listener.requests == 1

    asyncio.run(body())


@BOTH
@pytest.mark.parametrize(("count", "options"), [(1, {"begun": True}), (2, {"cut": 3})], ids=["no body", "cut off"])
def test_an_incomplete_request_does_not_end_the_connection_before_the_reply(
    alpn: str, count: int, options: dict[str, Any]
) -> None:
    """The message timeout is for what may still be completed."""

    async def body() -> None:
        listener = Listener(None)
        connection, transport = connect(listener, alpn)
        connection.received(requests(alpn, transport, count, **options))
        assert connection.eof_received()
        assert not connection.is_late(listener.message_timeout + 0.1)
        sinks(connection)[0].send(QUERY, ("", 0))
        await settle()
        assert transport.closing and listener.requests == 1

    asyncio.run(body())


@BOTH
def test_the_end_during_the_handshake_is_remembered(alpn: str) -> None:
    """Request and close_notify may come with the last message of the handshake."""
    listener = Listener()
    connection, transport = connect(listener, alpn)
    octets = requests(alpn, transport, 1)
    connection, transport = connect(listener, alpn)
    connection.input_ended = True
    transport.written.clear()
    connection.received(octets)
    assert transport.written and transport.closing


@BOTH
def test_a_client_that_does_not_read_has_the_message_timeout(alpn: str) -> None:
    """The slot is not held for longer than without the end."""
    listener = Listener(None)
    connection, transport = connect(listener, alpn)
    connection.received(requests(alpn, transport, 1))
    assert connection.eof_received()
    connection.pause_writing()
    sinks(connection)[0].send(QUERY, ("", 0))
    assert not transport.closing and not connection.is_late(listener.message_timeout)
    assert connection.is_late(listener.message_timeout + 0.1)
    connection.resume_writing()
    assert transport.closing


@BOTH
def test_requests_of_later_turns_are_answered_before_the_end(alpn: str) -> None:
    async def body() -> None:
        listener = Listener()
        listener.pipeline = count = 2 * limits.STREAM_TURN_MESSAGES
        connection, transport = connect(listener, alpn)
        connection.received(requests(alpn, transport, count))
        assert connection.eof_received() and not transport.closing
        while not transport.closing:
            await asyncio.sleep(0)
        assert listener.requests == count

    asyncio.run(body())


@BOTH
def test_reading_is_not_resumed_after_the_end(alpn: str) -> None:
    """What TLS receives behind close_notify is not for us; resuming would report the end again."""

    async def body() -> None:
        listener = Listener(None)
        connection, transport = connect(listener, alpn)
        connection.received(requests(alpn, transport, 1))
        assert connection.eof_received()
        reading = transport.reading
        connection.pause_writing()
        assert transport.reading is reading
        connection.connection_lost(None)

    asyncio.run(body())
