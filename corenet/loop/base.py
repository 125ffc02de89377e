"""`BaseLoop`: the engine combined with `asyncio.BaseEventLoop`, and the factories of transports.

`Loop` adds the mixins of `connecting`, `listening` and `name_resolution`. Servers, child processes and fork handling
import only this class, so that no module imports `loop`, which imports all of them.
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
    """The engine as an asyncio loop, with the transport factories that BaseEventLoop calls too."""

    #: Set it before creating servers on listening sockets that other processes accept from too: a connection then
    #: wakes one of these processes (EPOLLEXCLUSIVE), in rotation. `corenet.serve` sets it in "exclusive" mode.
    exclusive_listeners = False

    #: Signal handlers, and the descriptor by which a signal wakes the loop.
    _signals: Signals
    #: One pidfd for each child process that has not ended.
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
        """Start TLS on a connection; returns the transport that `protocol` must use from then on."""
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

    # --- connected sockets ----------------------------------------------------------------------------------------

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
        """Return transport and protocol of a connected socket. The socket is closed when no transport is created."""
        try:
            sock.setblocking(False)
            protocol = protocol_factory()
            keywords: dict[str, Any] = {}
            if compat.MAKES_TRANSPORTS_IN_CONTEXT:
                keywords["context"] = contextvars.copy_context() if context is None else context
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
                    **keywords,
                )
            else:
                transport = self._make_socket_transport(sock, protocol, waiter, **keywords)
        except BaseException:
            sock.close()
            raise
        try:
            await waiter
        except BaseException:
            transport.close()
            # The error's traceback holds this frame. The frame must not hold the error through `waiter`.
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
        """Start TLS on an accepted connection. A failure ends this connection only, not the listener."""
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
                # The error in `waiter` has a traceback with this frame: a reference cycle that keeps the transport.
                waiter = None
                raise
        except (SystemExit, KeyboardInterrupt):
            raise
        except asyncio.CancelledError:
            if transport is None:
                sock.close()
            raise
        except Exception as error:  # noqa: BLE001 - a failing peer or factory must not end the server
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
