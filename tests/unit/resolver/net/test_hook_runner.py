"""Hooks in front of a service: order, decisions, coroutines, time, errors, cancellation, and what is cached."""

import asyncio
import io
import sys
import time

import pytest
from support.http_peer import run_on
from support.service_parts import CLIENT, Parts, Sink, address, failed, positive, query

from resolver import hooks as api
from resolver import limits
from resolver.effects import Question
from resolver.hooks import DROP, PASS, REFUSE, TRUNCATE, Decision, answer
from resolver.net.hook_runner import Hook, HookTasks, ViewHooks
from resolver.net.zone_server import ZoneServer
from resolver.policy import PolicyPipeline
from resolver.query import ActionKind, Query
from resolver.settings import Settings
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.edns import parse_ede
from resolver.wire.message import MessageView
from resolver.zones import Mode, ServedZone, ZoneTable
from resolver.zones.load import read_zone

QNAME = names.from_text("www.example.com.")
OTHER = bytes((192, 0, 2, 99))


class Hooked:
    """A service with hooks in view 0. Each function is named after its point, with any suffix."""

    def __init__(self, *functions, fails=False, timeout=5.0, tasks=None, **server):
        self.tasks = tasks or HookTasks()
        self.hooks = [Hook(f"mod.{one.__name__}", one.__name__.partition("__")[0], one) for one in functions]
        self.view = ViewHooks("", self.hooks, self.tasks, timeout=timeout, fails=fails, interval=0)
        self.parts = Parts(hooks={0: self.view}, **server)
        self.view._now = self.parts.clock.monotonic

    def ask(self, packet=None, **more):
        return self.parts.ask(query() if packet is None else packet, **more)

    @property
    def sent(self):
        return len(self.parts.sink.packets)

    @property
    def last(self):
        return self.parts.sink.last


def addresses(view):
    return [rrset.rdata(n) for rrset in view.answer for n in range(len(rrset))]


async def turns(count=12):
    for _ in range(count):
        await asyncio.sleep(0)


def on_loop(test):
    run_on("corenet", test())


# --- plain functions ----------------------------------------------------------------------------------------------


def test_client_sees_who_asks_and_answers_each_one():
    seen = []

    def client(asker, question):
        seen.append((asker, question))
        return answer("192.0.2.99", ttl=7)

    hooked = Hooked(client)
    assert hooked.ask() is None and hooked.ask(query(identity=78)) is None
    assert (addresses(hooked.last), hooked.last.answer[0].ttl) == ([OTHER], 7)
    asker, question = seen[0]
    assert (str(asker.address), asker.transport, asker.listener, asker.verified, asker.view) == (
        "127.0.0.1", "udp", "127.0.0.1:53", False, "")
    assert question == ("www.example.com.", "A")
    assert len(seen) == 2, "no cached answer passes a hook for clients"
    assert not hooked.parts.plan.views[0].caches
    assert hooked.parts.service.waiting == 0 and not hooked.parts.mesh.tickets


@pytest.mark.parametrize(("decision", "rcode", "flags"), [
    (REFUSE, c.REFUSED, 0), (TRUNCATE, c.NOERROR, c.TC), (DROP, None, 0), (REFUSE.because("no", 15), c.REFUSED, 0),
])
@pytest.mark.parametrize("point", ["client", "send"])
def test_decisions_do_what_they_say(point, decision, rcode, flags):
    def decide(*arguments):
        return decision

    decide.__name__ = point
    hooked = Hooked(decide)
    hooked.ask()
    if point == "send":
        hooked.parts.mesh.finish(positive(address()))
    assert hooked.sent == 1
    if rcode is None:
        assert hooked.parts.sink.packets == [None]
        return
    assert (hooked.last.rcode, hooked.last.flags & c.TC, hooked.last.answer) == (rcode, flags, [])
    if decision.reason and point == "client":
        assert parse_ede(hooked.last.edns.get(c.OPTION_EDE)) == (15, "no")


def test_hooks_are_asked_in_order_until_one_decides_or_passes():
    asked = []

    def client__one(asker, question):
        asked.append(1)

    def client__two(asker, question):
        asked.append(2)
        return PASS

    def client__three(asker, question):
        asked.append(3)

    hooked = Hooked(client__one, client__two, client__three)
    hooked.ask()
    assert asked == [1, 2]
    assert len(hooked.parts.mesh.tickets) == 1
    assert [hook.calls for hook in hooked.hooks] == [1, 1, 0]


