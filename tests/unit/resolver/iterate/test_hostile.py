"""What attackers and broken zones do to a resolver, each by its name, and what must not result from it.

The servers here are scripts that answer with more records than were queried, or with others.
"""

import itertools
import struct

import pytest
from support.minet import COM_ZONE, EXAMPLE_ZONE, NET_ZONE, ROOT_ADDRESS, addresses, build, reply, scripted, standard

from resolver import limits
from resolver.effects import FailureKind
from resolver.settings import Settings
from resolver.verdict import Trust
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

VICTIM = names.from_text("www.victim.com.")


def world_with(script, **more):
    """The standard world with `script` as both servers of example.com."""
    m = build(**more)
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(script)
    return m


def known(m, name, rtype=c.A):
    return m.store.rrsets.find(names.from_text(name), rtype, m.net.time(), min_trust=Trust.NONE)


# --- poison in replies --------------------------------------------------------------------------------------------


def test_extra_records_in_answers_are_dropped():
    # Kashpureff 1997, Kaminsky 2008: every section full of things that were not asked for.
    def script(qname, qtype, packet):
        return reply(
            packet,
            [f"{qname} 60 A 192.0.2.80", "www.victim.com. 60 A 6.6.6.6", "other.example.com. 60 A 6.6.6.6"],
            ["victim.com. 60 NS ns.evil.com.", "com. 60 NS ns.evil.com.", "example.com. 60 NS ns.evil.com."],
            ["ns.evil.com. 60 A 6.6.6.6", "a.gtld.com. 60 A 6.6.6.6", "ns1.example.com. 60 A 6.6.6.6"],
        )

    m = world_with(script)
    outcome = m.ask("www.example.com.")
    assert addresses(outcome) == ["192.0.2.80"]
    assert len(outcome.answer) == 1
    for name in ("www.victim.com.", "other.example.com.", "ns.evil.com."):
        assert known(m, name) is None
    assert known(m, "victim.com.", c.NS) is None
    assert known(m, "a.gtld.com.").rdata(0) == bytes([192, 5, 6, 30])
    assert known(m, "ns1.example.com.").rdata(0) == bytes([192, 0, 2, 1])
    assert names.from_text("ns.evil.com.") not in known(m, "example.com.", c.NS).targets()
    assert names.from_text("ns.evil.com.") not in known(m, "com.", c.NS).targets()


def test_more_signatures_than_a_set_holds_are_no_internal_error():
    # 512 beside the set and one more in another section, from one of two servers: the other one is not needed.
    def record(rtype, rdata):
        return b"\xc0\x0c" + struct.pack("!HHIH", rtype, c.IN, 300, len(rdata)) + rdata

    def signature(number):
        return struct.pack("!HBBIIIHBH", c.A, 13, 3, 300, 2**31, 1, 1, 0, number)

    def host(packet, tcp):
        many = limits.RRSET_RECORDS
        answer = record(c.A, bytes((192, 0, 2, 66))) + b"".join(record(c.RRSIG, signature(n)) for n in range(many))
        end = 12 + len(MessageView.parse(packet).qname) + 4
        return (packet[:2] + struct.pack("!HHHHH", 0x8400, 1, 1 + many, 1, 0) + packet[12:end] + answer
                + record(c.RRSIG, signature(many)))

    m = build(settings=Settings())
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = host
    outcome = m.ask("www.example.com.")
    assert m.mesh.statistics()["internal_errors"] == 0
    assert outcome.failure is None or outcome.failure.kind is not FailureKind.INTERNAL


def test_glue_for_names_outside_the_referring_zone_is_ignored():
    def script(qname, qtype, packet):
        return reply(packet, (), ["sub.example.com. 60 NS www.victim.net."], ["www.victim.net. 60 A 6.6.6.6"], flags=0)

    m = world_with(script)
    m.ask("x.sub.example.com.")
    assert known(m, "www.victim.net.") is None
    assert not m.net.asked("6.6.6.6")
    soft = world_with(script, harden_glue=False)
    soft.ask("x.sub.example.com.")
    assert soft.net.asked("6.6.6.6")


def test_glue_for_names_that_are_no_name_servers_of_the_referral_is_ignored():
    def script(qname, qtype, packet):
        return reply(packet, (), ["sub.example.com. 60 NS ns.sub.example.com."],
                     ["ns.sub.example.com. 60 A 192.0.2.3", "www.example.com. 60 A 6.6.6.6"], flags=0)

    m = world_with(script)
    m.ask("x.sub.example.com.")
    assert m.net.asked("192.0.2.3")
    assert known(m, "www.example.com.") is None


