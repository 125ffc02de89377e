"""Client queries through the real service, with a mesh driven by the test: queries, replies, caching, refusals."""

import io
import logging
import struct
from pathlib import Path
from typing import Any

import pytest
from support.service_parts import CLIENT, NOW, QNAME, Parts, Sink, address, failed, positive, query, signature

import resolver
from corenet.transports import PeerAddress
from resolver.effects import FailureKind, Outcome, Question
from resolver.net.pending_queries import PendingQuery
from resolver.net.zone_server import ZoneServer
from resolver.policy import OwnZones
from resolver.query import Query
from resolver.settings import DnssecSettings, PolicySettings, RateLimitSettings, Settings, ZoneSettings, replace
from resolver.verdict import Trust, Verdict
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.edns import encode_keepalive, parse_ede
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset
from resolver.zones import Mode, ServedZone, ZoneTable
from resolver.zones.load import read_zone

SOA = RRset(names.from_text("example.com."), c.SOA, 60, [names.from_text("ns.example.com.") + names.ROOT + bytes(20)],
            sigs=[signature(c.SOA)])
NSEC = RRset(names.from_text("a.example.com."), c.NSEC, 60, [names.from_text("z.example.com.") + b"\0\x01\x40"],
             sigs=[signature(c.NSEC)])
NS = RRset(names.from_text("example.com."), c.NS, 60, [names.from_text("ns.example.com.")])


def denial(rcode: int = c.NXDOMAIN, verdict: Verdict = Verdict.SECURE) -> Outcome:
    return Outcome(Question(QNAME, c.A), rcode, [], [SOA, NSEC], verdict, 60)


# --- content of replies -------------------------------------------------------------------------------------------


def test_an_answer_has_the_id_name_and_flags_of_the_query() -> None:
    parts = Parts()
    qname = names.from_text("wWw.eXample.com.")
    view = parts.answer(query(qname=qname, identity=4711), positive())
    assert (view.id, view.qname, view.qtype) == (4711, qname, c.A)
    assert (view.qr, view.rd, view.ra) == (True, True, True)
    assert (view.aa, view.tc, view.ad, view.cd) == (False, False, False, False)
    assert view.rcode == c.NOERROR
    assert [x.rtype for x in view.answer] == [c.A]
    assert view.edns is not None
    assert view.edns.payload == 1232
    assert parts.submitted == 1
    assert parts.service.waiting == 0


def test_a_client_whose_address_comes_with_the_local_one_is_answered() -> None:
    parts = Parts()
    assert parts.ask(query(), peer=PeerAddress(CLIENT)) is not None
    parts.mesh.finish(positive())
    assert parts.sink.last.rcode == c.NOERROR
    assert parts.sink.last.answer


def test_no_edns_in_the_reply_without_edns_in_the_query() -> None:
    assert Parts().answer(query(edns_payload=None), positive()).edns is None


@pytest.mark.parametrize(("flags", "do", "verdict", "shown"), [
    (c.RD, False, Verdict.SECURE, False),
    (c.RD | c.AD, False, Verdict.SECURE, True),
    (c.RD, True, Verdict.SECURE, True),
    (c.RD | c.CD, True, Verdict.SECURE, False),
    (c.RD | c.AD, True, Verdict.INSECURE, False),
    (c.RD | c.AD, True, Verdict.INDETERMINATE, False),
])
def test_ad_bit(flags: int, do: bool, verdict: Verdict, shown: bool) -> None:
    view = Parts().answer(query(flags=flags, do=do), positive(verdict=verdict))
    assert view.ad is shown
    assert view.cd is bool(flags & c.CD)


def test_signatures_only_with_do() -> None:
    parts = Parts()
    assert parts.answer(query(do=True), positive(verdict=Verdict.SECURE)).answer[0].sig_len == 1
    assert parts.answer(query(do=False), positive(verdict=Verdict.SECURE)).answer[0].sig_len == 0


def test_cd_is_passed_to_the_mesh() -> None:
    parts = Parts()
    parts.ask(query(flags=c.RD | c.CD))
    parts.ask(query(flags=c.RD))
    assert [ticket.cd for ticket in parts.mesh.tickets] == [True, False]


@pytest.mark.parametrize("do", [False, True])
def test_a_denial_has_soa_and_with_do_its_proofs(do: bool) -> None:
    view = Parts().answer(query(do=do), denial())
    assert view.rcode == c.NXDOMAIN
    assert [x.rtype for x in view.authority] == ([c.SOA, c.NSEC] if do else [c.SOA])
    assert [x.sig_len for x in view.authority] == ([1, 1] if do else [0])


def test_minimal_responses_omit_unrequested_records() -> None:
    outcome = positive(verdict=Verdict.SECURE, authority=(NS, NSEC))
    assert [x.rtype for x in Parts().answer(query(do=True), outcome).authority] == [c.NSEC]
    assert [x.rtype for x in Parts(minimal_responses=False).answer(query(do=True), outcome).authority] == [c.NS, c.NSEC]


def test_bogus_data_never_leaves_without_cd() -> None:
    parts = Parts()
    view = parts.answer(query(), positive(verdict=Verdict.BOGUS))
    assert (view.rcode, view.answer) == (c.SERVFAIL, [])
    view = parts.answer(query(flags=c.RD | c.CD), positive(verdict=Verdict.BOGUS))
    assert (view.rcode, len(view.answer), view.ad) == (c.NOERROR, 1, False)


def test_a_failure_is_servfail_with_an_extended_error_and_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts()
    for n in range(5):
        view = parts.answer(query(identity=n), failed())
    assert view.rcode == c.SERVFAIL
    assert view.edns is not None
    option = view.edns.get(c.OPTION_EDE)
    assert option is not None
    assert parse_ede(option) == (c.EDE_NO_REACHABLE_AUTHORITY, "nobody answered")
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "www.example.com. A: nobody answered" in caplog.text
    assert parts.service.failed == 5


def test_failure_without_edns_is_plain() -> None:
    view = Parts().answer(query(edns_payload=None), failed())
    assert (view.rcode, view.edns, view.answer) == (c.SERVFAIL, None, [])


