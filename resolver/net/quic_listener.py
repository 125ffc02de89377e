"""DNS over QUIC towards clients (RFC 9250): one UDP socket, and which QUIC connections there may be on it.

The library `qh3` speaks QUIC and TLS without I/O; this module gives it datagrams and time, and decides who may have a
connection. Limits, timeouts and counters are those of `StreamListener`: a connection has a slot of its client.

A datagram goes through these steps; each reason to drop one is counted:

1. Its header is read (`resolver.net.quic_packets`). A datagram of a known connection id goes to that connection, if it
   comes from the address that the connection began with. The port may change, because NAT routers drop idle mappings.
2. Another one must be an Initial packet of `QUIC_DATAGRAM` octets. For another version the answer is a Version
   Negotiation packet, which is smaller than the datagram.
3. A valid token proves the client's address: the connection gets its slot at once, as a TCP connection does.
4. Without one, up to `QUIC_UNVALIDATED` handshakes are begun, which get their slots when they are completed. The
   library sends at most three times what it has received until then. Above that number, and while handshakes wait, the
   answer is a Retry packet with a token, for which nothing is kept. So forged addresses use no slots of real clients,
   and cannot exclude them.
5. A handshake waits until there is time for it (`resolver.net.handshake_budget`). Only its first datagram is kept while
it waits (`_PendingClient`); further ones of its client are dropped until then.

A connection (`resolver.net.quic_connection`) is in `_unvalidated` until its handshake is complete, or has a slot. Its
connection ids are in `_by_id` as long as it is not closed. What connections have to send is collected in `_outgoing`,
and sent once in each turn of the loop (`_flush`).

There is no 0-RTT and no session resumption, because no session tickets are issued: each ticket of the library permits
0-RTT, which could be replayed (RFC 9250 section 4.5).
"""

import asyncio
import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

from qh3.quic.configuration import QuicConfiguration
from qh3.quic.packet import encode_quic_retry, encode_quic_version_negotiation

from resolver import limits
from resolver.net import doq
from resolver.net.fastpath import FastPath
from resolver.net.quic_connection import QuicClient, packed_peer
from resolver.net.quic_packets import CONNECTION_ID, INITIAL, VERSION_1, make_token, open_token, parse_header
from resolver.net.service import Service
from resolver.net.sockaddr import network_of
from resolver.net.tls_listener import BUSY, TlsListener, for_name
from resolver.net.udp_listener import enable_pktinfo, prepare_udp_socket
from resolver.policy import DROP, AccessTable
from resolver.settings import ServerSettings

__all__ = ["QuicListener"]

KEY = 32


