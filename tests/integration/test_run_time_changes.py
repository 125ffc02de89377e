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


class House:
    """A daemon with a control socket and a changes file, whose upstream is the signed playground. `start` runs it."""

    def __init__(self, path: Path, workers: int) -> None:
        self.path, self.workers = path, workers
        self.world = signed.signed_world(int(time.time()))
        self.upstream = upstream_port_for("resolverd", self.world)
        self.file = path / "changes"
        self.socket = path / "control"
        self.port = free_port()

    def start(self) -> "ExitStack":
        stack = ExitStack()
        extra = f"[control]\nsocket = '{self.socket}'\nchanges-file = '{self.file}'\n"
        self.subject: Subject = stack.enter_context(start_subject(
            self.path, self.world, self.upstream, kind="resolverd", port=self.port, anchor=self.world.trust_anchors[0],
            edit=lambda text: text.replace("[server]\n", f"[server]\nworkers = {self.workers}\n") + extra))
        return stack

    def ctl(self, *words: str, status: int = 0) -> str:
        """Run resolverctl, assert its exit status, return its stdout and stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "resolver.cli.control", "--socket", str(self.socket), *words],
            capture_output=True, text=True, timeout=30, check=False, env=daemon_environment(),
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def everywhere(self, name: str, qtype: int = c.A) -> list[tuple[int, bytes]]:
        """Send so many queries that all workers get some; return the distinct (rcode, rdata of the last RRset)."""
        found = set()
        for _ in range(8 * self.workers):
            view = ask("127.0.0.1", self.port, name, qtype)
            assert view is not None
            found.add((view.rcode, view.answer[-1].rdata(0) if view.answer else b""))
        return sorted(found)


@pytest.fixture(params=[1, 2])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path, request.param)
    with serve_playground(tmp_path, made.world, made.upstream):
        yield made


def test_a_negative_trust_anchor_is_in_force_until_it_is_removed(house: House) -> None:
    with house.start():
        assert house.everywhere(BOGUS) == [(c.SERVFAIL, b"")]
        # The reply states the remaining time, and that --force overrode a warning.
        assert " left, even" in house.ctl("nta", "add", ZONE, "1h", "signatures", "expired", "--force")
        [(rcode, address)] = house.everywhere(BOGUS)
        assert (rcode, bool(address)) == (c.NOERROR, True)
        assert "(signatures expired)" in house.ctl("nta", "list")
        house.ctl("reload")
        assert house.everywhere(BOGUS) == [(c.NOERROR, address)]
    with house.start():
        assert house.everywhere(BOGUS) == [(c.NOERROR, address)], "it is kept over a restart"
        house.ctl("nta", "remove", ZONE)
        assert house.everywhere(BOGUS) == [(c.SERVFAIL, b"")], "what was cached without validation is flushed"
        assert house.ctl("nta", "list") == "none\n"


def test_local_data_and_zones_are_changed_in_all_workers(house: House) -> None:
    with house.start():
        [(rcode, before)] = house.everywhere(NAME)
        assert rcode == c.NOERROR
        house.ctl("local-data", "add", NAME, "60", "IN", "A", "192.0.2.77")
        assert house.everywhere(NAME) == [(c.NOERROR, bytes((192, 0, 2, 77)))]
        house.ctl("local-data", "remove", NAME, "A")
        assert house.everywhere(NAME) == [(c.NOERROR, before)]
        house.ctl("forward", "add", "example.playground", f"127.0.0.1:{free_port()}")
        assert house.everywhere(NAME) == [(c.SERVFAIL, b"")], "nothing serves there"
        assert "example.playground." in house.ctl("forward", "list")
        servers = house.world.servers.values()
        server = next(one for one in servers if one.listening and "example.playground." in one.zones)
        house.ctl("stub", "add", "example.playground", f"{server.address}:{house.upstream}")
        assert house.everywhere(NAME) == [(c.NOERROR, before)], "the stub zone replaced the forward zone"
        assert house.ctl("forward", "list") == "none\n"
        assert "not added at run time" in house.ctl("forward", "remove", "example.playground", status=1)
        house.ctl("stub", "remove", "example.playground")


def test_invalid_changes_and_a_damaged_file_are_reported_and_not_applied(house: House) -> None:
    with house.start():
        assert "addresses" in house.ctl("forward", "add", "a.test", "nonsense", status=1)
        assert "label" in house.ctl("nta", "add", "a..b", status=1)
        assert "local_data" in house.ctl("local-data", "add", "a.test.", "IN", "A", "x", status=1).replace("-", "_")
        assert "604800" in house.ctl("nta", "add", "a.test", "30d", status=1)
        assert not house.file.exists() and not house.file.with_name("changes.next").exists()
        house.ctl("nta", "add", ZONE)
        good = house.file.read_bytes()
        house.file.write_bytes(good[:-3])
        house.ctl("reload")
        assert f"{house.file}: line " in house.ctl("health", status=1)
        assert "checksum" in house.ctl("nta", "add", "b.test", status=1)
        assert house.everywhere(BOGUS)[0][0] == c.NOERROR, "the old changes stay in force"
        assert house.file.read_bytes() == good[:-3], "a damaged file is not overwritten"
    with house.start():
        assert f"{house.file}: line " in house.ctl("health", status=1)
        assert house.everywhere(BOGUS) == [(c.SERVFAIL, b"")]
        house.file.write_bytes(good)
        house.ctl("reload")
        assert house.ctl("health") == "healthy\n"
        assert house.everywhere(BOGUS)[0][0] == c.NOERROR


def test_a_restarted_worker_has_the_changes(tmp_path: Path) -> None:
    house = House(tmp_path, 2)
    with serve_playground(tmp_path, house.world, house.upstream), house.start():
        house.ctl("local-data", "add", NAME, "IN", "A", "192.0.2.78")
        workers = [int(number) for number in re.findall(r"pid (\d+)", house.ctl("status"))]
        os.kill(workers[1], signal.SIGKILL)
        wait_until(lambda: str(workers[1]) not in house.ctl("status") and "does not answer" not in house.ctl("status"),
                   "another worker", process=house.subject.process, log=house.subject.log)
        assert house.everywhere(NAME) == [(c.NOERROR, bytes((192, 0, 2, 78)))]
