"""The client subnet of a query that comes in, and the option in the reply to it (RFC 7871 sections 7.1.2 and 7.2.2).

The option of a trusted client, such as a load balancer, is used in place of its address, and its reply has one. From
all other clients it is ignored, because they could fill the cache with answers for subnets of others, and learn what
others asked; only a request that no subnet is sent (SOURCE PREFIX-LENGTH 0) is honoured from every client. The address
of a client without a usable option is used, unless it has no meaning outside of its own network (section 11.1).
"""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from resolver import limits
from resolver.cache.scoped import NOT_SHARED, UNSENT, Scope, scope_length
from resolver.settings import SubnetSettings
from resolver.wire import consts as c
from resolver.wire.client_subnet import PrefixSet, Subnet, parse_subnet, truncate
from resolver.wire.edns import options_from_wire, options_to_wire
from resolver.wire.errors import WireError

__all__ = ["SUBNET_OPTION_MOST", "ClientSide"]

SUBNET_OPTION_MOST: Final = 20
"""Octets of the longest valid option."""
NOT_SENT: Final = PrefixSet((
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "224.0.0.0/3", "::/8", "fc00::/7", "fe80::/9", "ff00::/8",
))
"""Private, shared, local, multicast and reserved addresses (RFC 6890, RFC 4291)."""


class ClientSide:
    """Decides which subnet a client has, by the settings."""

    __slots__ = ("_lengths", "_of_address")

    def __init__(self, settings: SubnetSettings) -> None:
        trusted = PrefixSet(settings.trusted_clients)
        self._lengths = lengths = {4: settings.ipv4_prefix, 16: settings.ipv6_prefix}

        def of_address(address: str) -> tuple[Subnet | None, bool]:
            packed = ip_address(address.partition("%")[0]).packed
            return _cut(packed, len(packed) * 8, lengths), packed in trusted

        # The subnet of an address, and whether the client is trusted. It does not refer to `self`, as a cycle would.
        self._of_address = lru_cache(maxsize=limits.SUBNET_CLIENTS)(of_address)

    @property
    def remembered(self) -> int:
        """Number of addresses whose subnet is kept."""
        return self._of_address.cache_info().currsize

    def subnet_of(self, address: str, options: bytes) -> Subnet | None:
        """The subnet to send for a client with this address and these EDNS options; None: none.

        Raises:
            WireError: a trusted client sent a malformed option.
        """
        own, trusted = self._of_address(address)
        content = _option_in(options)
        if content is None:
            return own
        try:
            found = parse_subnet(content)
            if found.scope:
                raise WireError("client subnet option of a query has a scope")
        except WireError:
            if trusted:
                raise
            return own
        if found.subnet is None:
            return None
        return _cut(*found.subnet, self._lengths) if trusted else own

    def reply_option(self, address: str, options: bytes, scope: Scope | None) -> bytes:
        """The option in the reply to a trusted client that sent one: as it came, with the scope of the answer.

        An answer that was made without its subnet is not for all. The scope is then the source prefix, so that the
        client does not give it to others.
        """
        content = _option_in(options)
        if content is None or not self._of_address(address)[1]:
            return b""
        length = content[2] if scope in (UNSENT, NOT_SHARED) else scope_length(scope)
        return options_to_wire([(c.OPTION_ECS, content[:3] + bytes((length,)) + content[4:])])


def _cut(packed: bytes, length: int, lengths: Mapping[int, int]) -> Subnet | None:
    """The subnet of an address of which `length` bits are known; `lengths` are the longest ones, by octets."""
    if packed in NOT_SENT:
        return None
    length = min(length, lengths[len(packed)])
    return truncate(packed, length), length


def _option_in(options: bytes) -> bytes | None:
    """The content of the first client subnet option."""
    if not options:
        return None
    return next((value for code, value in options_from_wire(options) if code == c.OPTION_ECS), None)
