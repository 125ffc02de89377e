"""Known attacks on resolvers, one test for each that has a name or a number and is not tested elsewhere.

Those on DNSSEC are in ``validate/test_attacks.py``, forged packets in ``net/test_udp_forgeries.py``, greedy clients in
``net/test_service.py``, and attacks on iteration without a name in ``test_hostile.py``.
"""

import itertools

import pytest
from support.fakenet import Link
from support.minet import COM_ZONE, EXAMPLE_ZONE, addresses, build, reply, scripted, standard

from resolver import limits
from resolver import mesh as mesh_module
from resolver.effects import FailureKind, Question
from resolver.policy import PolicyPipeline
from resolver.policy.rewrite import Rewriter
from resolver.settings import (
    CacheSettings,
    DnssecSettings,
    ForwardZone,
    HostEntry,
    PolicySettings,
    Settings,
    StubZone,
)
from resolver.verdict import Trust
from resolver.wire import Builder, MessageView
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

UNSIGNED = DnssecSettings(trust_anchors=())


def known(m, name, rtype=c.A):
    return m.store.rrsets.find(names.from_text(name), rtype, m.net.time(), min_trust=Trust.NONE)


def without_example(m):
    """The parent removes the delegation of example.com."""
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
        zone = EXAMPLE_ZONE.replace("ns1", f"other{number}").replace("7200 IN", "500000 IN")
        fresh = build(standard(a192_0_2_1=[("example.com.", zone)]))
        m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = fresh.net.hosts["192.0.2.1"]
        m.net.sleep(m.mesh, 1700)
        assert m.ask("example.com.", "NS").rcode == c.NOERROR
        assert addresses(m.ask(f"other{number}.example.com.")) == ["192.0.2.1"]
    without_example(m)
    m.net.sleep(m.mesh, 500)
    assert m.ask("deep.sub.tree.example.com.").rcode == c.NXDOMAIN, "the child still has the name"


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
    # MaginotDNS (2023): a forwarder's reply is accepted for names that are resolved from the root.
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


@pytest.mark.parametrize("kind", ["forward", "stub"])
def test_maginotdns_the_zone_around_does_not_speak_for_a_configured_one(kind):
    # The other way round: an alias of the public zone brings addresses for a name that only the configuration knows.
    def script(qname, qtype, packet):
        if qname == "alias.example.com.":
            return reply(packet, [f"{qname} 60 CNAME www.corp.example.com.", "www.corp.example.com. 86400 A 6.6.6.6"])
        if qname.startswith("deny"):
            # Nor does it deny one.
            rcode = c.NXDOMAIN if qname == "deny-name.example.com." else c.NOERROR
            return reply(packet, [f"{qname} 60 CNAME other.corp.example.com."],
                         ["example.com. 60 SOA ns. n. 1 2 3 4 60"], rcode=rcode)
        return reply(packet, [f"{qname} 60 A 192.0.2.80"])

    zone = {"forward": {"forward": (ForwardZone("corp.example.com.", ("10.0.0.1",)),)},
            "stub": {"stub": (StubZone("corp.example.com.", ("10.0.0.1",)),)}}[kind]
    m = build(settings=Settings(dnssec=UNSIGNED, **zone))
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(script)
    m.net.hosts["10.0.0.1"] = scripted(lambda qname, qtype, packet: reply(packet, [f"{qname} 60 A 10.9.9.9"]))
    assert addresses(m.ask("alias.example.com.")) == ["10.9.9.9"]
    assert addresses(m.ask("www.corp.example.com.")) == ["10.9.9.9"]
    for qname in ("deny-data.example.com.", "deny-name.example.com."):
        assert addresses(m.ask(qname)) == ["10.9.9.9"]


def test_a_configured_zone_is_not_denied_by_its_parent_without_dnssec_either():
    # CVE-2026-44687: the root knows nothing of "corp.", and says so when it is asked for its DS.
    m = build(settings=Settings(dnssec=UNSIGNED, forward=(ForwardZone("corp.", ("10.0.0.1",)),)))
    m.net.hosts["10.0.0.1"] = scripted(lambda qname, qtype, packet: reply(packet, [f"{qname} 60 A 10.9.9.9"]))
    assert m.ask("corp.", "DS").rcode == c.NXDOMAIN
    assert addresses(m.ask("corp.")) == ["10.9.9.9"]


