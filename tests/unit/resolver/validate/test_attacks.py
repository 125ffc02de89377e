"""Known attacks on DNSSEC validation. Each must be detected, or cost little.

Each test fails when the check against its attack is removed. The zones are those of `test_validate`: a signed
root, ``example.`` signed below it, ``plain.`` unsigned.
"""

import struct
from collections.abc import Callable

import dns.dnssec
import dns.name
import dns.rdata
import dns.rrset
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from support.signing import ECDSAP256, Nsec3, ZoneKey, sign_zone, spoiled
from support.tree import Tree

from resolver.playground import Authority, Zone
from resolver.validate import Validator, nsec, nsec3, verify
from resolver.validate import chain as chain_module
from resolver.validate.anchors import Anchors
from resolver.validate.records import Dnskey
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.build import make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

SOA = "@ 3600 SOA ns.example. host.example. 1 7200 3600 86400 300\n"
NS = "@ 3600 NS ns\nns 300 A 192.0.2.53\n"
CHILD = SOA + NS + "www 300 A 192.0.2.1\n*.wild 300 A 192.0.2.7\nplain 300 NS ns.plain\nns.plain 300 A 192.0.2.9\n"
ROOT = (
    ". 3600 SOA a. b. 1 2 3 4 300\n. 3600 NS a.root.\na.root. 3600 A 127.0.0.1\nexample. 3600 NS ns.example.\n"
    "ns.example. 3600 A 192.0.2.53\nplain. 3600 NS ns.plain.\nns.plain. 300 A 192.0.2.54\n"
)
KEY = ZoneKey("example.")
ROOT_KEY = ZoneKey(".")
EVIL = ZoneKey("example.", label="evil")

Edit = Callable[..., tuple[int, list[RRset], list[RRset]]]


def build(
    *,
    child: str = CHILD,
    keys: list[ZoneKey] | None = None,
    nsec3_chain: Nsec3 | None = None,
    ds: str = "",
    **zones: str,
) -> Tree:
    """The tree; `zones` are further zones by the first label of ``NAME.example.``."""
    root = ROOT + f"example. 3600 DS {ds or KEY.ds()}\n"
    texts = {
        ".": sign_zone(".", root, [ROOT_KEY]),
        "example.": sign_zone("example.", child, keys or [KEY], nsec3=nsec3_chain),
        "plain.": SOA + NS + "www 300 A 192.0.2.9\n",
    }
    return Tree(texts | {f"{label}.example.": text for label, text in zones.items()}, [ROOT_KEY.anchor()])


def only_for(qname: str, qtype: int, change: Callable[[MessageView], tuple[int, list[RRset], list[RRset]]]) -> Edit:
    """Change the reply to one question and leave all others as they are."""

    def edit(question, view, answer, authority):
        if question.qtype == qtype and names.equal(question.qname, names.from_text(qname)):
            return change(view)
        return view.rcode, answer, authority

    return edit


def authority_of(tree: Tree, zone: str, qname: str, qtype: int) -> list[RRset]:
    """The authority section of the reply of the servers of `zone`."""
    query = make_query(1, names.from_text(qname), qtype, edns_payload=4096, do=True)
    packet = tree.zones[names.from_text(zone)].answer(query, tcp=True)
    assert packet is not None
    return list(MessageView.parse(packet).authority)


def signed_by(key: ZoneKey, owner: str, text: str, *, signer: str | None = None, ttl: int = 300) -> RRset:
    """An RRset of one record, signed by `key`. `text`: type and rdata. `signer`: signer name, else that of the key."""
    rtype, rdata = text.split(None, 1)
    made = dns.rrset.RRset(dns.name.from_text(owner), 1, dns.rdatatype.from_text(rtype))
    made.add(dns.rdata.from_text("IN", rtype, rdata), ttl)
    number = c.type_from_text(rtype)
    sig = key.sign(made, signer=signer).to_wire()
    return RRset(names.from_text(owner), number, ttl, [present.rdata_from_text(number, rdata)], sigs=[sig])


# --- which zone may sign --------------------------------------------------------------------------------------------


