"""Handle and TimerHandle with asyncio's interface, called by vectorcall inside their own context.

They are instances of asyncio's classes for ``isinstance``. Only SystemExit and KeyboardInterrupt leave `run`; other
exceptions go to the loop's exception handler.

Handles take part in cyclic garbage collection, with one exception for speed: a handle that is made while its loop runs
is untracked while it waits there. An untracked object only keeps alive what it refers to, and a running loop is alive,
so no garbage is missed. The loop tracks the handle again before it can outlive its wait: when its callback is about
to run and other references to the handle exist, when it is cancelled or reported, and at the end of the run.
"""

from _thread import allocate_lock

cimport cython
from cpython.object cimport Py_EQ, Py_GT, Py_LE, Py_LT, Py_NE, PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF
from libc.stdint cimport int64_t

from corenet.core.counters cimport KIND_HANDLE, KIND_TIMER, count_created, count_destroyed
from corenet.core.libc cimport (
    DEBUG_BUILD,
    PyContext_CopyCurrent,
    PyContext_Enter,
    PyContext_Exit,
    PyObject_Vectorcall,
    propagate,
    tuple_items,
)
from corenet.core.timers cimport TimerHeap


cdef object events():
    """Return the module of asyncio's handles, imported at the first call."""
    from asyncio import events as module

    return module


cdef object enter_copy(object context):
    """After PyContext_Enter has failed because `context` is already entered: enter a copy and return it.

    This happens in the child of a fork inside a callback of a descriptor: the child may run the loop in that callback.
    """
    cdef object copy
    try:
        propagate()
    except RuntimeError:
        copy = context.copy()
    if PyContext_Enter(copy) < 0:
        propagate()
    return copy


@cython.freelist(1024)
cdef class Handle:
    """A callback with its arguments and context, as returned by ``call_soon``.

    It is allocated from a freelist and may be used only by the thread of its loop.
    """

    def __init__(self, callback: object, args: tuple, loop: object, context: object = None) -> None:
        self.callback = callback
        self.args = args
        self.loop = loop
        self.context = PyContext_CopyCurrent() if context is None else context

    def __cinit__(self, *_args, **_kwargs) -> None:
        if DEBUG_BUILD:
            count_created(KIND_HANDLE)

    def __dealloc__(self) -> None:
        if DEBUG_BUILD:
            count_destroyed(KIND_HANDLE)

    cdef int run(self) except -1:
        """Call the callback unless cancelled, and keep it for the next call."""
        cdef PyObject *result
        cdef object callback, context
        cdef tuple args
        if self.is_cancelled or self.callback is None:
            return 0
        callback = self.callback
        args = self.args
        context = self.context
        if PyContext_Enter(context) < 0:
            if not self.keep:
                return self.report(callback, args)
            context = enter_copy(context)
        result = PyObject_Vectorcall(callback, tuple_items(args), len(args), NULL)
        if PyContext_Exit(context) < 0 and result != NULL:
            Py_DECREF(<object>result)
            result = NULL
        if result == NULL:
            return self.report(callback, args)
        Py_DECREF(<object>result)
        return 0

    cdef int run_once(self) except -1:
        """Call the callback unless cancelled, and release it."""
        try:
            return self.run()
        finally:
            self.release()

    cdef int report(self, object callback, tuple args) except -1:
        """Pass the current exception to the loop; SystemExit and KeyboardInterrupt are raised."""
        gc_track(<PyObject *>self)
        try:
            propagate()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.loop._callback_failed(self, None if callback is call_none else callback, args, error)
        return 0

    cdef void release(self) noexcept:
        self.callback = None
        self.args = None
        self.context = None

    @property
    def __class__(self) -> type:
        return events().Handle

    def cancel(self) -> None:
        """Cancel the callback and release callback, arguments and context; further calls do nothing."""
        self.is_cancelled = True
        self.release()

    def cancelled(self) -> bool:
        """Return whether `cancel` was called."""
        return self.is_cancelled

    def get_context(self) -> object:
        """Return the context in which the callback runs; None after it has run or was cancelled."""
        return self.context

    def _run(self) -> None:
        self.run()

    cdef list repr_details(self):
        """Return what `repr` adds for this class of handle."""
        return []

    @cython.boundscheck(True)
    def __repr__(self) -> str:
        parts = [self.__class__.__name__]
        if self.is_cancelled:
            parts.append("cancelled")
        parts += self.repr_details()
        if self.callback is not None:
            describe = getattr(self.loop, "_describe_callback", None)
            parts.append(repr(self.callback) if describe is None else describe(self.callback, self.args))
        if self.source_traceback:
            frame = self.source_traceback[len(self.source_traceback) - 1]
            parts.append(f"created at {frame[0]}:{frame[1]}")
        return f"<{' '.join(parts)}>"

    @property
    def _callback(self) -> object:
        return self.callback

    @property
    def _args(self) -> object:
        return self.args

    @property
    def _context(self) -> object:
        return self.context

    @property
    def _loop(self) -> object:
        return self.loop

    @property
    def _cancelled(self) -> bool:
        return self.is_cancelled

    @property
    def _source_traceback(self) -> object:
        return self.source_traceback

    @_source_traceback.setter
    def _source_traceback(self, value: object) -> None:
        self.source_traceback = value


