"""Changes of the table: under locks shared by processes, in steps from which another process can continue.

A writer locks a group of 64 buckets (both buckets of an entry are in the same group, so one lock is enough). When it
needs space in the ring, it takes the arena's lock first. Groups are split one by one as the number of entries grows, so
a nearly empty cache touches little memory and no insertion rehashes everything.
Eviction happens during the insertion that needs the space: the oldest record is removed, unless it was used since it
was written or last moved; then it is moved to the head, a limited number of times per insertion.
A writer may be killed at any point: positions of the ring change after the bytes that they cover, and a slot is written
last. The process that takes over the lock of a dead one empties the half-written buckets. Losing entries is permitted;
returning wrong ones is not.

**Clearing** takes the same time whatever the cache holds: the position of the ring's head is noted (`cleared`), and
records before it are not found any more. They keep their slots and their memory until the tail passes them or an
insertion needs the slot. They get no second chance. When the tail has passed the position, it is set to zero. Positions
of the ring do not wrap: they have 64 bits. The position is stored before the serial changes: a process that reads the
new serial finds none of the entries, so no data is derived from them under that serial. If a process dies between the
two, its lock is inherited before anything else is written to the ring, and the heir completes the clear.
"""

from libc.string cimport memcpy, memset

from resolver.cache.arena cimport (
    ARENA_UNIT, LOCK_BUSY, LOCK_INHERITED, atomic_add64, atomic_get32, atomic_get64, atomic_put32, atomic_put64, lock_make,
    lock_release, lock_take,
)
from resolver.cache.lookup cimport (
    BUCKET_SLOTS, CLAIMED, DISPLACED, FLUSHES, GROUP_BUCKETS, KEY_LIMIT, KIND_FILLER, KINDS, LEVEL_SHIFT, PLACE, RECORD_HEAD,
    REFERENCED, SPLIT_MASK, Bucket, Flush, Hit, Record, TableView, first_choice, group_at, group_number, hash_of, is_cleared,
    probe_bucket, read_attempts, record_at, remaining, second_choice, slot_tag, write_begin, write_end,
)

