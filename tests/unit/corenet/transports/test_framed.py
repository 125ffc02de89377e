"""FramedProtocol on the standard loop and on ours: frames, batches, limits, pausing, the end, other protocols, TLS.

One body judges both ways in: received blocks on our streams, ``data_received`` on any other transport. What only our
transports have (write_frame, set_protocol that loses nothing) is tested on ours alone.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import pytest
from support.certs import Authority
from support.twin import loop_factory, twin

import corenet
from corenet import (
    DelimiterFramer,
    FixedFramer,
    FramedProtocol,
    FrameError,
    FrameTooLarge,
    FrameView,
    IncompleteFrame,
    LengthFramer,
)

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]
HEAD = struct.Struct(">I")


def packed(*payloads: bytes) -> bytes:
    """A stream of frames with four bytes of length."""
    return b"".join(HEAD.pack(len(payload)) + payload for payload in payloads)


class Frames(FramedProtocol):
    """Notes every batch and lets a test wait."""

    def __init__(self, framer: Any = None, **options: Any) -> None:
        super().__init__(framer or LengthFramer(4, max_frame=1 << 22), **options)
        self.batches: list[list[Any]] = []
        self.events: list[str] = []
        self.changed = asyncio.Event()
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.on_batch: Callable[[list[Any]], None] = lambda frames: None

    @property
    def frames(self) -> list[bytes]:
        return [bytes(frame) for batch in self.batches for frame in batch]

    def frames_received(self, frames: list[Any]) -> None:
        self.batches.append(frames)
        self.changed.set()
        self.on_batch(frames)

    def frames_ended(self) -> bool | None:
        self.events.append("ended")
        self.changed.set()
        return None

    def pause_writing(self) -> None:
        self.events.append("pause")
        self.changed.set()

    def resume_writing(self) -> None:
        self.events.append("resume")
        self.changed.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.set_result(exc)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self.changed.clear()
            await self.changed.wait()


class Plain(asyncio.Protocol):
    """Collects bytes."""

    def __init__(self) -> None:
        self.data = b""
        self.ended = False
        self.changed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.changed.set()

    def eof_received(self) -> None:
        self.ended = True
        self.changed.set()

    async def until(self, size: int) -> bytes:
        while len(self.data) < size:
            self.changed.clear()
            await self.changed.wait()
        return self.data


class Buffered(asyncio.BufferedProtocol):
    """Collects bytes by way of a buffer of three."""

    def __init__(self) -> None:
        self.room = bytearray(3)
        self.data = b""

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.room

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.room[:nbytes]


async def connect(protocol: Any) -> tuple[Any, socket.socket]:
    """The transport of `protocol` and the bare socket at its other end."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    there.setblocking(False)
    transport, _ = await loop.create_connection(lambda: protocol, sock=here)
    return transport, there


def with_peer(body: Callable[[Any, socket.socket], Any], *arguments: Any, **options: Any) -> Any:
    """Run `body(protocol, peer)` with a connected Frames, then see that the connection ends."""

    async def main() -> Any:
        protocol = Frames(*arguments, **options)
        transport, peer = await connect(protocol)
        try:
            return await asyncio.wait_for(body(protocol, peer), 10)
        finally:
            peer.close()
            transport.close()
            await asyncio.wait_for(protocol.lost, 10)

    return main()


def send(peer: socket.socket, data: bytes) -> Any:
    return asyncio.get_running_loop().sock_sendall(peer, data)