def test_a_dnskey_record_does_not_make_a_name_a_zone_apex() -> None:
    """The attacker answers DNSKEY for ``www.example.`` with a key of his own and signs with it."""
    tree = build()
    attacker_key = ZoneKey("www.example.", label="evil")
    forged = signed_by(attacker_key, "www.example.", "A 203.0.113.66")
    keys = signed_by(attacker_key, "www.example.", f"DNSKEY {attacker_key.dnskey.to_text()}")

    def edit(question, view, answer, authority):
        if names.equal(question.qname, names.from_text("www.example.")) and question.qtype in (c.A, c.DNSKEY):
            return c.NOERROR, [forged if question.qtype == c.A else keys], []
        return view.rcode, answer, authority

    tree.edit = edit
    got = tree.validate("www.example.", c.A)
    assert got.verdict is Verdict.BOGUS
    assert "is not a zone" in got.text


def test_signer_above_the_anchor_makes_nothing_insecure() -> None:
    """Only ``example.`` has a trust anchor. A signature with the root as signer must not be accepted."""
    tree = build()
    tree.validator = Validator(Anchors([KEY.anchor()]))
    forged = signed_by(ROOT_KEY, "www.example.", "A 203.0.113.66")
    tree.edit = only_for("www.example.", c.A, lambda view: (view.rcode, [forged], []))
    assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS


def test_unsigned_data_from_servers_of_a_zone_above_the_anchor_is_bogus() -> None:
    tree = build()
    tree.validator = Validator(Anchors([KEY.anchor()]))
    tree.edit = only_for("www.example.", c.A, lambda view: (view.rcode, [r.without_sigs() for r in view.answer], []))
    assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS


def test_the_target_of_an_alias_in_a_negative_trust_anchor_is_validated() -> None:
    """``loose.example.`` is not validated; a reply about it must not bring in unsigned data of ``www.example.``."""
    tree = build(child=CHILD + "loose 300 CNAME www\n")
    tree.validator = Validator(Anchors([ROOT_KEY.anchor()], ["loose.example."]))
    tree.edit = only_for(
        "loose.example.", c.A, lambda view: (view.rcode, [r.without_sigs() for r in view.answer], [])
    )
    assert tree.validate("loose.example.", c.A).verdict is Verdict.BOGUS


def test_unsigned_child_on_the_same_servers_is_insecure() -> None:
    """No attack: the parent's servers answer for an unsigned child, without a referral in between."""
    tree = build()
    address = RRset(names.from_text("www.plain.example."), c.A, 300, [b"\xc0\0\2\x09"])
    tree.edit = only_for("www.plain.example.", c.A, lambda view: (c.NOERROR, [address], []))
    assert tree.validate("www.plain.example.", c.A).verdict is Verdict.INSECURE


def test_denial_by_records_of_an_unsigned_zone_is_bogus() -> None:
    """An NSEC "signed" in the unsigned ``plain.example.`` can be forged; it must deny nothing of ``example.``."""
    tree = build(plain=SOA + NS)
    assert tree.validate("ns.plain.example.", c.A).verdict is Verdict.INSECURE
    fake = signed_by(ZoneKey("plain.example.", label="evil"), "a.plain.example.", "NSEC z.plain.example. A")
    tree.edit = only_for("www.example.", c.A, lambda view: (c.NXDOMAIN, [], [fake]))
    got = tree.validate("www.example.", c.A)
    assert got.verdict is Verdict.BOGUS


# --- limits of work ---------------------------------------------------------------------------------------------------


def test_keytrap_many_signatures() -> None:
    """CVE-2023-50387: a hundred wrong signatures of one key cost eight checks."""
    tree = build()

    def keytrap(view):
        sig = view.answer[0].sigs()[0]
        return view.rcode, [view.answer[0].with_sigs([spoiled(sig, n) for n in range(1, 101)])], []

    tree.edit = only_for("www.example.", c.A, keytrap)
    assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS
    assert tree.checks <= 3 + 8  # 3 for the chain of trust


