"""Selects the NSEC or NSEC3 records for answers of a signed zone (RFC 4035 section 3.1.3, RFC 5155 section 7.2).

Records and signatures are those of the zone; none is created here. A zone with NSEC3 records uses these, another signed
zone its NSEC chain, an unsigned zone none. Sorted tables are built once for each zone, because every negative answer
needs a binary search.
"""

import bisect
import hashlib

from resolver.playground.zones import Lookup, LookupResult, Zone
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["Denial"]


class Denial:
    """The proofs of one zone."""

    __slots__ = ("_hashes", "_iterations", "_keys", "_owners", "_salt", "_zone")

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        pairs = sorted((names.canonical_key(owner), owner) for owner, node in zone.nodes.items() if c.NSEC in node)
        self._keys = [key for key, _ in pairs]
        self._owners = [owner for _, owner in pairs]
        self._hashes = sorted(zone.nsec3)
        self._iterations = 0
        self._salt = b""
        if self._hashes:
            # NSEC3 rdata begins with algorithm, flags, iterations and salt.
            rdata = zone.nsec3[self._hashes[0]].rdata(0)
            self._iterations = int.from_bytes(rdata[2:4], "big")
            self._salt = rdata[5 : 5 + rdata[4]]

    def prove(self, lookup: Lookup, qname: bytes) -> list[RRset]:
        """The records of the authority section that prove the answer `lookup` to `qname`."""
        if not self._zone.signed:
            return []
        chosen = self._nsec3(lookup, qname) if self._hashes else self._nsec(lookup, qname)
        return list({id(rrset): rrset for rrset in chosen if rrset is not None}.values())

    # --- NSEC ---------------------------------------------------------------------------------------------------

    def _nsec(self, lookup: Lookup, qname: bytes) -> list[RRset | None]:
        if lookup.kind is LookupResult.NXDOMAIN:
            return [self._covering(qname), self._covering(names.wildcard(lookup.closest_encloser))]
        proofs: list[RRset | None] = []
        if lookup.kind is LookupResult.REFERRAL:
            if c.DS not in self._zone.nodes[lookup.node]:
                proofs.append(self._matching(lookup.node))
            return proofs
        if lookup.kind is LookupResult.NODATA:
            # An empty non-terminal has no NSEC record; the preceding record covers it.
            proofs.append(self._matching(lookup.node) or self._covering(lookup.node))
        if lookup.wildcard:
            proofs.append(self._covering(qname))
        return proofs

    def _matching(self, owner: bytes) -> RRset | None:
        return self._zone.nodes.get(owner, {}).get(c.NSEC)

    def _covering(self, name: bytes) -> RRset | None:
        """The NSEC record at or before `name` in canonical order; the last one covers names before the apex."""
        if not self._keys:
            return None
        place = bisect.bisect_right(self._keys, names.canonical_key(name)) - 1
        return self._zone.nodes[self._owners[place]][c.NSEC]

    # --- NSEC3 --------------------------------------------------------------------------------------------------

    def _nsec3(self, lookup: Lookup, qname: bytes) -> list[RRset | None]:
        if lookup.kind is LookupResult.NXDOMAIN:
            encloser = self._provable(lookup.closest_encloser)
            return [*self._encloser_proof(encloser, qname), self._hash_covering(names.wildcard(encloser))]
        if lookup.kind is LookupResult.REFERRAL:
            if c.DS in self._zone.nodes[lookup.node]:
                return []
            return self._match_or_opt_out(lookup.node)
        if lookup.kind is LookupResult.NODATA:
            if not lookup.wildcard:
                return self._match_or_opt_out(lookup.node)
            return [*self._encloser_proof(lookup.closest_encloser, qname), self._hash_matching(lookup.node)]
        if lookup.wildcard:
            return [self._hash_covering(self._next_closer(lookup.closest_encloser, qname))]
        return []

    def _match_or_opt_out(self, owner: bytes) -> list[RRset | None]:
        """The record of `owner` or, if opt-out omitted it, the closest encloser proof (RFC 5155 7.2.4, 7.2.7)."""
        match = self._hash_matching(owner)
        return self._encloser_proof(self._provable(owner), owner) if match is None else [match]

    def _provable(self, encloser: bytes) -> bytes:
        """`encloser`, or the closest name above it that is in the chain (RFC 5155 section 7.2.1)."""
        while encloser != self._zone.origin and self._hash_matching(encloser) is None:
            encloser = names.parent(encloser)
        return encloser

    def _encloser_proof(self, encloser: bytes, qname: bytes) -> list[RRset | None]:
        """RFC 5155 section 7.2.1: a match for the closest encloser and a cover for the next closer name."""
        return [self._hash_matching(encloser), self._hash_covering(self._next_closer(encloser, qname))]

    @staticmethod
    def _next_closer(encloser: bytes, qname: bytes) -> bytes:
        return names.suffix(names.lower(qname), names.label_count(encloser) + 1)

    def _hash_matching(self, name: bytes) -> RRset | None:
        return self._zone.nsec3.get(self._hash(name))

    def _hash_covering(self, name: bytes) -> RRset | None:
        place = bisect.bisect_right(self._hashes, self._hash(name)) - 1
        return self._zone.nsec3[self._hashes[place]]

    def _hash(self, name: bytes) -> bytes:
        """RFC 5155 section 5: IH(salt, x, k)."""
        digest = hashlib.sha1(names.lower(name) + self._salt, usedforsecurity=False).digest()
        for _ in range(self._iterations):
            digest = hashlib.sha1(digest + self._salt, usedforsecurity=False).digest()
        return digest
