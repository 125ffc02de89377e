"""C door of views and of the blocks that they look into.

A receiver asks `receive_block` for memory, receives at ``data + used`` and moves `used` on before any other code runs;
`make_view` then cuts views from what was received. `view_bytes` is a type test and two loads for those who send them.
"""

from libc.stdint cimport uint8_t


cdef class Block:
    cdef uint8_t *data
    cdef Py_ssize_t size
    cdef Py_ssize_t used


cdef class FrameView:
    cdef object owner           # Block or bytes: never part of a cycle
    cdef const uint8_t *data
    cdef Py_ssize_t size


cdef Block receive_block()
cdef FrameView make_view(object owner, const uint8_t *data, Py_ssize_t size)
