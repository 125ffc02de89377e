"""Limits of rates: queries of a prefix, replies by kind, slip, window, exemptions, and the table of buckets."""

import random
from dataclasses import replace
from typing import Any

import pytest
from support.service_parts import NOW, QNAME, Parts, address, failed, positive, query

from resolver.net.fastpath import FastPath
from resolver.net.rate_limit import RateBuckets, RateLimits
from resolver.policy import AccessTable
from resolver.policy.ranges import ViewAccess
from resolver.settings import Settings, ViewSettings
from resolver.settings.quotas import RateLimitSettings
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

MINE = bytes(8)
ANYBODY = ("0.0.0.0/0", "::/0")


class Limited:
    """A fast path with limits, whose cache knows one address, and the service behind it."""

    def __init__(self, views: Any = (), table: AccessTable | None = None, **settings: Any) -> None:
        self.settings = RateLimitSettings(**settings)
        self.parts = Parts()
        self.parts.answer(query(), positive())
        self.rates = RateLimits(self.settings, views, None, bytes(16))
        self.fast = FastPath(
            self.parts.store.answers, table or AccessTable(ANYBODY), cookies=self.parts.fast.cookies, rates=self.rates
        )

    def ask(self, packet: bytes | None = None, host: str = "192.0.2.1", now: int = NOW) -> str:
        """What a client gets: a word."""
        return word(self.fast.answer(packet or query(), (host, 4000), now))

    def ask_often(self, count: int, **given: Any) -> dict[str, int]:
        found: dict[str, int] = {}
        for _ in range(count):
            got = self.ask(**given)
            found[got] = found.get(got, 0) + 1
        return found


def word(reply: bytes | None) -> str:
    if reply is None:
        return "passed"
    if not reply:
        return "nothing"
    view = MessageView.parse(reply)
    if view.tc:
        assert not view.answer
        return "truncated"
    return "answer" if view.answer else c.rcode_to_text(view.rcode)


def test_replies_beyond_the_rate_are_dropped_and_every_second_one_is_truncated() -> None:
    limited = Limited(responses_per_second=5, slip=2, window=5)
    assert limited.ask_often(25) == {"answer": 5, "nothing": 10, "truncated": 10}
    statistics = limited.rates.statistics()
    assert statistics["replies_dropped"]["answers"] == statistics["replies_truncated"]["answers"] == 10


def test_a_flood_is_limited_until_it_pauses_for_the_window() -> None:
    limited = Limited(responses_per_second=5, slip=0, window=3)
    limited.ask_often(100)
    assert limited.ask_often(5, now=NOW + 1) == {"nothing": 5}
    assert limited.ask_often(5, now=NOW + 4) == {"nothing": 5}, "three seconds pay a debt of three, and no more"
    assert limited.ask_often(5, now=NOW + 6) == {"answer": 5}
    assert limited.ask_often(6, now=NOW + 20) == {"answer": 5, "nothing": 1}, "no more than one second is saved up"


@pytest.mark.parametrize(("slip", "found"), [
    (0, {"answer": 2, "nothing": 12}), (1, {"answer": 2, "truncated": 12}),
    (3, {"answer": 2, "nothing": 8, "truncated": 4}),
])
def test_slip(slip: int, found: dict[str, int]) -> None:
    assert Limited(responses_per_second=2, slip=slip).ask_often(14) == found


def test_prefixes_are_counted_apart_and_their_addresses_together() -> None:
    limited = Limited(responses_per_second=2, slip=0, ipv4_prefix=24, ipv6_prefix=56)
    assert [limited.ask(host=f"192.0.2.{n}") for n in range(3)] == ["answer", "answer", "nothing"]
    assert limited.ask(host="192.0.3.1") == "answer"
    assert limited.ask(host="::ffff:192.0.2.9") == "nothing", "IPv4 on a socket of IPv6"
    assert [limited.ask(host=f"2001:db8:0:{n:x}::1") for n in (1, 2, 0xff)] == ["answer", "answer", "nothing"]
    assert limited.ask(host="2001:db8:0:100::1") == "answer"


def test_bits_within_an_octet_count() -> None:
    limited = Limited(responses_per_second=1, slip=0, ipv4_prefix=20)
    assert [limited.ask(host=host) for host in ("10.0.16.1", "10.0.31.255", "10.0.32.0")] == [
        "answer", "nothing", "answer"]


