"""What one client query meets on its way is no failure of others: who waits for whom, and what could not be sent from
here for other zones."""

from typing import Any

from support import minet
from support.dead_servers import is_dead
from support.fakenet import Link, hosts_from

from resolver import limits
from resolver.effects import FailureKind
from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.verdict import Trust
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

# --- name servers that need each other -------------------------------------------------------------------------------


def mutual_world(seed: int) -> minet.Minet:
    """The name server of ``aa.com.`` is in ``bb.net.``, one of the two of ``bb.net.`` in ``aa.com.``. The other one has
    an address, so that all names of both zones exist."""
    com = minet.COM_ZONE + "aa 3600 NS ns.bb.net.\nhost 3600 NS ns0.host\nns0.host 3600 A 192.0.2.51\n"
    net = minet.NET_ZONE + "bb 3600 NS ns.aa.com.\nbb 3600 NS ns.host.com.\n"
    soa = "@ 3600 SOA ns.host.com. n 1 2 3 4 300\n"
    aa = soa + "@ 3600 NS ns.bb.net.\nns 3600 A 192.0.2.60\nwww 300 A 192.0.2.80\n"
    bb = soa + "@ 3600 NS ns.aa.com.\n@ 3600 NS ns.host.com.\nns 3600 A 192.0.2.60\nwww 300 A 192.0.2.82\n"
    host = soa + "@ 3600 NS ns0\nns0 3600 A 192.0.2.51\nns 3600 A 192.0.2.60\n"
    return minet.build(
        minet.standard(
            a192_5_6_30=[("com.", com)], a192_5_6_31=[("net.", net)], a192_0_2_51=[("host.com.", host)],
            a192_0_2_60=[("aa.com.", aa), ("bb.net.", bb)],
        ),
        seed=seed, do_ip6=False,
    )


def test_a_circle_of_name_servers_in_one_query_is_no_failure_of_them() -> None:
    circles = 0
    for seed in range(12):
        m = mutual_world(seed)
        assert m.ask("www.aa.com.").failure is None
        circles += m.mesh.statistics()["dependency_cycles"]
        for name in ("ns.aa.com.", "ns.bb.net.", "www.bb.net."):
            outcome = m.ask(name)
            assert outcome.failure is None, (seed, name, outcome.failure)
    assert circles


# --- what could not be sent ------------------------------------------------------------------------------------------


def moved_world(seed: int) -> minet.Minet:
    """``evil.com.`` has a name server in a zone to whose server nothing can be sent from here, and ``ns.host.com.``,
    which is that of ``victim.net.``, too. The zone ``host.com.`` has moved to another server, which its parent knows.
    """

    def com(address: str) -> str:
        return minet.COM_ZONE + (
            "evil 3600 NS ns.dead\nevil 3600 NS ns.host\ndead 3600 NS ns0.dead\nns0.dead 3600 A 192.0.2.70\n"
            f"host 3600 NS ns0.host\nns0.host 3600 A {address}\n"
        )

    def host(address: str) -> str:
        return f"@ 3600 SOA ns0 n 1 2 3 4 300\n@ 3600 NS ns0\nns0 3600 A {address}\nns 3600 A 192.0.2.60\n"

    victim = "@ 3600 SOA ns n 1 2 3 4 300\n@ 3600 NS ns.host.com.\nwww 300 A 192.0.2.80\n"
    net = minet.NET_ZONE + "victim 3600 NS ns.host.com.\n"
    m = minet.build(
        minet.standard(
            a192_5_6_30=[("com.", com("192.0.2.51"))], a192_5_6_31=[("net.", net)],
            a192_0_2_51=[("host.com.", host("192.0.2.51"))], a192_0_2_60=[("victim.net.", victim)],
        ),
        seed=seed, do_ip6=False, links={"192.0.2.70": Link(local=FailureKind.NO_ROUTE)},
    )
    for name in ("none.host.com.", "none.dead.com.", "none.net."):
        m.ask(name)
    m.net.hosts.update(hosts_from({
        "192.5.6.30": Authority([Zone.from_text("com.", com("192.0.2.52"))]),
        "192.0.2.52": Authority([Zone.from_text("host.com.", host("192.0.2.52"))]),
    }))
    del m.net.hosts["192.0.2.51"]
    m.net.sleep(m.mesh, 6)
    return m


def test_what_could_not_be_sent_for_one_zone_fails_no_name_of_another() -> None:
    failed = 0
    for seed in range(8):
        m = moved_world(seed)
        _, first = m.start("x.evil.com.")
        m.net.sleep(m.mesh, 0.3)
        _, second = m.start("www.victim.net.")  # waits for the same address
        m.net.run(m.mesh, until=lambda first=first, second=second: bool(first) and bool(second))
        failed += first[0].failure is not None
        assert second[0].failure is None, (seed, second[0].failure)
    assert failed


# --- delegations that are out of date --------------------------------------------------------------------------------


def test_a_delegation_whose_servers_fail_is_forgotten_when_the_parent_names_others() -> None:
    m = minet.build()
    zone = names.from_text("example.com.")
    m.ask("example.com.", "NS")
    old = m.store.rrsets.find(zone, c.NS, m.net.time())
    assert old is not None and old.trust > Trust.GLUE
    com = minet.COM_ZONE.replace("192.0.2.1\n", "192.0.2.3\n").replace("192.0.2.2\n", "192.0.2.4\n")
    moved = Authority([Zone.from_text("example.com.", minet.EXAMPLE_ZONE)])
    m.net.hosts.update(hosts_from({
        "192.5.6.30": Authority([Zone.from_text("com.", com)]), "192.0.2.3": moved, "192.0.2.4": moved,
    }))
    for address in ("192.0.2.1", "192.0.2.2"):
        del m.net.hosts[address]
    assert m.ask("www.example.com.").failure is None
    new = m.store.rrsets.find(zone, c.NS, m.net.time())
    assert new is not None and new.trust == Trust.GLUE, "the old one would be used again"


