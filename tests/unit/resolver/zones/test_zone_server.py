"""Who may transfer a zone and who may send NOTIFY: addresses, keys, and what the others get."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.zone_replies import Direct
from support.zone_versions import ORIGIN, version

from resolver import limits
from resolver.net.tsig import SignedQueries, keys_of
from resolver.net.zone_server import ZoneServer
from resolver.policy import ALLOW, DROP, REFUSE
from resolver.settings import Settings, TsigKey, ZoneSettings, ZonesSettings, replace
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query
from resolver.wire.message import MessageView
from resolver.wire.records import parse_records
from resolver.zones import Mode, ServedZone, Zone, ZoneTable
from resolver.zones.transfer import make_transfer_query
from resolver.zones.tsig import Key, TsigError, Verifier, sign, split

NOW = 1_800_000_000
SECRET = "YW5vdGhlciBzZWNyZXQgb2YgdGhpcw=="
SETTINGS = Settings(
    zones=ZonesSettings(directory="/unused"),
    zone=(
        ZoneSettings(name="e.test.", primaries=("192.0.2.1",), key="in.key", allow_transfer=("198.51.100.0/24",),
                     transfer_key="out.key"),
        ZoneSettings(name="open.test.", primaries=("192.0.2.1",), allow_notify=("2001:db8::/32",)),
    ),
    tsig_key=(TsigKey("in.key", "hmac-sha256", "c2VjcmV0IG9mIHRoaXMgdGVzdA=="),
              TsigKey("OUT.key.", "hmac-sha512", SECRET)),
)
IN, OUT = (keys_of(SETTINGS)[name] for name in (b"\2in\3key\0", b"\3out\3key\0"))


class Sink:
    """Collects replies."""

    stream = True
    takes_many = True

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        self.sent.append(packet)

    def send_many(self, packets: Iterator[bytes], peer: tuple[Any, ...]) -> bool:
        self.sent += packets
        return True


def ask(
    packet: bytes, host: str, *, stream: bool = True, check: bool = True
) -> tuple[list[bytes], list[bytes], bool]:
    """The replies, the zones that are to be refreshed, and whether the message was handled. Without `check` it has no
    signature."""
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
    table.put(ORIGIN, version(5, 2), NOW + 100)
    notified: list[bytes] = []
    sink = Sink()
    sink.stream = stream
    server = ZoneServer(SETTINGS, table, lambda _: None, lambda: NOW, notified.append, Direct())
    done = handle(server, packet, host, sink) if check else server.handle(packet, (host, 53), sink)
    return sink.sent, notified, done


def handle(server: ZoneServer, packet: bytes, host: str, sink: Any, access: int = ALLOW) -> bool:
    """Give a message to `server`, with what the service has found of its signature."""
    signatures = SignedQueries(keys_of(SETTINGS), lambda: NOW, 1232)
    return server.handle(packet, (host, 53), sink, access, signatures.check(packet))


def rcode(packet: bytes) -> int:
    return packet[3] & 15


def query(qtype: int, name: bytes = ORIGIN, *, opcode: int = 0) -> bytes:
    return make_query(7, name, qtype, flags=opcode << 11, edns_payload=None)


def signed(packet: bytes, key: Key = OUT) -> bytes:
    return sign(packet, key, NOW)[0]


def test_a_signed_transfer_from_a_permitted_address() -> None:
    packet, mac = sign(query(c.AXFR), OUT, NOW)
    sent, _, _ = ask(packet, "198.51.100.7")
    assert [rcode(one) for one in sent] == [0]
    assert Verifier(OUT, mac).check(sent[0], NOW)


def test_another_transfer_on_a_connection_is_refused_before_anything_is_looked_up() -> None:
    def history_of(_: bytes) -> None:
        raise AssertionError("the differences were looked up")

    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
    table.put(ORIGIN, version(5, 2), NOW + 100)
    sink = Sink()
    sink.takes_many = False
    server = ZoneServer(SETTINGS, table, history_of, lambda: NOW, [].append, Direct())
    assert handle(server, signed(make_transfer_query(ORIGIN, 7, version(4, 1))), "198.51.100.7", sink)
    assert [rcode(one) for one in sink.sent] == [c.SERVFAIL] and server.refused == 1


def test_a_transfer_to_a_slow_client_is_signed_with_the_time_of_each_message() -> None:
    """It may take longer than the fudge of a signature (RFC 8945 section 5.2.3)."""
    moment, times = NOW, []

    class Slow(Sink):
        def send_many(self, packets: Iterator[bytes], peer: tuple[Any, ...]) -> bool:
            nonlocal moment
            for packet in packets:
                found = split(packet)
                assert found is not None
                times.append(found.signed_at - moment)
                moment += limits.TSIG_FUDGE
            return True

    many = [(names.from_text(f"h{n}.e.test."), c.TXT, 60, b"\xff" + b"x" * 255) for n in range(500)]
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
    table.put(ORIGIN, Zone.from_records(ORIGIN, [*version(5), *many]), NOW + 100)
    server = ZoneServer(SETTINGS, table, lambda _: None, lambda: moment, lambda _: None, Direct())
    assert handle(server, signed(query(c.AXFR)), "198.51.100.7", Slow())
    assert times == [0, 0, 0]


@pytest.mark.parametrize(("packet", "host", "expected"), [
    (signed(query(c.AXFR)), "203.0.113.7", c.REFUSED),
    (query(c.AXFR), "198.51.100.7", c.REFUSED),
    (signed(query(c.AXFR), IN), "198.51.100.7", c.REFUSED),
    (signed(query(c.AXFR), OUT._replace(secret=b"x" * 20)), "198.51.100.7", c.NOTAUTH),
    (query(c.AXFR, b"\4open\4test\0"), "198.51.100.7", c.REFUSED),
    (signed(query(c.SOA), IN), "198.51.100.7", c.REFUSED),
])
def test_other_transfers_are_refused(packet: bytes, host: str, expected: int) -> None:
    sent, _, handled = ask(packet, host)
    assert handled
    assert [rcode(one) for one in sent] == [expected]
    assert b"192" not in sent[0]


def test_no_zone_is_sent_over_udp() -> None:
    packet, mac = sign(query(c.AXFR), OUT, NOW)
    sent, _, _ = ask(packet, "198.51.100.7", stream=False)
    assert [rcode(one) for one in sent] == [c.FORMERR]
    assert Verifier(OUT, mac).check(sent[0], NOW)


@pytest.mark.parametrize(("packet", "key", "host", "expected"), [
    (query(c.AXFR), OUT, "203.0.113.7", c.REFUSED), (query(c.AXFR), IN, "198.51.100.7", c.REFUSED),
    (query(c.SOA), IN, "198.51.100.7", c.REFUSED), (query(c.IXFR, b"\4open\4test\0"), OUT, "198.51.100.7", c.REFUSED),
    (query(c.SOA, opcode=c.NOTIFY), OUT, "192.0.2.1", c.REFUSED),
    (query(c.SOA, opcode=c.NOTIFY), IN, "203.0.113.7", c.REFUSED), (query(c.SOA), OUT, "198.51.100.7", c.NOERROR),
    (query(c.SOA, b"\4open\4test\0", opcode=c.NOTIFY), OUT, "192.0.2.1", c.NOERROR),
])
def test_every_reply_to_a_message_that_a_known_key_has_signed_is_signed(
    packet: bytes, key: Key, host: str, expected: int
) -> None:
    """RFC 8945 section 5.3."""
    packet, mac = sign(packet, key, NOW)
    sent, _, _ = ask(packet, host, stream=False)
    assert [rcode(one) for one in sent] == [expected]
    assert Verifier(key, mac).check(sent[0], NOW)


@pytest.mark.parametrize(("host", "expected"), [("198.51.100.7", c.NOTAUTH), ("203.0.113.7", c.REFUSED)])
def test_a_refusal_is_not_larger_than_a_message_with_a_wrong_signature(host: str, expected: int) -> None:
    """Anybody can send it from a forged address. The name of its key is a pointer to the question, and is expanded."""
    rdata = OUT.algorithm_name + bytes(6) + b"\1\x2c\0\0" + b"\0\7\0\0\0\0"
    record = b"\xc0\x0c\0\xfa\0\xff\0\0\0\0" + len(rdata).to_bytes(2, "big") + rdata
    plain = query(c.AXFR)
    packet = plain[:10] + b"\0\1" + plain[12:] + record
    for stream in (False, True):
        sent, _, handled = ask(packet, host, stream=stream)
        assert handled and [rcode(one) for one in sent] == [expected]
        assert (len(sent[0]) > len(packet)) is (stream and expected == c.NOTAUTH)


def test_a_zone_without_a_key_accepts_every_known_one() -> None:
    zone = ZoneSettings(name="e.test.", file="unused", allow_transfer=("198.51.100.0/24",))
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
    table.put(ORIGIN, version(5, 2), 0)
    server = ZoneServer(replace(SETTINGS, zone=(zone,)), table, lambda _: None, lambda: NOW, lambda _: None, Direct())
    for key, expected in ((OUT, c.NOERROR), (IN, c.NOERROR), (OUT._replace(secret=b"x" * 20), c.NOTAUTH)):
        for qtype in (c.SOA, c.AXFR):
            sink = Sink()
            packet, mac = sign(query(qtype), key, NOW)
            assert handle(server, packet, "198.51.100.7", sink)
            assert [rcode(one) for one in sink.sent] == [expected]
            if not expected:
                assert Verifier(key, mac).check(sink.sent[0], NOW)


@pytest.mark.parametrize(("packet", "host", "accepted"), [
    (signed(query(c.SOA, opcode=c.NOTIFY), IN), "192.0.2.1", True),
    (query(c.SOA, opcode=c.NOTIFY), "192.0.2.1", False),
    (signed(query(c.SOA, opcode=c.NOTIFY), OUT), "192.0.2.1", False),
    (signed(query(c.SOA, opcode=c.NOTIFY), IN), "192.0.2.2", False),
    (query(c.SOA, b"\4OPEN\4test\0", opcode=c.NOTIFY), "192.0.2.1", True),
    (query(c.SOA, b"\4open\4test\0", opcode=c.NOTIFY), "::ffff:192.0.2.1", True),
    (query(c.SOA, b"\4open\4test\0", opcode=c.NOTIFY), "2001:db8::5", True),
    (query(c.A, b"\4open\4test\0", opcode=c.NOTIFY), "2001:db8::5", False),
])
def test_notify_only_from_primaries(packet: bytes, host: str, accepted: bool) -> None:
    sent, notified, handled = ask(packet, host, stream=False)
    assert handled and len(sent) == 1
    assert len(sent[0]) <= len(packet) + 8, "no amplification"
    assert bool(notified) is accepted
    assert (rcode(sent[0]) == 0) is accepted


@pytest.mark.parametrize("packet", [
    query(c.A), query(c.SOA), b"", b"\0" * 12, query(c.AXFR)[:-1], query(c.AXFR)[:14], query(c.IXFR),
    query(c.AXFR, b"\5other\0"), signed(query(c.SOA, b"\5other\0")), query(c.SOA, b"\5other\0", opcode=c.NOTIFY),
    make_query(7, ORIGIN, c.AXFR, qclass=c.CH), b"\0\7\x80" + query(c.AXFR)[3:],
    query(c.AXFR)[:5] + b"\2" + query(c.AXFR)[6:] + query(c.AXFR)[12:],
])
def test_other_messages_are_left_alone(packet: bytes) -> None:
    assert ask(packet, "198.51.100.7") == ([], [], False)


@pytest.mark.parametrize(("change", "says"), [
    ({"zone": (ZoneSettings(name="a.", primaries=("192.0.2.1",)),)}, "directory"),
    ({"zone": (ZoneSettings(name="a.", file="f"), ZoneSettings(name="A", file="f"))}, "configured twice"),
    ({"tsig_key": (TsigKey("abc", secret=SECRET), TsigKey("ABC.", secret=SECRET))}, "configured twice"),
    ({"zone": (ZoneSettings(name="a.", file="f", allow_transfer=("::/0",), transfer_key="k"),)}, "tsig-key"),
])
def test_impossible_settings_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Settings(**change)


def test_a_key_has_one_spelling() -> None:
    with pytest.raises(ValueError, match="has an escape"):
        TsigKey("a\\098c", secret=SECRET)


def test_records_are_read_only_when_the_zone_permits_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may send a message with thousands of records."""
    read: list[int] = []

    def parse(message: bytes) -> Any:
        read.append(len(message))
        return parse_records(message)

    monkeypatch.setattr("resolver.zones.tsig.parse_records", parse)
    most, record = limits.ZONE_REQUEST_RECORDS, b"\0\xff\0\0\1\0\0\0\0\0\0"
    requests: list[tuple[int, int, str, list[int]]] = [
        (c.AXFR, c.QUERY, "198.51.100.7", [c.REFUSED]), (c.SOA, c.NOTIFY, "192.0.2.1", [c.REFUSED]),
        (c.SOA, c.QUERY, "198.51.100.7", []),
    ]
    for qtype, opcode, host, refusal in requests:
        for count in (most, most + 1):
            plain = query(qtype, opcode=opcode)
            large = plain[:10] + count.to_bytes(2, "big") + plain[12:] + record * count
            sent, notified, _ = ask(large, host, check=False)
            assert bool(read) is (count <= most)
            assert [rcode(one) for one in sent] == (refusal if count <= most else []) and not notified
            read.clear()
            sent, notified, _ = ask(large, "203.0.113.7", check=False)
            assert read == [] and [rcode(one) for one in sent] == refusal and not notified


