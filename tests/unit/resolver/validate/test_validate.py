"""Verdicts in a small signed tree: what must be secure, insecure or bogus, and for which reason.

Zones are signed by dnspython (support.signing); each attack changes one reply or one zone and must be detected.
"""

import pytest
from support.signing import (
    ALL_ALGORITHMS,
    ECDSAP256,
    EXPIRATION,
    INCEPTION,
    NSEC3RSASHA1,
    Nsec3,
    ZoneKey,
    sign_zone,
    spoiled,
)
from support.tree import Tree

from resolver.validate import Validator, nsec3
from resolver.validate import chain as chains
from resolver.validate.anchors import Anchors
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

SOA = "@ 3600 SOA ns.example. host.example. 1 7200 3600 86400 300\n"
CHILD = (
    SOA + "@ 3600 NS ns\nns 300 A 192.0.2.53\nwww 300 A 192.0.2.1\nwww 300 TXT hello\nalias 300 CNAME www\n"
    "*.wild 300 A 192.0.2.7\na.ent 300 A 192.0.2.8\nsub 300 DNAME www.example.\ndeep.er 300 MX 1 www\n"
)


def build(
    *,
    algorithm: int = ECDSAP256,
    chain: Nsec3 | None = None,
    signed: bool = True,
    parent_chain: Nsec3 | None = None,
    inception: int = INCEPTION,
    expiration: int = EXPIRATION,
    ds: str | None = None,
    sha1: bool = True,
    negative: list[str] | None = None,
    skew: tuple[int, int] = (0, 0),
) -> Tree:
    """Root and ``example.``, the latter signed or not."""
    root, key = ZoneKey("."), ZoneKey("example.", algorithm)
    text = ". 3600 SOA a. b. 1 2 3 4 300\n. 3600 NS a.root.\na.root. 3600 A 127.0.0.1\n"
    text += "example. 3600 NS ns.example.\nns.example. 3600 A 192.0.2.53\nplain. 3600 NS ns.plain.\n"
    text += "ns.plain. 300 A 192.0.2.54\nother. 300 TXT x\n"
    if signed:
        text += f"example. 3600 DS {ds or key.ds()}\n"
    child = CHILD
    if signed:
        child = sign_zone("example.", CHILD, [key], nsec3=chain, inception=inception, expiration=expiration)
    return Tree(
        {
            ".": sign_zone(".", text, [root], nsec3=parent_chain),
            "example.": child,
            "plain.": SOA + "@ 300 NS ns\nns 300 A 192.0.2.54\nwww 300 A 192.0.2.9\n",
        },
        [root.anchor()],
        negative=negative,
        sha1=sha1,
        skew=skew,
    )


CHAINS = pytest.mark.parametrize(
    "chain",
    [None, Nsec3(), Nsec3(10, "aabb"), Nsec3(0, "", opt_out=True)],
    ids=["nsec", "nsec3", "nsec3-salted", "opt-out"],
)


@pytest.mark.parametrize("algorithm", ALL_ALGORITHMS)
def test_every_algorithm_gives_secure(algorithm: int) -> None:
    tree = build(algorithm=algorithm)
    assert tree.validate("www.example.", c.A).verdict is Verdict.SECURE


def test_the_chain_of_trust_needs_one_query_for_each_set() -> None:
    tree = build()
    tree.validate("www.example.", c.A)
    assert {(names.to_text(q.qname), q.qtype) for q in tree.needs} == {
        ("example.", c.DNSKEY),
        ("example.", c.DS),
        (".", c.DNSKEY),
    }
    assert tree.checks == 4


@CHAINS
@pytest.mark.parametrize(
    ("qname", "qtype"),
    [
        ("www.example.", c.MX),
        ("ent.example.", c.A),
        ("example.", c.TXT),
        ("x.wild.example.", c.A),
        ("nope.example.", c.A),
        ("a.b.nope.example.", c.A),
        ("x.wild.example.", c.TXT),
        ("alias.example.", c.A),
        ("a.sub.example.", c.A),
        ("er.example.", c.DS),
    ],
)
def test_denials_and_wildcards(chain: Nsec3 | None, qname: str, qtype: int) -> None:
    got = build(chain=chain).validate(qname, qtype)
    # With opt-out, "no such name" only says "nothing signed" (RFC 5155 section 6, RFC 6840 section 4.4).
    by_span = qname in ("nope.example.", "a.b.nope.example.", "x.wild.example.", "a.sub.example.")
    expected = Verdict.INSECURE if chain is not None and chain.opt_out and by_span else Verdict.SECURE
    assert got.verdict is expected, got.text


