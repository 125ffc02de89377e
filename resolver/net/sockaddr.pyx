"""Addresses as sockaddr structures, and outgoing UDP sockets.

An outgoing socket has a random port, not the next free one, and ignores ICMP messages about packet sizes, because
off-path attackers use predictable ports and fragments. Addresses are compared as numbers, never as text.
"""

import errno
import socket

cimport cython
from libc.stdint cimport uint16_t
from libc.string cimport memcmp, memset

from resolver import limits
from resolver.wire.consts import IPV4_MAPPED

from resolver.net.clock_random cimport Entropy
from resolver.net.libc cimport (AF_INET, AF_INET6, IP_MTU_DISCOVER, IP_PMTUDISC_OMIT, IP_RECVERR, IPPROTO_IP,
                                IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_RECVERR, htons, inet_pton, sockaddr_in,
                                sockaddr_in6, sockaddr_storage, socklen_t)


@cython.final
cdef class PeerAddress:
    """A server's address as a sockaddr."""

    cdef bint matches(self, const sockaddr_storage *other) noexcept nogil:
        cdef const sockaddr_in *a4
        cdef const sockaddr_in *b4
        cdef const sockaddr_in6 *a6
        cdef const sockaddr_in6 *b6
        if other.ss_family != self.storage.ss_family:
            return False
        if self.family == AF_INET:
            a4 = <const sockaddr_in *>&self.storage
            b4 = <const sockaddr_in *>other
            return a4.sin_addr.s_addr == b4.sin_addr.s_addr and a4.sin_port == b4.sin_port
        a6 = <const sockaddr_in6 *>&self.storage
        b6 = <const sockaddr_in6 *>other
        return a6.sin6_port == b6.sin6_port and memcmp(&a6.sin6_addr, &b6.sin6_addr, 16) == 0


cdef size_t fill_sockaddr(sockaddr_storage *name, str address) except 0:
    """Fill `name` from a textual address, with port 0. An invalid one gets family 0, which no access table allows."""

    cdef bytes text = address.partition("%")[0].encode("ascii", "replace")
    cdef const char *numeric = text
    memset(name, 0, sizeof(name[0]))
    if inet_pton(AF_INET, numeric, &(<sockaddr_in *>name).sin_addr) == 1:
        name.ss_family = AF_INET
        return sizeof(sockaddr_in)
    if inet_pton(AF_INET6, numeric, &(<sockaddr_in6 *>name).sin6_addr) == 1:
        name.ss_family = AF_INET6
        return sizeof(sockaddr_in6)
    return sizeof(name[0])


def network_of(host: str) -> str | bytes:
    """Return the network of the address `host`: the /24 of an IPv4 address, the /56 of an IPv6 address.

    An IPv6 customer has a /56 or more (RFC 6177), so a limit per address alone would not limit him.

    Raises:
        OSError: `host` contains a colon and is not an IPv6 address.
    """
    cdef sockaddr_storage name
    cdef bytes octets
    if ":" not in host:
        return host.rpartition(".")[0]
    fill_sockaddr(&name, host)
    if name.ss_family != AF_INET6:
        raise OSError(errno.EINVAL, f"not an IPv6 address: {host!r}")
    octets = (<const char *>&(<sockaddr_in6 *>&name).sin6_addr)[:16]
    if octets.startswith(IPV4_MAPPED):
        return ".".join(map(str, octets[12:15]))
    return octets[:7]


cdef PeerAddress parse_peer(str address, int port):
    """Parse a server's address. Raises ValueError when the address or the port is invalid."""
    cdef PeerAddress peer
    cdef sockaddr_in6 *in6
    if not 1 <= port <= 65535:
        raise ValueError(f"port {port} must be 1 to 65535")
    peer = PeerAddress.__new__(PeerAddress)
    peer.size = <socklen_t>fill_sockaddr(&peer.storage, address)
    peer.family = peer.storage.ss_family
    if peer.family == AF_INET:
        (<sockaddr_in *>&peer.storage).sin_port = htons(<uint16_t>port)
    elif peer.family == AF_INET6:
        in6 = <sockaddr_in6 *>&peer.storage
        in6.sin6_port = htons(<uint16_t>port)
        scope = address.partition("%")[2]
        if scope:
            in6.sin6_scope_id = int(scope) if scope.isdigit() else socket.if_nametoindex(scope)
    else:
        raise ValueError(f"{address!r} is not an IP address")
    return peer


def open_socket(int family, str source not None, Entropy entropy=None):
    """Return a non-blocking UDP socket with the source address `source`, or any when that is empty. With `entropy` it
    is bound to a random port of the whole range; else it has no port until the kernel assigns one at connect().

    Raises:
        OSError: no descriptor, `source` is not an address of this host, or no free port was found.
    """
    cdef int tries = limits.UDP_BIND_TRIES, lowest = limits.UDP_PORT_LOWEST
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == AF_INET:
            # Forged "fragmentation needed" must neither shrink our packets nor make send() fail.
            sock.setsockopt(IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_OMIT)
            sock.setsockopt(IPPROTO_IP, IP_RECVERR, 1)
        else:
            sock.setsockopt(IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(IPPROTO_IPV6, IPV6_MTU_DISCOVER, IP_PMTUDISC_OMIT)
            sock.setsockopt(IPPROTO_IPV6, IPV6_RECVERR, 1)
        if entropy is None:
            if source:
                # Port 0 binds the address alone: disconnecting (AF_UNSPEC) releases the port and keeps the address.
                sock.bind((source, 0))
            return sock
        while True:
            try:
                sock.bind((source, lowest + <int>entropy.below(65536 - lowest)))
                break
            except OSError as error:
                tries -= 1
                if error.errno not in (errno.EADDRINUSE, errno.EACCES) or tries <= 0:
                    raise
    except OSError:
        sock.close()
        raise
    return sock
