"""Parsers of DNSSEC records, compared with dnspython and the examples of the RFCs."""

import dns.dnssec
import dns.name
import dns.rdata
import pytest
from support.signing import ALL_ALGORITHMS, INCEPTION, ZoneKey, sign_zone

from resolver.cache.aggressive_nsec import owner_hash
from resolver.effects import Budget
from resolver.playground.signing import bitmap
from resolver.validate import crypto_budget, nsec3, records, verify
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.rrset import RRset

# RFC 4034 section 5.4
DSKEY = (
    "256 3 5 AQOeiiR0GOMYkDshWoSKz9XzfwJr1AYtsmx3TGkJaNXVbfi/2pHm822aJ5iI9BMzNXxeYCmZDRD99WYwYqUSdjMmmAphXdvx"
    "egXd/M5+X7OrzKBaMbCVdFLUUh6DhweJBjEVv5f2wwjM9XzcnOf+EPbtG9DMBmADjFDc2w/rljwvFw=="
)
DS = "60485 5 1 2BB183AF5F22588179A53B0A98631FAD1A292118"
# RFC 5155 appendix A: salt AABBCCDD, 12 iterations
HASHES = {
    "example.": "0p9mhaveqvm6t7vbl5lop2u3t2rp3tom",
    "a.example.": "35mthgpgcu1qg68fab165klnsnk3dpvl",
    "ai.example.": "gjeqe526plbf1g8mklp59enfd789njgi",
    "ns1.example.": "2t7b4g4vsa5smi47k61mv5bv1a22bojr",
    "ns2.example.": "q04jkcevqvmu85r014c7dkba38o0ji5r",
    "w.example.": "k8udemvp1j2f7eg6jebps17vp3n8i58h",
    "*.w.example.": "r53bq7cc2uvmubfu5ocmm6pers9tk9en",
    "x.w.example.": "b4um86eghhds6nea196smvmlo4ors995",
    "y.w.example.": "ji6neoaepv8b5o6k4ev33abha8ht9fgc",
    "x.y.w.example.": "2vptu5timamqttgl4luu9kg21e0aor3s",
    "xx.example.": "t644ebqk9bibcna874givr6joj62mlhv",
    "2t7b4g4vsa5smi47k61mv5bv1a22bojr.example.": "kohar7mbb8dc2ce8a9qvl8hon4k53uhi",
}


def test_ds_of_rfc_4034() -> None:
    key = records.parse_dnskey(present.rdata_from_text(c.DNSKEY, DSKEY))
    ds = records.parse_ds(present.rdata_from_text(c.DS, DS))
    assert key is not None
    assert ds is not None
    assert key.tag == 60485
    assert crypto_budget.ds_matches(Budget(0, 0.0), ds, names.from_text("dskey.example.com."), key)
    assert not crypto_budget.ds_matches(Budget(0, 0.0), ds, names.from_text("dskez.example.com."), key)


@pytest.mark.parametrize("owner", sorted(HASHES))
def test_hashes_of_rfc_5155(owner: str) -> None:
    record = nsec3.Nsec3(b"", b"", 0, 12, bytes.fromhex("aabbccdd"), b"", names.from_text("example."))
    digest = nsec3.Prover.of([record], Budget(0, 0.0)).digest(names.from_text(owner))
    assert digest == owner_hash(b"\x20" + HASHES[owner].encode() + b"\0")


@pytest.mark.parametrize("algorithm", ALL_ALGORITHMS)
def test_every_algorithm_verifies_what_others_signed(algorithm: int) -> None:
    key = ZoneKey("example.", algorithm)
    text = sign_zone(
        "example.",
        "@ 3600 SOA ns.example. h.example. 1 2 3 4 300\n@ 3600 NS ns.Example.\nns 60 A 192.0.2.1\n"
        "*.w 60 MX 1 Mail.Example.\n",
        [key],
    )
    checked = 0
    for rrset in present.zone_from_text(text, names.from_text("example.")):
        for sig in map(records.parse_rrsig, rrset.sigs()):
            assert sig is not None
            job = verify.SignatureJob(
                algorithm, key.dnskey.to_wire()[4:], sig.signature, records.signed_data(rrset, sig)
            )
            assert verify.check(job), rrset
            assert not verify.check(verify.SignatureJob(algorithm, job.key, sig.signature, job.data + b"\0"))
            broken = bytes((sig.signature[0] ^ 1,)) + sig.signature[1:]
            assert not verify.check(verify.SignatureJob(algorithm, job.key, broken, job.data))
            checked += 1
    assert checked == 8


