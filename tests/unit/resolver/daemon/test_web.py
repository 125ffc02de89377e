"""The web page without a browser: who may read it, what each request gets, and what the document permits."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from support.http_peer import run_on

from resolver import limits
from resolver.daemon import web_server as module
from resolver.daemon.config import ConfigError, parse
from resolver.daemon.control import RequestError
from resolver.daemon.management_http import Reply, Request, parse_head
from resolver.daemon.web_access import WebAccess, read_token
from resolver.daemon.web_data import WebData
from resolver.daemon.web_page import load_page
from resolver.daemon.web_server import RESULTS, WebServer
from resolver.net.stream_listener import open_stream_socket
from resolver.settings import WebSettings

TOKEN = "0123456789abcdef" * 4
HOST = b"Host: 127.0.0.1:9336\r\n"
BEARER = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
WRONG = b"Authorization: Bearer " + TOKEN[::-1].encode() + b"\r\n"


# --- settings, token and hosts ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "wrong"), [
    ("listen = '192.0.2.1'", "2: web.listen: '192.0.2.1' is not a loopback address"),
    ("listen = '0.0.0.0:80'", "use an SSH tunnel or a proxy with TLS"),
    ("listen = 'localhost'", "not an IP address"),
    ("listen = '127.0.0.1'", "web.token-file: web.listen needs the file of a token"),
    ("hosts = ['a..b']", "not a domain name"),
    (f"hosts = {['a'] * (limits.WEB_HOSTS + 1)}", "the limit is"),
    ("token = 'x'", "unknown"),
])
def test_settings_that_are_refused(text: str, wrong: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(f"[web]\n{text}\n", source="c")
    assert wrong in str(refused.value)


def test_another_address_needs_an_option() -> None:
    parsed = parse("[web]\nlisten = '[::]:80'\nallow-remote = true\ntoken-file = 'x'\n", directory="/etc").web
    assert parsed.listen == "[::]:80" and parsed.token_file == "x"
    assert not parse("").web.listen


@pytest.mark.parametrize("text", [
    TOKEN, TOKEN.upper() + "\n", "AAECAwQFBgcICQoLDA0ODw==", " q7J-_0Zk.3~aBcDeFgHiJk+/12 \r\n",
])
def test_tokens(tmp_path: Path, text: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    for mode in (0o600, 0o400, 0o640):
        path.chmod(mode)
        assert read_token(str(path)).decode() == text.strip()


@pytest.mark.parametrize(("text", "mode", "wrong"), [
    (TOKEN, 0o644, "mode 0644"), (TOKEN, 0o660, "mode 0660"), (TOKEN, 0o601, "mode 0601"),
    ("", 0o600, "one line"), ("two words", 0o600, "one line"), (f"{TOKEN}\n{TOKEN}", 0o600, "one line"),
    ("ä" * 40, 0o600, "one line"), (TOKEN[:31], 0o600, "could be guessed"), ("AAECAwQFBgcICQoLDA0O", 0o600, "guessed"),
    ("ab" * 40, 0o600, "could be guessed"), (TOKEN * 17, 0o600, "more than"),
])
def test_token_files_that_are_refused(tmp_path: Path, text: str, mode: int, wrong: str) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(ValueError, match=wrong) as refused:
        read_token(str(path))
    assert str(refused.value).startswith(f"web.token_file: {str(path)!r}")
    assert not text or text not in str(refused.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for name, wrong in (("none", "No such file"), ("fifo", "not a regular file"), (".", "directory|regular")):
        with pytest.raises(ValueError, match=wrong):
            read_token(str(tmp_path / name))


def access(listen: str = "127.0.0.1", *hosts: str) -> WebAccess:
    return WebAccess(WebSettings(listen=listen, token_file="x", hosts=hosts, allow_remote=True), TOKEN.encode())


@pytest.mark.parametrize(("listen", "good", "bad"), [
    ("127.0.0.1", ["127.0.0.1", "127.0.0.1:1", "localhost", "LOCALHOST.:80", "dns.example", "dns.Example.:9"],
     ["127.0.0.2", "evil.example", "dns.example.evil.example", "127.0.0.1.evil.example", "", "localhost:1:2", "[::1]",
      "127.0.0.1@evil", "127.1", "2130706433"]),
    ("::1", ["[::1]", "[0:0:0:0:0:0:0:1]:443", "localhost"], ["::1x", "[::2]", "[::1", "::]", "127.0.0.1"]),
    ("0.0.0.0", ["192.0.2.7", "192.0.2.7:80", "dns.example"], ["192.0.2.8", "localhost", "0.0.0.0.evil"]),
    ("[2001:db8::1]:80", ["[2001:DB8::1]"], ["localhost", "192.0.2.7"]),
])
def test_hosts(listen: str, good: list[str], bad: list[str]) -> None:
    found = access(listen, "dns.example")
    assert [host for host in good if not found.admits_host(host, "192.0.2.7")] == []
    assert [host for host in bad if found.admits_host(host, "192.0.2.7")] == []
    assert not found.admits_host(None, "192.0.2.7")


def test_the_scheme_of_a_token() -> None:
    found = access()
    for text in (f"Bearer {TOKEN}", f"BEARER  {TOKEN} "):
        assert found.admits_token(text)
    wrong = (TOKEN, f"Basic {TOKEN}", "Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xff")
    for text in wrong:
        assert not found.admits_token(text)


@pytest.mark.parametrize(("head", "wrong"), [
    (b"GET http://x/ HTTP/1.1", "path"), (b"GET / HTTP/2", "path"), (b"GET  / HTTP/1.1", "path"), (b"", "path"),
    (b"GET /\x80 HTTP/1.1", "path"), (b"OPTIONS * HTTP/1.1", "path"),
    (b"GET / HTTP/1.1\r\n folded: x", "malformed"), (b"GET / HTTP/1.1\r\nHost : x", "malformed"),
    (b"GET / HTTP/1.1\r\nX: a\nHost: b", "malformed"), (b"GET / HTTP/1.1\r\nX: \0", "malformed"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nhost: b", "more than one host"),
    (b"GET / HTTP/1.1\r\nAuthorization: a\r\nauthorization: a", "more than one authorization"),
])
def test_heads_that_are_refused(head: bytes, wrong: str) -> None:
    found = parse_head(head + b"\r\n\r\n")
    assert isinstance(found, str) and wrong in found


def test_a_head() -> None:
    head = b"POST /a?b=c?d HTTP/1.0\r\nHost:\t x \r\nX: \r\nX: 2\r\n\r\n"
    assert parse_head(head) == Request("POST", "/a", "b=c?d", {"host": "x", "x": "2"})


# --- requests -----------------------------------------------------------------------------------------------------


class Source:
    """Numbers that count the calls; an explanation that waits until it may end."""

    def __init__(self) -> None:
        self.looks: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str, bool]] = []
        self.trouble = ""
        self.gate = asyncio.Event()
        self.gate.set()

    async def look(self, request: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        self.looks.append(request)
        await asyncio.sleep(0)
        if self.trouble:
            raise RequestError(self.trouble)
        number = len(self.looks)
        begun = "watch" in request
        statistics = {
            "policy": {"actions": {"question.rpz a.b.drop": 10 * number, "question.lists.answer": 0}},
            "upstream": {"udp_sent": 100 * number, "udp_replies": 90 * number, "udp_timeouts": number, "tcp_sent": 0},
            "lists": {"entries": {"ads": 3, "bad": 0}, "failing": {"ads": 0, "bad": 1}},
            "cache": {"hits_answer": 5, "servers_addresses": 7, "servers_dead": 2},
            "usage": {"items": {"jobs": 3, "zones": 0}, "items_limit": {"jobs": 4, "zones": 9},
                      "octets": {"cache": 1, "keys": 1, "rate_limits": 4},
                      "octets_limit": {"cache": 2, "keys": 8, "rate_limits": 4}},
        }
        return {"watch": "w", "activity": {"seconds": 2} if begun else None}, statistics

    async def status(self) -> dict[str, Any]:
        return {"workers": [{"worker": 0}], "cache": {"bytes_used": 1, "bytes_limit": 2, "entries_answer": 4}}

    async def health(self) -> dict[str, Any]:
        return {"healthy": True, "problems": []}

    async def servers(self) -> list[list[dict[str, Any]]]:
        one = {"zone": ".", "server": "192.0.2.1", "dead": False, "timeouts": 0, "seconds": 0.5}
        return [[one], [{**one, "seconds": 1.5, "timeouts": 2}, {**one, "server": "192.0.2.2", "dead": True,
                                                                "seconds": None}]]

    async def explain(self, name: str, rtype: str, seconds: float, *, fresh: bool) -> str:
        self.asked.append((name, rtype, fresh))
        await self.gate.wait()
        if rtype == "NONSENSE":
            raise RequestError("NONSENSE is not a type")
        return json.dumps({"name": name})


class Served:
    """A server on a free port."""

    def __init__(self, server: WebServer, source: Source, port: int) -> None:
        self.server, self.source, self.port = server, source, port

    async def send(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, fields and body of the reply."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(data)
            async with asyncio.timeout(30):
                head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
        first, *lines = head.decode().split("\r\n")
        return int(first.split()[1]), dict(line.split(": ", 1) for line in lines), body

    async def get(
        self, path: str, fields: bytes = HOST + BEARER, method: str = "GET"
    ) -> tuple[int, dict[str, str], bytes]:
        return await self.send(f"{method} {path} HTTP/1.1\r\n".encode() + fields + b"\r\n")

    def counted(self) -> dict[str, int]:
        return {name: count for name, count in self.server.statistics()["requests"].items() if count}


@pytest.fixture(params=["corenet", "asyncio"])
def served(request: pytest.FixtureRequest) -> Any:
    def runner(test: Any, given: WebAccess | None = None) -> None:
        async def main() -> None:
            source, listening = Source(), open_stream_socket("127.0.0.1", 0)
            server = WebServer(source, given)
            await server.start(listening)
            try:
                await test(Served(server, source, listening.getsockname()[1]))
            finally:
                server.close()

        run_on(request.param, main())

    return lambda test, given=access(): runner(test, given)  # noqa: B008


REQUESTS = [
    ("GET", "/", HOST, 200, "page"),
    ("HEAD", "/", HOST, 200, "page"),
    ("GET", "/?token=x", HOST, 200, "page"),
    ("GET", "/api/v1/overview", HOST + BEARER, 200, "overview"),
    ("HEAD", "/api/v1/overview", HOST + BEARER, 200, "overview"),
    ("GET", "/api/v1/explain?name=a.example", HOST + BEARER, 200, "explain"),
    ("GET", "/api/v1/explain?name=a&type=NONSENSE", HOST + BEARER, 400, "invalid"),
    ("GET", "/api/v1/explain", HOST + BEARER, 400, "invalid"),
    ("GET", "/api/v1/explain?name=a&token=b", HOST + BEARER, 400, "invalid"),
    ("GET", "/api/v1/explain?name=a&cache=maybe", HOST + BEARER, 400, "invalid"),
    ("GET", "/api/v1/explain?name=%ff", HOST + BEARER, 400, "invalid"),
    ("GET", "/api/v1/explain?name=" + "a" * limits.WEB_QUERY, HOST + BEARER, 400, "invalid"),
    ("GET", "/api/v1/overview", HOST, 401, "no-token"),
    ("GET", "/api/v1/explain?name=a", HOST, 401, "no-token"),
    ("GET", f"/api/v1/overview?token={TOKEN}", HOST, 401, "no-token"),
    ("GET", "/", b"", 421, "host"),
    ("GET", "/", b"Host: evil.example\r\n", 421, "host"),
    ("GET", "/api/v1/overview", b"Host: evil.example\r\n" + BEARER, 421, "host"),
    ("GET", "/index.html", HOST, 404, "path"),
    ("GET", "//", HOST, 404, "path"),
    ("GET", "/./", HOST, 404, "path"),
    ("GET", "/%2e%2e/etc/passwd", HOST, 404, "path"),
    ("GET", "/../../etc/passwd", HOST, 404, "path"),
    ("GET", "/api/v1/overview/", HOST + BEARER, 404, "path"),
    ("GET", "/api/v2/overview", HOST + BEARER, 404, "path"),
    ("GET", "/API/v1/overview", HOST + BEARER, 404, "path"),
    ("POST", "/api/v1/overview", HOST + BEARER, 405, "method"),
    ("OPTIONS", "/api/v1/overview", HOST + BEARER, 405, "method"),
    ("PUT", "/", HOST, 405, "method"),
    ("TRACE", "/", HOST, 405, "method"),
    ("get", "/", HOST, 405, "method"),
    ("GET", "/\x00", HOST, 400, "malformed"),
]


@pytest.mark.parametrize(("method", "path", "fields", "status", "result"), REQUESTS,
                         ids=[f"{one[0]} {one[1][:50]!r} {one[4]}" for one in REQUESTS])
def test_what_each_request_gets(served: Any, method: str, path: str, fields: bytes, status: int, result: str) -> None:
    async def test(page: Served) -> None:
        got, sent, body = await page.get(path, fields, method)
        assert (got, page.counted()) == (status, {result: 1})
        assert sent["Cache-Control"] == "no-store" and sent["X-Content-Type-Options"] == "nosniff"
        assert sent["Referrer-Policy"] == "no-referrer" and sent["Connection"] == "close"
        assert "frame-ancestors 'none'" in sent["Content-Security-Policy"]
        assert not any(name.lower().startswith("access-control") or name == "Set-Cookie" for name in sent)
        assert bool(body) == (method != "HEAD")
        if body:
            assert len(body) == int(sent["Content-Length"])
        if sent["Content-Type"] == "application/json" and body:
            content = json.loads(body)
            assert (status == 200) == ("error" not in content)
        if status == 401:
            assert sent["WWW-Authenticate"] == "Bearer"

    served(test)


def test_a_head_that_is_too_long(served: Any) -> None:
    async def test(page: Served) -> None:
        data = b"GET / HTTP/1.1\r\nX: " + b"x" * 2 * limits.WEB_REQUEST
        reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
        writer.write(data)
        async with asyncio.timeout(30):
            try:
                assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
            except ConnectionResetError:
                pass  # some of it was not read when the connection was closed
        writer.close()
        assert page.counted() == {"malformed": 1}

    served(test)


def test_a_request_that_does_not_end(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.02)

    async def test(page: Served) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
        writer.write(b"GET / HT")
        assert await reader.read() == b""
        writer.close()
        assert page.counted() == {"incomplete": 1}

    served(test)


def test_a_connection_above_the_limit_replaces_one_that_has_sent_nothing(
    served: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise whoever reaches the port could keep the operator out, without a token."""
    monkeypatch.setattr(module, "CONNECTIONS", 1)

    async def test(page: Served) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", page.port)
        writer.write(b"GET / HT")
        while not page.server.connections:
            await asyncio.sleep(0)
        assert (await page.get("/"))[0] == 200
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        assert page.counted() == {"connection-limit": 1, "page": 1}

    served(test)