def test_letter_case_is_no_way_around_the_limit() -> None:
    limited = Limited(responses_per_second=1, slip=0)
    assert limited.ask() == "answer"
    assert limited.ask(query(qname=QNAME.replace(b"w", b"W"))) == "nothing"


def test_a_valid_cookie_and_streams_are_exempt() -> None:
    limited = Limited(responses_per_second=1, slip=1)
    reply = limited.fast.answer(query(options=[(c.OPTION_COOKIE, MINE)]), ("192.0.2.1", 4000), NOW)
    assert reply is not None
    reply = limited.fast.answer(query(options=[(c.OPTION_COOKIE, MINE)]), ("192.0.2.1", 4000), NOW)
    assert word(reply) == "truncated"
    edns = MessageView.parse(reply or b"").edns
    assert edns is not None
    cookie = edns.get(c.OPTION_COOKIE)
    assert cookie is not None and len(cookie) == 24, "the next query of this client is not limited"
    assert limited.ask_often(5, packet=query(options=[(c.OPTION_COOKIE, cookie)])) == {"answer": 5}
    assert limited.ask_often(2, packet=query(options=[(c.OPTION_COOKIE, MINE + bytes(16))])) == {"truncated": 2}
    for _ in range(5):
        replies, missed, _, _ = limited.fast.answer_frames([query()], NOW, client=bytes([192, 0, 2, 1]))
        assert replies and not missed
    reply, _ = limited.fast.answer_encrypted(query(), bytes([192, 0, 2, 1]), 0, NOW)
    assert word(reply) == "answer"


def test_exempt_prefixes_and_log_only() -> None:
    limited = Limited(responses_per_second=1, queries_per_second=2, exempt=("192.0.2.0/25", "2001:db8::/32"))
    assert limited.ask_often(5) == limited.ask_often(5, host="2001:db8::1") == {"answer": 5}
    assert limited.ask_often(5, host="192.0.2.200") == {"answer": 1, "nothing": 2, "REFUSED": 2}
    logged = Limited(responses_per_second=1, queries_per_second=2, log_only=True)
    assert logged.ask_often(5) == {"answer": 5}
    statistics = logged.rates.statistics()
    assert (statistics["replies_logged"]["answers"], statistics["queries_logged"]["unverified"]) == (4, 3)
    assert sum(statistics["replies_dropped"].values()) == 0


@pytest.mark.parametrize(("action", "found"), [
    ("refuse", "REFUSED"), ("drop", "nothing"), ("truncate", "truncated"),
])
def test_queries_beyond_the_rate(action: str, found: str) -> None:
    limited = Limited(queries_per_second=3, queries_action=action)
    assert limited.ask_often(10) == {"answer": 3, found: 7}
    assert limited.ask_often(10, now=NOW + 1) == {"answer": 3, found: 7}, "no debt"
    words = {"refuse": "refused", "drop": "dropped", "truncate": "truncated"}
    assert limited.rates.statistics()[f"queries_{words[action]}"] == {"unverified": 14, "verified": 0}


def test_queries_of_all_kinds_are_counted() -> None:
    limited = Limited(queries_per_second=4)
    packets = [query(), query(c.AAAA), query(flags=0), query()[:-1], query(), query(c.AAAA), query()[:-1],
               query(flags=0x8000 | c.RD)]
    assert [limited.ask(packet) for packet in packets] == [
        "answer", "passed", "passed", "FORMERR", "REFUSED", "REFUSED", "REFUSED", "nothing"]


def test_verified_queries_have_a_limit_of_their_own() -> None:
    limited = Limited(queries_per_second=1, verified_queries_per_second=3, queries_action="drop")
    host = bytes([192, 0, 2, 1])
    frames = [limited.fast.answer_frames([query()], NOW, client=host)[0] for _ in range(5)]
    assert [word(frame[2:]) for frame in frames] == ["answer"] * 3 + ["REFUSED"] * 2, "a stream is not closed"
    assert limited.ask_often(2) == {"answer": 1, "nothing": 1}
    free = Limited(queries_per_second=1)
    assert all(free.fast.answer_frames([query()], NOW, client=host)[0] for _ in range(5)), "without a limit: exempt"


