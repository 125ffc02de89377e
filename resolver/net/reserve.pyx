"""A memory reserve that is freed when an allocation fails, so that the interpreter always has some memory to work with.

CPython handles a `MemoryError` well when the next allocation succeeds. When none does, it ends with a fatal error
("cannot recover from MemoryErrors while normalizing exceptions") or loses exceptions (SystemError), and native
libraries abort. So the process holds blocks of the C heap. The first failed allocation of Python frees them all and is
retried. From then on memory is short: `is_short` returns True, and no new work may be started until the blocks have
been allocated again. Work in progress ends with the memory of the reserve.

States:

* whole: all blocks are held. A failed allocation leads to "given up".
* given up: no block is held. `is_short` tries at intervals to allocate them. When it gets `ENOUGH` percent of them, it
  keeps half of what it got (state partial), because a reserve that takes all free memory would be given up by the next
  query; otherwise it frees all.
* partial: some blocks are held, and new work may be started. A failed allocation leads to "given up". At intervals
  `is_short` adds some blocks when twice as many can be allocated, until the reserve is whole.

Blocks are small, because memory that the process frees is fragmented, and the reserve must fit into the fragments.
The hooks wrap the allocator of the raw domain: objects above 512 octets, and all others when pymalloc is not used or
cannot get an arena, because it then calls the raw domain. A refused arena alone is no shortage: it needs 1 MiB of
contiguous address space, while the heap may still have memory. Hooks may run on any thread, without the GIL.

`tracemalloc.stop()` restores the allocators from before its start and removes hooks that were set since. So `is_short`
checks that its allocations pass the hook, and sets it again. A fork waits until no thread changes the blocks: the child
would get them in an inconsistent state, and locked for ever.

There is no .pxd: it is called from Python, once for each new query.
"""

from libc.stdlib cimport free, malloc

from resolver import limits

from resolver.net.clock_random cimport monotonic_now


cdef extern from "Python.h":
    ctypedef struct PyMemAllocatorEx:
        void *ctx
        void *(*malloc)(void *ctx, size_t size) noexcept nogil
        void *(*calloc)(void *ctx, size_t nelem, size_t elsize) noexcept nogil
        void *(*realloc)(void *ctx, void *ptr, size_t new_size) noexcept nogil
        void (*free)(void *ctx, void *ptr) noexcept nogil

    ctypedef enum PyMemAllocatorDomain:
        PYMEM_DOMAIN_RAW
        PYMEM_DOMAIN_MEM
        PYMEM_DOMAIN_OBJ

    void *PyMem_RawMalloc(size_t size) nogil
    void PyMem_RawFree(void *ptr) nogil
    void PyMem_GetAllocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator) nogil
    void PyMem_SetAllocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator) nogil


cdef extern from *:
    """
    #include <pthread.h>
    #include <sched.h>
    /* Only one thread at a time changes the blocks; a thread that finds the lock taken skips its change. */
    static int reserve_lock = 0;
    static int reserve_short = 0;
    /* Whether this thread has called the malloc hook. */
    static __thread int reserve_passed = 0;
    #define reserve_try_lock() (!__atomic_exchange_n(&reserve_lock, 1, __ATOMIC_ACQUIRE))
    #define reserve_unlock() __atomic_store_n(&reserve_lock, 0, __ATOMIC_RELEASE)
    #define reserve_is_short() __atomic_load_n(&reserve_short, __ATOMIC_RELAXED)
    #define reserve_set_short(value) __atomic_store_n(&reserve_short, (value), __ATOMIC_RELAXED)
    static void reserve_before_fork(void) { while (!reserve_try_lock()) sched_yield(); }
    static void reserve_after_fork(void) { reserve_unlock(); }
    static int reserve_prepare_forks(void) {
        return pthread_atfork(reserve_before_fork, reserve_after_fork, reserve_after_fork);
    }
    """
    int reserve_passed
    int reserve_prepare_forks() nogil
    bint reserve_try_lock() nogil
    void reserve_unlock() nogil
    bint reserve_is_short() nogil
    void reserve_set_short(int value) nogil


cdef enum:
    MOST_BLOCKS = 4096
    CAPACITY = 5120  # MOST_BLOCKS, and the quarter that `is_short` tries to allocate beyond

cdef size_t BLOCK = limits.MEMORY_RESERVE_BLOCK
cdef double RETRY = limits.MEMORY_RESERVE_RETRY / 1000.0
cdef int ENOUGH = limits.MEMORY_RESERVE_ENOUGH

cdef PyMemAllocatorEx raw
cdef void *blocks[CAPACITY]
cdef int held = 0
cdef int wanted = 0
cdef bint forks_prepared = False
cdef double next_try = 0.0
cdef bint noticed = False


