"""The cache as the resolver holds it: one arena, one table in it, and the views of it that rooms use.

Answers, record sets, denials and failures share the arena and its one byte limit; whatever is used least leaves first,
whichever kind it is. Facts about servers are kept per process and are counted in addresses, not bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from resolver import limits
from resolver.cache.aggressive_nsec import AggressiveNsecCache
from resolver.cache.answers import AnswerCache
from resolver.cache.arena import Arena
from resolver.cache.bounded import MemoryTable
from resolver.cache.infra import InfraCache
from resolver.cache.rrsets import RRsetCache
from resolver.cache.table import Table
from resolver.wire import name as names

__all__ = ["Store"]

# Kinds of entries as bits: answers, record sets, denials, failures (resolver/cache/lookup.pxd).
EVERYTHING = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4


class Store:
    """`table`, and over it `answers` and `rrsets`; beside it `servers` and `denials`. Make one with `create`."""

    __slots__ = ("answers", "arena", "denials", "rrsets", "servers", "table")

    def __init__(
        self, arena: Arena, table: Table, answers: AnswerCache, rrsets: RRsetCache, servers: InfraCache
    ) -> None:
        self.arena = arena
        self.table = table
        self.answers = answers
        self.rrsets = rrsets
        self.servers = servers
        self.denials = AggressiveNsecCache(max_ttl=rrsets.max_negative_ttl)

    @classmethod
    def create(
        cls,
        size_bytes: int = limits.CACHE_SIZE.default,
        *,
        seed: bytes,
        shared: bool = False,
        min_ttl: int = limits.CACHE_MIN_TTL.default,
        max_ttl: int = limits.CACHE_MAX_TTL.default,
        max_negative_ttl: int = limits.CACHE_MAX_NEGATIVE_TTL.default,
        payload: int = limits.EDNS_PAYLOAD.default,
        servers: int = limits.CACHE_SERVERS.default,
    ) -> Store:
        """Map `size_bytes` of memory and lay the cache out in it.

        `seed` is 16 random bytes. `shared` makes processes forked later use the same memory. TTLs are seconds,
        `payload` is the size announced in OPT, `servers` a number of addresses.

        Raises:
            ValueError: a value outside its limit, or a seed of another length.
            OSError: the memory cannot be had.
        """
        arena = Arena(size_bytes, shared=shared)
        table = Table(arena, seed)
        return cls(
            arena,
            table,
            AnswerCache(table, payload=payload),
            RRsetCache(table, min_ttl=min_ttl, max_ttl=max_ttl, max_negative_ttl=max_negative_ttl),
            InfraCache(servers),
        )

    def flush(self, name: bytes | None = None, *, subtree: bool = False, rtype: int | None = None) -> Iterator[int]:
        """Forget sets, denials, failures and answers at `name` (one type of it, it and all below it), or everything.

        The work of all processes is done here, in slices of some thousand entries at most: each step yields how many
        went, and the caller lets others have their turn in between. From the first step on nothing that goes is found;
        when the iterator has ended it is gone, in every process. All finished answers are out of reach at once,
        because any of them may lead to the name by an alias; they are made again from the record sets.

        Raises:
            BlockingIOError: too many flushes are under way, or a stopped process holds a lock of the cache. What was
                not reached stays, and is found again.
        """
        table = self.table
        lowered = None if name is None else names.lower(name)
        number = table.begin_flush(lowered, subtree=subtree)
        try:
            if lowered is None:
                self.denials.clear()
            else:
                yield self.denials.forget(lowered, subtree=subtree)
            if lowered is not None and rtype is not None:
                yield self.rrsets.drop(lowered, rtype)
                return
            at: int | None = 0
            while at is not None:
                at, gone = table.sweep_slice(at, EVERYTHING, lowered, subtree=subtree, outdated=True)
                yield gone
        finally:
            table.end_flush(number)

    def drop(self, name: bytes, *, subtree: bool = False, rtype: int | None = None) -> int:
        """`flush` in one go. Returns how many entries went.

        Raises:
            BlockingIOError: see `flush`.
        """
        return sum(self.flush(name, subtree=subtree, rtype=rtype))

    def clear(self) -> None:
        """Forget everything in one go, facts about servers included.

        Raises:
            BlockingIOError: see `flush`.
        """
        self.table.clear()
        self.servers.clear()
        self.denials.clear()

    def bounded(self) -> list[MemoryTable]:
        """What stands beside the arena in this process and can be filled by strangers."""
        return [self.servers, self.denials]

    def statistics(self) -> dict[str, int]:
        """Every counter of the cache under one flat name, such as `entries_answer` or `bytes_used`."""
        found: dict[str, int] = {}
        for field, value in self.table.statistics()._asdict().items():
            if isinstance(value, dict):
                found.update((f"{field}_{kind}", count) for kind, count in value.items())
            else:
                found[field] = value
        found.update((f"servers_{field}", value) for field, value in self.servers.statistics()._asdict().items())
        found["denials"] = len(self.denials)
        found.update((f"memory_{table.name}", table.octets) for table in self.bounded())
        return found
