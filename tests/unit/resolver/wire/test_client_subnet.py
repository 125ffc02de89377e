"""The client subnet option: what is written, what is read, and which contents are malformed (RFC 7871 section 6)."""

import pytest

from resolver.wire import WireError
from resolver.wire.client_subnet import (
    PrefixSet,
    SubnetOption,
    describe_subnet,
    encode_subnet,
    parse_subnet,
    truncate,
)


def test_the_examples_of_the_protocol() -> None:
    subnet = (bytes([192, 0, 2, 0]), 24)
    assert encode_subnet(subnet) == bytes.fromhex("00011800 c00002")
    assert encode_subnet((bytes.fromhex("20010db8") + bytes(12), 32), 48) == bytes.fromhex("00022030 20010db8")
    assert encode_subnet((bytes([192, 0, 2, 128]), 25)) == bytes.fromhex("00011900 c0000280")
    assert parse_subnet(bytes.fromhex("00011814 c00002")) == SubnetOption(subnet, 20)
    assert describe_subnet(subnet) == "192.0.2.0/24"


@pytest.mark.parametrize("content", ["00010000", "00000000", "00020000"])
def test_a_source_prefix_of_0_requests_that_no_subnet_is_sent(content: str) -> None:
    assert parse_subnet(bytes.fromhex(content)) == SubnetOption(None, 0)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "nothing"), ("000118", "no scope"), ("00011800 c000", "too few octets"),
        ("00011800 c0000200", "too many octets"), ("00011800", "no address"), ("00010000 c0", "an address of no bits"),
        ("00011700 c00003", "a bit beyond the prefix"), ("00012100 c000020000", "more bits than the family has"),
        ("00011821 c00002", "a scope that the family does not have"), ("00031800 c00002", "no such family"),
        ("000281" + "00" + "00" * 17, "129 bits"), ("00000800 c0", "family 0 with an address"),
        ("000000ff", "a scope that no family has"),
    ],
)
def test_malformed_contents(content: str, why: str) -> None:
    with pytest.raises(WireError, match="client subnet option is malformed"):
        parse_subnet(bytes.fromhex(content))


def test_truncation_and_sets_of_prefixes() -> None:
    assert truncate(bytes([192, 0, 2, 255]), 32) == bytes([192, 0, 2, 255])
    assert truncate(bytes([255, 255, 255, 255]), 9) == bytes([255, 128, 0, 0])
    assert truncate(bytes([255] * 16), 0) == bytes(16)
    prefixes = PrefixSet(("192.0.2.7/24", "10.0.0.0/8", "2001:db8::1"))
    assert bytes([192, 0, 2, 200]) in prefixes
    assert bytes([192, 0, 3, 0]) not in prefixes
    assert bytes.fromhex("20010db8" + "00" * 11 + "01") in prefixes
    assert bytes.fromhex("0a000000" + "00" * 12) not in prefixes, "the bits of another family"
    assert bytes(4) not in PrefixSet(())
