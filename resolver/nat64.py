"""Addresses of IPv4 hosts behind a NAT64 (RFC 6052): a prefix of the translator with the IPv4 address embedded in it.

`Nat64Prefix` embeds and extracts packed addresses; DNS64 makes addresses for clients with it. `ServerNat64` is the
translator through which the resolver itself reaches name servers that have only IPv4 addresses
(`iteration.nat64_prefix`). Both are immutable.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

__all__ = ["WELL_KNOWN_PREFIX", "Nat64Prefix", "ServerNat64"]

WELL_KNOWN_PREFIX = b"\x00\x64\xff\x9b" + bytes(8)
"""The first 96 bits of addresses that translators have by default (RFC 6052 section 2.1). A network may have one
although nothing is configured here."""

_RESERVED_OCTET = 8         # bits 64 to 71 of an address with embedded IPv4 are zero (RFC 6052 section 2.2)


class Nat64Prefix:
    """One prefix: addresses in it are translated to the IPv4 addresses embedded in them, when these are in `ranges`."""

    def __init__(self, prefix: IPv6Network, ranges: Iterable[IPv4Network] = ()) -> None:
        """`prefix` has 32, 40, 48, 56, 64 or 96 bits. Without `ranges`, it is for all IPv4 addresses."""
        self._prefix = prefix.network_address.packed
        self._octets = prefix.prefixlen // 8
        self._places = _places(self._octets)
        self._ranges = tuple(ranges)

    def covers(self, address: bytes) -> bool:
        """Whether the prefix is for the IPv4 `address`."""
        return not self._ranges or any(IPv4Address(address) in network for network in self._ranges)

    def embed(self, address: bytes) -> bytes:
        """The IPv6 address with the IPv4 `address` embedded (RFC 6052 section 2.2)."""
        made = bytearray(self._prefix)
        for place, octet in zip(self._places, address, strict=True):
            made[place] = octet
        return bytes(made)

    def extract(self, address: bytes) -> bytes | None:
        """The IPv4 address embedded in `address`; None when it does not have the prefix."""
        octets = self._octets
        if len(address) != len(self._prefix) or address[:octets] != self._prefix[:octets]:
            return None
        return bytes(address[place] for place in self._places)


class ServerNat64:
    """The NAT64 between this host and name servers with IPv4 addresses.

    Queries go to the IPv6 address that stands for that of the server, so all that is about the path has this one:
    sockets, round-trip times, routes. Rules that the operator wrote for the IPv4 address hold for it, too (`extract`).
    """

    def __init__(self, prefix: IPv6Network) -> None:
        self._prefix = Nat64Prefix(prefix)

    @classmethod
    def create(cls, prefix: str) -> "ServerNat64 | None":
        """The translator with `prefix`, a value of `iteration.nat64_prefix`; None for an empty one."""
        return cls(IPv6Network(prefix)) if prefix else None

    def reach(self, text: str) -> str:
        """The address to which queries to the server at the address `text` are sent. A loopback address stays as it is:
        the translator does not reach this host by it."""
        address = ip_address(text)
        if not isinstance(address, IPv4Address) or address.is_loopback:
            return text
        return self.embed(address.packed)

    def extract(self, address: bytes) -> bytes | None:
        """The IPv4 address of the server that is reached at `address`; None when that is not translated."""
        return self._prefix.extract(address)

    def embed(self, address: bytes) -> str:
        """The one address at which the server with the IPv4 address `address` is reached. The bits that a shorter
        prefix leaves over are 0; in the AAAA records of a zone they may be anything."""
        return str(IPv6Address(self._prefix.embed(address)))


def _places(octets: int) -> tuple[int, ...]:
    """Positions of the four octets of an IPv4 address after a prefix of `octets` octets."""
    found: list[int] = []
    place = octets
    while len(found) < 4:
        if place != _RESERVED_OCTET:
            found.append(place)
        place += 1
    return tuple(found)
