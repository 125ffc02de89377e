"""Signed records at names expanded from a wildcard: no delegation and no proof (RFC 4035 section 5.3.4, RFC 4592 4).

The zone has wildcards with DS, NS and NSEC records. The attacker, who has no key of the zone, sends them with owner
names that exist, where their signatures are as valid as at the wildcard.
"""

import pytest
from support.forger import EXAMPLE_IP, SOA, attack, forge, world
from support.minet import Minet, addresses, reply
from support.signing import Nsec3, ZoneKey, sign_zone

from resolver.cached_replies import WILDCARD_PROOF
from resolver.playground.authority import Authority
from resolver.playground.zones import Zone
from resolver.validate import nsec, nsec3
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

CHAINS = pytest.mark.parametrize("chain", [None, Nsec3()], ids=["nsec", "nsec3"])
EVIL_IP = "203.0.113.66"
EVIL_KEY = ZoneKey("x.many.example.", label="evil")
ZONE = f"*.many 300 DS {EVIL_KEY.ds()}\nx.many 300 A 192.0.2.81\n*.cut 300 NS ns.plain.\na.b.cut 300 A 192.0.2.82\n"
EVIL = SOA + f"@ 300 NS ns\nns 300 A {EVIL_IP}\n@ 300 A {EVIL_IP}\nwww 300 A {EVIL_IP}\n"


def true(minet: Minet, qname: str, rtype: int) -> MessageView:
    """The replies of the servers of example."""
    packet = make_query(1, names.from_text(qname), rtype, edns_payload=4096, do=True)
    return MessageView.parse(minet.net.hosts[EXAMPLE_IP](packet, True))


def moved(minet: Minet, owner: str, rtype: int, to: str) -> RRset:
    """A genuine set of the zone under another name."""
    view = true(minet, owner, rtype)
    (found,) = [rrset for rrset in (*view.answer, *view.authority)
                if rrset.rtype == rtype and names.equal(rrset.name, names.from_text(owner))]
    assert found.sig_len
    return found.with_name(names.from_text(to))


def evil_zone(minet: Minet) -> None:
    """The forger's zone x.many.example., signed by the key that the wildcard's DS names."""
    signed = Authority([Zone.from_text("x.many.example.", sign_zone("x.many.example.", EVIL, [EVIL_KEY]))])
    minet.net.hosts[EVIL_IP] = lambda packet, tcp: signed.answer(packet, tcp=tcp)


@CHAINS
@pytest.mark.parametrize("qname", ["x.many.example.", "www.x.many.example."])
def test_ds_in_a_referral(chain: Nsec3 | None, qname: str) -> None:
    minet = world(chain, example=ZONE)
    evil_zone(minet)
    ds = moved(minet, "*.many.example.", c.DS, "x.many.example.")

    def refer(name: str, rtype: int, packet: bytes) -> bytes | None:
        if not name.endswith("x.many.example.") or (rtype == c.DS and name == "x.many.example."):
            return None
        return reply(packet, [], ["x.many.example. 300 NS ns.x.many.example.", ds],
                     [f"ns.x.many.example. 300 A {EVIL_IP}"], flags=0)

    forge(minet, EXAMPLE_IP, refer)
    for _ in range(2):
        outcome = minet.ask(qname)
        assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS), outcome


@CHAINS
@pytest.mark.parametrize("proof", ["none", "of another name"])
def test_ds_as_the_answer(chain: Nsec3 | None, proof: str) -> None:
    minet = world(chain, example=ZONE)
    evil_zone(minet)
    ds = moved(minet, "*.many.example.", c.DS, "x.many.example.")
    proofs = [] if proof == "none" else [
        rrset for rrset in true(minet, "y.many.example.", c.A).authority if rrset.rtype in (c.NSEC, c.NSEC3)]

    def answer(name: str, rtype: int, packet: bytes) -> bytes | None:
        if (name, rtype) == ("x.many.example.", c.DS):
            return reply(packet, [ds], proofs)
        if not name.endswith("x.many.example."):
            return None
        return reply(packet, [], ["x.many.example. 300 NS ns.x.many.example."],
                     [f"ns.x.many.example. 300 A {EVIL_IP}"], flags=0)

    forge(minet, EXAMPLE_IP, answer)
    for rtype in ("DS", "A", "DS"):
        outcome = minet.ask("x.many.example.", rtype)
        assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS), outcome


