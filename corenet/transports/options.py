"""Socket options as one typed value: `SocketOptions` is passed to functions that make sockets and read from transports.

Rule: a field that is None leaves the kernel's setting unchanged. A field that does not apply to a kind of socket raises
an error that names it and is never ignored. Accepted connections inherit the options of the listening socket
(tcp(7), socket(7)), so servers set them once. Values are checked when the object is made; the kernel may refuse them
when they are applied.
"""

import errno
import math
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from corenet import limits
from corenet.limits import Limit

__all__ = ["SocketOptions", "read_options"]

# Constants of <netinet/tcp.h>, <netinet/udp.h> and <asm-generic/socket.h> that the socket module does not have on all
# supported versions of Python.
TCP_USER_TIMEOUT = 18
TCP_FASTOPEN = 23
TCP_NOTSENT_LOWAT = 25
TCP_FASTOPEN_CONNECT = 30
UDP_GRO = 104
SOL_UDP = 17

ROLES = ("listen", "connect", "stream", "datagram")


@dataclass(frozen=True, slots=True, kw_only=True)
class SocketOptions:
    """Options of a socket; None means the default of the kernel or of the loop.

    Raises:
        TypeError: a value has the wrong type.
        ValueError: a value is out of range (``corenet/limits.py``), or two fields contradict each other.
    """

    #: Probe an idle peer (SO_KEEPALIVE); the three fields below imply it.
    keepalive: bool | None = None
    #: Idle seconds before the first probe (TCP_KEEPIDLE).
    keepalive_idle: int | None = None
    #: Seconds between probes (TCP_KEEPINTVL).
    keepalive_interval: int | None = None
    #: Number of unanswered probes after which the connection is lost (TCP_KEEPCNT).
    keepalive_count: int | None = None
    #: Seconds that sent data may stay unacknowledged (TCP_USER_TIMEOUT, RFC 5482), rounded to milliseconds.
    user_timeout: float | None = None
    #: Seconds that the kernel continues to send after close() (SO_LINGER); 0 resets the connection.
    linger: int | None = None
    #: Send small segments at once (TCP_NODELAY); the loop sets it by default.
    nodelay: bool | None = None
    #: TCP Fast Open (RFC 7413): the queue length for a server, True for a client.
    fast_open: bool | int | None = None
    #: Length of the queue of connections to be accepted (listen(2)); servers only.
    backlog: int | None = None
    #: Seconds to wait for data before accept(2) returns a connection (TCP_DEFER_ACCEPT); servers only.
    defer_accept: int | None = None
    #: Bytes of the receive buffer (SO_RCVBUF); the kernel doubles the value for its bookkeeping.
    receive_buffer: int | None = None
    #: Bytes of the send buffer (SO_SNDBUF); the kernel doubles the value, too.
    send_buffer: int | None = None
    #: Unsent bytes in the kernel above which the socket is not writable (TCP_NOTSENT_LOWAT).
    unsent_low_water: int | None = None
    #: Allow binding while connections of an earlier server are in TIME_WAIT (SO_REUSEADDR).
    reuse_address: bool | None = None
    #: Allow several sockets to bind the same address and share its traffic (SO_REUSEPORT).
    reuse_port: bool | None = None
    #: Congestion control by name (TCP_CONGESTION), such as "bbr" or "cubic".
    congestion: str | None = None
    #: DSCP and ECN bits of outgoing packets (IP_TOS, IPV6_TCLASS).
    traffic_class: int | None = None
    #: Let the kernel join received datagrams (UDP_GRO), for a peer that sends many. Off by default, because other
    #: programs that share the socket, by dup or fork, then receive several datagrams as one.
    udp_gro: bool | None = None
    #: Send runs of datagrams of equal size as one message that the kernel cuts (UDP_SEGMENT); on by default.
    udp_gso: bool | None = None

    def __post_init__(self) -> None:
        for name in FLAGS:
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                raise TypeError(f"SocketOptions.{name} must be True, False or None, not {value!r}")
        for name, limit in NUMBERS.items():
            value = getattr(self, name)
            if value is None or (name == "fast_open" and isinstance(value, bool)):
                continue
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"SocketOptions.{name} must be an int, not {value!r}")
            limit.check(value, f"SocketOptions.{name}")
        if self.user_timeout is not None:
            if isinstance(self.user_timeout, bool) or not isinstance(self.user_timeout, int | float):
                raise TypeError(f"SocketOptions.user_timeout must be a number of seconds, not {self.user_timeout!r}")
            if not math.isfinite(self.user_timeout):
                raise ValueError("SocketOptions.user_timeout must be finite")
            limits.OPTION_USER_TIMEOUT.check(round(self.user_timeout * 1000), "SocketOptions.user_timeout, as ms")
        if self.congestion is not None and not isinstance(self.congestion, str):
            raise TypeError(f"SocketOptions.congestion must be a str, not {self.congestion!r}")
        if self.keepalive is False:
            for name in ("keepalive_idle", "keepalive_interval", "keepalive_count"):
                if getattr(self, name) is not None:
                    raise ValueError(f"SocketOptions.{name} has no effect with keepalive=False; leave it None")

    # --- applying options -----------------------------------------------------------------------------------------

    def apply(self, sock: socket.socket, role: str) -> None:
        """Set all fields that are not None on `sock`. `role` is "listen", "connect", "stream" or "datagram".

        Call this before bind and connect. `backlog` and `udp_gso` are not socket options: the server and the transport
        use them.

        Raises:
            ValueError: a field does not apply to such a socket; nothing is set.
            OSError: the kernel refuses a value; the message names the field.
        """
        if role not in ROLES:
            raise ValueError(f"role must be one of {', '.join(ROLES)}, not {role!r}")
        given = [field.name for field in fields(self) if getattr(self, field.name) is not None]
        for name in given:
            reason = misplaced(name, sock, role)
            if reason is not None:
                raise ValueError(f"SocketOptions.{name} does not apply to {reason}")
        for name in given:
            try:
                SETTERS[name](sock, getattr(self, name), role)
            except OSError as error:
                number = error.errno or errno.EINVAL
                raise OSError(
                    number, f"SocketOptions.{name}={getattr(self, name)!r}: {os.strerror(number)}"
                ) from None
        if self.keepalive is None and not {"keepalive_idle", "keepalive_interval", "keepalive_count"}.isdisjoint(given):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def read_options(sock: Any, **known: Any) -> SocketOptions:
    """Return the current options of `sock`; fields that do not apply to it, and `backlog`, are None.

    Buffer sizes are the kernel's values, twice those that were set. ``transport.get_extra_info("socket_options")``
    calls this for the socket of a transport. `known` are fields that the caller knows and the kernel does not.
    """
    found = dict(known)
    for name, getter in GETTERS.items():
        if misplaced(name, sock, None) is not None:
            continue
        try:
            found[name] = getter(sock)
        except OSError as error:
            # The kernel does not have the option, or has it only in some states of such a socket.
            if error.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL):
                raise
    if not found.get("keepalive"):
        # The kernel has values for them, but they have no effect.
        for name in ("keepalive_idle", "keepalive_interval", "keepalive_count"):
            found.pop(name, None)
    options = object.__new__(SocketOptions)
    for field in fields(SocketOptions):
        # Without the checks, because the kernel's values may be outside the permitted ranges.
        object.__setattr__(options, field.name, found.get(field.name))
    return options


