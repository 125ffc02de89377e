"""No data is used beyond the validity of its signatures (RFC 4035 sections 5.3.1 and 5.3.3), in any cache.

A denial depends on its SOA and each of its proofs, an expanded wildcard on its proof, a CNAME made from a DNAME on that
DNAME: its TTL is not longer than any of theirs, and the CNAME is not used without the DNAME (RFC 6672).
"""

from collections.abc import Iterable

import pytest
from support.fakenet import START
from support.forger import EXAMPLE_IP, forge, world
from support.minet import Minet, reply, rr
from support.signing import Nsec3

from resolver.effects import Outcome, RawReply
from resolver.settings import CacheSettings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

NOW = START + 1000
"""The fake network's time when the first question is asked."""
CHAINS = pytest.mark.parametrize("chain", [None, Nsec3()], ids=["nsec", "nsec3"])


# --- signatures whose time is not now ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("inception", "expiration", "ede"), [
    (NOW - 864_000, NOW - 1, c.EDE_SIGNATURE_EXPIRED),
    (NOW - 864_000, NOW - 3_599, c.EDE_SIGNATURE_EXPIRED),
    (NOW + 60, NOW + 864_000, c.EDE_SIGNATURE_NOT_YET_VALID),
])
def test_by_default_no_signature_is_accepted_outside_its_validity(inception: int, expiration: int, ede: int) -> None:
    m = world(inception=inception, expiration=expiration)
    for name, rtype in (("www.example.", "A"), ("nope.example.", "A"), ("alias.example.", "A")):
        outcome = m.ask(name, rtype)
        assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS), name
        assert outcome.failure is not None
        assert outcome.failure.ede == ede


def test_a_signature_is_valid_to_its_last_second() -> None:
    assert world(expiration=NOW + 5).ask("www.example.").verdict == Verdict.SECURE


def test_tolerance_is_an_option() -> None:
    m = world(inception=NOW - 864_000, expiration=NOW - 3_599, skew=(3_600.0, 86_400.0))
    assert m.ask("www.example.").verdict == Verdict.SECURE
    m = world(inception=NOW - 864_000, expiration=NOW - 3_599, skew=(0.0, 3_000.0))
    assert m.ask("www.example.").verdict == Verdict.BOGUS


# --- TTLs -----------------------------------------------------------------------------------------------------------
# The zone's SOA has a TTL of an hour and a MINIMUM of 300 s, its NSEC and NSEC3 records those 300 s; further records
# are held against the end of their signatures.

LEFT = 100
"""Seconds that the signatures hold from `NOW`: less than any TTL of the zone."""
QUESTIONS = [
    ("www.example.", "A"), ("nope.example.", "A"), ("www.example.", "MX"), ("a.b.nope.example.", "A"),
    ("www.example.", "DS"), ("x.star.example.", "A"), ("x.star.example.", "MX"), ("star.example.", "A"),
    ("x.into.example.", "A"), ("x.y.into.example.", "A"), ("into.example.", "DNAME"), ("nope.into.example.", "A"),
    ("toward.example.", "A"), ("toward.example.", "MX"),
]
MORE = """
*.star 80000 A 192.0.2.7
into 80000 DNAME home
x.home 80000 A 192.0.2.8
x.y.home 80000 A 192.0.2.8
toward 80000 CNAME www
long 80000 A 192.0.2.9
"""


def least_ttl(outcome: Outcome) -> int:
    return min([outcome.ttl, *(rrset.ttl for rrset in (*outcome.answer, *outcome.authority))])


def most_ttl(outcome: Outcome) -> int:
    return max([outcome.ttl, *(rrset.ttl for rrset in (*outcome.answer, *outcome.authority))])


