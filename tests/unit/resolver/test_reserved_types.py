"""Types that the cache uses internally cannot be queried: type 0, and the type that stores the proofs of wildcards."""

import pytest
from support.forger import EXAMPLE_IP, forge, world
from support.minet import Minet, build, reply

from resolver.cached_replies import WILDCARD_PROOF
from resolver.effects import FailureKind, Outcome
from resolver.settings import CacheSettings, DnssecSettings, Settings
from resolver.verdict import Verdict
from resolver.wire import consts as c

RESERVED = [0, 128, 200, WILDCARD_PROOF, 249, 250, 251, 252, 253, 254]


def assert_refused(outcome: Outcome) -> None:
    assert outcome.rcode == c.SERVFAIL
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.failure.ede) == (FailureKind.RCODE, c.EDE_NOT_SUPPORTED)


@pytest.mark.parametrize("rtype", RESERVED)
@pytest.mark.parametrize("cd", [False, True])
def test_reserved_types_are_refused_without_a_query(rtype: int, cd: bool) -> None:
    m = build()
    assert m.ask("www.example.com.").answer
    before = len(m.net.log)
    assert_refused(m.ask("www.example.com.", f"TYPE{rtype}", cd=cd))
    assert len(m.net.log) == before


@pytest.mark.parametrize("rtype", RESERVED)
def test_no_stale_data_is_served_for_reserved_types(rtype: int) -> None:
    m = build(settings=Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(max_stale_ttl=86_400)))
    assert m.ask("none.example.com.").rcode == c.NXDOMAIN
    assert_refused(m.ask("none.example.com.", f"TYPE{rtype}"))


def test_no_data_of_type_0_does_not_deny_the_name() -> None:
    m = build()
    m.ask("www.example.com.", "TYPE0")
    assert m.ask("www.example.com.").answer
    assert m.ask("alias.example.com.", "TYPE0").rcode == c.SERVFAIL
    assert m.ask("alias.example.com.").answer


@pytest.mark.parametrize("rtype", [65535, *RESERVED])
def test_the_proof_of_a_wildcard_is_not_replaced(rtype: int) -> None:
    """A client that validates himself (CD) gets a denial without a proof; the wildcard's answer keeps its own."""
    m: Minet = world(example="*.txt 300 TXT x\n")
    first = m.ask("a.txt.example.", "TXT")
    proofs = [rrset for rrset in first.authority if rrset.rtype == c.NSEC]
    assert first.verdict == Verdict.SECURE
    assert proofs
    soa = "example. 3600 SOA ns.example. host.example. 1 7200 3600 86400 300"
    forge(m, EXAMPLE_IP, lambda name, qtype, packet: reply(packet, [], [soa]) if qtype == rtype else None)
    m.ask("a.txt.example.", f"TYPE{rtype}", cd=True)
    again = m.ask("a.txt.example.", "TXT")
    assert (again.rcode, again.verdict) == (c.NOERROR, Verdict.SECURE)
    assert [rrset.rtype for rrset in again.authority] == [rrset.rtype for rrset in first.authority]


@pytest.mark.parametrize("rtype", ["TYPE65535", "TYPE256", "TYPE127", "ANY"])
def test_other_types_are_resolved(rtype: str) -> None:
    m = build()
    assert m.ask("www.example.com.", rtype).rcode == c.NOERROR
    assert any(entry.qname == "www.example.com." for entry in m.net.log)
