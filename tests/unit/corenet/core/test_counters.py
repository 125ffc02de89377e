"""Live-object counters of the debug build: all objects of a loop are freed with it."""

import asyncio
import gc
from typing import Any

import corenet
from corenet.core import counters


async def traffic() -> None:
    loop: Any = asyncio.get_running_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(5))
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    for _ in range(5):
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello")
        assert await reader.read() == b"hello"
        writer.close()
        await writer.wait_closed()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    transport.close()
    timers = [loop.call_later(1000, print) for _ in range(100)]
    for timer in timers[:50]:
        timer.cancel()
    server.close()
    await server.wait_closed()
    await asyncio.sleep(0)


def test_nothing_outlives_its_loop() -> None:
    corenet.run(traffic())
    gc.collect()
    before = counters.live()
    for _ in range(3):
        corenet.run(traffic())
    gc.collect()
    assert counters.live() == before
    if not counters.is_debug_build():
        assert set(before.values()) == {0}
