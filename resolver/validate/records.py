"""The DNSSEC record types as this room reads them: RRSIG, DNSKEY, DS, type bitmaps, and the bytes a signature covers.

Everything here is a plain reading of rdata whose outer shape `wire` has checked (RFC 4034); a reading that fails
returns None, and the caller treats the record as absent. Nothing is verified here; `verify` has the cryptography,
`chain` the meaning.
"""

import hashlib
import struct
from typing import NamedTuple

from resolver.wire import name as names
from resolver.wire.rrset import RRset

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
    "name_end",
    "parse_dnskey",
    "parse_ds",
    "parse_rrsig",
    "serial_before",
    "signed_data",
    "signer_labels",
]

ZONE_KEY = 0x0100
"""RFC 4034 section 2.1.1, bit 7."""
REVOKED = 0x0080
"""RFC 5011 section 2.1."""
SECURE_ENTRY = 0x0001
"""RFC 4034 section 2.1.1, bit 15: the key is an entry point, one that parents and anchors name."""
DNSKEY_PROTOCOL = 3

DS_DIGESTS = {1: "sha1", 2: "sha256", 4: "sha384"}
"""Digest types of DS records that we compute (RFC 8624 section 3.3)."""

_RRSIG_HEAD = struct.Struct("!HBBIIIH")
_DNSKEY_HEAD = struct.Struct("!HBB")
_HALF = 1 << 31


class Rrsig(NamedTuple):
    """RFC 4034 section 3.1. `rdata` is the whole record, `head` its length without the signature."""

    covered: int
    algorithm: int
    labels: int
    original_ttl: int
    expiration: int
    inception: int
    tag: int
    signer: bytes
    signature: bytes
    rdata: bytes


class Dnskey(NamedTuple):
    """RFC 4034 section 2.1, with the key tag of appendix B."""

    flags: int
    protocol: int
    algorithm: int
    key: bytes
    tag: int
    rdata: bytes

    @property
    def usable(self) -> bool:
        """Whether it may sign zone data at all: a zone key of protocol 3 that is not revoked."""
        return self.flags & (ZONE_KEY | REVOKED) == ZONE_KEY and self.protocol == DNSKEY_PROTOCOL


class Ds(NamedTuple):
    """RFC 4034 section 5.1."""

    tag: int
    algorithm: int
    digest_type: int
    digest: bytes


def name_end(data: bytes, start: int) -> int:
    """Index behind the uncompressed name at `start`, or -1 when it runs out of `data`."""
    at, end = start, len(data)
    while at < end:
        length = data[at]
        if length == 0:
            return at + 1
        if length > 63:
            return -1
        at += length + 1
    return -1


def parse_rrsig(rdata: bytes) -> Rrsig | None:
    """Read an RRSIG; None when it is too short or its signer is not a name."""
    if len(rdata) < _RRSIG_HEAD.size + 2:
        return None
    end = name_end(rdata, _RRSIG_HEAD.size)
    if end < 0 or end >= len(rdata):
        return None
    signer = names.lower(rdata[_RRSIG_HEAD.size : end])
    covered, algorithm, labels, ttl, expiration, inception, tag = _RRSIG_HEAD.unpack_from(rdata)
    return Rrsig(covered, algorithm, labels, ttl, expiration, inception, tag, signer, rdata[end:], rdata)


def key_tag(rdata: bytes) -> int:
    """RFC 4034 appendix B (algorithm 1 with its own rule is not supported anyhow)."""
    if len(rdata) & 1:
        rdata += b"\0"
    total: int = sum(struct.unpack(f"!{len(rdata) // 2}H", rdata))
    return (total + (total >> 16)) & 0xFFFF


def parse_dnskey(rdata: bytes) -> Dnskey | None:
    """Read a DNSKEY; None when it has no key."""
    if len(rdata) <= _DNSKEY_HEAD.size:
        return None
    flags, protocol, algorithm = _DNSKEY_HEAD.unpack_from(rdata)
    return Dnskey(flags, protocol, algorithm, rdata[4:], key_tag(rdata), rdata)


def parse_ds(rdata: bytes) -> Ds | None:
    """Read a DS; None when it has no digest."""
    if len(rdata) <= 4:
        return None
    tag, algorithm, digest_type = struct.unpack_from("!HBB", rdata)
    return Ds(tag, algorithm, digest_type, rdata[4:])


def ds_matches(ds: Ds, zone: bytes, key: Dnskey) -> bool:
    """Whether `ds` is a digest of `key` at `zone` (RFC 4034 section 5.1.4)."""
    if ds.tag != key.tag or ds.algorithm != key.algorithm or ds.digest_type not in DS_DIGESTS:
        return False
    digest = hashlib.new(DS_DIGESTS[ds.digest_type], names.lower(zone) + key.rdata, usedforsecurity=False).digest()
    return digest == ds.digest


def serial_before(a: int, b: int) -> bool:
    """Whether 32-bit time `a` lies before `b` in serial arithmetic (RFC 4034 section 3.1.5, RFC 1982)."""
    return a != b and ((b - a) & 0xFFFFFFFF) < _HALF


def signer_labels(owner: bytes) -> int:
    """Label count as an RRSIG states it: without the root and without a leading asterisk (RFC 4034 section 3.1.3)."""
    count = names.label_count(owner)
    return count - 1 if owner[:2] == b"\x01*" else count


def signed_data(rrset: RRset, sig: Rrsig) -> bytes:
    """The bytes that `sig` signs (RFC 4034 section 3.1.8.1): its own head, then the set in canonical form."""
    owner = names.lower(rrset.name)
    if sig.labels < signer_labels(owner):
        owner = b"\x01*" + names.suffix(owner, sig.labels)
    head = owner + struct.pack("!HHI", rrset.rtype, rrset.rclass, sig.original_ttl)
    parts = [sig.rdata[: _RRSIG_HEAD.size], sig.signer]
    for rdata in rrset.canonical_rdatas():
        parts.append(head)
        parts.append(len(rdata).to_bytes(2, "big"))
        parts.append(rdata)
    return b"".join(parts)


def bitmap_has(bitmap: bytes, rtype: int) -> bool:
    """Whether a type bitmap names `rtype` (RFC 4034 section 4.1.2). A malformed bitmap names nothing."""
    window, low = rtype >> 8, rtype & 0xFF
    at, end = 0, len(bitmap)
    while at + 2 <= end:
        number, length = bitmap[at], bitmap[at + 1]
        at += 2
        if number == window:
            byte = low >> 3
            return byte < length and at + byte < end and bool(bitmap[at + byte] & (0x80 >> (low & 7)))
        if number > window:
            return False
        at += length
    return False