def test_glue_with_unusable_addresses_is_not_queried():
    # CVE-2026-50251: 0.0.0.0 makes a resolver ask itself.
    def script(qname, qtype, packet):
        return reply(packet, (), [f"sub.example.com. 60 NS ns{n}.sub.example.com." for n in range(1)],
                     ["ns0.sub.example.com. 60 A 0.0.0.0", "ns0.sub.example.com. 60 AAAA ::",
                      "ns0.sub.example.com. 60 AAAA ff02::1"], flags=0)

    m = world_with(script)
    assert m.ask("x.sub.example.com.").rcode == c.SERVFAIL
    assert {entry.address for entry in m.net.log} <= {ROOT_ADDRESS, "192.5.6.30", "192.0.2.1", "192.0.2.2"}


def test_a_referral_sideways_or_upwards_is_not_followed():
    for owner in ("victim.com.", "com.", "."):
        def script(qname, qtype, packet, owner=owner):
            # The second one's glue is in the zone of the server: only its owner is wrong.
            return reply(packet, (), [f"{owner} 60 NS ns.evil.net.", f"{owner} 60 NS evil.example.com."],
                         ["ns.evil.net. 60 A 6.6.6.6", "evil.example.com. 60 A 6.6.6.6"], flags=0)

        m = world_with(script)
        assert m.ask("www.example.com.").rcode == c.SERVFAIL
        assert not m.net.asked("6.6.6.6")


def test_cname_targets_in_other_zones_are_queried_at_their_own_servers():
    def script(qname, qtype, packet):
        return reply(packet, [f"{qname} 60 CNAME www.example.net.", "www.example.net. 60 A 6.6.6.6"])

    net = NET_ZONE + "example 60 IN NS ns.example\nns.example 60 IN A 192.0.2.77\n"
    zone = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 192.0.2.77\nwww 60 IN A 192.0.2.78\n"
    m = build(standard(a192_5_6_31=[("net.", net)], a192_0_2_77=[("example.net.", zone)]))
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(script)
    outcome = m.ask("www.example.com.")
    assert addresses(outcome) == ["192.0.2.78"]
    assert [rrset.rtype for rrset in outcome.answer] == [c.CNAME, c.A]


def test_a_denial_by_a_server_that_only_knows_the_parent_is_lameness():
    def script(qname, qtype, packet):
        return reply(packet, (), ["com. 900 SOA a.gtld.com. n.com. 1 2 3 4 5"], rcode=c.NXDOMAIN)

    m = world_with(script)
    outcome = m.ask("www.example.com.")
    assert outcome.rcode == c.SERVFAIL
    assert outcome.failure.kind is FailureKind.LAME


def test_forged_packets_that_miss_the_id_are_ignored():
    m = build()

    def forge(ask, query):
        packets = []
        for number in range(50):
            guess = bytes([number, 255 - number]) + query[2:]
            packets.append((0.001, reply(guess, ["www.example.com. 86400 A 6.6.6.6"])))
        return packets

    m.net.forge = forge
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert m.net.ignored >= limits.UNWANTED_REPLY_THRESHOLD
    assert m.net.spoofing_suspected > 0  # too many unwanted replies: the query is repeated over TCP


def test_retries_over_tcp_after_forgeries_count_against_the_budget():
    def script(qname, qtype, packet):
        if qname == "a.b.c.d.e.f.example.com.":
            return reply(packet, [f"{qname} 60 A 192.0.2.80"])
        return reply(packet, (), ["example.com. 60 SOA ns1.example.com. n.example.com. 1 2 3 4 5"])

    for packet in (lambda query, n: bytes([n, n]) + query[2:], lambda query, _: query[:2] + b"\x80\5" + bytes(8)):
        m = world_with(script, max_upstream_queries=10)
        sent = []
        for address, host in m.net.hosts.items():
            def counted(query, tcp, host=host, sent=sent):
                sent.append(tcp)
                return host(query, tcp)

            m.net.hosts[address] = counted
        m.net.forge = lambda ask, query, packet=packet: [(0.001, packet(query, n)) for n in range(40)]
        outcome = m.ask("a.b.c.d.e.f.example.com.")
        assert outcome.failure is not None
        assert outcome.failure.kind is FailureKind.BUDGET
        assert len(sent) == 10
        assert True in sent


def test_a_forged_reply_with_the_id_but_wrong_letter_case_forces_tcp():
    m = build()

    def forge(ask, query):
        sent = MessageView.parse(query)
        lowered = query[:12] + names.lower(sent.qname) + query[12 + len(sent.qname):]
        return [(0.001, reply(lowered, [f"{names.to_text(ask.qname)} 86400 A 6.6.6.6"]))]

    m.net.forge = forge
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]
    assert any(entry.tcp for entry in m.net.log)


