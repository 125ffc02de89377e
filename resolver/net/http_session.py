"""What the sessions of HTTP/1.1 and HTTP/2 for DNS over HTTPS have in common: stored octets and when to read.

Octets that were received and not given to the codec are in `_unread`. A turn (`resolver.net.turns`) takes one
`STREAM_READ_CHUNK` of them. Invariants: the transport is read (`_reading`) exactly while `_wants_input`, so at most one
read is stored; while the write buffer is above its high watermark (`_write_blocked_since`) no turn begins.

When the client has ended its direction (`SessionConnection.input_ended`), its earlier requests are answered, then the
connection is closed. It holds its slot until the last of its queries is resolved and read: queries have the deadline of
the service, a client that does not read has `message_timeout`. A request that is not complete will never be, so nothing
waits for it, and its time does not end the connection before the others are answered. The same holds when the client
broke a rule after which nothing can be read (`_failed`). What it sends then is discarded, because closing with unread
octets would make the kernel send RST, and the client could lose responses: at most `DOH_WINDOW` octets.
"""

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits

if TYPE_CHECKING:
    from resolver.net.pending_queries import PendingQuery, Sink

__all__ = ["HttpSession", "SessionConnection"]


class SessionConnection(Protocol):
    """The connection, as its session sees it."""

    waiting: int
    network: str | bytes
    input_ended: bool

    def turn(self) -> None: ...

    def now(self) -> float: ...

    def note_progress(self) -> None: ...

    def abort(self) -> None: ...

    def ask(self, message: bytes, sink: "Sink") -> "tuple[bytes | None, int | None, PendingQuery | None]": ...

    @property
    def listener(self) -> Any: ...


class HttpSession:
    """The server's HTTP session on one connection. The subclass has the codec and the exchanges."""

    def __init__(self, connection: SessionConnection, transport: asyncio.Transport, path: bytes) -> None:
        self._connection = connection
        self._transport = transport
        self._path = path
        self._turns = connection.listener.turns
        # Octets of the responses that were made in this turn.
        self._turn_octets = 0
        self._unread = b""
        self._failed = False
        self._discarded = 0
        self._reading = True
        self._idle_since = connection.now()
        self._partial_since: float | None = None
        self._write_blocked_since: float | None = None

    def pause_writing(self) -> None:
        """The write buffer is above its high watermark: no further request is answered."""
        self._write_blocked_since = self._connection.now()
        self._update_reading()

    def resume_writing(self) -> None:
        """The write buffer has drained: continue with the stored octets."""
        self._write_blocked_since = None
        self._schedule()
        self._close_if_done()
        self._update_reading()

    def end_input(self) -> bool:
        """The client has ended its direction. Returns whether the connection has to stay open for its replies."""
        return not self._is_done()

    @property
    def _input_ended(self) -> bool:
        """Whether nothing more is read from the client, so that no further request becomes complete."""
        return self._failed or self._connection.input_ended

    def _discard(self, data: bytes) -> None:
        """Drop what the client sends although nothing more is read. Abort the connection when it is too much."""
        self._discarded += len(data)
        if self._discarded > limits.DOH_WINDOW:
            self._connection.abort()

    def _close_if_done(self) -> None:
        """Close the connection of a client from which nothing more is read when everything is answered."""
        if self._input_ended and not self._transport.is_closing() and self._is_done():
            self._end()

    def _end(self) -> None:
        """Close the connection."""
        self._transport.close()

    def _is_done(self) -> bool:
        """Whether nothing that was received can lead to another response."""
        raise NotImplementedError

    def _take_chunk(self) -> bytes:
        """Remove and return the octets that one turn gives to the codec."""
        size = limits.STREAM_READ_CHUNK
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    def _schedule(self) -> None:
        """Schedule another turn when there is work that may continue, because no event of the transport would start
        it."""
        raise NotImplementedError

    def _wants_input(self) -> bool:
        """Whether the transport is to be read."""
        raise NotImplementedError

    def _update_reading(self) -> None:
        """Read from the transport while `_wants_input`."""
        if self._transport.is_closing() or self._connection.input_ended:
            return
        wanted = self._wants_input()
        if wanted is not self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
