"""A pool of bytes objects for received data, refilled when the pool holds their only reference.

An answered request is usually no longer referenced, and a bytes object that only the pool refers to can be changed
invisibly. The allocator takes a fifth of the user-space time of an echo of 1 KiB; from 64 KiB on it returns pages
that fault, at some microseconds each. Several objects are kept, because a task that reads in a loop holds the last one
while it waits for more. At most a quarter of the memory of an object in use is unused.

With CORENET_REUSE_BYTES=0 in the environment no object is reused (docs/adr/0009).
"""

import os

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_NoMemory
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from corenet.core.libc cimport sole_owner

from corenet.limits import (
    RECEIVE_POOL_BYTES,
    RECEIVE_POOL_MIN_SIZE,
    RECEIVE_POOL_OBJECTS,
    RECEIVE_POOL_PROBES,
    RECEIVE_POOL_SLACK_SHIFT,
    RECEIVE_POOL_WASTE_SHIFT,
    RECEIVE_SIZE,
)

cdef extern from "Python.h":
    """
    static inline void corenet_bytes_reset(PyObject *object, Py_ssize_t length) {
        PyBytesObject *bytes = (PyBytesObject *)object;
        _Py_COMP_DIAG_PUSH
        _Py_COMP_DIAG_IGNORE_DEPR_DECLS
        bytes->ob_shash = -1;
        _Py_COMP_DIAG_POP
        Py_SET_SIZE(bytes, length);
        bytes->ob_sval[length] = 0;
    }
    """
    # Sets the length of a bytes object for which `sole_owner` is true and whose memory fits `length`. The caller sets
    # its contents before other code can see it.
    void bytes_reset "corenet_bytes_reset"(PyObject *object, Py_ssize_t length) noexcept

cdef Py_ssize_t MIN_SIZE = RECEIVE_POOL_MIN_SIZE
cdef Py_ssize_t MAX_SIZE = 0 if os.environ.get("CORENET_REUSE_BYTES") == "0" else RECEIVE_SIZE
cdef Py_ssize_t MAX_MEMORY = RECEIVE_POOL_BYTES
cdef int COUNT = RECEIVE_POOL_OBJECTS
cdef int PROBES = RECEIVE_POOL_PROBES
cdef int WASTE_SHIFT = RECEIVE_POOL_WASTE_SHIFT
cdef int SLACK_SHIFT = RECEIVE_POOL_SLACK_SHIFT


cdef inline bint is_reusable(const PooledBytes *spare, Py_ssize_t length) noexcept:
    return (
        length <= spare.capacity
        and length > spare.capacity - (spare.capacity >> WASTE_SHIFT)
        and sole_owner(spare.owner)
    )


cdef inline int after(int slot) noexcept:
    return 0 if slot + 1 == COUNT else slot + 1


@cython.final
@cython.no_gc
cdef class ReceivePool:
    """The pooled objects of one loop, in a ring ordered by last use."""

    def __cinit__(self) -> None:
        self.kept = <PooledBytes *>PyMem_RawCalloc(COUNT, sizeof(PooledBytes))
        if self.kept == NULL:
            PyErr_NoMemory()
        self.latest = COUNT - 1

    def __dealloc__(self) -> None:
        if self.kept != NULL:
            self.clear()
            PyMem_RawFree(self.kept)

    cdef PooledBytes *find(self, Py_ssize_t length) noexcept:
        cdef int _i
        cdef int slot = self.oldest
        cdef PooledBytes found
        if is_reusable(self.kept + self.latest, length):
            return self.kept + self.latest
        for _i in range(min(PROBES, self.count)):
            # The object that was handed out longest ago is the likeliest to be unreferenced.
            if is_reusable(self.kept + slot, length):
                found = self.kept[slot]
                self.kept[slot] = self.kept[self.oldest]
                self.kept[self.oldest].owner = NULL
                self.kept[self.oldest].capacity = 0
                self.oldest = after(self.oldest)
                self.latest = after(self.latest)
                self.kept[self.latest] = found
                return self.kept + self.latest
            slot = after(slot)
        return NULL

    cdef bytes make_bytes(self, const uint8_t *data, Py_ssize_t length):
        cdef bytes made
        cdef Py_ssize_t capacity
        cdef PooledBytes *spare = self.find(length)
        if spare != NULL:
            bytes_reset(spare.owner, length)
            made = <bytes>spare.owner
            memcpy(PyBytes_AS_STRING(made), data, length)
            return made
        if not MIN_SIZE <= length <= MAX_SIZE:
            return PyBytes_FromStringAndSize(<const char *>data, length)
        # Slack: receiving as much again then is a short read, which shows that the socket is empty.
        capacity = length + (length >> SLACK_SHIFT) + 1
        made = PyBytes_FromStringAndSize(NULL, capacity)
        bytes_reset(<PyObject *>made, length)
        memcpy(PyBytes_AS_STRING(made), data, length)
        self.keep(made, capacity)
        return made

    cdef bytes finish_receive(self, PooledBytes *spare, Py_ssize_t got):
        if is_reusable(spare, got):
            bytes_reset(spare.owner, got)
            return <bytes>spare.owner
        return self.make_bytes(<const uint8_t *>PyBytes_AS_STRING(<bytes>spare.owner), got)

    cdef int keep(self, bytes made, Py_ssize_t capacity) except -1:
        """Add `made` to the pool; the least recently used objects are dropped to keep its limits."""
        while self.count and (self.count == COUNT or self.memory + capacity > MAX_MEMORY):
            self.drop_oldest()
        self.latest = after(self.latest)
        Py_INCREF(made)
        self.kept[self.latest].owner = <PyObject *>made
        self.kept[self.latest].capacity = capacity
        self.count += 1
        self.memory += capacity
        return 0

    cdef void drop_oldest(self) noexcept:
        cdef PooledBytes *spare = self.kept + self.oldest
        self.oldest = after(self.oldest)
        self.count -= 1
        self.memory -= spare.capacity
        Py_XDECREF(spare.owner)
        spare.owner = NULL
        spare.capacity = 0

    cdef void clear(self) noexcept:
        """Drop all objects."""
        while self.count:
            self.drop_oldest()
