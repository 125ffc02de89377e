"""Job slots: the shares of networks, slow queries that are ended for new ones, and what attackers can take from others.

The arithmetic is compared with a model in random steps. The attacks run in the mesh in virtual time, with generators of
the test: each pauses and then needs another question, whose generator pauses as well.
"""

import random

import pytest
from support.minet import COM_ZONE, NET_ZONE, build, standard

from resolver import limits
from resolver import mesh as mesh_module
from resolver.effects import Failure, FailureKind, Need, Outcome, Pause, Purpose, Question
from resolver.query import Query
from resolver.query_quota import QueryQuota, QueryUsage
from resolver.wire import consts as c
from resolver.wire import name as names

CAPACITY = 400
SLOW = 5.0
FAST = 0.05
JOSTLE = limits.JOSTLE / 1000


# --- arithmetic ---------------------------------------------------------------------------------------------------


def test_two_shares_of_one_network_are_merged_when_a_slot_is_taken():
    """Ending a query calls its callback, which may start a query of the same network before the first has its slot."""
    places = QueryQuota(100)
    first, second = QueryUsage(places.share_of("net"), 0.0), QueryUsage(places.share_of("net"), 0.0)
    jobs = [object(), object()]
    places.take(second, jobs[1])
    places.take(first, jobs[0])
    assert places.share_of("net").held == 2
    assert list(places.share_of("net").queries) == [second, first]
    places.give_back(second, jobs[1])
    assert places.share_of("net").held == 1, "the other one still holds its place"
    places.give_back(first, jobs[0])
    assert places.statistics() == (0, 0)


def test_an_inherited_slot_is_charged_to_a_network_that_held_none():
    places = QueryQuota(100)
    usage, other = QueryUsage(places.share_of("a"), 0.0), QueryUsage(places.share_of("b"), 0.0)
    jobs = [object(), object()]
    places.take(usage, jobs[0])
    new_payer = places.share_of("b")
    places.take(other, jobs[1])
    places.move(usage, new_payer)
    assert (places.share_of("b").held, places.share_of("a").held) == (2, 0)
    places.give_back(usage, jobs[0])
    places.give_back(other, jobs[1])
    assert (places.statistics(), places.held) == ((0, 0), 0)


def test_one_network_has_its_share_and_several_leave_free_slots():
    for attackers in (1, 2, 5, 20):
        places = QueryQuota(1000)
        charges = [QueryUsage(places.share_of(number), 0.0) for number in range(attackers)]
        refused = 0
        while refused < attackers:
            refused = 0
            for usage in charges:
                if places.has_free_sub_slot(usage, JOSTLE):
                    places.take(usage, object())
                else:
                    refused += 1
        networks, largest = places.statistics()
        assert networks == attackers
        assert largest <= 1000 * limits.NETWORK_SHARE_TOTAL // 100 + 1
        assert places.held < 1000
        assert places.has_free_slot(places.share_of("somebody else"))


def test_running_queries_may_be_ended():
    places = QueryQuota(1000)
    share = places.share_of("x")
    while places.has_free_slot(share):
        places.take(QueryUsage(share, 0.0), object())
        share = places.share_of("x")
    assert places.held >= 900 * limits.NETWORK_SHARE_NEW // 100
    assert places.has_free_sub_slot(QueryUsage(share, 0.0), JOSTLE)


@pytest.mark.parametrize("seed", range(20))
def test_counts_follow_every_step(seed):
    rng = random.Random(seed)
    places = QueryQuota(50)
    running: list[tuple[QueryUsage, object]] = []
    for _ in range(500):
        step = rng.random()
        if step < 0.4:
            share = places.share_of(rng.choice([None, "a", "b", "c"]))
            if places.has_free_slot(share):
                usage, job = QueryUsage(share, 0.0), object()
                places.take(usage, job)
                running.append((usage, job))
        elif step < 0.6 and running:
            usage = rng.choice(running)[0]
            if places.has_free_sub_slot(usage, rng.choice([0.0, 10.0])):
                job = object()
                places.take(usage, job)
                running.append((usage, job))
        elif step < 0.7 and running:
            places.move(rng.choice(running)[0], places.share_of(rng.choice([None, "a", "b", "d"])))
        elif running:
            places.give_back(*running.pop(rng.randrange(len(running))))
        assert places.held == len(running) <= 50
        held = {}
        for usage, _job in running:
            held[usage.share.network] = held.get(usage.share.network, 0) + 1
        networks = {network: count for network, count in held.items() if network is not None}
        assert places.statistics() == (len(networks), max(networks.values(), default=0))
        for network in ("a", "b", "c", "d"):
            assert places.share_of(network).held == held.get(network, 0)
    for usage, job in running:
        places.give_back(usage, job)
    assert places.held == 0 and places.own.held == 0 and places.statistics() == (0, 0)
    assert not places._queries and not places._shares


