"""FramedProtocol on the standard loop and on ours: frames, batches, limits, pausing, the end, writing.

One test body covers both ways of receiving: into blocks on our streams, by ``data_received`` on other transports. What
only our transports have (write_frame, a pause between the frames of a batch) is tested on ours only.
"""

import asyncio
import socket
from typing import Any

import pytest
from support.framed import HEAD, Frames, Plain, Twin, connect, contexts, packed, receive, send, with_peer
from support.twin import loop_factory, twin

import corenet
from corenet import (
    DelimiterFramer,
    FixedFramer,
    FramedProtocol,
    FrameTooLarge,
    FrameView,
    IncompleteFrame,
    LengthFramer,
)

__all__ = ["contexts", "loop_factory", "twin"]


# --- receiving ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("views", "kind"), [(True, FrameView), (False, bytes)])
def test_complete_frames_are_delivered_in_batches(twin: Twin, views: bool, kind: type) -> None:
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
def test_every_framer_works_on_every_transport(twin: Twin, framer: Any, stream: bytes, frames: list[bytes]) -> None:
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
    protocol = FramedProtocol(FixedFramer(1))
    for use in (lambda: protocol.write_frame(b"x"), lambda: protocol.switch_protocol(asyncio.Protocol())):
        with pytest.raises(RuntimeError, match="before connection_made"):
            use()
    with pytest.raises(RuntimeError, match="before connection_made"):
        corenet.run(protocol.start_tls(None))


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


def test_an_end_between_frames_is_clean(twin: Twin) -> None:
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


def test_no_frames_are_delivered_after_close(twin: Twin) -> None:
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


def test_a_pause_before_the_connection_is_kept(twin: Twin) -> None:
    async def main() -> None:
        ready = Frames()
        ready.pause_frames()
        ready.resume_frames()
        protocol = Frames()
        protocol.pause_frames()
        for each in (ready, protocol):
            transport, peer = await connect(each)
            await send(peer, packed(b"1", b"22"))
            if each is ready:
                await each.until(lambda: len(ready.frames) == 2)
            else:
                while transport.is_reading():
                    await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert not protocol.frames
                assert protocol.pending == 3
                protocol.resume_frames()
                await protocol.until(lambda: len(protocol.frames) == 2)
                await send(peer, packed(b"3"))
                await protocol.until(lambda: len(protocol.frames) == 3)
            transport.close()
            await each.lost
            peer.close()

    twin(main())


@pytest.mark.parametrize("encrypted", [False, True])
def test_pausing_the_transport_holds_frames_back_as_well(contexts: Any, encrypted: bool) -> None:
    ours, theirs = contexts if encrypted else (None, None)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Frames] = loop.create_future()

        def factory() -> Frames:
            protocol = Frames(batch=1)
            made.set_result(protocol)
            return protocol

        server = await loop.create_server(factory, "127.0.0.1", 0, ssl=ours)
        options = {"ssl": theirs, "server_hostname": "localhost"} if encrypted else {}
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), **options)
        writer.write(packed(b"0"))
        protocol = await made
        await protocol.until(lambda: len(protocol.frames) == 1)
        transport = protocol.transport
        protocol.on_batch = lambda frames: transport.pause_reading()
        # Each read brings more frames than are handed on between two pauses: what waits must not grow.
        writer.write(packed(*(str(number).encode() for number in range(1, 9))))
        for number in range(2, 9):
            await protocol.until(lambda number=number: len(protocol.frames) == number)  # type: ignore[misc]
            writer.write(packed(b"more"))
            for _ in range(5):
                await asyncio.sleep(0)
            assert len(protocol.frames) == number
            assert protocol.pending == 9 - number
            assert not transport.is_reading()
            if number == 3:
                protocol.pause_frames()
                transport.resume_reading()  # the other pause still holds
                for _ in range(5):
                    await asyncio.sleep(0)
                assert len(protocol.frames) == number
                protocol.resume_frames()
            elif number == 5:
                transport.resume_reading()
                transport.pause_reading()  # before anything was handed on
                for _ in range(5):
                    await asyncio.sleep(0)
                assert len(protocol.frames) == number
                transport.resume_reading()
            else:
                transport.resume_reading()
        protocol.on_batch = lambda frames: (transport.pause_reading(), transport.resume_reading())[0]
        await protocol.until(lambda: len(protocol.frames) == 16)
        assert transport.is_reading()
        writer.write(packed(b"last"))
        await protocol.until(lambda: len(protocol.frames) == 17)
        assert protocol.frames == [str(n).encode() for n in range(9)] + [b"more"] * 7 + [b"last"]
        writer.close()
        assert await protocol.lost is None
        server.close()

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 30))


def test_a_successor_continues_reading_when_the_transport_was_to_resume() -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.on_batch = lambda frames: protocol.transport.pause_reading()
        await send(peer, packed(b"1", b"2", b"3"))
        await protocol.until(lambda: len(protocol.frames) == 1)
        protocol.transport.resume_reading()
        new = Plain()
        protocol.transport.set_protocol(new)
        await send(peer, b"!")
        assert await new.until(11) == packed(b"2", b"3") + b"!"
        protocol.lost.set_result(None)

    async def main() -> None:
        await with_peer(body, batch=1)

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(asyncio.wait_for(main(), 30))


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


def test_watermarks_apply_to_frames(twin: Twin) -> None:
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


def test_our_transports_write_frames() -> None:
    async def body(protocol: Frames, peer: socket.socket) -> None:
        protocol.transport.write_frame(b"one")
        protocol.transport.write_frames([b"two", bytes(20000)])
        want = packed(b"one", b"two", bytes(20000))
        assert await receive(peer, len(want)) == want
        protocol.transport.write_eof()
        with pytest.raises(RuntimeError, match="after write_eof"):
            protocol.transport.write_frame(b"x")

    corenet.run(with_peer(body))


def test_write_frame_needs_a_framed_protocol() -> None:
    async def main() -> None:
        transport, peer = await connect(Plain())
        with pytest.raises(TypeError, match="Plain has no framing"):
            transport.write_frame(b"x")
        transport.abort()
        peer.close()
        await asyncio.sleep(0)

    corenet.run(main())
