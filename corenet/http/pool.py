"""Who gets which connection: counting and queues, without I/O and without awaits.

A slot is a place for one connection. It counts against the limits from the moment it is given out until the descriptor
of its connection is gone, so that the limits hold as a server counts them, at every instant (but for the attempts that
race each other while one connection is made). Its states, and what moves them (the `Transition`s below, which alone
change `state`; what stands nowhere raises)::

    state      | opened | share  | take   | keep | drop    | gone
    -----------+--------+--------+--------+------+---------+--------
    CONNECTING | IN_USE | SHARED |        |      | CLOSING |
    IN_USE     |        |        |        | IDLE | CLOSING | IN_USE
    SHARED     |        |        |        | IDLE | CLOSING | SHARED
    IDLE       |        | SHARED | IN_USE |      | CLOSING | FREE
    CLOSING    |        |        |        |      |         | FREE

opened: its holder has made the connection. take: an idle one is given out. keep, drop: its holder gives it back, with a
connection for the next request or without; an idle one is dropped when it is old, dead or in the way. gone: the
connection has no descriptor any more; a holder who has not noticed gives the slot back all the same. A FREE slot is
forgotten, nothing can happen to it. Invariant: `total` and each `count` are the numbers of slots that are not FREE.

A slot whose connection speaks HTTP/2 is shared: it has as many holders as requests run on it (`holders`), at most as
many as the limits and the server allow, and it is kept or dropped when the last one gives it back. share: it is opened,
or an idle one is given out. An origin has one such connection that takes requests; when it is full they wait. While
nobody knows what an origin speaks, requests wait for the first connection to it, `HTTP2_PROBE_DELAY` at most, and not
when it failed.

Ownership: the holder owns a slot in CONNECTING and IN_USE, and its connection with it; the pool owns both in SHARED,
IDLE and CLOSING. A future that waits belongs to who asked; a slot that came to one who gave up goes back.

Every change happens in one call that cannot be interrupted, so that a cancelled task can lose neither a slot nor a
connection (the fault that other clients had for years). When somebody waits, politeness ends: connections that say
goodbye are cut off, and idle ones of other origins make room. Idle connections stand in two ordered dictionaries,
waiters in a queue for each origin: all operations are O(1), but for the number of origins that wait.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import partial

from corenet.http.connection import Connection
from corenet.http.errors import LocalProtocolError
from corenet.http.h2_connection import Multiplexed
from corenet.http.transitions import Transition
from corenet.http.url import Origin
from corenet.limits import (
    HTTP2_PROBE_DELAY,
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
    """How many connections a client may hold, and for how many seconds one may be idle.

    `streams` is how many requests may run at the same time on one connection of HTTP/2; the server may allow fewer.
    """

    connections: int = HTTP_MAX_CONNECTIONS.default
    per_origin: int = HTTP_MAX_PER_ORIGIN.default
    keepalive_timeout: float = HTTP_KEEPALIVE_TIMEOUT.default
    streams: int = HTTP2_REQUESTS.default

    def __post_init__(self) -> None:
        HTTP_MAX_CONNECTIONS.check(self.connections, "Limits connections")
        HTTP_MAX_PER_ORIGIN.check(self.per_origin, "Limits per_origin")
        HTTP_KEEPALIVE_TIMEOUT.check(self.keepalive_timeout, "Limits keepalive_timeout")
        HTTP2_REQUESTS.check(self.streams, "Limits streams")


class PoolSlot:
    """The place of one connection; `connection` is None until the first holder has opened one."""

    __slots__ = ("connection", "group", "holders", "reused", "state")

    def __init__(self, group: "_OriginPool") -> None:
        self.group = group
        self.connection: Connection | Multiplexed | None = None
        # Of a shared slot.
        self.holders = 0
        self.reused = False
        self.state = CONNECTING


class _OriginPool:
    """What the pool knows of one origin."""

    __slots__ = ("count", "has_waiters", "idle", "known", "origin", "probe", "probe_timer", "shared", "waiters")

    def __init__(self, origin: Origin, known: bool) -> None:
        self.origin = origin
        self.count = 0
        self.idle: dict[PoolSlot, None] = {}
        # Slots in SHARED: one that takes requests, and those that finish what they have.
        self.shared: dict[PoolSlot, None] = {}
        self.waiters: dict[asyncio.Future[PoolSlot], None] = {}
        self.has_waiters = False
        # Whether requests need not wait to learn what the origin speaks; the slot that will tell, and until when.
        self.known = known
        self.probe: PoolSlot | None = None
        self.probe_timer: asyncio.TimerHandle | None = None

    @property
    def needs_connection(self) -> bool:
        """Whether those who wait could use one more connection: none may be shared, now or soon."""
        if self.probe is not None and not self.known:
            return False
        return not any(isinstance(slot.connection, Multiplexed) and slot.connection.can_serve for slot in self.shared)


class Pool:
    """Connections of one client by origin; the newest idle one is used first, the oldest is closed first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits, *, http2: bool = False) -> None:
        self.loop = loop
        self.limits = limits
        self.http2 = http2
        self.total = 0
        self.groups: dict[Origin, _OriginPool] = {}
        self.idle: dict[PoolSlot, None] = {}
        # Those that say goodbye, and how many slots wait for their descriptor to go.
        self.closing_gracefully: dict[PoolSlot, None] = {}
        self.closing_count = 0
        self.waiting_origins: deque[_OriginPool] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.closing = False

    def acquire(self, origin: Origin) -> "PoolSlot | asyncio.Future[PoolSlot]":
        """Give a slot at once, with an idle connection or the right to open one, or a future to wait for."""
        group = self.groups.get(origin)
        if group is None:
            group = self.groups[origin] = _OriginPool(origin, known=not (self.http2 and origin.scheme == "https"))
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
            # Nobody will wait for it, so nobody may give it a slot.
            group.waiters.pop(future, None)
            self._forget(group)
            raise
        self._evict_for_waiters()
        return future

    def cancel_acquire(self, origin: Origin, future: "asyncio.Future[PoolSlot]") -> None:
        """Stop waiting; a slot that came in the same moment goes to the next one."""
        if future.done() and not future.cancelled() and future.exception() is None:
            self.release(future.result(), reusable=True)
        future.cancel()
        group = self.groups.get(origin)
        if group is not None:
            group.waiters.pop(future, None)
            self._forget(group)

    def opened(self, slot: PoolSlot, connection: Connection | Multiplexed) -> None:
        """Note the connection that the holder of `slot` has made; over HTTP/2 others join it."""
        # First what may find no memory: without it nobody would hear of the connection's end.
        connection.on_closed = partial(self._on_connection_closed, slot)
        if isinstance(connection, Multiplexed):
            connection.on_change = self._dispatch_all
            slot.group.shared[slot] = None
            slot.state = _SHARE[slot.state]
            slot.holders = 1
        else:
            slot.state = _OPENED[slot.state]
        slot.connection = connection
        if slot.group.probe is slot:
            self._end_probe(slot.group)

    def release(self, slot: PoolSlot, *, reusable: bool) -> None:
        """Take a slot back; with `reusable` its connection waits for the next request.

        A shared one is kept as long as its connection takes requests, however this request ended.

        Raises:
            RuntimeError: when nobody held it.
        """
        connection = slot.connection
        if slot.state > SHARED:
            raise RuntimeError(f"a slot in state {_STATES[slot.state]} was given back")
        if slot.state == SHARED:
            slot.holders -= 1
            if slot.holders:
                self._dispatch_all()
                return
            del slot.group.shared[slot]
            reusable = isinstance(connection, Multiplexed) and connection.can_serve
        if reusable and connection is not None and not connection.is_gone:
            if self.closing or self.limits.keepalive_timeout == 0 or not self._keep(slot, connection):
                self._drop(slot)
        else:
            self._drop(slot)
        if slot.group.probe is slot:
            # The connection was not made; who waited for it tries on his own.
            self._end_probe(slot.group)
        self._dispatch_all()
        self._forget(slot.group)

    def drop_idle(self, origin: Origin) -> None:
        """Close every idle connection to `origin`, after one of them turned out to be dead."""
        group = self.groups.get(origin)
        while group is not None and group.idle:
            self._drop(next(reversed(group.idle)), graceful=False)

    def close(self) -> list[Connection]:
        """Close all idle connections and return them; those in use close when they are released."""
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
            self._end_probe(group)
        self.waiting_origins.clear()
        closed = [slot.connection for slot in self.idle if slot.connection is not None]
        for slot in list(self.idle):
            self._drop(slot)
        return closed

    # --- inside ---------------------------------------------------------------------------------------------------

    def _acquire_now(self, group: _OriginPool) -> PoolSlot | None:
        full = False
        for slot in group.shared:
            shared = slot.connection
            if isinstance(shared, Multiplexed) and shared.can_serve:
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
                    if isinstance(connection, Multiplexed):
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
        if not group.known and group.probe is not None:
            return None
        slot = PoolSlot(group)
        if not group.known:
            group.probe_timer = self.loop.call_later(HTTP2_PROBE_DELAY / 1000, partial(self._end_probe, group))
            group.probe = slot
        group.count += 1
        self.total += 1
        return slot

    def _end_probe(self, group: _OriginPool) -> None:
        """The first connection to an origin is there, failed, or takes long: requests wait for it no more."""
        if group.probe is None:
            return
        group.known = True
        group.probe = None
        if group.probe_timer is not None:
            group.probe_timer.cancel()
            group.probe_timer = None
        self._dispatch_all()

    def _keep(self, slot: PoolSlot, connection: Connection) -> bool:
        """Let the connection wait for the next request, unless memory is short."""
        group = slot.group
        try:
            group.idle[slot] = None
            self.idle[slot] = None
            if self.timer is None:
                self.timer = self.loop.call_later(self.limits.keepalive_timeout, self._expire)
        except MemoryError:
            # The request has its answer all the same; the next one opens a connection of its own.
            group.idle.pop(slot, None)
            self.idle.pop(slot, None)
            return False
        slot.state = _KEEP[slot.state]
        return True

    def _drop(self, slot: PoolSlot, *, graceful: bool = True) -> None:
        """Close the connection, if there is one; the slot counts until its descriptor is gone."""
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
        """Give away what is free: streams of HTTP/2 may become free by the dozen."""
        while self.waiting_origins and self._dispatch_waiters():
            pass

    def _dispatch_waiters(self) -> bool:
        """Give one free slot to the origin whose turn it is, there to who waits longest; tell whether one was free."""
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
                # It keeps its turn: a place that becomes free is first its, then that of those who come after it.
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
        """Somebody waits: end every goodbye, and close as many idle connections of others as there is need for."""
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
        """Close what has been idle for too long; all expire alike, so the oldest stand first."""
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
        """Drop the record of an origin nobody talks to or waits for."""
        if group.count == 0 and not group.waiters:
            self.groups.pop(group.origin, None)
