"""Balanced names: the choice of addresses for a client, the states of targets, and what is cached of the answers."""

import sys
import types
from collections import Counter
from ipaddress import ip_address
from typing import Any

import pytest
from support.fakenet import SeededRandom
from support.minet import build
from support.service_parts import CLIENT, Parts, address, positive, query

from resolver import limits
from resolver.daemon.cache_rules import digest_rules
from resolver.daemon.config import ConfigError, parse
from resolver.daemon.config_writer import render
from resolver.effects import Outcome, Question
from resolver.geo import open_countries
from resolver.mesh import Mesh
from resolver.policy import Balancer, PolicyPipeline
from resolver.policy.balance import Health, Target, choose
from resolver.query import Query
from resolver.settings import (
    BalanceSettings,
    PolicySettings,
    Settings,
    TargetSettings,
    ViewSettings,
    replace,
)
from resolver.wire import consts as c
from resolver.wire import name as names

WWW = names.from_text("www.example.com.")
A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
SIX = "2001:db8::1"


def balance(*targets: str | TargetSettings, **more: Any) -> BalanceSettings:
    made = tuple(one if isinstance(one, TargetSettings) else TargetSettings(one) for one in targets)
    return BalanceSettings(name="www.example.com", target=made, **more)


def checked(*targets: str | TargetSettings, **more: Any) -> BalanceSettings:
    return balance(*targets, check="tcp", check_port=80, **more)


def made(*targets: TargetSettings) -> list[Target]:
    return [Target(one, 1, 1) for one in targets]


def chosen(targets: list[Target], policy: str, seed: int = 1, **more: Any) -> list[str]:
    return [target.address for target in choose(targets, policy, rng=SeededRandom(seed), **more)]


# --- the choice ---------------------------------------------------------------------------------------------------


def test_rotation_keeps_the_order_and_begins_anywhere() -> None:
    targets = made(*map(TargetSettings, (A, B, C)))
    found = {tuple(chosen(targets, "rotate", seed)) for seed in range(50)}
    assert found == {(A, B, C), (B, C, A), (C, A, B)}
    assert chosen(targets, "rotate", 7) == chosen(targets, "rotate", 7), "the same with the same random numbers"
    assert len(chosen(targets, "rotate", most=2)) == 2
    assert chosen(targets[:1], "rotate") == [A]


def test_weights_are_shares_of_the_clients() -> None:
    targets = made(TargetSettings(A, weight=6), TargetSettings(B, weight=3), TargetSettings(C, weight=1))
    rng = SeededRandom(5)
    first = Counter(choose(targets, "weighted", most=1, rng=rng)[0].address for _ in range(10_000))
    for target, share in ((A, 0.6), (B, 0.3), (C, 0.1)):
        assert abs(first[target] / 10_000 - share) < 0.02, first
    orders = Counter(tuple(one.address for one in choose(targets, "weighted", rng=rng)) for _ in range(2000))
    assert all(sorted(order) == [A, B, C] for order in orders) and len(orders) == 6


@pytest.mark.parametrize(("client", "country", "expected"), [
    ("10.1.2.3", "", [A]),        # the longest prefix
    ("10.9.0.1", "DE", [B]),      # a prefix precedes the country
    ("198.51.100.1", "DE", [C]),
    ("198.51.100.1", "FR", ["192.0.2.4"]),  # that of nobody in particular
    ("198.51.100.1", "", ["192.0.2.4"]),
    ("2001:db8:1::5", "", [C]),
    ("", "", ["192.0.2.4"]),
])
def test_the_nearest_target(client: str, country: str, expected: list[str]) -> None:
    targets = made(
        TargetSettings(A, clients=("10.1.0.0/16",)), TargetSettings(B, clients=("10.0.0.0/8",)),
        TargetSettings(C, clients=("2001:db8::/32",), countries=("DE", "AT")), TargetSettings("192.0.2.4"),
    )
    packed = ip_address(client).packed if client else b""
    assert chosen(targets, "nearest", client=packed, country=country) == expected


