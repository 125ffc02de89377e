"""The loop's methods that create servers: sockets for TCP and Unix addresses, bound before they are listened on.

They replace asyncio's methods, because those create the standard Server, which keeps connections in a weak set, and
because all keywords of 3.13 are supported on every version. Messages and the order of checks follow asyncio.
"""

import asyncio
import errno
import os
import socket
import stat
from asyncio import base_events
from asyncio.log import logger
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from corenet.loop import compat
from corenet.loop.base import BaseLoop

if TYPE_CHECKING:
    import ssl as ssl_module

    from corenet.loop.server import Server
    from corenet.transports.options import SocketOptions

__all__ = ["Listening"]


class Listening(BaseLoop):
    """The part of the loop that creates servers."""

    async def create_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], Any],
        host: str | Iterable[str] | None = None,
        port: int | None = None,
        *,
        family: int = socket.AF_UNSPEC,
        flags: int = socket.AI_PASSIVE,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: "ssl_module.SSLContext | None" = None,
        reuse_address: bool | None = None,
        reuse_port: bool | None = None,
        keep_alive: bool | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        options: "SocketOptions | None" = None,
    ) -> "Server":
        """Listen for TCP connections on every address of `host`, or on a bound `sock`.

        `options` are set on the listening sockets; each connection inherits them.

        Raises:
            OSError: an address cannot be bound.
            ValueError: arguments that contradict each other.
        """
        check_tls(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if options is not None:
            reuse_address = merge_option("reuse_address", reuse_address, options.reuse_address)
            reuse_port = merge_option("reuse_port", reuse_port, options.reuse_port)
            keep_alive = merge_option("keep_alive", keep_alive, options.keepalive, "keepalive")
        if sock is not None:
            base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if host is None and port is None:
            if sock is None:
                raise ValueError("Neither host/port nor sock were specified")
            if sock.type != socket.SOCK_STREAM:
                raise ValueError(f"A Stream Socket was expected, got {sock!r}")
            if options is not None:
                options.apply(sock, "listen")
            sockets = [sock]
        else:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            hosts: list[Any]
            if host == "":
                hosts = [None]
            elif host is None or isinstance(host, str | bytes) or not isinstance(host, Iterable):
                hosts = [host]
            else:
                hosts = list(host)
            sockets = await self._bind_all(hosts, port, family, flags, reuse_address, reuse_port, keep_alive, options)
        for bound in sockets:
            bound.setblocking(False)
        return await self._make_server(
            sockets, protocol_factory, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout, None, options,
            start_serving, sock is not None,
        )  # fmt: skip

    async def _make_server(
        self,
        sockets: list[socket.socket],
        protocol_factory: Callable[[], Any],
        ssl: "ssl_module.SSLContext | None",
        backlog: int,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
        cleanup: tuple[str, int] | None,
        options: "SocketOptions | None",
        start_serving: bool,
        given: bool,
    ) -> "Server":
        """`given`: the program has made the sockets, and keeps them if they cannot be served."""
        # Imported here, so that a program without servers does not load the listener.
        from corenet.loop.server import Server

        if options is not None and options.backlog is not None:
            backlog = options.backlog
        server = Server(
            self, sockets, protocol_factory, ssl, backlog, handshake_timeout, shutdown_timeout, cleanup, options
        )
        if start_serving:
            try:
                server._start_serving()
            except BaseException:
                if not given:
                    server.close()
                raise
            await asyncio.sleep(0)
        if self.get_debug():
            logger.info("%r is serving", server)
        return server

    async def _bind_all(
        self,
        hosts: list[Any],
        port: Any,
        family: int,
        flags: int,
        reuse_address: bool | None,
        reuse_port: bool | None,
        keep_alive: bool | None,
        options: "SocketOptions | None",
    ) -> list[socket.socket]:
        """Return a bound socket for each distinct address of `hosts`."""
        infos: dict[tuple[Any, ...], None] = {}
        for found in await asyncio.gather(*(self._addresses_to_bind(one, port, family, flags) for one in hosts)):
            for info in found:
                infos[info] = None
        sockets: list[socket.socket] = []
        try:
            for kind, socktype, proto, _name, address in infos:
                bound = self._bind_one(
                    kind, socktype, proto, address, reuse_address, reuse_port, keep_alive, options
                )
                if bound is not None:
                    sockets.append(bound)
            if not sockets:
                raise OSError(f"could not bind on any address out of {[info[4] for info in infos]!r}")
        except BaseException:
            for bound in sockets:
                bound.close()
            raise
        return sockets

    async def _addresses_to_bind(self, host: Any, port: Any, family: int, flags: int) -> list[tuple[Any, ...]]:
        # Not `getaddrinfo` directly: the C library takes port numbers modulo 65,536.
        found = await self._ensure_resolved(  # type: ignore[attr-defined]
            (host, port), family=family, type=socket.SOCK_STREAM, flags=flags, loop=self
        )
        if not found:
            raise OSError(f"getaddrinfo({host!r}) returned empty list")
        return [tuple(info) for info in found]

    def _bind_one(
        self,
        family: int,
        kind: int,
        proto: int,
        address: Any,
        reuse_address: bool | None,
        reuse_port: bool | None,
        keep_alive: bool | None,
        options: "SocketOptions | None",
    ) -> socket.socket | None:
        """Return a bound socket, None when the machine does not support the family or does not have the address."""
        try:
            # Through asyncio's reference to the module, so that a test that patches it there patches it here too.
            sock: socket.socket = base_events.socket.socket(family, kind, proto)  # type: ignore[attr-defined]
        except OSError:
            logger.debug("create_server() failed to create socket.socket(%r, %r, %r)", family, kind, proto)
            return None
        try:
            if options is not None:
                options.apply(sock, "listen")
            try:
                bind_tcp(
                    sock,
                    address,
                    options,
                    reuse_address=reuse_address is None or bool(reuse_address),
                    reuse_port=bool(reuse_port),
                    keep_alive=bool(keep_alive),
                )
            except OSError as error:
                message = f"error while attempting to bind on address {address!r}: {str(error).lower()}"
                if error.errno == errno.EADDRNOTAVAIL:
                    logger.debug(message)
                    sock.close()
                    return None
                raise OSError(error.errno, message) from None
        except BaseException:
            sock.close()
            raise
        return sock

    # --- Unix sockets ---------------------------------------------------------------------------------------------

    async def create_unix_server(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], Any],
        path: Any = None,
        *,
        sock: socket.socket | None = None,
        backlog: int = 100,
        ssl: "ssl_module.SSLContext | None" = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        start_serving: bool = True,
        cleanup_socket: bool | None = None,
        options: "SocketOptions | None" = None,
    ) -> "Server":
        """Listen on a Unix socket at `path`, or on a bound `sock`.

        `cleanup_socket` removes the file when the server is closed. None: as asyncio of this Python version does.

        Raises:
            OSError: the path cannot be bound.
        """
        check_tls(ssl, ssl_handshake_timeout, ssl_shutdown_timeout)
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            given = False
            sock = bind_unix(os.fspath(path), options)
        else:
            given = True
            if sock is None:
                raise ValueError("path was not specified, and no sock specified")
            if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
                raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")
            if options is not None:
                options.apply(sock, "listen")
        cleanup = None
        if compat.REMOVES_UNIX_SOCKETS if cleanup_socket is None else cleanup_socket:
            name = sock.getsockname()
            if name and name[0] not in (0, "\0"):
                try:
                    cleanup = (name, os.lstat(name).st_ino)
                except FileNotFoundError:
                    cleanup = None
        sock.setblocking(False)
        return await self._make_server(
            [sock], protocol_factory, ssl, backlog, ssl_handshake_timeout, ssl_shutdown_timeout, cleanup, options,
            start_serving, given,
        )  # fmt: skip

    async def create_unix_connection(
        self,
        protocol_factory: Callable[[], Any],
        path: Any = None,
        *,
        ssl: Any = None,
        sock: socket.socket | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        options: "SocketOptions | None" = None,
    ) -> tuple[Any, Any]:
        """Connect to the Unix socket at `path`, or use a connected `sock`; returns (transport, protocol)."""
        if ssl:
            if server_hostname is None:
                raise ValueError("you have to pass server_hostname when using ssl")
            if ssl is True:
                from corenet.tls.default import prepared_context, standard_context

                ssl = await prepared_context(standard_context(bool(server_hostname)))
        else:
            if server_hostname is not None:
                raise ValueError("server_hostname is only meaningful with ssl")
            check_tls(None, ssl_handshake_timeout, ssl_shutdown_timeout)
        if path is not None:
            if sock is not None:
                raise ValueError("path and sock can not be specified at the same time")
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.setblocking(False)
                if options is not None:
                    options.apply(sock, "connect")
                await self.sock_connect(sock, os.fspath(path))
            except BaseException:
                sock.close()
                raise
        else:
            if sock is None:
                raise ValueError("no path and sock were specified")
            if sock.family != socket.AF_UNIX or sock.type != socket.SOCK_STREAM:
                raise ValueError(f"A UNIX Domain Stream Socket was expected, got {sock!r}")
            sock.setblocking(False)
            if options is not None:
                options.apply(sock, "stream")
        return await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )


