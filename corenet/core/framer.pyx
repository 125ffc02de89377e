"""Framers split a byte stream into messages by a length prefix, a delimiter or a fixed size.

A framer is fed bytes as they arrive and returns the frames that they complete; the result does not depend on how the
stream was cut into chunks. It does no I/O. The splitting loop runs in C because one read often brings hundreds of small
frames. A partial frame is collected in the bytes object that is later returned, so no byte is copied twice. A length
prefix is untrusted: memory is allocated for what has arrived, doubling, and not for what was announced.
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

# Why a framer takes no more bytes. `LOST`: it is not known where the next frame begins.
cdef str REFUSED = "this framer refused a frame before; use a new stream after reset()"
cdef str LOST = "an earlier call failed and lost a part of the stream; use a new stream after reset()"


class FrameError(ValueError):
    """The stream cannot be split into frames, or a payload cannot be sent as a frame."""


class FrameTooLarge(FrameError):
    """A frame is larger than `max_frame`. A receiving framer then refuses all further bytes.

    `frames` holds the complete frames before the one that was refused, so that none is lost.
    """

    def __init__(self, message, frames=()):
        super().__init__(message)
        self.frames = list(frames)


class IncompleteFrame(FrameError):
    """The stream ended inside a frame, of which `pending` bytes had arrived."""

    def __init__(self, message, pending):
        super().__init__(message)
        self.pending = pending


cdef class Framer:
    """Base of the three framers: the partial frame, the size limit, and the state after a failure (poisoned).

    A framer is poisoned when `failure` is not None. `feed_bytes` alone gives bytes to `split` of the subclasses, so
    none of them can take bytes after a frame was refused, or after an exception that lost some.
    """

    def __cinit__(self):
        self.partial = NULL
        self.filled = 0
        self.reserve = FRAME_INITIAL_RESERVE

    def __dealloc__(self):
        Py_XDECREF(self.partial)

    def feed(self, data):
        """Take the next bytes of the stream and return the list of frames that they complete.

        Frames are `bytes`; with ``views=True`` they are FrameViews, of `data` itself when it is bytes, else of a copy.

        Raises:
            FrameTooLarge: a frame is larger than `max_frame`; the framer is poisoned until `reset`.
            FrameError: the framer is poisoned.
            MemoryError: there is no memory for the frames; a part of the stream is lost, and the framer is poisoned.
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
        """Drop the incomplete frame and the poisoned state, for a new stream."""
        self.drop_partial()
        self.failure = None
        self.refused = None

    def leftover(self):
        """Return the bytes that were fed and not returned as frames, unchanged, for another reader of the stream.

        Raises:
            FrameError: an exception other than FrameTooLarge has lost some of them.
        """
        if self.failure is LOST:
            raise FrameError(LOST)
        if self.refused is not None:
            return self.refused
        return PyBytes_FromStringAndSize(NULL if self.partial == NULL else bytes_data(self.partial), self.filled)

    def pack(self, payloads):
        """Return one bytes object with each of `payloads` as a frame, ready to be sent.

        Raises:
            FrameError: a payload cannot be a frame of this framer; FrameTooLarge for one larger than `max_frame`.
        """
        return self.pack_frames(payloads)

    def at_eof(self):
        """Check that the stream may end here.

        Raises:
            IncompleteFrame: a frame is incomplete.
            FrameError: the framer is poisoned, so the rest of the stream was not split.
        """
        if self.failure is not None:
            raise FrameError(self.failure)
        held = self.pending
        if held:
            raise IncompleteFrame(f"the stream ended inside a frame, of which {held} bytes had arrived", held)

    cdef list feed_bytes(self, const uint8_t *p, Py_ssize_t n, object owner):
        """`feed` in C. An exception loses frames and the position in the stream, so nothing more is taken after it."""
        if self.failure is not None:
            raise FrameError(self.failure)
        try:
            return self.split(p, n, owner)
        except FrameTooLarge:
            # `refuse` has kept what was not returned.
            raise
        except BaseException:
            self.drop_partial()
            self.refused = None
            self.failure = LOST
            raise

    cdef list split(self, const uint8_t *p, Py_ssize_t n, object owner):
        raise NotImplementedError("Framer is an abstract base class; use LengthFramer, DelimiterFramer or FixedFramer")

    # --- the partial frame ----------------------------------------------------------------------------------------

    cdef int grow(self, Py_ssize_t wanted) except -1:
        # When _PyBytes_Resize fails, it frees the object and sets the pointer to NULL; `feed_bytes` clears `filled`.
        if self.partial == NULL:
            self.partial = new_bytes(NULL, wanted)
        elif bytes_size(self.partial) != wanted:
            _PyBytes_Resize(&self.partial, wanted)
        return 0

    cdef int append_partial(self, const uint8_t *p, Py_ssize_t n, Py_ssize_t final_size) except -1:
        """Append n bytes to the partial frame, whose complete size is final_size (-1: not known)."""
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
        """Return the partial frame as it is, as a view when there is an `owner`, because views were requested then."""
        cdef object frame = EMPTY
        if self.partial != NULL:
            self.grow(self.filled)
            frame = <object>self.partial
            self.drop_partial()
        if owner is None:
            return frame
        return make_view(frame, <const uint8_t *>PyBytes_AS_STRING(frame), PyBytes_GET_SIZE(frame))

    cdef object make_frame(self, const uint8_t *base, Py_ssize_t start, Py_ssize_t stop, object owner):
        if owner is not None:
            return make_view(owner, base + start, stop - start)
        return PyBytes_FromStringAndSize(<const char *>base + start, stop - start)

    cdef int refuse(self, uint64_t size, list frames, bytes raw) except -1:
        self.drop_partial()
        self.failure = REFUSED
        self.refused = raw
        raise FrameTooLarge(f"a frame of at least {size} bytes is over the limit of {self.max_frame}", frames)

    cdef void drop_partial(self) noexcept:
        Py_XDECREF(self.partial)
        self.partial = NULL
        self.filled = 0

    # --- sending --------------------------------------------------------------------------------------------------

    cdef int check_payload(self, const uint8_t *data, Py_ssize_t size) except -1:
        """Raise FrameError if these bytes cannot be a frame."""
        if size > self.max_frame:
            raise FrameTooLarge(f"a payload of {size} bytes is over the limit of {self.max_frame}")
        return 0

    cdef void put_head(self, uint8_t *out, Py_ssize_t size) noexcept:
        """Write the `head_size` bytes that precede a payload of `size` bytes."""

    cdef void put_tail(self, uint8_t *out) noexcept:
        """Write the `tail_size` bytes that follow a payload."""

    cdef bytes pack_frames(self, object payloads):
        cdef Py_ssize_t overhead = self.head_size + self.tail_size
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
                # Mutable payloads are copied first, because they may change meanwhile.
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
            total += size + overhead
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
    """Frames preceded by their size in 1, 2, 4 or 8 bytes, big or little endian, without the size of the prefix."""

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
        """Drop the incomplete frame and the poisoned state, for a new stream."""
        Framer.reset(self)
        self.head_filled = 0
        self.need = -1

    def leftover(self):
        """Return the bytes that were fed and not returned as frames, unchanged, for another reader of the stream.

        Raises:
            FrameError: an exception other than FrameTooLarge has lost some of them.
        """
        return PyBytes_FromStringAndSize(<const char *>self.head, self.head_filled) + Framer.leftover(self)

    def frame(self, payload):
        """Return ``(prefix, payload)`` for writelines; the payload is not copied.

        Raises:
            FrameTooLarge: the payload is larger than `max_frame`.
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

    cdef list split(self, const uint8_t *p, Py_ssize_t n, object owner):
        cdef list frames = []
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t take
        cdef uint64_t size
        cdef int prefix = self.prefix
        while at < n:
            if self.need < 0:
                if self.head_filled == 0:
                    frames = self.take_complete(frames, p, n, &at, owner)
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
                    # Only the prefix was split between two reads.
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

    cdef list take_complete(self, list frames, const uint8_t *p, Py_ssize_t n, Py_ssize_t *at, object owner):
        """Return `frames` followed by the complete frames from offset ``at[0]`` on, which is advanced.

        They are counted first, because a list of the right size costs less than one that grows.
        """
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t offset = at[0]
        cdef Py_ssize_t filled = len(frames)
        cdef Py_ssize_t i
        cdef Py_ssize_t prefix = self.prefix
        cdef Py_ssize_t most = self.max_frame
        cdef uint64_t size
        cdef bint big_endian = self.big_endian
        cdef list complete
        while n - offset >= prefix:
            size = length_prefix(p + offset, prefix, big_endian)
            if size > <uint64_t>most or n - offset - prefix < <Py_ssize_t>size:
                break
            offset += prefix + <Py_ssize_t>size
            count += 1
        if count == 0:
            return frames
        complete = PyList_New(filled + count)
        for i in range(filled):
            Py_INCREF(frames[i])
            PyList_SET_ITEM(complete, i, frames[i])
        offset = at[0]
        for i in range(filled, filled + count):
            # The prefix is read and checked again, because another thread may have changed the buffer.
            if n - offset >= prefix:
                size = length_prefix(p + offset, prefix, big_endian)
            if n - offset < prefix or <uint64_t>(n - offset - prefix) < size:
                raise FrameError("the bytes changed while they were split into frames")
            offset += prefix
            frame = (
                PyBytes_FromStringAndSize(<const char *>p + offset, size) if owner is None
                else make_view(owner, p + offset, size)
            )
            Py_INCREF(frame)
            PyList_SET_ITEM(complete, i, frame)
            offset += <Py_ssize_t>size
        at[0] = offset
        return complete


@cython.final
cdef class DelimiterFramer(Framer):
    """Frames that end with a delimiter of 1 to 16 bytes, which is not part of the frame."""

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
            FrameTooLarge: the payload is larger than `max_frame`.
            FrameError: the receiver would end the frame early, because the delimiter occurs before its end.
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
        # The delimiter may be inside the payload, or consist of the payload's tail and the delimiter's first bytes.
        memcpy(boundary, data + size - tail, tail)
        memcpy(boundary + tail, self.delimiter_bytes, self.delimiter_size - 1)
        if self.find(data, size) >= 0 or self.find(boundary, tail + self.delimiter_size - 1) >= 0:
            raise FrameError(f"the payload contains the delimiter {self.delimiter!r}")
        return 0

    cdef void put_tail(self, uint8_t *out) noexcept:
        memcpy(out, self.delimiter_bytes, self.delimiter_size)

    cdef Py_ssize_t find(self, const uint8_t *p, Py_ssize_t n) noexcept nogil:
        return find_bytes(p, n, self.delimiter_bytes, self.delimiter_size)

    cdef list split(self, const uint8_t *p, Py_ssize_t n, object owner):
        cdef list frames = []
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t hit, tail, ahead, size
        cdef uint8_t boundary[30]
        if self.filled > 0 and n > 0:
            # A delimiter may span the last read and this one: only that boundary is searched, so that no byte is
            # searched twice.
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
        """Return the bytes of the partial frame and the n bytes that follow."""
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
        """Return ``(b"", payload)`` for writelines, a pair as with the other framers.

        Raises:
            FrameError: the payload does not have exactly `size` bytes.
        """
        self.check_payload(NULL, payload.nbytes if type(payload) is memoryview else len(payload))
        return EMPTY, payload

    cdef int check_payload(self, const uint8_t *data, Py_ssize_t size) except -1:
        if size != self.size:
            raise FrameError(f"a payload of {size} bytes is not a frame of size {self.size}")
        return 0

    cdef list split(self, const uint8_t *p, Py_ssize_t n, object owner):
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
