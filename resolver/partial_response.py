"""The response to a query while its alias chain is followed, and the outcome that it becomes.

Each name of the chain adds a reply or policy data. The verdict of the whole is the lowest of all, the TTL the smallest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from resolver import limits
from resolver.cache.scoped import narrower
from resolver.effects import Failure, FailureKind, Outcome, Question, RawReply, Validation
from resolver.verdict import VERDICT_BOGUS, VERDICT_INDETERMINATE, VERDICT_INSECURE, VERDICT_SECURE
from resolver.wire.consts import ANY, CNAME, DNAME, EDE_INVALID_DATA, EDE_OTHER, SERVFAIL
from resolver.wire.name import lower
from resolver.wire.rrset import RRset

if TYPE_CHECKING:
    from resolver.cache.scoped import Scope

__all__ = ["ALIAS_LOOP", "CNAME_IS_ANSWER", "PartialResponse", "failure_outcome", "join_alias"]

ALIASES = limits.MAX_ALIASES
# RFC 1034 section 3.6.2: a loop of aliases is signalled as an error.
ALIAS_LOOP = Failure(FailureKind.LAME, EDE_INVALID_DATA, "the aliases form a loop")
# For these types a CNAME is the answer and is not followed (RFC 1034 section 4.3.2).
CNAME_IS_ANSWER = frozenset({CNAME, ANY})


class PartialResponse:
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
        rrset: RRset
        for rrset in raw.answer:
            if rrset.rtype == CNAME:
                owner = lower(rrset.name)
                if owner in self.seen and raw.qtype not in CNAME_IS_ANSWER:
                    return False
                self.seen.add(owner)
                if lower(rrset.targets()[0]) == owner and raw.qtype not in CNAME_IS_ANSWER:
                    self.answer.append(rrset)
                    return False
            elif rrset.rtype == DNAME and rrset in self.answer:
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
            if rrset.rtype == DNAME:  # it may rename several names of one chain
                if rrset not in self.answer:
                    self.answer.append(rrset)
                continue
            owner = lower(rrset.name)
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
                return failure_outcome(question, Failure(FailureKind.BOGUS, EDE_OTHER, forbidden))
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
        answer = [rrset for rrset in local.answer if rrset.rtype != DNAME or rrset not in self.answer]
        outcome = Outcome(question, local.rcode, self.answer + answer, self.authority + local.authority,
                          VERDICT_INSECURE, min(max(self.ttl, 0), local.ttl), from_cache=self.from_cache)
        outcome.authoritative = self.authoritative
        outcome.additional = self.additional + [one for one in local.additional if one not in self.additional]
        outcome.ede = self.ede + [reason for reason in local.ede if reason not in self.ede]
        outcome.applied = local.applied
        outcome.scope = self.scope
        return outcome


def join_alias(alias: Outcome, target: Outcome) -> Outcome:
    """The outcome of a query that a policy has answered with `alias`, and the outcome of the target of that. As with
    local aliases, the verdict of the target remains unless it is secure: bogus data must not become unvalidated data.
    The serial is the older one: a flush after either concerns the whole.
    """
    owners = {lower(rrset.name) for rrset in alias.answer if rrset.rtype == CNAME}
    chain = [rrset.targets()[0] for rrset in (*alias.answer[-1:], *target.answer) if rrset.rtype == CNAME]
    if any(lower(name) in owners for name in chain):
        return failure_outcome(alias.question, ALIAS_LOOP)
    outcome = Outcome(alias.question, target.rcode, alias.answer + target.answer, target.authority,
                      min(int(VERDICT_INSECURE), target.verdict), min(alias.ttl, target.ttl), failure=target.failure,
                      from_cache=target.from_cache)
    outcome.additional = alias.additional + [one for one in target.additional if one not in alias.additional]
    outcome.ede = alias.ede + [reason for reason in target.ede if reason not in alias.ede]
    outcome.applied = target.applied or alias.applied
    outcome.stale = alias.stale or target.stale
    outcome.scope = narrower(alias.scope, target.scope)
    outcome.serial = min(alias.serial, target.serial)
    return outcome


def failure_outcome(question: Question, failure: Failure) -> Outcome:
    """A SERVFAIL outcome for `failure`."""
    verdict = VERDICT_BOGUS if failure.kind is FailureKind.BOGUS else VERDICT_INDETERMINATE
    outcome = Outcome(question, SERVFAIL, [], [], verdict, 0, failure=failure)
    outcome.ede.append((failure.ede, failure.text))
    return outcome
