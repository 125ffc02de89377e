"""Requests through the client as users write them: arguments, credentials, retries, Expect, parts of a response.

Every test runs on asyncio's loop and on ours.
"""

import asyncio
import json
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.certs import Authority
from support.h2_peer import h2_site
from support.http_peer import LOOPS, OK, Peer, run_on, serving

import corenet.http.upload
from corenet import tls
from corenet.http import (
    BearerAuth,
    DigestAuth,
    HttpClient,
    InvalidUrl,
    RedirectError,
    ResponseTooLarge,
    Retries,
    ServerDisconnected,
    Timeout,
)
from corenet.http.events import Response as Head
from corenet.limits import HTTP_EVENT_SIZE, HTTP_EXPECT_SIZE, HTTP_LINE_SIZE

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))

Serve = Callable[[Peer], Awaitable[None]]
Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


@pytest.fixture
def contexts(tmp_path: Path) -> Contexts:
    """Of a server that offers HTTP/2, and of a client that trusts it."""
    authority = Authority(tmp_path)
    leaf = authority.leaf("localhost")
    return (
        tls.server_context(leaf.certificate, leaf.key, alpn=tls.ALPN_HTTP2),
        tls.client_context(cafile=authority.cafile, alpn=tls.ALPN_HTTP2),
    )


def scripted(answers: list[bytes], seen: list[Any]) -> Serve:
    """Answer each request with the next of `answers`; an empty one closes the connection."""

    async def serve(peer: Peer) -> None:
        while True:
            seen.append(await peer.request())
            answer = answers.pop(0) if answers else OK
            if not answer:
                return
            await peer.send(answer)

    return serve


def answer(status: int, fields: str = "", body: bytes = b"") -> bytes:
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body