from resolver import limits

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <signal.h>
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    #include <unistd.h>

    /* Start time of the process in ticks since boot (proc(5), field 22 of stat); 0 when it is a zombie, or when that is
       unknown: no /proc, or no descriptor to read it. */
    static uint64_t process_start(uint32_t pid, int *dead) {
        char path[32], text[1024], *at;
        ssize_t got;
        int fd, field;
        *dead = 0;
        snprintf(path, sizeof path, "/proc/%u/stat", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) return 0;
        got = read(fd, text, sizeof text - 1);
        close(fd);
        if (got <= 0) return 0;
        text[got] = 0;
        at = strrchr(text, ')');            /* the command's name may contain anything, also parentheses */
        if (!at || at[1] != ' ') return 0;
        if (at[2] == 'Z' || at[2] == 'X') { *dead = 1; return 0; }
        for (field = 2; at && field < 22; field++) at = strchr(at + 1, ' ');
        return at ? strtoull(at + 1, 0, 10) : 0;
    }
    /* Whether the process that started at `started` (0: unknown) has ended. If the start time is unknown, only the PID
       counts: a later process with the same PID then keeps a flush alive, but no living process loses its flush. */
    static int process_is_gone(uint32_t pid, uint64_t started) {
        int dead;
        uint64_t now;
        if (kill((pid_t)pid, 0) < 0 && errno == ESRCH) return 1;
        now = process_start(pid, &dead);
        return dead || (started && now && now != started);
    }
    static inline void flush_clear(uint32_t *at, uint32_t bits) { __atomic_fetch_and(at, ~bits, __ATOMIC_SEQ_CST); }
    static inline uint16_t table_count_down(uint16_t n) { return n ? (uint16_t)(n - 1) : 0; }
    static inline uint16_t table_count_up(uint16_t n) { return n < 65535 ? (uint16_t)(n + 1) : n; }
    """
    uint64_t process_start(uint32_t pid, int *dead)
    bint process_is_gone(uint32_t pid, uint64_t started)
    void flush_clear(uint32_t *at, uint32_t bits)
    int getpid()
    uint16_t table_count_down(uint16_t n)
    uint16_t table_count_up(uint16_t n)

cdef int64_t LOAD_LOW = limits.TABLE_LOAD_LOW
cdef int64_t LOAD_HIGH = limits.TABLE_LOAD_HIGH
cdef int REPRIEVES = limits.TABLE_SECOND_CHANCES
cdef uint32_t OWNER_CHECK = limits.FLUSH_OWNER_CHECK

# Number of entries that this process has stored while flushes were in progress.
cdef uint32_t flushed_stores = 0


# ------------------------------------------------------------------------------------------------- locks, repairs

cdef int lock_group(TableView *t, uint64_t group) noexcept nogil:
    cdef int rc = lock_take(&t.locks[group])
    if rc == LOCK_BUSY:
        atomic_add64(&t.head.busy, 1)
        return PUT_BUSY
    if rc == LOCK_INHERITED:
        repair_group(t, group)
    return 0


cdef void repair_group(TableView *t, uint64_t group) noexcept nogil:
    """Empty the buckets that the dead writer was changing, because they may be inconsistent."""
    cdef Bucket *b = group_at(t, group)
    cdef int i
    for i in range(GROUP_BUCKETS):
        if b[i].sequence & 1:
            forget_bucket(t, &b[i])
            write_end(&b[i])
    atomic_add64(&t.head.repaired, 1)


cdef void forget_bucket(TableView *t, Bucket *b) noexcept nogil:
    cdef uint64_t place
    cdef uint8_t kind
    cdef int i
    for i in range(BUCKET_SLOTS):
        place = b.slots[i] & PLACE
        if place != 0:
            kind = record_at(t, place - 1).kind         # may be wrong: the ring may have been overwritten since
            if kind < KINDS:
                count_out(t, place - 1, kind)
            atomic_put64(&b.slots[i], 0)
    b.displaced = 0


cdef inline void count_out(TableView *t, uint64_t place, uint8_t kind) noexcept nogil:
    """The entry whose record is at `place` leaves the table."""
    atomic_add64(&t.head.entries[kind], -1)
    if is_cleared(t, place):
        atomic_add64(&t.head.hidden[kind], -1)


cdef int64_t hide_everything(TableView *t) noexcept nogil:
    """Let no reader find an entry that is in the table now. The arena's lock is held. Returns the number of entries.

    A second call changes nothing while nothing is written to the ring. An entry that another process removes meanwhile
    may stay in the count of those that are found until `cleared` is zero again; the order of the reads excludes a
    negative count.
    """
    cdef int64_t gone = 0
    cdef int64_t hidden, found
    cdef int i
    atomic_put64(&t.head.cleared, t.arena.head)
    for i in range(KINDS):
        hidden = atomic_get64(<uint64_t *>&t.head.hidden[i])
        found = atomic_get64(<uint64_t *>&t.head.entries[i]) - hidden
        atomic_add64(&t.head.hidden[i], found)
        atomic_add64(&t.head.dropped[i], found)
        gone += found
    return gone


cdef void advance_serial(TableView *t) noexcept nogil:
    """Refuse the results of queries that have begun before. The arena's lock is held."""
    atomic_put32(&t.head.serial, t.head.serial + 1 if t.head.serial + 1 else 1)


cdef void start_flush(Flush *flush) noexcept nogil:
    """Record this process as the owner of `flush`."""
    cdef int dead
    flush.owner = <uint32_t>getpid()
    flush.started = process_start(flush.owner, &dead)


cdef void release_dead_flushes(TableView *t) noexcept nogil:
    """End the flushes of processes that have ended, so that their entries are found again. The arena's lock is held."""
    cdef int i
    for i in range(FLUSHES):
        if (t.head.flushing >> i) & 1 and process_is_gone(t.head.flushes[i].owner, t.head.flushes[i].started):
            # Atomic: other flushes end without the lock, so only this bit may change.
            flush_clear(&t.head.flushing, <uint32_t>1 << i)
            atomic_add64(&t.head.repaired, 1)


