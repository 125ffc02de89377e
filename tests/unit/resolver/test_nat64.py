"""Addresses with embedded IPv4 addresses, and the NAT64 between the resolver and name servers."""

from ipaddress import IPv6Network, ip_address

import pytest

from resolver.nat64 import WELL_KNOWN_PREFIX, Nat64Prefix, ServerNat64
from resolver.settings import IterationSettings, PolicySettings
from resolver.settings.dns64 import LENGTHS

# RFC 6052 section 2.4, table 1: 192.0.2.33
TABLE = [
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::c000:221"),
    ("64:ff9b::/96", "64:ff9b::c000:221"),
]


def test_the_table_has_every_length() -> None:
    assert {IPv6Network(prefix).prefixlen for prefix, _ in TABLE} == set(LENGTHS)


@pytest.mark.parametrize(("prefix", "made"), TABLE)
def test_a_server_is_reached_at_the_address_of_rfc_6052(prefix: str, made: str) -> None:
    nat64 = ServerNat64.create(prefix)
    assert nat64 is not None
    assert nat64.reach("192.0.2.33") == str(ip_address(made))
    assert nat64.extract(ip_address(made).packed) == bytes([192, 0, 2, 33])


@pytest.mark.parametrize("text", ["2001:db8::1", "fe80::1%eth0", "127.0.0.1", "127.8.8.8", "::1"])
def test_addresses_without_translator_are_reached_as_they_are(text: str) -> None:
    assert ServerNat64(IPv6Network("64:ff9b::/96")).reach(text) == text


@pytest.mark.parametrize("text", ["2001:db8::1", "64:ff9b:1::c000:221", "192.0.2.33"])
def test_addresses_without_the_prefix_have_no_embedded_one(text: str) -> None:
    assert ServerNat64(IPv6Network("64:ff9b::/96")).extract(ip_address(text).packed) is None


def test_without_a_prefix_there_is_no_translator() -> None:
    assert ServerNat64.create("") is None


def test_the_well_known_prefix() -> None:
    prefix = Nat64Prefix(IPv6Network("64:ff9b::/96"))
    assert prefix.embed(bytes(4))[:12] == WELL_KNOWN_PREFIX


def test_a_prefix_with_an_interface_is_refused() -> None:
    prefix = "64:ff9b::%eth0/96"
    for check in (lambda: IterationSettings(nat64_prefix=prefix), lambda: PolicySettings(dns64_prefix=(prefix,))):
        with pytest.raises(ValueError, match="has an interface"):
            check()
