"""The client with a cache: fresh, validated, stale and invalidated responses, and what the server is asked."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.http_peer import LOOPS, Peer, Server, run_on, serving, until

from corenet import tls
from corenet.http import Cache, DigestAuth, HttpClient, Response, ServerDisconnected
from corenet.http import cache as cache_module

pytestmark = pytest.mark.parametrize("loop", sorted(LOOPS))


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Script:
    """Answers with the next of `answers`, repeating the last one; None closes the connection."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, dict[str, str]]] = []

    async def serve(self, peer: Peer) -> None:
        while True:
            line, fields, _ = await peer.request()
            self.asked.append((line, fields))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if answer is None:
                return
            await peer.send(answer.encode())


def answer(*fields: str, status: str = "200 OK", body: str = "body") -> str:
    lines = [f"HTTP/1.1 {status}", *fields]
    if status[:3] not in ("304", "204"):
        lines.append(f"Content-Length: {len(body)}")
        return "\r\n".join([*lines, "", body])
    return "\r\n".join([*lines, "", ""])


FRESH = "Cache-Control: max-age=10"
Use = Callable[[HttpClient, Server, Cache, Clock], Any]


def play(loop: str, script: Script, use: Use, *, path: Path | None = None) -> None:
    async def main() -> None:
        clock = Clock()
        cache = Cache(path, clock=clock)
        async with serving(script.serve) as server, HttpClient(cache=cache) as client:
            await use(client, server, cache, clock)
        cache.close()

    run_on(loop, main())


def how(response: Response) -> str | None:
    return response.headers.get("cache-status")


@pytest.mark.parametrize("file", [False, True])
def test_a_fresh_response_is_not_requested_again(loop: str, tmp_path: Path, file: bool) -> None:
    script = Script(answer(FRESH, body="one"), answer(FRESH, body="two"))

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        first = await client.get(server.url + "/a#x")
        clock.now += 9
        second = await client.get(server.url + "/a#y")
        assert first.body == second.body == b"one" and len(script.asked) == 1
        assert how(first) == "corenet; fwd=uri-miss; stored" and how(second) == "corenet; hit"
        assert second.headers["age"] == "9" and "age" not in first.headers and second.url == server.url + "/a#y"
        assert (second.status, second.reason, second.http_version) == (200, "OK", "HTTP/1.1")
        clock.now += 1
        assert (await client.get(server.url + "/a")).body == b"two"
        assert (cache.hits, cache.misses, cache.failures, len(cache)) == (1, 2, 0, 1)

    play(loop, script, use, path=tmp_path / "cache" if file else None)


def test_a_stale_response_is_validated(loop: str) -> None:
    etag = 'ETag: "1"'
    script = Script(
        answer(etag, FRESH, "X: old"), answer(etag, FRESH, "X: new", status="304 Not Modified"), answer(body="second")
    )

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        await client.get(server.url)
        clock.now += 20
        validated = await client.get(server.url)
        assert (validated.status, validated.body, validated.headers["x"]) == (200, b"body", "new")
        assert script.asked[1][1]["if-none-match"] == '"1"'
        assert how(validated) == "corenet; hit; fwd=stale; fwd-status=304"
        clock.now += 9
        assert how(await client.get(server.url)) == "corenet; hit"
        clock.now += 9
        # The new response cannot be stored, and what it replaces is gone.
        assert (await client.get(server.url)).body == b"second" and len(cache) == 0
        await client.get(server.url)
        assert "if-none-match" not in script.asked[-1][1]

    play(loop, script, use)


def test_a_304_for_another_representation_repeats_the_request(loop: str) -> None:
    script = Script(
        answer('ETag: "1"', body="one"), answer('ETag: "2"', status="304 Not Modified"), answer('ETag: "2"', body="two")
    )

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        await client.get(server.url)
        assert (await client.get(server.url)).body == b"two"
        assert "if-none-match" not in script.asked[2][1] and len(script.asked) == 3

    play(loop, script, use)


