"""Iteration in a fake Internet: which packets are sent to which servers, and the outcome.

Each test defines zones, submits a question, and checks the outcome and the queries that the servers received.
"""

import itertools

import pytest
from support.dead_servers import is_dead, note_timeouts
from support.fakenet import Link
from support.minet import (
    COM_ZONE,
    EXAMPLE_ZONE,
    NET_ZONE,
    ROOT_ADDRESS,
    ROOT_ZONE,
    addresses,
    build,
    reply,
    scripted,
    standard,
)

from resolver import limits
from resolver.effects import FailureKind, Question, TraceStep
from resolver.playground.authority import EdnsFault, ServerFaults
from resolver.settings import ForwardZone, Settings, StubZone, replace
from resolver.verdict import Trust
from resolver.wire import consts as c
from resolver.wire import name as names

EXAMPLE = names.from_text("example.com.")


def unvalidated(**fields):
    base = Settings()
    return replace(base, dnssec=replace(base.dnssec, trust_anchors=()), **fields)


# --- the plain way ------------------------------------------------------------------------------------------------


def test_resolution_from_the_root_takes_priming_and_one_query_per_zone():
    m = build()
    outcome = m.ask("www.example.com.")
    assert outcome.rcode == c.NOERROR
    assert addresses(outcome) == ["192.0.2.80"]
    assert outcome.ttl == 300
    assert [(a.address, a.qname, a.qtype) for a in m.net.log[:3]] == [
        (ROOT_ADDRESS, ".", c.NS), (ROOT_ADDRESS, "com.", c.A), ("192.5.6.30", "example.com.", c.A),
    ]
    assert len(m.net.log) == 4
    assert all(a.do and a.edns == 1232 and not a.rd for a in m.net.log)


def test_a_new_name_in_a_known_zone_costs_one_query():
    m = build()
    m.ask("www.example.com.")
    before = len(m.net.log)
    assert addresses(m.ask("ns1.example.com.")) == ["192.0.2.1"]
    assert len(m.net.log) == before + 1


def test_second_ask_is_answered_from_the_cache_with_a_reduced_ttl():
    m = build()
    m.ask("www.example.com.")
    before = len(m.net.log)
    m.net.sleep(m.mesh, 100)
    outcome = m.ask("www.example.com.")
    assert outcome.from_cache
    assert 198 <= outcome.ttl <= 200
    assert len(m.net.log) == before


def test_priming_can_be_switched_off():
    m = build(priming=False)
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert not m.net.asked(qtype=c.NS)


def test_after_a_failed_priming_the_hints_are_used():
    # This root answers the priming question with REFUSED only.
    m = build()
    host = m.net.hosts[ROOT_ADDRESS]
    other = build(standard(a198_41_0_4=[(".", ROOT_ZONE)]), quirks={ROOT_ADDRESS: ServerFaults(rcode=c.REFUSED)})
    refusing = other.net.hosts[ROOT_ADDRESS]
    m.net.hosts[ROOT_ADDRESS] = lambda packet, tcp: (refusing if packet[12:13] == b"\0" else host)(packet, tcp)
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]


def test_nxdomain_and_nodata_are_distinguished_and_cached():
    m = build()
    gone = m.ask("nope.example.com.")
    assert (gone.rcode, gone.answer, gone.ttl) == (c.NXDOMAIN, [], 300)
    assert [rrset.rtype for rrset in gone.authority] == [c.SOA]
    empty = m.ask("www.example.com.", "MX")
    assert (empty.rcode, empty.answer) == (c.NOERROR, [])
    before = len(m.net.log)
    assert m.ask("nope.example.com.", "TXT").rcode == c.NXDOMAIN
    assert m.ask("www.example.com.", "MX").from_cache
    assert len(m.net.log) == before


def test_a_denial_is_kept_no_longer_than_the_soa_minimum():
    m = build()
    m.ask("nope.example.com.")
    m.net.sleep(m.mesh, 301)
    before = len(m.net.log)
    assert m.ask("nope.example.com.").rcode == c.NXDOMAIN
    assert len(m.net.log) == before + 1


def test_only_a_and_aaaa_of_permitted_families_are_asked_for():
    com = COM_ZONE + "\nother 7200 IN NS ns.other.net.\n"
    net = NET_ZONE + "\nother 7200 IN NS ns.other\nns.other 7200 IN A 192.0.2.9\nns.other 7200 IN AAAA 2001:db8::9\n"
    other = "@ 60 IN SOA ns.other.net. n 1 2 3 4 5\n@ 60 IN NS ns.other.net.\n@ 60 IN A 192.0.2.99\n"
    host = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 192.0.2.9\nns 60 IN AAAA 2001:db8::9\n"
    servers = [("other.com.", other), ("other.net.", host)]
    population = standard(a192_5_6_30=[("com.", com)], a192_5_6_31=[("net.", net)], a192_0_2_9=servers)
    population["2001:db8::9"] = servers
    m = build(population, do_ip6=False)
    assert addresses(m.ask("other.com.")) == ["192.0.2.99"]
    assert not m.net.asked("2001:db8::9")
    assert not m.net.asked(qtype=c.AAAA)


# --- delegations without addresses --------------------------------------------------------------------------------


def glueless_world(**more):
    com = COM_ZONE + "\nother 7200 IN NS ns.other.net.\n"
    net = NET_ZONE + "\nother 7200 IN NS ns.other\nns.other 7200 IN A 192.0.2.9\n"
    other_com = "@ 60 IN SOA ns.other.net. n 1 2 3 4 5\n@ 60 IN NS ns.other.net.\nwww 60 IN A 192.0.2.90\n"
    other_net = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 192.0.2.9\n"
    return standard(a192_5_6_30=[("com.", com)], a192_5_6_31=[("net.", net)],
                    a192_0_2_9=[("other.com.", other_com), ("other.net.", other_net)], **more)


