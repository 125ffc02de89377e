"""Memory of running jobs: counted in octets, released when they end, and limited in sum.

For each way in which remote parties can make a query hold much there is a fake network: the query receives the data,
and then its next server does not answer. The counted octets are compared with the memory that the interpreter
allocated.
"""

import gc
import tracemalloc
from collections.abc import Callable, Hashable
from types import SimpleNamespace

import pytest
from support.minet import COM_ZONE, Minet, build, reply, rr, scripted, standard

from resolver import limits
from resolver import mesh as mesh_module
from resolver.effects import (
    Ask,
    Budget,
    ChildNsSets,
    Context,
    Failure,
    FailureKind,
    Need,
    Outcome,
    Pause,
    Purpose,
    Question,
    Steps,
    Task,
)
from resolver.iterate.delegation import delegations_of
from resolver.partial_response import failure_outcome
from resolver.query import Query
from resolver.resolve import resolve
from resolver.validate.anchors import Anchors
from resolver.validate.chain import Chain
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset, octets_of

EVIL = """
evil 7200 IN NS ns.evil
ns.evil 7200 IN A 192.0.2.66
dark 7200 IN NS ns.dark
ns.dark 7200 IN A 192.0.2.99
"""
MIB = 1 << 20
SILENT = names.from_text("t.dark.com.")
NOBODY = names.from_text("nobody.example.com.")
ROOMY = b"".join(bytes([len(part)]) + part for part in (b"a" * 61, b"b" * 62, b"c" * 61, b"d" * 48))
"""The labels of a name that has 254 octets with another one before it, and ``evil.com.`` after it."""


def with_many_sets(packet: bytes, count: int) -> bytes:
    """A reply with an alias to a dead zone and `count` NSEC records, their long names compressed to a few octets."""
    query = MessageView.parse(packet)
    assert query.qname is not None
    wire = bytearray(packet[:2] + (c.QR | c.AA).to_bytes(2, "big") + b"\0\1\0\1" + count.to_bytes(2, "big") + b"\0\0")
    wire += query.qname + query.qtype.to_bytes(2, "big") + b"\0\1"
    wire += b"\xc0\x0c\0\5\0\1\0\0\1\x2c" + len(SILENT).to_bytes(2, "big") + SILENT
    at = len(wire) + 4
    for number in range(count):
        suffix = (0xC000 | at).to_bytes(2, "big") if number else ROOMY + names.from_text("evil.com.")
        wire += b"\3%03x" % number + suffix + b"\0\x2f\0\1\0\0\1\x2c\0\4\0\0\1\x40"
    return bytes(wire)


def proofs(m: Minet, number: int) -> str:
    """A large reply, of which all is shown in the answer that never comes."""
    m.net.hosts["192.0.2.66"] = scripted(lambda _qname, _qtype, packet: with_many_sets(packet, 2000))
    return f"x{number}.evil.com."


def cached(m: Minet, number: int) -> str:
    """Aliases with many signatures, which the cache has: they cost no packet."""
    key = b"\0\5\x0d\2\0\0\1\x2c\x70\0\0\0\x60\0\0\0\0\1\4evil\3com\0"
    sigs = [key + bytes([n]) * 180 for n in range(100)]
    targets = [f"{number}.a{n}.evil.com." for n in range(8)]
    for owner, target in zip(targets, [*targets[1:], f"{number}.dark.com."], strict=True):
        m.store.rrsets.put(RRset(names.from_text(owner), c.CNAME, 3600, [names.from_text(target)], sigs=sigs,
                                 trust=Trust.ANSWER), m.net.time())
    return targets[0]


def told(m: Minet, number: int) -> str:
    """Zones that say of themselves that they have very many name servers."""
    def evil(qname: str, _qtype: int, packet: bytes) -> bytes | None:
        first, _, zone = qname.partition(".")
        if first.startswith("a"):
            many = [bytes([6]) + b"%06d" % n + ROOMY[:125] + b"\0" for n in range(200)]
            ns = RRset(names.from_text(zone), c.NS, 300, many)
            return reply(packet, [], [rr(f"{zone} 300 SOA a. b. 1 2 3 4 5"), ns])
        if first.startswith("b"):
            return reply(packet, [], [f"{qname} 300 NS ns.{qname}"], [f"ns.{qname} 300 A 192.0.2.66"], flags=0)
        return None

    m.net.hosts["192.0.2.66"] = scripted(evil)
    return f"x.a2.b1{number}.a1{number}.evil.com."


