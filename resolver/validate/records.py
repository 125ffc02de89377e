"""Parsers of the DNSSEC record types (RFC 4034): those of `fields`, which are in C, and functions on their results.

A parser returns None for rdata that it cannot read, and the caller treats the record as absent. Nothing is verified
here: `crypto_budget` has the hashes, `verify` the signatures, `chain` the meaning.
"""

from collections.abc import Container

from resolver.validate.fields import (
    DNSKEY_PROTOCOL,
    REVOKED,
    ZONE_KEY,
    Dnskey,
    Ds,
    Rrsig,
    bitmap_has,
    is_timely,
    key_tag,
    matching_keys,
    name_end,
    parse_dnskey,
    parse_ds,
    parse_rrsig,
    serial_before,
    signatures,
    signed_data,
    signer_labels,
)
from resolver.wire import consts as c
from resolver.wire.rrset import RRset

__all__ = [
    "COMPACT_DENIAL_TYPES",
    "DENIAL_BITMAP_TYPES",
    "DNSKEY_PROTOCOL",
    "REVOKED",
    "SECURE_ENTRY",
    "ZONE_KEY",
    "Dnskey",
    "Ds",
    "Rrsig",
    "bitmap_has",
    "bitmap_is_within",
    "is_expanded",
    "is_timely",
    "key_tag",
    "matching_keys",
    "name_end",
    "parse_dnskey",
    "parse_ds",
    "parse_rrsig",
    "serial_before",
    "signatures",
    "signed_data",
    "signer_labels",
]

SECURE_ENTRY = 0x0001
"""RFC 4034 section 2.1.1, bit 15: a secure entry point, which DS records and trust anchors refer to."""
DENIAL_BITMAP_TYPES = frozenset((c.RRSIG, c.NSEC, c.NXNAME))
"""Types that the bitmap of a name without data may contain: those of DNSSEC itself and NXNAME (RFC 9824
sections 3.1 and 3.2)."""
COMPACT_DENIAL_TYPES = DENIAL_BITMAP_TYPES | {65281, 65283}
"""The same with the private types that compact denial used before NXNAME: one for empty non-terminals, one for names
that do not exist. Elsewhere they may be data, so they count only in a record that was generated for one name."""


def bitmap_is_within(bitmap: bytes, types: Container[int]) -> bool:
    """Whether a type bitmap has no types except `types` (RFC 4034 section 4.1.2). False for a malformed one."""
    at, last = 0, -1
    while at < len(bitmap):
        window = bitmap[at]
        length = bitmap[at + 1] if at + 1 < len(bitmap) else 0
        octets = bitmap[at + 2 : at + 2 + length]
        if window <= last or not 1 <= length <= 32 or len(octets) != length:
            return False
        for place, octet in enumerate(octets):
            for bit in range(8):
                if octet & (0x80 >> bit) and (window << 8 | place << 3 | bit) not in types:
                    return False
        at, last = at + 2 + length, window
    return True


def is_expanded(rrset: RRset) -> bool:
    """Whether a verified set was expanded from a wildcard: its first signature has fewer labels than its owner (RFC
    4035 section 5.3.4). True for a set without a readable signature."""
    first = signatures(rrset, 1)
    return not first or first[0].labels != signer_labels(rrset.name)
