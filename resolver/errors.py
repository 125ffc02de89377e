"""The exceptions of the public API: what `Answer.raise_for_failure` raises for those who want exceptions.

Inside the resolver failures are values (`resolver.effects.Failure`); only at its rim do they become exceptions. The
family has predicates instead of deep inheritance, because callers ask "is there no such name?" or "may I try again?"
and not which room noticed. Every error carries the question, the response code and the Extended DNS Errors (RFC 8914).
`ResolveTimeout`, which also carries a `Trace`, stands beside it in `resolver.api`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resolver.effects import Failure, Question

__all__ = ["Bogus", "NXDomain", "NoData", "ResolveError", "ServerFailure"]


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
        return isinstance(self, NXDomain | NoData)

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


class NXDomain(ResolveError):
    """The name does not exist (NXDOMAIN)."""


class NoData(ResolveError):
    """The name exists, but has no data of this type."""


class Bogus(ResolveError):
    """DNSSEC validation failed."""


class ServerFailure(ResolveError):
    """The servers in charge could not be reached or did not answer usefully."""
