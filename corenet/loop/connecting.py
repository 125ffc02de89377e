"""The loop's methods that create connections and datagram endpoints.

`create_connection` replaces asyncio's method for two reasons: socket options must be set before the socket is
connected, and `all_errors` is supported on every Python version. Addresses are tried one after another, or overlapping
(`race`: happy eyeballs, RFC 8305), which the HTTP client uses too. Messages and the order of checks follow asyncio.
"""

import asyncio
import contextlib
import functools
import socket
from asyncio import base_events
from asyncio.log import logger
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, cast

from corenet.loop.base import BaseLoop
from corenet.loop.listening import check_tls, merge_option

if TYPE_CHECKING:
    import ssl as ssl_module

    from corenet.transports.options import SocketOptions

__all__ = ["Connecting"]

Info = tuple[Any, ...]


class Connecting(BaseLoop):
    """The part of the loop that connects."""

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: str | bytes | None = None,
        port: int | str | bytes | None = None,
        *,
        ssl: "bool | ssl_module.SSLContext | None" = None,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        sock: socket.socket | None = None,
        local_addr: tuple[str, int] | None = None,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        happy_eyeballs_delay: float | None = None,
        interleave: int | None = None,
        all_errors: bool = False,
        options: "SocketOptions | None" = None,
    ) -> tuple[Any, Any]:
        """Connect to `host` and `port`, or use a connected `sock`; returns (transport, protocol).

        `happy_eyeballs_delay`: seconds after which the next address is tried while the earlier ones still connect
        (RFC 8305). `interleave`: how many addresses of the first family come before one of another; default 1 with
        `happy_eyeballs_delay`. `all_errors` raises all failures as an ExceptionGroup. `options` are set on the socket
        before it is connected.

        Raises:
            OSError: no address could be reached.
            ValueError: arguments that contradict each other.
        """
        if server_hostname is not None and not ssl:
            raise ValueError("server_hostname is only meaningful with ssl")
        if server_hostname is None and ssl:
            if not host:
                raise ValueError("You must set server_hostname when using ssl without a host")
            server_hostname = host if isinstance(host, str) else host.decode("ascii")
        check_tls(ssl or None, ssl_handshake_timeout, ssl_shutdown_timeout, client=True)
        if sock is not None:
            base_events._check_ssl_socket(sock)  # type: ignore[attr-defined]
        if ssl is True:
            from corenet.tls.default import prepared_context, standard_context

            ssl = await prepared_context(standard_context(bool(server_hostname)))
        if host is not None or port is not None:
            if sock is not None:
                raise ValueError("host/port and sock can not be specified at the same time")
            infos = await self._addresses_of((host, port), family, proto, flags)
            local_infos = None
            if local_addr is not None:
                local_infos = await self._addresses_of(local_addr, family, proto, flags)
            if interleave is None and happy_eyeballs_delay is not None:
                interleave = 1
            if interleave:
                infos = base_events._interleave_addrinfos(infos, interleave)  # type: ignore[attr-defined]
            sock = await self._first_connected(infos, local_infos, happy_eyeballs_delay, all_errors, options)
        else:
            if sock is None:
                raise ValueError("host and port was not specified and no sock specified")
            if sock.type != socket.SOCK_STREAM:
                raise ValueError(f"A Stream Socket was expected, got {sock!r}")
            if options is not None:
                options.apply(sock, "stream")
        transport, protocol = await self._create_connection_transport(
            sock,
            protocol_factory,
            ssl,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        restore_nagle(transport, options)
        if self.get_debug():
            sock = transport.get_extra_info("socket")
            logger.debug("%r connected to %s:%r: (%r, %r)", sock, host, port, transport, protocol)
        return transport, protocol

    async def _addresses_of(self, target: Any, family: int, proto: int, flags: int) -> list[Info]:
        infos: list[Info] = await self._ensure_resolved(  # type: ignore[attr-defined]
            target, family=family, type=socket.SOCK_STREAM, proto=proto, flags=flags, loop=self
        )
        if not infos:
            raise OSError("getaddrinfo() returned empty list")
        return infos

    async def _first_connected(
        self,
        infos: list[Info],
        local_infos: list[Info] | None,
        delay: float | None,
        all_errors: bool,
        options: "SocketOptions | None",
    ) -> socket.socket:
        """Return the first socket that connects.

        Raises:
            OSError: no address could be reached; with `all_errors` an ExceptionGroup.
        """
        failures: list[list[OSError]] = []
        sock: socket.socket | None = None
        if delay is None:
            for info in infos:
                try:
                    sock = await self._connect_sock(failures, info, local_infos, options)
                    break
                except OSError:
                    continue
        else:
            sock = await race(
                self,
                [functools.partial(self._connect_sock, failures, info, local_infos, options) for info in infos],
                delay,
            )
        if sock is not None:
            return sock
        errors = [error for attempt in failures for error in attempt]
        # The errors' tracebacks hold this frame: `failures` and `errors` are emptied to avoid a reference cycle.
        failures = []
        try:
            if all_errors:
                raise ExceptionGroup("create_connection failed", errors)
            if len({str(error) for error in errors}) == 1:
                raise errors[0]
            raise OSError(f"Multiple exceptions: {', '.join(str(error) for error in errors)}")
        finally:
            errors = []

    async def _connect_sock(
        self,
        exceptions: list[list[OSError]],
        addr_info: Info,
        local_addr_infos: list[Info] | None = None,
        options: "SocketOptions | None" = None,
    ) -> socket.socket:
        """Create, bind and connect one socket. A failure is added to `exceptions` and raised."""
        mine: list[OSError] = []
        exceptions.append(mine)
        family, kind, proto, _, address = addr_info
        sock: socket.socket | None = None
        try:
            # Through asyncio's reference to the module, so that a test that patches it there patches it here too.
            sock = cast(socket.socket, base_events.socket.socket(family=family, type=kind, proto=proto))  # type: ignore
            sock.setblocking(False)
            if options is not None:
                options.apply(sock, "connect")
            if local_addr_infos is not None:
                bind_local(sock, local_addr_infos, mine)
            await self.sock_connect(sock, address)
        except BaseException as error:
            if isinstance(error, OSError):
                mine.append(error)
            if sock is not None:
                with contextlib.suppress(OSError):  # an error of close would hide the error of the connection
                    sock.close()
            raise
        finally:
            del exceptions, mine
        return sock

    async def connect_accepted_socket(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], Any],
        sock: socket.socket,
        *,
        ssl: "ssl_module.SSLContext | None" = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        options: "SocketOptions | None" = None,
    ) -> tuple[Any, Any]:
        """Create the transport of a connection that other code accepted; returns (transport, protocol)."""
        if options is not None:
            options.apply(sock, "stream")
        transport, protocol = await super().connect_accepted_socket(
            protocol_factory,
            sock,
            ssl=ssl,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        restore_nagle(transport, options)
        return transport, protocol

    async def create_datagram_endpoint(  # type: ignore[override]
        self,
        protocol_factory: Callable[[], Any],
        local_addr: Any = None,
        remote_addr: Any = None,
        *,
        family: int = 0,
        proto: int = 0,
        flags: int = 0,
        reuse_port: bool | None = None,
        allow_broadcast: bool | None = None,
        sock: socket.socket | None = None,
        options: "SocketOptions | None" = None,
    ) -> tuple[Any, Any]:
        """Create a datagram endpoint; returns (transport, protocol). A given `sock` may be of any family.

        Raises:
            OSError: an address cannot be bound or reached.
            ValueError: arguments that contradict each other.
        """
        if options is not None and sock is None:
            reuse_port = merge_option("reuse_port", reuse_port, options.reuse_port)
        deferred = DeferredProtocol(protocol_factory, sock)
        transport, _ = await super().create_datagram_endpoint(
            lambda: cast(Any, deferred),
            local_addr,
            remote_addr,
            family=family,
            proto=proto,
            flags=flags,
            reuse_port=reuse_port,
            allow_broadcast=allow_broadcast,
            sock=sock,
        )
        if options is not None:
            try:
                options.apply(transport.get_extra_info("socket"), "datagram")
            except BaseException:
                transport.abort()
                raise
            if options.udp_gso is not None:
                transport.udp_gso = options.udp_gso  # type: ignore[attr-defined]
        return transport, deferred.protocol

    def _make_datagram_transport(
        self, sock: socket.socket, protocol: Any, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> Any:
        from corenet.transports.datagram import make_datagram

        deferred = protocol if isinstance(protocol, DeferredProtocol) else None
        try:
            if deferred is not None:
                protocol = deferred.make()
            created_here = deferred is not None and sock is not deferred.given
            return make_datagram(self, sock, protocol, address, waiter, extra, created_here)
        except BaseException:
            if deferred is not None and sock is not deferred.given:
                sock.close()
            raise


class DeferredProtocol:
    """Delays the protocol factory until the transport is created, so that a failure can close the socket.

    asyncio's `create_datagram_endpoint` calls the factory where a failure leaks the socket that it has just bound.
    """

    def __init__(self, factory: Callable[[], Any], given: socket.socket | None) -> None:
        self.factory = factory
        #: The caller's own socket, which stays open.
        self.given = given
        self.protocol: Any = None

    def __repr__(self) -> str:
        return repr(self.protocol)

    def make(self) -> Any:
        """Call the factory."""
        self.protocol = self.factory()
        return self.protocol


async def race(
    loop: asyncio.AbstractEventLoop, attempts: Sequence[Callable[[], Coroutine[Any, Any, socket.socket]]], delay: float
) -> socket.socket | None:
    """Return the socket of the attempt that connects first, None when all fail with OSError (RFC 8305 section 5).

    An attempt starts `delay` seconds after the previous one, or as soon as one fails. An exception other than OSError
    is raised. When this returns or raises, all attempts have ended, and every socket except the returned one is closed.
    """
    tasks: list[asyncio.Task[socket.socket]] = []
    running: set[asyncio.Task[socket.socket]] = set()
    winner: asyncio.Task[socket.socket] | None = None
    try:
        try:
            while winner is None and (running or len(tasks) < len(attempts)):
                if len(tasks) < len(attempts):
                    tasks.append(loop.create_task(attempts[len(tasks)]()))
                    running.add(tasks[-1])
                timeout = delay if len(tasks) < len(attempts) else None
                done, running = await asyncio.wait(running, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    error = task.exception()
                    if error is None:
                        winner = winner or task
                    elif not isinstance(error, OSError):
                        raise error
        finally:
            for task in tasks:
                if task is not winner:
                    task.add_done_callback(close_unwanted)
                    task.cancel()
            if running:
                await asyncio.wait(running)
    except BaseException:
        if winner is not None:
            winner.result().close()
        raise
    return None if winner is None else winner.result()


def close_unwanted(task: asyncio.Task[socket.socket]) -> None:
    """Close the socket of an attempt that lost the race, or whose race was cancelled."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def bind_local(sock: socket.socket, infos: list[Info], failures: list[OSError]) -> None:
    """Bind to the first address in `infos` that has the socket's family and can be bound.

    Raises:
        OSError: none can be bound.
    """
    for family, _, _, _, address in infos:
        if family != sock.family:
            continue
        try:
            sock.bind(address)
            return
        except OSError as error:
            message = f"error while attempting to bind on address {address!r}: {str(error).lower()}"
            failures.append(OSError(error.errno, message))
    if failures:
        raise failures.pop()
    raise OSError(f"no matching local address with family={sock.family!r} found")


def restore_nagle(transport: Any, options: "SocketOptions | None") -> None:
    """Switch TCP_NODELAY off when `options` say so: the transport has switched it on, as asyncio's does."""
    if options is not None and options.nodelay is False:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
