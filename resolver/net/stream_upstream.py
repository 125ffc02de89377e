"""Questions to name servers over TCP: connections that are kept, shared and pipelined (RFC 7766 section 6.2).

Rule: a query on TCP is matched as strictly as one on UDP (`match.is_reply`), its timeout covers connecting, and every
connection belongs to one server, is limited in number, and is closed soon after its last use. A connection that the
server closed while it was idle is a race, not a failure: what was sent on it is sent once more on a new one.

Places are shared, because anybody can make us ask servers that accept connections and fall silent. Who needs a
connection when all places are taken gets that of (`_make_room`)

1. an idle one;
2. the most silent one of the network that has the most, when that has more than the asker's own will have, or of the
   zone that has the most on the asker's network, on the same condition (`shares`);
3. the most silent one, once it has been silent for `STREAM_UPSTREAM_UNRESPONSIVE`: of the asker's own zone, or of a
   network (within a network, of a zone) that has more than the asker's. So many silent servers never cost one that is
   merely slow its place, unless it has as many as they have.

Otherwise the ask waits, until its own timeout, in the line of its server. Lines without a place stand in `_waiting`, or
in `_waiting_after_eviction` when they have made room themselves, since the server may be slow. Of each, those come
first whose network and zone have the fewest places. Asks of a connection that made room go back to their line: they are
sent once more when there is a place, or end at their timeout. What a silent line gets next is a patient connection:
silence does not end it, only its asks' timeouts do, or a fairer share. Patient ones are `STREAM_UPSTREAM_EXEMPT` of all
at most; while there are fewer, silent lines come first; when there are as many, such a line ends nobody's work for his
silence. Each further try of an ask, for whatever reason, costs its query a packet (`StreamQuery.charge_packet`):
nothing else bounds them. Silence counts from the last sign of the server: the connection stands, or a reply came;
`_open` is in that order.

An ask that runs out of time is its server's silence only when it never waited for a place: a shortage here says nothing
about a server.
"""

import asyncio
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from itertools import islice
from typing import TYPE_CHECKING, cast

from corenet.core.framer import FrameError, LengthFramer
from resolver import limits
from resolver.effects import Ask, Failure, FailureKind, Reply
from resolver.net.clock_random import Entropy
from resolver.net.local_errors import EDES
from resolver.net.log_limit import LimitedWarning
from resolver.net.match import cookie_of, is_reply, make_packet, truncated_stub
from resolver.net.routes import RouteChecker
from resolver.net.upstream_slots import NEVER_REPLIED, RepliedNetworks, UpstreamSlots
from resolver.wire import consts as c
from resolver.wire.errors import WireError
from resolver.wire.message import MessageView

if TYPE_CHECKING:
    from typing import TypeAlias

    OnReply: TypeAlias = Callable[[Reply | Failure], object]

__all__ = ["StreamQuery", "StreamUpstream"]

logger = logging.getLogger(__name__)

UNWANTED = limits.UNWANTED_ON_STREAM