# --- attacks ------------------------------------------------------------------------------------------------------


class World:
    """A mesh with few places, whose names say how long they take: ``slow``, ``fast``, and what each needs."""

    def __init__(self, monkeypatch, capacity=CAPACITY):
        monkeypatch.setattr(mesh_module, "resolve", self.resolve)
        self.m = build(priming=False)
        self.m.mesh._quota.capacity = capacity
        self.started = {}

    def resolve(self, task, context):
        name = names.to_text(task.question.qname)
        self.started[name] = self.started.get(name, 0) + 1
        seconds = SLOW if "slow" in name else FAST
        if not name.startswith("inner"):
            yield Pause(seconds)
            label = "inner-shared." if "shared" in name else f"inner-{name}"
            found = yield Need(Question(names.from_text(label), c.A), Purpose.NS_ADDRESS)
            if isinstance(found, Failure):
                return Outcome(task.question, c.SERVFAIL, [], [], 0, 0, failure=found)
        yield Pause(seconds)
        return Outcome(task.question, c.NOERROR, [], [], 0, 60)

    def ask(self, name, network):
        found = []
        self.m.mesh.submit(Question(names.from_text(name), c.A), on_done=found.append, query=Query(network=network))
        return found

    def run(self, seconds):
        self.m.net.sleep(self.m.mesh, seconds)

    @property
    def places(self):
        return self.m.mesh._quota


def honest_ones(world, network, count, *, prefix="fast"):
    """Questions in a row, each given its time; how many of them were answered."""
    answered = 0
    for number in range(count):
        found = world.ask(f"{prefix}-{number}.", network)
        world.run(3 * FAST + 0.1)
        answered += bool(found) and found[0].failure is None
    return answered


def test_two_attackers_do_not_exclude_an_honest_client(monkeypatch):
    world = World(monkeypatch)
    for number in range(2000):
        world.ask(f"slow-{number}.", number % 2)
    assert world.m.mesh.statistics()["refused"]
    assert honest_ones(world, "honest", 20) == 20


def test_sub_queries_of_two_attackers_do_not_exclude_an_honest_client(monkeypatch):
    # Each question alone fits; what they lead to would fill the table twice.
    world = World(monkeypatch)
    for number in range(300):
        world.ask(f"slow-{number}.", number % 2)
    world.run(SLOW + 0.1)
    assert world.m.mesh.statistics()["refused"] + world.m.mesh.statistics()["refused_sub_queries"]
    assert world.places.held < CAPACITY
    assert honest_ones(world, "honest", 20) == 20


def test_slow_queries_of_attackers_with_many_networks_are_ended(monkeypatch):
    world = World(monkeypatch)
    for number in range(3 * CAPACITY):
        world.ask(f"slow-{number}.", f"forged-{number}")
    assert world.places.held >= CAPACITY * limits.JOBS_FOR_NEW_QUERIES // 100
    assert world.ask("fast-first.", "honest")[0].failure.kind is FailureKind.OVERLOAD
    world.run(JOSTLE + 0.01)
    assert honest_ones(world, "honest", 20) == 20
    assert world.m.mesh.statistics()["evicted"]


def test_slow_queries_of_a_network_are_ended_for_its_new_ones(monkeypatch):
    world = World(monkeypatch)
    for number in range(CAPACITY):
        world.ask(f"slow-{number}.", "lan")
    fresh = world.ask("fast-first.", "lan")
    assert fresh[0].failure.kind is FailureKind.OVERLOAD
    world.run(JOSTLE + 0.01)
    assert honest_ones(world, "lan", 10) == 10
    assert world.m.mesh.statistics()["evicted"] <= 11


