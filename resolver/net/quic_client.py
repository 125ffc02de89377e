"""The client's side of a QUIC connection for DNS (RFC 9250), for `rdig` and for upstream queries.

The library `qh3` speaks QUIC and checks the chain and the name of the certificate; pins are checked here. A subclass
gets these callbacks: `established`, then `received` and `was_reset` for streams, and at last `ended`, once, unless it
ended the connection itself. Without the extra `quic`, `configuration` raises.
"""

import asyncio
import base64
import hashlib
import importlib.util
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from corenet.tls.der import subject_public_key_info
from resolver import limits
from resolver.net import doq
from resolver.net.quic_tickets import Tickets
from resolver.upstream_address import Encryption

if TYPE_CHECKING:
    from qh3.quic.configuration import QuicConfiguration

__all__ = ["MISSING", "QuicSession", "QuicUnavailableError", "configuration", "is_installed"]

MISSING = "QUIC needs qh3, which is not installed; run: pip install 'corenet-resolver[quic]'"
CERT_NONE, CERT_REQUIRED = 0, 2  # of the module ssl, which the library uses


class QuicUnavailableError(OSError):
    """The connection cannot be used; the text is the reason."""


def is_installed() -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec("qh3") is not None


def configuration(encryption: Encryption, address: str, authorities: bytes) -> "QuicConfiguration":
    """The configuration for a server at `address`. With a name, chain and name are verified; without, only the pins.

    `authorities` are certificates in PEM. Without them the library would read the system's for each connection.

    Raises:
        QuicUnavailableError: the library is not installed.
    """
    if not is_installed():
        raise QuicUnavailableError(MISSING)
    from qh3.quic.configuration import QuicConfiguration

    logging.getLogger("quic").setLevel(logging.CRITICAL)  # each closed connection would be a warning
    return QuicConfiguration(
        is_client=True,
        alpn_protocols=[doq.ALPN],
        server_name=encryption.name or address,
        cadata=authorities,
        verify_mode=CERT_REQUIRED if encryption.name else CERT_NONE,
        max_data=limits.QUIC_UPSTREAM_WINDOW,
        max_stream_data=limits.QUIC_WINDOW,
        max_datagram_size=limits.QUIC_DATAGRAM,
    )


