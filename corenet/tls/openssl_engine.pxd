"""C door of the TLS engine that calls libssl itself.

A `Wire` is the memory between the two sides of a BIO of ours. It belongs to the BIO and is freed with it: the BIO ends when
the last of the engine and OpenSSL's connection lets go of it, whichever that is, so an SSLObject that outlives its transport
finds it whole.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from corenet.tls.engine cimport Scanner, TlsEngine

cdef struct Wire:
    uint8_t *kept           # ciphertext of ours that waits for OpenSSL; NULL when there is none
    size_t kept_at
    size_t kept_end
    size_t kept_size        # of the block
    const uint8_t *lent     # ciphertext of the caller, behind what is kept; only during a call
    size_t lent_left
    uint8_t *out            # ciphertext for the peer; NULL when there is none
    size_t out_end
    size_t out_size
    size_t out_hint         # the size that the next block begins with
    Scanner scanner         # of what OpenSSL was given
    size_t control          # records since the last that had data
    bint counting           # the handshake is over
    bint starved            # there was no memory for `out`: OpenSSL may go on as if nothing were wrong
    bint flooded            # there were too many of them: OpenSSL gets no more

cdef class OpenSSLEngine(TlsEngine):
    cdef object ssl_core    # `_ssl._SSLSocket`: owns the `SSL`
    cdef void *connection   # the `SSL`
    cdef void *bio          # a reference of ours
    cdef Wire *wire         # of the BIO
    cdef uint8_t *sending   # what `take` has given
    cdef void *last_session     # a reference of ours to the newest session that was looked at, or NULL
    cdef bint busy          # OpenSSL is being called: nobody else may call it, from a callback of a context for one

    cdef int read_step(self, char *target, size_t room, size_t *got) except -1
    cdef object explain(self)

cdef OpenSSLEngine openssl_engine(object ssl_object, object policy)

cdef class TlsSession:
    cdef void *session      # a reference of ours
    cdef readonly bint single_use       # a ticket of TLS 1.3
    cdef readonly size_t octets         # with the server's certificates, as far as that can be told
    cdef readonly unsigned long lifetime        # in seconds, as the server says; 0: it says nothing
    cdef public double expires          # both in seconds since the epoch, and set by who keeps it
    cdef public double trusted_until

cdef TlsSession tls_session(void *connection, void *session)
