# C interface of pieces: records are written into the memory that the consumer reads, without a lock and without the GIL.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from resolver.observe.libc cimport pthread_mutex_lock, pthread_mutex_t, pthread_mutex_unlock

cdef enum:
    PIECE = 256 << 10           # octets of a piece
    NO_PIECE = 0xffffffff

# One consumer (the thread of the writer). The producer is the thread of the loop alone or, when `shared`, whichever thread
# holds `lock`: lanes produce too. Who may use a piece changes by the two rings of piece numbers alone: `full` from
# producer to consumer, `empty` back.
cdef struct PieceQueue:
    uint8_t *memory
    uint32_t *used              # octets in each piece
    uint32_t *held              # records in each piece
    uint32_t *full
    uint32_t *empty
    uint32_t count              # pieces
    uint32_t mask               # the rings have mask + 1 places, which is at least `count`
    uint32_t full_in            # changed by the producer
    uint32_t full_out           # changed by the consumer
    uint32_t empty_in           # changed by the consumer
    uint32_t empty_out          # changed by the producer
    uint32_t fresh              # the producer has not used the pieces from this number on
    uint32_t current            # the piece that the producer fills, or NO_PIECE
    uint8_t *at                 # where its next record begins
    uint8_t *end
    int wake                    # eventfd: the consumer has something to do
    uint64_t records            # records written
    uint64_t overrun            # records for which there was no room
    pthread_mutex_t lock        # of what the producer changes
    bint shared                 # set before the second producer begins, and never reset

cdef uint8_t *next_piece(PieceQueue *q, uint32_t size) noexcept nogil
cdef void hand_over(PieceQueue *q) noexcept nogil


cdef inline void begin_records(PieceQueue *q) noexcept nogil:
    """Let this thread be the producer until `end_records`. It must not run Python meanwhile, because lanes wait."""
    if q.shared:
        pthread_mutex_lock(&q.lock)


cdef inline void end_records(PieceQueue *q) noexcept nogil:
    """Let other threads be the producer."""
    if q.shared:
        pthread_mutex_unlock(&q.lock)


cdef inline uint8_t *room_for(PieceQueue *q, uint32_t size) noexcept nogil:
    """Where a record of at most `size` octets may be written; NULL, and counted, when all pieces are full."""
    if q.at is not NULL and <size_t>(q.end - q.at) >= size:
        return q.at
    return next_piece(q, size)


cdef inline void commit(PieceQueue *q, uint32_t size) noexcept nogil:
    """The record of `size` octets is complete."""
    q.at += size
    q.held[q.current] += 1
    q.records += 1


cdef class Pieces:
    cdef PieceQueue queue
    cdef uint32_t taken
