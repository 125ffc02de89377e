"""The peer of the client's tests leaves nothing open."""

import asyncio
import gc
import socket

import pytest
from support.http_peer import LOOPS, always_ok, run_on, serving


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("iterations", range(8))
def test_a_connection_ends_with_the_peer(loop: str, iterations: int) -> None:
    """However far it has come. Its transport would be reported when it is collected, perhaps in another test."""

    async def main() -> None:
        async with serving(always_ok) as server:
            client.connect(("127.0.0.1", server.port))
            for _ in range(iterations):
                await asyncio.sleep(0)

    with socket.socket() as client:
        run_on(loop, main())
        gc.collect()
