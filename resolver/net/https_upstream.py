"""Queries to servers over HTTPS (RFC 8484): POST with application/dns-message, over HTTP/2 or HTTP/1.1 by ALPN.

Connections, slots, queues and timeouts are those of `stream_upstream`, TLS and its checks those of `tls_upstream`. Over
HTTP/2 a connection carries as many queries as the server permits, over HTTP/1.1 one at a time; the other queries of the
connection wait in `_unsent`. Both codecs are those of `corenet.http`, without I/O, and bound what a server can send.

A query that an HTTP/2 server refuses with HTTP_1_1_REQUIRED is repeated once over HTTP/1.1, and all later queries to
that server use HTTP/1.1. An HTTP/1.1 response without a length ends with the connection (`end_of_response`).

A response is accepted when its status is 200, its type is application/dns-message, and its message is the reply to the
query of its request (`match.is_reply`; the id is 0, RFC 8484 section 4.1). Redirects are not followed, because the name
and the pins of the configuration do not apply to another server. When a sent query is cancelled, its HTTP/2 stream is
reset; an HTTP/1.1 connection is closed, because its next response would be that of the cancelled query.

States of a query on a connection: in `_unsent` (not sent), in `_responses` (sent; its response is incomplete), or
finished. `pending` has the queries of the first two states.
"""

import asyncio
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from corenet import tls
from corenet.http.errors import Http2Error, HttpError, RemoteProtocolError
from corenet.http.events import Data, End, Event, Informational, Request, Response
from corenet.http.h1 import H1Codec
from corenet.http.h2 import H2Connection
from corenet.http.h2_events import CANCEL, HTTP_1_1_REQUIRED, Goaway, SettingsReceived, StreamReset, error_name
from corenet.http.headers import Headers
from resolver import limits
from resolver.effects import FailureKind, Server
from resolver.net.match import is_reply, make_packet
from resolver.net.quick_ack import acknowledge_now
from resolver.net.tls_client import ConnectionFacts
from resolver.net.tls_upstream import TlsConnection, TlsUpstream, with_options
from resolver.net.upstream_connection import ServerQueue, StreamQuery, query_flags
from resolver.wire import consts as c
from resolver.wire.message import MessageView

if TYPE_CHECKING:
    import ssl

__all__ = ["MEDIA_TYPE", "HttpsUpstream", "end_of_response", "request_fields", "response_problem"]

MEDIA_TYPE = "application/dns-message"
POST = b"POST"
OK = 200
HTTP2 = 20


def request_fields(host: str, size: int) -> list[tuple[bytes, bytes]]:
    """The fields of a request with a message of `size` octets. HTTP caches must not store the response, because its age
    would have to be subtracted from the TTLs (RFC 8484 section 5.1)."""
    media = MEDIA_TYPE.encode("ascii")
    return [
        (b"host", host.encode("ascii")),
        (b"accept", media),
        (b"content-type", media),
        (b"content-length", str(size).encode("ascii")),
        (b"cache-control", b"no-store"),
    ]


def response_problem(status: int, headers: Headers) -> str:
    """Why a response has no DNS message; empty when it has one."""
    if 300 <= status < 400:
        return f"HTTP status {status}: redirects are not followed; configure the address and the path of the target"
    if status != OK:
        return f"HTTP status {status}"
    media = (headers.get("content-type") or "").partition(";")[0].strip().lower()
    if media != MEDIA_TYPE:
        return f"the response has the content type {media[:60]!r} instead of {MEDIA_TYPE}"
    if headers.get("content-encoding", "identity").strip().lower() != "identity":
        return "the response has a content coding, which the query did not permit"
    return ""


def end_of_response(codec: H1Codec, ssl_object: object) -> list[Event]:
    """The events of an HTTP/1.1 response that the end of the connection completes; `ssl_object` is the connection's.

    A response without a length ends with the connection. Only close_notify proves that it was not cut off (RFC 9112
    section 9.8).

    Raises:
        RemoteProtocolError: the response is incomplete; the message says what is missing.
    """
    if codec.until_close and not tls.received_close_notify(ssl_object):
        raise RemoteProtocolError("the response was cut off: the connection ended without close_notify")
    missing = codec.length_left
    try:
        return codec.feed_eof()
    except RemoteProtocolError:
        what = f"{missing} bytes of its Content-Length are missing" if missing else "its end is missing"
        raise RemoteProtocolError(f"the response was cut off: the connection ended, and {what}") from None


class _Exchange:
    """The incomplete response to one query."""

    __slots__ = ("body", "entry", "status_seen", "stream")

    def __init__(self, entry: StreamQuery, stream: int) -> None:
        self.entry = entry
        self.stream = stream
        self.body = bytearray()
        self.status_seen = False


