"""Known attacks on resolvers, one test for each that has a name or a number and is not played elsewhere.

DNSSEC's are in ``validate/test_attacks.py``, forged packets in ``net/test_udp_upstream.py``, greedy clients in
``net/test_service.py``, and those on the walk down the tree that need no name in ``test_hostile.py``.
"""

import itertools

import pytest
from support.fakenet import Link
from support.minet import COM_ZONE, EXAMPLE_ZONE, addresses, build, reply, scripted, standard

from resolver.effects import FailureKind
from resolver.policy import Plan
from resolver.settings import (
    CacheSettings,
    DnssecSettings,
    ForwardZone,
    HostEntry,
    PolicySettings,
    Settings,
)
from resolver.verdict import Trust
from resolver.wire import consts as c
from resolver.wire import name as names

UNSIGNED = DnssecSettings(trust_anchors=())


def known(m, name, rtype=c.A):
    return m.store.rrsets.find(names.from_text(name), rtype, m.net.time(), min_trust=Trust.NONE)


def without_example(m):
    """The parent takes the delegation of example.com away."""
    gone = standard(a192_5_6_30=[("com.", COM_ZONE.split("example 7200")[0])])
    m.net.hosts["192.5.6.30"] = build(gone).net.hosts["192.5.6.30"]


# --- delegations that outlive their parent's word -----------------------------------------------------------------


def test_phoenix_domain_a_subdomain_dies_with_its_parent():
    # Phoenix domains (2023): just before it dies, the zone delegates a part of itself for a week.
    zone = EXAMPLE_ZONE + "sub 604800 IN NS ns.sub\nns.sub 604800 IN A 192.0.2.3\n"
    sub = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 604800 IN NS ns\nns 604800 IN A 192.0.2.3\n* 60 IN A 192.0.2.99\n"
    m = build(standard(a192_0_2_1=[("example.com.", zone)], a192_0_2_2=[("example.com.", zone)],
                       a192_0_2_3=[("sub.example.com.", sub)]))
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    m.net.sleep(m.mesh, 7000)
    assert addresses(m.ask("a.sub.example.com.")) == ["192.0.2.99"]
    assert known(m, "sub.example.com.", c.NS).ttl <= 200
    without_example(m)
    m.net.sleep(m.mesh, 100)
    assert addresses(m.ask("b.sub.example.com.")) == ["192.0.2.99"], "the parent's word still holds"
    m.ask("sub.example.com.", "NS")
    m.net.sleep(m.mesh, 110)
    assert m.ask("c.sub.example.com.").rcode == c.NXDOMAIN


def test_ghost_domain_new_names_of_servers_prolong_nothing():
    # CVE-2026-40622, CVE-2026-42955: a changed NS set of the child is as mortal as the one it replaces.
    m = build()
    m.ask("www.example.com.")
    for number in range(4):
        zone = EXAMPLE_ZONE.replace("ns1", f"other{number}").replace("7200 IN NS", "500000 IN NS")
        fresh = build(standard(a192_0_2_1=[("example.com.", zone)]))
        m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = fresh.net.hosts["192.0.2.1"]
        m.net.sleep(m.mesh, 1700)
        assert m.ask("example.com.", "NS").rcode == c.NOERROR
    without_example(m)
    m.net.sleep(m.mesh, 500)
    assert m.ask("x.example.com.").rcode == c.NXDOMAIN


# --- poison ---------------------------------------------------------------------------------------------------------


def test_promiscuous_authority_of_an_answer_moves_no_delegation():
    # CVE-2025-40778, CVE-2025-59023, CVE-2026-42960: a forged answer brings name servers for the zone itself.
    def script(qname, qtype, packet):
        return reply(packet, [f"{qname} 60 A 192.0.2.80"], ["example.com. 86400 NS ns.evil.com."],
                     ["ns.evil.com. 86400 A 6.6.6.6", "ns1.example.com. 86400 A 6.6.6.6"])

    m = build()
    m.ask("www.example.com.")
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(script)
    assert addresses(m.ask("mail.example.com.")) == ["192.0.2.80"]
    assert addresses(m.ask("other.example.com.")) == ["192.0.2.80"]
    assert not m.net.asked("6.6.6.6")
    assert known(m, "ns1.example.com.").rdata(0) == bytes([192, 0, 2, 1])


def test_maginotdns_a_forwarder_speaks_for_its_zone_only():
    # MaginotDNS (2023): a forwarder's reply is believed for names that are resolved from the root.
    def script(qname, qtype, packet):
        return reply(
            packet, [f"{qname} 60 CNAME www.example.com.", "www.example.com. 86400 A 6.6.6.6"],
            ["com. 86400 NS ns.evil.", "example.com. 86400 NS ns.evil."],
            ["ns.evil. 86400 A 6.6.6.6", "ns1.example.com. 86400 A 6.6.6.6"], flags=c.RA,
        )

    settings = Settings(dnssec=UNSIGNED, forward=(ForwardZone("corp.", ("10.0.0.1",)),))
    m = build(settings=settings)
    m.net.hosts["10.0.0.1"] = scripted(script)
    assert addresses(m.ask("host.corp.")) == ["192.0.2.80"]
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert not m.net.asked("6.6.6.6")
    assert known(m, "ns.evil.") is None


def test_rebirthday_equal_questions_are_asked_once():
    # Birthday attack (2002), RebirthDay (CVE-2025-5994): many copies in flight make one guess enough.
    m = build()
    m.ask("ns1.example.com.")
    before = len(m.net.log)
    waiting = [m.start("www.example.com.")[1] for _ in range(200)]
    waiting += [m.start("WWW.example.com.")[1] for _ in range(200)]
    m.net.run(m.mesh)
    assert all(len(found) == 1 for found in waiting)
    assert len(m.net.log) == before + 1


