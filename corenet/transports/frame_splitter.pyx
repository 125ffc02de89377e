"""Splits received bytes into messages for a framed protocol: splitting, batches, pausing, end of stream, replacement.

On our own streams data is received into blocks for views (or into the loop's buffer when frames are bytes) and no bytes
object is made of it as a whole. On any other transport, TLS included, the same code runs on the bytes of
``data_received``. While frames are pending, nothing more is received, so a pause leaves at most the frames of one read
waiting. When another protocol replaces this one, it gets the bytes that were not delivered as frames, unchanged.
"""

import asyncio
from asyncio.base_events import _SendfileFallbackProtocol as SendfileProtocol

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.stdint cimport uint8_t

from corenet.core.framer cimport Framer
from corenet.core.views cimport Block, fixed_bytes, receive_block
from corenet.transports.base cimport call_method1
from corenet.transports.stream cimport StreamTransport
from corenet.transports.streambase cimport NativeProtocol

from corenet.core.framer import FrameTooLarge, IncompleteFrame
from corenet.limits import FRAMES_PER_CALL, FRAME_COPY_BELOW

__all__ = ["FrameSplitter"]

cdef Py_ssize_t COPY_BELOW = FRAME_COPY_BELOW
cdef str NO_FRAMER_MESSAGE = "the framer is missing: super().__init__(framer) of the FramedProtocol was not called"


cdef bint closes_on_eof(object transport) except -1:
    """Return whether `transport` closes after `eof_received`, whatever that returns: foreign TLS transports do. Ours
    wait until a paused protocol has resumed."""
    if getattr(transport, "is_deferred_close", False):
        return True  # it exists for such transports only; the one below may have ended, and then it answers nothing
    return not hasattr(transport, "write_frame") and transport.get_extra_info("sslcontext") is not None


cdef object force_close_of(object transport):
    """Return the function that ends the connection of `transport` with a given error, or None."""
    cdef object below
    if not hasattr(transport, "write_frame") and not hasattr(transport, "held"):
        # `_force_close` of asyncio's TLS transport calls a method with an argument that it does not accept.
        below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
        if below is not None:
            transport = below
    return getattr(transport, "_force_close", None)


cdef class NoFramer(Framer):
    """The framer until `FrameSplitter.__init__` has run: raises, because a subclass may forget to call that."""

    cdef list feed_bytes(self, const uint8_t *p, Py_ssize_t n, object owner):
        raise RuntimeError(NO_FRAMER_MESSAGE)

    cdef int check_payload(self, const uint8_t *data, Py_ssize_t size) except -1:
        raise RuntimeError(NO_FRAMER_MESSAGE)


cdef Framer NO_FRAMER = NoFramer()


