"""The query log and dnstap of a running resolverd, read back by Debian's tools: fstrm_capture, dnstap-ldns and dnstap.

The upstream is BIND. Every kind of message is caused by dig, and each tool must find it.
"""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, program, run_named, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

from resolver.wire import consts as c

pytestmark = pytest.mark.integration

TIMEOUT = 60
ZONE = "$TTL 300\n@ SOA ns host 1 7200 3600 86400 300\n@ NS ns\nns A 127.0.0.1\nwww A 192.0.2.1\n"
CONTENT_TYPE = "protobuf:dnstap.Dnstap"


@contextmanager
def bind(directory: Path, port: int) -> Iterator[None]:
    """An authoritative BIND for stub.test and forward.test."""
    zones = ("stub.test", "forward.test")
    for zone in zones:
        (directory / zone).write_text(ZONE)
    config = directory / "named.conf"
    config.write_text(
        f"""options {{
  directory "{directory}"; pid-file none; session-keyfile none; listen-on-v6 {{ none; }}; recursion no;
  listen-on port {port} {{ 127.0.0.1; }};
}};
controls {{ }};
""" + "".join(f'zone "{zone}" {{ type primary; file "{zone}"; }};\n' for zone in zones)
    )
    log = directory / "named.log"
    with run_named(config, log):
        yield


def configure(directory: Path, port: int, upstream: int, extra: str, *, workers: int = 1) -> Path:
    (directory / "own.test").write_text(ZONE)
    config = directory / "resolverd.toml"
    config.write_text(
        f"""[server]
listen = ["127.0.0.1:{port}"]
workers = {workers}
[iteration]
do-not-query-localhost = false
[dnssec]
enabled = false
[control]
socket = "{directory / "control"}"
[[stub]]
zone = "stub.test."
addresses = ["127.0.0.1:{upstream}"]
[[forward]]
zone = "forward.test."
addresses = ["127.0.0.1:{upstream}"]
[[zone]]
name = "own.test."
file = "{directory / "own.test"}"
[[view]]
name = "kids"
clients = ["127.0.0.2/32"]
{extra}"""
    )
    return config


@contextmanager
def resolverd(config: Path, port: int) -> Iterator["subprocess.Popen[bytes]"]:
    log = config.parent / "resolverd.log"
    with run_process([*RESOLVERD, "--config", str(config)], log, env=daemon_environment()) as process:
        wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "an answer",
                   process=process, log=log)
        yield process


def run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=TIMEOUT).stdout


def control(config: Path, *words: str) -> str:
    return run(RESOLVERD[0], "-m", "resolver.cli.control", "-s", str(config.parent / "control"), *words)


def dig(port: int, name: str, *words: str, source: str = "127.0.0.1") -> str:
    return run(program("dig"), "@127.0.0.1", "-p", str(port), "-b", source, "+tries=1", "+time=5", *words, name)


@contextmanager
def capture(socket: Path, written: Path) -> Iterator[None]:
    """fstrm_capture, which ends its file properly when it is stopped."""
    command = [program("fstrm_capture"), "-t", CONTENT_TYPE, "-u", str(socket), "-w", str(written)]
    with run_process(command, written.with_suffix(".log")) as process:
        wait_until(socket.exists, "the socket of fstrm_capture", process=process)
        yield
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT)
    socket.unlink(missing_ok=True)


def counters(config: Path) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = json.loads(control(config, "--json", "statistics"))
    return found


def sent(config: Path, count: int) -> bool:
    """Whether at least `count` messages were recorded, and all of them were sent."""
    counted = counters(config)["dnstap"]
    return counted["written"] == counted["records"] >= count


def shown(tool: str, written: Path) -> list[tuple[str, str, str]]:
    """Kind, transport and name of each message in a file, as a tool prints them."""
    text = run(tool, "-q", "-r", str(written))
    found = [re.search(r' ([A-Z]{2}) \S+ (\S+) \d+b "([^"]*)" IN ', line) for line in text.splitlines()]
    assert all(found), text
    return [(one[1], one[2], one[3].lower()) for one in found if one is not None]


def query_all(port: int) -> None:
    """Messages of each kind, over UDP and TCP."""
    for name in ("www.stub.test", "www.forward.test", "www.own.test"):
        dig(port, name)
        dig(port, name, "+tcp")
    dig(port, "www.own.test", "+norecurse")


