"""The clocks of exchanges that share an HTTP/2 connection, without sockets: what extends the read timeout of each."""

from typing import Any

import pytest
from support.h2_frames import DATA, PING, frame, headers, settings, window_update
from support.recording import Loop, Transport

from corenet.http.errors import TimeoutExceeded
from corenet.http.events import Request
from corenet.http.h2_connection import Exchange, MultiplexedConnection
from corenet.http.url import Origin

READ = 100.0
SOON = 0.9 * READ


class Upload:
    """A body that the test sends by `write_piece`."""

    waiting = False

    def answered(self, status: int) -> None:
        """Nothing depends on it."""

    def stop(self) -> None:
        """Nothing is running."""


class Slow(Transport):
    """Keeps what is written, until the test lets some of it leave."""

    def write(self, data: Any) -> None:
        super().write(data)
        self.unsent += len(data)

    def leave(self, size: int) -> None:
        """Send `size` bytes, or all."""
        self.unsent -= min(self.unsent, size)


class Fixture:
    """A connection that the server has greeted; all that was written has left."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.transport = Slow({})
        self.connection = MultiplexedConnection(self.loop, Origin("https", "a.example", 443))  # type: ignore[arg-type]
        self.connection.connection_made(self.transport)
        self.hear(settings())
        self.transport.leave(1 << 20)

    def hear(self, data: bytes) -> None:
        self.connection.scratch[: len(data)] = data
        self.connection.buffer_updated(len(data))
        self.loop.run_ready()

    def begin(self, *, post: bool = False, read: float = READ) -> Exchange:
        exchange = self.connection.begin(collecting=True, max_body=1 << 20, deadline=10_000.0, read_timeout=read)
        request = Request(b"POST" if post else b"GET", b"/", [(b"host", b"a")])
        exchange.send_request(request, b"https", None, Upload() if post else None)
        self.loop.run_ready()
        return exchange

    def write(self, exchange: Exchange, size: int) -> None:
        """Send a piece of a body."""
        exchange.write_piece(bytes(size))
        self.loop.run_ready()


def timed_out(exchange: Exchange) -> bool:
    return isinstance(exchange.error, TimeoutExceeded)


@pytest.mark.parametrize("stuck", [False, True])
def test_an_upload_of_another_stream_does_not_extend_the_read_timeout(stuck: bool) -> None:
    """Also when the request waits for the window of its stream."""
    fixture = Fixture()
    silent = fixture.begin(post=stuck)
    if stuck:
        fixture.write(silent, 100_000)
        fixture.hear(window_update(0, 200_000))
    fixture.transport.leave(1 << 20)
    upload = fixture.begin(post=True)
    for _ in range(5):
        fixture.write(upload, 10_000)
        fixture.transport.leave(5000)
        fixture.loop.advance(0.6 * READ)
    assert timed_out(silent) and not timed_out(upload)
    assert isinstance(silent.error, TimeoutExceeded)
    assert silent.error.phase == ("request" if stuck else "response")


@pytest.mark.parametrize("what", ["data", "ping", "window", "our ping"])
def test_what_arrives_for_others_does_not_extend_the_read_timeout(what: str) -> None:
    fixture = Fixture()
    silent, other = fixture.begin(), fixture.begin(read=1000.0)
    fixture.transport.leave(1000)
    fixture.hear(headers(other.stream, [(b":status", b"200")], end=False))
    for _ in range(2):
        if what == "data":
            fixture.hear(frame(DATA, 0, other.stream, b"x"))
        elif what == "ping":
            fixture.hear(frame(PING, 0, 0, bytes(8)))
        elif what == "window":
            fixture.hear(window_update(0, 1))
        else:
            fixture.connection.probe(fixture.loop.now + 1)
            fixture.loop.run_ready()
        fixture.loop.advance(0.6 * READ)
    assert timed_out(silent) and not timed_out(other)


def test_what_arrives_for_the_stream_extends_its_read_timeout() -> None:
    fixture = Fixture()
    exchange = fixture.begin()
    fixture.transport.leave(1000)
    fixture.loop.advance(SOON)
    fixture.hear(headers(exchange.stream, [(b":status", b"200")], end=False))
    fixture.loop.advance(SOON)
    fixture.hear(frame(DATA, 0, exchange.stream, b"x"))
    fixture.loop.advance(SOON)
    assert not timed_out(exchange)
    fixture.loop.advance(0.2 * READ)
    assert timed_out(exchange)


def test_a_body_that_leaves_slowly_extends_the_read_timeout_until_it_has_left() -> None:
    """Bytes of others before it count, because it waits for them; those behind it do not."""
    fixture = Fixture()
    other, upload, last = fixture.begin(post=True, read=10_000.0), fixture.begin(post=True), fixture.begin(post=True)
    for exchange in (other, upload, last):
        fixture.write(exchange, 10_000)
    while fixture.transport.unsent > 15_000:
        fixture.transport.leave(5000)
        fixture.loop.advance(SOON)
        assert not timed_out(upload)
    while fixture.transport.unsent > 5000:
        fixture.transport.leave(2000)
        fixture.loop.advance(SOON)
        assert not timed_out(last)
    assert timed_out(upload) and not timed_out(other)


def test_a_body_that_the_servers_window_lets_through_extends_the_read_timeout() -> None:
    """What the transport then has of it, too."""
    fixture = Fixture()
    upload, other = fixture.begin(post=True), fixture.begin(post=True)
    fixture.write(upload, 100_000)
    fixture.transport.leave(1 << 20)
    for _ in range(3):
        fixture.hear(window_update(0, 1000) + window_update(upload.stream, 1000))
        fixture.loop.advance(SOON)
    assert not timed_out(upload) and timed_out(other)
    while fixture.transport.unsent:
        fixture.transport.leave(800)
        fixture.loop.advance(SOON)
        assert not timed_out(upload)
    for _ in range(2):
        fixture.loop.advance(READ)
    assert timed_out(upload) and not fixture.connection.exchanges and not fixture.connection.sending


def test_no_exchange_is_kept_by_the_bytes_that_it_has_sent() -> None:
    fixture = Fixture()
    exchange = fixture.begin(post=True)
    exchange.write_piece(bytes(100_000))
    assert fixture.connection.sending == {exchange}
    fixture.loop.run_ready()
    assert fixture.connection.sending == {exchange}
    exchange.abort()
    assert not fixture.connection.sending
