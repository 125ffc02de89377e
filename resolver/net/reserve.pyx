"""A reserve of memory, given up when an allocation fails, so that the interpreter never works without any.

CPython handles a `MemoryError` well where the next allocation succeeds. Where none does, it ends with a fatal error
("cannot recover from MemoryErrors while normalizing exceptions"), loses exceptions (SystemError), and native libraries
abort. So the process holds blocks of the C heap. The first allocation of Python's that the system refuses frees them
all and is tried again. From then on memory is short: `is_short` says so, and no new work may be begun until the blocks
have been allocated again. What was begun ends on the reserve.

States:

* whole: all blocks are held. An allocation that fails leads to "given up".
* given up: no block is held. `is_short` tries at intervals to allocate them; when it gets `ENOUGH` of them, the state is
  "whole" again, otherwise it frees what it got.

Blocks are small, since what the process frees stays in its heap in pieces, and a reserve has to fit into those.
The hooks stand before the allocators of the raw domain (objects above 512 octets, and all others where pymalloc is not
used) and of arenas; pymalloc itself is not slowed down. They may run on any thread, without the GIL.

There is no .pxd: it is called once for each new question, from Python.
"""

from libc.stdlib cimport free, malloc

from resolver import limits

from resolver.net.ambient cimport monotonic_now


cdef extern from "Python.h":
    ctypedef struct PyMemAllocatorEx:
        void *ctx
        void *(*malloc)(void *ctx, size_t size) noexcept nogil
        void *(*calloc)(void *ctx, size_t nelem, size_t elsize) noexcept nogil
        void *(*realloc)(void *ctx, void *ptr, size_t new_size) noexcept nogil
        void (*free)(void *ctx, void *ptr) noexcept nogil

    ctypedef struct PyObjectArenaAllocator:
        void *ctx
        void *(*alloc)(void *ctx, size_t size) noexcept nogil
        void (*free)(void *ctx, void *ptr, size_t size) noexcept nogil

    ctypedef enum PyMemAllocatorDomain:
        PYMEM_DOMAIN_RAW
        PYMEM_DOMAIN_MEM
        PYMEM_DOMAIN_OBJ

    void PyMem_GetAllocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator) nogil
    void PyMem_SetAllocator(PyMemAllocatorDomain domain, PyMemAllocatorEx *allocator) nogil
    void PyObject_GetArenaAllocator(PyObjectArenaAllocator *allocator) nogil
    void PyObject_SetArenaAllocator(PyObjectArenaAllocator *allocator) nogil


cdef extern from *:
    """
    /* One thread at a time works on the blocks; who finds it locked does without. */
    static int reserve_lock = 0;
    static int reserve_short = 0;
    #define reserve_try_lock() (!__atomic_exchange_n(&reserve_lock, 1, __ATOMIC_ACQUIRE))
    #define reserve_unlock() __atomic_store_n(&reserve_lock, 0, __ATOMIC_RELEASE)
    #define reserve_is_short() __atomic_load_n(&reserve_short, __ATOMIC_RELAXED)
    #define reserve_set_short(value) __atomic_store_n(&reserve_short, (value), __ATOMIC_RELAXED)
    """
    bint reserve_try_lock() nogil
    void reserve_unlock() nogil
    bint reserve_is_short() nogil
    void reserve_set_short(int value) nogil


cdef enum:
    MOST_BLOCKS = 4096

cdef size_t BLOCK = limits.MEMORY_RESERVE_BLOCK.default
cdef double RETRY = limits.MEMORY_RESERVE_RETRY.default / 1000.0
cdef int ENOUGH = limits.MEMORY_RESERVE_ENOUGH.default

cdef PyMemAllocatorEx raw
cdef PyObjectArenaAllocator arenas
cdef void *blocks[MOST_BLOCKS]
cdef int held = 0
cdef int wanted = 0
cdef bint hooked = False
cdef double next_try = 0.0


cdef void let_go() noexcept nogil:
    """Free all blocks that are held."""
    global held
    if reserve_try_lock():
        while held:
            held -= 1
            free(blocks[held])
        reserve_unlock()


cdef bint give_up(size_t size) noexcept nogil:
    """Free the reserve; whether an allocation of `size` that failed is worth another try."""
    if size > BLOCK * <size_t>wanted:
        return False  # no shortage of this process's: something absurd was asked for
    reserve_set_short(1)
    let_go()
    return True


cdef void *raw_malloc(void *ctx, size_t size) noexcept nogil:
    cdef void *found = raw.malloc(ctx, size)
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


cdef void *arena_alloc(void *ctx, size_t size) noexcept nogil:
    cdef void *found = arenas.alloc(ctx, size)
    if found is NULL and give_up(size):
        found = arenas.alloc(ctx, size)
    return found


cdef int fill() noexcept nogil:
    """Allocate the missing blocks, as many as there is memory for; how many are held then."""
    global held
    if reserve_try_lock():
        while held < wanted:
            blocks[held] = malloc(BLOCK)
            if blocks[held] is NULL:
                break
            held += 1
        reserve_unlock()
    return held


def keep(int octets):
    """Hold a reserve of `octets` from now on, 0 for none; processes forked later have their own. Not undone.

    Raises:
        ValueError: it is more than the most there can be.
        MemoryError: there is no memory for it.
    """
    global wanted, hooked
    cdef PyMemAllocatorDomain domain
    cdef PyMemAllocatorEx raw_hook, other
    cdef PyObjectArenaAllocator arena_hook
    cdef int count = -(-octets // <int>BLOCK)
    if not 0 <= count <= MOST_BLOCKS:
        raise ValueError(f"a reserve of {octets} octets: at most {MOST_BLOCKS * BLOCK} can be kept")
    if not hooked:
        PyMem_GetAllocator(PYMEM_DOMAIN_RAW, &raw)
        raw_hook = raw
        raw_hook.malloc = raw_malloc
        raw_hook.calloc = raw_calloc
        raw_hook.realloc = raw_realloc
        PyObject_GetArenaAllocator(&arenas)
        arena_hook = arenas
        arena_hook.alloc = arena_alloc
        # Without pymalloc (PYTHONMALLOC=malloc) the other domains call the allocator of the raw one directly.
        for domain in (PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ):
            PyMem_GetAllocator(domain, &other)
            if other.malloc == raw.malloc:
                PyMem_SetAllocator(domain, &raw_hook)
        PyMem_SetAllocator(PYMEM_DOMAIN_RAW, &raw_hook)
        PyObject_SetArenaAllocator(&arena_hook)
        hooked = True
    wanted = count
    if fill() < wanted:
        raise MemoryError("no memory for the reserve")


def is_short():
    """Whether memory is short: the reserve was given up, and there is no memory to hold it again."""
    global next_try
    cdef double now
    if not reserve_is_short():
        return False
    now = monotonic_now()
    if now >= next_try:
        next_try = now + RETRY
        if fill() * 100 >= wanted * ENOUGH:
            reserve_set_short(0)
            return False
        # Native libraries, whose allocations pass no hook, need what there is until it is enough.
        let_go()
    return True
