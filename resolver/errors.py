"""The exceptions of the public API: what `Answer.raise_for_failure` raises for those who want exceptions.

Inside the resolver failures are values (`resolver.effects.Failure`); only at its rim do they become exceptions. The
family has predicates instead of deep inheritance, because callers ask "is there no such name?" or "may I try again?"
and not which room noticed. Every error carries the question, the response code and the Extended DNS Errors (RFC 8914).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from resolver.wire import consts as c
from resolver.wire import name as names

if TYPE_CHECKING:
    from resolver.api import Trace
    from resolver.effects import Failure, Outcome, Question

__all__ = ["Bogus", "NoData", "NoName", "ResolveError", "ResolveTimeout", "ServerFailure", "error_from_outcome"]


class ResolveError(Exception):
    """A question was not answered with data. Catch this one, or ask its predicates."""

    def __init__(
        self,
        text: str,
        *,
        question: "Question",
        rcode: int,
        ede: Sequence[tuple[int, str]] = (),
        failure: "Failure | None" = None,
    ) -> None:
        super().__init__(text)
        self.question = question
        self.rcode = rcode
        self.ede = tuple(ede)
        self.failure = failure

    @property
    def is_missing(self) -> bool:
        """The name or the data does not exist; asking again is no use until the TTL ends."""
        return isinstance(self, NoName | NoData)

    @property
    def is_bogus(self) -> bool:
        """DNSSEC says that the data is forged or the zone is signed wrongly."""
        return self.failure is not None and self.failure.is_bogus

    @property
    def is_timeout(self) -> bool:
        """Time ran out before an answer came."""
        return self.failure is not None and self.failure.is_timeout

    @property
    def is_transient(self) -> bool:
        """Asking again later may help."""
        return self.failure is not None and self.failure.is_transient


class NoName(ResolveError):
    """The name does not exist (NXDOMAIN)."""


class NoData(ResolveError):
    """The name exists, but has no data of this type."""


class Bogus(ResolveError):
    """DNSSEC validation failed."""


class ResolveTimeout(ResolveError, TimeoutError):
    """Time ran out. It is also a `TimeoutError`, as callers of network code expect."""

    trace: "Trace | None" = None
    """What was done until then, when an explanation was asked for."""


class ServerFailure(ResolveError):
    """The servers in charge could not be reached or did not answer usefully."""


def error_from_outcome(outcome: "Outcome") -> ResolveError | None:
    """The exception that `outcome` amounts to; None when it has an answer."""
    question = outcome.question
    shown = f"{names.to_text(question.qname)} {c.type_to_text(question.qtype)}"
    kind: type[ResolveError]
    failure = outcome.failure
    if failure is not None:
        if failure.is_bogus:
            kind = Bogus
        elif failure.is_timeout:
            kind = ResolveTimeout
        else:
            kind = ServerFailure
        text = f"{shown}: {failure.text}"
    elif outcome.rcode == c.NXDOMAIN:
        kind, text = NoName, f"{shown}: no such name"
    elif outcome.rcode != c.NOERROR:
        kind, text = ServerFailure, f"{shown}: {c.rcode_to_text(outcome.rcode)}"
    elif not any(rrset.rtype == question.qtype or question.qtype == c.ANY for rrset in outcome.answer):
        kind, text = NoData, f"{shown}: no data of this type"
    else:
        return None
    return kind(text, question=question, rcode=outcome.rcode, ede=outcome.ede, failure=failure)
