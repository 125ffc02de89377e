"""Opens a connection to an origin: name resolution, happy eyeballs, TLS, each with its own trace point and error.

The steps are separate, instead of one `create_connection(host)`, so that the trace and the error say which step took
the time or failed. Names are resolved by the loop's `getaddrinfo`, so an installed resolver is used. Attempts follow
RFC 8305: families interleaved, a new attempt every 250 ms, and no attempt is cancelled before one has succeeded. With a
`RecordResolver` on the loop, `corenet.http.search` starts them while answers still come in. The C library is called
once for both families, because each call takes a thread, and because a separate call for a family that the hosts file
does not have for the name would query DNS. A `Route` leads through a proxy, whose tunnel `corenet.http.tunnel` opens,
to a Unix socket, or from a local address.
"""

import asyncio
import math
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

from corenet import tls
from corenet.http.connection import Connection
from corenet.http.errors import ConnectError, LocalProtocolError, NameResolutionError, TimeoutExceeded, TlsError
from corenet.http.h2_connection import MultiplexedConnection
from corenet.http.routes import DIRECT, Route
from corenet.http.trace import DONE, FAILED, STARTED, Trace, report
from corenet.http.url import Origin
from corenet.limits import HTTP_CLOSE_TIMEOUT, HTTP_CONNECTION_ATTEMPT_DELAY, HTTP_READ_SIZE
from corenet.loop import RecordResolver, record_resolver
from corenet.loop.connecting import race

if TYPE_CHECKING:
    import ssl

    from corenet.http.attempts import Attempt
    from corenet.http.search import Lookups
    from corenet.http.tunnel import ProxyStream
    from corenet.tls.dane import DanePolicy

__all__ = ["Opened", "open_connection", "resolver_of"]

_Address = tuple[int, Any]


class Opened(NamedTuple):
    """A new connection, the endpoint of an HTTPS record that it leads to, and its TLSA record; empty for none."""

    connection: Connection | MultiplexedConnection
    endpoint: str = ""
    tlsa: str = ""


async def open_connection(
    origin: Origin,
    *,
    context: "Callable[[DanePolicy | None], Awaitable[ssl.SSLContext]] | None",
    is_address: bool,
    deadline: float,
    trace: Trace | None = None,
    scratch: memoryview | None = None,
    max_head: int | None = None,
    max_streams: int = 1,
    route: Route = DIRECT,
    lookups: "Lookups | None" = None,
) -> Opened:
    """Resolve, connect and do the TLS handshake until `deadline`; return a connection without an exchange.

    `context` is called with the policy for TLSA records, or None, and returns the TLS context; if it is None, there is
    no TLS. `is_address`: the host of `origin` is an IP address. `deadline` is a time of the loop's clock, `math.inf`
    for none. `scratch` is memory to receive into, `max_head` the limit of a response head in bytes. The protocol that
    the server selects by ALPN decides the kind of connection. `max_streams` is how many exchanges an HTTP/2 connection
    will carry at the same time. `lookups` are made for a direct connection to a name, and need a `RecordResolver` on
    the loop.

    Raises:
        NameResolutionError: when the host has no address, or records that `lookups` wants are bogus.
        ConnectError: when no address could be reached.
        ProxyError: when the proxy of `route` refused.
        TlsError: when the handshake failed.
        TimeoutExceeded: naming the phase that took too long.
        LocalProtocolError: when `lookups` are wanted and the loop has no `RecordResolver`.
    """
    loop = asyncio.get_running_loop()
    opening = _Opening(loop, origin, is_address, route, trace, deadline - loop.time())
    if opening.timeout <= 0:
        raise TimeoutExceeded(f"{origin}: no time was left to open a connection", "connect")
    if route.proxy is not None and route.proxy.secure and not opening.tunnels:
        from corenet.http.tunnel import proxy_context

        proxy = route.proxy
        context = lambda _: proxy_context(proxy)  # noqa: E731
    opening.context = context
    opening.make = partial(_Negotiation, loop, origin, scratch, max_head, max_streams)
    try:
        async with asyncio.timeout_at(deadline if deadline != math.inf else None):
            return await opening.run(lookups)
    except TimeoutError as error:
        opening.report(FAILED, error="timeout")
        raise TimeoutExceeded(
            f"{origin}: no connection within {opening.timeout:.3g} s, stopped at {opening.phase}", opening.phase
        ) from error
    except ConnectError as error:
        opening.report(FAILED, error=str(error))
        raise
    except asyncio.CancelledError:
        opening.report(FAILED, error="cancelled")
        raise


