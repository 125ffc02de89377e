"""C door of the TLS engine: ciphertext in and out, plaintext in and out, and where the handshake stands.

`records` counts records that were fed whole and not yet read, so that nobody asks OpenSSL for what is not there.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

cdef class TlsEngine:
    cdef readonly object ssl_object
    cdef object ssl_core            # what is called for each record: below the wrapper when nobody replaced it
    cdef object incoming
    cdef object outgoing
    cdef Py_ssize_t record_bytes_left     # bytes of the present record that were not fed yet
    cdef Py_ssize_t records
    cdef Py_ssize_t last_size   # of the newest record's body: its plaintext is no longer
    cdef int header_have
    cdef uint8_t header[5]
    cdef bint has_partial_record          # OpenSSL holds decrypted bytes of a record that was read in part
    cdef readonly bint established
    cdef bint has_ciphertext             # there may be ciphertext to drain

    cdef int feed_bytes(self, const uint8_t *data, size_t length) except -1
    cdef void count_records(self, const uint8_t *data, size_t length) noexcept
    cdef bint step_handshake(self) except -1
    cdef bint readable(self) noexcept
    cdef void on_want_read(self) noexcept
    cdef object read_record(self)
    cdef Py_ssize_t read_record_into(self, object target, Py_ssize_t length) except -2
    cdef Py_ssize_t write_record(self, object data) except -2
    cdef bytes take(self)
    cdef bint step_shutdown(self) except -1
    cdef Py_ssize_t unread(self) except -1
    cdef Py_ssize_t unsent(self) except -1
