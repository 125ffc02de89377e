"""Stream readers with exactly the semantics of asyncio.StreamReader.

`ReceiveBuffer` holds the received bytes. A read is not a coroutine but a small awaitable object, because it either has
its result at once or waits for one future, and a coroutine for each read costs more than the read.
"""

import asyncio

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint8_t


from corenet.limits import STREAM_LIMIT

cdef extern from *:
    """
    /* Sets the slots that the interpreter calls for each step of an await. Cython's functions for __next__ and send
       could return a result only by raising StopIteration, with a traceback that nothing uses. */
    static void corenet_set_steps(PyObject *type, int (*send)(PyObject *, PyObject *, PyObject **), iternextfunc next) {
        ((PyTypeObject *)type)->tp_as_async->am_send = (sendfunc)send;
        ((PyTypeObject *)type)->tp_iternext = next;
    }
    """
    ctypedef int (*stepfunc "sendfunc")(object, object, PyObject **) except -1
    ctypedef PyObject *(*iternextfunc)(object) except? NULL
    void set_steps "corenet_set_steps"(object type, stepfunc send, iternextfunc next)

cdef extern from "Python.h":
    const int PYGEN_RETURN, PYGEN_NEXT
    PyObject *PyExc_StopIteration
    void PyErr_SetObject(PyObject *kind, object value)

__all__ = ["ReaderCore", "ReadAwaitable"]

cdef Py_ssize_t DEFAULT_LIMIT = STREAM_LIMIT
cdef bytes EMPTY = b""
cdef bytes NEWLINE = b"\n"

cdef enum:
    READ = 0
    EXACTLY = 1
    UNTIL = 2
    LINE = 3
    ALL = 4

cdef enum:
    FRESH = 0
    WAITING = 1
    FINISHED = 2


class UnreadView(bytearray):
    """The value of `ReaderCore._buffer`."""

    reader: object

    def clear(self) -> None:
        """Drop the content, here and in the reader."""
        bytearray.clear(self)
        self.reader._drop_unread()


cdef class ReaderCore(ReceiveBuffer):
    """Base of `corenet.StreamReader`: replaces all of asyncio's methods that use the buffer."""

    def __init__(self, limit: int = DEFAULT_LIMIT, loop: object = None) -> None:
        if limit <= 0:
            raise ValueError("Limit cannot be <= 0")
        self._limit = limit
        self._loop = asyncio.get_event_loop() if loop is None else loop
        self._source_traceback = None
        if self._loop.get_debug():
            self._source_traceback = asyncio.format_helpers.extract_stack()

    @property
    def _buffer(self) -> bytearray:
        """A copy of the unread bytes, for code that uses asyncio's attribute of this name.

        Clearing it also clears the reader: that is how `start_tls` of asyncio's loop takes unread bytes for the
        handshake.
        """
        unread = UnreadView((<const char *>self.first())[:self.size()])
        unread.reader = self
        return unread

    def _take_unread(self) -> bytes:
        """Remove and return the unread bytes, for `start_tls`, which resumes the transport itself."""
        self._paused = False
        return self.take(self.size())

    def _drop_unread(self) -> None:
        self.drop(self.size())
        self.maybe_resume()

    @property
    def _waiter(self) -> object:
        return self.waiter

    @_waiter.setter
    def _waiter(self, waiter: object) -> None:
        self.waiter = waiter

    # --- the source -----------------------------------------------------------------------------------------------

    cdef int feed(self, const uint8_t *data, Py_ssize_t length, bytes owner) except -1:
        """Append bytes and wake the waiter; `owner` is the bytes object that consists of exactly these bytes, or
        None."""
        if length == 0:
            return 0
        self.append(data, length, owner)
        if self.waiter is not None:
            self.wake(None)
        if self.size() > 2 * self._limit and not self._paused and self._transport is not None:
            try:
                self._transport.pause_reading()
            except NotImplementedError:
                # It cannot be paused: everything must be kept; do not try again.
                self._transport = None
            else:
                self._paused = True
        return 0

    def set_transport(self, transport: object) -> None:
        """Set the transport, which is paused while more than twice the limit is unread."""
        assert self._transport is None, "Transport already set"
        self._transport = transport

    def feed_data(self, data: object) -> None:
        """Append bytes and wake the waiter."""
        cdef Py_buffer view
        if type(data) is bytes:
            assert not self._eof, "feed_data after feed_eof"
            self.feed(<const uint8_t *>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), data)
            return
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            assert not self._eof, "feed_data after feed_eof"
            self.feed(<const uint8_t *>view.buf, view.len, None)
        finally:
            PyBuffer_Release(&view)

    def feed_eof(self) -> None:
        """End the stream and wake the waiter."""
        self._eof = True
        self.wake(None)

    def at_eof(self) -> bool:
        """Return whether everything was read and the stream has ended."""
        return self._eof and self.size() == 0

    def exception(self) -> BaseException | None:
        """Return the exception that ended the stream, or None."""
        return self._exception

    def set_exception(self, error: BaseException) -> None:
        """End the stream with an exception, which the waiter gets."""
        self._exception = error
        self.wake(error)

    def _wakeup_waiter(self) -> None:
        self.wake(None)

    def _maybe_resume_transport(self) -> None:
        self.maybe_resume()

    cdef int wake(self, object error) except -1:
        cdef object waiter = self.waiter
        if waiter is None:
            return 0
        self.waiter = None
        if not waiter.cancelled():
            if error is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(error)
        return 0

    cdef int maybe_resume(self) except -1:
        if self._paused and self.size() <= self._limit:
            self._paused = False
            self._transport.resume_reading()
        return 0

    cdef object wait(self, str name):
        """Return a future that is set at more bytes or the end; resume reading if it was paused."""
        if self.waiter is not None:
            raise RuntimeError(f"{name}() called while another coroutine is already waiting for incoming data")
        if self._exception is not None:
            # The error came with or right after the bytes that woke the read that now waits again.
            raise self._exception
        assert not self._eof, "waiting for data after EOF"
        if self._paused:
            # Otherwise a read of more than the limit would wait for ever.
            self._paused = False
            self._transport.resume_reading()
        self.waiter = self._loop.create_future()
        return self.waiter

    # --- reading --------------------------------------------------------------------------------------------------

    def read(self, n: int = -1) -> ReadAwaitable:
        """Read up to `n` bytes, waiting for at least one; if `n` is negative, everything until the end.

        At the end of the stream the result is empty.
        """
        return begin(self, READ if n >= 0 else ALL, n, None)

    def readexactly(self, n: int) -> ReadAwaitable:
        """Read `n` bytes.

        Raises:
            asyncio.IncompleteReadError: the stream ends before; `partial` holds the bytes until then.
            ValueError: `n` is negative.
        """
        return begin(self, EXACTLY, n, None)

    def readuntil(self, separator: object = b"\n") -> ReadAwaitable:
        """Read through the first `separator`; of a tuple of separators, through the one that ends first.

        Raises:
            asyncio.IncompleteReadError: the stream ends before; `partial` holds the bytes until then.
            asyncio.LimitOverrunError: more than the limit comes before it; nothing is removed.
        """
        return begin(self, UNTIL, 0, separator)

    def readline(self) -> ReadAwaitable:
        """Read through the next newline, or to the end of the stream.

        Raises:
            ValueError: the line is over the limit; what was received of it is removed.
        """
        return begin(self, LINE, 0, NEWLINE)


