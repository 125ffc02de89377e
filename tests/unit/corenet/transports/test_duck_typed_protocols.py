"""A protocol with only the methods of a buffered one is served as one, with and without TLS, and nothing is reported.

asyncio checks the class and ends such a connection with an AttributeError; uvloop checks the methods.
"""

import asyncio
import socket
import ssl
from typing import Any

import pytest
from support.tls_pair import client_context, leaf, server_context

import corenet

__all__ = ["client_context", "leaf", "server_context"]


class Looks:
    """It has the methods of a BufferedProtocol, but not its base class."""

    def __init__(self) -> None:
        self.buffer = bytearray(100)
        self.got = b""
        self.lost: asyncio.Future[object] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, _hint: int) -> bytearray:
        return self.buffer

    def buffer_updated(self, length: int) -> None:
        self.got += self.buffer[:length]

    def eof_received(self) -> None:
        """Let it be closed."""

    def connection_lost(self, error: object) -> None:
        self.lost.set_result(error)


class Greeting(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        transport.write(b"hello")
        transport.close()


@pytest.mark.parametrize("tls", [False, True])
def test_a_duck_typed_buffered_protocol_receives(
    tls: bool, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    reported: list[Any] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: reported.append(context))
        server = await loop.create_server(Greeting, "127.0.0.1", 0, ssl=server_context if tls else None)
        address = server.sockets[0].getsockname()
        more: dict[str, Any] = {"ssl": client_context, "server_hostname": "localhost"} if tls else {}
        async with asyncio.timeout(30):
            transport, protocol = await loop.create_connection(Looks, *address, **more)
            assert await protocol.lost is None
        assert protocol.got == b"hello"
        server.close()
        transport.abort()

    corenet.run(main())
    assert reported == []


def test_one_with_both_interfaces_is_served_as_in_asyncio() -> None:
    class Both(Looks):
        def data_received(self, data: bytes) -> None:
            self.got += b"data " + data

    async def main() -> None:
        left, right = socket.socketpair()
        with right:
            async with asyncio.timeout(30):
                _, protocol = await asyncio.get_running_loop().create_connection(Both, sock=left)
                right.send(b"x")
                right.shutdown(socket.SHUT_WR)
                await protocol.lost
        assert protocol.got == b"data x"

    corenet.run(main())
