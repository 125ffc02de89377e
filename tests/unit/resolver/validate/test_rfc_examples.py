"""The examples of the RFCs: signatures, DS digests, and the replies of RFC 4035 and RFC 5155.

The clock is set to a time at which their signatures are valid. Each example is also changed a little and must fail
then, so that none passes for the wrong reason.
"""

import pytest
from support.rfc_vectors import DIGESTS, RFC4035, RFC5155, SIGNATURES, Digest, Example, Signature, sets
from support.tree import Tree, Validation

from resolver.effects import Budget
from resolver.validate import crypto_budget, records, verify
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.rrset import RRset

SECURE, INSECURE, BOGUS = Verdict.SECURE, Verdict.INSECURE, Verdict.BOGUS
DAY = 86400
BARE = "@ 3600 SOA a. b. 1 2 3 4 300\n@ 3600 NS ns1.example.\n"


def tree_of(example: Example, *, sha1: bool = True) -> Tree:
    """A tree whose every reply is the one that the RFC prints; what it does not print is denied without proof."""
    tree = Tree({".": BARE, "example.": BARE}, [example.anchor], sha1=sha1)
    tree.now = example.now

    def edit(question, view, answer, authority):
        key = (names.to_text(question.qname), c.type_to_text(question.qtype))
        reply = example.replies.get(key)
        return (c.NOERROR, [], []) if reply is None else (reply.rcode, sets(reply.answer), sets(reply.authority))

    tree.edit = edit
    return tree


def validated(example: Example, qname: str, qtype: str, **options: bool) -> Validation:
    return tree_of(example, **options).validate(qname, c.type_from_text(qtype))


# --- whole replies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("qname", "qtype", "verdict", "rcode"),
    [
        ("example.", "DNSKEY", SECURE, c.NOERROR),
        ("example.", "NS", SECURE, c.NOERROR),
        ("ai.example.", "A", SECURE, c.NOERROR),
        ("ai.example.", "AAAA", SECURE, c.NOERROR),
        ("x.w.example.", "MX", SECURE, c.NOERROR),  # B.1
        ("xx.example.", "A", SECURE, c.NOERROR),  # and the sets of its additional section
        ("xx.example.", "AAAA", SECURE, c.NOERROR),
        ("ns1.example.", "A", SECURE, c.NOERROR),
        ("ns2.example.", "A", SECURE, c.NOERROR),
        ("ml.example.", "A", SECURE, c.NXDOMAIN),  # B.2
        ("ns1.example.", "MX", SECURE, c.NOERROR),  # B.3
        ("a.example.", "DS", SECURE, c.NOERROR),  # the DS set in the referral of B.4
        ("mc.a.example.", "MX", BOGUS, c.NOERROR),  # the keys that it demands are not printed: nothing without them
        ("b.example.", "DS", SECURE, c.NOERROR),  # the proof in the referral of B.5
        ("mc.b.example.", "MX", INSECURE, c.NOERROR),  # and what it leads to
        ("a.z.w.example.", "MX", SECURE, c.NOERROR),  # B.6
        ("a.z.w.example.", "AAAA", SECURE, c.NOERROR),  # B.7
    ],
)
def test_replies_of_rfc_4035(qname: str, qtype: str, verdict: Verdict, rcode: int) -> None:
    got = validated(RFC4035, qname, qtype)
    assert (got.verdict, got.rcode) == (verdict, rcode), got.text


@pytest.mark.parametrize(
    ("qname", "qtype", "verdict", "rcode"),
    [
        # All its NSEC3 records have the opt-out flag: what they only cover is not proved to be absent (section 9.2).
        ("example.", "DNSKEY", SECURE, c.NOERROR),
        ("a.c.x.w.example.", "A", INSECURE, c.NXDOMAIN),  # B.1
        ("ns1.example.", "MX", SECURE, c.NOERROR),  # B.2
        ("y.w.example.", "A", SECURE, c.NOERROR),  # B.2.1, an empty non-terminal
        ("c.example.", "DS", INSECURE, c.NOERROR),  # the proof in the referral of B.3
        ("mc.c.example.", "MX", INSECURE, c.NOERROR),
        ("a.z.w.example.", "MX", INSECURE, c.NOERROR),  # B.4
        ("a.z.w.example.", "AAAA", INSECURE, c.NOERROR),  # B.5
    ],
)
def test_replies_of_rfc_5155(qname: str, qtype: str, verdict: Verdict, rcode: int) -> None:
    got = validated(RFC5155, qname, qtype)
    assert (got.verdict, got.rcode) == (verdict, rcode), got.text