def resolver_of(loop: asyncio.AbstractEventLoop, origin: Origin) -> RecordResolver:
    """The resolver on `loop` that looks up records.

    Raises:
        LocalProtocolError: there is none.
    """
    found = record_resolver(loop)
    if found is None:
        raise LocalProtocolError(
            f"{origin}: https_records and dane need a resolver on the loop that looks up records; resolver.install() "
            "sets one"
        )
    return found


class _Opening:
    """A connection that is being opened.

    `timeout` is the time for all of it in seconds, `phase` the current step. `hop` is what the socket connects to: the
    origin or the proxy; `literal`: it is an IP address. `tunnels`: the proxy is to open a tunnel.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        is_address: bool,
        route: Route,
        trace: Trace | None,
        timeout: float,
    ) -> None:
        self.loop = loop
        self.origin = origin
        self.is_address = is_address
        self.route = route
        self.trace = trace
        self.timeout = timeout
        self.phase = "dns"
        proxy = route.proxy
        self.tunnels = proxy is not None and not route.forwards(origin.scheme)
        self.hop, self.literal = (origin, is_address) if proxy is None else (proxy.origin, proxy.is_address)
        self.context: Callable[[DanePolicy | None], Awaitable[ssl.SSLContext]] | None = None
        self.make: Callable[[], _Negotiation]
        self.policy: DanePolicy | None = None

    def report(self, step: str, **details: Any) -> None:
        """Report a point of the current phase to the trace."""
        report(self.trace, self.phase, step, self.loop.time(), **details)

    async def run(self, lookups: "Lookups | None") -> Opened:
        """Find the addresses, connect to one of them, and make the connection."""
        hop, route = self.hop, self.route
        if route.unix_socket is not None:
            addresses: list[_Address] = [(socket.AF_UNIX, route.unix_socket)]
        elif route.connect_to is not None:
            family = socket.AF_INET6 if ":" in route.connect_to else socket.AF_INET
            addresses = [(family, (route.connect_to, hop.port))]
        elif self.literal:
            addresses = [(socket.AF_INET6 if ":" in hop.host else socket.AF_INET, (hop.host, hop.port))]
        else:
            direct = route.proxy is None
            resolver = record_resolver(self.loop) if lookups is None or not direct else resolver_of(self.loop, hop)
            if resolver is not None:
                return await self.search(resolver, lookups if direct else None)
            self.report(STARTED, host=hop.host)
            addresses = await _resolve(self.loop, hop)
            self.report(DONE, addresses=",".join(address[0] for _, address in addresses))
        self.phase = "connect"
        self.report(STARTED, host=hop.host, port=hop.port)
        sock = await _connect_any(self.loop, hop, addresses, route.local_address)
        return Opened(await self.use(sock))

    async def search(self, resolver: RecordResolver, lookups: "Lookups | None") -> Opened:
        """Resolve and connect at the same time; continue with the next endpoint when TLS with one has failed."""
        from corenet.http.search import Search

        local = self.route.local_address
        family = 0 if local is None else socket.AF_INET6 if ":" in local else socket.AF_INET
        search = Search(self.loop, resolver, self.hop, lookups, family=family, trace=self.trace)
        refused: TlsError | None = None
        try:
            while True:
                try:
                    sock, endpoint = await search.connect(partial(_connect, self.loop, local), self.attempt_begins)
                except ConnectError as error:
                    if refused is None:
                        raise
                    raise refused from error
                try:
                    connection = await self.use(sock, partial(search.policy, endpoint))
                except TlsError as error:
                    if not search.give_up(endpoint):
                        raise
                    refused = error
                    self.report(FAILED, endpoint=endpoint, error=str(error))
                    continue
                shown = "" if endpoint.is_origin else str(endpoint)
                return Opened(connection, shown, "" if self.policy is None else self.policy.name)
        finally:
            await search.close()

    def attempt_begins(self, attempt: "Attempt") -> None:
        """Another attempt of a search starts; the first one begins the phase."""
        endpoint = attempt.endpoint
        if self.phase != "connect":
            self.phase = "connect"
            self.report(STARTED, host=endpoint.host, port=endpoint.port)
        self.report("attempt", endpoint=endpoint, address=attempt.address[1][0])

    async def use(
        self, sock: socket.socket, find_policy: "Callable[[], Awaitable[DanePolicy | None]] | None" = None
    ) -> Connection | MultiplexedConnection:
        """Make the connection on a connected socket; after a failure the socket is closed."""
        loop, route, origin = self.loop, self.route, self.origin
        negotiation = self.make()
        stream = _proxy_stream(loop) if self.tunnels else None
        try:
            self.report(DONE, address=route.unix_socket or _peer_address(self.hop, sock))
            if stream is not None:
                self.phase = "proxy"
                self.report(STARTED, proxy=str(route.proxy))
                await _open_tunnel(
                    loop, stream, sock, route, origin, self.is_address, self.timeout, negotiation.max_head
                )
                self.report(DONE)
            if self.context is None:
                if stream is None:
                    await loop.create_connection(lambda: negotiation, sock=sock)
                else:
                    stream.hand_over(negotiation)
                return negotiation.connection()
            self.phase = "tls"
            name = origin.host if self.tunnels else self.hop.host
            self.report(STARTED, name=name)
            if find_policy is not None:
                self.policy = await find_policy()
            await _start_tls(loop, negotiation, sock, await self.context(self.policy), name, self.timeout, stream)
            connection = negotiation.connection()
            if self.trace is not None:
                tls_object = connection.transport.get_extra_info("ssl_object")
                self.report(
                    DONE,
                    version=tls_object.version(),
                    cipher=tls_object.cipher()[0],
                    alpn=tls_object.selected_alpn_protocol() or "none",
                    resumed=tls_object.session_reused,
                    **({} if self.policy is None else {"tlsa": self.policy.name}),
                )
        except BaseException:
            made = negotiation.made
            if made is None or made.lost is None:
                if stream is not None:
                    await stream.discard()
                sock.close()
            else:
                # The transport owns the socket. Wait until it is closed, so that the limits of the pool hold.
                made.abort()
                await asyncio.wait((made.lost,), timeout=HTTP_CLOSE_TIMEOUT)
            raise
        return connection


class _Negotiation(asyncio.BufferedProtocol):
    """Gives the transport to the kind of connection that ALPN has selected.

    In a tunnel, `start_tls` returns in a later iteration of the loop than the one in which the handshake ended. What
    happens until then is kept here and passed on: the first bytes, at most those of one read, and the end.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        scratch: memoryview | None,
        max_head: int | None,
        max_streams: int,
    ) -> None:
        self.loop = loop
        self.origin = origin
        self.scratch = scratch
        self.max_head = max_head
        self.max_streams = max_streams
        self.made: Connection | MultiplexedConnection | None = None
        self.buffer: memoryview | None = None
        self.early = b""
        self.end: tuple[Exception | None] | None = None

    def get_buffer(self, sizehint: int) -> memoryview:
        if self.buffer is None:
            self.buffer = memoryview(bytearray(HTTP_READ_SIZE))
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        assert self.buffer is not None  # get_buffer came first
        self.early += self.buffer[:nbytes]

    def connection_lost(self, exc: Exception | None) -> None:
        self.end = (exc,)

    def connection(self) -> Connection | MultiplexedConnection:
        """Return the connection, after `connection_made`."""
        assert self.made is not None  # create_connection has returned
        return self.made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls_object = transport.get_extra_info("ssl_object")
        if tls_object is not None and tls_object.selected_alpn_protocol() == "h2":
            self.made = MultiplexedConnection(
                self.loop, self.origin, scratch=self.scratch, max_head=self.max_head, max_streams=self.max_streams
            )
        else:
            self.made = Connection(self.loop, self.origin, scratch=self.scratch, max_head=self.max_head)
            # Also with TLS to a proxy that forwards requests of http.
            self.made.secure = tls_object is not None
        transport.set_protocol(self.made)
        made = self.made
        made.connection_made(transport)
        while self.early and not made.is_gone:
            buffer = made.get_buffer(-1)
            piece = self.early[: len(buffer)]
            buffer[: len(piece)] = piece
            self.early = self.early[len(piece) :]
            made.buffer_updated(len(piece))
        if self.end is not None and not made.is_gone:
            made.connection_lost(*self.end)


