"""Encoded bodies through the client: other callbacks run while they are decoded, and the request's time-out holds.

Every test runs on asyncio's loop and on ours.
"""

import asyncio
import gzip
from collections.abc import Awaitable, Callable

import pytest
from support.http_peer import LOOPS, Peer, run_on, serving, until

from corenet.http import HttpClient, HttpError, ResponseTooLarge, TimeoutExceeded
from corenet.limits import HTTP_DECODE_SLICE_BYTES

pytestmark = [pytest.mark.parametrize("loop", sorted(LOOPS)), pytest.mark.parametrize("streamed", [False, True])]


def giving(body: bytes, coding: str) -> Callable[[Peer], Awaitable[None]]:
    async def serve(peer: Peer) -> None:
        while True:
            await peer.request()
            head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
            await peer.send(head.encode() + body)

    return serve


async def fetch(client: HttpClient, url: str, streamed: bool, timeout: float = 30) -> bytes:
    if not streamed:
        return (await client.get(url, timeout=timeout)).body
    async with client.stream("GET", url, timeout=timeout) as response:
        return await response.read()


class Turns:
    """Counts the iterations of the loop."""

    def __init__(self) -> None:
        self.count = 0
        self.loop = asyncio.get_running_loop()
        self.loop.call_soon(self.turn)
        self.going = True

    def turn(self) -> None:
        self.count += 1
        if self.going:
            self.loop.call_soon(self.turn)


@pytest.mark.parametrize("layers", [1, 3])
def test_other_callbacks_run_while_a_body_is_decoded(loop: str, streamed: bool, layers: int) -> None:
    size = 32 * HTTP_DECODE_SLICE_BYTES
    body = bytes(size)
    for _ in range(layers):
        body = gzip.compress(body, 6)

    async def main() -> None:
        async with serving(giving(body, ", ".join(["gzip"] * layers))) as server, HttpClient() as client:
            turns = Turns()
            assert await fetch(client, server.url, streamed) == bytes(size)
            turns.going = False
            assert turns.count >= 32

    run_on(loop, main())


def test_other_callbacks_run_while_a_body_decodes_to_nothing(loop: str, streamed: bool) -> None:
    body = gzip.compress(gzip.compress(gzip.compress(b"", mtime=0) * 10_000))

    async def main() -> None:
        async with serving(giving(body, "gzip, gzip, gzip")) as server, HttpClient() as client:
            turns = Turns()
            assert await fetch(client, server.url, streamed) == b""
            turns.going = False
            # Each member counts as 4 KiB.
            assert turns.count >= 39

    run_on(loop, main())


def test_the_total_time_ends_decoding(loop: str, streamed: bool) -> None:
    body = gzip.compress(bytes(64 << 20))

    async def main() -> None:
        async with serving(giving(body, "gzip")) as server, HttpClient() as client:
            running = asyncio.get_running_loop()
            late = 0.0

            def time() -> float:
                return clock() + late

            def turn(turns: int = 0) -> None:
                # Advance the clock by an hour when decoding has lasted for some iterations.
                nonlocal late
                late = 3600.0 if turns == 50 else 0.0
                if turns < 50:
                    running.call_soon(turn, turns + 1)

            clock = running.time
            running.time = time  # type: ignore[method-assign]
            turn()
            with pytest.raises(TimeoutExceeded, match="total time"):
                await fetch(client, server.url, streamed, timeout=60)

    run_on(loop, main())


def test_nested_compression_bombs_are_refused(loop: str, streamed: bool) -> None:
    body = gzip.compress(gzip.compress(gzip.compress(b"", mtime=0) * 1_000_000))

    async def main() -> None:
        async with serving(giving(body, "gzip, gzip, gzip")) as server, HttpClient() as client:
            for _ in range(2):
                with pytest.raises(HttpError, match=r"inner coding|nearly empty"):
                    await fetch(client, server.url, streamed)
            pool = client._connections.pool
            assert pool is not None
            await until(lambda: pool.total == 0, "the descriptors are gone")
        async with serving(giving(gzip.compress(bytes(1001)), "gzip")) as server:
            async with HttpClient(max_decoded=1000) as client:
                with pytest.raises(ResponseTooLarge, match="decodes to more than 1000"):
                    await fetch(client, server.url, streamed)

    run_on(loop, main())
