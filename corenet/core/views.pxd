"""C door of views and of the blocks that they look into.

A receiver asks `receive_block` for memory, receives at ``data + used`` and moves `used` on before any other code runs;
`make_view` then cuts views from what was received. `fixed_bytes` is a type test and two loads for those who send them.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
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

cdef inline Py_ssize_t fixed_bytes(object payload, const uint8_t **data) noexcept:
    """Where the bytes of an unchangeable payload are and how many; -1 for a payload of another kind."""
    if type(payload) is bytes:
        data[0] = <const uint8_t *>PyBytes_AS_STRING(payload)
        return PyBytes_GET_SIZE(payload)
    if type(payload) is FrameView:
        data[0] = (<FrameView>payload).data
        return (<FrameView>payload).size
    return -1
