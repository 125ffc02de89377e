"""The private cache of a client (RFC 9111): `Cache` is the store that clients share, `CacheLayer` the part of a client.

The layer stands between the redirects and the exchange with the server, so each redirect is looked up by its own URL.
It answers GET requests only, whole and streamed ones. Other methods, ranges and requests with conditional fields of the
caller bypass it; an unsafe method invalidates what it may have changed. A streamed response is stored when its body has
been read to the end. A failing store (a full disk, a lock that another process holds too long) counts as a store
without the response: the request goes to the server and `Cache.failures` counts it.

Every response of the layer says in Cache-Status (RFC 9211) where it comes from.

Ownership: a `StreamedResponse` from the server holds a connection. Each function here that receives one returns it,
reads it to its end, or closes it, also when it raises.
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from hashlib import sha256
from os import PathLike, fspath
from typing import TYPE_CHECKING, TypeVar

from corenet.http.arguments import expect, expect_callable, integer
from corenet.http.cache_rules import (
    Stored,
    Use,
    age_of,
    bypasses_cache,
    cache_control,
    choose,
    conditions,
    fields_to_store,
    freshened,
    invalidates,
    may_serve_on_error,
    may_store,
    variant_of,
    vary_names,
)
from corenet.http.cache_store import CacheStore
from corenet.http.errors import ConnectError, HttpError, InvalidUrl, RemoteProtocolError, TimeoutExceeded, TlsError
from corenet.http.headers import Headers
from corenet.http.request_state import REDIRECTS, RequestState
from corenet.http.response import Response, StreamedResponse
from corenet.http.stored_body import Recording, StoredBody
from corenet.http.url import Url
from corenet.limits import HTTP_CACHE_BYTES, HTTP_CACHE_REVALIDATIONS, HTTP_CACHE_UNREMOVED

if TYPE_CHECKING:
    import ssl

    from corenet.http.proxies import Proxy

__all__ = ["Cache", "CacheLayer", "scope_of"]

_Fields = list[tuple[bytes, bytes]]
_T = TypeVar("_T")
_Received = Response | StreamedResponse
# When these are raised, the server has not answered.
_UNREACHABLE = (ConnectError, TimeoutExceeded, RemoteProtocolError)


class Cache:
    """A private cache for responses to GET: in memory, or in the SQLite file `path`, which processes may share.

    `max_bytes` limits what is stored, bodies as decoded. A response over an eighth of it is not stored. A cache belongs
    to one user; responses to requests with different Authorization fields are stored separately, and so are those of
    clients with another Unix socket or proxy for http, without `decode`, or with a `tls_context` that trusts others.
    `clock` returns the Unix time in seconds. `hits` and `misses` count requests, `failures` operations of the store
    that failed.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: `max_bytes` is outside its range, the file is not a cache, or other users may change it.
        OSError: the file cannot be created.
        sqlite3.Error: the file cannot be opened.
    """

    def __init__(
        self,
        path: "str | PathLike[str] | None" = None,
        *,
        max_bytes: int = HTTP_CACHE_BYTES.default,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._in_memory = path is None
        limit = integer(HTTP_CACHE_BYTES, max_bytes, "Cache max_bytes")
        expect(path, (str, PathLike, type(None)), "Cache path", "a str, a path or None")
        expect_callable(clock, "Cache clock", "that returns seconds")
        self._store = CacheStore(None if path is None else fspath(path), limit)
        self.clock = clock
        self.hits = 0
        self.misses = 0
        self.failures = 0
        # URLs whose removal is due or under way.
        self._unremoved: set[str] = set()

    @property
    def size(self) -> int:
        """Bytes that are stored now."""
        return self._store.size()[0]

    def __len__(self) -> int:
        return self._store.size()[1]

    def clear(self) -> None:
        """Remove every response."""
        self._store.clear()

    def close(self) -> None:
        """Close the file. Clients that still use the cache then work without one."""
        self._store.close()

    def layer(
        self,
        send: "Callable[[RequestState], Awaitable[Response]]",
        stream: "Callable[[RequestState], Awaitable[StreamedResponse]]",
        redirect: "Callable[[RequestState, int, Headers], bool]",
        request: "Callable[[RequestState], tuple[bytes, _Fields]]",
        scope: str = "",
        upgrade: "Callable[[RequestState], Awaitable[None]] | None" = None,
    ) -> "CacheLayer":
        """The cache's part in one client, see `CacheLayer`."""
        return CacheLayer(self, send, stream, redirect, request, scope, upgrade)

    async def _find(self, url: str, fields: _Fields) -> Stored | None:
        """The stored response that a request with `fields` selects; None while removals that failed are not made up."""
        if self._unremoved and not await self._settle():
            return None
        return await self._run(lambda: self._store.find(url, fields, self.clock()))

    async def _put(self, url: str, stored: Stored, *, public: bool) -> bool | None:
        """Store a response, in place of an older one; False when it is too large, None when the store fails."""
        return await self._run(lambda: self._store.put(url, stored, public=public, now=self.clock()))

    async def _remove(self, urls: Iterable[str]) -> None:
        """Remove the responses for `urls`; they are not used even if the store fails (RFC 9111 section 4.4)."""
        self._unremoved.update(urls)
        await self._settle()

    async def _settle(self) -> bool:
        """Remove what is due, everything when that is too much to remember; False when the store fails."""
        due = set(self._unremoved)

        def remove() -> bool:
            if len(due) > HTTP_CACHE_UNREMOVED:
                self._store.clear()
            else:
                self._store.remove(due)
            return True

        done = await self._run(remove) is True
        if done:
            self._unremoved -= due
        elif len(self._unremoved) > HTTP_CACHE_UNREMOVED + 1:
            self._unremoved = set(sorted(self._unremoved)[: HTTP_CACHE_UNREMOVED + 1])
        return done

    async def _run(self, operation: Callable[[], _T]) -> _T | None:
        """Run an operation of the store, on a file in a thread; None when it fails."""
        try:
            if self._in_memory:
                return operation()
            return await asyncio.get_running_loop().run_in_executor(None, operation)
        except sqlite3.Error:
            self.failures += 1
            return None


