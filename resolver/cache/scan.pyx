"""Operations on the whole table: flushing the entries under a name, and copying entries out.

**Flushing** a name or a subtree. `table_clear` (`writers`) flushes all entries, in another way. Flushed entries are
invisible from the beginning, and no data derived from them is stored again. The entries are spread over the whole
table, and a query that has read one before may store derived data, or the validated entry itself, at any time later.
Therefore:

1. Begin: the name is written to the header, where readers see it and treat entries under it as missing. Then the
   serial of the table changes.
2. Sweep: the groups are visited in slices, each group under its lock. Between slices other work runs.
3. End: the name is removed from the header.

A write for a query passes the serial from when the query began. If it is not the current one, the entry is refused.
This is checked under the group's lock, so an entry of an older query is stored before the sweep, or never.
Finished answers have the serial in their key, so all of them become unreachable at once, because each may contain data
of any name by an alias. They are made again from RRsets. A flush whose process died is detected by PID and process
start time (all processes that share an arena are in one PID namespace). Its entries that were not swept yet can then be
read again and have not been flushed. A process that was forked during a flush does not end it.

**Copying** follows the ring from its tail to the head at the start of the copy, because entries are contiguous there.
The arena's lock is held for a bounded number of records at a time, so that writers do not wait long. It also keeps the
current record from being overwritten.
"""

from libc.string cimport memcmp, memcpy

from resolver.cache.arena cimport (
    ARENA_UNIT, atomic_add64, atomic_get64, lock_release,
)
from resolver.cache.lookup cimport (
    BUCKET_SLOTS, FLUSHES, GROUP_BUCKETS, KIND_ANSWER, KIND_FILLER, LEVEL_SHIFT, PLACE, RECORD_HEAD, SPLIT_MASK,
    Bucket, Flush, Record, TableView, group_at, group_number, hash_of, is_cleared, is_flushed, key_is_below, key_size_of,
    record_at, remaining,
)
from resolver.cache.writers cimport (
    PUT_BUSY, advance_serial, clear_slot, lock_arena, lock_group, start_flush, release_dead_flushes, slot_of_place,
)

from resolver import limits

cdef extern from * nogil:
    """
    #include <unistd.h>
    static inline void flush_set(uint32_t *at, uint32_t bits) { __atomic_fetch_or(at, bits, __ATOMIC_SEQ_CST); }
    static inline void flush_clear(uint32_t *at, uint32_t bits) { __atomic_fetch_and(at, ~bits, __ATOMIC_SEQ_CST); }
    """
    int getpid()
    void flush_set(uint32_t *at, uint32_t bits)
    void flush_clear(uint32_t *at, uint32_t bits)

cdef int RECORDS_PER_LOCK = limits.TABLE_SWEEP


cdef int64_t table_begin_flush(TableView *t, const uint8_t *name, uint32_t name_size, bint subtree) noexcept nogil:
    """Hide the entries under `name` from readers, until `table_end_flush` is called with the result.

    Returns PUT_BUSY when too many flushes are in progress, or the lock cannot be taken. The order matters: a process
    that reads the new serial finds the entries hidden, so no data is derived from them under that serial.
    """
    cdef Flush *flush
    cdef int i
    if lock_arena(t) < 0:
        return PUT_BUSY
    release_dead_flushes(t)
    for i in range(FLUSHES):
        if (t.head.flushing >> i) & 1:
            continue
        flush = &t.head.flushes[i]
        start_flush(flush)
        flush.subtree = subtree
        flush.name_size = <uint16_t>name_size
        memcpy(flush.name, name, name_size)
        flush_set(&t.head.flushing, <uint32_t>1 << i)  # atomic: other flushes end without the lock
        advance_serial(t)
        lock_release(&t.arena.lock)
        return i
    lock_release(&t.arena.lock)
    atomic_add64(&t.head.busy, 1)
    return PUT_BUSY


cdef void table_end_flush(TableView *t, int64_t number) noexcept nogil:
    """End the flush: its entries have been removed. Does nothing in a process that did not begin it."""
    if t.head.flushes[number % FLUSHES].owner == <uint32_t>getpid():
        flush_clear(&t.head.flushing, <uint32_t>1 << (number % FLUSHES))


