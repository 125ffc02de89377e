"""Replies of zones in the cache that are for all clients: found, stored and removed. The cache has RRsets and denials.

What may be cached is decided here and nowhere else (`store_reply`). The caller never passes bogus data. What is found
has the verdict it was stored with; data without one is returned as it is, for the caller to validate. Replies for one
client subnet are in `resolver.scoped_replies`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resolver import limits
from resolver.effects import Budget, Context, Failure, FailureKind, RawReply
from resolver.scoped_replies import find_scoped, keep_scoped
from resolver.verdict import (
    TRUST_GLUE,
    TRUST_NONAUTH_ANSWER,
    TRUST_VALIDATED,
    VERDICT_INDETERMINATE,
    VERDICT_INSECURE,
    VERDICT_SECURE,
    Trust,
    Verdict,
)
from resolver.wire.consts import ANY, CNAME, DNAME, DS, NS, NSEC, NXDOMAIN, RRSIG, YXDOMAIN
from resolver.wire.name import label_count, lower, parent, replace_suffix, suffix, wildcard
from resolver.wire.rrset import RRset

if TYPE_CHECKING:
    from resolver.cache import Store

__all__ = ["ChainStep", "drop_reply", "find_reply", "find_stale_reply", "store_failure", "store_reply"]

ALIAS_PROBES = limits.ALIAS_PROBES
# The cache stores the proof of an expanded wildcard under this type of the expanded name, and NXDOMAIN under type 0.
# No data has such a type (RFC 6895 section 3.1), and `resolver.resolve` refuses queries for them.
WILDCARD_PROOF = 248
# Offset of the label count in the first packed RRSIG: after length, type covered and algorithm (RFC 4034 section 3.1).
RRSIG_LABELS = 5
# The types of a delegation. `cache.min-ttl` does not apply to them.
DELEGATION_TYPES = frozenset({NS, DS})
# These may exist beside a CNAME (RFC 4035 section 2.5), or belong to the parent, which need not know the CNAME of the
# child (section 2.4).
ALLOWED_BESIDE_CNAME = frozenset({RRSIG, NSEC, DS})
# Records of an unsigned reply for later names of its alias chain are for the answer to that question only (RFC 2181
# section 5.4.1). They are stored with a trust too low to answer queries, and used when the same answer is stale.
CHAIN_ONLY_TRUST = Trust.ADDITIONAL
# Larger shifts change nothing: failure_max_ttl is reached before.
MAX_BACKOFF_SHIFT = 15

ChainStep = tuple[RawReply, int, tuple[int, str] | None]
"""The reply for one name of an alias chain, its verdict, and an extended error for the client."""


def find_reply(
    name: bytes, qtype: int, context: Context, budget: Budget, *, cd: bool, client: bool
) -> ChainStep | RawReply | Failure | None:
    """What the cache has for one name: usable data, data to be validated (`RawReply`), a failure, or nothing."""
    if context.subnets is not None:
        scoped = find_scoped(name, qtype, context, budget, cd=cd, client=client)
        if scoped is not None:
            return scoped
    rrsets, now = context.store.rrsets, context.now
    raw: RawReply | None = None
    verdict = int(VERDICT_INDETERMINATE)
    # False for nearly all questions that get here: one call instead of three.
    is_cached: bool = rrsets.holds(name, qtype)
    rrset = rrsets.find(name, qtype, now, min_trust=TRUST_NONAUTH_ANSWER) if is_cached else None
    if rrset is not None:
        raw = RawReply(name, qtype)
        raw.answer.append(rrset)
        verdict = rrset.verdict
        if _comes_from_wildcard(rrset):
            proof = rrsets.find_negative(name, WILDCARD_PROOF, now)
            if proof is not None:
                raw.proofs = list(proof.proofs)
            elif verdict == VERDICT_SECURE or cd:
                return None  # a validating client needs the proof that no closer name exists
    else:
        negative = rrsets.find_negative(name, qtype, now) if is_cached else None
        # The denial of DS in a referral has no SOA: enough for validation, but not for a client (RFC 2308 section 3).
        if negative is not None and (negative.soa is not None or not client):
            raw = RawReply(name, qtype)
            raw.denied, raw.rcode, raw.ttl = True, negative.rcode, negative.ttl
            raw.soa, raw.proofs = negative.soa, list(negative.proofs)
            verdict = negative.verdict
        else:
            # A cached failure precedes a cached alias, which may be from the answer for another type.
            failure = _failed_before(name, qtype, context, cd=cd) if is_cached else None
            if failure is not None:
                return failure
            if qtype != CNAME:
                find = _find_cached_alias if is_cached else _find_cached_dname
                raw = find(name, qtype, context)
                if raw is not None:
                    verdict = raw.answer[0].verdict
    if raw is None:
        return None if cd else _synthesise_from_nsec(name, qtype, context, budget, client=client)
    if context.validator is None or cd:
        return raw, verdict, None
    if verdict == VERDICT_SECURE or verdict == VERDICT_INSECURE:
        return raw, verdict, None
    # A query with CD may have stored the data that failed validation before. Validating it again would cost as much as
    # resolving it, so the failure holds (RFC 9520 section 3.2).
    failure = _failed_before(name, qtype, context, cd=cd)
    if failure is not None and failure.verdict is not None:
        return failure
    return raw


def _failed_before(name: bytes, qtype: int, context: Context, *, cd: bool) -> Failure | None:
    """The cached failure of a question (RFC 9520); with `cd`, failures of validation do not count."""
    known = context.store.rrsets.find_failure(name, qtype, context.now)
    if known is None or (cd and known.verdict is not None):
        return None
    kind = FailureKind.BOGUS if known.kind == FailureKind.BOGUS else FailureKind.CACHED_ERROR
    verdict = None if known.verdict is None else Verdict(known.verdict)
    return Failure(kind, known.ede, known.text, verdict=verdict, name=name)


def _synthesise_from_nsec(
    name: bytes, qtype: int, context: Context, budget: Budget, *, client: bool
) -> ChainStep | None:
    """The answer that verified denials of other names prove for this one (RFC 8198)."""
    validation = context.validation
    if validation is None or validation.aggressive_nsec is None:
        return None
    found = validation.aggressive_nsec.answer(name, qtype, context, budget, with_soa=client)
    if found is None:
        return None
    found[0].synthesised = True
    return (*found, None)


def _find_cached_alias(name: bytes, qtype: int, context: Context) -> RawReply | None:
    """A cached CNAME of the name, or a cached DNAME of an ancestor."""
    rrsets, now = context.store.rrsets, context.now
    via_alias = qtype not in ALLOWED_BESIDE_CNAME
    rrset = rrsets.find(name, CNAME, now, min_trust=TRUST_NONAUTH_ANSWER) if via_alias else None
    if rrset is not None:
        raw = RawReply(name, qtype)
        raw.answer.append(rrset)
        raw.alias = raw.name = rrset.targets()[0]
        return raw
    return _find_cached_dname(name, qtype, context)


def _find_cached_dname(name: bytes, qtype: int, context: Context) -> RawReply | None:
    """A cached DNAME of an ancestor (RFC 6672).

    It applies to a whole subtree, so only a validated one is used: without validation the servers are queried for each
    name.
    """
    if context.validator is None:
        return None
    rrsets, now = context.store.rrsets, context.now
    owner = lower(name)
    side = context.delegations.forward_or_stub_for(owner)
    for _ in range(ALIAS_PROBES):
        owner = owner[owner[0] + 1 :]
        if len(owner) <= 1 or context.delegations.forward_or_stub_for(owner) is not side:
            break
        rrset = rrsets.find(owner, DNAME, now, min_trust=TRUST_VALIDATED)
        if rrset is not None:
            if context.validation is not None and not context.validation.shares_anchor(name, owner, now):
                break  # the zone of the DNAME cannot sign for this name
            raw = RawReply(name, qtype)
            raw.answer.append(rrset)
            target = replace_suffix(name, owner, rrset.targets()[0])
            if target is None:
                raw.rcode = YXDOMAIN
            else:
                raw.answer.append(RRset(name, CNAME, rrset.ttl, [target], verdict=rrset.verdict))
                raw.alias = raw.name = target
            return raw
    return None


def find_stale_reply(name: bytes, qtype: int, context: Context, *, cd: bool, via_alias: bool) -> ChainStep | None:
    """The newest expired data of one name, if it may still be used.

    `via_alias`: an alias leads to the name, so data with `CHAIN_ONLY_TRUST` may be used.
    """
    rrsets, now = context.store.rrsets, context.now
    longest, ttl = context.settings.cache.max_stale_ttl, context.settings.cache.stale_answer_ttl
    data, alias = rrsets.created(name, qtype), 0 if qtype in ALLOWED_BESIDE_CNAME else rrsets.created(name, CNAME)
    denial = rrsets.created(name, qtype, denied=True)
    latest = max(data, alias, denial)
    if not latest:
        return None
    raw = RawReply(name, qtype)
    if latest == data or latest == alias:
        trust = CHAIN_ONLY_TRUST if via_alias else TRUST_NONAUTH_ANSWER
        rrset = rrsets.find(name, qtype if latest == data else CNAME, now, min_trust=trust, stale=longest)
        if rrset is None or rrset.trust == TRUST_GLUE:  # glue is never for clients
            return None
        verdict = rrset.verdict
        raw.answer.append(rrset.with_ttl(ttl))
        if latest != data:
            raw.alias = raw.name = rrset.targets()[0]
        elif _comes_from_wildcard(rrset):
            proof = rrsets.find_negative(name, WILDCARD_PROOF, now, stale=longest)
            if proof is not None:
                raw.proofs = [one.with_ttl(ttl) for one in proof.proofs]
            elif verdict == VERDICT_SECURE or cd:
                return None  # as in `find_reply`
    else:
        negative = rrsets.find_negative(name, qtype, now, stale=longest)
        if negative is None or negative.soa is None:
            return None
        verdict = negative.verdict
        raw.denied, raw.rcode, raw.ttl = True, negative.rcode, ttl
        raw.soa, raw.proofs = negative.soa.with_ttl(ttl), [one.with_ttl(ttl) for one in negative.proofs]
    if context.validator is not None and not cd and verdict != VERDICT_SECURE and verdict != VERDICT_INSECURE:
        return None
    return raw, verdict, None


def store_reply(raw: RawReply, verdict: int, context: Context) -> None:
    """Store a reply in the cache. The caller never passes bogus data."""
    if raw.server is None and verdict == VERDICT_INDETERMINATE:
        return
    _limit_expanded(raw)
    if raw.scope is not None:
        keep_scoped(raw, verdict, context)
        return
    store: Store = context.store
    rrsets, now = store.rrsets, context.now
    cache = context.settings.cache
    lowest, highest = cache.min_ttl, cache.max_ttl
    raw.ttl = min(raw.ttl, cache.max_negative_ttl)
    after_cname = False
    rrset: RRset
    for position, rrset in enumerate(raw.answer):
        if not lowest <= rrset.ttl <= highest:
            # The first client gets the TTL that the cache will give to the next ones. The TTL of secure data is not
            # raised, because signatures and proofs limit it, nor that of NS and DS sets, because then a child zone
            # would extend its delegation beyond what the parent said (ghost domains, NDSS 2012).
            least = 0 if rrset.verdict == VERDICT_SECURE or rrset.rtype in DELEGATION_TYPES else lowest
            raw.answer[position] = rrset = rrset.with_ttl(min(max(rrset.ttl, least), highest))
        if rrset.verdict == VERDICT_SECURE:
            rrset.trust = TRUST_VALIDATED
        elif after_cname:
            rrset.trust = CHAIN_ONLY_TRUST
        rtype = rrset.rtype
        after_cname = after_cname or rtype == CNAME
        if raw.dname_of(rrset) is not None:
            continue  # it is synthesised again from the DNAME, whose signature goes with it
        if raw.qtype == ANY or rtype == RRSIG:
            continue
        rrsets.put(rrset, now)
        if raw.proofs and _comes_from_wildcard(rrset):
            _store_wildcard(rrset, raw.proofs, context)
        if rtype == NS:
            context.delegations.forget(lower(rrset.name))
    # A secure denial behind an alias that is not secure is not stored: `verdict` is the lower of both.
    insecure_chain = (
        after_cname and verdict != VERDICT_SECURE and any(proof.verdict == VERDICT_SECURE for proof in raw.proofs)
    )
    if raw.denied and not insecure_chain and not _denies_configured_zone(raw, context):
        rrsets.put_negative(
            raw.name, 0 if raw.rcode == NXDOMAIN else raw.qtype, soa=raw.soa, proofs=raw.proofs, ttl=raw.ttl,
            verdict=verdict, now=now,
        )
    if context.second_level is not None and raw.server is not None and (
        verdict == VERDICT_SECURE or verdict == VERDICT_INSECURE
    ):
        _share(raw, verdict, context)


def _share(raw: RawReply, verdict: int, context: Context) -> None:
    """Offer a validated reply to other resolvers, unless the cache was flushed since its job began.

    Names to which no trust anchor applies, or a negative one, are not shared: others may validate them.
    """
    validation, second, rrsets = context.validation, context.second_level, context.store.rrsets
    if validation is None or second is None or (rrsets.serial and rrsets.serial != context.store.table.serial):
        return
    now = context.now
    if all(validation.validates(rrset.name, now) for rrset in raw.answer) and validation.validates(raw.name, now):
        second.share(raw, verdict, now)


def _denies_configured_zone(raw: RawReply, context: Context) -> bool:
    """Whether the reply to a DS query is an NXDOMAIN of the parent for the name of a configured forward or stub zone.

    The public parent does not know that zone. In the cache its NXDOMAIN would deny all data of the zone
    (CVE-2026-44687).
    """
    if raw.qtype != DS or raw.rcode != NXDOMAIN:
        return False
    name = lower(raw.name)
    return context.delegations.forward_or_stub_for(name) is not context.delegations.forward_or_stub_for(
        parent(name)
    )


def _limit_expanded(raw: RawReply) -> None:
    """Limit the TTL of what was expanded from a wildcard to the lowest of its proofs, whether or not they were
    validated (RFC 4035 sections 5.3.3 and 5.3.4)."""
    if not raw.proofs:
        return
    ttl = min(proof.ttl for proof in raw.proofs)
    for position, rrset in enumerate(raw.answer):
        if rrset.ttl > ttl and _comes_from_wildcard(rrset):
            raw.answer[position] = rrset.with_ttl(ttl)


def _comes_from_wildcard(rrset: RRset) -> bool:
    """Whether the set was expanded from a wildcard: its first RRSIG has fewer labels than it (RFC 4035 section 5.3.4).
    """
    if not rrset.sig_len:
        return False
    name = rrset.name
    return rrset.packed_sigs[RRSIG_LABELS] < label_count(name) - (name[:2] == b"\x01*")


def _store_wildcard(rrset: RRset, proofs: list[RRset], context: Context) -> None:
    """Store the proof that belongs to an expanded wildcard and, when secure, the set under the name of the wildcard."""
    rrsets, now = context.store.rrsets, context.now
    ttl = min(proof.ttl for proof in proofs)
    held = rrsets.find_negative(rrset.name, WILDCARD_PROOF, now)
    if held is None or held.verdict <= rrset.verdict:
        rrsets.put_negative(
            rrset.name, WILDCARD_PROOF, soa=None, proofs=proofs, ttl=ttl, verdict=rrset.verdict, now=now
        )
    if rrset.verdict == VERDICT_SECURE:
        encloser = suffix(rrset.name, rrset.packed_sigs[RRSIG_LABELS])
        rrsets.put(rrset.with_name(wildcard(encloser)), now)


def drop_reply(raw: RawReply, context: Context) -> None:
    """Remove a cached reply that is bogus from the cache. An earlier failure is kept: it counts for the next one."""
    rrsets = context.store.rrsets
    for rrset in raw.answer:
        rrsets.drop(rrset.name, rrset.rtype, failure=False)
    if raw.denied:
        rrsets.drop(raw.name, 0 if raw.rcode == NXDOMAIN else raw.qtype, failure=False)


def store_failure(name: bytes, qtype: int, failure: Failure, context: Context) -> None:
    """Cache a failure, twice as long each time it repeats (RFC 9520 section 3.2).

    The times of repeated failures are random within their last quarter, so that queries that failed together are not
    retried together.
    """
    cache, rrsets = context.settings.cache, context.store.rrsets
    known = rrsets.find_failure(name, qtype, context.now)
    if known is not None and known.kind == failure.kind and known.verdict == failure.verdict:
        # The failure came from the cache behind an alias, or of a query that began earlier: it is not prolonged.
        return
    count = rrsets.failures(name, qtype, context.now, validated=failure.verdict is not None)
    first = cache.bogus_ttl if failure.kind is FailureKind.BOGUS else cache.servfail_ttl
    ttl = min(first << min(count, MAX_BACKOFF_SHIFT), max(first, cache.max_servfail_ttl))
    if count:
        ttl -= context.rng.below(ttl // 4 + 1)
    rrsets.put_failure(
        name, qtype, kind=failure.kind, verdict=failure.verdict, ede=failure.ede, text=failure.text, ttl=ttl,
        now=context.now, count=min(count + 1, MAX_BACKOFF_SHIFT),
    )