def test_every_kind_of_body_is_sent(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "note.txt"
    path.write_bytes(b"file content")

    async def some() -> AsyncIterator[bytes]:
        yield b"ab"

    async def main() -> None:
        seen: list[Any] = []
        async with serving(scripted([], seen)) as server, HttpClient(base_url=server.url + "/v1") as client:
            await client.get("users", params={"q": "a b", "tag": ["x", "y"]})
            await client.post("/json", json={"ä": 1})
            await client.post("json", json=[], headers={"Content-Type": "application/vnd.api+json"})
            await client.post("form", data={"a": "1", "b": "ü &"})
            await client.put("file", content=path)
            with path.open("rb") as file:
                await client.patch("file", file)
                await client.post("files", data={"k": "v"}, files={"up": file})
            await client.post("stream", content=some())
            await client.delete("x")
            assert (await client.head("x")).body == b""
            async with client.stream("POST", "s", json=1) as response:
                assert await response.read() == b"ok"
        lines = [line for line, _, _ in seen]
        assert lines[0] == "GET /v1/users?q=a+b&tag=x&tag=y HTTP/1.1" and "content-type" not in seen[0][1]
        assert seen[1][2] == '{"ä":1}'.encode() and seen[1][1]["content-type"] == "application/json"
        assert seen[2][1]["content-type"] == "application/vnd.api+json"
        assert seen[3][2] == b"a=1&b=%C3%BC+%26"
        assert seen[3][1]["content-type"] == "application/x-www-form-urlencoded"
        assert seen[4][2] == seen[5][2] == b"file content" and seen[4][1]["content-length"] == "12"
        boundary = seen[6][1]["content-type"].removeprefix("multipart/form-data; boundary=")
        assert len(boundary) == 32 and seen[6][2].count(b"--" + boundary.encode()) == 3
        assert b'filename="note.txt"\r\nContent-Type: text/plain\r\n\r\nfile content\r\n' in seen[6][2]
        assert seen[6][1]["content-length"] == str(len(seen[6][2]))
        assert seen[7][1]["transfer-encoding"] == "chunked" and seen[7][2] == b"2\r\nab\r\n0\r\n\r\n"
        assert lines[8:] == ["DELETE /v1/x HTTP/1.1", "HEAD /v1/x HTTP/1.1", "POST /v1/s HTTP/1.1"]

    run_on(loop, main())


def test_a_content_type_cannot_replace_the_boundary(loop: str) -> None:
    async def main() -> None:
        async with HttpClient() as client:
            fields = {"Content-Type": "multipart/form-data"}
            with pytest.raises(ValueError, match="boundary"):
                await client.post("http://127.0.0.1:9/", files={"a": b"b"}, headers=fields)

    run_on(loop, main())


def test_a_file_is_sent_again_after_a_redirect(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 100_000)

    async def main() -> None:
        seen: list[Any] = []
        answers = [answer(307, "Location: /there\r\n"), OK, answer(307, "Location: /there\r\n")]
        async with serving(scripted(answers, seen)) as server, HttpClient() as client:
            with path.open("rb") as file:
                response = await client.post(server.url, files={"f": file})
            with pytest.raises(RedirectError, match="stream"):
                await client.post(server.url, iter([b"a"]))
        assert [line for line, _, _ in seen[:2]] == ["POST / HTTP/1.1", "POST /there HTTP/1.1"]
        assert seen[0][2] == seen[1][2] and len(seen[0][2]) > 100_000 and len(response.history) == 1

    run_on(loop, main())


# --- credentials ------------------------------------------------------------------------------------------------------


def test_credentials_stay_with_their_origin(loop: str) -> None:
    async def main() -> None:
        here: list[Any] = []
        there: list[Any] = []
        async with serving(scripted([], there)) as other:
            away = answer(302, f"Location: {other.url}/\r\n")
            answers = [answer(302, "Location: /same\r\n"), away, away, away]
            async with serving(scripted(answers, here)) as server:
                async with HttpClient(auth=("u", "p"), base_url=server.url) as client:
                    await client.get("/")
                    await client.get("/", auth=BearerAuth("tok"))
                    await client.get(other.url)
                    await client.get("/", auth=None)
                async with HttpClient(url_credentials=True) as client:
                    await client.get(f"http://me:pw@127.0.0.1:{server.port}/")
                    await client.get(server.url, auth=("a", "b"), headers={"X": "y"})
        sent = [headers.get("authorization") for _, headers, _ in here]
        assert sent[:4] == ["Basic dTpw", "Basic dTpw", "Bearer tok", None]
        assert sent[4:] == ["Basic bWU6cHc=", "Basic YTpi"]
        assert all(headers["host"] == f"127.0.0.1:{server.port}" for _, headers, _ in here)
        assert len(there) == 4 and not any("authorization" in headers for _, headers, _ in there)

    run_on(loop, main())


def test_contradicting_credentials_are_refused(loop: str) -> None:
    async def main() -> None:
        async with HttpClient(auth=("u", "p"), url_credentials=True) as client:
            for url, headers in (("http://a:b@127.0.0.1:9/", {}), ("http://127.0.0.1:9/", {"Authorization": "x"})):
                with pytest.raises(ValueError, match="exclude each other"):
                    await client.get(url, headers=headers, auth=("x", "y"))
            with pytest.raises(ValueError, match="user names in the URL and an Authorization field"):
                await client.get("http://a:b@127.0.0.1:9/", headers={"Authorization": "x"})
        async with HttpClient() as client:
            with pytest.raises(InvalidUrl, match="user names"):
                await client.get("http://a:b@127.0.0.1:9/", params={"x": 1})

    run_on(loop, main())


def test_an_authorization_field_replaces_the_credentials_of_the_client(loop: str) -> None:
    async def main() -> None:
        seen: list[Any] = []
        async with serving(scripted([], seen)) as server, HttpClient(auth=("u", "p")) as client:
            await client.get(server.url, headers={"authorization": "Mine x"})
        assert seen[0][1]["authorization"] == "Mine x"

    run_on(loop, main())


CHALLENGE = 'WWW-Authenticate: Digest realm="r", qop="auth", nonce="{}", algorithm=SHA-256{}\r\n'


@pytest.mark.parametrize("streamed", [False, True])
def test_digest_answers_a_challenge_and_reuses_its_nonce(loop: str, streamed: bool) -> None:
    async def main() -> None:
        seen: list[Any] = []
        refused = answer(401, CHALLENGE.format("one", ""), b"no")
        stale = answer(401, CHALLENGE.format("two", ", stale=true"))
        answers = [refused, OK, OK, stale, OK, refused, refused]
        async with serving(scripted(answers, seen)) as server, HttpClient(auth=DigestAuth("u", "p")) as client:

            async def send(path: str) -> int:
                if not streamed:
                    return (await client.post(server.url + path, json={"a": 1})).status
                async with client.stream("POST", server.url + path, json={"a": 1}) as response:
                    await response.read()
                    return response.status

            assert [await send("/a"), await send("/b?c"), await send("/c"), await send("/d")] == [200, 200, 200, 401]
            assert server.connections == 1
        fields = [headers.get("authorization") for _, headers, _ in seen]
        assert fields[0] is None and len(fields) == 7
        found = [(f.split('nonce="')[1].split('"')[0], f.split("nc=")[1].split(",")[0]) for f in fields[1:] if f]
        assert found == [
            ("one", "00000001"), ("one", "00000002"), ("one", "00000003"), ("two", "00000001"), ("two", "00000002"),
            ("one", "00000001"),
        ]  # fmt: skip
        assert 'uri="/b?c"' in str(fields[2]) and all(body == b'{"a":1}' for _, _, body in seen)

    run_on(loop, main())


# --- retries ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Records the delays instead of waiting."""
    waited: list[float] = []
    real = asyncio.sleep

    async def sleep(delay: float, result: Any = None) -> Any:
        waited.append(delay)
        return await real(0, result)

    monkeypatch.setattr("corenet.http.client.asyncio.sleep", sleep)
    return waited


BUSY = answer(503, "Retry-After: 4\r\n", b"busy")


@pytest.mark.parametrize("streamed", [False, True])
def test_an_idempotent_request_is_retried(loop: str, streamed: bool, waits: list[float]) -> None:
    async def main() -> None:
        seen: list[Any] = []
        # On a new connection, because the keep-alive race on a used one is repeated in any case.
        busy = BUSY.replace(b"Retry", b"Connection: close\r\nRetry")
        async with serving(scripted([busy, b"", OK], seen)) as server, HttpClient(retries=Retries()) as client:
            if streamed:
                async with client.stream("PUT", server.url, content=b"data") as response:
                    assert await response.read() == b"ok"
            else:
                assert (await client.put(server.url, b"data")).body == b"ok"
        assert [body for _, _, body in seen] == [b"data"] * 3
        asked = [delay for delay in waits if delay]
        assert asked[0] == 4.0 and len(asked) == 2 and 0 < asked[1] <= 0.4

    run_on(loop, main())


@pytest.mark.parametrize(
    ("method", "options", "requests", "status"),
    [
        ("GET", {}, 3, 503),
        ("POST", {}, 1, 503),
        ("GET", {"retries": None}, 1, 503),
        ("GET", {"retries": Retries(statuses=[500])}, 1, 503),
        ("GET", {"retries": Retries(max_delay=3)}, 1, 503),
        ("GET", {"timeout": 3}, 1, 503),
        ("PUT", {"content": "iterator"}, 1, 503),
    ],
)
def test_when_requests_are_not_retried(
    loop: str, method: str, options: Any, requests: int, status: int, waits: list[float]
) -> None:
    async def main() -> None:
        seen: list[Any] = []
        given = {**options, "content": iter([b"x"])} if "content" in options else options
        async with serving(scripted([BUSY] * 9, seen)) as server, HttpClient(retries=Retries()) as client:
            assert (await client.request(method, server.url, **given)).status == status
        assert len(seen) == requests

    run_on(loop, main())


def test_a_connection_that_is_refused_is_retried_within_the_budget(loop: str, waits: list[float]) -> None:
    async def main() -> None:
        seen: list[Any] = []
        async with serving(scripted([b""] * 99, seen)) as server, HttpClient() as client:
            for _ in range(6):
                with pytest.raises(ServerDisconnected):
                    await client.get(server.url, retries=Retries(count=3))
            assert len(seen) == 6 + 10

    run_on(loop, main())


# --- what a response tells --------------------------------------------------------------------------------------------


def test_a_response_has_its_links_and_connection_facts(loop: str) -> None:
    async def main() -> None:
        link = 'Link: </p?page=2>; rel="next last", <mailto:x@y>; rel=author, <http://h/>; title*=UTF-8\'\'%C3%A4\r\n'
        async with serving(scripted([answer(200, link)], [])) as server, HttpClient() as client:
            first = await client.get(server.url + "/p")
            second = await client.get(server.url)
        assert [(one.url, one.rel) for one in first.links] == [
            (server.url + "/p?page=2", ("next", "last")), ("http://h/", ()),
        ]  # fmt: skip
        assert first.links[1].params == {"title": "ä"}
        assert first.connection is not None and second.connection is not None
        assert first.connection.peer == ("127.0.0.1", server.port) and first.connection.tls_version == ""
        assert (first.connection.reused, second.connection.reused) == (False, True)
        assert 0 <= first.elapsed < 30 and first.http_version == "HTTP/1.1"

    run_on(loop, main())


def test_a_response_has_its_early_hints_and_trailers(loop: str, contexts: Contexts) -> None:
    async def main() -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload\r\n\r\n"
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nSum: 1\r\n\r\n"
        async with serving(scripted([hints + chunked], [])) as server, HttpClient() as client:
            response = await client.get(server.url)
            plain = await client.get(server.url)
        assert [(one.status, one.headers["link"]) for one in response.informational] == [(103, "</s.css>; rel=preload")]
        assert response.trailers["sum"] == "1" and plain.informational == ()
        async with h2_site(contexts[0]) as site, HttpClient(tls_context=contexts[1]) as client:
            async with client.stream("GET", site.url + "/trailers") as streamed:
                assert await streamed.read() == b"checked"
            assert [one.status for one in streamed.informational] == [103] and streamed.trailers["sum"] == "1"
            facts = streamed.connection
            assert facts is not None and facts.tls_version == "TLSv1.3" and "AES" in facts.cipher and not facts.resumed
            assert streamed.http_version == "HTTP/2" and not facts.reused

    run_on(loop, main())


def test_lines_and_events_are_read_from_a_stream(loop: str) -> None:
    stream = b"\xef\xbb\xbf: hi\ndata: a\r\ndata\rdata:b\nid: 7\nevent: e\nretry: 50\n\ndata: last\r\n\r\ndata: no end"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Type: text/event-stream\r\n\r\n"
    pieces = b"".join(b"1\r\n" + stream[at : at + 1] + b"\r\n" for at in range(len(stream))) + b"0\r\n\r\n"

    async def main() -> None:
        latin = answer(200, "Content-Type: text/plain; charset=latin1\r\n", b"\xe9\r\n\r\nz\x80")
        async with serving(scripted([head + pieces, latin], [])) as server, HttpClient() as client:
            async with client.stream("GET", server.url) as response:
                events = [event async for event in response.events()]
            assert [(e.data, e.event, e.id, e.retry) for e in events] == [
                ("a\n\nb", "e", "7", 50), ("last", "message", "7", None),
            ]  # fmt: skip
            async with client.stream("GET", server.url) as response:
                assert [line async for line in response.lines()] == ["é", "", "z€"]

    run_on(loop, main())


@pytest.mark.parametrize("line", [b"x" * (HTTP_LINE_SIZE + 1), b"data:" + b"x" * 1023 + b"\n"])
def test_the_length_of_lines_and_events_is_bounded(loop: str, line: bytes) -> None:
    async def main() -> None:
        body = line * (HTTP_EVENT_SIZE // 1024 + 1) if line.endswith(b"\n") else line
        async with serving(scripted([answer(200, "", body)], [])) as server, HttpClient() as client:
            async with client.stream("GET", server.url) as response:
                with pytest.raises(ResponseTooLarge, match=r"a line|the data of an event"):
                    async for _ in response.events():
                        pass

    run_on(loop, main())


# --- Expect: 100-continue ---------------------------------------------------------------------------------------------

LARGE = bytes(HTTP_EXPECT_SIZE)


async def head_of(peer: Peer) -> dict[str, str]:
    head = (await peer.reader.readuntil(b"\r\n\r\n")).decode()
    return dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:-2])


