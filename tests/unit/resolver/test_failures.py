"""Each SERVFAIL has a reason: every failure, from a timeout to an internal fault, has an extended error and a text.

The failures happen in the fake network, and the real service composes the reply, so that the tests check what a client
receives (RFC 8914).
"""

import logging
from collections.abc import Callable

import pytest
from support.fakenet import Link
from support.minet import STANDARD, Minet, build, reply, scripted, standard
from support.service_parts import Parts, query

from resolver import limits
from resolver.effects import Failure, FailureKind, Outcome, Question
from resolver.settings import CacheSettings, DnssecSettings, Settings
from resolver.verdict import Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.edns import parse_ede
from resolver.wire.message import MessageView

UNSIGNED = DnssecSettings(trust_anchors=())
SERVERS = ("192.0.2.1", "192.0.2.2")


def everywhere(host: Callable[[bytes, bool], bytes | None]) -> Minet:
    """The standard network, in which the servers of example.com do what `host` does."""
    m = build()
    for address in SERVERS:
        m.net.hosts[address] = host
    return m


def answers(**fields: object) -> Outcome:
    return everywhere(scripted(lambda qname, qtype, packet: reply(packet, **fields))).ask("www.example.com.")


def silent() -> Outcome:
    return everywhere(lambda packet, tcp: None).ask("www.example.com.")


def nobody_at_all() -> Outcome:
    m = build()
    m.net.hosts.clear()
    return m.ask("www.example.com.")


def no_route() -> Outcome:
    m = build()
    for address in (*SERVERS, "198.41.0.4", "192.5.6.30"):
        m.net.links[address] = Link(unreachable=True)
    return m.ask("www.example.com.")


def rubbish() -> Outcome:
    return everywhere(lambda packet, tcp: packet[:2] + b"\x84\0\xff").ask("www.example.com.")


def truncated_for_ever() -> Outcome:
    return answers(flags=c.AA | c.TC)


def another_question() -> Outcome:
    def host(packet: bytes, tcp: bool) -> bytes:
        at = len(MessageView.parse(packet).qname or b"") + 13
        return reply(packet[:at] + bytes([c.MX]) + packet[at + 1 :])

    return everywhere(host).ask("www.example.com.")


def upward_referral() -> Outcome:
    return answers(authority=[". 60 NS a.root."], flags=0)


def no_address() -> Outcome:
    zone = STANDARD["192.5.6.30"][0][1].split("ns1.example ")[0]
    return build(standard(a192_5_6_30=[("com.", zone)])).ask("www.example.com.")


def servers_in_a_circle() -> Outcome:
    zone = STANDARD["192.5.6.30"][0][1] + "one 60 IN NS ns.two\ntwo 60 IN NS ns.one\n"
    return build(standard(a192_5_6_30=[("com.", zone)])).ask("www.one.com.")


def alias_to_itself() -> Outcome:
    return everywhere(scripted(lambda qname, qtype, packet: reply(packet, [f"{qname} 60 CNAME {qname}"]))).ask(
        "www.example.com."
    )


def aliases_without_end() -> Outcome:
    return everywhere(scripted(
        lambda qname, qtype, packet: reply(packet, [f"{qname} 60 CNAME a{len(qname)}{qname}"])
    )).ask("www.example.com.")


def out_of_time() -> Outcome:
    m = build(query_timeout=1.0)
    m.net.hosts.clear()
    return m.ask("www.example.com.")


def out_of_packets() -> Outcome:
    m = build(max_upstream_queries=limits.MAX_PACKETS.minimum)

    def endless(qname: str, qtype: int, packet: bytes) -> bytes:
        label = qname.split(".")[0]
        return reply(packet, authority=[f"{qname} 60 NS ns.{label}x.net."], flags=0)

    for address in m.net.hosts:
        m.net.hosts[address] = scripted(endless)
    return m.ask("www.example.com.")


def closing() -> Outcome:
    m = build()
    _, found = m.start("www.example.com.")
    m.mesh.close()
    return found[0]


def too_many() -> Outcome:
    m = build()
    m.mesh._quota.capacity = 0
    _, found = m.start("www.example.com.")
    return found[0]


