"""Response policy zones as a policy: which point applies which triggers.

| point | triggers |
|---|---|
| `question`, `alias` | client address and qname, when no zone before the match has triggers that need the answer |
| `name_server` | names and addresses of name servers; they apply before the servers are queried |
| `response` | response addresses, and the matches that had to wait for them |

Name server triggers therefore precede response addresses, also those of earlier zones: the servers that a zone forbids
are not queried at all.

Rules are applied for each client (`per_client`). A CNAME of a rule must be followed, which only a module can do that is
asked for all clients: `RpzAliases` answers with it at `question`. So a client that a zone exempts by its address gets
these answers nevertheless. A CNAME of a rule with another trigger, or that applies at `response`, is not followed.

The zones are replaced as a whole (`replace`), after which the cache must be flushed.
"""

import logging
from collections.abc import Mapping, Sequence

from resolver import limits
from resolver.effects import Outcome, Question, Server
from resolver.log_limit import LimitedWarning
from resolver.nat64 import WELL_KNOWN_PREFIX, ServerNat64
from resolver.policy.module import PASS, Action, Decision, PolicyModule
from resolver.policy.rpz import Action as RuleAction
from resolver.policy.rpz import Match, PolicyZones, RpzZone, Rule, Trigger, respond
from resolver.policy.rpz_zone import RpzOptions
from resolver.policy.service_hints import hinted_addresses
from resolver.query import ActionKind, Query
from resolver.settings.lists import RpzSettings
from resolver.verdict import Trust
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = ["ResponsePolicyZones", "RpzAliases", "options_of"]

logger = logging.getLogger(__name__)


def options_of(settings: RpzSettings) -> RpzOptions:
    """How the zone of `settings` is used."""
    log_only = settings.override == "log"
    target = settings.override_target
    override = None
    if target:
        override = Rule(RuleAction.DATA, ((c.CNAME, limits.RPZ_TTL, (names.from_text(target),)),))
    elif settings.override and not log_only:
        override = Rule(RuleAction(settings.override))
    return RpzOptions(settings.ede, override, log_only, settings.log or log_only)


