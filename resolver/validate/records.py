"""The DNSSEC record types as this room reads them: everything that `fields` reads in C, and the digests of keys.

Everything here is a plain reading of rdata whose outer shape `wire` has checked (RFC 4034); a reading that fails
returns None, and the caller treats the record as absent. Nothing is verified here; `verify` has the cryptography,
`chain` the meaning.
"""

import hashlib

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
from resolver.wire import name as names

__all__ = [
    "DNSKEY_PROTOCOL",
    "DS_DIGESTS",
    "REVOKED",
    "SECURE_ENTRY",
    "ZONE_KEY",
    "Dnskey",
    "Ds",
    "Rrsig",
    "bitmap_has",
    "ds_matches",
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

DS_DIGESTS = {1: hashlib.sha1, 2: hashlib.sha256, 4: hashlib.sha384}
"""Digest types of DS records that we compute (RFC 8624 section 3.3)."""


def ds_matches(ds: Ds, zone: bytes, key: Dnskey) -> bool:
    """Whether `ds` is a digest of `key` at `zone` (RFC 4034 section 5.1.4)."""
    if ds.tag != key.tag or ds.algorithm != key.algorithm or ds.digest_type not in DS_DIGESTS:
        return False
    digest = DS_DIGESTS[ds.digest_type](names.lower(zone) + key.rdata, usedforsecurity=False).digest()
    return digest == ds.digest
