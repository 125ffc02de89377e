"""C door of the pipe transports; nothing outside this room needs more than their types.

Both share the reading and writing half of `StreamBase` and differ from sockets in the system calls.
"""

from corenet.transports.streambase cimport StreamBase

cdef class ReadPipeTransport(StreamBase):
    pass

cdef class WritePipeTransport(StreamBase):
    pass
