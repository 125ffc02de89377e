"""The story of a query, as one generator: cache, walk, validation, one more try when bogus, aliases, store, outcome.

Each line of the story is a call into one room; what a zone said arrives as a `RawReply`, from the cache or from
`iterate`, so that both go the same way from there. Two gates stand here and nowhere else: what may be kept (`_store`)
and what may be shown to somebody who wants validation (`_resolve_step`): data whose verdict is not known is validated
first, also when it lay in the cache (CVE-2019-10190, CVE-2018-1000002 were paths around such a gate). Aliases are
followed here, name by name, counted, and never twice through the same name. Stale answers are told here too, because
they go through the second gate like any others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.effects import (
    AddressSynthesis,
    Budget,
    Context,
    Failure,
    FailureKind,
    Need,
    Outcome,
    Purpose,
    Question,
    RawReply,
    Steps,
    Task,
    Validation,
)
from resolver.iterate import iterate
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset, octets_of

if TYPE_CHECKING:
    from resolver.cache import Store
    from resolver.settings import Settings
    from resolver.validate import Validator

__all__ = ["find_outcome", "find_stale", "load_validator", "resolve"]

ALIASES = limits.MAX_ALIASES
ALIAS_PROBES = limits.ALIAS_PROBES
LOCAL_ERROR_TTL = limits.LOCAL_ERROR_TTL
# The cache keeps the proof of an expanded wildcard beside the set under this type, and a denial of the whole name under
# type 0. No data has such a type (RFC 6895 section 3.1), and `_refuse_meta_query` sees to it that nobody asks for one.
WILDCARD_PROOF = 248
# Where the label count of the first packed RRSIG stands: length, type covered, algorithm (RFC 4034 section 3.1).
RRSIG_LABELS = 5
# Failures that say something about this query's circumstances and nothing about the name: never remembered.
NEVER_CACHED = frozenset({
    FailureKind.CYCLE, FailureKind.CANCELLED, FailureKind.CACHED_ERROR, FailureKind.INTERNAL, FailureKind.OVERLOAD,
})
# Those that a sub-query owes to whoever started it: remembered only for what a client asked itself.
CACHED_FOR_CLIENT_ONLY = frozenset({FailureKind.BUDGET, FailureKind.DEADLINE})
# Purposes behind which a client stands.
ASKED = frozenset({Purpose.CLIENT, Purpose.PREFETCH})
# What the chain of trust is made of. For its sake no alias is followed: one shows that no zone begins at the name.
CHAIN_TYPES = frozenset({c.DS, c.DNSKEY})
# An alias is the answer to these questions, not the way to it (RFC 1034 section 4.3.2).
CNAME_IS_ANSWER = frozenset({c.CNAME, c.ANY})
# These stand beside an alias (RFC 4035 section 2.5), or are the parent's, who need not know the alias that the child's
# server gave (section 2.4).
ALLOWED_BESIDE_CNAME = frozenset({c.RRSIG, c.NSEC, c.DS})
# What an unsigned reply says of later names of its alias chain serves the answer to that question only (RFC 2181
# section 5.4.1): it is kept below what answers questions, for the same answer when that has become stale.
CHAIN_ONLY_TRUST = Trust.ADDITIONAL
# More would change nothing: the longest time is reached long before.
MAX_BACKOFF_SHIFT = 15
# RFC 1034 section 3.6.2: a loop of aliases is signalled as an error.
ALIAS_LOOP = Failure(FailureKind.LAME, c.EDE_INVALID_DATA, "the aliases form a loop")
TOO_MANY_ALIASES = Failure(FailureKind.BUDGET, c.EDE_OTHER, "too many aliases")

ChainStep = tuple[RawReply, int, tuple[int, str] | None]
"""What was said about one name, its verdict, and an extended error to show with it."""

Known = Outcome | ChainStep | RawReply | Failure | None
"""What is known about one name: policy data, a leg, a reply nobody has validated yet, a remembered failure, nothing."""


def _refuse_meta_query(question: Question) -> Outcome | None:
    """The refusal of what no zone has: another class than IN, types that are not data. None for all else.

    Only one class has a tree (CVE-2026-5946), so nothing below looks at the class any more.
    """
    qtype = question.qtype
    if question.qclass != c.IN:
        text = "only class IN is resolved"
    elif 0 < qtype <= c.LAST_DATA_TYPE or qtype >= c.ANY:
        return None
    else:
        text = f"{c.type_to_text(qtype)} is no type of data"
    return failure_outcome(question, Failure(FailureKind.RCODE, c.EDE_NOT_SUPPORTED, text))


def resolve(task: Task, context: Context) -> Steps[Outcome]:
    """Answer ``task.question``; failures are outcomes with rcode SERVFAIL and `Outcome.failure` set."""
    steps = _resolve_chain(task, context)
    dns64 = context.dns64
    if dns64 is not None and task.purpose in ASKED and _may_be_made(task.question, cd=task.cd):
        return _make_addresses(dns64, steps, task)
    return steps


def _may_be_made(question: Question, *, cd: bool) -> bool:
    """Whether the answer may be made from A records: not for those who want to check it (RFC 6147 section 5.5)."""
    return question.qtype == c.AAAA and not cd


def _make_addresses(dns64: AddressSynthesis, steps: Steps[Outcome], task: Task) -> Steps[Outcome]:
    """Make AAAA records where `steps` find none (RFC 6147)."""
    outcome = yield from steps
    if not dns64.needs_addresses(outcome):
        return outcome
    question = task.question
    found = yield Need(Question(question.qname, c.A), Purpose.CLIENT)
    if isinstance(found, Failure):
        return outcome
    if task.trace is not None:
        task.note("dns64", "AAAA records made from A records", qname=question.qname, qtype=question.qtype)
    return dns64.synthesise(question, outcome, found)


def _resolve_chain(task: Task, context: Context) -> Steps[Outcome]:
    question = task.question
    client = task.purpose is Purpose.CLIENT

    def find(name: bytes) -> Known:
        if task.cache_checked:
            task.cache_checked = False
            return None
        if task.purpose is Purpose.PREFETCH:  # that one wants to know what comes after what the cache holds
            return _local(name, question, context)
        return _find_known(name, question, context, task.budget, cd=task.cd, client=client)

    response = _PartialResponse()
    end = yield from _follow_aliases(
        response, question, context, find, task, cd=task.cd, first_only=task.purpose is Purpose.DNSSEC)
    if isinstance(end, Outcome):
        return end
    assert isinstance(end, Failure)  # what is not known was got
    outcome = _failed(task, context, end)
    # A loop that a DNAME makes is shown as far as it was followed: not the name is at fault then, but its subtree.
    if end is ALIAS_LOOP and any(rrset.rtype == c.DNAME for rrset in response.answer):
        outcome.answer = response.answer
    return outcome


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
    """Follow the aliases from the name of `question` to data, a denial or a failure, and collect them in `response`.

    `find` says what is known about a name. `task` gets and validates the rest; without one, the chain ends with what
    `find` returned that is not ready to be shown. With `first_only` the first alias is the answer.
    """
    qtype = question.qtype
    name = question.qname
    while True:
        known = find(name)
        if isinstance(known, Outcome):
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
            return known if name is question.qname else known.at(name)
        if known is None or isinstance(known, RawReply):
            return known
        raw, verdict, reason = known
        if not response.add(raw, verdict, reason):
            return ALIAS_LOOP
        if raw.alias is None or qtype in CNAME_IS_ANSWER or first_only:
            return response.outcome(question, raw, None if cd else context.validation)
        if len(response.seen) > ALIASES:
            return TOO_MANY_ALIASES
        name = raw.alias
        if task is not None and task.trace is not None:
            task.note("alias", f"on to {names.to_text(name)}", qname=name, qtype=qtype)


def _run(steps: Steps[Any]) -> Any:
    """The result of `_follow_aliases` without a task, which has nothing to wait for."""
    try:
        raise RuntimeError(f"{next(steps)!r} is for tasks only")
    except StopIteration as end:
        return end.value


def _note_cached(task: Task, name: bytes, known: ChainStep | RawReply | Failure) -> None:
    qtype = task.question.qtype
    if isinstance(known, Failure):
        if task.trace is not None:
            task.note("cache", f"it failed a moment ago: {known.text}", qname=name, qtype=qtype,
                      facts={"failure": known})
        return
    raw, verdict = (known, int(Verdict.INDETERMINATE)) if isinstance(known, RawReply) else known[:2]
    task.account_octets(octets_of(raw.answer) + octets_of(raw.authority))
    if task.trace is not None:
        what = "a denial" if raw.denied else "an alias" if raw.alias is not None else "data"
        task.note("cache", f"the cache has {what}", qname=name, qtype=qtype,
                  rcode=raw.rcode, facts={"verdict": verdict, "sets": [*raw.answer, *raw.authority]})


def find_outcome(
    question: Question, context: Context, budget: Budget, *, cd: bool, client: bool = True
) -> Outcome | bool:
    """The whole outcome from policies and cache, when no step of it needs anything else. `budget` pays for hashes.

    Otherwise True when they know something to begin with, False when they know nothing.
    """
    if context.dns64 is not None and client and _may_be_made(question, cd=cd):
        return True

    response = _PartialResponse()
    end = _run(_follow_aliases(
        response, question, context, lambda name: _find_known(name, question, context, budget, cd=cd, client=client),
        cd=cd, first_only=not client and question.qtype in CHAIN_TYPES))
    if isinstance(end, Outcome):
        return end
    if isinstance(end, Failure) and end is not ALIAS_LOOP:
        return failure_outcome(question, end)
    return end is not None or response.legs > 0


def _find_known(
    name: bytes, question: Question, context: Context, budget: Budget, *, cd: bool, client: bool
) -> Known:
    """What policies or the cache say about one name of the chain."""
    known = _local(name, question, context) or _refuse_meta_query(question)
    return known or find_reply(name, question.qtype, context, budget, cd=cd, client=client)


def _local(name: bytes, question: Question, context: Context) -> Outcome | None:
    """What the operator's policies say about a name of the chain; an alias may lead into a local zone."""
    if context.policy is None:
        return None
    return context.policy.answer(question if name is question.qname else Question(name, question.qtype))


