"""No frame is lost silently, however a connection ends and whatever was paused.

The model: the delivered frames are a prefix of those sent; a clean end comes after the last frame; if frames are
missing, `connection_lost` gets the reason. Enumerated over transports, ways to pause and ways to end, on our loop and
on asyncio's.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.bare_tls import BarePeer, tcp_pair
from support.framed import HEAD, Frames, contexts, packed
from support.waiting import turns

import corenet
from corenet import FrameError, FrameTooLarge, IncompleteFrame, LengthFramer
from corenet.transports import deferred_close

__all__ = ["contexts"]

SENT = [b"frame %d" % number for number in range(9)]
TIMEOUT = 30


class MemoryTransport(asyncio.Transport):
    """A transport without a socket, which calls its protocol from within `feed`; its peer is the test."""

    def __init__(self, protocol: Any) -> None:
        super().__init__()
        self._protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._paused = False
        self._eof_received = False
        self._waiting: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        protocol.connection_made(self)

    def feed(self, what: Callable[..., Any], *arguments: Any) -> None:
        self._waiting.append((what, arguments))
        self._deliver()

    def _deliver(self) -> None:
        while self._waiting and not self._paused and not self._eof_received:
            what, arguments = self._waiting.pop(0)
            try:
                what(*arguments)
            except Exception as error:  # noqa: BLE001
                self._force_close(error)

    def ended(self) -> None:
        if not self._protocol.eof_received():
            self.close()

    def _force_close(self, error: BaseException | None) -> None:
        if not self._eof_received:
            self._eof_received = True
            self._loop.call_soon(self._protocol.connection_lost, error)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self._eof_received

    def close(self) -> None:
        self._force_close(None)

    abort = close

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._loop.call_soon(self._deliver)


class MemoryPeer:
    """The counterpart of `BarePeer` in memory."""

    def __init__(self, transport: MemoryTransport, protocol: Any) -> None:
        self.transport, self.protocol = transport, protocol

    def send(self, data: bytes, close_notify: bool = False) -> None:
        self.transport.feed(self.protocol.data_received, data)

    def end(self) -> None:
        self.transport.feed(self.transport.ended)

    def reset(self) -> None:
        self.transport.feed(self.transport._force_close, ConnectionResetError("reset"))

    def close(self) -> None:
        """Nothing to close."""


# Loop and kind of transport.
WAYS = {
    "tcp": (corenet.new_event_loop, "tcp"),
    "unix": (corenet.new_event_loop, "unix"),
    "tls": (corenet.new_event_loop, "tls"),
    "memory": (corenet.new_event_loop, "memory"),
    "asyncio tcp": (asyncio.SelectorEventLoop, "tcp"),
    "asyncio tls": (asyncio.SelectorEventLoop, "tls"),
    "asyncio memory": (asyncio.SelectorEventLoop, "memory"),
}


@contextlib.asynccontextmanager
async def connected(
    kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext], protocol: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """The transport of `protocol` by way of `kind`, and the peer at its other end; both are closed after the block."""
    loop = asyncio.get_running_loop()
    peer: Any
    if kind == "memory":
        transport: Any = MemoryTransport(protocol)
        peer = MemoryPeer(transport, protocol)
    elif kind == "tls":
        here, there = tcp_pair()
        peer = BarePeer(there, contexts[0])
        shaking = asyncio.ensure_future(peer.handshake())
        transport, _ = await loop.create_connection(
            lambda: protocol, sock=here, ssl=contexts[1], server_hostname="localhost"
        )
        await shaking
    else:
        here, there = tcp_pair() if kind == "tcp" else socket.socketpair()
        there.setblocking(False)
        transport, _ = await loop.create_connection(lambda: protocol, sock=here)
        peer = BarePeer(there)
    try:
        yield transport, peer
    finally:
        peer.close()
        transport.abort()
        protocol.transport.abort()
        async with asyncio.timeout(TIMEOUT):
            await protocol.lost
        await turns(3)


async def finish(peer: Any, kind: str, end: str) -> None:
    """Send everything and end the stream as `end` says."""
    data = packed(*SENT)
    if end == "incomplete":
        data += HEAD.pack(50) + b"not all of it"
    elif end == "too large":
        data += HEAD.pack(1001) + b"whatever"
    if end == "at once":
        peer.send(data, close_notify=True)
        peer.end()
    elif end == "close_notify alone":
        peer.send(data, close_notify=True)
    elif end == "later":
        peer.send(data)
        await turns()
        peer.send(b"", close_notify=True)
        peer.end()
    elif end == "without close_notify":
        peer.send(data)
        peer.end()
    elif end == "reset":
        peer.send(data)
        if kind == "unix":
            # Data that is never read makes a reset of the end of a Unix socket.
            assert peer.sock.recv(1, socket.MSG_PEEK) == b"x"
            peer.close()
        else:
            peer.reset()
    elif end == "reset later":
        peer.send(data, close_notify=True)
        await turns()
        if kind == "unix":
            peer.close()
        else:
            peer.reset()
    else:
        peer.send(data, close_notify=True)
        peer.end()
    await turns()


ENDS = [
    "at once",
    "close_notify alone",
    "later",
    "without close_notify",
    "reset",
    "reset later",
    "incomplete",
    "too large",
]
PAUSES = ["never paused", "paused before", "paused in each batch", "resumed late", "never resumed"]


CASES = [
    (way, pause, end)
    for way in WAYS
    for pause in PAUSES
    for end in ENDS
    if "tls" in way or end not in ("close_notify alone", "without close_notify")
]


@pytest.mark.parametrize(("way", "pause", "end"), CASES)
def test_every_frame_is_delivered_or_connection_lost_has_the_reason(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], way: str, pause: str, end: str
) -> None:
    factory, kind = WAYS[way]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        protocol = Frames(LengthFramer(4, max_frame=1000), batch=2)
        gate = asyncio.Event()

        def on_batch(frames: list[Any]) -> None:
            assert "ended" not in protocol.events and not protocol.lost.done()
            protocol.pause_frames()
            if pause == "paused in each batch" or gate.is_set():
                loop.call_soon(protocol.resume_frames)

        async with connected(kind, contexts, protocol) as (_, peer):
            if pause == "paused before":
                protocol.pause_frames()
            elif pause != "never paused":
                protocol.on_batch = on_batch
            if end in ("reset", "reset later") and kind == "unix":
                protocol.transport.write(b"x")
            await finish(peer, kind, end)
            if pause == "paused before":
                assert protocol.frames == []
            elif pause in ("resumed late", "never resumed"):
                assert protocol.frames == SENT[: 2 if protocol.frames else 0]
            if pause == "never resumed":
                # No end has come that would hide what is missing.
                assert protocol.events == []
                assert not protocol.lost.done() or protocol.lost.result() is not None
                return
            gate.set()
            protocol.resume_frames()
            async with asyncio.timeout(TIMEOUT):
                error = await protocol.lost
        assert protocol.frames == SENT[: len(protocol.frames)]
        if "reset" in end and protocol.frames != SENT:
            # asyncio drops received data when a reset arrives; our transports read it first.
            assert way.startswith("asyncio")
            assert isinstance(error, ConnectionResetError)
            return
        assert protocol.frames == SENT, error
        if end == "reset":
            assert isinstance(error, ConnectionResetError)
        elif end == "incomplete":
            assert isinstance(error, IncompleteFrame)
        elif end == "too large":
            assert isinstance(error, FrameTooLarge)
        elif end != "reset later":
            assert error is None
            assert protocol.events == ["ended"]

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


@pytest.mark.parametrize("way", ["tls", "asyncio tls"])
@pytest.mark.parametrize("pause", [True, False])
def test_nothing_is_delivered_after_our_close(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], caplog: pytest.LogCaptureFixture, way: str, pause: bool
) -> None:
    async def main() -> None:
        protocol = Frames(batch=2)

        def on_batch(frames: list[Any]) -> None:
            if pause:
                protocol.pause_frames()
            protocol.transport.close()

        protocol.on_batch = on_batch
        async with connected("tls", contexts, protocol) as (_, peer):
            peer.send(packed(*SENT))
            await protocol.until(lambda: bool(protocol.frames))
            peer.send(b"", close_notify=True)
            peer.end()
            assert await protocol.lost is None
            assert (protocol.frames, protocol.events) == (SENT[:2], [])

    with asyncio.Runner(loop_factory=WAYS[way][0]) as runner:
        runner.run(main())
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


# --- the end that waits for frames on asyncio's TLS -------------------------------------------------------------------


def held_end(body: Callable[[Frames, Any], Any], contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Run `body(protocol, transport)` after the peer's close_notify came while seven frames were pending."""

    async def main() -> None:
        protocol = Frames(batch=2)
        protocol.on_batch = lambda frames: protocol.pause_frames()
        async with connected("tls", contexts, protocol) as (transport, peer):
            peer.send(packed(*SENT), close_notify=True)
            await protocol.until(lambda: bool(protocol.frames))
            peer.end()
            await turns()
            assert protocol.frames == SENT[:2]
            async with asyncio.timeout(TIMEOUT):
                await body(protocol, transport)

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        runner.run(main())


