"""Queries that wait for a place on a connection to one server: zones take turns, each with its queries in their order.

One address may serve the zones of many owners, and any client can make the resolver query a zone whose queries that
server does not answer. So no zone can take all of the places or all of the turns.

Invariants: a query is in the table of its zone, and no table is empty. The order of the tables is that of the turns.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar

from resolver.effects import Ask

__all__ = ["WaitingQueries"]


class _Query(Protocol):
    """A query, hashable by identity."""

    @property
    def ask(self) -> Ask: ...


Query = TypeVar("Query", bound=_Query)


class WaitingQueries(Generic[Query]):
    """Queries by zone. It has no limit of its own: see `StreamUpstream.assign`."""

    __slots__ = ("_count", "_zones")

    def __init__(self) -> None:
        self._zones: OrderedDict[bytes, OrderedDict[Query, None]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Query]:
        for queries in self._zones.values():
            yield from queries

    def add(self, entry: Query) -> None:
        """Add `entry` as the last of its zone. A zone without queries gets the last turn."""
        queries = self._zones.setdefault(entry.ask.zone, OrderedDict())
        self._count += entry not in queries
        queries[entry] = None

    def discard(self, entry: Query) -> bool:
        """Remove `entry`; returns whether it was here."""
        queries = self._zones.get(entry.ask.zone)
        if queries is None or entry not in queries:
            return False
        del queries[entry]
        self._count -= 1
        if not queries:
            del self._zones[entry.ask.zone]
        return True

    def first(self) -> Query:
        """The query whose turn it is. There must be one."""
        return next(iter(self))

    def take(self) -> Query:
        """Remove the query whose turn it is; the next turn is another zone's. There must be one."""
        entry = self.first()
        zone = entry.ask.zone
        self.discard(entry)
        if zone in self._zones:
            self._zones.move_to_end(zone)
        return entry

    def displace(self, zone: bytes, sent: Iterable[Query]) -> Query | None:
        """Remove the newest query of the zone with the most queries, for one of `zone`. `sent` are those on connections
        to the server, which count as well. None when `zone` would then have more than the other.
        """
        counts = Counter(entry.ask.zone for entry in sent)
        for name, queries in self._zones.items():
            counts[name] += len(queries)
        largest = max(self._zones, key=counts.__getitem__, default=None)
        if largest is None or counts[largest] < counts[zone] + 2:
            return None
        entry = next(reversed(self._zones[largest]))
        self.discard(entry)
        return entry
