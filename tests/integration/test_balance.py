"""Balanced names and rotated addresses in a running resolverd with two workers: checks, answers, what operators see.

The targets are loopback addresses with an HTTP server each, which the test starts and stops.
"""

import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, program, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment

from resolver.wire import consts as c

pytestmark = pytest.mark.integration

NAME, NEAR, SEVERAL = "www.balance.example", "near.balance.example", "several.example"
CONFIG = """
[server]
listen = ["127.0.0.1:{port}"]
rotate-addresses = true
[dnssec]
enabled = false
[control]
socket = "{control}"
[policy]
local-data = ["several.example A 192.0.2.1", "several.example A 192.0.2.2", "several.example A 192.0.2.3"]

[[balance]]
name = "{name}"
check = "http"
check-port = {http}
check-path = "/up"
interval = "1 s"
timeout = "1 s"
rise = 1
fall = 1
when-down = "fallback"
fallback = ["192.0.2.99"]
ttl = 5
[[balance.target]]
address = "127.0.0.1"
[[balance.target]]
address = "127.0.0.2"

[[balance]]
name = "near.balance.example"
policy = "nearest"
[[balance.target]]
address = "192.0.2.5"
clients = ["127.0.0.5/32"]
[[balance.target]]
address = "192.0.2.6"
"""


class Up(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204 if self.path == "/up" and self.headers["Host"].startswith(NAME) else 500)
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def target(address: str, port: int) -> Iterator[None]:
    with ThreadingHTTPServer((address, port), Up) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join(30)


def dig(port: int, name: str = NAME, source: str = "127.0.0.1") -> list[str]:
    """The addresses that dig gets, in their order, each time from another port and so perhaps from another worker."""
    command = [program("dig"), "@127.0.0.1", "-p", str(port), "-b", source, "+tries=1", "+time=5", name, "A"]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    return re.findall(r"\sIN\s+A\s+(\S+)$", text, re.MULTILINE)


def control(directory: Path, *words: str, code: int = 0) -> str:
    command = [RESOLVERD[0], "-m", "resolver.cli.control", "-s", str(directory / "control"), *words]
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=daemon_environment(), timeout=60)
    assert found.returncode == code, found
    return found.stdout


def test_answers_follow_the_checks(tmp_path: Path) -> None:
    port, http = free_port(), free_port()
    config = tmp_path / "resolverd.toml"
    config.write_text(CONFIG.format(port=port, http=http, control=tmp_path / "control", name=NAME))
    log = tmp_path / "log"
    command = [*RESOLVERD, "--config", str(config), "--workers", "2"]

    def settled(*addresses: str) -> None:
        """Wait until both workers answer with these addresses: 12 queries meet both."""
        wait_until(lambda: all(sorted(dig(port)) == sorted(addresses) for _ in range(12)), f"{addresses}",
                   process=process, log=log)

    with target("127.0.0.1", http), run_process(command, log, env=daemon_environment()) as process:
        wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "an answer",
                   process=process, log=log)
        settled("127.0.0.1")
        assert f"balance {NAME}: 127.0.0.2 is down: " in log.read_text()
        status = control(tmp_path, "status")
        assert status.count("balance: 3 of 4 targets are up") == 2, "one line for each worker"
        assert status.count(f"balance {NAME}: 127.0.0.2 is down: ") == 2
        assert control(tmp_path, "health") == "healthy\n"
        with target("127.0.0.2", http):
            settled("127.0.0.1", "127.0.0.2")
            assert {tuple(dig(port)) for _ in range(30)} == {("127.0.0.1", "127.0.0.2"), ("127.0.0.2", "127.0.0.1")}
            counts = dict(line.rsplit(" ", 1) for line in control(tmp_path, "statistics").splitlines())
            assert counts[f"balance.up.{NAME}/127.0.0.2"] == "2"
            assert int(counts[f"balance.checks.{NAME}/127.0.0.1"]) > 2
            assert int(counts[f"balance.check_failures.{NAME}/127.0.0.2"]) > 1
            assert int(counts[f"balance.answers.{NAME}/127.0.0.1"]) > 1
        settled("127.0.0.1")
        # A reload keeps the states: a target that is down is not answered until it has been checked.
        process.send_signal(signal.SIGHUP)
        wait_until(lambda: log.read_text().count("the new configuration is in force") == 2, "the reload",
                   process=process, log=log)
        assert {tuple(dig(port)) for _ in range(12)} == {("127.0.0.1",)}
        assert {tuple(dig(port, NEAR, "127.0.0.5")) for _ in range(6)} == {("192.0.2.5",)}
        assert {tuple(dig(port, NEAR, "127.0.0.6")) for _ in range(6)} == {("192.0.2.6",)}
        # The addresses of other answers begin with each of them, from the cache too.
        assert {dig(port, SEVERAL)[0] for _ in range(40)} == {"192.0.2.1", "192.0.2.2", "192.0.2.3"}
        hits = dict(line.rsplit(" ", 1) for line in control(tmp_path, "statistics").splitlines())["fast_path.hits"]
        assert int(hits) > 20


def test_all_targets_are_down(tmp_path: Path) -> None:
    port, http = free_port(), free_port()
    config = tmp_path / "resolverd.toml"
    config.write_text(CONFIG.format(port=port, http=http, control=tmp_path / "control", name=NAME))
    log = tmp_path / "log"
    with run_process([*RESOLVERD, "--config", str(config)], log, env=daemon_environment()) as process:
        wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "an answer",
                   process=process, log=log)
        wait_until(lambda: dig(port) == ["192.0.2.99"], "the fallback", process=process, log=log)
        found = control(tmp_path, "health", code=1)
        assert found.startswith(f"balance: all targets of {NAME} are down: 127.0.0.1 (")
