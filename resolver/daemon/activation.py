"""Socket activation: endpoints made from sockets that the service manager has bound (systemd.socket(5)).

A configured address takes an inherited socket of its transport, address and port. Addresses without one are opened as
usual. A socket that no address takes is an error, because its clients would wait for ever. Workers share an inherited
socket: SO_REUSEPORT would need sockets of one user, and the manager has bound this one as another.
"""

import errno
import socket
from collections.abc import Iterable

from resolver.daemon.sockets import Endpoint, ListenError
from resolver.net.udp_listener import prepare_udp_socket
from resolver.settings import LISTENER_TRANSPORTS

__all__ = ["adopt_endpoints"]

_KINDS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}
_DIRECTIVES = {"udp": "ListenDatagram=", "tcp": "ListenStream="}


def adopt_endpoints(
    wanted: Iterable[tuple[str, int, str]], inherited: list[socket.socket], shares: int
) -> list[list[Endpoint]]:
    """The endpoints for those of `wanted` (address, port, protocol) that have inherited sockets, a set for each worker.

    All sockets are taken out of `inherited`; on an error they are closed.

    Raises:
        ListenError: an address has a socket for one of its transports only, or a socket belongs to no address.
    """
    found: list[list[Endpoint]] = [[] for _ in range(shares)]
    try:
        for address, port, protocol in wanted:
            transports = LISTENER_TRANSPORTS[protocol]
            taken = {name: _take(inherited, address, port, _KINDS[name]) for name in transports}
            missing = [name for name, one in taken.items() if one is None]
            if len(missing) == len(taken):
                continue
            endpoint = Endpoint(address, port, port, taken.get("udp"), taken.get("tcp"), protocol)
            found[0].append(endpoint)
            for name, given in taken.items():
                if given is not None and _is_connected(given):
                    raise ListenError(errno.EISCONN, (
                        f"the service manager has passed a connected {name.upper()} socket for {endpoint}, which serves"
                        f" its one peer only: set Accept=no in the socket unit, with {_DIRECTIVES[name]}{endpoint}"
                    ))
            if missing:
                raise ListenError(errno.EINVAL, (
                    f"the service manager has passed only a part of the sockets for {endpoint}: add"
                    f" {_DIRECTIVES[missing[0]]}{endpoint} to the socket unit"
                ))
            _prepare(endpoint)
            for share in found[1:]:
                share.append(endpoint.duplicate())
        if inherited:
            raise ListenError(errno.EINVAL, (
                f"the service manager has passed a socket for {_describe(inherited[0])}, which no listener has: add the"
                " address to server.listen, or remove it from the socket unit"
            ))
    except BaseException:
        for share in found:
            for one in share:
                one.close()
        for left in inherited:
            left.close()
        raise
    return found


def _take(inherited: list[socket.socket], address: str, port: int, kind: socket.SocketKind) -> socket.socket | None:
    """Remove the socket of this address, port and kind from `inherited` and return it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    wanted = socket.getaddrinfo(address, port, family, kind, 0, socket.AI_NUMERICHOST)[0][4]
    for number, one in enumerate(inherited):
        if port and one.family == family and one.type == kind and _place(one.getsockname()) == _place(wanted):
            return inherited.pop(number)
    return None


def _place(name: tuple[object, ...]) -> tuple[object, ...]:
    """Address, port and interface of a socket name; the flow label of IPv6 is no part of it."""
    return (str(name[0]).partition("%")[0], name[1], *name[3:])


def _is_connected(one: socket.socket) -> bool:
    try:
        one.getpeername()
    except OSError:
        return False
    return True


def _prepare(endpoint: Endpoint) -> None:
    if endpoint.udp is not None:
        prepare_udp_socket(endpoint.udp)
    if endpoint.tcp is not None:
        endpoint.tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _describe(one: socket.socket) -> str:
    name = one.getsockname()
    if one.family not in (socket.AF_INET, socket.AF_INET6):
        return f"{name!r} (family {one.family.name})"
    host = f"[{name[0]}]" if one.family == socket.AF_INET6 else name[0]
    return f"{host}:{name[1]} ({'UDP' if one.type == socket.SOCK_DGRAM else 'TCP'})"