def scope_of(
    unix_socket: str | None,
    connect_to: str | None,
    http_proxy: "Proxy | None",
    decode: bool,
    dane: bool,
    context: "ssl.SSLContext | None",
) -> str:
    """What else than the URL decides about a response. Clients with other scopes do not share responses."""
    parts = [] if unix_socket is None else [f"unix:{unix_socket}"]
    if connect_to is not None:
        parts.append(f"to:{connect_to}")
    if http_proxy is not None:
        # It can change what it forwards. Over https it cannot.
        parts.append(f"proxy:{http_proxy}")
    if not decode:
        parts.append("coded")
    if dane:
        # A TLSA record may accept a server that others refuse.
        parts.append("dane")
    if context is not None:
        # An attacker who can change the traffic of a client that verifies nothing, or trusts other authorities, must
        # not affect other clients.
        if context.check_hostname:
            trusted = b"".join(sorted(context.get_ca_certs(binary_form=True)))
            parts.append(f"trust:{sha256(trusted).hexdigest()}")
        else:
            parts.append("unverified")
    return "".join(f"{part} " for part in parts)


class CacheLayer:
    """The cache of one client. It owns the tasks that revalidate in the background, until `close`.

    `send` and `stream` send one request without following redirects; `stream` returns when the head has arrived.
    `redirect` changes a request into its next one; `request` gives the target and the fields that will be sent;
    `upgrade` may change a URL of http to https. Clients share what is stored when their `scope` is the same.
    """

    def __init__(
        self,
        cache: Cache,
        send: Callable[[RequestState], Awaitable[Response]],
        stream: Callable[[RequestState], Awaitable[StreamedResponse]],
        redirect: Callable[[RequestState, int, Headers], bool],
        request: Callable[[RequestState], tuple[bytes, _Fields]],
        scope: str = "",
        upgrade: Callable[[RequestState], Awaitable[None]] | None = None,
    ) -> None:
        self._cache = cache
        self._upgrade = upgrade
        self._scope = scope
        self._send = send
        self._stream = stream
        self._redirect = redirect
        self._target_and_fields = request
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def request(self, call: RequestState) -> Response:
        """Answer a request from the cache or the server, and follow redirects."""
        call.head_cacheable = False
        call.conditions = []
        while True:
            await self._prepare(call)
            response = await self._respond(call, self._send)
            assert isinstance(response, Response)  # `_send` returns no other
            if response.status not in REDIRECTS or not self._redirect(call, response.status, response.headers):
                return response
            call.add_redirect(response)

    async def _prepare(self, call: RequestState) -> None:
        """Change the URL of one hop to https, if the client does that."""
        if self._upgrade is not None:
            call.connect_deadline = 0.0
            await self._upgrade(call)

    async def stream(self, call: RequestState) -> StreamedResponse:
        """As `request`, for a response whose body is still to be read."""
        call.head_cacheable = False
        call.conditions = []
        while True:
            await self._prepare(call)
            response = await self._respond(call, self._stream)
            if isinstance(response, Response):
                response = _stream_of(response)
            with _closed_on_error(response):
                if response.status not in REDIRECTS or not self._redirect(call, response.status, response.headers):
                    return response
                # The body is read so that the connection can be kept, and the redirect stored.
                body = await response.read()
                kept = Response(
                    response.status, response.reason, response.headers, body, url=response.url, method=response.method
                )
                call.add_redirect(kept)

    async def invalidate(self, url: Url, method: str, status: int, headers: Headers) -> None:
        """Remove what an unsafe request has made invalid: its URL, and those that it names on the same origin."""
        if not invalidates(method, status):
            return
        urls = [self._key(url)]
        for name in ("location", "content-location"):
            for reference in headers.get_list(name):
                try:
                    target = url.join(reference)
                except InvalidUrl:
                    # No stored response can have this URL.
                    continue
                if target.origin == url.origin:
                    urls.append(self._key(target))
        await self._cache._remove(urls)

    async def close(self) -> None:
        """End the background tasks."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _respond(self, call: RequestState, send: Callable[[RequestState], Awaitable[_Received]]) -> _Received:
        cache = self._cache
        fields = self._fields_of(call)
        # With a Host field of the caller, the URL does not identify the resource (RFC 9110 section 7.1).
        own_host = fields[0][1] != call.url.host_field
        if bypasses_cache(call.method, fields) or own_host or call.body is not None:
            response = await send(call)
            with _closed_on_error(response):
                await self.invalidate(call.url, call.method, response.status, response.headers)
            return response
        request_cc = _request_cc(fields)
        url = self._key(call.url)
        stored = None if "no-store" in request_cc else await cache._find(url, fields)
        if stored is not None and stored.status == 401 and call.auth is not None:
            # A challenge to a request without credentials, which this request has. It is sent to the server.
            stored = None
        if stored is not None:
            use = choose(stored, request_cc, cache.clock())
            if use is Use.WHILE_REVALIDATING:
                self._revalidate_later(call, url, fields, stored)
            if use is not Use.VALIDATE:
                cache.hits += 1
                return self._answer(call, stored, "hit")
        cache.misses += 1
        if "only-if-cached" in request_cc:
            headers = Headers([(b"Cache-Status", b'corenet; detail="only-if-cached"')])
            return Response(504, "Gateway Timeout", headers, b"", url=call.url.text, history=call.history)
        return await self._fetch(call, url, fields, request_cc, stored, send)

    def _fields_of(self, call: RequestState) -> _Fields:
        """The fields that select a stored response: those that will be sent, with the user's identity as
        Authorization."""
        identity = None if call.auth is None else call.auth.identity()
        if identity is None:
            return self._target_and_fields(call)[1]
        # Its Authorization is not computed, because that would increment the nonce count (RFC 7616 section 3.4).
        auth, call.auth = call.auth, None
        try:
            fields = self._target_and_fields(call)[1]
        finally:
            call.auth = auth
        return _with_identity(fields, identity)

    async def _fetch(
        self,
        call: RequestState,
        url: str,
        fields: _Fields,
        request_cc: dict[str, str | None],
        stored: Stored | None,
        send: Callable[[RequestState], Awaitable[_Received]],
    ) -> _Received:
        """Send the request with the validators of the stored response, and store the answer."""
        cache = self._cache
        validators = call.conditions = [] if stored is None else conditions(stored)
        validates = bool(validators)
        request_time = cache.clock()
        try:
            response = await send(call)
        except _UNREACHABLE as error:
            if (
                isinstance(error, TlsError)
                or stored is None
                or not may_serve_on_error(stored, request_cc, cache.clock(), None)
            ):
                raise
            return self._answer(call, stored, "hit; fwd=stale; detail=stale-if-error")
        finally:
            call.conditions = []
        with _closed_on_error(response):
            # The sent fields select the stored response, because a challenge may have been answered, or a cookie set,
            # since `fields`.
            fields = [field for field in call.sent_fields if field not in validators]
            identity = None if call.auth is None else call.auth.identity()
            if identity is not None:
                fields = _with_identity(fields, identity)
            now = cache.clock()
            if stored is not None and validates and response.status == 304:
                if isinstance(response, StreamedResponse):
                    await response.read()  # nothing; after it the connection is free
                newer = freshened(stored, response.headers, request_time, now)
                if newer is None:
                    await cache._remove([url])
                    return await self._fetch(call, url, fields, request_cc, None, send)
                await self._keep(url, fields, request_cc, newer, stored)
                return self._answer(call, newer, "hit; fwd=stale; fwd-status=304")
            if stored is not None and may_serve_on_error(stored, request_cc, now, response.status):
                if isinstance(response, StreamedResponse):
                    response.close()
                cache_status = f"hit; fwd=stale; fwd-status={response.status}; detail=stale-if-error"
                return self._answer(call, stored, cache_status)
            received = Stored(
                response.status,
                response.reason,
                response.http_version,
                fields_to_store(response.headers),
                response.body if isinstance(response, Response) else b"",
                request_time,
                now,
                "",
                b"",
            )
            cache_status = f"corenet; fwd={'uri-miss' if stored is None else 'stale'}"
            if isinstance(response, StreamedResponse):
                if await self._may_keep(url, fields, request_cc, received, stored):
                    self._record(response, url, received)
            elif await self._keep(url, fields, request_cc, received, stored):
                cache_status += "; stored"
            response.headers.add("Cache-Status", cache_status)
            return response

    def _record(self, response: StreamedResponse, url: str, received: Stored) -> None:
        """Let `response` be stored when its body has been read to the end."""

        async def store(body: bytes | None) -> None:
            if body is None:
                await self._cache._remove([url])
                return
            received.body = body
            await self._cache._put(url, received, public=_is_public(received))

        response._recording = Recording(self._cache._store.max_entry, store)

    async def _keep(
        self, url: str, fields: _Fields, request_cc: dict[str, str | None], received: Stored, old: Stored | None
    ) -> bool:
        """Store `received` if it may be stored, in place of `old`; what must not be stored replaces it as well."""
        if not await self._may_keep(url, fields, request_cc, received, old):
            return False
        return bool(await self._cache._put(url, received, public=_is_public(received)))

    async def _may_keep(
        self, url: str, fields: _Fields, request_cc: dict[str, str | None], received: Stored, old: Stored | None
    ) -> bool:
        """Whether `received` may be stored; sets its variant, and removes what it makes invalid."""
        vary = vary_names(received.headers)
        if vary is None or not may_store(request_cc, received.status, received.headers):
            if received.status < 500 and "no-store" not in request_cc:
                await self._cache._remove([url])
            return False
        received.vary = vary
        received.variant = variant_of(vary, fields, public=_is_public(received))
        if old is not None and (old.vary, old.variant) != (received.vary, received.variant):
            await self._cache._remove([url])
        return True

    def _answer(self, call: RequestState, stored: Stored, how: str) -> Response:
        headers = Headers(list(stored.headers.raw))
        headers.set("Age", str(int(age_of(stored, self._cache.clock()))))
        headers.add("Cache-Status", f"corenet; {how}")
        return Response(
            stored.status,
            stored.reason,
            headers,
            stored.body,
            url=call.url.text,
            method=call.method,
            http_version=stored.http_version,
            history=call.history,
        )

    def _revalidate_later(self, call: RequestState, url: str, fields: _Fields, stored: Stored) -> None:
        """Revalidate after the stale response was returned: once for each URL, and a few URLs at a time."""
        if url in self._tasks or len(self._tasks) >= HTTP_CACHE_REVALIDATIONS:
            return
        later = call.again()
        task = asyncio.get_running_loop().create_task(self._revalidate(later, url, fields, stored))
        self._tasks[url] = task
        task.add_done_callback(lambda _: self._tasks.pop(url, None))

    def _key(self, url: Url) -> str:
        """The URL without its fragment (RFC 9111 section 2), after the client's scope."""
        return f"{self._scope}{url.origin}{url.target.decode('ascii')}"

    async def _revalidate(self, call: RequestState, url: str, fields: _Fields, stored: Stored) -> None:
        # A failure changes nothing: the next request finds the same stale response and revalidates it.
        with contextlib.suppress(HttpError):
            await self._fetch(call, url, fields, {}, stored, self._send)


