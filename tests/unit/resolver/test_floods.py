"""Floods of random names below dead and slow zones, in virtual time: other names keep their rate.

The whole worker is real, from the service to the mesh; only the network and the clock are simulated. Honest clients ask
for new names of a zone that answers in 20 ms. Each test compares how many of them are answered in time with the same
world without a flood.
"""

import logging
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.fakenet import Link
from support.minet import COM_ZONE, Minet, build, standard

from resolver.effects import FailureKind, Outcome, Question, TraceStep
from resolver.iterate.query_servers import without_room
from resolver.net.fastpath import FastPath
from resolver.net.service import Service
from resolver.policy import PolicyPipeline
from resolver.settings import (
    CacheSettings,
    DnssecSettings,
    FetchLimitSettings,
    ForwardZone,
    PolicySettings,
    ServerSettings,
    Settings,
)
from resolver.verdict import Trust
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.edns import parse_ede
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset
from resolver.zones import Mode, ServedZone, ZoneTable

HONEST_RATE = 40
SECONDS = 4
IN_TIME = 2.0
ZONES = 8
SLOW_ZONE = "@ 3600 IN SOA ns n 1 2 3 4 5\n@ 3600 IN NS ns\nns 3600 IN A {address}\nwww 60 IN A 192.0.2.99\n"
DEAD = "192.0.3.{}"
SLOW = "192.0.4.{}"


def delegations() -> str:
    lines = [COM_ZONE]
    for kind, address in (("dead", DEAD), ("slow", SLOW)):
        for number in range(ZONES):
            lines += [f"{kind}{number} 7200 IN NS ns.{kind}{number}",
                      f"ns.{kind}{number} 7200 IN A {address.format(number + 1)}"]
    return "\n".join(lines) + "\n"


@dataclass
class Client:
    """The sink of one query: when it was answered, and how."""

    at: float
    world: "World"
    stream: bool = False
    idle_timeout: float = 10.0
    padding_block: int = 0
    origin: tuple[str, str] = ("udp", "127.0.0.1:53")
    answered: float | None = None
    view: MessageView | None = None

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        self.answered = self.world.m.net.now - self.at
        self.view = MessageView.parse(packet)

    def skip(self) -> None:
        """No reply."""

    def forget(self, pending: object) -> None:
        """Nothing is kept here."""

    def abort(self) -> None:
        raise AssertionError("a reply could not be made")

    @property
    def fine(self) -> bool:
        return self.view is not None and self.view.rcode in (c.NOERROR, c.NXDOMAIN) and (self.answered or 0) < IN_TIME