def _local_cname_target(local: Outcome, qtype: int) -> bytes | None:
    """The name at which an answer of the operator's own goes on, when that is an alias; None when it is complete."""
    answer = local.answer
    if not answer or answer[-1].rtype != c.CNAME or qtype in CNAME_IS_ANSWER or local.rcode != c.NOERROR:
        return None
    return answer[-1].targets()[0]


def load_validator(settings: Settings) -> Validator | None:
    """The validator when the settings ask for validation, else None; the library behind it is loaded only then."""
    if not settings.dnssec.active:
        return None
    from resolver.validate import create

    return create(settings)


# --- one name of the chain ----------------------------------------------------------------------------------------


def _resolve_step(
    name: bytes, qtype: int, known: RawReply | None, context: Context, task: Task
) -> Steps[ChainStep | Failure]:
    """Get and validate what the zone in charge says about `name`. `known` is cached data nobody has validated yet."""
    avoid: frozenset[str] = frozenset()
    bogus: Failure | None = None
    raw: RawReply | Failure
    # Bogus data from one server is no proof that the others have none better (RFC 4035 section 4.7, RFC 6840 5.9).
    # What the cache held does not count as a server's word.
    for _ in range(2 if known is None else 3):
        if known is not None:
            raw, known = known, None
        else:
            raw = yield from iterate(name, qtype, context, task, avoid=avoid)
            if task.purpose is Purpose.DNSSEC and isinstance(raw, RawReply):
                raw = _first_cname_only(raw) or raw  # what an alias leads to is no part of the chain
        if isinstance(raw, Failure):
            # Nobody else to ask: then what is wrong is that the data was bogus.
            if bogus is not None and raw.kind is FailureKind.DEADLINE:
                return Failure(raw.kind, raw.ede, raw.text, verdict=bogus.verdict)
            return raw if bogus is None else bogus
        if context.validator is None or task.cd:
            _store(raw, Verdict.INDETERMINATE, context)
            return raw, Verdict.INDETERMINATE, None
        verdict, ede, reason = yield from context.validator(Question(name, qtype), raw, context, task)
        if task.trace is not None:
            said = f"{Verdict(verdict).name.lower()}{reason and ': '}{reason}"
            task.note("validate", said, qname=name, qtype=qtype, zone=raw.zone,
                      facts={"verdict": verdict, "ede": ede, "reason": reason})
        if verdict != Verdict.BOGUS and verdict != Verdict.INDETERMINATE:
            _store(raw, verdict, context)
            return raw, verdict, (ede, reason) if ede else None
        spent = task.budget.failure
        if spent is not None and spent.kind is FailureKind.DEADLINE:
            verdict = Verdict.INDETERMINATE  # there was no time left to look at signatures
        if bogus is None or verdict == Verdict.BOGUS:  # what one server forged is not excused by the next one's trouble
            bogus = Failure(FailureKind.BOGUS, ede or c.EDE_DNSSEC_BOGUS, reason, verdict=Verdict(verdict))
        first = _first_cname_only(raw)
        if first is not None:
            # One bad member spoils a chain; its first alias may be good, and the rest is then asked for by itself.
            verdict, ede, reason = yield from context.validator(Question(name, qtype), first, context, task)
            if verdict == Verdict.SECURE or verdict == Verdict.INSECURE:
                _store(first, verdict, context)
                return first, verdict, (ede, reason) if ede else None
        if raw.server is not None:
            avoid |= {raw.server.address}
        else:
            _drop(raw, context)
    assert bogus is not None
    return bogus


