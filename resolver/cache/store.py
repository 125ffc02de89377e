"""The cache as the resolver uses it: one arena with one table, and the caches over it.

Answers, RRsets, denials and failures share the arena and its limit in bytes; the entries that were unused for longest
are evicted first, whatever their kind. Data about servers is kept per process and limited by the number of addresses.
"""

from __future__ import annotations

from collections import OrderedDict
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

# Kinds of entries as bits: answers, RRsets, denials, failures (resolver/cache/lookup.pxd).
ALL_KINDS = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4


class Store:
    """The caches `answers` and `rrsets` in `table`, and per process `servers` and `denials`. Made by `create`.

    `partitions` has the RRset caches of the latest partitions by their labels.
    """

    __slots__ = ("answers", "arena", "denials", "partitions", "rrsets", "servers", "table")

    def __init__(
        self, arena: Arena, table: Table, answers: AnswerCache, rrsets: RRsetCache, servers: InfraCache
    ) -> None:
        self.arena = arena
        self.table = table
        self.answers = answers
        self.rrsets = rrsets
        self.servers = servers
        self.denials = AggressiveNsecCache(max_ttl=rrsets.max_negative_ttl)
        self.partitions: OrderedDict[bytes, RRsetCache] = OrderedDict()

    def partition(self, label: bytes) -> Store:
        """Return a partition: its RRsets and denials are separate from those of this store and of other partitions.

        Answers and data about servers are shared with this store. `label` identifies the partition: 8 octets of a
        digest of the configuration that it belongs to. Processes that share the arena share partitions with
        the same label.

        Raises:
            ValueError: the label is invalid.
        """
        rrsets = self.rrsets.partition(label)
        made = Store(self.arena, self.table, self.answers, rrsets, self.servers)
        made.denials = AggressiveNsecCache(
            limits.DENIAL_RECORDS // limits.VIEW_PARTS, max_ttl=rrsets.max_negative_ttl,
            octets=limits.DENIAL_OCTETS // limits.VIEW_PARTS,
        )
        self.partitions[label] = rrsets
        self.partitions.move_to_end(label)
        while len(self.partitions) > 2 * limits.VIEW_PARTS:  # old and new ones during a reload
            self.partitions.popitem(last=False)
        return made

    @classmethod
    def create(
        cls,
        size_bytes: int = limits.CACHE_SIZE.default,
        *,
        seed: bytes,
        shared: bool = False,
        max_ttl: int = limits.CACHE_MAX_TTL.default,
        max_negative_ttl: int = limits.CACHE_MAX_NEGATIVE_TTL.default,
        payload: int = limits.EDNS_PAYLOAD.default,
        servers: int = limits.CACHE_SERVERS.default,
    ) -> Store:
        """Map `size_bytes` of memory and create the cache in it.

        `seed` is 16 random bytes. With `shared`, processes forked later use the same memory. TTLs are in seconds,
        `payload` is the UDP size announced in OPT (bytes), `servers` a number of addresses.

        Raises:
            ValueError: a value outside its limit, or a seed that is not 16 bytes long.
            OSError: the memory cannot be mapped.
        """
        arena = Arena(size_bytes, shared=shared)
        table = Table(arena, seed)
        return cls(
            arena,
            table,
            AnswerCache(table, payload=payload),
            RRsetCache(table, max_ttl=max_ttl, max_negative_ttl=max_negative_ttl),
            InfraCache(servers),
        )

    def flush(self, name: bytes | None = None, *, subtree: bool = False, rtype: int | None = None) -> Iterator[int]:
        """Remove RRsets, denials, failures and answers: of `name`, with `subtree` also of all names below it, with
        `rtype` of the RRsets only those of this type; without `name` all. Data about servers stays.

        One call is enough for all processes. Without `name` there is one step, which takes the same time whatever the
        cache holds. Entries of a name are removed in slices of some thousand at most: each step yields the number of
        removed entries, and the caller can run other work in between. From the first step on no reader finds the
        entries; when the iterator ends they are removed. All finished answers become unreachable at once, because any
        of them may contain the name by an alias; they are made again from RRsets.

        Raises:
            BlockingIOError: too many flushes are in progress, or a stopped process holds a lock of the cache. Entries
                that were not reached stay and are found again.
        """
        table = self.table
        if name is None:
            gone = table.clear()
            self.denials.clear()
            yield gone
            return
        lowered = names.lower(name)
        flush_id = table.begin_flush(lowered, subtree=subtree)
        try:
            yield self.denials.forget(lowered, subtree=subtree)
            if rtype is not None:
                yield sum(one.drop(lowered, rtype) for one in (self.rrsets, *self.partitions.values()))
                return
            position: int | None = 0
            while position is not None:
                position, removed = table.sweep_slice(position, ALL_KINDS, lowered, subtree=subtree, outdated=True)
                yield removed
        finally:
            table.end_flush(flush_id)

    def drop(self, name: bytes, *, subtree: bool = False, rtype: int | None = None) -> int:
        """`flush` without interruption. Returns the number of removed entries.

        Raises:
            BlockingIOError: see `flush`.
        """
        return sum(self.flush(name, subtree=subtree, rtype=rtype))

    def clear(self) -> None:
        """Remove everything, including data about servers. It takes the same time whatever the cache holds.

        Raises:
            BlockingIOError: a stopped process holds a lock of the cache. Nothing was removed.
        """
        self.table.clear()
        self.servers.clear()
        self.denials.clear()

    def memory_tables(self) -> list[MemoryTable]:
        """The tables of this process outside the arena that remote parties can fill."""
        return [self.servers, self.denials]

    def statistics(self) -> dict[str, int]:
        """All counters of the cache, by names such as `entries_answer` or `bytes_used`."""
        found: dict[str, int] = {}
        for field, value in self.table.statistics()._asdict().items():
            if isinstance(value, dict):
                found.update((f"{field}_{kind}", count) for kind, count in value.items())
            else:
                found[field] = value
        found.update((f"servers_{field}", value) for field, value in self.servers.statistics()._asdict().items())
        found["denials"] = len(self.denials)
        found.update((f"memory_{table.name}", table.octets) for table in self.memory_tables())
        return found
