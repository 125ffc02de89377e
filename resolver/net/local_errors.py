"""Classifies error numbers of system calls: caused by the server or the network, or by this host.

A call that fails at once has sent nothing. When descriptors, buffers, memory or ports are short, or this host has no
route to the address, the failure must not be recorded against the server: good servers would be avoided long after the
shortage or the wrong setting is over. So `PEER` lists the errors that a peer or a router can cause (RFC 1122 section
3.2.2, RFC 4443 section 2.4; icmp(7), tcp(7)). Every other error is this host's: a shortage, which may end at any time,
or a missing route, where a retry does not help. Unknown error numbers count as a missing route.
"""

import errno

from resolver.effects import FailureKind
from resolver.wire import consts as c

__all__ = ["EDES", "kind_of_error", "kind_of_exception"]

# The extended DNS error of each kind of failure (RFC 8914).
EDES = {
    FailureKind.TIMEOUT: c.EDE_NO_REACHABLE_AUTHORITY,
    FailureKind.NETWORK: c.EDE_NETWORK_ERROR,
    FailureKind.MALFORMED: c.EDE_INVALID_DATA,
    FailureKind.CASE_MISMATCH: c.EDE_INVALID_DATA,
    FailureKind.LOCAL_RESOURCE: c.EDE_NETWORK_ERROR,
    FailureKind.NO_ROUTE: c.EDE_NETWORK_ERROR,
    FailureKind.NO_FAMILY: c.EDE_NETWORK_ERROR,
    FailureKind.SPOOF_SUSPECTED: c.EDE_INVALID_DATA,
}

PEER = frozenset({
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT, errno.EHOSTUNREACH,
    errno.EHOSTDOWN, errno.ENONET, errno.EPROTO,
})
SHORTAGE = frozenset({
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.EADDRINUSE, errno.EINTR, errno.EBUSY,
    errno.EALREADY, errno.EINPROGRESS, errno.ENOSR,
})


def kind_of_error(code: int | None) -> FailureKind:
    """The kind of failure for the errno of opening, binding, connecting or sending; None is an unknown one."""
    if code in PEER:
        return FailureKind.NETWORK
    if code in SHORTAGE:
        return FailureKind.LOCAL_RESOURCE
    return FailureKind.NO_ROUTE


def kind_of_exception(error: BaseException | None) -> FailureKind:
    """The kind of failure for the exception of a failed or lost connection; None means that the peer closed it."""
    if error is None:
        return FailureKind.NETWORK
    return kind_of_error(error.errno) if isinstance(error, OSError) else FailureKind.LOCAL_RESOURCE
