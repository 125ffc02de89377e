"""What the parts of the loop share: the engine under asyncio's own loop, and the transports that it makes.

`Loop` is this class with the halves that build on it (`connecting`, `listening`). Servers, child processes and the
handling of forks know this class alone, so that no module imports the one that joins them all.
"""

import asyncio
import contextvars
import socket
from collections.abc import Callable
from typing import Any, cast

from corenet.loop import compat
from corenet.loop.signals import Signals
from corenet.loop.sockops import SocketEngine
from corenet.transports.stream import make_stream

__all__ = ["BaseLoop"]


class BaseLoop(SocketEngine, asyncio.BaseEventLoop):  # type: ignore[misc]
    """The engine as a loop of asyncio, and the factories of its transports, which BaseEventLoop calls as well."""

    #: Set it before servers are made on listening sockets that other processes accept from as well: a connection then
    #: wakes one of these processes (EPOLLEXCLUSIVE), each in its turn. `corenet.serve` sets it in "exclusive" mode.
    exclusive_listeners = False

    #: Handlers of signals, and the descriptor by which a signal wakes the loop.
    _signals: Signals
    #: Of child processes that have not ended.
    _pidfds: set[int]

    def _make_socket_transport(
        self,
        sock: socket.socket,
        protocol: Any,
        waiter: Any = None,
        *,
        extra: Any = None,
        server: Any = None,
        context: contextvars.Context | None = None,
    ) -> Any:
        return make_stream(self, sock, protocol, waiter, extra, server, context)

    def _make_ssl_transport(
        self,
        rawsock: socket.socket,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: Any = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        call_connection_made: bool = True,
        context: contextvars.Context | None = None,
    ) -> Any:
        from corenet.tls.transport import make_tls

        tls = make_tls(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side=server_side,
            server_hostname=server_hostname,
            call_connection_made=call_connection_made,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        make_stream(self, rawsock, cast(Any, tls), None, extra, server, context)
        return tls

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """Put TLS on a connection; returns the transport that `protocol` uses from now on."""
        from corenet.tls import start_tls

        return await start_tls.start_tls(
            self,
            transport,
            protocol,
            sslcontext,
            server_side=server_side,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )

    def _make_read_pipe_transport(self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None) -> Any:
        from corenet.transports.pipe import make_read_pipe

        return make_read_pipe(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None) -> Any:
        from corenet.transports.pipe import make_write_pipe

        return make_write_pipe(self, pipe, protocol, waiter, extra)

    # --- connections that are made or accepted --------------------------------------------------------------------

    async def _create_connection_transport(
        self,
        sock: socket.socket,
        protocol_factory: Callable[[], Any],
        ssl: Any,
        server_hostname: str | None,
        server_side: bool = False,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
        context: contextvars.Context | None = None,
    ) -> tuple[Any, Any]:
        """Protocol and transport of a connected socket, which is closed when there comes to be no transport."""
        try:
            sock.setblocking(False)
            protocol = protocol_factory()
            place: dict[str, Any] = {}
            if compat.MAKES_TRANSPORTS_IN_CONTEXT:
                place["context"] = contextvars.copy_context() if context is None else context
            waiter: asyncio.Future[None] = self.create_future()
            if ssl:
                transport = self._make_ssl_transport(
                    sock,
                    protocol,
                    None if isinstance(ssl, bool) else ssl,
                    waiter,
                    server_side=server_side,
                    server_hostname=server_hostname,
                    ssl_handshake_timeout=ssl_handshake_timeout,
                    ssl_shutdown_timeout=ssl_shutdown_timeout,
                    **place,
                )
            else:
                transport = self._make_socket_transport(sock, protocol, waiter, **place)
        except BaseException:
            sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            # The frame that the error holds must not hold the error.
            del waiter
            raise
        return transport, protocol

    async def _accept_tls(
        self,
        sock: socket.socket,
        protocol_factory: Callable[[], Any],
        context: Any,
        connections: Any,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
    ) -> None:
        """Make TLS of an accepted connection; a failure costs its peer, not the listener."""
        protocol = transport = None
        try:
            protocol = protocol_factory()
            waiter: asyncio.Future[None] | None = self.create_future()
            transport = self._make_ssl_transport(
                sock,
                protocol,
                context,
                waiter,
                server_side=True,
                server=connections,
                ssl_handshake_timeout=handshake_timeout,
                ssl_shutdown_timeout=shutdown_timeout,
            )
            try:
                await cast("asyncio.Future[None]", waiter)
            except BaseException:
                transport.close()
                # The protocol's frames hold the transport; without this the two would keep each other alive.
                waiter = None
                raise
        except (SystemExit, KeyboardInterrupt):
            raise
        except asyncio.CancelledError:
            if transport is None:
                sock.close()
            raise
        except Exception as error:  # noqa: BLE001 - whatever a peer or a factory does must not end the server
            if transport is None:
                sock.close()
            if self.get_debug():
                self.call_exception_handler(
                    {
                        "message": "Error on transport creation for incoming connection",
                        "exception": error,
                        "protocol": protocol,
                        "transport": transport,
                    }
                )
