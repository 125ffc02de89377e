"""The pool's bookkeeping with fake connections: no sockets, and a clock that the test advances.

Required properties: no slot is lost or given twice, the request that has waited longest is served first, no origin can
starve another, and a closing connection counts until its descriptor is closed (`Fixture.settle`).
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from support.machines import read_table, steps_of, table_of
from support.shortage import FullDict

from corenet.http import pool
from corenet.http.errors import LocalProtocolError
from corenet.http.h2_connection import MultiplexedConnection
from corenet.http.pool import Limits, Pool, PoolSlot
from corenet.http.url import Origin

A = Origin("https", "a.example", 443)
B = Origin("https", "b.example", 443)


class FakeTimer:
    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due = due
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class FakeLoop:
    """A clock and futures; the test advances the time."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[FakeTimer] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_soon(self, *args: Any, **kwargs: Any) -> None:
        """Futures call this for their callbacks; there are none here."""

    def create_future(self) -> "asyncio.Future[PoolSlot]":
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def call_at(self, due: float, call: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(due, call)
        self.timers.append(timer)
        return timer

    def call_later(self, delay: float, call: Callable[[], None]) -> FakeTimer:
        return self.call_at(self.now + delay, call)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        due = [timer for timer in self.timers if timer.due <= self.now and not timer.cancelled]
        self.timers = [timer for timer in self.timers if timer not in due]
        for timer in due:
            timer.call()


class FakeConnection:
    def __init__(self, loop: FakeLoop) -> None:
        self.idle_since = loop.now
        self.usable = True
        self.closed = False
        self.aborted = False
        self.is_gone = False
        self.on_closed: Any = None

    def is_usable(self) -> bool:
        return self.usable and not self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def lose(self) -> None:
        """Its descriptor is closed."""
        self.closed = self.is_gone = True
        self.on_closed()


class Fixture:
    def __init__(self, **limits: Any) -> None:
        self.loop = FakeLoop()
        self.pool = Pool(self.loop, Limits(**limits))  # type: ignore[arg-type]
        self.connections: list[FakeConnection] = []

    def take(self, origin: Origin = A) -> PoolSlot:
        slot = self.pool.acquire(origin)
        assert isinstance(slot, PoolSlot)
        if slot.connection is None:
            self.open(slot)
        return slot

    def open(self, slot: PoolSlot) -> None:
        connection = FakeConnection(self.loop)
        self.connections.append(connection)
        self.pool.opened(slot, connection)  # type: ignore[arg-type]

    def settle(self) -> None:
        """An iteration of the loop: descriptors of closed connections are closed."""
        gone = [connection for connection in self.connections if connection.closed]
        self.connections = [connection for connection in self.connections if not connection.closed]
        for connection in gone:
            connection.lose()

    def wait(self, origin: Origin = A) -> "asyncio.Future[PoolSlot]":
        future = self.pool.acquire(origin)
        assert isinstance(future, asyncio.Future)
        return future

    def give(self, slot: PoolSlot, *, reusable: bool = True) -> None:
        if slot.connection is not None:
            slot.connection.idle_since = self.loop.now
        self.pool.release(slot, reusable=reusable)


def test_the_newest_idle_connection_is_used_first() -> None:
    fixture = Fixture()
    first, second = fixture.take(), fixture.take()
    fixture.give(first)
    fixture.give(second)
    again = fixture.take()
    assert again.connection is second.connection and again.reused and not first.reused
    assert fixture.pool.total == 2


class FullDeque(deque[Any]):
    def append(self, item: Any) -> None:
        raise MemoryError


@pytest.mark.parametrize("owner", ["pool", "group"])
def test_a_connection_is_closed_when_memory_to_keep_it_is_lacking(owner: str) -> None:
    fixture = Fixture()
    slot = fixture.take()
    (fixture.pool if owner == "pool" else slot.group).idle = FullDict()
    fixture.give(slot)
    assert slot.connection.closed  # type: ignore[union-attr]
    assert not slot.group.idle and not fixture.pool.idle
    fixture.settle()
    assert fixture.pool.total == 0 and not fixture.pool.groups


@pytest.mark.parametrize("which", ["waiters", "hungry"])
def test_a_waiter_that_cannot_be_queued_for_lack_of_memory_gets_no_slot(which: str) -> None:
    fixture = Fixture(per_origin=1)
    slot = fixture.take()
    if which == "waiters":
        slot.group.waiters = FullDict()
    else:
        fixture.pool.waiting_origins = FullDeque()
    with pytest.raises(MemoryError):
        fixture.pool.acquire(A)
    assert not slot.group.waiters
    slot.group.waiters, fixture.pool.waiting_origins = {}, deque(fixture.pool.waiting_origins)
    waiting = fixture.wait()
    fixture.give(slot)
    assert waiting.done() and waiting.result().connection is slot.connection


def test_a_slot_is_released_once() -> None:
    fixture = Fixture()
    slot = fixture.take()
    fixture.give(slot, reusable=False)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="was released"):
            fixture.give(slot, reusable=False)
        fixture.settle()
    assert fixture.pool.total == 0 and not fixture.pool.groups