def test_each_kind_of_message_is_read_by_the_tools(tmp_path: Path) -> None:
    port, upstream = free_port(), free_port()
    socket, first, second = tmp_path / "tap", tmp_path / "first.fstrm", tmp_path / "second.fstrm"
    config = configure(tmp_path, port, upstream, f'[dnstap]\nsocket = "{socket}"\nidentity = "here"\nversion = "1.2"\n')
    with bind(tmp_path, upstream), resolverd(config, port):
        with capture(socket, first):
            wait_until(lambda: counters(config)["dnstap"]["connected"] == 1, "the connection")
            query_all(port)
            wait_until(lambda: sent(config, 18), "the messages")
        wait_until(lambda: counters(config)["dnstap"]["connected"] == 0, "the loss of the collector")
        dig(port, "www.stub.test")
        with capture(socket, second):
            dig(port, "www.stub.test", "+tcp")
            wait_until(lambda: counters(config)["dnstap"]["connected"] == 1 and sent(config, 22), "the messages")
        counted = counters(config)["dnstap"]
    assert counted["connections"] == 2 and counted["failures"] >= 1
    assert counted["dropped_buffer_full"] == counted["dropped_write_failed"] == 0

    ldns, golang = (shown(program(tool), first) for tool in ("dnstap-ldns", "dnstap"))
    assert ldns == golang
    clients, servers = (("C", "stub"), ("C", "forward"), ("A", "own")), (("R", "stub"), ("F", "forward"))
    both = ("UDP", "TCP")
    wanted = {(kind + way, over, f"www.{zone}.test.") for kind, zone in clients for way in "QR" for over in both}
    wanted |= {(kind + way, "UDP", f"www.{zone}.test.") for kind, zone in servers for way in "QR"}
    assert wanted <= set(ldns)

    text = run(program("dnstap-ldns"), "-y", "-r", str(first))
    assert text.count('identity: "here"') == len(ldns) and text.count('version: "1.2"') == len(ldns)
    assert 'query_address: "127.0.0.1"' in text and f"response_port: {upstream}" in text
    assert "www.stub.test.\t300\tIN\tA\t192.0.2.1" in text
    assert shown(program("dnstap-ldns"), second) == [
        (kind, transport, "www.stub.test.") for transport in ("UDP", "TCP") for kind in ("CQ", "CR")
    ]


def test_a_collector_over_tcp(tmp_path: Path) -> None:
    port, upstream, tap = free_port(), free_port(), free_port()
    config = configure(
        tmp_path, port, upstream,
        f'[dnstap]\naddress = "127.0.0.1:{tap}"\nmessages = ["client-response"]\nclient-prefix-v4 = 8\n', workers=2,
    )
    out = tmp_path / "messages.json"
    command = [program("dnstap"), "-l", f"127.0.0.1:{tap}", "-j", "-w", str(out)]
    with bind(tmp_path, upstream), resolverd(config, port):
        with run_process(command, tmp_path / "dnstap.log") as collector:
            wait_until(lambda: counters(config)["dnstap"]["connected"] == 2, "the connections of both workers")
            for _ in range(20):
                dig(port, "www.stub.test")
            wait_until(lambda: sent(config, 20), "the messages")
            wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") >= 20, "what the collector has written")
            collector.send_signal(signal.SIGINT)
            collector.wait(TIMEOUT)
    found = [json.loads(line) for line in out.read_text().splitlines()]
    messages = [one["message"] for one in found]
    assert {one["type"] for one in messages} == {"CLIENT_RESPONSE"} and len(messages) >= 20
    assert {one["query_address"] for one in messages} == {"127.0.0.0"}
    assert sum("www.stub.test." in one["response_message"] for one in messages) == 20