def test_keytrap_many_malformed_signatures_hide_nothing_and_cost_nothing() -> None:
    """Of 500 RRSIG records only the first 16 are read."""
    tree = build()
    read = []
    signatures = chain_module.signatures

    def reader(rrset, limit):
        found = signatures(rrset, limit)
        read.extend(found)
        return found

    def keytrap(view):
        sig = view.answer[0].sigs()[0]
        expired = sig[:8] + bytes(4) + sig[12:]
        many = [expired[:-2] + n.to_bytes(2, "big") for n in range(500)]
        return view.rcode, [view.answer[0].with_sigs(many)], []

    tree.edit = only_for("www.example.", c.A, keytrap)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chain_module, "signatures", reader)
        assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS
    assert 16 <= len(read) <= 16 + 3


def test_many_signers_cause_few_queries() -> None:
    """Each signer named by an RRSIG is a zone whose keys would have to be fetched."""
    owner = "a." * 40 + "www.example."
    rrset = signed_by(KEY, owner, "A 192.0.2.1")
    signers = ["a." * n + "www.example." for n in range(40)]
    forged = rrset.with_sigs([signed_by(EVIL, owner, "A 192.0.2.1", signer=s).sigs()[0] for s in signers])
    tree = build()
    tree.edit = only_for(owner, c.A, lambda view: (c.NOERROR, [forged], []))
    assert tree.validate(owner, c.A).verdict is Verdict.BOGUS
    asked = {q.qname for q in tree.needs if q.qtype == c.DNSKEY}
    assert len(asked - {names.ROOT, names.from_text("example.")}) <= 2


def test_keytrap_many_keys_of_one_tag() -> None:
    """CVE-2023-50387: keys made to have the same tag; two are tried for each signature."""
    tree = build()
    tree.validate("www.example.", c.A)
    tree.checks = 0
    tag = KEY.tag
    chain = tree.validator.chain
    rrset = _dnskey_set(tree)
    colliding = tuple(
        Dnskey(k.flags, k.protocol, k.algorithm, bytes((n,)) * 64, tag, k.rdata)
        for n in range(50) for k in chain._keys_of(rrset)
    )
    # Parsed keys are cached by the wire form of their DNSKEY RRset.
    chain.parsed.entries[rrset.packed] = colliding
    assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS
    assert tree.checks <= 8


def _dnskey_set(tree: Tree) -> RRset:
    query = make_query(1, names.from_text("example."), c.DNSKEY, edns_payload=4096, do=True)
    packet = tree.zones[names.from_text("example.")].answer(query, tcp=True)
    assert packet is not None
    return MessageView.parse(packet).answer[0]


def test_keytrap_many_ds_that_match_no_key() -> None:
    """CVE-2023-50387: DS digests also cost time. Validation ends after some DS that match a key by tag only."""
    wrong = "\n".join(f"example. 3600 DS {KEY.tag} {ECDSAP256} 2 {n:064x}" for n in range(40))
    tree = build()
    text = ROOT + wrong + "\n"
    tree.zones[names.ROOT] = Authority([_zone(".", sign_zone(".", text, [ROOT_KEY]))])
    got = tree.validate("www.example.", c.A)
    assert got.verdict is Verdict.BOGUS
    assert "too many keys" in got.text


def _zone(origin: str, text: str):
    return Zone.from_text(origin, text)


def test_malformed_keys_count_as_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2025-8677: a key that fits by tag but cannot be loaded counts as a failed check, and is loaded once."""
    loads = []
    load = verify._load
    monkeypatch.setattr(verify, "_load", lambda algorithm, key: loads.append(key) or load(algorithm, key))
    tree = build()

    def keytrap(view):
        sig = view.answer[0].sigs()[0]
        return view.rcode, [view.answer[0].with_sigs([spoiled(sig, n) for n in range(1, 101)])], []

    tree.edit = only_for("www.example.", c.A, keytrap)
    chain = tree.validator.chain
    true_keys = chain._keys_of
    chain._keys_of = lambda rrset: tuple(  # type: ignore[method-assign]
        Dnskey(k.flags, k.protocol, k.algorithm, b"\x05not a point", k.tag, k.rdata)
        if names.equal(rrset.name, names.from_text("example.")) else k
        for k in true_keys(rrset)
    )
    chain.dnskey = _trusting(chain.dnskey)  # type: ignore[method-assign]
    assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS
    assert tree.checks <= 3 + 8
    assert loads.count(b"\x05not a point") == 1


def _trusting(dnskey):
    """Take the key set of ``example.`` as verified, so that only the data's own checks count."""
    from resolver.validate.security_status import SECURE

    def replaced(task, ctx, rrset):
        if names.equal(rrset.name, names.from_text("example.")):
            return SECURE
        return (yield from dnskey(task, ctx, rrset))

    return replaced


