"""Queries to servers over QUIC (RFC 9250), each on its own stream.

Slots, waiting and timeouts are those of `stream_upstream`, padding and idle time those of `tls_upstream`. The
connection itself is a `QuicSession`; towards `UpstreamConnection` it is a transport that can only be ended. A message
counts when its id is 0 and it is the reply to the query of its stream (`match.is_reply`). Sessions are resumed
(`quic_tickets`), without 0-RTT.

A query that is no longer wanted has its stream cancelled. When the server permits no further stream, a query that has
not been sent goes to another connection, and this one takes no new ones.
"""

import asyncio
import time
from typing import TYPE_CHECKING, cast

from resolver import limits
from resolver.effects import FailureKind, Server
from resolver.net import doq
from resolver.net.match import is_reply, make_packet
from resolver.net.quic_client import QuicSession, QuicUnavailableError, configuration
from resolver.net.quic_tickets import Tickets
from resolver.net.tls_client import ConnectionFacts
from resolver.net.tls_upstream import TlsConnection, TlsUpstream, with_options
from resolver.net.upstream_connection import ServerQueue, StreamQuery, UpstreamConnection, query_flags
from resolver.wire.message import MessageView

if TYPE_CHECKING:
    from qh3.quic.configuration import QuicConfiguration

__all__ = ["QuicUpstream"]


class QuicFacts(ConnectionFacts):
    """One connection for traces."""

    __slots__ = ()

    def __init__(self, session: "_Session", seconds: float) -> None:
        super().__init__(None, seconds)
        self._described = session.describe() | {"connect_seconds": seconds}


class QuicConnection(TlsConnection):
    """One connection over QUIC."""

    def __init__(self, owner: "QuicUpstream", server: ServerQueue) -> None:
        super().__init__(owner, server)
        self.session: _Session | None = None
        self._streams: dict[int, tuple[StreamQuery, doq.MessageReader]] = {}

    @property
    def octets(self) -> int:
        return self.overhead + sum(reader.octets for _, reader in self._streams.values())

    def encode(self, entry: StreamQuery) -> bytes:
        ask = entry.ask
        packet = make_packet(ask.qname, ask.qtype, 0, flags=query_flags(ask), payload=ask.edns_payload, do=ask.do)
        return packet if ask.edns_payload is None else with_options(packet, keepalive=False, subnet=ask.subnet)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert self.session is not None
        self.facts = QuicFacts(self.session, time.monotonic() - self.began)
        self.owner.handshakes += 1
        self.owner.resumed += self.session.resumed
        self.transport = cast(asyncio.Transport, transport)
        if self.closing:
            self.transport.abort()
            return
        self.owner.note_activity(self)
        for entry in list(self.pending.values()):
            if self.transport is not None and entry.connection is self:
                self.send(entry)

    def send(self, entry: StreamQuery) -> None:
        assert self.session is not None
        try:
            stream = self.session.open_stream(entry.packet)
        except ValueError:
            self._send_on_another_connection(entry)
            return
        self._streams[stream] = entry, doq.MessageReader()
        self.owner.note_sent(entry)

    def _send_on_another_connection(self, entry: StreamQuery) -> None:
        """The server permits no further stream now."""
        self.closing = True
        if entry.retried:
            entry.fail(FailureKind.NETWORK, self.owner.text("the server permits no stream", self.server.server))
            return
        entry.retried = True
        self.forget(entry)
        entry.connection = None
        self.owner.assign(entry)

    def forget(self, entry: StreamQuery) -> None:
        stream = next((stream for stream, (one, _) in self._streams.items() if one is entry), None)
        if stream is not None:
            del self._streams[stream]
            if self.session is not None:
                self.session.cancel_stream(stream)
        super().forget(entry)

    def end_transport(self, transport: asyncio.Transport) -> None:
        transport.abort()

    def note_reply(self, view: MessageView) -> None:
        """The keepalive option is not permitted over QUIC, which has its own idle timeout."""
        self.last_reply = time.monotonic()

    def connection_failed(self, text: str, kind: FailureKind = FailureKind.NETWORK) -> None:
        self._streams.clear()
        super().connection_failed(text, kind)

    def evict(self) -> None:
        self._streams.clear()
        super().evict()

    # --- for the session -----------------------------------------------------------------------------------------

    def stream_received(self, stream: int, data: bytes, end: bool) -> None:
        """Octets of a reply."""
        owner = self.owner
        found = self._streams.get(stream)
        if found is not None:
            entry, reader = found
            try:
                message = reader.feed(data, end)
            except doq.ProtocolError as error:
                text = owner.text(f"the server broke the protocol: {error}", self.server.server)
                self.connection_failed(text, FailureKind.MALFORMED)
                self.close()
            else:
                if message is not None:
                    del self._streams[stream]
                    self._complete(entry, message)
        elif stream & 1:
            text = owner.text("the server has opened a stream", self.server.server)  # RFC 9250 section 4.3.3
            self.connection_failed(text, FailureKind.MALFORMED)
            self.close()
        if owner.after_batch is not None:
            owner.after_batch()

    def _complete(self, entry: StreamQuery, message: bytes) -> None:
        if is_reply(entry.packet, message, allow_no_question=True):
            self.accept(entry, message)
        else:
            self.owner.unwanted_replies += 1
            text = self.owner.text("the message is not the reply to the query of its stream", self.server.server)
            entry.fail(FailureKind.MALFORMED, text)

    def stream_reset(self, stream: int, code: int) -> None:
        """The server does not answer."""
        found = self._streams.pop(stream, None)
        if found is not None:
            text = self.owner.text(f"the server has reset the stream: {doq.code_name(code)}", self.server.server)
            found[0].fail(FailureKind.NETWORK, text)
        if self.owner.after_batch is not None:
            self.owner.after_batch()