@pytest.mark.parametrize(("qtype", "opcode", "key", "host"), [
    (c.AXFR, c.QUERY, OUT, "198.51.100.7"), (c.SOA, c.NOTIFY, IN, "192.0.2.1"),
])
def test_a_wrong_time_is_reported_with_a_signature_and_the_time_here(
    qtype: int, opcode: int, key: Key, host: str
) -> None:
    """RFC 8945 section 5.2.3."""
    packet, mac = sign(query(qtype, opcode=opcode), key, NOW - 1000)
    sent, notified, _ = ask(packet, host)
    assert [rcode(one) for one in sent] == [c.NOTAUTH] and not notified
    found = split(sent[0])
    assert found is not None and found.error == c.BADTIME
    assert found.signed_at == NOW - 1000 and found.other == NOW.to_bytes(6, "big")
    with pytest.raises(TsigError, match="BADTIME"):
        Verifier(key, mac).check(sent[0], NOW - 1000)


@pytest.mark.parametrize(("packet", "host", "handled"), [
    (query(c.AXFR), "203.0.113.7", False), (query(c.SOA, opcode=c.NOTIFY), "203.0.113.7", False),
    (query(c.AXFR, b"\5other\0"), "198.51.100.7", False), (signed(query(c.AXFR)), "198.51.100.7", True),
    (signed(query(c.SOA, opcode=c.NOTIFY), IN), "192.0.2.1", True),
])
def test_a_dropped_client_gets_no_refusal(packet: bytes, host: str, handled: bool) -> None:
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
    table.put(ORIGIN, version(5, 2), NOW + 100)
    sink = Sink()
    server = ZoneServer(SETTINGS, table, lambda _: None, lambda: NOW, lambda _: None, Direct())
    assert handle(server, packet, host, sink, DROP) is handled
    assert bool(sink.sent) is handled


@pytest.mark.parametrize(("host", "access", "key", "handled"), [
    ("198.51.100.7", REFUSE, "", True), ("198.51.100.7", DROP, "", True), ("198.51.100.7", ALLOW, "", False),
    ("198.51.100.7", DROP, "out.key", False), ("203.0.113.7", DROP, "", False), ("203.0.113.7", REFUSE, "", False),
])
def test_a_secondary_asks_for_the_serial_without_access_as_a_client(
    host: str, access: int, key: str, handled: bool
) -> None:
    zone = ZoneSettings(name="e.test.", file="unused", allow_transfer=("198.51.100.0/24",), transfer_key=key)
    table = ZoneTable([ServedZone(ORIGIN, Mode.AUTHORITATIVE)], lambda: NOW)
    table.put(ORIGIN, version(5, 2), 0)
    sink = Sink()
    server = ZoneServer(replace(SETTINGS, zone=(zone,)), table, lambda _: None, lambda: NOW, lambda _: None, Direct())
    assert handle(server, query(c.SOA), host, sink, access) is handled
    assert [MessageView.parse(one).answer[0].rtype for one in sink.sent] == [c.SOA] * handled
