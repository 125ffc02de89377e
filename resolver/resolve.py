"""The generator of one query: cache, iteration, validation, one retry when bogus, aliases, store, outcome.

Each step is a call into one package. The reply of a zone is a `RawReply`, from the cache or from `iterate`, and is
handled in the same way from there. Two decisions are made here and nowhere else: what may be cached (`_store`), and
what may be given to a client that wants validation (`_resolve_step`): data without a verdict is validated first, also
when it comes from the cache (CVE-2019-10190 and CVE-2018-1000002 were ways around such a check). Aliases are followed
here, name by name; their number is limited, and a name that occurs again is a loop. Stale answers are found here too,
because the second decision applies to them as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.cache.scoped import describe_scope, narrower
from resolver.cache.second_level import UNSHARED_TYPES
from resolver.effects import (
    CLIENT_PURPOSES,
    FOR_CLIENT,
    FOR_DNSSEC,
    FOR_NS_ADDRESS,
    FOR_PREFETCH,
    AddressSynthesis,
    Budget,
    Context,
    Failure,
    FailureKind,
    Fetch,
    Need,
    Outcome,
    Question,
    RawReply,
    Steps,
    Task,
    Validation,
    Zone,
)
from resolver.iterate import iterate, known_path, last_known_path
from resolver.scoped_replies import find_scoped, keep_scoped, note_subnet_failure
from resolver.verdict import (
    TRUST_GLUE,
    TRUST_NONAUTH_ANSWER,
    TRUST_VALIDATED,
    VERDICT_BOGUS,
    VERDICT_INDETERMINATE,
    VERDICT_INSECURE,
    VERDICT_SECURE,
    Trust,
    Verdict,
)
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import PUBLIC_ZONE_LABELS, UNKNOWN_ZONE_LABELS, RRset, octets_of

if TYPE_CHECKING:
    from resolver.cache import Store
    from resolver.cache.scoped import Scope
    from resolver.settings import Settings
    from resolver.validate import Validator

__all__ = ["find_outcome", "find_stale", "is_for_subnet", "load_validator", "resolve"]

ALIASES = limits.MAX_ALIASES
NAME_SERVER_ALIASES = limits.NAME_SERVER_ALIASES
ALIAS_PROBES = limits.ALIAS_PROBES
LOCAL_ERROR_TTL = limits.LOCAL_ERROR_TTL
# The cache stores the proof of an expanded wildcard under this type of the expanded name, and NXDOMAIN under type 0.
# No data has such a type (RFC 6895 section 3.1), and `_refuse_meta_query` refuses queries for them.
WILDCARD_PROOF = 248
# Offset of the label count in the first packed RRSIG: after length, type covered and algorithm (RFC 4034 section 3.1).
RRSIG_LABELS = 5
# Failures that concern this query and not the name: never cached.
NEVER_CACHED = frozenset({
    FailureKind.CYCLE, FailureKind.CANCELLED, FailureKind.CACHED_ERROR, FailureKind.INTERNAL, FailureKind.OVERLOAD,
    FailureKind.POLICY, FailureKind.QUOTA,
})
# Failures of a sub-query that its client query may have caused: cached only for the question of a client.
CACHED_FOR_CLIENT_ONLY = frozenset({FailureKind.BUDGET, FailureKind.DEADLINE})
# The types of the chain of trust. No alias is followed for them: an alias shows that no zone begins at the name.
CHAIN_TYPES = frozenset({c.DS, c.DNSKEY})
# The types of a delegation. `cache.min-ttl` does not apply to them.
DELEGATION_TYPES = frozenset({c.NS, c.DS})
# For these types a CNAME is the answer and is not followed (RFC 1034 section 4.3.2).
CNAME_IS_ANSWER = frozenset({c.CNAME, c.ANY})
# These may exist beside a CNAME (RFC 4035 section 2.5), or belong to the parent, which need not know the CNAME of the
# child (section 2.4).
ALLOWED_BESIDE_CNAME = frozenset({c.RRSIG, c.NSEC, c.DS})
# Records of an unsigned reply for later names of its alias chain are for the answer to that question only (RFC 2181
# section 5.4.1). They are stored with a trust too low to answer queries, and used when the same answer is stale.
CHAIN_ONLY_TRUST = Trust.ADDITIONAL
# Larger shifts change nothing: failure_max_ttl is reached before.
MAX_BACKOFF_SHIFT = 15
# RFC 1034 section 3.6.2: a loop of aliases is signalled as an error.
ALIAS_LOOP = Failure(FailureKind.LAME, c.EDE_INVALID_DATA, "the aliases form a loop")
TOO_MANY_ALIASES = Failure(FailureKind.BUDGET, c.EDE_OTHER, "too many aliases")

ChainStep = tuple[RawReply, int, tuple[int, str] | None]
"""The reply for one name of an alias chain, its verdict, and an extended error for the client."""

Known = Outcome | ChainStep | RawReply | Failure | None
"""What is known about one name: policy data, a step of the chain, an unvalidated reply, a cached failure, nothing."""


def _refuse_meta_query(question: Question) -> Outcome | None:
    """The failure for queries that no zone can answer: a class other than IN, or a type that is not data. Else None.

    Only class IN is resolved (CVE-2026-5946), so the code below does not check the class.
    """
    qtype = question.qtype
    if question.qclass != c.IN:
        text = "only class IN is resolved"
    elif 0 < qtype <= c.LAST_DATA_TYPE or qtype >= c.ANY:
        return None
    else:
        text = f"{c.type_to_text(qtype)} is not a data type"
    return failure_outcome(question, Failure(FailureKind.RCODE, c.EDE_NOT_SUPPORTED, text))


def resolve(task: Task, context: Context) -> Steps[Outcome]:
    """Resolve ``task.question``; failures are outcomes with rcode SERVFAIL and `Outcome.failure` set."""
    steps = _resolve_chain(task, context)
    dns64 = context.dns64
    if dns64 is not None and task.purpose in CLIENT_PURPOSES and _dns64_applies(task.question, cd=task.cd):
        return _with_dns64(dns64, steps, task)
    return steps


def _dns64_applies(question: Question, *, cd: bool) -> bool:
    """Whether DNS64 applies: to AAAA, unless the client validates itself (CD; RFC 6147 section 5.5)."""
    return question.qtype == c.AAAA and not cd


def _with_dns64(dns64: AddressSynthesis, steps: Steps[Outcome], task: Task) -> Steps[Outcome]:
    """Run `steps`, and synthesise AAAA records when they find none (RFC 6147).

    The failure of the A query is that of the whole: the denial of AAAA alone would say that the name has no address at
    all (and with bogus A records, section 5.5 demands SERVFAIL).
    """
    outcome = yield from steps
    if not dns64.needs_addresses(outcome):
        return dns64.without_excluded(outcome)
    question = task.question
    found = yield Need(Question(question.qname, c.A), task.purpose)  # anew for a prefetch, as the AAAA query was
    if isinstance(found, Failure):
        return outcome if outcome.failure is not None else failure_outcome(question, found)
    if task.trace is not None:
        task.note("dns64", "AAAA records made from A records", qname=question.qname, qtype=question.qtype)
    return dns64.synthesise(question, outcome, found)


def _resolve_chain(task: Task, context: Context) -> Steps[Outcome]:
    question = task.question
    # No nested function: the collector cannot clear the cycle of a generator and a function in it (see the test of
    # memory kept by resolutions).
    find = partial(_find_for, task, context)
    response = _PartialResponse()
    end = yield from _follow_aliases(
        response, question, context, find, task, cd=task.cd, first_only=task.purpose is FOR_DNSSEC)
    if isinstance(end, Outcome):
        return end
    assert isinstance(end, Failure)  # with a task, `_follow_aliases` returns nothing else
    outcome = _failed(task, context, end)
    # A loop made by a DNAME is returned as far as it was followed, because the DNAME is at fault and not the qname.
    if end is ALIAS_LOOP and any(rrset.rtype == c.DNAME for rrset in response.answer):
        outcome.answer, outcome.scope = response.answer, response.scope
    return outcome


def _find_for(task: Task, context: Context, name: bytes) -> Known:
    """What is known about `name`, for `task`."""
    question = task.question
    if task.cache_checked:
        task.cache_checked = False
        return None
    if task.purpose is FOR_PREFETCH:  # the cached answer is to be replaced
        return _local(name, question, context)
    return _find_known(
        name, question, context, task.budget, cd=task.cd, client=task.purpose is FOR_CLIENT
    )


def _follow_aliases(
    response: _PartialResponse,
    question: Question,
    context: Context,
    find: Callable[[bytes], Known],
    task: Task | None = None,
    *,
    cd: bool,
    first_only: bool = False,
) -> Steps[Outcome | Failure | RawReply | None]:
    """Follow the aliases from the qname to data, a denial or a failure, and collect them in `response`.

    `find` returns what is known about a name. With `task`, the rest is resolved and validated. Without one, the chain
    ends at the first name whose data is missing or not validated, and the result is what `find` returned for it. With
    `first_only`, the first alias is the answer.
    """
    qtype = question.qtype
    name = question.qname
    most = NAME_SERVER_ALIASES if task is not None and task.purpose is FOR_NS_ADDRESS else ALIASES
    while True:
        known = find(name)
        if isinstance(known, Outcome):
            if task is not None:
                _note_policy(task, name, known)
            target = _local_cname_target(known, qtype)
            if target is None:
                return response.close_with(question, known)
            if not response.add_local(known):
                return ALIAS_LOOP
            name = target
            continue
        if task is not None and known is not None:
            _note_cached(task, name, known)
        if task is not None and (known is None or isinstance(known, RawReply)):
            known = yield from _resolve_step(name, qtype, known, context, task)
        if isinstance(known, Failure):
            if known.kind is FailureKind.POLICY and task is not None and task.answered is not None:
                _note_policy(task, name, task.answered)
                return response.close_with(question, task.answered)
            return known if name is question.qname else known.at(name)
        if known is None or isinstance(known, RawReply):
            return known
        raw, verdict, reason = known
        if not response.add(raw, verdict, reason):
            return ALIAS_LOOP
        if raw.alias is None or qtype in CNAME_IS_ANSWER or first_only:
            return response.outcome(question, raw, None if cd else context.validation, context.now)
        if len(response.seen) > most:
            return TOO_MANY_ALIASES
        name = raw.alias
        if task is not None and task.trace is not None:
            task.note("alias", f"on to {names.to_text(name)}", qname=name, qtype=qtype)


def _run(steps: Steps[Any]) -> Any:
    """The result of `_follow_aliases` without a task, which yields no effect."""
    try:
        raise RuntimeError(f"{next(steps)!r} was yielded without a task")
    except StopIteration as end:
        return end.value


def _note_policy(task: Task, name: bytes, local: Outcome) -> None:
    if task.trace is not None and local.applied is not None:
        task.note("policy", local.applied.describe(), qname=name, qtype=task.question.qtype, rcode=local.rcode,
                  facts={"applied": local.applied})


def _note_cached(task: Task, name: bytes, known: ChainStep | RawReply | Failure) -> None:
    qtype = task.question.qtype
    if isinstance(known, Failure):
        if task.trace is not None:
            task.note("cache", f"cached failure: {known.text}", qname=name, qtype=qtype,
                      facts={"failure": known})
        return
    raw, verdict = (known, int(VERDICT_INDETERMINATE)) if isinstance(known, RawReply) else known[:2]
    task.account_octets(octets_of(raw.answer) + octets_of(raw.authority))
    if task.trace is not None:
        what = "a denial" if raw.denied else "an alias" if raw.alias is not None else "data"
        what += "" if raw.scope is None else f" {describe_scope(raw.scope)}"
        task.note("cache", f"the cache has {what}", qname=name, qtype=qtype,
                  rcode=raw.rcode, facts={"verdict": verdict, "sets": [*raw.answer, *raw.authority]})


def find_outcome(
    question: Question, context: Context, budget: Budget, *, cd: bool, client: bool = True
) -> Outcome | bool:
    """The outcome, when policies and cache have every step of it. `budget` is charged for hashes.

    Otherwise True when they have something for the qname, False when they have nothing.
    """
    if context.dns64 is not None and client and _dns64_applies(question, cd=cd):
        return True

    response = _PartialResponse()
    end = _run(_follow_aliases(
        response, question, context, lambda name: _find_known(name, question, context, budget, cd=cd, client=client),
        cd=cd, first_only=not client and question.qtype in CHAIN_TYPES))
    if isinstance(end, Outcome):
        return end
    if isinstance(end, Failure) and end is not ALIAS_LOOP:
        return failure_outcome(question, end)
    return end is not None or response.steps > 0


def _find_known(
    name: bytes, question: Question, context: Context, budget: Budget, *, cd: bool, client: bool
) -> Known:
    """What policies or the cache have for one name of the chain."""
    known = _local(name, question, context) or _refuse_meta_query(question)
    if known is not None:
        return known
    found = find_reply(name, question.qtype, context, budget, cd=cd, client=client)
    policy = context.server_policy() if client else None
    if policy is None or found is None:
        return found
    # The RRset cache is shared by views and sub-queries, so cached data may be from servers that this view forbids.
    # Without cached data, `iterate` asks for each zone.
    labels, public = _zone_of(found)
    cut, path = known_path(names.zone_lookup_name(names.lower(name), question.qtype), context, public=public)
    for zone in path:
        known = policy(Question(name, question.qtype), zone.zone, zone.names, zone.servers)
        if known is not None:
            return known
    if isinstance(found, Failure) or cut.recursive or _is_from(cut, labels):
        return found
    return None


def _local(name: bytes, question: Question, context: Context) -> Outcome | None:
    """The answer of the policies for a name of the chain; an alias may lead into a local zone."""
    policy = context.policy
    if policy is None:
        return None
    if name is question.qname:
        return policy.answer(question)
    return policy.answer_alias(Question(name, question.qtype))


def _is_from(zone: Zone, labels: int) -> bool:
    """Whether cached data of a zone with so many labels is from the servers of `zone`, about which policies were asked
    with known addresses.

    It is not when the data lives longer than the delegation of its own zone, or came by a path that is not known from
    referrals. Then the deepest known zone is one above, and the policies have not seen the servers of the data. The
    names of zones are not compared: both zones are at or above the same name.
    """
    return labels == zone.labels and len(zone.servers) > 0


def _zone_of(known: ChainStep | RawReply | Failure) -> tuple[int, bool]:
    """The number of labels of the zone that cached data is from, more than any zone has when that is not known; and
    whether public servers have sent it in place of a forward or stub zone, which is not known of denials."""
    if isinstance(known, Failure):
        return UNKNOWN_ZONE_LABELS, False
    raw = known if isinstance(known, RawReply) else known[0]
    if not raw.answer:
        return UNKNOWN_ZONE_LABELS if raw.soa is None else names.label_count(raw.soa.name), False
    labels = int(raw.answer[0].zone_labels)
    public = PUBLIC_ZONE_LABELS <= labels < UNKNOWN_ZONE_LABELS
    return (labels - PUBLIC_ZONE_LABELS if public else labels), public


def _local_cname_target(local: Outcome, qtype: int) -> bytes | None:
    """The target when a local answer ends with a CNAME to be followed; None when it is complete."""
    answer = local.answer
    if not answer or answer[-1].rtype != c.CNAME or qtype in CNAME_IS_ANSWER or local.rcode != c.NOERROR:
        return None
    return answer[-1].targets()[0]


def load_validator(
    settings: Settings, base: Validator | None = None, negative: Iterable[str] = ()
) -> Validator | None:
    """The validator when the settings enable validation, else None; `resolver.validate` is imported only then. `base`
    and `negative` are those of `create`."""
    if not settings.dnssec.active:
        return None
    from resolver.validate import create

    return create(settings, base, negative)


# --- one name of the chain ----------------------------------------------------------------------------------------


def _resolve_step(
    name: bytes, qtype: int, known: RawReply | None, context: Context, task: Task
) -> Steps[ChainStep | Failure]:
    """Resolve `name` in the authoritative zone and validate the reply. `known` is cached data not validated yet."""
    avoid: frozenset[str] = frozenset()
    bogus: Failure | None = None
    raw: RawReply | Failure
    task.told_subnet = False
    # Whether an NXDOMAIN for an ancestor may be the reply, and whether one was not valid.
    ancestors, full = context.validator is not None and not task.cd, False
    # Other servers may have valid data when one sent bogus data (RFC 4035 section 4.7, RFC 6840 section 5.9): two
    # replies are tried, besides the cached one.
    tries = 2 if known is None else 3
    while tries > 0:
        tries -= 1
        if known is not None:
            raw, known = known, None
        else:
            if context.reads_second_level and bogus is None and not full and not task.cd and (
                task.purpose is FOR_CLIENT
                and (context.subnets is None or context.subnets.is_shared(name, qtype, context.now))
            ):
                step = yield from _fetch_step(name, qtype, context, task)
                if step is not None:
                    return step
            raw = yield from iterate(name, qtype, context, task, avoid=avoid, ancestors=ancestors, full=full)
            if task.purpose is FOR_DNSSEC and isinstance(raw, RawReply):
                raw = _first_cname_only(raw) or raw  # the target of an alias is no part of the chain of trust
        if isinstance(raw, Failure):
            # After a bogus reply no other server could be queried: the failure is that the data is bogus.
            if bogus is not None and raw.kind is FailureKind.DEADLINE:
                return Failure(raw.kind, raw.ede, raw.text, verdict=bogus.verdict)
            return raw if bogus is None else bogus
        if context.validator is None or task.cd:
            _store(raw, VERDICT_INDETERMINATE, context)
            return raw, VERDICT_INDETERMINATE, None
        verdict, ede, reason = yield from context.validator(Question(name, qtype), raw, context, task)
        if raw.denies_ancestor:
            if not _denies_all_below(raw, verdict):
                ancestors, full = False, True
                tries += 1
                continue
            raw.name = name
        if task.trace is not None:
            said = f"{Verdict(verdict).name.lower()}{reason and ': '}{reason}"
            task.note("validate", said, qname=name, qtype=qtype, zone=raw.zone,
                      facts={"verdict": verdict, "ede": ede, "reason": reason})
        if verdict != VERDICT_BOGUS and verdict != VERDICT_INDETERMINATE:
            _store(raw, verdict, context)
            return raw, verdict, (ede, reason) if ede else None
        spent = task.budget.failure
        if spent is not None and spent.kind is FailureKind.DEADLINE:
            verdict = VERDICT_INDETERMINATE  # signatures were not checked for lack of time
        if bogus is None or verdict == VERDICT_BOGUS:  # INDETERMINATE of the second reply does not replace BOGUS
            bogus = Failure(FailureKind.BOGUS, ede or c.EDE_DNSSEC_BOGUS, reason, verdict=Verdict(verdict))
        first = _first_cname_only(raw)
        if first is not None:
            # One bogus member makes the whole chain bogus. If its first alias is valid, the target is resolved again.
            verdict, ede, reason = yield from context.validator(Question(name, qtype), first, context, task)
            if verdict == VERDICT_SECURE or verdict == VERDICT_INSECURE:
                _store(first, verdict, context)
                return first, verdict, (ede, reason) if ede else None
        if raw.server is not None:
            avoid |= {raw.server.address}
        else:
            _drop(raw, context)
    assert bogus is not None
    return bogus


def _denies_all_below(raw: RawReply, verdict: int) -> bool:
    """Whether the NXDOMAIN `raw` for an ancestor of the qname, with this verdict, shows that the qname does not exist.

    A secure one does: the records that prove it are the same for all names below (RFC 8020 section 2, RFC 5155 section
    7.2.2). One that is insecure because of opt-out, or of too many iterations, proves only that nothing signed exists:
    an unsigned delegation may be there. Then it is the server that says that there is none, as it would be for the
    qname itself. It is believed because its records of denial are valid: it serves a signed zone, and such servers tell
    empty non-terminals from names that do not exist (RFC 4035 section 3.1.3, RFC 8020 section 3). Unbound goes as far.
    Such a denial is stored for the qname only. In an unsigned zone nothing is verified, and the qname is queried.
    """
    if raw.rcode != c.NXDOMAIN:  # the proof shows an empty non-terminal
        return False
    return verdict == VERDICT_SECURE or (
        verdict == VERDICT_INSECURE and bool(raw.proofs) and all(one.verdict == VERDICT_SECURE for one in raw.proofs)
    )


def _fetch_step(name: bytes, qtype: int, context: Context, task: Task) -> Steps[ChainStep | None]:
    """The reply that another resolver has validated and shared; None without one. It is cached here like one of the
    zone. Delegations and the chain of trust are never taken from others."""
    if qtype in UNSHARED_TYPES:
        return None
    found = yield Fetch(name, qtype, task.budget)
    if found is None or isinstance(found, Failure):
        return None
    raw = RawReply(name, qtype)
    raw.answer, raw.proofs = found.answer, found.authority
    raw.name, raw.rcode, raw.denied, raw.ttl = found.name, found.rcode, found.denied, found.ttl
    if found.denied:
        raw.soa, raw.proofs = found.authority[0], found.authority[1:]
    if found.alias:
        raw.alias = found.name
    verdict = int(found.verdict)
    task.account_octets(octets_of([*raw.answer, *raw.authority]))
    if task.trace is not None:
        task.note("cache", "the second-level cache has it", qname=name, qtype=qtype, rcode=raw.rcode,
                  facts={"verdict": verdict, "sets": [*raw.answer, *raw.authority]})
    _store(raw, verdict, context)
    return raw, verdict, None


def _first_cname_only(raw: RawReply) -> RawReply | None:
    """The reply `raw` cut after its first alias; None when it has no alias or nothing else."""
    answer = raw.answer
    length = 2 if answer and answer[0].rtype == c.DNAME else 1
    if len(answer) < length or answer[length - 1].rtype != c.CNAME or raw.qtype in CNAME_IS_ANSWER:
        return None
    if len(answer) == length and not raw.denied:
        return None
    first = RawReply(raw.qname, raw.qtype)
    first.answer = answer[:length]
    first.name = first.alias = answer[length - 1].targets()[0]
    first.zone, first.server, first.aa, first.proofs = raw.zone, raw.server, raw.aa, raw.proofs
    first.scope = raw.scope
    return first


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
    rrset = rrsets.find(name, qtype, now, min_trust=TRUST_NONAUTH_ANSWER)
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
        negative = rrsets.find_negative(name, qtype, now)
        # The denial of DS in a referral has no SOA: enough for validation, but not for a client (RFC 2308 section 3).
        if negative is not None and (negative.soa is not None or not client):
            raw = RawReply(name, qtype)
            raw.denied, raw.rcode, raw.ttl = True, negative.rcode, negative.ttl
            raw.soa, raw.proofs = negative.soa, list(negative.proofs)
            verdict = negative.verdict
        else:
            # A cached failure precedes a cached alias, which may be from the answer for another type.
            failure = _failed_before(name, qtype, context, cd=cd)
            if failure is not None:
                return failure
            if qtype != c.CNAME:
                raw = _find_cached_alias(name, qtype, context)
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
    """A cached CNAME of the name, or a cached DNAME of an ancestor (RFC 6672).

    A DNAME applies to a whole subtree, so only a validated one is used: without validation the servers are queried for
    each name.
    """
    rrsets, now = context.store.rrsets, context.now
    via_alias = qtype not in ALLOWED_BESIDE_CNAME
    rrset = rrsets.find(name, c.CNAME, now, min_trust=TRUST_NONAUTH_ANSWER) if via_alias else None
    if rrset is not None:
        raw = RawReply(name, qtype)
        raw.answer.append(rrset)
        raw.alias = raw.name = rrset.targets()[0]
        return raw
    if context.validator is None:
        return None
    owner = names.lower(name)
    side = context.delegations.forward_or_stub_for(owner)
    for _ in range(ALIAS_PROBES):
        owner = owner[owner[0] + 1 :]
        if len(owner) <= 1 or context.delegations.forward_or_stub_for(owner) is not side:
            break
        rrset = rrsets.find(owner, c.DNAME, now, min_trust=TRUST_VALIDATED)
        if rrset is not None:
            if context.validation is not None and not context.validation.shares_anchor(name, owner, now):
                break  # the zone of the DNAME cannot sign for this name
            raw = RawReply(name, qtype)
            raw.answer.append(rrset)
            target = names.replace_suffix(name, owner, rrset.targets()[0])
            if target is None:
                raw.rcode = c.YXDOMAIN
            else:
                raw.answer.append(RRset(name, c.CNAME, rrset.ttl, [target], verdict=rrset.verdict))
                raw.alias = raw.name = target
            return raw
    return None


# --- what may be cached -------------------------------------------------------------------------------------------


def _store(raw: RawReply, verdict: int, context: Context) -> None:
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
        after_cname = after_cname or rtype == c.CNAME
        if raw.dname_of(rrset) is not None:
            continue  # it is synthesised again from the DNAME, whose signature goes with it
        if raw.qtype == c.ANY or rtype == c.RRSIG:
            continue
        rrsets.put(rrset, now)
        if raw.proofs and _comes_from_wildcard(rrset):
            _store_wildcard(rrset, raw.proofs, context)
        if rtype == c.NS:
            context.delegations.forget(names.lower(rrset.name))
    # A secure denial behind an alias that is not secure is not stored: `verdict` is the lower of both.
    insecure_chain = (
        after_cname and verdict != VERDICT_SECURE and any(proof.verdict == VERDICT_SECURE for proof in raw.proofs)
    )
    if raw.denied and not insecure_chain and not _denies_configured_zone(raw, context):
        rrsets.put_negative(
            raw.name, 0 if raw.rcode == c.NXDOMAIN else raw.qtype, soa=raw.soa, proofs=raw.proofs, ttl=raw.ttl,
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
    if raw.qtype != c.DS or raw.rcode != c.NXDOMAIN:
        return False
    name = names.lower(raw.name)
    return context.delegations.forward_or_stub_for(name) is not context.delegations.forward_or_stub_for(
        names.parent(name)
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
    return rrset.packed_sigs[RRSIG_LABELS] < names.label_count(name) - (name[:2] == b"\x01*")


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
        encloser = names.suffix(rrset.name, rrset.packed_sigs[RRSIG_LABELS])
        rrsets.put(rrset.with_name(names.wildcard(encloser)), now)


def _drop(raw: RawReply, context: Context) -> None:
    """Remove a cached reply that is bogus from the cache. An earlier failure is kept: it counts for the next one."""
    rrsets = context.store.rrsets
    for rrset in raw.answer:
        rrsets.drop(rrset.name, rrset.rtype, failure=False)
    if raw.denied:
        rrsets.drop(raw.name, 0 if raw.rcode == c.NXDOMAIN else raw.qtype, failure=False)


# --- outcomes -----------------------------------------------------------------------------------------------------


class _PartialResponse:
    """The outcome while the alias chain is followed. `steps` counts the names so far, `seen` has the owners of aliases.
    """

    __slots__ = ("additional", "answer", "authoritative", "authority", "ede", "from_cache", "scope", "seen",
                 "steps", "synthesised", "ttl", "verdict")

    def __init__(self) -> None:
        self.authoritative = False
        self.synthesised = False
        self.answer: list[RRset] = []
        self.authority: list[RRset] = []
        self.additional: list[RRset] = []
        self.ede: list[tuple[int, str]] = []
        self.seen: set[bytes] = set()
        self.from_cache = True
        self.scope: Scope | None = None
        self.steps = 0
        self.verdict = int(VERDICT_SECURE)
        self.ttl = -1

    def add(self, raw: RawReply, verdict: int, reason: tuple[int, str] | None) -> bool:
        """Append the reply for one name; False when an alias leads back to an earlier name."""
        self.steps += 1
        self.verdict = min(self.verdict, verdict)
        self.from_cache = self.from_cache and raw.server is None
        self.synthesised = self.synthesised or raw.synthesised
        if raw.scope is not None:
            self.scope = narrower(self.scope, raw.scope)
        if reason is not None:
            self.ede.append(reason)
        for rrset in raw.answer:
            if rrset.rtype == c.CNAME:
                owner = names.lower(rrset.name)
                if owner in self.seen and raw.qtype not in CNAME_IS_ANSWER:
                    return False
                self.seen.add(owner)
                if names.lower(rrset.targets()[0]) == owner and raw.qtype not in CNAME_IS_ANSWER:
                    self.answer.append(rrset)
                    return False
            elif rrset.rtype == c.DNAME and rrset in self.answer:
                continue
            self.answer.append(rrset)
            self.ttl = rrset.ttl if self.ttl < 0 else min(self.ttl, rrset.ttl)
        for rrset in raw.authority:
            self.authority.append(rrset)
            self.ttl = rrset.ttl if self.ttl < 0 else min(self.ttl, rrset.ttl)
        if raw.denied:
            self.ttl = raw.ttl if self.ttl < 0 else min(self.ttl, raw.ttl)
        return True

    def add_local(self, local: Outcome) -> bool:
        """Append a local alias; False when it leads back to an earlier name, or when there are too many aliases."""
        self.steps += 1
        if self.steps == 1:
            self.authoritative = local.authoritative  # AA is about the first owner name (RFC 1035 section 4.1.1)
        self.verdict = min(self.verdict, int(VERDICT_INSECURE))
        self.additional += [rrset for rrset in local.additional if rrset not in self.additional]
        self.ede += [reason for reason in local.ede if reason not in self.ede]
        for rrset in local.answer:
            if rrset.rtype == c.DNAME:  # it may rename several names of one chain
                if rrset not in self.answer:
                    self.answer.append(rrset)
                continue
            owner = names.lower(rrset.name)
            if owner in self.seen:
                return False
            self.seen.add(owner)
            self.answer.append(rrset)
        self.ttl = local.ttl if self.ttl < 0 else min(self.ttl, local.ttl)
        return len(self.seen) <= ALIASES

    def outcome(self, question: Question, raw: RawReply, validation: Validation | None, now: int) -> Outcome:
        if self.verdict == VERDICT_SECURE and validation is not None:
            forbidden = validation.sentinel.forbids(question, now)
            if forbidden is not None:
                return failure_outcome(question, Failure(FailureKind.BOGUS, c.EDE_OTHER, forbidden))
        outcome = Outcome(question, raw.rcode, self.answer, self.authority, self.verdict, max(self.ttl, 0),
                          from_cache=self.from_cache)
        outcome.authoritative = self.authoritative
        outcome.synthesised = self.synthesised
        outcome.scope = self.scope
        outcome.additional = self.additional
        outcome.ede = self.ede
        return outcome

    def close_with(self, question: Question, local: Outcome) -> Outcome:
        """End the chain with a local answer."""
        if not self.steps:
            return local
        answer = [rrset for rrset in local.answer if rrset.rtype != c.DNAME or rrset not in self.answer]
        outcome = Outcome(question, local.rcode, self.answer + answer, self.authority + local.authority,
                          VERDICT_INSECURE, min(max(self.ttl, 0), local.ttl), from_cache=self.from_cache)
        outcome.authoritative = self.authoritative
        outcome.additional = self.additional + [one for one in local.additional if one not in self.additional]
        outcome.ede = self.ede + [reason for reason in local.ede if reason not in self.ede]
        outcome.applied = local.applied
        outcome.scope = self.scope
        return outcome


def failure_outcome(question: Question, failure: Failure) -> Outcome:
    """A SERVFAIL outcome for `failure`."""
    verdict = VERDICT_BOGUS if failure.kind is FailureKind.BOGUS else VERDICT_INDETERMINATE
    outcome = Outcome(question, c.SERVFAIL, [], [], verdict, 0, failure=failure)
    outcome.ede.append((failure.ede, failure.text))
    return outcome


def _failed(task: Task, context: Context, failure: Failure) -> Outcome:
    """Cache a failure (RFC 9520), so that a broken zone is resolved once and not for each client; returns its outcome.

    It is cached under the name that failed, which may be the target of an alias.
    """
    question = task.question
    kind = failure.kind
    if task.trace is not None:
        task.note("failure", failure.text, qname=question.qname, qtype=question.qtype, facts={"failure": failure})
    # Under the name that failed, not under the qname: its alias is valid and may lead elsewhere later. Under the
    # qname when the whole query ran out of its budget.
    owner = failure.name
    if owner is None or kind in CACHED_FOR_CLIENT_ONLY or task.budget.exhausted:
        owner = question.qname
    # Failures of a prefetch are not cached: the answer that it was to replace is still valid.
    shortage = task.budget.local_error
    if is_for_subnet(task, failure):
        if task.purpose is not FOR_PREFETCH:
            note_subnet_failure(owner, question.qtype, context, task.budget)
    elif shortage is not None:
        # The shortage may be over at the next query, so the failure is cached only for LOCAL_ERROR_TTL. It is not
        # cached at all when this query needed too many job slots: other clients may ask the same with success.
        if shortage.kind is not FailureKind.OVERLOAD and kind not in NEVER_CACHED and task.purpose is FOR_CLIENT:
            rrsets = context.store.rrsets
            rrsets.put_failure(question.qname, question.qtype, kind=kind, verdict=failure.verdict, ede=failure.ede,
                               text=failure.text, ttl=LOCAL_ERROR_TTL, now=context.now,
                               count=rrsets.failures(question.qname, question.qtype, context.now,
                                                     validated=failure.verdict is not None))
    elif (
        kind not in NEVER_CACHED
        and (context.shares_failures or (failure is not ALIAS_LOOP and failure is not TOO_MANY_ALIASES))
        and task.purpose is not FOR_PREFETCH
        and (
            not (kind in CACHED_FOR_CLIENT_ONLY or task.budget.exhausted)
            or (task.purpose is FOR_CLIENT and not task.depth)
        )
    ):
        _remember_failure(owner, question.qtype, failure, context)
    return failure_outcome(question, failure)


def is_for_subnet(task: Task, failure: Failure) -> bool:
    """Whether `failure` may concern only the client subnet that the servers were told (RFC 7871). Another client may
    succeed, so it is neither cached for all nor given to those who wait with others."""
    return task.told_subnet and task.budget.local_error is None and failure.kind not in NEVER_CACHED


def _remember_failure(name: bytes, qtype: int, failure: Failure, context: Context) -> None:
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


# --- stale answers ------------------------------------------------------------------------------------------------


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

    def find(name: bytes) -> Known:
        nonlocal stale
        known = _find_known(name, question, context, budget, cd=cd, client=True)
        if isinstance(known, (Outcome, tuple)):
            return known
        if _is_bogus_now(name, question, failure, context, cd=cd):
            return None
        found = _find_stale_reply(name, qtype, context, cd=cd, via_alias=name is not question.qname)
        if found is not None and not _permits_stale(name, found, qtype, context):
            return None
        stale = True
        return found

    outcome = _run(_follow_aliases(_PartialResponse(), question, context, find, cd=cd))
    if not isinstance(outcome, Outcome) or outcome.failure is not None or outcome.scope is not None:
        return None  # one with a scope would be given to all clients that wait
    if stale:
        outcome.stale = True
        outcome.verdict = min(outcome.verdict, VERDICT_INSECURE)
        outcome.ttl = 0
        code = c.EDE_STALE_NXDOMAIN_ANSWER if outcome.rcode == c.NXDOMAIN else c.EDE_STALE_ANSWER
        outcome.ede = [(code, f"not older than {cache.max_stale_ttl} seconds"), *outcome.ede]
    if context.dns64 is not None and _dns64_applies(question, cd=cd):
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
    labels, public = _zone_of(found)
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


def _find_stale_reply(name: bytes, qtype: int, context: Context, *, cd: bool, via_alias: bool) -> ChainStep | None:
    """The newest expired data of one name, if it may still be used.

    `via_alias`: an alias leads to the name, so data with `CHAIN_ONLY_TRUST` may be used.
    """
    rrsets, now = context.store.rrsets, context.now
    longest, ttl = context.settings.cache.max_stale_ttl, context.settings.cache.stale_answer_ttl
    data, alias = rrsets.created(name, qtype), 0 if qtype in ALLOWED_BESIDE_CNAME else rrsets.created(name, c.CNAME)
    denial = rrsets.created(name, qtype, denied=True)
    latest = max(data, alias, denial)
    if not latest:
        return None
    raw = RawReply(name, qtype)
    if latest == data or latest == alias:
        trust = CHAIN_ONLY_TRUST if via_alias else TRUST_NONAUTH_ANSWER
        rrset = rrsets.find(name, qtype if latest == data else c.CNAME, now, min_trust=trust, stale=longest)
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
