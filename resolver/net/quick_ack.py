"""Acknowledges received data at once where the peer may wait for it before it sends more.

A peer without TCP_NODELAY sends a small segment only when all earlier ones are acknowledged (RFC 896). Linux delays
acknowledgements by 40 ms on connections where data goes both ways, because it could send them with data (RFC 1122
section 4.2.3.2). Together that delays a reply of Unbound, which sends the session tickets of TLS 1.3 before it, and a
query of a client that writes its length first. The kernel resets the option TCP_QUICKACK when it sends data (tcp(7)),
so it is set whenever more data is due while nothing is being sent.
"""

import asyncio
import contextlib
import socket

__all__ = ["acknowledge_now"]


def acknowledge_now(transport: asyncio.BaseTransport) -> None:
    """Acknowledge what was received and what comes next without delay. Does nothing on a closed transport."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6) or sock.fileno() < 0:
        return
    with contextlib.suppress(OSError):  # the connection is being lost, which is reported elsewhere
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
