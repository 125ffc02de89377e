"""Which errors of a system call tell of this host, and which of the server that was to be asked.

A call that fails at once has sent nothing. Where descriptors, buffers, memory or ports are short, or no way leads to
the address from here, the server is not to blame. Booked as its failure, the shortage would make good servers avoided
long after it is over. What a router or the peer said (refused, reset, unreachable by ICMP) stays a `NETWORK` error.
"""

import errno

from resolver.effects import FailureKind

__all__ = ["kind_of_error"]

SHORTAGE = frozenset({
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.EADDRINUSE,
})
# No route, no address of that family, or a rule of this host's firewall (iptables REJECT and DROP in OUTPUT: EPERM).
NO_WAY = frozenset({
    errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.ENODEV, errno.EPERM, errno.EACCES,
})


def kind_of_error(code: int | None) -> FailureKind:
    """What kind of failure the error number of opening, binding, connecting or sending is; None is an unknown one."""
    if code in SHORTAGE:
        return FailureKind.LOCAL
    if code in NO_WAY:
        return FailureKind.NO_ROUTE
    return FailureKind.NETWORK
