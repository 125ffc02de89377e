"""Answers from expired data, for when no current one can be obtained (RFC 8767).

They are found like others: by the same policies, along the same alias chain, and only with data that validation
permits.
"""

from __future__ import annotations

from collections.abc import Collection

from resolver.cached_replies import ChainStep, find_stale_reply
from resolver.effects import Budget, Context, Failure, Outcome, Question
from resolver.iterate import known_path, last_known_path
from resolver.partial_response import PartialResponse
from resolver.resolve import Known, dns64_applies, find_known, follow_aliases, run_without_effects, zone_of
from resolver.verdict import VERDICT_BOGUS, VERDICT_INSECURE
from resolver.wire import consts as c
from resolver.wire import name as names

__all__ = ["find_stale"]


def find_stale(
    question: Question, context: Context, budget: Budget, *, cd: bool, failure: Failure | None = None
) -> Outcome | None:
    """An answer from expired data, for when no current one can be obtained (RFC 8767); None without one.

    `budget` is that of the query and is charged for hashes. `failure` is why the current answer is missing. For a name
    whose data is bogus now, by `failure` or by a cached failure, no stale data is used, because that is no outage;
    other names of the alias chain are not affected.

    Only secure and insecure data is used, unless with `cd` or without validation. The verdict is at most insecure,
    because signatures may have expired. RRsets have the TTL for stale data; the ``ttl`` of the outcome is 0, and the
    caller may raise it when it knows for how long resolution will fail.
    """
    cache = context.settings.cache
    qtype = question.qtype
    stale = False

    def find(name: bytes, earlier: Collection[bytes]) -> Known:
        nonlocal stale
        known = find_known(name, question, context, budget, cd=cd, client=True, earlier=earlier)
        if isinstance(known, (Outcome, tuple)):
            return known
        if _is_bogus_now(name, question, failure, context, cd=cd):
            return None
        found = find_stale_reply(name, qtype, context, cd=cd, via_alias=name is not question.qname)
        if found is not None and not _permits_stale(name, found, qtype, context):
            return None
        stale = True
        return found

    outcome = run_without_effects(follow_aliases(PartialResponse(), question, context, find, cd=cd))
    if not isinstance(outcome, Outcome) or outcome.failure is not None or outcome.scope is not None:
        return None  # one with a scope would be given to all clients that wait
    if stale:
        outcome.stale = True
        outcome.verdict = min(outcome.verdict, VERDICT_INSECURE)
        outcome.ttl = 0
        code = c.EDE_STALE_NXDOMAIN_ANSWER if outcome.rcode == c.NXDOMAIN else c.EDE_STALE_ANSWER
        outcome.ede = [(code, f"not older than {cache.max_stale_ttl} seconds"), *outcome.ede]
    if context.dns64 is not None and dns64_applies(question, cd=cd):
        if not context.dns64.needs_addresses(outcome):
            return context.dns64.without_excluded(outcome)
        found = find_stale(Question(question.qname, c.A), context, budget, cd=cd)
        if found is None:
            return None
        made: Outcome = context.dns64.synthesise(question, outcome, found)
        made.stale = outcome.stale or found.stale
        made.ttl = 0 if made.stale else made.ttl
        made.ede = [*outcome.ede, *(entry for entry in made.ede if entry not in outcome.ede)]
        return made
    return outcome


def _permits_stale(name: bytes, found: ChainStep, qtype: int, context: Context) -> bool:
    """Whether the policies for name servers permit stale data.

    They are asked about the last known servers of its zone and of those above it. In an outage delegations may have
    expired, too, and then the deepest zone of the known path is another one.
    """
    policy, lowered = context.server_policy(), names.lower(name)
    labels, public = zone_of(found)
    if policy is None or known_path(lowered, context, public=public)[0].recursive:
        return True
    if labels > names.label_count(lowered):
        return False
    longest = context.settings.cache.max_stale_ttl
    path = last_known_path(names.suffix(lowered, labels), context, longest, public=public)
    if path is None:
        return False
    for zone in path:
        if policy(Question(name, qtype), zone.zone, zone.names, zone.servers) is not None:
            return False
    return True


def _is_bogus_now(
    name: bytes, question: Question, failure: Failure | None, context: Context, *, cd: bool
) -> bool:
    """Whether the current data of a name failed validation; False with `cd`."""
    if cd:
        return False
    if failure is not None and failure.verdict is VERDICT_BOGUS and names.equal(name, failure.name or question.qname):
        return True
    known = context.store.rrsets.find_failure(name, question.qtype, context.now)
    return known is not None and known.verdict == VERDICT_BOGUS
