"""The timer of the mesh, and signature checks in place and on threads."""

import asyncio
import threading

import pytest

from resolver.net.clock_random import Clock
from resolver.net.driver import Crypto, MeshTimer


class FakeMesh:
    def __init__(self, *deadlines: float | None) -> None:
        self.deadlines = list(deadlines)
        self.ticks: list[float] = []
        self.empty = asyncio.Event()
        self.first = 0.0

    def next_timer(self) -> float:
        return self.first

    def tick(self, now: float) -> float | None:
        self.ticks.append(now)
        if not self.deadlines:
            self.empty.set()
            return None
        offset = self.deadlines.pop(0)
        return None if offset is None else now + offset


def without_memory(*_: object) -> None:
    raise MemoryError


def test_timer_follows_the_mesh_until_there_is_nothing_left() -> None:
    async def body() -> None:
        mesh = FakeMesh(0.01, 0.01, 0.0)
        driver = MeshTimer(asyncio.get_running_loop(), mesh, Clock())
        driver.process_timers()
        async with asyncio.timeout(30):
            await mesh.empty.wait()
        assert len(mesh.ticks) == 4
        assert mesh.ticks == sorted(mesh.ticks)
        assert mesh.ticks[1] - mesh.ticks[0] >= 0.009
        driver.close()

    asyncio.run(body())


def test_one_timer_whatever_the_number_of_pokes() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        mesh = FakeMesh(*[1000.0] * 50)
        driver = MeshTimer(loop, mesh, Clock())
        armed = []
        real = loop.call_later
        loop.call_later = lambda *a: armed.append(a) or real(*a)  # type: ignore[method-assign, assignment, func-returns-value]
        for _ in range(50):
            driver.process_timers()
        assert len(armed) == 1
        driver.close()

    asyncio.run(body())


def test_an_earlier_deadline_moves_the_timer_forward() -> None:
    async def body() -> None:
        mesh = FakeMesh(1000.0, 0.005)
        driver = MeshTimer(asyncio.get_running_loop(), mesh, Clock())
        driver.process_timers()
        driver.process_timers()
        async with asyncio.timeout(30):
            await mesh.empty.wait()
        driver.close()

    asyncio.run(body())


def test_an_armed_timer_that_is_early_enough_is_left_alone() -> None:
    async def body() -> None:
        mesh, clock = FakeMesh(100.0, 50.0), Clock()
        driver = MeshTimer(asyncio.get_running_loop(), mesh, clock)
        mesh.first = clock.monotonic() + 100.0
        driver.process_timers()
        mesh.first += 10.0
        driver.process_timers()
        assert len(mesh.ticks) == 1
        mesh.first -= 60.0
        driver.process_timers()
        assert len(mesh.ticks) == 2
        driver.close()

    asyncio.run(body())


def test_a_timer_that_there_is_no_memory_for_is_armed_by_the_next_call() -> None:
    async def body() -> None:
        loop, clock = asyncio.get_running_loop(), Clock()
        mesh = FakeMesh(100.0, 100.0)
        driver = MeshTimer(loop, mesh, clock)
        mesh.first = clock.monotonic() + 100.0
        real = loop.call_later
        loop.call_later = without_memory  # type: ignore[method-assign, assignment]
        with pytest.raises(MemoryError):
            driver.process_timers()
        loop.call_later = real  # type: ignore[method-assign]
        driver.process_timers()
        assert len(mesh.ticks) == 2 and driver._timer is not None
        driver.close()

    asyncio.run(body())


def test_a_closed_driver_does_nothing() -> None:
    """It has let go of the mesh."""
    async def body() -> None:
        mesh = FakeMesh(0.0, 0.0)
        driver = MeshTimer(asyncio.get_running_loop(), mesh, Clock())
        driver.close()
        driver.process_timers()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not mesh.ticks

    asyncio.run(body())


def test_an_error_in_a_timer_does_not_stop_later_ones() -> None:
    """What was due is due again after a second."""

    class Failing(FakeMesh):
        def tick(self, now: float) -> float | None:
            due = super().tick(now)
            if len(self.ticks) == 1:
                raise ZeroDivisionError
            return due

    async def body() -> None:
        loop = asyncio.get_running_loop()
        mesh = Failing()
        driver = MeshTimer(loop, mesh, Clock())
        with pytest.raises(ZeroDivisionError):
            driver.process_timers()
        timer = driver._timer
        assert timer is not None and timer.when() <= loop.time() + 1.0
        driver._fire()
        assert len(mesh.ticks) == 2
        timer.cancel()
        driver.close()

    asyncio.run(body())


@pytest.mark.parametrize("count", [0, 1, 2, 3, 40])
def test_results_come_in_the_order_of_the_jobs(count: int) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        threads = set()
        batches = []

        def check(job: int) -> bool:
            threads.add(threading.current_thread())
            return job % 3 == 0

        crypto = Crypto(loop, check, in_place=2, after_batch=lambda: batches.append(1))
        done: asyncio.Future[list[bool]] = loop.create_future()
        at_once = crypto.verify(range(count), done.set_result)
        assert (at_once is not None) == (count <= 2)
        if at_once is not None:
            done.set_result(at_once)
        async with asyncio.timeout(30):
            assert await done == [n % 3 == 0 for n in range(count)]
        assert crypto.checks == count
        assert (threading.main_thread() in threads) == (0 < count <= 2)
        assert len(batches) == (count > 2)
        crypto.close()

    asyncio.run(body())


