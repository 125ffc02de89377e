"""Response policy zones: which rule applies to a query, and what it answers (draft-vixie-dnsop-dns-rpz-00).

A compiled zone (`rpz_zone.compile_zone`) has tables for its five kinds of triggers. `PolicyZones` holds several
zones in order and decides in two steps:

1. `before`: client address and qname, before the query is resolved. The match is final unless a zone before it has
   triggers that need the answer (response address, name server name and address).
2. `after`: those triggers, of the zones before the candidate of step 1.

Precedence (section 5 of the draft): names earlier in an alias chain (the caller takes both steps for each name and
stops at the first match), then the order of zones, then the kinds of triggers (`Trigger`), then exact names before
wildcards and longer names before shorter, the smallest name server name, the longest prefix, the smallest address.

All of it is immutable; a zone is replaced by a new `PolicyZones`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import NamedTuple

from resolver import limits
from resolver.effects import Outcome, Question
from resolver.policy.name_table import NameTable
from resolver.policy.prefix_table import Prefix, PrefixTable
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset, negative_ttl

__all__ = ["Action", "Decision", "Match", "PolicyZones", "RpzZone", "Rule", "Trigger", "alias_target", "respond"]

_TTL_WITHOUT_SOA = limits.RPZ_TTL


class Action(Enum):
    """What is done with a query; the values are the words of settings and logs."""

    NXDOMAIN = "nxdomain"
    NODATA = "nodata"
    PASSTHRU = "passthru"
    """The query is answered as without any policy zone; no later rule applies."""
    DROP = "drop"
    TCP_ONLY = "tcp-only"
    """Over UDP the reply is empty and truncated; over TCP the query is answered as with PASSTHRU."""
    DATA = "local-data"


class Trigger(IntEnum):
    """The kinds of triggers, in the order of their precedence within one zone."""

    CLIENT_IP = 0
    QNAME = 1
    IP = 2
    NSDNAME = 3
    NSIP = 4


class Rule(NamedTuple):
    """An action; with DATA, the records as (type, TTL, rdatas) in the order of types. Equal rules are one object."""

    action: Action
    records: tuple[tuple[int, int, tuple[bytes, ...]], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class RpzZone:
    """One compiled zone. Values in the tables are positions in `rules`, counted from 1."""

    origin: bytes
    soa: RRset | None
    rules: tuple[Rule, ...]
    qnames: NameTable
    clients: PrefixTable
    addresses: PrefixTable
    ns_names: NameTable
    ns_addresses: PrefixTable
    ede: int = c.EDE_FILTERED
    """The code of RFC 8914 for answers that this zone changes: 15 to 18, or 0 for none."""
    override: Rule | None = None
    """Applied instead of the rule of each match, None to apply the rules of the zone."""
    log_only: bool = False
    """Matches are reported and not applied (policy DISABLED of BIND)."""
    log: bool = False
    """Each match is logged."""

    @property
    def asks_servers(self) -> bool:
        """Whether a trigger depends on the servers of an answer. They apply before the servers are queried, so data
        that was cached without the zone passes them."""
        return bool(len(self.ns_names) or len(self.ns_addresses))

    @property
    def needs_answer(self) -> bool:
        """Whether a trigger depends on the answer or on the servers of it."""
        return bool(len(self.addresses)) or self.asks_servers

    @property
    def octets(self) -> int:
        """Estimated memory. It looks at each rule."""
        prefixes = len(self.clients) + len(self.addresses) + len(self.ns_addresses)
        found = self.qnames.octets + self.ns_names.octets + prefixes * limits.RPZ_PREFIX_OCTETS
        for rule in self.rules:
            for _, _, rdatas in rule.records:
                found += (1 + len(rdatas)) * limits.RPZ_RULE_OVERHEAD + sum(map(len, rdatas))
        return found

    def match_client(self, packed: bytes) -> "Match | None":
        """The rule for a client address, 4 or 16 bytes."""
        return self._match_address(Trigger.CLIENT_IP, self.clients, (packed,))

    def match_name(self, name: bytes) -> "Match | None":
        """The rule for a qname: the exact name, else the closest wildcard above it."""
        return self._match_names(Trigger.QNAME, self.qnames, (name,))

    def match_address(self, packed: Iterable[bytes]) -> "Match | None":
        """The rule for the addresses of an answer."""
        return self._match_address(Trigger.IP, self.addresses, packed)

    def match_ns_name(self, found: Iterable[bytes]) -> "Match | None":
        """The rule for the names of the name servers of an answer."""
        return self._match_names(Trigger.NSDNAME, self.ns_names, found)

    def match_ns_address(self, packed: Iterable[bytes]) -> "Match | None":
        """The rule for the addresses of the name servers of an answer."""
        return self._match_address(Trigger.NSIP, self.ns_addresses, packed)

    def _match_address(self, trigger: Trigger, table: PrefixTable, packed: Iterable[bytes]) -> "Match | None":
        if not len(table):
            return None
        best: Prefix | None = None
        for address in packed:
            found = table.find(address)
            if found is not None and (best is None or found.rank < best.rank):
                best = found
        return None if best is None else self._made(trigger, best.value, str(best))

    def _match_names(self, trigger: Trigger, table: NameTable, tried: Iterable[bytes]) -> "Match | None":
        if not len(table):
            return None
        best: tuple[bytes, int, bytes] | None = None
        for name in tried:
            found = table.match(name)
            if found is None:
                continue
            value, owner, exact = found
            owner = owner if exact else names.wildcard(owner)
            order = names.canonical_key(names.lower(owner))
            if best is None or order < best[0]:
                best = order, value, owner
        return None if best is None else self._made(trigger, best[1], names.to_text(best[2]))

    def _made(self, trigger: Trigger, value: int, owner: str) -> "Match":
        return Match(self, trigger, self.rules[value - 1] if self.override is None else self.override, owner)


class Match(NamedTuple):
    """A rule that applies: its zone, the kind of trigger, the rule, and the trigger as text for logs."""

    zone: RpzZone
    trigger: Trigger
    rule: Rule
    owner: str

    def __str__(self) -> str:
        return (f"response policy zone {names.to_text(self.zone.origin)} {self.trigger.name} {self.owner}"
                f" {self.rule.action.value}")


class Decision(NamedTuple):
    """The result of a step.

    `match` is None when no rule applies so far. `final`: no later step can change it. `observed` are the matches of
    zones that only log.
    """

    match: Match | None
    final: bool
    observed: tuple[Match, ...] = ()


class PolicyZones:
    """Policy zones in the order of their precedence."""

    def __init__(self, zones: Sequence[RpzZone] = ()) -> None:
        self.zones = tuple(zones)
        self.needs_answer = any(zone.needs_answer for zone in zones)
        self.asks_servers = any(zone.asks_servers for zone in zones)
        self.asks_clients = any(len(zone.clients) for zone in zones)

    def precedes(self, one: RpzZone, other: RpzZone) -> bool:
        """Whether `one` is before `other` or the same; False when they are not both in force."""
        return one in self.zones and other in self.zones and self.zones.index(one) <= self.zones.index(other)

    def before(self, client: bytes | None, name: bytes) -> Decision:
        """Step 1: the triggers that need no answer. `client` is None for a query without client, and for the second
        and later names of an alias chain, because the first name was matched with it."""
        observed: list[Match] = []
        waits = False
        for zone in self.zones:
            found = None if client is None else zone.match_client(client)
            if found is None:
                found = zone.match_name(name)
            if found is not None and not zone.log_only:
                return Decision(found, not waits, tuple(observed))
            if found is not None:
                observed.append(found)
            waits = waits or zone.needs_answer
        return Decision(None, not waits, tuple(observed))

    def after(self, candidate: Match | None, addresses: Iterable[bytes], ns_names: Iterable[bytes],
              ns_addresses: Iterable[bytes]) -> Decision:
        """Step 2: the other triggers, of the zones before that of `candidate`, the match of step 1."""
        observed: list[Match] = []
        held, servers, server_addresses = list(addresses), list(ns_names), list(ns_addresses)
        for zone in self.zones:
            if candidate is not None and zone is candidate.zone:
                break
            found = (zone.match_address(held) or zone.match_ns_name(servers)
                     or zone.match_ns_address(server_addresses))
            if found is not None and not zone.log_only:
                return Decision(found, True, tuple(observed))
            if found is not None:
                observed.append(found)
        return Decision(candidate, True, tuple(observed))


def respond(match: Match, question: Question) -> Outcome | None:
    """The answer of a match; None when the query is resolved, dropped or truncated (PASSTHRU, DROP, TCP-Only).

    A CNAME in the answer is followed by the caller. No answer is secure. The SOA of the zone is in the additional
    section (section 6 of the draft), so that operators can see which zone has changed the answer.
    """
    rule, zone = match.rule, match.zone
    if rule.action in (Action.PASSTHRU, Action.DROP, Action.TCP_ONLY):
        return None
    rcode, answer = c.NXDOMAIN if rule.action is Action.NXDOMAIN else c.NOERROR, []
    ttl = _TTL_WITHOUT_SOA if zone.soa is None else negative_ttl(zone.soa)
    if rule.action is Action.DATA:
        held = {rtype: (seconds, rdatas) for rtype, seconds, rdatas in rule.records}
        rtype = c.CNAME if c.CNAME in held else question.qtype
        if rtype == c.ANY:
            rtype = next(iter(held))  # RFC 8482: one set is enough
        if rtype in held:
            ttl, rdatas = held[rtype]
            if rtype == c.CNAME:
                target = alias_target(rule, question.qname)
                if target is None:
                    rcode = c.YXDOMAIN  # as for a DNAME whose result is too long (RFC 6672 section 2.2)
                rdatas = () if target is None else (target,)
            if rdatas:
                answer = [RRset(question.qname, rtype, ttl, rdatas, trust=Trust.CONFIGURED,
                                verdict=Verdict.INDETERMINATE)]
    outcome = Outcome(question, rcode, answer, [], Verdict.INDETERMINATE, ttl)
    if zone.soa is not None:
        outcome.additional = [zone.soa]
    if zone.ede:
        outcome.ede.append((zone.ede, ""))
    return outcome


def alias_target(rule: Rule, qname: bytes) -> bytes | None:
    """The target of a CNAME rule for `qname`: ``*`` stands for the whole qname. None when the name becomes too long."""
    target = rule.records[0][2][0]
    if not target.startswith(b"\x01*"):
        return target
    return names.replace_suffix(qname, names.ROOT, names.parent(target))