cdef int lock_arena(TableView *t) noexcept nogil:
    """Take the arena's lock. The ring is consistent wherever its writer died, so it needs no repair."""
    cdef int rc = lock_take(&t.arena.lock)
    if rc == LOCK_BUSY:
        atomic_add64(&t.head.busy, 1)
        return PUT_BUSY
    if rc == LOCK_INHERITED:
        if t.head.cleared == t.arena.head:              # the writer may have died in `table_clear`: complete it
            hide_everything(t)
            advance_serial(t)
        atomic_add64(&t.head.repaired, 1)
    return 0


# ---------------------------------------------------------------------------------------------- inside a group lock

cdef uint64_t *slot_of_key(const TableView *t, Bucket *group, uint64_t h, uint8_t kind, const uint8_t *key,
                           uint32_t key_size, Bucket **where) noexcept nogil:
    cdef Hit f
    where[0] = group + first_choice(h)
    if probe_bucket(t, where[0], h, kind, key, key_size, &f):
        return f.slot
    if where[0].displaced:
        where[0] = group + second_choice(h)
        if probe_bucket(t, where[0], h, kind, key, key_size, &f):
            return f.slot
    return NULL


cdef uint64_t *slot_of_place(Bucket *group, uint64_t h, uint64_t place, Bucket **where) noexcept nogil:
    cdef int side, i
    for side in range(2):
        where[0] = group + (second_choice(h) if side else first_choice(h))
        for i in range(BUCKET_SLOTS):
            if (where[0].slots[i] & PLACE) == place + 1:
                return &where[0].slots[i]
    return NULL


cdef void clear_slot(TableView *t, Bucket *group, uint64_t h, Bucket *b, uint64_t *slot) noexcept nogil:
    """Remove an entry from the table. Its record stays in the ring, unused, until the tail passes it."""
    cdef Bucket *first = group + first_choice(h)
    cdef uint64_t place = (slot[0] & PLACE) - 1
    if slot[0] & DISPLACED:
        first.displaced = table_count_down(first.displaced)
    write_begin(b)
    atomic_put64(slot, 0)
    write_end(b)
    count_out(t, place, record_at(t, place).kind)


cdef inline bint is_alive(const TableView *t, const uint64_t *slot, int64_t now) noexcept nogil:
    """Whether the entry is neither expired nor cleared."""
    cdef uint64_t place = (slot[0] & PLACE) - 1
    cdef const Record *r = record_at(t, place)
    return remaining(now, r.created, r.ttl) > 0 and not is_cleared(t, place)


cdef void evict(TableView *t, Bucket *group, uint64_t h, Bucket *b, uint64_t *slot, int64_t now) noexcept nogil:
    """Remove an entry for want of space, and count it; one that was cleared has been counted."""
    cdef uint64_t place = (slot[0] & PLACE) - 1
    cdef uint8_t kind = record_at(t, place).kind
    if is_alive(t, slot, now):
        atomic_add64(&t.head.evicted[kind], 1)
    elif not is_cleared(t, place):
        atomic_add64(&t.head.expired[kind], 1)
    clear_slot(t, group, h, b, slot)


cdef uint64_t *displace(TableView *t, Bucket *group, uint64_t h, Bucket **where) noexcept nogil:
    """Both buckets are full: move one of their entries to its other bucket if that has a free slot. Returns the slot
    that it had, or NULL.

    A reader that is between the two buckets may miss the moved entry once; it cannot find a wrong one.
    """
    cdef int probe, i
    cdef Bucket *b
    cdef Bucket *other
    cdef Bucket *first
    cdef uint64_t *slot
    cdef uint64_t moved, other_hash
    for probe in range(2 * BUCKET_SLOTS):
        b = group + (second_choice(h) if probe >= BUCKET_SLOTS else first_choice(h))
        slot = &b.slots[probe % BUCKET_SLOTS]
        other_hash = hash_of(t, record_at(t, (slot[0] & PLACE) - 1))
        first = group + first_choice(other_hash)
        other = group + second_choice(other_hash) if b == first else first
        for i in range(BUCKET_SLOTS):
            if other.slots[i] & PLACE != 0:
                continue
            moved = slot[0]
            write_begin(other)
            write_begin(b)
            if b == first:
                first.displaced = table_count_up(first.displaced)
                moved |= DISPLACED
            else:
                first.displaced = table_count_down(first.displaced)
                moved &= ~DISPLACED
            atomic_put64(&other.slots[i], moved)
            atomic_put64(slot, 0)
            write_end(b)
            write_end(other)
            where[0] = b
            return slot
    return NULL


