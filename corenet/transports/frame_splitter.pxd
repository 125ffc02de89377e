"""C interface of the base class of framed protocols, which splits received bytes into messages.

`send_frames` sends small frames as one packed bytes object; `send_parts` sends large payloads without copying.
"""

from libc.stdint cimport uint8_t

from corenet.core.framer cimport Framer
from corenet.transports.stream cimport StreamTransport
from corenet.transports.streambase cimport NativeProtocol

cdef class FrameSplitter(NativeProtocol):
    cdef readonly Framer framer
    cdef readonly bint views
    cdef public object transport
    cdef object failure         # the error that ends the connection after the pending frames
    cdef object successor       # protocol that replaced us during our own callback
    cdef list pending_frames           # frames not delivered yet, from pending_index on
    cdef Py_ssize_t pending_index
    cdef Py_ssize_t batch
    cdef bint paused            # by pause_frames
    cdef bint reading_paused           # by pause_reading of our own transports
    cdef bint resume_after_delivery        # resume reading when the pending frames were delivered
    cdef bint in_callback            # frames_received is running
    cdef bint ended             # no more frames: frames_ended was called, or we failed
    cdef bint eof_pending           # the peer's end of stream came while frames are pending
    cdef bint detached              # the transport has another protocol
    cdef bint replaced_for_sendfile             # replaced during a sendfile; what is held stays here
    cdef bint paused_while_resuming         # the last pause came while resume_after_delivery was set

    cdef int accept(self, const uint8_t *data, Py_ssize_t size, object owner) except -1
    cdef int deliver_frames(self, list frames) except -1
    cdef int deliver_pending_frames(self) except -1
    cdef int resume_delivery(self) except -1
    cdef int deliver_pending_eof(self) except -1
    cdef int fail(self) except -1
    cdef object finish_eof(self)
    cdef int transfer_to_successor(self) except -1
    cdef object take_undelivered(self)
    cdef int restore_undelivered(self, bytes raw) except -1
    cdef int send_parts(self, StreamTransport stream, object payloads) except -1
