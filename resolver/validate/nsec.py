"""Proofs of absence by NSEC (RFC 4034 section 4, RFC 4035 section 5.4, RFC 6840 section 4).

The records have been verified before; the functions here decide what they prove. An NSEC record whose owner is a
delegation or has a DNAME proves nothing about names below it. One that was expanded from a wildcard proves nothing at
all. The next name of the last NSEC record of a zone is the apex.
"""

from collections.abc import Iterable
from typing import NamedTuple

from resolver.validate.records import (
    COMPACT_DENIAL_TYPES,
    DENIAL_BITMAP_TYPES,
    bitmap_has,
    bitmap_is_within,
    is_expanded,
    name_end,
)
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = [
    "Nsec",
    "closest_encloser",
    "covering",
    "matching",
    "parse",
    "proves_nodata",
    "proves_nxdomain",
    "proves_wildcard_expansion",
    "read",
]


class Nsec(NamedTuple):
    """One verified NSEC record; names in lower case."""

    owner: bytes
    next_name: bytes
    bitmap: bytes
    zone: bytes

    def has(self, rtype: int) -> bool:
        """Whether the bitmap has the type."""
        return bitmap_has(self.bitmap, rtype)

    @property
    def is_delegation(self) -> bool:
        """Whether the owner is the parent's side of a zone cut."""
        return self.has(c.NS) and not self.has(c.SOA)

    def covers(self, name: bytes) -> bool:
        """Whether `name` is strictly between owner and next name, and not below a delegation or DNAME at the owner."""
        if names.compare(self.owner, name) >= 0:
            return False
        if names.compare(self.owner, self.next_name) < 0:
            inside = names.compare(name, self.next_name) < 0
        else:
            inside = names.is_subdomain(name, self.zone)  # the last record of the zone
        if not inside:
            return False
        # RFC 6840 section 4.1: an ancestor delegation's NSEC, or that of a DNAME, proves nothing below its owner.
        return not (names.is_subdomain(name, self.owner) and (self.is_delegation or self.has(c.DNAME)))


def parse(owner: bytes, rdata: bytes, zone: bytes) -> Nsec | None:
    """Parse a record; None when its owner or next name is outside the zone that signed it (CVE-2026-13321)."""
    end = name_end(rdata, 0)
    if end < 0:
        return None
    owner, next_name = names.lower(owner), names.lower(rdata[:end])
    if not names.is_subdomain(owner, zone) or not names.is_subdomain(next_name, zone):
        return None
    return Nsec(owner, next_name, rdata[end:], zone)


def read(rrset: RRset, zone: bytes) -> list[Nsec]:
    """The usable records of a verified set of `zone`.

    None of a set expanded from a wildcard: it is valid at the wildcard and not at its owner (RFC 4035 section 5.3.4,
    CVE-2017-15105).
    """
    if is_expanded(rrset):
        return []
    return [record for rdata in rrset.rdatas() if (record := parse(rrset.name, rdata, zone)) is not None]


def matching(records: Iterable[Nsec], name: bytes) -> Nsec | None:
    """The record whose owner is `name` (lower case)."""
    return next((r for r in records if r.owner == name), None)


def covering(records: Iterable[Nsec], name: bytes) -> Nsec | None:
    """A record that proves that `name` has no records of its own."""
    return next((r for r in records if r.covers(name)), None)


def closest_encloser(record: Nsec, name: bytes) -> bytes:
    """The closest existing ancestor of `name`, by the record that covers the name."""
    shared = max(names.common_labels(name, record.owner), names.common_labels(name, record.next_name))
    return names.suffix(name, shared)


def _is_empty_non_terminal(record: Nsec, name: bytes) -> bool:
    return names.is_subdomain(record.next_name, name) and record.next_name != name


def proves_nxdomain(records: list[Nsec], qname: bytes) -> bool:
    """NXDOMAIN: neither the name nor a wildcard that would match it exists (RFC 4035 section 5.4)."""
    cover = covering(records, qname)
    if cover is None or _is_empty_non_terminal(cover, qname):
        return False
    star = names.wildcard(closest_encloser(cover, qname))
    at_star = covering(records, star)
    return at_star is not None and not _is_empty_non_terminal(at_star, star)


def _lacks(record: Nsec, qtype: int, qname: bytes) -> bool:
    """Whether the record that matches a name proves that it has no `qtype`, from the right side of a zone cut.

    Bitmaps have no bit for ANY: the name must have no data at all.
    """
    if qtype == c.ANY:
        # RFC 9824 section 3: the next name of a record that was generated for one name is its immediate successor.
        generated = record.next_name == b"\x01\0" + record.owner
        return bitmap_is_within(record.bitmap, COMPACT_DENIAL_TYPES if generated else DENIAL_BITMAP_TYPES)
    if record.has(qtype) or record.has(c.CNAME):
        return False
    if qtype == c.DS:
        return qname == names.ROOT or not record.has(c.SOA)  # a record of the child's apex does not deny its DS
    return not record.is_delegation


def proves_nodata(records: list[Nsec], qname: bytes, qtype: int) -> bool:
    """NODATA: the name, or the wildcard that matches it, exists without the type (RFC 4035 section 3.1.3)."""
    match = matching(records, qname)
    if match is not None:
        return _lacks(match, qtype, qname)
    cover = covering(records, qname)
    if cover is None:
        return False
    if _is_empty_non_terminal(cover, qname):
        return True
    star = matching(records, names.wildcard(closest_encloser(cover, qname)))
    return star is not None and _lacks(star, qtype, star.owner)


def proves_wildcard_expansion(records: list[Nsec], qname: bytes, encloser: bytes) -> bool:
    """A positive answer from ``*.encloser``: nothing closer to `qname` exists (RFC 4035 section 5.3.4)."""
    cover = covering(records, qname)
    return cover is not None and names.label_count(closest_encloser(cover, qname)) <= names.label_count(encloser)
