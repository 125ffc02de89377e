"""A reserve of memory, given up when an allocation fails, so that the interpreter never works without any.

CPython handles a `MemoryError` well where the next allocation succeeds. Where none does, it ends with a fatal error
("cannot recover from MemoryErrors while normalizing exceptions"), loses exceptions (SystemError), and native libraries
abort. So the process holds blocks of the C heap. The first allocation of Python's that the system refuses frees them
all and is tried again. From then on memory is short: `is_short` says so, and no new work may be begun until the blocks
have been allocated again. What was begun ends on the reserve.

States:

* whole: all blocks are held. An allocation that fails leads to "given up".
* given up: no block is held. `is_short` tries at intervals to allocate them. When it gets `ENOUGH` of them, it keeps half
  of what it got, since a reserve that takes all there is would be given up with the next question; otherwise it frees
  all.
* partial: some are held, and new work may be begun. An allocation that fails leads to "given up". At intervals
  `is_short` takes some more, while there is twice as much; so it becomes whole.

Blocks are small, since what the process frees stays in its heap in pieces, and a reserve has to fit into those.
The hooks stand before the allocator of the raw domain: objects above 512 octets, and all others where pymalloc is not
used or has got no arena, which it says by asking the raw domain. That an arena is refused is no shortage: a gap of
1 MiB in the address space may be missing where the heap has room. They may run on any thread, without the GIL.

`tracemalloc.stop()` brings back the allocators that were in force when it was started, and drops whatever was set
since. So `is_short` looks whether its allocations pass the hook, and sets it again. A fork waits until nobody works on
the blocks: a child of it would find them half changed and locked for ever.

There is no .pxd: it is called once for each new question, from Python.
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
    /* One thread at a time works on the blocks; who finds it locked does without. */
    static int reserve_lock = 0;
    static int reserve_short = 0;
    /* Whether this thread has come by one of the hooks. */
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
    ROOM = 5120  # and what is tried beyond

cdef size_t BLOCK = limits.MEMORY_RESERVE_BLOCK
cdef double RETRY = limits.MEMORY_RESERVE_RETRY / 1000.0
cdef int ENOUGH = limits.MEMORY_RESERVE_ENOUGH

cdef PyMemAllocatorEx raw
cdef void *blocks[ROOM]
cdef int held = 0
cdef int wanted = 0
cdef bint forks_prepared = False
cdef double next_try = 0.0
cdef bint noticed = False


cdef void let_go(int left) noexcept nogil:
    """Free all blocks that are held but `left`."""
    global held
    if reserve_try_lock():
        while held > left:
            held -= 1
            free(blocks[held])
        reserve_unlock()


cdef bint give_up(size_t size) noexcept nogil:
    """Free the reserve; whether an allocation of `size` that failed is worth another try."""
    if size > BLOCK * <size_t>wanted:
        return False  # no shortage of this process's: something absurd was asked for
    reserve_set_short(1)
    let_go(0)
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
    """Allocate blocks until `number` are held, as many as there is memory for; how many are held then."""
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
    """Put the hooks before the allocators that are in force now."""
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
    """Whether an allocation of this thread's passes the hook, whatever stands before it."""
    global reserve_passed
    reserve_passed = 0
    PyMem_RawFree(PyMem_RawMalloc(1))
    return reserve_passed


def keep(int octets):
    """Hold a reserve of `octets` from now on, 0 for none; processes forked later have their own. Not undone.

    Raises:
        ValueError: it is more than the most there can be.
        MemoryError: there is no memory for it.
    """
    global wanted, forks_prepared
    cdef int count = -(-octets // <int>BLOCK)
    if not 0 <= count <= MOST_BLOCKS:
        raise ValueError(f"a reserve of {octets} octets: at most {MOST_BLOCKS * BLOCK} can be kept")
    if not forks_prepared:
        if reserve_prepare_forks():
            raise MemoryError("no memory to prepare for forks")
        forks_prepared = True
    if not is_hooked():
        hook()
    wanted = count
    if fill(wanted) < wanted:
        raise MemoryError("no memory for the reserve")


def is_given_up():
    """Whether the reserve was given up, and nobody has seen since that there is memory to hold it again."""
    return bool(reserve_is_short())


def is_short():
    """Whether memory is short: the reserve was given up, and there is no memory to hold it again."""
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
        next_try = now + RETRY  # what was begun goes on first
    if now < next_try:
        return bool(reserve_is_short())
    next_try = now + RETRY
    if not reserve_is_short():
        got = fill(before + 2 * more)
        let_go(min(before + more, wanted) if got == before + 2 * more else min(before, got))
        return False
    got = fill(wanted)
    if got * 100 >= wanted * ENOUGH:
        let_go(got // 2)
        noticed = False
        reserve_set_short(0)
        return False
    # Native libraries, whose allocations pass no hook, need what there is until it is enough.
    let_go(0)
    return True