def test_a_name_server_without_glue_is_looked_up():
    m = build(glueless_world())
    trace: list[TraceStep] = []
    assert addresses(m.ask("www.other.com.", trace=trace)) == ["192.0.2.90"]
    assert m.net.asked("192.0.2.9", "ns.other.net.", c.A)
    assert any(step.kind == "need" and "ns.other.net." in step.text for step in trace)


@pytest.mark.parametrize("seed", range(8))
def test_a_server_found_during_an_address_lookup_is_used(seed):
    # bad.other.com has no address; on the way to learn that, the zone's other server is found.
    m = build(glueless_world(), seed=seed)
    com = COM_ZONE + "\nother 7200 IN NS bad.other.com.\nother 7200 IN NS ns.other.net.\n"
    m.net.hosts["192.5.6.30"] = build(standard(a192_5_6_30=[("com.", com)])).net.hosts["192.5.6.30"]
    assert addresses(m.ask("www.other.com.")) == ["192.0.2.90"]


@pytest.mark.parametrize("servers", [1, 5])
def test_a_chain_of_zones_that_need_each_other_ends_at_the_depth_limit(servers):
    # z0.com needs n0.z1.com which needs n0.z2.com ...: none has glue, and the last has no server at all.
    com = COM_ZONE + "".join(f"z{i} 7200 IN NS n{j}.z{i + 1}.com.\n" for i in range(40) for j in range(servers))
    m = build(standard(a192_5_6_30=[("com.", com)]))
    outcome = m.ask("www.z0.com.")
    assert outcome.rcode == c.SERVFAIL
    assert len(m.net.log) < 20 + 2 * servers
    assert m.mesh.statistics()["jobs"] < 20 * servers


# --- server behaviour ---------------------------------------------------------------------------------------------


def test_truncation_leads_to_tcp():
    m = build(quirks={"192.0.2.1": ServerFaults(truncate=True), "192.0.2.2": ServerFaults(truncate=True)})
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    last = m.net.log[-2:]
    assert [entry.tcp for entry in last] == [False, True]
    assert last[0].address == last[1].address


def test_a_server_without_tcp_is_given_up_for_another():
    m = build(quirks={"192.0.2.1": ServerFaults(truncate=True, drop_tcp=True)}, seed=3)
    for number in range(6):
        m.ask(f"x{number}.example.com.")
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert m.net.asked("192.0.2.1")


def test_tcp_only_sends_nothing_over_udp():
    m = build(tcp_only=True)
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert all(entry.tcp for entry in m.net.log)


def test_formerr_for_edns_leads_to_a_query_without_edns_and_is_remembered():
    for fault in (EdnsFault.FORMERR, EdnsFault.NOTIMP):
        quirks = ServerFaults(edns=fault)
        m = build(quirks={"192.0.2.1": quirks, "192.0.2.2": quirks})
        assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
        first, second = m.net.log[-2:]
        assert (first.edns, second.edns, first.address) == (1232, None, second.address)
        m.ask("ns1.example.com.")
        m.ask("ns2.example.com.")
        again = [entry for entry in m.net.log[-4:] if entry.address == first.address]
        assert again[-1].edns is None


def test_silence_to_edns_leads_to_a_query_without_edns():
    quirks = ServerFaults(edns=EdnsFault.DROP)
    m = build(quirks={"192.0.2.1": quirks, "192.0.2.2": quirks})
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert m.net.log[-1].edns is None


def test_a_server_that_lowers_case_is_queried_over_tcp():
    quirks = ServerFaults(lower_case=True)
    m = build(quirks={"192.0.2.1": quirks, "192.0.2.2": quirks})
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert m.net.log[-1].tcp


def test_names_are_queried_in_lower_case_for_configured_zones():
    m = build(case_randomisation_exempt=("Example.com.",), qname_minimisation=False)
    seen = []
    host = m.net.hosts["192.0.2.1"]

    def watched(packet, tcp):
        seen.append(packet)
        return host(packet, tcp)

    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = watched
    for number in range(5):
        m.ask(f"name{number}.eXample.com.")
    assert len(seen) == 5
    assert all(names.from_text("example.com.") in packet for packet in seen)
    assert m.ask("wWw.example.com.").answer[0].name == names.from_text("wWw.example.com.")


def test_a_dead_server_is_left_for_a_living_one_and_avoided_afterwards():
    m = build(links={"192.0.2.1": Link(loss=1.0)})
    for number in range(30):
        assert m.ask(f"x{number}.example.com.").rcode == c.NXDOMAIN
    dead, alive = len(m.net.asked("192.0.2.1")), len(m.net.asked("192.0.2.2"))
    assert alive >= 30
    assert dead <= 4


def test_a_server_that_pauses_is_not_marked_dead_beside_a_dead_one():
    m = build(links={"192.0.2.1": Link(loss=1.0)})
    host = m.net.hosts["192.0.2.2"]
    # Twice a second its host is busy for as long as three timeouts.
    m.net.hosts["192.0.2.2"] = lambda packet, tcp: None if m.net.now % 0.5 < 0.15 else host(packet, tcp)
    m.ask("www.example.com.")
    waiting = []
    for number in range(3000):
        question = Question(names.from_text(f"x{number}.example.com."), c.A)
        began = m.net.now
        m.mesh.submit(question, on_done=lambda outcome, began=began: waiting.append((outcome.rcode, m.net.now - began)))
        if number % 30 == 29:  # so many at once, every 150 ms
            m.net.sleep(m.mesh, 0.15)
    m.net.sleep(m.mesh, 10)
    assert len(waiting) == 3000
    assert {rcode for rcode, _ in waiting} == {c.NXDOMAIN}
    assert max(seconds for _, seconds in waiting) < 1
    assert not is_dead(m.store.servers, ("192.0.2.2", 53), EXAMPLE, m.net.now)


