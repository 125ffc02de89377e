"""HTTP/2 on one connection for DNS over HTTPS: concurrent exchanges, answered in any order.

The codec (`corenet.http.h2`) has the stream states, flow control and the limits against floods. Here a stream is in one
of four states: its request is being received (`_requests`), is complete and not answered yet (`_complete`), its query
is unanswered (`_waiting`), or its response was given to the codec. A complete request is answered in the same turn,
unless the share of the turn is spent, or `STREAM_TURN_OCTETS` of responses wait for the windows of the client: so
nothing is made for a client that does not read.

What is bounded: streams by the pipeline limit of the listener, a body by the size of a DNS message, all bodies of a
connection that have no query yet by its window (`DOH_WINDOW`), responses that the client does not take by
`STREAM_WRITE_LIMIT`. A request has `message_timeout` to be completed, as have a frame and a field block, and the client
has as long to open its windows.
Nothing is read while the client does not read.

After a connection error (RFC 9113 section 5.4.1) the requests that were complete before it are answered, in the same
bounds, then the GOAWAY follows, because some clients take nothing after it. What the client sends meanwhile is
discarded, at most `DOH_WINDOW` octets (`HttpSession`).

A turn gives one `STREAM_READ_CHUNK` to the codec, or continues with the events of the last one; it answers
`STREAM_TURN_MESSAGES` requests, and stops when it has made `STREAM_TURN_OCTETS` of responses. Then others have their
turn (`resolver.net.turns`).
"""

import asyncio
import sys
from collections import deque
from typing import TYPE_CHECKING, Any

from corenet.http.errors import Http2Error
from corenet.http.events import Data, End, Informational, Request, Response
from corenet.http.h2 import SERVER, H2Connection
from corenet.http.h2_events import NO_ERROR, StreamReset
from resolver import limits
from resolver.net import doh
from resolver.net.http_session import HttpSession, SessionConnection
from resolver.net.unsent import Unsent
from resolver.wire.consts import MESSAGE_MAX

if TYPE_CHECKING:
    from resolver.net.pending_queries import PendingQuery

__all__ = ["Http2Session"]


class _Request:
    """A request that is being received: the `message` of GET, the `body` of POST, or the `refusal`.

    The body of a refused request is discarded. The error response is sent after the body, because some clients read
    only when they have sent everything, or after `DOH_WINDOW` octets of it. A client that expects 100 (Continue) waits
    with its body, so it gets the error response at once (RFC 9110 section 10.1.1).
    """

    __slots__ = ("began", "body", "dropped", "is_head", "message", "refusal")

    def __init__(self, began: float, is_head: bool) -> None:
        self.began = began
        self.is_head = is_head
        self.message = b""
        self.body: bytearray | None = None
        self.dropped = 0
        self.refusal: doh.Refusal | None = None


class _Exchange:
    """The sink of one query that is being answered."""

    __slots__ = ("_session", "pending", "stream_id")

    stream = True
    idle_timeout = 0.0  # edns-tcp-keepalive is not for HTTP (RFC 7828 section 3)

    def __init__(self, session: "Http2Session", stream_id: int) -> None:
        self._session = session
        self.stream_id = stream_id
        self.pending: PendingQuery | None = None

    @property
    def origin(self) -> tuple[str, str]:
        """Transport and listener of the query."""
        return self._session.origin

    @property
    def padding_block(self) -> int:
        """Size of the blocks to which replies are padded."""
        return self._session.padding_block

    def send(self, packet: bytes, peer: tuple[Any, ...]) -> None:
        """Send a reply of `Service`."""
        self._session.finish(self, packet, doh.freshness(packet))

    def skip(self) -> None:
        """The message is not a query: send status 400. A client that an access list drops has no connection."""
        self._session.finish(self, None, None)

    def forget(self, pending: "PendingQuery") -> None:
        """`pending` was answered or cancelled."""
        self.pending = None

    def abort(self) -> None:
        """The reply cannot be made for lack of memory: close the connection."""
        self._session.abort()


