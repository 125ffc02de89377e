"""Queries with TSIG (RFC 8945): signed replies, as dnspython checks them; the errors; FORMERR for an invalid TSIG."""

import struct
from ipaddress import ip_address
from typing import Any

import dns.edns
import dns.message
import dns.rcode
import dns.tsig
import pytest
from support.service_parts import CLIENT, NOW, Parts, Sink, address, positive, query

from resolver.net.doh import freshness
from resolver.net.tsig import keys_of
from resolver.settings import PolicySettings, RateLimitSettings, Settings, TsigKey, ViewSettings
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
    [tsig(algorithm=b"\3abc")], [tsig(algorithm=b"\xc0")], [tsig(algorithm=b"\3abc\x40")],
    [tsig()[:-2] + b"\0\1"], [KEY + struct.pack("!HHIH", c.TSIG, 255, 0, 0)],
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


# --- keys that are known ------------------------------------------------------------------------------------------

SECRET = "c2VjcmV0LXNlY3JldC1zZWNyZXQ="
KEYED = Settings(tsig_key=(TsigKey(name="key.example.", secret=SECRET),
                           TsigKey(name="Other.Example", algorithm="hmac-sha512", secret=SECRET)))
EVERYBODY = ("0.0.0.0/0", "::/0")


def signed_by(name: str = "key.example.", algorithm: str = "hmac-sha256", secret: str = SECRET, *, at: int = NOW,
              qtype: str = "A", original_id: int = 77, **options: Any) -> tuple[bytes, dns.message.Message]:
    """A query that dnspython has signed, and what checks the reply."""
    message = dns.message.make_query("www.example.com.", qtype, id=77, **options)
    message.use_tsig(dns.tsig.Key(name, secret, algorithm), original_id=original_id)
    wire = with_time(message, at)
    return wire, message


def with_time(message: dns.message.Message, at: int) -> bytes:
    """The message as signed at the second `at`."""
    before = dns.message.time.time  # type: ignore[attr-defined]
    dns.message.time.time = lambda: at  # type: ignore[attr-defined]
    try:
        return message.to_wire()
    finally:
        dns.message.time.time = before  # type: ignore[attr-defined]


def checked(packet: bytes | None, asked: dns.message.Message, at: int = NOW) -> dns.message.Message:
    """The reply `packet`, whose signature dnspython accepts at the second `at`."""
    assert packet is not None and asked.keyring is not None
    before = dns.message.time.time  # type: ignore[attr-defined]
    dns.message.time.time = lambda: at  # type: ignore[attr-defined]
    try:
        found = dns.message.from_wire(packet, keyring=asked.keyring, request_mac=asked.mac)
    finally:
        dns.message.time.time = before  # type: ignore[attr-defined]
    assert found.had_tsig
    return found


def parts_with(settings: Settings = KEYED, **server: Any) -> Parts:
    return Parts(settings, **server)


@pytest.mark.parametrize("edns", [None, 1232])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("name", "algorithm"), [("key.example.", "hmac-sha256"), ("oTher.example.", "hmac-sha512")])
def test_the_reply_to_a_signed_query_is_signed(edns: int | None, stream: bool, name: str, algorithm: str) -> None:
    parts, sink = parts_with(), Sink(stream=stream)
    for _ in range(2):  # the second answer comes from the cache
        packet, asked = signed_by(name, algorithm, use_edns=edns is not None, payload=edns or 0)
        assert parts.fast.answer(packet, CLIENT) is None, "the fast path passes it on"
        parts.ask(packet, sink=sink)
        if parts.mesh.tickets:
            parts.mesh.finish(positive(address()))
        reply = checked(sink.packets[-1], asked)
        assert (reply.id, reply.rcode(), len(reply.answer), reply.edns >= 0) == (77, dns.rcode.NOERROR, 1,
                                                                               edns is not None)
    assert [one.tsig_key for one in parts.mesh.queries] == [names.lower(names.from_text(name))]
    assert parts.service.statistics()["signed"] == 2
    assert parts.fast.answer(query(), CLIENT, NOW) is not None, "the answer is the same for unsigned queries"