def test_nsec3_iterations_make_a_zone_insecure_not_slow() -> None:
    """CVE-2023-50868 and RFC 9276: beyond the limit nothing is hashed for a denial."""
    tree = build(nsec3_chain=Nsec3(500, "aa"))
    calls = []
    digest = nsec3.Prover.digest
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nsec3.Prover, "digest", lambda self, name: calls.append(name) or digest(self, name))
        got = tree.validate("a.b.c.d.e.f.nope.example.", c.A)
    assert (got.verdict, got.ede) == (Verdict.INSECURE, c.EDE_UNSUPPORTED_NSEC3_ITERATIONS)
    assert calls == []


def test_the_number_of_nsec3_hashes_of_one_reply_is_bounded() -> None:
    """CVE-2023-50868: a deep name makes the search for the closest encloser long; it is cut off."""
    got = build(nsec3_chain=Nsec3(50, "aa")).validate("a." * 110 + "example.", c.A)
    assert got.verdict is Verdict.BOGUS
    assert "too many NSEC3 hashes" in got.text


def test_iterations_of_a_sibling_zone_have_no_effect() -> None:
    """A sibling zone with many iterations, rightly signed, must not make a denial in its parent insecure."""
    sub = ZoneKey("sub.example.")
    child = CHILD + f"sub 300 NS ns.sub\nns.sub 300 A 192.0.2.77\nsub 300 DS {sub.ds()}\n"
    tree = build(child=child, sub=sign_zone("sub.example.", SOA + NS, [sub], nsec3=Nsec3(500, "aa")))
    proofs = [r for r in authority_of(tree, "sub.example.", "nope.sub.example.", c.A) if r.rtype == c.NSEC3]
    tree.edit = only_for("www.example.", c.A, lambda view: (c.NXDOMAIN, [], proofs))
    assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS


def test_too_many_records_of_denial() -> None:
    tree = build()

    def flood(view):
        record = next(r for r in view.authority if r.rtype == c.NSEC)
        copies = [record.with_name(names.from_text(f"n{n}.example.")) for n in range(100)]
        return view.rcode, [], [*view.authority, *copies]

    tree.edit = only_for("nope.example.", c.A, flood)
    got = tree.validate("nope.example.", c.A)
    assert got.verdict is Verdict.BOGUS
    assert tree.checks < 40


# --- fields of a signature ------------------------------------------------------------------------------------------


def relabelled(key: ZoneKey, made: dns.rrset.RRset, labels: int) -> bytes:
    """The rdata of an RRSIG over `made` with the Labels field `labels`, whose signature is valid for that field.

    With fewer labels than the owner has, it signs the wildcard that they imply (RFC 4035 section 5.3.2).
    """
    owner, rdata = made.name, key.sign(made).replace(labels=labels)
    if labels < len(owner) - 1:
        owner = dns.name.Name((b"*", *owner.labels[len(owner) - 1 - labels :]))
    head = rdata.to_wire()[:18] + rdata.signer.to_digestable()
    packed = made[0].to_digestable()
    fixed = struct.pack("!HHIH", made.rdtype, made.rdclass, made.ttl, len(packed))
    signature = key.private.sign(head + owner.to_digestable() + fixed + packed, ec.ECDSA(hashes.SHA256()))
    return head + b"".join(part.to_bytes(32, "big") for part in decode_dss_signature(signature))


