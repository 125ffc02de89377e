"""Views: which client is in which, and that each resolves with its own policy beside the others."""

import ipaddress
import random

import pytest
from support.fakenet import Link
from support.minet import EXAMPLE_ZONE, Minet, build, reply, scripted, standard

from resolver.daemon.cache_rules import digest_rules
from resolver.daemon.config import ConfigError, parse
from resolver.daemon.config_writer import render
from resolver.effects import FailureKind, Outcome, Purpose, Question
from resolver.mesh import Mesh
from resolver.policy import ALLOW, DECISION, DROP, REFUSE, VIEW_SHIFT, AccessTable, PolicyPipeline
from resolver.policy.ranges import ViewAccess
from resolver.query import Query
from resolver.settings import (
    HostEntry,
    ListenerSettings,
    ListSettings,
    PolicySettings,
    RpzSettings,
    Settings,
    TlsSettings,
    TsigKey,
    ViewSettings,
    replace,
)
from resolver.wire import consts as c
from resolver.wire import name as names


def in_view(name: str, *clients: str, **more: object) -> ViewSettings:
    return ViewSettings(name=name, clients=clients, **more)  # type: ignore[arg-type]


# --- the table ----------------------------------------------------------------------------------------------------


def test_the_first_matching_view_is_used() -> None:
    table = AccessTable(["0.0.0.0/0", "::/0"], views=[
        ViewAccess(1, ("10.1.0.0/16",), None, False), ViewAccess(2, ("10.0.0.0/8", "2001:db8::/32"), None, False),
        ViewAccess(3, ("10.1.2.0/24",), None, False),
    ])
    for address, view in (("10.1.2.3", 1), ("10.2.0.1", 2), ("192.0.2.1", 0), ("2001:db8::1", 2), ("2001:db9::1", 0),
                          ("::ffff:10.1.0.1", 1), ("9.255.255.255", 0), ("11.0.0.0", 0)):
        assert (table.view_of(address), table.lookup(address)) == (view, ALLOW), address


def test_a_view_has_the_global_access_list_or_its_own() -> None:
    table = AccessTable(["10.0.0.0/8"], drop=["10.9.0.0/16"], views=[
        ViewAccess(1, ("10.1.0.0/16", "10.9.0.0/16"), None, False),
        ViewAccess(2, ("10.0.0.0/8",), (["10.2.0.0/16"], [], ["10.3.0.0/16"]), False),
    ])
    for address, view, decision in (("10.1.0.1", 1, ALLOW), ("10.9.0.1", 1, DROP), ("10.2.0.1", 2, ALLOW),
                                    ("10.3.0.1", 2, DROP), ("10.4.0.1", 2, REFUSE), ("192.0.2.1", 0, REFUSE)):
        assert (table.view_of(address), table.lookup(address)) == (view, decision), address


def test_views_are_numbered() -> None:
    with pytest.raises(ValueError, match="view 256: views are numbered from 1 to 255"):
        AccessTable(views=[ViewAccess(256, (), None, False)])
    assert AccessTable(views=[ViewAccess(255, (), None, False)]).view_of("192.0.2.1") == 255


@pytest.mark.parametrize("seed", range(20))
def test_selection_agrees_with_a_linear_search(seed: int) -> None:
    rng = random.Random(seed)

    def prefixes() -> tuple[str, ...]:
        found = []
        for _ in range(rng.randrange(1, 4)):
            packed = bytes([10, rng.randrange(4), rng.randrange(4), 0])
            found.append(str(ipaddress.ip_network((packed, rng.choice([8, 16, 24])), strict=False)))
        return tuple(found)

    views = [ViewAccess(number, prefixes(), (prefixes(), prefixes(), prefixes()) if rng.random() < 0.5 else None, False)
             for number in range(1, 6)]
    lists = (prefixes(), prefixes(), prefixes())
    table = AccessTable(*lists, views=views)
    for _ in range(200):
        address = ipaddress.ip_address(bytes([10, rng.randrange(5), rng.randrange(5), rng.randrange(2)]))
        view = next((one for one in views if any(address in ipaddress.ip_network(text) for text in one.clients)), None)
        own = lists if view is None or view.lists is None else view.lists
        assert table.view_of(str(address)) == (0 if view is None else view.number)
        assert table.lookup(str(address)) == AccessTable(*own).lookup(str(address))


