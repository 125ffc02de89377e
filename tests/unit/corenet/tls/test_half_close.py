"""One direction of a TLS connection ends before the other: a peer's close_notify, and our `half_close`.

asyncio closes the whole connection in both cases, so what it allows runs on both loops, and the rest on ours.
"""

import _ssl
import asyncio
import contextlib
import ctypes
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.bare_tls import BarePeer, tcp_pair
from support.framed import Frames, packed
from support.tls_pair import client_context, leaf, ours, server_context
from support.twin import Recorder, loop_factory, twin
from support.waiting import turns

from corenet.limits import TLS_READ_HIGH_WATERMARK, TLS_RECORD_SIZE
from corenet.tls.engines import make_tls_engine
from corenet.tls.transport import make_tls

__all__ = ["client_context", "leaf", "loop_factory", "ours", "server_context", "twin"]

Twin = Callable[[Any], Any]
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
TIMEOUT = 30


class Into(Recorder, asyncio.BufferedProtocol):
    """A BufferedProtocol that pauses when it has received `pause_at` bytes."""

    pause_at = 1 << 30

    def __init__(self, buffer: int = 64) -> None:
        super().__init__()
        self.buffer = bytearray(buffer)

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self.buffer[:nbytes]))
        if len(self.data) >= self.pause_at:
            self.transport.pause_reading()


KINDS: dict[str, Callable[[], Any]] = {"copied": Recorder, "buffered": Into}


