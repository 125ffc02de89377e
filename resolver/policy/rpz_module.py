"""Response policy zones as a policy: which point applies which triggers.

| point | triggers |
|---|---|
| `question`, `alias` | client address and qname, when no zone before the match needs the answer, or the type is ANY |
| `name_server` | names and addresses of name servers; they apply before the servers are queried |
| `response` | response addresses, and the matches that had to wait for them |

Name server triggers therefore precede response addresses, also those of earlier zones: the servers that a zone forbids
are not queried at all.

Rules are applied for each client (`per_client`). A CNAME of a rule with a qname trigger is the same for all clients
when no zone has rules for clients and no zone before it needs the answer. Then `RpzAliases` answers with it at
`question`, or `alias` for the target of an alias, and it is followed at once. Each other CNAME is an answer for one
client, or one of `name_server`, and the mesh follows it for its client (`Applied.follow`).

One rule only decides about an answer: that for the first name of the alias chain that has one, a rule for the client
being one for the first name (section 5.1 of the draft). So the target of a CNAME of a rule has no rule for a client
(`Query.alias`). What all clients share cannot tell it from a name that a client has asked for: rules for its name
servers, and what `RpzAliases` answers.

The zones are replaced as a whole (`replace`), after which the cache must be flushed.
"""

import logging
from collections.abc import Collection, Mapping, Sequence

from resolver import limits
from resolver.effects import Outcome, Question, Server
from resolver.log_limit import LimitedWarning
from resolver.nat64 import WELL_KNOWN_PREFIX, ServerNat64
from resolver.policy.module import PASS, Action, Decision, PolicyModule
from resolver.policy.rpz import Action as RuleAction
from resolver.policy.rpz import Match, PolicyZones, RpzZone, Rule, Trigger, alias_target, respond
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
        # ANY is answered by `MinimalAny`, or with one set of the name: no address of an answer decides about it.
        if decision.match is None or not (decision.final or question.qtype == c.ANY):
            return None
        if decision.final and self._is_followed(decision.match, question):
            if decision.match.zone.log:
                self._log(query, question, (decision.match,))
            return None  # `RpzAliases` answers with it
        return self._apply(query, question, decision.match)

    def followed(self, question: Question) -> Outcome | None:
        """The CNAME of a rule for the qname, which is followed; None without."""
        match, final, _ = self._zones.before(None, question.qname)
        return respond(match, question) if match is not None and final and self._is_followed(match, question) else None

    def alias(self, query: Query, question: Question) -> Decision:
        """As `alias_after`, for the first name that may have a rule. Nothing is logged, as this may not be applied."""
        match = self._match_alias(question, ())
        return None if match is None else self._made(question, match)

    def alias_after(self, query: Query, question: Question, earlier: Collection[bytes]) -> Decision:
        """The target of an alias, as a qname. With rules for clients, `response` decides."""
        match = self._match_alias(question, earlier)
        if match is None:
            return None
        made = self._apply(query, question, match)
        made.follow = False  # it is the same for all clients, so the chain continues at once
        return made

    def _match_alias(self, question: Question, earlier: Collection[bytes]) -> Match | None:
        """The rule for the target of an alias that is applied for all clients. An exception from policy zones is none
        from other policies: `question` does not stop those, either."""
        match, final, _ = self._zones.before(None, question.qname)
        if match is None or not final or match.rule.action is RuleAction.TCP_ONLY or _is_exception(match, question):
            return None
        if self._zones.asks_clients or any(self._zones.before(None, name).match is not None for name in earlier):
            return None
        return match

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
        if not self._zones.zones or query.alias is not None:
            return None
        if outcome.applied is not None:
            return self._aliases_of_zones(query, outcome)
        chain, addresses = _chain(outcome)
        qtype = outcome.question.qtype
        candidate: Match | None = None
        for position, (name, _) in enumerate(chain):
            decision = self._zones.before(query.packed or None if position == 0 else None, name)
            candidate = decision.match
            if candidate is not None:
                if decision.final and self._is_followed(candidate, Question(name, qtype)):
                    return None  # it was answered by this rule
                if position < len(chain) - 1:
                    return self._finish(query, outcome, candidate, *chain[position])
                break
        decision = self._zones.after(candidate, addresses, (), ())
        self._log(query, outcome.question, decision.observed)
        return None if decision.match is None else self._finish(query, outcome, decision.match, *chain[-1])

    def _aliases_of_zones(self, query: Query, outcome: Outcome) -> Decision:
        """The rules for names that are aliases in their zones, where a policy has answered the last name of the chain.
        Else the owner of a name could end its rule by an alias to local data. And the rule for the client, where one
        for a name server was the answer, which is the same for all clients."""
        applied = outcome.applied
        if applied is None or applied.point == "response":
            return None
        name, client = outcome.question.qname, query.packed or None
        chain = outcome.answer
        if isinstance(applied.detail, Match) and _has_cname(applied.detail) and outcome.rcode == c.NOERROR:
            chain = chain[:-1]  # the last alias is the answer of the rule; it does not lead to the name of it
        for position, rrset in enumerate(chain):
            if rrset.rtype != c.CNAME:
                continue
            match, final, _ = self._zones.before(client, name)
            if match is not None and rrset.trust != Trust.CONFIGURED:
                if final and self._is_followed(match, Question(name, outcome.question.qtype)):
                    return None  # it was answered by this rule
                return self._finish(query, outcome, match, name, position)
            name, client = rrset.targets()[0], None
        if isinstance(applied.detail, Match) and client is not None:
            match = self._zones.before(client, name).match
            if match is not None and self._zones.precedes(match.zone, applied.detail.zone):
                return self._finish(query, outcome, match, name, 0)
        return None

    def _finish(self, query: Query, outcome: Outcome, match: Match, name: bytes, before: int) -> Decision:
        """Apply `match`, a rule for `name`, to a finished outcome, of whose answer the first `before` sets lead there.
        `question` may have applied and logged an exception before."""
        question = Question(name, outcome.question.qtype)
        if _is_exception(match, question):
            return PASS
        made = self._apply(query, question, match)
        if made.outcome is not None:
            # Without signatures, which prove nothing in a changed answer: the client may wait long for the target.
            chain = [rrset.without_sigs() for rrset in outcome.answer[:before]]
            made.outcome.question, made.outcome.answer = outcome.question, chain + made.outcome.answer
            made.outcome.ttl = min([made.outcome.ttl, *(rrset.ttl for rrset in chain)])
            if outcome.stale:  # the current answer may have no rule, so what is made of a stale one is not kept, either
                made.outcome.stale, made.outcome.ttl = True, 0
                made.outcome.ede += [reason for reason in outcome.ede if reason not in made.outcome.ede]
        return made

    def _is_followed(self, match: Match, question: Question) -> bool:
        """Whether the answer of `match`, which no later step can change, is a CNAME for all clients."""
        return match.trigger is Trigger.QNAME and not self._zones.asks_clients and _has_alias(match, question)

    def _apply(self, query: Query, question: Question, match: Match) -> Action:
        if match.zone.log:
            self._log(query, question, (match,))
        return self._made(question, match)

    @staticmethod
    def _made(question: Question, match: Match) -> Action:
        """What the rule of `match` does with `question`."""
        reason, action = str(match), match.rule.action
        if _is_exception(match, question):
            return PASS
        if action is RuleAction.DROP:
            return Action(ActionKind.DROP, reason=reason)
        if action is RuleAction.TCP_ONLY:
            return Action(ActionKind.TRUNCATE, reason=reason)
        made = respond(match, question)
        assert made is not None
        follow = made.rcode == c.NOERROR and _has_alias(match, question)
        return Action(ActionKind.ANSWER, made, reason=reason, follow=follow, detail=match)

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


