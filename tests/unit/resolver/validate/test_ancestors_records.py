"""Records of a zone prove nothing about names below a secure delegation from it, not even by too many iterations.

``com.`` is signed with NSEC3 and too many iterations, so what it denies is insecure (RFC 9276 section 3.2).
``victim.com.`` below it is signed and has a DS set. An on-path attacker has no keys, but the valid SOA and NSEC3
records that com's servers sent for other names. With them the attacker denies names of ``victim.com.`` (RFC 4035
section 5.2, RFC 5155 section 8.9).
"""

from collections.abc import Callable
from itertools import pairwise

import pytest
from support import minet
from support.signed_net import Crypto
from support.signing import Nsec3, ZoneKey, sign_zone

from resolver import limits
from resolver.effects import Budget, Outcome, Question, TraceStep
from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.settings import DnssecSettings, Settings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

COM, VICTIM = "192.0.2.1", "192.0.2.2"
FORGED = "203.0.113.66"
SOA = "@ 3600 SOA ns host 1 7200 3600 86400 300\n@ 3600 NS ns\n"
DENIALS = (c.NSEC, c.NSEC3)
COSTLY = limits.NSEC3_ITERATIONS.default + 1

Script = Callable[[str, int, bytes, list[RRset]], bytes | None]


class Path:
    """The genuine zones, and the records that the attacker takes from them."""

    def __init__(self, iterations: int | None = COSTLY, everywhere: str = 'TXT "anything"') -> None:
        """`iterations` of com's hashes; None for NSEC. `everywhere`: what com's wildcard has."""
        root, com, victim = ZoneKey("."), ZoneKey("com."), ZoneKey("victim.com.")
        top = (
            "@ 86400 SOA a.root. nobody.root. 1 1800 900 604800 900\n@ 518400 NS a.root.\n"
            f"a.root. 518400 A {minet.ROOT_ADDRESS}\ncom. 3600 NS ns.com.\nns.com. 3600 A {COM}\n"
            f"com. 3600 DS {com.ds()}\n"
        )
        text = SOA + (
            f"ns 3600 A {COM}\nvictim 3600 NS ns.victim\nns.victim 3600 A {VICTIM}\nvictim 3600 DS {victim.ds()}\n"
            f"plain 3600 NS ns.victim\n*.wild 300 A 192.0.2.7\n* 300 {everywhere}\n"
        )
        hosts = SOA + f"ns 3600 A {VICTIM}\nwww 300 A 192.0.2.80\n"
        self.com = sign_zone("com.", text, [com], nsec3=None if iterations is None else Nsec3(iterations, "ab"))
        self.zones = {
            minet.ROOT_ADDRESS: [(".", sign_zone(".", top, [root]))],
            COM: [("com.", self.com)],
            VICTIM: [("victim.com.", sign_zone("victim.com.", hosts, [victim])),
                     ("plain.com.", SOA + f"ns 3600 A {VICTIM}\nwww 300 A 192.0.2.90\n")],
        }
        self.settings = Settings(dnssec=DnssecSettings(trust_anchors=(root.anchor(),)))
        self.authority = Authority([Zone.from_text("com.", self.com)])

    def records(self, name: str, rtype: int) -> list[RRset]:
        """What com's servers say, signatures included, in the authority section of a reply."""
        query = make_query(1, names.from_text(name), rtype, edns_payload=4096, do=True)
        packet = self.authority.answer(query, tcp=True)
        assert packet is not None
        return [one for one in MessageView.parse(packet).authority if one.rtype in (c.SOA, *DENIALS)]

    def net(self, lie: Script | None = None) -> minet.Minet:
        """The resolver, and `lie` on the path to com's servers; what it makes no reply to is answered truly."""
        m = minet.build(self.zones, settings=self.settings, crypto=Crypto())
        if lie is not None:
            proof = self.records("com.", c.TXT)
            assert any(one.rtype in DENIALS and one.sig_len for one in proof)

            def host(packet: bytes, tcp: bool) -> bytes | None:
                view = MessageView.parse(packet)
                lied = lie(names.to_text(names.lower(view.qname or names.ROOT)), view.qtype, packet, proof)
                return lied or self.authority.answer(packet, tcp=tcp)

            m.net.hosts[COM] = host
        return m


