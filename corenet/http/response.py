"""What a request gives back: a whole `Response`, or a `StreamedResponse` whose body is read piece by piece.

The body is decoded here (gzip, deflate) within the client's limits. A streamed response owns its connection until its
body was read or its context was left; leaving early closes the connection, since nobody can know how much would follow.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from corenet.http.charset import charset_of, decode_text
from corenet.http.connection import Connection
from corenet.http.decode import Decoder, yield_between_slices
from corenet.http.errors import HttpStatusError, LocalProtocolError, ResponseTooLarge
from corenet.http.h2_connection import Exchange
from corenet.http.headers import Headers
from corenet.http.pieces import Pieces
from corenet.limits import HTTP_DECODE_SLICE_BYTES

__all__ = ["Response", "StreamedResponse"]


class _Head:
    """Status, headers and where they came from."""

    __slots__ = ("headers", "history", "http_version", "method", "reason", "status", "url")

    status: int
    reason: str
    headers: Headers
    http_version: str
    method: str
    url: str
    history: tuple["Response", ...]

    @property
    def is_success(self) -> bool:
        """True for a 2xx status."""
        return 200 <= self.status < 300

    @property
    def encoding(self) -> str:
        """The charset the Content-Type names, else utf-8."""
        return charset_of(self.headers.get("content-type", ""))

    def _check(self, response: object) -> None:
        if self.status >= 400:
            raise HttpStatusError(f"{self.method} {self.url}: {self.status} {self.reason}".rstrip(), response)


class Response(_Head):
    """A complete response. `body` is decoded; `history` holds the redirects that led here."""

    __slots__ = ("body", "trailers")

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Headers,
        body: bytes,
        *,
        url: str = "",
        method: str = "GET",
        http_version: str = "HTTP/1.1",
        trailers: Headers | None = None,
        history: tuple["Response", ...] = (),
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body
        self.url = url
        self.method = method
        self.http_version = http_version
        self.trailers = Headers() if trailers is None else trailers
        self.history = history

    @property
    def text(self) -> str:
        """The body as text, utf-8 when its charset is unknown; bytes that are not of it become U+FFFD. Never raises."""
        return decode_text(self.body, self.encoding)

    def json(self) -> Any:
        """The body as JSON.

        Raises:
            ValueError: when it is none.
        """
        return json.loads(self.body)

    def raise_for_status(self) -> "Response":
        """Return the response itself.

        Raises:
            HttpStatusError: when the status is 400 or above.
        """
        self._check(self)
        return self

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason} {self.url}, {len(self.body)} bytes>"


class StreamedResponse(_Head):
    """A response whose head has arrived and whose body is read as it comes: ``async for piece in response``.

    What was begun in one loop may go on in another or in `read`. One task reads at a time. After a failure (of the
    server, of a limit, or a cancel, which loses what was on its way) each further read raises the same error.
    """

    __slots__ = (
        "_connection",
        "_deadline",
        "_decoder",
        "_decoding",
        "_ended",
        "_failure",
        "_finish",
        "_limit",
        "_pause_at",
        "_reading",
        "_trailers",
    )

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Headers,
        connection: Connection | Exchange,
        *,
        url: str,
        method: str,
        http_version: str,
        history: tuple[Response, ...],
        decoder: Decoder | None,
        limit: int,
        deadline: float,
        finish: Callable[[BaseException | None], None],
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.url = url
        self.method = method
        self.http_version = http_version
        self.history = history
        # Ours until `finish` was called, another request's after it.
        self._connection = connection
        self._deadline = deadline
        self._decoder = decoder
        # Output of the decoder that belongs to input already taken: it outlives the loop that asked for it.
        self._decoding: Iterator[bytes] | None = None
        self._pause_at = HTTP_DECODE_SLICE_BYTES
        self._limit = limit
        self._finish = finish
        self._ended = False
        self._failure: BaseException | None = None
        self._reading = False
        self._trailers = Headers()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece of the body, never empty.

        Raises:
            StopAsyncIteration: after the end of the body.
            HttpError: when the response ends early or is broken.
            RuntimeError: when another task is reading.
        """
        self._begin()
        try:
            piece = await self._next()
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._reading = False
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def read(self) -> bytes:
        """Read the rest of the body into memory; empty when all of it was read before.

        Raises:
            ResponseTooLarge: when it is over the client's limit for bodies in memory.
            HttpError: when the response ends early or is broken.
            RuntimeError: when another task is reading.
        """
        self._begin()
        pieces = Pieces()
        try:
            while (piece := await self._next()) is not None:
                pieces.add(piece)
                if pieces.size > self._limit:
                    raise ResponseTooLarge(f"the body is over the limit of {self._limit} bytes")
        except BaseException as error:
            self._fail(error)
            raise
        finally:
            self._reading = False
        return pieces.take()

    def _begin(self) -> None:
        if self._reading:
            raise RuntimeError("another task is reading this response")
        self._reading = True

    async def _next(self) -> bytes | None:
        """The next piece that is not empty, or None after the end."""
        while self._failure is None and not self._ended:
            if self._decoding is not None:
                piece = await self._decoded(self._decoding)
            else:
                received = await self._connection.next_piece()
                if received is None:
                    self._end()
                    return None
                piece = received
                if self._decoder is not None:
                    self._decoding = self._decoder.feed(received)
                    continue
            if piece:
                return piece
        if self._failure is not None:
            raise self._failure
        return None

    async def _decoded(self, decoding: Iterator[bytes]) -> bytes:
        """The next piece out of the decoder, empty when it needs more input; others run between slices."""
        assert self._decoder is not None  # who else made `decoding`
        for piece in decoding:
            if self._decoder.work >= self._pause_at:
                self._pause_at = self._decoder.work + HTTP_DECODE_SLICE_BYTES
                await yield_between_slices(self._deadline, self.url)
            if piece:
                return piece
        self._decoding = None
        return b""

    def _end(self) -> None:
        if self._decoder is not None:
            self._decoder.finish()
        self._ended = True
        self._trailers = self._connection.trailers
        self._finish(None)

    def _fail(self, error: BaseException) -> None:
        if self._ended or self._failure is not None:
            return
        # A cancel is told once, to the task that was cancelled.
        self._failure = (
            error
            if isinstance(error, Exception)
            else LocalProtocolError("a cancelled read lost a part of this response")
        )
        self._decoding = None
        self._finish(error)

    @property
    def trailers(self) -> Headers:
        """Fields after a chunked body; empty until the body was read."""
        return self._trailers

    def raise_for_status(self) -> "StreamedResponse":
        """Return the response itself.

        Raises:
            HttpStatusError: when the status is 400 or above.
        """
        self._check(self)
        return self

    def close(self) -> None:
        """Give the connection back; it is closed unless the whole body has come. Idempotent.

        Who reads meanwhile or later is told by a `LocalProtocolError`.
        """
        if self._ended or self._failure is not None:
            return
        closed = self._failure = LocalProtocolError("the response was closed before its body was read")
        self._decoding = None
        if self._reading:
            self._connection.fail(closed)
        self._finish(None)
