"""C door of framed protocols: the splitter between received bytes and whole messages.

`packed_or_parts` decides how frames leave: as one packed bytes object, or large payloads as they are, with their header.
"""

from libc.stdint cimport uint8_t

from corenet.core.framer cimport Framer
from corenet.transports.stream cimport StreamTransport
from corenet.transports.streambase cimport Consumer

cdef class FrameSplitter(Consumer):
    cdef readonly Framer framer
    cdef readonly bint views
    cdef public object transport
    cdef object failure         # ends the connection once the frames before it were handed on
    cdef object successor       # took our place on the transport during our own callback
    cdef list backlog           # frames not handed on yet, from backlog_at
    cdef Py_ssize_t backlog_at
    cdef Py_ssize_t batch
    cdef bint paused            # by pause_frames
    cdef bint stopped           # by pause_reading of a transport that tells us
    cdef bint resume_due        # the transport is to resume when our backlog is gone
    cdef bint inside            # frames_received is running
    cdef bint ended             # no more frames: the peer's end was told, or we failed
    cdef bint eof_due           # the peer has ended while frames still wait
    cdef bint gone              # another protocol has the transport
    cdef bint aside             # for the time of a sendfile; what is held stays here
    cdef bint cut_short         # the last pause came when the transport was to be resumed behind our backlog

    cdef int accept(self, const uint8_t *data, Py_ssize_t size, object owner) except -1
    cdef int hand_on(self, list frames) except -1
    cdef int hand_on_backlog(self) except -1
    cdef int go_on(self) except -1
    cdef int end_due(self) except -1
    cdef int fail(self) except -1
    cdef object finish_eof(self)
    cdef int pass_on(self) except -1
    cdef object rest(self)
    cdef int keep(self, bytes raw) except -1
    cdef int send_parts(self, StreamTransport stream, object payloads) except -1
