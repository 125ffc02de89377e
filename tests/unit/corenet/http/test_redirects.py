"""Redirects: what is requested again and where, what is left out (RFC 9110 section 15.4), and where they end.

Every test runs on asyncio's loop and on ours.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.http_peer import LOOPS, Peer, run_on, serving

from corenet import tls
from corenet.http import (
    Cache,
    HttpClient,
    RedirectError,
    ResponseTooLarge,
    Retries,
)

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))

CREDENTIALS = {"Authorization": "secret", "Cookie": "a=b", "Proxy-Authorization": "Basic eA=="}


def redirecting(status: int, *locations: str) -> Any:
    """Redirect /start; answer everything else with the request line and the fields."""
    fields = "".join(f"Location: {location}\r\n" for location in locations)

    async def serve(peer: Peer) -> None:
        while True:
            line, headers, body = await peer.request()
            if line.split()[1] == "/start":
                await peer.send(f"HTTP/1.1 {status} Go\r\n{fields}Content-Length: 0\r\n\r\n".encode("latin-1"))
            else:
                said = json.dumps([line.split()[0], body.decode(), headers]).encode()
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)

    return serve


async def chain(peer: Peer) -> None:
    """/3 leads to /2, that to /1, that to /0, which is answered."""
    while True:
        left = int((await peer.request())[0].split()[1][1:])
        if left:
            await peer.send(b"HTTP/1.1 302 Go\r\nLocation: /%d\r\nContent-Length: 0\r\n\r\n" % (left - 1))
        else:
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


BODY_FIELDS = {
    "Content-Type": "text/plain",
    "Content-Encoding": "identity",
    "Content-Language": "en",
    "Content-Location": "/x",
    "Digest": "x",
    "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT",
}


@pytest.mark.parametrize(
    ("status", "method", "becomes"),
    [
        (301, "POST", "GET"),
        (301, "PUT", "PUT"),
        (301, "GET", "GET"),
        (302, "POST", "GET"),
        (302, "PUT", "PUT"),
        (303, "POST", "GET"),
        (303, "PUT", "GET"),
        (307, "POST", "POST"),
        (308, "POST", "POST"),
    ],
)
def test_methods_after_redirects(loop: str, status: int, method: str, becomes: str) -> None:
    async def main() -> None:
        async with serving(redirecting(status, "/next")) as server, HttpClient() as client:
            body = None if method == "GET" else b"data"
            asked = {} if body is None else BODY_FIELDS
            response = await client.request(method, server.url + "/start", body=body, headers=CREDENTIALS | asked)
            told, received, headers = response.json()
            assert (told, received) == (becomes, "data" if becomes == method and body else "")
            # Fields about the body are removed with it; credentials stay, because it is the same origin.
            kept = {name.lower(): value for name, value in asked.items()} if becomes == method else {}
            assert {name: headers[name] for name in headers if name in {n.lower() for n in BODY_FIELDS}} == kept
            assert {name: headers.get(name.lower()) for name in CREDENTIALS} == CREDENTIALS
            assert headers.get("content-length") == ("4" if kept else None) and "transfer-encoding" not in headers
            assert response.url == server.url + "/next"
            assert [(old.status, old.url) for old in response.history] == [(status, server.url + "/start")]
            assert server.connections == 1
            async with client.stream(method, server.url + "/start", body=body, headers=CREDENTIALS | asked) as streamed:
                assert json.loads(await streamed.read()) == [told, received, headers] and len(streamed.history) == 1

    run_on(loop, main())


@pytest.mark.parametrize("where", ["default", "request"])
def test_credentials_stay_with_their_origin(loop: str, where: str) -> None:
    """Another port of the same host is another origin, and each of the fields alone could give access there."""

    async def main() -> None:
        fields = {**CREDENTIALS, "X-Kept": "yes", "Host": "intern.example"}
        async with serving(redirecting(302, "")) as other:
            async with serving(redirecting(302, other.url + "/next")) as server:
                async with HttpClient(headers=fields if where == "default" else {}) as client:
                    given = {} if where == "default" else fields
                    response = await client.get(server.url + "/start", headers=given)
                    assert response.url == other.url + "/next" and other.connections == 1
                    _, _, headers = response.json()
                    assert {name.lower() for name in CREDENTIALS}.isdisjoint(headers)
                    assert headers["x-kept"] == "yes" and headers["host"] == f"127.0.0.1:{other.port}"
                    # The next request to the first origin has them again.
                    _, _, headers = (await client.get(server.url + "/x", headers=given)).json()
                    assert {name: headers[name.lower()] for name in fields} == fields

    run_on(loop, main())


@pytest.mark.parametrize("cached", [False, True])
def test_long_bodies_of_redirects_are_not_kept(loop: str, cached: bool) -> None:
    """Each of them may be as long as `max_body` and `max_decoded` allow, and there may be many."""
    bodies = {2: b"short", 1: gzip.compress(bytes(1 << 20))}

    async def serve(peer: Peer) -> None:
        while True:
            left = int((await peer.request())[0].split()[1][1:])
            body, coding = bodies.get(left, b"ok"), b"Content-Encoding: gzip\r\n" if left == 1 else b""
            head = b"302 Go\r\nLocation: /%d" % (left - 1) if left else b"200 OK"
            await peer.send(b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (head, coding, len(body), body))

    async def main() -> None:
        cache = Cache() if cached else None
        async with serving(serve) as server, HttpClient(cache=cache) as client:
            response = await client.get(server.url + "/2")
            assert response.body == b"ok" and [old.body for old in response.history] == [b"short", b""]
            async with client.stream("GET", server.url + "/2") as streamed:
                assert await streamed.read() == b"ok" and all(len(old.body) < 10 for old in streamed.history)

    run_on(loop, main())


def test_the_number_of_redirects_is_bounded(loop: str) -> None:
    async def main() -> None:
        async with serving(chain) as server, HttpClient(follow_redirects=3) as client:
            response = await client.get(server.url + "/3")
            assert response.body == b"ok" and len(response.history) == 3
            with pytest.raises(RedirectError, match="more than 3 redirects"):
                await client.get(server.url + "/4")

    run_on(loop, main())


def test_redirects_from_https_to_http_need_permission(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        authority = Authority(tmp_path)
        leaf = authority.leaf("localhost")
        client_context = tls.client_context(cafile=authority.cafile)
        async with serving(redirecting(302, "")) as plain:
            place = redirecting(302, plain.url + "/next")
            async with serving(place, tls=tls.server_context(leaf.certificate, leaf.key)) as server:
                async with HttpClient(tls_context=client_context) as client:
                    with pytest.raises(RedirectError, match="from https to"):
                        await client.get(server.url + "/start")
                    assert plain.connections == 0
                async with HttpClient(tls_context=client_context, allow_downgrade=True) as client:
                    response = await client.get(server.url + "/start", headers=CREDENTIALS)
                    assert {name.lower() for name in CREDENTIALS}.isdisjoint(response.json()[2])

    run_on(loop, main())


def test_a_redirect_with_two_locations_is_refused(loop: str) -> None:
    async def main() -> None:
        async with serving(redirecting(302, "/a", "/b")) as server, HttpClient() as client:
            with pytest.raises(RedirectError, match="2 Location fields"):
                await client.get(server.url + "/start")

    run_on(loop, main())


@pytest.mark.parametrize("location", ["/start", "ftp://example.com/", "http://user:pass@127.0.0.1/", "http://", "a\\b"])
def test_redirects_without_a_usable_location(loop: str, location: str) -> None:
    async def main() -> None:
        async with serving(redirecting(302, location)) as server, HttpClient() as client:
            with pytest.raises(RedirectError):
                await client.get(server.url + "/start")

    run_on(loop, main())


def test_redirects_are_returned_when_not_followed(loop: str) -> None:
    async def main() -> None:
        async with serving(redirecting(302, "/next")) as server, HttpClient(follow_redirects=0) as client:
            response = await client.get(server.url + "/start")
            assert response.status == 302 and response.headers["location"] == "/next"

    run_on(loop, main())


def test_a_location_may_be_utf_8(loop: str) -> None:
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


def test_a_redirect_whose_body_was_cut_short_counts(loop: str) -> None:
    """A retry after it goes to the target, so the redirect has been followed."""

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            line, _, _ = await peer.request()
            if line.startswith("GET /start"):
                await peer.send(b"HTTP/1.1 302 Go\r\nLocation: /x\r\nContent-Length: 100\r\n\r\nshort")
            else:
                await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        async with serving(serve) as server, HttpClient(retries=Retries(count=1)) as client:
            async with client.stream("GET", server.url + "/start") as response:
                assert response.status == 200 and [one.status for one in response.history] == [302]

    run_on(loop, main())


def test_a_stream_cannot_be_sent_twice(loop: str) -> None:
    async def main() -> None:
        async with serving(redirecting(307, "/next")) as server, HttpClient() as client:
            with pytest.raises(RedirectError, match="it was a stream"):
                await client.post(server.url + "/start", iter([b"x"]))

    run_on(loop, main())
