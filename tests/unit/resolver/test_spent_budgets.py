"""A query that spends its budget or its time on one zone fails alone: no failure of other zones is cached, and nothing
that others need is removed from the cache."""

import re

import pytest
from support import minet
from support.dead_servers import make_dead
from support.fakenet import Link
from support.signed_net import Crypto
from support.signing import ZoneKey, sign_zone

from resolver.effects import FailureKind, Outcome, Question
from resolver.query import Query
from resolver.settings import DnssecSettings, PolicySettings, Settings
from resolver.wire import consts as c
from resolver.wire import name as names

EVIL, VICTIM = "192.0.2.1", "192.0.2.2"
SOA = "@ 3600 SOA ns host 1 7200 3600 86400 300\n@ 3600 NS ns\n"
WRONG = 7
"""Wrong signatures beside each right one: fewer than are looked at for one set."""


def build(last: int) -> minet.Minet:
    """``a0.evil.`` is a chain of eight aliases to ``www.victim.``; the last has `last` wrong signatures."""
    root, evil, victim = ZoneKey("."), ZoneKey("evil."), ZoneKey("victim.")
    text = (
        "@ 86400 SOA a.root. nobody.root. 1 1800 900 604800 900\n@ 518400 NS a.root.\n"
        f"a.root. 518400 A {minet.ROOT_ADDRESS}\n"
    )
    for zone, key, address in (("evil.", evil, EVIL), ("victim.", victim, VICTIM)):
        text += f"{zone} 3600 NS ns.{zone}\nns.{zone} 3600 A {address}\n{zone} 3600 DS {key.ds()}\n"
    chain = "".join(f"a{number} 300 CNAME a{number + 1}\n" for number in range(7)) + "a7 300 CNAME www.victim.\n"
    lines = []
    for line in sign_zone("evil.", SOA + f"ns 3600 A {EVIL}\n" + chain, [evil]).splitlines():
        found = re.match(r"a(\d)\S*\s.*RRSIG CNAME", line)
        if found is not None:
            head, signature = line.rsplit(" ", 1)
            count = last if found[1] == "7" else WRONG
            lines += [f"{head} {'ABCDEFGHIJ'[number] * 4}{signature[4:]}" for number in range(count)]
        lines.append(line)
    hosts = SOA + f"ns 3600 A {VICTIM}\nwww 300 A 192.0.2.80\nmail 300 A 192.0.2.81\n"
    population = {
        minet.ROOT_ADDRESS: [(".", sign_zone(".", text, [root]))],
        EVIL: [("evil.", "\n".join(lines) + "\n")],
        VICTIM: [("victim.", sign_zone("victim.", hosts, [victim]))],
    }
    settings = Settings(dnssec=DnssecSettings(trust_anchors=(root.anchor(),)))
    return minet.build(population, settings=settings, crypto=Crypto())


@pytest.mark.parametrize("last", range(5))
def test_a_spent_budget_fails_no_other_clients_question(last: int) -> None:
    m = build(last)
    m.ask("a0.evil.")
    for name, address in (("www.victim.", "192.0.2.80"), ("mail.victim.", "192.0.2.81")):
        outcome = m.ask(name)
        assert outcome.failure is None, (last, name, outcome.failure)
        assert minet.addresses(outcome) == [address]


def test_the_failure_of_the_query_itself_is_cached() -> None:
    m = build(4)
    first = m.ask("a0.evil.")
    assert first.failure is not None and first.rcode == c.SERVFAIL
    before = len(m.net.log)
    again = m.ask("a0.evil.")
    assert again.failure is not None and again.failure.kind in (FailureKind.BOGUS, FailureKind.CACHED_ERROR)
    assert len(m.net.log) == before


@pytest.mark.parametrize("last", range(5))
def test_a_query_without_checks_left_removes_no_answers_of_others(last: int) -> None:
    m = build(last)
    m.ask("www.victim.", cd=True)
    m.ask("a0.evil.")
    m.net.hosts.clear()
    outcome = m.ask("www.victim.", cd=True)
    assert outcome.failure is None and minet.addresses(outcome) == ["192.0.2.80"]