def test_the_id_of_the_header_may_have_been_changed_on_the_way() -> None:
    """RFC 8945 section 4.3.2: the original id is in the record, and a forwarder has its own."""
    parts = parts_with()
    packet, asked = signed_by(qtype="AXFR")
    parts.ask(b"\x12\x34" + packet[2:])
    reply = parts.sink.packets[-1]
    assert reply is not None and reply[:2] == b"\x12\x34"
    assert checked(reply, asked).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize(("qtype", "flags", "rcode"), [("AXFR", 0x0100, "REFUSED"), ("A", 0x1000, "NOTIMP"),
                                                       ("A", 0x0000, "REFUSED"), ("OPT", 0x0100, "FORMERR")])
def test_errors_are_signed_too(qtype: str, flags: int, rcode: str) -> None:
    parts = parts_with()
    message = dns.message.make_query("www.example.com.", qtype, id=77)
    message.flags = flags
    message.use_tsig(dns.tsig.Key("key.example.", SECRET))
    parts.ask(with_time(message, NOW))
    assert dns.rcode.to_text(checked(parts.sink.packets[-1], message).rcode()) == rcode


def test_a_client_without_access_gets_a_signed_refusal() -> None:
    parts = parts_with(Settings(policy=PolicySettings(allow=()), tsig_key=KEYED.tsig_key))
    packet, asked = signed_by()
    parts.ask(packet)
    assert checked(parts.sink.packets[-1], asked).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize(("changed", "error"), [({"secret": "b3RoZXItb3RoZXItb3RoZXI="}, 16),
                                                ({"name": "unknown.example."}, c.BADKEY),
                                                ({"algorithm": "hmac-sha384"}, c.BADKEY)])
def test_a_wrong_signature_gets_its_error_unsigned(changed: dict[str, str], error: int) -> None:
    parts = parts_with()
    packet, _ = signed_by(**changed, use_edns=True)
    parts.ask(packet)
    reply = parts.sink.packets[-1]
    assert reply is not None and parts.sink.last.rcode == c.NOTAUTH and parts.sink.last.edns is not None
    assert reply[-10:] == struct.pack("!HHHHH", 300, 0, 77, error, 0)
    assert parts.mesh.tickets == []


@pytest.mark.parametrize("ahead", [-301, 301])
def test_a_wrong_time_gets_a_signed_error_with_the_time(ahead: int) -> None:
    """RFC 8945 section 5.2.3: the client can trust it."""
    parts = parts_with()
    packet, asked = signed_by(at=NOW + ahead)
    parts.ask(packet)
    reply = parts.sink.packets[-1]
    assert reply is not None and parts.sink.last.rcode == c.NOTAUTH and parts.mesh.tickets == []
    assert reply.endswith(struct.pack("!HHH", 77, c.BADTIME, 6) + NOW.to_bytes(6, "big"))
    with pytest.raises(dns.tsig.PeerBadTime):
        checked(reply, asked, NOW + ahead)
    assert parts.service.statistics()["refused"] == 1


@pytest.mark.parametrize("ahead", [-300, 300])
def test_clocks_may_differ_by_the_fudge(ahead: int) -> None:
    parts = parts_with()
    packet, _ = signed_by(at=NOW + ahead)
    parts.ask(packet)
    assert len(parts.mesh.tickets) == 1


@pytest.mark.parametrize("place", range(-42, 0))
def test_no_octet_of_the_mac_may_differ(place: int) -> None:
    parts = parts_with()
    packet, _ = signed_by()
    changed = bytearray(packet)
    changed[place] ^= 1
    parts.ask(bytes(changed))
    assert parts.mesh.tickets == [] and parts.sink.last.rcode in (c.FORMERR, c.NOTAUTH)


def test_what_follows_from_a_message_is_signed() -> None:
    """Each octet of the question is covered, so another question needs another signature."""
    parts = parts_with()
    packet, _ = signed_by()
    for place in range(12, 12 + 17 + 4):
        changed = bytearray(packet)
        changed[place] ^= 1
        parts.ask(bytes(changed))
    assert parts.mesh.tickets == []


