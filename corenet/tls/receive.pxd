"""C interface of the receiving half of TLS: one object is the protocol of the stream below and the transport above.

The stream passes ciphertext to `bytes_received` without a Python call. All fields of both halves are declared here.
`corenet.tls.transport` overrides the methods that raise NotImplementedError in this half.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t, uint64_t

from corenet.core.engine cimport Engine
from corenet.core.handles cimport TimerHandle
from corenet.tls.engine cimport TlsEngine
from corenet.transports.stream cimport ConnectionList, StreamTransport
from corenet.transports.streambase cimport NativeProtocol

# States of the connection; the table of states and events is in `corenet.tls.transport`.
cdef enum:
    NEW = 0
    HANDSHAKE = 1
    OPEN = 2
    CLOSING = 3     # our close_notify is sent; the peer's is awaited
    CLOSING_UNDERLYING = 4      # the transport below is closing
    DRAINING = 5    # the transport below is closed, and a paused protocol has unread data
    CLOSED = 6

# States of the protocol above.
cdef enum:
    APP_NEW = 0
    APP_MADE = 1
    APP_EOF = 2
    APP_LOST = 3


cdef int64_t nanoseconds(double seconds) noexcept

cdef class TlsReceiver(NativeProtocol):
    cdef Engine loop
    cdef TlsEngine engine
    cdef object underlying             # the transport below
    cdef StreamTransport underlying_stream     # the same if it is a StreamTransport, else None
    cdef object protocol
    cdef object waiter
    cdef object underlying_error      # the error of connection_lost below, while DRAINING
    cdef object sslcontext
    cdef object resumption      # the Resumption of a client whose context resumes, else None
    cdef dict extra
    cdef list pending_plaintext           # not encrypted yet: the handshake is incomplete, or the peer must send first
    cdef Py_ssize_t pending_plaintext_size
    cdef TimerHandle timer
    cdef ConnectionList connections          # of the server, from connection_lost below until connection_lost above
    cdef uint64_t last_delivery_iteration       # the loop iteration of the last data_received or buffer_updated
    cdef uint64_t last_delivery_at_drain   # the same when the timer of DRAINING was started
    cdef double handshake_timeout
    cdef double shutdown_timeout
    cdef double began
    cdef Py_ssize_t write_high
    cdef Py_ssize_t write_low
    cdef Py_ssize_t read_high
    cdef Py_ssize_t read_low
    cdef Py_ssize_t unflushed_plaintext       # plaintext encrypted since the last write to the transport below
    cdef int state
    cdef int app_state
    cdef int lost_writes
    cdef bint closing
    cdef bint in_callback            # received bytes are being processed; writes and close wait for the end
    cdef bint flush_deferred
    cdef bint underlying_write_paused     # the transport below has called pause_writing
    cdef bint app_paused        # pause_writing of the protocol above was called
    cdef bint reading_paused    # the protocol above has called pause_reading
    cdef bint underlying_paused        # pause_reading of the transport below was called
    cdef bint eof_seen          # the transport below has reported the end of its stream
    cdef bint peer_ended        # the peer has sent close_notify, and eof_received returned true: our direction stays open
    cdef bint write_ended       # half_close was called
    cdef bint half_close_due    # its close_notify is not sent yet
    cdef bint resuming
    cdef bint buffered_protocol
    cdef bint native_protocol          # the protocol is a NativeProtocol
    cdef bint protocol_has_pending           # it has paused and may hold data that its user has not read
    cdef bint server_side
    cdef object __weakref__
    cdef dict __dict__

    cdef int step_handshake(self) except -1
    cdef int bound_answers(self) except -1
    cdef int prepare_resumption(self) except -1
    cdef int keep_session(self) except -1
    cdef int handshake_done(self) except -1
    cdef int handshake_failed(self, object error) except -1
    cdef int wake(self, object error) except -1
    cdef int stop_timer(self) except -1
    cdef bint receiving(self) noexcept
    cdef bint read_wanted(self) except -1
    cdef int deliver(self, const uint8_t *data, size_t length) except -1
    cdef int deliver_copied(self, const uint8_t *data, size_t length) except -1
    cdef int deliver_into(self, const uint8_t *data, size_t length) except -1
    cdef int deliver_end_of_stream(self) except -1
    cdef bint has_undelivered(self) noexcept
    cdef int call_connection_lost(self, object error) except -1
    cdef int insert_tls(self, ConnectionList connections) except -1
    cdef int drain(self) except -1
    cdef int finish_draining(self, object error) except -1
    cdef bint call_eof_received(self) except -1
    cdef int begin_shutdown(self) except -1
    cdef int step_shutdown(self) except -1
    cdef int on_base_exception(self) except -1
    cdef int resume_io(self) except -1
    cdef int flush_backlog(self) except -1
    cdef int flush_ciphertext(self, bint force) except -1
    cdef int control_writing(self) except -1
    cdef int control_reading(self) except -1
    cdef int fatal(self, object error, str message) except -1
    cdef int attach_protocol(self, object protocol) except -1
