"""Queries to servers over TLS (RFC 7858). Connections, slots, pipelining and matching are those of `stream_upstream`.

Differences from TCP: the timeout of a query includes the handshake. Before queries are sent, the server must prove the
name and the pinned keys that are configured for it (`resolver.upstream_address`). No query is ever sent unencrypted.
Queries are padded to blocks (RFC 8467 section 4.1). The server's idle timeout (RFC 7828) is used up to
`TLS_UPSTREAM_IDLE_MAX`. Sessions are resumed.

These servers come from the configuration only. They have their own connection slots, so that servers of public zones
cannot exhaust them.
"""

import asyncio
import time
from typing import TYPE_CHECKING, Any

from resolver import limits
from resolver.effects import FailureKind, Server
from resolver.log_limit import LimitedWarning
from resolver.net.client_contexts import TlsContexts
from resolver.net.match import make_packet
from resolver.net.stream_upstream import StreamUpstream, logger
from resolver.net.tls_client import ConnectionFacts, describe_tls_failure, server_hostname
from resolver.net.upstream_connection import ServerQueue, StreamQuery, UpstreamConnection, query_flags
from resolver.wire import consts as c
from resolver.wire.edns import options_to_wire
from resolver.wire.message import MessageView

if TYPE_CHECKING:
    import ssl

__all__ = ["TlsConnection", "TlsUpstream", "with_options"]

OPTION_HEAD = 4
KEEPALIVE = c.OPTION_KEEPALIVE.to_bytes(2, "big") + b"\0\0"
KEEPALIVE_SIZE = 2
KEEPALIVE_UNIT = 0.1  # seconds (RFC 7828 section 3.1)
BLOCK = limits.QUERY_PADDING_BLOCK


def with_options(packet: bytes, *, keepalive: bool, subnet: bytes | None = None) -> bytes:
    """Add padding up to a whole block, and the options keepalive and client subnet, to a query that ends with an OPT
    without options."""
    options = KEEPALIVE if keepalive else b""
    if subnet is not None:
        options += options_to_wire([(c.OPTION_ECS, subnet)])
    fill = -(len(packet) + len(options) + OPTION_HEAD) % BLOCK
    options += c.OPTION_PADDING.to_bytes(2, "big") + fill.to_bytes(2, "big") + bytes(fill)
    return packet[:-2] + len(options).to_bytes(2, "big") + options


class TlsConnection(UpstreamConnection):
    """One connection over TLS. `facts` is None until the handshake is complete."""

    owner: "TlsUpstream"
    overhead = limits.TLS_OVERHEAD

    def __init__(self, owner: "TlsUpstream", server: ServerQueue) -> None:
        super().__init__(owner, server)
        self.began = time.monotonic()
        self.spread = limits.TLS_UPSTREAM_SPREAD
        self.last_reply = 0.0
        self.context: ssl.SSLContext | None = None
        self.facts: ConnectionFacts | None = None

    def encode(self, entry: StreamQuery) -> bytes:
        ask = entry.ask
        packet = make_packet(
            ask.qname, ask.qtype, entry.identity, flags=query_flags(ask), payload=ask.edns_payload, do=ask.do
        )
        return packet if ask.edns_payload is None else with_options(packet, keepalive=True, subnet=ask.subnet)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.facts = self.established(transport)
        self.owner.handshakes += 1
        ssl_object: Any = self.facts.ssl_object
        self.owner.resumed += bool(ssl_object.session_reused)
        super().connection_made(transport)

    def established(self, transport: asyncio.BaseTransport) -> ConnectionFacts:
        """The handshake is complete, and the server is authenticated."""
        return ConnectionFacts(transport.get_extra_info("ssl_object"), time.monotonic() - self.began)

    def end_transport(self, transport: asyncio.Transport) -> None:
        """Close an idle connection with close_notify, so that its session can be resumed; abort a busy one, and one
        when as many wait for the close_notify of their server as there may be connections."""
        waiting = len(self.owner.shutting_down)
        if self.pending or self.facts is None or self.owner.closed or waiting >= self.owner.max_connections:
            transport.abort()
        else:
            self.owner.shutting_down.add(transport)
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.owner.shutting_down.discard(self.transport)
        super().connection_lost(exc)

    def note_timeout(self, entry: StreamQuery) -> None:
        """A recursive server is slow for some names, so only a connection without a reply since the query is closed."""
        if self.last_reply < entry.started:
            self.closing = True

    def note_reply(self, view: MessageView) -> None:
        """Use the server's idle timeout. With 0 the server accepts no further query (RFC 7828 section 3.3.2)."""
        self.last_reply = time.monotonic()
        value = None if view.edns is None else view.edns.get(c.OPTION_KEEPALIVE)
        if value is None or len(value) != KEEPALIVE_SIZE:
            return
        self.idle_seconds = min(int.from_bytes(value, "big") * KEEPALIVE_UNIT, limits.TLS_UPSTREAM_IDLE_MAX)
        if not self.idle_seconds:
            self.closing = True

    def description(self) -> ConnectionFacts | None:
        return self.facts