def _first_cname_only(raw: RawReply) -> RawReply | None:
    """The chain of `raw` cut after its first alias; None when there is no more than that, or no alias."""
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
    return first


def find_reply(
    name: bytes, qtype: int, context: Context, budget: Budget, *, cd: bool, client: bool
) -> ChainStep | RawReply | Failure | None:
    """What the cache holds for one name: usable, still to be validated (a bare `RawReply`), failed, or nothing."""
    rrsets, now = context.store.rrsets, context.now
    raw: RawReply | None = None
    verdict = int(Verdict.INDETERMINATE)
    rrset = rrsets.find(name, qtype, now, min_trust=Trust.NONAUTH_ANSWER)
    if rrset is not None:
        raw = RawReply(name, qtype)
        raw.answer.append(rrset)
        verdict = rrset.verdict
        if _comes_from_wildcard(rrset):
            proof = rrsets.find_negative(name, WILDCARD_PROOF, now)
            if proof is not None:
                raw.proofs = list(proof.proofs)
            elif verdict == Verdict.SECURE or cd:
                return None  # who wants to validate it himself needs the proof that nothing closer exists
    else:
        negative = rrsets.find_negative(name, qtype, now)
        # The proof that came with a referral has no SOA: enough for validation, too little for a client (RFC 2308 3).
        if negative is not None and (negative.soa is not None or not client):
            raw = RawReply(name, qtype)
            raw.denied, raw.rcode, raw.ttl = True, negative.rcode, negative.ttl
            raw.soa, raw.proofs = negative.soa, list(negative.proofs)
            verdict = negative.verdict
        else:
            # Before an alias, which may have been learned from the answer to another question: this one has failed.
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
    if verdict == Verdict.SECURE or verdict == Verdict.INSECURE:
        return raw, verdict, None
    return raw


