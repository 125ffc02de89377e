"""`resolverctl top` of a running resolverd with two workers and lanes, while dnsperf and others ask it.

The simulated Internet runs in a separate process. Counts are compared with those of dnsperf.
"""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.ports import free_port
from support.servers import ask, ask_packet, program, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment, resolverd_config, serve_playground, upstream_port_for

from resolver.cli import control
from resolver.playground import World
from resolver.wire import consts as c
from resolver.wire.build import make_query

pytestmark = pytest.mark.integration

TIMEOUT = 60
NAMES = ("www.example.playground.", "mail.example.playground.", "www.nsec.dnssec.playground.")
LAME = "www.lame-all.playground."


class Watched:
    """A running daemon."""

    def __init__(self, path: Path, port: int) -> None:
        self.socket = str(path / "control")
        self.port = port

    def call(self, **request: Any) -> dict[str, Any]:
        """The result of a request to the control socket."""
        [message] = control.ask(self.socket, request, TIMEOUT)
        assert message["ok"], message
        result: dict[str, Any] = message["result"]
        return result

    def top(self, watch: str, **more: Any) -> dict[str, Any]:
        activity: dict[str, Any] = self.call(command="top", watch=watch, keep=300, lines=100, **more)["activity"]
        return activity

    @contextmanager
    def watch(self) -> Iterator[str]:
        """The name of a watcher, until the block ends."""
        began = self.call(command="top", keep=300)
        assert began["activity"] is None
        try:
            yield began["watch"]
        finally:
            self.call(command="top", watch=began["watch"], keep=0)

    def ask(self, name: str) -> int:
        view = ask("127.0.0.1", self.port, name, c.A)
        assert view is not None
        return view.rcode

    def load(self, path: Path, names: tuple[str, ...], times: int) -> int:
        """Let dnsperf ask for each of `names` so often, from 16 sockets; the number of replies."""
        data = path / "queries"
        data.write_text("".join(f"{name} A\n" for name in names))
        command = [program("dnsperf"), "-s", "127.0.0.1", "-p", str(self.port), "-d", str(data), "-n", str(times),
                   "-c", "16", "-q", "32"]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=TIMEOUT).stdout
        lost = re.search(r"Queries lost: +(\d+)", text)
        assert lost is not None and lost[1] == "0", text
        return times * len(names)

    def watchers(self) -> list[int]:
        return [worker["watchers"] for worker in self.call(command="status")["workers"]]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    path = tmp_path_factory.mktemp("top")
    world = World()
    port, upstream = free_port(), upstream_port_for("resolverd", world)
    hints = path / "root.hints"
    hints.write_text(world.hints_text())
    text = resolverd_config(world, port, upstream, hints).replace("[server]\n", "[server]\nworkers = 2\nlanes = 2\n")
    config = path / "resolverd.toml"
    config.write_text(f'{text}\n[control]\nsocket = "{path / "control"}"\n')
    log = path / "log"
    with serve_playground(path, world, upstream), \
            run_process([*RESOLVERD, "--config", str(config)], log, env=daemon_environment()) as process:
        wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "an answer",
                   process=process, log=log)
        yield Watched(path, port)


def counts(activity: dict[str, Any], kind: str, key: str) -> dict[str, int]:
    return {entry[key]: entry["count"] for entry in activity["top"][kind]}


def test_what_two_workers_with_lanes_did(watched: Watched, tmp_path: Path) -> None:
    assert [watched.ask(name) for name in NAMES] == [c.NOERROR] * len(NAMES)
    with watched.watch() as first, watched.watch() as second:
        assert watched.watchers() == [2, 2]
        sent = watched.load(tmp_path, NAMES, 4000)
        for watch in (first, second):
            found = watched.top(watch)
            assert found["workers"] == {"answered": 2, "all": 2}
            assert found["sampling"]["replies"] == sent
            assert 100 < found["sampling"]["samples"] < sent
            assert found["queries"]["rate"] * found["seconds"] == pytest.approx(sent, rel=0.01)
            assert set(found["queries"]["by_transport"]) == {"udp"} and set(found["replies"]["by_rcode"]) == {"NOERROR"}
            assert found["answers"]["cache_hit_ratio"] > 0.99
            by_name = counts(found, "names", "name")
            assert set(by_name) == set(NAMES)
            for count in by_name.values():
                assert count == pytest.approx(sent / len(NAMES), rel=0.5)
            assert sum(counts(found, "clients", "client").values()) == pytest.approx(sent, rel=0.1)
            assert set(counts(found, "clients", "client")) == {"127.0.0.1"}
            assert set(counts(found, "zones", "zone")) == {"example.playground.", "nsec.dnssec.playground."}
            assert found["top"]["failed"] == [] and found["top"]["slow"] == []


