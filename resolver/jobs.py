"""The jobs in progress: what each waits for, which new queries may join, and their deadlines. Sans-IO, no clock.

A job is one query that is being resolved: its generator, the client requests and the parent jobs that wait for it, and
the one thing it waits for (`Job.waits_for`). `JobTable` has the tables of all jobs; `Mesh` (`resolver/mesh.py`) runs
them.

Invariants, which `tests/support/mesh_invariants.py` checks after each step of the simulated worlds:

* `_unfinished` owns the jobs: each job is in it from `_register` to `_unregister`. `_jobs`, `_slots`, `_ready` and the
  timers are indexes. `_ready` and the timers may still have finished jobs, which are skipped.
* Each unfinished job waits for exactly one thing: to be resumed from `_ready` (which has it once), the reply to an
  upstream query, a child job, signature checks, or a timer. It waits for nothing only while the mesh works on it.
* Each unfinished job is in `_slots` until its deadline has passed. Then it is resumed, so a job whose wake-up was lost
  for lack of memory ends at its deadline. Signature checks in progress are not interrupted.
* Each unfinished job is counted: one job slot of its client query (`query_quota`), and its octets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, MutableSequence
from enum import Enum
from heapq import heappop, heappush
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits
from resolver.effects import Key, Need, Outcome, Steps, Task, TraceStep
from resolver.query import PROGRAM, Query
from resolver.query_quota import NetworkUsage, QueryQuota, QueryUsage

if TYPE_CHECKING:
    from resolver.cache.second_level import SharedReply

__all__ = ["Handle", "Job", "JobTable", "MeshRequest", "Wait"]

SLOT_SECONDS = limits.DEADLINE_SLOT / 1000
"""Deadlines are kept in slots of this width. A job ends when its slot is over, so at most this much late."""
FOREVER = float("inf")


class Wait(Enum):
    """What a job waits for; it has no meaning after the job has finished."""

    NOTHING = "nothing: the mesh works on it"
    READY = "being resumed: it is in `_ready`"
    REPLY = "the reply to its upstream query or from the second-level cache, `handle`"
    CHILD = "another job, `child`, which has this one in `parents`; `need` is the effect"
    CHECKS = "signature checks"
    TIMER = "a timer: it is in `_timers`"


# Module names save an attribute look-up in code that runs for each effect.
NOTHING, READY, REPLY, CHILD, CHECKS, TIMER = Wait


class Handle(Protocol):
    """An operation in progress that can be cancelled."""

    def cancel(self) -> object: ...


class MeshRequest:
    """One submitted question. `done` is True once its callback was called or it was cancelled; the callback is due at
    `deadline`, in seconds of the monotonic clock.

    `subnet` is that of its query, None after it has started again too often (`restarts`) because the answers that it
    waited for were for other subnets. `_follows`: it has an answer, and waits for the target of the alias in it."""

    __slots__ = ("_cd", "_follows", "_job", "_on_done", "_query", "_trace", "deadline", "done", "restarts", "subnet")

    def __init__(self, on_done: Callable[[Outcome], None], query: Query = PROGRAM, deadline: float = 0.0) -> None:
        self.deadline = deadline
        self._on_done = on_done
        self._query = query
        self.subnet = query.subnet
        self.restarts = 0
        self._trace: MutableSequence[TraceStep] | None = None
        self._job: Job | None = None
        self._cd = False
        self._follows = False
        self.done = False


class Job:
    """A question that is being resolved: its generator, what waits for it, and the one thing it waits for.

    `requests` are the waiting client requests and `parents` the waiting jobs. `payer` is the request whose budget this
    job and its sub-queries spend; None for a sub-query. `usage` counts it for its client query. `stale` is the expired
    outcome that its clients got because it takes too long (RFC 8767). `serial` is that of the cache when the job began,
    and `slot` the number of the slot of its deadline.
    """

    __slots__ = (
        "child", "finished", "handle", "key", "need", "parents", "payer", "requests", "serial", "slot", "stale",
        "steps", "table", "task", "usage", "waits_for",
    )

    def __init__(self, table: JobTable, key: Key, task: Task, steps: Steps[Outcome]) -> None:
        self.table = table
        self.key = key
        self.task = task
        self.steps = steps
        self.usage: QueryUsage
        self.requests: list[MeshRequest] = []
        self.parents: list[Job] = []
        self.child: Job | None = None
        self.need: Need | None = None
        self.handle: Handle | None = None
        self.stale: Outcome | None = None
        self.payer: MeshRequest | None = None
        self.waits_for = NOTHING
        self.finished = False
        self.serial = 0
        self.slot = 0

    def on_fetched(self, result: SharedReply | None) -> None:
        """Called with the result of a `Fetch`; None: the second-level cache has none."""
        self.table.on_fetched(self, result)

    def on_verified(self, results: list[bool] | Exception) -> None:
        """Called with the results of a `Verify`, or with the exception of a check, which is a fault, no verdict."""
        self.table.on_verified(self, results)


class JobTable:
    """The tables of the jobs in progress. `Mesh` adds what happens to them."""

    __slots__ = (
        "_jobs", "_octets", "_order", "_quota", "_ready", "_serial", "_slot_heap", "_slots", "_timers", "_unfinished",
    )

    def __init__(self, capacity: int, serial: Any) -> None:
        self._quota = QueryQuota(capacity)
        self._octets = 0
        self._serial = serial
        """The serial of the cache, which changes when the cache is flushed."""
        # Dictionaries as ordered sets. A `set` whose growth failed for lack of memory is full, and its next search
        # never ends.
        self._unfinished: dict[Job, None] = {}
        self._jobs: dict[Key, Job] = {}
        self._ready: deque[tuple[Job, Any]] = deque()
        self._timers: list[tuple[float, int, Job]] = []
        self._order = count()
        self._slots: dict[int, dict[Job, None]] = {}
        self._slot_heap: list[int] = []

    def on_fetched(self, job: Job, result: SharedReply | None) -> None:
        """The look-up of `job` in the second-level cache has ended."""
        raise NotImplementedError

    def on_verified(self, job: Job, results: list[bool] | Exception) -> None:
        """The signature checks of `job` have ended."""
        raise NotImplementedError

    # --- in progress ---------------------------------------------------------------------------------------------

    def _register(self, job: Job, usage: QueryUsage, request: MeshRequest | None, parent: Job | None) -> None:
        """Add `job`, which is started for the client `request` or for the job `parent`, and queue it."""
        slot = int(job.task.budget.deadline / SLOT_SECONDS)
        members = self._slots.get(slot)
        if members is None:
            heappush(self._slot_heap, slot)
            members = self._slots[slot] = {}
        job.slot = slot
        job.usage = usage
        try:
            self._quota.take(usage, job)
            self._unfinished[job] = None
            members[job] = None
            if request is not None:
                job.requests.append(request)
            if parent is not None:
                job.parents.append(parent)
            self._queue(job, None)
            known = self._jobs.get(job.key)
            if known is None or known.serial != job.serial:
                self._jobs[job.key] = job
        except BaseException:
            self._unregister(job)  # each step may raise MemoryError, and a job that does not run must hold no slot
            raise

    def _unregister(self, job: Job) -> None:
        """Mark `job` as finished and remove it from all tables: it cannot be joined any more and has no deadline."""
        if job.finished:
            return
        job.finished = True
        self._unfinished.pop(job, None)
        self._quota.give_back(job.usage, job)
        task = job.task
        budget = task.budget
        if job.usage.jobs:
            budget.octets -= task.octets
        else:
            # The client query has ended. Timers may still refer to its jobs; through them they must hold no memory.
            budget.octets = 0
            task.child_ns.clear()
            budget.failed.clear()
            budget.insecure.clear()
        task.octets = 0
        self._octets += budget.octets - budget.accounted_octets
        budget.accounted_octets = budget.octets
        if self._jobs.get(job.key) is job:
            del self._jobs[job.key]
        self._drop_deadline(job)

    def _joinable(self, key: Key) -> Job | None:
        """The job for `key`, which a new request may join, unless it may have read data that was flushed since."""
        job = self._jobs.get(key)
        return job if job is not None and job.serial == self._serial else None

    @staticmethod
    def _depends_on(waiter: Job, job: Job) -> bool:
        """Whether `waiter` waits for `job`, directly or through others; each waits for at most one other job."""
        step = waiter.child
        while step is not None:
            if step is job:
                return True
            step = step.child
        return False

    def _queue(self, job: Job, value: Any) -> None:
        """Append `job` to `_ready`, to be resumed with `value`."""
        self._ready.append((job, value))
        job.waits_for = READY

    def _queries_by_memory(self) -> list[list[Job]]:
        """The jobs of each client query, in descending order of the octets of the query times those of its network.

        By its own octets alone, a network with many queries of medium size would cause every larger query of other
        networks to end. By the octets of the network alone, an attacker with many networks would cause those of the
        busiest honest network to end.
        """
        queries: dict[QueryUsage, list[Job]] = {}
        networks: dict[NetworkUsage, int] = {}
        for job in self._unfinished:
            held = job.task.budget.accounted_octets
            if not held:
                continue
            usage = job.usage
            jobs = queries.get(usage)
            if jobs is None:
                jobs = queries[usage] = []
                networks[usage.share] = networks.get(usage.share, 0) + held
            jobs.append(job)
        heaviest = sorted(queries.items(), reverse=True,
                          key=lambda item: item[1][0].task.budget.accounted_octets * networks[item[0].share])
        return [jobs for _, jobs in heaviest]

    # --- deadlines and timers ------------------------------------------------------------------------------------

    def _wait(self, job: Job, when: float) -> None:
        """Let `job` wait until the monotonic time `when`."""
        heappush(self._timers, (when, next(self._order), job))
        job.waits_for = TIMER

    def _queue_due_timers(self, now: float) -> None:
        """Resume the jobs whose timer is due."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            job = heappop(timers)[2]
            if not job.finished and job.waits_for is TIMER:
                self._queue(job, None)

    def _past_deadline(self, now: float) -> Job | None:
        """A job whose deadline has passed; the caller calls `_drop_deadline` for it."""
        heap = self._slot_heap
        while heap and (heap[0] + 1) * SLOT_SECONDS <= now:
            for job in self._slots.get(heap[0], ()):
                return job
            self._slots.pop(heappop(heap), None)
        return None

    def _drop_deadline(self, job: Job) -> None:
        members = self._slots.get(job.slot)
        if members is not None:
            members.pop(job, None)

    def _first_timer(self) -> float:
        """A lower bound of what `_next_deadline` returns, which removes nothing; infinity without one."""
        heap, timers = self._slot_heap, self._timers
        due = (heap[0] + 1) * SLOT_SECONDS if heap else FOREVER
        return timers[0][0] if timers and timers[0][0] < due else due

    def _next_deadline(self) -> float | None:
        """The monotonic time of the next deadline or timer of an unfinished job; None without one."""
        heap, timers = self._slot_heap, self._timers
        while heap and not self._slots.get(heap[0]):
            self._slots.pop(heappop(heap), None)
        while timers and timers[0][2].finished:
            heappop(timers)
        due = (heap[0] + 1) * SLOT_SECONDS if heap else None
        return timers[0][0] if timers and (due is None or timers[0][0] < due) else due
