"""Bodies in both directions through the client: back-pressure on either side, and exact lengths.

Every test runs on asyncio's loop and on ours.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.http_peer import LOOPS, OK, Peer, always_ok, run_on, serving
from support.loop_clock import stopped_clock
from support.waiting import turns

from corenet.http import (
    HttpClient,
    LocalProtocolError,
    Timeout,
)

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))

SHORT = 0.05


def test_a_slow_reader_causes_back_pressure(loop: str) -> None:
    async def main() -> None:
        total = 32 << 20
        sent = 0

        async def serve(peer: Peer) -> None:
            nonlocal sent
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
            for _ in range(total >> 16):
                await peer.send(bytes(1 << 16))
                sent += 1 << 16

        async with serving(serve) as server, HttpClient(timeout=Timeout(read=SHORT)) as client:
            with stopped_clock() as clock:
                async with client.stream("GET", server.url) as response:
                    await turns(1000)
                    # Longer than the read time-out: it is our own pause, not the server's.
                    clock.move(SHORT * 3)
                    await turns()
                    assert sent < total // 2
                    assert sum([len(piece) async for piece in response]) == total

    run_on(loop, main())


def test_an_upload_follows_the_pace_of_the_server(loop: str) -> None:
    async def main() -> None:
        made = 0

        async def body() -> AsyncIterator[bytes]:
            nonlocal made
            for _ in range(256):
                made += 1 << 16
                yield bytes(1 << 16)

        go = asyncio.Event()
        got = 0

        async def serve(peer: Peer) -> None:
            nonlocal got
            await peer.reader.readuntil(b"\r\n\r\n")
            await go.wait()
            while got < 256 << 16:
                got += len(await peer.reader.read(1 << 20))
            await peer.send(OK)

        async with serving(serve) as server, HttpClient() as client:
            task = asyncio.ensure_future(client.post(server.url, body(), headers={"Content-Length": str(256 << 16)}))
            await asyncio.sleep(SHORT)
            assert 0 < made < 256 << 16
            go.set()
            assert (await task).body == b"ok"
            assert got == 256 << 16

    run_on(loop, main())


def test_a_response_before_the_end_of_the_upload(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            await peer.reader.read()

        async def endless() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 100
                await asyncio.sleep(0)

        async with serving(serve) as server, HttpClient() as client:
            assert (await client.post(server.url, endless())).status == 413

    run_on(loop, main())


def test_a_response_wakes_an_upload_that_the_server_does_not_read(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            await asyncio.sleep(SHORT)
            await peer.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
            # Neither read nor close: the client must not wait for either.
            await done.wait()

        done = asyncio.Event()
        async with serving(serve) as server, HttpClient() as client:
            response = await client.post(server.url, (bytes(1 << 20) for _ in range(64)))
            assert response.status == 413
            done.set()

    run_on(loop, main())


@pytest.mark.slow
def test_a_slow_upload_is_not_a_read_timeout(loop: str) -> None:
    async def main() -> None:
        # More than the kernel buffers for us, so that the sending is visible; the server is slow at first only.
        size = 32 << 20
        slowly = size - (8 << 20)

        async def serve(peer: Peer) -> None:
            await peer.reader.readuntil(b"\r\n\r\n")
            left = size
            while left:
                left -= len(await peer.reader.readexactly(min(left, 1 << 20)))
                if left > slowly:
                    await asyncio.sleep(SHORT * 3)
            await peer.send(OK)

        async with serving(serve) as server, HttpClient(timeout=Timeout(read=SHORT * 20)) as client:
            began = asyncio.get_running_loop().time()
            assert (await client.post(server.url, bytes(size))).body == b"ok"
            assert asyncio.get_running_loop().time() - began > SHORT * 20

    run_on(loop, main())


@pytest.mark.parametrize("headers", [{"Content-Length": "5"}, {"Content-Length": "3"}])
def test_a_wrong_body_length_is_a_local_error(loop: str, headers: dict[str, str]) -> None:
    async def main() -> None:
        async with serving(always_ok) as server, HttpClient() as client:
            with pytest.raises(LocalProtocolError):
                await client.post(server.url, iter([b"four"]), headers=headers)
            assert (await client.get(server.url)).body == b"ok"

    run_on(loop, main())


def test_a_body_is_bytes(loop: str) -> None:
    async def main() -> None:
        async with HttpClient() as client:
            with pytest.raises(TypeError, match="encode str"):
                await client.post("http://127.0.0.1/", "text")  # type: ignore[arg-type]
        async with serving(always_ok) as server, HttpClient() as client:
            with pytest.raises(LocalProtocolError, match="not str"):
                await client.post(server.url, iter(["text"]))  # type: ignore[arg-type]

    run_on(loop, main())