def test_a_question_that_is_asked_again_backs_off_though_others_are_answered():
    m = build(standard(a192_5_6_30=[("com.", COM_ZONE.replace("example 7200 IN NS ns2.example\n", ""))]))
    host, asked = m.net.hosts["192.0.2.1"], []

    def busy(packet, tcp):
        if b"slow" not in packet.lower():  # letters are mixed
            return host(packet, tcp)
        asked.append(m.net.now)
        return host(packet, tcp) if m.net.now - asked[0] > 0.3 else None

    m.net.hosts["192.0.2.1"] = busy
    m.ask("www.example.com.")
    _, slow = m.start("slow.example.com.")
    for number in range(100):
        m.start(f"x{number}.example.com.")
        m.net.sleep(m.mesh, 0.01)
    assert slow[0].rcode == c.NXDOMAIN
    gaps = [later - sooner for sooner, later in itertools.pairwise(asked)]
    assert [round(gap, 2) for gap in gaps] == [0.05, 0.1, 0.2]


def test_no_server_uses_up_the_time_that_another_needs():
    # Both count as dead, and only one of them is.
    for seed in range(1, 9):
        m = build(seed=seed)
        for address in ("192.0.2.1", "192.0.2.2"):
            note_timeouts(m.store.servers, (address, 53), EXAMPLE, m.net.now, 20)
        m.net.hosts["192.0.2.1"] = lambda packet, tcp: None
        assert m.ask("www.example.com.").rcode == c.NOERROR


def test_a_server_that_comes_back_is_noticed_beside_one_that_never_failed():
    m = build(links={"192.0.2.1": Link(loss=1.0)})
    for number in range(50):
        m.ask(f"x{number}.example.com.")
    assert is_dead(m.store.servers, ("192.0.2.1", 53), EXAMPLE, m.net.now)
    before = len(m.net.asked("192.0.2.1"))
    m.net.sleep(m.mesh, limits.SERVER_PROBE_INTERVAL)
    began = m.net.now
    assert m.ask("y1.example.com.").rcode == c.NXDOMAIN
    # The query that probes a dead server does not wait its whole timeout of twelve seconds.
    assert m.net.now - began < 0.5
    for number in range(2, 50):
        m.ask(f"y{number}.example.com.")
    assert len(m.net.asked("192.0.2.1")) == before + 1
    m.net.links["192.0.2.1"].loss = 0.0
    m.net.sleep(m.mesh, limits.SERVER_PROBE_INTERVAL)
    m.ask("z.example.com.")
    assert not is_dead(m.store.servers, ("192.0.2.1", 53), EXAMPLE, m.net.now)


@pytest.mark.parametrize("fault", ["lame", "servfail"])
@pytest.mark.parametrize("delay", [0.39, 0.5, 0.9])
def test_a_slow_server_is_waited_for_when_no_other_serves_the_zone(fault, delay):
    # A server that fails quickly cannot answer in its place.
    population = standard(a192_0_2_1=[("net.", NET_ZONE)]) if fault == "lame" else standard()
    quirks = {"192.0.2.1": ServerFaults(rcode=c.SERVFAIL)} if fault == "servfail" else {}
    m = build(population, quirks=quirks, links={"192.0.2.2": Link(delay=delay)})
    for number in range(10):
        assert m.ask(f"x{number}.example.com.").rcode == c.NXDOMAIN
        m.net.sleep(m.mesh, limits.SERVER_PROBE_INTERVAL)
    assert m.store.servers.find(("192.0.2.2", 53)).srtt == pytest.approx(delay)
    assert not is_dead(m.store.servers, ("192.0.2.2", 53), EXAMPLE, m.net.now)


def test_a_server_that_was_only_probed_is_waited_for_when_the_others_fail():
    m = build(links={"192.0.2.2": Link(delay=0.5)})
    for number in range(200):
        m.ask(f"x{number}.example.com.")
    # It answers later than the others' clients should have to wait, so it counts as dead.
    assert is_dead(m.store.servers, ("192.0.2.2", 53), EXAMPLE, m.net.now)
    m.net.sleep(m.mesh, limits.SERVER_PROBE_INTERVAL)
    asked = len(m.net.asked("192.0.2.2"))
    m.net.hosts["192.0.2.1"] = scripted(lambda qname, qtype, packet: reply(packet, rcode=c.SERVFAIL))
    assert m.ask("y.example.com.").rcode == c.NXDOMAIN
    assert len(m.net.asked("192.0.2.2")) == asked + 2, "the probe, and the query that was waited for"


def test_a_reply_to_fall_back_on_is_not_kept_waiting_by_a_silent_server():
    m = build()
    m.net.hosts["192.0.2.1"] = scripted(lambda qname, qtype, packet: reply(packet))  # no SOA, no data
    m.net.hosts["192.0.2.2"] = lambda packet, tcp: None
    note_timeouts(m.store.servers, ("192.0.2.2", 53), EXAMPLE, m.net.now, 4)
    for number in range(3):
        began = m.net.now
        assert m.ask(f"x{number}.example.com.").rcode == c.NOERROR
        assert m.net.now - began < 2
        m.net.sleep(m.mesh, limits.SERVER_PROBE_INTERVAL)


def test_dead_servers_fail_quickly_and_the_failure_is_kept():
    m = build(links={"192.0.2.1": Link(loss=1.0), "192.0.2.2": Link(loss=1.0)})
    begin = m.net.now
    outcome = m.ask("www.example.com.")
    assert outcome.rcode == c.SERVFAIL
    assert outcome.failure is not None
    assert outcome.ede[0][0] == c.EDE_NO_REACHABLE_AUTHORITY
    assert m.net.now - begin < 8.5
    before = len(m.net.log)
    again = m.ask("www.example.com.")
    assert again.failure.kind is FailureKind.CACHED_ERROR
    assert len(m.net.log) == before


