"""The common part of client connections: the identity of the client, and the phases before the first query.

A connection is in one phase. Each begins when the one before has ended; a phase that a listener does not need is left
out:

============  =========================================  ==============================================================
phase         what is received                           it ends
============  =========================================  ==============================================================
PROXY         a header of PROXY protocol version 2       with the header: the client is the one that it names. The
              (`resolver.net.proxy_protocol`)            connection had a slot as one of the proxy; now it gets one as
                                                         one of that client.
HANDSHAKE     the TLS handshake, by `loop.start_tls`     with the handshake, or with the connection when it fails
OPEN          queries: `received`                        with the connection
============  =========================================  ==============================================================

PROXY and HANDSHAKE together have `limits.TLS_HANDSHAKE`. A connection has a slot of its listener from the first phase
on, so connections that never finish the handshake are limited as all others, for each client and for each network.

During HANDSHAKE, `_transport` is the TCP transport below TLS. Nothing may be written to it: replies would be sent in
plain text. Octets that are decrypted before the phase has ended wait in `_early`.
"""

import asyncio
import socket
from typing import Any, Protocol, cast

from resolver import limits
from resolver.net.fair_slots import network_of
from resolver.net.proxy_protocol import ProxyHeaderError, TrustedProxies, parse_proxy_header

__all__ = ["StreamConnection"]

PROXY, HANDSHAKE, OPEN = range(3)


class Owner(Protocol):
    """The listener of a connection, as far as its first phases concern it."""

    handshake_timeout: float
    proxies: TrustedProxies | None
    tls_context: Any

    def now(self) -> float: ...

    def admit(self, client: "StreamConnection") -> bool: ...

    def admit_proxy(self, client: "StreamConnection") -> bool: ...

    def remove(self, client: "StreamConnection") -> None: ...

    def note_bad_proxy_header(self, host: str, error: Exception) -> None: ...

    def note_handshake(self, transport: asyncio.Transport) -> None: ...

    def note_handshake_failure(self, error: OSError) -> None: ...


class StreamConnection(asyncio.Protocol):
    """One connection of a `StreamListener`. Subclasses have `opened`, `received`, `closed` and `is_late`."""

    __slots__ = (
        "_early",
        "_expired",
        "_owner",
        "_peer",
        "_phase",
        "_phase_since",
        "_transport",
        "_upgrade",
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
        self._upgrade: asyncio.Task[None] | None = None
        self.host = ""
        self.network: str | bytes = ""
        self.octets = b""
        """The client's address as cookies are made of it."""
        self.allowed = False
        """Whether the access list serves the client; else each query is answered REFUSED."""
        self.waiting = 0
        """Queries that are not answered yet."""

    # --- what subclasses define ------------------------------------------------------------------------------------

    def opened(self, transport: asyncio.Transport) -> None:
        """Queries may come from now on."""

    def received(self, data: bytes) -> None:
        """Octets of queries."""
        raise NotImplementedError

    def turn(self) -> None:
        """Do a turn's share of the work that is left (`resolver.net.turns`)."""
        raise NotImplementedError

    def closed(self) -> None:
        """The connection has ended: release what is held."""

    def is_late(self, now: float) -> bool:
        """Whether a timeout of the phase OPEN has passed."""
        raise NotImplementedError

    # --- for the listener ------------------------------------------------------------------------------------------

    def abort(self) -> None:
        """End the connection now; queries that wait are cancelled."""
        self._owner.remove(self)
        if self._transport is not None:
            self._transport.abort()

    def is_overdue(self, now: float) -> bool:
        """Whether one of the timeouts has passed."""
        if self._phase == OPEN:
            return self.is_late(now)
        if now - self._phase_since > self._owner.handshake_timeout:
            self._expired = True
        return self._expired

    # --- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        try:
            self._begin(self._transport)
        except BaseException:
            self.abort()  # out of memory: the loop would keep the transport, but without a slot nothing times it out
            raise

    def data_received(self, data: bytes) -> None:
        if self._phase == OPEN:
            self.received(data)
        elif self._phase == PROXY:
            self._read_proxy_header(data)
        elif len(self._early) + len(data) > limits.TLS_EARLY_OCTETS:
            self.abort()
        else:
            self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()

    # --- phases ----------------------------------------------------------------------------------------------------

    def _begin(self, transport: asyncio.Transport) -> None:
        """Take a slot and go on to the first phase that is needed, or end the connection.

        Raises:
            MemoryError: it may have a slot or not.
        """
        peer = transport.get_extra_info("peername")
        if not peer:
            # The client has closed the connection before it was examined.
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
        """Be a connection of the client `peer`; False when it may have none."""
        self._peer = peer
        self.host = peer[0]
        self.network = network_of(self.host)
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        self.octets = socket.inet_pton(family, self.host.partition("%")[0])
        if self._owner.admit(self):
            return True
        if self._transport is not None:
            self._transport.abort()
        return False

    def _read_proxy_header(self, data: bytes) -> None:
        self._early += data  # less than one header, so far
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
        """Begin the handshake when the listener has TLS, else be open; `data` came behind the PROXY header."""
        transport, context = self._transport, self._owner.tls_context
        assert transport is not None
        if context is None:
            self._open(transport, data)
            return
        self._phase = HANDSHAKE
        transport.pause_reading()  # what comes is for TLS
        self._upgrade = asyncio.get_running_loop().create_task(self._handshake(transport, context, data))

    async def _handshake(self, transport: asyncio.Transport, context: Any, data: bytes) -> None:
        """Put TLS on the connection.

        The loop's `start_tls` has set its own protocol before it waits, so what is fed by `call_soon` from here reaches
        TLS, and before anything that the transport receives.
        """
        loop = asyncio.get_running_loop()
        owner = self._owner
        try:
            if transport.is_closing():
                return
            if data:
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
        """The connection has ended. A second call does nothing."""
        if self._transport is not None:
            self._transport = None
            self._owner.remove(self)
            self.closed()


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
