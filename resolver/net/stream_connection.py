"""The common part of client connections: the identity of the client, and the phases before the first query.

A connection passes through these phases in order. A phase that its listener does not need is skipped:

============  =========================================  ==============================================================
phase         what is received                           the phase ends
============  =========================================  ==============================================================
PROXY         a header of PROXY protocol version 2       when the header is complete. The slot of the proxy is released,
              (`resolver.net.proxy_protocol`)            and the connection takes a slot of the client in the header.
HELLO         a ClientHello of TLS                       when it is complete
HANDSHAKE     nothing, while the connection waits for    when the handshake is complete; the connection is closed when
              its turn (`handshake_budget`); then the    it fails, or when too many wait
              TLS handshake, by `loop.start_tls`
OPEN          queries: `received`                        when the connection is closed
DROPPED       nothing; too many wait for a handshake     when the connection is closed
============  =========================================  ==============================================================

PROXY, HELLO and HANDSHAKE together have one timeout, `limits.TLS_HANDSHAKE`. A connection has a slot of its listener
from the first phase on. So connections that never complete the handshake count against the limits of their client and
network.

During HANDSHAKE, `_transport` is the TCP transport below TLS. Nothing may be written to it, because it would be sent
unencrypted. Octets that are decrypted before the phase has ended are kept in `_early`, as is the ClientHello before.
"""

import asyncio
import socket
from typing import Any, Protocol, cast

from corenet.tls import received_close_notify
from resolver import limits
from resolver.net.client_hello import ClientHello
from resolver.net.handshake_budget import HandshakeBudget
from resolver.net.proxy_protocol import ProxyHeaderError, TrustedProxies, parse_proxy_header
from resolver.net.sockaddr import network_of
from resolver.query import client_address

__all__ = ["StreamConnection", "half_close"]

PROXY, HELLO, HANDSHAKE, OPEN, DROPPED = range(5)


class Owner(Protocol):
    """What a connection needs of its listener."""

    handshake_timeout: float
    proxies: TrustedProxies | None
    tls_context: Any

    @property
    def handshake_budget(self) -> HandshakeBudget: ...

    def now(self) -> float: ...

    def admit(self, client: "StreamConnection") -> bool: ...

    def admit_proxy(self, client: "StreamConnection") -> bool: ...

    def remove(self, client: "StreamConnection") -> None: ...

    def note_bad_proxy_header(self, host: str, error: Exception) -> None: ...

    def note_handshake(self, transport: asyncio.Transport) -> None: ...

    def note_handshake_failure(self, error: OSError) -> None: ...

    def note_handshake_dropped(self) -> None: ...


