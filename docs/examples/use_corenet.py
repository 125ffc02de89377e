"""A drop-in loop: the same asyncio code, another factory; then streams in C and whole messages."""

import asyncio

import corenet


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def main() -> bytes:
    assert isinstance(asyncio.get_running_loop(), corenet.Loop)
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        answer = await reader.readexactly(5)
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    return answer


assert corenet.run(main()) == b"hello"

with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
    assert runner.run(main()) == b"hello"


class Upper(corenet.FramedProtocol):
    """Answers each message in capitals, as many at a time as have come."""

    def frames_received(self, frames: list[corenet.FrameView]) -> None:
        self.write_frames([bytes(frame).upper() for frame in frames])


async def messages() -> bytes:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Upper(corenet.LengthFramer(4)), "127.0.0.1", 0)
    reader, writer = await corenet.open_connection(*server.sockets[0].getsockname())
    writer.write(corenet.LengthFramer(4).pack([b"one", b"two"]))
    answer = await reader.readexactly(14)
    writer.close()
    await writer.wait_closed()
    server.close()
    return answer


assert corenet.run(messages()) == b"\0\0\0\3ONE\0\0\0\3TWO"