@CHAINS
def test_unsigned_child_is_insecure(chain: Nsec3 | None) -> None:
    tree = build(parent_chain=chain)
    got = tree.validate("www.plain.", c.A)
    assert got.verdict is Verdict.INSECURE, got.text
    assert tree.validate("nope.plain.", c.A).verdict is Verdict.INSECURE


@CHAINS
def test_stripped_signatures_are_bogus(chain: Nsec3 | None) -> None:
    tree = build(parent_chain=chain)

    def strip(question, view, answer, authority):
        if question.qtype == c.A:
            return view.rcode, [r.without_sigs() for r in answer], []
        return view.rcode, answer, authority

    tree.edit = strip
    got = tree.validate("www.example.", c.A)
    assert (got.verdict, got.ede) == (Verdict.BOGUS, c.EDE_RRSIGS_MISSING), got.text


@CHAINS
@pytest.mark.parametrize("rcode", [c.NOERROR, c.NXDOMAIN])
def test_forged_absence_is_bogus(chain: Nsec3 | None, rcode: int) -> None:
    """A denial of what exists, with true records of denial for other names."""
    tree = build(chain=chain)

    def forge(question, view, answer, authority):
        if question.qtype != c.A:
            return view.rcode, answer, authority
        other = tree.zones[names.from_text("example.")]
        from resolver.wire.build import make_query
        from resolver.wire.message import MessageView

        packet = other.answer(
            make_query(1, names.from_text("nope.example."), c.A, edns_payload=4096, do=True), tcp=True
        )
        return rcode, [], list(MessageView.parse(packet).authority)

    tree.edit = forge
    got = tree.validate("www.example.", c.A)
    # An opt-out span could hide only a delegation; www has a record of its own, which the reply withheld. RFC 5155
    # section 8.6 lets the span stand for an insecure "no data", never for a secure one.
    assert got.verdict in (
        (Verdict.BOGUS,) if chain is None or not chain.opt_out else (Verdict.BOGUS, Verdict.INSECURE)
    )
    if got.verdict is Verdict.BOGUS:
        assert got.ede == c.EDE_NSEC_MISSING


def test_denial_without_any_proof_is_bogus() -> None:
    tree = build()
    tree.edit = lambda q, v, a, n: (v.rcode, a, n) if q.qtype != c.A else (c.NXDOMAIN, [], [])
    got = tree.validate("nope.example.", c.A)
    assert (got.verdict, got.ede) == (Verdict.BOGUS, c.EDE_NSEC_MISSING)


@CHAINS
def test_wildcard_without_its_proof_is_bogus(chain: Nsec3 | None) -> None:
    tree = build(chain=chain)
    tree.edit = lambda q, v, a, n: (v.rcode, a, n if q.qtype != c.A else [])
    got = tree.validate("x.wild.example.", c.A)
    assert (got.verdict, got.ede) == (Verdict.BOGUS, c.EDE_NSEC_MISSING)


def test_wildcard_for_a_name_that_exists_is_bogus() -> None:
    """The signature of *.wild moved to a name closer to something that exists."""
    tree = build()

    def move(question, view, answer, authority):
        if question.qtype != c.A:
            return view.rcode, answer, authority
        return view.rcode, [r.with_name(names.from_text("www.example.")) for r in answer], authority

    tree.edit = move
    assert tree.validate("x.wild.example.", c.A).verdict is Verdict.BOGUS


@pytest.mark.parametrize(
    ("when", "ede"), [(-1, c.EDE_SIGNATURE_NOT_YET_VALID), (31 * 86400, c.EDE_SIGNATURE_EXPIRED)]
)
def test_signatures_outside_their_validity_are_bogus(when: int, ede: int) -> None:
    tree = build()
    tree.now = INCEPTION + when
    got = tree.validate("www.example.", c.A)
    assert (got.verdict, got.ede) == (Verdict.BOGUS, ede), got.text
    assert "is the clock of this host right?" in got.text


HOUR, DAY = 3600, 86_400
# The signatures hold 30 days, of which a tenth is three.
SKEWS = [((HOUR, DAY), DAY), ((HOUR, 5 * DAY), 3 * DAY), ((4 * DAY, 5 * DAY), 4 * DAY), ((0, 0), 0), ((0, HOUR), HOUR)]


