"""A bounded ring of samples: who asked for what and which rcode was the reply, for those who watch the resolver.

The producer is the thread of a fast path, which may be a lane, and needs no GIL; the consumer is the loop. Neither
waits for the other: a position of the ring is one release store that the other side acquires. `Pieces` is no ring for
this, because only its producer can hand over a piece that is not full, and a lane has no timer.

`every` is the rate: one reply of so many is recorded, chosen by a generator with a small state. `take` returns how many
replies there were since the last call, and the samples, so a sample stands for as many replies as the quotient. This
holds, too, for replies for which the ring had no room.
"""

from ipaddress import ip_address

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from resolver import limits

from resolver.cache.arena cimport atomic_get32, atomic_get64, atomic_put32, atomic_put64
from resolver.observe.log_line cimport end_of_question
from resolver.wire.consts cimport HEADER_SIZE
from resolver.wire.octets cimport get16


cdef void sample_reply(SampleRing *ring, const uint8_t *query, size_t query_size, const uint8_t *reply,
                       const uint8_t *address, size_t address_size, int view) noexcept nogil:
    """A reply, of at least a header, was given to the client at `address`."""
    cdef uint32_t every = atomic_get32(&ring.every)
    cdef Sample *sample
    cdef size_t end
    atomic_put64(&ring.seen, ring.seen + 1)
    if every > 1:
        # xorshift64 (Marsaglia 2003): a weak generator, because guessing it has no use for an attacker.
        ring.random ^= ring.random << 13
        ring.random ^= ring.random >> 7
        ring.random ^= ring.random << 17
        if (ring.random >> 32) & (every - 1):
            return
    if ring.at_in - atomic_get32(&ring.at_out) > ring.mask:
        return
    sample = &ring.places[ring.at_in & ring.mask]
    sample.address_size = <uint8_t>min(address_size, <size_t>16)
    memcpy(sample.address, address, sample.address_size)
    sample.rcode = reply[3] & 0xf
    sample.view = <uint8_t>view
    sample.name_size = 0
    end = end_of_question(query, query_size)
    if end:
        sample.name_size = <uint8_t>(end - 4 - HEADER_SIZE)
        memcpy(sample.name, query + HEADER_SIZE, sample.name_size)
        sample.qtype = get16(query + end - 4)
    atomic_put32(&ring.at_in, ring.at_in + 1)


@cython.final
cdef class Samples:
    """One ring. `seed` (not 0) starts its generator."""

    def __cinit__(self, uint64_t seed=1):
        cdef uint32_t places = limits.TOP_RING
        self.ring.places = <Sample *>calloc(places, sizeof(Sample))
        if self.ring.places is NULL:
            raise MemoryError("ring of samples")
        self.ring.mask = places - 1
        self.ring.every = 1
        self.ring.random = seed | 1

    def __dealloc__(self):
        free(self.ring.places)

    @property
    def every(self):
        """One reply of so many is recorded."""
        return self.ring.every

    @every.setter
    def every(self, uint32_t value):
        if not value or value & (value - 1):
            raise ValueError(f"{value} is no power of two")
        atomic_put32(&self.ring.every, value)

    def note(self, bytes query not None, bytes reply not None, str address not None, int view):
        """As `sample_reply`, for a reply that was made in Python in the thread of the loop."""
        cdef bytes packed
        try:
            packed = ip_address(address).packed
        except ValueError:
            packed = b""
        if PyBytes_GET_SIZE(reply) < HEADER_SIZE or not PyBytes_GET_SIZE(query):
            return
        sample_reply(&self.ring, <const uint8_t *>PyBytes_AS_STRING(query), PyBytes_GET_SIZE(query),
                     <const uint8_t *>PyBytes_AS_STRING(reply), <const uint8_t *>PyBytes_AS_STRING(packed),
                     PyBytes_GET_SIZE(packed), view)

    def take(self):
        """How many replies there were since the last call, and what was recorded of them: a list of (address, name in
        wire form or b"", type, rcode, number of the view)."""
        cdef uint64_t seen = atomic_get64(&self.ring.seen)
        cdef uint32_t end = atomic_get32(&self.ring.at_in)
        cdef uint32_t at = self.ring.at_out
        cdef uint64_t before = self.seen_before
        cdef Sample *sample
        cdef list found = []
        while at != end:
            sample = &self.ring.places[at & self.ring.mask]
            found.append((
                PyBytes_FromStringAndSize(<const char *>sample.address, sample.address_size),
                PyBytes_FromStringAndSize(<const char *>sample.name, sample.name_size),
                sample.qtype if sample.name_size else 0, sample.rcode, sample.view,
            ))
            at += 1
        atomic_put32(&self.ring.at_out, at)
        self.seen_before = seen
        return max(seen - before, <uint64_t>len(found)), found
