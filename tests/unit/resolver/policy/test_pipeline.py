"""The pipeline: order of the modules, points, actions, what they count, and what a view may cache."""

from typing import Any

import pytest
from support.minet import build
from support.service_parts import CLIENT, Parts, Sink, positive, query

from resolver.effects import Outcome, Question
from resolver.net.fastpath import FastPath
from resolver.net.service import Service
from resolver.policy import Action, Pipeline, PolicyModule, PolicyPipeline
from resolver.policy.module import DROP, PASS, REFUSE, TRUNCATE
from resolver.query import ActionKind, Query
from resolver.settings import PolicySettings, Settings, ViewSettings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

WWW = names.from_text("www.example.com.")
ASKED = Question(WWW, c.A)
STREAM, DATAGRAM = Query("192.0.2.1", transport="tcp"), Query("192.0.2.1", transport="udp")


def refusal() -> Outcome:
    return Outcome(ASKED, c.NXDOMAIN, [], [], Verdict.INDETERMINATE, 5)


class Module(PolicyModule):
    """Returns one result at one point, and records its calls."""

    def __init__(self, name: str, result: Any) -> None:
        self.name = name
        self.result = result
        self.asked: list[tuple[Any, ...]] = []

    def _decide(self, *arguments: Any) -> Any:
        self.asked.append(arguments)
        return self.result() if callable(self.result) else self.result


def at(point: str, name: str, result: Any, **more: Any) -> Module:
    """A module that has only `point`."""
    return type("Made", (Module,), {point: Module._decide, **more})(name, result)


def call(pipeline: Pipeline, point: str, asker: Query = STREAM) -> Any:
    outcome = positive()
    return {
        "client": lambda: pipeline.client(asker, ASKED),
        "question": lambda: pipeline.answer(ASKED),
        "alias": lambda: pipeline.answer_alias(ASKED),
        "name_server": lambda: pipeline.name_server(ASKED, b"\0", [], []),
        "send": lambda: pipeline.send(asker, outcome, b""),
    }[point]()


POINTS = ["client", "question", "alias", "name_server", "send"]


@pytest.mark.parametrize("point", POINTS)
def test_a_point_without_modules_has_no_answer_and_no_step(point: str) -> None:
    pipeline = Pipeline(0, "", [PolicyModule()])
    assert call(pipeline, point) is None
    assert not any((pipeline.has_client, pipeline.has_answers, pipeline.has_own_question, pipeline.has_name_server,
                    pipeline.has_response, pipeline.has_send))
    assert pipeline.caches and pipeline.is_cacheable(ASKED)


@pytest.mark.parametrize("point", POINTS)
def test_the_first_module_with_an_action_decides(point: str) -> None:
    silent, first, second = at(point, "silent", None), at(point, "first", REFUSE), at(point, "second", DROP)
    pipeline = Pipeline(0, "", [silent, first, second])
    found = call(pipeline, point)
    if point == "send":
        assert found is ActionKind.REFUSE
    else:
        assert (found.rcode, found.applied.module, found.applied.kind) == (c.REFUSED, "first", ActionKind.REFUSE)
    assert (len(silent.asked), len(first.asked), len(second.asked)) == (1, 1, 0)
    assert pipeline.counts == {(point, "first", "refuse"): 1}


@pytest.mark.parametrize("point", POINTS)
def test_pass_skips_the_later_modules_of_the_point(point: str) -> None:
    later = at(point, "later", DROP)
    pipeline = Pipeline(0, "", [at(point, "one", PASS), later])
    assert call(pipeline, point) is None
    assert not later.asked
    assert pipeline.counts == {(point, "one", "pass"): 1}


