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
from corenet.transports.streambase cimport Consumer

from corenet.core.framer import FrameTooLarge, IncompleteFrame
from corenet.limits import FRAMES_PER_CALL, FRAME_COPY_BELOW

__all__ = ["FrameSplitter"]

cdef Py_ssize_t JOIN = FRAME_COPY_BELOW
cdef str NOT_MADE = "the framer is missing: super().__init__(framer) of the FramedProtocol was not called"


cdef bint ends_with_peer(object transport) except -1:
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


cdef class FrameSplitter(Consumer):
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

    cdef uint8_t *lend(self, size_t *room) except? NULL:
        cdef Block block
        if not self.views:
            return NULL
        block = receive_block()
        room[0] = block.size - block.used
        return block.data + block.used

    cdef int bytes_received(self, const uint8_t *data, size_t length) except -1:
        cdef Block block = None
        if self.views:
            # The one that `lend` chose: nothing has run since.
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
        self.gone = False
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
            self.hand_on(frames)
        if self.backlog is None and not self.gone and not self.inside:
            if self.failure is not None:
                self.fail()
            elif self.eof_due and not self.paused and not self.stopped:
                # It came while `frames_received` ran.
                self.end_due()
        return 0

    cdef int hand_on(self, list frames) except -1:
        if self.backlog is not None:
            # Paused on a transport that delivered once more.
            self.backlog.extend(frames)
            return 0
        if self.paused or self.stopped or self.inside or len(frames) > self.batch:
            self.backlog = frames
            self.backlog_at = 0
            if self.paused and self.transport is not None:
                # Paused before there was a transport to pause.
                self.transport.pause_reading()
            return self.hand_on_backlog()
        self.inside = True
        try:
            call_method1(self, "frames_received", frames)
        finally:
            self.inside = False
        if self.successor is not None:
            return self.pass_on()
        if self.backlog is not None:
            # Put back, or received, during the call.
            return self.hand_on_backlog()
        return 0

    cdef int hand_on_backlog(self) except -1:
        """Hand on what waits, a batch at a time, until somebody pauses or takes over."""
        cdef list frames
        if self.inside:
            return 0
        self.inside = True
        try:
            while self.backlog is not None and not self.paused and not self.stopped and self.successor is None:
                if self.transport is not None and self.transport.is_closing():
                    # As with any protocol: nothing more after close().
                    self.backlog = None
                    break
                frames = self.backlog[self.backlog_at:self.backlog_at + self.batch]
                self.backlog_at += len(frames)
                if self.backlog_at >= len(self.backlog):
                    self.backlog = None
                    self.backlog_at = 0
                call_method1(self, "frames_received", frames)
        finally:
            self.inside = False
        if self.successor is not None:
            return self.pass_on()
        return 0

    def pause_frames(self) -> None:
        """Hand on no more frames after the present batch and stop receiving."""
        if not self.paused:
            self.paused = True
            if self.transport is not None and not self.gone:
                self.transport.pause_reading()

    def resume_frames(self) -> None:
        """Go on after `pause_frames`; frames that wait come in the next turn of the loop."""
        if not self.paused:
            return
        self.paused = self.stopped = False
        if self.gone or self.ended or self.transport is None:
            return
        if self.backlog is None and self.failure is None and not self.eof_due:
            self.transport.resume_reading()
        else:
            # A successor must not find it paused.
            self.resume_due = True
            asyncio.get_running_loop().call_soon(self._go_on)

    cdef int source_paused(self) except -1:
        self.cut_short = self.resume_due
        self.stopped = True
        self.resume_due = False
        # Frames of what was received may wait here.
        return 1

    cdef bint source_resumed(self) except -1:
        self.stopped = self.resume_due = False
        if self.gone or self.ended:
            return True
        if not self.paused:
            if self.backlog is None and self.failure is None and not self.eof_due:
                return True
            asyncio.get_running_loop().call_soon(self._go_on)
        self.resume_due = True
        return False

    def _go_on(self) -> None:
        """Hand on what waited, then what comes after it."""
        if self.paused or self.stopped or self.gone or self.ended:
            return
        try:
            self.go_on()
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

    cdef int go_on(self) except -1:
        if self.backlog is not None:
            self.hand_on_backlog()
        if self.gone or self.ended or self.backlog is not None:
            return 0
        if (self.paused or self.stopped) and not (self.eof_due and ends_with_peer(self.transport)):
            # Where the connection has ended already, only frames wait for the end of a pause.
            return 0
        if self.failure is not None:
            return self.fail()
        if self.eof_due:
            return self.end_due()
        self.resume_due = False
        self.transport.resume_reading()
        return 0

    cdef int end_due(self) except -1:
        """The peer's end, which came before all frames were handed on."""
        self.eof_due = False
        if self.transport.is_closing():
            # As with any protocol: nothing more after close().
            return 0
        if not self.finish_eof() or ends_with_peer(self.transport):
            self.transport.close()
        return 0

    @property
    def pending(self) -> int:
        """How many received bytes wait: of an incomplete frame, and of frames held back by a pause."""
        cdef Py_ssize_t size = self.framer.pending
        if self.backlog is not None:
            for frame in self.backlog[self.backlog_at:]:
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
        if self.ended or self.gone or (self.transport is not None and self.transport.is_closing()):
            # TLS tells of the peer's end behind our close() too, and nothing comes after that.
            return None
        if self.backlog is None and not self.inside and not self.paused:
            return self.finish_eof()
        if self.transport is None or not ends_with_peer(self.transport):
            self.eof_due = True
            return True
        if self.backlog is None and not self.inside:
            # Nothing waits that could be lost.
            return self.finish_eof()
        self.eof_due = True
        from corenet.transports.heldend import HeldEnd
        HeldEnd(self, self.transport)
        return None

    cdef object finish_eof(self):
        cdef Py_ssize_t held = self.framer.pending
        if held:
            self.failure = IncompleteFrame(f"the stream ended inside a frame, {held} bytes of it had arrived", held)
            self.fail()
            return None
        self.ended = True
        return self.frames_ended()

    # --- another protocol takes over ------------------------------------------------------------------------------

    cdef int adopted(self, object transport) except -1:
        cdef bint back = self.gone
        self.transport = transport
        self.gone = False
        # A callback that replaced us and then put us back has no successor.
        self.successor = None
        if self.aside:
            self.aside = False
            if self.cut_short and not self.paused:
                # The stand-in found us resumed, but the transport still paused: it resumes neither.
                self.stopped = False
        elif back:
            back = self.backlog is not None or self.failure is not None or self.eof_due
        if back and not self.paused and not self.stopped and not self.ended:
            self.resume_due = True
            asyncio.get_running_loop().call_soon(self._go_on)
        return 0

    cdef int replaced(self, object protocol) except -1:
        if isinstance(protocol, StandIn):
            # asyncio's, for the time of a `sendfile` by hand: it pauses the transport, takes no data, and puts us back.
            self.aside = self.gone = True
            return 0
        self.successor = protocol
        if not self.inside:
            self.pass_on()
        return 0

    def _replaced(self, protocol: object) -> None:
        """The same for transports that do not tell their former protocol; again for one that does is harmless."""
        if not self.gone and self.successor is None:
            self.replaced(protocol)

    cdef object rest(self):
        """The bytes that were received and not handed on, as they came."""
        cdef object raw = self.framer.leftover()
        cdef list frames
        if self.backlog is not None:
            frames = self.backlog[self.backlog_at:]
            raw = self.framer.pack_frames(frames) + raw
        self.backlog = None
        self.backlog_at = 0
        self.failure = None
        self.framer.reset()
        return raw

    cdef int keep(self, bytes raw) except -1:
        """Undo `rest`: who was to take these bytes did not."""
        try:
            self.backlog = self.framer.feed_bytes(
                <const uint8_t *>PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw), raw if self.views else None
            ) or None
        except FrameTooLarge as error:
            self.failure = error
            self.backlog = error.frames or None
        return 0

    cdef int pass_on(self) except -1:
        """Give the rest to the protocol that has our place now: a callback may have set several, one after the other."""
        cdef object successor = self.successor
        cdef object raw = self.rest()
        cdef object room
        cdef Py_ssize_t taken
        cdef object transport = self.transport
        self.successor = None
        self.gone = True
        self.stopped = False
        if self.paused or self.resume_due:
            self.paused = self.resume_due = False
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
            if self.gone:
                # Whole again for whoever puts us back.
                self.keep(raw)
            raise
        if self.eof_due:
            self.eof_due = False
            if not transport.get_protocol().eof_received() or ends_with_peer(transport):
                transport.close()
        return 0

    def _put_back(self, frames: list[object]) -> None:
        """Frames of the present batch that the callback leaves to its successor."""
        if self.backlog is None:
            self.backlog = list(frames)
        else:
            self.backlog[:self.backlog_at] = frames
        self.backlog_at = 0

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
        stream.gathering = True
        try:
            for item in pieces:
                size = fixed_bytes(item, &data)
                if size:
                    stream.submit(item, <const char *>data, size)
        finally:
            stream.gathering = False
            stream.written()
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
