"""C interface of the writer of native streams and of the protocol between a transport and its reader."""

from corenet.transports.reader cimport ReaderCore
from corenet.transports.stream cimport StreamTransport
from corenet.transports.streambase cimport NativeProtocol

cdef class ProtocolCore(NativeProtocol):
    cdef public object _loop
    cdef readonly object _stream_reader
    cdef ReaderCore reader          # the reader, if it is ours
    cdef object drains              # futures of the drain calls that wait for resume_writing
    cdef readonly bint _paused
    cdef readonly bint _connection_lost

    cdef int wake_drain_waiters(self, object error) except -1

cdef class WriterCore:
    cdef readonly object _transport
    cdef readonly object _protocol
    cdef readonly object _reader
    cdef readonly object _loop
    cdef StreamTransport stream     # the transport when it is one of our streams
    cdef ProtocolCore core          # the protocol when it is ours
    cdef ReaderCore source          # the reader when it is ours

    cdef bint drain_is_immediate(self) except -1