def test_packet_loss_is_overcome():
    links = {address: Link(loss=0.3, jitter=0.02) for address in standard()}
    m = build(links=links, seed=6)
    for number in range(20):
        assert m.ask(f"x{number}.example.com.").rcode == c.NXDOMAIN


def test_the_faster_server_gets_most_questions():
    m = build(links={"192.0.2.1": Link(delay=0.2), "192.0.2.2": Link(delay=0.01)})
    for number in range(60):
        m.ask(f"x{number}.example.com.")
    assert len(m.net.asked("192.0.2.2")) > 4 * len(m.net.asked("192.0.2.1"))
    assert m.net.asked("192.0.2.1")


def test_servers_that_refuse_are_skipped():
    for rcode in (c.REFUSED, c.SERVFAIL, c.NOTIMP):
        m = build(quirks={"192.0.2.1": ServerFaults(rcode=rcode)}, seed=2)
        for number in range(5):
            assert m.ask(f"x{number}.example.com.").rcode == c.NXDOMAIN


def test_when_all_servers_refuse_the_outcome_says_so():
    quirks = ServerFaults(rcode=c.REFUSED)
    m = build(quirks={"192.0.2.1": quirks, "192.0.2.2": quirks})
    outcome = m.ask("www.example.com.")
    assert outcome.rcode == c.SERVFAIL
    assert outcome.failure.kind is FailureKind.RCODE
    assert "REFUSED" in outcome.failure.text


def test_a_lame_server_that_refers_upwards_is_left_and_remembered():
    times = 0
    for seed in range(6):
        m = build(seed=seed)
        m.net.hosts["192.0.2.1"] = scripted(
            lambda qname, qtype, packet: reply(packet, (), [". 3600 NS a.root-servers.net."], flags=0)
        )
        for number in range(12):
            assert m.ask(f"x{number}.example.com.").rcode == c.NXDOMAIN
        asked = len(m.net.asked("192.0.2.1"))
        assert asked <= 1
        entry = m.store.servers.zone_at(("192.0.2.1", 53), EXAMPLE, m.net.now)
        assert (entry is not None and entry.lame_until > m.net.now) is bool(asked)
        times += asked
    assert times, "no seed has asked it"


def test_loopback_servers_are_asked_only_when_permitted():
    zone = ("@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 127.0.0.10\nwww 60 IN A 192.0.2.7\n")
    com = COM_ZONE + "local 60 IN NS ns.local\nns.local 60 IN A 127.0.0.10\n"
    population = standard(a192_5_6_30=[("com.", com)], a127_0_0_10=[("local.com.", zone)])
    m = build(population)
    assert m.ask("www.local.com.").rcode == c.SERVFAIL
    assert not m.net.asked("127.0.0.10")
    assert addresses(build(population, do_not_query_localhost=False).ask("www.local.com.")) == ["192.0.2.7"]


def test_own_and_forbidden_addresses_are_never_queried():
    own = build(own=("192.0.2.1", "192.0.2.2"))
    assert own.ask("www.example.com.").rcode == c.SERVFAIL
    assert not own.net.asked("192.0.2.1") and not own.net.asked("192.0.2.2")
    forbidden = build(do_not_query_addresses=("192.0.2.0/24",))
    assert forbidden.ask("www.example.com.").rcode == c.SERVFAIL
    assert not forbidden.net.asked("192.0.2.1")


def both_families():
    """The world with IPv6 addresses of the servers of example.com. beside the IPv4 ones."""
    population = standard()
    zone = EXAMPLE_ZONE + "".join(f"ns{n} 7200 IN AAAA 2001:db8::{n}\n" for n in (1, 2))
    com = COM_ZONE + "".join(f"ns{n}.example 7200 IN AAAA 2001:db8::{n}\n" for n in (1, 2))
    com += "".join(f"z{n} 7200 IN NS ns1.example\n" for n in range(40))
    population["192.5.6.30"] = [("com.", com)]
    for address in ("192.0.2.1", "192.0.2.2"):
        population[address] = [("example.com.", zone)]
    return population


def test_dead_servers_of_a_family_without_a_route_are_not_probed_before_others():
    m = build(both_families())
    m.ask("www.example.com.")
    for number in (1, 2):
        note_timeouts(m.store.servers, (f"2001:db8::{number}", 53), EXAMPLE, m.net.now, 20)
    m.net.sleep(m.mesh, limits.SERVER_PROBE_INTERVAL + 1)
    m.mesh._context.delegations.note_no_family("2001:db8::9", m.net.now)
    before = len(m.net.log)
    for number in range(8):
        assert m.ask(f"x{number}.example.com.").rcode == c.NXDOMAIN
    assert not any(":" in entry.address for entry in m.net.log[before:])


def test_a_host_without_ipv6_soon_stops_trying_it():
    down = {f"2001:db8::{n}": Link(local=FailureKind.NO_FAMILY) for n in (1, 2)}
    m = build(both_families(), links=down)
    for number in range(100):
        assert m.ask(f"x{number}.example.com.").rcode == c.NXDOMAIN
        m.store.servers.clear()
    assert 0 < len(m.net.asked("2001:db8::1")) + len(m.net.asked("2001:db8::2")) <= 4
    m.net.sleep(m.mesh, 61)
    m.net.links.clear()
    m.net.hosts["2001:db8::1"] = m.net.hosts["2001:db8::2"] = m.net.hosts["192.0.2.1"]
    before = len(m.net.log)
    for number in range(20):
        m.ask(f"y{number}.example.com.")
        m.store.servers.clear()
    assert any(":" in entry.address for entry in m.net.log[before:])


UNRELATED = tuple(f"2001:db8:bad::{n}" for n in range(1, 9))