def test_fragments_are_not_asked_for():
    # Fragmentation poisoning (2013): replies that never need a second fragment cannot have a forged one.
    m = build(links={"192.0.2.1": Link(truncate_above=40), "192.0.2.2": Link(truncate_above=40)})
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert {entry.edns for entry in m.net.log} == {1232}
    assert m.net.log[-1].tcp


# --- work without end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rcode", [c.FORMERR, c.NOTIMP, c.BADVERS & 15, c.SERVFAIL, c.REFUSED, c.YXDOMAIN])
@pytest.mark.parametrize("flags", [0, c.TC, c.AA])
def test_infinite_resend_every_bad_reply_is_counted(rcode, flags):
    # CVE-2026-5950: a path for bad servers without a counter sends for ever.
    m = build()
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(
        lambda qname, qtype, packet: reply(packet, rcode=rcode, flags=flags)
    )
    outcome = m.ask("www.example.com.")
    assert outcome.rcode in (c.SERVFAIL, c.NOERROR)
    assert len(m.net.log) <= 24


@pytest.mark.parametrize("allowed", range(16, 22))
@pytest.mark.parametrize("rcode", [c.NOERROR, c.FORMERR, c.SERVFAIL])
def test_infinite_resend_every_packet_passes_the_budget(allowed, rcode):
    # The gate itself: whatever the manner of sending, and sub-queries included. Each server here has a bad day.
    lame = [f"192.0.2.{number}" for number in range(100, 113)]
    names_of = [f"sub.example.com. 60 NS n{number}.sub.example.com." for number in range(13)]
    glue = [f"n{number}.sub.example.com. 60 A {address}" for number, address in enumerate(lame)]
    m = build(max_packets=allowed, links={address: Link(dead_tcp=True) for address in lame})
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(
        lambda qname, qtype, packet: reply(packet, (), names_of, glue, flags=0)
    )
    for address in lame:
        m.net.hosts[address] = scripted(
            lambda qname, qtype, packet: reply(packet, rcode=rcode, flags=c.TC if rcode == c.NOERROR else 0)
        )
    outcome = m.ask("x.sub.example.com.")
    assert outcome.failure is not None
    assert len(m.net.log) <= allowed


def test_letter_case_games_end():
    # CVE-2026-5950 once more: a reply that never fits leads to TCP once, and not back.
    def script(qname, qtype, packet):
        made = reply(packet, [f"{qname} 60 A 192.0.2.80"])
        return made[:12] + made[12:].replace(b"xample", b"XaMpLe").replace(b"XAMPLE", b"xample")

    m = build()
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(script)
    m.ask("www.example.com.")
    assert len(m.net.log) <= 24


def test_dns_unchained_long_chains_between_zones_end():
    # DNS unchained (2018): two zones send the resolver back and forth.
    def script(qname, qtype, packet):
        number, _, zone = qname.partition(".")
        other = "example.net." if zone == "example.com." else "example.com."
        return reply(packet, [f"{qname} 60 CNAME n{int(number[1:]) + 1}.{other}"])

    net = "@ 900 IN SOA a n 1 2 3 4 5\n@ 900 IN NS a.gtld\na.gtld 900 IN A 192.5.6.31\n"
    net += "example 900 IN NS ns.example\nns.example 900 IN A 192.0.2.77\n"
    m = build(standard(a192_5_6_31=[("net.", net)]), qname_minimisation=False)
    for address in ("192.0.2.1", "192.0.2.2", "192.0.2.77"):
        m.net.hosts[address] = scripted(script)
    outcome = m.ask("n0.example.com.")
    assert outcome.failure is not None and outcome.failure.kind is FailureKind.BUDGET
    assert len(m.net.log) <= 24


# --- settings that meet -----------------------------------------------------------------------------------------------

POLICIES = {
    "none": PolicySettings(),
    "alias": PolicySettings(local_zones=("here. transparent",), local_data=("www.here. CNAME www.example.com.",)),
    "dns64": PolicySettings(dns64_prefix="64:ff9b::/96"),
    "private": PolicySettings(private_addresses=("192.0.2.0/24",)),
    "all": PolicySettings(
        local_zones=("here. transparent",), local_data=("www.here. CNAME www.example.com.",),
        dns64_prefix="64:ff9b::/96", private_addresses=("192.0.2.0/24",), renumber=("192.0.2.0/24 198.51.100.0/24",),
        hosts=(HostEntry("host.here.", ("192.0.2.7",)),),
    ),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("stale", [0, 86400])
@pytest.mark.parametrize("patience", [0.0, 1.8])
def test_no_pair_of_settings_is_a_fault(policy, stale, patience):
    # CVE-2025-40777, CVE-2026-55717: stale answers beside a policy ended the whole server.
    settings = Settings(
        dnssec=UNSIGNED, policy=POLICIES[policy],
        cache=CacheSettings(serve_stale=stale, serve_stale_timeout=patience),
    )
    m = build(settings=settings)
    m.mesh._context.policy = Plan(m.settings)
    questions = list(itertools.product(
        ("www.example.com.", "alias.example.com.", "none.example.com.", "www.here.", "host.here."),
        ("A", "AAAA", "PTR", "CNAME", "ANY"),
    ))
    for name, rtype in questions:
        m.ask(name, rtype)
    for address in list(m.net.hosts):
        del m.net.hosts[address]
    m.net.sleep(m.mesh, 8000)
    for _ in range(2):
        for name, rtype in questions:
            m.ask(name, rtype)
    m.net.sleep(m.mesh, 60)
    assert m.mesh.statistics()["faults"] == 0
    assert m.mesh.statistics()["running"] == 0