# --- what is noted about a server ------------------------------------------------------------------------------------


def test_a_zone_that_fails_with_edns_takes_it_from_no_other_zone_at_the_address() -> None:
    com = minet.COM_ZONE.replace("example 7200 IN NS ns2.example\n", "evil 86400 NS ns1.example\n")
    m = minet.build(minet.standard(a192_5_6_30=[("com.", com)]))
    example = m.net.hosts["192.0.2.1"]

    def host(packet: bytes, tcp: bool) -> bytes | None:
        query = MessageView.parse(packet)
        if not names.is_subdomain(names.lower(query.qname or b"\0"), names.from_text("evil.com.")):
            return example(packet, tcp)
        if query.edns is not None:
            end = 12 + len(query.qname or b"\0") + 4
            return packet[:2] + bytes([0x80, c.FORMERR, 0, 1]) + bytes(6) + packet[12:end]
        return minet.reply(packet, (), ["evil.com. 300 SOA ns1.example.com. n. 1 2 3 4 300"], rcode=c.NXDOMAIN)

    m.net.hosts["192.0.2.1"] = host
    for name in ("www.example.com.", "x.evil.com.", "y.evil.com.", "deep.sub.tree.example.com."):
        assert m.ask(name).failure is None

    def payloads(zone: str) -> list[bool]:
        return [asked.edns is not None for asked in m.net.asked("192.0.2.1") if asked.qname.endswith(zone)]

    assert payloads("example.com.") and all(payloads("example.com."))
    assert payloads("evil.com.") == [True, False, False], "once with EDNS"
    m.net.sleep(m.mesh, limits.SERVER_EDNS_BROKEN + 1)
    m.ask("z.evil.com.")
    assert payloads("evil.com.")[3:] == [True, False], "and again after a while"


def test_timeouts_of_one_zone_take_no_attempts_from_another_zone_at_the_address() -> None:
    """Anyone can delegate a zone to a server that ignores queries for it. Its own zone keeps all attempts, so that lost
    packets do not fail its names."""
    com = minet.COM_ZONE.replace("example 7200 IN NS ns2.example\n", "evil 86400 NS ns1.example\n")
    evil = names.from_text("evil.com.")
    failed = 0
    for seed in range(12):
        m = minet.build(minet.standard(a192_5_6_30=[("com.", com)]), seed=seed)
        example = m.net.hosts["192.0.2.1"]

        def host(packet: bytes, tcp: bool, example: Any = example) -> bytes | None:
            qname = MessageView.parse(packet).qname or b"\0"
            return None if names.is_subdomain(names.lower(qname), evil) else example(packet, tcp)

        m.net.hosts["192.0.2.1"] = host
        m.ask("www.example.com.")
        m.net.links["192.0.2.1"] = Link(loss=0.1)
        for number in range(200):
            m.start(f"x{number}.evil.com.")
            m.net.sleep(m.mesh, 0.3)
            if number % 8 == 7:
                failed += m.ask(f"n{number}.example.com.").failure is not None
        assert is_dead(m.store.servers, ("192.0.2.1", 53), evil, m.net.now)
    assert not failed


def two_servers(zones: int, *, seed: int) -> minet.Minet:
    """``z0.com.`` and so on, each with the same two servers, which have answered within 20 ms."""
    addresses = ("192.0.2.60", "192.0.2.61")
    soa = "@ 3600 SOA ns n 1 2 3 4 300\n@ 3600 NS ns1.host.com.\n@ 3600 NS ns2.host.com.\n* 60 A 192.0.2.80\n"
    com = minet.COM_ZONE + "host 86400 NS ns1.host\nhost 86400 NS ns2.host\n" + "".join(
        f"ns{number}.host 86400 A {address}\n" for number, address in enumerate(addresses, 1)
    ) + "".join(f"z{number} 86400 NS ns1.host\nz{number} 86400 NS ns2.host\n" for number in range(zones))
    served = [(f"z{number}.com.", soa) for number in range(zones)]
    host = "@ 3600 SOA ns1 n 1 2 3 4 300\n@ 3600 NS ns1\n@ 3600 NS ns2\n" + "".join(
        f"ns{number} 3600 A {address}\n" for number, address in enumerate(addresses, 1))
    served.append(("host.com.", host))
    m = minet.build(
        minet.standard(a192_5_6_30=[("com.", com)], a192_0_2_60=served, a192_0_2_61=served), seed=seed, do_ip6=False)
    for number in range(zones):
        m.ask(f"first.z{number}.com.")
    return m


def test_not_each_zone_has_to_find_out_that_a_server_is_down() -> None:
    """The other one is distant. It is waited for, though the zone has not yet met the timeouts of the first."""
    for seed in range(3):
        m = two_servers(20, seed=seed)
        m.net.links["192.0.2.60"] = Link(loss=1.0)
        m.net.links["192.0.2.61"] = Link(delay=0.5)
        for number in range(20):
            m.ask(f"a.z{number}.com.")
        before = len(m.net.log)
        for number in range(20):
            assert m.ask(f"b.z{number}.com.").failure is None
        assert len(m.net.log) - before < 30, "one query a name, and probes"


def test_not_each_zone_has_to_find_out_that_its_servers_became_slower() -> None:
    failed = 0
    for seed in range(3):
        m = two_servers(20, seed=seed)
        m.net.links["192.0.2.60"] = m.net.links["192.0.2.61"] = Link(delay=0.6)
        failed += sum(m.ask(f"a.z{number}.com.").failure is not None for number in range(20))
    assert failed <= 3, "the first names only"