def _failed_before(name: bytes, qtype: int, context: Context, *, cd: bool) -> Failure | None:
    """The failure that is remembered of a question (RFC 9520); none that only validation saw for who wants none."""
    known = context.store.rrsets.find_failure(name, qtype, context.now)
    if known is None or (cd and known.verdict is not None):
        return None
    kind = FailureKind.BOGUS if known.kind == FailureKind.BOGUS else FailureKind.CACHED_ERROR
    verdict = None if known.verdict is None else Verdict(known.verdict)
    return Failure(kind, known.ede, known.text, verdict=verdict, name=name)


def _synthesise_from_nsec(
    name: bytes, qtype: int, context: Context, budget: Budget, *, client: bool
) -> ChainStep | None:
    """What verified denials of other names prove about this one (RFC 8198)."""
    validation = context.validation
    if validation is None or validation.aggressive_nsec is None:
        return None
    found = validation.aggressive_nsec.answer(name, qtype, context, budget, with_soa=client)
    return None if found is None else (*found, None)


def _find_cached_alias(name: bytes, qtype: int, context: Context) -> RawReply | None:
    """A cached CNAME of the name, or a cached DNAME of an ancestor (RFC 6672).

    A DNAME speaks for a whole subtree, so one that nobody could forge is needed: without validation the servers
    are asked for each name.
    """
    rrsets, now = context.store.rrsets, context.now
    via_alias = qtype not in ALLOWED_BESIDE_CNAME
    rrset = rrsets.find(name, c.CNAME, now, min_trust=Trust.NONAUTH_ANSWER) if via_alias else None
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
        rrset = rrsets.find(owner, c.DNAME, now, min_trust=Trust.VALIDATED)
        if rrset is not None:
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


