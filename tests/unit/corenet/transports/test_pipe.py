"""Pipe transports compared with asyncio's: end of file, a reader that closes, queued writes, refused files."""

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
from support.twin import Recorder, loop_factory, twin

import corenet
from corenet.core import FixedFramer

__all__ = ["loop_factory", "twin"]

Twin = Callable[[Any], Any]


async def both_ends() -> tuple[Recorder, Recorder]:
    loop = asyncio.get_running_loop()
    read, write = os.pipe()
    _, reader = await loop.connect_read_pipe(Recorder, os.fdopen(read, "rb", 0))
    _, writer = await loop.connect_write_pipe(Recorder, os.fdopen(write, "wb", 0))
    return reader, writer


def test_data_and_end_of_file_are_delivered(twin: Twin) -> None:
    async def main() -> None:
        reader, writer = await both_ends()
        assert isinstance(reader.transport, asyncio.ReadTransport)
        assert isinstance(writer.transport, asyncio.WriteTransport)
        assert writer.transport.get_extra_info("pipe") is not None
        writer.transport.write(b"x" * 1_000_000)
        writer.transport.write_eof()
        await reader.lost
        await writer.lost
        assert len(reader.data) == 1_000_000
        assert reader.events[-2:] == ["eof", "lost"]

    twin(main())


def test_flow_control(twin: Twin) -> None:
    async def main() -> None:
        reader, writer = await both_ends()
        reader.transport.pause_reading()
        while "pause" not in writer.events:
            writer.transport.write(b"x" * 50_000)
        reader.transport.resume_reading()
        await writer.until(lambda: "resume" in writer.events)
        writer.transport.close()
        await reader.lost
        await writer.lost

    twin(main())


def test_reader_goes_away(twin: Twin) -> None:
    async def main() -> None:
        reader, writer = await both_ends()
        reader.transport.close()
        await reader.lost
        assert await writer.lost is None

    twin(main())


def test_reader_goes_away_with_data_queued(twin: Twin) -> None:
    async def main() -> None:
        reader, writer = await both_ends()
        reader.transport.pause_reading()
        while writer.transport.get_write_buffer_size() == 0:
            writer.transport.write(b"x" * 50_000)
        reader.transport.close()
        await reader.lost
        assert isinstance(await writer.lost, BrokenPipeError)

    twin(main())


