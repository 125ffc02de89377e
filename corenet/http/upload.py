"""The body of a request that is made while it is sent: one iterator, one task.

Writing goes on beside reading: a server may answer while it reads, and neither may wait for the other. The task takes a
piece, writes it, waits until the transport has room, and lets others run between slices however willing iterator and
kernel are; so the deadline of the request, which is the connection's timer, holds at every await of the iterator.

Ownership: the request owns its upload and calls `close` at its end, whatever the end was; the connection holds it for
as long as the exchange goes on and stops it with the exchange. What the iterator raises ends the exchange and comes out
of the request; what it raises after it was stopped, with the answer there, goes to the loop's exception handler.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable

from corenet.http.connection import Connection
from corenet.http.errors import LocalProtocolError
from corenet.http.h2_connection import Exchange
from corenet.limits import HTTP_CLOSE_TIMEOUT, HTTP_UPLOAD_SLICE_BYTES, HTTP_UPLOAD_SLICE_CHUNKS

__all__ = ["Upload", "prepare_body"]

# The loop itself does not hold a task whose iterator takes its time after the request.
_left_behind: set[asyncio.Task[None]] = set()


class Upload:
    """One body. `waiting`: the iterator is asked; `stopped`: no byte more; `closed`: the iterator was told so."""

    __slots__ = ("closed", "iterator", "stopped", "task", "waiting")

    def __init__(self, body: AsyncIterable[bytes] | Iterable[bytes]) -> None:
        self.iterator = aiter(body) if isinstance(body, AsyncIterable) else _each(body)
        self.task: asyncio.Task[None] | None = None
        self.waiting = False
        self.stopped = False
        self.closed = False

    def start(self, connection: Connection | Exchange, sent: Callable[[], None] | None = None) -> None:
        """Begin to send over `connection`; `sent` is called after the last byte was written."""
        self.task = connection.loop.create_task(self._run(connection, sent))

    def stop(self) -> None:
        """No byte more; the iterator is cancelled where it waits. Idempotent."""
        if not self.stopped:
            self.stopped = True
            if self.task is not None:
                self.task.cancel()

    async def close(self) -> None:
        """Stop, and wait until the iterator was closed; one that does not end is left behind and reported."""
        self.stop()
        if self.task is not None and not await self._ended(self.task):
            return
        if not self.closed:
            # Never begun, or cancelled before its first step.
            loop = asyncio.get_running_loop()
            await self._ended(loop.create_task(self._close_iterator(loop)))

    async def _ended(self, task: asyncio.Task[None]) -> bool:
        _left_behind.add(task)
        task.add_done_callback(_left_behind.discard)
        _, late = await asyncio.wait((task,), timeout=HTTP_CLOSE_TIMEOUT)
        if late:
            asyncio.get_running_loop().call_exception_handler(
                {"message": "the body of a request did not end in its time when it was closed", "task": task}
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
                raise LocalProtocolError(f"a body yields bytes, not {type(piece).__name__}")
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
        loop.call_exception_handler({"message": "the body of a request failed when it was closed", "exception": error})


def prepare_body(body: bytes | bytearray | memoryview | AsyncIterable[bytes] | Iterable[bytes]) -> bytes | Upload:
    """What a caller gave as a body, ready to be sent at once or piece by piece.

    Raises:
        TypeError: when it is text.
    """
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    if isinstance(body, str):
        raise TypeError("a body is bytes or yields bytes; encode the text first")
    return Upload(body)


async def _each(body: Iterable[bytes]) -> AsyncIterator[bytes]:
    """A plain iterable; a generator is closed with the upload, a file stays open."""
    try:
        for piece in body:
            yield piece
    finally:
        if isinstance(body, Generator):
            body.close()
