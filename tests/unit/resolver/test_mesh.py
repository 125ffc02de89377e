"""The driver: joining, cycles, deadlines, cancellation, faults, budgets, verification and counters, in virtual time.

Where the whole resolver is not needed, the generator of a job is replaced by a small one of the test.
"""

import logging

import pytest
from support.fakenet import Link
from support.minet import COM_ZONE, NET_ZONE, addresses, build, standard

from resolver import limits
from resolver import mesh as mesh_module
from resolver.effects import (
    Ask,
    Failure,
    FailureKind,
    Need,
    Outcome,
    Pause,
    Purpose,
    Question,
    Server,
    TraceStep,
    Verify,
)
from resolver.limits import PREFETCH_JOBS
from resolver.net.fastpath import read_query
from resolver.net.reply import compose
from resolver.query import Query
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView


def question(text, rtype=c.A):
    return Question(names.from_text(text), rtype)


def outcome_for(asked, failure=None):
    return Outcome(asked, c.SERVFAIL if failure else c.NOERROR, [], [], 0, 60, failure=failure)


@pytest.fixture
def scripted(monkeypatch):
    """A mesh whose jobs run what is put into the returned table, by name as text."""
    table = {}

    def fake_resolve(task, context):
        return table[names.to_text(task.question.qname)](task, context)

    monkeypatch.setattr(mesh_module, "resolve", fake_resolve)
    m = build(priming=False)
    m.table = table
    return m


# --- joining ------------------------------------------------------------------------------------------------------


def test_equal_questions_are_asked_once():
    m = build()
    tickets = [m.start(name) for name in ("www.example.com.", "WWW.example.COM.", "www.example.com.")]
    m.net.run(m.mesh)
    assert [addresses(found[0]) for _, found in tickets] == [["192.0.2.80"]] * 3
    assert len(m.net.asked(qname="www.example.com.")) == 1
    assert m.mesh.statistics()["joined"] >= 2


def test_cd_is_another_question():
    m = build()
    m.ask("ns1.example.com.")
    joined = m.mesh.statistics()["joined"]
    m.start("www.example.com.")
    m.start("www.example.com.", cd=True)
    m.net.run(m.mesh)
    assert m.mesh.statistics()["joined"] == joined
    assert len(m.net.asked(qname="www.example.com.")) == 1, "the packet is the same"


def test_sub_queries_are_joined_as_well():
    m = build()
    found = [m.start(f"x{n}.example.com.")[1] for n in range(10)]
    m.net.run(m.mesh)
    assert all(outcomes[0].rcode == c.NXDOMAIN for outcomes in found)
    assert len(m.net.asked(qname=".", qtype=c.NS)) == 1


def test_a_traced_query_joins_no_job_and_has_all_steps():
    m = build()
    m.start("www.example.com.")
    trace: list[TraceStep] = []
    m.ask("www.example.com.", trace=trace)
    kinds = [step.kind for step in trace]
    assert {"cut", "ask", "reply", "referral"} <= set(kinds)
    asks = [step for step in trace if step.kind == "ask"]
    replies = [step for step in trace if step.kind == "reply"]
    assert asks[-1].server.address in ("192.0.2.1", "192.0.2.2")
    assert replies[-1].rtt == pytest.approx(0.01)
    assert replies[-1].rcode == c.NOERROR
    again: list[TraceStep] = []
    m.ask("www.example.com.", trace=again)
    assert [step.kind for step in again] == ["cache"]


# --- ends ---------------------------------------------------------------------------------------------------------


def test_cancelling_the_only_waiter_ends_the_job():
    m = build()
    ticket, found = m.start("www.example.com.")
    m.net.run(m.mesh, seconds=0.005)
    m.mesh.cancel(ticket)
    assert ticket.done
    assert m.mesh.statistics()["running"] == 0
    m.net.run(m.mesh)
    assert found == []
    assert len(m.net.log) == 1


