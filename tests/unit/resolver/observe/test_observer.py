"""What the observer records of queries and replies, through the real service and the real fast path.

Lines are compared with what `wire.name.to_text`, `ipaddress` and `datetime` say of the same values.
"""

import json
import random
import re
import time
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest
from support.native import time_of_line
from support.observed import Observed
from support.service_parts import CLIENT, NOW, QNAME, Parts, Sink, failed, positive, query

from resolver.effects import Ask, Outcome, Server
from resolver.observe.labels import TRANSPORTS
from resolver.settings import PolicySettings, Settings, ViewSettings
from resolver.settings.observe import LOG_FIELDS
from resolver.wire import consts as c
from resolver.wire import name as names
from resolver.wire.build import make_query

ALL = {"fields": LOG_FIELDS}
HEAD = b"\0\1\1\0\0\1" + bytes(6)  # of a query with one question
LABEL = b"\x3f" + b"\xff" * 63
VIEWS = Settings(
    view=(ViewSettings(name="kids", clients=("10.1.0.0/16",)), ViewSettings(name="lab", clients=("10.2.0.0/16",))),
    policy=PolicySettings(allow=("0.0.0.0/0", "::/0")),
)


def pairs(line: str) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in line.split(" "))


def asked(observed: Observed, packet: bytes, outcome: Outcome | None = None, **parts: Any) -> Parts:
    """Parts whose service has answered `packet`."""
    made = Parts(observer=observed.observer, **parts)
    made.answer(packet, outcome or positive())
    return made


# --- lines ----------------------------------------------------------------------------------------------------------


