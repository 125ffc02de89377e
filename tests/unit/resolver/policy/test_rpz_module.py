"""Response policy zones in a pipeline: what the rules hold for, and which answers may be cached."""

import pytest

from resolver.effects import Outcome, Question, Server
from resolver.nat64 import ServerNat64
from resolver.policy import Pipeline, PolicyModule
from resolver.policy.dns64 import Dns64
from resolver.policy.minimal_any import MinimalAny
from resolver.policy.rpz_module import ResponsePolicyZones, RpzAliases, options_of
from resolver.policy.rpz_zone import RpzOptions, compile_zone
from resolver.query import ActionKind, Applied, Query
from resolver.settings import RpzSettings
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire import present

ORIGIN = names.from_text("rpz.example.")
STREAM, DATAGRAM = Query("192.0.2.1", transport="tcp"), Query("192.0.2.1", transport="udp")
OPTIONS = RpzOptions()


def view(rules: str, *behind: PolicyModule, options: RpzOptions = OPTIONS, dns64: Dns64 | None = None) -> Pipeline:
    text = f"$TTL 60\n@ SOA ns.example. admin.example. 1 3600 600 86400 60\n{rules}\n"
    made, errors = compile_zone(ORIGIN, present.zone_from_text(text, ORIGIN), bytes(16), options)
    assert errors == []
    zones = ResponsePolicyZones([RpzSettings(name="rpz.example", file="unused")])
    zones.replace({"rpz.example": made})
    return Pipeline(0, "", (zones, RpzAliases(zones), *behind), dns64=dns64)


def outcome(qtype: str, *records: str) -> Outcome:
    answer = present.zone_from_text("".join(f"{record}\n" for record in records), names.ROOT)
    question = Question(names.from_text("www.test."), c.type_from_text(qtype))
    return Outcome(question, c.NOERROR, answer, [], Verdict.INSECURE, 300)


HINT = "www.test. 300 HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1,203.0.113.8 ipv6hint=2001:db8::1"


@pytest.mark.parametrize(("qtype", "record"), [
    ("A", "www.test. 300 A 203.0.113.8"),
    ("AAAA", "www.test. 300 AAAA ::ffff:203.0.113.8"),
    ("AAAA", "www.test. 300 AAAA 64:ff9b::203.0.113.8"),
    ("AAAA", "www.test. 300 AAAA 2001:db8:64::203.0.113.8"),
    ("HTTPS", HINT),
    ("SVCB", "www.test. 300 SVCB 1 . ipv6hint=64:ff9b::203.0.113.8"),
    ("SVCB", "www.test. 300 SVCB 1 . ipv6hint=2001:db8:64::203.0.113.8"),
])
def test_a_rule_for_an_address_holds_wherever_clients_find_it(qtype: str, record: str) -> None:
    """The owner of a name chooses its records. A client may connect to a hint (RFC 9460 section 7.3), and a NAT64
    translates an address that no DNS64 has made (RFC 6052)."""
    dns64 = Dns64(["2001:db8:64::/96"])
    assert view("32.8.113.0.203.rpz-ip CNAME .", dns64=dns64).response(
        DATAGRAM, outcome(qtype, record)).rcode == c.NXDOMAIN
    given = outcome(qtype, record)
    assert view("32.9.113.0.203.rpz-ip CNAME .", dns64=dns64).response(DATAGRAM, given) is given


def test_a_prefix_of_dns64_has_no_meaning_in_other_views() -> None:
    given = outcome("AAAA", "www.test. 300 AAAA 2001:db8:64::203.0.113.8")
    assert view("32.8.113.0.203.rpz-ip CNAME .").response(DATAGRAM, given) is given


