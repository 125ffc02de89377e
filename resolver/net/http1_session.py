"""HTTP/1.1 on one connection for DNS over HTTPS: one exchange at a time, in the order of the requests.

The codec (`corenet.http.h1`) frames messages, and refuses messages that two parsers could frame differently. A client
may pipeline requests. The next one is parsed only when the previous one was answered, so a connection has at most one
unanswered query, and responses are in the order of the requests.

States of an exchange: waiting for the head; receiving the body (POST); waiting for the reply of the service; response
written. A request that is refused before it is complete is answered at once, with ``Connection: close``, and our side
is half-closed (RFC 9112 section 9.6). What the client sends after that is never parsed. It is discarded until the
client closes the connection, for at most `DOH_WINDOW` octets and `STREAM_LINGER`.

What is bounded: the head by `DOH_HEAD` and `DOH_FIELDS`, the body by the size of a DNS message, octets that were
received but not given to the codec by one read, because reading pauses meanwhile. A turn writes at most
`STREAM_TURN_OCTETS` octets and one response more, reads one `STREAM_READ_CHUNK`, and answers `STREAM_TURN_MESSAGES`
requests; then others have their turn (`resolver.net.turns`). A begun request has `message_timeout` to be completed.
"""

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from corenet.http.errors import RemoteProtocolError
from corenet.http.events import Data, End, Informational, Request, Response
from corenet.http.h1 import SERVER, H1Codec
from resolver import limits
from resolver.net import doh
from resolver.net.http_session import HttpSession, SessionConnection
from resolver.net.stream_connection import half_close
from resolver.wire.consts import MESSAGE_MAX

if TYPE_CHECKING:
    from resolver.net.pending_queries import PendingQuery

__all__ = ["Http1Session"]

_REASONS = {
    200: b"OK", 400: b"Bad Request", 404: b"Not Found", 405: b"Method Not Allowed", 413: b"Content Too Large",
    414: b"URI Too Long", 415: b"Unsupported Media Type", 431: b"Request Header Fields Too Large",
    501: b"Not Implemented", 505: b"HTTP Version Not Supported",
}


