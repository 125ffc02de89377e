"""Delegations, addresses that may be queried, forward and stub zones, and the selection of servers."""

import pytest
from support.dead_servers import make_dead, note_timeouts
from support.fakenet import SeededRandom

from resolver import limits
from resolver.cache import Store
from resolver.effects import Context
from resolver.iterate.delegation import DelegationCache, DelegationPoint
from resolver.iterate.forward import configured_cuts
from resolver.iterate.server_selection import select_server, server_states, server_timeout
from resolver.settings import ForwardZone, IterationSettings, RootServer, Settings, StubZone
from resolver.verdict import Trust
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.rrset import RRset
from resolver.zones import Mode, ServedZone, ZoneTable

NOW = 1_700_000_000
ZONE = names.from_text("example.com.")


def make(own=(), settings=None, **iteration):
    settings = settings or Settings(iteration=IterationSettings(**iteration),
                                    root_hints=(RootServer("a.root.", ("198.41.0.4", "2001:db8::4")),))
    store = Store.create(1 << 20, seed=bytes(16))
    delegations = DelegationCache(store, settings, own=own, configured=configured_cuts(settings))
    context = Context(store, settings, SeededRandom(3))
    context.delegations = delegations
    return delegations, store, context


def ns_set(zone, *targets, ttl=3600):
    return RRset(names.from_text(zone), c.NS, ttl, [names.from_text(t) for t in targets], trust=Trust.GLUE)


def test_which_addresses_may_be_queried():
    delegations, _, _ = make(
        own=("192.0.2.53", "2001:db8::53"), do_not_query_addresses=("10.0.0.0/8", "2001:db8:bad::/48")
    )
    for text in ("fe80::1%lo", "192.0.2.1", "2001:db8::1", "8.8.8.8"):
        assert delegations.reach(text) == text
    for text in ("0.0.0.0", "0.1.2.3", "::", "224.0.0.1", "ff02::1", "127.0.0.1", "::1", "255.255.255.255",
                 "192.0.2.53", "2001:db8::53", "10.1.2.3", "2001:db8:bad::1", "::ffff:192.0.2.1", "fe80::1"):
        assert delegations.reach(text) is None, text


def test_families_can_be_switched_off():
    assert make(do_ip6=False)[0].reach("2001:db8::1") is None
    assert make(do_ip4=False)[0].reach("192.0.2.1") is None
    assert make(do_ip4=False)[0].types == (c.AAAA,)


def test_addresses_of_a_wrong_length_are_ignored():
    delegations, _, _ = make()
    assert delegations.address_of(b"\1\2\3") is None
    assert delegations.address_of(bytes([192, 0, 2, 1])) == "192.0.2.1"
    assert delegations.address_of(bytes([127, 0, 0, 1])) is None


def test_parsed_addresses_are_bounded():
    delegations, _, _ = make()
    most = limits.UPSTREAM_ADDRESSES
    for number in range(most + 10):
        assert delegations.address_of((0x08000000 + number).to_bytes(4, "big")) is not None
        assert len(delegations._addresses) <= most
    assert delegations.address_of(bytes([8, 0, 0, 1])) == "8.0.0.1"


def test_the_deepest_known_cut_is_found_and_expires():
    delegations, store, _ = make()
    store.rrsets.put(ns_set("com.", "a.gtld.com.", ttl=1000), NOW)
    store.rrsets.put(ns_set("example.com.", "ns1.example.com.", ttl=100), NOW)
    deep = names.from_text("a.b.www.example.com.")
    assert delegations.closest(deep, NOW).zone == ZONE
    assert delegations.closest(deep, NOW + 50).zone == ZONE
    assert delegations.closest(deep, NOW + 101).zone == names.from_text("com.")
    assert delegations.closest(deep, NOW + 1001) is None
    assert delegations.closest(ZONE, NOW, above=ZONE).zone == names.from_text("com.")
    assert delegations.closest(names.ROOT, NOW, above=names.ROOT) is None


def test_a_deeper_cut_learned_elsewhere_is_noticed():
    delegations, store, _ = make()
    store.rrsets.put(ns_set("com.", "a.gtld.com."), NOW)
    assert delegations.closest(names.from_text("www.example.com."), NOW).zone == names.from_text("com.")
    store.rrsets.put(ns_set("example.com.", "ns1.example.com."), NOW)
    assert delegations.closest(names.from_text("www.example.com."), NOW).zone == ZONE


