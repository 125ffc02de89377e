"""The listening sockets of a service, opened once in the supervisor, before any fork.

With "reuseport" each worker has a socket of its own at each address and the kernel spreads connections evenly by the
hash of their addresses; with "exclusive" all workers share one, and the kernel wakes one of those that wait. All
sockets stay open in the supervisor: a worker that dies or is replaced loses no connection that waits in its queue.
Unix sockets cannot be spread by the kernel, so they are shared in both modes.
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
    """What the workers accept from: one list for each worker, and which files to remove in the end."""

    def __init__(self, per_worker: list[list[socket.socket]], files: list[tuple[str, int]]) -> None:
        self.per_worker = per_worker
        self.files = files

    def shared(self) -> bool:
        """Whether a socket belongs to several workers."""
        return sum(map(len, self.per_worker)) > len({sock for part in self.per_worker for sock in part})

    def names(self) -> list[str]:
        """Each address once, for people."""
        return list(dict.fromkeys(name_of(sock) for share in self.per_worker for sock in share))

    def close(self) -> None:
        """Close every socket and remove the files of Unix sockets that are still ours."""
        for share in self.per_worker:
            for sock in share:
                sock.close()
        for path, inode in self.files:
            remove_socket_file(path, inode)


def parse(address: Address) -> tuple[str, int] | str | socket.socket:
    """Bring one address to (host, port), the path of a Unix socket, or the bound socket that it is.

    A number is a port on 127.0.0.1; text is ``host:port``, ``[v6]:port``, ``:port`` (every address) or ``unix:path``.

    Raises:
        ValueError: it is none of these; the message names it.
    """
    if isinstance(address, socket.socket):
        return address
    if isinstance(address, int) and not isinstance(address, bool):
        host, port = "127.0.0.1", address
    elif isinstance(address, str):
        if address.startswith("unix:"):
            if address == "unix:":
                raise ValueError("'unix:' needs a path")
            return address.removeprefix("unix:")
        found = ENDPOINT.fullmatch(address)
        if found is None:
            raise ValueError(f"{address!r} is not host:port, [v6]:port, :port or unix:path")
        host, port = found[1] or found[2] or "", int(found[3])
    elif isinstance(address, tuple) and len(address) == 2 and isinstance(address[1], int):
        host, port = address
    else:
        raise ValueError(f"{address!r} is not an address to listen on")
    if not 0 <= port <= 65_535:
        raise ValueError(f"{address!r}: a port is between 0 and 65535")
    return host, port


def open_sockets(
    addresses: Iterable[Address], workers: int, *, reuseport: bool, backlog: int, options: SocketOptions | None = None
) -> Sockets:
    """Bind and listen at every address; `reuseport` gives each worker a socket of its own where the kernel can.

    Raises:
        OSError: an address cannot be bound or a name is not known.
        ValueError: an address cannot be read, a given socket is not a bound stream socket, or an option does not apply.
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
    """One socket for each share, or one for all; a port left to the kernel is the same for all."""
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
    """A bound TCP socket."""
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
    """Every address of `host`; all of this machine's where it is empty."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise OSError(error.errno, f"cannot listen on {host!r}: {error.strerror}") from None
    usable = [(int(family), address[:2]) for family, _kind, _proto, _name, address in found]
    if not host and not socket.has_ipv6:
        usable = [one for one in usable if one[0] == socket.AF_INET]
    return list(dict.fromkeys(usable))  # type: ignore[arg-type]


def check_given(sock: socket.socket) -> None:
    """Refuse what cannot be listened on."""
    if sock.type != socket.SOCK_STREAM:
        raise ValueError(f"a stream socket was expected, got {sock!r}")
    if sock.family in (socket.AF_INET, socket.AF_INET6) and not sock.getsockname()[1]:
        raise ValueError(f"a bound socket was expected, got {sock!r}")


def share(per_worker: list[list[socket.socket]], sock: socket.socket) -> None:
    """Give one socket to every worker."""
    for part in per_worker:
        part.append(sock)


def name_of(sock: socket.socket) -> str:
    """Where a socket listens, for people."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
