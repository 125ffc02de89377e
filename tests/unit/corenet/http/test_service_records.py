"""HTTPS records: their wire form, and which of them are used in which order (RFC 9460)."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.records import https_record, name_wire, param

from corenet.http.service_records import (
    ServiceRecord,
    choose_alias,
    choose_services,
    parse_records,
    service_name,
)
from corenet.http.url import Origin
from corenet.limits import HTTP_SERVICE_ENDPOINTS, HTTP_SERVICE_HINTS

BOTH = ("h2", "http/1.1")


def keep(records: list[ServiceRecord]) -> None:
    """No shuffle."""


def backwards(records: list[ServiceRecord]) -> None:
    records.reverse()


def one(rdata: bytes) -> ServiceRecord:
    [record] = parse_records([rdata])
    return record


def test_all_parameters_are_parsed() -> None:
    hints = ("192.0.2.1", "192.0.2.2", "2001:db8::1")
    record = one(https_record(7, "Alt.Example", alpn=("h2", "h3"), default=False, port=8443, hints=hints,
                              mandatory=(1, 3)))  # fmt: skip
    assert record == ServiceRecord(
        7, "alt.example", ("h2", "h3"), True, 8443, (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")),
        (IPv6Address("2001:db8::1"),), (1, 3),
    )  # fmt: skip
    shown = "7 alt.example alpn=h2,h3 no-default-alpn port=8443 hints=192.0.2.1,192.0.2.2,2001:db8::1"
    assert str(record) == shown


def test_the_vectors_of_appendix_d() -> None:
    """RFC 9460 appendix D.1 and D.2, in part."""
    assert one(bytes.fromhex("000003666f6f076578616d706c6503636f6d00")) == ServiceRecord(0, "foo.example.com")
    assert one(bytes.fromhex("000100")) == ServiceRecord(1, "")
    assert one(bytes.fromhex("001003666f6f076578616d706c6503636f6d00000300020035")).port == 53
    unknown = one(bytes.fromhex("000103666f6f076578616d706c6503636f6d00029b000568656c6c6f"))
    assert unknown == ServiceRecord(1, "foo.example.com")
    six = one(bytes.fromhex(
        "000103666f6f076578616d706c6503636f6d0000060020"
        "20010db800000000000000000000000120010db8000000000000000000530001"
    ))  # fmt: skip
    assert list(map(str, six.ipv6hint)) == ["2001:db8::1", "2001:db8::53:1"]
    listed = one(bytes.fromhex(
        "001003666f6f076578616d706c65036f7267000000000400010004000100090268320568332d31390004"
        "0004c0000201"
    ))  # fmt: skip
    assert (listed.mandatory, listed.alpn) == ((1, 4), ("h2", "h3-19"))


HEAD = b"\0\1" + name_wire("alt.example")


@pytest.mark.parametrize(
    ("rdata", "why"),
    [
        (b"", "before its target"),
        (b"\0\1", "before its target"),
        (b"\0\1\3al", "within its target"),
        (b"\0\1\xc0\0", "compressed"),
        (HEAD + b"\0\3\0", "within a parameter"),
        (HEAD + b"\0\3\0\2\0", "within a parameter"),
        (HEAD + param(3, b"\0\1") + param(1, b"\2h2"), "ascending"),
        (HEAD + param(3, b"\0\1") + param(3, b"\0\1"), "ascending"),
        (HEAD + param(3, b"\1"), "two octets"),
        (HEAD + param(1, b""), "empty"),
        (HEAD + param(1, b"\0"), "malformed"),
        (HEAD + param(1, b"\5h2"), "malformed"),
        (HEAD + param(1, b"\2h2") + param(2, b"x"), "has a value"),
        (HEAD + param(4, b""), "4 octets"),
        (HEAD + param(4, b"\1\2\3"), "4 octets"),
        (HEAD + param(6, bytes(15)), "16 octets"),
        (HEAD + param(0, b""), "mandatory"),
        (HEAD + param(0, b"\0"), "mandatory"),
        (HEAD + param(0, b"\0\0"), "mandatory"),
        (HEAD + param(0, b"\0\3\0\1") + param(1, b"\2h2") + param(3, b"\0\1"), "mandatory"),
        (HEAD + param(0, b"\0\3"), "calls mandatory"),
    ],
)
def test_a_malformed_record_invalidates_its_set(rdata: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_records([https_record(1, "alt.example"), rdata])


@given(st.binary(max_size=80))
def test_any_octets_are_records_or_a_value_error(rdata: bytes) -> None:
    try:
        [record] = parse_records([b"\0\1" + rdata])
    except ValueError:
        return
    assert record.priority == 1 and isinstance(str(record), str)


@pytest.mark.parametrize(
    ("rdata", "protocols", "usable"),
    [
        (https_record(1, "alt.example"), BOTH, True),
        (https_record(1, "alt.example", alpn=("h3",)), BOTH, True),
        (https_record(1, "alt.example", alpn=("h3",), default=False), BOTH, False),
        (https_record(1, "alt.example", alpn=("h2",), default=False), BOTH, True),
        (https_record(1, "alt.example", alpn=("h2",), default=False), ("http/1.1",), False),
        (https_record(1, "alt.example", default=False), BOTH, False),
        (https_record(1, "alt.example", port=0), BOTH, False),
        (https_record(1, "alt.example", mandatory=(3,), port=8443), BOTH, True),
        (https_record(1, "alt.example", mandatory=(5,), more=param(5, b"ech")), BOTH, False),
        (https_record(1, "alt.example", more=param(5, b"ech")), BOTH, True),
        (https_record(1, "alt.example", mandatory=(667,), more=param(667, b"x")), BOTH, False),
        (https_record(1, "not a host"), BOTH, False),
        (b"\0\1\3a.b\0", BOTH, False),
    ],
)
def test_records_with_unknown_mandatory_keys_or_protocols_are_not_used(
    rdata: bytes, protocols: tuple[str, ...], usable: bool
) -> None:
    assert one(rdata).is_usable(protocols) is usable


def test_services_by_priority_and_equal_ones_at_random() -> None:
    records = parse_records([
        https_record(2, "b.example"), https_record(1, "a.example"), https_record(2, "c.example"),
        https_record(1, "x.example", alpn=("h3",), default=False),
    ])  # fmt: skip
    assert [record.target for record in choose_services(records, BOTH, keep)] == ["a.example", "b.example", "c.example"]
    shuffled = choose_services(records, BOTH, backwards)
    assert [record.target for record in shuffled] == ["a.example", "c.example", "b.example"]


def test_an_alias_makes_services_of_its_set_unusable() -> None:
    records = parse_records([https_record(1, "a.example"), https_record(0, "b.example"), https_record(0, "c.example")])
    assert choose_services(records, BOTH, keep) == []
    assert choose_alias(records, keep) == "b.example" and choose_alias(records, backwards) == "c.example"
    assert choose_alias(parse_records([https_record(1, "a.example")]), keep) is None
    assert not choose_alias(parse_records([https_record(0, ".")]), keep)


def test_endpoints_and_hints_are_bounded() -> None:
    many = parse_records([https_record(number, f"n{number}.example") for number in range(1, 100)])
    assert len(choose_services(many, BOTH, keep)) == HTTP_SERVICE_ENDPOINTS
    hints = tuple(f"192.0.2.{number}" for number in range(200))
    assert len(one(https_record(1, "a.example", hints=hints)).ipv4hint) == HTTP_SERVICE_HINTS


@pytest.mark.parametrize(
    ("origin", "name"),
    [
        (Origin("https", "www.example", 443), "www.example"),
        (Origin("https", "www.example", 8443), "_8443._https.www.example"),
        (Origin("http", "www.example", 80), "www.example"),
        (Origin("http", "www.example", 8080), "_8080._https.www.example"),
        (Origin("https", "www.example", 80), "_80._https.www.example"),
    ],
)
def test_the_name_of_the_records(origin: Origin, name: str) -> None:
    assert service_name(origin) == name
