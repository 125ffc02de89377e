"""The sockets for clients: opened once at start and passed to the workers.

A port that is not available is the most common error of a first start, so each error names the address, the reason and
the remedy. Workers share a port with SO_REUSEPORT. Each has its own sockets, which the supervisor keeps open, so
queries in the socket's queue survive the death of a worker.
"""

import errno
import socket
import sys
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Self

from resolver import limits
from resolver.daemon import preflight
from resolver.net.stream_listener import open_stream_socket
from resolver.net.udp_listener import open_udp_socket
from resolver.settings import LISTENER_TRANSPORTS, IterationSettings

__all__ = ["Endpoint", "ListenError", "check_sources", "close_all", "open_endpoints"]

SO_COOKIE = 57
"""A number that the kernel gives to no other socket until the next boot (socket(7)); Python has no name for it."""
COOKIE_OCTETS = 8
_IPV6_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT)


class ListenError(OSError):
    """An address that cannot be served. The text names reason and remedy, `endpoint` the address and port."""

    def __init__(self, number: int | None, text: str, *, endpoint: tuple[str, int, str] | None = None) -> None:
        super().__init__(number, text)
        self.endpoint = endpoint


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One address and port with its sockets; `wanted` is the configured port, which may be 0.

    The protocol decides which sockets there are (`LISTENER_TRANSPORTS`).
    """

    address: str
    port: int
    wanted: int
    udp: socket.socket | None
    tcp: socket.socket | None
    protocol: str = "dns"
    lanes: tuple[socket.socket, ...] = ()
    """More UDP sockets of this address, one for each lane but the first."""

    def duplicate(self) -> Self:
        """Duplicates of the sockets, so that two owners can close them independently."""
        with ExitStack() as undo:
            udp = undo.enter_context(self.udp.dup()) if self.udp is not None else None
            tcp = undo.enter_context(self.tcp.dup()) if self.tcp is not None else None
            lanes = tuple(undo.enter_context(one.dup()) for one in self.lanes)
            undo.pop_all()
        return type(self)(self.address, self.port, self.wanted, udp, tcp, self.protocol, lanes)

    def close(self) -> None:
        """Close its sockets."""
        if self.udp is not None:
            self.udp.close()
        if self.tcp is not None:
            self.tcp.close()
        for one in self.lanes:
            one.close()

    @property
    def key(self) -> tuple[str, int, str]:
        """What its settings are found by: address, wanted port and protocol."""
        return (self.address, self.wanted, self.protocol)

    @property
    def identity(self) -> tuple[bytes, ...]:
        """The same for another endpoint exactly when it has the same sockets, in whichever process."""
        sockets = (one for one in (self.udp, self.tcp, *self.lanes) if one is not None)
        return tuple(one.getsockopt(socket.SOL_SOCKET, SO_COOKIE, COOKIE_OCTETS) for one in sockets)

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def check_sources(settings: IterationSettings) -> None:
    """Check that the configured source addresses can be bound.

    Raises:
        ListenError: the host does not have the address, or the system forbids it.
    """
    for family, address, key in (
        (socket.AF_INET, settings.query_source_v4, "iteration.query-source-v4"),
        (socket.AF_INET6, settings.query_source_v6, "iteration.query-source-v6"),
    ):
        if not address:
            continue
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((address, 0))
        except OSError as error:
            text = f"cannot send from {address}: {error.strerror}; 'ip address' lists this host's addresses; see {key}"
            raise ListenError(error.errno, text) from None


def open_endpoints(
    wanted: Iterable[tuple[str, int] | tuple[str, int, str]],
    *,
    freebind: Collection[tuple[str, int, str]] = (),
    shares: int = 1,
    lanes: int = 0,
    lenient: bool = False,
    enough: bool = False,
) -> list[list[Endpoint]]:
    """Open the sockets of every address, one set for each of `shares` workers: UDP and TCP, or those of the
    protocol that is the third item of the address. With `lanes` above 1, each set has that many UDP sockets for
    unencrypted DNS. Those of `freebind` are opened also when this host does not have the address.

    With `lenient`, IPv6 addresses that the host does not have are left out. At least one address must remain, unless
    `enough` (others are served already). On error, nothing stays open.

    Raises:
        ListenError: an address is not available.
    """
    found: list[list[Endpoint]] = [[] for _ in range(shares)]
    with ExitStack() as undo:
        for address, port, *rest in wanted:
            protocol = rest[0] if rest else "dns"
            free = (address, port, protocol) in freebind
            try:
                more = max(lanes - 1, 0) if protocol == "dns" else 0
                if shares > 1 or more:  # fail when another program listens; only our workers share
                    _open(address, port, protocol, reuse_port=False, freebind=free).close()
                for share in found:
                    endpoint = _open(address, port, protocol, reuse_port=shares > 1 or more > 0, freebind=free)
                    undo.callback(endpoint.close)
                    for _ in range(more):
                        one = _bind(address, endpoint.port, socket.SOCK_DGRAM, reuse_port=True, freebind=free)
                        endpoint = replace(endpoint, lanes=(*endpoint.lanes, one))
                        undo.callback(one.close)
                    share.append(endpoint)
            except ListenError as error:
                error.endpoint = (address, port, protocol)
                if not (lenient and ":" in address and error.errno in _IPV6_ABSENT):
                    raise
        if not found[0] and not enough:
            raise ListenError(errno.EADDRNOTAVAIL, "none of the configured addresses is available (server.listen)")
        undo.pop_all()
    return found


def close_all(shares: list[list[Endpoint]]) -> None:
    """Close every socket of `open_endpoints`."""
    for share in shares:
        for endpoint in share:
            endpoint.close()


def _open(address: str, port: int, protocol: str, *, reuse_port: bool, freebind: bool) -> Endpoint:
    """Open the sockets of one address; for port 0, a port that is free for UDP and TCP."""
    bind = partial(_bind, address, reuse_port=reuse_port, freebind=freebind)
    if LISTENER_TRANSPORTS[protocol] == ("udp",):
        udp = bind(port, socket.SOCK_DGRAM)
        return Endpoint(address, port or udp.getsockname()[1], port, udp, None, protocol)
    if LISTENER_TRANSPORTS[protocol] == ("tcp",):
        tcp = bind(port, socket.SOCK_STREAM)
        return Endpoint(address, port or tcp.getsockname()[1], port, None, tcp, protocol)
    for attempt in range(1, limits.PORT_ATTEMPTS + 1):
        udp = bind(port, socket.SOCK_DGRAM)
        chosen = port or udp.getsockname()[1]
        try:
            return Endpoint(address, chosen, port, udp, bind(chosen, socket.SOCK_STREAM))
        except ListenError as error:
            udp.close()
            if port or error.errno != errno.EADDRINUSE or attempt == limits.PORT_ATTEMPTS:
                raise
        except BaseException:
            udp.close()
            raise
    raise AssertionError("the last attempt returned or raised")


def _bind(address: str, port: int, kind: socket.SocketKind, *, reuse_port: bool, freebind: bool) -> socket.socket:
    opener = open_udp_socket if kind == socket.SOCK_DGRAM else open_stream_socket
    try:
        return opener(address, port, reuse_port=reuse_port, freebind=freebind)
    except OSError as error:
        raise ListenError(error.errno, _explain(address, port, kind, error)) from None


def _explain(address: str, port: int, kind: socket.SocketKind, error: OSError) -> str:
    transport, option = ("UDP", "-lunp") if kind == socket.SOCK_DGRAM else ("TCP", "-ltnp")
    text = f"cannot listen on {address} port {port} ({transport}): {error.strerror}. "
    if error.errno == errno.EADDRINUSE:
        return text + (
            f"Another program uses it (ss {option} 'sport = :{port}' shows which). Stop it, or choose another port with"
            " --port or server.listen."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return text + (
            "Ports below 1024 need a privilege: start as root or with CAP_NET_BIND_SERVICE (under systemd:"
            " AmbientCapabilities=CAP_NET_BIND_SERVICE), lower net.ipv4.ip_unprivileged_port_start, or choose a higher"
            f" port, for instance --port {limits.UNPRIVILEGED_PORT}."
        )
    if error.errno in _IPV6_ABSENT:
        return text + (
            "This host does not have the address; 'ip address' lists its addresses. If it comes later, set"
            " server.freebind."
        )
    if error.errno == errno.ENODEV:
        return text + "'ip link' lists the interfaces of this host."
    if error.errno == errno.EINVAL and ":" in address and "%" not in address:
        return text + f"A link-local address needs its interface, as in {address}%eth0; 'ip address' shows it."
    if error.errno == errno.EMFILE:
        return text + preflight.descriptor_hint()
    return text + f"The system said {errno.errorcode.get(error.errno or 0, '?')} on {sys.platform}."
