"""Divides the file descriptors of the process between upstream sockets, outgoing connections and client connections.

Client connections are limited so that upstream queries never lack a descriptor; otherwise idle client connections could
stop all resolution. `limits.DESCRIPTORS_RESERVE` are left for files, listeners, the control socket and others. Of the
rest, at most a quarter each is for UDP sockets of IPv4 and of IPv6, at most an eighth for outgoing TCP, a sixteenth for
checks of the targets of balanced names, if there are any, and what remains is for clients. A listener gets the
connections that it is configured for, as long as there are enough for all.
"""

import resource
from collections.abc import Sequence

from resolver import limits

__all__ = ["balance_probes", "client_connections", "divide_connections", "stream_upstreams", "udp_sockets"]


def udp_sockets(descriptors: int | None = None) -> int:
    """Limit of upstream UDP sockets of one address family. `descriptors`: their limit; None: RLIMIT_NOFILE."""
    return max(min(limits.UDP_SOCKETS, _usable(descriptors) // 4), 1)


def stream_upstreams(descriptors: int | None = None) -> int:
    """Limit of outgoing TCP connections; `descriptors` as for `udp_sockets`."""
    return max(min(limits.STREAM_UPSTREAMS, _usable(descriptors) // 8), 1)


def balance_probes(targets: int, descriptors: int | None = None) -> int:
    """Limit of checks in progress of so many `targets`; `descriptors` as for `udp_sockets`."""
    return min(targets, limits.BALANCE_PROBES, max(_usable(descriptors) // 16, 1))


def client_connections(descriptors: int | None = None, targets: int = 0) -> int:
    """Limit of client connections of all listeners together, beside checks of so many `targets`; `descriptors` as for
    `udp_sockets`."""
    outgoing = stream_upstreams(descriptors) + balance_probes(targets, descriptors)
    return max(_usable(descriptors) - 2 * udp_sockets(descriptors) - outgoing, 1)


def divide_connections(wanted: Sequence[int], total: int) -> list[int]:
    """Divide `total` descriptors among listeners. `wanted`: connections configured for each; each gets at least one.

    A listener uses `limits.STREAM_WITHOUT_SLOT` more for connections that are being accepted or rejected. When there
    are too few descriptors, listeners that want less than an equal share get what they want, and the others share the
    rest.
    """
    granted = [0] * len(wanted)
    for served, index in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        share = total // (len(wanted) - served) - limits.STREAM_WITHOUT_SLOT
        granted[index] = max(min(wanted[index], share), 1)
        total -= granted[index] + limits.STREAM_WITHOUT_SLOT
    return granted


def _usable(descriptors: int | None) -> int:
    if descriptors is None:
        descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if descriptors == resource.RLIM_INFINITY:
        descriptors = limits.DESCRIPTORS
    return descriptors - limits.DESCRIPTORS_RESERVE