@pytest.mark.parametrize(("rules", "override"), [
    ("32.8.113.0.203.rpz-ip CNAME rpz-tcp-only.", False),
    ("end.test CNAME rpz-tcp-only.", False),
    ("32.8.113.0.203.rpz-ip CNAME .", True),
])
def test_an_answer_that_only_streams_get_is_not_cached(rules: str, override: bool) -> None:
    """The rule is not about the qname, so `is_cacheable` does not see it."""
    tcp_only = view("x.test CNAME rpz-tcp-only.")
    rule = tcp_only.modules[0]._zones.zones[0].rules[0]  # type: ignore[attr-defined]
    pipeline = view(rules, options=RpzOptions(override=rule) if override else OPTIONS)
    given = outcome("A", "www.test. 300 CNAME end.test.", "end.test. 300 A 203.0.113.8")
    assert pipeline.is_cacheable(given.question)
    made = pipeline.response(STREAM, given)
    assert (made.answer, made.applied, made.ttl) == (given.answer, None, 0)
    assert given.ttl == 300, "other clients share it"
    truncated = pipeline.response(DATAGRAM, given)
    assert truncated.applied is not None and not truncated.answer


def test_an_exception_from_policy_zones_is_none_from_other_policies() -> None:
    """At `question` the modules behind are asked by the job, so at `alias` they are asked as well."""

    class Behind(PolicyModule):
        name = "behind"

        def question(self, query: Query, question: Question) -> Outcome:
            return Outcome(question, c.NXDOMAIN, [], [], Verdict.INDETERMINATE, 5)

        alias = question

    pipeline = view("www.test CNAME rpz-passthru.", Behind())
    asked = Question(names.from_text("www.test."), c.A)
    assert pipeline.own_question(DATAGRAM, asked) is None
    for made in (pipeline.answer(asked), pipeline.answer_alias(asked)):
        assert made is not None and made.rcode == c.NXDOMAIN
    assert pipeline.changes(asked)


@pytest.mark.parametrize(("rule", "rcode", "kind"), [
    ("www.test CNAME .", c.NXDOMAIN, None), ("www.test CNAME rpz-drop.", None, ActionKind.DROP),
    ("www.test A 192.0.2.66", c.NOERROR, None), ("www.test CNAME walled.example.", c.NOERROR, None),
])
def test_any_obeys_a_rule_behind_a_zone_that_needs_the_answer(
    rule: str, rcode: int | None, kind: ActionKind | None
) -> None:
    """No address decides about it, because `MinimalAny` would answer it without one."""
    texts = {"first.example": "32.1.2.0.192.rpz-ip CNAME .", "second.example": rule}
    made = {}
    for name, text in texts.items():
        whole = f"$TTL 60\n@ SOA ns.example. admin.example. 1 3600 600 86400 60\n{text}\n"
        made[name], errors = compile_zone(ORIGIN, present.zone_from_text(whole, ORIGIN), bytes(16), OPTIONS)
        assert errors == []
    zones = ResponsePolicyZones([RpzSettings(name=name, file="unused") for name in texts])
    zones.replace(made)
    pipeline = Pipeline(0, "", (zones, RpzAliases(zones), MinimalAny()))
    asked = Question(names.from_text("www.test."), c.ANY)
    found = pipeline.own_question(DATAGRAM, asked)
    assert found is not None and found.applied is not None and found.applied.module == "rpz"
    assert found.applied.kind is kind if kind is not None else found.rcode == rcode
    assert not any(one.rtype == c.HINFO for one in found.answer)
    assert pipeline.own_question(DATAGRAM, Question(asked.qname, c.A)) is None, "its answer may have the address"


def test_any_queries_are_judged() -> None:
    pipeline = view("www.test CNAME rpz-drop.", MinimalAny())
    stopped = pipeline.own_question(DATAGRAM, Question(names.from_text("www.test."), c.ANY))
    assert stopped is not None and stopped.applied is not None and stopped.applied.kind.value == "drop"


