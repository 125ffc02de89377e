"""The web server of the playground: one small HTTPS site at an address that the playground resolves.

The HTTP/1.1 codec and the TLS context are those of corenet; this module creates the responses. The site is
served at its simulated address on port 443, or on a high port if 443 is not available; its URL shows the port.
"""

import asyncio
import errno
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from corenet.http.errors import RemoteProtocolError
from corenet.http.events import Data, End, Request, Response
from corenet.http.h1 import H1Codec
from corenet.tls import server_context
from resolver.limits import PLAYGROUND_TCP_IDLE, PLAYGROUND_TCP_QUERIES, PLAYGROUND_WEB_PORT
from resolver.playground.certs import make_identity

if TYPE_CHECKING:
    import ssl

__all__ = ["Site", "WebServer", "start_web"]

HTTPS_PORT = 443
TEXT = b"text/plain; charset=utf-8"


class WebServer:
    """A running site: its URL, its port, and the PEM file with the CA certificate for clients."""

    def __init__(
        self,
        url: str,
        port: int,
        authority_file: Path,
        server: asyncio.Server,
        transports: set[asyncio.Transport],
        temporary_ca: Path | None,
    ) -> None:
        self.url = url
        self.port = port
        self.authority_file = authority_file
        self._server = server
        self._transports = transports
        self._temporary_ca = temporary_ca

    async def close(self) -> None:
        """Stop serving, close connections, and remove the CA file if it is temporary."""
        self._server.close()
        for transport in list(self._transports):
            transport.abort()
        await self._server.wait_closed()
        if self._temporary_ca is not None:
            self._temporary_ca.unlink(missing_ok=True)
            self._temporary_ca = None


async def start_web(host: str, address: str, *, port: int | None = None, ca: Path | None = None) -> WebServer:
    """Serve the site of `host` at `address`; the CA certificate is written to `ca`.

    Without `ca`, it is written to a temporary file, which `WebServer.close` removes. Without `port`, 443 is tried
    first, then PLAYGROUND_WEB_PORT; port 0 takes a free one.

    Raises:
        OSError: no port is available or a file cannot be written.
    """
    identity = make_identity(host, (address,))
    with tempfile.TemporaryDirectory(prefix="playground-") as folder:
        chain, key = Path(folder, "chain.pem"), Path(folder, "key.pem")
        chain.write_bytes(identity.certificate)
        key.write_bytes(identity.key)
        context = server_context(chain, key)
    temporary = ca is None
    if ca is None:
        with tempfile.NamedTemporaryFile(prefix="playground-ca-", suffix=".pem", delete=False) as file:
            ca = Path(file.name)
    try:
        ca.write_bytes(identity.authority)
        return await _listen(host, address, port, context, ca, temporary=temporary)
    except BaseException:
        if temporary:
            ca.unlink(missing_ok=True)
        raise


async def _listen(
    host: str, address: str, port: int | None, context: "ssl.SSLContext", ca: Path, *, temporary: bool
) -> WebServer:
    site, transports = Site(host), set[asyncio.Transport]()
    loop = asyncio.get_running_loop()
    candidates = [HTTPS_PORT, PLAYGROUND_WEB_PORT] if port is None else [port]
    for candidate in candidates:
        try:
            server = await loop.create_server(partial(_Connection, site, transports), address, candidate, ssl=context)
        except OSError as error:
            if candidate == candidates[-1] or error.errno not in (errno.EACCES, errno.EADDRINUSE):
                raise
        else:
            break
    bound_port = server.sockets[0].getsockname()[1]
    name = host.rstrip(".")
    url = f"https://{name}/" if bound_port == HTTPS_PORT else f"https://{name}:{bound_port}/"
    return WebServer(url, bound_port, ca, server, transports, ca if temporary else None)


@dataclass(frozen=True, slots=True)
class Site:
    """The responses of the site, as a pure function of the request."""

    host: str

    def respond(self, request: Request) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """Status, fields and body for one request."""
        if request.method not in (b"GET", b"HEAD"):
            return 405, [(b"allow", b"GET, HEAD"), (b"content-type", TEXT)], b"only GET and HEAD\n"
        path = request.target.split(b"?", 1)[0]
        if path == b"/":
            greeting = f"Welcome to {self.host.rstrip('.')}: root, registry, zone and web server are one process.\n"
            return 200, [(b"content-type", TEXT)], greeting.encode()
        if path == b"/headers":
            body = b"".join(name + b": " + value + b"\n" for name, value in request.headers.raw)
            return 200, [(b"content-type", TEXT)], body
        if path == b"/redirect":
            return 302, [(b"location", b"/"), (b"content-type", TEXT)], b"the front page is elsewhere\n"
        return 404, [(b"content-type", TEXT)], b"no such page\n"


class _Connection(asyncio.Protocol):
    """One connection: sequential or pipelined requests. Aborted PLAYGROUND_TCP_IDLE seconds after its last
    response, or after it was opened."""

    def __init__(self, site: Site, transports: set[asyncio.Transport]) -> None:
        self._site = site
        self._transports = transports
        self._codec = H1Codec(server=True)
        self._request: Request | None = None
        self._served = 0
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._idle = self._loop.call_later(PLAYGROUND_TCP_IDLE, self._expire)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._transports.add(transport)  # type: ignore[arg-type]

    def connection_lost(self, exc: Exception | None) -> None:
        self._idle.cancel()
        if self._transport is not None:
            self._transports.discard(self._transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        pending: bytes | None = data
        while pending is not None:
            try:
                events = self._codec.feed(pending)
            except RemoteProtocolError:
                self._transport.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                self._transport.close()
                return
            pending = None
            for event in events:
                if isinstance(event, Request):
                    self._request = event
                elif isinstance(event, End):
                    self._reply()
                    if self._transport.is_closing():
                        return
                    pending = b""  # feed again, because the codec may hold a pipelined request

    def _reply(self) -> None:
        assert self._transport is not None and self._request is not None
        status, fields, body = self._site.respond(self._request)
        fields.append((b"content-length", str(len(body)).encode()))
        self._served += 1
        last = self._served >= PLAYGROUND_TCP_QUERIES
        if last:
            fields.append((b"connection", b"close"))
        self._transport.write(self._codec.send(Response(status, fields)))
        if self._request.method != b"HEAD":
            self._transport.write(self._codec.send(Data(body)))
        self._transport.write(self._codec.send(End()))
        if last or not self._codec.reusable:
            self._transport.close()
        else:
            self._codec.next_cycle()
            self._idle.cancel()
            self._idle = self._loop.call_later(PLAYGROUND_TCP_IDLE, self._expire)

    def _expire(self) -> None:
        if self._transport is not None:
            self._transport.abort()