def proves_nodata(packet: bytes, proof: list[RRset]) -> bytes:
    return minet.reply(packet, [], proof)


def unsigned_answer(name: str, qtype: int, packet: bytes, proof: list[RRset]) -> bytes | None:
    """No zone begins at the victim's name, and below it stands an address of the forger's."""
    if name == "www.victim.com." and qtype == c.A:
        return minet.reply(packet, [f"www.victim.com. 86400 A {FORGED}"])
    return (
        proves_nodata(packet, proof)
        if name.endswith("victim.com.") and (name, qtype) != ("victim.com.", c.DS)
        else None
    )


def proves_nxdomain(name: str, qtype: int, packet: bytes, proof: list[RRset]) -> bytes | None:
    if name == "www.victim.com.":
        return minet.reply(packet, [], proof, rcode=c.NXDOMAIN)
    return proves_nodata(packet, proof) if (name, qtype) == ("victim.com.", c.A) else None


def nothing_there(name: str, qtype: int, packet: bytes, proof: list[RRset]) -> bytes | None:
    if name == "victim.com." and qtype == c.DS:
        return None
    return proves_nodata(packet, proof) if name.endswith("victim.com.") else None


OWN = ZoneKey("www.victim.com.")
OWN_ZONE = Authority([Zone.from_text("www.victim.com.", sign_zone(
    "www.victim.com.", SOA + f"ns 300 A {FORGED}\n@ 300 A {FORGED}\n", [OWN]))])


def keys_of_his_own(name: str, qtype: int, packet: bytes, proof: list[RRset]) -> bytes | None:
    """A zone of the attacker at the name itself, signed with keys that no DS set confirms."""
    if name == "www.victim.com." and qtype in (c.A, c.DNSKEY):
        return OWN_ZONE.answer(packet, tcp=True)
    return unsigned_answer(name, qtype, packet, proof)


@pytest.mark.parametrize("iterations", [None, 0, COSTLY])
def test_genuine_replies_have_their_verdicts(iterations: int | None) -> None:
    m = Path(iterations).net()
    outcome = m.ask("www.victim.com.")
    assert (minet.addresses(outcome), outcome.verdict) == (["192.0.2.80"], Verdict.SECURE)
    outcome = m.ask("www.plain.com.")
    assert (minet.addresses(outcome), outcome.verdict) == (["192.0.2.90"], Verdict.INSECURE)


def test_what_the_zone_itself_denies_is_insecure() -> None:
    """The limit on iterations stays what it is for names that are the zone's own, wildcards included."""
    m = Path().net()
    outcome = m.ask("ns.com.", "TXT")
    assert (outcome.rcode, outcome.verdict, outcome.failure) == (c.NOERROR, Verdict.INSECURE, None)
    outcome = m.ask("x.wild.com.")
    assert (minet.addresses(outcome), outcome.verdict) == (["192.0.2.7"], Verdict.INSECURE)
    outcome = m.ask("victim.com.", "DS")
    assert outcome.verdict == Verdict.SECURE
    outcome = m.ask("plain.com.", "DS")
    assert (outcome.rcode, outcome.verdict, outcome.failure) == (c.NOERROR, Verdict.INSECURE, None)


