"""CPU time for handshakes: how much of a worker's time they may take, and which connections wait for theirs.

A TLS or QUIC handshake costs as much as some hundred cached answers, and costs its client less than us. So a flood of
handshakes must not take the time of other clients. `HandshakeBudget` has two credits in seconds, for handshakes and for
accepting connections. Each grows with time:

* by `HANDSHAKE_SHARE` percent of the time that the worker spends on other work. So a worker that is never idle spends
  little time on handshakes.
* by `HANDSHAKE_IDLE` times the time that its loop sleeps. So a worker with nothing else to do performs handshakes
  most of the time.

At most `HANDSHAKE_BURST` is saved up. What handshakes have cost is measured, by `corenet.tls` for TLS and by the
listener for QUIC. Those that have begun lately and may not be measured yet are counted with the average cost. To
accept, prepare and close a connection has the fixed cost `HANDSHAKE_ACCEPT_COST`.

A connection is added when its first flight (ClientHello) is complete, so the CPU time of its handshake is used when
this module starts it, and not when the client chooses. It is in one of these states: started, which this module no
longer tracks; waiting,
with its TCP transport paused, so nothing more is read; dropped. Waiting ones are started in turn by network, and within
a network in the order of arrival. At most `HANDSHAKES_WAITING` wait. When there is one more, the newest of the
network with the most is dropped. While no connection may be accepted, new ones wait in the kernel's accept queue.

Invariant: while a connection waits, a timer is set.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from corenet.loop import Loop
from corenet.tls import handshake_seconds
from resolver import limits

__all__ = ["HandshakeBudget", "HandshakeWorker"]

MICRO = 1e-6
SETTLES = 3
"""Iterations of the loop after which a handshake that has begun has taken its time: the task runs, TLS is started, and
the ClientHello is read."""


class HandshakeWorker(Protocol):
    """A connection that needs a handshake."""

    network: str | bytes

    def begin_handshake(self) -> None:
        """The handshake may begin."""

    def drop_handshake(self) -> None:
        """Too many connections wait: end this one."""


class HandshakeBudget:
    """The credits of one worker, and its connections that wait.

    The clocks are arguments for tests, each in seconds: `wall`; `slept`, for how long the loop has waited for events;
    and `measured`, what TLS handshakes have taken.
    """

    def __init__(
        self,
        *,
        wall: Callable[[], float] = time.monotonic,
        slept: Callable[[], float] | None = None,
        measured: Callable[[], float] = handshake_seconds,
    ) -> None:
        self._read_wall, self._read_slept, self._read_measured = wall, slept, measured
        self._wall, self._slept, self._measured = wall(), slept() if slept is not None else 0.0, measured()
        self._credit = self._accept_credit = limits.HANDSHAKE_BURST * MICRO
        self._charged = 0.0
        self._accepted = 0
        self._cost = limits.HANDSHAKE_COST * MICRO
        """The average cost of a handshake."""
        self._spent, self._handshakes = 0.0, 0
        self._begun = self._begun_before = 0
        """Handshakes begun in the last iterations of the loop, and before them; they may not be measured yet."""
        self._settling = 0
        self._networks: OrderedDict[str | bytes, OrderedDict[HandshakeWorker, None]] = OrderedDict()
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Connections that wait."""
        return self._count

    def enter(self, worker: HandshakeWorker) -> None:
        """Call `worker.begin_handshake` now or later, or `drop_handshake`; none of them after `remove`."""
        if not self._count:
            self._refresh()
            if self._available() > 0:
                self._begin(worker)
                return
        self._networks.setdefault(worker.network, OrderedDict())[worker] = None
        self._count += 1
        if self._timer is None:
            self._arm()
        if self._count > limits.HANDSHAKES_WAITING:
            largest: OrderedDict[HandshakeWorker, None] = max(self._networks.values(), key=len)
            victim = next(reversed(largest))
            self.remove(victim)
            victim.drop_handshake()

    def remove(self, worker: HandshakeWorker) -> None:
        """`worker` has ended. One that does not wait is ignored."""
        workers = self._networks.get(worker.network)
        if workers is None or worker not in workers:
            return
        del workers[worker]
        self._count -= 1
        if not workers:
            del self._networks[worker.network]

    def charge(self, seconds: float) -> None:
        """A handshake that `corenet.tls` does not measure has taken `seconds`."""
        self._charged += seconds

    def accepted(self) -> None:
        """A connection was accepted."""
        self._accepted += 1

    def acceptable(self) -> int:
        """How many connections may be accepted now; below 0: none for so many microseconds."""
        self._refresh()
        if self._accept_credit > 0:
            return max(int(self._accept_credit / (limits.HANDSHAKE_ACCEPT_COST * MICRO)), 1)
        return -int(self._wait(self._accept_credit) / MICRO)

    def _refresh(self) -> None:
        """Bring the credits up to date."""
        if self._read_slept is None:
            self._read_slept = _sleep_clock(asyncio.get_running_loop())
            self._slept = self._read_slept()
        wall, slept, measured = self._read_wall(), self._read_slept(), self._read_measured()
        spent = measured - self._measured + self._charged
        setup = self._accepted * limits.HANDSHAKE_ACCEPT_COST * MICRO
        idle = max(slept - self._slept, 0.0)
        gained = max(wall - self._wall - idle - spent - setup, 0.0) * limits.HANDSHAKE_SHARE / 100
        gained += idle * limits.HANDSHAKE_IDLE
        most = limits.HANDSHAKE_BURST * MICRO
        self._credit = min(self._credit + gained, most) - spent
        self._accept_credit = min(self._accept_credit + gained, most) - setup
        self._wall, self._slept, self._measured = wall, slept, measured
        self._charged, self._accepted = 0.0, 0
        self._spent += spent
        if self._handshakes >= limits.HANDSHAKE_AVERAGE and not self._begun:
            self._cost = min(max(self._spent / self._handshakes, limits.HANDSHAKE_COST * MICRO), most)
            self._spent, self._handshakes = 0.0, 0

    def _available(self) -> float:
        """The credit without the cost of handshakes that may not be measured yet."""
        return self._credit - (self._begun + self._begun_before) * self._cost

    def _begin(self, worker: HandshakeWorker) -> None:
        self._begun += 1
        self._handshakes += 1
        if not self._settling:
            self._settling = SETTLES
            asyncio.get_running_loop().call_soon(self._settle)
        worker.begin_handshake()

    def _settle(self) -> None:
        """An iteration of the loop later: after `SETTLES` of them what had begun has cost its time."""
        self._settling -= 1
        if not self._settling:
            self._begun, self._begun_before = 0, self._begun
            if not self._begun_before:
                return
            self._settling = SETTLES
        asyncio.get_running_loop().call_soon(self._settle)

    @staticmethod
    def _wait(credit: float) -> float:
        """Seconds after which `credit` is positive if the worker sleeps until then, within bounds."""
        wait = -credit / limits.HANDSHAKE_IDLE
        return min(max(wait, limits.HANDSHAKE_WAIT_MIN * MICRO), limits.HANDSHAKE_WAIT_MAX * MICRO)

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._wait(self._available()), self._turn)

    def _turn(self) -> None:
        """Begin as many handshakes of those that wait as the credit permits."""
        self._timer = None
        self._refresh()
        try:
            while self._count and self._available() > 0:
                network, workers = self._networks.popitem(last=False)
                worker, _ = workers.popitem(last=False)
                if workers:
                    self._networks[network] = workers
                self._count -= 1
                self._begin(worker)
        finally:
            if self._count:
                self._arm()


def _sleep_clock(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """A clock that runs while `loop` sleeps. On asyncio's loops it also runs while another process has the CPU."""
    if isinstance(loop, Loop):
        return lambda: loop.raw_statistics()["poll_seconds"]
    return lambda: time.monotonic() - time.thread_time()
