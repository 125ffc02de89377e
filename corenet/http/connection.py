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

The result of the exchange is not part of the state, because its owner may read it after the connection is gone:
`complete` (the end was received), or else `error`, which every later call raises. Invariant: in IDLE there is no
waiter, no upload, no error and nothing to send.

Ownership: the holder of the pool's slot drives the connection from IDLE to the end of the exchange, the pool in IDLE
and CLOSING. The transport owns the descriptor. The task that waits owns `waiter`; a second one is refused.

It is a protocol and not a pair of streams, because a small request then costs one future. It is a buffered protocol, so
that small reads share one buffer of all connections and a large body is received into its final memory. Time-outs use
one timer: a read only sets `last_activity`, and the timer checks it when it fires, so that steady traffic does not
touch the timer heap. A graceful close has a time-out too: data that the peer does not accept by then is dropped.
"""

import asyncio
import math
import socket
import struct
from collections.abc import Callable
from typing import Any, Protocol, cast

from corenet import tls
from corenet.http.body_buffer import BodyBuffer
from corenet.http.errors import RemoteProtocolError, ResponseTooLarge, ServerDisconnected, TimeoutExceeded
from corenet.http.events import Data, End, Informational, Response
from corenet.http.h1 import CLIENT, H1Codec
from corenet.http.pieces import Pieces
from corenet.http.transitions import Transition
from corenet.http.url import Origin
from corenet.limits import (
    HTTP_CLOSE_TIMEOUT,
    HTTP_READ_SIZE,
    HTTP_RECEIVE_INTO_MIN,
    HTTP_SENT_AT_ONCE,
    HTTP_STREAM_HIGH_WATERMARK,
)
from corenet.loop.sockops import has_no_pending_input
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
_RESET = struct.pack("ii", 1, 0)


class BodySender(Protocol):
    """Sends the body of a request piece by piece; `waiting`: its iterator has not yet yielded the next piece."""

    waiting: bool

    def answered(self, status: int) -> None:
        """Hear of a 1xx response, or of the head of the final one."""
        ...

    def stop(self) -> None:
        """Send no more bytes."""
        ...


class Connection(asyncio.BufferedProtocol):
    """A client connection to one origin. Created by `connect.open_connection`, owned by the pool between exchanges."""

    __slots__ = (
        "body",
        "codec",
        "collecting",
        "complete",
        "deadline",
        "descriptor",
        "drain_waiter",
        "error",
        "idle_since",
        "informational",
        "last_activity",
        "loop",
        "lost",
        "max_body",
        "on_closed",
        "origin",
        "parts",
        "paused",
        "read_timeout",
        "response",
        "scratch",
        "secure",
        "size",
        "ssl_pending",
        "state",
        "timer",
        "timer_due",
        "tls_read_buffer_size",
        "trailers",
        "transport",
        "unsent",
        "upload",
        "waiter",
        "written",
    )

    transport: asyncio.Transport
    tls_read_buffer_size: Callable[[], int]
    ssl_pending: Callable[[], int]

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        *,
        scratch: memoryview | None = None,
        max_head: int | None = None,
    ) -> None:
        self.loop = loop
        # A readiness loop fills the buffer as soon as it got it, so all connections of a thread can share one.
        self.scratch = memoryview(bytearray(HTTP_READ_SIZE)) if scratch is None else scratch
        self.state = OPENING
        self.body: BodyBuffer | None = None
        self.origin = origin
        self.codec = H1Codec(CLIENT, max_head=max_head)
        self.secure = origin.scheme == "https"
        self.idle_since = 0.0
        self.lost: asyncio.Future[None] | None = None
        self.on_closed: Callable[[], None] | None = None
        self.collecting = True
        self.complete = False
        self.error: BaseException | None = None
        self.response: Response | None = None
        # At most HTTP_INFORMATIONAL_RESPONSES, which the codec counts.
        self.informational: tuple[Informational, ...] = ()
        self.trailers = _END.trailers
        self.parts = Pieces()
        self.size = 0
        self.max_body: float = math.inf
        self.paused = False
        # A copy of the transport's descriptor number, used between exchanges.
        self.descriptor = -1
        self.deadline = math.inf
        self.read_timeout = math.inf
        self.last_activity = 0.0
        self.unsent = 0
        self.timer: asyncio.TimerHandle | None = None
        self.timer_due = math.inf
        self.upload: BodySender | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.drain_waiter: asyncio.Future[None] | None = None
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
        self.collecting = collecting
        self.max_body = max_body
        self.deadline = deadline
        self.read_timeout = read_timeout
        self.complete = False
        self.response = None
        self.informational = ()
        self.trailers = _END.trailers
        self.size = 0
        self.written = 0
        now = self.last_activity = self.loop.time()
        due = min(deadline, now + read_timeout)
        if self.timer is None or due < self.timer_due:
            self._arm(due)

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

    async def drain(self) -> None:
        """Wait while the transport's queue is above its high watermark, at most until the exchange ends."""
        if self.drain_waiter is not None:
            await self.drain_waiter

    async def wait(self) -> None:
        """Wait for the end of the exchange when collecting, otherwise for the next change.

        Raises:
            HttpError: the reason why the exchange ended early. Exceptions of the body's iterator are raised unchanged.
            RuntimeError: when another task waits.
        """
        if self.error is not None:
            raise self.error
        if self.complete:
            return
        if self.waiter is not None:
            raise RuntimeError("another task is reading this response")
        self.waiter = self.loop.create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    async def wait_head(self) -> Response:
        """Wait until the head of the final response has arrived and return it."""
        while self.response is None:
            await self.wait()
        return self.response

    def take_body(self) -> bytes:
        """Return the collected body, as it was sent."""
        if self.body is not None:
            return self.body.finish()
        return self.parts.take()

    async def next_piece(self) -> bytes | None:
        """Return the next piece of a streamed body, or None after its end."""
        while not self.parts:
            if self.complete and self.error is None:
                return None
            await self.wait()
        piece = self.parts.pop()
        if self.paused and self.parts.size <= HTTP_STREAM_HIGH_WATERMARK // 2:
            self.paused = False
            self.last_activity = self.loop.time()
            if not self.transport.is_closing():
                self.transport.resume_reading()
        return piece

    def finish(self) -> bool:
        """End the exchange; return whether the connection can carry another one. If not, it is closed."""
        clean = (
            self.state == ENDED
            and not self.transport.is_closing()
            and not self.transport.get_write_buffer_size()
        )
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
        if self.state != IDLE or self.transport.is_closing():
            return False
        if self.descriptor < 0 and not self._cache_socket_info():
            return False
        # The transport has not closed the descriptor. If it is closed nevertheless, recv fails and so does this check.
        if not has_no_pending_input(self.descriptor):
            return False
        # TLS records that are not yet decrypted, and plaintext that is not yet delivered.
        return not self.secure or not (self.tls_read_buffer_size() or self.ssl_pending())

    def _cache_socket_info(self) -> bool:
        """Store, once, what `is_usable` needs; False when there is no descriptor."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return False
        if self.secure:
            self.tls_read_buffer_size = cast(Any, self.transport).get_read_buffer_size
            self.ssl_pending = self.transport.get_extra_info("ssl_object").pending
        self.descriptor = sock.fileno()
        return True

    def close(self) -> None:
        """Send close_notify and close. Abort when the peer has not answered after `HTTP_CLOSE_TIMEOUT` seconds."""
        if self.state >= CLOSING:
            return
        self._leave()
        self._arm(self.loop.time() + HTTP_CLOSE_TIMEOUT)
        self.transport.close()

    def abort(self) -> None:
        """Close at once with a reset, so that the server notices at once. Queued data is dropped."""
        if self.state == CLOSED:
            return
        self._leave()
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def fail(self, error: BaseException) -> None:
        """End the exchange with an error, unless it already has one, and close the connection."""
        if self.error is None:
            self.error = error
        self.abort()
        self._wake(self.error)

    def _leave(self) -> None:
        self.state = _LEAVE[self.state]
        self._disarm()
        self._stop_upload()

    def _stop_upload(self) -> None:
        upload, self.upload = self.upload, None
        if upload is not None:
            upload.stop()

    # --- what the transport calls ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.lost = self.loop.create_future()
        self.state = _MADE[self.state]

    def get_buffer(self, sizehint: int) -> memoryview:
        body = self.body
        if body is not None and self.state == READING:
            return memoryview(body)
        return self.scratch

    def buffer_updated(self, nbytes: int) -> None:
        body = self.body
        if body is None or self.state != READING:
            self._received(bytes(self.scratch[:nbytes]))
            return
        self.last_activity = self.loop.time()
        body.advance(nbytes)
        self.size += nbytes
        if self.codec.count(nbytes):
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
            self.fail(ResponseTooLarge(f"the body of the response is over the limit of {self.max_body} bytes"))
        elif ended:
            self._ended()
        elif self.collecting:
            if self.codec.length_left >= HTTP_RECEIVE_INTO_MIN:
                self._collect_directly(self.codec.length_left)
        else:
            if self.parts.size > HTTP_STREAM_HIGH_WATERMARK and not self.paused:
                self.paused = True
                self.transport.pause_reading()
            self._wake(None)

    def _collect_directly(self, left: int) -> None:
        """Receive the rest of a large body directly into its final bytes object."""
        if self.size + left > self.max_body:
            self.fail(ResponseTooLarge(f"the body of the response is over the limit of {self.max_body} bytes"))
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
            self._stop_upload()
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

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
        self._disarm()
        self._stop_upload()
        if interrupted:
            received = self.codec.started
            failure = tls.describe_handshake_error(exc) if exc is not None else None
            reason = f": {failure.reason if failure else exc}" if exc is not None else ""
            self.error = ServerDisconnected(f"the connection was lost{reason}", received=received)
            self._wake(self.error)
        self.resume_writing()
        if self.lost is not None and not self.lost.done():
            self.lost.set_result(None)
        if self.on_closed is not None:
            self.on_closed()

    def pause_writing(self) -> None:
        if self.drain_waiter is None:
            self.drain_waiter = self.loop.create_future()

    def resume_writing(self) -> None:
        gate, self.drain_waiter = self.drain_waiter, None
        if gate is not None and not gate.done():
            gate.set_result(None)

    # --- times ----------------------------------------------------------------------------------------------------

    def _wake(self, error: BaseException | None) -> None:
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)

    def _arm(self, due: float) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if due != math.inf:
            self.timer_due = due
            self.timer = self.loop.call_at(due, self._on_timer)

    def _disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _on_timer(self) -> None:
        self.timer = None
        if self.state == CLOSING:
            self.abort()
            return
        if not SENDING <= self.state < ENDED:
            return
        now = self.loop.time()
        unsent = self.transport.get_write_buffer_size()
        if self.paused or (unsent and unsent != self.unsent):
            # Our reader is slow, or the server is slow but still accepts data.
            self.last_activity = now
        self.unsent = unsent
        due = min(self.deadline, self.last_activity + self.read_timeout)
        if due > now:
            self._arm(due)
            return
        stalled = self.upload is not None and self.upload.waiting
        if now >= self.deadline:
            what = "the request took longer than its total time" + (", waiting for its body" if stalled else "")
        elif stalled:
            what = f"the request body yielded nothing for {self.read_timeout:g} s"
        else:
            what = f"no byte was sent or received for {self.read_timeout:g} s"
        sent = self.codec.sending_done and not unsent
        self.fail(TimeoutExceeded(f"{self.origin}: {what}", "response" if sent else "request"))
