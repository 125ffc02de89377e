"""resolverctl, metrics, the cache snapshot and stale answers, with the daemon as a process with one and two workers.

The simulated Internet runs in a separate process, so that a test can stop it.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment, resolverd_config, upstream_port_for

from resolver.playground import World
from resolver.wire import consts as c
from resolver.wire.message import MessageView

pytestmark = pytest.mark.integration

NAME = "www.example.playground."
TEXT = "www.example.playground. {} IN A 127.20.80.1"
TIMEOUT = 60


class ControlledDaemon:
    """A world, a daemon, and what talks to it."""

    def __init__(self, path: Path, workers: int, cache: str = "") -> None:
        self.path = path
        self.port = free_port()
        self.metrics = free_port()
        self.world = World()
        self.upstream = upstream_port_for("resolverd", self.world)
        hints = path / "root.hints"
        hints.write_text(self.world.hints_text())
        text = resolverd_config(self.world, self.port, self.upstream, hints)
        assert "[server]\n" in text and "[cache]" not in text
        text = text.replace("[server]\n", f"[server]\nworkers = {workers}\n")
        text += f"""
[cache]
size = "4 MiB"
snapshot-file = "{path / 'cache.bin'}"
{cache}
[control]
socket = "{path / 'control'}"
[metrics]
listen = "127.0.0.1:{self.metrics}"
"""
        self.config = path / "resolverd.toml"
        self.config.write_text(text)

    @contextlib.contextmanager
    def internet(self) -> Iterator["subprocess.Popen[bytes]"]:
        command = [sys.executable, "-m", "resolver.playground", "--port", str(self.upstream), "--no-web"]
        log = self.path / "playground.log"
        with run_process(command, log, env=daemon_environment()) as process:
            # Said when all of them listen; the root may answer before the servers below it do.
            wait_until(lambda: "name servers;" in log.read_text(), "name servers", process=process, log=log)
            yield process

    @contextlib.contextmanager
    def daemon(self) -> Iterator["subprocess.Popen[bytes]"]:
        log = self.path / "log"
        with run_process([*RESOLVERD, "--config", str(self.config)], log, env=daemon_environment()) as process:
            wait_until(lambda: ask("127.0.0.1", self.port, "localhost.", c.A, timeout=0.5) is not None, "an answer",
                       process=process, log=log)
            yield process

    def ask(self, name: str = NAME, **more: float) -> MessageView:
        view = ask("127.0.0.1", self.port, name, c.A, **more)
        assert view is not None
        return view

    def ctl(self, *words: str, status: int = 0) -> str:
        """What resolverctl prints; on failure, what it complains about."""
        done = subprocess.run(
            [sys.executable, "-m", "resolver.cli.control", "--socket", str(self.path / "control"), *words],
            capture_output=True, text=True, timeout=TIMEOUT, check=False, env=daemon_environment(),
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done.stderr if status else done.stdout

    def page(self) -> dict[str, float]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=TIMEOUT) as reply:
            lines = reply.read().decode().splitlines()
        return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@pytest.fixture(params=[1, 2])
def controlled(request: pytest.FixtureRequest, tmp_path: Path) -> ControlledDaemon:
    return ControlledDaemon(tmp_path, request.param)


def test_every_command_of_resolverctl(controlled: ControlledDaemon) -> None:
    with controlled.internet(), controlled.daemon():
        assert controlled.ask().rcode == c.NOERROR
        workers = controlled.ctl("status").count("worker ")
        assert workers == controlled.config.read_text().count("workers = 2") + 1
        assert re.search(r"^resolution\.upstream_queries [1-9]", controlled.ctl("statistics"), re.M)
        assert re.search(TEXT.format(r"\d+"), controlled.ctl("dump", "example.playground"))
        assert controlled.page()["resolver_upstream_queries_total"] >= 3
        assert "result: NOERROR" in controlled.ctl("trace", NAME)
        assert not controlled.ctl("flush", NAME).startswith("0 ")
        assert not re.search(TEXT.format(r"\d+"), controlled.ctl("dump"))
        assert controlled.ask().rcode == c.NOERROR
        controlled.ctl("save")
        controlled.ctl("flush", "--all")
        assert controlled.ctl("dump") == ""
        assert not controlled.ctl("load").startswith("0 ")
        assert controlled.ask().answer[0].rdata(0) == bytes((127, 20, 80, 1))
        assert "debug" in controlled.ctl("log", "debug")
        assert controlled.ctl("reload") == "the new configuration is in force\n"
        good = controlled.config.read_text()
        controlled.config.write_text(good.replace("[cache]\n", "[cache]\nmax-ttl = 3000\n"))
        assert "without cache.max-ttl, which needs a restart" in controlled.ctl("reload")
        controlled.config.write_text(good + "[nonsense]\n")
        assert "nonsense" in controlled.ctl("reload", status=1)
        controlled.config.write_text(good + "[policy]\nlocal-zones = ['a. odd']\n")
        line = controlled.config.read_text().splitlines().index("local-zones = ['a. odd']") + 1
        words = f"{controlled.config}:{line}: policy.local-zones[0]: 'a. odd': unknown kind"
        assert words in controlled.ctl("reload", status=1)
        assert controlled.ask().rcode == c.NOERROR
        assert "label" in controlled.ctl("flush", "a..b", status=1)
    assert "has exited" in controlled.ctl("status", status=3) or not (controlled.path / "control").exists()


def test_a_reload_with_an_unavailable_address_changes_nothing(tmp_path: Path) -> None:
    controlled = ControlledDaemon(tmp_path, 1)
    other = free_port()
    with controlled.daemon() as process:
        held = lambda: len(os.listdir(f"/proc/{process.pid}/fd"))  # noqa: E731
        controlled.ctl("reload")
        before = held()
        good = controlled.config.read_text()
        served = f'"127.0.0.1:{controlled.port}"'
        assert good.count(served) == 1
        moved = good.replace(served, f'"127.0.0.1:{other}"') + "[policy.hosts]\n'new.test' = '192.0.2.1'\n"
        controlled.config.write_text(moved)
        line = next(number for number, text in enumerate(moved.splitlines(), 1) if str(other) in text)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as taken:
            taken.bind(("127.0.0.1", other))
            taken.listen()
            output = controlled.ctl("reload", status=1)
        expected = f"{controlled.config}:{line}: server.listen[0]: '127.0.0.1:{other}': cannot listen on 127.0.0.1"
        assert expected in output
        assert "Address already in use" in output
        assert controlled.ask("localhost.").rcode == c.NOERROR
        wait_until(lambda: held() == before, "descriptors as before", process=process, log=tmp_path / "log")
        controlled.ctl("reload")
        controlled.port = other
        assert controlled.ask("new.test.").answer[0].rdata(0) == bytes((192, 0, 2, 1))


def test_the_cache_outlives_the_daemon(controlled: ControlledDaemon) -> None:
    with controlled.internet(), controlled.daemon():
        controlled.ask()
    assert (controlled.path / "cache.bin").stat().st_mode & 0o777 == 0o600
    with controlled.daemon():
        view = controlled.ask()
        assert view.answer[0].rdata(0) == bytes((127, 20, 80, 1))
    data = bytearray((controlled.path / "cache.bin").read_bytes())
    data[-1] ^= 1
    (controlled.path / "cache.bin").write_bytes(data)
    with controlled.internet(), controlled.daemon():
        assert controlled.ask().rcode == c.NOERROR
    assert "checksum" in (controlled.path / "log").read_text()


def test_stale_answers_bridge_an_outage(tmp_path: Path) -> None:
    cache = 'max-ttl = 1\nmax-stale-ttl = "1 h"\nstale-answer-client-timeout = "300 ms"'
    controlled = ControlledDaemon(tmp_path, 1, cache)
    with controlled.daemon():
        with controlled.internet():
            assert controlled.ask().answer[0].ttl <= 1
        until = time.monotonic() + 1.1
        wait_until(lambda: time.monotonic() > until, "the TTL to end")
        for _ in range(2):
            view = controlled.ask(timeout=30)
            assert (view.rcode, view.answer[0].ttl) == (c.NOERROR, 30)
            assert view.edns is not None and view.edns.get(c.OPTION_EDE)[:2] == b"\0\x03"
        assert controlled.page()["resolver_stale_answers_total"] >= 1