@pytest.mark.parametrize(("skew", "tolerated"), SKEWS)
def test_clocks_may_differ_by_a_tenth_within_bounds(skew: tuple[int, int], tolerated: int) -> None:
    tree = build(skew=skew)
    for edge, direction, ede in (
        (INCEPTION, -1, c.EDE_SIGNATURE_NOT_YET_VALID), (EXPIRATION, 1, c.EDE_SIGNATURE_EXPIRED)
    ):
        tree.now = edge + direction * tolerated
        assert tree.validate("www.example.", c.A).verdict is Verdict.SECURE
        assert tree.validate("nope.example.", c.A).verdict is Verdict.SECURE
        tree.now += direction
        got = tree.validate("www.example.", c.A)
        assert (got.verdict, got.ede) == (Verdict.BOGUS, ede), got.text


def test_a_short_signature_does_not_outlive_itself_by_days() -> None:
    tree = build(inception=INCEPTION, expiration=INCEPTION + 10 * HOUR, skew=(HOUR, DAY))
    tree.now = INCEPTION + 11 * HOUR
    assert tree.validate("www.example.", c.A).verdict is Verdict.SECURE
    tree.now += 1
    assert tree.validate("www.example.", c.A).ede == c.EDE_SIGNATURE_EXPIRED


def test_what_has_expired_within_tolerance_is_kept_briefly() -> None:
    tree = build(skew=(HOUR, DAY))
    tree.now = EXPIRATION + 10
    assert [r.ttl for r in tree.validate("www.example.", c.A).answer] == [60]


def test_a_signature_that_ends_before_it_begins_has_no_tolerance() -> None:
    tree = build(inception=INCEPTION + 100, expiration=INCEPTION, skew=(HOUR, DAY))
    tree.now = INCEPTION + 50
    assert tree.validate("www.example.", c.A).ede == c.EDE_SIGNATURE_EXPIRED_BEFORE_VALID


def test_ttl_never_outlives_the_signature() -> None:
    tree = build()
    tree.now = EXPIRATION - 100
    got = tree.validate("www.example.", c.A)
    assert got.verdict is Verdict.SECURE
    assert [r.ttl for r in got.answer] == [100]


def test_ds_that_matches_no_key() -> None:
    got = build(ds=ZoneKey("example.", label="other").ds()).validate("www.example.", c.A)
    assert (got.verdict, got.ede) == (Verdict.BOGUS, c.EDE_DNSKEY_MISSING)


@pytest.mark.parametrize("ds", ["4711 13 200 " + "00" * 32, "4711 200 2 " + "00" * 32])
def test_ds_of_unknown_algorithm_or_digest_is_insecure(ds: str) -> None:
    got = build(ds=ds).validate("www.example.", c.A)
    assert got.verdict is Verdict.INSECURE, got.text


def test_sha1_can_be_switched_off() -> None:
    assert build(algorithm=NSEC3RSASHA1).validate("www.example.", c.A).verdict is Verdict.SECURE
    assert build(algorithm=NSEC3RSASHA1, sha1=False).validate("www.example.", c.A).verdict is Verdict.INSECURE


def test_negative_anchor_switches_off_below_it() -> None:
    tree = build(negative=["example."])
    tree.edit = lambda q, v, a, n: (v.rcode, [r.without_sigs() for r in a], [])
    assert tree.validate("www.example.", c.A).verdict is Verdict.INSECURE
    assert tree.needs == []


def test_names_outside_of_all_anchors_are_insecure() -> None:
    tree = build()
    tree.validator = Validator(Anchors([ZoneKey("example.").anchor()]))
    assert tree.validate("other.", c.TXT).verdict is Verdict.INSECURE
    assert tree.validate("www.example.", c.A).verdict is Verdict.SECURE


def test_too_many_iterations_are_insecure() -> None:
    got = build(chain=Nsec3(151, "aa")).validate("nope.example.", c.A)
    assert (got.verdict, got.ede) == (Verdict.INSECURE, c.EDE_UNSUPPORTED_NSEC3_ITERATIONS)
    assert build(chain=Nsec3(151, "aa")).validate("www.example.", c.A).verdict is Verdict.SECURE


def test_hashes_of_one_reply_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    digest = nsec3.Prover.digest
    monkeypatch.setattr(nsec3.Prover, "digest", lambda self, name: calls.append(name) or digest(self, name))
    got = build(chain=Nsec3(50, "aa")).validate("a." * 110 + "example.", c.A)
    assert got.verdict is Verdict.BOGUS
    assert "too many NSEC3 hashes" in got.text
    assert len(set(calls)) < 50


