"""The results of a request: a whole `Response`, or a `StreamedResponse` whose body is read piece by piece.

The body is decoded here within the client's limits. A streamed response owns its connection until its
body was read or its context was left. Leaving early closes the connection, because the rest may be of any length.
"""

import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self, cast

from corenet.http.charset import charset_of, decode_text
from corenet.http.connection import Connection
from corenet.http.decode import Decoder, yield_between_slices
from corenet.http.errors import HttpError, LocalProtocolError, ResponseTooLarge
from corenet.http.events import Informational
from corenet.http.facts import ConnectionFacts
from corenet.http.h2_connection import Exchange
from corenet.http.headers import Headers
from corenet.http.pieces import Pieces
from corenet.http.url import parse_url
from corenet.limits import HTTP_DECODE_SLICE_BYTES, HTTP_LINKS_SIZE

if TYPE_CHECKING:
    from corenet.http.event_stream import ServerSentEvent
    from corenet.http.links import Link
    from corenet.http.stored_body import Recording, StoredBody

__all__ = ["HttpStatusError", "Response", "StreamedResponse"]

_UNKNOWN: tuple[float, tuple[Informational, ...], ConnectionFacts | None, bool] = (0.0, (), None, False)


class HttpStatusError(HttpError):
    """Raised by `raise_for_status` for a status of 400 or above; `response` is the response."""

    def __init__(self, message: str, response: "Response | StreamedResponse") -> None:
        super().__init__(message)
        self.response = response


class _Head:
    """Status, headers, and the URL and method they belong to."""

    # `_about` is set by the client: a tuple, because most is never read.
    __slots__ = ("_about", "headers", "history", "http_version", "method", "reason", "status", "url")

    status: int
    reason: str
    headers: Headers
    http_version: str
    method: str
    url: str
    history: tuple["Response", ...]
    _about: tuple[float, tuple[Informational, ...], ConnectionFacts | None, bool]

    @property
    def elapsed(self) -> float:
        """Seconds from the call to the last byte, of a streamed response to its head, redirects included."""
        return self._about[0]

    @property
    def informational(self) -> tuple[Informational, ...]:
        """The 1xx responses before this one, such as 103 Early Hints, with `status` and `headers`."""
        return self._about[1]

    @property
    def connection(self) -> ConnectionFacts | None:
        """The connection that carried the response; None when it was not received by a client."""
        _, _, facts, reused = self._about
        return replace(facts, reused=True) if facts is not None and reused else facts

    @property
    def links(self) -> "list[Link]":
        """The links of the Link fields (RFC 8288), with absolute URLs; those that are not http or https are left
        out, and so are those after the first `HTTP_LINKS_SIZE` characters of URLs."""
        from corenet.http.links import parse_links

        links = parse_links(self.headers.get_list("link"))
        base = parse_url(self.url)
        kept = []
        left = HTTP_LINKS_SIZE
        for link in links:
            left -= len(self.url) + len(link.url)
            if left < 0:
                break
            try:
                link.url = base.join(link.url).text
            except HttpError:
                continue
            kept.append(link)
        return kept

    @property
    def is_success(self) -> bool:
        """True for a 2xx status."""
        return 200 <= self.status < 300

    @property
    def encoding(self) -> str:
        """The charset of the Content-Type, else utf-8."""
        return charset_of(self.headers.get("content-type", ""))

    def raise_for_status(self) -> Self:
        """Return the response itself.

        Raises:
            HttpStatusError: the status is 400 or above.
        """
        if self.status >= 400:
            text = f"{self.method} {self.url}: {self.status} {self.reason}".rstrip()
            raise HttpStatusError(text, cast("Response | StreamedResponse", self))
        return self


class Response(_Head):
    """A complete response. `body` is decoded; `history` has the redirects before it."""

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
        self._about = _UNKNOWN

    @property
    def text(self) -> str:
        """The body as text by the rules of browsers; U+FFFD for invalid bytes. Never raises."""
        return decode_text(self.body, self.encoding)

    def json(self) -> Any:
        """The body parsed as JSON.

        Raises:
            ValueError: it is not JSON, or nested too deeply.
        """
        try:
            return json.loads(self.body)
        except RecursionError as error:
            raise ValueError("the JSON of the body is nested too deeply") from error

    def __repr__(self) -> str:
        return f"<Response {self.status} {self.reason} {self.url}, {len(self.body)} bytes>"


