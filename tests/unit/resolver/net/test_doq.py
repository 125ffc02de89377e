"""DNS over QUIC without I/O: what a stream may carry (RFC 9250 sections 4.2 and 4.3.3)."""

import pytest
from support.service_parts import query

from resolver.net.doq import MessageReader, ProtocolError, check_query, frame
from resolver.wire import consts as c

QUERY = query(identity=0)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_message_is_read_in_any_pieces(size: int) -> None:
    data, reader = frame(QUERY), MessageReader()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    for piece in pieces:
        assert reader.feed(piece, False) is None
    assert reader.held == len(data)
    assert reader.feed(b"", True) == QUERY


def test_a_message_may_end_with_its_stream() -> None:
    assert MessageReader().feed(frame(QUERY), True) == QUERY
    assert MessageReader().feed(frame(bytes(65_535)), True) == bytes(65_535)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\1", frame(QUERY)[:-1], b"\xff\xff" + bytes(65_534)])
def test_a_stream_that_ends_too_early_is_an_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="ended within its message"):
        MessageReader().feed(data, True)


@pytest.mark.parametrize("end", [False, True])
def test_more_than_one_message_is_an_error(end: bool) -> None:
    with pytest.raises(ProtocolError, match="more than one message"):
        MessageReader().feed(frame(QUERY) + b"\0", end)


def test_held_octets_are_bounded() -> None:
    reader = MessageReader()
    reader.feed(b"\xff\xff" + bytes(65_535), False)
    with pytest.raises(ProtocolError):
        reader.feed(b"\0", False)


def test_usual_queries_are_accepted() -> None:
    check_query(QUERY)
    check_query(query(identity=0, options=[(c.OPTION_PADDING, b"\0\x0b" * 9)]))
    check_query(query(identity=0, qname=b"\2\0\x0b\0"))


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (b"", "not a query"),
        (QUERY[:11], "not a query"),
        (QUERY[:2] + b"\x81" + QUERY[3:], "not a query"),
        (query(identity=1), "id is not 0"),
        (query(identity=256), "id is not 0"),
        (query(identity=0, options=[(c.OPTION_KEEPALIVE, b"")]), "edns-tcp-keepalive"),
        (query(identity=0, options=[(c.OPTION_NSID, b""), (c.OPTION_KEEPALIVE, b"\0\1")]), "edns-tcp-keepalive"),
    ],
)
def test_violations_are_errors(message: bytes, rule: str) -> None:
    with pytest.raises(ProtocolError, match=rule):
        check_query(message)