# --- what may be kept ---------------------------------------------------------------------------------------------


def _store(raw: RawReply, verdict: int, context: Context) -> None:
    """Keep what was learned. Bogus data never comes here."""
    if raw.server is None and verdict == Verdict.INDETERMINATE:
        return
    store: Store = context.store
    rrsets, now = store.rrsets, context.now
    cache = context.settings.cache
    lowest, highest = cache.min_ttl, cache.max_ttl
    raw.ttl = min(raw.ttl, cache.max_negative_ttl)
    after_cname = False
    proved = min((proof.ttl for proof in raw.proofs), default=highest)
    for position, rrset in enumerate(raw.answer):
        if rrset.ttl > proved and _comes_from_wildcard(rrset):
            raw.answer[position] = rrset = rrset.with_ttl(proved)  # RFC 4035 section 5.3.4, also for who checks himself
        if not lowest <= rrset.ttl <= highest:
            # What the first client sees is what the cache will say to the second. What was validated is not prolonged:
            # its TTL is what signatures and proofs allow.
            least = 0 if rrset.verdict == Verdict.SECURE else lowest
            raw.answer[position] = rrset = rrset.with_ttl(min(max(rrset.ttl, least), highest))
        if rrset.verdict == Verdict.SECURE:
            rrset.trust = Trust.VALIDATED
        elif after_cname:
            rrset.trust = CHAIN_ONLY_TRUST
        rtype = rrset.rtype
        after_cname = after_cname or rtype == c.CNAME
        if raw.dname_of(rrset) is not None:
            continue  # it is made from its DNAME anew, and shown with that and its signature
        if raw.qtype == c.ANY or rtype == c.RRSIG:
            continue
        rrsets.put(rrset, now)
        if raw.proofs and _comes_from_wildcard(rrset):
            _store_wildcard(rrset, raw.proofs, context)
        if rtype == c.NS:
            context.delegations.forget(names.lower(rrset.name))
    # Of a proved denial behind an alias that is not proved nothing is kept: `verdict` is the worse of both.
    insecure_chain = (
        after_cname and verdict != Verdict.SECURE and any(proof.verdict == Verdict.SECURE for proof in raw.proofs)
    )
    if raw.denied and not insecure_chain and not _denies_configured_zone(raw, context):
        rrsets.put_negative(
            raw.name, 0 if raw.rcode == c.NXDOMAIN else raw.qtype, soa=raw.soa, proofs=raw.proofs, ttl=raw.ttl,
            verdict=verdict, now=now,
        )


