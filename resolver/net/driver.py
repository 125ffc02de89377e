"""Connects `Mesh` to a running loop: one timer for all its deadlines, and the signature checks of `Verify` effects.

The mesh does not use the loop itself. `Mesh.tick` returns its next deadline, and `MeshTimer` keeps one timer for it.
`Crypto` performs a few signature checks in place and many on threads, because a check takes a tenth of a millisecond
and passing it to a thread takes nearly as long. After `CRYPTO_SLICE` of checks in place the loop runs other callbacks,
so that checks do not delay other queries.

Each caller is called back: a check that raises gives its exception to the callback of its jobs, and a `tick` that
raises is repeated after `MESH_RETRY`, because what was due is still due. Only `close` drops callbacks.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from corenet.loop.threads import call_in_loop
from resolver import limits
from resolver.effects import SignatureJob
from resolver.net.clock_random import Clock

__all__ = ["Crypto", "MeshTimer", "Ticking"]

OnDone = Callable[[list[bool] | Exception], object]


class Ticking(Protocol):
    """The part of `Mesh` that drives its timers."""

    def next_timer(self) -> float: ...

    def tick(self, now: float) -> float | None: ...


class _Ended:
    """In place of a mesh whose timer is closed: nothing is ever due."""

    def next_timer(self) -> float:
        return math.inf

    def tick(self, now: float) -> float | None:
        return None


class MeshTimer:
    """Keeps one timer armed for the next deadline of `mesh`.

    Call `process_timers` after everything that may change that deadline: a submitted query, a batch of replies.
    """

    __slots__ = ("_clock", "_closed", "_due", "_loop", "_mesh", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, mesh: Ticking, clock: Clock) -> None:
        self._loop = loop
        self._mesh = mesh
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")
        self._closed = False

    def process_timers(self) -> None:
        """Let the mesh process what is due, and arm the timer for its next deadline.

        It does nothing when the armed timer fires no later than that deadline, which is so for nearly all queries.
        """
        if self._mesh.next_timer() >= self._due:
            return
        now = self._clock.monotonic()
        try:
            deadline = self._mesh.tick(now)
        except BaseException:
            self._arm(now, now + limits.MESH_RETRY / 1000)
            raise
        if deadline is not None:
            self._arm(now, deadline)

    def _arm(self, now: float, deadline: float) -> None:
        if self._closed:
            return
        # A timer that fires too early costs one `tick`. Postponing it after every reply would cost more.
        if deadline < self._due:
            timer = self._loop.call_later(max(0.0, deadline - now), self._fire)
            if self._timer is not None:
                self._timer.cancel()
            # Last: when there is no memory for a timer, the next call arms it.
            self._timer, self._due = timer, deadline

    def close(self) -> None:
        """Stop the timer, and let go of the mesh. What the mesh uses calls `process_timers`, so it would be a cycle."""
        self._closed = True
        self._mesh = _Ended()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._due = float("inf")
        self.process_timers()


class Crypto:
    """Performs `Verify` effects: `check` is called once for each job.

    Up to `in_place` jobs are checked in place, more by a pool of `threads` threads. Checks in place may take
    `slice_seconds` in total; later ones wait until the loop has run other callbacks. `after_batch` is called after
    results that `verify` did not return itself.
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
        self._waiting: deque[tuple[Sequence[SignatureJob], OnDone]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        self._closed = False
        self.after_batch = after_batch
        self.checks = 0
        self.deferred = 0

    def verify(self, jobs: Sequence[SignatureJob], on_done: OnDone) -> list[bool] | None:
        """Check all `jobs`. Returns the results in order, or None when `on_done` will be called with them, or with the
        exception that a check raised.

        Raises:
            Exception: of a check that was made in place; then `on_done` is not called.
        """
        self.checks += len(jobs)
        if len(jobs) > self._in_place and (future := self._submit(jobs)) is not None:
            future.add_done_callback(lambda done: self._schedule_collect(done, on_done))
            return None
        if self._spent < self._slice:
            return self._check_in_place(jobs)
        self.deferred += len(jobs)
        if not self._waiting:
            self._loop.call_soon(self._next_slice)
        self._waiting.append((jobs, on_done))
        return None

    def statistics(self) -> dict[str, int]:
        """Signature checks since the start, and how many of them were deferred to a later iteration of the loop."""
        return {"checks": self.checks, "deferred": self.deferred}

    def close(self) -> None:
        """Wait for the threads to end. Running checks finish without a callback; waiting ones are dropped."""
        self._closed = True
        self._waiting.clear()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _submit(self, jobs: Sequence[SignatureJob]) -> "Future[list[bool]] | None":
        """Submit `jobs` to the pool; None when a thread cannot be started."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="resolver-crypto")
        try:
            return self._pool.submit(self._run, jobs)
        except RuntimeError:
            # "can't start new thread", raised after the work was queued. The pool's existing threads finish their work.
            self._pool.shutdown(wait=False)
            self._pool = None
            return None

    def _run(self, jobs: Sequence[SignatureJob]) -> list[bool]:
        return [self._check(job) for job in jobs]

    def _check_in_place(self, jobs: Sequence[SignatureJob]) -> list[bool]:
        """Check `jobs` now, and add the time to the current slice."""
        began = self._monotonic()
        results = [self._check(job) for job in jobs]
        self._spent += self._monotonic() - began
        return results

    def _next_slice(self) -> None:
        """Check deferred jobs for one slice, after the loop has run other callbacks."""
        if self._closed:
            return
        self._spent = 0.0
        waiting = self._waiting
        try:
            while waiting and self._spent < self._slice:
                jobs, on_done = waiting.popleft()
                results: list[bool] | Exception
                try:
                    results = self._check_in_place(jobs)
                except Exception as error:  # noqa: BLE001 - it belongs to these jobs, whose owner handles it
                    results = error
                on_done(results)
        finally:
            # Also when `on_done` raises: otherwise the remaining jobs would wait for ever.
            if waiting:
                self._spent = self._slice
                self._loop.call_soon(self._next_slice)
        if self.after_batch is not None:
            self.after_batch()

    def _schedule_collect(self, done: "Future[list[bool]]", on_done: OnDone) -> None:
        """Runs on a thread of the pool: schedule `_collect` on the loop, also when memory is short."""
        if not self._closed and not done.cancelled():
            call_in_loop(self._loop, self._collect, done, on_done)

    def _collect(self, done: "Future[list[bool]]", on_done: OnDone) -> None:
        if self._closed:
            return
        error = done.exception()
        if error is not None and not isinstance(error, Exception):
            raise error
        on_done(done.result() if error is None else error)
        if self.after_batch is not None:
            self.after_batch()
