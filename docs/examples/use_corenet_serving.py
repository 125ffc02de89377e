"""Two workers that answer with their number; the client asks both to be done, and the service ends by itself."""

import asyncio
import os
import signal
import socket

import corenet
from corenet.serving import Worker


async def app(worker: Worker) -> None:
    loop = asyncio.get_running_loop()

    async def hello(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello from worker %d\n" % worker.number)
        await writer.drain()
        writer.close()

    servers = [await asyncio.start_server(hello, sock=sock) for sock in worker.sockets]
    if worker.number == 0:
        reader, writer = await asyncio.open_connection(*worker.sockets[0].getsockname())
        assert (await reader.readline()).startswith(b"hello from worker ")
        writer.close()
        loop.call_later(0.1, os.kill, os.getppid(), signal.SIGTERM)  # what a service manager does
    await worker.until_stopped()
    for server in servers:
        server.close()


with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
corenet.serve(app, f"127.0.0.1:{port}", workers=2, grace=5)
