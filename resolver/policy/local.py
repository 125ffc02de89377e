"""Local answers: special-use names, hosts entries, local zones and their data.

The most specific zone decides. A forward or stub zone, or one with a trust anchor, precedes a local zone of the same
name, so that a site can use its own servers for 10.in-addr.arpa. The built-in zones are empty (RFC 6303) and have a SOA
for negative caching; they keep queries without an answer from the public servers. No local answer is secure.
"""

import ipaddress
import re
from collections.abc import Container, Iterable, Iterator
from enum import Enum

from resolver import limits
from resolver.effects import Outcome, Question
from resolver.policy.discovery import OWNER, Designation
from resolver.policy.dns64 import DISCOVERY_ADDRESSES, DISCOVERY_NAME, Dns64
from resolver.policy.module import DROP, Decision, PolicyModule
from resolver.query import Query
from resolver.settings import HostEntry, PolicySettings
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

__all__ = ["LocalZoneType", "LocalZones", "special_zones"]


class LocalZoneType(Enum):
    """How a local zone answers for names below it that have no data.

    The names and the behaviour are those of Unbound, with NODATA, NXDOMAIN, TRUNCATE and RESOLVE besides.
    """

    STATIC = "static"
    """NXDOMAIN, or NODATA for names that exist: the zone is complete."""
    NODATA = "nodata"
    """NODATA: every name exists and has no data."""
    NXDOMAIN = "nxdomain"
    """NXDOMAIN for every name, even for names with local data."""
    REFUSE = "refuse"
    """REFUSED; names with data are answered for the types that they have."""
    DENY = "deny"
    """No reply; names with data are answered for the types that they have."""
    REDIRECT = "redirect"
    """Every name has the data of the zone itself."""
    TRANSPARENT = "transparent"
    """Names with data are answered, all others are resolved as usual."""
    TYPETRANSPARENT = "typetransparent"
    """As transparent, but a name with data is resolved as usual for types that it has no data of."""
    TRUNCATE = "truncate"
    """As transparent, but over UDP every reply is empty and truncated, so that clients retry over TCP."""
    INFORM = "inform"
    """As transparent, and each query is logged with its client."""
    INFORM_DENY = "inform_deny"
    """As deny, and each query is logged with its client."""
    INFORM_REDIRECT = "inform_redirect"
    """As redirect, and each query is logged with its client."""
    ALWAYS_TRANSPARENT = "always_transparent"
    """All names are resolved as usual, even names with local data."""
    ALWAYS_REFUSE = "always_refuse"
    """REFUSED for every name, even for names with local data."""
    ALWAYS_NXDOMAIN = "always_nxdomain"
    """NXDOMAIN for every name, even for names with local data."""
    ALWAYS_NODATA = "always_nodata"
    """NODATA for every name, even for names with local data."""
    ALWAYS_DENY = "always_deny"
    """No reply for every name, even for names with local data."""
    ALWAYS_NULL = "always_null"
    """Every name has the addresses 0.0.0.0 and ::, unless it has data of the type, which Unbound's manual denies."""
    BLOCK_A = "block_a"
    """No name has A records, even with local data; other types are resolved as usual."""
    NODEFAULT = "nodefault"
    """No built-in zone of this name."""
    RESOLVE = "resolve"
    """All names are resolved as usual, even when a local zone is built in at this name or above."""
    LOOPBACK = "loopback"
    """Every name has the loopback addresses (RFC 6761 section 6.3); for built-in zones only."""


# In these zones, names without data are resolved as usual.
TRANSPARENT_TYPES = frozenset({
    LocalZoneType.TRANSPARENT, LocalZoneType.TYPETRANSPARENT, LocalZoneType.TRUNCATE, LocalZoneType.INFORM,
})
INFORM_TYPES = frozenset({LocalZoneType.INFORM, LocalZoneType.INFORM_DENY, LocalZoneType.INFORM_REDIRECT})
_DENY_TYPES = frozenset({LocalZoneType.DENY, LocalZoneType.INFORM_DENY})
_REDIRECT_TYPES = frozenset({LocalZoneType.REDIRECT, LocalZoneType.INFORM_REDIRECT})
# In these zones, local data is ignored.
_WITHOUT_DATA = frozenset({
    LocalZoneType.NXDOMAIN, LocalZoneType.ALWAYS_TRANSPARENT, LocalZoneType.ALWAYS_REFUSE,
    LocalZoneType.ALWAYS_NXDOMAIN, LocalZoneType.ALWAYS_NODATA, LocalZoneType.ALWAYS_DENY, LocalZoneType.BLOCK_A,
})
# In these zones, names with data are answered only for the types that they have data of.
_BY_TYPE = _DENY_TYPES | {LocalZoneType.TYPETRANSPARENT, LocalZoneType.REFUSE, LocalZoneType.ALWAYS_NULL}
_WITHOUT_SOA = TRANSPARENT_TYPES | _DENY_TYPES | {
    LocalZoneType.REFUSE, LocalZoneType.ALWAYS_REFUSE, LocalZoneType.ALWAYS_DENY, LocalZoneType.ALWAYS_TRANSPARENT,
}

