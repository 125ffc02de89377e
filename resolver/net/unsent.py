"""How long octets that a protocol above TCP or QUIC holds back have been unsent.

Flow control of HTTP/2 and QUIC holds back what the client does not read. A client that reads, but asks for more
meanwhile, always has something unsent, and must not be taken for one that does not read. As over TCP, where the write
buffer drains from its high watermark, the client has the same time for each `STREAM_WRITE_HIGH` octets, or for all that
are unsent.
"""

from resolver import limits

__all__ = ["Unsent"]


class Unsent:
    """The owner adds to `given` what it gives to the protocol, and calls `update` after each attempt to send."""

    __slots__ = ("_due", "given", "octets", "since")

    def __init__(self) -> None:
        self.given = 0
        """Octets given to the protocol so far."""
        self.octets = 0
        """Octets of them that were not sent at the last `update`."""
        self.since: float | None = None
        """Since when the client reads too little; None when nothing is unsent."""
        self._due = 0

    def update(self, unsent: int, now: float) -> None:
        """`unsent` octets of those given are not sent."""
        self.octets = unsent
        gone = self.given - unsent
        if not unsent:
            self.since = None
        elif self.since is None or gone >= self._due:
            self.since = now
            self._due = gone + min(unsent, limits.STREAM_WRITE_HIGH)
