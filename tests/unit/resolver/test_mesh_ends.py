"""Every job ends and every client is answered: `close`, deadlines, faults and shortages, and callbacks that re-enter.

`check` compares the tables of the mesh with the invariants at the head of `resolver/mesh.py`.
"""

from collections import deque

import pytest
from support.fakenet import Link
from support.mesh_invariants import broken_invariants
from support.minet import build

from resolver import limits
from resolver import mesh as mesh_module
from resolver.effects import Failure, FailureKind, Need, Outcome, Pause, Purpose, Question, Verify
from resolver.jobs import Wait
from resolver.query import Query
from resolver.settings import CacheSettings, DnssecSettings, Settings
from resolver.wire import consts as c
from resolver.wire import name as names

DEADLINE = 10.0
SPENT = Failure(FailureKind.BUDGET, c.EDE_OTHER, "too much of something")


def question(text, rtype=c.A):
    return Question(names.from_text(text), rtype)


def outcome_for(asked, failure=None):
    return Outcome(asked, c.SERVFAIL if failure else c.NOERROR, [], [], 0, 60, failure=failure)


def pausing(seconds, failure=None):
    """A job that ends after `seconds`, with `failure` or the one of its budget."""

    def job(task, context):
        yield Pause(seconds)
        return outcome_for(task.question, failure or task.budget.failure)

    return job


def needing(name, purpose=Purpose.DNSSEC):
    """A job that needs `name` and ends as that does."""

    def job(task, context):
        result = yield Need(question(name), purpose)
        return outcome_for(task.question, result if isinstance(result, Failure) else None)

    return job


class Later:
    """Signature checks whose results never come."""

    def __init__(self):
        self.waiting = []

    def verify(self, jobs, on_done):
        self.waiting.append(on_done)


class ShortQueue(deque):
    """A queue without memory for the next `missing` entries."""

    missing = 0

    def append(self, entry):
        if self.missing:
            self.missing -= 1
            raise MemoryError
        super().append(entry)


@pytest.fixture
def scripted(monkeypatch):
    """A mesh whose jobs run what is put into the returned table, by name as text."""
    table = {}

    def fake_resolve(task, context):
        return table[names.to_text(task.question.qname)](task, context)

    monkeypatch.setattr(mesh_module, "resolve", fake_resolve)
    m = build(priming=False, query_timeout=DEADLINE)
    m.table = table
    return m


def check(m):
    assert broken_invariants(m.mesh) == []


def kinds(found):
    return [None if outcome.failure is None else outcome.failure.kind for outcome in found]


def running(m):
    return m.mesh.statistics()["running"]


# --- close --------------------------------------------------------------------------------------------------------


def test_close_answers_a_job_whose_checks_run_past_the_deadline(scripted):
    m = scripted
    m.mesh._crypto = crypto = Later()

    def checking(task, context):
        yield Verify((2,))
        return outcome_for(task.question)

    m.table["x."] = checking
    _, found = m.start("x.")
    m.net.sleep(m.mesh, 3 * DEADLINE)
    check(m)
    m.mesh.close()
    assert kinds(found) == [FailureKind.CANCELLED]
    crypto.waiting[0]([True])
    assert (len(found), running(m)) == (1, 0)


def test_close_answers_jobs_that_expired_in_a_long_iteration(scripted):
    m = scripted
    found = []
    count = 3 * limits.STEPS_PER_TURN
    for number in range(count):
        m.table[f"x{number}."] = pausing(10 * DEADLINE)
        m.mesh.submit(question(f"x{number}."), on_done=found.append, query=Query(network=number))
    while m.mesh._ready:
        m.mesh.tick(m.net.monotonic())
    m.mesh.tick(m.net.monotonic() + 2 * DEADLINE)
    assert len(found) == limits.STEPS_PER_TURN
    assert m.mesh.next_timer() <= m.net.monotonic(), "work is left"
    check(m)
    m.mesh.close()
    assert len(found) == count
    check(m)


