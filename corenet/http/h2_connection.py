"""HTTP/2 with I/O: many exchanges on one transport, each with the interface of an HTTP/1.1 `Connection`.

`MultiplexedConnection` is the asyncio Protocol that moves bytes between a transport and an `H2Connection`. An
`Exchange` is one request and its response. An exchange that ends early resets its stream; the connection stays open.

States of the connection, and what moves them (the `Transition`s below, which alone change `state`)::

    state   | made | close   | lost
    --------+------+---------+-------
    OPENING | OPEN |         |
    OPEN    |      | CLOSING | CLOSED
    CLOSING |      | CLOSING | CLOSED
    CLOSED  |      | CLOSED  |

made: the transport is connected and ALPN has selected HTTP/2. close: we call `close` or `abort`. lost: the
descriptor is closed. After a GOAWAY no new request may begin (`can_serve`), and requests that the server processes are
completed; the codec keeps that state.

A path that was lost (NAT, failover) is only silent. So a PING is sent when a request times out, or is cancelled after
`HTTP2_PING_SECONDS`, and nothing was received since it began. When nothing follows in that time either (`is_silent`),
no new request may begin, and the next one opens a new connection. Any byte ends that state.

Invariants: `exchanges` maps the number of each stream that is open in the codec to its exchange; an exchange is
`complete`, or has an `error`, or its stream is open. Bytes of the codec are written at the end of the loop iteration,
so that the requests of one iteration share a TLS record.

Each exchange has its own read timeout. It ends when nothing was received on its stream for that long and nothing of its
request was sent either. What other streams receive and send does not count, nor does a PING. All streams share the
transport's buffer, so an exchange notes how far its own bytes reach in it (`mark`); `sending` has the exchanges whose
bytes are in the codec.

Flow control: a collected body is acknowledged when it is received, up to `max_body` bytes, a streamed body when it is
read. So a slow reader slows only its own stream. Data to send waits in the codec for the server's windows, and the
upload waits in `drain`.
"""

import asyncio
import math
from collections.abc import Callable
from typing import cast

from corenet.http.errors import Http2Error, RemoteProtocolError, ServerDisconnected, TimeoutExceeded
from corenet.http.events import Data, End, Informational, Request, Response
from corenet.http.exchange import BodySender, ConnectionBase, ExchangeBase
from corenet.http.h2 import CLIENT, H2Connection
from corenet.http.h2_events import (
    CANCEL,
    HTTP_1_1_REQUIRED,
    Drained,
    Goaway,
    SettingsReceived,
    StreamReset,
    error_name,
)
from corenet.http.transitions import Transition
from corenet.http.url import Origin
from corenet.limits import HTTP2_CONNECTION_WINDOW, HTTP2_PING_SECONDS, HTTP2_SETTLE_SECONDS, HTTP2_STREAM_WINDOW

__all__ = ["Exchange", "MultiplexedConnection"]

_STATES = ("OPENING", "OPEN", "CLOSING", "CLOSED")
OPENING, OPEN, CLOSING, CLOSED = range(len(_STATES))

_PING = b"is alive"  # eight bytes, with any content

_MADE = Transition("made", _STATES, {OPENING: OPEN})
_CLOSE = Transition("close", _STATES, {OPEN: CLOSING, CLOSING: CLOSING, CLOSED: CLOSED})
_LOST = Transition("lost", _STATES, {OPEN: CLOSED, CLOSING: CLOSED})