def test_ranges_and_conditional_requests_bypass_the_cache(loop: str) -> None:
    script = Script(
        answer(FRESH, "Content-Range: bytes 0-3/8", status="206 Partial Content"),
        answer(FRESH, 'ETag: "1"', status="304 Not Modified"),
        answer(FRESH, body="whole"),
    )

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        assert (await client.get(server.url, headers={"Range": "bytes=0-3"})).status == 206
        assert (await client.get(server.url, headers={"If-None-Match": '"1"'})).status == 304
        assert len(cache) == 0
        assert (await client.get(server.url)).body == b"whole"
        await client.get(server.url, headers={"Range": "bytes=0-3"})
        assert len(script.asked) == 4

    play(loop, script, use)


def test_an_unrequested_206_is_not_stored(loop: str) -> None:
    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        assert (await client.get(server.url)).status == 206 and len(cache) == 0

    play(loop, Script(answer(FRESH, status="206 Partial Content")), use)


def test_a_truncated_response_is_not_stored(loop: str) -> None:
    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(f"HTTP/1.1 200 OK\r\n{FRESH}\r\nContent-Length: 99\r\n\r\nabc".encode())

        cache = Cache()
        async with serving(serve) as server, HttpClient(cache=cache) as client:
            with pytest.raises(ServerDisconnected):
                await client.get(server.url)
            assert len(cache) == 0
        cache.close()

    run_on(loop, main())


def test_vary_and_authorization_select_the_stored_response(loop: str) -> None:
    script = Script(
        answer(FRESH, "Vary: X-Kind", body="none"),
        answer(FRESH, "Vary: X-Kind", body="kind a"),
        answer(FRESH, "Vary: X-Kind", body="user 1"),
        answer(FRESH, "Vary: X-Kind", body="user 2"),
    )

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        asked: list[tuple[dict[str, str], bytes]] = [
            ({}, b"none"),
            ({"X-Kind": "a"}, b"kind a"),
            ({"Authorization": "1"}, b"user 1"),
            ({"Authorization": "2"}, b"user 2"),
        ]
        for _ in range(2):
            for headers, body in asked:
                assert (await client.get(server.url, headers=headers)).body == body
        assert len(script.asked) == 4

    play(loop, script, use)