class StreamConnection(asyncio.Protocol):
    """One connection of a `StreamListener`. Subclasses define `opened`, `received`, `closed` and `is_late`."""

    __slots__ = (
        "_early",
        "_expired",
        "_hello",
        "_owner",
        "_peer",
        "_phase",
        "_phase_since",
        "_transport",
        "_upgrade",
        "access",
        "allowed",
        "host",
        "network",
        "octets",
        "waiting",
    )

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._peer: tuple[Any, ...] = ("", 0)
        self._phase = PROXY
        self._phase_since = 0.0
        self._early = b""
        self._expired = False
        self._hello: ClientHello | None = None
        """The ClientHello as far as it was received, in the phase HELLO."""
        self._upgrade: asyncio.Task[None] | None = None
        self.host = ""
        self.network: str | bytes = ""
        self.octets = b""
        """The client's address in the form that cookies are computed from."""
        self.access = 0
        """Access and view of the client, as `AccessTable.find` gives them."""
        self.allowed = False
        """Whether the access list serves the client; else each query is answered REFUSED."""
        self.waiting = 0
        """Number of unanswered queries."""

    # --- what subclasses define ------------------------------------------------------------------------------------

    def opened(self, transport: asyncio.Transport) -> None:
        """The phase OPEN begins."""

    def received(self, data: bytes) -> None:
        """Process octets of queries."""
        raise NotImplementedError

    def turn(self) -> None:
        """Do a turn's share of the work that is left (`resolver.net.turns`)."""
        raise NotImplementedError

    def closed(self) -> None:
        """The connection has ended: release its resources."""

    def is_late(self, now: float) -> bool:
        """Whether a timeout of the phase OPEN has passed."""
        raise NotImplementedError

    # --- for the listener ------------------------------------------------------------------------------------------

    @property
    def held(self) -> int:
        """Estimated memory of the connection, without its unanswered queries, which the service counts."""
        secured, transport = self._owner.tls_context is not None, self._transport
        octets = limits.TLS_OVERHEAD if secured else limits.CONNECTION_OVERHEAD
        octets += len(self._early) + (0 if self._hello is None else len(self._hello.data))
        return octets if transport is None else octets + transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close the connection at once; its unanswered queries are cancelled."""
        self._owner.remove(self)
        if self._transport is not None:
            self._transport.abort()

    def close_denied(self) -> None:
        """Close the connection because a new access list drops its client, as a new connection would be closed."""
        self.abort()

    def is_overdue(self, now: float) -> bool:
        """Whether one of the timeouts has passed."""
        if self._phase == OPEN:
            return self.is_late(now)
        if now - self._phase_since > self._owner.handshake_timeout:
            self._expired = True
        return self._expired

    @property
    def has_early(self) -> bool:
        """Whether decrypted octets wait for the phase OPEN."""
        return self._phase == HANDSHAKE and bool(self._early)

    def can_answer_after_end(self) -> bool:
        """Whether our direction can stay open although the client has ended its own, asked in `eof_received`.

        Over TLS it can after close_notify of TLS 1.3. Else the loop would close the connection all the same, and log a
        warning for each, so clients could fill the log.
        """
        transport: Any = self._transport
        if self._phase == HANDSHAKE:
            transport = transport.get_protocol()  # TLS, which `start_tls` has not returned yet
        tls = transport.get_extra_info("ssl_object")
        if tls is None:
            return True
        return hasattr(transport, "half_close") and tls.version() == "TLSv1.3" and received_close_notify(tls)

    # --- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        try:
            self._begin(self._transport)
        except BaseException:
            self.abort()  # out of memory: the loop keeps the transport, but without a slot it has no timeout
            raise

    def data_received(self, data: bytes) -> None:
        if self._phase == OPEN:
            self.received(data)
        elif self._phase == PROXY:
            self._read_proxy_header(data)
        elif self._phase == HELLO:
            self._read_hello(data)
        elif len(self._early) + len(data) > limits.TLS_EARLY_OCTETS:
            self.abort()
        else:
            self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        waits = self._phase == HELLO or (self._phase == HANDSHAKE and self._upgrade is None)
        if waits and self._transport is not None:
            self._owner.note_handshake_failure(TimeoutError() if self._expired else ConnectionResetError())
        self._gone()

    # --- phases ----------------------------------------------------------------------------------------------------

    def _begin(self, transport: asyncio.Transport) -> None:
        """Take a slot and start the first phase that is needed, or close the connection.

        Raises:
            MemoryError: the connection may or may not have a slot.
        """
        peer = transport.get_extra_info("peername")
        if not peer:
            # The client has already closed the connection.
            transport.abort()
            return
        owner = self._owner
        self._phase_since = owner.now()
        if owner.proxies is not None and peer[0] in owner.proxies:
            self._peer, self.host = peer, peer[0]
            if not owner.admit_proxy(self):
                transport.abort()
            return
        if self._identify(peer):
            self._secure(b"")

    def _identify(self, peer: tuple[Any, ...]) -> bool:
        """Take a slot of the client `peer`; False when it gets none, and the connection is closed."""
        self._peer = peer
        self.host = client_address(peer[0])
        self.network = network_of(self.host)
        family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
        self.octets = socket.inet_pton(family, peer[0].partition("%")[0])
        if self._owner.admit(self):
            return True
        if self._transport is not None:
            self._transport.abort()
        return False

    def _read_proxy_header(self, data: bytes) -> None:
        self._early += data  # until now less than one header
        try:
            header = parse_proxy_header(self._early)
        except ProxyHeaderError as error:
            self._owner.note_bad_proxy_header(self.host, error)
            self.abort()
            return
        if header is None:
            return
        rest, self._early = self._early[header.size:], b""
        self._owner.remove(self)
        if self._identify(header.client or self._peer):
            self._secure(rest)

    def _secure(self, data: bytes) -> None:
        """Start the phase HELLO, or OPEN without TLS. `data` was received after the PROXY header."""
        assert self._transport is not None
        if self._owner.tls_context is None:
            self._open(self._transport, data)
            return
        self._owner.handshake_budget.accepted()
        self._phase = HELLO
        self._hello = ClientHello()
        if data:
            self._read_hello(data)

    def _read_hello(self, data: bytes) -> None:
        """Collect the ClientHello, because the handshake must not begin before its client has sent it."""
        hello = self._hello
        assert hello is not None  # in this phase
        if not hello.feed(data):
            return
        assert self._transport is not None
        self._early, self._hello = hello.data, None
        self._phase = HANDSHAKE
        self._transport.pause_reading()  # what follows is for TLS
        self._owner.handshake_budget.enter(self)

    def begin_handshake(self) -> None:
        """The budget has time for the handshake."""
        transport, data, self._early = self._transport, self._early, b""
        assert transport is not None
        context = self._owner.tls_context
        self._upgrade = asyncio.get_running_loop().create_task(self._handshake(transport, context, data))

    def drop_handshake(self) -> None:
        """Too many connections wait for their handshake: close this one."""
        self._phase = DROPPED
        self._owner.note_handshake_dropped()
        self.abort()

    async def _handshake(self, transport: asyncio.Transport, context: Any, data: bytes) -> None:
        """Perform the TLS handshake.

        `start_tls` sets its own protocol before it first waits. So `data`, fed by `call_soon`, reaches TLS, and before
        anything that the transport receives.
        """
        loop = asyncio.get_running_loop()
        owner = self._owner
        try:
            if transport.is_closing():
                return
            loop.call_soon(_feed, transport, data)
            secured = await loop.start_tls(
                transport, self, context, server_side=True, ssl_shutdown_timeout=limits.TLS_SHUTDOWN
            )
        except OSError as error:
            owner.note_handshake_failure(TimeoutError() if self._expired else error)
            self._gone()
            return
        except BaseException:
            self.abort()
            raise
        finally:
            self._upgrade = None
        if secured is None or self._transport is None or secured.is_closing():
            owner.note_handshake_failure(TimeoutError() if self._expired else ConnectionResetError())
            self._gone()
            return
        owner.note_handshake(secured)
        early, self._early = self._early, b""
        self._open(secured, early)

    def _open(self, transport: asyncio.Transport, data: bytes) -> None:
        self._transport = transport
        self._phase = OPEN
        transport.set_write_buffer_limits(high=limits.STREAM_WRITE_HIGH)
        self.opened(transport)
        if data:
            self.received(data)

    def _gone(self) -> None:
        """Release the connection, which has ended. A second call does nothing."""
        if self._transport is not None:
            self._transport = None
            self._owner.remove(self)
            self.closed()


def half_close(transport: asyncio.Transport) -> bool:
    """End our direction behind what was written, by FIN or close_notify; the client may still send. False: not
    possible, with TLS of asyncio's own loop."""
    if transport.can_write_eof():
        transport.write_eof()
        return True
    end: Any = getattr(transport, "half_close", None)
    if end is None:
        return False
    end()
    return True


def _feed(transport: asyncio.Transport, data: bytes) -> None:
    """Give `data` to the protocol of `transport` as if it had been received now."""
    protocol: Any = transport.get_protocol()
    if not isinstance(protocol, asyncio.BufferedProtocol):
        protocol.data_received(data)
        return
    while data:
        buffer = memoryview(protocol.get_buffer(len(data)))
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]
