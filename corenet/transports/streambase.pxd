"""C interface of what sockets and pipes share, and of our own protocols, which get bytes without Python objects.

`protocol_kind` says how the protocol receives: `StreamBase.attach_protocol` sets it; `on_events` and the three
receiving methods check it. A `NativeProtocol` provides the buffer for the next bytes and is then called with what was received.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

from corenet.core.poller cimport Watcher
from corenet.transports.base cimport Transport
from corenet.transports.writequeue cimport WriteQueue

cdef enum:
    PROTOCOL_STREAMING = 0       # data_received
    PROTOCOL_BUFFERED = 1        # get_buffer and buffer_updated
    PROTOCOL_NATIVE = 2          # NativeProtocol.bytes_received
    PROTOCOL_WRITE_ONLY = 3      # writing end of a pipe: a read event means that the reader has closed

cdef enum:
    CORK_UNSUPPORTED = 0
    CORK_UNPROBED = 1     # not known yet whether the socket is TCP
    CORK_SUPPORTED = 2

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

cdef list pieces_of(object things)

cdef class StreamBase(Transport):
    cdef WriteQueue queue
    cdef NativeProtocol native_protocol
    cdef bytes pending
    cdef object empty_waiter
    cdef uint64_t last_write_callback     # number of the last callback that wrote (`callback_of`), or NEVER
    cdef bint eof_requested
    cdef bint in_writelines         # parts of one write are being queued; `after_write` follows
    cdef bint multiple_writes           # the last callback that wrote made several small writes
    cdef int cork_support              # whether MSG_MORE works (TCP); probed at its first use
    cdef bint corked            # sent with MSG_MORE and not uncorked; the kernel sends within 200 ms
    cdef int protocol_kind
    cdef int expected       # bytes of the last event, or 0 if fewer than RECEIVE_HINT_MIN

    cdef ssize_t recv_some(self, void *data, size_t length) noexcept
    cdef ssize_t send_some(self, const void *data, size_t length) noexcept nogil
    cdef ssize_t send_queue(self) noexcept nogil
    cdef int probe_cork_support(self) except -1
    cdef int uncork(self) except -1
    cdef int half_close(self) except -1
    cdef int receive_by_kind(self) except -1
    cdef int receive(self) except -1
    cdef int receive_consumed(self) except -1
    cdef int receive_into(self) except -1
    cdef int on_pipe_reader_closed(self) except -1
    cdef int on_eof(self) except -1
    cdef int write_bytes(self, bytes data) except -1
    cdef int submit(self, object owner, const char *data, size_t length) except -1
    cdef int submit_pieces(self, list pieces) except -1
    cdef int enqueue(self, object owner, const char *data, size_t length) except -1
    cdef int after_write(self) except -1
    cdef int flush(self) except -1
    cdef int write_failed(self, int number) except -1
    cdef int on_write_queue_empty(self) except -1
    cdef int fail_empty_waiter(self, object error) except -1
    cdef int callback_failed(self, str message) except -1
    cdef int read_failed(self, int number) except -1
    cdef int check_writable(self) except -1