def test_servers_come_from_glue_or_from_the_cache_and_the_rest_is_missing():
    delegations, store, _ = make()
    ns = ns_set("example.com.", "ns1.example.com.", "ns2.example.com.", "NS3.example.net.")
    ns1, ns2 = names.from_text("ns1.example.com."), names.from_text("ns2.example.com.")
    glue = {ns1: [RRset(ns1, c.A, 50, [bytes([192, 0, 2, 1])])]}
    store.rrsets.put(RRset(ns2, c.A, 60, [bytes([192, 0, 2, 2])], trust=Trust.GLUE), NOW)
    cut = delegations.from_rrset(ns, NOW, glue)
    assert [server.address for server in cut.servers] == ["192.0.2.1", "192.0.2.2"]
    assert cut.missing == [names.from_text("ns3.example.net.")]
    assert (cut.expires, cut.until) == (NOW + 3600, NOW + 50)


def test_no_more_than_thirteen_name_servers_are_used():
    delegations, _, _ = make()
    cut = delegations.from_rrset(ns_set("example.com.", *(f"ns{n}.example.net." for n in range(100))), NOW, {})
    assert len(cut.missing) == 13


def test_the_roots_servers_are_reached_by_the_hints():
    delegations, _, _ = make()
    cut = delegations.from_rrset(ns_set(".", "a.root.", "b.root."), NOW, {})
    assert [server.address for server in cut.servers] == ["198.41.0.4", "2001:db8::4"]
    assert cut.missing == [names.from_text("b.root.")]


def test_the_delegation_cache_is_bounded():
    delegations, _, _ = make()
    for number in range(5000):
        delegations.from_rrset(ns_set(f"z{number}.", "ns.example.net."), NOW, {})
    assert len(delegations.delegations) == 4096
    delegations.forget_below(names.ROOT)
    assert not delegations.delegations.entries


def test_configured_zones_are_found():
    settings = Settings(
        forward=(ForwardZone("Corp.Example.", ("10.0.0.1", "10.0.0.2:5353"), True),
                 ForwardZone("off.corp.example.", ())),
        stub=(StubZone("stub.example.", ("10.0.0.3",), ("ns.Example.net.",)),),
    )
    delegations, _, _ = make(settings=settings)
    cut = delegations.forward_or_stub_for(names.from_text("a.b.corp.example."))
    assert [server.key for server in cut.servers] == [("10.0.0.1", 53), ("10.0.0.2", 5353)]
    assert cut.recursive and cut.first and cut.configured
    assert delegations.forward_or_stub_for(names.from_text("x.off.corp.example.")) is None
    assert delegations.forward_or_stub_for(names.from_text("example.")) is None
    stub = delegations.forward_or_stub_for(names.from_text("stub.example."))
    assert not stub.recursive
    assert stub.missing == [names.from_text("ns.example.net.")]


# --- choosing -----------------------------------------------------------------------------------------------------


def three():
    cut = DelegationPoint(ZONE, NOW + 1000)
    for last in (1, 2, 3):
        cut.add_address(None, f"192.0.2.{last}", 53)
    return cut


def counts(cut, context, times=400, tries=None, avoid=frozenset()):
    seen = {server.address[-1]: 0 for server in cut.servers}
    for _ in range(times):
        server = select_server(cut, context, tries or {}, avoid)
        if server is not None:
            seen[server.address[-1]] += 1
    return seen


def test_an_address_is_added_once():
    cut = three()
    assert not cut.add_address(None, "192.0.2.1", 53)
    assert cut.add_address(None, "192.0.2.1", 54)


def test_addresses_of_a_zone_are_bounded():
    cut = DelegationPoint(ZONE, NOW + 1000)
    added = [cut.add_address(None, f"192.0.2.{last}", 53) for last in range(100)]
    assert sum(added) == len(cut.servers) == limits.MAX_ADDRESSES


def test_untried_servers_share_the_queries():
    _, _, context = make()
    assert min(counts(three(), context).values()) > 80


def test_fast_servers_are_preferred_and_slow_ones_still_tried():
    _, store, context = make()
    for last, rtt in ((1, 0.01), (2, 0.02), (3, 0.5)):
        for _ in range(5):
            store.servers.note_reply((f"192.0.2.{last}", 53), ZONE, rtt, 0.0)
    seen = counts(three(), context)
    assert seen["1"] > 100 and seen["2"] > 100
    assert 0 < seen["3"] < 40


