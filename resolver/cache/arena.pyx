"""The memory of the cache: one mapping, private, shared by forked workers, or kept in a file.

Nothing in it is a pointer; everything is found by its offset, so the same bytes serve any process at any address.
The larger part is a ring of records: new ones are written at its head and old ones leave at its tail, where the table
decides what deserves another round (this is the clock algorithm with entries of any size). A ring needs no size
classes, so it wastes at most seven bytes an entry, and memory freed by small entries always serves large ones: an
adversary who chooses sizes and their order can neither pass the limit nor wedge the allocator (CVE-2023-2828).
A lock is the process id of its holder. A waiter that finds the holder dead takes the lock over and repairs what it
protects; a waiter that finds it merely slow gives up after a bounded time, since not caching is always permitted.
"""

cimport cython
from libc.errno cimport ESRCH, errno
from libc.string cimport memcmp, memset

from resolver import limits

cdef extern from * nogil:
    """
    #include <fcntl.h>
    #include <pthread.h>
    #include <sched.h>
    #include <signal.h>
    #include <stdio.h>
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

    /* Kept across forks, since asking the kernel at every lock would cost more than the lock. */
    static uint32_t own_process;
    static void remember_process(void) { own_process = (uint32_t)getpid(); }

    /* 1 when the process is a zombie: killed, not yet waited for, and still answering to kill(pid, 0). */
    static int is_zombie(uint32_t pid) {
        char path[32], text[512], *mark;
        ssize_t got;
        int fd;
        snprintf(path, sizeof path, "/proc/%u/stat", pid);
        fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0) return 0;
        got = read(fd, text, sizeof text - 1);
        close(fd);
        if (got <= 0) return 0;
        text[got] = 0;
        mark = strrchr(text, ')');          /* the command's name may hold anything, also parentheses */
        return mark && mark[1] == ' ' && (mark[2] == 'Z' || mark[2] == 'X');
    }
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
    void remember_process()
    uint32_t own_process
    int is_zombie(uint32_t pid)
    void nap()
    void *map_memory(size_t size, int flags, int fd)
    int64_t file_size(int fd)
    int lock_file(int fd, int alone)
    int open_private(const char *path)
    int pthread_atfork(void (*prepare)(), void (*parent)(), void (*child)())
    int c_kill "kill"(int pid, int sig)
    int sched_yield()
    int munmap(void *p, size_t size)
    int ftruncate(int fd, int64_t size)
    int c_close "close"(int fd)
    int MAP_PRIVATE
    int MAP_SHARED
    int MAP_ANONYMOUS
    int MAP_NORESERVE

cdef extern from "Python.h":
    object PyErr_SetFromErrno(object kind)

cdef uint64_t MAGIC = 0x4152454E41303031        # ARENA001: changes with the layout, so that an old file is not misread
cdef uint64_t LARGEST_RECORD = 1 << 17          # what 14 of the 16 bits for a record's length count in units
cdef size_t LAYOUT_BYTES = 64                   # of ArenaHeader: everything before `head` is fixed by the size
cdef uint32_t LARGEST_PROCESS = 1 << 22         # the kernel's PID_MAX_LIMIT; a damaged file may claim any holder
cdef uint32_t SPINS = limits.ARENA_LOCK_SPINS.default
cdef uint32_t YIELDS = limits.ARENA_LOCK_YIELDS.default
cdef uint32_t NAPS = limits.ARENA_LOCK_NAPS.default

remember_process()
if pthread_atfork(NULL, NULL, remember_process) != 0:
    raise MemoryError("pthread_atfork")


# ---------------------------------------------------------------------------------------------------------- locks

cdef bint is_dead(uint32_t pid) noexcept nogil:
    if pid > LARGEST_PROCESS or (c_kill(<int>pid, 0) == -1 and errno == ESRCH):
        return True
    return is_zombie(pid)


cdef int lock_take(uint32_t *word) noexcept nogil:
    """Take a lock. Returns LOCK_CLEAN, LOCK_INHERITED (repair first), or LOCK_BUSY after a bounded wait."""
    cdef uint32_t mine = own_process
    cdef uint32_t holder, turn
    for turn in range(SPINS + YIELDS + NAPS):
        holder = atomic_get32(word)
        if holder == 0:
            if atomic_swap32(word, 0, mine):
                return LOCK_CLEAN
            continue
        if turn < SPINS:
            cpu_relax()
        elif turn < SPINS + YIELDS:
            sched_yield()
        else:
            if holder != mine and is_dead(holder) and atomic_swap32(word, holder, mine):
                return LOCK_INHERITED
            nap()
    return LOCK_BUSY


cdef void lock_release(uint32_t *word) noexcept nogil:
    atomic_put32(word, 0)


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
    cdef uint64_t share = <uint64_t><int>limits.ARENA_TABLE_SHARE.default
    cdef uint64_t entry_share = <uint64_t><int>limits.ARENA_ENTRY_SHARE.default
    memset(h, 0, sizeof(ArenaHeader))
    h.magic = MAGIC
    h.size = size
    h.root_offset = ARENA_PAGE
    h.root_size = max(round_up(size / share, ARENA_PAGE), <uint64_t>(4 * ARENA_PAGE))
    h.scratch_offset = h.root_offset + h.root_size
    h.scratch_size = round_up(min(LARGEST_RECORD, (size - h.scratch_offset) / (entry_share + 1)), ARENA_UNIT)
    h.ring_offset = round_up(h.scratch_offset + h.scratch_size, ARENA_PAGE)
    h.ring_size = size - h.ring_offset
