"""TLS transports, shaped for libraries as those of asyncio.sslproto are: writing, and the end of a connection.

What the protocol writes is encrypted at once, so that nothing must be kept or copied, and leaves as one write when the
batch is done that was being received (`corenet.tls.receive`). Close means: no more data to the protocol from that moment,
our goodbye (close_notify) is sent, the peer's is waited for until the shutdown timeout; a peer that goes on sending
instead is not read any further, the connection ends as soon as what we had to say was sent.

States, and what an event does in them ("below" is the transport that we are the protocol of):

==========  ======================  ====================  ========================  =======================  ============
state       ciphertext              end of stream below   connection_lost(error)    close()                  abort()
==========  ======================  ====================  ========================  =======================  ============
NEW         kept                    connection_lost       the waiter is told        ENDING when it is made   as close()
HANDSHAKE   step; done: OPEN        failed: ENDING        LOST                      ENDING, below aborted    ENDING
OPEN        decrypted and handed    told as the peer's    LOST; DRAINING when       CLOSING: close_notify    ENDING, below
            on, kept in a pause     end: CLOSING          something was not read    is sent                  aborted
CLOSING     answers close_notify:   ENDING                LOST                      -                        ENDING
            ENDING
ENDING      dropped                 -                     LOST                      -                        aborts below
DRAINING    -                       -                     -                         ENDING, then LOST        as close()
LOST        -                       -                     -                         -                        -
==========  ======================  ====================  ========================  =======================  ============

The peer's end (close_notify, a record that cannot be decrypted, the end of the stream below) is told behind the data
before it, and never while reading is paused: `deliver_end_of_stream`. DRAINING ends when that was told; a write or a close give up
what was not read. The timer runs in HANDSHAKE and CLOSING, and in ENDING after CLOSING; when it ends, below is closed
with an error. It runs in DRAINING too: a protocol that takes nothing for `TLS_DRAIN_TIMEOUT` is told of the end, and of what
it has not read, by that error. No data and the end of the connection are told in one turn of the loop. A server counts
the connection until its protocol was told.

What may lie where: ciphertext in the incoming BIO only for an incomplete record, in NEW, or while reading is paused;
decrypted data nowhere between two events, since records are handed on whole (in part only to a BufferedProtocol that
pauses: OpenSSL keeps the rest of that record); ciphertext in the outgoing BIO until the batch, the callback or the turn
ends, longer only while a foreign transport below has told us to wait (OpenSSL encrypts a write as a whole, and its buffer
stays as large as the largest one); plaintext in `pending_plaintext` before the handshake or
while the peer must speak first. Whether below receives is `read_wanted` alone.
"""

import asyncio
import ssl
import warnings
from asyncio.log import logger

cimport cython
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from corenet.core.engine cimport Engine, callback_of
from corenet.tls.receive cimport APP_NEW, CLOSING, DRAINING, CLOSING_UNDERLYING, HANDSHAKE, CLOSED, NEW, OPEN, TlsReceiver, nanoseconds
from corenet.transports.base cimport call_method0, buffer_limits
from corenet.transports.stream cimport StreamTransport
from corenet.transports.streambase cimport NativeProtocol, pieces_of

from corenet.limits import LOST_WRITES_BEFORE_WARNING, TLS_FLUSH_SIZE, TLS_READ_HIGH_WATERMARK, TLS_WRITE_HIGH_WATERMARK

__all__ = ["TlsTransport", "make_tls"]

cdef Py_ssize_t FLUSH_BYTES = TLS_FLUSH_SIZE
cdef Py_ssize_t READ_HIGH = TLS_READ_HIGH_WATERMARK
cdef Py_ssize_t WRITE_HIGH = TLS_WRITE_HIGH_WATERMARK
cdef int WARN_AFTER = LOST_WRITES_BEFORE_WARNING


