"""The client with a scripted peer: requests sent, reuse, races, limits, wrong answers.

Every test runs on asyncio's loop and on ours.
"""

import asyncio
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.http_peer import LOOPS, OK, Peer, always_ok, run_on, serving, until
from support.shortage import FullDict

from corenet import tls
from corenet.http import (
    DecodeError,
    HttpClient,
    HttpError,
    Limits,
    RemoteProtocolError,
    Response,
    ResponseTooLarge,
    ServerDisconnected,
    get,
)
from corenet.http.decode import accept_encoding
from corenet.http.pool import Pool, PoolSlot
from corenet.limits import HTTP_URL_CACHED_SIZE

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))

SHORT = 0.05


def test_a_get_request(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server:
            response = await get(server.url + "/a b".replace(" ", "%20"))
            assert response.status == 200 and response.reason == "OK" and response.body == b"ok"
            assert response.text == "ok" and response.is_success and response.url == server.url + "/a%20b"
            assert response.http_version == "HTTP/1.1" and response.raise_for_status() is response

    run_on(loop, main())


def test_the_bytes_of_a_request(loop: str) -> None:
    async def main() -> None:
        told: list[Any] = []

        async def serve(peer: Peer) -> None:
            while True:
                told.append(await peer.request())
                await peer.send(OK)

        async with serving(serve) as server, HttpClient(headers={"X-Default": "1"}) as client:
            await client.get(server.url + "/p?q=1", headers={"x-default": "2", "X-More": "3"})
            await client.post(server.url, b"data", headers={"Content-Type": "text/plain"})
            await client.post(server.url, None)
            await client.post(server.url, iter([b"one", b"", b"two"]))
            await client.request("DELETE", server.url)
        line, headers, body = told[0]
        assert line == "GET /p?q=1 HTTP/1.1" and body == b""
        assert headers["host"] == f"127.0.0.1:{server.port}" and headers["accept-encoding"] == accept_encoding()
        assert headers["x-default"] == "2" and headers["x-more"] == "3" and "content-length" not in headers
        assert told[1][1]["content-length"] == "4" and told[1][2] == b"data"
        assert told[2][1]["content-length"] == "0"
        assert told[3][1]["transfer-encoding"] == "chunked" and told[3][2] == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        assert told[4][0].startswith("DELETE /") and "content-length" not in told[4][1]

    run_on(loop, main())


@pytest.mark.parametrize("where", ["default", "request", "both"])
def test_a_given_host_field_replaces_ours_and_comes_first(loop: str, where: str) -> None:
    async def main() -> None:
        told: list[bytes] = []

        async def serve(peer: Peer) -> None:
            while True:
                told.append(await peer.reader.readuntil(b"\r\n\r\n"))
                await peer.send(OK)

        async with serving(serve) as server:
            default = {"X-Default": "1", "hOst": "default.example"} if where != "request" else {}
            given = {"X-More": "1", "HOST": "given.example"} if where != "default" else {}
            async with HttpClient(headers=default) as client:
                assert (await client.get(server.url, headers=given)).body == b"ok"
        host = b"hOst: default.example" if where == "default" else b"HOST: given.example"
        assert told[0].split(b"\r\n")[1] == host and told[0].lower().count(b"\nhost:") == 1

    run_on(loop, main())


CHUNKED = {"Transfer-Encoding": "chunked"}


@pytest.mark.parametrize("where", ["default", "request"])
@pytest.mark.parametrize(
    ("method", "body", "sent"),
    [
        ("GET", None, b"0\r\n\r\n"),
        ("DELETE", None, b"0\r\n\r\n"),
        ("POST", None, b"0\r\n\r\n"),
        ("POST", b"", b"0\r\n\r\n"),
        ("POST", b"data", b"4\r\ndata\r\n0\r\n\r\n"),
    ],
)
def test_an_announced_chunked_body_ends_with_a_last_chunk(
    loop: str, where: str, method: str, body: bytes | None, sent: bytes
) -> None:
    """Without it the peer parses the next request of this connection as chunks (RFC 9112 section 7.1)."""

    async def main() -> None:
        told: list[Any] = []

        async def serve(peer: Peer) -> None:
            while True:
                told.append(await peer.request())
                await peer.send(OK)

        async with serving(serve) as server, HttpClient(headers=CHUNKED if where == "default" else {}) as client:
            given = CHUNKED if where == "request" else {}
            for _ in range(2):
                # The second may be sent from the cached head of the first.
                await client.request(method, server.url + "/a", body=body, headers=given, timeout=5.0)
            async with client.stream(method, server.url + "/a", body=body, headers=given, timeout=5.0) as response:
                assert await response.read() == b"ok"
            await client.get(server.url + "/b", timeout=5.0)
            assert server.connections == 1
        assert [(line, received) for line, _, received in told[:3]] == [(f"{method} /a HTTP/1.1", sent)] * 3
        assert told[3][0] == "GET /b HTTP/1.1"

    run_on(loop, main())


def write_answer(peer: Peer) -> None:
    peer.writer.write(OK.replace(b"ok", b"no"))


def write_a_byte(peer: Peer) -> None:
    peer.writer.write(b"H")


def write_the_end(peer: Peer) -> None:
    if peer.writer.can_write_eof():
        peer.writer.write_eof()
    else:
        peer.writer.close()


@pytest.mark.parametrize("came", [write_answer, write_a_byte, write_the_end])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("way", ["next", "waiting"])
def test_bytes_received_before_a_request_are_not_its_response(
    loop: str, came: Callable[[Peer], None], scheme: str, way: str, tmp_path: Path
) -> None:
    """The bytes are in the kernel, and the loop has not polled yet: the connection is closed, and another one is used.

    Before the next request acquires a connection, or after the pool gave it to a waiter.
    """
    authority = Authority(tmp_path) if scheme == "https" else None

    async def main() -> None:
        peers: list[Peer] = []

        async def serve(peer: Peer) -> None:
            peers.append(peer)
            while True:
                await peer.request()
                asked.set()
                await both.wait()
                await peer.send(OK)

        asked, both = asyncio.Event(), asyncio.Event()
        certificate = None
        if authority:
            leaf = authority.leaf("localhost")
            certificate = tls.server_context(leaf.certificate, leaf.key)
        trusted = tls.client_context(cafile=str(authority.cafile)) if authority else None
        async with serving(serve, certificate) as server:
            async with HttpClient(tls_context=trusted, limits=Limits(connections=1)) as client, asyncio.timeout(30):
                async def ask() -> None:
                    assert (await client.post(server.url, b"1")).body == b"ok"
                    came(peers[0])
                    if way == "next":
                        assert (await client.post(server.url, b"2")).body == b"ok"

                first = asyncio.ensure_future(ask())
                await asked.wait()
                second = asyncio.ensure_future(client.post(server.url, b"2")) if way == "waiting" else None
                await asyncio.sleep(0)
                both.set()
                await first
                if second is not None:
                    assert (await second).body == b"ok"
                assert server.connections == 2

    run_on(loop, main())


def test_a_connection_is_closed_when_memory_to_pool_it_is_lacking(loop: str) -> None:
    async def main() -> None:
        ended = asyncio.Event()

        async def serve(peer: Peer) -> None:
            try:
                await peer.request()
            finally:
                ended.set()

        async with serving(serve) as server, HttpClient() as client:
            client._connections.open = FullDict()
            with pytest.raises(MemoryError):
                await client.get(server.url)
            await asyncio.wait_for(ended.wait(), 30)
            pool = client._connections.pool
            assert client._connections.open == {} and pool is not None
            await until(lambda: pool.total == 0, "the descriptor is gone")

    run_on(loop, main())


def test_repeated_requests_are_equal_and_keep_no_fields(loop: str) -> None:
    async def main() -> None:
        told: list[Any] = []

        async def serve(peer: Peer) -> None:
            while True:
                told.append(await peer.request())
                await peer.send(OK.replace(b"ok", b"") if told[-1][0].startswith("HEAD") else OK)

        async with serving(serve) as server, HttpClient() as client:
            for _ in range(2):
                await client.get(server.url)
                await client.get(server.url, headers={"X": "y"})
                await client.request("HEAD", server.url)
                await client.get(server.url + "/other")
            assert told[:4] == told[4:] and len({repr(request) for request in told}) == 4
            assert "x" in told[1][1] and "x" not in told[0][1]
            assert server.connections == 1
        async with serving(serve) as server, HttpClient(headers={"Connection": "close"}) as client:
            for _ in range(3):
                await client.get(server.url)
            assert server.connections == 3

    run_on(loop, main())


def test_connections_are_reused(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server, HttpClient() as client:
            for _ in range(5):
                await client.get(server.url)
            assert server.connections == 1
            await asyncio.gather(*(client.get(server.url) for _ in range(5)))
            assert server.connections == 5

    run_on(loop, main())


@pytest.mark.parametrize(
    "answer",
    [
        OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        OK + b"x",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_which_connections_are_not_reused(loop: str, answer: bytes) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(answer)

        async with serving(serve) as server, HttpClient() as client:
            for _ in range(3):
                assert (await client.get(server.url)).body == b"ok"
            assert server.connections == 3

    run_on(loop, main())


def test_late_unexpected_bytes_never_reach_the_next_request(loop: str) -> None:
    async def main() -> None:
        spoken = asyncio.Event()

        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            if peer.number == 1:
                await asyncio.sleep(0)
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
                # The client must close the connection.
                assert await peer.reader.read() == b""
                spoken.set()
            await peer.request()
            await peer.send(OK)

        async with serving(serve) as server, HttpClient() as client:
            await client.get(server.url)
            await spoken.wait()
            assert (await client.get(server.url)).body == b"ok"
            assert server.connections == 2

    run_on(loop, main())


@pytest.mark.parametrize("end", ["bytes", "lost"])
def test_a_connection_that_ends_before_its_waiter_runs(loop: str, end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was given to a waiting POST when bytes or end of file arrived, before the task of the POST ran."""
    release = Pool.release

    def release_and_hear(pool: Pool, slot: PoolSlot, *, reusable: bool) -> None:
        release(pool, slot, reusable=reusable)
        if reusable and slot.connection is not None and len(told) == 1:
            if end == "bytes":
                slot.connection._received(b"HTTP/1.1 408 Too slow\r\n\r\n")
            else:
                slot.connection.transport.close()

    monkeypatch.setattr(Pool, "release", release_and_hear)
    told: list[Any] = []

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            while True:
                told.append(await peer.request())
                await peer.send(OK)

        async with serving(serve) as server, HttpClient(limits=Limits(connections=1)) as client:
            first, second = await asyncio.gather(client.get(server.url), client.post(server.url, b"once"))
            assert first.body == second.body == b"ok" and server.connections == 2
            assert [body for _, _, body in told] == [b"", b"once"]

    run_on(loop, main())


def test_a_stale_connection_is_replaced_once_for_idempotent_requests(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            if peer.number == 1:
                # Take the next request and close without an answer: the keep-alive race.
                await peer.request()
                return
            await peer.request()
            await peer.send(OK)

        async with serving(serve) as server, HttpClient() as client:
            await client.get(server.url)
            assert (await client.get(server.url)).body == b"ok"
            assert server.connections == 2

        async with serving(serve) as server, HttpClient() as client:
            await client.get(server.url)
            with pytest.raises(ServerDisconnected) as caught:
                await client.post(server.url, b"pay twice?")
            assert not caught.value.received
            assert server.connections == 1

    run_on(loop, main())


def test_a_request_is_repeated_at_most_once(loop: str) -> None:
    """The connection that it gets next was used by another request, and ends as the first one did."""

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            await peer.request()

        async with serving(serve) as server, HttpClient(limits=Limits(connections=1)) as client:
            await client.get(server.url)
            # The first gets the connection, the second waits for its slot, and the first then waits for the second's.
            first, second = await asyncio.gather(client.get(server.url), client.get(server.url), return_exceptions=True)
            assert isinstance(first, ServerDisconnected) and not first.received
            assert isinstance(second, Response) and second.body == b"ok"
            assert server.connections == 2

    run_on(loop, main())


def test_a_request_is_not_repeated_after_part_of_its_response(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(OK)
            await peer.request()
            await peer.send(OK[:10])

        async with serving(serve) as server, HttpClient() as client:
            await client.get(server.url)
            with pytest.raises(ServerDisconnected) as caught:
                await client.get(server.url)
            assert caught.value.received and server.connections == 1

    run_on(loop, main())


def test_a_new_connection_that_is_lost_is_not_replaced(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()

        async with serving(serve) as server, HttpClient() as client:
            with pytest.raises(ServerDisconnected, match="without a response"):
                await client.get(server.url)
            assert server.connections == 1

    run_on(loop, main())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal", ServerDisconnected),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhallo\r\n", ServerDisconnected),
        (b"HTTP/1.1 200 OK\r\nContent-", ServerDisconnected),
        (b"SSH-2.0-OpenSSH\r\n\r\n", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", RemoteProtocolError),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", DecodeError),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nabc", DecodeError),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70000, RemoteProtocolError),
    ],
)
def test_malformed_responses_are_errors(loop: str, answer: bytes, error: type[HttpError]) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer)

        async with serving(serve) as server, HttpClient() as client:
            with pytest.raises(error):
                await client.get(server.url)
            # Nothing remains that could affect the next request.
            with pytest.raises(error):
                await client.get(server.url)
            pool = client._connections.pool
            assert pool is not None
            await until(lambda: pool.total == 0, "the descriptors are gone")
            assert not pool.groups

    run_on(loop, main())


def test_a_body_that_ends_with_the_connection(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")

        async with serving(serve) as server:
            assert (await get(server.url)).body == b"until the end"

    run_on(loop, main())


def test_gzip_is_decoded_and_bounded(loop: str) -> None:
    async def main() -> None:
        text = b"x" * 100_000
        packed = gzip.compress(text)

        async def serve(peer: Peer) -> None:
            while True:
                await peer.request()
                await peer.send(
                    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed)
                )
                await peer.send(packed)

        async with serving(serve) as server:
            async with HttpClient() as client:
                assert (await client.get(server.url)).body == text
                async with client.stream("GET", server.url) as streamed:
                    assert await streamed.read() == text
                assert server.connections == 1
            async with HttpClient(decode=False) as client:
                assert (await client.get(server.url)).body == packed
            async with HttpClient(max_decoded=1000) as client:
                with pytest.raises(ResponseTooLarge, match="decodes to more"):
                    await client.get(server.url)
                with pytest.raises(ResponseTooLarge):
                    async with client.stream("GET", server.url) as streamed:
                        await streamed.read()

    run_on(loop, main())


def test_bodies_over_the_limit_are_refused(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
            await peer.request()

        async with serving(serve) as server, HttpClient(max_body=999) as client:
            with pytest.raises(ResponseTooLarge, match="over the limit of 999"):
                await client.get(server.url)
            async with client.stream("GET", server.url) as response:
                assert sum([len(piece) async for piece in response]) == 1000
        async with serving(serve) as server, HttpClient(max_body=1000) as client:
            assert len((await client.get(server.url)).body) == 1000

    run_on(loop, main())


def test_requests_for_long_urls_are_not_cached(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server, HttpClient() as client:
            await client.get(f"{server.url}/{'x' * HTTP_URL_CACHED_SIZE}")
            assert not client._head_cache
            await client.get(server.url)
            assert len(client._head_cache) == 1

    run_on(loop, main())