def test_log_continues_and_writes_a_line(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Pipeline(3, "kids", [at("question", "list", Action(ActionKind.LOG, reason="seen")),
                                    at("question", "later", REFUSE)])
    assert call(pipeline, "question").rcode == c.REFUSED
    assert [record.getMessage() for record in caplog.records] == [
        "policy list: www.example.com. A (view kids): seen"
    ]


@pytest.mark.parametrize(("asker", "kind"), [(DATAGRAM, ActionKind.TRUNCATE), (STREAM, None)])
def test_truncate_is_for_datagrams(asker: Query, kind: ActionKind | None) -> None:
    pipeline = Pipeline(0, "", [at("send", "limit", TRUNCATE)])
    assert call(pipeline, "send", asker) is kind
    assert call(Pipeline(0, "", [at("question", "limit", TRUNCATE)]), "question") is None


def test_the_reason_becomes_an_extended_error() -> None:
    action = Action(ActionKind.ANSWER, refusal(), reason="on the list", ede=c.EDE_FILTERED)
    found = call(Pipeline(0, "", [at("question", "list", action)]), "question")
    assert found.rcode == c.NXDOMAIN
    assert found.ede == [(c.EDE_FILTERED, "on the list")]
    assert found.applied.describe() == "policy list at point question: answer: on the list"


def test_an_action_says_whether_it_needs_an_outcome() -> None:
    with pytest.raises(ValueError, match="answer needs an outcome"):
        Action(ActionKind.ANSWER)
    with pytest.raises(ValueError, match="drop has an outcome"):
        Action(ActionKind.DROP, refusal())
    with pytest.raises(TypeError, match="policy odd, point question: 7 is no Action"):
        call(Pipeline(0, "", [at("question", "odd", 7)]), "question")


def test_after_a_pass_only_protective_modules_see_the_response() -> None:
    made: list[Outcome] = []

    def protect() -> Outcome:
        made.append(refusal())
        return made[-1]

    lists = [at("response", name, result) for name, result in (("allowed", PASS), ("list", DROP))]
    guard, last = at("response", "guard", protect, protective=True), at("response", "last", DROP)
    pipeline = Pipeline(0, "", [*lists, guard, last])
    assert pipeline.response(STREAM, positive()) is made[0]
    assert [len(one.asked) for one in (*lists, guard, last)] == [1, 0, 1, 0]
    assert pipeline.counts == {("response", "allowed", "pass"): 1, ("response", "guard", "answer"): 1}


def test_no_pass_skips_the_removal_of_private_addresses() -> None:
    settings = PolicySettings(private_addresses=("192.0.2.0/24",))
    plan = PolicyPipeline(Settings(policy=settings), modules=(at("response", "allowed", PASS),))
    found = plan.views[0].response(STREAM, positive())
    assert not found.answer and found.ede == [(c.EDE_FILTERED, "a private address was removed")]


def test_which_modules_are_protective() -> None:
    """A new one is added here and to docs/hooks.md."""
    def below(parent: type[PolicyModule]) -> set[type[PolicyModule]]:
        return {parent}.union(*(below(one) for one in parent.__subclasses__()))

    assert {one.name for one in below(PolicyModule) if one.protective and one.__module__.startswith("resolver.")} == {
        "rewrite"}


def test_responses_are_changed_one_after_the_other() -> None:
    first, second = at("response", "first", refusal), at("response", "second", None)
    pipeline = Pipeline(0, "", [first, second])
    given = positive()
    made = pipeline.response(STREAM, given)
    assert made.rcode == c.NXDOMAIN and made.applied is not None and given.applied is None
    assert second.asked == [(STREAM, made)]
    stopped = at("response", "stopped", None)
    assert Pipeline(0, "", [at("response", "no", REFUSE), stopped]).response(STREAM, given).rcode == c.REFUSED
    assert not stopped.asked


def test_only_per_client_modules_may_truncate_responses() -> None:
    for per_client in (False, True):
        pipeline = Pipeline(0, "", [at("response", "limit", TRUNCATE, per_client=per_client)])
        assert pipeline.caches is not per_client
        for asker in (STREAM, DATAGRAM):
            applied = pipeline.response(asker, positive()).applied
            assert (applied is not None) is (per_client and asker is DATAGRAM), (per_client, asker)


def test_per_client_modules_disable_the_answer_cache() -> None:
    assert not Pipeline(0, "", [at("client", "x", None)]).caches
    assert not Pipeline(0, "", [at("send", "x", None)]).caches
    assert not Pipeline(0, "", [at("question", "x", None, per_client=True)]).caches
    told = at("question", "x", None, per_client=True, is_cacheable=lambda self, question: question.qtype != c.A)
    pipeline = Pipeline(0, "", [told])
    assert pipeline.caches and not pipeline.is_cacheable(ASKED) and pipeline.is_cacheable(Question(WWW, c.MX))
    assert Pipeline(0, "", [at("response", "x", None), at("alias", "y", None), at("question", "z", None)]).caches


def test_shared_points_have_no_client() -> None:
    module = at("question", "x", None)
    Pipeline(4, "v", [module]).answer(ASKED)
    ((asker, question),) = module.asked
    assert (asker.view, asker.address, asker.transport, question) == (4, "", "api", ASKED)


def test_the_order_of_the_built_in_policies() -> None:
    policy = PolicySettings(dns64_prefix=("64:ff9b::/96",), local_zones=("tcp.example. truncate",),
                            private_addresses=("10.0.0.0/8",))
    plan = PolicyPipeline(Settings(policy=policy), modules=[at("question", "further", None)])
    assert [module.name for module in plan.views[0].modules] == [
        "meta-queries", "truncation", "dns64-reverse", "local-zones", "further", "minimal-any", "rewrite"
    ]


def test_by_default_no_module_is_per_client() -> None:
    pipeline = PolicyPipeline(Settings()).views[0]
    assert pipeline.caches and not pipeline.has_own_question
    assert not (pipeline.has_client or pipeline.has_send or pipeline.has_response or pipeline.has_name_server)
    found = pipeline.own_question(DATAGRAM, Question(WWW, c.ANY))
    assert found is not None and found.answer[0].rtype == c.HINFO
    assert pipeline.own_question(Query(), Question(WWW, c.ANY)) is None, "the library is not a client of a listener"


# --- in the resolution --------------------------------------------------------------------------------------------


def with_modules(*modules: PolicyModule, **options: Any) -> Any:
    m = build(**options)
    context = m.mesh._context
    pipeline = Pipeline(0, "", modules)
    context.policy = pipeline if pipeline.has_answers else None
    context.name_server = pipeline.name_server if pipeline.has_name_server else None
    context.response = pipeline.response if pipeline.has_response else None
    return m


def test_policies_apply_to_the_target_of_an_alias() -> None:
    module = at("alias", "list", refusal)
    m = with_modules(module)
    steps: list[Any] = []
    outcome = m.ask("alias.example.com.", trace=steps)
    assert outcome.rcode == c.NXDOMAIN and [rrset.rtype for rrset in outcome.answer] == [c.CNAME]
    assert outcome.applied.module == "list"
    assert any(step.kind == "policy" and "policy list at point alias" in step.text for step in steps)
    assert m.ask("www.example.com.").answer, "the name itself is not the target of an alias"


def test_policies_apply_to_name_servers_before_they_are_queried() -> None:
    class Recording(PolicyModule):
        name = "servers"

        def __init__(self) -> None:
            self.seen: list[tuple[str, list[str], list[str]]] = []

        def name_server(self, query: Query, question: Question, zone: Any, servers: Any, addresses: Any) -> Any:
            self.seen.append((names.to_text(zone), [names.to_text(one) for one in servers],
                              [one.address for one in addresses]))
            assert question == ASKED
            return Action(ActionKind.REFUSE) if b"\x03ns2\x07example\x03com\x00" in servers else None

    module = Recording()
    m = with_modules(module)
    outcome = m.ask("www.example.com.")
    assert (outcome.rcode, outcome.failure, outcome.applied.module) == (c.REFUSED, None, "servers")
    assert module.seen[-1] == ("example.com.", ["ns1.example.com.", "ns2.example.com."], ["192.0.2.1", "192.0.2.2"])
    assert not [packet for packet in m.net.log if packet.address.startswith("192.0.2.")]
    assert m.store.rrsets.find_failure(WWW, c.A, m.net.time()) is None, "another view may resolve it"


def test_cached_data_of_blocked_servers_is_not_returned() -> None:
    m = build()
    assert m.ask("www.example.com.").answer
    m.mesh._context.name_server = Pipeline(0, "", [at("name_server", "servers", REFUSE)]).name_server
    steps: list[Any] = []
    outcome = m.ask("www.example.com.", trace=steps)
    assert (outcome.rcode, outcome.answer) == (c.REFUSED, [])
    assert "policy servers at point name_server: refuse" in steps[-1].text
    m.mesh._context.name_server = Pipeline(0, "", [at("name_server", "servers", PASS)]).name_server
    assert m.ask("www.example.com.").answer


def test_a_changed_response_is_a_step_of_the_trace() -> None:
    m = with_modules(at("response", "change", refusal))
    steps: list[Any] = []
    assert m.ask("www.example.com.", trace=steps).rcode == c.NXDOMAIN
    assert (steps[-1].kind, steps[-1].text) == ("policy", "policy change at point response: answer")


# --- in the service -----------------------------------------------------------------------------------------------


def serving(*modules: PolicyModule) -> Parts:
    parts = Parts()
    plan = parts.plan = PolicyPipeline(parts.settings, modules=modules)
    parts.fast = FastPath(parts.store.answers, plan.access)
    parts.service = Service(parts.settings, mesh=parts.mesh, plan=plan, fast=parts.fast, clock=parts.clock)  # type: ignore[arg-type]
    return parts


def test_client_policies_apply_before_question_policies() -> None:
    module = at("client", "clients", Action(ActionKind.REFUSE, reason="blocked", ede=c.EDE_PROHIBITED))
    parts = serving(module)
    assert parts.fast.answer(query(), CLIENT) is None, "no cached answer is given without the client policy"
    parts.ask(query(edns_payload=1232))
    assert parts.sink.last.rcode == c.REFUSED
    assert not parts.mesh.tickets
    ((asker,),) = module.asked
    assert (asker.address, asker.transport, asker.listener) == ("127.0.0.1", "udp", "127.0.0.1:53")
    assert not asker.verified
    assert parts.plan.statistics() == {"client.clients.refuse": 1}


def test_dropped_and_truncated_queries() -> None:
    parts = serving(at("client", "clients", DROP))
    parts.ask(query())
    assert parts.sink.packets == [None]
    parts = serving(at("send", "limit", TRUNCATE))
    assert parts.answer(query(), positive()).tc
    sink = Sink(stream=True)
    assert not parts.answer(query(), positive(), sink=sink).tc
    assert parts.store.answers.render(query(), parts.clock.real, 512) is None, "nothing is cached for such a view"


def test_an_outcome_without_an_answer_gets_no_reply() -> None:
    parts = serving()
    outcome = Pipeline(0, "", [at("question", "x", DROP)]).answer(ASKED)
    assert outcome is not None
    parts.ask(query())
    parts.mesh.finish(outcome)
    assert parts.sink.packets == [None]
    assert parts.service.waiting == 0


@pytest.mark.parametrize("point", ["client", "question", "send"])
def test_an_exception_of_a_module_fails_only_its_query(point: str) -> None:
    def fail() -> Any:
        raise KeyError("a bug")

    parts = serving(at(point, "broken", fail, **({"per_client": True} if point == "question" else {})))
    parts.ask(query())
    if point == "send":
        parts.mesh.finish(positive())
    assert parts.sink.last.rcode == c.SERVFAIL
    assert parts.service.waiting == 0


def test_any_queries_and_truncation_zones() -> None:
    policy = PolicySettings(local_zones=("example.com. truncate",))
    parts = Parts(Settings(policy=policy))
    parts.ask(query())
    assert parts.sink.last.tc
    parts.answer(query(), positive(), sink=Sink(stream=True))
    assert parts.store.answers.render(query(), parts.clock.real, 512) is None
    sink = Sink(stream=True)
    parts.ask(query(c.ANY), sink=sink)
    assert [rrset.rtype for rrset in sink.last.answer] == [c.HINFO]


@pytest.mark.parametrize("flags", [c.RD, 0], ids=["recursive", "non-recursive"])
@pytest.mark.parametrize("qtype", [c.A, c.URI, c.CAA, 65534])
def test_every_type_of_data_is_shown_to_the_policies_of_clients(qtype: int, flags: int) -> None:
    """Some types of data have numbers above those of meta types (RFC 6895 section 3.1)."""
    for asked in (query(qtype, flags=flags), query(qtype, flags=flags, qclass=c.CLASS_ANY)):
        module = at("question", "clients", REFUSE, per_client=True)
        parts = serving(module)
        parts.ask(asked)
        assert (len(module.asked), parts.sink.last.rcode) == (1, c.REFUSED)
        assert not parts.mesh.queries


@pytest.mark.parametrize("minimal_any", [False, True])
def test_any_is_shown_to_the_policies_of_clients(minimal_any: bool) -> None:
    module = at("question", "clients", TRUNCATE, per_client=True)
    parts = Parts(modules=(module,), minimal_any=minimal_any)
    parts.ask(query(c.ANY))
    assert len(module.asked) == 1 and parts.sink.last.tc and not parts.mesh.queries


def test_queries_of_a_view_are_joined_and_cached_in_it() -> None:
    view = ViewSettings(name="one", clients=("127.0.0.2/32",))
    parts = Parts(Settings(view=(view,)))
    parts.ask(query())
    parts.ask(query(), peer=("127.0.0.2", 9))
    assert [asker.view for asker in parts.mesh.queries] == [0, 1]
    parts.mesh.finish(positive())
    assert parts.fast.answer(query(), CLIENT, parts.clock.real) is not None
    assert parts.fast.answer(query(), ("127.0.0.2", 9), parts.clock.real) is None
    parts.mesh.finish(positive())
    assert parts.fast.answer(query(), ("127.0.0.2", 9), parts.clock.real) is not None
    parts.store.drop(WWW)
    assert parts.fast.answer(query(), ("127.0.0.2", 9), parts.clock.real) is None, "a flush covers all views"


def test_one_port_of_a_client_may_ask_in_two_views() -> None:
    view = ViewSettings(name="one", listeners=("127.0.0.1:5335",))
    parts = Parts(Settings(view=(view,)))
    table = parts.plan.table(parts.settings.listeners[0], "udp")
    parts.service.handle(query(), CLIENT, parts.sink)
    parts.service.handle(query(), CLIENT, parts.sink, table)
    parts.service.handle(query(), CLIENT, parts.sink, table)
    assert [asker.view for asker in parts.mesh.queries] == [0, 1]
    assert parts.service.joined == 1
