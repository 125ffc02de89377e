"""The signed playground: every special name has the verdict and extended error of the tables.

Our own resolver resolves from the root in virtual time. dnspython also verifies the signatures of the sound zones, so
that signer and validator are not checked by each other only.
"""

import time

import dns.dnssec
import dns.name
import dns.rdata
import dns.rrset
import pytest
from support.minet import Minet
from support.signed_names import SIGNED
from support.signed_net import NOW, resolver_in

from resolver.playground import World, signed, signing, world_tables
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

BUILD_SECONDS = 5.0
DAY = 86400
# dnspython's own policy refuses SHA-1, which some zones here use on purpose.
LENIENT = dns.dnssec.Policy()
LENIENT.ok_to_validate = lambda _key: True


@pytest.fixture(scope="module")
def world() -> World:
    return signed.signed_world(NOW)


@pytest.fixture(scope="module")
def warm(world: World) -> Minet:
    """One resolver for all questions: what one of them leaves in the cache must not change another's verdict."""
    return resolver_in(world)


@pytest.mark.parametrize("special", SIGNED, ids=lambda special: f"{special.qname}{special.qtype}")
@pytest.mark.parametrize("cache", ["cold", "warm"])
def test_every_signed_special_has_its_verdict(
    world: World, warm: Minet, special: world_tables.TestQuestion, cache: str
) -> None:
    minet = warm if cache == "warm" else resolver_in(world)
    outcome = minet.ask(special.qname, special.qtype)
    found = (c.rcode_to_text(outcome.rcode), Verdict(outcome.verdict).name)
    assert found == (special.rcode, special.verdict.name), outcome
    if special.ede is not None:
        codes = {code for code, _ in outcome.ede} or {None}
        assert special.ede in codes, outcome.ede


def test_the_world_is_built_fast() -> None:
    began = time.process_time()
    signed.signed_world(NOW)
    assert time.process_time() - began < BUILD_SECONDS


def test_every_algorithm_and_more_than_forty_faults_occur() -> None:
    assert {key.algorithm for plan in signed.PLANS.values() for key in plan.keys} == {5, 7, 8, 10, 13, 14, 15, 16}
    assert sum(special.verdict is Verdict.BOGUS for special in SIGNED) > 40
    assert {special.verdict for special in SIGNED} == {Verdict.BOGUS, Verdict.INSECURE, Verdict.SECURE}
    chains = [plan.nsec3 for plan in signed.PLANS.values()]
    assert None in chains and any(n and n.salt for n in chains) and any(n and n.opt_out for n in chains)


def test_no_question_is_in_the_table_twice() -> None:
    asked = [(special.qname, special.qtype) for special in signed.SPECIALS]
    assert len(set(asked)) == len(asked)


def test_every_bogus_name_has_a_secure_explanation(world: World, warm: Minet) -> None:
    for special in SIGNED:
        owner = special.qname.removesuffix("playground.") + "about.playground."
        outcome = warm.ask(owner, "TXT")
        (rrset,) = outcome.answer
        assert outcome.verdict == Verdict.SECURE and special.outcome.encode() in rrset.packed, owner


@pytest.mark.parametrize("case", signed.CASES, ids=lambda case: case.label)
def test_every_zone_describes_its_fault_in_a_txt_record(world: World, warm: Minet, case) -> None:
    """Who cannot validate the zone asks with checking disabled, as `rdig +cd` does."""
    outcome = warm.ask(case.origin, "TXT", cd=True)
    assert [rrset.rdata(0)[1:].decode() for rrset in outcome.answer if rrset.rtype == c.TXT] == [case.about]


@pytest.mark.parametrize("origin", [case.origin for case in signed.VALID if not case.plan.faults])
def test_dnspython_verifies_every_signature_of_sound_zones(world: World, origin: str) -> None:
    """Each set with its signatures."""
    apex = dns.name.from_text(origin)
    zone = world.zones[origin]
    keys = {apex: _dnspython(zone.nodes[zone.origin][c.DNSKEY])}
    checked = 0
    for rrset in zone:
        if rrset.sigs():
            signatures = _dnspython(RRset(rrset.name, c.RRSIG, rrset.ttl, rrset.sigs()))
            for signature in signatures:
                dns.dnssec.validate_rrsig(_dnspython(rrset.without_sigs()), signature, keys, now=NOW, policy=LENIENT)
                checked += 1
    assert checked >= 6


def test_the_root_is_trusted_by_its_own_key(world: World) -> None:
    (anchor,) = world.trust_anchors
    zone = world.zones["."]
    keys = _dnspython(zone.nodes[names.ROOT][c.DNSKEY])
    entry = next(key for key in keys if key.flags == 257)
    assert anchor == f". IN DS {dns.dnssec.make_ds('.', entry, 'SHA256').to_text()}"


def test_signatures_are_valid_from_the_given_time() -> None:
    for now in (NOW, NOW + 400 * DAY):
        soa = signed.signed_world(now).zones["dnssec.playground."].soa
        (signature,) = _dnspython(RRset(soa.name, c.RRSIG, soa.ttl, soa.sigs()))
        assert (signature.inception, signature.expiration) == (now - DAY, now + 30 * DAY)


def test_keys_are_the_same_in_every_run_and_differ_between_zones() -> None:
    one, again, other = (
        signing.Key(names.from_text(zone), signing.KeySpec()) for zone in ("a.example.", "a.example.", "b.example.")
    )
    assert one.rdata == again.rdata != other.rdata
    assert one.tag == dns.dnssec.key_id(_dnspython_key(one.rdata))


def test_a_plan_needs_its_zone() -> None:
    with pytest.raises(KeyError):
        World(plans={"nowhere.": signing.Plan()}, now=NOW)


def test_the_plain_playground_stays_unsigned() -> None:
    plain = World()
    assert plain.trust_anchors == () and not any(zone.signed for zone in plain.zones.values())


def _dnspython(rrset):
    """A set as dnspython reads it."""
    rdatas = [dns.rdata.from_wire(1, rrset.rtype, rdata, 0, len(rdata)) for rdata in rrset.rdatas()]
    return dns.rrset.from_rdata_list(dns.name.from_text(names.to_text(rrset.name)), rrset.ttl, rdatas)


def _dnspython_key(rdata):
    return dns.rdata.from_wire(1, c.DNSKEY, rdata, 0, len(rdata))
