# C interface of the arena: the mapping, the ring of records in it, and robust mutexes shared by processes.
# Everything is addressed by offsets from `base`.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from * nogil:
    """
    #ifndef RESOLVER_CACHE_ATOMICS
    #define RESOLVER_CACHE_ATOMICS
    #include <stdint.h>
    static inline uint32_t atomic_get32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline uint64_t atomic_get64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void atomic_put32(uint32_t *p, uint32_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void atomic_put64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void atomic_add64(int64_t *p, int64_t v) { __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }
    static inline int atomic_swap64(uint64_t *p, uint64_t seen, uint64_t v) {
        return __atomic_compare_exchange_n(p, &seen, v, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
    static inline void fence_reads(void) { __atomic_thread_fence(__ATOMIC_ACQUIRE); }
    static inline void fence_writes(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }
    static inline void prefetch_line(const void *p) { __builtin_prefetch(p, 0, 3); }
    #endif
    #ifndef RESOLVER_CACHE_LOCK
    #define RESOLVER_CACHE_LOCK
    #include <pthread.h>
    typedef struct { pthread_mutex_t mutex; } CacheLock;
    #endif
    """
    ctypedef struct CacheLock:
        pass
    uint32_t atomic_get32(const uint32_t *p)
    uint64_t atomic_get64(const uint64_t *p)
    void atomic_put32(uint32_t *p, uint32_t v)
    void atomic_put64(uint64_t *p, uint64_t v)
    void atomic_add64(int64_t *p, int64_t v)
    int atomic_swap64(uint64_t *p, uint64_t seen, uint64_t v)
    void fence_reads()
    void fence_writes()
    void prefetch_line(const void *p)

cdef enum:
    ARENA_UNIT = 8              # records start at multiples of this; offsets are counted in it
    ARENA_PAGE = 4096
    LOCK_CLEAN = 0              # taken
    LOCK_INHERITED = 1          # taken; its holder died, so the protected data may be half-written
    LOCK_BUSY = -1              # not taken

# The first page of the mapping. Positions in the ring only grow; a position modulo `ring_size` is an offset in it. Each
# is changed by one aligned store, in an order that leaves the ring readable wherever its writer dies.
ctypedef struct ArenaHeader:
    uint64_t root_offset        # offset of the table's header
    uint64_t root_size
    uint64_t scratch_offset     # buffer for one record that is moved from the tail to the head
    uint64_t scratch_size
    uint64_t ring_offset
    uint64_t ring_size          # bytes, a multiple of ARENA_UNIT
    uint64_t head               # position of the next record
    uint64_t tail               # position of the oldest record
    CacheLock lock              # protects head, tail, scratch and growth

cdef int lock_make(CacheLock *lock) noexcept nogil
cdef int lock_take(CacheLock *lock) noexcept nogil
cdef void lock_release(CacheLock *lock) noexcept nogil

cdef class Arena:
    cdef uint8_t *base
    cdef readonly uint64_t size     # bytes of the whole mapping
    cdef ArenaHeader *header
