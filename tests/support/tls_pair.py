"""Both ends of a TLS connection on one loop, for tests of the transports; fixtures for the contexts of both sides.

Test files import the fixtures by name, as those of `support.twin`.
"""

import asyncio
import gc
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority, Leaf
from support.twin import Recorder, accepting, finish

import corenet

__all__ = ["Listening", "client_context", "finish", "leaf", "ours", "server_context", "tls_pair"]


@pytest.fixture(scope="module")
def leaf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Leaf, Path]:
    """A certificate for localhost and the file of its authority."""
    authority = Authority(tmp_path_factory.mktemp("tls"))
    return authority.leaf("localhost", "127.0.0.1"), authority.cafile


@pytest.fixture
def server_context(leaf: tuple[Leaf, Path]) -> ssl.SSLContext:
    """A context of the server's side."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(leaf[0].certificate, leaf[0].key)
    return context


@pytest.fixture
def client_context(leaf: tuple[Leaf, Path]) -> ssl.SSLContext:
    """A context of the client's side."""
    return ssl.create_default_context(cafile=str(leaf[1]))


@pytest.fixture
def ours() -> Iterator[Callable[[Any], Any]]:
    """Run on our loop alone, for what asyncio does not promise."""
    unexpected: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=corenet.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: unexpected.append(context))
        yield lambda main: runner.run(asyncio.wait_for(main, 30))
    gc.collect()
    assert not unexpected, unexpected


async def tls_pair(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    factory: Callable[[], Any] = Recorder,
    **options: Any,
) -> tuple[Recorder, Any, Any]:
    """The server's end, the client's end, the server."""
    loop = asyncio.get_running_loop()
    listening, accepted = accepting()
    server = await loop.create_server(listening, "127.0.0.1", 0, ssl=server_context, **options)
    _, client = await loop.create_connection(
        factory, *server.sockets[0].getsockname(), ssl=client_context, server_hostname="localhost", **options
    )
    return await accepted, client, server


class Greeting(Recorder):
    """A server that says something at once, so that the client reads its tickets."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.write(b"hello")


class Greeted(Recorder):
    """A client that ends the connection when it was greeted."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.close()


class Listening:
    """A server on our loop; `visit` connects, is greeted, and tells whether the session was resumed."""

    def __init__(self, context: ssl.SSLContext, factory: Callable[[], Any] = Greeting) -> None:
        self.context = context
        self.factory = factory

    async def __aenter__(self) -> "Listening":
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(self.factory, "127.0.0.1", 0, ssl=self.context)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def visit(self, context: ssl.SSLContext, name: str = "localhost") -> bool:
        _, protocol = await asyncio.get_running_loop().create_connection(
            Greeted, *self.server.sockets[0].getsockname(), ssl=context, server_hostname=name
        )
        found: bool = protocol.transport.get_extra_info("ssl_object").session_reused
        # What programs ask of a connection is there when it was resumed, too.
        assert protocol.transport.get_extra_info("peercert") or context.verify_mode is ssl.CERT_NONE
        assert await protocol.lost is None
        return found