def test_cancelling_one_of_two_waiters_keeps_the_other():
    m = build()
    first, gone = m.start("www.example.com.")
    _, found = m.start("www.example.com.")
    m.net.run(m.mesh, seconds=0.005)
    m.mesh.cancel(first)
    m.mesh.cancel(first)
    m.net.run(m.mesh)
    assert gone == []
    assert addresses(found[0]) == ["192.0.2.80"]


def test_a_waiter_cancelled_in_a_callback_gets_no_answer():
    m = build()
    question, tickets, found = Question(names.from_text("www.example.com."), c.A), [], []

    def first(outcome):
        found.append(outcome)
        for ticket in tickets:
            m.mesh.cancel(ticket)

    tickets.append(m.mesh.submit(question, on_done=first))
    gone = []
    tickets.append(m.mesh.submit(question, on_done=gone.append))
    _, third = m.start("www.example.com.")
    m.net.run(m.mesh)
    assert tickets[1].done
    assert (len(found), gone, len(third)) == (1, [], 1)
    assert m.mesh.statistics()["internal_errors"] == 0


def test_cancelling_after_the_end_does_nothing():
    m = build()
    ticket, found = m.start("www.example.com.")
    m.net.run(m.mesh)
    m.mesh.cancel(ticket)
    assert len(found) == 1


def test_the_deadline_is_kept_whatever_servers_do():
    links = {address: Link(delay=0.3) for address in standard()}
    links["192.5.6.30"] = Link(loss=1.0)
    m = build(links=links, query_timeout=2.0)
    begin = m.net.now
    outcome = m.ask("www.example.com.")
    assert outcome.failure.kind is FailureKind.DEADLINE
    assert outcome.rcode == c.SERVFAIL
    assert 1.9 <= m.net.now - begin <= 2.1
    assert m.mesh.statistics()["running"] == 0
    assert m.mesh.statistics()["timed_out"] >= 1


def test_the_deadline_applies_to_sub_queries():
    com = COM_ZONE + "other 7200 IN NS ns.other.net.\n"
    m = build(standard(a192_5_6_30=[("com.", com)], a192_5_6_31=[("net.", NET_ZONE)]), query_timeout=2.0,
              links={"192.5.6.31": Link(loss=1.0)})
    begin = m.net.now
    assert m.ask("www.other.com.").failure.kind is FailureKind.DEADLINE
    assert m.net.now - begin <= 2.1
    assert m.mesh.statistics()["running"] == 0


def test_tick_returns_the_next_deadline():
    m = build(query_timeout=2.0)
    assert m.mesh.tick(m.net.now) is None
    m.start("www.example.com.")
    due = m.mesh.tick(m.net.now)
    assert due == pytest.approx(m.net.now + 2.0, abs=0.03)
    m.net.run(m.mesh)
    assert m.mesh.tick(m.net.now) is None


def test_close_answers_all_waiters():
    m = build()
    _, found = m.start("www.example.com.")
    _, other = m.start("x.example.com.")
    m.mesh.close()
    assert [outcomes[0].failure.kind for outcomes in (found, other)] == [FailureKind.CANCELLED] * 2
    assert m.mesh.statistics()["running"] == 0
    m.net.run(m.mesh)


def test_too_many_questions_are_refused_at_once(scripted):
    def wait(task, context):
        yield Pause(1.0)
        return outcome_for(task.question)

    m = scripted
    m.mesh._quota.capacity = 2
    found = []
    for name in ("a.", "b.", "c."):
        m.table[name] = wait
        found.append(m.start(name)[1])
    assert found[2][0].failure.kind is FailureKind.OVERLOAD
    m.net.run(m.mesh)
    assert found[0][0].failure is None and found[1][0].failure is None


# --- faults -------------------------------------------------------------------------------------------------------


