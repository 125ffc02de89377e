"""A FramedProtocol is replaced by another protocol, another framer or TLS; no byte is lost or delivered twice.

What was received and not delivered as frames goes to the successor, in plaintext only. The bodies run on the standard
loop and on ours; only ours has a `set_protocol` that loses nothing.
"""

import asyncio
import io
import socket
import ssl
from typing import Any

import pytest
from support.framed import Buffered, Frames, Plain, Twin, contexts, packed, receive, send, with_peer
from support.twin import loop_factory, twin

import corenet
from corenet import DelimiterFramer, FrameError, FrameTooLarge, FrameView, IncompleteFrame, LengthFramer

__all__ = ["contexts", "loop_factory", "twin"]


# --- another protocol takes over ----------------------------------------------------------------------------------


@pytest.mark.parametrize("successor", [Plain, Buffered])
def test_hand_over_returns_all_undelivered_bytes(twin: Twin, successor: Any) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        new = successor()

        def switch(frames: list[Any]) -> None:
            at = frames.index(b"upgrade") + 1
            protocol.switch_protocol(new, frames[at:])

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
        protocol.switch_protocol(new)
        rest = packed(b"2", b"3") + b"\0\0\0\7part"
        assert await new.until(len(rest)) == rest
        await send(peer, b"!")
        assert await new.until(len(rest) + 1) == rest + b"!"
        protocol.lost.set_result(None)

    twin(with_peer(body, batch=1))


@pytest.mark.parametrize("successor", [Plain, Frames])
def test_hand_over_while_going_on_after_a_pause(twin: Twin, successor: Any) -> None:
    """Reading, which is to resume after the pending frames, resumes for the successor."""

    async def body(protocol: Frames, peer: socket.socket) -> None:
        heir = successor()
        protocol.on_batch = lambda frames: protocol.pause_frames()
        await send(peer, packed(b"1", b"2"))
        await protocol.until(lambda: len(protocol.frames) == 1)
        protocol.on_batch = lambda frames: protocol.switch_protocol(heir)
        protocol.resume_frames()
        await protocol.until(lambda: len(protocol.frames) == 2)
        await send(peer, packed(b"3"))
        if successor is Plain:
            assert await heir.until(5) == packed(b"3")
        else:
            await heir.until(lambda: bool(heir.frames))
            assert heir.frames == [b"3"]
        protocol.lost.set_result(None)

    twin(with_peer(body, batch=1))