def test_clients_without_access_take_no_tokens_of_queries_and_get_few_errors() -> None:
    limited = Limited(queries_per_second=1, errors_per_second=2, slip=2, table=AccessTable(("127.0.0.0/8",)))
    assert limited.ask_often(6) == {"REFUSED": 4, "nothing": 2}, "errors that slip are sent as they are"
    assert limited.rates.statistics()["replies_truncated"]["errors"] == 2


def test_views_have_rates_of_their_own() -> None:
    common = RateLimitSettings(responses_per_second=2, all_per_second=50, slip=0)
    views = [ViewSettings(name="a", clients=("10.0.0.0/8",), responses_per_second=4).rates(common),
             ViewSettings(name="b", clients=("11.0.0.0/8",), responses_per_second=0).rates(common)]
    table = AccessTable(ANYBODY, views=[ViewAccess(1, ("10.0.0.0/8",), None, False),
                                        ViewAccess(2, ("11.0.0.0/8",), None, False)])
    limited = Limited(views, table, responses_per_second=2, all_per_second=50, slip=0)
    assert limited.ask_often(6) == {"answer": 2, "nothing": 4}
    reply = limited.parts.fast.answer(query(), ("127.0.0.1", 1), NOW)
    assert reply is not None
    sent = [limited.fast.limit_reply(query(), reply, "10.0.0.1", NOW, 1) is not None for _ in range(6)]
    assert sent == [True] * 4 + [False] * 2
    assert all(limited.fast.limit_reply(query(), reply, "11.0.0.1", NOW, 2) for _ in range(60))


# --- kinds --------------------------------------------------------------------------------------------------------


def reply_of(rcode: int = 0, *, qname: str = "x.example.", answers: int = 0, zone: str = "", rtype: int = c.SOA,
             tc: bool = False) -> bytes:
    """A reply with `answers` A records and one authority record of `zone`, compressed against the question."""
    name = names.from_text(qname)
    flags = 0x8180 | rcode | (c.TC if tc else 0)
    head = (77).to_bytes(2, "big") + flags.to_bytes(2, "big") + b"\0\1" + answers.to_bytes(2, "big")
    head += (1 if zone else 0).to_bytes(2, "big") + b"\0\0"
    made = head + name + b"\0\1\0\1"
    for _ in range(answers):
        made += b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4\xc0\0\2\1"
    if zone:
        owner = names.from_text(zone)
        at = name.find(owner)
        made += (0xC000 + 12 + at).to_bytes(2, "big") if at >= 0 else owner
        made += rtype.to_bytes(2, "big") + b"\0\1\0\0\0\x3c\0\0"
    return made


@pytest.mark.parametrize(("made", "kind"), [
    (reply_of(answers=1), "answers"), (reply_of(tc=True), "answers"), (reply_of(zone="example."), "nodata"),
    (reply_of(), "nodata"), (reply_of(3, zone="example."), "nxdomain"), (reply_of(3), "nxdomain"),
    (reply_of(3, answers=2, zone="other."), "nxdomain"), (reply_of(zone="example.", rtype=c.NS), "referrals"),
    (reply_of(2), "errors"), (reply_of(5), "errors"), (reply_of()[:4] + bytes(8), "errors"),
    (reply_of()[:20], "errors"), (reply_of(3, answers=40)[:60], "nxdomain"),
])
def test_kinds_of_replies(made: bytes, kind: str) -> None:
    limited = Limited(responses_per_second=1, slip=0)
    sent = [limited.fast.limit_reply(query(), made, "192.0.2.1", NOW) for _ in range(3)]
    assert sent == [made, None, None]
    assert limited.rates.statistics()["replies_dropped"][kind] == 2


def test_names_that_do_not_exist_count_for_their_zone() -> None:
    limited = Limited(nxdomains_per_second=2, slip=0)
    made = [reply_of(3, qname=f"x{n}.{zone}", zone=zone) for n in range(3) for zone in ("one.example.", "Two.example.")]
    sent = [limited.fast.limit_reply(query(), packet, "192.0.2.1", NOW) is not None for packet in made]
    assert sent == [True] * 4 + [False] * 2
    assert limited.ask_often(10) == {"answer": 10}, "the others have no limit"


def test_all_replies_together() -> None:
    limited = Limited(all_per_second=3, slip=1)
    made = [reply_of(qname=f"x{n}.example.", answers=1) for n in range(5)]
    sent = [limited.fast.limit_reply(query(), packet, "192.0.2.1", NOW) is not None for packet in made]
    assert sent == [True] * 3 + [False] * 2, "they do not slip"


