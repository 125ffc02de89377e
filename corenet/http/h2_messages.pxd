# C interface: the messages on a stream of HTTP/2 (RFC 9113 section 8); no frames, no I/O.

from libc.stdint cimport int64_t, uint8_t, uint32_t

from corenet.http.hpack cimport HpackEncoder, Octets


# The kind of block that `encode_block` checks for.
cdef enum Block:
    B_REQUEST
    B_RESPONSE
    B_TRAILERS


cdef class Messages:
    cdef bytes method               # of the request
    # receiving
    cdef int64_t length_left        # of the Content-Length, -1 without one
    cdef bint head_received, no_body
    cdef int informational
    # sending
    cdef int64_t send_left          # of our own Content-Length, -1 without one
    cdef bint head_sent, no_body_sent


cdef str read_request(Messages stream, uint32_t number, list fields, const uint8_t *kinds, bint end, list events)
cdef str read_response(Messages stream, uint32_t number, list fields, const uint8_t *kinds, bint end, list events)
cdef str read_trailers(list fields, const uint8_t *kinds)
cdef str count_received(Messages stream, Py_ssize_t n)
cdef str received_whole(Messages stream)

cdef list pseudo_of_request(request, bytes scheme)
cdef list pseudo_of_response(Messages stream, int code, bint informational)
cdef int encode_block(Messages stream, HpackEncoder encoder, Octets *out, list pseudo, list fields, int what,
                      bint end) except -1
cdef int count_sent(Messages stream, Py_ssize_t n, bint end) except -1
cdef int check_trailers(list fields) except -1
