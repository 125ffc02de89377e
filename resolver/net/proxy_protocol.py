"""PROXY protocol version 2: the address of the client, as a load balancer between it and us reports it.

Each connection begins with one header, and each datagram has one (HAProxy, doc/proxy-protocol.txt, section 2.2). It is
read only from peers that the configuration names, because its sender chooses the address that access lists, limits and
cookies see (CVE-2026-54478). Sans-IO: octets go in, a `ProxyHeader` comes out.

A header that is not exactly as specified is an error: the connection is closed and counted, the datagram is dropped and
counted. Version 1 (text) is not accepted. TLVs are skipped, at most `limits.PROXY_HEADER_OCTETS` with the addresses.
"""

from collections.abc import Iterable
from ipaddress import ip_address
from typing import NamedTuple

from resolver import limits
from resolver.policy import ALLOW, AccessTable

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
    """The octets are not a header of PROXY protocol version 2, or one of more octets than are accepted."""


class ProxyHeader(NamedTuple):
    """`size` octets were the header. `client` is (address, port), or None when the connection is the proxy's own
    (command LOCAL) or of a family without addresses."""

    size: int
    client: tuple[str, int] | None


class TrustedProxies:
    """Peers whose headers are read; from all others none is expected."""

    def __init__(self, prefixes: Iterable[str]) -> None:
        """Compile address prefixes.

        Raises:
            ValueError: one of them is no prefix.
        """
        self._table = AccessTable(allow=prefixes, refuse=(), drop=())

    def __contains__(self, address: str) -> bool:
        return self._table.lookup(address) == ALLOW


def parse_proxy_header(data: bytes) -> ProxyHeader | None:
    """The header that `data` begins with; None while its last octets are missing.

    Raises:
        ProxyHeaderError: no continuation of `data` could be one. It is raised at the first octet that is wrong.
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
    address = ip_address(data[HEAD:HEAD + octets])
    at = HEAD + 2 * octets
    return ProxyHeader(size, (str(address), int.from_bytes(data[at:at + _PORT_OCTETS], "big")))
