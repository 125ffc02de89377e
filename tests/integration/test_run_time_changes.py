"""resolverctl changes a running daemon: in all workers, also after a reload and a restart. Errors are reported."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.ports import free_port
from support.servers import ask, wait_until
from support.subject import Subject, daemon_environment, serve_playground, start_subject, upstream_port_for

from resolver.playground import signed
from resolver.wire import consts as c

pytestmark = pytest.mark.integration

BOGUS = "www.expired.dnssec.playground."
ZONE = "expired.dnssec.playground."
NAME = "www.example.playground."


class ManagedDaemon:
    """A daemon with a control socket and a changes file, whose upstream is the signed playground. `start` runs it."""

    def __init__(self, path: Path, workers: int) -> None:
        self.path, self.workers = path, workers
        self.world = signed.signed_world(int(time.time()))
        self.upstream = upstream_port_for("resolverd", self.world)
        self.file = path / "changes"
        self.socket = path / "control"
        self.port = free_port()

    def start(self, more: str = "") -> "ExitStack":
        stack = ExitStack()
        extra = f"[control]\nsocket = '{self.socket}'\nchanges-file = '{self.file}'\n{more}"
        self.subject: Subject = stack.enter_context(start_subject(
            self.path, self.world, self.upstream, kind="resolverd", port=self.port, anchor=self.world.trust_anchors[0],
            edit=lambda text: text.replace("[server]\n", f"[server]\nworkers = {self.workers}\n") + extra))
        return stack

    def ctl(self, *arguments: str, status: int = 0) -> str:
        """Run resolverctl, assert its exit status, return its stdout and stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "resolver.cli.control", "--socket", str(self.socket), *arguments],
            capture_output=True, text=True, timeout=30, check=False, env=daemon_environment(),
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def ask_all_workers(self, name: str, qtype: int = c.A) -> list[tuple[int, bytes]]:
        """Send so many queries that all workers get some; return the distinct (rcode, rdata of the last RRset)."""
        found = set()
        for _ in range(8 * self.workers):
            view = ask("127.0.0.1", self.port, name, qtype)
            assert view is not None
            found.add((view.rcode, view.answer[-1].rdata(0) if view.answer else b""))
        return sorted(found)


@pytest.fixture(params=[1, 2])
def daemon(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ManagedDaemon]:
    made = ManagedDaemon(tmp_path, request.param)
    with serve_playground(tmp_path, made.world, made.upstream):
        yield made


def test_a_negative_trust_anchor_is_in_force_until_it_is_removed(daemon: ManagedDaemon) -> None:
    with daemon.start():
        assert daemon.ask_all_workers(BOGUS) == [(c.SERVFAIL, b"")]
        # The reply states the remaining time, and that --force overrode a warning.
        assert " left, even" in daemon.ctl("nta", "add", ZONE, "1h", "signatures", "expired", "--force")
        [(rcode, address)] = daemon.ask_all_workers(BOGUS)
        assert (rcode, bool(address)) == (c.NOERROR, True)
        assert "(signatures expired)" in daemon.ctl("nta", "list")
        daemon.ctl("reload")
        assert daemon.ask_all_workers(BOGUS) == [(c.NOERROR, address)]
    with daemon.start():
        assert daemon.ask_all_workers(BOGUS) == [(c.NOERROR, address)], "it is kept over a restart"
        daemon.ctl("nta", "remove", ZONE)
        assert daemon.ask_all_workers(BOGUS) == [(c.SERVFAIL, b"")], "what was cached without validation is flushed"
        assert daemon.ctl("nta", "list") == "none\n"


@pytest.mark.parametrize("running", [True, False])
def test_what_was_cached_below_an_anchor_does_not_outlive_it(daemon: ManagedDaemon, running: bool) -> None:
    """The file of the changes is lost while the daemon runs, or later; the snapshot of the cache is not."""
    snapshot = f"[cache]\nsnapshot-file = '{daemon.path / 'snapshot'}'\n"
    with daemon.start(snapshot):
        daemon.ctl("nta", "add", ZONE, "1h", "--force")
        [(rcode, address)] = daemon.ask_all_workers(BOGUS)
        assert (rcode, bool(address)) == (c.NOERROR, True)
        if running:
            daemon.file.unlink()
    with daemon.start(snapshot):
        assert daemon.ask_all_workers(BOGUS) == [(c.SERVFAIL, b"") if running else (c.NOERROR, address)]
    daemon.file.write_text("damaged")
    with daemon.start(snapshot):
        assert daemon.ask_all_workers(BOGUS) == [(c.SERVFAIL, b"")]


