"""httpx on our connections: fields, bodies, errors, timeouts, ends. Every test runs on asyncio's loop and on ours.

httpx's own tests of its client run with the transport in `make suites`.
"""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.certs import Authority
from support.http_peer import LOOPS, OK, Peer, always_ok, run_on, serving

from corenet import tls
from corenet.adapters.httpx import Transport
from corenet.http import HttpClient, Limits

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))


def test_a_request_has_only_the_fields_of_httpx(loop: str) -> None:
    async def main() -> None:
        seen: list[Any] = []

        async def serve(peer: Peer) -> None:
            while True:
                seen.append(await peer.request())
                await peer.send(OK)

        async with serving(serve) as server, httpx.AsyncClient(transport=Transport()) as client:
            del client.headers["user-agent"]
            answer = await client.post(f"{server.url}/a/../b?q=1%202", json={"a": 1}, headers={"X-Own": "1"})
            await client.get(server.url, auth=("name", "secret"))
        assert answer.status_code == 200
        assert answer.text == "ok"
        assert answer.http_version == "HTTP/1.1"
        assert answer.reason_phrase == "OK"
        (line, fields, body), (_, second, _) = seen
        assert line == "POST /b?q=1%202 HTTP/1.1"
        assert body == b'{"a":1}'
        assert fields["x-own"] == "1"
        assert fields["host"] == f"127.0.0.1:{server.port}"
        assert "user-agent" not in fields
        assert second["authorization"] == "Basic bmFtZTpzZWNyZXQ="
        assert server.connections == 1

    run_on(loop, main())


def test_streamed_request_bodies_are_sent(loop: str) -> None:
    async def main() -> None:
        seen: list[tuple[dict[str, str], bytes]] = []

        async def serve(peer: Peer) -> None:
            while True:
                _, fields, body = await peer.request()
                seen.append((fields, body))
                await peer.send(OK)

        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            yield b"two"

        async with serving(serve) as server, httpx.AsyncClient(transport=Transport()) as client:
            await client.put(server.url, content=pieces())
            await client.put(server.url, content=pieces(), headers={"Content-Length": "6"})
            await client.post(server.url)
        (chunked, first), (sized, second), (empty, _) = seen
        assert chunked["transfer-encoding"] == "chunked"
        assert first == b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        assert "transfer-encoding" not in sized
        assert second == b"onetwo"
        assert empty["content-length"] == "0"

    run_on(loop, main())


def test_a_coded_body_is_decoded_once_by_httpx(loop: str) -> None:
    import gzip

    async def main() -> None:
        coded = gzip.compress(b"text")

        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(
                b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(coded) + coded
            )

        async with serving(serve) as server, httpx.AsyncClient(transport=Transport()) as client:
            async with client.stream("GET", server.url) as answer:
                raw = b"".join([piece async for piece in answer.aiter_raw()])
            assert raw == coded
        async with serving(serve) as server, httpx.AsyncClient(transport=Transport()) as client:
            assert (await client.get(server.url)).text == "text"

    run_on(loop, main())


def test_redirects_are_left_to_httpx(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            while True:
                line, _, _ = await peer.request()
                moved = b"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n"
                await peer.send(OK if "/there" in line else moved)

        async with serving(serve) as server, httpx.AsyncClient(transport=Transport()) as client:
            assert (await client.get(server.url)).status_code == 302
            followed = await client.get(server.url, follow_redirects=True)
            assert [one.status_code for one in (*followed.history, followed)] == [302, 200]

    run_on(loop, main())


def test_a_response_left_early_frees_its_connection(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            line, _, _ = await peer.request()
            if "long" in line:
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbegin")
                await peer.reader.read()
            else:
                await peer.send(OK)

        one = Transport(limits=Limits(connections=1, per_origin=1))
        async with serving(serve) as server, httpx.AsyncClient(transport=one) as client:
            async with client.stream("GET", f"{server.url}/long") as answer:
                assert answer.status_code == 200
            assert (await client.get(server.url)).text == "ok"
            assert server.connections == 2

    run_on(loop, main())


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", httpx.RemoteProtocolError),
        (b"no HTTP at all\r\n\r\n", httpx.RemoteProtocolError),
        (HALF, httpx.ReadError),
    ],
    ids=["nothing", "not HTTP", "cut short"],
)
def test_errors_of_the_server_are_exceptions_of_httpx(loop: str, reply: bytes, error: type[Exception]) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            if reply:
                await peer.send(reply)

        async with serving(serve) as server, httpx.AsyncClient(transport=Transport()) as client:
            with pytest.raises(error) as raised:
                await client.get(server.url)
            assert raised.value.request.url == server.url
            assert raised.value.__cause__ is not None

    run_on(loop, main())