def test_listeners_and_transports_have_their_own_tables() -> None:
    dns, tls = ListenerSettings("127.0.0.1:53"), ListenerSettings("127.0.0.2:853", protocol="tls")
    settings = Settings(
        listener=(dns, tls), tls=TlsSettings(certificate=("a",), key=("b",)),
        view=(in_view("secret", transports=("tls", "https")), in_view("here", listeners=("127.0.0.1",)),
              in_view("tcp", "10.0.0.0/8", transports=("tcp",))),
    )
    plan = PolicyPipeline(settings)
    assert plan.access.view_of("10.0.0.1") == 0
    assert plan.table(dns, "udp").view_of("10.0.0.1") == 2
    assert plan.table(tls, "tls").view_of("10.0.0.1") == 1
    other = ListenerSettings("127.0.0.3:53")
    assert (plan.table(other, "tcp").view_of("10.0.0.1"), plan.table(other, "udp").view_of("10.0.0.1")) == (3, 0)
    assert PolicyPipeline(Settings()).table(dns, "udp") is not None


def test_without_views_listeners_share_the_table() -> None:
    plan = PolicyPipeline(Settings(view=(in_view("one", "10.0.0.0/8"),)))
    assert plan.table(ListenerSettings("127.0.0.1:53"), "udp") is plan.access
    own = plan.table(ListenerSettings("127.0.0.1:53", allow=("0.0.0.0/0",)), "udp")
    assert own is not plan.access and (own.lookup("192.0.2.1"), own.view_of("10.0.0.1")) == (ALLOW, 1)


SECRET = "MDEyMzQ1Njc4OWFiY2RlZg=="


def test_keys_have_their_own_tables() -> None:
    settings = Settings(
        tsig_key=tuple(TsigKey(name, secret=SECRET) for name in ("a.test", "b.test")),
        view=(in_view("a", keys=("a.test.",), allow=("0.0.0.0/0",)),
              in_view("b", "10.0.0.0/8", keys=("B.test", "a.test")),
              in_view("all", "10.0.0.0/8"), in_view("tls", "192.0.2.0/24", keys=("b.test",), transports=("tls",))),
    )
    plan = PolicyPipeline(settings)
    a, b = b"\1a\4test\0", b"\1b\4test\0"
    assert set(plan.access.keyed) == {a, b} and not plan.access.keyed[a].keyed
    assert [plan.access.view_of(text) for text in ("10.0.0.1", "192.0.2.1")] == [3, 0]
    assert [plan.access.find_signed(text, a) >> VIEW_SHIFT for text in ("10.0.0.1", "192.0.2.1")] == [1, 1]
    assert [plan.access.find_signed(text, b) >> VIEW_SHIFT for text in ("10.0.0.1", "192.0.2.1")] == [2, 0]
    assert (plan.access.lookup("192.0.2.1"), plan.access.find_signed("192.0.2.1", a) & DECISION) == (REFUSE, ALLOW)
    assert plan.table(ListenerSettings("127.0.0.1:853"), "tls").find_signed("192.0.2.1", b) >> VIEW_SHIFT == 4
    assert plan.access.find_signed("10.0.0.1", b"\1c\4test\0") == plan.access.find("10.0.0.1")


@pytest.mark.parametrize("first", [True, False])
def test_a_key_has_no_precedence_over_an_earlier_view(first: bool) -> None:
    views = [in_view("keyed", keys=("a.test",)), in_view("all", "10.0.0.0/8")]
    plan = PolicyPipeline(Settings(tsig_key=(TsigKey("a.test", secret=SECRET),),
                                   view=tuple(views if first else reversed(views))))
    assert plan.access.find_signed("10.0.0.1", b"\1a\4test\0") >> VIEW_SHIFT == 1
    assert plan.access.find_signed("192.0.2.1", b"\1a\4test\0") >> VIEW_SHIFT == (1 if first else 2)


