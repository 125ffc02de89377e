"""C door of TLS transports, which the loop makes by `make_tls`: the session, with writing and the end.

Fields and the receiving half are in ``corenet/tls/session.pxd``.
"""

from corenet.tls.session cimport TlsSession

cdef class TlsTransport(TlsSession):
    cdef bint several       # the last turn or callback that wrote wrote more than one piece

    cdef int finish(self) except -1
    cdef int leave_draining(self, object error) except -1
    cdef int put(self, object data) except -1
    cdef int encrypt(self, object data) except -1
    cdef int written(self) except -1
    cdef int send_collected(self) except -1
    cdef Py_ssize_t unsent(self) except -1
    cdef int begin_write(self) except -1