def test_regular_files_are_refused(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with tempfile.TemporaryFile() as file:
            with pytest.raises(ValueError, match="Pipe transport"):
                await loop.connect_read_pipe(Recorder, file)
            with pytest.raises(ValueError, match="Pipe transport"):
                await loop.connect_write_pipe(Recorder, file)

    twin(main())


def test_two_transports_on_one_pipe(twin: Twin) -> None:
    """As programs do with standard output; either may be closed first and the other stays open."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        pipe = os.fdopen(write, "wb", 0)
        _, first = await loop.connect_write_pipe(Recorder, pipe)
        _, second = await loop.connect_write_pipe(Recorder, pipe)
        assert second.transport.get_extra_info("pipe") is pipe
        first.transport.write(b"one ")
        second.transport.write(b"two")
        await asyncio.sleep(0)
        assert os.read(read, 20) == b"one two"
        if isinstance(loop, corenet.Loop):
            first.transport.close()
            await first.lost
            second.transport.write(b"three")
            assert os.read(read, 20) == b"three"
        second.transport.close()
        await second.lost
        first.transport.abort()
        await first.lost
        assert os.read(read, 20) == b""
        os.close(read)

    twin(main())


def test_a_second_reader_does_not_remove_the_registration_of_a_paused_one() -> None:
    """While the first was paused, the second took over its entry in the kernel's table, and the first did not get it
    back."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        read, write = os.pipe()
        pipe = os.fdopen(read, "rb", 0)
        _, first = await loop.connect_read_pipe(Recorder, pipe)
        first.transport.pause_reading()
        _, second = await loop.connect_read_pipe(Recorder, pipe)
        for end, word in ((second, b"second"), (first, b"first")):
            if end is first:
                first.transport.resume_reading()
            os.write(write, word)
            while bytes(end.data) != word:
                await end.changed.wait()
                end.changed.clear()
            if end is second:
                second.transport.close()
                await second.lost
        os.close(write)
        await first.lost

    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.run(main())


def test_files_without_poll_support_end_at_once() -> None:
    """The null device can be written, as on asyncio; epoll refuses reading it, and the caller gets the error."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        _, writer = await loop.connect_write_pipe(Recorder, open("/dev/null", "wb", 0))
        writer.transport.write(b"x" * 1_000_000)
        writer.transport.close()
        await writer.lost
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(PermissionError):
            await asyncio.wait_for(loop.connect_read_pipe(Recorder, open("/dev/null", "rb", 0)), 30)
        await asyncio.sleep(0)
        assert len(os.listdir("/proc/self/fd")) == before

    corenet.run(main())


def test_exceptions_of_a_protocol_are_reported(twin: Twin) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        reported: list[Any] = []
        loop.set_exception_handler(lambda _loop, context: reported.append(type(context["exception"])))

        class Failing(Recorder):
            def data_received(self, data: bytes) -> None:
                super().data_received(data)
                raise ZeroDivisionError

            def eof_received(self) -> bool:
                super().eof_received()
                raise LookupError

        read, write = os.pipe()
        _, reader = await loop.connect_read_pipe(Failing, os.fdopen(read, "rb", 0))
        for piece in (b"a", b"b"):
            os.write(write, piece)
            await reader.until(lambda piece=piece: reader.data.endswith(piece))  # type: ignore[misc]
        os.close(write)
        assert await reader.lost is None
        assert reader.events == ["made", "data", "data", "eof", "lost"]
        assert reported == [ZeroDivisionError, ZeroDivisionError, LookupError]

    twin(main())


class Buffered(Recorder, asyncio.BufferedProtocol):
    """A buffered protocol, which would receive bytes."""

    def get_buffer(self, _size: int) -> bytearray:
        self.note("asked")
        return bytearray(100)

    def buffer_updated(self, size: int) -> None:
        self.note("updated")


class Framed(corenet.FramedProtocol):
    """A FramedProtocol, to which our transports deliver bytes in another way."""

    def __init__(self) -> None:
        super().__init__(FixedFramer(1))
        self.lost: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self.frames: list[bytes] = []

    def frame_received(self, frame: Any) -> None:
        self.frames.append(bytes(frame))

    def connection_lost(self, error: BaseException | None) -> None:
        super().connection_lost(error)
        self.lost.set_result(error)


@pytest.mark.parametrize("given_later", [False, True])
@pytest.mark.parametrize("kind", [Recorder, Buffered, Framed])
@pytest.mark.parametrize("end", ["pipe", "socket that says something"])
def test_a_writing_end_receives_nothing_with_any_protocol(
    twin: Twin, kind: Any, given_later: bool, end: str
) -> None:
    """A read event means that the reader has closed, and is reported as that."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        if end == "pipe":
            reader, number = os.pipe()
            gone = lambda: os.close(reader)  # noqa: E731
        else:
            ours, peer = socket.socketpair()
            number = ours.detach()
            gone = lambda: peer.send(b"\0\0\0\1x" * 3)  # noqa: E731
        protocol = kind()
        made: Any = asyncio.Protocol() if given_later else protocol
        transport, _ = await loop.connect_write_pipe(lambda: made, os.fdopen(number, "wb", 0))
        if given_later:
            transport.set_protocol(protocol)
        transport.write(b"x")
        gone()
        assert await asyncio.wait_for(protocol.lost, 30) is None
        if kind is Framed:
            assert protocol.frames == []
        else:
            assert {"data", "asked", "updated"}.isdisjoint(protocol.events)
        if end != "pipe":
            peer.close()

    twin(main())
