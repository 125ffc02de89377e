"""Equal queries to a server share one packet, whatever they are asked for (birthday attack, CVE-2002-2211)."""

import random
from collections import Counter
from collections.abc import Collection
from functools import partial

import pytest
from support.fakenet import Host, Link
from support.mesh_invariants import broken_invariants
from support.minet import EXAMPLE_ZONE, NET_ZONE, Minet, addresses, build, standard
from support.tailor import Tailor

from resolver import limits
from resolver.effects import FailureKind, Outcome, Question
from resolver.query import ActionKind, Applied, Query
from resolver.settings import DnssecSettings, PolicySettings, Settings, SubnetSettings
from resolver.settings.quotas import FetchLimitSettings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names

WWW = "www.example.com."
SERVERS = ("192.0.2.1", "192.0.2.2")
LOOP = "one 300 IN CNAME two.example.com.\nthree 300 IN CNAME one.net.\n"


def world(aliases: int, more: str = "", example: str = EXAMPLE_ZONE, **options) -> Minet:
    """``n0.net`` to ``n<aliases>.net`` are aliases of ``www.example.com``; all delegations are known."""
    net = NET_ZONE + more + "".join(f"n{k} 300 IN CNAME {WWW}\n" for k in range(aliases))
    m = build(standard(
        a192_5_6_31=[("net.", net)], a192_0_2_1=[("example.com.", example)], a192_0_2_2=[("example.com.", example)],
    ), **options)
    m.ask("ns1.example.com.")
    m.ask("a.gtld.net.")
    for address in SERVERS:
        m.net.links[address] = Link(delay=0.1)
    m.net.log.clear()
    count_outstanding(m)
    return m


def peak(m: Minet, name: str = WWW) -> int:
    """The most queries for `name` that were outstanding at one server at one time since `world`."""
    return max(count for (asked, _), count in m.net.peak.items() if asked == name)  # type: ignore[attr-defined]


def count_outstanding(m: Minet) -> None:
    """Let the network count, for each name and server, the most queries that are outstanding at one time."""
    start, most, pending = m.net.start, Counter(), []

    def counted(ask, on_reply):
        one = start(ask, on_reply)
        pending.append(one)
        pending[:] = [other for other in pending if not other.over]
        name, server = names.to_text(names.lower(ask.qname)), ask.server.key
        most[name, server] = max(most[name, server], sum(
            names.equal(other.ask.qname, ask.qname) and other.ask.server.key == server for other in pending))
        return one

    m.net.start, m.net.peak = counted, most  # type: ignore[method-assign,attr-defined]


def finish(m: Minet, waiting: list[list[Outcome]]) -> list[Outcome]:
    m.net.run(m.mesh, until=lambda: all(waiting))
    m.net.run(m.mesh)
    assert not broken_invariants(m.mesh)
    assert not m.mesh._queries._in_flight
    assert all(len(found) == 1 for found in waiting)
    return [found[0] for found in waiting]


def test_many_aliases_cause_one_query() -> None:
    m = world(900)  # fewer than the fetches that one zone may have
    waiting = [m.start(f"n{k}.net.")[1] for k in range(900)]
    waiting += [m.start(WWW)[1] for _ in range(10)]
    for outcome in finish(m, waiting):
        assert addresses(outcome) == ["192.0.2.80"]
        assert outcome.failure is None
    assert peak(m) == 1


def test_answers_are_those_of_a_chain_resolved_alone() -> None:
    """The data is the same whether the target was resolved inside the job of the alias or by another job."""
    m = world(20, example=EXAMPLE_ZONE + "*.wild 300 IN CNAME alias\n", more="".join(
        f"w{k} 300 IN CNAME x.wild.example.com.\nq{k} 300 IN CNAME nothing.example.com.\n" for k in range(20)))
    waiting = [m.start(f"{first}{k}.net.")[1] for first in "nwq" for k in range(20)]
    finish(m, waiting)
    for first in range(3):
        shapes = Counter()
        for found in waiting[20 * first : 20 * first + 20]:
            one = found[0]
            shapes[one.rcode, one.verdict, one.ttl, tuple((r.rtype, r.ttl, tuple(r.rdatas())) for r in one.answer),
                   tuple((r.rtype, r.ttl) for r in one.authority), one.synthesised, one.from_cache] += 1
            assert names.to_text(one.answer[0].name) == f"{'nwq'[first]}{found_at(waiting, found) % 20}.net."
        assert len(shapes) == 1, shapes
    assert waiting[40][0].rcode == c.NXDOMAIN