@pytest.mark.parametrize("local", [False, True])
def test_an_alias_to_local_data_ends_no_rule(local: bool) -> None:
    """The rule for the qname waits for the answer, because a zone before it has a trigger for addresses. Only a qname
    that is an alias by local data has no rule."""
    made = {}
    for origin, rule in (("one.", "32.8.113.0.203.rpz-ip CNAME ."), ("two.", "www.test CNAME .")):
        wire = names.from_text(origin)
        made[origin], _ = compile_zone(wire, present.zone_from_text(f"$TTL 60\n{rule}\n", wire), bytes(16))
    zones = ResponsePolicyZones([RpzSettings(name=origin, file="unused") for origin in made])
    zones.replace(made)
    pipeline = Pipeline(0, "", (zones, RpzAliases(zones)))
    given = outcome("A", "www.test. 300 CNAME local.test.", "local.test. 300 A 10.0.0.7")
    assert pipeline.own_question(DATAGRAM, given.question) is None
    given.applied = Applied("alias", "local-zones", ActionKind.ANSWER)
    if local:
        given.answer[0].trust = Trust.CONFIGURED
    assert pipeline.response(DATAGRAM, given).rcode == (c.NOERROR if local else c.NXDOMAIN)


@pytest.mark.parametrize(("trigger", "prefix", "refused"), [
    ("32.8.113.0.203.rpz-nsip", "2001:db8:64::/96", True),
    ("32.8.113.0.203.rpz-nsip", "2001:db8:65::/96", False),
    ("32.8.113.0.203.rpz-nsip", "", False),
    ("128.7108.cb00.zz.64.db8.2001.rpz-nsip", "2001:db8:64::/96", True),
])
def test_a_rule_for_the_address_of_a_name_server_holds_behind_a_nat64(trigger: str, prefix: str, refused: bool) -> None:
    """The server 203.0.113.8 is reached at an IPv6 address; rules for either address hold."""
    made, errors = compile_zone(ORIGIN, present.zone_from_text(f"$TTL 60\n{trigger} CNAME .\n", ORIGIN), bytes(16))
    assert errors == []
    zones = ResponsePolicyZones([RpzSettings(name="rpz.example", file="unused")], nat64=ServerNat64.create(prefix))
    zones.replace({"rpz.example": made})
    question = Question(names.from_text("www.test."), c.A)
    found = Pipeline(0, "", (zones,)).name_server(question, names.ROOT, (), [Server("2001:db8:64::cb00:7108", 53)])
    assert (found is not None) is refused


@pytest.mark.parametrize("rule", ["www.test CNAME .", "www.test CNAME rpz-passthru.", "www.test CNAME other.example.",
                                  "*.test A 192.0.2.1"])
@pytest.mark.parametrize(("override", "target"), [
    ("cname walled.example.", "walled.example."), ("cname walled.example", "walled.example."),
    ("cname *.walled.example", "www.test.walled.example."),
])
def test_an_override_by_an_alias_is_followed_as_the_alias_of_a_rule(rule: str, override: str, target: str) -> None:
    settings = RpzSettings(name="rpz.example", file="unused", override=override)
    pipeline = view(rule, options=options_of(settings))
    asked = Question(names.from_text("www.test."), c.A)
    assert pipeline.own_question(DATAGRAM, asked) is None, "an alias that is followed is the same for all clients"
    made = pipeline.answer(asked)
    assert made is not None and made.rcode == c.NOERROR
    [alias] = made.answer
    assert (alias.rtype, alias.targets()) == (c.CNAME, [names.from_text(target)])
    other = Question(names.from_text("www.example."), c.A)
    assert pipeline.own_question(DATAGRAM, other) is pipeline.answer(other) is None


@pytest.mark.parametrize("override", [
    "cname ", "cname .", "cname *", "cname *.", "cname rpz-drop.", "cname RPZ-passthru", "cname a..b", "cname", "odd",
    "cname " + "x" * 64,
])
def test_overrides_that_are_no_action_are_refused(override: str) -> None:
    with pytest.raises(ValueError, match=r"^rpz\.override: "):
        RpzSettings(name="rpz.example", file="unused", override=override)