@CHAINS
def test_ds_of_a_name_that_only_the_wildcard_makes(chain: Nsec3 | None) -> None:
    """It may be shown, with its proof; that proof says that the name has no NS, so no zone begins there."""
    minet = world(chain, example=ZONE.replace("x.many 300 A", "other 300 A"))
    evil_zone(minet)
    outcome = minet.ask("x.many.example.", "DS")
    assert (outcome.rcode, outcome.verdict, outcome.answer[0].rtype) == (c.NOERROR, Verdict.SECURE, c.DS)

    def refer(name: str, rtype: int, packet: bytes) -> bytes | None:
        if not name.endswith("x.many.example.") or rtype == c.DS:
            return None
        return reply(packet, [], ["x.many.example. 300 NS ns.x.many.example."],
                     [f"ns.x.many.example. 300 A {EVIL_IP}"], flags=0)

    forge(minet, EXAMPLE_IP, refer)
    for name in ("x.many.example.", "www.x.many.example."):
        outcome = minet.ask(name)
        assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS) or (
            chain is None and outcome.verdict == Verdict.SECURE and not outcome.answer), outcome  # known from its NSEC


def test_nsec_in_a_denial_of_ds() -> None:
    """The NSEC of a wildcard with NS, under an empty non-terminal: that would be an insecure delegation."""
    minet = world(example=ZONE)
    proof = moved(minet, "*.cut.example.", c.NSEC, "b.cut.example.")
    denial = [*true(minet, "b.cut.example.", c.DS).authority, proof]
    assert len(denial) == 3

    def deny(name: str, rtype: int, packet: bytes) -> bytes | None:
        if (name, rtype) == ("b.cut.example.", c.DS):
            return reply(packet, [], denial)
        return None

    forge(minet, EXAMPLE_IP, deny)
    attack(minet, "a.b.cut.example.", "A")
    outcome = minet.ask("a.b.cut.example.")
    assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS)
    outcome = minet.ask("b.cut.example.", "DS")
    assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.SECURE)
    assert all(not names.equal(rrset.name, names.from_text("b.cut.example.")) for rrset in outcome.authority)


@CHAINS
def test_expanded_records_are_not_accepted_as_proofs(chain: Nsec3 | None) -> None:
    """The function checks the label count itself: here the signature has one label less than the owner."""
    proofs = [one for one in true(world(chain), "none.example.", c.A).authority if one.rtype in (c.NSEC, c.NSEC3)]
    assert proofs
    zone = names.from_text("example.")
    for proof in proofs:
        read = nsec.read if chain is None else nsec3.read
        expanded = proof.with_sigs([rdata[:3] + bytes([rdata[3] - 1]) + rdata[4:] for rdata in proof.sigs()])
        assert len(read(proof, zone)) == 1
        assert read(expanded, zone) == []


def test_an_expanded_nsec_is_not_used_for_synthesis() -> None:
    """Stored for other names (RFC 8198), it would deny what the zone has at the name."""
    minet = world(example="*.wild2 300 TXT x\nb.wild2 300 A 192.0.2.83\nc.wild2 300 A 192.0.2.84\n")
    proof = moved(minet, "*.wild2.example.", c.NSEC, "bb.wild2.example.")
    others = list(true(minet, "b.wild2.example.", c.MX).authority)
    forge(minet, EXAMPLE_IP, lambda name, rtype, packet:
          reply(packet, [], [*others, proof]) if (name, rtype) == ("b.wild2.example.", c.MX) else None)
    outcome = minet.ask("b.wild2.example.", "MX")
    assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.SECURE)
    outcome = minet.ask("bb.wild2.example.", "TXT")
    assert (outcome.rcode, outcome.verdict, len(outcome.answer)) == (c.NOERROR, Verdict.SECURE, 1)
    assert minet.ask("c.wild2.example.").answer


