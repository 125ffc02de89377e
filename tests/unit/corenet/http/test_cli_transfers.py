"""``corenet get`` with files, several URLs, forms, credentials, proxies, progress and the forms of the trace."""

import base64
import errno
import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.get_command import echo, get, no_proxies
from support.http_background import ThreadedServer
from support.http_peer import Peer, Server

from corenet.http import cli
from corenet.http.cli_options import Target, UsageError
from corenet.http.cli_output import Progress, Transfer, expand
from corenet.http.cli_trace import page
from corenet.http.trace import DONE, FAILED, STARTED, TracePoint

FILE = bytes(range(256)) * 40

__all__ = ["no_proxies"]  # a fixture

pytestmark = pytest.mark.usefixtures("no_proxies")


def reply(status: str, body: bytes, *fields: str) -> bytes:
    head = "".join(f"{field}\r\n" for field in fields)
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


# Wrong answers to a request for the rest from byte 4 on.
RESTS = {
    "/short-rest": (b"12", "4-9/10"),
    "/long-rest": (b"1234567", "4-9/10"),
    "/empty-rest": (b"", "4-9/10"),
    "/coded-rest": (b"123456", "4-9/10", "Content-Encoding: gzip"),
    "/inverted-rest": (b"123", "4-2/3"),
}


async def serve(peer: Peer) -> None:
    while True:
        line, headers, body = await peer.request()
        path = line.split()[1]
        wanted = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        if path.startswith("/echo"):
            shown = {"line": line, "headers": headers, "body": body.decode("latin-1")}
            await peer.send(reply("200 OK", json.dumps(shown).encode(), "Content-Type: application/json"))
        elif path == "/missing":
            await peer.send(reply("404 Not Found", b"gone"))
        elif path == "/no-ranges" or (path == "/file" and wanted is None):
            await peer.send(reply("200 OK", FILE))
        elif path == "/long-numbers":
            many = "9" * 5000
            await peer.send(reply("206 Partial Content", b"x", f"Content-Range: bytes {many}-{many}/{many}"))
        elif path == "/long-size":
            await peer.send(reply("416 Range Not Satisfiable", b"", f"Content-Range: bytes */{'9' * 5000}"))
        elif path == "/other-part":
            await peer.send(reply("206 Partial Content", b"x", "Content-Range: bytes 0-0/10240"))
        elif path in RESTS:
            body, part, *coded = RESTS[path]
            await peer.send(reply("206 Partial Content", body, f"Content-Range: bytes {part}", *coded))
        elif path == "/a-part":
            await peer.send(reply("206 Partial Content", b"x", "Content-Range: bytes 4-4/10240"))
        elif path == "/file" and wanted is not None:
            offset = int(wanted[1])
            if offset >= len(FILE):
                await peer.send(reply("416 Range Not Satisfiable", b"", f"Content-Range: bytes */{len(FILE)}"))
            else:
                part = f"Content-Range: bytes {offset}-{len(FILE) - 1}/{len(FILE)}"
                await peer.send(reply("206 Partial Content", FILE[offset:], part))
        elif path == "/cut":
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ncut")
            return
        else:
            await peer.send(reply("200 OK", path.encode()))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with ThreadedServer(serve) as running:
        yield running


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_are_named_after_the_url(
    server: Server, capfdbinary: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert get(capfdbinary, "-O", f"{server.url}/a/file.txt?query#part", f"{server.url}/b") == (0, b"", "")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "file.txt": b"/a/file.txt?query",
        "b": b"/b",
    }
    for bad in ("/", "", "/a/..", "/a/."):
        code, _, err = get(capfdbinary, "-O", server.url + bad)
        assert code == 2 and "has no file name" in err