def test_close_starts_nothing(scripted):
    """Neither for the client that had joined a sub-query, nor for callbacks that submit, nor later."""
    m = scripted
    m.table.update({"a.": needing("shared.", Purpose.NS_ADDRESS), "shared.": pausing(5.0)})
    later = []

    def again(outcome):
        later.append(outcome)
        if len(later) < 3:
            m.mesh.submit(question("shared."), on_done=again)

    m.mesh.submit(question("a."), on_done=again)
    _, joined = m.start("shared.", cd=True)
    assert running(m) == 2
    m.mesh.close()
    assert running(m) == 0
    assert (kinds(later), kinds(joined)) == ([FailureKind.CANCELLED] * 3, [FailureKind.CANCELLED])
    assert not m.mesh.refresh(question("shared."), on_done=later.append)
    request, late = m.start("shared.")
    assert request.done and kinds(late) == [FailureKind.CANCELLED]
    m.mesh.close()
    assert m.mesh.tick(m.net.monotonic()) is None
    assert m.mesh.statistics()["jobs"] == 2
    check(m)


def test_close_from_a_callback_answers_the_others_once(scripted):
    """The callback runs while parents are being resumed and clients answered."""
    m = scripted
    m.table.update({"shared.": pausing(1.0), "a.": needing("shared."), "b.": needing("shared.")})
    first = []

    def on_done(outcome):
        first.append(outcome)
        m.mesh.close()

    m.mesh.submit(question("a."), on_done=on_done)
    _, second = m.start("a.")
    _, third = m.start("b.")
    m.net.sleep(m.mesh, 2.0)
    assert (kinds(first), kinds(second), kinds(third)) == ([None], [None], [FailureKind.CANCELLED])
    check(m)


def test_close_while_a_query_gets_a_slot_starts_nothing(scripted):
    m = scripted
    m.table.update({"slow.": pausing(7.0), "new.": pausing(7.0)})
    m.mesh._quota.capacity = 1
    m.mesh.submit(question("slow."), on_done=lambda _: m.mesh.close(), query=Query(network="one"))
    m.net.sleep(m.mesh, 1.0)
    found = []
    m.mesh.submit(question("new."), on_done=found.append, query=Query(network="two"))
    assert (kinds(found), running(m)) == ([FailureKind.CANCELLED], 0)
    check(m)


def test_a_generator_that_fails_in_close_does_not_affect_others(scripted):
    m = scripted

    def stubborn(task, context):
        try:
            yield Pause(5.0)
        finally:
            raise ZeroDivisionError

    m.table.update({"a.": stubborn, "b.": pausing(5.0)})
    found = [m.start(name)[1] for name in ("a.", "b.")]
    m.mesh.tick(m.net.monotonic())
    m.mesh.close()
    assert [kinds(one) for one in found] == [[FailureKind.CANCELLED]] * 2
    assert m.mesh.statistics()["internal_errors"] == 1
    check(m)


# --- faults while others are resumed -------------------------------------------------------------------------------


def fail_look_ups(monkeypatch, name, error):
    """`find_outcome` raises for `name`."""
    real = mesh_module.find_outcome

    def broken(asked, *args, **options):
        if asked == question(name):
            raise error
        return real(asked, *args, **options)

    monkeypatch.setattr(mesh_module, "find_outcome", broken)


@pytest.mark.parametrize("error", [ZeroDivisionError(), MemoryError()])
def test_a_fault_while_a_parent_starts_again_costs_that_query(scripted, monkeypatch, error):
    m = scripted
    m.table.update({"shared.": pausing(1.0, SPENT), **{name: needing("shared.") for name in ("a.", "b.", "c.")}})
    found = [m.start(name)[1] for name in ("a.", "b.", "c.")]
    m.mesh.tick(m.net.monotonic())
    fail_look_ups(monkeypatch, "shared.", error)
    m.net.sleep(m.mesh, 2.0)
    assert [kinds(one) for one in found] == [[FailureKind.BUDGET], [FailureKind.INTERNAL], [FailureKind.INTERNAL]]
    assert running(m) == 0
    check(m)


def test_a_fault_in_a_signature_check_costs_that_query(scripted):
    """The outcome is a failure and not bogus data."""
    m = scripted
    m.mesh._crypto = crypto = Later()

    def checking(task, context):
        yield Verify((2,))
        return outcome_for(task.question)

    m.table["x."] = checking
    _, found = m.start("x.")
    crypto.waiting[0](MemoryError())
    assert kinds(found) == [FailureKind.INTERNAL]
    assert m.mesh.statistics()["out_of_memory"] == 1
    check(m)