def test_lost_idle_connections_are_skipped() -> None:
    fixture = Fixture()
    slot = fixture.take()
    fixture.give(slot)
    slot.connection.usable = False  # type: ignore[union-attr]
    assert fixture.take().connection is not slot.connection
    assert fixture.pool.total == 2 and slot.connection.aborted  # type: ignore[union-attr]
    fixture.settle()
    assert fixture.pool.total == 1


def test_a_lost_idle_connection_holds_its_slot_until_it_is_closed() -> None:
    fixture = Fixture(connections=1)
    slot = fixture.take()
    fixture.give(slot)
    slot.connection.usable = False  # type: ignore[union-attr]
    waiting = fixture.wait()
    assert slot.connection.aborted and not waiting.done()  # type: ignore[union-attr]
    fixture.settle()
    assert waiting.done() and waiting.result() is not slot
    assert fixture.pool.total == 1


def test_waiters_are_served_in_order() -> None:
    fixture = Fixture(per_origin=1)
    slot = fixture.take()
    first, second = fixture.wait(), fixture.wait()
    fixture.give(slot)
    assert first.done() and not second.done()
    assert first.result().connection is slot.connection
    fixture.give(first.result(), reusable=False)
    assert not second.done() and fixture.pool.total == 1
    fixture.settle()
    assert second.done() and second.result().connection is None
    fixture.give(second.result(), reusable=False)
    assert fixture.pool.total == 0 and not fixture.pool.groups and not fixture.pool.waiting_origins


def test_a_cancelled_waiter_is_skipped_and_its_slot_passed_on() -> None:
    fixture = Fixture(per_origin=1)
    slot = fixture.take()
    first, second, third = fixture.wait(), fixture.wait(), fixture.wait()
    fixture.pool.cancel_acquire(A, first)
    fixture.give(slot)
    assert second.done() and not third.done()
    # Cancelled at the moment when it was served.
    fixture.pool.cancel_acquire(A, second)
    assert third.done() and third.result().connection is slot.connection


def test_origins_take_turns_at_the_total_limit() -> None:
    fixture = Fixture(connections=1)
    slot = fixture.take(A)
    waiting_a, waiting_b = [fixture.wait(A) for _ in range(3)], fixture.wait(B)
    fixture.give(slot)
    assert waiting_a[0].done() and not waiting_b.done()
    fixture.give(waiting_a[0].result())
    assert not waiting_b.done() and not waiting_a[1].done()
    assert slot.connection.aborted  # type: ignore[union-attr] # a's idle connection makes room for b
    fixture.settle()
    assert waiting_b.done() and not waiting_a[1].done()


def test_an_idle_connection_of_another_origin_is_closed_for_a_waiter() -> None:
    fixture = Fixture(connections=2)
    oldest, newest = fixture.take(A), fixture.take(A)
    fixture.give(oldest)
    fixture.give(newest)
    waiting = fixture.wait(B)
    assert oldest.connection.aborted and not newest.connection.closed  # type: ignore[union-attr]
    assert fixture.pool.total == 2
    fixture.settle()
    assert waiting.done() and fixture.pool.total == 2


