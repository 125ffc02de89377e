"""Sub-queries are limited for each client query, whether they need packets or not, and none that failed is repeated.

Zones without glue make a tree of them: each name server of each zone is a look-up. When all delegations are cached, no
packet is needed any more, so that neither the limit of packets nor the deadline applies.
"""

from collections import Counter

import pytest
from support.dead_servers import note_timeouts
from support.fakenet import Link
from support.minet import COM_ZONE, Minet, addresses, build, reply, scripted, standard

from resolver import limits
from resolver import mesh as mesh_module
from resolver.effects import Budget, Failure, FailureKind, Need, Outcome, Pause, Purpose, Question
from resolver.settings import DnssecSettings, PolicySettings, Settings
from resolver.wire import consts as c
from resolver.wire import name as names

FEW = 200
"""Sub-queries that none of these trees needs, each name being looked up once."""


@pytest.fixture
def begun(monkeypatch) -> Counter:
    """How often each question was begun; a test that begins ever more of them fails instead of running for days."""
    count: Counter = Counter()
    real = mesh_module.resolve

    def counted(task, context):
        count[task.question.key[:2]] += 1
        if count.total() > 5 * limits.SUB_QUERIES:
            pytest.fail(f"{count.total()} questions begun")
        return real(task, context)

    monkeypatch.setattr(mesh_module, "resolve", counted)
    return count


def chain(zones: int, servers: int) -> str:
    """``z0.com`` has name servers in ``z1.com``, that one in ``z2.com`` and so on, all without addresses."""
    return COM_ZONE + "".join(
        f"z{i} 7200 IN NS n{j}.z{i + 1}.com.\n" for i in range(zones) for j in range(servers))


def assert_few(m: Minet, begun: Counter, name: str, most: int = FEW) -> None:
    outcome = m.ask(name)
    assert outcome.rcode == c.SERVFAIL
    assert begun.total() < most, begun.total()
    assert max(begun.values()) == 1, begun.most_common(3)


@pytest.mark.parametrize("servers", [1, 2, 5, 13])
def test_zones_that_need_each_other_beyond_the_depth_limit(servers: int, begun: Counter) -> None:
    m = build(standard(a192_5_6_30=[("com.", chain(12, servers))]))
    assert_few(m, begun, "www.z0.com.")
    assert len(m.net.log) < 40


@pytest.mark.parametrize("servers", [2, 13])
def test_two_zones_that_need_each_other(servers: int, begun: Counter) -> None:
    com = COM_ZONE + "".join(f"aa 7200 IN NS n{j}.bb.com.\nbb 7200 IN NS n{j}.aa.com.\n" for j in range(servers))
    assert_few(build(standard(a192_5_6_30=[("com.", com)])), begun, "www.aa.com.")


@pytest.mark.parametrize("seed", range(4))
def test_a_local_shortage_repeats_no_sub_query(seed: int, begun: Counter) -> None:
    """After one, no failure is cached for other clients: the cause may be over by then."""
    com = chain(7, 5) + "z0 7200 IN NS q.pre.com.\npre 7200 IN NS ns.pre.com.\nns.pre 7200 IN A 192.0.2.99\n"
    links = {"192.0.2.99": Link(local=FailureKind.NO_ROUTE)}
    assert_few(build(standard(a192_5_6_30=[("com.", com)]), links=links, seed=seed), begun, "www.z0.com.")


def test_the_next_client_repeats_the_sub_queries(begun: Counter) -> None:
    """The limits of one query do not apply to another."""
    m = build(standard(a192_5_6_30=[("com.", chain(12, 5))]))
    m.ask("www.z0.com.")
    before = begun.total()
    m.ask("www.z9.com.")
    assert begun.total() > before + 1


# --- limits -------------------------------------------------------------------------------------------------------


def question(text: str) -> Question:
    return Question(names.from_text(text), c.A)


def answered(asked: Question) -> Outcome:
    return Outcome(asked, c.NOERROR, [], [], 0, 60)


@pytest.fixture
def scripted_mesh(monkeypatch) -> Minet:
    """A mesh whose jobs run what is put into its `table` by name; every other name is answered at once."""
    table: dict = {}

    def fake(task, context):
        return table.get(names.to_text(task.question.qname), quick)(task, context)

    def quick(task, context):
        return answered(task.question)
        yield

    monkeypatch.setattr(mesh_module, "resolve", fake)
    m = build(priming=False)
    m.table = table  # type: ignore[attr-defined]
    return m


