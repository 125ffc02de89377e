"""The TCP listener (RFC 7766), with a TLS context also of DoT and DoH: admits, evicts and times out connections.

It owns the slots of its connections: their number is limited in total, per address and per network, like pending
queries in `resolver.net.service`. Unbound and BIND ran out of memory without such limits (CVE-2024-0760,
CVE-2024-12705). When slots are scarce, the connection without progress for the longest time is evicted, idle ones first
(`resolver.net.fair_slots`). Progress is a complete message or a reply, not an octet.

The buffers and timeouts of a connection are in `resolver.net.dns_connection`. At least once a second, one sweep checks
the timeouts of all connections, because a timer per connection would have to be re-armed for every message.
"""

import asyncio
import logging
import socket
from collections.abc import Iterable
from typing import Any, cast

from corenet.loop import Server
from resolver import limits
from resolver.log_limit import LimitedWarning
from resolver.net.dns_connection import DnsConnection
from resolver.net.fair_slots import FairSlots
from resolver.net.fastpath import FastPath
from resolver.net.handshake_budget import HandshakeBudget
from resolver.net.listen_socket import bound_socket
from resolver.net.proxy_protocol import TrustedProxies
from resolver.net.service import Service
from resolver.net.stream_connection import StreamConnection
from resolver.net.turns import Turns
from resolver.observe.labels import TRANSPORTS
from resolver.policy import ALLOW, DECISION, DROP, AccessTable
from resolver.settings import ServerSettings

__all__ = ["StreamListener", "open_stream_socket"]

logger = logging.getLogger(__name__)

SWEEPS_PER_TIMEOUT = 4
LONGEST_SWEEP = limits.STREAM_SWEEP / 1000


def open_stream_socket(
    address: str, port: int, *, reuse_port: bool = False, freebind: bool = False
) -> socket.socket:
    """A bound, non-blocking socket for `StreamListener`; with `freebind`, also of an address that this host lacks.

    Raises:
        OSError: the socket cannot be made or bound.
    """
    return bound_socket(socket.SOCK_STREAM, address, port, reuse_port=reuse_port, freebind=freebind, prepare=_prepare)


