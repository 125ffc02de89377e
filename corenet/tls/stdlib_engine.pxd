"""C door of the TLS engine on the standard library's memory BIOs.

`records` counts records that were fed whole and not yet read, so that nobody asks OpenSSL for what is not there.
"""

from libc.stddef cimport size_t

from corenet.tls.engine cimport Scanner, TlsEngine

cdef class StdlibEngine(TlsEngine):
    cdef object ssl_core            # what is called for each record: below the wrapper when nobody replaced it
    cdef object incoming
    cdef object outgoing
    cdef Scanner scanner        # of what was fed
    cdef Py_ssize_t records
    cdef bint counted           # `records` are all without data, when OpenSSL says that there is none
    cdef size_t control         # records without data since the last that had some
    cdef bint has_partial_record          # OpenSSL holds decrypted bytes of a record that was read in part

    cdef int on_want_read(self) except -1
    cdef void on_data(self) noexcept
    cdef bytes read_record(self)

cdef StdlibEngine stdlib_engine(object ssl_object, object incoming, object outgoing, object policy)