def test_an_exception_fails_its_own_query_only(scripted, caplog):
    m = scripted

    def broken(task, context):
        yield Pause(0.1)
        raise ZeroDivisionError("a bug")

    def fine(task, context):
        yield Pause(0.2)
        return outcome_for(task.question)

    m.table.update({"bad.": broken, "good.": fine})
    _, bad = m.start("bad.")
    _, good = m.start("good.")
    with caplog.at_level(logging.ERROR):
        m.net.run(m.mesh)
    assert bad[0].failure.kind is FailureKind.INTERNAL
    assert (bad[0].rcode, bad[0].ede[0][0]) == (c.SERVFAIL, c.EDE_OTHER)
    assert good[0].failure is None
    assert "ZeroDivisionError" in caplog.text
    assert m.mesh.statistics()["internal_errors"] == 1


def test_repeated_exceptions_do_not_fill_the_log(scripted, caplog):
    m = scripted

    def broken(task, context):
        yield Pause(0.1)
        raise ZeroDivisionError("a bug")

    with caplog.at_level(logging.ERROR):
        for number in range(30):
            m.table[f"x{number}."] = broken
            m.start(f"x{number}.")
        m.net.run(m.mesh)
        assert len(caplog.records) == 1
        m.net.sleep(m.mesh, limits.LOG_INTERVAL.default)
        m.table["later."] = broken
        m.start("later.")
        m.net.run(m.mesh)
    first, second = caplog.records
    assert first.exc_info[0] is second.exc_info[0] is ZeroDivisionError
    assert "29 more since" in second.getMessage()
    assert m.mesh.statistics()["internal_errors"] == 31


def test_lack_of_memory_fails_its_queries_and_is_one_line(scripted, caplog):
    m = scripted

    def short(task, context):
        yield Pause(0.1)
        raise MemoryError

    found = []
    for number in range(5):
        m.table[f"x{number}."] = short
        found.append(m.start(f"x{number}.")[1])
    with caplog.at_level(logging.WARNING):
        m.net.run(m.mesh)
    assert all(outcomes[0].failure.kind is FailureKind.INTERNAL for outcomes in found)
    [record] = caplog.records
    assert record.exc_info is None
    assert record.getMessage().startswith("resolution: out of memory while resolving")
    assert (m.mesh.statistics()["out_of_memory"], m.mesh.statistics()["internal_errors"]) == (5, 0)


def test_no_job_is_started_while_memory_is_short():
    m = build()
    short = []
    m.mesh.set_shed_load(lambda: bool(short))
    m.ask("www.example.com.")
    short.append(True)
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"], "the cache has it"
    packets = len(m.net.asked())
    refused = m.ask("other.example.com.")
    assert refused.failure.kind is FailureKind.OVERLOAD
    assert refused.failure.text == "this resolver is short of memory"
    assert not m.mesh.refresh(question("www.example.com."), on_done=lambda outcome: None)
    assert len(m.net.asked()) == packets
    assert m.mesh.statistics()["running"] == 0
    short.clear()
    assert m.ask("other.example.com.").failure is None


def test_a_running_query_gets_no_sub_query_while_memory_is_short(scripted):
    m = scripted
    short = []
    m.mesh.set_shed_load(lambda: bool(short))
    seen = []

    def job(task, context):
        yield Pause(0.1)
        seen.append((yield Need(question("below."), Purpose.NS_ADDRESS)))
        return outcome_for(task.question, seen[0])

    m.table["x."] = job
    _, found = m.start("x.")
    short.append(True)
    m.net.run(m.mesh)
    assert seen[0].kind is FailureKind.OVERLOAD
    assert found[0].failure.text == "this resolver is short of memory"
    assert m.mesh.statistics()["refused_sub_queries"] == 1


def test_lack_of_memory_does_not_lose_a_prefetch_slot(scripted):
    m = scripted

    def short(task, context):
        raise MemoryError

    for number in range(PREFETCH_JOBS):
        m.table[f"x{number}."] = short
        with pytest.raises(MemoryError):
            m.mesh.refresh(question(f"x{number}."), on_done=lambda outcome: None)

    def job(task, context):
        yield Pause(0.1)
        return outcome_for(task.question)

    m.table["y."] = job
    assert m.mesh.refresh(question("y."), on_done=lambda outcome: None)