def test_without_memory_for_a_thread_the_check_runs_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        refused = []

        def refuse(thread: threading.Thread) -> None:
            refused.append(thread)
            raise RuntimeError("can't start new thread")

        crypto = Crypto(loop, bool, in_place=2, slice_seconds=60.0)
        done: asyncio.Future[list[bool]] = loop.create_future()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(3):
                assert crypto.verify([1, 0, 1], done.set_result) == [True, False, True]
        assert len(refused) == 3
        assert crypto.verify([0, 0, 1], done.set_result) is None
        async with asyncio.timeout(30):
            assert await done == [False, False, True]
        crypto.close()

    asyncio.run(body())


@pytest.mark.parametrize("threads", [False, True])
def test_an_error_in_a_check_is_given_to_its_waiters(threads: bool) -> None:
    """And later checks are made: on a thread, and in place after the slice."""

    async def body() -> None:
        def check(job: int) -> bool:
            if job == 13:
                raise ZeroDivisionError
            return True

        crypto = Crypto(asyncio.get_running_loop(), check, in_place=0 if threads else 9, slice_seconds=60.0)
        crypto._spent = 60.0
        results: list[list[bool] | Exception] = []
        done = asyncio.Event()

        def keep(result: list[bool] | Exception) -> None:
            results.append(result)
            if len(results) == 2:
                done.set()

        assert crypto.verify([1, 13], keep) is None
        assert crypto.verify([2], keep) is None
        async with asyncio.timeout(30):
            await done.wait()
        assert sorted(map(type, results), key=str) == [ZeroDivisionError, list]
        crypto.close()

    asyncio.run(body())


class Steps:
    """A clock that advances by a millisecond on each read."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 0.001
        return self.now


def test_checks_in_place_yield_to_the_loop() -> None:
    """Each check takes a millisecond here: after five the loop runs, and no check is lost or repeated."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        batches = []
        crypto = Crypto(loop, bool, slice_seconds=0.005, clock=Steps(), after_batch=lambda: batches.append(1))
        results: list[list[bool]] = []
        at_once = [crypto.verify([number % 2], results.append) for number in range(20)]
        assert at_once[:5] == [[False], [True], [False], [True], [False]]
        assert at_once[5:] == [None] * 15
        turns = []
        while len(results) < 15:
            turns.append(len(results))
            await asyncio.sleep(0)
        assert turns == [0, 5, 10]
        assert results == [[bool(number % 2)] for number in range(5, 20)]
        assert len(batches) == 3
        assert crypto.statistics() == {"checks": 20, "deferred": 15}
        assert crypto.verify([1], results.append) is None
        crypto.close()
        await asyncio.sleep(0)
        assert len(results) == 15

    asyncio.run(body())


def test_closed_crypto_makes_no_callback() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        release = threading.Event()
        crypto = Crypto(loop, lambda _: release.wait(5), in_place=0, threads=1)
        results: list[list[bool]] = []
        crypto.verify([1, 2], results.append)
        crypto.verify([3], results.append)
        release.set()
        crypto.close()
        for _ in range(5):
            await asyncio.sleep(0)
        assert results == []

    asyncio.run(body())


def test_a_failing_receiver_does_not_delay_other_results() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        reported: list[dict[str, object]] = []
        loop.set_exception_handler(lambda _loop, context: reported.append(context))
        # The first check uses up the slice, so the others are deferred.
        crypto = Crypto(loop, lambda _job: True, slice_seconds=1e-9)
        assert crypto.verify([1], print) == [True]
        done: asyncio.Future[list[bool]] = loop.create_future()
        crypto.verify([2], lambda _results: 1 / 0)  # type: ignore[arg-type]
        crypto.verify([3], done.set_result)
        async with asyncio.timeout(30):
            assert await done == [True]
        assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]
        crypto.close()

    asyncio.run(body())


@pytest.mark.parametrize("how", ["deferred", "on a thread"])
def test_an_exception_of_a_check_is_delivered(how: str) -> None:
    """Nobody waits for results that never come, and the same check is not made again and again."""

    async def body() -> None:
        loop = asyncio.get_running_loop()
        calls: list[int] = []

        def check(job: int) -> bool:
            calls.append(job)
            if job == 2:
                raise ZeroDivisionError
            return True

        in_place = 0 if how == "on a thread" else 10
        crypto = Crypto(loop, check, in_place=10, slice_seconds=1e-9)  # type: ignore[arg-type]
        assert crypto.verify([1], print) == [True]  # type: ignore[list-item]
        crypto._in_place = in_place
        done: list[asyncio.Future[list[bool] | Exception]] = [loop.create_future() for _ in range(2)]
        assert crypto.verify([2], done[0].set_result) is None  # type: ignore[list-item]
        assert crypto.verify([3], done[1].set_result) is None  # type: ignore[list-item]
        async with asyncio.timeout(30):
            assert isinstance(await done[0], ZeroDivisionError)
            assert await done[1] == [True]
        assert sorted(calls) == [1, 2, 3]
        crypto.close()

    asyncio.run(body())


def test_results_of_a_thread_arrive_when_memory_was_short() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        schedule, failures = loop.call_soon_threadsafe, [MemoryError(), MemoryError()]

        def call_soon_threadsafe(*arguments: object) -> object:
            if failures:
                raise failures.pop()
            return schedule(*arguments)  # type: ignore[arg-type]

        loop.call_soon_threadsafe = call_soon_threadsafe  # type: ignore[method-assign, assignment]
        crypto = Crypto(loop, bool, in_place=0)
        done: asyncio.Future[list[bool]] = loop.create_future()
        assert crypto.verify([1, 0], done.set_result) is None  # type: ignore[list-item, arg-type]
        async with asyncio.timeout(30):
            assert await done == [True, False]
        assert not failures
        crypto.close()

    asyncio.run(body())
