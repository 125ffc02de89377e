"""C door of framed protocols: the splitter between received bytes and whole messages.

`packed_or_parts` decides how frames leave: as one packed bytes object, or large payloads as they are, with their header.
"""

from libc.stdint cimport uint8_t

from corenet.core.framer cimport Framer
from corenet.transports.stream cimport StreamTransport
from corenet.transports.streambase cimport NativeProtocol

cdef class FrameSplitter(NativeProtocol):
    cdef readonly Framer framer
    cdef readonly bint views
    cdef public object transport
    cdef object failure         # ends the connection once the frames before it were handed on
    cdef object successor       # took our place on the transport during our own callback
    cdef list pending_frames           # frames not handed on yet, from pending_index
    cdef Py_ssize_t pending_index
    cdef Py_ssize_t batch
    cdef bint paused            # by pause_frames
    cdef bint reading_paused           # by pause_reading of a transport that tells us
    cdef bint resume_after_delivery        # the transport is to resume when our backlog is gone
    cdef bint in_callback            # frames_received is running
    cdef bint ended             # no more frames: the peer's end was told, or we failed
    cdef bint eof_pending           # the peer has ended while frames still wait
    cdef bint detached              # another protocol has the transport
    cdef bint replaced_for_sendfile             # for the time of a sendfile; what is held stays here
    cdef bint paused_while_resuming         # the last pause came when the transport was to be resumed behind our backlog

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
