"""RFC 4035 appendix B and RFC 5155 appendix B, message by message: each reply as a packet, through the whole resolver.

A server of `example.` sends what the appendix prints, referrals included, with all sections. The root above is not
signed, and the trust anchor is the key of the zone in the example. The expected verdict follows from the rules of the
RFCs (RFC 4035 section 5, RFC 5155 sections 8 and 9.2).
"""

import pytest
from support.fakenet import START, FakeNet, SeededRandom, hosts_from
from support.minet import ROOT_ADDRESS, Minet, reply, scripted
from support.rfc_vectors import RFC4035, RFC5155, Example, Reply, sets
from support.signed_net import Crypto

from resolver.cache import Store
from resolver.mesh import Mesh
from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.settings import DnssecSettings, IterationSettings, RootServer, Settings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

SECURE, INSECURE, BOGUS = Verdict.SECURE, Verdict.INSECURE, Verdict.BOGUS
ZONE_SERVERS = ("192.0.2.1", "192.0.2.2")
"""ns1.example and ns2.example of both appendices."""
ROOT = """
@ 900 SOA a.root. h.root. 1 2 3 4 300
@ 900 NS a.root.
a.root. 900 A 198.41.0.4
example. 3600 NS ns1.example.
example. 3600 NS ns2.example.
ns1.example. 3600 A 192.0.2.1
ns2.example. 3600 A 192.0.2.2
"""


def packet_of(query: bytes, found: Reply, *, flags: int) -> bytes:
    return reply(query, sets(found.answer), sets(found.authority), sets(found.additional), rcode=found.rcode,
                 flags=flags)


def network(example: Example) -> Minet:
    """A resolver that trusts the example's key, at the example's time, before the example's servers."""

    def zone_server(qname: str, qtype: int, query: bytes) -> bytes:
        for cut, referral in example.referrals.items():
            if qname.endswith(cut) and not (qname == cut and qtype == c.DS):
                return packet_of(query, referral, flags=0)
        found = example.replies.get((qname, c.type_to_text(qtype)))
        return reply(query) if found is None else packet_of(query, found, flags=c.AA)

    def child_server(qname: str, qtype: int, query: bytes) -> bytes:
        found = example.replies.get((qname, c.type_to_text(qtype)))
        return reply(query) if found is None else packet_of(query, found, flags=c.AA)

    hosts = hosts_from({ROOT_ADDRESS: Authority([Zone.from_text(".", ROOT)])})
    hosts.update(dict.fromkeys(ZONE_SERVERS, scripted(zone_server)))
    for referral in example.referrals.values():
        for glue in sets(referral.additional):
            hosts[".".join(map(str, glue.rdata(0)))] = scripted(child_server)
    settings = Settings(
        root_hints=(RootServer("a.root.", (ROOT_ADDRESS,)),),
        dnssec=DnssecSettings(trust_anchors=(example.anchor,), accept_sha1=True),
        iteration=IterationSettings(do_ip6=False, qname_minimisation=False),
    )
    net = FakeNet(hosts)
    net.shift = example.now - START - int(net.now)
    store = Store.create(1 << 22, seed=bytes(16))
    mesh = Mesh(exchange=net, crypto=Crypto(), clock=net, rng=SeededRandom(1), store=store, settings=settings)
    return Minet(net, mesh, store, settings)


CASES = [
    (RFC4035, "B.1", "x.w.example.", "MX", SECURE, c.NOERROR),
    (RFC4035, "B.2", "ml.example.", "A", SECURE, c.NXDOMAIN),
    (RFC4035, "B.3", "ns1.example.", "MX", SECURE, c.NOERROR),
    (RFC4035, "B.4", "mc.a.example.", "MX", BOGUS, c.SERVFAIL),  # its DS set wants keys that the appendix lacks
    (RFC4035, "B.5", "mc.b.example.", "MX", INSECURE, c.NOERROR),
    (RFC4035, "B.6", "a.z.w.example.", "MX", SECURE, c.NOERROR),
    (RFC4035, "B.7", "a.z.w.example.", "AAAA", SECURE, c.NOERROR),
    (RFC5155, "B.1", "a.c.x.w.example.", "A", INSECURE, c.NXDOMAIN),  # opt-out covers the next closer name
    (RFC5155, "B.2", "ns1.example.", "MX", SECURE, c.NOERROR),
    (RFC5155, "B.2.1", "y.w.example.", "A", SECURE, c.NOERROR),
    (RFC5155, "B.3", "mc.c.example.", "MX", INSECURE, c.NOERROR),
    (RFC5155, "B.4", "a.z.w.example.", "MX", INSECURE, c.NOERROR),
    (RFC5155, "B.5", "a.z.w.example.", "AAAA", INSECURE, c.NOERROR),
]