def test_sub_queries_are_counted(scripted_mesh: Minet) -> None:
    m, results = scripted_mesh, []

    def greedy(task, context):
        for number in range(2 * limits.SUB_QUERIES):
            results.append((yield Need(question(f"x{number}."), Purpose.CLIENT)))
            if isinstance(results[-1], Failure):
                break
        return answered(task.question)

    m.table["greedy."] = greedy  # type: ignore[attr-defined]
    m.ask("greedy.")
    assert len(results) == limits.SUB_QUERIES + 1
    assert results[-1].kind is FailureKind.BUDGET
    # The sub-queries of sub-queries are the same query's.
    m.table["deep."] = greedy  # type: ignore[attr-defined]
    results.clear()

    def outer(task, context):
        yield Need(question("deep."), Purpose.CLIENT)
        found = yield Need(question("one.more."), Purpose.CLIENT)
        assert isinstance(found, Failure) and found.kind is FailureKind.BUDGET
        return answered(task.question)

    m.table["outer."] = outer  # type: ignore[attr-defined]
    assert m.ask("outer.").failure is None
    assert len(results) == limits.SUB_QUERIES


def test_look_ups_in_the_cache_are_counted() -> None:
    budget = Budget(1, 1.0)
    taken = 0
    while budget.take_lookup():
        taken += 1
    assert taken == limits.LOOK_UPS
    assert budget.exhausted and budget.failure is not None and budget.failure.kind is FailureKind.BUDGET


def test_sub_queries_answered_from_the_cache_are_counted_too(scripted_mesh: Minet) -> None:
    m, results = scripted_mesh, []

    def cached(task, context):
        task.budget.lookups = 3
        for _ in range(5):
            results.append((yield Need(Question(names.from_text("odd."), 200), Purpose.CLIENT)))
        return answered(task.question)

    m.table["cached."] = cached  # type: ignore[attr-defined]
    m.ask("cached.")
    assert [result.kind for result in results] == [FailureKind.RCODE] * 3 + [FailureKind.BUDGET] * 2


def test_a_busy_query_yields_to_others(scripted_mesh: Minet) -> None:
    """What one makes without any packet is done in parts: between them are others' queries, timers and deadlines."""
    m = scripted_mesh

    def busy(task, context):
        for number in range(10_000):
            yield Need(question(f"x{number}."), Purpose.CLIENT)
        return answered(task.question)

    m.table["busy."] = busy  # type: ignore[attr-defined]
    _, first = m.start("busy.")
    assert not first
    assert m.mesh.tick(m.net.now) == m.net.now  # there is work: look again at once
    assert not first
    turns = 0
    while not first:
        done = m.mesh.statistics()["jobs"]
        m.mesh.tick(m.net.now)
        assert m.mesh.statistics()["jobs"] - done <= limits.STEPS_PER_TURN
        turns += 1
        assert turns < 1000
    assert turns > 1


def test_a_query_beside_a_busy_one_is_answered_before_it(scripted_mesh: Minet) -> None:
    m, order = scripted_mesh, []

    def busy(task, context):
        for number in range(limits.SUB_QUERIES):
            yield Need(question(f"{names.to_text(task.question.qname)[:-1]}-{number}."), Purpose.CLIENT)
        return answered(task.question)

    m.table["busy."] = busy  # type: ignore[attr-defined]
    for name in ("busy.", "other."):
        m.mesh.submit(question(name), on_done=lambda outcome: order.append(names.to_text(outcome.question.qname)))
    m.net.run(m.mesh, seconds=1, until=lambda: len(order) == 2)
    assert order == ["other.", "busy."]


def test_the_deadline_ends_work_without_packets(scripted_mesh: Minet) -> None:
    m, steps = scripted_mesh, []

    def endless(task, context):
        while True:
            found = yield Need(Question(names.from_text("odd."), 200), Purpose.CLIENT)
            task.budget.lookups = 100
            steps.append(found)
            if found.kind is FailureKind.DEADLINE:
                return Outcome(task.question, c.SERVFAIL, [], [], 0, 0, failure=found)
            if len(steps) > 100_000:
                pytest.fail("still in one turn")

    m.table["endless."] = endless  # type: ignore[attr-defined]
    _, found = m.start("endless.")
    assert not found
    m.net.now += 60
    m.mesh.tick(m.net.now)
    m.mesh.tick(m.net.now)
    assert found and found[0].failure is not None and found[0].failure.kind is FailureKind.DEADLINE


