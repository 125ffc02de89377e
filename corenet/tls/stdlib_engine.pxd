"""C interface of the TLS engine on the standard library's memory BIOs.

`records` counts complete records that were fed and not read yet, so OpenSSL is called only when it can return data.
"""

from libc.stddef cimport size_t

from corenet.tls.engine cimport Scanner, TlsEngine

cdef class StdlibEngine(TlsEngine):
    cdef object ssl_core            # its methods are called for each record: `_ssl._SSLSocket`, or the user's SSLObject
    cdef object incoming
    cdef object outgoing
    cdef Scanner scanner        # of what was fed
    cdef Py_ssize_t records
    cdef bint counted           # if OpenSSL returns no data, all of `records` are records without data
    cdef size_t control         # records without data since the last one with data
    cdef bint has_partial_record          # OpenSSL holds plaintext of a partly read record

    cdef int on_want_read(self) except -1
    cdef void on_data(self) noexcept
    cdef bytes read_record(self)

cdef StdlibEngine stdlib_engine(object ssl_object, object incoming, object outgoing, object policy, bint plain)