def _has_alias(match: Match, question: Question) -> bool:
    """Whether the answer of `match` is a CNAME whose target is to be resolved."""
    return _has_cname(match) and question.qtype not in (c.CNAME, c.ANY) and not _is_exception(match, question)


def _is_exception(match: Match, question: Question) -> bool:
    """Whether the name is resolved as without a rule: PASSTHRU, or an alias to the name itself. A rule for one name
    with such a CNAME was the notation of PASSTHRU; an override or a wildcard has it for the target only."""
    if not _has_cname(match):
        return match.rule.action is RuleAction.PASSTHRU
    target = alias_target(match.rule, question.qname)
    return target is not None and names.equal(target, question.qname)


def _has_cname(match: Match) -> bool:
    return match.rule.action is RuleAction.DATA and match.rule.records[0][0] == c.CNAME


def _packed(server: Server) -> bytes:
    from ipaddress import ip_address

    return ip_address(server.address.partition("%")[0]).packed


def _chain(outcome: Outcome) -> tuple[list[tuple[bytes, int]], list[bytes]]:
    """The names of the alias chain of an answer, each with the number of sets that lead to it; and all addresses to
    which clients may connect because of it: those of its records, those in hints, and the IPv4 addresses to which a
    NAT64 translates them."""
    chain, addresses = [(outcome.question.qname, 0)], list(outcome.embedded)
    for position, rrset in enumerate(outcome.answer, 1):
        if rrset.rtype == c.CNAME:
            chain.append((rrset.targets()[0], position))
        elif rrset.rtype in (c.A, c.AAAA):
            addresses += rrset.rdatas()
        elif rrset.rtype in (c.SVCB, c.HTTPS):
            for rdata in rrset.rdatas():
                addresses += hinted_addresses(rdata)
    addresses += [one[len(WELL_KNOWN_PREFIX):] for one in addresses if one.startswith(WELL_KNOWN_PREFIX)]
    return chain, addresses
