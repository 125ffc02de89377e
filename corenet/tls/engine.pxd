"""C door of the TLS engine: ciphertext in and out, plaintext in and out, and where the handshake stands.

Two classes do it: `corenet.tls.openssl_engine` by libssl's own functions, `corenet.tls.stdlib_engine` by the standard
library's objects. `corenet.tls.engines` chooses.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

cdef enum:
    HEADER = 5
    # RFC 5246 section 6.2.3: the longest body of a record, compression and padding included.
    LONGEST_BODY = 18432

cdef size_t CONTROL_RECORDS

# Where a stream of records stands, by their headers.
cdef struct Scanner:
    uint8_t header[HEADER]
    int header_have
    size_t body_left        # of the present record; 0 outside of one
    size_t last_size        # of the newest record's body: its plaintext is no longer

cdef size_t scan_records(Scanner *scanner, const uint8_t *data, size_t length) noexcept nogil

cdef class TlsEngine:
    cdef readonly object ssl_object
    cdef readonly bint established
    cdef bint has_ciphertext        # there may be ciphertext to take
    cdef bint ended                 # the peer's close_notify was read; nothing counts that comes behind it
    cdef object failure             # why a record could not be decrypted, behind all plaintext that was handed out
    cdef object policy              # the ClientContext that judges the server, else None
    cdef readonly double valid_until        # how long what it has checked is valid, in seconds since the epoch
    cdef object trust               # what of the policy decided about trust when the connection was made
    cdef size_t answers             # bytes of ciphertext that reading has caused, until somebody sets it to 0
    cdef bint native                # sessions and staples can be asked for and seen
    cdef size_t feed_size           # ciphertext is best fed in pieces of this size

    cdef int check_made(self) except -1
    cdef int check_established(self) except -1
    cdef int feed_bytes(self, const uint8_t *data, size_t length) except -1
    cdef bint step_handshake(self) except -1
    cdef bint readable(self) noexcept
    cdef object decrypt(self, const uint8_t *data, size_t length)
    cdef Py_ssize_t fill(self, object target) except -1
    cdef Py_ssize_t write_record(self, object data) except -2
    cdef object take(self, const char **data, size_t *length)
    cdef int taken(self) except -1
    cdef bint step_shutdown(self) except -1
    cdef int finish(self) except -1
    cdef Py_ssize_t unread(self) except -1
    cdef Py_ssize_t unsent(self) except -1
    cdef int judge(self) except -1
    cdef int ask_staple(self) except -1
    cdef bytes staple(self)
    cdef bint resume(self, object session) except -1
    cdef object new_session(self)

cdef object flooded()
