"""The states of a connection: the table in its module's docstring, and what holds in each state."""

import asyncio
import socket
import ssl
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.machines import read_table, steps_of, table_of
from support.recording import Loop, Transport

from corenet.http import connection
from corenet.http.connection import Connection
from corenet.http.errors import ResponseTooLarge, ServerDisconnected
from corenet.http.events import Data, End
from corenet.http.url import Origin
from corenet.limits import HTTP_CLOSE_TIMEOUT, HTTP_RECEIVE_INTO_MIN, HTTP_SENT_AT_ONCE, HTTP_STREAM_HIGH_WATERMARK
from corenet.tls.ssl_transport_type import SSLTransport


def test_the_documented_table_is_the_implemented_one() -> None:
    assert connection.__doc__ is not None
    assert read_table(connection.__doc__) == table_of(connection)


def test_events_in_empty_cells_of_the_table_raise() -> None:
    for step in steps_of(connection):
        for state in range(len(step.states)):
            if state not in step:
                with pytest.raises(RuntimeError, match=f"^{step.event} cannot happen in state {step.states[state]}$"):
                    step[state]


class Known(Transport):
    """Looks like our TLS transports."""

    @property
    def __class__(self) -> Any:
        return SSLTransport

    @__class__.setter
    def __class__(self, value: Any) -> None:
        raise TypeError(value)


class Fixture:
    """A connection in an exchange, GET or POST of three bytes, without any response yet."""

    def __init__(self, *, collecting: bool = True, post: bool = False, scheme: str = "http", **extra: Any) -> None:
        self.loop = Loop()
        self.transport = Transport(extra)
        self.connection = Connection(self.loop, Origin(scheme, "a.example", 80))  # type: ignore[arg-type]
        self.connection.connection_made(self.transport)
        self.begin(collecting=collecting, post=post)

    def begin(self, *, collecting: bool = True, post: bool = False) -> None:
        self.connection.begin(collecting=collecting, max_body=1 << 20, deadline=1000.0, read_timeout=900.0)
        codec = self.connection.codec
        head = codec.send_request(b"POST" if post else b"GET", b"/", [(b"Host", b"a")], 3 if post else -1)
        if not post:
            codec.send(End())
            self.connection.write_whole(head)

    def hear(self, data: bytes) -> None:
        self.connection.scratch[: len(data)] = data
        self.connection.buffer_updated(len(data))


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_a_clean_exchange_leaves_the_connection_idle() -> None:
    fixture = Fixture()
    assert connection_state(fixture) == "AWAITING_HEAD"
    fixture.hear(ANSWER[:-1])
    assert connection_state(fixture) == "READING"
    fixture.hear(ANSWER[-1:])
    assert connection_state(fixture) == "ENDED" and fixture.connection.take_body() == b"ok"
    assert fixture.connection.finish() and connection_state(fixture) == "IDLE"
    assert fixture.transport.told == []