@cython.final
cdef class ThreadSafeHandle(Handle):
    """The handle of ``call_soon_threadsafe`` from Python 3.14 on, as in asyncio.

    `cancel` and `cancelled` of other threads wait while the callback runs, so that it is not running when they return.
    """

    cdef int run(self) except -1:
        cdef unsigned long before = self.running_thread
        cdef object lock
        self.running_thread = PyThread_get_thread_ident()
        try:
            return Handle.run(self)
        finally:
            self.running_thread = before
            if before == 0 and self.done_lock is not None:
                lock, self.done_lock = self.done_lock, None
                lock.release()

    cdef int wait(self) except -1:
        """Return when no other thread runs the callback."""
        cdef object lock
        while self.running_thread != 0 and self.running_thread != PyThread_get_thread_ident():
            lock = self.done_lock
            if lock is None:
                lock = allocate_lock()
                lock.acquire()
                # Other threads may have run while the lock was made.
                if self.running_thread == 0 or self.done_lock is not None:
                    continue
                self.done_lock = lock
            lock.acquire()
            lock.release()
        return 0

    @property
    def __class__(self) -> type:
        return getattr(events(), "_ThreadSafeHandle", events().Handle)

    def cancel(self) -> None:
        """Cancel the callback, after waiting for its end if another thread runs it; further calls do nothing."""
        self.wait()
        Handle.cancel(self)

    def cancelled(self) -> bool:
        """Return whether `cancel` was called, after waiting for the callback's end if another thread runs it."""
        self.wait()
        return self.is_cancelled


@cython.final
cdef class TimerHandle(Handle):
    """A callback with a deadline, as returned by ``call_later`` and ``call_at``."""

    def __init__(
        self, when: float, callback: object, args: tuple, loop: object, context: object = None, heap: TimerHeap = None
    ) -> None:
        Handle.__init__(self, callback, args, loop, context)
        self.when_seconds = when
        self.heap = heap
        if heap is not None:
            heap.push(deadline_ns(when), self, &self.position)

    def __cinit__(self, *_args, **_kwargs) -> None:
        self.position = -1
        if DEBUG_BUILD:
            count_created(KIND_TIMER)

    def __dealloc__(self) -> None:
        if DEBUG_BUILD:
            count_destroyed(KIND_TIMER)

    @property
    def __class__(self) -> type:
        return events().TimerHandle

    def cancel(self) -> None:
        """Cancel the callback and remove it from the timers at once."""
        self.is_cancelled = True
        self.release()
        # The collector may have cleared the `heap` of a handle that is still in it.
        if self.position >= 0 and self.heap is not None:
            gc_track(<PyObject *>self)
            self.heap.remove(self.position)

    cdef list repr_details(self):
        return [f"when={self.when_seconds}"]

    def when(self) -> float:
        """Return the deadline in seconds of ``loop.time()``."""
        return self.when_seconds

    @property
    def _when(self) -> float:
        return self.when_seconds

    @property
    def _scheduled(self) -> bool:
        return self.position >= 0

    def __hash__(self) -> int:
        return hash(self.when_seconds)

    def __richcmp__(self, other: object, int operation) -> object:
        cdef TimerHandle them
        cdef bint same
        if type(other) is not TimerHandle:
            return NotImplemented
        them = <TimerHandle>other
        same = self is them or (
            self.when_seconds == them.when_seconds
            and self.callback == them.callback
            and self.args == them.args
            and self.is_cancelled == them.is_cancelled
        )
        if operation == Py_EQ:
            return same
        if operation == Py_NE:
            return not same
        if operation == Py_LT:
            return self.when_seconds < them.when_seconds
        if operation == Py_GT:
            return self.when_seconds > them.when_seconds
        if operation == Py_LE:
            return self.when_seconds < them.when_seconds or same
        return self.when_seconds > them.when_seconds or same


cdef int64_t deadline_ns(double when) noexcept:
    """Convert `when` to nanoseconds, rounded so that `seconds_of` of the result is at least `when`: never early."""
    cdef int64_t ns, whole
    cdef int64_t step = 1
    if when >= 9.0e9:
        # About 285 years; 64 bits of nanoseconds hold 292.
        return <int64_t>9000000000000000000
    if when <= -2.0e8:
        # Programs may set clocks with negative times; differences of two times must fit into 64 bits, too.
        return -<int64_t>200000000000000000
    if when != when:
        # NaN: due at once.
        return 0
    whole = <int64_t>when
    ns = whole * 1000000000 + <int64_t>((when - <double>whole) * 1e9)
    while seconds_of(ns) < when:
        ns += step
        step *= 2
    return ns


def call_none(*args: object) -> None:
    """The callback of a handle whose callback is None: a None in the field would mean that the handle was cancelled."""
    raise TypeError("'NoneType' object is not callable")


cdef inline int fill(Handle handle, object loop, object callback, tuple args, object context) except -1:
    """Set the fields as ``__init__`` does, but faster; `context` None means a copy of the current one."""
    handle.callback = call_none if callback is None else callback
    handle.args = args
    handle.loop = loop
    handle.context = PyContext_CopyCurrent() if context is None else context
    return 0


cdef Handle new_handle(object loop, object callback, tuple args, object context):
    """Return a new Handle; nothing is scheduled."""
    cdef Handle handle = Handle.__new__(Handle)
    fill(handle, loop, callback, args, context)
    return handle


cdef Handle new_threadsafe(object loop, object callback, tuple args, object context):
    """Return a new ThreadSafeHandle; nothing is scheduled."""
    cdef Handle handle = ThreadSafeHandle.__new__(ThreadSafeHandle)
    fill(handle, loop, callback, args, context)
    return handle


cdef TimerHandle new_timer(
    object loop, TimerHeap heap, int64_t when_ns, double when_seconds, object callback, tuple args, object context
):
    """Return a new TimerHandle, which is in `heap`."""
    cdef TimerHandle handle = TimerHandle.__new__(TimerHandle)
    fill(handle, loop, callback, args, context)
    handle.when_seconds = when_seconds
    handle.heap = heap
    heap.push(when_ns, handle, &handle.position)
    return handle
