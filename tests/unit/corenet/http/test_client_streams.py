"""Streamed responses: nothing incomplete looks complete, loops and reads continue one another, one reader at a time.

Every test runs on asyncio's loop and on ours.
"""

import asyncio
import gzip
import random
from collections.abc import Callable

import pytest
from support.http_peer import LOOPS, OK, Peer, run_on, serving, until

from corenet.http import (
    DecodeError,
    HttpClient,
    HttpError,
    LocalProtocolError,
    ResponseTooLarge,
    ServerDisconnected,
    StreamedResponse,
)
from corenet.limits import HTTP_DECODE_OUTPUT_STEP

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))

WAIT = 30.0


def headed(body: bytes, *fields: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *fields, b"Content-Length: %d" % len(body), b"", body])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", ServerDisconnected),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", ServerDisconnected),
        (headed(gzip.compress(b"half", mtime=0)[:-1], b"Content-Encoding: gzip"), DecodeError),
        (headed(gzip.compress(b"half", mtime=0) + b"x", b"Content-Encoding: gzip"), DecodeError),
    ],
)
@pytest.mark.parametrize("how", ["for", "read"])
def test_a_failed_stream_stays_failed(loop: str, answer: bytes, error: type[HttpError], how: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer)

        async with serving(serve) as server, HttpClient() as client, client.stream("GET", server.url) as response:
            with pytest.raises(error) as first:
                await (response.read() if how == "read" else by_loop(100)(response))
            for _ in range(2):
                with pytest.raises(error) as again:
                    await response.read()
                assert again.value is first.value
                with pytest.raises(error) as again:
                    await anext(response)
                assert again.value is first.value
            response.close()
            with pytest.raises(error) as again:
                await response.read()
            assert again.value is first.value

    run_on(loop, main())


def test_a_stream_over_the_limit_stays_failed(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(headed(bytes(1000)))
            await peer.reader.read()

        async with serving(serve) as server, HttpClient(max_body=999) as client:
            async with client.stream("GET", server.url) as response:
                for _ in range(3):
                    with pytest.raises(ResponseTooLarge):
                        await response.read()

    run_on(loop, main())


@pytest.mark.parametrize("how", ["for", "read"])
def test_a_cancelled_stream_does_not_look_complete(loop: str, how: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
            await peer.reader.read()

        async with serving(serve) as server, HttpClient() as client, client.stream("GET", server.url) as response:
            if how == "for":
                assert await anext(response) == b"half"
            task = asyncio.ensure_future(response.read() if how == "read" else anext(response))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with pytest.raises(LocalProtocolError, match="cancelled read") as first:
                await response.read()
            with pytest.raises(LocalProtocolError) as again:
                await anext(response)
            assert again.value is first.value

    run_on(loop, main())


def test_a_stream_left_early_does_not_look_complete(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(headed(b"whole"))

        async with serving(serve) as server, HttpClient() as client:
            async with client.stream("GET", server.url) as response:
                pass
            # The body of another request is in flight on the same connection.
            async with client.stream("GET", server.url) as other:
                with pytest.raises(LocalProtocolError, match="closed before"):
                    await response.read()
                assert await other.read() == b"whole"
            assert await other.read() == b""

    run_on(loop, main())


def by_loop(count: int) -> Callable[[StreamedResponse], "asyncio.Future[bytes]"]:
    async def some(response: StreamedResponse) -> bytes:
        parts = []
        async for piece in response:
            parts.append(piece)
            if len(parts) == count:
                break
        return b"".join(parts)

    return lambda response: asyncio.ensure_future(some(response))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_reading_continues_after_leaving_a_loop(loop: str, packed: bool, count: int) -> None:
    text = random.Random(1).randbytes(1000) * 2000 + bytes(20 * HTTP_DECODE_OUTPUT_STEP)
    body = gzip.compress(text) if packed else text
    fields = [b"Content-Encoding: gzip"] if packed else []

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(headed(body, *fields))

        async with serving(serve) as server, HttpClient() as client:
            for _ in range(2):
                async with client.stream("GET", server.url) as response:
                    got = b""
                    for _ in range(4):
                        got += await by_loop(count)(response)
                    assert 0 < len(got) < len(text)
                    assert got + await response.read() == text
            assert server.connections == 1

    run_on(loop, main())


def test_a_second_reader_is_refused(loop: str) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
            await go.wait()
            await peer.send(b"body")
            await peer.reader.read()

        async with serving(serve) as server, HttpClient() as client, client.stream("GET", server.url) as response:
            first = asyncio.ensure_future(response.read())
            await asyncio.sleep(0)
            for _ in range(2):
                with pytest.raises(RuntimeError, match="another task"):
                    await response.read()
                with pytest.raises(RuntimeError, match="another task"):
                    await anext(response)
            go.set()
            async with asyncio.timeout(WAIT):
                assert await first == b"body"
            assert await response.read() == b""

    run_on(loop, main())


def test_closing_a_stream_ends_its_reader(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
            await peer.reader.read()

        async with serving(serve) as server, HttpClient() as client, client.stream("GET", server.url) as response:
            reader = asyncio.ensure_future(response.read())
            await asyncio.sleep(0)
            response.close()
            async with asyncio.timeout(WAIT):
                with pytest.raises(LocalProtocolError, match="closed before"):
                    await reader
            pool = client._connections.pool
            assert pool is not None
            await until(lambda: pool.total == 0, "the descriptor is gone")

    run_on(loop, main())


def test_trailers_are_those_of_the_response(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nSum: 1\r\n\r\n")
            await peer.request()
            await peer.send(OK)

        async with serving(serve) as server, HttpClient() as client:
            async with client.stream("GET", server.url) as response:
                assert not response.trailers
                assert await response.read() == b"x"
                assert response.trailers["sum"] == "1"
            plain = await client.get(server.url)
            assert not plain.trailers and server.connections == 1
            assert response.trailers["sum"] == "1"

    run_on(loop, main())