@cython.final
cdef class TlsTransport(TlsReceiver):
    """One encrypted connection; made by the loop, never by users."""

    # --- writing --------------------------------------------------------------------------------------------------

    cdef int begin_write(self) except -1:
        """1 when data may be written now, 0 when it is lost."""
        if self.state > OPEN or self.closing:
            if self.state == DRAINING:
                # On TCP, too, whoever writes learns that the connection is gone.
                self.finish_draining(self.underlying_error)
            if self.lost_writes >= WARN_AFTER:
                logger.warning("SSL connection is closed")
            self.lost_writes += 1
            return 0
        return 1

    def write(self, data: object) -> None:
        """Send `data`; never blocks. It is encrypted before this returns, so mutable data may be changed then."""
        if not PyBytes_CheckExact(data) and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        if not PyBytes_CheckExact(data) and type(data) is not bytearray and type(data) is not memoryview:
            # Its class may have code of the program that runs when it is asked for its bytes: now, and no more when the
            # state was looked at.
            data = bytes(memoryview(data))
        self.write_plaintext(data)

    def writelines(self, list_of_data: object) -> None:
        """Send several pieces; they are joined, since one record for all costs less than one for each."""
        self.write_plaintext(b"".join(pieces_of(list_of_data)))

    cdef int write_plaintext(self, object data) except -1:
        """Encrypt `data` and decide when it leaves; what goes wrong ends the connection."""
        if not data or not self.begin_write():
            return 0
        try:
            self.encrypt(data)
            self.after_write()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error on SSL protocol")
        return 0

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
        # Held while it is called: it may put another in its place.
        protocol = self.protocol
        if not isinstance(protocol, NativeProtocol):
            raise TypeError(f"{type(protocol).__name__} has no framing; use a FramedProtocol")
        (<NativeProtocol>protocol).send_frames(self, payloads)

    cdef int encrypt(self, object data) except -1:
        """Encrypt `data`, handing ciphertext down on the way when it is much; keep what cannot be encrypted yet."""
        cdef Py_ssize_t size, taken, count
        cdef object view
        if self.state != OPEN or self.pending_plaintext is not None:
            if self.pending_plaintext is None:
                self.pending_plaintext = []
            data = bytes(data)
            self.pending_plaintext.append(data)
            self.pending_plaintext_size += PyBytes_GET_SIZE(data)
            return 0
        if not PyBytes_CheckExact(data):
            if isinstance(data, memoryview) and (data.ndim != 1 or data.itemsize != 1 or not data.contiguous):
                data = bytes(data)
        size = len(data)
        taken = self.engine.write_record(data)
        if taken == size:
            self.unflushed_plaintext += size
            return 0
        view = memoryview(data)
        if taken < 0:
            taken = 0
        else:
            self.unflushed_plaintext += taken
            while taken < size:
                if self.unflushed_plaintext >= FLUSH_BYTES:
                    self.flush_ciphertext(False)
                    if self.state != OPEN:
                        return 0
                count = self.engine.write_record(view[taken:])
                if count < 0:
                    break
                taken += count
                self.unflushed_plaintext += count
        if taken < size:
            self.pending_plaintext = [bytes(view[taken:])]
            self.pending_plaintext_size = size - taken
        return 0

    cdef int flush_backlog(self) except -1:
        """Encrypt what had to wait."""
        cdef list pieces = self.pending_plaintext
        self.pending_plaintext = None
        self.pending_plaintext_size = 0
        if pieces:
            self.encrypt(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        return 0

    cdef int after_write(self) except -1:
        """Decide when what was encrypted leaves: at once, when it is the callback's first or much, else at its end."""
        cdef uint64_t callback
        if self.state != OPEN:
            return self.control_writing()
        callback = callback_of(self.loop)
        if self.last_write_callback != callback or self.unflushed_plaintext >= FLUSH_BYTES or not self.loop.running:
            self.last_write_callback = callback
            return self.flush_ciphertext(False)
        return self.defer_flush()

    cdef int defer_flush(self) except -1:
        if not self.flush_deferred:
            self.loop.request_flush(self)
            # Not before: without memory for its place nothing would be flushed any more.
            self.flush_deferred = True
        return 0

    cdef int flush_deferred_writes(self) except -1:
        """Offer the kernel what waits for no other reason than that its callback has not returned."""
        if self.engine.has_ciphertext and self.state == OPEN:
            self.flush_ciphertext(False)
        if self.underlying_stream is not None:
            self.underlying_stream.flush_deferred_writes()
        return 0

    cdef int on_flush(self) except -1:
        self.flush_deferred = False
        if self.engine.has_ciphertext and (self.state == OPEN or self.state == CLOSING):
            self.flush_ciphertext(False)
        return 0

    cdef int on_fork_in_child(self) except -1:
        """In the child of a fork: the session is the parent's alone, and ends here without a word to the peer.

        Two who go on would use the same keys and record numbers for different data (RFC 8446 section 5.3), and even the
        goodbye of a child that only tidies up would end the parent's connection.
        """
        self.flush_deferred = False
        self.pending_plaintext = None
        self.pending_plaintext_size = 0
        protocol = self.protocol
        if self.native_protocol:
            (<NativeProtocol>protocol).on_fork_in_child()
        if self.state < CLOSED:
            self._force_close(ConnectionAbortedError("this TLS connection belongs to the parent of this process"))
        return 0

    cdef int send_ciphertext(self) except -1:
        """Give what the engine has now to the transport below."""
        cdef const char *data = NULL
        cdef size_t length = 0
        cdef StreamTransport stream = self.underlying_stream
        cdef object owner = self.engine.take(&data, &length)
        try:
            if length and stream is not None:
                stream.submit(owner, data, length)
                if not stream.writing and stream.buffered_size():
                    # `flush_ciphertext` was called because this leaves now.
                    stream.flush()
            elif length:
                self.underlying.write(owner if owner is not None else PyBytes_FromStringAndSize(data, length))
        finally:
            self.engine.taken()
        return 0

    cdef int flush_ciphertext(self, bint force) except -1:
        """Give the ciphertext to the transport below, unless that is a foreign one and asked us to wait.

        Our own stream gets it in any case: what waits there is freed as it leaves, while OpenSSL's buffer would stay
        at the largest size that it ever had.
        """
        if force or self.underlying_stream is not None or not self.underlying_write_paused:
            self.unflushed_plaintext = 0
            if self.flushing:
                # A finalizer, or the transport below, in the middle of an outer call: its data go first, and the memory
                # that they lie in is still being looked at. It sends ours too.
                return 0
            self.flushing = True
            try:
                self.send_ciphertext()
                while (
                    self.engine.has_ciphertext and self.state < CLOSING_UNDERLYING
                    and (self.underlying_stream is not None or not self.underlying_write_paused)
                ):
                    self.send_ciphertext()
            finally:
                self.flushing = False
        if self.app_paused or self.underlying_write_paused or self.pending_plaintext is not None or self.write_high == 0:
            return self.control_writing()
        return 0

    cdef Py_ssize_t unsent(self) except -1:
        """How many bytes the kernel has not taken: here, and in the transport below, whatever its marks are."""
        cdef Py_ssize_t size = self.engine.unsent() + self.pending_plaintext_size
        if self.underlying_stream is not None:
            size += self.underlying_stream.buffered_size()
        elif self.underlying is not None:
            size += self.underlying.get_write_buffer_size()
        return size

    cdef int control_writing(self) except -1:
        """Tell the protocol to pause or to go on."""
        cdef Py_ssize_t size
        if self.protocol is None or self.app_state == APP_NEW:
            return 0
        # Of the stream only while it has told us to pause: it tells when that ends, of other bytes nobody would.
        size = self.engine.unsent() + self.pending_plaintext_size
        if self.underlying_write_paused and self.underlying_stream is not None:
            size += self.underlying_stream.buffered_size()
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

    def set_write_buffer_limits(self, high: object = None, low: object = None) -> None:
        """Set the marks, in bytes, at which the protocol is paused and resumed."""
        self.write_high, self.write_low = buffer_limits(high, low, WRITE_HIGH)
        self.control_writing()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the marks as (low, high)."""
        return (self.write_low, self.write_high)

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that the kernel has not taken yet."""
        self.flush_deferred_writes()
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
        if self.state == DRAINING:
            return self.finish_draining(None)
        if self.state >= CLOSING:
            return 0
        self.closing = True
        if self.state == NEW:
            # connection_made of the transport below finds it.
            return 0
        if self.state == HANDSHAKE:
            self.state = CLOSING_UNDERLYING
            self.stop_timer()
            self.underlying.abort()
            return 0
        if self.pending_plaintext is not None:
            self.flush_backlog()
            if self.state != OPEN:
                # It failed, or the protocol was told to pause and left in the child of a fork.
                return 0
            if self.pending_plaintext is not None:
                # Only when the peer has spoken, which nobody would hear. No goodbye says that this was all.
                return self.fatal(
                    ConnectionAbortedError("closed before the peer let everything that was written be encrypted"),
                    "What was written cannot be sent",
                )
        self.state = CLOSING
        self.stop_timer()
        self.timer = self.loop.call_later_ns(nanoseconds(self.shutdown_timeout), self._shutdown_expired, ())
        # The peer's goodbye, or that it goes on sending, must be seen.
        self.control_reading()
        if self.in_callback:
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
                # Errors of our own have no reason.
                if getattr(error, "reason", None) != "APPLICATION_DATA_AFTER_CLOSE_NOTIFY":
                    return self.fatal(error, "Fatal error on transport")
                self.flush_ciphertext(True)
                return self.close_underlying()
            if not done and self.engine.unread() > READ_HIGH:
                # Whatever keeps OpenSSL from it: below goes on receiving in this state.
                return self.fatal(
                    ssl.SSLError(1, f"{self.engine.unread()} bytes wait behind our close_notify and cannot be read"),
                    "Fatal error on transport",
                )
        self.flush_ciphertext(True)
        if done and self.state == CLOSING:
            self.call_eof_received()
            return self.close_underlying()
        return 0

    cdef int close_underlying(self) except -1:
        """Close the transport below; it sends what it has first, for at most the rest of the shutdown timeout."""
        if self.state == CLOSING:
            self.state = CLOSING_UNDERLYING
            self.underlying.close()
        return 0

    def _shutdown_expired(self) -> None:
        if self.state == CLOSING or self.state == CLOSING_UNDERLYING:
            self.underlying._force_close(TimeoutError("SSL shutdown timed out"))

    def abort(self) -> None:
        """Close at once; what waits to be sent is lost, connection_lost(None) follows."""
        self.flush_deferred_writes()
        self._force_close(None)

    def _force_close(self, error: BaseException | None) -> None:
        self.closing = True
        if self.state == NEW or self.state == CLOSED:
            return
        if self.state == DRAINING:
            self.finish_draining(error)
            return
        self.state = CLOSING_UNDERLYING
        self.stop_timer()
        self.underlying._force_close(error)

    cdef int fatal(self, object error, str message) except -1:
        """End the connection because of `error`; what the network did is logged only in debug mode."""
        self.closing = True
        if self.state == DRAINING:
            self.finish_draining(error)
        elif self.underlying is not None and self.state < CLOSED:
            if self.state < CLOSING_UNDERLYING:
                # The alert that tells the peer why.
                if self.engine.has_ciphertext:
                    self.flush_ciphertext(True)
                if self.underlying_stream is not None:
                    self.underlying_stream.flush()
                self.state = CLOSING_UNDERLYING
            self.stop_timer()
            self.underlying._force_close(error)
        if isinstance(error, OSError):
            if self.loop.debug:
                logger.debug("%r: %s", self, message, exc_info=error)
        elif not isinstance(error, asyncio.CancelledError):
            self.loop.call_exception_handler(
                {"message": message, "exception": error, "transport": self, "protocol": self.protocol}
            )
        return 0

    def __del__(self) -> None:
        if not self.closing and self.loop is not None and self.underlying is not None:
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