def test_undelivered_frames_are_reported_in_bytes(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferred_close, "FRAME_DELIVERY_TIMEOUT", 0)

    async def body(protocol: Frames, transport: Any) -> None:
        error = await protocol.lost
        assert isinstance(error, FrameError)
        assert "49 bytes of frames were not taken" in str(error)
        protocol.resume_frames()
        await turns()
        assert (protocol.frames, protocol.events) == (SENT[:2], [])

    held_end(body, contexts)


def test_the_end_waits_for_slowly_read_frames(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def body(protocol: Frames, transport: Any) -> None:
        while len(protocol.frames) < 8:
            protocol.resume_frames()
            await turns(3)
            # The timeout has expired, and some frames were read meanwhile.
            protocol.transport._expire()
            await turns(3)
            assert not protocol.lost.done()
        protocol.resume_frames()
        assert await protocol.lost is None
        assert (protocol.frames, protocol.events) == (SENT, ["ended"])

    held_end(body, contexts)


@pytest.mark.parametrize("way", ["close", "abort"])
def test_closing_drops_pending_frames(contexts: tuple[ssl.SSLContext, ssl.SSLContext], way: str) -> None:
    async def body(protocol: Frames, transport: Any) -> None:
        assert protocol.transport.get_protocol() is protocol
        assert protocol.transport.get_extra_info("sslcontext") is contexts[1]
        assert not protocol.transport.is_closing()
        getattr(protocol.transport, way)()
        assert protocol.transport.is_closing()
        protocol.resume_frames()
        assert await protocol.lost is None
        await turns()
        assert (protocol.frames, protocol.events) == (SENT[:2], [])

    held_end(body, contexts)


def test_a_close_among_pending_frames(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def body(protocol: Frames, transport: Any) -> None:
        protocol.on_batch = lambda frames: protocol.transport.close()
        protocol.resume_frames()
        assert await protocol.lost is None
        assert (protocol.frames, protocol.events) == (SENT[:4], [])

    held_end(body, contexts)


def test_an_error_among_pending_frames(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def body(protocol: Frames, transport: Any) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: None)
        protocol.on_batch = lambda frames: 1 // 0  # type: ignore[assignment,return-value]
        protocol.resume_frames()
        assert isinstance(await protocol.lost, ZeroDivisionError)
        assert (protocol.frames, protocol.events) == (SENT[:4], [])

    held_end(body, contexts)


def test_the_transport_below_may_have_ended(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """It is the one that `connection_made` got, and a program may have kept it."""

    async def body(protocol: Frames, transport: Any) -> None:
        protocol.frames_ended = lambda: protocol.events.append("ended") or True  # type: ignore[func-returns-value,method-assign]
        for _ in range(2):  # asyncio's transport forgets its connection when it is closed once more
            transport.close()
        await turns()
        protocol.on_batch = lambda frames: None
        protocol.resume_frames()
        assert await protocol.lost is None
        assert (protocol.frames, protocol.events) == (SENT, ["ended"])

    held_end(body, contexts)


def test_another_protocol_gets_the_pending_frames(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def body(protocol: Frames, transport: Any) -> None:
        successor = Frames()
        protocol.switch_protocol(successor)
        await successor.lost
        assert (successor.frames, successor.events) == (SENT[2:], ["ended"])
        assert not protocol.lost.done()
        protocol.lost.set_result(None)

    held_end(body, contexts)


def test_frames_ended_cannot_keep_tls_open(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def body(protocol: Frames, transport: Any) -> None:
        protocol.on_batch = lambda frames: None
        protocol.frames_ended = lambda: protocol.events.append("ended") or True  # type: ignore[func-returns-value,method-assign]
        protocol.resume_frames()
        assert await protocol.lost is None
        assert (protocol.frames, protocol.events) == (SENT, ["ended"])

    held_end(body, contexts)


def test_an_end_inside_a_callback_is_delivered_after_it(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """A transport in memory may deliver from within a write."""

    async def main() -> None:
        protocol = Frames()
        async with connected("memory", contexts, protocol) as (_, peer):

            def on_batch(frames: list[Any]) -> None:
                peer.end()
                assert protocol.events == []

            protocol.on_batch = on_batch
            peer.send(packed(*SENT))
            assert await protocol.lost is None
            assert (protocol.frames, protocol.events) == (SENT, ["ended"])

    corenet.run(main())