@pytest.mark.parametrize("link", [Link(unreachable=True), Link(local=FailureKind.NO_ROUTE)], ids=["icmp", "no route"])
@pytest.mark.parametrize("over_tcp", [False, True])
def test_addresses_in_untrusted_glue_do_not_disable_a_family(link, over_tcp):
    population = both_families()
    glue = "".join(f"evil 7200 IN NS n{n}.evil\nn{n}.evil 7200 IN AAAA {text}\n" for n, text in enumerate(UNRELATED))
    [(origin, com)] = population["192.5.6.30"]
    population["192.5.6.30"] = [(origin, com + glue)]
    for address in ("2001:db8::1", "2001:db8::2"):
        population[address] = population["192.0.2.1"]
    m = build(population, links=dict.fromkeys(UNRELATED, link), tcp_only=over_tcp)
    for number in range(8):
        assert m.ask(f"x{number}.evil.com.").rcode == c.SERVFAIL
    assert len(m.net.asked(UNRELATED[0])) >= 1
    assert m.mesh._context.delegations.family_down(m.net.now) == 0
    before = len(m.net.log)
    for number in range(40):
        assert m.ask(f"x{number}.example.com.").rcode == c.NXDOMAIN
        m.store.servers.clear()
    assert sum(":" in entry.address for entry in m.net.log[before:]) >= 8


# --- QNAME minimisation -------------------------------------------------------------------------------------------


def test_servers_get_no_more_labels_than_they_need():
    m = build()
    assert addresses(m.ask("deep.sub.tree.example.com.")) == ["192.0.2.81"]
    seen = [(entry.qname, entry.qtype) for entry in m.net.log[1:]]
    assert seen == [("com.", c.A), ("example.com.", c.A), ("tree.example.com.", c.A), ("sub.tree.example.com.", c.A),
                    ("deep.sub.tree.example.com.", c.A)]


def test_without_minimisation_all_servers_get_the_whole_name():
    m = build(qname_minimisation=False)
    assert addresses(m.ask("deep.sub.tree.example.com.")) == ["192.0.2.81"]
    assert {entry.qname for entry in m.net.log[1:]} == {"deep.sub.tree.example.com."}
    assert len(m.net.log) == 4


def test_the_type_is_hidden_until_the_last_step():
    m = build()
    m.ask("deep.sub.tree.example.com.", "TXT")
    assert [entry.qtype for entry in m.net.log[1:]] == [c.A, c.A, c.A, c.A, c.TXT]


def test_a_server_that_denies_empty_non_terminals_gets_the_whole_name():
    quirks = ServerFaults(blind_to_empty=True)
    m = build(quirks={"192.0.2.1": quirks, "192.0.2.2": quirks})
    assert addresses(m.ask("deep.sub.tree.example.com.")) == ["192.0.2.81"]
    assert [entry.qname for entry in m.net.log[-2:]] == ["tree.example.com.", "deep.sub.tree.example.com."]


def test_many_labels_do_not_mean_many_queries():
    m = build()
    m.ask(".".join(["a"] * 60) + ".example.com.")
    assert len(m.net.log) <= 12


def test_a_minimised_query_answered_by_the_cache_is_not_sent():
    m = build()
    m.ask("deep.sub.tree.example.com.")
    before = len(m.net.log)
    assert m.ask("else.sub.tree.example.com.").rcode == c.NXDOMAIN
    assert [entry.qname for entry in m.net.log[before:]] == ["else.sub.tree.example.com."]


# --- parent and child ---------------------------------------------------------------------------------------------


def test_a_question_for_ds_goes_to_the_parent():
    m = build()
    m.ask("www.example.com.")
    outcome = m.ask("example.com.", "DS")
    assert (outcome.rcode, outcome.answer) == (c.NOERROR, [])
    assert m.net.asked(qtype=c.DS)[0].address == "192.5.6.30"
    assert m.ask("com.", "DS").rcode == c.NOERROR
    assert m.net.asked(qname="com.", qtype=c.DS)[0].address == ROOT_ADDRESS


def test_a_question_for_ns_is_answered_by_the_child():
    m = build()
    outcome = m.ask("example.com.", "NS")
    assert len(outcome.answer[0]) == 2
    assert m.net.log[-1].address in ("192.0.2.1", "192.0.2.2")


def test_glue_never_answers_a_client():
    m = build()
    m.ask("www.example.com.")
    before = len(m.net.log)
    m.ask("ns1.example.com.")
    assert m.net.log[before].address in ("192.0.2.1", "192.0.2.2")


def test_a_moved_zone_is_found_again_through_its_parent():
    m = build()
    m.ask("example.com.", "NS")
    moved = EXAMPLE_ZONE.replace("192.0.2.80", "192.0.2.88")
    com = COM_ZONE.replace("192.0.2.1", "192.0.2.11").replace("192.0.2.2", "192.0.2.12").replace(
        "ns1.example", "new1.example").replace("ns2.example", "new2.example")
    after = build(standard(a192_5_6_30=[("com.", com)], a192_0_2_11=[("example.com.", moved)],
                           a192_0_2_12=[("example.com.", moved)]))
    m.net.hosts.update(after.net.hosts)
    m.net.hosts.pop("192.0.2.1")
    m.net.hosts.pop("192.0.2.2")
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.88"]


def move_example(m):
    """The zone moves to other servers, which its parent names; the old ones are switched off."""
    moved = EXAMPLE_ZONE.replace("192.0.2.80", "192.0.2.88")
    com = COM_ZONE.replace("192.0.2.1", "192.0.2.11").replace("192.0.2.2", "192.0.2.12").replace(
        "ns1.example", "new1.example").replace("ns2.example", "new2.example")
    after = build(standard(a192_5_6_30=[("com.", com)], a192_0_2_11=[("example.com.", moved)],
                           a192_0_2_12=[("example.com.", moved)]))
    m.net.hosts.update(after.net.hosts)
    m.net.hosts.pop("192.0.2.1")
    m.net.hosts.pop("192.0.2.2")


