"""resolverd with zones of its own, beside NSD, Knot and BIND as primaries and as secondaries."""

import json
import os
import signal
from pathlib import Path

import pytest
from support.certs import Authority
from support.ports import free_port
from support.servers import ask, wait_until
from support.zone_daemon import ORIGIN, Daemon, resolverd
from support.zone_peers import KEY, KINDS, ZONE, Peer, serial_of, serve

from resolver.wire import consts as c
from resolver.wire import name as names

pytestmark = pytest.mark.integration

TSIG = f'[[tsig-key]]\nname = "{KEY[0]}"\nsecret = "{KEY[1]}"\n'


def primary(home: Path, serial: int, extra: str = "", added: str = "") -> str:
    (home / "e.zone").write_text(ZONE.format(serial=serial) + added)
    return f'[[zone]]\nname = "{ORIGIN}"\nfile = "{home}/e.zone"\n{extra}'


def secondary(address: str, extra: str = "") -> str:
    return f'[[zone]]\nname = "{ORIGIN}"\nprimaries = ["{address}"]\n{extra}'


@pytest.mark.parametrize("workers", [1, 2])
def test_a_zone_file_is_served_and_a_wrong_one_changes_nothing(tmp_path: Path, workers: int) -> None:
    with resolverd(tmp_path, primary(tmp_path, 5), workers=workers) as daemon:
        for flags in (0, c.RD):
            reply = ask("127.0.0.1", daemon.port, "A.e.test.", c.A, flags=flags)
            assert reply is not None and reply.aa and not reply.ad
            assert reply.answer[0].rdatas() == [bytes([192, 0, 2, 2])]
        missing = ask("127.0.0.1", daemon.port, "none.e.test.", c.A)
        assert missing is not None and missing.rcode == c.NXDOMAIN and missing.authority[0].rtype == c.SOA
        below = ask("127.0.0.1", daemon.port, "w.sub.e.test.", c.A, flags=0)
        assert below is not None and not below.aa and below.authority[0].rtype == c.NS and below.additional
        primary(tmp_path, 6, added="a CNAME b\n")
        assert daemon.control("zone", "reload", ORIGIN).returncode == 0
        wait_until(lambda: daemon.zones()[ORIGIN]["state"] == "failed", "the error", process=daemon.process)
        shown = daemon.zones()[ORIGIN]
        assert shown["serial"] == 5
        line = ZONE.count("\n") + 1
        assert f"e.zone:{line}: a.e.test. has a CNAME and other data (A)" in str(shown["error"])
        assert "serial 5 stays in use" in daemon.log
        assert {daemon.serial() for _ in range(8)} == {5}
        primary(tmp_path, 7)
        daemon.control("zone", "reload", ORIGIN)
        wait_until(lambda: {daemon.serial() for _ in range(8)} == {7}, "serial 7 in all workers",
                   process=daemon.process)
        primary(tmp_path, 8)
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: {daemon.serial() for _ in range(8)} == {8}, "serial 8 after a reload",
                   process=daemon.process, log=daemon.home / "log")
        refused = ask("127.0.0.1", daemon.port, ORIGIN, c.AXFR, tcp=True)
        assert refused is not None and refused.rcode == c.REFUSED
        text = daemon.control("zones").stdout
        assert "zone e.test. (primary, authoritative): serving, serial 8" in text


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "tsig"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_secondary_follows_its_primary(kind: str, key: tuple[str, str] | None, tmp_path: Path) -> None:
    port = free_port()
    peer = Peer(kind, tmp_path / kind, text=ZONE.format(serial=5), key=key, notify=("127.0.0.1", port))
    extra = f'key = "{KEY[0]}"\n{TSIG}' if key else ""
    with serve(peer), resolverd(
        tmp_path / "ours", secondary(f"127.0.0.1:{peer.port}", extra), port=port, workers=2
    ) as daemon:
        daemon.wait_for(5)
        peer.write(ZONE.format(serial=6) + "new A 192.0.2.77\n")
        peer.reload()
        daemon.wait_for(6)
        wait_until(lambda: {daemon.serial() for _ in range(8)} == {6}, "serial 6 in both workers",
                   process=daemon.process, log=daemon.home / "log")
        reply = ask("127.0.0.1", port, "new.e.test.", c.A)
        assert reply is not None and [one.rdatas() for one in reply.answer] == [[bytes([192, 0, 2, 77])]]
        # NSD sends a small zone as a whole.
        assert ("AXFR" if kind == "nsd" else "IXFR") in daemon.log.partition("serial 6")[2], daemon.log
    # The copy on disk serves without the primary.
    with resolverd(tmp_path / "ours", secondary(f"127.0.0.1:{peer.port}", extra), port=port) as daemon:
        daemon.wait_for(6)
        assert daemon.control("zone", "refresh", ORIGIN).returncode == 0
        wait_until(lambda: daemon.zones()[ORIGIN]["state"] == "failed", "the failed refresh", process=daemon.process)
        assert daemon.serial() == 6