@pytest.mark.parametrize(("settings", "text"), [
    ({"keys": ("no.key",)}, "view: 'no.key' is not the name of a \\[\\[tsig-key\\]\\] \\(view 'x'\\)"),
    ({"keys": ("a..b",)}, "keys: 'a..b' is not a domain name"),
    ({"clients": ("10.0.0.0/8",), "lists": ("none",)},
     "view 'x': lists: 'none' is not the name of a \\[\\[list\\]\\]"),
    ({"keys": ("a.test",), "queries_per_second": 5}, "queries are counted before their signatures are checked"),
    ({}, "clients: nothing says who is in this view"),
])
def test_keys_and_lists_that_are_not_there(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Settings(view=(ViewSettings(name="x", **settings),),  # type: ignore[arg-type]
                 tsig_key=(TsigKey("a.test", secret=SECRET),))


def test_the_number_of_keys_is_limited() -> None:
    keys = tuple(TsigKey(f"k{number}.test", secret=SECRET) for number in range(65))
    Settings(tsig_key=keys, view=(in_view("x", keys=tuple(one.name for one in keys[:64])),))
    with pytest.raises(ValueError, match="view: more than 64 keys are named"):
        Settings(tsig_key=keys, view=(in_view("x", keys=tuple(one.name for one in keys)),))


def test_lists_of_views() -> None:
    lists = tuple(ListSettings(name=name, file=f"/{name}") for name in ("ads", "kids"))
    zones = (RpzSettings(name="rpz.test", file="/rpz"),)
    made = Settings(
        list=lists, rpz=zones, policy=PolicySettings(lists=("ads", "rpz.test")),
        view=(in_view("same", "10.0.0.0/24"), in_view("more", "10.0.1.0/24", lists=("*", "kids")),
              in_view("other", "10.0.2.0/24", lists=("kids",)), in_view("none", "10.0.3.0/24", lists=())),
    )
    assert [sorted(made.lists_of(number)) for number in range(5)] == [
        ["ads", "rpz.test"], ["ads", "rpz.test"], ["ads", "kids", "rpz.test"], ["kids"], []]
    with pytest.raises(ValueError, match=r"list: 'kids' is used by no view; it is neither in policy\.lists"):
        replace(made, view=())
    with pytest.raises(ValueError, match="policy: lists: 'nothing' is not the name of a"):
        replace(made, policy=PolicySettings(lists=("nothing",)))
    everything = replace(made, policy=PolicySettings(), view=(in_view("x", "10.0.0.0/8", lists=("ads", "rpz.test")),))
    assert sorted(everything.lists_of(0)) == ["ads", "kids", "rpz.test"]


# --- resolution ---------------------------------------------------------------------------------------------------


def with_views(*views: ViewSettings, zone: str = EXAMPLE_ZONE, **policy: object) -> Minet:
    m = build(standard(a192_0_2_1=[("example.com.", zone)], a192_0_2_2=[("example.com.", zone)]))
    settings = replace(m.settings, policy=PolicySettings(**policy), view=views)  # type: ignore[arg-type]
    m.mesh = Mesh(exchange=m.net, crypto=m.net, clock=m.net, rng=m.mesh._context.rng, store=m.store, settings=settings,
                  policy=PolicyPipeline(settings))
    return m


def ask(m: Minet, view: int, name: str, rtype: str = "A") -> Outcome:
    found: list[Outcome] = []
    question = Question(names.from_text(name), c.type_from_text(rtype))
    m.mesh.submit(question, query=Query(view=view), on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    return found[0]


def shown(outcome: Outcome) -> list[str]:
    return [str(ipaddress.ip_address(rdata)) for rrset in outcome.answer if rrset.rtype in (c.A, c.AAAA)
            for rdata in rrset.rdatas()]


def client_jobs(m: Minet) -> int:
    return sum(job.task.purpose is Purpose.CLIENT for job in m.mesh._unfinished)


def test_each_view_has_its_local_data_and_shares_the_rest() -> None:
    m = with_views(in_view("kids", "10.0.0.0/8", local_zones=("www.example.com. nxdomain",)),
                   in_view("lab", "10.0.0.0/8", hosts=(HostEntry("www.example.com", ("198.51.100.7",)),)),
                   local_data=("printer.example.net. A 198.51.100.9",))
    assert shown(ask(m, 0, "www.example.com.")) == ["192.0.2.80"]
    packets = len(m.net.log)
    assert ask(m, 1, "www.example.com.").rcode == c.NXDOMAIN
    assert shown(ask(m, 2, "www.example.com.")) == ["198.51.100.7"]
    for view in (0, 1, 2):
        assert shown(ask(m, view, "printer.example.net.")) == ["198.51.100.9"], "inherited"
        expected = {0: ["192.0.2.80"], 1: [], 2: ["198.51.100.7"]}[view]
        assert shown(ask(m, view, "alias.example.com.")) == expected
    assert len(m.net.log) == packets + 1, "only the alias itself had to be asked for"


def test_a_view_without_inheritance_has_only_its_own_data() -> None:
    m = with_views(in_view("bare", "10.0.0.0/8", inherit=False), local_zones=("www.example.com. nxdomain",))
    assert ask(m, 0, "www.example.com.").rcode == c.NXDOMAIN
    assert shown(ask(m, 1, "www.example.com.")) == ["192.0.2.80"]
    assert ask(m, 1, "x.localhost.").rcode == c.NOERROR


def test_views_do_not_join_each_others_queries() -> None:
    m = with_views(in_view("one", "10.0.0.0/8"))
    found: dict[int, list[Outcome]] = {0: [], 1: []}
    for view in (0, 0, 1):
        m.mesh.submit(Question(names.from_text("www.example.com."), c.A), query=Query(view=view),
                      on_done=found[view].append)
    assert client_jobs(m) == 2, "one for each view"
    assert m.mesh.statistics()["running"] == 3, "they share the sub-query for the root servers"
    m.net.run(m.mesh, until=lambda: len(found[0]) == 2 and len(found[1]) == 1)
    assert all(shown(outcome) == ["192.0.2.80"] for outcomes in found.values() for outcome in outcomes)


def test_dns64_and_rewriting_are_those_of_the_view() -> None:
    m = with_views(in_view("six", "10.0.0.0/8", dns64_prefix=("64:ff9b::/96",)),
                   in_view("safe", "10.0.0.0/8", private_addresses=("192.0.2.0/24",)))
    assert shown(ask(m, 0, "www.example.com.", "AAAA")) == []
    assert shown(ask(m, 1, "www.example.com.", "AAAA")) == ["64:ff9b::c000:250"]
    assert shown(ask(m, 2, "www.example.com.")) == []
    assert shown(ask(m, 0, "www.example.com.")) == ["192.0.2.80"]
    reverse = "0.5.2.0.0.0.0.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa."
    assert [rrset.rtype for rrset in ask(m, 1, reverse, "PTR").answer][:1] == [c.CNAME]
    assert m.mesh._contexts[0].dns64 is None


def test_dns64_uses_the_addresses_of_its_view() -> None:
    m = with_views(in_view("six", "10.0.0.0/8", dns64_prefix=("64:ff9b::/96",),
                           hosts=(HostEntry("www.example.com", ("198.51.100.7",)),)))
    assert shown(ask(m, 0, "www.example.com.")) == ["192.0.2.80"]
    assert shown(ask(m, 1, "www.example.com.", "AAAA")) == ["64:ff9b::c633:6407"]


def test_a_loop_through_the_data_of_one_view_is_no_failure_of_another() -> None:
    m = with_views(in_view("loop", "10.0.0.0/8", local_data=("www.example.com. CNAME back.example.com.",)),
                   zone=EXAMPLE_ZONE + "back 300 IN CNAME www\n")
    assert ask(m, 1, "back.example.com.").rcode == c.SERVFAIL
    assert shown(ask(m, 0, "back.example.com.")) == ["192.0.2.80"]


def ask_slow_alias(m: Minet, link: Link) -> Outcome:
    """A question in view 1 while packets to the servers of ``slow.net.`` travel by `link`."""
    m.net.links["192.0.2.9"] = link
    found: list[Outcome] = []
    question = Question(names.from_text("www.example.com."), c.A)
    m.mesh.submit(question, query=Query(view=1, deadline=m.net.now + 1), on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    return found[0]


UNSENT = Link(local=FailureKind.NO_ROUTE)


@pytest.mark.parametrize("link", [Link(delay=9), UNSENT])
def test_the_failure_of_an_alias_of_one_view_is_no_failure_of_another(link: Link) -> None:
    m = with_views(in_view("garden", "10.0.0.0/8", local_data=("www.example.com. CNAME www.slow.net.",)))
    m.net.hosts["192.5.6.31"] = scripted(lambda _, __, packet: reply(
        packet, (), ["slow.net. 300 NS ns.slow.net."], ["ns.slow.net. 300 A 192.0.2.9"], flags=0))
    first = ask_slow_alias(m, link)
    assert first.failure is not None
    assert shown(ask(m, 0, "www.example.com.")) == ["192.0.2.80"]


@pytest.mark.parametrize("link", [Link(delay=9), UNSENT])
def test_the_failure_of_an_alias_is_none_where_a_view_has_its_target(link: Link) -> None:
    zone = EXAMPLE_ZONE.replace("www 300 IN A 192.0.2.80", "www 300 IN CNAME www.slow.net.")
    m = with_views(in_view("plain", "10.0.0.0/8"), in_view("own", "10.0.0.0/8", local_data=(
        "www.slow.net. A 198.51.100.7",)), zone=zone)
    m.net.hosts["192.5.6.31"] = scripted(lambda _, __, packet: reply(
        packet, (), ["slow.net. 300 NS ns.slow.net."], ["ns.slow.net. 300 A 192.0.2.9"], flags=0))
    first = ask_slow_alias(m, link)
    assert first.failure is not None
    assert shown(ask(m, 2, "www.example.com.")) == ["198.51.100.7"]


def test_it_is_cached_where_there_are_no_views() -> None:
    m = with_views(zone=EXAMPLE_ZONE.replace("www 300 IN A 192.0.2.80", "www 300 IN CNAME www.slow.net."))
    m.net.hosts["192.5.6.31"] = scripted(lambda _, __, packet: reply(
        packet, (), ["slow.net. 300 NS ns.slow.net."], ["ns.slow.net. 300 A 192.0.2.9"], flags=0))
    m.net.links["192.0.2.9"] = UNSENT
    assert ask(m, 0, "www.example.com.").failure is not None
    again = ask(m, 0, "www.example.com.").failure
    assert again is not None and again.kind is FailureKind.CACHED_ERROR


def test_stale_answers_and_prefetches_are_those_of_the_view() -> None:
    m = with_views(in_view("kids", "10.0.0.0/8", local_zones=("www.example.com. nxdomain",)))
    found: list[Outcome] = []
    assert ask(m, 0, "www.example.com.").answer
    assert m.mesh.refresh(Question(names.from_text("www.example.com."), c.A), query=Query(view=1), on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    assert found[0].rcode == c.NXDOMAIN
    peeked = m.mesh.peek(Question(names.from_text("www.example.com."), c.A), query=Query(view=1))
    assert peeked is not None and peeked.rcode == c.NXDOMAIN


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('[[view]]\nname = "a b"\nclients = ["10.0.0.0/8"]', "2: view[0].name: 'a b' is not a valid view name"),
        ('[[view]]\nname = "a"', "1: view[0].clients: nothing says who is in this view"),
        ('[[view]]\nname = "a"\nclients = ["10/8x"]', "3: view[0].clients[0]: '10/8x' is not an address prefix"),
        ('[[view]]\nname = "a"\ntransports = ["dot"]', "'dot' is not one of udp, tcp, tls, https, quic"),
        ('[[view]]\nname = "a"\nlisteners = ["192.0.2.9"]', "'192.0.2.9' is no served address"),
        ('[[view]]\nname = "a"\nclients = ["::/0"]\n[[view]]\nname = "A"\nclients = ["::/0"]',
         "'A' is the name of two views"),
        ('[[view]]\nname = "a"\nclients = ["::/0"]\ndns64-prefix = "64::/20"',
         "4: view[0].dns64-prefix: '64::/20' is not"),
    ],
)
def test_a_wrong_view_is_refused_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(text)
    assert problem in str(raised.value).replace("configuration:", "")


def test_a_wrong_local_zone_names_the_view() -> None:
    settings = Settings(view=(in_view("lab", "10.0.0.0/8", local_zones=("x. odd",)),))
    with pytest.raises(ValueError, match=r"^view: local_zones: 'x. odd': unknown kind; .* \(view 'lab'\)$"):
        PolicyPipeline(settings)


def test_a_view_is_read_and_written_back() -> None:
    text = """
[[view]]
name = "lab"
clients = ["10.0.0.0/8", "2001:db8::/32"]
transports = ["udp", "tls"]
allow = ["10.1.0.0/16"]
inherit = false
local-zones = ["lab.example. static"]
local-data = ["a.lab.example. A 192.0.2.1"]
dns64-prefix = "64:ff9b::/96"
[view.hosts]
"printer.lab.example" = "192.0.2.2"
"""
    settings = parse(text)
    (view,) = settings.view
    assert (view.name, view.inherit, view.hosts) == ("lab", False, (HostEntry("printer.lab.example", ("192.0.2.2",)),))
    assert parse(render(settings)) == settings


def test_a_changed_view_makes_cached_answers_outdated() -> None:
    old = Settings(view=(in_view("lab", "10.0.0.0/8"),))
    digests = [
        digest_rules(Settings(view=view), (), {})
        for view in (old.view, (), (replace(old.view[0], queries_per_second=9, responses_per_second=9),))
    ]
    assert digests[0] != digests[1] and digests[0] == digests[2]
    content = (digest_rules(old, (HostEntry("a.lan", ("192.0.2.1",)),), {}), digest_rules(old, (), {"a": b""}))
    assert len({*digests, *content}) == 4
