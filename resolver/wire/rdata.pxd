# C interface of rdata: the names, lengths and counts in the rdata of each type.
# No function needs the GIL; negative results are codes of consts.pxd.

from libc.stdint cimport uint8_t, uint16_t

cdef const char *rdata_layout(uint16_t rtype, uint16_t rclass) noexcept nogil
cdef Py_ssize_t rdata_check(const uint8_t *message, Py_ssize_t size, Py_ssize_t at, Py_ssize_t length,
                            const char *layout) noexcept nogil
cdef Py_ssize_t rdata_expand(const uint8_t *message, Py_ssize_t size, Py_ssize_t at, Py_ssize_t length,
                             const char *layout, uint8_t *out) noexcept nogil
cdef void rdata_lower(uint8_t *rdata, Py_ssize_t length, const char *layout) noexcept nogil
cdef Py_ssize_t rdata_next_name(const uint8_t *rdata, Py_ssize_t length, const char **layout, Py_ssize_t *at) noexcept nogil
cdef bint rdata_compressible(uint16_t rtype) noexcept nogil
