"""The content of one zone, and the answers from it (RFC 1034 section 4.3.2, RFC 4592, RFC 6672).

A zone is immutable: a transfer or a new file makes another one, so a query never sees half of a change. It costs one
entry of a dictionary and one bytes object for each name: the records of a name are packed into one "node", and RRsets
are made when they are asked for. Names of nodes are in lower case.

* A node is a row of entries, sorted by type: type, type covered (RRSIG, else 0), TTL, octets, and packed rdata.
* Names that exist only because of names below them (RFC 4592 section 2.2.2) are in `_between`.
* NSEC3 records are kept apart, because their owners are not names of the zone (RFC 5155 section 7.2.8).
"""

import enum
import heapq
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from resolver import limits
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import rdata as rdatas
from resolver.wire.rrset import RRset, unpack

__all__ = ["Chain", "Difference", "Kind", "Match", "Record", "Zone", "ZoneError", "in_canonical_order"]

Record = tuple[bytes, int, int, bytes]
"""Owner in lower case, type, TTL in seconds, uncompressed rdata."""


class Difference(NamedTuple):
    """What changes from one version to the next. Each part begins with the SOA record of its version."""

    removed: list[Record]
    added: list[Record]


Content = dict[tuple[int, int], tuple[int, dict[bytes, bytes]]]
"""The records of one name: (type, type covered) -> TTL, and rdatas by their canonical form."""

ENTRY = struct.Struct("!HHII")
ADDRESS_TYPES = (c.A, c.AAAA)
# Types that may exist beside a CNAME (RFC 4035 section 2.5), and those of queries that it answers itself.
BESIDE_CNAME = frozenset({c.CNAME, c.RRSIG, c.NSEC, c.KEY})
CNAME_IS_ANSWER = frozenset({c.CNAME, c.RRSIG, c.ANY})
SINGLE = frozenset({c.SOA, c.CNAME, c.DNAME})
SOA_NUMBERS = struct.Struct("!IIIII")


class ZoneError(ValueError):
    """Records that are no valid zone, or a change that does not fit. `owner` and `rtype` say where, if known."""

    def __init__(self, text: str, owner: bytes | None = None, rtype: int = 0) -> None:
        super().__init__(text)
        self.owner = owner
        self.rtype = rtype


class Kind(enum.Enum):
    """What a search has found."""

    DATA = "data"
    """The name exists; it may have no records of the type."""
    CNAME = "cname"
    DNAME = "dname"
    REFERRAL = "referral"
    NXDOMAIN = "nxdomain"


class Match(NamedTuple):
    """The result of one search. `owner` is the name in the zone: of the node, the wildcard, the zone cut or DNAME."""

    kind: Kind
    owner: bytes
    encloser: bytes
    wildcard: bool = False


class SoaFields(NamedTuple):
    """The numbers of a SOA record, in seconds except `serial`."""

    serial: int
    refresh: int
    retry: int
    expire: int
    minimum: int


def soa_fields(rdata: bytes) -> SoaFields:
    """The numbers at the end of SOA rdata (RFC 1035 section 3.3.13)."""
    return SoaFields(*SOA_NUMBERS.unpack_from(rdata, len(rdata) - SOA_NUMBERS.size))


class Chain(NamedTuple):
    """The NSEC or NSEC3 chain of a signed zone; all is empty without one. NSEC3 precedes NSEC."""

    names: list[bytes]
    """Owners of NSEC records in canonical order."""
    keys: list[bytes]
    """Their canonical keys."""
    hashes: list[bytes]
    """Owners of NSEC3 records in the order of their hashes."""
    iterations: int
    salt: bytes


