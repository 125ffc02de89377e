"""A QUIC client for tests of DNS over QUIC, on the library's connection: it sends what a test says, right or wrong."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qh3.quic import events
from qh3.quic.configuration import QuicConfiguration
from qh3.quic.connection import QuicConnection

__all__ = ["QuicPeer", "client_configuration"]


def client_configuration(
    cafile: Path, name: str = "dns.example", alpn: str = "doq", **options: Any
) -> QuicConfiguration:
    """A client's configuration that trusts `cafile`."""
    return QuicConfiguration(
        is_client=True,
        alpn_protocols=[alpn],
        server_name=name,
        cafile=str(cafile),
        verify_mode=ssl.CERT_REQUIRED,
        **options,
    )


class QuicPeer(asyncio.DatagramProtocol):
    """One connection: `events` has what the library reported, `streams` the octets of each stream, `ended` those that
    have ended, `resets` the code of each reset."""

    def __init__(self, configuration: QuicConfiguration) -> None:
        self.quic = QuicConnection(configuration=configuration)
        self.streams: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.established = False
        self.closed: int | None = None
        self.sent = self.received = 0
        self.deaf = False
        self._changed = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: Any = None

    @classmethod
    async def start(cls, server: tuple[Any, ...], configuration: QuicConfiguration, *, wait: bool = True) -> "QuicPeer":
        loop = asyncio.get_running_loop()
        peer = cls(configuration)
        await loop.create_datagram_endpoint(lambda: peer, remote_addr=server[:2])
        peer.quic.connect(server[:2], loop.time())
        peer.flush()
        if wait:
            await peer.until(lambda: peer.established or peer.closed is not None)
        return peer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.server = transport.get_extra_info("peername")[:2]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received += len(data)
        if self.deaf:
            return
        self.quic.receive_datagram(data, self.server, asyncio.get_running_loop().time())
        self.flush()

    def error_received(self, exc: Exception) -> None:
        pass  # the server is gone; the test sees that by what does not come

    def flush(self) -> None:
        """Look at what has come, and send what is due."""
        loop = asyncio.get_running_loop()
        while (event := self.quic.next_event()) is not None:
            self._note(event)
        for data, _ in self.quic.datagrams_to_send(loop.time()):
            self.sent += len(data)
            self._transport.sendto(data)
        if self._timer is not None:
            self._timer.cancel()
        when = self.quic.get_timer()
        self._timer = loop.call_at(when, self._expire) if when is not None and self.closed is None else None
        self._changed.set()

    def _note(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.HandshakeCompleted):
            self.established = True
        elif isinstance(event, events.ConnectionTerminated):
            self.closed = event.error_code
        elif isinstance(event, events.StreamReset):
            self.resets[event.stream_id] = event.error_code
        elif isinstance(event, events.StreamDataReceived):
            self.streams[event.stream_id] = self.streams.get(event.stream_id, b"") + event.data
            if event.end_stream:
                self.ended.add(event.stream_id)

    def _expire(self) -> None:
        self.quic.handle_timer(asyncio.get_running_loop().time())
        self.flush()

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    # --- what a client does --------------------------------------------------------------------------------------

    def send(self, data: bytes, *, end: bool = True, stream: int | None = None) -> int:
        """Send octets on a new stream, or on `stream`; return the stream."""
        if stream is None:
            stream = self.quic.get_next_available_stream_id()
        self.quic.send_stream_data(stream, data, end)
        self.flush()
        return stream

    def query(self, message: bytes) -> int:
        """Send a message as RFC 9250 wants it; return the stream."""
        return self.send(len(message).to_bytes(2, "big") + message)

    async def reply(self, stream: int) -> bytes:
        """The message that `stream` brings."""
        await self.until(lambda: stream in self.ended or self.closed is not None)
        data = self.streams[stream]
        assert int.from_bytes(data[:2], "big") == len(data) - 2
        return data[2:]

    async def ask(self, message: bytes) -> bytes:
        """The reply to `message`."""
        return await self.reply(self.query(message))

    async def end(self) -> int:
        """The code with which the server has closed the connection."""
        await self.until(lambda: self.closed is not None)
        assert self.closed is not None
        return self.closed

    def close(self) -> None:
        """End the connection and release the socket."""
        if self.closed is None:
            self.quic.close(0)
            self.flush()
        if self._timer is not None:
            self._timer.cancel()
        self._transport.close()
