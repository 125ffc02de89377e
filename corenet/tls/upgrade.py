"""Putting TLS on a connection that has spoken plainly so far, as ``loop.start_tls`` does.

The transport below is paused until its new protocol was told of it, so that no ciphertext reaches the old protocol and
none is lost.
"""

import asyncio
import ssl
from typing import Any

from corenet.tls.transport import TlsTransport, make_tls

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

    As in asyncio, None is returned when `transport` was being closed already, on purpose and not by an error.

    Raises:
        TypeError: when `sslcontext` is no context or `transport` cannot be upgraded.
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
    transport.set_protocol(tls)
    made = loop.call_soon(tls.connection_made, transport)
    resumed = loop.call_soon(transport.resume_reading)
    try:
        await waiter
    except BaseException as error:
        transport.close()
        made.cancel()
        resumed.cancel()
        if was_closing and isinstance(error, ConnectionAbortedError):
            return None
        raise
    return tls
