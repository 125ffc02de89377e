"""Three answers to TCP's missing message boundaries: a length prefix, a delimiter, a fixed size.

A framer is fed bytes as they come and returns the frames they complete; any chunking gives the same frames. It does no
I/O and never waits. The whole splitting loop runs in C because one read often carries hundreds of small frames, and a
frame in progress is collected in the very bytes object that is handed out, so that no byte is copied twice. A peer's
length prefix is a claim: memory is reserved for what has arrived, doubling, and not for what was announced.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.ref cimport Py_XDECREF, PyObject
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memchr, memcpy

cimport cython

from corenet.core.buffers cimport Chunk
from corenet.limits import FRAME_DELIMITER, FRAME_RESERVE, FRAME_SIZE, FRAME_VIEW

cdef extern from "string.h" nogil:
    void *memmem(const void *haystack, size_t haystack_size, const void *needle, size_t needle_size)

cdef extern from "Python.h":
    PyObject *new_bytes "PyBytes_FromStringAndSize" (const char *p, Py_ssize_t n) except NULL
    int _PyBytes_Resize(PyObject **p, Py_ssize_t n) except -1
    char *bytes_data "PyBytes_AS_STRING" (PyObject *p)
    Py_ssize_t bytes_size "PyBytes_GET_SIZE" (PyObject *p)

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
        self.view_minimum = FRAME_VIEW.default
        self.reserve = FRAME_RESERVE.default

    def __dealloc__(self):
        Py_XDECREF(self.partial)

    def feed(self, data):
        """Take the next bytes of the stream and return the list of frames they complete.

        Frames are `bytes`; with ``views=True`` a frame of some KiB or more that lies whole inside `data` is a
        memoryview of it when `data` is bytes or a Chunk (which then cannot be recycled before the view is gone).

        Raises:
            FrameTooLarge: when a frame exceeds `max_frame`; the framer is poisoned until `reset`.
            FrameError: when the framer is poisoned.
        """
        cdef Py_buffer buffer
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        try:
            return self.feed_bytes(<const uint8_t *>buffer.buf, buffer.len,
                                   data if self.views and (type(data) is bytes or isinstance(data, Chunk)) else None)
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

    cdef int absorb(self, const uint8_t *p, Py_ssize_t n, Py_ssize_t final_size) except -1:
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

    cdef object finish(self):
        """Hand out the partial frame as it stands."""
        cdef object frame
        if self.partial == NULL:
            return EMPTY
        self.grow(self.filled)
        frame = <object>self.partial
        self.forget()
        return frame

    cdef object cut(self, const uint8_t *base, Py_ssize_t start, Py_ssize_t stop, object owner):
        if owner is not None and stop - start >= self.view_minimum:
            return memoryview(owner)[start:stop]
        return PyBytes_FromStringAndSize(<const char *>base + start, stop - start)

    cdef int refuse(self, uint64_t size, list frames) except -1:
        self.forget()
        self.poisoned = True
        raise FrameTooLarge(f"a frame of at least {size} bytes is over the limit of {self.max_frame}", frames)

    cdef void forget(self) noexcept:
        Py_XDECREF(self.partial)
        self.partial = NULL
        self.filled = 0


@cython.final
cdef class LengthFramer(Framer):
    """Frames preceded by their size in 1, 2, 4 or 8 bytes, big or little endian; the prefix does not count itself."""

    def __init__(self, prefix=4, *, big_endian=True, max_frame=None, views=False):
        if prefix not in (1, 2, 4, 8):
            raise ValueError(f"LengthFramer prefix: {prefix} is not 1, 2, 4 or 8 bytes")
        largest = min(FRAME_SIZE.maximum, (1 << (8 * prefix)) - 1)
        if max_frame is None:
            max_frame = min(FRAME_SIZE.default, largest)
        self.max_frame = min(FRAME_SIZE.check(max_frame, "LengthFramer max_frame"), largest)
        self.prefix = prefix
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
        self.forget()
        self.poisoned = False
        self.head_filled = 0
        self.need = -1

    def frame(self, payload):
        """Return ``(prefix, payload)`` for writelines; the payload is not copied.

        Raises:
            FrameTooLarge: when the payload is over `max_frame`.
        """
        cdef uint64_t size
        cdef uint8_t head[8]
        cdef int i
        cdef Py_ssize_t length = payload.nbytes if type(payload) is memoryview else len(payload)
        if length > self.max_frame:
            raise FrameTooLarge(f"a payload of {length} bytes is over the limit of {self.max_frame}")
        size = length
        for i in range(self.prefix):
            head[self.prefix - 1 - i if self.big_endian else i] = size & 0xFF
            size >>= 8
        return PyBytes_FromStringAndSize(<char *>head, self.prefix), payload

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
                    self.head_filled = 0
                    self.refuse(size, frames)
                if n - at >= <Py_ssize_t>size:
                    # The common case: the frame lies whole in what was just read.
                    self.head_filled = 0
                    frames.append(self.cut(p, at, at + <Py_ssize_t>size, owner))
                    at += size
                    continue
                self.head_filled = prefix
                self.need = size
            else:
                take = min(self.need - self.filled, n - at)
                self.absorb(p + at, take, self.need)
                at += take
                if self.filled == self.need:
                    self.need = -1
                    self.head_filled = 0
                    frames.append(self.finish())
        return frames


@cython.final
cdef class DelimiterFramer(Framer):
    """Frames that end with a delimiter of 1 to 16 bytes; the delimiter is no part of the frame."""

    def __init__(self, delimiter, *, max_frame=None, views=False):
        cdef const uint8_t *p
        self.delimiter = bytes(delimiter)
        self.mark_size = FRAME_DELIMITER.check(len(self.delimiter), "DelimiterFramer delimiter length")
        if self.mark_size > <Py_ssize_t>sizeof(self.mark):
            raise ValueError(f"DelimiterFramer delimiter length: at most {sizeof(self.mark)} bytes")
        p = <const uint8_t *>PyBytes_AS_STRING(self.delimiter)
        memcpy(self.mark, p, self.mark_size)
        self.max_frame = FRAME_SIZE.default if max_frame is None else FRAME_SIZE.check(
            max_frame, "DelimiterFramer max_frame")
        self.views = views

    def frame(self, payload):
        """Return ``(payload, delimiter)`` for writelines; the payload is not copied.

        Raises:
            FrameTooLarge: when the payload is over `max_frame`.
            FrameError: when the receiver would end the frame elsewhere, since the delimiter occurs before its end.
        """
        cdef Py_buffer buffer
        cdef uint8_t joint[30]
        cdef Py_ssize_t tail
        cdef bint bad
        PyObject_GetBuffer(payload, &buffer, PyBUF_SIMPLE)
        try:
            if buffer.len > self.max_frame:
                raise FrameTooLarge(f"a payload of {buffer.len} bytes is over the limit of {self.max_frame}")
            # Inside the payload, or made of its tail and the beginning of the delimiter itself.
            tail = min(buffer.len, self.mark_size - 1)
            memcpy(joint, <const uint8_t *>buffer.buf + buffer.len - tail, tail)
            memcpy(joint + tail, self.mark, self.mark_size - 1)
            bad = (self.find(<const uint8_t *>buffer.buf, buffer.len) >= 0
                   or self.find(joint, tail + self.mark_size - 1) >= 0)
        finally:
            PyBuffer_Release(&buffer)
        if bad:
            raise FrameError(f"the payload contains the delimiter {self.delimiter!r}")
        return payload, self.delimiter

    cdef Py_ssize_t find(self, const uint8_t *p, Py_ssize_t n) noexcept nogil:
        cdef const uint8_t *hit
        if n < self.mark_size:
            return -1
        if self.mark_size == 1:
            hit = <const uint8_t *>memchr(p, self.mark[0], n)
        else:
            hit = <const uint8_t *>memmem(p, n, self.mark, self.mark_size)
        return -1 if hit == NULL else hit - p

    cdef list feed_bytes(self, const uint8_t *p, Py_ssize_t n, object owner):
        cdef list frames = []
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t hit, tail, ahead
        cdef uint8_t joint[30]
        if self.poisoned:
            raise FrameError("this framer refused a frame before; the stream is lost")
        if self.filled > 0 and n > 0:
            # A delimiter may straddle the last read and this one: look at the joint only, never twice at old bytes.
            tail = min(self.filled, self.mark_size - 1)
            ahead = min(n, self.mark_size - 1)
            memcpy(joint, bytes_data(self.partial) + self.filled - tail, tail)
            memcpy(joint + tail, p, ahead)
            hit = self.find(joint, tail + ahead)
            if hit >= 0:
                self.filled -= tail - hit
                at = hit + self.mark_size - tail
                if self.filled > self.max_frame:
                    self.refuse(self.filled, frames)
                frames.append(self.finish())
            else:
                hit = self.find(p, n)
                if self.filled + (n if hit < 0 else hit) - (self.mark_size - 1 if hit < 0 else 0) > self.max_frame:
                    self.refuse(self.filled + (n - self.mark_size + 1 if hit < 0 else hit), frames)
                if hit < 0:
                    self.absorb(p, n, -1)
                    return frames
                self.absorb(p, hit, self.filled + hit)
                frames.append(self.finish())
                at = hit + self.mark_size
        while at < n:
            hit = self.find(p + at, n - at)
            if hit < 0:
                if n - at - (self.mark_size - 1) > self.max_frame:
                    self.refuse(n - at - self.mark_size + 1, frames)
                self.absorb(p + at, n - at, -1)
                break
            if hit > self.max_frame:
                self.refuse(hit, frames)
            frames.append(self.cut(p, at, at + hit, owner))
            at += hit + self.mark_size
        return frames


@cython.final
cdef class FixedFramer(Framer):
    """Frames of one fixed size, with nothing between them."""

    def __init__(self, size, *, views=False):
        self.size = FRAME_SIZE.check(size, "FixedFramer size")
        self.max_frame = self.size
        self.views = views

    def frame(self, payload):
        """Return ``(b"", payload)`` for writelines, the shape the other framers have.

        Raises:
            FrameError: unless the payload has exactly `size` bytes.
        """
        cdef Py_ssize_t length = payload.nbytes if type(payload) is memoryview else len(payload)
        if length != self.size:
            raise FrameError(f"a payload of {length} bytes is not a frame of {self.size}")
        return EMPTY, payload

    cdef list feed_bytes(self, const uint8_t *p, Py_ssize_t n, object owner):
        cdef list frames = []
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t take
        if self.filled:
            take = min(self.size - self.filled, n)
            self.absorb(p, take, self.size)
            at = take
            if self.filled < self.size:
                return frames
            frames.append(self.finish())
        while n - at >= self.size:
            frames.append(self.cut(p, at, at + self.size, owner))
            at += self.size
        if at < n:
            self.absorb(p + at, n - at, self.size)
        return frames
