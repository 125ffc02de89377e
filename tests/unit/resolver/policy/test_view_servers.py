"""Views with forward zones, stub zones and negative trust anchors of their own: what is resolved for one of them is
never found by another, in whatever way it may be found.

The forwarders of the tests answer every name with an address of their own, so each answer shows where it came from.
"""

import ipaddress
from collections.abc import Callable

import pytest
from support.minet import STANDARD, Minet, build, reply
from support.signed_net import NOW, Crypto, resolver_in

from resolver.cache import Store
from resolver.daemon.cache_rules import digest_rules
from resolver.daemon.config import ConfigError, parse
from resolver.daemon.config_writer import render
from resolver.effects import FailureKind, Outcome, Question
from resolver.mesh import Mesh
from resolver.playground import signed
from resolver.policy import PolicyPipeline
from resolver.query import Query
from resolver.settings import CacheSettings, FetchLimitSettings, ForwardZone, Settings, StubZone, ViewSettings, replace
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

WWW = "www.example.com."
ONE, TWO = "203.0.113.1", "203.0.113.2"
DAY = 86400


def view(name: str, **more: object) -> ViewSettings:
    return ViewSettings(name=name, clients=("10.0.0.0/8",), **more)  # type: ignore[arg-type]


def forwarding(name: str, address: str, zone: str = "example.com", **more: object) -> ViewSettings:
    return view(name, forward=(ForwardZone(zone, (address,)),), **more)


def forwarder(address: str) -> Callable[[bytes, bool], bytes | None]:
    """Answers each name with `address`; names that begin with "none" do not exist, "alias" leads to www."""

    def host(packet: bytes, tcp: bool) -> bytes | None:
        query = MessageView.parse(packet)
        name = names.to_text(query.qname or b"\0").lower()
        soa = "example.com. 300 SOA ns.example.com. n.example.com. 1 2 3 4 300"
        if name.startswith("none"):
            return reply(packet, authority=[soa], rcode=c.NXDOMAIN, flags=c.RA)
        if name.startswith("fail"):
            return reply(packet, rcode=c.SERVFAIL, flags=c.RA) if address == ONE else (
                reply(packet, [f"{name} 300 A {address}"], flags=c.RA))
        if name.startswith("alias"):
            return reply(packet, [f"{name} 300 CNAME {WWW}", f"{WWW} 300 A {address}"], flags=c.RA)
        if query.qtype != c.A:
            return reply(packet, authority=[soa], flags=c.RA)
        return reply(packet, [f"{name} 300 A {address}"], flags=c.RA)

    return host


def world(*views: ViewSettings, store: Store | None = None, m: Minet | None = None, **more: object) -> Minet:
    """A resolver with `views`, with the network of `m` and its cache, if it is given."""
    if m is None:
        m = build(STANDARD)
        for address in (ONE, TWO):
            m.net.hosts[address] = forwarder(address)
    settings = replace(m.settings, view=views, **more)
    mesh = Mesh(exchange=m.net, crypto=m.net, clock=m.net, rng=m.mesh._context.rng, store=store or m.store,
                settings=settings, policy=PolicyPipeline(settings))
    return Minet(m.net, mesh, m.store, settings)


def ask(m: Minet, number: int, name: str = WWW, rtype: str = "A", *, cd: bool = False) -> Outcome:
    found: list[Outcome] = []
    m.mesh.submit(Question(names.from_text(name), c.type_from_text(rtype)), query=Query(view=number), cd=cd,
                  on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    return found[0]


def shown(outcome: Outcome) -> list[str]:
    return [str(ipaddress.ip_address(rdata)) for rrset in outcome.answer if rrset.rtype == c.A
            for rdata in rrset.rdatas()]


def validating(base: Minet, settings: Settings) -> Minet:
    mesh = Mesh(exchange=base.net, crypto=Crypto(), clock=base.net, rng=base.mesh._context.rng, store=base.store,
                settings=settings, policy=PolicyPipeline(settings))
    return Minet(base.net, mesh, base.store, settings)


EXPECTED = {0: ["192.0.2.80"], 1: [ONE], 2: [TWO], 3: ["192.0.2.80"]}


def two_forwarders(**more: object) -> Minet:
    return world(forwarding("one", ONE), forwarding("two", TWO), view("plain"), **more)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 1, 3, 0), (1, 0, 2, 3)])
