"""Streamed requests of a client with a cache: stored responses are streamed, and streams are stored at their end."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.http_peer import LOOPS, Peer, Server, run_on, serving, until

from corenet.http import Cache, HttpClient, LocalProtocolError, RedirectError, ServerDisconnected, StreamedResponse

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))

FRESH = "Cache-Control: max-age=10"
Use = Callable[[HttpClient, Server, Cache, "Script"], Any]


def answer(*fields: str, status: str = "200 OK", body: str = "body") -> str:
    lines = [f"HTTP/1.1 {status}", *fields]
    if status[:3] != "304":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", "" if status[:3] == "304" else body])


class Script:
    """Answers with the next of `answers`, the last one again and again."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        self.now = 1_700_000_000.0

    async def serve(self, peer: Peer) -> None:
        self.connections += 1
        while True:
            line, fields, _ = await peer.request()
            self.asked.append((line, fields))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            await peer.send(answer.encode())


def play(loop: str, script: Script, use: Use, **options: Any) -> None:
    async def main() -> None:
        cache = Cache(clock=lambda: script.now, max_bytes=1 << 20)
        async with serving(script.serve) as server, HttpClient(cache=cache, **options) as client:
            await use(client, server, cache, script)
            # No connection is held.
            assert not any(connection.is_busy for connection in client._connections.open)
        cache.close()

    run_on(loop, main())


@asynccontextmanager
async def streamed(client: HttpClient, url: str, **options: Any) -> AsyncIterator[tuple[StreamedResponse, str]]:
    async with client.stream("GET", url, **options) as response:
        yield response, response.headers["cache-status"]


async def read(client: HttpClient, url: str, **options: Any) -> tuple[bytes, str]:
    async with streamed(client, url, **options) as (response, how):
        return await response.read(), how


def test_a_complete_stream_is_stored_and_streamed_from_the_cache(loop: str) -> None:
    async def use(client: HttpClient, server: Server, cache: Cache, script: Script) -> None:
        async with streamed(client, server.url) as (response, how):
            assert how == "corenet; fwd=uri-miss" and len(cache) == 0
            assert b"".join([piece async for piece in response]) == b"one"
            assert len(cache) == 1
        script.now += 9
        async with streamed(client, server.url + "/#x") as (response, how):
            assert how == "corenet; hit" and (response.status, response.headers["age"]) == (200, "9")
            assert [piece async for piece in response] == [b"one"] and await response.read() == b""
            assert response.url == server.url + "/#x" and response.connection is None
        # `get` and `stream` share what is stored.
        assert (await client.get(server.url)).body == b"one" and len(script.asked) == 1
        assert (cache.hits, cache.misses) == (2, 1)

    play(loop, Script(answer(FRESH, body="one"), answer(FRESH, body="two")), use)


def test_a_stored_response_is_streamed(loop: str) -> None:
    async def use(client: HttpClient, server: Server, cache: Cache, script: Script) -> None:
        await client.get(server.url)
        async with client.stream("GET", server.url) as response:
            assert [line async for line in response.lines()] == ["first", "second"]
        assert len(script.asked) == 1

    play(loop, Script(answer(FRESH, body="first\nsecond")), use)


@pytest.mark.parametrize("pieces", [0, 1])
def test_a_stream_that_is_left_early_is_not_stored(loop: str, pieces: int) -> None:
    async def use(client: HttpClient, server: Server, cache: Cache, script: Script) -> None:
        async with streamed(client, server.url) as (response, _):
            for _ in range(pieces):
                await anext(response)
        assert len(cache) == 0
        with pytest.raises(LocalProtocolError):
            await response.read()
        assert len(cache) == 0 and (await read(client, server.url))[0] == b"body" and len(cache) == 1

    play(loop, Script(answer(FRESH)), use)


