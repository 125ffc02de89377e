"""``loop.start_tls``: upgrade a plaintext connection to TLS.

The transport below is paused until its new protocol is connected, so that no ciphertext reaches the old protocol and
none is lost. Bytes that are still unread in a stream reader become the beginning of the handshake, because a client may
send its ClientHello in one segment with its last plaintext, and because plaintext that an attacker has injected must
not be read as if it had been encrypted. Exception: on the client side, a reader of asyncio's own class keeps these
bytes, as in asyncio; such a program must check that nothing is unread before it upgrades.
"""

import asyncio
import ssl
from typing import Any

from corenet.tls.transport import TlsTransport, make_tls
from corenet.transports.reader import ReaderCore

__all__ = ["start_tls"]


async def start_tls(
    loop: Any,
    transport: Any,
    protocol: asyncio.BaseProtocol,
    sslcontext: ssl.SSLContext,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
) -> TlsTransport | None:
    """Return a TLS transport over `transport`, for `protocol` to use from now on; its connection_made is not called.

    As in asyncio, None is returned when `transport` was already closing without an error.

    Raises:
        TypeError: when `sslcontext` is not a context or `transport` cannot be upgraded.
        ssl.SSLError: when the handshake failed; the connection is closed then.
    """
    if not isinstance(sslcontext, ssl.SSLContext):
        raise TypeError(f"sslcontext is expected to be an instance of ssl.SSLContext, got {sslcontext!r}")
    if not getattr(transport, "_start_tls_compatible", False):
        raise TypeError(f"transport {transport!r} is not supported by start_tls()")
    was_closing = transport.is_closing()
    waiter = loop.create_future()
    tls = make_tls(
        loop,
        protocol,
        sslcontext,
        waiter,
        server_side=server_side,
        server_hostname=server_hostname,
        call_connection_made=False,
        ssl_handshake_timeout=ssl_handshake_timeout,
        ssl_shutdown_timeout=ssl_shutdown_timeout,
    )
    transport.pause_reading()
    early_bytes = take_unread(protocol, server_side)
    if early_bytes:
        tls.data_received(early_bytes)
    transport.set_protocol(tls)
    made = loop.call_soon(tls.connection_made, transport)
    resumed = loop.call_soon(transport.resume_reading)
    try:
        await waiter
    except BaseException as error:
        transport.close()
        made.cancel()
        resumed.cancel()
        # The error's traceback refers to this frame, and the waiter to the error: break that reference cycle.
        del waiter
        if was_closing and isinstance(error, ConnectionAbortedError):
            return None
        raise
    return tls


def take_unread(protocol: asyncio.BaseProtocol, server_side: bool) -> bytes:
    """Remove and return the unread bytes of the stream reader of `protocol`; ``b""`` if it keeps them."""
    reader: Any = getattr(protocol, "_stream_reader", None)
    if isinstance(reader, ReaderCore):
        return reader._take_unread()
    early_bytes = b""
    if isinstance(protocol, asyncio.StreamReaderProtocol) and reader is not None:
        if server_side:
            early_bytes = bytes(reader._buffer)
            reader._buffer.clear()
        # `start_tls` resumes the transport that the reader may have paused. With `_paused` still set, the reader would
        # never pause it again, and its buffer would grow without bound.
        reader._paused = False
    return early_bytes