def test_extended_errors_are_bounded_and_unique() -> None:
    outcome = failed()
    outcome.ede.clear()
    outcome.ede += [(n % 9, "x" * 5000) for n in range(40)]
    view = Parts().answer(query(), outcome)
    assert view.edns is not None
    options = [value for code, value in view.edns.options if code == c.OPTION_EDE]
    assert len(options) == 4
    assert max(len(value) for value in options) <= 202


def test_answer_larger_than_the_client_takes_is_truncated() -> None:
    parts = Parts()
    big = positive(address(count=100))
    for payload, limit in ((None, 512), (4096, 1232), (100, 512)):
        packet = query(edns_payload=payload)
        view = parts.answer(packet, big)
        assert (view.tc, view.answer) == (True, [])
        assert len(view.wire) <= limit
    view = parts.answer(query(edns_payload=4096), big, sink=Sink(stream=True))
    assert (view.tc, len(view.answer[0])) == (False, 100)


def test_larger_payload_by_setting() -> None:
    view = Parts(max_udp_size=4096).answer(query(edns_payload=4096), positive(address(count=100)))
    assert (view.tc, len(view.answer[0])) == (False, 100)


# --- the fast path afterwards -------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [positive(), positive(verdict=Verdict.SECURE), denial(), failed()])
@pytest.mark.parametrize("options", [{}, {"do": True}, {"edns_payload": None}, {"flags": c.RD | c.AD},
                                     {"flags": c.RD | c.CD}])
def test_second_answer_comes_from_the_fast_path_and_is_the_same(outcome: Outcome, options: dict[str, Any]) -> None:
    parts = Parts()
    packet = query(**options)
    assert parts.fast.answer(packet, CLIENT, parts.clock.real) is None
    first = parts.answer(packet, outcome)
    assert parts.fast.answer(packet, CLIENT, parts.clock.real) == first.wire


def test_answers_with_ttl_zero_are_not_cached() -> None:
    parts = Parts()
    parts.answer(query(), positive(address(ttl=0)))
    assert parts.fast.answer(query(), CLIENT, parts.clock.real) is None


def test_truncated_answer_is_kept_whole() -> None:
    parts = Parts()
    parts.answer(query(edns_payload=None), positive(address(count=100)))
    whole = parts.fast.answer(query(edns_payload=None), None, parts.clock.real, stream=True)
    assert whole is not None
    assert len(MessageView.parse(whole).answer[0]) == 100


# --- what is not resolved -----------------------------------------------------------------------------------------


def reply_of(packet: bytes, parts: Parts | None = None, **server: Any) -> MessageView:
    parts = parts or Parts(**server)
    parts.ask(packet)
    assert parts.mesh.tickets == []
    return parts.sink.last


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_other_opcodes_are_not_implemented(opcode: int) -> None:
    view = reply_of(query(flags=c.RD | opcode << 11))
    assert (view.rcode, view.opcode, view.id) == (c.NOTIMP, opcode, 77)


@pytest.mark.parametrize("count", [0, 2, 3])
def test_question_count_other_than_one_is_a_format_error(count: int) -> None:
    packet = query(edns_payload=None)
    packet = packet[:4] + count.to_bytes(2, "big") + packet[6:] + packet[12:] * (count - 1 if count else 0)
    assert reply_of(packet).rcode == c.FORMERR


def test_unknown_edns_version_is_badvers() -> None:
    packet = bytearray(query())
    packet[-5] = 1
    view = reply_of(bytes(packet))
    assert view.rcode == c.BADVERS
    assert view.edns is not None
    assert view.edns.version == 0
    assert view.qname == QNAME


@pytest.mark.parametrize("qtype", [c.AXFR, c.IXFR, c.TSIG, c.TKEY, c.MAILB, c.MAILA])
def test_transfers_and_meta_types_are_refused(qtype: int) -> None:
    assert reply_of(query(qtype)).rcode == c.REFUSED


def test_ixfr_with_its_soa_is_refused() -> None:
    packet = query(c.IXFR, edns_payload=None)
    soa = b"\xc0\x0c\0\x06\0\x01" + bytes(4) + b"\0\x16\0\0" + bytes(20)
    view = reply_of(packet[:8] + b"\0\x01" + packet[10:] + soa)
    assert (view.rcode, view.qname) == (c.REFUSED, QNAME)


@pytest.mark.parametrize("qtype", [0, c.OPT])
def test_reserved_types_are_format_errors(qtype: int) -> None:
    assert reply_of(query(qtype)).rcode == c.FORMERR


@pytest.mark.parametrize("qclass", [c.HS, 2, 4711])
def test_other_classes_are_refused(qclass: int) -> None:
    # CVE-2026-5946: only class IN is resolved.
    assert reply_of(query(qclass=qclass)).rcode == c.REFUSED


def test_class_any_means_class_in() -> None:
    parts = Parts()
    view = parts.answer(query(qclass=c.CLASS_ANY), positive())
    assert (view.rcode, view.qclass, view.answer[0].rclass) == (c.NOERROR, c.CLASS_ANY, c.IN)
    ticket = parts.ask(query(qclass=c.CLASS_ANY, qtype=c.MX)) and parts.mesh.tickets[0]
    assert ticket.question.qclass == c.IN


def test_local_answers_are_authoritative_also_from_the_cache() -> None:
    # RFC 6303 section 3
    parts = Parts()
    outcome = positive()
    outcome.authoritative = True
    assert parts.answer(query(), outcome).aa
    again = parts.fast.answer(query(), CLIENT, parts.clock.real)
    assert again is not None and MessageView.parse(again).aa
    assert not Parts().answer(query(), positive()).aa


def test_an_alias_loop_is_shown_with_its_error_and_other_failures_show_nothing() -> None:
    # RFC 1034 section 3.6.2
    outcome = failed(FailureKind.LAME)
    outcome.answer = positive().answer
    view = Parts().answer(query(), outcome)
    assert (view.rcode, len(view.answer)) == (c.SERVFAIL, 1)
    bogus = failed(FailureKind.BOGUS)
    bogus.answer, bogus.verdict = positive().answer, Verdict.BOGUS
    assert Parts().answer(query(), bogus).answer == []


