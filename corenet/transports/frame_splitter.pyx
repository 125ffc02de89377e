"""What stands between received bytes and a protocol that wants whole messages: splitting, batches, pausing, the end.

On our own streams bytes are received into blocks that views can keep (or into the loop's buffer when frames are to be
bytes) and never become an object as a whole; on any other transport, TLS included, the same code runs on what
``data_received`` brings. One read's frames are the unit of work: pausing in between leaves at most that many waiting,
since nothing is received until they were handed on, and when another protocol takes the transport over, what was not
handed on as frames goes to it as it came.
"""

import asyncio
from asyncio.base_events import _SendfileFallbackProtocol as StandIn

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

cdef Py_ssize_t JOIN = FRAME_COPY_BELOW
cdef str NOT_MADE = "the framer is missing: super().__init__(framer) of the FramedProtocol was not called"


cdef bint closes_on_eof(object transport) except -1:
    """Tell whether `transport` closes after `eof_received`, whatever that returns: TLS does, except for ours, which waits
    until a protocol that paused has resumed."""
    return not hasattr(transport, "write_frame") and transport.get_extra_info("sslcontext") is not None


cdef object force_close_of(object transport):
    """What ends the connection of `transport` with an error of our own for a reason, or None."""
    cdef object below
    if not hasattr(transport, "write_frame") and not hasattr(transport, "held"):
        # That of asyncio's TLS transport calls a method with an argument which that does not take.
        below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None)
        if below is not None:
            transport = below
    return getattr(transport, "_force_close", None)


cdef class NoFramer(Framer):
    """What stands for the framer until `FrameSplitter.__init__` has run: a subclass may forget to call it."""

    cdef list feed_bytes(self, const uint8_t *p, Py_ssize_t n, object owner):
        raise RuntimeError(NOT_MADE)

    cdef int check_payload(self, const uint8_t *data, Py_ssize_t size) except -1:
        raise RuntimeError(NOT_MADE)


cdef Framer NO_FRAMER = NoFramer()


