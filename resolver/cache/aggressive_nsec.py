"""Verified NSEC and NSEC3 records in the order of their zone, so that they answer for names never queried (RFC 8198).

A record is found by the gap that a name falls into, which a hash table cannot do. So the records of each zone are
sorted, by canonical name or by hash, and a lookup is one bisection. This module does not decide what a record proves:
validation treats these records like those of a reply. Only records with verified signatures may be added. The number of
records is limited per zone and in total; the least recently used zone is evicted first. The index belongs to one
process, unlike the table, because it consists of Python objects. What is evicted is queried again.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from typing import Any

from resolver import limits
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset, negative_ttl

__all__ = ["AggressiveNsecCache", "CachedNsec", "NsecZone", "owner_hash"]

SCAN = limits.EXPIRED_NSEC_SCAN
OVERHEAD = limits.DENIAL_OVERHEAD


class CachedNsec:
    """One record: `rrset` with its signatures, valid until `expires` (seconds since 1970).

    `parsed` is the parsed rdata, which validation stores and uses.
    """

    __slots__ = ("cost", "expires", "parsed", "rrset")

    def __init__(self, rrset: RRset, expires: int) -> None:
        self.rrset = rrset
        self.expires = expires
        # The record, its parsed form, and its signatures.
        self.cost = OVERHEAD + 3 * len(rrset.packed) + len(rrset.packed_sigs) + 3 * len(rrset.name)
        self.parsed: Any = None

    def with_remaining_ttl(self, now: int) -> RRset:
        """Return the set with its remaining TTL (seconds)."""
        return self.rrset.with_ttl(max(self.expires - now, 0))


class _NsecChain:
    """Records in the order of their keys. The gap of the last one wraps around to the first."""

    __slots__ = ("keys", "octets", "proofs")

    def __init__(self) -> None:
        self.octets = 0
        self.keys: list[bytes] = []
        self.proofs: dict[bytes, CachedNsec] = {}

    def put(self, key: bytes, proof: CachedNsec) -> int:
        """Add or replace a record. Returns by how many the number of records grows: 1 or 0."""
        known = key in self.proofs
        if known:
            self.octets -= self.proofs.pop(key).cost  # re-inserted below as the newest
        else:
            at = bisect_left(self.keys, key)
            self.keys.insert(at, key)
        self.proofs[key] = proof
        self.octets += proof.cost
        return 0 if known else 1

    def remove(self, key: bytes) -> None:
        self.octets -= self.proofs.pop(key).cost
        del self.keys[bisect_left(self.keys, key)]

    def before(self, key: bytes) -> tuple[bytes, CachedNsec] | None:
        """The record at `key`, or the last one before it; before the first one, the last of all."""
        if not self.keys:
            return None
        found = self.keys[bisect_right(self.keys, key) - 1]
        return found, self.proofs[found]


class NsecZone:
    """The records of one zone: NSEC by name, NSEC3 by hash, and the SOA."""

    __slots__ = ("_hashes", "_index", "_names", "_soa", "parameters", "zone")

    def __init__(self, zone: bytes, index: AggressiveNsecCache) -> None:
        self.zone = zone
        self._index = index
        self.parameters = b""
        """NSEC3 iterations and salt as in the rdata; hashes with other parameters are not comparable."""
        self._names = _NsecChain()
        self._hashes = _NsecChain()
        self._soa: CachedNsec | None = None

    def __len__(self) -> int:
        return len(self._names.keys) + len(self._hashes.keys)

    @property
    def octets(self) -> int:
        """Estimated memory of the zone, its records and its SOA."""
        soa = self._soa.cost if self._soa is not None else 0
        return self._names.octets + self._hashes.octets + soa + OVERHEAD + 3 * len(self.zone)

    @property
    def has_names(self) -> bool:
        """Whether there is any NSEC."""
        return bool(self._names.keys)

    @property
    def has_hashes(self) -> bool:
        """Whether there is any NSEC3."""
        return bool(self._hashes.keys)

    def soa(self, now: int) -> RRset | None:
        """The SOA with the remaining negative TTL (RFC 2308 section 5); None when there is none or it has expired."""
        proof = self._soa
        return None if proof is None or proof.expires <= now else proof.with_remaining_ttl(now)

    def at_or_before(self, name: bytes, now: int) -> CachedNsec | None:
        """The NSEC of `name` (lower case), or the last one before it, whose gap may cover it."""
        return self._fresh(self._names, names.canonical_key(name), now)

    def at_or_before_hash(self, digest: bytes, now: int) -> CachedNsec | None:
        """The NSEC3 of `digest`, or the last one before it, whose gap may cover it."""
        return self._fresh(self._hashes, digest, now)

    def _fresh(self, ring: _NsecChain, key: bytes, now: int) -> CachedNsec | None:
        for _ in range(SCAN):
            found = ring.before(key)
            if found is None:
                return None
            if found[1].expires > now:
                return found[1]
            before = ring.octets
            ring.remove(found[0])  # it has expired, and would hide a newer one with a wider gap
            self._index._count -= 1
            self._index.octets += ring.octets - before
        return None


class AggressiveNsecCache:
    """The records of all zones. TTLs are at most `max_ttl` seconds and, once known, the zone's negative TTL."""

    def __init__(
        self,
        capacity: int = limits.DENIAL_RECORDS,
        *,
        per_zone: int = limits.DENIAL_RECORDS_PER_ZONE,
        max_ttl: int = limits.CACHE_MAX_NEGATIVE_TTL.default,
        octets: int = limits.DENIAL_OCTETS,
    ) -> None:
        self.name = "denials"
        self.limit = octets
        self.octets = 0
        self._capacity = capacity
        self._per_zone = per_zone
        self._max_ttl = max_ttl
        self._zones: OrderedDict[bytes, NsecZone] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, zone: bytes, rrset: RRset, now: int) -> None:
        """Add a verified NSEC or NSEC3 set of `zone` (lower case). Sets that cannot cover other names are ignored."""
        if len(rrset) != 1:
            return
        if rrset.rtype == c.NSEC:
            owner = names.lower(rrset.name)
            if rrset.rdata(0).startswith(b"\x01\0" + owner):
                return  # covers no other name: made for one query (RFC 4470, RFC 9824)
            key, hashed = names.canonical_key(owner), False
        else:
            digest = owner_hash(rrset.name)
            if digest is None:
                return
            key, hashed = digest, True
        known = self._entry(zone)
        self.octets -= known.octets
        self._add(known, key, rrset, now, hashed=hashed)
        self.octets += known.octets
        self._evict()

    def _evict(self) -> None:
        """Drop the least recently used zones until the limits are kept."""
        while self._count > self._capacity or self.octets > self.limit:
            oldest = self._zones.popitem(last=False)[1]
            self._count -= len(oldest)
            self.octets -= oldest.octets

    def _add(self, known: NsecZone, key: bytes, rrset: RRset, now: int, *, hashed: bool) -> None:
        if hashed:
            rdata = rrset.rdata(0)
            parameters = rdata[2 : 5 + rdata[4]]
            if known.parameters != parameters:
                self._count -= len(known._hashes.keys)
                known._hashes = _NsecChain()
                known.parameters = parameters
        ttl = min(rrset.ttl, self._max_ttl)
        if known._soa is not None:
            ttl = min(ttl, known._soa.rrset.ttl)
        if ttl <= 0:
            return
        ring = known._hashes if hashed else known._names
        self._count += ring.put(key, CachedNsec(rrset, now + ttl))
        if len(ring.keys) > self._per_zone:
            ring.remove(next(iter(ring.proofs)))
            self._count -= 1

    def add_soa(self, rrset: RRset, now: int) -> None:
        """Add the verified SOA of a denial. Its TTL or lower MINIMUM limits the TTLs of the records (RFC 9077)."""
        ttl = min(negative_ttl(rrset), self._max_ttl)
        if ttl > 0:
            known = self._zones.get(names.lower(rrset.name))
            if known is not None:
                self.octets -= known.octets
                known._soa = CachedNsec(rrset.with_ttl(ttl), now + ttl)
                self.octets += known.octets
                self._evict()

    def closest(self, name: bytes) -> NsecZone | None:
        """The deepest zone at or above `name` (lower case) that has records; None when there is none."""
        zones = self._zones
        zone = names.closest_in(name, zones) if zones else None
        if zone is None:
            return None
        zones.move_to_end(zone)
        return zones[zone]

    def forget(self, name: bytes, *, subtree: bool = False) -> int:
        """Drop the zones that contain `name`, since any of their records may cover it; with `subtree` also those below
        it. Returns the number of dropped records."""
        name = names.lower(name)
        gone = [
            zone for zone in self._zones
            if names.is_subdomain(name, zone) or (subtree and names.is_subdomain(zone, name))
        ]
        before = self._count
        for zone in gone:
            known = self._zones.pop(zone)
            self._count -= len(known)
            self.octets -= known.octets
        return before - self._count

    def clear(self) -> None:
        """Remove everything."""
        self._zones.clear()
        self._count = 0
        self.octets = 0

    def _entry(self, zone: bytes) -> NsecZone:
        known = self._zones.get(zone)
        if known is None:
            known = self._zones[zone] = NsecZone(zone, self)
            self.octets += known.octets
        else:
            self._zones.move_to_end(zone)
        return known


def owner_hash(owner: bytes) -> bytes | None:
    """The hash in the first label of an NSEC3 owner (RFC 5155 section 3), or None when it is not base32hex."""
    label = owner[1 : 1 + owner[0]]
    if not label.isalnum():
        return None  # int() would accept signs, spaces and underscores as well
    try:
        value = int(label, 32)  # the digits of base32hex, in either case
    except ValueError:
        return None
    bits = len(label) * 5
    return (value >> bits % 8).to_bytes(bits // 8, "big")
