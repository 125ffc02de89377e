"""TLS transports, compatible with those of asyncio.sslproto: writing, and closing a connection.

Plaintext is encrypted inside `write`, so nothing has to be kept or copied. The ciphertext of one callback, or of one
batch of received bytes (`corenet.tls.receive`), leaves as one write. After close() the protocol gets no more data. We
send close_notify and wait for the peer's until the shutdown timeout. A peer that sends data instead is not read any
further, and the connection is closed as soon as our data is sent.

One direction may end before the other; the state is OPEN meanwhile:

* `peer_ended`: the peer has sent close_notify, and eof_received returned true. We still send, until close(). Further
  bytes of the peer are received and ignored (RFC 8446 section 6.1), so that a reset is noticed; the end of the stream
  below changes nothing. Only in TLS 1.3: before, close_notify must be answered at once (RFC 5246 section 7.2.1). The
  end of the stream without close_notify always closes.
* `write_ended`: `half_close` was called. Nothing can be written any more. Data is received and delivered as before. Its
  close_notify follows the data before it; until it can be sent it is `half_close_due`.

When both have ended, the connection is CLOSING.

States and events. "below" is the transport whose protocol this object is. CU is CLOSING_UNDERLYING::

    state     | ciphertext           | end of stream below      | connection_lost           | close()       | abort()
    ----------+----------------------+--------------------------+---------------------------+---------------+--------
    NEW       | kept                 | -                        | CLOSED                    | CU once made  | close()
    HANDSHAKE | step; complete: OPEN | failed: CU               | CLOSED                    | CU, abort     | CU
    OPEN      | decrypted; kept      | CLOSING; later while     | CLOSED; with unread data: | CLOSING,      | CU
              | while paused         | paused; peer_ended: -    | DRAINING                  | close_notify  |
    CLOSING   | close_notify or      | CU                       | CLOSED                    | -             | CU
              | data: CU             |                          |                           |               |
    CU        | dropped              | -                        | CLOSED                    | -             | CU
    DRAINING  | -                    | -                        | -                         | CU, CLOSED    | close()
    CLOSED    | -                    | -                        | -                         | -             | -

The peer's end (close_notify, a record that cannot be decrypted, the end of the stream below) is reported after the data
before it, and never while reading is paused: `deliver_end_of_stream`. DRAINING ends when it was reported; a write or a
close in DRAINING drops the unread data. Data and connection_lost are never reported in the same loop iteration. A
server counts the connection until connection_lost.

The timer runs in HANDSHAKE, in CLOSING and in CU after CLOSING. When it expires, the transport below is closed with an
error. It runs in DRAINING, too: if the protocol reads nothing for `TLS_DRAIN_TIMEOUT` seconds, connection_lost gets an
error that says so.

Where data may be kept between two events:

* received ciphertext: in the engine, in NEW, while reading is paused, or for an incomplete record;
* received plaintext: nowhere, because all of a record is delivered at once. Exception: a BufferedProtocol that pauses
  after a part of a record; OpenSSL keeps the rest;
* ciphertext to send: in the engine until the batch, the callback or the loop iteration ends. While a transport below
  that is not a StreamTransport has paused writing, it stays longer. OpenSSL encrypts a write as a whole, and the
  standard library's buffer never shrinks;
* plaintext to send: in `pending_plaintext`, before the handshake is complete or while the peer must send first.

Only `read_wanted` decides whether the transport below receives.
"""

import asyncio
import ssl
import warnings
from asyncio.log import logger

cimport cython
from cpython.bytes cimport PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from corenet.core.engine cimport Engine
from corenet.core.scheduler cimport callback_of
from corenet.tls.receive cimport APP_NEW, CLOSING, DRAINING, CLOSING_UNDERLYING, HANDSHAKE, CLOSED, NEW, OPEN, TlsReceiver, nanoseconds
from corenet.transports.base cimport call_method0, buffer_limits
from corenet.transports.stream cimport StreamTransport
from corenet.transports.stream_sender cimport pieces_of
from corenet.transports.streambase cimport NativeProtocol

from corenet.limits import LOST_WRITES_BEFORE_WARNING, TLS_FLUSH_SIZE, TLS_READ_HIGH_WATERMARK, TLS_WRITE_HIGH_WATERMARK

__all__ = ["TlsTransport", "make_tls"]

cdef Py_ssize_t FLUSH_BYTES = TLS_FLUSH_SIZE
cdef Py_ssize_t READ_HIGH = TLS_READ_HIGH_WATERMARK
cdef Py_ssize_t WRITE_HIGH = TLS_WRITE_HIGH_WATERMARK
cdef int WARN_AFTER = LOST_WRITES_BEFORE_WARNING


