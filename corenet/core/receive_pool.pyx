"""Received bytes objects, filled anew when nobody has kept them.

A request that was answered is garbage by then, and a bytes object is immutable only for those who can see it. The
allocator is a fifth of the user-space cost of an echo of 1 KiB; from 64 KiB on it hands out pages that fault, at some
microseconds each. Several are kept because a task that reads in a loop holds what came last while it waits for more.
At most a quarter of the memory of one in use lies idle.

With CORENET_REUSE_BYTES=0 in the environment no object is used again (docs/adr/0009).
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
    RECEIVE_POOL_OBJECTS,
    RECEIVE_POOL_WASTE_SHIFT,
    RECEIVE_POOL_MAX_SIZE,
    RECEIVE_POOL_BYTES,
    RECEIVE_POOL_PROBES,
    RECEIVE_POOL_SLACK_SHIFT,
    RECEIVE_POOL_MIN_SIZE,
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
    # Another length for a bytes object of which `sole_owner` holds and whose memory has room for it; it gets other
    # contents before anybody sees it.
    void bytes_reset "corenet_bytes_reset"(PyObject *object, Py_ssize_t length) noexcept

cdef Py_ssize_t LEAST = RECEIVE_POOL_MIN_SIZE
cdef Py_ssize_t MOST = 0 if os.environ.get("CORENET_REUSE_BYTES") == "0" else RECEIVE_POOL_MAX_SIZE
cdef Py_ssize_t MEMORY = RECEIVE_POOL_BYTES
cdef int COUNT = RECEIVE_POOL_OBJECTS
cdef int PROBES = RECEIVE_POOL_PROBES
cdef int IDLE = RECEIVE_POOL_WASTE_SHIFT
cdef int ROOM = RECEIVE_POOL_SLACK_SHIFT


cdef inline bint is_reusable(const PooledBytes *spare, Py_ssize_t length) noexcept:
    return length <= spare.room and length > spare.room - (spare.room >> IDLE) and sole_owner(spare.owner)


cdef inline int after(int place) noexcept:
    return 0 if place + 1 == COUNT else place + 1


@cython.final
@cython.no_gc
cdef class ReceivePool:
    """The objects that one loop keeps: a ring in the order of their last use."""

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
        cdef int place = self.oldest
        cdef PooledBytes found
        if is_reusable(self.kept + self.latest, length):
            return self.kept + self.latest
        for _i in range(min(PROBES, self.count)):
            # Whoever got his longest ago is the likeliest to have let go of it.
            if is_reusable(self.kept + place, length):
                found = self.kept[place]
                self.kept[place] = self.kept[self.oldest]
                self.kept[self.oldest].owner = NULL
                self.kept[self.oldest].room = 0
                self.oldest = after(self.oldest)
                self.latest = after(self.latest)
                self.kept[self.latest] = found
                return self.kept + self.latest
            place = after(place)
        return NULL

    cdef bytes make_bytes(self, const uint8_t *data, Py_ssize_t length):
        cdef bytes made
        cdef Py_ssize_t room
        cdef PooledBytes *spare = self.find(length)
        if spare != NULL:
            bytes_reset(spare.owner, length)
            made = <bytes>spare.owner
            memcpy(PyBytes_AS_STRING(made), data, length)
            return made
        if not LEAST <= length <= MOST:
            return PyBytes_FromStringAndSize(<const char *>data, length)
        # More than now: a receive of as much again is a short one, which tells that there is no more.
        room = length + (length >> ROOM) + 1
        made = PyBytes_FromStringAndSize(NULL, room)
        bytes_reset(<PyObject *>made, length)
        memcpy(PyBytes_AS_STRING(made), data, length)
        self.keep(made, room)
        return made

    cdef bytes finish_receive(self, PooledBytes *spare, Py_ssize_t got):
        if is_reusable(spare, got):
            bytes_reset(spare.owner, got)
            return <bytes>spare.owner
        return self.make_bytes(<const uint8_t *>PyBytes_AS_STRING(<bytes>spare.owner), got)

    cdef int keep(self, bytes made, Py_ssize_t room) except -1:
        """Take `made` in, in the place of the one used longest ago, and of more when it needs their memory."""
        while self.count and (self.count == COUNT or self.memory + room > MEMORY):
            self.drop_oldest()
        self.latest = after(self.latest)
        Py_INCREF(made)
        self.kept[self.latest].owner = <PyObject *>made
        self.kept[self.latest].room = room
        self.count += 1
        self.memory += room
        return 0

    cdef void drop_oldest(self) noexcept:
        cdef PooledBytes *spare = self.kept + self.oldest
        self.oldest = after(self.oldest)
        self.count -= 1
        self.memory -= spare.room
        Py_XDECREF(spare.owner)
        spare.owner = NULL
        spare.room = 0

    cdef void clear(self) noexcept:
        """Let go of all."""
        while self.count:
            self.drop_oldest()
