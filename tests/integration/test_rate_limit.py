"""Limits of rates in a running resolverd, seen by dig, kdig, dnsperf and plain sockets, and by the same tests in BIND.

Each flood comes from a loopback address of its own, so that no test waits until a limit ends. BIND and resolverd get
the same `rate-limit` settings and must treat the same floods alike, within the second that a flood may straddle.
"""

import re
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, program, run_named, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

pytestmark = pytest.mark.integration

RATE = 5
FLOOD = 60
QUIET = 0.5
ZONE = """$TTL 300
@ SOA ns host 1 7200 3600 86400 300
@ NS ns
ns A 127.0.0.1
www A 192.0.2.1
mail A 192.0.2.2
"""


def serves(port: int) -> bool:
    """Whether the zone is loaded; asked over TCP, which is not limited."""
    view = ask("127.0.0.1", port, "rate.test.", c.SOA, tcp=True, timeout=0.5)
    return view is not None and bool(view.answer)


@contextmanager
def bind(directory: Path, port: int, limits: str) -> Iterator[None]:
    """An authoritative BIND for rate.test, with the statements `limits` in its rate-limit block."""
    (directory / "rate.test").write_text(ZONE)
    config = directory / "named.conf"
    config.write_text(
        f"""options {{
  directory "{directory}"; pid-file none; session-keyfile none; listen-on-v6 {{ none; }}; recursion no;
  listen-on port {port} {{ any; }}; minimal-responses yes;
  rate-limit {{ {limits} }};
}};
controls {{ }};
zone "rate.test" {{ type primary; file "rate.test"; }};
"""
    )
    log = directory / "named.log"
    with run_named(config, log):
        yield


def write_config(directory: Path, port: int, limits: str) -> Path:
    config = directory / "resolverd.toml"
    config.write_text(
        f"""[server]
listen = ["127.0.0.1:{port}"]
[policy]
local-zones = ["rate.test static"]
local-data = ["rate.test SOA ns.rate.test host.rate.test 1 7200 3600 86400 300", "www.rate.test A 192.0.2.1",
 "mail.rate.test A 192.0.2.2"]
[dnssec]
enabled = false
[control]
socket = "{directory / "control"}"
[log]
rate-limit-interval = 0
[rate-limit]
{limits}
"""
    )
    return config