def _denies_configured_zone(raw: RawReply, context: Context) -> bool:
    """Whether a parent that was asked for DS denies the whole name of a forward or stub zone of the configuration.

    It knows nothing of that zone, and kept, its word would stand for the zone's own (CVE-2026-44687).
    """
    if raw.qtype != c.DS or raw.rcode != c.NXDOMAIN:
        return False
    name = names.lower(raw.name)
    return context.delegations.forward_or_stub_for(name) is not context.delegations.forward_or_stub_for(
        names.parent(name)
    )


def _comes_from_wildcard(rrset: RRset) -> bool:
    """Whether the signatures say that a wildcard was expanded: they count fewer labels (RFC 4035 section 5.3.4)."""
    if not rrset.sig_len:
        return False
    name = rrset.name
    return rrset.packed_sigs[RRSIG_LABELS] < names.label_count(name) - (name[:2] == b"\x01*")


def _store_wildcard(rrset: RRset, proofs: list[RRset], context: Context) -> None:
    """Keep what an expanded wildcard needs besides itself: its proof, and the set under the wildcard's own name."""
    rrsets, now = context.store.rrsets, context.now
    ttl = min(proof.ttl for proof in proofs)
    held = rrsets.find_negative(rrset.name, WILDCARD_PROOF, now)
    if held is None or held.verdict <= rrset.verdict:
        rrsets.put_negative(
            rrset.name, WILDCARD_PROOF, soa=None, proofs=proofs, ttl=ttl, verdict=rrset.verdict, now=now
        )
    if rrset.verdict == Verdict.SECURE:
        encloser = names.suffix(rrset.name, rrset.packed_sigs[RRSIG_LABELS])
        rrsets.put(rrset.with_name(names.wildcard(encloser)), now)


def _drop(raw: RawReply, context: Context) -> None:
    """Cached data turned out bogus: make room for a fresh copy."""
    rrsets = context.store.rrsets
    for rrset in raw.answer:
        rrsets.drop(rrset.name, rrset.rtype)
    if raw.denied:
        rrsets.drop(raw.name, 0 if raw.rcode == c.NXDOMAIN else raw.qtype)


# --- outcomes -----------------------------------------------------------------------------------------------------


class _PartialResponse:
    """The outcome as it grows from leg to leg."""

    __slots__ = ("answer", "authority", "ede", "from_cache", "legs", "seen", "ttl", "verdict")

    def __init__(self) -> None:
        self.answer: list[RRset] = []
        self.authority: list[RRset] = []
        self.ede: list[tuple[int, str]] = []
        self.seen: set[bytes] = set()
        self.from_cache = True
        self.legs = 0
        self.verdict = int(Verdict.SECURE)
        self.ttl = -1

    def add(self, raw: RawReply, verdict: int, reason: tuple[int, str] | None) -> bool:
        """Append one leg; False when an alias leads back to where the chain has been."""
        self.legs += 1
        self.verdict = min(self.verdict, verdict)
        self.from_cache = self.from_cache and raw.server is None
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
        """Append an alias of the operator's own; False when it leads back to where the chain has been."""
        self.legs += 1
        self.verdict = min(self.verdict, int(Verdict.INSECURE))
        for rrset in local.answer:
            owner = names.lower(rrset.name)
            if owner in self.seen:
                return False
            self.seen.add(owner)
            self.answer.append(rrset)
        self.ttl = local.ttl if self.ttl < 0 else min(self.ttl, local.ttl)
        return len(self.seen) <= ALIASES

    def outcome(self, question: Question, raw: RawReply, validation: Validation | None) -> Outcome:
        if self.verdict == Verdict.SECURE and validation is not None:
            forbidden = validation.sentinel.forbids(question)
            if forbidden is not None:
                return failure_outcome(question, Failure(FailureKind.BOGUS, c.EDE_OTHER, forbidden))
        outcome = Outcome(question, raw.rcode, self.answer, self.authority, self.verdict, max(self.ttl, 0),
                          from_cache=self.from_cache)
        outcome.ede = self.ede
        return outcome

    def close_with(self, question: Question, local: Outcome) -> Outcome:
        """End the chain with an answer of the operator's own."""
        if not self.legs:
            return local
        outcome = Outcome(question, local.rcode, self.answer + local.answer, self.authority + local.authority,
                          Verdict.INSECURE, min(max(self.ttl, 0), local.ttl), from_cache=self.from_cache)
        outcome.ede = self.ede + local.ede
        return outcome


