"""The settings of EDNS client subnet (RFC 7871): the table [client-subnet].

Nothing is sent unless servers or zones are named, because the option tells third parties where clients are.
"""

from dataclasses import dataclass

from resolver import limits
from resolver.options import check_limits, check_names, check_prefixes, option

__all__ = ["SubnetSettings"]

WHERE = "client_subnet"


@dataclass(frozen=True, slots=True)
class SubnetSettings:
    """To whom a part of the client's address is sent, how long it is, and what is kept of the answers."""

    servers: tuple[str, ...] = option(
        (),
        "Addresses or prefixes of authoritative servers and forwarders that are sent the subnet of the client. Empty,"
        " and no zones: no subnet is ever sent.",
    )
    zones: tuple[str, ...] = option(
        (),
        "Zones for whose names, also in the zones below them, the subnet of the client is sent. Servers of the root and"
        " of top-level domains get none unless their zone is given.",
    )
    ipv4_prefix: int = option(
        limits.SUBNET_IPV4.default, "Most bits of an IPv4 address that are sent.", limit=limits.SUBNET_IPV4
    )
    ipv6_prefix: int = option(
        limits.SUBNET_IPV6.default, "Most bits of an IPv6 address that are sent.", limit=limits.SUBNET_IPV6
    )
    trusted_clients: tuple[str, ...] = option(
        (),
        "Prefixes of clients, such as load balancers, whose own client subnet option is used in place of their address."
        " From all others the option is ignored, except that a client may ask that no subnet is sent.",
    )
    size: int = option(
        limits.SUBNET_CACHE_OCTETS.default, "Memory for answers that are for one subnet only, in each worker.",
        kind="bytes", limit=limits.SUBNET_CACHE_OCTETS,
    )
    subnets_per_name: int = option(
        limits.SUBNETS_PER_NAME.default, "Most answers for different subnets that are kept of one name and type.",
        limit=limits.SUBNETS_PER_NAME,
    )

    def __post_init__(self) -> None:
        check_prefixes(self.servers, f"{WHERE}.servers")
        check_prefixes(self.trusted_clients, f"{WHERE}.trusted_clients")
        check_names(self.zones, f"{WHERE}.zones")
        check_limits(self, WHERE)
        for name in ("servers", "zones", "trusted_clients"):
            if len(getattr(self, name)) > limits.SUBNET_RULES:
                raise ValueError(f"{WHERE}.{name}: more than {limits.SUBNET_RULES} entries")
        if self.trusted_clients and not self.active:
            raise ValueError(f"{WHERE}.trusted_clients: no subnet is ever sent, because {WHERE}.servers and"
                             f" {WHERE}.zones are empty; name some, or remove this")

    @property
    def active(self) -> bool:
        """Whether a subnet may ever be sent."""
        return bool(self.servers or self.zones)
