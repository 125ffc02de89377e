"""C interface of the TLS engine: ciphertext in and out, plaintext in and out, and the state of the handshake.

Two classes implement it: `corenet.tls.openssl_engine` with libssl's own functions, `corenet.tls.stdlib_engine` with the
standard library's objects. `corenet.tls.engines` chooses.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

cdef enum:
    HEADER = 5
    # RFC 5246 section 6.2.3: the longest body of a record, compression and padding included.
    LONGEST_BODY = 18432

cdef size_t CONTROL_RECORDS

# Time spent in handshakes of servers by this process.
cdef int64_t handshake_ns

# The position in a stream of records, from their headers.
cdef struct Scanner:
    uint8_t header[HEADER]
    int header_have
    size_t body_left        # of the current record; 0 between records
    size_t last_size        # of the newest record's body, an upper bound of its plaintext

cdef size_t scan_records(Scanner *scanner, const uint8_t *data, size_t length) noexcept nogil

cdef class TlsEngine:
    cdef readonly object ssl_object
    cdef readonly bint established
    cdef bint has_ciphertext        # there may be ciphertext to send
    cdef bint ended                 # the peer's close_notify was read; later bytes are ignored
    cdef object failure             # why a record could not be decrypted, after all earlier plaintext was returned
    cdef object policy              # the ClientContext that checks the server, else None
    cdef readonly double valid_until        # when its check expires, in seconds since the epoch
    cdef object trust               # the policy's trust settings when the connection was made
    cdef size_t answers             # bytes of ciphertext that reading has produced; the transport resets it
    cdef bint native                # sessions can be resumed and staples read
    cdef size_t feed_size           # the best size of the pieces of ciphertext to feed

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
    cdef bint send_close_notify(self) except -1
    cdef bint step_shutdown(self) except -1
    cdef int finish(self) except -1
    cdef Py_ssize_t unread(self) except -1
    cdef Py_ssize_t unsent(self) except -1
    cdef int check_server(self) except -1
    cdef int ask_staple(self) except -1
    cdef bytes staple(self)
    cdef bint resume(self, object session) except -1
    cdef object new_session(self)

cdef object flooded()