@pytest.fixture
def contexts(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> Contexts:
    return server_context, client_context


@pytest.fixture
def older(contexts: Contexts) -> Contexts:
    """TLS 1.2."""
    contexts[0].maximum_version = ssl.TLSVersion.TLSv1_2
    return contexts


@contextlib.asynccontextmanager
async def with_peer(contexts: Contexts, protocol: Any, **options: Any) -> AsyncIterator[BarePeer]:
    """A connection of `protocol` to a peer on a bare socket; both are closed after the block."""
    here, there = tcp_pair()
    peer = BarePeer(there, contexts[0])
    shaking = asyncio.ensure_future(peer.handshake())
    await asyncio.get_running_loop().create_connection(
        lambda: protocol, sock=here, ssl=contexts[1], server_hostname="localhost", **options
    )
    await shaking
    try:
        async with asyncio.timeout(TIMEOUT):
            yield peer
    finally:
        peer.close()
        if protocol.transport is not None:
            protocol.transport.abort()
        async with asyncio.timeout(TIMEOUT):
            await protocol.lost


async def everything(peer: BarePeer) -> bytes:
    """What the peer receives until close_notify."""
    received = b""
    while True:
        try:
            while data := peer.tls.read(1 << 16):
                received += data
        except ssl.SSLZeroReturnError:
            return received
        except ssl.SSLWantReadError:
            data = await asyncio.get_running_loop().sock_recv(peer.sock, 1 << 16)
            assert data, "the end without close_notify"
            peer.incoming.write(data)
            continue
        return received


# --- the peer ends its direction --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("paused", [False, True])
@pytest.mark.parametrize("fin", [False, True])
def test_reply_after_close_notify_of_the_peer(
    ours: Twin, contexts: Contexts, kind: str, paused: bool, fin: bool
) -> None:
    """Also when the peer ends its direction of TCP afterwards."""

    async def main() -> None:
        protocol = KINDS[kind]()
        protocol.keep_open = True
        async with with_peer(contexts, protocol) as peer:
            transport = protocol.transport
            if paused:
                transport.pause_reading()
            peer.send(b"question", close_notify=True)
            if fin:
                peer.end()
            await turns()
            if paused:
                assert protocol.events == ["made"]
                transport.resume_reading()
            await protocol.until(lambda: "eof" in protocol.events)
            assert protocol.data == b"question" and not transport.is_closing()
            transport.pause_reading()
            transport.resume_reading()
            await turns()
            assert not transport.is_closing()
            transport.write(bytes(TLS_RECORD_SIZE))
            transport.write(b"reply")
            transport.close()
            assert await everything(peer) == bytes(TLS_RECORD_SIZE) + b"reply"
            assert await protocol.lost is None
            assert [event for event in protocol.events if event != "data"] == ["made", "eof", "lost"]

    ours(main())


def test_before_tls13_the_peers_close_notify_closes(
    twin: Twin, older: Contexts, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 5246 section 7.2.1."""

    async def main() -> None:
        protocol = Recorder()
        protocol.keep_open = True
        async with with_peer(older, protocol) as peer:
            assert peer.tls.version() == "TLSv1.2"
            peer.send(b"question", close_notify=True)
            assert await everything(peer) == b""
            assert await protocol.lost is None
            assert protocol.events == ["made", "data", "eof", "lost"]

    twin(main())
    assert "returning true from eof_received() has no effect" in caplog.text


def test_an_end_without_close_notify_closes(
    twin: Twin, contexts: Contexts, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        protocol = Recorder()
        protocol.keep_open = True
        async with with_peer(contexts, protocol) as peer:
            peer.send(b"question")
            peer.end()
            assert await protocol.lost is None
            assert protocol.events == ["made", "data", "eof", "lost"]

    twin(main())
    assert "returning true from eof_received() has no effect" in caplog.text


@pytest.mark.parametrize("then", ["reads", "pauses", "resumes"])
def test_a_reset_after_close_notify_is_noticed(ours: Twin, contexts: Contexts, then: str) -> None:
    """Everything was delivered, so a pause does not delay it."""

    async def main() -> None:
        protocol = Recorder()
        protocol.keep_open = True
        async with with_peer(contexts, protocol) as peer:
            peer.send(b"question", close_notify=True)
            await protocol.until(lambda: "eof" in protocol.events)
            if then != "reads":
                protocol.transport.pause_reading()
            if then == "resumes":
                protocol.transport.resume_reading()
                await turns()
            assert protocol.transport._ssl_protocol._transport.is_reading()
            peer.reset()
            assert isinstance(await protocol.lost, ConnectionResetError)

    ours(main())


def test_what_follows_close_notify_is_not_kept(ours: Twin, contexts: Contexts) -> None:
    """RFC 8446 section 6.1: it is ignored."""

    async def main() -> None:
        protocol = Recorder()
        protocol.keep_open = True
        async with with_peer(contexts, protocol) as peer:
            peer.send(b"question", close_notify=True)
            left = 8 * TLS_READ_HIGH_WATERMARK
            while left:
                await asyncio.get_running_loop().sock_sendall(peer.sock, bytes(1 << 16))
                left -= 1 << 16
            await turns()
            assert protocol.data == b"question"
            # At most the rest of the call that has received close_notify.
            assert protocol.transport.get_read_buffer_size() < TLS_READ_HIGH_WATERMARK
            protocol.transport.write(b"reply")
            protocol.transport.close()
            assert await everything(peer) == b"reply"

    ours(main())


def test_a_framed_protocol_answers_after_close_notify(ours: Twin, contexts: Contexts) -> None:
    class Answering(Frames):
        def frames_ended(self) -> bool:
            super().frames_ended()
            return True

    async def main() -> None:
        protocol = Answering()
        async with with_peer(contexts, protocol) as peer:
            peer.send(packed(b"a", b"b"), close_notify=True)
            await protocol.until(lambda: "ended" in protocol.events)
            await turns()
            assert protocol.transport is not None
            protocol.transport.write_frames([bytes(frame) for frame in reversed(protocol.frames)])
            protocol.transport.close()
            assert await everything(peer) == packed(b"b", b"a")

    ours(main())


# --- our direction ends -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_data_is_received_after_our_close_notify(ours: Twin, contexts: Contexts, kind: str) -> None:
    async def main() -> None:
        protocol = KINDS[kind]()
        async with with_peer(contexts, protocol) as peer:
            protocol.transport.write(b"question")
            protocol.transport.half_close()
            protocol.transport.half_close()
            assert await everything(peer) == b"question"
            with pytest.raises(RuntimeError, match="after half_close"):
                protocol.transport.write(b"more")
            assert not protocol.transport.is_closing()
            for _ in range(3):
                peer.send(b"x" * 100)
                await turns()
            peer.send(b"end", close_notify=True)
            assert await protocol.lost is None
            assert protocol.data == b"x" * 300 + b"end"
            assert [event for event in protocol.events if event != "data"] == ["made", "eof", "lost"]

    ours(main())


@pytest.mark.parametrize("keep_open", [False, True])
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_when_both_directions_have_ended_the_connection_closes(
    ours: Twin, contexts: Contexts, first: str, keep_open: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        protocol = Recorder()
        protocol.keep_open = keep_open
        async with with_peer(contexts, protocol) as peer:
            if first == "ours":
                protocol.transport.half_close()
                await turns()
            peer.send(b"", close_notify=True)
            if first == "theirs":
                await protocol.until(lambda: "eof" in protocol.events)
                protocol.transport.half_close()
            assert await everything(peer) == b""
            assert await protocol.lost is None

    ours(main())
    assert not caplog.text


def test_half_close_in_eof_received(ours: Twin, contexts: Contexts) -> None:
    class Answering(Recorder):
        def eof_received(self) -> bool:
            self.transport.write(b"reply")
            self.transport.half_close()
            return True

    async def main() -> None:
        protocol = Answering()
        async with with_peer(contexts, protocol) as peer:
            peer.send(b"question", close_notify=True)
            assert await everything(peer) == b"reply"
            assert await protocol.lost is None

    ours(main())


def test_half_close_before_tls13(ours: Twin, older: Contexts) -> None:
    async def main() -> None:
        protocol = Recorder()
        async with with_peer(older, protocol) as peer:
            protocol.transport.half_close()
            assert await everything(peer) == b""
            peer.send(b"sent before it was read", close_notify=True)
            assert await protocol.lost is None
            assert protocol.data == b"sent before it was read"

    ours(main())


class Below(asyncio.Transport):
    """A transport below that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()

    def write(self, data: Any) -> None:
        self.sent += data

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        """Nothing is received here."""

    def resume_reading(self) -> None:
        """Nothing is received here."""

    def close(self) -> None:
        """The test does that."""

    def _force_close(self, error: BaseException | None) -> None:
        raise AssertionError(error)


class Direct:
    """A TLS transport and an engine as its peer, without sockets."""

    def __init__(self, contexts: Contexts, protocol: Any) -> None:
        self.below = Below()
        self.peer = make_tls_engine(contexts[0], True)
        self.transport: Any = make_tls(
            asyncio.get_running_loop(), protocol, contexts[1], server_hostname="localhost"
        )
        protocol.transport = self.transport
        self.transport.connection_made(self.below)

    def shake_hands(self) -> None:
        while not self.peer.established:
            self.peer.feed(self.taken())
            self.peer.handshake()
            self.transport.data_received(self.peer.drain())

    def taken(self) -> bytes:
        sent = bytes(self.below.sent)
        self.below.sent.clear()
        return sent

    def received(self) -> tuple[bytes, bool]:
        """What the peer gets now, and whether close_notify follows."""
        self.peer.feed(self.taken())
        data = self.peer.read() or b""
        return data, self.peer.read() == b""

    def send(self, data: bytes) -> None:
        self.peer.write(data)
        self.transport.data_received(self.peer.drain())

    def end(self) -> None:
        """The peer ends, then TCP."""
        self.peer.shutdown()
        self.transport.data_received(self.peer.drain())
        self.transport.connection_lost(None)


def test_half_close_during_the_handshake_waits_for_its_end(ours: Twin, contexts: Contexts) -> None:
    async def main() -> None:
        protocol = Recorder()
        pair = Direct(contexts, protocol)
        pair.transport.write(b"question")
        pair.transport.half_close()
        pair.shake_hands()
        assert pair.received() == (b"question", True)
        pair.send(b"reply")
        assert protocol.data == b"reply"
        pair.end()
        assert await protocol.lost is None

    ours(main())


def test_half_close_while_received_records_wait(ours: Twin, contexts: Contexts) -> None:
    async def main() -> None:
        protocol = Recorder()
        pair = Direct(contexts, protocol)
        pair.shake_hands()
        pair.transport.pause_reading()
        pair.peer.write(b"first")
        pair.peer.write(b"second")
        wire = pair.peer.drain()
        pair.transport.data_received(wire[:-3])
        pair.transport.half_close()
        assert pair.received() == (b"", True)
        pair.transport.resume_reading()
        await turns()
        assert protocol.data == b"first"
        pair.transport.data_received(wire[-3:])
        assert protocol.data == b"firstsecond"
        pair.end()
        assert await protocol.lost is None

    ours(main())


def test_half_close_while_the_rest_of_a_record_waits(ours: Twin, contexts: Contexts, each_tls_engine: str) -> None:
    """The standard library cannot send close_notify then: it follows when the rest was read."""

    async def main() -> None:
        protocol = Into(4)
        protocol.pause_at = 4
        pair = Direct(contexts, protocol)
        pair.shake_hands()
        pair.send(b"received")
        assert protocol.data == b"rece"
        pair.transport.half_close()
        await turns()
        early = pair.received()
        assert early == (b"", each_tls_engine == "openssl")
        protocol.pause_at = 1 << 30
        pair.transport.resume_reading()
        await turns()
        assert protocol.data == b"received"
        assert pair.received()[1]
        pair.end()
        assert await protocol.lost is None

    ours(main())


def connection_of(engine: Any) -> ctypes.c_void_p:
    """The `SSL *` of an engine: the second field of its `_SSLSocket`."""
    core = engine.ssl_object._sslobj
    return ctypes.c_void_p.from_address(id(core) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p))


def test_key_updates_after_our_close_notify(ours: Twin, contexts: Contexts) -> None:
    """The peer asks for an update of our key, which we no longer use (RFC 8446 section 4.6.3)."""
    library = ctypes.CDLL(_ssl.__file__)

    async def main() -> None:
        protocol = Recorder()
        pair = Direct(contexts, protocol)
        pair.shake_hands()
        pair.transport.half_close()
        assert pair.received() == (b"", True)
        assert library.SSL_key_update(connection_of(pair.peer), 1) == 1
        pair.send(b"with a new key")
        pair.send(b", and more")
        assert protocol.data == b"with a new key, and more"
        pair.end()
        assert await protocol.lost is None

    ours(main())


def test_half_close_during_a_renegotiation_waits_for_its_end(ours: Twin, older: Contexts) -> None:
    library = ctypes.CDLL(_ssl.__file__)

    async def main() -> None:
        protocol = Recorder()
        pair = Direct(older, protocol)
        pair.shake_hands()
        assert library.SSL_renegotiate(connection_of(pair.peer)) == 1
        pair.peer.handshake()
        pair.transport.data_received(pair.peer.drain())
        pair.transport.half_close()
        assert pair.received() == (b"", False)
        pair.transport.data_received(pair.peer.drain())
        assert pair.received() == (b"", True)
        pair.end()
        assert await protocol.lost is None

    ours(main())


@pytest.mark.parametrize("half_closed", [False, True])
def test_close_with_unread_data_reports_no_end(ours: Twin, contexts: Contexts, half_closed: bool) -> None:
    async def main() -> None:
        protocol = Recorder()
        async with with_peer(contexts, protocol) as peer:
            protocol.transport.pause_reading()
            if half_closed:
                protocol.transport.half_close()
            peer.send(b"never read", close_notify=True)
            peer.end()
            await turns()
            protocol.transport.close()
            assert await protocol.lost is None
            assert protocol.events == ["made", "lost"]

    ours(main())


# --- and nothing more happens -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", ["ours", "theirs"])
def test_close_of_a_half_closed_connection_is_limited_in_time(ours: Twin, contexts: Contexts, ended: str) -> None:
    """The peer never sends close_notify, or never reads."""

    async def main() -> None:
        protocol = Recorder()
        protocol.keep_open = True
        async with with_peer(contexts, protocol, ssl_shutdown_timeout=0.05) as peer:
            if ended == "ours":
                protocol.transport.half_close()
            else:
                peer.send(b"question", close_notify=True)
                await protocol.until(lambda: "eof" in protocol.events)
                protocol.transport.write(bytes(64 << 20))
            protocol.transport.close()
            assert isinstance(await protocol.lost, TimeoutError)

    ours(main())
