"""Restarts of dead workers: separate counts, growing delays, no end; and failing forks."""

import errno
import os
import signal
from types import SimpleNamespace

import pytest

from resolver import limits
from resolver.daemon import supervisor
from resolver.daemon.supervisor import Restarts
from resolver.daemon.worker import Options

FIRST = limits.WORKER_RESTART_DELAY / 1000
LONGEST = limits.WORKER_RESTART_LONGEST / 1000


def test_workers_that_die_together_count_each_for_itself() -> None:
    restarts = Restarts()
    for number in range(8):
        restarts.started(number, 0.0)
    assert restarts.rest(1.0) is None
    assert [restarts.exited(number, 100.0) for number in range(8)] == [FIRST] * 8
    assert restarts.due(100.0) == []
    assert restarts.rest(100.0) == pytest.approx(FIRST)
    assert restarts.due(100.0 + FIRST) == list(range(8))
    for number in range(8):
        restarts.started(number, 100.0 + FIRST)
    assert (restarts.due(1e9), restarts.rest(0.0)) == ([], None)


def test_a_worker_that_keeps_dying_is_started_ever_later_and_for_ever() -> None:
    restarts = Restarts()
    now, delays = 0.0, []
    for _ in range(100):
        restarts.started(3, now)
        delays.append(restarts.exited(3, now + 0.1))
        now += 0.1 + delays[-1]
        assert restarts.due(now) == [3]
    assert delays[:4] == [FIRST, 2 * FIRST, 4 * FIRST, 8 * FIRST]
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST
    restarts.started(3, now)
    assert restarts.exited(3, now + limits.WORKER_RESTART_WINDOW) == FIRST, "it has lived"


def test_a_worker_that_cannot_be_started_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two deaths, then a fork that fails twice; the clock and the signals are ours."""
    now = [0.0]
    events = [signal.SIGCHLD]
    tried: list[float] = []

    def wait(_signals: object, rest: float | None = None) -> SimpleNamespace | None:
        if events:
            return SimpleNamespace(si_signo=events.pop(0))
        assert rest is not None
        now[0] += rest
        return SimpleNamespace(si_signo=signal.SIGTERM) if len(tried) == 4 else None

    class Supervised(supervisor._Supervisor):
        def __init__(self) -> None:
            self.restarts = Restarts()
            self.children = {11: 0, 12: 1}
            self.asked = self.answered = 0
            self.options = Options()

        def start(self, number: int) -> None:
            tried.append(now[0])
            if len(tried) in (1, 3):
                raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
            self.children[20 + len(tried)] = number
            self.restarts.started(number, now[0])
            if len(tried) == 4:
                events.append(signal.SIGTERM)

    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(signal, "sigtimedwait", wait)
    monkeypatch.setattr(signal, "sigwaitinfo", wait)
    monkeypatch.setattr(os, "waitpid", lambda pid, _options: (pid, signal.SIGKILL))
    supervised = Supervised()
    assert supervised.watch() == 0
    assert sorted(supervised.children.values()) == [0, 1]
    assert tried == pytest.approx([FIRST, FIRST, 3 * FIRST, 7 * FIRST])


def test_the_supervisor_forgets_earlier_ticket_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is started gets a copy of what the supervisor has."""
    now, rotated = [0.0], []

    class Rotating:
        def rotate_ticket_keys(self, when: float) -> float:
            rotated.append(when)
            return 50.0

    class Supervised(supervisor._Supervisor):
        def __init__(self) -> None:
            self.restarts = Restarts()
            self.children = {}
            self.options = Options(certificates=Rotating())  # type: ignore[arg-type]

    def wait(_signals: object, rest: float) -> SimpleNamespace | None:
        assert rest == 50.0
        now[0] += rest
        return SimpleNamespace(si_signo=signal.SIGTERM) if now[0] > 120 else None

    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(signal, "sigtimedwait", wait)
    assert Supervised().watch() == 0
    assert rotated == [0.0, 50.0, 100.0]


def test_each_signal_has_a_name_or_a_number() -> None:
    """Python has no names for the real-time signals between the first and the last; a worker may die of them too."""
    assert supervisor.signal_name(signal.SIGKILL) == "SIGKILL"
    assert supervisor.signal_name(signal.SIGRTMIN + 6) == "40"