@dataclass
class World:
    """A worker in front of fast, dead and slow zones."""

    server: dict[str, Any] = field(default_factory=dict)
    fetch: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        settings = Settings(
            dnssec=DnssecSettings(trust_anchors=()), policy=PolicySettings(allow=("0.0.0.0/0",)),
            server=ServerSettings(**self.server), fetch_limit=FetchLimitSettings(**self.fetch), **self.more,
        )
        slow = {SLOW.format(n + 1): [(f"slow{n}.com.", SLOW_ZONE.format(address=SLOW.format(n + 1)))]
                for n in range(ZONES)}
        links = {address: Link(delay=1.2) for address in slow}
        self.m: Minet = build({**standard(a192_5_6_30=[("com.", delegations())]), **slow}, links=links,
                              settings=settings)
        plan = PolicyPipeline(settings)
        fast = FastPath(self.m.store.answers, plan.access)
        self.service = Service(settings, mesh=self.m.mesh, plan=plan, fast=fast, clock=self.m.net)
        self.count = 0

    def ask(self, name: str, host: str) -> Client:
        self.count += 1
        client = Client(self.m.net.now, self)
        packet = make_query(self.count & 0xFFFF, names.from_text(name), c.A)
        self.service.handle(packet, (host, 1024 + self.count % 60_000), client)
        return client

    def warm_up(self, *zones: str) -> None:
        """Learn the delegations of `zones`."""
        for zone in zones:
            self.ask(f"warm.{zone}", "127.0.0.1")
        self.m.net.sleep(self.m.mesh, 15.0)

    def run(self, kind: str, rate: int, *, networks: int, zones: int = 1, honest: str = "127.0.0.1") -> float:
        """The share of honest queries that are answered in time while `rate` others a second go to `zones` zones."""
        asked: list[Client] = []
        step = 1 / HONEST_RATE
        for turn in range(SECONDS * HONEST_RATE):
            for number in range(rate // HONEST_RATE):
                serial = turn * rate + number
                network = serial % networks
                self.ask(f"r{serial}.{kind}{serial % zones}.com.", f"10.{network // 256}.{network % 256}.7")
            asked.append(self.ask(f"h{turn}.example.com.", honest))
            self.m.net.sleep(self.m.mesh, step)
        self.m.net.sleep(self.m.mesh, 15.0)
        assert self.m.mesh.statistics()["running"] == 0
        assert self.service.waiting == 0
        fetches = self.m.mesh.fetch_statistics()
        assert fetches["zones"] == fetches["servers"] == 0, "what was taken is given back"
        return sum(client.fine for client in asked) / len(asked)


def test_all_honest_queries_are_answered_without_a_flood() -> None:
    assert World().run("dead", 0, networks=1) == 1.0


@pytest.mark.parametrize("kind", ["dead", "slow"])
@pytest.mark.parametrize(("networks", "honest"), [(500, "127.0.0.1"), (1, "127.0.0.1"), (1, "10.0.0.9")])
def test_a_flood_on_one_zone_costs_others_nothing(kind: str, networks: int, honest: str) -> None:
    world = World({"pending_queries": 1000}, {"per_zone": 100})
    assert world.run(kind, 1000, networks=networks, honest=honest) >= 0.99
    refused = world.m.mesh.fetch_statistics()["refused"]
    assert isinstance(refused, dict) and refused["zone"] > 1000


@pytest.mark.parametrize("kind", ["dead", "slow"])
@pytest.mark.parametrize("networks", [1, 500])
def test_slow_queries_leave_room_for_fast_ones_without_any_quota(kind: str, networks: int) -> None:
    """Many zones, or a forwarder, defeat the quota of a zone; then the oldest slow queries are ended for new ones."""
    world = World({"pending_queries": 300, "pending_queries_per_client": 200}, {"per_zone": 0, "per_server": 0})
    honest = "10.0.0.7" if networks == 1 else "127.0.0.1"
    assert world.run(kind, 500, networks=networks, zones=ZONES, honest=honest) >= 0.8
    assert world.service.statistics()["ended"] > 100


def test_a_forwarder_has_no_quota() -> None:
    world = World({}, {"per_zone": 1, "per_server": 1},
                  {"forward": (ForwardZone("example.com.", ("192.0.2.1",)),)})
    clients = [world.ask(f"x{number}.example.com.", "127.0.0.1") for number in range(20)]
    world.m.net.sleep(world.m.mesh, 5.0)
    assert [client.view.rcode for client in clients if client.view] == [c.NXDOMAIN] * 20


@pytest.mark.parametrize("below", ["", "deep."])
def test_what_exceeds_a_quota_fails_at_once_with_a_reason_and_is_not_cached(
    caplog: pytest.LogCaptureFixture, below: str,
) -> None:
    """Names count, and not the one minimised query for all of them."""
    world = World({}, {"per_zone": 5})
    world.warm_up("dead0.com.")
    with caplog.at_level(logging.WARNING, "resolver.iterate.fetch_quota"):
        clients = [world.ask(f"x{number}.{below}dead0.com.", "127.0.0.1") for number in range(20)]
        world.m.net.sleep(world.m.mesh, 0.1)
    views = [client.view for client in clients if client.view is not None]
    assert len(views) == 15
    for view in views:
        assert view.rcode == c.SERVFAIL and view.edns is not None
        code, text = parse_ede(view.edns.get(c.OPTION_EDE) or b"")
        assert (code, text) == (c.EDE_NO_REACHABLE_AUTHORITY, "too many queries for dead0.com. are outstanding")
    assert [record.message for record in caplog.records if "fetch_quota" in record.name] == [
        "fetch limit: zone dead0.com. has 5 outstanding fetches; further names fail at once"]
    statistics = world.m.mesh.fetch_statistics()
    assert (statistics["refused"], statistics["zones_full"], statistics["largest_zone"]) == (
        {"zone": 15, "server": 0}, 1, 5)
    world.m.net.sleep(world.m.mesh, 20.0)
    question = Question(names.from_text(f"x19.{below}dead0.com."), c.A)
    assert world.m.store.rrsets.find_failure(question.qname, question.qtype, world.m.net.time()) is None


def test_stale_data_is_given_instead_where_it_is_allowed() -> None:
    world = World({}, {"per_zone": 5},
                  {"cache": CacheSettings(max_stale_ttl=3600, stale_answer_client_timeout=1.8)})
    first = world.ask("www.slow0.com.", "127.0.0.1")
    world.m.net.sleep(world.m.mesh, 10.0)
    assert first.view is not None and first.view.answer
    world.m.net.shift += 100  # its 60 seconds are over
    for number in range(10):
        world.ask(f"x{number}.slow0.com.", "127.0.0.1")
    world.m.net.sleep(world.m.mesh, 0.1)
    again = world.ask("www.slow0.com.", "127.0.0.1")
    world.m.net.sleep(world.m.mesh, 0.1)
    assert again.view is not None and again.view.answer, "at once"


def test_the_quota_of_a_server_falls_while_it_times_out_and_rises_again() -> None:
    world = World({}, {"per_zone": 0, "per_server": 100})
    infra, fetches = world.m.store.servers, world.m.mesh._delegations.fetches
    key = ("192.0.2.77", 53)
    infra.note_reply(key, names.ROOT, 0.02, 0.0)
    for _ in range(100):
        fetches.take_server(key, names.ROOT)
    assert fetches.is_full(key, names.ROOT)
    fetches.give_server(key, names.ROOT)
    assert not fetches.is_full(key, names.ROOT)
    for _ in range(1000):
        fetches.note_result(key, timed_out=True)
    assert infra.quota_share(key) == pytest.approx(0.8**10, abs=0.01)
    for _ in range(5000):
        fetches.note_result(key, timed_out=True)
    assert infra.quota_share(key) == 0.1
    for _ in range(89):
        fetches.give_server(key, names.ROOT)
    assert fetches.is_full(key, names.ROOT)
    for _ in range(2000):
        fetches.note_result(key, timed_out=False)
    assert infra.quota_share(key) == 1.0 and not fetches.is_full(key, names.ROOT)
    statistics = fetches.statistics()
    assert statistics["quota_falls"] and statistics["quota_rises"]


def test_a_server_with_its_quota_is_left_for_another_one() -> None:
    world = World({}, {"per_zone": 0, "per_server": 10})
    world.warm_up("example.com.", "dead1.com.")
    world.m.net.links["192.0.2.1"] = Link(loss=1.0)  # one of two servers of example.com
    clients = [world.ask(f"x{number}.example.com.", "127.0.0.1") for number in range(15)]
    world.m.net.sleep(world.m.mesh, 5.0)
    assert [client.view.rcode for client in clients if client.view] == [c.NXDOMAIN] * 15
    most = [outcome_of(world, f"y{number}.dead1.com.", []) for number in range(30)]  # with a trace, each has a job
    assert sum(outcome is not None for outcome in most) == 20
    refused = world.m.mesh.fetch_statistics()["refused"]
    assert isinstance(refused, dict) and refused["server"] == 20


def test_zones_that_a_server_ignores_do_not_use_up_the_quota_of_those_that_it_serves() -> None:
    """Anyone can delegate a zone to the servers of another one, and some servers ignore queries for such zones."""
    com = COM_ZONE + "evil 7200 NS ns1.example.com.\nevil 7200 NS ns2.example.com.\n"
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), fetch_limit=FetchLimitSettings(per_server=200))
    m = build(standard(a192_5_6_30=[("com.", com)]), settings=settings)
    for address in ("192.0.2.1", "192.0.2.2"):
        def host(packet: bytes, tcp: bool, real: Any = m.net.hosts[address]) -> bytes | None:
            return None if b"\4evil\3com\0" in packet.lower() else real(packet, tcp)

        m.net.hosts[address] = host

    def start(name: str) -> list[Outcome]:
        found: list[Outcome] = []
        m.mesh.submit(Question(names.from_text(name), c.A), on_done=found.append)
        return found

    assert m.ask("www.example.com.").answer
    ignored = []
    for turn in range(20):
        ignored += [start(f"x{turn}-{number}.evil.com.") for number in range(40)]
        served = [start(f"y{turn}-{number}.example.com.") for number in range(2)]
        m.net.sleep(m.mesh, 1.0)
        assert [outcome.rcode for found in served for outcome in found] == [c.NXDOMAIN] * 2
    refused = m.mesh.fetch_statistics()["refused"]
    assert isinstance(refused, dict) and refused["server"] > 100, "the quota was used up"
    m.net.sleep(m.mesh, 30.0)
    assert all(len(found) == 1 and found[0].rcode == c.SERVFAIL for found in ignored)
    fetches = m.mesh._delegations.fetches
    assert not fetches._servers