@pytest.mark.parametrize("kept", ["in memory", "in the cache", "by the child's word"])
@pytest.mark.parametrize("gone", ["silent", "REFUSED", "lame"])
def test_a_delegation_that_fails_is_asked_for_again_wherever_it_was_kept(kept, gone):
    m = build()
    m.ask("www.example.com.")
    if kept == "by the child's word":
        m.ask("example.com.", "NS")
    elif kept == "in the cache":
        m.mesh.forget()
    move_example(m)
    if gone == "REFUSED":
        host = scripted(lambda qname, qtype, packet: reply(packet, rcode=c.REFUSED, flags=0))
    else:
        host = scripted(lambda qname, qtype, packet: reply(packet, authority=[". 60 NS a.root."], flags=0))
    if gone != "silent":
        m.net.hosts.update({"192.0.2.1": host, "192.0.2.2": host})
    assert m.ask("x.example.com.").rcode == c.NXDOMAIN
    assert {entry.address for entry in m.net.asked(qname="x.example.com.")} & {"192.0.2.11", "192.0.2.12"}


def test_the_parent_of_a_dead_zone_is_not_asked_for_each_new_name():
    m = build()
    m.ask("www.example.com.")
    m.net.hosts.pop("192.0.2.1")
    m.net.hosts.pop("192.0.2.2")
    before, began = len(m.net.asked(address="192.5.6.30")), m.net.now
    for number in range(20):
        assert m.ask(f"x{number}.example.com.").rcode == c.SERVFAIL
    minutes = int((m.net.now - began) / limits.PARENT_RECHECK_INTERVAL)
    assert before < len(m.net.asked(address="192.5.6.30")) <= before + 1 + minutes < before + 5
    m.net.sleep(m.mesh, 600)
    move_example(m)
    assert m.ask("y.example.com.").rcode == c.NXDOMAIN


def test_the_zones_own_servers_come_last():
    # The parent names servers that no longer work; the zone itself names one that works.
    child = EXAMPLE_ZONE.replace("@ 7200 IN NS ns2\n", "@ 7200 IN NS ns3\nns3 7200 IN A 192.0.2.33\n")
    m = build(standard(a192_0_2_1=[("example.com.", child)], a192_0_2_2=[("example.com.", child)],
                       a192_0_2_33=[("example.com.", child)]))
    m.ask("example.com.", "NS")
    m.ask("ns3.example.com.")
    # A delegation from the parent is used as received, whatever the cache has.
    m.net.hosts.pop("192.0.2.1")
    m.net.hosts.pop("192.0.2.2")
    own = m.store.rrsets.find(names.from_text("example.com."), c.NS, m.net.time())
    m.store.rrsets.drop(names.from_text("example.com."), c.NS)
    m.mesh.forget()
    m.start("www.example.com.")
    m.net.run(m.mesh, seconds=0.015)
    assert m.store.rrsets.put(own, m.net.time())  # as if a client had asked for it meanwhile
    m.net.run(m.mesh)
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert m.net.log[-1].address == "192.0.2.33"


def test_ghost_domain_the_child_cannot_prolong_its_delegation():
    child = EXAMPLE_ZONE.replace("7200 IN NS", "500000 IN NS").replace("7200 IN A", "500000 IN A")
    m = build(standard(a192_0_2_1=[("example.com.", child)], a192_0_2_2=[("example.com.", child)]))
    m.ask("www.example.com.")
    m.net.sleep(m.mesh, 3600)
    assert m.ask("example.com.", "NS").ttl <= 3600
    assert m.ask("ns1.example.com.").ttl <= 3600
    m.net.sleep(m.mesh, 3000)
    m.ask("example.com.", "NS")
    m.store.rrsets.drop(names.from_text("example.com."), c.NS)
    m.net.sleep(m.mesh, 700)
    # The parent has taken the delegation away meanwhile.
    gone = COM_ZONE.split("example 7200")[0]
    m.net.hosts["192.5.6.30"] = build(standard(a192_5_6_30=[("com.", gone)])).net.hosts["192.5.6.30"]
    assert m.ask("x.example.com.").rcode == c.NXDOMAIN


# --- forward and stub ---------------------------------------------------------------------------------------------


FORWARDED = """
@ 60 IN SOA ns n 1 2 3 4 5
@ 60 IN NS ns
ns 60 IN A 10.0.0.53
host 60 IN A 10.1.1.1
c 60 IN CNAME host
"""


def test_a_forward_zone_is_asked_with_rd_and_without_minimisation():
    settings = unvalidated(forward=(ForwardZone("corp.example.", ("10.0.0.53",)),))
    m = build(standard(a10_0_0_53=[("corp.example.", FORWARDED)]), settings=settings)
    assert addresses(m.ask("c.corp.example.")) == ["10.1.1.1"]
    assert [(entry.address, entry.qname, entry.rd) for entry in m.net.log] == [("10.0.0.53", "c.corp.example.", True)]


def test_a_forwarder_gets_the_whole_name_however_long():
    settings = unvalidated(forward=(ForwardZone("corp.example.", ("10.0.0.53",)),))
    zone = FORWARDED + "a.b.d 60 IN A 10.1.1.2\n"
    m = build(standard(a10_0_0_53=[("corp.example.", zone)]), settings=settings)
    assert addresses(m.ask("a.b.d.corp.example.")) == ["10.1.1.2"]
    assert [entry.qname for entry in m.net.log] == ["a.b.d.corp.example."]