def found_at(waiting: list[list[Outcome]], found: list[Outcome]) -> int:
    return next(k for k, one in enumerate(waiting) if one is found)


def test_queries_without_validation_share_packets_with_others() -> None:
    """Each has its own copy of the reply: a verdict is written to the RRsets."""
    m = world(300)
    outcomes = finish(m, [m.start(f"n{k}.net.", cd=bool(k % 2))[1] for k in range(300)])
    assert peak(m) == 1
    assert len({id(rrset) for outcome in outcomes for rrset in outcome.answer}) == 600


def test_data_that_must_not_be_cached_is_shared() -> None:
    """The rest of the chain is what the other job has found, not what is in the cache afterwards."""
    m = world(300, example=EXAMPLE_ZONE.replace("www 300", "www 0"))
    for outcome in finish(m, [m.start(f"n{k}.net.")[1] for k in range(300)]):
        assert (addresses(outcome), outcome.ttl) == (["192.0.2.80"], 0)
    assert peak(m) == 1
    assert len(m.net.asked(qname=WWW)) < 10


def test_the_first_clients_go_away() -> None:
    """Neither the client whose job resolves the target nor the one that pays for the shared job ends it for others."""
    m = world(100)
    tickets = [m.start(f"n{k}.net.") for k in range(100)]
    m.net.run(m.mesh, until=lambda: len(m.net.asked(qname=WWW)) == 2)
    for ticket, _ in tickets[:2]:
        m.mesh.cancel(ticket)
    assert not broken_invariants(m.mesh)
    tickets += [m.start("n0.net."), m.start("n1.net.")]
    finish(m, [found for _, found in tickets[2:]])
    assert all(addresses(found[0]) == ["192.0.2.80"] for _, found in tickets[2:])
    assert not tickets[0][1] and not tickets[1][1]
    assert peak(m) == 1


def test_a_target_that_fails_fails_for_all_and_is_asked_no_more() -> None:
    m = world(100)
    for address in SERVERS:
        m.net.links[address] = Link(loss=1.0)
    waiting = [m.start(f"n{k}.net.")[1] for k in range(100)]
    m.net.run(m.mesh, until=lambda: all(waiting))
    outcomes = [found[0] for found in waiting]
    assert all(outcome.rcode == c.SERVFAIL for outcome in outcomes)
    assert {outcome.failure.name for outcome in outcomes} == {names.from_text(WWW)}
    asked = len(m.net.log)
    assert len(m.net.asked(qname=WWW)) < 50
    assert m.ask("n0.net.").failure.kind is FailureKind.CACHED_ERROR
    assert len(m.net.log) == asked


@pytest.mark.parametrize("times", [1, 30])
def test_a_loop_of_aliases_ends_for_all_who_are_in_it(times: int) -> None:
    """one.net, two.example.com, three.net, one.net: each name is asked for while others resolve it."""
    m = world(0, LOOP, EXAMPLE_ZONE + "two 300 IN CNAME three.net.\n")
    began = m.net.now
    waiting = [m.start(name)[1] for _ in range(times) for name in ("one.net.", "two.example.com.", "three.net.")]
    outcomes = finish(m, waiting)
    assert all(outcome.rcode == c.SERVFAIL for outcome in outcomes)
    assert {outcome.failure.kind for outcome in outcomes} <= {
        FailureKind.LAME, FailureKind.CYCLE, FailureKind.CACHED_ERROR}
    assert m.net.now - began < 2, "nobody waited for a deadline"
    later = m.ask("two.example.com.")
    assert "loop" in later.failure.text


def test_loops_with_entries_at_each_name() -> None:
    """Three loops of aliases with TTL 0; jobs in the same loop need the same names at the same time."""
    m = world(0, "".join(f"a{k} 0 IN CNAME b{k}.example.com.\ni{k} 0 IN CNAME b{k % 3}.example.com.\n"
                         f"j{k} 0 IN CNAME c{k % 3}.example.com.\n" for k in range(9)),
              EXAMPLE_ZONE + "".join(f"b{k} 0 IN CNAME a{(k + 1) % 3}.net.\nc{k} 0 IN CNAME i{k + 3}.net.\n"
                                     for k in range(3)))
    began = m.net.now
    waiting = [m.start(f"{first}{k}.net.")[1] for k in range(9) for first in "aij" if first != "a" or k < 3]
    waiting += [m.start(f"{first}{k}.example.com.")[1] for k in range(3) for first in "bc"]
    outcomes = finish(m, waiting)
    assert all(outcome.rcode == c.SERVFAIL for outcome in outcomes)
    assert m.net.now - began < 10, "nobody waited for a deadline"
    # Two where the first one was sent again with a long timeout.
    assert max(m.net.peak.values()) <= 2  # type: ignore[attr-defined]