def test_an_exception_of_one_callback_does_not_affect_other_waiters(scripted, caplog):
    m = scripted

    def job(task, context):
        yield Pause(0.1)
        return outcome_for(task.question)

    m.table["x."] = job

    def bad_receiver(outcome):
        raise RuntimeError("receiver")

    m.mesh.submit(question("x."), on_done=bad_receiver)
    _, found = m.start("x.")
    m.net.run(m.mesh)
    assert len(found) == 1
    assert "receiver" in caplog.text


def test_yielding_another_object_than_an_effect_is_an_error(scripted, caplog):
    m = scripted

    def job(task, context):
        yield "nonsense"

    m.table["x."] = job
    assert m.ask("x.").failure.kind is FailureKind.INTERNAL
    assert "nonsense" in caplog.text


# --- effects ------------------------------------------------------------------------------------------------------


def test_need_returns_the_outcome_of_another_query(scripted):
    m = scripted
    seen = []

    def inner(task, context):
        yield Pause(0.5)
        seen.append((task.depth, task.purpose, task.cd))
        return outcome_for(task.question)

    def outer(task, context):
        result = yield Need(question("inner."), Purpose.NS_ADDRESS)
        seen.append(result.question.key[0])
        result = yield Need(question("inner."), Purpose.DNSSEC)
        return outcome_for(task.question)

    m.table.update({"inner.": inner, "outer.": outer})
    m.ask("outer.")
    assert seen == [(1, Purpose.NS_ADDRESS, True), names.from_text("inner."), (1, Purpose.DNSSEC, False)]


def test_an_unvalidated_sub_query_is_no_answer_to_a_client(scripted):
    """The address of a name server is looked up without validation; who asks for it as a client wants it validated."""
    m = scripted
    began = []

    def inner(task, context):
        began.append(task.cd)
        yield Pause(1.0)
        return outcome_for(task.question)

    def outer(task, context):
        yield Need(question("inner."), Purpose.NS_ADDRESS)
        return outcome_for(task.question)

    m.table.update({"inner.": inner, "outer.": outer, "later.": outer})
    found = [m.start(name)[1] for name in ("outer.", "inner.", "later.")]
    m.net.run(m.mesh)
    assert all(outcomes[0].failure is None for outcomes in found)
    assert began == [True, False]


def test_what_a_client_without_validation_needs_is_not_validated_either(scripted):
    m = scripted
    began = []

    def inner(task, context):
        began.append(task.cd)
        yield Pause(1.0)
        return outcome_for(task.question)

    def outer(task, context):
        yield Need(question("inner."), Purpose.CLIENT)
        return outcome_for(task.question)

    m.table.update({"inner.": inner, "outer.": outer})
    m.ask("outer.", cd=True)
    m.ask("outer.")
    assert began == [True, False]


def test_a_need_that_closes_a_cycle_is_refused(scripted):
    m = scripted
    results = []

    def waits_for(other):
        def job(task, context):
            result = yield Need(question(other), Purpose.DNSSEC)
            results.append(result)
            return outcome_for(task.question, result if isinstance(result, Failure) else None)
        return job

    m.table.update({"a.": waits_for("b."), "b.": waits_for("c."), "c.": waits_for("a."), "self.": waits_for("self.")})
    assert m.ask("a.").failure.kind is FailureKind.CYCLE
    assert m.ask("self.").failure.kind is FailureKind.CYCLE
    assert m.mesh.statistics()["dependency_cycles"] == 2


def _needs(other, *, seconds=0.0, otherwise=False):
    """A job that needs `other`; with `otherwise` it can do without."""

    def job(task, context):
        if seconds:
            yield Pause(seconds)
        result = yield Need(question(other), Purpose.CLIENT)
        failed = isinstance(result, Failure) and not otherwise
        return outcome_for(task.question, Failure(FailureKind.UNREACHABLE, -1, "no way") if failed else None)

    return job


