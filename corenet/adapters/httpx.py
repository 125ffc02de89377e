"""A transport for httpx: ``httpx.AsyncClient(transport=corenet.adapters.httpx.Transport())``.

httpx keeps what it does: redirects, cookies, authentication, decoding. The transport sends each request over
connections of a `corenet.HttpClient`, with HTTP/1.1 or HTTP/2. Like httpx's own clients, it belongs to one event loop.

Invariants: a request reaches the client with httpx's own fields and no others; the body of the response is passed on as
it was sent, in its content coding; each error of corenet becomes the exception of httpx with the same meaning, with the
error as its cause.
"""

import math
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from corenet.http import (
    ConnectError,
    HttpClient,
    HttpError,
    InvalidUrl,
    Limits,
    LocalProtocolError,
    ServerDisconnected,
    StreamedResponse,
    Timeout,
    TimeoutExceeded,
)

if TYPE_CHECKING:
    import ssl

__all__ = ["Transport"]

# The exception of httpx for each `TimeoutExceeded.phase`.
_TIMEOUTS = {
    "pool": httpx.PoolTimeout,
    "dns": httpx.ConnectTimeout,
    "connect": httpx.ConnectTimeout,
    "proxy": httpx.ConnectTimeout,
    "tls": httpx.ConnectTimeout,
    "request": httpx.WriteTimeout,
    "response": httpx.ReadTimeout,
}


class Transport(httpx.AsyncBaseTransport):
    """Sends the requests of an `httpx.AsyncClient` with corenet.

    `tls_context` is an `ssl.SSLContext`; None is corenet's default, with the system's trust store. It offers HTTP/2 if
    it was made with ``alpn=corenet.tls.ALPN_HTTP2``; `http2` offers it with the default context. `limits` are those of
    the connection pool. `client` is a client to use instead of a new one; its settings are then used and it
    is not closed: create it with ``follow_redirects=0`` and ``decode=False``, since httpx does both.

    The timeouts are those of each httpx request, in seconds: `pool` for a free connection, `connect` for name
    resolution, TCP and TLS, and the smaller of `read` and `write` for the longest time without progress.
    The extensions of a response are `http_version` and `reason_phrase`.
    """

    def __init__(
        self,
        *,
        tls_context: "ssl.SSLContext | None" = None,
        http2: bool = True,
        limits: Limits | None = None,
        client: HttpClient | None = None,
    ) -> None:
        self._owned = client is None
        if client is None:
            client = HttpClient(
                tls_context=tls_context, http2=http2, limits=limits, headers=None, follow_redirects=0,
                decode=False,
            )
        self._client = client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` and return the response when its head has arrived.

        Raises:
            httpx.TransportError: a subclass that says what failed.
            RuntimeError: the body of the request is a synchronous iterable.
        """
        with _translated(request):
            # The authority of the URL without its user name: httpx has made an Authorization field of it.
            url = request.url
            context = self._client.stream(
                request.method,
                f"{url.scheme}://{url.netloc.decode('ascii')}{url.raw_path.decode('ascii')}",
                headers=request.headers.raw,
                body=_body_of(request),
                timeout=_timeout_of(request.extensions.get("timeout") or {}),
            )
            response = await context.__aenter__()
        return httpx.Response(
            response.status,
            headers=response.headers.raw,
            stream=_Body(request, response, context),
            extensions={
                "http_version": response.http_version.encode(),
                "reason_phrase": response.reason.encode("latin-1"),
            },
        )

    async def aclose(self) -> None:
        """Close the connections, unless they belong to a `client` that was given."""
        if self._owned:
            await self._client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()


class _Body(httpx.AsyncByteStream):
    """The body of a response as it arrives. Closing it early closes the connection."""

    def __init__(
        self, request: httpx.Request, response: StreamedResponse, context: AbstractAsyncContextManager[Any]
    ) -> None:
        self._request = request
        self._response = response
        self._context: AbstractAsyncContextManager[Any] | None = context

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _translated(self._request):
            async for piece in self._response:
                yield piece

    async def aclose(self) -> None:
        """Release the connection. Idempotent."""
        context, self._context = self._context, None
        if context is not None:
            with _translated(self._request):
                await context.__aexit__(None, None, None)


def _body_of(request: httpx.Request) -> Any:
    """The body for `HttpClient.stream`: bytes when httpx has them in memory, else an asynchronous iterable."""
    stream = request.stream
    if isinstance(stream, httpx.ByteStream):
        content = b"".join(stream)
        framed = "content-length" in request.headers or "transfer-encoding" in request.headers
        return content if content or framed else None
    if not isinstance(stream, httpx.AsyncByteStream):
        raise RuntimeError("Attempted to send a sync request with an AsyncClient instance.")
    return stream


def _timeout_of(given: dict[str, float | None]) -> Timeout:
    """Convert the timeouts of a request. None is no limit; 0, which expires at once, is the shortest time."""

    def seconds(*names: str) -> float:
        limits = [math.inf if value is None else value for value in map(given.get, names)]
        return max(min(limits), math.ulp(1.0))

    return Timeout(connect=seconds("connect"), read=seconds("read", "write"), total=math.inf, pool=seconds("pool"))


@contextmanager
def _translated(request: httpx.Request) -> Iterator[None]:
    """Raise corenet's errors as httpx's."""
    try:
        yield
    except InvalidUrl as error:
        raise httpx.UnsupportedProtocol(str(error), request=request) from error
    except HttpError as error:
        raise _error_of(error)(str(error), request=request) from error


def _error_of(error: HttpError) -> type[httpx.TransportError]:
    if isinstance(error, TimeoutExceeded):
        return _TIMEOUTS[error.phase]
    if isinstance(error, ConnectError):
        return httpx.ConnectError
    if isinstance(error, LocalProtocolError):
        return httpx.LocalProtocolError
    if isinstance(error, ServerDisconnected):
        return httpx.RemoteProtocolError if not error.received else httpx.ReadError
    return httpx.RemoteProtocolError
