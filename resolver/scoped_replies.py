"""Replies that are for some clients only: from a zone's reply to the table of `resolver.cache.scoped`, and back.

A reply is kept as a whole, with its alias chain and proofs, because each of its sets may be for these clients only.
What is kept has passed validation as all data does; bogus data never comes here.
"""

from resolver.cache.scoped import Scope
from resolver.effects import Budget, Context, RawReply
from resolver.verdict import Verdict
from resolver.wire import name as names
from resolver.wire.rrset import RRset, octets_of

__all__ = ["find_scoped", "keep_scoped"]


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


def find_scoped(
    name: bytes, qtype: int, context: Context, budget: Budget, *, cd: bool, client: bool
) -> tuple[RawReply, int, None] | None:
    """The reply that is kept for the client of `budget`, or, without `client`, for the resolver itself."""
    subnets = context.subnets
    if subnets is None:
        return None
    found = subnets.cache.find(names.lower(name), qtype, budget.subnet if client else None, context.now)
    if found is None:
        return None
    kept, verdict = found[1].value
    if context.validator is not None and not cd and verdict not in (Verdict.SECURE, Verdict.INSECURE):
        return None  # a client that validates itself (CD) has got it
    return _aged(kept, name, found[0], context.now - found[1].since), verdict, None


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