def test_a_circle_through_another_client_query_is_none(scripted):
    m = scripted
    m.table.update({"a.": _needs("b.", seconds=1, otherwise=True), "b.": _needs("a.", seconds=1)})
    assert m.ask("b.").failure is None and m.mesh.statistics()["dependency_cycles"] == 1
    found = [m.start(name)[1] for name in ("a.", "b.")]
    m.net.run(m.mesh)
    assert [outcomes[0].failure for outcomes in found] == [None, None]


def test_who_joins_a_job_that_fails_in_a_circle_starts_it_again(scripted):
    m = scripted
    m.table.update({"a.": _needs("b.", otherwise=True), "b.": _needs("a.", seconds=1), "c.": _needs("b.")})
    found = [m.start(name)[1] for name in ("a.", "c.", "b.")]
    m.net.run(m.mesh)
    assert [outcomes[0].failure for outcomes in found] == [None] * 3


def test_a_job_that_failed_in_a_circle_says_nothing_outside_of_it(scripted):
    m = scripted
    exhausted = []

    def first(task, context):
        for other in ("b.", "b.", "c."):
            yield Need(question(other), Purpose.CLIENT)
            exhausted.append(task.budget.exhausted)
        return outcome_for(task.question)

    m.table.update({"a.": first, "b.": _needs("a."), "c.": _needs("b.")})
    assert m.ask("a.").failure is None
    assert exhausted == [False, False, True]


def test_what_could_not_be_sent_is_known_of_a_sub_query_that_failed_before(scripted):
    m = scripted
    known = []

    def unsent(task, context):
        yield Pause(1)
        task.local_error = Failure(FailureKind.NO_ROUTE, -1, "no route")
        return outcome_for(task.question, task.local_error)

    def needs(task, context):
        yield Need(question("unsent."), Purpose.CLIENT)
        known.append(task.local_error is not None)
        return outcome_for(task.question)

    def both(task, context):
        for other in ("b.", "c."):
            yield Need(question(other), Purpose.CLIENT)
        known.append(task.local_error is not None)
        return outcome_for(task.question)

    m.table.update({"a.": both, "b.": needs, "c.": needs, "unsent.": unsent})
    m.ask("a.")
    assert known == [True, True, False]


def test_two_queries_that_need_the_same_third_are_not_a_cycle(scripted):
    m = scripted

    def third(task, context):
        yield Pause(1)
        return outcome_for(task.question)

    def waits(task, context):
        result = yield Need(question("third."), Purpose.DNSSEC)
        assert isinstance(result, Outcome)
        return outcome_for(task.question)

    m.table.update({"third.": third, "a.": waits, "b.": waits})
    found = [m.start(name)[1] for name in ("a.", "b.")]
    m.net.run(m.mesh)
    assert all(outcomes[0].failure is None for outcomes in found)
    assert m.mesh.statistics()["jobs"] == 3


def test_depth_is_bounded(scripted):
    m = scripted

    class Endless(dict):
        def __missing__(self, name):
            def job(task, context):
                result = yield Need(question("x" + names.to_text(task.question.qname)), Purpose.DNSSEC)
                return outcome_for(task.question, result)
            return job

    m.table = Endless()
    mesh_module.resolve = lambda task, context: m.table[names.to_text(task.question.qname)](task, context)
    assert m.ask("x.").failure.kind is FailureKind.BUDGET
    assert m.mesh.statistics()["jobs"] == mesh_module.DEPTH + 1


def test_the_exhausted_budget_of_another_query_does_not_fail_this_one(scripted):
    m = scripted
    spent = []

    def shared(task, context):
        yield Pause(1.0)
        if not spent:
            spent.append(task.budget)
            return outcome_for(task.question, Failure(FailureKind.BUDGET, 0, "spent"))
        assert task.budget is not spent[0]
        return outcome_for(task.question)

    def first(task, context):
        result = yield Need(question("shared."), Purpose.DNSSEC)
        return outcome_for(task.question, result if isinstance(result, Failure) else None)

    m.table.update({"shared.": shared, "a.": first, "b.": first})
    found = [m.start(name)[1] for name in ("a.", "b.")]
    m.net.run(m.mesh)
    assert found[0][0].failure.kind is FailureKind.BUDGET
    assert found[1][0].failure is None


