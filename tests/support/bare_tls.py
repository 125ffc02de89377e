"""A peer on a bare socket, with TLS or without, controlled step by step by the test.

The test decides which bytes share a segment and how the stream ends, which no transport allows.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from typing import Any

__all__ = ["BarePeer", "tcp_pair"]


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a TCP connection, both non-blocking."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        here = socket.create_connection(listener.getsockname())
        there, _ = listener.accept()
    here.setblocking(False)
    there.setblocking(False)
    # What a test sends is there when `send` returns, and not when what was sent before is acknowledged.
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return here, there


class BarePeer:
    """A socket, and the server's side of TLS on it when there is a context."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext | None = None) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls: Any = None if context is None else context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    async def handshake(self) -> None:
        """Be the server of a handshake."""
        if self.tls is None:
            return
        loop = asyncio.get_running_loop()
        done = False
        while not done:
            try:
                self.tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                pass
            await loop.sock_sendall(self.sock, self.outgoing.read())
            if not done:
                data = await loop.sock_recv(self.sock, 65536)
                assert data, "the client has ended the connection"
                self.incoming.write(data)

    def sealed(self, data: bytes, close_notify: bool = False) -> bytes:
        """What goes over the wire for `data`, with close_notify behind it or without."""
        if self.tls is None:
            return data
        while data:
            data = data[self.tls.write(data) :]
        if close_notify:
            # It is said at once; what is missing, or in the way, is the client's own.
            with contextlib.suppress(ssl.SSLError):
                self.tls.unwrap()
        return self.outgoing.read()

    def send(self, data: bytes, close_notify: bool = False) -> None:
        """Send at once, as one segment if it is not too long."""
        wire = self.sealed(data, close_notify)
        assert self.sock.send(wire) == len(wire)

    def end(self) -> None:
        """Send no more."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Leave with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        """Leave."""
        self.sock.close()