def test_a_far_target_is_better_than_none() -> None:
    targets = made(TargetSettings(A, clients=("10.1.0.0/16",)), TargetSettings(B, countries=("DE",)))
    assert sorted(chosen(targets, "nearest", client=bytes([192, 0, 2, 9]))) == [A, B]


# --- states -------------------------------------------------------------------------------------------------------


def test_a_target_changes_after_some_equal_results() -> None:
    health = Health(rise=2, fall=3)
    seen = [health.note(why) for why in ("x", "x", "", "x", "x", "x")]
    assert (seen, health.up, health.why) == ([False] * 5 + [True], False, "x")
    assert [health.note(why) for why in ("", "x", "", "")] == [False, False, False, True]
    assert (health.up, health.checks, health.failures, health.why) == (True, 10, 6, "")


def balancer(settings: BalanceSettings, seed: int = 1, **more: Any) -> Balancer:
    return Balancer((settings,), SeededRandom(seed), **more)


def fail(made: Balancer, *addresses: str) -> Balancer:
    for _, target in made.targets():
        target.health.up = target.address not in addresses
    return made


def shown(outcome: Outcome | None) -> list[str] | None:
    return None if outcome is None else [
        str(ip_address(rdata)) for rrset in outcome.answer for rdata in rrset.rdatas()]


def answer(made: Balancer, client: str | None = "10.0.0.1", rtype: int = c.A, name: bytes = WWW) -> list[str] | None:
    return shown(made.answer(Question(name, rtype), client))


def test_targets_that_are_down_are_not_answered() -> None:
    made = fail(balancer(checked(A, B, C)), B)
    assert {tuple(answer(made) or ()) for _ in range(40)} == {(A, C), (C, A)}
    assert answer(made, None) == [A, C], "in the order of the configuration where no client is known"
    assert made.chosen == {("www.example.com", A): made.chosen[("www.example.com", A)],
                           ("www.example.com", C): 40 - made.chosen[("www.example.com", A)]}


@pytest.mark.parametrize(("more", "four", "six"), [
    ({"when_down": "all"}, [A, B], [SIX]),
    ({"when_down": "none"}, [], []),
    ({"when_down": "fallback", "fallback": (C, "2001:db8::9")}, [C], ["2001:db8::9"]),
    ({"when_down": "fallback", "fallback": (C,)}, [C], []),
])
def test_the_answer_when_all_are_down(more: dict[str, Any], four: list[str], six: list[str]) -> None:
    made = fail(balancer(checked(A, B, SIX, **more)), A, B, SIX)
    for client in ("10.0.0.1", None):
        assert sorted(answer(made, client) or ()) == four
        assert answer(made, client, c.AAAA) == six
    outcome = made.answer(Question(WWW, c.AAAA), "10.0.0.1")
    assert outcome is not None and outcome.rcode == c.NOERROR and outcome.ttl == 30
    assert [rrset.rtype for rrset in outcome.authority] == ([] if six else [c.SOA])
    fail(made, A)
    assert answer(made) == [B], "one is enough"


def test_other_names_and_types_are_not_answered() -> None:
    made = balancer(balance(A, ttl=5))
    assert answer(made, name=names.from_text("x.www.example.com.")) is answer(made, rtype=c.TXT) is None
    assert answer(made, rtype=c.AAAA) is None, "a policy after it may make addresses"
    assert answer(made, None, c.AAAA) == []
    outcome = made.answer(Question(names.from_text("WWW.Example.com."), c.A), "10.0.0.1")
    assert outcome is not None and (outcome.ttl, outcome.authoritative) == (5, True)


