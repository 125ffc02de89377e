"""Makes and binds the sockets of listeners, for UDP and TCP, with all options that must be set before `bind`.

IPv6 sockets receive no IPv4 packets, whatever the system's default is (IPV6_V6ONLY): each configured address has its
own socket, and an IPv4 client must not appear as an IPv4-mapped address, which no access rule matches. A link-local
address needs its interface (RFC 4007 section 11): ``fe80::1%eth0``.

With `freebind` an address is bound that this host does not have (yet): one that VRRP moves between hosts, or that is
still checked for duplicates (RFC 4862 section 5.4). It needs no privilege. It is not IP_TRANSPARENT, which lets a proxy
use the addresses of others and needs CAP_NET_ADMIN.
"""

import errno
import socket
from collections.abc import Callable

__all__ = ["bound_socket"]

# Constants of <linux/in.h> and <linux/in6.h> that the socket module lacks.
IP_FREEBIND = 15
IPV6_FREEBIND = 78


def bound_socket(
    kind: socket.SocketKind, address: str, port: int, *, reuse_port: bool, prepare: Callable[[socket.socket], None],
    freebind: bool = False,
) -> socket.socket:
    """Return a non-blocking socket of `kind`, bound to `address` and `port`. `prepare` sets options before `bind`.

    Raises:
        OSError: the socket cannot be made or bound, or there is no such interface.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if freebind and family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND, 1)
        elif freebind:
            sock.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)
        prepare(sock)
        if family == socket.AF_INET6:
            host, _, zone = address.partition("%")
            sock.bind((host, port, 0, _interface(zone)))
        else:
            sock.bind((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _interface(zone: str) -> int:
    """Return the index of the interface `zone`, which is a name or an index; 0 when `zone` is empty.

    Raises:
        OSError: this host has no interface of that name.
    """
    if not zone or zone.isdecimal():
        return int(zone or 0)
    try:
        return socket.if_nametoindex(zone)
    except OSError:  # the error of Python has no errno and does not name the interface
        raise OSError(errno.ENODEV, f"No interface {zone!r}") from None
