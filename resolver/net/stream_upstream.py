"""Queries to name servers over TCP: which connections there may be, and which query goes over which.

Connections (`resolver.net.upstream_connection`) are reused, shared and pipelined (RFC 7766 section 6.2). The timeout of
a query includes connecting. The number of connections is limited.

Slots for connections are shared fairly, because any client can make the resolver query servers that accept connections
and do not reply. When a server needs a connection and no slot is free, `_free_slot` closes, in this order,

1. an idle connection (for a server with `had_eviction`, only one without activity for `STREAM_UPSTREAM_UNRESPONSIVE`);
2. the connection without activity for the longest time of the network that has the most, when that is more than the
   network of the new connection will have; or the same for the zones of the new connection's network
   (`upstream_slots`);
3. the connection without activity for the longest time, when that is at least `STREAM_UPSTREAM_UNRESPONSIVE`, if it
   belongs to the zone of the new connection, or to a network (within a network: a zone) that has more. So unresponsive
   servers do not take the slot of one that is merely slow, unless it has as many as they have.

Otherwise the query waits in the queue of its server (`ServerQueue`), where zones take turns, until its timeout or until
the queue is full: then one of the zone with the most fails (`upstream_waiting`). Queues of servers without a
connection are in `_waiting`, or in `_waiting_after_eviction` when a connection to the server was evicted and no reply
came since, because that server may only be slow. In each, the queue whose network and zone have the fewest slots comes
first. The queries of an evicted connection return to their queue. They are sent once more when there is a slot, or end
at their timeout. The next connection to such a server is exempt from rule 3 (`_eviction_exempt`): only rule 2 or the
timeouts of its queries end it. At most `STREAM_UPSTREAM_EXEMPT` percent of all slots are exempt. While there are fewer,
`_waiting_after_eviction` is served first; at that number, its queues may not use rule 3. Each retransmission,
for whatever reason, takes a packet from its budget (`StreamQuery.charge_packet`), which is the only limit on their
number. Activity is: the connection is established, its first query is added, or a reply came. `_open` has that order.

A timeout is attributed to the server only when the query never waited for a slot, because a lack of slots is no
property of the server.
"""

import asyncio
import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import islice
from typing import TYPE_CHECKING

from resolver import limits
from resolver.effects import Ask, Failure, FailureKind, Server
from resolver.log_limit import LimitedWarning
from resolver.net.clock_random import Entropy
from resolver.net.local_errors import EDES
from resolver.net.routes import RouteChecker
from resolver.net.upstream_connection import ServerQueue, StreamQuery, UpstreamConnection
from resolver.net.upstream_slots import RepliedNetworks, UpstreamSlots

if TYPE_CHECKING:
    from resolver.net.upstream_connection import OnReply
    from resolver.observe.observer import Observer

__all__ = ["StreamUpstream"]

logger = logging.getLogger(__name__)