def test_each_view_has_the_answer_of_its_forwarder(order: tuple[int, ...]) -> None:
    m = two_forwarders()
    for _ in range(3):  # with an empty cache, then with a full one
        for number in order:
            assert shown(ask(m, number)) == EXPECTED[number]
    packets = len(m.net.log)
    assert shown(ask(m, 1, "alias.example.com.")) == [ONE]
    assert shown(ask(m, 2, "alias.example.com.")) == [TWO]
    assert shown(ask(m, 0, "alias.example.com.")) == ["192.0.2.80"]
    assert len(m.net.log) == packets + 3 and shown(ask(m, 1)) == [ONE]


def test_queries_of_different_views_are_not_joined() -> None:
    m = two_forwarders()
    found: dict[int, list[Outcome]] = {number: [] for number in EXPECTED}
    for number in (*EXPECTED, *EXPECTED):
        m.mesh.submit(Question(names.from_text(WWW), c.A), query=Query(view=number), on_done=found[number].append)
    m.net.run(m.mesh, until=lambda: all(len(one) == 2 for one in found.values()))
    assert {number: shown(one[0]) for number, one in found.items()} == EXPECTED


def test_denials_and_failures_stay_in_their_view() -> None:
    m = two_forwarders()
    assert ask(m, 1, "none.example.com.").rcode == c.NXDOMAIN
    packets = len(m.net.log)
    assert ask(m, 1, "none.example.com.").rcode == c.NXDOMAIN and len(m.net.log) == packets
    assert ask(m, 2, "none.example.com.").rcode == c.NXDOMAIN and len(m.net.log) == packets + 1
    assert ask(m, 1, "fail.example.com.").rcode == c.SERVFAIL
    assert shown(ask(m, 2, "fail.example.com.")) == [TWO]
    packets = len(m.net.log)
    assert ask(m, 1, "fail.example.com.").rcode == c.SERVFAIL and len(m.net.log) == packets, "the failure is cached"


def test_name_servers_of_a_stub_zone_are_those_of_the_view() -> None:
    """The sub-queries for their addresses belong to the view, too."""
    stub = view("stub", stub=(StubZone("example.com", names=("ns.corp.test",)),),
                forward=(ForwardZone("corp.test", (ONE,)),))
    m = world(stub, forwarding("two", TWO, "corp.test"))
    m.net.hosts[ONE] = forwarder("192.0.2.1")  # says that ns.corp.test is one of the servers of example.com
    assert shown(ask(m, 1)) == ["192.0.2.80"]
    assert shown(ask(m, 2, "ns.corp.test.")) == [TWO]
    assert shown(ask(m, 1, "ns.corp.test.")) == ["192.0.2.1"]
    assert ask(m, 0, "ns.corp.test.").rcode == c.NXDOMAIN, "test. is a special-use name for all others"


def test_global_zones_apply_unless_the_view_has_one_of_the_name() -> None:
    m = world(forwarding("one", ONE), view("none", forward=(ForwardZone("sub.example.com", ()),)),
              forward=(ForwardZone("example.com", (TWO,)), ForwardZone("example.net", (TWO,))))
    assert (shown(ask(m, 0)), shown(ask(m, 1))) == ([TWO], [ONE])
    assert shown(ask(m, 0, "x.example.net.")) == shown(ask(m, 1, "x.example.net.")) == [TWO]
    assert shown(ask(m, 2)) == [TWO]
    assert ask(m, 2, "x.sub.example.com.").rcode == c.NXDOMAIN, "its names are resolved from the root"


def test_a_prefetch_is_that_of_the_view() -> None:
    m = two_forwarders()
    for number in (1, 2):
        ask(m, number)
        found: list[Outcome] = []
        assert m.mesh.refresh(Question(names.from_text(WWW), c.A), query=Query(view=number), on_done=found.append)
        m.net.run(m.mesh, until=lambda found=found: bool(found))
        assert shown(found[0]) == EXPECTED[number]
    assert {number: shown(ask(m, number)) for number in EXPECTED} == EXPECTED