def test_an_answer_of_question_is_cached_for_the_view():
    def question(asker, asked):
        assert asker == (None, "", "", False, "")
        return answer("192.0.2.99") if asked.type == "A" else None

    hooked = Hooked(question)
    parts = hooked.parts
    assert parts.plan.views[0].caches
    hooked.ask()
    assert addresses(hooked.last) == [OTHER]
    hit = parts.fast.answer(query(), ("127.0.0.1", 5353), parts.clock.real)
    assert hit is not None and addresses(MessageView.parse(hit)) == [OTHER], "the fast path has it, without the hook"
    assert parts.store.statistics()["entries_answer"] == 1
    assert parts.ask(query(c.AAAA)) is not None, "no objection: it is resolved"
    assert len(parts.mesh.tickets) == 1


def test_response_replaces_an_outcome_before_it_is_cached():
    def response__one(asker, found):
        assert (found.rcode, found.question.name, found.secure) == ("NOERROR", "www.example.com.", False)
        assert found.records == (("www.example.com.", "A", 300, "192.0.2.0"),)
        return answer("192.0.2.98")

    def response__two(asker, found):
        assert [record.data for record in found.records] == ["192.0.2.98"]
        return answer("192.0.2.99", ttl=9)

    hooked = Hooked(response__one, response__two)
    outcome = positive(address())
    outcome.serial = 5
    hooked.ask()
    hooked.parts.mesh.finish(outcome)
    assert (addresses(hooked.last), hooked.last.answer[0].ttl) == ([OTHER], 9)
    assert outcome.answer[0].rdata(0) == bytes((192, 0, 2, 0)), "others share it"


def test_a_hook_for_responses_sees_what_is_prefetched_and_what_is_asked_without_rd():
    def response(asker, found):
        return REFUSE

    cached = {"non_recursive_queries": "cache"}
    hooked = Hooked(response, **cached)
    parts = hooked.parts
    parts.service._renewed(_read(query()), 0, positive(address()))
    assert parts.store.statistics()["entries_answer"] == 0
    for one, rcode in ((hooked, c.REFUSED), (Hooked(**cached), c.NOERROR)):
        one.ask(query(qname=names.from_text("localhost."), flags=0))
        assert one.last.rcode == rcode


def _read(packet):
    from resolver.net.fastpath import read_query

    return read_query(packet)


def test_alias_and_name_server_are_policies_of_the_view():
    def alias(asker, question):
        return answer("192.0.2.99") if question.name == "target.example." else None

    def name_server(asker, question, zone):
        return REFUSE.because("not that zone") if zone == "example." else None

    view = ViewHooks("", [Hook("mod.alias", "alias", alias), Hook("mod.name_server", "name_server", name_server)],
                     HookTasks(), timeout=1, fails=False, interval=0)
    pipeline = PolicyPipeline(Settings(), hooks={0: view}).views[0]
    assert pipeline.caches and pipeline.has_name_server
    target = Question(names.from_text("target.example."), c.A)
    assert pipeline.answer_alias(target).answer[0].rdata(0) == OTHER
    assert pipeline.answer_alias(Question(QNAME, c.A)) is None
    refused = pipeline.name_server(target, names.from_text("example."), [], [])
    assert (refused.rcode, refused.applied.describe()) == (
        c.REFUSED, "policy hooks at point name_server: refuse: mod.name_server: not that zone")
    assert pipeline.name_server(target, names.from_text("com."), [], []) is None
    assert PolicyPipeline(Settings()).views[0].hooks is None


# --- errors -------------------------------------------------------------------------------------------------------


def _raise(*arguments):
    raise ZeroDivisionError("division by zero")


def _exit(*arguments):
    sys.exit(3)


class Panic(BaseException):
    """What extensions in Rust raise is no Exception either."""


def _panic(*arguments):
    raise Panic("index out of bounds")


def _cancel(*arguments):
    raise asyncio.CancelledError


def _spoil(*arguments):
    made = REFUSE.because("a reason")
    made.ede = "15"
    return made


