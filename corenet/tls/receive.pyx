"""The receiving half of a TLS connection: ciphertext from the stream below, the handshake, plaintext to the protocol.

Received bytes are decrypted in the same event and passed on as one piece. The other half, writing and closing, is
`corenet.tls.transport`. Its class is the only one that derives from this one. The table of states is there.

The protocol gets the peer's data in order: plaintext, then the end (close_notify, a record that cannot be decrypted, or
the end of the stream below). A protocol that has paused, also inside `data_received`, gets the end only after it
resumes, as on TCP. Until then nothing is received from below (`read_wanted`). If the stream below ends anyway, the
connection is DRAINING.
"""

import ssl
from asyncio import constants
from asyncio.log import logger

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

from corenet.core.engine cimport Engine
from corenet.core.libc cimport CLOCK_MONOTONIC, clock_ns
from corenet.tls cimport engine as tls_engine
from corenet.tls.engines cimport make_engine
from corenet.tls.idle_memory cimport note_handshake
from corenet.transports.base cimport call_method0, call_method1, buffer_limits
from corenet.transports.stream cimport ConnectionList, StreamTransport
from corenet.transports.streambase cimport NativeProtocol, is_buffered

from corenet.limits import TLS_ANSWERS_SIZE, TLS_DRAIN_TIMEOUT, TLS_HANDSHAKE_TIMEOUT, TLS_READ_HIGH_WATERMARK, TLS_SHUTDOWN_TIMEOUT, TLS_WRITE_HIGH_WATERMARK
from corenet.tls import ssl_transport_type
from corenet.tls.default import shared_context, standard_context

__all__ = ["TlsReceiver"]

cdef int64_t DRAINING_NS = <int64_t>TLS_DRAIN_TIMEOUT * 1000000000
cdef size_t ANSWERS = TLS_ANSWERS_SIZE
cdef Py_ssize_t READ_HIGH = TLS_READ_HIGH_WATERMARK
cdef Py_ssize_t WRITE_HIGH = TLS_WRITE_HIGH_WATERMARK
# In seconds.
cdef double CENTURY = 100 * 365.25 * 86400
cdef object SENDFILE = constants._SendfileMode.FALLBACK


cdef double timeout_of(str name, object value, int default) except -1.0:
    if value is None:
        return default
    if not value > 0:
        # NaN is refused, too; infinity means no timeout.
        raise ValueError(f"{name} should be a positive number, got {value}")
    return value


cdef object context_or_default(object context, bint server_side, object server_hostname):
    """The user's context; for clients without one, the standard library's default context."""
    if context:
        return context
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    return shared_context(standard_context(bool(server_hostname)))


cdef int64_t nanoseconds(double seconds) noexcept:
    """`seconds` in nanoseconds; infinity and everything above a century become a century."""
    return <int64_t>((seconds if seconds < CENTURY else CENTURY) * 1e9)