class Exchange(ExchangeBase):
    """One request and its response on one stream; made by `MultiplexedConnection.begin`, owned by its caller.

    `mark`: where its last bytes end among those that the connection has written. `queued`: how many of its bytes the
    codec had at that time, -1 when it got more since.
    """

    __slots__ = ("began", "connection", "mark", "queued", "sent", "stream")

    def __init__(self, connection: "MultiplexedConnection") -> None:
        super().__init__(connection.loop)
        self.connection = connection
        self.began = self.loop.time()
        self.stream = 0
        self.sent = False
        self.mark = 0
        self.queued = -1

    @property
    def content_coded(self) -> bool:
        """True when the response has a content coding."""
        return self.response is not None and "content-encoding" in self.response.headers

    # --- the request --------------------------------------------------------------------------------------------------

    def send_request(self, request: Request, scheme: bytes, body: bytes | None, upload: BodySender | None) -> None:
        """Open the stream and send the head, and the whole body if it is given as bytes.

        Raises:
            LocalProtocolError: when the request cannot be sent over HTTP/2.
        """
        connection = self.connection
        codec = connection.codec
        self.upload = upload
        self.sent = upload is None
        self.stream = codec.send_request(request, body is None and upload is None, scheme)
        connection.exchanges[self.stream] = self
        if body is not None:
            codec.send_data(self.stream, body, True)
        self._flush_soon()
        connection.watch(self.due)

    def write_piece(self, piece: bytes) -> None:
        """Send a piece of the body.

        Raises:
            LocalProtocolError: when the body is longer than its Content-Length.
        """
        self.last_activity = self.loop.time()
        waiting = self.connection.codec.send_data(self.stream, piece)
        self._flush_soon()
        if waiting or self.connection.writing_paused:
            self.must_drain()

    def write_end(self) -> None:
        """Send the end of the body.

        Raises:
            LocalProtocolError: when the body is shorter than its Content-Length.
        """
        self.upload = None
        self.sent = True
        self.last_activity = self.loop.time()
        self.connection.codec.send_end(self.stream)
        self._flush_soon()

    def _flush_soon(self) -> None:
        """The codec has got bytes of this exchange."""
        self.queued = -1
        self.connection.sending.add(self)
        self.connection.flush_soon()

    # --- the response -------------------------------------------------------------------------------------------------

    def taken(self, piece: bytes) -> None:
        """Acknowledge a piece that the reader has taken; raise ResponseTooLarge when the body is over `max_body`."""
        if self.size > self.max_body:
            raise self.too_large()
        if not self.complete:
            self.last_activity = self.loop.time()
            self.connection.acknowledge(self.stream, len(piece))

    def receive(self, event: object) -> None:
        """Handle one event of the stream."""
        kind = type(event)
        self.last_activity = self.loop.time()
        if kind is Data:
            piece = cast(Data, event).data
            self.parts.add(piece)
            self.size += len(piece)
            if self.collecting:
                if self.size > self.max_body:
                    self.fail(self.too_large())
                else:
                    self.connection.acknowledge(self.stream, len(piece))
                return
        elif kind is Response:
            self.response = cast(Response, event)
            if self.upload is not None:
                self.upload.answered(self.response.status)
            if self.collecting:
                return
        elif kind is Informational:
            self.informational += (cast(Informational, event),)
            if self.upload is not None:
                self.upload.answered(self.informational[-1].status)
            return
        elif kind is End:
            self.trailers = cast(End, event).trailers
            self.complete = True
            # The unsent rest of the request is no longer needed; if there is one, the stream is reset.
            self.abort()
        elif kind is StreamReset:
            self._reset(cast(StreamReset, event))
            return
        elif kind is Drained:
            if not self.connection.writing_paused:
                self.may_send()
            return
        self.wake()

    def _reset(self, event: StreamReset) -> None:
        wants_http1 = event.code == HTTP_1_1_REQUIRED or (event.unprocessed and self.connection.wants_http1)
        if event.by_peer and wants_http1:
            text = "the server requires HTTP/1.1 for this request (HTTP_1_1_REQUIRED)"
            self.fail(ServerDisconnected(text, received=self.response is not None, wants_http1=True))
        elif event.by_peer and event.unprocessed:
            text = f"the server did not process the request ({error_name(event.code)})"
            self.fail(ServerDisconnected(text, received=self.response is not None, unprocessed=True))
        elif event.by_peer:
            # Not a lost connection, so not repeated: the server may have processed the request (RFC 9113 section 8.7).
            self.fail(RemoteProtocolError(f"the server reset the stream ({error_name(event.code)})"))
        else:
            self.fail(RemoteProtocolError(event.reason))

    # --- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> bool:
        """End the exchange; return whether its connection can carry another."""
        self.abort()
        self.parts.clear()
        return self.connection.can_serve

    def abort(self) -> None:
        """End the exchange; its stream is reset unless both sides have ended it."""
        self.stop_upload()
        self.may_send()
        connection = self.connection
        if not self.complete and self.stream in connection.exchanges:
            if self.loop.time() - self.began >= HTTP2_PING_SECONDS:
                connection.probe(self.began)
        connection.end(self)

    def check(self, now: float) -> float:
        """Fail the exchange when a timeout has expired; return when to check again."""
        connection = self.connection
        buffered = connection.transport.get_write_buffer_size() - (connection.written - self.mark)
        unsent = connection.codec.unsent(self.stream) + max(0, buffered)
        slow_reader = bool(self.parts) and not self.collecting
        due = self.check_time(now, connection.origin, unsent=unsent, sent=self.sent, slow_reader=slow_reader)
        if isinstance(self.error, TimeoutExceeded):
            connection.probe(self.began)
        return due