def test_chaos_names_by_setting() -> None:
    chaos = {"qname": names.from_text("version.bind."), "qtype": c.TXT, "qclass": c.CH}
    assert reply_of(query(**chaos)).rcode == c.REFUSED
    view = reply_of(query(**chaos), version="1.2")
    assert (view.rcode, view.answer[0].rdatas(), view.answer[0].rclass) == (c.NOERROR, [b"\x031.2"], c.CH)
    view = reply_of(query(qname=names.from_text("id.server."), qtype=c.TXT, qclass=c.CH), identity="here")
    assert view.answer[0].rdatas() == [b"\x04here"]


def test_any_gets_one_small_record() -> None:
    parts = Parts()
    view = reply_of(query(c.ANY), parts)
    assert [(x.rtype, x.rdatas()) for x in view.answer] == [(c.HINFO, [b"\x07RFC8482\x00"])]
    assert parts.fast.answer(query(c.ANY), CLIENT, parts.clock.real) == view.wire


BIG_ZONE = """
@ 300 IN SOA ns1 nobody 1 3600 900 604800 60
@ 300 IN NS ns1
ns1 300 IN A 192.0.2.1
big 300 IN A 192.0.2.2
big 300 IN A 192.0.2.3
big 300 IN TXT "long text"
big 300 IN MX 10 ns1
old 300 IN DNAME new
www.new 300 IN A 192.0.2.4
www.new 300 IN TXT "long text"
"""


def own_parts(text: str, **server: Any) -> Parts:
    """Parts that serve own.example. with the records of `text`."""
    origin = names.from_text("own.example.")
    table = ZoneTable([ServedZone(origin, Mode.AUTHORITATIVE)], lambda: NOW)
    table.put(origin, read_zone(io.StringIO(text), "zone", origin), 0)
    parts = Parts(modules=(OwnZones(table),), **server)
    parts.service.zone_server = ZoneServer(
        parts.settings, table, lambda _: None, lambda: NOW, lambda _: None, parts.service
    )
    return parts


def any_of(parts: Parts, qname: bytes, flags: int = c.RD) -> MessageView:
    """The reply to ANY; what is given to the mesh is answered by the policies."""
    parts.ask(query(c.ANY, qname=qname, flags=flags))
    if parts.mesh.tickets:
        made = parts.plan.views[0].answer(Question(qname, c.ANY))
        assert made is not None
        parts.mesh.finish(made)
    return parts.sink.last


@pytest.mark.parametrize("flags", [c.RD, 0])
@pytest.mark.parametrize(("name", "types"), [
    ("big", [c.A]), ("ns1", [c.A]), ("", [c.NS]), ("www.old", [c.DNAME, c.CNAME, c.A]), ("none", []),
])
def test_any_in_an_own_zone_gets_one_set(flags: int, name: str, types: list[int]) -> None:
    qname = names.from_text(f"{name}.own.example.".removeprefix("."))
    for minimal_any in (True, False):
        parts = own_parts(BIG_ZONE, minimal_any=minimal_any)
        view = any_of(parts, qname, flags)
        found = [rrset.rtype for rrset in view.answer]
        assert view.rcode == (c.NOERROR if types else c.NXDOMAIN)
        if minimal_any:
            assert found == types and not view.additional
        else:
            assert set(found) >= set(types) and (len(found) > len(types)) is (name not in ("ns1", "none"))


def test_any_is_resolved_by_setting() -> None:
    parts = Parts(minimal_any=False)
    parts.ask(query(c.ANY))
    assert parts.mesh.tickets[0].question.qtype == c.ANY


@pytest.mark.parametrize("packet", [b"", b"\0" * 11, bytes(query())[:2] + b"\x80" + bytes(query())[3:]])
def test_unanswerable_packets_are_dropped(packet: bytes) -> None:
    parts = Parts()
    parts.ask(packet)
    assert parts.sink.packets == [None]
    assert parts.service.malformed == 1


@pytest.mark.parametrize("packet", [query()[:-1], query() + b"\0", query()[:15], query(edns_payload=None)[:12]])
def test_unreadable_queries_are_format_errors(packet: bytes) -> None:
    view = reply_of(packet)
    assert (view.rcode, view.id, view.qr) == (c.FORMERR, 77, True)


# --- access -------------------------------------------------------------------------------------------------------


def guarded(**policy: Any) -> Parts:
    return Parts(replace(Settings(), policy=PolicySettings(**policy)))


def test_clients_without_access_are_refused_with_a_reason() -> None:
    parts = Parts()
    parts.ask(query(), peer=("192.0.2.1", 5))
    view = parts.sink.last
    assert (view.rcode, view.qname, view.ra) == (c.REFUSED, QNAME, False)
    assert view.edns is not None
    assert parse_ede(view.edns.get(c.OPTION_EDE) or b"\0\0")[0] == c.EDE_PROHIBITED
    parts.ask(query(flags=4 << 11), peer=("192.0.2.1", 5))
    assert parts.sink.last.rcode == c.REFUSED
    assert parts.mesh.tickets == []
    assert parts.service.refused == 2
    parts.ask(query(flags=c.QR), peer=("192.0.2.1", 5))
    assert parts.sink.packets[2:] == [None], "a response is not answered, whoever sends it"


