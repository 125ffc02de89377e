# Memory layout of the table, and lookups without the GIL and without a lock.
# A reader finds an entry, copies what it needs, and calls `read_is_consistent`: only then is the copy valid.

from libc.stdint cimport INT64_MIN, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from resolver.cache.arena cimport (
    ARENA_UNIT, ArenaHeader, CacheLock, atomic_get32, atomic_get64, atomic_put32, fence_reads, fence_writes,
)
from resolver.wire.hash cimport siphash13

cdef enum:
    KIND_FILLER = 0             # the unused end of the ring before it wraps
    KIND_ANSWER = 1
    KIND_RRSET = 2
    KIND_NEGATIVE = 3
    KIND_FAILURE = 4
    KINDS = 5

cdef enum:
    BUCKET_SLOTS = 7            # with the head of eight bytes one cache line
    GROUP_BUCKETS = 64          # one page, one lock; both buckets of an entry are in the same group
    RECORD_HEAD = 16
    KEY_LIMIT = 1024

# A record in the ring: head, key, value, padding. `sizes` is the length of the key and, in the upper four bits, the
# bytes of padding. `units` is the length of the record, which never changes.
ctypedef struct Record:
    uint16_t units
    uint16_t sizes
    uint8_t kind
    uint8_t meta
    uint16_t aux
    uint32_t created            # seconds of the real-time clock
    uint32_t ttl                # seconds

# Slots: bits 0-31 offset of the record in units plus one (0: free), 32-60 tag, 61 claimed for a prefetch (a replacement
# is not claimed), 62 displaced, 63 referenced since the tail last passed the record.
ctypedef struct Bucket:
    uint32_t sequence           # odd while a writer is inside
    uint16_t displaced          # number of entries with this first bucket that are in their second one
    uint16_t clock_hand
    uint64_t slots[7]

cdef enum:
    FLUSHES = 4                 # most flushes in progress

# A flush in progress. A later process with the PID of its owner has another start time.
ctypedef struct Flush:
    uint64_t started            # ticks since boot; 0: unknown
    uint32_t owner              # PID
    uint16_t name_size
    uint8_t subtree
    uint8_t name[255]           # lower case

ctypedef struct TableHeader:
    uint64_t k0
    uint64_t k1
    uint64_t state              # upper 8 bits: level; below: number of groups already split at this level
    uint32_t serial             # changes with each flush; 0: no table yet
    uint32_t flushing           # bit set: which of `flushes` are in progress
    uint64_t maximum_groups
    uint64_t cleared            # position in the ring: records before it were cleared; 0: none of those is left
    int64_t hidden[5]           # those of `entries` that were cleared
    int64_t entries[5]          # also those that were cleared and not removed yet
    int64_t stored[5]
    int64_t evicted[5]
    int64_t expired[5]
    int64_t dropped[5]
    int64_t carried             # entries that were moved from the tail to the head
    int64_t refused
    int64_t busy
    int64_t fleet_read          # seconds since 1970: flushes of the fleet that were sent before have been made; 0: none
    int64_t repaired            # groups, rings or flushes taken over from dead processes
    Flush flushes[4]

# The state of a table that code without the GIL needs, in this process. The counters belong to this process.
ctypedef struct TableView:
    ArenaHeader *arena
    TableHeader *head
    uint8_t *ring
    uint64_t ring_size
    Bucket *buckets
    CacheLock *locks            # one per group
    int64_t hits[5]
    int64_t misses[5]

ctypedef struct Hit:
    const uint8_t *value
    uint32_t value_size
    uint32_t created
    uint32_t ttl
    uint16_t aux
    uint8_t meta
    Bucket *bucket
    uint32_t sequence
    uint64_t *slot
    uint64_t slot_value


cdef int64_t clock_slack

cdef inline int64_t remaining(int64_t now, uint32_t created, uint32_t ttl) noexcept nogil:
    """Remaining seconds of an entry, at most its TTL; zero or negative when it has expired.

    After a forward jump of the clock entries expire. After a backward jump entries were created in the future: within
    the slack they count as new, beyond it as expired. So none lives longer than its TTL and the slack.
    """
    cdef int64_t age = now - <int64_t>created
    if age < 0:
        if age < -clock_slack:
            return INT64_MIN
        age = 0
    return <int64_t>ttl - age


cdef inline uint64_t table_hash(const TableView *t, uint8_t kind, const uint8_t *key, uint32_t size) noexcept nogil:
    return siphash13(t.head.k0, t.head.k1, key, size) ^ (<uint64_t>kind * 0x9E3779B97F4A7C15ULL)