# --- who joins another client's sub-query -------------------------------------------------------------------------


def late_world() -> Minet:
    """``evil.com`` answers so late that its asker's time is nearly over, and sends it to look for www.example.com."""
    com = COM_ZONE + "evil 7200 IN NS slow.evil\nslow.evil 7200 IN A 192.0.2.66\n"
    m = build(standard(a192_5_6_30=[("com.", com)]))

    def evil(qname: str, qtype: int, packet: bytes) -> bytes:
        if qname.endswith("x.evil.com."):
            return reply(packet, [], ["x.evil.com. 300 NS www.example.com."], flags=0)
        return reply(packet, [], ["evil.com. 300 SOA a. b. 1 2 3 4 5"])

    m.net.hosts["192.0.2.66"] = scripted(evil)
    m.ask("www2.example.com.")
    m.net.links["192.0.2.66"] = Link(delay=7.8)
    m.net.links["192.0.2.1"] = m.net.links["192.0.2.2"] = Link(delay=0.3)
    note_timeouts(m.store.servers, ("192.0.2.66", 53), names.from_text("evil.com."), m.net.monotonic(), 5)
    return m


@pytest.mark.parametrize("clients", [1, 3])
def test_a_client_that_joins_a_sub_query_has_a_deadline_of_its_own(clients: int) -> None:
    m = late_world()
    _, slow = m.start("a.x.evil.com.")
    m.net.run(m.mesh, seconds=7.9)
    joined = m.mesh.statistics()["joined"]
    found = [m.start("www.example.com.", cd=True)[1] for _ in range(clients)]
    assert m.mesh.statistics()["joined"] == joined + clients
    m.net.run(m.mesh, seconds=8, until=lambda: all(found))
    assert slow and slow[0].failure is not None and slow[0].failure.kind is FailureKind.DEADLINE
    assert [addresses(outcomes[0]) for outcomes in found] == [["192.0.2.80"]] * clients
    assert m.mesh.statistics()["running"] == 0


def test_a_client_that_cancels_meanwhile_is_not_called() -> None:
    m = late_world()
    m.start("a.x.evil.com.")
    m.net.run(m.mesh, seconds=7.9)
    ticket, found = m.start("www.example.com.", cd=True)
    _, others = m.start("www.example.com.", cd=True)
    m.mesh.cancel(ticket)
    m.net.run(m.mesh, seconds=9)
    assert not found
    assert addresses(others[0]) == ["192.0.2.80"]


def test_joining_sub_queries_of_others_counts_as_work(scripted_mesh: Minet) -> None:
    m, results = scripted_mesh, []

    def slow(task, context):
        yield Pause(1.0)
        return answered(task.question)

    def joiner(task, context):
        task.budget.queries = 1
        for _ in range(2):
            results.append((yield Need(question("slow."), Purpose.CLIENT)))
            m.start("slow.")
        return answered(task.question)

    m.table.update({"slow.": slow, "joiner.": joiner})  # type: ignore[attr-defined]
    m.start("slow.")
    m.ask("joiner.")
    assert isinstance(results[0], Outcome)
    assert results[1].kind is FailureKind.BUDGET


def test_a_sub_query_that_its_client_had_no_time_for_is_no_failure_of_its_name() -> None:
    """DNS64 asks for A after AAAA, and the deadline is that of the first (RFC 9520)."""
    com = COM_ZONE + "slow 7200 IN NS ns.slow\nns.slow 7200 IN A 192.0.2.66\n"
    zone = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 192.0.2.66\nwww 60 IN A 192.0.2.90\n"
    policy = PolicySettings(dns64_prefix=("64:ff9b::/96",))
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), policy=policy)
    m = build(standard(a192_5_6_30=[("com.", com)], a192_0_2_66=[("slow.com.", zone)]), settings=settings)
    m.ask("nope.slow.com.")
    note_timeouts(m.store.servers, ("192.0.2.66", 53), names.from_text("slow.com."), m.net.monotonic(), 5)
    m.net.links["192.0.2.66"] = Link(delay=7.8)
    assert m.ask("www.slow.com.", "AAAA").failure is not None
    m.net.links["192.0.2.66"] = Link()
    assert addresses(m.ask("www.slow.com.")) == ["192.0.2.90"]
