"""Policies for name servers beside shared jobs and shared cached data.

The servers of evil.com. are forbidden. Its data is in the cache nevertheless, because the address of a name server is
asked without these policies, and because views share the cache.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from support.fakenet import Link
from support.minet import COM_ZONE, EXAMPLE_ZONE, NET_ZONE, ROOT_ADDRESS, Minet, addresses, build, standard
from support.signed_net import Crypto
from support.signing import ZoneKey, sign_zone

from resolver import limits
from resolver.effects import Outcome, Purpose, Question, Server
from resolver.iterate import delegation_path, known_path
from resolver.policy import Action, Pipeline, PolicyModule
from resolver.policy.module import REFUSE
from resolver.policy.rpz_module import ResponsePolicyZones, options_of
from resolver.policy.rpz_zone import ZoneCompiler
from resolver.query import Query
from resolver.settings import CacheSettings, DnssecSettings, ForwardZone, Settings, StubZone
from resolver.settings.lists import RpzSettings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

EVIL_SERVER = "192.0.2.66"
WWW = names.from_text("www.evil.com.")
# The name server of trigger.net. is a host of evil.com.
NET = NET_ZONE + "trigger 3600 IN NS www.evil.com.\n"
COM = COM_ZONE + "evil 3600 IN NS ns.evil\nns.evil 3600 IN A 192.0.2.66\n"
SOA = "@ 7200 IN SOA ns nobody 1 1 1 1 7200\n"
EVIL = SOA + """@ 3600 IN NS ns
ns 3600 IN A 192.0.2.66
www 80000 IN A 192.0.2.66
long.label.www 80000 IN A 192.0.2.66
"""
TRIGGER = SOA + "@ 3600 IN NS www.evil.com.\nx 60 IN A 192.0.2.7\n"
EXAMPLE = EXAMPLE_ZONE + "toevil 80000 IN CNAME www.evil.com.\n"
ZONES = standard(
    a192_5_6_30=[("com.", COM)], a192_5_6_31=[("net.", NET)],
    a192_0_2_66=[("evil.com.", EVIL), ("trigger.net.", TRIGGER)],
    a192_0_2_1=[("example.com.", EXAMPLE)], a192_0_2_2=[("example.com.", EXAMPLE)],
)


class Forbids(PolicyModule):
    """Refuses evil.com. by the name of its server, or by its address."""

    name = "forbids"

    def __init__(self, *, by_address: bool = False) -> None:
        self.by_address = by_address
        self.active = True

    def name_server(
        self, query: Query, question: Question, zone: bytes, servers: Sequence[bytes], addresses: Sequence[Server]
    ) -> Action | None:
        if not self.active or zone != names.from_text("evil.com."):
            return None
        if self.by_address:
            return REFUSE if EVIL_SERVER in [one.address for one in addresses] else None
        return REFUSE if names.from_text("ns.evil.com.") in servers else None


def world(
    module: Forbids, zones: Mapping[str, Sequence[tuple[str, str]]] = ZONES, *, links: dict[str, Link] | None = None,
    **cache: Any,
) -> Minet:
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(**cache))
    m = build(zones, settings=settings, links=links)
    m.mesh._context.name_server = Pipeline(0, "", [module]).name_server
    return m


def refused(outcome: Outcome) -> bool:
    return (outcome.rcode, outcome.answer, outcome.applied is not None) == (c.REFUSED, [], True)


# --- shared jobs --------------------------------------------------------------------------------------------------


def test_a_client_does_not_join_the_job_for_the_address_of_a_name_server() -> None:
    m = world(Forbids())
    m.start("x.trigger.net.")
    m.net.run(m.mesh, until=lambda: any(job.task.purpose is Purpose.NS_ADDRESS for job in m.mesh._unfinished))
    assert refused(m.ask("www.evil.com.", cd=True))


@pytest.mark.parametrize("prefetch", [False, True])
def test_a_sub_query_does_not_get_the_answer_of_a_policy(prefetch: bool) -> None:
    """It would make trigger.net. unusable for all."""
    m = world(Forbids(), links={"192.5.6.30": Link(delay=0.3)})
    found: list[Outcome] = []
    if prefetch:
        assert m.mesh.refresh(Question(WWW, c.A), cd=True, on_done=found.append)
    else:
        m.mesh.submit(Question(WWW, c.A), cd=True, on_done=found.append)
    outcome = m.ask("x.trigger.net.")
    assert (outcome.failure, addresses(outcome)) == (None, ["192.0.2.7"])
    m.net.run(m.mesh, until=lambda: bool(found))
    assert refused(found[0])


def test_without_such_a_policy_they_share_a_job() -> None:
    m = build(ZONES)
    m.start("x.trigger.net.")
    m.net.run(m.mesh, until=lambda: any(job.task.purpose is Purpose.NS_ADDRESS for job in m.mesh._unfinished))
    assert addresses(m.ask("www.evil.com.", cd=True)) == [EVIL_SERVER]
    assert m.mesh.statistics()["joined"] == 1


# --- cached data --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failed", ["forward", "stub"])
@pytest.mark.parametrize("stale", [False, True])
def test_data_of_public_servers_below_a_configured_zone_that_has_failed(failed: str, stale: bool) -> None:
    """With `first` the public servers answer in its place. Another view without policies has filled the cache."""
    settings = Settings(
        dnssec=DnssecSettings(trust_anchors=()), cache=CacheSettings(max_stale_ttl=86400),
        forward=(ForwardZone("evil.com.", ("203.0.113.9",), True),) if failed == "forward" else (),
        stub=(StubZone("evil.com.", ("203.0.113.9",), stub_first=True),) if failed == "stub" else (),
    )
    m = build(ZONES, settings=settings)
    assert addresses(m.ask("www.evil.com.")) == [EVIL_SERVER]
    m.mesh._context.name_server = Pipeline(0, "", [Forbids()]).name_server
    if stale:  # the delegation has expired, too, and cannot be fetched
        m.net.sleep(m.mesh, 80001)
        m.net.links[EVIL_SERVER] = m.net.links["192.5.6.30"] = Link(loss=1.0)
    outcome = m.ask("www.evil.com.")
    assert outcome.answer == []
    assert refused(outcome) or (stale and outcome.failure is not None)


@pytest.mark.parametrize("failed", ["forward", "stub"])
def test_permitted_data_of_public_servers_is_used_while_a_configured_zone_fails(failed: str) -> None:
    """No packet is sent to the dead servers for it."""
    settings = Settings(
        dnssec=DnssecSettings(trust_anchors=()),
        forward=(ForwardZone("example.com.", ("203.0.113.9",), True),) if failed == "forward" else (),
        stub=(StubZone("example.com.", ("203.0.113.9",), stub_first=True),) if failed == "stub" else (),
    )
    m = build(ZONES, settings=settings)
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    m.mesh._context.name_server = Pipeline(0, "", [Forbids()]).name_server
    asked = len(m.net.log)
    again = m.ask("www.example.com.")
    assert (addresses(again), again.from_cache, len(m.net.log)) == (["192.0.2.80"], True, asked)


def test_data_of_a_forwarder_is_used() -> None:
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()),
                        forward=(ForwardZone("evil.com.", (EVIL_SERVER,), True),))
    m = build(ZONES, settings=settings)
    m.mesh._context.name_server = Pipeline(0, "", [Forbids()]).name_server
    for name in ("www.evil.com.", "none.evil.com."):
        rcode, asked = m.ask(name).rcode, len(m.net.log)
        again = m.ask(name)
        assert (again.rcode, again.from_cache, len(m.net.log)) == (rcode, True, asked)


NAMES = ["www.evil.com.", "long.label.www.evil.com.", "none.evil.com.", "toevil.example.com."]


def forget_delegation(m: Minet, *zones: str) -> None:
    for zone in zones:
        m.store.rrsets.drop(names.from_text(zone), c.NS)
    m.mesh.forget()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("lost", ["expired", "zone", "all"])
def test_cached_data_of_a_zone_whose_delegation_is_unknown(name: str, lost: str) -> None:
    """The closest known zone is another one, whose servers are permitted."""
    module = Forbids()
    m = world(module, max_negative_ttl=limits.CACHE_MAX_NEGATIVE_TTL.maximum)
    module.active = False
    m.ask(name)
    module.active = True
    if lost == "expired":
        m.net.sleep(m.mesh, 3700)
    else:
        forget_delegation(m, "evil.com.", *(("com.", ".") if lost == "all" else ()))
    before = len(m.net.log)
    outcome = m.ask(name)
    assert outcome.rcode == c.REFUSED and outcome.applied is not None
    assert EVIL_SERVER not in [packet.address for packet in m.net.log[before:]]


def test_cached_data_of_a_zone_whose_addresses_have_expired() -> None:
    zones = {
        **ZONES,
        "192.5.6.30": [("com.", COM_ZONE + "evil 80000 IN NS host.evil.net.\n")],
        "192.5.6.31": [("net.", NET + "evil 80000 IN NS ns.evil\nns.evil 80000 IN A 192.0.2.67\n")],
        EVIL_SERVER: [("evil.com.", SOA + "@ 80000 IN NS host.evil.net.\nwww 80000 IN A 192.0.2.66\n"),
                      ("trigger.net.", TRIGGER)],
        "192.0.2.67": [("evil.net.", SOA + "@ 80000 IN NS ns\nns 80000 IN A 192.0.2.67\nhost 1 IN A 192.0.2.66\n")],
    }
    m = world(Forbids(by_address=True), zones)
    assert addresses(m.ask("x.trigger.net.")) == ["192.0.2.7"]
    assert m.store.rrsets.find(WWW, c.A, m.net.time()) is not None
    assert refused(m.ask("www.evil.com."))
    m.net.sleep(m.mesh, 5)
    assert refused(m.ask("www.evil.com."))


def test_cached_data_while_the_address_of_its_server_is_looked_up() -> None:
    """Until then no policy knows whether the server is forbidden."""
    zones = ZONES | {
        "192.5.6.30": [("com.", COM_ZONE + "evil 80000 IN NS host.evil.net.\n")],
        "192.5.6.31": [("net.", NET + "evil 80000 IN NS ns.evil\nns.evil 80000 IN A 192.0.2.67\n")],
        "192.0.2.66": [("evil.com.", SOA + "@ 80000 IN NS host.evil.net.\nwww 80000 IN A 192.0.2.66\n"),
                       ("trigger.net.", TRIGGER)],
        "192.0.2.67": [("evil.net.", SOA + "@ 80000 IN NS ns\nns 80000 IN A 192.0.2.67\nhost 1 IN A 192.0.2.66\n")],
    }
    m = world(Forbids(by_address=True), zones)
    assert addresses(m.ask("x.trigger.net.")) == ["192.0.2.7"]
    m.net.sleep(m.mesh, 5)
    m.net.links["192.0.2.67"] = Link(loss=1.0)
    m.start("other.evil.com.")
    m.net.run(m.mesh, until=lambda: any(job.task.purpose is Purpose.NS_ADDRESS for job in m.mesh._unfinished))
    outcome = m.ask("www.evil.com.")
    assert outcome.answer == [] and outcome.failure is not None


@pytest.mark.parametrize("name", NAMES)
def test_cached_data_of_permitted_servers_costs_no_packet(name: str) -> None:
    module = Forbids()
    module.active = False
    m = world(module)
    first = m.ask(name)
    before = len(m.net.log)
    again = m.ask(name)
    assert again.from_cache and (again.rcode, addresses(again)) == (first.rcode, addresses(first))
    assert len(m.net.log) == before


def test_the_ds_set_of_a_referral_is_from_the_zone_above() -> None:
    root, com = ZoneKey("."), ZoneKey("com.")
    top = ("@ 86400 SOA a.root. nobody.root. 1 1800 900 604800 900\n@ 518400 NS a.root.\n"
           f"a.root. 518400 A {ROOT_ADDRESS}\ncom. 86400 NS ns.com.\nns.com. 86400 A 192.0.2.1\n"
           f"com. 86400 DS {com.ds()}\n")
    below = SOA + "@ 86400 NS ns\nns 86400 A 192.0.2.1\nwww 300 A 192.0.2.80\n"
    zones = {ROOT_ADDRESS: [(".", sign_zone(".", top, [root]))],
             "192.0.2.1": [("com.", sign_zone("com.", below, [com]))]}
    m = build(zones, settings=Settings(dnssec=DnssecSettings(trust_anchors=(root.anchor(),))), crypto=Crypto())
    m.mesh._context.name_server = Pipeline(0, "", [Forbids()]).name_server
    assert m.ask("www.com.").verdict == Verdict.SECURE
    before = len(m.net.log)
    assert m.ask("com.", "DS").from_cache and len(m.net.log) == before


def test_a_name_of_the_root_zone_is_used_with_the_servers_of_the_hints() -> None:
    """Without priming, the servers of the root are known from the hints only."""
    m = build(ZONES, priming=False)
    m.mesh._context.name_server = Pipeline(0, "", [Forbids()]).name_server
    assert m.ask("absent.").rcode == c.NXDOMAIN
    before = len(m.net.log)
    assert m.ask("absent.").rcode == c.NXDOMAIN and len(m.net.log) == before


def stale_world(module: Forbids) -> Minet:
    zones = {**ZONES, EVIL_SERVER: [("evil.com.", EVIL.replace("80000", "300").replace("7200", "300"))]}
    return world(module, zones, max_stale_ttl=86400)


@pytest.mark.parametrize("by_address", [False, True])
@pytest.mark.parametrize("seconds", [400, 4000])
@pytest.mark.parametrize("name", NAMES[:3])
def test_stale_data_is_given_by_the_last_known_servers_of_its_zone(name: str, seconds: int, by_address: bool) -> None:
    """The delegation has expired, or is removed because its servers do not answer; the zone above is permitted."""
    module = Forbids(by_address=by_address)
    m = stale_world(module)
    module.active = False
    first = m.ask(name)
    m.net.sleep(m.mesh, seconds)
    m.net.hosts.clear()
    outcome = m.ask(name)
    assert (outcome.stale, outcome.rcode, addresses(outcome)) == (True, first.rcode, addresses(first))
    m.net.run(m.mesh, until=lambda: not m.mesh.statistics()["running"])
    module.active = True
    outcome = m.ask(name)
    assert (outcome.stale, outcome.answer) == (False, [])
    module.active = False
    assert m.ask(name).stale


def test_stale_data_whose_servers_are_not_known_at_all() -> None:
    module = Forbids()
    m = stale_world(module)
    module.active = False
    m.ask("www.evil.com.")
    m.net.sleep(m.mesh, 400)
    m.net.hosts.clear()
    forget_delegation(m, "evil.com.")
    outcome = m.ask("www.evil.com.")
    assert (outcome.stale, outcome.rcode) == (False, c.SERVFAIL)


# --- zones below a forbidden one ----------------------------------------------------------------------------------
# deep.evil.com. has a server that no policy forbids. host.deep.evil.com. is the name server of trigger2.net.

DEEP_SERVER = "192.0.2.67"
DEEP = "x.deep.evil.com."
DEEP_ZONES = {
    **ZONES,
    "192.5.6.31": [("net.", NET_ZONE + "trigger2 3600 IN NS host.deep.evil.com.\nok 80000 IN NS ns.ok\n"
                                       "ns.ok 80000 IN A 192.0.2.67\n")],
    EVIL_SERVER: [("evil.com.", EVIL.replace("@ 3600 IN NS ns\n", "@ 3600 IN NS ns.ok.net.\n")
                   + "deep 80000 IN NS ns.ok.net.\n")],
    DEEP_SERVER: [("deep.evil.com.", SOA + "@ 80000 IN NS ns.ok.net.\nx 300 IN A 203.0.113.5\n"
                                           "host 80000 IN A 192.0.2.68\n"),
                  ("ok.net.", SOA + "@ 80000 IN NS ns\nns 80000 IN A 192.0.2.67\n")],
    "192.0.2.68": [("trigger2.net.", SOA + "@ 3600 IN NS host.deep.evil.com.\nx 60 IN A 192.0.2.7\n")],
}


@pytest.mark.parametrize("by_address", [False, True])
@pytest.mark.parametrize("known", ["nothing", "delegations", "sets", "lower set", "child set"])
def test_a_zone_below_a_forbidden_one(known: str, by_address: bool) -> None:
    """The verdict is the same whatever is cached. Another worker has put sets into the cache, and some are evicted."""
    module = Forbids(by_address=by_address)
    m = world(module, DEEP_ZONES)
    if known != "nothing":
        assert addresses(m.ask("x.trigger2.net.")) == ["192.0.2.7"]
    if known == "child set":
        module.active = False
        assert m.ask("evil.com.", "NS").answer[0].targets() == [names.from_text("ns.ok.net.")]
        assert addresses(m.ask(DEEP)) == ["203.0.113.5"]
        module.active = True
    if known in ("sets", "lower set"):
        forget_delegation(m, *(("evil.com.",) if known == "lower set" else ()))
    before = len(m.net.log)
    assert refused(m.ask(DEEP))
    assert refused(m.ask("other.deep.evil.com."))
    assert {packet.address for packet in m.net.log[before:]}.isdisjoint({EVIL_SERVER, DEEP_SERVER})


def test_each_zone_on_the_path_needs_a_referral_once() -> None:
    """Afterwards delegations and data of permitted servers are used as without such policies."""
    module = Forbids()
    module.active = False
    m = world(module, DEEP_ZONES)
    m.ask(DEEP)
    forget_delegation(m)
    before = len(m.net.log)
    assert addresses(m.ask(DEEP)) == ["203.0.113.5"]
    assert [packet.address for packet in m.net.log[before:]] == [
        ROOT_ADDRESS, "192.5.6.30", EVIL_SERVER, DEEP_SERVER]
    before = len(m.net.log)
    assert m.ask(DEEP).from_cache and m.ask("host.deep.evil.com.").answer
    assert [packet.address for packet in m.net.log[before:]] == [DEEP_SERVER]


def test_policy_zones_without_triggers_for_name_servers_cost_nothing() -> None:
    compiler = ZoneCompiler(names.from_text("rpz.test."), b"k" * 16)
    settings = RpzSettings(name="rpz.test", file="rpz")
    zones = ResponsePolicyZones([settings])
    zones.replace({"rpz.test": compiler.finish(options_of(settings))})
    m = world(Forbids(), DEEP_ZONES)
    pipeline = Pipeline(0, "", [zones])
    m.mesh._context.name_server = pipeline.name_server
    m.mesh._context.has_server_rules = pipeline.has_server_rules
    m.ask(DEEP)
    forget_delegation(m)
    before = len(m.net.log)
    assert m.ask(DEEP).from_cache and m.ask("other.deep.evil.com.").rcode == c.NXDOMAIN
    assert [packet.address for packet in m.net.log[before:]] == [DEEP_SERVER]


@pytest.mark.parametrize("by_address", [False, True])
def test_a_zone_below_a_forbidden_one_below_a_stub_zone(by_address: bool) -> None:
    """The operator chose the servers of com., and not those of evil.com."""
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()),
                        stub=(StubZone("com.", ("192.5.6.30",)),))
    m = build(DEEP_ZONES, settings=settings)
    m.mesh._context.name_server = Pipeline(0, "", [Forbids(by_address=by_address)]).name_server
    assert addresses(m.ask("x.trigger2.net.")) == ["192.0.2.7"]
    assert refused(m.ask("host.deep.evil.com."))
    forget_delegation(m, "evil.com.")
    assert refused(m.ask("host.deep.evil.com."))


@pytest.mark.parametrize("evicted", [False, True])
def test_stale_data_of_a_zone_below_a_forbidden_one(evicted: bool) -> None:
    module = Forbids()
    m = world(module, DEEP_ZONES, max_stale_ttl=86400)
    module.active = False
    m.ask(DEEP)
    m.net.sleep(m.mesh, 4000)
    m.net.hosts.clear()
    assert m.ask(DEEP).stale
    m.net.run(m.mesh, until=lambda: not m.mesh.statistics()["running"])
    if evicted:
        m.store.rrsets.drop(names.from_text("evil.com."), c.NS)
    module.active = True
    outcome = m.ask(DEEP)
    assert (outcome.stale, outcome.answer) == (False, [])


def test_a_path_of_the_longest_name_is_found_by_one_look_up_for_each_label(monkeypatch: pytest.MonkeyPatch) -> None:
    m = world(Forbids(), DEEP_ZONES)
    m.ask("www.example.com.")
    name = b"\1x" * 114 + names.from_text("evil.com.")
    looked_up: list[int] = []

    def suffix(of: bytes, labels: int) -> bytes:
        looked_up.append(labels)
        return names.suffix(of, labels)

    monkeypatch.setattr(delegation_path, "names", SimpleNamespace(**{**vars(names), "suffix": suffix}))
    cut, path = known_path(name, m.mesh._context)
    assert [one.zone for one in path] == [names.ROOT, names.from_text("com.")] and cut is path[-1]
    assert looked_up == list(range(1, names.label_count(name) + 1))
