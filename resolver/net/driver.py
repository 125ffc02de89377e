"""The hands of `Mesh` in a running process: one loop timer for all its deadlines, and threads for its signatures.

Rule: the mesh never sees the loop. It says when it wants to be looked at next, and `MeshDriver` keeps exactly one timer
for that; `Crypto` does few signature checks at once and many on threads, since a check costs a tenth of a millisecond
and a hand-over nearly as much. Clock and random numbers are `ambient.Clock` and `ambient.Entropy`.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from resolver import limits
from resolver.net.ambient import Clock

__all__ = ["Crypto", "MeshDriver", "Ticking"]


class Ticking(Protocol):
    """The part of `Mesh` that drives its timers."""

    def tick(self, now: float) -> float | None: ...


class MeshDriver:
    """Keeps one timer armed for the next deadline of `mesh`.

    Call `poke` after whatever may have changed that deadline: a query submitted, a batch of replies handled.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, mesh: Ticking, clock: Clock) -> None:
        self._loop = loop
        self._mesh = mesh
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")
        self._closed = False

    def poke(self) -> None:
        """Let the mesh do what is due and arm the timer for what comes next."""
        now = self._clock.monotonic()
        deadline = self._mesh.tick(now)
        if deadline is None or self._closed:
            return
        # A timer that fires too early costs one look; moving it back after every reply would cost more.
        if deadline < self._due:
            if self._timer is not None:
                self._timer.cancel()
            self._due = deadline
            self._timer = self._loop.call_later(max(0.0, deadline - now), self._fire)

    def close(self) -> None:
        """Stop; the mesh is not looked at again."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._due = float("inf")
        self.poke()


class Crypto:
    """Performs `Verify` effects: `check` is asked once for each job.

    Few jobs are done in place, and `on_done` is then called from inside `verify`; more go to a small pool of threads.
    `on_done` gets ``list[bool]`` in the order of the jobs. `after_batch` is called after each callback from a thread.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        check: Callable[[Any], bool],
        *,
        threads: int = limits.CRYPTO_THREADS.default,
        in_place: int = limits.CRYPTO_IN_PLACE.default,
        after_batch: Callable[[], object] | None = None,
    ) -> None:
        self._loop = loop
        self._check = check
        self._threads = limits.CRYPTO_THREADS.check(threads, "threads")
        self._in_place = limits.CRYPTO_IN_PLACE.check(in_place, "in_place")
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self.after_batch = after_batch
        self.checks = 0

    def verify(self, jobs: Sequence[Any], on_done: Callable[[list[bool]], object]) -> None:
        """Check every job of `jobs`."""
        self.checks += len(jobs)
        if len(jobs) <= self._in_place:
            on_done(self._run(jobs))
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="resolver-crypto")
        future = self._pool.submit(self._run, jobs)
        future.add_done_callback(lambda done: self._hand_back(done, on_done))

    def close(self) -> None:
        """End the threads; checks under way are finished and forgotten."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _run(self, jobs: Sequence[Any]) -> list[bool]:
        return [self._check(job) for job in jobs]

    def _hand_back(self, done: "Future[list[bool]]", on_done: Callable[[list[bool]], object]) -> None:
        """On the pool's thread: back to the loop."""
        if not self._closed and not done.cancelled():
            self._loop.call_soon_threadsafe(self._collect, done, on_done)

    def _collect(self, done: "Future[list[bool]]", on_done: Callable[[list[bool]], object]) -> None:
        self._deliver(done.result(), on_done)

    def _deliver(self, results: list[bool], on_done: Callable[[list[bool]], object]) -> None:
        if self._closed:
            return
        on_done(results)
        if self.after_batch is not None:
            self.after_batch()
