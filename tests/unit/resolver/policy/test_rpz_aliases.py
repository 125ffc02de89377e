"""Aliases of policy zones that one client gets: the mesh follows them. One rule only decides about an answer."""

from types import SimpleNamespace
from typing import Any

import pytest
from support.minet import EXAMPLE_ZONE, Minet, addresses, build, standard
from support.service_parts import Sink

from resolver.effects import Failure, FailureKind, Outcome, Question
from resolver.mesh import Mesh
from resolver.net.fastpath import FastPath, read_query
from resolver.net.reply import compose
from resolver.net.service import Service
from resolver.partial_response import failure_outcome, join_alias
from resolver.policy import Action, Pipeline, PolicyModule, PolicyPipeline
from resolver.policy.rpz_module import ResponsePolicyZones, RpzAliases, options_of
from resolver.policy.rpz_zone import compile_zone
from resolver.query import ActionKind, Query
from resolver.settings import DnssecSettings, PolicySettings, RpzSettings, Settings, ViewSettings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present
from resolver.wire.build import make_query
from resolver.wire.message import MessageView

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


def compiled(*zones: str, override: str = "") -> tuple[tuple[RpzSettings, ...], ResponsePolicyZones]:
    settings = tuple(RpzSettings(name=f"rpz{number}.test", file=f"/unused{number}", override=override)
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


def world(*zones: str, **policy: Any) -> Minet:
    """A network whose resolver has the policy zones in view 1."""
    settings, module = compiled(*zones)
    everybody = ("0.0.0.0/0",)
    made = Settings(
        dnssec=DnssecSettings(trust_anchors=()), rpz=settings, policy=PolicySettings(lists=(), **policy),
        view=(ViewSettings(name="guarded", clients=everybody, allow=everybody,
                           lists=tuple(one.name for one in settings)),),
    )
    served = [("example.com.", EXAMPLE)]
    m = build(standard(a192_0_2_1=served, a192_0_2_2=served, a192_0_2_66=[("evil.example.com.", EVIL)]), settings=made)
    m.mesh = Mesh(exchange=m.net, crypto=m.net, clock=m.net, rng=m.mesh._context.rng, store=m.store, settings=made,
                  policy=PolicyPipeline(made, modules=(module, RpzAliases(module))))
    return m


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
    assert targets(ask(world(FOR_ADDRESS + GARDEN + alias))) == ["garden.example.com.", "ns1.example.com."]


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


@pytest.mark.parametrize("minimal", [True, False])
def test_a_minimal_response_shows_which_zone_has_changed_it(minimal: bool) -> None:
    made = pipeline("www.example.com CNAME .\n").own_question(Query(GUEST), Question(WWW, c.A))
    assert made is not None
    made.additional += present.zone_from_text("ns.example.com. 60 A 192.0.2.1\n", names.ROOT)
    packet = compose(read_query(make_query(1, WWW, c.A)), made, minimal=minimal, minimal_any=False)
    assert [rrset.rtype for rrset in MessageView.parse(packet).additional] == [c.SOA, c.A][:1 if minimal else 2]
