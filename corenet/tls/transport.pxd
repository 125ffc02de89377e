"""C interface of TLS transports, which the loop creates with `make_tls`: writing and closing.

The fields and the receiving half are in ``corenet/tls/receive.pxd``.
"""

from libc.stdint cimport uint64_t

from corenet.tls.receive cimport TlsReceiver

cdef class TlsTransport(TlsReceiver):
    cdef uint64_t last_write_callback     # the callback that wrote here last
    cdef bint flushing                    # the engine's ciphertext is being handed down

    cdef int close_underlying(self) except -1
    cdef int defer_flush(self) except -1
    cdef int send_ciphertext(self) except -1
    cdef int write_plaintext(self, object data) except -1
    cdef int encrypt(self, object data) except -1
    cdef int after_write(self) except -1
    cdef int flush_deferred_writes(self) except -1
    cdef Py_ssize_t unsent(self) except -1
    cdef int begin_write(self) except -1
