"""The client subnet option of EDNS (RFC 7871 section 6), address prefixes in binary form, and sets of them.

A subnet is an address in network order (4 or 16 octets, so the family is part of it) whose bits beyond the prefix are
zero, and the length of the prefix. The option is read as strictly as section 7.1.2 demands, because its octets are
compared with what was sent.
"""

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Final, NamedTuple

from resolver.wire.errors import WireError

__all__ = ["ADDRESS_BITS", "PrefixSet", "Subnet", "SubnetOption", "describe_subnet", "encode_subnet", "parse_subnet",
           "truncate"]

Subnet = tuple[bytes, int]
"""Address and length of the prefix, in bits."""

ADDRESS_BITS: Final = 128
HEAD: Final = 4
SIZES: Final = {1: 4, 2: 16}
"""Octets of an address, by address family (IANA)."""
FAMILIES: Final = {4: 1, 16: 2}
MALFORMED: Final = "client subnet option is malformed"


class SubnetOption(NamedTuple):
    """The content of an option. `subnet` is None with a source prefix of 0: the sender wants no subnet to be used."""

    subnet: Subnet | None
    scope: int


def truncate(address: bytes, length: int) -> bytes:
    """`address` with all bits after the first `length` cleared."""
    spare = len(address) * 8 - length
    if spare <= 0:
        return address
    return (int.from_bytes(address, "big") >> spare << spare).to_bytes(len(address), "big")


def encode_subnet(subnet: Subnet, scope: int = 0) -> bytes:
    """The content of an option with as many octets of the address as the prefix needs."""
    address, length = subnet
    return bytes((0, FAMILIES[len(address)], length, scope)) + address[: (length + 7) // 8]


def parse_subnet(content: bytes) -> SubnetOption:
    """Read the content of an option.

    Raises:
        WireError: a length does not fit the family, or a bit beyond the source prefix is set.
    """
    if len(content) < HEAD:
        raise WireError(MALFORMED)
    family, source, scope = int.from_bytes(content[:2], "big"), content[2], content[3]
    if source == 0:
        # Nothing is said about an address, so the family does not matter; some clients send 0.
        if len(content) != HEAD or scope > ADDRESS_BITS:
            raise WireError(MALFORMED)
        return SubnetOption(None, scope)
    size = SIZES.get(family, 0)
    if source > size * 8 or scope > size * 8 or len(content) != HEAD + (source + 7) // 8:
        raise WireError(MALFORMED)
    address = content[HEAD:].ljust(size, b"\0")
    if truncate(address, source) != address:
        raise WireError(MALFORMED)
    return SubnetOption((address, source), scope)


def describe_subnet(subnet: Subnet) -> str:
    """A subnet as people write it."""
    return str(ip_network(subnet))


class PrefixSet:
    """Address prefixes, for the question whether an address is in one of them."""

    __slots__ = ("_networks",)

    def __init__(self, prefixes: Iterable[str]) -> None:
        self._networks: dict[tuple[int, int], set[bytes]] = {}
        for text in prefixes:
            network = ip_network(text, strict=False)
            packed = network.network_address.packed
            self._networks.setdefault((len(packed), network.prefixlen), set()).add(packed)

    def __contains__(self, address: bytes) -> bool:
        return any(size == len(address) and truncate(address, length) in networks
                   for (size, length), networks in self._networks.items())
