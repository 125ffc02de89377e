"""The DNSSEC record types as this room reads them: everything that `fields` reads in C.

Everything here is a plain reading of rdata whose outer shape `wire` has checked (RFC 4034); a reading that fails
returns None, and the caller treats the record as absent. Nothing is verified here; `gate` has the hashes, `verify` the
signatures, `chain` the meaning.
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
"""RFC 4034 section 2.1.1, bit 15: the key is an entry point, one that parents and anchors name."""
DENIAL_BITMAP_TYPES = frozenset((c.RRSIG, c.NSEC, c.NXNAME))
"""What the bitmap of a name without data may still name: what DNSSEC itself puts there (RFC 9824 section 3.4)."""
COMPACT_DENIAL_TYPES = DENIAL_BITMAP_TYPES | {65281, 65283}
"""The same with the private types that compact denial used before it had NXNAME: one for empty non-terminals, one for
names that do not exist. Others use them for data, so they count only in a record that was made up for one name."""


def bitmap_is_within(bitmap: bytes, types: Container[int]) -> bool:
    """Whether a type bitmap names none but `types` (RFC 4034 section 4.1.2). A malformed one may name anything."""
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
    """Whether a verified set was made from a wildcard: its signature, the first one, counts fewer labels than its owner
    has (RFC 4035 section 5.3.4). One without a readable signature is taken for one that was."""
    first = signatures(rrset, 1)
    return not first or first[0].labels != signer_labels(rrset.name)