def test_a_zone_has_a_small_part_of_a_quota_that_is_used_up() -> None:
    fetches = World({}, {"per_server": 200}).m.mesh._delegations.fetches
    key, zone, other = ("192.0.2.77", 53), names.from_text("example.com."), names.from_text("evil.com.")
    for _ in range(200):
        assert not fetches.is_full(key, other)
        fetches.take_server(key, other)
    assert fetches.is_full(key, other)
    for _ in range(2):
        assert not fetches.is_full(key, zone)
        fetches.take_server(key, zone)
    assert fetches.is_full(key, zone)
    fetches.give_server(key, zone)
    assert not fetches.is_full(key, zone) and fetches.is_full(key, other)


def test_a_query_that_there_is_no_memory_for_is_not_counted_at_its_server() -> None:
    class Costly:
        """A key for whose look-up there is no memory when `calls` reaches zero."""

        calls = 0

        def __hash__(self) -> int:
            self.calls -= 1
            if not self.calls:
                raise MemoryError
            return 1

    fetches = World({}, {"per_server": 200}).m.mesh._delegations.fetches
    for number in range(1, 3):
        costly = Costly()
        costly.calls = number
        with pytest.raises(MemoryError):
            fetches.take_server((costly,), names.ROOT)
        assert not fetches._servers