@pytest.mark.parametrize(("wrong", "words"), [
    (_raise, "ZeroDivisionError: division by zero"),
    (_exit, "RuntimeError: the hook raised SystemExit"),
    (_panic, "RuntimeError: the hook raised Panic"),
    (_cancel, "RuntimeError: the hook raised CancelledError"),
    (_spoil, "TypeError: ttl and ede are whole numbers"),
    (lambda *arguments: REFUSE.because("a reason", 65536), "ValueError: ede: 65536 is not between 0 and 65535"),
    (lambda *arguments: REFUSE.because(b"a reason", 15), "TypeError: reason: b'a reason' is no text"),
    (lambda *arguments: answer("192.0.2.1", ttl=1.5), "TypeError: ttl and ede are whole numbers"),
    (lambda *arguments: Decision(ActionKind.ANSWER, ttl=-1), "ValueError: ttl: -1 is not between"),
    (lambda *arguments: Decision(ActionKind.ANSWER, rcode="FORMERR"), "ValueError: rcode: 'FORMERR' is not one of"),
    (lambda *arguments: "REFUSED", "TypeError: it returned 'REFUSED', which is no Decision"),
    (lambda *arguments: answer("no address"), "ValueError: A rdata 'no address'"),
])
@pytest.mark.parametrize("point", ["client", "question", "response", "send"])
@pytest.mark.parametrize("fails", [False, True])
def test_an_error_costs_the_query_at_most(wrong, words, point, fails, caplog):
    def hook(*arguments):
        return wrong(*arguments)

    hook.__name__ = point
    hooked = Hooked(hook, fails=fails)
    if point == "send" and "rdata" in words:
        words = "has no meaning at point send"
    hooked.ask()
    if hooked.parts.mesh.tickets:
        hooked.parts.mesh.finish(positive(address()))
    assert hooked.last.rcode == (c.SERVFAIL if fails else c.NOERROR)
    assert hooked.hooks[0].statistics()["errors"] == 1
    assert f"hook mod.{point}: " in caplog.text and words in caplog.text
    assert f"{__file__}:" in caplog.text, "the last line of the traceback"
    assert hooked.parts.service.waiting == 0


def test_a_slow_function_is_named(caplog):
    def client(asker, question):
        until = time.perf_counter() + (limits.HOOK_SLOW + 1) / 1000
        while time.perf_counter() < until:
            pass

    hooked = Hooked(client)
    hooked.ask()
    assert hooked.hooks[0].statistics()["slow"] == 1
    assert hooked.hooks[0].statistics()["seconds"] >= limits.HOOK_SLOW / 1000
    assert "hook mod.client is slow" in caplog.text


# --- coroutines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["client", "question", "response"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_query_waits_for_a_coroutine(point, stream):
    async def test():
        gate = asyncio.get_running_loop().create_future()

        async def hook(asker, about):
            return await gate

        hook.__name__ = point
        hooked = Hooked(hook)
        sink = Sink(stream=stream)
        pending = hooked.ask(sink=sink)
        assert pending is not None and hooked.parts.service.waiting == 1
        if not stream:
            assert hooked.ask(sink=sink) is None and hooked.parts.service.joined == 1, "a retransmission joins"
        if point == "response":
            hooked.parts.mesh.finish(positive(address()))
        await turns()
        assert not sink.packets
        gate.set_result(answer("192.0.2.99"))
        await turns()
        assert addresses(sink.last) == [OTHER]
        assert hooked.parts.service.waiting == 0 and not hooked.parts.service._pending
        assert sink.forgotten == ([pending] if stream else []) and len(hooked.tasks) == 0

    on_loop(test)


@pytest.mark.parametrize("error", [Panic("index out of bounds"), GeneratorExit(), asyncio.CancelledError()])
@pytest.mark.parametrize("point", ["client", "question", "response"])
def test_a_coroutine_may_raise_any_error(point, error):
    async def test():
        async def hook(asker, about):
            await asyncio.sleep(0)
            raise error

        hook.__name__ = point
        hooked = Hooked(hook, fails=True)
        hooked.ask()
        if point == "response":
            hooked.parts.mesh.finish(positive(address()))
        await turns()
        assert hooked.last.rcode == c.SERVFAIL
        assert hooked.hooks[0].statistics()["errors"] == 1
        assert hooked.parts.service.waiting == 0 and len(hooked.tasks) == 0

    on_loop(test)


