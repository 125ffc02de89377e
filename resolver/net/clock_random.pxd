# C interface of clock_random: random numbers and times without a Python call.
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef double monotonic_now() noexcept nogil
cdef int64_t realtime_seconds() noexcept nogil


cdef class Entropy:
    cdef uint8_t buffer[4096]
    cdef size_t position
    cdef unsigned int generation

    cdef int fill(self, uint8_t *out, size_t count) except -1
    cdef uint16_t take16(self) except? 0
    cdef uint32_t take32(self) except? 0
    cdef uint64_t take64(self) except? 0
    cdef bytes take_bytes(self, Py_ssize_t count)
    cpdef uint64_t below(self, uint64_t bound) except? 0