def test_a_line_of_the_slow_path_and_one_of_the_cache() -> None:
    observed = Observed(ALL)
    parts = asked(observed, query(flags=c.RD | c.CD))
    before = time.time()
    reply = parts.fast.answer(query(flags=c.RD | c.CD), CLIENT, NOW)
    assert reply
    first, second = (pairs(line) for line in observed.lines())
    assert list(first) == list(LOG_FIELDS)
    assert first["cached"] == "no" and second["cached"] == "yes"
    assert second["ms"] == "0.000" and float(first["ms"]) >= 0
    for line in (first, second):
        assert line["client"] == CLIENT[0] and line["port"] == str(CLIENT[1]) and line["transport"] == "udp"
        assert line["name"] == "www.example.com." and line["type"] == "A" and line["class"] == "IN"
        assert line["flags"] == "rd,ra,cd" and line["rcode"] == "NOERROR" and line["view"] == ""
    assert int(second["size"]) == len(reply)
    moment = datetime.strptime(second["time"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    assert abs(moment.timestamp() - before) < 60


def test_json_has_the_same_values() -> None:
    text, objects = Observed(ALL), Observed({**ALL, "format": "json"})
    for observed in (text, objects):
        asked(observed, query(c.AAAA), failed())
    first, second = pairs(text.lines()[0]), json.loads(objects.lines()[0])
    assert list(second) == list(LOG_FIELDS)
    assert second["cached"] is False and second["port"] == CLIENT[1] and second["rcode"] == "SERVFAIL"
    for name in ("client", "name", "type", "flags", "rcode", "view", "size", "port"):
        assert first[name] == str(second[name])


@pytest.mark.parametrize("kind", ["text", "json"])
def test_any_name_is_one_line(kind: str) -> None:
    """Every octet in a label, and random names."""
    rng = random.Random(5)
    labels = [bytes([octet]) * 2 for octet in range(256)] + [b"\n level=error x=\"", b'"}\n{"', b"\\", b"a b", b"."]
    labels += [rng.randbytes(rng.randrange(1, 64)) for _ in range(200)]
    observed = Observed({"format": kind, "fields": ("name",)})
    parts = Parts(observer=observed.observer)
    for label in labels:
        qname = bytes([len(label)]) + label + names.from_text("example.com.")
        parts.answer(make_query(1, qname, c.A), positive())
        (line,) = observed.lines()
        shown = json.loads(line)["name"] if kind == "json" else line.removeprefix("name=")
        assert shown == names.to_text(qname)
        assert re.fullmatch(r"[!-~]+", line)


def test_the_longest_names() -> None:
    observed = Observed({"format": "json", "fields": ("name", "type")})
    qname = LABEL * 3 + b"\x3d" + b"\xff" * 61 + b"\0"
    parts = Parts(observer=observed.observer)
    parts.answer(make_query(1, qname, 65280), positive())
    parts.answer(make_query(2, b"\0", c.NS), positive())
    first, second = (json.loads(line) for line in observed.lines())
    assert first == {"name": names.to_text(qname), "type": "TYPE65280"} and len(qname) == 255
    assert second == {"name": ".", "type": "NS"}


def test_addresses_are_written_as_rfc_5952_has_them() -> None:
    rng = random.Random(6)
    observed = Observed({"fields": ("client", "port")})
    parts = Parts(observer=observed.observer, settings=VIEWS)
    given = ["::", "::1", "1::", "2001:db8::1", "2001:db8:0:1:1:1:1:1", "2001:0:0:1::1", "fe80::1", "1:0:2:0:3:0:4:0",
             "0:0:1::", "255.0.10.9", "1.2.3.4"]
    given += [str(ip_address(bytes(rng.choice((0, 0, 0, 1, 255)) for _ in range(16)))) for _ in range(300)]
    for address in given:
        parts.ask(query(), peer=(address, 1))
        parts.mesh.finish(positive())
        (line,) = observed.lines()
        assert pairs(line) == {"client": address, "port": "1"} or "." in line.partition(" ")[0]


@pytest.mark.checkout
def test_times_of_the_log() -> None:
    """Leap days, ends of centuries, and random times."""
    rng = random.Random(7)
    given = [0, 951_782_399, 951_782_400, 951_868_800, 1_709_164_800, 4_107_542_399, 4_107_542_400, 4_102_444_800]
    for second in given + [rng.randrange(1 << 33) for _ in range(500)]:
        shown = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S.987Z")
        assert time_of_line(second * 10**9 + 987_999_999) == shown


@pytest.mark.parametrize(("packet", "shown"), [
    (b"\0\1\1\0" + bytes(8), {"name": "-", "type": "-", "rcode": "FORMERR"}),
    (make_query(1, QNAME, c.A, qclass=c.CH), {"class": "CH", "rcode": "REFUSED"}),
    (b"\0\1\x28\0\0\1" + bytes(6) + QNAME + b"\0\6\0\1", {"type": "SOA", "rcode": "NOTIMP"}),
    (make_query(1, QNAME, c.A)[:-6] + b"\0\1\0\0\0\0", {"rcode": "BADVERS"}),
    (query(edns_payload=None)[:-1], {"name": "-", "type": "-", "class": "-", "rcode": "FORMERR"}),
    (query(edns_payload=None)[:-5], {"name": "-", "type": "-", "class": "-", "rcode": "FORMERR"}),
    (HEAD + LABEL * 3 + b"\x3e" + b"\xff" * 62 + b"\0" + b"\0\1\0\1", {"name": "-", "type": "-", "rcode": "FORMERR"}),
    (HEAD + LABEL * 100 + b"\0" + b"\0\1\0\1", {"name": "-", "type": "-", "rcode": "FORMERR"}),
], ids=["no question", "class", "opcode", "EDNS version", "cut in the class", "cut behind the name", "256 octets",
        "6401 octets"])
def test_odd_queries(packet: bytes, shown: dict[str, str]) -> None:
    observed = Observed(ALL, {})
    parts = Parts(observer=observed.observer)
    parts.ask(packet)
    (line,) = observed.lines()
    found = pairs(line)
    assert {key: found[key] for key in shown} == shown
    assert [tap.type for tap in observed.taps()] == ["CLIENT_QUERY", "CLIENT_RESPONSE"]


def test_a_query_without_a_reply() -> None:
    observed = Observed(ALL, {})
    parts = Parts(observer=observed.observer, settings=Settings(policy=PolicySettings(drop=("127.0.0.0/8",))))
    parts.ask(query())
    assert parts.sink.packets == [None]
    (line,) = observed.lines()
    assert pairs(line)["rcode"] == "none" and pairs(line)["size"] == "0"
    assert [tap.type for tap in observed.taps()] == ["CLIENT_QUERY"]


def test_a_retransmission_is_a_message_without_a_line() -> None:
    observed = Observed(ALL, {})
    parts = Parts(observer=observed.observer)
    parts.ask(query())
    parts.ask(query())
    parts.mesh.finish(positive())
    assert len(observed.lines()) == 1
    assert [tap.type for tap in observed.taps()] == ["CLIENT_QUERY", "CLIENT_QUERY", "CLIENT_RESPONSE"]


# --- views, samples, masks ----------------------------------------------------------------------------------------


def test_views_are_named_and_chosen() -> None:
    every = Observed({"fields": ("client", "view")}, views=("kids", "lab"))
    lab = Observed({"fields": ("client", "view"), "views": ("lab",)}, views=("kids", "lab"))
    for observed in (every, lab):
        parts = Parts(observer=observed.observer, settings=VIEWS)
        for host in ("10.1.0.1", "10.2.0.1", "192.0.2.1"):
            parts.ask(query(), peer=(host, 5))
            parts.mesh.finish(positive())
            parts.fast.answer(query(), (host, 5), NOW)
    assert every.lines() == [f"client={host} view={view}" for host, view in (
        ("10.1.0.1", "kids"), ("10.2.0.1", "lab"), ("192.0.2.1", "")) for _ in range(2)]
    assert lab.lines() == ["client=10.2.0.1 view=lab"] * 2


@pytest.mark.parametrize("fast", [False, True])
def test_samples(fast: bool) -> None:
    """About one query of ten, with its reply, and each output for itself."""
    observed = Observed({"sample": 10, "fields": ("name",)}, {"sample": 5})
    parts = Parts(observer=observed.observer)
    parts.answer(query(), positive())
    observed.lines(), observed.taps()
    for number in range(2000):
        if fast:
            assert parts.fast.answer(query(identity=number), CLIENT, NOW)
        else:
            parts.ask(query(identity=number))
            parts.mesh.finish(positive())
    assert 140 < len(observed.lines()) < 260
    taps = observed.taps()
    assert 320 < len(taps) / 2 < 480
    assert [tap.type for tap in taps] == ["CLIENT_QUERY", "CLIENT_RESPONSE"] * (len(taps) // 2)


@pytest.mark.parametrize(("address", "v4", "v6", "shown"), [
    ("192.0.2.213", 24, 128, "192.0.2.0"),
    ("192.0.2.213", 29, 128, "192.0.2.208"),
    ("192.0.2.213", 0, 128, "0.0.0.0"),
    ("2001:db8:1234:5678::9", 32, 48, "2001:db8:1234::"),
    ("2001:db8:1234:5678::9", 32, 51, "2001:db8:1234:4000::"),
])
@pytest.mark.parametrize("fast", [False, True])
def test_masked_addresses(address: str, v4: int, v6: int, shown: str, fast: bool) -> None:
    options = {"client_prefix_v4": v4, "client_prefix_v6": v6}
    observed = Observed({**options, "fields": ("client", "port")}, options)
    parts = Parts(observer=observed.observer, settings=VIEWS)
    parts.ask(query(), peer=(address, 4000))
    parts.mesh.finish(positive())
    if fast:
        observed.lines(), observed.taps()
        assert parts.fast.answer(query(), (address, 4000), NOW)
    assert observed.lines() == [f"client={shown} port=0"]
    for tap in observed.taps():
        assert tap.fields["query_address"] == ip_address(shown).packed and "query_port" not in tap.fields


# --- dnstap -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("host", ["127.0.0.1", "2001:db8::7"])
def test_messages_of_clients(fast: bool, host: str) -> None:
    observed = Observed(None, {})
    parts = Parts(observer=observed.observer, settings=VIEWS)
    packet = query(identity=9)
    before = time.time_ns()
    parts.ask(packet, peer=(host, 777))
    parts.mesh.finish(positive())
    reply = parts.sink.packets[-1]
    if fast:
        observed.taps()
        reply = parts.fast.answer(packet, (host, 777), NOW)
    first, second = observed.taps()
    for tap in (first, second):
        assert (tap.identity, tap.version, tap.protocol) == (b"me", b"v1", "UDP")
        assert tap.fields["query_address"] == ip_address(host).packed and tap.fields["query_port"] == 777
        assert tap.fields["family"] == (2 if ":" in host else 1)
        assert before <= tap.fields["query_sec"] * 10**9 + tap.fields["query_nsec"] <= time.time_ns() + 10**9
    assert first.type == "CLIENT_QUERY" and first.fields["query"] == packet and "response" not in first.fields
    assert second.type == "CLIENT_RESPONSE" and second.fields["response"] == reply and "query" not in second.fields
    assert second.fields["response_sec"] >= second.fields["query_sec"]


@pytest.mark.parametrize(("transport", "protocol"), [("tcp", "TCP"), ("tls", "DOT"), ("https", "DOH"), ("quic", "DOQ")])
def test_transports(transport: str, protocol: str) -> None:
    observed = Observed({"fields": ("client", "port", "transport")}, {"messages": ("client-response",)})
    parts = Parts(observer=observed.observer)
    sink = Sink(stream=True)
    sink.origin = (transport, "")
    parts.answer(query(), positive(), sink=sink)
    number = TRANSPORTS.index(transport)
    parts.fast.answer_frames([query(), query()], NOW, bytes([127, 0, 0, 1]), port=CLIENT[1], transport=number)
    assert parts.fast.answer_encrypted(query(), bytes([127, 0, 0, 1]), 0, NOW, port=CLIENT[1], transport=number)[0]
    assert observed.lines() == [f"client=127.0.0.1 port=40000 transport={transport}"] * 4
    taps = observed.taps()
    assert [(tap.protocol, tap.fields["query_port"]) for tap in taps] == [(protocol, 40000)] * 4


def test_own_zones_are_authoritative() -> None:
    def is_own(qname: bytes, qtype: int) -> bool:
        seen.append((qname, qtype))
        return names.is_subdomain(qname, names.from_text("example.com."))

    seen: list[tuple[bytes, int]] = []
    observed = Observed(None, {}, is_own=is_own)
    parts = Parts(observer=observed.observer)
    parts.answer(query(c.TXT), positive())
    parts.answer(query(qname=names.from_text("example.net.")), positive())
    parts.ask(b"\0\1\1\0" + bytes(8))
    kinds = [tap.type for tap in observed.taps()]
    assert kinds == ["AUTH_QUERY", "AUTH_RESPONSE"] + ["CLIENT_QUERY", "CLIENT_RESPONSE"] * 2
    assert seen == [(QNAME, c.TXT), (names.from_text("example.net."), c.A)]


def test_messages_are_chosen_by_type() -> None:
    observed = Observed(None, {"messages": ("client-query", "forwarder-response")})
    asked(observed, query())
    assert [tap.type for tap in observed.taps()] == ["CLIENT_QUERY"]
    assert observed.observer.observes_upstreams
    assert not Observed(None, {"messages": ("client-query",)}).observer.observes_upstreams
    assert not Observed({}).observer.observes_upstreams


@pytest.mark.parametrize(("rd", "kind"), [(False, "RESOLVER"), (True, "FORWARDER")])
def test_messages_of_servers(rd: bool, kind: str) -> None:
    observed = Observed({}, {})
    zone = names.from_text("com.")
    ask = Ask(Server("192.0.2.9", 5353), QNAME, c.A, rd=rd, timeout=1.0, zone=zone)
    packet = make_query(3, QNAME, c.A)
    observed.observer.upstream_query(ask, packet, "tls")
    observed.observer.upstream_response(ask, packet, b"reply", "tls", 0.25)
    first, second = observed.taps()
    assert (first.type, second.type) == (f"{kind}_QUERY", f"{kind}_RESPONSE")
    for tap in (first, second):
        assert tap.fields["response_address"] == bytes([192, 0, 2, 9]) and tap.fields["response_port"] == 5353
        assert tap.fields["zone"] == zone and tap.protocol == "DOT" and "query_address" not in tap.fields
    assert first.fields["query"] == packet and second.fields["response"] == b"reply"
    took = (second.fields["response_sec"] - second.fields["query_sec"]) * 10**9
    assert took + second.fields["response_nsec"] - second.fields["query_nsec"] == 250_000_000
    assert observed.lines() == []


def test_a_sample_has_query_and_response_of_servers() -> None:
    observed = Observed(None, {"sample": 4})
    for number in range(400):
        ask = Ask(Server("192.0.2.9", 53), QNAME, c.A, timeout=1.0)
        packet = make_query(number, QNAME, c.A)
        observed.observer.upstream_query(ask, packet, "udp")
        observed.observer.upstream_response(ask, packet, packet, "udp", 0.1)
    taps = observed.taps()
    assert 40 < len(taps) / 2 < 180
    assert [tap.type for tap in taps] == ["RESOLVER_QUERY", "RESOLVER_RESPONSE"] * (len(taps) // 2)


def test_the_largest_messages_fit() -> None:
    observed = Observed(None, {})
    ask = Ask(Server("2001:db8::1", 53), QNAME, c.A, timeout=1.0, zone=b"\x3f" + b"x" * 63 + b"\0")
    packet = make_query(1, QNAME, c.A)
    for size in (0, 1, 127, 128, 16_383, 16_384, 65_535):
        observed.observer.upstream_response(ask, packet, bytes(size), "tcp", 0.0)
    assert [len(tap.fields.get("response", b"")) for tap in observed.taps()] == [0, 1, 127, 128, 16_383, 16_384, 65_535]


def test_when_the_buffer_is_full_queries_are_answered_and_records_counted() -> None:
    observed = Observed({}, {})
    parts = asked(observed, query())
    assert observed.tap_pieces is not None and observed.log_pieces is not None
    count = 0
    while not (observed.tap_pieces.overrun > 10 and observed.log_pieces.overrun > 10):
        assert parts.fast.answer(query(), CLIENT, NOW)
        count += 1
        assert count < 200_000
    recorded = observed.log_pieces.records + observed.log_pieces.overrun
    assert recorded == count + 1
    assert observed.tap_pieces.records + observed.tap_pieces.overrun == 2 * recorded
    assert len(observed.lines()) == observed.log_pieces.records
    assert len(observed.taps()) == observed.tap_pieces.records


def test_nothing_is_recorded_of_dropped_messages_on_the_fast_path() -> None:
    observed = Observed({}, {})
    parts = Parts(observer=observed.observer)
    assert parts.fast.answer(b"short", CLIENT, NOW) == b""
    assert observed.lines() == [] and observed.taps() == []