def test_addresses_of_name_servers_behind_aliases() -> None:
    """Against RFC 2181 section 10.3, many zones have name servers whose names are aliases of one."""
    zones = range(40)
    net = "".join(f"z{k} 300 IN NS ns.y{k}.net.\nns.y{k} 300 IN CNAME {WWW}\n" for k in zones)
    m = world(0, net)
    finish(m, [m.start(f"www.z{k}.net.")[1] for k in zones] + [m.start(WWW)[1]])
    assert peak(m) == 1
    assert len(m.net.asked("192.0.2.80")) >= len(zones), "each zone has got the address of its server"


def test_dns64_is_made_for_each_question() -> None:
    """AAAA records are made for the question of each client, from packets that they share."""
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), policy=PolicySettings(dns64_prefix=("64:ff9b::/96",)))
    m = world(30, settings=settings)
    outcomes = finish(m, [m.start(f"n{k}.net.", "AAAA")[1] for k in range(30)])
    for k, outcome in enumerate(outcomes):
        assert names.to_text(outcome.answer[0].name) == f"n{k}.net."
        assert [rrset.rtype for rrset in outcome.answer] == [c.CNAME, c.AAAA]
        assert outcome.embedded == outcomes[0].embedded != ()
    assert peak(m) <= 2  # A and AAAA


def test_the_length_of_a_chain_is_limited_as_a_whole() -> None:
    """Also when a part of it was resolved by another job."""
    length = limits.MAX_ALIASES
    links = "".join(f"c{k} 0 IN CNAME c{k + 1}.example.com.\n" for k in range(0, 2 * length, 2))
    others = "".join(f"c{k} 0 IN CNAME c{k + 1}.net.\n" for k in range(1, 2 * length, 2))
    m = world(0, links, EXAMPLE_ZONE + others + f"c{2 * length} 0 IN A 192.0.2.7\n")
    for start in (length + 1, length, length - 2):  # an even number in net, an odd one in example.com
        name = f"c{start}.{'example.com' if start % 2 else 'net'}."
        waiting = [m.start(name)[1]] + [m.start(f"c{start + k}.{'example.com' if (start + k) % 2 else 'net'}.")[1]
                                        for k in range(1, 6)]
        first = finish(m, waiting)[0]
        assert first.failure is not None if 2 * length - start > length else first.failure is None, start


def test_policies_for_the_targets_of_aliases_apply() -> None:
    """A local zone behind the name that many share; it is reached by an alias for all of them."""
    policy = PolicySettings(local_zones=("local.net static",))
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), policy=policy)
    m = world(0, "".join(f"p{k} 300 IN CNAME on.example.com.\n" for k in range(50)),
              EXAMPLE_ZONE + "on 300 IN CNAME x.local.net.\n", settings=settings)
    outcomes = finish(m, [m.start(f"p{k}.net.")[1] for k in range(50)])
    assert {outcome.rcode for outcome in outcomes} == {c.NXDOMAIN}
    assert len({(outcome.ttl, outcome.verdict, len(outcome.answer)) for outcome in outcomes}) == 1
    assert peak(m, "on.example.com.") == 1


class Points:
    """Policies that refuse the question for `WWW`, but not as the target of an alias, and deny the target `denied`."""

    def __init__(self, denied: str) -> None:
        self.denied = names.from_text(denied)

    def answer(self, question: Question) -> Outcome | None:
        if not names.equal(question.qname, names.from_text(WWW)):
            return None
        return Outcome(question, c.REFUSED, [], [], Verdict.INDETERMINATE, 0)

    def answer_alias(self, question: Question, earlier: Collection[bytes] = ()) -> Outcome | None:
        if not names.equal(question.qname, self.denied):
            return None
        made = Outcome(question, c.NXDOMAIN, [], [], Verdict.INDETERMINATE, 30)
        made.applied = Applied("alias", "test", ActionKind.ANSWER, "denied")
        return made

    def changes(self, question: Question) -> bool:
        return self.answer_alias(question) is not None


