"""The whole of the table from end to end: dropping what lies under a name, copying entries out.

A walk follows the ring from its tail to where its head was when it began, because there the entries stand in a row.
The arena's lock is held for a bounded stretch at a time, so that nobody who writes waits for a walk; it is also what
keeps the record in hand from being overwritten. A walk sees what stood there when it began and was not dropped since.
"""

from libc.string cimport memcmp, memcpy

from resolver.cache.arena cimport ARENA_UNIT, atomic_add64, lock_release
from resolver.cache.lookup cimport (
    KIND_FILLER, KINDS, RECORD_HEAD, Bucket, Record, TableView, group_at, group_number, hash_of, key_size_of, remaining,
)
from resolver.cache.writers cimport PUT_BUSY, clear_slot, lock_arena, lock_group, slot_of_place

from resolver import limits

cdef int STRETCH = limits.TABLE_SWEEP.default


cdef bint key_lies_under(const uint8_t *key, uint32_t key_size, const uint8_t *name, uint32_t name_size,
                         bint subtree) noexcept nogil:
    """Whether the name at the key's beginning is `name`, or with `subtree` ends in it at a label's border."""
    cdef uint32_t at = 0
    if not subtree:
        return key_size >= name_size and memcmp(key, name, name_size) == 0
    while at + name_size <= key_size:                   # at most 127 labels
        if memcmp(key + at, name, name_size) == 0:
            return True
        if key[at] == 0:
            return False
        at += <uint32_t>key[at] + 1
    return False


cdef int64_t table_sweep(TableView *t, uint32_t kinds, const uint8_t *name, uint32_t name_size,
                         bint subtree) noexcept nogil:
    """Drop the entries of the kinds (bit set) whose key begins with `name` (NULL: all). Returns how many."""
    cdef int64_t gone = 0
    cdef uint64_t at = 0, end, size, h, group
    cdef uint64_t *slot
    cdef Bucket *b = NULL
    cdef Record *r
    cdef int _turn
    if lock_arena(t) < 0:
        return PUT_BUSY
    end = t.arena.head                                  # what is written meanwhile is newer than the order to flush
    lock_release(&t.arena.lock)
    while at < end:
        if lock_arena(t) < 0:
            return PUT_BUSY
        if at < t.arena.tail:
            at = t.arena.tail
        for _turn in range(STRETCH):
            if at >= end:
                break
            r = <Record *>(t.ring + at % t.ring_size)
            size = <uint64_t>r.units * ARENA_UNIT
            if size == 0 or at + size > t.arena.head:
                at = end
                break
            if (r.kind != KIND_FILLER and r.kind < KINDS and (kinds >> r.kind) & 1
                    and RECORD_HEAD + key_size_of(r) <= size
                    and (name is NULL or key_lies_under(<const uint8_t *>r + RECORD_HEAD, key_size_of(r), name,
                                                        name_size, subtree))):
                h = hash_of(t, r)
                group = group_number(t.head.state, h)
                if lock_group(t, group) == 0:
                    slot = slot_of_place(group_at(t, group), h, (at % t.ring_size) / ARENA_UNIT, &b)
                    if slot is not NULL:
                        clear_slot(t, group_at(t, group), h, b, slot)
                        atomic_add64(&t.head.dropped[r.kind], 1)
                        gone += 1
                    lock_release(&t.locks[group])
            at += size
        lock_release(&t.arena.lock)
    return gone


cdef int64_t table_copy(TableView *t, uint32_t kinds, uint64_t *at, uint64_t end, int64_t now, int64_t stale,
                        uint8_t *out, uint64_t room) noexcept nogil:
    """Copy entries from position `at` of the ring on to `out`, each as a `Copied` head, key and value; the bytes used.

    Only entries of the kinds (bit set) that expired less than `stale` seconds ago or not yet. `at` is moved on; there is
    no more when it has come to `end`, the ring's head when the walk began. An entry that the tail carries over meanwhile
    may be copied twice. `room` must take the largest entry. Returns PUT_BUSY when the lock cannot be had.
    """
    cdef uint64_t used = 0
    cdef uint64_t size, h, group, value_size
    cdef uint64_t *slot
    cdef Bucket *b = NULL
    cdef Record *r
    cdef Copied head
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
        if size == 0 or at[0] + size > t.arena.head or at[0] % t.ring_size + size > t.ring_size:
            at[0] = end                                 # only a damaged file can look like this
            break
        if (r.kind != KIND_FILLER and r.kind < KINDS and (kinds >> r.kind) & 1
                and RECORD_HEAD + key_size_of(r) + <uint64_t>(r.sizes >> 12) <= size
                and remaining(now, r.created, r.ttl) > -stale):
            value_size = size - RECORD_HEAD - key_size_of(r) - (r.sizes >> 12)
            if used + sizeof(Copied) + key_size_of(r) + value_size > room:
                break
            h = hash_of(t, r)
            group = group_number(t.head.state, h)
            if lock_group(t, group) == 0:
                slot = slot_of_place(group_at(t, group), h, (at[0] % t.ring_size) / ARENA_UNIT, &b)
                if slot is not NULL:
                    head.value_size = <uint32_t>value_size
                    head.created = r.created
                    head.ttl = r.ttl
                    head.key_size = <uint16_t>key_size_of(r)
                    head.aux = r.aux
                    head.kind = r.kind
                    head.meta = r.meta
                    head.unused = 0
                    memcpy(out + used, &head, sizeof(Copied))
                    memcpy(out + used + sizeof(Copied), <const uint8_t *>r + RECORD_HEAD, head.key_size + value_size)
                    used += sizeof(Copied) + head.key_size + value_size
                lock_release(&t.locks[group])
        at[0] += size
    lock_release(&t.arena.lock)
    return <int64_t>used
