"""The fast path alone: which queries it answers, which it passes on, malformed packets, and streams of messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.service_parts import CLIENT, NOW, QNAME, Parts, address, positive, query

from resolver import limits
from resolver.net.fastpath import ClientQuery, FastPath, read_query
from resolver.net.rate_limit import RateLimits
from resolver.policy import AccessTable
from resolver.policy.ranges import ViewAccess
from resolver.policy.zone_peers import ZonePeers
from resolver.settings import RateLimitSettings, ZoneSettings
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.edns import options_to_wire
from resolver.wire.message import MessageView

OTHER_CLIENT = ("192.0.2.1", 53)


@pytest.fixture
def parts() -> Parts:
    """A service whose cache knows one address."""
    parts = Parts()
    parts.answer(query(), positive())
    return parts


def test_hit_miss_and_expiry(parts: Parts) -> None:
    fast = parts.fast
    reply = fast.answer(query(identity=9), CLIENT, NOW + 100)
    assert reply is not None
    view = MessageView.parse(reply)
    assert (view.id, view.answer[0].ttl, view.answer[0].rdatas()) == (9, 200, address().rdatas())
    assert fast.answer(query(c.AAAA), CLIENT, NOW) is None
    assert fast.answer(query(), CLIENT, NOW + 300) is None
    statistics = fast.statistics()
    assert (statistics["received"], statistics["hits"], statistics["misses"]) == (3, 1, 2)


@pytest.mark.parametrize("peer", [CLIENT, ("::1", 5, 0, 0), ("::ffff:127.0.0.1", 5, 0, 0)])
def test_permitted_clients_of_each_family_are_answered(parts: Parts, peer: tuple[object, ...]) -> None:
    assert parts.fast.answer(query(), peer, NOW) is not None


@pytest.mark.parametrize("peer", [
    OTHER_CLIENT, ("2001:db8::1", 5, 0, 0), ("127.0.0.1.", 5), ("", 0), ("fe80::1%1", 5, 0, 1),
])
def test_other_clients_are_refused_or_ignored_whatever_is_cached(parts: Parts, peer: tuple[object, ...]) -> None:
    reply = parts.fast.answer(query(), peer, NOW)
    assert reply is not None
    if reply:
        view = MessageView.parse(reply)
        assert (view.rcode, view.qname, view.answer, view.rd) == (c.REFUSED, QNAME, [], True)
        assert view.edns is not None
    statistics = parts.fast.statistics()
    assert statistics["hits"] == 0
    assert statistics["refused"] + statistics["access_dropped"] == 1


def test_a_refusal_has_its_reason_and_is_hardly_larger_than_the_query(parts: Parts) -> None:
    for packet in (query(), query(edns_payload=None), query(do=True, options=[(c.OPTION_COOKIE, bytes(8))])):
        reply = parts.fast.answer(packet, OTHER_CLIENT, NOW)
        assert reply is not None
        assert len(reply) <= len(packet) + 6
        view = MessageView.parse(reply)
        assert (view.rcode, view.ra) == (c.REFUSED, False)
        assert view.edns is None or view.edns.get(c.OPTION_EDE) == c.EDE_PROHIBITED.to_bytes(2, "big")


def test_dropped_clients_get_no_reply_to_any_packet() -> None:
    parts = Parts()
    fast = FastPath(parts.store.answers, AccessTable((), (), ("0.0.0.0/0",)))
    for packet in (query(), b"", b"junk" * 9, query(flags=2 << 11)):
        assert fast.answer(packet, CLIENT, NOW) == b""
    assert fast.statistics()["access_dropped"] == 4


NOTIFY = query(c.SOA, flags=c.NOTIFY << 11 | c.AA, edns_payload=None)
PRIMARY, SECONDARY = ("192.0.2.1", 5), ("::ffff:198.51.100.9", 5, 0, 0)
FROM_PEERS = [
    (NOTIFY, PRIMARY, True), (NOTIFY, ("2001:db8::7", 5, 0, 0), True), (NOTIFY, SECONDARY, False),
    (NOTIFY, ("192.0.2.2", 5), False), (query(c.SOA), SECONDARY, True), (query(c.SOA), PRIMARY, False),
    (query(c.AXFR), SECONDARY, True), (query(c.IXFR), SECONDARY, True), (query(c.A), SECONDARY, False),
    (query(c.SOA), ("203.0.113.1", 5), False), (query(c.SOA)[:-1], SECONDARY, False), (b"", SECONDARY, False),
    (query(c.SOA, flags=5 << 11), SECONDARY, False), (query(c.SOA, flags=0x8000), SECONDARY, False),
]


@pytest.mark.parametrize("lane", [False, True])
@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize(("packet", "peer", "passed"), FROM_PEERS)
def test_requests_for_own_zones_need_no_access(
    parts: Parts, packet: bytes, peer: tuple[object, ...], passed: bool, drop: bool, lane: bool
) -> None:
    """Primaries and secondaries are no clients. Other clients are refused here, in C."""
    peers = ZonePeers((
        ZoneSettings(name="a.test.", primaries=("192.0.2.1",), allow_notify=("2001:db8::/32",)),
        ZoneSettings(name="b.test.", file="unused", allow_transfer=("198.51.100.0/24",)),
    ))
    everybody = ("0.0.0.0/0", "::/0")
    access = AccessTable((), () if drop else everybody, everybody if drop else ())
    fast = FastPath(parts.store.answers, access, peers=peers)
    if lane:
        fast = fast.for_lane()
    reply = fast.answer(packet, peer, NOW)
    assert (reply is None) is passed
    assert reply in (None, b"") or (not drop and reply[3] & 15 == c.REFUSED)
    assert reply != b"" or drop or len(packet) < 12 or packet[2] & 0x80


@pytest.mark.parametrize(("access", "second"), [(AccessTable(()), False), (AccessTable((), (), ("0.0.0.0/0",)), True)])
def test_requests_for_own_zones_have_the_limits_of_clients(parts: Parts, access: AccessTable, second: bool) -> None:
    """A flood with the address of a primary reaches Python no more often than one with the address of a client."""
    rates = RateLimits(RateLimitSettings(queries_per_second=1), (), None, bytes(16))
    peers = ZonePeers((ZoneSettings(name="a.test.", primaries=("192.0.2.1",)),))
    fast = FastPath(parts.store.answers, access, peers=peers, rates=rates)
    found = [fast.answer(NOTIFY, PRIMARY, NOW) for _ in range(1000)]
    assert found[0] is None and found.count(None) < 100
    assert (found[-1] == b"") is second


@pytest.mark.parametrize("packet", [b"", b"\0" * 11, query(flags=0x8000 | c.RD)])
def test_no_reply_to_fragments_and_responses(parts: Parts, packet: bytes) -> None:
    assert parts.fast.answer(packet, CLIENT, NOW) == b""
    statistics = parts.fast.statistics()
    assert (statistics["invalid_dropped"], sum(statistics["malformed"].values())) == (1, 1)


@pytest.mark.parametrize("packet", [query()[:-1], query()[:20], query() + b"x", query()[:12] + b"\xc0\x0c\0\1\0\1"])
def test_malformed_queries_get_a_bare_format_error(parts: Parts, packet: bytes) -> None:
    reply = parts.fast.answer(packet, CLIENT, NOW)
    assert reply is not None
    assert len(reply) == 12
    view = MessageView.parse(reply)
    assert (view.rcode, view.id, view.question_count, view.rd, view.ra) == (c.FORMERR, 77, 0, True, True)
    statistics = parts.fast.statistics()
    assert statistics["formerr"] == 1
    assert sum(statistics["malformed"].values()) == 1


@pytest.mark.parametrize("packet", [
    query(flags=0), query(qclass=c.CH), query(flags=c.RD | 4 << 11), query(options=[(c.OPTION_NSID, b"")]),
])
def test_unusual_queries_are_left_to_the_service(parts: Parts, packet: bytes) -> None:
    assert parts.fast.answer(packet, CLIENT, NOW) is None
    assert parts.fast.statistics()["non_plain"] == 1


def test_cookies_do_not_keep_a_query_off_the_fast_path(parts: Parts) -> None:
    assert parts.fast.answer(query(options=[(c.OPTION_COOKIE, bytes(8))]), CLIENT, NOW) is not None


def test_views_do_not_share_answers(parts: Parts) -> None:
    table = AccessTable(["127.0.0.0/8"], views=[ViewAccess(7, ("127.0.0.2/32",), None, False)])
    fast = FastPath(parts.store.answers, table)
    assert fast.answer(query(), CLIENT, NOW) is not None
    assert fast.answer(query(), ("127.0.0.2", 9), NOW) is None
    assert fast.statistics()["misses"] == 1


def test_a_view_without_cached_answers_goes_to_python(parts: Parts) -> None:
    table = AccessTable(["127.0.0.0/8"], views=[ViewAccess(1, ("127.0.0.1/32",), None, True)])
    fast = FastPath(parts.store.answers, table)
    assert fast.answer(query(), CLIENT, NOW) is None
    assert fast.statistics()["non_plain"] == 1


def test_a_stream_has_the_view_of_its_client(parts: Parts) -> None:
    table = AccessTable(["127.0.0.0/8"], views=[ViewAccess(7, ("127.0.0.2/32",), None, False)])
    frames = [query()]
    for host, hits in (("127.0.0.1", 1), ("127.0.0.2", 0), ("127.0.0.1", 1)):
        replies, missed, _, _ = parts.fast.answer_frames(frames, NOW, access=table.find(host))
        assert (bool(replies), len(missed)) == (bool(hits), 1 - hits), host
        reply, _ = parts.fast.answer_encrypted(frames[0], bytes(4), 0, NOW, table.find(host))
        assert (reply is not None) is bool(hits), host


def test_a_reply_is_truncated_to_the_payload_size_of_the_client() -> None:
    parts = Parts()
    parts.answer(query(edns_payload=None), positive(address(count=100)))
    reply = parts.fast.answer(query(edns_payload=None), CLIENT, NOW)
    assert reply is not None
    assert len(reply) <= 512
    assert MessageView.parse(reply).tc
    assert parts.fast.statistics()["truncated"] == 1


def cut(replies: bytes) -> list[MessageView]:
    """The messages of a stream."""
    views = []
    while replies:
        size = int.from_bytes(replies[:2], "big")
        views.append(MessageView.parse(replies[2:2 + size]))
        replies = replies[2 + size:]
    return views


def test_messages_of_a_stream_are_answered_together(parts: Parts) -> None:
    frames = [query(identity=1), query(c.MX, identity=2), query(identity=3), query()[:-1], query(flags=0)]
    replies, missed, done, malformed = parts.fast.answer_frames(frames, NOW)
    assert missed == [frames[1], frames[4]]
    assert (done, malformed) == (5, False)
    assert [(view.id, view.rcode) for view in cut(replies)] == [(1, c.NOERROR), (3, c.NOERROR), (77, c.FORMERR)]


def test_messages_before_garbage_are_answered_and_none_after_it(parts: Parts) -> None:
    frames = [query(identity=1), query(c.MX, identity=2), b"short", query(identity=3)]
    replies, missed, done, malformed = parts.fast.answer_frames(frames, NOW)
    assert (missed, done, malformed) == ([frames[1]], 3, True)
    assert [view.id for view in cut(replies)] == [1]


def large(parts: Parts) -> bytes:
    """A query whose answer of some 59 KB is in the cache."""
    packet = query(c.TXT, edns_payload=None)
    text = positive(address(count=100))
    big = type(text.answer[0])(QNAME, c.TXT, 300, [bytes([255]) + bytes([n]) * 255 for n in range(230)])
    text.answer[:] = [big]
    parts.answer(packet, text)
    return packet


def test_one_turn_of_a_stream_is_bounded_by_its_share_and_one_reply() -> None:
    parts = Parts()
    packet = large(parts)
    frames, first, turns = [packet] * 9, 0, 0
    while first < len(frames):
        before = parts.fast.statistics()["hits"]
        replies, missed, done, malformed = parts.fast.answer_frames(frames, NOW, first=first)
        assert (missed, malformed) == ([], False)
        assert [len(view.answer[0]) for view in cut(replies)] == [230] * (done - first)
        assert len(replies) < limits.STREAM_TURN_OCTETS + 65_537
        assert parts.fast.statistics()["hits"] - before == done - first, "nothing is made that does not leave"
        first, turns = done, turns + 1
    assert turns == 5


def test_query_is_read_once_for_the_service() -> None:
    found = read_query(query(c.MX, do=True, flags=c.RD | c.CD, edns_payload=1400, options=[(c.OPTION_NSID, b"ab")]))
    assert isinstance(found, ClientQuery)
    assert (found.id, found.qname, found.qtype, found.qclass) == (77, QNAME, c.MX, c.IN)
    assert (found.rd, found.cd, found.ad, found.do, found.has_edns) == (True, True, False, True, True)
    assert (found.payload, found.edns_version) == (1400, 0)
    assert found.options == options_to_wire([(c.OPTION_NSID, b"ab")])
    assert found.question_end == 12 + len(QNAME) + 4
    plain = read_query(query(edns_payload=None))
    assert isinstance(plain, ClientQuery)
    assert (plain.has_edns, plain.do, plain.options) == (False, False, b"")
    assert read_query(b"") < 0  # type: ignore[operator]
    assert read_query(query(flags=4 << 11)) == 1


def test_cached_reply_with_options_of_our_own(parts: Parts) -> None:
    packet = query(options=[(c.OPTION_NSID, b"")])
    found = read_query(packet)
    assert isinstance(found, ClientQuery)
    own = options_to_wire([(c.OPTION_NSID, b"me")])
    reply = parts.fast.cached(found, NOW, 1232, own)
    assert reply is not None
    view = MessageView.parse(reply)
    assert view.edns is not None
    assert (view.edns.get(c.OPTION_NSID), len(view.answer)) == (b"me", 1)
    other = read_query(query(c.MX))
    assert isinstance(other, ClientQuery)
    assert parts.fast.cached(other, NOW, 1232) is None
    small = parts.fast.cached(found, NOW, len(reply) - 1, own)
    assert small is not None
    assert MessageView.parse(small).tc


@given(st.binary(max_size=300))
def test_any_bytes_get_an_error_no_reply_or_are_left_to_python(data: bytes) -> None:
    parts = _SHARED
    reply = parts.fast.answer(data, CLIENT, NOW)
    if reply:
        assert reply[:2] == data[:2]
        assert reply[2] & 0x80
        MessageView.parse(reply)


@given(st.integers(0, len(query()) - 1), st.integers(0, 255), st.sampled_from([CLIENT, OTHER_CLIENT]))
def test_any_octet_of_a_query_may_be_wrong(where: int, octet: int, peer: tuple[str, int]) -> None:
    packet = bytearray(query())
    packet[where] = octet
    reply = _SHARED.fast.answer(bytes(packet), peer, NOW)
    if reply:
        view = MessageView.parse(reply)
        assert view.qr
        assert view.qname is None or names.lower(view.qname) != b""


_SHARED = Parts()
_SHARED.answer(query(), positive())
