"""The supervisor: its messages with the workers, when it kills and restarts them, how it describes their ends."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support.waiting import turns

from corenet.limits import (
    SERVE_DEATH_WINDOW,
    SERVE_KILL_DELAY,
    SERVE_MAX_DEATHS,
    SERVE_RESTART_DELAY,
    SERVE_RESTART_DELAY_MAX,
    SERVE_RESTART_RESET,
)
from corenet.serving import Service, worker
from corenet.serving.processes import Child, Processes, WorkerSlot, describe_exit, receive
from corenet.serving.sockets import Sockets
from corenet.serving.supervisor import Supervisor
from corenet.serving.worker import ServiceConfig


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends; ours does not block, as in the supervisor."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("unread", [b"", worker.FORCE_STOP])
@pytest.mark.parametrize("side", [0, 1])
def test_the_end_of_a_channel_is_detected(
    channel: tuple[socket.socket, socket.socket], side: int, unread: bytes
) -> None:
    """Whatever was sent arrives first. With something unread, Linux reports the end as ECONNRESET."""
    ours, theirs = channel if side == 0 else channel[::-1]
    assert receive(ours) is None
    ours.send(unread)
    theirs.send(worker.READY)
    theirs.close()
    assert receive(ours) == worker.READY
    assert receive(ours) == b""


@pytest.mark.parametrize(
    ("status", "text"),
    [(0, "status 0"), (3, "status 3"), (-signal.SIGKILL, "signal SIGKILL"), (-(signal.SIGRTMIN + 6), "signal 40")],
)
def test_each_exit_status_is_described(status: int, text: str) -> None:
    # Python has no names for the real-time signals between the first and the last.
    assert describe_exit(status) == text


def test_further_signals_do_not_postpone_the_kill(channel: tuple[socket.socket, socket.socket]) -> None:
    app: Any = asyncio.Protocol
    supervisor = Supervisor(ServiceConfig(app, False, 600, 10, None, None, None), Sockets([[]], []))
    child = Child(0, supervisor.slots[0], channel[0], 0.0, stopping=True, kill_at=time.monotonic() + 600)
    supervisor.slots[0].children.append(child)
    supervisor.status = 0
    supervisor.on_signal(signal.SIGTERM)
    first = child.kill_at
    assert first <= time.monotonic() + SERVE_KILL_DELAY
    supervisor.on_signal(signal.SIGTERM)
    assert child.kill_at == first
    child.kill_at = 0.0
    supervisor.on_signal(signal.SIGTERM)
    assert child.kill_at == 0.0
    supervisor.wake.close()
    supervisor.waker.close()


def test_a_worker_that_ran_long_is_restarted_soon(
    channel: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its start did not fail. The delay grows only for workers that die soon."""
    app: Any = asyncio.Protocol
    supervisor = Supervisor(ServiceConfig(app, False, 600, 10, None, None, None), Sockets([[]], []))
    supervisor.all_up = True
    now = 1000.0
    monkeypatch.setattr("corenet.serving.processes.time", SimpleNamespace(monotonic=lambda: now))
    [slot] = supervisor.slots
    pauses = []
    for lived in (0, 0, SERVE_RESTART_RESET, 0):
        supervisor.on_death(Child(0, slot, channel[0], now - lived, ready=True), 1)
        assert slot.start_at is not None
        pauses.append(round(slot.start_at - now, 1))
    first = SERVE_RESTART_DELAY / 1000
    assert pauses == [first, 2 * first, first, 2 * first]
    supervisor.wake.close()
    supervisor.waker.close()


