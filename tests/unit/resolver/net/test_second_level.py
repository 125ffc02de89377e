"""The driver of the second-level cache with an engine in memory: time, limits, the circuit breaker, messages."""

import asyncio
import gc
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from support.waiting import turns, until

from resolver import limits
from resolver.cache.fleet_messages import FleetCodec, Message
from resolver.cache.second_level import Codec, SharedReply, Signer
from resolver.effects import Budget, Fetch, RawReply, Server
from resolver.net import second_level
from resolver.net.circuit_breaker import CircuitBreaker, State
from resolver.net.clock_random import Clock
from resolver.net.redis_engine import EngineError, Value
from resolver.net.second_level import SecondLevel
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset

WWW = names.from_text("www.example.com.")
LONG = 30.0


class Engine:
    """A dictionary; `gate` holds its answers back, `held_key` those with this key (`holds` tells), `broken` makes it
    fail, `full` makes it refuse writes."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.broken = self.full = self.closed = self.holds = False
        self.held_key = b""
        self.batches: list[int] = []
        self.complaints: list[str] = []

    async def _answer(self) -> None:
        if self.broken:
            raise EngineError("Connection refused")
        await self.gate.wait()

    async def get(self, keys: Sequence[bytes], longest: int) -> list[Value]:
        self.batches.append(len(keys))
        await self._answer()
        while self.held_key and self.held_key in keys:
            self.holds = True
            await asyncio.sleep(0)
        return [self.values.get(key, b"")[:longest] for key in keys]

    async def put(self, entries: Sequence[tuple[bytes, bytes, int]]) -> list[str]:
        await self._answer()
        if self.full:
            return ["OOM command not allowed"] * len(entries)
        self.values.update((key, value) for key, value, _ in entries)
        return []

    async def next_number(self, key: bytes) -> int:
        await self._answer()
        number = int(self.values.get(key, b"0")) + 1
        self.values[key] = b"%d" % number
        return number

    def problems(self) -> list[str]:
        return list(self.complaints)

    async def close(self) -> None:
        self.closed = True


class Member:
    """One resolver of the fleet."""

    def __init__(
        self, engine: Engine, *, sender: str = "one", max_wait: float = LONG, engine_id: str = "",
        acts_from: int | None = None,
    ) -> None:
        self.engine = engine
        self.replies: list[SharedReply | None] = []
        self.messages: list[Message] = []
        signer = Signer(b"s" * 32)
        self.second = SecondLevel(
            asyncio.get_running_loop(), engine=engine, codec=Codec(signer, b"label", "test:"),
            fleet=FleetCodec(signer, "test:", sender), key_prefix="test:", max_wait=max_wait, clock=Clock(),
            after_batch=lambda: None, engine_id=engine_id,
        )
        self.second.on_message = self.messages.append
        self.second.acts_from = acts_from
        self.second.open()

    async def ready(self) -> "Member":
        await until(lambda: self.second.breaker.is_closed, "a closed breaker")
        return self

    def fetch(self, name: bytes = WWW, budget: Budget | None = None) -> object:
        return self.second.start(Fetch(name, c.A, budget or Budget(1, 1.0)), self.replies.append)

    def share(self, name: bytes = WWW) -> None:
        raw = RawReply(name, c.A)
        raw.answer.append(RRset(name, c.A, 300, [bytes(4)], verdict=Verdict.SECURE))
        raw.server = Server("192.0.2.1", 53)
        self.second.share(raw, Verdict.SECURE, Clock().time())

    async def write(self, name: bytes = WWW) -> None:
        before = self.counts["writes"]
        self.share(name)
        await until(lambda: self.counts["writes"] > before, "an entry in the engine")

    @property
    def counts(self) -> dict[str, Any]:
        return self.second.statistics()


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(body())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_level, "POLL", 0.001)


def test_look_ups_that_begin_together_are_one_batch() -> None:
    async def body() -> None:
        member = await Member(Engine()).ready()
        await member.write()
        member.engine.batches.clear()
        for name in (WWW, names.from_text("x.example.com."), WWW):
            assert member.fetch(name) is not None
        assert not member.replies, "never from inside start"
        await until(lambda: len(member.replies) == 3, "three replies")
        assert [reply is not None for reply in member.replies] == [True, False, True]
        assert 3 in member.engine.batches
        assert (member.counts["hits"], member.counts["misses"], member.counts["in_flight"]) == (2, 1, 0)
        member.second.close()
        await until(lambda: member.engine.closed, "a closed engine")

    run(body)


def test_a_silent_engine_is_not_waited_for_and_then_not_asked() -> None:
    async def body() -> None:
        member = await Member(Engine(), max_wait=0.01).ready()
        member.engine.gate.clear()
        budget = Budget(1, 1.0)
        for number in range(limits.SECOND_LEVEL_FAILURES):
            assert member.fetch(budget=Budget(1, 1.0)) is not None
            await until(lambda number=number: len(member.replies) == number + 1, "the end of the wait")
        assert member.replies == [None] * limits.SECOND_LEVEL_FAILURES
        assert not member.second.breaker.is_closed
        assert member.fetch(budget=budget) is None, "the next query does not wait at all"
        assert member.counts["late"] == limits.SECOND_LEVEL_FAILURES
        assert member.counts["skipped"] == 1
        member.share()
        assert member.counts["writes_dropped"] == 1
        member.second.close()
        await turns()

    run(body)


def test_one_query_waits_once_for_its_whole_budget() -> None:
    async def body() -> None:
        member = await Member(Engine(), max_wait=0.01).ready()
        member.engine.gate.clear()
        budget = Budget(1, 1.0)
        assert member.fetch(budget=budget) is not None
        await until(lambda: member.replies == [None], "the end of the wait")
        assert budget.fetching >= 0.01
        assert member.fetch(budget=budget) is None
        member.second.close()
        await turns()

    run(body)


def test_look_ups_and_writes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SECOND_LEVEL_IN_FLIGHT", 4)
    monkeypatch.setattr(limits, "SECOND_LEVEL_BATCHES", 1)
    monkeypatch.setattr(limits, "SECOND_LEVEL_WRITES", 2)

    async def body() -> None:
        member = await Member(Engine()).ready()
        member.engine.gate.clear()
        assert all(member.fetch() is not None for _ in range(2))
        await turns()
        assert all(member.fetch() is not None for _ in range(2)), "they wait for the end of the first batch"
        assert member.fetch() is None
        assert member.counts["in_flight"] == 4
        for _ in range(70):
            member.share()
        assert member.counts["waiting_writes"] == 2
        assert member.counts["writes_dropped"] == 68
        held = {one.name: one for one in member.second.memory()}
        assert held["second_level_look_ups"].octets == 4 * limits.SECOND_LEVEL_LOOK_UP_OCTETS
        assert 50 < held["second_level_writes"].octets - 2 * limits.SECOND_LEVEL_WRITE_OCTETS < 2 * 1000
        assert held["second_level_writes"].limit == 2 * (limits.SECOND_LEVEL_ENTRY + limits.SECOND_LEVEL_WRITE_OCTETS)
        member.engine.gate.set()
        await until(lambda: len(member.replies) == 4, "all replies")
        await until(lambda: member.counts["in_flight"] == 0, "nothing in flight")
        member.second.close()
        await turns()

    run(body)


def test_a_cancelled_look_up_is_not_called_back() -> None:
    async def body() -> None:
        member = await Member(Engine()).ready()
        look_up = member.fetch()
        look_up.cancel()  # type: ignore[attr-defined]
        await until(lambda: member.counts["in_flight"] == 0, "nothing in flight")
        assert not member.replies
        member.second.close()
        await turns()

    run(body)


def test_a_broken_engine_is_probed_until_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        engine = Engine()
        engine.broken = True
        member = Member(engine)
        member.second.breaker._pause = 0.0005
        await until(lambda: member.second.breaker.state is State.OPEN and member.second.trouble, "a failed probe")
        assert member.fetch() is None
        engine.broken = False
        await member.ready()
        assert member.second.trouble == ""
        member.second.close()
        await turns()

    run(body)


def test_a_full_engine_is_still_read() -> None:
    async def body() -> None:
        member = await Member(Engine()).ready()
        await member.write()
        member.engine.full = True
        member.share(names.from_text("x.example.com."))
        await until(lambda: member.counts["writes_failed"] == 1, "a refused entry")
        member.fetch()
        await until(lambda: bool(member.replies), "a reply")
        assert member.replies[0] is not None
        assert member.second.breaker.is_closed
        member.second.close()
        await turns()

    run(body)


def test_what_a_full_engine_refuses_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def body() -> None:
        member = await Member(Engine()).ready()
        assert member.second.problems() == []
        member.engine.full = True
        for number in range(3):
            member.share(names.from_text(f"x{number}.example.com."))
            await until(lambda number=number: member.counts["writes_failed"] == number + 1, "a refused entry")
        member.second.flush(WWW, fleet=True)
        await until(lambda: bool(member.second.problems()), "a message that waits")
        [problem] = member.second.problems()
        assert "messages to the fleet, such as flushes, wait (1)" in problem and "OOM command not allowed" in problem
        member.engine.full = False
        await until(lambda: member.counts["messages_sent"] == 1, "the message is sent by the next poll")
        assert member.second.problems() == []
        member.engine.complaints = ["a reply is refused"]
        assert member.second.problems() == ["a reply is refused"], "what the engine has to say is passed on"
        member.second.close()
        await turns()

    run(body)
    lines = [line for line in caplog.messages if "OOM" in line]
    assert len(lines) == 2 and "the engine refuses entries" in lines[0] and "messages to the fleet wait" in lines[1]


def test_a_flush_from_before_the_start_concerns_an_older_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        engine, now = Engine(), Clock().time()
        one = await Member(engine).ready()
        for name in (WWW, names.from_text("x.example.com.")):
            one.second.flush(name, fleet=True)
        await until(lambda: len(one.messages) == 2, "both messages")
        skew = limits.SECOND_LEVEL_CLOCK_SKEW
        for since, heard in ((now + 100, 0), (now - skew, 2), (now - 500, 2)):
            read: list[int] = []
            late = Member(engine, sender=f"late {since}", acts_from=since)
            late.second.on_read = read.append
            await until(lambda read=read: bool(read), "a poll")
            assert len(late.messages) == heard and now <= read[0] <= Clock().time()
            late.second.close()
        monkeypatch.setattr(second_level, "WINDOW", 1)
        late = Member(engine, sender="later", acts_from=now - 500)
        await until(lambda: bool(late.messages), "the messages")
        assert [message.fields["name"] for message in late.messages] == ["x.example.com.", None], "one was not read"
        late.second.close()
        one.second.close()
        await turns()

    run(body)


def test_a_flush_reaches_all_and_hides_older_entries() -> None:
    async def body() -> None:
        engine = Engine()
        one, two = await Member(engine).ready(), await Member(engine, sender="two").ready()
        await one.write()
        one.second.flush(WWW, fleet=True)
        await until(lambda: bool(two.messages and one.messages), "the message")
        assert [message.own for message in (*one.messages, *two.messages)] == [True, False]
        assert two.messages[0].fields == {"name": "www.example.com.", "subtree": False, "type": None, "caches": True}
        late = await Member(engine, sender="three").ready()
        assert not late.messages, "an older flush leaves its mark only"
        for member in (one, two, late):
            member.fetch()
            await until(lambda member=member: bool(member.replies), "a reply")
            assert member.replies == [None]
            assert member.counts["rejected"]["flushed"] == 1
            member.second.close()
        await turns()

    run(body)


def test_messages_wait_for_the_engine_and_keep_their_order() -> None:
    async def body() -> None:
        engine = Engine()
        two = await Member(engine, sender="two").ready()
        engine.broken = True
        one = Member(engine)
        for number in range(limits.FLEET_OUTBOX):
            one.second.publish("nta-add", {"number": number})
        with pytest.raises(ValueError, match="cannot be reached"):
            one.second.publish("nta-add", {})
        await turns()
        engine.broken = False
        await one.ready()
        await until(lambda: len(two.messages) == limits.FLEET_OUTBOX, "all messages")
        assert [message.fields["number"] for message in two.messages] == list(range(limits.FLEET_OUTBOX))
        later = await Member(engine, sender="three").ready()
        assert not later.messages, "those that came before its start have no effect"
        later.second.close()
        one.second.close()
        two.second.close()
        await turns()

    run(body)


def test_more_messages_than_are_read_count_as_a_flush_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_level, "WINDOW", 3)

    async def body() -> None:
        engine = Engine()
        one = await Member(engine).ready()
        await one.write()
        for number in range(5):
            one.second.flush(names.from_text(f"n{number}.test."))
        await until(lambda: one.counts["messages_sent"] == 5, "the messages")
        two = await Member(engine, sender="two").ready()
        two.fetch()
        await until(lambda: bool(two.replies), "a reply")
        assert two.replies == [None]
        assert two.counts["rejected"]["flushed"] == 1
        one.second.close()
        two.second.close()
        await turns()

    run(body)


def test_a_counter_that_is_no_number_keeps_the_engine_unused() -> None:
    async def body() -> None:
        engine = Engine()
        engine.values[b"test:{fleet}"] = b"garbage"
        member = Member(engine)
        await until(lambda: "test:{fleet}" in member.second.trouble, "the reason")
        assert not member.second.breaker.is_closed
        member.second.close()
        await turns()

    run(body)


def test_a_replacement_takes_marks_and_waiting_messages() -> None:
    async def body() -> None:
        engine = Engine()
        engine.broken = True
        old, new = Member(engine), Member(engine, sender="new")
        old.second.flush(WWW)
        new.second.carry_over(old.second)
        assert new.second.marks.covers([WWW], Clock().time())
        assert len(new.second._outbox) == 1
        assert new.second._outbox is old.second._outbox, "sent by whoever reaches the engine first"
        old.second.close()
        new.second.close()
        await turns()

    run(body)


# --- the circuit breaker --------------------------------------------------------------------------------------------


def test_a_breaker_opens_after_failures_in_a_row_and_backs_off() -> None:
    breaker = CircuitBreaker()
    assert not breaker.is_closed
    assert breaker.wait(0.0) == 0
    breaker.begin_probe()
    assert breaker.state is State.PROBING
    breaker.end_probe(0.0, succeeded=True)
    for _ in range(limits.SECOND_LEVEL_FAILURES - 1):
        breaker.failed(1.0)
    breaker.succeeded()
    for _ in range(limits.SECOND_LEVEL_FAILURES - 1):
        breaker.failed(1.0)
    assert breaker.is_closed
    breaker.failed(1.0)
    assert breaker.state is State.OPEN
    first = limits.SECOND_LEVEL_BACKOFF / 1000
    assert breaker.wait(1.0) == first
    pauses = []
    for _ in range(8):
        breaker.begin_probe()
        breaker.end_probe(10.0, succeeded=False)
        pauses.append(breaker.wait(10.0))
    assert pauses[:3] == [2 * first, 4 * first, 8 * first]
    assert pauses[-1] == limits.SECOND_LEVEL_MAX_BACKOFF / 1000
    breaker.begin_probe()
    breaker.end_probe(20.0, succeeded=True)
    assert breaker.is_closed
    assert breaker.opened == 1


def test_an_engine_that_answers_probes_only_is_probed_less_and_less() -> None:
    """Each probe closes the breaker, and the look-ups after it, which are too slow, open it again."""
    breaker, first, pauses = CircuitBreaker(), limits.SECOND_LEVEL_BACKOFF / 1000, []
    for _ in range(8):
        breaker.begin_probe()
        breaker.end_probe(1.0, succeeded=True)
        for _ in range(limits.SECOND_LEVEL_FAILURES):
            breaker.failed(1.0)
        pauses.append(breaker.wait(1.0))
    assert pauses[:3] == [first, 2 * first, 4 * first]
    assert pauses[-1] == limits.SECOND_LEVEL_MAX_BACKOFF / 1000
    breaker.begin_probe()
    breaker.end_probe(1.0, succeeded=True)
    breaker.succeeded()
    breaker.trip(1.0)
    assert breaker.wait(1.0) == first


def test_a_replacement_during_a_send_loses_and_overtakes_no_message() -> None:
    async def body() -> None:
        engine = Engine()
        reported: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))
        old, new, other = [await Member(engine, sender=one).ready() for one in ("one", "two", "three")]
        engine.gate.clear()
        old.second.publish("first", {})
        await turns()
        old.second.publish("second", {})
        new.second.carry_over(old.second)
        new.second.publish("third", {})
        await turns()
        engine.gate.set()
        await until(lambda: len(other.messages) == 3, "all messages")
        assert [message.kind for message in other.messages] == ["first", "second", "third"]
        for member in (old, new, other):
            member.second.close()
        await turns()
        gc.collect()  # a task whose exception nobody has taken is reported when it goes
        assert reported == []

    run(body)


@pytest.mark.parametrize("reads", ["before", "during"])
def test_a_replacement_gets_the_messages_that_its_predecessor_has_not_read(reads: str) -> None:
    """A prepared replacement polls, but nobody listens to it: a flush that it reads must not be lost."""

    async def body() -> None:
        engine, slow = Engine(), Engine()
        slow.values = engine.values
        old, new, other = [
            await Member(at, sender=one).ready() for at, one in ((slow, "old"), (engine, "new"), (engine, "other"))
        ]
        heard, new.second.on_message = new.messages, None
        other.second.flush(WWW, fleet=True)
        await until(lambda: len(old.messages) == 1, "the first message")
        slow.gate.clear()
        await turns()
        await until(lambda: new.counts["messages_received"] == 1, "the first message")
        if reads == "during":
            engine.held_key = b"test:{fleet}:3"
        other.second.flush(None, fleet=True)
        await until(lambda: new.counts["messages_received"] == 2, "the second message")
        other.second.flush(None, fleet=True)
        if reads == "during":
            await until(lambda: engine.holds, "the third message is being read")
        else:
            await until(lambda: new.counts["messages_received"] == 3, "the third message")
        old.second.on_message, new.second.on_message = None, heard.append
        new.second.carry_over(old.second)
        engine.held_key = b""
        await until(lambda: len(heard) == 2, "the messages that the old one has not read")
        assert [one.fields["name"] for one in heard] == [None, None] and len(old.messages) == 1
        slow.gate.set()
        for member in (old, new, other):
            member.second.close()
        await turns()

    run(body)


def test_a_replacement_with_another_engine_reads_its_messages_from_the_beginning() -> None:
    """The messages of the other engine have numbers of their own."""

    async def body() -> None:
        first, second = Engine(), Engine()
        old, other = await Member(first, engine_id="first").ready(), await Member(second, sender="other").ready()
        old.second.flush(names.from_text("old.test."))
        await until(lambda: len(old.messages) == 1, "one message")
        for name in (WWW, names.from_text("other.test.")):
            other.second.flush(name)
        await until(lambda: len(other.messages) == 2, "two messages")
        new = Member(second, sender="new", engine_id="second")
        new.second.carry_over(old.second)
        await new.ready()
        assert new.second.marks.covers([WWW], Clock().time())
        for member in (old, new, other):
            member.second.close()
        await turns()

    run(body)


def test_the_engine_is_used_only_when_all_messages_are_read() -> None:
    """The predecessor is behind, and is replaced while the replacement reads messages for the first time."""

    async def body() -> None:
        slow, engine = Engine(), Engine()
        slow.values = engine.values
        old, other = await Member(slow, sender="old").ready(), await Member(engine, sender="other").ready()
        slow.gate.clear()
        await turns()
        other.second.flush(WWW)
        await until(lambda: len(other.messages) == 1, "the message")
        held = Engine()
        held.values, held.held_key = engine.values, b"test:{fleet}:1"
        new = Member(held, sender="new")
        await until(lambda: held.holds, "the message is being read")
        new.second.carry_over(old.second)
        held.held_key = b""
        while not new.second.breaker.is_closed:
            await asyncio.sleep(0)
        assert new.second.marks.covers([WWW], Clock().time())
        slow.gate.set()
        for member in (old, new, other):
            member.second.close()
        await turns()

    run(body)


@pytest.mark.parametrize("field", ["name", "type"])
def test_a_flush_with_a_field_that_is_no_text_is_rejected(field: str) -> None:
    async def body() -> None:
        engine = Engine()
        one, two = await Member(engine).ready(), await Member(engine, sender="two").ready()
        one.second.publish("flush", {"name": None, "subtree": False, "type": None, "caches": True, field: 5})
        await until(lambda: two.counts["rejected"]["malformed"] == 1, "a rejected message")
        assert not two.messages
        for member in (one, two):
            member.second.close()
        await turns()

    run(body)
