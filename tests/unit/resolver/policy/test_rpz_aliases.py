"""Aliases of policy zones that one client gets: the mesh follows them. One rule only decides about an answer."""

import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from support.fakenet import Link
from support.minet import EXAMPLE_ZONE, Minet, addresses, build, standard
from support.service_parts import Sink

from resolver import limits
from resolver.effects import Failure, FailureKind, Outcome, Question
from resolver.jobs import MeshRequest
from resolver.mesh import Mesh
from resolver.net.fastpath import FastPath, read_query
from resolver.net.reply import compose
from resolver.net.service import Service
from resolver.partial_response import failure_outcome, join_alias
from resolver.policy import Action, Pipeline, PolicyModule, PolicyPipeline
from resolver.policy.rpz_module import ResponsePolicyZones, RpzAliases, options_of
from resolver.policy.rpz_zone import compile_zone
from resolver.query import ActionKind, Query
from resolver.settings import DnssecSettings, PolicySettings, RpzSettings, Settings, ViewSettings, replace
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.build import make_query
from resolver.wire.message import MessageView
from resolver.wire.rrset import octets_of

WWW = names.from_text("www.example.com.")
EXAMPLE = EXAMPLE_ZONE + """garden 300 IN A 192.0.2.99
lame 300 IN NS ns.lame
ns.lame 300 IN A 192.0.2.77
evil 300 IN NS ns.evil
ns.evil 300 IN A 192.0.2.66
"""
EVIL = "@ 300 IN SOA ns nobody 1 1 1 1 300\n@ 300 IN NS ns\nns 300 IN A 192.0.2.66\nwww 300 IN A 192.0.2.8\n"
GUEST, OTHER = "198.51.100.2", "198.51.100.3"
HEAD = "$TTL 60\n@ SOA ns. admin. 1 3600 600 86400 60\n"
GARDEN = " CNAME garden.example.com.\n"
FOR_GUEST = "32.2.100.51.198.rpz-client-ip"
FOR_ADDRESS = "32.80.2.0.192.rpz-ip"
FOR_SERVER = "ns.evil.example.com.rpz-nsdname"
WAITS = "32.1.0.0.10.rpz-ip CNAME .\n"
"""A zone that needs the answer, so that the rules of those behind it wait for it."""
EVIL_NAME, GARDEN_NAME = names.from_text("www.evil.example.com."), names.from_text("garden.example.com.")


def compiled(
    *zones: str, override: str = "", log: bool = False
) -> tuple[tuple[RpzSettings, ...], ResponsePolicyZones]:
    settings = tuple(RpzSettings(name=f"rpz{number}.test", file=f"/unused{number}", override=override, log=log)
                     for number in range(len(zones)))
    made = {}
    for one, rules in zip(settings, zones, strict=True):
        origin = names.from_text(one.name)
        made[one.name], errors = compile_zone(origin, present.zone_from_text(HEAD + rules, origin), bytes(16),
                                              options_of(one))
        assert errors == []
    module = ResponsePolicyZones(settings, frozenset({1}))
    module.replace(made)
    return settings, module


def world(*zones: str, records: str = "", capacity: int = limits.JOBS, **policy: Any) -> Minet:
    """A network whose resolver has the policy zones in view 1, and ``example.com`` more records."""
    settings, module = compiled(*zones)
    everybody = ("0.0.0.0/0",)
    made = Settings(
        dnssec=DnssecSettings(trust_anchors=()), rpz=settings, policy=PolicySettings(lists=(), **policy),
        view=(ViewSettings(name="guarded", clients=everybody, allow=everybody,
                           lists=tuple(one.name for one in settings)),),
    )
    served = [("example.com.", EXAMPLE + records)]
    m = build(standard(a192_0_2_1=served, a192_0_2_2=served, a192_0_2_66=[("evil.example.com.", EVIL)]), settings=made)
    m.mesh = Mesh(exchange=m.net, crypto=m.net, clock=m.net, rng=m.mesh._context.rng, store=m.store, settings=made,
                  policy=PolicyPipeline(made, modules=(module, RpzAliases(module))), capacity=capacity)
    return m


