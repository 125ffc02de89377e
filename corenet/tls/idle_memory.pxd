"""C interface of the release of freed memory after a burst of handshakes."""

from corenet.core.engine cimport Engine

cdef int note_handshake(Engine loop) except -1