async def _resolve(loop: asyncio.AbstractEventLoop, origin: Origin) -> list[_Address]:
    try:
        found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        raise NameResolutionError(f"the name {origin.host} has no address: {error.strerror or error}") from error
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    if not addresses:
        raise NameResolutionError(f"the name {origin.host} has no address")
    return _interleave(addresses)


def _interleave(addresses: Sequence[_Address]) -> list[_Address]:
    """Alternate the families, the preferred one first, and keep the order within each (RFC 8305 section 4)."""
    first = [address for address in addresses if address[0] == addresses[0][0]]
    second = [address for address in addresses if address[0] != addresses[0][0]]
    return [address for pair in zip_longest(first, second) for address in pair if address is not None]


async def _connect_any(
    loop: asyncio.AbstractEventLoop, origin: Origin, addresses: Sequence[_Address], local: str | None
) -> socket.socket:
    """Return the first socket that connects; the others are closed. With `local` they are bound to that address."""
    failures: list[str] = []
    if local is not None:
        family = socket.AF_INET6 if ":" in local else socket.AF_INET
        addresses = [address for address in addresses if address[0] == family]
        if not addresses:
            raise ConnectError(f"{origin.host} has no address of the family of the local address {local}")

    async def attempt(family: int, address: Any) -> socket.socket:
        try:
            return await _connect(loop, local, family, address)
        except OSError as error:
            failures.append(f"{address if family == socket.AF_UNIX else address[0]}: {_reason(error)}")
            raise

    if len(addresses) == 1:
        try:
            return await attempt(*addresses[0])
        except OSError as error:
            raise _unreachable(origin, failures) from error
    sock = await race(loop, [partial(attempt, *address) for address in addresses], HTTP_CONNECTION_ATTEMPT_DELAY / 1000)
    if sock is None:
        raise _unreachable(origin, failures)
    return sock


