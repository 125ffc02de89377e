"""A table that strangers can fill: bounded in entries and in octets, the oldest entry leaves first.

The cache itself is one arena with one limit. What stands beside it in a process is made of Python objects:
delegations, parsed keys, verified denials, what is known of servers. Each such table tells its name, its limit and the
octets that it takes, so that their sum can be shown and a test can hold every one of them against its limit. Octets are
an estimate: what the parts take together, rounded up by whoever adds an entry.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol

__all__ = ["BoundedDict", "MemoryTable"]


class MemoryTable(Protocol):
    """What stands beside the cache: `octets` are taken now, and never more than `limit`."""

    @property
    def name(self) -> str: ...

    @property
    def octets(self) -> int: ...

    @property
    def limit(self) -> int: ...

    def clear(self) -> None:
        """Give all of it back."""
        ...


class BoundedDict:
    """At most `most` entries of together at most `limit` octets. `entries` is for reading only."""

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
        """Add or replace an entry of `cost` octets; False, and none is left, when it would take more than an eighth."""
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
