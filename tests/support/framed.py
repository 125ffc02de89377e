"""Common parts of the tests of FramedProtocol: a protocol that records, other protocols to replace it, peers, TLS.

`contexts` is a fixture, which test modules import like those of `support.twin`.
"""

import asyncio
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any

import pytest
from support.certs import Authority

from corenet import FramedProtocol, LengthFramer

__all__ = [
    "HEAD",
    "Buffered",
    "Frames",
    "Plain",
    "Twin",
    "connect",
    "contexts",
    "packed",
    "receive",
    "send",
    "with_peer",
]

Twin = Callable[[Any], Any]
HEAD = struct.Struct(">I")


def packed(*payloads: bytes) -> bytes:
    """Return `payloads` as frames, each after its length in four bytes."""
    return b"".join(HEAD.pack(len(payload)) + payload for payload in payloads)


class Frames(FramedProtocol):
    """Records every batch and event; `until` waits for a condition on them."""

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
    """Collects bytes through a receive buffer of three bytes."""

    def __init__(self) -> None:
        self.buffer = bytearray(3)
        self.data = b""

    def get_buffer(self, sizehint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self.buffer[:nbytes]


async def connect(protocol: Any) -> tuple[Any, socket.socket]:
    """Return the transport of `protocol` and the socket at its other end, which has no transport."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    there.setblocking(False)
    transport, _ = await loop.create_connection(lambda: protocol, sock=here)
    return transport, there


def with_peer(body: Callable[[Any, socket.socket], Any], *arguments: Any, **options: Any) -> Any:
    """Return a coroutine that runs ``body(protocol, peer)`` with a connected `Frames` and waits until it is lost."""

    async def main() -> Any:
        protocol = Frames(*arguments, **options)
        transport, peer = await connect(protocol)
        try:
            return await asyncio.wait_for(body(protocol, peer), 30)
        finally:
            peer.close()
            transport.close()
            await asyncio.wait_for(protocol.lost, 30)

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


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context and a client's that trusts it."""
    authority = Authority(tmp_path_factory.mktemp("framed"))
    leaf = authority.leaf("localhost")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(leaf.certificate, leaf.key)
    return server, ssl.create_default_context(cafile=str(authority.cafile))
