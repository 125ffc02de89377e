"""Effects and budgets: equality of questions, budgets that only shrink, errors, C layouts that match ``__slots__``."""

import importlib
import re
from pathlib import Path

import pytest

import resolver
from resolver.api import ResolveTimeout, error_from_outcome
from resolver.effects import Budget, Failure, FailureKind, Outcome, Question, RawReply, Server, Task
from resolver.errors import Bogus, NoData, NXDomain, ServerFailure
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

PACKAGE = Path(resolver.__file__).parent
NAME = names.from_text("www.example.com.")


def test_questions_are_equal_without_regard_to_case():
    one, two = Question(NAME, c.A), Question(names.from_text("WWW.Example.COM."), c.A)
    assert one == two
    assert hash(one) == hash(two)
    assert one.qname != two.qname
    assert one != Question(NAME, c.AAAA)
    assert one != Question(NAME, c.A, c.CH)
    assert one != "www.example.com."


def test_a_budget_only_shrinks_and_gives_the_reason():
    budget = Budget(2, 10.0, verifications=5)
    assert budget.take_packet() and budget.take_packet()
    assert budget.failure is None
    assert not budget.exhausted
    assert not budget.take_packet()
    assert budget.failure.kind is FailureKind.BUDGET
    assert budget.exhausted, "what fails from now on is this query's failure"
    assert budget.packets == 0
    assert budget.take_verifications(3)
    assert not budget.take_verifications(3)
    assert budget.take_verifications(2)
    assert budget.verifications == 0


def test_failures_have_their_kind():
    assert Failure(FailureKind.BOGUS, 6, "x").is_bogus
    assert not Failure(FailureKind.BOGUS, 6, "x").is_transient
    assert Failure(FailureKind.DEADLINE, 22, "x").is_timeout
    assert Failure(FailureKind.UNREACHABLE, 22, "x").is_transient


def test_a_task_without_a_trace_records_nothing():
    task = Task(Question(NAME, c.A), Budget(1, 1.0))
    task.note("ask", "nobody listens")
    assert task.trace is None
    task.trace = []
    task.depth = 2
    task.note("ask", "somebody does", rtt=0.5)
    assert (task.trace[0].depth, task.trace[0].rtt) == (2, 0.5)


def test_authority_is_soa_and_proofs():
    raw = RawReply(NAME, c.A)
    assert raw.authority == []
    raw.soa = RRset(NAME, c.SOA, 1, [bytes(22)])
    raw.proofs = [RRset(NAME, c.NSEC, 1, [b"\0\0\1\x40"])]
    assert [rrset.rtype for rrset in raw.authority] == [c.SOA, c.NSEC]


def test_a_server_has_a_hashable_key():
    assert Server("192.0.2.1", 53).key == ("192.0.2.1", 53)


# --- errors -------------------------------------------------------------------------------------------------------


def outcome(rcode=c.NOERROR, answer=(), failure=None):
    return Outcome(Question(NAME, c.A), rcode, list(answer), [], 0, 60, failure=failure)


@pytest.mark.parametrize(
    ("what", "kind", "predicate"),
    [
        (outcome(c.NXDOMAIN), NXDomain, "is_missing"),
        (outcome(), NoData, "is_missing"),
        (outcome(answer=[RRset(NAME, c.CNAME, 1, [b"\1x\0"])]), NoData, "is_missing"),
        (outcome(c.SERVFAIL, failure=Failure(FailureKind.BOGUS, 6, "x")), Bogus, "is_bogus"),
        (outcome(c.SERVFAIL, failure=Failure(FailureKind.DEADLINE, 22, "x")), ResolveTimeout, "is_timeout"),
        (outcome(c.SERVFAIL, failure=Failure(FailureKind.UNREACHABLE, 22, "x")), ServerFailure, "is_transient"),
        (outcome(c.YXDOMAIN), ServerFailure, ""),
    ],
)
def test_outcomes_as_errors(what, kind, predicate):
    error = error_from_outcome(what)
    assert type(error) is kind
    assert "www.example.com. A" in str(error)
    for name in ("is_missing", "is_bogus", "is_timeout"):
        assert getattr(error, name) is (name == predicate)
    assert isinstance(error, TimeoutError) is (kind is ResolveTimeout)


def test_an_answer_is_no_error():
    assert error_from_outcome(outcome(answer=[RRset(NAME, c.A, 1, [bytes(4)])])) is None


# --- layouts ------------------------------------------------------------------------------------------------------


LAYOUTS = ["effects", "jobs", "query_sharing", "mesh", "partial_response", "iterate.scrub", "iterate.query_servers",
           "iterate.delegation", "validate.security_status", "cache.infra", "net.pending_queries",
           "net.driver", "net.reply_sender", "net.service", "query", "query_quota",
           "iterate.fetch_quota", "observe.counters", "observe.histogram", "observe.clients"]


@pytest.mark.parametrize("module", LAYOUTS)
def test_compiled_layouts_have_the_attributes_of_the_slots(module):
    text = PACKAGE.joinpath(*module.split(".")).with_suffix(".pxd").read_text(encoding="utf-8")
    layouts = re.findall(r"^cdef class (\w+)(?:\(\w+\))?:\n((?:    cdef public \w+ \w+\n)+)", text, re.M)
    assert layouts
    loaded = importlib.import_module(f"resolver.{module}")
    for name, body in layouts:
        slots = set(re.findall(r"cdef public \w+ (\w+)", body))
        assert slots == set(vars(getattr(loaded, name)).get("__slots__", slots)), name