def serve(m: Minet, *zones: str, prefetch: bool = False) -> tuple[Service, FastPath, ResponsePolicyZones]:
    """A service of view 1 with the policy `zones`, beside the mesh of `m`, its fast path and its policy."""
    _, module = compiled(*zones)
    plan = PolicyPipeline(m.settings, modules=(module, RpzAliases(module)))
    fast = FastPath(m.store.answers, plan.access, prefetch=prefetch)
    return Service(m.settings, mesh=m.mesh, plan=plan, fast=fast, clock=m.net), fast, module


def submit(m: Minet, found: list[Outcome], name: bytes = WWW, **query: Any) -> MeshRequest:
    made = Query(GUEST, view=1)
    for key, value in query.items():
        setattr(made, key, value)
    return m.mesh.submit(Question(name, c.A), query=made, on_done=found.append)


def ask(m: Minet, name: str = "www.example.com.", qtype: int = c.A, *, client: str = GUEST, view: int = 1) -> Outcome:
    found: list[Outcome] = []
    query = Query(client, view=view)
    m.mesh.submit(Question(names.from_text(name), qtype), query=query, on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    return found[0]


def targets(outcome: Outcome) -> list[str]:
    return [names.to_text(rrset.targets()[0]) for rrset in outcome.answer if rrset.rtype == c.CNAME]


@pytest.mark.parametrize(("name", "zones"), [
    ("www.example.com.", [FOR_ADDRESS + GARDEN]),
    ("www.example.com.", [FOR_GUEST + GARDEN]),
    ("www.example.com.", ["32.1.0.0.10.rpz-ip CNAME .\n", "www.example.com" + GARDEN]),
    ("www.example.com.", ["32.1.0.0.10.rpz-client-ip CNAME .\nwww.example.com" + GARDEN]),
    ("www.evil.example.com.", [FOR_SERVER + GARDEN]),
    ("www.evil.example.com.", [FOR_GUEST + GARDEN + FOR_SERVER + " CNAME .\n"]),
])
def test_the_alias_of_a_rule_is_followed_whatever_its_trigger(name: str, zones: list[str]) -> None:
    m = world(*zones)
    for cached in (False, True):
        made = ask(m, name)
        assert (made.rcode, targets(made)) == (c.NOERROR, ["garden.example.com."]), cached
        assert addresses(made) == ["192.0.2.99"]
        assert made.answer[0].name == made.question.qname == names.from_text(name)
        assert [rrset.rtype for rrset in made.additional] == [c.SOA]
        assert made.applied is not None and made.ttl == 60
    assert targets(ask(m, name, view=0)) == [], "another view"


@pytest.mark.parametrize("zone", [FOR_GUEST + GARDEN, "www.example.com" + GARDEN])
def test_an_alias_that_was_asked_for_is_not_followed(zone: str) -> None:
    made = ask(world(zone), qtype=c.CNAME)
    assert targets(made) == ["garden.example.com."] and len(made.answer) == 1


def test_a_rule_for_the_client_precedes_one_for_the_servers_of_the_name() -> None:
    """All clients of the view get what was answered instead of the query to the servers, so `response` corrects it."""
    rules = FOR_SERVER + " CNAME .\n", FOR_GUEST + GARDEN
    m = world("".join(rules))
    assert targets(ask(m, "www.evil.example.com.")) == ["garden.example.com."]
    assert ask(m, "www.evil.example.com.", client=OTHER).rcode == c.NXDOMAIN
    m = world(*rules)
    assert ask(m, "www.evil.example.com.").rcode == c.NXDOMAIN, "the zone of the rule for the servers is the first"


def test_a_rule_for_the_client_precedes_an_alias_for_the_servers_in_a_later_zone() -> None:
    zones = WAITS, FOR_GUEST + " CNAME .\n", FOR_SERVER + GARDEN
    for qtype in (c.A, c.CNAME):
        m = world(*zones, records="far 300 IN CNAME www.evil\n")
        for name in ("www.evil.example.com.", "far.example.com."):
            assert ask(m, name, qtype).rcode == c.NXDOMAIN
        made = ask(m, "www.evil.example.com.", qtype, client=OTHER)
        assert (made.rcode, targets(made)) == (c.NOERROR, ["garden.example.com."])


@pytest.mark.parametrize("dns64", [(), ("64:ff9b::/96",)])
def test_an_alias_to_a_name_that_is_not_followed_either_is_a_failure(dns64: tuple[str, ...]) -> None:
    m = world(FOR_ADDRESS + " CNAME www.evil.example.com.\n" + FOR_SERVER + GARDEN, dns64_prefix=dns64)
    for qtype in (c.A, c.AAAA)[:1 + bool(dns64)]:
        made = ask(m, qtype=qtype)
        assert (made.rcode, targets(made), made.ttl) == (c.SERVFAIL, ["www.evil.example.com."], 0)
        assert made.failure is not None and made.failure.kind is FailureKind.POLICY
        assert (made.failure.ede, made.failure.text) in made.ede


@pytest.mark.parametrize("zones", [
    ["www.example.com CNAME alias.example.com.\n"],
    [FOR_GUEST + " CNAME alias.example.com.\n"],
    [FOR_ADDRESS + " CNAME alias.example.com.\n"],
    [WAITS, "www.example.com CNAME alias.example.com.\n"],
])
def test_an_alias_to_a_name_that_is_an_alias_to_the_first_is_a_loop(zones: list[str]) -> None:
    for qtype in (c.A, c.TXT):  # there is no TXT record
        if qtype == c.A or "rpz-ip" not in zones[0] + "rpz-ip" * (len(zones) > 1):
            made = ask(world(*zones), qtype=qtype)
            assert made.rcode == c.SERVFAIL and made.failure is not None
            assert made.failure.text == "the aliases form a loop"


def test_the_target_has_no_rule_of_its_own() -> None:
    m = world(FOR_ADDRESS + GARDEN + "garden.example.com CNAME .\n32.99.2.0.192.rpz-ip CNAME .\n")
    assert addresses(ask(m)) == ["192.0.2.99"]
    assert ask(m, "garden.example.com.").rcode == c.NXDOMAIN


def test_what_all_clients_share_holds_for_the_target_too() -> None:
    """Rules for its name servers, and a CNAME that `RpzAliases` answers with."""
    for rule in ("www.example.com", FOR_ADDRESS):
        m = world(f"{rule} CNAME www.evil.example.com.\n{FOR_SERVER} CNAME .\n")
        assert ask(m).rcode == c.NXDOMAIN
    alias = "garden.example.com CNAME ns1.example.com.\n"
    assert targets(ask(world("www.example.com" + GARDEN + alias))) == ["garden.example.com."]
    for direct, extra in (("garden", ""), ("walled", "walled 300 IN CNAME garden\n")):
        made = ask(world(f"{FOR_ADDRESS} CNAME {direct}.example.com.\n{alias}", records=extra))
        assert targets(made)[-2:] == ["garden.example.com.", "ns1.example.com."]
        assert addresses(made) == ["192.0.2.1"]


def test_dns64_makes_addresses_for_the_target() -> None:
    m = world(FOR_SERVER + GARDEN, dns64_prefix=("64:ff9b::/96",))
    made = ask(m, "www.evil.example.com.", c.AAAA)
    assert targets(made) == ["garden.example.com."]
    assert [rrset.rdatas()[0] for rrset in made.answer if rrset.rtype == c.AAAA] == [
        present.rdata_from_text(c.AAAA, "64:ff9b::192.0.2.99")]


def test_the_failure_of_the_target_comes_with_the_alias() -> None:
    made = ask(world(FOR_ADDRESS + " CNAME www.lame.example.com.\n"))
    assert made.rcode == c.SERVFAIL and made.failure is not None
    assert targets(made) == ["www.lame.example.com."]


@pytest.mark.parametrize("verdict", Verdict)
def test_bogus_data_of_the_target_does_not_become_data_that_is_not_validated(verdict: Verdict) -> None:
    question = Question(WWW, c.A)
    alias = Outcome(question, c.NOERROR, [], [], Verdict.INDETERMINATE, 60)
    target = Outcome(question, c.NOERROR, [], [], verdict, 60)
    assert join_alias(alias, target).verdict == min(verdict, Verdict.INSECURE)
    failed = failure_outcome(question, Failure(FailureKind.BOGUS, c.EDE_DNSSEC_BOGUS, "bogus"))
    assert join_alias(alias, failed).verdict == Verdict.BOGUS


def test_a_prefetch_resolves_the_target_anew() -> None:
    """A request of a prefetch has a deadline, else the target would fail by it."""
    m = world(FOR_ADDRESS + GARDEN)
    ask(m)
    m.net.sleep(m.mesh, 301)
    found: list[Outcome] = []
    assert m.mesh.refresh(Question(WWW, c.A), query=Query(view=1), on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    assert found[0].failure is None and addresses(found[0]) == ["192.0.2.99"]
    assert m.mesh._prefetching == 0


def test_a_request_can_be_cancelled_while_the_target_is_resolved() -> None:
    m = world(FOR_ADDRESS + GARDEN)
    ask(m, view=0)
    found: list[Outcome] = []
    request = m.mesh.submit(Question(WWW, c.A), query=Query(GUEST, view=1), on_done=found.append)
    assert not request.done and [job.task.question.qname for job in m.mesh._unfinished] == [
        names.from_text("garden.example.com.")]
    m.mesh.cancel(request)
    m.net.run(m.mesh, seconds=5)
    assert found == [] and not m.mesh._unfinished


def test_a_policy_whose_answer_has_no_alias_to_follow_costs_this_answer_only() -> None:
    class Wrong(PolicyModule):
        name = "wrong"

        def response(self, query: Query, outcome: Outcome) -> Action | None:
            if query.alias is not None:
                return None
            made = Outcome(outcome.question, c.NOERROR, [], [], Verdict.INDETERMINATE, 5)
            return Action(ActionKind.ANSWER, made, follow=True)

    m = build()
    m.mesh._context.response = Pipeline(0, "", [Wrong()]).response
    found: list[Outcome] = []
    for _ in range(2):
        m.mesh.submit(Question(WWW, c.A), on_done=found.append)
    m.net.run(m.mesh, until=lambda: len(found) == 2)
    assert [one.rcode for one in found] == [c.SERVFAIL] * 2
    assert m.mesh.statistics()["internal_errors"] == 2


@pytest.mark.parametrize("zone", [
    FOR_GUEST + GARDEN, "32.9.9.9.9.rpz-client-ip CNAME .\nwww.evil.example.com" + GARDEN,
])
def test_nothing_is_asked_for_a_name_whose_rule_is_known(zone: str) -> None:
    """The servers of the name may be slow or dead."""
    m = world(zone, FOR_SERVER + " CNAME .\n")
    _, module = compiled(zone, FOR_SERVER + " CNAME .\n")
    plan = PolicyPipeline(m.settings, modules=(module, RpzAliases(module)))
    # A hook, which would fail: it comes after the policy zones.
    plan.views[1].hooks = SimpleNamespace(has_client=False, has_question=True, has_response=False, has_send=False)
    service = Service(m.settings, mesh=m.mesh, plan=plan, fast=FastPath(m.store.answers, plan.access), clock=m.net)
    sink = Sink()
    service.handle(make_query(1, names.from_text("www.evil.example.com."), c.A), (GUEST, 5353), sink)
    m.net.run(m.mesh, until=lambda: bool(sink.packets))
    view = sink.last
    assert [rrset.rtype for rrset in view.answer] == [c.CNAME, c.A]
    assert view.answer[1].rdatas() == [bytes((192, 0, 2, 99))]
    assert [rrset.rtype for rrset in view.additional] == [c.SOA]
    assert not any("evil" in entry.qname for entry in m.net.log)


# --- what the mesh does for an alias ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FailureKind)
def test_no_alias_is_followed_after_a_failure(kind: FailureKind) -> None:
    """Queries that are ended for lack of slots or memory would end each other, and time has run out."""
    m = world(WAITS, "www.example.com" + GARDEN)
    found: list[Outcome] = []
    failure = Failure(kind, c.EDE_OTHER, "it failed")
    request = MeshRequest(found.append, Query(GUEST, view=1))
    m.mesh._deliver(request, failure_outcome(Question(WWW, c.A), failure), 1)
    assert [(one.rcode, one.answer, one.failure, one.ttl) for one in found] == [(c.SERVFAIL, [], failure, 0)]
    assert request.done and not m.mesh._following


def lame_world(capacity: int = limits.JOBS) -> Minet:
    """The server of ``lame.example.com`` is dead, and its names have a rule that waits for the answer."""
    m = world(WAITS, "*.lame.example.com" + GARDEN + FOR_ADDRESS + GARDEN, capacity=capacity)
    m.net.links["192.0.2.77"] = Link(loss=1.0)
    ask(m, view=0)
    return m


def test_without_recursion_a_failure_is_none_the_less_a_failure() -> None:
    m = lame_world()
    name = names.from_text("www.lame.example.com.")
    for outcome in (ask(m, "www.lame.example.com."), m.mesh.peek(Question(name, c.A), query=Query(GUEST, view=1))):
        assert outcome is not None
        assert (outcome.rcode, outcome.answer) == (c.SERVFAIL, []) and outcome.failure is not None


def test_without_memory_for_one_answer_the_others_get_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    m = world(FOR_ADDRESS + GARDEN)
    ask(m, view=0)
    calls = 0

    def lacking(alias: Outcome, target: Outcome) -> Outcome:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise MemoryError
        return join_alias(alias, target)

    monkeypatch.setattr("resolver.mesh.join_alias", lacking)
    found: list[list[Outcome]] = [[], [], []]
    for one in found:
        submit(m, one)
    m.net.run(m.mesh, until=lambda: all(found))
    assert sorted(one[0].rcode for one in found) == [c.NOERROR, c.NOERROR, c.SERVFAIL]
    assert not m.mesh.statistics()["running"]


def test_what_a_rule_makes_of_a_stale_answer_is_stale() -> None:
    """The current answer may have no rule, so the client and the cache must not keep it for the time of the rule."""
    m = world(FOR_ADDRESS + GARDEN)
    made = replace(m.settings, cache=replace(m.settings.cache, max_stale_ttl=86_400))
    _, module = compiled(FOR_ADDRESS + GARDEN)
    m.mesh = Mesh(exchange=m.net, crypto=m.net, clock=m.net, rng=m.mesh._context.rng, store=m.store, settings=made,
                  policy=PolicyPipeline(made, modules=(module, RpzAliases(module))))
    ask(m)
    m.net.sleep(m.mesh, 290)
    ask(m, "garden.example.com.", view=0)
    m.net.sleep(m.mesh, 20)
    ask(m, "garden.example.com.", view=0)
    for address in ("192.0.2.1", "192.0.2.2"):
        m.net.links[address] = Link(loss=1.0)
    outcome = ask(m)
    assert targets(outcome) == ["garden.example.com."] and outcome.stale and outcome.ttl == 0
    assert any(code == c.EDE_STALE_ANSWER for code, _ in outcome.ede)


def fill(m: Minet, found: list[Outcome]) -> None:
    """Start queries of many networks until no slot is free, and let them be old enough to be ended."""
    number = 0
    while m.mesh._quota.free():
        number += 1
        submit(m, found, names.from_text(f"x{number}.lame.example.com."), network=number)
    m.net.sleep(m.mesh, limits.JOSTLE / 1000 + 0.05)
    assert found == [] and not m.mesh._quota.free()


def test_a_query_that_is_ended_for_a_newer_one_ends_no_other() -> None:
    m = lame_world(capacity=12)
    ended: list[Outcome] = []
    fill(m, ended)
    submit(m, [], names.from_text("new.lame.example.com."), network="new")
    assert m.mesh.statistics()["evicted"] == 1
    assert [(one.failure.kind, one.answer) for one in ended if one.failure] == [(FailureKind.OVERLOAD, [])]


def test_a_query_for_the_target_of_an_alias_ends_no_other() -> None:
    m = lame_world(capacity=12)
    ended: list[Outcome] = []
    fill(m, ended)
    found: list[Outcome] = []
    submit(m, found, network="new")
    assert ended == [] and m.mesh.statistics()["evicted"] == 0
    assert [(one.rcode, targets(one)) for one in found] == [(c.SERVFAIL, ["garden.example.com."])]


def test_the_target_gets_what_is_left_of_the_time() -> None:
    m = world(FOR_ADDRESS + " CNAME www.lame.example.com.\n")
    m.net.links["192.0.2.77"] = Link(loss=1.0)
    ask(m, view=0)
    found: list[Outcome] = []
    begun = m.net.monotonic()
    submit(m, found, deadline=begun + 1.0)
    m.net.run(m.mesh, until=lambda: bool(found))
    assert found[0].failure is not None and found[0].failure.kind is FailureKind.DEADLINE
    assert m.net.monotonic() - begun < 1.5
    target = names.from_text("www.lame.example.com.")
    assert m.store.rrsets.find_failure(target, c.A, m.net.time()) is None


def in_callback(m: Minet, action: Callable[[], None]) -> None:
    """Call `action` while the mesh resumes jobs."""
    m.mesh.submit(Question(names.from_text("mail.example.com."), c.A), on_done=lambda _: action())
    m.net.run(m.mesh, seconds=3)


def test_a_queued_request_can_be_cancelled_or_closed() -> None:
    m = world(FOR_ADDRESS + GARDEN)
    for name in ("www.example.com.", "garden.example.com."):
        ask(m, name, view=0)
    found: list[Outcome] = []

    def cancel() -> None:
        request = submit(m, found)
        assert list(m.mesh._following) == [request] and not request.done
        m.mesh.cancel(request)

    in_callback(m, cancel)
    assert found == [] and not m.mesh._following and not m.mesh._unfinished

    def close() -> None:
        submit(m, found)
        m.mesh.close()

    m.store.clear()
    ask(m, view=0)
    in_callback(m, close)
    assert [one.failure.kind for one in found if one.failure] == [FailureKind.CANCELLED]
    assert targets(found[0]) == ["garden.example.com."]


def test_requests_that_are_left_over_have_the_next_turn() -> None:
    m = world(FOR_ADDRESS + GARDEN)
    ask(m, view=0)
    ask(m, "garden.example.com.", view=0)
    found: list[Outcome] = []
    m.mesh._draining = True
    for _ in range(limits.STEPS_PER_TURN + 1):
        submit(m, found)
    m.mesh._draining = False
    now = m.net.monotonic()
    assert found == [] and m.mesh.next_timer() == 0.0
    assert m.mesh.tick(now) == now and len(found) == limits.STEPS_PER_TURN
    m.mesh.tick(now)
    assert len(found) == limits.STEPS_PER_TURN + 1 and m.mesh.next_timer() > now
    m.mesh._draining = True
    submit(m, found)
    m.mesh._draining = False
    m.mesh.close()
    assert len(found) == limits.STEPS_PER_TURN + 2


def test_without_memory_for_an_alias_the_query_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    m = world(FOR_ADDRESS + GARDEN)
    ask(m, view=0)

    def fail(_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("resolver.mesh.copy", fail)
    found: list[Outcome] = []
    assert submit(m, found).done
    assert [(one.rcode, one.answer) for one in found] == [(c.SERVFAIL, [])]
    assert m.mesh.statistics()["out_of_memory"] == 1 and not m.mesh._following


SIGNED = "".join(
    f"c{number} 300 IN CNAME c{number + 1}\n"
    f"c{number} 300 IN RRSIG CNAME 8 3 300 20400101000000 20200101000000 1 example.com. {'A' * 4000}\n"
    for number in range(4)
) + "c4 300 IN A 192.0.2.80\n"


def signed_world(clients: int) -> tuple[Minet, list[MeshRequest], list[Outcome]]:
    """Queries whose chain of aliases has signatures, and whose policy has an alias that no server answers."""
    m = world(FOR_ADDRESS + " CNAME www.lame.example.com.\n", records=SIGNED)
    m.net.links["192.0.2.77"] = Link(loss=1.0)
    found: list[Outcome] = []
    return m, [submit(m, found, names.from_text("c0.example.com.")) for _ in range(clients)], found


def test_what_a_query_holds_while_its_alias_is_followed_is_counted() -> None:
    m, requests, _ = signed_world(20)
    m.net.run(m.mesh, until=lambda: all(one._query.alias is not None for one in requests))
    assert all(rrset.sig_len == 0 for one in requests for rrset in one._query.alias.answer)
    held = [octets_of(one._query.alias.answer) for one in requests]
    before = m.mesh._octets
    assert sum(held) < before
    for one in requests[1:]:
        m.mesh.cancel(one)
    assert held[0] <= m.mesh._octets <= before - sum(held[1:])
    m.mesh.cancel(requests[0])
    assert m.mesh._octets == 0


def test_queries_whose_alias_is_followed_are_ended_when_they_hold_too_much() -> None:
    m, requests, found = signed_world(200)
    m.mesh._octets_limit = 100_000  # the first resolution holds less
    m.net.run(m.mesh, until=lambda: all(one._query.alias is not None for one in requests))
    assert m.mesh._octets <= 100_000 and m.mesh.statistics()["ended_for_memory"] > 0
    assert found and {one.failure.kind for one in found if one.failure} == {FailureKind.OVERLOAD}


# --- what is cached -----------------------------------------------------------------------------------------------


def test_an_alias_from_before_a_flush_is_not_cached() -> None:
    zones = "www.evil.example.com" + GARDEN, "32.9.9.9.9.rpz-client-ip CNAME .\n"
    m = world(*zones)
    service, fast, module = serve(m, *zones)
    query, sink = make_query(1, EVIL_NAME, c.A), Sink()
    service.handle(query, (GUEST, 5353), sink)
    module.replace({})
    m.store.clear()
    m.net.run(m.mesh, until=lambda: bool(sink.packets))
    assert len(sink.last.answer) == 2
    assert fast.answer(query, (GUEST, 4242), now=m.net.time()) is None
    service, fast, _ = serve(m, *zones)
    for _ in range(2):
        sink = Sink()
        service.handle(query, (GUEST, 5353), sink)
        m.net.run(m.mesh, until=lambda sink=sink: bool(sink.packets))
    assert fast.answer(query, (GUEST, 4242), now=m.net.time()) is not None, "the control"


@pytest.mark.parametrize("serials", [(3, 4), (4, 3)])
def test_the_older_serial_is_that_of_the_whole(serials: tuple[int, int]) -> None:
    alias, target = (Outcome(Question(WWW, c.A), c.NOERROR, [], [], Verdict.INDETERMINATE, 60) for _ in serials)
    alias.serial, target.serial = serials
    assert join_alias(alias, target).serial == 3


def test_no_prefetch_asks_the_servers_of_a_name_that_a_rule_has_answered() -> None:
    zones = "www.evil.example.com CNAME brief.example.com.\n", "32.9.9.9.9.rpz-client-ip CNAME .\n"
    m = world(*zones, records="brief 60 IN A 192.0.2.98\n")
    service, fast, _ = serve(m, *zones, prefetch=True)
    query = make_query(1, EVIL_NAME, c.A)
    for seconds in (0, 57):
        m.net.sleep(m.mesh, seconds)
        sink = Sink()
        assert fast.answer(query, (GUEST, 5353), now=m.net.time()) is None, "not there, or due"
        service.handle(query, (GUEST, 5353), sink)
        m.net.run(m.mesh, until=lambda sink=sink: bool(sink.packets))
    m.net.run(m.mesh, seconds=1)
    assert not any("evil" in entry.qname for entry in m.net.log)
    assert m.mesh.statistics()["prefetches"] == 0


# --- one rule for an answer ---------------------------------------------------------------------------------------


def pipeline(*zones: str, override: str = "") -> Pipeline:
    module = compiled(*zones, override=override)[1]
    return Pipeline(1, "", (module, RpzAliases(module)))


def chain(*records: str) -> Outcome:
    answer = present.zone_from_text("".join(f"{record}\n" for record in records), names.ROOT)
    return Outcome(Question(WWW, c.A), c.NOERROR, answer, [], Verdict.INSECURE, 300)


CHAIN = "www.example.com. 300 CNAME end.example.com.", "end.example.com. 300 A 192.0.2.80"


def test_the_first_name_of_a_chain_that_has_a_rule_decides() -> None:
    """A rule for a name behind it is not applied, even while the first one waits for the answer."""
    waits = "32.1.0.0.10.rpz-ip CNAME .\n"
    view = pipeline(waits, "www.example.com CNAME rpz-passthru.\n", "end.example.com CNAME .\n")
    end = Question(names.from_text("end.example.com."), c.A)
    assert view.answer_alias(end, {names.lower(WWW)}) is None and view.answer_alias(end) is None
    view = pipeline("www.example.com CNAME rpz-passthru.\nend.example.com CNAME .\n")
    assert view.answer_alias(end, {names.lower(WWW)}) is None
    made = view.answer_alias(end, {names.from_text("alias.example.com.")})
    assert made is not None and made.rcode == c.NXDOMAIN
    given = chain(*CHAIN)
    assert view.response(Query(GUEST), given) is given


def test_the_target_of_an_alias_is_judged_for_each_client_when_there_are_rules_for_clients() -> None:
    view = pipeline(FOR_GUEST + " CNAME rpz-passthru.\nend.example.com CNAME .\n")
    assert view.answer_alias(Question(names.from_text("end.example.com."), c.A), {names.lower(WWW)}) is None
    given = chain(*CHAIN)
    assert view.response(Query(GUEST), given) is given
    assert view.response(Query(OTHER), given).rcode == c.NXDOMAIN


def test_an_answer_keeps_the_aliases_that_lead_to_the_name_of_its_rule() -> None:
    view = pipeline("32.1.0.0.10.rpz-ip CNAME .\n", "end.example.com A 192.0.2.7\n")
    made = view.response(Query(GUEST), chain(*CHAIN))
    assert targets(made) == ["end.example.com."] and addresses(made) == ["192.0.2.7"]
    assert (made.question.qname, made.ttl) == (WWW, 60)
    view = pipeline("32.80.2.0.192.rpz-ip CNAME .\n")
    made = view.response(Query(GUEST), chain(*CHAIN))
    assert (made.rcode, targets(made), len(made.answer)) == (c.NXDOMAIN, ["end.example.com."], 1)


@pytest.mark.parametrize(("rules", "override"), [
    ("www.example.com CNAME www.example.com.\n*.example.com CNAME .\n", ""),  # the notation before there was PASSTHRU
    ("*.example.com CNAME .\n", "cname WWW.example.com"),
    ("*.example.com CNAME .\n32.1.0.0.10.rpz-client-ip CNAME .\n", "cname www.example.com"),
])
def test_an_alias_to_the_own_name_is_an_exception(rules: str, override: str) -> None:
    view = pipeline(rules, "www.example.com CNAME .\n", override=override)
    question = Question(WWW, c.A)
    assert view.own_question(Query(GUEST), question) is view.answer(question) is None
    assert view.answer_alias(question) is None
    given = chain("www.example.com. 300 A 192.0.2.80")
    assert view.response(Query(GUEST), given) is given


def test_whether_a_rule_may_apply_is_found_out_without_a_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    _, module = compiled("www.example.com CNAME .\n", log=True)
    view = Pipeline(1, "", (module, RpzAliases(module)))
    with caplog.at_level(logging.WARNING):
        assert view.changes(Question(WWW, c.A))
        assert not caplog.records and not view.counts
        assert view.answer_alias(Question(WWW, c.A)) is not None
        assert len(caplog.records) == 1


@pytest.mark.parametrize("minimal", [True, False])
def test_a_minimal_response_shows_which_zone_has_changed_it(minimal: bool) -> None:
    made = pipeline("www.example.com CNAME .\n").own_question(Query(GUEST), Question(WWW, c.A))
    assert made is not None
    made.additional += present.zone_from_text("ns.example.com. 60 A 192.0.2.1\n", names.ROOT)
    packet = compose(read_query(make_query(1, WWW, c.A)), made, minimal=minimal, minimal_any=False)
    assert [rrset.rtype for rrset in MessageView.parse(packet).additional] == [c.SOA, c.A][:1 if minimal else 2]