def failed(m: Minet, number: int) -> str:
    """Name servers that all have to be looked up, and cannot be."""
    targets = [f"ns.z{number}x{n}.evil.com." for n in range(4)]

    def evil(qname: str, _qtype: int, packet: bytes) -> bytes | None:
        if qname.startswith("q"):
            return reply(packet, [], [f"{qname} 300 NS {target}" for target in targets], flags=0)
        return reply(packet, rcode=c.REFUSED) if "0.evil" in qname else None

    m.net.hosts["192.0.2.66"] = scripted(evil)
    return f"q{number}.evil.com."


def needed(m: Minet, number: int) -> str:
    """Name servers whose names are aliases with many signatures in the cache and have no address, and a dead one."""
    key = b"\0\5\x0d\2\0\0\1\x2c\x70\0\0\0\x60\0\0\0\0\1\4evil\3com\0"
    sigs = [key + bytes([n]) * 180 for n in range(200)]
    targets = [f"ns{n}.z{number}.evil.com." for n in range(4)]
    for owner in targets:
        m.store.rrsets.put(RRset(names.from_text(owner), c.CNAME, 3600, [NOBODY], sigs=sigs, trust=Trust.ANSWER),
                           m.net.time())
    targets.append(f"ns{number}.dark.com.")
    m.net.hosts["192.0.2.66"] = scripted(lambda qname, _qtype, packet: reply(
        packet, [], [f"{qname} 300 NS {target}" for target in targets], flags=0))
    return f"q{number}.evil.com."


WAYS: list[Callable[[Minet, int], str]] = [proofs, cached, told, failed, needed]


def world() -> Minet:
    m = build(standard(a192_5_6_30=[("com.", COM_ZONE + EVIL)]))
    assert m.ask("nobody.example.com.").rcode == m.ask("nobody.example.com.", "AAAA").rcode == c.NXDOMAIN
    assert m.mesh._octets == 0
    return m


def submit(m: Minet, name: str, network: Hashable = None, rtype: int = c.A) -> list[Outcome]:
    found: list[Outcome] = []
    m.mesh.submit(Question(names.from_text(name), rtype), on_done=found.append, query=Query(network=network))
    return found


@pytest.mark.parametrize("way", WAYS)
def test_held_memory_is_counted_and_released(way: Callable[[Minet, int], str]) -> None:
    m = world()
    submit(m, way(m, 0))
    m.net.run(m.mesh, seconds=0.3)
    m.net.log.clear()
    gc.collect()
    asked = [way(m, number) for number in range(1, 11)]
    before = m.mesh.statistics()["memory_jobs"]
    tracemalloc.start()
    try:
        began = tracemalloc.get_traced_memory()[0]
        found = [submit(m, name) for name in asked]
        m.net.run(m.mesh, seconds=0.3)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - began
    finally:
        tracemalloc.stop()
    statistics = m.mesh.statistics()
    held = statistics["memory_jobs"] - before
    assert not any(found)
    assert grown <= held, "it is no less than what is taken"
    assert held <= (16 if way is needed else 4) * grown, "nor far more: of answers to others only the last one is kept"
    assert statistics["memory"] == statistics["memory_jobs"] + sum(table.octets for table in m.mesh.memory_tables())
    m.net.run(m.mesh, seconds=30)
    assert all(found)
    assert (m.mesh.statistics()["running"], m.mesh.statistics()["memory_jobs"], m.mesh._octets) == (0, 0, 0)


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Minet:
    """A mesh whose jobs run what is put into its `table`, by name as text."""
    table: dict[str, Callable[[Task, Context], Steps[Outcome]]] = {}
    monkeypatch.setattr(mesh_module, "resolve", lambda task, context: table[names.to_text(task.question.qname)](
        task, context))
    m = build(priming=False)
    m.table = table  # type: ignore[attr-defined]
    return m


def asks_and_waits(name: str) -> Callable[[Task, Context], Steps[Outcome]]:
    def steps(task: Task, _context: Context) -> Steps[Outcome]:
        yield Need(Question(names.from_text(name), c.A), Purpose.CLIENT)
        yield Pause(2.0)
        return Outcome(task.question, c.NOERROR, [], [], 0, 60)

    return steps