def test_answers_of_a_forwarder_are_accepted_only_inside_its_zone():
    zone = FORWARDED + "out 60 IN CNAME www.example.com.\n"
    evil = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns.corp.example.\nwww 60 IN A 6.6.6.6\n"
    settings = unvalidated(forward=(ForwardZone("corp.example.", ("10.0.0.53",)),))
    m = build(standard(a10_0_0_53=[("corp.example.", zone), ("example.com.", evil)]), settings=settings)
    assert addresses(m.ask("out.corp.example.")) == ["192.0.2.80"]


def test_forward_first_falls_back_to_the_tree():
    for first in (True, False):
        settings = unvalidated(forward=(ForwardZone("example.com.", ("10.0.0.53",), first),))
        m = build(settings=settings)
        outcome = m.ask("www.example.com.")
        assert addresses(outcome) == (["192.0.2.80"] if first else [])
        assert outcome.rcode == (c.NOERROR if first else c.SERVFAIL)


@pytest.mark.parametrize("forwarders", [1, 2])
def test_forward_first_falls_back_soon_while_the_forwarders_are_dead(forwarders):
    """They are asked each time, but not for as long as a server that counts as dead may need."""
    addresses_ = ("10.0.0.53", "10.0.0.54")[:forwarders]
    m = build(settings=unvalidated(forward=(ForwardZone(".", addresses_, True),)))
    for k in range(20):
        began = m.net.now
        assert m.ask(f"n{k}.example.com.").rcode == c.NXDOMAIN
        assert k < 5 or m.net.now - began < 1
        assert m.net.asked(addresses_[0])


@pytest.mark.parametrize("known", [False, True])
def test_a_slow_forwarder_is_used_and_one_that_became_slow_while_it_was_dead(known):
    """The public servers know another answer."""
    zone = EXAMPLE_ZONE.replace("192.0.2.80", "10.1.1.1") + "*.new 0 IN A 10.1.1.1\n"
    m = build(standard(a10_0_0_53=[("example.com.", zone)]),
              settings=unvalidated(forward=(ForwardZone("example.com.", ("10.0.0.53",), True),)))
    if known:
        for k in range(5):
            m.ask(f"k{k}.new.example.com.")
        m.net.links["10.0.0.53"] = Link(loss=1.0)
        for k in range(8):
            m.ask(f"d{k}.new.example.com.")
        assert is_dead(m.store.servers, ("10.0.0.53", 53), EXAMPLE, m.net.now)
    m.net.links["10.0.0.53"] = Link(delay=0.5)
    found = []
    for k in range(8):
        found.append(addresses(m.ask(f"s{k}.new.example.com.")))
        m.net.sleep(m.mesh, 20)
    assert found[4:] == [["10.1.1.1"]] * 4


def test_with_a_forwarder_for_the_root_no_other_server_is_queried():
    settings = unvalidated(forward=(ForwardZone(".", ("10.0.0.53",)),))
    m = build(standard(a10_0_0_53=[("example.com.", EXAMPLE_ZONE)]), settings=settings)
    assert addresses(m.ask("alias.example.com.")) == ["192.0.2.80"]
    assert {entry.address for entry in m.net.log} == {"10.0.0.53"}


def test_a_stub_zone_replaces_the_delegation_and_is_asked_without_rd():
    zone = EXAMPLE_ZONE.replace("192.0.2.80", "10.2.2.2")
    settings = unvalidated(stub=(StubZone("example.com.", ("10.0.0.54",)),))
    m = build(standard(a10_0_0_54=[("example.com.", zone)]), settings=settings)
    assert addresses(m.ask("www.example.com.")) == ["10.2.2.2"]
    assert [(entry.address, entry.rd) for entry in m.net.log] == [("10.0.0.54", False)]


def test_a_stub_zone_by_name_looks_its_server_up():
    zone = EXAMPLE_ZONE.replace("192.0.2.80", "10.2.2.2")
    settings = unvalidated(stub=(StubZone("corp.example.", (), ("ns1.example.com.",)),))
    corp = "@ 60 IN SOA ns1.example.com. n 1 2 3 4 5\n@ 60 IN NS ns1.example.com.\nwww 60 IN A 10.3.3.3\n"
    m = build(standard(a192_0_2_1=[("example.com.", zone), ("corp.example.", corp)]), settings=settings)
    assert addresses(m.ask("www.corp.example.")) == ["10.3.3.3"]


def test_stub_first_falls_back_to_the_delegation():
    for first in (True, False):
        settings = unvalidated(stub=(StubZone("example.com.", ("10.0.0.54",), (), first),))
        outcome = build(settings=settings).ask("www.example.com.")
        assert addresses(outcome) == (["192.0.2.80"] if first else [])


def test_an_entry_without_servers_switches_a_wider_forwarder_off():
    settings = unvalidated(forward=(ForwardZone(".", ("10.0.0.53",)), ForwardZone("example.com.", ())))
    m = build(standard(a10_0_0_53=[("net.", NET_ZONE)]), settings=settings)
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert not m.net.asked("10.0.0.53")


def test_the_parent_is_asked_for_the_address_of_a_zones_own_server_without_glue():
    m = build()
    real = m.net.hosts["192.5.6.30"]

    def com(qname, qtype, packet):
        if qname == "ns.bare.com." and qtype == c.A:
            return reply(packet, ["ns.bare.com. 60 A 192.0.2.44"], flags=0)
        if qname.endswith("bare.com."):
            return reply(packet, (), ["bare.com. 60 NS ns.bare.com."], flags=0)
        return real(packet, True)

    m.net.hosts["192.5.6.30"] = scripted(com)
    m.net.hosts["192.0.2.44"] = scripted(lambda q, t, packet: reply(packet, [f"{q} 60 A 192.0.2.45"]))
    assert addresses(m.ask("www.bare.com.")) == ["192.0.2.45"]


