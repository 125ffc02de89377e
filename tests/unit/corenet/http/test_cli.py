"""The command: body on stdout, one sentence on stderr, curl's exit codes.

The server runs in a thread with asyncio's loop, because the command runs its own loop and blocks.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.certs import Authority
from support.http_background import ThreadedServer
from support.http_peer import Peer, Server

from corenet import tls
from corenet.http import cli, resolver_plugins
from corenet.http.cli_trace import Recorder
from corenet.http.trace import TracePoint


async def answer(peer: Peer) -> None:
    while True:
        line, headers, body = await peer.request()
        path = line.split()[1]
        if path == "/hang":
            await peer.reader.read()
        elif path == "/close":
            return
        elif path == "/garbage":
            await peer.send(b"garbage\r\n\r\n")
        elif path == "/cut":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ncut")
            return
        elif path == "/missing":
            await peer.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone")
        elif path == "/colour":
            await peer.send(b"HTTP/1.1 404 \x9b31mRed\r\nContent-Length: 0\r\n\r\n")
        elif path == "/away":
            await peer.send(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")
        else:
            said = f"{line}|{headers.get('x-test')}|{body.decode()}".encode()
            await peer.send(b"HTTP/1.1 200 OK\r\nX-Reply: yes\r\nContent-Length: %d\r\n\r\n" % len(said))
            if not line.startswith("HEAD"):
                await peer.send(said)


async def no_tls(peer: Peer) -> None:
    await peer.reader.read(5)
    await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await peer.reader.read()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with ThreadedServer(answer) as running:
        yield running


def corenet(capfdbinary: Any, *arguments: str) -> tuple[int, bytes, str]:
    code = cli.main(["get", *arguments])
    out, err = capfdbinary.readouterr()
    return code, out, err.decode()


def test_only_the_body_goes_to_stdout(server: Server, capfdbinary: Any) -> None:
    assert corenet(capfdbinary, server.url + "/x") == (0, b"GET /x HTTP/1.1|None|", "")


def test_options_of_the_request_are_sent(server: Server, capfdbinary: Any, tmp_path: Path) -> None:
    assert corenet(capfdbinary, server.url, "-H", "X-Test: hello", "-d", "data")[1] == b"POST / HTTP/1.1|hello|data"
    (tmp_path / "body").write_bytes(b"from a file")
    assert corenet(capfdbinary, server.url, "-X", "PUT", "-d", f"@{tmp_path / 'body'}")[1].endswith(b"|from a file")
    code, out, err = corenet(capfdbinary, server.url, "-o", str(tmp_path / "out"))
    assert (code, out, err) == (0, b"", "") and (tmp_path / "out").read_bytes() == b"GET / HTTP/1.1|None|"


def test_without_a_standard_output_the_body_is_discarded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)  # what the interpreter does when it is started with >&-
    assert cli.main(["get", server.url + "/"]) == 0


def test_the_head_is_shown(server: Server, capfdbinary: Any) -> None:
    code, out, _ = corenet(capfdbinary, server.url, "-i")
    assert code == 0 and out.startswith(b"HTTP/1.1 200 OK\r\nX-Reply: yes\r\n") and out.endswith(b"|None|")
    code, out, _ = corenet(capfdbinary, server.url, "--head")
    assert code == 0 and out.endswith(b"\r\n\r\n") and b"X-Reply: yes" in out


def test_redirects_are_shown_or_followed(server: Server, capfdbinary: Any) -> None:
    assert corenet(capfdbinary, server.url + "/away", "-i")[1].startswith(b"HTTP/1.1 302 Found")
    assert corenet(capfdbinary, server.url + "/away", "-L")[1] == b"GET / HTTP/1.1|None|"


def test_error_statuses_set_the_exit_code(server: Server, capfdbinary: Any) -> None:
    assert corenet(capfdbinary, server.url + "/missing")[:2] == (0, b"gone")
    code, _, err = corenet(capfdbinary, server.url + "/missing", "--fail")
    assert code == 22 and err == "corenet: the server answered 404 Not Found\n"


def test_control_characters_of_a_server_are_escaped(server: Server, capfdbinary: Any) -> None:
    # 0x9B begins a control sequence, and a reason phrase may have it (RFC 9112 section 4: obs-text).
    code, _, err = corenet(capfdbinary, server.url + "/colour", "--fail")
    assert code == 22 and err == "corenet: the server answered 404 \\x9b31mRed\n"


def test_control_characters_in_a_trace_are_escaped(capfdbinary: Any) -> None:
    Recorder("text", None, 0.0)(TracePoint("proxy", "failed", 1.0, {"error": "403 \x9b31m\nRed"}))
    assert capfdbinary.readouterr().err == b"  1000.00 ms  proxy.failed error=403 \\x9b31m\\nRed\n"


@pytest.mark.parametrize(
    ("path", "options", "code", "words"),
    [
        ("/hang", ["--max-time", "0.1"], 28, "total time"),
        ("/close", [], 52, "without a response"),
        ("/garbage", [], 8, "status line"),
        ("/cut", [], 18, "inside its response"),
        ("/", ["-H", "broken"], 2, "not of the form"),
        ("/", ["-H", "a b: c"], 2, "not a field name"),
        ("/", ["-d", "@/nonexistent/file"], 26, "No such file"),
        ("/", ["-o", "/nonexistent/file"], 23, "No such file"),
        ("/", ["--max-time", "0"], 2, "more than 0"),
        ("/", ["--max-time", "nan"], 2, "more than 0"),
        ("/", ["--cacert", "/nonexistent/file"], 2, "No such file"),
    ],
)
def test_failures_have_a_sentence_and_an_exit_code(
    server: Server, capfdbinary: Any, path: str, options: list[str], code: int, words: str
) -> None:
    got, _, err = corenet(capfdbinary, server.url + path, *options)
    assert got == code and words in err and err.startswith("corenet: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "code"), [("gopher://x/", 3), ("http://127.0.0.1:1/", 7), ("http://user@127.0.0.1/", 3), ("nothing", 3)]
)
def test_unreachable_servers_have_a_sentence_and_an_exit_code(capfdbinary: Any, url: str, code: int) -> None:
    assert corenet(capfdbinary, url)[0] == code


def test_usage_errors_exit_with_2() -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([])
    assert caught.value.code == 2


def test_tls_options(tmp_path: Path, capfdbinary: Any) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("localhost")
    with ThreadedServer(answer, tls.server_context(leaf.certificate, leaf.key)) as server:
        assert corenet(capfdbinary, server.url, "--cacert", str(authority.cafile))[0] == 0
        assert corenet(capfdbinary, server.url, "--insecure")[0] == 0
        code, _, err = corenet(capfdbinary, server.url)
        assert code == 60 and "not known here" in err
        code, _, err = corenet(capfdbinary, server.url.replace("localhost", "127.0.0.1"), "--cacert",
                               str(authority.cafile))  # fmt: skip
        assert code == 60 and "not for this address" in err
    with ThreadedServer(no_tls) as plain:
        code, _, err = corenet(capfdbinary, plain.url.replace("http:", "https:"), "--insecure")
        assert code == 35 and "does not speak TLS" in err


def test_the_trace_shows_every_step(server: Server, capfdbinary: Any) -> None:
    code, out, err = corenet(capfdbinary, server.url.replace("127.0.0.1", "localhost"), "--trace")
    assert code == 0 and out.startswith(b"GET")
    steps = [line.split(" ms  ")[1].split(" ")[0] for line in err.splitlines()]
    assert steps == [
        "dns.started", "dns.done", "connect.started", "connect.done", "request.started", "request.done",
        "response.started", "response.done", "finished,",
    ]  # fmt: skip
    times = [float(line.split(" ms")[0]) for line in err.splitlines()]
    assert times == sorted(times)


# --- the resolver hook ------------------------------------------------------------------------------------------------


class FakeEntry:
    name = "fake"

    def __init__(self, authority: Path | None = None) -> None:
        self.authority = authority

    def load(self) -> Any:
        import socket

        authority = self.authority

        class Fake:
            trust = authority

            async def getaddrinfo(self, host: str, port: int, **kwargs: Any) -> Any:
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

            async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> Any:
                raise NotImplementedError

        @asynccontextmanager
        async def factory(argument: str, trace: Any) -> AsyncIterator[Fake]:
            if argument == "nonsense":
                raise ValueError("no address")
            if trace is not None:
                trace(f"asked with {argument!r}")
                past = asyncio.get_running_loop().time() - 60
                trace(SimpleNamespace(kind="referral", text="to the child", time=past))
            yield Fake()

        return factory


def test_names_go_through_the_registered_resolver(
    server: Server, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_plugins, "entry_points", lambda group: [FakeEntry()] if group else [])
    url = f"http://www.example.playground:{server.port}/x"
    for options, argument in (["--resolver"], ""), (["--resolver", "192.0.2.1:53"], "192.0.2.1:53"), (
        ["--playground"], "playground",
    ):  # fmt: skip
        code, out, err = corenet(capfdbinary, url, *options, "--trace")
        assert code == 0 and out == b"GET /x HTTP/1.1|None|"
        assert f"resolver.step what=asked with {argument!r}" in err
        assert re.search(r"^ *-(59|60)\d{3}\.\d\d ms +resolver\.referral what=to the child$", err, re.MULTILINE)
    code, _, err = corenet(capfdbinary, url, "--resolver", "nonsense")
    assert code == 2 and "no address" in err


def test_the_authority_of_a_simulated_world_is_trusted_only_there(
    tmp_path: Path, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("www.example.playground")
    monkeypatch.setattr(resolver_plugins, "entry_points", lambda group: [FakeEntry(authority.cafile)])
    with ThreadedServer(answer, tls.server_context(leaf.certificate, leaf.key)) as server:
        url = f"https://www.example.playground:{server.port}/"
        assert corenet(capfdbinary, url, "--playground")[0] == 0
        code, _, err = corenet(capfdbinary, url, "--resolver")
        assert code == 60 and "not known here" in err


def test_without_a_registered_resolver_the_option_is_an_error(
    capfdbinary: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolver_plugins, "entry_points", lambda group: [])
    code, _, err = corenet(capfdbinary, "http://x.example/", "--resolver", "192.0.2.1")
    assert code == 2 and "need a package that registers a resolver" in err


def test_the_module_runs_as_a_program(monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["corenet", "--version"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0 and capfdbinary.readouterr()[0].startswith(b"corenet ")
