"""PROXY protocol version 2: headers as load balancers send them, cut anywhere, and malformed ones."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resolver import limits
from resolver.net.proxy_protocol import ProxyHeader, ProxyHeaderError, TrustedProxies, parse_proxy_header

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.1") + b"\x12\x34\x03\x55"
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::7") + bytes(16) + b"\x12\x34\x03\x55"


def header(command: int = 0x21, family: int = 0x11, data: bytes = V4, *, length: int | None = None) -> bytes:
    size = len(data) if length is None else length
    return SIGNATURE + bytes([command, family]) + size.to_bytes(2, "big") + data


@pytest.mark.parametrize(
    ("octets", "client"),
    [
        (header(), ("192.0.2.7", 0x1234)),
        (header(family=0x12), ("192.0.2.7", 0x1234)),
        (header(family=0x21, data=V6), ("2001:db8::7", 0x1234)),
        (header(data=V4 + b"\x04\x00\x03abc"), ("192.0.2.7", 0x1234)),  # a TLV
        (header(command=0x20), None),  # LOCAL: a health check
        (header(command=0x20, family=0, data=b""), None),
        (header(family=0, data=b""), None),
        (header(family=0x31, data=bytes(216)), None),
    ],
)
def test_the_client_address_comes_from_the_header(octets: bytes, client: tuple[str, int] | None) -> None:
    assert parse_proxy_header(octets + b"what follows") == ProxyHeader(len(octets), client)
    for cut in range(len(octets)):
        assert parse_proxy_header(octets[:cut]) is None


@pytest.mark.parametrize(
    ("octets", "words"),
    [
        (b"GET / HTTP/1.1\r\n", "signature"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n", "signature"),
        (b"\x16\x03\x01\x02\x00\x01", "signature"),
        (SIGNATURE[:11] + b"x", "signature"),
        (header(command=0x11), "version"),
        (header(command=0x22), "version"),
        (header(family=0x41), "family"),
        (header(family=0x13), "family"),
        (header(data=V4[:11]), "needs 12"),
        (header(family=0x21, data=V6[:35]), "needs 36"),
        (header(family=0x31, data=bytes(215)), "needs 216"),
        (header(length=limits.PROXY_HEADER_OCTETS - 15), "more than"),
    ],
)
def test_anything_else_is_an_error(octets: bytes, words: str) -> None:
    with pytest.raises(ProxyHeaderError, match=words):
        parse_proxy_header(octets)


def test_the_largest_header_is_accepted() -> None:
    octets = header(data=V4 + bytes(limits.PROXY_HEADER_OCTETS - 16 - len(V4)))
    assert len(octets) == limits.PROXY_HEADER_OCTETS
    assert parse_proxy_header(octets) == ProxyHeader(len(octets), ("192.0.2.7", 0x1234))


@given(st.binary(max_size=300), st.booleans())
def test_any_octets_are_parsed_or_refused(data: bytes, signed: bool) -> None:
    octets = SIGNATURE + data if signed else data
    try:
        found = parse_proxy_header(octets)
    except ProxyHeaderError:
        return
    if found is not None:
        assert 16 <= found.size <= len(octets)
        assert parse_proxy_header(octets[: found.size]) == found
        assert parse_proxy_header(octets[: found.size - 1]) is None


def test_only_named_peers_are_trusted() -> None:
    proxies = TrustedProxies(["192.0.2.0/28", "2001:db8::/64"])
    assert "192.0.2.15" in proxies and "2001:db8::1" in proxies
    assert "192.0.2.16" not in proxies and "2001:db8:0:1::1" not in proxies
