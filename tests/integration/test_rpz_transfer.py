"""Response policy zones that resolverd transfers from NSD, Knot and BIND, and the same zone in Unbound."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.certs import Authority
from support.forwarder import forwarder
from support.ports import free_port
from support.servers import ask, program, run_process, wait_until
from support.zone_daemon import Daemon, resolverd
from support.zone_peers import KEY, KINDS, Peer, serve

from resolver import limits
from resolver.wire import consts as c

pytestmark = pytest.mark.integration

ORIGIN = "rpz.example."
ZONE = """$TTL 60
@ SOA ns.example. admin.example. {serial} 3600 600 86400 60
@ NS ns.example.
nx.test CNAME .
data.test A 192.0.2.1
32.8.113.0.203.rpz-ip CNAME .
odd.test CNAME rpz-unknown.
"""
WRONG_KEY = "YW5vdGhlciBzZWNyZXQgb2YgdGhpcyB0ZXN0ISEhISE="
TSIG = '[[tsig-key]]\nname = "{0}"\nsecret = "{1}"\n'


@contextmanager
def running(
    home: Path, peer: Peer, upstream: int, *, port: int | None = None, workers: int = 1, extra: str = "",
    address: str = "", iteration: str = "",
) -> Iterator[Daemon]:
    """A resolverd that forwards everything to `upstream` and has the policy zone of `peer`, at `address` if given."""
    text = (f'[[rpz]]\nname = "{ORIGIN}"\nprimaries = ["{address or f"127.0.0.1:{peer.port}"}"]\n{extra}'
            f"[iteration]\ndo-not-query-localhost = false\n{iteration}"
            f'[[forward]]\nzone = "."\naddresses = ["127.0.0.1:{upstream}"]\n')
    policy = "[policy]\nspecial-use-domains = false\n"
    with resolverd(home, text, port=port, workers=workers, server=policy, ready="ready.test.") as daemon:
        yield daemon


def rcodes(daemon: Daemon, qname: str) -> set[int | None]:
    """What all workers answer; a socket of each query decides which worker gets it."""
    replies = [ask("127.0.0.1", daemon.port, qname, c.A) for _ in range(12)]
    return {None if reply is None else reply.rcode for reply in replies}


def wait_for(daemon: Daemon, qname: str, rcode: int) -> None:
    wait_until(lambda: rcodes(daemon, qname) == {rcode}, f"rcode {rcode} for {qname}", process=daemon.process,
               log=daemon.home / "log")


def wait_for_lines(daemon: Daemon, text: str, workers: int) -> None:
    """Wait until each worker has logged `text`; answers do not tell, because the cache is shared."""
    wait_until(lambda: daemon.log.count(text) >= workers, f"{text!r} in {workers} workers", process=daemon.process,
               log=daemon.home / "log")


def of_lists(daemon: Daemon) -> dict[str, Any]:
    found = json.loads(daemon.control("--json", "lists").stdout)["lists"]
    return {one["name"]: one for one in found}[ORIGIN]


@pytest.mark.parametrize("key", [None, KEY], ids=["plain", "tsig"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_rules_follow_the_primary(kind: str, key: tuple[str, str] | None, tmp_path: Path) -> None:
    """The timers of the zone are an hour, so only a NOTIFY makes the rules follow in time."""
    port = free_port()
    peer = Peer(kind, tmp_path / kind, origin=ORIGIN, text=ZONE.format(serial=5), key=key, notify=("127.0.0.1", port))
    extra = f'key = "{KEY[0]}"\n{TSIG.format(*KEY)}' if key else ""
    home = tmp_path / "ours"
    with forwarder() as upstream:
        with serve(peer), running(home, peer, upstream, port=port, workers=2, extra=extra) as daemon:
            wait_for_lines(daemon, "3 entries are in force", 2)
            assert rcodes(daemon, "nx.test.") == {c.NXDOMAIN}
            assert rcodes(daemon, "other.test.") == rcodes(daemon, "new.test.") == {c.NOERROR}, "now they are cached"
            assert rcodes(daemon, "listed.test.") == {c.NXDOMAIN}, "the address of the answer is a trigger"
            for qname, qtype in (("data.test." + ORIGIN, c.A), (ORIGIN, c.SOA)):
                reply = ask("127.0.0.1", port, qname, qtype)
                assert reply is not None and not reply.aa, "clients get no data of the zone"
                assert all(rrset.rdatas() != [bytes([192, 0, 2, 1])] for rrset in reply.answer)
            refused = ask("127.0.0.1", port, ORIGIN, c.AXFR, tcp=True)
            assert refused is not None and refused.rcode == c.REFUSED
            found = of_lists(daemon)
            assert (found["entries"], found["left_out"], found["error"]) == (3, 1, "") and found["age"] is not None
            assert "1 entries were left out; the first: odd.test.rpz.example.: the action rpz-unknown." in daemon.log
            peer.write(ZONE.format(serial=6).replace("nx.test", "new.test"))
            peer.reload()
            wait_for(daemon, "new.test.", c.NXDOMAIN)
            wait_for(daemon, "nx.test.", c.NOERROR)
            assert "IXFR" in daemon.log.partition("serial 6")[2], daemon.log
            shown = daemon.zones()[ORIGIN]
            assert (shown["role"], shown["mode"], shown["state"], shown["serial"]) == (
                "secondary", "policy", "serving", 6)
            assert daemon.control("health").returncode == 0
        # Without the primary, the rules of the copy are in force from the first query on.
        with running(home, peer, upstream, port=port, workers=2, extra=extra) as daemon:
            assert rcodes(daemon, "new.test.") == {c.NXDOMAIN}
            wait_until(lambda: daemon.control("zone", "refresh", ORIGIN).returncode == 0
                       and daemon.zones()[ORIGIN]["state"] == "failed", "the failed refresh", process=daemon.process)
            assert "127.0.0.1: " in of_lists(daemon)["error"]
            assert rcodes(daemon, "new.test.") == {c.NXDOMAIN}
            assert daemon.control("health").returncode == 0, "the rules are in force and have not expired"


def test_a_reload_goes_on_with_the_rules(tmp_path: Path) -> None:
    """With another override at once, without another transfer, and without rules when the table is gone."""
    peer = Peer("nsd", tmp_path / "nsd", origin=ORIGIN, text=ZONE.format(serial=5), key=None)
    home = tmp_path / "ours"
    file = home / "resolverd.toml"
    with forwarder() as upstream, serve(peer), running(home, peer, upstream, workers=2) as daemon:
        wait_for_lines(daemon, "3 entries are in force", 2)
        assert rcodes(daemon, "nx.test.") == {c.NXDOMAIN}
        text = file.read_text()
        table = text[text.index("[[rpz]]") : text.index("[iteration]")]
        for number, new in enumerate((table + 'override = "log"\n', ""), 1):
            file.write_text(text.replace(table, new))
            assert daemon.control("reload").returncode == 0
            wait_for_lines(daemon, "the new configuration is in force", 2 * number)
            assert rcodes(daemon, "nx.test.") == {c.NOERROR}
            assert ("CLIENT_IP" not in daemon.log) and (new == "" or "QNAME nx.test. nxdomain" in daemon.log)
        assert daemon.zones() == {} and daemon.control("health").returncode == 0
        assert daemon.log.count("AXFR of") == 1


def test_all_workers_have_the_rules_of_a_zone_that_cannot_be_written(tmp_path: Path) -> None:
    peer = Peer("nsd", tmp_path / "nsd", origin=ORIGIN, text=ZONE.format(serial=5), key=None)
    home = tmp_path / "ours"
    obstacle = home / "zones" / "rpz.example.zone"
    (obstacle / "directory").mkdir(parents=True)
    with forwarder() as upstream, serve(peer), running(home, peer, upstream, workers=2) as daemon:
        wait_for_lines(daemon, "3 entries are in force", 2)
        assert rcodes(daemon, "nx.test.") == {c.NXDOMAIN}
        health = daemon.control("health")
        assert health.returncode == 1 and f"zone {ORIGIN}: cannot write '{obstacle}'" in health.stdout


def test_transfer_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    leaf = authority.leaf("primary.test")
    peer = Peer("bind", tmp_path / "bind", origin=ORIGIN, text=ZONE.format(serial=5), key=KEY,
                tls=(leaf.certificate, leaf.key))
    extra = f'key = "{KEY[0]}"\n{TSIG.format(*KEY)}'
    bundle = f'tls-cert-bundle = "{authority.cafile}"\n'
    address = f"tls://127.0.0.1:{peer.tls_port}#primary.test"
    with forwarder() as upstream, serve(peer), running(
        tmp_path / "ours", peer, upstream, extra=extra, address=address, iteration=bundle
    ) as daemon:
        wait_for(daemon, "nx.test.", c.NXDOMAIN)


def test_a_wrong_key_is_named_and_nothing_is_in_force(tmp_path: Path) -> None:
    peer = Peer("knot", tmp_path / "knot", origin=ORIGIN, text=ZONE.format(serial=5), key=KEY)
    extra = f'key = "{KEY[0]}"\n{TSIG.format(KEY[0], WRONG_KEY)}'
    with forwarder() as upstream, serve(peer), running(tmp_path / "ours", peer, upstream, extra=extra) as daemon:
        wait_until(lambda: daemon.zones()[ORIGIN]["state"] == "failed", "the refusal", process=daemon.process)
        assert rcodes(daemon, "nx.test.") == {c.NOERROR}
        health = daemon.control("health")
        assert health.returncode == 1
        assert f"response policy zone {ORIGIN}: it has no content yet, so none of its rules are in force" in (
            health.stdout)
        assert "TSIG" in health.stdout and f"zone {ORIGIN}: 127.0.0.1: " in daemon.log
        assert "TSIG" in of_lists(daemon)["error"]


def test_a_version_whose_rules_cannot_be_used_changes_nothing(tmp_path: Path) -> None:
    """The version has more different actions than a policy zone may have, so the one before stays, also on disk."""
    port = free_port()
    peer = Peer("nsd", tmp_path / "nsd", origin=ORIGIN, text=ZONE.format(serial=5), key=None,
                notify=("127.0.0.1", port))
    home = tmp_path / "ours"
    with forwarder() as upstream:
        with serve(peer), running(home, peer, upstream, port=port) as daemon:
            wait_for(daemon, "nx.test.", c.NXDOMAIN)
            lines = (f"h{number} A 10.{number >> 16}.{number >> 8 & 255}.{number & 255}\n"
                     for number in range(limits.RPZ_RULES + 1))
            peer.write(ZONE.format(serial=6).replace("nx.test", "new.test") + "".join(lines))
            peer.reload()
            wait_until(lambda: "different rules; serial 5 stays in use" in daemon.log, "the refusal",
                       process=daemon.process, log=home / "log")
            assert "more than 65535 different rules" in str(daemon.zones()[ORIGIN]["error"])
            assert rcodes(daemon, "nx.test.") == {c.NXDOMAIN} and rcodes(daemon, "new.test.") == {c.NOERROR}
        with running(home, peer, upstream, port=port) as daemon:
            assert rcodes(daemon, "nx.test.") == {c.NXDOMAIN} and daemon.zones()[ORIGIN]["serial"] == 5


def test_the_rules_of_an_expired_zone_are_withdrawn(tmp_path: Path) -> None:
    text = ZONE.format(serial=5).replace("3600 600 86400", "1 1 4")
    peer = Peer("nsd", tmp_path / "nsd", origin=ORIGIN, text=text, key=None)
    with forwarder() as upstream:
        with serve(peer), running(tmp_path / "ours", peer, upstream, workers=2) as daemon:
            wait_for(daemon, "nx.test.", c.NXDOMAIN)
            assert peer.process is not None
            peer.process.terminate()
            peer.process.wait(30)
            wait_for_lines(daemon, "so it has expired; none of its entries are in force", 2)
            wait_for(daemon, "nx.test.", c.NOERROR)
            health = daemon.control("health")
            assert health.returncode == 1 and f"response policy zone {ORIGIN}: it has expired" in health.stdout
            assert daemon.zones()[ORIGIN]["state"] == "expired"
            assert of_lists(daemon)["entries"] == 0
            again = Peer("nsd", tmp_path / "again", origin=ORIGIN, text=text, key=None, port=peer.port)
            with serve(again):
                wait_for(daemon, "nx.test.", c.NXDOMAIN)
                wait_until(lambda: daemon.control("health").returncode == 0, "health", process=daemon.process)


QNAMES = ("nx.test.", "x.nx.test.", "nodata.test.", "pass.test.", "x.pass.test.", "data.test.", "x.wild.test.",
          "exact.wild.test.", "other.test.", "listed.test.", "listed.pass.test.")


def test_unbound_answers_alike_from_the_same_primary(tmp_path: Path) -> None:
    program("unbound")
    text = ZONE.format(serial=5) + (
        "nodata.test CNAME *.\npass.test CNAME rpz-passthru.\n*.pass.test CNAME .\n*.wild.test A 192.0.2.2\n"
        "exact.wild.test CNAME .\nlisted.pass.test CNAME rpz-passthru.\n")
    peer = Peer("knot", tmp_path / "knot", origin=ORIGIN, text=text, key=None)
    port = free_port()
    with forwarder() as upstream, serve(peer):
        lines = ["server:", f" interface: 127.0.0.1@{port}", " username: ''", " chroot: ''", " pidfile: ''",
                 f" directory: '{tmp_path}'", " use-syslog: no", " do-daemonize: no", " do-not-query-localhost: no",
                 " module-config: 'respip iterator'", " num-threads: 1", " local-zone: test. nodefault",
                 "rpz:", f" name: {ORIGIN}", f" primary: 127.0.0.1@{peer.port}",
                 "forward-zone:", ' name: "."', f" forward-addr: 127.0.0.1@{upstream}"]
        (tmp_path / "unbound.conf").write_text("\n".join(lines) + "\n")
        command = ["unbound", "-d", "-p", "-c", str(tmp_path / "unbound.conf")]
        with run_process(command, tmp_path / "log") as process, running(tmp_path / "ours", peer, upstream) as daemon:

            def answer(at: int, qname: str, qtype: int) -> object:
                reply = ask("127.0.0.1", at, qname, qtype)
                assert reply is not None
                return reply.rcode, sorted((rrset.rtype, sorted(rrset.rdatas())) for rrset in reply.answer)

            wait_for(daemon, "nx.test.", c.NXDOMAIN)
            wait_until(lambda: ask("127.0.0.1", port, "localhost.", c.A, timeout=0.5) is not None, "Unbound's start",
                       process=process, log=tmp_path / "log")
            wait_until(lambda: answer(port, "nx.test.", c.A) == (c.NXDOMAIN, []), "the transfer to Unbound",
                       process=process, log=tmp_path / "log")
            both = {(qname, c.type_to_text(qtype)): (answer(port, qname, qtype), answer(daemon.port, qname, qtype))
                    for qname in QNAMES for qtype in (c.A, c.TXT)}
    assert {query: found for query, found in both.items() if found[0] != found[1]} == {}