def test_expanded_wildcard_is_signed_under_its_star() -> None:
    key = ZoneKey("example.")
    text = sign_zone("example.", "@ 3600 SOA . . 1 2 3 4 300\n@ 3600 NS ns.example.\n*.w 60 A 192.0.2.1\n", [key])
    star = next(r for r in present.zone_from_text(text, names.from_text("example.")) if r.rtype == c.A)
    expanded = star.with_name(names.from_text("a.b.W.example."))
    sig = records.parse_rrsig(star.sigs()[0])
    assert sig is not None
    assert verify.check(
        verify.SignatureJob(13, key.dnskey.to_wire()[4:], sig.signature, records.signed_data(expanded, sig))
    )


@pytest.mark.parametrize(
    ("key", "signature"),
    [
        (b"", b""),
        (b"\0", b"x"),
        (b"\x03\1\0\1", b"x" * 64),
        (b"\xff" * 3, b""),
        (b"\0\xff\xff" + b"\1" * 9, b"x" * 64),
        (b"a" * 64, b"b" * 63),
    ],
)
@pytest.mark.parametrize("algorithm", [0, 3, 200, *ALL_ALGORITHMS])
def test_malformed_keys_and_signatures_are_just_false(algorithm: int, key: bytes, signature: bytes) -> None:
    assert verify.check(verify.SignatureJob(algorithm, key, signature, b"data")) is False


def test_serial_arithmetic() -> None:
    assert records.serial_before(INCEPTION, INCEPTION + 1)
    assert not records.serial_before(INCEPTION + 1, INCEPTION)
    assert not records.serial_before(5, 5)
    assert records.serial_before(0xFFFFFFF0, 5), "the clock wraps in 2106"


def test_bitmaps_against_dnspython() -> None:
    rdata = dns.rdata.from_text(
        "IN", "NSEC", "a.example. A NS SOA MX TXT RRSIG NSEC DNSKEY TYPE256 TYPE1234 TYPE65280"
    )
    wire = rdata.to_wire()
    bitmap = wire[records.name_end(wire, 0) :]
    listed = {1, 2, 6, 15, 16, 46, 47, 48, 256, 1234, 65280}
    assert {t for t in range(65536) if records.bitmap_has(bitmap, t)} == listed
    for cut in range(len(bitmap)):
        assert {t for t in (*listed, 65535) if records.bitmap_has(bitmap[:cut], t)} <= listed


def test_rrsig_that_is_cut_short_is_nothing() -> None:
    whole = dns.dnssec.sign(
        dns.rdata and __import__("dns.rrset").rrset.from_text("a.example.", 60, "IN", "A", "192.0.2.1"),
        ZoneKey("example.").private,
        dns.name.from_text("example."),
        ZoneKey("example.").dnskey,
        inception=INCEPTION,
        expiration=INCEPTION + 60,
    ).to_wire()
    for cut in range(18 + 9 + 1):
        assert records.parse_rrsig(whole[:cut]) is None
    assert records.parse_rrsig(whole) is not None


def test_signed_data_ignores_order_and_case() -> None:
    one = RRset(
        names.from_text("Ab.example."), c.NS, 60, [names.from_text("B.example."), names.from_text("a.example.")]
    )
    two = RRset(
        names.from_text("aB.example."), c.NS, 99, [names.from_text("A.example."), names.from_text("b.example.")]
    )
    sig = records.Rrsig(c.NS, 13, 2, 60, 0, 0, 1, names.from_text("example."), b"", b"\0" * 18 + b"\0")
    assert records.signed_data(one, sig) == records.signed_data(two, sig)


def test_opt_out_span_proves_no_ds_whatever_owns_it() -> None:
    """The record that covers the delegation is that of the wildcard, which has an alias (RFC 5155 section 8.6)."""
    zone, cut, star = (names.from_text(text) for text in ("example.", "sub.example.", "*.example."))
    digest = nsec3.Prover([], zone=zone, iterations=0, salt=b"", budget=Budget(0, 0.0)).digest

    def record(owner: bytes, following: bytes, types: set[int]) -> nsec3.Nsec3:
        return nsec3.Nsec3(digest(owner), following, 1, 0, b"", bitmap(types), zone)

    apex = record(zone, digest(star), {c.SOA, c.NS})
    span = record(star, digest(star), {c.CNAME})  # the only record of a chain covers all other names
    prover = nsec3.Prover([apex, span], zone=zone, iterations=0, salt=b"", budget=Budget(0, 0.0))
    assert prover.proves_nodata(cut, c.DS) == (True, prover.covering(cut))
    assert prover.proves_nodata(cut, c.A)[0] is False
