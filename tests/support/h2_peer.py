"""An HTTP/2 server over TLS with our own codec. A test reads what its clients did, and sends frames of its own.

`Peer.serve` answers a few paths; anything else a test sends through `Peer.codec`.
"""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from corenet.http.errors import Http2Error
from corenet.http.events import Data, End, Informational, Request, Response
from corenet.http.h2 import SERVER, H2Connection
from corenet.http.h2_events import Drained, StreamReset

__all__ = ["BYTES", "WRITE_AHEAD", "Peer", "Site", "h2_site"]

BYTES = bytes(range(256)) * 256
#: How many octets `Peer.send_more` gives to the codec at a time, also beyond the client's windows.
WRITE_AHEAD = 1 << 18
REFUSED_STREAM = 7


class Peer(asyncio.Protocol):
    """The server's side of one connection."""

    transport: asyncio.Transport

    def __init__(self, site: "Site") -> None:
        self.site = site
        self.codec = H2Connection(SERVER, **site.options)
        self.requests: dict[int, Request] = {}
        self.bodies: dict[int, bytearray] = {}
        # The part of each body that the codec does not have yet.
        self.left: dict[int, memoryview] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.site.peers.append(self)
        self.site.open_connections += 1
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.site.open_connections -= 1

    def flush(self) -> None:
        """Write the output of the codec."""
        data = self.codec.data_to_send()
        if data and not self.transport.is_closing():
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        site = self.site
        try:
            events = self.codec.feed(data, asyncio.get_running_loop().time())
        except Http2Error as error:
            site.errors.append(str(error))
            self.flush()
            self.transport.close()
            return
        site.most_open = max(site.most_open, self.codec.open_streams)
        for stream, event in events:
            if isinstance(event, Request):
                self.requests[stream] = event
                self.bodies[stream] = bytearray()
                site.requests.append(event)
                if site.refuse:
                    site.refuse -= 1
                    self.codec.reset(stream, site.refuse_code)
                elif event.target == b"/duplex":
                    self.codec.send_response(stream, Response(200, []))
                elif event.target == b"/early":
                    self.answer(stream, b"no thanks", 413)
            elif isinstance(event, Data):
                self.codec.acknowledge(stream, len(event.data))
                if self.requests[stream].target == b"/duplex":
                    self.codec.send_data(stream, event.data)
                else:
                    self.bodies[stream] += event.data
            elif isinstance(event, End):
                if self.codec.is_open(stream):
                    self.serve(stream, self.requests[stream], bytes(self.bodies.pop(stream)))
            elif isinstance(event, Drained):
                self.send_more(stream)
            elif isinstance(event, StreamReset):
                self.left.pop(stream, None)
                site.resets.append(event.code)
        self.flush()

    def answer(
        self, stream: int, body: bytes = b"", status: int = 200, fields: list[tuple[bytes, bytes]] | None = None
    ) -> None:
        """Send a whole response."""
        fields = [(b"content-length", b"%d" % len(body)), *(fields or [])]
        self.codec.send_response(stream, Response(status, fields), not body)
        if body:
            self.left[stream] = memoryview(body)
            self.send_more(stream)
        self.flush()

    def send_more(self, stream: int) -> None:
        """Give the codec pieces until one waits for the client's windows."""
        waiting = 0
        while waiting == 0 and stream in self.left:
            piece, rest = self.left[stream][:WRITE_AHEAD], self.left[stream][WRITE_AHEAD:]
            self.left[stream] = rest
            if not rest:
                del self.left[stream]
            waiting = self.codec.send_data(stream, piece, not rest)

    def serve(self, stream: int, request: Request, body: bytes) -> None:
        """Answer by the path."""
        path, _, rest = request.target[1:].partition(b"/")
        if path == b"hang":
            self.site.hanging.append((self, stream))
        elif path == b"size":
            self.answer(stream, (BYTES * (int(rest) // len(BYTES) + 1))[: int(rest)])
        elif path == b"duplex":
            self.codec.send_end(stream)
        elif path == b"echo":
            self.answer(stream, body)
        elif path == b"fields":
            self.answer(stream, repr(request.headers.raw).encode())
        elif path == b"gzip":
            self.answer(stream, gzip.compress(b"squeezed" * 1000), fields=[(b"content-encoding", b"gzip")])
        elif path == b"empty":
            self.codec.send_response(stream, Response(204, []), True)
        elif path == b"redirect":
            self.answer(stream, b"", 302, [(b"location", b"/hello")])
        elif path == b"trailers":
            self.codec.send_response(stream, Informational(103, [(b"link", b"x")]))
            self.codec.send_response(stream, Response(200, []))
            self.codec.send_data(stream, b"checked")
            self.codec.send_end(stream, [(b"sum", b"1")])
        elif request.method == b"HEAD":
            self.codec.send_response(stream, Response(200, [(b"content-length", b"1000")]), True)
        else:
            self.answer(stream, b"hello " + rest)


class Site:
    """The server of one test: what it has received, and how it behaves (`refuse` that many requests)."""

    def __init__(self, **options: int) -> None:
        self.options = options
        self.port = 0
        self.peers: list[Peer] = []
        self.open_connections = 0
        self.requests: list[Request] = []
        self.hanging: list[tuple[Peer, int]] = []
        self.resets: list[int] = []
        self.errors: list[str] = []
        self.most_open = 0
        self.refuse = 0
        self.refuse_code = REFUSED_STREAM

    @property
    def url(self) -> str:
        """The base URL."""
        return f"https://localhost:{self.port}"


@asynccontextmanager
async def h2_site(context: ssl.SSLContext, **options: int) -> AsyncIterator[Site]:
    """A server on a free port within the context."""
    site = Site(**options)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Peer(site), "127.0.0.1", 0, ssl=context)
    site.port = listener.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        listener.close()
        for peer in site.peers:
            peer.transport.abort()
        await listener.wait_closed()
