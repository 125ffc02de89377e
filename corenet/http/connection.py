"""One codec on one transport: the I/O half of HTTP/1.1, as an asyncio Protocol.

Rule: a connection carries one exchange at a time and is used again only when that exchange ended cleanly; a cancel, a
time-out, bytes left over or bytes while idle close it (a late answer must never reach the next request). A protocol
rather than streams because a small request then costs one future; a buffered one because small reads then share one
buffer among all connections and a large body is received into its final place. Time-outs move one timer lazily: bytes
only note the time, and the timer looks at it when it fires, so that steady traffic never touches the timer heap.
"""

import asyncio
import math
import select
from collections.abc import Callable
from typing import Any, cast

from corenet import tls
from corenet.http.body import BodyBuffer
from corenet.http.errors import HttpError, RemoteProtocolError, ResponseTooLarge, ServerDisconnected, TimeoutExceeded
from corenet.http.events import Data, End, Response
from corenet.http.h1 import CLIENT, H1Codec
from corenet.http.pieces import Pieces
from corenet.http.url import Origin
from corenet.limits import HTTP_DIRECT, HTTP_IDLE_CHECK, HTTP_READ, HTTP_STREAM_HIGH

__all__ = ["Connection"]

_END = End()


class Connection(asyncio.BufferedProtocol):
    """A client connection to one origin. Made by `connect.open_connection`, owned by the pool between exchanges."""

    __slots__ = (
        "active",
        "body",
        "codec",
        "collecting",
        "deadline",
        "ended",
        "error",
        "exchanges",
        "idle_since",
        "loop",
        "lost",
        "max_body",
        "on_lost",
        "origin",
        "parts",
        "paused",
        "progress",
        "read_timeout",
        "response",
        "scratch",
        "secure",
        "size",
        "timer",
        "timer_due",
        "trailers",
        "transport",
        "unsent",
        "waiter",
        "write_gate",
    )

    transport: asyncio.Transport

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        *,
        scratch: memoryview | None = None,
        max_head: int | None = None,
    ) -> None:
        self.loop = loop
        # A readiness loop fills a buffer right after it asked for it, so one serves all connections of a thread.
        self.scratch = memoryview(bytearray(HTTP_READ.default)) if scratch is None else scratch
        self.body: BodyBuffer | None = None
        self.origin = origin
        self.codec = H1Codec(CLIENT, max_head=max_head)
        self.secure = origin.scheme == "https"
        self.exchanges = 0
        self.idle_since = 0.0
        self.lost: asyncio.Future[None] | None = None
        self.on_lost: Callable[[Connection], None] | None = None
        self.active = False
        self.collecting = True
        self.ended = False
        self.error: BaseException | None = None
        self.response: Response | None = None
        self.trailers = _END.trailers
        self.parts = Pieces()
        self.size = 0
        self.max_body: float = math.inf
        self.paused = False
        self.deadline = math.inf
        self.read_timeout = math.inf
        self.progress = 0.0
        self.unsent = 0
        self.timer: asyncio.TimerHandle | None = None
        self.timer_due = math.inf
        self.waiter: asyncio.Future[None] | None = None
        self.write_gate: asyncio.Future[None] | None = None

    # --- the exchange, as the client drives it --------------------------------------------------------------------

    def begin(self, *, collecting: bool, max_body: float, deadline: float, read_timeout: float) -> None:
        """Prepare for one exchange; times in seconds of the loop's clock, `math.inf` for none."""
        self.active = True
        self.collecting = collecting
        self.max_body = max_body
        self.deadline = deadline
        self.read_timeout = read_timeout
        self.ended = False
        self.error = None
        self.response = None
        self.body = None
        self.parts.clear()
        self.size = 0
        self.exchanges += 1
        now = self.progress = self.loop.time()
        due = min(deadline, now + read_timeout)
        if self.timer is None or due < self.timer_due:
            self._arm(due)

    async def wait(self) -> None:
        """Wait for what this exchange waits for: its end when collecting, else the next change.

        Raises:
            HttpError: what ended the exchange early.
        """
        if self.error is not None:
            raise self.error
        if self.ended:
            return
        self.waiter = self.loop.create_future()
        try:
            await self.waiter
        finally:
            self.waiter = None

    async def wait_head(self) -> Response:
        """Wait until the head of the final response is there and return it."""
        while self.response is None:
            await self.wait()
        return self.response

    def take_body(self) -> bytes:
        """Return the body that was collected, as it was sent."""
        if self.body is not None:
            return self.body.finish()
        return self.parts.take()

    async def next_piece(self) -> bytes | None:
        """Return the next piece of a streamed body, or None after its end."""
        while not self.parts:
            if self.ended and self.error is None:
                return None
            await self.wait()
        piece = self.parts.pop()
        if self.paused and self.parts.size <= HTTP_STREAM_HIGH.default // 2:
            self.paused = False
            self.progress = self.loop.time()
            if not self.transport.is_closing():
                self.transport.resume_reading()
        return piece

    def write(self, data: bytes) -> None:
        """Send bytes; what the kernel does not take is queued by the transport."""
        self.progress = self.loop.time()
        self.transport.write(data)

    async def drain(self) -> None:
        """Wait while the transport's queue is above its high mark."""
        if self.error is not None:
            raise self.error
        if self.write_gate is not None:
            await self.write_gate
            if self.error is not None:
                raise cast(BaseException, self.error)

    def finish(self) -> bool:
        """End the exchange; return whether the connection can carry another, else it is closed now."""
        self.active = False
        self.body = None
        self.parts.clear()
        if self.ended and self.error is None and self.codec.reusable and not self.transport.is_closing():
            self.codec.next_cycle()
            self.idle_since = self.loop.time()
            return True
        if self.ended and self.error is None:
            self.close()
        else:
            self.abort()
        return False

    # --- its life between exchanges -------------------------------------------------------------------------------

    def is_usable(self, now: float) -> bool:
        """Tell whether an idle connection may carry a request; looks at the socket when it was idle for long."""
        if self.transport.is_closing() or self.active:
            return False
        if now - self.idle_since < HTTP_IDLE_CHECK.default:
            return True
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return False
        # Readable while idle means closed by the peer or bytes nobody asked for; the loop has not told us yet.
        poller = select.poll()
        poller.register(sock.fileno(), select.POLLIN | select.POLLERR | select.POLLHUP)
        return not poller.poll(0)

    def close(self) -> None:
        """Close politely: what was written leaves, TLS says goodbye."""
        self._disarm()
        self.transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._disarm()
        self.transport.abort()

    # --- what the transport calls ---------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.lost = self.loop.create_future()

    def get_buffer(self, sizehint: int) -> memoryview:
        body = self.body
        if body is not None and body.filled < body.size and self.active:
            return memoryview(body)
        return self.scratch

    def buffer_updated(self, nbytes: int) -> None:
        body = self.body
        if body is None or body.filled == body.size or not self.active:
            self._received(bytes(self.scratch[:nbytes]))
            return
        self.progress = self.loop.time()
        body.advance(nbytes)
        self.size += nbytes
        if self.codec.count(nbytes):
            self.ended = True
            self._wake(None)

    def _received(self, data: bytes) -> None:
        if not self.active:
            # Bytes while idle: no later request may see them.
            self.abort()
            return
        self.progress = self.loop.time()
        try:
            for event in self.codec.feed(data):
                kind = type(event)
                if kind is Data:
                    piece = event.data  # type: ignore[attr-defined]
                    self.parts.add(piece)
                    self.size += len(piece)
                elif kind is End:
                    self.trailers = event.trailers  # type: ignore[attr-defined]
                    self.ended = True
                elif kind is Response:
                    self.response = cast(Response, event)
        except RemoteProtocolError as error:
            self.fail(error)
            return
        if self.size > self.max_body:
            self.fail(ResponseTooLarge(f"the body of the response is over the limit of {self.max_body} bytes"))
            return
        waiter = self.waiter
        if self.ended and self.write_gate is not None:
            # Answered before all was sent: the sender need not wait for a server that reads no more.
            self.resume_writing()
        if self.collecting:
            if self.ended:
                if waiter is not None and not waiter.done():
                    waiter.set_result(None)
            elif self.codec.length_left >= HTTP_DIRECT.default:
                self._collect_directly(self.codec.length_left)
            return
        if self.parts.size > HTTP_STREAM_HIGH.default and not self.paused and not self.ended:
            self.paused = True
            self.transport.pause_reading()
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _collect_directly(self, left: int) -> None:
        """Receive the rest of a large body into the bytes object it will be."""
        if self.size + left > self.max_body:
            self.fail(ResponseTooLarge(f"the body of the response is over the limit of {self.max_body} bytes"))
            return
        body = BodyBuffer(self.size + left)
        while self.parts:
            body.append(self.parts.pop())
        self.body = body

    def eof_received(self) -> bool | None:
        if not self.active or self.ended:
            return None
        received = self.codec.started
        if (
            self.codec.to_eof
            and self.secure
            and not tls.peer_closed_cleanly(self.transport.get_extra_info("ssl_object"))
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
        self.ended = True
        self._wake(None)
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.active and not self.ended and self.error is None:
            received = self.codec.started
            failure = tls.explain(exc) if exc is not None else None
            reason = f": {failure.reason if failure else exc}" if exc is not None else ""
            self.fail(ServerDisconnected(f"the connection was lost{reason}", received=received))
        self._disarm()
        self.resume_writing()
        if self.lost is not None and not self.lost.done():
            self.lost.set_result(None)
        if self.on_lost is not None:
            self.on_lost(self)

    def pause_writing(self) -> None:
        if self.write_gate is None:
            self.write_gate = self.loop.create_future()

    def resume_writing(self) -> None:
        gate, self.write_gate = self.write_gate, None
        if gate is not None and not gate.done():
            gate.set_result(None)

    # --- ends and times -------------------------------------------------------------------------------------------

    def fail(self, error: HttpError) -> None:
        """End the exchange with an error and the connection with it."""
        if self.error is None:
            self.error = error
        self.abort()
        self.resume_writing()
        self._wake(error)

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
        if not self.active or self.ended:
            return
        now = self.loop.time()
        unsent = self.transport.get_write_buffer_size()
        if self.paused or (unsent and unsent != self.unsent):
            # Our reader is slow, or the server is and still takes what we send.
            self.progress = now
        self.unsent = unsent
        due = min(self.deadline, self.progress + self.read_timeout)
        if due > now:
            self._arm(due)
            return
        phase = "response" if self.codec.sending_done else "request"
        kind = (
            "the request took longer than its total time"
            if now >= self.deadline
            else (f"no byte moved for {self.read_timeout:g} s")
        )
        self.fail(TimeoutExceeded(f"{self.origin}: {kind}", phase))

    def peer(self) -> Any:
        """The peer's socket address, for traces."""
        return self.transport.get_extra_info("peername")