cdef class TlsReceiver(NativeProtocol):
    """The receiving half of one TLS connection."""

    def __cinit__(
        self,
        loop: Engine,
        protocol: object,
        sslcontext: object,
        waiter: object = None,
        server_side: bool = False,
        server_hostname: str | None = None,
        call_connection_made: bool = True,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        self.handshake_timeout = timeout_of("ssl_handshake_timeout", ssl_handshake_timeout, TLS_HANDSHAKE_TIMEOUT)
        self.shutdown_timeout = timeout_of("ssl_shutdown_timeout", ssl_shutdown_timeout, TLS_SHUTDOWN_TIMEOUT)
        self.loop = loop
        self.waiter = waiter
        self.server_side = server_side
        self.sslcontext = context_or_default(sslcontext, server_side, server_hostname)
        self.write_high = WRITE_HIGH
        self.write_low = WRITE_HIGH // 4
        self.read_high = READ_HIGH
        self.read_low = READ_HIGH // 4
        self.app_state = APP_NEW if call_connection_made else APP_MADE
        self.attach_protocol(protocol)
        self.engine = make_engine(
            self.sslcontext, server_side, server_hostname if server_hostname and not server_side else None
        )

    cdef int attach_protocol(self, object protocol) except -1:
        cdef object former
        cdef bint buffered = is_buffered(protocol)
        # Read after `is_buffered`, which may run user code that calls set_protocol.
        former = self.protocol
        self.protocol = protocol
        self.native_protocol = isinstance(protocol, NativeProtocol)
        self.buffered_protocol = buffered
        if former is not None and former is not protocol and isinstance(former, NativeProtocol):
            (<NativeProtocol>former).on_replaced(protocol)
        return 0

    # --- shape ----------------------------------------------------------------------------------------------------

    @property
    def __class__(self) -> type:
        return ssl_transport_type.SSLTransport

    @property
    def _start_tls_compatible(self) -> bool:
        return True

    @property
    def _sendfile_compatible(self) -> object:
        return SENDFILE

    @property
    def _loop(self) -> object:
        return self.loop

    @property
    def _ssl_protocol(self) -> object:
        return self

    @property
    def _app_transport(self) -> object:
        return self

    @property
    def _app_protocol(self) -> object:
        return self.protocol

    @property
    def _transport(self) -> object:
        return self.underlying

    @property
    def _sslcontext(self) -> object:
        return self.sslcontext

    @property
    def _sslobj(self) -> object:
        return self.engine.ssl_object

    @property
    def _protocol_paused(self) -> bool:
        return self.app_paused

    def __repr__(self) -> str:
        state = ("new", "handshake", "open", "closing", "closing", "draining", "closed")[self.state]
        return f"<{self.__class__.__name__} {state} over {self.underlying!r}>"

    def get_extra_info(self, name: str, default: object = None) -> object:
        """Return information about the session (once the handshake is done) or about the transport below."""
        cdef object found
        if name == "sslcontext":
            return self.sslcontext
        if name == "ssl_object" or name == "peercert" or name == "cipher" or name == "compression":
            if not self.engine.established:
                return default
            if name == "ssl_object":
                return self.engine.ssl_object
            if self.extra is None:
                self.extra = {}
            elif name in self.extra:
                return self.extra[name]
            if name == "peercert":
                found = self.engine.ssl_object.getpeercert()
            elif name == "cipher":
                found = self.engine.ssl_object.cipher()
            else:
                found = self.engine.ssl_object.compression()
            self.extra[name] = found
            return found
        if self.underlying is not None:
            return self.underlying.get_extra_info(name, default)
        return default

    def set_protocol(self, protocol: object) -> None:
        """Replace the protocol."""
        self.attach_protocol(protocol)
        if isinstance(protocol, NativeProtocol):
            (<NativeProtocol>protocol).on_attached(self)

    def get_protocol(self) -> object:
        """Return the protocol; None after connection_lost."""
        return self.protocol

    def is_closing(self) -> bool:
        """Return whether the transport is closing or closed."""
        return self.closing

    # --- the protocol of the transport below ----------------------------------------------------------------------

    def connection_made(self, transport: object) -> None:
        """Begin the handshake on `transport`."""
        self.underlying = transport
        if type(transport) is StreamTransport:
            self.underlying_stream = transport
        if self.closing:
            self.state = CLOSING_UNDERLYING
            self.underlying.abort()
            return
        self.state = HANDSHAKE
        if self.loop.debug:
            logger.debug("%r starts SSL handshake", self)
            self.began = self.loop.time()
        self.timer = self.loop.call_later_ns(nanoseconds(self.handshake_timeout), self._handshake_expired, ())
        if not self.server_side:
            self.prepare_resumption()
            self.step_handshake()
        elif self.engine.unread():
            self.step_handshake()

    cdef int prepare_resumption(self) except -1:
        """Offer a stored session to the server, if the context has one."""
        cdef object session
        if not self.engine.native or self.engine.policy is None:
            return 0
        self.resumption = self.engine.policy.resumption(
            self.engine.ssl_object.server_hostname, self.underlying.get_extra_info("peername"), self.engine.trust
        )
        if self.resumption is not None:
            session = self.resumption.offer()
            if session is not None:
                self.engine.resume(session)
        return 0

    cdef int keep_session(self) except -1:
        """Store a new session of the server, if there is one."""
        cdef object session = self.engine.new_session()
        if session is not None:
            self.resumption.keep(session)
        return 0

    cdef int bytes_received(self, const uint8_t *data, size_t length) except -1:
        if self.state >= CLOSING_UNDERLYING:
            return 0
        if self.state == OPEN:
            self.in_callback = True
            try:
                self.deliver(data, length)
                if self.state == OPEN:
                    if self.engine.answers:
                        self.bound_answers()
                    if self.reading_paused or self.underlying_paused:
                        self.control_reading()
                    if self.pending_plaintext is not None or self.half_close_due:
                        self.flush_backlog()
            except (SystemExit, KeyboardInterrupt):
                self.on_base_exception()
                raise
            except BaseException as error:
                self.fatal(error, "Fatal error on SSL protocol")
                return 0
            finally:
                self.in_callback = False
            if self.state == CLOSING:
                return self.step_shutdown()
            if self.engine.has_ciphertext and self.state == OPEN:
                self.flush_ciphertext(False)
            return 0
        self.engine.feed_bytes(data, length)
        if self.state == HANDSHAKE:
            return self.step_handshake()
        if self.state == CLOSING:
            return self.step_shutdown()
        return 0

    cdef int bound_answers(self) except -1:
        """Bound the memory of responses (for example to key updates) that the peer causes and does not read."""
        if not self.underlying_write_paused:
            self.engine.answers = 0
        elif self.engine.answers > ANSWERS:
            raise ssl.SSLError(1, f"the peer does not read our TLS responses: {self.engine.answers} bytes are unsent")
        return 0

    def data_received(self, data: object) -> None:
        """Take ciphertext from a transport that is not a StreamTransport."""
        if type(data) is not bytes:
            data = bytes(memoryview(data))
        self.bytes_received(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def eof_received(self) -> object:
        """The stream below has ended. Without close_notify from the peer its data may have been truncated."""
        self.eof_seen = True
        if self.loop.debug:
            logger.debug("%r received EOF", self)
        if self.state == HANDSHAKE:
            self.handshake_failed(ConnectionResetError("the peer ended the connection during the TLS handshake"))
        elif self.state == OPEN:
            if not self.peer_ended and (self.reading_paused or self.resuming):
                # The protocol must get the earlier data first.
                return True
            self.deliver_end_of_stream()
            if self.peer_ended:
                # This is only TCP's end after close_notify. Our direction stays open.
                return True
        elif self.state == CLOSING:
            self.step_shutdown()
        return None

    def pause_writing(self) -> None:
        """The write buffer of the transport below is above its high watermark."""
        self.underlying_write_paused = True

    def resume_writing(self) -> None:
        """The write buffer of the transport below is at or below its low watermark."""
        self.underlying_write_paused = False
        if self.state < CLOSING_UNDERLYING and self.underlying is not None:
            self.flush_ciphertext(False)

    def connection_lost(self, error: BaseException | None) -> None:
        """The transport below is closed."""
        cdef ConnectionList connections = None if self.underlying_stream is None else self.underlying_stream.connections
        if self.state == OPEN and (self.resuming or (self.reading_paused and self.has_undelivered())):
            if self.resuming or not self.app_paused:
                self.underlying_error = error
                self.insert_tls(connections)
                self.drain()
                return
            # Do not drain: the reader may be waiting for `resume_writing`, which will not come.
            if error is None:
                error = ConnectionAbortedError("the connection ended before everything received was read")
        if self.last_delivery_iteration == self.loop.iteration and self.state != CLOSED:
            # This loop iteration's delivery has woken a reader, which runs in the next one. The end comes after that.
            self.insert_tls(connections)
            self.finish_draining(error)
        else:
            self.call_connection_lost(error)

    cdef int insert_tls(self, ConnectionList connections) except -1:
        """Keep the connection in the server's list until connection_lost; the stream below leaves the list now."""
        self.underlying_stream = None
        if connections is not None and self.connections is None:
            connections.insert_tls(self)
            self.connections = connections
        return 0

    cdef int drain(self) except -1:
        """Wait until the protocol has read all data; start the timer that checks for progress."""
        self.state = DRAINING
        self.last_delivery_at_drain = self.last_delivery_iteration
        self.timer = self.loop.call_later_ns(DRAINING_NS, self._draining_expired, ())
        return 0

    def _draining_expired(self) -> None:
        cdef object error
        self.timer = None
        if self.state != DRAINING:
            return
        if self.last_delivery_iteration != self.last_delivery_at_drain:
            self.drain()
            return
        error = ConnectionAbortedError(
            f"received data was not read within {TLS_DRAIN_TIMEOUT} s after the connection had ended"
        )
        error.__cause__ = self.underlying_error
        self.finish_draining(error)

    cdef int finish_draining(self, object error) except -1:
        """Drop unread data, if any; connection_lost follows in the next loop iteration."""
        self.closing = True
        self.state = CLOSING_UNDERLYING
        self.stop_timer()
        self.loop.call_soon_c(self._call_connection_lost, (error,), None)
        return 0

    cdef bint has_undelivered(self) noexcept:
        """Return whether received data or the end of the stream has not reached the paused protocol."""
        return not self.peer_ended and (
            self.protocol_has_pending or self.eof_seen or self.engine.ended or self.engine.failure is not None
            or self.engine.readable()
        )

    cdef int call_connection_lost(self, object error) except -1:
        """Move to CLOSED, release everything and call connection_lost of the protocol, once."""
        cdef object protocol = self.protocol
        cdef ConnectionList connections = self.connections
        cdef bint notify_app = self.app_state == APP_MADE or self.app_state == APP_EOF
        if self.state == CLOSED:
            return 0
        self.state = CLOSED
        self.closing = True
        self.app_state = APP_LOST
        self.engine.finish()
        self.pending_plaintext = None
        self.pending_plaintext_size = 0
        self.protocol = None
        self.native_protocol = False
        self.underlying_stream = None
        self.underlying_error = None
        self.stop_timer()
        self.connections = None
        try:
            if notify_app:
                protocol.connection_lost(error)
        finally:
            if connections is not None:
                connections.remove_tls(self)
            if self.waiter is not None:
                if error is None:
                    error = ConnectionAbortedError("the connection was closed during its TLS handshake")
                self.wake(error)
        return 0

    def _call_connection_lost(self, error: BaseException | None) -> None:
        self.call_connection_lost(error)

    # --- handshake ------------------------------------------------------------------------------------------------

    cdef int stop_timer(self) except -1:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        return 0

    cdef int wake(self, object error) except -1:
        cdef object waiter = self.waiter
        if waiter is None:
            return 0
        self.waiter = None
        if not waiter.done():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
        return 0

    def _handshake_expired(self) -> None:
        if self.state == HANDSHAKE:
            self.fatal(
                ConnectionAbortedError(
                    f"SSL handshake is taking longer than {self.handshake_timeout} seconds: aborting the connection"
                ),
                "SSL handshake failed",
            )

    cdef int step_handshake(self) except -1:
        cdef bint done
        cdef int64_t began = clock_ns(CLOCK_MONOTONIC) if self.server_side else 0
        try:
            done = self.engine.step_handshake()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            return self.handshake_failed(error)
        finally:
            if self.server_side:
                tls_engine.handshake_ns += clock_ns(CLOCK_MONOTONIC) - began
        if self.state != HANDSHAKE:
            # A callback of the context (for example for SNI) has closed the transport, or this is a forked child.
            return 0
        if done:
            return self.handshake_done()
        return self.flush_ciphertext(False)

    cdef int handshake_failed(self, object error) except -1:
        self.stop_timer()
        if self.resumption is not None:
            self.resumption.failed()
            self.resumption = None
        if isinstance(error, ssl.CertificateError):
            message = "SSL handshake failed on verifying the certificate"
        else:
            message = "SSL handshake failed"
        self.fatal(error, message)
        return self.wake(error)

    cdef int handshake_done(self) except -1:
        self.stop_timer()
        self.state = OPEN
        note_handshake(self.loop)
        if self.resumption is not None:
            self.resumption.succeeded(self.engine.ssl_object.session_reused, self.engine.valid_until)
            self.keep_session()
        if self.loop.debug:
            logger.debug("%r: SSL handshake took %.1f ms", self, (self.loop.time() - self.began) * 1e3)
        self.in_callback = True
        # A reference for the duration of the call, which may replace the protocol.
        protocol = self.protocol
        try:
            if self.native_protocol:
                # After start_tls: the protocol must write to this transport and no longer to the one below.
                (<NativeProtocol>protocol).on_attached(self)
            if self.app_state == APP_NEW:
                self.app_state = APP_MADE
                protocol.connection_made(self)
        except (SystemExit, KeyboardInterrupt):
            self.wake(None)
            self.on_base_exception()
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error on SSL protocol")
            self.wake(error)
            return 0
        finally:
            self.in_callback = False
        self.wake(None)
        return self.resume_io()

    cdef int resume_io(self) except -1:
        """Continue after the handshake or a pause: encrypt pending plaintext and deliver received data."""
        self.in_callback = True
        try:
            if self.state == OPEN and self.pending_plaintext is not None:
                self.flush_backlog()
            if self.receiving():
                self.deliver(NULL, 0)
            if self.state == OPEN:
                if self.half_close_due:
                    self.flush_backlog()
                self.control_reading()
        except (SystemExit, KeyboardInterrupt):
            self.on_base_exception()
            raise
        except BaseException as error:
            return self.fatal(error, "Fatal error on SSL protocol")
        finally:
            self.in_callback = False
        if self.state == CLOSING:
            return self.step_shutdown()
        if self.state == OPEN:
            return self.flush_ciphertext(False)
        return 0

    cdef int on_base_exception(self) except -1:
        """After SystemExit or KeyboardInterrupt from a callback: continue when the program runs the loop again."""
        if not self.loop.closed:
            self.loop.call_soon_c(self._go_on, (), None)
        return 0

    def _go_on(self) -> None:
        self.resume_io()

    # --- reading --------------------------------------------------------------------------------------------------

    cdef bint receiving(self) noexcept:
        """Return whether data may be delivered to the protocol now."""
        return (self.state == OPEN or self.state == DRAINING) and not self.reading_paused

    cdef int deliver(self, const uint8_t *data, size_t length) except -1:
        """Take ciphertext; unless the protocol has paused, decrypt and deliver all complete records."""
        if self.engine.ended or self.engine.failure is not None:
            # Data after the peer's close_notify is ignored (RFC 8446 section 6.1).
            length = 0
        if self.reading_paused:
            if length:
                self.engine.feed_bytes(data, length)
            return 0
        if self.buffered_protocol:
            self.deliver_into(data, length)
        else:
            self.deliver_copied(data, length)
        if self.resumption is not None:
            self.keep_session()
        return self.deliver_end_of_stream()

    cdef int deliver_copied(self, const uint8_t *data, size_t length) except -1:
        """Deliver all plaintext as one bytes object. No user code runs while `data` is in use."""
        cdef object plaintext = self.engine.decrypt(data, length)
        if plaintext is not None:
            self.last_delivery_iteration = self.loop.iteration
            call_method1(self.protocol, "data_received", plaintext)
        return 0

    cdef int deliver_into(self, const uint8_t *data, size_t length) except -1:
        """Deliver plaintext into the protocol's own buffers.

        `get_buffer` runs while ciphertext is unread. That is copied first, because user code may use the loop's receive
        buffer, which `data` points to.
        """
        cdef object target
        cdef object protocol
        cdef Py_ssize_t filled
        cdef size_t step = min(length, self.engine.feed_size)
        cdef bytes rest = (<const char *>data)[step:length] if length > step else None
        cdef Py_ssize_t at = 0
        if step:
            self.engine.feed_bytes(data, step)
        while True:
            while self.receiving() and self.buffered_protocol and self.engine.readable():
                # A reference: the owner of the buffer gets buffer_updated even if it is replaced meanwhile.
                protocol = self.protocol
                target = call_method1(protocol, "get_buffer", self.engine.unread())
                if type(target) is not bytearray and type(target) is not memoryview:
                    # A `__buffer__` of its class may run user code: run it now, before the states are checked.
                    target = memoryview(target)
                if len(target) == 0:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                if not self.receiving() or self.protocol is not protocol:
                    continue
                filled = self.engine.fill(target)
                target = None
                if self.state != OPEN and self.state != DRAINING:
                    # `__release_buffer__` of the target has closed the transport.
                    return 0
                if filled:
                    self.last_delivery_iteration = self.loop.iteration
                    call_method1(protocol, "buffer_updated", filled)
            if rest is None or at == PyBytes_GET_SIZE(rest) or self.engine.ended or self.engine.failure is not None:
                break
            step = min(<size_t>(PyBytes_GET_SIZE(rest) - at), self.engine.feed_size)
            self.engine.feed_bytes(<const uint8_t *>PyBytes_AS_STRING(rest) + at, step)
            at += step
        if self.receiving() and not self.buffered_protocol and self.engine.readable():
            # The callback has replaced the protocol with one that is not buffered.
            return self.deliver_copied(NULL, 0)
        return 0

    cdef int deliver_end_of_stream(self) except -1:
        """Report the end of the peer's data, if it has ended and the protocol got everything before; then close our
        side, too, unless the protocol keeps it open."""
        if not self.receiving():
            return 0
        if self.engine.failure is not None:
            return self.fatal(self.engine.failure, "Fatal error on SSL protocol")
        if (self.engine.ended or self.eof_seen) and not self.peer_ended:
            self.peer_ended = self.call_eof_received()
            if self.state == OPEN and not self.peer_ended:
                return self.begin_shutdown()
        if self.state == DRAINING:
            # In the next loop iteration, so that a reader that the data has woken runs before connection_lost.
            return self.finish_draining(self.underlying_error)
        return 0

    cdef bint call_eof_received(self) except -1:
        """Call eof_received of the protocol, once; return whether our direction stays open."""
        cdef bint keep_open
        if self.app_state != APP_MADE:
            return 0
        self.app_state = APP_EOF
        try:
            keep_open = call_method0(self.protocol, "eof_received")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Error calling eof_received()")
            return False
        if not keep_open or self.state != OPEN or self.write_ended:
            return False
        if self.engine.ended and self.engine.ssl_object.version() == "TLSv1.3":
            return True
        # Before TLS 1.3, close_notify must be answered at once (RFC 5246 section 7.2.1). Without it, data may be
        # missing.
        logger.warning("returning true from eof_received() has no effect when using ssl")
        return False

    def is_reading(self) -> bool:
        """Return whether data is delivered to the protocol."""
        return not self.closing and not self.reading_paused

    def pause_reading(self) -> None:
        """Deliver no more data to the protocol; ciphertext is still received up to the read buffer's high watermark."""
        protocol = self.protocol
        self.protocol_has_pending = self.native_protocol and (<NativeProtocol>protocol).on_reading_paused() != 0
        self.reading_paused = True

    def resume_reading(self) -> None:
        """Deliver data to the protocol again, from the next loop iteration on."""
        if not self.reading_paused:
            return
        protocol = self.protocol
        if self.native_protocol and not (<NativeProtocol>protocol).on_reading_resumed():
            return
        self.reading_paused = False
        if not self.resuming and self.state != CLOSED:
            self.resuming = True
            self.loop.call_soon_c(self._resume, (), None)

    def _resume(self) -> None:
        self.resuming = False
        if self.receiving():
            self.resume_io()

    cdef bint read_wanted(self) except -1:
        """Return whether the transport below should receive now. Only this method decides that."""
        cdef Py_ssize_t size
        if self.state != OPEN or self.peer_ended:
            # For the handshake, for the peer's close_notify, or for the end of the stream below.
            return True
        if self.engine.ended or self.engine.failure is not None:
            return False
        if not self.reading_paused:
            # The rest of an incomplete record is needed, even above the high watermark.
            return True
        if self.protocol_has_pending and self.pending_plaintext is None:
            # Otherwise the end of the stream below could arrive before the protocol has passed on its data.
            return False
        size = self.engine.unread()
        return size <= self.read_low if self.underlying_paused else size < self.read_high

    cdef int control_reading(self) except -1:
        """Pause or resume the transport below as `read_wanted` says."""
        cdef bint wanted = self.read_wanted()
        if wanted == self.underlying_paused:
            self.underlying_paused = not wanted
            if wanted:
                self.underlying.resume_reading()
            else:
                self.underlying.pause_reading()
        return 0

    def set_read_buffer_limits(self, high: object = None, low: object = None) -> None:
        """Set the watermarks, in bytes of ciphertext, that stop and resume receiving while the protocol is paused."""
        self.read_high, self.read_low = buffer_limits(high, low, READ_HIGH)
        if self.underlying is not None and self.state == OPEN:
            self.control_reading()

    def get_read_buffer_limits(self) -> tuple[int, int]:
        """Return the watermarks as (low, high)."""
        return (self.read_low, self.read_high)

    def get_read_buffer_size(self) -> int:
        """Return the number of received bytes that are not decrypted yet."""
        return self.engine.unread()

    # --- the other half, in corenet.tls.transport -----------------------------------------------------------------

    cdef int flush_backlog(self) except -1:
        raise NotImplementedError

    cdef int flush_ciphertext(self, bint force) except -1:
        raise NotImplementedError

    cdef int control_writing(self) except -1:
        raise NotImplementedError

    cdef int begin_shutdown(self) except -1:
        raise NotImplementedError

    cdef int step_shutdown(self) except -1:
        raise NotImplementedError

    cdef int fatal(self, object error, str message) except -1:
        raise NotImplementedError
