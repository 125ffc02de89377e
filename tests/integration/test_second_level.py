"""The second-level cache with real Redis servers: shared by two daemons, and with the engine in every kind of trouble.

The first daemon resolves names of the signed playground. Whether the second one queries name servers is read from its
own counters.
"""

import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from support.ports import free_port
from support.redis_servers import Redis, cluster, redis_server
from support.servers import ask, run_process, wait_until
from support.subject import RESOLVERD, daemon_environment, resolverd_config, serve_playground, upstream_port_for

from resolver.playground import World, signed
from resolver.wire import consts as c
from resolver.wire.message import MessageView

pytestmark = pytest.mark.integration

WWW = "www.nsec.dnssec.playground."
MISSING = "missing.nsec.dnssec.playground."
PLAIN = "www.insecure.dnssec.playground."
OTHER = "www.nsec3.dnssec.playground."
TIMEOUT = 30
SECRET = "0123456789abcdef0123456789abcdef"


class Daemon:
    """One resolverd with a second-level cache."""

    def __init__(self, fleet: "Fleet", name: str, engine: str, workers: int) -> None:
        self.folder = fleet.path / name
        self.folder.mkdir()
        self.port = free_port()
        hints = self.folder / "root.hints"
        hints.write_text(fleet.world.hints_text())
        text = resolverd_config(fleet.world, self.port, fleet.upstream, hints, fleet.world.trust_anchors[0])
        self.text = text.replace("[server]\n", f"[server]\nworkers = {workers}\n") + f"""
[control]
socket = "{self.folder / 'control'}"
[second-level-cache]
"""
        self.log = self.folder / "log"
        self.configure(engine)

    def configure(self, engine: str) -> None:
        (self.folder / "resolverd.toml").write_text(self.text + engine)

    @contextmanager
    def run(self, *, shares: bool = True) -> Iterator["Daemon"]:
        command = [*RESOLVERD, "--config", str(self.folder / "resolverd.toml")]
        with run_process(command, self.log, env=daemon_environment()) as process:
            self.process = process
            self.wait(lambda: ask("127.0.0.1", self.port, "localhost.", c.A, timeout=0.5) is not None, "an answer")
            if shares:
                self.wait(lambda: self.count("breaker_open") == 0, "the engine")
            yield self

    def wait(self, condition, what: str) -> None:
        wait_until(condition, what, process=self.process, log=self.log)

    def ask(self, name: str, qtype: int = c.A) -> MessageView:
        view = ask("127.0.0.1", self.port, name, qtype, do=True, timeout=30.0)
        assert view is not None, self.log.read_text()
        return view

    def ctl(self, *words: str, status: int = 0) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "resolver.cli.control", "--socket", str(self.folder / "control"), *words],
            capture_output=True, text=True, timeout=TIMEOUT, check=False, env=daemon_environment(),
        )
        assert done.returncode == status, done.stderr
        return done.stdout

    def counts(self) -> dict[str, float]:
        lines = [line.rsplit(" ", 1) for line in self.ctl("statistics").splitlines()]
        return {name: float(value) for name, value in lines if value.replace(".", "").isdigit()}

    def count(self, name: str, group: str = "second_level") -> float:
        return self.counts()[f"{group}.{name}"]

    @property
    def packets(self) -> float:
        return self.count("upstream_queries", "resolution")


