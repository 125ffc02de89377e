"""Redirects: what is asked again and where, what stays behind (RFC 9110 section 15.4), and where it ends.

Every test runs on asyncio's loop and on ours.
"""

from typing import Any

import pytest
from support.http_peer import LOOPS, Peer, run_on, serving

from corenet.http import (
    HttpClient,
    RedirectError,
    ResponseTooLarge,
)

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))


def redirecting(status: int, location: str) -> Any:
    async def serve(peer: Peer) -> None:
        while True:
            line, headers, body = await peer.request()
            if line.split()[1] == "/start":
                await peer.send(
                    f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode("latin-1")
                )
            else:
                said = (
                    f"{line.split()[0]} {body!r} {headers.get('authorization')} {headers.get('content-type')}".encode()
                )
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)

    return serve


@pytest.mark.parametrize(
    ("status", "method", "said"),
    [
        (301, "POST", "GET b'' secret None"),
        (302, "POST", "GET b'' secret None"),
        (302, "PUT", "PUT b'data' secret text/plain"),
        (303, "POST", "GET b'' secret None"),
        (303, "PUT", "GET b'' secret None"),
        (307, "POST", "POST b'data' secret text/plain"),
        (308, "POST", "POST b'data' secret text/plain"),
    ],
)
def test_methods_over_redirects(loop: str, status: int, method: str, said: str) -> None:
    async def main() -> None:
        async with serving(redirecting(status, "/next")) as server, HttpClient() as client:
            fields = {"Authorization": "secret", "Content-Type": "text/plain"}
            response = await client.request(method, server.url + "/start", body=b"data", headers=fields)
            assert response.text == said
            assert response.url == server.url + "/next"
            assert [old.status for old in response.history] == [status]
            assert server.connections == 1
            async with client.stream(method, server.url + "/start", body=b"data", headers=fields) as streamed:
                assert (await streamed.read()).decode() == said and len(streamed.history) == 1

    run_on(loop, main())


@pytest.mark.parametrize("where", ["default", "request"])
def test_credentials_stay_with_their_origin(loop: str, where: str) -> None:
    async def main() -> None:
        secret = {"Authorization": "secret", "Cookie": "a=b"}
        async with serving(redirecting(302, "")) as other:
            async with serving(redirecting(302, other.url + "/next")) as server:
                async with HttpClient(headers=secret if where == "default" else {}) as client:
                    response = await client.get(server.url + "/start", headers={} if where == "default" else secret)
                    assert response.text == "GET b'' None None"
                    assert (await client.get(server.url + "/x", headers=secret)).text == "GET b'' secret None"

    run_on(loop, main())


@pytest.mark.parametrize("location", ["/start", "ftp://example.com/", "http://user:pass@127.0.0.1/", "http://", "a b"])
def test_redirects_that_lead_nowhere(loop: str, location: str) -> None:
    async def main() -> None:
        async with serving(redirecting(302, location)) as server, HttpClient() as client:
            with pytest.raises(RedirectError):
                await client.get(server.url + "/start")

    run_on(loop, main())


def test_redirects_can_be_looked_at(loop: str) -> None:
    async def main() -> None:
        async with serving(redirecting(302, "/next")) as server, HttpClient(follow_redirects=0) as client:
            response = await client.get(server.url + "/start")
            assert response.status == 302 and response.headers["location"] == "/next"

    run_on(loop, main())


def test_a_location_in_utf_8(loop: str) -> None:
    async def main() -> None:
        async with serving(redirecting(302, "/\xc3\xa4")) as server, HttpClient() as client:
            assert (await client.get(server.url + "/start")).url == server.url + "/%C3%A4"

    run_on(loop, main())


def test_the_body_of_a_redirect_is_bounded(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(b"HTTP/1.1 302 Go\r\nLocation: /x\r\nContent-Length: 1000000\r\n\r\n")
            for _ in range(100):
                await peer.send(bytes(10000))

        async with serving(serve) as server, HttpClient(max_body=5000) as client:
            with pytest.raises(ResponseTooLarge):
                async with client.stream("GET", server.url):
                    pass

    run_on(loop, main())


def test_a_stream_cannot_be_sent_twice(loop: str) -> None:
    async def main() -> None:
        async with serving(redirecting(307, "/next")) as server, HttpClient() as client:
            with pytest.raises(RedirectError, match="which was a stream"):
                await client.post(server.url + "/start", iter([b"x"]))

    run_on(loop, main())