@pytest.mark.parametrize(("labels", "verdict"), [
    (0, Verdict.BOGUS), (1, Verdict.BOGUS), (2, Verdict.SECURE), (3, Verdict.SECURE), (4, Verdict.BOGUS),
    (9, Verdict.BOGUS),
])
def test_rrsig_labels_outside_signer_and_owner(labels: int, verdict: Verdict) -> None:
    """CVE-2026-44690: an RRSIG may have no fewer labels than its signer, and no more than its owner.

    Otherwise the owner of ``sub.example.`` could sign wildcards of other zones. It has the key, so the signature is
    valid, and so is the NSEC3 that denies any name. If this were accepted, a forged ``*.example.`` would be
    cached as secure.
    """
    sub = ZoneKey("sub.example.")
    child = CHILD + f"sub 300 NS ns.sub\nns.sub 300 A 192.0.2.77\nsub 300 DS {sub.ds()}\n"
    tree = build(child=child, sub=sign_zone("sub.example.", SOA + NS, [sub]))
    made = dns.rrset.from_text("www.sub.example.", 300, "IN", "A", "203.0.113.66")
    sig = relabelled(sub, made, labels)
    forged = RRset(names.from_text("www.sub.example."), c.A, 300, [b"\xcb\0q\x42"], sigs=[sig])
    span = "0" * 32
    proof = signed_by(sub, f"{span}.sub.example.", f"NSEC3 1 0 0 - {span} A RRSIG")
    tree.edit = only_for("www.sub.example.", c.A, lambda view: (c.NOERROR, [forged], [proof]))
    assert tree.validate("www.sub.example.", c.A).verdict is verdict


def test_dname_from_a_wildcard_is_refused() -> None:
    """RFC 4592 section 4.4: a wildcard DNAME would rewrite a subtree whose limits are not signed."""
    tree = build(child=CHILD + "*.dn 300 DNAME www.example.\n")
    query = make_query(1, names.from_text("*.dn.example."), c.DNAME, edns_payload=4096, do=True)
    packet = tree.zones[names.from_text("example.")].answer(query, tcp=True)
    assert packet is not None
    star = MessageView.parse(packet).answer[0]
    forged = star.with_name(names.from_text("x.dn.example."))
    cname = RRset(names.from_text("a.x.dn.example."), c.CNAME, 300, [names.from_text("a.www.example.")])
    proof = [r for r in authority_of(tree, "example.", "x.dn.example.", c.A) if r.rtype == c.NSEC]
    tree.edit = only_for("a.x.dn.example.", c.A, lambda view: (c.NOERROR, [forged, cname], proof))
    got = tree.validate("a.x.dn.example.", c.A)
    assert got.verdict is Verdict.BOGUS
    assert "wildcard" in got.text


# --- proofs from the wrong place ------------------------------------------------------------------------------------


def test_nsec_next_name_outside_of_the_zone() -> None:
    """CVE-2026-13321: ``sub.example.`` signs an NSEC that spans its parent's and its siblings' names."""
    owner = names.from_text("a.sub.example.")
    rdata = present.rdata_from_text(c.NSEC, "zzz.example. A RRSIG NSEC")
    assert nsec.parse(owner, rdata, names.from_text("sub.example.")) is None
    assert nsec.parse(owner, rdata, names.from_text("example.")) is not None

    sub = ZoneKey("sub.example.")
    child = CHILD + f"sub 300 NS ns.sub\nns.sub 300 A 192.0.2.77\nsub 300 DS {sub.ds()}\n"
    tree = build(child=child, sub=sign_zone("sub.example.", SOA + NS, [sub]))
    forged = signed_by(sub, "a.sub.example.", "NSEC zzz.example. A RRSIG NSEC")
    apex = names.from_text("example.")
    star = next(r for r in authority_of(tree, "example.", "nope.example.", c.A) if r.name == apex)
    tree.edit = only_for("www.example.", c.A, lambda view: (c.NXDOMAIN, [], [forged, star]))
    assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS


def test_nsec_of_an_ancestor_delegation() -> None:
    """RFC 6840 section 4.1: the parent's NSEC at a cut denies nothing below the cut."""
    sub = ZoneKey("sub.example.")
    child = CHILD + f"sub 300 NS ns.sub\nns.sub 300 A 192.0.2.77\nsub 300 DS {sub.ds()}\n"
    tree = build(child=child, sub=sign_zone("sub.example.", SOA + NS + "www 300 A 192.0.2.78\n", [sub]))
    span = signed_by(KEY, "sub.example.", "NSEC wild.example. NS DS RRSIG NSEC")  # the NSEC that the parent has
    for rcode in (c.NXDOMAIN, c.NOERROR):
        tree.edit = only_for("www.sub.example.", c.A, lambda view, rcode=rcode: (rcode, [], [span]))
        assert tree.validate("www.sub.example.", c.A).verdict is Verdict.BOGUS