# --- the service --------------------------------------------------------------------------------------------------


def test_replies_of_the_service_are_limited_too() -> None:
    limited = Limited(responses_per_second=2, errors_per_second=1, slip=0)
    parts = limited.parts
    parts.service._fast, parts.service._limits_replies = limited.fast, True
    for number in range(4):
        parts.ask(query(c.AAAA, identity=number))
        parts.mesh.finish(positive(address(0)))  # not cached
    assert [packet is not None for packet in parts.sink.packets[1:]] == [True, True, False, False]
    for number in range(3):
        parts.ask(query(c.MX, identity=number))
        parts.mesh.finish(failed(ttl=0))
    assert [packet is not None for packet in parts.sink.packets[5:]] == [True, False, False]


# --- the table ----------------------------------------------------------------------------------------------------


def test_a_reload_keeps_the_counts_and_changes_the_rates() -> None:
    limited = Limited(responses_per_second=2, slip=0)
    assert limited.ask_often(3) == {"answer": 2, "nothing": 1}
    changed = RateLimits(replace(limited.settings, responses_per_second=100), (), limited.rates.buckets)
    limited.fast = FastPath(limited.parts.store.answers, AccessTable(ANYBODY), rates=changed)
    assert limited.ask() == "nothing"
    assert limited.ask_often(50, now=NOW + 1) == {"answer": 50}
    assert changed.statistics()["replies_dropped"]["answers"] == 2
    assert RateLimits(replace(limited.settings, table_entries=1024), (), changed.buckets).buckets.entries == 1024


def test_strangers_with_many_prefixes_do_not_end_a_limit() -> None:
    rng = random.Random(5)
    limited = Limited(responses_per_second=3, slip=0, window=60, table_entries=1024, ipv4_prefix=32)
    limited.ask_often(200)
    for _ in range(20_000):
        limited.ask(host=f"{rng.randrange(1, 224)}.{rng.randrange(256)}.{rng.randrange(256)}.9")
    assert limited.ask() == "nothing"
    assert limited.rates.statistics()["buckets_evicted"] == 0


def test_a_clock_that_is_set_back_ends_no_limit() -> None:
    limited = Limited(responses_per_second=2, slip=0)
    limited.ask_often(5)
    assert limited.ask(now=NOW - 50) == "nothing"
    assert limited.ask_often(2, now=NOW + 20) == {"answer": 2}


def test_events_name_each_prefix_once() -> None:
    limited = Limited(responses_per_second=1, queries_per_second=4)
    limited.ask_often(10)
    limited.ask_often(3, host="2001:db8::1")
    assert limited.rates.take_events() == [
        ("192.0.2.0/24", "answers", "dropped"), ("192.0.2.0/24", "unverified", "refused"),
        ("192.0.2.0/24", "errors", "dropped"), ("2001:db8::/56", "answers", "dropped")]
    assert limited.rates.take_events() == []
    for second in range(10):
        limited.ask_often(10, now=NOW + 60 + 2 * second)
    assert [kind for _, kind, _ in limited.rates.take_events()] == ["answers", "unverified", "errors"]
    for number in range(40):
        limited.ask_often(2, host=f"10.0.{number}.1")
    assert len(limited.rates.take_events()) == 16


def test_nothing_is_limited_without_settings() -> None:
    limited = Limited()
    assert not limited.rates.active
    assert limited.ask_often(1000) == {"answer": 1000}
    assert not Settings().rate_limit.queries_per_second


def test_wrong_settings_are_named() -> None:
    for wrong, text in (({"slip": 11}, "rate_limit.slip: 11"), ({"exempt": ("x",)}, "rate_limit.exempt"),
                        ({"queries_action": "hang"}, "rate_limit.queries_action"),
                        ({"responses_per_second": -1}, "rate_limit.responses_per_second")):
        with pytest.raises(ValueError, match=text):
            RateLimitSettings(**wrong)
    with pytest.raises(ValueError, match="queries_per_second"):
        ViewSettings(name="a", clients=("10.0.0.0/8",), queries_per_second=-2)
    with pytest.raises(ValueError, match="table_entries"):
        RateBuckets(7)
