"""The supervisor: what it and its workers say to each other, when it kills and restarts them, how it describes ends."""

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from corenet.limits import SERVE_KILL_DELAY, SERVE_RESTART_DELAY, SERVE_RESTART_RESET
from corenet.serving import Service, worker
from corenet.serving.sockets import Sockets
from corenet.serving.supervisor import Child, Supervisor
from corenet.serving.worker import ServiceConfig, describe_exit, receive


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Both ends; ours does not block, as in the supervisor."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("unread", [b"", worker.FORCE_STOP])
@pytest.mark.parametrize("side", [0, 1])
def test_the_end_of_a_channel(channel: tuple[socket.socket, socket.socket], side: int, unread: bytes) -> None:
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
def test_each_exit_can_be_described(status: int, text: str) -> None:
    # Python has no names for the real-time signals between the first and the last.
    assert describe_exit(status) == text


def test_further_signals_do_not_postpone_the_kill(channel: tuple[socket.socket, socket.socket]) -> None:
    app: Any = asyncio.Protocol
    supervisor = Supervisor(ServiceConfig(app, False, 600, 10, None, None, None), Sockets([[]], []))
    child = Child(0, supervisor.slots[0], channel[0], 0.0, stopping=True, kill_at=time.monotonic() + 600)
    supervisor.slots[0].children.append(child)
    supervisor.status = 0
    supervisor.on_stop(signal.SIGTERM)
    first = child.kill_at
    assert first <= time.monotonic() + SERVE_KILL_DELAY
    supervisor.on_stop(signal.SIGTERM)
    assert child.kill_at == first
    child.kill_at = 0.0
    supervisor.on_stop(signal.SIGTERM)
    assert child.kill_at == 0.0
    supervisor.wake.close()
    supervisor.waker.close()


def test_a_worker_that_ran_long_is_started_again_soon(
    channel: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It did not die of its start. The pause of one that died soon grows."""
    app: Any = asyncio.Protocol
    supervisor = Supervisor(ServiceConfig(app, False, 600, 10, None, None, None), Sockets([[]], []))
    supervisor.all_up = True
    now = 1000.0
    monkeypatch.setattr("corenet.serving.supervisor.time", SimpleNamespace(monotonic=lambda: now))
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


def test_readiness_that_the_supervisor_cannot_take_is_no_fault_of_the_application(
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
