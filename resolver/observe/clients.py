"""What is counted for the queries of clients: type, transport, rcode, where the answer came from, and how long it took.

`ClientCounters` belongs to one `Service`, which counts all that it answers. What the fast path answers it counts in C;
`FastPath.count_clients` adds that when statistics are asked for. No I/O and no clock.
"""

from typing import Any

from resolver.effects import FailureKind, Outcome
from resolver.observe.counters import PairCounter
from resolver.observe.histogram import Histogram
from resolver.observe.labels import NO_TYPE, OTHER, RCODE_LABELS, RCODES, RESULTS, TRANSPORTS, TYPE_LABELS, TYPES

__all__ = ["ClientCounters", "result_of"]


class ClientCounters:
    """Counters of client queries of one configuration in one worker."""

    def __init__(self) -> None:
        self.queries = PairCounter(transport=TRANSPORTS, type=TYPES)
        self.replies = PairCounter(transport=TRANSPORTS, rcode=RCODES)
        self.latency = {result: Histogram() for result in RESULTS}

    def note_query(self, transport: str, rtype: int) -> None:
        """A query of type `rtype` was received."""
        self.queries.add(transport, TYPE_LABELS.get(rtype, OTHER))

    def note_message(self, transport: str) -> None:
        """A message was received that is no query of a client: without a question that can be read, or for own zones
        (NOTIFY, transfers)."""
        self.queries.add(transport, NO_TYPE)

    def note_reply(self, transport: str, rcode: int) -> None:
        """A reply with `rcode` (12 bits) was sent."""
        self.replies.add(transport, RCODE_LABELS.get(rcode, OTHER))

    def note_answer(self, result: str, seconds: float) -> None:
        """An answer was given `seconds` after its query; `result` is one of `RESULTS`."""
        latency: Histogram = self.latency[result]
        latency.add(seconds)

    def statistics(self) -> dict[str, Any]:
        """All counters, by name and label values."""
        return {"queries": self.queries.values(), "replies": self.replies.values()}


def result_of(outcome: Outcome) -> str:
    """Which of `RESULTS` an outcome is."""
    if outcome.applied is not None or outcome.authoritative:
        return "local"
    if outcome.stale:
        return "stale"
    if outcome.failure is not None:
        return "failure" if outcome.failure.kind is FailureKind.CACHED_ERROR else "miss"
    if outcome.from_cache:
        return "aggressive" if outcome.synthesised else "rrsets"
    return "miss"
