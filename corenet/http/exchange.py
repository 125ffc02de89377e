"""What the connections of HTTP/1.1 and HTTP/2 have in common: an exchange as its owner drives it, and a transport.

`ExchangeBase` is one request and its response: deadlines, waiting for the response and its body, the back-pressure to
an upload, the result. Invariants: the result is `complete` (the end of the response was received) or else `error`, and
the first of them stays. At most one task waits for the response (`waiter`); it owns that future. `drain_waiter` exists
while an upload must wait.

`ConnectionBase` owns the transport of a connection: its one timer, closing and aborting, and the check for unread
input. The subclass has the states. The transport owns the descriptor; `lost` and `on_closed` report that it is closed.

Timeouts use one timer for each connection. A read only sets `last_activity`, and the timer compares when it fires, so
that steady traffic does not touch the timer heap. A graceful close has a timeout too: data that the peer does not
accept by then is dropped.
"""

import asyncio
import math
import socket
import struct
from collections.abc import Callable
from typing import Any, Protocol, cast

from corenet import tls
from corenet.http.errors import ResponseTooLarge, TimeoutExceeded
from corenet.http.events import End, Informational, Response
from corenet.http.pieces import Pieces
from corenet.http.url import Origin
from corenet.limits import HTTP_CLOSE_TIMEOUT, HTTP_READ_SIZE
from corenet.loop.sockops import has_no_pending_input

__all__ = ["BodySender", "ConnectionBase", "ExchangeBase"]

_NO_TRAILERS = End().trailers
_RESET = struct.pack("ii", 1, 0)


class BodySender(Protocol):
    """Sends the body of a request piece by piece; `waiting`: its iterator has not yet yielded the next piece."""

    waiting: bool

    def answered(self, status: int) -> None:
        """Called with a 1xx response, or with the head of the final one."""
        ...

    def stop(self) -> None:
        """Send no more bytes."""
        ...