def test_errors_of_connecting_are_exceptions_of_httpx(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server:
            pass
        async with httpx.AsyncClient(transport=Transport()) as client:
            with pytest.raises(httpx.ConnectError, match="refused"):
                await client.get(server.url)
            with pytest.raises(httpx.UnsupportedProtocol):
                await client.get("ftp://127.0.0.1/")
            with pytest.raises(httpx.LocalProtocolError):
                await client.get("http://127.0.0.1/", headers={"X": "a\r\nb"})

    run_on(loop, main())


@pytest.mark.parametrize(
    ("limit", "error"), [("read", httpx.ReadTimeout), ("pool", httpx.PoolTimeout)], ids=["read", "pool"]
)
def test_timeouts_of_the_request_are_enforced(loop: str, limit: str, error: type[Exception]) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(HALF)
            await peer.reader.read()

        one = Transport(limits=Limits(connections=1, per_origin=1))
        async with serving(serve) as server, httpx.AsyncClient(transport=one, timeout=None) as client:
            short = httpx.Timeout(None, **{limit: 0.01})
            if limit == "read":
                with pytest.raises(error):
                    await client.get(server.url, timeout=short)
            else:
                async with client.stream("GET", server.url):
                    with pytest.raises(error):
                        await client.get(server.url, timeout=short)

    run_on(loop, main())


def test_a_silent_proxy_is_a_timeout(loop: str) -> None:
    async def silent(peer: Peer) -> None:
        await peer.reader.read()

    async def main() -> None:
        async with (
            serving(silent) as server,
            HttpClient(follow_redirects=0, decode=False, proxy=server.url) as ours,
            httpx.AsyncClient(transport=Transport(client=ours), timeout=None) as client,
        ):
            with pytest.raises(httpx.ConnectTimeout, match="stopped at proxy"):
                await client.get("https://example.com/", timeout=httpx.Timeout(None, connect=0.05))

    run_on(loop, main())


def test_a_given_client_is_not_closed(loop: str) -> None:
    async def main() -> None:
        async with serving(always_ok) as server, HttpClient(follow_redirects=0, decode=False) as ours:
            async with httpx.AsyncClient(transport=Transport(client=ours)) as client:
                await client.get(server.url)
            await ours.get(server.url)
            assert server.connections == 1

    run_on(loop, main())


def test_tls_uses_the_given_context_and_refuses_untrusted_servers(loop: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("localhost")

    async def main() -> None:
        trusting = tls.client_context(cafile=str(authority.cafile))
        async with serving(always_ok, tls=tls.server_context(leaf.certificate, leaf.key)) as server:
            async with httpx.AsyncClient(transport=Transport(tls_context=trusting)) as client:
                assert (await client.get(server.url)).text == "ok"
            async with httpx.AsyncClient(transport=Transport()) as client:
                with pytest.raises(httpx.ConnectError, match="certificate"):
                    await client.get(server.url)

    run_on(loop, main())


def test_concurrent_requests_are_not_mixed_up(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            while True:
                line, _, _ = await peer.request()
                number = line.split()[1].encode()
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(number), number))

        async with serving(serve) as server, httpx.AsyncClient(transport=Transport()) as client:
            answers = await asyncio.gather(*(client.get(f"{server.url}/{number}") for number in range(100)))
            assert [answer.text for answer in answers] == [f"/{number}" for number in range(100)]

    run_on(loop, main())
