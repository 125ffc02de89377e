"""Clocks and random numbers. `Mesh` and other sans-IO code get them as arguments.

Random numbers come only from the kernel (getrandom), read in blocks: two resolvers were predictable because the state
of their own generator could be recovered from ids and ports (CVE-2025-40780, CVE-2026-50252). After a fork the child
discards its block, and bytes are erased when they are used. Both clocks are read from libc on every call. The real-time
clock may jump by years; the new time is used as it is.
"""

import os

cimport cython
from libc.errno cimport EINTR, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec

from resolver.net.libc cimport getrandom

cdef unsigned int fork_generation = 1


def _forked() -> None:
    global fork_generation
    fork_generation += 1


os.register_at_fork(after_in_child=_forked)


cdef double monotonic_now() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_MONOTONIC, &ts)
    return <double>ts.tv_sec + <double>ts.tv_nsec * 1e-9


cdef int64_t realtime_seconds() noexcept nogil:
    cdef timespec ts
    clock_gettime(CLOCK_REALTIME, &ts)
    return <int64_t>ts.tv_sec


@cython.final
cdef class Clock:
    """The system's clocks: seconds since 1970 as int, and monotonic seconds as float."""

    def time(self):
        """Seconds of CLOCK_REALTIME."""
        return realtime_seconds()

    def monotonic(self):
        """Seconds of CLOCK_MONOTONIC, which timers use."""
        return monotonic_now()


@cython.final
cdef class Entropy:
    """Unpredictable numbers from getrandom(2), read 4 KiB at a time."""

    def __cinit__(self):
        self.position = sizeof(self.buffer)
        self.generation = 0

    def __dealloc__(self):
        memset(self.buffer, 0, sizeof(self.buffer))

    cdef int fill(self, uint8_t *out, size_t count) except -1:
        """Write `count` (at most 4096) random bytes to `out`."""
        cdef ssize_t got
        cdef size_t have = 0
        if self.generation != fork_generation or self.position + count > sizeof(self.buffer):
            while have < sizeof(self.buffer):
                got = getrandom(self.buffer + have, sizeof(self.buffer) - have, 0)
                if got < 0:
                    if errno == EINTR:
                        continue
                    raise OSError(errno, "getrandom failed")
                have += <size_t>got
            self.position = 0
            self.generation = fork_generation
        memcpy(out, self.buffer + self.position, count)
        memset(self.buffer + self.position, 0, count)
        self.position += count
        return 0

    cdef uint16_t take16(self) except? 0:
        cdef uint16_t value
        self.fill(<uint8_t *>&value, sizeof(value))
        return value

    cdef uint32_t take32(self) except? 0:
        cdef uint32_t value
        self.fill(<uint8_t *>&value, sizeof(value))
        return value

    cdef uint64_t take64(self) except? 0:
        cdef uint64_t value
        self.fill(<uint8_t *>&value, sizeof(value))
        return value

    cdef bytes take_bytes(self, Py_ssize_t count):
        """`count` (at most 512) random bytes."""
        cdef uint8_t block[512]
        if not 0 <= count <= 512:
            raise ValueError("take_bytes: count must be 0 to 512")
        self.fill(block, count)
        return (<char *>block)[:count]

    cpdef uint64_t below(self, uint64_t bound) except? 0:
        """A uniformly distributed number in 0 .. bound - 1.

        Raises:
            ValueError: `bound` is 0.
        """
        cdef uint64_t value, limit
        if bound == 0:
            raise ValueError("below: bound must be at least 1")
        # Reject values above the largest multiple of `bound`, which would favour small results (probability < 1/2).
        limit = (<uint64_t>-1) - ((<uint64_t>-1) % bound + 1) % bound
        value = self.take64()
        while value > limit:
            value = self.take64()
        return value % bound

    def bits(self, int count):
        """A number of `count` random bits (0 to 4096).

        Raises:
            ValueError: `count` is outside that range.
        """
        cdef uint8_t block[512]
        if not 0 <= count <= 4096:
            raise ValueError("bits: count must be 0 to 4096")
        if count <= 64:
            return 0 if count == 0 else self.take64() >> (64 - count)
        self.fill(block, (count + 7) // 8)
        return int.from_bytes((<char *>block)[:(count + 7) // 8], "little") >> ((8 - count % 8) % 8)