def test_data_that_cannot_be_validated_now_stays_for_those_who_validate_it_themselves() -> None:
    m = build(0)
    m.ask("www.victim.", cd=True)
    hosts = dict(m.net.hosts)
    m.net.hosts = {VICTIM: hosts[VICTIM]}
    outcome = m.ask("www.victim.")
    assert outcome.failure is not None and outcome.failure.verdict is not None
    m.net.hosts.clear()
    assert m.ask("www.victim.", cd=True).failure is None


def test_a_delegation_is_kept_until_the_parent_replies() -> None:
    m = build(7)
    for name in ("ns.evil.", "mail.victim."):
        assert m.ask(name).failure is None
    del m.net.hosts[minet.ROOT_ADDRESS]
    first = m.ask("a0.evil.")
    assert first.failure is not None and first.failure.kind is FailureKind.BOGUS
    outcome = m.ask("www.victim.")
    assert outcome.failure is None and minet.addresses(outcome) == ["192.0.2.80"]


# --- time ------------------------------------------------------------------------------------------------------------

SLOW = "192.0.2.2"
GLUELESS = "192.0.2.9"
COM = minet.COM_ZONE + "evil 3600 NS ns.evil\nns.evil 3600 A 192.0.2.66\nother 3600 NS host.example\n"
TARGETS = ("www.example.com.", "www.other.com.")
"""A name of a zone with a lame server and a slow one, and one whose only server has its address in that zone."""


def slow_world() -> minet.Minet:
    """``a0.evil.com.`` and ``a1.evil.com.`` are aliases of `TARGETS`."""
    evil = "@ 60 SOA ns n 1 2 3 4 5\n@ 3600 NS ns\nns 3600 A 192.0.2.66\n"
    evil += "".join(f"a{number} 60 CNAME {target}\n" for number, target in enumerate(TARGETS))
    other = "@ 60 SOA ns n 1 2 3 4 5\n@ 60 NS host.example.com.\nwww 60 A 192.0.2.83\n"
    m = minet.build(
        minet.standard(
            a192_5_6_30=[("com.", COM)], a192_0_2_66=[("evil.com.", evil)], a192_0_2_9=[("other.com.", other)],
            a192_0_2_1=[("net.", minet.NET_ZONE)],
            a192_0_2_2=[("example.com.", minet.EXAMPLE_ZONE + f"host 60 A {GLUELESS}\n")],
        ),
        links={SLOW: Link(delay=0.3)},
    )
    for name in ("x1.example.com.", "x2.example.com.", "ns.evil.com."):
        m.ask(name)
    return m


@pytest.mark.parametrize("target", TARGETS)
def test_a_query_that_has_little_time_left_fails_no_other_clients_question(target: str) -> None:
    m = slow_world()
    alias = names.from_text(f"a{TARGETS.index(target)}.evil.com.")
    failed = 0
    for left in range(20, 1500, 20):  # milliseconds for the alias and its target
        found: list[Outcome] = []
        m.mesh.submit(Question(alias, c.A), query=Query(deadline=m.net.now + left / 1000), on_done=found.append)
        m.net.run(m.mesh, until=lambda found=found: bool(found))
        failed += found[0].failure is not None
        outcome = m.ask(target)
        assert outcome.failure is None, (left, outcome.failure)
        m.net.sleep(m.mesh, 301)
    assert 10 < failed < 60


