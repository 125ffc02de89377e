"""A drop-in loop: the same asyncio code, another factory."""

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