cdef uint64_t *free_slot(TableView *t, Bucket *group, uint64_t h, int64_t now, Bucket **where) noexcept nogil:
    """Return a free slot, in the second bucket when the first is nearly full; else that of an entry that is expired or
    cleared, else that of one not used recently."""
    cdef int side, i, probe
    cdef int free_slots[2]
    cdef uint64_t *free[2]
    cdef Bucket *b
    cdef uint64_t *slot
    cdef uint64_t *victim = NULL
    cdef Bucket *victim_bucket = NULL
    for side in range(2):
        b = group + (second_choice(h) if side else first_choice(h))
        free_slots[side] = 0
        free[side] = NULL
        for i in range(BUCKET_SLOTS):
            if b.slots[i] & PLACE == 0:
                free[side] = &b.slots[i]
                free_slots[side] += 1
        if side == 0 and free_slots[0] > 1:
            break                                       # so that most misses read one cache line
    if free_slots[0]:
        side = 0 if free_slots[0] > 1 or free_slots[0] >= free_slots[1] else 1
    else:
        side = 1
    if free_slots[side]:
        where[0] = group + (second_choice(h) if side else first_choice(h))
        return free[side]
    slot = displace(t, group, h, where)
    if slot is not NULL:
        return slot
    for probe in range(2 * BUCKET_SLOTS):
        b = group + (second_choice(h) if probe >= BUCKET_SLOTS else first_choice(h))
        b.clock_hand = (b.clock_hand + 1) % BUCKET_SLOTS
        slot = &b.slots[b.clock_hand]
        if not is_alive(t, slot, now):
            victim, victim_bucket = slot, b
            break
        if slot[0] & REFERENCED:
            atomic_put64(slot, slot[0] & ~REFERENCED)
        elif victim is NULL:
            victim, victim_bucket = slot, b
    if victim is NULL:
        b = group + first_choice(h)
        victim, victim_bucket = &b.slots[b.clock_hand], b
    evict(t, group, hash_of(t, record_at(t, (victim[0] & PLACE) - 1)), victim_bucket, victim, now)
    where[0] = victim_bucket
    return victim


# ----------------------------------------------------------------------------------------- inside the arena's lock

cdef int split_group(TableView *t) noexcept nogil:
    """Move half of the next group's entries to a new group. Readers that found nothing in the old group retry when the
    state has changed."""
    cdef uint64_t state = t.head.state
    cdef uint64_t level = state >> LEVEL_SHIFT
    cdef uint64_t old = state & SPLIT_MASK
    cdef uint64_t new = old + (1ULL << level)
    cdef Bucket *a
    cdef Bucket *b
    cdef int i, j
    if new >= t.head.maximum_groups or lock_group(t, old) < 0:
        return PUT_BUSY
    a = group_at(t, old)
    b = group_at(t, new)
    # What a dead writer left in the new group has no effect until the state changes. The old group's buckets are closed
    # before that: from then on only the sequence of its new bucket protects a record.
    for i in range(GROUP_BUCKETS):
        memset(&b[i].slots[0], 0, sizeof(b[i].slots))
        b[i].sequence = (b[i].sequence + 1) & ~<uint32_t>1
        b[i].displaced = a[i].displaced
        for j in range(BUCKET_SLOTS):
            if a[i].slots[j] & PLACE != 0 and (a[i].slots[j] >> 32) & (1ULL << level):
                b[i].slots[j] = a[i].slots[j]
    if lock_make(&t.locks[new]) != 0:
        lock_release(&t.locks[old])
        return PUT_BUSY
    for i in range(GROUP_BUCKETS):
        write_begin(&a[i])
    state = (level << LEVEL_SHIFT) | (old + 1)
    if old + 1 == 1ULL << level:
        state = (level + 1) << LEVEL_SHIFT
    atomic_put64(&t.head.state, state)
    for i in range(GROUP_BUCKETS):
        for j in range(BUCKET_SLOTS):
            if a[i].slots[j] & PLACE != 0 and (a[i].slots[j] >> 32) & (1ULL << level):
                atomic_put64(&a[i].slots[j], 0)
        write_end(&a[i])
    lock_release(&t.locks[old])
    return 0


