"""One zone of an authoritative server, and the search of RFC 1034 section 4.3.2 step 3 in it.

A zone is data with one pure function, `Zone.lookup`; authority.py puts the result into the sections of a packet. Empty
non-terminals are nodes without records, because they exist (RFC 4592 section 2.2.2). Records below a zone cut are kept
as glue, but a lookup stops at the cut. NSEC3 records are kept separately, because their owner names are not names of
the zone (RFC 5155 section 7.2.8).
"""

import base64
import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.rrset import RRset, negative_ttl

__all__ = ["Lookup", "LookupResult", "Zone", "ZoneError"]

ADDRESS_TYPES = (c.A, c.AAAA)
# Types of queries that a CNAME answers itself, and that do not follow it.
CNAME_IS_ANSWER = frozenset((c.CNAME, c.RRSIG, c.ANY))


class ZoneError(ValueError):
    """The records are not a valid zone: no SOA, no NS, or an owner outside of it."""


class LookupResult(enum.Enum):
    """The result of a lookup."""

    ANSWER = "answer"
    CNAME = "cname"
    DNAME = "dname"
    REFERRAL = "referral"
    NODATA = "nodata"
    NXDOMAIN = "nxdomain"


@dataclass(frozen=True, slots=True)
class Lookup:
    """The result of one search. `node` is the lower-case owner of `rrsets`, which may be a wildcard, cut or DNAME."""

    kind: LookupResult
    node: bytes
    rrsets: tuple[RRset, ...]
    closest_encloser: bytes
    wildcard: bool = False