@pytest.mark.parametrize("head", [
    pytest.param(b"PROXY UDP4 127.0.0.1 127.0.0.1 40000 53\r\n", id="version 1"),
    pytest.param(b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c\x7f\0\0\1\x7f\0\0\1\x9c\x40\0\x35", id="version 2"),
])
@pytest.mark.parametrize("host", ["192.0.2.1", CLIENT[0]])
def test_a_proxy_header_before_a_query_is_not_parsed(head: bytes, host: str) -> None:
    """CVE-2026-54478: a header of the PROXY protocol is never parsed, whoever the sender is."""
    parts = Parts()
    parts.ask(head + query(), peer=(host, 5))
    assert parts.mesh.tickets == []
    assert parts.sink.last.rcode == (c.NOTIMP if host == CLIENT[0] else c.REFUSED)
    assert len(parts.sink.packets[0] or b"") == 12


def test_dropped_clients_get_no_reply() -> None:
    parts = guarded(drop=("127.0.0.0/8",), allow=())
    for packet in (query(), query(flags=4 << 11), b"junk"):
        parts.ask(packet)
    assert parts.sink.packets == [None] * 3
    assert parts.service.denied == 3


@pytest.mark.parametrize("stream", [False, True])
def test_replies_for_own_zones_are_limited_and_counted(stream: bool) -> None:
    """As all others: a NOTIFY with a forged address must not make this server flood that address."""
    zone = ZoneSettings(name="e.test.", file="unused", allow_notify=("127.0.0.1/32",))
    settings = replace(Settings(), zone=(zone,), rate_limit=RateLimitSettings(all_per_second=1, slip=0))
    parts = Parts(settings)
    given = (ZoneTable(), lambda _: None, lambda: NOW, lambda _: None, parts.service)
    parts.service.zone_server = ZoneServer(settings, *given)
    sink = Sink(stream=stream)
    notify = query(c.SOA, qname=names.from_text("e.test."), flags=c.NOTIFY << 11, edns_payload=None)
    for _ in range(20):
        parts.service.handle(notify, CLIENT, sink)
    sent = [one for one in sink.packets if one is not None]
    assert len(sink.packets) == 20 and len(sent) == parts.service.replies and (len(sent) == 20) is stream
    counted = parts.service.observed.statistics()
    assert counted["replies"][f"{sink.origin[0]}.NOERROR"] == len(sent) == sum(counted["replies"].values())
    assert sum(counted["queries"].values()) == 20


def test_local_names_are_answered_without_the_mesh() -> None:
    view = reply_of(query(c.ANY, qname=names.from_text("localhost.")))
    assert view.rcode == c.NOERROR
    assert c.HINFO not in [x.rtype for x in view.answer]


# --- without recursion --------------------------------------------------------------------------------------------


def own_zone(parts: Parts) -> None:
    """Give `parts` the zone corp.home-net. with a host h10 (10.0.0.10)."""
    text = "$TTL 60\n@ SOA ns host 7 3600 600 86400 60\n@ NS ns\nns A 192.0.2.1\nh10 A 10.0.0.10\nsub NS ns\n"
    origin = names.from_text("corp.home-net.")
    table = ZoneTable([ServedZone(origin, Mode.AUTHORITATIVE)], lambda: NOW)
    table.put(origin, read_zone(io.StringIO(text), "zone", origin), 0)
    parts.service.zone_server = ZoneServer(
        parts.settings, table, lambda _: None, lambda: NOW, lambda _: None, parts.service
    )


@pytest.mark.parametrize(("policy", "name", "rcode", "answers"), [
    ({}, "h10.corp.home-net.", c.NOERROR, 1),
    ({}, "a.sub.corp.home-net.", c.NOERROR, 0),
    ({"local_zones": ("h10.corp.home-net. always_refuse",)}, "h10.corp.home-net.", c.REFUSED, 0),
    ({"local_zones": ("h10.corp.home-net. always_nxdomain",)}, "h10.corp.home-net.", c.NXDOMAIN, 0),
    ({"local_zones": ("h10.corp.home-net. always_refuse",)}, "ns.corp.home-net.", c.NOERROR, 1),
    ({"private_addresses": ("10.0.0.0/8",)}, "h10.corp.home-net.", c.NOERROR, 0),
    ({"private_addresses": ("10.0.0.0/8",)}, "ns.corp.home-net.", c.NOERROR, 1),
])
def test_own_zones_have_the_policies_without_rd_too(
    policy: dict[str, Any], name: str, rcode: int, answers: int
) -> None:
    parts = Parts(replace(Settings(), policy=replace(PolicySettings(), **policy)))
    own_zone(parts)
    view = reply_of(query(flags=0, qname=names.from_text(name)), parts)
    assert (view.rcode, len(view.answer)) == (rcode, answers)


@pytest.mark.parametrize("mode", ["refuse", "cache"])
def test_a_truncate_zone_is_asked_without_rd_too(mode: str) -> None:
    settings = replace(Settings(), policy=replace(PolicySettings(), local_zones=("corp.home-net. truncate",)))
    parts = Parts(settings, non_recursive_queries=mode)
    own_zone(parts)
    packet = query(flags=0, qname=names.from_text("h10.corp.home-net."))
    assert reply_of(packet, parts).tc
    stream = Sink(stream=True)
    parts.service.handle(packet, CLIENT, stream)
    assert not stream.last.tc and len(stream.last.answer) == 1


def test_rd_clear_is_refused_even_when_the_answer_is_known() -> None:
    parts = Parts()
    parts.answer(query(), positive())
    packet = query(flags=0)
    assert parts.fast.answer(packet, CLIENT, parts.clock.real) is None
    view = reply_of(packet, parts)
    assert (view.rcode, view.rd) == (c.REFUSED, False)


def test_rd_clear_from_cache_by_setting() -> None:
    parts = Parts(non_recursive_queries="cache")
    assert reply_of(query(flags=0), parts).rcode == c.REFUSED
    parts.answer(query(), positive())
    packet = query(flags=0)
    reply = parts.fast.answer(packet, CLIENT, parts.clock.real)
    assert reply is not None
    assert not MessageView.parse(reply).rd
    assert parts.mesh.tickets == []


@pytest.mark.parametrize(("verdict", "flags", "rcode"), [
    (Verdict.SECURE, 0, c.NOERROR),
    (Verdict.INSECURE, 0, c.NOERROR),
    (Verdict.INDETERMINATE, 0, c.REFUSED),
    (Verdict.INDETERMINATE, c.CD, c.NOERROR),
])
def test_cached_sets_answer_without_recursion_when_permitted(verdict: Verdict, flags: int, rcode: int) -> None:
    parts = Parts(non_recursive_queries="cache")
    rrset = address()
    rrset.trust = Trust.ANSWER
    rrset.verdict = verdict
    parts.store.rrsets.put(rrset, parts.clock.real)
    assert reply_of(query(flags=flags), parts).rcode == rcode


def test_indeterminate_sets_are_shown_when_nothing_is_validated() -> None:
    parts = Parts(replace(Settings(), dnssec=DnssecSettings(enabled=False)), non_recursive_queries="cache")
    rrset = address()
    rrset.trust = Trust.ANSWER
    parts.store.rrsets.put(rrset, parts.clock.real)
    assert reply_of(query(flags=0), parts).rcode == c.NOERROR


def test_glue_is_never_an_answer() -> None:
    parts = Parts(non_recursive_queries="cache")
    rrset = address()
    rrset.trust = Trust.GLUE
    rrset.verdict = Verdict.INSECURE
    parts.store.rrsets.put(rrset, parts.clock.real)
    assert reply_of(query(flags=0), parts).rcode == c.REFUSED


def test_denial_in_the_cache_answers_without_recursion() -> None:
    parts = Parts(non_recursive_queries="cache")
    parts.store.rrsets.put_negative(names.lower(QNAME), 0, soa=SOA, proofs=[NSEC], ttl=60, verdict=Verdict.SECURE,
                                    now=parts.clock.real)
    view = reply_of(query(flags=0, do=True), parts)
    assert (view.rcode, [x.rtype for x in view.authority]) == (c.NXDOMAIN, [c.SOA, c.NSEC])


def test_a_cached_failure_is_returned_without_recursion() -> None:
    parts = Parts(non_recursive_queries="cache")
    parts.store.rrsets.put_failure(names.lower(QNAME), c.A, kind=FailureKind.BOGUS, verdict=Verdict.BOGUS,
                                   ede=c.EDE_DNSSEC_BOGUS, text="x", ttl=5, now=parts.clock.real)
    assert reply_of(query(flags=0), parts).rcode == c.SERVFAIL
    assert reply_of(query(flags=c.CD), parts).rcode == c.REFUSED


# --- EDNS options -------------------------------------------------------------------------------------------------


def test_name_server_identifier_when_asked_for() -> None:
    packet = query(options=[(c.OPTION_NSID, b"")])
    parts = Parts(identity="worker-1")
    view = parts.answer(packet, positive())
    assert view.edns is not None
    assert view.edns.get(c.OPTION_NSID) == b"worker-1"
    # Again, now from the cache, with the same option and without the mesh.
    parts.ask(packet)
    assert parts.mesh.tickets == []
    assert parts.sink.packets[-1] == view.wire
    assert Parts().answer(packet, positive()).edns.get(c.OPTION_NSID) is None  # type: ignore[union-attr]


def test_identifier_of_its_own_in_octets() -> None:
    view = Parts(identity="here", nsid="0x00ff").answer(query(options=[(c.OPTION_NSID, b"")]), positive())
    assert view.edns is not None and view.edns.get(c.OPTION_NSID) == b"\x00\xff"
    for wrong in ("0x0", "0xzz", "x" * 256):
        with pytest.raises(ValueError, match=r"server\.nsid"):
            Parts(nsid=wrong)


def test_option_flood_repeated_options_are_answered_once() -> None:
    # CVE-2026-41292, CVE-2026-42944: one of each goes out, however many came in.
    flood = [(c.OPTION_NSID, b""), (c.OPTION_KEEPALIVE, b""), (c.OPTION_COOKIE, b"clients!")] * 10
    parts = Parts(identity="here")
    sink = Sink(stream=True)
    view = parts.answer(query(options=flood), positive(), sink=sink)
    assert view.edns is not None
    assert sorted(code for code, _ in view.edns.options) == [c.OPTION_NSID, c.OPTION_COOKIE, c.OPTION_KEEPALIVE]
    assert parts.fast.cookies is not None
    assert parts.fast.cookies.statistics()["cookies_first"] == 1


def test_keepalive_on_streams_only() -> None:
    packet = query(options=[(c.OPTION_KEEPALIVE, b"")])
    view = Parts().answer(packet, positive(), sink=Sink(stream=True))
    assert view.edns is not None
    assert view.edns.get(c.OPTION_KEEPALIVE) == encode_keepalive(10)
    view = Parts().answer(packet, positive())
    assert view.edns is not None
    assert view.edns.options == []


def test_unknown_options_are_ignored() -> None:
    view = Parts().answer(query(options=[(65_001, b"x" * 20), (c.OPTION_PADDING, bytes(30))]), positive())
    assert (view.rcode, len(view.answer)) == (c.NOERROR, 1)


# --- bounds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_waiting_query_keeps_only_what_its_reply_needs(stream: bool) -> None:
    parts = Parts(identity="here")
    sink = Sink(stream=stream)
    cookie = bytes(range(8))
    options = [(12, bytes(30_000)), (c.OPTION_NSID, bytes(20_000)), (c.OPTION_COOKIE, cookie), (c.OPTION_NSID, b""),
               (c.OPTION_KEEPALIVE, b""), (65_001, bytes(5_000)), *[(65_002, b"x")] * 300]
    packet = query(flags=c.RD | c.CD, options=options)
    pending = parts.service.handle(packet, CLIENT, sink)
    assert pending is not None
    assert len(pending.query.wire) + len(pending.query.options) < 1000
    assert parts.mesh.tickets[0].cd
    if not stream:
        assert parts.service.handle(packet, CLIENT, sink) is None
        assert len(parts.mesh.tickets) == 1, "a repetition waits as well"
    parts.mesh.finish(positive())
    short = Sink(stream=stream)
    few = [(c.OPTION_NSID, b""), (c.OPTION_COOKIE, cookie), (c.OPTION_KEEPALIVE, b"")]
    again = Parts(identity="here")
    again.service.handle(query(flags=c.RD | c.CD, options=few), CLIENT, short)
    again.mesh.finish(positive())
    views = [MessageView.parse(packets[0]) for packets in (sink.packets, short.packets) if packets[0] is not None]
    assert [sorted(code for code, _ in view.edns.options) for view in views if view.edns] == [
        [c.OPTION_NSID, c.OPTION_COOKIE] + [c.OPTION_KEEPALIVE] * stream] * 2
    assert len(sink.packets[0] or b"") == len(short.packets[0] or b"")


def test_a_repeated_query_waits_for_the_pending_reply() -> None:
    parts = Parts()
    for _ in range(4):
        parts.ask(query())
    parts.ask(query(identity=78))
    parts.ask(query(), peer=("127.0.0.1", 40_001))
    assert len(parts.mesh.tickets) == 3
    assert parts.service.joined == 3
    parts.mesh.finish(positive())
    assert len(parts.sink.packets) == 1
    parts.ask(query())
    assert len(parts.mesh.tickets) == 3


def test_a_reply_for_which_there_is_no_memory_ends_the_connection() -> None:
    class Full:
        def put(self, *_answer: Any, **_options: Any) -> None:
            raise MemoryError

    parts, sink = Parts(), Sink(stream=True)
    parts.service._answers = Full()  # type: ignore[assignment]
    parts.ask(query(), sink=sink)
    with pytest.raises(MemoryError):
        parts.mesh.finish(positive())
    assert sink.aborted and sink.packets == [] and parts.service.waiting == 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["before", "begun", "after", "told"])