def test_a_large_body_waits_for_100_continue(loop: str) -> None:
    async def main() -> None:
        received: list[Any] = []

        async def serve(peer: Peer) -> None:
            received.append(await head_of(peer))
            # Nothing of the body was sent: the client waits for this.
            received.append(len(peer.reader._buffer))  # type: ignore[attr-defined]
            await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
            received.append(len(await peer.reader.readexactly(len(LARGE))))
            await peer.send(OK)

        async with serving(serve) as server, HttpClient(expect_continue=True) as client:
            response = await client.post(server.url, LARGE)
        assert received[0]["expect"] == "100-continue" and received[0]["content-length"] == str(len(LARGE))
        assert received[1:] == [0, len(LARGE)] and [one.status for one in response.informational] == [100]

    run_on(loop, main())


def test_a_refused_body_is_not_sent(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corenet.http.upload, "HTTP_EXPECT_TIMEOUT", 30.0)

    async def main() -> None:
        received: list[int] = []

        async def serve(peer: Peer) -> None:
            await head_of(peer)
            await peer.send(b"HTTP/1.1 413 No\r\nContent-Length: 4\r\n\r\nfull")
            received.append(len(await peer.reader.read()))

        async with serving(serve) as server, HttpClient() as client:
            response = await client.post(server.url, LARGE, expect_continue=True)
            assert response.status == 413 and response.body == b"full"

    run_on(loop, main())


