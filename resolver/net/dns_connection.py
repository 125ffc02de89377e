"""One connection that carries DNS messages over TCP or TLS: framing, pipelining with replies in any order.

Everything that a connection holds is bounded: octets of an incomplete message, unanswered queries, unsent replies, and
the time for each. Above a limit, reading is paused. After a timeout the connection is aborted, so a client that sends
or reads slowly (slow loris) ends. Cache hits of one turn are sent in one write.

Processing of received octets (`DnsConnection._work`):

* Received octets that are not yet split into messages are in `_unread`. While there are any, reading is paused.
* One turn takes at most `STREAM_READ_CHUNK` octets of them, and stops after `STREAM_TURN_OCTETS` octets of replies; the
  last reply may exceed that. It processes at most `STREAM_TURN_MESSAGES`. Then others have their turn
  (`resolver.net.turns`).
* Nothing is processed, so no reply is made, while the write buffer is above its high watermark
  (`_write_blocked_since`), while messages wait for the service (`_backlog`), or while the pipeline is full.
* Replies of the service are written when they are ready. A client that does not read is disconnected when its write
  buffer exceeds `STREAM_WRITE_LIMIT`.

States of a connection in the phase OPEN (`resolver.net.stream_connection`):

* open.
* half-closed by the client (`_eof_received`), by FIN, or in TLS 1.3 by close_notify: its queries are answered, then the
  connection is closed. Before TLS 1.3 close_notify ends the connection, and so does a FIN without close_notify: queries
  that wait are cancelled.
* discarding (`_discarding`), after a message that is no query. Earlier queries are answered, then our side is
  half-closed. What the client still sends is discarded until it closes, sends too much, or `STREAM_LINGER` has passed.
  Closing at once with unread octets would make the kernel send RST and discard the replies.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any, Protocol, cast

from corenet.core.framer import LengthFramer
from resolver import limits
from resolver.net.fastpath import FastPath
from resolver.net.pending_queries import PendingQuery
from resolver.net.quick_ack import acknowledge_now
from resolver.net.service import Service
from resolver.net.stream_connection import Owner, StreamConnection, half_close
from resolver.net.turns import Turns
from resolver.policy import AccessTable
from resolver.wire.consts import MESSAGE_MAX
from resolver.wire.edns import keepalive_units

__all__ = ["DnsConnection"]

TRANSFER_SECONDS = limits.ZONE_TRANSFER_TIMEOUT / 1000


class Listener(Owner, Protocol):
    """What a connection needs of its listener."""

    turns: Turns
    service: Service
    fast: FastPath
    own_access: AccessTable | None
    pipeline: int
    idle_timeout: float
    origin: tuple[str, str]
    transport_number: int
    message_timeout: float
    padding_block: int
    write_overrun: int
    malformed: int

    def note_progress(self, client: StreamConnection) -> None: ...


class DnsConnection(StreamConnection):
    """One connection that carries DNS messages, with or without TLS. It is also the sink of its replies."""

    __slots__ = (
        "_backlog",
        "_discarded_octets",
        "_discarding",
        "_eof_received",
        "_feeding",
        "_framer",
        "_frames",
        "_listener",
        "_next_frame",
        "_offset",
        "_outgoing",
        "_outgoing_since",
        "_pending",
        "_reading",
        "_turn_messages",
        "_turn_octets",
        "_unread",
        "_write_blocked_since",
        "idle_since",
        "partial_since",
    )

    stream = True

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener)
        self._listener = listener
        self._framer = LengthFramer(2, max_frame=MESSAGE_MAX)
        self._pending: dict[PendingQuery, None] = {}
        self._unread = b""
        self._offset = 0
        self._frames: list[bytes] = []
        self._next_frame = 0
        self._backlog: deque[bytes] = deque()
        self._turn_messages = 0
        self._turn_octets = 0
        self._feeding = False
        self._reading = True
        self._eof_received = False
        self._discarding = False
        self._discarded_octets = 0
        self._write_blocked_since: float | None = None
        self._outgoing: Iterator[bytes] | None = None
        self._outgoing_since = 0.0
        self.idle_since = 0.0
        self.partial_since: float | None = None

    def is_late(self, now: float) -> bool:
        """Whether a timeout has passed."""
        listener = self._listener
        for since in (self.partial_since, self._write_blocked_since):
            if since is not None and now - since > listener.message_timeout:
                return True
        if self._outgoing is not None and now - self._outgoing_since > TRANSFER_SECONDS:
            return True
        linger = min(limits.STREAM_LINGER, listener.message_timeout)
        idle_timeout = linger if self._discarding else listener.idle_timeout
        return not self.waiting and now - self.idle_since > idle_timeout

    # --- StreamConnection ----------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        messages = [*self._frames, *self._backlog]
        octets = 2 * self._framer.pending + len(self._unread) + sum(map(len, messages))
        return super().held + octets + len(messages) * limits.READ_MESSAGE_OCTETS

    def opened(self, transport: asyncio.Transport) -> None:
        """Start the idle timeout."""
        self.idle_since = self._listener.now()

    def received(self, data: bytes) -> None:
        """Take octets of messages, cut anywhere."""
        if self._discarding:
            self._discarded_octets += len(data)
            if self._discarded_octets > limits.STREAM_READ_CHUNK:
                self.abort()
            return
        self._unread = self._unread[self._offset:] + data if self._offset < len(self._unread) else data
        self._offset = 0
        if self._listener.turns.enter(self):
            self._work()
        else:
            self._update_reading()

    def eof_received(self) -> bool:
        # A half-closed client still gets its replies (RFC 7766 section 6.2.4); before TLS 1.3 it is closed anyway.
        self._eof_received = True
        self._discarding = False  # nothing is left to discard
        self.partial_since = None  # the rest of a message will not come; earlier queries have their own time
        return (self.has_early or self._has_work()) and self.can_answer_after_end()

    def pause_writing(self) -> None:
        self._write_blocked_since = self._listener.now()
        self._update_reading()

    def resume_writing(self) -> None:
        self._write_blocked_since = None
        self._send_outgoing()
        self._schedule_turn()
        self._update_reading()

    def closed(self) -> None:
        """Cancel pending queries and drop what was read."""
        self._listener.turns.remove(self)
        self._backlog.clear()
        self._outgoing = None
        self._frames, self._unread = [], b""
        pending, self._pending = self._pending, {}
        for query in pending:
            query.service.forget(query)

    # --- Sink ----------------------------------------------------------------------------------------------------

    @property
    def idle_timeout(self) -> float:
        """Seconds an idle connection is kept (RFC 7828)."""
        return self._listener.idle_timeout

    @property
    def origin(self) -> tuple[str, str]:
        """Transport and listener of the queries."""
        return self._listener.origin

    @property
    def padding_block(self) -> int:
        """Size of the blocks to which replies are padded; 0: they are not padded."""
        return self._listener.padding_block

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        """Send a reply of `Service`."""
        transport = self._transport
        if transport is not None and not transport.is_closing():
            self._turn_octets += len(packet) + 2
            transport.write(len(packet).to_bytes(2, "big") + packet)
            if self._write_blocked_since is not None and transport.get_write_buffer_size() > limits.STREAM_WRITE_LIMIT:
                self._listener.write_overrun += 1
                self.abort()
        self._answered()

    @property
    def takes_many(self) -> bool:
        """Whether no zone transfer is in progress on this connection."""
        return self._outgoing is None

    def send_many(self, packets: Iterator[bytes], peer: tuple[Any, ...]) -> bool:
        """Send the messages of a zone transfer as fast as the client reads them; they are made one by one. False, and
        nothing is sent, while another transfer is in progress on this connection."""
        if self._outgoing is not None:
            return False
        self._outgoing, self._outgoing_since = packets, self._listener.now()
        self._send_outgoing()
        return True

    def _send_outgoing(self) -> None:
        """Write messages of a transfer until the write buffer is full or the share of this turn is used up."""
        try:
            self._write_outgoing()
        except BaseException:
            # A message cannot be made. No reply will come, and a connection that waits for one has no timeout.
            self._outgoing = None
            self.abort()
            raise

    def _write_outgoing(self) -> None:
        transport, octets = self._transport, 0
        while self._outgoing is not None and self._write_blocked_since is None:
            if transport is None or transport.is_closing():
                self._outgoing = None
                return
            if octets >= limits.STREAM_TURN_OCTETS:
                asyncio.get_running_loop().call_soon(self._send_outgoing)
                return
            packet = next(self._outgoing, None)
            if packet is None:
                self._outgoing = None
                self._answered()
                return
            octets += len(packet)
            transport.write(len(packet).to_bytes(2, "big") + packet)

    def skip(self) -> None:
        """A query gets no reply."""
        self._answered()

    def forget(self, pending: PendingQuery) -> None:
        """Remove `pending`, which no longer waits for a reply."""
        self._pending.pop(pending, None)

    def _answered(self) -> None:
        self.waiting -= 1
        self.idle_since = self._listener.now()
        if self._feeding:
            return
        self._feed_service()
        self._listener.note_progress(self)
        self._schedule_turn()
        self._close_if_done()
        self._update_reading()

    # --- from octets to replies ------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Process what is left of earlier turns."""
        self._work()

    def _work(self) -> None:
        """Process the messages of one turn."""
        transport, listener = self._transport, self._listener
        if transport is None or transport.is_closing():
            return
        self._turn_messages = self._turn_octets = read = 0
        if self._backlog:
            self._feed_service()
        if self._can_read_more():
            if self._next_frame == len(self._frames):
                read = self._next_portion()
            if self._next_frame < len(self._frames):
                self.idle_since = listener.now()
                listener.note_progress(self)
                self._answer_frames(transport)
                self._feed_service()
        listener.turns.spend(self._turn_messages, read + self._turn_octets)
        self._schedule_turn()
        self._close_if_done()
        self._update_reading()

    def _next_portion(self) -> int:
        """Split the unread octets of one turn into messages. Returns how many octets."""
        size = limits.STREAM_READ_CHUNK
        if self._offset == 0 and len(self._unread) <= size:
            data, self._unread = self._unread, b""
        else:
            data = self._unread[self._offset:self._offset + size]
            self._offset += size
            if self._offset >= len(self._unread):
                self._unread, self._offset = b"", 0
        # The framer returns bytes, not views. It cannot raise: every length of two octets is permitted.
        self._frames, self._next_frame = cast("list[bytes]", self._framer.feed(data)), 0
        if self._frames:
            self.partial_since = None  # an incomplete message after them is a new one
        elif self._transport is not None:
            acknowledge_now(self._transport)  # the rest of the message may wait for it
        return len(data)

    def _answer_frames(self, transport: asyncio.Transport) -> None:
        """Answer messages from the cache until the turn's share is used up; queue the others."""
        if not self.allowed and not self._listener.fast.knows_keys:
            # The service sends REFUSED. With keys, the fast path first counts the queries that may be signed.
            self._backlog.extend(self._frames[self._next_frame:])
            self._frames, self._next_frame = [], 0
            return
        first, frames = self._next_frame, self._frames
        end = first + limits.STREAM_TURN_MESSAGES - self._turn_messages
        replies, missed, self._next_frame, malformed = self._listener.fast.answer_frames(
            frames if len(frames) <= end else frames[:end], None, self.octets, first, self._listener.padding_block,
            keepalive_units(self._listener.idle_timeout), self.access, self._listener.transport_number, self._peer[1],
        )
        self._turn_messages += self._next_frame - first - len(missed)  # those are counted for the service
        if replies:
            self._turn_octets += len(replies)
            transport.write(replies)
        self._backlog.extend(missed)
        if malformed:
            # Not DNS, or a response: the framing of what follows cannot be trusted.
            self._listener.malformed += 1
            self._framer.reset()
            self._frames, self._next_frame, self._unread, self._offset = [], 0, b"", 0
            self._eof_received = self._discarding = True
        elif self._next_frame == len(self._frames):
            self._frames, self._next_frame = [], 0

    def _feed_service(self) -> None:
        """Give queued messages to the service while the pipeline permits; `handle` may call `send` at once."""
        listener = self._listener
        backlog = self._backlog
        waited = self.waiting
        self._feeding = True
        try:
            while backlog and self._pipeline_open() and self._share_left():
                if self._transport is None or self._transport.is_closing():
                    backlog.clear()
                    break
                self.waiting += 1
                self._turn_messages += 1
                pending = listener.service.handle(backlog.popleft(), self._peer, self, listener.own_access)
                if pending is not None:
                    self._pending[pending] = None
        except BaseException:
            self.abort()  # out of memory: no reply will come, so the client must not wait for one
            raise
        finally:
            self._feeding = False
        if self.waiting and not waited:
            listener.note_progress(self)  # moves it from the idle to the busy connections

    def _pipeline_open(self) -> bool:
        """Whether the service may be given one more query."""
        return self._write_blocked_since is None and self.waiting < self._listener.pipeline

    def _can_read_more(self) -> bool:
        """Whether more of the unread octets may be processed in this turn."""
        return not self._backlog and self._pipeline_open() and self._share_left()

    def _share_left(self) -> bool:
        """Whether the turn may continue."""
        return self._turn_octets < limits.STREAM_TURN_OCTETS and self._turn_messages < limits.STREAM_TURN_MESSAGES

    def _has_work(self) -> bool:
        """Whether there are unread octets or unanswered messages."""
        return bool(self.waiting or self._backlog or self._next_frame < len(self._frames) or self._unread)

    def _schedule_turn(self) -> None:
        """Schedule another turn when messages are left and no later event would process them."""
        if self._transport is None or not self._pipeline_open():
            return
        if self._backlog or self._next_frame < len(self._frames) or self._unread:
            self._listener.turns.add(self)

    def _close_if_done(self) -> None:
        """Close our side when the client has closed its own, or sent what is no query, and everything is answered."""
        transport = self._transport
        if not self._eof_received or transport is None or transport.is_closing() or self._has_work():
            return
        if self._discarding:
            if not half_close(transport):
                transport.close()
        else:
            transport.close()

    def _update_reading(self) -> None:
        """Pause or resume reading by the state of the pipeline and of the write buffer, and start or stop the message
        timeout."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        unread = bool(self._next_frame < len(self._frames) or self._unread)
        wanted = self._discarding or (not unread and not self._backlog and self._pipeline_open())
        if self._discarding or not self._eof_received:
            if wanted and not self._reading:
                self._reading = True
                transport.resume_reading()
            elif not wanted and self._reading:
                self._reading = False
                transport.pause_reading()
        if not wanted or self._eof_received or not self._framer.pending:
            self.partial_since = None  # no message timeout while reading is paused
        elif self.partial_since is None:
            self.partial_since = self._listener.now()
