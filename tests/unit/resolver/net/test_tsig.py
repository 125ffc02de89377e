"""Queries with TSIG (RFC 8945): an unsigned BADKEY reply, because there are no keys; FORMERR for an invalid TSIG."""

import struct

import pytest
from support.service_parts import CLIENT, Parts, Sink, query

from resolver.settings import PolicySettings, Settings
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.message import MessageView

KEY = names.from_text("key.example.")
ALGORITHM = names.from_text("hmac-sha256.")


def tsig(*, key: bytes = KEY, rclass: int = 255, ttl: int = 0, mac: bytes = bytes(32), other: bytes = b"",
         algorithm: bytes = ALGORITHM) -> bytes:
    rdata = algorithm + struct.pack("!HIHH", 1, 2, 300, len(mac)) + mac + struct.pack("!HHH", 77, 0, len(other)) + other
    return key + struct.pack("!HHIH", c.TSIG, rclass, ttl, len(rdata)) + rdata


def signed(packet: bytes, *records: bytes) -> bytes:
    """`packet` with more records in its additional section."""
    count = int.from_bytes(packet[10:12], "big") + len(records)
    return packet[:10] + count.to_bytes(2, "big") + packet[12:] + b"".join(records)


@pytest.mark.parametrize("edns", [None, 1232])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("qtype", [c.A, c.AXFR])
def test_an_unknown_key_gets_badkey(edns: int | None, stream: bool, qtype: int) -> None:
    parts, sink = Parts(), Sink(stream=stream)
    packet = signed(query(qtype, edns_payload=edns, do=edns is not None), tsig())
    assert parts.fast.answer(packet, CLIENT) is None
    parts.ask(packet, sink=sink)
    [reply] = sink.packets
    assert reply is not None
    assert len(reply) < len(packet)
    view = sink.last
    assert (view.id, view.qr, view.rd, view.rcode, view.question_count) == (77, True, True, c.NOTAUTH, 1)
    assert (view.edns is not None and view.edns.do) == (edns is not None)
    rdata = ALGORITHM + struct.pack("!HIHHHHH", 1, 2, 300, 0, 77, c.BADKEY, 0)
    assert reply.endswith(KEY + struct.pack("!HHIH", c.TSIG, 255, 0, len(rdata)) + rdata)
    assert int.from_bytes(reply[10:12], "big") == (2 if edns else 1)
    assert parts.mesh.tickets == []


def test_a_compressed_key_name_is_written_out() -> None:
    parts = Parts()
    parts.ask(signed(query(edns_payload=None), tsig(key=b"\3key\xc0\x0c")))
    assert b"\3key\3www\7example\3com\0\x00\xfa" in parts.sink.packets[-1][12 + 21:]  # type: ignore[index]
    assert parts.sink.last.rcode == c.NOTAUTH


@pytest.mark.parametrize("records", [
    [tsig(), tsig()], [tsig(), b"\0" + struct.pack("!HHIH", c.OPT, 1232, 0, 0)], [tsig(rclass=c.IN)], [tsig(ttl=1)],
    [tsig(algorithm=b"\3abc")], [tsig()[:-2] + b"\0\1"], [KEY + struct.pack("!HHIH", c.TSIG, 255, 0, 0)],
])
def test_a_malformed_tsig_is_a_format_error(records: list[bytes]) -> None:
    parts = Parts()
    parts.ask(signed(query(edns_payload=None), *records))
    assert (parts.sink.last.rcode, len(parts.sink.packets)) == (c.FORMERR, 1)


def test_a_tsig_in_another_section_is_a_format_error() -> None:
    parts = Parts()
    packet = bytearray(query(edns_payload=None) + tsig())
    packet[7] = 1
    parts.ask(bytes(packet))
    assert parts.sink.last.rcode == c.FORMERR


def test_a_client_without_access_is_refused_before_tsig_is_checked() -> None:
    parts = Parts(Settings(policy=PolicySettings(allow=())))
    parts.ask(signed(query(), tsig()))
    assert parts.sink.last.rcode == c.REFUSED


@pytest.mark.parametrize("size", range(1, 75))
def test_cut_and_changed_records_are_handled(size: int) -> None:
    whole = signed(query(edns_payload=None), tsig())
    changed = bytearray(whole)
    changed[-size] ^= 0xFF
    for packet in (whole[:-size], bytes(changed)):
        parts = Parts()
        parts.ask(packet)
        assert MessageView.parse(parts.sink.packets[-1] or b"").rcode in (c.FORMERR, c.NOTAUTH)
