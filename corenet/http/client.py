"""The HTTPS client: requests over pooled connections of HTTP/1.1 and HTTP/2, redirects, limits.

`corenet.http.connections` takes connections from the pool, opens them and decides whether a request may be repeated.
A request is sent again only where the caller asks for retries (`corenet.http.retries`), with two exceptions. One is the
keep-alive race (RFC 9112 section 9.3.1): when a reused connection ends before any byte of the response, and the request
is idempotent and can be sent again, it is sent once more on a new connection. The other is an HTTP/2 server that says
that it did not process the request (RFC 9113 section 8.7), of any method. Between taking a slot and releasing it, every
path releases the slot, also a cancelled one.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from corenet._version import __version__
from corenet.http.client_arguments import check_client
from corenet.http.connection import Connection
from corenet.http.connections import CLOSED, Connections, record_lookups_of
from corenet.http.decode import Decoder, accept_encoding, yield_between_slices
from corenet.http.errors import LocalProtocolError, ServerDisconnected, TimeoutExceeded
from corenet.http.events import Data, End, Request
from corenet.http.h2_connection import Exchange, MultiplexedConnection
from corenet.http.headers import Headers
from corenet.http.pieces import Pieces
from corenet.http.pool import Limits, PoolSlot
from corenet.http.request_state import REDIRECTS, Body, FieldTypes, RequestState, Timeout, timeout_of
from corenet.http.response import Response, StreamedResponse
from corenet.http.routes import router_of
from corenet.http.trace import STARTED, Trace, report
from corenet.http.upload import Upload, prepare_body
from corenet.http.verbs import Verbs
from corenet.limits import (
    HTTP_BODY_SIZE,
    HTTP_DECODE_SLICE_BYTES,
    HTTP_DECODED_SIZE,
    HTTP_MAX_REDIRECTS,
    HTTP_URL_CACHE,
    HTTP_URL_CACHED_SIZE,
)

if TYPE_CHECKING:
    import ssl
    from typing import Unpack

    from corenet.http.auth import AuthTypes
    from corenet.http.cache import Cache, CacheLayer
    from corenet.http.cookies import CookieJar
    from corenet.http.hsts import HstsStore
    from corenet.http.options import ClientOptions, Prepared, RequestOptions
    from corenet.http.proxies import Proxies, Proxy
    from corenet.http.retries import Retries

__all__ = ["Body", "FieldTypes", "HttpClient", "Timeout", "get"]

# After these the request may be sent again: elsewhere, with other credentials, or without Expect.
_AGAIN = REDIRECTS | {401, 417}
_VERSIONS = {10: "HTTP/1.0", 11: "HTTP/1.1", 20: "HTTP/2"}
# Fields that a caller may set for an HTTP/1.1 connection and that HTTP/2 replaces by other means (RFC 9113 section
# 8.2.2).
_HTTP1_ONLY = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
_END = End()


class HttpClient(Verbs):
    """An HTTP client for one event loop, with a pool of connections; use it as an async context manager.

    `http2` offers HTTP/2 to servers over TLS: the requests to an origin then share one connection. `tls_context`
    replaces the shared default context (see `corenet.tls`) and offers what it was made with, HTTP/2 with
    ``alpn=corenet.tls.ALPN_HTTP2``. A request for which a server requires HTTP/1.1 is repeated once over HTTP/1.1,
    unless `tls_context` was changed since `corenet.tls.client_context` made it.

    `headers` are sent with each request, with User-Agent, Accept and Accept-Encoding unless they are among them; None:
    each request has only its own. `trace` is called with every `TracePoint`. `follow_redirects` is the maximum number
    of redirects (0 or False: they are returned; True: the default). `max_body` and `max_decoded` limit a body, in bytes
    as sent and as decoded. `decode` requests the content codings that can be decoded (gzip and deflate; with their
    packages br and zstd) and decodes them.

    To `base_url` the URLs of requests are appended that have no scheme. `auth` are credentials for it, without it for
    every origin that the caller asks; a redirect to another origin does not get them. `url_credentials` sends user
    names in URLs as Basic authentication; else they are refused. `retries` and `expect_continue` are defaults of
    `RequestOptions`.

    `proxy` is the URL of a proxy, a `Proxy`, or `Proxies` for http and https; `trust_env` reads curl's environment
    variables once, here. `unix_socket` is the path of a socket to which all connections go, `local_address` the IP
    address from which they start, and `connect_to` the one to which they go, whatever the host in the URL is; TLS and
    the field Host still have its name. `cookies` keeps and sends cookies, `hsts` notes which hosts want https; both may
    be shared by clients of one thread. `cache` keeps responses of whole GET requests and may be shared.

    `https_records` uses HTTPS records (RFC 9460): other endpoints for an origin, and https for URLs of http. `dane`
    verifies servers with TLSA records whose answer is secure (RFC 6698). Both need a resolver on the loop that looks up
    records, as ``resolver.install`` sets it, and neither applies to what goes through a proxy or a Unix socket.
    Without the addresses of the host neither is possible, so they exclude `connect_to`.

    Raises:
        InvalidUrl: the proxy cannot be used.
        TypeError: an argument has a wrong type.
        ValueError: an argument is outside its range, or excludes another one.
    """

    def __init__(
        self,
        *,
        tls_context: "ssl.SSLContext | None" = None,
        http2: bool = True,
        timeout: Timeout | float | None = None,
        limits: Limits | None = None,
        headers: FieldTypes | None = (),
        trace: Trace | None = None,
        follow_redirects: int = HTTP_MAX_REDIRECTS.default,
        allow_downgrade: bool = False,
        decode: bool = True,
        max_body: int = HTTP_BODY_SIZE.default,
        max_decoded: int = HTTP_DECODED_SIZE.default,
        max_head: int | None = None,
        base_url: str | None = None,
        auth: "AuthTypes | None" = None,
        url_credentials: bool = False,
        retries: "Retries | None" = None,
        expect_continue: bool = False,
        proxy: "str | Proxy | Proxies | None" = None,
        trust_env: bool = False,
        unix_socket: str | None = None,
        local_address: str | None = None,
        connect_to: str | None = None,
        cookies: "CookieJar | None" = None,
        hsts: "HstsStore | None" = None,
        cache: "Cache | None" = None,
        https_records: bool = False,
        dane: bool = False,
    ) -> None:
        check_client(locals())  # also the ranges of numbers
        if connect_to is not None and (https_records or dane):
            raise ValueError("HttpClient connect_to: https_records and dane cannot be used with it")
        self._timeout = timeout_of(timeout, Timeout())
        self._trace = trace
        if isinstance(follow_redirects, bool):
            follow_redirects = HTTP_MAX_REDIRECTS.default if follow_redirects else 0
        self._redirects = follow_redirects
        self._allow_downgrade = allow_downgrade
        self._decode = decode
        self._max_body = max_body
        self._max_decoded = max_decoded
        self._defaults = Headers() if headers is None else Headers.of(headers)
        if headers is not None:
            for name, value in (("User-Agent", f"corenet/{__version__}"), ("Accept", "*/*")):
                if name not in self._defaults:
                    self._defaults.add(name, value)
            if decode and "Accept-Encoding" not in self._defaults:
                self._defaults.add("Accept-Encoding", accept_encoding())
        self._head_cache: dict[tuple[str, str], bytes] = {}
        self._request_cache: dict[tuple[str, str], Request] = {}
        self._cookies = cookies
        self._hsts = hsts
        self._remembers = cookies is not None or hsts is not None
        self._upgrades = https_records
        router = router_of(proxy, trust_env, unix_socket, local_address, connect_to)
        self._connections = Connections(
            tls_context=tls_context,
            http2=http2,
            limits=Limits() if limits is None else limits,
            trace=trace,
            max_head=max_head,
            router=router,
            record_lookups=record_lookups_of(https_records, dane, tls_context),
        )
        self._layer: CacheLayer | None = None
        if cache is not None:
            from corenet.http.cache import scope_of

            http_proxy = None if router is None else router.http_proxy
            self._layer = cache.layer(
                self._fetch,
                self._begin_stream,
                self._redirect,
                self._target_and_fields,
                scope_of(unix_socket, connect_to, http_proxy, decode, dane, tls_context),
                self._connections.upgrade if https_records else None,
            )
        self._keep_heads = "Connection" not in self._defaults
        # Made when the first request needs it: most programs do without.
        self._options: ClientOptions | None = None
        if base_url is not None or auth is not None or retries is not None or expect_continue or url_credentials:
            self._make_options(base_url, auth, retries, expect_continue, url_credentials)

    # --- public methods -------------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: FieldTypes = (),
        body: Body = None,
        timeout: Timeout | float | None = None,
        **options: "Unpack[RequestOptions]",
    ) -> Coroutine[Any, Any, Response]:
        """Send a request and return the whole response, with the decoded body in memory.

        A body of bytes or a file is sent with its length, an iterable of bytes in chunks. Responses with a status of
        400 or more are returned, not raised. `options` are described at `RequestOptions`.

        Raises:
            TypeError: an argument has a wrong type, or two arguments give a body.
            ValueError: an argument cannot be sent, or contradicts another one.
            HttpError: a subclass, see `corenet.http.errors`: InvalidUrl, NameResolutionError, ConnectError, TlsError,
                TimeoutExceeded, RemoteProtocolError, ResponseTooLarge, RedirectError, LocalProtocolError.
        """
        return self._request(method, url, headers, body, timeout, options)

    async def _request(
        self,
        method: str,
        url: str,
        headers: FieldTypes,
        body: Body,
        timeout: Timeout | float | None,
        options: "RequestOptions",
    ) -> Response:
        prepared = self._prepare(body, options) if options or self._options is not None else None
        if prepared is not None:
            sent = prepared.body
        else:
            sent = body if body is None or type(body) is bytes else prepare_body(body)
        until, call = math.inf, None
        try:
            call = self._call(method, url, headers, sent, timeout, prepared)
            return await (self._fetch(call) if self._layer is None else self._layer.request(call))
        except TimeoutExceeded:
            until = -math.inf
            raise
        finally:
            if type(sent) is Upload:
                await _close_body(sent, call, until)

    async def _fetch(self, call: RequestState) -> Response:
        """Send the request, and again after redirects, challenges and failures that are retried."""
        while True:
            slot = None
            try:
                slot, exchange = await self._send(call, collecting=True)
                await exchange.wait()
                if self._remembers:
                    self._remember(call, exchange)
                content = exchange.take_body()
                if exchange.content_coded and self._decode and content:
                    content = await self._decode_body(call, exchange, content)
                response = self._whole(call, slot, exchange, content)
            except BaseException as error:
                if slot is not None:
                    self._connections.release(slot, exchange, call, error)
                    if self._connections.prepare_repeat(slot, call, error):
                        continue
                if call.retry_state is None or not call.may_retry(error, self._now()):
                    raise
                await asyncio.sleep(call.retry_state.delay)
                continue
            self._connections.release(slot, exchange, call, None)
            if call.retry_state is not None and call.may_retry(response, self._now()):
                await asyncio.sleep(call.retry_state.delay)
            elif response.status not in _AGAIN or not self._follow(call, response.status, response.headers):
                return response
            elif response.status in REDIRECTS:
                call.add_redirect(response)

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: FieldTypes = (),
        body: Body = None,
        timeout: Timeout | float | None = None,
        **options: "Unpack[RequestOptions]",
    ) -> AbstractAsyncContextManager[StreamedResponse]:
        """Send a request and return the response when its head has arrived: ``async with client.stream(...) as r``.

        A slow reader slows the server down: about 256 KiB are buffered. Raises what `request` raises, on entering or
        while the body is read.
        """
        return self._stream(method, url, headers, body, timeout, options)

    @asynccontextmanager
    async def _stream(
        self,
        method: str,
        url: str,
        headers: FieldTypes,
        body: Body,
        timeout: Timeout | float | None,
        options: "RequestOptions",
    ) -> AsyncIterator[StreamedResponse]:
        prepared = self._prepare(body, options)
        sent = prepared.body
        until, call = math.inf, None
        try:
            call = self._call(method, url, headers, sent, timeout, prepared)
            response = await (self._begin_stream(call) if self._layer is None else self._layer.stream(call))
            try:
                yield response
            finally:
                response.close()
        except TimeoutExceeded:
            until = -math.inf
            raise
        finally:
            if type(sent) is Upload:
                await _close_body(sent, call, until)

    async def _begin_stream(self, call: RequestState) -> StreamedResponse:
        """Send the request and follow redirects; on return the response owns the slot."""
        while True:
            slot = None
            retried = False
            try:
                slot, exchange = await self._send(call, collecting=False)
                head = await exchange.wait_head()
                headers = head.headers
                if self._remembers:
                    self._remember(call, exchange)
                kept = Response(
                    head.status,
                    head.reason.decode("latin-1"),
                    headers,
                    b"",
                    url=call.url.text,
                    method=call.method,
                    http_version=_VERSIONS[head.version],
                )
                if call.retry_state is not None:
                    retried = call.may_retry(kept, self._now())
                if not retried:
                    if not (head.status in _AGAIN and self._follow(call, head.status, headers)):
                        return self._streamed(call, slot, exchange)
                    if head.status in REDIRECTS:
                        call.add_redirect(kept)  # now: its body may be cut short, and a retry goes to the target
                # The body is read so that the connection can be kept; one over the limit fails the request.
                exchange.max_body = self._max_body
                while await exchange.next_piece() is not None:
                    pass
            except BaseException as error:
                if slot is not None:
                    self._connections.release(slot, exchange, call, error)
                    if self._connections.prepare_repeat(slot, call, error):
                        continue
                if call.retry_state is None or not call.may_retry(error, self._now()):
                    raise
                await asyncio.sleep(call.retry_state.delay)
                continue
            self._connections.release(slot, exchange, call, None)
            if retried and call.retry_state is not None:
                await asyncio.sleep(call.retry_state.delay)

    async def close(self) -> None:
        """Close all connections, with a short wait for close_notify; requests in progress and later ones fail."""
        self._connections.closed = True
        if self._layer is not None:
            await self._layer.close()
        await self._connections.close()

    async def __aenter__(self) -> "HttpClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _call(
        self,
        method: str,
        url: str,
        headers: FieldTypes,
        body: bytes | Upload | None,
        timeout: Timeout | float | None,
        prepared: "Prepared | None",
    ) -> RequestState:
        in_url = None
        if prepared is not None:
            url, in_url = prepared.url(url)
        call = RequestState(method, url, headers, body, timeout_of(timeout, self._timeout), self._defaults)
        if prepared is not None:
            prepared.apply(call, in_url)
        if self._remembers:
            if self._hsts is not None:
                call.url = self._hsts.upgrade(call.url)
            # The field Cookie may change from one request to the next.
            call.head_cacheable = call.head_cacheable and self._cookies is None
        return call

    def _make_options(self, *arguments: Any) -> "ClientOptions":
        from corenet.http.options import ClientOptions

        self._options = ClientOptions.of(*arguments, headers=self._defaults)
        return self._options

    def _prepare(self, body: Body, options: "RequestOptions") -> "Prepared":
        from corenet.http.options import prepare

        return prepare(body, options, self._options or self._make_options())

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _follow(self, call: RequestState, status: int, headers: Headers) -> bool:
        if status == 401:
            return call.answer_challenge(headers)
        if status == 417:
            return call.drop_expectation()
        # The cache follows redirects itself.
        return call.conditions is None and self._redirect(call, status, headers)

    def _redirect(self, call: RequestState, status: int, headers: Headers) -> bool:
        upgrade = None if self._hsts is None else self._hsts.upgrade
        return call.follow(status, headers, self._redirects, self._allow_downgrade, upgrade)

    def _remember(self, call: RequestState, exchange: Connection | Exchange) -> None:
        """Pass the head of the response to the stores of the client."""
        head = exchange.response
        if head is None:
            return
        if self._cookies is not None:
            self._cookies.store(call.url, head.headers)
        if self._hsts is not None and call.url.scheme == "https":
            connection = exchange.connection if isinstance(exchange, Exchange) else exchange
            self._hsts.note(call.url, head.headers, connection.transport)

    # --- one exchange ---------------------------------------------------------------------------------------------

    async def _send(self, call: RequestState, *, collecting: bool) -> tuple[PoolSlot, Connection | Exchange]:
        """Get a connection and send the request; on return the caller owns the slot, or a share of it."""
        call.connect_deadline = 0.0
        connections = self._connections
        if self._upgrades:
            await connections.upgrade(call)
        while True:
            got = connections.acquire_slot(call)
            if isinstance(got, PoolSlot):
                # The pool has checked the connection just now, without an await in between.
                slot = got
            else:
                slot = await connections.wait_for_slot(call, got)
            connection = slot.connection
            if connection is None or got is slot or connection.is_usable():
                break
            # Something arrived after the pool had checked the connection. Nothing of the request was sent. A shared
            # connection may still carry other requests.
            if isinstance(connection, Connection):
                connection.abort()
            connections.release_unused(slot)
        exchange: Connection | Exchange | None = None
        try:
            if connection is None:
                connection = await connections.connect(call, slot)
            if connections.closed:
                # `close` did not see this connection: it was neither idle nor in use.
                raise LocalProtocolError(CLOSED)
            max_body = self._max_body if collecting else math.inf
            if isinstance(connection, MultiplexedConnection):
                exchange = connection.begin(
                    collecting=collecting, max_body=max_body, deadline=call.deadline, read_timeout=call.timeout.read
                )
            else:
                exchange = connection
                connection.begin(
                    collecting=collecting, max_body=max_body, deadline=call.deadline, read_timeout=call.timeout.read
                )
            call.reused = slot.reused
            if self._trace is not None:
                call.traced = False
                report(
                    self._trace,
                    "request",
                    STARTED,
                    connection.loop.time(),
                    method=call.method,
                    url=call.url.text,
                    reused=slot.reused,
                )
            body = call.body
            if isinstance(exchange, Exchange):
                exchange.send_request(
                    self._multiplexed_request(call),
                    call.url.scheme.encode(),
                    body if isinstance(body, bytes) else None,
                    body if isinstance(body, Upload) else None,
                )
            elif body is None:
                exchange.write_whole(self._plain_head(call, exchange))
            else:
                codec = exchange.codec
                head = codec.send_request(call.method_bytes, *self._target_and_fields(call), call.length)
                if isinstance(body, bytes):
                    exchange.write_whole(head + codec.send(Data(body)) + codec.send(_END))
                else:
                    exchange.write_head(head, body)
            if isinstance(body, Upload):
                # The body is sent by its own task while the response is read.
                sent = None if self._trace is None else partial(self._connections.report_sent, call, exchange)
                body.start(exchange, sent, expect=call.expect)
            elif self._trace is not None:
                self._connections.report_sent(call, exchange)
            return slot, exchange
        except BaseException as error:
            self._connections.release(slot, exchange, call, error)
            if self._connections.prepare_repeat(slot, call, error):
                return await self._send(call, collecting=collecting)
            raise

    def _multiplexed_request(self, call: RequestState) -> Request:
        """Return the request for HTTP/2. If the request has no own fields, it is cached, because it repeats."""
        key = (call.method, call.url.text) if call.head_cacheable and call.body is None else None
        request = None if key is None else self._request_cache.get(key)
        if request is None:
            target, fields = self._target_and_fields(call)
            fields = [field for field in fields if field[0].lower() not in _HTTP1_ONLY]
            if call.length >= 0:
                fields.append((b"content-length", b"%d" % call.length))
            request = Request(call.method_bytes, target, fields, 20)
            if key is not None and len(key[1]) <= HTTP_URL_CACHED_SIZE:
                if len(self._request_cache) >= HTTP_URL_CACHE:
                    self._request_cache.clear()
                self._request_cache[key] = request
        return request

    def _target_and_fields(self, call: RequestState) -> tuple[bytes, list[tuple[bytes, bytes]]]:
        """Return the request target and the fields; a proxy that forwards gets its own."""
        fields = call.fields()
        if self._cookies is not None and all(name.lower() != b"cookie" for name, _ in fields):
            value = self._cookies.header(call.url)
            if value:
                fields.append((b"Cookie", value.encode("latin-1")))
        target = call.url.target
        router = self._connections.router
        if router is not None:
            target, fields = router.request(call.url, fields)
        call.sent_fields = fields
        return target, fields

    def _plain_head(self, call: RequestState, connection: Connection) -> bytes:
        """Return a request without a body. If the request has no own fields, its bytes are cached, because they
        repeat."""
        codec = connection.codec
        key = (call.method, call.url.text) if call.head_cacheable and self._keep_heads else None
        head = None if key is None else self._head_cache.get(key)
        if head is not None:
            codec.repeat_request(call.method_bytes)
            return head
        head = codec.send_request(call.method_bytes, *self._target_and_fields(call), call.length)
        # With a field `Transfer-Encoding: chunked`, an empty body also has a last chunk (RFC 9112 section 7.1).
        head += codec.send(_END)
        if key is not None and len(key[1]) <= HTTP_URL_CACHED_SIZE:
            if len(self._head_cache) >= HTTP_URL_CACHE:
                self._head_cache.clear()
            self._head_cache[key] = head
        return head

    def _whole(self, call: RequestState, slot: PoolSlot, exchange: Connection | Exchange, body: bytes) -> Response:
        head = exchange.response
        if head is None:
            raise ServerDisconnected("the response has no head", received=False)
        response = Response(
            head.status,
            head.reason.decode("latin-1"),
            head.headers,
            body,
            url=call.url.text,
            method=call.method,
            http_version=_VERSIONS[head.version],
            trailers=exchange.trailers,
            history=call.history,
        )
        response._about = (exchange.last_activity - call.started, exchange.informational, slot.facts, call.reused)
        return response

    async def _decode_body(self, call: RequestState, exchange: Connection | Exchange, body: bytes) -> bytes:
        head = exchange.response
        assert head is not None  # there is a body
        decoder = Decoder(head.headers.get_members("content-encoding"), limit=self._max_decoded)
        pause_at = HTTP_DECODE_SLICE_BYTES
        decoded = Pieces()
        for piece in decoder.feed(body):
            if piece:
                decoded.add(piece)
            if decoder.work >= pause_at:
                pause_at = decoder.work + HTTP_DECODE_SLICE_BYTES
                await yield_between_slices(call.deadline, call.url.text)
        decoder.finish()
        return decoded.take()

    def _streamed(self, call: RequestState, slot: PoolSlot, exchange: Connection | Exchange) -> StreamedResponse:
        head = exchange.response
        assert head is not None  # wait_head has returned it
        decoder = None
        if self._decode and "content-encoding" in head.headers and call.method != "HEAD":
            decoder = Decoder(head.headers.get_members("content-encoding"), limit=self._max_decoded)
        response = StreamedResponse(
            head.status,
            head.reason.decode("latin-1"),
            head.headers,
            exchange,
            url=call.url.text,
            method=call.method,
            http_version=_VERSIONS[head.version],
            history=call.history,
            decoder=decoder,
            limit=self._max_body,
            deadline=call.deadline,
            finish=lambda error: self._connections.release(slot, exchange, call, error),
        )
        response._about = (exchange.last_activity - call.started, exchange.informational, slot.facts, call.reused)
        return response


async def _close_body(body: Upload, call: RequestState | None, until: float) -> None:
    """Close the body of a request. After a timeout (`until` has passed) or the deadline its iterator is not waited for.

    A call without a deadline has not asked for a connection yet.
    """
    await body.close(min(until, call.deadline) if call is not None and call.deadline else until)


async def get(url: str, *, timeout: Timeout | float | None = None, trace: Trace | None = None) -> Response:
    """Fetch one URL with a GET and return the whole response; the connection is closed afterwards.

    For several requests one `HttpClient` is cheaper. Raises what `HttpClient.request` raises.
    """
    async with HttpClient(trace=trace) as client:
        return await client.get(url, timeout=timeout)
