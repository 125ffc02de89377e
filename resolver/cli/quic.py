"""One query to one server over QUIC (RFC 9250), for `rdig @server +quic`.

The library `qh3` speaks QUIC and checks the chain and the name of the certificate; pins are checked here. The query is
sent when both have been checked, and a failure is never answered by a query over another transport.
"""

import asyncio
import base64
import hashlib
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from corenet.tls.der import subject_public_key_info
from resolver.cli.query import Exchange, NoReplyError, mismatch, system_words
from resolver.net import doq
from resolver.wire.message import MessageView

if TYPE_CHECKING:
    from qh3.quic.configuration import QuicConfiguration

    from resolver.upstream_address import Encryption

__all__ = ["exchange_quic"]

CERT_NONE, CERT_REQUIRED = 0, 2  # of the module ssl, which the library uses
MISSING = "+quic needs qh3, which is not installed; run: pip install 'corenet-resolver[quic]'"


async def exchange_quic(
    packet: bytes, host: str, port: int, encryption: "Encryption", *, cafile: str, timeout: float
) -> Exchange:
    """Send `packet`, whose id becomes 0, to `host`; `timeout` (seconds) is for everything together.

    Raises:
        NoReplyError: there is no usable reply; the message says why.
    """
    try:
        from qh3.quic.configuration import QuicConfiguration
    except ImportError:
        raise NoReplyError(MISSING) from None
    logging.getLogger("quic").setLevel(logging.CRITICAL)  # each closed connection would be a warning
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=[doq.ALPN],
        server_name=encryption.name or host,
        cafile=cafile or None,
        verify_mode=CERT_REQUIRED if encryption.name else CERT_NONE,
    )
    packet = b"\0\0" + packet[2:]  # RFC 9250 section 4.2.1
    try:
        async with asyncio.timeout(timeout):
            return await _exchange(packet, host, port, configuration, encryption.pins)
    except TimeoutError:
        raise NoReplyError(f"no reply from {host} port {port} over QUIC within {timeout:g} s") from None
    except NoReplyError as error:
        raise NoReplyError(f"{host} port {port} over QUIC: {error}") from None
    except OSError as error:
        raise NoReplyError(f"{host} port {port} over QUIC: {system_words(error)}") from None


async def _exchange(
    packet: bytes, host: str, port: int, configuration: "QuicConfiguration", pins: tuple[str, ...]
) -> Exchange:
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    transport, client = await loop.create_datagram_endpoint(
        lambda: _Connection(configuration, packet, pins), remote_addr=(host, port)
    )
    try:
        data = await client.reply
        ended = time.monotonic()
        shown = client.describe() | {"connect_seconds": client.established - began}
        client.close()
    finally:
        client.stop()
        transport.close()
    view, reason = mismatch(MessageView.parse(packet), data)
    if view is None:
        raise NoReplyError(reason)
    return Exchange(view, len(data), "quic", (ended - began) * 1000, connection=shown)


class _Connection(asyncio.DatagramProtocol):
    """A connection for one query; `reply` is its outcome."""

    def __init__(self, configuration: "QuicConfiguration", packet: bytes, pins: tuple[str, ...]) -> None:
        self._configuration = configuration
        self._packet = packet
        self._pins = pins
        self._loop = asyncio.get_running_loop()
        self._reader = doq.MessageReader()
        self._timer: asyncio.TimerHandle | None = None
        self._quic: Any = None
        self._transport: Any = None
        self._server: tuple[str, int] = ("", 0)
        self.reply: asyncio.Future[bytes] = self._loop.create_future()
        self.established = 0.0

    # --- asyncio.DatagramProtocol --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        from qh3.quic.connection import QuicConnection

        self._transport = transport
        host, port, *_ = transport.get_extra_info("peername")
        self._server = host.partition("%")[0], port
        self._quic = QuicConnection(configuration=replace(self._configuration))
        self._quic.connect(self._server, self._loop.time())
        self._advance()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._quic.receive_datagram(data, self._server, self._loop.time())
        self._advance()

    def error_received(self, exc: Exception) -> None:
        self._fail(system_words(exc) if isinstance(exc, OSError) else str(exc))

    # --- QUIC ----------------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Look at what has come, send what is due, and set the timer."""
        from qh3.quic import events

        while (event := self._quic.next_event()) is not None:
            if isinstance(event, events.HandshakeCompleted):
                self._on_handshake()
            elif isinstance(event, events.StreamDataReceived):
                self._on_data(event.data, event.end_stream)
            elif isinstance(event, events.StreamReset):
                self._fail(f"the server has reset the stream: {_code(event.error_code)}")
            elif isinstance(event, events.ConnectionTerminated):
                reason = event.reason_phrase or _code(event.error_code)
                name = self._configuration.server_name
                if not self.established and "certificate" in reason:
                    reason += f"; it must be valid for {name}"
                self._fail(f"the connection was ended: {reason}")
        for data, _ in self._quic.datagrams_to_send(self._loop.time()):
            self._transport.sendto(data)
        self.stop()
        when = self._quic.get_timer()
        if when is not None and not self.reply.done():
            self._timer = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        self._quic.handle_timer(self._loop.time())
        self._advance()

    def _on_handshake(self) -> None:
        self.established = time.monotonic()
        if self._pins and self._pin() not in self._pins:
            self._quic.close(doq.NO_ERROR)
            self._fail("the key of the certificate is none of the pinned ones (+tls-pin)")
            return
        stream = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(stream, doq.frame(self._packet), True)

    def _on_data(self, data: bytes, end: bool) -> None:
        try:
            message = self._reader.feed(data, end)
        except doq.ProtocolError as error:
            self._quic.close(doq.PROTOCOL_ERROR)
            self._fail(f"the server broke the protocol: {error}")
            return
        if message is not None and not self.reply.done():
            self.reply.set_result(message)

    def _fail(self, reason: str) -> None:
        if not self.reply.done():
            self.reply.set_exception(NoReplyError(reason))

    def close(self) -> None:
        """Tell the server that no query follows."""
        self._quic.close(doq.NO_ERROR)
        for data, _ in self._quic.datagrams_to_send(self._loop.time()):
            self._transport.sendto(data)

    def stop(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pin(self) -> str:
        encoded = self._quic.get_peercert().public_bytes()
        return base64.b64encode(hashlib.sha256(subject_public_key_info(encoded)).digest()).decode("ascii")

    def describe(self) -> dict[str, object]:
        """The connection in the words of `resolver.explain.words.connection`."""
        certificate, cipher = self._quic.get_peercert(), self._quic.get_cipher()
        verified = self._configuration.verify_mode == CERT_REQUIRED
        until = datetime.fromtimestamp(certificate.not_valid_after, UTC)
        return {
            "version": "QUIC 1, TLSv1.3",
            "cipher": "TLS_" + cipher.name if cipher is not None else "",
            "alpn": doq.ALPN,
            "resumed": False,
            "subject": _common_name(certificate.subject) if verified else "",
            "issuer": _common_name(certificate.issuer),
            "not_after": f"{until:%b %d %H:%M:%S %Y} GMT",
            "pin": self._pin(),
        }


def _common_name(fields: "list[tuple[str, str, bytes]]") -> str:
    """The last field of a name: by custom its most specific one."""
    return fields[-1][2].decode("utf-8", "replace") if fields else ""


def _code(code: int) -> str:
    return doq.CODES[code] if code < len(doq.CODES) else f"error {code:#x}"