def test_a_query_without_memory_keeps_no_slot(where: str, stream: bool) -> None:
    parts = Parts(pending_queries=16, pending_queries_per_client=1, pending_queries_per_verified_client=1)
    submit, tell = parts.mesh.submit, parts.service._submitted

    def short(question: Question, *, query: Query, cd: bool = False, on_done: Any) -> Any:
        if where == "before":
            raise MemoryError
        ticket = submit(question, query=query, cd=cd, on_done=on_done)
        if where == "after":
            parts.mesh.finish(positive())
        if where != "told":
            raise MemoryError
        return ticket

    def fail() -> None:
        raise MemoryError

    parts.mesh.submit = short  # type: ignore[method-assign]
    parts.service._submitted = fail if where == "told" else tell
    sink = Sink(stream=stream)
    with pytest.raises(MemoryError):
        parts.ask(query(), sink=sink)
    assert parts.service.waiting == 0
    assert len(parts.mesh.cancelled) == (where == "told")
    told = len(sink.packets)
    if where == "begun":
        parts.mesh.finish(positive())  # the job continues, and no client waits for it
    assert len(sink.packets) == told
    parts.mesh.submit, parts.service._submitted = submit, tell  # type: ignore[method-assign]
    parts.ask(query(qtype=c.AAAA), sink=sink)
    assert parts.service.waiting == 1 and parts.service.joined == 0 and parts.service.overflowed == 0
    parts.mesh.finish(positive())
    assert parts.service.waiting == 0


