"""What a verified record of denial does not prove: names below a zone cut or DNAME, other zones, names under opt-out.

The records are valid; each is used for a name that it does not apply to (RFC 4035 section 5.4, RFC 5155 section 8, RFC
6840 section 4).
"""

import pytest

from resolver import limits
from resolver.effects import Budget
from resolver.playground.signing import bitmap
from resolver.validate import nsec, nsec3
from resolver.validate.crypto_budget import hash_name
from resolver.wire import consts as c
from resolver.wire import name as names

ZONE, SUB = names.from_text("example."), names.from_text("sub.example.")


def plain(owner: str, following: str, *types: int, zone: bytes = ZONE) -> nsec.Nsec:
    return nsec.Nsec(names.from_text(owner), names.from_text(following), bitmap({c.NSEC, c.RRSIG, *types}), zone)


def digest(name: str) -> bytes:
    return hash_name(Budget(1, 1e9, 100), names.from_text(name), b"", 0, most=0)


def nudged(value: bytes, by: int) -> bytes:
    return (int.from_bytes(value, "big") + by).to_bytes(len(value), "big")


def matching(name: str, *types: int, zone: bytes = ZONE, flags: int = 0) -> nsec3.Nsec3:
    """The record of `name`, with a span that holds nothing."""
    return nsec3.Nsec3(digest(name), nudged(digest(name), 1), flags, 0, b"", bitmap(set(types)), zone)


def covering(name: str, zone: bytes = ZONE, flags: int = 0) -> nsec3.Nsec3:
    """A record whose span holds the hash of `name` and no other."""
    return nsec3.Nsec3(nudged(digest(name), -1), nudged(digest(name), 1), flags, 0, b"", bitmap({c.A}), zone)


def prover(*records: nsec3.Nsec3) -> nsec3.Prover:
    return nsec3.Prover.of(list(records), Budget(1, 1e9, 100))


@pytest.mark.parametrize(("types", "proves"), [
    ((c.NS,), False), ((c.NS, c.DS), False), ((c.DNAME,), False), ((c.NS, c.SOA, c.DNAME), False),
    ((c.NS, c.SOA), True), ((c.A,), True),
])
def test_nsec_of_a_cut_or_a_dname_denies_nothing_below(types: tuple[int, ...], proves: bool) -> None:
    record = plain("cut.example.", "zz.example.", *types)
    assert nsec.proves_nxdomain([record], names.from_text("a.cut.example.")) is proves
    assert nsec.proves_nxdomain([record], names.from_text("a.b.cut.example.")) is proves
    assert nsec.proves_wildcard_expansion([record], names.from_text("a.cut.example."),
                                          names.from_text("cut.example.")) is proves


@pytest.mark.parametrize(("types", "proves"), [
    ((c.NS,), False), ((c.NS, c.DS), False), ((c.DNAME,), False), ((c.NS, c.SOA, c.DNAME), False),
    ((c.NS, c.SOA), True), ((c.A,), True),
])
def test_nsec3_of_a_cut_or_a_dname_is_no_closest_encloser(types: tuple[int, ...], proves: bool) -> None:
    found = prover(matching("cut.example.", *types), covering("a.cut.example."), covering("*.cut.example."))
    assert found.proves_nxdomain(names.from_text("a.cut.example."))[0] is proves


def test_the_next_closer_name_is_denied_by_the_zone_itself() -> None:
    """The deeper zone's records, as those of an other zone altogether, say nothing about the encloser's."""
    records = [matching("example.", c.SOA, c.NS), covering("a.example.", zone=SUB), covering("*.example.")]
    assert prover(*records).proves_nxdomain(names.from_text("a.example.")) == (False, None)
    records[1] = covering("a.example.")
    assert prover(*records).proves_nxdomain(names.from_text("a.example.")) == (True, None)
    records[2] = covering("*.example.", zone=SUB)
    assert prover(*records).proves_nxdomain(names.from_text("a.example.")) == (False, None)


def test_the_closest_encloser_must_be_the_closest() -> None:
    """With the record of a name nearer by, the wildcard of one further up is not the one to deny."""
    qname = names.from_text("x.a.example.")
    far = [matching("example.", c.SOA, c.NS), covering("a.example."), covering("*.example.")]
    assert prover(*far).proves_nxdomain(qname)[0]
    assert prover(*far, matching("a.example.", c.A)).proves_nxdomain(qname) == (False, None)
    near = plain("a.example.", "b.example.", c.A)
    assert not nsec.proves_nodata([near, plain("*.example.", "a.example.", c.TXT)], qname, c.A)
    assert nsec.proves_nodata([near, plain("*.a.example.", "b.a.example.", c.TXT)], qname, c.A)


@pytest.mark.parametrize(("flags", "opt_out"), [(0, False), (1, True)])
@pytest.mark.parametrize("qtype", [c.A, c.DS])
def test_an_opt_out_span_gives_no_secure_denial(flags: int, opt_out: bool, qtype: int) -> None:
    span = covering("a.example.", flags=flags)
    found = prover(matching("example.", c.SOA, c.NS), span)
    assert found.proves_nodata(names.from_text("a.example."), qtype) == (opt_out, span if opt_out else None)
    assert found.proves_nxdomain(names.from_text("a.example.")) == (False, None)
    assert found.proves_wildcard_expansion(names.from_text("a.example."), ZONE) == (True, span if opt_out else None)


@pytest.mark.parametrize("head", [b"\2\0\0\0\0", b"\0\0\0\0\0", b"\1\2\0\0\0", b"\1\x81\0\0\0", b"\1\3\0\0\0"],
                         ids=["algorithm 2", "algorithm 0", "flag 2", "flag 128", "opt-out and more"])
def test_unknown_nsec3_proves_nothing(head: bytes) -> None:
    owner = names.prepend(b"0" * 32, ZONE)
    assert nsec3.parse(owner, head + b"\x14" + bytes(20) + bitmap({c.A}), ZONE) is None
    assert nsec3.parse(owner, b"\1\1\0\0\0\x14" + bytes(20) + bitmap({c.A}), ZONE) is not None
    salt = limits.NSEC3_SALT
    long = b"\1\0\0\0" + bytes((salt + 1,)) + bytes(salt + 1) + b"\x14" + bytes(20)
    assert salt == 255 or nsec3.parse(owner, long, ZONE) is None


def test_child_records_prove_nothing_about_the_delegation_and_parent_records_nothing_about_the_child() -> None:
    child, parent = plain("sub.example.", "a.sub.example.", c.NS, c.SOA, zone=SUB), plain("sub.example.", "z.example.",
                                                                                          c.NS)
    assert not nsec.proves_nodata([child], SUB, c.DS)
    assert nsec.proves_nodata([parent], SUB, c.DS)
    assert not nsec.proves_nodata([parent], SUB, c.A)
    assert nsec.proves_nodata([child], SUB, c.A)
    assert prover(matching("sub.example.", c.NS, c.SOA, zone=SUB)).proves_nodata(SUB, c.DS) == (False, None)
    assert prover(matching("sub.example.", c.NS)).proves_nodata(SUB, c.A) == (False, None)