def test_a_reply_that_does_not_fit_with_its_signature_is_truncated() -> None:
    """RFC 8945 section 5.3: with TC, the question and the signature."""
    parts = parts_with()
    outcome = positive(address(count=25))
    parts.ask(query(edns_payload=None))
    parts.mesh.finish(outcome)
    plain = parts.sink.last
    assert not plain.tc and len(parts.sink.packets[-1] or b"") < 512
    packet, asked = signed_by(use_edns=False)
    parts.ask(packet)
    reply = checked(parts.sink.packets[-1], asked)
    assert (reply.flags & 0x0200, reply.answer, len(reply.question)) == (0x0200, [], 1)
    stream = Sink(stream=True)
    packet, asked = signed_by(use_edns=False)
    parts.ask(packet, sink=stream)
    assert len(checked(stream.packets[-1], asked).answer[0]) == 25


@pytest.mark.parametrize(("size", "error"), [(31, c.BADTRUNC), (16, c.BADTRUNC), (15, None), (0, None), (33, None)])
def test_a_truncated_mac_is_refused(size: int, error: int | None) -> None:
    """RFC 8945 sections 5.2.2.1 and 5.2.4."""
    parts = parts_with()
    packet, asked = signed_by()
    place = len(packet) - 6 - 32
    mac = packet[place : place + 32] + b"x"
    start = packet.rindex(ALGORITHM) - 2
    rdata = packet[start + 2 : place - 2] + size.to_bytes(2, "big") + mac[:size] + packet[place + 32:]
    parts.ask(packet[:start] + len(rdata).to_bytes(2, "big") + rdata)
    assert parts.mesh.tickets == []
    if error is None:
        assert parts.sink.last.rcode == c.FORMERR
        return
    assert parts.sink.last.rcode == c.NOTAUTH
    asked.request_mac = mac[:size]
    with pytest.raises(dns.tsig.PeerBadTruncation):
        dns.message.from_wire(parts.sink.packets[-1] or b"", keyring=asked.keyring, request_mac=mac[:size])


def test_a_wrong_truncated_mac_is_a_bad_signature() -> None:
    parts = parts_with()
    parts.ask(signed(query(edns_payload=None), tsig(mac=bytes(20))))
    assert (parts.sink.last.rcode, (parts.sink.packets[-1] or b"")[-4:-2]) == (c.NOTAUTH, b"\0\x10")


@pytest.mark.parametrize("packet", [
    signed(query(edns_payload=None, qname=(b"\x3c" + b"x" * 60) * 4 + b"\0"), tsig(key=b"\xc0\x0c", mac=b"")),
    signed(query(edns_payload=None, qname=(b"\x3c" + b"x" * 60) * 2 + b"\0"), tsig(key=b"\xc0\x0c", mac=b"")),
    signed(query(edns_payload=None), tsig(other=bytes(700))),
])
def test_a_refusal_is_not_larger_than_the_query(packet: bytes) -> None:
    """Anybody can send such a query from a forged address."""
    parts = parts_with()
    parts.ask(packet)
    view = parts.sink.last
    assert (view.rcode, view.tc, view.question_count) == (c.NOTAUTH, len(packet) < 512, 1)
    assert len(parts.sink.packets[-1] or b"") <= min(len(packet), 512)
    stream = Sink(stream=True)
    parts.ask(packet, sink=stream)
    assert (stream.last.rcode, stream.last.tc) == (c.NOTAUTH, False)


def test_http_caches_do_not_store_a_signed_reply() -> None:
    parts, sink = parts_with(), Sink(stream=True)
    parts.ask(query(), sink=sink)
    parts.mesh.finish(positive(address()))
    assert freshness(sink.packets[-1] or b"") is not None
    parts.ask(signed_by()[0], sink=sink)
    assert checked(sink.packets[-1], signed_by()[1]).rcode() == dns.rcode.NOERROR
    assert freshness(sink.packets[-1] or b"") is None


