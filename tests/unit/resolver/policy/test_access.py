"""Access lists: the compiled ranges decide exactly as the longest prefix does, however the prefixes are nested."""

import ipaddress
import random
import socket
import struct

import pytest

from resolver.policy import ALLOW, DROP, REFUSE, AccessTable
from resolver.policy.ranges import flatten, read_prefixes


def sockaddr(text: str, port: int = 53) -> bytes:
    """A struct sockaddr as the kernel hands it over."""
    address = ipaddress.ip_address(text)
    if address.version == 4:
        return struct.pack("=HH", socket.AF_INET, socket.htons(port)) + address.packed + bytes(8)
    return struct.pack("=HHI", socket.AF_INET6, socket.htons(port), 0) + address.packed + bytes(4)


def by_longest_prefix(lists, text):
    """The rule, applied prefix by prefix."""
    address = ipaddress.ip_address(text)
    if address.version == 6 and address.ipv4_mapped:
        address = address.ipv4_mapped
    found = [
        (-network.prefixlen, decision)
        for decision, texts in lists.items()
        for network in map(ipaddress.ip_network, texts)
        if network.version == address.version and address in network
    ]
    return min(found)[1] if found else REFUSE


def test_decisions_are_ordered_by_strictness():
    assert DROP < REFUSE < ALLOW


def test_an_empty_table_refuses_all_clients():
    table = AccessTable()
    assert [table.lookup(text) for text in ("0.0.0.0", "255.255.255.255", "::", "2001:db8::1")] == [REFUSE] * 4


def test_longest_prefix_wins_whatever_the_order():
    table = AccessTable(
        allow=["10.0.0.0/8", "10.1.2.3/32", "0.0.0.0/0"],
        refuse=["10.1.0.0/16"],
        drop=["10.1.2.0/24", "10.255.255.255/32"],
    )
    for text, decision in [
        ("9.255.255.255", ALLOW),
        ("10.0.0.0", ALLOW),
        ("10.1.0.0", REFUSE),
        ("10.1.2.2", DROP),
        ("10.1.2.3", ALLOW),
        ("10.1.2.4", DROP),
        ("10.1.3.0", REFUSE),
        ("10.2.0.0", ALLOW),
        ("10.255.255.255", DROP),
        ("11.0.0.0", ALLOW),
    ]:
        assert table.lookup(text) == decision, text


def test_between_equal_prefixes_the_stricter_wins():
    table = AccessTable(allow=["::1/128", "10.0.0.0/8"], refuse=["::1/128"], drop=["10.0.0.0/8"])
    assert (table.lookup("::1"), table.lookup("10.9.9.9")) == (REFUSE, DROP)


def test_the_limits_of_the_address_space():
    table = AccessTable(
        allow=["255.255.255.255/32", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"], drop=["0.0.0.0/32", "::/128"]
    )
    assert table.lookup("255.255.255.255") == table.lookup("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff") == ALLOW
    assert table.lookup("0.0.0.0") == table.lookup("::") == DROP
    assert table.lookup("255.255.255.254") == table.lookup("0.0.0.1") == REFUSE


def test_ipv4_mapped_addresses_are_matched_as_ipv4():
    table = AccessTable(allow=["192.0.2.0/24"], drop=["::/0"])
    assert table.lookup("::ffff:192.0.2.7") == ALLOW
    assert table.lookup("::192.0.2.7") == DROP
    assert AccessTable(allow=["::ffff:192.0.2.0/120"]).lookup("192.0.2.7") == ALLOW


def test_host_bits_in_a_prefix_are_ignored():
    assert AccessTable(allow=["192.0.2.77/24"]).lookup("192.0.2.1") == ALLOW


@pytest.mark.parametrize("text", ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "203.0.113.9", "::1"])
def test_the_c_interface_reads_a_sockaddr(text):
    table = AccessTable(allow=["192.0.2.0/24", "2001:db8::/32"], drop=["203.0.113.0/24"])
    assert table.lookup_sockaddr(sockaddr(text)) == table.lookup(text)


def test_the_c_interface_drops_other_address_families():
    table = AccessTable(allow=["0.0.0.0/0", "::/0"])
    assert table.lookup_sockaddr(b"") == DROP
    assert table.lookup_sockaddr(sockaddr("192.0.2.1")[:7]) == DROP
    assert table.lookup_sockaddr(sockaddr("::1")[:23]) == DROP
    assert table.lookup_sockaddr(struct.pack("=H", socket.AF_UNIX) + bytes(30)) == DROP
    assert table.lookup_sockaddr(sockaddr("::1")[:24]) == ALLOW


def test_wrong_texts_raise():
    with pytest.raises(ValueError):
        AccessTable(allow=["all"])
    with pytest.raises(ValueError):
        AccessTable().lookup("nobody")


@pytest.mark.parametrize("seed", range(8))
def test_decisions_agree_with_the_rule(seed):
    rng = random.Random(seed)
    lists = {DROP: [], REFUSE: [], ALLOW: []}
    edges = []
    for _ in range(60):
        if rng.random() < 0.5:
            # few distinct high bytes, so that prefixes nest
            packed = bytes([10, rng.randrange(3), rng.randrange(256), rng.randrange(256)])
            network = ipaddress.ip_network((packed, rng.randrange(33)), strict=False)
        else:
            packed = b"\x20\x01\x0d\xb8" + bytes(rng.randrange(2) for _ in range(10)) + rng.randbytes(2)
            network = ipaddress.ip_network((packed, rng.randrange(129)), strict=False)
        lists[rng.choice([DROP, REFUSE, ALLOW])].append(str(network))
        top = 2**network.max_prefixlen - 1
        kind = type(network.network_address)
        first, last = int(network.network_address), int(network.broadcast_address)
        edges += [str(kind(value)) for value in {first, last, max(first - 1, 0), min(last + 1, top)}]
    table = AccessTable(lists[ALLOW], lists[REFUSE], lists[DROP])
    for text in edges:
        assert table.lookup(text) == table.lookup_sockaddr(sockaddr(text)) == by_longest_prefix(lists, text), text


def test_flatten_merges_neighbours_that_agree():
    assert flatten([(0, 1, 2), (128, 1, 2)], 8, 1) == [(0, 2)]
    assert flatten([(64, 2, 2)], 8, 1) == [(0, 1), (64, 2), (128, 1)]
    assert flatten([], 8, 1) == [(0, 1)]


def test_read_prefixes_sorts_by_version():
    assert read_prefixes(["10.0.0.0/8", "::/0"], 2) == {4: [(10 << 24, 8, 2)], 6: [(0, 0, 2)]}
