# C declarations of the HTTP/1.1 codec, for both roles.

from libc.stdint cimport int64_t, uint8_t


cdef class H1Codec:
    cdef readonly bint server
    cdef Py_ssize_t max_head, max_fields, max_chunk_line, max_pipeline
    cdef int64_t max_extensions
    cdef int max_informational
    # receiving
    cdef int receive
    cdef bytes held                 # an incomplete head or trailer section, or pipelined bytes
    cdef Py_ssize_t scan, line_start, lines
    cdef int64_t left               # bytes left in the body or the chunk
    cdef int64_t extensions
    cdef int chunk_digits
    cdef Py_ssize_t chunk_line
    cdef int informational
    cdef readonly bint unexpected_data
    cdef readonly bint content_coded
    cdef readonly bint expects_continue
    cdef bint peer_close
    cdef readonly int peer_version
    # framing fields of the head being parsed
    cdef int64_t field_length
    cdef int field_lengths, field_codings, field_hosts
    cdef bint field_close, field_keep, field_coding_known
    # sending
    cdef int sending
    cdef int64_t send_left
    cdef bint own_close
    cdef bytes request_method

    cpdef list feed(self, data)
    cpdef list count_received(self, int64_t size)
    cpdef list feed_eof(self)
    cpdef bytes send(self, event)
    cpdef bytes send_request(self, bytes method, bytes target, list fields, int64_t length)
    cpdef int repeat_request(self, bytes method) except -1
    cpdef int next_cycle(self) except -1
    cdef void clear(self) noexcept
    cdef int fail(self, str message, int status=*) except -1
    cdef int run(self, bytes data, list events) except -1
    cdef Py_ssize_t head_end(self, const uint8_t *p, Py_ssize_t n, bint trailer) except -2
    cdef int http_version(self, const uint8_t *p, Py_ssize_t n) except -1
    cdef int frame_length(self, int version) except -1
    cdef int parse_head(self, const uint8_t *p, Py_ssize_t n, list events) except -1
    cdef list parse_fields(self, const uint8_t *p, Py_ssize_t n, bint trailer)
    cdef Py_ssize_t fold(self, const uint8_t *p, Py_ssize_t n, list folds) except -1
    cdef int note_field(self, const uint8_t *name, Py_ssize_t n, const uint8_t *v, Py_ssize_t m) except -1
    cdef int frame_request(self, bytes method, int version) except -1
    cdef int frame_response(self, int status, int version) except -1
    cdef Py_ssize_t chunk_head(self, const uint8_t *p, Py_ssize_t n) except -1
    cdef int finish(self, list events, list trailers) except -1
    cdef bytes write_head(self, bytes start, list fields, bint may_have_body, bint request, int status)
    cdef bytes send_body(self, bytes data)
    cdef bytes send_end(self, list trailers)
