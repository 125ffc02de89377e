"""Matching of replies: every single deviation of a packet from the right reply is tried, and rejected.

The names of the tests contain the names of the attacks that `match` prevents.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver.net.clock_random import Entropy
from resolver.net.match import explain_match, is_reply, make_packet, truncated_stub
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

QNAME = names.from_text("wWw.Example.com.")
SENT = make_packet(QNAME, c.A, 0x1234, payload=1232, do=True)
END = 12 + len(QNAME) + 4


def reply(**changes: int) -> bytearray:
    packet = bytearray(SENT)
    packet[2] |= 0x80
    for key, value in changes.items():
        packet[int(key[1:])] = value
    return packet


def test_query_reads_back() -> None:
    view = MessageView.parse(make_packet(QNAME, c.AAAA, 7, flags=c.RD | c.CD, payload=1400, do=True))
    assert (view.id, view.qname, view.qtype, view.qclass) == (7, QNAME, c.AAAA, c.IN)
    assert (view.rd, view.cd, view.qr, view.opcode) == (True, True, False, c.QUERY)
    assert view.edns is not None
    assert (view.edns.payload, view.edns.do, view.edns.version) == (1400, True, 0)


def test_query_without_edns_has_no_additional_record() -> None:
    packet = make_packet(QNAME, c.A, 7)
    assert len(packet) == END
    assert MessageView.parse(packet).edns is None


@pytest.mark.parametrize("qname", [b"", b"\x01a" * 130 + b"\0"])
def test_impossible_name_is_refused(qname: bytes) -> None:
    with pytest.raises(ValueError, match="octets"):
        make_packet(qname, c.A, 1)


def test_case_bits_change_letters_only_and_all_of_them() -> None:
    qname = names.from_text("0123-_az.\\000\\255AZ.mixed.")
    seen = [set() for _ in qname]
    entropy = Entropy()
    for _ in range(64):
        sent = make_packet(qname, c.A, 1, case_bits=entropy)[12:-4]
        assert names.lower(sent) == names.lower(qname)
        for where, octet in zip(seen, sent, strict=True):
            where.add(octet)
    for octet, where in zip(qname, seen, strict=True):
        assert len(where) == (2 if bytes([octet]).isalpha() else 1)


def test_right_reply() -> None:
    assert is_reply(SENT, bytes(reply()))


@pytest.mark.parametrize(("packet", "word"), [
    (b"", "short"),
    (bytes(reply())[:11], "short"),
    (bytes(reply(_0=0x13)), "id"),
    (bytes(reply(_1=0x35)), "id"),
    (SENT, "query"),
    (bytes(reply(_2=0x80 | 4 << 3)), "query"),
    (bytes(reply(_5=2)), "question"),
    (bytes(reply(_4=1)), "question"),
    (bytes(reply(_13=ord("v"))), "question"),
    (bytes(reply())[:END - 1], "question"),
    (bytes(reply(**{f"_{END - 3}": c.AAAA})), "question"),
    (bytes(reply(**{f"_{END - 1}": c.CH})), "question"),
    (bytes(reply(_13=ord("W"))), "case"),
])
def test_deviation_is_named(packet: bytes, word: str) -> None:
    assert explain_match(SENT, packet) == word
    assert not is_reply(SENT, packet)


@pytest.mark.parametrize("rcode", [c.FORMERR, c.SERVFAIL, c.NOTIMP, c.REFUSED])
def test_an_empty_question_is_accepted_in_an_error_over_tcp(rcode: int) -> None:
    packet = bytes([0x12, 0x34, 0x80, rcode]) + bytes(8)
    assert explain_match(SENT, packet) == "bare"
    assert is_reply(SENT, packet, allow_no_question=True)
    assert not is_reply(SENT, packet), "it does not repeat the letter case"


@pytest.mark.parametrize("rcode", [c.NOERROR, c.NXDOMAIN, c.YXDOMAIN])
def test_tudoor_header_only_reply_is_ignored(rcode: int) -> None:
    assert not is_reply(SENT, bytes([0x12, 0x34, 0x80, rcode]) + bytes(8), allow_no_question=True)


@pytest.mark.parametrize("counts", [b"\0\1\0\0", b"\0\0\0\1", b"\1\0\0\0", b"\0\0\1\0"])
def test_empty_question_with_records_is_ignored(counts: bytes) -> None:
    assert not is_reply(SENT, bytes([0x12, 0x34, 0x80, c.SERVFAIL, 0, 0]) + counts + bytes(2), allow_no_question=True)


@given(st.integers(0, END - 1), st.integers(1, 255))
def test_no_changed_octet_of_id_or_question_gets_past(where: int, change: int) -> None:
    packet = reply()
    packet[where] ^= change
    allowed = where in (2, 3) or 6 <= where < 12
    if not allowed:
        assert not is_reply(SENT, bytes(packet))


@given(st.binary(max_size=80))
def test_random_packets_are_never_replies(data: bytes) -> None:
    assert not is_reply(SENT, data) or data[:2] == SENT[:2]


def test_truncated_stub_keeps_header_and_question() -> None:
    cut = bytes(reply(_2=0x82, _7=3))[:END] + b"\xc0\x0c\0\1"
    stub = truncated_stub(cut)
    assert stub is not None
    view = MessageView.parse(stub)
    assert view.tc
    assert view.qname == QNAME
    assert view.answer == []


@pytest.mark.parametrize("packet", [
    bytes(reply(_7=3)), b"\0" * 5, bytes(reply(_2=0x82))[:END - 1], bytes(reply(_2=0x82, _5=0)),
    bytes(reply(_2=0x82, _12=200)),
])
def test_truncated_stub_needs_tc_and_a_question(packet: bytes) -> None:
    assert truncated_stub(packet) is None