def test_a_set_expanded_to_a_wildcard_name_is_not_the_wildcard() -> None:
    """Asked for ``*.b.example``, the server expands ``*.example`` to it. That shows no name above it to exist."""
    minet = world(Nsec3(), example="* 300 TXT any\nb2 300 A 192.0.2.85\n")
    for number in range(40):  # all spans of the zone
        minet.ask(f"n{number}.example.", "MX")
    first = minet.ask("*.b.example.", "TXT")
    assert (first.rcode, first.verdict) == (c.NOERROR, Verdict.SECURE)
    closer = names.from_text("b.example.")
    for word in ("x", "y", "z"):
        outcome = minet.ask(f"{word}.b.example.", "TXT")
        assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.SECURE)
        digest = _hash(closer)
        records = [nsec3.parse(rrset.name, rrset.rdata(0), names.from_text("example.")) for rrset in outcome.authority
                   if rrset.rtype == c.NSEC3]
        assert any(record is not None and record.covers(digest) for record in records)


def _hash(name: bytes) -> bytes:
    from resolver.effects import Budget
    from resolver.validate.crypto_budget import hash_name

    return hash_name(Budget(1, 1e9, 100), name, b"", 0, most=0)


def test_the_zone_may_show_its_own_nsec() -> None:
    """As an answer, an expanded NSEC is data as any other (RFC 4592 section 4.8)."""
    minet = world(example="*.wild2 300 TXT x\n")
    proof = moved(minet, "*.wild2.example.", c.NSEC, "y.wild2.example.")
    cover = list(true(minet, "y.wild2.example.", c.TXT).authority)
    forge(minet, EXAMPLE_IP, lambda name, rtype, packet:
          reply(packet, [proof], cover) if (name, rtype) == ("y.wild2.example.", c.NSEC) else None)
    outcome = minet.ask("y.wild2.example.", "NSEC")
    assert (outcome.rcode, outcome.verdict) == (c.NOERROR, Verdict.SECURE)


# --- for those who check themselves -------------------------------------------------------------------------------


@CHAINS
def test_with_cd_an_expanded_wildcard_is_cached_no_longer_than_its_proof(chain: Nsec3 | None) -> None:
    minet = world(chain, example="*.broad 86400 A 192.0.2.80\n")
    first = minet.ask("a.broad.example.", cd=True)
    assert first.answer[0].sig_len
    assert first.authority
    least = min(proof.ttl for proof in first.authority)
    assert first.answer[0].ttl == least < 86400
    for wait in (least - 1, 2, 3 * least):
        minet.net.sleep(minet.mesh, wait)
        later = minet.ask("a.broad.example.", cd=True)
        assert later.answer[0].sig_len
        assert later.authority, f"no proof after {wait} seconds more"
        assert later.answer[0].ttl <= min(proof.ttl for proof in later.authority)


@pytest.mark.parametrize("validated", [False, True])
def test_an_expanded_wildcard_without_cached_proof_is_fetched_again(validated: bool) -> None:
    minet = world(None, example="*.broad 300 A 192.0.2.80\n")
    assert minet.ask("a.broad.example.", cd=not validated).answer
    minet.store.rrsets.drop(names.from_text("a.broad.example."), WILDCARD_PROOF)
    before = len(minet.net.log)
    outcome = minet.ask("a.broad.example.", cd=True)
    assert outcome.authority
    assert len(minet.net.log) > before