@contextlib.contextmanager
def _closed_on_error(response: _Received) -> Iterator[None]:
    """Close a streamed response when the block raises, for example because it was cancelled."""
    try:
        yield
    except BaseException:
        if isinstance(response, StreamedResponse):
            response.close()
        raise


def _stream_of(response: Response) -> StreamedResponse:
    """Return a response whose body is in memory as one whose body is still to be read."""
    return StreamedResponse(
        response.status,
        response.reason,
        response.headers,
        StoredBody(response.body),
        url=response.url,
        method=response.method,
        http_version=response.http_version,
        history=response.history,
        decoder=None,
        limit=len(response.body),
        deadline=0.0,
        finish=lambda _: None,
    )


def _with_identity(fields: _Fields, identity: bytes) -> _Fields:
    kept = [field for field in fields if field[0].lower() != b"authorization"]
    return [*kept, (b"Authorization", identity)]


def _is_public(stored: Stored) -> bool:
    return "public" in cache_control(stored.headers.get_list("cache-control"))


def _request_cc(fields: _Fields) -> dict[str, str | None]:
    """The request's directives; without any, Pragma: no-cache is one (RFC 9111 section 5.4)."""
    values = [value.decode("latin-1") for name, value in fields if name.lower() == b"cache-control"]
    if not values and any(name.lower() == b"pragma" and value.strip().lower() == b"no-cache" for name, value in fields):
        return {"no-cache": None}
    return cache_control(values)