class _Session(QuicSession):
    """The QUIC connection of a `QuicConnection`. `opened` is done when the server is authenticated."""

    def __init__(
        self, configured: "QuicConfiguration", pins: tuple[str, ...], tickets: Tickets, connection: QuicConnection
    ) -> None:
        super().__init__(configured, pins, tickets)
        self._connection = connection
        self.opened: asyncio.Future[None] = self._loop.create_future()

    def established(self) -> None:
        if not self.opened.done():
            self.opened.set_result(None)

    def received(self, stream: int, data: bytes, end: bool) -> None:
        self._connection.stream_received(stream, data, end)

    def was_reset(self, stream: int, code: int) -> None:
        self._connection.stream_reset(stream, code)

    def ended(self, reason: str) -> None:
        if not self.opened.done():
            self.opened.set_exception(QuicUnavailableError(reason))
        else:
            self._connection.connection_lost(QuicUnavailableError(reason))


class _Transport(asyncio.Transport):
    """What a `UpstreamConnection` can do with its session: end it."""

    def __init__(self, session: _Session) -> None:
        super().__init__()
        self._session = session

    def abort(self) -> None:
        self._session.close()

    def close(self) -> None:
        self._session.close()


class QuicUpstream(TlsUpstream):
    """All outgoing connections over QUIC."""

    transport_name = "QUIC"
    connection_type = QuicConnection
    connection_octets = limits.UPSTREAM_MULTIPLEXED_OCTETS

    async def open_transport(self, connection: UpstreamConnection) -> None:
        assert isinstance(connection, QuicConnection)
        server = connection.server.server
        encryption = server.encryption
        assert encryption is not None
        # A server without a name is authenticated by its pins.
        authorities = await self.contexts.load_authorities() if encryption.name else b""
        connection.began = time.monotonic()
        configured = configuration(encryption, server.address, authorities)
        tickets = Tickets(self.contexts.quic_sessions, encryption, server.address, server.port)
        configured.idle_timeout = limits.TLS_UPSTREAM_IDLE_MAX
        _, session = await self.loop.create_datagram_endpoint(
            lambda: _Session(configured, encryption.pins, tickets, connection),
            remote_addr=(server.address, server.port),
            local_addr=self.source_address(server.address),
        )
        try:
            async with asyncio.timeout(limits.TLS_UPSTREAM_HANDSHAKE):
                await session.opened
        except TimeoutError:
            session.close()
            raise QuicUnavailableError("the handshake was not completed in time") from None
        except BaseException:
            session.close()
            raise
        connection.session = session
        connection.connection_made(_Transport(session))

    def explain_refusal(self, error: Exception, server: Server) -> tuple[FailureKind, str]:
        if not isinstance(error, QuicUnavailableError):
            return super().explain_refusal(error, server)
        self.refused += 1
        text = self.text(str(error), server)
        self._refusals.warn("upstream: %s", text)
        return FailureKind.NETWORK, text

    def explain_loss(self, error: Exception | None, server: Server) -> tuple[FailureKind, str]:
        if not isinstance(error, QuicUnavailableError):
            return super().explain_loss(error, server)
        return FailureKind.NETWORK, self.text(f"connection lost: {error}", server)