def _answer(tree: Tree, zone: str, qname: str, qtype: int) -> list[RRset]:
    query = make_query(1, names.from_text(qname), qtype, edns_payload=4096, do=True)
    packet = tree.zones[names.from_text(zone)].answer(query, tcp=True)
    assert packet is not None
    return list(MessageView.parse(packet).answer)


@pytest.mark.parametrize("nsec3_chain", [None, Nsec3()], ids=["nsec", "nsec3"])
def test_child_cannot_deny_its_own_ds(nsec3_chain: Nsec3 | None) -> None:
    """CVE-2026-10723, RFC 6840 section 4.4: the proof at the child's apex is not the parent's."""
    tree = build(nsec3_chain=nsec3_chain)
    proofs = [r for r in authority_of(tree, "example.", "example.", c.TXT) if r.rtype != c.SOA]
    tree.edit = only_for("example.", c.DS, lambda view: (c.NOERROR, [], proofs))
    assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS


def test_nsec3_not_directly_below_its_zone() -> None:
    owner = names.from_text("0p9mhaveqvm6t7vbl5lop2u3t2rp3tom.sub.example.")
    rdata = present.rdata_from_text(c.NSEC3, "1 0 0 - 2t7b4g4vsa5smi47k61mv5bv1a22bojr A")
    assert nsec3.parse(owner, rdata, names.from_text("example.")) is None
    assert nsec3.parse(owner, rdata, names.from_text("sub.example.")) is not None


def test_nsec_expanded_from_a_wildcard_proves_nothing() -> None:
    """CVE-2017-15105: the NSEC of ``*.wild`` moved to another owner would deny the names after it."""
    tree = build(child=CHILD + "zz 300 A 192.0.2.3\n")
    star = next(r for r in _answer(tree, "example.", "*.wild.example.", c.NSEC) if r.rtype == c.NSEC)
    moved = star.with_name(names.from_text("a.wild.example."))
    others = [r for r in authority_of(tree, "example.", "nope.example.", c.A) if r.rtype == c.NSEC]
    tree.edit = only_for("wilder.example.", c.A, lambda view: (c.NXDOMAIN, [], [moved, others[0]]))
    assert tree.validate("wilder.example.", c.A).verdict is Verdict.BOGUS
    tree.edit = only_for("b.wild.example.", c.TXT, lambda view: (c.NOERROR, [], [moved]))
    assert tree.validate("b.wild.example.", c.TXT).verdict is Verdict.BOGUS


def test_nxdomain_in_an_opt_out_span_needs_the_denial_of_the_wildcard() -> None:
    """RFC 5155 section 8.4: NXDOMAIN needs the denial of the wildcard also inside an opt-out span."""
    tree = build(nsec3_chain=Nsec3(0, "", opt_out=True))
    proofs = authority_of(tree, "example.", "nope.wild.example.", c.TXT)
    kept = [r for r in proofs if not _matches(r, "*.wild.example.")]
    assert len(kept) < len(proofs)
    tree.edit = only_for("nope.wild.example.", c.A, lambda view: (c.NXDOMAIN, [], kept))
    assert tree.validate("nope.wild.example.", c.A).verdict is Verdict.BOGUS


def _matches(rrset: RRset, owner: str) -> bool:
    digest = dns.dnssec.nsec3_hash(owner, "", 0, 1).lower()
    return rrset.name[1:33].lower() == digest.encode()


def test_nxdomain_for_an_empty_non_terminal_becomes_no_data() -> None:
    """Some servers send NXDOMAIN for empty non-terminals; the proof shows NODATA, and the proof decides."""
    tree = build(child=CHILD + "a.ent 300 A 192.0.2.8\n")
    tree.edit = only_for("ent.example.", c.A, lambda view: (c.NXDOMAIN, [], list(view.authority)))
    got = tree.validate("ent.example.", c.A)
    assert got.verdict is Verdict.SECURE
    assert got.rcode == c.NOERROR


