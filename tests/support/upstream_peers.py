"""Scripted name servers on loopback for the tests of upstream queries, over UDP and TCP.

A script is a function from a query to the packets that are returned, in order, so each forgery is one line in its test.
Nothing sleeps: a test waits for the callback it needs, with a limit that only a broken program reaches.
"""

import asyncio
import contextlib
import gc
import os
import ssl
from collections.abc import Callable, Coroutine, Iterable
from typing import cast

from resolver.effects import Ask, Failure, Reply, Server
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = ["Collector", "StreamPeer", "UdpPeer", "ask_for", "echo", "open_descriptors", "play"]

TIMEOUT = 30
QNAME = names.from_text("www.example.com.")

Script = Callable[[bytes], Iterable[bytes]]


def echo(query: bytes) -> list[bytes]:
    """The query itself with QR set: the smallest right reply."""
    return [query[:2] + bytes([query[2] | 0x80]) + query[3:]]


def ask_for(port: int, *, address: str = "127.0.0.1", qname: bytes = QNAME, **options: object) -> Ask:
    """An `Ask` for the address of a name, to a peer of this file."""
    options.setdefault("timeout", 3 * TIMEOUT)
    return Ask(Server(address, port), qname, c.A, **options)  # type: ignore[arg-type]


class Collector:
    """Results of asks, in the order of their arrival."""

    def __init__(self) -> None:
        self.results: list[Reply | Failure] = []
        self._changed = asyncio.Event()

    def __call__(self, result: Reply | Failure) -> None:
        self.results.append(result)
        self._changed.set()

    async def wait(self, count: int = 1) -> list[Reply | Failure]:
        """The first `count` results."""
        async with asyncio.timeout(TIMEOUT):
            while len(self.results) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.results


class UdpPeer(asyncio.DatagramProtocol):
    """A UDP server that follows a script."""

    def __init__(self, script: Script = echo) -> None:
        self.script = script
        self.queries: list[bytes] = []
        self.sources: list[tuple[str, int]] = []
        self.transport: asyncio.DatagramTransport
        self.port = 0
        self.arrived = asyncio.Event()

    @classmethod
    async def start(cls, script: Script = echo, address: str = "127.0.0.1", port: int = 0) -> "UdpPeer":
        peer = cls(script)
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: peer, local_addr=(address, port))
        return peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.queries.append(data)
        self.sources.append(addr)
        self.arrived.set()
        for packet in self.script(data):
            self.transport.sendto(packet, addr)

    def close(self) -> None:
        self.transport.close()


class StreamPeer:
    """A TCP server that follows a script; `connections` lists what each connection asked."""

    def __init__(self, script: Script = echo) -> None:
        self.script = script
        self.connections: list[list[bytes]] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.port = 0
        self.closes = False
        self._server: asyncio.Server

    @classmethod
    async def start(
        cls,
        script: Script = echo,
        address: str = "127.0.0.1",
        port: int = 0,
        *,
        tls: ssl.SSLContext | None = None,
        closes: bool = False,
    ) -> "StreamPeer":
        """Listen; with `tls`, over TLS. `closes`: each connection ends after its first reply."""
        peer = cls(script)
        peer.closes = closes
        peer._server = await asyncio.start_server(peer._serve, address, port, ssl=tls)
        peer.port = peer._server.sockets[0].getsockname()[1]
        return peer

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        queries: list[bytes] = []
        self.connections.append(queries)
        self.writers.append(writer)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                query = await reader.readexactly(size)
                queries.append(query)
                for packet in self.script(query):
                    writer.write(len(packet).to_bytes(2, "big") + packet)
                if self.closes:
                    writer.close()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def close(self) -> None:
        self._server.close()
        for writer in self.writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self.writers), return_exceptions=True)


def open_descriptors() -> int:
    """How many descriptors this process holds."""
    return len(os.listdir("/proc/self/fd"))


def descriptors() -> dict[str, str]:
    """The descriptors that this process holds, and what they are."""
    found = {}
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed them
            found[number] = os.readlink(f"/proc/self/fd/{number}")
    return found


def play(body: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run one test body; every descriptor it opened must be gone some turns of the loop afterwards."""

    async def checked() -> None:
        gc.collect()  # a loop of a test before this one has its eventfd until it is collected
        before = descriptors()
        await body()
        for _ in range(4):
            await asyncio.sleep(0)
        after = descriptors()
        assert after == before, f"{after}, {before} before"

    asyncio.run(checked())