@contextmanager
def resolverd(directory: Path, port: int, limits: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Our daemon, with the same zone."""
    log = directory / "resolverd.log"
    command = [*RESOLVERD, "--config", str(write_config(directory, port, limits))]
    with run_process(command, log, env=daemon_environment()) as process:
        wait_until(lambda: serves(port), "an answer from resolverd", process=process, log=log)
        yield process


@contextmanager
def serve(which: str, directory: Path, port: int, **limits: object) -> Iterator[None]:
    """One of the two servers with the same limits, in its own words."""
    if which == "bind":
        words = {"exempt": "exempt-clients", "ipv4_prefix": "ipv4-prefix-length", "log_only": "log-only"}
        text = ""
        for name, value in limits.items():
            shown = f"{{ {value}; }}" if name == "exempt" else "yes" if value is True else str(value)
            text += f"{words.get(name, name.replace('_', '-'))} {shown}; "
        with bind(directory, port, text):
            yield
        return
    lines = []
    for name, value in limits.items():
        shown = f'["{value}"]' if name == "exempt" else "true" if value is True else str(value)
        lines.append(f"{name.replace('_', '-')} = {shown}")
    with resolverd(directory, port, "\n".join(lines)):
        yield


def flood(
    port: int, source: str, name: str = "www{}.rate.test.", count: int = FLOOD, *, distinct: bool = False
) -> Counter[str]:
    """What so many queries in a row from `source` get."""
    found: Counter[str] = Counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((source, 0))
        for number in range(count):
            qname = names.from_text(name.format(number if distinct else ""))
            sock.sendto(make_query(number, qname, c.A, flags=c.RD), ("127.0.0.1", port))
        sock.settimeout(QUIET)
        while True:
            try:
                view = MessageView.parse(sock.recv(4096))
            except TimeoutError:
                break
            found["truncated" if view.tc else "answer" if view.answer else c.rcode_to_text(view.rcode)] += 1
    found["nothing"] = count - sum(found.values())
    return found


def dig(port: int, source: str, *words: str) -> str:
    command = [program("dig"), "@127.0.0.1", "-p", str(port), "-b", source, "+tries=1", "+time=2", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


def statistics(directory: Path) -> dict[str, int]:
    command = [RESOLVERD[0], "-m", "resolver.cli.control", "-s", str(directory / "control"), "statistics"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, env=daemon_environment(),
                          timeout=60).stdout
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines())}


@pytest.mark.parametrize("which", ["bind", "resolverd"])
def test_floods_get_what_bind_gives_them(tmp_path: Path, which: str) -> None:
    port = free_port()
    with serve(which, tmp_path, port, responses_per_second=RATE, window=10, slip=2, ipv4_prefix=32,
               exempt="127.0.1.9"):
        found = flood(port, "127.0.1.1")
        assert RATE <= found["answer"] <= 2 * RATE, found
        assert abs(found["truncated"] - found["nothing"]) <= 1, found
        found = flood(port, "127.0.1.2", "none{}.rate.test.", distinct=True)
        assert RATE <= found["NXDOMAIN"] <= 2 * RATE, found
        assert abs(found["truncated"] - found["nothing"]) <= 1, found
        found = flood(port, "127.0.1.3", "other{}.example.", distinct=True)
        if which == "bind":  # resolverd asks the servers of these names, of which there are none
            assert found["truncated"] == 0, "errors slip as they are"
            assert RATE <= found["REFUSED"] < FLOOD, found
        assert flood(port, "127.0.1.9")["answer"] == FLOOD, "exempt"
        text = dig(port, "127.0.1.1", "+tcp", "+nocookie", "www.rate.test", "A")
        assert "192.0.2.1" in text, "TCP is not limited"
        assert "192.0.2.2" in dig(port, "127.0.1.1", "+nocookie", "mail.rate.test", "A"), "another name"


@pytest.mark.parametrize("which", ["bind", "resolverd"])
def test_dig_is_truncated_and_gets_through_over_tcp_or_with_a_cookie(tmp_path: Path, which: str) -> None:
    port = free_port()
    with serve(which, tmp_path, port, responses_per_second=RATE, window=30, slip=1, ipv4_prefix=32):
        text = dig(port, "127.0.1.1", "+cookie", "mail.rate.test", "A")
        cookie = re.search(r"; COOKIE: ([0-9a-f]+)", text)
        assert cookie is not None, text
        found = flood(port, "127.0.1.1")
        assert found["nothing"] == 0, found
        text = dig(port, "127.0.1.1", "+ignore", "+nocookie", "www.rate.test", "A")
        assert re.search(r"flags:[^;]*\btc\b", text) and "192.0.2.1" not in text, text
        text = dig(port, "127.0.1.1", "+nocookie", "www.rate.test", "A")
        assert "retrying in TCP mode" in text and "192.0.2.1" in text, text
        text = dig(port, "127.0.1.1", "+ignore", f"+cookie={cookie[1]}", "www.rate.test", "A")
        assert "192.0.2.1" in text and "retrying" not in text, text
        command = [program("kdig"), "@127.0.0.1", "-p", str(port), "-b", "127.0.1.1", "www.rate.test", "A"]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        assert "192.0.2.1" in text and "(TCP)" in text, text


@pytest.mark.parametrize("which", ["bind", "resolverd"])
def test_log_only_limits_nothing(tmp_path: Path, which: str) -> None:
    port = free_port()
    with serve(which, tmp_path, port, responses_per_second=RATE, log_only=True):
        assert flood(port, "127.0.1.1")["answer"] == FLOOD
        if which == "resolverd":
            assert statistics(tmp_path)["rate_limit.replies_logged.answers"] >= FLOOD - 2 * RATE


def test_what_is_limited_is_counted_and_logged_and_a_reload_ends_it(tmp_path: Path) -> None:
    port = free_port()
    limits = f"responses-per-second = {RATE}\nqueries-per-second = 40\nslip = 0\nwindow = 600"
    log = tmp_path / "resolverd.log"
    with resolverd(tmp_path, port, limits) as process:
        found = flood(port, "127.0.1.1")
        assert RATE <= found["answer"] <= 2 * RATE, found
        counts = statistics(tmp_path)
        assert counts["rate_limit.replies_dropped.answers"] >= 40 - 2 * RATE
        assert counts["rate_limit.queries_refused.unverified"] >= FLOOD - 2 * 40
        line = b"rate limit: replies (answers) to 127.0.1.0/24 exceed the limit: dropped"
        wait_until(lambda: line in log.read_bytes(), "the line about replies", process=process, log=log)
        assert flood(port, "127.0.1.7", count=3)["nothing"] >= 2, "the prefix is limited, not the address"
        config = write_config(tmp_path, port, f"responses-per-second = {2 * RATE}\nslip = 0\nwindow = 600")
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: b"the new configuration is in force" in log.read_bytes(), "the reload", process=process,
                   log=log)
        assert flood(port, "127.0.1.1", count=3)["nothing"] == 3, "the debt outlives the reload"
        assert statistics(tmp_path)["rate_limit.replies_dropped.answers"] > counts["rate_limit.replies_dropped.answers"]
        config.write_text(config.read_text().replace("slip = 0", "slip = 99"))
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: b"rate-limit.slip: 99 is outside 0..10" in log.read_bytes(), "the refusal", process=process,
                   log=log)
        assert flood(port, "127.0.1.1", count=3)["nothing"] == 3, "a wrong file keeps the old limits"


def test_dnsperf_gets_no_more_than_its_rate(tmp_path: Path) -> None:
    port = free_port()
    with resolverd(tmp_path, port, "queries-per-second = 100"):
        data = tmp_path / "queries"
        data.write_text("www.rate.test A\nmail.rate.test A\n")
        command = [program("dnsperf"), "-s", "127.0.0.1", "-p", str(port), "-d", str(data), "-l", "2", "-Q", "1000"]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        codes = dict(re.findall(r"(NOERROR|REFUSED) (\d+)", text))
        assert 200 <= int(codes["NOERROR"]) <= 300, text
        assert int(codes["REFUSED"]) > 1000, text
