# C interface of the RRset cache: its table, for lookups from compiled code.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from resolver.cache.lookup cimport Hit
from resolver.cache.table cimport Table
from resolver.wire.rrset cimport RRset


cdef class NegativeEntry:
    cdef readonly int rcode
    cdef readonly RRset soa
    cdef readonly list proofs
    cdef readonly int ttl
    cdef readonly int verdict


cdef class RRsetCache:
    cdef readonly Table table
    cdef readonly int64_t max_ttl
    cdef readonly int64_t max_negative_ttl
    cdef uint64_t part                  # the number of its part; 0: none
    cdef public uint32_t serial         # the table's serial when the query began; 0: not checked
    cdef RRset find_set(self, bytes name, const uint8_t *key, uint32_t size, int64_t now, int min_trust, int64_t stale)
    cdef bytes copy_value(self, uint8_t kind, const uint8_t *key, uint32_t size, int64_t now, int64_t stale, Hit *f,
                          int64_t *left)
    cdef bint find_any(self, uint8_t kind, const uint8_t *key, uint32_t size, Hit *f) noexcept
    cdef void drop_denial(self, const uint8_t *key, uint32_t size, uint8_t verdict, int64_t now) noexcept
