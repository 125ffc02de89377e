"""C interface: return the memory that a burst of handshakes has freed to the kernel."""

from corenet.core.engine cimport Engine

cdef int note_handshake(Engine loop) except -1