_PRIVATE_REVERSE = (
    # RFC 6303 sections 4.1 to 4.4, RFC 7793
    *(
        f"{prefix}.in-addr.arpa."
        for prefix in (
            "0",
            "127",
            "10",
            *(f"{n}.172" for n in range(16, 32)),
            "168.192",
            "254.169",
            "2.0.192",
            "100.51.198",
            "113.0.203",
            "255.255.255.255",
            *(f"{n}.100" for n in range(64, 128)),
        )
    ),
    # RFC 6303 sections 4.5 to 4.7: unspecified and loopback address, unique local, link local, documentation
    "0." * 32 + "ip6.arpa.",
    "1." + "0." * 31 + "ip6.arpa.",
    "d.f.ip6.arpa.",
    *(f"{digit}.e.f.ip6.arpa." for digit in "89ab"),
    "8.b.d.0.1.0.0.2.ip6.arpa.",
)
_ABSENT = (
    "invalid.",  # RFC 6761 section 6.4
    "test.",  # RFC 6761 section 6.2
    "onion.",  # RFC 7686: names of another system, which must not be sent to DNS servers
    "alt.",  # RFC 9476, for the same reason
    "home.arpa.",  # RFC 8375
    "service.arpa.",  # RFC 9665
)


def special_zones() -> Iterator[tuple[str, LocalZoneType]]:
    """The built-in zones: RFC 6761, RFC 6303 and later RFCs about special-use names."""
    yield "localhost.", LocalZoneType.LOOPBACK
    # RFC 9462 section 4: without designated resolvers there is no data, but the names exist.
    yield "resolver.arpa.", LocalZoneType.NODATA
    for zone in (*_ABSENT, *_PRIVATE_REVERSE):
        yield zone, LocalZoneType.STATIC


class _Zone:
    __slots__ = ("apex", "built_in", "kind", "soa")

    def __init__(self, apex: bytes, kind: LocalZoneType, built_in: bool) -> None:
        self.apex = apex
        self.kind = kind
        self.built_in = built_in
        self.soa: RRset | None = None