def test_a_retransmission_that_is_signed_anew_gets_its_own_reply() -> None:
    parts = parts_with()
    (first, asked_first), (second, asked_second) = signed_by(at=NOW), signed_by(at=NOW + 1)
    parts.ask(first)
    parts.ask(second)
    for _ in range(2):
        parts.mesh.finish(positive(address()))
    for packet, asked in zip(parts.sink.packets, (asked_first, asked_second), strict=True):
        assert checked(packet, asked).rcode() == dns.rcode.NOERROR


@pytest.mark.parametrize("count", [16, 17])
def test_a_signed_query_with_many_records_is_not_parsed(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may send it, so it is refused before its signature is known."""
    split: list[bytes] = []
    monkeypatch.setattr("resolver.net.tsig.split", lambda data: split.append(data))
    parts = parts_with()
    filler = b"\0" + struct.pack("!HHIH", c.A, c.IN, 0, 4) + bytes(4)
    parts.ask(signed(query(edns_payload=None), *[filler] * (count - 1), tsig()))
    assert len(split) == (1 if count == 16 else 0) and parts.sink.last.rcode == c.FORMERR


def test_a_signed_response_is_ignored() -> None:
    parts = parts_with()
    packet, _ = signed_by()
    parts.ask(packet[:2] + bytes([packet[2] | 0x80]) + packet[3:])
    assert parts.sink.packets == [None] and parts.mesh.tickets == []


def test_what_is_not_sent_is_passed_on() -> None:
    """A reply that a limit of replies suppresses, and a query that is given up."""
    parts = parts_with(discard_timeout=1.0)
    packet, _ = signed_by()
    pending = parts.ask(packet)
    parts.clock.mono += 2.0
    parts.mesh.finish(positive(address()))
    assert parts.sink.packets == [None]
    assert pending is not None
    pending.sink.forget(pending)
    pending.sink.abort()
    assert parts.sink.forgotten == [pending] * 2 and parts.sink.aborted
    assert (pending.sink.stream, pending.sink.idle_timeout, pending.sink.padding_block, pending.sink.origin) == (
        False, 10.0, 0, ("udp", "127.0.0.1:53"))


# --- views by key -------------------------------------------------------------------------------------------------

FAR = ("198.51.100.7", 5300)


def in_view(**more: Any) -> Parts:
    """A resolver for 127.0.0.0/8 with a view for the key key.example."""
    view = ViewSettings(name="roaming", keys=("KEY.example",), **more)
    return Parts(Settings(view=(view,), tsig_key=KEYED.tsig_key))


def test_the_fast_path_passes_on_what_a_key_may_permit() -> None:
    parts = in_view(allow=EVERYBODY)
    packet, _ = signed_by()
    assert parts.fast.answer(packet, FAR, NOW) is None
    assert parts.fast.answer(query(), FAR, NOW)[3] & 15 == c.REFUSED  # type: ignore[index]
    for other in (Parts(KEYED), Parts(Settings(view=(ViewSettings(name="a", clients=("10.0.0.0/8",)),)))):
        assert other.fast.answer(packet, FAR, NOW)[3] & 15 == c.REFUSED, "no view has a key"  # type: ignore[index]


def test_a_dropped_address_gets_nothing_by_a_key() -> None:
    view = ViewSettings(name="roaming", keys=("key.example",), allow=EVERYBODY)
    parts = Parts(Settings(view=(view,), tsig_key=KEYED.tsig_key, policy=PolicySettings(drop=("198.51.100.0/24",))))
    assert parts.fast.answer(signed_by()[0], FAR, NOW) == b""


def test_what_is_not_signed_on_a_stream_without_access_is_left_to_the_service() -> None:
    """It refuses clients with a reason, and serves secondaries."""
    parts = in_view(allow=EVERYBODY)
    access = parts.plan.access.find(FAR[0])
    for packet in (query(), query(c.AXFR), query()[:15], signed_by()[0]):
        replies, missed, _, malformed = parts.fast.answer_frames([packet], NOW, bytes(4), access=access)
        assert (replies, missed, malformed) == (b"", [packet], False)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", FAR[0]])
def test_signed_queries_are_counted_before_their_signature_is_checked(host: str, stream: bool) -> None:
    view = ViewSettings(name="roaming", keys=("key.example",), allow=EVERYBODY)
    rates = RateLimitSettings(queries_per_second=3, verified_queries_per_second=3)
    parts = Parts(Settings(view=(view,), tsig_key=KEYED.tsig_key, rate_limit=rates))
    passed = 0
    for number in range(60):
        packet, _ = signed_by()
        packet = number.to_bytes(2, "big") + packet[2:]
        if stream:
            access = parts.plan.access.find(host)
            _, missed, _, _ = parts.fast.answer_frames([packet], NOW, ip_address(host).packed, access=access)
            passed += bool(missed)
        else:
            passed += parts.fast.answer(packet, (host, 5300), NOW) is None
    assert 3 <= passed < 40


def test_a_good_cookie_verifies_the_client_of_a_signed_query() -> None:
    rates = RateLimitSettings(queries_per_second=2, verified_queries_per_second=0)
    parts = Parts(Settings(tsig_key=KEYED.tsig_key, rate_limit=rates))
    assert parts.fast.cookies is not None
    cookie = parts.fast.cookies.answer(bytes(8), CLIENT[0], NOW)
    for options, all_pass in (([dns.edns.GenericOption(10, cookie)], True), ([], False)):
        packet, _ = signed_by(use_edns=0, options=options)
        assert all(parts.fast.answer(packet, CLIENT, NOW) is None for _ in range(50)) is all_pass


def test_a_key_chooses_a_view_whose_list_permits_the_client() -> None:
    parts = in_view(allow=EVERYBODY)
    packet, asked = signed_by()
    parts.ask(packet, peer=FAR)
    assert [one.view for one in parts.mesh.queries] == [1]
    parts.mesh.finish(positive(address()))
    assert checked(parts.sink.packets[-1], asked).rcode() == dns.rcode.NOERROR
    packet, asked = signed_by("other.example.", "hmac-sha512")
    parts.ask(packet, peer=FAR)
    assert checked(parts.sink.packets[-1], asked).rcode() == dns.rcode.REFUSED, "another key"
    parts.ask(query(), peer=FAR)
    assert parts.sink.last.rcode == c.REFUSED, "no key"
    parts.ask(query())
    assert [one.view for one in parts.mesh.queries] == [1, 0], "no key, but a permitted address"


def test_a_key_permits_nothing_by_itself() -> None:
    parts = in_view()
    packet, asked = signed_by()
    parts.ask(packet, peer=FAR)
    assert checked(parts.sink.packets[-1], asked).rcode() == dns.rcode.REFUSED
    parts.ask(packet)
    assert [one.view for one in parts.mesh.queries] == [1]


def test_a_wrong_time_is_told_to_the_holder_of_a_key() -> None:
    """The address is permitted by the key only, and the key has signed."""
    parts = in_view(allow=EVERYBODY)
    packet, asked = signed_by(at=NOW - 1000)
    parts.ask(packet, peer=FAR)
    assert parts.sink.last.rcode == c.NOTAUTH
    with pytest.raises(dns.tsig.PeerBadTime):
        checked(parts.sink.packets[-1], asked, NOW - 1000)
    packet, _ = signed_by(secret="b3RoZXItb3RoZXItb3RoZXI=")
    parts.ask(packet, peer=FAR)
    assert parts.sink.last.rcode == c.REFUSED, "nothing is known of this client"


def test_a_dropped_client_gets_no_error_of_its_signature() -> None:
    parts = Parts(Settings(policy=PolicySettings(allow=(), drop=("198.51.100.0/24",)), tsig_key=KEYED.tsig_key))
    for packet, _ in (signed_by(), signed_by("unknown.example."), signed_by(at=NOW - 1000)):
        parts.ask(packet, peer=FAR)
    assert parts.sink.packets == [None] * 3


def test_keys_have_their_names_in_lower_case() -> None:
    assert set(keys_of(KEYED)) == {names.from_text("key.example."), names.from_text("other.example.")}
