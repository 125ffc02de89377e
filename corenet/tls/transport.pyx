"""TLS transports: one object between a stream and a protocol, shaped for libraries as those of asyncio.sslproto are.

What is received is decrypted inside the event that brought it and handed on as one piece a batch; what the protocol
writes meanwhile is encrypted at once, so that nothing must be kept or copied, and leaves as one write when the batch is
done. Ciphertext is fed in slices, since OpenSSL's memory buffers never shrink: their size is what an idle connection
costs. Close means: no more data to the protocol from that moment, our goodbye (close_notify) is sent, the peer's is
waited for until the shutdown timeout; a peer that goes on sending instead is not read any further, the connection ends
as soon as what we had to say was sent.
"""

import asyncio
import ssl
import warnings
from asyncio import constants
from asyncio.log import logger

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport int64_t, uint8_t

from corenet.core.engine cimport Engine
from corenet.tls.engine cimport TlsEngine
from corenet.transports.base cimport call_method0, call_method1
from corenet.transports.stream cimport StreamTransport
from corenet.transports.streambase cimport Consumer

from corenet.limits import LOST_WRITES_BEFORE_WARNING, TLS_FEED, TLS_GATHER, TLS_HANDSHAKE, TLS_READ_HIGH, TLS_SHUTDOWN
from corenet.limits import TLS_WRITE_HIGH
from corenet.tls import faces
from corenet.tls.default import default_connection_context

__all__ = ["TlsTransport", "make_tls"]

cdef size_t FEED = TLS_FEED.default
cdef Py_ssize_t GATHER = TLS_GATHER.default
cdef Py_ssize_t READ_HIGH = TLS_READ_HIGH.default
cdef Py_ssize_t WRITE_HIGH = TLS_WRITE_HIGH.default
cdef int WARN_AFTER = LOST_WRITES_BEFORE_WARNING.default
cdef object SENDFILE = constants._SendfileMode.FALLBACK

# The connection.
cdef enum:
    NEW = 0
    HANDSHAKE = 1
    OPEN = 2
    CLOSING = 3     # our goodbye is on its way
    ENDING = 4      # the transport below was told to close
    LOST = 5

# The protocol above.
cdef enum:
    APP_NEW = 0
    APP_MADE = 1
    APP_EOF = 2
    APP_LOST = 3


cdef double timeout_of(str name, object value, int default) except -1.0:
    if value is None:
        return default
    if value <= 0:
        raise ValueError(f"{name} should be a positive number, got {value}")
    return value


cdef tuple marks(object high, object low, Py_ssize_t default):
    """The marks of a buffer by asyncio's rules for the one that is missing."""
    if high is None:
        high = default if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
    return high, low


cdef object context_or_default(object context, bint server_side, object server_hostname):
    """The user's context; clients may leave it out and get the standard library's defaults."""
    if context:
        return context
    if server_side:
        raise ValueError("Server side SSL needs a valid SSLContext")
    return default_connection_context(bool(server_hostname))