def test_a_query_that_was_ended_for_another_is_told_so() -> None:
    world = World({"pending_queries": 16, "pending_queries_network_percent": 100}, {"per_zone": 0})
    world.warm_up("dead0.com.", "example.com.")
    slow = [world.ask(f"x{number}.dead0.com.", f"10.0.{number}.1") for number in range(16)]
    early = world.ask("a.example.com.", "127.0.0.1")
    assert early.view is not None and early.view.rcode == c.SERVFAIL, "none has waited for long enough"
    world.m.net.sleep(world.m.mesh, 0.3)
    late = world.ask("b.example.com.", "127.0.0.1")
    world.m.net.sleep(world.m.mesh, 0.1)
    assert late.fine
    assert slow[0].view is not None and slow[0].view.edns is not None
    assert parse_ede(slow[0].view.edns.get(c.OPTION_EDE) or b"") == (c.EDE_NOT_READY, "ended for a newer query")
    assert all(client.view is None for client in slow[1:])


# --- before a job is made -----------------------------------------------------------------------------------------

QUOTAS = [{"per_zone": 5, "per_server": 0}, {"per_zone": 0, "per_server": 5}]


def flooded(fetch: dict[str, Any], **more: Any) -> World:
    """A world with the delegations of two zones in its cache, in which five names of dead0.com. are outstanding."""
    world = World({}, fetch, more)
    world.warm_up("dead0.com.", "dead1.com.")
    for number in range(5):
        world.ask(f"x{number}.dead0.com.", f"10.0.{number}.1")
    return world


