# C interface of EDNS: the class, and the function by which the message parser makes one.

from libc.stdint cimport uint8_t, uint16_t


cdef class Edns:
    cdef readonly uint16_t payload
    cdef readonly uint16_t flags
    cdef readonly uint8_t version
    cdef readonly uint8_t ext_rcode
    cdef readonly bytes raw_options
    cdef list _options


cdef Edns make_edns(uint16_t payload, uint8_t ext_rcode, uint8_t version, uint16_t flags, bytes raw_options)
