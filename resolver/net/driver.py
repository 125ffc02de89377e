"""The hands of `Mesh` in a running process: one loop timer for all its deadlines, and threads for its signatures.

Rule: the mesh never sees the loop. It says when it wants to be looked at next, and `MeshTimer` keeps exactly one timer
for that; `Crypto` does few signature checks at once and many on threads, since a check costs a tenth of a millisecond
and a hand-over nearly as much; after some milliseconds of checks the loop gets its turn, so that they never hold up
other queries. Clock and random numbers are `ambient.Clock` and `ambient.Entropy`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from resolver import limits
from resolver.effects import SignatureJob
from resolver.net.clock_random import Clock

__all__ = ["Crypto", "MeshTimer", "Ticking"]


class Ticking(Protocol):
    """The part of `Mesh` that drives its timers."""

    def tick(self, now: float) -> float | None: ...


class MeshTimer:
    """Keeps one timer armed for the next deadline of `mesh`.

    Call `process_timers` after whatever may have changed that deadline: a query submitted, a batch of replies handled.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, mesh: Ticking, clock: Clock) -> None:
        self._loop = loop
        self._mesh = mesh
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")
        self._closed = False

    def process_timers(self) -> None:
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
        self.process_timers()


class Crypto:
    """Performs `Verify` effects: `check` is asked once for each job.

    Few jobs are done in place; more go to a small pool of threads. Checks in place may take `slice_seconds` altogether
    before the loop has its turn: those that come after that wait for it. `after_batch` is called after results that
    were not given at once.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        check: Callable[[SignatureJob], bool],
        *,
        threads: int = limits.CRYPTO_THREADS,
        in_place: int = limits.CRYPTO_IN_PLACE,
        slice_seconds: float = limits.CRYPTO_SLICE / 1000,
        clock: Clock | None = None,
        after_batch: Callable[[], object] | None = None,
    ) -> None:
        self._loop = loop
        self._check = check
        self._threads = threads
        self._in_place = in_place
        self._slice = slice_seconds
        self._monotonic = (clock or Clock()).monotonic
        self._spent = 0.0
        self._waiting: deque[tuple[Sequence[SignatureJob], Callable[[list[bool]], object]]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self.after_batch = after_batch
        self.checks = 0
        self.deferred = 0

    def verify(self, jobs: Sequence[SignatureJob], on_done: Callable[[list[bool]], object]) -> list[bool] | None:
        """Check every job of `jobs`: the results in their order, or None when `on_done` will be called with them."""
        self.checks += len(jobs)
        if len(jobs) > self._in_place and (future := self._begin(jobs)) is not None:
            future.add_done_callback(lambda done: self._hand_back(done, on_done))
            return None
        if self._spent < self._slice:
            return self._timed(jobs)
        self.deferred += len(jobs)
        if not self._waiting:
            self._loop.call_soon(self._go_on)
        self._waiting.append((jobs, on_done))
        return None

    def statistics(self) -> dict[str, int]:
        """Signature checks since the start, and how many of them waited for the loop's turn."""
        return {"checks": self.checks, "deferred": self.deferred}

    def close(self) -> None:
        """End the threads; checks under way are finished and forgotten."""
        self._closed = True
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _begin(self, jobs: Sequence[SignatureJob]) -> "Future[list[bool]] | None":
        """Hand `jobs` to a thread; None when there is none and no memory for its stack."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="resolver-crypto")
        try:
            return self._pool.submit(self._run, jobs)
        except RuntimeError:
            # "can't start new thread", after the work was queued: threads that it has finish what they were given.
            self._pool.shutdown(wait=False)
            self._pool = None
            return None

    def _run(self, jobs: Sequence[SignatureJob]) -> list[bool]:
        return [self._check(job) for job in jobs]

    def _timed(self, jobs: Sequence[SignatureJob]) -> list[bool]:
        """Check `jobs` here and now, at the cost of this slice."""
        began = self._monotonic()
        results = [self._check(job) for job in jobs]
        self._spent += self._monotonic() - began
        return results

    def _go_on(self) -> None:
        """The loop had its turn: the next slice."""
        if self._closed:
            return
        self._spent = 0.0
        waiting = self._waiting
        try:
            while waiting and self._spent < self._slice:
                jobs, on_done = waiting[0]
                results = self._timed(jobs)
                waiting.popleft()
                on_done(results)
        finally:
            # Also when one of them raises: nobody else would look at the others.
            if waiting:
                self._spent = self._slice
                self._loop.call_soon(self._go_on)
        if self.after_batch is not None:
            self.after_batch()

    def _hand_back(self, done: "Future[list[bool]]", on_done: Callable[[list[bool]], object]) -> None:
        """On the pool's thread: back to the loop."""
        if not self._closed and not done.cancelled():
            self._loop.call_soon_threadsafe(self._collect, done, on_done)

    def _collect(self, done: "Future[list[bool]]", on_done: Callable[[list[bool]], object]) -> None:
        if self._closed:
            return
        on_done(done.result())
        if self.after_batch is not None:
            self.after_batch()
