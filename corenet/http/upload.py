"""A request body that is produced while it is sent: one iterator, one task.

The body is written while the response is read, because a server may answer before it has read everything, and neither
side may wait for the other. The task takes a piece, writes it, waits until the transport is below its watermark, and
lets other callbacks run after each slice, however fast iterator and kernel are. So the deadline of the request, which
is the connection's timer, is kept at every await of the iterator.

Ownership: the request owns its upload and always calls `close` at its end. The connection has a reference during the
exchange and stops the upload with it. An exception of the iterator ends the exchange and is raised by the request. When
the iterator raises after the upload was stopped, the exception goes to the loop's exception handler.

The iterator is the user's code, which may ignore that it was cancelled. The request waits for its end at most until
its deadline, and after a timeout only for `HTTP_UPLOAD_END_TURNS` iterations of the loop, in which an iterator that
obeys is closed. Later it ends by itself. One that runs for `HTTP_CLOSE_TIMEOUT` is reported. `close` may be cancelled
wherever it waits: a task is kept from before it is waited for until its end (`_keep`).

A body that can be read again is renewed for each further attempt of its request: `renew` gives the successor, and
`close` closes all of them. An upload of a request with Expect waits for the server's 100 (Continue) before its first
piece, at most `HTTP_EXPECT_TIMEOUT` seconds, and sends nothing after a final response that is no success (RFC 9110
section 10.1.1).
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable, Mapping
from pathlib import Path
from typing import IO

from corenet.http.arguments import expect
from corenet.http.body_source import BodySource, file_source, is_file_object
from corenet.http.connection import Connection
from corenet.http.errors import LocalProtocolError
from corenet.http.h2_connection import Exchange
from corenet.limits import (
    HTTP_CLOSE_TIMEOUT,
    HTTP_EXPECT_TIMEOUT,
    HTTP_UPLOAD_END_TURNS,
    HTTP_UPLOAD_SLICE_BYTES,
    HTTP_UPLOAD_SLICE_CHUNKS,
)

__all__ = ["Upload", "prepare_body"]

# The loop has only weak references to tasks. This keeps a task whose iterator outlasts the request.
_left_behind: set[asyncio.Task[None]] = set()


class Upload:
    """One body. `waiting`: the next piece is awaited; `stopped`: sends no more; `closed`: aclose was called.

    `length` in bytes, -1: unknown. `consent`: done when the server wants the body, None when it is not asked.
    """

    __slots__ = ("closed", "consent", "iterator", "length", "source", "stopped", "successor", "task", "waiting")

    def __init__(self, body: BodySource | AsyncIterable[bytes] | Iterable[bytes]) -> None:
        self.source: BodySource | None = None
        self.length = -1
        self.iterator: AsyncIterator[bytes]
        if isinstance(body, BodySource):
            self.source = body
            self.length = body.length
            self.iterator = body.pieces()
        else:
            self.iterator = aiter(body) if isinstance(body, AsyncIterable) else _each(body)
        self.successor: Upload | None = None
        self.consent: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] | None = None
        self.waiting = False
        self.stopped = False
        self.closed = False

    def renew(self) -> "Upload | None":
        """Return an upload of the same body from its beginning; None when it cannot be read again."""
        if self.source is None or not self.source.repeatable:
            return None
        self.successor = Upload(self.source)
        return self.successor

    def start(
        self, connection: Connection | Exchange, sent: Callable[[], None] | None = None, *, expect: bool = False
    ) -> None:
        """Start sending on `connection`, with `expect` when the server consents; `sent`: the last byte was written."""
        if expect:
            self.consent = connection.loop.create_future()
        self.task = connection.loop.create_task(self._run(connection, sent))

    def stop(self) -> None:
        """Send no more bytes and cancel the iterator where it waits. Idempotent."""
        if not self.stopped:
            self.stopped = True
            if self.task is not None:
                self.task.cancel()

    def answered(self, status: int) -> None:
        """Record a status from the server: 100 and a success let the body be sent."""
        if self.consent is not None and not self.consent.done() and (status == 100 or 200 <= status < 300):
            self.consent.set_result(None)

    async def close(self, deadline: float) -> None:
        """Stop and wait until the iterator is closed, at most until `deadline`, a time of the loop's clock.

        One that takes longer than `HTTP_CLOSE_TIMEOUT` is reported and not waited for.
        """
        self.stop()
        loop = asyncio.get_running_loop()
        if self.task is None:
            self.task = loop.create_task(self._close_iterator(loop))
        late = self._keep(loop, self.task)
        if self.successor is not None:
            await self.successor.close(deadline)
        await self._wait(loop, self.task, min(late, deadline))
        if self.task.done() and not self.closed:
            # The task was cancelled before its first step.
            self.task = loop.create_task(self._close_iterator(loop))
            late = self._keep(loop, self.task)
            await self._wait(loop, self.task, min(late, deadline))

    def _keep(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> float:
        """Keep `task` until it ends, whether or not it is waited for. Returns when it is reported as late."""
        late = loop.time() + HTTP_CLOSE_TIMEOUT
        if not task.done():
            timer = loop.call_at(late, self._report_late, loop, task)
            _left_behind.add(task)
            task.add_done_callback(_left_behind.discard)
            task.add_done_callback(lambda _: timer.cancel())
        return late

    async def _wait(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None], until: float) -> None:
        """Wait for the end of `task`, at most until `until`, a time of the loop's clock."""
        for _ in range(HTTP_UPLOAD_END_TURNS):
            if task.done():
                return
            await asyncio.sleep(0)
        await asyncio.wait((task,), timeout=max(0.0, until - loop.time()))

    def _report_late(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        loop.call_exception_handler(
            {"message": "the body of a request did not end in time when it was closed", "task": task}
        )

    async def _run(self, connection: Connection | Exchange, sent: Callable[[], None] | None) -> None:
        try:
            await self._send(connection)
            if sent is not None and not self.stopped:
                sent()
        except BaseException as error:
            if not self.stopped:
                self.stopped = True
                connection.fail(error, is_ours=False)
            elif not isinstance(error, asyncio.CancelledError):
                self._report(connection.loop, error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        finally:
            self.stopped = True
            await self._close_iterator(connection.loop)

    async def _send(self, connection: Connection | Exchange) -> None:
        size = pieces = 0
        if self.consent is not None:
            await asyncio.wait((self.consent,), timeout=HTTP_EXPECT_TIMEOUT)
            if connection.response is not None:
                # Of the final response; unless it is a success its end stops this task.
                await self.consent
        self.waiting = True
        async for piece in self.iterator:
            self.waiting = False
            if self.stopped:
                return
            if not isinstance(piece, bytes | bytearray | memoryview):
                raise LocalProtocolError(f"a body must yield bytes, not {type(piece).__name__}")
            connection.write_piece(bytes(piece))
            size += len(piece)
            pieces += 1
            if connection.drain_waiter is not None:
                await connection.drain()
            elif size >= HTTP_UPLOAD_SLICE_BYTES or pieces >= HTTP_UPLOAD_SLICE_CHUNKS:
                size = pieces = 0
                await asyncio.sleep(0)
            if self.stopped:
                return
            self.waiting = True
        self.waiting = False
        if not self.stopped:
            connection.write_end()

    async def _close_iterator(self, loop: asyncio.AbstractEventLoop) -> None:
        self.closed = True
        close = getattr(self.iterator, "aclose", None)
        if close is not None:
            try:
                await close()
            except BaseException as error:
                self._report(loop, error)
                if not isinstance(error, Exception):
                    raise

    def _report(self, loop: asyncio.AbstractEventLoop, error: BaseException) -> None:
        loop.call_exception_handler({"message": "the body of a request raised when it was closed", "exception": error})


def prepare_body(
    body: "bytes | bytearray | memoryview | IO[bytes] | Path | AsyncIterable[bytes] | Iterable[bytes]",
) -> bytes | Upload:
    """Convert the `body` argument to bytes, or to an Upload that sends it piece by piece.

    Raises:
        TypeError: it is str, a mapping, a file that was opened as text, or not iterable.
        OSError: a path cannot be read.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    if isinstance(body, str):
        raise TypeError("a body is bytes or yields bytes; encode str first")
    if isinstance(body, Mapping):
        raise TypeError("a body is bytes or yields bytes; give a mapping as json= or data=")
    if isinstance(body, Path) or (is_file_object(body) and not isinstance(body, AsyncIterable)):
        return Upload(file_source(body, "the body"))
    expect(body, (AsyncIterable, Iterable), "a body", "bytes, a binary file, a Path or an iterable of bytes")
    return Upload(body)


async def _each(body: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Iterate over a plain iterable. A generator is closed with the upload, a file stays open."""
    try:
        for piece in body:
            yield piece
    finally:
        if isinstance(body, Generator):
            body.close()