def test_names_that_fail_and_zones_whose_servers_are_asked(watched: Watched) -> None:
    with watched.watch() as watch:
        assert watched.ask(LAME) == c.SERVFAIL
        assert watched.ask("new.example.playground.") == c.NXDOMAIN
        found = watched.top(watch)
        assert counts(found, "failed", "name") == {LAME: 1}
        assert found["replies"]["by_rcode"].keys() == {"SERVFAIL", "NXDOMAIN"}
        slow = {entry["zone"]: entry for entry in found["top"]["slow"]}
        assert {"lame-all.playground.", "example.playground."} <= set(slow)
        assert slow["example.playground."]["queries"] >= 1 and slow["example.playground."]["seconds"] > 0
        assert found["upstream"]["rate"] > 0 and found["upstream"]["latency"]["p99"] > 0


def test_names_of_strangers(watched: Watched) -> None:
    """Each is one line without control characters, also as resolverctl prints it."""
    with watched.watch() as watch:
        for number in range(5):
            packet = make_query(number, b"\x08\x1b[2j\n\"; \x07example\x0aplayground\0", c.A)
            assert ask_packet("127.0.0.1", watched.port, packet) is not None
        escaped = '\\027[2j\\010\\"\\;\\032.example.playground.'
        assert counts(watched.top(watch), "names", "name") == {escaped: 5}


def test_a_reload_does_not_end_a_watch(watched: Watched, tmp_path: Path) -> None:
    with watched.watch() as watch:
        watched.call(command="reload")
        assert watched.watchers().count(0) == 0
        [watched.ask(name) for name in NAMES]
        before = watched.top(watch)["sampling"]["replies"]
        sent = watched.load(tmp_path, NAMES, 200)
        assert before == len(NAMES) and watched.top(watch)["sampling"]["replies"] == sent


def test_the_watch_ends_in_all_workers_when_nobody_calls(watched: Watched) -> None:
    assert watched.watchers() == [0, 0]
    watch = watched.call(command="top", keep=1)["watch"]
    assert watched.watchers() == [1, 1]
    wait_until(lambda: watched.watchers() == [0, 0], "the end of the watch")
    again = watched.call(command="top", watch=watch, keep=0)
    assert again["activity"] is None and again["watch"] != watch


def resolverctl(watched: Watched, *words: str) -> list[str]:
    return [sys.executable, "-m", "resolver.cli.control", "--socket", watched.socket, *words]


def test_once_as_json_and_as_text(watched: Watched) -> None:
    command = ["top", "--once", "--interval", "1", "--by", "names,zones"]
    done = subprocess.run(resolverctl(watched, *command, "--json"), capture_output=True, text=True, check=True,
                          timeout=TIMEOUT, env=daemon_environment())
    [line] = done.stdout.splitlines()
    found = json.loads(line)
    assert found["seconds"] >= 0.9 and set(found["top"]) == {"names", "zones"}
    done = subprocess.run(resolverctl(watched, *command), capture_output=True, text=True, check=True, timeout=TIMEOUT,
                          env=daemon_environment())
    assert re.match(r"last 1\.\d s: ", done.stdout) and "\nzones" in done.stdout and "\x1b" not in done.stdout


def test_on_a_terminal_until_it_is_interrupted(watched: Watched) -> None:
    master, slave = pty.openpty()
    with os.fdopen(master, "rb", buffering=0) as terminal:
        process = subprocess.Popen(
            resolverctl(watched, "top", "--interval", "1"), stdin=subprocess.DEVNULL, stdout=slave,
            env={**daemon_environment(), "TERM": "xterm"}, start_new_session=True,
        )
        os.close(slave)
        try:
            shown = b""
            while shown.count(b"\x1b[H") < 2:
                assert select.select([terminal], [], [], TIMEOUT)[0], shown
                shown += terminal.read(4096)
            process.send_signal(signal.SIGINT)
            assert process.wait(TIMEOUT) == 0
            while select.select([terminal], [], [], 0)[0]:
                try:
                    shown += terminal.read(4096)
                except OSError:  # the other end is closed, and everything was read
                    break
        finally:
            process.kill()
            process.wait()
    assert shown.startswith(b"\x1b[?1049h\x1b[?25l") and shown.endswith(b"\x1b[?25h\x1b[?1049l")
    assert b"queries/s" in shown and b"memory" in shown
