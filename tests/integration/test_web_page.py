"""The web page of a running resolverd with two workers: in a real Chromium, under reloads, restarts and attacks.

The simulated Internet runs in a separate process. What the browser's console has are errors of the script and
violations of the page's policy, so it must be empty.
"""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.browser import Browser, browser
from support.ports import free_port
from support.servers import ask, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment, resolverd_config, serve_playground, upstream_port_for

from resolver import limits
from resolver.cli import control
from resolver.playground import signed
from resolver.wire import consts as c

pytestmark = pytest.mark.integration

TIMEOUT = 60
TOKEN, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
EXPIRED, GOOD = "www.expired.dnssec.playground.", "www.nsec.dnssec.playground."
BLOCKED = "mail.example.playground."
MARKUP = "<img/src=x/onerror=document.title=1>.example.playground."
TAB, ENTER, SPACE = "\ue004", "\ue007", " "


class Page:
    """A resolverd with a web page, as a process that can be started again."""

    def __init__(self, path: Path, workers: int = 2) -> None:
        self.path = path
        self.port, self.web = free_port(), free_port()
        world = self.world = signed.signed_world(int(time.time()))
        self.upstream = upstream_port_for("resolverd", world)
        self.socket = str(path / "control")
        self.config, self.token, self.log = path / "resolverd.toml", path / "token", path / "log"
        (path / "root.hints").write_text(world.hints_text())
        (path / "ads").write_text(f"{BLOCKED}\n")
        self.write_token(TOKEN)
        text = resolverd_config(world, self.port, self.upstream, path / "root.hints", world.trust_anchors[0])
        self.text = text.replace("[server]\n", f"[server]\nworkers = {workers}\n") + (
            f'[control]\nsocket = "{self.socket}"\n[[list]]\nname = "ads"\nfile = "{path / "ads"}"\n'
            '[[forward]]\nzone = "corp.example."\naddresses = ["127.20.0.250"]\n'
        )
        self.configure()

    def write_token(self, token: str, mode: int = 0o600) -> None:
        self.token.write_text(token + "\n")
        self.token.chmod(mode)

    def configure(self, more: str = "", port: int = 0) -> None:
        """Write the configuration; `more` is for the section [web]."""
        self.config.write_text(
            f'{self.text}[web]\nlisten = "127.0.0.1:{port or self.web}"\ntoken-file = "{self.token}"\n{more}')

    @contextmanager
    def running(self) -> Iterator["subprocess.Popen[bytes]"]:
        with run_process([*RESOLVERD, "--config", str(self.config)], self.log, env=daemon_environment()) as process:
            wait_until(lambda: self.answers("localhost."), "an answer", process=process, log=self.log)
            wait_until(lambda: self.get("/")[0] == 200, "the page", process=process, log=self.log)
            yield process

    def answers(self, name: str) -> bool:
        return ask("127.0.0.1", self.port, name, c.A, timeout=0.5) is not None

    def ask(self, name: str) -> int:
        view = ask("127.0.0.1", self.port, name, c.A)
        assert view is not None
        return view.rcode

    def get(self, path: str, token: str = "", host: str = "") -> tuple[int, bytes]:
        """Status and body; status 0 without a reply."""
        connection = http.client.HTTPConnection("127.0.0.1", self.web, timeout=TIMEOUT)
        fields = {"Host": host or f"127.0.0.1:{self.web}"}
        if token:
            fields["Authorization"] = f"Bearer {token}"
        try:
            connection.request("GET", path, headers=fields)
            reply = connection.getresponse()
            return reply.status, reply.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def overview(self, token: str = TOKEN) -> dict[str, Any]:
        status, body = self.get("/api/v1/overview", token)
        assert status == 200, body
        found: dict[str, Any] = json.loads(body)
        return found

    def command(self, **request: Any) -> dict[str, Any]:
        """The reply of the control socket."""
        *_, message = control.ask(self.socket, request, TIMEOUT)
        found: dict[str, Any] = message
        return found

    def counted(self) -> dict[str, int]:
        found: dict[str, int] = self.command(command="statistics")["result"]["web"]["requests"]
        return found

    def url(self, token: str = TOKEN) -> str:
        return f"http://127.0.0.1:{self.web}/#token={token}"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    path = tmp_path_factory.mktemp("web")
    found = Page(path)
    with serve_playground(path, found.world, found.upstream), found.running():
        yield found


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def opened(page: Page, chromium: Browser) -> Iterator[Browser]:
    """The page in the browser, signed in, with the first numbers."""
    chromium.console()
    chromium.open("about:blank")
    chromium.open(page.url())
    live(chromium)
    yield chromium
    assert chromium.console() == []


