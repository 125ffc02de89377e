"""One query to one server over QUIC (RFC 9250), for `rdig @server +quic`.

The query is sent when the server is authenticated, and a failure is never answered by a query over another transport.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from resolver.cli.query import Exchange, NoReplyError, mismatch, system_words
from resolver.net import doq
from resolver.net.client_contexts import TlsContexts
from resolver.net.quic_client import QuicSession, QuicUnavailableError, configuration
from resolver.wire.message import MessageView

if TYPE_CHECKING:
    from qh3.quic.configuration import QuicConfiguration

    from resolver.upstream_address import Encryption

__all__ = ["exchange_quic"]


async def exchange_quic(
    packet: bytes, host: str, port: int, encryption: "Encryption", *, cafile: str, timeout: float
) -> Exchange:
    """Send `packet`, whose id becomes 0, to `host`; `timeout` (seconds) is for everything together.

    Raises:
        NoReplyError: there is no usable reply; the message says why.
    """
    packet = b"\0\0" + packet[2:]  # RFC 9250 section 4.2.1
    try:
        authorities = TlsContexts(cafile).authorities() if encryption.name else b""
    except ValueError as error:
        raise NoReplyError(f"certificate authorities: {error}") from None
    try:
        configured = configuration(encryption, host, authorities)
        async with asyncio.timeout(timeout):
            return await _exchange(packet, host, port, configured, encryption.pins)
    except TimeoutError:
        raise NoReplyError(f"no reply from {host} port {port} over QUIC within {timeout:g} s") from None
    except QuicUnavailableError as error:
        raise NoReplyError(str(error)) from None
    except NoReplyError as error:
        raise NoReplyError(f"{host} port {port} over QUIC: {error}") from None
    except OSError as error:
        raise NoReplyError(f"{host} port {port} over QUIC: {system_words(error)}") from None


async def _exchange(
    packet: bytes, host: str, port: int, configured: "QuicConfiguration", pins: tuple[str, ...]
) -> Exchange:
    loop = asyncio.get_running_loop()
    began = time.monotonic()
    _, query = await loop.create_datagram_endpoint(lambda: _Query(configured, pins, packet), remote_addr=(host, port))
    try:
        data = await query.reply
        ended = time.monotonic()
        shown = query.describe() | {"connect_seconds": query.secured_at - began}
    finally:
        query.close()
    view, reason = mismatch(MessageView.parse(packet), data)
    if view is None:
        raise NoReplyError(reason)
    return Exchange(view, len(data), "quic", (ended - began) * 1000, connection=shown)


class _Query(QuicSession):
    """A connection for one query; `reply` is its outcome."""

    def __init__(self, configured: "QuicConfiguration", pins: tuple[str, ...], packet: bytes) -> None:
        super().__init__(configured, pins)
        self._packet = packet
        self._reader = doq.MessageReader()
        self.reply: asyncio.Future[bytes] = self._loop.create_future()
        self.secured_at = 0.0

    def established(self) -> None:
        self.secured_at = time.monotonic()
        try:
            self.open_stream(self._packet)
        except ValueError:
            self._fail("the server permits no stream")

    def received(self, stream: int, data: bytes, end: bool) -> None:
        try:
            message = self._reader.feed(data, end)
        except doq.ProtocolError as error:
            self._fail(f"the server broke the protocol: {error}")
            return
        if message is not None and not self.reply.done():
            self.reply.set_result(message)

    def was_reset(self, stream: int, code: int) -> None:
        self._fail(f"the server has reset the stream: {doq.code_name(code)}")

    def ended(self, reason: str) -> None:
        self._fail(f"the connection was ended: {reason}")

    def _fail(self, reason: str) -> None:
        if not self.reply.done():
            self.reply.set_exception(NoReplyError(reason))
