"""Classifies errors of sockets by the kernel's routes: whether they concern an address or its whole address family.

The same number may come from a peer, a router or this host. The operator of a zone chooses its server addresses, and
the router of an address can send any ICMP error about it. So an error for one address never means that this host lacks
the address family. Only the kernel's routing table decides that: connect() on a UDP socket looks up a route without
sending anything (udp(7)). It is used with reference addresses that remote parties cannot choose: root hints and the
servers in the configuration.
"""

import errno
import socket
from collections.abc import Iterable
from ipaddress import ip_address

from resolver import limits
from resolver.effects import FailureKind
from resolver.net.local_errors import kind_of_error, kind_of_exception
from resolver.net.sockaddr import open_socket

__all__ = ["RouteChecker"]

# A route does not depend on the port, but `connect` needs one.
PORT = 53
# Errors that the kernel derives from ICMP messages (its tables icmp_err_convert and, for ICMPv6, tab_unreach) and also
# returns for its own routes. ECONNREFUSED never means a missing route. EACCES is of ICMPv6 only (administratively
# prohibited, RFC 4443 section 3.1); with IPv4 a rule of this host forbids the call, which a route does not show.
AMBIGUOUS_V4 = frozenset({
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENONET, errno.ENOPROTOOPT, errno.EPROTO,
    errno.EOPNOTSUPP, errno.EMSGSIZE,
})
AMBIGUOUS = {4: AMBIGUOUS_V4, 6: AMBIGUOUS_V4 | {errno.EACCES}}


class RouteChecker:
    """Classifies errors by the kernel's routes. `reference_addresses` are addresses of both families; `source_v4` and
    `source_v6` are the outgoing addresses, empty for the kernel's choice."""

    def __init__(self, reference_addresses: Iterable[str] = (), source_v4: str = "", source_v6: str = "") -> None:
        self._sources = {4: source_v4, 6: source_v6}
        self._references: dict[int, list[str]] = {4: [], 6: []}
        for text in reference_addresses:
            address = ip_address(text)
            known = self._references[address.version]
            # Loopback and link-local addresses have routes even without a network.
            if not address.is_loopback and not address.is_link_local and len(known) < limits.FAMILY_REFERENCE_ADDRESSES:
                known.append(text)

    def classify_datagram_error(self, code: int, address: str) -> FailureKind:
        """The kind of failure when a UDP socket for `address` could not be opened, connected or sent on."""
        kind, version = kind_of_error(code), ip_address(address).version
        if kind is FailureKind.LOCAL_RESOURCE:
            return kind
        if (code in AMBIGUOUS[version] or code == errno.ECONNREFUSED) and self.has_route(address):
            # The error belongs to an earlier packet of this socket (ip(7), IP_RECVERR).
            return FailureKind.LOCAL_RESOURCE
        return self._failure_without_route(address)

    def classify_connection_error(self, error: BaseException | None, address: str) -> FailureKind:
        """The kind of failure when a connection to `address` failed or was lost; None: the peer has closed it."""
        kind = kind_of_exception(error)
        if isinstance(error, OSError) and error.errno in AMBIGUOUS[ip_address(address).version]:
            return FailureKind.NETWORK if self.has_route(address) else self._failure_without_route(address)
        return self._failure_without_route(address) if kind is FailureKind.NO_ROUTE else kind

    def has_route(self, address: str) -> bool:
        """Whether the kernel has a route to `address`; True, too, when a local shortage prevents the check."""
        return self._has_any_route(ip_address(address).version, [address])

    def _failure_without_route(self, address: str) -> FailureKind:
        version = ip_address(address).version
        reference_addresses = self._references[version]
        if not reference_addresses or self._has_any_route(version, reference_addresses):
            return FailureKind.NO_ROUTE
        return FailureKind.NO_FAMILY

    def _has_any_route(self, version: int, addresses: list[str]) -> bool:
        """Whether the kernel has a route to any of `addresses`."""
        try:
            with open_socket(socket.AF_INET if version == 4 else socket.AF_INET6, self._sources[version]) as sock:
                for address in addresses:
                    try:
                        sock.connect((address, PORT))
                        return True
                    except OSError as error:
                        if kind_of_error(error.errno) is FailureKind.LOCAL_RESOURCE:
                            return True
        except (OSError, MemoryError) as error:
            # Callers are about to end a query with the reason of its failure, and must be able to.
            return kind_of_exception(error) is FailureKind.LOCAL_RESOURCE
        return False