def test_an_origin_keeps_its_turn_while_a_slot_becomes_free() -> None:
    fixture = Fixture(connections=3)
    slots = [fixture.take(A) for _ in range(3)]
    first, own, last = fixture.wait(B), fixture.wait(A), fixture.wait(Origin("https", "c.example", 443))
    fixture.give(slots[0])
    fixture.give(slots[1])
    # The first idle connection is closed for b; the second can serve only a.
    assert own.done() and own.result() is slots[1] and not first.done()
    fixture.settle()
    assert first.done() and not last.done()
    fixture.give(slots[2])
    fixture.settle()
    assert last.done() and fixture.pool.total == 3


def test_an_idle_connection_is_closed_for_each_of_many_waiters() -> None:
    fixture = Fixture(connections=3)
    slots = [fixture.take(A) for _ in range(3)]
    for slot in slots:
        fixture.give(slot)
    waiting = [fixture.wait(B) for _ in range(3)]
    for _ in range(3):
        fixture.settle()
    assert all(future.done() for future in waiting) and fixture.pool.total == 3
    assert len({id(future.result()) for future in waiting}) == 3


@pytest.mark.parametrize("late", [False, True])
def test_a_graceful_close_is_aborted_for_a_waiter(late: bool) -> None:
    fixture = Fixture(connections=1, keepalive_timeout=0)
    slot = fixture.take(A)
    waiting = fixture.wait(B) if not late else None
    fixture.give(slot)
    assert slot.connection.closed and slot.connection.aborted is not late  # type: ignore[union-attr]
    if waiting is None:
        waiting = fixture.wait(B)
    assert slot.connection.aborted and not waiting.done()  # type: ignore[union-attr]
    fixture.settle()
    assert waiting.done()


def test_a_connection_lost_in_use_frees_its_slot_when_released() -> None:
    fixture = Fixture(connections=1)
    slot = fixture.take()
    waiting = fixture.wait()
    slot.connection.lose()  # type: ignore[union-attr]
    assert fixture.pool.total == 1 and not waiting.done()
    fixture.give(slot)
    assert waiting.done() and fixture.pool.total == 1


def test_a_cancel_during_the_close_of_the_client_is_no_error() -> None:
    fixture = Fixture(per_origin=1)
    fixture.take()
    waiting = fixture.wait()
    fixture.pool.close()
    fixture.pool.cancel_acquire(A, waiting)
    assert isinstance(waiting.exception(), LocalProtocolError)


def test_events_in_empty_cells_of_the_table_raise() -> None:
    for step in steps_of(pool):
        for state in range(len(step.states)):
            if state not in step:
                with pytest.raises(RuntimeError, match=f"^{step.event} cannot happen in state {step.states[state]}$"):
                    step[state]


def test_the_documented_table_is_the_implemented_one() -> None:
    assert pool.__doc__ is not None
    assert read_table(pool.__doc__) == table_of(pool)


def test_idle_connections_expire() -> None:
    fixture = Fixture(keepalive_timeout=10)
    first = fixture.take()
    second = fixture.take()
    fixture.give(first)
    fixture.loop.advance(6)
    fixture.give(second)
    fixture.loop.advance(6)
    assert first.connection.closed and not second.connection.closed  # type: ignore[union-attr]
    fixture.loop.advance(6)
    assert second.connection.closed and fixture.pool.total == 2  # type: ignore[union-attr]
    fixture.settle()
    assert fixture.pool.total == 0
    assert not fixture.pool.groups and fixture.pool.timer is None


def test_an_expired_idle_connection_is_not_used_before_its_timer_runs() -> None:
    """A loop that was delayed runs the ready callbacks before the timers that became due meanwhile."""
    fixture = Fixture(keepalive_timeout=10)
    slot = fixture.take()
    fixture.give(slot)
    fixture.loop.now += 9.9
    again = fixture.take()
    assert again.connection is slot.connection
    fixture.give(again)
    fixture.loop.now += 10
    fresh = fixture.pool.acquire(A)
    assert isinstance(fresh, PoolSlot) and fresh.connection is None
    assert slot.connection.aborted  # type: ignore[union-attr]


