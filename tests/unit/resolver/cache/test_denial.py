"""The index of verified denials: order, expiry, bounds and flushing. What records prove is tested with validation."""

import base64
import random

from resolver.cache.aggressive_nsec import AggressiveNsecCache, owner_hash
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.rrset import RRset

NOW = 1_800_000_000
ZONE = names.from_text("example.")


def nsec(owner: str, following: str, ttl: int = 300) -> RRset:
    return RRset(names.from_text(owner), c.NSEC, ttl, [present.rdata_from_text(c.NSEC, f"{following} A RRSIG NSEC")])


def nsec3(digest: str, following: str, salt: str = "-") -> RRset:
    rdata = present.rdata_from_text(c.NSEC3, f"1 0 0 {salt} {following} A RRSIG")
    return RRset(names.from_text(f"{digest}.example."), c.NSEC3, 300, [rdata])


def soa(ttl: int, minimum: int) -> RRset:
    return RRset(ZONE, c.SOA, ttl, [present.rdata_from_text(c.SOA, f"ns.example. host.example. 1 2 3 4 {minimum}")])


def owner_at(index: AggressiveNsecCache, name: str, now: int = NOW) -> str | None:
    known = index.closest(names.lower(names.from_text(name)))
    proof = None if known is None else known.at_or_before(names.from_text(name), now)
    return None if proof is None else names.to_text(proof.rrset.name)


def test_canonical_order_decides() -> None:
    """RFC 4034 section 6.1: by labels from the right, so ``z.b`` comes before ``c`` and after ``b``."""
    index = AggressiveNsecCache()
    owners = ["example.", "a.example.", "b.example.", "z.b.example.", "c.example."]
    for owner, following in zip(owners, [*owners[1:], owners[0]], strict=True):
        index.add(ZONE, nsec(owner, following), NOW)
    assert owner_at(index, "aa.example.") == "a.example."
    assert owner_at(index, "zz.b.example.") == "z.b.example."
    assert owner_at(index, "bb.example.") == "z.b.example."
    assert owner_at(index, "y.b.example.") == "b.example."
    assert owner_at(index, "example.") == "example."
    assert owner_at(index, "zzz.example.") == "c.example."
    assert owner_at(index, "other.") is None


def test_lookups_agree_with_a_linear_search() -> None:
    rng = random.Random(5)
    index = AggressiveNsecCache()
    owners = sorted(
        {f"{rng.randrange(500)}.{rng.randrange(9)}.example." for _ in range(200)},
        key=lambda text: names.canonical_key(names.from_text(text)),
    )
    for owner in rng.sample(owners, len(owners)):
        index.add(ZONE, nsec(owner, "example."), NOW)
    for _ in range(300):
        name = f"{rng.randrange(500)}.{rng.randrange(9)}.example."
        wire = names.from_text(name)
        below = [o for o in owners if names.compare(names.from_text(o), wire) <= 0]
        assert owner_at(index, name) == (below[-1] if below else owners[-1])


def test_expired_records_do_not_hide_wider_ones() -> None:
    index = AggressiveNsecCache()
    index.add(ZONE, nsec("b.example.", "c.example.", ttl=10), NOW)
    index.add(ZONE, nsec("a.example.", "z.example.", ttl=100), NOW)
    assert owner_at(index, "bb.example.", NOW + 9) == "b.example."
    assert owner_at(index, "bb.example.", NOW + 10) == "a.example."
    assert len(index) == 1


def test_negative_ttl_of_the_zone_bounds_its_proofs() -> None:
    """RFC 9077 section 3: neither the NSEC's TTL nor the SOA's alone."""
    index = AggressiveNsecCache(max_ttl=3600)
    index.add(ZONE, nsec("a.example.", "b.example.", ttl=86400), NOW)
    known = index.closest(ZONE)
    assert known is not None
    proof = known.at_or_before(ZONE, NOW)
    assert proof is not None and proof.expires == NOW + 3600
    index.add_soa(soa(900, 60), NOW)
    index.add(ZONE, nsec("a.example.", "b.example.", ttl=86400), NOW)
    proof = known.at_or_before(ZONE, NOW)
    assert proof is not None and proof.expires == NOW + 60
    assert proof.with_remaining_ttl(NOW + 20).ttl == 40
    with_remaining_ttl = known.soa(NOW + 20)
    assert with_remaining_ttl is not None and with_remaining_ttl.ttl == 40
    assert known.soa(NOW + 60) is None


