"""Bound sockets for the listeners of both transports, as the kernel should have them before the first packet comes.

IPv6 sockets take no IPv4 packets, whatever the system's default says: each address of the settings has a socket of its
own, and an IPv4 client must not show up as a mapped address that no access rule matches.
"""

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
        sock.bind((address, port))
    except OSError:
        sock.close()
        raise
    return sock