@pytest.mark.parametrize(("forged", "rcode", "verdict"), [
    (False, c.NOERROR, Verdict.INSECURE), (True, c.SERVFAIL, Verdict.BOGUS),
], ids=["not obtained", "forged"])
def test_too_many_iterations_are_insecure_also_when_the_ds_set_cannot_be_obtained(
    forged: bool, rcode: int, verdict: Verdict
) -> None:
    """But not when the reply about it was found wrong."""
    unsigned = "com. 300 SOA ns.com. host.com. 1 7200 3600 86400 300"

    def lie(name: str, qtype: int, packet: bytes, proof: list[RRset]) -> bytes | None:
        if (name, qtype) != ("nothing.com.", c.DS):
            return None
        return minet.reply(packet, [], [unsigned]) if forged else minet.reply(packet, rcode=c.SERVFAIL)

    outcome = Path().net(lie).ask("nothing.com.", "MX")
    assert (outcome.rcode, outcome.verdict) == (rcode, verdict)


@pytest.mark.parametrize("rcode", [c.NOERROR, c.NXDOMAIN])
def test_too_many_iterations_count_for_nothing_below_a_zone_known_to_be_signed(rcode: int) -> None:
    """The DS query for the name itself gets no answer, and the cache has the DS set of the zone above it."""
    def lie(name: str, qtype: int, packet: bytes, proof: list[RRset]) -> bytes | None:
        if name == "www.victim.com.":
            no_ds = minet.reply(packet, rcode=c.SERVFAIL)
            return no_ds if qtype == c.DS else minet.reply(packet, [], proof, rcode=rcode)
        return proves_nodata(packet, proof) if (name, qtype) == ("victim.com.", c.A) else None

    m = Path().net(lie)
    assert m.ask("victim.com.", "DS").verdict == Verdict.SECURE
    outcome = m.ask("www.victim.com.")
    assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS)


def test_an_alias_of_a_wildcard_answers_for_a_ds_set() -> None:
    """The zones above the name decide which zone proves it: querying the DS set of the name itself would be
    circular."""
    outcome = Path(everywhere="CNAME victim").net().ask("x.com.", "DS")
    assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.INSECURE)
    assert [one.rtype for one in outcome.answer] == [c.CNAME, c.DS]


@pytest.mark.parametrize("iterations", [None, 0, COSTLY])
@pytest.mark.parametrize("lie", [unsigned_answer, proves_nxdomain, nothing_there, keys_of_his_own])
@pytest.mark.parametrize("warm", [False, True])
def test_an_ancestors_records_hide_no_secure_delegation(lie: Script, iterations: int | None, warm: bool) -> None:
    m = Path(iterations).net(lie)
    if warm:
        m.ask("victim.com.", "DS")
    for _ in range(2):
        outcome = m.ask("www.victim.com.")
        assert FORGED not in minet.addresses(outcome)
        assert outcome.verdict in (Verdict.SECURE, Verdict.BOGUS, Verdict.INDETERMINATE)
        if outcome.verdict == Verdict.SECURE:
            assert minet.addresses(outcome) == ["192.0.2.80"]  # the real servers were found anyway
        else:
            assert outcome.rcode == c.SERVFAIL
    denied = m.ask("www.victim.com.", "DS")
    assert denied.verdict != Verdict.INSECURE


@pytest.mark.parametrize("name", ["victim.com.", "www.victim.com.", "x.www.victim.com."])
@pytest.mark.parametrize("rtype", ["A", "TXT", "DS", "DNSKEY"])
def test_an_ancestor_denies_nothing_below_its_secure_delegation(name: str, rtype: str) -> None:
    m = Path().net(nothing_there)
    if (name, rtype) == ("victim.com.", "DS"):
        return
    assert m.ask(name, rtype).verdict != Verdict.INSECURE