class Zone:
    """All records of one zone. `origin` is in lower case."""

    __slots__ = ("_between", "_chain", "_cuts", "_dnames", "_hashed", "_nodes", "octets", "origin", "records", "soa")

    def __init__(self, origin: bytes, nodes: dict[bytes, bytes], hashed: dict[bytes, bytes]) -> None:
        """Index packed nodes; `hashed` has those of NSEC3 records.

        Raises:
            ZoneError: the apex has no SOA or no NS, or there are more records and names without records than
                `limits.ZONE_RECORDS`, or more octets than `limits.ZONE_OCTETS`.
        """
        self.origin = origin
        self._nodes = nodes
        self._hashed = hashed
        cuts, dnames, between = set(), set(), set()
        self.records = self.octets = 0
        for table in (nodes, hashed):
            for owner, node in table.items():
                self.octets += len(owner) + len(node)
                for rtype, _, _, packed in entries(node):
                    self.records += count_packed(packed)
                    if rtype == c.NS and owner != origin:
                        cuts.add(owner)
                    elif rtype == c.DNAME:
                        dnames.add(owner)
        _check_size(self.records, self.octets)
        size = self.octets
        for owner in nodes:
            upper = names.parent(owner) if owner != origin else owner
            while upper not in nodes and upper not in between:
                between.add(upper)
                size += len(upper)
                _check_size(self.records + len(between), size)  # one record can make more than a hundred names
                upper = names.parent(upper)
        self._cuts, self._dnames, self._between = frozenset(cuts), frozenset(dnames), frozenset(between)
        soa = self.rrset(origin, c.SOA)
        if soa is None or len(soa) != 1:
            raise ZoneError(f"{names.to_text(origin)} has no SOA record", origin, c.SOA)
        if self.rrset(origin, c.NS) is None:
            raise ZoneError(f"{names.to_text(origin)} has no NS record", origin, c.NS)
        self.soa = soa
        self._chain: Chain | None = None

    @classmethod
    def from_records(cls, origin: bytes, records: Iterable[Record]) -> "Zone":
        """Make a zone of its records in any order; duplicates count once (RFC 2181 section 5).

        Raises:
            ZoneError: the records are no valid zone.
        """
        origin = names.lower(origin)
        contents: dict[bytes, Content] = {}
        hashed: dict[bytes, Content] = {}
        for owner, rtype, ttl, rdata in records:
            if not names.is_subdomain(owner, origin):
                raise ZoneError(f"{names.to_text(owner)} is outside of the zone {names.to_text(origin)}", owner, rtype)
            table = hashed if c.NSEC3 in key_of(rtype, rdata) else contents
            insert(table.setdefault(owner, {}), owner, rtype, ttl, rdata)
        for owner, content in contents.items():
            check_node(owner, content, origin)
        made = cls(
            origin,
            {owner: pack_node(owner, content) for owner, content in contents.items()},
            {owner: pack_node(owner, content) for owner, content in hashed.items()},
        )
        while contents:
            contents.popitem()  # one by one: freeing a million dictionaries at once would stop all threads for as long
        return made

    def changed(self, differences: Iterable[Difference]) -> "Zone":
        """The zone after the differences of an IXFR, one after the other (RFC 1995 section 4).

        Raises:
            ZoneError: a difference does not start at the version before it, a record to be removed is not there, one to
                be added is, or the result is no valid zone.
        """
        opened: tuple[dict[bytes, Content], dict[bytes, Content]] = ({}, {})

        def content_of(owner: bytes, rtype: int, rdata: bytes) -> Content:
            side = c.NSEC3 in key_of(rtype, rdata)
            found = opened[side].get(owner)
            if found is None:
                found = opened[side][owner] = unpack_node((self._hashed if side else self._nodes).get(owner, b""))
            return found

        serial = self.serial
        for removed, added in differences:
            if soa_fields(removed[0][3]).serial != serial:
                raise ZoneError(f"a difference starts at serial {soa_fields(removed[0][3]).serial}, not at {serial}")
            serial = soa_fields(added[0][3]).serial
            for owner, rtype, _, rdata in removed:
                delete(content_of(owner, rtype, rdata), owner, rtype, rdata)
            for owner, rtype, ttl, rdata in added:
                if not names.is_subdomain(owner, self.origin):
                    raise ZoneError(f"{names.to_text(owner)} is outside of the zone", owner, rtype)
                if not insert(content_of(owner, rtype, rdata), owner, rtype, ttl, rdata):
                    raise ZoneError(f"{names.to_text(owner)} {c.type_to_text(rtype)} is added but exists", owner, rtype)
        tables = (dict(self._nodes), dict(self._hashed))
        for side, table in enumerate(tables):
            for owner, content in opened[side].items():
                if not side:
                    check_node(owner, content, self.origin)
                if content:
                    table[owner] = pack_node(owner, content)
                else:
                    table.pop(owner, None)
        return Zone(self.origin, *tables)

    @property
    def memory(self) -> int:
        """Estimated memory."""
        return self.octets + (self.records + len(self._between)) * limits.ZONE_RECORD_OVERHEAD

    def __repr__(self) -> str:
        return f"<Zone {names.to_text(self.origin)} serial {self.serial}, {self.records} records>"

    # --- content --------------------------------------------------------------------------------------------------

    @property
    def serial(self) -> int:
        """The serial number of the SOA."""
        return self.timers.serial

    @property
    def timers(self) -> SoaFields:
        """The numbers of the SOA."""
        return soa_fields(self.soa.rdata(0))

    @property
    def names(self) -> int:
        """The number of names with records."""
        return len(self._nodes)

    @property
    def packed(self) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
        """The packed nodes by name, and those of NSEC3 records; for the file on disk. Not to be changed."""
        return self._nodes, self._hashed

    def __iter__(self) -> Iterator[Record]:
        """All records: the SOA first, the others by name in no order."""
        yield self.origin, c.SOA, self.soa.ttl, self.soa.rdata(0)
        for table in (self._nodes, self._hashed):
            for owner, node in table.items():
                for rtype, _, ttl, packed in entries(node):
                    if rtype != c.SOA:
                        for rdata in unpack(packed):
                            yield owner, rtype, ttl, rdata

    def sets(self) -> Iterator[RRset]:
        """All sets except the SOA, each without signatures, which are sets of their own: for transfers."""
        for table in (self._nodes, self._hashed):
            for owner, node in table.items():
                for rtype, _, ttl, packed in entries(node):
                    if rtype != c.SOA:
                        yield RRset.from_packed(owner, rtype, ttl, packed)

    def rrset(self, owner: bytes, rtype: int, name: bytes | None = None) -> RRset | None:
        """The RRset with its signatures; `owner` is in lower case, `name` is the owner to show."""
        node = (self._hashed if rtype == c.NSEC3 else self._nodes).get(owner)
        return None if node is None else _make(node, rtype, owner if name is None else name)

    def rrsets(self, owner: bytes, name: bytes) -> list[RRset]:
        """All RRsets of a name, with their signatures."""
        data: list[tuple[int, int, bytes]] = []
        sigs: dict[int, bytes] = {}
        for rtype, covered, ttl, packed in entries(self._nodes.get(owner, b"")):
            if rtype == c.RRSIG:
                sigs[covered] = packed
            else:
                data.append((rtype, ttl, packed))
        return [RRset.from_packed(name, rtype, ttl, packed, sigs.get(rtype, b"")) for rtype, ttl, packed in data]

    def signatures(self, owner: bytes, name: bytes) -> RRset | None:
        """The RRSIG records of a name as a set, for queries of that type."""
        parts = [(ttl, packed) for rtype, _, ttl, packed in entries(self._nodes.get(owner, b"")) if rtype == c.RRSIG]
        if not parts:
            return None
        packed = b"".join(part for _, part in parts)
        return RRset.from_packed(name, c.RRSIG, min(ttl for ttl, _ in parts), packed)

    def owners(self, rtype: int) -> list[bytes]:
        """The names that have records of `rtype`, in canonical order (RFC 4034 section 6.1)."""
        table = self._hashed if rtype == c.NSEC3 else self._nodes
        found = [owner for owner, node in table.items() if any(rtype == one for one, _, _, _ in entries(node))]
        return in_canonical_order(found)

    @property
    def has_chain(self) -> bool:
        """Whether `chain` has been called."""
        return self._chain is not None

    def chain(self) -> Chain:
        """What proofs of absence are taken from. It is made once, by the first call, which takes some microseconds for
        each name: of a large zone it belongs into a thread."""
        if self._chain is None:
            hashes = self.owners(c.NSEC3) if self.soa.sig_len else []
            plain = self.owners(c.NSEC) if self.soa.sig_len and not hashes else []
            iterations, salt = 0, b""
            if hashes:
                first = self.rrset(hashes[0], c.NSEC3)
                assert first is not None
                rdata = first.rdata(0)  # algorithm, flags, iterations, salt (RFC 5155 section 3.2)
                iterations = min(int.from_bytes(rdata[2:4], "big"), limits.NSEC3_ITERATIONS.maximum)
                salt = rdata[5 : 5 + rdata[4]]
            self._chain = Chain(plain, [names.canonical_key(owner) for owner in plain], hashes, iterations, salt)
        return self._chain

    def exists(self, owner: bytes) -> bool:
        """Whether a name exists, with records or because of names below it."""
        return owner in self._nodes or owner in self._between

    # --- search ---------------------------------------------------------------------------------------------------

    def search(self, key: bytes, qtype: int) -> Match:
        """Search from the apex down to `key` (lower case), which must be in the zone (RFC 1034 section 4.3.2 step 3).

        A query for DS at a zone cut is answered here, by the parent (RFC 4035 section 3.1.4.1).
        """
        total = names.label_count(key)
        encloser = self.origin
        for depth in range(names.label_count(self.origin), total + 1):
            step = names.suffix(key, depth)
            if not self.exists(step):
                star = b"\1*" + encloser
                if star not in self._nodes:
                    return Match(Kind.NXDOMAIN, encloser, encloser)
                return self._at(star, qtype, encloser, wildcard=True)
            encloser = step
            if step in self._cuts and not (depth == total and qtype == c.DS):
                return Match(Kind.REFERRAL, step, step)
            if depth < total and step in self._dnames:
                return Match(Kind.DNAME, step, step)
        return self._at(key, qtype, key, wildcard=False)

    def _at(self, owner: bytes, qtype: int, encloser: bytes, *, wildcard: bool) -> Match:
        node = self._nodes[owner] if owner in self._nodes else b""
        types = [rtype for rtype, _, _, _ in entries(node)]
        if c.CNAME in types and qtype not in types and qtype not in CNAME_IS_ANSWER:
            return Match(Kind.CNAME, owner, encloser, wildcard)
        return Match(Kind.DATA, owner, encloser, wildcard)

    def addresses(self, targets: Iterable[bytes]) -> list[RRset]:
        """The address sets that this zone has for the names `targets`, as data or glue."""
        found = []
        for target in targets:
            for rtype in ADDRESS_TYPES:
                rrset = self.rrset(names.lower(target), rtype)
                if rrset is not None:
                    found.append(rrset)
        return found


