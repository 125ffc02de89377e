"""Performs `Ask` effects over UDP or TCP. It is the `Exchange` of a running resolver; `Mesh` uses only its `start`.

An `Ask` is one query to one server over one transport. `iterate` selects the next server and transport, and takes each
packet from the budget of the client query.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from resolver.effects import Ask, Failure, Reply
from resolver.net.clock_random import Entropy
from resolver.net.descriptors import stream_upstreams, udp_sockets
from resolver.net.routes import RouteChecker
from resolver.net.stream_upstream import StreamUpstream
from resolver.net.udp_upstream import UdpUpstream
from resolver.net.upstream_slots import RepliedNetworks
from resolver.settings import IterationSettings

__all__ = ["Handle", "Upstream"]


class Handle(Protocol):
    """The query that `Upstream.start` returns."""

    def cancel(self) -> None: ...


class Upstream:
    """UDP and TCP queries to name servers.

    `after_batch` is called once after each batch of callbacks, so that the driver can update its timer.
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
        if ask.tcp:
            return self.stream.start(ask, on_reply)
        return self.udp.start(ask, on_reply)

    def set_after_batch(self, after_batch: Callable[[], object] | None) -> None:
        """Set what is called once after each batch of callbacks."""
        self.stream.after_batch = after_batch
        self.udp.after_batch = after_batch

    def close(self) -> None:
        """Close all sockets. Queries in flight end without a callback."""
        self.udp.close()
        self.stream.close()

    def statistics(self) -> dict[str, int]:
        """Counters since the start: ``udp_...`` and ``tcp_...``."""
        found = {f"udp_{name}": value for name, value in self.udp.statistics().items()}
        found.update((f"tcp_{name}", value) for name, value in self.stream.statistics().items())
        return found
