"""The search for damage in a kept arena, before anything in it is believed.

A file outlives crashes of the machine, after which any page of it may be older than its neighbours. So whoever takes it
up alone walks the ring and every bucket once: what does not add up is taken out, and counters are made anew. A wrong
value cannot be told from a right one here (records carry no checksum of their contents), but no offset, length or lock
that was written by a stranger is followed afterwards; that is what this is for.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset

from resolver.cache.arena cimport ARENA_UNIT, lock_make
from resolver.cache.lookup cimport (
    BUCKET_SLOTS, DISPLACED, GROUP_BUCKETS, KEY_LIMIT, KIND_FILLER, KINDS, LEVEL_MOST, LEVEL_SHIFT, PLACE, RECORD_HEAD,
    SPLIT_MASK, TAG, Bucket, Record, TableView, first_choice, group_at, group_number, hash_of, key_size_of, record_at,
    second_choice, slot_tag,
)


cdef bint is_sound(const TableView *t, const Record *r, uint64_t place) noexcept nogil:
    """Whether a record's head, at `place` in units, fits itself and the ring."""
    cdef uint64_t size = <uint64_t>r.units * ARENA_UNIT
    if place * ARENA_UNIT + size > t.ring_size or size < ARENA_UNIT:
        return False
    if r.kind == KIND_FILLER:
        return True
    return (size >= RECORD_HEAD and r.kind < KINDS and key_size_of(r) <= KEY_LIMIT
            and RECORD_HEAD + key_size_of(r) + <uint64_t>(r.sizes >> 12) <= size)


cdef bint ring_is_sound(const TableView *t) noexcept nogil:
    cdef uint64_t at = t.arena.tail
    cdef uint64_t head = t.arena.head
    cdef uint64_t place
    if at > head or head - at > t.ring_size or at % ARENA_UNIT or head % ARENA_UNIT:
        return False
    while at < head:                                    # each step is at least one unit
        place = at % t.ring_size / ARENA_UNIT
        if place * ARENA_UNIT + RECORD_HEAD > t.ring_size and record_at(t, place).kind != KIND_FILLER:
            return False
        if not is_sound(t, record_at(t, place), place):
            return False
        at += <uint64_t>record_at(t, place).units * ARENA_UNIT
    return at == head


cdef bint is_in_ring(const TableView *t, uint64_t place) noexcept nogil:
    """Whether a place, in units, lies between tail and head."""
    cdef uint64_t offset = place * ARENA_UNIT
    cdef uint64_t tail = t.arena.tail % t.ring_size
    cdef uint64_t distance
    if offset >= t.ring_size:
        return False
    distance = offset - tail if offset >= tail else offset + t.ring_size - tail
    return distance + RECORD_HEAD <= t.arena.head - t.arena.tail


cdef bint slot_is_sound(const TableView *t, uint64_t slot, uint64_t group, uint32_t bucket) noexcept nogil:
    cdef uint64_t place = (slot & PLACE) - 1
    cdef uint64_t h
    cdef const Record *r
    if (slot & PLACE) == 0 or not is_in_ring(t, place) or place * ARENA_UNIT + RECORD_HEAD > t.ring_size:
        return False
    r = record_at(t, place)
    if r.kind == KIND_FILLER or not is_sound(t, r, place):
        return False
    h = hash_of(t, r)
    return (((slot >> 32) & TAG) == slot_tag(h) and group_number(t.head.state, h) == group
            and bucket == (second_choice(h) if slot & DISPLACED else first_choice(h)))


cdef int64_t table_heal(TableView *t) noexcept nogil:
    """Number of slots taken out, or -1 when the whole must be laid out anew. Nobody else may be using the table."""
    cdef uint64_t state = t.head.state
    cdef uint64_t level = state >> LEVEL_SHIFT
    cdef uint64_t groups, g
    cdef int64_t gone = 0
    cdef Bucket *buckets
    cdef uint64_t h
    cdef int i, j
    if level > LEVEL_MOST or (state & SPLIT_MASK) >= 1ULL << level:
        return -1
    groups = (1ULL << level) + (state & SPLIT_MASK)
    if groups > t.head.maximum_groups or not ring_is_sound(t):
        return -1
    if lock_make(&t.arena.lock) != 0:
        return -1
    for g in range(groups):
        if lock_make(&t.locks[g]) != 0:
            return -1
    memset(&t.head.entries[0], 0, sizeof(t.head.entries))
    t.head.flushing = 0
    if t.head.serial == 0:
        t.head.serial = 1
    for g in range(groups):
        buckets = group_at(t, g)
        for i in range(GROUP_BUCKETS):
            buckets[i].displaced = 0
            buckets[i].hand = 0
        for i in range(GROUP_BUCKETS):
            if buckets[i].sequence & 1:                 # its writer died inside
                memset(&buckets[i].slots[0], 0, sizeof(buckets[i].slots))
                buckets[i].sequence += 1
                gone += 1
            for j in range(BUCKET_SLOTS):
                if buckets[i].slots[j] == 0:
                    continue
                if not slot_is_sound(t, buckets[i].slots[j], g, i):
                    buckets[i].slots[j] = 0
                    gone += 1
                    continue
                h = hash_of(t, record_at(t, (buckets[i].slots[j] & PLACE) - 1))
                if buckets[i].slots[j] & DISPLACED:
                    buckets[first_choice(h)].displaced += 1
                t.head.entries[record_at(t, (buckets[i].slots[j] & PLACE) - 1).kind] += 1
    return gone
