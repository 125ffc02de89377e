"""Lookups in the table, without the GIL and without a lock.

The table consists of buckets of seven slots that point into the arena's ring; it holds answers, RRsets, denials and
failures. A bucket's sequence number is odd while a writer changes it, and differs afterwards. So a reader copies first
and then checks that the copy is valid. Every read may be torn: each offset and length is checked before it is used.
The key is hashed with a seed, because remote parties choose owner names. A key has two buckets in the same group of 64.
The second is only searched when the first has displaced entries, so most misses read one cache line.
Entries from before the last `table_clear` are recognised by the place of their record, and are not found.
"""

from libc.string cimport memcmp

from resolver.cache.arena cimport atomic_swap64, prefetch_line

from resolver import limits

clock_slack = limits.CACHE_CLOCK_SLACK
read_attempts = limits.TABLE_READ_ATTEMPTS


cdef void table_prefetch(const TableView *t, uint64_t h) noexcept nogil:
    """Prefetch the cache line of the first bucket. Batches call it for all keys before the first lookup."""
    prefetch_line(group_at(t, group_number(atomic_get64(&t.head.state), h)) + first_choice(h))


cdef bint probe_bucket(const TableView *t, Bucket *b, uint64_t h, uint8_t kind, const uint8_t *key, uint32_t key_size,
                       Hit *f) noexcept nogil:
    """Find the key in one bucket. Reads may be torn: bounds are checked before each use."""
    cdef uint64_t tag = slot_tag(h)
    cdef uint64_t value, place
    cdef uint64_t units = t.ring_size / ARENA_UNIT
    cdef const Record *r
    cdef uint32_t length, used
    cdef int i
    for i in range(BUCKET_SLOTS):
        value = atomic_get64(&b.slots[i])
        place = value & PLACE
        if place == 0 or ((value >> 32) & TAG) != tag or place + RECORD_HEAD / ARENA_UNIT > units:
            continue
        place -= 1
        r = record_at(t, place)
        length = <uint32_t>r.units * ARENA_UNIT
        used = r.sizes
        if r.kind != kind or (used & 0x0FFF) != key_size or place + length / ARENA_UNIT > units:
            continue
        used = RECORD_HEAD + (used & 0x0FFF) + (used >> 12)
        if used > length or memcmp(<const uint8_t *>r + RECORD_HEAD, key, key_size) != 0 or is_cleared(t, place):
            continue
        f.value = <const uint8_t *>r + RECORD_HEAD + key_size
        f.value_size = length - used
        f.created = r.created
        f.ttl = r.ttl
        f.aux = r.aux
        f.meta = r.meta
        f.bucket = b
        f.slot = &b.slots[i]
        f.slot_value = value
        return True
    return False


cdef bint key_is_below(const uint8_t *key, uint32_t key_size, const uint8_t *name, uint32_t name_size,
                       bint subtree) noexcept nogil:
    """Whether the name at the start of the key is `name`, or with `subtree` is below it."""
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


cdef bint is_flushed(const TableView *t, const uint8_t *key, uint32_t key_size) noexcept nogil:
    """Whether a flush in progress covers the key. A torn read of one that ended meanwhile is harmless: its entries have
    been removed."""
    cdef uint32_t flushing = atomic_get32(&t.head.flushing)
    cdef const Flush *flush
    cdef int i
    if flushing == 0:
        return False
    for i in range(FLUSHES):
        flush = &t.head.flushes[i]
        if (flushing >> i) & 1 and flush.name_size <= sizeof(flush.name) and key_is_below(
                key, key_size, flush.name, flush.name_size, flush.subtree):
            return True
    return False


cdef int table_find(TableView *t, uint64_t h, uint8_t kind, const uint8_t *key, uint32_t key_size,
                    Hit *f) noexcept nogil:
    """1 and `f` filled, or 0. The data at `f` may change at any time: copy it, then call `read_is_consistent`."""
    cdef uint64_t state
    cdef Bucket *group
    cdef Bucket *b
    cdef uint32_t sequence
    cdef uint16_t displaced
    cdef int _attempt, side
    cdef bint torn
    if atomic_get32(&t.head.flushing) and is_flushed(t, key, key_size):
        return 0
    for _attempt in range(read_attempts):
        state = atomic_get64(&t.head.state)
        group = group_at(t, group_number(state, h))
        torn = False
        for side in range(2):
            b = group + (second_choice(h) if side else first_choice(h))
            sequence = atomic_get32(&b.sequence)
            if sequence & 1:
                torn = True
                break
            displaced = b.displaced
            if probe_bucket(t, b, h, kind, key, key_size, f):
                f.sequence = sequence
                if read_is_consistent(f):
                    return 1
                torn = True
                break
            f.bucket = b
            f.sequence = sequence
            if not read_is_consistent(f):
                torn = True
                break
            if displaced == 0:
                break
        if not torn and atomic_get64(&t.head.state) == state:
            return 0
    return 0


cdef void table_touch(Hit *f) noexcept nogil:
    """Mark the entry as used, so that the tail moves it to the head once. Losing a race with a writer is harmless."""
    if not f.slot_value & REFERENCED:
        atomic_swap64(f.slot, f.slot_value, f.slot_value | REFERENCED)


cdef bint table_claim_prefetch(uint64_t *slot, uint64_t value) noexcept nogil:
    """Claim the entry in `slot`, which had `value`, for a prefetch: true for one caller of all processes."""
    cdef int _attempt
    for _attempt in range(2):                              # the reader itself may have marked the entry as used since
        if value & CLAIMED:
            return False
        if atomic_swap64(slot, value, value | CLAIMED):
            return True
        value |= REFERENCED
    return False