class LocalZones(PolicyModule):
    """All local zones and data, compiled once from settings. The pipeline calls `question` only for names that
    `covered_names` has.
    """

    name = "local-zones"

    def __init__(
        self,
        settings: PolicySettings,
        resolved_zones: Iterable[str] = (),
        hosts: Iterable[HostEntry] = (),
        designations: Iterable[Designation] = (),
    ) -> None:
        """Compile `settings`. `resolved_zones` are resolved even if a local zone encloses them; `hosts` are the entries
        of hosts files; `designations` are the encrypted resolvers that are announced (RFC 9462).

        Raises:
            ValueError: naming the setting that is wrong.
        """
        self._zones: dict[bytes, _Zone | None] = {}  # None: the name and all below it are resolved
        self._data: dict[bytes, dict[int, RRset]] = {}
        self._nodes: set[bytes] = set()
        # Names from hosts entries, whose answers are not authoritative (no AA bit).
        self._hosts: set[bytes] = set()
        resolved = {names.lower(_name(zone, "zone")) for zone in resolved_zones} - {names.ROOT}
        self.has_truncate_zone = self.has_inform_zone = False
        configured = [_parse_zone(text) for text in settings.local_zones]
        left_out = {names.lower(apex) for apex, kind in configured if kind is LocalZoneType.NODEFAULT}
        if settings.special_use_domains:
            self._add_special(left_out)
        dns64 = Dns64.create(settings)
        if dns64 is not None:
            self._add_discovery(dns64, left_out | resolved)
        announced = [one.rdata() for one in designations]
        if announced:
            self._add_data(names.from_text(OWNER), c.SVCB, announced)
        for apex, kind in configured:
            if kind is LocalZoneType.RESOLVE:
                resolved.add(names.lower(apex))
            elif kind is not LocalZoneType.NODEFAULT:
                self._add_zone(apex, kind, built_in=False)
        self._zones.update(dict.fromkeys(resolved))
        for text in settings.local_data:
            self._add_record(text)
        for entry in (*settings.hosts, *hosts):
            self._add_host(entry)

    # --- look-up --------------------------------------------------------------------------------------------------

    def covered_names(self) -> tuple[Container[bytes], Container[bytes]]:
        """The zones, and the names that have data."""
        return self._zones, self._data

    def for_sub_queries(self) -> PolicyModule:
        """The built-in zones, whose names do not exist for public servers either."""
        return _BuiltInZones(self)

    def find_built_in(self, query: Query, question: Question) -> Decision:
        """As `question`, for names of the built-in zones only."""
        apex = names.closest_in(question.key[0], self._zones)
        zone = None if apex is None else self._zones[apex]
        return self.question(query, question) if zone is not None and zone.built_in else None

    def question(self, query: Query, question: Question) -> Decision:
        """The local answer to `question`, or that it gets no reply; None when it is resolved as usual.

        The answer may be a CNAME, which the caller follows.
        """
        key: bytes = question.key[0]
        apex = names.closest_in(key, self._zones)
        zone = None if apex is None else self._zones[apex]
        if zone is None:
            return self._from_data(question, key) if key in self._data else None
        if zone.built_in and question.qtype == c.DS and key == zone.apex and key.endswith(b"\x04arpa\x00"):
            return None  # the DS set is the parent's, and only its denial proves that the zone is unsigned
        if question.qtype == c.DS and key == zone.apex and not zone.built_in and c.DS not in self._data.get(key, ()):
            # For the same reason, the zone above decides, as in Unbound.
            apex = None if key == names.ROOT else names.closest_in(names.parent(key), self._zones)
            zone = None if apex is None else self._zones[apex]
            if zone is None:
                return None
        return self._from_zone(question, key, zone)

    alias = question

    def is_truncated(self, name: bytes) -> bool:
        """Whether `name` is answered over TCP only. Callers test `has_truncate_zone` first, because it is cheaper."""
        apex = names.closest_in(names.lower(name), self._zones)
        zone = None if apex is None else self._zones[apex]
        return zone is not None and zone.kind is LocalZoneType.TRUNCATE

    def inform_zone(self, name: bytes) -> bytes | None:
        """The zone whose queries are logged that `name` (lower case) belongs to; None without. Callers test
        `has_inform_zone` first."""
        apex = names.closest_in(name, self._zones)
        zone = None if apex is None else self._zones[apex]
        return apex if zone is not None and zone.kind in INFORM_TYPES else None

    def _from_data(self, question: Question, key: bytes, zone: _Zone | None = None) -> Outcome:
        """Answer from the data at `key`, which exists."""
        held = self._data[key]
        if question.qtype == c.ANY:
            return _answered(question, [rrset.with_name(question.qname) for rrset in held.values()][:1])  # RFC 8482
        rrset = held.get(question.qtype) or held.get(c.CNAME)
        if rrset is None:
            outcome = _negative(question, c.NOERROR, zone)
        else:
            outcome = _answered(question, [rrset.with_name(question.qname)])
        outcome.authoritative = zone is not None or key not in self._hosts
        return outcome

    def _from_zone(self, question: Question, key: bytes, zone: _Zone) -> Decision:
        kind = zone.kind
        if kind in _WITHOUT_DATA:
            return _without_data(question, zone)
        if key in self._data:
            held = self._data[key]
            if kind not in _BY_TYPE or question.qtype == c.ANY or held.keys() & {question.qtype, c.CNAME}:
                return self._from_data(question, key, zone)
            if kind is LocalZoneType.TYPETRANSPARENT:
                return None
        if kind in TRANSPARENT_TYPES:
            return None
        if kind in _DENY_TYPES:
            return DROP
        if kind is LocalZoneType.REFUSE:
            return _refused(question)
        if kind is LocalZoneType.ALWAYS_NULL:
            return _null(question, zone)
        if kind in _REDIRECT_TYPES:
            return (
                _expanded(question, self._from_data(question, zone.apex, zone))
                if zone.apex in self._data
                else _negative(question, c.NOERROR, zone)
            )
        if kind is LocalZoneType.LOOPBACK:
            if question.qtype in (c.A, c.AAAA):
                rdata = _packed("127.0.0.1" if question.qtype == c.A else "::1")
                return _answered(question, [_rrset(question.qname, question.qtype, [rdata])])
            return _negative(question, c.NOERROR, zone)
        if key == zone.apex:
            if question.qtype == c.SOA and zone.soa is not None:
                return _answered(question, [zone.soa])
            if question.qtype == c.NS:
                return _answered(question, [_rrset(question.qname, c.NS, [zone.apex])])  # RFC 6303 section 3
        exists = kind is LocalZoneType.NODATA or key == zone.apex or key in self._nodes
        return _negative(question, c.NOERROR if exists else c.NXDOMAIN, zone)

    # --- compilation ----------------------------------------------------------------------------------------------

    def _add_zone(self, apex: bytes, kind: LocalZoneType, *, built_in: bool) -> None:
        apex = names.lower(apex)
        zone = self._zones[apex] = _Zone(apex, kind, built_in)
        if kind not in _WITHOUT_SOA:
            zone.soa = _soa(apex)
        self.has_truncate_zone = self.has_truncate_zone or kind is LocalZoneType.TRUNCATE
        self.has_inform_zone = self.has_inform_zone or kind in INFORM_TYPES

    def _add_special(self, left_out: set[bytes]) -> None:
        """Add the built-in zones and the names of the loopback addresses, without those of zones in `left_out`."""
        for zone, kind in special_zones():
            apex = names.from_text(zone)
            if apex not in left_out:
                self._add_zone(apex, kind, built_in=True)
        for address in ("127.0.0.1", "::1"):
            owner = names.reverse_address(address)
            if not any(names.is_subdomain(owner, apex) for apex in left_out):
                self._add_data(owner, c.PTR, [names.from_text("localhost.")])

    def _add_discovery(self, dns64: Dns64, left_out: set[bytes]) -> None:
        """Add the name by which clients find the prefixes of DNS64, and the reverse names of its addresses.

        They are never looked up, so that a client finds the prefixes whatever another server says, and also when it
        sets DO or CD (RFC 8880 sections 7.1 and 7.2). Only DS queries are resolved, as for all built-in zones of arpa.
        """
        owner = names.from_text(DISCOVERY_NAME)
        if owner not in left_out:
            self._add_zone(owner, LocalZoneType.STATIC, built_in=True)
            self._add_data(owner, c.A, [_packed(text) for text in DISCOVERY_ADDRESSES])
            self._add_data(owner, c.AAAA, dns64.discovery())
        for text in DISCOVERY_ADDRESSES:
            reverse = names.reverse_address(text)
            if reverse not in left_out:
                self._add_zone(reverse, LocalZoneType.STATIC, built_in=True)
                self._add_data(reverse, c.PTR, [owner])

    def _add_data(self, owner: bytes, rtype: int, rdatas: list[bytes], ttl: int = limits.LOCAL_TTL) -> None:
        key = names.lower(owner)
        held = self._data.setdefault(key, {})
        before = held[rtype].rdatas() if rtype in held else []
        held[rtype] = _rrset(owner, rtype, [*before, *(one for one in rdatas if one not in before)], ttl)
        node = key
        while node != names.ROOT and node not in self._nodes:
            self._nodes.add(node)
            node = names.parent(node)

    def _add_record(self, text: str) -> None:
        """Add one record in the text form of zone files."""
        from resolver.wire import present

        try:
            found = present.zone_from_text(f"$TTL {limits.LOCAL_TTL}\n{text}\n", names.ROOT)
        except ValueError as error:
            why = re.sub(r"^zone text: <text>:\d+: ", "", str(error))
            raise ValueError(f"policy.local_data: {text!r}: {why}") from None
        if not found:
            raise ValueError(f"policy.local_data: {text!r}: no record; write \"name type data\"")
        for rrset in found:
            self._add_data(rrset.name, rrset.rtype, rrset.rdatas(), rrset.ttl)

    def _add_host(self, entry: HostEntry) -> None:
        owner = _name(entry.name, "policy.hosts")
        for address in entry.addresses:
            version = ipaddress.ip_address(address).version
            self._hosts.add(names.lower(owner))
            self._add_data(owner, c.A if version == 4 else c.AAAA, [_packed(address)])
            reverse = names.reverse_address(address)
            if c.PTR not in self._data.get(names.lower(reverse), {}):  # the PTR record has the first name of an address
                self._hosts.add(names.lower(reverse))
                self._add_data(reverse, c.PTR, [owner])