@CHAINS
@pytest.mark.parametrize("soa", ["unsigned.example.", "example.", ""])
@pytest.mark.parametrize("rcode", [c.NXDOMAIN, c.NOERROR])
@pytest.mark.parametrize("negative", [(), ("unsigned.example.",)], ids=["unsigned", "negative anchor"])
def test_alias_with_a_denial_of_its_unsigned_target(
    chain: Nsec3 | None, rcode: int, soa: str, negative: tuple[str, ...]
) -> None:
    """Whatever the zone of the target is, the expansion of the alias needs a proof of its own."""
    minet = world(chain, example="*.exp 300 CNAME nothing.unsigned\nwww.exp 300 A 192.0.2.83\n", negative=negative)
    real = minet.net.hosts[EXAMPLE_IP]
    alias = true(minet, "q.exp.example.", c.A).answer[0].with_name(names.from_text("www.exp.example."))
    assert alias.rtype == c.CNAME and alias.sig_len
    denial = [f"{soa} 300 SOA ns.plain. host.plain. 1 2 3 4 300"] if soa else []
    forge(minet, EXAMPLE_IP, lambda name, rtype, packet: reply(packet, [alias], denial, rcode=rcode)
          if name == "www.exp.example." else None)
    outcome = minet.ask("www.exp.example.")
    assert (outcome.rcode, outcome.verdict) == (c.SERVFAIL, Verdict.BOGUS), outcome
    minet.net.hosts[EXAMPLE_IP] = real
    minet.net.sleep(minet.mesh, 120)
    outcome = minet.ask("www.exp.example.")
    assert (outcome.verdict, addresses(outcome)) == (Verdict.SECURE, ["192.0.2.83"])


@CHAINS
def test_the_true_alias_with_a_denial_of_its_unsigned_target(chain: Nsec3 | None) -> None:
    minet = world(chain, example="*.exp 300 CNAME nothing.unsigned\n")
    outcome = minet.ask("q.exp.example.")
    assert (outcome.rcode, outcome.verdict) == (c.NXDOMAIN, Verdict.INSECURE)
    assert [rrset.verdict for rrset in outcome.answer] == [Verdict.SECURE]


@CHAINS
@pytest.mark.parametrize("denied", [False, True])
def test_an_expansion_is_bogus_for_what_is_wrong_with_its_proof(chain: Nsec3 | None, denied: bool) -> None:
    """Also when the same reply denies the target of the alias."""
    minet = world(chain, example=f"*.exp 300 CNAME {'nothing.unsigned' if denied else 'www'}\n")
    view = true(minet, "q.exp.example.", c.A)
    alias = next(rrset for rrset in view.answer if rrset.rtype == c.CNAME)
    proofs = [rrset.with_sigs([sig[:-1] + bytes([sig[-1] ^ 1]) for sig in rrset.sigs()]) for rrset in view.authority
              if rrset.rtype in (c.NSEC, c.NSEC3)]
    assert proofs and alias.sig_len
    denial = ["unsigned.example. 300 SOA ns.plain. host.plain. 1 2 3 4 300"] if denied else []
    forge(minet, EXAMPLE_IP, lambda name, rtype, packet: reply(
        packet, [alias], [*denial, *proofs], rcode=c.NXDOMAIN if denied else c.NOERROR
    ) if name == "q.exp.example." else None)
    failure = minet.ask("q.exp.example.").failure
    assert failure is not None
    assert (failure.verdict, failure.ede) == (Verdict.BOGUS, c.EDE_DNSSEC_BOGUS), failure.text


@pytest.mark.parametrize("iterations", [50, 51])
@pytest.mark.parametrize("qname", ["x.example.", "x.a.example.", "y.x.a.example."])
def test_an_alias_expanded_with_too_many_iterations_is_insecure(iterations: int, qname: str) -> None:
    """The reply for DS is the same alias, and does not make the name bogus (RFC 9276 section 3.2)."""
    minet = world(Nsec3(iterations), example="* 300 CNAME target\n*.a 300 CNAME target\ntarget 300 A 192.0.2.90\n")
    outcome = minet.ask(qname)
    assert addresses(outcome) == ["192.0.2.90"]
    assert outcome.verdict == (Verdict.SECURE if iterations == 50 else Verdict.INSECURE), outcome