def test_a_reply_to_another_question_is_ignored():
    m = build()
    host = m.net.hosts["192.0.2.1"]

    def other(packet, tcp):
        return host(packet[:12] + b"\3foo" + packet[12 + 4 :], tcp) if b"\3www" in packet.lower() else host(packet, tcp)

    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = other
    assert m.ask("www.example.com.").rcode == c.SERVFAIL


# --- work without an end ------------------------------------------------------------------------------------------


def test_nxnsattack_a_referral_to_hundreds_of_unresolvable_servers_costs_little():
    def script(qname, qtype, packet):
        label = qname.split(".")[0]
        return reply(packet, (), [f"{qname} 60 NS ns{n}.{label}.victim.net." for n in range(100)], flags=0)

    net = NET_ZONE + "victim 60 IN NS ns.victim\nns.victim 60 IN A 192.0.2.99\n"
    victim = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 192.0.2.99\n"
    m = build(standard(a192_5_6_31=[("net.", net)], a192_0_2_99=[("victim.net.", victim)]))
    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(script)
    outcome = m.ask("attack.example.com.")
    assert outcome.rcode == c.SERVFAIL
    # Five names of two types, and a probe each: the attacker's packet is multiplied by little.
    assert len(m.net.asked("192.0.2.99")) <= 15
    assert len(m.net.log) < 30


def downwards():
    """Each referral leads one label further down, to servers that do the same."""
    asked = itertools.count(3)

    def script(qname, qtype, packet):
        zone = ".".join(DEEP.split(".")[-next(asked) - 1 :])
        return reply(packet, (), [f"{zone} 60 NS ns{n}.{zone}" for n in range(13)],
                     [f"ns{n}.{zone} 60 A 192.0.2.{n % 2 + 1}" for n in range(13)], flags=0)

    return script


DEEP = "a." * 100 + "example.com."


def test_one_budget_bounds_all_work_of_a_query():
    # iDNS, CVE-2014-8500: a delegation without an end.
    m = world_with(downwards(), max_upstream_queries=20, qname_minimisation=False)
    assert m.ask(DEEP).rcode == c.SERVFAIL
    assert len(m.net.log) <= 20


def test_referrals_are_counted():
    m = world_with(downwards(), qname_minimisation=False)
    assert m.ask(DEEP).rcode == c.SERVFAIL
    assert len(m.net.log) <= 70


def test_the_budget_is_shared_with_sub_queries_and_never_reset():
    # CAMP 2024: aliases, each to a name of many labels that are asked for one by one, each at two servers.
    def script(qname, qtype, packet):
        if qname.count(".") < 12:
            return reply(packet, (), ["example.com. 0 SOA ns1.example.com. n. 1 2 3 4 0"])
        number = int(qname.split(".")[0][1:]) + 1
        return reply(packet, [f"{qname} 0 CNAME c{number}.b.c.d.e.f.g.h.i.x{number}.example.com."])

    m = world_with(script, max_upstream_queries=40)
    assert m.ask("c0.b.c.d.e.f.g.h.i.x0.example.com.").rcode == c.SERVFAIL
    assert len(m.net.log) <= 40


def camp(aliases, *, hosts=6, links=12, seed=1):
    """CAMP 2024: each alias of a chain leads into the next zone, whose name servers have no glue. So many aliases lead
    to the address of each, but only the last server of a zone has one."""

    def script(qname, qtype, packet):
        labels = qname.removesuffix(".example.com.").split(".")
        if labels[-1].startswith("z"):  # a delegated zone
            below = f"h{labels[-1][1:]}.example.com."
            servers = [f"{labels[-1]}.example.com. 60 NS n{host}.{below}" for host in range(hosts)]
            return reply(packet, (), servers, flags=0)
        name, _, step = labels[0].partition("-")
        if labels[-1].startswith("h") and len(labels) == 2 and qtype == c.A:
            if name == f"n{hosts - 1}":
                return reply(packet, [f"{qname} 60 A 192.0.2.9"])
            if int(step or 0) < aliases:
                return reply(packet, [f"{qname} 60 CNAME {name}-{int(step or 0) + 1}.{labels[1]}.example.com."])
            return reply(packet, (), ["example.com. 60 SOA ns1.example.com. n. 1 2 3 4 60"], rcode=c.NXDOMAIN)
        if qtype == c.A and labels[0] == "x":
            return reply(packet, [f"{qname} 60 CNAME w.z0.example.com."])
        return reply(packet, (), ["example.com. 60 SOA ns1.example.com. n. 1 2 3 4 60"])

    def zones(qname, qtype, packet):
        number = int(qname.removesuffix(".example.com.").split(".")[-1][1:])
        if number + 1 >= links or not qname.startswith("w."):
            return reply(packet, [f"{qname} 60 A 192.0.2.80"])
        return reply(packet, [f"{qname} 60 CNAME w.z{number + 1}.example.com."])

    m = world_with(script, do_ip6=False, seed=seed)
    m.net.hosts["192.0.2.9"] = scripted(zones)
    return m


