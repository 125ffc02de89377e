"""C door of TLS transports, which the loop makes by `make_tls`: the session, with writing and the end.

Fields and the receiving half are in ``corenet/tls/session.pxd``.
"""

from libc.stdint cimport uint64_t

from corenet.tls.session cimport TlsSession

cdef class TlsTransport(TlsSession):
    cdef uint64_t last_callback     # the callback that wrote here last

    cdef int finish(self) except -1
    cdef int hold(self) except -1
    cdef int put(self, object data) except -1
    cdef int encrypt(self, object data) except -1
    cdef int written(self) except -1
    cdef int send_collected(self) except -1
    cdef Py_ssize_t unsent(self) except -1
    cdef int begin_write(self) except -1
