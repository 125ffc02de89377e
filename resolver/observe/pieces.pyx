"""A bounded buffer between the loop and lanes, and a thread that writes: memory in pieces, which hold whole records.

The producer encodes each record straight into its current piece. When the next record does not fit, or `flush` is
called, it hands the piece over. The consumer writes the piece, in one system call if possible, and gives it back. A
record never continues in another piece, so the consumer may lose a piece and continue with the next.

States of a piece: unused, current (the producer fills it), full, taken (the consumer writes it), empty. It is in the
hands of one side only, and each change is one release store of a ring position that the other side acquires. So neither
side ever waits for the other. With lanes there are several producers: then each holds a mutex while it writes a record
(`begin_records`), which takes less than a microsecond. Pieces that were given back are filled before unused ones: under
a usual load two or three of them circulate, which stay in the CPU's cache. A record for which no piece is left is
counted and dropped.
"""

import os

from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy
from posix.unistd cimport write

from resolver import limits

from resolver.cache.arena cimport atomic_get32, atomic_put32
from resolver.observe.libc cimport pthread_mutex_destroy, pthread_mutex_init


cdef void wake_consumer(PieceQueue *q) noexcept nogil:
    cdef uint64_t one = 1
    # It can only fail when the counter is full, and then the consumer is awake.
    write(q.wake, &one, sizeof(one))


cdef void hand_over(PieceQueue *q) noexcept nogil:
    """Give the current piece to the consumer; nothing when there is none."""
    if q.current == NO_PIECE:
        return
    q.used[q.current] = <uint32_t>(q.at - (q.memory + <size_t>q.current * PIECE))
    q.full[q.full_in & q.mask] = q.current
    atomic_put32(&q.full_in, q.full_in + 1)
    q.current = NO_PIECE
    q.at = q.end = NULL
    wake_consumer(q)


cdef uint8_t *next_piece(PieceQueue *q, uint32_t size) noexcept nogil:
    """Begin another piece for a record of `size` octets; NULL, and counted, when there is none."""
    hand_over(q)
    if size <= PIECE:
        if atomic_get32(&q.empty_in) != q.empty_out:
            q.current = q.empty[q.empty_out & q.mask]
            q.empty_out += 1
        elif q.fresh < q.count:
            q.current = q.fresh
            q.fresh += 1
    if q.current == NO_PIECE:
        q.overrun += 1
        return NULL
    q.at = q.memory + <size_t>q.current * PIECE
    q.end = q.at + PIECE
    q.held[q.current] = 0
    return q.at


cdef class Pieces:
    """The buffer, of `octets` bytes. `flush` and `add` are for the producer, `take` and `give_back` for the
    consumer."""

    def __cinit__(self, octets):
        cdef PieceQueue *q = &self.queue
        cdef uint32_t count, places = 2
        self.taken = NO_PIECE
        q.current = NO_PIECE
        q.wake = -1  # first, because an exception leads to `__dealloc__`
        pthread_mutex_init(&q.lock, NULL)
        count = limits.OBSERVE_BUFFER.check(octets, "buffer") // <uint32_t>PIECE
        while places < count:
            places *= 2
        q.count = count
        q.mask = places - 1
        q.memory = <uint8_t *>malloc(<size_t>count * PIECE)
        q.used = <uint32_t *>calloc(count, sizeof(uint32_t))
        q.held = <uint32_t *>calloc(count, sizeof(uint32_t))
        q.full = <uint32_t *>calloc(places, sizeof(uint32_t))
        q.empty = <uint32_t *>calloc(places, sizeof(uint32_t))
        if NULL in (q.memory, q.used, q.held, q.full, q.empty):
            raise MemoryError("buffer of the query log or dnstap")
        q.wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def __dealloc__(self):
        free(self.queue.memory)
        free(self.queue.used)
        free(self.queue.held)
        free(self.queue.full)
        free(self.queue.empty)
        if self.queue.wake >= 0:
            os.close(self.queue.wake)
        pthread_mutex_destroy(&self.queue.lock)

    def fileno(self):
        """The eventfd that becomes readable when `take` may have a piece, or after `wake`."""
        return self.queue.wake

    def wake(self):
        """Make `fileno` readable."""
        wake_consumer(&self.queue)

    def flush(self):
        """Hand over what the current piece has."""
        begin_records(&self.queue)
        hand_over(&self.queue)
        end_records(&self.queue)

    def share(self):
        """Let several threads produce from now on. To be called by the only producer."""
        self.queue.shared = True

    def add(self, bytes record not None):
        """Write one record of at least one octet; False when there is no room."""
        cdef uint32_t size = <uint32_t>min(PyBytes_GET_SIZE(record), <Py_ssize_t>PIECE + 1)
        cdef uint8_t *at
        begin_records(&self.queue)
        at = room_for(&self.queue, size)
        if at is not NULL:
            memcpy(at, PyBytes_AS_STRING(record), size)
            commit(&self.queue, size)
        end_records(&self.queue)
        return at is not NULL

    def take(self):
        """The oldest full piece as (its octets, the number of its records), or None. The octets are valid until
        `give_back`, which must come before the next `take`."""
        cdef PieceQueue *q = &self.queue
        if self.taken != NO_PIECE:
            raise RuntimeError("the piece that was taken before was not given back")
        if atomic_get32(&q.full_in) == q.full_out:
            return None
        self.taken = q.full[q.full_out & q.mask]
        q.full_out += 1
        octets = PyMemoryView_FromMemory(<char *>q.memory + <size_t>self.taken * PIECE, q.used[self.taken], PyBUF_READ)
        return octets, q.held[self.taken]

    def give_back(self):
        """The piece that was taken is no longer needed."""
        cdef PieceQueue *q = &self.queue
        if self.taken == NO_PIECE:
            raise RuntimeError("no piece was taken")
        q.empty[q.empty_in & q.mask] = self.taken
        self.taken = NO_PIECE
        atomic_put32(&q.empty_in, q.empty_in + 1)

    @property
    def records(self):
        """Records written since the start."""
        return self.queue.records

    @property
    def octets(self):
        """Octets of the pieces that are not empty, for a producer. The consumer may give one back meanwhile."""
        cdef PieceQueue *q = &self.queue
        cdef uint32_t pieces
        begin_records(q)
        pieces = q.fresh - (atomic_get32(&q.empty_in) - q.empty_out)
        end_records(q)
        return <size_t>pieces * PIECE

    @property
    def limit(self):
        """Octets of all pieces."""
        return <size_t>self.queue.count * PIECE

    @property
    def overrun(self):
        """Records dropped since the start because all pieces were full."""
        return self.queue.overrun
