"""The connection pool: assigns connections to requests. No I/O and no awaits.

A slot represents one connection. It counts against the limits from `acquire` until the descriptor of its connection is
closed. So the limits hold for the connections that the server sees, at every instant (except for the parallel attempts
while one connection is opened). States and events (the `Transition`s below, the only way to change `state`; an event in
an empty cell raises)::

    state      | opened | share  | take   | keep | drop    | gone
    -----------+--------+--------+--------+------+---------+--------
    CONNECTING | IN_USE | SHARED |        |      | CLOSING |
    IN_USE     |        |        |        | IDLE | CLOSING | IN_USE
    SHARED     |        |        |        | IDLE | CLOSING | SHARED
    IDLE       |        | SHARED | IN_USE |      | CLOSING | FREE
    CLOSING    |        |        |        |      |         | FREE

opened: the holder has opened the connection. take: a request gets an idle connection. keep, drop: the holder releases
the slot, with a reusable connection or not; an idle connection is dropped when it is too old, dead, or its slot is
needed.
gone: the connection's descriptor is closed; a holder that has not noticed still releases the slot. A FREE slot is no
longer referenced. Invariant: `total` and each `count` are the numbers of slots that are not FREE.

The slot of an HTTP/2 connection is shared. `holders` is the number of requests on it, at most as many as the limits and
the server allow; it is kept or dropped when the last of them releases it. share: an HTTP/2 connection was opened, or a
request gets an idle one. An origin has at most one HTTP/2 connection that accepts requests; when it is full, requests
wait. Without one, and unless the origin is known to support only HTTP/1.1, one connection is opened at a time, the
`probe`. The other requests wait for it, until their own timeouts. If it fails, the next request opens the probe.

Ownership: the holder owns a slot in CONNECTING and IN_USE, with its connection; the pool owns both in SHARED, IDLE and
CLOSING. A waiting future belongs to the caller of `acquire`; a slot given to a caller that has stopped waiting is
released.

Every change is one call without awaits, so a cancelled task can lose neither a slot nor a connection. When a request
waits, closing connections are aborted instead of waiting for close_notify, and idle connections of other origins are
closed. Idle connections are in two ordered dictionaries, waiters in a queue for each origin. All operations are O(1),
except for the number of origins with waiters.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial

from corenet.http.arguments import integer, number
from corenet.http.connection import Connection
from corenet.http.errors import LocalProtocolError
from corenet.http.facts import ConnectionFacts
from corenet.http.h2_connection import MultiplexedConnection
from corenet.http.routes import Http1Key, PoolKey
from corenet.http.transitions import Transition
from corenet.limits import (
    HTTP2_REQUESTS,
    HTTP_KEEPALIVE_TIMEOUT,
    HTTP_MAX_CONNECTIONS,
    HTTP_MAX_PER_ORIGIN,
)

__all__ = ["Limits", "Pool", "PoolSlot"]

_STATES = ("CONNECTING", "IN_USE", "SHARED", "IDLE", "CLOSING", "FREE")
CONNECTING, IN_USE, SHARED, IDLE, CLOSING, FREE = range(len(_STATES))

_OPENED = Transition("opened", _STATES, {CONNECTING: IN_USE})
_SHARE = Transition("share", _STATES, {CONNECTING: SHARED, IDLE: SHARED})
_TAKE = Transition("take", _STATES, {IDLE: IN_USE})
_KEEP = Transition("keep", _STATES, {IN_USE: IDLE, SHARED: IDLE})
_DROP = Transition("drop", _STATES, {CONNECTING: CLOSING, IN_USE: CLOSING, SHARED: CLOSING, IDLE: CLOSING})
_CLOSED = Transition("gone", _STATES, {IN_USE: IN_USE, SHARED: SHARED, IDLE: FREE, CLOSING: FREE})


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections a client may have, in all and to one origin, and how many seconds one may be idle.

    `streams` is the maximum number of concurrent requests on one HTTP/2 connection; the server may allow fewer.
    """

    connections: int = HTTP_MAX_CONNECTIONS.default
    per_origin: int = HTTP_MAX_PER_ORIGIN.default
    keepalive_timeout: float = HTTP_KEEPALIVE_TIMEOUT.default
    streams: int = HTTP2_REQUESTS.default

    def __post_init__(self) -> None:
        integer(HTTP_MAX_CONNECTIONS, self.connections, "Limits connections")
        integer(HTTP_MAX_PER_ORIGIN, self.per_origin, "Limits per_origin")
        number(HTTP_KEEPALIVE_TIMEOUT, self.keepalive_timeout, "Limits keepalive_timeout")
        integer(HTTP2_REQUESTS, self.streams, "Limits streams")


