"""Server cookies: test vectors of the RFC, validity in time, two secrets, and cookies on each path of a query."""

import pytest
from support.service_parts import CLIENT, Parts, Sink, positive, query

from resolver import limits
from resolver.net.cookies import ServerCookies
from resolver.settings import ServerSettings
from resolver.wire import consts as c
from resolver.wire.edns import options_from_wire
from resolver.wire.message import MessageView

# RFC 9018 appendix A: secret, client address, cookie of the query, time, cookie of the reply.
SECRET = "e5e973e5a6b2a43f48e7dc849e37bfcf"
OLD, NEW = "dd3bdf9344b678b185a6f5cb60fca715", "445536bcd2513298075a5d379663c962"
V6 = "2001:db8:220:1:59de:d0f4:8769:82b8"
VECTORS = [
    ([SECRET], "198.51.100.100", "2464c4abcf10c957", 1559731985, "2464c4abcf10c957010000005cf79f111f8130c3eee29480"),
    ([SECRET], "198.51.100.100", "2464c4abcf10c957010000005cf79f111f8130c3eee29480", 1559734385,
     "2464c4abcf10c957010000005cf7a871d4a564a1442aca77"),
    ([SECRET], "203.0.113.203", "fc93fc62807ddb8601abcdef5cf78f71a314227b6679ebf5", 1559734700,
     "fc93fc62807ddb86010000005cf7a9acf73a7810aca2381e"),
    ([NEW, OLD], V6, "22681ab97d52c298010000005cf7c57926556bd0934c72f8", 1559741961,
     "22681ab97d52c298010000005cf7c609a6bb79d16625507a"),
]
NOW = 1_800_000_000
MINE = bytes(range(8))


def server_cookies(*secrets: str, **options: object) -> ServerCookies:
    return ServerCookies([bytes.fromhex(secret) for secret in secrets], **options)


@pytest.mark.parametrize(("secrets", "client", "sent", "now", "expected"), VECTORS, ids=["A.1", "A.2", "A.3", "A.4"])
def test_vectors_of_rfc_9018(secrets: list[str], client: str, sent: str, now: int, expected: str) -> None:
    assert server_cookies(*secrets).answer(bytes.fromhex(sent), client, now).hex() == expected


def test_vectors_with_a_server_part_are_valid_in_their_time() -> None:
    assert server_cookies(SECRET).is_good(bytes.fromhex(VECTORS[1][2]), "198.51.100.100", 1559734385)
    assert server_cookies(SECRET).is_good(bytes.fromhex(VECTORS[2][2]), "203.0.113.203", 1559727985), (
        "reserved bits are hashed"
    )
    assert server_cookies(NEW, OLD).is_good(bytes.fromhex(VECTORS[3][2]), V6, 1559741961), (
        "the secret before is believed"
    )
    assert not server_cookies(NEW).is_good(bytes.fromhex(VECTORS[3][2]), V6, 1559741961)


@pytest.mark.parametrize(("age", "good", "same"), [
    (0, True, True), (1800, True, True), (1801, True, False), (3600, True, False), (3601, False, False),
    (-300, True, False), (-301, False, False), (40_000_000, False, False),
])
def test_the_time_limits_of_a_cookie(age: int, good: bool, same: bool) -> None:
    box = server_cookies(SECRET)
    cookie = box.answer(MINE, "192.0.2.1", NOW)
    assert box.is_good(cookie, "192.0.2.1", NOW + age) is good
    assert (box.answer(cookie, "192.0.2.1", NOW + age) == cookie) is same


def test_the_time_field_may_wrap() -> None:
    box = server_cookies(SECRET)
    before = (1 << 32) - 100
    cookie = box.answer(MINE, "192.0.2.1", before)
    assert box.is_good(cookie, "192.0.2.1", before + 1000)
    assert not box.is_good(cookie, "192.0.2.1", before + 4000)


def test_a_cookie_with_a_changed_octet_is_invalid() -> None:
    box = server_cookies(SECRET)
    cookie = box.answer(MINE, "192.0.2.1", NOW)
    for at in range(len(cookie)):
        for bit in range(8):
            changed = bytearray(cookie)
            changed[at] ^= 1 << bit
            assert not box.is_good(bytes(changed), "192.0.2.1", NOW), (at, bit)
    for address in ("192.0.2.2", "::1", "::ffff:192.0.2.1", "", "nonsense"):
        assert not box.is_good(cookie, address, NOW), address


@pytest.mark.parametrize("size", [16, 17, 23, 25, 40])
def test_server_parts_of_other_servers_are_invalid_and_replaced(size: int) -> None:
    box = server_cookies(SECRET)
    cookie = (box.answer(MINE, "192.0.2.1", NOW) + bytes(40))[:size]
    assert not box.is_good(cookie, "192.0.2.1", NOW)
    assert box.is_good(box.answer(cookie, "192.0.2.1", NOW), "192.0.2.1", NOW)