def test_a_shortage_while_a_client_starts_again_costs_that_client(scripted):
    """The clients after it start again."""
    m = scripted
    starts = []

    def shared(task, context):
        starts.append(task)
        if len(starts) == 2:
            raise MemoryError
        return pausing(1.0, None if len(starts) > 2 else SPENT)(task, context)

    m.table.update({"shared.": shared, "a.": needing("shared.", Purpose.NS_ADDRESS)})
    _, first = m.start("a.")
    joined = [m.start("shared.", cd=True)[1] for _ in range(3)]
    m.net.sleep(m.mesh, 5.0)
    assert kinds(first) == [FailureKind.BUDGET]
    assert [kinds(one) for one in joined] == [[FailureKind.BUDGET], [None], [None]]
    assert m.mesh.statistics()["out_of_memory"] == 1
    check(m)


def test_a_fault_in_submit_leaves_no_job(scripted):
    """The caller gets the exception and no callback."""
    m = scripted
    m.mesh._serve_stale, m.mesh._stale_timers = True, ShortQueue()
    m.mesh._stale_timers.missing = 1
    m.table["x."] = pausing(1.0)
    found = []
    with pytest.raises(MemoryError):
        m.mesh.submit(question("x."), on_done=found.append)
    assert running(m) == 0
    m.net.sleep(m.mesh, 2.0)
    assert found == []
    check(m)


def test_a_timer_that_is_lost_for_lack_of_memory_ends_at_the_deadline(scripted):
    m = scripted
    m.table["x."] = pausing(1.0)
    _, found = m.start("x.")
    m.mesh.tick(m.net.monotonic())
    m.mesh._ready = ShortQueue()
    m.mesh._ready.missing = 1
    m.net.now += 1.0
    with pytest.raises(MemoryError):
        m.mesh.tick(m.net.monotonic())
    m.net.sleep(m.mesh, 2 * DEADLINE)
    assert (kinds(found), running(m)) == ([FailureKind.DEADLINE], 0)
    check(m)


def test_a_parent_that_cannot_be_resumed_for_lack_of_memory_ends_at_its_deadline(scripted):
    """The other parent, and the client, of the same sub-query continue."""
    m = scripted
    m.table.update({"shared.": pausing(1.0), "a.": needing("shared.", Purpose.NS_ADDRESS),
                    "b.": needing("shared.", Purpose.NS_ADDRESS)})
    found = [m.start(name)[1] for name in ("a.", "b.")]
    found.append(m.start("shared.", cd=True)[1])
    m.mesh.tick(m.net.monotonic())
    queue = m.mesh._ready = ShortQueue()
    queue.append((next(iter(m.mesh._timers))[2], None))
    m.mesh._timers[0][2].waits_for = Wait.READY
    queue.missing = 2
    m.mesh._drain()
    assert [kinds(one) for one in found] == [[], [None], [None]]
    m.net.sleep(m.mesh, 2 * DEADLINE)
    assert kinds(found[0]) == [FailureKind.DEADLINE]
    assert running(m) == 0
    check(m)


# --- callbacks that cancel -----------------------------------------------------------------------------------------


def test_a_query_cancelled_while_it_gets_a_slot_leaves_no_sub_query(scripted):
    m = scripted

    def asker(task, context):
        yield Pause(0.05)
        yield Need(question("inner."), Purpose.CLIENT)

    m.table.update({"slow.": pausing(7.0), "asker.": asker, "inner.": pausing(7.0)})
    m.mesh._quota.capacity = 2
    requests, found = [], []

    def on_slow(outcome):
        found.append(outcome)
        m.mesh.cancel(requests[0])

    m.mesh.submit(question("slow."), on_done=on_slow, query=Query(network="one"))
    m.net.sleep(m.mesh, 1.0)
    requests.append(m.mesh.submit(question("asker."), on_done=found.append, query=Query(network="two")))
    m.net.sleep(m.mesh, 1.0)
    assert kinds(found) == [FailureKind.OVERLOAD]
    assert running(m) == 0
    check(m)


def test_a_client_cancelled_while_it_starts_again_leaves_no_job(scripted):
    """Its new job needs a slot, and the callback of the query that is ended for it cancels it."""
    m = scripted
    m.table.update({"slow.": pausing(9.0), "shared.": pausing(1.0, SPENT)})
    m.table["a."] = needing("shared.", Purpose.NS_ADDRESS)
    requests, found = [], []

    def on_slow(outcome):
        found.append(outcome)
        m.mesh.cancel(requests[0])

    m.mesh.submit(question("slow."), on_done=on_slow, query=Query(network="one"))
    m.net.sleep(m.mesh, 1.0)
    m.mesh.submit(question("a."), on_done=found.append, query=Query(network="two"))
    requests.append(m.mesh.submit(question("shared."), cd=True, on_done=found.append, query=Query(network="three")))
    m.mesh.tick(m.net.monotonic())
    m.mesh._quota.capacity = 2
    m.net.sleep(m.mesh, 5.0)
    assert kinds(found) == [FailureKind.OVERLOAD, FailureKind.BUDGET]
    assert requests[0].done and running(m) == 0
    assert m.mesh.statistics()["jobs"] == 3
    check(m)