class PoolSlot:
    """One connection's share of the limits; `connection` and `facts` are None until the first holder has opened it."""

    __slots__ = ("connection", "facts", "group", "holders", "reused", "state")

    def __init__(self, group: "_OriginPool") -> None:
        self.group = group
        self.connection: Connection | MultiplexedConnection | None = None
        self.facts: ConnectionFacts | None = None
        # Of a shared slot.
        self.holders = 0
        self.reused = False
        self.state = CONNECTING


class _OriginPool:
    """The slots and waiters of one origin."""

    __slots__ = ("count", "has_waiters", "idle", "origin", "parallel", "probe", "shared", "waiters")

    def __init__(self, origin: PoolKey, parallel: bool) -> None:
        self.origin = origin
        self.count = 0
        self.idle: dict[PoolSlot, None] = {}
        # Slots in SHARED: one that accepts requests, and those after a GOAWAY.
        self.shared: dict[PoolSlot, None] = {}
        self.waiters: dict[asyncio.Future[PoolSlot], None] = {}
        self.has_waiters = False
        # `parallel`: requests may open connections concurrently. Otherwise they wait for the connection of `probe`.
        self.parallel = parallel
        self.probe: PoolSlot | None = None

    @property
    def needs_connection(self) -> bool:
        """True when waiting requests need another connection: none can be shared, and no probe is in progress."""
        if self.probe is not None and not self.parallel:
            return False
        return not any(
            isinstance(slot.connection, MultiplexedConnection) and slot.connection.can_serve for slot in self.shared
        )