class StreamUpstream:
    """All outgoing TCP connections.

    `source_v4` and `source_v6` are outgoing addresses; when empty, the kernel chooses. `idle_seconds` is the idle
    timeout of a connection. `replied_networks` and `routes` may be shared with other upstreams. `after_batch` is called
    after each batch of callbacks.
    """

    transport_name = "TCP"
    connection_type: type[UpstreamConnection] = UpstreamConnection
    connection_octets = limits.UPSTREAM_STREAM_OCTETS
    """Most that one connection holds."""

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
        replied_networks: RepliedNetworks | None = None,
        routes: RouteChecker | None = None,
        after_batch: Callable[[], object] | None = None,
    ) -> None:
        self.loop = loop
        self.entropy = entropy
        self.replied_networks = RepliedNetworks() if replied_networks is None else replied_networks
        self.routes = RouteChecker((), source_v4, source_v6) if routes is None else routes
        self.after_batch = after_batch
        self.observer: Observer | None = None
        """What records queries and replies; None: they are not recorded."""
        self.idle_seconds = idle_seconds
        self._source_v4 = source_v4
        self._source_v6 = source_v6
        self._limit = connections
        self._per_server = per_server
        self.pipeline = pipeline
        self._queues: dict[tuple[object, ...], ServerQueue] = {}
        self._open: OrderedDict[UpstreamConnection, float] = OrderedDict()
        self._slots: UpstreamSlots[UpstreamConnection] = UpstreamSlots()
        self._eviction_exempt: dict[UpstreamConnection, None] = {}
        self._max_exempt = self._limit * limits.STREAM_UPSTREAM_EXEMPT // 100
        self._waiting: OrderedDict[ServerQueue, None] = OrderedDict()
        self._waiting_after_eviction: OrderedDict[ServerQueue, None] = OrderedDict()
        self._assigning: asyncio.Handle | None = None
        self.warnings = LimitedWarning(logger)
        self.closed = False
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
        key = ask.server.key
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = ServerQueue(ask.server, ask.zone)
        entry = StreamQuery(self, ask, on_reply, queue)
        if self.closed:
            self._refuse_soon(entry, "the upstream is closed")
            self.remove_if_unused(queue)
            return entry
        try:
            entry.timer = self.loop.call_later(ask.timeout, self._timed_out, entry)
            self.assign(entry)
        except MemoryError:
            entry.cancel()  # the caller gets no handle, so it must not be called back
            self.remove_if_unused(queue)
            raise
        return entry

    def assign(self, entry: StreamQuery) -> None:
        """Assign `entry` to an idle connection, a new one, or the one with the fewest queries; else let it wait. When
        too many wait, it fails, or the newest query of the zone with the most.

        A query whose connection the server closed is sent on one without replies so far: the server may be about to
        close the older ones, too.
        """
        queue = entry.server
        queue.network = self.replied_networks.network(queue.server.address)
        queue.zone = entry.ask.zone
        usable = [connection for connection in queue.connections if not connection.closing]
        if entry.retried:
            fresh = [connection for connection in usable if not connection.reply_count]
            if fresh or (len(queue.connections) < self._per_server and self._free_slot(queue, needed=True)):
                usable = fresh
        best = min(usable, key=lambda connection: len(connection.pending), default=None)
        if (best is None or len(best.pending) >= best.spread) and len(queue.connections) < self._per_server and (
            self._free_slot(queue, needed=best is None)
        ):
            best = self._connect(queue)
        if best is not None and len(best.pending) < best.capacity:
            best.take(entry)
        elif len(queue.waiting) < limits.STREAM_UPSTREAM_WAITING or self._displace(queue, entry.ask.zone):
            queue.waiting.add(entry)
            self._queues[queue.server.key] = queue
            if best is None:
                entry.waited_for_slot = True
                self._enqueue(queue)
                self.schedule_assign()
        else:
            self._refuse_soon(entry, self._crowded())
            self.remove_if_unused(queue)

    def _displace(self, queue: ServerQueue, zone: bytes) -> bool:
        """Make room in `queue` for a query of `zone` at the expense of the zone with the most; returns whether there
        is."""
        sent = (entry for connection in queue.connections for entry in connection.pending.values())
        displaced = queue.waiting.displace(zone, sent)
        if displaced is not None:
            self._refuse_soon(displaced, self._crowded())
        return displaced is not None

    def _crowded(self) -> str:
        return f"too many queries wait for a {self.transport_name} connection to this server"

    def feed_waiting(self, queue: ServerQueue) -> None:
        """Assign waiting queries of `queue` to its connections."""
        while queue.waiting:
            free = [one for one in queue.connections if not one.closing and len(one.pending) < one.capacity]
            if not free:
                return
            min(free, key=lambda one: len(one.pending)).take(queue.waiting.take())
        self._dequeue(queue)

    def _enqueue(self, queue: ServerQueue) -> None:
        """Let `queue` wait for a slot."""
        self._dequeue(queue)
        (self._waiting_after_eviction if queue.had_eviction else self._waiting)[queue] = None

    def _dequeue(self, queue: ServerQueue) -> None:
        self._waiting.pop(queue, None)
        self._waiting_after_eviction.pop(queue, None)

    def note_sent(self, entry: StreamQuery) -> None:
        """A query was written to its connection."""
        self.sent += 1
        if self.observer is not None:
            self.observer.upstream_query(entry.ask, entry.packet, self.transport_name.lower())

    def note_activity(self, connection: UpstreamConnection) -> None:
        """Record activity of `connection`."""
        if connection in self._open:
            self._open[connection] = self.loop.time()
            self._open.move_to_end(connection)
            self._slots.note_progress(connection)

    def end_exemption(self, connection: UpstreamConnection) -> None:
        """The server has replied: the connection is no longer exempt from rule 3."""
        self._eviction_exempt.pop(connection, None)

    def drop(self, connection: UpstreamConnection) -> None:
        """Remove a closed connection and free its slot."""
        self._open.pop(connection, None)
        self._eviction_exempt.pop(connection, None)
        self._slots.remove(connection)
        queue = connection.server
        if connection in queue.connections:
            queue.connections.remove(connection)
        if queue.waiting and all(other.closing for other in queue.connections):
            self._enqueue(queue)
        self.remove_if_unused(queue)
        self.schedule_assign()

    def remove_if_unused(self, queue: ServerQueue) -> None:
        """Delete `queue` when it has neither waiting queries nor connections."""
        if not queue.waiting:
            self._dequeue(queue)
            # A late event of an old connection finds the queue of newer ones under the same key.
            if not queue.connections and self._queues.get(queue.server.key) is queue:
                del self._queues[queue.server.key]

    def schedule_assign(self) -> None:
        """A slot may be free: schedule `_assign_slots`, once for all events of this iteration of the loop."""
        if (self._waiting or self._waiting_after_eviction) and not self.closed:
            if self._assigning is not None:
                self._assigning.cancel()
            self._assigning = self.loop.call_soon(self._assign_slots)

    def _assign_slots(self) -> None:
        """Give free slots, or slots that can be freed, to waiting queues."""
        self._assigning = None
        tried: set[ServerQueue] = set()
        wait_lists = [self._waiting, self._waiting_after_eviction]
        while wait_lists and len(tried) < limits.SLOT_SCAN:
            index = -1 if len(self._eviction_exempt) < self._max_exempt else 0
            queue = self._next_waiting(wait_lists[index], tried)
            if queue is None:
                wait_lists.pop(index)
                continue
            tried.add(queue)
            queue.zone = queue.waiting.first().ask.zone  # never empty: an empty queue is dequeued
            if len(queue.connections) == self._per_server:
                continue  # all of them are closing
            if not self._free_slot(queue, needed=True):
                wait_lists.pop(index)  # the later ones would fail, too
                continue
            self._connect(queue)
            self._dequeue(queue)
            self.feed_waiting(queue)
        oldest = next(
            (since for connection, since in self._open.items() if connection not in self._eviction_exempt), None
        )
        if (self._waiting or self._waiting_after_eviction) and oldest is not None and self._assigning is None:
            # The least recently active connection may cause no event: try again when rule 3 applies to it.
            unresponsive = limits.STREAM_UPSTREAM_UNRESPONSIVE / 1000
            left = oldest + unresponsive - self.loop.time()
            self._assigning = self.loop.call_later(left if left > 0 else unresponsive, self._assign_slots)

    def _next_waiting(self, queues: Iterable[ServerQueue], tried: "set[ServerQueue]") -> ServerQueue | None:
        """Of the first `SLOT_SCAN` queues, the one whose network, and then whose zone, has the fewest slots."""
        candidates = islice((queue for queue in queues if queue not in tried), limits.SLOT_SCAN)
        slots = self._slots
        return min(
            candidates,
            key=lambda queue: (slots.count(queue.network), slots.count_of_zone(queue.network, queue.zone)),
            default=None,
        )

    def close(self) -> None:
        """Close every connection. Queries in flight end without a callback; for those that have failed it still comes.
        """
        self.closed = True
        for queue in list(self._queues.values()):
            for entry in list(queue.waiting):
                entry.cancel()
            for connection in list(queue.connections):
                for entry in list(connection.pending.values()):
                    entry.cancel()
                connection.close()
        if self._assigning is not None:
            self._assigning.cancel()
            self._assigning = None

    def give_up_slots(self, most: int, percent: int) -> int:
        """Leave `percent` of the slots, at most `most` and at least one, to another upstream; returns their number."""
        count = max(min(most, self._limit * percent // 100), 1)
        self._limit = max(self._limit - count, 1)
        return count

    @property
    def max_connections(self) -> int:
        """Maximum number of open connections."""
        return self._limit

    @property
    def connection_count(self) -> int:
        """Number of connections, including those that are not established yet."""
        return len(self._open)

    @property
    def octets(self) -> int:
        """Estimated memory of all connections, without their queries. It asks each connection."""
        return sum(connection.octets for connection in self._open)

    @property
    def octets_limit(self) -> int:
        """Most that all connections hold."""
        return self._limit * self.connection_octets

    @property
    def query_count(self) -> int:
        """Number of queries in flight or waiting. It asks each server."""
        return sum(
            len(queue.waiting) + sum(len(connection.pending) for connection in queue.connections)
            for queue in self._queues.values()
        )

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

    def _free_slot(self, queue: ServerQueue, *, needed: bool) -> bool:
        """Whether there is a slot for a new connection of `queue`. An idle connection is closed for it; a busy one is
        evicted only when the slot is `needed`."""
        if len(self._open) < self._limit:
            return True
        until = self.loop.time() - limits.STREAM_UPSTREAM_UNRESPONSIVE / 1000
        for connection, since in self._open.items():
            if not connection.pending and (since <= until or not queue.had_eviction):
                connection.close()
                return True
        if not needed:
            return False
        victim = self._slots.choose_victim(queue.network, queue.zone)
        if victim is None and (not queue.had_eviction or len(self._eviction_exempt) < self._max_exempt):
            victim = self._least_recently_active(queue, until)
        if victim is None:
            self.warnings.warn(
                "upstream: all %d %s connections to name servers are in use", self._limit, self.transport_name
            )
            return False
        self.evicted += 1
        victim.evict()
        return True

    def _least_recently_active(self, queue: ServerQueue, until: float) -> UpstreamConnection | None:
        """The connection to evict for `queue` by rule 3: its last activity was at `until` or before."""
        for connection, since in self._open.items():
            if since > until:
                return None
            if connection not in self._eviction_exempt and self._slots.may_take_slot_of(
                connection, queue.network, queue.zone
            ):
                return connection
        return None

    def _connect(self, queue: ServerQueue) -> UpstreamConnection:
        """Start a new connection of `queue`.

        Raises:
            MemoryError: no connection was added.
        """
        connection = self.connection_type(self, queue)
        opening = self._open_connection(connection)
        try:
            queue.connections.append(connection)
            self._queues[queue.server.key] = queue
            self._open[connection] = self.loop.time()
            self._slots.add(connection, queue.network, queue.zone)
            if queue.had_eviction and len(self._eviction_exempt) < self._max_exempt:
                self._eviction_exempt[connection] = None
            connection.task = self.loop.create_task(opening)
        except MemoryError:
            # No task will end this connection, so it must not have a slot.
            opening.close()
            self._slots.remove(connection)
            self._open.pop(connection, None)
            self._eviction_exempt.pop(connection, None)
            if connection in queue.connections:
                queue.connections.remove(connection)
            self.remove_if_unused(queue)
            raise
        self.opened += 1
        return connection

    async def _open_connection(self, connection: UpstreamConnection) -> None:
        try:
            await self.open_transport(connection)
        except (OSError, ValueError, MemoryError) as error:
            # All end here, because a connection without transport gets no other notification of its failure.
            self.network_errors += 1
            kind, text = self.explain_refusal(error, connection.server.server)
            connection.connection_failed(text, kind)
            if self.after_batch is not None:
                self.after_batch()
        finally:
            connection.task = None

    async def open_transport(self, connection: UpstreamConnection) -> None:
        """Connect; returns after `connection_made`.

        Raises:
            OSError, ValueError, MemoryError: there is no connection, and `connection_made` was not called.
        """
        server = connection.server.server
        await self.loop.create_connection(
            lambda: connection, server.address, server.port, local_addr=self.source_address(server.address)
        )

    def source_address(self, address: str) -> tuple[str, int] | None:
        """The outgoing address and port for `address`; None when the kernel chooses."""
        source = self._source_v6 if ":" in address else self._source_v4
        return (source, 0) if source else None

    def explain_refusal(self, error: Exception, server: Server) -> tuple[FailureKind, str]:
        """Why no connection to `server` could be opened: the kind of failure and a sentence."""
        code = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(code).lower() if code else str(error) or "out of memory"
        kind = self.routes.classify_connection_error(error, server.address)
        if kind is not FailureKind.NETWORK:
            self.warnings.warn(
                "upstream: cannot open a %s connection to %s port %d: %s", self.transport_name, server.address,
                server.port, reason,
            )  # fmt: skip
        return kind, self.text(f"cannot connect: {reason}", server)

    def explain_loss(self, error: Exception | None, server: Server) -> tuple[FailureKind, str]:
        """Why a connection to `server` was lost: the kind of failure and a sentence."""
        reason = "connection closed by the server" if error is None else f"connection lost: {error}"
        return self.routes.classify_connection_error(error, server.address), self.text(reason, server)

    def text(self, what: str, server: Server) -> str:
        """The sentence of a failure; of encrypted transports it names the server."""
        return f"{what} (over TCP)"

    def _timed_out(self, entry: StreamQuery) -> None:
        entry.timer = None
        if entry.waited_for_slot:
            self.network_errors += 1
            entry.fail(
                FailureKind.LOCAL_RESOURCE, f"no outgoing {self.transport_name} connection was free in time"
            )
            if self.after_batch is not None:
                self.after_batch()
            return
        self.timeouts += 1
        connection = entry.connection
        if connection is not None:
            connection.note_timeout(entry)
        entry.fail(FailureKind.TIMEOUT, self.text("no reply", entry.ask.server))
        if self.after_batch is not None:
            self.after_batch()

    def _refuse_soon(self, entry: StreamQuery, text: str) -> None:
        self.network_errors += 1
        self.fail_soon(entry, Failure(FailureKind.LOCAL_RESOURCE, EDES[FailureKind.LOCAL_RESOURCE], text))

    def fail_soon(self, entry: StreamQuery, failure: Failure) -> None:
        """Call back with `failure` from the loop, not from inside the caller."""
        if entry.timer is not None:
            entry.timer.cancel()
        entry.timer = self.loop.call_soon(self._finish_failed, entry, failure)

    def _finish_failed(self, entry: StreamQuery, failure: Failure) -> None:
        entry.timer = None
        entry.finish(failure)
        if self.after_batch is not None:
            self.after_batch()