def test_a_reply_that_is_truncated_over_tcp_as_well_is_no_reply():
    m = build()
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(
        lambda q, t, packet: reply(packet, [f"{q} 60 A 192.0.2.45"], flags=c.AA | c.TC))
    assert m.ask("www.example.com.").rcode == c.SERVFAIL


def test_the_soa_of_a_denial_has_the_ttl_of_the_denial():
    outcome = build().ask("nope.example.com.")
    assert (outcome.ttl, outcome.authority[0].ttl) == (300, 300)


@pytest.mark.parametrize(("ttl", "minimum"), [(900, 60), (60, 900)])
def test_a_denial_holds_for_the_lesser_of_the_soas_ttl_and_minimum(ttl, minimum):
    # Many servers send the lesser as TTL already; these do not.
    m = build()
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(lambda qname, qtype, packet: reply(
        packet, (), [f"example.com. {ttl} SOA ns. n. 1 2 3 4 {minimum}"], rcode=c.NXDOMAIN
    ))
    outcome = m.ask("nope.example.com.")
    assert (outcome.ttl, outcome.authority[0].ttl) == (60, 60)
    before = len(m.net.log)
    m.net.sleep(m.mesh, 58)
    m.ask("nope.example.com.")
    assert len(m.net.log) == before
    m.net.sleep(m.mesh, 3)
    m.ask("nope.example.com.")
    assert len(m.net.log) == before + 1


def test_glue_of_the_parent_is_the_last_resort():
    # The child says that its server moved to where nothing works; the parent still knows the right address.
    net = NET_ZONE + "other 7200 IN NS ns.other\nns.other 7200 IN A 192.0.2.9\n"
    com = COM_ZONE + "other 7200 IN NS ns.other.net.\n"
    other_net = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 203.0.113.1\n"
    other_com = "@ 60 IN SOA ns.other.net. n 1 2 3 4 5\n@ 60 IN NS ns.other.net.\nwww 60 IN A 192.0.2.90\n"
    m = build(standard(a192_5_6_30=[("com.", com)], a192_5_6_31=[("net.", net)],
                       a192_0_2_9=[("other.com.", other_com), ("other.net.", other_net)]))
    assert addresses(m.ask("ns.other.net.")) == ["203.0.113.1"]
    assert addresses(m.ask("www.other.com.")) == ["192.0.2.90"]


OWN_SERVERS = ("example.com. 7200 NS ns1.example.com.", "example.com. 7200 NS ns2.example.com.")


def one_way_out(*, flags: int = c.AA, ns: tuple[str, ...] = OWN_SERVERS, glue: tuple[str, ...] = (
        "ns2.example.com. 7200 A 192.0.2.2",), **iteration):
    """The parent knows of ns1 only, which answers some names, says that there is ns2 too, and fails for the others."""
    com = COM_ZONE.replace("example 7200 IN NS ns2.example\n", "").replace("ns2.example 7200 IN A 192.0.2.2\n", "")
    m = build(standard(a192_5_6_30=[("com.", com)]), **iteration)

    def halting(qname: str, qtype: int, packet: bytes) -> bytes | None:
        if qname == "sub.example.com.":
            return reply(packet, ["sub.example.com. 300 A 192.0.2.90"], ns, glue, flags=flags)
        if qname == "alias.example.com.":
            return reply(packet, ["alias.example.com. 300 CNAME www.example.com."], ns, glue, flags=flags)
        if qname == "ns2.example.com." and not glue:
            return reply(packet, [f"{qname} 300 A 192.0.2.2"] if qtype == c.A else [])
        return reply(packet, rcode=c.SERVFAIL, flags=0)

    m.net.hosts["192.0.2.1"] = scripted(halting)
    good = EXAMPLE_ZONE + "deep.sub 300 IN A 192.0.2.91\nsub 300 IN A 192.0.2.90\n"
    m.net.hosts["192.0.2.2"] = build({"192.0.2.2": [("example.com.", good)]}).net.hosts["192.0.2.2"]
    return m


@pytest.mark.parametrize("glue", [("ns2.example.com. 7200 A 192.0.2.2",), ()], ids=["glue", "no glue"])
def test_servers_that_the_zone_named_on_the_way_are_asked_last(glue):
    """A minimised question was answered, with the zone's NS set in authority; the whole one fails everywhere else."""
    m = one_way_out(glue=glue)
    assert addresses(m.ask("deep.sub.example.com.")) == ["192.0.2.91"]
    assert len(m.net.asked("192.0.2.2", "deep.sub.example.com.")) == 1


def test_servers_that_the_zone_named_beside_an_alias_are_asked_last():
    m = one_way_out(qname_minimisation=False)
    assert addresses(m.ask("alias.example.com.")) == ["192.0.2.80"]


def test_unsolicited_records_are_used_in_the_same_resolution_only():
    m = one_way_out()
    assert addresses(m.ask("deep.sub.example.com.")) == ["192.0.2.91"]
    assert m.store.rrsets.find(names.from_text("example.com."), c.NS, m.net.time(), min_trust=Trust.AUTHORITY) is None
    assert m.ask("www.example.com.").rcode == c.SERVFAIL
    assert m.net.asked("192.0.2.2", "www.example.com.") == []


@pytest.mark.parametrize(("flags", "ns"), [
    (0, OWN_SERVERS),
    (c.AA, ("com. 7200 NS ns2.example.com.",)),
    (c.AA, ("sub.example.com. 7200 NS ns2.example.com.",)),
    (c.AA, OWN_SERVERS[:1]),
], ids=["not authoritative", "of the parent", "of a name", "the same ones"])
def test_only_ns_sets_from_servers_of_the_zone_are_used(flags, ns):
    m = one_way_out(flags=flags, ns=ns)
    assert m.ask("deep.sub.example.com.").rcode == c.SERVFAIL
    assert m.net.asked("192.0.2.2") == []