class Fleet:
    """The signed playground as a process, and daemons in front of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.world: World = signed.signed_world(int(time.time()))
        self.upstream = upstream_port_for("resolverd", self.world)
        self.secret = path / "secret"
        self.secret.write_text(SECRET)

    def engine(self, *servers: str, **more: str) -> str:
        given = {"servers": f"[{', '.join(f'{one!r}' for one in servers)}]", "max-wait": '"200 ms"',
                 "secret-file": f'"{self.secret}"', **{key.replace("_", "-"): value for key, value in more.items()}}
        return "".join(f"{key} = {value}\n" for key, value in given.items())

    def daemon(self, name: str, engine: str, workers: int = 1) -> Daemon:
        return Daemon(self, name, engine, workers)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    with serve_playground(tmp_path, made.world, made.upstream):
        yield made


def fill(daemon: Daemon, redis: Redis, *names: str) -> None:
    """Ask the first daemon, until the engine has the answers."""
    for name in names:
        daemon.ask(name)
    daemon.wait(lambda: daemon.count("writes") >= len(names), "entries in the engine")


def test_a_second_resolver_answers_without_asking_name_servers(fleet: Fleet, tmp_path: Path) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path / "redis"))
        one = stack.enter_context(fleet.daemon("one", fleet.engine(redis.address)).run())
        fill(one, redis, WWW, MISSING, PLAIN)
        lifetimes = [int(redis.cli("ttl", key)) for key in redis.keys()]
        assert lifetimes and all(0 < ttl <= 86400 for ttl in lifetimes)
        two = stack.enter_context(fleet.daemon("two", fleet.engine(redis.address), workers=2).run())
        before = two.packets
        for name in (WWW, MISSING, PLAIN):
            first, second = one.ask(name), two.ask(name)
            assert (first.rcode, first.ad) == (second.rcode, second.ad), name
            assert [one.rdatas() for one in first.answer] == [one.rdatas() for one in second.answer]
        assert two.ask(WWW).ad
        assert two.packets == before
        assert two.count("hits") == 3
        # A flush at one: no resolver uses the entry any more, and the cache of the other one keeps the name.
        one.ctl("flush", WWW)
        asked, kept = one.packets, two.packets
        assert one.ask(WWW).ad
        assert one.packets > asked
        two.ask(WWW)
        assert two.packets == kept
        # A flush of the fleet: the other one asks name servers again.
        one.ctl("flush", WWW, "--fleet")
        two.wait(lambda: "flushed www.nsec" in two.log.read_text(), "the flush of the fleet")
        two.ask(WWW)
        assert two.packets > kept


def test_a_negative_trust_anchor_reaches_all_members_with_the_secret(fleet: Fleet, tmp_path: Path) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path / "redis"))
        made = [fleet.daemon(name, fleet.engine(redis.address), workers) for name, workers in (("one", 1), ("two", 2))]
        made.append(fleet.daemon("three", fleet.engine(redis.address, secret_file='""')))
        for daemon in made:
            daemon.text = daemon.text.replace("[control]\n", f'[control]\nchanges-file = "{daemon.folder}/changes"\n')
            daemon.configure(fleet.engine(redis.address, **({"secret_file": '""'} if daemon is made[2] else {})))
        one, two, three = (stack.enter_context(daemon.run()) for daemon in made)
        assert two.ask(WWW).ad and three.ask(WWW).ad
        one.ctl("nta", "add", "nsec.dnssec.playground", "2h", "their keys", "have expired", "--force", "--fleet")
        two.wait(lambda: "nsec.dnssec.playground." in two.ctl("nta", "list"), "the anchor in the other member")
        text = r"(2 h|1 h 59 min) left, even when it validates again \(their keys have expired\)"
        assert re.search(text, two.ctl("nta", "list"))
        two.wait(lambda: not any(two.ask(WWW).ad for _ in range(8)), "the end of the validation in all workers")
        one.ctl("nta", "remove", "nsec.dnssec.playground", "--fleet")
        two.wait(lambda: "nsec.dnssec.playground." not in two.ctl("nta", "list"), "the end of the anchor")
        two.wait(lambda: two.ask(WWW).ad, "the validation")
        refused = three.ctl("nta", "add", "nsec.dnssec.playground", "--fleet", status=1)
        assert not refused and "nsec.dnssec.playground." not in three.ctl("nta", "list")


def test_a_flush_reaches_caches_that_outlive_their_process(fleet: Fleet, tmp_path: Path) -> None:
    """The snapshot of a daemon that did not run, and the shared cache while the first worker is started anew."""
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path / "redis"))
        one = stack.enter_context(fleet.daemon("one", fleet.engine(redis.address)).run())
        two = fleet.daemon("two", fleet.engine(redis.address), workers=2)
        two.configure(fleet.engine(redis.address) + f"[cache]\nsnapshot-file = '{tmp_path / 'snapshot'}'\n")
        with two.run():
            assert two.ask(WWW).ad and two.ask(PLAIN).answer
        one.ctl("flush", WWW, "--fleet")
        stack.enter_context(two.run())
        two.wait(lambda: "flushed www.nsec" in two.log.read_text(), "the flush that came before the start")
        kept = two.packets
        two.ask(PLAIN)
        assert two.packets == kept, "other names are still cached"
        two.ask(WWW)
        assert two.packets > kept
        [first] = [int(found[1]) for found in re.finditer(r"worker 0: .*?pid (\d+)", two.ctl("status"))]
        os.kill(first, signal.SIGSTOP)
        one.ctl("flush", PLAIN, "--fleet")
        os.kill(first, signal.SIGKILL)
        two.wait(lambda: "flushed " + PLAIN in two.log.read_text(), "the flush that the first worker has missed")


def test_other_settings_and_other_secrets_share_nothing(fleet: Fleet, tmp_path: Path) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path / "redis"))
        one = stack.enter_context(fleet.daemon("one", fleet.engine(redis.address)).run())
        fill(one, redis, WWW)
        odd = fleet.daemon("odd", fleet.engine(redis.address))
        odd.text = odd.text.replace("[dnssec]\n", "[dnssec]\nnegative-trust-anchors = ['nsec3.dnssec.playground.']\n")
        odd.configure(fleet.engine(redis.address))
        (tmp_path / "secret2").write_text(SECRET[::-1])
        other_secret = fleet.daemon("other", fleet.engine(redis.address, secret_file=f'"{tmp_path / "secret2"}"'))
        for daemon in (odd, other_secret):
            stack.enter_context(daemon.run())
            assert daemon.ask(WWW).ad
            assert (daemon.count("hits"), daemon.count("misses")) == (0, 1)


def test_garbage_and_other_versions_are_not_used(fleet: Fleet, tmp_path: Path) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path / "redis"))
        one = stack.enter_context(fleet.daemon("one", fleet.engine(redis.address)).run())
        fill(one, redis, WWW)
        keys = redis.keys()
        cases = {
            "checksum": lambda key: redis.cli("setrange", key, "40", "damage"),
            "version": lambda key: redis.cli("setrange", key, "0", "0"),
            "malformed": lambda key: (redis.cli("del", key), redis.cli("lpush", key, "a list")),
            "oversized": lambda key: (redis.cli("del", key), redis.cli("setrange", key, "3000000", "x")),
        }
        for number, (reason, damage) in enumerate(cases.items()):
            for key in keys:
                damage(key)
            two = fleet.daemon(f"two-{number}", fleet.engine(redis.address))
            with two.run():
                assert two.ask(WWW).ad
                assert two.count("hits") == 0
                counts = two.counts()
                wanted = {"oversized": "version"}.get(reason, reason)
                assert counts[f"second_level.rejected.{wanted}"] >= 1, reason
                assert counts["second_level.breaker_open"] == 0
        redis.cli("set", "resolver:{fleet}", "5")
        redis.cli("set", "resolver:{fleet}:5", "no message")
        one.wait(lambda: one.counts()["second_level.rejected.version"] >= 1, "the rejected message")
        assert one.ask(OTHER).ad


def test_an_engine_that_is_killed_or_stopped_costs_no_answer(fleet: Fleet, tmp_path: Path) -> None:
    with ExitStack() as stack:
        port = free_port()
        engine = stack.enter_context(ExitStack())
        redis = engine.enter_context(redis_server(tmp_path / "redis", port=port))
        one = stack.enter_context(fleet.daemon("one", fleet.engine(redis.address, max_wait='"20 ms"')).run())
        fill(one, redis, WWW)
        # Stopped: connected, and silent.
        os.kill(redis.process.pid, signal.SIGSTOP)
        for number in range(12):
            assert one.ask(f"n{number}.nsec.dnssec.playground.").rcode == c.NXDOMAIN
        one.wait(lambda: one.count("breaker_open") == 1, "an open breaker")
        skipped = one.count("skipped")
        assert one.ask(OTHER).ad
        assert one.count("skipped") > skipped
        os.kill(redis.process.pid, signal.SIGCONT)
        one.wait(lambda: one.count("breaker_open") == 0, "a closed breaker")
        # Killed, and started again: connected again, with nothing in it.
        engine.close()
        one.wait(lambda: one.count("breaker_open") == 1, "an open breaker")
        assert one.ask("www.nsec3-salt.dnssec.playground.").ad
        redis = engine.enter_context(redis_server(tmp_path / "redis", port=port))
        one.wait(lambda: one.count("breaker_open") == 0, "a closed breaker")
        written = one.count("writes")
        one.ask("missing.nsec3.dnssec.playground.")
        one.wait(lambda: one.count("writes") > written, "an entry in the new engine")
        assert one.count("breaker_opened") == 2


def test_a_wrong_password_and_a_full_memory(fleet: Fleet, tmp_path: Path) -> None:
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server(tmp_path / "redis", password="right"))
        wrong, right = tmp_path / "wrong", tmp_path / "right"
        wrong.write_text("wrong\n")
        right.write_text("right\n")
        one = fleet.daemon("one", fleet.engine(redis.address, password_file=f'"{wrong}"'))
        with one.run(shares=False):
            assert one.ask(WWW).ad
            one.wait(lambda: "invalid username-password pair" in one.log.read_text(), "the reason in the log")
            assert one.count("breaker_open") == 1
            # A reload with the right one.
            one.configure(fleet.engine(redis.address, password_file=f'"{right}"'))
            one.ctl("reload")
            one.wait(lambda: one.count("breaker_open") == 0, "the engine")
            fill(one, redis, OTHER)
            redis.cli("config", "set", "maxmemory", "1")
            one.ask("www.nsec3-salt.dnssec.playground.")
            one.wait(lambda: one.count("writes_failed") >= 1, "a refused entry")
            assert one.count("breaker_open") == 0, "entries that are there are still read"


def test_a_cluster_goes_on_while_a_node_fails_over(fleet: Fleet, tmp_path: Path) -> None:
    with ExitStack() as stack:
        nodes = stack.enter_context(cluster(tmp_path / "cluster"))
        engine = fleet.engine(*(node.address for node in nodes[:3]), cluster="true")
        one = stack.enter_context(fleet.daemon("one", engine).run())
        names = [f"n{number}.nsec.dnssec.playground." for number in range(12)] + [WWW, OTHER]
        for name in names:
            one.ask(name)
        count = lambda some: sum(len(node.keys()) for node in some)  # noqa: E731
        one.wait(lambda: f"second_level.writes {count(nodes[:3])}\n" in one.ctl("statistics"), "all entries")
        wait_until(lambda: count(nodes[3:]) == count(nodes[:3]), "entries in the replicas")
        assert sum(bool(node.keys()) for node in nodes[:3]) >= 2
        failed = nodes[0]
        os.kill(failed.process.pid, signal.SIGKILL)
        for name in names:
            assert one.ask(name.replace("nsec.", "nsec3-salt.")).rcode in (c.NOERROR, c.NXDOMAIN)
        wait_until(lambda: "cluster_state:ok" in nodes[1].cli("cluster", "info") and
                   nodes[1].cli("cluster", "nodes").count("master") == 4, "the failover")
        two = stack.enter_context(fleet.daemon("two", engine).run())
        before = two.packets
        for name in (WWW, OTHER):
            assert two.ask(name).ad
        assert two.packets == before, two.ctl("statistics")


class Hostile(socketserver.StreamRequestHandler):
    """A node of a cluster with a range of slots of any length."""

    def handle(self) -> None:
        while request := self.request.recv(65536):
            node = b"*2\r\n$9\r\n127.0.0.1\r\n:%d\r\n" % self.server.server_address[1]
            slots = b"*1\r\n*3\r\n:0\r\n:99999999\r\n" + node
            self.request.sendall(slots if b"SLOTS" in request else b"+OK\r\n" * request.count(b"*"))


def test_a_hostile_node_of_a_cluster_is_refused_logged_and_in_the_health(fleet: Fleet) -> None:
    sentence = "is refused: CLUSTER SLOTS has a range that is not within 0 and 16383"
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Hostile) as node:
        threading.Thread(target=node.serve_forever, daemon=True).start()
        port = node.server_address[1]
        try:
            daemon = fleet.daemon("one", fleet.engine(f"127.0.0.1:{port}", cluster="true"))
            with daemon.run(shares=False):
                daemon.wait(lambda: sentence in daemon.log.read_text(), "a line in the log")
                assert daemon.ask(WWW).ad, "clients get answers"
                assert daemon.count("breaker_open") == 1
                assert f"127.0.0.1 port {port} {sentence}" in daemon.ctl("health", status=1)
                daemon.process.terminate()
                assert daemon.process.wait(TIMEOUT) == 0
        finally:
            node.shutdown()