cdef void free_blocks(int left) noexcept nogil:
    """Free blocks until `left` are held."""
    global held
    if reserve_try_lock():
        while held > left:
            held -= 1
            free(blocks[held])
        reserve_unlock()


cdef bint give_up(size_t size) noexcept nogil:
    """Free the reserve; returns whether the failed allocation of `size` should be retried."""
    if size > BLOCK * <size_t>wanted:
        return False  # no shortage: the request is larger than the whole reserve
    reserve_set_short(1)
    free_blocks(0)
    return True


cdef void *raw_malloc(void *ctx, size_t size) noexcept nogil:
    global reserve_passed
    cdef void *found = raw.malloc(ctx, size)
    reserve_passed = 1
    if found is NULL and give_up(size):
        found = raw.malloc(ctx, size)
    return found


cdef void *raw_calloc(void *ctx, size_t count, size_t size) noexcept nogil:
    cdef void *found = raw.calloc(ctx, count, size)
    if found is NULL and (not size or count <= <size_t>-1 // size) and give_up(count * size):
        found = raw.calloc(ctx, count, size)
    return found


cdef void *raw_realloc(void *ctx, void *old, size_t size) noexcept nogil:
    cdef void *found = raw.realloc(ctx, old, size)
    if found is NULL and give_up(size):
        found = raw.realloc(ctx, old, size)
    return found


cdef int fill(int number) noexcept nogil:
    """Allocate blocks until `number` are held or an allocation fails; returns how many are held."""
    global held
    if reserve_try_lock():
        while held < number:
            blocks[held] = malloc(BLOCK)
            if blocks[held] is NULL:
                break
            held += 1
        reserve_unlock()
    return held


cdef void hook() noexcept:
    """Wrap the current allocators with the hooks."""
    cdef PyMemAllocatorDomain domain
    cdef PyMemAllocatorEx raw_hook, other
    PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &raw)
    raw_hook = raw
    raw_hook.malloc = raw_malloc
    raw_hook.calloc = raw_calloc
    raw_hook.realloc = raw_realloc
    # Without pymalloc (PYTHONMALLOC=malloc) the other domains call the allocator of the raw one directly.
    for domain in (PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ):
        PyMem_GetAllocator(domain, &other)
        if other.malloc == raw.malloc:
            PyMem_SetAllocator(domain, &raw_hook)
    PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &raw_hook)


cdef bint is_hooked() noexcept:
    """Whether an allocation of this thread passes the hook, also when it is wrapped by another one."""
    global reserve_passed
    reserve_passed = 0
    PyMem_RawFree(PyMem_RawMalloc(1))
    return reserve_passed


def keep(int octets):
    """Hold a reserve of `octets` from now on, 0 for none. Processes forked later have their own. Cannot be undone.

    Raises:
        ValueError: `octets` is negative or too large.
        MemoryError: there is no memory for it.
    """
    global wanted, forks_prepared
    cdef int count = -(-octets // <int>BLOCK)
    if not 0 <= count <= MOST_BLOCKS:
        raise ValueError(f"a reserve of {octets} octets: must be 0 to {MOST_BLOCKS * BLOCK}")
    if not forks_prepared:
        if reserve_prepare_forks():
            raise MemoryError("no memory for the fork handlers")
        forks_prepared = True
    if not is_hooked():
        hook()
    wanted = count
    if fill(wanted) < wanted:
        raise MemoryError("no memory for the reserve")


def is_given_up():
    """Whether the reserve was given up and `is_short` has not yet allocated it again."""
    return bool(reserve_is_short())


def needs_check():
    """Whether `is_short` has work to do: the reserve is not whole, or the hook of the allocators is missing."""
    return held != wanted or bool(reserve_is_short()) or not is_hooked()


def is_short():
    """Whether memory is short: the reserve was given up, and there is not enough memory to allocate it again."""
    global next_try, noticed
    cdef int before = held
    cdef int more = max(wanted // 8, 1)
    cdef int got
    cdef double now
    if not is_hooked():
        hook()
    if before == wanted and not reserve_is_short():
        return False
    now = monotonic_now()
    if reserve_is_short() and not noticed:
        noticed = True
        next_try = now + RETRY  # work in progress gets the memory first
    if now < next_try:
        return bool(reserve_is_short())
    next_try = now + RETRY
    if not reserve_is_short():
        got = fill(before + 2 * more)
        free_blocks(min(before + more, wanted) if got == before + 2 * more else min(before, got))
        return False
    got = fill(wanted)
    if got * 100 >= wanted * ENOUGH:
        free_blocks(got // 2)
        noticed = False
        reserve_set_short(0)
        return False
    # Allocations of native libraries do not pass the hooks; leave all memory to them until there is enough.
    free_blocks(0)
    return True