def test_countries_are_looked_up_only_where_they_decide() -> None:
    asked: list[str] = []

    def country(address: str) -> str:
        asked.append(address)
        return "DE"

    settings = balance(TargetSettings(A, countries=("DE",)), TargetSettings(B), policy="nearest")
    made = balancer(settings, countries=country)
    assert (answer(made), asked) == ([A], ["10.0.0.1"])
    assert answer(made, "") == [B], "the program itself has no country"
    assert answer(balancer(balance(A), countries=country)) == [A] and asked == ["10.0.0.1"]


def test_a_reload_goes_on_with_states_of_equal_checks() -> None:
    before = fail(balancer(checked(A, B)), A, B)
    after = balancer(checked(A, C))
    after.continue_from(before)
    assert [target.health.up for _, target in after.targets()] == [False, True]
    other = balancer(balance(A, check="http"))
    other.continue_from(before)
    assert [target.health.up for _, target in other.targets()] == [True]


# --- in the service -----------------------------------------------------------------------------------------------


def parts(one: BalanceSettings, settings: Settings | None = None) -> tuple[Parts, Balancer]:
    made = balancer(one)
    return Parts(settings, modules=made.modules()), made


def asked(p: Parts, source: str = CLIENT[0], **options: Any) -> list[str]:
    p.ask(query(**options), peer=(source, CLIENT[1]))
    return [str(ip_address(rdata)) for rrset in p.sink.last.answer for rdata in rrset.rdatas()]


def test_each_query_gets_its_own_answer_and_none_is_cached() -> None:
    p, _ = parts(balance(A, B, C))
    orders = {tuple(asked(p, identity=number)) for number in range(30)}
    assert orders == {(A, B, C), (B, C, A), (C, A, B)}
    assert p.mesh.tickets == [] and p.fast.statistics()["hits"] == 0
    assert p.sink.last.aa
    assert p.service.statistics()["queries"] == 30


def test_the_nearest_answer_of_one_client_is_not_that_of_another() -> None:
    settings = balance(TargetSettings(A, clients=("127.0.0.0/24",)), TargetSettings(B, clients=("127.0.1.0/24",)),
                       policy="nearest")
    p, _ = parts(settings)
    for _ in range(3):
        for source, nearest in (("127.0.0.1", A), ("127.0.1.1", B)):
            assert asked(p, source) == [nearest]
            assert p.fast.answers.render(query(), p.clock.real, 1232) is None


def test_other_names_stay_on_the_fast_path() -> None:
    p, _ = parts(balance(A))
    assert p.plan.views[0].caches
    assert p.plan.views[0].is_cacheable(Question(names.from_text("x.example.com."), c.A))
    assert not p.plan.views[0].is_cacheable(Question(WWW, c.A))


def test_local_data_precedes_a_balanced_name() -> None:
    policy = PolicySettings(local_data=("www.example.com. A 192.0.2.99",))
    p, made = parts(balance(A), settings=Settings(policy=policy))
    p.ask(query())
    assert p.mesh.tickets, "left to the look-up, where local data decides"
    found = p.plan.views[0].answer(Question(WWW, c.A))
    assert shown(found) == ["192.0.2.99"] and made.chosen == {}


def test_rotated_addresses_of_the_service_and_of_the_cache() -> None:
    """The first answer, which the service composes, and the next ones, which the fast path gives."""
    plain, turning = Parts(), Parts(rotate_addresses=True)
    orders: dict[Parts, set[tuple[str, ...]]] = {plain: set(), turning: set()}
    for p, seen in orders.items():
        for number in range(40):
            p.ask(query(identity=number))
            p.mesh.finish(positive(address(count=3)))
            seen.add(tuple(str(ip_address(rdata)) for rdata in p.sink.last.answer[0].rdatas()))
    assert len(orders[plain]) == 1 and len(orders[turning]) == 3
    cached = {turning.fast.answers.render(query(), turning.clock.real, 1232) for _ in range(40)}
    assert len(cached) == 3


def test_a_balanced_name_is_not_rotated_again() -> None:
    weighted = Balancer((balance(TargetSettings(A, weight=1000), B, policy="weighted"),), SeededRandom(1))
    p = Parts(modules=weighted.modules(), rotate_addresses=True)
    first = Counter(asked(p, identity=number)[0] for number in range(60))
    assert first[A] >= 59