def test_hashes_of_different_parameters_are_separate() -> None:
    index = AggressiveNsecCache()
    first, second, third = ("0" * 32, "5" * 32, "a" * 32)
    index.add(ZONE, nsec3(first, second), NOW)
    index.add(ZONE, nsec3(second, third), NOW)
    assert len(index) == 2
    index.add(ZONE, nsec3(third, first, salt="ab"), NOW)
    assert len(index) == 1
    known = index.closest(ZONE)
    assert known is not None
    proof = known.at_or_before_hash(b"\0" * 20, NOW)  # around the end of the ring
    assert proof is not None and proof.rrset.name[1:33] == third.encode()


def test_useless_records_are_not_indexed() -> None:
    index = AggressiveNsecCache()
    index.add(ZONE, nsec("a.example.", "\\000.a.example."), NOW)  # an empty span (RFC 4470)
    index.add(ZONE, nsec("b.example.", "c.example.", ttl=0), NOW)
    two = nsec("a.example.", "b.example.")
    index.add(ZONE, RRset(two.name, c.NSEC, 300, [*two.rdatas(), *nsec("a.example.", "c.example.").rdatas()]), NOW)
    bad = nsec3("0" * 32, "5" * 32)
    index.add(ZONE, bad.with_name(names.from_text("not-base32-but-z.example.")), NOW)
    assert len(index) == 0


def test_the_index_is_bounded() -> None:
    index = AggressiveNsecCache(20, per_zone=8)
    for zone in ("a.", "b.", "c.", "d."):
        for n in range(30):
            index.add(names.from_text(zone), nsec(f"{n:02}.{zone}", zone), NOW)
        assert len(index) <= 20
    assert index.closest(names.from_text("a.")) is None
    assert index.closest(names.from_text("d.")) is not None
    assert owner_at(index, "29.d.") == "29.d."
    assert owner_at(index, "05.d.") != "05.d."


def test_a_zone_has_a_share_and_its_oldest_records_are_evicted() -> None:
    index = AggressiveNsecCache(20, per_zone=8)
    for n in range(10):
        index.add(names.from_text("a."), nsec(f"{n:02}.a.", "a."), NOW)
    assert len(index) == 8
    assert [n for n in range(10) if owner_at(index, f"{n:02}.a.") == f"{n:02}.a."] == list(range(2, 10))


def test_a_recently_used_zone_is_not_evicted() -> None:
    index = AggressiveNsecCache(2)
    index.add(names.from_text("a."), nsec("x.a.", "a."), NOW)
    index.add(names.from_text("b."), nsec("x.b.", "b."), NOW)
    index.closest(names.from_text("www.a."))
    index.add(names.from_text("c."), nsec("x.c.", "c."), NOW)
    assert index.closest(names.from_text("a.")) is not None
    assert index.closest(names.from_text("b.")) is None


def test_records_of_a_zone_are_removed() -> None:
    index = AggressiveNsecCache()
    for zone in ("example.", "sub.example.", "other."):
        index.add(names.from_text(zone), nsec(f"a.{zone}", zone), NOW)
    assert index.forget(names.from_text("www.Sub.example.")) == 2
    assert len(index) == 1
    index.add(names.from_text("sub.example."), nsec("a.sub.example.", "sub.example."), NOW)
    assert index.forget(ZONE) == 0
    assert index.forget(ZONE, subtree=True) == 1
    index.clear()
    assert len(index) == 0


def test_owner_hash() -> None:
    assert owner_hash(b"\x02zz\0") is None
    assert owner_hash(b"\x0800000000\0") == bytes(5)
    assert owner_hash(b"\x08vvvvvvvv\0") == b"\xff" * 5
    digest = random.Random(1).randbytes(20)
    spelt = base64.b32hexencode(digest)
    assert owner_hash(b"\x20" + spelt + ZONE) == owner_hash(b"\x20" + spelt.lower() + ZONE) == digest
    for odd in (b"", b"+0000000", b" 0000000", b"0000_000", b"0000000\0", b"\xc3\xa40000"):
        assert owner_hash(bytes([len(odd)]) + odd + ZONE) is None
