"""`Server`: the listening sockets, the accepted connections, and the order in which both end.

Connections are in a `ConnectionList`, an intrusive list of transports, because an entry in a weak set costs more memory
than an idle connection. `wait_closed` and `serve_forever` wait for what asyncio's Server of the same Python version
waits for (`compat`).
"""

import asyncio
import contextlib
import os
import posix
import socket
import stat
from asyncio.trsock import TransportSocket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from corenet.loop import compat
from corenet.loop.base import BaseLoop
from corenet.transports.listener import Listener
from corenet.transports.stream import ConnectionList

if TYPE_CHECKING:
    import ssl as ssl_module

    from corenet.transports.options import SocketOptions

__all__ = ["Server"]


class Server(asyncio.AbstractServer):
    """The server that `create_server` and `create_unix_server` return."""

    def __init__(
        self,
        loop: BaseLoop,
        sockets: list[socket.socket],
        protocol_factory: Callable[[], Any],
        ssl_context: "ssl_module.SSLContext | None",
        backlog: int,
        ssl_handshake_timeout: float | None,
        ssl_shutdown_timeout: float | None = None,
        cleanup: tuple[str, int] | None = None,
        options: "SocketOptions | None" = None,
    ) -> None:
        self._loop = loop
        self._sockets: list[socket.socket] | None = sockets
        self._protocol_factory = protocol_factory
        self._ssl_context = ssl_context
        self._backlog = backlog
        self._ssl_handshake_timeout = ssl_handshake_timeout
        self._ssl_shutdown_timeout = ssl_shutdown_timeout
        self._cleanup = cleanup
        self._options = options
        self._listeners: list[Listener] = []
        self._allowance: Callable[[int], int] | None = None
        self._serving = False
        self._waiters: list[asyncio.Future[None]] | None = []
        self._serving_forever: asyncio.Future[None] | None = None
        self._roster = ConnectionList(self._on_last_connection)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} sockets={self.sockets!r}>"

    # --- connections ----------------------------------------------------------------------------------------------

    @property
    def _active_count(self) -> int:
        return self._roster.active

    def _on_last_connection(self) -> None:
        if self._sockets is None:
            self._wakeup()

    def _wakeup(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)
        self._roster.clear_on_empty()

    def close_clients(self) -> None:
        """Close every connection of this server; queued data is still sent."""
        for transport in self._roster.members():
            outermost(transport).close()

    def abort_clients(self) -> None:
        """Close every connection of this server at once; queued data is dropped."""
        for transport in self._roster.members():
            outermost(transport).abort()

    # --- listening ------------------------------------------------------------------------------------------------

    @property
    def sockets(self) -> tuple[TransportSocket, ...]:
        """The listening sockets; empty after the server was closed."""
        return tuple(TransportSocket(sock) for sock in self._sockets or ())

    def limit_accepts(self, allowance: Callable[[int], int]) -> None:
        """Limit each batch of accepts to ``allowance(active)`` connections; others stay in the backlog.

        `active` is the number of open connections, counted from accept until the descriptor is closed. While the result
        is 0, the loop calls it again in each iteration without sleeping, so it should last a few iterations only. After
        a negative result nothing is accepted for as many microseconds.
        """
        self._allowance = allowance
        for listener in self._listeners:
            listener.limit(allowance)

    def get_loop(self) -> BaseLoop:
        """Return the loop of this server."""
        return self._loop

    def is_serving(self) -> bool:
        """Return whether connections are accepted."""
        return self._serving

    def _start_serving(self) -> None:
        if self._serving:
            return
        assert self._sockets is not None
        try:
            for sock in self._sockets:
                self._listen(sock)
        except BaseException:
            # All sockets or none: the caller may try again.
            self._stop_listening()
            raise
        self._serving = True

    def _listen(self, sock: socket.socket) -> None:
        sock.listen(self._backlog)
        listener = Listener(
            self._loop,
            sock,
            self._protocol_factory,
            self._roster,
            None if self._ssl_context is None else self._accept_tls,
            self._backlog,
            self._loop.exclusive_listeners,
            self._options is None or self._options.nodelay is not False,
        )
        listener.limit(self._allowance)
        self._listeners.append(listener)
        listener.start()

    def _stop_listening(self) -> None:
        listeners, self._listeners = self._listeners, []
        with contextlib.ExitStack() as steps:
            for listener in listeners:
                steps.callback(listener.stop)

    def _accept_tls(self, sock: socket.socket) -> None:
        # In a task for each connection, so that a slow handshake does not delay other connections.
        self._loop.create_task(
            self._loop._accept_tls(
                sock,
                self._protocol_factory,
                self._ssl_context,
                self._roster,
                self._ssl_handshake_timeout,
                self._ssl_shutdown_timeout,
            )
        )

    async def start_serving(self) -> None:
        """Start accepting; connections may arrive before this returns.

        Raises:
            RuntimeError: the server is closed.
        """
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._start_serving()
        await asyncio.sleep(0)

    async def serve_forever(self) -> None:
        """Accept until cancelled, then close.

        Raises:
            RuntimeError: the server is closed, or `serve_forever` is running already.
        """
        if self._serving_forever is not None:
            raise RuntimeError(f"server {self!r} is already being awaited on serve_forever()")
        if self._sockets is None:
            raise RuntimeError(f"server {self!r} is closed")
        self._start_serving()
        self._serving_forever = self._loop.create_future()
        try:
            await self._serving_forever
        except asyncio.CancelledError:
            try:
                self.close()
                if compat.CLOSES_CLIENTS_WHEN_CANCELLED:
                    self.close_clients()
                await self.wait_closed()
            finally:
                raise
        finally:
            self._serving_forever = None

    # --- closing --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop accepting and close the listening sockets; open connections continue."""
        sockets = self._sockets
        if sockets is None:
            return
        self._sockets = None
        # In reverse order. Each step runs even if another raises, as `close` of a socket without a descriptor does.
        with contextlib.ExitStack() as steps:
            steps.callback(self._closed)
            if self._cleanup is not None:
                steps.callback(remove_socket_file, *self._cleanup)
            for sock in sockets:
                steps.callback(sock.close)
            steps.callback(self._stop_listening)

    def _closed(self) -> None:
        """The listening sockets are closed: wake the tasks that wait for that."""
        self._serving = False
        if self._serving_forever is not None and not self._serving_forever.done():
            self._serving_forever.cancel()
            self._serving_forever = None
        if self._roster.active == 0:
            self._wakeup()

    async def wait_closed(self) -> None:
        """Wait until the server is closed and, from Python 3.12.1 on, until its connections have ended."""
        if self._waiters is None:
            return
        if not compat.WAIT_CLOSED_WAITS and self._sockets is None:
            return
        await self.wait_connections_closed()

    async def wait_connections_closed(self) -> None:
        """Wait until the server is closed and its connections have ended, on every Python version."""
        if self._waiters is None:
            return
        waiter = self._loop.create_future()
        self._waiters.append(waiter)
        await waiter

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close()
        await self.wait_closed()


def outermost(transport: Any) -> Any:
    """Return the TLS transport above `transport`, which sends its data and close_notify on close, else `transport`."""
    # Imported here, so that a server without TLS loads it only when its connections are closed.
    from corenet.tls.transport import TlsTransport

    while isinstance(above := transport.get_protocol(), TlsTransport):
        transport = above
    return transport


def remove_socket_file(path: str, inode: int) -> None:
    """Remove the file of a Unix socket unless another server has replaced it. Symbolic links are not followed.

    Not with os.stat and os.unlink: tools that detect blocking calls in coroutines (blockbuster) replace these two and
    permit them in asyncio's own files only.
    """
    try:
        found = os.lstat(path)
        if stat.S_ISSOCK(found.st_mode) and found.st_ino == inode:
            posix.unlink(path)
    except FileNotFoundError:
        return
