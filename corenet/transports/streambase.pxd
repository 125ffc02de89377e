"""C interface of what sockets and pipes share, and of our own protocols, which get bytes without Python objects.

`protocol_kind` says how the protocol receives: `StreamBase.attach_protocol` sets it; `on_events` and the three
receiving methods check it. A `NativeProtocol` provides the buffer for the next bytes and is then called with what was received.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from corenet.core.poller cimport Watcher
from corenet.transports.stream_sender cimport StreamSender

cdef enum:
    PROTOCOL_STREAMING = 0       # data_received
    PROTOCOL_BUFFERED = 1        # get_buffer and buffer_updated
    PROTOCOL_NATIVE = 2          # NativeProtocol.bytes_received
    PROTOCOL_WRITE_ONLY = 3      # writing end of a pipe: a read event means that the reader has closed

cdef bint is_buffered(object protocol) except -1

cdef class NativeProtocol(Watcher):
    # The buffer, of `size` bytes, for the next bytes; NULL: the loop's receive buffer.
    cdef uint8_t *get_receive_buffer(self, size_t *size) except? NULL
    # Called with received bytes, valid during the call only; it must handle exceptions of user code.
    cdef int bytes_received(self, const uint8_t *data, size_t length) except -1
    # Called when it was set on a transport, and when `protocol` has replaced it there.
    cdef int on_attached(self, object transport) except -1
    cdef int on_replaced(self, object protocol) except -1
    # Called by pause_reading, also when already paused; returns 1 if it may hold back received data. Called by
    # resume_reading, which does nothing more if it returns False: the protocol first delivers what it holds, then calls
    # resume_reading again.
    cdef int on_reading_paused(self) except -1
    cdef bint on_reading_resumed(self) except -1
    # Send each of `payloads` as a frame of this protocol's framer, on any transport.
    cdef int send_frames(self, object transport, object payloads) except -1

cdef class StreamBase(StreamSender):
    cdef NativeProtocol native_protocol
    cdef int protocol_kind
    cdef int expected       # bytes of the last event, or 0 if fewer than RECEIVE_HINT_MIN

    cdef ssize_t recv_some(self, void *data, size_t length) noexcept
    cdef int receive_by_kind(self) except -1
    cdef int receive(self) except -1
    cdef int receive_consumed(self) except -1
    cdef int receive_into(self) except -1
    cdef int on_pipe_reader_closed(self) except -1
    cdef int on_eof(self) except -1
    cdef int callback_failed(self, str message) except -1
    cdef int read_failed(self, int number) except -1
