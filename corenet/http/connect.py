"""Opens a connection to an origin: name resolution, happy eyeballs, TLS, each with its own trace point and error.

The steps are separate, instead of one `create_connection(host)`, so that the trace and the error say which step took
the time or failed. Names are resolved by the loop's `getaddrinfo`, so an installed resolver is used. Attempts follow
RFC 8305: families interleaved, a new attempt every 250 ms, and no attempt is cancelled before one has succeeded.
"""

import asyncio
import math
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from corenet import tls
from corenet.http.connection import Connection
from corenet.http.errors import ConnectError, NameResolutionError, TimeoutExceeded, TlsError
from corenet.http.h2_connection import Multiplexed
from corenet.http.trace import DONE, FAILED, STARTED, Trace, report
from corenet.http.url import Origin
from corenet.limits import HTTP_CLOSE_TIMEOUT, HTTP_CONNECTION_ATTEMPT_DELAY
from corenet.loop.connecting import race

if TYPE_CHECKING:
    import ssl

__all__ = ["open_connection"]

_Address = tuple[int, Any]


async def open_connection(
    origin: Origin,
    *,
    context: "Callable[[], Awaitable[ssl.SSLContext]] | None",
    is_address: bool,
    deadline: float,
    trace: Trace | None = None,
    scratch: memoryview | None = None,
    max_head: int | None = None,
    max_streams: int = 1,
) -> Connection | Multiplexed:
    """Resolve, connect and do the TLS handshake until `deadline`; return a connection without an exchange.

    `deadline` is a time of the loop's clock, `math.inf` for none. `context` returns the TLS context; None: no TLS. The
    protocol that the server selects by ALPN decides the kind of connection. `max_streams` is how many exchanges a
    connection of HTTP/2 will carry at the same time.

    Raises:
        NameResolutionError: when the host has no address.
        ConnectError: when no address could be reached.
        TlsError: when the handshake failed.
        TimeoutExceeded: naming the phase that took too long.
    """
    loop = asyncio.get_running_loop()
    phase = "dns"
    timeout = deadline - loop.time()
    if timeout <= 0:
        raise TimeoutExceeded(f"{origin}: no time was left to open a connection", "connect")

    def point(step: str, **details: Any) -> None:
        report(trace, phase, step, loop.time(), **details)

    try:
        async with asyncio.timeout_at(deadline if deadline != math.inf else None):
            if is_address:
                family = socket.AF_INET6 if ":" in origin.host else socket.AF_INET
                addresses: list[_Address] = [(family, (origin.host, origin.port))]
            else:
                point(STARTED, host=origin.host)
                addresses = await _resolve(loop, origin)
                point(DONE, addresses=",".join(address[0] for _, address in addresses))
            phase = "connect"
            point(STARTED, host=origin.host, port=origin.port)
            sock = await _connect_any(loop, origin, addresses)
            negotiation = _Negotiation(loop, origin, scratch, max_head, max_streams)
            try:
                point(DONE, address=sock.getpeername()[0])
                if context is None:
                    await loop.create_connection(lambda: negotiation, sock=sock)
                    return negotiation.connection()
                phase = "tls"
                point(STARTED, name=origin.host)
                await _secure(loop, negotiation, sock, await context(), timeout)
                connection = negotiation.connection()
                if trace is not None:
                    tls_object = connection.transport.get_extra_info("ssl_object")
                    point(
                        DONE,
                        version=tls_object.version(),
                        cipher=tls_object.cipher()[0],
                        alpn=tls_object.selected_alpn_protocol() or "none",
                    )
            except BaseException:
                made = negotiation.made
                if made is None or made.lost is None:
                    sock.close()
                else:
                    # The transport owns the socket. Wait until it is closed, so that the limits of the pool hold.
                    made.abort()
                    await asyncio.wait((made.lost,), timeout=HTTP_CLOSE_TIMEOUT)
                raise
            return connection
    except TimeoutError as error:
        point(FAILED, error="timeout")
        raise TimeoutExceeded(f"{origin}: no connection within {timeout:.3g} s, stopped at {phase}", phase) from error
    except ConnectError as error:
        point(FAILED, error=str(error))
        raise
    except asyncio.CancelledError:
        point(FAILED, error="cancelled")
        raise


class _Negotiation(asyncio.BufferedProtocol):
    """Gives the transport to the kind of connection that ALPN has selected, before any data is received."""

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
        self.made: Connection | Multiplexed | None = None

    def connection(self) -> Connection | Multiplexed:
        """Return the connection, after `connection_made`."""
        assert self.made is not None  # create_connection has returned
        return self.made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        tls_object = transport.get_extra_info("ssl_object")
        if tls_object is not None and tls_object.selected_alpn_protocol() == "h2":
            self.made = Multiplexed(
                self.loop, self.origin, scratch=self.scratch, max_head=self.max_head, max_streams=self.max_streams
            )
        else:
            self.made = Connection(self.loop, self.origin, scratch=self.scratch, max_head=self.max_head)
        transport.set_protocol(self.made)
        self.made.connection_made(transport)


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


async def _connect_any(loop: asyncio.AbstractEventLoop, origin: Origin, addresses: Sequence[_Address]) -> socket.socket:
    """Return the first socket that connects; the others are closed."""
    failures: list[str] = []

    async def attempt(family: int, address: Any) -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            await loop.sock_connect(sock, address)
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError):
                failures.append(f"{address[0]}: {_why(error)}")
            raise
        return sock

    if len(addresses) == 1:
        try:
            return await attempt(*addresses[0])
        except OSError as error:
            raise _unreachable(origin, failures) from error
    sock = await race(loop, [partial(attempt, *address) for address in addresses], HTTP_CONNECTION_ATTEMPT_DELAY / 1000)
    if sock is None:
        raise _unreachable(origin, failures)
    return sock


def _why(error: OSError) -> str:
    # asyncio replaces strerror with its own text; the system's text says more.
    return os.strerror(error.errno) if error.errno else str(error)


def _unreachable(origin: Origin, failures: list[str]) -> ConnectError:
    return ConnectError(f"cannot connect to {origin.host} port {origin.port}: {'; '.join(failures)}")


async def _secure(
    loop: asyncio.AbstractEventLoop,
    negotiation: _Negotiation,
    sock: socket.socket,
    context: "ssl.SSLContext",
    timeout: float,
) -> None:
    host = negotiation.origin.host
    try:
        await loop.create_connection(
            lambda: negotiation,
            sock=sock,
            ssl=context,
            server_hostname=host.rstrip("."),
            ssl_handshake_timeout=timeout if timeout != math.inf else None,
            ssl_shutdown_timeout=HTTP_CLOSE_TIMEOUT,
        )
    except TimeoutError:
        raise
    except OSError as error:
        failure = tls.describe_handshake_error(error)
        if failure is None:
            failure = tls.HandshakeFailure(f"the connection was lost during the handshake: {_why(error)}", False)
        raise TlsError(f"TLS with {host}: {failure.reason}", certificate=failure.certificate) from error