@pytest.mark.parametrize("example", [RFC4035, RFC5155], ids=["4035", "5155"])
def test_a_child_denies_no_ds_of_its_own(example: Example) -> None:
    """B.8 and B.6: the parent is in charge of it, and no anchor stands above."""
    assert validated(example, "example.", "DS").verdict is not SECURE


@pytest.mark.parametrize(("example", "name"), [(RFC4035, "ml.example."), (RFC5155, "a.c.x.w.example.")])
def test_no_record_of_a_proof_can_be_missing(example: Example, name: str) -> None:
    reply = example.replies[name, "A"]
    whole = sets(reply.authority)
    for left_out in (r for r in whole if r.rtype in (c.NSEC, c.NSEC3)):
        tree = tree_of(example)
        rest = [r for r in whole if r is not left_out]
        inner = tree.edit
        assert inner is not None

        def edit(question, view, answer, authority, inner=inner, rest=rest):
            if question.qtype == c.A:
                return reply.rcode, [], rest
            return inner(question, view, answer, authority)

        tree.edit = edit
        assert tree.validate(name, c.A).verdict is BOGUS, names.to_text(left_out.name)


@pytest.mark.parametrize(("days", "ede"), [(-60, c.EDE_SIGNATURE_NOT_YET_VALID), (60, c.EDE_SIGNATURE_EXPIRED)])
def test_they_are_accepted_within_their_validity_only(days: int, ede: int) -> None:
    tree = tree_of(RFC4035)
    tree.now += days * DAY
    got = tree.validate("ai.example.", c.A)
    assert (got.verdict, got.ede) == (BOGUS, ede)


@pytest.mark.parametrize("example", [RFC4035, RFC5155], ids=["4035", "5155"])
def test_where_sha1_is_not_trusted_both_zones_count_as_unsigned(example: Example) -> None:
    assert validated(example, "ns1.example.", "MX", sha1=False).verdict is INSECURE


# --- single signatures and digests ----------------------------------------------------------------------------------


def check_of(vector: Signature, rrset: RRset) -> bool:
    key = records.parse_dnskey(present.rdata_from_text(c.DNSKEY, vector.key))
    sig = records.parse_rrsig(rrset.sigs()[0])
    assert key is not None
    assert sig is not None
    assert (sig.tag, sig.algorithm, sig.signer) == (key.tag, key.algorithm, names.from_text(vector.zone))
    return verify.check(verify.SignatureJob(key.algorithm, key.key, sig.signature, records.signed_data(rrset, sig)))


@pytest.mark.parametrize("vector", SIGNATURES, ids=lambda vector: vector.title)
def test_printed_signatures_are_valid(vector: Signature) -> None:
    (rrset,) = sets(vector.records)
    assert check_of(vector, rrset)
    changed = bytes([rrset.rdata(0)[0] ^ 1]) + rrset.rdata(0)[1:]
    other = RRset(rrset.name, rrset.rtype, rrset.ttl, [changed], sigs=rrset.sigs())
    assert not check_of(vector, other)
    elsewhere = rrset.with_name(names.prepend(b"x", rrset.name))
    assert not check_of(vector, elsewhere)


@pytest.mark.parametrize("vector", DIGESTS, ids=lambda vector: vector.title)
def test_printed_digests_are_right(vector: Digest) -> None:
    key = records.parse_dnskey(present.rdata_from_text(c.DNSKEY, vector.key))
    ds = records.parse_ds(present.rdata_from_text(c.DS, vector.ds))
    assert key is not None
    assert ds is not None
    zone = names.from_text(vector.zone)
    assert ds.tag == key.tag and crypto_budget.ds_matches(Budget(0, 0.0), ds, zone, key)
    damaged = type(ds)(ds.tag, ds.algorithm, ds.digest_type, ds.digest[:-1] + bytes([ds.digest[-1] ^ 1]))
    assert not crypto_budget.ds_matches(Budget(0, 0.0), damaged, zone, key)
    assert not crypto_budget.ds_matches(Budget(0, 0.0), ds, names.prepend(b"x", zone), key)
