"""A request body that is produced while it is sent: one iterator, one task.

The body is written while the response is read, because a server may answer before it has read everything, and neither
side may wait for the other. The task takes a piece, writes it, waits until the transport is below its watermark, and
lets other callbacks run after each slice, however fast iterator and kernel are. So the deadline of the request, which
is the connection's timer, is kept at every await of the iterator.

Ownership: the request owns its upload and always calls `close` at its end. The connection has a reference during the
exchange and stops the upload with it. An exception of the iterator ends the exchange and is raised by the request. When
the iterator raises after the upload was stopped, the exception goes to the loop's exception handler.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable

from corenet.http.connection import Connection
from corenet.http.errors import LocalProtocolError
from corenet.http.h2_connection import Exchange
from corenet.limits import HTTP_CLOSE_TIMEOUT, HTTP_UPLOAD_SLICE_BYTES, HTTP_UPLOAD_SLICE_CHUNKS

__all__ = ["Upload", "prepare_body"]

# The loop has only weak references to tasks. This keeps a task whose iterator outlasts the request.
_left_behind: set[asyncio.Task[None]] = set()


class Upload:
    """One body. `waiting`: the next piece is awaited; `stopped`: sends no more; `closed`: aclose was called."""

    __slots__ = ("closed", "iterator", "stopped", "task", "waiting")

    def __init__(self, body: AsyncIterable[bytes] | Iterable[bytes]) -> None:
        self.iterator = aiter(body) if isinstance(body, AsyncIterable) else _each(body)
        self.task: asyncio.Task[None] | None = None
        self.waiting = False
        self.stopped = False
        self.closed = False

    def start(self, connection: Connection | Exchange, sent: Callable[[], None] | None = None) -> None:
        """Start sending on `connection`; `sent` is called after the last byte was written."""
        self.task = connection.loop.create_task(self._run(connection, sent))

    def stop(self) -> None:
        """Send no more bytes and cancel the iterator where it waits. Idempotent."""
        if not self.stopped:
            self.stopped = True
            if self.task is not None:
                self.task.cancel()

    async def close(self) -> None:
        """Stop and wait until the iterator is closed. One that takes too long is reported and not waited for."""
        self.stop()
        if self.task is not None and not await self._ended(self.task):
            return
        if not self.closed:
            # Never started, or cancelled before its first step.
            loop = asyncio.get_running_loop()
            await self._ended(loop.create_task(self._close_iterator(loop)))

    async def _ended(self, task: asyncio.Task[None]) -> bool:
        _left_behind.add(task)
        task.add_done_callback(_left_behind.discard)
        _, late = await asyncio.wait((task,), timeout=HTTP_CLOSE_TIMEOUT)
        if late:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the body of a request did not end in time when it was closed", "task": task}
            )
        return not late

    async def _run(self, connection: Connection | Exchange, sent: Callable[[], None] | None) -> None:
        try:
            await self._send(connection)
            if sent is not None and not self.stopped:
                sent()
        except BaseException as error:
            if not self.stopped:
                self.stopped = True
                connection.fail(error)
            elif not isinstance(error, asyncio.CancelledError):
                self._report(connection.loop, error)
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
        finally:
            self.stopped = True
            await self._close_iterator(connection.loop)

    async def _send(self, connection: Connection | Exchange) -> None:
        size = pieces = 0
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


def prepare_body(body: bytes | bytearray | memoryview | AsyncIterable[bytes] | Iterable[bytes]) -> bytes | Upload:
    """Convert the `body` argument to bytes, or to an Upload that sends it piece by piece.

    Raises:
        TypeError: it is str.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    if isinstance(body, str):
        raise TypeError("a body is bytes or yields bytes; encode str first")
    return Upload(body)


async def _each(body: Iterable[bytes]) -> AsyncIterator[bytes]:
    """Iterate over a plain iterable. A generator is closed with the upload, a file stays open."""
    try:
        for piece in body:
            yield piece
    finally:
        if isinstance(body, Generator):
            body.close()
