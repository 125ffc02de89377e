"""The listening sockets of a service, opened once in the supervisor, before any fork.

With "reuseport" each worker has its own socket at each address, and the kernel distributes connections by a hash of
their addresses. With "exclusive" all workers share one socket, and the kernel wakes one of the waiting workers. All
sockets stay open in the supervisor, so connections in the backlog survive the death or replacement of a worker. Unix
sockets are shared in both modes, because the kernel cannot distribute them.
"""

import os
import re
import socket
from collections.abc import Iterable
from typing import TypeAlias

from corenet.loop.listening import bind_tcp, bind_unix
from corenet.loop.server import remove_socket_file
from corenet.transports.options import SocketOptions

__all__ = ["Address", "Sockets", "open_sockets", "parse"]

ENDPOINT = re.compile(r"(?:\[([^\[\]]*:[^\[\]]*)\]|([^\[\]:\s]*)):([0-9]{1,5})")

Address: TypeAlias = int | str | tuple[str, int] | socket.socket


class Sockets:
    """The listening sockets of each worker, and the files of Unix sockets to remove at the end."""

    def __init__(self, per_worker: list[list[socket.socket]], files: list[tuple[str, int]]) -> None:
        self.per_worker = per_worker
        self.files = files

    def shared(self) -> bool:
        """Return whether several workers share a socket."""
        return sum(map(len, self.per_worker)) > len({sock for part in self.per_worker for sock in part})

    def names(self) -> list[str]:
        """Each address once, for log lines."""
        return list(dict.fromkeys(name_of(sock) for share in self.per_worker for sock in share))

    def close(self) -> None:
        """Close every socket and remove the files of Unix sockets, unless another server has replaced them."""
        for share in self.per_worker:
            for sock in share:
                sock.close()
        for path, inode in self.files:
            remove_socket_file(path, inode)


def parse(address: Address) -> tuple[str, int] | str | socket.socket:
    """Convert one address to (host, port), the path of a Unix socket, or the given socket.

    A number is a port on 127.0.0.1; text is ``host:port``, ``[v6]:port``, ``:port`` (every address) or ``unix:path``.

    Raises:
        ValueError: it has none of these forms; the message contains it.
    """
    if isinstance(address, socket.socket):
        return address
    if isinstance(address, int) and not isinstance(address, bool):
        host, port = "127.0.0.1", address
    elif isinstance(address, str):
        if address.startswith("unix:"):
            if address == "unix:":
                raise ValueError("'unix:' needs a path, for example unix:/run/app.sock")
            return address.removeprefix("unix:")
        found = ENDPOINT.fullmatch(address)
        if found is None:
            raise ValueError(f"{address!r} is not host:port, [v6]:port, :port or unix:path")
        host, port = found[1] or found[2] or "", int(found[3])
    elif isinstance(address, tuple) and len(address) == 2 and isinstance(address[1], int):
        host, port = address
    else:
        raise ValueError(f"{address!r} is not an address: give a port, a string, a (host, port) pair or a bound socket")
    if not 0 <= port <= 65_535:
        raise ValueError(f"{address!r}: the port must be between 0 and 65535")
    return host, port


def open_sockets(
    addresses: Iterable[Address], workers: int, *, reuseport: bool, backlog: int, options: SocketOptions | None = None
) -> Sockets:
    """Bind and listen at every address; with `reuseport` each worker gets its own TCP sockets.

    Raises:
        OSError: an address cannot be bound or a name is unknown.
        ValueError: an address has a wrong form, a given socket is not a bound stream socket, or an option does not
            apply.
    """
    per_worker: list[list[socket.socket]] = [[] for _ in range(max(workers, 1))]
    opened = Sockets(per_worker, [])
    try:
        for address in [parse(one) for one in addresses]:
            if isinstance(address, socket.socket):
                check_given(address)
                if options is not None:
                    options.apply(address, "listen")
                share(per_worker, address)
            elif isinstance(address, str):
                sock = bind_unix(address, options)
                share(per_worker, sock)
                opened.files.append((address, os.stat(address).st_ino))
            else:
                for family, bound in resolve(*address):
                    open_tcp(per_worker, family, bound, reuseport, options)
        for sock in {sock.fileno(): sock for part in per_worker for sock in part}.values():
            sock.setblocking(False)
            sock.listen(backlog)
    except BaseException:
        opened.close()
        raise
    return opened


def open_tcp(
    per_worker: list[list[socket.socket]],
    family: int,
    address: tuple[str, int],
    reuseport: bool,
    options: SocketOptions | None,
) -> None:
    """Open one socket for each worker, or one for all. If `address` has port 0, all get the same port."""
    if not reuseport:
        share(per_worker, bound_tcp(family, address, False, options))
        return
    for part in per_worker:
        sock = bound_tcp(family, address, len(per_worker) > 1, options)
        part.append(sock)
        address = (address[0], sock.getsockname()[1])


def bound_tcp(
    family: int, address: tuple[str, int], reuse_port: bool, options: SocketOptions | None
) -> socket.socket:
    """Return a bound TCP socket."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if options is not None:
            options.apply(sock, "listen")
        try:
            bind_tcp(
                sock,
                address,
                options,
                reuse_address=options is None or options.reuse_address is None,
                reuse_port=reuse_port,
            )
        except OSError as error:
            raise OSError(error.errno, f"cannot listen on {address[0]} port {address[1]}: {error.strerror}") from None
    except BaseException:
        sock.close()
        raise
    return sock


def resolve(host: str, port: int) -> list[tuple[int, tuple[str, int]]]:
    """Return every address of `host`; the wildcard addresses if it is empty."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, f"cannot listen on {host!r}: {error.strerror}") from None
    usable = [(int(family), address[:2]) for family, _kind, _proto, _name, address in found]
    if not host and not socket.has_ipv6:
        usable = [one for one in usable if one[0] == socket.AF_INET]
    return list(dict.fromkeys(usable))  # type: ignore[arg-type]


def check_given(sock: socket.socket) -> None:
    """Raise ValueError unless `sock` is a bound stream socket."""
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"a stream socket was expected, got {sock!r}")
    if sock.family in (socket.AF_INET, socket.AF_INET6) and not sock.getsockname()[1]:
        raise ValueError(f"a bound socket was expected, got {sock!r}")


def share(per_worker: list[list[socket.socket]], sock: socket.socket) -> None:
    """Add one socket to every worker."""
    for part in per_worker:
        part.append(sock)


def name_of(sock: socket.socket) -> str:
    """The address of a listening socket, for log lines."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
