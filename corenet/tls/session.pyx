"""The receiving half of a TLS connection: what the stream below brings, the handshake, and what the protocol gets.

What is received is decrypted inside the event that brought it and handed on as one piece a batch. Ciphertext is fed in
slices, since OpenSSL's memory buffers never shrink: their size is what an idle connection costs. The other half, writing
and the end, is `corenet.tls.transport`, whose class derives from this one; nothing else does.
"""

import asyncio
import ssl
from asyncio import constants
from asyncio.log import logger

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

from corenet.core.engine cimport Engine
from corenet.core.receivers cimport guard_receivers
from corenet.tls.engine cimport TlsEngine
from corenet.transports.base cimport call_method0, call_method1, marks
from corenet.transports.stream cimport StreamTransport
from corenet.transports.streambase cimport Consumer

from corenet.limits import TLS_FEED, TLS_HANDSHAKE, TLS_READ_HIGH, TLS_SHUTDOWN, TLS_WRITE_HIGH
from corenet.tls import faces
from corenet.tls.default import default_connection_context

__all__ = ["TlsSession"]

cdef size_t FEED = TLS_FEED.default
cdef Py_ssize_t READ_HIGH = TLS_READ_HIGH.default
cdef Py_ssize_t WRITE_HIGH = TLS_WRITE_HIGH.default
cdef object SENDFILE = constants._SendfileMode.FALLBACK


cdef double timeout_of(str name, object value, int default) except -1.0:
    if value is None:
        return default
    if value <= 0:
        raise ValueError(f"{name} should be a positive number, got {value}")
    return value


cdef object context_or_default(object context, bint server_side, object server_hostname):
    """The user's context; clients may leave it out and get the standard library's defaults."""
    if context:
        return context
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    return default_connection_context(bool(server_hostname))