class StreamQuery:
    """One ask on its way; what `StreamUpstream.start` returns."""

    __slots__ = (
        "ask",
        "connection",
        "cookie",
        "identity",
        "on_reply",
        "owner",
        "packet",
        "retried",
        "server",
        "started",
        "timer",
        "waited_for_slot",
    )

    def __init__(self, owner: "StreamUpstream", ask: Ask, on_reply: "OnReply", server: "_ServerQueue") -> None:
        self.owner = owner
        self.ask = ask
        self.on_reply: OnReply | None = on_reply
        self.server = server
        self.connection: _Connection | None = None
        self.identity = 0
        self.packet = b""
        self.cookie: bytes | None = None
        """Content of the COOKIE option that is sent."""
        self.waited_for_slot = False
        """Whether it had to wait for a place: then it has had less than its time, and silence may be ours."""
        self.retried = False
        self.started = time.monotonic()
        self.timer: asyncio.TimerHandle | asyncio.Handle | None = None

    def cancel(self) -> None:
        """Forget the ask: its callback will not be called. A second call does nothing."""
        self.on_reply = None
        self.release()

    def release(self) -> None:
        """Give back timer, id and place."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.forget(self)
        elif self.server.waiting.pop(self, self) is None:
            self.owner.remove_if_unused(self.server)

    def finish(self, result: Reply | Failure) -> None:
        """Call back, once."""
        self.release()
        on_reply, self.on_reply = self.on_reply, None
        if on_reply is not None:
            on_reply(result)

    def charge_packet(self) -> Failure | None:
        """Take a packet for being sent once more from the budget of the query; why not, when none is left."""
        budget = self.ask.budget
        return None if budget is None or budget.take_packet() else budget.failure

    def fail(self, kind: FailureKind, text: str) -> None:
        """Call back with a failure, once."""
        self.finish(Failure(kind, EDES[kind], text))


class _ServerQueue:
    """The connections to one server and the asks that found no place on them."""

    __slots__ = ("connections", "key", "network", "silent", "waiting", "zone")

    def __init__(self, key: tuple[str, int], zone: bytes) -> None:
        self.key = key
        self.network: Hashable = NEVER_REPLIED
        self.zone = zone
        """For which the next connection is needed, and what that counts for."""
        self.silent = False
        """Whether a connection of it made room, and nothing was heard of the server since."""
        self.connections: list[_Connection] = []
        self.waiting: OrderedDict[StreamQuery, None] = OrderedDict()


class _Connection(asyncio.Protocol):
    """One connection: pending asks by id, replies in any order."""

    def __init__(self, owner: "StreamUpstream", server: _ServerQueue) -> None:
        self.owner = owner
        self.server = server
        self.pending: dict[int, StreamQuery] = {}
        self.transport: asyncio.Transport | None = None
        self.framer = LengthFramer(2, max_frame=c.MESSAGE_MAX)
        self.closing = False
        self.unwanted = 0
        """Messages since the last reply that fit no question."""
        self.reply_count = 0
        self.idle_timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None

    # --- asks --------------------------------------------------------------------------------------------------

    def take(self, entry: StreamQuery) -> None:
        """Send `entry` here, now or as soon as the connection stands."""
        ask = entry.ask
        identity = self.owner.entropy.bits(16)
        while identity in self.pending:
            identity = self.owner.entropy.bits(16)
        flags = (c.RD if ask.rd else 0) | (c.CD if ask.checking_disabled else 0)
        entry.identity = identity
        cookie = ask.cookie
        if cookie is not None:
            cookie = entry.cookie = cookie or self.owner.entropy.bits(64).to_bytes(8, "big")
        entry.packet = make_packet(
            ask.qname, ask.qtype, identity, flags=flags, payload=ask.edns_payload, do=ask.do, cookie=cookie
        )
        if not self.pending:
            self.owner.note_activity(self)  # until now there was nothing to be silent about
        self.pending[identity] = entry
        entry.connection = self
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None
        if self.transport is not None:
            self.send(entry)

    def send(self, entry: StreamQuery) -> None:
        assert self.transport is not None
        self.owner.sent += 1
        self.transport.write(len(entry.packet).to_bytes(2, "big") + entry.packet)

    def forget(self, entry: StreamQuery) -> None:
        del self.pending[entry.identity]
        if self.pending:
            return
        if self.closing or self.transport is None or not self.owner.idle_seconds:
            self.close()
        elif self.idle_timer is None:
            self.idle_timer = self.owner.loop.call_later(self.owner.idle_seconds, self.close)
            self.owner.schedule_assign()

    def close(self) -> None:
        """End the connection; what still waits on it is told by `connection_lost` or by `connection_failed`."""
        self.closing = True
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None
        if self.transport is not None:
            self.transport.abort()
        elif self.task is not None:
            self.task.cancel()
        self.owner.drop(self)

    def connection_failed(self, text: str, kind: FailureKind = FailureKind.NETWORK) -> None:
        """The connection is gone: send what it carried once more, or fail it."""
        self.closing = True
        self.owner.drop(self)
        entries = list(self.pending.values())
        for entry in entries:
            entry.connection = None
        self.pending.clear()
        for entry in entries:
            if not self.reply_count or entry.retried:
                entry.fail(kind, text)
                continue
            spent = entry.charge_packet()
            if spent is not None:
                entry.finish(spent)
                continue
            entry.retried = True
            self.owner.place(entry)

    def evict(self) -> None:
        """End now; the asks wait once more, where that is paid for: it may happen again and again."""
        line = self.server
        line.silent = True
        for entry in self.pending.values():
            entry.connection = None
            spent = entry.charge_packet()
            if spent is not None:
                self.owner.fail_soon(entry, spent)
                continue
            entry.waited_for_slot = True
            line.waiting[entry] = None
        self.pending.clear()
        self.close()

    # --- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self.closing:
            self.transport.abort()
            return
        self.owner.note_activity(self)
        for entry in self.pending.values():
            self.send(entry)

    def data_received(self, data: bytes) -> None:
        try:
            frames = self.framer.feed(data)
        except FrameError as error:
            self.connection_failed(f"the server sent rubbish: {error}")
            self.close()
            return
        for frame in frames:
            self.receive(bytes(frame))
            if self.unwanted >= UNWANTED:
                # Late replies are not so many. Who goes on would have us read until the timeout of the ask.
                self.connection_failed("the server sends what nobody asked for", FailureKind.MALFORMED)
                self.close()
                break
        if self.owner.after_batch is not None:
            self.owner.after_batch()

    def receive(self, message: bytes) -> None:
        owner = self.owner
        entry = self.pending.get(int.from_bytes(message[:2], "big")) if len(message) >= 12 else None
        if entry is None or not is_reply(entry.packet, message, allow_no_question=True):
            owner.unwanted_replies += 1
            self.unwanted += 1
            return
        self.reply_count += 1
        self.server.silent = False
        owner.end_exemption(self)
        owner.replied_networks.add_reply(self.server.key[0])
        owner.note_activity(self)
        try:
            view = MessageView.parse(message)
        except WireError as error:
            stub = truncated_stub(message)
            if stub is None:
                owner.malformed += 1
                entry.fail(FailureKind.MALFORMED, f"malformed reply: {error.reason}")
                return
            view = MessageView.parse(stub)
        cookie = b"" if entry.cookie is None else cookie_of(entry.cookie, view.edns)
        if cookie is None:
            owner.unwanted_replies += 1
            self.unwanted += 1
            return
        self.unwanted = 0
        owner.replies += 1
        entry.finish(Reply(view, time.monotonic() - entry.started, True, entry.ask.server, cookie))
        owner.feed_waiting(self.server)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.idle_timer is not None:
            self.idle_timer.cancel()
            self.idle_timer = None
        self.transport = None
        self.connection_failed("connection closed by the server" if exc is None else f"connection lost: {exc}",
                     self.owner.routes.classify_connection_error(exc, self.server.key[0]))
        if self.owner.after_batch is not None:
            self.owner.after_batch()


class StreamUpstream:
    """All outgoing TCP connections.

    `source_v4` and `source_v6` are outgoing addresses, empty for the kernel's choice. `note_activity` may be shared
    with other upstreams. `after_batch` is called after whatever may have called back.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        entropy: Entropy,
        source_v4: str = "",
        source_v6: str = "",
        connections: int = limits.STREAM_UPSTREAMS,
        per_server: int = limits.STREAM_UPSTREAMS_PER_SERVER,
        pipeline: int = limits.STREAM_UPSTREAM_PIPELINE,
        idle_seconds: float = limits.STREAM_UPSTREAM_IDLE,
        heard: RepliedNetworks | None = None,
        routes: RouteChecker | None = None,
        after_batch: Callable[[], object] | None = None,
    ) -> None:
        self.loop = loop
        self.entropy = entropy
        self.replied_networks = RepliedNetworks() if heard is None else heard
        self.routes = RouteChecker((), source_v4, source_v6) if routes is None else routes
        self.after_batch = after_batch
        self.idle_seconds = idle_seconds
        self._source_v4 = source_v4
        self._source_v6 = source_v6
        self._limit = connections
        self._per_server = per_server
        self._pipeline = pipeline
        self._lines: dict[tuple[str, int], _ServerQueue] = {}
        self._open: OrderedDict[_Connection, float] = OrderedDict()
        self._places: UpstreamSlots[_Connection] = UpstreamSlots()
        self._eviction_exempt: dict[_Connection, None] = {}
        self._max_exempt = self._limit * limits.STREAM_UPSTREAM_EXEMPT // 100
        self._waiting: OrderedDict[_ServerQueue, None] = OrderedDict()
        self._waiting_after_eviction: OrderedDict[_ServerQueue, None] = OrderedDict()
        self._feeding: asyncio.Handle | None = None
        self._complaint = LimitedWarning(logger)
        self._closed = False
        self.sent = 0
        self.replies = 0
        self.timeouts = 0
        self.unwanted_replies = 0
        self.malformed = 0
        self.network_errors = 0
        self.opened = 0
        self.evicted = 0

    def start(self, ask: Ask, on_reply: "OnReply") -> StreamQuery:
        """Send `ask`; `on_reply` gets a `Reply` or a `Failure` later, never from inside this call."""
        key = (ask.server.address, ask.server.port)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _ServerQueue(key, ask.zone)
        entry = StreamQuery(self, ask, on_reply, line)
        if self._closed:
            self._fail_soon(entry, "the upstream is closed")
            self.remove_if_unused(line)
            return entry
        try:
            entry.timer = self.loop.call_later(ask.timeout, self._timed_out, entry)
            self.place(entry)
        except MemoryError:
            entry.cancel()
            self.remove_if_unused(line)
            raise
        return entry

    def place(self, entry: StreamQuery) -> None:
        """Give `entry` a connection: the least used, a new one while that is busy, or a place in the queue.

        What a server's end of one connection has lost goes to one made since: the older ones may be about to end too.
        """
        line = entry.server
        line.network = self.replied_networks.network(line.key[0])
        line.zone = entry.ask.zone
        usable = [connection for connection in line.connections if not connection.closing]
        if entry.retried:
            fresh = [connection for connection in usable if not connection.reply_count]
            if fresh or (len(line.connections) < self._per_server and self._make_room(line, needed=True)):
                usable = fresh
        best = min(usable, key=lambda connection: len(connection.pending), default=None)
        if (best is None or best.pending) and len(line.connections) < self._per_server and (
            self._make_room(line, needed=best is None)
        ):
            best = self._connect(line)
        if best is not None and len(best.pending) < self._pipeline:
            best.take(entry)
        elif len(line.waiting) < limits.STREAM_UPSTREAM_WAITING:
            line.waiting[entry] = None
            self._lines[line.key] = line
            if best is None:
                entry.waited_for_slot = True
                self._enqueue(line)
                self.schedule_assign()
        else:
            self._fail_soon(entry, "too many outgoing connections")
            self.remove_if_unused(line)

    def feed_waiting(self, line: _ServerQueue) -> None:
        """Place what waited for a connection to `line`."""
        while line.waiting:
            free = [x for x in line.connections if not x.closing and len(x.pending) < self._pipeline]
            if not free:
                return
            min(free, key=lambda x: len(x.pending)).take(line.waiting.popitem(last=False)[0])
        self._dequeue(line)

    def _enqueue(self, line: _ServerQueue) -> None:
        """Let `line` wait for a place."""
        self._dequeue(line)
        (self._waiting_after_eviction if line.silent else self._waiting)[line] = None

    def _dequeue(self, line: _ServerQueue) -> None:
        self._waiting.pop(line, None)
        self._waiting_after_eviction.pop(line, None)

    def note_activity(self, connection: _Connection) -> None:
        """There was a sign of `connection`'s server, or there is something to wait for only now."""
        if connection in self._open:
            self._open[connection] = self.loop.time()
            self._open.move_to_end(connection)
            self._places.note_progress(connection)

    def end_exemption(self, connection: _Connection) -> None:
        """The server has replied: from now on its silence counts as that of any other."""
        self._eviction_exempt.pop(connection, None)

    def drop(self, connection: _Connection) -> None:
        """Take a connection that ended out of the books."""
        self._open.pop(connection, None)
        self._eviction_exempt.pop(connection, None)
        self._places.remove(connection)
        line = connection.server
        if connection in line.connections:
            line.connections.remove(connection)
        if line.waiting and all(other.closing for other in line.connections):
            self._enqueue(line)
        self.remove_if_unused(line)
        self.schedule_assign()

    def remove_if_unused(self, line: _ServerQueue) -> None:
        """Forget `line` when nobody waits and it has no connections."""
        if not line.waiting:
            self._dequeue(line)
            if not line.connections:
                self._lines.pop(line.key, None)

    def schedule_assign(self) -> None:
        """A place may be free: look for a line without one, once for all that happens in this turn."""
        if (self._waiting or self._waiting_after_eviction) and not self._closed:
            if self._feeding is not None:
                self._feeding.cancel()
            self._feeding = self.loop.call_soon(self._assign_slots)

    def _assign_slots(self) -> None:
        """Give lines without a place those that are free or can be made free."""
        self._feeding = None
        tried: set[_ServerQueue] = set()
        lines = [self._waiting, self._waiting_after_eviction]
        while lines and len(tried) < limits.SLOT_SCAN:
            first = -1 if len(self._eviction_exempt) < self._max_exempt else 0
            line = self._next_waiting(lines[first], tried)
            if line is None:
                lines.pop(first)
                continue
            tried.add(line)
            line.zone = next(iter(line.waiting)).ask.zone  # nobody stands there for whom nothing waits
            if len(line.connections) == self._per_server:
                continue  # they are about to end
            if not self._make_room(line, needed=True):
                lines.pop(first)  # who comes later in it would find none
                continue
            self._connect(line)
            self._dequeue(line)
            self.feed_waiting(line)
        oldest = next(
            (since for connection, since in self._open.items() if connection not in self._eviction_exempt), None
        )
        if (self._waiting or self._waiting_after_eviction) and oldest is not None and self._feeding is None:
            # Nothing else may ever happen to the most silent one.
            patience = limits.STREAM_UPSTREAM_UNRESPONSIVE / 1000
            left = oldest + patience - self.loop.time()
            self._feeding = self.loop.call_later(left if left > 0 else patience, self._assign_slots)

    def _next_waiting(self, lines: Iterable[_ServerQueue], tried: "set[_ServerQueue]") -> _ServerQueue | None:
        """Of the first `lines`, one whose network, and in it the zone, has the fewest places."""
        candidates = islice((line for line in lines if line not in tried), limits.SLOT_SCAN)
        places = self._places
        return min(
            candidates,
            key=lambda line: (places.count(line.network), places.count_of_zone(line.network, line.zone)),
            default=None,
        )

    def close(self) -> None:
        """Close every connection. Asks on their way are forgotten without a callback."""
        self._closed = True
        for line in list(self._lines.values()):
            for entry in list(line.waiting):
                entry.cancel()
            for connection in list(line.connections):
                for entry in list(connection.pending.values()):
                    entry.cancel()
                connection.close()
        if self._feeding is not None:
            self._feeding.cancel()
            self._feeding = None

    @property
    def connection_count(self) -> int:
        """Connections that stand or are being made."""
        return len(self._open)

    def statistics(self) -> dict[str, int]:
        """Counters since the start, by name."""
        return {
            "sent": self.sent,
            "replies": self.replies,
            "timeouts": self.timeouts,
            "unwanted_replies": self.unwanted_replies,
            "malformed": self.malformed,
            "network_errors": self.network_errors,
            "connections_opened": self.opened,
            "evicted": self.evicted,
        }

    # --- inside --------------------------------------------------------------------------------------------------

    def _make_room(self, line: _ServerQueue, *, needed: bool) -> bool:
        """Whether there is a place for one more connection to `line`; others end for it only when it is `needed`."""
        if len(self._open) < self._limit:
            return True
        until = self.loop.time() - limits.STREAM_UPSTREAM_UNRESPONSIVE / 1000
        for connection, since in self._open.items():
            if not connection.pending and (since <= until or not line.silent):
                connection.close()
                return True
        if not needed:
            return False
        victim = self._places.choose_victim(line.network, line.zone)
        if victim is None and (not line.silent or len(self._eviction_exempt) < self._max_exempt):
            victim = self._least_recently_active(line, until)
        if victim is None:
            self._complaint.warn("upstream: all %d TCP connections to name servers are in use", self._limit)
            return False
        self.evicted += 1
        victim.evict()
        return True

    def _least_recently_active(self, line: _ServerQueue, until: float) -> _Connection | None:
        """Who was last heard of at `until` or before, and makes room for one more connection to `line`."""
        for connection, since in self._open.items():
            if since > until:
                return None
            if connection not in self._eviction_exempt and self._places.may_take_slot_of(
                connection, line.network, line.zone
            ):
                return connection
        return None

    def _connect(self, line: _ServerQueue) -> _Connection:
        """A connection that is being made; on MemoryError there is none."""
        connection = _Connection(self, line)
        opening = self._open_connection(connection)
        try:
            line.connections.append(connection)
            self._lines[line.key] = line
            self._open[connection] = self.loop.time()
            self._places.add(connection, line.network, line.zone)
            if line.silent and len(self._eviction_exempt) < self._max_exempt:
                self._eviction_exempt[connection] = None
            connection.task = self.loop.create_task(opening)
        except MemoryError:
            opening.close()
            self._places.remove(connection)
            self._open.pop(connection, None)
            self._eviction_exempt.pop(connection, None)
            if connection in line.connections:
                line.connections.remove(connection)
            self.remove_if_unused(line)
            raise
        self.opened += 1
        return connection

    async def _open_connection(self, connection: _Connection) -> None:
        address, port = connection.server.key
        source = self._source_v6 if ":" in address else self._source_v4
        try:
            await self.loop.create_connection(
                lambda: connection, address, port, local_addr=(source, 0) if source else None
            )
        except (OSError, ValueError, MemoryError) as error:
            self.network_errors += 1
            code = error.errno if isinstance(error, OSError) else None
            reason = os.strerror(code).lower() if code else str(error) or "out of memory"
            kind = self.routes.classify_connection_error(error, address)
            if kind is not FailureKind.NETWORK:
                self._complaint.warn("upstream: cannot open a TCP connection to %s port %d: %s", address, port, reason)
            connection.connection_failed(f"cannot connect over TCP: {reason}", kind)
            if self.after_batch is not None:
                self.after_batch()
        finally:
            connection.task = None

    def _timed_out(self, entry: StreamQuery) -> None:
        entry.timer = None
        if entry.waited_for_slot:
            self.network_errors += 1
            entry.fail(FailureKind.LOCAL_RESOURCE, "no outgoing connection was free in time")
            if self.after_batch is not None:
                self.after_batch()
            return
        self.timeouts += 1
        connection = entry.connection
        if connection is not None:
            # Silent for so long: whatever else waits on it may still come, but nothing new is sent there.
            connection.closing = True
        entry.fail(FailureKind.TIMEOUT, "no reply over TCP")
        if self.after_batch is not None:
            self.after_batch()

    def _fail_soon(self, entry: StreamQuery, text: str) -> None:
        self.network_errors += 1
        self.fail_soon(entry, Failure(FailureKind.LOCAL_RESOURCE, EDES[FailureKind.LOCAL_RESOURCE], text))

    def fail_soon(self, entry: StreamQuery, failure: Failure) -> None:
        """Call back with `failure`, but not from inside of whatever somebody else asks for."""
        if entry.timer is not None:
            entry.timer.cancel()
        entry.timer = self.loop.call_soon(self._refused, entry, failure)

    def _refused(self, entry: StreamQuery, failure: Failure) -> None:
        entry.timer = None
        entry.finish(failure)
        if self.after_batch is not None:
            self.after_batch()
