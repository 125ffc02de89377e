"""PROXY protocol version 2: any octets are a header, the beginning of one, or an error.

What was accepted is accepted again from its own octets alone, and never from fewer.
"""

from ipaddress import ip_address

from resolver import limits
from resolver.net.proxy_protocol import ProxyHeaderError, parse_proxy_header

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"


def run(data: bytes) -> None:
    """One input, as it is and behind the signature."""
    for octets in (data, SIGNATURE + data):
        try:
            found = parse_proxy_header(octets)
        except ProxyHeaderError:
            continue
        if found is None:
            assert len(octets) < limits.PROXY_HEADER_OCTETS
            continue
        assert 16 <= found.size <= min(len(octets), limits.PROXY_HEADER_OCTETS)
        assert parse_proxy_header(octets[: found.size]) == found
        assert parse_proxy_header(octets[: found.size - 1]) is None
        if found.client is not None:
            ip_address(found.client[0])
            assert 0 <= found.client[1] < 65_536