def test_a_truncated_stream_is_not_stored(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(f"HTTP/1.1 200 OK\r\n{FRESH}\r\nContent-Length: 99\r\n\r\nabc".encode())

        cache = Cache()
        async with serving(serve) as server, HttpClient(cache=cache) as client:
            with pytest.raises(ServerDisconnected):
                await read(client, server.url)
        assert len(cache) == 0
        cache.close()

    run_on(loop, main())


def test_a_stream_over_the_size_of_an_entry_is_not_stored(loop: str) -> None:
    large = "x" * ((1 << 20) // 8 + 1)

    async def use(client: HttpClient, server: Server, cache: Cache, script: Script) -> None:
        await read(client, server.url)
        assert len(cache) == 1
        script.now += 20
        async with streamed(client, server.url) as (response, _):
            size = 0
            async for piece in response:
                size += len(piece)
            assert size == len(large)
            # No part of it is held, and the response that it replaces was removed.
            assert response._recording is not None and response._recording._pieces is None
        assert len(cache) == 0

    play(loop, Script(answer(FRESH), answer(FRESH, body=large)), use)


def test_decoded_bodies_are_stored(loop: str) -> None:
    import gzip

    packed = gzip.compress(b"text" * 1000).decode("latin-1")

    async def main() -> None:
        cache = Cache()

        async def serve(peer: Peer) -> None:
            await peer.request()
            head = f"HTTP/1.1 200 OK\r\n{FRESH}\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n"
            await peer.send((head + packed).encode("latin-1"))
            await peer.request()

        async with serving(serve) as server, HttpClient(cache=cache) as client:
            for how in ("corenet; fwd=uri-miss", "corenet; hit"):
                assert await read(client, server.url) == (b"text" * 1000, how)
        cache.close()

    run_on(loop, main())


def test_a_stale_response_is_validated_and_streamed(loop: str) -> None:
    tag = 'ETag: "1"'
    script = Script(
        answer(tag, FRESH), answer(tag, FRESH, status="304 Not Modified"), answer(FRESH, body="new"), answer()
    )

    async def use(client: HttpClient, server: Server, cache: Cache, script: Script) -> None:
        await read(client, server.url)
        script.now += 20
        assert await read(client, server.url) == (b"body", "corenet; hit; fwd=stale; fwd-status=304")
        assert script.asked[1][1]["if-none-match"] == '"1"' and script.connections == 1
        script.now += 20
        assert await read(client, server.url) == (b"new", "corenet; fwd=stale")
        assert await read(client, server.url) == (b"new", "corenet; hit")
        script.now += 20
        # A response that must not be stored makes the stored one invalid when its head arrives.
        async with streamed(client, server.url) as (_, how):
            assert how == "corenet; fwd=stale" and len(cache) == 0

    play(loop, script, use)


def test_stale_if_error(loop: str) -> None:
    script = Script(answer(f"{FRESH}, stale-if-error=60"), answer(status="503 Busy", body="x" * 50))

    async def use(client: HttpClient, server: Server, cache: Cache, script: Script) -> None:
        await read(client, server.url)
        script.now += 20
        how = "corenet; hit; fwd=stale; fwd-status=503; detail=stale-if-error"
        assert await read(client, server.url) == (b"body", how)

    play(loop, script, use)


def test_redirects_of_a_stream_are_stored_by_their_own_url(loop: str) -> None:
    script = Script(answer(FRESH, "Location: /two", status="301 Moved", body="moved"), answer(FRESH))

    async def use(client: HttpClient, server: Server, cache: Cache, script: Script) -> None:
        for _ in range(2):
            async with client.stream("GET", server.url + "/one") as response:
                assert await response.read() == b"body" and [kept.body for kept in response.history] == [b"moved"]
        assert len(script.asked) == 2 and len(cache) == 2 and script.connections == 1

    play(loop, script, use)


def test_a_refused_redirect_releases_its_connection(loop: str) -> None:
    script = Script(answer("Location: ftp://a/", status="301 Moved"))

    async def use(client: HttpClient, server: Server, cache: Cache, script: Script) -> None:
        with pytest.raises(RedirectError):
            await read(client, server.url)

    play(loop, script, use)


def test_requests_that_bypass_the_cache_and_only_if_cached(loop: str) -> None:
    script = Script(answer(FRESH, body="part", status="206 Partial Content"), answer(FRESH), answer("X: 1"))

    async def use(client: HttpClient, server: Server, cache: Cache, script: Script) -> None:
        async with client.stream("GET", server.url, headers={"Range": "bytes=0-3"}) as response:
            assert await response.read() == b"part" and "cache-status" not in response.headers and len(cache) == 0
        only = {"Cache-Control": "only-if-cached"}
        async with client.stream("GET", server.url, headers=only) as response:
            assert response.status == 504 and await response.read() == b""
        await read(client, server.url)
        async with client.stream("GET", server.url, headers=only) as response:
            assert response.status == 200
        async with client.stream("POST", server.url, body=b"x") as response:
            assert len(cache) == 0 and await response.read() == b"body"

    play(loop, script, use)


def test_a_request_cancelled_during_storing_releases_its_connection(loop: str) -> None:
    """The head has arrived, and the store is slow."""

    async def main() -> None:
        class Slow(Cache):
            waits = False

            async def _remove(self, urls: Any) -> None:
                self.waits = True
                await asyncio.get_running_loop().create_future()

        script = Script(answer("Cache-Control: no-store"))
        cache = Slow()
        async with serving(script.serve) as server, HttpClient(cache=cache) as client:
            task = asyncio.ensure_future(read(client, server.url))
            await until(lambda: cache.waits, "the store")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not any(connection.is_busy for connection in client._connections.open)
        cache.close()

    run_on(loop, main())
