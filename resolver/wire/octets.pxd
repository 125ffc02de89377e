# Inline functions for numbers in messages and in packed records, most significant octet first (RFC 1035 section 2.3.2).
#
# The caller checks bounds: two or four octets are read or written without a check. `simple_ip` is for addresses of
# clients.

from libc.stdint cimport uint8_t, uint16_t, uint32_t

from resolver.wire.consts cimport EDNS_DO, T_OPT


cdef enum:
    LONGEST_IP = 16
    MAPPED = 12                 # octets before the IPv4 address in a mapped one (RFC 4291 section 2.5.5.2)


cdef inline uint16_t get16(const uint8_t *p) noexcept nogil:
    return <uint16_t>((p[0] << 8) | p[1])


cdef inline uint32_t get32(const uint8_t *p) noexcept nogil:
    return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]


cdef inline void put16(uint8_t *p, uint32_t value) noexcept nogil:
    """Write the lower sixteen bits of `value`."""
    p[0] = <uint8_t>(value >> 8)
    p[1] = <uint8_t>value


cdef inline void put32(uint8_t *p, uint32_t value) noexcept nogil:
    put16(p, value >> 16)
    put16(p + 2, value)


cdef inline void put_opt(uint8_t *p, uint32_t payload, uint32_t ext_rcode, bint do_bit, uint32_t size) noexcept nogil:
    """Write the OPT_SIZE octets of an OPT record of version 0, before its `size` octets of options."""
    p[0] = 0
    put16(p + 1, T_OPT)
    put16(p + 3, payload)
    p[5] = <uint8_t>ext_rcode
    p[6] = 0
    put16(p + 7, EDNS_DO if do_bit else 0)
    put16(p + 9, size)


cdef inline bint simple_ip(const uint8_t **ip, size_t *size) noexcept nogil:
    """Make an IPv4-mapped address an IPv4 address; False for something that is no address."""
    cdef int i
    if size[0] == 4:
        return True
    if size[0] != LONGEST_IP:
        return False
    for i in range(10):
        if ip[0][i]:
            return True
    if ip[0][10] == 0xff and ip[0][11] == 0xff:
        ip[0] += MAPPED
        size[0] = 4
    return True
