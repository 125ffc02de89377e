"""What a request gives back: a whole `Response`, or a `StreamedResponse` whose body is read piece by piece.

The body is decoded here (gzip, deflate) within the client's limits. A streamed response owns its connection until its
body was read or its context was left; leaving early closes the connection, since nobody can know how much would follow.
"""

import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

from corenet.http.connection import Connection
from corenet.http.decode import Decoder
from corenet.http.errors import HttpStatusError, ResponseTooLarge
from corenet.http.headers import Headers

__all__ = ["Response", "StreamedResponse"]


# RFC 9110 section 8.3.2: a parameter of the media type, its value a token or quoted.
_CHARSET = re.compile(r""";[ \t]*charset=(?:"([^"\\]+)"|([^\s;"]+))""", re.IGNORECASE)


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
        found = _CHARSET.search(self.headers.get("content-type", ""))
        return (found[1] or found[2]).lower() if found else "utf-8"

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
        """The body as text; bytes that are not of its charset become U+FFFD."""
        try:
            return self.body.decode(self.encoding, "replace")
        except LookupError:
            return self.body.decode("utf-8", "replace")

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
    """A response whose head has arrived and whose body is read as it comes: ``async for piece in response``."""

    __slots__ = ("_connection", "_decoder", "_done", "_finish", "_limit")

    def __init__(
        self,
        status: int,
        reason: str,
        headers: Headers,
        connection: Connection,
        *,
        url: str,
        method: str,
        http_version: str,
        history: tuple[Response, ...],
        decoder: Decoder | None,
        limit: int,
        finish: Callable[[BaseException | None], None],
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.url = url
        self.method = method
        self.http_version = http_version
        self.history = history
        self._connection = connection
        self._decoder = decoder
        self._limit = limit
        self._finish = finish
        self._done = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        decoder = self._decoder
        try:
            while not self._done:
                piece = await self._connection.next_piece()
                if piece is None:
                    if decoder is not None:
                        decoder.finish()
                    self._done = True
                    self._finish(None)
                elif decoder is None:
                    yield piece
                else:
                    for decoded in decoder.feed(piece):
                        yield decoded
        except GeneratorExit:
            raise
        except BaseException as error:
            self._done = True
            self._finish(error)
            raise

    async def read(self) -> bytes:
        """Read the rest of the body into memory.

        Raises:
            ResponseTooLarge: when it is over the client's limit for bodies in memory.
            HttpError: when the response ends early.
        """
        parts: list[bytes] = []
        size = 0
        async for piece in self:
            size += len(piece)
            if size > self._limit:
                raise ResponseTooLarge(f"the body is over the limit of {self._limit} bytes")
            parts.append(piece)
        return b"".join(parts)

    @property
    def trailers(self) -> Headers:
        """Fields after a chunked body; empty until the body was read."""
        return self._connection.trailers if self._done else Headers()

    def raise_for_status(self) -> "StreamedResponse":
        """Return the response itself.

        Raises:
            HttpStatusError: when the status is 400 or above.
        """
        self._check(self)
        return self

    def close(self) -> None:
        """Give the connection back; it is closed unless the whole body was read. Idempotent."""
        if not self._done:
            self._done = True
            self._finish(None)