class MultiplexedConnection(ConnectionBase):
    """A client's HTTP/2 connection to one origin. Made by `connect.open_connection`, owned by the pool."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        *,
        scratch: memoryview | None = None,
        max_head: int | None = None,
        max_streams: int = 1,
    ) -> None:
        self.loop = loop
        self.own(origin, scratch)
        # The sum of the streams' windows, so that slow readers of some streams never stop the others.
        window = min(HTTP2_CONNECTION_WINDOW.maximum, (max_streams + 1) * HTTP2_STREAM_WINDOW.default)
        self.codec = H2Connection(CLIENT, max_head=max_head, connection_window=window)
        self.state = OPENING
        self.exchanges: dict[int, Exchange] = {}
        self.on_change: Callable[[], None] | None = None
        self.flushing = False
        self.sending: set[Exchange] = set()
        # Bytes that the transport was given.
        self.written = 0
        # Whether a GOAWAY had the code HTTP_1_1_REQUIRED; the resets that follow it have another.
        self.wants_http1 = False
        self.writing_paused = False
        # When bytes last arrived and when a PING was last sent, times of the loop's clock.
        self.received_at = self.probed_at = -math.inf

    @property
    def is_busy(self) -> bool:
        """True while an exchange is in progress."""
        return bool(self.exchanges)

    @property
    def is_gone(self) -> bool:
        """True when the descriptor is closed."""
        return self.state == CLOSED

    @property
    def can_serve(self) -> bool:
        """True when a request may begin, now or after another one has ended."""
        return (
            self.state == OPEN and self.codec.accepting and not self.is_silent and not self.transport.is_closing()
        )

    @property
    def is_silent(self) -> bool:
        """True when the server has sent nothing for `HTTP2_PING_SECONDS` after a PING."""
        return self.received_at < self.probed_at <= self.loop.time() - HTTP2_PING_SECONDS

    @property
    def stream_limit(self) -> int:
        """How many concurrent requests the server allows."""
        return self.codec.stream_limit

    # --- requests -----------------------------------------------------------------------------------------------------

    def begin(self, *, collecting: bool, max_body: float, deadline: float, read_timeout: float) -> Exchange:
        """Create an exchange. `max_body` is in bytes, `deadline` a time of the loop's clock, `read_timeout` in seconds;
        `math.inf`: none. `collecting`: the body is kept until it is complete."""
        exchange = Exchange(self)
        exchange.prepare(collecting, max_body, deadline, read_timeout)
        return exchange

    def is_usable(self) -> bool:
        """Return whether a request may begin now; an idle connection must have no unread input."""
        if not self.can_serve or not self.codec.can_open:
            return False
        if self.exchanges or self.loop.time() - self.idle_since < HTTP2_SETTLE_SECONDS:
            return True
        return self.has_no_input()

    def acknowledge(self, stream: int, size: int) -> None:
        """Record that `size` bytes were consumed, so that the server may send as many more."""
        self.codec.acknowledge(stream, size)
        self.flush_soon()

    def probe(self, since: float) -> None:
        """Send a PING, unless bytes have arrived after `since`, a time of the loop's clock, or one is unanswered."""
        if self.state == OPEN and self.received_at < since and self.probed_at <= self.received_at:
            self.probed_at = self.loop.time()
            self.codec.ping(_PING)
            self.flush_soon()

    def end(self, exchange: Exchange) -> None:
        """Remove an exchange; reset its stream unless it has ended."""
        self.sending.discard(exchange)
        if self.exchanges.pop(exchange.stream, None) is not None:
            self.codec.reset(exchange.stream, CANCEL)
            self.flush_soon()
            if not self.exchanges:
                self.idle_since = self.loop.time()

    def flush_soon(self) -> None:
        """Write the codec's bytes at the end of this loop iteration."""
        if not self.flushing and self.state == OPEN:
            self.flushing = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self.flushing = False
        if self.state == OPEN:
            data = self.codec.data_to_send()
            if data:
                self.transport.write(data)
                self.written += len(data)
            for exchange in tuple(self.sending):
                queued = self.codec.unsent(exchange.stream)
                if queued != exchange.queued:
                    exchange.queued, exchange.mark = queued, self.written
                if not queued:
                    self.sending.discard(exchange)

    # --- closing ------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Send GOAWAY and close; abort after `HTTP_CLOSE_TIMEOUT` seconds without the peer's close_notify."""
        if self.state >= CLOSING:
            return
        if not self.codec.goaway_sent:
            self.codec.goaway()
        self._flush()
        self.state = _CLOSE[self.state]
        self.close_transport()

    def abort(self) -> None:
        """Close at once with a TCP reset; unsent data is dropped."""
        if self.state == CLOSED:
            return
        self.state = _CLOSE[self.state]
        self.reset_transport()

    def fail(self, error: BaseException) -> None:
        """Fail all exchanges with an error and abort the connection."""
        self._fail_exchanges(lambda _: error)
        self.abort()

    def _fail_exchanges(self, error: Callable[[Exchange], BaseException]) -> None:
        for exchange in list(self.exchanges.values()):
            exchange.fail(error(exchange))

    # --- callbacks of the transport -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.state = _MADE[self.state]
        self.flush_soon()

    def buffer_updated(self, nbytes: int) -> None:
        if self.state != OPEN:
            return
        failure: Http2Error | None = None
        now = self.received_at = self.loop.time()
        try:
            events = self.codec.feed(self.scratch[:nbytes], now)
        except Http2Error as error:
            # A response that was complete before the fault counts, in whichever pieces the input comes.
            events, failure = error.events, error
        changed = False
        exchanges = self.exchanges
        for stream, event in events:
            if stream:
                exchange = exchanges.get(stream)
                if exchange is None:
                    continue
                if type(event) is StreamReset or (type(event) is End and not self.codec.is_open(stream)):
                    # The codec has ended the stream.
                    del exchanges[stream]
                    if not exchanges:
                        self.idle_since = self.loop.time()
                exchange.receive(event)
            elif type(event) is Goaway or type(event) is SettingsReceived:
                changed = True
                if type(event) is Goaway and event.code == HTTP_1_1_REQUIRED:
                    self.wants_http1 = True
        if failure is not None:
            # Each exchange gets its own exception object. `close` sends the GOAWAY with the reason.
            text, code = str(failure), failure.code
            self._fail_exchanges(lambda _: Http2Error(text, code))
            self.close()
            return
        self.flush_soon()
        if changed and self.on_change is not None:
            self.on_change()

    def eof_received(self) -> bool | None:
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.state = _LOST[self.state]
        self.disarm()
        text = self.describe_loss(exc)
        self._fail_exchanges(lambda exchange: ServerDisconnected(text, received=exchange.response is not None))
        self.report_closed()

    def pause_writing(self) -> None:
        self.writing_paused = True

    def resume_writing(self) -> None:
        self.writing_paused = False
        for exchange in list(self.exchanges.values()):
            if exchange.drain_waiter is not None and not self.codec.unsent(exchange.stream):
                exchange.may_send()

    def on_timer(self) -> None:
        self.timer = None
        if self.state == CLOSING:
            self.abort()
            return
        now = self.loop.time()
        due = min((exchange.check(now) for exchange in list(self.exchanges.values())), default=math.inf)
        if self.timer is None and self.state == OPEN:
            self.arm(due)