def test_without_idle_time_no_connection_is_kept() -> None:
    fixture = Fixture(keepalive_timeout=0)
    slot = fixture.take()
    fixture.give(slot)
    assert slot.connection.closed  # type: ignore[union-attr]
    fixture.settle()
    assert fixture.pool.total == 0


def test_a_connection_lost_while_idle_frees_its_slot() -> None:
    fixture = Fixture(connections=1)
    slot = fixture.take(A)
    fixture.give(slot)
    slot.connection.lose()  # type: ignore[union-attr]
    assert fixture.pool.total == 0 and not fixture.pool.groups


def test_close_fails_waiters_and_closes_idle_connections() -> None:
    fixture = Fixture(per_origin=1)
    held = fixture.take(A)
    waiting = fixture.wait(A)
    idle = fixture.take(B)
    fixture.give(idle)
    assert fixture.pool.close() == [idle.connection]
    with pytest.raises(LocalProtocolError, match="client was closed"):
        waiting.result()
    fixture.give(held)
    assert held.connection.closed  # type: ignore[union-attr]
    fixture.settle()
    assert fixture.pool.total == 0


def test_limits_are_checked() -> None:
    for wrong in ({"connections": 0}, {"per_origin": 0}, {"keepalive_timeout": -1}, {"keepalive_timeout": 1e9}):
        with pytest.raises(ValueError, match="Limits"):
            Limits(**wrong)  # type: ignore[arg-type]


def test_no_slot_is_lost_by_random_events() -> None:
    chance = random.Random(7)
    fixture = Fixture(connections=4, per_origin=3, keepalive_timeout=5)
    origins = [Origin("https", f"{name}.example", 443) for name in "abc"]
    held: list[PoolSlot] = []
    waiting: list[tuple[Origin, asyncio.Future[PoolSlot]]] = []
    for _ in range(5000):
        action = chance.random()
        if action < 0.4:
            origin = chance.choice(origins)
            got = fixture.pool.acquire(origin)
            if isinstance(got, PoolSlot):
                held.append(got)
            else:
                waiting.append((origin, got))
        elif action < 0.75 and held:
            slot = held.pop(chance.randrange(len(held)))
            if slot.connection is None and chance.random() < 0.8:
                fixture.open(slot)
            if slot.connection is not None and chance.random() < 0.05:
                slot.connection.lose()  # type: ignore[attr-defined]
                fixture.connections.remove(slot.connection)  # type: ignore[arg-type]
            fixture.give(slot, reusable=slot.connection is not None and chance.random() < 0.7)
        elif action < 0.9 and waiting:
            fixture.pool.cancel_acquire(*waiting.pop(chance.randrange(len(waiting))))
        elif action < 0.95:
            fixture.loop.advance(chance.random() * 3)
        else:
            fixture.settle()
        for entry in [entry for entry in waiting if entry[1].done()]:
            waiting.remove(entry)
            held.append(entry[1].result())
        closing = sum(1 for connection in fixture.connections if connection.closed)
        assert fixture.pool.total == len(held) + len(fixture.pool.idle) + closing <= 4
        assert fixture.pool.closing_count == closing
        assert all(group.count <= 3 for group in fixture.pool.groups.values())
        # No request waits while a slot is free for it.
        if fixture.pool.total < 4:
            for origin, _ in waiting:
                assert fixture.pool.groups[origin].count == 3
    # All waiting requests are served in the end when only served requests release slots.
    for _ in range(100 + len(waiting)):
        for slot in held:
            fixture.give(slot, reusable=False)
        fixture.settle()
        held = [future.result() for _, future in waiting if future.done()]
        waiting = [entry for entry in waiting if not entry[1].done()]
    assert not held and not waiting
    fixture.loop.advance(10)
    fixture.settle()
    assert fixture.pool.total == fixture.pool.closing_count == 0 and not fixture.pool.groups and not fixture.connections


# --- connections of HTTP/2, which are shared --------------------------------------------------------------------------