def jobs(world: World) -> tuple[int, int]:
    """How many jobs were made, and how many queries were refused for lack of room."""
    refused = world.m.mesh.fetch_statistics()["refused"]
    assert isinstance(refused, dict)
    return world.m.mesh.statistics()["jobs"], sum(refused.values())


def outcome_of(world: World, name: str, trace: list[TraceStep] | None = None, *, cd: bool = False) -> Outcome | None:
    """The outcome that is given at once; None when a query is sent."""
    found: list[Outcome] = []
    question = Question(names.from_text(name), c.A)
    world.m.mesh.submit(question, cd=cd, on_done=found.append, trace=trace)
    return found[0] if found else None


@pytest.mark.parametrize("fetch", QUOTAS, ids=str)
@pytest.mark.parametrize("below", ["", "deep.", "a.b.c.d."])
def test_what_exceeds_a_quota_costs_no_job_and_fails_as_a_job_would(fetch: dict[str, Any], below: str) -> None:
    world = flooded(fetch)
    before, _ = jobs(world)
    failed = world.m.mesh.statistics()["failures"]
    at_once = outcome_of(world, f"y.{below}dead0.com.")
    assert jobs(world) == (before, 1)
    assert world.m.mesh.statistics()["failures"] == failed + 1
    by_job = outcome_of(world, f"z.{below}dead0.com.", [])  # one with a trace has a job, so that it has all steps
    assert jobs(world) == (before + 1, 2)
    assert at_once is not None and by_job is not None and at_once.failure is not None and by_job.failure is not None
    assert (at_once.rcode, at_once.ede, at_once.failure.kind) == (by_job.rcode, by_job.ede, by_job.failure.kind)
    assert at_once.failure.kind is FailureKind.QUOTA
    assert world.m.mesh.statistics()["running"] == 5


@pytest.mark.parametrize("fetch", QUOTAS, ids=str)
def test_no_other_query_is_ended_for_one_that_exceeds_a_quota(fetch: dict[str, Any]) -> None:
    world = flooded(fetch)
    world.m.mesh._quota.capacity = 10
    others = [world.ask(f"x{number}.dead1.com.", f"10.1.{number}.1") for number in range(4)]
    world.m.net.sleep(world.m.mesh, 0.3)  # any of them may be ended for a new one now
    late = world.ask("y.dead0.com.", "127.0.0.1")
    assert late.view is not None and late.view.rcode == c.SERVFAIL
    assert all(client.view is None for client in others) and not world.m.mesh.statistics()["evicted"]


@pytest.mark.parametrize("name", ["x0.dead0.com.", "x0.deep.dead0.com."])
def test_a_name_that_is_being_fetched_already_is_within_the_quota(name: str) -> None:
    world = World({}, {"per_zone": 1, "per_server": 0})
    world.warm_up("dead0.com.")
    found: list[Outcome] = []
    for rtype in (c.A, c.AAAA) if "deep" in name else (c.A,):  # the minimised query is the same for both types
        for cd in (False, True):
            world.m.mesh.submit(Question(names.from_text(name), rtype), cd=cd, on_done=found.append)
    assert not found and jobs(world)[1] == 0


def test_a_stale_answer_is_given_at_once_when_a_quota_is_used_up() -> None:
    world = World({}, {"per_zone": 5},
                  {"cache": CacheSettings(max_stale_ttl=3600, stale_answer_client_timeout=1.8)})
    world.warm_up("slow0.com.")
    first = world.ask("www.slow0.com.", "127.0.0.1")
    world.m.net.sleep(world.m.mesh, 10.0)
    assert first.view is not None and first.view.answer
    world.m.net.shift += 100  # its 60 seconds are over
    for number in range(5):
        world.ask(f"x{number}.slow0.com.", "127.0.0.1")
    before, _ = jobs(world)
    again = world.ask("www.slow0.com.", "127.0.0.1")
    assert jobs(world) == (before, 1)
    assert again.view is not None and again.view.answer and again.view.edns is not None