class TlsUpstream(StreamUpstream):
    """All outgoing connections over TLS. `contexts` may be shared with other upstreams."""

    transport_name = "TLS"
    connection_type: type[UpstreamConnection] = TlsConnection

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        contexts: TlsContexts,
        idle_seconds: float = limits.TLS_UPSTREAM_IDLE,
        connections: int = limits.TLS_UPSTREAMS,
        **options: Any,
    ) -> None:
        super().__init__(loop, idle_seconds=idle_seconds, connections=connections, **options)
        self.contexts = contexts
        self.shutting_down: set[asyncio.Transport | None] = set()
        """Transports that wait for the close_notify of the server, at most `TLS_UPSTREAM_SHUTDOWN` seconds, and at most
        as many as there may be connections."""
        self.handshakes = 0
        self.resumed = 0
        self.refused = 0
        self._refusals = LimitedWarning(logger, different=limits.TLS_UPSTREAM_WARNINGS)

    def close(self) -> None:
        super().close()
        for transport in list(self.shutting_down):
            assert transport is not None
            transport.abort()

    @property
    def octets(self) -> int:
        return super().octets + len(self.shutting_down) * limits.TLS_OVERHEAD

    @property
    def octets_limit(self) -> int:
        return self._limit * (self.connection_octets + limits.TLS_OVERHEAD)

    async def open_transport(self, connection: UpstreamConnection) -> None:
        assert isinstance(connection, TlsConnection)
        server = connection.server.server
        assert server.encryption is not None
        connection.context = await self.make_context(server)
        connection.began = time.monotonic()
        await self.loop.create_connection(
            lambda: connection,
            server.address,
            server.port,
            local_addr=self.source_address(server.address),
            ssl=connection.context,
            server_hostname=server_hostname(server),
            ssl_handshake_timeout=limits.TLS_UPSTREAM_HANDSHAKE,
            ssl_shutdown_timeout=limits.TLS_UPSTREAM_SHUTDOWN,
        )

    async def make_context(self, server: Server) -> "ssl.SSLContext":
        """The TLS context of connections to `server`."""
        assert server.encryption is not None
        return await self.contexts.get(server.encryption)

    def explain_refusal(self, error: Exception, server: Server) -> tuple[FailureKind, str]:
        reason = describe_tls_failure(error)
        if reason is None and isinstance(error, ConnectionError) and error.errno is None:
            reason = "the server ended the connection during the handshake"
        if reason is None:
            return super().explain_refusal(error, server)
        self.refused += 1
        text = self.text(reason, server)
        self._refusals.warn("upstream: %s", text)
        return FailureKind.NETWORK, text

    def explain_loss(self, error: Exception | None, server: Server) -> tuple[FailureKind, str]:
        reason = None if error is None else describe_tls_failure(error)
        if reason is None:
            return super().explain_loss(error, server)
        return FailureKind.NETWORK, self.text(f"connection lost: {reason}", server)

    def text(self, what: str, server: Server) -> str:
        name = server.encryption.name if server.encryption is not None else ""
        shown = f"{server.address} ({name})" if name and name != server.address else server.address
        return f"{shown} port {server.port} over {self.transport_name}: {what}"

    def statistics(self) -> dict[str, int]:
        return super().statistics() | {
            "handshakes": self.handshakes,
            "resumed": self.resumed,
            "refused": self.refused,
        }
