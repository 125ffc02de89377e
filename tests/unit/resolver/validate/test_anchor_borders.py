"""Zones above the trust anchor of a name neither sign for the name nor redirect it by a DNAME. They may deny it.

``example.`` is signed and trusted through the root. Its names below ``isle`` belong to another zone with a configured
anchor. What ``example.`` says about them has valid signatures.
"""

import pytest
from support.fakenet import hosts_from
from support.forger import EXAMPLE_IP, SOA, SUB_IP, forge, world
from support.minet import addresses, reply
from support.signing import Nsec3, ZoneKey, sign_zone

from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

CHAINS = pytest.mark.parametrize("chain", [None, Nsec3()], ids=["nsec", "nsec3"])
ISLE_IP = "192.0.2.40"
ISLE = ZoneKey("isle.up.example.")
DNAME = "up 300 DNAME other.example.\nwww.isle.other 300 A 203.0.113.66\nwww.else.other 300 A 192.0.2.84\n"


@pytest.mark.parametrize("known", [False, True])
def test_a_dname_above_the_anchor(known: bool) -> None:
    minet = world(example=DNAME, anchors=[ISLE])
    if known:  # the DNAME is in the cache
        outcome = minet.ask("www.else.up.example.")
        assert (outcome.verdict, addresses(outcome)) == (Verdict.SECURE, ["192.0.2.84"])
    for _ in range(2):
        outcome = minet.ask("www.isle.up.example.")
        assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS), outcome


def test_a_dname_above_the_anchor_with_too_long_a_target() -> None:
    label = "x" * 20
    longest = ".".join(letter * 60 for letter in "abcd")
    minet = world(example=f"up 300 DNAME {longest}.\n", anchors=[ISLE])
    packet = make_query(1, names.from_text("up.example."), c.DNAME, edns_payload=4096, do=True)
    dname = MessageView.parse(minet.net.hosts[EXAMPLE_IP](packet, True)).answer[0]
    assert dname.rtype == c.DNAME and dname.sig_len
    forge(minet, EXAMPLE_IP, lambda name, rtype, packet: reply(packet, [dname])
          if name.endswith(".up.example.") else None)
    outcome = minet.ask(f"{label}.isle.up.example.")
    assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS), outcome
    assert minet.ask(f"{label}.else.up.example.").rcode == c.YXDOMAIN


def test_a_dname_above_a_negative_anchor_is_not_secure_for_names_below_it() -> None:
    minet = world(example=DNAME, negative=["isle.up.example."])
    for _ in range(2):
        outcome = minet.ask("www.isle.up.example.")
        assert (outcome.verdict, addresses(outcome)) == (Verdict.INSECURE, ["203.0.113.66"])
    assert minet.ask("www.else.up.example.").verdict == Verdict.SECURE


@CHAINS
@pytest.mark.parametrize(("name", "rtype"), [
    ("www.isle.up.example.", "A"), ("isle.up.example.", "DNSKEY"), ("isle.up.example.", "DS"),
])
def test_a_denial_of_the_anchors_zone(chain: Nsec3 | None, name: str, rtype: str) -> None:
    minet = world(chain, anchors=[ISLE])
    for _ in range(2):
        outcome = minet.ask(name, rtype)
        assert (outcome.rcode, outcome.verdict) == (c.NXDOMAIN, Verdict.SECURE), outcome


@pytest.mark.parametrize("opt_out", [False, True])
@pytest.mark.parametrize(("name", "rtype"), [("www.isle.example.", "A"), ("isle.example.", "MX")])
def test_a_denial_of_the_anchors_zone_by_an_opt_out_span(opt_out: bool, name: str, rtype: str) -> None:
    """The anchor's zone has no DS set in the parent. Public records of the parent, replayed, prove nothing below it."""
    key = ZoneKey("isle.example.")
    minet = world(Nsec3(opt_out=opt_out), example=f"isle 300 NS ns.isle\nns.isle 300 A {ISLE_IP}\n", anchors=[key])
    zone = sign_zone(
        "isle.example.", SOA + f"@ 300 NS ns\n@ 300 MX 1 ns\nns 300 A {ISLE_IP}\nwww 300 A 192.0.2.41\n", [key]
    )
    minet.net.hosts.update(hosts_from({ISLE_IP: Authority([Zone.from_text("isle.example.", zone)])}))
    authority = {}
    for asked, asked_type in (("isle.example.", c.DS), ("nothing.example.", c.A)):
        packet = make_query(1, names.from_text(asked), asked_type, edns_payload=4096, do=True)
        for rrset in MessageView.parse(minet.net.hosts[EXAMPLE_IP](packet, True)).authority:
            if rrset.rtype in (c.SOA, c.NSEC3):
                authority[rrset.name, rrset.rtype] = rrset
    honest = minet.net.hosts[EXAMPLE_IP]
    rcode = c.NOERROR if name == "isle.example." else c.NXDOMAIN
    forge(minet, EXAMPLE_IP, lambda asked, asked_type, packet: reply(packet, [], list(authority.values()), rcode=rcode)
          if asked.endswith("isle.example.") and asked_type not in (c.DS, c.DNSKEY) else None)
    outcome = minet.ask(name, rtype)
    assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS), outcome
    minet.net.hosts[EXAMPLE_IP] = honest
    minet.net.sleep(minet.mesh, 3600)
    outcome = minet.ask(name, rtype)
    assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.SECURE) and outcome.answer, outcome


@pytest.mark.parametrize("known", [False, True])
def test_too_many_iterations_of_a_zone_above_a_signed_one(known: bool) -> None:
    """The denial is by the parent. The DS query of the name gets no answer, but that of the zone does."""
    minet = world(Nsec3(iterations=100))
    packet = make_query(1, names.from_text("nothing.example."), c.A, edns_payload=4096, do=True)
    said = MessageView.parse(minet.net.hosts[EXAMPLE_IP](packet, True)).authority
    denial = [rrset for rrset in said if rrset.rtype == c.NSEC3]
    if known:
        assert minet.ask("sub.example.", "DS").verdict == Verdict.SECURE

    def lie(name: str, rtype: int, packet: bytes) -> bytes | None:
        if name != "www.sub.example.":
            return None
        return reply(packet, rcode=c.SERVFAIL) if rtype == c.DS else reply(packet, [], denial, rcode=c.NXDOMAIN)

    forge(minet, SUB_IP, lie)
    outcome = minet.ask("www.sub.example.")
    assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS), outcome