# --- kinds of fields --------------------------------------------------------------------------------------------------

FLAGS = ("keepalive", "nodelay", "reuse_address", "reuse_port", "udp_gro", "udp_gso")

NUMBERS: dict[str, Limit] = {
    "keepalive_idle": limits.OPTION_KEEPALIVE_SECONDS,
    "keepalive_interval": limits.OPTION_KEEPALIVE_SECONDS,
    "keepalive_count": limits.OPTION_KEEPALIVE_COUNT,
    "linger": limits.OPTION_LINGER,
    "fast_open": limits.OPTION_BACKLOG,
    "backlog": limits.OPTION_BACKLOG,
    "defer_accept": limits.OPTION_DEFER_ACCEPT,
    "receive_buffer": limits.OPTION_BUFFER_SIZE,
    "send_buffer": limits.OPTION_BUFFER_SIZE,
    "unsent_low_water": limits.OPTION_BUFFER_SIZE,
    "traffic_class": limits.OPTION_TRAFFIC_CLASS,
}

OF_TCP = frozenset(
    {
        "keepalive", "keepalive_idle", "keepalive_interval", "keepalive_count", "user_timeout", "nodelay", "fast_open",
        "defer_accept", "unsent_low_water", "congestion",
    }
)  # fmt: skip
OF_UDP = frozenset({"udp_gro", "udp_gso"})
OF_IP = OF_TCP | OF_UDP | {"traffic_class", "reuse_port"}
OF_SERVERS = frozenset({"backlog", "defer_accept"})
OF_STREAMS = OF_TCP | {"linger"}
BEFORE_CONNECT = frozenset({"fast_open", "reuse_address", "reuse_port"})


def misplaced(name: str, sock: Any, role: str | None) -> str | None:
    """Return a description of `sock` if field `name` does not apply to it, else None; `role` None: for reading."""
    internet = sock.family in (socket.AF_INET, socket.AF_INET6)
    if name in OF_IP and not internet:
        return "a socket that is not IPv4 or IPv6"
    if name in OF_STREAMS | OF_SERVERS and sock.type != socket.SOCK_STREAM:
        return "a datagram socket"
    if name in OF_UDP and sock.type != socket.SOCK_DGRAM:
        return "a stream socket"
    if role is not None and role != "listen" and name in OF_SERVERS:
        return "a socket that does not listen"
    if role == "stream" and name in BEFORE_CONNECT:
        return "a connection that exists already"
    return None


