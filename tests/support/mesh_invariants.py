"""The invariants of `resolver/jobs.py` and `resolver/mesh.py`, checked on a mesh between two calls from outside."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from resolver import limits
from resolver.effects import FailureKind, Purpose
from resolver.jobs import Wait
from resolver.mesh import Mesh

__all__ = ["broken_invariants"]

def broken_invariants(mesh: Mesh) -> list[str]:
    """A sentence for each invariant that does not hold; [] when all hold. Not to be called from a callback."""
    return list(_broken(mesh))


def _broken(mesh: Mesh) -> Iterator[str]:
    jobs = mesh._unfinished
    turns = Counter(job for job, _ in mesh._ready if not job.finished)
    timers = {job for _, _, job in mesh._timers}
    if mesh._draining:
        yield "it still drains"
    if mesh._closed and jobs:
        yield f"{len(jobs)} jobs after close()"
    listed = [*mesh._jobs.values(), *(job for members in mesh._slots.values() for job in members), *turns]
    if any(job.finished or job not in jobs for job in listed):
        yield "a table has a job that is finished or not in the table of all jobs"
    if not mesh._slots.keys() <= set(mesh._slot_heap):
        yield "a slot of deadlines is not in the heap"
    for job in jobs:
        yield from _broken_by(mesh, job, turns, timers)
    outstanding: dict[Any, Counter[bytes]] = defaultdict(Counter)
    for query in (query for equal in mesh._queries._in_flight.values() for query in equal):
        outstanding[query.first.ask.server.key][query.first.ask.zone] += 1
        if not query.waiting or query.handle is None:
            yield f"a query in flight has {len(query.waiting)} jobs that wait for it and the handle {query.handle}"
        for one in query.waiting:
            if one.query is not query or one.job.finished or one.job.handle is not one:
                yield f"a job that does not wait for the query {one.ask!r} is listed with it"
    counted = mesh._delegations.fetches._servers
    if outstanding != {key: use.zones for key, use in counted.items()} or any(
        use.count != sum(use.zones.values()) for use in counted.values()
    ):
        yield "the servers are charged for other queries than those in flight"
    yield from _miscounted(mesh)


def _broken_by(mesh: Mesh, job: Any, turns: Counter[Any], timers: set[Any]) -> Iterator[str]:
    what, budget = repr(job.task.question), job.task.budget
    if job.finished:
        yield f"{what} is finished and in the table of all jobs"
    if job.waits_for is Wait.NOTHING:
        yield f"{what} waits for nothing"
    if turns[job] != (job.waits_for is Wait.READY):
        yield f"{what} has {turns[job]} turns and waits for {job.waits_for.name}"
    if (job.handle is not None) != (job.waits_for is Wait.REPLY):
        yield f"{what} has the upstream query {job.handle} and waits for {job.waits_for.name}"
    if (job.child is not None) != (job.waits_for is Wait.CHILD):
        yield f"{what} has the child {job.child} and waits for {job.waits_for.name}"
    if job.waits_for is Wait.TIMER and job not in timers:
        yield f"{what} waits for a timer that is not there"
    if job.child is not None and (job.child.finished or job.child.parents.count(job) != 1):
        yield f"{what} waits for a child that will not resume it"
    if any(parent.finished or parent.child is not job for parent in job.parents):
        yield f"{what} has a parent that does not wait for it"
    if any(request.done or request._job is not job for request in job.requests):
        yield f"{what} has a request that does not wait for it"
    if not job.requests and not job.parents and not mesh._serve_stale:
        yield f"{what} runs and nothing waits for it"  # with stale answers, it outlives its clients
    if mesh._depends_on(job, job):
        yield f"{what} waits for itself"
    if job not in mesh._slots.get(job.slot, {}):
        if budget.failure is None:
            yield f"{what} has no deadline"
        elif budget.failure.kind is FailureKind.DEADLINE and job.waits_for not in (Wait.READY, Wait.CHECKS) and (
            job.child is None or job.child.task.budget is not budget
        ):
            yield f"{what} is past its deadline and has not got its turn"


def _miscounted(mesh: Mesh) -> Iterator[str]:
    jobs, quota = mesh._unfinished, mesh._quota
    if quota.held != len(jobs):
        yield f"{quota.held} job slots are taken by {len(jobs)} jobs"
    queries = Counter(job.usage for job in jobs)
    if any(usage.jobs != count for usage, count in queries.items()):
        yield "a client query has another number of jobs than its usage says"
    shares = Counter(job.usage.share for job in jobs)
    if quota.own.held != shares.pop(quota.own, 0) or {id(share): share.held for share in quota._shares.values()} != {
        id(share): count for share, count in shares.items()
    }:
        yield "a network is charged for another number of jobs than it has"
    if any(usage.root is None or usage.root.finished for usage in quota._queries):
        yield "a query that has ended may be ended for another one"
    budgets = {id(job.task.budget): job.task.budget for job in jobs}
    if mesh._octets != sum(budget.accounted_octets for budget in budgets.values()):
        yield f"{mesh._octets} octets are counted for all jobs, and not the sum of theirs"
    if mesh._octets > limits.JOBS_OCTETS:
        yield f"jobs hold {mesh._octets} octets of {limits.JOBS_OCTETS}"
    for table in mesh.memory_tables():
        if not 0 <= table.octets <= table.limit:
            yield f"the table of {table.name} holds {table.octets} octets of {table.limit}"
    prefetches = sum(job.task.purpose is Purpose.PREFETCH and not job.task.depth for job in jobs)
    if prefetches > mesh._prefetching:
        yield f"{prefetches} prefetches run, {mesh._prefetching} are counted"
