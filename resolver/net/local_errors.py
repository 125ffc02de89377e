"""Which errors of a system call tell of this host, and which of the server that was to be asked.

A call that fails at once has sent nothing. Where descriptors, buffers, memory or ports are short, or no way leads to
the address from here, the server is not to blame: booked as its failure, a shortage or a wrong setting would make good
servers avoided long after it is over. So the table names what a peer or a router can have said (RFC 1122 section 3.2.2,
RFC 4443 section 2.4; icmp(7), tcp(7)). Every other error is this host's: a shortage that may be over in a moment, or no
way from here, which another try does not change. An error number that nobody thought of is no way from here.
"""

import errno

from resolver.effects import FailureKind
from resolver.wire import consts as c

__all__ = ["EDES", "kind_of_error", "kind_of_exception"]

# What each kind of failure is called in an extended error (RFC 8914).
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
    """What kind of failure the error number of opening, binding, connecting or sending is; None is an unknown one."""
    if code in PEER:
        return FailureKind.NETWORK
    if code in SHORTAGE:
        return FailureKind.LOCAL_RESOURCE
    return FailureKind.NO_ROUTE


def kind_of_exception(error: BaseException | None) -> FailureKind:
    """The same of what opening or losing a connection raised; None says that the peer has closed it."""
    if error is None:
        return FailureKind.NETWORK
    return kind_of_error(error.errno) if isinstance(error, OSError) else FailureKind.LOCAL_RESOURCE