class QuicSession(asyncio.DatagramProtocol):
    """One connection; the protocol of a connected UDP socket."""

    def __init__(
        self, configured: "QuicConfiguration", pins: tuple[str, ...] = (), tickets: Tickets | None = None
    ) -> None:
        """`tickets` has the session to resume, and takes new ones; None: the handshake is a full one."""
        self._configured = configured
        self._pins = pins
        self._tickets = tickets
        self._certificate: dict[str, object] = {}
        self.resumed = False
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._quic: Any = None
        self._transport: Any = None
        self._server: tuple[str, int] = ("", 0)
        self._secured = False
        self._over = False

    # --- what subclasses define ------------------------------------------------------------------------------------

    def established(self) -> None:
        """The handshake is complete, and the server is authenticated."""

    def received(self, stream: int, data: bytes, end: bool) -> None:
        """Octets of `stream`; `end`: nothing follows."""

    def was_reset(self, stream: int, code: int) -> None:
        """The server has ended `stream` without a reply."""

    def ended(self, reason: str) -> None:
        """The connection has ended, or was never established."""

    # --- what they call --------------------------------------------------------------------------------------------

    def open_stream(self, message: bytes) -> int:
        """Send a message on a new stream; returns the stream.

        Raises:
            ValueError: the server permits no further stream now, or has ended the connection, and `ended` follows.
        """
        from qh3.quic.connection import QuicConnectionError

        stream: int = self._quic.get_next_available_stream_id()
        try:
            self._quic.send_stream_data(stream, doq.frame(message), True)
        except QuicConnectionError as error:
            raise ValueError(str(error)) from None
        self._pump()
        return stream

    def cancel_stream(self, stream: int) -> None:
        """The reply of `stream` is not wanted any more (RFC 9250 section 4.3.1)."""
        from qh3.quic.connection import QuicConnectionError

        if self._over:
            return
        try:
            self._quic.stop_stream(stream, doq.REQUEST_CANCELLED)
        except (ValueError, QuicConnectionError):
            return  # the library has all of the reply, or the end of the connection, and an event about it follows
        self._pump()

    def close(self, code: int = doq.NO_ERROR) -> None:
        """Tell the server that the connection ends, and release the socket. A second call does nothing."""
        if self._over:
            return
        self._over = True
        if self._quic is not None:
            self._quic.close(code)
            self._transmit()
        self._release()

    def describe(self) -> dict[str, object]:
        """The connection as a dictionary for `resolver.explain.formats.connection`; it must be established."""
        cipher = self._quic.get_cipher()
        return {
            "version": "QUIC 1, TLSv1.3",
            "cipher": "TLS_" + cipher.name if cipher is not None else "",
            "alpn": doq.ALPN,
            "resumed": self.resumed,
            **self._certificate,
        }

    # --- asyncio.DatagramProtocol --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        from qh3.quic.connection import QuicConnection

        self._transport = transport
        host, port, *_ = transport.get_extra_info("peername")
        self._server = host.partition("%")[0], port
        tickets = self._tickets
        if tickets is not None:
            self._configured.session_ticket = tickets.offer()
        self._quic = QuicConnection(
            configuration=self._configured, session_ticket_handler=None if tickets is None else tickets.take
        )
        self._guard(self._quic.connect, self._server, self._loop.time())
        self._pump()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if not self._over:
            self._guard(self._quic.receive_datagram, data, self._server, self._loop.time())
            self._pump()

    def error_received(self, exc: Exception) -> None:
        """ICMP: the port is closed, or there is no route. An established connection is not ended by what may be
        forged."""
        if not self._secured:
            self._end(str(exc.strerror or exc).lower() if isinstance(exc, OSError) else str(exc))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end("the socket was closed" if exc is None else str(exc))

    # --- inside --------------------------------------------------------------------------------------------------

    def _guard(self, call: Any, *arguments: Any) -> Any:
        """The result of a call of the library; whatever it raises ends this connection: None."""
        try:
            return call(*arguments)
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:  # noqa: BLE001  a panic of the native part has no type with a public name
            self._end(f"error of qh3: {error!r}")
            return None

    def _pump(self) -> None:
        """Process received events, send what is due, and set the timer."""
        while not self._over and (event := self._guard(self._quic.next_event)) is not None:
            self._on_event(event)
        if self._over:
            return
        self._transmit()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self._guard(self._quic.get_timer)
        if when is not None and not self._over:
            self._timer = self._loop.call_at(when, self._expire)

    def _transmit(self) -> None:
        for data, _ in self._guard(self._quic.datagrams_to_send, self._loop.time()) or ():
            self._transport.sendto(data)

    def _expire(self) -> None:
        self._timer = None
        self._guard(self._quic.handle_timer, self._loop.time())
        self._pump()

    def _on_event(self, event: Any) -> None:
        from qh3.quic import events

        if isinstance(event, events.HandshakeCompleted):
            self._secured = True
            self.resumed = event.session_resumed
            if event.alpn_protocol != doq.ALPN:
                self._refuse("the server does not speak DNS over QUIC (ALPN doq)")
            elif self.resumed:
                # There is no certificate. The full handshake of the session had the same checks (`Tickets`).
                assert self._tickets is not None
                self._certificate = self._tickets.resumed()
                self.established()
            else:
                self._check_certificate()
        elif isinstance(event, events.StreamDataReceived):
            self.received(event.stream_id, event.data, event.end_stream)
        elif isinstance(event, events.StreamReset):
            self.was_reset(event.stream_id, event.error_code)
        elif isinstance(event, events.ConnectionTerminated):
            reason = event.reason_phrase[:limits.EDE_TEXT] or doq.code_name(event.error_code)
            if not self._secured and "certificate" in reason:
                reason += f"; it must be valid for {self._configured.server_name}"
            self._end(reason)

    def _check_certificate(self) -> None:
        """The library has checked chain and name; check the pins."""
        certificate = self._quic.get_peercert()
        pin = base64.b64encode(hashlib.sha256(subject_public_key_info(certificate.public_bytes())).digest()).decode()
        if self._pins and pin not in self._pins:
            self._refuse("the key of the certificate is none of the pinned ones")
            return
        verified = self._configured.verify_mode == CERT_REQUIRED
        until = datetime.fromtimestamp(certificate.not_valid_after, UTC)
        self._certificate = {
            "subject": _common_name(certificate.subject) if verified else "",
            "issuer": _common_name(certificate.issuer),
            "not_after": f"{until:%b %d %H:%M:%S %Y} GMT",
            "pin": pin,
        }
        if self._tickets is not None:
            self._tickets.authenticated(self._certificate, certificate.not_valid_after)
        self.established()

    def _refuse(self, reason: str) -> None:
        self._guard(self._quic.close, doq.NO_ERROR)
        self._transmit()
        self._end(reason)

    def _end(self, reason: str) -> None:
        if self._over:
            return
        self._over = True
        if self._tickets is not None and not self._secured:
            self._tickets.failed()
        self._release()
        self.ended(reason)

    def _release(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            self._transport.close()


def _common_name(fields: "list[tuple[str, str, bytes]]") -> str:
    """The last field of a name: by custom its most specific one."""
    return fields[-1][2].decode("utf-8", "replace") if fields else ""