def _prepare(sock: socket.socket) -> None:
    # Without SO_REUSEADDR, bind fails after a restart while connections of the previous process are in TIME_WAIT.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted sockets inherit it, which saves a system call per connection.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class StreamListener:
    """One listening TCP socket and all its connections.

    Subclasses serve other protocols: they override `make_connection`, and those with TLS set `tls_context`.
    """

    transport_name = "TCP"
    """Name of the transport in log messages."""
    query_transport = "tcp"
    """`Query.transport` of queries over this listener."""
    tls_context: Any = None
    """The `ssl.SSLContext` of new connections; None without TLS."""
    serves_zones = True
    """Whether zones of this server are transferred (AXFR, IXFR) over it. Then primaries and secondaries may connect
    even if the access list drops them; the service answers only their zone requests."""
    padding_block = 0
    """Replies to padded queries are padded to multiples of this many bytes; 0 on transports that are not encrypted."""

    def __init__(
        self,
        service: Service,
        fast: FastPath,
        access: AccessTable,
        settings: ServerSettings,
        *,
        message_timeout: float = limits.STREAM_MESSAGE,
        handshake_timeout: float = limits.TLS_HANDSHAKE / 1000,
        proxies: Iterable[str] = (),
        own_access: bool = False,
        turns: Turns | None = None,
        name: str = "",
    ) -> None:
        """`message_timeout` (seconds) limits the time to complete a message and to read replies, `handshake_timeout`
        the time for the PROXY header and the TLS handshake. Connections of peers within the prefixes `proxies` begin
        with a PROXY header. `own_access`: `access` is not the table of `service`. `turns` limits the work per
        iteration of the loop and is shared by the listeners of a worker; None: a new one. `name`: policies can refer
        to it."""
        self.origin = (self.query_transport, name)
        self.transport_number = TRANSPORTS.index(self.query_transport)
        self.message_timeout = message_timeout
        self.handshake_timeout = handshake_timeout
        self.turns = Turns() if turns is None else turns
        self._slots: FairSlots[StreamConnection] = FairSlots()
        self._per_address: dict[str, int] = {}
        self.access_closed = 0
        self.switch(service, fast, access, settings, proxies=proxies, own_access=own_access)
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._warnings = LimitedWarning(logger)
        self.accepted = 0
        self.rejected = 0
        self.evicted = 0
        self.write_overrun = 0
        self.timed_out = 0
        self.malformed = 0
        self.bad_proxy_headers = 0

    async def start(self, sock: socket.socket) -> None:
        """Serve `sock`, which must be bound and non-blocking. The listener takes ownership."""
        self._loop = asyncio.get_running_loop()
        # Accepted sockets inherit it, which saves a system call per connection.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, limits.STREAM_UNSENT)
        server = await self._loop.create_server(
            self.make_connection, sock=sock, backlog=limits.STREAM_BACKLOG, start_serving=False
        )
        self._server = server
        if isinstance(server, Server):
            # On asyncio's own loop only the kernel's accept queue limits how many are accepted before `admit` runs.
            server.limit_accepts(self._accept_allowance)
        await server.start_serving()

    def make_connection(self) -> StreamConnection:
        """Return the protocol of a new connection."""
        return DnsConnection(self)

    def _accept_allowance(self, active: int) -> int:
        """Return how many connections may be accepted now; a negative value -n: none for n microseconds.

        `active` connections are open. A connection has a slot from `admit` to `remove`, but its descriptor is open
        before and after that. At most `STREAM_WITHOUT_SLOT` may be open without a slot. With TLS, the handshake budget
        limits the result further.
        """
        allowed = max(limits.STREAM_WITHOUT_SLOT - (active - len(self._slots)), 0)
        return allowed if self.tls_context is None else min(allowed, self.handshake_budget.acceptable())

    def switch(
        self,
        service: Service,
        fast: FastPath,
        access: AccessTable,
        settings: ServerSettings,
        *,
        proxies: Iterable[str] = (),
        own_access: bool = False,
    ) -> None:
        """Apply a new configuration to new queries, also on open connections. Pending queries keep the old service.

        Connections of clients that the new access list drops are closed.
        """
        prefixes = tuple(proxies)
        self.proxies = TrustedProxies(prefixes) if prefixes else None
        self.own_access = access if own_access else None
        self.service = service
        self.fast = fast
        self.access = access
        self.pipeline = settings.tcp_pipeline
        self.idle_timeout = settings.tcp_idle_timeout
        self._limit = settings.tcp_connections
        self._limit_per_client = settings.tcp_connections_per_client
        self._limit_per_network = max(self._limit * settings.tcp_connections_network_percent // 100, 1)
        for connection in list(self._slots):
            if not connection.network:
                continue  # its PROXY header has not been received, so its client is not known
            found = access.find(connection.host)
            decision = found & DECISION
            connection.access, connection.allowed = found, decision == ALLOW
            if decision == DROP and not self._is_zone_peer(connection):
                self.access_closed += 1
                connection.close_denied()

    def stop_accepting(self) -> None:
        """Accept no more connections, and close those whose clients are silent for `UPGRADE_IDLE`. This cannot be
        undone."""
        if self._server is not None:
            self._server.close()
        self.idle_timeout = limits.UPGRADE_IDLE / 1000
        if self._timer is not None:
            self._timer.cancel()
            self._arm()

    @property
    def settled(self) -> bool:
        """After `stop_accepting`: whether every connection has ended."""
        return not self._slots

    def close(self) -> None:
        """Stop serving and abort every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._slots):
            connection.abort()

    @property
    def serving(self) -> bool:
        """Whether new connections may be admitted."""
        return self._server is not None

    @property
    def address(self) -> tuple[Any, ...]:
        """The address that the socket is bound to: (address, port, ...)."""
        assert self._server is not None
        return cast("tuple[Any, ...]", self._server.sockets[0].getsockname())

    @property
    def connections(self) -> int:
        """Open connections."""
        return len(self._slots)

    @property
    def max_connections(self) -> int:
        """Maximum number of open connections (``server.tcp-connections``)."""
        return self._limit

    @property
    def octets(self) -> int:
        """Estimated memory of all connections, without their unanswered queries. It asks each connection."""
        return sum(connection.held for connection in list(self._slots))

    @property
    def octets_limit(self) -> int:
        """Most that all connections hold."""
        return self._limit * limits.CLIENT_CONNECTION_OCTETS

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, by name."""
        return {
            "accepted": self.accepted,
            "rejected": self.rejected,
            "access_closed": self.access_closed,
            "evicted": self.evicted,
            "timed_out": self.timed_out,
            "write_overrun": self.write_overrun,
            "malformed": self.malformed,
            "bad_proxy_headers": self.bad_proxy_headers,
            "connections": len(self._slots),
        }

    # --- for connections -----------------------------------------------------------------------------------------

    def now(self) -> float:
        """Time of the loop in seconds."""
        assert self._loop is not None
        return self._loop.time()

    def admit_proxy(self, connection: StreamConnection) -> bool:
        """Give a connection of a proxy a slot until its PROXY header is received. False: the caller must close it.

        Only the total limit applies, because a proxy forwards the connections of many clients. The limits per client
        and network apply when the header is known.
        """
        if not self.serving or not self._free_slot(""):
            return False
        self._slots.add(connection, "")
        if self._timer is None:
            self._arm()
        return True

    def note_bad_proxy_header(self, host: str, error: Exception) -> None:
        """Count that the proxy `host` has sent something else than a PROXY header."""
        self.bad_proxy_headers += 1
        self._warnings.warn("listener: %s has to send a PROXY header: %s (listener.proxy-protocol-from)", host, error)

    def note_handshake(self, transport: asyncio.Transport) -> None:
        """A TLS handshake was completed."""

    def note_handshake_failure(self, error: OSError) -> None:
        """A TLS handshake has failed, or was not completed in time (TimeoutError)."""

    def note_handshake_dropped(self) -> None:
        """A connection is closed because too many wait for their handshake."""

    @property
    def handshake_budget(self) -> HandshakeBudget:
        """The CPU budget for TLS handshakes of this worker (`resolver.net.handshake_budget`)."""
        return self.turns.handshakes

    def admit(self, connection: StreamConnection) -> bool:
        """Give `connection` a slot. False: the caller must close it.

        May evict another connection when no slot is free, or when its network has reached its limit.
        """
        found = self.access.find(connection.host)
        access = found & DECISION
        if not self.serving or (access == DROP and not self._is_zone_peer(connection)):
            self.rejected += 1
            return False
        connection.access, connection.allowed = found, access == ALLOW
        count = self._per_address.get(connection.host, 0)
        if count >= self._limit_per_client:
            self.rejected += 1
            self._warnings.warn(
                "listener: client %s has %d %s connections, a new one was closed (server.tcp-connections-per-client)",
                connection.host, count, self.transport_name,
            )
            return False
        slots, network = self._slots, connection.network
        # These loops run more than once only after a reload has lowered a limit.
        while slots.count(network) >= self._limit_per_network:
            if not self._evict(slots.oldest_idle(network)):
                self._warnings.warn(
                    "listener: the network of client %s has %d %s connections, a new one was closed"
                    " (server.tcp-connections-network-percent)",
                    connection.host, slots.count(network), self.transport_name,
                )
                return False
        if not self._free_slot(network):
            return False
        slots.add(connection, network)
        try:
            self._per_address[connection.host] = self._per_address.get(connection.host, 0) + 1
        except MemoryError:
            slots.remove(connection)  # not `self.remove`: it would decrement a count that was not incremented
            raise
        self.accepted += 1
        if self._timer is None:
            self._arm()
        return True

    def _is_zone_peer(self, connection: StreamConnection) -> bool:
        peers = self.fast.peers
        return self.serves_zones and peers is not None and peers.knows(connection.host)

    def _free_slot(self, network: str | bytes) -> bool:
        """Whether there is a slot for one more connection of `network`. May evict another connection."""
        while len(self._slots) >= self._limit:
            if not self._evict(self._slots.choose_victim(network)):
                self._warnings.warn(
                    "listener: all %d %s connections are in use, a new one was closed (server.tcp-connections)",
                    self._limit, self.transport_name,
                )
                return False
        return True

    def _evict(self, connection: StreamConnection | None) -> bool:
        """Abort `connection` to free its slot. None: there is none to evict, and the new one counts as rejected."""
        if connection is None:
            self.rejected += 1
            return False
        self.evicted += 1
        connection.abort()
        return True

    def note_progress(self, connection: StreamConnection) -> None:
        """Record that `connection` has made progress."""
        self._slots.note_progress(connection, busy=connection.waiting > 0)

    def remove(self, connection: StreamConnection) -> None:
        """Free the slot of `connection`. A second call does nothing."""
        self.handshake_budget.remove(connection)
        if self._slots.remove(connection) and connection.network:
            decrement(self._per_address, connection.host)

    def _arm(self) -> None:
        assert self._loop is not None
        shortest = min(self.idle_timeout, self.message_timeout)
        self._timer = self._loop.call_later(min(LONGEST_SWEEP, shortest / SWEEPS_PER_TIMEOUT), self._sweep)

    def _sweep(self) -> None:
        """Abort connections whose idle, message or write timeout has passed."""
        self._timer = None
        now = self.now()
        for connection in list(self._slots):
            if connection.is_overdue(now):
                self.timed_out += 1
                connection.abort()
        if self._slots:
            self._arm()


def decrement(counts: dict[str, int], key: str) -> None:
    """Decrement the count of `key`, and delete it at 0."""
    count = counts[key] - 1
    if count:
        counts[key] = count
    else:
        del counts[key]