# --- keys -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "reason", "ede"), [
    (1, "no zone key", c.EDE_NO_ZONE_KEY_BIT_SET), (257 | 128, "revoked", c.EDE_DNSKEY_MISSING),
])
def test_keys_that_may_not_sign(flags: int, reason: str, ede: int) -> None:
    """RFC 4034 section 2.1.1 and RFC 5011 section 2.1: such a key signs nothing, even if a DS record names it."""
    key = ZoneKey("example.", flags=flags)
    got = build(keys=[key], ds=key.ds()).validate("www.example.", c.A)
    assert got.verdict is Verdict.BOGUS, reason
    assert got.ede == ede


def test_unsupported_algorithm_beside_a_good_one_changes_nothing() -> None:
    """RFC 6840 section 5.11: one valid path is enough; a DS of an unknown algorithm neither helps nor harms."""
    tree = build()
    text = ROOT + f"example. 3600 DS {KEY.ds()}\nexample. 3600 DS 4711 200 2 {'00' * 32}\n"
    tree.zones[names.ROOT] = Authority([_zone(".", sign_zone(".", text, [ROOT_KEY]))])
    assert tree.validate("www.example.", c.A).verdict is Verdict.SECURE
    tree.edit = only_for("www.example.", c.A, lambda view: (view.rcode, [r.without_sigs() for r in view.answer], []))
    assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS


def test_sha1_digest_beside_a_better_one_does_not_count() -> None:
    """RFC 4509 section 3: a SHA-1 digest is ignored if there is a SHA-256 digest, because SHA-1 may be forged."""
    tree = build()
    evil = ZoneKey("example.", label="evil")
    text = ROOT + f"example. 3600 DS {KEY.ds()}\nexample. 3600 DS {evil.ds('SHA1')}\n"
    tree.zones[names.ROOT] = Authority([_zone(".", sign_zone(".", text, [ROOT_KEY]))])
    tree.zones[names.from_text("example.")] = Authority([_zone("example.", sign_zone("example.", CHILD, [evil]))])
    assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS


@pytest.mark.parametrize("qname", ["www.a.b.example.", "a.b.example."])
def test_nsec3_of_a_child_zone_does_not_prove_a_wildcard_of_the_parent(qname: str) -> None:
    """``a.b.example.`` does not contain ``b.example.``. So an NSEC3 of that zone covers the hash of ``b.example.``.

    It must not prove that a wildcard of ``example.`` applies.
    """
    key = ZoneKey("a.b.example.")
    below = sign_zone("a.b.example.", SOA + NS + "www 300 A 192.0.2.1\n@ 300 A 192.0.2.2\n", [key], nsec3=Nsec3())
    tree = Tree(
        {".": sign_zone(".", ROOT + f"example. 3600 DS {KEY.ds()}\n", [ROOT_KEY]),
         "example.": sign_zone("example.", CHILD + "* 300 A 192.0.2.99\na.b 300 NS ns.a.b\nns.a.b 300 A 192.0.2.53\n"
                               f"a.b 300 DS {key.ds()}\n", [KEY]),
         "a.b.example.": below},
        [ROOT_KEY.anchor()],
    )
    assert tree.validate(qname, c.A).verdict is Verdict.SECURE
    query = make_query(1, names.from_text("zzz.example."), c.A, edns_payload=4096, do=True)
    reply = tree.zones[names.from_text("example.")].answer(query, tcp=True)
    assert reply is not None
    [wildcard] = MessageView.parse(reply).answer
    proofs = {proof.name: proof for label in "qwertyuiop"
              for proof in authority_of(tree, "a.b.example.", f"{label}.a.b.example.", c.A) if proof.rtype == c.NSEC3}
    assert len(proofs) > 2
    forged = wildcard.with_name(names.from_text(qname))
    for proof in proofs.values():
        tree.edit = only_for(qname, c.A, lambda _view, proof=proof: (c.NOERROR, [forged], [proof]))
        assert tree.validate(qname, c.A).verdict is Verdict.BOGUS
