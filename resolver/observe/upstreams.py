"""How long upstream servers take to reply, by transport. No I/O and no clock: a reply brings its time with it.

`UpstreamLatency` belongs to one mesh, which gives it each reply. Queries without a reply are counted by the upstreams.
"""

from resolver.effects import Reply
from resolver.observe.histogram import Histogram
from resolver.observe.labels import TRANSPORTS

__all__ = ["UpstreamLatency"]


class UpstreamLatency:
    """Histograms of the time from a query to its reply, by transport."""

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
        self.histograms[transport].add(reply.rtt)

    def values(self) -> dict[str, dict[str, float]]:
        """The histograms as they are in statistics, by transport."""
        return {transport: histogram.values() for transport, histogram in self.histograms.items()}