cdef class TlsSession(Consumer):
    """One encrypted connection, as far as it receives."""

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
        self.handshake_timeout = timeout_of("ssl_handshake_timeout", ssl_handshake_timeout, TLS_HANDSHAKE.default)
        self.shutdown_timeout = timeout_of("ssl_shutdown_timeout", ssl_shutdown_timeout, TLS_SHUTDOWN.default)
        self.loop = loop
        self.waiter = waiter
        self.server_side = server_side
        self.sslcontext = context_or_default(sslcontext, server_side, server_hostname)
        self.write_high = WRITE_HIGH
        self.write_low = WRITE_HIGH // 4
        self.read_high = READ_HIGH
        self.read_low = READ_HIGH // 4
        self.app_state = APP_NEW if call_connection_made else APP_MADE
        self.adopt(protocol)
        self.engine = TlsEngine(
            self.sslcontext, server_side, server_hostname if server_hostname and not server_side else None
        )

    cdef int adopt(self, object protocol) except -1:
        cdef object former = self.protocol
        self.protocol = protocol
        self.buffered_protocol = isinstance(protocol, asyncio.BufferedProtocol)
        if former is not None and former is not protocol and isinstance(former, Consumer):
            (<Consumer>former).replaced(protocol)
        return 0

    # --- shape ----------------------------------------------------------------------------------------------------

    @property
    def __class__(self) -> type:
        return faces.SSLTransport

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
        return self.raw

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
        state = ("new", "handshake", "open", "closing", "closing", "closed")[self.state]
        return f"<{self.__class__.__name__} {state} over {self.raw!r}>"

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
        if self.raw is not None:
            return self.raw.get_extra_info(name, default)
        return default

    def set_protocol(self, protocol: object) -> None:
        """Put another protocol in the place of the present one."""
        self.adopt(protocol)
        if isinstance(protocol, Consumer):
            (<Consumer>protocol).adopted(self)

    def get_protocol(self) -> object:
        """Return the protocol, None once the connection was lost."""
        return self.protocol

    def is_closing(self) -> bool:
        """Tell whether the transport is closing or closed."""
        return self.closing

    # --- the protocol of the transport below ----------------------------------------------------------------------

    def connection_made(self, transport: object) -> None:
        """Begin the handshake on `transport`."""
        self.raw = transport
        if type(transport) is StreamTransport:
            self.stream = transport
        if self.closing:
            self.state = ENDING
            self.raw.abort()
            return
        self.state = HANDSHAKE
        if self.loop.debug:
            logger.debug("%r starts SSL handshake", self)
            self.began = self.loop.time()
        self.timer = self.loop.later_ns(<int64_t>(self.handshake_timeout * 1e9), self._handshake_expired, ())
        if not self.server_side or self.engine.records:
            self.step_handshake()

    cdef int bytes_received(self, const uint8_t *data, size_t length) except -1:
        cdef size_t step
        if self.state >= ENDING:
            return 0
        if self.state == OPEN:
            self.inside = True
            try:
                while length:
                    step = min(length, FEED)
                    self.engine.feed_bytes(data, step)
                    data += step
                    length -= step
                    if self.state != OPEN:
                        break
                    if not self.reading_paused:
                        self.deliver()
                if length and self.state == CLOSING:
                    self.engine.feed_bytes(data, length)
                if self.state == OPEN:
                    if self.reading_paused or self.raw_paused:
                        self.control_reading()
                    if self.backlog is not None:
                        self.flush_backlog()
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.fatal(error, "Fatal error on SSL protocol")
                return 0
            finally:
                self.inside = False
            if self.state == CLOSING:
                return self.step_shutdown()
            if self.engine.dirty and self.state == OPEN:
                self.hand_down(False)
            return 0
        self.engine.feed_bytes(data, length)
        if self.state == HANDSHAKE:
            return self.step_handshake()
        if self.state == CLOSING:
            return self.step_shutdown()
        return 0

    def data_received(self, data: object) -> None:
        """Take ciphertext from a transport that is not one of ours."""
        if type(data) is not bytes:
            data = bytes(memoryview(data))
        self.bytes_received(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def eof_received(self) -> object:
        """The peer ended the stream below; without its goodbye that is told apart only by the missing close_notify."""
        self.eof_seen = True
        if self.loop.debug:
            logger.debug("%r received EOF", self)
        if self.state == HANDSHAKE:
            self.handshake_failed(ConnectionResetError("the peer ended the connection during the TLS handshake"))
        elif self.state == OPEN:
            if self.reading_paused or self.resuming:
                # What was received before must still be read.
                return True
            self.begin_shutdown()
        elif self.state == CLOSING:
            self.step_shutdown()
        return None

    def pause_writing(self) -> None:
        """The transport below has enough to send."""
        self.stream_paused = True

    def resume_writing(self) -> None:
        """The transport below can take more."""
        self.stream_paused = False
        if self.state < ENDING and self.raw is not None:
            self.hand_down(False)

    def connection_lost(self, error: BaseException | None) -> None:
        """The transport below has ended."""
        cdef object protocol = self.protocol
        cdef bint tell = self.app_state == APP_MADE or self.app_state == APP_EOF
        self.state = LOST
        self.closing = True
        self.app_state = APP_LOST
        self.backlog = None
        self.backlog_size = 0
        self.protocol = None
        self.stream = None
        self.stop_timer()
        try:
            if tell:
                protocol.connection_lost(error)
        finally:
            if self.waiter is not None:
                if error is None:
                    error = ConnectionAbortedError("the connection was closed during its TLS handshake")
                self.wake(error)

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
        try:
            done = self.engine.step_handshake()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            return self.handshake_failed(error)
        if done:
            return self.handshake_done()
        return self.hand_down(False)

    cdef int handshake_failed(self, object error) except -1:
        self.stop_timer()
        if isinstance(error, ssl.CertificateError):
            message = "SSL handshake failed on verifying the certificate"
        else:
            message = "SSL handshake failed"
        self.fatal(error, message)
        return self.wake(error)

    cdef int handshake_done(self) except -1:
        self.stop_timer()
        self.state = OPEN
        if self.loop.debug:
            logger.debug("%r: SSL handshake took %.1f ms", self, (self.loop.time() - self.began) * 1e3)
        self.inside = True
        # Held while it is called: it may put another in its place.
        protocol = self.protocol
        try:
            if self.app_state == APP_NEW:
                self.app_state = APP_MADE
                protocol.connection_made(self)
            elif isinstance(protocol, Consumer):
                # After an upgrade: what it writes from now on must not take the way below us.
                (<Consumer>protocol).adopted(self)
            self.wake(None)
            if self.state == OPEN and self.backlog is not None:
                self.flush_backlog()
            if self.state == OPEN and not self.reading_paused:
                self.deliver()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error on SSL protocol")
            self.wake(error)
            return 0
        finally:
            self.inside = False
        if self.state == CLOSING:
            return self.step_shutdown()
        if self.state == OPEN:
            return self.hand_down(False)
        return 0

    # --- reading --------------------------------------------------------------------------------------------------

    cdef int deliver(self) except -1:
        """Decrypt and hand on everything that is complete."""
        if self.buffered_protocol:
            return self.deliver_into()
        return self.deliver_copied()

    cdef int deliver_copied(self) except -1:
        cdef bytes first = None
        cdef bytes piece
        cdef list pieces = None
        cdef bint goodbye = False
        cdef object failure = None
        while True:
            try:
                piece = self.engine.read_record()
            except ssl.SSLError as error:
                failure = error
                break
            if piece is None:
                break
            if PyBytes_GET_SIZE(piece) == 0:
                goodbye = True
                break
            if first is None:
                first = piece
            elif pieces is None:
                pieces = [first, piece]
            else:
                pieces.append(piece)
            if not self.engine.readable():
                break
        if pieces is not None:
            first = b"".join(pieces)
            pieces = None
        if first is not None:
            piece = None
            call_method1(self.protocol, "data_received", first)
        if failure is not None:
            return self.fatal(failure, "Fatal error on SSL protocol")
        if goodbye and self.state == OPEN:
            return self.goodbye_received()
        return 0

    cdef int deliver_into(self) except -1:
        cdef object target
        cdef Py_ssize_t room, filled, got
        cdef bint goodbye = False
        cdef object failure = None
        while (
            self.state == OPEN and not self.reading_paused and self.buffered_protocol
            and self.engine.readable() and not goodbye and failure is None
        ):
            target = self.protocol.get_buffer(self.engine.unread())
            room = len(target)
            if room == 0:
                raise RuntimeError("get_buffer() returned an empty buffer")
            filled = 0
            while filled < room and self.engine.readable():
                try:
                    got = self.engine.read_record_into(
                        target if filled == 0 else memoryview(target)[filled:], room - filled
                    )
                except ssl.SSLError as error:
                    failure = error
                    break
                if got < 0:
                    break
                if got == 0:
                    goodbye = True
                    break
                filled += got
            target = None
            if filled:
                call_method1(self.protocol, "buffer_updated", filled)
        if failure is not None:
            return self.fatal(failure, "Fatal error on SSL protocol")
        if goodbye and self.state == OPEN:
            return self.goodbye_received()
        if self.state == OPEN and not self.reading_paused and not self.buffered_protocol and self.engine.readable():
            # The protocol was changed in its own callback.
            return self.deliver_copied()
        return 0

    cdef int goodbye_received(self) except -1:
        self.tell_eof()
        return self.begin_shutdown()

    cdef int tell_eof(self) except -1:
        cdef object keep_open
        if self.app_state != APP_MADE:
            return 0
        self.app_state = APP_EOF
        try:
            keep_open = call_method0(self.protocol, "eof_received")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            return self.fatal(error, "Error calling eof_received()")
        if keep_open:
            logger.warning("returning true from eof_received() has no effect when using ssl")
        return 0

    def is_reading(self) -> bool:
        """Tell whether data is handed to the protocol."""
        return not self.closing and not self.reading_paused

    def pause_reading(self) -> None:
        """Hand no more data to the protocol; some may still be received, up to the read buffer's mark."""
        protocol = self.protocol
        if isinstance(protocol, Consumer):
            (<Consumer>protocol).source_paused()
        self.reading_paused = True

    def resume_reading(self) -> None:
        """Hand data to the protocol again, from the next turn on."""
        if not self.reading_paused:
            return
        protocol = self.protocol
        if isinstance(protocol, Consumer) and not (<Consumer>protocol).source_resumed():
            return
        self.reading_paused = False
        if not self.resuming and self.state < ENDING:
            self.resuming = True
            self.loop.soon(self._resume, (), None)

    def _resume(self) -> None:
        self.resuming = False
        if self.state != OPEN or self.reading_paused:
            return
        self.inside = True
        try:
            self.deliver()
            if self.state == OPEN:
                self.control_reading()
                if self.eof_seen and not self.reading_paused:
                    self.begin_shutdown()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error on SSL protocol")
            return
        finally:
            self.inside = False
        if self.state == CLOSING:
            self.step_shutdown()
        elif self.state == OPEN:
            self.hand_down(False)

    cdef int control_reading(self) except -1:
        """Stop the transport below while too much waits to be read."""
        cdef Py_ssize_t size = self.engine.unread()
        if size >= self.read_high and not self.raw_paused:
            self.raw_paused = True
            self.raw.pause_reading()
        elif size <= self.read_low and self.raw_paused:
            self.raw_paused = False
            self.raw.resume_reading()
        return 0

    def set_read_buffer_limits(self, high: object = None, low: object = None) -> None:
        """Set the marks, in bytes of ciphertext, at which receiving stops and goes on while the protocol is paused."""
        self.read_high, self.read_low = marks(high, low, READ_HIGH)
        if self.raw is not None and self.state == OPEN:
            self.control_reading()

    def get_read_buffer_limits(self) -> tuple[int, int]:
        """Return the marks as (low, high)."""
        return (self.read_low, self.read_high)

    def get_read_buffer_size(self) -> int:
        """Return the number of received bytes that were not decrypted yet."""
        return self.engine.unread()

    # --- the other half, in corenet.tls.transport -----------------------------------------------------------------

    cdef int flush_backlog(self) except -1:
        raise NotImplementedError

    cdef int hand_down(self, bint force) except -1:
        raise NotImplementedError

    cdef int control_writing(self) except -1:
        raise NotImplementedError

    cdef int begin_shutdown(self) except -1:
        raise NotImplementedError

    cdef int step_shutdown(self) except -1:
        raise NotImplementedError

    cdef int fatal(self, object error, str message) except -1:
        raise NotImplementedError


guard_receivers(globals())