@pytest.mark.parametrize("seed", range(4))
def test_camp_name_servers_behind_chains_of_aliases_cost_little(seed):
    m = camp(8, seed=seed)
    m.ask("x.example.com.")
    assert len(m.net.log) <= 70


def test_camp_name_servers_without_address_are_counted_for_the_whole_query():
    m = camp(0)
    outcome = m.ask("x.example.com.")
    assert outcome.failure is not None
    missing = {entry.qname for entry in m.net.log if entry.qname.startswith("n") and not entry.qname.startswith("n5.")
               and entry.qname.count(".") == 4}
    assert 5 < len(missing) <= limits.MISSING_ADDRESSES_IN_ALL
    assert m.ask("w.z11.example.com.").rcode == c.NOERROR, "another query has its own count"


def server_behind(aliases):
    """``sub.com.`` has one name server, ``a0.example.com.``, whose address is behind so many aliases, each of them in a
    reply of its own."""
    com = COM_ZONE + "sub 7200 IN NS a0.example.com.\n"
    sub = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS a0.example.com.\nwww 60 IN A 192.0.2.99\n"
    m = build(standard(a192_5_6_30=[("com.", com)], a192_0_2_9=[("sub.com.", sub)]), do_ip6=False)

    def script(qname, qtype, packet):
        number = int(qname[1 : qname.index(".")])
        last = f"{qname} 60 A 192.0.2.9"
        return reply(packet, [last if number >= aliases else f"{qname} 60 CNAME a{number + 1}.example.com."])

    m.net.hosts["192.0.2.1"] = m.net.hosts["192.0.2.2"] = scripted(script)
    return m


@pytest.mark.parametrize(("aliases", "found"), [(1, True), (2, True), (3, False)])
def test_the_address_of_a_name_server_may_be_behind_two_aliases(aliases, found):
    m = server_behind(aliases)
    assert (m.ask("www.sub.com.").rcode == c.NOERROR) is found
    assert addresses(m.ask("a0.example.com.", cd=True)) == ["192.0.2.9"], "clients may follow more"
    assert addresses(m.ask("a0.example.com.")) == ["192.0.2.9"]


def test_a_client_that_waits_for_the_address_of_a_name_server_gets_its_own_answer():
    """Without validation both are one job, which follows fewer aliases than a client may."""
    m = server_behind(5)
    _, first = m.start("www.sub.com.")
    while not any(entry.qname == "a0.example.com." for entry in m.net.log):
        m.net.sleep(m.mesh, 0.005)
    _, second = m.start("a0.example.com.", cd=True)
    assert m.mesh.statistics()["joined"] == 1
    m.net.sleep(m.mesh, 5.0)
    assert first[0].rcode == c.SERVFAIL
    assert addresses(second[0]) == ["192.0.2.9"]


def test_tsuname_servers_that_need_each_other_are_a_cycle_and_cost_little():
    com = COM_ZONE + "one 7200 IN NS ns.two.net.\n"
    net = NET_ZONE + "two 7200 IN NS ns.one.com.\n"
    m = build(standard(a192_5_6_30=[("com.", com)], a192_5_6_31=[("net.", net)]))
    outcome = m.ask("www.one.com.")
    assert outcome.rcode == c.SERVFAIL
    assert m.mesh.statistics()["dependency_cycles"] >= 1
    assert len(m.net.log) < 12
    before = len(m.net.log)
    for number in range(10):
        assert m.ask(f"w{number}.one.com.").rcode == c.SERVFAIL
    assert len(m.net.log) - before <= 10


def test_a_zone_whose_only_server_lies_below_it_without_glue_fails_at_once():
    com = COM_ZONE + "self 7200 IN NS ns.self.com.\n"

    m = build(standard(a192_5_6_30=[("com.", com)]))
    outcome = m.ask("www.self.com.")
    assert outcome.rcode == c.SERVFAIL
    assert len(m.net.log) < 10