def test_an_alias_brings_nothing_along_for_a_local_name():
    # A name that the operator removed must not come back in the reply to a query for another zone's name.
    settings = Settings(dnssec=UNSIGNED, policy=PolicySettings(local_zones=("www.example.com. nxdomain",)))
    m = build(settings=settings)
    m.mesh._context.policy = PolicyPipeline(m.settings).views[0]
    for _ in range(2):
        outcome = m.ask("alias.example.com.")
        assert (outcome.rcode, [rrset.rtype for rrset in outcome.answer]) == (c.NXDOMAIN, [c.CNAME])


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


def test_no_report_is_sent_to_an_error_reporting_agent():
    # CVE-2026-55973: the longest name there is, offered as the end of another (RFC 9567 section 6.1.1).
    agent = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"b" * 61 + b"\0"

    def script(qname, qtype, packet):
        query = MessageView.parse(packet)
        builder = Builder()
        builder.start(query.id, c.QR | c.AA | c.SERVFAIL, query.qname, query.qtype)
        builder.opt(1232, options=[(c.OPTION_REPORT_CHANNEL, agent)])
        return builder.finish()

    m = build()
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(script)
    assert m.ask("www.example.com.").failure is not None
    assert m.mesh.statistics()["internal_errors"] == 0
    assert {names.is_subdomain(names.from_text("www.example.com."), names.from_text(entry.qname))
            for entry in m.net.log} == {True}


# --- work without end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rcode", [c.FORMERR, c.NOTIMP, c.BADVERS & 15, c.SERVFAIL, c.REFUSED, c.YXDOMAIN])
@pytest.mark.parametrize("flags", [0, c.TC, c.AA])
def test_infinite_resend_every_bad_reply_is_counted(rcode, flags):
    # CVE-2026-5950: a path for bad servers without a counter sends packets forever.
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
    m = build(max_upstream_queries=allowed, links={address: Link(dead_tcp=True) for address in lame})
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
        return made[:13] + made[13:16].swapcase() + made[16:]  # the "www" of the question

    m = build()
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(script)
    outcome = m.ask("www.example.com.")
    assert outcome.failure is not None and outcome.failure.kind in (FailureKind.CASE_MISMATCH, FailureKind.UNREACHABLE)
    for address in ("192.0.2.1", "192.0.2.2"):
        ways = [entry.tcp for entry in m.net.log if entry.address == address]
        # What does not fit over TCP either is no reply, so the query over TCP times out.
        assert ways[0] is False
        assert all(ways[1:])
        assert 2 <= len(ways) <= 1 + 2 * limits.TRIES_PER_SERVER


def test_a_server_that_always_wants_another_cookie():
    # CVE-2026-5950: each reply changes what the next query must be like, and none is an answer.
    cookies = itertools.count()

    def script(qname, qtype, packet):
        query = MessageView.parse(packet)
        client = query.edns.get(c.OPTION_COOKIE)[:8]
        builder = Builder(512, reserve_opt=40)
        builder.start(query.id, c.QR | (c.BADCOOKIE & 15), query.qname, query.qtype)
        builder.opt(1232, ext_rcode=c.BADCOOKIE >> 4,
                    options=[(c.OPTION_COOKIE, client + next(cookies).to_bytes(8, "big"))])
        return builder.finish()

    m = build()
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(script)
    assert m.ask("www.example.com.").failure is not None
    for address in ("192.0.2.1", "192.0.2.2"):
        assert 2 < len(m.net.asked(address)) <= limits.FALLBACK_ATTEMPTS


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
    "dns64": PolicySettings(dns64_prefix=("64:ff9b::/96",)),
    "private": PolicySettings(private_addresses=("192.0.2.0/24",)),
    "all": PolicySettings(
        local_zones=("here. transparent",), local_data=("www.here. CNAME www.example.com.",),
        dns64_prefix=("64:ff9b::/96",), private_addresses=("192.0.2.0/24",),
        rewrite_addresses=("192.0.2.0/24 198.51.100.0/24",),
        hosts=(HostEntry("host.here.", ("192.0.2.7",)),),
    ),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("stale", [0, 600, 86400])