def test_stale_answers_are_those_of_the_view() -> None:
    m = two_forwarders(cache=CacheSettings(max_stale_ttl=DAY))
    for number in (0, 1):
        ask(m, number)
    m.net.sleep(m.mesh, 400)
    for address in (ONE, TWO, "192.0.2.1", "192.0.2.2"):
        m.net.hosts[address] = lambda packet, tcp: None
    for number in (0, 1):
        outcome = ask(m, number)
        assert (outcome.stale, shown(outcome)) == (True, EXPECTED[number])
    assert (ask(m, 2).rcode, ask(m, 2).answer) == (c.SERVFAIL, []), "it has no stale data of its own"


def test_peeking_finds_the_data_of_the_view() -> None:
    m = two_forwarders()
    ask(m, 1)
    assert m.mesh.peek(Question(names.from_text(WWW), c.A), query=Query(view=2)) is None
    found = m.mesh.peek(Question(names.from_text(WWW), c.A), query=Query(view=1))
    assert found is not None and shown(found) == [ONE]
    ask(m, 0)
    referral = m.mesh.peek(Question(names.from_text("x.example.com."), c.A), query=Query(view=0))
    assert referral is not None and referral.referral
    assert m.mesh.peek(Question(names.from_text("x.example.com."), c.A), query=Query(view=1)) is None


def test_a_flush_reaches_all_views() -> None:
    m = two_forwarders()
    for flush in (
        lambda: m.store.drop(names.from_text(WWW)), lambda: m.store.drop(names.from_text(WWW), rtype=c.A),
        lambda: m.store.drop(names.from_text("example.com."), subtree=True), m.store.clear,
    ):
        for number in EXPECTED:
            ask(m, number)
        packets = len(m.net.log)
        flush()
        for number in (1, 2):
            assert shown(ask(m, number)) == EXPECTED[number]
        assert len(m.net.log) == packets + 2


def test_a_reload_and_another_worker_with_other_views_find_nothing() -> None:
    """The numbers of views mean something only under their settings; the same view keeps its data."""
    m = two_forwarders()
    assert shown(ask(m, 1)) == [ONE]
    swapped = world(forwarding("two", TWO), forwarding("one", ONE), m=m)
    changed = world(forwarding("one", TWO), view("plain"), m=m)
    packets = len(m.net.log)
    assert shown(ask(swapped, 2)) == [ONE] and len(m.net.log) == packets, "the view is the same"
    assert shown(ask(swapped, 1)) == [TWO]
    assert shown(ask(changed, 1)) == [TWO]
    assert shown(ask(changed, 2)) == ["192.0.2.80"]
    assert {number: shown(ask(m, number)) for number in EXPECTED} == EXPECTED, "the old worker answers as before"


def test_parts_survive_a_snapshot_and_are_dumped_apart() -> None:
    m = two_forwarders()
    for number in EXPECTED:
        ask(m, number)
    now = m.net.time()
    other = Store.create(1 << 22, seed=bytes(range(16)))
    for block in m.store.table.copy_out(1 << 2 | 1 << 3, now=now):
        other.table.copy_in(block, 1 << 2 | 1 << 3, now=now)
    again = world(forwarding("one", ONE), forwarding("two", TWO), view("plain"), m=m, store=other)
    packets = len(m.net.log)
    assert {number: shown(ask(again, number)) for number in EXPECTED} == EXPECTED
    assert len(m.net.log) == packets

    def held(store: Store, label: bytes | None) -> list[bytes]:
        rrsets = store.rrsets if label is None else store.rrsets.partition(label)
        return [rrset.rdatas()[0] for owner, rtype, _, rrset in rrsets.walk(now)
                if rrset is not None and (owner, rtype) == (names.from_text(WWW), c.A)]

    labels = [None, *(one.part for one in m.settings.view[:2])]
    assert [[str(ipaddress.ip_address(one)) for one in held(m.store, label)] for label in labels] == [
        ["192.0.2.80"], [ONE], [TWO]]


