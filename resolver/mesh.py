"""The driver: it performs the effects that the generators of `resolve` yield. No coroutine, no clock.

`resolver/jobs.py` has the tables of the jobs in progress and their invariants. The invariants here are:

* A request is in `requests` of its job or in `_following`, is done, or is an argument of the call that answers it. Its
  callback is called once, unless the request is cancelled.
* After `close` no job exists, and none starts.

A callback may call any method of the mesh, including `tick` and `close`. So the current job or request may have ended
after each call that may run callbacks (`_deliver`, `_finish`, `_free_slot`), and the caller checks this.

Rules:

* Equal queries share one job (RebirthDay 2025 needs many outstanding copies of one query). A new request does not join
  a job that began before a flush, and the results of such a job are not cached. A query with a trace has its own job.
* Equal queries to a server share one packet, whatever jobs send them (`query_sharing`).
* Clients of different subnets share a job, too, as long as no answer is known to depend on the subnet, and the slots of
  `ClientSubnets.slot` after that. Those whom the answer is not for start again (`ClientSubnets.uncovered`). After a
  failure for one subnet all start again without a subnet (`_restart_without_subnet`).
* A `Need` that would wait for itself fails with CYCLE, when all that wait are jobs of the same client query. Of another
  one it gets a job of its own: whether a name can be resolved must not depend on what others ask at the same time.
* A sub-query spends the budget of the client query that needs it, and a job slot of that client's network
  (`query_quota`). When the budget of a client query runs out, the parents and clients of other client queries that
  joined its jobs start again with their own budgets (`_restart_for_clients`).
* A fault (an unexpected exception) ends one query, with SERVFAIL and a log record with traceback, never the worker.
* The octets that running jobs hold are counted when they are handed to the job, and summed here. Above `JOBS_OCTETS`
  the queries that hold most are ended (`_shed_load`).
* When a policy has answered one client with an alias (`Applied.follow`), its request is queued in `_following`, and
  `_drain` resolves the target for it, in what is left of its time. That ends no other query to get a slot, and is not
  done after a failure: else queries that were ended for lack of slots or memory would end each other.
* When a query that begins with little time (`Budget.shortened`), by `Query.deadline`, behind an alias, or again, runs
  out of its budget, that is not cached, and clients that joined it start again.

Effects are performed by callbacks, because a task for each query would cost more than all work of the mesh, and because
tests can then step through everything in virtual time. Time is read once for each call from outside.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Hashable, MutableSequence, Sequence
from copy import copy
from typing import TYPE_CHECKING, Any, Protocol, cast

from resolver import limits
from resolver.cache.scoped import NO_SUBNET
from resolver.effects import (
    CLIENT_PURPOSES,
    FOR_DNSSEC,
    FOR_PREFETCH,
    Ask,
    Budget,
    Context,
    Effect,
    FailedQuery,
    Failure,
    FailureKind,
    Fetch,
    Key,
    Need,
    Outcome,
    Pause,
    Purpose,
    Question,
    RandomSource,
    Reply,
    SecondLevel,
    SignatureJob,
    Task,
    TraceStep,
    Verify,
)
from resolver.iterate import DelegationCache, refuse_without_room
from resolver.jobs import CHECKS, CHILD, NOTHING, READY, REPLY, Job, JobTable, MeshRequest
from resolver.log_limit import LineLimit
from resolver.observe.histogram import UpstreamLatency
from resolver.partial_response import failure_outcome, join_alias
from resolver.policy import PolicyPipeline
from resolver.query import PROGRAM, Query
from resolver.query_quota import NetworkUsage, QueryUsage, past_jostle_time
from resolver.query_sharing import Exchange, QuerySharing, ReplyCopy, Result
from resolver.resolve import find_outcome, is_for_subnet, resolve
from resolver.stale_answers import find_stale
from resolver.verdict import Trust, Verdict
from resolver.view_contexts import ViewContexts
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset, octets_of

if TYPE_CHECKING:
    from resolver.cache import Store
    from resolver.cache.bounded import MemoryTable
    from resolver.cache.second_level import SharedReply
    from resolver.settings import Settings
    from resolver.zones import ZoneTable

__all__ = ["Clock", "Crypto", "Exchange", "Mesh"]

log = logging.getLogger(__name__)

DEPTH = limits.MAX_DEPTH
STEPS_PER_TURN = limits.STEPS_PER_TURN
COPY_STEP = limits.COPY_STEP
OCTETS = limits.JOBS_OCTETS
OCTETS_KEPT = limits.JOBS_OCTETS_KEPT
JOB_OVERHEAD = limits.JOB_OVERHEAD
FAILED_OVERHEAD = limits.FAILED_OVERHEAD
PREFETCH_JOBS = limits.PREFETCH_JOBS
PREFETCH_RATE = limits.PREFETCH_RATE
FULL_TIME = limits.FULL_TIME
FAULT_INTERVAL = limits.LOG_INTERVAL.default
UNVALIDATED = frozenset({Purpose.NS_ADDRESS, Purpose.PRIMING})
# Failures for which stale data is no substitute: faults of this program, cycles, and the end of the mesh.
NO_STALE_ANSWER = frozenset({FailureKind.CANCELLED, FailureKind.INTERNAL, FailureKind.CYCLE})
TOO_MANY = Failure(FailureKind.OVERLOAD, c.EDE_NOT_READY, "too many queries are being resolved")
MEMORY_LIMIT_EXCEEDED = Failure(FailureKind.OVERLOAD, c.EDE_NOT_READY, "the query held too much memory")
REPLACED = Failure(FailureKind.OVERLOAD, c.EDE_NOT_READY, "ended to free a job slot for a newer query")
OUT_OF_MEMORY = Failure(FailureKind.OVERLOAD, c.EDE_NOT_READY, "this resolver is short of memory")
SECOND_ALIAS = Failure(FailureKind.POLICY, c.EDE_OTHER, "a policy answers with an alias to a name with another one")
INTERNAL_FAULT = Failure(FailureKind.INTERNAL, c.EDE_OTHER, "internal fault")
CLOSING = Failure(FailureKind.CANCELLED, c.EDE_NOT_READY, "the resolver is closing")
BUDGET_EXHAUSTED = frozenset({FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.OVERLOAD})
# A job whose sub-query or signature checks had a fault is resumed with this value, and ends with INTERNAL_FAULT.
FAULT = Failure(FailureKind.INTERNAL, c.EDE_OTHER, "internal fault")


class Crypto(Protocol):
    """Performs a `Verify`: returns the results, or None when `on_done` gets them, later or before `verify` returns.
    `on_done` gets the exception when a check raised one."""

    def verify(
        self, jobs: Sequence[SignatureJob], on_done: Callable[[list[bool] | Exception], None], /
    ) -> list[bool] | None: ...


class Clock(Protocol):
    """Real time in whole seconds for the cache, monotonic time in seconds for timers."""

    def time(self) -> int: ...

    def monotonic(self) -> float: ...


class Mesh(JobTable):
    """Resolves questions: from the cache at once, else by jobs. One for each worker."""

    __slots__ = (
        "_clock", "_closed", "_context", "_contexts", "_counts", "_crypto", "_deadline", "_delegations", "_draining",
        "_fault_lines", "_following", "_is_short", "_needs_check", "_octets_limit", "_packets", "_parts",
        "_prefetched_in", "_prefetching", "_queries", "_rrsets", "_serve_stale", "_shedding", "_shortage_lines",
        "_stale_delay", "_stale_timers", "_stale_ttl", "_steps_left", "_table", "_views", "latency", "subnets",
        "validation",
    )

    def __init__(
        self,
        *,
        exchange: Exchange,
        crypto: Crypto | None,
        clock: Clock,
        rng: RandomSource,
        store: Store,
        settings: Settings,
        policy: PolicyPipeline | None = None,
        zones: ZoneTable | None = None,
        own_addresses: Sequence[str] = (),
        capacity: int = limits.JOBS,
    ) -> None:
        self._crypto = crypto
        self._clock = clock
        self._table = store.table
        self._rrsets = store.rrsets
        self._deadline = settings.iteration.query_timeout
        self._packets = settings.iteration.max_upstream_queries
        super().__init__(capacity, store.table.serial)
        self._octets_limit = OCTETS
        self._shedding = False
        views = ViewContexts(store, settings, rng, policy, zones, own_addresses)
        self._views = views
        # What `views` owns and never replaces, without the look-up of an attribute at each step of a job.
        self._contexts, self._context, self._parts = views.contexts, views.contexts[0], views.separate
        self._delegations = views.delegations
        self.validation = views.validation
        """The validator, whose trust anchors may be changed while the mesh runs; None without validation."""
        self.subnets = views.subnets
        """Client subnets, and the answers that depend on them; None where no subnet is ever sent."""
        self._queries = QuerySharing(exchange, self._delegations.fetches, clock.monotonic, self.on_results)
        self._closed = False
        self._draining = False
        self._following: deque[MeshRequest] = deque()
        self._steps_left = 0
        # RFC 8767: a client that waited for `_stale_delay` seconds gets stale data. All jobs have the same delay, so
        # the timers are a queue.
        cache = settings.cache
        self._serve_stale = cache.max_stale_ttl > 0
        self._stale_delay = cache.stale_answer_client_timeout
        self._stale_ttl = cache.stale_answer_ttl
        self._stale_timers: deque[tuple[float, Job]] = deque()
        self._prefetching = 0
        self._prefetched_in = (0, 0)
        self._counts = {"submitted": 0, "from_cache": 0, "joined": 0, "jobs": 0, "failures": 0,
                        "dependency_cycles": 0, "timed_out": 0, "refused": 0, "refused_sub_queries": 0, "evicted": 0,
                        "ended_for_memory": 0, "internal_errors": 0, "stale_answers": 0, "prefetches": 0,
                        "prefetch_refused": 0, "out_of_memory": 0}
        self.latency = UpstreamLatency()
        self._fault_lines = LineLimit(FAULT_INTERVAL)
        self._shortage_lines = LineLimit(1)
        self._needs_check: Callable[[], bool] = _always
        self._is_short: Callable[[], bool] = _never

    # --- from outside ---------------------------------------------------------------------------------------------

    def submit(
        self,
        question: Question,
        *,
        query: Query = PROGRAM,
        cd: bool = False,
        on_done: Callable[[Outcome], None],
        trace: MutableSequence[TraceStep] | None = None,
    ) -> MeshRequest:
        """Resolve `question`; `on_done` is called with the outcome, before this returns when the cache has it.

        `query` is who asks. Its view and subnet are a part of the question, its network is charged for the jobs, and
        its deadline, when it has one, may shorten that of the settings. If it has an alias, which must be made of the
        current policies, only the target of that is resolved, and the outcome has both. `cd` asks for data without
        validation (the CD bit). With `trace`, every step is appended to it, and the query does not join the job of
        another client query, so that the trace is complete. After `close` the outcome is a failure, unless it is
        cached. When an exception is raised, `on_done` is not called later.
        """
        self._update_time()
        self._counts["submitted"] += 1
        deadline = self._context.monotonic + self._deadline
        if query.deadline:
            deadline = min(deadline, query.deadline)
        request = MeshRequest(on_done, query, deadline)
        if query.subnet is not None:
            request.subnet = self._subnet_of(query)
        request._trace = trace
        request._cd = cd
        try:
            if query.alias is not None:
                query.alias.serial = self._serial
                self._follow(request)
            else:
                self._begin(request, question, cd, trace)
                if self._following:
                    self._drain()
        except BaseException:
            self.cancel(request)
            raise
        return request

    def _begin(
        self, request: MeshRequest, question: Question, cd: bool, trace: MutableSequence[TraceStep] | None
    ) -> None:
        """Answer `request` at once, let it wait for a job, or refuse it."""
        counts = self._counts
        view = request._query.view
        context: Context = self._contexts[view]
        subnet = request.subnet
        slot = None if context.subnets is None else context.subnets.slot(question.key, subnet)
        key = (question.key, int(cd), view, slot)
        job = self._joinable(key) if trace is None else None
        if job is not None and slot is None and job.task.purpose is not FOR_PREFETCH:
            self._join(job, request)
            return
        budget = Budget(self._packets, request.deadline)
        budget.subnet = subnet
        budget.shortened = request.deadline - self._context.monotonic < self._deadline * FULL_TIME / 100
        try:
            outcome = find_outcome(question, context, budget, cd=cd)
        except Exception as error:  # noqa: BLE001 - the caller relies on getting an outcome, and holds a slot until then
            self._fault(error, "looking up in the cache", question)
            outcome = failure_outcome(question, INTERNAL_FAULT)
        if budget.subnet is not subnet and context.subnets is not None:
            # The servers fail for this subnet (`find_scoped`).
            subnet = request.subnet = None
            slot = context.subnets.slot(question.key, None)
            key = (question.key, int(cd), view, slot)
        if not isinstance(outcome, bool):
            counts["from_cache"] += 1
            if outcome.failure is not None:
                outcome = self._stale_or_failure(question, outcome.failure, budget, context, cd=cd) or outcome
            if trace is not None:
                trace.append(TraceStep("cache", "answered from the cache or by policy", qname=question.qname,
                                       qtype=question.qtype, rcode=outcome.rcode,
                                       facts={"verdict": outcome.verdict, "sets": outcome.answer,
                                              "failure": outcome.failure}))
                if outcome.applied is not None:
                    trace.append(_policy_step(outcome))
            self._deliver(request, outcome, self._serial)
            return
        short = self._memory_is_short()
        task = Task(question, budget, cd=cd, trace=trace, cache_checked=not outcome)
        if not short and trace is None and not outcome and 0 < self._delegations.fetches.smallest <= self._quota.held:
            # Before a slot is freed for it: no other query is ended for one that fails.
            refused = self._refuse_without_room(task, context)
            if refused is not None:
                counts["failures"] += 1
                outcome = self._stale_or_failure(question, refused, budget, context, cd=cd) or failure_outcome(
                    question, refused)
                self._deliver(request, outcome, self._serial)
                return
        share = self._quota.share_of(request._query.network)
        if short or (
            not self._quota.has_free_slot(share) and (request._follows or not self._free_slot(share, None))
        ):
            if request.done:
                return
            counts["refused"] += 1
            failure = OUT_OF_MEMORY if short else TOO_MANY
            outcome = (self._stale_or_failure(question, failure, budget, context, cd=cd)
                       or failure_outcome(question, failure))
            self._deliver(request, outcome, self._serial)
            return
        # Callbacks of queries that `_free_slot` ended may have cancelled this request, closed the mesh, or ended or
        # started a job for this question.
        if request.done:
            return
        if self._closed:  # before this call, or now
            self._deliver(request, failure_outcome(question, CLOSING), self._serial)
            return
        job = self._joinable(key) if trace is None else None
        if job is not None:
            self._join(job, request)
            return
        usage = QueryUsage(share, self._context.monotonic)
        job = self._start(key, task, usage, self._serial, request, None)
        if request._query.alias is not None:
            self._count_alias(job, request)
        if self._serve_stale:
            self._start_stale_timer(job)
        self._drain()

    def _refuse_without_room(self, task: Task, context: Context) -> Failure | None:
        """The failure of `task` when its zone, or the servers of it, have their quota of what is outstanding.

        Not where the second-level cache may have the answer. After a fault the job is made, which has the same fault.
        """
        if context.reads_second_level:
            return None
        try:
            return refuse_without_room(task, context)
        except Exception as error:  # noqa: BLE001 - the caller relies on getting an outcome, and holds a slot until then
            self._fault(error, "looking up the quota of", task.question)
            return None

    def _subnet_of(self, query: Query) -> tuple[bytes, int] | None:
        """The subnet that servers may be told for `query`: none in views with DNS64, whose A records are the answer to
        a second query."""
        context: Context = self._contexts[query.view]
        return None if context.dns64 is not None else query.subnet

    def watch(self, on_query_end: Callable[[bytes, float, bool], object] | None) -> None:
        """Call `on_query_end` for each query to a server that has ended (`Context.on_query_end`); None: no more."""
        for context in self._contexts:
            context.on_query_end = on_query_end

    def zone_of(self, name: bytes, view: int = 0) -> bytes:
        """The zone of `name` (lower case) for clients of the view with this number, as far as it is known."""
        self._update_time()
        context: Context = self._contexts[view]
        return cast(DelegationCache, context.delegations).zone_of(name, self._context.now)

    def refresh(
        self, question: Question, *, query: Query = PROGRAM, cd: bool = False, on_done: Callable[[Outcome], None]
    ) -> bool:
        """Prefetch: resolve a question again whose answer is still cached. Returns whether a job was started.

        The program is charged for it; of `query` only view and subnet count.

        None is started when a job for the question exists, when a limit is reached (`PREFETCH_JOBS`, `PREFETCH_RATE`,
        job slots, memory), or after `close`; then `on_done` is not called.
        """
        self._update_time()
        subnets, subnet = self._contexts[query.view].subnets, self._subnet_of(query)
        slot = None if subnets is None else subnets.slot(question.key, subnet)
        key = (question.key, int(cd), query.view, slot)
        second = int(self._context.monotonic)
        count = self._prefetched_in[1] if self._prefetched_in[0] == second else 0
        if self._closed or key in self._jobs:
            return False
        own = self._quota.own
        short = self._memory_is_short()
        if short or self._prefetching >= PREFETCH_JOBS or count >= PREFETCH_RATE or not self._quota.has_free_slot(own):
            self._counts["prefetch_refused"] += 1
            return False
        self._prefetched_in = (second, count + 1)
        self._counts["prefetches"] += 1

        def done(outcome: Outcome) -> None:
            self._prefetching -= 1
            on_done(outcome)

        budget = Budget(self._packets, self._context.monotonic + self._deadline)
        budget.subnet = subnet
        task = Task(question, budget, cd=cd, purpose=FOR_PREFETCH)
        request = MeshRequest(done, query, budget.deadline)
        request.subnet, request._cd = subnet, cd
        self._start(key, task, QueryUsage(own, self._context.monotonic), self._serial, request, None)
        self._prefetching += 1  # last, because each step above may raise MemoryError, and nothing would undo this one
        self._drain()
        return True

    def peek(self, question: Question, *, query: Query = PROGRAM, cd: bool = False) -> Outcome | None:
        """The complete outcome from policy or cache, cached failures included; no query is sent.

        If there is none, a referral to the closest delegation in the cache (RFC 1034 section 4.3.2); None without one.
        """
        self._update_time()
        budget = Budget(0, 0.0)
        budget.subnet = self._subnet_of(query)
        context = self._contexts[query.view]
        outcome = find_outcome(question, context, budget, cd=cd)
        if isinstance(outcome, bool):
            return None if question.qclass != c.IN else self._referral(question, query)
        if outcome.failure is not None:
            outcome = self._stale_or_failure(question, outcome.failure, budget, context, cd=cd) or outcome
        responded = self._respond(outcome, query, None)
        follows = responded.applied is not None and responded.applied.follow
        return outcome if follows and outcome.failure is not None else responded  # as `_deliver`

    def _referral(self, question: Question, query: Query) -> Outcome | None:
        rrsets, now = self._contexts[query.view].store.rrsets, self._context.now
        found = rrsets.closest_cut(question.qname, now, for_ds=question.qtype == c.DS)
        if found is None:
            return None
        ns: RRset = found[1]
        outcome = Outcome(question, c.NOERROR, [], [ns], Verdict.INDETERMINATE, 0, from_cache=True)
        outcome.referral = True
        for target in ns.targets():
            for rtype in (c.A, c.AAAA):
                rrset = rrsets.find(target, rtype, now, min_trust=Trust.GLUE)
                if rrset is not None:
                    outcome.additional.append(rrset)
        return self._respond(outcome, query, None)

    def cancel(self, request: MeshRequest) -> None:
        """Cancel a request: its callback is not called, and its job ends when no other request or job waits for it."""
        if request.done:
            return
        request.done = True
        self._leave(request)

    def _leave(self, request: MeshRequest) -> None:
        """Detach `request` from its job, which ends when nothing else waits for it."""
        job, request._job = request._job, None
        if job is not None:
            job.requests.remove(request)
            if request._query.alias is not None and not job.finished:
                job.task.account_octets(-_octets_in(request._query.alias))
                self._count(job.task.budget)
            self._cancel_if_unused(job)

    def tick(self, now: float) -> float | None:
        """Process all timers due at `now`. Returns the time of the next call, None when no timer is left.

        Both times are in monotonic seconds. To be called at `next_timer`, which each call of the mesh may change.
        """
        self._update_time()
        self._context.monotonic = max(now, self._context.monotonic)
        if len(self._contexts) > 1:
            self._views.set_time(self._context.now, self._context.monotonic)
        self._queue_due_timers(now)
        while (job := self._past_deadline(now)) is not None:
            self._expire(job)
            self._drop_deadline(job)  # last: when `_expire` raises, the next call tries it again
        waiting = self._stale_timers
        while waiting and waiting[0][0] <= now:
            self._serve_stale_now(waiting.popleft()[1])
        self._drain()
        while waiting and waiting[0][1].finished:
            waiting.popleft()
        due = self._next_deadline()
        if waiting and (due is None or waiting[0][0] < due):
            due = waiting[0][0]
        if (self._ready or self._following) and not self._draining:
            return now  # `STEPS_PER_TURN` was reached with work left
        return due

    def next_timer(self) -> float:
        """The monotonic time in seconds before which `tick` has nothing to do; infinity without a timer.

        It may be earlier than the first timer that is still needed: `tick` removes those of ended jobs.
        """
        if (self._ready or self._following) and not self._draining:
            return 0.0
        due = self._first_timer()
        waiting = self._stale_timers
        while waiting and waiting[0][1].finished:  # they would hold the memory of jobs that have ended
            waiting.popleft()
        return waiting[0][0] if waiting and waiting[0][0] < due else due

    def set_shed_load(self, is_short: Callable[[], bool], needs_check: Callable[[], bool] | None = None) -> None:
        """Start no query and no sub-query while `is_short()` is true; answers from the cache are still given.

        `needs_check` tells cheaply whether `is_short` must be called at all; None: always.
        """
        self._is_short, self._needs_check = is_short, needs_check or _always

    def _memory_is_short(self) -> bool:
        return self._needs_check() and self._is_short()

    def set_second_level(self, second: SecondLevel) -> bool:
        """Share replies by the cache `second`. Returns whether they are also read from it (`ViewContexts`)."""
        return self._views.set_second_level(second)

    def shrink(self) -> None:
        """Empty the tables beside the cache (`memory_tables`).

        This costs time only: delegations and keys are built again from the cache, and servers are measured again.
        """
        for table in self.memory_tables():
            table.clear()

    def close(self) -> None:
        """End all jobs; each waiting client gets a failure. No job starts afterwards. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        for job in self._unfinished:
            if job.handle is not None:
                job.handle.cancel()
                job.handle = None
            job.child = None
            job.parents.clear()
            job.waits_for = NOTHING
        while self._unfinished:  # callbacks may cancel requests, which changes `_unfinished`
            self._finish(next(iter(self._unfinished)), CLOSING)
        while self._following:
            self._follow(self._following.popleft())  # it starts no job any more
        self._ready.clear()
        self._timers.clear()
        self._stale_timers.clear()
        # Both refer to this mesh: it would stay until a collection, and with it the tables of lists and policies.
        self._queries.close()
        self._is_short = self._needs_check = _never

    def forget(self, name: bytes | None = None, *, subtree: bool = False) -> None:
        """Drop delegations from the delegation cache: all, that of `name`, or also those below it. A flush of the cache
        drops all of them."""
        self._views.forget(name, subtree=subtree)

    def memory_tables(self) -> list[MemoryTable]:
        """The tables beside the cache's arena that remote parties can fill, with their limits in octets."""
        return self._views.memory_tables()

    def statistics(self) -> dict[str, int]:
        """Counters since the start, and current values: ``running`` jobs, ``networks`` charged for them,
        ``largest_network`` (most jobs of one network), ``memory_jobs`` (octets held by jobs), and ``memory`` (these
        octets and those of `memory_tables`)."""
        networks, largest = self._quota.statistics()
        held = self._octets + self._quota.held * JOB_OVERHEAD
        return {**self._counts, "upstream_queries": self._queries.sent, "running": self._quota.held,
                "networks": networks, "largest_network": largest, "memory_jobs": held,
                "memory": held + sum(table.octets for table in self.memory_tables())}

    def fetch_statistics(self) -> dict[str, int | dict[str, int]]:
        """Counters of the quotas of zones and servers (`FetchQuota`)."""
        return self._delegations.fetches.statistics()

    # --- jobs -----------------------------------------------------------------------------------------------------

    def _update_time(self) -> None:
        self._context.now = self._clock.time()
        self._context.monotonic = self._clock.monotonic()
        if len(self._contexts) > 1:
            self._views.set_time(self._context.now, self._context.monotonic)
        serial = self._table.serial
        if serial != self._serial:
            # Some process flushed part of the cache; the tables beside it may hold the same data.
            self._serial = serial
            self._views.forget_learned()

    def _start(
        self,
        key: Key,
        task: Task,
        usage: QueryUsage,
        serial: Any,
        request: MeshRequest | None,
        parent: Job | None,
    ) -> Job:
        """Start a job of the client query of `usage`, for the client `request` or as a sub-query of `parent`.

        `serial` is that of the cache when the query began. After a flush it differs from the current one: what the job
        learns is not cached, and no new request joins it.
        """
        job = Job(self, key, task, resolve(task, self._contexts[key[2]]))
        job.serial = serial
        self._counts["jobs"] += 1
        self._register(job, usage, request, parent)
        job.payer = request
        if request is not None:
            request._job = job
        return job

    def _drain(self) -> None:
        """Resume the jobs of `_ready` in order, each with its result, after the requests of `_following`.

        It is not recursive: jobs that become ready meanwhile are queued. After `STEPS_PER_TURN` steps the rest waits
        for the next `tick`, so that deadlines and other clients are served however much work one query has that needs
        no packet.
        """
        if self._draining:
            return
        self._draining = True
        ready, following = self._ready, self._following
        self._steps_left = STEPS_PER_TURN
        try:
            while (ready or following) and self._steps_left > 0:
                if following:
                    self._steps_left -= 1
                    self._follow(following.popleft())
                    continue
                job, value = ready.popleft()
                if not job.finished:
                    self._run(job, value)
        finally:
            self._draining = False
            self._rrsets.serial = 0
            for context in self._parts:
                context.store.rrsets.serial = 0

    def _run(self, job: Job, value: Any) -> None:
        """Resume one generator and perform its effects, as long as their results are available at once."""
        rrsets = self._rrsets
        if self._parts:
            context: Context = self._contexts[job.key[2]]
            rrsets = context.store.rrsets
        rrsets.serial = job.serial
        self._resume_job(job, value)
        if job.serial != self._serial:
            self._views.forget_learned()  # the job may have stored there what it learned before the flush

    def _resume_job(self, job: Job, value: Any) -> None:
        job.waits_for = NOTHING
        try:
            if value is FAULT:
                self._finish(job, INTERNAL_FAULT)
                return
            if isinstance(value, ReplyCopy):
                value = value.make()
                self._steps_left -= value.view.octets // COPY_STEP
                job.task.account_octets(value.view.octets)
            while True:
                if self._steps_left <= 0:
                    self._queue(job, value)
                    return
                self._steps_left -= 1
                effect: Effect = job.steps.send(value)
                budget = job.task.budget
                if budget.octets != budget.accounted_octets:
                    self._count(budget)
                    if job.finished:  # it held too much
                        return
                spent = budget.failure
                if spent is not None and spent.kind is FailureKind.DEADLINE:
                    # No effect is started after the deadline; an unchecked signature counts as wrong.
                    value = [False] * len(effect.jobs) if isinstance(effect, Verify) else spent
                elif isinstance(effect, Ask):
                    job.handle = self._queries.start(effect, job, job.serial)
                    job.waits_for = REPLY
                    return
                elif isinstance(effect, Need):
                    value = self._need(job, effect)
                    if value is None or job.finished:  # a callback of another query may have cancelled it
                        return
                elif isinstance(effect, Verify):
                    if self._crypto is None:
                        raise RuntimeError("a signature must be verified, but Mesh was created with crypto=None")
                    job.waits_for = CHECKS
                    value = self._crypto.verify(effect.jobs, job.on_verified)
                    if value is None:
                        return
                    job.waits_for = NOTHING
                elif isinstance(effect, Pause):
                    self._wait(job, self._context.monotonic + effect.seconds)
                    return
                elif isinstance(effect, Fetch):
                    second = self._context.second_level
                    job.handle = None if second is None else second.start(effect, job.on_fetched)
                    if job.handle is not None:
                        job.waits_for = REPLY
                        return
                    value = None
                else:
                    raise TypeError(f"{effect!r} is not an effect (Ask, Need, Verify, Pause or Fetch)")
        except StopIteration as stop:
            self._finish_with(job, stop.value)
        except Exception as error:  # noqa: BLE001 - a fault must cost this job only; it is logged with its traceback
            self._fault(error, "resolving", job.task.question)
            self._finish(job, INTERNAL_FAULT)

    def on_results(self, results: list[tuple[Job, Result]]) -> None:
        """The result of an upstream query, for each `Ask` that shares it; copies of a reply are made later."""
        self._update_time()
        noted = False
        job: Job
        for job, result in results:
            if job.finished or job.waits_for is not REPLY:  # the one before may have ended it, for lack of memory
                continue
            job.handle = None
            try:
                if isinstance(result, Exception):
                    self._fault(result, "sending again", job.task.question)
                    self._queue(job, FAULT)
                    continue
                self._queue(job, result)
                if not noted and (isinstance(result, Reply) or isinstance(result, ReplyCopy)):
                    self.latency.note_reply(result if isinstance(result, Reply) else result.reply)
                    noted = True
                if isinstance(result, Reply):
                    job.task.account_octets(result.view.octets)
                    # At once, because many more replies may arrive before the job is resumed.
                    self._count(job.task.budget)
            except Exception as error:  # noqa: BLE001 - the others must be resumed; this one ends at its deadline
                self._fault(error, "resuming", job.task.question)
        self._drain()

    def on_fetched(self, job: Job, result: SharedReply | None) -> None:
        """The second-level cache has the result of a `Fetch` of `job`."""
        if job.finished or job.waits_for is not REPLY:
            return
        job.handle = None
        self._update_time()
        self._queue(job, result)
        self._drain()

    def on_verified(self, job: Job, results: list[bool] | Exception) -> None:
        """The results of a `Verify` of `job`, or the exception of a check, which is a fault, no verdict."""
        if job.finished or job.waits_for is not CHECKS:
            return
        self._update_time()
        if isinstance(results, Exception):
            self._fault(results, "checking signatures for", job.task.question)
            self._queue(job, FAULT)
        else:
            self._queue(job, results)
        self._drain()

    def _need(self, job: Job, need: Need) -> Outcome | Failure | None:
        """The result of a sub-query when it is available at once; None when `job` now waits for it."""
        task = job.task
        budget = task.budget
        if not budget.take_lookup():
            return budget.failure
        cd = task.cd or need.purpose in UNVALIDATED
        # Queries for the chain of trust follow no alias, so they do not share jobs with client queries.
        slot = None
        # What is asked for a client, as by DNS64, passes the policies for name servers also when it is cached.
        client = need.purpose in CLIENT_PURPOSES
        # Only a question on behalf of the client has an answer that depends on its view. Name servers and the chain of
        # trust are the same for all views that have the same servers.
        view = job.key[2] if client else self._views.homes[job.key[2]]
        context: Context = self._contexts[view]
        if context.subnets is not None:
            # An answer for the subnet of a client would choose the servers for all.
            slot = context.subnets.slot(need.question.key, budget.subnet) if client else NO_SUBNET
        # Policies decide answers of clients but not these, so the two share no job.
        unfiltered = need.purpose in UNVALIDATED and (context.policy is not None or context.name_server is not None)
        key = (need.question.key, int(cd) + 2 * (need.purpose is FOR_DNSSEC) + 4 * unfiltered, view, slot)
        renewed = need.purpose is FOR_PREFETCH  # the cached answer is to be replaced
        child = self._jobs.get(key)
        if child is not None and child.serial != job.serial and job.serial == self._serial:
            child = None
        if child is not None and child.task.purpose is FOR_PREFETCH and not renewed:
            known = find_outcome(need.question, context, task.budget, cd=cd, client=client)
            if not isinstance(known, bool):
                task.account_octets(_octets_in(known))
                return known.failure or known
        if child is not None and (child is job or self._depends_on(child, job)):
            if self._note_cycle(key, job):
                return Failure(FailureKind.CYCLE, c.EDE_NO_REACHABLE_AUTHORITY, "the query depends on its own answer")
            del self._jobs[key]  # a job of another client query; the new one takes its place
            child = None
        if child is None:
            outcome = renewed or find_outcome(need.question, context, task.budget, cd=cd, client=client)
            if not isinstance(outcome, bool):
                task.account_octets(_octets_in(outcome))
                if task.trace is not None:
                    task.note("cache", f"the cache has the answer for {need.purpose.name.lower()}: "
                              f"{names.to_text(need.question.qname)} {c.type_to_text(need.question.qtype)}",
                              qname=need.question.qname, qtype=need.question.qtype, rcode=outcome.rcode,
                              facts={"verdict": outcome.verdict, "sets": outcome.answer, "failure": outcome.failure})
                return outcome.failure or outcome
            failed = budget.failed.get(key)
            if failed is not None:
                return _failed_again(failed, job)
            if task.depth >= DEPTH:
                budget.exhausted = True
                return Failure(FailureKind.BUDGET, c.EDE_NO_REACHABLE_AUTHORITY, "sub-queries are nested too deeply")
            depth, purpose = task.depth + 1, need.purpose
            inner = Task(need.question, task.budget, cd=cd, depth=depth, purpose=purpose, trace=task.trace,
                         cache_checked=not outcome, child_ns=task.child_ns)
            if not budget.take_query():
                return budget.failure
            may_start = self._may_start_sub_query(job)
            if job.finished:
                return None  # a callback of a query that was ended to free a slot has cancelled it
            if not may_start:
                return self._refuse_sub_query(task)
            child = self._start(key, inner, job.usage, job.serial, None, job)
        elif not budget.take_query():
            return budget.failure
        else:
            self._counts["joined"] += 1
            child.parents.append(job)
        job.child = child
        job.need = need
        job.waits_for = CHILD
        if task.trace is not None:
            task.note("need", f"{need.purpose.name.lower()}: {names.to_text(need.question.qname)} "
                      f"{c.type_to_text(need.question.qtype)}", qname=need.question.qname, qtype=need.question.qtype,
                      facts={"purpose": need.purpose.name.lower(), "joined": child.task.trace is not task.trace})
        return None

    def _finish(self, job: Job, failure: Failure) -> None:
        """End `job` with `failure` before its generator has returned."""
        self._stop(job)
        self._close_steps(job)
        self._finish_with(job, failure_outcome(job.task.question, failure))

    def _close_steps(self, job: Job) -> None:
        """Close the generator of `job`. A fault in it is only logged, so that the caller can continue."""
        try:
            job.steps.close()
        except Exception as error:  # noqa: BLE001 - others wait for this job
            self._fault(error, "ending", job.task.question)

    def _finish_with(self, job: Job, outcome: Outcome) -> None:
        """End `job`: resume its parents and answer its clients with `outcome`, or start again for them.

        A fault affects only the parent or the client for which it occurs.
        """
        self._unregister(job)
        failure = outcome.failure
        if failure is not None:
            self._counts["failures"] += 1
        parents, job.parents = job.parents, []
        for parent in parents:
            parent.child = None
            parent.waits_for = NOTHING
        for parent in parents:
            if parent.finished:  # it was ended to free a slot for a parent before it in this list
                continue
            try:
                self._resume_parent(parent, job, outcome)
            except Exception as error:  # noqa: BLE001 - the other parents must be resumed
                self._fault(error, "resuming", parent.task.question)
                if not parent.finished:
                    parent.waits_for = CHILD
                    try:
                        self._queue(parent, FAULT)
                    except MemoryError:
                        pass  # it waits in CHILD without a child until its deadline
        if failure is not None and job.requests:
            try:
                if is_for_subnet(job.task, failure):
                    self._restart_without_subnet(job, failure)
                elif self._may_restart_clients(job, failure):
                    self._restart_for_clients(job)
                if job.requests:
                    budget, task = job.task.budget, job.task
                    context = self._contexts[job.key[2]]
                    outcome = self._stale_or_failure(task.question, failure, budget, context, cd=task.cd) or outcome
            except Exception as error:  # noqa: BLE001 - the clients must get an answer
                self._fault(error, "answering", job.task.question)
        job.payer = None
        if outcome.scope is not None and job.requests and self.subnets is not None:
            question, asked = job.task.question, job.task.budget.subnet
            others = self.subnets.uncovered(question.key, outcome.scope, asked, job.requests)
            if not self._restart(job, others):
                outcome = failure_outcome(question, INTERNAL_FAULT)  # those left have an answer that is not for them
        self._deliver_all(job, outcome)

    def _resume_parent(self, parent: Job, job: Job, outcome: Outcome) -> None:
        """Queue `parent` with the result of its sub-query `job`, or start the sub-query again for it."""
        failure = outcome.failure
        if failure is None:
            parent.task.account_octets(_octets_in(outcome))
            self._queue(parent, outcome)
            return
        task, theirs = job.task, parent.task.budget
        if task.budget is not theirs and self._is_own_failure(failure, task) and parent.need is not None:
            # The budget of another client query ran out. The parent starts the sub-query again with its own.
            again = self._need(parent, parent.need)
            if again is not None and not parent.finished:
                self._queue(parent, again)
            return
        if parent.task.local_error is None:
            parent.task.local_error = task.local_error
        if is_for_subnet(task, failure):
            parent.task.told_subnet = True
        if failure.kind is not FailureKind.CYCLE:  # a cycle depends on which jobs wait at this moment
            theirs.failed[job.key] = FailedQuery(failure, task.local_error, task.cycle)
            theirs.octets += FAILED_OVERHEAD
        self._queue(parent, failure)

    @staticmethod
    def _is_own_failure(failure: Failure, task: Task) -> bool:
        """Whether a job failed because the budget of its client query ran out, or because jobs of that waited for it.
        Another query with the same question may succeed."""
        budget = task.budget
        return failure.kind in BUDGET_EXHAUSTED or budget.exhausted or budget.failure is not None or bool(task.cycle)

    def _note_cycle(self, key: Key, job: Job) -> bool:
        """Whether a job for `key` of the same client query waits for `job`; then note it for those between the two.

        Their failures are due to it. That of the job for `key` is not: with nothing before it, the same would happen.
        """
        budget = job.task.budget
        between: list[Job] = []
        step: Job | None = job
        while step is not None and step.key != key:
            between.append(step)
            step = next((parent for parent in step.parents if parent.task.budget is budget), None)
        if step is None:
            return False
        self._counts["dependency_cycles"] += 1
        for one in between:
            one.task.cycle |= {key}
        return True

    def _may_restart_clients(self, job: Job, failure: Failure) -> bool:
        """Whether the clients of `job` start again, because the budget of another client query ran out.

        Clients that joined a client query or a prefetch do not when its failure is cached, because new clients get the
        cached failure, too (RFC 9520 section 3.2). Nor do they when job slots or memory ran out, because each of them
        would end another query to get its slot.
        """
        task = job.task
        if not self._is_own_failure(failure, task):
            return False
        if task.depth:
            return True
        for one in (failure, task.local_error):
            if one is not None and one.kind is FailureKind.OVERLOAD:
                return False
        question = task.question
        rrsets = self._contexts[job.key[2]].store.rrsets
        return rrsets.find_failure(question.qname, question.qtype, self._context.now) is None

    def _restart_for_clients(self, job: Job) -> None:
        """Start again for the clients that joined `job`, whose budget was that of another client query and ran out.

        Each is handled like a new query, but keeps its deadline: it joins a job or starts one with its own budget. The
        client whose budget ran out (`payer`), those whose deadline has passed, and those for whom a fault occurs stay
        with `job` and get its failure. A client pays for at most one job, so clients that join cost no more than
        clients with separate queries.
        """
        now = self._context.monotonic
        others = [one for one in job.requests if one is not job.payer and one.deadline > now]
        # The one with most time first: others join its job. The job of one with little time would fail at once, and as
        # its failure is not cached, all would start again for as long as new clients join.
        others.sort(key=_by_deadline, reverse=True)
        self._restart(job, others)

    def _restart_without_subnet(self, job: Job, failure: Failure) -> None:
        """Start again without a subnet for the clients of `job`, because `failure` may be that of one subnet only.

        Otherwise a server that refuses one network would let a client there deny the name to all who wait with it. Each
        client starts again once for this reason, as no subnet is sent then. Not the one whose budget ran out, nor a
        prefetch, whose purpose was the answer for the subnet.
        """
        assert self.subnets is not None
        task, now = job.task, self._context.monotonic
        ends = task.purpose is FOR_PREFETCH or self._is_own_failure(failure, task)
        others = [one for one in job.requests if one.deadline > now and not (ends and one is job.payer)]
        self._restart(job, self.subnets.after_failure(others))

    def _restart(self, job: Job, requests: list[MeshRequest]) -> bool:
        """Start again for `requests` of `job`. False when a fault has left some of them with it."""
        task, complete = job.task, True
        for request in requests:
            if request.done:  # an earlier callback may have cancelled it
                continue
            request._job = None
            try:
                self._begin(request, task.question, task.cd, request._trace)
            except Exception as error:  # noqa: BLE001 - the other clients must start again
                self._fault(error, "starting again", task.question)
                self._leave(request)
                request._job = job
                complete = False
        job.requests = [request for request in job.requests if request._job is job]
        return complete

    def _deliver_all(self, job: Job, outcome: Outcome) -> None:
        requests, job.requests = job.requests, []
        for request in requests:
            request._job = None
        for request in requests:
            if not request.done:  # a callback before it may have cancelled it
                self._deliver(request, outcome, job.serial)

    def _deliver(self, request: MeshRequest, outcome: Outcome, serial: Any) -> None:
        """Answer `request`, or queue it when a policy has answered it with an alias whose target is to be resolved.

        After a failure the target is not resolved: the client gets the failure, and nothing of the policy. The first
        name has to be resolved for such a rule to apply, and its answer is unknown. For the target the same holds: a
        second alias of this kind is a failure, because an answer without data would say that the target has none.
        """
        request.done = True
        try:
            alias, failure = request._query.alias, outcome.failure
            outcome = self._respond(outcome, request._query, request._trace)
            outcome.serial = serial
            if outcome.applied is not None and outcome.applied.follow:
                if alias is None and failure is None:
                    self._queue_alias(request, outcome)
                    return
                outcome = failure_outcome(outcome.question, failure or SECOND_ALIAS)
                outcome.serial = serial
            if alias is not None:
                outcome = join_alias(alias, outcome)
        except MemoryError as error:
            # The caller delivers to others, too, and each must be answered.
            self._fault(error, "delivering", outcome)
            outcome = failure_outcome(outcome.question, OUT_OF_MEMORY)
        self._answer(request, outcome)

    def _answer(self, request: MeshRequest, outcome: Outcome) -> None:
        try:
            request._on_done(outcome)
        except Exception as error:  # noqa: BLE001 - a fault of one callback must not cost the others their answer
            self._fault(error, "delivering", outcome)

    def _queue_alias(self, request: MeshRequest, alias: Outcome) -> None:
        """Queue a request that a policy has answered with `alias`. `_drain` starts it: the caller may be freeing
        a slot."""
        try:
            query = copy(request._query)
            query.alias = alias
            self._following.append(request)
        except MemoryError as error:
            self._fault(error, "following the alias of", alias)
            self._answer(request, failure_outcome(alias.question, OUT_OF_MEMORY))
            return
        request._query = query
        request._follows = True
        request.done = False

    def _follow(self, request: MeshRequest) -> None:
        """Resolve the target of the alias of a query, unless it has been cancelled; then `_deliver` joins both."""
        if request.done:
            return
        alias: Outcome = request._query.alias
        try:
            question = Question(alias.answer[-1].targets()[0], alias.question.qtype)
            self._begin(request, question, request._cd, request._trace)
        except Exception as error:  # noqa: BLE001 - the caller works for other clients, too
            self._fault(error, "following the alias of", alias)
            if not request.done:
                self._leave(request)
                request.done = True
                self._answer(request, failure_outcome(alias.question, INTERNAL_FAULT))

    def _respond(
        self, outcome: Outcome, query: Query, trace: MutableSequence[TraceStep] | None
    ) -> Outcome:
        """`outcome` after the policies for responses; a failure when they fail, so that no unchecked answer is sent."""
        context: Context = self._contexts[query.view]
        if context.response is None:
            return outcome
        try:
            changed = context.response(query, outcome)
        except Exception as error:  # noqa: BLE001 - a fault of a policy must cost this answer only
            self._fault(error, "rewriting", outcome)
            changed = failure_outcome(outcome.question, INTERNAL_FAULT)
        else:
            if trace is not None and changed is not outcome:
                trace.append(_policy_step(changed))
        changed.scope = outcome.scope  # what a policy makes of an answer for some clients is for them only, too
        return changed

    def _fault(self, error: Exception, doing: str, what: object) -> None:
        """Count a fault, and log it with its traceback at most once in `FAULT_INTERVAL`: a remote party may be able to
        cause it again and again.

        A MemoryError is not a fault. It is counted as a shortage and logged at most once a second.
        """
        now = self._context.monotonic
        if not isinstance(error, MemoryError):
            self._counts["internal_errors"] += 1
            left_out = self._fault_lines.admit(None, now)
            if left_out is not None:
                more = f" ({left_out} more since the last line)" if left_out else ""
                text = "resolution: unexpected exception while %s %r; this is a bug%s"
                log.error(text, doing, what, more, exc_info=error)
            return
        self._counts["out_of_memory"] += 1
        try:
            if self._shortage_lines.admit(None, now) is not None:
                log.warning("resolution: out of memory while %s %r; this query fails", doing, what)
        except MemoryError:  # no memory for the log line; the shortage is counted, and the next one is logged
            self._shortage_lines.retract(None, 0)

    # --- job slots -----------------------------------------------------------------------------------------------

    def _free_slot(self, share: NetworkUsage, asker: Job | None) -> bool:
        """Free a job slot by ending slow queries, but none that waits for `asker`.

        Returns whether a slot is free now for a sub-query of `asker` or, when that is None, for a new query of `share`.
        """
        quota, now = self._quota, self._context.monotonic
        for usage in quota.jostle_candidates(share, now):
            root = usage.root
            if self._closed or (asker is not None and asker.finished):
                return False  # a callback has closed the mesh or ended `asker`
            if root is None or root is asker or (asker is not None and self._depends_on(root, asker)):
                continue
            new_payer = quota.find_new_payer(usage, self._waiting_networks(root)) if usage.share is share else None
            if new_payer is not None:
                quota.move(usage, new_payer)
            else:
                self._counts["evicted"] += 1
                self._finish(root, REPLACED)
            if quota.has_free_slot(share) if asker is None else quota.has_free_sub_slot(asker.usage, now):
                return True
        return False

    def _may_start_sub_query(self, job: Job) -> bool:
        """Whether `job` may have one more sub-query."""
        if self._memory_is_short():
            return False
        quota, usage, now = self._quota, job.usage, self._context.monotonic
        if quota.has_free_sub_slot(usage, now):
            return True
        if usage.root is not None:
            new_payer = quota.find_new_payer(usage, self._waiting_networks(usage.root))
            if new_payer is not None:
                quota.move(usage, new_payer)
                return True
        return not past_jostle_time(usage, now) and self._free_slot(usage.share, job)

    @staticmethod
    def _waiting_networks(job: Job) -> list[Hashable]:
        return [request._query.network for request in job.requests]

    def _refuse_sub_query(self, task: Task) -> Failure:
        """No job slot is free for a sub-query: the client query that needs it fails and frees its slots."""
        self._counts["refused_sub_queries"] += 1
        failure = OUT_OF_MEMORY if self._memory_is_short() else TOO_MANY
        task.budget.failure = task.budget.failure or failure
        task.local_error = failure
        return failure

    # --- memory of jobs ------------------------------------------------------------------------------------------

    def _count(self, budget: Budget) -> None:
        """Add to the sum by how much the octets of a client query changed since they were counted last."""
        self._octets += budget.octets - budget.accounted_octets
        budget.accounted_octets = budget.octets
        if self._octets > self._octets_limit and not self._shedding:
            self._shed_load()

    def _count_alias(self, job: Job, request: MeshRequest) -> None:
        """Count what `request` holds while it waits for `job`, the target of its alias. `_leave` subtracts it."""
        job.task.account_octets(_octets_in(request._query.alias))
        self._count(job.task.budget)

    def _shed_load(self) -> None:
        """End client queries until the others hold `JOBS_OCTETS_KEPT` percent of the limit.

        They end in the order of `_queries_by_memory`.
        """
        self._update_time()
        enough = self._octets_limit * OCTETS_KEPT // 100
        self._shedding = True
        try:
            for jobs in self._queries_by_memory():
                if self._octets <= enough:
                    break
                self._counts["ended_for_memory"] += 1
                for job in jobs:
                    if not job.finished:
                        self._finish(job, MEMORY_LIMIT_EXCEEDED)
        finally:
            self._shedding = False

    # --- stale data (RFC 8767) ------------------------------------------------------------------------------------

    def _join(self, job: Job, request: MeshRequest) -> None:
        """Let `request` wait for `job`, or give it the stale answer that earlier clients of the job got."""
        self._counts["joined"] += 1
        if job.stale is not None:
            self._counts["stale_answers"] += 1
            self._deliver(request, job.stale, job.serial)
            return
        first = not job.requests
        job.requests.append(request)
        request._job = job
        if request._query.alias is not None:
            self._count_alias(job, request)
        if first and self._serve_stale:
            self._start_stale_timer(job)

    def _start_stale_timer(self, job: Job) -> None:
        """Start the client response timer of `job` (RFC 8767 section 5)."""
        if self._stale_delay:
            self._stale_timers.append((self._context.monotonic + self._stale_delay, job))
        else:
            self._serve_stale_now(job)

    def _serve_stale_now(self, job: Job) -> None:
        """Give the clients that wait for `job` a stale answer, if there is one; the job continues."""
        if job.finished or not job.requests:
            return
        task = job.task
        outcome = self._find_stale(task.question, task.budget, self._contexts[job.key[2]], cd=task.cd)
        if outcome is None:
            return
        if task.trace is not None:
            task.note("stale", "answered with expired data while resolution continues", qname=task.question.qname,
                      qtype=task.question.qtype, rcode=outcome.rcode)
        if outcome.stale:
            self._counts["stale_answers"] += len(job.requests)
            job.stale = outcome
            task.account_octets(_octets_in(outcome))
        self._deliver_all(job, outcome)

    def _stale_or_failure(
        self, question: Question, failure: Failure, budget: Budget, context: Context, *, cd: bool
    ) -> Outcome | None:
        """The outcome to give instead of `failure`; None when there is none. A bogus answer is no outage (RFC 8767), so
        it is not replaced."""
        if not self._serve_stale or failure.kind in NO_STALE_ANSWER or question.qclass != c.IN:
            return None
        outcome = self._find_stale(question, budget, context, cd=cd, failure=failure)
        if outcome is not None and outcome.stale:
            self._counts["stale_answers"] += 1
            outcome.ede.append((failure.ede, failure.text))
            known = context.store.rrsets.find_failure(
                failure.name or question.qname, question.qtype, self._context.now)
            if known is not None:
                # No server is queried again until the cached failure expires, so the finished answer may be cached.
                outcome.ttl = min(known.left, self._stale_ttl)
        return outcome

    def _find_stale(
        self, question: Question, budget: Budget, context: Context, *, cd: bool, failure: Failure | None = None
    ) -> Outcome | None:
        """`find_stale`; a fault in it costs the stale answer only (CVE-2025-40777, CVE-2026-55717)."""
        try:
            return find_stale(question, context, budget, cd=cd, failure=failure)
        except Exception as error:  # noqa: BLE001 - the caller is finishing jobs for many clients
            self._fault(error, "looking for stale data for", question)
            return None

    # --- cancellation and expiry ----------------------------------------------------------------------------------

    def _stop(self, job: Job) -> None:
        """Cancel what `job` waits for; signature checks in progress are not cancelled."""
        handle, job.handle = job.handle, None
        if handle is not None:
            handle.cancel()
        child, job.child = job.child, None
        if child is not None:
            child.parents.remove(job)
            self._cancel_if_unused(child)

    def _cancel_if_unused(self, job: Job) -> None:
        """End `job` when no client and no job waits for it, and then its child in the same way."""
        while not job.finished and not job.requests and not job.parents:
            self._unregister(job)
            job.payer = None
            handle, job.handle = job.handle, None
            if handle is not None:
                handle.cancel()
            self._close_steps(job)
            child, job.child = job.child, None
            if child is None:
                return
            child.parents.remove(job)
            job = child

    def _expire(self, job: Job) -> None:
        """The deadline of `job` has passed: resume it with a DEADLINE failure instead of what it waits for."""
        self._counts["timed_out"] += 1
        budget = job.task.budget
        if budget.failure is None or budget.failure.kind is not FailureKind.DEADLINE:
            # Something else may have run out before, but only DEADLINE prevents further effects.
            budget.failure = Failure(FailureKind.DEADLINE, c.EDE_NO_REACHABLE_AUTHORITY, "no answer in time")
        child = job.child
        if child is not None and child.task.budget is budget:
            # The child has the same deadline, and its failure resumes this job.
            return
        if job.waits_for in (NOTHING, READY, CHECKS):
            # It is resumed anyway, and its next step finds `budget.failure`.
            return
        self._stop(job)
        self._queue(job, budget.failure)


def _by_deadline(request: MeshRequest) -> float:
    return request.deadline


def _always() -> bool:
    return True


def _never() -> bool:
    return False


def _failed_again(known: FailedQuery, job: Job) -> Failure:
    """The failure of a sub-query that `job` needs and that failed before for the same client query."""
    task = job.task
    if task.local_error is None:
        task.local_error = known.local_error
    if known.cycle and job.key not in known.cycle:
        # It failed because `job` or others waited for it, which is not so now.
        task.budget.exhausted = True
    return known.failure


def _policy_step(outcome: Outcome) -> TraceStep:
    """The step of a trace for an outcome that a policy made or changed."""
    question, applied = outcome.question, outcome.applied
    text = "a policy changed the answer" if applied is None else applied.describe()
    return TraceStep("policy", text, qname=question.qname, qtype=question.qtype, rcode=outcome.rcode,
                     facts={"applied": applied})


def _octets_in(outcome: Outcome) -> int:
    """Upper bound of the memory that an outcome holds, in octets."""
    return octets_of(outcome.answer) + octets_of(outcome.authority) + octets_of(outcome.additional)