def test_each_url_has_its_output(server: Server, capfdbinary: Any, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    urls = [f"{server.url}/{name}" for name in "123"]
    assert get(capfdbinary, *urls, "-o", str(one), "-o", str(two)) == (0, b"/3", "")
    assert one.read_bytes() == b"/1" and two.read_bytes() == b"/2"
    code, _, err = get(capfdbinary, urls[0], "-o", str(one), "-o", str(two))
    assert code == 2 and "-o is given 2 times for 1 URLs" in err
    assert server.connections > 0


@pytest.mark.parametrize("kept", [0, 1, 5000, len(FILE)])
def test_an_incomplete_file_is_continued(server: Server, capfdbinary: Any, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(FILE[:kept])
    assert get(capfdbinary, f"{server.url}/file", "-C", "-", "-o", str(path)) == (0, b"", "")
    assert path.read_bytes() == FILE
    assert get(capfdbinary, f"{server.url}/file", "-C", "100", "-o", str(path)) == (0, b"", "")
    assert path.read_bytes() == FILE


@pytest.mark.parametrize("path", ["/no-ranges", "/other-part", "/missing", "/long-numbers", "/long-size"])
def test_a_response_that_is_not_the_rest_does_not_change_the_file(
    server: Server, capfdbinary: Any, tmp_path: Path, path: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"kept")
    code, _, err = get(capfdbinary, server.url + path, "-C", "-", "-o", str(file))
    assert code == 33 and err.count("\n") == 1
    assert file.read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("path", "after"),
    [("/short-rest", b"kept12"), ("/long-rest", b"kept"), ("/coded-rest", b"kept"), ("/inverted-rest", b"kept"),
     ("/empty-rest", b"kept")],
)  # fmt: skip
def test_a_body_that_is_not_its_content_range_fails(
    server: Server, capfdbinary: Any, tmp_path: Path, path: str, after: bytes
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"kept")
    code, _, err = get(capfdbinary, server.url + path, "-C", "-", "-o", str(file))
    assert code == 33 and err.count("\n") == 1
    assert file.read_bytes() == after


def test_a_file_is_not_continued_beyond_its_end(server: Server, capfdbinary: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"kept")
    code, _, err = get(capfdbinary, server.url + "/file", "-C", "8", "-o", str(file))
    assert code == 33 and "it has 4 bytes" in err and file.read_bytes() == b"kept"


def test_a_range_is_requested_without_a_coding(server: Server, capfdbinary: Any) -> None:
    """A part of a coded body cannot be decoded; with --compressed it is what the user asked for."""
    for options, coding in ((["-r", "0-9"], "identity"), (["-r", "0-9", "-H", "User-Agent:"], "identity"),
                            (["-r", "0-9", "-H", "Accept-Encoding: br"], "br")):  # fmt: skip
        code, out, _ = get(capfdbinary, server.url + "/echo", *options)
        assert code == 0 and json.loads(out)["headers"]["accept-encoding"] == coding
    code, out, _ = get(capfdbinary, server.url + "/coded-rest", "-r", "4-9")
    assert (code, out) == (0, b"123456")


def test_wrong_offsets_are_refused(server: Server, capfdbinary: Any, tmp_path: Path) -> None:
    assert get(capfdbinary, server.url, "-C", "many", "-o", str(tmp_path / "x"))[0] == 2
    assert get(capfdbinary, server.url, "-C", "-")[0] == 2


# --- several URLs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--parallel"], ["--parallel", "--parallel-max", "2"]])
def test_one_failure_does_not_stop_the_others(
    server: Server, capfdbinary: Any, tmp_path: Path, options: list[str]
) -> None:
    names = ["a", "missing", "cut", *map(str, range(20))]
    arguments = [argument for name in names for argument in (f"{server.url}/{name}", "-o", str(tmp_path / name))]
    code, out, err = get(capfdbinary, *arguments, "--fail", *options)
    assert code == 22 and out == b""
    assert f"{server.url}/missing: the server answered 404 Not Found" in err and f"{server.url}/cut: " in err
    assert [(tmp_path / str(number)).read_bytes() for number in range(20)] == [b"/%d" % n for n in range(20)]


def test_parallel_transfers_need_output_files(server: Server, capfdbinary: Any, tmp_path: Path) -> None:
    assert get(capfdbinary, server.url, "-Z")[0] == 2
    code, _, err = get(capfdbinary, server.url, "-Z", "-o", str(tmp_path / "x"), "--trace")
    assert code == 2 and "exclude each other" in err
    code, _, err = get(capfdbinary, server.url, "-Z", "-o", str(tmp_path / "x"), "--parallel-max", "0")
    assert code == 2 and "--parallel-max" in err


def test_an_unwritable_file_fails_only_its_transfer(server: Server, capfdbinary: Any, tmp_path: Path) -> None:
    good = tmp_path / "good"
    arguments = (f"{server.url}/1", "-o", "/nonexistent/file", f"{server.url}/2", "-o", str(good), "--parallel")
    code, _, err = get(capfdbinary, *arguments)
    assert code == 23 and "No such file" in err and good.read_bytes() == b"/2"


# --- requests ---------------------------------------------------------------------------------------------------------


def test_body_options_are_sent(server: Server, capfdbinary: Any, tmp_path: Path) -> None:
    url = f"{server.url}/echo"
    shown = echo(capfdbinary, url, "-d", "a=1", "-d", "b=2", "-A", "agent")
    assert shown["body"] == "a=1&b=2" and shown["line"].startswith("POST ")
    assert shown["headers"]["content-type"] == "application/x-www-form-urlencoded"
    assert shown["headers"]["user-agent"] == "agent"
    shown = echo(capfdbinary, url, "--json", '{"a":', "--json", "1}", "-X", "PUT")
    assert shown["body"] == '{"a":1}' and shown["line"].startswith("PUT ")
    assert shown["headers"]["content-type"] == shown["headers"]["accept"] == "application/json"
    shown = echo(capfdbinary, url, "-d", "<a/>", "-H", "content-type: text/xml")
    assert shown["headers"]["content-type"] == "text/xml"
    (tmp_path / "file").write_bytes(b"content of the file")
    shown = echo(
        capfdbinary, url, "-F", "name=value", "-F", f"up=@{tmp_path / 'file'};type=text/css;filename=n.css",
        "-F", f"text=<{tmp_path / 'file'}",
    )  # fmt: skip
    assert shown["headers"]["content-type"].startswith("multipart/form-data; boundary=")
    assert 'name="name"\r\n\r\nvalue\r\n' in shown["body"]
    assert 'name="up"; filename="n.css"\r\nContent-Type: text/css\r\n\r\ncontent of the file\r\n' in shown["body"]
    assert 'name="text"\r\n\r\ncontent of the file\r\n' in shown["body"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-d", "x", "--json", "1"], "--data and --json exclude each other"),
        (["-F", "novalue"], "not of the form NAME=VALUE"),
        (["-F", "a=@/dev/null;colour=red"], "'colour' is not known"),
        (["-u", "user"], "a password is needed"),
        (["-w", "%{nothing}"], "%{nothing} is not known"),
        (["--noproxy", "x"], "--noproxy needs --proxy"),
        (["-x", "gopher://x"], "gopher"),
        (["--connect-timeout", "0"], "--connect-timeout"),
        (["--interface", "eth0"], "not an IP address"),
        (["--retry", "-1"], "Retries count"),
    ],
)
def test_wrong_options_are_usage_errors(
    server: Server, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setattr("sys.stdin", None)
    code, out, err = get(capfdbinary, server.url, *arguments)
    assert (code, out) == (2, b"") and words in err and err.count("\n") == 1


def test_credentials_are_sent(server: Server, capfdbinary: Any) -> None:
    shown = echo(capfdbinary, f"{server.url}/echo", "-u", "name:secret:more")
    assert base64.b64decode(shown["headers"]["authorization"].removeprefix("Basic ")) == b"name:secret:more"


def test_proxy_options_are_used(server: Server, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server echoes the request line, in which a proxy gets the whole URL."""
    assert get(capfdbinary, "http://www.example/x", "-x", server.url)[1] == b"http://www.example/x"
    monkeypatch.setenv("http_proxy", server.url)
    assert get(capfdbinary, "http://www.example/x")[1] == b"http://www.example/x"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert get(capfdbinary, f"{server.url}/x")[1] == b"/x"


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_write_out_expands_its_variables(server: Server, capfdbinary: Any, tmp_path: Path) -> None:
    form = r"\n%{http_code} %{size_download} %{remote_ip} %{http_version} %{method} %{scheme} %%{x} %{urlnum}\n"
    code, out, _ = get(capfdbinary, f"{server.url}/abc", f"{server.url}/missing", "-w", form)
    assert code == 0
    assert out == (
        b"/abc\n200 4 127.0.0.1 1.1 GET http %{x} 0\n" + b"gone\n404 4 127.0.0.1 1.1 GET http %{x} 1\n"
    )
    code, out, _ = get(capfdbinary, "http://127.0.0.1:1/", "-w", "%{http_code} %{exitcode}")
    assert (code, out) == (7, b"000 7")
    with pytest.raises(UsageError, match="content_type"):
        expand("%{nothing}", Transfer(Target("http://x/", None), 0, "GET"))


def test_write_out_escapes_control_characters_of_the_server() -> None:
    response: Any = SimpleNamespace(
        status=200, url="http://x/\x1b", history=(), http_version="HTTP/1.1", elapsed=0.0, connection=None,
        headers={"content-type": "text/\x1b]0;title\x07\x9b31m\nplain \u00e9"},
    )
    transfer = Transfer(Target("http://x/", Path("a\x1bb")), 0, "GET", response)
    shown = expand(r"%{content_type}\n%{url_effective} %{filename_effective}", transfer)
    assert shown == "text/\\x1b]0;title\\x07\\x9b31m\\nplain \u00e9\nhttp://x/\\x1b a\\x1bb"


def test_progress_is_shown_for_one_and_several_transfers() -> None:
    one = Progress(1)
    one.begin(10.0, 4096 * 1024, 1024 * 1024)
    assert one.line(10.0) == " 25%  1.0 MiB of 4.0 MiB  0 B/s"
    one.advance(1024 * 1024)
    assert one.line(12.0) == " 50%  2.0 MiB of 4.0 MiB  512.0 KiB/s  0:00:04 left"
    several = Progress(3)
    several.begin(0.0, 100, 0)
    several.begin(1.0, None, 0)
    several.advance(10)
    several.end()
    assert several.line(2.0) == "1/3 done  10 B  5 B/s"
    unknown = Progress(1)
    unknown.begin(0.0, None, 0)
    unknown.advance(2048)
    assert unknown.line(1.0) == "2.0 KiB  2.0 KiB/s"


def test_progress_is_shown_on_terminals_only(
    server: Server, capfdbinary: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = ("-o", str(tmp_path / "file"))
    assert get(capfdbinary, f"{server.url}/file", *target)[2] == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    err = get(capfdbinary, f"{server.url}/file", *target)[2]
    assert "100%  10.0 KiB of 10.0 KiB" in err and err.endswith("\n")
    assert get(capfdbinary, f"{server.url}/file", *target, "--silent")[2] == ""
    assert get(capfdbinary, f"{server.url}/file")[2] == ""


def test_the_trace_as_json(server: Server, capfdbinary: Any, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    code, out, err = get(
        capfdbinary, f"{server.url}/x", "--trace-format", "json", "--trace-output", str(file)
    )
    assert (code, out, err) == (0, b"/x", "")
    trace = json.loads(file.read_text())
    assert trace["urls"] == [f"{server.url}/x"] and trace["result"] == "status 200"
    assert [(point["step"], point["phase"]) for point in trace["points"]] == [
        ("connect", "started"), ("connect", "done"), ("request", "started"), ("request", "done"),
        ("response", "started"), ("response", "done"),
    ]  # fmt: skip


def test_the_trace_as_a_page() -> None:
    points = [
        TracePoint("dns", STARTED, 1.0, {"host": "<script>"}),
        TracePoint("resolver", "referral", 1.1, {"what": "a&b"}),
        TracePoint("dns", DONE, 1.2, {"addresses": "192.0.2.1"}),
        TracePoint("connect", STARTED, 1.2),
        TracePoint("connect", FAILED, 2.0, {"error": "refused"}),
        TracePoint("request", STARTED, 2.0),
    ]
    text = page(points, 0.5, 3.0, [("http://x/?a=<b>", "none, exit code 7")])
    assert "<script>" not in text and "&lt;script&gt;" in text and "?a=&lt;b&gt;" in text and "a&amp;b" in text
    # The preparation before the first step takes no part of the scale.
    assert re.findall(r'<div class="bar ([a-z ]+)" style="margin-left:([\d.]+)%;width:([\d.]+)%">', text) == [
        ("dns", "0.00", "10.00"), ("resolver", "5.00", "0.00"), ("connect failed", "10.00", "40.00"),
        ("request", "50.00", "50.00"),
    ]  # fmt: skip
    assert '<td class="d bad">failed: error=refused</td>' in text and "none, exit code 7</li>" in text
    # It is for phones and dark screens too.
    assert 'name="viewport"' in text and "prefers-color-scheme: dark" in text and "@media (max-width" in text
    assert not re.search(r'(src|href)=', text)


def test_queries_and_replies_of_the_resolver_are_one_row() -> None:
    steps = [
        (1.0, "ask: query 192.0.2.1"), (1.1, "  ask: query 192.0.2.2"), (1.2, "  reply: referral from 192.0.2.2"),
        (1.5, "reply: answer from 192.0.2.1"), (1.6, "reply: late \x1b"), (1.7, "ask: query 192.0.2.3"),
    ]  # fmt: skip
    points = [TracePoint("resolver", "step", time, {"what": text}) for time, text in steps]
    text = page(points, 1.0, 2.0, [("http://a/", "200 OK"), ("http://b/", "404 Not Found")])
    assert re.findall(r'<td class="d">(.*?)</td><td class="n">([\d.]+)</td><td class="n">([\d.]*)</td>', text) == [
        ("ask: query 192.0.2.1 → answer from 192.0.2.1", "0.0", "500.0"),
        ("  ask: query 192.0.2.2 → referral from 192.0.2.2", "100.0", "100.0"),
        ("reply: late \\x1b", "600.0", ""),
        ("ask: query 192.0.2.3", "700.0", ""),
    ]
    assert "<h1>Trace of 2 URLs</h1>" in text


# --- standard streams that are not as usual ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError()])
def test_a_failing_output_ends_parallel_transfers(
    server: Server, capfd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def fail(_: str) -> Any:
        raise error

    monkeypatch.setattr(cli.os, "dup2", lambda *_: None)
    monkeypatch.setattr("sys.stdout", SimpleNamespace(buffer=SimpleNamespace(write=fail), fileno=lambda: 1))
    files = ["-o", str(tmp_path / "1"), "-o", str(tmp_path / "2")]
    assert cli.main(["get", "-Z", "-w", "x", *files, server.url, server.url]) == 23


def test_without_standard_input(capfdbinary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    code, _, err = get(capfdbinary, "-d", "@-", "http://127.0.0.1:1/")
    assert code == 2 and "without a standard input" in err


def test_without_standard_error(server: Server, capfdbinary: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    assert get(capfdbinary, "--fail-with-body", "--trace", f"{server.url}/missing") == (22, b"gone", "")


@pytest.mark.parametrize(("typed", "code"), [(EOFError, 2), (KeyboardInterrupt, 130)])
def test_an_aborted_password_prompt_sets_the_exit_code(
    capfdbinary: Any, monkeypatch: pytest.MonkeyPatch, typed: type[BaseException], code: int
) -> None:
    def ask(_: str) -> str:
        # The loop's handler would only cancel a task, and this call would continue to wait.
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        raise typed

    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    monkeypatch.setattr("getpass.getpass", ask)
    assert get(capfdbinary, "-u", "me", "http://127.0.0.1:1/")[0] == code
