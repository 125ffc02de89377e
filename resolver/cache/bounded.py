"""A table that remote parties can fill: limited in entries and in octets, the oldest entry is evicted first.

The cache itself is one arena with one limit. The tables beside it in a process consist of Python objects: delegations,
parsed keys, verified denials, data about servers. Each has a name, a limit and the octets that it uses, so that the sum
can be shown and a test can check each limit. Octets are estimates, rounded up by the code that adds an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, Protocol

__all__ = ["BoundedDict", "Held", "MemoryTable", "SizedTable", "TableGroup"]


class MemoryTable(Protocol):
    """A table beside the arena: it uses `octets`, never more than `limit`."""

    @property
    def name(self) -> str: ...

    @property
    def octets(self) -> int: ...

    @property
    def limit(self) -> int: ...

    def clear(self) -> None:
        """Remove all entries."""
        ...


class Held(NamedTuple):
    """What something uses now, in `octets`, and its `limit`; for what cannot be emptied as a table can."""

    name: str
    octets: int
    limit: int


class SizedTable:
    """A table of others as a `MemoryTable`: at most `most` entries, none of which takes more than `size` octets.

    `count` returns the number of entries and `clear` removes them, so that adding one costs nothing here.
    """

    __slots__ = ("clear", "count", "limit", "name", "size")

    def __init__(self, name: str, *, most: int, size: int, count: Callable[[], int], clear: Callable[[], Any]) -> None:
        self.name = name
        self.limit = most * size
        self.size = size
        self.count = count
        self.clear = clear

    @property
    def octets(self) -> int:
        """The octets of the entries."""
        return self.count() * self.size


class TableGroup:
    """Tables of the same kind as one: that of all views, and those of views with servers of their own."""

    __slots__ = ("name", "tables")

    def __init__(self, tables: Sequence[MemoryTable]) -> None:
        self.name = tables[0].name
        self.tables = tuple(tables)

    @property
    def octets(self) -> int:
        """The octets of all."""
        return sum(table.octets for table in self.tables)

    @property
    def limit(self) -> int:
        """The limits of all."""
        return sum(table.limit for table in self.tables)

    def clear(self) -> None:
        """Remove all entries of all."""
        for table in self.tables:
            table.clear()


class BoundedDict:
    """At most `most` entries with at most `limit` octets in total. `entries` is for reading only."""

    __slots__ = ("_costs", "entries", "evicted", "limit", "most", "name", "octets")

    def __init__(self, name: str, *, limit: int, most: int) -> None:
        self.name = name
        self.limit = limit
        self.most = most
        self.octets = 0
        self.evicted = 0
        self.entries: dict[Any, Any] = {}
        self._costs: dict[Any, int] = {}

    def __len__(self) -> int:
        return len(self.entries)

    def put(self, key: Hashable, value: object, cost: int) -> bool:
        """Add or replace an entry of `cost` octets. An entry larger than an eighth of the limit is not stored (False),
        and the previous one is removed."""
        self.pop(key)
        if cost * 8 > self.limit:
            return False
        self._costs[key] = cost
        self.octets += cost
        self.entries[key] = value
        while self.octets > self.limit or len(self.entries) > self.most:
            self.pop(next(iter(self.entries)))
            self.evicted += 1
        return True

    def pop(self, key: Hashable) -> None:
        """Remove an entry, if it is there."""
        self.octets -= self._costs.pop(key, 0)
        self.entries.pop(key, None)

    def clear(self) -> None:
        """Remove all entries."""
        self.entries.clear()
        self._costs.clear()
        self.octets = 0
