"""PROXY protocol version 2: the client address that a load balancer reports.

Each connection, and each datagram, begins with one header (HAProxy, doc/proxy-protocol.txt, section 2.2). It is read
only from peers in the configuration, because its sender chooses the address that access lists, limits and cookies use
(CVE-2026-54478). Sans-IO: octets go in, a `ProxyHeader` comes out.

After a header that violates the specification, the connection is closed or the datagram is dropped, and counted.
Version 1 (text) is not accepted. TLVs are skipped. A header has at most `limits.PROXY_HEADER_OCTETS`.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from resolver import limits
from resolver.policy import ALLOW, AccessTable
from resolver.query import client_address

__all__ = ["ProxyHeader", "ProxyHeaderError", "TrustedProxies", "parse_proxy_header"]

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
HEAD = 16  # signature, version and command, family and protocol, length of what follows
_VERSION = 0x20
_LOCAL, _PROXY = 0, 1
_AF_UNSPEC, _AF_INET, _AF_INET6, _AF_UNIX = 0, 1, 2, 3
_LAST_PROTOCOL = 2  # 0 unspecified, 1 stream, 2 datagram
_ADDRESS_OCTETS = {_AF_INET: 4, _AF_INET6: 16}
_PORT_OCTETS = 2
_UNIX_OCTETS = 216  # two paths of 108 octets


class ProxyHeaderError(ValueError):
    """The octets are not a header of PROXY protocol version 2, or the header is too large."""


class ProxyHeader(NamedTuple):
    """A header of `size` octets. `client` is (address, port), or None when the connection is the proxy's own (command
    LOCAL) or not of IPv4 or IPv6."""

    size: int
    client: tuple[str, int] | None


class TrustedProxies:
    """Peers that must send a header; all others must not."""

    def __init__(self, prefixes: Iterable[str]) -> None:
        """Compile address prefixes.

        Raises:
            ValueError: one of them is not an address prefix.
        """
        self._table = AccessTable(allow=prefixes, refuse=(), drop=())

    def __contains__(self, address: str) -> bool:
        return self._table.lookup(address) == ALLOW


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """Parse the header at the start of `data`; None while it is incomplete.

    Raises:
        ProxyHeaderError: `data` is not the beginning of a valid header. It is raised at the first wrong octet of the
            signature; the other fields are checked when all `HEAD` octets are there.
    """
    if not SIGNATURE.startswith(data[: len(SIGNATURE)]):
        raise ProxyHeaderError("the signature of PROXY protocol version 2 is missing")
    if len(data) < HEAD:
        return None
    version, command = data[12] & 0xF0, data[12] & 0x0F
    family, protocol = data[13] >> 4, data[13] & 0x0F
    length = int.from_bytes(data[14:HEAD], "big")
    if version != _VERSION or command > _PROXY:
        raise ProxyHeaderError(f"version and command {data[12]:#04x} are unknown")
    if family > _AF_UNIX or protocol > _LAST_PROTOCOL:
        raise ProxyHeaderError(f"family and protocol {data[13]:#04x} are unknown")
    size = HEAD + length
    if size > limits.PROXY_HEADER_OCTETS:
        raise ProxyHeaderError(f"the header has {size} octets, more than {limits.PROXY_HEADER_OCTETS}")
    octets = _ADDRESS_OCTETS.get(family, 0)
    needed = _UNIX_OCTETS if family == _AF_UNIX else 2 * (octets + _PORT_OCTETS) if octets else 0
    if command == _PROXY and length < needed:
        raise ProxyHeaderError(f"the header has {length} octets of addresses and needs {needed}")
    if len(data) < size:
        return None
    if command == _LOCAL or not octets:
        return ProxyHeader(size, None)
    address = client_address(str(ip_address(data[HEAD:HEAD + octets])))
    at = HEAD + 2 * octets
    return ProxyHeader(size, (address, int.from_bytes(data[at:at + _PORT_OCTETS], "big")))
