# C functions of the tables of this package that Cython does not declare.
from libc.stdint cimport uint64_t

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *address, size_t length, int advice)
    enum:
        MADV_HUGEPAGE

cdef extern from *:
    void prefetch "__builtin_prefetch"(const void *) noexcept nogil
    int trailing_zeros "__builtin_ctzll"(uint64_t) noexcept nogil
