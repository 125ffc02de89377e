"""How the descriptors that a process may open are shared out: upstream sockets, outgoing connections, clients.

Rule: what clients can take is bounded such that upstream queries never fail for want of a descriptor; otherwise idle
connections of clients would stop the resolution of everybody's names. `limits.DESCRIPTORS_RESERVE` are left to files,
listeners, the control socket and whatever the process has besides. Half of the rest is for UDP, half of that for each
address family, an eighth is for outgoing TCP; where the limits of those are lower, clients have what remains.
"""

import resource

from resolver import limits

__all__ = ["client_connections", "stream_upstreams", "udp_sockets"]


def udp_sockets(descriptors: int | None = None) -> int:
    """Upstream sockets of one address family; `descriptors` None asks the process's limit."""
    return max(min(limits.UDP_SOCKETS, _usable(descriptors) // 4), 1)


def stream_upstreams(descriptors: int | None = None) -> int:
    """Outgoing TCP connections."""
    return max(min(limits.STREAM_UPSTREAMS, _usable(descriptors) // 8), 1)


def client_connections(descriptors: int | None = None) -> int:
    """TCP connections of clients, on all listeners together."""
    return max(_usable(descriptors) - 2 * udp_sockets(descriptors) - stream_upstreams(descriptors), 1)


def _usable(descriptors: int | None) -> int:
    if descriptors is None:
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if descriptors == resource.RLIM_INFINITY:
        descriptors = limits.DESCRIPTORS
    return descriptors - limits.DESCRIPTORS_RESERVE