cdef ReadAwaitable begin(ReaderCore reader, int kind, Py_ssize_t wanted, object separator):
    cdef ReadAwaitable reading = ReadAwaitable.__new__(ReadAwaitable)
    reading.reader = reader
    reading.kind = kind
    reading.wanted = wanted
    reading.separator = separator
    return reading


@cython.final
@cython.freelist(64)
cdef class ReadAwaitable:
    """One read, to be awaited once; it has the methods of a coroutine, so a task can run it."""

    cdef ReaderCore reader
    cdef object separator       # bytes, or a list of several, shortest first
    cdef object waiter
    cdef list blocks
    cdef Py_ssize_t wanted
    cdef Py_ssize_t searched    # no separator begins before this offset
    cdef int kind
    cdef int state

    def __init__(self) -> None:
        raise TypeError("a ReadAwaitable is made by the methods of a StreamReader")

    @property
    def __name__(self) -> str:
        return ("read", "readexactly", "readuntil", "readline", "read")[self.kind]

    @property
    def __qualname__(self) -> str:
        return f"StreamReader.{self.__name__}"

    def __repr__(self) -> str:
        return f"<{self.__qualname__}() {('new', 'waiting', 'finished')[self.state]}>"

    def __await__(self) -> ReadAwaitable:
        return self

    def __iter__(self) -> ReadAwaitable:
        return self

    def __next__(self) -> object:
        return self.send(None)

    def send(self, value: object) -> object:
        """Continue, as a coroutine does: return the future to wait for, or raise StopIteration with the result."""
        cdef object result = self.step()
        if self.state == FINISHED:
            raise StopIteration(result)
        return result

    def throw(self, kind: object, value: object = None, traceback: object = None) -> object:
        """End the read with an exception, as a coroutine does."""
        self.finish()
        if isinstance(kind, BaseException):
            raise kind
        if value is None:
            value = kind()
        elif not isinstance(value, BaseException):
            value = kind(value)
        raise value.with_traceback(traceback)

    def close(self) -> None:
        """End the read, as a coroutine does."""
        self.finish()

    cdef int finish(self) except -1:
        self.state = FINISHED
        if self.waiter is not None:
            if self.reader.waiter is self.waiter:
                self.reader.waiter = None
            self.waiter = None
        return 0

    cdef object step(self):
        """Return the future to wait for or, when the state is FINISHED, the result."""
        cdef object result
        if self.state == FINISHED:
            raise RuntimeError(f"cannot reuse already awaited {self.__qualname__}()")
        if self.reader is None:
            raise RuntimeError("a ReadAwaitable is made by the methods of a StreamReader")
        if self.waiter is not None:
            if self.reader.waiter is self.waiter:
                self.reader.waiter = None
            self.waiter = None
        try:
            result = self.attempt()
            if result is None:
                self.state = WAITING
                self.waiter = self.reader.wait("readuntil" if self.kind == LINE else self.__name__)
                self.waiter._asyncio_future_blocking = True
                return self.waiter
        except BaseException:
            self.state = FINISHED
            raise
        self.state = FINISHED
        return result

    cdef bytes attempt(self):
        """Return the result if it is available, else None."""
        cdef ReaderCore reader = self.reader
        cdef bytes taken
        if self.state == FRESH:
            if self.kind == EXACTLY and self.wanted < 0:
                raise ValueError("readexactly size can not be less than zero")
            if self.kind == UNTIL:
                self.check_separator()
            if reader._exception is not None:
                raise reader._exception
            if self.wanted == 0 and (self.kind == READ or self.kind == EXACTLY):
                return EMPTY
        if self.kind == READ:
            if reader.size() == 0 and not reader._eof:
                return None
            taken = reader.take(self.wanted)
        elif self.kind == EXACTLY:
            if reader.size() < self.wanted:
                if reader._eof:
                    raise asyncio.IncompleteReadError(reader.take(reader.size()), self.wanted)
                return None
            taken = reader.take(self.wanted)
        elif self.kind == ALL:
            return self.attempt_all()
        elif self.kind == UNTIL:
            return self.attempt_until()
        else:
            return self.attempt_line()
        if reader._paused:
            reader.maybe_resume()
        return taken

    cdef bytes attempt_all(self):
        cdef ReaderCore reader = self.reader
        if self.blocks is None:
            self.blocks = []
        if reader.size():
            self.blocks.append(reader.take(reader.size()))
            reader.maybe_resume()
        if reader._eof:
            return EMPTY.join(self.blocks)
        if reader._exception is not None:
            raise reader._exception
        return None

    cdef bytes attempt_line(self):
        cdef ReaderCore reader = self.reader
        try:
            return self.attempt_until()
        except asyncio.IncompleteReadError as error:
            return error.partial
        except asyncio.LimitOverrunError as error:
            if error.consumed < reader.size() and reader.first()[error.consumed] == NEWLINE[0]:
                reader.drop(error.consumed + 1)
            else:
                reader.drop(reader.size())
            reader.maybe_resume()
            raise ValueError(error.args[0])

    cdef int check_separator(self) except -1:
        cdef object separators = self.separator
        if isinstance(separators, tuple):
            separators = sorted(separators, key=len)
            if not separators:
                raise ValueError("Separator should contain at least one element")
        else:
            separators = [separators]
        if len(separators[0]) == 0:
            raise ValueError("Separator should be at least one-byte string")
        separators = [bytes(memoryview(separator)) for separator in separators]
        self.separator = separators[0] if len(separators) == 1 else separators
        return 0

    cdef bytes attempt_until(self):
        cdef ReaderCore reader = self.reader
        cdef Py_ssize_t unread = reader.size()
        cdef Py_ssize_t found = -1
        cdef Py_ssize_t end = -1
        cdef Py_ssize_t least, most, at
        cdef bytes separator
        cdef bytes taken
        if type(self.separator) is bytes:
            least = most = PyBytes_GET_SIZE(self.separator)
        else:
            least = PyBytes_GET_SIZE(self.separator[0])
            most = PyBytes_GET_SIZE(self.separator[len(self.separator) - 1])
        if unread - self.searched >= least:
            if type(self.separator) is bytes:
                found = reader.index_of(self.separator, self.searched)
                end = found + least
            else:
                for separator in self.separator:
                    at = reader.index_of(separator, self.searched)
                    if at >= 0 and (found < 0 or at + PyBytes_GET_SIZE(separator) < end):
                        found = at
                        end = at + PyBytes_GET_SIZE(separator)
            if found < 0:
                # The last bytes may be the beginning of a separator.
                self.searched = max(0, unread + 1 - most)
                if self.searched > reader._limit:
                    raise asyncio.LimitOverrunError(
                        "Separator is not found, and chunk exceed the limit", self.searched
                    )
        if found < 0:
            if reader._eof:
                raise asyncio.IncompleteReadError(reader.take(unread), None)
            return None
        if found > reader._limit:
            raise asyncio.LimitOverrunError("Separator is found, but chunk is longer than limit", found)
        taken = reader.take(end)
        if reader._paused:
            reader.maybe_resume()
        return taken


cdef int reading_send(object reading, object value, PyObject **result) except -1:
    cdef object got = (<ReadAwaitable>reading).step()
    Py_INCREF(got)
    result[0] = <PyObject *>got
    return PYGEN_RETURN if (<ReadAwaitable>reading).state == FINISHED else PYGEN_NEXT


cdef PyObject *reading_next(object reading) except? NULL:
    cdef object got = (<ReadAwaitable>reading).step()
    if (<ReadAwaitable>reading).state == FINISHED:
        PyErr_SetObject(PyExc_StopIteration, got)
        return NULL
    Py_INCREF(got)
    return <PyObject *>got


set_steps(ReadAwaitable, reading_send, reading_next)