cdef class FrameSplitter(NativeProtocol):
    """The C part of FramedProtocol."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        self.framer = NO_FRAMER

    def __init__(self, framer: object, *, views: bool = True, batch: int | None = None) -> None:
        if not isinstance(framer, Framer):
            raise TypeError(f"framer must be a LengthFramer, DelimiterFramer or FixedFramer, not {framer!r}")
        self.framer = framer
        self.views = views
        self.batch = FRAMES_PER_CALL.default if batch is None else FRAMES_PER_CALL.check(batch, "FramedProtocol batch")

    # --- receiving ------------------------------------------------------------------------------------------------

    cdef uint8_t *get_receive_buffer(self, size_t *size) except? NULL:
        cdef Block block
        if not self.views:
            return NULL
        block = receive_block()
        size[0] = block.size - block.used
        return block.data + block.used

    cdef int bytes_received(self, const uint8_t *data, size_t length) except -1:
        cdef Block block = None
        if self.views:
            # The same block as in `get_receive_buffer`: no other code has run since.
            block = receive_block()
            block.used = (data - block.data) + length
        try:
            self.accept(data, length, block)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.transport._fatal_error(error, "Fatal error: protocol.frames_received() call failed.")
        return 0

    def data_received(self, data: bytes) -> None:
        """Take bytes from a foreign or TLS transport."""
        if type(data) is not bytes:
            data = bytes(data)
        self.accept(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data if self.views else None)

    cdef int accept(self, const uint8_t *data, Py_ssize_t size, object owner) except -1:
        cdef list frames
        # Bytes arrive although we were replaced: a layer such as TLS is between us and the stream now.
        self.detached = False
        if self.ended:
            return 0
        if self.failure is not None:
            # Frames before the fault are pending, and their receiver may switch to a protocol that takes the rest.
            self.framer.refused = (self.framer.refused or b"") + (<const char *>data)[:size]
            return 0
        try:
            frames = self.framer.feed_bytes(data, size, owner)
        except FrameTooLarge as error:
            self.failure = error
            frames = error.frames
        if frames:
            self.deliver_frames(frames)
        if self.pending_frames is None and not self.detached and not self.in_callback:
            if self.failure is not None:
                self.fail()
            elif self.eof_pending and not self.paused and not self.reading_paused:
                # It arrived while `frames_received` ran.
                self.deliver_pending_eof()
        return 0

    cdef int deliver_frames(self, list frames) except -1:
        if self.pending_frames is not None:
            # Paused, but the transport delivered once more.
            self.pending_frames.extend(frames)
            return 0
        if self.paused or self.reading_paused or self.in_callback or len(frames) > self.batch:
            self.pending_frames = frames
            self.pending_index = 0
            if self.paused and self.transport is not None:
                # Paused before there was a transport to pause.
                self.transport.pause_reading()
            return self.deliver_pending_frames()
        self.in_callback = True
        try:
            call_method1(self, "frames_received", frames)
        finally:
            self.in_callback = False
        if self.successor is not None:
            return self.transfer_to_successor()
        if self.pending_frames is not None:
            # Put back or received during the call.
            return self.deliver_pending_frames()
        return 0

    cdef int deliver_pending_frames(self) except -1:
        """Deliver the pending frames, a batch at a time, until paused or replaced."""
        cdef list frames
        if self.in_callback:
            return 0
        self.in_callback = True
        try:
            while self.pending_frames is not None and not self.paused and not self.reading_paused and self.successor is None:
                if self.transport is not None and self.transport.is_closing():
                    # As for any protocol, nothing is delivered after close().
                    self.pending_frames = None
                    break
                frames = self.pending_frames[self.pending_index:self.pending_index + self.batch]
                self.pending_index += len(frames)
                if self.pending_index >= len(self.pending_frames):
                    self.pending_frames = None
                    self.pending_index = 0
                call_method1(self, "frames_received", frames)
        finally:
            self.in_callback = False
        if self.successor is not None:
            return self.transfer_to_successor()
        return 0

    def pause_frames(self) -> None:
        """Deliver no more frames after the current batch, and stop receiving."""
        if not self.paused:
            self.paused = True
            if self.transport is not None and not self.detached:
                self.transport.pause_reading()

    def resume_frames(self) -> None:
        """Continue after `pause_frames`; pending frames are delivered in the next iteration of the loop."""
        if not self.paused:
            return
        self.paused = self.reading_paused = False
        if self.detached or self.ended or self.transport is None:
            return
        if self.pending_frames is None and self.failure is None and not self.eof_pending:
            self.transport.resume_reading()
        else:
            # A protocol that replaces us must not find reading paused.
            self.resume_after_delivery = True
            asyncio.get_running_loop().call_soon(self._continue_delivery)

    cdef int on_reading_paused(self) except -1:
        self.paused_while_resuming = self.resume_after_delivery
        self.reading_paused = True
        self.resume_after_delivery = False
        # Frames may be pending here.
        return 1

    cdef bint on_reading_resumed(self) except -1:
        self.reading_paused = self.resume_after_delivery = False
        if self.detached or self.ended:
            return True
        if not self.paused:
            if self.pending_frames is None and self.failure is None and not self.eof_pending:
                return True
            asyncio.get_running_loop().call_soon(self._continue_delivery)
        self.resume_after_delivery = True
        return False

    def _continue_delivery(self) -> None:
        """Deliver the pending frames, then the failure or end of stream, or resume reading."""
        if self.paused or self.reading_paused or self.detached or self.ended:
            return
        try:
            self.resume_delivery()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            # The loop called us and not the transport, which would end the connection with our exception.
            self.ended = True
            force_close = force_close_of(self.transport)
            if force_close is None:
                self.transport.abort()
            else:
                force_close(error)
            raise

    cdef int resume_delivery(self) except -1:
        if self.pending_frames is not None:
            self.deliver_pending_frames()
        if self.detached or self.ended or self.pending_frames is not None:
            return 0
        if (self.paused or self.reading_paused) and not (self.eof_pending and closes_on_eof(self.transport)):
            # If the transport closes on EOF, only pending frames wait for the end of a pause.
            return 0
        if self.failure is not None:
            return self.fail()
        if self.eof_pending:
            return self.deliver_pending_eof()
        self.resume_after_delivery = False
        self.transport.resume_reading()
        return 0

    cdef int deliver_pending_eof(self) except -1:
        """Deliver the peer's end of stream, which came while frames were pending."""
        self.eof_pending = False
        if self.transport.is_closing():
            # As for any protocol, nothing is delivered after close().
            return 0
        if not self.finish_eof() or closes_on_eof(self.transport):
            self.transport.close()
        return 0

    @property
    def pending(self) -> int:
        """Number of received bytes that were not delivered: of an incomplete frame, and of frames held by a pause."""
        cdef Py_ssize_t size = self.framer.pending
        if self.pending_frames is not None:
            for frame in self.pending_frames[self.pending_index:]:
                size += len(frame)
        return size

    # --- end of stream and failure --------------------------------------------------------------------------------

    cdef int fail(self) except -1:
        """End the connection; connection_lost gets `failure`."""
        if self.ended:
            return 0
        self.ended = True
        if self.transport is not None and self.transport.is_closing():
            return 0
        force_close = force_close_of(self.transport)
        if force_close is None:
            # Each transport ends the connection with the exception that its protocol raises.
            raise self.failure
        force_close(self.failure)
        return 0

    def eof_received(self) -> object:
        """Call `frames_ended`, or fail if the stream ended inside a frame."""
        if self.ended or self.detached or (self.transport is not None and self.transport.is_closing()):
            # TLS calls this even after our close(), when nothing is delivered any more.
            return None
        if self.pending_frames is None and not self.in_callback and not self.paused:
            return self.finish_eof()
        if self.transport is None or not closes_on_eof(self.transport):
            self.eof_pending = True
            return True
        if self.pending_frames is None and not self.in_callback:
            # No frames are pending that could be lost.
            return self.finish_eof()
        self.eof_pending = True
        from corenet.transports.deferred_close import DeferredConnectionLost
        DeferredConnectionLost(self, self.transport)
        return None

    cdef object finish_eof(self):
        cdef Py_ssize_t held = self.framer.pending
        if held:
            self.failure = IncompleteFrame(f"the stream ended inside a frame, of which {held} bytes had arrived", held)
            self.fail()
            return None
        self.ended = True
        return self.frames_ended()

    # --- replacement by another protocol --------------------------------------------------------------------------

    cdef int on_attached(self, object transport) except -1:
        cdef bint back = self.detached
        self.transport = transport
        self.detached = False
        # If a callback replaced us and then set us again, there is no successor.
        self.successor = None
        if self.replaced_for_sendfile:
            self.replaced_for_sendfile = False
            if self.paused_while_resuming and not self.paused:
                # asyncio's sendfile protocol found us resumed but the transport still paused: it resumes neither.
                self.reading_paused = False
        elif back:
            back = self.pending_frames is not None or self.failure is not None or self.eof_pending
        if back and not self.paused and not self.reading_paused and not self.ended:
            self.resume_after_delivery = True
            asyncio.get_running_loop().call_soon(self._continue_delivery)
        return 0

    cdef int on_replaced(self, object protocol) except -1:
        if isinstance(protocol, SendfileProtocol):
            # asyncio's protocol during a `sendfile` by read and write: it pauses the transport, takes no data, and sets
            # us again afterwards.
            self.replaced_for_sendfile = self.detached = True
            return 0
        self.successor = protocol
        if not self.in_callback:
            self.transfer_to_successor()
        return 0

    def _replaced(self, protocol: object) -> None:
        """`on_replaced` for foreign transports, which do not call it; harmless when it was called."""
        if not self.detached and self.successor is None:
            self.on_replaced(protocol)

    cdef object take_undelivered(self):
        """Remove and return the received bytes that were not delivered, unchanged."""
        cdef object raw = self.framer.leftover()
        cdef list frames
        if self.pending_frames is not None:
            frames = self.pending_frames[self.pending_index:]
            raw = self.framer.pack_frames(frames) + raw
        self.pending_frames = None
        self.pending_index = 0
        self.failure = None
        self.framer.reset()
        return raw

    cdef int restore_undelivered(self, bytes raw) except -1:
        """Undo `take_undelivered`, because the successor failed to take the bytes."""
        try:
            self.pending_frames = self.framer.feed_bytes(
                <const uint8_t *>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), raw if self.views else None
            ) or None
        except FrameTooLarge as error:
            self.failure = error
            self.pending_frames = error.frames or None
        return 0

    cdef int transfer_to_successor(self) except -1:
        """Pass the undelivered bytes to the current protocol; a callback may have set several, one after the other."""
        cdef object successor = self.successor
        cdef object raw = self.take_undelivered()
        cdef object buffer
        cdef Py_ssize_t taken
        cdef object transport = self.transport
        self.successor = None
        self.detached = True
        self.reading_paused = False
        if self.paused or self.resume_after_delivery:
            self.paused = self.resume_after_delivery = False
            transport.resume_reading()
        try:
            while True:
                successor = transport.get_protocol()
                if isinstance(successor, FrameSplitter) and (<FrameSplitter>successor).transport is None:
                    (<FrameSplitter>successor).transport = transport
                if not raw:
                    break
                if not isinstance(successor, asyncio.BufferedProtocol):
                    successor.data_received(raw)
                    break
                buffer = memoryview(successor.get_buffer(len(raw))).cast("B")
                taken = min(len(buffer), len(raw))
                if taken == 0:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                buffer[:taken] = raw[:taken]
                raw = raw[taken:]
                successor.buffer_updated(taken)
        except BaseException:
            if self.detached:
                # Restored for the case that the program sets this protocol again.
                self.restore_undelivered(raw)
            raise
        if self.eof_pending:
            self.eof_pending = False
            if not transport.get_protocol().eof_received() or closes_on_eof(transport):
                transport.close()
        return 0

    def _put_back(self, frames: list[object]) -> None:
        """Put frames of the current batch back, for the successor."""
        if self.pending_frames is None:
            self.pending_frames = list(frames)
        else:
            self.pending_frames[:self.pending_index] = frames
        self.pending_index = 0

    # --- sending --------------------------------------------------------------------------------------------------

    cdef int send_frames(self, object transport, object payloads) except -1:
        cdef const uint8_t *data
        cdef bytes packed
        if type(transport) is not StreamTransport:
            transport.write(self.framer.pack_frames(payloads))
            return 0
        if type(payloads) is not list and type(payloads) is not tuple:
            payloads = list(payloads)
        for payload in payloads:
            if fixed_bytes(payload, &data) >= COPY_BELOW:
                return self.send_parts(transport, payloads)
        packed = self.framer.pack_frames(payloads)
        # After packing, because code of the payloads may have ended the stream.
        (<StreamTransport>transport).check_writable()
        if packed:
            (<StreamTransport>transport).submit(packed, PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))
        return 0

    cdef int send_parts(self, StreamTransport stream, object payloads) except -1:
        """Send small payloads copied with their headers and large ones without copying, all in one vector."""
        cdef const uint8_t *data = NULL
        cdef Py_ssize_t size
        cdef Py_ssize_t head_size = self.framer.head_size
        cdef Py_ssize_t tail_size = self.framer.tail_size
        cdef uint8_t head[8]
        cdef uint8_t tail[16]
        cdef list pieces = []
        cdef list small = []
        for payload in payloads:
            size = fixed_bytes(payload, &data)
            if size < COPY_BELOW:
                small.append(payload)
                continue
            self.framer.check_payload(data, size)
            if small:
                pieces.append(self.framer.pack_frames(small))
                small = []
            if head_size:
                self.framer.put_head(head, size)
                pieces.append((<const char *>head)[:head_size])
            pieces.append(payload)
            if tail_size:
                self.framer.put_tail(tail)
                pieces.append((<const char *>tail)[:tail_size])
        if small:
            pieces.append(self.framer.pack_frames(small))
        stream.check_writable()
        return stream.submit_pieces(pieces)

    def write_frame(self, payload: object) -> None:
        """Send `payload` as one frame; never blocks; see `pause_writing` for flow control.

        Raises:
            FrameError: the payload cannot be a frame of this framer.
        """
        self.write_frames((payload,))

    def write_frames(self, payloads: object) -> None:
        """Send each payload as one frame, with as few system calls as the transport allows.

        Raises:
            FrameError: a payload cannot be a frame; nothing is sent.
        """
        if self.transport is None:
            raise RuntimeError("write_frames before connection_made")
        self.send_frames(self.transport, payloads)