class _BuiltInZones(PolicyModule):
    """The built-in zones of `zones`, for sub-queries."""

    name = LocalZones.name

    def __init__(self, zones: LocalZones) -> None:
        self._zones = zones

    def question(self, query: Query, question: Question) -> Decision:
        """The points `question` and `alias`."""
        return self._zones.find_built_in(query, question)

    alias = question


def _parse_zone(text: str) -> tuple[bytes, LocalZoneType]:
    """Name and kind of an entry of `policy.local_zones`."""
    zone_text, _, kind_text = text.strip().partition(" ")
    if not zone_text:
        raise ValueError(f"policy.local_zones: {text!r}: no zone; write \"zone kind\"")
    try:
        kind = LocalZoneType(kind_text.strip() or "static")
    except ValueError:
        kind = LocalZoneType.LOOPBACK
    if kind is LocalZoneType.LOOPBACK:
        known = ", ".join(one.value for one in LocalZoneType if one is not LocalZoneType.LOOPBACK)
        raise ValueError(f"policy.local_zones: {text!r}: unknown kind; known: {known}")
    return _name(zone_text, f"policy.local_zones: {text!r}"), kind


def _without_data(question: Question, zone: _Zone) -> Decision:
    """What the kinds do that ignore local data."""
    kind, qtype = zone.kind, question.qtype
    if kind is LocalZoneType.ALWAYS_DENY:
        return DROP
    if kind is LocalZoneType.ALWAYS_REFUSE:
        return _refused(question)
    if kind is LocalZoneType.ALWAYS_TRANSPARENT or (kind is LocalZoneType.BLOCK_A and qtype != c.A):
        return None
    absent = kind in (LocalZoneType.NXDOMAIN, LocalZoneType.ALWAYS_NXDOMAIN)
    return _negative(question, c.NXDOMAIN if absent else c.NOERROR, zone)