cdef void grow(TableView *t) noexcept nogil:
    """Split groups as the number of entries grows: the first at the low mark, all of a level until the high mark."""
    cdef uint64_t state, level
    cdef int64_t total = 0
    cdef int64_t load
    cdef int i, _attempt
    for i in range(KINDS):
        total += t.head.entries[i]
    for _attempt in range(4):
        state = t.head.state
        level = state >> LEVEL_SHIFT
        load = total * 100 / (<int64_t>(1ULL << level) * GROUP_BUCKETS * BUCKET_SLOTS) - LOAD_LOW
        if load <= 0 or <int64_t>(state & SPLIT_MASK) * (LOAD_HIGH - LOAD_LOW) >= load << level:
            return
        if split_group(t) < 0:
            return


cdef inline void pad_to_end(TableView *t, uint64_t place, uint64_t size) noexcept nogil:
    cdef Record *r = <Record *>(t.ring + place)
    r.units = <uint16_t>(size / ARENA_UNIT)
    r.sizes = 0
    r.kind = KIND_FILLER
    atomic_put64(&t.arena.head, t.arena.head + size)


cdef int evict_oldest(TableView *t, int64_t now, int *second_chances) noexcept nogil:
    """Advance the tail by one record: evict it, or move it to the head when it was used."""
    cdef uint64_t place = t.arena.tail % t.ring_size
    cdef Record *r = <Record *>(t.ring + place)
    cdef uint64_t size = <uint64_t>r.units * ARENA_UNIT
    cdef uint64_t h, group, target, gap
    cdef uint64_t *slot
    cdef Bucket *b = NULL
    cdef Bucket *buckets
    if r.kind == KIND_FILLER:
        atomic_put64(&t.arena.tail, t.arena.tail + size)
        return 0
    h = hash_of(t, r)
    group = group_number(t.head.state, h)
    if lock_group(t, group) < 0:
        return PUT_BUSY
    buckets = group_at(t, group)
    slot = slot_of_place(buckets, h, place / ARENA_UNIT, &b)
    if slot is NULL:
        atomic_put64(&t.arena.tail, t.arena.tail + size)
        lock_release(&t.locks[group])
        return 0
    if (not is_alive(t, slot, now) or not slot[0] & REFERENCED or second_chances[0] <= 0
            or size > t.arena.scratch_size):
        evict(t, buckets, h, b, slot, now)
        atomic_put64(&t.arena.tail, t.arena.tail + size)
        lock_release(&t.locks[group])
        return 0
    second_chances[0] -= 1
    # There is always space. When the head is a lap ahead, it is at or before the tail's offset, so the record fits
    # without a gap. Otherwise the next lap is free up to the tail, even when this one ends in a gap.
    target = t.arena.head % t.ring_size
    gap = t.ring_size - target if target + size > t.ring_size else 0
    # Source and target may overlap, so the tail advances before the head does: the record is copied in between.
    write_begin(b)
    memcpy(t.ring - t.arena.ring_offset + t.arena.scratch_offset, r, size)
    atomic_put64(&t.arena.tail, t.arena.tail + size)
    if gap:
        pad_to_end(t, target, gap)
        target = 0
    memcpy(t.ring + target, t.ring - t.arena.ring_offset + t.arena.scratch_offset, size)
    atomic_put64(&t.arena.head, t.arena.head + size)
    atomic_put64(slot, (slot[0] & ~(PLACE | REFERENCED)) | (target / ARENA_UNIT + 1))
    write_end(b)
    lock_release(&t.locks[group])
    atomic_add64(&t.head.carried, 1)
    return 0