async def receive(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await asyncio.get_running_loop().sock_recv(peer, size - len(data))
        if not piece:
            break
        data += piece
    return data


# --- receiving ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("views", "kind"), [(True, FrameView), (False, bytes)])
def test_frames_come_whole_in_batches(twin: Twin, views: bool, kind: type) -> None:
    large = bytes(range(256)) * 4000

    async def body(protocol: Frames, peer: socket.socket) -> None:
        await send(peer, packed(b"one", b"", b"three") + b"\0")
        await protocol.until(lambda: len(protocol.frames) == 3)
        assert len(protocol.batches) == 1
        assert {type(frame) for frame in protocol.batches[0]} == {kind}
        await send(peer, b"\0\0\4four" + packed(large))
        await protocol.until(lambda: len(protocol.frames) == 5)
        assert protocol.frames == [b"one", b"", b"three", b"four", large]
        assert all(type(frame) is kind for batch in protocol.batches for frame in batch)

    twin(with_peer(body, views=views))


def test_views_are_valid_as_long_as_they_are_held(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        for number in range(200):
            await send(peer, packed(bytes([number]) * 3000))
            await protocol.until(lambda number=number: len(protocol.batches) > number)  # type: ignore[misc]
        assert protocol.frames == [bytes([number]) * 3000 for number in range(200)]

    twin(with_peer(body))


@pytest.mark.parametrize(
    ("framer", "stream", "frames"),
    [
        (lambda: DelimiterFramer(b"\r\n"), b"GET\r\n\r\nend\r\n", [b"GET", b"", b"end"]),
        (lambda: FixedFramer(3), b"abcdef", [b"abc", b"def"]),
        (lambda: LengthFramer(2, big_endian=False), b"\1\0x\2\0yz", [b"x", b"yz"]),
    ],
)
def test_every_framer(twin: Twin, framer: Any, stream: bytes, frames: list[bytes]) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        for at in range(len(stream)):
            await send(peer, stream[at : at + 1])
        await protocol.until(lambda: len(protocol.frames) == len(frames))
        assert protocol.frames == frames
        protocol.write_frames(frames)
        assert await receive(peer, len(stream)) == stream

    async def main() -> None:
        await with_peer(body, framer())

    twin(main())


def test_batches_are_bounded(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        await send(peer, packed(*[b"x"] * 10))
        await protocol.until(lambda: len(protocol.frames) == 10)
        assert max(map(len, protocol.batches)) <= 4

    twin(with_peer(body, batch=4))


def test_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="framer must be"):
        FramedProtocol("\n")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch"):
        FramedProtocol(FixedFramer(1), batch=0)
    with pytest.raises(RuntimeError, match="before connection_made"):
        FramedProtocol(FixedFramer(1)).write_frame(b"x")


# --- faults and the end -------------------------------------------------------------------------------------------


def test_a_frame_over_the_limit_ends_the_connection_with_the_reason(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        await send(peer, packed(b"good") + HEAD.pack(101) + b"x" * 50)
        error = await protocol.lost
        assert isinstance(error, FrameTooLarge)
        assert "101 bytes is over the limit of 100" in str(error)
        assert protocol.frames == [b"good"]
        assert await receive(peer, 1) == b""

    async def main() -> None:
        await with_peer(body, LengthFramer(4, max_frame=100))

    twin(main())


def test_a_line_without_end_is_refused_when_it_passes_the_limit(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        await send(peer, b"x" * 1000)
        assert isinstance(await protocol.lost, FrameTooLarge)
        assert protocol.frames == []

    async def main() -> None:
        await with_peer(body, DelimiterFramer(b"\n", max_frame=100))

    twin(main())


def test_the_end_between_frames(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        await send(peer, packed(b"last"))
        peer.shutdown(socket.SHUT_WR)
        assert await protocol.lost is None
        assert (protocol.frames, protocol.events) == ([b"last"], ["ended"])

    twin(with_peer(body))


def test_our_direction_stays_open_when_frames_ended_says_so(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.frames_ended = lambda: protocol.events.append("ended") or True  # type: ignore[func-returns-value,method-assign]
        peer.shutdown(socket.SHUT_WR)
        while not protocol.events:
            await asyncio.sleep(0)
        protocol.write_frame(b"answer")
        assert await receive(peer, 10) == packed(b"answer")

    twin(with_peer(body))


def test_the_end_inside_a_frame_is_reported(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        await send(peer, packed(b"whole") + b"\0\0\0\4ab")
        peer.shutdown(socket.SHUT_WR)
        error = await protocol.lost
        assert isinstance(error, IncompleteFrame)
        assert error.pending == 6
        assert (protocol.frames, protocol.events) == ([b"whole"], [])

    twin(with_peer(body))


def test_an_error_in_the_callback_ends_the_connection(loop_factory: Any) -> None:
    reported = []

    async def body(protocol: Frames, peer: socket.socket) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        protocol.on_batch = lambda frames: 1 // 0  # type: ignore[assignment,return-value]
        await send(peer, packed(b"x"))
        assert isinstance(await protocol.lost, ZeroDivisionError)

    with asyncio.Runner(loop_factory=loop_factory) as runner:

        async def main() -> None:
            await with_peer(body)

        runner.run(main())
    assert [type(error) for error in reported] == [ZeroDivisionError]


def test_an_error_after_a_pause_ends_the_connection(loop_factory: Any) -> None:
    reported = []

    async def body(protocol: Frames, peer: socket.socket) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        protocol.on_batch = lambda frames: protocol.pause_frames()
        await send(peer, packed(b"1", b"2"))
        await protocol.until(lambda: len(protocol.frames) == 1)
        protocol.on_batch = lambda frames: 1 // 0  # type: ignore[assignment,return-value]
        protocol.resume_frames()
        assert isinstance(await protocol.lost, ZeroDivisionError)

    with asyncio.Runner(loop_factory=loop_factory) as runner:

        async def main() -> None:
            await with_peer(body, batch=1)

        runner.run(main())
    assert [type(error) for error in reported] == [ZeroDivisionError]


def test_nothing_comes_after_close(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.on_batch = lambda frames: protocol.transport.close()
        await send(peer, packed(b"1", b"2", b"3"))
        assert await protocol.lost is None
        assert protocol.frames == [b"1"]

    twin(with_peer(body, batch=1))


# --- pausing ------------------------------------------------------------------------------------------------------


def test_pausing_takes_effect_after_the_batch_and_loses_nothing(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.on_batch = lambda frames: protocol.pause_frames()
        await send(peer, packed(b"1", b"22", b"333"))
        for number in (1, 2, 3):
            await protocol.until(lambda number=number: len(protocol.frames) == number)  # type: ignore[misc]
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(protocol.frames) == number
            assert protocol.pending == (5, 3, 0)[number - 1]
            assert not protocol.transport.is_reading()
            protocol.resume_frames()
        assert protocol.frames == [b"1", b"22", b"333"]
        await send(peer, packed(b"4"))
        await protocol.until(lambda: len(protocol.frames) == 4)

    twin(with_peer(body, batch=1))


def test_a_paused_peer_stops_sending(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.pause_frames()
        sending = asyncio.ensure_future(send(peer, packed(bytes(1 << 20)) * 4))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not sending.done()
        assert (protocol.frames, protocol.pending) == ([], 0)
        protocol.resume_frames()
        await sending
        await protocol.until(lambda: len(protocol.frames) == 4)

    twin(with_peer(body))


def test_the_end_waits_for_frames_held_back(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.on_batch = lambda frames: protocol.pause_frames()
        await send(peer, packed(b"1", b"2") + b"\0\0")
        peer.shutdown(socket.SHUT_WR)
        for number in (1, 2):
            await protocol.until(lambda number=number: len(protocol.frames) == number)  # type: ignore[misc]
            assert not protocol.lost.done()
            protocol.resume_frames()
        assert isinstance(await protocol.lost, IncompleteFrame)

    twin(with_peer(body, batch=1))


def test_a_fault_waits_for_frames_held_back(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.on_batch = lambda frames: protocol.pause_frames()
        await send(peer, packed(b"1", b"2") + b"\xff\xff\xff\xff")
        for number in (1, 2):
            await protocol.until(lambda number=number: len(protocol.frames) == number)  # type: ignore[misc]
            assert not protocol.lost.done()
            protocol.resume_frames()
        assert isinstance(await protocol.lost, FrameTooLarge)

    twin(with_peer(body, batch=1))


# --- sending ------------------------------------------------------------------------------------------------------


def test_frames_are_written_whole_and_in_order(twin: Twin) -> None:
    large = bytes(range(256)) * 400

    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.write_frame(b"small")
        protocol.write_frame(large)
        protocol.write_frames([b"", bytearray(b"mutable"), memoryview(large)[:9000], large, b"end"])
        protocol.write_frames(frame for frame in (b"generated",))
        want = packed(b"small", large, b"", b"mutable", large[:9000], large, b"end", b"generated")
        assert await receive(peer, len(want)) == want

    twin(with_peer(body))


def test_views_are_sent_back_without_a_copy_of_theirs(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.on_batch = protocol.write_frames
        stream = packed(b"a", bytes(20000), b"b" * 30000)
        sending = asyncio.ensure_future(send(peer, stream * 5))
        assert await receive(peer, 5 * len(stream)) == stream * 5
        await sending

    twin(with_peer(body))


def test_what_cannot_be_a_frame_is_refused_and_nothing_is_sent(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        with pytest.raises(FrameTooLarge):
            protocol.write_frames([b"good", b"x" * 101])
        with pytest.raises(FrameTooLarge):
            protocol.write_frame(bytes(20000))
        with pytest.raises(TypeError):
            protocol.write_frame("text")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            protocol.write_frames(b"bytes")  # type: ignore[arg-type]
        protocol.write_frame(b"next")
        assert await receive(peer, 8) == packed(b"next")

    async def main() -> None:
        await with_peer(body, LengthFramer(4, max_frame=100))

    twin(main())


def test_marks_hold_for_frames(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        count = 0
        while "pause" not in protocol.events:
            protocol.write_frames([bytes(10000)] * 10)
            count += 10
        assert protocol.transport.get_write_buffer_size() > 65536
        want = packed(bytes(10000)) * count
        assert await receive(peer, len(want)) == want
        await protocol.until(lambda: "resume" in protocol.events)

    twin(with_peer(body))


def test_transports_of_ours_write_frames() -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.transport.write_frame(b"one")
        protocol.transport.write_frames([b"two", bytes(20000)])
        want = packed(b"one", b"two", bytes(20000))
        assert await receive(peer, len(want)) == want
        protocol.transport.write_eof()
        with pytest.raises(RuntimeError, match="after write_eof"):
            protocol.transport.write_frame(b"x")

    corenet.run(with_peer(body))


def test_other_protocols_have_no_frames() -> None:
    async def main() -> None:
        transport, peer = await connect(Plain())
        with pytest.raises(TypeError, match="Plain has no framing"):
            transport.write_frame(b"x")
        transport.abort()
        peer.close()
        await asyncio.sleep(0)

    corenet.run(main())


# --- another protocol takes over ----------------------------------------------------------------------------------


@pytest.mark.parametrize("successor", [Plain, Buffered])
def test_hand_over_gives_everything_not_taken(twin: Twin, successor: Any) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        new = successor()

        def switch(frames: list[Any]) -> None:
            at = frames.index(b"upgrade") + 1
            protocol.hand_over(new, frames[at:])

        protocol.on_batch = switch
        rest = packed(b"x") + b"\xff\xff\xff\xffraw"
        await send(peer, packed(b"hello", b"upgrade") + rest)
        while len(new.data) < len(rest):
            await asyncio.sleep(0)
        assert new.data == rest
        await send(peer, b"more")
        while len(new.data) < len(rest) + 4:
            await asyncio.sleep(0)
        assert new.data == rest + b"more"
        protocol.lost.set_result(None)

    twin(with_peer(body))


def test_hand_over_outside_of_a_callback_while_paused(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.on_batch = lambda frames: protocol.pause_frames()
        await send(peer, packed(b"1", b"2", b"3") + b"\0\0\0\7part")
        await protocol.until(lambda: len(protocol.frames) == 1)
        new = Plain()
        protocol.hand_over(new)
        rest = packed(b"2", b"3") + b"\0\0\0\7part"
        assert await new.until(len(rest)) == rest
        await send(peer, b"!")
        assert await new.until(len(rest) + 1) == rest + b"!"
        protocol.lost.set_result(None)

    twin(with_peer(body, batch=1))


def test_from_lines_to_lengths_and_back_by_set_protocol(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        lengths = Frames()
        lines = Frames(DelimiterFramer(b"\n"))
        protocol.on_batch = lambda frames: protocol.hand_over(lengths)
        lengths.on_batch = lambda frames: lengths.hand_over(lines)
        stream = b"to lengths\n" + packed(b"to\nlines") + b"one\ntwo"
        await send(peer, stream)
        await send(peer, b"\n")
        await lines.until(lambda: len(lines.frames) == 2)
        assert (protocol.frames, lengths.frames, lines.frames) == ([b"to lengths"], [b"to\nlines"], [b"one", b"two"])
        assert lines.transport is protocol.transport
        lines.write_frame(b"answer")
        assert await receive(peer, 7) == b"answer\n"
        protocol.lost.set_result(None)

    async def main() -> None:
        await with_peer(body, DelimiterFramer(b"\n"), batch=1)

    twin(main())


def test_set_protocol_of_our_transports_hands_over() -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        new = Plain()
        await send(peer, packed(b"1") + b"\0\0\0")
        await protocol.until(lambda: len(protocol.frames) == 1)
        protocol.transport.set_protocol(new)
        assert new.data == b"\0\0\0"
        back = Frames()
        protocol.transport.set_protocol(back)
        assert back.transport is protocol.transport
        await send(peer, packed(b"2"))
        await back.until(lambda: back.frames == [b"2"])
        protocol.lost.set_result(None)

    corenet.run(with_peer(body))


# --- TLS ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context and a client's that trusts it."""
    authority = Authority(tmp_path_factory.mktemp("framed"))
    leaf = authority.leaf("localhost")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(leaf.certificate, leaf.key)
    return server, ssl.create_default_context(cafile=str(authority.cafile))


def test_over_tls(twin: Twin, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ends: list[Frames] = []

        def serve() -> Frames:
            end = Frames()
            end.on_batch = end.write_frames
            ends.append(end)
            return end

        server = await loop.create_server(serve, "127.0.0.1", 0, ssl=contexts[0])
        transport, client = await loop.create_connection(
            Frames, *server.sockets[0].getsockname(), ssl=contexts[1], server_hostname="localhost"
        )
        large = bytes(range(256)) * 500
        client.write_frames([b"small", large])
        if hasattr(transport, "write_frame"):
            transport.write_frame(b"end")
        else:
            client.write_frame(b"end")
        await client.until(lambda: len(client.frames) == 3)
        assert client.frames == [b"small", large, b"end"]
        assert type(client.batches[0][0]) is FrameView
        client.write_frame(bytes(20))
        transport.write(b"\0\0\0\4ab")
        transport.close()
        assert isinstance(await ends[0].lost, IncompleteFrame)
        await client.lost
        server.close()
        await server.wait_closed()

    twin(main())


def test_a_frame_over_the_limit_in_tls(twin: Twin, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        ends: list[Frames] = []

        def serve() -> Frames:
            ends.append(Frames(LengthFramer(4, max_frame=100)))
            return ends[0]

        server = await loop.create_server(serve, "127.0.0.1", 0, ssl=contexts[0])
        transport, client = await loop.create_connection(
            Frames, *server.sockets[0].getsockname(), ssl=contexts[1], server_hostname="localhost"
        )
        client.write_frames([b"good", b"x" * 101])
        assert isinstance(await ends[0].lost, FrameTooLarge)
        assert ends[0].frames == [b"good"]
        await client.lost
        transport.close()
        server.close()
        await server.wait_closed()

    twin(main())


@pytest.mark.parametrize("by_loop", [False, True])
def test_upgrade_to_tls(loop_factory: Any, contexts: tuple[ssl.SSLContext, ssl.SSLContext], by_loop: bool) -> None:
    """By the protocol's own start_tls on any loop; by the loop's, where only ours tells the protocol its transport."""
    if by_loop and loop_factory is not corenet.new_event_loop:
        loop_factory = corenet.new_event_loop

    async def upgrade(end: Frames, context: ssl.SSLContext, **options: Any) -> None:
        if by_loop:
            await asyncio.get_running_loop().start_tls(end.transport, end, context, **options)
        else:
            await end.start_tls(context, **options)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        here, there = socket.socketpair()
        client, server = Frames(), Frames()
        await loop.create_connection(lambda: client, sock=here)
        await loop.create_connection(lambda: server, sock=there)
        client.write_frame(b"plain")
        await server.until(lambda: server.frames == [b"plain"])
        plain = server.transport
        await asyncio.gather(
            upgrade(server, contexts[0], server_side=True),
            upgrade(client, contexts[1], server_hostname="localhost"),
        )
        assert server.transport is not plain
        client.write_frames([b"secret", bytes(50000)])
        await server.until(lambda: len(server.frames) == 3)
        server.write_frame(b"answer")
        await client.until(lambda: client.frames == [b"answer"])
        assert server.frames == [b"plain", b"secret", bytes(50000)]
        client.transport.close()
        await asyncio.gather(client.lost, server.lost)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(asyncio.wait_for(main(), 10))


def test_plaintext_never_counts_as_encrypted(twin: Twin, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.on_batch = lambda frames: protocol.pause_frames()
        await send(peer, packed(b"start tls", b"injected"))
        await protocol.until(lambda: len(protocol.frames) == 1)
        with pytest.raises((FrameError, ssl.SSLError)):
            await protocol.start_tls(contexts[0], server_side=True)
        await protocol.lost
        assert protocol.frames == [b"start tls"]

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        await with_peer(body, batch=1)

    twin(main())