@pytest.mark.parametrize("decides", [False, True])
def test_nothing_is_cached_when_the_cache_was_flushed_while_a_hook_waited(decides):
    """A reload flushes what other settings or other code of the hooks have made."""
    for flush in (False, True):
        async def test(flush=flush):
            gate = asyncio.get_running_loop().create_future()

            async def question(asker, about):
                return await gate

            hooked = Hooked(question)
            parts = hooked.parts
            hooked.ask()
            await turns()
            if flush:
                parts.store.clear()
            gate.set_result(answer("192.0.2.99") if decides else None)
            await turns()
            if not decides:
                outcome = positive(address())
                outcome.serial = parts.store.table.serial  # the job begins after the flush
                parts.mesh.finish(outcome)
            assert hooked.last.answer
            assert (parts.fast.answer(query(), CLIENT, parts.clock.real) is None) is flush

        on_loop(test)


def test_a_coroutine_without_objection_lets_the_query_go_on():
    async def test():
        async def client(asker, question):
            await asyncio.sleep(0)

        async def question(asker, question):
            await asyncio.sleep(0)

        async def response(asker, found):
            await asyncio.sleep(0)

        hooked = Hooked(client, question, response)
        sink = Sink(stream=True)
        pending = hooked.ask(sink=sink)
        await turns()
        assert len(hooked.parts.mesh.tickets) == 1 and hooked.parts.service.waiting == 1
        hooked.parts.mesh.finish(positive(address()))
        await turns()
        assert sink.last.rcode == c.NOERROR and sink.forgotten == [pending]
        assert hooked.parts.service.waiting == 0

    on_loop(test)


@pytest.mark.parametrize("fails", [False, True])
def test_a_coroutine_that_takes_too_long_is_cancelled(fails, caplog):
    async def test():
        cancelled = []

        async def client(asker, question):
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                cancelled.append(1)
                raise

        hooked = Hooked(client, fails=fails, timeout=0.01)
        hooked.ask()
        while not cancelled:
            await asyncio.sleep(0)
        await turns()
        if fails:
            assert hooked.last.rcode == c.SERVFAIL
        else:
            assert len(hooked.parts.mesh.tickets) == 1
        assert hooked.hooks[0].statistics()["timeouts"] == 1
        assert "hook mod.client: no result in time" in caplog.text

    on_loop(test)


def test_the_time_of_hooks_is_charged_to_the_query():
    async def test():
        hooked = Hooked()
        clock = hooked.parts.clock

        async def client(asker, question):
            clock.mono += 4.0

        async def question(asker, question):
            await asyncio.get_running_loop().create_future()

        hooked = Hooked(client, question, timeout=5.0)
        clock = hooked.parts.clock
        began = clock.mono
        hooked.ask()
        await turns()
        clock.mono = began + 3600  # past the deadline of the query
        hooked2 = Hooked(question, timeout=5.0)
        hooked2.parts.service._timeout = 0.0
        hooked2.ask()
        await turns(20)
        assert hooked2.hooks[0].timeouts == 1, "the deadline of the query comes before the timeout of hooks"
        assert hooked2.parts.mesh.queries[0].deadline == hooked2.parts.clock.mono
        hooked.parts.service.forget(next(iter(hooked.parts.service._pending.values())))
        await turns()
        assert len(hooked.tasks) == 0

    on_loop(test)


def test_a_cancelled_query_gets_no_further():
    async def test():
        gate = asyncio.get_running_loop().create_future()

        async def client(asker, question):
            await asyncio.shield(gate)
            return REFUSE

        hooked = Hooked(client)
        sink = Sink(stream=True)
        pending = hooked.ask(sink=sink)
        hooked.parts.service.forget(pending)
        hooked.parts.service.forget(pending)
        gate.set_result(None)
        await turns()
        assert not sink.packets and hooked.parts.service.waiting == 0 and len(hooked.tasks) == 0

    on_loop(test)


def test_coroutines_that_ignore_their_end_are_limited(monkeypatch, caplog):
    async def test():
        monkeypatch.setattr(limits, "HOOK_TASKS", 2)
        stop = asyncio.get_running_loop().create_future()

        async def client(asker, question):
            while not stop.done():
                try:
                    await asyncio.shield(stop)
                except asyncio.CancelledError:
                    pass

        hooked = Hooked(client, timeout=0.001)
        for number in range(3):
            hooked.ask(query(identity=number))
        while len(hooked.parts.mesh.tickets) < 3:
            await asyncio.sleep(0)
        assert len(hooked.tasks) == 2
        assert hooked.hooks[0].statistics()["errors"] == 1 and "have not ended" in caplog.text
        stop.set_result(None)
        await turns()
        assert len(hooked.tasks) == 0

    on_loop(test)