class Http1Session(HttpSession):
    """The HTTP/1.1 side of a connection. It is also the sink of its replies."""

    stream = True
    idle_timeout = 0.0  # edns-tcp-keepalive is not for HTTP (RFC 7828 section 3)

    def __init__(self, connection: SessionConnection, transport: asyncio.Transport, path: bytes) -> None:
        super().__init__(connection, transport, path)
        self._codec = H1Codec(SERVER, max_head=limits.DOH_HEAD, max_fields=limits.DOH_FIELDS)
        self._message: bytes | bytearray = b""
        self._refusal: doh.Refusal | None = None
        self._is_head = False
        self._body_wanted = False
        self._dropped = 0
        self._pending: PendingQuery | None = None
        self._answering = False
        self._answered = False
        self._discarding = False

    # --- from the connection ---------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Estimated memory of what was received."""
        return len(self._unread) + sys.getsizeof(self._message) + (limits.DOH_HEAD if self._codec.started else 0)

    def receive(self, data: bytes) -> None:
        """Process octets of requests, split at any position."""
        if self._discarding:
            self._discard(data)
            return
        self._unread = self._unread + data if self._unread else data
        if self._is_open() and self._turns.enter(self._connection):
            self.work()
        else:
            self._update_reading()

    def is_late(self, now: float) -> bool:
        """Whether a timeout has passed: of an incomplete request, of a response that is not read, or when idle."""
        listener = self._connection.listener
        for since in (self._partial_since, self._write_blocked_since):
            if since is not None and now - since > listener.message_timeout:
                return True
        timeout = min(limits.STREAM_LINGER, listener.message_timeout) if self._discarding else listener.idle_timeout
        return not self._connection.waiting and now - self._idle_since > timeout

    def close(self) -> None:
        """The connection has ended: cancel the query that waits."""
        self._unread = b""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.service.forget(pending)

    # --- Sink ------------------------------------------------------------------------------------------------------

    @property
    def origin(self) -> tuple[str, str]:
        """Transport and listener of the query."""
        origin: tuple[str, str] = self._connection.listener.origin
        return origin

    @property
    def padding_block(self) -> int:
        """Size of the blocks to which replies are padded."""
        block: int = self._connection.listener.padding_block
        return block

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        """Send a reply of `Service`."""
        self._finish(packet, doh.freshness(packet))

    def skip(self) -> None:
        """The message is not a query: send status 400. A client that an access list drops has no connection."""
        self._refuse(doh.Refusal(400, "The message is not a DNS query."))
        self._after_reply()

    def forget(self, pending: "PendingQuery") -> None:
        """`pending` was answered or cancelled."""
        self._pending = None

    def abort(self) -> None:
        """The reply cannot be made for lack of memory: close the connection."""
        self._connection.abort()

    # --- one exchange ----------------------------------------------------------------------------------------------

    def _is_open(self) -> bool:
        """Whether the next octets may be given to the codec now."""
        return (
            not self._discarding
            and not self._connection.waiting
            and self._write_blocked_since is None
            and not self._transport.is_closing()
        )

    def work(self) -> None:
        """Process one turn's share of the received requests."""
        self._turn_octets = read = messages = 0
        held = self._codec.started  # the codec may have a whole request already
        while self._is_open() and (held or self._unread):
            used_up = messages >= limits.STREAM_TURN_MESSAGES or self._turn_octets >= limits.STREAM_TURN_OCTETS
            if used_up or (read and not held):
                self._schedule()
                break
            data = b""
            if not held:
                data = self._take_chunk()
                read = len(data)
            self._answered = False
            messages += 1
            try:
                events = self._codec.feed(data)
                self._handle(events)
            except RemoteProtocolError as error:
                self._refuse(doh.Refusal(error.status, "The HTTP request is invalid or not supported."))
                break
            held = self._answered and self._codec.started
        self._turns.spend(messages, read + self._turn_octets)
        if self._codec.started and not self._connection.waiting and not self._codec.receiving_done:
            if self._partial_since is None:
                self._partial_since = self._connection.now()
        else:
            self._partial_since = None
        self._close_if_done()
        self._update_reading()

    def _handle(self, events: list[Any]) -> None:
        """Process events of the codec; all belong to one request."""
        for event in events:
            kind = type(event)
            if kind is Request:
                self._begin(event)
            elif kind is Data:
                self._add(event.data)
            elif kind is End:
                self._complete()
                return
        if self._refusal is not None:
            self._refuse(self._refusal)  # the request is incomplete, so the connection is closed

    def _begin(self, request: Request) -> None:
        headers = request.headers
        types = headers.get_list("content-type")
        content_type = types[0].encode("latin-1") if len(types) == 1 else None
        checked = doh.classify_request(
            request.method, request.target, content_type, self._codec.content_coded, self._path
        )
        self._is_head, self._refusal = request.method == b"HEAD", None
        self._body_wanted, self._dropped = checked is doh.WANTED, 0
        if isinstance(checked, doh.Refusal):
            self._refusal = checked
        elif isinstance(checked, bytes):
            self._message = checked
        elif doh.is_too_large(headers.get("content-length", "0")):
            self._refusal = doh.TOO_LARGE
        else:
            self._message = bytearray()
            if self._codec.expects_continue and not self._codec.receiving_done:
                self._transport.write(self._codec.send(Informational(100, [], b"Continue")))

    def _add(self, data: bytes) -> None:
        """Take a piece of the body."""
        if self._refusal is not None:
            return
        if self._body_wanted:
            self._message += data
            if len(self._message) > MESSAGE_MAX:
                self._refusal = doh.TOO_LARGE
            return
        # The body of a GET request means nothing (RFC 9110 section 9.3.1).
        self._dropped += len(data)
        if self._dropped > limits.DOH_WINDOW:
            self._refusal = doh.TOO_LARGE

    def _complete(self) -> None:
        """The request was received completely."""
        connection = self._connection
        self._idle_since = connection.now()
        if self._refusal is not None:
            self._refuse(self._refusal)
            return
        message, self._message = bytes(self._message), b""
        connection.waiting = 1
        self._answering = True
        try:
            reply, fresh, pending = connection.ask(message, self)
            if reply is not None:
                self._finish(reply, fresh)
            elif pending is not None and connection.waiting:
                self._pending = pending
        except BaseException:
            connection.abort()  # out of memory: there will be no reply, so the client must not wait for one
            raise
        finally:
            self._answering = False
        connection.note_progress()

    def _finish(self, packet: bytes, fresh: int | None) -> None:
        """Send a DNS message as the response, and continue with the next request."""
        if not self._transport.is_closing():
            self._respond(
                200,
                [
                    (b"Content-Type", doh.MEDIA_TYPE),
                    (b"Content-Length", b"%d" % len(packet)),
                    (b"Cache-Control", doh.cache_control(fresh)),
                ],
                packet,
            )
        self._after_reply()

    def _after_reply(self) -> None:
        """The query was answered: continue with the octets received in the meantime."""
        connection = self._connection
        connection.waiting = 0
        self._pending = None
        self._idle_since = connection.now()
        if self._answering:
            return
        connection.note_progress()
        self._schedule()
        self._close_if_done()
        self._update_reading()

    def _refuse(self, refusal: doh.Refusal) -> None:
        """Send an error response. When the request is incomplete, the connection is closed after it."""
        if self._transport.is_closing():
            return
        self._connection.listener.note_refused(refusal.status)
        body = refusal.text.encode() + b"\n"
        fields = [
            (b"Content-Type", b"text/plain"),
            (b"Content-Length", b"%d" % len(body)),
            (b"Cache-Control", doh.NO_STORE),
        ]
        if refusal.status == 405:
            fields.append((b"Allow", doh.METHODS))
        if not self._codec.receiving_done:
            fields.append((b"Connection", b"close"))
        self._respond(refusal.status, fields, body)

    def _respond(self, status: int, fields: list[tuple[bytes, bytes]], body: bytes) -> None:
        codec, transport = self._codec, self._transport
        head = codec.send(Response(status, fields, _REASONS.get(status, b"")))
        response = head + (b"" if self._is_head else codec.send(Data(body))) + codec.send(End())
        transport.write(response)
        self._turn_octets += len(response)
        self._refusal, self._message, self._is_head = None, b"", False
        if codec.reusable:
            codec.next_cycle()
            self._answered = True
        elif codec.receiving_done:
            transport.close()
        else:
            # Closing with unread octets would make the kernel send RST, and the client could lose the response.
            self._discarding, self._unread = True, b""
            self._idle_since = self._connection.now()
            half_close(transport)
            self._update_reading()

    # --- turns -----------------------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._is_open() and (self._unread or self._codec.started):
            self._turns.add(self._connection)

    def _is_done(self) -> bool:
        # The codec may hold a complete request: then a turn is scheduled, or is when the write buffer has drained.
        waits = self._connection.waiting or self._unread or self._turns.waits(self._connection)
        return self._discarding or not (waits or self._write_blocked_since is not None)

    def _wants_input(self) -> bool:
        return not self._unread and not self._turns.waits(self._connection)