@pytest.mark.parametrize("age", [1000, 8000])
@pytest.mark.parametrize("server_timeout", [0.0, 1.8])
def test_no_pair_of_settings_is_a_fault(policy, stale, age, server_timeout):
    # CVE-2025-40777, CVE-2026-55717: stale answers beside a policy ended the whole server.
    settings = Settings(
        dnssec=UNSIGNED, policy=POLICIES[policy],
        cache=CacheSettings(max_stale_ttl=stale, stale_answer_client_timeout=server_timeout),
    )
    m = build(settings=settings)
    m.mesh._context.policy = PolicyPipeline(m.settings).views[0]
    questions = list(itertools.product(
        ("www.example.com.", "alias.example.com.", "none.example.com.", "www.here.", "host.here."),
        ("A", "AAAA", "PTR", "CNAME", "ANY"),
    ))
    outcomes = [m.ask(name, rtype) for name, rtype in questions]
    for address in list(m.net.hosts):
        del m.net.hosts[address]
    m.net.sleep(m.mesh, age)
    for _ in range(2):
        outcomes += [m.ask(name, rtype) for name, rtype in questions]
    m.net.sleep(m.mesh, 60)
    assert m.mesh.statistics()["internal_errors"] == 0
    assert m.mesh.statistics()["running"] == 0
    assert {type(rrset) for outcome in outcomes for rrset in outcome.answer} == {RRset}


class Broken(Exception):
    """A fault that a test has put in."""


def _break(*_, **__):
    raise Broken


def stale_and_private(server_timeout=1.8):
    """Two names whose data has expired, and a policy that looks at every outcome."""
    settings = Settings(
        dnssec=UNSIGNED, policy=POLICIES["private"],
        cache=CacheSettings(max_stale_ttl=86400, stale_answer_client_timeout=server_timeout),
    )
    m = build(settings=settings)
    for name in ("www.example.com.", "ns1.example.com."):
        m.ask(name)
    m.net.sleep(m.mesh, 8000)
    return m


@pytest.mark.parametrize("server_timeout", [0.0, 1.8])
def test_a_fault_in_stale_data_costs_nothing_else(server_timeout, monkeypatch):
    # CVE-2025-40777, CVE-2026-55717, the second defence: an unforeseen fault does not end the server.
    m = stale_and_private(server_timeout)
    if server_timeout:
        for address in ("192.0.2.1", "192.0.2.2"):
            del m.net.hosts[address]
    monkeypatch.setattr(mesh_module, "find_stale", _break)
    found = [m.start(name)[1] for name in ("www.example.com.", "ns1.example.com.", "www.example.com.")]
    m.net.run(m.mesh)
    assert [outcomes[0].rcode for outcomes in found] == [c.SERVFAIL if server_timeout else c.NOERROR] * 3
    assert m.mesh.statistics()["internal_errors"] > 0
    assert m.mesh.statistics()["running"] == 0


def test_a_fault_in_a_policy_shows_nothing_and_costs_nothing_else(monkeypatch):
    m = stale_and_private()
    right = Rewriter.apply

    def apply(rewriter, outcome):
        return _break() if names.to_text(outcome.question.qname) == "www.example.com." else right(rewriter, outcome)

    monkeypatch.setattr(Rewriter, "apply", apply)
    found = [m.start(name)[1] for name in ("www.example.com.", "ns1.example.com.", "www.example.com.")]
    m.net.run(m.mesh)
    m.start("www.example.com.")
    assert [(outcomes[0].rcode, outcomes[0].answer) for outcomes in found[::2]] == [(c.SERVFAIL, [])] * 2
    assert found[1][0].rcode == c.NOERROR
    assert m.mesh.peek(Question(names.from_text("www.example.com."), c.A)).answer == []
    assert m.mesh.statistics()["internal_errors"] == 4


def test_a_fault_while_looking_up_is_an_answer_too(monkeypatch):
    m = stale_and_private()
    monkeypatch.setattr(mesh_module, "find_outcome", _break)
    outcome = m.ask("www.example.com.")
    assert (outcome.rcode, outcome.failure.kind) == (c.SERVFAIL, FailureKind.INTERNAL)
    assert m.mesh.statistics()["internal_errors"] == 1
