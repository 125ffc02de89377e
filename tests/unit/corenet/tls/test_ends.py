"""The end of a TLS connection with unread data: the protocol gets all data before the end.

The test drives the peer byte by byte, so that data, close_notify and FIN share a segment, or a reset follows.
"""

import _ssl
import asyncio
import contextlib
import ctypes
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from support.bare_tls import BarePeer, tcp_pair
from support.framed import Frames
from support.tls_pair import client_context, leaf, ours, server_context, tls_pair
from support.twin import Recorder, accepting, loop_factory, twin
from support.waiting import turns

import corenet
from corenet.limits import TLS_CONTROL_RECORDS, TLS_DRAIN_TIMEOUT, TLS_READ_HIGH_WATERMARK
from corenet.tls.context import received_close_notify
from corenet.tls.engines import make_tls_engine
from corenet.tls.transport import make_tls

__all__ = ["client_context", "leaf", "loop_factory", "ours", "server_context", "twin"]

Twin = Callable[[Any], Any]
TIMEOUT = 30


class Into(asyncio.BufferedProtocol):
    """A BufferedProtocol that receives at most `size` bytes at a time."""

    def __init__(self, size: int = 3) -> None:
        self.inner = Recorder()
        self.buffer = bytearray(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def connection_made(self, transport: Any) -> None:
        self.inner.connection_made(transport)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.inner.data_received(bytes(self.buffer[:nbytes]))

    def eof_received(self) -> bool:
        return self.inner.eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.inner.connection_lost(exc)


@contextlib.asynccontextmanager
async def with_peer(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, protocol: Any
) -> AsyncIterator[BarePeer]:
    """A connection of `protocol` to a peer on a bare socket; both are closed after the block."""
    here, there = tcp_pair()
    peer = BarePeer(there, server_context)
    shaking = asyncio.ensure_future(peer.handshake())
    await asyncio.get_running_loop().create_connection(
        lambda: protocol, sock=here, ssl=client_context, server_hostname="localhost"
    )
    await shaking
    try:
        async with asyncio.timeout(TIMEOUT):
            yield peer
    finally:
        peer.close()
        protocol.transport.abort()
        async with asyncio.timeout(TIMEOUT):
            await protocol.lost


KINDS: dict[str, Callable[[], Any]] = {"copied": Recorder, "buffered": lambda: Into(64)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ["close_notify", "close_notify and end", "end"])
def test_data_and_end_received_while_paused_are_delivered_in_order(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, kind: str, end: str
) -> None:
    async def main() -> None:
        protocol = KINDS[kind]()
        async with with_peer(server_context, client_context, protocol) as peer:
            protocol.transport.pause_reading()
            peer.send(b"last words", close_notify="close_notify" in end)
            if "end" in end:
                peer.end()
            await turns()
            assert protocol.events == ["made"]
            protocol.transport.resume_reading()
            await protocol.until(lambda: "eof" in protocol.events)
            assert bytes(protocol.data) == b"last words"
            peer.close()
            assert await protocol.lost is None
            assert [event for event in protocol.events if event != "data"] == ["made", "eof", "lost"]

    twin(main())


@pytest.mark.parametrize("base", [Recorder, Into])
@pytest.mark.parametrize("end", ["close_notify", "close_notify and end", "a broken record"])
def test_the_end_is_not_reported_while_a_callback_has_paused_reading(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, base: type[Any], end: str
) -> None:
    """asyncio reports the end while reading is paused over TLS, but not over TCP; our loop never does."""

    class Pausing(base):  # type: ignore[misc]
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            self.transport.pause_reading()

    async def main() -> None:
        protocol = Pausing()
        async with with_peer(server_context, client_context, protocol) as peer:
            wire = peer.sealed(b"abcdef", close_notify="close_notify" in end)
            if end == "a broken record":
                wire += b"\x17\x03\x03\0\x20" + bytes(32)
            assert peer.sock.send(wire) == len(wire)
            if "and end" in end:
                peer.end()
            while protocol.data != b"abcdef":
                await protocol.until(lambda: protocol.events[-1] == "data")
                await turns()
                assert protocol.events[-1] == "data"
                protocol.events.append("resumed")
                protocol.transport.resume_reading()
            if end == "a broken record":
                assert isinstance(await protocol.lost, ssl.SSLError)
                assert protocol.events[-1] == "lost"
            else:
                await protocol.until(lambda: "eof" in protocol.events)
                peer.close()
                assert await protocol.lost is None
                assert protocol.events[-2:] == ["eof", "lost"]

    ours(main())


def test_data_can_be_sent_before_the_peers_end_is_reported(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    class Pausing(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self.transport.pause_reading()

    async def main() -> None:
        protocol = Pausing()
        async with with_peer(server_context, client_context, protocol) as peer:
            peer.send(b"question", close_notify=True)
            await protocol.until(lambda: bytes(protocol.data) == b"question")
            protocol.transport.write(b"answer")
            peer.incoming.write(await asyncio.get_running_loop().sock_recv(peer.sock, 65536))
            # TLS 1.3: close_notify ends one direction only (RFC 8446 section 6.1).
            assert peer.tls.version() == "TLSv1.3"
            with contextlib.suppress(ssl.SSLWantReadError):
                assert peer.tls.read(100) == b"answer"
            protocol.transport.resume_reading()
            await protocol.until(lambda: "eof" in protocol.events)
            peer.close()
            assert await protocol.lost is None

    ours(main())


# --- a stream below that ends while something waits -------------------------------------------------------------------


def wait_connections_closed(body: Callable[[Recorder, BarePeer], Any], *contexts: ssl.SSLContext) -> Any:
    """Run `body(protocol, peer)` on a paused connection that was reset after unread data."""

    async def main() -> None:
        protocol = Recorder()
        async with with_peer(*contexts, protocol) as peer:
            protocol.transport.pause_reading()
            peer.send(b"last words")
            await turns()
            peer.reset()
            await turns()
            assert protocol.events == ["made"]
            await body(protocol, peer)

    return main()


def test_a_reset_is_reported_after_the_data_before_it(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def body(protocol: Recorder, peer: BarePeer) -> None:
        assert "draining" in repr(protocol.transport)
        assert not protocol.transport.is_closing()
        protocol.transport.resume_reading()
        assert isinstance(await protocol.lost, ConnectionResetError)
        assert protocol.events == ["made", "data", "lost"]
        assert protocol.data == b"last words"

    ours(wait_connections_closed(body, server_context, client_context))


@pytest.mark.parametrize("way", ["close", "abort"])
def test_close_with_unread_data_ends_the_connection(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, way: str
) -> None:
    async def body(protocol: Recorder, peer: BarePeer) -> None:
        getattr(protocol.transport, way)()
        getattr(protocol.transport, way)()
        assert protocol.events == ["made"]
        assert await protocol.lost is None
        protocol.transport.resume_reading()
        await turns()
        assert protocol.events == ["made", "lost"]

    ours(wait_connections_closed(body, server_context, client_context))


def test_a_write_reports_the_reset(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def body(protocol: Recorder, peer: BarePeer) -> None:
        protocol.transport.write(b"to nobody")
        assert isinstance(await protocol.lost, ConnectionResetError)
        assert protocol.events == ["made", "lost"]

    ours(wait_connections_closed(body, server_context, client_context))


def test_an_error_in_data_received_for_delayed_data_ends_the_connection(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    reported: list[Any] = []

    async def body(protocol: Any, peer: BarePeer) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        protocol.data_received = lambda data: 1 // 0
        protocol.transport.resume_reading()
        assert isinstance(await protocol.lost, ZeroDivisionError)

    ours(wait_connections_closed(body, server_context, client_context))
    assert [type(error) for error in reported] == [ZeroDivisionError]


def test_a_waiting_writer_is_woken_by_a_reset(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """Reading is paused until all written data is sent, which never happens."""

    async def main() -> None:
        protocol = Recorder()
        async with with_peer(server_context, client_context, protocol) as peer:
            protocol.transport.pause_reading()
            peer.send(b"never read")
            while "pause" not in protocol.events:
                protocol.transport.write(bytes(100_000))
                await turns(2)
            peer.reset()
            assert isinstance(await protocol.lost, ConnectionError)

    ours(main())


def test_the_close_of_the_stream_below_is_reported_after_the_data(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        protocol = Recorder()
        async with with_peer(server_context, client_context, protocol) as peer:
            protocol.transport.pause_reading()
            peer.send(b"last words")
            await turns()
            protocol.transport._transport.close()
            await turns()
            assert protocol.events == ["made"]
            protocol.transport.resume_reading()
            assert await protocol.lost is None
            assert protocol.data == b"last words"

    ours(main())


# --- flow control -----------------------------------------------------------------------------------------------------


def test_zero_watermarks_do_not_stop_the_rest_of_a_record(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The rest of a record is received whatever the watermarks are (asyncio would wait for ever)."""

    async def main() -> None:
        protocol = Recorder()
        async with with_peer(server_context, client_context, protocol) as peer:
            protocol.transport.set_read_buffer_limits(high=0)
            protocol.transport.pause_reading()
            wire = peer.sealed(b"a record in two parts")
            assert peer.sock.send(wire[:20]) == 20
            while protocol.transport.get_read_buffer_size() < 20:
                await asyncio.sleep(0)
            await turns()
            protocol.transport.resume_reading()
            await turns()
            assert peer.sock.send(wire[20:]) == len(wire) - 20
            await protocol.until(lambda: bytes(protocol.data) == b"a record in two parts")

    ours(main())


@pytest.mark.parametrize("module", [asyncio, corenet])
@pytest.mark.parametrize("end", ["close_notify", "close_notify and end"])
def test_streams_read_to_the_end_under_back_pressure(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, module: Any, end: str
) -> None:
    async def main() -> None:
        here, there = tcp_pair()
        peer = BarePeer(there, server_context)
        shaking = asyncio.ensure_future(peer.handshake())
        reader, writer = await module.open_connection(
            sock=here, ssl=client_context, server_hostname="localhost", limit=100
        )
        await shaking
        lines = [b"%050d\n" % number for number in range(1000)]
        peer.send(b"".join(lines), close_notify=True)
        if end == "close_notify and end":
            peer.end()
        await turns()
        async with asyncio.timeout(TIMEOUT):
            for line in lines:
                assert await reader.readline() == line
            assert await reader.read() == b""
            assert reader.at_eof()
            peer.close()
            writer.close()
            await writer.wait_closed()

    twin(main())


# --- the loop's receive buffer ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_callback_may_receive_on_another_socket(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, kind: str
) -> None:
    """An eager task receives while the ciphertext of the same event is being decrypted."""
    other, filler = socket.socketpair()
    other.setblocking(False)

    def receive_now() -> None:
        filler.send(b"\xff" * 60_000)
        left = 60_000
        while left:
            receiving = asyncio.get_running_loop().sock_recv(other, 65536)
            try:
                receiving.send(None)  # type: ignore[attr-defined]
            except StopIteration as done:
                left -= len(done.value)

    class Plain(Recorder):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            receive_now()

    class Buffered(Into):
        def __init__(self) -> None:
            super().__init__(16384)

        def buffer_updated(self, nbytes: int) -> None:
            super().buffer_updated(nbytes)
            receive_now()

    async def main() -> None:
        protocol: Any = Plain() if kind == "copied" else Buffered()
        data = bytes(range(256)) * 800
        async with with_peer(server_context, client_context, protocol) as peer:
            wire = peer.sealed(data)
            await asyncio.get_running_loop().sock_sendall(peer.sock, wire)
            await protocol.until(lambda: len(protocol.data) >= len(data))
            assert protocol.data == data

    with other, filler:
        twin(main())


def test_pause_reading_after_the_end_does_nothing(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The protocol is no longer referenced, whatever its type was."""

    async def main() -> None:
        protocol = Frames()
        async with with_peer(server_context, client_context, protocol) as peer:
            transport = protocol.transport
            peer.end()
            await protocol.lost
            for call in (transport.pause_reading, transport.resume_reading, transport.pause_reading):
                call()
                await turns()
                assert transport.get_protocol() is None
                assert not transport.is_reading()

    ours(main())


# --- who is told, and when --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", [asyncio, corenet])
@pytest.mark.parametrize("read", ["readexactly", "readline", "readuntil"])
def test_a_read_that_waits_after_the_last_data_raises_the_reset(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, module: Any, read: str
) -> None:
    """The reader had paused; the remaining data wakes the read, which then waits for more data than there is."""

    async def main() -> None:
        here, there = tcp_pair()
        peer = BarePeer(there, server_context)
        shaking = asyncio.ensure_future(peer.handshake())
        reader, writer = await module.open_connection(
            sock=here, ssl=client_context, server_hostname="localhost", limit=100
        )
        await shaking
        peer.send(b"x" * 300)
        await turns()
        assert len(reader._buffer) == 300
        peer.send(b"y" * 50)
        await turns()
        peer.reset()
        await turns()

        async def everything() -> None:
            # Raises here on asyncio, where a reset takes the place of what was received before it.
            assert await reader.readexactly(300) == b"x" * 300
            await {
                "readexactly": lambda: reader.readexactly(100),
                "readline": reader.readline,
                "readuntil": lambda: reader.readuntil(b"\r\n"),
            }[read]()

        async with asyncio.timeout(TIMEOUT):
            with pytest.raises(ConnectionResetError):
                await everything()
        writer.close()
        with contextlib.suppress(ConnectionResetError):
            await writer.wait_closed()

    twin(main())


class Turns(Recorder):
    """Records that a loop iteration began between two events."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        asyncio.get_running_loop().call_soon(self.note, "turn")


@pytest.mark.parametrize("error", [None, ConnectionResetError()])
def test_data_and_the_end_are_never_reported_in_one_iteration(
    twin: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, error: Any
) -> None:
    """Reading is resumed in the callback in which the stream below ends."""

    async def main() -> None:
        protocol = Turns()
        async with with_peer(server_context, client_context, protocol) as peer:
            transport = protocol.transport
            transport.pause_reading()
            peer.send(b"last words")
            await turns()
            transport.resume_reading()
            transport._ssl_protocol._transport._force_close(error)
            await protocol.lost
            if "data" in protocol.events:
                assert protocol.events == ["made", "data", "turn", "lost"]

    twin(main())


# --- a server's connections -------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def served(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, timeout: float = TIMEOUT
) -> AsyncIterator[tuple[Any, Recorder, BarePeer]]:
    """A server, its protocol, which has paused with something unread, and the client that was reset behind that."""
    loop = asyncio.get_running_loop()
    factory, accepted = accepting()
    server = await loop.create_server(factory, "127.0.0.1", 0, ssl=server_context)
    client = socket.socket()
    client.setblocking(False)
    await loop.sock_connect(client, server.sockets[0].getsockname())
    peer = BarePeer(client)
    peer.tls = client_context.wrap_bio(peer.incoming, peer.outgoing, server_hostname="localhost")
    await peer.handshake()
    protocol = await accepted
    protocol.transport.pause_reading()
    peer.send(b"never read")
    await turns()
    try:
        async with asyncio.timeout(timeout):
            yield server, protocol, peer
    finally:
        peer.close()
        server.close()
        if not protocol.lost.done():
            protocol.transport.abort()
            await protocol.lost


@pytest.mark.parametrize("reset_before", [True, False])
def test_abort_clients_reaches_connections_with_unread_data(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, reset_before: bool
) -> None:
    """abort_clients reports the end to it, and `wait_connections_closed` waits for that report."""

    async def main() -> None:
        async with served(server_context, client_context) as (server, protocol, peer):
            if reset_before:
                peer.reset()
                await turns()
                assert "draining" in repr(protocol.transport)
            server.close()
            wait_connections_closed = asyncio.ensure_future(server.wait_connections_closed())
            await turns()
            assert not wait_connections_closed.done() and "lost" not in protocol.events
            server.abort_clients()
            await wait_connections_closed
            assert protocol.events == ["made", "lost"]

    ours(main())


def test_a_server_counts_a_connection_until_its_connection_lost(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        async with served(server_context, client_context) as (server, protocol, peer):
            server.close()
            wait_connections_closed = asyncio.ensure_future(server.wait_connections_closed())
            peer.reset()
            await turns()
            wait_connections_closed.add_done_callback(lambda _: protocol.note("drained"))
            protocol.transport.resume_reading()
            await protocol.until(lambda: "drained" in protocol.events)
            assert protocol.events == ["made", "data", "lost", "drained"]

    ours(main())


@pytest.mark.parametrize("reads_on", [False, True])
def test_a_protocol_that_never_reads_gets_connection_lost_after_a_timeout(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, reads_on: bool
) -> None:
    """The limit is half a minute: the loop's clock is set forward, by less and by more than that."""
    limit = TLS_DRAIN_TIMEOUT

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ahead = [0.0]
        true_time = loop.time
        loop.time = lambda: true_time() + ahead[0]  # type: ignore[method-assign]
        async with served(server_context, client_context, 100 * limit) as (_, protocol, peer):
            peer.send(b"second record")
            protocol.transport.set_protocol(into := Into(5))
            into.inner = protocol
            await turns()
            peer.reset()
            await turns()
            ahead[0] += limit - 1
            await turns()
            assert protocol.events == ["made"]
            if reads_on:
                into.inner.note = lambda event: (Recorder.note(protocol, event), protocol.transport.pause_reading())
                protocol.transport.resume_reading()
                await turns()
                assert protocol.data == b"never"
            ahead[0] += 2
            await turns()
            assert protocol.lost.done() is not reads_on
            ahead[0] += limit
            error = await protocol.lost
            assert isinstance(error, ConnectionAbortedError) and isinstance(error.__cause__, ConnectionResetError)
            assert f"{limit} s" in str(error)

    corenet.run(main())


# --- what is written --------------------------------------------------------------------------------------------------


class Watched(ssl.SSLObject):
    """An engine that can be made to need received data before it sends."""

    waits = False

    def write(self, data: Any) -> int:
        if Watched.waits:
            raise ssl.SSLWantReadError
        return super().write(data)

    def unwrap(self) -> None:  # type: ignore[override]
        if Watched.waits:
            raise ssl.SSLWantReadError
        super().unwrap()


@pytest.fixture
def watched(client_context: ssl.SSLContext) -> Iterator[ssl.SSLContext]:
    client_context.sslobject_class = Watched
    yield client_context
    Watched.waits = False


def test_no_close_notify_is_sent_when_written_data_is_missing(
    ours: Twin, server_context: ssl.SSLContext, watched: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, watched)
        theirs = there.transport.get_extra_info("ssl_object")
        Watched.waits = True
        here.transport.write(b"never encrypted")
        here.transport.close()
        assert isinstance(await here.lost, ConnectionAbortedError)
        await there.lost
        assert not there.data
        assert not received_close_notify(theirs)
        server.close()
        await server.wait_closed()

    ours(main())


class Reentrant(asyncio.Transport):
    """A transport below during whose `write` more is written to the TLS transport."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []
        self.above: Any = None

    def write(self, data: Any) -> None:
        above, self.above = self.above, None
        if above is not None:
            above.write(b" inner")
            # Does not wait for the end of the callback.
            above.get_write_buffer_size()
        self.sent.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        pass


def test_data_written_during_a_send_is_sent_after_it(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        below, peer = Reentrant(), make_tls_engine(server_context, True)
        tls = make_tls(asyncio.get_running_loop(), Recorder(), client_context, server_hostname="localhost")
        tls.connection_made(below)
        while not peer.established:
            peer.feed(b"".join(below.sent))
            below.sent.clear()
            peer.handshake()
            tls.data_received(peer.drain())
        below.above = tls
        tls.write(b"outer")
        tls.get_write_buffer_size()
        peer.feed(b"".join(below.sent))
        assert peer.read() == b"outer inner"
        tls.close()
        tls.connection_lost(None)

    ours(main())


@pytest.mark.parametrize("error", [OSError(errno.ENOBUFS, "no buffer space"), ConnectionResetError(), None], ids=repr)
def test_close_after_a_failed_send_reports_the_error(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, error: OSError | None
) -> None:
    """Data that was written is lost, and the connection did not end cleanly. A reset is what the peer wanted."""

    async def main() -> None:
        below, peer, protocol = Reentrant(), make_tls_engine(server_context, True), Recorder()
        tls = make_tls(asyncio.get_running_loop(), protocol, client_context, server_hostname="localhost")
        tls.connection_made(below)
        while not peer.established:
            peer.feed(b"".join(below.sent))
            below.sent.clear()
            peer.handshake()
            tls.data_received(peer.drain())
        tls.pause_reading()
        peer.write(b"unread")
        tls.data_received(peer.drain())
        tls.connection_lost(error)
        tls.close()
        assert await protocol.lost is (None if isinstance(error, ConnectionError) else error)

    ours(main())


def test_a_flood_of_data_after_our_close_notify_ends_the_connection(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, each_tls_engine: str
) -> None:
    library = ctypes.CDLL(_ssl.__file__)

    async def main() -> None:
        there, here, server = await tls_pair(server_context, client_context)
        core = there.transport.get_extra_info("ssl_object")._sslobj
        connection = ctypes.c_void_p.from_address(id(core) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        here.transport.close()
        for _ in range(TLS_CONTROL_RECORDS + 10):
            assert library.SSL_key_update(connection, 0) == 1
            assert library.SSL_do_handshake(connection) == 1
        there.transport.write(b"data")
        error = await here.lost
        if each_tls_engine == "openssl":
            assert isinstance(error, ssl.SSLError)
            assert "without data" in str(error)
        else:
            # It reads the whole segment, which includes the data that ends the connection.
            assert error is None
        await there.lost
        server.close()
        await server.wait_closed()

    ours(main())


def test_the_bytes_kept_after_our_close_notify_are_bounded(
    ours: Twin, server_context: ssl.SSLContext, watched: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, watched)
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        Watched.waits = True
        here.transport.close()
        there.transport.write(bytes(8 * TLS_READ_HIGH_WATERMARK))
        error = await here.lost
        assert isinstance(error, ssl.SSLError)
        assert "behind our close_notify" in str(error)
        await there.lost
        server.close()
        await server.wait_closed()

    ours(main())


def test_a_subclass_of_ssl_object_sends_close_notify(
    ours: Twin, server_context: ssl.SSLContext, watched: ssl.SSLContext
) -> None:
    async def main() -> None:
        there, here, server = await tls_pair(server_context, watched)
        theirs = there.transport.get_extra_info("ssl_object")
        here.transport.close()
        assert await here.lost is None
        assert await there.lost is None
        assert received_close_notify(theirs)
        server.close()
        await server.wait_closed()

    ours(main())


@pytest.mark.parametrize("way", ["close_clients", "abort_clients"])
def test_close_clients_sends_close_notify(
    ours: Twin, server_context: ssl.SSLContext, client_context: ssl.SSLContext, way: str
) -> None:
    """close_clients closes the transports that the program has, not the streams below them."""

    async def main() -> None:
        async with served(server_context, client_context) as (server, protocol, peer):
            protocol.transport.resume_reading()
            protocol.transport.write(b"last words")
            getattr(server, way)()
            received, closed = b"", False
            while not closed and (data := await asyncio.get_running_loop().sock_recv(peer.sock, 65536)):
                peer.incoming.write(data)
                try:
                    while piece := peer.tls.read(100):
                        received += piece
                except ssl.SSLWantReadError:
                    continue
                # b"": the other side's close_notify.
                closed = True
                peer.tls.unwrap()
                peer.sock.send(peer.outgoing.read())
            assert (received, closed) == (b"last words", way == "close_clients")
            await protocol.lost

    ours(main())
