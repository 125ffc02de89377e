"""Bound sockets for the listeners of both transports, as the kernel should have them before the first packet comes.

IPv6 sockets take no IPv4 packets, whatever the system's default says: each address of the settings has a socket of its
own, and an IPv4 client must not show up as a mapped address that no access rule matches. A link-local address is one
only together with its interface (RFC 4007 section 11), ``fe80::1%eth0``.
"""

import errno
import socket
from collections.abc import Callable

__all__ = ["bound_socket"]


def bound_socket(
    kind: socket.SocketKind, address: str, port: int, *, reuse_port: bool, prepare: Callable[[socket.socket], None]
) -> socket.socket:
    """A non-blocking socket of `kind`, bound to `address`; `prepare` sets its own options before.

    Raises:
        OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
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
    """The number of the interface `zone`, given by name or number; 0 when none is.

    Raises:
        OSError: this host has none of that name.
    """
    if not zone or zone.isdecimal():
        return int(zone or 0)
    try:
        return socket.if_nametoindex(zone)
    except OSError:  # which says neither the name nor a number
        raise OSError(errno.ENODEV, f"No interface {zone!r}") from None