cdef class FrameSplitter(NativeProtocol):
    """The half of FramedProtocol that runs in C."""

    def __cinit__(self, *_args, **_kwargs) -> None:
        self.framer = NO_FRAMER

    def __init__(self, framer: object, *, views: bool = True, batch: int | None = None) -> None:
        if not isinstance(framer, Framer):
            raise TypeError(f"framer must be a LengthFramer, DelimiterFramer or FixedFramer, not {framer!r}")
        self.framer = framer
        self.views = views
        self.batch = FRAMES_PER_CALL.default if batch is None else FRAMES_PER_CALL.check(batch, "FramedProtocol batch")

    # --- receiving ------------------------------------------------------------------------------------------------

    cdef uint8_t *get_receive_buffer(self, size_t *room) except? NULL:
        cdef Block block
        if not self.views:
            return NULL
        block = receive_block()
        room[0] = block.size - block.used
        return block.data + block.used

    cdef int bytes_received(self, const uint8_t *data, size_t length) except -1:
        cdef Block block = None
        if self.views:
            # The one that `get_receive_buffer` chose: nothing has run since.
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
        """Take bytes from a transport that knows nothing of frames."""
        if type(data) is not bytes:
            data = bytes(data)
        self.accept(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data if self.views else None)

    cdef int accept(self, const uint8_t *data, Py_ssize_t size, object owner) except -1:
        cdef list frames
        # Bytes come again when a layer such as TLS took our place below and is now our transport.
        self.detached = False
        if self.ended:
            return 0
        if self.failure is not None:
            # Frames before the fault still wait, and whoever gets them may hand the rest over.
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
                # It came while `frames_received` ran.
                self.deliver_pending_eof()
        return 0

    cdef int deliver_frames(self, list frames) except -1:
        if self.pending_frames is not None:
            # Paused on a transport that delivered once more.
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
            # Put back, or received, during the call.
            return self.deliver_pending_frames()
        return 0

    cdef int deliver_pending_frames(self) except -1:
        """Hand on what waits, a batch at a time, until somebody pauses or takes over."""
        cdef list frames
        if self.in_callback:
            return 0
        self.in_callback = True
        try:
            while self.pending_frames is not None and not self.paused and not self.reading_paused and self.successor is None:
                if self.transport is not None and self.transport.is_closing():
                    # As with any protocol: nothing more after close().
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
        """Hand on no more frames after the present batch and stop receiving."""
        if not self.paused:
            self.paused = True
            if self.transport is not None and not self.detached:
                self.transport.pause_reading()

    def resume_frames(self) -> None:
        """Go on after `pause_frames`; frames that wait come in the next turn of the loop."""
        if not self.paused:
            return
        self.paused = self.reading_paused = False
        if self.detached or self.ended or self.transport is None:
            return
        if self.pending_frames is None and self.failure is None and not self.eof_pending:
            self.transport.resume_reading()
        else:
            # A successor must not find it paused.
            self.resume_after_delivery = True
            asyncio.get_running_loop().call_soon(self._go_on)

    cdef int on_reading_paused(self) except -1:
        self.paused_while_resuming = self.resume_after_delivery
        self.reading_paused = True
        self.resume_after_delivery = False
        # Frames of what was received may wait here.
        return 1

    cdef bint on_reading_resumed(self) except -1:
        self.reading_paused = self.resume_after_delivery = False
        if self.detached or self.ended:
            return True
        if not self.paused:
            if self.pending_frames is None and self.failure is None and not self.eof_pending:
                return True
            asyncio.get_running_loop().call_soon(self._go_on)
        self.resume_after_delivery = True
        return False

    def _go_on(self) -> None:
        """Hand on what waited, then what comes after it."""
        if self.paused or self.reading_paused or self.detached or self.ended:
            return
        try:
            self.resume_delivery()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            # No transport called us that would end the connection with what we raise.
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
            # Where the connection has ended already, only frames wait for the end of a pause.
            return 0
        if self.failure is not None:
            return self.fail()
        if self.eof_pending:
            return self.deliver_pending_eof()
        self.resume_after_delivery = False
        self.transport.resume_reading()
        return 0

    cdef int deliver_pending_eof(self) except -1:
        """The peer's end, which came before all frames were handed on."""
        self.eof_pending = False
        if self.transport.is_closing():
            # As with any protocol: nothing more after close().
            return 0
        if not self.finish_eof() or closes_on_eof(self.transport):
            self.transport.close()
        return 0

    @property
    def pending(self) -> int:
        """How many received bytes wait: of an incomplete frame, and of frames held back by a pause."""
        cdef Py_ssize_t size = self.framer.pending
        if self.pending_frames is not None:
            for frame in self.pending_frames[self.pending_index:]:
                size += len(frame)
        return size

    # --- the end --------------------------------------------------------------------------------------------------

    cdef int fail(self) except -1:
        """End the connection with `failure` as the reason that connection_lost is told."""
        if self.ended:
            return 0
        self.ended = True
        if self.transport is not None and self.transport.is_closing():
            return 0
        force_close = force_close_of(self.transport)
        if force_close is None:
            # The way out that every transport has: it ends the connection with what its protocol raises.
            raise self.failure
        force_close(self.failure)
        return 0

    def eof_received(self) -> object:
        """The peer sends no more: tell `frames_ended`, or fail when that is in the middle of a frame."""
        if self.ended or self.detached or (self.transport is not None and self.transport.is_closing()):
            # TLS tells of the peer's end behind our close() too, and nothing comes after that.
            return None
        if self.pending_frames is None and not self.in_callback and not self.paused:
            return self.finish_eof()
        if self.transport is None or not closes_on_eof(self.transport):
            self.eof_pending = True
            return True
        if self.pending_frames is None and not self.in_callback:
            # Nothing waits that could be lost.
            return self.finish_eof()
        self.eof_pending = True
        from corenet.transports.deferred_close import DeferredConnectionLost
        DeferredConnectionLost(self, self.transport)
        return None

    cdef object finish_eof(self):
        cdef Py_ssize_t is_deferred_close = self.framer.pending
        if is_deferred_close:
            self.failure = IncompleteFrame(f"the stream ended inside a frame, {is_deferred_close} bytes of it had arrived", is_deferred_close)
            self.fail()
            return None
        self.ended = True
        return self.frames_ended()

    # --- another protocol takes over ------------------------------------------------------------------------------

    cdef int on_attached(self, object transport) except -1:
        cdef bint back = self.detached
        self.transport = transport
        self.detached = False
        # A callback that replaced us and then put us back has no successor.
        self.successor = None
        if self.replaced_for_sendfile:
            self.replaced_for_sendfile = False
            if self.paused_while_resuming and not self.paused:
                # The stand-in found us resumed, but the transport still paused: it resumes neither.
                self.reading_paused = False
        elif back:
            back = self.pending_frames is not None or self.failure is not None or self.eof_pending
        if back and not self.paused and not self.reading_paused and not self.ended:
            self.resume_after_delivery = True
            asyncio.get_running_loop().call_soon(self._go_on)
        return 0

    cdef int on_replaced(self, object protocol) except -1:
        if isinstance(protocol, StandIn):
            # asyncio's, for the time of a `sendfile` by hand: it pauses the transport, takes no data, and puts us back.
            self.replaced_for_sendfile = self.detached = True
            return 0
        self.successor = protocol
        if not self.in_callback:
            self.transfer_to_successor()
        return 0

    def _replaced(self, protocol: object) -> None:
        """The same for transports that do not tell their former protocol; again for one that does is harmless."""
        if not self.detached and self.successor is None:
            self.on_replaced(protocol)

    cdef object take_undelivered(self):
        """The bytes that were received and not handed on, as they came."""
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
        """Undo `take_undelivered`: who was to take these bytes did not."""
        try:
            self.pending_frames = self.framer.feed_bytes(
                <const uint8_t *>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), raw if self.views else None
            ) or None
        except FrameTooLarge as error:
            self.failure = error
            self.pending_frames = error.frames or None
        return 0

    cdef int transfer_to_successor(self) except -1:
        """Give the rest to the protocol that has our place now: a callback may have set several, one after the other."""
        cdef object successor = self.successor
        cdef object raw = self.take_undelivered()
        cdef object room
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
                room = memoryview(successor.get_buffer(len(raw))).cast("B")
                taken = min(len(room), len(raw))
                if taken == 0:
                    raise RuntimeError("get_buffer() returned an empty buffer")
                room[:taken] = raw[:taken]
                raw = raw[taken:]
                successor.buffer_updated(taken)
        except BaseException:
            if self.detached:
                # Whole again for whoever puts us back.
                self.restore_undelivered(raw)
            raise
        if self.eof_pending:
            self.eof_pending = False
            if not transport.get_protocol().eof_received() or closes_on_eof(transport):
                transport.close()
        return 0

    def _put_back(self, frames: list[object]) -> None:
        """Frames of the present batch that the callback leaves to its successor."""
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
            if fixed_bytes(payload, &data) >= JOIN:
                return self.send_parts(transport, payloads)
        packed = self.framer.pack_frames(payloads)
        # After the code of the payloads: it may have ended the stream.
        (<StreamTransport>transport).check_writable()
        if packed:
            (<StreamTransport>transport).submit(packed, PyBytes_AS_STRING(packed), PyBytes_GET_SIZE(packed))
        return 0

    cdef int send_parts(self, StreamTransport stream, object payloads) except -1:
        """Small payloads copied beside their headers, large ones as they are; everything in one vector."""
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
            if size < JOIN:
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
        stream.in_writelines = True
        try:
            for item in pieces:
                size = fixed_bytes(item, &data)
                if size:
                    stream.submit(item, <const char *>data, size)
        finally:
            stream.in_writelines = False
            stream.after_write()
        return 0

    def write_frame(self, payload: object) -> None:
        """Send `payload` as one frame; never blocks, see `pause_writing` for flow control.

        Raises:
            FrameError: when the payload cannot be a frame of this framing.
        """
        self.write_frames((payload,))

    def write_frames(self, payloads: object) -> None:
        """Send each payload as one frame, all in as few system calls as the transport allows.

        Raises:
            FrameError: when a payload cannot be a frame; nothing is sent then.
        """
        if self.transport is None:
            raise RuntimeError("write_frames before connection_made")
        self.send_frames(self.transport, payloads)