class Crypto:
    """Accepts even numbers, at once or when released."""

    def __init__(self, later=False):
        self.later = later
        self.waiting = []

    def verify(self, jobs, on_done):
        results = [job % 2 == 0 for job in jobs]
        if self.later:
            self.waiting.append((on_done, results))
        else:
            on_done(results)


@pytest.mark.parametrize("later", [False, True])
def test_verify_is_carried_out_by_crypto(scripted, later):
    m = scripted
    m.mesh._crypto = crypto = Crypto(later)
    seen = []

    def job(task, context):
        seen.append((yield Verify((1, 2, 4))))
        return outcome_for(task.question)

    m.table["x."] = job
    _, found = m.start("x.")
    for on_done, results in crypto.waiting:
        on_done(results)
        on_done(results)
    assert seen == [[False, True, True]]
    assert len(found) == 1


def test_a_check_that_raises_costs_its_query_only(scripted):
    """The client gets an answer at once and does not wait for its deadline."""
    m = scripted
    m.mesh._crypto = crypto = Crypto(later=True)

    def job(task, context):
        yield Verify((1,))
        return outcome_for(task.question)

    m.table["x."] = job
    _, found = m.start("x.")
    assert not found
    [(on_done, _)] = crypto.waiting
    on_done(ZeroDivisionError("of the library"))
    assert [outcome.failure.kind for outcome in found] == [FailureKind.INTERNAL]
    assert m.mesh.statistics()["internal_errors"] == 1


def test_checks_under_way_at_the_deadline_are_waited_for_and_no_others_begun(scripted):
    m = scripted
    m.mesh._crypto = crypto = Crypto(later=True)
    seen = []

    def job(task, context):
        seen.append((yield Verify((2,))))
        seen.append((yield Verify((2, 4))))
        seen.append((yield Pause(1.0)))
        return outcome_for(task.question, task.budget.failure)

    m.table["x."] = job
    _, found = m.start("x.")
    m.net.sleep(m.mesh, 30.0)
    assert found == []
    on_done, results = crypto.waiting.pop()
    on_done(results)
    assert seen[:2] == [[True], [False, False]]
    assert seen[2].kind is found[0].failure.kind is FailureKind.DEADLINE
    assert crypto.waiting == []


@pytest.mark.parametrize("kind", [FailureKind.BUDGET, FailureKind.OVERLOAD])
def test_the_deadline_holds_after_something_else_ran_out(scripted, kind):
    m = scripted
    m.mesh._crypto = crypto = Crypto(later=True)
    seen = []

    def job(task, context):
        if kind is FailureKind.BUDGET:
            task.budget.lookups = 0
        else:
            m.mesh.set_shed_load(lambda: True)
        seen.append((yield Need(question("y."), Purpose.NS_ADDRESS)).kind)
        yield Pause(limits.DEADLINE.default / 1000 + 1)
        seen.append((yield Ask(Server("192.0.2.1", 53), task.question.qname, c.A, timeout=6.0)).kind)
        seen.append((yield Verify((2,))))
        seen.append((yield Need(question("y."), Purpose.NS_ADDRESS)).kind)
        return outcome_for(task.question, task.budget.failure)

    m.table["x."] = job
    begin = m.net.now
    assert m.ask("x.").failure.kind is FailureKind.DEADLINE
    assert m.net.now - begin <= limits.DEADLINE.default / 1000 + 0.1
    assert seen == [kind, FailureKind.DEADLINE, [False], FailureKind.DEADLINE]
    assert m.net.log == []
    assert crypto.waiting == []


def test_pause_waits_for_its_duration(scripted):
    m = scripted

    def job(task, context):
        yield Pause(1.5)
        return outcome_for(task.question)

    m.table["x."] = job
    begin = m.net.now
    m.ask("x.")
    assert m.net.now - begin == pytest.approx(1.5, abs=0.001)