def again() -> Outcome:
    m = everywhere(lambda packet, tcp: None)
    m.ask("www.example.com.")
    return m.ask("www.example.com.")


def fault() -> Outcome:
    m = build()

    def broken(*_: object) -> object:
        raise RuntimeError("a fault of this program")

    m.mesh._context.validator = broken
    logging.disable(logging.CRITICAL)
    try:
        return m.ask("www.example.com.")
    finally:
        logging.disable(logging.NOTSET)


def bogus() -> Outcome:
    anchor = "example.com. DS 1 13 2 " + "00" * 32
    return build(settings=Settings(dnssec=DnssecSettings(trust_anchors=(anchor,)))).ask("www.example.com.")


def bogus_again() -> Outcome:
    anchor = "example.com. DS 1 13 2 " + "00" * 32
    m = build(settings=Settings(dnssec=DnssecSettings(trust_anchors=(anchor,))))
    m.ask("www.example.com.")
    return m.ask("www.example.com.")


def another_class() -> Outcome:
    m = build()
    found: list[Outcome] = []
    m.mesh.submit(Question(names.from_text("www.example.com."), c.A, 3), on_done=found.append)
    return found[0]


def nothing_stale() -> Outcome:
    m = build(settings=Settings(dnssec=UNSIGNED, cache=CacheSettings(max_stale_ttl=86_400)))
    m.net.hosts.clear()
    return m.ask("www.example.com.")


WAYS = [
    silent, nobody_at_all, no_route, rubbish, truncated_for_ever, another_question, upward_referral, no_address,
    servers_in_a_circle, alias_to_itself, aliases_without_end, out_of_time, out_of_packets, closing, too_many, again,
    fault, bogus, bogus_again, another_class, nothing_stale,
]
CODES = [c.FORMERR, c.SERVFAIL, c.NOTIMP, c.REFUSED, c.YXDOMAIN, c.NOTAUTH, 11, 15]


def check(outcome: Outcome) -> None:
    """SERVFAIL, with an extended error and its sentence, in the outcome and on the wire."""
    assert outcome.rcode == c.SERVFAIL, outcome
    assert outcome.failure is not None
    assert outcome.ede, outcome
    assert all(code >= 0 and text.strip() for code, text in outcome.ede), outcome.ede
    parts = Parts()
    parts.mesh.instant = outcome
    parts.ask(query(edns_payload=1232))
    view = parts.sink.last
    assert view.rcode == c.SERVFAIL
    shown = [parse_ede(content) for code, content in view.edns.options if code == c.OPTION_EDE]
    assert [code for code, _ in shown] == [code for code, _ in outcome.ede]
    assert all(text for _, text in shown)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_each_way_to_fail_has_its_reason(way: Callable[[], Outcome]) -> None:
    check(way())


@pytest.mark.parametrize("rcode", CODES)
def test_each_response_code_that_is_no_answer_has_its_reason(rcode: int) -> None:
    check(answers(rcode=rcode))


@pytest.mark.parametrize("kind", FailureKind)
def test_each_kind_of_failure_reaches_the_client_with_its_reason(kind: FailureKind) -> None:
    outcome = Outcome(Question(names.from_text("www.example.com."), c.A), c.SERVFAIL, [], [], Verdict.INDETERMINATE, 0,
                      failure=Failure(kind, c.EDE_OTHER, "why"))
    outcome.ede.append((c.EDE_OTHER, "why"))
    check(outcome)


def test_too_many_queries_of_one_client_are_refused_with_a_reason() -> None:
    parts = Parts(pending_queries_per_client=1)
    for identity in range(2):
        parts.ask(query(identity=identity, edns_payload=1232))
    assert parts.sink.last.rcode == c.SERVFAIL
    assert any(code == c.OPTION_EDE for code, _ in parts.sink.last.edns.options)


# --- errors of this host ------------------------------------------------------------------------------------------


def cut_off(m: Minet, kind: FailureKind | None, *hosts: str) -> None:
    """From now on nothing can be sent to `hosts` (all by default), for a reason of this host."""
    for address in hosts or ("198.41.0.4", "192.5.6.30", *SERVERS):
        m.net.links[address] = Link(local=kind)