def test_targets_are_for_the_policies_for_targets_and_not_those_for_questions() -> None:
    m = world(50, "".join(f"p{k} 300 IN CNAME on.example.com.\n" for k in range(50)),
              EXAMPLE_ZONE + "on 300 IN CNAME x.local.net.\n")
    m.mesh._context.policy = Points("x.local.net.")
    for outcome in finish(m, [m.start(f"n{k}.net.")[1] for k in range(50)]):
        assert addresses(outcome) == ["192.0.2.80"]
    for outcome in finish(m, [m.start(f"p{k}.net.")[1] for k in range(50)]):
        assert (outcome.rcode, outcome.ttl, outcome.verdict) == (c.NXDOMAIN, 30, Verdict.INSECURE)
        assert outcome.applied is not None and outcome.applied.reason == "denied"
        assert [names.to_text(rrset.name)[0] for rrset in outcome.answer] == ["p", "o"]
    assert m.ask(WWW).rcode == c.REFUSED


def test_clients_of_many_subnets() -> None:
    m = world(200, settings=Settings(
        dnssec=DnssecSettings(trust_anchors=()), client_subnet=SubnetSettings(zones=("example.com",))))
    tailor = Tailor()
    for address in SERVERS:
        m.net.hosts[address] = tailor.answer
    waiting: list[list[Outcome]] = []
    for k in range(200):
        found: list[Outcome] = []
        waiting.append(found)
        m.mesh.submit(Question(names.from_text(f"n{k}.net."), c.A), on_done=found.append,
                      query=Query(subnet=(bytes([198, 51, k, 0]), 24)))
    for k, outcome in enumerate(finish(m, waiting)):
        assert outcome.answer[-1].rdatas()[0][3] in (k, 250), "the answer for the client's own subnet, or for none"
    assert peak(m) <= limits.SUBNET_JOBS + 1  # and one without a subnet


def test_prefetches_of_many_aliases() -> None:
    """Each gets a new answer, from few queries, while the old one is still cached."""
    m = world(20)
    finish(m, [m.start(f"n{k}.net.")[1] for k in range(20)])
    m.net.sleep(m.mesh, 290)
    m.net.peak.clear()  # type: ignore[attr-defined]
    waiting: list[list[Outcome]] = [[] for _ in range(20)]
    for k, found in enumerate(waiting):
        assert m.mesh.refresh(Question(names.from_text(f"n{k}.net."), c.A), on_done=found.append)
    assert {outcome.ttl for outcome in finish(m, waiting)} == {300}
    assert peak(m) == 1


# --- minimised queries ----------------------------------------------------------------------------------------------


def cold() -> Minet:
    """Only the root and com. are known; the servers of com. are slow."""
    m = build(standard(), links={"192.5.6.30": Link(delay=0.1)})
    m.ask("absent.com.")
    m.net.log.clear()
    count_outstanding(m)
    return m


def test_names_below_a_zone_cut_share_minimised_queries() -> None:
    m = cold()
    outcomes = finish(m, [m.start(f"n{k}.example.com.")[1] for k in range(300)])
    assert {outcome.rcode for outcome in outcomes} == {c.NXDOMAIN}
    assert peak(m, "example.com.") == 1
    assert len(m.net.asked(qname="example.com.")) == 1


def test_a_packet_counts_once_however_many_jobs_wait_for_it() -> None:
    """A healthy server that does not reply about one name keeps its quota, and its zone, too; so its other names are
    resolved."""
    fetch_limit = FetchLimitSettings(per_zone=50, per_server=50)
    m = world(900, settings=Settings(dnssec=DnssecSettings(trust_anchors=()), fetch_limit=fetch_limit))
    for address in SERVERS:
        m.net.hosts[address] = partial(silent_about_www, m.net.hosts[address])
        m.net.links[address] = Link(delay=0.02)
    known = [m.ask(f"n{k}.net.", "CNAME") for k in range(900)]
    assert all(outcome.answer for outcome in known)
    waiting = [m.start(f"n{k}.net.")[1] for k in range(900)]
    for k in range(10):
        m.net.sleep(m.mesh, 0.25)
        found = m.start(f"other{k}.example.com.")[1]
        m.net.run(m.mesh, until=lambda found=found: bool(found))
        assert found[0].rcode == c.NXDOMAIN
    assert {found.failure.kind for found in finish(m, waiting)} == {FailureKind.UNREACHABLE}
    assert m.mesh.fetch_statistics()["quota_falls"] == 0


