"""Equal queries to one server share one packet (`resolver/query_sharing.py`); the exchange here is a list."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from math import log2
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis.strategies import DataObject, data, floats, integers, sampled_from

from resolver import limits
from resolver.effects import Ask, Failure, FailureKind, Reply, Server
from resolver.query_sharing import QuerySharing, ReplyCopy
from resolver.upstream_address import Encryption
from resolver.wire import MessageView
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import Builder
from resolver.wire.rrset import RRset

SERVER = Server("192.0.2.1", 53)
NAME = names.from_text("www.example.com.")
TIMEOUT = Failure(FailureKind.TIMEOUT, c.EDE_NO_REACHABLE_AUTHORITY, "no reply in time")


@dataclass
class Sent:
    ask: Ask
    on_reply: Any
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Harness:
    """An exchange that keeps what it was given, and the results of jobs, which are strings here."""

    now: float = 100.0
    sent: list[Sent] = field(default_factory=list)
    results: list[tuple[str, Reply | Failure]] = field(default_factory=list)
    calls: int = 0
    outstanding: Counter[object] = field(default_factory=Counter)
    error: Exception | None = None
    clock_error: Exception | None = None

    def __post_init__(self) -> None:
        self.sharing = QuerySharing(self, self, self.monotonic, self.take)

    def monotonic(self) -> float:
        if self.clock_error is not None:
            raise self.clock_error
        return self.now

    def start(self, ask: Ask, on_reply: Any) -> Sent:
        if self.error is not None:
            raise self.error
        self.sent.append(Sent(ask, on_reply))
        return self.sent[-1]

    def take_server(self, key: object, zone: bytes) -> None:
        self.outstanding[key, zone] += 1

    def give_server(self, key: object, zone: bytes) -> None:
        self.outstanding[key, zone] -= 1
        assert self.outstanding[key, zone] >= 0

    def take(self, results: Any) -> None:
        self.calls += 1
        self.results += results

    def ask(self, job: str, serial: int = 1, **changes: Any) -> Any:
        return self.sharing.start(query(**changes), job, serial)  # type: ignore[arg-type]

    def in_flight(self) -> int:
        """The number of queries that are outstanding, which must be that of the quota."""
        count = sum(len(equal) for equal in self.sharing._in_flight.values())
        assert sum(self.outstanding.values()) == count
        return count

    def jobs(self) -> list[str]:
        return [job for job, _ in self.results]


def query(*, server: Server = SERVER, qname: bytes = NAME, qtype: int = c.A, timeout: float = 1.0, **more: Any) -> Ask:
    return Ask(server, qname, qtype, timeout=timeout, **more)


def reply(ask: Ask) -> Reply:
    """A reply with one CNAME record whose owner is compressed against the question."""
    builder = Builder(4096)
    builder.start(7, c.QR, ask.qname, ask.qtype)
    builder.add(c.ANSWER, RRset(ask.qname, c.CNAME, 60, [names.from_text("other.example.com.")]))
    return Reply(MessageView.parse(builder.finish()), 0.01, False, ask.server)


@pytest.fixture
def harness() -> Harness:
    return Harness()


def test_one_packet_and_one_batch_of_results(harness: Harness) -> None:
    for k in range(100):
        harness.ask(f"job {k}")
    assert len(harness.sent) == harness.sharing.sent == 1
    harness.sent[0].on_reply(reply(harness.sent[0].ask))
    assert harness.jobs() == [f"job {k}" for k in range(100)]
    assert harness.calls == 1
    assert not harness.in_flight()
    assert [result for _, result in harness.results if isinstance(result, Reply)] == [harness.results[0][1]]


def test_each_job_has_its_own_copy_in_its_own_spelling(harness: Harness) -> None:
    harness.ask("a")
    harness.ask("b", qname=names.from_text("WWW.Example.com."))
    harness.sent[0].on_reply(reply(harness.sent[0].ask))
    views = [(result.make() if isinstance(result, ReplyCopy) else result).view
             for _, result in harness.results if not isinstance(result, Failure)]
    assert [names.to_text(view.answer[0].name) for view in views] == ["www.example.com.", "WWW.Example.com."]
    assert [view.qname for view in views] == [NAME, names.from_text("WWW.Example.com.")]
    views[0].answer[0].trust = 7
    assert views[1].answer[0].trust != 7


@pytest.mark.parametrize("changes", [
    {"server": Server("192.0.2.2", 53)}, {"server": Server("192.0.2.1", 54)},
    {"server": Server("192.0.2.1", 53, None, Encryption("tls"))}, {"qname": names.from_text("w.example.com.")},
    {"qtype": c.AAAA}, {"tcp": True}, {"edns_payload": None}, {"do": False}, {"rd": True}, {"checking_disabled": True},
    {"randomise_case": False}, {"cookie": b"12345678"}, {"subnet": b"\0\1\x18\0\xc6\x33\x64"},
], ids=str)
def test_what_decides_about_the_reply_is_not_shared(harness: Harness, changes: dict[str, Any]) -> None:
    harness.ask("a")
    harness.ask("b", **changes)
    assert len(harness.sent) == 2


def test_a_cookie_that_has_changed_is_no_difference(harness: Harness) -> None:
    harness.ask("a", cookie=b"12345678old-cookie")
    harness.ask("b", cookie=b"12345678new-cookie")
    assert len(harness.sent) == 1


def test_the_first_is_cancelled(harness: Harness) -> None:
    first, _second = harness.ask("a"), harness.ask("b")
    first.cancel()
    first.cancel()
    harness.ask("c")
    assert [one.cancelled for one in harness.sent] == [False]
    harness.sent[0].on_reply(reply(harness.sent[0].ask))
    assert harness.jobs() == ["b", "c"]


def test_all_are_cancelled(harness: Harness) -> None:
    for one in (harness.ask("a"), harness.ask("b")):
        one.cancel()
    assert harness.sent[0].cancelled
    harness.ask("c")
    assert len(harness.sent) == 2, "what was cancelled cannot be joined"


def test_after_a_flush_none_joins_what_was_sent_before(harness: Harness) -> None:
    """Jobs that began before it still share with each other: a flush must not undo the bound."""
    for k in range(10):
        harness.ask(f"old {k}")
        harness.ask(f"new {k}", serial=2)
    assert len(harness.sent) == 2
    for sent in harness.sent:
        sent.on_reply(reply(sent.ask))
    assert [job.split()[0] for job in harness.jobs()] == ["old"] * 10 + ["new"] * 10


def test_one_job_notes_what_the_result_says_about_the_server(harness: Harness) -> None:
    """The one with the longest timeout: after less, a timeout says nothing."""
    waiting = [harness.ask(f"job {k}", timeout=timeout) for k, timeout in enumerate((1.0, 0.5, 0.7, 0.6))]
    waiting[0].cancel()
    harness.sent[0].on_reply(reply(harness.sent[0].ask))
    assert [one.ask.joined for one in waiting[1:]] == [True, False, True]


@pytest.mark.parametrize("kind", [FailureKind.BUDGET, FailureKind.DEADLINE, FailureKind.CANCELLED])
def test_a_spent_budget_ends_only_its_own_query(harness: Harness, kind: FailureKind) -> None:
    for job in "abc":
        harness.ask(job)
    failure = Failure(kind, c.EDE_OTHER, "spent")
    harness.sent[0].on_reply(failure)
    assert harness.results == [("a", failure)]
    assert len(harness.sent) == 2, "sent again for the next, which the others join"
    harness.sent[1].on_reply(reply(harness.sent[1].ask))
    assert harness.jobs() == ["a", "b", "c"]


@pytest.mark.parametrize("kind", [FailureKind.NETWORK, FailureKind.CASE_MISMATCH, FailureKind.SPOOF_SUSPECTED,
                                  FailureKind.LOCAL_RESOURCE, FailureKind.NO_ROUTE])
def test_other_failures_are_for_all(harness: Harness, kind: FailureKind) -> None:
    for job in "abc":
        harness.ask(job)
    harness.sent[0].on_reply(Failure(kind, c.EDE_OTHER, "failed"))
    assert harness.jobs() == ["a", "b", "c"]
    assert len(harness.sent) == 1


def test_a_timeout_is_for_those_who_have_waited_for_their_own(harness: Harness) -> None:
    """Others would count the server as dead, or lose a try, without having given it its time."""
    harness.ask("a", timeout=1.0)
    harness.now += 0.05
    harness.ask("as early", timeout=1.0)
    harness.now += 0.75
    harness.ask("late", timeout=1.0)
    harness.ask("longer", timeout=1.5)
    harness.ask("shorter", timeout=0.2)
    harness.now += 0.2
    harness.sent[0].on_reply(TIMEOUT)
    assert harness.jobs() == ["a", "as early", "shorter"]
    assert harness.sent[1].ask.timeout == 1.5
    harness.now += 1.5
    harness.sent[1].on_reply(TIMEOUT)
    assert harness.jobs() == ["a", "as early", "shorter", "longer", "late"]
    assert len(harness.sent) == 2


def test_of_those_sent_again_the_longest_is_the_first(harness: Harness) -> None:
    harness.ask("short", timeout=0.1)
    harness.ask("also short", timeout=0.1)
    harness.ask("middle", timeout=0.5)
    harness.ask("long", timeout=1.0)
    harness.now += 0.1
    harness.sent[0].on_reply(TIMEOUT)
    assert harness.jobs() == ["short", "also short"]
    assert [one.ask.timeout for one in harness.sent] == [0.1, 1.0]
    assert harness.in_flight() == 1


def test_what_is_sent_again_joins_no_shorter_packet(harness: Harness) -> None:
    """Else queries that end early could follow each other, so that the server never has the time of a longer one."""
    harness.ask("first", timeout=0.1)
    harness.ask("long", timeout=0.8)
    harness.now += 0.05
    harness.ask("short", timeout=0.01)
    harness.sent[0].on_reply(Failure(FailureKind.BUDGET, c.EDE_OTHER, "spent"))
    assert [one.ask.timeout for one in harness.sent] == [0.1, 0.01, 0.8]
    harness.sent[1].on_reply(TIMEOUT)
    assert harness.jobs() == ["first", "short"]


def test_none_waits_long_for_a_dead_server(harness: Harness) -> None:
    harness.ask("dead", timeout=3.0)
    harness.ask("probe", timeout=0.4)
    harness.ask("another probe", timeout=0.4)
    assert [one.ask.timeout for one in harness.sent] == [3.0, 0.4]
    harness.now += 0.4
    harness.sent[1].on_reply(TIMEOUT)
    assert harness.jobs() == ["probe", "another probe"]


def test_what_is_overdue_is_joined_only_by_those_who_have_time(harness: Harness) -> None:
    """An exchange may take longer than the timeout: it must connect, or send once more after a failure over TLS."""
    harness.ask("a", timeout=1.0)
    harness.now += 1.5
    harness.ask("b", timeout=0.5)
    harness.ask("c", timeout=0.4)
    assert [one.ask.timeout for one in harness.sent] == [1.0, 0.4]


def test_falling_timeouts_cause_few_packets(harness: Harness) -> None:
    """The worst order: each query has a little less time than the one before."""
    for k in range(1000):
        harness.ask(f"job {k}", timeout=10 - k * 0.00998)
    assert 1 < len(harness.sent) <= 10
    lengths = [one.ask.timeout for one in harness.sent]
    assert all(later * limits.SHARED_WAIT < earlier for earlier, later in pairwise(lengths))


@pytest.mark.parametrize("ends", ["cancelled", "refused", "timeout"])
def test_short_queries_do_not_hide_longer_ones(harness: Harness, ends: str) -> None:
    """A query with little time is sent by itself. When it has ended, others join the long one again."""
    for k in range(50):
        harness.ask(f"long {k}", timeout=8.0)
        short = harness.ask(f"short {k}", timeout=0.1)
        harness.now += 0.1
        if ends == "cancelled":
            short.cancel()
        else:
            harness.sent[-1].on_reply(
                TIMEOUT if ends == "timeout" else Failure(FailureKind.NETWORK, c.EDE_OTHER, "refused"))
    assert harness.in_flight() == 1
    assert sum(one.ask.timeout == 8.0 for one in harness.sent) == 1


@settings(max_examples=300, deadline=None)
@given(data())
def test_few_equal_queries_are_outstanding(draw: DataObject) -> None:
    """Whatever starts, is cancelled, is answered or runs out of time; each job gets one result. A timeout is only for
    those with a packet that has lasted for their own timeout."""
    harness = Harness()
    waiting: dict[str, Any] = {}
    waited_for: dict[str, set[Any]] = {}
    shortest, longest = 0.05, 1.0

    def in_flight() -> list[Any]:
        return [query for equal in harness.sharing._in_flight.values() for query in equal]

    def end_due(until: float) -> None:
        """Let time pass, with each timeout at its moment."""
        while due := [query for query in in_flight() if query.sent + query.first.ask.timeout <= until]:
            query = min(due, key=lambda query: float(query.sent + query.first.ask.timeout))
            harness.now = query.sent + query.first.ask.timeout
            before = len(harness.results)
            query.on_reply(TIMEOUT)
            for job, _ in harness.results[before:]:
                assert query.first.ask.timeout >= limits.TIMEOUT_WAITED / 100 * waiting.pop(job).ask.timeout
            note()
        harness.now = until

    def note() -> None:
        for query in in_flight():
            for one in query.waiting:
                waited_for.setdefault(one.job, set()).add(query)
                assert len(waited_for[one.job]) <= 2, "it is sent again once"
        assert harness.in_flight() <= 1 + log2(longest / shortest)

    for k in range(draw.draw(integers(1, 60), "steps")):
        what = draw.draw(integers(0, 9), "what")
        if what < 7 or not waiting:
            timeout = draw.draw(floats(shortest, longest), "timeout")
            waiting[f"job {k}"] = harness.ask(f"job {k}", timeout=timeout)
        elif what < 9:
            waiting.pop(draw.draw(sampled_from(sorted(waiting)), "job")).cancel()
        else:
            before = len(harness.results)
            query = draw.draw(sampled_from(in_flight()), "query")
            query.on_reply(reply(query.first.ask))
            for job, _ in harness.results[before:]:
                del waiting[job]
        note()
        end_due(harness.now + draw.draw(sampled_from([0, 0.01, 0.04, 0.3]), "seconds"))
    end_due(harness.now + 9 * longest)
    assert not waiting
    assert len(harness.jobs()) == len(set(harness.jobs()))
    assert not harness.in_flight()


def test_a_name_that_cannot_be_sent(harness: Harness) -> None:
    harness.error = ValueError("not a name")
    with pytest.raises(ValueError, match="not a name"):
        harness.ask("a")
    harness.error = None
    harness.ask("b")
    assert len(harness.sent) == 1


@pytest.mark.parametrize("error", [MemoryError(), OSError()], ids=repr)
def test_a_fault_when_a_query_is_sent_again(harness: Harness, error: Exception) -> None:
    for job in "abc":
        harness.ask(job)
    harness.error = error
    harness.sent[0].on_reply(Failure(FailureKind.BUDGET, c.EDE_OTHER, "spent"))
    assert harness.jobs() == ["a", "b", "c"]
    assert [type(result) for _, result in harness.results] == [Failure, type(error), type(error)]
    assert not harness.in_flight()


def test_results_that_are_lost_for_lack_of_memory_leave_no_trace(harness: Harness) -> None:
    """The jobs end at their deadlines, which cancel their queries. The quota gets the packet back once."""
    waiting = [harness.ask(job) for job in "ab"]
    other = harness.ask("c", qtype=c.AAAA)
    harness.clock_error = MemoryError()
    with pytest.raises(MemoryError):
        harness.sent[0].on_reply(reply(harness.sent[0].ask))
    harness.clock_error = None
    for one in waiting:
        one.cancel()
    assert harness.in_flight() == 1
    other.cancel()
    assert harness.in_flight() == 0


def test_none_is_left_for_a_late_reply(harness: Harness) -> None:
    """All who waited were cancelled while the reply was on its way."""
    one = harness.ask("a")
    sent = harness.sent[0]
    one.cancel()
    sent.on_reply(reply(sent.ask))
    assert harness.results == []
