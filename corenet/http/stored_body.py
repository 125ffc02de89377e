"""Bodies between a streamed response and the cache: one that is stored, and one that is to be stored.

A `Recording` collects the pieces of a body as the caller reads them, up to the size of an entry of the cache. It is
stored when the end of the body has been read. A response that is left early, or fails, drops it and stores nothing.
"""

from collections.abc import Awaitable, Callable

from corenet.http.headers import Headers
from corenet.http.pieces import Pieces

__all__ = ["Recording", "StoredBody"]


class Recording:
    """The body of one streamed response, at most `limit` bytes of it. `store` is called with all of it, or with None
    when it is larger."""

    __slots__ = ("_limit", "_pieces", "_store")

    def __init__(self, limit: int, store: Callable[[bytes | None], Awaitable[object]]) -> None:
        self._limit = limit
        self._pieces: Pieces | None = Pieces()
        self._store = store

    def add(self, piece: bytes) -> None:
        """Add the next piece; a body over the limit is dropped."""
        if self._pieces is not None:
            self._pieces.add(piece)
            if self._pieces.size > self._limit:
                self._pieces = None

    async def store(self) -> None:
        """The body has ended."""
        await self._store(None if self._pieces is None else self._pieces.take())


class StoredBody:
    """Replaces the connection of a `StreamedResponse` whose body is in memory."""

    __slots__ = ("_body", "trailers")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.trailers = Headers()

    async def next_piece(self) -> bytes | None:
        """Return the body, then None."""
        body, self._body = self._body, b""
        return body or None

    def fail(self, error: BaseException) -> None:
        """Do nothing: no read ever waits here."""