def test_fast_work_is_never_replaced(monkeypatch):
    world = World(monkeypatch)
    found = [world.ask(f"fast-{number}.", number) for number in range(CAPACITY // 20)]
    for number in range(3 * CAPACITY):
        world.ask(f"slow-{number}.", f"forged-{number}")
    world.run(3 * FAST + 0.01)
    assert all(outcomes and outcomes[0].failure is None for outcomes in found)
    assert world.m.mesh.statistics()["evicted"] == 0


@pytest.mark.parametrize("networks", [1, 30])
@pytest.mark.parametrize("before", [1, 60])
def test_a_network_that_joined_a_query_to_be_ended_is_charged_for_it(monkeypatch, before, networks):
    """However many clients of networks that have no free slot have joined it before."""
    world = World(monkeypatch)
    for number in range(before):
        mine = world.ask("slow-popular.", f"attacker-{number % networks}")
    joined = world.ask("slow-popular.", "honest")
    world.run(JOSTLE + 0.01)
    for number in range(2 * CAPACITY):
        world.ask(f"slow-{number}.", f"attacker-{number % networks}")
    world.run(2 * SLOW + 0.1)
    assert joined[0].failure is None and mine[0].failure is None
    assert world.started["slow-popular."] == 1


def test_a_query_that_waits_for_a_sub_query_without_slot_starts_again(monkeypatch):
    world = World(monkeypatch)
    for number in range(CAPACITY):
        world.ask(f"slow-shared-{number}.", "attacker")
    found = world.ask("fast-shared.", "honest")
    world.run(2 * SLOW + 1.0)
    assert found[0].failure is None


def test_failures_for_lack_of_slots_are_not_cached():
    com = COM_ZONE.replace("IN NS ns1.example\nexample 7200 IN NS ns2.example", "IN NS ns.example.net.")
    net = NET_ZONE + "example 60 IN NS ns.example\nns.example 60 IN A 192.0.2.77\n"
    zone = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 192.0.2.1\n"
    m = build(standard(a192_5_6_30=[("com.", com)], a192_5_6_31=[("net.", net)],
                       a192_0_2_77=[("example.net.", zone)]))
    m.mesh._quota.capacity = 1
    question = Question(names.from_text("www.example.com."), c.A)
    first = []
    m.mesh.submit(question, on_done=first.append, query=Query(network="attacker"))
    m.net.run(m.mesh, until=lambda: bool(first))
    assert first[0].failure is not None
    m.mesh._quota.capacity = 100
    again = []
    m.mesh.submit(question, on_done=again.append, query=Query(network="honest"))
    m.net.run(m.mesh, until=lambda: bool(again))
    assert again[0].failure is None
    assert m.mesh.statistics()["running"] == 0


@pytest.mark.parametrize("seed", range(10))
def test_every_slot_is_released_whatever_happens(monkeypatch, seed):
    rng = random.Random(seed)
    world = World(monkeypatch, 40)
    mesh = world.m.mesh
    outcomes, expected = [], 0
    tickets = []
    for number in range(400):
        step = rng.random()
        if step < 0.7:
            kind = rng.choice(["slow", "fast", "slow-shared", "fast-shared"])
            name = f"{kind}-{rng.randrange(60)}."
            network = rng.choice([None, "a", "b", "c", f"x{number}"])
            tickets.append(mesh.submit(Question(names.from_text(name), c.A), on_done=outcomes.append,
                                       query=Query(network=network), trace=rng.choice([None, None, None, []])))
            expected += 1
        elif step < 0.8 and tickets:
            ticket = tickets.pop(rng.randrange(len(tickets)))
            expected -= not ticket.done
            mesh.cancel(ticket)
        else:
            world.run(rng.choice([0.01, 0.1, 0.3, 2.0]))
        assert mesh._quota.held <= 40
    world.run(60.0)
    assert len(outcomes) == expected
    assert mesh.statistics()["running"] == mesh.statistics()["networks"] == 0
    assert not mesh._quota._queries and not mesh._quota.own.queries


def test_a_job_that_finds_no_memory_holds_no_slot(monkeypatch):
    class NoMemory(QueryQuota):
        def take(self, usage, job):
            super().take(usage, job)
            raise MemoryError

    world = World(monkeypatch)
    short = NoMemory(CAPACITY)
    with monkeypatch.context() as patch:
        patch.setattr(world.m.mesh, "_quota", short)
        with pytest.raises(MemoryError):
            world.ask("fast.", "x")
    assert short.held == 0 and not short._queries
    world.run(1.0)
    found = world.ask("fast.", "x")
    world.run(1.0)
    assert found[0].failure is None
