"""One HTTP/1.1 connection: a codec on a transport, as an asyncio Protocol.

A connection carries one exchange at a time. It is used again only after a clean exchange: both messages complete,
nothing of ours unsent (nor possibly unsent, see `_may_have_unsent`), no unexpected bytes from the server. A late
response must not be taken for the response to a later request. So `is_usable` checks the kernel and TLS for input right
before every `begin`.

States and events (the `Transition`s below, the only way to change `state`; an event in an empty cell raises)::

    state         | made | begin   | sent          | head    | end   | reuse | leave   | lost
    --------------+------+---------+---------------+---------+-------+-------+---------+-------
    OPENING       | IDLE |         |               |         |       |       |         |
    IDLE          |      | SENDING |               |         |       |       | CLOSING | CLOSED
    SENDING       |      |         | AWAITING_HEAD | READING |       |       | CLOSING | CLOSED
    AWAITING_HEAD |      |         |               | READING |       |       | CLOSING | CLOSED
    READING       |      |         | READING       |         | ENDED |       | CLOSING | CLOSED
    ENDED         |      |         |               |         |       | IDLE  | CLOSING | CLOSED
    CLOSING       |      |         |               |         |       |       | CLOSING | CLOSED
    CLOSED        |      |         |               |         |       |       | CLOSED  |

made: the transport exists. begin: a request starts. sent: the last byte of the request was passed to the transport,
which may still queue it. head, end: of the final response. While it is read the request may still be in flight; an end
before `sent` stops the upload. reuse: the exchange was clean. leave: `close` or `abort`, always on our side. lost: the
transport has closed its descriptor. Connections that switch protocols are not supported: the codec refuses 101, and the
connection is closed after CONNECT.

The result of the exchange is not part of the state, because its owner may read it after the connection is gone.
Invariant: in IDLE there is no waiter, no upload, no error and nothing to send.

Ownership: the holder of the pool's slot drives the connection from IDLE to the end of the exchange, the pool in IDLE
and CLOSING. The transport owns the descriptor. The task that waits owns `waiter`; a second one is refused.

It is a protocol and not a pair of streams, because a small request then costs one future. It is a buffered protocol, so
that small reads share one buffer of all connections and a large body is received into its final memory. Timers,
waiting, the result and closing are the same for HTTP/2, in `exchange.py`.
"""

import asyncio
import math
from typing import cast

from corenet import tls
from corenet.http.body_buffer import BodyBuffer
from corenet.http.errors import RemoteProtocolError, ServerDisconnected
from corenet.http.events import Data, End, Informational, Response
from corenet.http.exchange import BodySender, ConnectionBase, ExchangeBase
from corenet.http.h1 import CLIENT, H1Codec
from corenet.http.transitions import Transition
from corenet.http.url import Origin
from corenet.limits import HTTP_RECEIVE_INTO_MIN, HTTP_SENT_AT_ONCE, HTTP_STREAM_HIGH_WATERMARK
from corenet.tls.ssl_transport_type import SSLTransport

__all__ = ["Connection"]

_STATES = ("OPENING", "IDLE", "SENDING", "AWAITING_HEAD", "READING", "ENDED", "CLOSING", "CLOSED")
OPENING, IDLE, SENDING, AWAITING_HEAD, READING, ENDED, CLOSING, CLOSED = range(len(_STATES))

_MADE = Transition("made", _STATES, {OPENING: IDLE})
_BEGIN = Transition("begin", _STATES, {IDLE: SENDING})
_SENT = Transition("sent", _STATES, {SENDING: AWAITING_HEAD, READING: READING})
_HEAD = Transition("head", _STATES, {SENDING: READING, AWAITING_HEAD: READING})
_FINAL = Transition("end", _STATES, {READING: ENDED})
_REUSE = Transition("reuse", _STATES, {ENDED: IDLE})
_LEAVE = Transition("leave", _STATES, {CLOSED: CLOSED} | dict.fromkeys(range(IDLE, CLOSED), CLOSING))
_LOST = Transition("lost", _STATES, dict.fromkeys(range(IDLE, CLOSED), CLOSED))

_END = End()