async def _connect(loop: asyncio.AbstractEventLoop, local: str | None, family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        if local is not None:
            sock.bind((local, 0))
        await loop.sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(error: OSError) -> str:
    # asyncio replaces strerror with its own text; the system's text is more informative.
    return os.strerror(error.errno) if error.errno else str(error)


def _unreachable(origin: Origin, failures: list[str]) -> ConnectError:
    return ConnectError(f"cannot connect to {origin.host} port {origin.port}: {'; '.join(failures)}")


def _peer_address(origin: Origin, sock: socket.socket) -> str:
    try:
        return str(sock.getpeername()[0])
    except OSError as error:  # ENOTCONN: the peer has reset the connection since it was made
        raise _unreachable(origin, [f"the peer reset the connection at once: {_reason(error)}"]) from error


def _proxy_stream(loop: asyncio.AbstractEventLoop) -> "ProxyStream":
    # Imported where it is needed: most programs have no proxy.
    from corenet.http.tunnel import ProxyStream

    return ProxyStream(loop)


async def _open_tunnel(
    loop: asyncio.AbstractEventLoop,
    stream: "ProxyStream",
    sock: socket.socket,
    route: Route,
    origin: Origin,
    is_address: bool,
    timeout: float,
    max_head: int | None,
) -> None:
    """Connect `stream` to the proxy, with TLS if it wants that, and open the tunnel to `origin`."""
    from corenet.http.tunnel import open_tunnel, proxy_context

    proxy = route.proxy
    assert proxy is not None  # a tunnel needs one
    if proxy.secure:
        await _start_tls(loop, stream, sock, await proxy_context(proxy), proxy.host, timeout)
    else:
        await loop.create_connection(lambda: stream, sock=sock)
    host = origin.host
    if not (is_address or proxy.resolves):
        host = (await _resolve(loop, origin))[0][1][0]
    await open_tunnel(stream, proxy, host, origin.port, max_head)


async def _start_tls(
    loop: asyncio.AbstractEventLoop,
    protocol: asyncio.BaseProtocol,
    sock: socket.socket,
    context: "ssl.SSLContext",
    host: str,
    timeout: float,
    stream: "ProxyStream | None" = None,
) -> None:
    """Do the handshake with `host`, on the socket or in the tunnel of `stream`, and connect `protocol`."""
    options: dict[str, Any] = {
        "server_hostname": host.rstrip("."),
        "ssl_handshake_timeout": timeout if timeout != math.inf else None,
        "ssl_shutdown_timeout": HTTP_CLOSE_TIMEOUT,
    }
    try:
        if stream is None:
            await loop.create_connection(lambda: protocol, sock=sock, ssl=context, **options)
        else:
            await stream.start_tls(protocol, context, options)
    except TimeoutError:
        raise
    except OSError as error:
        failure = tls.describe_handshake_error(error)
        if failure is None:
            failure = tls.HandshakeFailure(f"the connection was lost during the handshake: {_reason(error)}", False)
        raise TlsError(f"TLS with {host}: {failure.reason}", certificate=failure.certificate) from error