def test_a_connection_above_the_limit_does_not_replace_a_request(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONNECTIONS", 1)

    async def test(page: Served) -> None:
        began, end = asyncio.Event(), asyncio.Event()
        real = page.server.reply

        async def reply(request: Any) -> Any:
            began.set()
            await end.wait()
            return await real(request)

        page.server.reply = reply
        first = asyncio.ensure_future(page.get("/"))
        await began.wait()
        reader, second = await asyncio.open_connection("127.0.0.1", page.port)
        assert await reader.read() == b""
        second.close()
        end.set()
        assert (await first)[0] == 200
        assert page.counted() == {"connection-limit": 1, "page": 1}

    served(test)


def test_wrong_tokens_wait_and_only_a_few_at_once(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The right one is served meanwhile."""
    monkeypatch.setattr(module, "REFUSAL", 3600.0)

    async def test(page: Served) -> None:
        wrong = [page.get("/api/v1/overview", HOST + WRONG) for _ in range(limits.WEB_REFUSALS)]
        waiting = [asyncio.ensure_future(one) for one in wrong]
        while page.server._refusals < limits.WEB_REFUSALS:
            await asyncio.sleep(0)
        for _ in range(20):
            status, sent, _ = await page.get("/api/v1/overview", HOST + WRONG)
            assert (status, sent["Retry-After"]) == (429, "1")
        assert (await page.get("/api/v1/overview"))[0] == 200
        assert page.counted() == {"wrong-token": 20, "overview": 1}
        for one in waiting:
            assert not one.done()
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    served(test)


def test_the_refusal_of_a_wrong_token(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFUSAL", 0.0)

    async def test(page: Served) -> None:
        for _ in range(3):
            assert (await page.get("/api/v1/overview", HOST + WRONG))[0] == 401
        assert page.counted() == {"wrong-token": 3} and not page.server._refusals and not page.source.looks

    served(test)


def test_another_token_and_none(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REFUSAL", 0.0)

    async def test(page: Served) -> None:
        assert (await page.get("/api/v1/overview"))[0] == 503  # the token file could not be read at a new start
        assert (await page.get("/"))[0] == 200
        page.server.switch(access())
        assert (await page.get("/api/v1/overview"))[0] == 200
        page.server.switch(WebAccess(WebSettings(listen="127.0.0.1", token_file="x"), TOKEN[::-1].encode()))
        assert (await page.get("/api/v1/overview"))[0] == 401
        assert (await page.get("/api/v1/overview", HOST + WRONG))[0] == 200

    served(test, None)


def test_names_are_passed_on_as_they_are(served: Any) -> None:
    async def test(page: Served) -> None:
        for query in ("name=%3Cb%3E.example&type=aaaa", "name=a+b&cache=no", "name=%20x.&type=&cache=yes"):
            assert (await page.get(f"/api/v1/explain?{query}"))[0] == 200
        assert page.source.asked == [("<b>.example", "AAAA", False), ("a b", "A", True), ("x.", "A", False)]

    served(test)


def test_few_explanations_at_once(served: Any) -> None:
    async def test(page: Served) -> None:
        page.source.gate.clear()
        waiting = [asyncio.ensure_future(page.get("/api/v1/explain?name=a")) for _ in range(limits.WEB_EXPLAINS)]
        while len(page.source.asked) < limits.WEB_EXPLAINS:
            await asyncio.sleep(0)
        assert (await page.get("/api/v1/explain?name=b"))[0] == 503
        page.source.gate.set()
        assert [(await one)[0] for one in waiting] == [200] * limits.WEB_EXPLAINS
        assert (await page.get("/api/v1/explain?name=b"))[0] == 200
        assert page.counted() == {"explain": limits.WEB_EXPLAINS + 1, "busy": 1}

    served(test)


def test_all_results_are_counted_from_the_start() -> None:
    assert WebServer(Source(), access()).statistics() == {"requests": dict.fromkeys(RESULTS, 0)}


# --- numbers ------------------------------------------------------------------------------------------------------


def test_pages_share_the_numbers_of_an_interval(served: Any) -> None:
    async def test(page: Served) -> None:
        replies = await asyncio.gather(*(page.get("/api/v1/overview") for _ in range(8)))
        assert {json.loads(body)["sequence"] for _, _, body in replies} == {1}
        assert len(page.source.looks) == 1 and "watch" not in page.source.looks[0]

    served(test)


def test_those_who_wait_for_slow_numbers_share_them() -> None:
    """With a worker that does not answer, gathering takes longer than the interval."""
    async def main() -> None:
        loop, late = asyncio.get_running_loop(), 0.0
        real = loop.time
        loop.time = lambda: real() + late  # type: ignore[method-assign]

        class Slow(Source):
            async def look(self, request: dict[str, Any]) -> tuple[dict[str, Any], Any]:
                nonlocal late
                await asyncio.sleep(0)
                late += 100
                return await super().look(request)

        source = Slow()
        data = WebData(source)
        found = await asyncio.gather(*(data.overview() for _ in range(8)))
        assert {one["sequence"] for one in found} == {1} and len(source.looks) == 1

    asyncio.run(main())


def test_the_numbers() -> None:
    async def main() -> None:
        source = Source()
        data = WebData(source)
        first = await data.overview()
        assert first["activity"] is None and first["policies"][0]["rate"] == 0
        data._before = (asyncio.get_running_loop().time() - 10, data._before[1])  # type: ignore[index]
        data._next = 0.0
        second = await data.overview()
        assert source.looks[1]["watch"] == "w" and second["activity"] == {"seconds": 2}
        assert (second["sequence"], second["instance"], second["version"]) == (2, first["instance"], 1)
        [policy] = second["policies"]
        assert policy == {"point": "question", "module": "rpz a.b", "action": "drop", "total": 20,
                          "rate": pytest.approx(1, rel=0.05)}
        [transport] = second["transports"]
        assert transport["totals"] == {"sent": 200, "replies": 180, "timeouts": 2}
        assert transport["rates"]["sent"] == pytest.approx(10, rel=0.05)
        assert [one["list"] for one in second["lists"]] == ["bad", "ads"] and second["lists"][0]["failing"]
        assert second["servers"] == [
            {"zone": ".", "server": "192.0.2.2", "dead": 1, "workers": 1, "timeouts": 0, "seconds": None},
            {"zone": ".", "server": "192.0.2.1", "dead": 0, "workers": 2, "timeouts": 2, "seconds": 1.0},
        ]
        assert second["cache"] == {"used": 1, "limit": 2, "entries": {"answer": 4}, "hits": {"answer": 5},
                                   "addresses": 7, "addresses_dead": 2}
        assert [(one["resource"], one["used"]) for one in second["tables"]] == [("jobs", 3), ("keys", 1)]

    asyncio.run(main())


def test_too_many_watch(served: Any) -> None:
    async def test(page: Served) -> None:
        page.source.trouble = "4 others watch already"
        status, _, body = await page.get("/api/v1/overview")
        assert (status, json.loads(body)) == (503, {"error": "4 others watch already"})
        page.source.trouble = ""
        assert (await page.get("/api/v1/overview"))[0] == 200
        assert page.counted() == {"failed": 1, "overview": 1}

    served(test)


# --- the document -------------------------------------------------------------------------------------------------

ASSETS = resources.files("resolver.daemon") / "assets"


def test_the_document_permits_its_own_parts_only() -> None:
    page, policy = load_page()
    text = page.decode()
    for tag in ("style", "script"):
        [(_, part)] = re.findall(f"<{tag}([^>]*)>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(part.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
    assert "connect-src 'self'" in policy and "require-trusted-types-for 'script'" in policy


def test_the_document_asks_for_nothing_else_and_makes_no_markup() -> None:
    page = load_page()[0].decode()
    assert len(page) < 40_000
    assert re.findall(r"https?://[^\"' ]+", page) == ["http://www.w3.org/2000/svg"]  # the name of SVG, not a request
    assert not re.search(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Function|DOMParser)\b", page)
    assert not re.search(r"<[^>]* (style|on\w+)=", page)
    assert re.findall(r" (?:src|href)=\"([^\"]*)\"", page) == ["data:,"]


def luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    if len(digits) == 3:
        digits = "".join(2 * digit for digit in digits)
    parts = (int(digits[at:at + 2], 16) / 255 for at in (0, 2, 4))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(("front", "back", "least"), [
    *((front, back, 4.5) for front in ("ink", "soft", "accent", "good", "bad", "open") for back in ("card", "page")),
    ("ink", "line", 4.5), ("ink", "share", 4.5), ("accent", "share", 4.5), ("on-accent", "accent", 4.5),
    ("good", "good-bg", 4.5), ("bad", "bad-bg", 4.5), ("open", "open-bg", 4.5), ("ink", "bad-bg", 4.5),
    ("ink", "open-bg", 4.5), ("edge", "card", 3), ("accent", "line", 3),
])
def test_contrast(scheme: int, front: str, back: str, least: float) -> None:
    """WCAG 2.2, 1.4.3 and 1.4.11: of text, and of the edges of controls."""
    style = (ASSETS / "page.css").read_text("utf-8")
    blocks = re.findall(r":root \{([^}]*)\}", style)
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", blocks[scheme]))
    light, dark = sorted((luminance(colours[front]), luminance(colours[back])), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= least


def test_each_field_has_a_label() -> None:
    page = (ASSETS / "page.html").read_text("utf-8")
    fields = [one for one in re.findall(r"<input [^>]*>", page) if "hidden" not in one]
    named = {re.search(r'id="(\w+)"', one)[1] for one in fields}  # type: ignore[index]
    labels = set(re.findall(r'<label [^>]*for="(\w+)"', page))
    within = set(re.findall(r'<label [^>]*><input id="(\w+)"', page))
    assert len(named) == 4 and named == labels | within, (named, labels, within)
    assert '<html lang="en">' in page and "user-scalable" not in page


def test_a_reply_without_fields_of_its_own_is_safe_too() -> None:
    fields = module._with_security_headers(Reply("200 OK", b"")).fields
    assert fields[0].startswith("Content-Security-Policy: default-src 'none'")