def test_a_negative_trust_anchor_is_that_of_the_view() -> None:
    playground = signed.signed_world(NOW)
    base = resolver_in(playground)
    settings = replace(base.settings, view=(view("lenient", negative_trust_anchors=("expired.dnssec.playground",)),
                                            view("strict")))
    m = validating(base, settings)
    for _ in range(2):
        assert Verdict(ask(m, 1, "www.expired.dnssec.playground.").verdict) is Verdict.INSECURE
        for number in (0, 2):
            outcome = ask(m, number, "www.expired.dnssec.playground.")
            assert (Verdict(outcome.verdict), outcome.answer) == (Verdict.BOGUS, [])
        assert Verdict(ask(m, 1, "www.nsec.dnssec.playground.").verdict) is Verdict.SECURE
    assert m.mesh.validation is not None
    m.mesh.validation.anchors.put(names.ROOT, None)  # as RFC 5011 does when all keys are revoked
    assert Verdict(ask(m, 1, "www.nsec3.dnssec.playground.").verdict) is Verdict.INSECURE


def test_verified_denials_stay_in_their_view() -> None:
    """Aggressive use of NSEC (RFC 8198): a view with a forwarder does not learn from the denials of others."""
    playground = signed.signed_world(NOW)
    base = resolver_in(playground)
    base.net.hosts[ONE] = forwarder(ONE)
    settings = replace(base.settings, view=(forwarding("one", ONE, "nsec.dnssec.playground", negative_trust_anchors=(
        "nsec.dnssec.playground",)),))
    m = validating(base, settings)
    assert ask(m, 0, "missing.nsec.dnssec.playground.").rcode == c.NXDOMAIN
    assert ask(m, 0, "missinh.nsec.dnssec.playground.").synthesised
    assert shown(ask(m, 1, "missinh.nsec.dnssec.playground.")) == [ONE]
    assert ask(m, 0, "missinh.nsec.dnssec.playground.").rcode == c.NXDOMAIN


def test_special_use_names_with_servers_of_the_view_are_resolved() -> None:
    m = world(forwarding("lab", ONE, "test"), view("plain"))
    assert shown(ask(m, 1, "www.test.")) == [ONE]
    assert ask(m, 2, "www.test.").rcode == ask(m, 0, "www.test.").rcode == c.NXDOMAIN


def test_nothing_of_a_part_is_shared_with_other_resolvers() -> None:
    m = two_forwarders()
    second = object()
    assert m.mesh.set_second_level(second)  # type: ignore[arg-type]
    assert [(context.second_level is second, context.reads_second_level) for context in m.mesh._contexts] == [
        (True, True), (False, False), (False, False), (True, True)]


def test_tables_of_parts_are_bounded_together() -> None:
    m = two_forwarders()
    for number in EXPECTED:
        ask(m, number, "www.example.net.")
    tables = m.mesh.memory_tables()
    assert len({table.name for table in tables}) == len(tables)
    by_name = {table.name: table for table in tables}
    plain = {table.name: table for table in build(STANDARD).mesh.memory_tables()}
    assert by_name.keys() == plain.keys()
    for name in ("delegations", "denials"):
        assert plain[name].limit < by_name[name].limit <= 2 * plain[name].limit
    assert by_name["delegations"].octets > 0
    m.mesh.shrink()
    assert by_name["delegations"].octets == 0
    assert m.mesh.statistics()["memory"] == sum(table.octets for table in tables)
    ask(m, 1, "x.example.net.")
    m.mesh.forget(names.from_text("net."), subtree=True)
    assert all(names.from_text("net.") not in one.delegations.entries for one in m.mesh._views._all_delegations())


def test_quotas_of_servers_are_those_of_all_views() -> None:
    m = two_forwarders()
    assert len({id(one.fetches) for one in m.mesh._views._all_delegations()}) == 1