def live(page: Browser) -> None:
    """Wait for numbers of an interval."""
    page.until(lambda: page.text("#tiles .big").strip() not in ("", "–"), "numbers")


# --- the data -----------------------------------------------------------------------------------------------------


def test_the_data_are_those_of_all_workers(page: Page) -> None:
    page.overview()
    assert [page.ask(name) for name in (GOOD, EXPIRED, BLOCKED)] == [c.NOERROR, c.SERVFAIL, c.NXDOMAIN]
    found: dict[str, Any] = {}

    def complete() -> bool:
        found.update(page.overview())
        return found["activity"] is not None and bool(found["activity"]["top"]["failed"])

    wait_until(complete, "activity")
    activity = found["activity"]
    assert activity["workers"] == {"answered": 2, "all": 2} and len(found["workers"]) == 2
    assert {"name": EXPIRED, "type": "A", "count": 1, "error": 0} in activity["top"]["failed"]
    assert found["health"] == {"healthy": True, "problems": []}
    assert any(one["module"] == "lists" and one["total"] >= 1 for one in found["policies"])
    assert found["lists"] == [{"list": "ads", "entries": 1, "failing": False}]
    assert [one["server"] for one in found["servers"]] == ["127.20.0.250"] and found["servers"][0]["workers"] == 2
    assert found["cache"]["used"] <= found["cache"]["limit"] and found["transports"][0]["transport"] == "udp"


@pytest.mark.parametrize("cache", ["yes", "no"])
def test_an_explanation(page: Page, cache: str) -> None:
    page.ask(EXPIRED)
    status, body = page.get(f"/api/v1/explain?name={EXPIRED}&cache={cache}", TOKEN)
    found = json.loads(body)
    assert status == 200 and found["result"]["status"] == "SERVFAIL" and found["result"]["dnssec"] == "bogus"
    assert (found["chain"] != []) == (cache == "no")
    if found["chain"]:
        assert [one["zone"] for one in found["chain"]][-1] == "expired.dnssec.playground."


@pytest.mark.parametrize(("path", "wrong"), [
    ("name=a..b", "label"), ("name=a&type=NONSENSE", "NONSENSE"), ("name=&type=A", "empty"), ("type=A", "fields are"),
])
def test_what_cannot_be_explained(page: Page, path: str, wrong: str) -> None:
    status, body = page.get(f"/api/v1/explain?{path}", TOKEN)
    assert status == 400 and wrong in json.loads(body)["error"]


# --- in a browser -------------------------------------------------------------------------------------------------


def test_signing_in(page: Page, chromium: Browser) -> None:
    chromium.open("about:blank")
    chromium.open(f"http://127.0.0.1:{page.web}/")
    chromium.until(lambda: "Sign in" in chromium.text("#entry"), "the form")
    chromium.type("#token", OTHER)
    chromium.press(ENTER)
    chromium.until(lambda: chromium.text("#entry-error") == "The token is wrong.", "the refusal")
    errors = chromium.console()
    assert errors and all("401" in one for one in errors)
    chromium.type("#token", TOKEN)
    chromium.press(ENTER)
    live(chromium)
    chromium.call("POST", "/refresh")
    live(chromium)
    chromium.click("#leave")
    assert "Sign in" in chromium.text("#entry") and "/s" not in chromium.text("#tiles")
    assert chromium.run("return document.querySelectorAll('tbody tr').length") == 0
    chromium.call("POST", "/refresh")
    chromium.until(lambda: "Sign in" in chromium.text("#entry"), "the form")
    assert chromium.console() == []