def test_an_error_in_a_coroutine_is_one_of_its_hook(caplog):
    async def test():
        async def client__one(asker, question):
            await asyncio.sleep(0)
            _raise()

        async def client__two(asker, question):
            await asyncio.sleep(0)
            _exit()

        async def client__three(asker, question):
            raise asyncio.CancelledError

        hooked = Hooked(client__one, client__two, client__three)
        hooked.ask()
        await turns(20)
        assert len(hooked.parts.mesh.tickets) == 1
        assert [hook.errors for hook in hooked.hooks] == [1, 1, 1]
        assert "ZeroDivisionError" in caplog.text and "SystemExit" in caplog.text

    on_loop(test)


def test_pending_queries_are_limited_while_hooks_wait():
    async def test():
        async def client(asker, question):
            await asyncio.get_running_loop().create_future()

        hooked = Hooked(client, pending_queries_per_client=2)
        for number in range(3):
            hooked.ask(query(identity=number))
        assert hooked.parts.service.overflowed == 1 and hooked.last.rcode == c.SERVFAIL
        for pending in list(hooked.parts.service._pending.values()):
            hooked.parts.service.forget(pending)
        await turns()

    on_loop(test)


def test_failures_pass_the_hooks_for_responses():
    seen = []

    def response(asker, found):
        seen.append(found.rcode)

    hooked = Hooked(response)
    hooked.ask()
    hooked.parts.mesh.finish(failed())
    assert seen == ["SERVFAIL"] and hooked.last.rcode == c.SERVFAIL


# --- values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "words"), [
    ({"ttl": -1}, "ttl: -1"), ({"rcode": "NXDOMAINE"}, "rcode: 'NXDOMAINE'"), ({"type": "AAAAA"}, "AAAAA"),
])
def test_answers_are_checked_when_they_are_made(arguments, words):
    with pytest.raises(ValueError, match=words):
        answer(**arguments)
    with pytest.raises(ValueError, match="has no data"):
        answer("192.0.2.1", rcode="NXDOMAIN")


def test_values_have_a_form_for_people():
    assert repr(REFUSE.because("why")) == "Decision(refuse: why)"
    assert repr(answer("192.0.2.1")) == "Decision(answer NOERROR  192.0.2.1)"
    found = api.Response(api.question_of(QNAME, c.A), positive(address()))
    assert repr(found) == "Response(www.example.com. A: NOERROR, 1 records)"
    assert found.ttl == 300


def test_a_query_of_the_program_has_no_address():
    view = ViewHooks("home", [], HookTasks(), timeout=1, fails=False, interval=0)
    assert view._client(Query()).address is None


def test_a_query_that_has_no_memory_for_its_hooks_is_not_pending(monkeypatch):
    def client(asker, question):
        raise AssertionError("it is not asked")

    hooked = Hooked(client)

    def short(*arguments):
        raise MemoryError

    monkeypatch.setattr("resolver.net.hook_runner.question_of", short)
    with pytest.raises(MemoryError):
        hooked.ask()
    assert hooked.parts.service.waiting == 0 and not hooked.parts.service._pending


# --- own zones ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("point", ["question", "response"])
def test_own_zones_are_not_given_past_the_hooks_without_rd(point):
    """The hook sees the question, or the answer of the zone, and decides."""
    seen = []

    def decide(asker, *given):
        seen.append(given)
        return REFUSE if len(seen) == 1 else None

    decide.__name__ = point
    hooked = Hooked(decide)
    origin = names.from_text("corp.home-net.")
    text = "$TTL 60\n@ SOA ns host 7 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\n"
    table = ZoneTable([ServedZone(origin, Mode.AUTHORITATIVE)], lambda: 0)
    table.put(origin, read_zone(io.StringIO(text), "zone", origin), 0)
    service = hooked.parts.service
    service.zone_server = ZoneServer(
        hooked.parts.settings, table, lambda _: None, lambda: 0, lambda _: None, service
    )
    packet = query(flags=0, qname=names.from_text("ns.corp.home-net."))
    assert hooked.ask(packet) is None
    assert hooked.last.rcode == c.REFUSED
    assert hooked.ask(packet) is None
    assert addresses(hooked.last) == [bytes([192, 0, 2, 1])] and hooked.last.aa
    assert len(seen) == 2 and service.waiting == 0
