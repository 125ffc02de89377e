"""C door of what sockets and pipes share, and of protocols of our own that take bytes without Python.

`protocol_kind` says how the protocol is served: `StreamBase.attach_protocol` sets it, `on_events` and the three receiving methods look at
it. A `NativeProtocol` is asked where it wants the next bytes, then told what came.
"""

from libc.stddef cimport size_t
from libc.stdint cimport uint8_t, uint64_t

from corenet.core.poller cimport Watcher
from corenet.transports.base cimport Transport
from corenet.transports.writequeue cimport WriteQueue

cdef enum:
    PROTOCOL_STREAMING = 0       # data_received
    PROTOCOL_BUFFERED = 1    # get_buffer and buffer_updated
    PROTOCOL_NATIVE = 2    # Consumer.bytes_received
    PROTOCOL_WRITE_ONLY = 3      # a writing end: what would be received means that the reader has gone

cdef enum:
    CORK_UNSUPPORTED = 0
    CORK_UNPROBED = 1     # nobody has asked yet whether it is TCP
    CORK_SUPPORTED = 2

cdef bint is_buffered(object protocol) except -1

cdef class NativeProtocol(Watcher):
    # Where the next bytes are to be received, `room` of them; NULL: in the loop's own buffer.
    cdef uint8_t *get_receive_buffer(self, size_t *room) except? NULL
    # Called with what was received, valid during the call only; exceptions of user code do not leave it.
    cdef int bytes_received(self, const uint8_t *data, size_t length) except -1
    # Called when it was put on a transport, and when `protocol` has taken its place there.
    cdef int on_attached(self, object transport) except -1
    cdef int on_replaced(self, object protocol) except -1
    # Called by pause_reading, also when reading is paused already: 1 when it may hold back what it was given; and by resume_reading, which does nothing more when
    # the answer is False: the consumer has something to hand on first and calls resume_reading again.
    cdef int on_reading_paused(self) except -1
    cdef bint on_reading_resumed(self) except -1
    # Write each of `payloads` as a frame of the framing that this protocol speaks, on any transport.
    cdef int send_frames(self, object transport, object payloads) except -1

cdef list pieces_of(object things)

cdef class StreamBase(Transport):
    cdef WriteQueue queue
    cdef NativeProtocol native_protocol
    cdef bytes pending
    cdef object empty_waiter
    cdef uint64_t last_write_callback     # the callback that wrote here last (`callback_of`), or NEVER
    cdef bint eof_requested
    cdef bint in_writelines         # pieces of one write are being queued; `after_write` follows
    cdef bint multiple_writes           # the last callback that wrote wrote several small pieces
    cdef int cork_support              # whether the kernel can be told that more will follow: TCP. Asked when it would be used first
    cdef bint corked            # it was told so and has not been told otherwise: it sends within 200 ms
    cdef int protocol_kind
    cdef int expected       # how much came with the last event, when that is worth a receive without a copy, else 0

    cdef ssize_t recv_some(self, void *data, size_t length) noexcept
    cdef ssize_t send_some(self, const void *data, size_t length) noexcept nogil
    cdef ssize_t send_queue(self) noexcept nogil
    cdef int probe_cork_support(self) except -1
    cdef int uncork(self) except -1
    cdef int half_close(self) except -1
    cdef int receive(self) except -1
    cdef int receive_consumed(self) except -1
    cdef int receive_into(self) except -1
    cdef int on_pipe_reader_closed(self) except -1
    cdef int on_eof(self) except -1
    cdef int write_bytes(self, bytes data) except -1
    cdef int submit(self, object owner, const char *data, size_t length) except -1
    cdef int enqueue(self, object owner, const char *data, size_t length) except -1
    cdef int after_write(self) except -1
    cdef int flush(self) except -1
    cdef int write_failed(self, int number) except -1
    cdef int on_write_queue_empty(self) except -1
    cdef int fail_empty_waiter(self, object error) except -1
    cdef int callback_failed(self, str message) except -1
    cdef int read_failed(self, int number) except -1
    cdef int check_writable(self) except -1