def test_a_cached_alias_out_of_a_zone_without_room_is_followed() -> None:
    world = flooded({"per_zone": 5})
    alias = RRset(names.from_text("a.dead0.com."), c.CNAME, 300, [names.from_text("www.example.com.")])
    alias.trust = Trust.ANSWER
    world.m.store.rrsets.put(alias, world.m.net.time())
    client = world.ask("a.dead0.com.", "127.0.0.1")
    world.m.net.sleep(world.m.mesh, 1.0)
    assert client.fine


def test_the_second_level_cache_is_asked_before_a_quota_is_looked_at() -> None:
    world = flooded({"per_zone": 5})
    world.m.mesh._context.reads_second_level = True
    before, _ = jobs(world)
    outcome_of(world, "y.dead0.com.")
    assert jobs(world)[0] == before + 1


@pytest.mark.parametrize("fetch", QUOTAS, ids=str)
def test_only_zones_with_quotas_refuse_before_a_job_is_made(fetch: dict[str, Any]) -> None:
    world = flooded(fetch)
    context = world.m.mesh._context
    cut = context.delegations.closest(names.from_text("dead0.com."), context.now)
    question = names.from_text("y.dead0.com."), c.A

    def refused() -> bool:
        return without_room(cut, *question, context) is not None

    assert refused()
    cut.recursive = True
    assert not refused(), "names of many zones are behind a forwarder"
    cut.recursive = False
    context.delegations.zones = ZoneTable([ServedZone(names.from_text("dead0.com."), Mode.DELEGATIONS)])
    assert not refused(), "a copy of the zone may have the answer"
    context.delegations.zones = ZoneTable([ServedZone(names.from_text("dead1.com."), Mode.DELEGATIONS)])
    assert refused()
    context.name_server = lambda *zone: None
    assert not refused(), "policies for name servers come first"
    context.name_server = None
    fetches = context.delegations.fetches
    for number in range(5):
        fetches.take_zone((0, names.ROOT), b"\1%d\0" % number, c.A)
        fetches.take_server(("198.41.0.4", 53), names.ROOT)
    root = context.delegations.closest(names.ROOT, context.now)
    assert without_room(root, *question, context) is None, "every name needs the root at a cold start"


def test_a_server_that_is_lame_is_no_reason_for_a_refusal() -> None:
    world = flooded({"per_zone": 0, "per_server": 5})
    context = world.m.mesh._context
    cut = context.delegations.closest(names.from_text("dead0.com."), context.now)
    question = names.from_text("y.dead0.com."), c.A
    assert without_room(cut, *question, context) is not None
    world.m.store.servers.note_lame(cut.servers[0].key, cut.zone, context.monotonic)
    assert without_room(cut, *question, context) is None, "all of its servers are, so the parent is queried again"
    cut.add_address(None, "192.0.2.200", 53)
    assert without_room(cut, *question, context) is None, "one has room"


def test_the_smallest_quota_is_that_of_a_server_that_times_out() -> None:
    """Fewer jobs than that use up no quota, so none is looked at."""
    for fetch, smallest in (({}, 100), ({"per_server": 15}, 1), ({"per_server": 0}, 1000),
                            ({"per_zone": 7, "per_server": 100}, 7), ({"per_zone": 0, "per_server": 0}, 0)):
        world = World({}, fetch)
        fetches, key = world.m.mesh._delegations.fetches, ("192.0.2.77", 53)
        assert fetches.smallest == smallest
        world.m.store.servers.note_reply(key, names.ROOT, 0.02, 0.0)
        for _ in range(6000):
            fetches.note_result(key, timed_out=True)
        for _ in range(smallest - 1):
            fetches.take_server(key, names.ROOT)
        assert not fetches.is_full(key, names.ROOT), "never earlier"
