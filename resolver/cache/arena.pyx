"""The memory of the cache: one anonymous mapping, private to a process or shared by forked workers.

It contains no pointers; everything is addressed by its offset.
The larger part is a ring of records: new ones are written at its head, and old ones are evicted at its tail, unless the
table moves them to the head (the clock algorithm with entries of any size). A ring needs no size classes: it wastes at
most seven bytes per entry, and the memory of small entries can always be used for large ones. So an attacker who
chooses sizes and their order can neither exceed the limit nor make allocation impossible (CVE-2023-2828).
Locks are robust mutexes (pthread_mutexattr_setrobust). When a holder dies, also by kill -9, the kernel marks its
mutexes. The next process that takes such a mutex gets EOWNERDEAD and repairs what it protects. So no process ids, which
may be reused, are compared. A waiter gives up after a bounded time, because not caching is always permitted.
"""

cimport cython

from resolver import limits

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <pthread.h>
    #include <sched.h>
    #include <string.h>
    #include <sys/mman.h>
    #include <time.h>

    #if defined(__x86_64__) || defined(__i386__)
    #define cpu_relax() __builtin_ia32_pause()
    #elif defined(__aarch64__)
    #define cpu_relax() __asm__ __volatile__("yield")
    #else
    #define cpu_relax() ((void)0)
    #endif

    static int mutex_make(CacheLock *lock) {
        pthread_mutexattr_t kind;
        int rc = pthread_mutexattr_init(&kind);
        if (rc) return rc;
        rc = pthread_mutexattr_setpshared(&kind, PTHREAD_PROCESS_SHARED);
        if (!rc) rc = pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST);
        memset(lock, 0, sizeof *lock);
        if (!rc) rc = pthread_mutex_init(&lock->mutex, &kind);
        pthread_mutexattr_destroy(&kind);
        return rc;
    }
    static int mutex_try(CacheLock *lock) { return pthread_mutex_trylock(&lock->mutex); }
    static int mutex_make_consistent(CacheLock *lock) { return pthread_mutex_consistent(&lock->mutex); }
    static void mutex_release(CacheLock *lock) { pthread_mutex_unlock(&lock->mutex); }
    static void short_sleep(void) { struct timespec t = {0, 100000}; nanosleep(&t, 0); }
    static void *map_memory(size_t size, int shared) {
        int flags = (shared ? MAP_SHARED : MAP_PRIVATE) | MAP_ANONYMOUS | MAP_NORESERVE;
        void *p = mmap(0, size, PROT_READ | PROT_WRITE, flags, -1, 0);
        return p == MAP_FAILED ? 0 : p;
    }
    """
    void cpu_relax()
    int mutex_make(CacheLock *lock)
    int mutex_try(CacheLock *lock)
    int mutex_make_consistent(CacheLock *lock)
    void mutex_release(CacheLock *lock)
    void short_sleep()
    void *map_memory(size_t size, bint shared)
    int sched_yield()
    int munmap(void *p, size_t size)
    int EOWNERDEAD

cdef extern from "Python.h":
    object PyErr_SetFromErrno(object kind)

cdef uint64_t LARGEST_RECORD = 1 << 17          # 14 of the 16 bits for a record's length, in units
cdef uint32_t SPINS = limits.ARENA_LOCK_SPINS
cdef uint32_t YIELDS = limits.ARENA_LOCK_YIELDS
cdef uint32_t NAPS = limits.ARENA_LOCK_NAPS


# ---------------------------------------------------------------------------------------------------------- locks

cdef int lock_make(CacheLock *lock) noexcept nogil:
    """Initialise a mutex in unused memory. Returns 0, or an error number when the system has no robust mutexes."""
    return mutex_make(lock)


cdef int lock_take(CacheLock *lock) noexcept nogil:
    """Take a lock. Returns LOCK_CLEAN, LOCK_INHERITED (repair first), or LOCK_BUSY after a bounded wait."""
    cdef uint32_t attempt
    cdef int rc
    for attempt in range(SPINS + YIELDS + NAPS):
        rc = mutex_try(lock)
        if rc == 0:
            return LOCK_CLEAN
        if rc == EOWNERDEAD:
            # If this process dies before the release, the mutex is marked again.
            return LOCK_INHERITED if mutex_make_consistent(lock) == 0 else LOCK_BUSY
        if attempt < SPINS:
            cpu_relax()
        elif attempt < SPINS + YIELDS:
            sched_yield()
        else:
            short_sleep()
    return LOCK_BUSY


cdef void lock_release(CacheLock *lock) noexcept nogil:
    mutex_release(lock)


# -------------------------------------------------------------------------------------------------------- mapping

@cython.final
cdef class Arena:
    """One mapping of `size_bytes` bytes; `Table` creates the table inside it.

    With `shared`, processes forked later use the same memory; otherwise each gets its own copy. A page takes memory
    when it is first written, so an empty arena takes a few pages, whatever its size.

    Raises:
        ValueError: the size is outside `limits.ARENA_BYTES`.
        OSError: the memory cannot be mapped, or the system has no robust mutexes.
    """

    def __cinit__(self, size_bytes: int, *, shared: bool = False) -> None:
        cdef uint64_t size = limits.ARENA_BYTES.check(size_bytes, "cache size")
        size -= size % ARENA_PAGE
        self.size = size
        self.base = <uint8_t *>map_memory(size, shared)
        if self.base is NULL:
            PyErr_SetFromErrno(OSError)
        self.header = <ArenaHeader *>self.base
        lay_out(self.header, size)
        if lock_make(&self.header.lock) != 0:
            raise OSError("this system has no robust mutexes shared by processes")

    def __dealloc__(self) -> None:
        if self.base is not NULL:
            munmap(self.base, self.size)

    @property
    def ring_size(self) -> int:
        """Size of the ring of records (bytes)."""
        return self.header.ring_size

    @property
    def ring_used(self) -> int:
        """Bytes from the oldest record to the end of the newest; never more than `ring_size`."""
        return self.header.head - self.header.tail


cdef inline uint64_t round_up(uint64_t value, uint64_t unit) noexcept nogil:
    return (value + unit - 1) / unit * unit


cdef void lay_out(ArenaHeader *h, uint64_t size) noexcept:
    """Fill the zeroed header. The table comes first, then the scratch record; the ring takes the rest."""
    cdef uint64_t share = <uint64_t><int>limits.ARENA_TABLE_SHARE
    cdef uint64_t entry_share = <uint64_t><int>limits.ARENA_ENTRY_SHARE
    h.root_offset = ARENA_PAGE
    h.root_size = max(round_up(size / share, ARENA_PAGE), <uint64_t>(4 * ARENA_PAGE))
    h.scratch_offset = h.root_offset + h.root_size
    h.scratch_size = round_up(min(LARGEST_RECORD, (size - h.scratch_offset) / (entry_share + 1)), ARENA_UNIT)
    h.ring_offset = round_up(h.scratch_offset + h.scratch_size, ARENA_PAGE)
    h.ring_size = size - h.ring_offset