def failure_outcome(question: Question, failure: Failure) -> Outcome:
    """SERVFAIL with its reason."""
    verdict = Verdict.BOGUS if failure.kind is FailureKind.BOGUS else Verdict.INDETERMINATE
    outcome = Outcome(question, c.SERVFAIL, [], [], verdict, 0, failure=failure)
    outcome.ede.append((failure.ede, failure.text))
    return outcome


def _failed(task: Task, context: Context, failure: Failure) -> Outcome:
    """Remember a failure for some seconds (RFC 9520), so that a broken zone costs one walk and not one per client.

    Where aliases led to the name at fault, it is that of `failure`: it fails whoever asks for it.
    """
    question = task.question
    kind = failure.kind
    if task.trace is not None:
        task.note("failure", failure.text, qname=question.qname, qtype=question.qtype, facts={"failure": failure})
    # Who renews an answer early has time to spare: while it lasts, nobody shall suffer from the attempt.
    shortage = task.budget.local_error
    if shortage is not None:
        # It may be over at the next query, so it is remembered just so long that a busy question is not a storm.
        # Who asks for too much makes nothing be remembered at all: others ask for the same.
        if shortage.kind is not FailureKind.OVERLOAD and kind not in NEVER_CACHED and task.purpose is Purpose.CLIENT:
            rrsets = context.store.rrsets
            rrsets.put_failure(question.qname, question.qtype, kind=kind, verdict=failure.verdict, ede=failure.ede,
                               text=failure.text, ttl=LOCAL_ERROR_TTL, now=context.now,
                               count=rrsets.failures(question.qname, question.qtype, context.now))
    elif (
        kind not in NEVER_CACHED
        and task.purpose is not Purpose.PREFETCH
        and (
            not (kind in CACHED_FOR_CLIENT_ONLY or task.budget.exhausted)
            or (task.purpose is Purpose.CLIENT and not task.depth)
        )
    ):
        # Not of the name that was asked for, unless the whole query ran out of something: its alias is no failure. It
        # is found again, leads to the one that is, and may lead elsewhere by then.
        culprit = failure.name
        if culprit is None or kind in CACHED_FOR_CLIENT_ONLY or task.budget.exhausted:
            culprit = question.qname
        _remember_failure(culprit, question.qtype, failure, context)
    return failure_outcome(question, failure)


