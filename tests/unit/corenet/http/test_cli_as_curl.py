"""Options of curl that ``corenet get`` has with the same meaning, and those that it does not have."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.get_command import echo, get, no_proxies
from support.http_background import ThreadedServer
from support.http_peer import Peer, Server

__all__ = ["no_proxies"]  # a fixture

FORM = "application/x-www-form-urlencoded"
pytestmark = pytest.mark.usefixtures("no_proxies")


async def serve(peer: Peer) -> None:
    while True:
        line, headers, body = await peer.request()
        status, more = "200 OK", ""
        shown = json.dumps({"line": line, "headers": headers, "body": body.decode("latin-1")}).encode()
        if "/missing" in line:
            status = "404 Not Found"
        elif "/moved" in line:
            status, more, shown = "302 Found", "Location: /here\r\n", b""
        content = b"" if line.startswith("HEAD") else shown
        await peer.send(f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(shown)}\r\n\r\n".encode() + content)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with ThreadedServer(serve) as running:
        yield running


@pytest.mark.parametrize(
    ("options", "line", "body"),
    [
        (["--request", "DELETE"], "DELETE /x", ""),
        (["-X", "PUT", "-d", "a=b"], "PUT /x", "a=b"),
        (["-d", "a=b", "--data-raw", "@c", "--data-urlencode", "d=e f"], "POST /x", "a=b&@c&d=e+f"),
        (["--data-urlencode", "\u00e4=\u00f6&", "--data-urlencode", "=a&b"], "POST /x", "\u00e4=%C3%B6%26&a%26b"),
        (["-d", "@FILE", "--data-binary", "@FILE"], "POST /x", "onetwo&one\r\ntwo\n"),
        (["--data-urlencode", "n@FILE", "--data-urlencode", "@FILE"], "POST /x", "n=one%0D%0Atwo%0A&one%0D%0Atwo%0A"),
        (["-G", "-d", "a=b", "--data-urlencode", "c=d e"], "GET /x?a=b&c=d+e", ""),
        (["-G"], "GET /x", ""),
        (["-T", "FILE"], "PUT /x", "one\r\ntwo\n"),
        (["-X", "POST", "--upload-file", "FILE"], "POST /x", "one\r\ntwo\n"),
    ],
)
def test_body_options_are_those_of_curl(
    server: Server, capfdbinary: Any, tmp_path: Path, options: list[str], line: str, body: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"one\r\ntwo\n")
    shown = echo(capfdbinary, f"{server.url}/x", *[option.replace("FILE", str(file)) for option in options])
    assert shown["line"] == f"{line} HTTP/1.1"
    assert shown["body"].encode("latin-1").decode() == body
    form = not line.startswith("GET") and any(option.startswith(("-d", "--data")) for option in options)
    assert shown["headers"].get("content-type") == (FORM if form else None)


def test_field_options_are_those_of_curl(server: Server, capfdbinary: Any) -> None:
    given = ["-e", "http://a/", "-b", "a=b; c=d", "-r", "0-3", "--compressed", "-N", "--http2", "-H", "X-Empty;"]
    headers = echo(capfdbinary, server.url, *given)["headers"]
    assert headers["referer"] == "http://a/" and headers["cookie"] == "a=b; c=d" and headers["range"] == "bytes=0-3"
    assert headers["x-empty"] == "" and "gzip" in headers["accept-encoding"]
    # A name without a value removes one of our fields, and no other.
    headers = echo(capfdbinary, server.url, "-H", "User-Agent:", "-H", "accept:", "-H", "X: 1")["headers"]
    assert sorted(headers) == ["accept-encoding", "host", "x"]
    assert echo(capfdbinary, server.url, "-H", "Accept:", "-A", "me")["headers"]["user-agent"] == "me"
    assert "content-type" not in echo(capfdbinary, server.url, "-d", "a", "-H", "Content-Type:")["headers"]


def test_further_urls_are_requested(server: Server, capfdbinary: Any) -> None:
    code, out, _ = get(capfdbinary, "--url", f"{server.url}/a", "-s", f"{server.url}/b")
    assert code == 0 and out.count(b"GET /a ") == 1 and out.count(b"GET /b ") == 1


def test_fail_shows_no_body(server: Server, capfdbinary: Any, tmp_path: Path) -> None:
    url = f"{server.url}/missing"
    words = "corenet: the server answered 404 Not Found\n"
    assert get(capfdbinary, "-f", url) == (22, b"", words)
    assert get(capfdbinary, "-f", "-o", str(tmp_path / "file"), url) == (22, b"", words)
    assert not (tmp_path / "file").exists()
    code, out, err = get(capfdbinary, "--fail-with-body", url)
    assert code == 22 and b"/missing" in out and err == words


def test_silent_hides_errors_of_transfers(server: Server, capfdbinary: Any) -> None:
    for url, code in ((f"{server.url}/missing", 22), ("http://127.0.0.1:1/", 7), ("gopher://a/", 3)):
        assert get(capfdbinary, "-s", "-f", url) == (code, b"", "")
        assert get(capfdbinary, "-sSf", url)[2].startswith("corenet: ")
    # Usage errors are still shown.
    assert get(capfdbinary, "-s", "-H", "nocolon", server.url)[2].startswith("corenet: -H")


def test_heads_of_redirects_are_shown(server: Server, capfdbinary: Any, tmp_path: Path) -> None:
    file = tmp_path / "heads"
    for option in ("-I", "-i"):
        code, out, _ = get(capfdbinary, option, "-L", "-D", str(file), f"{server.url}/moved")
        first, second = b"HTTP/1.1 302 Found\r\nLocation: /here\r\n", b"HTTP/1.1 200 OK\r\n"
        assert code == 0 and out.startswith(first) and out.count(second) == 1
        assert file.read_bytes().startswith(first) and out.startswith(file.read_bytes())
    assert get(capfdbinary, "-D", "-", "-o", str(file), server.url)[1].startswith(b"HTTP/1.1 200 OK")
    assert get(capfdbinary, "-L", "--max-redirs", "0", f"{server.url}/moved")[0] == 0


@pytest.mark.parametrize("options", [["--resolve", "a:1:127.0.0.1"], ["-4"], ["--limit-rate", "1M"], ["--data-u", "x"]])
def test_unknown_options_are_named(capfdbinary: Any, options: list[str]) -> None:
    """None is taken for an abbreviation of another one, or for a URL."""
    with pytest.raises(SystemExit) as ended:
        get(capfdbinary, "http://127.0.0.1:1/", *options)
    assert ended.value.code == 2
    assert f"unknown options: {options[0]}" in capfdbinary.readouterr()[1].decode()


def test_a_missing_url_is_a_usage_error(capfdbinary: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        get(capfdbinary, "-s")
    assert ended.value.code == 2 and b"no URL is given" in capfdbinary.readouterr()[1]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["-F", "a=@/nonexistent"], 26, "-F a=@/nonexistent: No such file"),
        (["-T", "/nonexistent"], 26, "-T /nonexistent: No such file"),
        (["--data-binary", "@/nonexistent"], 26, "No such file"),
        (["-G", "--json", "1"], 2, "-G needs --data, not --json"),
        (["-T", "/dev/null", "-d", "a"], 2, "--data and --upload-file exclude each other"),
        (["-b", "jar.txt"], 2, "cookies are given as NAME=VALUE"),
        (["-r", "0-1", "-C", "-", "-o", "/dev/null"], 2, "-r and -C exclude each other"),
        (["--key", "/dev/null"], 2, "--key needs --cert"),
        (["--cert", "/nonexistent"], 2, "--cert /nonexistent: No such file"),
        (["-D", "/nonexistent/x"], 23, "/nonexistent/x: No such file"),
        (["-o", "/dev/full"], 23, "/dev/full: No space left on device"),
        (["--max-redirs", "-5", "-L"], 2, "follow_redirects"),
    ],
)
def test_failures_have_the_exit_codes_of_curl(
    server: Server, capfdbinary: Any, options: list[str], code: int, words: str
) -> None:
    got, out, err = get(capfdbinary, server.url, *options)
    assert (got, out) == (code, b"") and words in err and err.count("\n") == 1


def test_urls_are_encoded_as_utf_8_in_any_locale(server: Server, capfdbinary: Any) -> None:
    in_ascii = "\u00e4".encode().decode("ascii", "surrogateescape")
    for text in ("\u00e4", in_ascii):
        assert echo(capfdbinary, f"{server.url}/{text}")["line"] == "GET /%C3%A4 HTTP/1.1"


def test_progress_fits_the_width_of_the_terminal(
    server: Server, capfdbinary: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((12, 4)))
    err = get(capfdbinary, "-o", str(tmp_path / "file"), server.url)[2]
    lines = err.removesuffix("\n").split("\r")
    assert lines[0] == "" and {len(line) for line in lines[1:]} == {11} and "\x1b" not in err
    assert get(capfdbinary, "--no-progress-meter", "-o", str(tmp_path / "file"), server.url)[2] == ""