def test_results_of_sub_queries_are_counted_for_all_parents(played: Minet) -> None:
    large = RRset(names.from_text("inner."), c.TXT, 60, [b"\xff" + b"x" * 255] * 3 + [b"\1%d" % n for n in range(9)])

    def inner(task: Task, _context: Context) -> Steps[Outcome]:
        yield Pause(0.5)
        return Outcome(task.question, c.NOERROR, [large], [large], 0, 60)

    played.table.update({  # type: ignore[attr-defined]
        "inner.": inner, "one.": asks_and_waits("inner."), "two.": asks_and_waits("inner.")})
    found = [submit(played, "one."), submit(played, "two.")]
    played.net.run(played.mesh, seconds=0.4)
    assert played.mesh._octets == 0
    played.net.run(played.mesh, seconds=0.5)
    assert played.mesh._octets == 2 * octets_of([large, large])
    played.net.run(played.mesh, seconds=5)
    assert all(found) and played.mesh._octets == 0


def test_ns_sets_of_zones_are_held_until_the_query_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    m = world()
    name = told(m, 1)
    silent = m.net.hosts["192.0.2.66"]
    m.net.hosts["192.0.2.66"] = lambda packet, tcp: silent(packet, tcp) or reply(
        packet, [], ["b11.a11.evil.com. 300 SOA a. b. 1 2 3 4 5"])
    handed: list[Outcome] = []
    knows: list[ChildNsSets] = []

    def outer(task: Task, _context: Context) -> Steps[Outcome]:
        handed.append((yield Need(Question(names.from_text(name), c.A), Purpose.CLIENT)))
        knows.append(task.child_ns)
        yield Pause(2.0)
        return Outcome(task.question, c.NOERROR, [], [], 0, 60)

    monkeypatch.setattr(mesh_module, "resolve", lambda task, context: (
        resolve if task.depth else outer)(task, context))
    found: list[Outcome] = []
    job = m.mesh.submit(Question(names.from_text("outer."), c.A), on_done=found.append)._job
    m.net.run(m.mesh, seconds=1)
    assert m.mesh.statistics()["running"] == 1
    [outcome], [zones] = handed, knows
    assert len(zones) == 2
    sets = [rrset for ns, glue in zones.values() for some in ([ns], *glue.values()) for rrset in some]
    assert octets_of(sets) > 50_000
    assert m.mesh._octets == octets_of(sets) + octets_of(outcome.authority), "what else came has gone with its question"
    m.net.run(m.mesh, seconds=5)
    assert found and m.mesh._octets == 0
    assert job is not None and job.finished
    assert job.task.child_ns == {}, "a timer that still refers to the job holds no memory by it"


def test_failed_sub_queries_are_held_until_the_whole_query_ends(played: Minet) -> None:
    def inner(task: Task, _context: Context) -> Steps[Outcome]:
        yield Pause(0.5)
        return failure_outcome(task.question, Failure(FailureKind.RCODE, 0, "no"))

    def middle(task: Task, _context: Context) -> Steps[Outcome]:
        yield Need(Question(names.from_text("inner."), c.A), Purpose.CLIENT)
        return Outcome(task.question, c.NOERROR, [], [], 0, 60)

    played.table.update({  # type: ignore[attr-defined]
        "inner.": inner, "middle.": middle, "outer.": asks_and_waits("middle.")})
    found = submit(played, "outer.")
    played.net.run(played.mesh, seconds=1)
    assert played.mesh.statistics()["running"] == 1
    assert played.mesh._octets == limits.FAILED_OVERHEAD
    played.net.run(played.mesh, seconds=5)
    assert found and played.mesh._octets == 0


def test_a_cancelled_query_holds_nothing() -> None:
    m = world()
    ticket, _ = m.start(proofs(m, 1))
    m.net.run(m.mesh, seconds=1)
    assert m.mesh._octets > MIB // 2
    m.mesh.cancel(ticket)
    assert m.mesh._octets == 0
    m.start(proofs(m, 2))
    m.net.run(m.mesh, seconds=1)
    m.mesh.close()
    assert m.mesh._octets == 0


def test_the_octets_of_a_reply_cover_all_its_sections() -> None:
    packet = b"\0\1\1\0\0\1\0\0\0\0\0\0" + names.from_text("x.evil.com.") + b"\0\1\0\1"
    view = MessageView.parse(with_many_sets(packet, 100))
    sets = octets_of(view.answer) + octets_of(view.authority) + octets_of(view.additional)
    assert sets > 100 * (256 + limits.RRSET_OVERHEAD)
    assert view.octets > sets + len(view.wire)
    assert MessageView.parse(packet).octets > len(packet)
    signed = RRset(b"\1x\0", c.A, 1, [b"\1\2\3\4"], sigs=[b"\0\1" + bytes(40)])
    assert octets_of([signed]) > octets_of([signed.without_sigs()]) + 42


