"""The memory of the cache: one mapping, private, shared by forked workers, or kept in a file.

Nothing in it is a pointer; everything is found by its offset, so the same bytes serve any process at any address.
The larger part is a ring of records: new ones are written at its head and old ones leave at its tail, where the table
decides what deserves another round (this is the clock algorithm with entries of any size). A ring needs no size
classes, so it wastes at most seven bytes an entry, and memory freed by small entries always serves large ones: an
adversary who chooses sizes and their order can neither pass the limit nor wedge the allocator (CVE-2023-2828).
Locks are robust mutexes (pthread_mutexattr_setrobust). When a holder dies, also by kill -9, the kernel marks its mutexes;
the next one who takes such a mutex is told and repairs what it protects. So no process id is compared, which another
process may have by then. A waiter that finds the holder merely slow gives up after a bounded time, since not caching is
always permitted.
"""

cimport cython
from libc.string cimport memcmp, memset

from resolver import limits

cdef extern from * nogil:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <pthread.h>
    #include <sched.h>
    #include <string.h>
    #include <sys/file.h>
    #include <sys/mman.h>
    #include <sys/stat.h>
    #include <time.h>
    #include <unistd.h>

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
    static int mutex_mend(CacheLock *lock) { return pthread_mutex_consistent(&lock->mutex); }
    static void mutex_release(CacheLock *lock) { pthread_mutex_unlock(&lock->mutex); }
    static void nap(void) { struct timespec t = {0, 100000}; nanosleep(&t, 0); }
    static void *map_memory(size_t size, int flags, int fd) {
        void *p = mmap(0, size, PROT_READ | PROT_WRITE, flags, fd, 0);
        return p == MAP_FAILED ? 0 : p;
    }
    static int64_t file_size(int fd) { struct stat st; return fstat(fd, &st) ? -1 : (int64_t)st.st_size; }
    static int lock_file(int fd, int alone) { return flock(fd, (alone ? LOCK_EX : LOCK_SH) | LOCK_NB); }
    static int open_private(const char *path) {
        return open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    }
    """
    void cpu_relax()
    int mutex_make(CacheLock *lock)
    int mutex_try(CacheLock *lock)
    int mutex_mend(CacheLock *lock)
    void mutex_release(CacheLock *lock)
    void nap()
    void *map_memory(size_t size, int flags, int fd)
    int64_t file_size(int fd)
    int lock_file(int fd, int alone)
    int open_private(const char *path)
    int sched_yield()
    int munmap(void *p, size_t size)
    int ftruncate(int fd, int64_t size)
    int c_close "close"(int fd)
    int EOWNERDEAD
    int MAP_PRIVATE
    int MAP_SHARED
    int MAP_ANONYMOUS
    int MAP_NORESERVE

cdef extern from "Python.h":
    object PyErr_SetFromErrno(object kind)

cdef uint64_t MAGIC = 0x4152454E41303032        # ARENA002: changes with the layout, so that an old file is not misread
cdef uint64_t LARGEST_RECORD = 1 << 17          # what 14 of the 16 bits for a record's length count in units
cdef size_t LAYOUT_BYTES = 64                   # of ArenaHeader: everything before `head` is fixed by the size
cdef uint32_t SPINS = limits.ARENA_LOCK_SPINS
cdef uint32_t YIELDS = limits.ARENA_LOCK_YIELDS
cdef uint32_t NAPS = limits.ARENA_LOCK_NAPS


# ---------------------------------------------------------------------------------------------------------- locks

cdef int lock_make(CacheLock *lock) noexcept nogil:
    """A free mutex in memory that nobody uses yet; 0, or an error number when the system has no robust mutexes."""
    return mutex_make(lock)


cdef int lock_take(CacheLock *lock) noexcept nogil:
    """Take a lock. Returns LOCK_CLEAN, LOCK_INHERITED (repair first), or LOCK_BUSY after a bounded wait."""
    cdef uint32_t turn
    cdef int rc
    for turn in range(SPINS + YIELDS + NAPS):
        rc = mutex_try(lock)
        if rc == 0:
            return LOCK_CLEAN
        if rc == EOWNERDEAD:
            # Whoever dies between here and the release leaves the mutex marked once more.
            return LOCK_INHERITED if mutex_mend(lock) == 0 else LOCK_BUSY
        if turn < SPINS:
            cpu_relax()
        elif turn < SPINS + YIELDS:
            sched_yield()
        else:
            nap()
    return LOCK_BUSY


cdef void lock_release(CacheLock *lock) noexcept nogil:
    mutex_release(lock)


# -------------------------------------------------------------------------------------------------------- mapping

@cython.final
cdef class Arena:
    """One mapping of `size_bytes` bytes; the table inside it is made by `Table`.

    `shared` makes it survive fork as one memory; `path` keeps it in a file of that name (always shared), which is
    taken up again when it has the same size and layout. Whoever finds nobody else using the file is `alone` until its
    `Table` stands: only then may it be resized, laid out anew, or searched for damage. Memory is only used as it is
    written: an empty arena costs a few pages whatever its size.

    Raises:
        ValueError: the size lies outside `limits.ARENA_BYTES`.
        BlockingIOError: another process is setting the file up, or uses it with another size or layout.
        OSError: the memory or the file cannot be had.
    """

    def __cinit__(self, size_bytes: int, *, shared: bool = False, path: str | None = None) -> None:
        cdef uint64_t size = limits.ARENA_BYTES.check(size_bytes, "cache size")
        cdef ArenaHeader wanted
        size -= size % ARENA_PAGE
        self.size = size
        self.shared = shared or path is not None
        self.alone = True
        if path is None:
            self.base = <uint8_t *>map_memory(
                size, (MAP_SHARED if shared else MAP_PRIVATE) | MAP_ANONYMOUS | MAP_NORESERVE, -1)
        else:
            self.map_file(path)
        if self.base is NULL:
            PyErr_SetFromErrno(OSError)
        self.header = <ArenaHeader *>self.base
        lay_out(&wanted, size)
        self.fresh = memcmp(&wanted, self.header, LAYOUT_BYTES) != 0
        if self.fresh:
            if not self.alone:
                raise BlockingIOError(f"{path} is in use with another layout")
            memset(self.base, 0, ARENA_PAGE)
            self.header[0] = wanted
            if lock_make(&self.header.lock) != 0:
                raise OSError("this system has no robust mutexes shared by processes")

    cdef int map_file(self, str path) except -1:
        cdef bytes name = path.encode("utf-8", "surrogateescape")
        self.fd = open_private(name)
        if self.fd < 0:
            PyErr_SetFromErrno(OSError)
        self.opened = True
        self.alone = lock_file(self.fd, True) == 0
        if not self.alone and lock_file(self.fd, False) != 0:
            PyErr_SetFromErrno(OSError)
        if file_size(self.fd) != <int64_t>self.size:
            if not self.alone:
                raise BlockingIOError(f"{path} is in use with another size")
            if ftruncate(self.fd, 0) != 0 or ftruncate(self.fd, <int64_t>self.size) != 0:
                PyErr_SetFromErrno(OSError)
        self.base = <uint8_t *>map_memory(self.size, MAP_SHARED, self.fd)
        return 0

    cdef int settle(self) except -1:
        """The table stands: others may come in."""
        if self.alone and self.opened and lock_file(self.fd, False) != 0:
            PyErr_SetFromErrno(OSError)
        self.alone = False
        return 0

    def __dealloc__(self) -> None:
        if self.base is not NULL:
            munmap(self.base, self.size)
        if self.opened:
            c_close(self.fd)

    @property
    def ring_size(self) -> int:
        """Bytes that records can use."""
        return self.header.ring_size

    @property
    def ring_used(self) -> int:
        """Bytes between the oldest and the newest record; never more than `ring_size`."""
        return self.header.head - self.header.tail


cdef inline uint64_t round_up(uint64_t value, uint64_t unit) noexcept nogil:
    return (value + unit - 1) / unit * unit


cdef void lay_out(ArenaHeader *h, uint64_t size) noexcept:
    """An empty header. The root (the table's) takes its share, a scratch record follows, the ring has the rest."""
    cdef uint64_t share = <uint64_t><int>limits.ARENA_TABLE_SHARE
    cdef uint64_t entry_share = <uint64_t><int>limits.ARENA_ENTRY_SHARE
    memset(h, 0, sizeof(ArenaHeader))
    h.magic = MAGIC
    h.size = size
    h.root_offset = ARENA_PAGE
    h.root_size = max(round_up(size / share, ARENA_PAGE), <uint64_t>(4 * ARENA_PAGE))
    h.scratch_offset = h.root_offset + h.root_size
    h.scratch_size = round_up(min(LARGEST_RECORD, (size - h.scratch_offset) / (entry_share + 1)), ARENA_UNIT)
    h.ring_offset = round_up(h.scratch_offset + h.scratch_size, ARENA_PAGE)
    h.ring_size = size - h.ring_offset