@cython.final
cdef class TlsTransport(TlsReceiver):
    """One TLS connection; created by the event loop, not by users."""

    # --- writing --------------------------------------------------------------------------------------------------

    cdef int begin_write(self) except -1:
        """Return 1 if data may be written now, 0 if it is dropped."""
        if self.write_ended:
            raise RuntimeError("Cannot call write() after half_close()")
        if self.state > OPEN or self.closing:
            if self.state == DRAINING:
                # As on TCP, a write to a closed connection leads to connection_lost.
                self.finish_draining(self.underlying_error)
            if self.lost_writes >= WARN_AFTER:
                logger.warning("SSL connection is closed")
            self.lost_writes += 1
            return 0
        return 1

    def write(self, data: object) -> None:
        """Send `data`; never blocks. It is encrypted or copied on return, so mutable data may be changed afterwards."""
        if not PyBytes_CheckExact(data) and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data: expecting a bytes-like instance, got {type(data).__name__}")
        if not PyBytes_CheckExact(data) and type(data) is not bytearray and type(data) is not memoryview:
            # A `__buffer__` of its class may run user code: run it now, before the state is checked.
            data = bytes(memoryview(data))
        self.write_plaintext(data)

    def writelines(self, list_of_data: object) -> None:
        """Send several pieces, joined, because one record for all costs less than one for each."""
        self.write_plaintext(b"".join(pieces_of(list_of_data)))

    cdef int write_plaintext(self, object data) except -1:
        """Encrypt `data` and decide when to send it; an error ends the connection."""
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
            TypeError: when the protocol is not a FramedProtocol.
            FrameError: when the payload does not fit the framing.
        """
        self.write_frames((payload,))

    def write_frames(self, payloads: object) -> None:
        """Send each of `payloads` as one frame, in as few TLS records as possible.

        Raises:
            TypeError: when the protocol is not a FramedProtocol.
            FrameError: when a payload does not fit the framing; nothing is sent then.
        """
        # A reference for the duration of the call, which may replace the protocol.
        protocol = self.protocol
        if not isinstance(protocol, NativeProtocol):
            raise TypeError(f"{type(protocol).__name__} has no framing; use a FramedProtocol")
        (<NativeProtocol>protocol).send_frames(self, payloads)

    cdef int encrypt(self, object data) except -1:
        """Encrypt `data`, and flush large data in between; what cannot be encrypted yet is kept."""
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
        """Encrypt `pending_plaintext`, then send the close_notify of `half_close`."""
        cdef list pieces = self.pending_plaintext
        self.pending_plaintext = None
        self.pending_plaintext_size = 0
        if pieces:
            self.encrypt(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self.half_close_due and self.state == OPEN and self.pending_plaintext is None:
            self.half_close_due = not self.engine.send_close_notify()
        return 0

    cdef int after_write(self) except -1:
        """Send now after the first write of a callback or when much is unsent, else when the callback returns."""
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
            # Set only after success: if `request_flush` raises MemoryError, a later write must try again.
            self.flush_deferred = True
        return 0

    cdef int flush_deferred_writes(self) except -1:
        """Send what waits only for the end of the current callback."""
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
        """In the child of a fork: end the connection without sending anything; it belongs to the parent.

        Both processes would use the same keys and record numbers for different data (RFC 8446 section 5.3). Even a
        close_notify from a child that cleans up would end the parent's connection.
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
        """Pass the ciphertext to the transport below, unless that has paused writing and is not ours.

        A StreamTransport always gets it, because it frees the memory of sent data, while a memory BIO keeps its largest
        size.
        """
        if force or self.underlying_stream is not None or not self.underlying_write_paused:
            self.unflushed_plaintext = 0
            if self.flushing:
                # A finalizer or the transport below has called this during an outer call: the data of the outer call is
                # sent first, and its memory is still in use. It sends ours too.
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
        """Bytes that the kernel has not accepted, here and in the transport below, whatever its watermarks are."""
        cdef Py_ssize_t size = self.engine.unsent() + self.pending_plaintext_size
        if self.underlying_stream is not None:
            size += self.underlying_stream.buffered_size()
        elif self.underlying is not None:
            size += self.underlying.get_write_buffer_size()
        return size

    cdef int control_writing(self) except -1:
        """Call pause_writing or resume_writing of the protocol, when a watermark is crossed."""
        cdef Py_ssize_t size
        if self.protocol is None or self.app_state == APP_NEW:
            return 0
        # Count the stream's buffer only while it has paused us. Only then does its resume_writing bring us here again.
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
        """Set the watermarks, in bytes, at which the protocol is paused and resumed."""
        self.write_high, self.write_low = buffer_limits(high, low, WRITE_HIGH)
        self.control_writing()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Return the watermarks as (low, high)."""
        return (self.write_low, self.write_high)

    def get_write_buffer_size(self) -> int:
        """Return the number of bytes that the kernel has not accepted yet."""
        self.flush_deferred_writes()
        return self.unsent()

    def can_write_eof(self) -> bool:
        """Return False, as in asyncio, whose TLS peers close the connection when they get close_notify: a program that
        ends its requests with `write_eof` would get no reply. `half_close` is for programs whose peer supports it."""
        return False

    def write_eof(self) -> None:
        """Raise NotImplementedError."""
        raise NotImplementedError

    def half_close(self) -> None:
        """Send close_notify after everything that was written, and continue to receive until the peer sends it, too.

        Does nothing when the transport is closing or half-closed. The transport closes when both directions have ended;
        nothing limits how long the peer may take, so call `close` after a time. Before TLS 1.3 the peer answers at once
        with close_notify and drops what it has not sent (RFC 5246 section 7.2.1).
        """
        if self.closing or self.write_ended:
            return
        self.write_ended = True
        if self.peer_ended:
            self.begin_shutdown()
            return
        self.half_close_due = True
        if self.state != OPEN:
            # `resume_io` sends it after the handshake.
            return
        try:
            self.flush_backlog()
            self.after_write()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error on SSL protocol")

    # --- the end --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Deliver no more data, send what was written, then close_notify; connection_lost(None) follows."""
        if self.closing:
            return
        self.begin_shutdown()

    cdef int begin_shutdown(self) except -1:
        if self.state == DRAINING:
            # An error of our own, such as ENOBUFS, may have cost data that was written. After a reset by the peer the
            # close is an ordinary one.
            return self.finish_draining(
                None if isinstance(self.underlying_error, ConnectionError) else self.underlying_error
            )
        if self.state >= CLOSING:
            return 0
        self.closing = True
        if self.state == NEW:
            # `connection_made` checks `closing`.
            return 0
        if self.state == HANDSHAKE:
            self.state = CLOSING_UNDERLYING
            self.stop_timer()
            self.underlying.abort()
            return 0
        if self.pending_plaintext is not None:
            self.flush_backlog()
            if self.state != OPEN:
                # Encryption failed, or pause_writing has closed the transport or left it in the child of a fork.
                return 0
            if self.pending_plaintext is not None:
                # The peer must send first, and we no longer wait for it. No close_notify, because data is missing.
                return self.fatal(
                    ConnectionAbortedError("the connection was closed before all written data could be encrypted"),
                    "Written data cannot be sent",
                )
        self.state = CLOSING
        self.stop_timer()
        self.timer = self.loop.call_later_ns(nanoseconds(self.shutdown_timeout), self._shutdown_expired, ())
        # Receive, to see the peer's close_notify or further data.
        self.control_reading()
        if self.in_callback:
            # `bytes_received` or `resume_io` calls step_shutdown afterwards.
            return 0
        return self.step_shutdown()

    cdef int step_shutdown(self) except -1:
        """Send close_notify; close the transport below if the peer has sent it too, or has sent data instead."""
        cdef bint done = True
        # The end of the stream below comes after data that close() drops: eof_received would mean that all was
        # delivered.
        cdef bint dropped = self.eof_seen and self.engine.readable()
        if self.state != CLOSING:
            return 0
        if not self.eof_seen or self.engine.ended:
            try:
                done = self.engine.step_shutdown()
            except ssl.SSLError as error:
                # Errors of our own have no reason.
                if getattr(error, "reason", None) != "APPLICATION_DATA_AFTER_CLOSE_NOTIFY":
                    return self.fatal(error, "Fatal error on transport")
                self.flush_ciphertext(True)
                return self.close_underlying()
            if not done and self.engine.unread() > READ_HIGH:
                # Whatever prevents it in OpenSSL: the transport below continues to receive in this state.
                return self.fatal(
                    ssl.SSLError(1, f"{self.engine.unread()} bytes wait behind our close_notify and cannot be read"),
                    "Fatal error on transport",
                )
        self.flush_ciphertext(True)
        if done and self.state == CLOSING:
            if not dropped:
                self.call_eof_received()
            return self.close_underlying()
        return 0

    cdef int close_underlying(self) except -1:
        """Close the transport below. It sends its buffer first, for at most the rest of the shutdown timeout."""
        if self.state == CLOSING:
            self.state = CLOSING_UNDERLYING
            self.underlying.close()
        return 0

    def _shutdown_expired(self) -> None:
        if self.state == CLOSING or self.state == CLOSING_UNDERLYING:
            self.underlying._force_close(TimeoutError("SSL shutdown timed out"))

    def abort(self) -> None:
        """Close at once; unsent data is dropped, connection_lost(None) follows."""
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
        """End the connection because of `error`; an OSError is logged only in debug mode."""
        self.closing = True
        if self.state == DRAINING:
            self.finish_draining(error)
        elif self.underlying is not None and self.state < CLOSED:
            if self.state < CLOSING_UNDERLYING:
                # Send the alert with the reason.
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
