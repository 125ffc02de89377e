# C interface of the HTTP/2 connection; both roles, no I/O.

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint32_t

from corenet.http.h2_frames cimport FrameHead
from corenet.http.h2_streams cimport H2Stream, H2Streams
from corenet.http.hpack cimport HpackDecoder


cdef class H2Connection(H2Streams):
    cdef HpackDecoder decoder
    # frames
    cdef bytes held                 # an incomplete frame
    cdef Py_ssize_t preface_left
    cdef bint settings_seen
    cdef int settings_unacknowledged
    cdef bint in_data, data_end
    cdef H2Stream data_stream       # of the DATA frame being received; None when it is skipped
    cdef Py_ssize_t data_left, pad_left
    cdef PyObject *body             # owned: bytes for the Data event `body_event` during `feed`; `body_size` are filled
    cdef Py_ssize_t body_size
    cdef object body_event
    cdef uint32_t block_stream      # of the field block being received, 0 for none
    cdef int block_flags, continuations
    cdef bytearray block
    # limits
    cdef Py_ssize_t max_head
    cdef int max_streams
    cdef Py_ssize_t table_size
    cdef int64_t window_target

    cpdef list feed(self, data, double now=*)
    cdef int run(self, const uint8_t *p, Py_ssize_t n, list events) except -1
    cdef int begin_data(self, const uint8_t *p, Py_ssize_t length, int flags, uint32_t number, list events) except -1
    cdef int deliver(self, H2Stream stream, const uint8_t *p, Py_ssize_t n, Py_ssize_t input_left, list events) except -1
    cdef int finish_body(self) except -1
    cdef int frame(self, const FrameHead *head, const uint8_t *p, list events) except -1
    cdef int begin_block(self, int flags, uint32_t number, const uint8_t *p, Py_ssize_t n, list events) except -1
    cdef int end_block(self, int flags, uint32_t number, const uint8_t *p, Py_ssize_t n, list events) except -1
    cdef int on_settings(self, int flags, const uint8_t *p, Py_ssize_t n, list events) except -1
    cdef int on_window_update(self, uint32_t number, const uint8_t *p, list events) except -1
    cdef int on_goaway(self, const uint8_t *p, Py_ssize_t n, list events) except -1
    cdef int begin(self) except -1