def test_the_queries_that_hold_most_are_ended() -> None:
    m = world()
    m.mesh._octets_limit = 4 * MIB
    light = [submit(m, f"x{n}.dark.com.", "light") for n in range(20)]
    heavy: list[list[Outcome]] = []
    most = 0
    for number in range(12):
        heavy.append(submit(m, proofs(m, number), number))
        m.net.run(m.mesh, seconds=0.2)
        most = max(most, m.mesh._octets)
    statistics = m.mesh.statistics()
    ended = [found[0] for found in heavy if found]
    assert 3 * MIB < most <= 4 * MIB
    assert statistics["ended_for_memory"] == len(ended) >= 6
    assert {outcome.failure.kind for outcome in ended if outcome.failure} == {FailureKind.OVERLOAD}
    assert {outcome.rcode for outcome in ended} == {c.SERVFAIL}
    assert not any(light), "their server may still answer"
    assert m.ask("www2.example.com.").rcode == c.NXDOMAIN
    again = submit(m, proofs(m, 0), 0)
    m.net.run(m.mesh, seconds=0.2)
    assert not again, "nothing is remembered against the name"
    m.net.run(m.mesh, seconds=30)
    assert m.mesh._octets == 0


def test_many_networks_do_not_end_the_questions_of_a_busy_one() -> None:
    """Each of them holds less than the busy one, and more with each question."""
    m = world()
    m.mesh._octets_limit = 6 * MIB
    delegations_of(m.mesh._context).fetches._least = 0  # the quota would end some of the questions first
    busy = []
    for number in range(400):
        busy.append(submit(m, cached_small(m, number), "busy"))
    m.net.run(m.mesh, seconds=0.1)
    held = m.mesh._octets
    m.net.hosts["192.0.2.66"] = scripted(lambda _qname, _qtype, packet: with_many_sets(packet, 700))
    submit(m, "x.evil.com.", "one of many")
    m.net.run(m.mesh, seconds=0.1)
    assert held > m.mesh._octets - held, "more than any of the others"
    for number in range(25):
        submit(m, f"x{number}.evil.com.", number)
        m.net.run(m.mesh, seconds=0.1)
    assert m.mesh.statistics()["ended_for_memory"] >= 5
    assert not any(busy)


def cached_small(m: Minet, number: int) -> str:
    owner = names.from_text(f"c{number}.example.com.")
    sig = b"\0\5\x0d\2\0\0\1\x2c\x70\0\0\0\x60\0\0\0\0\1\7example\3com\0" + bytes(1000)
    m.store.rrsets.put(RRset(owner, c.CNAME, 3600, [names.from_text(f"c{number}.dark.com.")], sigs=[sig],
                             trust=Trust.ANSWER), m.net.time())
    return f"c{number}.example.com."


def test_no_packet_is_sent_for_an_ended_query() -> None:
    m = world()
    m.mesh._octets_limit = 10_000
    packets = len(m.net.log)
    [outcome] = submit(m, cached(m, 1))
    assert outcome.failure is not None and outcome.failure.kind is FailureKind.OVERLOAD
    assert (len(m.net.log), m.mesh.statistics()["running"], m.mesh._octets) == (packets, 0, 0)


def test_one_network_of_many_ends_its_own_questions_first() -> None:
    """Many questions of middling size of one network do not end one of another that holds more than each of them."""
    m = world()
    m.mesh._octets_limit = 6 * MIB
    m.net.hosts["192.0.2.66"] = scripted(lambda _qname, _qtype, packet: with_many_sets(packet, 700))
    honest = submit(m, "x.evil.com.", "honest")
    m.net.run(m.mesh, seconds=0.1)
    size = m.mesh._octets
    for number in range(1, 60):
        submit(m, cached(m, number), "greedy")
        m.net.run(m.mesh, seconds=0.02)
    statistics = m.mesh.statistics()
    assert statistics["ended_for_memory"] > 1
    assert size > (m.mesh._octets - size) / (statistics["running"] - 1), "it holds more than each of the others"
    assert not honest


