"""Client queries that the mesh resolves, their limits, and where their replies go.

A pending query is one object, without task, future or timer. `PendingLimit` counts those of one kind of clients, in
total, per address (DNSBomb, CVE-2024-33655) and per network (CVE-2026-42534). What it has taken is given back once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from resolver.effects import Outcome
from resolver.net.fastpath import ClientQuery
from resolver.net.sockaddr import network_of
from resolver.query import Query

if TYPE_CHECKING:
    from resolver.policy import WaitsForHooks

__all__ = ["NONE", "Peer", "PendingLimit", "PendingQuery", "Sink"]

NONE: dict[Any, Any] = {}  # never changed

Peer: TypeAlias = "tuple[Any, ...]"
"""The address of a client: a tuple, or `PeerAddress`, which has the local address as well. With tuple as annotation,
Cython would accept no subclass."""


class Sink(Protocol):
    """The destination of replies: a UDP socket, or one TCP connection."""

    @property
    def stream(self) -> bool:
        """Whether the transport is a stream: replies up to `MESSAGE_MAX`, and a verified client address."""
        ...

    @property
    def idle_timeout(self) -> float:
        """Seconds an idle connection is kept (streams)."""
        ...

    @property
    def padding_block(self) -> int:
        """Size of the blocks to which replies to padded queries are padded; 0: not encrypted, so they are not."""
        ...

    @property
    def origin(self) -> tuple[str, str]:
        """Transport and listener of its queries, as `Query` has them."""
        ...

    def send(self, packet: bytes, peer: Peer) -> None: ...

    def skip(self) -> None:
        """A query gets no reply."""
        ...

    def forget(self, pending: PendingQuery) -> None:
        """`pending` no longer waits for a reply (used by streams, which keep their pending queries)."""
        ...

    def abort(self) -> None:
        """A reply that is due cannot be made. A stream closes the connection, so that its client does not wait."""
        ...


class PendingOwner(Protocol):
    """The service that a pending query belongs to: it gets the outcome, or cancels the query."""

    def finished(self, pending: PendingQuery, outcome: Outcome) -> None: ...

    def forget(self, pending: PendingQuery) -> None: ...


class PendingLimit:
    """The pending queries in total, per network and per address, in the order in which they came, and their limits.

    A network may hold at most `network_share` percent of the sum of its own and the free slots, so some slots stay
    free for other networks, however many networks use their whole share.
    """

    __slots__ = ("limit", "limit_per_client", "network_share", "per_client", "per_network", "queries")

    def __init__(self, limit: int, limit_per_client: int, network_share: int) -> None:
        self.limit = limit
        self.limit_per_client = limit_per_client
        self.network_share = network_share
        self.per_client: dict[str, dict[PendingQuery, None]] = {}
        self.per_network: dict[str | bytes, dict[PendingQuery, None]] = {}
        self.queries: dict[PendingQuery, None] = {}

    @property
    def waiting(self) -> int:
        """Number of pending queries."""
        return len(self.queries)

    def take(self, pending: PendingQuery) -> Iterable[PendingQuery] | None:
        """Count `pending`; when a limit is reached, it is not counted, and the queries that share the limit are
        returned, the oldest first."""
        mine, near = self.per_client.get(pending.host, NONE), self.per_network.get(pending.network, NONE)
        free, share = self.limit - len(self.queries), self.network_share
        if len(mine) >= self.limit_per_client:
            return mine
        if free <= 0:
            return self.queries
        if len(near) * (100 - share) >= share * free:
            return near
        try:
            self.queries[pending] = None
            self.per_client.setdefault(pending.host, {})[pending] = None
            self.per_network.setdefault(pending.network, {})[pending] = None
        except MemoryError:
            self.give_back(pending)
            raise
        return None

    def give_back(self, pending: PendingQuery) -> None:
        """`pending` has ended."""
        self.queries.pop(pending, None)
        _remove(self.per_client, pending.host, pending)
        _remove(self.per_network, pending.network, pending)


def _remove(groups: dict[Any, Any], key: str | bytes, pending: PendingQuery) -> None:
    """Remove `pending` from the group `key`, and the group when it is empty."""
    group = groups.get(key)
    if group is not None:
        group.pop(pending, None)
        if not group:
            del groups[key]


class PendingQuery:
    """A client query that the mesh resolves."""

    __slots__ = (
        "account", "client", "host", "key", "network", "peer", "query", "serial", "service", "sink", "ticket",
        "waiting",
    )

    def __init__(
        self, service: PendingOwner, query: ClientQuery, client: Query, peer: Peer, sink: Sink,
        account: PendingLimit,
    ) -> None:
        self.service = service
        self.account: PendingLimit | None = account  # None: no longer pending
        self.query = query
        self.client = client
        self.peer = peer
        self.host: str = client.address
        self.network = network_of(self.host)
        self.sink = sink
        self.ticket: Any = None
        self.waiting: WaitsForHooks | None = None
        """The hooks that it waits for; then it has no ticket."""
        self.key: tuple[tuple[Any, ...], bytes, int] | None = None
        self.serial = 0
        """That of the cache when hooks were asked first, 0 before: after a flush nothing of the query is cached."""

    def done(self, outcome: Outcome) -> None:
        """The callback for `Mesh`."""
        try:
            self.service.finished(self, outcome)
        except BaseException:
            self.sink.abort()  # out of memory
            raise
