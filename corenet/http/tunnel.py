"""Opens a tunnel through a proxy: TLS to the proxy where it wants that, then CONNECT or SOCKS5.

The proxy's bytes are read by a `ProxyStream` until the tunnel is established. Everything it may send is limited: the
response to CONNECT by the limits of a response head, SOCKS5 by its format. A byte beyond that ends the connection,
because in neither TLS nor HTTP does the server send first. The response of a proxy that refuses is never taken for the
origin's: it becomes a `ProxyError`, and its body is not read.
"""

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any, cast

from corenet import tls
from corenet.http.errors import ProxyError, RemoteProtocolError
from corenet.http.events import Informational, Response
from corenet.http.h1 import CLIENT, H1Codec
from corenet.http.proxies import HTTP, Proxy
from corenet.http.socks5 import Socks5Handshake
from corenet.limits import HTTP_CLOSE_TIMEOUT
from corenet.tls.default import prepared_context

if TYPE_CHECKING:
    import ssl

__all__ = ["ProxyStream", "open_tunnel", "proxy_context"]


class ProxyStream(asyncio.Protocol):
    """The connection to the proxy until the tunnel is established: bytes out, bytes in. At most one read of it is
    kept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.lost: asyncio.Future[None] | None = None
        self._waiter: asyncio.Future[bytes] | None = None
        self._early = b""
        self._ended = False
        self._handed_over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.lost = self.loop.create_future()

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None  # connection_made came first
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(data)
        else:
            # No task waits yet. At most one read is kept, because reading stops now.
            self._early += data
            self.transport.pause_reading()

    def eof_received(self) -> bool | None:
        self._end()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._end()
        if self.lost is not None and not self.lost.done():
            self.lost.set_result(None)

    def _end(self) -> None:
        self._ended = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(b"")

    def send(self, data: bytes) -> None:
        """Send bytes; empty ones are nothing."""
        assert self.transport is not None
        if data:
            self.transport.write(data)

    async def receive(self) -> bytes:
        """The next bytes of the proxy.

        Raises:
            ProxyError: it has closed the connection.
        """
        assert self.transport is not None
        if self._early:
            data, self._early = self._early, b""
            self.transport.resume_reading()
            return data
        if not self._ended:
            self._waiter = self.loop.create_future()
            try:
                data = await self._waiter
            finally:
                self._waiter = None
            if data:
                return data
        raise ProxyError("the proxy closed the connection before the tunnel was open")

    def hand_over(self, protocol: asyncio.BaseProtocol) -> None:
        """Pass the transport to the protocol of the origin without TLS.

        Raises:
            ProxyError: the tunnel is not as it was left.
        """
        self._check_ready()
        assert self.transport is not None
        self._handed_over = True
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)

    async def start_tls(self, protocol: asyncio.BaseProtocol, context: "ssl.SSLContext", options: Any) -> None:
        """Start TLS with the origin in the tunnel and connect `protocol`.

        Raises:
            OSError: the handshake failed.
            ProxyError: the tunnel is not as it was left.
        """
        self._check_ready()
        assert self.transport is not None
        self._handed_over = True
        upgraded = await self.loop.start_tls(self.transport, protocol, context, **options)
        if upgraded is None:
            raise ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
        protocol.connection_made(upgraded)

    async def discard(self) -> None:
        """Close the connection, and wait until its descriptor is closed, so that the limits of the pool hold."""
        if self.transport is None or self.lost is None:
            return
        self.transport.abort()
        if not self._handed_over:
            await asyncio.wait((self.lost,), timeout=HTTP_CLOSE_TIMEOUT)
        else:
            # There is no notification. The transports close their descriptor in the iteration after `abort`.
            for _ in range(2):
                await asyncio.sleep(0)

    def _check_ready(self) -> None:
        """Raises ProxyError when the proxy has sent bytes after its answer, or has closed the connection.

        A handshake on a transport that is closed already would wait for its time-out.
        """
        if self._ended or self.transport is None or self.transport.is_closing():
            raise ProxyError("the proxy closed the tunnel before it was used")
        if self._early:
            raise ProxyError("the proxy has sent bytes before the tunnel was used")


async def proxy_context(proxy: Proxy) -> "ssl.SSLContext":
    """The context for TLS with the proxy itself. It does not offer HTTP/2."""
    return proxy.tls_context if proxy.tls_context is not None else await prepared_context(tls.client_context)


async def open_tunnel(stream: ProxyStream, proxy: Proxy, host: str, port: int, max_head: int | None) -> None:
    """Request a tunnel to `host` and `port` from the proxy, and wait until it is established.

    Raises:
        ProxyError: the proxy refuses, or sends something else than an answer.
    """
    if proxy.kind == HTTP:
        await _connect(stream, proxy, host, port, max_head)
    else:
        handshake = Socks5Handshake(host, port, proxy.credentials)
        stream.send(handshake.start())
        while not handshake.done:
            stream.send(handshake.feed(await stream.receive()))


async def _connect(stream: ProxyStream, proxy: Proxy, host: str, port: int, max_head: int | None) -> None:
    """CONNECT (RFC 9110 section 9.3.6)."""
    target = f"[{host}]:{port}".encode("ascii") if ":" in host else f"{host}:{port}".encode("ascii")
    codec = H1Codec(CLIENT, max_head=max_head)
    stream.send(codec.send_request(b"CONNECT", target, [(b"Host", target), *proxy.authorization], -1))
    while True:
        try:
            events = codec.feed(await stream.receive())
        except RemoteProtocolError as error:
            raise ProxyError(f"the proxy's response to CONNECT: {error}") from error
        for event in events:
            if isinstance(event, Response) and not isinstance(event, Informational):
                if not 200 <= event.status < 300:
                    reason = event.reason.decode("latin-1")
                    raise ProxyError(f"the proxy refused the tunnel: {event.status} {reason}".rstrip(), event.status)
                if codec.unexpected_data:
                    raise ProxyError("the proxy has sent bytes before the tunnel was used")
                return