class FakeMultiplexed(MultiplexedConnection):
    """A flag and a number of streams."""

    can_serve = True  # type: ignore[assignment]
    stream_limit = 3  # type: ignore[assignment]
    is_gone = False  # type: ignore[assignment]

    def __init__(self, loop: FakeLoop) -> None:
        self.idle_since = loop.now
        self.closed = self.aborted = False

    def is_usable(self) -> bool:
        return self.can_serve and not self.closed

    def close(self) -> None:
        self.closed = True
        self.can_serve = False  # type: ignore[misc]

    def abort(self) -> None:
        self.close()
        self.aborted = True

    def lose(self) -> None:
        """Its descriptor is closed."""
        self.closed = self.is_gone = True  # type: ignore[misc]
        self.can_serve = False  # type: ignore[misc]
        assert self.on_closed is not None
        self.on_closed()


def shared_fixture(**limits: Any) -> Fixture:
    fixture = Fixture(**limits)
    fixture.pool.http2 = True
    return fixture


def opened(fixture: Fixture, slot: PoolSlot) -> FakeMultiplexed:
    connection = FakeMultiplexed(fixture.loop)
    fixture.connections.append(connection)  # type: ignore[arg-type]
    fixture.pool.opened(slot, connection)
    return connection


def probe(fixture: Fixture, origin: Origin = A) -> PoolSlot:
    slot = fixture.pool.acquire(origin)
    assert isinstance(slot, PoolSlot) and slot.connection is None
    return slot


def test_an_http2_connection_is_shared_up_to_the_stream_limit() -> None:
    fixture = shared_fixture(streams=3)
    slot = probe(fixture)
    waiting = [fixture.wait() for _ in range(4)]
    connection = opened(fixture, slot)
    assert [future.done() for future in waiting] == [True, True, False, False]
    assert {future.result() for future in waiting[:2]} == {slot} and slot.holders == 3 and slot.reused
    fixture.give(slot)
    assert waiting[2].result() is slot
    # The server allows one more.
    fixture.pool.limits = Limits(streams=100)
    connection.stream_limit = 4  # type: ignore[misc]
    assert connection.on_change is not None
    connection.on_change()
    assert waiting[3].result() is slot and slot.holders == 4
    late = fixture.wait()
    for _ in range(4):
        fixture.give(slot)
    assert late.result() is slot and slot.holders == 1 and fixture.pool.total == 1
    fixture.give(slot, reusable=False)
    assert slot.state == pool.IDLE and not connection.closed
    assert fixture.take() is slot and slot.holders == 1 and slot.state == pool.SHARED


def test_an_http1_origin_gets_parallel_connections_once_it_is_known() -> None:
    fixture = shared_fixture()
    slot = probe(fixture)
    waiting = [fixture.wait() for _ in range(3)]
    fixture.open(slot)
    assert all(future.result().connection is None for future in waiting) and fixture.pool.total == 4
    assert probe(fixture) is not slot
    assert probe(fixture, B) and isinstance(fixture.pool.acquire(B), asyncio.Future)


def test_the_next_request_connects_after_a_failed_attempt() -> None:
    fixture = shared_fixture()
    waiting = [probe(fixture), fixture.wait(), fixture.wait()]
    fixture.give(waiting[0])  # type: ignore[arg-type]
    assert waiting[1].done() and not waiting[2].done()  # type: ignore[union-attr]
    fixture.pool.cancel_acquire(A, waiting[1])  # type: ignore[arg-type]
    assert waiting[2].result().connection is None and fixture.pool.total == 1  # type: ignore[union-attr]
    fixture.give(waiting[2].result())  # type: ignore[union-attr]
    assert fixture.pool.groups == {} and all(timer.cancelled for timer in fixture.loop.timers)


def test_only_one_connection_is_opened_however_slow_it_is() -> None:
    fixture = shared_fixture()
    slow = probe(fixture)
    waiting = [fixture.wait() for _ in range(9)]
    fixture.loop.advance(30.0)
    assert fixture.pool.total == 1 and not any(future.done() for future in waiting)
    opened(fixture, slow)
    assert [future.done() for future in waiting] == [True] * 2 + [False] * 7
    assert slow.holders == 3 and fixture.pool.total == 1


