"""Arbitrary rdata of the DNSSEC types, as validation parses it.

The parsers must never raise, and parsed data must be part of the input. A signature of arbitrary bytes is never valid.
An index of arbitrary records answers every lookup.
"""

from resolver.cache.aggressive_nsec import AggressiveNsecCache, owner_hash
from resolver.effects import Budget
from resolver.validate import crypto_budget, nsec, nsec3, records, verify
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.errors import WireError
from resolver.wire.rrset import RRset

ZONE = b"\x07example\0"
NOW = 1_700_000_000
INDEX = AggressiveNsecCache(200, per_zone=50)
TYPES = (c.A, c.NS, c.SOA, c.DS, c.RRSIG, 255, 256, 65535)


def run(data: bytes) -> None:
    """One input: a label's length and the label, then rdata."""
    if not data:
        return
    size = data[0] & 63
    label, rdata = data[1 : 1 + size], data[1 + size :]
    owner = bytes((len(label),)) + label + ZONE if label else ZONE
    sig, key, ds = records.parse_rrsig(rdata), records.parse_dnskey(rdata), records.parse_ds(rdata)
    if sig is not None:
        assert names.is_valid(sig.signer) and rdata.endswith(sig.signature)
        job = verify.SignatureJob(sig.algorithm, rdata[4:], sig.signature, rdata)
        assert verify.check(job) is False
        for rrset in (RRset(owner, c.A, 60, [bytes(4)]), RRset(owner, c.NS, 60, [owner, ZONE], sigs=[])):
            if sig.labels <= records.signer_labels(owner):
                signed = records.signed_data(rrset, sig)
                assert signed.startswith(rdata[:18] + sig.signer)
            records.is_timely(sig, rrset, NOW)
        assert records.matching_keys([] if key is None else [key], sig) in ([], [key])
    if key is not None and ds is not None:
        assert 0 <= key.tag <= 0xFFFF
        assert not crypto_budget.ds_matches(Budget(0, 0.0), ds, owner, key)
    for rtype in TYPES:
        records.bitmap_has(rdata, rtype)
    packed = RRset.from_packed(owner, c.A, 60, b"\0\4abcd", len(rdata).to_bytes(2, "big") + rdata)
    assert all(found.rdata == rdata for found in records.signatures(packed, 16))
    hashed = owner_hash(owner)
    assert hashed is None or len(hashed) == owner[0] * 5 // 8
    plain, chained = nsec.parse(owner, rdata, ZONE), nsec3.parse(owner, rdata, ZONE)
    if plain is not None:
        assert names.is_subdomain(plain.next_name, ZONE)
        for rtype in TYPES:
            nsec.proves_nodata([plain], owner, rtype)
        nsec.proves_nxdomain([plain], b"\x01a" + ZONE)
        _store_denials(owner, c.NSEC, rdata)
    if chained is not None:
        if chained.iterations < 10:
            prover = nsec3.Prover.of([chained], Budget(0, 0.0))
            prover.proves_nodata(owner, c.A)
            prover.proves_nxdomain(b"\x01a" + ZONE)
        _store_denials(owner, c.NSEC3, rdata)
    known = INDEX.closest(ZONE)
    if known is not None:
        known.at_or_before(names.lower(owner), NOW + 1)
        known.at_or_before_hash(rdata[:20], NOW + 1)


def _store_denials(owner: bytes, rtype: int, rdata: bytes) -> None:
    try:
        rrset = RRset(owner, rtype, 300, [rdata])
    except WireError:
        return  # the wire room lets such rdata never come this far
    INDEX.add(ZONE, rrset, NOW)