class Connection(ExchangeBase, ConnectionBase):
    """A client connection to one origin. Created by `connect.open_connection`, owned by the pool between exchanges."""

    __slots__ = ("body", "codec", "paused", "state", "written")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        *,
        scratch: memoryview | None = None,
        max_head: int | None = None,
    ) -> None:
        super().__init__(loop)
        self.own(origin, scratch)
        self.state = OPENING
        self.codec = H1Codec(CLIENT, max_head=max_head)
        # A large body, received directly into its final object.
        self.body: BodyBuffer | None = None
        self.paused = False
        # Bytes of the current request.
        self.written = 0

    @property
    def is_busy(self) -> bool:
        """True from the start of an exchange to its end, whether or not the owner has noticed the end."""
        return SENDING <= self.state <= ENDED

    @property
    def is_gone(self) -> bool:
        """True when the descriptor is closed."""
        return self.state == CLOSED

    @property
    def content_coded(self) -> bool:
        """True when the response has a content coding."""
        return self.codec.content_coded

    # --- the exchange, as the client drives it --------------------------------------------------------------------

    def begin(self, *, collecting: bool, max_body: float, deadline: float, read_timeout: float) -> None:
        """Prepare for one exchange; times in seconds of the loop's clock, `math.inf` for none."""
        self.state = _BEGIN[self.state]
        self.prepare(collecting, max_body, deadline, read_timeout)
        self.written = 0
        self.watch(self.due)

    def write_whole(self, request: bytes) -> None:
        """Send a complete request. The transport queues what the kernel does not accept."""
        self.state = _SENT[self.state]
        self._write(request)

    def write_head(self, head: bytes, upload: BodySender) -> None:
        """Send the head of a request; `upload` sends the body."""
        self.upload = upload
        self._write(head)

    def write_piece(self, piece: bytes) -> None:
        """Send a piece of the body.

        Raises:
            LocalProtocolError: when the body is longer than its Content-Length.
        """
        self.last_activity = self.loop.time()
        self._write(self.codec.send(Data(piece)))

    def write_end(self) -> None:
        """Send the end of the body.

        Raises:
            LocalProtocolError: when the body is shorter than its Content-Length.
        """
        end = self.codec.send(_END)
        self.upload = None
        self.state = _SENT[self.state]
        self.last_activity = self.loop.time()
        self._write(end)

    def _write(self, data: bytes) -> None:
        self.written += len(data)
        self.transport.write(data)

    def take_body(self) -> bytes:
        """Return the collected body, as it was sent."""
        if self.body is not None:
            return self.body.finish()
        return super().take_body()

    def taken(self, piece: bytes) -> None:
        if self.paused and self.parts.size <= HTTP_STREAM_HIGH_WATERMARK // 2:
            self.paused = False
            self.last_activity = self.loop.time()
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def finish(self) -> bool:
        """End the exchange; return whether the connection can carry another one. If not, it is closed."""
        transport = self.transport
        clean = self.state == ENDED and not transport.is_closing() and not transport.get_write_buffer_size()
        self.body = None
        self.parts.clear()
        if clean and self.codec.reusable and not self._may_have_unsent():
            if self.paused:
                # The end arrived together with the data for which reading was paused, and that was not read.
                self.paused = False
                self.transport.resume_reading()
            self.codec.next_cycle()
            self.state = _REUSE[self.state]
            self.idle_since = self.loop.time()
            return True
        if clean and self.codec.sending_done:
            self.close()
        else:
            # A part of our request would still be sent at an unknown time.
            self.abort()
        return False

    def _may_have_unsent(self) -> bool:
        """Return whether a layer below may hold a part of the request that `get_write_buffer_size` does not count.

        TLS transports of other loops count only what is above the transport below them. That one holds what the kernel
        did not accept, at most one large write, and no public method returns how much. A request small enough for any
        idle socket is sent at once.
        """
        return self.secure and self.written > HTTP_SENT_AT_ONCE and not isinstance(self.transport, SSLTransport)

    # --- between exchanges ----------------------------------------------------------------------------------------

    def is_usable(self) -> bool:
        """Return whether an idle connection may carry a request now: nothing was received since the last response.

        An end of file or unexpected bytes may be in the kernel, or in TLS, before the loop reports them, however short
        the connection was idle. The result holds until control returns to the loop.
        """
        return self.state == IDLE and not self.transport.is_closing() and self.has_no_input()

    def close(self) -> None:
        """Send close_notify and close. Abort when the peer has not answered after `HTTP_CLOSE_TIMEOUT` seconds."""
        if self.state >= CLOSING:
            return
        self._leave()
        self.close_transport()

    def abort(self) -> None:
        """Close at once with a reset, so that the server notices at once. Queued data is dropped."""
        if self.state == CLOSED:
            return
        self._leave()
        self.reset_transport()

    def _leave(self) -> None:
        self.state = _LEAVE[self.state]
        self.disarm()
        self.stop_upload()

    # --- what the transport calls ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.state = _MADE[self.state]

    def get_buffer(self, sizehint: int) -> memoryview:
        body = self.body
        if body is not None and self.state == READING:
            return memoryview(body)
        return super().get_buffer(sizehint)

    def buffer_updated(self, nbytes: int) -> None:
        body = self.body
        if body is None or self.state != READING:
            self._received(bytes(self.scratch[:nbytes]))
            return
        self.last_activity = self.loop.time()
        body.advance(nbytes)
        self.size += nbytes
        if self.codec.count_received(nbytes):
            self._ended()

    def _received(self, data: bytes) -> None:
        state = self.state
        if state == IDLE:
            # Bytes on an idle connection. They must not be taken for the response to a later request.
            self.abort()
            return
        if state > ENDED:
            return
        self.last_activity = self.loop.time()
        ended = False
        try:
            for event in self.codec.feed(data):
                kind = type(event)
                if kind is Data:
                    piece = event.data  # type: ignore[attr-defined]
                    self.parts.add(piece)
                    self.size += len(piece)
                elif kind is End:
                    self.trailers = event.trailers  # type: ignore[attr-defined]
                    ended = True
                elif kind is Response:
                    self.state = _HEAD[self.state]
                    self.response = cast(Response, event)
                    if self.upload is not None:
                        self.upload.answered(self.response.status)
                else:
                    self.informational += (cast(Informational, event),)
                    if self.upload is not None:
                        self.upload.answered(self.informational[-1].status)
        except RemoteProtocolError as error:
            self.fail(error)
            return
        if self.size > self.max_body:
            self.fail(self.too_large())
        elif ended:
            self._ended()
        elif self.collecting:
            if self.codec.length_left >= HTTP_RECEIVE_INTO_MIN:
                self._collect_directly(self.codec.length_left)
        else:
            if self.parts.size > HTTP_STREAM_HIGH_WATERMARK and not self.paused:
                self.paused = True
                self.transport.pause_reading()
            self.wake()

    def _collect_directly(self, left: int) -> None:
        """Receive the rest of a large body directly into its final bytes object."""
        if self.size + left > self.max_body:
            self.fail(self.too_large())
            return
        body = BodyBuffer(self.size + left)
        while self.parts:
            body.append(self.parts.pop())
        self.body = body

    def _ended(self) -> None:
        """The response is complete. The unsent rest of the request is not needed."""
        self.state = _FINAL[self.state]
        self.complete = True
        if self.upload is not None:
            self.stop_upload()
        self.wake()

    def eof_received(self) -> bool | None:
        if not SENDING <= self.state < ENDED:
            return None
        received = self.codec.started
        if (
            self.codec.until_close
            and self.secure
            and not tls.received_close_notify(self.transport.get_extra_info("ssl_object"))
        ):
            self.fail(
                ServerDisconnected("the body was cut off: the TLS connection ended without close_notify", received=True)
            )
            return None
        try:
            events = self.codec.feed_eof()
        except RemoteProtocolError:
            self.fail(ServerDisconnected("the server closed the connection inside its response", received=True))
            return None
        if not events:
            self.fail(ServerDisconnected("the server closed the connection without a response", received=received))
            return None
        self._ended()
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        interrupted = SENDING <= self.state < ENDED
        self.state = _LOST[self.state]
        self.disarm()
        self.stop_upload()
        if interrupted:
            self.error = ServerDisconnected(self.describe_loss(exc), received=self.codec.started)
            self.wake(self.error)
        self.may_send()
        self.report_closed()

    def pause_writing(self) -> None:
        self.must_drain()

    def resume_writing(self) -> None:
        self.may_send()

    def on_timer(self) -> None:
        self.timer = None
        if self.state == CLOSING:
            self.abort()
            return
        if not SENDING <= self.state < ENDED:
            return
        sent, unsent = self.codec.sending_done, self.transport.get_write_buffer_size()
        due = self.check_time(self.loop.time(), self.origin, unsent=unsent, sent=sent, slow_reader=self.paused)
        if due != math.inf:
            self.arm(due)
