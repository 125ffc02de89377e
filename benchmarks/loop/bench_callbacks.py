"""The core of the loop against uvloop and asyncio: callbacks, timers, threads, futures, tasks, in this process.

A row is a function that takes a loop and returns a function that runs n operations on it. Both loops of a pair exist in
this process at the same time and are run alternately.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import loop_servers as servers
import pytest
from ratio import Contender

CALLS = 100
BATCH = 1000
LIVE_TIMERS = 10_000

Runner = Callable[[int], None]


def call_soon_batch(loop: asyncio.AbstractEventLoop) -> Runner:
    """A hundred callbacks scheduled in one iteration."""

    def nothing() -> None:
        pass

    def run(count: int) -> None:
        def turn(left: int) -> None:
            for _ in range(CALLS - 1):
                loop.call_soon(nothing)
            if left > CALLS:
                loop.call_soon(turn, left - CALLS)
            else:
                loop.call_soon(loop.stop)

        loop.call_soon(turn, count)
        loop.run_forever()

    return run


def call_soon_chain(loop: asyncio.AbstractEventLoop) -> Runner:
    """Each callback schedules the next one: the cost of an iteration."""

    def run(count: int) -> None:
        left = count

        def link() -> None:
            nonlocal left
            left -= 1
            if left > 0:
                loop.call_soon(link)
            else:
                loop.stop()

        loop.call_soon(link)
        loop.run_forever()

    return run


def timers_cancelled(loop: asyncio.AbstractEventLoop) -> Runner:
    """A timer set and cancelled beside ten thousand pending ones, as for every request with a timeout."""

    def nothing() -> None:
        pass

    waiting = [loop.call_later(3600 + i * 0.001, nothing) for i in range(LIVE_TIMERS)]

    def run(count: int) -> None:
        def turn(left: int) -> None:
            for i in range(BATCH):
                loop.call_later(60 + i, nothing).cancel()
            if left > BATCH:
                loop.call_soon(turn, left - BATCH)
            else:
                loop.stop()

        assert len(waiting) == LIVE_TIMERS
        loop.call_soon(turn, count)
        loop.run_forever()

    return run


def timers_fired(loop: asyncio.AbstractEventLoop) -> Runner:
    """Timers set, all of which fire at once."""

    def run(count: int) -> None:
        done = 0

        def fired() -> None:
            nonlocal done
            done += 1
            if done >= count:
                loop.stop()

        def arm(left: int) -> None:
            some = min(left, 10 * BATCH)
            for i in range(some):
                loop.call_later(0.000001 * (i & 255), fired)
            if left > some:
                loop.call_later(0.0003, arm, left - some)

        loop.call_soon(arm, count)
        loop.run_forever()

    return run


def threadsafe_rate(loop: asyncio.AbstractEventLoop) -> Runner:
    """Another thread calls call_soon_threadsafe as fast as it can."""

    def run(count: int) -> None:
        seen = 0

        def callback() -> None:
            nonlocal seen
            seen += 1
            if seen == count:
                loop.stop()

        def work() -> None:
            for _ in range(count):
                loop.call_soon_threadsafe(callback)

        thread = threading.Thread(target=work)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()

    return run


def threadsafe_latency(loop: asyncio.AbstractEventLoop) -> Runner:
    """A thread wakes the sleeping loop and waits for the callback."""

    def run(count: int) -> None:
        answered = threading.Lock()
        answered.acquire()

        def work() -> None:
            for _ in range(count):
                loop.call_soon_threadsafe(answered.release)
                answered.acquire()
            loop.call_soon_threadsafe(loop.stop)

        thread = threading.Thread(target=work)
        loop.call_soon(thread.start)
        loop.run_forever()
        thread.join()

    return run


def awaiting(body: Callable[[asyncio.AbstractEventLoop, int], object]) -> Callable[[asyncio.AbstractEventLoop], Runner]:
    """A row whose operations `body` awaits one after another."""
    return lambda loop: lambda count: loop.run_until_complete(body(loop, count))


async def executor(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        await loop.run_in_executor(None, int)


async def sleep0(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def future(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        waiting = loop.create_future()
        loop.call_soon(waiting.set_result, None)
        await waiting


async def wait_for(loop: asyncio.AbstractEventLoop, count: int) -> None:
    for _ in range(count):
        await asyncio.wait_for(asyncio.sleep(0), 10)


async def queue(loop: asyncio.AbstractEventLoop, count: int) -> None:
    items: asyncio.Queue[int] = asyncio.Queue(1)

    async def produce() -> None:
        for i in range(count):
            await items.put(i)

    task = loop.create_task(produce())
    for _ in range(count):
        await items.get()
    await task


ROWS: dict[str, tuple[Callable[[asyncio.AbstractEventLoop], Runner], int]] = {
    "call_soon": (call_soon_batch, CALLS),
    "call_soon_chain": (call_soon_chain, 1),
    "timers_cancelled": (timers_cancelled, BATCH),
    "timers_fired": (timers_fired, 10 * BATCH),
    "threadsafe_rate": (threadsafe_rate, 1),
    "threadsafe_latency": (threadsafe_latency, 1),
    "executor": (awaiting(executor), 1),
    "sleep0": (awaiting(sleep0), 1),
    "future": (awaiting(future), 1),
    "wait_for": (awaiting(wait_for), 1),
    "queue": (awaiting(queue), 1),
}
SHORT = ("call_soon", "call_soon_chain", "timers_cancelled", "sleep0", "future")


@contextmanager
def contender(row: str, loop_name: str) -> Iterator[Contender]:
    """The row on the named loop, which is closed at the end."""
    make, batch = ROWS[row]
    loop = servers.new_loop(loop_name)
    try:
        yield Contender(loop_name, make(loop), batch=batch)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


@pytest.mark.parametrize("row", [pytest.param(r, marks=pytest.mark.short) if r in SHORT else r for r in ROWS])
def test_against_uvloop(pair, row: str) -> None:
    with contender(row, "corenet") as ours, contender(row, "uvloop") as theirs:
        pair(f"{row}/uvloop", ours, theirs)


@pytest.mark.parametrize("row", ["call_soon"])
def test_against_asyncio(pair, row: str) -> None:
    with contender(row, "corenet") as ours, contender(row, "asyncio") as theirs:
        pair(f"{row}/asyncio", ours, theirs)
