# C interface of the framers. The caller passes bytes that stay valid during the call:
#     frames = framer.feed_bytes(pointer, length, owner)
# `owner` is the object that keeps the bytes alive (for views), or None when frames must be copies.
# `length_prefix` is for nogil code that reads frames in its own buffer.

from cpython.ref cimport PyObject
from libc.stdint cimport uint8_t, uint32_t, uint64_t


# The value of a length prefix of 1, 2, 4 or 8 bytes at `p`.
cdef inline uint64_t length_prefix(const uint8_t *p, int prefix, bint big_endian) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    if big_endian and prefix == 4:
        # The usual case; compilers make it a single load.
        return (<uint32_t>p[0] << 24) | (<uint32_t>p[1] << 16) | (<uint32_t>p[2] << 8) | p[3]
    if big_endian:
        for i in range(prefix):
            value = (value << 8) | p[i]
    else:
        for i in range(prefix):
            value |= (<uint64_t>p[i]) << (8 * i)
    return value


cdef class Framer:
    cdef readonly Py_ssize_t max_frame
    cdef readonly bint views
    cdef str failure            # why no more bytes are taken (poisoned); None: they are
    cdef Py_ssize_t reserve
    cdef Py_ssize_t head_size   # bytes before and after a payload
    cdef Py_ssize_t tail_size
    cdef bytes refused          # received bytes from the start of the frame that was refused
    # The partially received frame (or, for a delimiter, the bytes after the last frame), not yet visible to other code.
    cdef PyObject *partial
    cdef Py_ssize_t filled
    cdef list feed_bytes(self, const uint8_t *p, Py_ssize_t n, object owner)
    cdef list split(self, const uint8_t *p, Py_ssize_t n, object owner)
    cdef int grow(self, Py_ssize_t wanted) except -1
    cdef int append_partial(self, const uint8_t *p, Py_ssize_t n, Py_ssize_t final_size) except -1
    cdef object finish(self, object owner)
    cdef object make_frame(self, const uint8_t *base, Py_ssize_t start, Py_ssize_t stop, object owner)
    cdef int refuse(self, uint64_t size, list frames, bytes raw) except -1
    cdef void drop_partial(self) noexcept
    cdef int check_payload(self, const uint8_t *data, Py_ssize_t size) except -1
    cdef void put_head(self, uint8_t *out, Py_ssize_t size) noexcept
    cdef void put_tail(self, uint8_t *out) noexcept
    cdef bytes pack_frames(self, object payloads)


cdef class LengthFramer(Framer):
    cdef readonly int prefix
    cdef readonly bint big_endian
    cdef uint8_t head[8]
    cdef int head_filled
    cdef Py_ssize_t need        # size of the frame being received, -1 while its prefix is incomplete
    cdef list take_complete(self, list frames, const uint8_t *p, Py_ssize_t n, Py_ssize_t *at, object owner)


cdef class DelimiterFramer(Framer):
    cdef readonly bytes delimiter
    cdef uint8_t delimiter_bytes[16]
    cdef Py_ssize_t delimiter_size
    cdef Py_ssize_t find(self, const uint8_t *p, Py_ssize_t n) noexcept nogil
    cdef bytes held(self, const uint8_t *p, Py_ssize_t n)


cdef class FixedFramer(Framer):
    cdef readonly Py_ssize_t size