@pytest.mark.parametrize(("action", "expected"), [("servfail", c.SERVFAIL), ("drop", None)])
def test_too_many_waiting_queries(action: str, expected: int | None) -> None:
    parts = Parts(pending_queries=16, pending_queries_network_percent=100, overload_action=action)
    for n in range(20):
        parts.ask(query(identity=n))
    assert parts.service.waiting == 16
    assert parts.service.overflowed == 4
    got = [None if packet is None else MessageView.parse(packet).rcode for packet in parts.sink.packets]
    assert got == [expected] * 4
    for _ in range(16):
        parts.mesh.finish(positive())
    assert parts.service.waiting == 0
    parts.ask(query())
    assert parts.service.waiting == 1


def test_dnsbomb_one_client_cannot_take_every_slot() -> None:
    parts = Parts(pending_queries_per_client=3)
    for n in range(5):
        parts.ask(query(identity=n))
        parts.ask(query(identity=n), peer=("127.0.0.2", 9))
    assert parts.service.waiting == 6
    assert parts.service.overflowed == 4


@pytest.mark.parametrize(
    ("near", "far"),
    [
        ([f"192.0.2.{n}" for n in range(20)], "192.0.3.1"),
        ([f"2001:db8:0:{n:x}::{n + 1:x}" for n in range(20)], "2001:db8:0:100::1"),
        ([f"fe80::{n + 1:x}%eth{n}" for n in range(20)], "2001:db8::1"),
        ([f"::ffff:192.0.2.{n}" for n in range(20)], "::ffff:192.0.3.1"),
    ],
    ids=["IPv4", "IPv6", "link-local", "mapped"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_one_network_cannot_take_every_slot(near: list[str], far: str, stream: bool) -> None:
    anybody = Settings(policy=PolicySettings(allow=("0.0.0.0/0", "::/0")))
    parts = Parts(anybody, pending_queries=16, pending_queries_network_percent=50)
    for n, host in enumerate(near):
        parts.ask(query(identity=n), peer=(host, 9), sink=Sink(stream=stream))
    assert (parts.service.waiting, parts.service.overflowed) == (8, 12)
    parts.ask(query(), peer=(far, 9), sink=Sink(stream=stream))
    assert parts.service.waiting == 9
    for _ in range(9):
        parts.mesh.finish(positive())
    for n, host in enumerate(near):
        parts.ask(query(identity=100 + n, qtype=c.AAAA), peer=(host, 9), sink=Sink(stream=stream))
    assert parts.service.waiting == 8, "places are given back to their network"


def test_several_networks_leave_slots_for_another() -> None:
    anybody = Settings(policy=PolicySettings(allow=("0.0.0.0/0",)))
    parts = Parts(anybody, pending_queries=100, pending_queries_network_percent=80)
    for n in range(600):
        parts.ask(query(identity=n), peer=(f"192.0.{n % 3}.{n % 250}", 9))
    assert parts.service.overflowed > 400
    waiting = parts.service.waiting
    for n in range(3):
        parts.ask(query(identity=n), peer=("198.51.100.1", 9))
    assert parts.service.waiting == waiting + 3


def cookie_alone(*values: bytes, counts: bytes = b"\0\0\0\0\0\0\0\1", version: int = 0, opcode: int = 0) -> bytes:
    """A query without question, with these COOKIE options."""
    options = b"".join(struct.pack("!HH", c.OPTION_COOKIE, len(value)) + value for value in values)
    opt = b"\0" + struct.pack("!HHBBHH", c.OPT, 1232, 0, version, 0, len(options)) + options
    return b"\x12\x34" + bytes([opcode << 3 | 1, 0]) + counts + opt


def test_a_client_may_request_only_a_cookie() -> None:
    # RFC 7873 section 5.4
    parts = Parts()
    server_cookies = parts.fast.cookies
    assert server_cookies is not None
    good = server_cookies.answer(b"clients!", CLIENT[0], parts.clock.real)
    wrong = b"clients!" + bytes(16)
    for sent, rcode in ((b"clients!", c.NOERROR), (good, c.NOERROR), (wrong, c.BADCOOKIE), (good[:8] + bytes(8), 23),
                        (b"clients!" + bytes(32), c.BADCOOKIE)):
        parts.ask(cookie_alone(sent), sink=(sink := Sink()))
        [packet] = sink.packets
        view = MessageView.parse(packet)
        assert view.edns is not None
        assert (view.id, view.question_count, view.rcode | view.edns.ext_rcode << 4) == (0x1234, 0, rcode)
        [(code, value)] = view.edns.options
        assert code == c.OPTION_COOKIE
        assert value[:8] == b"clients!"
        assert server_cookies.is_good(value, CLIENT[0], parts.clock.real)
        assert not server_cookies.is_good(value, "198.51.100.1", parts.clock.real)


@pytest.mark.parametrize("packet", [
    cookie_alone(), cookie_alone(b"short"), cookie_alone(b"clients!" + bytes(7)), cookie_alone(b"clients!" + bytes(33)),
    cookie_alone(b"clients!", version=1), cookie_alone(b"clients!")[:-1], cookie_alone(b"clients!") + b"\0",
    cookie_alone(b"clients!", counts=b"\0\0\0\0\0\1\0\0"), cookie_alone(b"clients!", counts=bytes(8)),
])
def test_a_query_without_question_that_asks_for_no_cookie_either_is_an_error(packet: bytes) -> None:
    parts = Parts()
    parts.ask(packet, sink=(sink := Sink()))
    [reply] = sink.packets
    assert reply[3] & 0xF == c.FORMERR
    assert len(reply) == 12


def test_without_cookies_a_query_without_question_is_an_error() -> None:
    parts = Parts(answer_cookies=False)
    parts.ask(cookie_alone(b"clients!"), sink=(sink := Sink()))
    assert [packet[3] & 0xF for packet in sink.packets] == [c.FORMERR]
    parts = Parts()
    parts.ask(cookie_alone(b"clients!", opcode=4), sink=(sink := Sink()))
    assert [packet[3] & 0xF for packet in sink.packets] == [c.NOTIMP]


def test_forged_packets_take_no_slot_of_a_client_with_a_valid_cookie() -> None:
    parts = Parts(
        pending_queries=16, pending_queries_per_client=3, pending_queries_per_verified_client=2,
        pending_queries_network_percent=100,
    )
    forged = c.OPTION_COOKIE, b"clients!" + bytes(16)
    for n in range(50):
        parts.ask(query(identity=n, options=[forged] if n % 2 else []))  # in the client's name
        parts.ask(query(identity=n), peer=(f"127.0.1.{n}", 9))
    assert (parts.service.waiting, parts.service.overflowed) == (16, 84)
    server_cookies = parts.fast.cookies
    assert server_cookies is not None
    good = c.OPTION_COOKIE, server_cookies.answer(b"clients!", CLIENT[0], parts.clock.real)
    for n in range(3):
        parts.ask(query(identity=100 + n, options=[good]))
    assert parts.service.statistics()["pending_verified"] == 2, "not without bounds either"
    parts.ask(query(identity=200, options=[good]), peer=("127.0.0.9", 9))
    assert parts.service.statistics()["pending_verified"] == 2, "another's cookie proves nothing"
    parts.ask(query(identity=201), peer=("127.0.0.9", 9), sink=Sink(stream=True))
    assert parts.service.statistics()["pending_verified"] == 3, "nobody forges a TCP connection"
    for _ in range(19):
        parts.mesh.finish(positive())
    assert (parts.service.waiting, parts.service.statistics()["pending_verified"]) == (0, 0)


def test_clients_with_proved_addresses_have_separate_slots_in_the_mesh() -> None:
    parts = Parts()
    server_cookies = parts.fast.cookies
    assert server_cookies is not None
    good = c.OPTION_COOKIE, server_cookies.answer(b"clients!", CLIENT[0], parts.clock.real)
    parts.ask(query(identity=1))
    parts.ask(query(identity=2), peer=("127.0.0.9", 9))
    parts.ask(query(identity=3, options=[(c.OPTION_COOKIE, b"clients!" + bytes(16))]))
    parts.ask(query(identity=4, options=[good]))
    parts.ask(query(identity=5), sink=Sink(stream=True))
    parts.ask(query(identity=6), peer=("127.0.1.1", 9), sink=Sink(stream=True))
    first, near, forged, cookie, stream, far = parts.mesh.networks
    assert first == near == forged
    assert cookie == stream
    assert len({first, cookie, far}) == 3


def test_dnsbomb_answers_that_come_too_late_are_not_sent() -> None:
    parts = Parts(discard_timeout=1.9)
    parts.ask(query())
    parts.ask(query(), sink=(stream := Sink(stream=True)))
    parts.clock.mono += 2.0
    parts.mesh.finish(positive())
    parts.mesh.finish(positive())
    assert parts.sink.packets == [None]
    assert stream.last.rcode == c.NOERROR
    assert parts.service.discarded == 1
    # It was resolved anyway, so the client's retry is a hit.
    assert parts.fast.answer(query(), CLIENT, parts.clock.real) is not None


def burst(
    parts: Parts, outcome: Outcome, *, after: float, count: int = 10, sink: Sink | None = None
) -> list[MessageView]:
    """The replies to `count` queries that a server answered together, `after` so many seconds."""
    sink = sink or parts.sink
    for number in range(count):
        peer = (f"127.0.0.{number % 3 + 1}", number)
        parts.ask(query(identity=number, edns_payload=1232), peer=peer, sink=sink)
    parts.clock.mono += after
    for _ in range(count):
        parts.mesh.finish(outcome)
    return [MessageView.parse(packet) for packet in sink.packets if packet is not None]


LONG = address(count=10)


def test_dnsbomb_answers_that_were_held_back_make_no_burst() -> None:
    parts = Parts(late_answers_per_network=4)
    outcome = positive(LONG)
    outcome.ede.append((c.EDE_OTHER, "a long story" * 5))
    replies = burst(parts, outcome, after=1.0)
    assert [view.tc for view in replies] == [True] * 6 + [False] * 4
    assert all(view.rcode == c.NOERROR and not view.answer for view in replies[:6])
    assert all(len(view.wire) <= len(query(edns_payload=1232)) for view in replies[:6]), "nothing is amplified"
    assert all(view.answer for view in replies[6:])
    assert parts.service.statistics()["truncated"] == 6
    assert parts.fast.answer(query(), CLIENT, parts.clock.real) is not None, "the cache answers who asks over TCP"


@pytest.mark.parametrize("words", ["the servers of a zone with a long name do not answer " * 4, "no answer"])
def test_dnsbomb_failures_that_were_held_back_have_no_long_reasons(words: str) -> None:
    """The names of an attacker are in them, so that he chooses their length."""
    parts = Parts(late_answers_per_network=4)
    outcome = failed()
    outcome.ede = [(c.EDE_NO_REACHABLE_AUTHORITY, words)]
    size = len(query(edns_payload=1232))
    replies = burst(parts, outcome, after=1.0)
    assert all(view.rcode == c.SERVFAIL and not view.tc for view in replies)
    reasons = [any(code == c.OPTION_EDE for code, _ in view.edns.options) for view in replies if view.edns]
    assert reasons == ([True] * 10 if words == "no answer" else [False] * 6 + [True] * 4)
    assert all(len(view.wire) <= 2 * size + 11 for view in replies[:6]), "an OPT record has 11 octets"


@pytest.mark.parametrize("case", ["soon", "stream", "short", "failed", "unlimited"])
def test_only_late_answers_that_may_be_a_burst_are_truncated(case: str) -> None:
    parts = Parts(late_answers_per_network=0 if case == "unlimited" else 4)
    outcome = failed() if case == "failed" else positive(address() if case == "short" else LONG)
    replies = burst(parts, outcome, after=0.1 if case == "soon" else 1.0,
                    sink=Sink(stream=True) if case == "stream" else None)
    assert len(replies) == 10 and not any(view.tc for view in replies)
    assert not parts.service.statistics()["truncated"]


def test_late_answers_to_a_network_with_few_slow_queries_are_whole() -> None:
    parts = Parts(late_answers_per_network=4)
    for number in range(10):
        parts.ask(query(identity=number, edns_payload=1232), peer=(f"127.0.{number}.1", 1))
    parts.clock.mono += 1.0
    for _ in range(10):
        parts.mesh.finish(positive(LONG))
    assert not parts.service.statistics()["truncated"]


def test_who_forges_sources_has_no_answers_to_verified_clients_truncated() -> None:
    parts = Parts(late_answers_per_network=4)
    assert parts.fast.cookies is not None
    good = c.OPTION_COOKIE, parts.fast.cookies.answer(b"clients!", CLIENT[0], parts.clock.real)
    parts.ask(query(options=[good]))
    for number in range(10):
        parts.ask(query(identity=number, edns_payload=1232), peer=(CLIENT[0], number), sink=Sink())
    parts.clock.mono += 1.0
    parts.mesh.finish(positive(LONG))
    assert parts.sink.last.answer and not parts.sink.last.tc
    parts.mesh.finish(positive(LONG))
    assert parts.service.statistics()["truncated"] == 1


def test_forgotten_query_is_cancelled_once() -> None:
    parts = Parts()
    sink = Sink(stream=True)
    pending = parts.ask(query(), sink=sink)
    assert pending is not None
    parts.service.forget(pending)
    parts.service.forget(pending)
    assert len(parts.mesh.cancelled) == 1
    assert parts.service.waiting == 0
    assert sink.forgotten == [pending]
    assert sink.packets == []


def test_an_immediate_outcome_leaves_no_pending_query() -> None:
    parts = Parts()
    parts.mesh.instant = positive()
    assert parts.ask(query()) is None
    assert parts.sink.last.rcode == c.NOERROR
    assert parts.service.waiting == 0
    assert parts.submitted == 0
    assert parts.service.statistics()["replies"] == 1


def test_cancelled_kind_is_servfail_too() -> None:
    assert Parts().answer(query(), failed(FailureKind.CANCELLED, c.EDE_NOT_READY, 0)).rcode == c.SERVFAIL


# --- compilation --------------------------------------------------------------------------------------------------


def test_the_layout_files_match_the_classes() -> None:
    parts = Parts()
    pending = parts.ask(query())
    layout: dict[str, set[str]] = {}
    for module in ("pending_queries", "reply_sender", "service"):
        for line in (Path(resolver.__file__).parent / "net" / f"{module}.pxd").read_text().splitlines():
            if line.startswith("cdef class "):
                name = line.removeprefix("cdef class ").rstrip(":").partition("(")[0]
                names_of_class = layout.setdefault(name, set())
            elif line.startswith("    cdef public "):
                names_of_class.add(line.rpartition(" ")[2])
    assert layout["PendingQuery"] == set(PendingQuery.__slots__)
    whole = layout["Service"] | layout["ReplySender"]
    state = vars(parts.service) if hasattr(parts.service, "__dict__") else whole
    assert whole == set(state)
    assert all(hasattr(pending, name) for name in layout["PendingQuery"])


def test_a_truncating_zone_is_answered_over_tcp_only() -> None:
    parts = Parts(Settings(policy=PolicySettings(local_zones=("com. truncate",))))
    stream = Sink(stream=True)
    for _ in range(2):
        parts.ask(query(edns_payload=1232))
        assert (parts.sink.last.tc, parts.sink.last.rcode, len(parts.sink.last.answer)) == (True, c.NOERROR, 0)
        assert not parts.mesh.tickets
        view = parts.answer(query(edns_payload=1232), positive(), sink=stream)
        assert (view.tc, len(view.answer)) == (False, 1)
    assert parts.fast.answer(query(edns_payload=1232), CLIENT, parts.clock.real) is None, "nothing is kept for UDP"
