# C interface of samples: what the fast path calls for each reply while there are watchers.

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    SAMPLE_NAME = 255           # RFC 1035 section 3.1: the longest name in wire form

cdef struct Sample:
    uint8_t address[16]         # of the client, in network order
    uint8_t address_size        # 0: not known
    uint8_t rcode               # the lower four bits
    uint8_t view
    uint8_t name_size           # 0: the message had no question that could be read
    uint16_t qtype
    uint8_t name[SAMPLE_NAME]

# One producer (the thread of a fast path) and one consumer (the loop). Both positions only increase.
cdef struct SampleRing:
    Sample *places
    uint32_t mask               # the ring has mask + 1 places
    uint32_t every              # one reply of so many, a power of two, is recorded; changed by the consumer
    uint32_t at_in              # changed by the producer
    uint32_t at_out             # changed by the consumer
    uint64_t seen               # replies since the start, recorded or not; changed by the producer
    uint64_t random             # state of the generator that chooses samples

cdef void sample_reply(SampleRing *ring, const uint8_t *query, size_t query_size, const uint8_t *reply,
                       const uint8_t *address, size_t address_size, int view) noexcept nogil


cdef class Samples:
    cdef SampleRing ring
    cdef uint64_t seen_before
