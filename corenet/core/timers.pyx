"""Timers: a 4-ary heap of C entries ordered by nanosecond deadline, then by the order of arrival.

Rule: a cancelled timer leaves the heap at once, so its callback and arguments are not kept alive and a program that
sets a timeout for every request does not grow. Each owner holds its own position, which the heap updates on every
move; four children to a node halve the depth and keep siblings within two cache lines.
"""

from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_RawFree, PyMem_RawRealloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport int64_t


cdef inline bint before(const TimerEntry *a, const TimerEntry *b) noexcept:
    return a.when < b.when or (a.when == b.when and a.order < b.order)


cdef inline void place(TimerEntry *entries, Py_ssize_t index, const TimerEntry *entry) noexcept:
    entries[index] = entry[0]
    entry.position[0] = index


cdef void sift_up(TimerEntry *entries, Py_ssize_t index, TimerEntry *moving) noexcept:
    cdef Py_ssize_t parent
    while index > 0:
        parent = (index - 1) >> 2
        if not before(moving, &entries[parent]):
            break
        place(entries, index, &entries[parent])
        index = parent
    place(entries, index, moving)


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
        place(entries, index, &entries[best])
        index = best
    place(entries, index, moving)


cdef class TimerHeap:
    """Deadlines of one loop, the earliest first and equal ones in the order they were set."""

    def __dealloc__(self) -> None:
        self.clear()
        PyMem_RawFree(self.entries)

    cdef int push(self, int64_t when, object owner, Py_ssize_t *position) except -1:
        """Add `owner`, keeping a reference to it; `position` is written on every move and -1 once it is out."""
        cdef TimerEntry moving
        cdef TimerEntry *grown
        cdef Py_ssize_t capacity
        if self.length == self.capacity:
            capacity = self.capacity * 2 if self.capacity else 64
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
        """Take out the entry at `position`, which its owner read from the place it gave to `push`."""
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
        """Take out the first entry and return its owner with its reference; the heap must not be empty."""
        cdef PyObject *owner = self.entries[0].owner
        self.entries[0].position[0] = -1
        self.length -= 1
        self.fill(0)
        return owner

    cdef void fill(self, Py_ssize_t hole) noexcept:
        """Close the hole at `hole` with the last entry."""
        cdef TimerEntry moving
        if hole == self.length:
            return
        moving = self.entries[self.length]
        if hole > 0 and before(&moving, &self.entries[(hole - 1) >> 2]):
            sift_up(self.entries, hole, &moving)
        else:
            sift_down(self.entries, self.length, hole, &moving)

    cdef void clear(self) noexcept:
        """Drop all entries."""
        cdef PyObject *owner
        while self.length:
            self.length -= 1
            owner = self.entries[self.length].owner
            self.entries[self.length].position[0] = -1
            Py_DECREF(<object>owner)

    # For tests, which see the heap through them.

    def __len__(self) -> int:
        return self.length

    def next_deadline(self) -> int | None:
        """Return the earliest deadline in nanoseconds, or None when there is none."""
        return self.entries[0].when if self.length else None

    def pop_due(self, int64_t now) -> list[object]:
        """Take out and return, in order, the owners whose deadline (nanoseconds) is not after `now`."""
        cdef PyObject *owner
        cdef list due = []
        while self.length and self.entries[0].when <= now:
            owner = self.pop()
            due.append(<object>owner)
            Py_DECREF(<object>owner)
        return due
