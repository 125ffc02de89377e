"""Timers: a 4-ary heap of C entries ordered by deadline in nanoseconds, then by insertion.

Rule: a cancelled timer is removed from the heap at once, so its callback and arguments are freed, and a program that
sets a timeout for each request does not grow. Each owner has a field with its position, which the heap updates on
each move. Four children per node halve the depth and keep siblings within two or three cache lines.
"""

from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t

cdef enum:
    FIRST_CAPACITY = 64         # entries


cdef inline bint before(const TimerEntry *a, const TimerEntry *b) noexcept:
    return a.when < b.when or (a.when == b.when and a.order < b.order)


cdef inline void put_entry(TimerEntry *entries, Py_ssize_t index, const TimerEntry *entry) noexcept:
    entries[index] = entry[0]
    entry.position[0] = index


cdef void sift_up(TimerEntry *entries, Py_ssize_t index, TimerEntry *moving) noexcept:
    cdef Py_ssize_t parent
    while index > 0:
        parent = (index - 1) >> 2
        if not before(moving, &entries[parent]):
            break
        put_entry(entries, index, &entries[parent])
        index = parent
    put_entry(entries, index, moving)


cdef void sift_down(TimerEntry *entries, Py_ssize_t length, Py_ssize_t index, TimerEntry *moving) noexcept:
    cdef Py_ssize_t child, best, last
    while True:
        child = (index << 2) + 1
        if child >= length:
            break
        best = child
        last = min(child + 4, length)
        child += 1
        while child < last:
            if before(&entries[child], &entries[best]):
                best = child
            child += 1
        if not before(&entries[best], moving):
            break
        put_entry(entries, index, &entries[best])
        index = best
    put_entry(entries, index, moving)


cdef class TimerHeap:
    """The timers of one loop, ordered by deadline; equal deadlines in the order of insertion."""

    def __dealloc__(self) -> None:
        self.clear()
        PyMem_RawFree(self.entries)

    cdef int push(self, int64_t when, object owner, Py_ssize_t *position) except -1:
        """Add `owner`, holding a reference; `position[0]` is its index, updated on each move, and -1 after removal."""
        cdef TimerEntry moving
        cdef TimerEntry *grown
        cdef Py_ssize_t capacity
        if self.length == self.capacity:
            capacity = self.capacity * 2 if self.capacity else FIRST_CAPACITY
            grown = <TimerEntry *>PyMem_RawRealloc(self.entries, capacity * sizeof(TimerEntry))
            if grown == NULL:
                PyErr_NoMemory()
            self.entries = grown
            self.capacity = capacity
        moving.when = when
        moving.order = self.next_order
        moving.owner = <PyObject *>owner
        moving.position = position
        Py_INCREF(owner)
        self.next_order += 1
        self.length += 1
        sift_up(self.entries, self.length - 1, &moving)
        return 0

    cdef int remove(self, Py_ssize_t position) except -1:
        """Remove the entry at index `position`, the value of the field that its owner gave to `push`."""
        cdef PyObject *owner
        if position < 0 or position >= self.length:
            raise IndexError("timer position out of range")
        owner = self.entries[position].owner
        self.entries[position].position[0] = -1
        self.length -= 1
        self.fill(position)
        Py_DECREF(<object>owner)
        return 0

    cdef PyObject *pop(self) noexcept:
        """Remove the first entry and return its owner, with the heap's reference; the heap must not be empty."""
        cdef PyObject *owner = self.entries[0].owner
        self.entries[0].position[0] = -1
        self.length -= 1
        self.fill(0)
        return owner

    cdef void fill(self, Py_ssize_t hole) noexcept:
        """Move the last entry to the free index `hole`."""
        cdef TimerEntry moving
        if hole == self.length:
            return
        moving = self.entries[self.length]
        if hole > 0 and before(&moving, &self.entries[(hole - 1) >> 2]):
            sift_up(self.entries, hole, &moving)
        else:
            sift_down(self.entries, self.length, hole, &moving)

    cdef void clear(self) noexcept:
        """Remove all entries."""
        cdef PyObject *owner
        while self.length:
            self.length -= 1
            owner = self.entries[self.length].owner
            self.entries[self.length].position[0] = -1
            Py_DECREF(<object>owner)

    # --- for tests ------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return self.length

    def next_deadline(self) -> int | None:
        """Return the earliest deadline in nanoseconds, or None when there is none."""
        return self.entries[0].when if self.length else None

    def pop_due(self, int64_t now) -> list[object]:
        """Remove and return, in order, the owners whose deadline is not after `now` (nanoseconds)."""
        cdef PyObject *owner
        cdef list due = []
        while self.length and self.entries[0].when <= now:
            owner = self.pop()
            due.append(<object>owner)
            Py_DECREF(<object>owner)
        return due