def test_all_workers_serve_a_zone_that_cannot_be_written(tmp_path: Path) -> None:
    peer = Peer("nsd", tmp_path / "nsd", text=ZONE.format(serial=5), key=None)
    home = tmp_path / "ours"
    obstacle = home / "zones" / "e.test.zone"
    (obstacle / "directory").mkdir(parents=True)
    with serve(peer), resolverd(home, secondary(f"127.0.0.1:{peer.port}"), workers=2) as daemon:

        def in_all_workers() -> bool:
            return {daemon.serial() for _ in range(16)} == {5}

        wait_until(in_all_workers, "serial 5 in both workers", process=daemon.process, log=home / "log")
        assert f"zone {ORIGIN}: cannot write '{obstacle}': Is a directory; serial 5 is served from memory" in daemon.log
        health = daemon.control("health")
        assert health.returncode == 1 and f"zone {ORIGIN}: cannot write '{obstacle}'" in health.stdout
        counts = dict(line.rsplit(" ", 1) for line in daemon.control("statistics").stdout.splitlines())
        assert int(counts["zones.write_failures"]) >= 1
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the new configuration is in force" in daemon.log, "the reload", process=daemon.process,
                   log=home / "log")
        wait_until(in_all_workers, "serial 5 after a reload", process=daemon.process, log=home / "log")

        def processes() -> list[int]:
            workers = json.loads(daemon.control("--json", "status").stdout)["workers"]
            return [worker.get("pid", 0) for worker in workers]

        killed = processes()[1]
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: processes()[1] not in (0, killed), "another worker", process=daemon.process,
                   log=home / "log")
        wait_until(in_all_workers, "serial 5 in the restarted worker", process=daemon.process, log=home / "log")
        (obstacle / "directory").rmdir()
        obstacle.rmdir()
        assert daemon.control("zone", "refresh", ORIGIN).returncode == 0
        wait_until(lambda: daemon.control("health").returncode == 0, "health", process=daemon.process)
        assert obstacle.is_file()


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "tsig"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_primary_serves_its_secondary(kind: str, key: tuple[str, str] | None, tmp_path: Path) -> None:
    port = free_port()
    peer = Peer(kind, tmp_path / kind, key=key, primary=("127.0.0.1", port))
    extra = f'allow-transfer = ["127.0.0.0/8"]\nnotify = ["127.0.0.1:{peer.port}"]\n'
    extra += f'transfer-key = "{KEY[0]}"\n{TSIG}' if key else ""
    queries = tmp_path / "queries"
    extra += f'[query-log]\nfile = "{queries}"\n'  # its sink is between the transfer and the connection
    (tmp_path / "ours").mkdir()
    with resolverd(tmp_path / "ours", primary(tmp_path / "ours", 5, extra), port=port) as daemon, serve(peer):
        log = peer.home / "log"
        wait_until(lambda: serial_of(peer.port, ORIGIN) == 5, f"serial 5 of {kind}", process=peer.process, log=log)
        primary(tmp_path / "ours", 6, added="new A 192.0.2.77\n")
        daemon.control("zone", "reload", ORIGIN)
        wait_until(lambda: serial_of(peer.port, ORIGIN) == 6, f"serial 6 of {kind}", process=peer.process, log=log)
        added = [[bytes([192, 0, 2, 77])]]

        def has_added() -> bool:
            """A process of NSD with the version before may answer for a while."""
            reply = ask("127.0.0.1", peer.port, "new.e.test.", c.A)
            return reply is not None and [one.rdatas() for one in reply.answer] == added

        wait_until(has_added, "the added name", process=peer.process, log=log)
        wait_until(lambda: "XFR" in queries.read_text(), "the line of the transfer", process=daemon.process)
        if key:
            refused = ask("127.0.0.1", port, ORIGIN, c.AXFR, tcp=True)
            assert refused is not None and refused.rcode == c.REFUSED


@pytest.mark.parametrize("lanes", [0, 1])
def test_primaries_and_secondaries_need_no_access_as_clients(lanes: int, tmp_path: Path) -> None:
    """The timers of the zone are an hour, so only a NOTIFY makes the secondary follow in time."""
    first, second = free_port(), free_port()
    policy = f'lanes = {lanes}\n[policy]\nallow = ["127.0.0.1/32"]\ndrop = ["127.0.0.3/32"]\n'
    extra = f'allow-transfer = ["127.0.0.3/32"]\nnotify = ["127.0.0.1:{second}"]\n'
    (tmp_path / "one").mkdir()
    given = primary(tmp_path / "one", 5, extra + '[iteration]\nquery-source-v4 = "127.0.0.2"\n')
    copy = secondary(f"127.0.0.1:{first}", 'allow-notify = ["127.0.0.2/32"]\n'
                     '[iteration]\nquery-source-v4 = "127.0.0.3"\n')
    with (
        resolverd(tmp_path / "one", given, port=first, server=policy),
        resolverd(tmp_path / "two", copy, port=second, server=policy) as other,
    ):
        other.wait_for(5)
        primary(tmp_path / "one", 6, added="new A 192.0.2.77\n")
        control = Daemon(tmp_path / "one", first, other.process).control
        assert control("zone", "reload", ORIGIN).returncode == 0
        other.wait_for(6)


def test_transfer_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("primary.test")
    peer = Peer("bind", tmp_path / "bind", text=ZONE.format(serial=5), key=KEY, tls=(leaf.certificate, leaf.key))
    bundle = f'key = "{KEY[0]}"\n{TSIG}[iteration]\ntls-cert-bundle = "{authority.cafile}"\n'
    with serve(peer):
        good = secondary(f"tls://127.0.0.1:{peer.tls_port}#primary.test", bundle)
        with resolverd(tmp_path / "good", good) as daemon:
            daemon.wait_for(5)
        wrong = secondary(f"tls://127.0.0.1:{peer.tls_port}#other.test", bundle)
        with resolverd(tmp_path / "wrong", wrong) as daemon:
            wait_until(lambda: daemon.zones()[ORIGIN]["state"] == "failed", "the error", process=daemon.process)
            assert "other.test" in str(daemon.zones()[ORIGIN]["error"])
            reply = ask("127.0.0.1", daemon.port, "a.e.test.", c.A)
            assert reply is not None and reply.rcode == c.SERVFAIL
            assert names.from_text("a.e.test.") == reply.qname