# --- in the resolution --------------------------------------------------------------------------------------------


def world(settings: BalanceSettings, **policy: Any) -> tuple[Any, Balancer]:
    m = build()
    made = balancer(settings)
    given = replace(m.settings, policy=PolicySettings(**policy))
    m.mesh = Mesh(exchange=m.net, crypto=m.net, clock=m.net, rng=m.mesh._context.rng, store=m.store, settings=given,
                  policy=PolicyPipeline(given, modules=made.modules()))
    return m, made


def test_aliases_and_the_library_get_what_is_up() -> None:
    m, made = world(checked(A, B, ttl=7))
    fail(made, A)
    for name in ("www.example.com.", "alias.example.com."):
        outcome = m.ask(name)
        assert [str(ip_address(rdata)) for rdata in outcome.answer[-1].rdatas()] == [B]
        assert outcome.ttl == 7
    fail(made)
    assert len(m.ask("alias.example.com.").answer[-1]) == 2, "nothing but the alias is cached"
    assert m.ask("www.example.com.", "TXT").answer == [] and m.net.log


def test_dns64_makes_addresses_of_balanced_ones() -> None:
    m, _ = world(balance(A), dns64_prefix=("64:ff9b::/96",))
    assert shown(m.ask("www.example.com.", "AAAA")) == ["64:ff9b::c000:201"]
    assert shown(world(balance(A, SIX), dns64_prefix=("64:ff9b::/96",))[0].ask("www.example.com.", "AAAA")) == [SIX]


def test_balanced_names_are_the_same_in_all_views() -> None:
    made = balancer(balance(A))
    settings = Settings(view=(ViewSettings(name="v", clients=("10.0.0.0/8",)),))
    plan = PolicyPipeline(settings, modules=made.modules())
    for view in plan.views:
        found = view.own_question(Query("10.0.0.1", view=view.number), Question(WWW, c.A))
        assert shown(found) == [A] and found is not None and found.applied is not None
        assert found.applied.module == "balance"


# --- countries ----------------------------------------------------------------------------------------------------


class Reader:
    """What maxminddb gives for some addresses."""

    ENTRIES = {"10.0.0.1": {"country": {"iso_code": "DE"}}, "10.0.0.2": {"registered_country": {"iso_code": "AT"}},
               "10.0.0.3": {"country": {}}, "10.0.0.4": "text", "10.0.0.5": {"country": {"iso_code": 5}},
               "fe80::1": {"country": {"iso_code": "FR"}}}

    def get(self, address: str) -> object:
        if address == "::1":
            raise ValueError("an IPv6 address in a file for IPv4")
        return self.ENTRIES.get(address)


def test_the_country_of_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    class InvalidDatabaseError(Exception):
        pass

    def open_database(path: str) -> Reader:
        if path != "geo.mmdb":
            raise InvalidDatabaseError("no data")
        return Reader()

    module = types.ModuleType("maxminddb")
    module.open_database = open_database  # type: ignore[attr-defined]
    module.InvalidDatabaseError = InvalidDatabaseError  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "maxminddb", module)
    country = open_countries("geo.mmdb")
    found = [country(address) for address in (*Reader.ENTRIES, "::1", "192.0.2.1", "fe80::1%eth0")]
    assert found == ["DE", "AT", "", "", "", "FR", "", "", "FR"]
    with pytest.raises(ValueError, match=r"^policy\.geo_database: 'other' cannot be used: no data"):
        open_countries("other")
    monkeypatch.setitem(sys.modules, "maxminddb", None)
    with pytest.raises(ValueError, match=r"^policy\.geo_database: it needs maxminddb"):
        open_countries("geo.mmdb")