@pytest.mark.parametrize(("window", "status"), [
    (SERVE_DEATH_WINDOW - 1, worker.STATUS_FAILED), (SERVE_DEATH_WINDOW + 1, None),
], ids=["within the window", "over a longer time"])
def test_the_service_ends_when_workers_die_too_often(
    channel: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch, window: float, status: int | None
) -> None:
    app: Any = asyncio.Protocol
    supervisor = Supervisor(ServiceConfig(app, False, 600, 10, None, None, None), Sockets([[]], []))
    supervisor.all_up = True
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr("corenet.serving.processes.time", clock)
    monkeypatch.setattr("corenet.serving.supervisor.time", clock)
    [slot] = supervisor.slots
    for _ in range(SERVE_MAX_DEATHS + 1):
        assert supervisor.status is None
        supervisor.on_death(Child(0, slot, channel[0], now, ready=True), 1)
        now += window / SERVE_MAX_DEATHS
    assert supervisor.status == status
    supervisor.wake.close()
    supervisor.waker.close()


@pytest.mark.parametrize("second", ["stop", "_force_stop"])
def test_a_second_signal_ends_the_grace_of_a_worker(second: str) -> None:
    """A worker without a supervisor gets no FORCE_STOP: its own signals do it."""
    async def main() -> None:
        app: Any = asyncio.Protocol
        one = worker.Worker(ServiceConfig(app, False, 600, 10, None, None, None), 0, [], lambda: None)
        one.stop()
        grace = asyncio.ensure_future(one._within_grace(asyncio.Event().wait()))
        await turns()
        assert not grace.done()
        getattr(one, second)()
        await turns()
        assert grace.done()
        await grace

    asyncio.run(main())