class Zone:
    """All records of one zone, indexed for searches. Immutable after construction."""

    __slots__ = ("cuts", "nodes", "nsec3", "origin", "soa")

    def __init__(self, origin: bytes, rrsets: Iterable[RRset]) -> None:
        """Sort `rrsets` into nodes; separate RRSIG RRsets are attached to the RRsets that they cover.

        Raises:
            ZoneError: the apex has no SOA or NS, or an owner is outside `origin`.
        """
        self.origin = names.lower(origin)
        self.nodes: dict[bytes, dict[int, RRset]] = {self.origin: {}}
        self.nsec3: dict[bytes, RRset] = {}
        loose: list[RRset] = []
        for rrset in rrsets:
            if not names.is_subdomain(rrset.name, self.origin):
                raise ZoneError(f"{names.to_text(rrset.name)} is outside of {names.to_text(self.origin)}")
            if rrset.rtype == c.RRSIG:
                loose.append(rrset)
            else:
                self._put(rrset)
        for signatures in loose:
            self._sign(signatures)
        apex = self.nodes[self.origin]
        if c.SOA not in apex or c.NS not in apex:
            raise ZoneError(f"{names.to_text(self.origin)} has no SOA or no NS record at its apex")
        self.soa = apex[c.SOA]
        self.cuts = frozenset(owner for owner, node in self.nodes.items() if c.NS in node and owner != self.origin)

    @classmethod
    def from_text(cls, origin: str, text: str) -> "Zone":
        """Read zone file text (RFC 1035 section 5) with `origin` as initial $ORIGIN.

        Raises:
            ZoneError: the text is not a valid zone.
        """
        apex = names.from_text(origin)
        try:
            rrsets = present.zone_from_text(text, apex)
        except ZoneError:
            raise
        except ValueError as error:
            raise ZoneError(f"zone {origin}: {error}") from error
        return cls(apex, rrsets)

    def __repr__(self) -> str:
        return f"<Zone {names.to_text(self.origin)} {len(self.nodes)} names>"

    def __iter__(self) -> Iterator[RRset]:
        """All RRsets: the apex with its SOA first, then in canonical order of owners (RFC 4034 section 6.1)."""
        for owner in sorted(self.nodes, key=names.canonical_key):
            node = self.nodes[owner]
            yield from (node[rtype] for rtype in sorted(node, key=lambda rtype: (rtype != c.SOA, rtype)))
        yield from self.nsec3.values()

    @property
    def signed(self) -> bool:
        """Whether the zone is signed, by a signature of its SOA."""
        return bool(self.soa.sigs())

    def to_text(self) -> str:
        """Zone file text with absolute names; `from_text` of it gives an equal zone."""
        lines: list[str] = []
        for rrset in self:
            lines += present.rrset_to_text(rrset.without_sigs())
            if rrset.sigs():
                lines += present.rrset_to_text(RRset(rrset.name, c.RRSIG, rrset.ttl, rrset.sigs(), rclass=rrset.rclass))
        return "\n".join(lines) + "\n"

    def negative_soa(self) -> RRset:
        """The SOA of negative answers: its TTL is the smaller of its own and MINIMUM (RFC 2308 section 3)."""
        return self.soa.with_ttl(negative_ttl(self.soa))

    def addresses(self, host: bytes) -> list[RRset]:
        """Address RRsets of `host` in this zone, as data or glue."""
        node = self.nodes.get(names.lower(host), {})
        return [node[rtype] for rtype in ADDRESS_TYPES if rtype in node]

    def lookup(self, qname: bytes, qtype: int) -> Lookup:
        """Search from the apex down to `qname`, which must be in the zone (RFC 1034 section 4.3.2 step 3).

        A query for DS at a zone cut is answered by the parent (RFC 4035 section 3.1.4.1).
        """
        key = names.lower(qname)
        total = names.label_count(key)
        encloser = self.origin
        for depth in range(names.label_count(self.origin), total + 1):
            step = names.suffix(key, depth)
            node = self.nodes.get(step)
            if node is None:
                return self._wildcard(encloser, qtype)
            encloser = step
            if step in self.cuts and not (depth == total and qtype == c.DS):
                return Lookup(LookupResult.REFERRAL, step, (node[c.NS],), step)
            if c.DNAME in node and depth < total:
                return Lookup(LookupResult.DNAME, step, (node[c.DNAME],), step)
        return self._at(key, qtype, key, wildcard=False)

    # --- the parts of lookup and construction -------------------------------------------------------------------

    def _wildcard(self, encloser: bytes, qtype: int) -> Lookup:
        """The name does not exist below `encloser`: use the wildcard there, if any (RFC 4592 section 3.3.1)."""
        star = names.wildcard(encloser)
        if star in self.nodes:
            return self._at(star, qtype, encloser, wildcard=True)
        return Lookup(LookupResult.NXDOMAIN, encloser, (), encloser)

    def _at(self, owner: bytes, qtype: int, encloser: bytes, *, wildcard: bool) -> Lookup:
        node = self.nodes[owner]
        # NSEC may exist beside a CNAME (RFC 4035 section 2.5), but does not in zones with NSEC3.
        if c.CNAME in node and qtype not in node and qtype not in CNAME_IS_ANSWER:
            return Lookup(LookupResult.CNAME, owner, (node[c.CNAME],), encloser, wildcard)
        if qtype == c.ANY:
            found = tuple(node[rtype] for rtype in sorted(node))
        elif qtype == c.RRSIG:
            found = tuple(
                RRset(rrset.name, c.RRSIG, rrset.ttl, rrset.sigs()) for rrset in node.values() if rrset.sigs()
            )
        else:
            found = (node[qtype],) if qtype in node else ()
        return Lookup(LookupResult.ANSWER if found else LookupResult.NODATA, owner, found, encloser, wildcard)

    def _put(self, rrset: RRset) -> None:
        owner = names.lower(rrset.name)
        if rrset.rtype == c.NSEC3:
            self.nsec3[base64.b32hexdecode(names.labels(owner)[0].upper())] = rrset
            return
        node = self._node(owner)
        before = node.get(rrset.rtype)
        if before is not None:
            rdatas = dict.fromkeys([*before.rdatas(), *rrset.rdatas()])
            sigs = dict.fromkeys([*before.sigs(), *rrset.sigs()])
            rrset = RRset(before.name, before.rtype, min(before.ttl, rrset.ttl), rdatas, sigs=sigs)
        node[rrset.rtype] = rrset

    def _node(self, owner: bytes) -> dict[int, RRset]:
        """The node of `owner`, created with the empty non-terminals above it."""
        here = owner
        while here not in self.nodes:
            self.nodes[here] = {}
            here = names.parent(here)
        return self.nodes[owner]

    def _sign(self, signatures: RRset) -> None:
        """Attach each RRSIG to the RRset that it covers (type covered: the first two bytes, RFC 4034 section 3.1)."""
        owner = names.lower(signatures.name)
        by_type: dict[int, list[bytes]] = {}
        for rdata in signatures.rdatas():
            by_type.setdefault(int.from_bytes(rdata[:2], "big"), []).append(rdata)
        for rtype, rdatas in by_type.items():
            if rtype == c.NSEC3:
                digest = base64.b32hexdecode(names.labels(owner)[0].upper())
                covered, table, key = self.nsec3.get(digest), self.nsec3, digest
                if covered is not None:
                    table[key] = covered.with_sigs([*covered.sigs(), *rdatas])
                    continue
            node = self.nodes.get(owner, {})
            if rtype not in node:
                raise ZoneError(
                    f"{names.to_text(owner)} has a signature over {c.type_to_text(rtype)}, which is missing"
                )
            node[rtype] = node[rtype].with_sigs([*node[rtype].sigs(), *rdatas])