def test_local_data_and_zones_are_changed_in_all_workers(daemon: ManagedDaemon) -> None:
    with daemon.start():
        [(rcode, before)] = daemon.ask_all_workers(NAME)
        assert rcode == c.NOERROR
        daemon.ctl("local-data", "add", NAME, "60", "IN", "A", "192.0.2.77")
        assert daemon.ask_all_workers(NAME) == [(c.NOERROR, bytes((192, 0, 2, 77)))]
        daemon.ctl("local-data", "remove", NAME, "A")
        assert daemon.ask_all_workers(NAME) == [(c.NOERROR, before)]
        daemon.ctl("forward", "add", "example.playground", f"127.0.0.1:{free_port()}")
        assert daemon.ask_all_workers(NAME) == [(c.SERVFAIL, b"")], "nothing serves there"
        assert "example.playground." in daemon.ctl("forward", "list")
        servers = daemon.world.servers.values()
        server = next(one for one in servers if one.listening and "example.playground." in one.zones)
        daemon.ctl("stub", "add", "example.playground", f"{server.address}:{daemon.upstream}")
        assert daemon.ask_all_workers(NAME) == [(c.NOERROR, before)], "the stub zone replaced the forward zone"
        assert daemon.ctl("forward", "list") == "none\n"
        assert "not added at run time" in daemon.ctl("forward", "remove", "example.playground", status=1)
        daemon.ctl("stub", "remove", "example.playground")


def test_invalid_changes_and_a_damaged_file_are_reported_and_not_applied(daemon: ManagedDaemon) -> None:
    with daemon.start():
        assert "addresses" in daemon.ctl("forward", "add", "a.test", "nonsense", status=1)
        assert "label" in daemon.ctl("nta", "add", "a..b", status=1)
        assert "local_data" in daemon.ctl("local-data", "add", "a.test.", "IN", "A", "x", status=1).replace("-", "_")
        assert "604800" in daemon.ctl("nta", "add", "a.test", "30d", status=1)
        assert not daemon.file.exists() and not daemon.file.with_name("changes.next").exists()
        daemon.ctl("nta", "add", ZONE)
        good = daemon.file.read_bytes()
        daemon.file.write_bytes(good[:-3])
        daemon.ctl("reload")
        assert f"{daemon.file}: line " in daemon.ctl("health", status=1)
        assert "checksum" in daemon.ctl("nta", "add", "b.test", status=1)
        assert daemon.ask_all_workers(BOGUS)[0][0] == c.NOERROR, "the old changes stay in force"
        assert daemon.file.read_bytes() == good[:-3], "a damaged file is not overwritten"
    with daemon.start():
        assert f"{daemon.file}: line " in daemon.ctl("health", status=1)
        assert daemon.ask_all_workers(BOGUS) == [(c.SERVFAIL, b"")]
        daemon.file.write_bytes(good)
        daemon.ctl("reload")
        assert daemon.ctl("health") == "healthy\n"
        assert daemon.ask_all_workers(BOGUS)[0][0] == c.NOERROR


def test_a_restarted_worker_has_the_changes(tmp_path: Path) -> None:
    daemon = ManagedDaemon(tmp_path, 2)
    with serve_playground(tmp_path, daemon.world, daemon.upstream), daemon.start():
        daemon.ctl("local-data", "add", NAME, "IN", "A", "192.0.2.78")
        workers = [int(number) for number in re.findall(r"pid (\d+)", daemon.ctl("status"))]
        os.kill(workers[1], signal.SIGKILL)

        def replaced() -> bool:
            status = daemon.ctl("status")
            return str(workers[1]) not in status and "does not answer" not in status

        wait_until(replaced, "another worker", process=daemon.subject.process, log=daemon.subject.log)
        assert daemon.ask_all_workers(NAME) == [(c.NOERROR, bytes((192, 0, 2, 78)))]
