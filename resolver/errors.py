"""The exceptions of the public API, which `Answer.raise_for_failure` raises.

Inside the resolver failures are values (`resolver.effects.Failure`); only the API turns them into exceptions. The
classes have predicates instead of a deep hierarchy, because callers need to know whether the name exists or a retry may
help, and not which part of the resolver failed. Each error has the question, the response code and the Extended DNS
Errors (RFC 8914). `ResolveTimeout`, which also has a `Trace`, is in `resolver.api`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resolver.effects import Failure, Question

__all__ = ["Bogus", "NXDomain", "NoData", "ResolveError", "ServerFailure"]


class ResolveError(Exception):
    """A question has no answer with data. The base class of the others; its predicates distinguish the cases."""

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
        """The name or the data does not exist; a retry is useless until the TTL ends."""
        return isinstance(self, NXDomain | NoData)

    @property
    def is_bogus(self) -> bool:
        """DNSSEC validation failed or could not be completed."""
        return self.failure is not None and self.failure.is_bogus

    @property
    def is_timeout(self) -> bool:
        """No answer came in time."""
        return self.failure is not None and self.failure.is_timeout

    @property
    def is_transient(self) -> bool:
        """A retry later may help."""
        return self.failure is not None and self.failure.is_transient


class NXDomain(ResolveError):
    """The name does not exist (NXDOMAIN)."""


class NoData(ResolveError):
    """The name exists, but has no data of this type (NODATA)."""


class Bogus(ResolveError):
    """DNSSEC validation failed or could not be completed."""


class ServerFailure(ResolveError):
    """The authoritative servers could not be reached, or gave no usable answer."""