def silent_about_www(host: Host, packet: bytes, tcp: bool) -> bytes | None:
    return None if b"\x03www" in packet.lower() else host(packet, tcp)


def test_a_flush_of_another_name_does_not_end_the_sharing() -> None:
    m = world(300)
    waiting = [m.start(f"n{k}.net.")[1] for k in range(300)]
    m.net.sleep(m.mesh, 0.05)
    m.store.drop(names.from_text("elsewhere.org."))
    finish(m, waiting)
    assert peak(m) == 1
    assert len(m.net.asked(qname=WWW)) < 10


def test_a_packet_is_one_sample() -> None:
    """Of the round-trip time of its server, too; else who asks often decides how long others wait."""
    known = []
    for aliases in (1, 300):
        m = world(aliases)
        finish(m, [m.start(f"n{k}.net.")[1] for k in range(aliases)])
        zone, servers = names.from_text("example.com."), m.store.servers
        known.append([servers.timeout((address, 53), zone, m.net.now) for address in SERVERS if m.net.asked(address)])
    assert known[0] == known[1]


@pytest.mark.parametrize("seed", range(3))
def test_short_queries_fail_no_name_of_slow_servers(seed: int) -> None:
    """Every 10 ms an alias with less time for its target than the servers need; one client has all its time."""
    chance = random.Random(seed)
    m = world(200)
    for address in SERVERS:
        m.net.links[address] = Link(delay=0.25, jitter=0.003)
    for k in range(100):
        m.ask(f"x{k}.example.com.")  # their round-trip time is known, so there is hardly more time than they need
    for k in range(200):
        m.ask(f"n{k}.net.", "CNAME")
    found: list[Outcome] = []
    for k in range(200):
        m.mesh.submit(Question(names.from_text(f"n{k}.net."), c.A), on_done=lambda _: None,
                      query=Query(deadline=m.net.now + chance.uniform(0.4, 0.48)))
        if k == 30:
            m.mesh.submit(Question(names.from_text(WWW), c.A), on_done=found.append)
        m.net.run(m.mesh, seconds=0.01)
    m.net.run(m.mesh, until=lambda: bool(found))
    assert addresses(found[0]) == ["192.0.2.80"]
    assert m.ask(WWW).failure is None
    # What was sent by a short query is joined until its server has had its time.
    assert peak(m) <= 3 and len(m.net.asked(qname=WWW)) < 30
    assert not broken_invariants(m.mesh)


def test_no_name_fails_when_a_server_has_become_slow() -> None:
    """Aliases are queried all at once; the first tries, with the timeouts of a fast server, are too short."""
    m = world(300)
    for address in SERVERS:
        m.net.links[address] = Link(delay=0.005)
    for k in range(100):
        m.ask(f"x{k}.example.com.")
    for k in range(300):
        m.ask(f"n{k}.net.", "CNAME")
    for address in SERVERS:
        m.net.links[address] = Link(delay=0.6)
    outcomes = finish(m, [m.start(f"n{k}.net.")[1] for k in range(300)])
    assert {outcome.failure for outcome in outcomes} == {None}
    assert peak(m) == 1


def test_a_stream_of_short_queries_takes_no_time_from_longer_ones() -> None:
    """A server is slow for one name, so a client query needs a later try with a longer timeout. Others begin a first
    try whenever the packet of the one before is about to time out, and go away."""
    m = world(300)
    m.net.links.update({SERVERS[0]: Link(delay=0.005), SERVERS[1]: Link(loss=1.0)})
    for k in range(200):
        m.ask(f"x{k}.example.com.")
    for k in range(300):
        m.ask(f"n{k}.net.", "CNAME")
    send = m.net._send

    def send_slowly(pending) -> None:
        m.net.links[SERVERS[0]].delay = 0.3 if b"\x03www" in pending.query.lower() else 0.005
        send(pending)

    m.net._send = send_slowly  # type: ignore[method-assign]
    found: list[Outcome] = []
    for k in range(300):
        ticket, _ = m.start(f"n{k}.net.")
        m.start(f"y{k}.example.com.")  # its reply keeps the timeout short
        if k == 20:
            m.mesh.submit(Question(names.from_text(WWW), c.A), on_done=found.append)
            began = m.net.now
        m.net.run(m.mesh, seconds=0.02)
        m.mesh.cancel(ticket)
        m.net.run(m.mesh, seconds=0.026)
        if found:
            break
    assert addresses(found[0]) == ["192.0.2.80"]
    assert m.net.now - began < 2
    assert peak(m) <= 2
