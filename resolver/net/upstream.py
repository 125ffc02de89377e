"""Performs `Ask` effects over UDP, TCP, TLS, HTTPS or QUIC. It is the `Exchange` of a running resolver.

`Mesh` uses only its `start`.

An `Ask` is one query to one server over one transport. `iterate` selects the next server and transport, and takes each
packet from the budget of the client query. A query to a server with encryption goes over that, in every case.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from resolver import limits
from resolver.cache.bounded import Held
from resolver.effects import Ask, Failure, Reply
from resolver.net.clock_random import Entropy
from resolver.net.descriptors import stream_upstreams, udp_sockets
from resolver.net.routes import RouteChecker
from resolver.net.stream_upstream import StreamUpstream
from resolver.net.udp_upstream import UdpUpstream
from resolver.net.upstream_slots import RepliedNetworks
from resolver.settings import IterationSettings
from resolver.upstream_address import HTTPS, QUIC, TLS

if TYPE_CHECKING:
    from resolver.net.client_contexts import TlsContexts
    from resolver.net.encryption_probing import ProbeTable
    from resolver.net.opportunistic import Opportunistic
    from resolver.net.tls_upstream import TlsUpstream
    from resolver.observe.observer import Observer

__all__ = ["Handle", "Upstream"]

ENCRYPTED_COUNTERS = ("handshakes", "resumed", "refused")
"""The counters of `TlsUpstream` besides those of `StreamUpstream`."""

PROBING_COUNTERS = (
    "probes", "probes_succeeded", "probes_failed", "probes_timed_out", "queries", "fallbacks", "connections", "servers",
)  # fmt: skip
"""The counters of `Opportunistic`."""


class Handle(Protocol):
    """The query that `Upstream.start` returns."""

    def cancel(self) -> None: ...


class Upstream:
    """Queries to name servers.

    `after_batch` is called once after each batch of callbacks, so that the driver can update its timer.
    `contexts` are those of encrypted servers.
    `reference_addresses` are the addresses whose routes show whether this host has an address family (`routes`).
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: IterationSettings,
        *,
        entropy: Entropy | None = None,
        reference_addresses: Iterable[str] = (),
        after_batch: Callable[[], object] | None = None,
        contexts: "TlsContexts | None" = None,
    ) -> None:
        entropy = entropy or Entropy()
        replied_networks = RepliedNetworks()
        source_v4, source_v6 = settings.query_source_v4, settings.query_source_v6
        routes = RouteChecker(reference_addresses, source_v4, source_v6)
        self.stream = StreamUpstream(
            loop,
            entropy=entropy,
            source_v4=source_v4,
            source_v6=source_v6,
            connections=stream_upstreams(),
            replied_networks=replied_networks,
            routes=routes,
            after_batch=after_batch,
        )
        self._loop = loop
        self._cert_bundle = settings.tls_cert_bundle
        self._contexts = contexts
        self._common: dict[str, Any] = {
            "entropy": entropy,
            "source_v4": source_v4,
            "source_v6": source_v6,
            "replied_networks": replied_networks,
            "routes": routes,
        }
        self.encrypted: dict[str, TlsUpstream] = {}
        self._closed = False
        """The encrypted transports that are in use, by protocol."""
        self._probing = settings.opportunistic_port if settings.opportunistic_encryption == "dot" else 0
        """The port on which authoritative servers are probed; 0: none is."""
        self.opportunistic: Opportunistic | None = None
        self._probed: ProbeTable | None = None
        """The state of TLS at authoritative servers, from `opportunistic` or from the previous upstream."""
        self.udp = UdpUpstream(
            loop,
            entropy=entropy,
            source_v4=source_v4,
            source_v6=source_v6,
            port_per_query=settings.source_port_per_query,
            sockets=udp_sockets(),
            randomise_case=settings.case_randomisation,
            replied_networks=replied_networks,
            routes=routes,
            after_batch=after_batch,
        )

    def start(self, ask: Ask, on_reply: Callable[[Reply | Failure], object]) -> Handle:
        """Send `ask`; `on_reply` gets a `Reply` or a `Failure` later, never from inside this call.

        Raises:
            ValueError: the qname is not a valid name.
        """
        encryption = ask.server.encryption
        if encryption is not None:
            return self._encrypted(encryption.protocol).start(ask, on_reply)
        if self._probing and not ask.rd:  # a query with RD goes to a forwarder
            return self._opportunistic().start(ask, on_reply)
        # As `_plain`, without a call, because nearly all queries end here.
        return self.stream.start(ask, on_reply) if ask.tcp else self.udp.start(ask, on_reply)

    def _plain(self, ask: Ask, on_reply: Callable[[Reply | Failure], object]) -> Handle:
        if ask.tcp:
            return self.stream.start(ask, on_reply)
        return self.udp.start(ask, on_reply)

    def _opportunistic(self) -> "Opportunistic":
        """The queries over TLS to authoritative servers that offer it, made when first needed."""
        if self.opportunistic is None:
            from resolver.net.client_contexts import TlsContexts
            from resolver.net.opportunistic import Opportunistic, OpportunisticUpstream

            tls = OpportunisticUpstream(
                self._loop,
                connections=self.stream.give_up_slots(limits.TLS_UPSTREAMS, limits.TLS_UPSTREAM_SHARE),
                contexts=TlsContexts(),
                per_server=1,
                after_batch=self.stream.after_batch,
                **self._common,
            )
            tls.observer = self.udp.observer
            self.opportunistic = Opportunistic(self._loop, tls, self._plain, port=self._probing, table=self._probed)
            self._probed = self.opportunistic.table
            if self._closed:
                self.opportunistic.close()
        return self.opportunistic

    def continue_probing(self, before: "Upstream") -> None:
        """Take over the state of TLS at authoritative servers from `before`, of the same loop, if both probe the same
        port. Queries of `before` that are in flight keep updating it."""
        if self._probing and self._probing == before._probing and before._probed is not None:
            self._probed = before._probed
            if self.opportunistic is not None:
                self.opportunistic.table = self._probed

    def _encrypted(self, protocol: str) -> "TlsUpstream":
        """The upstream for `protocol`. It is made, and its modules are loaded, when it is first needed."""
        found = self.encrypted.get(protocol)
        if found is None:
            from resolver.net.client_contexts import TlsContexts
            from resolver.net.https_upstream import HttpsUpstream
            from resolver.net.tls_upstream import TlsUpstream

            kind: type[TlsUpstream] = HttpsUpstream if protocol == HTTPS else TlsUpstream
            if protocol == QUIC:
                from resolver.net.quic_upstream import QuicUpstream

                kind = QuicUpstream
            if self._contexts is None:
                self._contexts = TlsContexts(self._cert_bundle)
            # Their descriptors are part of those that were meant for TCP.
            connections = self.stream.give_up_slots(limits.TLS_UPSTREAMS, limits.TLS_UPSTREAM_SHARE)
            found = self.encrypted[protocol] = kind(
                self._loop,
                connections=connections,
                contexts=self._contexts,
                after_batch=self.stream.after_batch,
                **self._common,
            )
            found.observer = self.udp.observer
            if self._closed:
                found.close()
        return found

    def set_after_batch(self, after_batch: Callable[[], object] | None) -> None:
        """Set the function that is called once after each batch of callbacks."""
        self.stream.after_batch = after_batch
        self.udp.after_batch = after_batch
        for encrypted in self.encrypted.values():
            encrypted.after_batch = after_batch
        if self.opportunistic is not None:
            self.opportunistic.tls.after_batch = after_batch

    def set_observer(self, observer: "Observer | None") -> None:
        """Set what records the queries and replies from now on."""
        self.udp.observer = self.stream.observer = observer
        for encrypted in self.encrypted.values():
            encrypted.observer = observer
        if self.opportunistic is not None:
            self.opportunistic.tls.observer = observer

    def close(self) -> None:
        """Close all sockets. Queries in flight end without a callback."""
        self._closed = True
        self.udp.close()
        self.stream.close()
        for encrypted in self.encrypted.values():
            encrypted.close()
        if self.opportunistic is not None:
            self.opportunistic.close()

    @property
    def streams(self) -> "dict[str, StreamUpstream]":
        """The transports with connections that are in use, by name."""
        found: dict[str, StreamUpstream] = {"tcp": self.stream, **self.encrypted}
        if self.opportunistic is not None:
            found["opportunistic"] = self.opportunistic.tls
        return found

    def memory(self) -> Iterator[Held]:
        """What servers, and those who name them, can fill; the connections are those of `streams`."""
        udp, size = self.udp, limits.UPSTREAM_SOCKET_OCTETS
        yield Held("upstream_udp_sockets", udp.open_sockets * size, 2 * udp.max_sockets * size)
        size = limits.UPSTREAM_QUERY_OCTETS
        queries = udp.pending + sum(stream.query_count for stream in self.streams.values())
        # Each job has one at most, and each opportunistic probe, which has a connection.
        yield Held("upstream_queries", queries * size, (limits.JOBS + limits.TLS_UPSTREAMS) * size)
        size = limits.UPSTREAM_ADDRESS_OCTETS
        yield Held("upstream_addresses", udp.addresses * size, limits.UPSTREAM_ADDRESSES * size)
        size = limits.UPSTREAM_NETWORK_OCTETS
        yield Held(
            "upstream_networks", len(self._common["replied_networks"]) * size, limits.UPSTREAM_NETWORKS * size
        )
        if self._probed is not None:
            size = limits.OPPORTUNISTIC_SERVER_OCTETS
            yield Held("opportunistic_servers", len(self._probed) * size, limits.OPPORTUNISTIC_SERVERS * size)
        if self._contexts is not None:
            yield from self._contexts.memory()

    def statistics(self) -> dict[str, int]:
        """Counters since the start: ``udp_...``, ``tcp_...``, ``tls_...``, ``https_...``, ``quic_...``, and
        ``opportunistic_...`` for TLS to authoritative servers."""
        found = {f"udp_{name}": value for name, value in self.udp.statistics().items()}
        found.update((f"tcp_{name}", value) for name, value in self.stream.statistics().items())
        names = (*self.stream.statistics(), *ENCRYPTED_COUNTERS)
        for protocol in (TLS, HTTPS, QUIC):
            encrypted = self.encrypted.get(protocol)
            values = dict.fromkeys(names, 0) if encrypted is None else encrypted.statistics()
            found.update((f"{protocol}_{name}", value) for name, value in values.items())
        values = dict.fromkeys(PROBING_COUNTERS, 0) if self.opportunistic is None else self.opportunistic.statistics()
        found.update((f"opportunistic_{name}", value) for name, value in values.items())
        return found
