from collections.abc import Iterator
from typing import NamedTuple, final

from resolver.cache.arena import Arena

KIND_NAMES: tuple[str, ...]

class Entry(NamedTuple):
    value: bytes
    remaining: int
    created: int
    ttl: int
    meta: int
    aux: int

class TableStatistics(NamedTuple):
    entries: dict[str, int]
    stored: dict[str, int]
    evicted: dict[str, int]
    expired: dict[str, int]
    dropped: dict[str, int]
    hits: dict[str, int]
    misses: dict[str, int]
    carried: int
    refused: int
    busy: int
    repaired: int
    groups: int
    bytes_used: int
    bytes_limit: int

@final
class Table:
    def __init__(self, arena: Arena, seed: bytes) -> None: ...
    @property
    def arena(self) -> Arena: ...
    def put(
        self,
        kind: int,
        key: bytes,
        value: bytes,
        *,
        now: int,
        ttl: int,
        meta: int = 0,
        aux: int = 0,
        ranked: bool = False,
        not_longer: bool = False,
    ) -> bool: ...
    def find(self, kind: int, key: bytes, now: int) -> Entry | None: ...
    def drop(self, kind: int, key: bytes) -> bool: ...
    def sweep(self, kinds: int, name: bytes | None = None, *, subtree: bool = False) -> int: ...
    def sweep_slice(
        self, at: int, kinds: int, name: bytes | None = None, *, subtree: bool = False, outdated: bool = False
    ) -> tuple[int | None, int]: ...
    @property
    def serial(self) -> int: ...
    fleet_read: int
    def begin_flush(self, name: bytes, *, subtree: bool = False) -> int: ...
    def end_flush(self, number: int) -> None: ...
    def copy_out(self, kinds: int, *, now: int, stale: int = 0) -> Iterator[bytes]: ...
    def copy_in(self, block: bytes, kinds: int, *, now: int, stale: int = 0, serial: int = 0) -> int: ...
    def clear(self) -> int: ...
    def statistics(self) -> TableStatistics: ...