def test_drawn_secrets_change_daily_and_the_previous_one_is_accepted() -> None:
    day = limits.COOKIE_PERIOD
    box = ServerCookies(seed=b"x" * 32)
    midnight = NOW // day * day
    cookie = box.answer(MINE, "192.0.2.1", midnight - 100)
    assert box.is_good(cookie, "192.0.2.1", midnight + 100)
    renewed = box.answer(cookie, "192.0.2.1", midnight + 100)
    assert renewed != cookie, "of the new secret, though the old one is young"
    assert box.is_good(renewed, "192.0.2.1", midnight + 200)
    assert ServerCookies(seed=b"x" * 32).is_good(renewed, "192.0.2.1", midnight + 200), "another worker"
    assert not ServerCookies(seed=b"y" * 32).is_good(renewed, "192.0.2.1", midnight + 200)
    box.refresh(midnight - 3 * day)
    assert box.is_good(ServerCookies(seed=b"x" * 32).answer(MINE, "192.0.2.1", midnight - 3 * day), "192.0.2.1",
                       midnight - 3 * day), "a clock set back"


@pytest.mark.parametrize("secrets", [["ab"], ["zz" * 16], ["00" * 16] * 3, ["00" * 17]])
def test_malformed_secrets_are_refused(secrets: list[str]) -> None:
    with pytest.raises(ValueError, match="cookie_secrets"):
        ServerSettings(cookie_secrets=tuple(secrets))


def test_required_cookies_need_cookies() -> None:
    with pytest.raises(ValueError, match=r"needs server\.answer-cookies"):
        ServerSettings(answer_cookies=False, require_cookies=True)


# --- cookies in replies to clients --------------------------------------------------------------------------------


def ask(cookie: bytes | None = MINE, payload: int = 1232, **options: object) -> bytes:
    more = [] if cookie is None else [(c.OPTION_COOKIE, cookie)]
    return query(edns_payload=payload, options=more, **options)


def cookie_in(view: MessageView) -> bytes | None:
    assert view.edns is not None
    found = [value for code, value in view.edns.options if code == c.OPTION_COOKIE]
    assert len(found) <= 1
    return found[0] if found else None


def fast(parts: Parts, packet: bytes, peer: tuple = CLIENT) -> MessageView | None:
    """The reply of the fast path."""
    reply = parts.fast.answer(packet, peer, parts.clock.real)
    return None if reply is None else MessageView.parse(reply)


def warm(**server: object) -> Parts:
    """A service with one finished answer."""
    parts = Parts(**server)
    sink = Sink(stream=True)
    parts.ask(query(edns_payload=1232), sink=sink)
    parts.mesh.finish(positive())
    return parts


def test_a_miss_is_answered_with_a_cookie() -> None:
    parts = Parts(cookie_secrets=(SECRET,))
    view = parts.answer(ask(), positive())
    cookie = cookie_in(view)
    assert cookie is not None
    assert cookie[:8] == MINE
    assert server_cookies(SECRET).is_good(cookie, CLIENT[0], parts.clock.real)


def test_the_cookie_of_a_cold_query_is_counted_once() -> None:
    parts = Parts(cookie_secrets=(SECRET,))
    cookie = cookie_in(parts.answer(ask(), positive()))
    assert cookie is not None
    counted = {"cookies_first": 1, "cookies_good": 0, "cookies_bad": 0, "cookies_challenged": 0}
    assert parts.fast.cookies is not None
    assert parts.fast.cookies.statistics() == counted
    parts.answer(ask(cookie, qtype=c.AAAA), positive())
    assert parts.fast.cookies.statistics() == counted | {"cookies_good": 1}


def test_a_cache_hit_with_a_cookie_is_answered_in_c() -> None:
    parts = warm(cookie_secrets=(SECRET,))
    view = fast(parts, ask())
    assert view is not None
    cookie = cookie_in(view)
    assert cookie is not None
    assert server_cookies(SECRET).is_good(cookie, CLIENT[0], parts.clock.real)
    assert len(view.answer) == 1
    again = fast(parts, ask(cookie))
    assert again is not None
    assert cookie_in(again) == cookie
    assert parts.fast.statistics()["hits"] == 2
    assert parts.fast.statistics()["cookies_first"] == 1
    assert parts.fast.statistics()["cookies_good"] == 1


def test_ipv6_clients_have_their_own_cookies() -> None:
    parts = warm(cookie_secrets=(SECRET,))
    view = fast(parts, ask(), ("::1", 5, 0, 0))
    assert view is not None
    assert server_cookies(SECRET).is_good(cookie_in(view), "::1", parts.clock.real)


def test_messages_of_a_stream_have_the_cookies_of_its_client() -> None:
    parts = warm(cookie_secrets=(SECRET,))
    replies, missed, done, malformed = parts.fast.answer_frames(
        [ask(), ask(None)], parts.clock.real, bytes([127, 0, 0, 1])
    )
    assert (missed, done, malformed) == ([], 2, False)
    first = MessageView.parse(replies[2 : 2 + int.from_bytes(replies[:2], "big")])
    assert server_cookies(SECRET).is_good(cookie_in(first), "127.0.0.1", parts.clock.real)
    second = MessageView.parse(replies[2 + int.from_bytes(replies[:2], "big") + 2 :])
    assert cookie_in(second) is None