cdef int make_space(TableView *t, uint64_t size, int64_t now, uint64_t *place) noexcept nogil:
    """Evict old records until `size` contiguous bytes are free at the head."""
    cdef int second_chances = REPRIEVES
    cdef uint64_t _step, target, gap
    for _step in range(2 * t.ring_size / ARENA_UNIT):
        target = t.arena.head % t.ring_size
        gap = t.ring_size - target if target + size > t.ring_size else 0
        if t.arena.head + gap + size - t.arena.tail <= t.ring_size:
            if t.arena.tail >= t.head.cleared and t.head.cleared != 0:
                memset(&t.head.hidden[0], 0, sizeof(t.head.hidden))
                atomic_put64(&t.head.cleared, 0)
            if gap:
                pad_to_end(t, target, gap)
                target = 0
            place[0] = target
            return 0
        if evict_oldest(t, now, &second_chances) < 0:
            return PUT_BUSY
    return PUT_BUSY


# -------------------------------------------------------------------------------------------------------- writers

cdef inline void write_value(Record *r, uint32_t key_size, const Slice *pieces, int count, uint32_t value_size,
                             int64_t now, uint32_t ttl, uint8_t meta, uint16_t aux) noexcept nogil:
    cdef uint8_t *at = <uint8_t *>r + RECORD_HEAD + key_size
    cdef uint32_t padding = <uint32_t>r.units * ARENA_UNIT - RECORD_HEAD - key_size - value_size
    cdef int i
    r.sizes = <uint16_t>(key_size | (padding << 12))
    r.meta = meta
    r.aux = aux
    r.created = <uint32_t>now
    r.ttl = ttl
    for i in range(count):
        if pieces[i].size:
            memcpy(at, pieces[i].data, pieces[i].size)
            at += pieces[i].size


cdef inline bint may_replace(const Record *r, int64_t now, uint32_t *ttl, uint8_t meta, int flags) noexcept nogil:
    cdef int64_t left = remaining(now, r.created, r.ttl)
    if left <= 0:
        return True
    if flags & PUT_RANKED and (r.meta & 15) > (meta & 15):
        return False
    if flags & PUT_NOT_LONGER and left < <int64_t>ttl[0]:
        ttl[0] = <uint32_t>left
    return True


cdef inline bint is_outdated(const TableView *t, uint32_t serial) noexcept nogil:
    return serial != 0 and serial != atomic_get32(&t.head.serial)


