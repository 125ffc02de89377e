"""What the sessions of HTTP/1.1 and HTTP/2 for DNS over HTTPS have in common: stored octets and when to read.

Octets that were received and not given to the codec are in `_unread`. A turn (`resolver.net.turns`) takes one
`STREAM_READ_CHUNK` of them. Invariants: the transport is read (`_reading`) exactly while `_wants_input`, so at most one
read is stored; while the write buffer is above its high watermark (`_write_blocked_since`) no turn begins.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits

if TYPE_CHECKING:
    from resolver.net.service import PendingQuery, Sink

__all__ = ["HttpSession", "Requester"]


class Requester(Protocol):
    """What a session needs of its connection."""

    waiting: int
    network: str | bytes

    def turn(self) -> None: ...

    def now(self) -> float: ...

    def note_progress(self) -> None: ...

    def abort(self) -> None: ...

    def ask(self, message: bytes, sink: "Sink") -> "tuple[bytes | None, int | None, PendingQuery | None]": ...

    @property
    def listener(self) -> Any: ...


class HttpSession:
    """One side of a connection. The subclass has the codec and the exchanges."""

    def __init__(self, connection: Requester, transport: asyncio.Transport, path: bytes) -> None:
        self._connection = connection
        self._transport = transport
        self._path = path
        self._turns = connection.listener.turns
        # Octets written in this turn.
        self._turn_octets = 0
        self._unread = b""
        self._reading = True
        self._idle_since = connection.now()
        self._partial_since: float | None = None
        self._write_blocked_since: float | None = None

    def pause_writing(self) -> None:
        """The write buffer is above its high watermark: no further request is answered."""
        self._write_blocked_since = self._connection.now()
        self._update_reading()

    def resume_writing(self) -> None:
        """The write buffer has drained: go on with what was stored."""
        self._write_blocked_since = None
        self._schedule()
        self._update_reading()

    def _take_chunk(self) -> bytes:
        """Remove and return the octets that one turn gives to the codec."""
        size = limits.STREAM_READ_CHUNK
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def _schedule(self) -> None:
        """Have another turn when there is work that may go on: no event of the transport would start it."""
        raise NotImplementedError

    def _wants_input(self) -> bool:
        """Whether the transport is to be read."""
        raise NotImplementedError

    def _update_reading(self) -> None:
        """Read from the transport while `_wants_input`."""
        if self._transport.is_closing():
            return
        wanted = self._wants_input()
        if wanted is not self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