@pytest.mark.parametrize(("slow", "other"), [(1, 0), (0, 1), (1, 2)])
@pytest.mark.parametrize("early", [False, True])
def test_clients_of_one_view_do_not_use_up_the_quota_of_a_zone_that_has_other_servers_in_another(
    slow: int, other: int, early: bool
) -> None:
    """Whether the query is refused before it has a job, or by its job."""
    servers = {0: ("192.0.2.1", "192.0.2.2"), 1: ("192.0.2.31",), 2: ("192.0.2.32",)}
    m = world(*(view(f"v{number}", stub=(StubZone("example.com", servers[number]),)) for number in (1, 2)),
              fetch_limit=FetchLimitSettings(per_zone=3, per_server=0))
    for number, addresses in servers.items():
        for address in addresses:
            m.net.hosts[address] = m.net.hosts["192.0.2.1"]
        assert ask(m, number).answer
    for address in servers[slow]:
        del m.net.hosts[address]
    for number in range(3):
        question = Question(names.from_text(f"r{number}.example.com."), c.A)
        m.mesh.submit(question, query=Query(view=slow), on_done=lambda outcome: None)
    if not early:
        m.mesh._delegations.fetches.smallest = 0
    refused = ask(m, slow, "y.example.com.")
    assert refused.failure is not None and refused.failure.kind is FailureKind.QUOTA
    assert shown(ask(m, other, "deep.sub.tree.example.com.")) == ["192.0.2.81"]


# --- settings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "problem"), [
    ('[[view.forward]]\nzone = "a"\naddresses = ["192.0.2.1"]\n[[view.stub]]\nzone = "A."\naddresses = ["192.0.2.2"]',
     "8: view[0].stub[0].zone: forward: zone 'A.' is configured twice; list all its servers in one table (view 'v')"),
    ('[[view.forward]]\nzone = "a"',
     "5: view[0].forward[0].zone: forward: zone 'a' has no servers, and there is no wider zone"),
    ('[[view.forward]]\nzone = "a"\naddresses = ["x"]', "6: view[0].forward[0].addresses[0]: 'x' is not an IP address"),
    ('negative-trust-anchors = ["a..b"]', "4: view[0].negative-trust-anchors[0]: 'a..b' is not a domain name"),
])
def test_wrong_zones_of_a_view_are_refused_with_their_place(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(f'[[view]]\nname = "v"\nclients = ["::/0"]\n{text}')
    assert problem in str(raised.value).replace("configuration:", "")


def test_a_view_may_end_a_global_zone() -> None:
    text = ('[[forward]]\nzone = "."\naddresses = ["192.0.2.1"]\n[[view]]\nname = "v"\nclients = ["::/0"]\n'
            '[[view.forward]]\nzone = "a"\n')
    assert parse(text).view[0].forward == (ForwardZone("a"),)


def test_the_number_of_parts_is_limited() -> None:
    views = tuple(forwarding(f"v{number}", ONE) for number in range(17))
    assert len(Settings(view=views[:16]).view) == 16
    with pytest.raises(ValueError, match="more than 16 views have forward zones"):
        Settings(view=views)


def test_zones_of_a_view_are_written_and_read_back() -> None:
    settings = Settings(view=(view(
        "v", forward=(ForwardZone("a", ("tls://192.0.2.1#ns.example",)), ForwardZone("b", ("192.0.2.2",))),
        stub=(StubZone("c", ("192.0.2.3",), stub_first=True),), negative_trust_anchors=("d",)),))
    assert parse(render(settings)) == settings
    assert [zone.zone for zone in settings.upstream_zones] == ["a", "b", "c"]


def test_servers_of_a_view_are_a_part_of_the_rules() -> None:
    digests = {digest_rules(Settings(view=(one,)), (), {}) for one in (
        view("v"), forwarding("v", ONE), forwarding("v", TWO), view("v", negative_trust_anchors=("a",)))}
    assert len(digests) == 4


@pytest.mark.parametrize("label", [b"", bytes(8), bytes(9), b"x" * 7])
def test_a_part_needs_a_label(label: bytes) -> None:
    store = Store.create(1 << 20, seed=bytes(16))
    with pytest.raises(ValueError, match="a part has a label of 8 octets"):
        store.partition(label)


def test_only_some_parts_of_old_settings_are_remembered() -> None:
    store = Store.create(1 << 20, seed=bytes(16))
    for number in range(1, 40):
        store.partition(number.to_bytes(8, "big"))
    assert len(store.partitions) == 32