def _remember_failure(name: bytes, qtype: int, failure: Failure, context: Context) -> None:
    """Keep a failure, twice as long each time it repeats itself (RFC 9520 section 3.2).

    Repeated ones are spread over the last quarter of their time, so that what failed together is not retried together.
    """
    cache, rrsets = context.settings.cache, context.store.rrsets
    known = rrsets.find_failure(name, qtype, context.now)
    if known is not None and known.kind == failure.kind and known.verdict == failure.verdict:
        # Read from there behind an alias, or found by a query that began before: neither makes it last longer.
        return
    count = rrsets.failures(name, qtype, context.now)
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
    """What was true a while ago, when nobody says what is true now (RFC 8767); None without any such.

    `budget` is that of the query, and pays for hashes. `failure` is why it is looked for. A name about which something
    bogus is said now is no outage: nothing stale is shown of it, by this failure or one that is remembered; other names
    of the chain of aliases are not concerned.

    Only data that passed validation or needed none, unless `cd` or nothing is validated anyway; it is never called
    secure, since nobody vouches for it any more. Its TTLs are the ones for stale data, ``ttl`` is 0: whoever knows that
    nothing better will come soon may keep it.
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
        stale = True
        return _find_stale_reply(name, qtype, context, cd=cd, via_alias=name is not question.qname)

    outcome = _run(_follow_aliases(_PartialResponse(), question, context, find, cd=cd))
    if not isinstance(outcome, Outcome) or outcome.failure is not None:
        return None
    if stale:
        outcome.stale = True
        outcome.verdict = min(outcome.verdict, Verdict.INSECURE)
        outcome.ttl = 0
        code = c.EDE_STALE_NXDOMAIN_ANSWER if outcome.rcode == c.NXDOMAIN else c.EDE_STALE_ANSWER
        outcome.ede = [(code, f"not older than {cache.max_stale_ttl} seconds"), *outcome.ede]
    if context.dns64 is not None and _may_be_made(question, cd=cd) and context.dns64.needs_addresses(outcome):
        found = find_stale(Question(question.qname, c.A), context, budget, cd=cd)
        if found is None:
            return None
        made: Outcome = context.dns64.synthesise(question, outcome, found)
        made.stale = outcome.stale or found.stale
        made.ttl = 0 if made.stale else made.ttl
        made.ede = [*outcome.ede, *(entry for entry in made.ede if entry not in outcome.ede)]
        return made
    return outcome


def _is_bogus_now(
    name: bytes, question: Question, failure: Failure | None, context: Context, *, cd: bool
) -> bool:
    """Whether what is said about a name now failed validation, for those who want it validated."""
    if cd:
        return False
    if failure is not None and failure.verdict is Verdict.BOGUS and names.equal(name, failure.name or question.qname):
        return True
    known = context.store.rrsets.find_failure(name, question.qtype, context.now)
    return known is not None and known.verdict == Verdict.BOGUS


def _find_stale_reply(name: bytes, qtype: int, context: Context, *, cd: bool, via_alias: bool) -> ChainStep | None:
    """The last thing that was said about one name, if it may still be shown.

    `via_alias`: an alias leads here, so what was kept for its answer alone may be shown again.
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
        trust = CHAIN_ONLY_TRUST if via_alias else Trust.NONAUTH_ANSWER
        rrset = rrsets.find(name, qtype if latest == data else c.CNAME, now, min_trust=trust, stale=longest)
        if rrset is None:
            return None
        verdict = rrset.verdict
        raw.answer.append(rrset.with_ttl(ttl))
        if latest != data:
            raw.alias = raw.name = rrset.targets()[0]
        elif _comes_from_wildcard(rrset):
            proof = rrsets.find_negative(name, WILDCARD_PROOF, now, stale=longest)
            raw.proofs = [] if proof is None else [one.with_ttl(ttl) for one in proof.proofs]
    else:
        negative = rrsets.find_negative(name, qtype, now, stale=longest)
        if negative is None or negative.soa is None:
            return None
        verdict = negative.verdict
        raw.denied, raw.rcode, raw.ttl = True, negative.rcode, ttl
        raw.soa, raw.proofs = negative.soa.with_ttl(ttl), [one.with_ttl(ttl) for one in negative.proofs]
    if context.validator is not None and not cd and verdict != Verdict.SECURE and verdict != Verdict.INSECURE:
        return None
    return raw, verdict, None