def test_a_callback_that_submits_the_same_question_joins_the_job(scripted):
    """Two queries end so that the last one gets a slot, and the callback of each submits the same question as that."""
    m = scripted
    m.table["new."] = pausing(0.1)
    m.mesh._quota.capacity = 2
    found = []
    for name in ("slow.", "slow2."):
        m.table[name] = pausing(7.0)
        m.mesh.submit(question(name), query=Query(network=name),
                      on_done=lambda _: m.mesh.submit(question("new."), query=Query(network="two"),
                                                      on_done=found.append))
    m.net.sleep(m.mesh, 1.0)
    m.mesh.submit(question("new."), on_done=found.append, query=Query(network="two"))
    m.net.sleep(m.mesh, 1.0)
    assert kinds(found) == [None] * 3
    assert m.mesh.statistics()["jobs"] == 3
    check(m)


def test_a_job_that_ended_keeps_no_request(scripted):
    """A timer may still refer to it for a long time."""
    m = scripted
    m.table["x."] = pausing(5.0)
    for ends in (m.mesh.cancel, lambda _: m.mesh.close()):
        request, _ = m.start("x.")
        m.mesh.tick(m.net.monotonic())
        job = request._job
        ends(request)
        assert (job.finished, job.payer, job.requests) == (True, None, [])


# --- clients that join ----------------------------------------------------------------------------------------------


def test_a_client_that_joins_has_its_own_deadline(scripted):
    m = scripted
    m.table["x."] = pausing(9.0)
    m.mesh._deadline = 8.0
    _, first = m.start("x.")
    m.net.sleep(m.mesh, 7.0)
    _, second = m.start("x.")
    m.net.sleep(m.mesh, 2.0)
    assert (kinds(first), second) == ([FailureKind.DEADLINE], [])
    m.table["x."] = pausing(1.0)
    _, third = m.start("x.")
    m.net.sleep(m.mesh, 6.1)
    assert (kinds(second), len(third)) == ([FailureKind.DEADLINE], 0)
    m.net.sleep(m.mesh, 8.0)
    assert kinds(third) == [None]
    assert m.mesh.statistics()["jobs"] == 3
    check(m)


def test_a_client_that_joins_a_prefetch_has_its_own_deadline(scripted):
    m = scripted
    m.table["x."] = pausing(9.0)
    m.mesh._deadline = 8.0
    renewed = []
    assert m.mesh.refresh(question("x."), on_done=renewed.append)
    m.net.sleep(m.mesh, 7.0)
    _, found = m.start("x.")
    m.table["x."] = pausing(1.0)
    m.net.sleep(m.mesh, 2.0)
    assert (kinds(renewed), kinds(found)) == ([FailureKind.DEADLINE], [])
    m.net.sleep(m.mesh, 1.0)
    assert kinds(found) == [None]
    check(m)


def test_the_client_whose_budget_ran_out_does_not_start_again(scripted):
    """Each client pays for one job: the work is at most that of clients that ask one after the other."""
    m = scripted
    m.table["x."] = pausing(0.5, SPENT)
    found = [m.start("x.")[1] for _ in range(5)]
    m.net.sleep(m.mesh, 5.0)
    assert [kinds(one) for one in found] == [[FailureKind.BUDGET]] * 5
    assert m.mesh.statistics()["jobs"] == 5
    check(m)


def test_clients_whose_deadline_has_passed_do_not_start_again(scripted):
    m = scripted
    m.table["x."] = pausing(2 * DEADLINE)
    found = [m.start("x.")[1] for _ in range(3)]
    m.net.sleep(m.mesh, 2 * DEADLINE)
    assert [kinds(one) for one in found] == [[FailureKind.DEADLINE]] * 3
    assert m.mesh.statistics()["jobs"] == 1
    check(m)