def test_the_token_of_the_address_is_removed(page: Page, opened: Browser) -> None:
    assert opened.run("return [location.href, document.referrer]") == [f"http://127.0.0.1:{page.web}/", ""]
    assert TOKEN not in opened.run("return document.documentElement.outerHTML")


def test_a_name_with_markup_stays_text(page: Page, opened: Browser) -> None:
    for _ in range(3):
        page.ask(MARKUP)
    opened.until(lambda: MARKUP in opened.text("#lists"), "the name in the list")
    opened.run("document.getElementById('name').value = arguments[0]", MARKUP)
    opened.click("#ask button")
    opened.until(lambda: MARKUP in opened.text("#answer h2"), "the report")
    times = opened.run("return [...document.querySelectorAll('#answer .time')].map(e => e.textContent)")
    assert any(MARKUP in one for one in times)
    assert opened.run("return [document.images.length, document.title]") == [0, "resolverd"]
    with pytest.raises(AssertionError, match="TrustedHTML"):
        opened.run("document.getElementById('answer').innerHTML = '<b>x</b>'")
    assert all("TrustedHTML" in one for one in opened.console())


def test_why_a_name_fails(page: Page, opened: Browser) -> None:
    page.ask(EXPIRED)
    opened.until(lambda: EXPIRED in opened.text("#lists"), "the failure in the list")
    opened.click("#lists button.name")
    opened.until(lambda: opened.text("#answer h2").startswith(EXPIRED), "the report")
    report = opened.text("#answer")
    for text in ("SERVFAIL, bogus", "the signature expired", "the operator of expired.dnssec.playground.", "Re-sign"):
        assert text in report
    zones = opened.run(
        "return [...document.querySelectorAll('#answer .chain li')].map(e => [e.className, e.innerText])")
    assert zones[0][0].startswith("good") and zones[0][1].startswith(".") and "trust anchor" in zones[0][1]
    assert "bad" in [kind for kind, text in zones if text.startswith("expired.dnssec.playground.")]
    assert opened.run("return document.querySelectorAll('#answer .time .track div').length") >= 5
    opened.click("#fresh")
    opened.click("#ask button")
    opened.until(lambda: "0 queries" in opened.text("#answer .facts"), "the report of the cache")


def test_what_cannot_be_explained_is_said(opened: Browser) -> None:
    opened.type("#name", "a..b")
    opened.press(ENTER)
    opened.until(lambda: "label" in opened.text("#asked"), "the error")
    assert opened.run("return document.getElementById('asked').className") == "error"
    [entry] = opened.console()
    assert "400" in entry


