"""Connections of one `HttpClient`: pool slots, opening, release, and whether a failed request is sent again.

`HttpClient` owns one `Connections` and sends its requests over connections that it returns. Between `acquire_slot` and
`release` the request owns the slot, or a share of it; every path releases it once. `open` has every connection whose
descriptor is not closed yet, `connecting` the timeouts that end those being opened; after `close` both become empty,
and `acquire_slot` raises.
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from corenet import tls
from corenet.http.connect import open_connection, resolver_of
from corenet.http.connection import Connection
from corenet.http.errors import LocalProtocolError, NameResolutionError, ServerDisconnected, TimeoutExceeded
from corenet.http.facts import facts_of
from corenet.http.h2_connection import Exchange, MultiplexedConnection
from corenet.http.pool import Limits, Pool, PoolSlot
from corenet.http.request_state import IDEMPOTENT, RequestState
from corenet.http.routes import DIRECT, Http1Key, PoolKey, Router
from corenet.http.trace import DONE, FAILED, STARTED, Trace, report
from corenet.http.url import Origin
from corenet.limits import (
    HTTP1_ORIGINS,
    HTTP2_UNPROCESSED_REPEATS,
    HTTP_CLOSE_TIMEOUT,
    HTTP_READ_SIZE,
    HTTP_TLSA_CONTEXTS,
)
from corenet.tls.context import ClientContext, with_dane
from corenet.tls.default import prepared_context

if TYPE_CHECKING:
    import ssl

    from corenet.http.search import Lookups
    from corenet.http.service_records import Shuffle
    from corenet.tls.dane import DanePolicy

__all__ = ["CLOSED", "Connections", "RecordLookups", "record_lookups_of"]

CLOSED = "the client was closed during the request"


class RecordLookups(NamedTuple):
    """DNS records that a client looks up besides addresses: HTTPS (RFC 9460) and TLSA (DANE, RFC 6698).

    `shuffle` orders records of equal priority at random.
    """

    https: bool
    tlsa: bool
    shuffle: "Shuffle"


def record_lookups_of(https_records: bool, dane: bool, context: "ssl.SSLContext | None") -> RecordLookups | None:
    """The `RecordLookups` for a client's arguments, None when nothing but addresses is looked up.

    Raises:
        ValueError: servers cannot be verified with TLSA records by this context.
    """
    if not (https_records or dane):
        return None
    if dane and context is not None and (not context.check_hostname or tls.http1_only(context) is None):
        raise ValueError("HttpClient dane: needs a tls_context that client_context has made, with verify=True")
    # Imported only when needed, because most programs do not use it and each import costs start-up time.
    from random import shuffle

    return RecordLookups(https_records, dane, shuffle)


class Connections:
    """The pool of a client, and what is needed to open connections for it. `tls_context` None: the shared default."""

    def __init__(
        self,
        *,
        tls_context: "ssl.SSLContext | None",
        http2: bool,
        limits: Limits,
        trace: Trace | None,
        max_head: int | None,
        router: Router | None,
        record_lookups: RecordLookups | None,
    ) -> None:
        self.closed = False
        # Made by the first request: it needs the running loop.
        self.pool: Pool | None = None
        # Not a set: when `set.add` raises MemoryError, the element is in the set nevertheless. After repeated failures
        # the table is full, and a look-up does not end.
        self.open: dict[Connection | MultiplexedConnection, None] = {}
        # The timeouts that end a connection while it is being opened.
        self.connecting: dict[asyncio.Timeout, None] = {}
        self.router = router
        # None: nothing but addresses is looked up.
        self.record_lookups = record_lookups
        # TLS contexts that verify by TLSA records, by (context of this client, policy); least recently used first.
        self._dane_contexts: dict[tuple[ssl.SSLContext, DanePolicy], ssl.SSLContext] = {}
        # Origins that required HTTP/1.1 (HTTP_1_1_REQUIRED), newest last.
        self.http1_origins: dict[Origin, None] = {}
        # The context for these origins when `tls_context` is given.
        self._http1_context: ssl.SSLContext | None = None
        self._context = tls_context
        self._http2 = http2
        self._limits = limits
        self._trace = trace
        self._max_head = max_head
        self._scratch = memoryview(bytearray(HTTP_READ_SIZE))

    async def close(self) -> None:
        """Close all connections. Waits at most HTTP_CLOSE_TIMEOUT seconds for close_notify, then aborts them.

        Requests in progress and later ones fail with LocalProtocolError.
        """
        self.closed = True
        if self.pool is None:
            return
        self.pool.close()
        now = self.pool.loop.time()
        for timeout in self.connecting:
            timeout.reschedule(now)
        self.connecting.clear()
        for connection in list(self.open):
            if connection.is_busy:
                connection.fail(LocalProtocolError(CLOSED))
        # First pass: wait for graceful closes, then abort. Second pass: wait until aborted connections are closed,
        # in the next iteration of the loop.
        for _ in range(2):
            waiting = [connection.lost for connection in self.open if connection.lost is not None]
            if waiting:
                await asyncio.wait(waiting, timeout=HTTP_CLOSE_TIMEOUT)
            for connection in list(self.open):
                connection.abort()

    def acquire_slot(self, call: RequestState) -> "PoolSlot | asyncio.Future[PoolSlot]":
        """Return a slot for the request, or a future of one. The first call sets the start and deadline.

        Raises:
            LocalProtocolError: the client is closed.
        """
        if self.closed:
            raise LocalProtocolError("this client was closed")
        pool = self.pool
        if pool is None:
            pool = self.pool = Pool(asyncio.get_running_loop(), self._limits, http2=self._http2)
        if call.deadline == 0.0:
            call.started = pool.loop.time()
            call.deadline = call.started + call.timeout.total
        call.group = self._key(call)
        return pool.acquire(call.group)

    def _key(self, call: RequestState) -> PoolKey:
        origin = call.url.origin
        key = origin if self.router is None else self.router.key(call.url)
        return Http1Key(origin.scheme, key) if origin in self.http1_origins or origin == call.http1 else key

    async def wait_for_slot(self, call: RequestState, waiting: "asyncio.Future[PoolSlot]") -> PoolSlot:
        """Wait for the future that `acquire_slot` returned, until `RequestState.pool_by`.

        Raises:
            TimeoutExceeded: none became free in time.
        """
        pool = self.pool
        assert pool is not None  # the future came from it
        try:
            async with asyncio.timeout_at(call.pool_by(pool.loop.time())):
                return await waiting
        except TimeoutError:
            pool.cancel_acquire(call.group, waiting)
            raise TimeoutExceeded(f"{call.url.origin}: no connection became free in time", "pool") from None
        except BaseException:
            pool.cancel_acquire(call.group, waiting)
            raise

    async def connect(self, call: RequestState, slot: PoolSlot) -> Connection | MultiplexedConnection:
        """Open a connection in `slot`.

        Raises:
            LocalProtocolError: the client was closed meanwhile. Others as `open_connection`.
        """
        timeout = asyncio.timeout(None)
        try:
            async with timeout:
                self.connecting[timeout] = None
                return await self._open_connection(call, slot)
        except TimeoutError:
            if timeout.expired():
                raise LocalProtocolError(CLOSED) from None
            raise
        finally:
            self.connecting.pop(timeout, None)

    async def _open_connection(self, call: RequestState, slot: PoolSlot) -> Connection | MultiplexedConnection:
        opened = await open_connection(
            call.url.origin,
            context=partial(self.make_context, call.group) if call.url.scheme == "https" else None,
            is_address=call.url.is_address,
            deadline=call.connect_by(asyncio.get_running_loop().time()),
            trace=self._trace,
            scratch=self._scratch,
            max_head=self._max_head,
            max_streams=self._limits.streams,
            route=DIRECT if self.router is None else self.router.route(call.url),
            lookups=None if self.record_lookups is None else self._lookups(call),
        )
        connection = opened.connection
        if self.pool is not None:
            # From here on the slot holds the connection, and releasing the slot closes it.
            try:
                self.pool.opened(slot, connection)
            except BaseException:
                connection.abort()
                raise
        slot.facts = facts_of(connection.transport, opened.endpoint, opened.tlsa)
        self.open[connection] = None
        if connection.lost is not None:
            connection.lost.add_done_callback(lambda _: self.open.pop(connection, None))
        return connection

    def _lookups(self, call: RequestState) -> "Lookups | None":
        from corenet.http.search import Lookups

        records = self.record_lookups
        if records is None or call.url.scheme != "https":
            return None
        protocols = self._protocols(http1=isinstance(call.group, Http1Key))
        return Lookups(records.https, records.tlsa, protocols, records.shuffle)

    def _protocols(self, *, http1: bool) -> tuple[str, ...]:
        """The ALPN protocols that this client offers. A context that was not made by corenet is assumed to offer h2 if
        `http2` is set."""
        if isinstance(self._context, ClientContext) and not http1:
            return self._context.protocols
        return tls.ALPN_HTTP2 if self._http2 and not http1 else tls.ALPN_HTTP1

    async def upgrade(self, call: RequestState) -> None:
        """Change the URL of `call` from http to https when its host has usable HTTPS records (RFC 9460 section 9.5).

        When https fails, the request is not sent over http. A redirect to https behaves in the same way.

        Raises:
            NameResolutionError: the records are bogus.
            TimeoutExceeded: they were not found in time.
        """
        url, records = call.url, self.record_lookups
        if records is None or not records.https or url.scheme != "http" or url.is_address:
            return
        if self.router is not None:
            route = self.router.route(url)
            if route.proxy is not None or route.unix_socket is not None:
                return
        from corenet.http.services import find_services

        loop = asyncio.get_running_loop()
        if call.deadline == 0.0:
            call.started = loop.time()
            call.deadline = call.started + call.timeout.total
        try:
            async with asyncio.timeout_at(call.connect_by(loop.time())):
                found = await find_services(
                    resolver_of(loop, url.origin), url.origin,
                    protocols=self._protocols(http1=False), shuffle=records.shuffle, trace=self._trace,
                )  # fmt: skip
        except TimeoutError:
            raise TimeoutExceeded(f"{url.origin}: its HTTPS records were not found in time", "dns") from None
        if found.bogus:
            raise NameResolutionError(f"the HTTPS records of {url.host} are bogus: {found.bogus}")
        if found.exists:
            call.url = url.with_https()

    async def make_context(self, group: PoolKey, policy: "DanePolicy | None" = None) -> "ssl.SSLContext":
        """Return the context of this client, else the process's default context for the current trust store.

        For an `Http1Key` it does not offer HTTP/2. With a `policy` it verifies servers with TLSA records.

        Raises:
            LocalProtocolError: `tls_context` was changed after `client_context` has made it.
        """
        context = await self._base_context(group)
        if policy is None:
            return context
        made = self._dane_contexts.pop((context, policy), None)
        if made is None:
            make = with_dane(context, policy)
            if make is None:
                raise LocalProtocolError("tls_context was changed after client_context has made it")
            made = await asyncio.get_running_loop().run_in_executor(None, make)
        self._dane_contexts[context, policy] = made
        if len(self._dane_contexts) > HTTP_TLSA_CONTEXTS:
            del self._dane_contexts[next(iter(self._dane_contexts))]
        return made

    async def _base_context(self, group: PoolKey) -> "ssl.SSLContext":
        http1 = isinstance(group, Http1Key)
        if self._context is None:
            return await prepared_context(tls.http2_client_context if self._http2 and not http1 else tls.client_context)
        if not http1:
            return self._context
        if self._http1_context is None:
            make = tls.http1_only(self._context)
            if make is None:
                raise LocalProtocolError("tls_context was changed after client_context has made it")
            self._http1_context = await asyncio.get_running_loop().run_in_executor(None, make)
        return self._http1_context

    def release_unused(self, slot: PoolSlot) -> None:
        """Release a slot over which no request was sent; its connection is closed."""
        if self.pool is not None:
            self.pool.release(slot, reusable=False)

    def release(
        self, slot: PoolSlot, exchange: Connection | Exchange | None, call: RequestState, error: BaseException | None
    ) -> None:
        """Release the slot; must be called once. An HTTP/1.1 connection is kept only after an error-free exchange."""
        reusable = False
        if exchange is not None:
            if error is None:
                reusable = exchange.finish()
            else:
                exchange.abort()
        elif isinstance(slot.connection, Connection):
            slot.connection.abort()
        if self.pool is not None:
            self.pool.release(slot, reusable=reusable)
        if exchange is not None and self._trace is not None:
            if error is None:
                if not call.traced:
                    self.report_sent(call, exchange)
                now = exchange.loop.time()
                report(self._trace, "response", DONE, now, bytes=exchange.size, kept=reusable)
            else:
                step = "response" if call.traced else "request"
                text = str(error) or type(error).__name__
                report(self._trace, step, FAILED, exchange.loop.time(), error=text)

    def prepare_repeat(self, slot: PoolSlot, call: RequestState, error: BaseException) -> bool:
        """Whether the request is sent again after `error`. If so, prepares it: counts the attempt and renews the body.

        That is done in three cases. The server closed a reused connection while an idempotent request was in flight
        (RFC 9112 section 9.3.1). It has reported that it did not process the request (RFC 9113 section 8.7). It
        requires HTTP/1.1 (RFC 9113 section 7).
        """
        if not isinstance(error, ServerDisconnected) or error.received:
            return False
        if error.wants_http1:
            return self._repeat_over_http1(call) and call.renew_body()
        if error.unprocessed:
            call.unprocessed += 1
            return call.unprocessed <= HTTP2_UNPROCESSED_REPEATS and call.renew_body()
        if call.repeated or not slot.reused or call.method not in IDEMPOTENT or not call.renew_body():
            return False
        call.repeated = True
        if self.pool is not None:
            self.pool.drop_idle(call.group)
        return True

    def _repeat_over_http1(self, call: RequestState) -> bool:
        """Mark the request for HTTP/1.1, and remember its origin (RFC 9113 section 7). False: that was done before, or
        the TLS context cannot be changed."""
        origin = call.url.origin
        if call.http1 == origin or (self._context is not None and tls.http1_only(self._context) is None):
            return False
        call.http1 = origin
        self.http1_origins[origin] = None
        if len(self.http1_origins) > HTTP1_ORIGINS:
            del self.http1_origins[next(iter(self.http1_origins))]
        return True

    def report_sent(self, call: RequestState, exchange: Connection | Exchange) -> None:
        """Report to the trace that the whole request was sent, or that the rest is not needed any more."""
        now = exchange.loop.time()
        call.traced = True
        report(self._trace, "request", DONE, now)
        report(self._trace, "response", STARTED, now)