class Pool:
    """The connections of one client by origin. The newest idle one is used first, the oldest is closed first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits, *, http2: bool = False) -> None:
        self.loop = loop
        self.limits = limits
        self.http2 = http2
        self.total = 0
        self.groups: dict[PoolKey, _OriginPool] = {}
        self.idle: dict[PoolSlot, None] = {}
        # Slots whose connection waits for close_notify, and the number of slots in CLOSING.
        self.closing_gracefully: dict[PoolSlot, None] = {}
        self.closing_count = 0
        self.waiting_origins: deque[_OriginPool] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.closing = False

    def acquire(self, origin: PoolKey) -> "PoolSlot | asyncio.Future[PoolSlot]":
        """Return a slot with an idle connection or the right to open one, or a future of a slot."""
        group = self.groups.get(origin)
        if group is None:
            multiplexed = self.http2 and origin.scheme == "https" and not isinstance(origin, Http1Key)
            group = self.groups[origin] = _OriginPool(origin, not multiplexed)
        if not group.waiters:
            slot = self._acquire_now(group)
            if slot is not None:
                return slot
        future: asyncio.Future[PoolSlot] = self.loop.create_future()
        try:
            group.waiters[future] = None
            if not group.has_waiters:
                self.waiting_origins.append(group)
                group.has_waiters = True
        except MemoryError:
            # The caller gets no future, so no slot may be given to it.
            group.waiters.pop(future, None)
            self._forget(group)
            raise
        self._evict_for_waiters()
        return future

    def cancel_acquire(self, origin: PoolKey, future: "asyncio.Future[PoolSlot]") -> None:
        """Stop waiting. If the future already has a slot, the slot goes to the next waiter."""
        if future.done() and not future.cancelled() and future.exception() is None:
            self.release(future.result(), reusable=True)
        future.cancel()
        group = self.groups.get(origin)
        if group is not None:
            group.waiters.pop(future, None)
            self._forget(group)

    def opened(self, slot: PoolSlot, connection: Connection | MultiplexedConnection) -> None:
        """Record the connection that the holder of `slot` has opened. An HTTP/2 connection is shared from now on."""
        # First, because it may raise MemoryError: without it the pool would not learn that the connection is gone.
        connection.on_closed = partial(self._on_connection_closed, slot)
        if isinstance(connection, MultiplexedConnection):
            connection.on_change = self._dispatch_all
            slot.group.shared[slot] = None
            slot.state = _SHARE[slot.state]
            slot.holders = 1
        else:
            slot.state = _OPENED[slot.state]
        slot.connection = connection
        slot.group.parallel = not isinstance(connection, MultiplexedConnection)
        slot.group.probe = None
        self._dispatch_all()

    def release(self, slot: PoolSlot, *, reusable: bool) -> None:
        """Take a slot back; with `reusable` its connection is kept for the next request.

        A shared connection is kept while it accepts requests, however this request ended.

        Raises:
            RuntimeError: the slot has no holder.
        """
        connection = slot.connection
        if slot.state > SHARED:
            raise RuntimeError(f"a slot in state {_STATES[slot.state]} was released")
        if slot.state == SHARED:
            slot.holders -= 1
            if slot.holders:
                self._dispatch_all()
                return
            del slot.group.shared[slot]
            reusable = isinstance(connection, MultiplexedConnection) and connection.can_serve
        if reusable and connection is not None and not connection.is_gone:
            if self.closing or self.limits.keepalive_timeout == 0 or not self._keep(slot):
                self._drop(slot)
        else:
            self._drop(slot)
        if slot.group.probe is slot:
            # The connection was not opened. The next request opens the probe.
            slot.group.probe = None
        self._dispatch_all()
        self._forget(slot.group)

    def drop_idle(self, origin: PoolKey) -> None:
        """Close every idle connection to `origin`, after one of them turned out to be dead."""
        group = self.groups.get(origin)
        while group is not None and group.idle:
            self._drop(next(reversed(group.idle)), graceful=False)

    def close(self) -> list[Connection | MultiplexedConnection]:
        """Close all idle connections and return them. Those in use are closed when they are released."""
        self.closing = True
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        for group in self.groups.values():
            for waiter in group.waiters:
                if not waiter.done():
                    waiter.set_exception(LocalProtocolError("the client was closed while a request waited"))
            group.waiters.clear()
            group.has_waiters = False
            group.probe = None
        self.waiting_origins.clear()
        closed = [slot.connection for slot in self.idle if slot.connection is not None]
        for slot in list(self.idle):
            self._drop(slot)
        return closed

    # --- internal -------------------------------------------------------------------------------------------------

    def _acquire_now(self, group: _OriginPool) -> PoolSlot | None:
        full = False
        for slot in group.shared:
            shared = slot.connection
            if isinstance(shared, MultiplexedConnection) and shared.can_serve:
                if slot.holders < min(self.limits.streams, shared.stream_limit):
                    slot.holders += 1
                    slot.reused = True
                    return slot
                full = True
        if full:
            return None
        idle = group.idle
        if idle:
            now = self.loop.time()
            while idle:
                slot = next(reversed(idle))
                connection = slot.connection
                if (
                    connection is not None
                    and now - connection.idle_since < self.limits.keepalive_timeout
                    and connection.is_usable()
                ):
                    del idle[slot]
                    del self.idle[slot]
                    if isinstance(connection, MultiplexedConnection):
                        slot.state = _SHARE[slot.state]
                        slot.holders = 1
                        group.shared[slot] = None
                    else:
                        slot.state = _TAKE[slot.state]
                    slot.reused = True
                    return slot
                self._drop(slot, graceful=False)
        if group.count >= self.limits.per_origin or self.total >= self.limits.connections:
            return None
        if not group.parallel and group.probe is not None:
            return None
        slot = PoolSlot(group)
        if not group.parallel:
            group.probe = slot
        group.count += 1
        self.total += 1
        return slot

    def _keep(self, slot: PoolSlot) -> bool:
        """Keep the connection for the next request; False when there is no memory for the record."""
        group = slot.group
        try:
            group.idle[slot] = None
            self.idle[slot] = None
            if self.timer is None:
                self.timer = self.loop.call_later(self.limits.keepalive_timeout, self._expire)
        except MemoryError:
            # This request has its response. The next one opens a new connection.
            group.idle.pop(slot, None)
            self.idle.pop(slot, None)
            return False
        slot.state = _KEEP[slot.state]
        return True

    def _drop(self, slot: PoolSlot, *, graceful: bool = True) -> None:
        """Close the connection, if there is one. The slot counts until its descriptor is closed."""
        if slot.state == IDLE:
            del slot.group.idle[slot]
            del self.idle[slot]
        slot.state = _DROP[slot.state]
        self.closing_count += 1
        connection = slot.connection
        if connection is None or connection.is_gone:
            self._free_slot(slot)
        elif graceful:
            self.closing_gracefully[slot] = None
            connection.close()
        else:
            connection.abort()

    def _on_connection_closed(self, slot: PoolSlot) -> None:
        """The descriptor of the slot's connection was closed."""
        if slot.state in (IN_USE, SHARED):
            slot.state = _CLOSED[slot.state]
            return
        if slot.state == IDLE:
            del slot.group.idle[slot]
            del self.idle[slot]
            self.closing_count += 1
        self._free_slot(slot)
        self._dispatch_all()
        self._forget(slot.group)

    def _free_slot(self, slot: PoolSlot) -> None:
        slot.state = _CLOSED[slot.state]
        self.closing_gracefully.pop(slot, None)
        self.closing_count -= 1
        slot.group.count -= 1
        self.total -= 1

    def _dispatch_all(self) -> None:
        """Give free slots to waiting requests. Several streams of HTTP/2 may become free at once."""
        while self.waiting_origins and self._dispatch_waiters():
            pass

    def _dispatch_waiters(self) -> bool:
        """Give one free slot to the next origin in turn, to the request that has waited longest; False: none free."""
        given = False
        skipped: list[_OriginPool] = []
        pending_slots = self.closing_count
        while self.waiting_origins:
            group = self.waiting_origins.popleft()
            waiters = group.waiters
            while waiters and next(iter(waiters)).done():
                del waiters[next(iter(waiters))]
            slot = self._acquire_now(group) if waiters else None
            if slot is not None:
                waiter = next(iter(waiters))
                del waiters[waiter]
                waiter.set_result(slot)
                given = True
            elif waiters:
                # It keeps its position: it gets the next free slot before the origins behind it.
                skipped.append(group)
                if pending_slots:
                    pending_slots -= 1
                elif group.count < self.limits.per_origin and self.idle and group.needs_connection:
                    self._drop(next(iter(self.idle)), graceful=False)
                continue
            group.has_waiters = bool(waiters)
            if group.has_waiters:
                self.waiting_origins.append(group)
            if slot is not None:
                break
        self.waiting_origins.extendleft(reversed(skipped))
        if self.waiting_origins:
            self._evict_for_waiters()
        return given

    def _evict_for_waiters(self) -> None:
        """A request waits: abort closing connections, and close as many idle connections of other origins as needed."""
        while self.closing_gracefully:
            slot = next(iter(self.closing_gracefully))
            del self.closing_gracefully[slot]
            if slot.connection is not None:
                slot.connection.abort()
        if self.total < self.limits.connections:
            return
        coming = self.closing_count
        for group in self.waiting_origins:
            if not self.idle:
                return
            if not group.needs_connection:
                continue
            coming -= min(len(group.waiters), self.limits.per_origin - group.count)
            while coming < 0 and self.idle:
                self._drop(next(iter(self.idle)), graceful=False)
                coming += 1

    def _expire(self) -> None:
        """Close connections that were idle for too long. The timeout is the same for all, so the oldest come first."""
        self.timer = None
        now = self.loop.time()
        while self.idle:
            slot = next(iter(self.idle))
            connection = slot.connection
            due = now if connection is None else connection.idle_since + self.limits.keepalive_timeout
            if due > now:
                self.timer = self.loop.call_at(due, self._expire)
                return
            self._drop(slot)

    def _forget(self, group: _OriginPool) -> None:
        """Drop the record of an origin without slots and waiters."""
        if group.count == 0 and not group.waiters:
            self.groups.pop(group.origin, None)