# --- each field -------------------------------------------------------------------------------------------------------

Setter = Callable[[socket.socket, Any, str], None]
Getter = Callable[[Any], Any]


def setter(level: int, number: int, factor: int = 1) -> Setter:
    """Return a function that sets an option that is a number."""
    return lambda sock, value, _role: sock.setsockopt(level, number, round(value * factor))


def set_linger(sock: socket.socket, value: int, _role: str) -> None:
    """SO_LINGER has a flag and a time."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, value))


def set_fast_open(sock: socket.socket, value: bool | int, role: str) -> None:
    """Servers set a queue length, clients a flag."""
    if role == "listen":
        queue = limits.OPTION_BACKLOG.default if value is True else int(value)
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN, queue)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1 if value else 0)


def set_congestion(sock: socket.socket, value: str, _role: str) -> None:
    """Set the algorithm by name; the kernel returns ENOENT for an unknown one."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, value.encode())


def set_traffic_class(sock: socket.socket, value: int, _role: str) -> None:
    """IP_TOS or IPV6_TCLASS, by the family of the socket."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, value)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, value)


def set_nothing(_sock: socket.socket, _value: object, _role: str) -> None:
    """Do nothing: not a socket option."""


SETTERS: dict[str, Setter] = {
    "keepalive": setter(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "keepalive_idle": setter(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "keepalive_interval": setter(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "keepalive_count": setter(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    "user_timeout": setter(socket.IPPROTO_TCP, TCP_USER_TIMEOUT, 1000),
    "linger": set_linger,
    "nodelay": setter(socket.IPPROTO_TCP, socket.TCP_NODELAY),
    "fast_open": set_fast_open,
    "backlog": set_nothing,
    "defer_accept": setter(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
    "receive_buffer": setter(socket.SOL_SOCKET, socket.SO_RCVBUF),
    "send_buffer": setter(socket.SOL_SOCKET, socket.SO_SNDBUF),
    "unsent_low_water": setter(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT),
    "reuse_address": setter(socket.SOL_SOCKET, socket.SO_REUSEADDR),
    "reuse_port": setter(socket.SOL_SOCKET, socket.SO_REUSEPORT),
    "congestion": set_congestion,
    "traffic_class": set_traffic_class,
    "udp_gro": setter(SOL_UDP, UDP_GRO),
    "udp_gso": set_nothing,
}


def getter(level: int, number: int) -> Getter:
    """Return a function that reads an option that is a number."""
    return lambda sock: sock.getsockopt(level, number)


def switch(level: int, number: int) -> Getter:
    """Return a function that reads an option that is a flag."""
    return lambda sock: sock.getsockopt(level, number) != 0


def get_linger(sock: Any) -> int | None:
    """Return the time, None when SO_LINGER is off."""
    on, seconds = struct.unpack("ii", sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8))
    return int(seconds) if on else None


def get_fast_open(sock: Any) -> bool | int:
    """Return a server's queue length or a client's flag."""
    queue: int = sock.getsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN)
    return queue or sock.getsockopt(socket.IPPROTO_TCP, TCP_FASTOPEN_CONNECT) != 0


def get_congestion(sock: Any) -> str:
    """Return the name without the padding."""
    name: bytes = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.partition(b"\0")[0].decode()


def get_traffic_class(sock: Any) -> int:
    """IP_TOS or IPV6_TCLASS, by the family of the socket."""
    if sock.family == socket.AF_INET6:
        return int(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS))
    return int(sock.getsockopt(socket.IPPROTO_IP, socket.IP_TOS))


GETTERS: dict[str, Getter] = {
    "keepalive": switch(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "keepalive_idle": getter(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "keepalive_interval": getter(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "keepalive_count": getter(socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    "user_timeout": lambda sock: sock.getsockopt(socket.IPPROTO_TCP, TCP_USER_TIMEOUT) / 1000,
    "linger": get_linger,
    "nodelay": switch(socket.IPPROTO_TCP, socket.TCP_NODELAY),
    "fast_open": get_fast_open,
    "defer_accept": getter(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT),
    "receive_buffer": getter(socket.SOL_SOCKET, socket.SO_RCVBUF),
    "send_buffer": getter(socket.SOL_SOCKET, socket.SO_SNDBUF),
    "unsent_low_water": getter(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT),
    "reuse_address": switch(socket.SOL_SOCKET, socket.SO_REUSEADDR),
    "reuse_port": switch(socket.SOL_SOCKET, socket.SO_REUSEPORT),
    "congestion": get_congestion,
    "traffic_class": get_traffic_class,
    "udp_gro": switch(SOL_UDP, UDP_GRO),
}