class QuicListener(TlsListener, asyncio.DatagramProtocol):
    """The listener of one socket for DNS over QUIC, and all its connections."""

    transport_name = "QUIC"
    query_transport = "quic"
    serves_zones = False

    def __init__(
        self,
        service: Service,
        fast: FastPath,
        access: AccessTable,
        settings: ServerSettings,
        context: Mapping[str, QuicConfiguration],
        **options: Any,
    ) -> None:
        """`context` has certificates and keys of new connections by the names that clients ask for, the empty name for
        all others; `options` are those of `StreamListener`."""
        super().__init__(service, fast, access, settings, context, **options)
        self._by_id: dict[bytes, QuicClient] = {}
        self._unvalidated: dict[QuicClient, None] = {}
        self._pending_clients: dict[bytes, _PendingClient] = {}
        self._changed: dict[QuicClient, None] = {}
        self._outgoing: list[tuple[bytes, tuple[Any, ...]]] = []
        self._flush_due = False
        self._transport: asyncio.DatagramTransport | None = None
        self._key = os.urandom(KEY)
        self._configured: tuple[Any, float, dict[str, QuicConfiguration]] | None = None
        self.queries = 0
        self.retries = 0
        self.versions_negotiated = 0
        self.errors = 0
        self.dropped: dict[str, int] = {}
        self.protocol_errors: dict[str, int] = {}

    # --- StreamListener ----------------------------------------------------------------------------------------------

    async def start(self, sock: socket.socket) -> None:
        """Serve `sock`, which must be bound and non-blocking. The listener takes ownership."""
        prepare_udp_socket(sock)
        enable_pktinfo(sock)
        self._loop = asyncio.get_running_loop()
        await self._loop.create_datagram_endpoint(lambda: self, sock=sock)

    def stop_accepting(self) -> None:
        """Receive nothing more. Connections cannot continue without it: they end in `close`, after the waiting
        queries."""
        if self._transport is not None:
            cast(Any, self._transport).pause_reading()

    @property
    def settled(self) -> bool:
        return True

    def close(self) -> None:
        """Close every connection and stop serving."""
        transport, self._transport = self._transport, None
        for pending in self._pending_clients.values():
            self.handshake_budget.remove(pending)
        self._pending_clients.clear()
        for client in [*self._slots, *self._unvalidated]:
            client.close(doq.NO_ERROR)
        if transport is not None:
            self._send_all(transport)
            transport.close()
        super().close()

    @property
    def serving(self) -> bool:
        """Whether new connections may be admitted."""
        return self._transport is not None

    @property
    def address(self) -> tuple[Any, ...]:
        """The address that the socket is bound to: (address, port, ...)."""
        assert self._transport is not None
        return cast("tuple[Any, ...]", self._transport.get_extra_info("sockname"))

    @property
    def connections(self) -> int:
        """Connections, also those whose handshake is not completed."""
        return len(self._slots) + len(self._unvalidated)

    @property
    def octets(self) -> int:
        waiting = sum(pending.held for pending in self._pending_clients.values())
        return super().octets + sum(client.held for client in self._unvalidated) + waiting

    @property
    def octets_limit(self) -> int:
        unvalidated = limits.QUIC_UNVALIDATED * limits.CLIENT_CONNECTION_OCTETS
        return super().octets_limit + unvalidated + limits.HANDSHAKES_WAITING * limits.QUIC_WAITING_OCTETS

    def statistics(self) -> dict[str, Any]:
        """Counters since the start, by name; three map reasons to counts."""
        found = super().statistics()
        del found["bad_proxy_headers"], found["resumed"]
        return {
            **found,
            "connections": self.connections,
            "queries": self.queries,
            "retries": self.retries,
            "versions_negotiated": self.versions_negotiated,
            "send_errors": self.errors,
            "dropped": dict(self.dropped),
            "protocol_errors": dict(self.protocol_errors),
        }

    def _sweep(self) -> None:
        now = self.now()
        for client in list(self._unvalidated):
            if client.is_overdue(now):
                self.timed_out += 1
                client.abort()
        super()._sweep()
        self._watch()
        self.schedule()

    def _watch(self) -> None:
        """Have the timeouts of handshakes without a slot checked."""
        if self._unvalidated and self._timer is None:
            self._arm()

    # --- asyncio.DatagramProtocol --------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if exc is not None:
            self._warnings.warn("listener: a QUIC socket was closed after an error: %s", exc)

    def error_received(self, exc: Exception) -> None:
        """ICMP about a client that has ended, or a full send buffer: QUIC sends again. This is only counted."""
        self.errors += 1

    def datagrams_received(self, datagrams: Iterable[tuple[bytes, tuple[Any, ...]]]) -> None:
        """A batch from corenet's loop."""
        for data, peer in datagrams:
            self._receive(data, peer)
        self._flush()

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        """One datagram from any other loop."""
        self._receive(data, addr)
        self._flush()

    # --- datagrams -----------------------------------------------------------------------------------------------

    def _receive(self, data: bytes, peer: tuple[Any, ...]) -> None:
        header = parse_header(data)
        if header is None:
            self._drop("not QUIC")
            return
        client = self._by_id.get(header.destination)
        if client is not None:
            if peer[0] != client.host:
                self._drop("connection of another address")
            else:
                client.receive(data, peer)
            return
        version = header.version
        if version is None or (version == VERSION_1 and header.kind != INITIAL):
            self._drop("unknown connection")
        elif not version:
            self._drop("not QUIC")  # Version Negotiation of a server: answering it would be a loop
        elif len(data) < limits.QUIC_DATAGRAM:
            self._drop("first datagram too small")
        elif version != VERSION_1:
            self.versions_negotiated += 1
            self._outgoing.append((
                encode_quic_version_negotiation(
                    source_cid=header.destination, destination_cid=header.source, supported_versions=[VERSION_1]
                ),
                peer,
            ))
        elif len(header.destination) < limits.QUIC_CONNECTION_ID_MIN:
            self._drop("connection id too short")
        elif self.access.lookup(peer[0]) == DROP:
            self._drop("access list")
        else:
            self._begin(data, peer, header.destination, header.source, header.token)

    def _begin(self, data: bytes, peer: tuple[Any, ...], chosen: bytes, source: bytes, token: bytes) -> None:
        """An Initial packet to the connection id `chosen`, which no connection has."""
        budget = self.handshake_budget
        pending = self._pending_clients.get(chosen)
        if pending is not None:
            if not pending.add(data, peer):
                self._drop("handshake waits")
            return
        if budget.waiting and budget.acceptable() < 1:
            self._drop(BUSY)
            return
        budget.accepted()
        now = int(self.now())
        original = open_token(self._key, token, packed_peer(peer), chosen, now) if token else None
        if token and original is None:
            self._drop("token not valid")
            return
        if original is None and (budget.waiting or len(self._unvalidated) >= limits.QUIC_UNVALIDATED):
            self.retries += 1
            ours = os.urandom(CONNECTION_ID)
            self._outgoing.append((
                encode_quic_retry(
                    version=VERSION_1,
                    source_cid=ours,
                    destination_cid=source,
                    original_destination_cid=chosen,
                    retry_token=make_token(self._key, packed_peer(peer), chosen, ours, now),
                ),
                peer,
            ))
            return
        self._pending_clients[chosen] = pending = _PendingClient(self, data, peer, chosen, original)
        budget.enter(pending)

    def begin(self, pending: "_PendingClient") -> None:
        """There is time for the handshake of `pending`."""
        del self._pending_clients[pending.chosen]
        original = pending.original
        client = QuicClient(self, pending.peer)
        if original is not None:
            if not self.admit(cast(Any, client)):
                return
        else:
            self._unvalidated[client] = None
            self._watch()
        client.begin(original or pending.chosen, pending.chosen if original is not None else None)
        for data in pending.datagrams:
            client.receive(data, pending.peer)

    def drop_pending(self, pending: "_PendingClient") -> None:
        """Too many handshakes wait. The client sends its datagram again, if it still wants to."""
        del self._pending_clients[pending.chosen]
        self._drop(BUSY)

    @property
    def chooses(self) -> bool:
        """Whether the certificate depends on the name that a client asks for."""
        return len({id(one) for one in self.tls_context.values()}) > 1

    def configuration(self, name: str) -> QuicConfiguration:
        """The configuration of a new connection of a client that asks for `name`: certificate and limits."""
        contexts, idle = self.tls_context, self.idle_timeout
        if self._configured is None or self._configured[0] is not contexts or self._configured[1] != idle:
            self._configured = contexts, idle, {}
        configured = self._configured[2]
        found = for_name(contexts, name) or contexts[""]
        # By the certificate, not by the name, of which clients could ask for any number.
        key = next(one for one, context in contexts.items() if context is found)
        if key not in configured:
            configured[key] = replace(
                found,
                idle_timeout=idle,
                max_data=limits.QUIC_WINDOW,
                max_stream_data=limits.QUIC_WINDOW,
                max_datagram_size=limits.QUIC_DATAGRAM,
                connection_id_length=CONNECTION_ID,
            )
        return configured[key]

    def _drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    # --- for connections -----------------------------------------------------------------------------------------

    def opened(self, client: QuicClient) -> bool:
        """The handshake of `client` is completed; False when it must be closed, because no slot is free."""
        self.handshakes += 1
        if client in self._unvalidated:
            del self._unvalidated[client]
            return self.admit(cast(Any, client))
        return True

    def note_broken(self, rule: str) -> None:
        """A client has broken `rule`."""
        self.malformed += 1
        self.protocol_errors[rule] = self.protocol_errors.get(rule, 0) + 1

    def note_library_error(self, client: QuicClient, error: BaseException) -> None:
        """The library has raised instead of closing the connection."""
        self._drop("library error")
        self._warnings.warn("listener: a QUIC connection of %s ended by an error of qh3: %r", client.host, error)

    def route(self, identity: bytes, client: QuicClient) -> None:
        """Give datagrams for the connection id `identity` to `client`."""
        self._by_id[identity] = client

    def unroute(self, identity: bytes) -> None:
        """The connection id `identity` is no longer used."""
        self._by_id.pop(identity, None)

    def remove(self, client: Any) -> None:
        """Free what `client` holds here. A second call does nothing."""
        self._unvalidated.pop(client, None)
        self._changed.pop(client, None)
        super().remove(client)

    def send(self, datagrams: Iterable[tuple[bytes, tuple[Any, ...]]]) -> None:
        """Send `datagrams` together with the others of this turn."""
        self._outgoing.extend(datagrams)

    def schedule(self, client: QuicClient | None = None) -> None:
        """Check `client` for data to send, and send everything in this iteration of the loop."""
        if client is not None:
            self._changed[client] = None
        if not self._flush_due and self._loop is not None:
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def call_at(self, when: float, client: QuicClient) -> asyncio.TimerHandle:
        """Call `client.on_timer` at `when`."""
        assert self._loop is not None
        return self._loop.call_at(when, client.on_timer)

    def _flush(self) -> None:
        self._flush_due = True  # work that is scheduled from here is done here
        try:
            while self._changed:
                client, _ = self._changed.popitem()
                client.advance()
        finally:
            self._flush_due = False
        if self._transport is not None and self._outgoing:
            self._send_all(self._transport)

    def _send_all(self, transport: asyncio.DatagramTransport) -> None:
        outgoing, self._outgoing = self._outgoing, []
        many = getattr(transport, "send_many", None)
        if many is not None:
            many(outgoing)
            return
        for data, peer in outgoing:
            transport.sendto(data, peer)


class _PendingClient:
    """The first datagrams of a client whose handshake waits: sent to the connection id `chosen`, after a Retry packet
    when there is the `original` id. A ClientHello may be in several; at most `QUIC_HELLO` are kept."""

    __slots__ = ("_listener", "chosen", "datagrams", "network", "original", "peer")

    def __init__(
        self, listener: QuicListener, data: bytes, peer: tuple[Any, ...], chosen: bytes, original: bytes | None
    ) -> None:
        self._listener = listener
        self.datagrams = [data]
        self.peer = peer
        self.chosen = chosen
        self.original = original
        self.network = network_of(peer[0])

    def add(self, data: bytes, peer: tuple[Any, ...]) -> bool:
        """Keep a further datagram; False when it is from another address, or one too many."""
        if peer != self.peer or len(self.datagrams) >= limits.QUIC_HELLO:
            return False
        self.datagrams.append(data)
        return True

    @property
    def held(self) -> int:
        """Estimated memory."""
        return sum(map(len, self.datagrams)) + limits.CONNECTION_OVERHEAD

    def begin_handshake(self) -> None:
        """The handshake may begin."""
        self._listener.begin(self)

    def drop_handshake(self) -> None:
        """Too many handshakes wait."""
        self._listener.drop_pending(self)