@cython.final
cdef class TlsTransport(Consumer):
    """One encrypted connection; made by the loop, never by users."""

    def __init__(
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

    def data_received(self, data: bytes) -> None:
        """Take ciphertext from a transport that is not one of ours."""
        self.bytes_received(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def eof_received(self) -> object:
        """The peer ended the stream below; without its goodbye that is told apart only by the missing close_notify."""
        self.eof_seen = True
        if self.loop.debug:
            logger.debug("%r received EOF", self)
        if self.state == HANDSHAKE:
            self.handshake_failed(ConnectionResetError("the peer ended the connection during the TLS handshake"))
        elif self.state == OPEN:
            if self.reading_paused:
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
        try:
            if self.app_state == APP_NEW:
                self.app_state = APP_MADE
                self.protocol.connection_made(self)
            elif isinstance(self.protocol, Consumer):
                # After an upgrade: what it writes from now on must not take the way below us.
                (<Consumer>self.protocol).adopted(self)
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
        self.reading_paused = True

    def resume_reading(self) -> None:
        """Hand data to the protocol again, from the next turn on."""
        if not self.reading_paused:
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

    def set_read_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
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

    # --- writing --------------------------------------------------------------------------------------------------

    cdef int begin_write(self) except -1:
        """1 when data may be written now, 0 when it is lost."""
        if self.state > OPEN or self.closing:
            if self.lost_writes >= WARN_AFTER:
                logger.warning("SSL connection is closed")
            self.lost_writes += 1
            return 0
        return 1

    def write(self, data: object) -> None:
        """Send `data`; never blocks. It is encrypted before this returns, so mutable data may be changed then."""
        if not PyBytes_CheckExact(data) and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        if not data or not self.begin_write():
            return
        try:
            self.encrypt(data)
            self.written()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error on SSL protocol")

    def writelines(self, list_of_data: object) -> None:
        """Send several pieces; they are joined, since one record for all costs less than one for each."""
        cdef bytes data = b"".join(list_of_data)
        if not data or not self.begin_write():
            return
        try:
            self.encrypt(data)
            self.written()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error on SSL protocol")

    def write_frame(self, payload: object) -> None:
        """Send `payload` as one frame of the protocol's framing, header and payload in one TLS record if they fit.

        Raises:
            TypeError: when the protocol is no FramedProtocol.
            FrameError: when the payload cannot be a frame of this framing.
        """
        self.write_frames((payload,))

    def write_frames(self, payloads: object) -> None:
        """Send each of `payloads` as one frame, all in as few TLS records as they allow.

        Raises:
            TypeError: when the protocol is no FramedProtocol.
            FrameError: when a payload cannot be a frame; nothing is sent then.
        """
        if not isinstance(self.protocol, Consumer):
            raise TypeError(f"{type(self.protocol).__name__} has no framing; use a FramedProtocol")
        (<Consumer>self.protocol).send_frames(self, payloads)

    cdef int encrypt(self, object data) except -1:
        """Encrypt `data`, handing ciphertext down on the way when it is much; keep what cannot be encrypted yet."""
        cdef Py_ssize_t size, taken, count
        cdef object view
        if self.state != OPEN or self.backlog is not None:
            if self.backlog is None:
                self.backlog = []
            data = bytes(data)
            self.backlog.append(data)
            self.backlog_size += PyBytes_GET_SIZE(data)
            return 0
        if not PyBytes_CheckExact(data):
            if isinstance(data, memoryview) and (data.ndim != 1 or data.itemsize != 1 or not data.contiguous):
                data = bytes(data)
        size = len(data)
        taken = self.engine.write_record(data)
        if taken == size:
            self.fresh += size
            return 0
        view = memoryview(data)
        if taken < 0:
            taken = 0
        else:
            self.fresh += taken
            while taken < size:
                if self.fresh >= GATHER:
                    self.hand_down(False)
                    if self.state != OPEN:
                        return 0
                count = self.engine.write_record(view[taken:])
                if count < 0:
                    break
                taken += count
                self.fresh += count
        if taken < size:
            self.backlog = [bytes(view[taken:])]
            self.backlog_size = size - taken
        return 0

    cdef int flush_backlog(self) except -1:
        """Encrypt what had to wait."""
        cdef list pieces = self.backlog
        self.backlog = None
        self.backlog_size = 0
        if pieces:
            self.encrypt(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        return 0

    cdef int written(self) except -1:
        """Decide when what was encrypted leaves: at once, with the batch, or at the end of the turn."""
        if self.state != OPEN:
            return self.control_writing()
        if self.inside:
            if self.fresh >= GATHER:
                return self.hand_down(False)
            return 0
        if self.stream is None or self.stream.last_turn != self.loop.turn or self.fresh >= GATHER:
            return self.hand_down(False)
        if not self.flush_due:
            self.flush_due = True
            self.loop.at_turn_end(self)
        return 0

    cdef int on_turn_end(self) except -1:
        self.flush_due = False
        if self.engine.dirty and (self.state == OPEN or self.state == CLOSING):
            self.hand_down(False)
        return 0

    cdef int hand_down(self, bint force) except -1:
        """Give the ciphertext to the transport below, unless that is a foreign one and asked us to wait.

        Our own stream gets it in any case: what waits there is freed as it leaves, while OpenSSL's buffer would stay
        at the largest size that it ever had.
        """
        cdef bytes data
        cdef StreamTransport stream = self.stream
        if force or stream is not None or not self.stream_paused:
            self.fresh = 0
            data = self.engine.take()
            if PyBytes_GET_SIZE(data):
                if stream is not None:
                    stream.submit(data, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
                else:
                    self.raw.write(data)
        if self.app_paused or self.stream_paused or self.backlog is not None or self.write_high == 0:
            return self.control_writing()
        return 0

    cdef Py_ssize_t unsent(self) except -1:
        cdef Py_ssize_t size = self.engine.unsent() + self.backlog_size
        if self.stream_paused and self.stream is not None:
            size += self.stream.buffered_size()
        return size

    cdef int control_writing(self) except -1:
        """Tell the protocol to pause or to go on."""
        cdef Py_ssize_t size
        if self.protocol is None or self.app_state == APP_NEW:
            return 0
        size = self.unsent()
        if not self.app_paused:
            if size == 0 or size < self.write_high:
                return 0
            self.app_paused = True
            name = "pause_writing"
        else:
            if size > self.write_low:
                return 0
            self.app_paused = False
            name = "resume_writing"
        try:
            call_method0(self.protocol, name)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.loop.call_exception_handler(
                {
                    "message": f"protocol.{name}() failed",
                    "exception": error,
                    "transport": self,
                    "protocol": self.protocol,
                }
            )
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set the marks, in bytes, at which the protocol is paused and resumed."""
        self.write_high, self.write_low = marks(high, low, WRITE_HIGH)
        self.control_writing()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the marks as (low, high)."""
        return (self.write_low, self.write_high)

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that the transport below has not taken yet."""
        return self.unsent()

    def can_write_eof(self) -> bool:
        """Tell that `write_eof` does not work: TLS as asyncio shows it closes both directions together."""
        return False

    def write_eof(self) -> None:
        """Raise NotImplementedError."""
        raise NotImplementedError

    # --- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Hand on no more data, send what was written and our goodbye; connection_lost(None) follows."""
        if self.closing:
            return
        self.begin_shutdown()

    cdef int begin_shutdown(self) except -1:
        if self.state >= CLOSING:
            return 0
        self.closing = True
        if self.state == NEW:
            # connection_made of the transport below finds it.
            return 0
        if self.state == HANDSHAKE:
            self.state = ENDING
            self.stop_timer()
            self.raw.abort()
            return 0
        if self.backlog is not None:
            self.flush_backlog()
        self.state = CLOSING
        self.stop_timer()
        self.timer = self.loop.later_ns(<int64_t>(self.shutdown_timeout * 1e9), self._shutdown_expired, ())
        if self.raw_paused:
            # The peer's goodbye, or that it goes on sending, must be seen.
            self.raw_paused = False
            self.raw.resume_reading()
        if self.inside:
            # Whoever works on the batch goes on with it.
            return 0
        return self.step_shutdown()

    cdef int step_shutdown(self) except -1:
        """Say goodbye; when the peer has said it too, or will not, close the transport below."""
        cdef bint done = True
        if self.state != CLOSING:
            return 0
        if not self.eof_seen:
            try:
                done = self.engine.step_shutdown()
            except ssl.SSLError as error:
                if error.reason != "APPLICATION_DATA_AFTER_CLOSE_NOTIFY":
                    return self.fatal(error, "Fatal error on transport")
                self.hand_down(True)
                return self.finish()
        self.hand_down(True)
        if done and self.state == CLOSING:
            self.tell_eof()
            return self.finish()
        return 0

    cdef int finish(self) except -1:
        """Close the transport below; it sends what it has first, for at most the rest of the shutdown timeout."""
        if self.state == CLOSING:
            self.state = ENDING
            self.raw.close()
        return 0

    def _shutdown_expired(self) -> None:
        if self.state == CLOSING or self.state == ENDING:
            self.raw._force_close(TimeoutError("SSL shutdown timed out"))

    def abort(self) -> None:
        """Close at once; what waits to be sent is lost, connection_lost(None) follows."""
        self._force_close(None)

    def _force_close(self, error: BaseException | None) -> None:
        self.closing = True
        if self.state == NEW or self.state == LOST:
            return
        self.state = ENDING
        self.stop_timer()
        self.raw._force_close(error)

    cdef int fatal(self, object error, str message) except -1:
        """End the connection because of `error`; what the network did is logged only in debug mode."""
        self.closing = True
        if self.raw is not None and self.state < LOST:
            if self.state < ENDING:
                # The alert that tells the peer why.
                if self.engine.dirty:
                    self.hand_down(True)
                if self.stream is not None:
                    self.stream.flush()
                self.state = ENDING
            self.stop_timer()
            self.raw._force_close(error)
        if isinstance(error, OSError):
            if self.loop.debug:
                logger.debug("%r: %s", self, message, exc_info=error)
        elif not isinstance(error, asyncio.CancelledError):
            self.loop.call_exception_handler(
                {"message": message, "exception": error, "transport": self, "protocol": self.protocol}
            )
        return 0

    def __del__(self) -> None:
        if not self.closing and self.loop is not None and self.raw is not None:
            self.closing = True
            warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)


def make_tls(
    loop: Engine,
    protocol: object,
    sslcontext: object,
    waiter: object = None,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
    call_connection_made: bool = True,
    ssl_handshake_timeout: float | None = None,
    ssl_shutdown_timeout: float | None = None,
) -> TlsTransport:
    """Return a transport that is also the protocol of the transport below, which calls its connection_made."""
    return TlsTransport(
        loop,
        protocol,
        sslcontext,
        waiter,
        server_side,
        server_hostname,
        call_connection_made,
        ssl_handshake_timeout,
        ssl_shutdown_timeout,
    )