def test_secrets_are_drawn_once_per_day() -> None:
    parts = warm()
    parts.clock.real += limits.COOKIE_PERIOD
    assert fast(parts, ask()) is None, "Python has to draw them"
    parts.ask(ask())
    parts.mesh.finish(positive())
    assert fast(parts, ask()) is not None


def test_space_is_reserved_for_the_cookie() -> None:
    parts = warm(cookie_secrets=(SECRET,))
    for payload in range(512, 620):
        packet = ask(payload=payload)
        reply = parts.fast.answer(packet, CLIENT, parts.clock.real)
        assert reply is not None
        assert len(reply) <= payload
        assert cookie_in(MessageView.parse(reply)) is not None


def test_a_second_cookie_in_one_query_is_ignored() -> None:
    parts = warm(cookie_secrets=(SECRET,))
    packet = query(edns_payload=1232, options=[(c.OPTION_COOKIE, MINE), (c.OPTION_COOKIE, b"otherone")])
    view = fast(parts, packet)
    assert view is not None
    assert cookie_in(view)[:8] == MINE
    parts.ask(packet)
    assert cookie_in(parts.sink.last)[:8] == MINE


@pytest.mark.parametrize("size", [0, 1, 7, 9, 15, 41])
def test_a_cookie_of_a_wrong_length_is_a_format_error(size: int) -> None:
    parts = warm()
    view = fast(parts, ask(bytes(size)))
    assert view is not None
    assert view.rcode == c.FORMERR


def test_without_cookies_the_option_is_ignored() -> None:
    parts = Parts(answer_cookies=False)
    assert cookie_in(parts.answer(ask(), positive())) is None
    view = fast(parts, ask())
    assert view is not None
    assert cookie_in(view) is None


# --- with required cookies ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["fast", "service"])
def test_badcookie_has_a_valid_cookie(path: str) -> None:
    parts = warm(require_cookies=True)
    if path == "fast":
        view = fast(parts, ask())
    else:
        parts.ask(ask())
        view = parts.sink.last
    assert view is not None
    assert view.rcode == c.BADCOOKIE
    assert (view.answer, view.tc, view.qtype) == ([], False, c.A)
    cookie = cookie_in(view)
    assert cookie is not None
    view = fast(parts, ask(cookie))
    assert view is not None
    assert (view.rcode, len(view.answer)) == (c.NOERROR, 1)
    parts.ask(ask(cookie, qtype=c.MX))
    assert len(parts.mesh.tickets) == 1


@pytest.mark.parametrize("path", ["fast", "service"])
@pytest.mark.parametrize("edns", [True, False])
def test_those_without_cookies_are_sent_to_tcp(path: str, edns: bool) -> None:
    parts = warm(require_cookies=True)
    packet = ask(None) if edns else query(edns_payload=None)
    if path == "fast":
        view = fast(parts, packet)
    else:
        parts.ask(packet)
        view = parts.sink.last
    assert view is not None
    assert (view.rcode, view.tc, list(view.answer)) == (c.NOERROR, True, [])
    assert parts.fast.statistics()["cookies_challenged"] == 1
    replies, missed, *_ = parts.fast.answer_frames([packet], parts.clock.real, bytes([127, 0, 0, 1]))
    assert replies
    assert not missed


def test_a_cookie_of_another_client_gets_badcookie() -> None:
    parts = warm(require_cookies=True)
    view = fast(parts, ask())
    assert view is not None
    stolen = cookie_in(view)
    view = fast(parts, ask(stolen), ("127.0.0.2", 5))
    assert view is not None
    assert view.rcode == c.BADCOOKIE
    parts.ask(ask(stolen, qtype=c.MX), peer=("127.0.0.2", 5))
    assert parts.sink.last.rcode == c.BADCOOKIE
    assert parts.mesh.tickets == []


def test_a_reply_without_proof_of_address_is_hardly_larger_than_its_query() -> None:
    parts = warm(require_cookies=True)
    for packet in (ask(), ask(None), query(edns_payload=None)):
        reply = parts.fast.answer(packet, CLIENT, parts.clock.real)
        assert reply is not None
        assert len(reply) <= len(packet) + 16


def test_options_of_other_kinds_keep_their_answers() -> None:
    parts = Parts(identity="here", cookie_secrets=(SECRET,))
    packet = query(edns_payload=1232, options=[(c.OPTION_NSID, b""), (c.OPTION_COOKIE, MINE)])
    view = parts.answer(packet, positive())
    assert view.edns is not None
    assert {code for code, _ in options_from_wire(view.edns.raw_options)} == {c.OPTION_NSID, c.OPTION_COOKIE}
