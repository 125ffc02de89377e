"""Histograms of latencies with fixed buckets: those that see each value, and one whose values are sampled.

In statistics a histogram is a dictionary: for each bucket the values in it, by its upper bound in seconds as text (not
cumulative), and "sum", the sum of all values in seconds. So histograms of several workers are added like counters. No
I/O and no clock.
"""

from collections.abc import Sequence

from resolver.effects import Reply
from resolver.observe.labels import TRANSPORTS

__all__ = ["BOUNDS", "BUCKETS", "SUM", "Histogram", "SampledHistogram", "UpstreamLatency"]

BOUNDS = (0.0001, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""seconds: The upper bounds of the buckets. The first is for answers that need no packet, those to 0.5 for the round
trips of the Internet, the rest for time-outs."""
BUCKETS = (*(format(bound, "g") for bound in BOUNDS), "+Inf")
"""The labels ``le`` of the buckets."""
SUM = "sum"


class Histogram:
    """A histogram of seconds."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.counts = [0] * len(BUCKETS)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one value."""
        position = 0
        bound: float  # compared without a call, which takes half the instructions of `bisect`
        for position, bound in enumerate(BOUNDS):  # noqa: B007 - used after the loop
            if seconds <= bound:
                break
        else:
            position = len(BOUNDS)
        self.counts[position] += 1
        self.seconds += seconds

    def values(self) -> dict[str, float]:
        """The histogram as it is in statistics."""
        return {**dict(zip(BUCKETS, self.counts, strict=True)), SUM: self.seconds}


class SampledHistogram(Histogram):
    """A histogram of which all values are counted, but only some are measured.

    `update` attributes the values that came since the last call to buckets in the proportion of all samples; values
    without any sample go to the first bucket. Invariants: the counts have the exact sum, and no count ever decreases.
    """

    __slots__ = ("_total",)

    def __init__(self) -> None:
        super().__init__()
        self._total = 0

    def update(self, total: int, samples: Sequence[int], seconds: float) -> None:
        """`total` values have come since the start; `samples` counts the measured ones by bucket, `seconds` is their
        sum."""
        new = total - self._total
        if new <= 0:
            return
        self._total = total
        measured = sum(samples)
        if not measured:
            self.counts[0] += new
            return
        left = new
        most = max(range(len(samples)), key=samples.__getitem__)
        for bucket, count in enumerate(samples):
            if bucket != most:
                share = new * count // measured
                self.counts[bucket] += share
                left -= share
        self.counts[most] += left
        self.seconds += new * seconds / measured


class UpstreamLatency:
    """Histograms of the time from a query to its reply, by transport. Each mesh has one and passes each reply to it.

    Queries without a reply are counted by the upstreams.
    """

    __slots__ = ("histograms",)

    def __init__(self) -> None:
        self.histograms = {transport: Histogram() for transport in TRANSPORTS}

    def note_reply(self, reply: Reply) -> None:
        """An upstream server has replied."""
        if reply.server.encryption is not None:
            transport = reply.server.encryption.protocol
        elif reply.connection is not None:
            transport = "tls"  # an authoritative server was asked over TLS without being configured for it (RFC 9539)
        else:
            transport = "tcp" if reply.tcp else "udp"
        histogram: Histogram = self.histograms[transport]
        histogram.add(reply.rtt)

    def values(self) -> dict[str, dict[str, float]]:
        """The histograms as they are in statistics, by transport."""
        return {transport: histogram.values() for transport, histogram in self.histograms.items()}