def test_late_replies_of_a_cancelled_ask_are_not_delivered(scripted):
    m = scripted
    started = []
    m.mesh._queries._exchange = exchange = type("Held", (), {})()

    class Handle:
        cancelled = False

        def cancel(self):
            self.cancelled = True

    def start(ask, on_reply):
        handle = Handle()
        started.append((handle, on_reply))
        return handle

    exchange.start = start

    def job(task, context):
        result = yield Ask(Server("192.0.2.1", 53), names.ROOT, c.NS, timeout=1.0)
        return outcome_for(task.question, result)

    m.table["x."] = job
    ticket, found = m.start("x.")
    m.mesh.cancel(ticket)
    handle, on_reply = started[0]
    assert handle.cancelled
    on_reply(Failure(FailureKind.TIMEOUT, 0, "late"))
    assert found == []


def test_local_policy_answers_first():
    m = build()
    local = Outcome(question("localhost."), c.NOERROR, [], [], 0, 0)

    class Policy:
        def answer(self, asked):
            return local if asked.key[0] == names.from_text("localhost.") else None

    m.mesh._context.policy = Policy()
    assert m.ask("localhost.") is local
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert not m.net.asked(qname="localhost.")


def test_after_forget_the_delegation_is_read_again():
    m = build()
    m.ask("www.example.com.")
    zone = names.from_text("example.com.")
    delegations = m.mesh._context.delegations
    for forget in (lambda: m.mesh.forget(), lambda: m.mesh.forget(zone), lambda: m.mesh.forget(zone, subtree=True)):
        assert delegations.closest(zone, m.net.time()) is delegations.closest(zone, m.net.time())
        before = delegations.closest(zone, m.net.time())
        forget()
        assert delegations.closest(zone, m.net.time()) is not before


# --- flushing -----------------------------------------------------------------------------------------------------


def test_a_question_after_a_flush_does_not_wait_for_one_from_before():
    m = build()
    m.ask("x.example.com.")
    _, old = m.start("www.example.com.")
    m.net.run(m.mesh, seconds=0.005)
    m.store.drop(names.from_text("www.example.com."))
    _, new = m.start("www.example.com.")
    m.net.run(m.mesh)
    assert addresses(old[0]) == addresses(new[0]) == ["192.0.2.80"]
    assert len(m.net.asked(qname="www.example.com.")) == 2
    assert new[0].serial == m.store.table.serial != old[0].serial


def test_results_of_queries_running_at_a_flush_are_not_cached():
    m = build()
    _, found = m.start("www.example.com.")
    m.net.run(m.mesh, seconds=0.005)
    m.store.drop(names.from_text("example.com."), subtree=True)
    m.net.run(m.mesh)
    assert addresses(found[0]) == ["192.0.2.80"]
    for name in ("www.example.com.", "example.com.", "com."):
        for rtype in (c.A, c.NS):
            assert m.store.rrsets.find(names.from_text(name), rtype, m.net.time()) is None
    asked = len(m.net.asked(address="192.5.6.30"))
    m.ask("www.example.com.")
    assert len(m.net.asked(address="192.5.6.30")) > asked, "the delegation it had found is asked for again"


def test_an_alias_read_before_a_flush_is_not_stored_with_what_was_read_after():
    m = build()
    m.ask("alias.example.com.")
    m.store.rrsets.drop(names.from_text("www.example.com."), c.A)
    _, found = m.start("alias.example.com.")  # reads the alias from the cache, asks for its target
    m.net.run(m.mesh, seconds=0.005)
    m.store.drop(names.from_text("alias.example.com."))
    m.net.run(m.mesh)
    assert found[0].rcode == c.NOERROR
    assert found[0].serial != m.store.table.serial
    assert m.store.rrsets.find(names.from_text("alias.example.com."), c.CNAME, m.net.time()) is None