def test_a_file_of_countries_of_the_package(tmp_path: Any) -> None:
    pytest.importorskip("maxminddb")
    (tmp_path / "wrong.mmdb").write_bytes(b"no data")
    for name in ("wrong.mmdb", "missing.mmdb"):
        with pytest.raises(ValueError, match=r"^policy\.geo_database: .* cannot be used"):
            open_countries(str(tmp_path / name))


# --- settings -----------------------------------------------------------------------------------------------------

HEAD = '[[balance]]\nname = "www.example.com"\n'
TARGET = '[[balance.target]]\naddress = "192.0.2.1"\n'


@pytest.mark.parametrize(("text", "problem"), [
    (HEAD, "'www.example.com' has no [[balance.target]]"),
    (HEAD + TARGET + TARGET, "'192.0.2.1' is listed twice"),
    (HEAD + '[[balance.target]]\naddress = "x"\n', "4: balance[0].target[0].address: 'x' is not an IP address"),
    (HEAD + TARGET + "weight = 2\n", "weight needs policy weighted"),
    (HEAD + TARGET + 'clients = ["10.0.0.0/8"]\n', "clients and countries need policy nearest"),
    (HEAD + TARGET + 'countries = ["Germany"]\n', "'Germany' is not a country"),
    (HEAD + 'policy = "nearest"\n' + TARGET + 'countries = ["DE"]\n', "has countries, which need policy.geo-database"),
    (HEAD + 'policy = "best"\n' + TARGET, "3: balance[0].policy: 'best' is not one of rotate, weighted, nearest"),
    (HEAD + 'check = "tcp"\n' + TARGET, "0 is no port; a check over tcp needs one"),
    (HEAD + 'check = "http"\ncheck-path = "x"\n' + TARGET, "'x' is not the path of a URL"),
    (HEAD + 'when-down = "none"\n' + TARGET, "without a check no target is ever down"),
    (HEAD + 'check = "http"\nwhen-down = "fallback"\n' + TARGET, "it goes with when-down = \"fallback\""),
    (HEAD + 'fallback = ["192.0.2.9"]\n' + TARGET, "it goes with when-down = \"fallback\""),
    (HEAD + 'check = "http"\nwhen-down = "fallback"\nfallback = ["2001:db8::9"]\n' + TARGET,
     "fallback[0]: '2001:db8::9' is never given, because no target of 'www.example.com' has an IPv6 address"),
    (HEAD + 'interval = "0.5 s"\n' + TARGET, "0.5 is outside 1..3600 seconds"),
    (HEAD + TARGET + HEAD + TARGET, "'www.example.com' is configured twice"),
])
def test_what_does_not_fit_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text)
    assert problem in str(raised.value).replace("configuration:", "")


def test_numbers_are_limited() -> None:
    many = tuple(TargetSettings(f"192.0.2.{number}") for number in range(limits.BALANCE_TARGETS + 1))
    with pytest.raises(ValueError, match="more than 32 addresses"):
        balance(*many)
    with pytest.raises(ValueError, match="more than 256 prefixes"):
        TargetSettings(A, clients=("10.0.0.0/8",) * 257)
    with pytest.raises(ValueError, match="more than 64 names"):
        Settings(balance=tuple(BalanceSettings(name=f"n{number}", target=(TargetSettings(A),)) for number in range(65)))


def test_a_balanced_name_is_written_and_read_back() -> None:
    text = (HEAD + 'policy = "nearest"\ncheck = "https"\ncheck-path = "/up"\nwhen-down = "fallback"\n'
            'fallback = ["192.0.2.9"]\ninterval = "5 s"\n' + TARGET + 'clients = ["10.0.0.0/8"]\n'
            + TARGET.replace("2.1", "2.2"))
    settings = parse(text)
    (one,) = settings.balance
    assert (one.interval, one.probe, len(one.target)) == (5.0, ("https", 443, "/up", ""), 2)
    assert parse(render(settings)) == settings
    assert digest_rules(settings, (), {}) != digest_rules(Settings(), (), {})