def test_the_keyboard_is_enough(opened: Browser) -> None:
    """All that can be pressed is reached by Tab, in the order of the page, and is seen to have the focus."""
    opened.run("document.activeElement.blur()")
    reached = []
    for _ in range(8):
        opened.press(TAB)
        reached.append(opened.run(
            "const e = document.activeElement; return [e.id || e.type, getComputedStyle(e).outlineStyle]"))
    assert [name for name, _ in reached][:6] == ["pause", "leave", "name", "type", "submit", "fresh"]
    assert {style for _, style in reached[:6]} == {"solid"}
    opened.run("document.getElementById('pause').focus()")
    opened.press(SPACE)
    assert opened.text("#state") == "Paused"
    opened.press(SPACE)
    opened.until(lambda: opened.text("#state") == "Healthy", "the end of the pause")


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_widths_and_schemes(page: Page, opened: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    opened.resize(width, 740)
    opened.prefer(scheme)
    opened.type("#name", EXPIRED)
    opened.click("#ask button")
    opened.until(lambda: opened.text("#answer h2").startswith(EXPIRED), "the report")
    assert opened.run("return document.documentElement.scrollWidth") <= width
    assert opened.run("return [...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1"
                      " && getComputedStyle(e).overflowX === 'auto').length") == 0
    light = opened.run("return getComputedStyle(document.body).backgroundColor") == "rgb(245, 246, 248)"
    assert light == (scheme == "light")
    if width == 360:  # WCAG 2.2, 2.5.8
        small = opened.run("return [...document.querySelectorAll('button, input:not([type=checkbox])')]"
                           ".filter(e => e.offsetHeight && e.offsetHeight < 24).map(e => e.outerHTML)")
        assert small == []
    opened.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 10_000


def test_a_slow_network_and_none(page: Page, opened: Browser) -> None:
    try:
        opened.network(latency=1200, octets_per_second=20_000)
        seen = opened.text("#when")
        opened.until(lambda: opened.text("#when") > seen, "numbers over a slow network")
        assert opened.text("#state") == "Healthy"
        opened.network(offline=True)
        opened.until(lambda: opened.text("#state").startswith("No answer since "), "the notice")
        assert opened.run("return document.getElementById('board').className") == "stale"
    finally:
        opened.network()
    opened.until(lambda: opened.text("#state") == "Healthy", "the recovery")
    assert opened.run("return document.getElementById('board').className") == ""
    assert all("ERR_INTERNET_DISCONNECTED" in one for one in opened.console())


def test_another_name_for_the_address_is_refused(page: Page, chromium: Browser) -> None:
    """The browser resolves all names to this machine, as after DNS rebinding."""
    chromium.open(f"http://rebound.example:{page.web}/")
    assert "web.hosts may name it" in chromium.text("body")
    assert page.get("/", host="localhost")[0] == 200 and page.get("/", host="rebound.example")[0] == 421
    chromium.console()


def test_a_page_of_others_can_neither_frame_nor_read_it(page: Page, chromium: Browser) -> None:
    url = f"http://127.0.0.1:{page.web}/"

    class ForeignSite(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(f"<iframe src={url}></iframe>".encode())

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), ForeignSite) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            chromium.open(f"http://foreign.example:{server.server_port}/")
            said: list[str] = []
            chromium.until(lambda: said.extend(chromium.console()) or any("frame-ancestors" in one for one in said),
                           "the refusal of the frame")
            for fields in ({}, {"Authorization": f"Bearer {TOKEN}"}):
                assert chromium.run(
                    "return fetch(arguments[0], {headers: arguments[1]}).then(r => r.text()).catch(e => e.name)",
                    f"{url}api/v1/overview", fields) == "TypeError"
            said = chromium.console()
            assert any("blocked by CORS policy" in one for one in said)
        finally:
            server.shutdown()
            thread.join()


def test_a_daemon_that_is_started_again(tmp_path: Path, chromium: Browser) -> None:
    found = Page(tmp_path, workers=1)
    with serve_playground(tmp_path, found.world, found.upstream):
        with found.running():
            chromium.open("about:blank")
            chromium.open(found.url())
            live(chromium)
        chromium.until(lambda: chromium.text("#state").startswith("No answer since "), "the notice")
        with found.running():
            chromium.until(lambda: "started again" in chromium.text("#notes"), "the recovery")
            live(chromium)
            assert chromium.text("#state") == "Healthy"
            found.configure("nonsense = 1\n")
            assert not found.command(command="reload")["ok"]
            chromium.until(lambda: chromium.text("#state") == "1 problem", "the problem")
            assert "the last reload was refused" in chromium.text("#notes")
    assert all("ERR_CONNECTION" in one or "ERR_EMPTY_RESPONSE" in one for one in chromium.console())


# --- reloads, restarts, upgrades -----------------------------------------------------------------------------------


def test_reloads_and_restarts(tmp_path: Path) -> None:
    found = Page(tmp_path)
    with found.running():
        found.write_token(OTHER, 0o644)
        refused = found.command(command="reload")
        assert not refused["ok"] and "has mode 0644" in refused["error"]
        assert re.search(r"resolverd\.toml:\d+: web\.token-file: ", refused["error"])
        assert found.get("/api/v1/overview", TOKEN)[0] == 200
        found.write_token(OTHER)
        found.configure('hosts = ["dns.example"]\n')
        assert found.get("/", host="dns.example")[0] == 421
        assert found.command(command="reload")["ok"]
        assert found.get("/api/v1/overview", TOKEN)[0] == 401 and found.get("/api/v1/overview", OTHER)[0] == 200
        assert found.get("/", host="dns.example")[0] == 200
        found.configure(port=free_port())
        assert found.command(command="reload")["ok"]
        assert "web.listen changed; the new value takes effect after a restart" in found.log.read_text()
        assert found.get("/api/v1/overview", OTHER)[0] == 200
        before = found.counted()
        assert before["wrong-token"] == 1 and before["host"] == 1
        first = found.overview(OTHER)["workers"][0]["pid"]
        os.kill(first, signal.SIGKILL)

        def replaced() -> bool:
            status, body = found.get("/api/v1/overview", OTHER)
            return status == 200 and json.loads(body)["workers"][0]["pid"] != first

        wait_until(replaced, "the new first worker")
        assert found.get("/api/v1/overview", TOKEN)[0] == 401  # it has not gone back to the token of the start
        assert found.counted()["wrong-token"] == 2 and found.counted()["overview"] > before["overview"]