def test_non_responsive_delegation_is_given_up_after_some_packets():
    def script(qname, qtype, packet):
        return reply(packet, (), [f"sub.example.com. 60 NS ns{n}.sub.example.com." for n in range(40)],
                     [f"ns{n}.sub.example.com. 60 A 203.0.113.{n}" for n in range(40)], flags=0)

    m = world_with(script, query_timeout=60.0)  # so that it is not the time that ends it
    assert m.ask("x.sub.example.com.").rcode == c.SERVFAIL
    assert len([entry for entry in m.net.log if entry.address.startswith("203.0.113.")]) <= 24


def test_alias_loops_are_detected():
    def script(qname, qtype, packet):
        others = {"a.example.com.": "b.example.com.", "b.example.com.": "a.example.com."}
        target = others.get(qname, "self.example.com.")
        return reply(packet, [f"{qname} 60 CNAME {target}"])

    m = world_with(script)
    for name in ("a.example.com.", "self.example.com."):
        outcome = m.ask(name)
        assert outcome.rcode == c.SERVFAIL
        assert len(m.net.log) < 10


def test_the_length_of_alias_chains_is_bounded():
    def script(qname, qtype, packet):
        number = int(qname.split(".")[0][1:])
        return reply(packet, [f"{qname} 60 CNAME c{number + 1}.example.com."])

    m = world_with(script)
    assert m.ask("c0.example.com.").rcode == c.SERVFAIL
    assert len(m.net.log) < 20


def test_a_long_but_honest_alias_chain_is_followed():
    zone = EXAMPLE_ZONE + "".join(f"c{n} 60 IN CNAME c{n + 1}\n" for n in range(9)) + "c9 60 IN A 192.0.2.99\n"
    m = build(standard(a192_0_2_1=[("example.com.", zone)], a192_0_2_2=[("example.com.", zone)]))
    outcome = m.ask("c0.example.com.")
    assert addresses(outcome) == ["192.0.2.99"]
    assert len(outcome.answer) == 10


# --- odd, but alive -----------------------------------------------------------------------------------------------


def test_an_answer_without_aa_is_an_answer():
    m = world_with(lambda qname, qtype, packet: reply(packet, [f"{qname} 60 A 192.0.2.80"], flags=0))
    assert addresses(m.ask("www.example.com.")) == ["192.0.2.80"]


def test_a_reply_of_a_recursive_server_is_used_only_as_last_resort():
    m = build()
    honest = m.net.hosts["192.0.2.2"]
    m.net.hosts["192.0.2.1"] = scripted(lambda q, t, packet: reply(packet, [f"{q} 60 A 192.0.2.66"], flags=c.RA))
    for number in range(6):
        assert m.ask(f"x{number}.example.com.").rcode == c.NXDOMAIN
    assert m.net.asked("192.0.2.1")
    m.net.hosts["192.0.2.2"] = m.net.hosts["192.0.2.1"]
    assert addresses(m.ask("y.example.com.")) == ["192.0.2.66"]
    assert honest is not None


def test_an_empty_reply_counts_as_no_data_when_all_say_so():
    m = world_with(lambda qname, qtype, packet: reply(packet))
    outcome = m.ask("www.example.com.")
    assert (outcome.rcode, outcome.answer) == (c.NOERROR, [])
    assert len(m.net.asked("192.0.2.1")) == len(m.net.asked("192.0.2.2")) == 1


def test_a_referral_to_the_zone_itself_is_lame_and_the_other_server_is_asked():
    m = build(seed=2)
    m.net.hosts["192.0.2.1"] = scripted(
        lambda qname, qtype, packet: reply(packet, (), ["example.com. 60 NS ns1.example.com."], flags=0))
    for number in range(6):
        assert m.ask(f"x{number}.example.com.").rcode == c.NXDOMAIN
    assert len(m.net.asked("192.0.2.1")) == 1


def test_a_ds_query_answered_by_the_child_is_repeated_at_other_servers():
    def script(qname, qtype, packet):
        if qtype == c.DS:
            return reply(packet, (), [f"{qname} 60 SOA n.{qname} n.{qname} 1 2 3 4 5"])
        return reply(packet, (), [f"{qname} 60 NS ns.{qname}"], [f"ns.{qname} 60 A 192.0.2.3"], flags=0)

    m = build()
    m.net.hosts["192.0.2.1"] = scripted(script)
    m.net.hosts["192.0.2.2"] = scripted(lambda q, t, packet: reply(
        packet, (), ["example.com. 60 SOA ns1.example.com. n.example.com. 1 2 3 4 5"]))
    outcome = m.ask("sub.example.com.", "DS")
    assert outcome.rcode == c.NOERROR
    assert outcome.authority[0].name == names.from_text("example.com.")