def test_a_flush_by_another_worker_empties_the_worker_tables():
    m = build()
    m.ask("www.example.com.")
    m.store.drop(names.from_text("elsewhere.test."))  # as another process would: the mesh gets no call
    asked = len(m.net.log)
    m.store.rrsets.drop(names.from_text("com."), c.NS)
    m.store.rrsets.drop(names.from_text("example.com."), c.NS)
    m.ask("x.example.com.")
    assert "192.5.6.30" in {entry.address for entry in m.net.log[asked:]}


def test_a_question_without_recursion_gets_the_delegation_that_is_known():
    m = build()
    m.ask("www.example.com.")
    asked = len(m.net.log)
    outcome = m.mesh.peek(question("elsewhere.example.com."))
    assert (outcome.rcode, outcome.answer, outcome.authoritative) == (c.NOERROR, [], False)
    [ns] = outcome.authority
    assert (ns.rtype, names.to_text(ns.name)) == (c.NS, "example.com.")
    assert sorted(names.to_text(rrset.name) for rrset in outcome.additional) == ["ns1.example.com.", "ns2.example.com."]
    assert names.to_text(m.mesh.peek(question("example.com.", c.DS)).authority[0].name) == "com."
    assert outcome.ttl == 0 and len(m.net.log) == asked
    asked = read_query(make_query(1, names.from_text("elsewhere.example.com."), c.A))
    packet = compose(asked, outcome, minimal=True, minimal_any=True)
    view = MessageView.parse(packet)
    assert not view.aa and [rrset.rtype for rrset in view.authority] == [c.NS]
    assert len(view.additional) == 2
    m.store.clear()
    assert m.mesh.peek(question("elsewhere.example.com.")) is None


def test_a_query_ended_for_another_that_needs_the_same_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both wait for a job that ends with another query's budget. The newer starts again; the older is ended for it."""

    def steps(task, _context):
        name = names.to_text(task.question.qname)
        if name.startswith("shared."):
            yield Pause(7.0)
            return outcome_for(task.question, Failure(FailureKind.BUDGET, 0, "spent"))
        if name.startswith("older."):
            yield Pause(1.95)
        if name.startswith("filler"):
            yield Pause(0.06)
            if name[6] in "012345":
                yield Need(question("below" + name), Purpose.NS_ADDRESS)
            yield Pause(100.0)
        if name.startswith("below"):
            yield Pause(100.0)
        found = yield Need(question("shared.test."), Purpose.NS_ADDRESS)
        return outcome_for(task.question, found)

    m = build()
    m.mesh._quota.capacity = 21
    monkeypatch.setattr(mesh_module, "resolve", steps)
    got = {}

    def submit(name, network):
        m.mesh.submit(question(f"{name}.test."), query=Query(network=network),
                      on_done=lambda outcome: got.setdefault(name, outcome))

    submit("first", "M")
    m.net.sleep(m.mesh, 5.0)
    submit("older", "N")
    m.net.sleep(m.mesh, 1.9)
    submit("younger", "N")
    for number in range(8):
        submit(f"filler{number}", "N")
    m.net.sleep(m.mesh, 40.0)
    assert got["older"].failure.kind is FailureKind.OVERLOAD
    assert got.keys() == {"first", "older", "younger", *(f"filler{number}" for number in range(8))}
    assert m.mesh._quota.held == 0


def test_those_who_watch_get_the_queries_to_servers_and_the_zones_of_names():
    links = {"192.0.2.1": Link(loss=1.0)}
    m = build(links=links)
    ended = []
    m.mesh.watch(lambda zone, seconds, replied: ended.append((names.to_text(zone), round(seconds, 2), replied)))
    for number in range(4):
        m.ask(f"x{number}.example.com.")
    assert ("com.", 0.01, True) in ended
    lost = [seconds for zone, seconds, replied in ended if zone == "example.com." and not replied]
    assert lost and min(lost) > 0.1
    assert [names.to_text(m.mesh.zone_of(names.from_text(name))) for name in ("www.example.com.", "com.", "se.")] == [
        "example.com.", "com.", "."]
    m.mesh.watch(None)
    ended.clear()
    m.ask("another.example.com.")
    assert not ended