def test_from_lines_to_lengths_and_back_by_set_protocol(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        lengths = Frames()
        lines = Frames(DelimiterFramer(b"\n"))
        protocol.on_batch = lambda frames: protocol.switch_protocol(lengths)
        lengths.on_batch = lambda frames: lengths.switch_protocol(lines)
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


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("last", ["plain", "buffered", "frames", "itself"])
def test_the_last_protocol_set_in_a_callback_gets_the_rest(
    last: str, tls: bool, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        protocol = Frames(batch=1)
        skipped, another = Plain(), Frames(batch=1)
        heir: Any = {"plain": Plain(), "buffered": Buffered(), "frames": another, "itself": protocol}[last]

        def switch(frames: list[Any]) -> None:
            protocol.on_batch = lambda frames: None
            protocol.transport.set_protocol(skipped)
            protocol.transport.set_protocol(heir)

        protocol.on_batch = switch
        server = await loop.create_server(lambda: protocol, "127.0.0.1", 0, ssl=contexts[0] if tls else None)
        transport, _ = await loop.create_connection(
            Plain, *server.sockets[0].getsockname(), ssl=contexts[1] if tls else None,
            server_hostname="localhost" if tls else None,
        )
        transport.write(packed(b"1", b"2", b"3"))
        if isinstance(heir, Frames):
            await heir.until(lambda: heir.frames[-1:] == [b"3"])
            assert heir.frames == ([b"1", b"2", b"3"] if last == "itself" else [b"2", b"3"])
        else:
            while len(heir.data) < 10:
                await asyncio.sleep(0)
            assert heir.data == packed(b"2", b"3")
        assert skipped.data == b""
        transport.close()
        server.close()
        await server.wait_closed()

    corenet.run(asyncio.wait_for(main(), 30))


def test_the_rest_follows_a_protocol_that_is_replaced_while_it_gets_it() -> None:
    class Narrow(asyncio.BufferedProtocol):
        """Reads three bytes, then sets `heir` as protocol."""

        def __init__(self) -> None:
            self.buffer = bytearray(3)

        def get_buffer(self, sizehint: int) -> bytearray:
            return self.buffer

        def buffer_updated(self, nbytes: int) -> None:
            protocol.transport.set_protocol(heir)

    heir = Plain()
    protocol: Any = None

    async def body(frames: Frames, peer: socket.socket) -> None:
        nonlocal protocol
        protocol = frames
        protocol.on_batch = lambda batch: protocol.switch_protocol(Narrow())
        await send(peer, packed(b"1", b"2", b"3"))
        assert await heir.until(7) == packed(b"2", b"3")[3:]
        protocol.lost.set_result(None)

    corenet.run(with_peer(body, batch=1))


# --- TLS ----------------------------------------------------------------------------------------------------------


def test_hand_over_on_tls(twin: Twin, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
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
    """By the protocol's start_tls on any loop; by the loop's start_tls only ours sets the protocol's transport."""
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
        runner.run(asyncio.wait_for(main(), 30))


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


# --- a file by hand -----------------------------------------------------------------------------------------------


async def file_sent(protocol: Frames, peer: socket.socket) -> None:
    """For an object that is not an OS file, asyncio reads and writes itself, and sets its own protocol meanwhile."""
    with io.BytesIO(b"FILE") as file:
        assert await asyncio.get_running_loop().sendfile(protocol.transport, file) == 4
    assert await receive(peer, 4) == b"FILE"
    assert protocol.transport.get_protocol() is protocol


def test_half_a_frame_is_kept_during_a_sendfile(twin: Twin) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        await send(peer, b"\0\0\0\x0ahalf-")
        while protocol.pending < 5:
            await asyncio.sleep(0)
        await file_sent(protocol, peer)
        assert not protocol.frames
        await send(peer, b"frame" + packed(b"next"))
        await protocol.until(lambda: len(protocol.frames) == 2)
        assert protocol.frames == [b"half-frame", b"next"]

    twin(with_peer(body))


@pytest.mark.parametrize("resumed", ["behind", "before", "during"])
def test_paused_frames_are_kept_during_a_sendfile(twin: Twin, resumed: str) -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.on_batch = lambda frames: protocol.pause_frames()
        await send(peer, packed(b"1", b"2", b"3"))
        await protocol.until(lambda: len(protocol.frames) == 1)
        protocol.on_batch = lambda frames: None
        if resumed == "before":
            protocol.resume_frames()
        sending = asyncio.ensure_future(file_sent(protocol, peer))
        await asyncio.sleep(0)
        if resumed == "during":
            protocol.resume_frames()
        await sending
        if resumed == "behind":
            assert protocol.frames == [b"1"]
            protocol.resume_frames()
        await send(peer, packed(b"4"))
        await protocol.until(lambda: len(protocol.frames) == 4)
        assert protocol.frames == [b"1", b"2", b"3", b"4"]

    twin(with_peer(body, batch=1))


def test_frames_over_tls_are_kept_during_a_sendfile(
    twin: Twin, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        end = Frames()
        server = await loop.create_server(lambda: end, "127.0.0.1", 0, ssl=contexts[0])
        transport, client = await loop.create_connection(
            Plain, *server.sockets[0].getsockname(), ssl=contexts[1], server_hostname="localhost"
        )
        transport.write(b"\0\0\0\x0ahalf-")
        while end.pending < 5:
            await asyncio.sleep(0)
        with io.BytesIO(b"FILE") as file:
            assert await loop.sendfile(end.transport, file) == 4
        assert await client.until(4) == b"FILE"
        transport.write(b"frame")
        await end.until(lambda: end.frames == [b"half-frame"])
        transport.close()
        await end.lost
        server.close()
        await server.wait_closed()

    twin(main())


def test_a_successor_that_fails_leaves_everything_unchanged() -> None:
    """`set_protocol` of our transports raises the successor's exception, and the previous protocol may be set again."""

    class Unwilling(Plain):
        def data_received(self, data: bytes) -> None:
            raise ZeroDivisionError

    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.on_batch = lambda frames: protocol.pause_frames()
        await send(peer, packed(b"1", b"2") + b"\0\0\0\4ha")
        await protocol.until(lambda: len(protocol.frames) == 1)
        protocol.on_batch = lambda frames: None
        with pytest.raises(ZeroDivisionError):
            protocol.transport.set_protocol(Unwilling())
        protocol.transport.set_protocol(protocol)
        await send(peer, b"lf")
        await protocol.until(lambda: len(protocol.frames) == 3)
        assert protocol.frames == [b"1", b"2", b"half"]

    corenet.run(with_peer(body, batch=1))