class HttpsConnection(TlsConnection):
    """One connection over HTTPS; the docstring of the module has the states."""

    def __init__(self, owner: "HttpsUpstream", server: ServerQueue) -> None:
        super().__init__(owner, server)
        self._h1: H1Codec | None = None
        self._h2: H2Connection | None = None
        self._unsent: deque[StreamQuery] = deque()
        self._responses: dict[int, _Exchange] = {}
        """By HTTP/2 stream; 0 over HTTP/1.1."""
        encryption = server.server.encryption
        assert encryption is not None
        self._path = encryption.path.encode("ascii")
        address = server.server.address
        host = encryption.name or address
        host = f"[{host}]" if ":" in host else host
        self._host = host if server.server.port == 443 else f"{host}:{server.server.port}"

    @property
    def octets(self) -> int:
        incomplete = limits.DOH_REPLY_HEAD if self._responses else 0
        return super().octets + incomplete + sum(sys.getsizeof(one.body) for one in self._responses.values())

    # --- queries ------------------------------------------------------------------------------------------------------

    def encode(self, entry: StreamQuery) -> bytes:
        ask = entry.ask
        packet = make_packet(ask.qname, ask.qtype, 0, flags=query_flags(ask), payload=ask.edns_payload, do=ask.do)
        return packet if ask.edns_payload is None else with_options(packet, keepalive=False, subnet=ask.subnet)

    def established(self, transport: asyncio.BaseTransport) -> ConnectionFacts:
        facts = super().established(transport)
        ssl_object: Any = facts.ssl_object
        if ssl_object.selected_alpn_protocol() == "h2":
            facts.http = "2"
            self._h2 = H2Connection(max_head=limits.DOH_REPLY_HEAD)
        else:
            facts.http = "1.1"
            self._h1 = H1Codec(max_head=limits.DOH_REPLY_HEAD)
            self.capacity = self.spread = 1
        return facts

    def send(self, entry: StreamQuery) -> None:
        self._unsent.append(entry)
        self._send_next()

    def _send_next(self) -> None:
        """Send the queries that the protocol permits now."""
        transport = self.transport
        if transport is None:
            return
        if self._h2 is not None:
            while self._unsent and self._h2.can_open:
                entry = self._unsent.popleft()
                request = Request(POST, self._path, request_fields(self._host, len(entry.packet)), HTTP2)
                stream = self._h2.send_request(request)
                self._h2.send_data(stream, entry.packet, True)
                self._responses[stream] = _Exchange(entry, stream)
                self.owner.note_sent(entry)
            self._flush()
        elif self._h1 is not None and self._unsent and not self._responses:
            entry = self._unsent.popleft()
            fields = request_fields(self._host, len(entry.packet))
            head = self._h1.send_request(POST, self._path, fields, -1)
            self._responses[0] = _Exchange(entry, 0)
            self.owner.note_sent(entry)
            transport.write(head + self._h1.send(Data(entry.packet)) + self._h1.send(End()))

    def _flush(self) -> None:
        assert self._h2 is not None
        data = self._h2.data_to_send()
        if data and self.transport is not None:
            self.transport.write(data)

    def forget(self, entry: StreamQuery) -> None:
        exchange = next((one for one in self._responses.values() if one.entry is entry), None)
        if exchange is not None:
            del self._responses[exchange.stream]
            if self._h2 is None:
                self.closing = True
                self._leave_unsent()
            elif self._h2.is_open(exchange.stream):
                self._h2.reset(exchange.stream, CANCEL)
                self._flush()
        elif entry in self._unsent:
            self._unsent.remove(entry)
        super().forget(entry)

    # --- responses ----------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._h2 is not None and not self.closing:
            self._flush()

    def data_received(self, data: bytes) -> None:
        owner = self.owner
        try:
            if self._h2 is not None:
                for stream, event in self._h2.feed(data, owner.loop.time()):
                    self._event(stream, event)
            elif self._h1 is not None:
                if not self._responses:
                    raise RemoteProtocolError("a response without a request")
                for one in self._h1.feed(data):
                    self._event(0, one)
        except HttpError as error:
            if isinstance(error, Http2Error):
                # Replies that were complete before the fault.
                for stream, event in error.events:
                    self._event(stream, event)
            if self._h2 is not None:
                self._flush()
            self.connection_failed(owner.text(f"not HTTP: {error}", self.server.server), FailureKind.MALFORMED)
            self.close()
        else:
            self._send_next()
        if self._responses and self.transport is not None:
            acknowledge_now(self.transport)
        if owner.after_batch is not None:
            owner.after_batch()

    def eof_received(self) -> bool:
        """Over HTTP/1.1 this may be the end of a response. Without one, `connection_lost` sends the query again."""
        exchange = self._responses.get(0)
        if self._h1 is None or exchange is None or not self._h1.started:
            return False
        try:
            for event in end_of_response(self._h1, None if self.facts is None else self.facts.ssl_object):
                self._event(0, event)
        except RemoteProtocolError as error:
            self._fail(exchange.entry, FailureKind.NETWORK, str(error))
        if self.owner.after_batch is not None:
            self.owner.after_batch()
        return False

    def _event(self, stream: int, event: Event) -> None:
        if isinstance(event, Goaway):
            self.closing = True
            if event.code == HTTP_1_1_REQUIRED:
                self._require_http1()
            self._leave_unsent()
            return
        if isinstance(event, SettingsReceived):
            assert self._h2 is not None
            self.capacity = max(min(self.owner.pipeline, self._h2.stream_limit), 1)
            self.owner.feed_waiting(self.server)
            return
        exchange = self._responses.get(stream)
        if exchange is None:
            if isinstance(event, Data) and self._h2 is not None:
                self._h2.acknowledge(stream, len(event.data))
            return
        entry = exchange.entry
        if isinstance(event, Informational):
            return
        if isinstance(event, Response):
            exchange.status_seen = True
            problem = response_problem(event.status, event.headers)
            if problem:
                kind = FailureKind.MALFORMED if event.status == OK else FailureKind.NETWORK
                self._fail(entry, kind, problem)
        elif isinstance(event, Data):
            if self._h2 is not None:
                self._h2.acknowledge(stream, len(event.data))
            if len(exchange.body) + len(event.data) > c.MESSAGE_MAX:
                self._fail(entry, FailureKind.MALFORMED, f"the response is larger than {c.MESSAGE_MAX} bytes")
                return
            exchange.body += event.data
        elif isinstance(event, End):
            self._complete(exchange)
        elif isinstance(event, StreamReset):
            del self._responses[stream]
            if event.code == HTTP_1_1_REQUIRED and event.by_peer:
                self._require_http1()
                self._retry(entry, "the server requires HTTP/1.1, and the query was sent twice")
            elif event.unprocessed:
                self._retry(entry, "the server did not process the request")
            else:
                reason = event.reason or error_name(event.code)
                self._fail(entry, FailureKind.NETWORK, f"the HTTP/2 stream was reset: {reason}")

    def _complete(self, exchange: _Exchange) -> None:
        """Accept a complete response as the reply, or fail its query."""
        del self._responses[exchange.stream]
        if self._h1 is not None:
            if self._h1.reusable:
                self._h1.next_cycle()
            else:
                self.closing = True
                self._leave_unsent()
        message = bytes(exchange.body)
        if is_reply(exchange.entry.packet, message, allow_no_question=True):
            self.accept(exchange.entry, message)
        else:
            self.owner.unwanted_replies += 1
            self._fail(exchange.entry, FailureKind.MALFORMED, "the response is not the reply to its query")

    def _require_http1(self) -> None:
        """The server requires HTTP/1.1 (RFC 9113 section 7): no connection to it offers HTTP/2 any more."""
        owner = self.owner
        assert isinstance(owner, HttpsUpstream)
        owner.http1_servers[self.server.server.key] = None
        for connection in list(self.server.connections):
            if isinstance(connection, HttpsConnection) and connection._h2 is not None:
                connection.closing = True
                if connection is not self and not connection.pending:
                    connection.close()

    def _fail(self, entry: StreamQuery, kind: FailureKind, what: str) -> None:
        entry.fail(kind, self.owner.text(what, self.server.server))

    def _leave_unsent(self) -> None:
        """Move the unsent queries to another connection, because this one is `closing`."""
        if self.owner.closed:
            return
        unsent, self._unsent = self._unsent, deque()
        for entry in unsent:
            del self.pending[entry.identity]
            entry.connection = None
            self.owner.assign(entry)
        if not self.pending:
            self.close()

    def _retry(self, entry: StreamQuery, what: str) -> None:
        """Send `entry` again on another connection, once, and charge a packet to its budget."""
        spent = entry.charge_packet()
        if entry.retried or spent is not None:
            if spent is not None:
                entry.finish(spent)
            else:
                self._fail(entry, FailureKind.NETWORK, what)
            return
        entry.retried = True
        self.forget(entry)
        entry.connection = None
        self.owner.assign(entry)

    def note_reply(self, view: MessageView) -> None:
        """Note the time only: edns-tcp-keepalive is not used over HTTPS."""
        self.last_reply = time.monotonic()

    def connection_failed(self, text: str, kind: FailureKind = FailureKind.NETWORK) -> None:
        self._unsent.clear()
        self._responses.clear()
        super().connection_failed(text, kind)

    def evict(self) -> None:
        self._unsent.clear()
        self._responses.clear()
        super().evict()


class HttpsUpstream(TlsUpstream):
    """All outgoing connections over HTTPS."""

    transport_name = "HTTPS"
    connection_type = HttpsConnection
    connection_octets = limits.UPSTREAM_MULTIPLEXED_OCTETS

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        per_server: int = limits.HTTPS_UPSTREAMS_PER_SERVER,
        **options: Any,
    ) -> None:
        super().__init__(loop, per_server=per_server, **options)
        self.http1_servers: dict[tuple[object, ...], None] = {}
        """The servers of the configuration that have required HTTP/1.1."""

    async def make_context(self, server: Server) -> "ssl.SSLContext":
        assert server.encryption is not None
        return await self.contexts.get(server.encryption, http1=server.key in self.http1_servers)