def test_a_refused_body_is_not_sent_after_the_timeout(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout expires between the head and the end of the refusal."""
    monkeypatch.setattr(corenet.http.upload, "HTTP_EXPECT_TIMEOUT", 0.0)

    async def main() -> None:
        for status, sent in ((413, 0), (200, 1)):
            pieces: list[bytes] = []
            connection = SimpleNamespace(
                loop=asyncio.get_running_loop(), response=Head(status, []), drain_waiter=None,
                write_piece=pieces.append, write_end=lambda: None,
            )  # fmt: skip
            upload = corenet.http.upload.Upload([b"x"])
            upload.start(connection, expect=True)  # type: ignore[arg-type]
            upload.answered(status)
            for _ in range(100):
                await asyncio.sleep(0)
            assert len(pieces) == sent
            await upload.close(math.inf)

    run_on(loop, main())


def test_a_server_without_expect_support_gets_the_body(loop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client does not wait longer than the limit, and after 417 it sends the request without Expect."""
    monkeypatch.setattr(corenet.http.upload, "HTTP_EXPECT_TIMEOUT", 0.01)

    async def main() -> None:
        seen: list[Any] = []

        async def serve(peer: Peer) -> None:
            if not seen:
                seen.append(await head_of(peer))
                await peer.send(answer(417))
                return
            seen.append(await peer.request())
            await peer.send(OK)

        async with serving(serve) as server, HttpClient(expect_continue=True) as client:
            assert (await client.put(server.url, LARGE)).status == 200
            assert (await client.put(server.url, LARGE)).status == 200
        assert "expect" in seen[0] and "expect" not in seen[1][1] and "expect" in seen[2][1]
        assert [len(body) for _, _, body in seen[1:]] == [len(LARGE)] * 2

    run_on(loop, main())


def test_expect_over_http2(loop: str, contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corenet.http.upload, "HTTP_EXPECT_TIMEOUT", 30.0)

    async def main() -> None:
        async with h2_site(contexts[0]) as site, HttpClient(tls_context=contexts[1]) as client:
            # The site answers this path at once with 413, that one with 200 and an echo.
            assert (await client.post(site.url + "/early", LARGE, expect_continue=True)).status == 413
            response = await client.post(site.url + "/duplex", LARGE, expect_continue=True, timeout=Timeout(total=60))
            assert response.status == 200 and len(response.body) == len(LARGE)
            assert (b"expect", b"100-continue") in [(n.lower(), v) for n, v in site.requests[0].headers.raw]

    run_on(loop, main())


def test_json_of_a_response(loop: str) -> None:
    async def main() -> None:
        body = json.dumps({"ü": 1}).encode("utf-16")
        async with serving(scripted([answer(200, "", body)], [])) as server, HttpClient() as client:
            assert (await client.get(server.url)).json() == {"ü": 1}

    run_on(loop, main())


def test_retries_of_a_wrong_type(loop: str) -> None:
    async def main() -> None:
        seen: list[Any] = []
        async with serving(scripted([OK], seen)) as server, HttpClient() as client:
            with pytest.raises(TypeError, match="Retries, not int"):
                await client.get(server.url, retries=3)  # type: ignore[arg-type]
        assert not seen

    run_on(loop, main())
