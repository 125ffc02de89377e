"""What an error number says of an address and of its family, when a peer, a router or this host may have said it.

Rule: whoever serves a zone chooses the addresses of its servers, and whoever owns an address has his router say of it
what he likes. So an error that one address meets is its own, and never tells that this host lacks its family.
That is asked of the kernel alone, which looks a route up without sending anything (udp(7)), for addresses that no
stranger has chosen: the landmarks, which are the root hints and the servers that the configuration names.
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

PORT = 53
# What the kernel makes of ICMP messages (its tables icmp_err_convert and, for ICMPv6, tab_unreach), and what it says
# of its own routes with the same numbers. ECONNREFUSED is no route's.
AMBIGUOUS = frozenset({
    errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENONET, errno.EACCES, errno.ENOPROTOOPT, errno.EPROTO,
    errno.EOPNOTSUPP, errno.EMSGSIZE,
})


class RouteChecker:
    """Judges errors by the kernel's routes. `reference_addresses` are addresses of both families, `source_v4` and
    `source_v6` the outgoing ones, empty for the kernel's choice."""

    def __init__(self, reference_addresses: Iterable[str] = (), source_v4: str = "", source_v6: str = "") -> None:
        self._sources = {4: source_v4, 6: source_v6}
        self._landmarks: dict[int, list[str]] = {4: [], 6: []}
        for text in reference_addresses:
            address = ip_address(text)
            known = self._landmarks[address.version]
            # This machine and its own link are there without any network.
            if not address.is_loopback and not address.is_link_local and len(known) < limits.FAMILY_REFERENCE_ADDRESSES:
                known.append(text)

    def classify_datagram_error(self, code: int, address: str) -> FailureKind:
        """What it means that a UDP socket for `address` could not be opened, connected or sent on: nothing was sent."""
        kind = kind_of_error(code)
        if kind is FailureKind.LOCAL_RESOURCE:
            return kind
        if (code in AMBIGUOUS or code == errno.ECONNREFUSED) and self.has_route(address):
            # A socket that has sent before reports the fate of an earlier packet (ip(7), IP_RECVERR).
            return FailureKind.LOCAL_RESOURCE
        return self._failure_without_route(address)

    def classify_connection_error(self, error: BaseException | None, address: str) -> FailureKind:
        """The same of what opening or losing a connection with `address` raised; None: the peer has closed it."""
        kind = kind_of_exception(error)
        if isinstance(error, OSError) and error.errno in AMBIGUOUS:
            return FailureKind.NETWORK if self.has_route(address) else self._failure_without_route(address)
        return self._failure_without_route(address) if kind is FailureKind.NO_ROUTE else kind

    def has_route(self, address: str) -> bool:
        """Whether the kernel has a route to `address`; True when that cannot be told for want of something here."""
        return self._has_any_route(ip_address(address).version, [address])

    def _failure_without_route(self, address: str) -> FailureKind:
        version = ip_address(address).version
        reference_addresses = self._landmarks[version]
        if not reference_addresses or self._has_any_route(version, reference_addresses):
            return FailureKind.NO_ROUTE
        return FailureKind.NO_FAMILY

    def _has_any_route(self, version: int, addresses: list[str]) -> bool:
        """Whether a route leads to any of `addresses`."""
        try:
            with open_socket(socket.AF_INET if version == 4 else socket.AF_INET6, self._sources[version]) as sock:
                for address in addresses:
                    try:
                        sock.connect((address, PORT))
                        return True
                    except OSError as error:
                        if kind_of_error(error.errno) is FailureKind.LOCAL_RESOURCE:
                            return True
        except OSError as error:
            return kind_of_error(error.errno) is FailureKind.LOCAL_RESOURCE
        except MemoryError:
            return True
        return False
