"""Proofs of absence by hashed names (RFC 5155, RFC 9276).

The records have been verified before. Hashing can be abused (CVE-2023-50868): each proof memoises its hashes, their
number is limited, `crypto_budget` charges them to the query, and with more iterations than the limit nothing is proved
and the zone is insecure. Each proof returns the opt-out record that it depends on, because opt-out turns "does not
exist" into "is not signed".
"""

import struct
from typing import NamedTuple

from resolver import limits
from resolver.cache.aggressive_nsec import owner_hash
from resolver.effects import Budget
from resolver.validate.crypto_budget import HashBudgetExceeded, hash_name
from resolver.validate.records import DENIAL_BITMAP_TYPES, bitmap_has, bitmap_is_within, is_expanded
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["HashBudgetExceeded", "Nsec3", "Prover", "parse", "read"]

SHA1 = 1
OPT_OUT = 1


class Nsec3(NamedTuple):
    """One verified NSEC3 record."""

    owner_hash: bytes
    next_hash: bytes
    flags: int
    iterations: int
    salt: bytes
    bitmap: bytes
    zone: bytes

    def has(self, rtype: int) -> bool:
        """Whether the bitmap has the type."""
        return bitmap_has(self.bitmap, rtype)

    @property
    def opt_out(self) -> bool:
        """Whether unsigned delegations may exist in its span (RFC 5155 section 6)."""
        return bool(self.flags & OPT_OUT)

    def covers(self, digest: bytes) -> bool:
        """Whether `digest` is strictly between this hash and the next, also across the end of the hash order."""
        if self.owner_hash < self.next_hash:
            return self.owner_hash < digest < self.next_hash
        return digest > self.owner_hash or digest < self.next_hash


def parse(owner: bytes, rdata: bytes, zone: bytes) -> Nsec3 | None:
    """Parse a record; None for unknown hash algorithms or flags (RFC 5155 sections 8.1 and 8.2), long salts, and owners
    not directly below the apex of the zone (CVE-2026-10723)."""
    if len(rdata) < 6:
        return None
    algorithm, flags, iterations, salt_length = struct.unpack_from("!BBHB", rdata)
    if algorithm != SHA1 or flags & ~OPT_OUT or salt_length > limits.NSEC3_SALT:
        return None
    at = 5 + salt_length
    salt = rdata[5:at]
    if at >= len(rdata):
        return None
    length = rdata[at]
    next_hash = rdata[at + 1 : at + 1 + length]
    if len(next_hash) != length or names.lower(names.parent(owner)) != zone:
        return None
    hashed = owner_hash(owner)
    if hashed is None or len(hashed) != length:
        return None
    return Nsec3(hashed, next_hash, flags, iterations, salt, rdata[at + 1 + length :], zone)


def read(rrset: RRset, zone: bytes) -> list[Nsec3]:
    """The usable records of a verified set of `zone`; none of a set expanded from a wildcard."""
    if is_expanded(rrset):
        return []
    return [record for rdata in rrset.rdatas() if (record := parse(rrset.name, rdata, zone)) is not None]


