"""Replies that are for some clients only: from a zone's reply to the table of `resolver.cache.scoped`, and back.

A reply is kept as a whole, with its alias chain and proofs, because each of its sets may be for these clients only.
What is kept has passed validation as all data does; bogus data never comes here.

All views that ask the usual servers share the table, and policies change while it is held. So a kept chain is checked
against the policies of its client each time: if they have an answer for a name inside of it, it is not used.

A subnet for which resolution failed is noted, and its clients are then handled as those without one.
"""

from resolver import limits
from resolver.cache.scoped import Scope
from resolver.effects import Budget, Context, Question, RawReply
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset, octets_of

__all__ = ["find_scoped", "is_changed_inside", "keep_scoped", "note_subnet_failure"]

FAILED = limits.SUBNET_FAILED


def keep_scoped(raw: RawReply, verdict: int, context: Context) -> None:
    """Keep `raw`, whose scope is set. The mesh empties the table after a job that began before a flush."""
    subnets, scope, cache = context.subnets, raw.scope, context.settings.cache
    assert subnets is not None
    assert scope is not None
    raw.ttl = min(raw.ttl, cache.max_negative_ttl)
    raw.answer = [rrset if rrset.ttl <= cache.max_ttl else rrset.with_ttl(cache.max_ttl) for rrset in raw.answer]
    ttls = [rrset.ttl for rrset in (*raw.answer, *raw.authority)]
    lifetime = min([*ttls, raw.ttl] if raw.denied else ttls, default=0)
    octets = octets_of([*raw.answer, *raw.authority])
    subnets.cache.put(names.lower(raw.qname), raw.qtype, scope, (raw, verdict), octets, lifetime, context.now)


def note_subnet_failure(name: bytes, qtype: int, context: Context, budget: Budget) -> None:
    """Note that the servers of `name` fail for the subnet of `budget`, which says nothing about other clients."""
    subnets, subnet = context.subnets, budget.subnet
    assert subnets is not None
    if subnet is not None:
        scope = (*subnet, subnet[1])
        subnets.cache.put(names.lower(name), qtype, scope, None, 0, FAILED, context.now)


def find_scoped(
    name: bytes, qtype: int, context: Context, budget: Budget, *, cd: bool, client: bool
) -> tuple[RawReply, int, None] | None:
    """The reply that is kept for the client of `budget`, or, without `client`, for the resolver itself.

    When the servers fail for its subnet, `budget` has none from then on.
    """
    subnets = context.subnets
    if subnets is None:
        return None
    lowered, now = names.lower(name), context.now
    found = subnets.cache.find(lowered, qtype, budget.subnet if client else None, now)
    if found is not None and found[1].value is None:
        budget.subnet = None
        found = subnets.cache.find(lowered, qtype, None, now)
    if found is None:
        return None
    kept, verdict = found[1].value
    if is_changed_inside(kept, context):
        return None  # the next reply is cut at that name, and kept so
    if context.validator is not None and not cd and verdict not in (Verdict.SECURE, Verdict.INSECURE):
        return None  # a client that validates itself (CD) has got it
    return _aged(kept, name, found[0], now - found[1].since), verdict, None


def is_changed_inside(kept: RawReply, context: Context) -> bool:
    """Whether the policies have an answer for an alias target whose data is a part of `kept`.

    They are asked about the last target, `RawReply.alias`, when its own data is looked up.
    """
    policy = context.policy
    if policy is None or kept.qtype == c.CNAME:  # an alias that is the answer is not followed
        return False
    for rrset in kept.answer:
        if rrset.rtype == c.CNAME:
            target = rrset.targets()[0]
            if target != kept.alias and policy.changes(Question(target, kept.qtype)):
                return True
    return False


def _aged(kept: RawReply, name: bytes, scope: Scope, age: int) -> RawReply:
    """`kept` as a reply from the cache to a query for `name`, which may have other letter case."""

    def older(rrset: RRset) -> RRset:
        return rrset.with_ttl(max(rrset.ttl - age, 0))

    raw = RawReply(name, kept.qtype)
    raw.answer = [older(rrset) for rrset in kept.answer]
    raw.proofs = [older(rrset) for rrset in kept.proofs]
    raw.soa = None if kept.soa is None else older(kept.soa)
    raw.name, raw.alias, raw.rcode, raw.denied = kept.name, kept.alias, kept.rcode, kept.denied
    raw.ttl, raw.zone, raw.aa, raw.scope = max(kept.ttl - age, 0), kept.zone, kept.aa, scope
    return raw
