"""How connections come to be: names resolved, addresses tried in turn or in a race, options set in time.

Written anew instead of inherited, because the standard method gives nobody the socket before it is connected, and
because `all_errors` is offered on every version. The HTTP client uses the same race of addresses (RFC 8305). Messages
and the order of checks follow asyncio.
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
    """The connecting half of the loop."""

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

        `happy_eyeballs_delay` seconds after one address the next is tried beside it (RFC 8305), `interleave` addresses
        of a family in turn. `all_errors` raises every failure as an ExceptionGroup. `options` are set before the
        connection is made.

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
        """The socket that was connected first.

        Raises:
            OSError: none could be; ExceptionGroup with `all_errors`.
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
        # The frames of the errors hold these lists, and they the errors.
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
        """One socket made, bound and connected; what went wrong is added to `exceptions` and raised."""
        mine: list[OSError] = []
        exceptions.append(mine)
        family, kind, proto, _, address = addr_info
        sock: socket.socket | None = None
        try:
            # By asyncio's name for the module: what stands in for it there, in tests for one, stands in for it here.
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
                with contextlib.suppress(OSError):  # of no use to anybody, and it would hide the error
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
        """Serve a connection that was accepted elsewhere; returns (transport, protocol)."""
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
        """Make a datagram endpoint; returns (transport, protocol). A given `sock` may be of any family.

        Raises:
            OSError: an address cannot be bound or reached.
            ValueError: arguments that contradict each other.
        """
        if options is not None and sock is None:
            reuse_port = merge_option("reuse_port", reuse_port, options.reuse_port)
        later = DeferredProtocol(protocol_factory, sock)
        transport, _ = await super().create_datagram_endpoint(
            lambda: cast(Any, later),
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
        return transport, later.protocol

    def _make_datagram_transport(
        self, sock: socket.socket, protocol: Any, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> Any:
        from corenet.transports.datagram import make_datagram

        later = protocol if isinstance(protocol, DeferredProtocol) else None
        try:
            if later is not None:
                protocol = later.make()
            made = later is not None and sock is not later.given
            return make_datagram(self, sock, protocol, address, waiter, extra, made)
        except BaseException:
            if later is not None and sock is not later.given:
                sock.close()
            raise


class DeferredProtocol:
    """Stands for a protocol until its socket is known, which is closed when protocol or transport cannot be made.

    asyncio's method makes both at a place where nobody can close the socket that it has just bound.
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
    """The socket of the attempt that connects first, None when all fail with OSError (RFC 8305 section 5).

    An attempt begins `delay` seconds after the one before it, or when one fails. What one raises besides OSError comes
    out. All have ended when this returns, however it does, and every socket but the winner's is closed.
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
    """Another attempt has won, or nobody wants a connection any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


def bind_local(sock: socket.socket, infos: list[Info], failures: list[OSError]) -> None:
    """Bind to the first local address of the socket's family that can be had.

    Raises:
        OSError: to none.
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
    """The transport has switched TCP_NODELAY on, as asyncio's does; whoever wants it off has said so."""
    if options is not None and options.nodelay is False:
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