cdef inline bint read_is_consistent(const Hit *f) noexcept nogil:
    """Whether no writer has changed the bucket since `table_find`, so everything read since then is valid."""
    fence_reads()
    return atomic_get32(&f.bucket.sequence) == f.sequence


cdef extern from * nogil:
    """
    #define SLOT_PLACE 0xFFFFFFFFULL
    #define SLOT_TAG 0x1FFFFFFFULL
    #define SLOT_CLAIMED (1ULL << 61)
    #define SLOT_DISPLACED (1ULL << 62)
    #define SLOT_REFERENCED (1ULL << 63)
    #define STATE_SPLIT ((1ULL << 56) - 1)
    """
    const uint64_t PLACE "SLOT_PLACE"
    const uint64_t TAG "SLOT_TAG"
    const uint64_t CLAIMED "SLOT_CLAIMED"
    const uint64_t DISPLACED "SLOT_DISPLACED"
    const uint64_t REFERENCED "SLOT_REFERENCED"
    const uint64_t SPLIT_MASK "STATE_SPLIT"

cdef enum:
    LEVEL_SHIFT = 56


# --- layout -------------------------------------------------------------------------------------------------------

cdef inline uint64_t slot_tag(uint64_t h) noexcept nogil:
    return (h >> 12) & TAG


cdef inline uint32_t first_choice(uint64_t h) noexcept nogil:
    return <uint32_t>(h & (GROUP_BUCKETS - 1))


cdef inline uint32_t second_choice(uint64_t h) noexcept nogil:
    return first_choice(h) ^ (<uint32_t>((h >> 6) & (GROUP_BUCKETS - 1)) | 1)


cdef inline uint64_t group_number(uint64_t state, uint64_t h) noexcept nogil:
    cdef uint64_t level = state >> LEVEL_SHIFT
    cdef uint64_t tag = slot_tag(h)
    cdef uint64_t group = tag & ((1ULL << level) - 1)
    if group < (state & SPLIT_MASK):
        group = tag & ((2ULL << level) - 1)
    return group


cdef inline Bucket *group_at(const TableView *t, uint64_t group) noexcept nogil:
    return t.buckets + group * GROUP_BUCKETS


cdef inline Record *record_at(const TableView *t, uint64_t place) noexcept nogil:
    return <Record *>(t.ring + place * ARENA_UNIT)


cdef inline uint32_t key_size_of(const Record *r) noexcept nogil:
    return r.sizes & 0x0FFF


cdef inline uint64_t hash_of(const TableView *t, const Record *r) noexcept nogil:
    return table_hash(t, r.kind, <const uint8_t *>r + RECORD_HEAD, key_size_of(r))


cdef inline bint is_cleared(const TableView *t, uint64_t place) noexcept nogil:
    """Whether the record at `place` was written before the last `table_clear`. Read its slot before.

    The ring has the records from `cleared` to the head, and behind the head what is left of those before. A record that
    is overwritten after its slot was read may be taken for a newer one; the sequence of its bucket has changed then.
    """
    cdef uint64_t cleared = atomic_get64(&t.head.cleared)
    cdef uint64_t at = place * ARENA_UNIT
    cdef uint64_t begin
    if cleared == 0:
        return False
    begin = cleared % t.ring_size
    if at < begin:
        at += t.ring_size
    return at - begin >= atomic_get64(&t.arena.head) - cleared


cdef inline void write_begin(Bucket *b) noexcept nogil:
    atomic_put32(&b.sequence, b.sequence + 1)
    fence_writes()


cdef inline void write_end(Bucket *b) noexcept nogil:
    atomic_put32(&b.sequence, b.sequence + 1)


# --- readers ------------------------------------------------------------------------------------------------------

cdef void table_prefetch(const TableView *t, uint64_t h) noexcept nogil
cdef bint key_is_below(const uint8_t *key, uint32_t key_size, const uint8_t *name, uint32_t name_size,
                       bint subtree) noexcept nogil
cdef bint is_flushed(const TableView *t, const uint8_t *key, uint32_t key_size) noexcept nogil
cdef bint probe_bucket(const TableView *t, Bucket *b, uint64_t h, uint8_t kind, const uint8_t *key, uint32_t key_size,
                       Hit *f) noexcept nogil
cdef int table_find(TableView *t, uint64_t h, uint8_t kind, const uint8_t *key, uint32_t key_size,
                    Hit *f) noexcept nogil
cdef void table_touch(Hit *f) noexcept nogil
cdef bint table_claim_prefetch(uint64_t *slot, uint64_t value) noexcept nogil
cdef int read_attempts
