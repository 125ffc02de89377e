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
from typing import TYPE_CHECKING, Any, Protocol

from corenet.http.errors import RemoteProtocolError
from corenet.http.events import Data, End, Informational, Request, Response
from corenet.http.h1 import SERVER, H1Codec
from resolver import limits
from resolver.net import doh
from resolver.net.stream_connection import half_close
from resolver.wire.consts import MESSAGE_MAX

if TYPE_CHECKING:
    from resolver.net.service import PendingQuery, Sink

__all__ = ["Http1Session", "Requester"]

_REASONS = {
    200: b"OK", 400: b"Bad Request", 404: b"Not Found", 405: b"Method Not Allowed", 413: b"Content Too Large",
    414: b"URI Too Long", 415: b"Unsupported Media Type", 431: b"Request Header Fields Too Large",
    501: b"Not Implemented", 505: b"HTTP Version Not Supported",
}


class Requester(Protocol):
    """What a session needs of its connection."""

    waiting: int
    network: str | bytes

    def turn(self) -> None: ...

    def now(self) -> float: ...

    def note_progress(self) -> None: ...

    def abort(self) -> None: ...

    def ask(self, message: bytes, sink: "Sink") -> "tuple[bytes | None, int | None, PendingQuery | None]": ...

    @property
    def listener(self) -> Any: ...


class Http1Session:
    """The HTTP/1.1 side of a connection. It is also the sink of its replies."""

    stream = True
    idle_timeout = 0.0  # edns-tcp-keepalive is not for HTTP (RFC 7828 section 3)

    def __init__(self, connection: Requester, transport: asyncio.Transport, path: bytes) -> None:
        self._connection = connection
        self._transport = transport
        self._path = path
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
        self._discarded = 0
        self._unread = b""
        self._turns = connection.listener.turns
        self._turn_octets = 0
        self._reading = True
        self._idle_since = connection.now()
        self._partial_since: float | None = None
        self._write_blocked_since: float | None = None

    # --- from the connection ---------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Process octets of requests, split at any position."""
        if self._discarding:
            self._discarded += len(data)
            if self._discarded > limits.DOH_WINDOW:
                self._connection.abort()
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
        patience = min(limits.STREAM_LINGER, listener.message_timeout) if self._discarding else listener.idle_timeout
        return not self._connection.waiting and now - self._idle_since > patience

    def pause_writing(self) -> None:
        """The write buffer is above its high watermark: no further request is answered."""
        self._write_blocked_since = self._connection.now()
        self._update_reading()

    def resume_writing(self) -> None:
        """The write buffer has drained: go on with the next request."""
        self._write_blocked_since = None
        self._schedule()
        self._update_reading()

    def close(self) -> None:
        """The connection has ended: cancel the query that waits."""
        self._unread = b""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.service.forget(pending)

    # --- Sink ------------------------------------------------------------------------------------------------------

    @property
    def padding_block(self) -> int:
        """Size of the blocks to which replies are padded."""
        block: int = self._connection.listener.padding_block
        return block

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        """Send a reply of `Service`."""
        self._finish(packet, doh.freshness(packet))

    def skip(self) -> None:
        """The message is not a query, or its client is dropped by the access list: send status 400."""
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
        """Do one turn's share of the requests that were received."""
        self._turn_octets = read = messages = 0
        size = limits.STREAM_READ_CHUNK
        held = self._codec.started  # the codec may have a whole request already
        while self._is_open() and (held or self._unread):
            used_up = messages >= limits.STREAM_TURN_MESSAGES or self._turn_octets >= limits.STREAM_TURN_OCTETS
            if used_up or (read and not held):
                self._schedule()
                break
            data = b""
            if not held:
                data, self._unread = self._unread[:size], self._unread[size:]
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
        judged = doh.judge(request.method, request.target, content_type, self._codec.content_coded, self._path)
        self._is_head, self._refusal = request.method == b"HEAD", None
        self._body_wanted, self._dropped = judged is doh.WANTED, 0
        if isinstance(judged, doh.Refusal):
            self._refusal = judged
        elif isinstance(judged, bytes):
            self._message = judged
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
            connection.abort()  # out of memory: no reply will come, so the client must not wait for one
            raise
        finally:
            self._answering = False
        connection.note_progress()

    def _finish(self, packet: bytes, fresh: int | None) -> None:
        """Send a DNS message as the response, and go on with the next request."""
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
        """The query was answered: go on with what was received meanwhile."""
        connection = self._connection
        connection.waiting = 0
        self._pending = None
        self._idle_since = connection.now()
        if self._answering:
            return
        connection.note_progress()
        self._schedule()
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
        """Schedule a turn when octets are stored: no event of the transport would start it."""
        if self._is_open() and (self._unread or self._codec.started):
            self._turns.add(self._connection)

    def _update_reading(self) -> None:
        """Read from the transport only while no octets are stored."""
        if self._transport.is_closing():
            return
        wanted = not self._unread and not self._turns.waits(self._connection)
        if wanted is not self._reading:
            self._reading = wanted
            if wanted:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