def in_canonical_order(owners: Iterable[bytes]) -> list[bytes]:
    """Sort names (RFC 4034 section 6.1). One sort of a million names would be one call that holds the GIL for more than
    a second, and the event loop would stand still. So slices are sorted, then merged one name at a time: other threads
    run between, for half as much time again."""
    found = list(owners)
    slices = [
        sorted(found[at : at + limits.ZONE_SORT], key=names.canonical_key)
        for at in range(0, len(found), limits.ZONE_SORT)
    ]
    return slices[0] if len(slices) == 1 else list(heapq.merge(*slices, key=names.canonical_key))


# --- nodes --------------------------------------------------------------------------------------------------------


def _check_size(records: int, octets: int) -> None:
    """Check a zone against the limits; names without records count as records.

    Raises:
        ZoneError: it is too large.
    """
    if records > limits.ZONE_RECORDS or octets > limits.ZONE_OCTETS:
        raise ZoneError(f"the zone has more than {limits.ZONE_RECORDS} records or {limits.ZONE_OCTETS} octets, names"
                        " without records included")


def entries(node: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Type, type covered, TTL and packed rdata of each set in a node."""
    at = 0
    while at < len(node):
        rtype, covered, ttl, size = ENTRY.unpack_from(node, at)
        at += ENTRY.size
        yield rtype, covered, ttl, node[at : at + size]
        at += size


def count_packed(packed: bytes) -> int:
    """The number of rdatas in their packed form."""
    at = count = 0
    while at < len(packed):
        at += 2 + (packed[at] << 8 | packed[at + 1])
        count += 1
    return count


def _make(node: bytes, rtype: int, name: bytes) -> RRset | None:
    """The set of one type in a node with its signatures."""
    data, sigs, seconds = None, b"", 0
    for found, covered, ttl, packed in entries(node):
        if found == rtype:
            data, seconds = packed, ttl
        elif found == c.RRSIG and covered == rtype:
            sigs = packed
    return None if data is None else RRset.from_packed(name, rtype, seconds, data, sigs)


def pack_node(owner: bytes, content: Content) -> bytes:
    """The packed form of the records of one name.

    Raises:
        ZoneError: a set has more than `limits.RRSET_RECORDS` records or `limits.RRSET_BYTES`.
    """
    parts = []
    for (rtype, covered), (ttl, members) in sorted(content.items(), key=lambda item: item[0]):
        packed = b"".join(len(rdata).to_bytes(2, "big") + rdata for rdata in members.values())
        if len(packed) > limits.RRSET_BYTES:
            raise ZoneError(f"{names.to_text(owner)} {c.type_to_text(rtype)} has more than {limits.RRSET_BYTES} octets",
                            owner, rtype)
        parts += [ENTRY.pack(rtype, covered, ttl, len(packed)), packed]
    return b"".join(parts)


def unpack_node(node: bytes) -> Content:
    """The records of a packed node."""
    return {
        (rtype, covered): (ttl, {rdatas.canonical(rtype, rdata): rdata for rdata in unpack(packed)})
        for rtype, covered, ttl, packed in entries(node)
    }


def key_of(rtype: int, rdata: bytes) -> tuple[int, int]:
    """The key of a record in a `Content`."""
    return rtype, int.from_bytes(rdata[:2], "big") if rtype == c.RRSIG else 0


def insert(content: Content, owner: bytes, rtype: int, ttl: int, rdata: bytes) -> bool:
    """Add one record; False when it is there already. The TTL of a set is that of its last record.

    Raises:
        ZoneError: the rdata is malformed or longer than `limits.ZONE_RDATA`, a second SOA, CNAME or DNAME, more than
            `limits.RRSET_RECORDS` in a set, or more than `limits.ZONE_TYPES` sets of the name.
    """
    try:
        rdatas.check(rtype, rdata)
    except ValueError as error:
        raise ZoneError(f"{names.to_text(owner)} {c.type_to_text(rtype)}: {error}", owner, rtype) from None
    if len(rdata) > limits.ZONE_RDATA:
        raise ZoneError(f"{names.to_text(owner)} {c.type_to_text(rtype)} has more than {limits.ZONE_RDATA} octets",
                        owner, rtype)
    key = key_of(rtype, rdata)
    members = content[key][1] if key in content else {}
    canonical = rdatas.canonical(rtype, rdata)
    if canonical in members:
        return False
    if members and rtype in SINGLE:
        raise ZoneError(f"{names.to_text(owner)} has two {c.type_to_text(rtype)} records", owner, rtype)
    if len(members) >= limits.RRSET_RECORDS:
        raise ZoneError(f"{names.to_text(owner)} has more than {limits.RRSET_RECORDS} records of type"
                        f" {c.type_to_text(rtype)}", owner, rtype)
    if not members and len(content) >= limits.ZONE_TYPES:
        raise ZoneError(f"{names.to_text(owner)} has more than {limits.ZONE_TYPES} record sets", owner, rtype)
    members[canonical] = rdata
    content[key] = (ttl, members)
    return True


def delete(content: Content, owner: bytes, rtype: int, rdata: bytes) -> None:
    """Remove one record.

    Raises:
        ZoneError: it is not there.
    """
    key = key_of(rtype, rdata)
    members = content[key][1] if key in content else {}
    if members.pop(rdatas.canonical(rtype, rdata), None) is None:
        raise ZoneError(f"{names.to_text(owner)} {c.type_to_text(rtype)} is removed but does not exist", owner, rtype)
    if not members:
        del content[key]


def check_node(owner: bytes, content: Content, origin: bytes) -> None:
    """Check which types may coexist at one name.

    Raises:
        ZoneError: a CNAME beside other data (RFC 1034 section 3.6.2), or a SOA below the apex.
    """
    types = {rtype for rtype, _ in content}
    if c.CNAME in types and types - BESIDE_CNAME:
        other = c.type_to_text(min(types - BESIDE_CNAME))
        raise ZoneError(f"{names.to_text(owner)} has a CNAME and other data ({other})", owner, c.CNAME)
    if c.SOA in types and owner != origin:
        raise ZoneError(f"{names.to_text(owner)} has a SOA record but is not the zone's apex", owner, c.SOA)
