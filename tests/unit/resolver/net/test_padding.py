"""Padding of replies (RFC 7830, RFC 8467): whole blocks on encrypted transports, nothing elsewhere."""

import pytest
from support.service_parts import Parts, Sink, address, positive, query

from resolver import limits
from resolver.net.padding import padding_option
from resolver.wire import consts as c
from resolver.wire.message import MessageView

PAD = (c.OPTION_PADDING, bytes(20))


class Encrypted(Sink):
    padding_block = limits.PADDING_BLOCK


@pytest.mark.parametrize("size", [0, 12, 463, 464, 465, 468, 900, 65_000])
def test_the_option_fills_up_to_a_whole_block(size: int) -> None:
    option = padding_option(size, 468)
    assert (size + len(option)) % 468 == 0 and len(option) < 468 + 4
    assert option[:2] == b"\0\x0c" and int.from_bytes(option[2:4], "big") == len(option) - 4
    assert not any(option[4:])


@pytest.mark.parametrize(("size", "total"), [(65_520, 65_535), (65_531, 65_535), (65_532, 65_532), (65_535, 65_535)])
def test_the_option_never_exceeds_the_limit(size: int, total: int) -> None:
    assert size + len(padding_option(size, 468)) == total


def padded(**options: object) -> bytes:
    return query(edns_payload=1232, options=[PAD], **options)  # type: ignore[arg-type]


def test_a_reply_of_the_service_is_padded() -> None:
    parts = Parts()
    sink = Encrypted(stream=True)
    view = parts.answer(padded(), positive(), sink=sink)
    assert sink.packets[-1] is not None and len(sink.packets[-1]) == 468
    assert view.edns is not None and view.edns.get(c.OPTION_PADDING) is not None and len(view.answer) == 1


def test_a_cached_reply_is_padded_by_the_fast_path() -> None:
    parts = Parts()
    parts.answer(padded(), positive(), sink=Encrypted(stream=True))
    reply, left = parts.fast.answer_encrypted(padded(identity=9), bytes(4), 468, parts.clock.real)
    assert reply is not None and len(reply) == 468 and left == 300
    view = MessageView.parse(reply)
    assert view.id == 9 and view.edns is not None
    assert view.edns.get(c.OPTION_PADDING) == bytes(468 - len(bare(parts)) - 4)
    replies, missed, done, malformed = parts.fast.answer_frames([padded()], parts.clock.real, block=468)
    assert (len(replies), missed, done, malformed) == (470, [], 1, False)


def bare(parts: Parts) -> bytes:
    """The cached reply without padding."""
    reply = parts.fast.answer(padded(), None, parts.clock.real, True)
    assert reply is not None
    return reply


def test_a_reply_is_padded_on_encrypted_transports_only() -> None:
    parts = Parts()
    view = parts.answer(padded(), positive(), sink=Sink(stream=True))
    assert view.edns is not None and view.edns.get(c.OPTION_PADDING) is None
    assert len(bare(parts)) < 100, "and the cached answer is found all the same"


def test_a_query_without_padding_gets_none() -> None:
    parts = Parts()
    sink = Encrypted(stream=True)
    plain = query(edns_payload=1232)
    parts.answer(plain, positive(), sink=sink)
    reply, _ = parts.fast.answer_encrypted(plain, bytes(4), 468, parts.clock.real)
    assert reply is not None and len(reply) < 100
    assert sink.packets[-1] is not None and len(sink.packets[-1]) < 100


def test_a_long_reply_takes_more_blocks() -> None:
    parts = Parts()
    parts.answer(padded(), positive(address(count=40)), sink=Encrypted(stream=True))
    reply, _ = parts.fast.answer_encrypted(padded(), bytes(4), 468, parts.clock.real)
    assert reply is not None and len(reply) == 936 and len(MessageView.parse(reply).answer[0]) == 40


def test_a_query_that_waits_stays_padded_when_it_is_shortened() -> None:
    parts = Parts()
    sink = Encrypted(stream=True)
    long = query(edns_payload=1232, options=[(c.OPTION_PADDING, bytes(1000))])
    pending = parts.ask(long, sink=sink)
    assert pending is not None and len(pending.query.wire) < limits.STORED_QUERY_OCTETS
    parts.mesh.finish(positive())
    assert sink.packets[-1] is not None and len(sink.packets[-1]) == 468


def test_nsid_and_padding_together_come_from_the_cache() -> None:
    parts = Parts(nsid="ns1")
    sink = Encrypted(stream=True)
    both = query(edns_payload=1232, options=[(c.OPTION_NSID, b""), PAD])
    parts.answer(query(edns_payload=1232), positive(), sink=sink)
    assert parts.ask(both, sink=sink) is None and not parts.mesh.tickets
    assert sink.packets[-1] is not None and len(sink.packets[-1]) == 468
    edns = sink.last.edns
    assert edns is not None and edns.get(c.OPTION_NSID) == b"ns1"