def lines(path: Path) -> list[dict[str, str]]:
    return [dict(pair.split("=", 1) for pair in line.split(" ")) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_file_is_rotated_and_the_format_reloaded(tmp_path: Path, workers: int) -> None:
    port, upstream = free_port(), free_port()
    path, old, older = (tmp_path / name for name in ("queries", "queries.1", "queries.2"))
    section = f'[query-log]\nfile = "{path}"\nviews = ["kids"]\n'
    config = configure(tmp_path, port, upstream, section, workers=workers)
    with bind(tmp_path, upstream), resolverd(config, port) as process:
        for number in range(6):
            dig(port, "www.stub.test", *(["+tcp"] if number % 2 else []), source="127.0.0.2")
            dig(port, "www.stub.test")
        wait_until(lambda: len(path.read_text().splitlines()) == 6, "the lines of one view")
        found = lines(path)
        assert {line["name"] for line in found} == {"www.stub.test."} and {line["view"] for line in found} == {"kids"}
        assert {line["transport"] for line in found} == {"udp", "tcp"}
        assert {line["client"] for line in found} == {"127.0.0.2"}
        assert {line["cached"] for line in found} == {"no", "yes"}
        assert path.stat().st_mode & 0o137 == 0

        path.rename(old)
        assert control(config, "reopen") == "the query log is written to a file opened now\n"
        dig(port, "www.own.test", source="127.0.0.2")
        wait_until(lambda: len(path.read_text().splitlines()) == 1, "a line in the new file")
        assert len(lines(old)) == 6

        path.rename(older)
        configure(tmp_path, port, upstream, section + 'format = "json"\nfields = ["name", "rcode"]\n', workers=workers)
        process.send_signal(signal.SIGHUP)
        log = tmp_path / "resolverd.log"
        wait_until(lambda: path.exists() and "the new configuration is in force" in log.read_text(), "the reload")
        dig(port, "none.own.test", source="127.0.0.2")
        wait_until(lambda: path.read_text().endswith("\n"), "a line of JSON")
        assert json.loads(path.read_text().splitlines()[0]) == {"name": "none.own.test.", "rcode": "NXDOMAIN"}

        path.unlink()
        path.mkdir()
        process.send_signal(signal.SIGHUP)
        refusal = rf"resolverd.toml:\d+: query-log.file: .*cannot open '{re.escape(str(path))}': it is a directory"
        wait_until(lambda: re.search(refusal, (tmp_path / "resolverd.log").read_text()) is not None, "the refusal")
        assert dig(port, "www.stub.test")
    counted_lines = len(old.read_text().splitlines()) + len(older.read_text().splitlines())
    assert counted_lines == 7


def test_lines_of_the_last_moment_are_written(tmp_path: Path) -> None:
    port = free_port()
    path = tmp_path / "queries"
    config = configure(tmp_path, port, free_port(), f'[query-log]\nfile = "{path}"\nformat = "json"\n')
    with resolverd(config, port) as process:
        before = len(path.read_text().splitlines())
        dig(port, "www.own.test")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(found) > before and found[-1]["name"] == "www.own.test."


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_cannot_be_opened_refuses_to_start(tmp_path: Path, workers: int) -> None:
    config = configure(tmp_path, free_port(), free_port(), '[query-log]\nfile = "/proc/none"\n', workers=workers)
    done = subprocess.run([*RESOLVERD, "--config", str(config)], capture_output=True, text=True, timeout=TIMEOUT,
                          check=False, env=daemon_environment())
    assert done.returncode == 2
    assert re.search(r"resolverd.toml:\d+: query-log.file: .*cannot open '/proc/none': No such file", done.stderr)


def test_reopen_without_a_query_log(tmp_path: Path) -> None:
    port = free_port()
    config = configure(tmp_path, port, free_port(), "")
    with resolverd(config, port):
        command = [RESOLVERD[0], "-m", "resolver.cli.control", "-s", str(tmp_path / "control"), "reopen"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 1 and "query-log.file is not set" in done.stderr


def test_a_log_that_cannot_be_written_is_a_problem_until_it_can(tmp_path: Path) -> None:
    """The device is always full."""
    port, path = free_port(), tmp_path / "queries"
    path.symlink_to("/dev/full")
    config = configure(tmp_path, port, free_port(), f'[query-log]\nfile = "{path}"\n', workers=2)
    with resolverd(config, port):
        wait_until(lambda: dig(port, "localhost") and health(config) != "healthy\n", "the problem")
        assert health(config) == f"query log: lines are lost: cannot write to {path}: No space left on device\n"
        path.unlink()
        control(config, "reopen")
        wait_until(lambda: dig(port, "localhost") and health(config) == "healthy\n", "the end of the problem")


def health(config: Path) -> str:
    command = [RESOLVERD[0], "-m", "resolver.cli.control", "-s", str(config.parent / "control"), "health"]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False).stdout
