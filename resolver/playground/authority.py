"""An authoritative name server as a pure function from packet to packet, with optional faults of real servers.

There is no I/O, clock or randomness: `Authority.answer` gives the same bytes for the same packet. So the same server
answers thousands of queries per second in virtual time and is also served on loopback sockets. The algorithm is that of
RFC 1034 section 4.3.2 with DNAME (RFC 6672), EDNS (RFC 6891) and, for signed zones, RFC 4035 section 3 and RFC 5155
section 7. Faults are data (`ServerFaults`), because a resolver must cope with servers that drop EDNS, truncate, or
refer upwards.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass, field

from resolver.limits import PLAYGROUND_ALIAS_STEPS, PLAYGROUND_UDP_PAYLOAD
from resolver.playground.denial import Denial
from resolver.playground.zones import Lookup, LookupResult, Zone
from resolver.wire import WireError
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder, make_error
from resolver.wire.consts import HEADER_SIZE, OPT_SIZE
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

__all__ = ["Authority", "EdnsFault", "ServerFaults"]

OPTION_HEADER_SIZE = 4
OPCODE_MASK = 0x7800
LOW_RCODE = 0x000F
CLASSIC_PAYLOAD = 512  # RFC 1035 section 4.2.1
STREAM_PAYLOAD = 65535
MIRROR_TTL = 0
# Types whose rdata names hosts, whose addresses go into the additional section (RFC 1034 section 4.3.2 step 6).
HOST_TYPES = (c.NS, c.MX, c.SRV)


class EdnsFault(enum.Enum):
    """What a server does with a query that has an OPT record."""

    NONE = "understands EDNS"
    IGNORE = "answers without OPT, as servers before 1999 do"
    DROP = "does not answer at all, as some firewalls do"
    FORMERR = "answers FORMERR without OPT (RFC 6891 section 7)"
    NOTIMP = "answers NOTIMP without OPT"


@dataclass(frozen=True, slots=True)
class ServerFaults:
    """The faults of one server; by default none."""

    rcode: int | None = None
    """Answer all queries with this response code and no records (lame servers use REFUSED and SERVFAIL)."""
    upward: bool = False
    """Answer all queries with a referral to the root, as old lame servers do."""
    edns: EdnsFault = EdnsFault.NONE
    truncate: bool = False
    """Every answer over UDP has TC and no records."""
    drop_udp: bool = False
    drop_tcp: bool = False
    blind_to_empty: bool = False
    """NXDOMAIN for empty non-terminals, which breaks simple QNAME minimisation (RFC 8020 section 3, RFC 9156 2.3)."""
    lower_case: bool = False
    """The reply has the question in lower case."""
    wrong_id: bool = False
    """The reply has another id than the query; a resolver must ignore it (RFC 5452 section 9.1)."""
    delay: float = 0.0
    """Seconds before the reply is sent. The caller applies the delay, because this class has no clock."""
    extra: tuple[tuple[int, RRset], ...] = ()
    """(section, RRset) added to every NOERROR answer, as in cache poisoning."""
    mirror: bytes | None = None
    """A name whose TXT record is the source address and transport of the query."""


@dataclass(slots=True)
class _Draft:
    """A reply under construction. An owner replaces that of the RRset for wildcards and the case of the qname."""

    rcode: int = c.NOERROR
    authoritative: bool = False
    referral: bool = False
    sections: dict[int, list[tuple[RRset, bytes | None]]] = field(
        default_factory=lambda: {c.ANSWER: [], c.AUTHORITY: [], c.ADDITIONAL: []}
    )

    def add(self, section: int, *rrsets: RRset, owner: bytes | None = None) -> None:
        """Append `rrsets`, with `owner` if given, unless the section has them already."""
        present = self.sections[section]
        present += [(rrset, owner) for rrset in rrsets if (rrset, owner) not in present]


class Authority:
    """One server and the zones it serves."""

    def __init__(
        self, zones: Iterable[Zone] = (), *, quirks: ServerFaults | None = None, server_id: bytes = b""
    ) -> None:
        """Serve `zones`; `server_id` is the NSID (RFC 5001)."""
        self.zones: dict[bytes, Zone] = {zone.origin: zone for zone in zones}
        self.quirks = quirks or ServerFaults()
        self.server_id = server_id
        self._denial = {origin: Denial(zone) for origin, zone in self.zones.items() if zone.signed}

    def answer(self, packet: bytes, *, tcp: bool = False, source: str | None = None) -> bytes | None:
        """The reply to `packet`, or None when there is none.

        Packets that are not queries (shorter than a header, or responses) and those that `quirks` drops get no reply.
        `source` is the client address as text, for `ServerFaults.mirror`.
        """
        quirks = self.quirks
        if len(packet) < HEADER_SIZE or packet[2] & 0x80 or (quirks.drop_tcp if tcp else quirks.drop_udp):
            return None
        try:
            query = MessageView.parse(packet)
        except WireError:
            return make_error(packet, c.FORMERR)
        if query.edns is not None:
            if quirks.edns is EdnsFault.DROP:
                return None
            if quirks.edns is EdnsFault.FORMERR:
                return self._bare(query, c.FORMERR)
            if quirks.edns is EdnsFault.NOTIMP:
                return self._bare(query, c.NOTIMP)
            if query.edns.version > 0 and quirks.edns is EdnsFault.NONE:
                return self._render(query, _Draft(rcode=c.BADVERS), tcp=tcp)
        if query.opcode != c.QUERY:
            return self._render(query, _Draft(rcode=c.NOTIMP), tcp=tcp)
        if query.question_count != 1 or query.qname is None:
            return self._render(query, _Draft(rcode=c.FORMERR), tcp=tcp)
        return self._render(query, self._draft(query, tcp=tcp, source=source), tcp=tcp)

    def zone_for(self, qname: bytes, qtype: int) -> Zone | None:
        """The closest served zone that contains `qname`; for DS at an apex, the parent zone if it is served too."""
        found: Zone | None = None
        key = names.lower(qname)
        for depth in range(names.label_count(key), -1, -1):
            zone = self.zones.get(names.suffix(key, depth))
            if zone is None:
                continue
            if found is not None or qtype != c.DS or zone.origin != key:
                return zone
            found = zone  # RFC 4035 section 3.1.4.1: prefer the parent
        return found

    # --- the answer ---------------------------------------------------------------------------------------------

    def _draft(self, query: MessageView, *, tcp: bool, source: str | None) -> _Draft:
        quirks = self.quirks
        qname, qtype = query.qname, query.qtype
        assert qname is not None
        if quirks.rcode is not None:
            return _Draft(rcode=quirks.rcode)
        if quirks.upward:
            draft = _Draft(referral=True)
            if names.ROOT in self.zones:
                draft.add(c.AUTHORITY, self.zones[names.ROOT].nodes[names.ROOT][c.NS])
            return draft
        if query.qclass not in (c.IN, c.CLASS_ANY) or qtype in (c.AXFR, c.IXFR):
            return _Draft(rcode=c.REFUSED)
        draft = _Draft()
        if quirks.mirror is not None and qtype == c.TXT and names.equal(qname, quirks.mirror):
            words = f"{source or 'unknown'} {'tcp' if tcp else 'udp'}".encode()
            draft.authoritative = True
            draft.add(c.ANSWER, RRset(qname, c.TXT, MIRROR_TTL, [bytes((len(words),)) + words]))
            return draft
        self._walk(draft, qname, qtype, dnssec=query.edns is not None and query.edns.do)
        for section, rrset in quirks.extra if draft.rcode == c.NOERROR else ():
            draft.sections[section].append((rrset, None))
        return draft

    def _walk(self, draft: _Draft, qname: bytes, qtype: int, *, dnssec: bool) -> None:
        """Answer `qname` and follow its aliases within the zones served here."""
        seen: set[bytes] = set()
        for step in range(PLAYGROUND_ALIAS_STEPS):
            zone = self.zone_for(qname, qtype)
            if zone is None:
                if step == 0:
                    draft.rcode = c.REFUSED
                return
            lookup = zone.lookup(qname, qtype)
            if lookup.kind is LookupResult.REFERRAL and step > 0:
                return  # the target is not served here; the resolver follows the alias
            seen.add(names.lower(qname))
            target = self._apply(draft, zone, lookup, qname, first=step == 0, dnssec=dnssec)
            if target is None or names.lower(target) in seen:
                return
            qname = target

    def _apply(
        self, draft: _Draft, zone: Zone, lookup: Lookup, qname: bytes, *, first: bool, dnssec: bool
    ) -> bytes | None:
        """Add the result of one lookup to `draft`; return the target if it is an alias."""
        kind = lookup.kind
        if first:
            draft.authoritative = kind is not LookupResult.REFERRAL
        proofs = self._denial[zone.origin].prove(lookup, qname) if dnssec and zone.origin in self._denial else []
        if kind is LookupResult.REFERRAL:
            self._refer(draft, zone, lookup, dnssec=dnssec)
            draft.add(c.AUTHORITY, *proofs)
            return None
        if kind in (LookupResult.NODATA, LookupResult.NXDOMAIN):
            empty = kind is LookupResult.NODATA and not zone.nodes[lookup.node]
            if kind is LookupResult.NXDOMAIN or (empty and self.quirks.blind_to_empty):
                draft.rcode = c.NXDOMAIN
            draft.add(c.AUTHORITY, zone.negative_soa(), *proofs)
            return None
        draft.add(c.AUTHORITY, *proofs)
        if kind is LookupResult.DNAME:
            return self._rename(draft, lookup.rrsets[0], qname)
        draft.add(c.ANSWER, *lookup.rrsets, owner=qname)
        if kind is LookupResult.CNAME:
            return lookup.rrsets[0].targets()[0]
        for rrset in lookup.rrsets:
            if rrset.rtype in HOST_TYPES:
                for host in rrset.targets():
                    home = self.zone_for(host, c.A)
                    draft.add(c.ADDITIONAL, *(home.addresses(host) if home is not None else ()))
        return None

    def _refer(self, draft: _Draft, zone: Zone, lookup: Lookup, *, dnssec: bool) -> None:
        """A referral: NS, DS or proof of its absence, and glue (RFC 9471)."""
        draft.referral = True
        delegation = lookup.rrsets[0]
        draft.add(c.AUTHORITY, delegation)
        below = zone.nodes[lookup.node]
        if dnssec and zone.signed and c.DS in below:
            draft.add(c.AUTHORITY, below[c.DS])
        for host in delegation.targets():
            if names.is_subdomain(host, zone.origin):
                draft.add(c.ADDITIONAL, *zone.addresses(host))

    @staticmethod
    def _rename(draft: _Draft, dname: RRset, qname: bytes) -> bytes | None:
        """A DNAME and the synthesised CNAME (RFC 6672 section 3.1); YXDOMAIN when the new name is too long."""
        draft.add(c.ANSWER, dname)
        target = names.replace_suffix(qname, dname.name, dname.targets()[0])
        if target is None:
            draft.rcode = c.YXDOMAIN
            return None
        draft.add(c.ANSWER, RRset(qname, c.CNAME, dname.ttl, [target]))
        return target

    # --- the packet ---------------------------------------------------------------------------------------------

    def _render(self, query: MessageView, draft: _Draft, *, tcp: bool) -> bytes:
        """`draft` as a packet within the client's size limit; TC and no records when it does not fit (RFC 2181 9)."""
        limit = STREAM_PAYLOAD
        if not tcp:
            offered = CLASSIC_PAYLOAD if query.edns is None else max(CLASSIC_PAYLOAD, query.edns.payload)
            limit = min(offered, PLAYGROUND_UDP_PAYLOAD)
            if self.quirks.edns is not EdnsFault.NONE:
                limit = CLASSIC_PAYLOAD
            if self.quirks.truncate:
                return self._write(query, _Draft(rcode=draft.rcode), limit, truncated=True)
        return self._write(query, draft, limit) or self._write(
            query, _Draft(rcode=draft.rcode, authoritative=draft.authoritative), limit, truncated=True
        )

    def _bare(self, query: MessageView, rcode: int) -> bytes:
        """The reply of a server without EDNS to a query with OPT: the question and a response code."""
        return self._write(query, _Draft(rcode=rcode), CLASSIC_PAYLOAD, silent=True)

    def _write(
        self, query: MessageView, draft: _Draft, limit: int, *, truncated: bool = False, silent: bool = False
    ) -> bytes:
        """One packet; empty when a required record does not fit, which cannot happen with `truncated`."""
        edns = query.edns if self.quirks.edns is EdnsFault.NONE and not silent else None
        options: list[tuple[int, bytes]] = []
        if edns is not None and self.server_id and edns.get(c.OPTION_NSID) is not None:
            options.append((c.OPTION_NSID, self.server_id))
        reserve = 0 if edns is None else OPT_SIZE + sum(OPTION_HEADER_SIZE + len(value) for _, value in options)
        flags = c.QR | query.flags & (OPCODE_MASK | c.RD | c.CD) | draft.rcode & LOW_RCODE
        if draft.authoritative:
            flags |= c.AA
        qname = query.qname
        if qname is not None and self.quirks.lower_case:
            qname = names.lower(qname)
        builder = Builder(limit, reserve_opt=reserve)
        reply_id = query.id ^ 0xFFFF if self.quirks.wrong_id else query.id
        builder.start(reply_id, flags, qname, query.qtype, query.qclass)
        dnssec = edns is not None and edns.do
        for section, pairs in draft.sections.items():
            for rrset, owner in pairs:
                if builder.add(section, rrset, sigs=dnssec, name=owner):
                    continue
                # Of the additional records, only the glue of a referral is required (RFC 9471 section 3).
                if section != c.ADDITIONAL or draft.referral:
                    return b""
        if truncated:
            builder.truncate()
        if edns is not None:
            builder.opt(PLAYGROUND_UDP_PAYLOAD, do=edns.do, ext_rcode=draft.rcode >> 4, options=options)
        return builder.finish()