def merge_option(name: str, keyword: bool | None, option: bool | None, field: str = "") -> bool | None:
    """Return the keyword's value, or the option's when the keyword is None.

    Raises:
        ValueError: both are set and differ.
    """
    if keyword is not None and option is not None and bool(keyword) != option:
        raise ValueError(f"{name}={keyword!r} and options.{field or name}={option!r} contradict each other")
    return option if keyword is None else keyword


def check_tls(
    ssl: Any, handshake_timeout: float | None, shutdown_timeout: float | None, *, client: bool = False
) -> None:
    """Raise for TLS timeouts without TLS, and for ``ssl=True`` (the default context) except in a client."""
    if isinstance(ssl, bool) and not client:
        raise TypeError("ssl argument must be an SSLContext or None")
    if handshake_timeout is not None and ssl is None:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    if shutdown_timeout is not None and ssl is None:
        raise ValueError("ssl_shutdown_timeout is only meaningful with ssl")


def bind_tcp(
    sock: socket.socket,
    address: Any,
    options: "SocketOptions | None" = None,
    *,
    reuse_address: bool = True,
    reuse_port: bool = False,
    keep_alive: bool = False,
) -> None:
    """Set the remaining options of `sock`, to which `options` were applied, and bind it.

    All options are set before: a connection inherits those that the listening socket has when the SYN arrives, and
    another process may accept it. The caller closes the socket when this fails.

    Raises:
        OSError: the address cannot be bound, or an option cannot be set.
    """
    if reuse_address:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, True)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, True)
    if keep_alive:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, True)
    if sock.family == socket.AF_INET6:
        # There is one socket for each family. A dual-stack socket would occupy the port of the IPv4 socket.
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, True)
    if options is None or options.nodelay is None:
        # Connections inherit it. asyncio sets it on each connection, which costs a call each.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)
    sock.bind(address)


def bind_unix(path: Any, options: "SocketOptions | None") -> socket.socket:
    """Return a Unix socket bound to `path`. An existing socket file is replaced (asyncio does the same)."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if options is not None:
            options.apply(sock, "listen")
        try:
            sock.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not path or path[0] in (0, "\0") or not remove_stale(path):
                raise
            sock.bind(path)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise OSError(errno.EADDRINUSE, f"Address {path!r} is already in use") from None
        raise
    except BaseException:
        sock.close()
        raise
    return sock


def remove_stale(path: Any) -> bool:
    """Remove the socket file at `path`; False when it is no socket or cannot be removed."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        os.remove(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        # The caller raises the error of bind.
        logger.error("Unable to check or remove stale UNIX socket %r: %r", path, error)
        return False
    return True