def test_a_worker_inherits_only_its_own_and_shared_sockets(
    channel: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Any = asyncio.Protocol
    shared, first, second = socket.socket(), socket.socket(), socket.socket()
    supervisor = Supervisor(
        ServiceConfig(app, False, 600, 10, None, None, None), Sockets([[shared, first], [shared, second]], [])
    )
    monkeypatch.setattr("corenet.serving.supervisor.run_worker", lambda plan, number, mine, theirs: len(mine))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        assert supervisor.work(1, channel[1]) == 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert first.fileno() == -1
    assert shared.fileno() >= 0 and second.fileno() >= 0
    for sock in (shared, second, supervisor.wake, supervisor.waker):
        sock.close()


def test_readiness_after_the_end_of_the_supervisor_is_no_application_error(
    channel: tuple[socket.socket, socket.socket],
) -> None:
    """It has exited: the worker stops in order, with its connections."""
    ours, theirs = channel
    ended = []

    class App:
        async def start(self, worker: Any) -> None:
            ours.close()
            worker.ready()

        async def stop(self) -> None:
            ended.append(True)

    app: Service = App()
    plan = ServiceConfig(app, False, 5, 10, None, None, None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert worker.run_worker(plan, 0, [], theirs) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended


# --- the processes of any supervisor ----------------------------------------------------------------------------------

FIRST = SERVE_RESTART_DELAY / 1000
LONGEST = SERVE_RESTART_DELAY_MAX / 1000
START = 60.0


class Simulated(Processes):
    """Simulated workers with numbers as pids, under a clock of the test. `refused` is how many of the next forks
    fail; while `hangs` is set, workers do not become ready. `killed` are the pids that were killed."""

    def __init__(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(count, (), START, 1.0, logging.getLogger("test.processes"))
        self.now = 0.0
        self.refused = 0
        self.hangs = False
        self.starts: list[tuple[int, float]] = []
        self.killed: list[int] = []
        monkeypatch.setattr("corenet.serving.processes.time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(
            "corenet.serving.processes.os", SimpleNamespace(kill=lambda pid, number: self.killed.append(pid))
        )
        for slot in self.slots:
            self.start(slot)

    def start(self, slot: WorkerSlot) -> None:
        super().start(slot)
        for child in slot.children if not self.hangs else ():
            child.ready, child.kill_at = True, 0.0

    def fork(self, slot: WorkerSlot) -> tuple[int, socket.socket]:
        self.starts.append((slot.number, self.now))
        if self.refused:
            self.refused -= 1
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
        return len(self.starts), socket.socket()

    def dies(self, number: int) -> None:
        """Worker `number` ends."""
        child = self.slots[number].children.pop()
        self.poll.unregister(child.channel)
        child.channel.close()
        self.on_death(child, 1)

    def next_start(self) -> float:
        """Advance the clock to the next deadline, handle it, and return the seconds that have passed."""
        timeout = self.poll_timeout()
        assert timeout is not None
        before, self.now = self.now, self.now + timeout / 1000
        self.on_time(self.now)
        return self.now - before

    def close(self) -> None:
        """Close every descriptor."""
        for end in (self.wake, self.waker, *(child.channel for child in self.children())):
            end.close()


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Simulated]]:
    """Makes simulated processes."""
    with contextlib.ExitStack() as stack:
        yield lambda count: stack.enter_context(contextlib.closing(Simulated(count, monkeypatch)))


def test_workers_that_die_together_are_counted_separately(simulated: Callable[[int], Simulated]) -> None:
    processes = simulated(8)
    assert processes.poll_timeout() is None
    for number in range(8):
        processes.dies(number)
    assert processes.next_start() == pytest.approx(FIRST, abs=0.01)
    assert [number for number, _ in processes.starts[8:]] == list(range(8))
    assert processes.poll_timeout() is None


def test_a_worker_that_keeps_dying_is_restarted_with_growing_delay(
    simulated: Callable[[int], Simulated]
) -> None:
    processes = simulated(1)
    delays = []
    for _ in range(100):
        processes.dies(0)
        delays.append(processes.next_start())
    assert delays[:4] == pytest.approx([FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST], abs=0.01)
    assert delays[-1] == pytest.approx(LONGEST, abs=0.01)
    processes.now += SERVE_RESTART_RESET
    processes.dies(0)
    assert processes.next_start() == pytest.approx(FIRST, abs=0.01), "it ran long enough"


def test_a_failed_start_of_a_worker_is_repeated(simulated: Callable[[int], Simulated]) -> None:
    processes = simulated(2)
    processes.dies(1)
    processes.refused = 2
    delays = [processes.next_start() for _ in range(3)]
    assert delays == pytest.approx([FIRST, 2 * FIRST, 4 * FIRST], abs=0.01)
    assert [number for number, _ in processes.starts[2:]] == [1, 1, 1]
    assert [len(slot.children) for slot in processes.slots] == [1, 1]


def test_a_worker_that_does_not_become_ready_is_killed_and_restarted_with_growing_delay(
    simulated: Callable[[int], Simulated], caplog: pytest.LogCaptureFixture
) -> None:
    """It has run for longer than SERVE_RESTART_RESET, but its start has failed."""
    assert START > SERVE_RESTART_RESET
    processes = simulated(2)
    processes.hangs = True
    processes.dies(1)
    delays = [processes.next_start()]
    for attempt in range(3):
        assert processes.next_start() == pytest.approx(START, abs=0.01)
        assert processes.killed == [3, 4, 5][:attempt + 1]
        assert processes.poll_timeout() is None, "once"
        processes.dies(1)
        delays.append(processes.next_start())
    assert delays == pytest.approx([FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST], abs=0.01)
    assert "worker 1: is not ready 60 s after its start; killing process 3" in caplog.text


def test_signals_are_handled_before_messages(simulated: Callable[[int], Simulated]) -> None:
    """A message that has come after a signal must not have its effect before it."""
    processes = simulated(0)
    done: list[str] = []
    processes.wake.setblocking(False)
    processes.signals.add(signal.SIGTERM)
    processes.poll.register(processes.wake)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        processes.poll.register(ours)
        processes.on_readable = lambda ready: done.append("message")  # type: ignore[method-assign]
        processes.on_signal = lambda number: done.append(number.name)  # type: ignore[method-assign]
        processes.reap = lambda: None  # type: ignore[method-assign]
        theirs.send(b"x")
        processes.waker.send(bytes([signal.SIGTERM]))
        processes.poll_once()
    assert done == ["SIGTERM", "message"]
