"""edns-tcp-keepalive (RFC 7828): answered by the fast path and by the service, on streams only."""

import pytest
from support.service_parts import Parts, Sink, address, positive, query

from resolver import limits
from resolver.wire import consts as c
from resolver.wire.edns import encode_keepalive, keepalive_units
from resolver.wire.message import MessageView
from resolver.wire.rrset import RRset

KEEPALIVE = (c.OPTION_KEEPALIVE, b"")
PAD = (c.OPTION_PADDING, b"")
IDLE = Sink.idle_timeout
UNITS = keepalive_units(IDLE)


def warm(**options: object) -> Parts:
    """A cache with the answer."""
    parts = Parts()
    parts.answer(query(edns_payload=1232), positive(**options), sink=Sink(stream=True))  # type: ignore[arg-type]
    return parts


def option(reply: bytes) -> bytes | None:
    view = MessageView.parse(reply)
    assert view.edns is not None and view.rcode == c.NOERROR and view.answer
    return view.edns.get(c.OPTION_KEEPALIVE)


def over_stream(parts: Parts, packet: bytes, **options: int) -> bytes:
    """The reply of the fast path; an error when the query goes to the service."""
    replies, missed, done, malformed = parts.fast.answer_frames([packet], parts.clock.real, **options)  # type: ignore[arg-type]
    assert (missed, done, malformed) == ([], 1, False)
    assert int.from_bytes(replies[:2], "big") == len(replies) - 2
    return replies[2:]


@pytest.mark.parametrize("content", [b"", b"\0\0", b"\x01\x02", b"abc"])
def test_a_cached_answer_has_the_idle_timeout(content: bytes) -> None:
    """The content of the option in a query has no meaning, as for the service."""
    parts = warm()
    packet = query(edns_payload=1232, options=[(c.OPTION_KEEPALIVE, content)])
    reply = over_stream(parts, packet, keepalive=UNITS)
    assert option(reply) == encode_keepalive(IDLE) == b"\0\x64"
    assert parts.fast.statistics()["hits"] == 1 and parts.fast.statistics()["non_plain"] == 0


def test_the_service_gives_the_same_reply() -> None:
    parts = Parts()
    sink = Sink(stream=True)
    packet = query(edns_payload=1232, options=[KEEPALIVE])
    parts.answer(packet, positive(), sink=sink)
    assert sink.packets == [over_stream(parts, packet, keepalive=UNITS)]


@pytest.mark.parametrize("seconds", [0.1, 10, 120, 6553.5, 100_000])
def test_the_timeout_has_sixteen_bits(seconds: float) -> None:
    parts = warm()
    packet = query(edns_payload=1232, options=[KEEPALIVE])
    assert option(over_stream(parts, packet, keepalive=keepalive_units(seconds))) == encode_keepalive(seconds)
    assert option(over_stream(parts, packet, keepalive=2**31 - 1)) == b"\xff\xff"


def test_a_client_that_does_not_ask_gets_no_option() -> None:
    parts = warm()
    assert option(over_stream(parts, query(edns_payload=1232), keepalive=UNITS)) is None


def test_over_udp_the_option_is_ignored() -> None:
    """RFC 7828 section 3.3.1. The query is answered as if it were not there."""
    parts = warm()
    over_stream(parts, query(edns_payload=1232, options=[KEEPALIVE]), keepalive=UNITS)  # leaves nothing behind
    reply = parts.fast.answer(query(edns_payload=1232, options=[KEEPALIVE]), None, parts.clock.real)
    assert reply is not None and option(reply) is None
    assert reply == parts.fast.answer(query(edns_payload=1232), None, parts.clock.real)


def test_over_https_and_quic_the_option_is_ignored() -> None:
    """These have idle timeouts of their own."""
    parts = warm()
    over_stream(parts, query(edns_payload=1232, options=[KEEPALIVE]), keepalive=UNITS)
    reply, left = parts.fast.answer_encrypted(
        query(edns_payload=1232, options=[KEEPALIVE]), bytes(4), 0, parts.clock.real
    )
    assert reply is not None and left and option(reply) is None

    class Https(Sink):
        idle_timeout = 0.0

    sink = Https(stream=True)
    view = Parts().answer(query(edns_payload=1232, options=[KEEPALIVE]), positive(), sink=sink)
    assert view.edns is not None and view.edns.get(c.OPTION_KEEPALIVE) is None


def test_padding_comes_last_and_fills_the_block() -> None:
    parts = warm()
    packet = query(edns_payload=1232, options=[KEEPALIVE, PAD])
    reply = over_stream(parts, packet, keepalive=UNITS, block=limits.PADDING_BLOCK)
    assert len(reply) == limits.PADDING_BLOCK and option(reply) == encode_keepalive(IDLE)
    edns = MessageView.parse(reply).edns
    assert edns is not None and [code for code, _ in edns.options] == [c.OPTION_KEEPALIVE, c.OPTION_PADDING]


@pytest.mark.parametrize("spare", [0, 5, 6, 7, 20])
def test_the_option_never_makes_a_message_too_large(spare: int) -> None:
    """`spare` octets are free in the largest message. The reply is cut where the option does not fit."""

    def cached(filler: int) -> tuple[Parts, bytes]:
        parts = Parts()
        large = [RRset(address().name, 65_281 + n, 300, [bytes(20_000)]) for n in range(3)]
        last = RRset(address().name, 65_280, 300, [bytes(filler)])
        sink = Sink(stream=True)
        parts.answer(query(edns_payload=1232), positive(address(), *large, last), sink=sink)
        assert sink.packets[-1] is not None
        return parts, sink.packets[-1]

    _, shorter = cached(100)
    parts, whole = cached(100 + c.MESSAGE_MAX - spare - len(shorter))
    assert len(whole) == c.MESSAGE_MAX - spare
    packet = query(edns_payload=1232, options=[KEEPALIVE])
    reply = over_stream(parts, packet, keepalive=UNITS)
    edns = MessageView.parse(reply).edns
    assert edns is not None and edns.get(c.OPTION_KEEPALIVE) == encode_keepalive(IDLE)
    assert len(reply) == len(whole) + 6 if spare >= 6 else len(reply) < 200 and reply[2] & 0x02
