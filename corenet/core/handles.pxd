"""C interface of the handles, which the ready ring, the timer heap and the descriptor watchers hold.

`run_once` is for handles that are called once: it releases callback and arguments afterwards. `run` is for handles of
descriptors and signals, which are called repeatedly.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t

from corenet.core.gc_hooks cimport PyObject_GC_IsTracked, PyObject_GC_Track, PyObject_GC_UnTrack
from corenet.core.timers cimport TimerHeap

cdef object enter_copy(object context)

cdef inline void gc_untrack(Handle handle) noexcept:
    """Hide a new handle from the garbage collector while it waits in a running loop, which calls `gc_track` later."""
    PyObject_GC_UnTrack(<PyObject *>handle)

cdef inline void gc_track(PyObject *handle) noexcept:
    """Undo `gc_untrack`; does nothing for a tracked handle."""
    if not PyObject_GC_IsTracked(handle):
        PyObject_GC_Track(handle)

cdef class Handle:
    cdef object callback
    cdef tuple args
    cdef object context
    cdef object loop
    cdef object source_traceback
    cdef object __weakref__
    cdef bint is_cancelled
    cdef bint keep

    cdef int run(self) except -1
    cdef int run_once(self) except -1
    cdef int report(self, object callback, tuple args) except -1
    cdef list repr_details(self)
    cdef void release(self) noexcept

cdef class ThreadSafeHandle(Handle):
    cdef unsigned long running_thread       # the thread that runs the callback, 0 when none does
    cdef object done_lock                # locked until the callback has returned; None when no thread waits

    cdef int wait(self) except -1

cdef class TimerHandle(Handle):
    cdef Py_ssize_t position
    cdef double when_seconds
    cdef TimerHeap heap

cdef inline double seconds_of(int64_t ns) noexcept nogil:
    """Convert nanoseconds to the seconds of ``loop.time()``; rounded only once, also after a long uptime."""
    return <double>(ns // 1000000000) + <double>(ns % 1000000000) / 1e9

cdef int64_t deadline_ns(double when) noexcept
cdef Handle new_handle(object loop, object callback, tuple args, object context)
cdef Handle new_threadsafe(object loop, object callback, tuple args, object context)
cdef TimerHandle new_timer(object loop, TimerHeap heap, int64_t when_ns, double when_seconds, object callback, tuple args, object context)
