"""Three answers to TCP's missing message boundaries: a length prefix, a delimiter, a fixed size.

A framer is fed bytes as they come and returns the frames they complete; any chunking gives the same frames. It does no
I/O and never waits. The whole splitting loop runs in C because one read often carries hundreds of small frames, and a
frame in progress is collected in the very bytes object that is handed out, so that no byte is copied twice. A peer's
length prefix is a claim: memory is reserved for what has arrived, doubling, and not for what was announced.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

cimport cython

from corenet.core.libc cimport _PyBytes_Resize, bytes_data, bytes_size, find_bytes, new_bytes
from corenet.core.views cimport FrameView, fixed_bytes, make_view
from corenet.limits import FRAME_DELIMITER_SIZE, FRAME_INITIAL_RESERVE, FRAME_MAX_SIZE

__all__ = ["DelimiterFramer", "FixedFramer", "FrameError", "FrameTooLarge", "IncompleteFrame", "LengthFramer"]

cdef bytes EMPTY = b""


class FrameError(ValueError):
    """The stream cannot be split into frames, or a payload cannot be sent as one."""


class FrameTooLarge(FrameError):
    """A frame is larger than `max_frame`; a receiving framer refuses all further bytes.

    `frames` holds the frames that were complete before the one refused, so that none is lost.
    """

    def __init__(self, message, frames=()):
        super().__init__(message)
        self.frames = list(frames)


class IncompleteFrame(FrameError):
    """The stream ended inside a frame; `pending` bytes of it had arrived."""

    def __init__(self, message, pending):
        super().__init__(message)
        self.pending = pending


cdef class Framer:
    """What the three framers share: the frame in progress, the size limit and the poison after a violation."""

    def __cinit__(self):
        self.partial = NULL
        self.filled = 0
        self.poisoned = False
        self.reserve = FRAME_INITIAL_RESERVE

    def __dealloc__(self):
        Py_XDECREF(self.partial)

    def feed(self, data):
        """Take the next bytes of the stream and return the list of frames they complete.

        Frames are `bytes`; with ``views=True`` they are FrameViews of `data` itself when that is bytes, else of a copy.

        Raises:
            FrameTooLarge: when a frame exceeds `max_frame`; the framer is poisoned until `reset`.
            FrameError: when the framer is poisoned.
        """
        cdef Py_buffer buffer
        cdef object owner = None
        if self.views:
            if type(data) is not bytes:
                data = bytes(memoryview(data))
            owner = data
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        try:
            return self.feed_bytes(<const uint8_t *>buffer.buf, buffer.len, owner)
        finally:
            PyBuffer_Release(&buffer)

    @property
    def pending(self):
        """How many bytes of an incomplete frame are held, its prefix included."""
        return self.filled

    def reset(self):
        """Forget the incomplete frame and the poison, as for a new stream."""
        self.forget()
        self.poisoned = False
        self.refused = None

    def leftover(self):
        """Return the bytes that were fed and not handed out as frames, as they came: for whoever reads on instead."""
        if self.refused is not None:
            return self.refused
        return PyBytes_FromStringAndSize(NULL if self.partial == NULL else bytes_data(self.partial), self.filled)

    def pack(self, payloads):
        """Return one bytes object with each of `payloads` as a frame, ready to be sent.

        Raises:
            FrameError: when a payload cannot be a frame (of this framer); FrameTooLarge for one over `max_frame`.
        """
        return self.pack_frames(payloads)

    def at_eof(self):
        """Check that the stream may end here.

        Raises:
            IncompleteFrame: when a frame has begun and is not complete.
        """
        held = self.pending
        if held:
            raise IncompleteFrame(f"the stream ended inside a frame, {held} bytes of it had arrived", held)

    cdef list feed_bytes(self, const uint8_t *p, Py_ssize_t n, object owner):
        raise NotImplementedError("Framer is a base; use LengthFramer, DelimiterFramer or FixedFramer")

    # --- the frame in progress ------------------------------------------------------------------------------------

    cdef int grow(self, Py_ssize_t wanted) except -1:
        # On failure _PyBytes_Resize leaves NULL behind and raises MemoryError; the count must follow.
        if self.partial == NULL:
            self.partial = new_bytes(NULL, wanted)
        elif bytes_size(self.partial) != wanted:
            try:
                _PyBytes_Resize(&self.partial, wanted)
            except MemoryError:
                self.filled = 0
                self.poisoned = True
                raise
        return 0

    cdef int append_partial(self, const uint8_t *p, Py_ssize_t n, Py_ssize_t final_size) except -1:
        """Append n bytes to the partial frame, whose size will be final_size (-1: not known)."""
        cdef Py_ssize_t wanted = self.filled + n
        cdef Py_ssize_t have = 0 if self.partial == NULL else bytes_size(self.partial)
        if wanted > have:
            wanted = max(wanted, 2 * have, self.reserve if final_size >= 0 else 0)
            if final_size >= 0 and wanted > final_size:
                wanted = final_size
            self.grow(wanted)
        memcpy(bytes_data(self.partial) + self.filled, p, n)
        self.filled += n
        return 0

    cdef object finish(self, object owner):
        """Hand out the partial frame as it stands, as a view when there is an owner, for those are what is wanted."""
        cdef object frame = EMPTY
        if self.partial != NULL:
            self.grow(self.filled)
            frame = <object>self.partial
            self.forget()
        if owner is None:
            return frame
        return make_view(frame, <const uint8_t *>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))

    cdef object make_frame(self, const uint8_t *base, Py_ssize_t start, Py_ssize_t stop, object owner):
        if owner is not None:
            return make_view(owner, base + start, stop - start)
        return PyBytes_FromStringAndSize(<const char *>base + start, stop - start)

    cdef int refuse(self, uint64_t size, list frames, bytes raw) except -1:
        self.forget()
        self.poisoned = True
        self.refused = raw
        raise FrameTooLarge(f"a frame of at least {size} bytes is over the limit of {self.max_frame}", frames)

    cdef void forget(self) noexcept:
        Py_XDECREF(self.partial)
        self.partial = NULL
        self.filled = 0

    # --- sending --------------------------------------------------------------------------------------------------

    cdef int check_payload(self, const uint8_t *data, Py_ssize_t size) except -1:
        """Raise FrameError unless these bytes can be a frame."""
        if size > self.max_frame:
            raise FrameTooLarge(f"a payload of {size} bytes is over the limit of {self.max_frame}")
        return 0

    cdef void put_head(self, uint8_t *out, Py_ssize_t size) noexcept:
        """Write the `head_size` bytes that stand before a payload of `size` bytes."""

    cdef void put_tail(self, uint8_t *out) noexcept:
        """Write the `tail_size` bytes that stand behind a payload."""

    cdef bytes pack_frames(self, object payloads):
        cdef Py_ssize_t around = self.head_size + self.tail_size
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t size
        cdef list sources = None
        cdef bytes packed
        cdef object payload
        cdef const uint8_t *data = NULL
        cdef uint8_t *out
        if type(payloads) is not list and type(payloads) is not tuple:
            payloads = list(payloads)
        for payload in payloads:
            if type(payload) is not bytes and type(payload) is not FrameView:
                # What somebody may change meanwhile is copied first.
                sources = [
                    item if type(item) is bytes or type(item) is FrameView else bytes(memoryview(item))
                    for item in payloads
                ]
                break
        if sources is None:
            sources = payloads if type(payloads) is list else list(payloads)
        for payload in sources:
            size = fixed_bytes(payload, &data)
            self.check_payload(data, size)
            total += size + around
        packed = PyBytes_FromStringAndSize(NULL, total)
        out = <uint8_t *>PyBytes_AS_STRING(packed)
        for payload in sources:
            size = fixed_bytes(payload, &data)
            self.put_head(out, size)
            out += self.head_size
            memcpy(out, data, size)
            out += size
            self.put_tail(out)
            out += self.tail_size
        return packed


@cython.final
cdef class LengthFramer(Framer):
    """Frames preceded by their size in 1, 2, 4 or 8 bytes, big or little endian; the prefix does not count itself."""

    def __cinit__(self, prefix=4, *, big_endian=True, max_frame=None, views=False):
        if prefix not in (1, 2, 4, 8):
            raise ValueError(f"LengthFramer prefix: {prefix} is not 1, 2, 4 or 8 bytes")
        largest = min(FRAME_MAX_SIZE.maximum, (1 << (8 * prefix)) - 1)
        if max_frame is None:
            max_frame = min(FRAME_MAX_SIZE.default, largest)
        self.max_frame = min(FRAME_MAX_SIZE.check(max_frame, "LengthFramer max_frame"), largest)
        self.prefix = prefix
        self.head_size = prefix
        self.big_endian = big_endian
        self.views = views
        self.head_filled = 0
        self.need = -1

    @property
    def pending(self):
        """How many bytes of an incomplete frame are held, its prefix included."""
        return self.head_filled + self.filled

    def reset(self):
        """Forget the incomplete frame and the poison, as for a new stream."""
        Framer.reset(self)
        self.head_filled = 0
        self.need = -1

    def leftover(self):
        """Return the bytes that were fed and not handed out as frames, as they came: for whoever reads on instead."""
        return PyBytes_FromStringAndSize(<const char *>self.head, self.head_filled) + Framer.leftover(self)

    def frame(self, payload):
        """Return ``(prefix, payload)`` for writelines; the payload is not copied.

        Raises:
            FrameTooLarge: when the payload is over `max_frame`.
        """
        cdef uint8_t head[8]
        cdef Py_ssize_t length = payload.nbytes if type(payload) is memoryview else len(payload)
        self.check_payload(NULL, length)
        self.put_head(head, length)
        return PyBytes_FromStringAndSize(<char *>head, self.prefix), payload

    cdef void put_head(self, uint8_t *out, Py_ssize_t size) noexcept:
        cdef int i
        cdef uint64_t left = size
        for i in range(self.prefix):
            out[self.prefix - 1 - i if self.big_endian else i] = left & 0xFF
            left >>= 8

    cdef list feed_bytes(self, const uint8_t *p, Py_ssize_t n, object owner):
        cdef list frames = []
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t take
        cdef uint64_t size
        cdef int prefix = self.prefix
        if self.poisoned:
            raise FrameError("this framer refused a frame before; the stream is lost")
        while at < n:
            if self.need < 0:
                if self.head_filled == 0:
                    frames = self.cut_whole(frames, p, n, &at, owner)
                    if at == n:
                        break
                if self.head_filled == 0 and n - at >= prefix:
                    size = length_prefix(p + at, prefix, self.big_endian)
                    at += prefix
                else:
                    take = min(<Py_ssize_t>(prefix - self.head_filled), n - at)
                    memcpy(self.head + self.head_filled, p + at, take)
                    self.head_filled += take
                    at += take
                    if self.head_filled < prefix:
                        break
                    size = length_prefix(self.head, prefix, self.big_endian)
                if size > <uint64_t>self.max_frame:
                    if self.head_filled == 0:
                        at -= prefix
                    self.refuse(size, frames, PyBytes_FromStringAndSize(<const char *>p + at, n - at))
                if n - at >= <Py_ssize_t>size:
                    # Only its prefix came in two parts.
                    self.head_filled = 0
                    frames.append(self.make_frame(p, at, at + <Py_ssize_t>size, owner))
                    at += size
                    continue
                if self.head_filled == 0:
                    memcpy(self.head, p + at - prefix, prefix)
                    self.head_filled = prefix
                self.need = size
            else:
                take = min(self.need - self.filled, n - at)
                self.append_partial(p + at, take, self.need)
                at += take
                if self.filled == self.need:
                    self.need = -1
                    self.head_filled = 0
                    frames.append(self.finish(owner))
        return frames

    cdef list cut_whole(self, list frames, const uint8_t *p, Py_ssize_t n, Py_ssize_t *at, object owner):
        """Return `frames` and all that lie whole behind ``at[0]``, which moves on.

        They are counted first: a list of the right size costs less than one that grows.
        """
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t place = at[0]
        cdef Py_ssize_t filled = len(frames)
        cdef Py_ssize_t i
        cdef Py_ssize_t prefix = self.prefix
        cdef Py_ssize_t most = self.max_frame
        cdef uint64_t size
        cdef bint big_endian = self.big_endian
        cdef list whole
        while n - place >= prefix:
            size = length_prefix(p + place, prefix, big_endian)
            if size > <uint64_t>most or n - place - prefix < <Py_ssize_t>size:
                break
            place += prefix + <Py_ssize_t>size
            count += 1
        if count == 0:
            return frames
        whole = PyList_New(filled + count)
        for i in range(filled):
            Py_INCREF(frames[i])
            PyList_SET_ITEM(whole, i, frames[i])
        place = at[0]
        for i in range(filled, filled + count):
            # Looked at again, since another thread may write into what we were given; never go beyond it.
            if n - place >= prefix:
                size = length_prefix(p + place, prefix, big_endian)
            if n - place < prefix or <uint64_t>(n - place - prefix) < size:
                raise FrameError("the bytes changed while they were split into frames")
            place += prefix
            frame = (
                PyBytes_FromStringAndSize(<const char *>p + place, size) if owner is None
                else make_view(owner, p + place, size)
            )
            Py_INCREF(frame)
            PyList_SET_ITEM(whole, i, frame)
            place += <Py_ssize_t>size
        at[0] = place
        return whole


@cython.final
cdef class DelimiterFramer(Framer):
    """Frames that end with a delimiter of 1 to 16 bytes; the delimiter is no part of the frame."""

    def __cinit__(self, delimiter, *, max_frame=None, views=False):
        cdef const uint8_t *p
        self.delimiter = bytes(delimiter)
        self.delimiter_size = FRAME_DELIMITER_SIZE.check(len(self.delimiter), "DelimiterFramer delimiter length")
        if self.delimiter_size > <Py_ssize_t>sizeof(self.delimiter_bytes):
            raise ValueError(f"DelimiterFramer delimiter length: at most {sizeof(self.delimiter_bytes)} bytes")
        p = <const uint8_t *>PyBytes_AS_STRING(self.delimiter)
        memcpy(self.delimiter_bytes, p, self.delimiter_size)
        self.tail_size = self.delimiter_size
        self.max_frame = FRAME_MAX_SIZE.default if max_frame is None else FRAME_MAX_SIZE.check(
            max_frame, "DelimiterFramer max_frame")
        self.views = views

    def frame(self, payload):
        """Return ``(payload, delimiter)`` for writelines; the payload is not copied.

        Raises:
            FrameTooLarge: when the payload is over `max_frame`.
            FrameError: when the receiver would end the frame elsewhere, since the delimiter occurs before its end.
        """
        cdef Py_buffer buffer
        PyObject_GetBuffer(payload, &buffer, PyBUF_SIMPLE)
        try:
            self.check_payload(<const uint8_t *>buffer.buf, buffer.len)
        finally:
            PyBuffer_Release(&buffer)
        return payload, self.delimiter

    cdef int check_payload(self, const uint8_t *data, Py_ssize_t size) except -1:
        cdef uint8_t boundary[30]
        cdef Py_ssize_t tail = min(size, self.delimiter_size - 1)
        Framer.check_payload(self, data, size)
        # Inside the payload, or made of its tail and the beginning of the delimiter itself.
        memcpy(boundary, data + size - tail, tail)
        memcpy(boundary + tail, self.delimiter_bytes, self.delimiter_size - 1)
        if self.find(data, size) >= 0 or self.find(boundary, tail + self.delimiter_size - 1) >= 0:
            raise FrameError(f"the payload contains the delimiter {self.delimiter!r}")
        return 0

    cdef void put_tail(self, uint8_t *out) noexcept:
        memcpy(out, self.delimiter_bytes, self.delimiter_size)

    cdef Py_ssize_t find(self, const uint8_t *p, Py_ssize_t n) noexcept nogil:
        return find_bytes(p, n, self.delimiter_bytes, self.delimiter_size)

    cdef list feed_bytes(self, const uint8_t *p, Py_ssize_t n, object owner):
        cdef list frames = []
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t hit, tail, ahead, size
        cdef uint8_t boundary[30]
        if self.poisoned:
            raise FrameError("this framer refused a frame before; the stream is lost")
        if self.filled > 0 and n > 0:
            # A delimiter may straddle the last read and this one: look at the joint only, never twice at old bytes.
            tail = min(self.filled, self.delimiter_size - 1)
            ahead = min(n, self.delimiter_size - 1)
            memcpy(boundary, bytes_data(self.partial) + self.filled - tail, tail)
            memcpy(boundary + tail, p, ahead)
            hit = self.find(boundary, tail + ahead)
            if hit >= 0:
                size = self.filled - tail + hit
                if size > self.max_frame:
                    self.refuse(size, frames, self.held(p, n))
                self.filled = size
                frames.append(self.finish(owner))
                at = hit + self.delimiter_size - tail
            else:
                hit = self.find(p, n)
                size = self.filled + (n - self.delimiter_size + 1 if hit < 0 else hit)
                if size > self.max_frame:
                    self.refuse(size, frames, self.held(p, n))
                if hit < 0:
                    self.append_partial(p, n, -1)
                    return frames
                self.append_partial(p, hit, self.filled + hit)
                frames.append(self.finish(owner))
                at = hit + self.delimiter_size
        while at < n:
            hit = self.find(p + at, n - at)
            size = n - at - self.delimiter_size + 1 if hit < 0 else hit
            if size > self.max_frame:
                self.refuse(size, frames, PyBytes_FromStringAndSize(<const char *>p + at, n - at))
            if hit < 0:
                self.append_partial(p + at, n - at, -1)
                break
            frames.append(self.make_frame(p, at, at + hit, owner))
            at += hit + self.delimiter_size
        return frames

    cdef bytes held(self, const uint8_t *p, Py_ssize_t n):
        """The bytes of the frame in progress and the n that follow."""
        cdef bytes raw = PyBytes_FromStringAndSize(NULL, self.filled + n)
        memcpy(PyBytes_AS_STRING(raw), bytes_data(self.partial), self.filled)
        memcpy(PyBytes_AS_STRING(raw) + self.filled, p, n)
        return raw


@cython.final
cdef class FixedFramer(Framer):
    """Frames of one fixed size, with nothing between them."""

    def __cinit__(self, size, *, views=False):
        self.size = FRAME_MAX_SIZE.check(size, "FixedFramer size")
        self.max_frame = self.size
        self.views = views

    def frame(self, payload):
        """Return ``(b"", payload)`` for writelines, the shape the other framers have.

        Raises:
            FrameError: unless the payload has exactly `size` bytes.
        """
        self.check_payload(NULL, payload.nbytes if type(payload) is memoryview else len(payload))
        return EMPTY, payload

    cdef int check_payload(self, const uint8_t *data, Py_ssize_t size) except -1:
        if size != self.size:
            raise FrameError(f"a payload of {size} bytes is not a frame of {self.size}")
        return 0

    cdef list feed_bytes(self, const uint8_t *p, Py_ssize_t n, object owner):
        cdef list frames = []
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t take
        if self.filled:
            take = min(self.size - self.filled, n)
            self.append_partial(p, take, self.size)
            at = take
            if self.filled < self.size:
                return frames
            frames.append(self.finish(owner))
        while n - at >= self.size:
            frames.append(self.make_frame(p, at, at + self.size, owner))
            at += self.size
        if at < n:
            self.append_partial(p + at, n - at, self.size)
        return frames