def test_a_wildcard_of_an_ancestor_answers_for_no_name_below() -> None:
    """Its expansion is as genuine as its records of denial are, and com is not in charge of the name."""
    path = Path()
    query = make_query(1, names.from_text("x.com."), c.TXT, edns_payload=4096, do=True)
    packet = path.authority.answer(query, tcp=True)
    assert packet is not None
    view = MessageView.parse(packet)
    expanded = next(one for one in view.answer if one.rtype == c.TXT)
    assert expanded.sig_len

    def lie(name: str, qtype: int, packet: bytes, proof: list[RRset]) -> bytes | None:
        if name == "www.victim.com." and qtype == c.TXT:
            return minet.reply(packet, [expanded.with_name(names.from_text(name))], list(view.authority))
        return proves_nodata(packet, proof) if name == "victim.com." and qtype == c.A else None

    outcome = path.net(lie).ask("www.victim.com.", "TXT")
    assert not outcome.answer
    assert outcome.verdict != Verdict.INSECURE


@pytest.mark.parametrize(("upper", "verdict"), [("com.", Verdict.INSECURE), ("victim.com.", Verdict.INDETERMINATE)])
def test_the_absence_of_a_ds_is_proved_by_the_authoritative_zone(upper: str, verdict: Verdict) -> None:
    """Also when the reply was validated before under other rules: cached data is checked again."""
    path = Path()
    chain = path.net().mesh.validation.chain
    question = Question(names.from_text("www.victim.com."), c.DS)
    records = path.records("com.", c.TXT)
    for record in records:
        record.verdict = Verdict.SECURE
    outcome = Outcome(question, c.NOERROR, [], records, Verdict.INSECURE, 60)
    found = chain._ds_status(Budget(1, 1e9), question.qname, names.from_text(upper), outcome)
    assert found is not None and found.verdict == verdict


# --- one look for many sets ---------------------------------------------------------------------------------------

DEEP = 90
EVIL = "192.0.2.1"


def deep_world(cut: str) -> minet.Minet:
    """``evil.`` is signed, and has an unsigned zone far below it."""
    root, evil = ZoneKey("."), ZoneKey("evil.")
    top = (
        "@ 86400 SOA a.root. nobody.root. 1 1800 900 604800 900\n@ 518400 NS a.root.\n"
        f"a.root. 518400 A {minet.ROOT_ADDRESS}\nevil. 3600 NS ns.evil.\nns.evil. 3600 A {EVIL}\n"
        f"evil. 3600 DS {evil.ds()}\n"
    )
    text = f"@ 3600 SOA ns host 1 7200 3600 86400 3600\n@ 3600 NS ns\nns 3600 A {EVIL}\n{cut} 3600 NS ns.evil.\n"
    zones = {minet.ROOT_ADDRESS: [(".", sign_zone(".", top, [root]))],
             EVIL: [("evil.", sign_zone("evil.", text, [evil]))]}
    settings = Settings(dnssec=DnssecSettings(trust_anchors=(root.anchor(),)))
    return minet.build(zones, settings=settings, crypto=Crypto())


@pytest.mark.parametrize("sets", [1, 13])
def test_the_zone_cut_where_signatures_end_is_found_once(sets: int, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = ".".join(["i"] + ["a"] * DEEP + ["evil."])
    m = deep_world(cut)
    honest = m.net.hosts[EVIL]

    def host(packet: bytes, tcp: bool) -> bytes | None:
        view = MessageView.parse(packet)
        name = names.to_text(names.lower(view.qname or names.ROOT))
        if name.startswith("r") and name.endswith(cut) and view.qtype == c.A:
            owners = [name, *(f"c{number}.{cut}" for number in range(sets - 1))]
            chain = [f"{one} 0 CNAME {other}" for one, other in pairwise(owners)]
            return minet.reply(packet, [*chain, f"{owners[-1]} 0 A 192.0.2.9"])
        return honest(packet, tcp)

    m.net.hosts[EVIL] = host
    m.ask(f"r0.{cut}")
    steps: list[TraceStep] = []
    outcome = m.ask(f"r1.{cut}", trace=steps)
    assert outcome.rcode == c.NOERROR and len(outcome.answer) == sets
    assert outcome.verdict == Verdict.INSECURE
    looks = [step for step in steps if step.kind == "ds"]
    assert 0 < len(looks) <= DEEP + 2