def test_a_draining_connection_completes_its_requests() -> None:
    fixture = shared_fixture()
    slot = probe(fixture)
    first = opened(fixture, slot)
    fixture.take()
    first.can_serve = False  # type: ignore[misc]
    other = probe(fixture)
    waiting = fixture.wait()
    opened(fixture, other)
    assert waiting.result() is other
    fixture.give(slot)
    assert not first.closed
    fixture.give(slot)
    assert first.closed and not first.aborted and fixture.pool.total == 2
    fixture.settle()
    assert fixture.pool.total == 1


def test_a_lost_shared_connection_counts_until_its_holders_release_it() -> None:
    fixture = shared_fixture()
    slot = probe(fixture)
    connection = opened(fixture, slot)
    fixture.take()
    connection.lose()
    assert slot.state == pool.SHARED and fixture.pool.total == 1
    fixture.give(slot)
    other = probe(fixture)
    fixture.give(slot)
    assert slot.state == pool.FREE and fixture.pool.total == 1
    fixture.give(other)
    assert fixture.pool.total == 0 and fixture.pool.groups == {}


def test_a_request_that_waits_for_a_stream_closes_no_connection() -> None:
    fixture = shared_fixture(connections=2)
    idle = fixture.take(Origin("http", "h", 80))
    fixture.give(idle)
    slot = probe(fixture)
    fixture.wait()
    opened(fixture, slot)
    fixture.take()
    fixture.wait()
    assert idle.state == pool.IDLE and fixture.pool.total == 2


def test_closing_the_pool_ends_the_wait_for_a_connection() -> None:
    fixture = shared_fixture()
    slot = probe(fixture)
    waiting = fixture.wait()
    fixture.pool.close()
    with pytest.raises(LocalProtocolError):
        waiting.result()
    fixture.give(slot)
    assert fixture.pool.total == 0 and all(timer.cancelled for timer in fixture.loop.timers)


@pytest.mark.parametrize("seed", range(20))
def test_any_order_of_events_with_shared_connections(seed: int) -> None:
    """No slot is lost, none has more holders than streams, and the counts are right after each step."""
    rng = random.Random(seed)
    fixture = shared_fixture(connections=4, per_origin=3, streams=3)
    held: list[PoolSlot] = []
    waiting: deque[tuple[Origin, asyncio.Future[PoolSlot]]] = deque()
    for _ in range(2000):
        step = rng.randrange(9)
        origin = rng.choice((A, B))
        if step <= 2:
            got = fixture.pool.acquire(origin)
            if isinstance(got, PoolSlot):
                held.append(got)
            else:
                waiting.append((origin, got))
        elif step <= 4 and held:
            fixture.give(held.pop(rng.randrange(len(held))), reusable=rng.random() < 0.8)
        elif step == 5 and held:
            slot = rng.choice(held)
            if slot.connection is None:
                if rng.random() < 0.7:
                    opened(fixture, slot)
                else:
                    fixture.open(slot)
        elif step == 6 and waiting:
            fixture.pool.cancel_acquire(*waiting.pop())
        elif step == 7 and fixture.connections:
            connection = rng.choice(fixture.connections)
            if isinstance(connection, FakeMultiplexed):
                connection.can_serve = False  # type: ignore[misc]
            if rng.random() < 0.3:
                fixture.connections.remove(connection)
                connection.lose()
        else:
            fixture.loop.advance(rng.choice((0.0, 0.1, 60.0)))
            fixture.settle()
        for entry in list(waiting):
            if entry[1].done():
                waiting.remove(entry)
                held.append(entry[1].result())
        shared = [slot for slot in held if isinstance(slot.connection, FakeMultiplexed)]
        for slot in shared:
            assert slot.holders == shared.count(slot) <= 3 and slot.state == pool.SHARED
        groups = fixture.pool.groups.values()
        assert fixture.pool.total == sum(group.count for group in groups) <= 4
        assert all(group.count <= 3 for group in groups)
    while held or waiting:
        for slot in held:
            fixture.give(slot)
        held = []
        fixture.settle()
        fixture.loop.advance(1.0)
        held = [future.result() for _, future in waiting if future.done()]
        waiting = deque(entry for entry in waiting if not entry[1].done())
    fixture.loop.advance(1000.0)
    fixture.settle()
    assert fixture.pool.total == 0 and fixture.pool.groups == {}