@CHAINS
@pytest.mark.parametrize(("name", "rtype"), QUESTIONS)
def test_nothing_outlives_its_signatures(name: str, rtype: str, chain: Nsec3 | None) -> None:
    """What is shown, what the cache says a second later, and that nothing at all is left when the time is over."""
    m = world(chain, example=MORE, expiration=NOW + LEFT)
    for wait in (0, 10):
        m.net.sleep(m.mesh, wait)
        outcome = m.ask(name, rtype)
        assert outcome.verdict == Verdict.SECURE, outcome
        assert 0 < most_ttl(outcome) <= LEFT - wait, outcome.authority
    m.net.sleep(m.mesh, LEFT)
    assert m.ask(name, rtype).verdict == Verdict.BOGUS


@CHAINS
def test_denials_for_names_not_asked_end_with_their_signatures(chain: Nsec3 | None) -> None:
    m = world(chain, example=MORE, expiration=NOW + LEFT)
    for name in ("nope.example.", "x.star.example.", "www.example."):
        m.ask(name, "A")
        m.ask(name, "MX")
    known = 0
    for number in range(9):
        asked = len(m.net.log)
        outcome = m.ask(f"nope{number}.example.")
        assert outcome.verdict == Verdict.SECURE
        assert most_ttl(outcome) <= LEFT
        known += len(m.net.log) == asked
    assert known, "some of them are denied by what is held"
    m.net.sleep(m.mesh, LEFT + 5)
    for name in ("other.example.", "y.star.example."):
        assert m.ask(name).verdict == Verdict.BOGUS


@pytest.mark.parametrize(("name", "rtype"), [("nope.example.", "A"), ("www.example.", "MX")])
def test_a_denial_is_cached_no_longer_than_its_soa_permits(name: str, rtype: str) -> None:
    """RFC 2308 section 5, RFC 9077: the MINIMUM of the SOA bounds its own TTL and that of each proof."""
    outcome = world().ask(name, rtype)
    assert outcome.verdict == Verdict.SECURE
    assert most_ttl(outcome) <= 300


@CHAINS
@pytest.mark.parametrize("raised", ["SOA", "proof"])
def test_ttls_raised_on_the_way_are_cut_to_what_was_signed(raised: str, chain: Nsec3 | None) -> None:
    m = world(chain)
    raise_ttls(m, {c.SOA} if raised == "SOA" else {c.NSEC, c.NSEC3})
    for name, rtype in (("nope.example.", "A"), ("www.example.", "MX"), ("nope.example.", "AAAA")):
        outcome = m.ask(name, rtype)
        assert outcome.verdict == Verdict.SECURE
        assert most_ttl(outcome) <= 300


@CHAINS
def test_a_lower_ttl_of_one_proof_bounds_the_whole_denial(chain: Nsec3 | None) -> None:
    m = world(chain, example=MORE)
    set_ttls(m, {c.NSEC, c.NSEC3}, 7)
    for name, rtype in (("nope.example.", "A"), ("www.example.", "MX"), ("x.star.example.", "A")):
        assert most_ttl(m.ask(name, rtype)) <= 7
    m.net.sleep(m.mesh, 8)
    asked = len(m.net.log)
    m.ask("nope.example.")
    assert len(m.net.log) > asked


@CHAINS
def test_an_expanded_wildcard_is_cached_no_longer_than_its_proof(chain: Nsec3 | None) -> None:
    """The set itself is signed for 80,000 s; that nothing closer exists is for 300."""
    m = world(chain, example=MORE)
    for _ in range(2):
        outcome = m.ask("x.star.example.")
        assert outcome.verdict == Verdict.SECURE
        assert most_ttl(outcome) <= 300
    assert m.ask("long.example.").answer[0].ttl == 80_000


def test_the_least_ttl_of_the_configuration_prolongs_no_signature() -> None:
    m = world(cache=CacheSettings(min_ttl=3600), expiration=NOW + LEFT)
    for _ in range(2):
        assert 0 < least_ttl(m.ask("www.example.")) <= LEFT
    assert world(cache=CacheSettings(min_ttl=3600)).ask("www.plain.").answer[0].ttl == 3600