class ResponsePolicyZones(PolicyModule):
    """The zones of some views, in their order."""

    name = "rpz"
    per_client = True

    def __init__(
        self, settings: Sequence[RpzSettings], views: frozenset[int] | None = None, nat64: ServerNat64 | None = None
    ) -> None:
        """`nat64` is the translator between this host and name servers with IPv4 addresses."""
        self.views = views
        self._nat64 = nat64
        self._order = tuple(one.name for one in settings)
        self._zones = PolicyZones()

    def replace(self, zones: Mapping[str, RpzZone]) -> None:
        """Use `zones`, by their name; a configured zone that is not among them has no rules."""
        self._zones = PolicyZones([zones[name] for name in self._order if name in zones])

    @property
    def has_server_rules(self) -> bool:
        """Whether a zone has triggers for name servers."""
        return self._zones.asks_servers

    def is_cacheable(self, question: Question) -> bool:
        """Whether the finished answer may be given without this policy: when no zone has client rules, logs, or sends
        clients to TCP for this name."""
        for zone in self._zones.zones:
            if len(zone.clients):
                return False
            found = zone.match_name(question.qname)
            if found is not None:
                return not (zone.log or found.rule.action is RuleAction.TCP_ONLY)
            if zone.needs_answer and zone.log:
                return False
        return True

    def question(self, query: Query, question: Question) -> Decision:
        """The client and the qname."""
        decision = self._zones.before(query.packed or None, question.qname)
        self._log(query, question, decision.observed)
        if decision.match is None or not decision.final:
            return None
        if _is_followed(decision.match, question):
            if decision.match.zone.log:
                self._log(query, question, (decision.match,))
            return None
        return self._apply(query, question, decision.match)

    def followed(self, question: Question) -> Outcome | None:
        """The CNAME of a rule for the qname, which is followed; None without."""
        match, final, _ = self._zones.before(None, question.qname)
        return respond(match, question) if match is not None and final and _is_followed(match, question) else None

    def alias(self, query: Query, question: Question) -> Decision:
        """The target of an alias, as a qname."""
        decision = self._zones.before(None, question.qname)
        if decision.match is None or not decision.final or decision.match.rule.action is RuleAction.TCP_ONLY:
            return None
        made = self._apply(query, question, decision.match)
        # An exception from policy zones is none from other policies: `question` does not stop those, either.
        return None if made is PASS else made

    def name_server(
        self, query: Query, question: Question, zone: bytes, servers: Sequence[bytes], addresses: Sequence[Server]
    ) -> Decision:
        """The name servers of a zone of the qname."""
        if not self._zones.asks_servers:
            return None
        known = self._zones.before(None, question.qname)
        decision = self._zones.after(known.match, (), servers, self._addresses_of(addresses))
        if decision.match is None or decision.match is known.match:
            return None
        if decision.match.rule.action is RuleAction.TCP_ONLY:
            return None
        return self._apply(query, question, decision.match)

    def _addresses_of(self, servers: Sequence[Server]) -> list[bytes]:
        """The addresses of `servers`, and the IPv4 addresses of those that are reached through a NAT64."""
        addresses = [_packed(server) for server in servers]
        nat64 = self._nat64
        if nat64 is not None:
            addresses += [embedded for one in addresses if (embedded := nat64.extract(one)) is not None]
        return addresses

    def response(self, query: Query, outcome: Outcome) -> Decision:
        """The addresses of an answer that no policy has made, and the matches that had to wait for the answer."""
        if not self._zones.zones:
            return None
        if outcome.applied is not None:
            return self._aliases_of_zones(query, outcome)
        chain, addresses = _chain(outcome)
        candidate: Match | None = None
        for position, name in enumerate(chain):
            decision = self._zones.before(query.packed or None if position == 0 else None, name)
            candidate = decision.match
            if candidate is not None:
                if decision.final and _is_followed(candidate, outcome.question):
                    return None  # it was answered by this rule
                if position < len(chain) - 1:
                    return self._finish(query, outcome, candidate)
                break
        decision = self._zones.after(candidate, addresses, (), ())
        self._log(query, outcome.question, decision.observed)
        return None if decision.match is None else self._finish(query, outcome, decision.match)

    def _aliases_of_zones(self, query: Query, outcome: Outcome) -> Decision:
        """The rules for names that are aliases in their zones, where a policy has answered the last name of the chain.
        Else the owner of a name could end its rule by an alias to local data."""
        if outcome.applied is not None and outcome.applied.point == "response":
            return None
        name, client = outcome.question.qname, query.packed or None
        for rrset in outcome.answer:
            if rrset.rtype != c.CNAME:
                continue
            match, final, _ = self._zones.before(client, name)
            if match is not None and rrset.trust != Trust.CONFIGURED:
                if final and _is_followed(match, outcome.question):
                    return None  # it was answered by this rule
                return self._finish(query, outcome, match)
            name, client = rrset.targets()[0], None
        return None

    def _finish(self, query: Query, outcome: Outcome, match: Match) -> Decision:
        """Apply `match` to a finished outcome. `question` may have applied and logged an exception before."""
        return PASS if match.rule.action is RuleAction.PASSTHRU else self._apply(query, outcome.question, match)

    def _apply(self, query: Query, question: Question, match: Match) -> Decision:
        if match.zone.log:
            self._log(query, question, (match,))
        reason, action = str(match), match.rule.action
        if action is RuleAction.PASSTHRU:
            return PASS
        if action is RuleAction.DROP:
            return Action(ActionKind.DROP, reason=reason)
        if action is RuleAction.TCP_ONLY:
            return Action(ActionKind.TRUNCATE, reason=reason)
        made = respond(match, question)
        assert made is not None
        return Action(ActionKind.ANSWER, made, reason=reason)

    def _log(self, query: Query, question: Question, matches: Sequence[Match]) -> None:
        for match in matches:
            _lines.warn("policy: %s: %s %s, client %s", match, names.to_text(question.qname),
                        c.type_to_text(question.qtype), query.address or "unknown")


class RpzAliases(PolicyModule):
    """The rules of `zones` whose answer is a CNAME that is followed."""

    name = "rpz-aliases"

    def __init__(self, zones: ResponsePolicyZones) -> None:
        self.views = zones.views
        self._zones = zones

    def question(self, query: Query, question: Question) -> Decision:
        """The CNAME of a rule for the qname."""
        return self._zones.followed(question)


_lines = LimitedWarning(logger, limits.LOG_INTERVAL.default, limits.LOG_FAILURES)


def _is_followed(match: Match, question: Question) -> bool:
    """Whether the answer of `match` is a CNAME that the resolver follows."""
    return (match.trigger is Trigger.QNAME and match.rule.action is RuleAction.DATA
            and match.rule.records[0][0] == c.CNAME and question.qtype != c.CNAME)


def _packed(server: Server) -> bytes:
    from ipaddress import ip_address

    return ip_address(server.address.partition("%")[0]).packed


def _chain(outcome: Outcome) -> tuple[list[bytes], list[bytes]]:
    """The names of the alias chain of an answer, and all addresses to which clients may connect because of it: those of
    its records, those in hints, and the IPv4 addresses to which a NAT64 translates them."""
    chain, addresses = [outcome.question.qname], list(outcome.embedded)
    for rrset in outcome.answer:
        if rrset.rtype == c.CNAME:
            chain.append(rrset.targets()[0])
        elif rrset.rtype in (c.A, c.AAAA):
            addresses += rrset.rdatas()
        elif rrset.rtype in (c.SVCB, c.HTTPS):
            for rdata in rrset.rdatas():
                addresses += hinted_addresses(rdata)
    addresses += [one[len(WELL_KNOWN_PREFIX):] for one in addresses if one.startswith(WELL_KNOWN_PREFIX)]
    return chain, addresses