def _null(question: Question, zone: _Zone) -> Outcome:
    qtype = question.qtype
    if qtype not in (c.A, c.AAAA):
        return _negative(question, c.NOERROR, zone)
    return _answered(question, [_rrset(question.qname, qtype, [bytes(4 if qtype == c.A else 16)])])


def _refused(question: Question) -> Outcome:
    return Outcome(question, c.REFUSED, [], [], Verdict.INDETERMINATE, 0)


def _name(text: str, where: str) -> bytes:
    try:
        return names.from_text(text if text.endswith(".") else text + ".")
    except ValueError as error:
        raise ValueError(f"{where}: {text!r} is not a name: {error}") from None


def _packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def _rrset(owner: bytes, rtype: int, rdatas: list[bytes], ttl: int = limits.LOCAL_TTL) -> RRset:
    return RRset(owner, rtype, ttl, rdatas, trust=Trust.CONFIGURED, verdict=Verdict.INDETERMINATE)


def _soa(apex: bytes) -> RRset:
    """The SOA of an empty zone (RFC 6303 section 3)."""
    timers = (1, 3600, 1200, 604800, limits.LOCAL_NEGATIVE_TTL)
    rdata = apex + names.from_text("nobody.invalid.") + b"".join(value.to_bytes(4, "big") for value in timers)
    return _rrset(apex, c.SOA, [rdata], limits.LOCAL_NEGATIVE_TTL)


def _answered(question: Question, answer: list[RRset]) -> Outcome:
    outcome = Outcome(question, c.NOERROR, answer, [], Verdict.INDETERMINATE, min(rrset.ttl for rrset in answer))
    outcome.authoritative = True
    return outcome


def _expanded(question: Question, outcome: Outcome) -> Outcome:
    """Replace ``*`` by the qname when a zone of type redirect is an alias to ``*.target``."""
    if not outcome.answer or outcome.answer[0].rtype != c.CNAME or question.qtype == c.CNAME:
        return outcome
    alias = outcome.answer[0]
    target = alias.targets()[0]
    if not target.startswith(b"\x01*"):
        return outcome
    whole = names.replace_suffix(question.qname, names.ROOT, names.parent(target))
    if whole is None:
        # As for a DNAME whose result is too long (RFC 6672 section 2.2).
        failed = Outcome(question, c.YXDOMAIN, [], [], Verdict.INDETERMINATE, outcome.ttl)
        failed.authoritative = True
        failed.ede.append((c.EDE_OTHER, "the alias of the local zone makes the name too long"))
        return failed
    return _answered(question, [_rrset(question.qname, c.CNAME, [whole], alias.ttl)])


def _negative(question: Question, rcode: int, zone: _Zone | None) -> Outcome:
    soa = [] if zone is None or zone.soa is None else [zone.soa]
    outcome = Outcome(question, rcode, [], soa, Verdict.INDETERMINATE, limits.LOCAL_NEGATIVE_TTL)
    outcome.authoritative = True
    return outcome