class Http2Session(HttpSession):
    """The HTTP/2 side of a connection."""

    def __init__(self, connection: SessionConnection, transport: asyncio.Transport, path: bytes) -> None:
        super().__init__(connection, transport, path)
        listener = connection.listener
        self._codec = H2Connection(
            SERVER,
            window=MESSAGE_MAX + 1,  # one octet more than a message, so that a longer body is detected
            connection_window=limits.DOH_WINDOW,
            max_streams=listener.pipeline,
            max_head=limits.DOH_HEAD,
            max_fields=limits.DOH_FIELDS,
        )
        self.padding_block: int = listener.padding_block
        self.origin: tuple[str, str] = listener.origin
        self._requests: dict[int, _Request] = {}
        self._complete: dict[int, _Request] = {}
        self._waiting: dict[int, _Exchange] = {}
        self._turn_messages = 0
        self._events: deque[tuple[int, Any]] = deque()
        self._in_feed = False
        self._unsent = Unsent()
        self._flush()

    # --- from the connection ---------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Estimated memory of what was received, and of responses that wait for the windows of the client."""
        requests = [*self._requests.values(), *self._complete.values()]
        begun = len(requests) + len(self._waiting) + sum(type(event) is Request for _, event in self._events)
        octets = len(self._unread) + self._codec.unsent() + begun * limits.EXCHANGE_OVERHEAD
        if self._events:
            octets += limits.STREAM_READ_CHUNK + len(self._events) * limits.READ_MESSAGE_OCTETS
        bodies = sum(sys.getsizeof(request.body) for request in requests if request.body is not None)
        return octets + bodies + sum(len(request.message) for request in requests)

    def receive(self, data: bytes) -> None:
        """Take octets of frames, cut anywhere."""
        if self._failed:
            self._discard(data)
            return
        self._unread = self._unread + data if self._unread else data
        if self._write_blocked_since is None and self._turns.enter(self._connection):
            self.work()
        else:
            self._update_reading()

    def work(self) -> None:
        """Process one turn's share of the received octets."""
        if self._write_blocked_since is not None or self._transport.is_closing():
            return
        self._turn_messages = self._turn_octets = read = 0
        events = self._events
        self._in_feed = True
        try:
            if not events and not self._failed:
                data = self._take_chunk()
                read = len(data)
                events.extend(self._feed(data))
                if self._failed or events or self._unread or not self._codec.incomplete:
                    self._partial_since = None
                elif self._partial_since is None:
                    self._partial_since = self._connection.now()
            self._answer_complete()
            while events and self._share_left():
                self._handle(*events.popleft())
                self._answer_complete()
        finally:
            self._in_feed = False
            self._turns.spend(self._turn_messages, read + self._turn_octets)
        self._flush()
        self._schedule()
        self._close_if_done()
        self._update_reading()

    def _feed(self, data: bytes) -> list[tuple[int, Any]]:
        """Return the events of `data`, after a connection error those before it."""
        try:
            return self._codec.feed(data, self._connection.now())
        except Http2Error as error:
            self._connection.listener.malformed += 1
            self._failed = True
            self._unread = b""
            self._requests = {number: begun for number, begun in self._requests.items() if self._codec.is_open(number)}
            return error.events

    def _end(self) -> None:
        if self._failed:
            self._transport.write(self._codec.data_to_send())  # with the GOAWAY
        super()._end()

    def _share_left(self) -> bool:
        """Whether the turn may continue."""
        return (
            self._turn_octets < limits.STREAM_TURN_OCTETS
            and self._turn_messages < limits.STREAM_TURN_MESSAGES
            and not self._transport.is_closing()
        )

    def _may_answer(self) -> bool:
        """Whether complete requests may be answered: the client takes what was made before."""
        return self._codec.unsent() < limits.STREAM_TURN_OCTETS

    def _answer_complete(self) -> None:
        """Answer complete requests, as far as the turn's share and the client's windows admit."""
        while self._complete and self._may_answer() and self._share_left():
            stream_id = next(iter(self._complete))
            request = self._complete.pop(stream_id)
            if self._codec.is_open(stream_id):  # else a later event of this batch resets it
                self._answer(stream_id, request)

    def _schedule(self) -> None:
        continues = self._events or self._unread or (self._complete and self._may_answer())
        if continues and self._write_blocked_since is None and not self._transport.is_closing():
            self._turns.add(self._connection)

    def is_late(self, now: float) -> bool:
        """Whether a timeout has passed: of an incomplete request, of responses that are not read, or when idle."""
        listener = self._connection.listener
        began = partial = None
        if not self._input_ended:
            oldest = next(iter(self._requests.values()), None)
            began = None if oldest is None else oldest.began
            partial = self._partial_since
        for since in (began, partial, self._unsent.since, self._write_blocked_since):
            if since is not None and now - since > listener.message_timeout:
                return True
        return not (self._waiting or self._complete) and now - self._idle_since > listener.idle_timeout

    def close(self) -> None:
        """The connection has ended: cancel the unanswered queries."""
        self._unread = b""
        self._events.clear()
        self._requests.clear()
        self._complete.clear()
        waiting, self._waiting = self._waiting, {}
        for exchange in waiting.values():
            if exchange.pending is not None:
                exchange.pending.service.forget(exchange.pending)

    def abort(self) -> None:
        """Close the connection at once."""
        self._connection.abort()

    # --- exchanges -------------------------------------------------------------------------------------------------

    def _handle(self, stream_id: int, event: Any) -> None:
        kind = type(event)
        if kind is not StreamReset and not self._codec.is_open(stream_id):
            return  # a later event of this batch resets the stream; stream 0 has the events of the connection
        if kind is Request:
            self._begin(stream_id, event)
        elif kind is Data:
            self._add(stream_id, event.data)
        elif kind is End:
            request = self._requests.pop(stream_id, None)
            if request is not None:
                self._complete[stream_id] = request
        elif kind is StreamReset:
            self._requests.pop(stream_id, None)
            self._complete.pop(stream_id, None)
            exchange = self._waiting.pop(stream_id, None)
            if exchange is not None:
                self._connection.waiting = len(self._waiting)
                if exchange.pending is not None:
                    exchange.pending.service.forget(exchange.pending)

    def _begin(self, stream_id: int, event: Request) -> None:
        headers = event.headers
        types = headers.get_list("content-type")
        content_type = types[0].encode("latin-1") if len(types) == 1 else None
        checked = doh.classify_request(
            event.method, event.target, content_type, "content-encoding" in headers, self._path
        )
        request = self._requests[stream_id] = _Request(self._connection.now(), event.method == b"HEAD")
        expects = headers.get("expect", "").lower() == "100-continue"
        if isinstance(checked, doh.Refusal):
            request.refusal = checked
        elif isinstance(checked, bytes):
            request.message = checked
        elif doh.is_too_large(headers.get("content-length", "0")):
            request.refusal = doh.TOO_LARGE
        else:
            request.body = bytearray()
            if expects:
                self._codec.send_response(stream_id, Informational(100, []))
        if expects and request.refusal is not None:
            self._refuse_early(stream_id, request)  # the client waits for it with its body

    def _add(self, stream_id: int, data: bytes) -> None:
        request = self._requests.get(stream_id)
        if request is None:
            return  # its connection was aborted
        if request.body is None:
            # The request is refused, or is GET, whose body has no meaning (RFC 9110 section 9.3.1).
            self._codec.acknowledge(stream_id, len(data))
            request.dropped += len(data)
            if request.dropped > limits.DOH_WINDOW:
                self._refuse_early(stream_id, request)
            return
        request.body += data
        if len(request.body) > MESSAGE_MAX:
            size, request.body = len(request.body), None
            self._codec.acknowledge(stream_id, size)
            request.dropped, request.refusal = size, doh.TOO_LARGE

    def _refuse_early(self, stream_id: int, request: _Request) -> None:
        """Send an error response before the end of the request, whose rest is not wanted (RFC 9113 section 8.1)."""
        del self._requests[stream_id]
        self._refuse(stream_id, request.refusal or doh.TOO_LARGE, is_head=request.is_head)
        self._codec.reset(stream_id, NO_ERROR)

    def _answer(self, stream_id: int, request: _Request) -> None:
        """Answer a complete request, or let its query wait for the service."""
        connection = self._connection
        self._idle_since = connection.now()
        self._turn_messages += 1
        if request.refusal is not None:
            self._refuse(stream_id, request.refusal, is_head=request.is_head)
            return
        message = request.message
        if request.body is not None:
            message = bytes(request.body)
            if message and self._codec.is_open(stream_id):
                self._codec.acknowledge(stream_id, len(message))
        exchange = self._waiting[stream_id] = _Exchange(self, stream_id)
        connection.waiting = len(self._waiting)
        try:
            reply, fresh, pending = connection.ask(message, exchange)
        except BaseException:
            connection.abort()  # out of memory: there will be no reply, so the client must not wait for one
            raise
        if reply is not None:
            self.finish(exchange, reply, fresh)
        elif pending is not None and stream_id in self._waiting:
            exchange.pending = pending
        connection.note_progress()

    def finish(self, exchange: _Exchange, packet: bytes | None, fresh: int | None) -> None:
        """Send `packet` as the response of `exchange`; None sends status 400. `fresh`: seconds for which it may be
        cached; None: it may not."""
        stream_id, connection = exchange.stream_id, self._connection
        if self._waiting.pop(stream_id, None) is None:
            return
        connection.waiting = len(self._waiting)
        self._idle_since = connection.now()
        if not self._codec.is_open(stream_id) or self._transport.is_closing():
            return
        if packet is None:
            self._refuse(stream_id, doh.Refusal(400, "The message is not a DNS query."))
        else:
            fields = [
                (b"content-type", doh.MEDIA_TYPE),
                (b"content-length", b"%d" % len(packet)),
                (b"cache-control", doh.cache_control(fresh)),
            ]
            self._codec.send_response(stream_id, Response(200, fields))
            self._codec.send_data(stream_id, packet, end=True)
            self._unsent.given += len(packet)
            self._turn_octets += len(packet)
        # Each response is sent in its own TLS record: dnsperf loses all but the first of several in one.
        self._flush()
        if not self._in_feed:
            connection.note_progress()
            self._close_if_done()

    def _refuse(self, stream_id: int, refusal: doh.Refusal, *, is_head: bool = False) -> None:
        """Send an error response."""
        codec = self._codec
        self._connection.listener.note_refused(refusal.status)
        body = refusal.text.encode() + b"\n"
        fields = [(b"content-type", b"text/plain"), (b"cache-control", doh.NO_STORE)]
        if refusal.status == 405:
            fields.append((b"allow", doh.METHODS))
        codec.send_response(stream_id, Response(refusal.status, fields), end=is_head)
        if not is_head:
            codec.send_data(stream_id, body, end=True)
            self._unsent.given += len(body)
            self._turn_octets += len(body)

    # --- octets ----------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        """Write what the codec has to send. Abort the connection when too much of it is unsent."""
        transport, codec = self._transport, self._codec
        if transport.is_closing():
            return
        data = codec.data_to_send(not self._failed)
        if data:
            transport.write(data)
        unsent = codec.unsent()
        self._unsent.update(unsent, self._connection.now())
        blocked = 0 if self._write_blocked_since is None else transport.get_write_buffer_size()
        if unsent + blocked > limits.STREAM_WRITE_LIMIT:
            self._connection.listener.write_overrun += 1
            self._connection.abort()

    def _is_done(self) -> bool:
        # Data that flow control holds back stays unsent, because no WINDOW_UPDATE can arrive after the end of the
        # client, and requests that wait for it are not answered.
        waits = self._waiting or self._unread or self._events or (self._complete and self._may_answer())
        return not (waits or self._write_blocked_since is not None)

    def _wants_input(self) -> bool:
        return self._write_blocked_since is None and not self._unread and not self._events