def test_lame_and_avoided_servers_are_not_selected():
    _, store, context = make()
    store.servers.note_lame(("192.0.2.1", 53), ZONE, 0.0)
    seen = counts(three(), context, avoid=frozenset({"192.0.2.2"}))
    assert seen == {"1": 0, "2": 0, "3": 400}


def test_the_least_tried_servers_come_first_and_attempts_are_limited():
    _, _, context = make()
    tries = {("192.0.2.1", 53): 1, ("192.0.2.2", 53): 2}
    assert counts(three(), context, tries=tries) == {"1": 0, "2": 0, "3": 400}
    assert select_server(three(), context, {(f"192.0.2.{last}", 53): 4 for last in (1, 2, 3)}, frozenset()) is None


def test_dead_servers_are_tried_once_when_no_other_is_left():
    _, store, context = make()
    make_dead(store.servers, ("192.0.2.1", 53), ZONE, 0.0)
    assert counts(three(), context)["1"] == 0
    tries = {("192.0.2.2", 53): 4, ("192.0.2.3", 53): 4}
    assert select_server(three(), context, tries, frozenset()).address == "192.0.2.1"
    tries["192.0.2.1", 53] = 1
    assert select_server(three(), context, tries, frozenset()) is None


def test_servers_that_time_out_for_the_zone_come_after_those_that_reply():
    _, store, context = make()
    for last in (1, 2, 3):
        store.servers.note_reply((f"192.0.2.{last}", 53), ZONE, 0.001, 0.0)
    note_timeouts(store.servers, ("192.0.2.1", 53), ZONE, 0.0, 4)
    store.servers.note_reply(("192.0.2.1", 53), names.from_text("example.net."), 0.001, 0.0)
    assert counts(three(), context)["1"] < 40
    states = {server.address: (word, seconds) for server, word, seconds in server_states(three(), context)}
    assert states["192.0.2.1"] == ("timed out", pytest.approx(0.8))


@pytest.mark.parametrize("others", ["usable", "lame", "dead", "avoided", "failed"])
def test_the_timeout_is_shortened_only_beside_servers_that_may_answer(others):
    _, store, context = make()
    servers, cut = store.servers, three()
    slow, *rest = cut.servers
    tries, avoid = {}, frozenset()
    note_timeouts(servers, slow.key, ZONE, 0.0, 3)
    for server in rest:
        servers.note_reply(server.key, ZONE, 0.01, 0.0)
        if others == "lame":
            servers.note_lame(server.key, ZONE, 0.0)
        elif others == "avoided":
            avoid |= {server.address}
        elif others == "failed":
            tries[server.key] = limits.TRIES_PER_SERVER
        elif others == "dead":
            make_dead(servers, server.key, ZONE, 0.0)
    own = servers.timeout(slow.key, ZONE, 0.0)
    assert own == limits.SERVER_TIMEOUT_FIRST / 1000 * 8
    expected = limits.SERVER_TIMEOUT_FIRST / 1000 if others == "usable" else own
    assert server_timeout(slow, cut, context, tries, avoid) == expected
    assert server_timeout(rest[0], cut, context, tries, avoid) == (own if others == "dead" else 0.05)


@pytest.mark.parametrize("text", ["10.0.0.1", "127.0.0.1", "::1"])
def test_configured_addresses_are_always_permitted(text):
    cuts = configured_cuts(Settings(forward=(ForwardZone(".", (text,)),)))
    assert cuts[names.ROOT].servers[0].address == text


def test_the_zone_of_a_name_is_the_deepest_that_is_known():
    settings = Settings(forward=(ForwardZone("corp.example.", ("192.0.2.1",)),))
    _, store, _ = make(settings=settings)
    zones = ZoneTable([ServedZone(names.from_text("own.example."), Mode.AUTHORITATIVE)])
    delegations = DelegationCache(store, settings, configured=configured_cuts(settings), zones=zones)
    store.rrsets.put(ns_set("example.", "ns.example."), NOW)
    store.rrsets.put(ns_set("sub.own.example.", "ns.example."), NOW)
    for name, zone in (
        ("com.", "."), ("www.example.", "example."), ("www.corp.example.", "corp.example."),
        ("own.example.", "own.example."), ("a.own.example.", "own.example."),
        ("a.sub.own.example.", "sub.own.example."),
    ):
        assert delegations.zone_of(names.from_text(name), NOW) == names.from_text(zone), name
    assert delegations.zone_of(names.from_text("www.example."), NOW + 4000) == names.ROOT, "it has expired"
