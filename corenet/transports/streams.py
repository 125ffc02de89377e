"""Streams in C with asyncio's interface: the same names, arguments, limits and exceptions, on any loop.

A server or client that was written for asyncio's streams uses these by importing its functions from this module. The
classes are subclasses of asyncio's, for ``isinstance``. `corenet.transports.reader` and `writer` have the code that
runs for each message, this file the code that runs once per connection.
"""

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

from corenet.limits import STREAM_LIMIT
from corenet.transports.reader import ReaderCore
from corenet.transports.writer import ProtocolCore, WriterCore

__all__ = [
    "StreamReader",
    "StreamReaderProtocol",
    "StreamWriter",
    "open_connection",
    "open_unix_connection",
    "start_server",
    "start_unix_server",
]

_LIMIT = STREAM_LIMIT
_Connected = Callable[["StreamReader", "StreamWriter"], Awaitable[None] | None]


class StreamReader(ReaderCore, asyncio.StreamReader):
    """A stream to read from; made by `open_connection` and `start_server`, or fed with feed_data."""


class StreamReaderProtocol(ProtocolCore, asyncio.StreamReaderProtocol):
    """The protocol between a transport and a StreamReader.

    Args:
        stream_reader: gets the received bytes.
        client_connected_cb: called with reader and writer when the connection is made; may be a coroutine function.
        loop: by default the running loop.
    """

    def __init__(
        self,
        stream_reader: StreamReader,
        client_connected_cb: _Connected | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        loop = asyncio.get_event_loop() if loop is None else loop
        ProtocolCore.__init__(self, stream_reader, loop)
        self._client_connected_cb = client_connected_cb
        self._source_traceback = None if stream_reader is None else stream_reader._source_traceback
        self._transport: Any = None
        self._task: asyncio.Task[None] | None = None
        self._over_ssl = False
        self._closed: asyncio.Future[None] = loop.create_future()

    def _replace_transport(self, transport: Any) -> None:
        reader: Any = self._stream_reader
        if reader is not None and reader._transport is not None:
            # The reader must pause and resume the transport that feeds it.
            reader._transport = transport
        self._transport = transport
        self._over_ssl = transport.get_extra_info("sslcontext") is not None

    def connection_made(self, transport: Any) -> None:
        """Give the reader its transport and start the handler of a server's connection."""
        self._replace_transport(transport)
        reader: Any = self._stream_reader
        if reader is not None:
            reader.set_transport(transport)
        if self._client_connected_cb is None:
            return
        try:
            result = self._client_connected_cb(reader, StreamWriter(transport, self, reader, self._loop))
        except Exception as error:  # noqa: BLE001 - the loop's exception handler gets it
            self._refuse(error, transport)
            return
        if asyncio.iscoroutine(result):
            self._task = self._loop.create_task(result)
            self._task.add_done_callback(self._handled)

    def _handled(self, task: "asyncio.Task[None]") -> None:
        """Close the connection if the handler failed, and report its exception."""
        transport = self._transport
        if task.cancelled():
            if transport is not None:
                transport.close()
            return
        error = task.exception()
        if error is not None:
            self._refuse(error, transport)

    def _refuse(self, error: BaseException, transport: Any) -> None:
        self._loop.call_exception_handler(
            {"message": "Unhandled exception in client_connected_cb", "exception": error, "transport": transport}
        )
        if transport is not None:
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the reader, and wake the tasks that wait in drain or wait_closed."""
        reader: Any = self._stream_reader
        if reader is not None:
            if exc is None:
                reader.feed_eof()
            else:
                reader.set_exception(exc)
        if not self._closed.done():
            if exc is None:
                self._closed.set_result(None)
            else:
                self._closed.set_exception(exc)
        self._lost(exc)
        self._task = None
        self._transport = None

    def eof_received(self) -> bool:
        """End the reader; our direction stays open, except over TLS, which does not allow that."""
        reader: Any = self._stream_reader
        if reader is not None:
            reader.feed_eof()
        return not self._over_ssl

    def _get_close_waiter(self, stream: Any) -> "asyncio.Future[None]":
        return self._closed

    def __del__(self) -> None:
        # The reader got the error, too: retrieve it here, so that the future does not report it as never retrieved.
        closed = getattr(self, "_closed", None)
        if closed is not None and closed.done() and not closed.cancelled():
            closed.exception()


class StreamWriter(WriterCore, asyncio.StreamWriter):
    """A stream to write to; made by `open_connection` and `start_server`."""

    async def start_tls(
        self,
        sslcontext: Any,
        *,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        """Upgrade the connection to TLS; reader and writer stay the same.

        Raises:
            ssl.SSLError: the handshake failed; the connection is closed.
        """
        protocol: Any = self._protocol
        await self.drain()
        transport = await self._loop.start_tls(
            self._transport,
            protocol,
            sslcontext,
            server_side=protocol._client_connected_cb is not None,
            server_hostname=server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        self._set_transport(transport)
        protocol._replace_transport(transport)

    def __del__(self, warnings: Any = warnings) -> None:
        transport = getattr(self, "_transport", None)
        if transport is not None and not transport.is_closing():
            if self._loop.is_closed():
                warnings.warn("loop is closed", ResourceWarning)
            else:
                self.close()
                warnings.warn(f"unclosed {self!r}", ResourceWarning)


def _client(limit: int) -> tuple[StreamReader, StreamReaderProtocol, asyncio.AbstractEventLoop]:
    loop = asyncio.get_running_loop()
    reader = StreamReader(limit, loop)
    return reader, StreamReaderProtocol(reader, loop=loop), loop


def _factory(connected: _Connected, limit: int) -> tuple[Callable[[], StreamReaderProtocol], Any]:
    loop = asyncio.get_running_loop()
    return lambda: StreamReaderProtocol(StreamReader(limit, loop), connected, loop), loop


async def open_connection(
    host: Any = None, port: Any = None, *, limit: int = _LIMIT, **options: Any
) -> tuple[StreamReader, StreamWriter]:
    """Connect and return ``(reader, writer)``; `options` are those of ``loop.create_connection``.

    Raises:
        OSError: no connection could be made.
    """
    reader, protocol, loop = _client(limit)
    transport, _ = await loop.create_connection(lambda: protocol, host, port, **options)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def open_unix_connection(
    path: Any = None, *, limit: int = _LIMIT, **options: Any
) -> tuple[StreamReader, StreamWriter]:
    """Connect over a Unix socket; `options` are those of ``loop.create_unix_connection``."""
    reader, protocol, loop = _client(limit)
    transport, _ = await loop.create_unix_connection(lambda: protocol, path, **options)
    return reader, StreamWriter(transport, protocol, reader, loop)


async def start_server(
    client_connected_cb: _Connected,
    host: Any = None,
    port: int | str | None = None,
    *,
    limit: int = _LIMIT,
    **options: Any,
) -> asyncio.Server:
    """Serve, calling `client_connected_cb` for each connection; `options` are those of ``loop.create_server``.

    Raises:
        OSError: listening on the address fails.
    """
    factory, loop = _factory(client_connected_cb, limit)
    server: asyncio.Server = await loop.create_server(factory, host, port, **options)
    return server


async def start_unix_server(
    client_connected_cb: _Connected, path: Any = None, *, limit: int = _LIMIT, **options: Any
) -> asyncio.Server:
    """Start a server on a Unix socket; `options` are those of ``loop.create_unix_server``."""
    factory, loop = _factory(client_connected_cb, limit)
    server: asyncio.Server = await loop.create_unix_server(factory, path, **options)
    return server
