"""The DNSSEC record types as this room reads them: everything that `fields` reads in C.

Everything here is a plain reading of rdata whose outer shape `wire` has checked (RFC 4034); a reading that fails
returns None, and the caller treats the record as absent. Nothing is verified here; `gate` has the hashes, `verify` the
signatures, `chain` the meaning.
"""

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

__all__ = [
    "DNSKEY_PROTOCOL",
    "REVOKED",
    "SECURE_ENTRY",
    "ZONE_KEY",
    "Dnskey",
    "Ds",
    "Rrsig",
    "bitmap_has",
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
