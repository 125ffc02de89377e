"""The digest of a zone (ZONEMD, RFC 8976): scheme SIMPLE with SHA-384 and SHA-512.

A digest that matches shows that the content is what its owner published, when the ZONEMD record itself is secure; who
validates it is decided by the caller. Without DNSSEC it finds damage, not forgery.
"""

import enum
import hashlib
from collections.abc import Iterator

from resolver.wire import consts as c
from resolver.wire import rdata as rdatas
from resolver.zones.zone import Zone, in_canonical_order, soa_fields

__all__ = ["DigestStatus", "check_digest", "digest_of"]

SIMPLE = 1
HASHES = {1: "sha384", 2: "sha512"}
SIZES = {1: 48, 2: 64}
FIXED = 6  # serial, scheme, hash algorithm


class DigestStatus(enum.Enum):
    """What the ZONEMD records say about the content."""

    MATCHES = "matches"
    ABSENT = "absent"
    """There is no ZONEMD record."""
    UNSUPPORTED = "unsupported"
    """There are only records of schemes or hashes that are not known here."""
    WRONG = "wrong"


def digest_of(zone: Zone, algorithm: int) -> bytes:
    """The digest of the content (RFC 8976 section 3.3). `algorithm` is one of `HASHES`."""
    made = hashlib.new(HASHES[algorithm])
    for owner, rtype, ttl, rdata in canonical(zone):
        made.update(b"%b%b\0\1%b%b%b" % (
            owner, rtype.to_bytes(2, "big"), ttl.to_bytes(4, "big"), len(rdata).to_bytes(2, "big"), rdata
        ))
    return made.digest()


def canonical(zone: Zone) -> Iterator[tuple[bytes, int, int, bytes]]:
    """The records that count, in canonical order and form (RFC 8976 section 3.3.1): without the ZONEMD records of the
    apex and their signatures. Glue and occluded names count."""
    by_owner: dict[bytes, list[tuple[int, bytes, int]]] = {}
    for owner, rtype, ttl, rdata in zone:
        if owner == zone.origin and (
            rtype == c.ZONEMD or (rtype == c.RRSIG and int.from_bytes(rdata[:2], "big") == c.ZONEMD)
        ):
            continue
        by_owner.setdefault(owner, []).append((rtype, rdatas.canonical(rtype, rdata), ttl))
    for owner in in_canonical_order(by_owner):
        for rtype, rdata, ttl in sorted(by_owner[owner]):
            yield owner, rtype, ttl, rdata


def check_digest(zone: Zone) -> DigestStatus:
    """Compare the content with its ZONEMD records (RFC 8976 section 4). One that matches is enough."""
    held = zone.rrset(zone.origin, c.ZONEMD)
    if held is None:
        return DigestStatus.ABSENT
    serial = soa_fields(zone.soa.rdata(0)).serial
    kinds = [rdata[4:FIXED] for rdata in held.rdatas()]
    status = DigestStatus.UNSUPPORTED
    for rdata in held.rdatas():
        scheme, algorithm = rdata[4], rdata[5]
        # Records with the same scheme and hash must not be used (section 4 step 4.b).
        if scheme != SIMPLE or algorithm not in HASHES or kinds.count(rdata[4:FIXED]) > 1:
            continue
        status = DigestStatus.WRONG
        if int.from_bytes(rdata[:4], "big") == serial and len(rdata) == FIXED + SIZES[algorithm] \
                and digest_of(zone, algorithm) == rdata[FIXED:]:
            return DigestStatus.MATCHES
    return status