@pytest.mark.parametrize(("seconds", "cached"), [(0.005, False), (0.4, False), (0.6, True), (0.0, True)])
def test_that_a_query_with_little_time_ran_out_of_it_is_not_cached(seconds: float, cached: bool) -> None:
    """It may have spent its time in hooks or on another name; 0.0 is the time of the settings."""
    m = slow_world()
    m.mesh._deadline = 1.0
    m.net.links[SLOW] = m.net.links["192.0.2.1"] = Link(loss=1.0)
    name = names.from_text("www.example.com.")
    found: list[Outcome] = []
    query = Query(deadline=m.net.monotonic() + seconds if seconds else 0.0)
    m.mesh.submit(Question(name, c.A), query=query, on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    assert found[0].failure is not None and found[0].failure.kind is FailureKind.DEADLINE
    assert (m.store.rrsets.find_failure(name, c.A, m.net.time()) is not None) is cached


@pytest.mark.parametrize("seconds", [0.4, 0.0])
def test_nor_is_it_cached_when_something_was_also_lacking_here(seconds: float) -> None:
    m = slow_world()
    m.mesh._deadline = 1.0
    m.net.links[SLOW], m.net.links["192.0.2.1"] = Link(loss=1.0), Link(local=FailureKind.LOCAL_RESOURCE)
    name = names.from_text("www.example.com.")
    found: list[Outcome] = []
    query = Query(deadline=m.net.monotonic() + seconds if seconds else 0.0)
    m.mesh.submit(Question(name, c.A), query=query, on_done=found.append)
    m.net.run(m.mesh, until=lambda: bool(found))
    assert found[0].failure is not None
    assert (m.store.rrsets.find_failure(name, c.A, m.net.time()) is not None) is (seconds == 0.0)


@pytest.mark.parametrize("dns64", [False, True])
def test_clients_that_come_one_after_the_other_do_not_start_again_for_ever(dns64: bool) -> None:
    """They join a job of another query whose time runs out. If those with little time were started again first, the
    failure would never be cached (RFC 9520 section 3.2), and each client would cost queries to the servers."""
    count = 13
    servers = [f"203.0.113.{number}" for number in range(1, count + 1)]
    glue = "".join(f"n{number}.dead 172800 A {address}\n" for number, address in enumerate(servers))
    set_of = "".join(f"172800 NS n{number}\n" for number in range(count))
    com = minet.COM_ZONE + "".join(f"dead 172800 NS n{number}.dead\n" for number in range(count)) + glue
    com += "lure 172800 NS www.dead\n"
    dead = "@ 3600 SOA n0 n 1 2 3 4 3600\n" + "".join(f"@ {line}\n" for line in set_of.splitlines())
    dead += glue.replace(".dead ", " ") + "www 30 A 192.0.2.80\n"
    settings = Settings(dnssec=DnssecSettings(trust_anchors=()), policy=PolicySettings(
        lists=(), dns64_prefix=("64:ff9b::/96",) if dns64 else ()))
    population = minet.standard(a192_5_6_30=[("com.", com)])
    population |= {address: [("dead.com.", dead)] for address in servers}
    m = minet.build(population, settings=settings)
    name = names.from_text("www.dead.com.")
    if dns64:
        m.ask("www.dead.com.", "AAAA")
        m.net.sleep(m.mesh, 40)  # the address has expired, the denial of AAAA has not
    for address in servers:
        m.net.links[address] = Link(loss=1.0)
    before = m.mesh.statistics()["jobs"]
    first = Question(name, c.AAAA) if dns64 else Question(names.from_text("www.lure.com."), c.A)
    answered: list[Outcome] = []
    m.mesh.submit(first, on_done=answered.append)
    m.net.sleep(m.mesh, 0.3)
    cached = False
    for _ in range(50):
        m.mesh.submit(Question(name, c.A), cd=not dns64, on_done=answered.append)
        m.net.sleep(m.mesh, 0.5)
        cached = cached or m.store.rrsets.find_failure(name, c.A, m.net.time()) is not None
    assert cached
    assert m.mesh.statistics()["jobs"] - before < 12


def test_a_query_with_little_time_fails_none_that_has_joined_it() -> None:
    m = slow_world()
    hasty: list[Outcome] = []
    found: list[Outcome] = []
    question = Question(names.from_text("www.example.com."), c.A)
    m.mesh.submit(question, query=Query(deadline=m.net.monotonic() + 0.1), on_done=hasty.append)
    m.mesh.submit(question, on_done=found.append)
    assert m.mesh.statistics()["joined"] == 1
    m.net.run(m.mesh, until=lambda: bool(found))
    assert hasty[0].failure is not None and hasty[0].failure.kind is FailureKind.DEADLINE
    assert minet.addresses(found[0]) == ["192.0.2.80"]


def test_the_failure_of_dead_servers_is_cached_for_their_zone_however_little_time_is_left() -> None:
    """No query has the time of their timeouts; without the cache each would wait for them (RFC 9520)."""
    m = slow_world()
    for address in ("192.0.2.1", SLOW):
        m.net.hosts.pop(address)
        make_dead(m.store.servers, (address, 53), names.from_text("example.com."), m.net.now)
    for seconds in (8.0, 2.0):
        found: list[Outcome] = []
        m.mesh.submit(Question(names.from_text("a0.evil.com."), c.A), query=Query(deadline=m.net.now + seconds),
                      on_done=found.append)
        m.net.run(m.mesh, until=lambda found=found: bool(found))
        asked = len(m.net.log)
        outcome = m.ask(TARGETS[0])
        assert outcome.failure is not None and outcome.failure.kind is FailureKind.CACHED_ERROR
        assert len(m.net.log) == asked
        m.net.sleep(m.mesh, 70)


# --- name servers without an address ---------------------------------------------------------------------------------


def glueless_world(seed: int) -> minet.Minet:
    """``a.evil.com.`` is an alias by way of the zones ``z0.evil.com.`` and ``z1.evil.com.`` to ``www.victim.net.``. Six
    of the name servers of each of the two have no address, and the answers of the others seem to be recursive ones, so
    that they are used when there are no others. The name server of the victim has no glue."""
    com = minet.COM_ZONE + (
        "evil 3600 NS ns.evil\nns.evil 3600 A 192.0.2.66\nhost 3600 NS ns0.host\nns0.host 3600 A 192.0.2.51\n"
    )
    victim = "@ 3600 SOA ns.host.com. n 1 2 3 4 300\n@ 3600 NS ns.host.com.\n"
    victim += "www 300 A 192.0.2.80\nmail 300 A 192.0.2.81\n"
    host = "@ 3600 SOA ns0 n 1 2 3 4 300\n@ 3600 NS ns0\nns0 3600 A 192.0.2.51\nns 3600 A 192.0.2.50\n"
    m = minet.build(
        minet.standard(
            a192_5_6_30=[("com.", com)], a192_5_6_31=[("net.", minet.NET_ZONE + "victim 7200 NS ns.host.com.\n")],
            a192_0_2_50=[("victim.net.", victim)], a192_0_2_51=[("host.com.", host)],
        ),
        seed=seed, do_ip6=False,
    )
    soa = ["evil.com. 60 SOA ns.evil.com. n. 1 2 3 4 60"]

    def evil(qname: str, qtype: int, packet: bytes) -> bytes:
        zone = qname.removesuffix(".evil.com.").split(".")[-1]
        if zone in ("z0", "z1"):
            below = [f"{zone}.evil.com. 60 NS n{number}.evil.com." for number in range(6)]
            glue = "ns.evil.com. 60 A 192.0.2.67"
            return minet.reply(packet, (), [f"{zone}.evil.com. 60 NS ns.evil.com.", *below], [glue], flags=0)
        if qname == "a.evil.com.":
            return minet.reply(packet, [f"{qname} 60 CNAME w.z0.evil.com."])
        return minet.reply(packet, (), soa, rcode=c.NXDOMAIN)

    def below(qname: str, qtype: int, packet: bytes) -> bytes:
        target = "w.z1.evil.com." if ".z0." in qname else "www.victim.net."
        return minet.reply(packet, [f"{qname} 60 CNAME {target}"], flags=c.RA)

    m.net.hosts["192.0.2.66"], m.net.hosts["192.0.2.67"] = minet.scripted(evil), minet.scripted(below)
    return m


@pytest.mark.parametrize("seed", range(4))
def test_a_query_that_has_looked_up_many_name_servers_in_vain_fails_no_other_clients_question(seed: int) -> None:
    m = glueless_world(seed)
    first = m.ask("a.evil.com.")
    assert first.failure is not None and "victim" in first.failure.text
    for name, address in (("www.victim.net.", "192.0.2.80"), ("mail.victim.net.", "192.0.2.81")):
        outcome = m.ask(name)
        assert outcome.failure is None, (name, outcome.failure)
        assert minet.addresses(outcome) == [address]


def test_its_own_failure_is_cached() -> None:
    m = glueless_world(1)
    m.ask("a.evil.com.")
    before = len(m.net.log)
    again = m.ask("a.evil.com.")
    assert again.failure is not None and again.failure.kind is FailureKind.CACHED_ERROR and len(m.net.log) == before