@pytest.mark.parametrize("what", ["queue", "body", "close", "excess", "tunnel"])
def test_what_prevents_reuse_of_a_connection(what: str) -> None:
    fixture = Fixture(post=what == "body")
    if what == "tunnel":
        fixture = tunnel()
    fixture.hear(ANSWER.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n") if what == "close" else ANSWER)
    fixture.transport.unsent = 1 if what == "queue" else 0
    if what == "excess":
        fixture.hear(b"x")
    assert not fixture.connection.finish() and connection_state(fixture) == "CLOSING"
    # A graceful close only when everything was sent and nothing waits.
    assert fixture.transport.told == ["abort" if what in ("queue", "body") else "close"]


@pytest.mark.parametrize("kind", ["whole", "pieces"])
@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("transport", ["tcp", "our tls", "other tls"])
def test_data_hidden_by_a_foreign_tls_transport_prevents_reuse(kind: str, over: int, transport: str) -> None:
    """It reports no queued bytes and cannot know: it is not reused after a request too large for any idle socket."""
    fixture = Fixture(post=True, scheme="http" if transport == "tcp" else "https", socket=None)
    if transport == "our tls":
        fixture.connection.transport = fixture.transport = Known({})
    size = HTTP_SENT_AT_ONCE + over
    upload: Any = SimpleNamespace(stop=lambda: None)
    if kind == "whole":
        fixture.connection.codec.send(Data(b"abc"))
        fixture.connection.codec.send(End())
        fixture.connection.write_whole(bytes(size))
    else:
        fixture.connection.write_head(bytes(size - 3), upload)
        fixture.connection.write_piece(b"abc")
        fixture.connection.write_end()
    fixture.hear(ANSWER)
    alone = transport == "other tls" and over > 0
    assert fixture.connection.finish() is not alone
    assert fixture.transport.told == (["close"] if alone else [])
    if not alone:
        # The limit is for one request, not for their sum.
        fixture.begin()
        fixture.hear(ANSWER)
        assert fixture.connection.finish()


def tunnel() -> Fixture:
    fixture = Fixture()
    fixture.hear(ANSWER)
    assert fixture.connection.finish()
    fixture.connection.begin(collecting=True, max_body=1, deadline=1000.0, read_timeout=900.0)
    head = fixture.connection.codec.send_request(b"CONNECT", b"a:1", [(b"Host", b"a")], -1)
    fixture.connection.codec.send(End())
    fixture.connection.write_whole(head)
    return fixture


def test_a_graceful_close_has_a_timeout() -> None:
    fixture = Fixture()
    fixture.hear(ANSWER)
    assert fixture.connection.finish()
    fixture.connection.close()
    fixture.loop.advance(HTTP_CLOSE_TIMEOUT - 0.1)
    assert fixture.transport.told == ["close"]
    fixture.loop.advance(0.2)
    assert fixture.transport.told == ["close", "abort"] and connection_state(fixture) == "CLOSING"
    fixture.connection.connection_lost(None)
    assert connection_state(fixture) == "CLOSED"
    fixture.loop.advance(10_000)
    assert fixture.transport.told == ["close", "abort"]


def test_bytes_while_idle_end_the_connection() -> None:
    fixture = Fixture()
    fixture.hear(ANSWER)
    assert fixture.connection.finish()
    fixture.hear(ANSWER)
    assert fixture.transport.told == ["abort"] and not fixture.connection.is_usable()
    # Further bytes are unexpected.
    fixture.hear(ANSWER)
    assert connection_state(fixture) == "CLOSING"


PEERS: dict[str, tuple[Callable[[socket.socket], object], bool]] = {
    "silent": (lambda peer: None, True),
    "closed": (socket.socket.close, False),
    "talks": (lambda peer: peer.send(b"x"), False),
}


@pytest.mark.parametrize("what", PEERS)
def test_events_of_an_idle_socket_are_seen_before_the_loop_polls(what: str) -> None:
    happens, usable = PEERS[what]
    ours, peer = socket.socketpair()
    with ours, peer:
        fixture = Fixture(socket=ours)
        fixture.hear(ANSWER)
        assert fixture.connection.finish()
        assert fixture.connection.is_usable()
        happens(peer)
        assert fixture.connection.is_usable() is usable
        ours.close()
        assert not fixture.connection.is_usable()


@pytest.mark.parametrize(("tls_read_buffer_size", "plaintext"), [(0, 0), (5, 0), (0, 1)])
def test_data_held_by_tls_counts_as_received(tls_read_buffer_size: int, plaintext: int) -> None:
    """A part of a record, or plaintext: neither the kernel nor the loop has anything more."""
    ours, peer = socket.socketpair()
    with ours, peer:
        fixture = Fixture(scheme="https", socket=ours, ssl_object=SimpleNamespace(pending=lambda: plaintext))
        fixture.transport.unread = tls_read_buffer_size
        fixture.hear(ANSWER)
        assert fixture.connection.finish()
        assert fixture.connection.is_usable() is (tls_read_buffer_size == plaintext == 0)


def test_a_content_length_over_the_limit_is_refused() -> None:
    for size, refused in ((1 << 20, False), ((1 << 20) + 1, True)):
        fixture = Fixture()
        assert size > HTTP_RECEIVE_INTO_MIN
        fixture.hear(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\nabc" % size)
        assert isinstance(fixture.connection.error, ResponseTooLarge) is refused
        assert fixture.transport.told == (["abort"] if refused else [])


class Farewell(ssl.SSLObject):
    """A TLS session that has read everything; `close_notify`: including the peer's close_notify."""

    close_notify = True

    def __new__(cls) -> "Farewell":
        return object.__new__(cls)

    def __init__(self) -> None:
        pass

    def read(self, *_args: Any) -> bytes:  # type: ignore[override]
        if self.close_notify:
            return b""
        raise ssl.SSLEOFError(8, "EOF occurred in violation of protocol")


@pytest.mark.parametrize("close_notify", [False, True])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_body_that_ends_with_its_connection_needs_close_notify_under_tls(scheme: str, close_notify: bool) -> None:
    session = Farewell()
    session.close_notify = close_notify
    fixture = Fixture(scheme=scheme, ssl_object=session if scheme == "https" else None)
    fixture.hear(b"HTTP/1.1 200 OK\r\n\r\nsome")
    fixture.connection.eof_received()
    if scheme == "http" or close_notify:
        assert fixture.connection.complete and fixture.connection.take_body() == b"some"
    else:
        assert isinstance(fixture.connection.error, ServerDisconnected) and not fixture.connection.complete
        assert "without close_notify" in str(fixture.connection.error)


def test_an_unread_body_does_not_leave_the_next_exchange_paused() -> None:
    fixture = Fixture(collecting=False)
    size = HTTP_STREAM_HIGH_WATERMARK + 100_000
    fixture.hear(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    while size > 0:
        fixture.hear(bytes(min(size, 100_000)))
        size -= 100_000
    assert fixture.transport.told == ["pause"] and connection_state(fixture) == "ENDED"
    assert fixture.connection.finish()
    assert fixture.transport.told == ["pause", "resume"]
    fixture.begin(collecting=False)
    assert fixture.connection.parts.size == 0


def test_a_complete_response_survives_the_end_of_the_connection() -> None:
    fixture = Fixture()
    fixture.hear(ANSWER)
    fixture.connection.connection_lost(ConnectionResetError())
    assert fixture.connection.complete and fixture.connection.error is None and fixture.connection.is_gone
    assert fixture.connection.take_body() == b"ok" and not fixture.connection.finish()


def test_the_first_error_is_raised() -> None:
    async def main() -> None:
        fixture = Fixture()
        first = ServerDisconnected("first", received=False)
        fixture.connection.fail(first)
        fixture.connection.fail(ServerDisconnected("second", received=False))
        fixture.connection.connection_lost(ConnectionResetError())
        for _ in range(2):
            with pytest.raises(ServerDisconnected) as caught:
                await fixture.connection.wait()
            assert caught.value.args == first.args
        assert not fixture.connection.finish()

    asyncio.run(main())


def connection_state(fixture: Fixture) -> str:
    return connection._STATES[fixture.connection.state]


class Upload:
    """A body that runs until it is stopped."""

    waiting = stopped = False

    def stop(self) -> None:
        self.stopped = True

    def answered(self, status: int) -> None:
        pass


@pytest.mark.parametrize("end", ["answer", "lost", "fail", "abort", "broken"])
def test_the_end_of_an_exchange_stops_its_upload(end: str) -> None:
    fixture = Fixture(post=True)
    upload = Upload()
    fixture.connection.write_head(b"", upload)  # type: ignore[arg-type]
    fixture.hear(ANSWER[:-1])
    assert not upload.stopped
    if end == "answer":
        fixture.hear(ANSWER[-1:])
    elif end == "lost":
        fixture.connection.connection_lost(None)
    elif end == "fail":
        fixture.connection.fail(ServerDisconnected("gone", received=True))
    elif end == "abort":
        fixture.connection.abort()
    else:
        fixture.connection.eof_received()
    assert upload.stopped and fixture.connection.upload is None


def test_a_second_waiting_task_is_refused() -> None:
    async def main() -> None:
        fixture = Fixture()
        fixture.connection.loop = asyncio.get_running_loop()
        first = asyncio.ensure_future(fixture.connection.wait())
        await asyncio.sleep(0)
        async with asyncio.timeout(30):
            with pytest.raises(RuntimeError, match="another task"):
                await fixture.connection.wait()
            fixture.hear(ANSWER)
            await first

    asyncio.run(main())
