"""The whole of the table from end to end: flushing what lies under a name, copying entries out.

**Flushing.** Flushed entries are invisible from the beginning on, and nothing that was concluded from it comes
back. Facts: the entries are spread over the whole table; a query may have read one of them before and store its
conclusion, or the entry itself once it is validated, at any time after. Therefore:

1. Begin: the name is entered in the header, where readers see it and take what lies under it as missing; then the
   serial of the table changes.
2. Sweep: the groups are looked through in slices, each group under its lock; between slices others do their work.
3. End: the name is taken out of the header.

Who writes for a query says under which serial the query began; under another one than today's the entry is refused,
which is asked inside the group's lock. So an entry of an older query is stored before the sweep, or never.
Finished answers have the serial in their key: all of them are out of reach at once, since one may show data of any name
that an alias leads to. They are made again from the record sets. A flush whose process died is detected by PID and process
start time (all processes that share an arena are in one PID namespace); its name is readable again then, and what it
left standing has not been flushed. A process that was forked during a flush does not end it.

**Copying** follows the ring from its tail to where its head was when it began, because there the entries stand in a row.
The arena's lock is held for a bounded stretch at a time, so that nobody who writes waits for it; it is also what keeps
the record in hand from being overwritten.
"""

from libc.string cimport memcmp, memcpy

from resolver.cache.arena cimport (
    ARENA_UNIT, atomic_add64, atomic_get64, atomic_put32, lock_release,
)
from resolver.cache.lookup cimport (
    BUCKET_SLOTS, FLUSHES, GROUP_BUCKETS, KIND_ANSWER, KIND_FILLER, LEVEL_SHIFT, PLACE, RECORD_HEAD, SPLIT_MASK,
    Bucket, Flush, Record, TableView, group_at, group_number, hash_of, is_flushed, key_lies_under, key_size_of,
    record_at, remaining,
)
from resolver.cache.writers cimport (
    PUT_BUSY, clear_slot, lock_arena, lock_group, start_flush, release_dead_flushes, slot_of_place,
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

cdef int STRETCH = limits.TABLE_SWEEP


cdef int64_t table_begin_flush(TableView *t, const uint8_t *name, uint32_t name_size, bint subtree) noexcept nogil:
    """Hide what is stored under `name` (NULL: everything) from readers, until `table_end_flush` of the number returned.

    PUT_BUSY when as many flushes are under way as may be, or the lock cannot be had. The order matters: whoever reads
    the new serial finds the entries hidden, so nothing is concluded from them under that serial.
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
        flush.name_size = <uint16_t>name_size if name is not NULL else 0
        if name is not NULL:
            memcpy(flush.name, name, name_size)
        flush_set(&t.head.flushing, <uint32_t>1 << i)  # others end theirs without the lock
        atomic_put32(&t.head.serial, t.head.serial + 1 if t.head.serial + 1 else 1)
        lock_release(&t.arena.lock)
        return i
    lock_release(&t.arena.lock)
    atomic_add64(&t.head.busy, 1)
    return PUT_BUSY


cdef void table_end_flush(TableView *t, int64_t number) noexcept nogil:
    """The entries are gone: readers need not look for them any more."""
    if t.head.flushes[number % FLUSHES].owner == <uint32_t>getpid():
        flush_clear(&t.head.flushing, <uint32_t>1 << (number % FLUSHES))


cdef int64_t table_sweep(TableView *t, uint32_t kinds, const uint8_t *name, uint32_t name_size, bint subtree,
                         bint outdated, uint64_t *group, uint64_t count) noexcept nogil:
    """Drop the entries of the kinds (bit set) whose key begins with `name` (NULL: all) in the next `count` groups.

    With `outdated` also finished answers of an earlier serial, which nobody finds any more and which are not counted.
    Returns how many; `group` is moved on, and is the largest number at the end. Groups are taken in their
    order because an entry never leaves its group but for one of a higher number (when the table grows), wherever its
    record is moved meanwhile: so each that stood here at the beginning is met.
    """
    cdef int64_t gone = 0
    cdef uint64_t state, _turn, place
    cdef uint32_t size
    cdef Bucket *buckets
    cdef Bucket *b
    cdef Record *r
    cdef const uint8_t *key
    cdef bint wanted
    cdef int i, j
    for _turn in range(count):
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
                wanted = (kinds >> r.kind) & 1 and (
                    name is NULL or key_lies_under(key, size, name, name_size, subtree))
                if wanted:
                    atomic_add64(&t.head.dropped[r.kind], 1)
                    gone += 1
                elif not outdated or r.kind != KIND_ANSWER or size < 4 or memcmp(key + size - 4, &t.head.serial, 4) == 0:
                    continue
                clear_slot(t, buckets, hash_of(t, r), b, &b.slots[j])
        lock_release(&t.locks[group[0]])
        group[0] += 1
    return gone


cdef int64_t table_copy(TableView *t, uint32_t kinds, uint64_t *at, uint64_t end, int64_t now, int64_t stale,
                        uint8_t *out, uint64_t room) noexcept nogil:
    """Copy entries from position `at` of the ring on to `out`, each as a `DumpEntry` head, key and value; the bytes used.

    Only entries of the kinds (bit set) that expired less than `stale` seconds ago or not yet. `at` is moved on; there is
    no more when it has come to `end`, the ring's head when the walk began. An entry that the tail carries over meanwhile
    may be copied twice. `room` must take the largest entry. Returns PUT_BUSY when the lock cannot be had.
    """
    cdef uint64_t used = 0
    cdef uint64_t size, h, group, value_size
    cdef uint64_t *slot
    cdef Bucket *b = NULL
    cdef Record *r
    cdef DumpEntry head
    cdef int _turn
    if lock_arena(t) < 0:
        return PUT_BUSY
    if at[0] < t.arena.tail:
        at[0] = t.arena.tail
    for _turn in range(STRETCH):
        if at[0] >= end:
            break
        r = <Record *>(t.ring + at[0] % t.ring_size)
        size = <uint64_t>r.units * ARENA_UNIT
        if (r.kind != KIND_FILLER and (kinds >> r.kind) & 1
                and remaining(now, r.created, r.ttl) > -stale
                and not is_flushed(t, <const uint8_t *>r + RECORD_HEAD, key_size_of(r))):
            if used + sizeof(DumpEntry) + size > room:
                break
            h = hash_of(t, r)
            group = group_number(t.head.state, h)
            if lock_group(t, group) == 0:
                slot = slot_of_place(group_at(t, group), h, (at[0] % t.ring_size) / ARENA_UNIT, &b)
                if slot is not NULL:
                    # Under the group's lock alone: a renewal in place changes the padding without the arena's.
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
