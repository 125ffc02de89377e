# SipHash-1-3 (Aumasson and Bernstein 2012; one compression round and three final ones) as inline functions, and
# SipHash-2-4, which server cookies use (RFC 9018 section 4.4).
#
# The hash is keyed because remote parties choose owner names and could otherwise fill one bucket on purpose.
# SipHash-1-3, as in CPython, Rust and Ruby, makes collisions unpredictable at half the cost of 2-4 for short keys.

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef inline uint64_t rotl64(uint64_t x, int b) noexcept nogil:
    return (x << b) | (x >> (64 - b))


cdef inline void sip_round(uint64_t *v) noexcept nogil:
    """One round over the four words of state."""
    v[0] += v[1]
    v[1] = rotl64(v[1], 13) ^ v[0]
    v[0] = rotl64(v[0], 32)
    v[2] += v[3]
    v[3] = rotl64(v[3], 16) ^ v[2]
    v[0] += v[3]
    v[3] = rotl64(v[3], 21) ^ v[0]
    v[2] += v[1]
    v[1] = rotl64(v[1], 17) ^ v[2]
    v[2] = rotl64(v[2], 32)


cdef inline void sip_word(uint64_t *v, uint64_t word, bint twice) noexcept nogil:
    """Mix one word of input into the state, with one round, or two if `twice`."""
    v[3] ^= word
    sip_round(v)
    if twice:
        sip_round(v)
    v[0] ^= word


cdef inline uint64_t siphash(uint64_t k0, uint64_t k1, const uint8_t *data, size_t size, bint twice) noexcept nogil:
    """SipHash-1-3, or SipHash-2-4 if `twice`. Callers pass a constant, so that the C compiler removes the branches."""
    cdef uint64_t v[4]
    cdef uint64_t word
    cdef size_t whole = size & ~(<size_t> 7)
    cdef size_t at = 0
    v[0] = k0 ^ <uint64_t> 0x736f6d6570736575
    v[1] = k1 ^ <uint64_t> 0x646f72616e646f6d
    v[2] = k0 ^ <uint64_t> 0x6c7967656e657261
    v[3] = k1 ^ <uint64_t> 0x7465646279746573
    while at < whole:
        memcpy(&word, data + at, 8)
        at += 8
        sip_word(v, word, twice)
    word = 0
    memcpy(&word, data + at, size - at)
    sip_word(v, word | ((<uint64_t> size) << 56), twice)
    v[2] ^= 0xff
    sip_round(v)
    sip_round(v)
    sip_round(v)
    if twice:
        sip_round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


cdef inline uint64_t siphash13(uint64_t k0, uint64_t k1, const uint8_t *data, size_t size) noexcept nogil:
    """The 64-bit hash of `size` bytes with the key (k0, k1): one round per word, three at the end."""
    return siphash(k0, k1, data, size, False)


cdef inline uint64_t siphash24(uint64_t k0, uint64_t k1, const uint8_t *data, size_t size) noexcept nogil:
    """Like `siphash13`, with two rounds per word and four at the end."""
    return siphash(k0, k1, data, size, True)