def test_clients_that_joined_get_a_failure_that_is_cached():
    """As those that ask now: nothing is resolved again before it expires (RFC 9520)."""
    m = build(links={"192.0.2.1": Link(loss=1.0), "192.0.2.2": Link(loss=1.0)}, query_timeout=1.0)
    _, first = m.start("www.example.com.")
    m.net.sleep(m.mesh, 0.7)
    _, joined = m.start("www.example.com.")
    m.net.sleep(m.mesh, 0.5)
    assert kinds(first) == kinds(joined) == [FailureKind.DEADLINE]
    packets = len(m.net.log)
    assert kinds([m.ask("www.example.com.")]) == [FailureKind.CACHED_ERROR]
    assert len(m.net.log) == packets
    check(m)


def test_clients_of_a_query_that_had_no_slots_do_not_start_again_at_its_deadline(scripted):
    m = scripted

    def job(task, context):
        m.mesh.set_shed_load(lambda: True)
        yield Need(question("y."), Purpose.NS_ADDRESS)
        m.mesh.set_shed_load(lambda: False)
        yield Pause(2 * DEADLINE)
        return outcome_for(task.question, task.budget.failure)

    m.table["x."] = job
    found = [m.start("x.")[1]]
    m.net.sleep(m.mesh, DEADLINE / 2)
    found.append(m.start("x.")[1])
    m.net.sleep(m.mesh, DEADLINE / 2 + 0.1)
    assert [kinds(one) for one in found] == [[FailureKind.DEADLINE]] * 2
    assert m.mesh.statistics()["jobs"] == 1
    check(m)


def test_clients_of_a_query_that_was_ended_for_its_slot_do_not_start_again(scripted):
    m = scripted
    m.table.update({"slow.": pausing(7.0), "new.": pausing(0.1)})
    m.mesh._quota.capacity = 1
    found = []
    for network in ("one", "one", "one"):
        m.mesh.submit(question("slow."), on_done=found.append, query=Query(network=network))
    m.net.sleep(m.mesh, 1.0)
    m.mesh.submit(question("new."), on_done=found.append, query=Query(network="two"))
    m.net.sleep(m.mesh, 1.0)
    assert kinds(found) == [FailureKind.OVERLOAD] * 3 + [None]
    assert m.mesh.statistics()["jobs"] == 2
    check(m)


# --- the check itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("harm", "text"), [
    (lambda mesh, job: mesh._slots[job.slot].pop(job), "has no deadline"),
    (lambda mesh, job: mesh._unfinished.pop(job), "not in the table of all jobs"),
    (lambda mesh, job: mesh._timers.clear(), "waits for a timer that is not there"),
    (lambda mesh, job: mesh._ready.append((job, None)), "has 1 turns and waits for TIMER"),
    (lambda mesh, job: setattr(job, "waits_for", Wait.NOTHING), "waits for nothing"),
    (lambda mesh, job: setattr(job, "handle", object()), "has the upstream query"),
    (lambda mesh, job: setattr(job, "child", job), "waits for itself"),
    (lambda mesh, job: job.parents.append(job), "has a parent that does not wait for it"),
    (lambda mesh, job: job.requests.clear(), "nothing waits for it"),
    (lambda mesh, job: setattr(job.requests[0], "done", True), "has a request that does not wait for it"),
    (lambda mesh, job: setattr(mesh._quota, "held", 2), "2 job slots are taken by 1 jobs"),
    (lambda mesh, job: setattr(mesh, "_octets", 1), "1 octets are counted"),
    (lambda mesh, job: setattr(mesh, "_closed", True), "1 jobs after close()"),
])
def test_each_broken_invariant_is_found(scripted, harm, text):
    m = scripted
    m.table["x."] = pausing(1.0)
    m.start("x.")
    m.mesh.tick(m.net.monotonic())
    check(m)
    harm(m.mesh, next(iter(m.mesh._unfinished)))
    assert any(text in one for one in broken_invariants(m.mesh))


def test_the_invariants_hold_during_a_real_resolution():
    m = build(settings=Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(max_stale_ttl=3600)))
    found = [m.start(name)[1] for name in ("www.example.com.", "alias.example.com.", "none.example.com.")]
    while not all(found):
        m.net.run(m.mesh, seconds=0.005)
        check(m)
    assert running(m) == 0


def test_a_job_that_has_ended_is_not_held_by_the_timers_of_stale_answers():
    m = build(settings=Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(max_stale_ttl=3600)))
    request, _ = m.start("www.example.com.")
    assert m.mesh._stale_timers
    m.mesh.cancel(request)
    m.mesh.next_timer()
    assert not m.mesh._stale_timers
