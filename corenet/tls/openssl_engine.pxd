"""C interface of the TLS engine that calls libssl directly.

A `Wire` holds the ciphertext buffers of our BIO. The BIO owns it and frees it. The engine and OpenSSL's connection each
hold a reference to the BIO, so it stays valid for an SSLObject that outlives its transport.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from corenet.tls.engine cimport Scanner, TlsEngine

cdef struct Wire:
    uint8_t *kept           # our copy of received ciphertext that OpenSSL has not read; NULL when there is none
    size_t kept_at
    size_t kept_end
    size_t kept_size        # size of the block
    const uint8_t *borrowed     # the caller's ciphertext, which follows `kept`; set only during a call
    size_t borrowed_left
    uint8_t *out            # ciphertext for the peer; NULL when there is none
    size_t out_end
    size_t out_size
    size_t out_hint         # the size that the next block begins with
    Scanner scanner         # of what OpenSSL was given
    size_t control          # records since the last that had data
    bint counting           # the handshake is over
    bint out_of_memory            # there was no memory for `out`: OpenSSL may continue as if it had been written
    bint flooded            # there were too many of them: OpenSSL gets no more

cdef class OpenSSLEngine(TlsEngine):
    cdef object ssl_core    # `_ssl._SSLSocket`: owns the `SSL`
    cdef void *connection   # the `SSL`
    cdef void *bio          # owned reference
    cdef Wire *wire         # owned by the BIO
    cdef uint8_t *sending   # the block that `take` has returned; owned
    cdef void *last_session     # owned reference to the newest session that was examined, or NULL
    cdef bint busy          # a call of OpenSSL is in progress; callbacks of a context must not start another

    cdef int read_step(self, char *target, size_t capacity, size_t *got) except -1
    cdef object explain(self)

cdef OpenSSLEngine openssl_engine(object ssl_object, object policy)

cdef class TlsSession:
    cdef void *session      # owned reference
    cdef readonly bint single_use       # a ticket of TLS 1.3
    cdef readonly size_t octets         # estimated memory, certificates included
    cdef readonly unsigned long lifetime        # in seconds, from the server; 0: none given
    cdef public double expires          # both in seconds since the epoch, set by `corenet.tls.sessions`
    cdef public double trusted_until

cdef TlsSession tls_session(void *connection, void *session)
