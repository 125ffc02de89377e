"""The Python interface of the cache's table; `lookup` reads it, `writers` changes it, `scan` processes all of it.

One table holds answers, RRsets, denials and failures, so that they share one byte limit and one eviction policy. It is
inside its arena. This object is one process's view of it, with that process's counters of hits and misses.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from resolver.cache.arena cimport ARENA_PAGE, Arena, CacheLock, atomic_add64, atomic_get32, atomic_get64, lock_make
from resolver.cache.lookup cimport (
    GROUP_BUCKETS, KEY_LIMIT, KIND_ANSWER, KINDS, LEVEL_SHIFT, SPLIT_MASK, Bucket, Hit, TableHeader, TableView,
    read_is_consistent, read_attempts, remaining, table_find, table_hash, table_touch,
)
from resolver.cache.scan cimport DumpEntry, table_begin_flush, table_copy, table_end_flush, table_sweep
from resolver.cache.writers cimport (
    PUT_NOT_LONGER, PUT_RANKED, PUT_STORED, Slice, table_clear, table_drop, table_put,
)
from resolver.wire.name cimport name_length

from collections.abc import Iterator
from typing import NamedTuple

from resolver import limits

cdef uint64_t FLUSH_GROUPS = limits.FLUSH_GROUPS
KIND_NAMES = ("filler", "answer", "rrset", "negative", "failure")


class Entry(NamedTuple):
    """A copy of one entry: the value, remaining seconds (zero or negative: expired), creation time (seconds since
    1970), TTL, and the numbers `meta` and `aux` of its kind."""

    value: bytes
    remaining: int
    created: int
    ttl: int
    meta: int
    aux: int


class TableStatistics(NamedTuple):
    """Counts since the arena was created; hits and misses are those of this process. Dictionaries are keyed by kind."""

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


@cython.final
cdef class Table:
    """The table of an arena. It is created before the processes that share it are forked; each has its own `Table`.

    `seed` is the key of the hash: 16 random bytes.

    Raises:
        ValueError: the seed is not 16 bytes long, or the arena has a table already.
        OSError: the system has no robust mutexes.
    """

    def __cinit__(self, arena: Arena, seed: bytes) -> None:
        cdef TableView *t = &self.view
        cdef uint64_t table_size = arena.header.root_size - 2 * ARENA_PAGE
        cdef uint64_t locks_offset = arena.header.root_offset + ARENA_PAGE
        if len(seed) != 16:
            raise ValueError(f"seed: {len(seed)} bytes instead of 16")
        self.arena = arena
        t.arena = arena.header
        t.ring = arena.base + arena.header.ring_offset
        t.ring_size = arena.header.ring_size
        t.head = <TableHeader *>(arena.base + arena.header.root_offset)
        if t.head.serial != 0:
            raise ValueError("this arena has a table already")
        t.head.serial = 1
        memcpy(&t.head.k0, PyBytes_AS_STRING(seed), 8)
        memcpy(&t.head.k1, PyBytes_AS_STRING(seed) + 8, 8)
        t.head.maximum_groups = table_size / (GROUP_BUCKETS * sizeof(Bucket) + sizeof(CacheLock))
        t.locks = <CacheLock *>(arena.base + locks_offset)
        t.buckets = <Bucket *>(arena.base + locks_offset + (
            (t.head.maximum_groups * sizeof(CacheLock) + ARENA_PAGE - 1) / ARENA_PAGE * ARENA_PAGE))
        if lock_make(&t.locks[0]) != 0:
            raise OSError("this system has no robust mutexes shared by processes")

    def put(self, kind: int, key: bytes, value: bytes, *, now: int, ttl: int, meta: int = 0, aux: int = 0,
            ranked: bool = False, not_longer: bool = False) -> bool:
        """Store an entry. Returns whether it was stored; it is not for a TTL of zero or a value that is too large.

        With `ranked`, a fresh entry with a higher `meta & 15` is not replaced. With `not_longer`, a replacement expires
        no later than the fresh entry it replaces.

        Raises:
            ValueError: `kind` is invalid.
        """
        cdef Slice piece
        cdef uint64_t h
        cdef const uint8_t *k = <const uint8_t *>PyBytes_AS_STRING(key)
        cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(key)
        cdef uint8_t c_kind = check_kind(kind)
        if ttl <= 0:
            return False
        piece.data = PyBytes_AS_STRING(value)
        piece.size = <uint32_t>PyBytes_GET_SIZE(value)
        h = table_hash(&self.view, c_kind, k, size)
        return table_put(&self.view, h, c_kind, k, size, &piece, 1, now, min(ttl, 0x7FFFFFFF), meta, aux,
                         (PUT_RANKED if ranked else 0) | (PUT_NOT_LONGER if not_longer else 0)) == PUT_STORED

    def find(self, kind: int, key: bytes, now: int) -> Entry | None:
        """The entry, also when it has expired (then `remaining` is zero or negative), or None.

        Raises:
            ValueError: `kind` is invalid.
        """
        cdef Hit f
        cdef bytes value
        cdef int _attempt
        cdef const uint8_t *k = <const uint8_t *>PyBytes_AS_STRING(key)
        cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(key)
        cdef uint8_t c_kind = check_kind(kind)
        cdef uint64_t h = table_hash(&self.view, c_kind, k, size)
        for _attempt in range(read_attempts):
            if not table_find(&self.view, h, c_kind, k, size, &f):
                break
            value = PyBytes_FromStringAndSize(<const char *>f.value, f.value_size)
            if read_is_consistent(&f):
                table_touch(&f)
                atomic_add64(&self.view.hits[c_kind], 1)
                return Entry(value, remaining(now, f.created, f.ttl), f.created, f.ttl, f.meta, f.aux)
        atomic_add64(&self.view.misses[c_kind], 1)
        return None

    def drop(self, kind: int, key: bytes) -> bool:
        """Remove one entry; False when there was none.

        Raises:
            ValueError: `kind` is invalid.
        """
        cdef const uint8_t *k = <const uint8_t *>PyBytes_AS_STRING(key)
        cdef uint32_t size = <uint32_t>PyBytes_GET_SIZE(key)
        cdef uint8_t c_kind = check_kind(kind)
        return table_drop(&self.view, table_hash(&self.view, c_kind, k, size), c_kind, k, size) == 1

    def sweep(self, kinds: int, name: bytes | None = None, *, subtree: bool = False) -> int:
        """Drop entries of `kinds` (bit set) at the lower-case `name`, or all. Visits every entry.

        This is no flush: data derived from them may still be stored. Returns the number of dropped entries.

        Raises:
            BlockingIOError: a stopped process holds a lock.
        """
        cdef int64_t gone = 0
        at: int | None = 0
        while at is not None:
            at, part = self.sweep_slice(at, kinds, name, subtree=subtree)
            gone += part
        return gone

    def sweep_slice(self, at: int, kinds: int, name: bytes | None = None, *, subtree: bool = False,
                    outdated: bool = False) -> tuple[int | None, int]:
        """One slice of `sweep`, from `at` (0 for the first). Returns the start of the next slice, None at the end, and
        the number of dropped entries. `outdated` also drops finished answers from before the last flush, not counted.

        Raises:
            BlockingIOError: a stopped process holds a lock.
        """
        cdef int64_t gone
        cdef uint64_t group = at
        cdef const uint8_t *p = NULL
        cdef uint32_t size = 0
        cdef uint32_t c_kinds = kinds
        cdef bint c_subtree = subtree
        cdef bint c_outdated = outdated
        if name is not None:
            p = <const uint8_t *>PyBytes_AS_STRING(name)
            size = <uint32_t>PyBytes_GET_SIZE(name)
        with nogil:
            gone = table_sweep(&self.view, c_kinds, p, size, c_subtree, c_outdated, &group, FLUSH_GROUPS)
        if gone < 0:
            raise BlockingIOError("a stopped process holds a lock of the cache")
        return None if group == ~<uint64_t>0 else group, gone

    @property
    def serial(self) -> int:
        """Changes with each flush of any process; never 0. Data of queries that began under another one is refused."""
        return atomic_get32(&self.view.head.serial)

    @property
    def fleet_read(self) -> int:
        """Up to when the flushes that other resolvers have sent were made in this cache, in seconds since 1970; 0: that
        is not known. It stays when a process ends, as the cache does."""
        return self.view.head.fleet_read

    @fleet_read.setter
    def fleet_read(self, when: int) -> None:
        self.view.head.fleet_read = when

    def begin_flush(self, name: bytes, *, subtree: bool = False) -> int:
        """Hide the entries at the lower-case `name` (with `subtree` also those below it), until `end_flush` is called
        with the returned number.

        Raises:
            BlockingIOError: too many flushes are in progress, or a stopped process holds a lock.
            ValueError: the name is empty or too long.
        """
        cdef int64_t number
        if not 0 < len(name) <= 255:
            raise ValueError(f"name has {len(name)} bytes; it must have 1 to 255")
        number = table_begin_flush(&self.view, <const uint8_t *>PyBytes_AS_STRING(name),
                                   <uint32_t>PyBytes_GET_SIZE(name), subtree)
        if number < 0:
            raise BlockingIOError("too many flushes are in progress, or a stopped process holds a lock of the cache")
        return number

    def end_flush(self, number: int) -> None:
        """End a flush after its entries have been removed. Does nothing in a process that did not begin it."""
        table_end_flush(&self.view, number)

    def copy_out(self, kinds: int, *, now: int, stale: int = 0) -> Iterator[bytes]:
        """Yield all entries of `kinds` (bit set) in blocks for `copy_in`, while the table stays in use.

        Entries that expired `stale` seconds ago or earlier are omitted. A block contains whole entries.

        Raises:
            BlockingIOError: a stopped process holds a lock.
            MemoryError: there is no memory for one block.
        """
        cdef uint64_t at = self.view.arena.tail
        cdef uint64_t end = self.view.arena.head
        cdef uint64_t capacity = 2 * (self.view.arena.scratch_size + sizeof(DumpEntry))
        cdef int64_t used
        cdef int64_t c_now = now
        cdef int64_t c_stale = stale
        cdef uint32_t c_kinds = kinds
        cdef uint8_t *block
        cdef bytes copied
        while at < end:
            block = <uint8_t *>malloc(capacity)         # freed before the yield: a generator may be dropped
            if block is NULL:
                raise MemoryError("block of a copy of the cache")
            with nogil:
                used = table_copy(&self.view, c_kinds, &at, end, c_now, c_stale, block, capacity)
            copied = PyBytes_FromStringAndSize(<const char *>block, used) if used > 0 else b""
            free(block)
            if used < 0:
                raise BlockingIOError("a stopped process holds a lock of the cache")
            if used:
                yield copied

    def copy_in(self, block: bytes, kinds: int, *, now: int, stale: int = 0, serial: int = 0) -> int:
        """Store the entries of a block of `copy_out` with their ages. Returns the number of stored entries.

        Fresh entries in the table are kept. Entries of other kinds, with an invalid key, or expired `stale` seconds ago
        or earlier are skipped. `serial` is the table's serial when loading began: after a flush no entry is stored. 0:
        no check.

        Raises:
            ValueError: the block does not consist of whole entries; those before the error have been stored.
        """
        cdef const uint8_t *p = <const uint8_t *>PyBytes_AS_STRING(block)
        cdef uint64_t size = PyBytes_GET_SIZE(block)
        cdef uint64_t at = 0
        cdef int64_t c_now = now
        cdef int64_t c_stale = stale
        cdef uint32_t c_kinds = kinds
        cdef uint32_t c_serial = serial
        cdef DumpEntry head
        cdef Hit f
        cdef Slice piece
        cdef uint64_t h
        cdef const uint8_t *key
        cdef int taken = 0
        while at < size:
            if size - at < sizeof(DumpEntry):
                raise ValueError("an entry is truncated")
            memcpy(&head, p + at, sizeof(DumpEntry))
            at += sizeof(DumpEntry)
            if size - at < <uint64_t>head.key_size + head.value_size:
                raise ValueError("an entry is longer than the rest of its block")
            key = p + at
            at += <uint64_t>head.key_size + head.value_size
            if (not 0 < head.kind < KINDS or not (c_kinds >> head.kind) & 1 or head.key_size > KEY_LIMIT
                    or head.ttl == 0 or head.ttl > 0x7FFFFFFF or not is_key(head.kind, key, head.key_size)
                    or head.created > c_now or remaining(c_now, head.created, head.ttl) <= -c_stale):
                continue
            h = table_hash(&self.view, head.kind, key, head.key_size)
            if (table_find(&self.view, h, head.kind, key, head.key_size, &f)
                    and remaining(c_now, f.created, f.ttl) > 0):
                continue
            piece.data = key + head.key_size
            piece.size = head.value_size
            taken += table_put(&self.view, h, head.kind, key, head.key_size, &piece, 1, c_now, head.ttl, head.meta,
                               head.aux, 0, <uint32_t>(c_now - head.created), c_serial) == PUT_STORED
        return taken

    def clear(self) -> int:
        """Flush everything, in a time that does not depend on what there is. Returns the number of entries.

        Raises:
            BlockingIOError: a stopped process holds a lock.
        """
        cdef int64_t gone = table_clear(&self.view)
        if gone < 0:
            raise BlockingIOError("a stopped process holds a lock of the cache")
        return gone

    def statistics(self) -> TableStatistics:
        """Numbers of entries and of operations."""
        cdef TableHeader *h = self.view.head
        cdef uint64_t state = atomic_get64(&h.state)
        cdef uint64_t tail = max(self.view.arena.tail, h.cleared)
        cdef int64_t found[5]
        cdef int i
        for i in range(KINDS):
            found[i] = h.entries[i] - h.hidden[i]
        return TableStatistics(
            by_kind(found), by_kind(h.stored), by_kind(h.evicted), by_kind(h.expired), by_kind(h.dropped),
            by_kind(self.view.hits), by_kind(self.view.misses), h.carried, h.refused, h.busy, h.repaired,
            (1ULL << (state >> LEVEL_SHIFT)) + (state & SPLIT_MASK), self.view.arena.head - tail, self.arena.ring_size,
        )


cdef bint is_key(uint8_t kind, const uint8_t *key, uint32_t size) noexcept:
    """Whether a key is a name, followed by a type, before which there may be a part; for answers by more."""
    cdef Py_ssize_t length = name_length(key, size)
    if length < 0:
        return False
    return size - length >= 3 if kind == KIND_ANSWER else size - length in (2, 10)


cdef uint8_t check_kind(int kind) except 0:
    if not 0 < kind < KINDS:
        raise ValueError(f"kind {kind} is not one of 1..{KINDS - 1}")
    return <uint8_t>kind


cdef dict by_kind(const int64_t *counts):
    return {KIND_NAMES[i]: max(0, counts[i]) for i in range(1, KINDS)}