@pytest.mark.parametrize(
    ("method", "status", "gone"),
    [("POST", "200 OK", True), ("PUT", "204 No Content", True), ("DELETE", "302 Found", True),
     ("POST", "404 Not Found", False), ("POST", "500 Error", False), ("OPTIONS", "200 OK", False)],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_unsafe_methods_invalidate_stored_responses(
    loop: str, method: str, status: str, gone: bool, stream: bool
) -> None:
    script = Script(*[answer(FRESH)] * 4, answer("Content-Location: /named", status=status))

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        for path in ("/", "/named", "/other", "/?q"):
            await client.get(server.url + path)
        assert len(cache) == 4
        if stream:
            async with client.stream(method, server.url, body=b"x") as response:
                await response.read()
        else:
            await client.request(method, server.url, body=b"x")
        assert len(cache) == (2 if gone else 4)

    play(loop, script, use)


def test_another_origin_is_not_invalidated(loop: str) -> None:
    other = Script(answer(FRESH))
    script = Script("")

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        async with serving(other.serve) as elsewhere:
            await client.get(elsewhere.url + "/a")
            location = f"Location: {elsewhere.url}/a"
            script.answers = [answer(location, "Content-Location: http://[", status="201 Created")]
            await client.post(server.url + "/b", b"x")
            assert len(cache) == 1

    play(loop, script, use)


def test_request_directives_bypass_stored_responses(loop: str) -> None:
    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        for headers in ({}, {"Cache-Control": "no-cache"}, {"Pragma": "no-cache"}, {"Cache-Control": "no-store"}):
            await client.get(server.url, headers=headers)
        assert len(script.asked) == 4
        assert how(await client.get(server.url, headers={"Cache-Control": "only-if-cached"})) == "corenet; hit"
        missing = await client.get(server.url + "/x", headers={"Cache-Control": "only-if-cached"})
        assert missing.status == 504 and len(script.asked) == 4

    script = Script(answer(FRESH))
    play(loop, script, use)


def test_redirects_are_stored_by_their_own_url(loop: str) -> None:
    script = Script(answer(FRESH, "Location: /end", status="301 Moved Permanently"), answer(FRESH, body="end"))

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        for _ in range(2):
            response = await client.get(server.url + "/start")
            assert (response.body, response.url) == (b"end", server.url + "/end")
            assert [step.status for step in response.history] == [301]
        assert len(script.asked) == 2 and len(cache) == 2

    play(loop, script, use)


def test_stale_while_revalidate(loop: str) -> None:
    control = "Cache-Control: max-age=10, stale-while-revalidate=20"
    script = Script(answer(control, body="one"), answer(control, body="two"))

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        await client.get(server.url)
        clock.now += 15
        stale = await asyncio.gather(*(client.get(server.url) for _ in range(3)))
        assert {response.body for response in stale} == {b"one"}
        await until(lambda: client._layer is not None and not client._layer._tasks, "the revalidation")
        assert len(script.asked) == 2
        assert (await client.get(server.url)).body == b"two"

    play(loop, script, use)


def test_a_client_that_closes_ends_its_revalidations(loop: str) -> None:
    control = "Cache-Control: max-age=10, stale-while-revalidate=20"

    async def main() -> None:
        clock = Clock()
        cache = Cache(clock=clock)

        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(answer(control).encode())
            await peer.reader.read()

        async with serving(serve) as server, HttpClient(cache=cache) as client:
            await client.get(server.url)
            clock.now += 15
            await client.get(server.url)
        assert client._layer is not None and not client._layer._tasks
        cache.close()

    run_on(loop, main())


@pytest.mark.parametrize("failure", [None, answer(status="503 Unavailable")])
@pytest.mark.parametrize("allowed", [True, False])
def test_stale_if_error(loop: str, failure: str | None, allowed: bool) -> None:
    script = Script(answer(FRESH + (", stale-if-error=60" if allowed else "")), failure)

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        await client.get(server.url)
        clock.now += 30
        if allowed:
            response = await client.get(server.url)
            assert response.body == b"body" and "stale-if-error" in str(how(response))
        elif failure is None:
            with pytest.raises(ServerDisconnected):
                await client.get(server.url)
        else:
            assert (await client.get(server.url)).status == 503
        # Neither the error nor its absence has removed what is stored.
        assert len(cache) == 1

    play(loop, script, use)


def test_a_failing_store_does_not_fail_requests(loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        for name in ("find", "put", "remove"):
            monkeypatch.setattr(cache._store, name, fail)
        assert (await client.get(server.url)).body == b"body"
        assert cache.failures == 2
        assert (await client.post(server.url, b"x")).body == b"body"
        assert cache.failures == 3

    play(loop, Script(answer(FRESH)), use, path=tmp_path / "cache")


@pytest.mark.parametrize("bound", [1, 10])
def test_a_removal_that_failed_is_made_up(
    loop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int
) -> None:
    """RFC 9111 section 4.4: after a DELETE the stored response is not used, although the store could not remove it."""
    monkeypatch.setattr(cache_module, "HTTP_CACHE_UNREMOVED", bound)

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        urls = [f"{server.url}/{number}" for number in range(3)]
        for url in urls:
            assert (await client.get(url)).body == b"old"

        def fail(*_: Any) -> None:
            raise sqlite3.OperationalError("database is locked")

        with monkeypatch.context() as patched:
            for name in ("remove", "clear"):
                patched.setattr(cache._store, name, fail)
            for url in urls:
                await client.delete(url)
            assert (await client.get(urls[0])).body == b"new", "not from the store while the removal is due"
        for url in urls:
            assert (await client.get(url)).body == b"new"
        assert how(await client.get(urls[2])) == "corenet; hit" and cache.failures >= 4

    olds = [answer(FRESH, body="old")] * 3 + [answer(body="gone")] * 3
    play(loop, Script(*olds, answer(FRESH, body="new")), use, path=tmp_path / "cache")


def test_decoded_bodies_are_stored(loop: str) -> None:
    import gzip

    packed = gzip.compress(b"text" * 100)
    head = f"HTTP/1.1 200 OK\r\n{FRESH}\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()

    async def main() -> None:
        async def serve(peer: Peer) -> None:
            await peer.request()
            await peer.send(head + packed)
            await peer.reader.read()

        cache = Cache()
        async with serving(serve) as server, HttpClient(cache=cache) as client:
            bodies = [(await client.get(server.url)).body for _ in range(2)]
        assert bodies == [b"text" * 100] * 2
        cache.close()

    run_on(loop, main())


def test_a_response_belongs_to_the_credentials_that_were_sent(loop: str) -> None:
    challenge = 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"'
    script = Script(
        answer(challenge, status="401 Unauthorized"), answer(FRESH, body="of the user"), answer(FRESH, body="of all")
    )

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        # The first request is looked up without credentials, and sent again with them.
        assert (await client.get(server.url, auth=DigestAuth("user", "secret"))).body == b"of the user"
        assert "authorization" in script.asked[-1][1]
        async with HttpClient(cache=cache) as other:
            assert (await other.get(server.url)).body == b"of all"
        assert (await client.get(server.url)).body == b"of all" and len(script.asked) == 3

    play(loop, script, use)


def test_digest_requests_find_their_stored_responses(loop: str) -> None:
    challenge = 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"'
    refusal = answer(challenge, status="401 Unauthorized")
    private = answer("Cache-Control: private, max-age=10", body="one")
    script = Script(refusal, private, refusal, answer(FRESH, body="two"), answer(FRESH, body="three"))

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        auth = DigestAuth("user", "secret")
        assert (await client.get(server.url, auth=auth)).body == b"one"
        # Also for another object with the same credentials; another password or name is another user.
        for same in (auth, DigestAuth("user", "secret")):
            again = await client.get(server.url, auth=same)
            assert (again.body, how(again)) == (b"one", "corenet; hit")
        assert len(script.asked) == 2
        assert (await client.get(server.url, auth=DigestAuth("user", "other"))).body == b"two"
        # The lookups have not used up numbers of the nonce's counter.
        clock.now += 20
        assert (await client.get(server.url, auth=auth)).body == b"three"
        assert "nc=00000002" in script.asked[-1][1]["authorization"] and len(script.asked) == 5

    play(loop, script, use)


def test_a_given_host_field_bypasses_the_cache(loop: str) -> None:
    script = Script(answer(FRESH, body="other host"), answer(FRESH, body="this host"), answer(FRESH, body="again"))

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        other = {"Host": "other.example"}
        assert (await client.get(server.url, headers=other)).body == b"other host" and len(cache) == 0
        assert (await client.get(server.url)).body == b"this host"
        assert (await client.get(server.url, headers=other)).body == b"again"

    play(loop, script, use)


def test_unix_sockets_do_not_share_responses(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        cache = Cache(clock=Clock())
        for name in ("one", "two"):

            async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = name) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer(FRESH, "Connection: close", body=name).encode())
                writer.close()
                await writer.wait_closed()

            path = str(tmp_path / name)
            server = await asyncio.start_unix_server(accept, path)
            async with HttpClient(unix_socket=path, cache=cache) as client:
                assert (await client.get("http://localhost/")).text == name
                assert how(await client.get("http://localhost/")) == "corenet; hit"
            server.close()
            await server.wait_closed()
        cache.close()

    run_on(loop, main())


class Moved(Script):
    """Redirects from / to another origin."""

    async def serve(self, peer: Peer) -> None:
        while True:
            line, fields, _ = await peer.request()
            self.asked.append((line.split()[1], fields))
            port = fields["host"].rpartition(":")[2]
            moved = ("Cache-Control: max-age=10, stale-while-revalidate=20", f"Location: http://localhost:{port}/other")
            await peer.send((answer(*moved, status="302 Found") if line.split()[1] == "/" else answer()).encode())


def test_a_revalidation_keeps_the_fields_that_a_redirect_drops(loop: str) -> None:
    script = Moved()

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        for _ in range(2):
            response = await client.get(server.url, headers={"Authorization": "Bearer secret"})
            assert len(response.history) == 1
            clock.now += 15
        await until(lambda: client._layer is not None and not client._layer._tasks, "the revalidation")
        sent = [fields.get("authorization") for path, fields in script.asked if path == "/"]
        assert sent == ["Bearer secret", "Bearer secret"]
        assert all("authorization" not in fields for path, fields in script.asked if path == "/other")

    play(loop, script, use)


@pytest.mark.parametrize("options", [{"decode": False}, {"tls_context": tls.client_context(verify=False)}])
def test_clients_that_see_other_bytes_share_no_responses(loop: str, options: dict[str, Any]) -> None:
    script = Script(answer(FRESH, body="one"), answer(FRESH, body="two"))

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        async with HttpClient(cache=cache, **options) as other:
            assert (await other.get(server.url)).body == b"one" and how(await other.get(server.url)) == "corenet; hit"
        assert (await client.get(server.url)).body == b"two" and len(cache) == 2

    play(loop, script, use)


def test_clients_with_another_proxy_or_trust_share_no_responses(loop: str, tmp_path: Path) -> None:
    """Only what is as trustworthy as the client's own requests may answer them."""
    script = Script(*(answer(FRESH, body=str(number)) for number in range(4)))
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    one, two = (Authority(tmp_path / name) for name in ("one", "two"))

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        bodies = []
        for options in (
            {"proxy": f"127.0.0.1:{server.port}"},
            {"tls_context": tls.client_context(cafile=str(one.cafile))},
            {"tls_context": tls.client_context(cafile=str(one.cafile))},
            {"tls_context": tls.client_context(cafile=str(two.cafile))},
            {},
        ):
            async with HttpClient(cache=cache, **options) as other:  # type: ignore[arg-type]
                bodies.append((await other.get(server.url)).body)
        assert bodies == [b"0", b"1", b"1", b"2", b"3"]

    play(loop, script, use)


def test_a_stored_challenge_is_not_used_for_a_request_that_can_answer_it(loop: str) -> None:
    refusal = answer(FRESH, 'WWW-Authenticate: Digest realm="r", nonce="n", qop="auth"', status="401 Unauthorized")
    script = Script(refusal, refusal, answer(body="secret"))

    async def use(client: HttpClient, server: Server, cache: Cache, clock: Clock) -> None:
        assert (await client.get(server.url)).status == 401
        assert how(await client.get(server.url)) == "corenet; hit"
        assert (await client.get(server.url, auth=DigestAuth("user", "password"))).text == "secret"
        assert len(script.asked) == 3

    play(loop, script, use)


def test_fields_of_the_connection_are_not_stored(loop: str) -> None:
    """RFC 9111 section 3.1: a stored response has no connection."""
    script = Script(answer(FRESH, "Connection: keep-alive, x-hop", "Keep-Alive: timeout=9", "X-Hop: 1", "X-End: 2"))

    async def use(client: HttpClient, server: Server, _cache: Cache, _clock: Clock) -> None:
        first = await client.get(server.url)
        assert first.headers["x-hop"] == "1"
        again = await client.get(server.url)
        assert again.headers["cache-status"] == "corenet; hit" and again.headers["x-end"] == "2"
        assert not {"Connection", "Keep-Alive", "X-Hop"} & set(dict(again.headers))

    play(loop, script, use)