@pytest.mark.parametrize("cd", [False, True])
def test_data_kept_unvalidated_is_cut_when_it_is_validated(cd: bool) -> None:
    m = world(example=MORE, expiration=NOW + LEFT)
    for name in ("long.example.", "nope.example.", "x.star.example.", "x.into.example."):
        m.ask(name, cd=True)
        m.net.sleep(m.mesh, 1)
        assert m.ask(name).verdict == Verdict.SECURE
        assert most_ttl(m.ask(name, cd=cd)) <= LEFT


# --- DNAME (RFC 6672) -----------------------------------------------------------------------------------------------

TWICE = """
into 300 DNAME home
x.home 300 A 192.0.2.8
home2 300 A 192.0.2.8
again 300 DNAME deep.again2
x.deep.again2 300 CNAME y.into
y.home 300 A 192.0.2.9
loop 300 DNAME a.home3
twice 300 DNAME b.twice
"""


@CHAINS
@pytest.mark.parametrize("rtype", ["A", "ANY", "CNAME", "DNAME"])
def test_a_dname_makes_no_alias_of_its_own_owner(rtype: str, chain: Nsec3 | None) -> None:
    """RFC 6672 section 2.2: a DNAME does not cover an unsigned CNAME at its own owner, even one that agrees with it."""
    m = world(chain, example=TWICE)
    true = m.net.hosts[EXAMPLE_IP]

    def forger(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if qname != "into.example.":
            return None
        query = make_query(1, names.from_text("into.example."), c.DNAME, edns_payload=4096, do=True)
        dname = [one for one in MessageView.parse(true(query, True) or b"").answer if one.rtype == c.DNAME]
        return reply(packet, [*dname, "into.example. 300 CNAME home.example."])

    forge(m, EXAMPLE_IP, forger)
    for _ in range(2):
        outcome = m.ask("into.example.", rtype)
        assert not any(rrset.rtype == c.CNAME for rrset in outcome.answer)
        assert outcome.rcode == c.SERVFAIL or rtype == "DNAME"
    assert m.store.rrsets.find(names.from_text("into.example."), c.CNAME, m.net.time()) is None


@pytest.mark.parametrize("target", ["other.home.example.", "x.home.example.plain.", "www.example.", "x.into.example."])
def test_the_target_is_exactly_what_the_dname_makes_of_it(target: str) -> None:
    """A server's own CNAME beside the DNAME is ignored: the CNAME is made here from the signed DNAME."""
    m = world(example=TWICE)
    true = m.net.hosts[EXAMPLE_IP]

    def forger(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if qname != "x.into.example.":
            return None
        dname = [one for one in MessageView.parse(true(packet, True) or b"").answer if one.rtype == c.DNAME]
        return reply(packet, [f"x.into.example. 300 CNAME {target}", *dname])

    forge(m, EXAMPLE_IP, forger)
    outcome = m.ask("x.into.example.")
    assert outcome.verdict == Verdict.SECURE
    assert [r.targets()[0] for r in outcome.answer if r.rtype == c.CNAME] == [names.from_text("x.home.example.")]


def raw_reply(*sets: RRset) -> RawReply:
    raw = RawReply(sets[-1].name, c.A)
    raw.answer = list(sets)
    return raw


@pytest.mark.parametrize(("owner", "target", "fits"), [
    ("x.dn.example.", "x.home.example.", True),
    ("X.dn.Example.", "x.HOME.example.", True),
    ("a.b.dn.example.", "a.b.home.example.", True),
    ("dn.example.", "home.example.", False),
    ("x.dn.example.", "y.home.example.", False),
    ("x.dn.example.", "home.example.", False),
    ("xdn.example.", "xhome.example.", False),
    ("x.example.", "x.home.example.", False),
])
def test_what_a_dname_justifies(owner: str, target: str, fits: bool) -> None:
    dname = rr("dn.example. 300 DNAME home.example.")
    cname = rr(f"{owner} 300 CNAME {target}")
    assert (raw_reply(dname, cname).dname_of(cname) is dname) is fits
    assert raw_reply(cname, dname).dname_of(cname) is None
    signed = cname.with_sigs([bytes(30)])
    assert raw_reply(dname, signed).dname_of(signed) is None


def test_a_dname_that_makes_the_name_too_long_gives_no_alias() -> None:
    """RFC 6672 section 2.2: YXDOMAIN, from the servers and from the cache."""
    long = ".".join(["a" * 50] * 4)
    m = world(example=f"into 300 DNAME {long}.home\n")
    for label in ("b" * 40, "c" * 40):
        outcome = m.ask(f"{label}.into.example.")
        assert outcome.rcode == c.YXDOMAIN
        assert [rrset.rtype for rrset in outcome.answer] == [c.DNAME]


@CHAINS
@pytest.mark.parametrize("cd", [False, True])
def test_a_synthesised_alias_is_never_without_its_dname(cd: bool, chain: Nsec3 | None) -> None:
    """However often the DNAME applies, and in whatever order the names of the chain are asked for."""
    m = world(chain, example="ring 300 DNAME a.ring2\nring2 300 DNAME ring\na.a.a.ring2 300 A 192.0.2.8\n" + TWICE)
    asked = ("x.again.example.", "y.into.example.", "x.deep.again2.example.", "x.ring.example.", "x.into.example.")
    for _ in range(2):
        for name in asked:
            for rtype in ("A", "CNAME", "MX"):
                assert_dnames_shown(m.ask(name, rtype, cd=cd))
        for owner, rtype, _, rrset in list(m.store.rrsets.walk(m.net.time())):
            if rtype == c.CNAME:
                assert rrset is not None
                assert rrset.sig_len, names.to_text(owner)


def assert_dnames_shown(outcome: Outcome) -> None:
    """Each unsigned CNAME of the signed zone has its DNAME, with a signature and no lower TTL, before it."""
    seen: list[RRset] = []
    for rrset in outcome.answer:
        if rrset.rtype == c.DNAME:
            assert rrset.sig_len
            seen.append(rrset)
        if rrset.rtype == c.CNAME and not rrset.sig_len:
            makers = [one for one in seen if names.is_subdomain(rrset.name, one.name)]
            assert makers, outcome.answer
            assert rrset.ttl <= max(one.ttl for one in makers)


@CHAINS
def test_dname_that_applies_twice_in_one_reply(chain: Nsec3 | None) -> None:
    """The server gives the DNAME once and two CNAMEs that are made from it."""
    m = world(chain, example="twice 300 DNAME into2\nx.into2 300 CNAME y.twice\ny.into2 300 A 192.0.2.1\n")
    outcome = m.ask("x.twice.example.")
    assert outcome.verdict == Verdict.SECURE
    assert [rrset.rtype for rrset in outcome.answer] == [c.DNAME, c.CNAME, c.CNAME, c.CNAME, c.A]
    for name in ("y.twice.example.", "x.twice.example."):
        assert m.store.rrsets.find(names.from_text(name), c.CNAME, m.net.time()) is None
        outcome = m.ask(name)
        assert outcome.verdict == Verdict.SECURE
        assert_dnames_shown(outcome)
    m = world(chain, example="twice 300 DNAME into2\nx.into2 300 CNAME y.twice\ny.into2 300 A 192.0.2.1\n")
    raise_ttls(m, {c.DNAME, c.CNAME})
    for _ in range(2):
        assert most_ttl(m.ask("x.twice.example.")) <= 300


def raise_ttls(m: Minet, types: set[int]) -> None:
    set_ttls(m, types, 80_000)


def set_ttls(m: Minet, types: set[int], ttl: int) -> None:
    """Let the servers of example. give sets of these types with another TTL than they were signed with."""
    true = m.net.hosts[EXAMPLE_IP]

    def host(packet: bytes, tcp: bool) -> bytes | None:
        view = MessageView.parse(true(packet, tcp) or b"")

        def changed(sets: Iterable[RRset]) -> list[RRset]:
            return [one.with_ttl(ttl) if one.rtype in types else one for one in sets]

        return reply(packet, changed(view.answer), changed(view.authority), list(view.additional), rcode=view.rcode,
                     flags=c.AA if view.aa else 0)

    m.net.hosts[EXAMPLE_IP] = host
