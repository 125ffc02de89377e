"""Who gets which connection: counting and queues, without I/O and without awaits.

Rule: every change of state happens in one call that cannot be interrupted, and a slot is given out as an object whose
`release` is idempotent, so that a cancelled task can lose neither a slot nor a connection (the fault that other clients
had for years). All operations are O(1): idle connections stand in two ordered dictionaries, waiters in a queue.
"""

import asyncio
from collections import deque
from dataclasses import dataclass

from corenet.http.connection import Connection
from corenet.http.errors import LocalProtocolError
from corenet.http.url import Origin
from corenet.limits import HTTP_CONNECTIONS, HTTP_IDLE, HTTP_PER_ORIGIN

__all__ = ["Limits", "Pool", "Slot"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections a client may hold, and for how many seconds one may be idle."""

    connections: int = HTTP_CONNECTIONS.default
    per_origin: int = HTTP_PER_ORIGIN.default
    idle_seconds: float = HTTP_IDLE.default

    def __post_init__(self) -> None:
        HTTP_CONNECTIONS.check(self.connections, "Limits connections")
        HTTP_PER_ORIGIN.check(self.per_origin, "Limits per_origin")
        if not 0 <= self.idle_seconds <= HTTP_IDLE.maximum:
            raise ValueError(f"Limits idle_seconds: {self.idle_seconds} is outside 0..{HTTP_IDLE.maximum} seconds")


class Slot:
    """The right to one connection; `connection` is None until the holder has opened one."""

    __slots__ = ("connection", "group", "held", "reused")

    def __init__(self, group: "_Group", connection: Connection | None) -> None:
        self.group = group
        self.connection = connection
        self.reused = connection is not None
        self.held = True


class _Group:
    """What the pool knows of one origin."""

    __slots__ = ("count", "hungry", "idle", "origin", "waiters")

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.count = 0
        self.idle: dict[Connection, None] = {}
        self.waiters: dict[asyncio.Future[Slot], None] = {}
        self.hungry = False


class Pool:
    """Connections of one client by origin; the newest idle one is used first, the oldest is closed first."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: Limits) -> None:
        self.loop = loop
        self.limits = limits
        self.total = 0
        self.groups: dict[Origin, _Group] = {}
        self.idle: dict[Connection, _Group] = {}
        self.hungry: deque[_Group] = deque()
        self.timer: asyncio.TimerHandle | None = None
        self.closing = False

    def assign(self, origin: Origin) -> "Slot | asyncio.Future[Slot]":
        """Give a slot at once, with an idle connection or the right to open one, or a future to wait for."""
        group = self.groups.get(origin)
        if group is None:
            group = self.groups[origin] = _Group(origin)
        if not group.waiters:
            slot = self._try(group)
            if slot is not None:
                return slot
        future: asyncio.Future[Slot] = self.loop.create_future()
        try:
            group.waiters[future] = None
            if not group.hungry:
                self.hungry.append(group)
                group.hungry = True
        except MemoryError:
            # Nobody will wait for it, so nobody may give it a slot.
            group.waiters.pop(future, None)
            self._forget(group)
            raise
        return future

    def give_up(self, origin: Origin, future: "asyncio.Future[Slot]") -> None:
        """Stop waiting; a slot that came in the same moment goes to the next one."""
        if future.done() and not future.cancelled():
            self.release(future.result(), reusable=True)
        future.cancel()
        group = self.groups.get(origin)
        if group is not None:
            group.waiters.pop(future, None)
            self._forget(group)

    def release(self, slot: Slot, *, reusable: bool) -> None:
        """Take a slot back; with `reusable` its connection waits for the next request."""
        if not slot.held:
            return
        slot.held = False
        group = slot.group
        connection = slot.connection
        kept = False
        if reusable and connection is not None and not self.closing and self.limits.idle_seconds > 0:
            try:
                group.idle[connection] = None
                self.idle[connection] = group
                connection.on_lost = self._on_lost
                if self.timer is None:
                    self.timer = self.loop.call_later(self.limits.idle_seconds, self._expire)
                kept = True
            except MemoryError:
                # The request has its answer all the same; the next one opens a connection of its own.
                group.idle.pop(connection, None)
                self.idle.pop(connection, None)
                connection.on_lost = None
        if not kept:
            if reusable and connection is not None:
                connection.close()
            group.count -= 1
            self.total -= 1
        if self.hungry:
            self._serve()
        self._forget(group)

    def drop_idle(self, origin: Origin) -> None:
        """Close every idle connection to `origin`, after one of them turned out to be dead."""
        group = self.groups.get(origin)
        while group is not None and group.idle:
            self._take_idle(group, next(reversed(group.idle))).close()
            group.count -= 1
            self.total -= 1

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
        self.hungry.clear()
        closed = list(self.idle)
        for connection in closed:
            group = self.idle[connection]
            self._take_idle(group, connection).close()
            group.count -= 1
            self.total -= 1
        return closed

    # --- inside ---------------------------------------------------------------------------------------------------

    def _try(self, group: _Group) -> Slot | None:
        now = self.loop.time()
        while group.idle:
            connection = self._take_idle(group, next(reversed(group.idle)))
            if now - connection.idle_since < self.limits.idle_seconds and connection.is_usable(now):
                return Slot(group, connection)
            connection.close()
            group.count -= 1
            self.total -= 1
        if group.count >= self.limits.per_origin:
            return None
        if self.total >= self.limits.connections:
            if not self.idle:
                return None
            # Another origin's oldest idle connection makes room.
            oldest, owner = next(iter(self.idle.items()))
            self._take_idle(owner, oldest).close()
            owner.count -= 1
            self.total -= 1
            self._forget(owner)
        group.count += 1
        self.total += 1
        return Slot(group, None)

    def _take_idle(self, group: _Group, connection: Connection) -> Connection:
        del group.idle[connection]
        del self.idle[connection]
        connection.on_lost = None
        return connection

    def _serve(self) -> None:
        """Give the one slot that became free to the origin whose turn it is, there to who waits longest."""
        for _ in range(len(self.hungry)):
            group = self.hungry.popleft()
            while group.waiters and next(iter(group.waiters)).done():
                del group.waiters[next(iter(group.waiters))]
            slot = self._try(group) if group.waiters else None
            if slot is not None:
                waiter = next(iter(group.waiters))
                del group.waiters[waiter]
                waiter.set_result(slot)
            group.hungry = bool(group.waiters)
            if group.hungry:
                self.hungry.append(group)
            if slot is not None:
                return

    def _on_lost(self, connection: Connection) -> None:
        group = self.idle.get(connection)
        if group is not None:
            self._take_idle(group, connection)
            group.count -= 1
            self.total -= 1
            if self.hungry:
                self._serve()
            self._forget(group)

    def _expire(self) -> None:
        """Close what has been idle for too long; all expire alike, so the oldest stand first."""
        self.timer = None
        now = self.loop.time()
        while self.idle:
            connection, group = next(iter(self.idle.items()))
            due = connection.idle_since + self.limits.idle_seconds
            if due > now:
                self.timer = self.loop.call_at(due, self._expire)
                return
            self._take_idle(group, connection).close()
            group.count -= 1
            self.total -= 1
            self._forget(group)

    def _forget(self, group: _Group) -> None:
        """Drop the record of an origin nobody talks to or waits for."""
        if group.count == 0 and not group.waiters:
            self.groups.pop(group.origin, None)