@pytest.mark.parametrize("kind", [FailureKind.LOCAL_RESOURCE, FailureKind.NO_ROUTE])
@pytest.mark.parametrize("hosts", [(), SERVERS], ids=["everywhere", "servers"])
def test_an_error_of_this_host_is_not_attributed_to_the_server(kind: FailureKind, hosts: tuple[str, ...]) -> None:
    m = build()
    assert m.ask("www.example.com.").rcode == c.NOERROR
    before = {address: repr(m.store.servers.find((address, 53))) for address in SERVERS}
    cut_off(m, kind, *hosts)
    for number in range(40):
        outcome = m.ask(f"x{number}.example.com.")
        assert outcome.rcode == c.SERVFAIL
        assert outcome.failure.kind is kind
    assert {address: repr(m.store.servers.find((address, 53))) for address in SERVERS} == before
    cut_off(m, None)
    m.net.sleep(m.mesh, limits.LOCAL_ERROR_TTL)
    assert m.ask("x0.example.com.").rcode == c.NXDOMAIN
    assert m.ask("x39.example.com.").rcode == c.NXDOMAIN
    assert m.net.asked()[-1].address in SERVERS


@pytest.mark.parametrize("kind", [FailureKind.LOCAL_RESOURCE, FailureKind.NO_ROUTE])
def test_a_failure_for_lack_of_local_resources_is_forgotten_when_they_are_back(kind: FailureKind) -> None:
    # However often it was met, below whatever question: also where a name server's address was looked for.
    elsewhere = STANDARD["192.5.6.30"][0][1].replace("example 7200 IN NS ns1.example\nexample 7200 IN NS ns2.example",
                                                     "example 7200 IN NS ns.example.net.")
    net = STANDARD["192.5.6.31"][0][1] + "example 60 IN NS ns.example\nns.example 60 IN A 192.0.2.77\n"
    zone = "@ 60 IN SOA ns n 1 2 3 4 5\n@ 60 IN NS ns\nns 60 IN A 192.0.2.1\n"
    m = build(standard(a192_5_6_30=[("com.", elsewhere)], a192_5_6_31=[("net.", net)],
                       a192_0_2_77=[("example.net.", zone)]))
    cut_off(m, kind, "192.0.2.77")
    for _ in range(8):
        assert m.ask("www.example.com.").rcode == c.SERVFAIL
        m.net.sleep(m.mesh, limits.LOCAL_ERROR_TTL)
    cut_off(m, None, "192.0.2.77")
    assert m.ask("www.example.com.").rcode == c.NOERROR


def test_a_momentary_shortage_costs_no_answer() -> None:
    m = build()
    cut_off(m, FailureKind.LOCAL_RESOURCE)
    _, found = m.start("www.example.com.")
    m.net.run(m.mesh, seconds=0.06)
    cut_off(m, None)
    m.net.run(m.mesh, until=lambda: bool(found))
    assert found[0].rcode == c.NOERROR


def test_what_joins_a_question_that_met_a_shortage_is_not_remembered_either() -> None:
    m = build()
    cut_off(m, FailureKind.LOCAL_RESOURCE)
    results = [m.start(name)[1] for name in ("a.example.com.", "b.example.com.", "c.sub.example.com.")]
    m.net.run(m.mesh, until=lambda: all(results))
    assert all(found[0].rcode == c.SERVFAIL for found in results)
    cut_off(m, None)
    m.net.sleep(m.mesh, limits.LOCAL_ERROR_TTL)
    for name in ("a.example.com.", "b.example.com.", "c.sub.example.com."):
        assert m.ask(name).rcode == c.NXDOMAIN


def test_a_host_without_a_family_remembers_dead_zones_as_others_do() -> None:
    # A rule of the firewall may last for years: the failure of the other servers is cached (RFC 9520).
    m = build()
    m.net.links["192.0.2.1"] = Link(local=FailureKind.NO_ROUTE)
    m.net.hosts["192.0.2.2"] = lambda packet, tcp: None
    assert m.ask("www.example.com.").failure.kind is FailureKind.UNREACHABLE
    asked = len(m.net.log)
    m.net.sleep(m.mesh, limits.LOCAL_ERROR_TTL + 1)
    assert m.ask("www.example.com.").failure.kind is FailureKind.CACHED_ERROR
    assert len(m.net.log) == asked