class ExchangeBase:
    """One request and its response. The subclass sends, receives, and defines how the exchange is ended early
    (`abort`)."""

    __slots__ = (
        "collecting",
        "complete",
        "deadline",
        "drain_waiter",
        "error",
        "informational",
        "is_ours",
        "last_activity",
        "loop",
        "max_body",
        "parts",
        "read_timeout",
        "response",
        "size",
        "trailers",
        "unsent",
        "upload",
        "waiter",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.error: BaseException | None = None
        self.is_ours = True
        """Whether `error` was made here, and not by an iterator of a request's body."""
        self.parts = Pieces()
        self.upload: BodySender | None = None
        self.waiter: asyncio.Future[None] | None = None
        self.drain_waiter: asyncio.Future[None] | None = None
        self.prepare(True, math.inf, math.inf, math.inf)

    def prepare(self, collecting: bool, max_body: float, deadline: float, read_timeout: float) -> None:
        """Begin with nothing sent or received. `deadline` is on the loop's clock, `read_timeout` in seconds."""
        self.collecting = collecting
        self.max_body = max_body
        self.deadline = deadline
        self.read_timeout = read_timeout
        self.last_activity = self.loop.time()
        self.complete = False
        self.response: Response | None = None
        # At most HTTP_INFORMATIONAL_RESPONSES, which the codec counts.
        self.informational: tuple[Informational, ...] = ()
        self.trailers = _NO_TRAILERS
        self.size = self.unsent = 0

    # --- the owner --------------------------------------------------------------------------------------------------

    async def wait(self) -> None:
        """Wait for the end of the exchange when collecting, otherwise for the next change.

        Raises:
            HttpError: the reason why the exchange ended early. Exceptions of the body's iterator are raised unchanged.
            RuntimeError: when another task waits.
        """
        if self.error is not None:
            raise self._to_raise(self.error)
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
        return self.parts.take()

    async def next_piece(self) -> bytes | None:
        """Return the next piece of a streamed body, or None after its end."""
        while not self.parts:
            if self.complete and self.error is None:
                return None
            await self.wait()
        piece = self.parts.pop()
        self.taken(piece)
        return piece

    def taken(self, piece: bytes) -> None:
        """The owner has taken a piece of the body: the server may send more."""
        raise NotImplementedError

    async def drain(self) -> None:
        """Wait until the peer accepts more of an upload, at most until the exchange ends."""
        if self.drain_waiter is not None:
            await self.drain_waiter

    # --- the subclass -----------------------------------------------------------------------------------------------

    def must_drain(self) -> None:
        """The upload waits in `drain` from now on."""
        if self.drain_waiter is None:
            self.drain_waiter = self.loop.create_future()

    def may_send(self) -> None:
        """Wake an upload that waits in `drain`."""
        gate, self.drain_waiter = self.drain_waiter, None
        if gate is not None and not gate.done():
            gate.set_result(None)

    def wake(self, error: BaseException | None = None) -> None:
        """Wake the task that waits for the response."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(self._to_raise(error))

    def _to_raise(self, error: BaseException) -> BaseException:
        """What is raised for `error`, which the exchange keeps: a copy, if it is ours.

        The traceback of what is raised holds the frames of the exchange's methods. If the exchange held that error,
        both would live, with their connection, until a garbage collection.
        """
        if not self.is_ours:
            return error
        copy = type(error).__new__(type(error))
        copy.args = error.args
        copy.__dict__.update(error.__dict__)
        copy.__cause__, copy.__suppress_context__ = error.__cause__, error.__suppress_context__
        return copy

    def stop_upload(self) -> None:
        """Send no more of the body."""
        upload, self.upload = self.upload, None
        if upload is not None:
            upload.stop()

    def abort(self) -> None:
        """End the exchange early."""
        raise NotImplementedError

    def fail(self, error: BaseException, *, is_ours: bool = True) -> None:
        """Record `error` unless there is a result; abort and wake in any case. An error that is not ours is raised
        unchanged."""
        if self.error is None and not self.complete:
            if is_ours:
                error.__traceback__ = None  # see `_to_raise`
            self.error, self.is_ours = error, is_ours
        self.abort()
        self.wake(self.error)

    def too_large(self) -> ResponseTooLarge:
        """The error of a body over its limit."""
        return ResponseTooLarge(f"the body of the response is over the limit of {self.max_body} bytes")

    @property
    def due(self) -> float:
        """When `check_time` must be called next."""
        return min(self.deadline, self.last_activity + self.read_timeout)

    def check_time(self, now: float, origin: Origin, *, unsent: int, sent: bool, slow_reader: bool) -> float:
        """Fail the exchange when a timeout has expired; return when to check again.

        `unsent`: bytes of the request that wait for the kernel or the server's windows; `sent`: all others are sent.
        """
        if slow_reader or (unsent and unsent != self.unsent):
            # Not idle: our reader is slow, or the server is slow and still accepts data.
            self.last_activity = now
        self.unsent = unsent
        due = self.due
        if due > now:
            return due
        stalled = self.upload is not None and self.upload.waiting
        if now >= self.deadline:
            what = "the request took longer than its total time" + (", waiting for its body" if stalled else "")
        elif stalled:
            what = f"the request body yielded nothing for {self.read_timeout:g} s"
        else:
            what = f"no byte was sent or received for {self.read_timeout:g} s"
        self.fail(TimeoutExceeded(f"{origin}: {what}", "response" if sent and not unsent else "request"))
        return math.inf


class ConnectionBase(asyncio.BufferedProtocol):
    """The transport of a connection to one origin, made by `connect.open_connection`.

    It has no slots: a class can inherit those of one base only, and a connection of HTTP/1.1 is an exchange too.
    """

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    tls_read_buffer_size: Callable[[], int]
    ssl_pending: Callable[[], int]

    def own(self, origin: Origin, scratch: memoryview | None) -> None:
        """Set the attributes of this class; `scratch` is shared by the connections of a thread."""
        self.origin = origin
        # A readiness loop fills the buffer as soon as it got it, so all connections of a thread can share one.
        self.scratch = memoryview(bytearray(HTTP_READ_SIZE)) if scratch is None else scratch
        self.secure = origin.scheme == "https"
        self.idle_since = 0.0
        self.lost: asyncio.Future[None] | None = None
        self.on_closed: Callable[[], None] | None = None
        # A copy of the transport's descriptor number, used between exchanges.
        self.descriptor = -1
        self.timer: asyncio.TimerHandle | None = None
        self.timer_due = math.inf

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.scratch

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.lost = self.loop.create_future()

    # --- input that is not read -------------------------------------------------------------------------------------

    def has_no_input(self) -> bool:
        """Return whether neither the kernel nor TLS has bytes, or the end of the stream, that were not read.

        The result holds until control returns to the loop.
        """
        if self.descriptor < 0 and not self._cache_socket_info():
            return False
        # The transport has not closed the descriptor. If it is closed nevertheless, recv fails and so does this check.
        if not has_no_pending_input(self.descriptor):
            return False
        # TLS records that are not yet decrypted, and plaintext that is not yet delivered.
        return not self.secure or not (self.tls_read_buffer_size() or self.ssl_pending())

    def _cache_socket_info(self) -> bool:
        """Store, once, what `has_no_input` needs; False when there is no descriptor."""
        sock = self.transport.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return False
        if self.secure:
            self.tls_read_buffer_size = cast(Any, self.transport).get_read_buffer_size
            self.ssl_pending = self.transport.get_extra_info("ssl_object").pending
        self.descriptor = sock.fileno()
        return True

    # --- the end ----------------------------------------------------------------------------------------------------

    def close_transport(self) -> None:
        """Send close_notify and close; `on_timer` aborts when the peer has not answered by then."""
        self.arm(self.loop.time() + HTTP_CLOSE_TIMEOUT)
        if not self.transport.is_closing():
            # A second close of asyncio's TLS transport loses its connection: abort would raise AttributeError.
            self.transport.close()

    def reset_transport(self) -> None:
        """Close with a TCP reset, so that the server notices at once. Queued data is dropped."""
        self.disarm()
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()

    def describe_loss(self, exc: Exception | None) -> str:
        """Say why the connection was lost."""
        failure = tls.describe_handshake_error(exc) if exc is not None else None
        reason = f": {failure.reason if failure else exc}" if exc is not None else ""
        return f"the connection was lost{reason}"

    def report_closed(self) -> None:
        """The descriptor is closed: notify the pool and those that wait for `lost`."""
        if self.lost is not None and not self.lost.done():
            self.lost.set_result(None)
        on_closed, self.on_closed = self.on_closed, None  # it refers to the slot, which refers to this
        if on_closed is not None:
            on_closed()

    # --- the timer --------------------------------------------------------------------------------------------------

    def watch(self, due: float) -> None:
        """Have `on_timer` called at `due` or before."""
        if self.timer is None or due < self.timer_due:
            self.arm(due)

    def arm(self, due: float) -> None:
        """Have `on_timer` called at `due`, never for `math.inf`."""
        self.disarm()
        if due != math.inf:
            self.timer_due = due
            self.timer = self.loop.call_at(due, self.on_timer)

    def disarm(self) -> None:
        """Cancel the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def on_timer(self) -> None:
        """Check the timeouts."""
        raise NotImplementedError
