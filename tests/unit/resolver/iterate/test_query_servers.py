"""`query_servers` driven step by step, with replies and failures that no exchange would return."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any

import pytest
from support.minet import build, reply

from resolver import limits
from resolver.effects import Ask, Budget, Failure, FailureKind, Need, Outcome, Question, Reply, Task
from resolver.iterate.delegation import FOREVER, DelegationPoint
from resolver.iterate.query_servers import IterationState, query_servers
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

ZONE = names.from_text("example.com.")
WWW = names.from_text("www.example.com.")


def begin(cut: DelegationPoint, search: IterationState) -> Generator[Any, Any, Any]:
    return query_servers(cut, WWW, c.A, build().mesh._context, Task(Question(WWW, c.A), Budget(100, 1e9)), search)


def play(steps: Generator[Any, Any, Any], answer: Callable[[Any], Any]) -> Any:
    """The result when every effect is resumed with what `answer` returns for it."""
    try:
        effect = next(steps)
        while True:
            effect = steps.send(answer(effect))
    except StopIteration as end:
        return end.value


def of_names(zone: str, count: int) -> DelegationPoint:
    """A zone whose name servers have no addresses that are known."""
    cut = DelegationPoint(names.from_text(zone), FOREVER)
    cut.names = [names.from_text(f"ns{number}.{zone[:-1]}.net.") for number in range(count)]
    cut.missing = list(cut.names)
    return cut


def test_a_reply_to_another_query_is_skipped() -> None:
    cut = DelegationPoint(ZONE, FOREVER)
    cut.add_address(None, "192.0.2.1", 53)
    other = make_query(1, names.from_text("other.example.com."), c.A)
    view = MessageView.parse(reply(other, ["www.example.com. 60 A 6.6.6.6"]))
    got = play(begin(cut, IterationState(frozenset(), WWW)), lambda ask: Reply(view, 0.01, True, ask.server))
    assert isinstance(got, Failure)
    assert got.kind is FailureKind.CASE_MISMATCH


def test_a_query_under_forgery_is_repeated_over_tcp_and_counted_again() -> None:
    cut = DelegationPoint(ZONE, FOREVER)
    cut.add_address(names.from_text("ns1.example.com."), "192.0.2.1", 53)
    for there, last in ((2, FailureKind.NETWORK), (1, FailureKind.BUDGET)):
        asked: list[Ask] = []

        def answer(ask: Ask, asked: list[Ask] = asked) -> Failure:
            asked.append(ask)
            kind = FailureKind.NETWORK if ask.tcp else FailureKind.SPOOF_SUSPECTED
            return Failure(kind, c.EDE_NETWORK_ERROR, "nothing")

        context = build().mesh._context
        task = Task(Question(WWW, c.A), Budget(there, 1e9))
        got = play(query_servers(cut, WWW, c.A, context, task, IterationState(frozenset(), WWW)), answer)
        assert isinstance(got, Failure)
        assert (got.kind is FailureKind.BUDGET) is (last is FailureKind.BUDGET)
        assert [ask.tcp for ask in asked] == [False, True][:there]
        assert task.budget.packets == 0
        info = context.store.servers.find(("192.0.2.1", 53))
        assert info is None or not info.tcp_until, "what a forger says is no news about the server"


def test_the_number_of_name_servers_looked_up_in_one_step_is_bounded() -> None:
    looked_up: list[bytes] = []

    def answer(effect: Need | Ask) -> Outcome | Failure:
        if isinstance(effect, Ask):
            return Failure(FailureKind.NETWORK, c.EDE_NETWORK_ERROR, "refused")
        looked_up.append(effect.question.qname)
        address = RRset(effect.question.qname, c.A, 60, [bytes([192, 0, 2, len(looked_up)])])
        return Outcome(effect.question, c.NOERROR, [address], [], 0, 60)

    assert isinstance(play(begin(of_names("example.com.", 13), IterationState(frozenset(), WWW)), answer), Failure)
    assert len(looked_up) == limits.ADDRESS_LOOKUPS


def test_name_servers_without_an_address_are_counted_over_the_whole_iteration() -> None:
    search = IterationState(frozenset(), WWW)
    looked_up: list[bytes] = []

    def answer(effect: Need) -> Failure:
        looked_up.append(effect.question.qname)
        return Failure(FailureKind.UNREACHABLE, c.EDE_NO_REACHABLE_AUTHORITY, "nobody")

    for zone in ("example.com.", "sub.example.com."):
        assert isinstance(play(begin(of_names(zone, 3), search), answer), Failure)
    assert len(looked_up) == limits.MISSING_ADDRESSES < 2 * 3


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("kind", [FailureKind.TIMEOUT, FailureKind.NETWORK])
@pytest.mark.parametrize(("left", "whole"), [(10.0, True), (0.3, False), (0.01, False), (-1.0, False)])
def test_a_timeout_cut_by_our_deadline_is_not_attributed_to_the_server(
    tcp: bool, kind: FailureKind, left: float, whole: bool
) -> None:
    minet = build()
    context = minet.mesh._context
    servers = context.store.servers
    cut = DelegationPoint(ZONE, FOREVER)
    for number in (1, 2):
        cut.add_address(names.from_text(f"ns{number}.example.com."), f"192.0.2.{number}", 53)
    if tcp:
        for server in cut.servers:
            servers.note_tcp_only(server.key, context.monotonic)
    task = Task(Question(WWW, c.A), Budget(100, context.monotonic + left))
    steps = query_servers(cut, WWW, c.A, context, task, IterationState(frozenset(), WWW))
    ask = next(steps)
    assert ask.tcp is tcp
    steps.send(Failure(kind, 0, "nothing came"))
    info = servers.find(ask.server.key)
    # An unreachable server is reported at once, however long the timeout is.
    assert (0 if info is None else info.timeouts) == (whole or kind is FailureKind.NETWORK)


def test_a_server_that_exceeded_its_own_timeout_is_marked_as_slow() -> None:
    minet = build()
    context = minet.mesh._context
    servers = context.store.servers
    cut = DelegationPoint(ZONE, FOREVER)
    for number in (1, 2):
        cut.add_address(names.from_text(f"ns{number}.example.com."), f"192.0.2.{number}", 53)
        for _ in range(30):
            servers.note_reply(cut.servers[-1].key, ZONE, 0.001, context.monotonic, edns=True)
    # 50 ms are their timeout, and the second time we would wait for twice that, if there was time.
    task = Task(Question(WWW, c.A), Budget(100, context.monotonic + 0.15))
    steps = query_servers(cut, WWW, c.A, context, task, IterationState(frozenset(), WWW))
    first = next(steps)
    second = steps.send(Failure(FailureKind.TIMEOUT, 0, "nothing came"))
    servers.note_reply(first.server.key, ZONE, 0.001, context.monotonic, edns=True)
    again = steps.send(Failure(FailureKind.TIMEOUT, 0, "nothing came"))
    assert again.server is first.server is not second.server
    assert 0.05 < again.timeout < 0.1
    steps.send(Failure(FailureKind.TIMEOUT, 0, "nothing came"))
    info = servers.find(again.server.key)
    assert info is not None
    assert info.timeouts == 1


@pytest.mark.parametrize(
    ("kind", "noted"),
    [
        (None, [(ZONE, 0.25, True)]),
        (FailureKind.TIMEOUT, [(ZONE, 2.5, False)]),
        (FailureKind.NETWORK, [(ZONE, 2.5, False)]),
        (FailureKind.LOCAL_RESOURCE, []),  # nothing was sent
        (FailureKind.DEADLINE, []),
    ],
)
def test_those_who_watch_learn_how_long_queries_took(
    kind: FailureKind | None, noted: list[tuple[bytes, float, bool]]
) -> None:
    cut = DelegationPoint(ZONE, FOREVER)
    cut.add_address(None, "192.0.2.1", 53)
    context = build().mesh._context
    seen: list[tuple[bytes, float, bool]] = []
    context.on_query_end = lambda zone, seconds, replied: seen.append((zone, seconds, replied))
    task = Task(Question(WWW, c.A), Budget(1, 1e9))
    steps = query_servers(cut, WWW, c.A, context, task, IterationState(frozenset(), WWW))
    ask = next(steps)
    assert isinstance(ask, Ask)
    context.monotonic += 2.5
    if kind is None:
        view = MessageView.parse(reply(make_query(1, WWW, c.A), ["www.example.com. 60 A 192.0.2.5"]))
        answer: Reply | Failure = Reply(view, 0.25, False, ask.server)
    else:
        answer = Failure(kind, c.EDE_NETWORK_ERROR, "nothing")
    with contextlib.suppress(StopIteration):
        steps.send(answer)
    assert seen == noted