cdef int64_t table_sweep(TableView *t, uint32_t kinds, const uint8_t *name, uint32_t name_size, bint subtree,
                         bint outdated, uint64_t *group, uint64_t count) noexcept nogil:
    """Drop the entries of `kinds` (bit set) under `name` (NULL: all) in the next `count` groups.

    Entries that were cleared are removed, too, and with `outdated` finished answers of an earlier serial. Neither can
    be found any more, so they are not counted.
    Returns the number of dropped entries, or PUT_BUSY. `group` is advanced, and is the largest number at the end.
    Groups are visited in ascending order, because an entry only moves to a group of a higher number (when the table grows),
    wherever its record is moved meanwhile. So every entry that existed at the beginning is visited.
    """
    cdef int64_t gone = 0
    cdef uint64_t state, _step, place
    cdef uint32_t size
    cdef Bucket *buckets
    cdef Bucket *b
    cdef Record *r
    cdef const uint8_t *key
    cdef bint cleared, wanted
    cdef int i, j
    for _step in range(count):
        state = atomic_get64(&t.head.state)
        if group[0] >= (1ULL << (state >> LEVEL_SHIFT)) + (state & SPLIT_MASK):
            group[0] = ~<uint64_t>0
            break
        if lock_group(t, group[0]) < 0:
            return PUT_BUSY
        buckets = group_at(t, group[0])
        for i in range(GROUP_BUCKETS):
            b = buckets + i
            for j in range(BUCKET_SLOTS):
                place = b.slots[j] & PLACE
                if place == 0:
                    continue
                r = record_at(t, place - 1)
                size = key_size_of(r)
                key = <const uint8_t *>r + RECORD_HEAD
                cleared = is_cleared(t, place - 1)
                wanted = not cleared and (kinds >> r.kind) & 1 and (
                    name is NULL or key_is_below(key, size, name, name_size, subtree))
                if wanted:
                    atomic_add64(&t.head.dropped[r.kind], 1)
                    gone += 1
                elif cleared:
                    pass
                elif not outdated or r.kind != KIND_ANSWER or size < 4 or memcmp(key + size - 4, &t.head.serial, 4) == 0:
                    continue
                clear_slot(t, buckets, hash_of(t, r), b, &b.slots[j])
        lock_release(&t.locks[group[0]])
        group[0] += 1
    return gone


cdef int64_t table_copy(TableView *t, uint32_t kinds, uint64_t *at, uint64_t end, int64_t now, int64_t stale,
                        uint8_t *out, uint64_t capacity) noexcept nogil:
    """Copy entries from position `at` of the ring to `out`, each as `DumpEntry` head, key and value.

    Copied are entries of `kinds` (bit set) that are fresh or expired less than `stale` seconds ago. `at` is advanced;
    the copy is complete when it reaches `end`, the ring's head at the start. An entry that is moved to the head meanwhile
    may be copied twice. `capacity`, the size of `out`, must be enough for the largest entry. Returns the
    bytes written, or PUT_BUSY when the lock cannot be taken.
    """
    cdef uint64_t used = 0
    cdef uint64_t size, h, group, value_size
    cdef uint64_t *slot
    cdef Bucket *b = NULL
    cdef Record *r
    cdef DumpEntry head
    cdef int _step
    if lock_arena(t) < 0:
        return PUT_BUSY
    at[0] = max(at[0], t.arena.tail, t.head.cleared)
    for _step in range(RECORDS_PER_LOCK):
        if at[0] >= end:
            break
        r = <Record *>(t.ring + at[0] % t.ring_size)
        size = <uint64_t>r.units * ARENA_UNIT
        if (r.kind != KIND_FILLER and (kinds >> r.kind) & 1
                and remaining(now, r.created, r.ttl) > -stale
                and not is_flushed(t, <const uint8_t *>r + RECORD_HEAD, key_size_of(r))):
            if used + sizeof(DumpEntry) + size > capacity:
                break
            h = hash_of(t, r)
            group = group_number(t.head.state, h)
            if lock_group(t, group) == 0:
                slot = slot_of_place(group_at(t, group), h, (at[0] % t.ring_size) / ARENA_UNIT, &b)
                if slot is not NULL:
                    # Read under the group's lock, because a renewal in place changes the padding without the arena's.
                    value_size = size - RECORD_HEAD - key_size_of(r) - (r.sizes >> 12)
                    head.value_size = <uint32_t>value_size
                    head.created = r.created
                    head.ttl = r.ttl
                    head.key_size = <uint16_t>key_size_of(r)
                    head.aux = r.aux
                    head.kind = r.kind
                    head.meta = r.meta
                    head.unused = 0
                    memcpy(out + used, &head, sizeof(DumpEntry))
                    memcpy(out + used + sizeof(DumpEntry), <const uint8_t *>r + RECORD_HEAD, head.key_size + value_size)
                    used += sizeof(DumpEntry) + head.key_size + value_size
                lock_release(&t.locks[group])
        at[0] += size
    lock_release(&t.arena.lock)
    return <int64_t>used
