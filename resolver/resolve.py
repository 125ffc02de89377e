"""The generator of one query: cache, iteration, validation, one retry when bogus, aliases, store, outcome.

Each step is a call into one package. The reply of a zone is a `RawReply`, from the cache or from `iterate`, and is
handled in the same way from there. What may be given to a client that wants validation is decided here and nowhere else
(`_resolve_step`): data without a verdict is validated first, also when it comes from the cache (CVE-2019-10190 and
CVE-2018-1000002 were ways around such a check). What may be cached is decided by `store_reply`. Aliases are followed
here, name by name; their number is limited, and a name that occurs again is a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.cache.scoped import describe_scope
from resolver.cache.second_level import UNSHARED_TYPES
from resolver.cached_replies import ChainStep, drop_reply, find_reply, store_failure, store_reply
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
    Policies,
    Question,
    RawReply,
    Steps,
    Task,
    Zone,
)
from resolver.iterate import iterate, known_path
from resolver.partial_response import ALIAS_LOOP, CNAME_IS_ANSWER, PartialResponse, failure_outcome
from resolver.scoped_replies import is_changed_inside, note_subnet_failure
from resolver.verdict import (
    VERDICT_BOGUS,
    VERDICT_INDETERMINATE,
    VERDICT_INSECURE,
    VERDICT_SECURE,
    Verdict,
)
from resolver.wire.consts import (
    AAAA,
    ANY,
    CNAME,
    DNAME,
    DNSKEY,
    DS,
    EDE_DNSSEC_BOGUS,
    EDE_NOT_SUPPORTED,
    EDE_OTHER,
    IN,
    LAST_DATA_TYPE,
    NOERROR,
    NXDOMAIN,
    A,
    type_to_text,
)
from resolver.wire.name import label_count, lower, to_text, zone_lookup_name
from resolver.wire.rrset import PUBLIC_ZONE_LABELS, UNKNOWN_ZONE_LABELS, octets_of

if TYPE_CHECKING:
    from resolver.settings import Settings
    from resolver.validate import Validator

__all__ = [
    "Known", "dns64_applies", "find_known", "find_outcome", "follow_aliases", "is_for_subnet", "load_validator",
    "resolve", "run_without_effects", "zone_of",
]

ALIASES = limits.MAX_ALIASES
NAME_SERVER_ALIASES = limits.NAME_SERVER_ALIASES
LOCAL_ERROR_TTL = limits.LOCAL_ERROR_TTL
# Failures that concern this query and not the name: never cached.
NEVER_CACHED = frozenset({
    FailureKind.CYCLE, FailureKind.CANCELLED, FailureKind.CACHED_ERROR, FailureKind.INTERNAL, FailureKind.OVERLOAD,
    FailureKind.POLICY, FailureKind.QUOTA,
})
# Failures of a sub-query that its client query may have caused: cached only for the question of a client.
CACHED_FOR_CLIENT_ONLY = frozenset({FailureKind.BUDGET, FailureKind.DEADLINE})
# The types of the chain of trust. No alias is followed for them: an alias shows that no zone begins at the name.
CHAIN_TYPES = frozenset({DS, DNSKEY})
TOO_MANY_ALIASES = Failure(FailureKind.BUDGET, EDE_OTHER, "too many aliases")

Known = Outcome | ChainStep | RawReply | Failure | None
"""What is known about one name: policy data, a step of the chain, an unvalidated reply, a cached failure, nothing."""


def _refuse_meta_query(question: Question) -> Outcome | None:
    """The failure for queries that no zone can answer: a class other than IN, or a type that is not data. Else None.

    Only class IN is resolved (CVE-2026-5946), so the code below does not check the class.
    """
    qtype = question.qtype
    if question.qclass != IN:
        text = "only class IN is resolved"
    elif 0 < qtype <= LAST_DATA_TYPE or qtype >= ANY:
        return None
    else:
        text = f"{type_to_text(qtype)} is not a data type"
    return failure_outcome(question, Failure(FailureKind.RCODE, EDE_NOT_SUPPORTED, text))


def resolve(task: Task, context: Context) -> Steps[Outcome]:
    """Resolve ``task.question``; failures are outcomes with rcode SERVFAIL and `Outcome.failure` set."""
    steps = _resolve_chain(task, context)
    dns64 = context.dns64
    if dns64 is not None and task.purpose in CLIENT_PURPOSES and dns64_applies(task.question, cd=task.cd):
        return _with_dns64(dns64, steps, task)
    return steps


def dns64_applies(question: Question, *, cd: bool) -> bool:
    """Whether DNS64 applies: to AAAA, unless the client validates itself (CD; RFC 6147 section 5.5)."""
    return question.qtype == AAAA and not cd


def _with_dns64(dns64: AddressSynthesis, steps: Steps[Outcome], task: Task) -> Steps[Outcome]:
    """Run `steps`, and synthesise AAAA records when they find none (RFC 6147).

    The failure of the A query is that of the whole: the denial of AAAA alone would say that the name has no address at
    all (and with bogus A records, section 5.5 demands SERVFAIL).
    """
    outcome = yield from steps
    if not dns64.needs_addresses(outcome):
        return dns64.without_excluded(outcome)
    question = task.question
    found = yield Need(Question(question.qname, A), task.purpose)  # anew for a prefetch, as the AAAA query was
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
    response = PartialResponse()
    end = yield from follow_aliases(
        response, question, context, find, task, cd=task.cd, first_only=task.purpose is FOR_DNSSEC)
    if isinstance(end, Outcome):
        return end
    assert isinstance(end, Failure)  # with a task, `follow_aliases` returns nothing else
    outcome = _failed(task, context, end, has_alias=response.steps > 0)
    # A loop made by a DNAME is returned as far as it was followed, because the DNAME is at fault and not the qname.
    if end is ALIAS_LOOP and any(rrset.rtype == DNAME for rrset in response.answer):
        outcome.answer, outcome.scope = response.answer, response.scope
    return outcome


def _find_for(task: Task, context: Context, name: bytes, earlier: Collection[bytes]) -> Known:
    """What is known about `name`, for `task`."""
    question = task.question
    if task.cache_checked:
        task.cache_checked = False
        return None
    if task.purpose is FOR_PREFETCH:  # the cached answer is to be replaced
        return _local(name, question, context.policy, earlier)
    return find_known(
        name, question, context, task.budget, cd=task.cd, client=task.purpose is FOR_CLIENT, earlier=earlier
    )


def follow_aliases(
    response: PartialResponse,
    question: Question,
    context: Context,
    find: Callable[[bytes, Collection[bytes]], Known],
    task: Task | None = None,
    *,
    cd: bool,
    first_only: bool = False,
) -> Steps[Outcome | Failure | RawReply | None]:
    """Follow the aliases from the qname to data, a denial or a failure, and collect them in `response`.

    `find` returns what is known about a name, and gets the names before it in the chain (lower case). With `task`, the
    rest is resolved and validated. Without one, the chain ends at the first name whose data is missing or not
    validated, and the result is what `find` returned for it. With `first_only`, the first alias is the answer. An alias
    by a policy with `Applied.follow` ends the chain, too: the mesh continues for each client.
    """
    qtype = question.qtype
    name = question.qname
    most = NAME_SERVER_ALIASES if task is not None and task.purpose is FOR_NS_ADDRESS else ALIASES
    while True:
        known = find(name, response.seen)
        if isinstance(known, Outcome):
            if task is not None:
                _note_policy(task, name, known)
            followed_later = known.applied is not None and known.applied.follow
            target = None if followed_later else _local_cname_target(known, qtype)
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
        if lower(name) in response.seen:
            return ALIAS_LOOP  # the data there may not be shown as an alias: a policy had answered for the name
        if task is not None and task.trace is not None:
            task.note("alias", f"on to {to_text(name)}", qname=name, qtype=qtype)


def run_without_effects(steps: Steps[Any]) -> Any:
    """The result of `follow_aliases` without a task, which yields no effect."""
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
    if context.dns64 is not None and client and dns64_applies(question, cd=cd):
        return True
    first = find_known(question.qname, question, context, budget, cd=cd, client=client)
    if first is None:
        return False

    def find(name: bytes, earlier: Collection[bytes]) -> Known:
        if name is question.qname:
            return first
        return find_known(name, question, context, budget, cd=cd, client=client, earlier=earlier)

    response = PartialResponse()
    end = run_without_effects(follow_aliases(
        response, question, context, find, cd=cd, first_only=not client and question.qtype in CHAIN_TYPES))
    if isinstance(end, Outcome):
        return end
    if isinstance(end, Failure) and end is not ALIAS_LOOP:
        return failure_outcome(question, end)
    return end is not None or response.steps > 0


def find_known(
    name: bytes, question: Question, context: Context, budget: Budget, *, cd: bool, client: bool,
    earlier: Collection[bytes] = (),
) -> Known:
    """What policies or the cache have for one name of the chain; `earlier` are those before it (lower case)."""
    policies = context.policy if client else context.sub_policy
    known = _local(name, question, policies, earlier) or _refuse_meta_query(question)
    if known is not None:
        return known
    found = find_reply(name, question.qtype, context, budget, cd=cd, client=client)
    policy = context.server_policy() if client else None
    if policy is None or found is None:
        return found
    # The RRset cache is shared by views and sub-queries, so cached data may be from servers that this view forbids.
    # Without cached data, `iterate` asks for each zone.
    labels, public = zone_of(found)
    cut, path = known_path(zone_lookup_name(lower(name), question.qtype), context, public=public)
    for zone in path:
        known = policy(Question(name, question.qtype), zone.zone, zone.names, zone.servers)
        if known is not None:
            return known
    if isinstance(found, Failure) or cut.recursive or _is_from(cut, labels):
        return found
    return None


def _local(
    name: bytes, question: Question, policy: Policies | None, earlier: Collection[bytes]
) -> Outcome | None:
    """The answer of the policies for a name of the chain; an alias may lead into a local zone."""
    if policy is None:
        return None
    if name is question.qname:
        return policy.answer(question)
    return policy.answer_alias(Question(name, question.qtype), earlier)


def _is_from(zone: Zone, labels: int) -> bool:
    """Whether cached data of a zone with so many labels is from the servers of `zone`, about which policies were asked
    with known addresses.

    It is not when the data lives longer than the delegation of its own zone, or came by a path that is not known from
    referrals. Then the deepest known zone is one above, and the policies have not seen the servers of the data. The
    names of zones are not compared: both zones are at or above the same name.
    """
    return labels == zone.labels and len(zone.servers) > 0


def zone_of(known: ChainStep | RawReply | Failure) -> tuple[int, bool]:
    """The number of labels of the zone that cached data is from, more than any zone has when that is not known; and
    whether public servers have sent it in place of a forward or stub zone, which is not known of denials."""
    if isinstance(known, Failure):
        return UNKNOWN_ZONE_LABELS, False
    raw = known if isinstance(known, RawReply) else known[0]
    if not raw.answer:
        return UNKNOWN_ZONE_LABELS if raw.soa is None else label_count(raw.soa.name), False
    labels = int(raw.answer[0].zone_labels)
    public = PUBLIC_ZONE_LABELS <= labels < UNKNOWN_ZONE_LABELS
    return (labels - PUBLIC_ZONE_LABELS if public else labels), public


def _local_cname_target(local: Outcome, qtype: int) -> bytes | None:
    """The target when a local answer ends with a CNAME to be followed; None when it is complete."""
    answer = local.answer
    if not answer or answer[-1].rtype != CNAME or qtype in CNAME_IS_ANSWER or local.rcode != NOERROR:
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
            store_reply(raw, VERDICT_INDETERMINATE, context)
            return raw, VERDICT_INDETERMINATE, None
        verdict, ede, reason = yield from context.validator(Question(name, qtype), raw, context, task)
        if raw.denies_ancestor:
            if not _denies_all_below(raw, verdict) or not _has_same_anchor(raw, context):
                ancestors, full = False, True
                tries += 1
                continue
            raw.name = name
        if task.trace is not None:
            said = f"{Verdict(verdict).name.lower()}{reason and ': '}{reason}"
            task.note("validate", said, qname=name, qtype=qtype, zone=raw.zone,
                      facts={"verdict": verdict, "ede": ede, "reason": reason})
        if verdict != VERDICT_BOGUS and verdict != VERDICT_INDETERMINATE:
            store_reply(raw, verdict, context)
            return raw, verdict, (ede, reason) if ede else None
        spent = task.budget.failure
        if spent is not None and spent.kind is FailureKind.DEADLINE:
            verdict = VERDICT_INDETERMINATE  # signatures were not checked for lack of time
        if bogus is None or verdict == VERDICT_BOGUS:  # INDETERMINATE of the second reply does not replace BOGUS
            bogus = Failure(FailureKind.BOGUS, ede or EDE_DNSSEC_BOGUS, reason, verdict=Verdict(verdict))
        first = _first_cname_only(raw)
        if first is not None:
            # One bogus member makes the whole chain bogus. If its first alias is valid, the target is resolved again.
            verdict, ede, reason = yield from context.validator(Question(name, qtype), first, context, task)
            if verdict == VERDICT_SECURE or verdict == VERDICT_INSECURE:
                store_reply(first, verdict, context)
                return first, verdict, (ede, reason) if ede else None
        if raw.server is not None:
            avoid |= {raw.server.address}
        elif verdict == VERDICT_BOGUS and not task.budget.exhausted:
            # Not where it could not be validated: a client query that has used up its checks on other names would
            # remove what clients that validate themselves (CD) have got.
            drop_reply(raw, context)
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
    if raw.rcode != NXDOMAIN:  # the proof shows an empty non-terminal
        return False
    return verdict == VERDICT_SECURE or (
        verdict == VERDICT_INSECURE and bool(raw.proofs) and all(one.verdict == VERDICT_SECURE for one in raw.proofs)
    )


def _has_same_anchor(raw: RawReply, context: Context) -> bool:
    """Whether the trust anchor that applies to the ancestor which `raw` denies applies to the qname, too.

    A negative trust anchor between the two makes the denial insecure (RFC 7646). Below another trust anchor an opt-out
    span of a zone above proves nothing: anyone could deny those names with public records. The validator has decided
    for the ancestor.
    """
    validation, qtype = context.validation, raw.qtype
    return validation is None or validation.shares_anchor(
        zone_lookup_name(raw.qname, qtype), zone_lookup_name(raw.name, qtype), context.now
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
    if is_changed_inside(raw, context):
        return None  # the view for which it was made has no such policy; a reply of the servers is cut at that name
    verdict = int(found.verdict)
    task.account_octets(octets_of([*raw.answer, *raw.authority]))
    if task.trace is not None:
        task.note("cache", "the second-level cache has it", qname=name, qtype=qtype, rcode=raw.rcode,
                  facts={"verdict": verdict, "sets": [*raw.answer, *raw.authority]})
    store_reply(raw, verdict, context)
    return raw, verdict, None


def _first_cname_only(raw: RawReply) -> RawReply | None:
    """The reply `raw` cut after its first alias; None when it has no alias or nothing else."""
    answer = raw.answer
    length = 2 if answer and answer[0].rtype == DNAME else 1
    if len(answer) < length or answer[length - 1].rtype != CNAME or raw.qtype in CNAME_IS_ANSWER:
        return None
    if len(answer) == length and not raw.denied:
        return None
    first = RawReply(raw.qname, raw.qtype)
    first.answer = answer[:length]
    first.name = first.alias = answer[length - 1].targets()[0]
    first.zone, first.server, first.aa, first.proofs = raw.zone, raw.server, raw.aa, raw.proofs
    first.scope = raw.scope
    return first


def _failed(task: Task, context: Context, failure: Failure, *, has_alias: bool) -> Outcome:
    """Cache a failure (RFC 9520), so that a broken zone is resolved once and not for each client; returns its outcome.

    It is cached under the name that failed, which may be the target of an alias. A failure of the whole chain of
    aliases (`has_alias`) is cached only if all views have the same chain: local names may be a part of it.
    """
    question = task.question
    kind = failure.kind
    if task.trace is not None:
        task.note("failure", failure.text, qname=question.qname, qtype=question.qtype, facts={"failure": failure})
    # Under the name that failed, not under the qname: its alias is valid and may lead elsewhere later. Under the
    # qname when the whole query ran out of its budget.
    shortage = task.local_error
    owner = question.qname
    spent = kind in CACHED_FOR_CLIENT_ONLY or task.budget.exhausted
    of_chain = failure.name is None or spent
    if failure.name is not None and not of_chain:
        owner = failure.name
    differs = has_alias and (of_chain or shortage is not None) and not context.shares_failures
    # What a query could not do that had little time from the beginning, others may.
    too_short = spent and task.budget.shortened
    # Failures of a prefetch are not cached: the answer that it was to replace is still valid.
    if is_for_subnet(task, failure):
        if task.purpose is not FOR_PREFETCH and not too_short:
            note_subnet_failure(owner, question.qtype, context, task.budget)
    elif shortage is not None:
        # The shortage may be over at the next query, so the failure is cached only for LOCAL_ERROR_TTL. It is not
        # cached at all when this query needed too many job slots: other clients may ask the same with success.
        if (
            shortage.kind is not FailureKind.OVERLOAD and kind not in NEVER_CACHED and task.purpose is FOR_CLIENT
            and not differs and not too_short
        ):
            rrsets = context.store.rrsets
            rrsets.put_failure(question.qname, question.qtype, kind=kind, verdict=failure.verdict, ede=failure.ede,
                               text=failure.text, ttl=LOCAL_ERROR_TTL, now=context.now,
                               count=rrsets.failures(question.qname, question.qtype, context.now,
                                                     validated=failure.verdict is not None))
    elif (
        kind not in NEVER_CACHED
        and not differs
        and not task.cycle  # it is due to the jobs that wait for this one
        and task.purpose is not FOR_PREFETCH
        and not too_short
        and (not spent or (task.purpose is FOR_CLIENT and not task.depth))
    ):
        store_failure(owner, question.qtype, failure, context)
    return failure_outcome(question, failure)


def is_for_subnet(task: Task, failure: Failure) -> bool:
    """Whether `failure` may concern only the client subnet that the servers were told (RFC 7871). Another client may
    succeed, so it is neither cached for all nor given to those who wait with others."""
    return task.told_subnet and task.local_error is None and failure.kind not in NEVER_CACHED