def test_a_new_worker_without_a_token_serves_no_data(tmp_path: Path) -> None:
    found = Page(tmp_path)
    with found.running():
        first = found.overview()["workers"][0]["pid"]
        found.token.unlink()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: found.get("/api/v1/overview", TOKEN)[0] == 503, "the refusal")
        assert found.ask("localhost.") == c.NOERROR
        found.write_token(OTHER)
        assert found.command(command="reload")["ok"]
        assert found.get("/api/v1/overview", OTHER)[0] == 200


def test_starts_that_fail(tmp_path: Path) -> None:
    found = Page(tmp_path, workers=1)
    for change, wrong in (
        (lambda: found.token.chmod(0o604), "web.token-file: .* has mode 0604"),
        (lambda: found.write_token("short"), "could be guessed"),
        (lambda: found.token.unlink(), "No such file"),
    ):
        change()
        for words in (["--check"], []):
            done = subprocess.run([*RESOLVERD, "--config", str(found.config), *words], capture_output=True, text=True,
                                  timeout=TIMEOUT, env=daemon_environment(), check=False)
            assert done.returncode == 2 and re.search(rf"resolverd\.toml:\d+: .*{wrong}", done.stderr), done.stderr
    found.write_token(TOKEN)
    with socket.create_server(("127.0.0.1", found.web)):
        done = subprocess.run([*RESOLVERD, "--config", str(found.config)], capture_output=True, text=True,
                              timeout=TIMEOUT, env=daemon_environment(), check=False)
    assert done.returncode == 1 and f"cannot listen on 127.0.0.1 port {found.web} for web" in done.stderr, done.stderr


# --- attacks ------------------------------------------------------------------------------------------------------


def test_a_thousand_connections_do_not_disturb_clients(page: Page) -> None:
    """All begin a request and do not end it: the last are kept, for a limited time."""
    before = page.counted()
    slowest = 0.0
    with ExitStack() as stack:
        for number in range(1000):
            one = stack.enter_context(socket.create_connection(("127.0.0.1", page.web), timeout=TIMEOUT))
            with suppress(OSError):  # it was closed at once
                one.sendall(b"GET /api/v1/overview HTTP/1.1\r\nHost: ")
            if not number % 20:
                began = time.monotonic()
                assert page.ask(GOOD) == c.NOERROR
                slowest = max(slowest, time.monotonic() - began)
        wait_until(lambda: page.counted()["connection-limit"] - before["connection-limit"] > 900, "the refusals")
        assert page.ask(EXPIRED) == c.SERVFAIL
        assert page.get("/", TOKEN)[0] == 200  # while the attacker holds his connections: it takes the place of one
        wait_until(lambda: page.counted()["incomplete"] - before["incomplete"] == limits.WEB_CONNECTIONS - 1,
                   "the end of those that are kept")
    assert slowest < 5


@pytest.mark.parametrize("data", [
    b"GET / HTTP/1.1\r\nHost: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n" + b"a" * 100_000,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100_000),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(1000),
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 1000,
])
def test_requests_that_are_none(page: Page, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", page.web), timeout=TIMEOUT) as one:
        try:
            one.sendall(data)
            while one.recv(65536):
                pass
        except ConnectionError:
            pass
    assert page.get(f"/api/v1/explain?name={quote(GOOD)}", TOKEN)[0] == 200