def test_a_query_that_waits_for_a_sub_query_of_an_ended_one_starts_it_again() -> None:
    """A sub-query that another client waits for ends with its query; that client's own work begins then."""
    m = world()

    def evil(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if qname.startswith("q"):
            return reply(packet, [], [f"{qname} 300 NS ns.shared.evil.com."], flags=0)
        return with_many_sets(packet, 1500) if qname == "ns.shared.evil.com." and qtype == c.A else None

    m.net.hosts["192.0.2.66"] = scripted(evil)
    first = submit(m, "q1.evil.com.", "first")
    m.net.run(m.mesh, seconds=0.2)
    joined = m.mesh.statistics()["joined"]
    second = submit(m, "q2.evil.com.", "second")
    m.net.run(m.mesh, seconds=0.2)
    assert m.mesh.statistics()["joined"] > joined
    m.mesh._octets_limit, packets = m.mesh._octets, len(m.net.log)
    assert m.ask("www3.example.com.").rcode == c.NXDOMAIN
    assert first and isinstance(first[0].failure, Failure) and first[0].failure.kind is FailureKind.OVERLOAD
    assert not second
    assert len(m.net.log) > packets
    m.net.run(m.mesh, seconds=30)
    assert second and m.mesh._octets == 0


def test_every_ask_has_the_budget_for_sending_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    m = world()
    asks: list[Ask] = []
    start = m.net.start
    monkeypatch.setattr(m.net, "start", lambda ask, on_reply: (asks.append(ask), start(ask, on_reply))[1])
    most = m.settings.iteration.max_upstream_queries
    m.ask("www.example.net.")
    m.ask("deep.sub.tree.example.com.")
    assert len({id(ask.budget) for ask in asks}) == 2
    assert [ask.budget.packets for ask in asks if ask.budget] == [
        most - sum(other.budget is ask.budget for other in asks) for ask in asks]


# --- what the chain of trust holds --------------------------------------------------------------------------------


def rrsig(covered: int, labels: int, signer: str) -> bytes:
    head = covered.to_bytes(2, "big") + bytes([13, labels]) + bytes(4) + b"\x7f\0\0\0" + bytes(4) + b"\0\1"
    return head + names.from_text(signer) + bytes(64)


class Held:
    """A cache that has the DS set of ``b.`` alone, with `verdict`."""

    def __init__(self, verdict: int) -> None:
        rdata = b"\0\1\x0d\2" + bytes(32)
        self.ds = RRset(b"\1b\0", c.DS, 60, [rdata], sigs=[rrsig(c.DS, 1, ".")] * 3, verdict=verdict)

    def find(self, name: bytes, rtype: int, *_args: object, **_kwargs: object) -> RRset | None:
        return self.ds if (name, rtype) == (self.ds.name, c.DS) else None


def chain_over(held: Held) -> tuple[Chain, Context, Task]:
    anchors = Anchors([". IN DS 1 13 2 " + "00" * 32])
    context = Context(SimpleNamespace(rrsets=held, denials=None), None, None)  # type: ignore[arg-type]
    return Chain(anchors, sha1=True), context, Task(Question(b"\1a\1b\0", c.A), Budget(200, 1e9))


def test_a_ds_set_from_a_referral_is_held_while_it_is_checked() -> None:
    held = Held(Verdict.INDETERMINATE)
    chain, context, task = chain_over(held)
    effect = chain._ds_of(task, context, b"\1b\0").send(None)
    assert isinstance(effect, Need)
    assert effect.question == Question(names.ROOT, c.DNSKEY)
    assert task.octets == task.budget.octets == octets_of([held.ds])


def test_the_proof_that_a_zone_is_insecure_is_held_by_the_query() -> None:
    held = Held(Verdict.SECURE)
    chain, context, task = chain_over(held)
    steps = chain.authoritative_zone(task, context, b"\1a\1b\0")
    effect = steps.send(None)
    assert isinstance(effect, Need)
    assert task.octets == task.budget.octets == octets_of([held.ds])
    proof = RRset(b"\1a\1b\0", c.NSEC, 60, [b"\1b\1b\0\0\1\x20"], sigs=[rrsig(c.NSEC, 2, "b.")], verdict=Verdict.SECURE)
    with pytest.raises(StopIteration) as end:
        steps.send(Outcome(effect.question, c.NOERROR, [], [proof], Verdict.SECURE, 60))
    assert end.value.value.verdict is Verdict.INSECURE
    assert list(task.budget.insecure) == [b"\1a\1b\0"]
    assert task.octets == octets_of([held.ds])
    assert task.budget.octets == task.octets + octets_of([proof])