@pytest.mark.parametrize(
    ("example", "name", "rtype", "verdict", "rcode"), [(case[0], *case[2:]) for case in CASES],
    ids=[f"{'4035' if case[0] is RFC4035 else '5155'} {case[1]}" for case in CASES],
)
def test_whole_replies(example: Example, name: str, rtype: str, verdict: Verdict, rcode: int) -> None:
    minet = network(example)
    outcome = minet.ask(name, rtype)
    assert (outcome.verdict, outcome.rcode) == (verdict, rcode), outcome.failure
    assert minet.net.asked(qname=name, qtype=c.type_from_text(rtype))
    printed = sets(example.replies[name, rtype].answer) if verdict != BOGUS else []
    assert [rrset.packed for rrset in outcome.answer] == [rrset.packed for rrset in printed]
    again = minet.ask(name, rtype)  # from the cache: the same
    assert (again.verdict, again.rcode) == (verdict, rcode)


def test_the_ds_set_of_a_referral_is_what_the_child_must_fulfil() -> None:
    """B.4: the referral itself is accepted; names below it fail for lack of keys, with that reason."""
    minet = network(RFC4035)
    outcome = minet.ask("mc.a.example.", "MX")
    assert outcome.failure is not None
    assert outcome.failure.ede == c.EDE_DNSKEY_MISSING
    known = minet.store.rrsets.find(names.from_text("a.example."), c.DS, minet.net.time())
    assert known is not None
    assert known.verdict == SECURE
    assert minet.net.asked(qname="a.example.", qtype=c.DNSKEY)


def test_the_proof_of_a_referral_makes_the_child_unsigned() -> None:
    """B.5: nothing below is asked for keys."""
    minet = network(RFC4035)
    assert minet.ask("mc.b.example.", "MX").verdict == INSECURE
    assert not minet.net.asked(qname="b.example.", qtype=c.DNSKEY)
    assert not minet.net.asked(qname="mc.b.example.", qtype=c.DNSKEY)


@pytest.mark.parametrize("example", [RFC4035, RFC5155], ids=["4035 B.8", "5155 B.6"])
def test_the_child_is_not_asked_for_its_own_ds(example: Example) -> None:
    """RFC 4035 section 4.2: such a question goes to the parent, so the reply of B.8 does not even come about."""
    minet = network(example)
    assert minet.ask("example.", "DS").verdict != SECURE
    assert not [asked for asked in minet.net.asked(qname="example.", qtype=c.DS) if asked.address in ZONE_SERVERS]


@pytest.mark.parametrize("example", [RFC4035, RFC5155], ids=["4035", "5155"])
def test_forged_additional_records_are_not_kept(example: Example) -> None:
    """B.4 and B.6 with another address for the mail exchanger: the reply is validated for what was queried, and the
    address is queried and validated separately."""
    name = "a.z.w.example."
    forged = example.replies[name, "MX"]._replace(additional="ai.example. A 192.0.2.66")
    minet = network(example._replace(replies=example.replies | {(name, "MX"): forged}))
    assert minet.ask(name, "MX").verdict == (SECURE if example is RFC4035 else INSECURE)
    found = minet.ask("ai.example.", "A")
    assert bytes([192, 0, 2, 66]) not in [rdata for rrset in found.answer for rdata in rrset.rdatas()]
    assert minet.net.asked(qname="ai.example.", qtype=c.A)