class StreamedResponse(_Head):
    """A response whose head has arrived and whose body is read as it arrives: ``async for piece in response``.

    A loop that was left early can be continued by another one or by `read`. Only one task may read at a time. After a
    failure each further read raises the same error. A cancelled read loses a piece, so further reads raise
    `LocalProtocolError`.
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
        "_recording",
        "_trailers",
    )

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Headers,
        connection: "Connection | Exchange | StoredBody",
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
        self._about = _UNKNOWN
        # Ours until `finish` was called; then it may serve another request.
        self._connection = connection
        self._deadline = deadline
        self._decoder = decoder
        # The decoder's remaining output for the input that it has; it outlives the loop that started it.
        self._decoding: Iterator[bytes] | None = None
        self._pause_at = HTTP_DECODE_SLICE_BYTES
        self._limit = limit
        self._finish = finish
        self._ended = False
        self._failure: BaseException | None = None
        self._reading = False
        # Set by the cache: collects the body, and stores it when all of it has been read.
        self._recording: Recording | None = None
        self._trailers = Headers()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece of the body, never empty.

        Raises:
            StopAsyncIteration: after the end of the body.
            HttpError: the response ends early or is invalid.
            RuntimeError: another task is reading.
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
        """Read the rest of the body into memory; empty when all was read before.

        Raises:
            ResponseTooLarge: it exceeds the client's limit for bodies in memory.
            HttpError: the response ends early or is invalid.
            RuntimeError: another task is reading.
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

    async def lines(self) -> AsyncIterator[str]:
        """Iterate over the lines of a text, without their ends (CR LF, LF or CR), decoded as `Response.text` is.

        Raises:
            ResponseTooLarge: a line has more than `HTTP_LINE_SIZE` characters.
            HttpError: what reading the body raises.
        """
        from corenet.http.event_stream import LineSplitter

        splitter = LineSplitter(self.encoding)
        async for piece in self:
            for line in splitter.feed(piece):
                yield line
        for line in splitter.feed(b"", last=True):
            yield line

    async def events(self) -> "AsyncIterator[ServerSentEvent]":
        """Iterate over the server-sent events of a ``text/event-stream``; it does not connect again.

        Raises:
            ResponseTooLarge: a line or an event is over its limit.
            HttpError: what reading the body raises.
        """
        from corenet.http.event_stream import EventStream

        stream = EventStream()
        async for piece in self:
            for event in stream.feed(piece):
                yield event

    def _begin(self) -> None:
        if self._reading:
            raise RuntimeError("another task is reading this response")
        self._reading = True

    async def _next(self) -> bytes | None:
        """Return the next non-empty piece, or None after the end."""
        while self._failure is None and not self._ended:
            if self._decoding is not None:
                piece = await self._decoded(self._decoding)
            else:
                received = await self._connection.next_piece()
                if received is None:
                    self._end()
                    if self._recording is not None:
                        await self._recording.store()
                    return None
                piece = received
                if self._decoder is not None:
                    self._decoding = self._decoder.feed(received)
                    continue
            if piece:
                if self._recording is not None:
                    self._recording.add(piece)
                return piece
        if self._failure is not None:
            raise self._failure
        return None

    async def _decoded(self, decoding: Iterator[bytes]) -> bytes:
        """Return the decoder's next piece, empty when it needs input; other callbacks run between slices."""
        assert self._decoder is not None  # it created `decoding`
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
        # The cancellation itself is raised once only, in the task that was cancelled.
        self._failure = (
            error
            if isinstance(error, Exception)
            else LocalProtocolError("a cancelled read has lost a part of this response")
        )
        self._decoding = self._recording = None
        self._finish(error)

    @property
    def trailers(self) -> Headers:
        """The fields after a chunked body; empty until the body was read."""
        return self._trailers

    def close(self) -> None:
        """Release the connection; it is closed unless the whole body has arrived. Idempotent.

        A read in progress, and later ones, raise `LocalProtocolError`.
        """
        if self._ended or self._failure is not None:
            return
        closed = self._failure = LocalProtocolError("the response was closed before its body was read")
        self._decoding = self._recording = None
        if self._reading:
            self._connection.fail(closed)
        self._finish(None)