class Prover:
    """The NSEC3 records of one reply, of one zone and one set of parameters, with the hashes computed so far.

    Hashes are charged to `budget`. None has more than `most` iterations, and at most `hashes` are computed.
    """

    def __init__(
        self,
        records: list[Nsec3],
        *,
        zone: bytes,
        iterations: int,
        salt: bytes,
        budget: Budget,
        most: int = limits.NSEC3_ITERATIONS.default,
        hashes: int = limits.NSEC3_HASHES,
    ) -> None:
        self.zone = zone
        self.most = most
        self._budget = budget
        self.iterations = iterations
        self.salt = salt
        self._hashes = hashes
        # RFC 5155 section 8.2: all records must have the same parameters; others are ignored.
        self.records = [r for r in records if (r.zone, r.iterations, r.salt) == (zone, iterations, salt)]
        self._memo: dict[bytes, bytes] = {}

    @classmethod
    def of(cls, records: list[Nsec3], budget: Budget, *, most: int = limits.NSEC3_ITERATIONS.default) -> "Prover":
        """A prover with the zone and parameters of the first of `records`."""
        first = records[0]
        return cls(records, zone=first.zone, iterations=first.iterations, salt=first.salt, budget=budget, most=most)

    @property
    def exceeds_iterations(self) -> bool:
        """Whether the records have more iterations than `most`, so that they prove nothing (RFC 9276 section 3.2)."""
        return self.iterations > self.most

    def digest(self, name: bytes) -> bytes:
        """Hash of a lower-case name (RFC 5155 section 5).

        Raises:
            HashBudgetExceeded: the limit of this reply or the budget of the query is reached, or the iterations exceed
                `most`.
        """
        known = self._memo.get(name)
        if known is None:
            if len(self._memo) >= self._hashes:
                raise HashBudgetExceeded
            known = hash_name(self._budget, name, self.salt, self.iterations, most=self.most)
            self._memo[name] = known
        return known

    def matching(self, name: bytes) -> Nsec3 | None:
        """The record of `name`, or None."""
        digest = self.digest(name)
        return next((r for r in self.records if r.owner_hash == digest), None)

    def covering(self, name: bytes) -> Nsec3 | None:
        """A record whose span holds the hash of `name`, or None."""
        digest = self.digest(name)
        return next((r for r in self.records if r.covers(digest)), None)

    def closest_encloser(self, qname: bytes) -> tuple[bytes, Nsec3] | None:
        """The closest encloser and the record that covers the next closer name (RFC 5155 section 8.3); None without
        such a proof."""
        labels = names.label_count(qname)
        apex = names.label_count(self.zone)
        for count in range(labels - 1, apex - 1, -1):
            candidate = names.suffix(qname, count)
            match = self.matching(candidate)
            if match is None:
                continue
            # A delegation or DNAME cannot be the closest encloser: names below it are not in this zone.
            if match.has(c.DNAME) or (match.has(c.NS) and not match.has(c.SOA)):
                return None
            cover = self.covering(names.suffix(qname, count + 1))
            return None if cover is None else (candidate, cover)
        return None

    def proves_nxdomain(self, qname: bytes) -> tuple[bool, Nsec3 | None]:
        """NXDOMAIN (RFC 5155 section 8.4): (proved, the record whose opt-out flag weakens it)."""
        found = self.closest_encloser(qname)
        if found is None:
            return False, None
        encloser, cover = found
        if self.covering(names.wildcard(encloser)) is None:
            return False, None
        return True, cover if cover.opt_out else None

    def proves_nodata(self, qname: bytes, qtype: int) -> tuple[bool, Nsec3 | None]:
        """NODATA (RFC 5155 sections 8.5 to 8.7): (proved, the record whose opt-out flag weakens it)."""
        match = self.matching(qname)
        if match is not None:
            return self._lacks(match, qtype, qname), None
        found = self.closest_encloser(qname)
        if found is None:
            return False, None
        encloser, cover = found
        opt_out = cover if cover.opt_out else None
        if qtype == c.DS and opt_out is not None:
            # RFC 5155 section 8.6: the span is the whole proof. A wildcard does not apply to a delegation.
            return True, opt_out
        star = self.matching(names.wildcard(encloser))
        if star is not None:
            return self._lacks(star, qtype, names.wildcard(encloser)), opt_out
        return opt_out is not None, opt_out

    def _lacks(self, record: Nsec3, qtype: int, qname: bytes) -> bool:
        if qtype == c.ANY:
            return bitmap_is_within(record.bitmap, DENIAL_BITMAP_TYPES)
        if record.has(qtype) or record.has(c.CNAME):
            return False
        if qtype == c.DS:
            return qname == names.ROOT or not record.has(c.SOA)
        return not (record.has(c.NS) and not record.has(c.SOA))

    def proves_wildcard_expansion(self, qname: bytes, encloser: bytes) -> tuple[bool, Nsec3 | None]:
        """A positive answer from ``*.encloser`` (RFC 5155 section 8.8): (proved, the record whose opt-out flag weakens
        it)."""
        cover = self.covering(names.suffix(qname, names.label_count(encloser) + 1))
        if cover is None:
            return False, None
        return True, cover if cover.opt_out else None