@pytest.mark.parametrize("form", [None, Nsec3()], ids=["nsec", "nsec3"])
def test_sets_in_every_denial_are_checked_once(form: Nsec3 | None) -> None:
    tree = build(chain=form)
    assert tree.validate("nope.example.", c.A).verdict is Verdict.SECURE
    first = tree.checks
    assert tree.validate("nope.example.", c.A).verdict is Verdict.SECURE
    # This tree keeps nothing, so each set has the chain climbed anew: two DNSKEY sets and the DS between them.
    # Here a denial is three sets, SOA and two proofs.
    assert (first, tree.checks - first) == (3 * 4, 3 * 3)


def test_a_signature_checked_before_still_has_its_time() -> None:
    tree = build()
    assert tree.validate("nope.example.", c.A).verdict is Verdict.SECURE
    context = tree.now
    tree.now = EXPIRATION + 1
    assert tree.validate("nope.example.", c.A).ede == c.EDE_SIGNATURE_EXPIRED
    tree.now = context
    assert tree.validate("nope.example.", c.A).verdict is Verdict.SECURE


def test_a_signature_checked_before_is_not_good_for_other_data() -> None:
    tree = build()
    assert tree.validate("nope.example.", c.A).verdict is Verdict.SECURE

    def alter(question, view, answer, authority):
        changed = [
            RRset(r.name, r.rtype, r.ttl, [r.rdata(0)[:-1] + b"\0"], sigs=list(r.sigs()))
            if r.rtype == c.SOA else r for r in authority
        ]
        return view.rcode, answer, changed

    tree.edit = alter
    got = tree.validate("nope.example.", c.A)
    assert got.verdict is Verdict.BOGUS
    assert "SOA: the signature by key" in got.text


def test_signatures_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "KNOWN_SIGNATURES", 2)
    tree = build()
    for name in ("nope.example.", "x.wild.example.", "a.nope.example.", "zz.example."):
        assert tree.validate(name, c.TXT).verdict is Verdict.SECURE
    assert len(tree.validator.chain._known) == 2


def test_keytrap_is_bounded() -> None:
    """Many signatures with colliding tags: the checks stop at the limit (CVE-2023-50387)."""
    tree = build()

    def trap(question, view, answer, authority):
        if question.qtype != c.A:
            return view.rcode, answer, authority
        sig = answer[0].sigs()[0]
        forged = [spoiled(sig, n) for n in range(1, 101)]
        return view.rcode, [answer[0].with_sigs(forged)], authority

    tree.edit = trap
    got = tree.validate("www.example.", c.A)
    assert got.verdict is Verdict.BOGUS
    assert tree.checks <= 3 + 8


@pytest.mark.parametrize("labels", [0, 1, 5])
def test_impossible_label_counts_are_refused(labels: int) -> None:
    tree = build()

    def forge(question, view, answer, authority):
        if question.qtype != c.A:
            return view.rcode, answer, authority
        sig = answer[0].sigs()[0]
        return view.rcode, [answer[0].with_sigs([sig[:3] + bytes((labels,)) + sig[4:]])], authority

    tree.edit = forge
    assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS


def test_data_of_a_parent_signed_by_a_sibling_is_refused() -> None:
    tree = build()
    tree.edit = lambda q, v, a, n: (
        (v.rcode, [r.with_name(names.from_text("www.plain.")) for r in a], n) if q.qtype == c.A else (v.rcode, a, n)
    )
    got = tree.validate("www.example.", c.A)
    assert got.verdict is Verdict.BOGUS


def test_ds_denied_by_the_child_is_refused() -> None:
    """The child's own apex record cannot deny its DS (RFC 6840 section 4.4)."""
    tree = build()

    def child_side(question, view, answer, authority):
        if question.qtype != c.DS or question.qname != names.from_text("example."):
            return view.rcode, answer, authority
        from resolver.wire.build import make_query
        from resolver.wire.message import MessageView

        packet = tree.zones[names.from_text("example.")].answer(
            make_query(1, names.from_text("example."), c.TXT, edns_payload=4096, do=True), tcp=True
        )
        return c.NOERROR, [], list(MessageView.parse(packet).authority)

    tree.edit = child_side
    assert tree.validate("www.example.", c.A).verdict is Verdict.BOGUS
