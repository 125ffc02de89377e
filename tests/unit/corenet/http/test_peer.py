"""The peer of the client's tests leaves nothing open."""

import asyncio
import gc
import socket
from pathlib import Path

import pytest
from support.certs import Authority
from support.http_peer import LOOPS, Peer, always_ok, run_on, serving

from corenet import tls


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("before", range(3))
@pytest.mark.parametrize("after", range(8))
def test_a_connection_ends_with_the_peer(loop: str, secure: bool, before: int, after: int, tmp_path: Path) -> None:
    """Whatever its state is, the connection of a client that says nothing is closed when the peer ends.

    An open transport would be reported when it is collected, perhaps during another test.
    """
    leaf = Authority(tmp_path).leaf("localhost") if secure else None
    context = None if leaf is None else tls.server_context(leaf.certificate, leaf.key)

    async def main() -> None:
        async with serving(always_ok, context) as server:
            for _ in range(before):
                await asyncio.sleep(0)
            client.connect(("127.0.0.1", server.port))
            for _ in range(after):
                await asyncio.sleep(0)

    with socket.socket() as client:
        run_on(loop, main())
        gc.collect()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_connection_that_the_peer_closes_ends_with_it(loop: str, tmp_path: Path) -> None:
    """The client reads what the peer sends, and leaves the close_notify unanswered."""
    authority = Authority(tmp_path)
    leaf = authority.leaf("localhost")

    async def once(peer: Peer) -> None:
        await peer.send(b"all")

    async def main() -> None:
        async with serving(once, tls.server_context(leaf.certificate, leaf.key)) as server:
            context = tls.client_context(cafile=str(authority.cafile))
            reader, writer = await asyncio.open_connection("localhost", server.port, ssl=context)
            assert await reader.readexactly(3) == b"all"
            writer.transport.pause_reading()
        writer.transport.abort()

    run_on(loop, main())
    gc.collect()