cdef int table_put(TableView *t, uint64_t h, uint8_t kind, const uint8_t *key, uint32_t key_size, const Slice *pieces,
                   int count, int64_t now, uint32_t ttl, uint8_t meta, uint16_t aux, int flags,
                   uint32_t age=0, uint32_t serial=0) noexcept nogil:
    """Store an entry whose value is the concatenated pieces, as if `age` seconds ago. Returns a PUT_ code.

    `serial` is the table's serial when the query began: the entry is refused when a flush has changed it. 0: no check.
    """
    global flushed_stores
    cdef uint64_t value_size = 0
    cdef uint64_t size, group, place = 0
    cdef uint64_t *slot
    cdef Bucket *b = NULL
    cdef Bucket *buckets
    cdef Record *r
    cdef int i, rc
    for i in range(count):
        value_size += pieces[i].size
    size = (RECORD_HEAD + key_size + value_size + ARENA_UNIT - 1) / ARENA_UNIT * ARENA_UNIT
    if size > t.arena.scratch_size or key_size > KEY_LIMIT:
        return PUT_TOO_LARGE

    # Most writes replace an entry by one of the same size: in place, under the group's lock alone.
    group = group_number(atomic_get64(&t.head.state), h)
    if lock_group(t, group) < 0:
        return PUT_BUSY
    if group == group_number(atomic_get64(&t.head.state), h):
        slot = slot_of_key(t, group_at(t, group), h, kind, key, key_size, &b)
        if slot is not NULL:
            r = record_at(t, (slot[0] & PLACE) - 1)
            if is_outdated(t, serial) or not may_replace(r, now, &ttl, meta, flags):
                lock_release(&t.locks[group])
                atomic_add64(&t.head.refused, 1)
                return PUT_REFUSED
            if <uint64_t>r.units * ARENA_UNIT == size:
                write_begin(b)
                write_value(r, key_size, pieces, count, <uint32_t>value_size, now - age, ttl, meta, aux)
                atomic_put64(slot, slot[0] & ~CLAIMED)
                write_end(b)
                lock_release(&t.locks[group])
                atomic_add64(&t.head.stored[kind], 1)
                return PUT_STORED
    lock_release(&t.locks[group])

    if is_outdated(t, serial):
        atomic_add64(&t.head.refused, 1)
        return PUT_REFUSED
    if lock_arena(t) < 0:
        return PUT_BUSY
    if t.head.flushing != 0:
        flushed_stores += 1
        if flushed_stores % OWNER_CHECK == 0:
            release_dead_flushes(t)
    grow(t)
    if make_space(t, size, now, &place) < 0:
        lock_release(&t.arena.lock)
        return PUT_BUSY
    r = <Record *>(t.ring + place)
    r.units = <uint16_t>(size / ARENA_UNIT)
    r.kind = kind
    memcpy(<uint8_t *>r + RECORD_HEAD, key, key_size)
    write_value(r, key_size, pieces, count, <uint32_t>value_size, now - age, ttl, meta, aux)
    atomic_put64(&t.arena.head, t.arena.head + size)

    # The arena's lock stays held: without it the tail could pass the record before its slot is written.
    group = group_number(t.head.state, h)
    if lock_group(t, group) < 0:
        lock_release(&t.arena.lock)
        return PUT_BUSY
    buckets = group_at(t, group)
    rc = PUT_STORED
    slot = slot_of_key(t, buckets, h, kind, key, key_size, &b)
    if is_outdated(t, serial):                          # checked under the lock, so that a sweep finds the entry
        rc = PUT_REFUSED
    elif slot is not NULL:
        if not may_replace(record_at(t, (slot[0] & PLACE) - 1), now, &r.ttl, meta, flags):
            rc = PUT_REFUSED
        else:
            write_begin(b)
            atomic_put64(slot, (slot[0] & ~(PLACE | CLAIMED)) | (place / ARENA_UNIT + 1))
            write_end(b)
    else:
        slot = free_slot(t, buckets, h, now, &b)
        write_begin(b)
        place = (slot_tag(h) << 32) | (place / ARENA_UNIT + 1)
        if b != buckets + first_choice(h):
            buckets[first_choice(h)].displaced = table_count_up(buckets[first_choice(h)].displaced)
            place |= DISPLACED
        atomic_put64(slot, place)
        write_end(b)
        atomic_add64(&t.head.entries[kind], 1)
    lock_release(&t.locks[group])
    lock_release(&t.arena.lock)
    if rc == PUT_STORED:
        atomic_add64(&t.head.stored[kind], 1)
    else:
        atomic_add64(&t.head.refused, 1)
    return rc


cdef int table_drop(TableView *t, uint64_t h, uint8_t kind, const uint8_t *key, uint32_t key_size) noexcept nogil:
    """Drop an entry: 1 when it existed, 0 when there was none, PUT_BUSY when its lock cannot be taken."""
    cdef uint64_t group
    cdef uint64_t *slot
    cdef Bucket *b = NULL
    cdef int _attempt
    for _attempt in range(read_attempts):
        group = group_number(atomic_get64(&t.head.state), h)
        if lock_group(t, group) < 0:
            return PUT_BUSY
        if group != group_number(atomic_get64(&t.head.state), h):
            lock_release(&t.locks[group])
            continue
        slot = slot_of_key(t, group_at(t, group), h, kind, key, key_size, &b)
        if slot is not NULL:
            clear_slot(t, group_at(t, group), h, b, slot)
            atomic_add64(&t.head.dropped[kind], 1)
        lock_release(&t.locks[group])
        return slot is not NULL
    return PUT_BUSY


cdef int64_t table_clear(TableView *t) noexcept nogil:
    """Drop all entries in one step. Returns their number, or PUT_BUSY."""
    cdef int64_t gone
    if lock_arena(t) < 0:
        return PUT_BUSY
    gone = hide_everything(t)
    advance_serial(t)
    lock_release(&t.arena.lock)
    return gone
